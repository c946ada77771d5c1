//! Ranges of numbers, each with the time at which it was verified: windows of a pack, segments of a timeline.
//!
//! Pure. Sorted, disjoint, and neighbours of the same time are one: what was verified in one go is one entry.

use jiff::Timestamp;

/// Numbers `first..=last`, verified at `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) at: Timestamp,
}

/// Ranges and when they were verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<Span>);

/// A part of a range, and when it was verified; none where it never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) at: Option<Timestamp>,
}

impl Spans {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter()
    }

    /// Notes that a range was verified. What is known to be verified later stays so.
    pub(crate) fn mark(&mut self, first: u64, last: u64, at: Timestamp) {
        if first > last {
            return;
        }
        let mut parts = Vec::with_capacity(self.0.len() + 2);
        for span in &self.0 {
            if span.last < first || span.first > last {
                parts.push(*span);
                continue;
            }
            if span.first < first {
                parts.push(Span { last: first - 1, ..*span });
            }
            if span.last > last {
                parts.push(Span { first: last + 1, ..*span });
            }
        }
        for part in self.parts(first, last) {
            let at = part.at.map_or(at, |before| before.max(at));
            parts.push(Span { first: part.first, last: part.last, at });
        }
        parts.sort_by_key(|span| span.first);
        self.0.clear();
        for span in parts {
            match self.0.last_mut() {
                Some(before) if before.at == span.at && before.last.checked_add(1) == Some(span.first) => {
                    before.last = span.last;
                }
                _ => self.0.push(span),
            }
        }
    }

    /// The range cut into what was verified and what was not, in order.
    pub(crate) fn parts(&self, first: u64, last: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut next = first;
        for span in self.0.iter().filter(|span| span.last >= first && span.first <= last) {
            if span.first > next {
                parts.push(Part { first: next, last: span.first - 1, at: None });
            }
            let end = span.last.min(last);
            parts.push(Part { first: span.first.max(first), last: end, at: Some(span.at) });
            if end == last {
                return parts;
            }
            next = end + 1;
        }
        if next <= last {
            parts.push(Part { first: next, last, at: None });
        }
        parts
    }

    /// How many numbers of the range were ever verified.
    pub(crate) fn verified(&self, first: u64, last: u64) -> u64 {
        let verified = |part: &Part| part.at.map_or(0, |_| part.last - part.first + 1);
        self.parts(first, last).iter().map(verified).sum()
    }

    /// When a number was verified.
    pub(crate) fn at(&self, number: u64) -> Option<Timestamp> {
        self.0.iter().find(|span| span.first <= number && number <= span.last).map(|span| span.at)
    }

    /// Whether a number was verified at that very time or later.
    pub(crate) fn is_verified_since(&self, number: u64, since: Timestamp) -> bool {
        self.at(number).is_some_and(|at| at >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn later_marks_win_and_neighbours_of_one_time_are_one() {
        let mut spans = Spans::default();
        spans.mark(0, 9, at(10));
        spans.mark(10, 19, at(10));
        assert_eq!(spans.0.len(), 1);
        spans.mark(5, 12, at(20));
        spans.mark(0, 19, at(15));
        let shape: Vec<_> = spans.iter().map(|s| (s.first, s.last, s.at.as_second())).collect();
        assert_eq!(shape, [(0, 4, 15), (5, 12, 20), (13, 19, 15)]);
        assert_eq!(spans.verified(3, 30), 17);
        assert!(spans.is_verified_since(5, at(20)) && !spans.is_verified_since(4, at(20)));
    }

    #[test]
    fn parts_cover_the_range_once() {
        let mut spans = Spans::default();
        spans.mark(3, 4, at(1));
        spans.mark(8, u64::MAX, at(2));
        let shape: Vec<_> = spans
            .parts(0, 10)
            .iter()
            .map(|p| (p.first, p.last, p.at.map(jiff::Timestamp::as_second)))
            .collect();
        assert_eq!(shape, [(0, 2, None), (3, 4, Some(1)), (5, 7, None), (8, 10, Some(2))]);
        assert_eq!(spans.parts(0, u64::MAX).last().unwrap().last, u64::MAX);
    }
}
