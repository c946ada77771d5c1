//! `wal push` against WAL of real servers: what is stored, what is refused, and what a kill leaves.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod stanza_support;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use pgkeep_engine::ErrorKind;
use pgkeep_engine::wal::PushOutcome;
use pgkeep_format::{WalFileName, WalSegmentSize};
use pgkeep_repo::WalKind;
use pgkeep_testkit::{Cluster, pgkeep_binary};
use stanza_support::{Place, cluster, file_name, finished_segment};

fn name_of(path: &std::path::Path) -> WalFileName {
    WalFileName::parse(&file_name(path), WalSegmentSize::try_from(1 << 20).unwrap()).unwrap()
}

#[test]
fn a_segment_is_stored_with_what_it_holds_on_every_major() {
    for major in 14..=18 {
        let cluster = cluster(major);
        let place = Place::new();
        place.init(&cluster).unwrap();
        let path = finished_segment(&cluster);
        let report = place.push(&path).unwrap();
        assert_eq!(report.outcome, PushOutcome::Stored);
        assert_eq!(report.warning, None, "PostgreSQL {major}");
        assert!(report.stored_bytes > 0 && report.stored_bytes < report.size_bytes);

        let archive = place.archive();
        let header = archive.header(name_of(&path)).unwrap().unwrap();
        assert_eq!(header.kind, WalKind::Segment);
        assert_eq!(header.facts.system_identifier, cluster.system_identifier());
        assert!(header.facts.commits > 0, "PostgreSQL {major}");
        assert!(header.facts.last_commit_time.is_some());
        let (_, summary) = archive.summary(name_of(&path)).unwrap().unwrap();
        let summary = pgkeep_format::wal::SegmentSummary::decode(&summary).unwrap();
        assert!(!summary.blocks.is_empty());
        assert_eq!(archive.get(name_of(&path)).unwrap().unwrap().bytes, fs::read(&path).unwrap());

        // The server offers a file again after a crash.
        assert_eq!(place.push(&path).unwrap().outcome, PushOutcome::AlreadyThere);
    }
}

#[test]
fn another_file_of_the_same_name_is_refused_and_both_are_kept() {
    let cluster = cluster(17);
    let place = Place::new();
    place.init(&cluster).unwrap();
    let path = finished_segment(&cluster);
    place.push(&path).unwrap();
    // Zeros after the switch: the records are the same, the file is not.
    let impostor = place.copy(&path, &file_name(&path));
    let mut bytes = fs::read(&impostor).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x55;
    fs::write(&impostor, &bytes).unwrap();
    let error = place.push(&impostor).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Mismatch, "{error}");
    assert_eq!(place.archive().get(name_of(&path)).unwrap().unwrap().bytes, fs::read(&path).unwrap());
    let timeline = name_of(&path).timeline();
    let kept = place.archive().conflicts(timeline).unwrap();
    assert_eq!(kept.len(), 1);
    assert!(error.hints.iter().any(|hint| hint.contains(&kept[0])), "{:?}", error.hints);
    // Offered again and again, as the archiver does: still one.
    assert_eq!(place.push(&impostor).unwrap_err().kind, ErrorKind::Mismatch);
    assert_eq!(place.archive().conflicts(timeline).unwrap().len(), 1);
}

#[test]
fn what_is_not_this_clusters_wal_is_refused() {
    let ours = cluster(16);
    let place = Place::new();
    place.init(&ours).unwrap();
    let path = finished_segment(&ours);

    let theirs =
        Cluster::builder(16).fresh_identity().wal_segment_mib(1).conf("wal_keep_size", "1GB").start();
    let error = place.push(&finished_segment(&theirs)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Mismatch);
    assert!(error.to_string().contains(&theirs.system_identifier().to_string()), "{error}");

    let cut = place.copy(&path, &file_name(&path));
    fs::write(&cut, &fs::read(&path).unwrap()[..500_000]).unwrap();
    assert_eq!(place.push(&cut).unwrap_err().kind, ErrorKind::Corrupt);
    fs::write(&cut, vec![0; 1 << 20]).unwrap();
    assert_eq!(place.push(&cut).unwrap_err().kind, ErrorKind::Corrupt);
    let mut longer = fs::read(&path).unwrap();
    longer.push(0);
    fs::write(&cut, longer).unwrap();
    assert_eq!(place.push(&cut).unwrap_err().kind, ErrorKind::Mismatch);

    // A segment under another name: another place, another timeline.
    let elsewhere = place.copy(&path, "0000000100000000000000FF");
    assert_eq!(place.push(&elsewhere).unwrap_err().kind, ErrorKind::Mismatch);
    let future = place.copy(&path, &file_name(&path).replacen("00000001", "00000002", 1));
    assert_eq!(place.push(&future).unwrap_err().kind, ErrorKind::Mismatch);
    for name in ["postgresql.conf", "00000001.histor", "archive_status"] {
        assert_eq!(place.push(&place.copy(&path, name)).unwrap_err().kind, ErrorKind::Usage, "{name}");
    }
    let missing = place.push(std::path::Path::new("pg_wal/000000010000000000000001")).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert!(place.archive().timelines().unwrap().is_empty());
}

#[test]
fn a_missing_repository_or_stanza_is_said() {
    let cluster = cluster(15);
    let path = finished_segment(&cluster);
    let place = Place::new();
    let error = place.push(&path).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.hints.iter().any(|hint| hint.contains("pgkeep init")), "{:?}", error.hints);
    place.init(&cluster).unwrap();
    let mut other = Place::new();
    other.location.repository = place.location.repository.clone();
    other.location.stanza = "mian".to_owned();
    let error = other.push(&path).unwrap_err();
    assert!(error.hints.iter().any(|hint| hint.contains("`main`")), "{:?}", error.hints);
}

#[test]
fn everything_that_a_promotion_archives_is_stored() {
    // What the server hands to its archive_command is collected, then pushed.
    let collected = pgkeep_testkit::Scratch::new();
    // Renamed when whole: the standby goes on archiving while the test reads.
    let folder = collected.path().display();
    let command = format!("cp %p {folder}/%f.copying && mv {folder}/%f.copying {folder}/%f");
    let settings = [("archive_mode", "on"), ("archive_command", command.as_str())];
    let primary = settings
        .iter()
        .fold(
            Cluster::builder(18).wal_segment_mib(1).conf("wal_keep_size", "1GB"),
            |builder, (key, value)| builder.conf(key, value),
        )
        .start();
    primary.sql("SELECT 1 FROM pg_backup_start('note', true); SELECT 1 FROM pg_backup_stop(false)");
    finished_segment(&primary);
    let standby = Cluster::standby_with(&primary, &[]);
    primary.sql("CREATE TABLE t (i int); INSERT INTO t SELECT generate_series(1, 1000)");
    standby.wait_for_replay_of(&primary);
    standby.promote();
    finished_segment(&standby);
    let files = || -> Vec<_> {
        fs::read_dir(collected.path())
            .unwrap()
            .map(|entry| file_name(&entry.unwrap().path()))
            .filter(|name| !name.ends_with(".copying"))
            .collect()
    };
    pgkeep_testkit::wait_until("a segment of timeline 2", Duration::from_secs(30), || {
        files().iter().any(|name| name.starts_with("00000002") && name.len() == 24)
    });

    let place = Place::new();
    place.init(&primary).unwrap();
    let mut kinds: Vec<&str> = Vec::new();
    for name in files() {
        let report = place.push(&collected.path().join(&name)).unwrap();
        assert_eq!(report.outcome, PushOutcome::Stored, "{name}");
        assert_eq!(place.push(&collected.path().join(&name)).unwrap().outcome, PushOutcome::AlreadyThere);
        kinds.push(match name.rsplit_once('.') {
            Some((_, kind)) => match kind {
                "history" => "history",
                "partial" => "partial",
                "backup" => "backup",
                _ => "other",
            },
            None => "segment",
        });
    }
    for kind in ["segment", "history", "partial"] {
        assert!(kinds.contains(&kind), "{kind} in {:?}", files());
    }
    // Another server that claims the same timeline.
    let impostor = place.directory.path().join("00000002.history");
    fs::write(&impostor, "1\t0/100060\tno recovery target specified\n").unwrap();
    let error = place.push(&impostor).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Mismatch);
    assert_eq!(place.archive().conflicts(pgkeep_format::TimelineId::new(2).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_kill_leaves_nothing_or_the_whole_file() {
    let cluster = Cluster::builder(18).conf("wal_keep_size", "1GB").start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    cluster.sql("CREATE TABLE noise AS SELECT md5(i::text) FROM generate_series(1, 60000) AS i");
    let path = finished_segment(&cluster);
    let size = WalSegmentSize::DEFAULT;
    let name = WalFileName::parse(&file_name(&path), size).unwrap();
    let bytes = fs::read(&path).unwrap();
    let start = || {
        let mut command = Command::new(pgkeep_binary());
        command.args(["--repo", &place.location.repository, "--stanza", "main", "wal", "push"]).arg(&path);
        command.spawn().unwrap()
    };
    let stored_at = || std::path::Path::new(&place.location.repository).join(place.archive().key(name));
    // How long a whole push takes here, so that the kills fall before, into and after it.
    let began = Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = began.elapsed();
    fs::remove_file(stored_at()).unwrap();
    let mut seed: u64 = 0x9E37_79B9_7F4A_7C15;
    let (mut stored, mut absent) = (0, 0);
    for _ in 0..40 {
        let mut child = start();
        // xorshift
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let share = u32::try_from(seed % 1000).unwrap();
        // Most of them in the second half, where the file is written.
        std::thread::sleep(whole / 2 + whole * share / 1400);
        child.kill().unwrap();
        child.wait().unwrap();
        match place.archive().get(name).unwrap() {
            Some(file) => {
                assert_eq!(file.bytes, bytes);
                stored += 1;
                // Start again without it.
                fs::remove_file(
                    std::path::Path::new(&place.location.repository).join(place.archive().key(name)),
                )
                .unwrap();
            }
            None => absent += 1,
        }
        assert!(place.archive().list(name.timeline()).unwrap().is_empty());
    }
    println!("{stored} stored, {absent} absent, {whole:?} for a whole one");
    assert_eq!(place.push(&path).unwrap().outcome, PushOutcome::Stored);
}
