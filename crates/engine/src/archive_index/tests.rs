//! Runs, holes and reach over made-up archives, with forks of timelines.

use pgkeep_format::timeline_history::Ancestor;
use proptest::prelude::*;

use super::*;

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn segment(timeline: u32, number: u64) -> WalSegmentName {
    WalSegmentName { timeline: tli(timeline), number: SegmentNumber(number) }
}

fn segments(timeline: u32, numbers: std::ops::RangeInclusive<u64>) -> Vec<WalSegmentName> {
    numbers.map(|number| segment(timeline, number)).collect()
}

/// The position `offset` bytes into a segment.
fn at(number: u64, offset: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + offset)
}

fn history(timeline: u32, ancestors: &[(u32, Lsn)]) -> TimelineHistory {
    TimelineHistory {
        timeline: tli(timeline),
        ancestors: ancestors
            .iter()
            .map(|(t, switch)| Ancestor { timeline: tli(*t), switch: *switch, reason: String::new() })
            .collect(),
    }
}

#[test]
fn without_a_hole_everything_is_reached() {
    let index = ArchiveIndex::new(SIZE, segments(1, 3..=9), []);
    let reach = index.contiguous_until(at(4, 40), &index.path_to(tli(1)));
    assert_eq!(reach.end, at(10, 0));
    assert_eq!((reach.first, reach.last), (Some(segment(1, 4)), Some(segment(1, 9))));
    assert_eq!(reach.segments, 6);
    assert_eq!(reach.next, segment(1, 10));
    assert_eq!(reach.first_missing(), None);
    assert!(index.gaps().is_empty());
}

#[test]
fn a_hole_ends_the_reach_and_is_named() {
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=5), segments(1, 7..=9)].concat(), []);
    let path = index.path_to(tli(1));
    let reach = index.contiguous_until(at(3, 40), &path);
    assert_eq!(reach.end, at(6, 0));
    assert_eq!(reach.first_missing(), Some(segment(1, 6)));
    assert_eq!(
        index.gaps(),
        vec![MissingRun { timeline: tli(1), first: SegmentNumber(6), last: SegmentNumber(6) }]
    );
    assert_eq!(index.missing(at(4, 0), at(8, 1), &path, 10), vec![segment(1, 6)]);
    assert!(index.missing(at(3, 0), at(6, 0), &path, 10).is_empty());
}

#[test]
fn the_start_itself_may_be_missing() {
    let index = ArchiveIndex::new(SIZE, segments(1, 7..=9), []);
    let reach = index.contiguous_until(at(3, 40), &index.path_to(tli(1)));
    assert_eq!((reach.end, reach.segments, reach.first), (at(3, 40), 0, None));
    assert_eq!(reach.first_missing(), Some(segment(1, 3)));
}

#[test]
fn a_switch_inside_a_segment_needs_the_childs_copy() {
    let histories = [history(2, &[(1, at(5, 1000))])];
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(2, 5..=7)].concat(), histories.clone());
    let path = index.path_to(tli(2));
    let reach = index.contiguous_until(at(3, 40), &path);
    assert_eq!((reach.end, reach.segments, reach.is_gap), (at(8, 0), 5, false));
    assert!(index.gaps().is_empty());
    assert_eq!(index.find(SegmentNumber(5), &path), Some(segment(2, 5)));
    assert!(index.missing(at(3, 0), at(5, 10), &path, 9).is_empty());

    // The parent's own copy (an old primary that lived on) reaches to the switch only.
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=9), segments(2, 6..=7)].concat(), histories.clone());
    let reach = index.contiguous_until(at(3, 40), &path);
    assert_eq!((reach.end, reach.timeline), (at(5, 1000), tli(1)));
    assert_eq!(reach.first_missing(), Some(segment(2, 5)));
    assert!(index.missing(at(3, 0), at(5, 1000), &path, 9).is_empty());
    assert_eq!(index.missing(at(3, 0), at(5, 1001), &path, 9), vec![segment(2, 5)]);
    assert_eq!(index.gaps().len(), 1);

    // Nothing of the child is archived yet: the end, not a hole; the parent's own path goes on.
    let index = ArchiveIndex::new(SIZE, segments(1, 3..=9), histories);
    let reach = index.contiguous_until(at(3, 40), &path);
    assert_eq!((reach.end, reach.is_gap), (at(5, 1000), false));
    assert_eq!(index.contiguous_until(at(3, 40), &index.path_to(tli(1))).end, at(10, 0));
}

#[test]
fn a_switch_at_a_boundary_has_no_copy() {
    let histories = [history(2, &[(1, at(5, 0))])];
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(2, 5..=7)].concat(), histories);
    let reach = index.contiguous_until(at(3, 40), &index.path_to(tli(2)));
    assert_eq!((reach.end, reach.segments, reach.is_gap), (at(8, 0), 5, false));
    assert!(index.gaps().is_empty());
}

#[test]
fn two_switches_in_one_segment_need_the_newest_copy() {
    let histories = [history(2, &[(1, at(5, 1000))]), history(3, &[(1, at(5, 1000)), (2, at(5, 2000))])];
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(3, 5..=6)].concat(), histories.clone());
    let path = index.path_to(tli(3));
    assert_eq!(index.contiguous_until(at(3, 0), &path).end, at(7, 0));
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(2, 5..=5)].concat(), histories);
    assert_eq!(index.contiguous_until(at(3, 0), &path).end, at(5, 2000));
}

#[test]
fn wal_missing_before_a_fork_is_a_hole() {
    let histories = [history(2, &[(1, at(7, 1000))])];
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(2, 7..=8)].concat(), histories);
    assert_eq!(
        index.gaps(),
        vec![MissingRun { timeline: tli(1), first: SegmentNumber(5), last: SegmentNumber(6) }]
    );
    assert!(index.is_hole(segment(1, 5)));
    assert!(index.is_hole(segment(1, 6)));
    // The end of timeline 1, which is a `.partial` at most.
    assert!(!index.is_hole(segment(1, 7)));
    assert!(!index.is_hole(segment(1, 8)));
    // Before the timeline began the segment has another name.
    assert!(!index.is_hole(segment(2, 6)));
    assert!(!index.is_hole(segment(2, 9)));
    assert!(!index.is_hole(segment(3, 9)));
}

#[test]
fn a_child_without_its_first_segment_has_a_hole() {
    let histories = [history(2, &[(1, at(5, 1000))])];
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(2, 6..=8)].concat(), histories);
    assert!(index.is_hole(segment(2, 5)));
    assert_eq!(
        index.gaps(),
        vec![MissingRun { timeline: tli(2), first: SegmentNumber(5), last: SegmentNumber(5) }]
    );
}

#[test]
fn a_tail_kept_elsewhere_joins_its_run() {
    let index = ArchiveIndex::new(SIZE, [segments(1, 3..=4), segments(1, 6..=6)].concat(), [])
        .with_segment(segment(1, 5))
        .with_segment(segment(1, 8))
        .with_segment(segment(1, 1));
    let runs: Vec<_> = index.runs(tli(1)).iter().map(|run| (run.first.0, run.last.0)).collect();
    assert_eq!(runs, vec![(1, 1), (3, 6), (8, 8)]);
}

proptest! {
    /// Walking segment by segment, in the server's order, gives the same reach as the arithmetic over runs.
    #[test]
    fn the_reach_is_what_a_server_would_read(
        present in proptest::collection::btree_set((1u32..4, 0u64..12), 0..30),
        switches in (0u64..12 * 4, 0u64..12 * 4),
        start in 0u64..10 * 4,
    ) {
        // Positions in quarters of a segment.
        let quarter = SIZE.bytes() / 4;
        let (first, second) = (Lsn(switches.0 * quarter), Lsn(switches.1 * quarter));
        let histories = [history(2, &[(1, first)]), history(3, &[(1, first), (2, second)])];
        let names: Vec<_> = present.iter().map(|(t, n)| segment(*t, *n)).collect();
        let index = ArchiveIndex::new(SIZE, names, histories);
        let start = Lsn(start * quarter + 1);
        for target in 1..4 {
            let path = index.path_to(tli(target));
            let reach = index.contiguous_until(start, &path);

            // Model: quarter by quarter, a byte is readable when the file that the server opens holds it.
            let mut end = start;
            let mut last_opened = None;
            for slot in start.0 / quarter..13 * 4 {
                let number = slot / 4;
                let begin = Lsn(slot * quarter);
                let opened = path
                    .steps()
                    .iter()
                    .rev()
                    .filter(|step| SIZE.segment_at(step.from).0 <= number)
                    .find(|step| present.contains(&(step.timeline.get(), number)));
                let Some(step) = opened else { break };
                // The bytes of a file beyond its timeline's switch are another history's.
                if step.to.is_some_and(|to| to <= begin) {
                    break;
                }
                last_opened = Some((step.timeline, number));
                end = Lsn(begin.0 + quarter);
            }
            prop_assert_eq!(reach.end, end, "target {} of {:?}", target, index);
            prop_assert_eq!(reach.last.map(|name| (name.timeline, name.number.0)), last_opened);
            // `missing` agrees with the reach.
            prop_assert!(index.missing(start, reach.end, &path, 100).is_empty());
            if reach.is_gap {
                prop_assert!(!index.missing(start, reach.end.saturating_add(1), &path, 100).is_empty());
            }
        }
    }
}

#[test]
fn the_beginning_of_the_next_segment_is_reached_but_no_further_than_its_timeline_goes() {
    let tail = |timeline, number, length| WalTail { segment: segment(timeline, number), length };
    let index = ArchiveIndex::new(SIZE, segments(1, 3..=5), []).with_tails([
        tail(1, 6, 9000),
        tail(1, 6, 20_000),
        tail(1, 8, 5000),
        tail(1, 5, 70),
    ]);
    let path = index.path_to(tli(1));
    let reach = index.contiguous_until(at(3, 40), &path);
    assert_eq!((reach.end, reach.tail, reach.is_gap), (at(6, 20_000), Some(segment(1, 6)), false));
    assert_eq!((reach.last, reach.segments), (Some(segment(1, 5)), 3), "whole ones only");
    assert!(index.missing(at(3, 0), at(6, 20_000), &path, 10).is_empty());
    assert_eq!(index.missing(at(3, 0), at(6, 20_001), &path, 10), [segment(1, 6)]);
    assert_eq!(index.find(SegmentNumber(6), &path), Some(segment(1, 6)));
    assert!(!index.has(segment(1, 6)));
    // What an ancestor wrote beyond the place where it was left is not on the path; the child's own beginning is.
    let histories = [history(2, &[(1, at(6, 1000))])];
    let forked = ArchiveIndex::new(SIZE, segments(1, 3..=5), histories).with_tails([tail(1, 6, 20_000)]);
    let path = forked.path_to(tli(2));
    assert_eq!(forked.contiguous_until(at(3, 40), &path).end, at(6, 1000));
    let forked = forked.with_tails([tail(2, 6, 1500)]);
    let reach = forked.contiguous_until(at(3, 40), &path);
    assert_eq!((reach.end, reach.timeline), (at(6, 1500), tli(2)));
    // Not over a hole.
    let holed = ArchiveIndex::new(SIZE, [segments(1, 3..=5), segments(1, 7..=7)].concat(), [])
        .with_tails([tail(1, 6, 900), tail(1, 8, 900)]);
    let reach = holed.contiguous_until(at(3, 40), &holed.path_to(tli(1)));
    assert_eq!((reach.end, reach.is_gap), (at(6, 900), true));
}
