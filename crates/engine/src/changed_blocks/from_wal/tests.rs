//! Every reason for which summaries are not used, on an archive made by hand. The logs of real servers are in
//! `tests/changed_blocks.rs`.

use std::fs;

use pgkeep_format::timeline_history::Ancestor;
use pgkeep_format::wal::{EndOfWal, Fragment, RangeError, StopReason};
use pgkeep_format::{Fork, RelFileLocator, RelationFile};
use pgkeep_testkit::Scratch;

use super::*;
use crate::changed_blocks::FileChange;
use crate::made_up::{self, SEGMENT_BYTES, SYSTEM, segment_size};

const TABLE: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, number: 16384 };

struct Place {
    /// In memory where the machine has plenty: every object that is stored is flushed.
    scratch: Scratch,
    archive: WalArchive,
}

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

impl Place {
    fn new() -> Place {
        let scratch = Scratch::new();
        let stanza = made_up::stanza(scratch.path());
        let archive = stanza.wal(&stanza.records()[0]);
        Place { scratch, archive }
    }

    fn put(&self, summary: &SegmentSummary) {
        self.put_raw(summary, &summary.encode());
    }

    fn put_raw(&self, summary: &SegmentSummary, encoded: &[u8]) {
        let name = WalSegmentName::at(summary.timeline, summary.start, segment_size());
        self.put_object(WalFileName::Segment(name), summary, b"not read", encoded);
    }

    fn put_history(&self, timeline: u32, text: &str) {
        let name = WalFileName::TimelineHistory(tli(timeline));
        self.put_object(name, &segment(timeline, 0), text.as_bytes(), b"");
    }

    fn put_object(&self, name: WalFileName, summary: &SegmentSummary, bytes: &[u8], encoded: &[u8]) {
        made_up::put_wal(&self.archive, name, summary, bytes, encoded);
    }

    /// Segments 3 to 9 of timeline 1; segment `n` marks block `n`.
    fn filled() -> Place {
        let place = Place::new();
        (3..10).for_each(|number| place.put(&segment(1, number)));
        place
    }

    /// What changed between `parent` and `start` on `timeline`.
    fn ask(&self, parent: &ManifestHeader, start: Lsn, timeline: u32) -> Result<ChangedBlocks, NotUsable> {
        self.ask_with(parent, start, timeline, None)
    }

    fn ask_with(
        &self,
        parent: &ManifestHeader,
        start: Lsn,
        timeline: u32,
        local_wal: Option<&Path>,
    ) -> Result<ChangedBlocks, NotUsable> {
        let cancel = Cancel::default();
        let timeline = tli(timeline);
        let archive = &self.archive;
        from_wal(&WalRequest { archive, local_wal, parent, start, timeline, cancel: &cancel }).unwrap()
    }

    fn pg_wal(&self) -> std::path::PathBuf {
        let path = self.scratch.path().join("pg_wal");
        fs::create_dir_all(&path).unwrap();
        path
    }
}

fn at(segment: u64, offset: u64) -> Lsn {
    Lsn(segment * SEGMENT_BYTES + offset)
}

/// A summary that follows the one with the number before.
fn segment(timeline: u32, number: u64) -> SegmentSummary {
    let mut blocks = pgkeep_format::wal::BlockSummary::new();
    blocks.mark(TABLE, Fork::Main, u32::try_from(number).unwrap());
    made_up::summary(tli(timeline), at(number, 0), blocks)
}

/// A backup from 3/.. to 4/.. on timeline 1.
fn parent() -> ManifestHeader {
    ManifestHeader {
        system_identifier: SYSTEM,
        start_lsn: at(3, 40),
        stop_lsn: at(4, 500),
        wal_segment_size: 1 << 20,
        ..ManifestHeader::default()
    }
}

/// The blocks of the table that are read.
fn marked(changed: &ChangedBlocks) -> Vec<u32> {
    let file = RelationFile { locator: TABLE, fork: Fork::Main, segment: 0 };
    match changed.of_file(Some(&file), Some(100 * 8192), 100 * 8192) {
        FileChange::Blocks { marked, from: 100 } => marked,
        other => panic!("{other:?}"),
    }
}

fn name(timeline: u32, number: u64) -> String {
    WalSegmentName { timeline: tli(timeline), number: SegmentNumber(number) }.file_name(segment_size())
}

#[test]
fn the_range_is_from_the_parents_start_to_this_start() {
    let place = Place::filled();
    // Right after a switch nothing of segment 7 counts, and it need not be there.
    let changed = place.ask(&parent(), at(7, 40), 1).unwrap();
    assert_eq!(marked(&changed), [3, 4, 5, 6]);
    assert_eq!(changed.range(), WalRange { start: at(3, 40), end: at(7, 40), segments: 4 });
    assert_eq!(changed.marked_blocks(), 4);
    assert_eq!(marked(&place.ask(&parent(), at(10, 40), 1).unwrap()).len(), 7);
    assert_eq!(marked(&place.ask(&parent(), at(7, 48), 1).unwrap()), [3, 4, 5, 6, 7]);
    // A parent that began in the middle of a segment: all of that segment counts.
    let later = ManifestHeader { start_lsn: at(4, 300), ..parent() };
    assert_eq!(marked(&place.ask(&later, at(6, 0), 1).unwrap()), [4, 5]);
}

#[test]
fn a_gap_names_the_segment() {
    let place = Place::filled();
    assert_eq!(
        place.ask(&parent(), at(11, 40), 1).unwrap_err(),
        NotUsable::MissingSegment { segment: name(1, 10) }
    );
    let place = Place::new();
    (3..10).filter(|number| *number != 5).for_each(|number| place.put(&segment(1, number)));
    let reason = place.ask(&parent(), at(9, 40), 1).unwrap_err();
    assert_eq!(reason, NotUsable::MissingSegment { segment: name(1, 5) });
    assert_eq!(reason.to_string(), "WAL segment 000000010000000000000005 is missing");
}

#[test]
fn a_start_within_the_parent_is_refused() {
    let place = Place::filled();
    for start in [at(3, 0), at(3, 40), at(4, 400), at(4, 500)] {
        let reason = place.ask(&parent(), start, 1).unwrap_err();
        assert_eq!(reason, NotUsable::StartsBeforeParentEnds { start, parent_stop: at(4, 500) });
    }
}

#[test]
fn wal_that_does_not_tell_everything_is_refused() {
    type Change = fn(&mut SummaryFlags);
    let segment_6 = || name(1, 6);
    let cases: [(Change, NotUsable); 3] = [
        (|flags| flags.wal_level_minimal = true, NotUsable::WalLevelMinimal { segment: segment_6() }),
        (|flags| flags.unknown_change = true, NotUsable::UnknownChange { segment: segment_6() }),
        (
            |flags| flags.custom_resource_manager = true,
            NotUsable::CustomResourceManager { segment: segment_6() },
        ),
    ];
    for (change, reason) in cases {
        let place = Place::new();
        for number in 3..10 {
            let mut summary = segment(1, number);
            if number == 6 {
                change(&mut summary.flags);
            }
            place.put(&summary);
        }
        assert_eq!(place.ask(&parent(), at(8, 40), 1).unwrap_err(), reason);
        // What happened after this backup's start does not matter.
        assert!(place.ask(&parent(), at(6, 40), 1).is_ok());
    }
}

#[test]
fn a_record_across_segments_that_is_too_large_to_keep_makes_everything_unknown() {
    let place = Place::new();
    let piece = |start, end, length, held| Some(Fragment { start, end, length, held, bytes: None });
    (3..10).for_each(|number| {
        let mut summary = segment(1, number);
        if number == 5 {
            summary.tail = piece(at(5, 8192), at(6, 0), 3_000_000, 1_000_000);
        } else if number == 6 {
            // The middle of it, then its end in the next segment.
            summary.head = piece(at(6, 0), at(7, 0), 2_000_000, 1_040_000);
            (summary.first_previous, summary.last_record) = (None, None);
        } else if number == 7 {
            summary.head = piece(at(7, 0), at(8, 0), 960_000, 960_000);
            summary.first_previous = Some(at(5, 8192));
        }
        place.put(&summary);
    });
    assert_eq!(
        place.ask(&parent(), at(9, 40), 1).unwrap_err(),
        NotUsable::UnknownChange { segment: name(1, 7) }
    );
    // The record begins before the start, and where it ends is not looked at.
    assert!(matches!(
        place.ask(&parent(), at(7, 40), 1).unwrap_err(),
        NotUsable::ShortSegment { needed, .. } if needed == at(7, 40)
    ));
}

#[test]
fn a_segment_whose_wal_ends_early_is_not_enough() {
    let place = Place::new();
    for number in 3..10 {
        let mut summary = segment(1, number);
        if number == 6 {
            summary.end = at(6, 8192);
            summary.end_of_wal = Some(EndOfWal { at: at(6, 8192), reason: StopReason::BadChecksum });
        }
        place.put(&summary);
    }
    let reason = place.ask(&parent(), at(8, 40), 1).unwrap_err();
    assert_eq!(reason, NotUsable::ShortSegment { segment: name(1, 6), at: at(6, 8192), needed: at(7, 0) });
    // Where it has to reach only as far as it does, it is enough.
    assert!(place.ask(&parent(), at(6, 8192), 1).is_ok());
    assert!(place.ask(&parent(), at(6, 8200), 1).is_err());
}

#[test]
fn summaries_must_be_those_of_the_segments_named() {
    let damaged = |change: fn(&mut SegmentSummary)| {
        let place = Place::new();
        for number in 3..10 {
            let mut summary = segment(1, number);
            if number == 5 {
                let named = summary.clone();
                change(&mut summary);
                place.put_raw(&named, &summary.encode());
            } else {
                place.put(&summary);
            }
        }
        place.ask(&parent(), at(8, 40), 1).unwrap_err()
    };
    for change in [
        (|summary: &mut SegmentSummary| summary.timeline = tli(2)) as fn(&mut SegmentSummary),
        |summary| *summary = segment(1, 6),
        |summary| summary.system_identifier = 8,
    ] {
        assert!(
            matches!(damaged(change), NotUsable::DamagedSegment { segment, .. } if segment == name(1, 5))
        );
    }
    let other_log = damaged(|summary| summary.first_previous = Some(at(4, 0)));
    assert!(matches!(
        other_log,
        NotUsable::DoesNotFollow { segment, error: RangeError::OtherLog { .. } } if segment == name(1, 5)
    ));

    let place = Place::new();
    (3..10).for_each(|n| if n == 5 { place.put_raw(&segment(1, n), b"") } else { place.put(&segment(1, n)) });
    assert_eq!(place.ask(&parent(), at(8, 40), 1).unwrap_err(), NotUsable::NoSummary { segment: name(1, 5) });
    let place = Place::new();
    (3..10).for_each(|n| place.put_raw(&segment(1, n), b"\x01rubbish"));
    assert!(matches!(place.ask(&parent(), at(8, 40), 1).unwrap_err(), NotUsable::DamagedSegment { .. }));
}

#[test]
fn a_damaged_object_is_no_failure_of_the_backup() {
    let place = Place::filled();
    let segment = WalSegmentName { timeline: tli(1), number: SegmentNumber(5) };
    let object = place.scratch.path().join("repo").join(place.archive.key(WalFileName::Segment(segment)));
    let mut bytes = fs::read(&object).unwrap();
    bytes[20] ^= 1;
    fs::write(&object, bytes).unwrap();
    let reason = place.ask(&parent(), at(8, 40), 1).unwrap_err();
    assert!(matches!(reason, NotUsable::DamagedSegment { segment, .. } if segment == name(1, 5)));
}

/// Timeline 2 leaves 1 in the middle of segment 6.
fn promoted() -> Place {
    let place = Place::new();
    (3..9).for_each(|number| place.put(&segment(1, number)));
    (6..10).for_each(|number| place.put(&segment(2, number)));
    place.put_history(2, &format!("1\t{}\tno recovery target specified\n", at(6, 4096)));
    place
}

#[test]
fn segments_are_taken_from_the_right_timeline_across_a_promotion() {
    let place = promoted();
    let changed = place.ask(&parent(), at(9, 40), 2).unwrap();
    assert_eq!(changed.range().segments, 6);
    // The segment of the fork must be the new timeline's: the old one's lacks what came after the switch.
    let place = Place::new();
    (3..9).for_each(|number| place.put(&segment(1, number)));
    (7..10).for_each(|number| place.put(&segment(2, number)));
    place.put_history(2, &format!("1\t{}\tx\n", at(6, 4096)));
    assert_eq!(
        place.ask(&parent(), at(9, 40), 2).unwrap_err(),
        NotUsable::MissingSegment { segment: name(2, 6) }
    );
}

#[test]
fn a_parent_beyond_the_switch_is_off_the_history() {
    let place = promoted();
    let stop = |lsn| ManifestHeader { stop_lsn: lsn, ..parent() };
    assert!(place.ask(&stop(at(6, 4096)), at(9, 40), 2).is_ok());
    assert_eq!(
        place.ask(&stop(at(6, 4104)), at(9, 40), 2).unwrap_err(),
        NotUsable::OffHistory { parent_timeline: tli(1), parent_stop: at(6, 4104), timeline: tli(2) }
    );
    // A parent of the new timeline is not in the past of the old one.
    let newer = ManifestHeader { timeline: tli(2), start_lsn: at(7, 40), stop_lsn: at(7, 80), ..parent() };
    assert!(matches!(place.ask(&newer, at(8, 48), 1).unwrap_err(), NotUsable::OffHistory { .. }));
}

#[test]
fn the_history_must_be_known_and_be_the_servers() {
    let place = Place::filled();
    assert_eq!(place.ask(&parent(), at(9, 40), 2).unwrap_err(), NotUsable::NoHistory { timeline: tli(2) });
    // Not archived yet, but the server has it.
    let pg_wal = place.pg_wal();
    fs::write(pg_wal.join("00000002.history"), format!("1\t{}\tx\n", at(8, 0))).unwrap();
    place.put(&segment(2, 8));
    // The history is not what is missing now, but the segment that the server writes.
    let no_segment = NotUsable::MissingSegment { segment: name(2, 9) };
    assert_eq!(place.ask_with(&parent(), at(9, 40), 2, Some(&pg_wal)).unwrap_err(), no_segment);
    // Another server took the same timeline, and archived its history.
    place.put_history(2, &format!("1\t{}\ty\n", at(7, 0)));
    assert_eq!(
        place.ask_with(&parent(), at(9, 40), 2, Some(&pg_wal)).unwrap_err(),
        NotUsable::OtherHistory { timeline: tli(2) }
    );
    // The same but for the reason.
    fs::write(pg_wal.join("00000002.history"), format!("1\t{}\tz\n", at(7, 0))).unwrap();
    place.put(&segment(2, 7));
    assert_eq!(place.ask_with(&parent(), at(9, 40), 2, Some(&pg_wal)).unwrap_err(), no_segment);
    fs::write(pg_wal.join("00000002.history"), "rubbish").unwrap();
    let reason = place.ask_with(&parent(), at(9, 40), 2, Some(&pg_wal)).unwrap_err();
    assert!(matches!(reason, NotUsable::DamagedArchive { .. }));
}

#[test]
fn thousands_of_segments_are_merged() {
    let place = Place::new();
    (3..2_003).for_each(|number| place.put(&segment(1, number)));
    let changed = place.ask(&parent(), at(2_003, 40), 1).unwrap();
    assert_eq!(changed.range().segments, 2_000);
    assert_eq!(changed.marked_blocks(), 2_000);
}

#[test]
fn the_user_can_stop_it() {
    let place = Place::filled();
    let cancel = Cancel::default();
    cancel.cancel();
    let parent = parent();
    let request = WalRequest {
        archive: &place.archive,
        local_wal: None,
        parent: &parent,
        start: at(7, 40),
        timeline: tli(1),
        cancel: &cancel,
    };
    assert_eq!(from_wal(&request).unwrap_err().kind, ErrorKind::Interrupted);
}

#[test]
fn names_follow_the_history() {
    let ancestor = |timeline, switch| Ancestor { timeline: tli(timeline), switch, reason: String::new() };
    let history = TimelineHistory {
        timeline: tli(3),
        ancestors: vec![ancestor(1, at(4, 100)), ancestor(2, at(4, 900))],
    };
    let path = TimelinePath::of_history(&history);
    let names = |from, end| -> Vec<Vec<u32>> {
        needed_segments(&path, segment_size(), from, end)
            .into_iter()
            .map(|needed| needed.names.iter().map(|name| name.timeline.get()).collect())
            .collect()
    };
    // Both forks lie in segment 4: only timeline 3 has all of it.
    assert_eq!(names(at(3, 0), at(6, 0)), [vec![1], vec![3], vec![3]]);
    // Up to before the first fork any of the three has it.
    assert_eq!(names(at(4, 0), at(4, 100)), [vec![3, 2, 1]]);
    assert_eq!(names(at(4, 0), at(4, 800)), [vec![3, 2]]);
    assert_eq!(names(at(4, 40), at(4, 0)), Vec::<Vec<u32>>::new());
}
