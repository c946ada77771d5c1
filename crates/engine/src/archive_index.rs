//! Which WAL segments an archive holds, and how far one can replay along a path of timelines.
//!
//! Built from names alone: a segment object is complete or absent, so a listing is proof of presence (that its bytes are
//! sound is what `check` reads for). Kept as runs of consecutive numbers: a year of WAL without a hole is one entry.
//!
//! Two facts about timeline switches rule the arithmetic (`XLogFileReadAnyTLI` in `xlogrecovery.c`). The segment in which
//! a timeline forks exists under the child's name too, beginning with a copy of the parent's part; and the server looks
//! for a segment under the newest timeline of the path that had begun by it, then under older ones.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_repo::WalTail;

use crate::history::{TimelinePath, TimelineTree};

/// Consecutive segments of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRun {
    /// The first.
    pub first: SegmentNumber,
    /// The last, itself included.
    pub last: SegmentNumber,
}

/// The segments of one cluster's archive, and its timelines.
#[derive(Clone, Debug)]
pub struct ArchiveIndex {
    segment_size: WalSegmentSize,
    // Sorted, disjoint, never touching.
    runs: BTreeMap<TimelineId, Vec<SegmentRun>>,
    /// Segments of which the beginning is there: the position after it.
    tails: BTreeMap<WalSegmentName, Lsn>,
    tree: TimelineTree,
}

/// How far WAL goes from a position along a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Every byte before this position is there; the starting position where nothing is.
    pub end: Lsn,
    /// The timeline of the last byte that is there.
    pub timeline: TimelineId,
    /// The first and the last segment that are read, by the names under which they are there.
    pub first: Option<WalSegmentName>,
    /// See `first`.
    pub last: Option<WalSegmentName>,
    /// The segment after these of which only the beginning is there, up to `end`.
    pub tail: Option<WalSegmentName>,
    /// How many.
    pub segments: u64,
    /// The segment that would have to come next.
    pub next: WalSegmentName,
    /// Whether WAL further along the path is there, so that `next` is a hole and not the archive's end.
    pub is_gap: bool,
}

impl Reach {
    /// The segment that is missing in the middle, where one is.
    #[must_use]
    pub fn first_missing(&self) -> Option<WalSegmentName> {
        self.is_gap.then_some(self.next)
    }
}

/// Segments that are missing between others of the same timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRun {
    /// On which timeline.
    pub timeline: TimelineId,
    /// The first.
    pub first: SegmentNumber,
    /// The last, itself included.
    pub last: SegmentNumber,
}

impl MissingRun {
    /// How many.
    #[must_use]
    pub const fn segments(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }
}

impl ArchiveIndex {
    /// The index of these segments and history files.
    pub fn new(
        segment_size: WalSegmentSize,
        segments: impl IntoIterator<Item = WalSegmentName>,
        histories: impl IntoIterator<Item = TimelineHistory>,
    ) -> ArchiveIndex {
        let sorted: BTreeSet<WalSegmentName> = segments.into_iter().collect();
        let mut runs: BTreeMap<TimelineId, Vec<SegmentRun>> = BTreeMap::new();
        for segment in sorted {
            push_sorted(runs.entry(segment.timeline).or_default(), segment.number);
        }
        let tree = TimelineTree::new(histories, runs.keys().copied().collect::<Vec<_>>());
        ArchiveIndex { segment_size, runs, tails: BTreeMap::new(), tree }
    }

    /// This index with one more segment: WAL that is kept elsewhere, such as a backup's own last segment.
    #[must_use]
    pub fn with_segment(mut self, segment: WalSegmentName) -> ArchiveIndex {
        if !self.has(segment) {
            let runs = self.runs.entry(segment.timeline).or_default();
            let numbers: Vec<SegmentRun> = std::mem::take(runs);
            let after = numbers.partition_point(|run| run.last < segment.number);
            let single = SegmentRun { first: segment.number, last: segment.number };
            for run in numbers.iter().take(after).chain([&single]).chain(numbers.iter().skip(after)) {
                match runs.last_mut() {
                    Some(last) if last.last.next() == run.first => last.last = run.last,
                    _ => runs.push(*run),
                }
            }
            self.tree = TimelineTree::new(
                self.tree.histories().cloned().collect::<Vec<_>>(),
                self.runs.keys().copied().collect::<Vec<_>>(),
            );
        }
        self
    }

    /// This index with the beginnings of segments that a receiver stored.
    #[must_use]
    pub fn with_tails(mut self, tails: impl IntoIterator<Item = WalTail>) -> ArchiveIndex {
        for tail in tails {
            let end = self.segment_size.start_of(tail.segment.number).saturating_add(u64::from(tail.length));
            let known = self.tails.entry(tail.segment).or_insert(end);
            *known = end.max(*known);
        }
        self
    }

    /// This index without some segments: those that are there and cannot be read.
    #[must_use]
    pub fn without_segments(mut self, damaged: &BTreeSet<WalSegmentName>) -> ArchiveIndex {
        for segment in damaged {
            let Some(runs) = self.runs.get_mut(&segment.timeline) else { continue };
            let Some(at) =
                runs.iter().position(|run| run.first <= segment.number && segment.number <= run.last)
            else {
                continue;
            };
            let run = runs.remove(at);
            if segment.number < run.last {
                runs.insert(at, SegmentRun { first: segment.number.next(), last: run.last });
            }
            if run.first < segment.number {
                runs.insert(at, SegmentRun { first: run.first, last: SegmentNumber(segment.number.0 - 1) });
            }
        }
        self
    }

    /// The size of the cluster's segments.
    #[must_use]
    pub fn segment_size(&self) -> WalSegmentSize {
        self.segment_size
    }

    /// The timelines, with their histories.
    #[must_use]
    pub fn tree(&self) -> &TimelineTree {
        &self.tree
    }

    /// The timelines of which there is WAL.
    pub fn timelines_with_wal(&self) -> impl Iterator<Item = TimelineId> + '_ {
        self.runs.keys().copied()
    }

    /// The segments of a timeline.
    #[must_use]
    pub fn runs(&self, timeline: TimelineId) -> &[SegmentRun] {
        self.runs.get(&timeline).map_or(&[], Vec::as_slice)
    }

    /// The newest segment of a timeline.
    #[must_use]
    pub fn last_of(&self, timeline: TimelineId) -> Option<WalSegmentName> {
        self.runs(timeline).last().map(|run| WalSegmentName { timeline, number: run.last })
    }

    /// Whether a segment is there.
    #[must_use]
    pub fn has(&self, segment: WalSegmentName) -> bool {
        self.run_at(segment).is_some()
    }

    /// Whether any later segment of the same timeline is there.
    #[must_use]
    pub fn has_after(&self, segment: WalSegmentName) -> bool {
        self.last_of(segment.timeline).is_some_and(|last| last.number > segment.number)
    }

    /// The path to a timeline.
    #[must_use]
    pub fn path_to(&self, timeline: TimelineId) -> TimelinePath {
        self.tree.path_to(timeline)
    }

    /// The name under which the server reads the segment `number` on a path: the newest timeline of the path that has it, or
    /// has its beginning.
    #[must_use]
    pub fn find(&self, number: SegmentNumber, path: &TimelinePath) -> Option<WalSegmentName> {
        let names = self.candidates(number, path);
        let whole = names.iter().find(|name| self.has(**name));
        whole.or_else(|| names.iter().find(|name| self.tails.contains_key(*name))).copied()
    }

    /// How far WAL goes from `start` along `path`.
    #[must_use]
    pub fn contiguous_until(&self, start: Lsn, path: &TimelinePath) -> Reach {
        let mut reach = Reach {
            end: start,
            timeline: path.timeline_at(start),
            first: None,
            last: None,
            tail: None,
            segments: 0,
            next: WalSegmentName::at(path.timeline_at(start), start, self.segment_size),
            is_gap: false,
        };
        let mut number = self.segment_size.segment_at(start);
        loop {
            // The newest timeline holds the whole segment, its ancestors' parts included; an older one ends at its switch.
            let names = self.candidates(number, path);
            let Some(&best) = names.first() else { break };
            reach.next = best;
            if self.has(best) {
                let until = self.whole_until(best, path);
                reach.first = reach.first.or(Some(best));
                reach.segments =
                    reach.segments.saturating_add(until.0.saturating_sub(number.0)).saturating_add(1);
                reach.last = Some(WalSegmentName { timeline: best.timeline, number: until });
                reach.timeline = best.timeline;
                reach.end = self.segment_size.end_of(until);
                if until.next() == until {
                    break;
                }
                number = until.next();
                reach.next = WalSegmentName::at(
                    path.timeline_at(self.segment_size.start_of(number)),
                    self.segment_size.start_of(number),
                    self.segment_size,
                );
                continue;
            }
            if let Some(older) = names.iter().copied().find(|name| self.has(*name)) {
                let switch = path
                    .steps()
                    .iter()
                    .find(|step| step.timeline == older.timeline)
                    .and_then(|step| step.to)
                    .unwrap_or(reach.end);
                if switch > reach.end {
                    reach.first = reach.first.or(Some(older));
                    reach.segments = reach.segments.saturating_add(1);
                    reach.last = Some(older);
                    reach.timeline = older.timeline;
                    reach.end = switch;
                }
            }
            self.add_tail(&mut reach, &names, path);
            break;
        }
        reach.is_gap = self.has_later_on(&reach, path);
        reach
    }

    /// Goes on into the beginning of the segment after the last whole one, where that is there.
    fn add_tail(&self, reach: &mut Reach, names: &[WalSegmentName], path: &TimelinePath) {
        for name in names {
            let Some(&end) = self.tails.get(name) else { continue };
            // What an ancestor wrote beyond the place where it was left is not on the path.
            let left =
                path.steps().iter().find(|step| step.timeline == name.timeline).and_then(|step| step.to);
            let end = left.map_or(end, |left| left.min(end));
            if end > reach.end {
                reach.end = end;
                reach.timeline = name.timeline;
                reach.tail = Some(*name);
            }
        }
    }

    /// The segments of `start..end` on `path` that are not there, by the names that they should have; at most `limit`.
    #[must_use]
    pub fn missing(&self, start: Lsn, end: Lsn, path: &TimelinePath, limit: usize) -> Vec<WalSegmentName> {
        let mut missing = Vec::new();
        if end <= start {
            return missing;
        }
        let mut number = self.segment_size.segment_at(start);
        let last = self.segment_size.segment_before(end);
        while number <= last && missing.len() < limit {
            // Only what lies before `end` is wanted: a timeline that begins later in the same segment is not.
            let upto = end.min(self.segment_size.end_of(number));
            let wanted = path.timeline_at(Lsn(upto.0.saturating_sub(1)));
            let best = WalSegmentName { timeline: wanted, number };
            let found = self
                .candidates(number, path)
                .into_iter()
                .find(|name| self.has_until(*name, upto) && self.holds_until(*name, path, upto));
            match found {
                Some(name) => {
                    let run_end = self.whole_until(name, path).min(last);
                    number = if run_end > number { run_end.next() } else { number.next() };
                }
                None => {
                    missing.push(best);
                    number = number.next();
                }
            }
        }
        missing
    }

    /// The holes between the segments of each timeline, and those between a timeline's last segment and the position at
    /// which a known descendant left it (of a timeline that has any WAL here).
    #[must_use]
    pub fn gaps(&self) -> Vec<MissingRun> {
        let mut gaps = Vec::new();
        for (&timeline, runs) in &self.runs {
            let mut missing = |first: SegmentNumber, last: SegmentNumber| {
                if first <= last {
                    gaps.push(MissingRun { timeline, first, last });
                }
            };
            for pair in runs.windows(2) {
                if let [before, after] = pair {
                    missing(before.last.next(), SegmentNumber(after.first.0.saturating_sub(1)));
                }
            }
            let (Some(first), Some(last)) = (runs.first(), runs.last()) else { continue };
            // The segment in which the timeline began is there under its own name, where its beginning is wanted at all.
            if let Some(parent) = self.tree.history(timeline).as_ref().and_then(TimelineHistory::parent) {
                let began = self.segment_size.segment_at(parent.switch);
                let parent_is_here = self.has_near(parent.timeline, began);
                if parent_is_here {
                    missing(began, SegmentNumber(first.first.0.saturating_sub(1)));
                }
            }
            // The segment of the fork itself is whole under the child's name only.
            if let Some(fork) = self.tree.last_fork_of(timeline) {
                let before_fork = self.segment_size.segment_at(fork);
                missing(last.last.next(), SegmentNumber(before_fork.0.saturating_sub(1)));
            }
        }
        gaps.sort_by_key(|gap| (gap.timeline, gap.first));
        gaps
    }

    /// Whether `segment`, which is not there, must have existed: later WAL of its timeline is there, or a timeline that
    /// forked off later. None where its absence is the end of what was archived, or where it never existed under that
    /// name (a segment before the timeline began).
    #[must_use]
    pub fn is_hole(&self, segment: WalSegmentName) -> bool {
        let path = self.path_to(segment.timeline);
        if let Some(step) = path.steps().last()
            && segment.number < self.segment_size.segment_at(step.from)
        {
            return false;
        }
        let forked_later = self
            .tree
            .last_fork_of(segment.timeline)
            .is_some_and(|fork| segment.number < self.segment_size.segment_at(fork));
        self.has_after(segment) || forked_later
    }

    /// The names under which the server looks for a segment on a path, in its order.
    fn candidates(&self, number: SegmentNumber, path: &TimelinePath) -> Vec<WalSegmentName> {
        let start = self.segment_size.start_of(number);
        path.steps()
            .iter()
            .rev()
            .filter(|step| self.segment_size.segment_at(step.from) <= number)
            // An ancestor that ended before this segment has nothing of the path in it.
            .filter(|step| step.to.is_none_or(|to| to > start))
            .map(|step| WalSegmentName { timeline: step.timeline, number })
            .collect()
    }

    /// Whether a segment is there up to a position in it.
    fn has_until(&self, name: WalSegmentName, upto: Lsn) -> bool {
        self.has(name) || self.tails.get(&name).is_some_and(|end| *end >= upto)
    }

    /// Whether that file holds the path's bytes up to `upto`, a position in it.
    fn holds_until(&self, name: WalSegmentName, path: &TimelinePath, upto: Lsn) -> bool {
        path.steps()
            .iter()
            .find(|step| step.timeline == name.timeline)
            .is_some_and(|step| step.to.is_none_or(|to| to >= upto))
    }

    /// The last segment of the run of `name` in which no newer timeline of the path begins.
    fn whole_until(&self, name: WalSegmentName, path: &TimelinePath) -> SegmentNumber {
        let run_end = self.run_at(name).map_or(name.number, |run| run.last);
        let next_begins = path
            .steps()
            .iter()
            .find(|step| step.timeline == name.timeline)
            .and_then(|step| step.to)
            .map(|to| SegmentNumber(self.segment_size.segment_at(to).0.saturating_sub(1)));
        next_begins.map_or(run_end, |before| run_end.min(before)).max(name.number)
    }

    /// Whether the archive holds anything of the path beyond where `reach` ends.
    fn has_later_on(&self, reach: &Reach, path: &TimelinePath) -> bool {
        path.steps().iter().any(|step| {
            let begins = self.segment_size.segment_at(step.from);
            let ends = step.to.map(|to| self.segment_size.segment_before(to));
            self.runs(step.timeline).iter().any(|run| {
                let last = ends.map_or(run.last, |ends| run.last.min(ends));
                let first = run.first.max(begins);
                first <= last && self.segment_size.end_of(last) > reach.end && {
                    // The very segment that only an ancestor holds is not "later".
                    last > reach.next.number
                        || (step.timeline == reach.next.timeline && last >= reach.next.number)
                }
            })
        })
    }

    fn has_near(&self, timeline: TimelineId, number: SegmentNumber) -> bool {
        self.runs(timeline).iter().any(|run| run.first <= number && run.last.next() >= number)
    }

    fn run_at(&self, segment: WalSegmentName) -> Option<SegmentRun> {
        let runs = self.runs(segment.timeline);
        let index = runs.partition_point(|run| run.last < segment.number);
        runs.get(index).copied().filter(|run| run.first <= segment.number)
    }
}

fn push_sorted(runs: &mut Vec<SegmentRun>, number: SegmentNumber) {
    match runs.last_mut() {
        Some(run) if run.last.next() == number => run.last = number,
        _ => runs.push(SegmentRun { first: number, last: number }),
    }
}

#[cfg(test)]
mod tests;
