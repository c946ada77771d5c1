//! What one WAL segment says of itself: how far its records are valid, and what crosses into it and out of it.

use pgkeep_format::wal::{Fragment, SegmentDecoder, WalError, WalVersion};
use pgkeep_format::{Lsn, WalSegmentName, WalSegmentSize};

/// The facts about a segment that a range is judged by. Small, whatever the segment's size.
#[derive(Debug)]
pub(super) struct SegmentFacts {
    pub(super) system_identifier: u64,
    pub(super) version: WalVersion,
    /// The rest of a record that began in an earlier segment.
    pub(super) head: Option<Fragment>,
    /// The beginning of a record that ends in a later one.
    pub(super) tail: Option<Fragment>,
    /// The record that the earlier segment did not finish is void.
    pub(super) overwrites_previous: bool,
    /// What the first record that begins here says that the record before it is.
    pub(super) first_link: Option<Lsn>,
    /// Where the last record that begins here begins.
    pub(super) last_record: Option<Lsn>,
    /// Everything up to here is valid.
    pub(super) valid_until: Lsn,
    /// What was found there instead.
    pub(super) stopped_by: Option<String>,
}

impl SegmentFacts {
    /// Reads all of a segment.
    ///
    /// # Errors
    /// When the bytes are not that segment.
    pub(super) fn read(
        bytes: &[u8],
        name: WalSegmentName,
        size: WalSegmentSize,
    ) -> Result<SegmentFacts, WalError> {
        let mut decoder = SegmentDecoder::new(bytes, name, size)?;
        let (mut first_link, mut last_record) = (None, None);
        while let Some(record) = decoder.next_record() {
            first_link.get_or_insert(record.prev);
            last_record = Some(record.lsn);
        }
        let tail = decoder.take_tail();
        if let Some(tail) = &tail {
            last_record = Some(tail.start);
        }
        Ok(SegmentFacts {
            system_identifier: decoder.header().system_identifier,
            version: decoder.version(),
            head: decoder.take_head(),
            tail,
            overwrites_previous: decoder.overwrites_previous(),
            first_link,
            last_record,
            valid_until: decoder.end(),
            stopped_by: decoder.end_of_wal().map(|end| end.reason.to_string()),
        })
    }
}
