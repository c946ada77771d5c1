//! Which step is next: ready when what it needs is done and nothing that runs locks what it locks; the one at the head of
//! the longest way to the end goes first.

use std::collections::BTreeSet;

use super::plan::{Phase, Step};

/// The steps of one phase that are left.
#[derive(Debug)]
pub(super) struct Schedule<'a> {
    steps: &'a [Step],
    /// Not begun.
    pending: BTreeSet<usize>,
    running: BTreeSet<usize>,
    finished: Vec<bool>,
    /// Largest first.
    order: Vec<usize>,
}

impl<'a> Schedule<'a> {
    /// What is done already counts as finished.
    pub(super) fn new(steps: &'a [Step], phase: Phase, jobs: u32) -> Schedule<'a> {
        let ranks = ranks(steps, phase, u64::from(jobs.max(1)));
        let pending: BTreeSet<usize> =
            (0..steps.len()).filter(|number| steps[*number].phase == phase && !steps[*number].done).collect();
        let mut order: Vec<usize> = pending.iter().copied().collect();
        order.sort_by_key(|number| (std::cmp::Reverse(ranks[*number]), *number));
        let finished = steps.iter().map(|step| step.done).collect();
        Schedule { steps, pending, running: BTreeSet::new(), finished, order }
    }

    /// The next step, which runs from now on; none: nothing can begin now.
    pub(super) fn next(&mut self) -> Option<usize> {
        let is_ready = |number: &usize| {
            self.pending.contains(number)
                && self.steps[*number].needs.iter().all(|need| self.finished[*need])
                && !self.conflicts(*number)
        };
        let mut found = self.order.iter().copied().find(|number| is_ready(number));
        if found.is_none() && self.running.is_empty() {
            // What is left needs itself: in the order of the archive, as stock.
            found = self.pending.first().copied();
        }
        let number = found?;
        self.pending.remove(&number);
        self.running.insert(number);
        if self.order.len() > 2 * self.pending.len() + 64 {
            self.order.retain(|number| self.pending.contains(number));
        }
        Some(number)
    }

    pub(super) fn done(&mut self, number: usize) {
        self.running.remove(&number);
        self.finished[number] = true;
    }

    /// What cannot be tried now that a step failed.
    pub(super) fn failed(&mut self, number: usize) -> Vec<usize> {
        self.running.remove(&number);
        let mut lost = vec![number];
        let mut at = 0;
        while let Some(gone) = lost.get(at).copied() {
            at += 1;
            let dependents: Vec<usize> = self
                .pending
                .iter()
                .copied()
                .filter(|pending| self.steps[*pending].needs.contains(&gone))
                .collect();
            for dependent in dependents {
                self.pending.remove(&dependent);
                lost.push(dependent);
            }
        }
        lost.remove(0);
        lost
    }

    /// What was not begun.
    pub(super) fn left(&self) -> impl Iterator<Item = usize> {
        self.pending.iter().copied()
    }

    fn conflicts(&self, number: usize) -> bool {
        let locks = &self.steps[number].locks;
        self.running.iter().any(|running| {
            let others = &self.steps[*running].locks;
            locks.iter().any(|(table, lock)| {
                others.iter().any(|(other, held)| table == other && lock.conflicts(*held))
            })
        })
    }
}

/// How far each step is from the end: its own weight, the longest way behind it, and a share of what else waits for it.
fn ranks(steps: &[Step], phase: Phase, jobs: u64) -> Vec<u64> {
    let mut dependents = vec![Vec::new(); steps.len()];
    let mut waiting = vec![0_usize; steps.len()];
    let of_phase: Vec<usize> = (0..steps.len()).filter(|number| steps[*number].phase == phase).collect();
    for number in of_phase.iter().copied() {
        for need in steps[number].needs.iter().copied() {
            dependents[need].push(number);
            waiting[need] += 1;
        }
    }
    let mut ranks: Vec<u64> = steps.iter().map(|step| step.weight).collect();
    let mut free: Vec<usize> = of_phase.into_iter().filter(|number| waiting[*number] == 0).collect();
    while let Some(number) = free.pop() {
        let behind = dependents[number].iter().map(|dependent| ranks[*dependent]).max().unwrap_or(0);
        let all = dependents[number]
            .iter()
            .fold(0_u64, |sum, dependent| sum.saturating_add(steps[*dependent].weight));
        ranks[number] = steps[number].weight.saturating_add(behind).saturating_add(all / jobs);
        for need in steps[number].needs.iter().copied() {
            waiting[need] -= 1;
            if waiting[need] == 0 {
                free.push(need);
            }
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Lock;
    use crate::restore::Wanted;

    fn step(weight: u64, needs: &[usize], locks: &[(usize, Lock)]) -> Step {
        Step {
            key: String::new(),
            label: String::new(),
            index: 0,
            instead: None,
            wanted: Wanted::default(),
            rows: None,
            phase: Phase::Main,
            needs: needs.to_vec(),
            locks: locks.to_vec(),
            weight,
            stored: 0,
            repeats: false,
            done: false,
        }
    }

    #[test]
    fn a_smaller_table_with_much_to_come_goes_before_a_larger_one() {
        let steps = [step(100, &[], &[]), step(60, &[], &[]), step(50, &[1], &[]), step(50, &[1], &[])];
        let mut schedule = Schedule::new(&steps, Phase::Main, 2);
        assert_eq!((schedule.next(), schedule.next(), schedule.next()), (Some(1), Some(0), None));
        schedule.done(1);
        assert_eq!((schedule.next(), schedule.next(), schedule.next()), (Some(2), Some(3), None));
    }

    #[test]
    fn indexes_of_a_table_are_built_together_and_a_constraint_waits_for_them() {
        let steps = [
            step(1, &[], &[(7, Lock::Build)]),
            step(1, &[], &[(7, Lock::Build)]),
            step(9, &[], &[(7, Lock::Exclusive)]),
            step(1, &[], &[(7, Lock::Read)]),
        ];
        let mut schedule = Schedule::new(&steps, Phase::Main, 4);
        assert_eq!((schedule.next(), schedule.next()), (Some(2), None));
        schedule.done(2);
        assert_eq!((schedule.next(), schedule.next(), schedule.next()), (Some(0), Some(1), Some(3)));
    }

    #[test]
    fn what_needs_a_failure_is_not_tried_and_all_else_is() {
        let steps = [step(1, &[], &[]), step(1, &[0], &[]), step(1, &[1], &[]), step(1, &[], &[])];
        let mut schedule = Schedule::new(&steps, Phase::Main, 1);
        assert_eq!(schedule.next(), Some(0));
        assert_eq!(schedule.failed(0), [1, 2]);
        assert_eq!(schedule.next(), Some(3));
        schedule.done(3);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn a_circle_is_gone_through_in_order() {
        let steps = [step(1, &[1], &[]), step(1, &[0], &[])];
        let mut schedule = Schedule::new(&steps, Phase::Main, 2);
        assert_eq!((schedule.next(), schedule.next()), (Some(0), None));
        schedule.done(0);
        assert_eq!(schedule.next(), Some(1));
    }

    #[test]
    fn what_was_done_before_is_not_done_again() {
        let mut steps = [step(1, &[], &[]), step(1, &[0], &[])];
        steps[0].done = true;
        let mut schedule = Schedule::new(&steps, Phase::Main, 1);
        assert_eq!(schedule.next(), Some(1));
    }
}
