//! Reading write-ahead log: pages, records, which blocks they change, and when transactions ended.
//!
//! Everything works on one segment held in memory, without state from the segments around it. A record that crosses a
//! boundary is kept as raw fragments ([`Fragment`]): the beginning in the summary of the earlier segment, the rest in
//! that of the later one, so that whoever holds both summaries can decode it.
//!
//! The layouts are those of `access/xlog_internal.h`, `access/xlogrecord.h` and `access/xact.h` of PostgreSQL 13 to 18.
//! A page of any other version is refused, never guessed. What is stored is described in `docs/format/wal-summary.md`.

mod block_ref;
mod block_set;
mod block_summary;
mod changes;
mod cursor;
mod decoder;
mod error;
mod fragment;
mod page;
mod range_summary;
mod record;
mod scan;
mod segment_summary;
mod summary_codec;
mod transaction;

#[cfg(test)]
mod test_wal;
#[cfg(test)]
mod tests;

pub use block_ref::{BlockRef, ImageCompression};
pub use block_set::BlockSet;
pub use block_summary::{BlockSummary, ForkChanges};
pub use changes::ChangeCollector;
pub use decoder::SegmentDecoder;
pub use error::{EndOfWal, StopReason, WalError};
pub use fragment::{FRAGMENT_LIMIT, Fragment, FragmentError, WholeRecord, join_fragments};
pub use page::{LongHeader, PageHeader, WalVersion, header_of};
pub use range_summary::{RangeError, RangeSummary};
pub use record::WalRecord;
pub use scan::{SegmentEvent, SegmentEvents, first_record_from, scan_transactions};
pub use segment_summary::{
    RestorePoint, SegmentSummary, SummaryFlags, summarize_partial_segment, summarize_segment,
};
pub use summary_codec::SummaryCodecError;
pub use transaction::{TransactionEnd, TransactionEndKind};
