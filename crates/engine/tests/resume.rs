//! Backups that were killed, and those that go on with what they left: each is a correct backup of what the cluster is then.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Dice, Site, all_digests, run_restore, said, start_restored};
use pgkeep_engine::backup::{
    BackupRequest, ChangesChoice, Checkpoint, SourceChoice, TypeChoice, WalChoice, backup,
};
use pgkeep_engine::list::list;
use pgkeep_engine::restore::{RecoveryTarget, RestoreRequest};
use pgkeep_engine::{Cancel, Compression, ConnectionRequest, Event, Location, Observer};
use pgkeep_repo::{FrameKind, PackCheck};
use pgkeep_testkit::{Cluster, run_as_server_user, world_executable};
use serde_json::Value;

/// What the child is told: repository, connection, source, type, and where to stop.
const CHILD: &str = "PGKEEP_TEST_RESUME";
/// Small packs, so that some are finished when a backup is killed.
const PACK_BYTES: u64 = 1 << 20;
/// Kills in the ordinary suite; a hundred where `PGKEEP_LONG_TESTS` is 1.
const KILLS: usize = 30;
const LONG_KILLS: usize = 100;
/// In the ordinary suite only some of the backups that follow kills are restored; all are read back from the repository.
const RESTORE_EVERY: usize = 6;

/// Stops its own process, or cancels the backup, at a step.
struct StopAt {
    step: String,
    cancel: Cancel,
    /// What is to be copied.
    total: AtomicU64,
}

impl Observer for StopAt {
    fn event(&self, event: Event) {
        let name = match event {
            Event::StepStarted { step, total_bytes } => {
                self.total.store(total_bytes.unwrap_or(0), Ordering::Relaxed);
                format!("start {step:?}")
            }
            Event::Progress { done_bytes, .. }
                if done_bytes > self.total.load(Ordering::Relaxed) / 10 * 9 =>
            {
                "nearly copied".to_owned()
            }
            Event::StepFinished { step } => format!("end {step:?}"),
            Event::Note { text } => return println!("NOTE {text}"),
            Event::Warning { text, .. } => return println!("WARNING {text}"),
            Event::Progress { .. } | Event::Item { .. } => return,
        };
        if self.step == format!("die {name}") {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
        if self.step == format!("cancel {name}") {
            self.cancel.cancel();
        }
    }
}

#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let told = std::env::var(CHILD).unwrap();
    let parts: Vec<&str> = told.split('|').collect();
    let request = BackupRequest {
        location: Location { repository: parts[0].to_owned(), stanza: "main".to_owned() },
        connection: ConnectionRequest { conninfo: Some(parts[1].to_owned()), ..ConnectionRequest::default() },
        kind: match parts[3] {
            "full" => TypeChoice::Full,
            "diff" => TypeChoice::Differential,
            _ => TypeChoice::Auto,
        },
        changes: ChangesChoice::Auto,
        source: if parts[2] == "local" { SourceChoice::Local } else { SourceChoice::Stream },
        jobs: 2,
        compression: Compression::Zstd(1),
        wal: WalChoice::Include,
        checkpoint: Checkpoint::Fast,
        annotations: BTreeMap::new(),
        archive_timeout_seconds: 60,
        pack_bytes: Some(PACK_BYTES),
        dry_run: false,
    };
    let cancel = Cancel::default();
    let observer = StopAt { step: parts[4].to_owned(), cancel: cancel.clone(), total: AtomicU64::default() };
    let report = backup(&request, &observer, &cancel).unwrap();
    println!("REPORT {}", serde_json::to_string(&report).unwrap());
}

fn child_command(site: &Site, cluster: &Cluster, source: &str, kind: &str, stop: &str) -> Command {
    let mut command = Command::new(world_executable(&std::env::current_exe().unwrap()));
    let words = [&site.repository().display().to_string(), &cluster.conninfo(), source, kind, stop].join("|");
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env(CHILD, words).env("TZ", "UTC");
    run_as_server_user(&mut command);
    command
}

/// A backup that ends by itself: its report, and what it said.
struct Taken {
    report: Value,
    said: String,
}

impl Taken {
    fn number(&self, field: &str) -> u64 {
        self.report[field].as_u64().unwrap_or_else(|| panic!("no `{field}` in {}", self.report))
    }

    fn id(&self) -> &str {
        self.report["id"].as_str().unwrap()
    }
}

#[track_caller]
fn take(site: &Site, cluster: &Cluster, source: &str, kind: &str) -> Taken {
    let output = child_command(site, cluster, source, kind, "").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    taken(&output)
}

#[track_caller]
fn taken(output: &Output) -> Taken {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = text.lines().find_map(|line| line.split_once("REPORT ")).expect("a report").1;
    assert!(!text.contains("WARNING"), "{text}");
    Taken { report: serde_json::from_str(line).unwrap(), said: text }
}

/// Runs a backup that stops at that step.
#[track_caller]
fn stopped(site: &Site, cluster: &Cluster, source: &str, kind: &str, stop: &str) -> String {
    let output = child_command(site, cluster, source, kind, stop).output().unwrap();
    assert!(!output.status.success(), "{stop}: {}", said(&output));
    said(&output)
}

fn start(site: &Site, major: u32, rows: u32) -> Cluster {
    let cluster = Cluster::builder(major).wal_segment_mib(1).conf("max_wal_size", "1GB").start();
    site.init(&cluster);
    cluster.sql(&format!(
        "CREATE TABLE t (i int PRIMARY KEY, v int, s text);
         INSERT INTO t SELECT i, 0, repeat(md5(i::text), 8) FROM generate_series(1, {rows}) i;
         CREATE TABLE growing (s text)"
    ));
    cluster.sql("VACUUM FREEZE");
    cluster
}

fn load(cluster: &Cluster, dice: &mut Dice) {
    let (first, step) = (dice.below(1000), 200 + dice.below(1000));
    cluster.sql(&format!(
        "UPDATE t SET v = v + 1, s = md5(s) || s WHERE i % {step} = {first};
         INSERT INTO growing SELECT md5((i + {first})::text) FROM generate_series(1, 500) i"
    ));
    match dice.below(5) {
        0 => drop(cluster.sql("VACUUM t")),
        1 => drop(cluster.sql("TRUNCATE growing")),
        2 => drop(
            cluster.sql("DROP TABLE IF EXISTS passing; CREATE TABLE passing AS SELECT * FROM t LIMIT 2000"),
        ),
        _ => drop(cluster.sql("CHECKPOINT")),
    }
}

/// Every byte that the backup needs is there and right.
fn prove_stored(site: &Site, id: &str) {
    let stanza = site.location().open_stanza().unwrap();
    let reader = stanza.backup(id.parse().unwrap()).unwrap();
    for entry in reader.files() {
        reader.map(&entry.unwrap()).unwrap();
    }
    for pack in &reader.header().packs {
        reader.check_pack(pack, PackCheck::Digests).unwrap();
    }
}

#[track_caller]
fn prove_restored(site: &Site, major: u32, id: &str, digests: &BTreeMap<String, String>) {
    let request = RestoreRequest { backup: Some(id.to_owned()), ..site.request(RecoveryTarget::Immediate) };
    run_restore(&request).unwrap_or_else(|error| panic!("{id}: {error:#?}"));
    let restored = start_restored(major, &request.destination);
    assert_eq!(&all_digests(&restored), digests, "{id}");
    drop(restored);
    remove(request.destination);
}

fn remove(directory: PathBuf) {
    std::fs::remove_dir_all(directory).unwrap();
}

/// Bytes of all packs.
fn packs(site: &Site) -> u64 {
    let stanza = site.location().open_stanza().unwrap();
    stanza.inventory().unwrap().packs.iter().map(|pack| pack.size).sum()
}

/// What the journals of a backup's own packs take.
fn journal_bytes(site: &Site, id: &str) -> u64 {
    let stanza = site.location().open_stanza().unwrap();
    let reader = stanza.backup(id.parse().unwrap()).unwrap();
    let packs = reader.header().packs.iter().filter(|pack| pack.backup == reader.id());
    let entries = packs.flat_map(|pack| reader.pack_index(pack).unwrap());
    entries.filter(|entry| entry.kind == FrameKind::Journal).map(|e| u64::from(e.frame.stored_len)).sum()
}

/// Killed when all is copied, resumed: nearly nothing is compressed again, whatever source and type the two have.
#[test]
fn what_a_killed_backup_stored_is_not_stored_again() {
    let site = Site::new();
    let cluster = start(&site, 17, 80_000);
    for (killed_source, source) in [("local", "local"), ("stream", "stream"), ("local", "stream")] {
        stopped(&site, &cluster, killed_source, "full", "die end Copy");
        let backup = take(&site, &cluster, source, "full");
        assert!(backup.said.contains("NOTE goes on with what backup 0"), "{}", backup.said);
        // What was in the pack that was open, and in the one that was being made durable, is lost: how much that is of the
        // cluster depends on how well it compresses. Small files share frames with their neighbours, which are others in
        // a stream.
        let (reused, new) = (backup.number("reused_bytes"), backup.number("new_bytes"));
        let lost = 2 * PACK_BYTES * new / backup.number("stored_bytes");
        let least = if killed_source == source { 9 } else { 7 };
        assert!(
            reused + lost > new / 10 * least && reused > new / 3,
            "{reused} of {new}, {lost} may be lost, after {killed_source}, {source}"
        );
        let journal = journal_bytes(&site, backup.id());
        println!("{source}: {reused} of {new} bytes reused; journals take {journal}");
        assert!(journal > 0 && journal < new / 1000, "{journal} bytes of journals for {new}");
        prove_stored(&site, backup.id());
        prove_restored(&site, 17, backup.id(), &all_digests(&cluster));
    }
    // A complete backup came of it: nothing is gone on with.
    let next = take(&site, &cluster, "local", "full");
    assert!(!next.said.contains("goes on") && next.number("reused_bytes") == 0, "{}", next.said);
}

/// What changed after the kill comes from the cluster, not from what was left; the rest of the table from there.
#[test]
fn what_changed_since_the_kill_is_stored_anew() {
    let site = Site::new();
    let cluster = start(&site, 18, 40_000);
    for source in ["local", "stream"] {
        stopped(&site, &cluster, source, "full", "die end Copy");
        cluster.sql("UPDATE t SET v = v + 1, s = 'changed' WHERE i % 500 = 7; CHECKPOINT");
        let backup = take(&site, &cluster, source, "full");
        let (reused, new) = (backup.number("reused_bytes"), backup.number("new_bytes"));
        assert!(reused > new / 4 && reused < new, "{reused} of {new}");
        prove_restored(&site, 18, backup.id(), &all_digests(&cluster));
    }
}

/// An interrupted incremental backup: scattered pages are taken over too, and its parent is built on as ever.
#[test]
fn an_interrupted_incremental_backup_is_resumed() {
    let site = Site::new();
    let cluster = start(&site, 16, 60_000);
    let full = take(&site, &cluster, "local", "full");
    for kind in ["auto", "diff"] {
        cluster.sql("UPDATE t SET v = v + 1, s = md5(s) || s WHERE i % 5 = 0; CHECKPOINT");
        stopped(&site, &cluster, "local", kind, "die end Copy");
        let backup = take(&site, &cluster, "local", kind);
        assert_eq!(backup.report["type"], if kind == "auto" { "incr" } else { "diff" });
        assert_eq!(backup.report["parent"], full.report["id"]);
        let (reused, new) = (backup.number("reused_bytes"), backup.number("new_bytes"));
        assert!(reused > new / 3, "{reused} of {new}");
        prove_restored(&site, 16, backup.id(), &all_digests(&cluster));
        // The next round builds on the full one again.
        std::fs::remove_file(site.repository().join(format!("main/backup/{}/manifest", backup.id())))
            .unwrap();
    }
}

/// A backup that fails, as opposed to one that is killed, loses nothing, and failing often does not fill the disk.
#[test]
fn a_failed_backup_leaves_all_that_it_did_once() {
    let site = Site::new();
    let cluster = start(&site, 15, 20_000);
    let first = stopped(&site, &cluster, "local", "full", "cancel nearly copied");
    assert!(first.contains("the next backup goes on with what this one stored"), "{first}");
    let once = packs(&site);
    for _ in 0..2 {
        let said = stopped(&site, &cluster, "local", "full", "cancel nearly copied");
        assert!(said.contains("goes on with what backup"), "{said}");
        assert!(packs(&site) < once + once / 10, "{} after {once}", packs(&site));
    }
    assert!(list(&site.location()).unwrap().backups.is_empty());
    let backup = take(&site, &cluster, "local", "full");
    let (reused, new) = (backup.number("reused_bytes"), backup.number("new_bytes"));
    assert!(reused > new / 10 * 8, "{reused} of {new}");
    prove_restored(&site, 15, backup.id(), &all_digests(&cluster));
}

/// Killed at random moments, under load between the tries: what comes of it in the end is a correct backup each time.
#[test]
fn killed_at_random_moments_a_backup_is_resumed_to_a_correct_one() {
    let long = std::env::var("PGKEEP_LONG_TESTS").is_ok_and(|value| value == "1");
    let kills = if long { LONG_KILLS } else { KILLS };
    let mut dice = Dice::new("resumed backups");
    let site = Site::new();
    let cluster = start(&site, 17, 100_000);
    let begun = Instant::now();
    take(&site, &cluster, "local", "full");
    let whole = begun.elapsed();
    let (mut killed, mut resumed, mut reused) = (0, 0, 0);
    while killed < kills {
        let source = ["local", "stream"][(dice.below(2)) as usize];
        let kind = ["full", "full", "auto", "diff"][(dice.below(4)) as usize];
        let mut child = child_command(&site, &cluster, source, kind, "");
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(dice.below(whole.as_micros() as u64)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            continue;
        }
        killed += 1;
        load(&cluster, &mut dice);
        // Now and then the next try is killed as well.
        if killed < kills && dice.below(3) == 0 {
            continue;
        }
        let backup = take(&site, &cluster, source, kind);
        resumed += usize::from(backup.number("reused_bytes") > 0);
        reused += backup.number("reused_bytes");
        prove_stored(&site, backup.id());
        if long || killed % RESTORE_EVERY == 0 {
            prove_restored(&site, 17, backup.id(), &all_digests(&cluster));
        }
        // What was left, and every backup but the last, may go: the test must not fill the disk.
        site.run(&["expire", "--keep-count", "1", "--grace", "0s"]);
    }
    println!("{killed} kills, {resumed} backups went on with {} MiB", reused >> 20);
    assert!(resumed > 0);
}
