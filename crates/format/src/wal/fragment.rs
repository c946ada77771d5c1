//! Pieces of a record that crosses the boundary between segments.
//!
//! A summary is made from one segment alone, so it keeps such pieces raw, up to a limit. Joined in order they make
//! the record, which counts only when its checksum is right. Stored as `docs/format/wal-summary.md` says; why so is
//! in `docs/design/0004-wal-summaries-keep-fragments.md`.

use super::block_ref::BlockRef;
use super::page::WalVersion;
use super::record::{Checksum, RecordHeader, WalRecord, parse_body};
use crate::Lsn;

/// A piece larger than this is described, not kept. Records that large are rare: a commit that drops 80,000 relations,
/// a logical message.
pub const FRAGMENT_LIMIT: usize = 1 << 20;

/// Joined pieces may have this size: two neighbours that are both as large as they can be.
const JOINED_LIMIT: usize = 2 * FRAGMENT_LIMIT;

/// The part of a record that lies in one segment (or in several neighbouring ones), page headers left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Where the piece begins: where the record starts if it is the first piece, else the start of a segment.
    pub start: Lsn,
    /// Where it ends: the end of the record if this is the last piece, else the end of a segment.
    pub end: Lsn,
    /// How many bytes the record has from `start` on.
    pub length: u32,
    /// How many of those are in this piece.
    pub held: u32,
    /// The bytes; none if they are too many to keep.
    pub bytes: Option<Vec<u8>>,
}

/// The pieces do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// The second piece does not begin where the first ends.
    #[error("a piece of a record ends at {end}, the next one begins at {start}")]
    NotNeighbours {
        /// The end of the first.
        end: Lsn,
        /// The start of the second.
        start: Lsn,
    },
    /// The first piece lacks another number of bytes than the second announces.
    #[error("the record from {start} lacks {missing} bytes, the next piece is of one that lacks {found}")]
    OtherRecord {
        /// Where the first piece begins.
        start: Lsn,
        /// What it lacks.
        missing: u32,
        /// What the second announces.
        found: u32,
    },
    /// Pieces are still missing.
    #[error("the record from {start} is not complete, {missing} bytes are missing")]
    Incomplete {
        /// Where the record starts.
        start: Lsn,
        /// How many bytes are missing.
        missing: u32,
    },
    /// The record is so large that its bytes were not kept.
    #[error("the record from {start} is too large to be kept in pieces ({length} bytes)")]
    TooLarge {
        /// Where the record starts.
        start: Lsn,
        /// Its size.
        length: u32,
    },
    /// The joined bytes are no record, or its checksum is wrong.
    #[error("the pieces from {start} do not make a record with a right checksum")]
    BadRecord {
        /// Where the first piece begins.
        start: Lsn,
    },
}

impl Fragment {
    /// Whether the bytes were too many to keep.
    #[must_use]
    pub const fn is_too_large(&self) -> bool {
        self.bytes.is_none()
    }

    /// Whether the record ends in this piece.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.held == self.length
    }

    /// This piece and the one after it, as one.
    ///
    /// # Errors
    ///
    /// When they do not belong to one record.
    pub fn join(&self, next: &Fragment) -> Result<Fragment, FragmentError> {
        let missing = self.length.saturating_sub(self.held);
        if missing == 0 || self.end != next.start {
            return Err(FragmentError::NotNeighbours { end: self.end, start: next.start });
        }
        if missing != next.length {
            return Err(FragmentError::OtherRecord { start: self.start, missing, found: next.length });
        }
        let bytes = match (&self.bytes, &next.bytes) {
            (Some(first), Some(second)) if first.len() + second.len() <= JOINED_LIMIT => {
                Some([first.as_slice(), second.as_slice()].concat())
            }
            _ => None,
        };
        Ok(Fragment {
            start: self.start,
            end: next.end,
            length: self.length,
            held: self.held.saturating_add(next.held),
            bytes,
        })
    }
}

/// A record put together from its pieces; owns its bytes.
#[derive(Debug, Clone)]
pub struct WholeRecord {
    lsn: Lsn,
    end: Lsn,
    version: WalVersion,
    header: RecordHeader,
    bytes: Vec<u8>,
    blocks: Vec<BlockRef>,
    main_data: Option<std::ops::Range<usize>>,
}

impl WholeRecord {
    /// The record in a complete piece that begins with the record's first byte.
    ///
    /// # Errors
    ///
    /// When the piece is not complete, was too large to keep, or is no record.
    pub fn from_fragment(fragment: Fragment, version: WalVersion) -> Result<WholeRecord, FragmentError> {
        let Fragment { start, end, length, held, bytes } = fragment;
        if held != length {
            return Err(FragmentError::Incomplete { start, missing: length.saturating_sub(held) });
        }
        let bytes = bytes.ok_or(FragmentError::TooLarge { start, length })?;
        let bad = FragmentError::BadRecord { start };
        let header = RecordHeader::parse(&bytes).ok_or(bad)?;
        if usize::try_from(header.total_length) != Ok(bytes.len())
            || !Checksum::new().matches(&bytes, header.crc)
        {
            return Err(bad);
        }
        let mut blocks = Vec::new();
        let main_data =
            parse_body(&bytes, version, &mut blocks).map(|data| bytes.len() - data.len()..bytes.len());
        Ok(WholeRecord { lsn: start, end, version, header, bytes, blocks, main_data })
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> WalRecord<'_> {
        let main_data = self.main_data.clone().and_then(|range| self.bytes.get(range));
        WalRecord {
            lsn: self.lsn,
            end: self.end,
            prev: Lsn(self.header.prev),
            xid: self.header.xid,
            rmgr: self.header.rmgr,
            info: self.header.info,
            version: self.version,
            blocks: if main_data.is_some() { &self.blocks } else { &[] },
            main_data: main_data.unwrap_or_default(),
            malformed: main_data.is_none(),
            bytes: &self.bytes,
        }
    }
}

/// The record whose first piece is `tail` (from the end of a segment) and whose other pieces are `heads`, those of the
/// segments that follow, in order.
///
/// # Errors
///
/// When the pieces do not belong together, are not all there, or were too large to keep.
pub fn join_fragments<'f>(
    tail: &Fragment,
    heads: impl IntoIterator<Item = &'f Fragment>,
    version: WalVersion,
) -> Result<WholeRecord, FragmentError> {
    let mut joined = tail.clone();
    for head in heads {
        joined = joined.join(head)?;
    }
    WholeRecord::from_fragment(joined, version)
}
