//! WAL records: the fixed header, the list of headers after it, and the checksum over both and the data
//! (`access/xlogrecord.h`, 13 to 18).
//!
//! The checksum is verified before anything of a record is believed. A record whose checksum is right and whose list
//! of headers makes no sense is handed out as malformed: what it changed is unknown.

use super::block_ref::BlockRef;
use super::cursor::Cursor;
use super::page::WalVersion;
use crate::Lsn;

/// Bytes of the header that each record begins with.
pub(super) const RECORD_HEADER: usize = 24;
/// No record is smaller: one without data is a header.
pub(super) const MIN_RECORD: u32 = 24;
/// No record is larger (`XLogRecordMaxSize`, 1020 MiB; enforced by the server from 16 on, physically impossible before).
pub(super) const MAX_RECORD: u32 = 1020 << 20;

/// Resource managers, by the numbers they have had since 13 (`access/rmgrlist.h`).
pub(super) mod rmgr {
    pub(in crate::wal) const XLOG: u8 = 0;
    pub(in crate::wal) const XACT: u8 = 1;
    pub(in crate::wal) const SMGR: u8 = 2;
    pub(in crate::wal) const DBASE: u8 = 4;
    /// The last one of 13 to 18.
    pub(in crate::wal) const LAST: u8 = 21;
    /// The first of those that extensions register, from 15 on.
    pub(in crate::wal) const FIRST_CUSTOM: u8 = 128;
}

/// A whole record whose checksum was right.
#[derive(Debug, Clone, Copy)]
pub struct WalRecord<'r> {
    /// Where the record starts.
    pub lsn: Lsn,
    /// Where the next record can start: the position that PostgreSQL calls the record's end.
    pub end: Lsn,
    /// Where the record before starts; 0 in a cluster's first record.
    pub prev: Lsn,
    /// The transaction that wrote it; 0 if none.
    pub xid: u32,
    /// The resource manager.
    pub rmgr: u8,
    /// What happened: the high four bits belong to the resource manager.
    pub info: u8,
    /// The version that wrote it.
    pub version: WalVersion,
    /// The blocks that it changes.
    pub blocks: &'r [BlockRef],
    /// The data that belongs to no block.
    pub main_data: &'r [u8],
    /// Whether the list of headers made no sense. `blocks` and `main_data` are empty then, and what it changed is unknown.
    pub malformed: bool,
    /// All its bytes, the header included.
    pub bytes: &'r [u8],
}

/// The fixed header of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub(super) total_length: u32,
    pub(super) xid: u32,
    pub(super) prev: u64,
    pub(super) info: u8,
    pub(super) rmgr: u8,
    pub(super) crc: u32,
}

impl RecordHeader {
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Option<RecordHeader> {
        let b = bytes.first_chunk::<RECORD_HEADER>()?;
        Some(RecordHeader {
            total_length: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            xid: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            prev: u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
            info: b[16],
            rmgr: b[17],
            crc: u32::from_le_bytes([b[20], b[21], b[22], b[23]]),
        })
    }
}

/// Verifies records' checksums. Kept and used again, because making one copies tables.
#[derive(Debug)]
pub(super) struct Checksum(crc_fast::Digest);

impl Checksum {
    pub(super) fn new() -> Checksum {
        Checksum(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    /// Whether the checksum in a record's header is that of its bytes: of what follows the header, then of the header
    /// up to the checksum.
    #[inline]
    pub(super) fn matches(&mut self, record: &[u8], expected: u32) -> bool {
        let (Some(body), Some(header)) = (record.get(RECORD_HEADER..), record.get(..RECORD_HEADER - 4))
        else {
            return false;
        };
        self.0.reset();
        self.0.update(body);
        self.0.update(header);
        self.0.finalize() == u64::from(expected)
    }
}

/// Reads the list of headers into `blocks` and returns the main data. None if the list makes no sense.
#[inline]
pub(super) fn parse_body<'r>(
    record: &'r [u8],
    version: WalVersion,
    blocks: &mut Vec<BlockRef>,
) -> Option<&'r [u8]> {
    blocks.clear();
    let mut cursor = Cursor(record.get(RECORD_HEADER..)?);
    let mut main_length = 0_usize;
    let mut announced = 0_usize;
    // What is announced is at the end of the record, so the list ends where exactly that much is left.
    while cursor.0.len() > announced {
        match cursor.u8()? {
            id @ 0..=32 => {
                let last = blocks.last();
                if last.is_some_and(|last| last.id >= id) {
                    return None;
                }
                let block = BlockRef::parse(id, &mut cursor, version, last.map(|last| last.locator))?;
                announced = announced.checked_add(block.payload_length())?;
                blocks.push(block);
            }
            255 => {
                main_length = usize::from(cursor.u8()?);
                announced = announced.checked_add(main_length)?;
                break;
            }
            254 => {
                main_length = usize::try_from(cursor.u32()?).ok()?;
                announced = announced.checked_add(main_length)?;
                break;
            }
            // The replication origin.
            253 => drop(cursor.u16()?),
            // The top-level transaction of a subtransaction.
            252 if version >= WalVersion::V14 => drop(cursor.u32()?),
            _ => return None,
        }
    }
    if cursor.0.len() != announced {
        return None;
    }
    cursor.0.get(announced.checked_sub(main_length)?..)
}
