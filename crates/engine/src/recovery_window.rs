//! What can be recovered: the stretches between a backup and the end of contiguous WAL after it, and the holes.
//!
//! Pure: from the names of the archived segments, the timelines and the positions of the backups.
//!
//! A window begins where a backup becomes consistent and goes on as far as WAL is contiguous along the path to some
//! timeline; a fork therefore gives two windows that share their beginning. Backups inside a window do not begin one of
//! their own. A backup whose own WAL is incomplete begins nothing.

use pgkeep_format::{Lsn, TimelineId, WalSegmentName};
use pgkeep_repo::WalRange;

use crate::archive_index::{ArchiveIndex, MissingRun};

/// What is needed of a backup to say what can be recovered from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupExtent {
    /// Its id.
    pub id: String,
    /// Where replay starts.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// The timeline at its end.
    pub timeline: TimelineId,
    /// Whether its WAL was streamed into the repository while it ran, rather than archived.
    pub includes_wal: bool,
    /// The segment that is kept with this backup, whole or not: it serves up to `stop` and no further.
    pub tail: Option<WalSegmentName>,
}

/// A stretch in which every position can be a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryWindow {
    /// Which of the backups it begins with, as an index into those given.
    pub backup: usize,
    /// The timeline at its end.
    pub timeline: TimelineId,
    /// The timeline whose path it follows.
    pub path_to: TimelineId,
    /// The first position: where the backup is consistent.
    pub from: Lsn,
    /// The position after the last one, by the names of the segments.
    pub to: Lsn,
    /// The last segment, where one is needed at all beyond the backup's own tail.
    pub last: Option<WalSegmentName>,
    /// The segment after it of which only the beginning is there.
    pub tail: Option<WalSegmentName>,
}

/// More missing segments than this of one backup are not named one by one.
pub const MOST_NAMED_SEGMENTS: usize = 1000;

/// The segments that a backup needs to become consistent and that are not there.
#[must_use]
pub fn missing_for(index: &ArchiveIndex, backup: &BackupExtent) -> Vec<WalSegmentName> {
    let path = index.path_to(backup.timeline);
    match backup.tail {
        Some(tail) => {
            index.clone().with_segment(tail).missing(backup.start, backup.stop, &path, MOST_NAMED_SEGMENTS)
        }
        None => index.missing(backup.start, backup.stop, &path, MOST_NAMED_SEGMENTS),
    }
}

/// The recoverable windows, oldest first. `backups` are in the order of their ends.
#[must_use]
pub fn windows(index: &ArchiveIndex, backups: &[BackupExtent]) -> Vec<RecoveryWindow> {
    let mut windows: Vec<RecoveryWindow> = Vec::new();
    for (position, backup) in backups.iter().enumerate() {
        if !missing_for(index, backup).is_empty() {
            continue;
        }
        for window in windows_of(index, position, backup) {
            let is_part_of_older = windows.iter().any(|older| {
                older.timeline == window.timeline && older.to == window.to && older.from <= window.from
            });
            if !is_part_of_older {
                windows.push(window);
            }
        }
    }
    windows.sort_by_key(|window| (window.backup, window.timeline));
    windows
}

/// Every end that can be reached from one backup.
fn windows_of(index: &ArchiveIndex, position: usize, backup: &BackupExtent) -> Vec<RecoveryWindow> {
    let ends: Vec<RecoveryWindow> = index
        .tree()
        .descendants(backup.timeline, backup.stop)
        .into_iter()
        .map(|target| {
            let reach = index.contiguous_until(backup.start, &index.path_to(target));
            let is_beyond = reach.end > backup.stop;
            RecoveryWindow {
                backup: position,
                timeline: if is_beyond { reach.timeline } else { backup.timeline },
                path_to: target,
                from: backup.stop,
                to: reach.end.max(backup.stop),
                last: reach.last.filter(|_| is_beyond),
                tail: reach.tail.filter(|_| is_beyond),
            }
        })
        .collect();
    // An end that lies on the way to another one is no end.
    let is_on_the_way = |window: &RecoveryWindow, other: &RecoveryWindow| {
        let same_end = other.to == window.to && other.timeline == window.timeline;
        index.path_to(other.path_to).contains(window.timeline, window.to)
            && (other.to > window.to || (same_end && other.path_to < window.path_to))
    };
    ends.iter().filter(|window| !ends.iter().any(|other| is_on_the_way(window, other))).cloned().collect()
}

/// Whether `expire` made the hole: `ranges`, what it noted to have removed, hold every segment of it.
#[must_use]
pub fn is_expired(gap: &MissingRun, record: u32, ranges: &[WalRange]) -> bool {
    let mut own: Vec<&WalRange> =
        ranges.iter().filter(|range| range.record == record && range.timeline == gap.timeline).collect();
    own.sort();
    let mut next = gap.first;
    for range in own {
        if range.first <= next && range.last >= next {
            next = range.last.next();
        }
    }
    next > gap.last
}

/// Whether a hole keeps anything from being recovered: it does where a backup lies before it on the way to its timeline.
///
/// It does not where the WAL before it came with backups that bring their own (`--wal include`): that WAL was never meant
/// to go on.
#[must_use]
pub fn is_harmful(index: &ArchiveIndex, gap: &MissingRun, backups: &[BackupExtent]) -> bool {
    let size = index.segment_size();
    let gap_end = size.end_of(gap.last);
    let path = index.path_to(gap.timeline);
    let is_needed =
        backups.iter().any(|backup| backup.start < gap_end && path.contains(backup.timeline, backup.start));
    if !is_needed {
        return false;
    }
    let Some(before) = index.runs(gap.timeline).iter().rev().find(|run| run.last < gap.first) else {
        return true;
    };
    // Between two holes, with no backup in it: nothing leads into that WAL, so nothing is kept from going on.
    let lies_apart = index.runs(gap.timeline).iter().any(|run| run.last < before.first);
    let begins_there = backups.iter().any(|backup| {
        let first = size.segment_at(backup.start);
        path.contains(backup.timeline, backup.start) && before.first <= first && first <= before.last
    });
    if lies_apart && !begins_there {
        return false;
    }
    let mut covered_until = before.first;
    let mut included: Vec<_> = backups
        .iter()
        .filter(|backup| backup.includes_wal && path.contains(backup.timeline, backup.start))
        .map(|backup| (size.segment_at(backup.start), size.segment_before(backup.stop)))
        .collect();
    included.sort();
    for (first, last) in included {
        if first <= covered_until && last >= covered_until {
            covered_until = last.next();
        }
    }
    covered_until <= before.last
}

#[cfg(test)]
mod tests {
    use pgkeep_format::timeline_history::{Ancestor, TimelineHistory};
    use pgkeep_format::{SegmentNumber, WalSegmentSize};

    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn at(number: u64, offset: u64) -> Lsn {
        Lsn(number * SIZE.bytes() + offset)
    }

    fn segments(timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> Vec<WalSegmentName> {
        numbers
            .map(|number| WalSegmentName { timeline: tli(timeline), number: SegmentNumber(number) })
            .collect()
    }

    fn backup(id: &str, timeline: u32, start: Lsn, stop: Lsn) -> BackupExtent {
        BackupExtent {
            id: id.to_owned(),
            start,
            stop,
            timeline: tli(timeline),
            includes_wal: false,
            tail: None,
        }
    }

    fn fork(timeline: u32, parent: u32, switch: Lsn) -> TimelineHistory {
        TimelineHistory {
            timeline: tli(timeline),
            ancestors: vec![Ancestor { timeline: tli(parent), switch, reason: String::new() }],
        }
    }

    fn shape(windows: &[RecoveryWindow]) -> Vec<(usize, u32, Lsn, Lsn)> {
        windows.iter().map(|w| (w.backup, w.timeline.get(), w.from, w.to)).collect()
    }

    #[test]
    fn backups_in_one_stretch_share_a_window() {
        let index = ArchiveIndex::new(SIZE, segments(1, 2..=9), []);
        let backups = [backup("a", 1, at(2, 40), at(3, 80)), backup("b", 1, at(6, 40), at(6, 900))];
        assert_eq!(shape(&windows(&index, &backups)), vec![(0, 1, at(3, 80), at(10, 0))]);
    }

    #[test]
    fn a_hole_splits_windows_and_is_harmful_after_a_backup() {
        let index = ArchiveIndex::new(SIZE, [segments(1, 2..=4), segments(1, 6..=9)].concat(), []);
        let backups = [backup("a", 1, at(2, 40), at(3, 80)), backup("b", 1, at(6, 40), at(6, 900))];
        assert_eq!(
            shape(&windows(&index, &backups)),
            vec![(0, 1, at(3, 80), at(5, 0)), (1, 1, at(6, 900), at(10, 0))]
        );
        let gaps = index.gaps();
        assert!(is_harmful(&index, &gaps[0], &backups));
        assert!(!is_harmful(&index, &gaps[0], &backups[1..]));
    }

    #[test]
    fn a_backup_without_its_own_wal_begins_nothing() {
        let index = ArchiveIndex::new(SIZE, segments(1, 3..=9), []);
        let backups = [backup("a", 1, at(2, 40), at(3, 80))];
        assert!(windows(&index, &backups).is_empty());
        assert_eq!(missing_for(&index, &backups[0]), segments(1, 2..=2));
    }

    #[test]
    fn a_fork_gives_two_windows() {
        // Timeline 1 lived on after 2 forked off it.
        let index = ArchiveIndex::new(
            SIZE,
            [segments(1, 2..=9), segments(2, 5..=7)].concat(),
            [fork(2, 1, at(5, 1000))],
        );
        let backups = [backup("a", 1, at(2, 40), at(3, 80)), backup("b", 2, at(6, 40), at(6, 80))];
        assert_eq!(
            shape(&windows(&index, &backups)),
            vec![(0, 1, at(3, 80), at(10, 0)), (0, 2, at(3, 80), at(8, 0))]
        );
    }

    #[test]
    fn a_promotion_is_one_window() {
        let index = ArchiveIndex::new(
            SIZE,
            [segments(1, 2..=4), segments(2, 5..=7)].concat(),
            [fork(2, 1, at(5, 1000))],
        );
        let backups = [backup("a", 1, at(2, 40), at(3, 80))];
        assert_eq!(shape(&windows(&index, &backups)), vec![(0, 2, at(3, 80), at(8, 0))]);
    }

    #[test]
    fn a_promotion_of_which_only_the_history_arrived_is_one_window() {
        let index = ArchiveIndex::new(SIZE, segments(1, 2..=4), [fork(2, 1, at(5, 1000))]);
        let backups = [backup("a", 1, at(2, 40), at(3, 80))];
        assert_eq!(shape(&windows(&index, &backups)), vec![(0, 1, at(3, 80), at(5, 0))]);
    }

    #[test]
    fn a_kept_tail_serves_its_own_backup_only() {
        let index = ArchiveIndex::new(SIZE, [segments(1, 2..=3), segments(1, 5..=7)].concat(), []);
        let mut one = backup("a", 1, at(2, 40), at(4, 500));
        one.tail = segments(1, 4..=4).pop();
        assert!(missing_for(&index, &one).is_empty());
        assert_eq!(shape(&windows(&index, &[one])), vec![(0, 1, at(4, 500), at(4, 500))]);
    }

    #[test]
    fn backups_that_bring_their_wal_leave_no_harmful_holes() {
        let index = ArchiveIndex::new(SIZE, [segments(1, 2..=3), segments(1, 9..=9)].concat(), []);
        let mut backups = [backup("a", 1, at(2, 40), at(3, 80)), backup("b", 1, at(9, 40), at(9, 80))];
        let gaps = index.gaps();
        assert!(is_harmful(&index, &gaps[0], &backups));
        backups[0].includes_wal = true;
        assert!(!is_harmful(&index, &gaps[0], &backups));
        // Once more than the backup's own WAL is there, somebody archives.
        let index = ArchiveIndex::new(SIZE, [segments(1, 2..=4), segments(1, 9..=9)].concat(), []);
        assert!(is_harmful(&index, &index.gaps()[0], &backups));
    }
}
