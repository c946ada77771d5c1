//! WAL pages: the short header of each and the long header that starts a segment (`access/xlog_internal.h`, 13 to
//! 18).
//!
//! The magic number at the start of each page tells the major version; an unknown one is refused. The long header
//! says whose WAL it is, and from where on: it is what keeps another cluster's segments out of an archive.

use super::cursor::Cursor;
use super::error::WalError;
use crate::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};

/// Bytes of the header of a page in the middle of a segment, padding included.
pub(super) const SHORT_HEADER: usize = 24;
/// Bytes of the header of the first page of a segment.
pub(super) const LONG_HEADER: usize = 40;

const FIRST_IS_CONTRECORD: u16 = 1;
const HAS_LONG_HEADER: u16 = 2;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 8;
const KNOWN_FLAGS: u16 = 0xF;

/// The major version that wrote a WAL page, told by the page's magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalVersion {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl WalVersion {
    /// The version with that page magic, if it is one that this program reads.
    #[must_use]
    pub const fn from_magic(magic: u16) -> Option<WalVersion> {
        Some(match magic {
            0xD106 => WalVersion::V13,
            0xD10D => WalVersion::V14,
            0xD110 => WalVersion::V15,
            0xD113 => WalVersion::V16,
            0xD116 => WalVersion::V17,
            0xD118 => WalVersion::V18,
            _ => return None,
        })
    }

    /// The number that starts each page of this version.
    #[must_use]
    pub const fn magic(self) -> u16 {
        match self {
            WalVersion::V13 => 0xD106,
            WalVersion::V14 => 0xD10D,
            WalVersion::V15 => 0xD110,
            WalVersion::V16 => 0xD113,
            WalVersion::V17 => 0xD116,
            WalVersion::V18 => 0xD118,
        }
    }

    /// The major version number.
    #[must_use]
    pub const fn major(self) -> u32 {
        match self {
            WalVersion::V13 => 13,
            WalVersion::V14 => 14,
            WalVersion::V15 => 15,
            WalVersion::V16 => 16,
            WalVersion::V17 => 17,
            WalVersion::V18 => 18,
        }
    }
}

/// What each WAL page begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Tells the version that wrote the page.
    pub magic: u16,
    /// Flag bits.
    pub info: u16,
    /// The timeline of the first record on the page.
    pub timeline: u32,
    /// The position of the page's first byte.
    pub address: Lsn,
    /// How many bytes of the record from the page before are still to come, this page's share included.
    pub remaining: u32,
}

impl PageHeader {
    /// Reads a header; none if there are too few bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<PageHeader> {
        let mut cursor = Cursor(bytes.get(..SHORT_HEADER)?);
        Some(PageHeader {
            magic: cursor.u16()?,
            info: cursor.u16()?,
            timeline: cursor.u32()?,
            address: Lsn(cursor.u64()?),
            remaining: cursor.u32()?,
        })
    }

    /// Whether the page begins with the rest of a record that started before it.
    #[must_use]
    pub const fn continues_record(&self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    /// Whether the page declares the unfinished record before it void: a crash lost the rest of it.
    #[must_use]
    pub const fn overwrites_record(&self) -> bool {
        self.info & FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Whether the page begins with a long header.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.info & HAS_LONG_HEADER != 0
    }

    pub(super) const fn has_unknown_flags(&self) -> bool {
        self.info & !KNOWN_FLAGS != 0
    }
}

/// The header of the first page of a segment: whose WAL it is, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The version that wrote the segment.
    pub version: WalVersion,
    /// The part that every page has.
    pub page: PageHeader,
    /// The cluster that wrote the segment.
    pub system_identifier: u64,
    /// The size of each WAL segment of that cluster.
    pub segment_size: WalSegmentSize,
    /// The size of its WAL pages: a power of two from 1 KiB to 64 KiB.
    pub page_size: u32,
}

/// Reads the long header that a segment begins with; 40 bytes suffice.
///
/// # Errors
///
/// When the bytes are no WAL, of an unsupported version, or contradict themselves. That the header is the expected one
/// is for [`LongHeader::check`] to say.
pub fn header_of(bytes: &[u8]) -> Result<LongHeader, WalError> {
    let bad = |what| WalError::BadHeader { what };
    let Some(page) = PageHeader::parse(bytes) else {
        return Err(bad("there are too few bytes"));
    };
    let Some(version) = WalVersion::from_magic(page.magic) else {
        // Every PostgreSQL since 9.0 numbers its pages D0xx or D1xx; what lies outside is no WAL at all.
        return Err(if matches!(page.magic >> 8, 0xD0..=0xD3) {
            WalError::UnsupportedVersion { magic: page.magic }
        } else {
            WalError::NotWal { found: page.magic }
        });
    };
    if !page.is_long() {
        return Err(bad("it is not a long header"));
    }
    if page.has_unknown_flags() {
        return Err(bad("it has unknown flags"));
    }
    let mut rest = Cursor(bytes.get(SHORT_HEADER..).unwrap_or_default());
    let (Some(system_identifier), Some(segment_size), Some(page_size)) = (rest.u64(), rest.u32(), rest.u32())
    else {
        return Err(bad("there are too few bytes"));
    };
    let segment_size =
        WalSegmentSize::try_from(segment_size).map_err(|_| bad("its segment size is impossible"))?;
    if !page_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_size) {
        return Err(bad("its page size is impossible"));
    }
    if page.address.0 % segment_size.bytes() != 0 {
        return Err(bad("its position is not the start of a segment"));
    }
    Ok(LongHeader { version, page, system_identifier, segment_size, page_size })
}

impl LongHeader {
    /// Checks that the segment is the one of that name: segment size, position, and a timeline that is possible in it.
    ///
    /// A segment may begin with an older timeline than its name has, because a promotion copies the start of the
    /// segment in which it happens. Only the records tell then; [`super::summarize_segment`] looks.
    ///
    /// # Errors
    ///
    /// Says which of these differs, what was expected and what was found.
    pub fn check(&self, expected: WalSegmentName, size: WalSegmentSize) -> Result<(), WalError> {
        if self.segment_size != size {
            return Err(WalError::OtherSegmentSize {
                expected: size.bytes(),
                found: self.segment_size.bytes(),
            });
        }
        let start = size.start_of(expected.number);
        if self.page.address < start {
            return Err(WalError::Recycled { expected: start, found: self.page.address });
        }
        if self.page.address > start {
            return Err(WalError::OtherPosition { expected: start, found: self.page.address });
        }
        self.check_timeline(expected.timeline)
    }

    /// Checks that the segment was written by that cluster.
    ///
    /// # Errors
    ///
    /// [`WalError::OtherCluster`] if it was not.
    pub const fn check_system_identifier(&self, expected: u64) -> Result<(), WalError> {
        if self.system_identifier == expected {
            Ok(())
        } else {
            Err(WalError::OtherCluster { expected, found: self.system_identifier })
        }
    }

    fn check_timeline(&self, expected: TimelineId) -> Result<(), WalError> {
        if self.page.timeline == 0 || self.page.timeline > expected.get() {
            return Err(WalError::OtherTimeline { expected, found: self.page.timeline });
        }
        Ok(())
    }
}
