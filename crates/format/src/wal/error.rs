//! Why bytes are not the segment that they should be, and why reading stopped before its end.
//!
//! The first is an error: wrong cluster, timeline, place, size or version. The second is not: WAL ends somewhere in
//! every log, and the reason is kept with the summary.

use crate::{Lsn, TimelineId};

/// The bytes are not the WAL segment that was asked for. Each variant says what was expected and what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The file is shorter or longer than a segment.
    #[error("the segment is {found} bytes long, expected {expected}")]
    WrongLength {
        /// The segment size.
        expected: u64,
        /// The number of bytes there are.
        found: u64,
    },
    /// The first two bytes are not the magic number of a WAL page: zeros, or something else altogether.
    #[error("not a WAL segment: it begins with {found:#06x} where the number of a WAL page should be")]
    NotWal {
        /// The number found.
        found: u16,
    },
    /// WAL of a PostgreSQL that this program does not know.
    #[error("WAL page magic {magic:04X} belongs to an unsupported PostgreSQL version (supported: 13 to 18)")]
    UnsupportedVersion {
        /// The magic number found.
        magic: u16,
    },
    /// The first page lacks the long header that starts each segment, or it contradicts itself.
    #[error("the header of the segment's first page is damaged: {what}")]
    BadHeader {
        /// What is wrong.
        what: &'static str,
    },
    /// The segment was written by another cluster.
    #[error("the segment belongs to the cluster with system identifier {found}, expected {expected}")]
    OtherCluster {
        /// The identifier of the cluster whose WAL was expected.
        expected: u64,
        /// The identifier in the header.
        found: u64,
    },
    /// The cluster has another WAL segment size.
    #[error("the segment is from a cluster whose WAL segments have {found} bytes, expected {expected}")]
    OtherSegmentSize {
        /// The size expected.
        expected: u64,
        /// The size in the header.
        found: u64,
    },
    /// The segment holds WAL of a timeline that its name does not allow.
    #[error("the segment holds WAL of timeline {found}, expected timeline {expected}")]
    OtherTimeline {
        /// The timeline in the name.
        expected: TimelineId,
        /// The timeline in the page headers.
        found: u32,
    },
    /// A recycled file that was not written yet: it still holds an older part of the log.
    #[error("the file is recycled: it still holds WAL from {found}, expected {expected}")]
    Recycled {
        /// The position that the name stands for.
        expected: Lsn,
        /// The position in the header, before the expected one.
        found: Lsn,
    },
    /// The segment holds a later part of the log than its name says.
    #[error("the segment holds WAL from {found}, expected {expected}")]
    OtherPosition {
        /// The position that the name stands for.
        expected: Lsn,
        /// The position in the header, after the expected one.
        found: Lsn,
    },
}

/// Where valid WAL ended before the end of its segment, and why.
///
/// Normal for the last segment of a timeline and for one that is still being written; a sign of damage otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfWal {
    /// The position at which nothing valid could be read.
    pub at: Lsn,
    /// What was there instead.
    pub reason: StopReason,
}

/// What was found where the next record or page should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// Zeros: nothing was written there.
    #[error("zeros")]
    Zeros,
    /// The bytes given end there.
    #[error("end of the file")]
    EndOfBytes,
    /// A record length that no record has.
    #[error("an impossible record length")]
    BadLength,
    /// A resource manager that does not exist.
    #[error("an unknown resource manager")]
    BadResourceManager,
    /// The link to the record before does not lead there.
    #[error("a record that does not follow the one before")]
    BadPreviousLink,
    /// The checksum of the record is wrong.
    #[error("a record with a wrong checksum")]
    BadChecksum,
    /// The page there is not the page that belongs there (not written yet, recycled or damaged).
    #[error("a page that does not belong there")]
    BadPage,
    /// The page should continue a record and does not, or the other way round.
    #[error("a page that does not continue the record")]
    BadContinuation,
}

impl StopReason {
    pub(super) const ALL: [StopReason; 8] = [
        StopReason::Zeros,
        StopReason::EndOfBytes,
        StopReason::BadLength,
        StopReason::BadResourceManager,
        StopReason::BadPreviousLink,
        StopReason::BadChecksum,
        StopReason::BadPage,
        StopReason::BadContinuation,
    ];

    /// The number that stands for the reason in a stored summary; never reused.
    pub(super) const fn code(self) -> u8 {
        match self {
            StopReason::Zeros => 1,
            StopReason::EndOfBytes => 2,
            StopReason::BadLength => 3,
            StopReason::BadResourceManager => 4,
            StopReason::BadPreviousLink => 5,
            StopReason::BadChecksum => 6,
            StopReason::BadPage => 7,
            StopReason::BadContinuation => 8,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<StopReason> {
        StopReason::ALL.into_iter().find(|reason| reason.code() == code)
    }
}
