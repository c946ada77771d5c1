//! Timeline history files: which stretch of WAL comes from which timeline (`access/transam/timeline.c`, 13 to 18).
//!
//! `%08X.history` of a timeline lists its ancestors, oldest first, each with the position where the history left it:
//! the first byte that is *not* the ancestor's. Switch positions usually grow, but need not: recovery towards a
//! timeline that stops before reaching it starts a new one with that timeline as its parent, left before it began.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// Longer files are refused: a line has some 60 bytes, and this makes room for ten thousand promotions.
pub const MAX_HISTORY_LENGTH: usize = 1 << 20;

/// How a timeline came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline whose history this is.
    pub timeline: TimelineId,
    /// Its ancestors, oldest first; empty for a timeline that initdb (or pg_resetwal) began.
    pub ancestors: Vec<Ancestor>,
}

/// A timeline that another one descends from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Which timeline.
    pub timeline: TimelineId,
    /// The first position that is not this ancestor's but a descendant's.
    pub switch: Lsn,
    /// Why it was left, as the server put it; for people.
    pub reason: String,
}

/// Why a history file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimelineHistoryError {
    /// Far longer than any server writes it.
    #[error("the history of timeline {timeline} has {length} bytes, more than any server writes")]
    TooLong {
        /// Whose history.
        timeline: TimelineId,
        /// Its length in bytes.
        length: usize,
    },
    /// A line is not a timeline and a position.
    #[error("the history of timeline {timeline} has a malformed line {line}: `{text}`")]
    Malformed {
        /// Whose history.
        timeline: TimelineId,
        /// Which line, counted from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// An ancestor's number is not above the one before it, or not below the timeline's own.
    #[error("the history of timeline {timeline} lists timeline {ancestor} out of order in line {line}")]
    OutOfOrder {
        /// Whose history.
        timeline: TimelineId,
        /// Which line, counted from 1.
        line: usize,
        /// The timeline that it names.
        ancestor: TimelineId,
    },
}

impl TimelineHistory {
    /// The history of a timeline that has no history file.
    #[must_use]
    pub const fn without_ancestors(timeline: TimelineId) -> TimelineHistory {
        TimelineHistory { timeline, ancestors: Vec::new() }
    }

    /// Reads the history file of `timeline`.
    ///
    /// # Errors
    /// When a line is malformed or the timelines are not in ascending order.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<TimelineHistory, TimelineHistoryError> {
        if bytes.len() > MAX_HISTORY_LENGTH {
            return Err(TimelineHistoryError::TooLong { timeline, length: bytes.len() });
        }
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = index + 1;
            // The reason may hold a restore point's name in whatever encoding the database had.
            let text = String::from_utf8_lossy(raw);
            let text = text.trim_matches([' ', '\t', '\r']);
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let ancestor = parse_line(text).ok_or_else(|| TimelineHistoryError::Malformed {
                timeline,
                line,
                text: text.to_owned(),
            })?;
            let is_ordered = ancestors.last().is_none_or(|last| last.timeline < ancestor.timeline);
            if !is_ordered || ancestor.timeline >= timeline {
                return Err(TimelineHistoryError::OutOfOrder { timeline, line, ancestor: ancestor.timeline });
            }
            ancestors.push(ancestor);
        }
        Ok(TimelineHistory { timeline, ancestors })
    }

    /// The timeline of this history that holds the byte at `lsn`.
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        // The newest timeline that had begun by `lsn`, as the server decides it.
        let mut newest = self.timeline;
        for ancestor in self.ancestors.iter().rev() {
            if lsn >= ancestor.switch {
                break;
            }
            newest = ancestor.timeline;
        }
        newest
    }

    /// Whether the state that `timeline` had at `lsn` (an end: everything before that byte) leads to this timeline.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        timeline == self.timeline || self.end_of(timeline).is_some_and(|end| lsn <= end)
    }

    /// Where this history left `timeline`, one of its ancestors, as the file says it.
    #[must_use]
    pub fn switch_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.ancestors.iter().find(|ancestor| ancestor.timeline == timeline).map(|ancestor| ancestor.switch)
    }

    /// The timeline right before this one.
    #[must_use]
    pub fn parent(&self) -> Option<&Ancestor> {
        self.ancestors.last()
    }

    /// Up to where WAL of `timeline` counts: its own switch, or that of a younger ancestor which was left even earlier.
    fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let first = self.ancestors.iter().position(|ancestor| ancestor.timeline == timeline)?;
        self.ancestors.iter().skip(first).map(|ancestor| ancestor.switch).min()
    }
}

impl fmt::Display for TimelineHistory {
    /// The contents of the history file, as servers up to 18 write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Ancestor { timeline, switch, reason }) in self.ancestors.iter().enumerate() {
            // The server copies the parent's file and appends an empty line and its own.
            let separator = if index == 0 { "" } else { "\n" };
            writeln!(f, "{separator}{timeline}\t{switch}\t{reason}")?;
        }
        Ok(())
    }
}

fn parse_line(text: &str) -> Option<Ancestor> {
    let (timeline, rest) = text.split_once([' ', '\t'])?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let (switch, reason) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    if !timeline.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Ancestor {
        timeline: TimelineId::new(timeline.parse().ok()?)?,
        switch: switch.parse().ok()?,
        reason: reason.trim_matches([' ', '\t']).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn history(switches: &[(u32, u64)], timeline: u32) -> TimelineHistory {
        let ancestors = switches
            .iter()
            .map(|(number, switch)| Ancestor {
                timeline: tli(*number),
                switch: Lsn(*switch),
                reason: "before 2026-11-22 09:00:00+00".to_owned(),
            })
            .collect();
        TimelineHistory { timeline: tli(timeline), ancestors }
    }

    #[test]
    fn the_switch_position_is_the_first_byte_of_the_descendant() {
        let history = history(&[(1, 100), (2, 200)], 5);
        for (lsn, timeline) in [(0, 1), (99, 1), (100, 2), (199, 2), (200, 5), (u64::MAX, 5)] {
            assert_eq!(history.timeline_at(Lsn(lsn)), tli(timeline), "{lsn}");
        }
        assert!(history.contains(tli(1), Lsn(100)), "everything before byte 100 is timeline 1's");
        assert!(!history.contains(tli(1), Lsn(101)));
        assert!(history.contains(tli(5), Lsn(u64::MAX)));
        assert!(!history.contains(tli(3), Lsn(1)));
        assert_eq!(history.switch_of(tli(2)), Some(Lsn(200)));
        assert_eq!(history.switch_of(tli(5)), None);
        assert_eq!(history.parent().map(|parent| parent.timeline), Some(tli(2)));
    }

    #[test]
    fn a_timeline_left_before_it_began_holds_nothing() {
        let history = history(&[(1, 500), (2, 400)], 3);
        assert_eq!(history.timeline_at(Lsn(399)), tli(1));
        assert_eq!(history.timeline_at(Lsn(400)), tli(3));
        assert_eq!(history.timeline_at(Lsn(450)), tli(3));
        assert!(!history.contains(tli(1), Lsn(450)), "what timeline 1 wrote after 400 is not on timeline 3");
        assert!(history.contains(tli(1), Lsn(400)));
    }

    #[test]
    fn a_timeline_without_a_file_holds_everything() {
        let history = TimelineHistory::without_ancestors(TimelineId::FIRST);
        assert_eq!(history.timeline_at(Lsn(0)), TimelineId::FIRST);
        assert_eq!(TimelineHistory::parse(TimelineId::FIRST, b""), Ok(history));
    }

    #[test]
    fn comments_blank_lines_and_odd_spacing_are_passed_over() {
        let text = b"# a comment\n\n 1 \t 0/5000000  by\thand \r\n2\t1/00000000\n";
        let history = TimelineHistory::parse(tli(3), text).unwrap();
        assert_eq!(history.ancestors[0].reason, "by\thand");
        assert_eq!(history.ancestors[1].switch, Lsn(1 << 32));
    }

    #[test]
    fn damaged_files_are_refused() {
        for text in ["1", "1\t", "x\t0/1", "+1\t0/1", "0\t0/1\tx", "1\t0-1\tx", "4294967296\t0/1"] {
            let result = TimelineHistory::parse(tli(9), text.as_bytes());
            assert!(
                matches!(result, Err(TimelineHistoryError::Malformed { line: 1, .. })),
                "{text}: {result:?}"
            );
        }
        for text in ["1\t0/1\tx\n1\t0/2\tx", "3\t0/1\tx\n2\t0/2\tx", "9\t0/1\tx", "10\t0/1\tx"] {
            let result = TimelineHistory::parse(tli(9), text.as_bytes());
            assert!(matches!(result, Err(TimelineHistoryError::OutOfOrder { .. })), "{text}: {result:?}");
        }
        let long = vec![b'\n'; MAX_HISTORY_LENGTH + 1];
        assert!(matches!(TimelineHistory::parse(tli(9), &long), Err(TimelineHistoryError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            switches in prop::collection::btree_map(1u32..1000, (any::<u64>(), "[a-z:0-9]([a-z :0-9]{0,20}[a-z])?"), 0..8),
        ) {
            let ancestors = switches
                .into_iter()
                .map(|(number, (switch, reason))| Ancestor { timeline: tli(number), switch: Lsn(switch), reason })
                .collect();
            let history = TimelineHistory { timeline: tli(1000), ancestors };
            prop_assert_eq!(TimelineHistory::parse(tli(1000), history.to_string().as_bytes()), Ok(history));
        }

        #[test]
        fn a_byte_is_on_the_timeline_that_holds_it(
            switches in prop::collection::vec(0u64..50, 0..6), lsn in 0u64..60,
        ) {
            let listed: Vec<_> = (1..).zip(switches).collect();
            let history = history(&listed, 100);
            let holder = history.timeline_at(Lsn(lsn));
            prop_assert!(history.contains(holder, Lsn(lsn)) && history.contains(holder, Lsn(lsn + 1)));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(TimelineHistory::parse(tli(7), &bytes));
        }
    }
}
