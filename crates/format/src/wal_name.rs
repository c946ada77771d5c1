//! Names of WAL files, and the arithmetic between them and positions.
//!
//! A segment of timeline `t` with number `n` is called `%08X%08X%08X` of `t`, `n / per_id`, `n % per_id`, where `per_id`
//! is how many segments make 4 GiB (`access/xlog_internal.h`, 13 to 18). Beside segments PostgreSQL archives
//! `<segment>.partial` (the end of a timeline), `<segment>.<offset>.backup` (a note about a backup) and `<timeline>.history`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// The number of a segment counted from the start of WAL: position divided by segment size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment after this one.
    #[must_use]
    pub const fn next(self) -> SegmentNumber {
        SegmentNumber(self.0.saturating_add(1))
    }
}

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB, fixed by initdb. Never assumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WalSegmentSize(u32);

/// Not a power of two between 1 MiB and 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a WAL segment size (a power of two from 1 MiB to 1 GiB)")]
pub struct BadSegmentSize(pub u32);

impl TryFrom<u32> for WalSegmentSize {
    type Error = BadSegmentSize;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            Ok(WalSegmentSize(bytes))
        } else {
            Err(BadSegmentSize(bytes))
        }
    }
}

impl From<WalSegmentSize> for u32 {
    fn from(size: WalSegmentSize) -> u32 {
        size.0
    }
}

impl WalSegmentSize {
    /// The size that initdb takes unless told otherwise, 16 MiB.
    pub const DEFAULT: WalSegmentSize = WalSegmentSize(16 << 20);

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn segment_at(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.0 >> self.0.trailing_zeros())
    }

    /// The segment that holds the byte before `lsn`: an end at a boundary belongs to the segment that it ends.
    #[must_use]
    pub const fn segment_before(self, lsn: Lsn) -> SegmentNumber {
        self.segment_at(Lsn(lsn.0.saturating_sub(1)))
    }

    /// The position of the first byte of a segment.
    #[must_use]
    pub const fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0.saturating_mul(self.bytes()))
    }

    /// The position after the last byte of a segment.
    #[must_use]
    pub const fn end_of(self, segment: SegmentNumber) -> Lsn {
        self.start_of(segment.next())
    }

    /// Where `lsn` lies in its segment, in bytes.
    #[must_use]
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 & (self.bytes() - 1)
    }

    const fn per_id(self) -> u64 {
        (1 << 32) >> self.0.trailing_zeros()
    }
}

/// A segment on a timeline. Ordered by timeline, then position, as the names sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSegmentName {
    /// The timeline whose WAL the segment holds.
    pub timeline: TimelineId,
    /// Which segment.
    pub number: SegmentNumber,
}

impl WalSegmentName {
    /// The segment of `timeline` that holds the byte at `lsn`.
    #[must_use]
    pub const fn at(timeline: TimelineId, lsn: Lsn, size: WalSegmentSize) -> WalSegmentName {
        WalSegmentName { timeline, number: size.segment_at(lsn) }
    }

    /// The 24 letters of the name.
    #[must_use]
    pub fn file_name(self, size: WalSegmentSize) -> String {
        let per_id = size.per_id();
        format!("{:08X}{:08X}{:08X}", self.timeline.get(), self.number.0 / per_id, self.number.0 % per_id)
    }

    /// Reads the 24 letters of a name; none where the letters, the timeline or the third part are out of range.
    #[must_use]
    pub fn parse(name: &str, size: WalSegmentSize) -> Option<WalSegmentName> {
        if name.len() != 24 {
            return None;
        }
        let timeline = TimelineId::new(hex8(name.get(0..8)?)?)?;
        let id = u64::from(hex8(name.get(8..16)?)?);
        let rest = u64::from(hex8(name.get(16..24)?)?);
        if rest >= size.per_id() {
            return None;
        }
        Some(WalSegmentName {
            timeline,
            number: SegmentNumber(id.checked_mul(size.per_id())?.checked_add(rest)?),
        })
    }
}

/// What PostgreSQL hands to `archive_command`, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalFileName {
    /// A whole segment.
    Segment(WalSegmentName),
    /// The unfinished last segment of a timeline: `<segment>.partial`.
    Partial(WalSegmentName),
    /// `<segment>.<offset>.backup`: a note that a backup began there; informational.
    BackupHistory {
        /// The segment in which the backup began.
        segment: WalSegmentName,
        /// Where in the segment, in bytes.
        offset: u32,
    },
    /// `<timeline>.history`: the ancestors of a timeline.
    TimelineHistory(TimelineId),
}

impl WalFileName {
    /// Reads a file name; none where it is none that PostgreSQL archives.
    #[must_use]
    pub fn parse(name: &str, size: WalSegmentSize) -> Option<WalFileName> {
        if let Some(stem) = name.strip_suffix(".history") {
            return Some(WalFileName::TimelineHistory(TimelineId::new(hex8(stem)?)?));
        }
        if let Some(stem) = name.strip_suffix(".partial") {
            return Some(WalFileName::Partial(WalSegmentName::parse(stem, size)?));
        }
        if let Some(stem) = name.strip_suffix(".backup") {
            let (segment, offset) = stem.split_once('.')?;
            return Some(WalFileName::BackupHistory {
                segment: WalSegmentName::parse(segment, size)?,
                offset: hex8(offset)?,
            });
        }
        Some(WalFileName::Segment(WalSegmentName::parse(name, size)?))
    }

    /// The name as PostgreSQL writes it.
    #[must_use]
    pub fn file_name(self, size: WalSegmentSize) -> String {
        match self {
            WalFileName::Segment(segment) => segment.file_name(size),
            WalFileName::Partial(segment) => format!("{}.partial", segment.file_name(size)),
            WalFileName::BackupHistory { segment, offset } => {
                format!("{}.{offset:08X}.backup", segment.file_name(size))
            }
            WalFileName::TimelineHistory(timeline) => format!("{:08X}.history", timeline.get()),
        }
    }

    /// The timeline that the file belongs to.
    #[must_use]
    pub const fn timeline(self) -> TimelineId {
        match self {
            WalFileName::Segment(s) | WalFileName::Partial(s) => s.timeline,
            WalFileName::BackupHistory { segment, .. } => segment.timeline,
            WalFileName::TimelineHistory(timeline) => timeline,
        }
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Exactly eight upper-case hexadecimal digits, as PostgreSQL writes them.
fn hex8(digits: &str) -> Option<u32> {
    let well_formed =
        digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if well_formed { u32::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind_survive_a_round_trip() {
        let size = WalSegmentSize::DEFAULT;
        for name in [
            "00000002000000070000004A",
            "00000001000000000000000A.partial",
            "00000001000000000000000A.00000028.backup",
            "0000000F.history",
        ] {
            assert_eq!(WalFileName::parse(name, size).unwrap().file_name(size), name);
        }
    }

    #[test]
    fn the_third_part_is_bounded_by_the_segment_size() {
        let small = WalSegmentSize::try_from(1 << 20).unwrap();
        assert!(WalSegmentName::parse("000000010000000000000FFF", small).is_some());
        assert!(WalSegmentName::parse("000000010000000000001000", small).is_none());
        assert!(WalSegmentName::parse("000000010000000000000100", WalSegmentSize::DEFAULT).is_none());
        assert!(WalSegmentName::parse("000000000000000000000001", WalSegmentSize::DEFAULT).is_none());
        assert!(WalSegmentName::parse("0000000100000000000000ab", WalSegmentSize::DEFAULT).is_none());
    }

    #[test]
    fn an_end_at_a_boundary_belongs_to_the_segment_before() {
        let size = WalSegmentSize::DEFAULT;
        assert_eq!(size.segment_at(Lsn(2 << 24)), SegmentNumber(2));
        assert_eq!(size.segment_before(Lsn(2 << 24)), SegmentNumber(1));
    }

    #[test]
    fn only_powers_of_two_in_range_are_segment_sizes() {
        for bytes in [0, 1 << 19, 3 << 20, u32::MAX, 1 << 31] {
            assert!(WalSegmentSize::try_from(bytes).is_err());
        }
    }
}
