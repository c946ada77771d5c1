//! Summaries of neighbouring segments, put together, with the records that cross from one to the next.
//!
//! Neighbours must touch, belong to one cluster and, by their links, to one log; anything else is an error and not a
//! smaller summary. A crossing record that cannot be joined makes its changes unknown, which the flags say.

use super::block_summary::BlockSummary;
use super::changes::ChangeCollector;
use super::fragment::{Fragment, FragmentError, WholeRecord};
use super::segment_summary::{RestorePoint, SegmentSummary, SummaryFlags};
use crate::Lsn;

/// The next summary does not continue the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// A piece of WAL is missing in between.
    #[error("WAL from {end} to {start} is missing")]
    Gap {
        /// Where the WAL so far ends.
        end: Lsn,
        /// Where the next summary starts.
        start: Lsn,
    },
    /// The next summary starts before the end of the ones before.
    #[error("WAL from {start} comes twice (it was read up to {end})")]
    Overlap {
        /// Where the WAL so far ends.
        end: Lsn,
        /// Where the next summary starts.
        start: Lsn,
    },
    /// Another cluster's WAL.
    #[error("the WAL belongs to system identifier {found}, what came before to {expected}")]
    OtherCluster {
        /// The cluster of the first summary.
        expected: u64,
        /// The cluster of the next one.
        found: u64,
    },
    /// The pieces of the record at the border do not fit together.
    #[error("the record that crosses {at} does not continue in the next segment")]
    BrokenRecord {
        /// The border.
        at: Lsn,
    },
    /// The two segments are from logs that parted: two servers wrote the same timeline.
    #[error(
        "the segment from {at} continues another log: it follows a record at {found}, the last one was at {expected}"
    )]
    OtherLog {
        /// The border.
        at: Lsn,
        /// Where the last record before the border starts.
        expected: Lsn,
        /// Where the next segment says that it starts.
        found: Lsn,
    },
}

/// What a stretch of WAL of several segments changes.
///
/// Segments are pushed in the order of the log. Which timeline each is taken from is for the caller to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSummary {
    /// The cluster.
    pub system_identifier: u64,
    /// The start of the first segment. A record that crosses into it is not part of the range.
    pub start: Lsn,
    /// The end of valid WAL in the last.
    pub end: Lsn,
    /// Whole records.
    pub records: u64,
    /// Commits.
    pub commits: u64,
    /// Aborts.
    pub aborts: u64,
    /// The earliest and latest time of a commit or abort, in microseconds since 2000-01-01 UTC.
    pub times: Option<(i64, i64)>,
    /// Restore points, in the order of the log.
    pub restore_points: Vec<RestorePoint>,
    /// What changed.
    pub blocks: BlockSummary,
    /// What else is to be known. A crossing record too large to be kept counts as an unknown change.
    pub flags: SummaryFlags,
    /// The beginning of a record that goes on after the range.
    pub tail: Option<Fragment>,
    /// Whether the range lies in the inside of a record that began before it and has not ended.
    inside_record: bool,
    /// Where the last record starts, if it is known.
    last_record: Option<Lsn>,
}

impl RangeSummary {
    /// A range of one segment.
    #[must_use]
    pub fn new(first: &SegmentSummary) -> RangeSummary {
        RangeSummary {
            system_identifier: first.system_identifier,
            start: first.start,
            end: first.end,
            records: first.records,
            commits: first.commits,
            aborts: first.aborts,
            times: first.first_commit_time.zip(first.last_commit_time),
            restore_points: first.restore_points.clone(),
            blocks: first.blocks.clone(),
            flags: first.flags,
            tail: first.tail.clone(),
            last_record: first.last_record,
            inside_record: first.head.as_ref().is_some_and(|head| !head.is_complete()),
        }
    }

    /// Adds the segment that follows.
    ///
    /// # Errors
    ///
    /// When it does not follow: the range is as before then.
    pub fn push(&mut self, next: &SegmentSummary) -> Result<(), RangeError> {
        if next.system_identifier != self.system_identifier {
            return Err(RangeError::OtherCluster {
                expected: self.system_identifier,
                found: next.system_identifier,
            });
        }
        if next.start > self.end {
            return Err(RangeError::Gap { end: self.end, start: next.start });
        }
        if next.start < self.end {
            return Err(RangeError::Overlap { end: self.end, start: next.start });
        }
        self.cross(next)?;
        self.end = next.end;
        self.records += next.records;
        self.commits += next.commits;
        self.aborts += next.aborts;
        self.add_times(next.first_commit_time.zip(next.last_commit_time));
        self.restore_points.extend_from_slice(&next.restore_points);
        self.blocks.merge(&next.blocks);
        self.flags = self.flags.union(next.flags);
        Ok(())
    }

    /// Handles the record that crosses into `next`, if there is one.
    fn cross(&mut self, next: &SegmentSummary) -> Result<(), RangeError> {
        let broken = RangeError::BrokenRecord { at: next.start };
        if next.flags.overwrites_previous {
            // The torn record is not what the next one follows.
            self.check_link(next, self.last_record)?;
            self.inside_record = false;
            self.tail.clone_from(&next.tail);
        } else {
            match (&self.tail, &next.head) {
                (None, None) if !self.inside_record => {
                    self.check_link(next, self.last_record)?;
                    self.tail.clone_from(&next.tail);
                }
                (None, Some(head)) if self.inside_record => {
                    self.inside_record = !head.is_complete();
                    self.tail.clone_from(&next.tail);
                }
                (Some(tail), Some(head)) => {
                    let joined = tail.join(head).map_err(|_| broken)?;
                    if joined.is_complete() {
                        let start = joined.start;
                        self.check_link(next, Some(start))?;
                        self.add_crossing(joined, next).map_err(|_| broken)?;
                        self.last_record = Some(start);
                        self.tail.clone_from(&next.tail);
                    } else {
                        self.tail = Some(joined);
                    }
                }
                _ => return Err(broken),
            }
        }
        self.last_record = next.last_record.or(self.last_record);
        Ok(())
    }

    /// Whether the first record of `next` follows the one at `last`.
    fn check_link(&self, next: &SegmentSummary, last: Option<Lsn>) -> Result<(), RangeError> {
        match (last, next.first_previous) {
            (Some(expected), Some(found)) if expected != found => {
                Err(RangeError::OtherLog { at: next.start, expected, found })
            }
            _ => Ok(()),
        }
    }

    fn add_crossing(&mut self, joined: Fragment, next: &SegmentSummary) -> Result<(), FragmentError> {
        if joined.is_too_large() {
            self.records += 1;
            self.flags.unknown_change = true;
            return Ok(());
        }
        let whole = WholeRecord::from_fragment(joined, next.version)?;
        let mut changes = ChangeCollector::new();
        changes.apply(&whole.record());
        self.records += 1;
        self.commits += changes.commits;
        self.aborts += changes.aborts;
        self.add_times(changes.times);
        self.restore_points.append(&mut changes.restore_points);
        self.flags = self.flags.union(changes.flags);
        self.blocks.merge(&changes.into_blocks());
        Ok(())
    }

    fn add_times(&mut self, times: Option<(i64, i64)>) {
        self.times = match (self.times, times) {
            (Some((first, last)), Some((other_first, other_last))) => {
                Some((first.min(other_first), last.max(other_last)))
            }
            (mine, theirs) => mine.or(theirs),
        };
    }
}
