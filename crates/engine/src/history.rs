//! The tree of timelines: which stretch of WAL leads to which timeline, from the history files that a stanza holds.
//!
//! Every history file lists all ancestors of its timeline, so one file is enough for one path; the tree answers questions
//! about several of them: which timelines descend from a backup, which of them is the newest, where they fork. It is pure:
//! the caller reads the files.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_format::timeline_history::{Ancestor, TimelineHistory};
use pgkeep_format::{Lsn, TimelineId};

/// A stretch of one timeline on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PathStep {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position that is the timeline's own; zero for the oldest.
    pub from: Lsn,
    /// The first position that is not the timeline's any more; none for the last step.
    pub to: Option<Lsn>,
}

/// The way from the oldest known timeline to a target: every position of WAL lies on exactly one step.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TimelinePath {
    // Never empty; steps touch; only the last one has no end. Ancestors that were left before they began are not here.
    steps: Vec<PathStep>,
}

impl TimelinePath {
    /// The path to a timeline of which nothing older is known.
    #[must_use]
    pub fn of_root(timeline: TimelineId) -> TimelinePath {
        TimelinePath { steps: vec![PathStep { timeline, from: Lsn::INVALID, to: None }] }
    }

    /// The path that a history describes.
    #[must_use]
    pub fn of_history(history: &TimelineHistory) -> TimelinePath {
        // A timeline may fork from its parent before the parent itself began (recovery towards a timeline that stops
        // early): an ancestor counts only up to the earliest switch of all those after it.
        let mut steps = Vec::with_capacity(history.ancestors.len() + 1);
        let mut to = None;
        for ancestor in history.ancestors.iter().rev() {
            let end = to.map_or(ancestor.switch, |to: Lsn| to.min(ancestor.switch));
            steps.push(PathStep { timeline: ancestor.timeline, from: Lsn::INVALID, to: Some(end) });
            to = Some(end);
        }
        steps.reverse();
        let mut from = Lsn::INVALID;
        steps.retain_mut(|step| {
            step.from = from;
            let end = step.to.unwrap_or(from);
            from = from.max(end);
            step.from < end
        });
        steps.push(PathStep { timeline: history.timeline, from, to: None });
        TimelinePath { steps }
    }

    /// The steps, oldest first.
    #[must_use]
    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// The timeline that the path leads to.
    #[must_use]
    pub fn target(&self) -> TimelineId {
        // The last step always exists.
        self.steps.last().map_or(TimelineId::FIRST, |step| step.timeline)
    }

    /// The step that holds the byte at `lsn`.
    #[must_use]
    pub fn step_at(&self, lsn: Lsn) -> PathStep {
        let index = self.steps.partition_point(|step| step.to.is_some_and(|to| to <= lsn));
        self.steps.get(index).copied().unwrap_or(PathStep {
            timeline: self.target(),
            from: Lsn::INVALID,
            to: None,
        })
    }

    /// The timeline that holds the byte at `lsn`.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.step_at(lsn).timeline
    }

    /// Whether the state that `timeline` had at `lsn` (everything before that byte) lies on this path.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.steps.iter().any(|step| step.timeline == timeline && step.to.is_none_or(|to| lsn <= to))
    }
}

/// All timelines that are known of one cluster.
#[derive(Clone, Debug, Default)]
pub struct TimelineTree {
    histories: BTreeMap<TimelineId, TimelineHistory>,
    known: BTreeSet<TimelineId>,
}

impl TimelineTree {
    /// The tree of these history files; `others` are timelines that are known without one (their WAL is there).
    pub fn new(
        histories: impl IntoIterator<Item = TimelineHistory>,
        others: impl IntoIterator<Item = TimelineId>,
    ) -> TimelineTree {
        let mut tree = TimelineTree::default();
        for history in histories {
            tree.known.insert(history.timeline);
            tree.known.extend(history.ancestors.iter().map(|ancestor| ancestor.timeline));
            tree.histories.insert(history.timeline, history);
        }
        tree.known.extend(others);
        tree
    }

    /// Every timeline that is there or named by a history, in order.
    pub fn timelines(&self) -> impl Iterator<Item = TimelineId> + '_ {
        self.known.iter().copied()
    }

    /// The history files that are there, by timeline.
    pub fn histories(&self) -> impl Iterator<Item = &TimelineHistory> + '_ {
        self.histories.values()
    }

    /// The history of a timeline: its own file, or the beginning of a descendant's, which repeats it.
    /// None where neither is there.
    #[must_use]
    pub fn history(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        if let Some(history) = self.histories.get(&timeline) {
            return Some(history.clone());
        }
        self.histories.values().find_map(|history| {
            let end = history.ancestors.iter().position(|ancestor| ancestor.timeline == timeline)?;
            let ancestors: Vec<Ancestor> = history.ancestors.get(..end)?.to_vec();
            Some(TimelineHistory { timeline, ancestors })
        })
    }

    /// The way to a timeline. One without any history is taken for a root, as PostgreSQL takes it.
    #[must_use]
    pub fn path_to(&self, timeline: TimelineId) -> TimelinePath {
        match self.history(timeline) {
            Some(history) => TimelinePath::of_history(&history),
            None => TimelinePath::of_root(timeline),
        }
    }

    /// The timelines on which the state that `timeline` had at `lsn` lies, itself included, in order.
    #[must_use]
    pub fn descendants(&self, timeline: TimelineId, lsn: Lsn) -> Vec<TimelineId> {
        let mut found: BTreeSet<TimelineId> = BTreeSet::from([timeline]);
        found.extend(self.known.iter().copied().filter(|other| self.path_to(*other).contains(timeline, lsn)));
        found.into_iter().collect()
    }

    /// The newest timeline on which that state lies: what `recovery_target_timeline = latest` means for a backup.
    #[must_use]
    pub fn latest_descendant(&self, timeline: TimelineId, lsn: Lsn) -> TimelineId {
        self.descendants(timeline, lsn).last().copied().unwrap_or(timeline)
    }

    /// The highest position at which any descendant left `timeline`: its WAL certainly reached that far.
    #[must_use]
    pub fn last_fork_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.histories
            .values()
            .flat_map(|history| &history.ancestors)
            .filter(|ancestor| ancestor.timeline == timeline)
            .map(|ancestor| ancestor.switch)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn history(timeline: u32, ancestors: &[(u32, u64)]) -> TimelineHistory {
        TimelineHistory {
            timeline: tli(timeline),
            ancestors: ancestors
                .iter()
                .map(|(t, lsn)| Ancestor {
                    timeline: tli(*t),
                    switch: Lsn(*lsn),
                    reason: "no recovery target specified".to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_path_covers_every_position_once() {
        let path = TimelinePath::of_history(&history(4, &[(1, 100), (3, 250)]));
        assert_eq!(path.timeline_at(Lsn(0)), tli(1));
        assert_eq!(path.timeline_at(Lsn(99)), tli(1));
        assert_eq!(path.timeline_at(Lsn(100)), tli(3));
        assert_eq!(path.timeline_at(Lsn(250)), tli(4));
        assert_eq!(path.target(), tli(4));
        assert!(path.contains(tli(1), Lsn(100)));
        assert!(!path.contains(tli(1), Lsn(101)));
        assert!(!path.contains(tli(2), Lsn(1)));
        assert!(path.contains(tli(4), Lsn(9999)));
    }

    #[test]
    fn an_ancestor_left_before_it_began_holds_nothing() {
        // Recovery towards timeline 2 stopped at 50, before 2 forked off 1 at 100, and became 3.
        let path = TimelinePath::of_history(&history(3, &[(1, 100), (2, 50)]));
        let steps: Vec<_> = path.steps().iter().map(|s| (s.timeline.get(), s.from.0, s.to)).collect();
        assert_eq!(steps, vec![(1, 0, Some(Lsn(50))), (3, 50, None)]);
        assert!(!path.contains(tli(1), Lsn(60)));
    }

    #[test]
    fn the_newest_descendant_is_the_newest_that_shares_the_state() {
        // 2 and 3 both fork off 1; 4 descends from 2.
        let tree = TimelineTree::new(
            [history(2, &[(1, 100)]), history(3, &[(1, 50)]), history(4, &[(1, 100), (2, 200)])],
            [tli(1)],
        );
        assert_eq!(tree.latest_descendant(tli(1), Lsn(40)), tli(4));
        assert_eq!(tree.descendants(tli(1), Lsn(60)), vec![tli(1), tli(2), tli(4)]);
        assert_eq!(tree.latest_descendant(tli(3), Lsn(60)), tli(3));
        assert_eq!(tree.latest_descendant(tli(2), Lsn(300)), tli(2));
        assert_eq!(tree.last_fork_of(tli(1)), Some(Lsn(100)));
        assert_eq!(tree.last_fork_of(tli(4)), None);
    }

    #[test]
    fn a_missing_history_is_read_from_a_descendants() {
        let tree = TimelineTree::new([history(4, &[(1, 100), (2, 200)])], []);
        assert_eq!(tree.history(tli(2)), Some(history(2, &[(1, 100)])));
        assert_eq!(tree.history(tli(3)), None);
        assert_eq!(tree.path_to(tli(3)), TimelinePath::of_root(tli(3)));
    }

    proptest! {
        #[test]
        fn paths_agree_with_the_history_file(
            ancestors in proptest::collection::btree_map(1u32..20, 1u64..1000, 0..6),
            lsn in 0u64..1100,
        ) {
            let listed: Vec<(u32, u64)> = ancestors.into_iter().collect();
            let history = history(20, &listed);
            let path = TimelinePath::of_history(&history);
            // Steps touch, are not empty, and only the last is open.
            let mut at = Lsn(0);
            for (index, step) in path.steps().iter().enumerate() {
                prop_assert_eq!(step.from, at);
                prop_assert_eq!(step.to.is_none(), index + 1 == path.steps().len());
                if let Some(to) = step.to {
                    prop_assert!(to > step.from);
                    at = to;
                }
            }
            let here = path.step_at(Lsn(lsn));
            prop_assert!(here.from.0 <= lsn && here.to.is_none_or(|to| lsn < to.0));
            prop_assert_eq!(path.timeline_at(Lsn(lsn)), history.timeline_at(Lsn(lsn)));
        }
    }
}
