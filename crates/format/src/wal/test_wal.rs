//! Makes WAL for tests: records laid into pages and segments as the server does it.

use super::page::{LONG_HEADER, SHORT_HEADER, WalVersion};
use crate::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};

pub(super) const SYSTEM: u64 = 7_123_456_789_012_345_678;
pub(super) const PAGE: usize = 8192;

/// The log from the start of one segment on.
pub(super) struct Wal {
    pub(super) version: WalVersion,
    pub(super) timeline: u32,
    pub(super) size: WalSegmentSize,
    first: SegmentNumber,
    bytes: Vec<u8>,
    prev: u64,
}

impl Wal {
    /// An empty log of 1 MiB segments that begins with segment 4 of timeline 1.
    pub(super) fn new(version: WalVersion) -> Wal {
        let size = WalSegmentSize::try_from(1 << 20).unwrap();
        let mut wal = Wal { version, timeline: 1, size, first: SegmentNumber(4), bytes: Vec::new(), prev: 0 };
        wal.prev = wal.base() - 64;
        wal
    }

    fn base(&self) -> u64 {
        self.size.start_of(self.first).0
    }

    pub(super) fn position(&self) -> Lsn {
        Lsn(self.base() + self.bytes.len() as u64)
    }

    fn segment_length(&self) -> usize {
        self.size.bytes() as usize
    }

    fn page_header(&mut self, remaining: u32, overwrites: bool) {
        let long = self.bytes.len().is_multiple_of(self.segment_length());
        let flags = u16::from(remaining > 0) | if long { 2 } else { 0 } | if overwrites { 8 } else { 0 };
        let address = self.position().0;
        self.bytes.extend_from_slice(&self.version.magic().to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(&self.timeline.to_le_bytes());
        self.bytes.extend_from_slice(&address.to_le_bytes());
        self.bytes.extend_from_slice(&remaining.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        if long {
            self.bytes.extend_from_slice(&SYSTEM.to_le_bytes());
            self.bytes.extend_from_slice(&u32::from(self.size).to_le_bytes());
            self.bytes.extend_from_slice(&(PAGE as u32).to_le_bytes());
        }
    }

    fn align(&mut self) {
        let aligned = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(aligned, 0);
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0, false);
        }
    }

    fn put(&mut self, mut record: &[u8], limit: usize) {
        while !record.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                if self.bytes.len() >= limit {
                    return;
                }
                self.page_header(record.len() as u32, false);
            }
            let share = (PAGE - self.bytes.len() % PAGE).min(record.len());
            self.bytes.extend_from_slice(&record[..share]);
            record = &record[share..];
        }
    }

    /// Appends a record; `body` is all that follows its header. Returns where it starts.
    pub(super) fn record(&mut self, rmgr: u8, info: u8, xid: u32, body: &[u8]) -> Lsn {
        self.align();
        let start = self.position();
        let record = record_bytes(self.prev, rmgr, info, xid, body);
        self.put(&record, usize::MAX);
        self.prev = start.0;
        start
    }

    /// A record of which only the first page was written before a crash; the next page declares it void.
    pub(super) fn torn_record(&mut self, length: usize) {
        self.align();
        let limit = self.bytes.len().next_multiple_of(PAGE);
        assert!(length > limit - self.bytes.len());
        let record = record_bytes(self.prev, 10, 0, 9, &main_data(&vec![7; length]));
        self.put(&record, limit);
        self.page_header(0, true);
    }

    /// Appends a record so large that exactly `left` bytes of the page stay free.
    pub(super) fn fill_page(&mut self, left: usize) {
        self.align();
        let free = PAGE - self.bytes.len() % PAGE;
        let length = free - left - 24 - 5;
        self.record(10, 0, 9, &main_data_long(&vec![1; length]));
        assert_eq!(PAGE - self.bytes.len() % PAGE, left);
    }

    /// Appends records until less than two pages of the segment are free.
    pub(super) fn fill_segment(&mut self) {
        let end = (self.bytes.len() + 1).next_multiple_of(self.segment_length());
        while end - self.bytes.len() > 2 * PAGE {
            self.record(10, 0, 9, &main_data_long(&[2; 5000]));
        }
    }

    pub(super) fn switch(&mut self) -> Lsn {
        let at = self.record(0, 0x40, 0, &[]);
        self.pad();
        at
    }

    /// Fills the segment with empty pages.
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(self.segment_length()) {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(0, false);
            }
            self.bytes.resize(self.bytes.len().next_multiple_of(PAGE), 0);
        }
    }

    /// The segments, the last one filled up with zeros.
    pub(super) fn segments(&self) -> Vec<(WalSegmentName, Vec<u8>)> {
        let timeline = TimelineId::new(self.timeline).unwrap();
        self.bytes
            .chunks(self.segment_length())
            .zip(self.first.0..)
            .map(|(bytes, number)| {
                let mut bytes = bytes.to_vec();
                bytes.resize(self.segment_length(), 0);
                (WalSegmentName { timeline, number: SegmentNumber(number) }, bytes)
            })
            .collect()
    }
}

fn record_bytes(prev: u64, rmgr: u8, info: u8, xid: u32, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend_from_slice(&(24 + body.len() as u32).to_le_bytes());
    record.extend_from_slice(&xid.to_le_bytes());
    record.extend_from_slice(&prev.to_le_bytes());
    record.extend_from_slice(&[info, rmgr, 0, 0]);
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(body);
    digest.update(&record);
    record.extend_from_slice(&(digest.finalize() as u32).to_le_bytes());
    record.extend_from_slice(body);
    record
}

pub(super) fn main_data(data: &[u8]) -> Vec<u8> {
    match u8::try_from(data.len()) {
        Ok(length) => [&[255, length], data].concat(),
        Err(_) => main_data_long(data),
    }
}

fn main_data_long(data: &[u8]) -> Vec<u8> {
    [&[254], (data.len() as u32).to_le_bytes().as_slice(), data].concat()
}

/// Little-endian words, as most records consist of.
pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A body that refers to one block, without data.
pub(super) fn block_body(id: u8, fork: u8, locator: [u32; 3], block: u32) -> Vec<u8> {
    [&[id, fork, 0, 0], words(&locator).as_slice(), &block.to_le_bytes()].concat()
}

/// The position of the first byte after the header of a segment.
pub(super) const FIRST_RECORD: usize = LONG_HEADER;
pub(super) const AFTER_SHORT_HEADER: usize = SHORT_HEADER;
