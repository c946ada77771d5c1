//! Base backups and WAL streaming from real servers of every major.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{replication_session, sql_session};
use pgkeep_format::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_testkit::{Cluster, MAJORS, StopMode};
use pgkeep_wire::{BaseBackupEvent, BaseBackupOptions, ServerErrorKind, WalEvent, WalStream, WireError};

const MIB: u64 = 1 << 20;

/// Takes a base backup; the archives by name, and the manifest.
fn take(cluster: &Cluster, options: &BaseBackupOptions) -> (BTreeMap<String, Vec<u8>>, Vec<u8>, u64) {
    let mut session = replication_session(cluster);
    let major = session.server_major();
    let mut backup = session.base_backup(options).unwrap();
    assert!(backup.start.is_valid());
    let (start, timeline, count) = (backup.start, backup.timeline, backup.tablespaces.len());
    let mut archives: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut current, mut manifest, mut progress) = (String::new(), Vec::new(), 0);
    while let Some(event) = backup.next().unwrap() {
        match event {
            BaseBackupEvent::NewArchive { name, tablespace } => {
                assert_eq!(name == "base.tar", tablespace.is_none());
                current = name;
                assert!(archives.insert(current.clone(), Vec::new()).is_none());
            }
            BaseBackupEvent::Data(bytes) => archives.get_mut(&current).unwrap().extend_from_slice(bytes),
            BaseBackupEvent::Progress(bytes) => progress = bytes,
            BaseBackupEvent::NewManifest => assert!(options.manifest),
            BaseBackupEvent::Manifest(bytes) => manifest.extend_from_slice(bytes),
        }
    }
    let (stop, stop_timeline) = backup.finish().unwrap();
    assert!(stop > start);
    assert_eq!(stop_timeline, timeline);
    assert_eq!(archives.len(), count);
    // The connection can be used again.
    assert_eq!(session.identify_system().unwrap().timeline, timeline);
    if major < 15 {
        for archive in archives.values_mut() {
            archive.extend_from_slice(&[0; 1024]);
        }
    }
    (archives, manifest, progress)
}

fn unpack(archive: &[u8], directory: &Path) {
    let file = directory.with_extension("tar");
    std::fs::write(&file, archive).unwrap();
    std::fs::create_dir_all(directory).unwrap();
    let status = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(directory).status().unwrap();
    assert!(status.success());
}

fn walk(root: &Path, below: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        found.insert(path.to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, found);
        }
    }
}

fn listing(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(root, Path::new(""), &mut found);
    // What a base backup leaves out or adds, by PostgreSQL's documentation.
    let contents_left_out = [
        "pg_wal/",
        "pg_replslot/",
        "pg_dynshmem/",
        "pg_notify/",
        "pg_serial/",
        "pg_snapshots/",
        "pg_stat_tmp/",
        "pg_subtrans/",
    ];
    let left_out =
        ["postmaster.pid", "postmaster.opts", "backup_label", "tablespace_map", "current_logfiles"];
    found.retain(|path| {
        !contents_left_out.iter().any(|prefix| path.starts_with(prefix))
            && !left_out.contains(&path.as_str())
            && !path.ends_with("pg_internal.init")
            && !path.contains("pgsql_tmp")
            && !path.starts_with("pg_tblspc/")
    });
    found
}

#[test]
fn a_base_backup_holds_the_files_of_the_data_directory() {
    for major in MAJORS {
        let cluster = Cluster::builder(major).conf("autovacuum", "off").start();
        let tablespace = cluster.scratch().path().join("space");
        std::fs::create_dir(&tablespace).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(cluster.data_dir()).unwrap());
        std::os::unix::fs::chown(&tablespace, Some(owner), None).unwrap();
        cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", tablespace.display()));
        cluster.sql("CREATE TABLE t TABLESPACE space AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n; CREATE TABLE u AS SELECT * FROM t; VACUUM t; VACUUM u; CHECKPOINT");
        let options = BaseBackupOptions {
            label: "it's a test".into(),
            progress: true,
            manifest: true,
            ..Default::default()
        };
        let (archives, manifest, progress) = take(&cluster, &options);
        assert!(manifest.starts_with(b"{") && manifest.trim_ascii_end().ends_with(b"}"));
        if major >= 15 {
            assert!(progress > MIB);
        }
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base");
        unpack(&archives["base.tar"], &base);
        assert_eq!(listing(&base), listing(cluster.data_dir()), "major {major}");
        assert!(std::fs::read_to_string(base.join("backup_label")).unwrap().contains("LABEL: it's a test"));
        assert!(std::fs::read_to_string(base.join("tablespace_map")).unwrap().contains("space"));
        let relations: Vec<_> = listing(&base)
            .into_iter()
            .filter(|path| path.starts_with("base/") && base.join(path).is_file())
            .collect();
        assert!(relations.len() > 500);
        for path in relations {
            assert_eq!(
                std::fs::read(base.join(&path)).unwrap(),
                std::fs::read(cluster.data_dir().join(&path)).unwrap(),
                "{path}"
            );
        }
        let other = archives.keys().find(|name| *name != "base.tar").unwrap();
        let space = directory.path().join("space");
        unpack(&archives[other], &space);
        assert_eq!(listing(&space), listing(&tablespace));
    }
}

#[test]
fn a_base_backup_that_fails_or_is_left_is_an_error_not_a_hang() {
    for major in [14, 18] {
        let cluster = Cluster::builder(major).start();
        let mut session = replication_session(&cluster);
        let bad = BaseBackupOptions { max_rate_kib: Some(1), ..Default::default() };
        assert!(matches!(session.base_backup(&bad), Err(WireError::Server(_))));
        let identity = session.identify_system().unwrap();
        assert_eq!(
            identity.system_identifier.to_string(),
            cluster.sql("SELECT system_identifier FROM pg_control_system()")
        );
        // Cancelled from another thread: the server's error ends it, and the session lives.
        let slow = BaseBackupOptions { max_rate_kib: Some(64), ..Default::default() };
        let handle = session.cancel_handle();
        let mut backup = session.base_backup(&slow).unwrap();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            handle.cancel().unwrap();
        });
        let error = loop {
            match backup.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the backup should not end"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.server_kind(), Some(ServerErrorKind::Canceled), "{error:?}");
        thread.join().unwrap();
        session.identify_system().unwrap();
        let mut backup = session.base_backup(&slow).unwrap();
        backup.next().unwrap();
        assert!(matches!(session.identify_system(), Err(WireError::Busy)));
    }
}

/// Receives until `end` is reached and returns the bytes, which must have no gap.
fn receive_until(stream: &mut WalStream<'_>, start: Lsn, end: Lsn) -> Vec<u8> {
    let began = Instant::now();
    let mut bytes = Vec::new();
    while start.0 + (bytes.len() as u64) < end.0 {
        assert!(began.elapsed() < Duration::from_secs(60));
        match stream.next(Some(Duration::from_secs(1))).unwrap() {
            WalEvent::Data { start: at, bytes: piece } => {
                assert_eq!(at.0, start.0 + bytes.len() as u64);
                bytes.extend_from_slice(piece);
            }
            WalEvent::Keepalive { reply_requested, .. } => {
                if reply_requested {
                    stream.send_status(start, start, Lsn(0), false).unwrap();
                }
            }
            WalEvent::Timeout => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    bytes
}

#[test]
fn streamed_wal_is_the_wal_on_disk() {
    for major in MAJORS {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let size = WalSegmentSize::try_from(1 << 20).unwrap();
        let mut session = replication_session(&cluster);
        assert_eq!(session.show("wal_segment_size").unwrap(), "1MB");
        let identity = session.identify_system().unwrap();
        session.create_physical_slot("pgkeep_test", true, true).unwrap();
        if major >= 15 {
            let position = session.read_slot("pgkeep_test").unwrap().unwrap();
            assert!(position.restart_lsn.is_some());
            assert_eq!(session.read_slot("nothing").unwrap(), None);
        } else {
            assert!(matches!(session.read_slot("pgkeep_test"), Err(WireError::Unsupported(_))));
        }
        let start = Lsn(identity.flush.0 / MIB * MIB);
        cluster.sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n; SELECT pg_switch_wal()");
        let mut stream = session.start_replication(Some("pgkeep_test"), start, identity.timeline).unwrap();
        let bytes = receive_until(&mut stream, start, Lsn(start.0 + 2 * MIB));
        stream.send_status(Lsn(start.0 + MIB), Lsn(start.0 + MIB), Lsn(0), true).unwrap();
        // The answer to our request for a reply.
        loop {
            match stream.next(Some(Duration::from_secs(10))).unwrap() {
                WalEvent::Keepalive { end, .. } => {
                    assert!(end.0 >= start.0 + 2 * MIB);
                    break;
                }
                WalEvent::Data { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        stream.stop().unwrap();
        for index in 0..2 {
            let number = pgkeep_format::SegmentNumber(start.0 / MIB + index);
            let name = WalSegmentName { timeline: identity.timeline, number }.file_name(size);
            let on_disk = std::fs::read(cluster.data_dir().join("pg_wal").join(&name)).unwrap();
            let from = (index * MIB) as usize;
            assert!(bytes[from..from + MIB as usize] == on_disk[..], "{name} differs on {major}");
        }
        let restart = cluster.sql("SELECT restart_lsn FROM pg_replication_slots");
        assert_eq!(restart.parse::<Lsn>().unwrap(), Lsn(start.0 + MIB));
        session.drop_slot("pgkeep_test").unwrap();
        assert_eq!(session.timeline_history(TimelineId::FIRST).unwrap(), None);
        // A position that does not exist yet: the server says so, and the session lives.
        let mut stream = session.start_replication(None, Lsn(0xffff << 20), identity.timeline).unwrap();
        assert!(matches!(stream.next(None), Err(WireError::Server(_))));
        assert!(matches!(stream.next(None), Err(WireError::Closed { .. })));
        // No answer in time is an event, not an error.
        let now = session.identify_system().unwrap().flush;
        let mut stream = session.start_replication(None, Lsn(now.0 / MIB * MIB), identity.timeline).unwrap();
        let began = Instant::now();
        while stream.next(Some(Duration::from_millis(100))).unwrap() != WalEvent::Timeout {
            assert!(began.elapsed() < Duration::from_secs(30));
        }
    }
}

#[test]
fn a_shutdown_ends_the_stream_after_everything_was_sent() {
    for major in [14, 18] {
        let cluster = Cluster::builder(major).wal_segment_mib(1).start();
        let mut session = replication_session(&cluster);
        let identity = session.identify_system().unwrap();
        let start = Lsn(identity.flush.0 / MIB * MIB);
        let mut stream = session.start_replication(None, start, identity.timeline).unwrap();
        let mut end = start;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                cluster.stop(StopMode::Fast);
            });
            loop {
                match stream.next(Some(Duration::from_secs(30))).unwrap() {
                    WalEvent::Data { start, bytes } => {
                        end = Lsn(start.0 + bytes.len() as u64);
                        stream.send_status(end, end, Lsn(0), false).unwrap();
                    }
                    WalEvent::Keepalive { .. } => stream.send_status(end, end, Lsn(0), false).unwrap(),
                    WalEvent::EndOfStream => break,
                    other => panic!("unexpected {other:?}"),
                }
            }
        });
        assert_eq!(stream.next(None).unwrap(), WalEvent::EndOfStream);
        stream.stop().unwrap();
        assert!(session.identify_system().is_err());
    }
}

#[test]
fn a_promotion_ends_the_timeline_and_tells_where_the_next_begins() {
    for major in [14, 17] {
        let primary = Cluster::builder(major).wal_segment_mib(1).start();
        let standby = Cluster::standby_of(&primary);
        primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)");
        standby.wait_for_replay_of(&primary);
        let mut session = replication_session(&standby);
        let identity = session.identify_system().unwrap();
        assert_eq!(identity.timeline, TimelineId::FIRST);
        let start = Lsn(identity.flush.0 / MIB * MIB);
        let mut stream = session.start_replication(None, start, identity.timeline).unwrap();
        while !matches!(stream.next(Some(Duration::from_millis(500))).unwrap(), WalEvent::Timeout) {}
        standby.promote();
        let (next, switch) = loop {
            match stream.next(Some(Duration::from_secs(30))).unwrap() {
                WalEvent::EndOfTimeline { next, start } => break (next, start),
                WalEvent::Data { .. } | WalEvent::Keepalive { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        };
        stream.stop().unwrap();
        assert_eq!(next.get(), 2);
        let (name, content) = session.timeline_history(next).unwrap().unwrap();
        assert_eq!(name, "00000002.history");
        assert_eq!(content, std::fs::read(standby.data_dir().join("pg_wal").join(&name)).unwrap());
        assert!(String::from_utf8(content).unwrap().contains(&switch.to_string()));
        assert_eq!(session.timeline_history(TimelineId::new(9).unwrap()).unwrap(), None);
        // Nothing is left of the old timeline: its end comes at once.
        let mut stream = session.start_replication(None, switch, TimelineId::FIRST).unwrap();
        assert_eq!(stream.next(None).unwrap(), WalEvent::EndOfTimeline { next, start: switch });
        // The new one is streamed from the beginning of the segment that holds the switch.
        let from = Lsn(switch.0 / MIB * MIB);
        let mut stream = session.start_replication(None, from, next).unwrap();
        receive_until(&mut stream, from, switch);
        stream.stop().unwrap();
        let mut sql = sql_session(&standby);
        assert_eq!(sql.show("transaction_read_only").unwrap(), "off");
    }
}
