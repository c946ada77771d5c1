//! The frozen repository of format 1 stays readable, byte for byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::BTreeMap;

use pgkeep_format::{TimelineId, WalFileName, WalSegmentSize};
use pgkeep_repo::*;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1");

/// Name → (digest, length).
fn expected() -> BTreeMap<String, (String, usize)> {
    let text = std::fs::read_to_string(format!("{SAMPLE}/expected.txt")).unwrap();
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(3, ' ');
            let mut next = || fields.next().unwrap().to_owned();
            let (digest, length, name) = (next(), next().parse().unwrap(), next());
            (name, (digest, length))
        })
        .collect()
}

fn of(bytes: &[u8]) -> (String, usize) {
    (blake3::hash(bytes).to_string(), bytes.len())
}

#[test]
fn every_file_of_the_sample_is_what_it_was() {
    let repository = Repository::open(Store::open(&format!("{SAMPLE}/repository")).unwrap()).unwrap();
    assert_eq!(repository.stanzas().unwrap(), ["main"]);
    let stanza = repository.stanza("main").unwrap();
    assert_eq!(stanza.records().len(), 2);
    let mut expected = expected();
    let listed = stanza.backups().unwrap();
    assert_eq!(
        listed.iter().map(|b| b.id.to_string()).collect::<Vec<_>>(),
        ["000001-20261122T093000Z", "000002-20261122T093000Z", "000003-20261122T093000Z"]
    );
    for listing in listed {
        let reader = stanza.backup(listing.id).unwrap();
        let (mut directories, mut links) = (0, 0);
        for entry in reader.files() {
            let entry = entry.unwrap();
            match &entry.kind {
                FileKind::File { .. } => {
                    let bytes = common::read_file(&reader, &entry).unwrap();
                    let name = format!("{}:{}", listing.id, entry.path_text());
                    assert_eq!(expected.remove(&name), Some(of(&bytes)), "{name}");
                    let map = reader.map(&entry).unwrap();
                    assert_eq!(map.digests().unwrap().len(), map.block_count() as usize);
                }
                FileKind::Directory => directories += 1,
                FileKind::Symlink { .. } => links += 1,
            }
        }
        assert_eq!((directories, links), (4, 2));
        for pack in &reader.header().packs {
            reader.check_pack(pack, PackCheck::Digests).unwrap();
        }
        let tail = &reader.header().wal_tail[0];
        assert_eq!(reader.wal_tail(tail).unwrap().bytes, b"an unfinished segment");
    }
    let archive = stanza.wal(&stanza.records()[0]);
    assert_eq!(archive.segment_size(), WalSegmentSize::try_from(1 << 20).unwrap());
    for timeline in archive.timelines().unwrap() {
        for name in archive.list(timeline).unwrap() {
            let file = archive.get(name).unwrap().unwrap();
            let file_name = name.file_name(archive.segment_size());
            assert_eq!(expected.remove(&file_name), Some(of(&file.bytes)), "{file_name}");
            if matches!(name, WalFileName::Segment(_)) {
                assert_eq!(archive.summary(name).unwrap().unwrap().1, b"summary");
                assert_eq!(file.header.facts.last_commit_time, Some(2));
            }
        }
    }
    assert!(expected.is_empty(), "{expected:?}");
    assert_eq!(archive.conflicts(TimelineId::FIRST).unwrap().len(), 1);
    assert_eq!(stanza.reports().unwrap().len(), 1);
}

/// A digest computed today is the one that was stored: keys and cuts have not changed.
#[test]
fn digests_are_computed_as_they_were() {
    let key = DigestKey::new(&[0x42; 32]);
    assert_eq!(format!("{:?}", key.block(b"pgkeep")), "e52b5c6a3619a7b1");
    assert_eq!(
        format!("{}", key.wal(b"pgkeep")),
        "1417cf2ffe66c829d9b1d2a061a98a617dcfb6aa006f3111eb3dabbe4d85f1f7"
    );
}
