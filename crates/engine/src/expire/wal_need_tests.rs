//! What stays of the WAL around forks, old backups and doubts.

use pgkeep_format::timeline_history::{Ancestor, TimelineHistory};
use pgkeep_format::{WalSegmentName, WalSegmentSize};
use proptest::prelude::*;

use super::*;
use crate::recovery_window::{BackupExtent, missing_for, windows};

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn at(number: u64, offset: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + offset)
}

fn segments(timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> Vec<WalSegmentName> {
    numbers.map(|n| WalSegmentName { timeline: tli(timeline), number: SegmentNumber(n) }).collect()
}

fn fork(timeline: u32, ancestors: &[(u32, Lsn)]) -> TimelineHistory {
    let ancestor = |(parent, switch): &(u32, Lsn)| Ancestor {
        timeline: tli(*parent),
        switch: *switch,
        reason: String::new(),
    };
    TimelineHistory { timeline: tli(timeline), ancestors: ancestors.iter().map(ancestor).collect() }
}

fn kept(id: &str, timeline: u32, start: Lsn, stop: Lsn, keeps_later_wal: bool) -> KeptBackup {
    KeptBackup { id: id.into(), timeline: tli(timeline), start, stop, keeps_later_wal, restorable: true }
}

fn shape(runs: &[WalRun]) -> Vec<(u32, u64, u64, bool)> {
    runs.iter().map(|run| (run.timeline.get(), run.first.0, run.last.0, run.keep)).collect()
}

#[test]
fn wal_before_the_first_kept_backup_goes() {
    let index = ArchiveIndex::new(SIZE, segments(1, 1..=9), []);
    let runs = decide(&index, &[kept("a", 1, at(4, 40), at(5, 80), true)], true, None);
    assert_eq!(shape(&runs), [(1, 1, 3, false), (1, 4, 9, true)]);
    assert_eq!(runs[0].rule, "no kept backup can use it");
    assert_eq!(runs[1].rule, "every moment after backup a");
}

#[test]
fn an_old_backup_keeps_what_makes_it_consistent() {
    let index = ArchiveIndex::new(SIZE, segments(1, 1..=9), []);
    // The first stops at the very end of segment 3: segment 4 is not needed.
    let backups = [kept("a", 1, at(2, 40), at(4, 0), false), kept("b", 1, at(7, 40), at(7, 80), true)];
    let runs = decide(&index, &backups, true, None);
    assert_eq!(shape(&runs), [(1, 1, 1, false), (1, 2, 3, true), (1, 4, 6, false), (1, 7, 9, true)]);
}

#[test]
fn both_sides_of_a_fork_stay_for_a_backup_before_it() {
    let index = ArchiveIndex::new(
        SIZE,
        [segments(1, 1..=9), segments(2, 5..=7)].concat(),
        [fork(2, &[(1, at(5, 1000))])],
    );
    let runs = decide(&index, &[kept("a", 1, at(2, 40), at(3, 80), true)], true, None);
    // No backup is of timeline 2, but its WAL is needed all the same.
    assert_eq!(shape(&runs), [(1, 1, 1, false), (1, 2, 9, true), (2, 5, 7, true)]);
}

#[test]
fn a_timeline_that_no_kept_backup_can_reach_goes_and_the_others_stay() {
    let index = ArchiveIndex::new(
        SIZE,
        [segments(1, 1..=9), segments(2, 5..=12)].concat(),
        [fork(2, &[(1, at(5, 1000))])],
    );
    let runs = decide(&index, &[kept("a", 2, at(10, 40), at(10, 80), true)], true, None);
    assert_eq!(shape(&runs), [(1, 1, 9, false), (2, 5, 9, false), (2, 10, 12, true)]);
}

#[test]
fn a_backup_that_starts_before_the_fork_needs_the_ancestors_part() {
    let index = ArchiveIndex::new(
        SIZE,
        [segments(1, 1..=5), segments(2, 5..=12)].concat(),
        [fork(2, &[(1, at(5, 1000))])],
    );
    let runs = decide(&index, &[kept("a", 2, at(4, 40), at(6, 80), true)], true, None);
    assert_eq!(shape(&runs), [(1, 1, 3, false), (1, 4, 5, true), (2, 5, 12, true)]);
}

#[test]
fn a_timeline_without_its_history_file_stays() {
    let index = ArchiveIndex::new(SIZE, [segments(1, 1..=9), segments(3, 5..=7)].concat(), []);
    let runs = decide(
        &index,
        &[kept("a", 1, at(8, 0), at(8, 80), true), kept("b", 4, at(9, 0), at(9, 9), true)],
        true,
        None,
    );
    assert_eq!(shape(&runs), [(1, 1, 7, false), (1, 8, 9, true), (3, 5, 7, true)]);
    assert!(runs[2].rule.contains("history file"));
}

#[test]
fn the_last_segment_of_a_backup_stays_under_the_name_of_the_timeline_that_followed() {
    // The old primary was lost before it could archive segment 6; the new one archived what it had of it.
    let index = ArchiveIndex::new(
        SIZE,
        [segments(1, 1..=5), segments(2, 6..=12)].concat(),
        [fork(2, &[(1, at(6, 900))])],
    );
    let old = kept("a", 1, at(5, 40), at(6, 500), false);
    let runs = decide(&index, &[old, kept("b", 2, at(10, 40), at(10, 500), true)], true, None);
    assert_eq!(
        shape(&runs),
        [(1, 1, 4, false), (1, 5, 5, true), (2, 6, 6, true), (2, 7, 9, false), (2, 10, 12, true)]
    );
}

#[test]
fn a_timeline_of_which_there_is_no_backup_yet_stays() {
    // A restore to before the oldest backup that is left began timeline 2.
    let index = ArchiveIndex::new(
        SIZE,
        [segments(1, 1..=9), segments(2, 3..=4)].concat(),
        [fork(2, &[(1, at(3, 1000))])],
    );
    let backups = [kept("a", 1, at(8, 0), at(8, 80), true)];
    let runs = decide(&index, &backups, true, None);
    assert_eq!(shape(&runs), [(1, 1, 7, false), (1, 8, 9, true), (2, 3, 4, true)]);
    // A cluster that was replaced will never have one.
    assert_eq!(shape(&decide(&index, &backups, false, None))[2], (2, 3, 4, false));
}

#[test]
fn a_cluster_without_a_good_backup_loses_nothing_unless_it_was_replaced() {
    let index = ArchiveIndex::new(SIZE, segments(1, 1..=9), []);
    let mut broken = kept("a", 1, at(2, 0), at(2, 80), false);
    broken.restorable = false;
    assert_eq!(shape(&decide(&index, &[], true, None)), [(1, 1, 9, true)]);
    assert_eq!(shape(&decide(&index, &[broken], true, None)), [(1, 1, 9, true)]);
    assert_eq!(shape(&decide(&index, &[], false, None)), [(1, 1, 9, false)]);
}

#[test]
fn a_doubt_keeps_everything_and_says_why() {
    let index = ArchiveIndex::new(SIZE, segments(1, 1..=9), []);
    let backups = [kept("a", 1, at(8, 0), at(8, 80), true)];
    let runs = decide(&index, &backups, true, Some("backup x cannot be read"));
    assert_eq!((shape(&runs), runs[0].rule.as_str()), (vec![(1, 1, 9, true)], "backup x cannot be read"));
}

prop_compose! {
    fn any_timelines()(
        forks in proptest::collection::vec((1_u32..4, 1_u64..20, 0_u64..1000), 0..3),
        holes in proptest::collection::btree_set((1_u32..5, 1_u64..25), 0..4),
    ) -> (Vec<TimelineHistory>, Vec<WalSegmentName>) {
        let mut histories: Vec<TimelineHistory> = Vec::new();
        let mut names = segments(1, 1..=25);
        for (index, (parent, number, offset)) in forks.into_iter().enumerate() {
            let timeline = index as u32 + 2;
            let parent = parent.min(timeline - 1);
            let mut ancestors: Vec<(u32, Lsn)> = histories
                .iter()
                .find(|history| history.timeline == tli(parent))
                .map(|history| history.ancestors.iter().map(|a| (a.timeline.get(), a.switch)).collect())
                .unwrap_or_default();
            ancestors.push((parent, at(number, offset + 8)));
            histories.push(fork(timeline, &ancestors));
            names.extend(segments(timeline, number..=25));
        }
        names.retain(|name| !holes.contains(&(name.timeline.get(), name.number.0)));
        (histories, names)
    }
}

proptest! {
    #[test]
    fn no_kept_backup_loses_its_wal_nor_a_moment_after_it(
        (histories, names) in any_timelines(),
        spots in proptest::collection::vec((1_u32..5, 1_u64..24, 0_u64..3, any::<bool>()), 1..6),
    ) {
        let index = ArchiveIndex::new(SIZE, names.clone(), histories.clone());
        let last_timeline = histories.len() as u32 + 1;
        let backups: Vec<KeptBackup> = spots
            .iter()
            .map(|(timeline, number, length, later)| {
                let timeline = (*timeline).min(last_timeline);
                kept("x", timeline, at(*number, 40), at(number + length, 500), *later)
            })
            .collect();
        let extent = |backup: &KeptBackup| BackupExtent {
            id: String::new(),
            start: backup.start,
            stop: backup.stop,
            timeline: backup.timeline,
            includes_wal: false,
            tail: None,
        };
        let runs = decide(&index, &backups, true, None);
        // Every segment is decided once.
        let decided: u64 = runs.iter().map(|run| run.last.0 - run.first.0 + 1).sum();
        prop_assert_eq!(decided, names.len() as u64);
        let stays = |name: &&WalSegmentName| {
            runs.iter().any(|run| run.keep && run.timeline == name.timeline && run.first <= name.number && name.number <= run.last)
        };
        let rest: Vec<WalSegmentName> = names.iter().filter(stays).copied().collect();
        let after = ArchiveIndex::new(SIZE, rest.clone(), histories.clone());
        for backup in &backups {
            prop_assert_eq!(missing_for(&index, &extent(backup)), missing_for(&after, &extent(backup)));
            if backup.keeps_later_wal {
                let reach = |index: &ArchiveIndex| -> Vec<(TimelineId, Lsn, Lsn)> {
                    windows(index, &[extent(backup)]).iter().map(|w| (w.timeline, w.from, w.to)).collect()
                };
                prop_assert_eq!(reach(&index), reach(&after));
            }
        }
        // Cut off anywhere, oldest first: still so. And a second run finds nothing more.
        let gone: Vec<WalSegmentName> = names.iter().filter(|name| !stays(name)).copied().collect();
        for cut in [gone.len() / 3, gone.len() / 2] {
            let removed = &gone[..cut];
            let partly = names.iter().filter(|name| !removed.contains(name)).copied();
            let partly = ArchiveIndex::new(SIZE, partly, histories.clone());
            for backup in &backups {
                prop_assert_eq!(missing_for(&index, &extent(backup)), missing_for(&partly, &extent(backup)));
            }
        }
        prop_assert!(decide(&after, &backups, true, None).iter().all(|run| run.keep));
    }
}

#[test]
fn the_first_needed_segment_is_that_of_the_oldest_kept_backup_if_one_can_be_restored() {
    let index = ArchiveIndex::new(SIZE, segments(2, 5..=12), [fork(2, &[(1, at(5, 1000))])]);
    let mut backups = [kept("b", 2, at(10, 40), at(10, 80), true), kept("a", 1, at(4, 40), at(4, 80), false)];
    assert_eq!(first_needed(&index, &backups, true), Some(SegmentNumber(4)));
    backups.iter_mut().for_each(|backup| backup.restorable = false);
    assert_eq!(first_needed(&index, &backups, true), None);
    assert_eq!(first_needed(&index, &backups, false), Some(SegmentNumber(4)));
    assert_eq!(first_needed(&index, &[], true), None);
    assert_eq!(first_needed(&index, &[], false), Some(SegmentNumber(u64::MAX)));
}
