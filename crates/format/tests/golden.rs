//! What the modules make of bytes that real servers of every supported major wrote (see `testdata/README.md`).

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashMap;
use std::path::PathBuf;

use pgkeep_format::pg_manifest::PgManifest;
use pgkeep_format::tar::{TarEntry, TarEntryKind, TarEvent, TarReader};
use pgkeep_format::{
    BackupLabel, ClusterState, ControlFile, Lsn, PageVerdict, TimelineHistory, TimelineId, WalLevel,
    page_checksum, page_lsn, tablespace_map, verify_page,
};

const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

fn golden(major: u32, name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/pg{major}/{name}"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn golden_text(major: u32, name: &str) -> String {
    String::from_utf8(golden(major, name)).expect("golden texts are UTF-8")
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

#[test]
fn the_control_file_says_what_pg_controldata_says() {
    for major in MAJORS {
        for kind in ["checksums", "odd"] {
            let control = ControlFile::parse(&golden(major, &format!("pg_control.{kind}"))).unwrap();
            assert_eq!(control.major(), Some(major));
            let text = golden_text(major, &format!("pg_control.{kind}.txt"));
            let said: HashMap<&str, &str> = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name, value.trim()))
                .collect();
            let state = match control.state {
                ClusterState::ShutDown => "shut down",
                ClusterState::InProduction => "in production",
                other => panic!("{other:?}"),
            };
            let wal_level = match control.wal_level {
                WalLevel::Minimal => "minimal",
                WalLevel::Replica => "replica",
                WalLevel::Logical => "logical",
            };
            let next_xid = format!("{}:{}", control.next_xid >> 32, control.next_xid & 0xFFFF_FFFF);
            let expected = [
                ("pg_control version number", control.control_version.to_string()),
                ("Catalog version number", control.catalog_version.to_string()),
                ("Database system identifier", control.system_identifier.to_string()),
                ("Database cluster state", state.to_owned()),
                ("Latest checkpoint location", control.checkpoint.to_string()),
                ("Latest checkpoint's REDO location", control.redo.to_string()),
                ("Latest checkpoint's TimeLineID", control.timeline.to_string()),
                ("Latest checkpoint's PrevTimeLineID", control.previous_timeline.to_string()),
                ("Latest checkpoint's full_page_writes", on_off(control.full_page_writes).to_owned()),
                ("Latest checkpoint's NextXID", next_xid),
                ("Latest checkpoint's NextOID", control.next_oid.to_string()),
                ("Latest checkpoint's oldestXID", control.oldest_xid.to_string()),
                ("Minimum recovery ending location", control.min_recovery_point.to_string()),
                ("Min recovery ending loc's timeline", control.min_recovery_timeline.to_string()),
                ("Backup start location", control.backup_start_point.to_string()),
                ("Backup end location", control.backup_end_point.to_string()),
                ("wal_level setting", wal_level.to_owned()),
                ("wal_log_hints setting", on_off(control.wal_log_hints).to_owned()),
                ("max_connections setting", control.max_connections.to_string()),
                ("max_worker_processes setting", control.max_worker_processes.to_string()),
                ("max_wal_senders setting", control.max_wal_senders.to_string()),
                ("max_prepared_xacts setting", control.max_prepared_xacts.to_string()),
                ("max_locks_per_xact setting", control.max_locks_per_xact.to_string()),
                ("track_commit_timestamp setting", on_off(control.track_commit_timestamp).to_owned()),
                ("Database block size", control.block_size.to_string()),
                ("Blocks per segment of large relation", control.relation_segment_blocks.to_string()),
                ("WAL block size", control.wal_block_size.to_string()),
                ("Bytes per WAL segment", control.wal_segment_size.bytes().to_string()),
                ("Data page checksum version", control.checksum_version.to_string()),
            ];
            for (name, value) in expected {
                assert_eq!(said.get(name), Some(&value.as_str()), "{name} of {major} {kind}");
            }
            assert!(!control.backup_end_required);
            assert_eq!(control.has_checksums(), kind == "checksums");
            // `Sun Nov 22 09:38:10 2026` in UTC; the day is the same for all of them.
            for (name, time) in [
                ("pg_control last modified", control.time),
                ("Time of latest checkpoint", control.checkpoint_time),
            ] {
                let seconds = time - 1_795_305_600;
                let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
                assert_eq!(
                    said.get(name),
                    Some(&format!("Sun Nov 22 {clock} 2026").as_str()),
                    "{name} of {major}"
                );
            }
        }
    }
}

#[test]
fn labels_are_read_and_printed_as_servers_write_them() {
    for major in MAJORS {
        let text = golden_text(major, "backup_label");
        let label = BackupLabel::parse(&text).unwrap();
        assert_eq!(label.label, format!("nightly: of {major}"));
        assert_eq!(label.to_string(), text);
        let text = golden_text(major, "tablespace_map");
        let map = tablespace_map::parse(&text).unwrap();
        assert_eq!(map.len(), 1);
        assert_eq!(tablespace_map::write(&map), text);
    }
}

#[test]
fn histories_are_read_and_printed_as_servers_write_them() {
    for major in [14, 18] {
        let text = golden_text(major, "00000003.history");
        let timeline = TimelineId::new(3).unwrap();
        let history = TimelineHistory::parse(timeline, text.as_bytes()).unwrap();
        let ancestors: Vec<_> = history.ancestors.iter().map(|a| (a.timeline.get(), a.switch)).collect();
        assert_eq!(ancestors, [(1, Lsn(0x0300_00A0)), (2, Lsn(0x0300_0190))]);
        assert_eq!(history.to_string(), text);
    }
}

#[test]
fn pages_are_valid_at_their_blocks_only() {
    for major in [14, 18] {
        for (name, block) in [("page.heap.3", 3), ("page.vm.0", 0), ("page.btree.1", 1)] {
            let page = golden(major, name);
            assert_eq!(verify_page(&page, block), PageVerdict::Valid, "{name} of {major}");
            let computed = page_checksum(&page, block + 1);
            let stored = u16::from_le_bytes([page[8], page[9]]);
            assert_eq!(verify_page(&page, block + 1), PageVerdict::BadChecksum { stored, computed });
            let lsn = page_lsn(&page);
            assert!(lsn > Lsn(0x0100_0000) && lsn < Lsn(0x0300_0000), "{lsn}");
        }
    }
}

fn read(bytes: &[u8]) -> (Vec<(TarEntry, Vec<u8>)>, bool) {
    let mut reader = TarReader::new();
    let mut entries: Vec<(TarEntry, Vec<u8>)> = Vec::new();
    let mut input = bytes;
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            TarEvent::Entry(entry) => entries.push((entry, vec![])),
            TarEvent::Data(data) => entries.last_mut().unwrap().1.extend_from_slice(data),
            TarEvent::EndOfEntry => {}
        }
    }
    let has_ended = reader.has_ended();
    reader.finish().unwrap();
    (entries, has_ended)
}

#[test]
fn archives_of_base_backups_are_read() {
    for major in MAJORS {
        let (entries, has_ended) = read(&golden(major, "base.tar"));
        assert_eq!(has_ended, major >= 15);
        let (entry, contents) = &entries[0];
        assert_eq!(entry.path, b"backup_label");
        assert_eq!((entry.kind, entry.mode), (TarEntryKind::File, 0o600));
        assert_eq!(contents, &golden(major, "backup_label"));
        let version = entries.iter().find(|(entry, _)| entry.path == b"PG_VERSION").unwrap();
        assert_eq!(version.1, format!("{major}\n").into_bytes());
        let directory = entries.iter().find(|(entry, _)| entry.path == b"base/1").unwrap();
        assert_eq!((directory.0.kind, directory.0.mode), (TarEntryKind::Directory, 0o700));

        let (entries, _) = read(&golden(major, "tablespace.tar"));
        assert!(entries.iter().all(|(entry, _)| entry.path.starts_with(format!("PG_{major}_").as_bytes())));
        assert!(entries.iter().any(|(entry, _)| entry.kind == TarEntryKind::File));
    }
}

#[test]
fn manifests_of_base_backups_are_read() {
    for major in MAJORS {
        let bytes = golden(major, "backup_manifest");
        let text = String::from_utf8(bytes.clone()).unwrap();
        let (_, checksum) = text.rsplit_once("\"Manifest-Checksum\": \"").unwrap();
        // No SHA-256 in this crate: this checks that it would be asked for, of the right bytes.
        let mut covered = Vec::new();
        let manifest = PgManifest::parse(&bytes, |bytes| {
            covered = bytes.to_vec();
            let mut digest = [0; 32];
            for (place, at) in digest.iter_mut().zip((0..).step_by(2)) {
                *place = u8::from_str_radix(&checksum[at..at + 2], 16).unwrap();
            }
            digest
        })
        .unwrap();
        assert!(covered.ends_with(b"],\n") && covered.len() == text.find("\"Manifest-Checksum\"").unwrap());
        assert_eq!(manifest.version, if major >= 17 { 2 } else { 1 });
        assert_eq!(manifest.files.len(), 4);
        let label = manifest.files.iter().find(|file| file.path == b"backup_label").unwrap();
        assert_eq!(label.size, golden(major, "backup_label").len() as u64);
        let crc = crc_fast::crc32_iscsi(&golden(major, "backup_label"));
        assert_eq!(label.checksum.as_ref().unwrap().bytes, crc.to_le_bytes());
        assert_eq!(manifest.wal_ranges.len(), 1);
        let digest = |bytes: &[u8]| {
            assert_eq!(bytes, covered);
            [0; 32]
        };
        assert_eq!(manifest.write(digest)[..covered.len()], covered);
    }
}
