//! The WAL archive: write-once by name, conflicts kept, everything read back is proved.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use common::*;
use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::*;

fn archive(place: &Place) -> WalArchive {
    let stanza = place.stanza();
    stanza.wal(&stanza.records()[0])
}

#[test]
fn a_segment_comes_back_with_what_is_known_about_it() {
    let place = Place::new();
    let archive = archive(&place);
    let mut bytes = noise(1, 1 << 20);
    bytes[700_000..].fill(0);
    for (compression, number) in [(Compression::None, 1), (Compression::Lz4, 2), (Compression::Zstd(3), 3)] {
        let object = WalObject { compression, ..segment(number, &bytes) };
        assert_eq!(archive.put(&object).unwrap(), PutWal::Stored);
        let file = archive.get(object.name).unwrap().unwrap();
        assert!(file.bytes == bytes);
        assert_eq!(file.header.facts, object.facts);
        assert_eq!(file.header.kind, WalKind::Segment);
        assert_eq!(archive.header(object.name).unwrap().unwrap(), file.header);
        assert_eq!(archive.summary(object.name).unwrap().unwrap(), (file.header, b"summary".to_vec()));
    }
    assert!(archive.get(segment_name(9)).unwrap().is_none());
    assert!(archive.header(segment_name(9)).unwrap().is_none());
    assert!(archive.summary(segment_name(9)).unwrap().is_none());
}

#[test]
fn the_same_file_is_accepted_again_and_another_is_refused_and_kept() {
    let place = Place::new();
    let archive = archive(&place);
    let (one, other) = (noise(1, 1 << 20), noise(2, 1 << 20));
    assert_eq!(archive.put(&segment(1, &one)).unwrap(), PutWal::Stored);
    // Another compression does not make another file.
    let again = WalObject { compression: Compression::None, ..segment(1, &one) };
    assert_eq!(archive.put(&again).unwrap(), PutWal::Identical);
    match archive.put(&segment(1, &other)).unwrap() {
        PutWal::Different { stored_digest, refused_digest } => {
            assert_eq!(archive.header(segment_name(1)).unwrap().unwrap().digest, stored_digest);
            assert_ne!(stored_digest, refused_digest);
        }
        answer => panic!("{answer:?}"),
    }
    let key = archive.keep_conflict(&segment(1, &other)).unwrap();
    assert_eq!(archive.keep_conflict(&segment(1, &other)).unwrap(), key);
    assert_eq!(archive.conflicts(TimelineId::FIRST).unwrap(), [key]);
    assert!(archive.get(segment_name(1)).unwrap().unwrap().bytes == one);
    assert_eq!(archive.list_segments(TimelineId::FIRST).unwrap().len(), 1);
}

#[test]
fn all_kinds_of_files_have_their_place() {
    let place = Place::new();
    let archive = archive(&place);
    let second = TimelineId::new(2).unwrap();
    let size = archive.segment_size();
    for number in [5_000, 4, 4_095, 4_096] {
        archive.put(&segment(number, b"short")).unwrap();
    }
    let name = WalSegmentName { timeline: second, number: SegmentNumber(7) };
    let start = size.start_of(name.number);
    let history = WalFileName::TimelineHistory(second);
    for file in
        [WalFileName::Partial(name), WalFileName::BackupHistory { segment: name, offset: 40 }, history]
    {
        let facts = WalFacts { timeline: second, start, ..facts(7) };
        let object = WalObject { name: file, facts, summary: b"", ..segment(7, b"contents") };
        assert_eq!(archive.put(&object).unwrap(), PutWal::Stored);
        assert_eq!(archive.get(file).unwrap().unwrap().bytes, b"contents");
        assert!(archive.summary(file).unwrap().unwrap().1.is_empty());
    }
    assert_eq!(archive.timelines().unwrap(), [TimelineId::FIRST, second]);
    let numbers: Vec<u64> =
        archive.list_segments(TimelineId::FIRST).unwrap().iter().map(|s| s.number.0).collect();
    assert_eq!(numbers, [4, 4_095, 4_096, 5_000]);
    assert_eq!(archive.list(second).unwrap().len(), 3);
    assert!(archive.list_segments(second).unwrap().is_empty());
    assert_eq!(archive.history(second).unwrap().unwrap(), b"contents");
    assert!(archive.history(TimelineId::FIRST).unwrap().is_none());
    assert_eq!(archive.key(history), "main/wal/000001/00000002/history/00000002.history");
    assert_eq!(
        archive.key(segment_name(4_096)),
        "main/wal/000001/00000001/00000001/000000010000000100000000"
    );
}

#[test]
fn a_file_under_a_wrong_name_is_noticed() {
    let place = Place::new();
    let archive = archive(&place);
    archive.put(&segment(1, b"one")).unwrap();
    let bytes = std::fs::read(place.path(&archive.key(segment_name(1)))).unwrap();
    std::fs::write(place.path(&archive.key(segment_name(2))), bytes).unwrap();
    assert!(matches!(archive.get(segment_name(2)), Err(RepoError::Corrupt { .. })));
    assert!(matches!(archive.header(segment_name(2)), Err(RepoError::Corrupt { .. })));
}

#[test]
fn any_flipped_or_missing_byte_is_noticed() {
    let place = Place::new();
    let archive = archive(&place);
    let bytes = noise(3, 1_500);
    archive.put(&segment(1, &bytes)).unwrap();
    let path = place.path(&archive.key(segment_name(1)));
    let stored = std::fs::read(&path).unwrap();
    for at in 0..stored.len() {
        let mut broken = stored.clone();
        broken[at] ^= 1 << (at % 8);
        std::fs::write(&path, &broken).unwrap();
        // The summary is no part of the file: its damage is noticed by who reads the summary.
        let summary_broken = archive.summary(segment_name(1)).is_err();
        assert!(archive.get(segment_name(1)).is_err() || summary_broken, "byte {at}");
        std::fs::write(&path, &stored[..at]).unwrap();
        assert!(archive.get(segment_name(1)).is_err(), "cut at {at}");
        // A put flushes, which takes its time.
        if at % 97 == 0 {
            assert!(archive.put(&segment(1, &bytes)).is_err(), "put over one cut at {at}");
        }
    }
    std::fs::write(&path, &stored).unwrap();
    assert_eq!(archive.put(&segment(1, &bytes)).unwrap(), PutWal::Identical);
}

#[test]
fn a_repository_that_went_away_is_not_taken_for_an_absent_file() {
    let place = Place::new();
    let archive = archive(&place);
    assert!(archive.get(segment_name(1)).unwrap().is_none());
    std::fs::rename(&place.location, place.directory.path().join("unmounted")).unwrap();
    std::fs::create_dir(&place.location).unwrap();
    assert!(matches!(archive.get(segment_name(1)), Err(RepoError::NotARepository { .. })));
    assert!(matches!(archive.header(segment_name(1)), Err(RepoError::NotARepository { .. })));
    assert!(matches!(archive.summary(segment_name(1)), Err(RepoError::NotARepository { .. })));
}

#[test]
fn of_many_that_put_one_file_at_once_one_stores_it() {
    let place = Place::new();
    let archive = archive(&place);
    let (bytes, other) = (noise(1, 1 << 16), noise(2, 1 << 16));
    let answers: Vec<PutWal> = std::thread::scope(|scope| {
        let put = |i: usize| {
            let (archive, bytes) = (archive.clone(), if i == 7 { &other } else { &bytes });
            scope.spawn(move || archive.put(&segment(1, bytes)).unwrap())
        };
        let threads: Vec<_> = (0..8).map(put).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|a| **a == PutWal::Stored).count(), 1, "{answers:?}");
    assert!(answers.iter().any(|a| matches!(a, PutWal::Different { .. })));
    let stored = archive.get(segment_name(1)).unwrap().unwrap().bytes;
    assert!(stored == if answers[7] == PutWal::Stored { other } else { bytes });
}

#[test]
fn tails_are_objects_of_their_own_and_the_longest_counts() {
    let place = Place::new();
    let archive = archive(&place);
    let bytes = noise(1, 20_000);
    let name = |number| WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(number) };
    let tail = |number, length: usize| WalObject {
        name: WalFileName::Partial(name(number)),
        ..segment(number, &bytes[..length])
    };
    for length in [9000, 20_000, 12_000] {
        let stored = archive.put_tail(&tail(4, length)).unwrap();
        assert_eq!(stored, WalTail { segment: name(4), length: u32::try_from(length).unwrap() });
    }
    archive.put_tail(&tail(5, 100)).unwrap();
    let newest = archive.newest_tail(name(4)).unwrap().unwrap();
    assert!(newest.bytes == bytes);
    assert_eq!(newest.header.kind, WalKind::Partial);
    assert_eq!(archive.newest_tail_summary(name(4)).unwrap().unwrap().0, newest.header);
    assert!(archive.newest_tail(name(6)).unwrap().is_none());
    let lengths = |archive: &WalArchive| -> Vec<u32> {
        archive.tails(TimelineId::FIRST).unwrap().iter().map(|tail| tail.length).collect()
    };
    assert_eq!(lengths(&archive), [9000, 12_000, 20_000, 100]);
    // They are no files of the archive.
    assert!(archive.list(TimelineId::FIRST).unwrap().is_empty());
    assert!(archive.get(WalFileName::Partial(name(4))).unwrap().is_none());
    let longest = WalTail { segment: name(4), length: 20_000 };
    archive.remove_tail(longest).unwrap();
    archive.remove_tail(longest).unwrap();
    assert_eq!(archive.newest_tail(name(4)).unwrap().unwrap().bytes.len(), 12_000);
    // A whole segment is no tail.
    assert!(archive.put_tail(&segment(4, &bytes)).is_err());
}
