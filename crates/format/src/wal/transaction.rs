//! Records that end transactions (`access/xact.h`, `xl_xact_commit` and `xl_xact_abort`, 13 to 18).
//!
//! Of interest are the time, the transaction (for prepared ones not that of the record) and the relations that were
//! dropped. The optional parts follow each other without lengths; the list of dropped statistics came in 15 and grew
//! in 18.

use super::cursor::Cursor;
use super::page::WalVersion;
use super::record::{WalRecord, rmgr};
use crate::Lsn;
use crate::relation::RelFileLocator;

const OPERATION: u8 = 0x70;
const HAS_XINFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1;
const HAS_SUBTRANSACTIONS: u32 = 2;
const HAS_DROPPED_RELATIONS: u32 = 4;
const HAS_INVALIDATIONS: u32 = 8;
const HAS_TWOPHASE: u32 = 0x10;
const HAS_DROPPED_STATISTICS: u32 = 0x100;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionEndKind {
    /// COMMIT.
    Commit,
    /// ROLLBACK.
    Abort,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    AbortPrepared,
}

impl TransactionEndKind {
    /// Whether the transaction's changes stay.
    #[must_use]
    pub const fn is_commit(self) -> bool {
        matches!(self, TransactionEndKind::Commit | TransactionEndKind::CommitPrepared)
    }
}

/// The end of a transaction: what a recovery target can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Where the record starts. Recovery to this position, exclusive, leaves the transaction out.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The transaction.
    pub xid: u32,
    /// When, in microseconds since 2000-01-01 UTC, by the clock of the server. Not strictly rising.
    pub time: i64,
    /// How.
    pub kind: TransactionEndKind,
}

/// All that is of interest in such a record.
pub(super) struct EndRecord<'r> {
    pub(super) end: TransactionEnd,
    dropped: &'r [u8],
}

impl EndRecord<'_> {
    /// The relations whose files go with the transaction.
    pub(super) fn dropped_relations(&self) -> impl Iterator<Item = RelFileLocator> {
        self.dropped.chunks_exact(12).filter_map(|item| {
            let mut cursor = Cursor(item);
            Some(RelFileLocator { tablespace: cursor.u32()?, database: cursor.u32()?, number: cursor.u32()? })
        })
    }
}

/// What a record of the transaction manager says.
pub(super) enum TransactionRecord<'r> {
    /// Nothing that ends a transaction.
    Other,
    /// A transaction ended.
    End(EndRecord<'r>),
    /// It is not laid out as it should be.
    Malformed,
}

/// Reads a record of the transaction manager.
pub(super) fn parse_transaction_record<'r>(record: &WalRecord<'r>) -> TransactionRecord<'r> {
    if record.rmgr != rmgr::XACT || record.malformed {
        return TransactionRecord::Other;
    }
    let kind = match record.info & OPERATION {
        0 => TransactionEndKind::Commit,
        0x20 => TransactionEndKind::Abort,
        0x30 => TransactionEndKind::CommitPrepared,
        0x40 => TransactionEndKind::AbortPrepared,
        // PREPARE, ASSIGNMENT, INVALIDATIONS.
        0x10 | 0x50 | 0x60 => return TransactionRecord::Other,
        _ => return TransactionRecord::Malformed,
    };
    match parse_end(record, kind) {
        Some(end) => TransactionRecord::End(end),
        None => TransactionRecord::Malformed,
    }
}

fn parse_end<'r>(record: &WalRecord<'r>, kind: TransactionEndKind) -> Option<EndRecord<'r>> {
    let mut cursor = Cursor(record.main_data);
    let time = cursor.i64()?;
    let xinfo = if record.info & HAS_XINFO != 0 { cursor.u32()? } else { 0 };
    if xinfo & HAS_DATABASE != 0 {
        cursor.take(8)?;
    }
    if xinfo & HAS_SUBTRANSACTIONS != 0 {
        cursor.counted(4)?;
    }
    let dropped = if xinfo & HAS_DROPPED_RELATIONS != 0 { cursor.counted(12)? } else { &[] };
    if xinfo & HAS_DROPPED_STATISTICS != 0 && record.version >= WalVersion::V15 {
        // 18 widened the object identifier in each item to 64 bits.
        cursor.counted(if record.version >= WalVersion::V18 { 16 } else { 12 })?;
    }
    if xinfo & HAS_INVALIDATIONS != 0 && kind.is_commit() {
        cursor.counted(16)?;
    }
    let xid = if xinfo & HAS_TWOPHASE != 0 { cursor.u32()? } else { record.xid };
    Some(EndRecord { end: TransactionEnd { start: record.lsn, end: record.end, xid, time, kind }, dropped })
}
