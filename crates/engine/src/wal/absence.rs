//! Is a file that is not in the archive certainly not there, or should it be?
//!
//! PostgreSQL takes "not there" for the end of the archive: it stops recovery, and promotes. So a hole in the middle may
//! not be answered with it. What it asks for without expecting it (`XLogFileReadAnyTLI` and `findNewestTimeLine`):
//! segments under each timeline of the target's history that had begun by then, newest first; the segment after the last
//! one; the history files of timelines after the newest, until one is missing; at the start, those of the timelines
//! between the backup's and the target's. `docs/design/0005-wal-get-exit-codes-and-gaps.md` has the reasoning.

use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::{TimelineId, WalSegmentName};

use crate::archive_index::ArchiveIndex;

/// What the absence of a segment means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SegmentAbsence {
    /// The archive ends before it, or it never had this name.
    Expected,
    /// It must have existed: later WAL of its timeline is there.
    Hole {
        /// The first and last of the missing segments around it.
        first: WalSegmentName,
        last: WalSegmentName,
    },
}

/// What the absence of a history file means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HistoryAbsence {
    /// There is no such timeline.
    Expected,
    /// A descendant's history repeats it.
    Known(TimelineHistory),
    /// The timeline, or one after it, exists: without this file recovery would end on an older one.
    Hole {
        /// What shows that.
        because: String,
    },
}

/// What it means that `segment` is not in the archive.
pub(crate) fn of_segment(index: &ArchiveIndex, segment: WalSegmentName) -> SegmentAbsence {
    if index.has(segment) || !index.is_hole(segment) {
        return SegmentAbsence::Expected;
    }
    let timeline = segment.timeline;
    let (first, last) = index
        .gaps()
        .into_iter()
        .find(|gap| gap.timeline == timeline && gap.first <= segment.number && segment.number <= gap.last)
        .map_or((segment.number, segment.number), |gap| (gap.first, gap.last));
    SegmentAbsence::Hole {
        first: WalSegmentName { timeline, number: first },
        last: WalSegmentName { timeline, number: last },
    }
}

/// What it means that the history file of `timeline` is not in the archive.
pub(crate) fn of_history(index: &ArchiveIndex, timeline: TimelineId) -> HistoryAbsence {
    if let Some(history) = index.tree().history(timeline) {
        // The first timeline of a history has no history of its own.
        return if history.ancestors.is_empty() {
            HistoryAbsence::Expected
        } else {
            HistoryAbsence::Known(history)
        };
    }
    // An archive that began on a later timeline holds no history of it, and of none before.
    let began_on = index.timelines_with_wal().next();
    if began_on.is_none_or(|first| timeline <= first) {
        return HistoryAbsence::Expected;
    }
    if !index.runs(timeline).is_empty() {
        return HistoryAbsence::Hole { because: format!("the archive holds WAL of timeline {timeline}") };
    }
    let later = index.tree().histories().map(|history| history.timeline).find(|later| *later > timeline);
    match later {
        Some(later) => {
            HistoryAbsence::Hole { because: format!("the archive holds the history of timeline {later}") }
        }
        None => HistoryAbsence::Expected,
    }
}

#[cfg(test)]
mod tests {
    use pgkeep_format::timeline_history::Ancestor;
    use pgkeep_format::{Lsn, SegmentNumber, WalSegmentSize};

    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn segment(timeline: u32, number: u64) -> WalSegmentName {
        WalSegmentName { timeline: tli(timeline), number: SegmentNumber(number) }
    }

    fn history(timeline: u32, ancestors: &[(u32, u64)]) -> TimelineHistory {
        TimelineHistory {
            timeline: tli(timeline),
            ancestors: ancestors
                .iter()
                .map(|(t, number)| Ancestor {
                    timeline: tli(*t),
                    switch: Lsn(number * SIZE.bytes() + 100),
                    reason: String::new(),
                })
                .collect(),
        }
    }

    fn index(
        segments: &[(u32, std::ops::RangeInclusive<u64>)],
        histories: Vec<TimelineHistory>,
    ) -> ArchiveIndex {
        let names = segments.iter().flat_map(|(t, range)| range.clone().map(|n| segment(*t, n)));
        ArchiveIndex::new(SIZE, names.collect::<Vec<_>>(), histories)
    }

    #[test]
    fn the_segment_after_the_last_is_the_end() {
        let index = index(&[(1, 3..=5)], vec![]);
        assert_eq!(of_segment(&index, segment(1, 6)), SegmentAbsence::Expected);
        assert_eq!(of_segment(&index, segment(1, 99)), SegmentAbsence::Expected);
    }

    #[test]
    fn a_hole_is_named_from_end_to_end() {
        let index = index(&[(1, 3..=5), (1, 8..=9)], vec![]);
        let hole = SegmentAbsence::Hole { first: segment(1, 6), last: segment(1, 7) };
        assert_eq!(of_segment(&index, segment(1, 6)), hole);
        assert_eq!(of_segment(&index, segment(1, 7)), hole);
        // Before the archive began: what a backup older than it would need.
        assert!(matches!(of_segment(&index, segment(1, 2)), SegmentAbsence::Hole { .. }));
    }

    #[test]
    fn probing_newer_timelines_first_is_expected() {
        // 2 forked off 1 in segment 5; recovery towards 2 asks for segments under 2 first.
        let index = index(&[(1, 3..=4), (2, 5..=7)], vec![history(2, &[(1, 5)])]);
        for number in 3..5 {
            assert_eq!(of_segment(&index, segment(2, number)), SegmentAbsence::Expected, "{number}");
        }
        // The last segment of timeline 1 is a `.partial`.
        assert_eq!(of_segment(&index, segment(1, 5)), SegmentAbsence::Expected);
        assert_eq!(of_segment(&index, segment(2, 8)), SegmentAbsence::Expected);
        assert_eq!(of_segment(&index, segment(1, 8)), SegmentAbsence::Expected);
    }

    #[test]
    fn wal_lost_before_a_promotion_is_a_hole() {
        let index = index(&[(1, 3..=4), (2, 7..=8)], vec![history(2, &[(1, 7)])]);
        assert_eq!(
            of_segment(&index, segment(1, 5)),
            SegmentAbsence::Hole { first: segment(1, 5), last: segment(1, 6) }
        );
    }

    #[test]
    fn history_files_after_the_newest_are_expected_to_be_missing() {
        let index = index(&[(1, 3..=4), (2, 5..=7)], vec![history(2, &[(1, 5)])]);
        assert_eq!(of_history(&index, tli(3)), HistoryAbsence::Expected);
        assert_eq!(of_history(&index, tli(1)), HistoryAbsence::Expected);
    }

    #[test]
    fn a_history_that_a_descendant_repeats_is_known() {
        let index = index(&[(1, 3..=4), (3, 5..=7)], vec![history(3, &[(1, 5), (2, 5)])]);
        assert_eq!(of_history(&index, tli(2)), HistoryAbsence::Known(history(2, &[(1, 5)])));
    }

    #[test]
    fn a_history_missing_in_the_middle_is_a_hole() {
        let with_wal = index(&[(1, 3..=4), (2, 5..=7)], vec![]);
        assert!(matches!(of_history(&with_wal, tli(2)), HistoryAbsence::Hole { .. }));
        let with_later = index(&[(1, 3..=9)], vec![history(3, &[(1, 5)])]);
        assert!(matches!(of_history(&with_later, tli(2)), HistoryAbsence::Hole { .. }));
        assert_eq!(of_history(&with_later, tli(4)), HistoryAbsence::Expected);
    }

    #[test]
    fn an_archive_that_began_on_a_later_timeline_lacks_its_history() {
        let index = index(&[(5, 3..=9)], vec![]);
        for timeline in 2..=6 {
            assert_eq!(of_history(&index, tli(timeline)), HistoryAbsence::Expected, "{timeline}");
        }
    }
}
