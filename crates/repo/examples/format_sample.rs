//! Writes the sample repository of the current format: `cargo run -p pgkeep-repo --example format_sample DIRECTORY`.
//!
//! Run once for each format version, into `testdata/format/v<version>/`; then the sample is frozen, because what it is
//! for is that later programs still read what this one wrote. `tests/format_v1.rs` reads it.

#![allow(clippy::unwrap_used, reason = "whoever runs it sees what failed")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write;

use common::{BLOCK, Contents, cluster, facts, header, lease, noise, now, segment, write_files};
use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::{ClusterRecord, Compression, PutWal, Repository, Stanza, Store, WalFacts, WalObject};

/// Few bytes stored, many shapes of maps.
fn contents() -> Contents {
    let page = |seed: u64| {
        let mut page = noise(seed, 24);
        page.resize(BLOCK, seed as u8);
        page
    };
    let pages = |seeds: std::ops::Range<u64>| seeds.flat_map(page).collect::<Vec<u8>>();
    let mut files = Contents::new();
    files.insert("PG_VERSION".into(), b"17\n".to_vec());
    files.insert("global/pg_control".into(), noise(1, 296));
    files.insert("base/5/empty".into(), Vec::new());
    files.insert("base/5/zeros".into(), vec![0; 3 * BLOCK]);
    files.insert("base/5/1259".into(), pages(10..27));
    files.insert("base/5/16384".into(), {
        let mut bytes = pages(100..700);
        bytes[7 * BLOCK..9 * BLOCK].fill(0);
        bytes[256 * BLOCK..512 * BLOCK].fill(0);
        bytes.truncate(599 * BLOCK + 77);
        bytes
    });
    files.insert("pg_tblspc/16400/PG_17_202406281/5/16401".into(), pages(900..901));
    files
}

fn wal(stanza: &Stanza, expected: &mut String) {
    let archive = stanza.wal(&stanza.records()[0]);
    let mut bytes = noise(50, 4096);
    bytes.resize(1 << 20, 0);
    for (number, compression) in [(1, Compression::Zstd(3)), (2, Compression::Lz4)] {
        bytes[0] = number as u8;
        let object = WalObject { compression, ..segment(number, &bytes) };
        assert_eq!(archive.put(&object).unwrap(), PutWal::Stored);
        record(expected, &object.file_name(), &bytes);
    }
    let timeline = TimelineId::new(2).unwrap();
    let name = WalSegmentName { timeline, number: SegmentNumber(3) };
    let facts = WalFacts { timeline, first_commit_time: None, last_commit_time: None, ..facts(3) };
    for (name, text) in [
        (WalFileName::TimelineHistory(timeline), "1\t0/300000\tno recovery target specified\n"),
        (WalFileName::Partial(name), "the end of a timeline"),
        (WalFileName::BackupHistory { segment: name, offset: 40 }, "START WAL LOCATION: 0/300028\n"),
    ] {
        let object =
            WalObject { name, facts, bytes: text.as_bytes(), summary: b"", compression: Compression::None };
        assert_eq!(archive.put(&object).unwrap(), PutWal::Stored);
        record(expected, &object.file_name(), text.as_bytes());
    }
    archive.keep_conflict(&segment(1, b"of another primary")).unwrap();
}

fn record(expected: &mut String, name: &str, bytes: &[u8]) {
    writeln!(expected, "{} {} {name}", blake3::hash(bytes), bytes.len()).unwrap();
}

fn main() {
    let directory = std::env::args().nth(1).expect("a directory is named");
    let store = Store::open_or_create(&format!("{directory}/repository")).unwrap();
    let repository = Repository::create(store, now()).unwrap();
    let stanza = repository.create_stanza("main", &cluster()).unwrap();
    let stanza = stanza.add_record(&ClusterRecord { system_identifier: 18, major: 18, ..cluster() }).unwrap();
    let mut expected = String::new();
    let files = contents();
    for (compression, frame_blocks) in
        [(Compression::Zstd(3), 16), (Compression::Lz4, 5), (Compression::None, 1)]
    {
        let mut files = files.clone();
        if compression == Compression::None {
            files.retain(|path, _| path != "base/5/16384");
        }
        let mut writer = stanza.begin_backup(now(), lease()).unwrap();
        for path in ["base", "base/5", "global", "pg_tblspc"] {
            writer.add_directory(path, 0o700, 1_700_000_000).unwrap();
        }
        writer.add_symlink("pg_tblspc/16400", 0o777, 1_700_000_000, "/mnt/space").unwrap();
        writer.add_symlink(*b"not UTF-8 \xFF", 0o777, 1_700_000_000, *b"\xFE").unwrap();
        write_files(&mut writer, repository.digest_key(), &files, compression, frame_blocks);
        writer.put_wal_tail(&segment(4, b"an unfinished segment")).unwrap();
        let id = writer.commit(header()).unwrap().id;
        for (path, bytes) in &files {
            record(&mut expected, &format!("{id}:{path}"), bytes);
        }
    }
    // A backup that was killed: a lease and a pack, no manifest.
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    write_files(&mut writer, repository.digest_key(), &files, Compression::Zstd(3), 16);
    std::mem::forget(writer);
    wal(&stanza, &mut expected);
    stanza.put_report(now(), "backup", b"{}".to_vec()).unwrap();
    std::fs::write(format!("{directory}/expected.txt"), expected).unwrap();
}
