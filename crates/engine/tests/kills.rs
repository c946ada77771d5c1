//! `kill -9` at random moments of backup, push and restore: what is listed is whole, what is there is right, and the next run
//! works as if nothing had been.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;
mod delta_support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Dice, LIMIT, Site, all_digests, said};
use delta_support::{Outside, assert_same, mutate};
use pgkeep_engine::list::list;
use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_format::{WalFileName, WalSegmentSize};
use pgkeep_repo::PackCheck;
use pgkeep_testkit::{Cluster, wait_until};

/// Kills of each test; together more than a hundred.
const BACKUP_KILLS: usize = 45;
const PUSH_KILLS: usize = 40;
const RESTORE_KILLS: usize = 25;
const DELTA_KILLS: usize = 32;
/// A machine that is quicker than the dice think must not make a test endless.
const MAX_RUNS: usize = 400;

/// How a run that was to be killed ended.
#[derive(PartialEq)]
enum Ended {
    Killed,
    /// It was quicker than the kill.
    Done,
}

/// Runs the program and kills it after `delay`.
fn run_and_kill(site: &Site, arguments: &[&str], delay: Duration) -> Ended {
    let mut child = site.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
            return Ended::Done;
        }
        match delay.checked_sub(begun.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(5))),
            _ => break,
        }
    }
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    // It may have ended between the last look and the kill.
    if output.status.success() { Ended::Done } else { Ended::Killed }
}

/// How long an undisturbed run takes.
fn time_of(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// A moment of a run that takes `whole`, now and then one after its end.
fn moment(dice: &mut Dice, whole: Duration) -> Duration {
    Duration::from_micros(dice.below(whole.as_micros() as u64 * 21 / 20))
}

fn size() -> WalSegmentSize {
    WalSegmentSize::try_from(1 << 20).unwrap()
}

fn cluster(site: &Site, major: u32) -> Cluster {
    let cluster = site.archiving(Cluster::builder(major).wal_segment_mib(1).conf("wal_keep_size", "1GB"));
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i");
    site.archive_all(&cluster);
    cluster
}

/// Reads every byte that the listed backups need; those in `proved` are known to be good.
fn prove_listed(site: &Site, proved: &mut BTreeSet<String>) {
    let stanza = site.location().open_stanza().unwrap();
    // A backup that streams its WAL may be ahead of the archiver, which catches up: a hole that stays is a lost segment.
    let mut listed = list(&site.location()).unwrap();
    wait_until("the archiver to close every hole", LIMIT, || {
        listed = list(&site.location()).unwrap();
        listed.gaps.is_empty()
    });
    assert!(!listed.windows.is_empty());
    for backup in &listed.backups {
        if !proved.insert(backup.id.clone()) {
            continue;
        }
        let reader = stanza.backup(backup.id.parse().unwrap()).unwrap();
        let mut files = 0;
        for entry in reader.files() {
            reader.map(&entry.unwrap()).unwrap();
            files += 1;
        }
        assert!(files > 900, "{files}");
        for pack in &reader.header().packs {
            reader.check_pack(pack, PackCheck::Digests).unwrap();
        }
    }
}

#[test]
fn a_killed_backup_leaves_nothing_that_is_listed_and_the_next_one_works() {
    let mut dice = Dice::new("kills of backups");
    let site = Site::new();
    let primary = cluster(&site, 17);
    let whole = time_of(|| drop(site.backup(&primary, &["--source", "stream", "--wal", "include"])));
    let conninfo = primary.conninfo();
    let mut proved = BTreeSet::new();
    prove_listed(&site, &mut proved);
    let (mut kills, mut listed) = (0, proved.len());
    for run in 0..MAX_RUNS {
        let source = ["local", "stream"][run % 2];
        let wal = ["include", "archive"][run / 2 % 2];
        let arguments = ["backup", "-d", &conninfo, "--source", source, "--wal", wal, "--compress", "lz4"];
        let ended = run_and_kill(&site, &arguments, moment(&mut dice, whole));
        prove_listed(&site, &mut proved);
        match ended {
            // Only the last instant of a run, after the commit, can be both.
            Ended::Killed => assert!(proved.len() - listed <= 1),
            Ended::Done => assert_eq!(proved.len() - listed, 1, "a backup that said ok is listed"),
        }
        listed = proved.len();
        kills += usize::from(ended == Ended::Killed);
        if kills == BACKUP_KILLS {
            break;
        }
    }
    assert_eq!(kills, BACKUP_KILLS, "too few of {MAX_RUNS} runs could be killed");
    println!("{kills} kills, {listed} backups");

    wait_until("the server to forget the killed sessions", LIMIT, || {
        primary.sql("SELECT count(*) FROM pg_replication_slots") == "0"
            && primary.sql("SELECT count(*) FROM pg_stat_replication") == "0"
    });
    let last = site.backup(&primary, &[]);
    primary.sql("INSERT INTO t VALUES (0, 'last')");
    let digests = all_digests(&primary);
    site.archive_all(&primary);
    drop(primary);
    prove_listed(&site, &mut proved);
    // The oldest, the newest, and one that was taken between kills.
    let some: Vec<String> = proved.iter().cloned().collect();
    let chosen = [some[0].as_str(), &some[some.len() / 2], last["id"].as_str().unwrap()];
    for id in BTreeSet::from(chosen) {
        let mut request = site.request(RecoveryTarget::Latest);
        request.backup = Some(id.to_owned());
        assert_eq!(all_digests(&site.bring_back(17, &request)), digests, "backup {id}");
    }
}

#[test]
fn a_killed_push_leaves_a_whole_segment_or_none() {
    let mut dice = Dice::new("kills of pushes");
    let site = Site::new();
    let primary = cluster(&site, 16);
    // The test pushes by itself from here on.
    primary.alter_system("archive_command", "/bin/false");
    let stanza = site.location().open_stanza().unwrap();
    let archive = stanza.wal(stanza.records().last().unwrap());
    let next = || {
        primary.sql("UPDATE t SET md5 = md5(md5) WHERE i < 3000");
        primary.data_dir().join("pg_wal").join(primary.switch_wal())
    };
    let first = next();
    let arguments = |path: &std::path::Path| path.display().to_string();
    let whole = time_of(|| drop(site.run(&["wal", "push", &arguments(&first)])));
    let mut kills = 0;
    for _ in 0..MAX_RUNS {
        let path = next();
        let name = WalFileName::parse(path.file_name().unwrap().to_str().unwrap(), size()).unwrap();
        let bytes = fs::read(&path).unwrap();
        let ended = run_and_kill(&site, &["wal", "push", &arguments(&path)], moment(&mut dice, whole));
        let stored = archive.get(name).unwrap().map(|file| file.bytes);
        assert!(stored.is_some() || ended == Ended::Killed, "a push that said ok is stored");
        if let Some(stored) = stored {
            assert!(stored == bytes, "{name:?} is not what was pushed");
        }
        list(&site.location()).unwrap();
        site.run(&["wal", "push", &arguments(&path)]);
        assert!(archive.get(name).unwrap().unwrap().bytes == bytes);
        kills += usize::from(ended == Ended::Killed);
        if kills == PUSH_KILLS {
            break;
        }
    }
    assert_eq!(kills, PUSH_KILLS, "too few of {MAX_RUNS} runs could be killed");
    assert!(archive.conflicts(pgkeep_format::TimelineId::FIRST).unwrap().is_empty());
    // Back to the archiver, which goes on where the test left: all that it has left is there already.
    primary.alter_system("archive_command", &site.archive_command());
    let backup = site.backup(&primary, &["--wal", "archive"]);
    assert_eq!(backup["wal"], "archive");
}

#[test]
fn a_killed_restore_leaves_nothing_that_starts_or_everything() {
    let mut dice = Dice::new("kills of restores");
    let site = Site::new();
    let primary = cluster(&site, 18);
    site.backup(&primary, &[]);
    primary.sql("INSERT INTO t VALUES (0, 'after')");
    let digests = all_digests(&primary);
    site.archive_all(&primary);
    drop(primary);
    let objects = common::tree(&site.repository());
    let first = site.destination();
    let to = |path: &std::path::Path| path.display().to_string();
    let arguments = |path: &str| ["restore", "--jobs", "2", path].map(str::to_owned).to_vec();
    let run = |path: &std::path::Path, delay: Duration| {
        let arguments = arguments(&to(path));
        run_and_kill(&site, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), delay)
    };
    let whole = time_of(|| assert!(run(&first, LIMIT) == Ended::Done));
    let mut kills = 0;
    let mut complete = vec![first];
    for _ in 0..MAX_RUNS {
        let destination = site.destination();
        let ended = run(&destination, moment(&mut dice, whole));
        let starts = destination.join("global/pg_control").exists();
        assert!(starts || ended == Ended::Killed);
        if starts {
            // Killed after the very last step, or not at all.
            complete.push(destination);
        } else {
            // What is left is told from a place that may be written to, and `--delta` finishes it.
            let begun = destination.join("pgkeep_restore.unfinished").exists();
            let again = site.command(&["restore", &to(&destination), "--dry-run"]).output().unwrap();
            assert_eq!(again.status.success(), !begun, "{}", said(&again));
            if begun {
                assert!(
                    String::from_utf8_lossy(&again.stderr).contains("unfinished restore"),
                    "{}",
                    said(&again)
                );
            }
            site.run(&["restore", "--delta", &to(&destination)]);
            assert_same(&destination, &complete[0]);
            fs::remove_dir_all(&destination).unwrap();
        }
        kills += usize::from(ended == Ended::Killed);
        if kills == RESTORE_KILLS {
            break;
        }
    }
    assert_eq!(kills, RESTORE_KILLS, "too few of {MAX_RUNS} runs could be killed");
    assert!(common::tree(&site.repository()) == objects, "restores do not write to the repository");
    println!("{kills} kills, {} complete restores", complete.len());
    for destination in [complete.first(), complete.last()].into_iter().flatten() {
        let restored = common::start_restored(18, destination);
        assert_eq!(all_digests(&restored), digests);
        drop(restored);
    }
}

#[test]
fn a_killed_delta_restore_leaves_nothing_that_starts_and_the_next_one_finishes_it() {
    let mut dice = Dice::new("kills of delta restores");
    let site = Site::new();
    let primary = cluster(&site, 17);
    site.backup(&primary, &[]);
    drop(primary);
    let expected = site.destination();
    let directory = site.destination();
    for path in [&expected, &directory] {
        let to = path.display().to_string();
        site.run(&["restore", "--target", "immediate", "--target-action", "promote", &to]);
    }
    let outside = Outside::new(site.scratch.path().join("outside"));
    let sentinel = directory.join("sentinel");
    let to = directory.display().to_string();
    let arguments =
        ["restore", "--delta", "--jobs", "2", "--target", "immediate", "--target-action", "promote", &to];
    let change = |dice: &mut Dice| {
        let done: Vec<String> = (0..8).map(|_| mutate(dice, &directory, &outside.path)).collect();
        // A WAL directory that is a link is another test's.
        if directory.join("pg_wal").is_symlink() {
            fs::remove_file(directory.join("pg_wal")).unwrap();
        }
        // It may have become a link or a directory itself: through a link the test would change what is outside.
        if sentinel.is_dir() && !sentinel.is_symlink() {
            fs::remove_dir_all(&sentinel).unwrap();
        } else {
            drop(fs::remove_file(&sentinel));
        }
        fs::write(&sentinel, "is removed before anything is written").unwrap();
        done
    };
    let own = || {
        // What a test changed as root belongs to the server's user, who runs the program.
        let owner = fs::metadata(&expected).unwrap();
        let ids = format!("{}:{}", owner.uid(), owner.gid());
        let status = std::process::Command::new("chown").args(["-R", "-h", &ids, &to]).status().unwrap();
        assert!(status.success());
    };
    change(&mut dice);
    own();
    let whole = time_of(|| assert!(run_and_kill(&site, &arguments, LIMIT) == Ended::Done));
    let (mut kills, mut interrupted) = (0, 0);
    for run in 0..MAX_RUNS {
        let done = change(&mut dice);
        own();
        let ended = run_and_kill(&site, &arguments, moment(&mut dice, whole));
        outside.assert_untouched();
        let starts = directory.join("global/pg_control").exists();
        assert!(starts || ended == Ended::Killed);
        if starts && !sentinel.exists() {
            // Changed, and a server would start: then it is all there.
            drop(fs::remove_file(directory.join("pgkeep_restore.unfinished")));
            assert_same(&directory, &expected);
        }
        interrupted += usize::from(!starts);
        // Now and then somebody was there in between, or the second run is killed as well.
        if run % 4 == 1 {
            change(&mut dice);
            own();
        }
        if run % 3 == 0 {
            run_and_kill(&site, &arguments, moment(&mut dice, whole));
        }
        site.run(&arguments);
        outside.assert_untouched();
        assert_same(&directory, &expected);
        kills += usize::from(ended == Ended::Killed);
        if kills == DELTA_KILLS {
            println!("{run} runs, {kills} kills, {interrupted} of them in between; last: {done:#?}");
            break;
        }
    }
    assert_eq!(kills, DELTA_KILLS, "too few of {MAX_RUNS} runs could be killed");
    assert!(interrupted * 4 > DELTA_KILLS, "only {interrupted} kills hit the writing");
    let restored = common::start_restored(17, &directory);
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "20000");
}
