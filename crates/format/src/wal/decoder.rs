//! Walking through the records of one segment (the rules of `access/transam/xlogreader.c`, 13 to 18).
//!
//! Only the segment's own bytes are used. A record counts when its length, its link to the record before and its
//! checksum are right; the first that is not ends the valid WAL, as it would for a server. Records that cross into
//! the segment or out of it are handed out as raw pieces (see `docs/design/0004-wal-summaries-keep-fragments.md`).

use super::block_ref::BlockRef;
use super::error::{EndOfWal, StopReason, WalError};
use super::fragment::{FRAGMENT_LIMIT, Fragment};
use super::page::{LONG_HEADER, LongHeader, PageHeader, SHORT_HEADER, WalVersion, header_of};
use super::record::{Checksum, MAX_RECORD, MIN_RECORD, RecordHeader, WalRecord, parse_body, rmgr};
use crate::{Lsn, WalSegmentName, WalSegmentSize};

/// Reads the whole records of one segment, in order, each with its checksum verified.
///
/// A record inside one page is borrowed from the segment's bytes; one that crosses pages is put together in a buffer
/// that is used again for the next. So nothing is allocated per record. When [`SegmentDecoder::next_record`] has returned
/// none, the other methods say how the segment ended.
#[derive(Debug)]
pub struct SegmentDecoder<'a> {
    bytes: &'a [u8],
    header: LongHeader,
    expected: WalSegmentName,
    start: u64,
    segment_length: usize,
    page_size: usize,
    /// Where the next record is looked for.
    at: usize,
    /// After the last valid record.
    valid_until: usize,
    page_timeline: u32,
    previous: Option<u64>,
    checksum: Checksum,
    buffer: Vec<u8>,
    blocks: Vec<BlockRef>,
    head: Option<Fragment>,
    tail: Option<Fragment>,
    overwrites_previous: bool,
    overwritten: bool,
    foreign_timeline: Option<u32>,
    ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    Full,
    Switch,
    Early(EndOfWal),
}

/// Where the bytes of a record are.
enum Place {
    InPage { from: usize, to: usize },
    Buffer,
}

enum Step {
    Record { header: RecordHeader, at: usize, place: Place },
    Again,
    Stop,
}

/// What following a record over page boundaries came to.
enum Gathered {
    /// All of it was there; the next byte is at `next`.
    Whole { next: usize },
    /// The segment ended before it; so many bytes of it were there.
    SegmentEnd { held: u32 },
    /// The page at that offset declares it void.
    Void { page: usize },
    /// The record cannot be followed.
    Broken(StopReason),
}

const fn align(offset: usize) -> usize {
    offset.saturating_add(7) & !7
}

impl<'a> SegmentDecoder<'a> {
    /// Starts to read the segment of that name. `bytes` may end early, as a segment that is still being received does.
    ///
    /// # Errors
    ///
    /// When the header says that the bytes are not that segment.
    pub fn new(
        bytes: &'a [u8],
        expected: WalSegmentName,
        size: WalSegmentSize,
    ) -> Result<SegmentDecoder<'a>, WalError> {
        let header = header_of(bytes)?;
        header.check(expected, size)?;
        let too_large = WalError::BadHeader { what: "its sizes are too large for this machine" };
        let mut decoder = SegmentDecoder {
            bytes,
            header,
            expected,
            start: size.start_of(expected.number).0,
            segment_length: usize::try_from(size.bytes()).map_err(|_| too_large)?,
            page_size: usize::try_from(header.page_size).map_err(|_| too_large)?,
            at: LONG_HEADER,
            valid_until: 0,
            page_timeline: header.page.timeline,
            previous: None,
            checksum: Checksum::new(),
            buffer: Vec::new(),
            blocks: Vec::new(),
            head: None,
            tail: None,
            overwrites_previous: header.page.overwrites_record(),
            overwritten: false,
            foreign_timeline: None,
            ended: None,
        };
        if bytes.len() > decoder.segment_length {
            let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            return Err(WalError::WrongLength { expected: size.bytes(), found });
        }
        if header.page.continues_record() && !decoder.overwrites_previous {
            decoder.read_head(header.page.remaining);
        }
        Ok(decoder)
    }

    /// The header of the segment.
    #[must_use]
    pub const fn header(&self) -> &LongHeader {
        &self.header
    }

    /// The version that wrote the segment.
    #[must_use]
    pub const fn version(&self) -> WalVersion {
        self.header.version
    }

    /// The rest of a record that began in the segment before, or its middle.
    #[must_use]
    pub const fn head(&self) -> Option<&Fragment> {
        self.head.as_ref()
    }

    /// Takes the rest of a record that began in the segment before.
    pub const fn take_head(&mut self) -> Option<Fragment> {
        self.head.take()
    }

    /// Takes the beginning of the record that ends in a later segment.
    pub const fn take_tail(&mut self) -> Option<Fragment> {
        self.tail.take()
    }

    /// Whether the segment declares void the record that the segment before did not finish.
    #[must_use]
    pub const fn overwrites_previous(&self) -> bool {
        self.overwrites_previous
    }

    /// Whether a record was declared void inside this segment.
    #[must_use]
    pub const fn overwritten(&self) -> bool {
        self.overwritten
    }

    /// Whether the server switched to the next segment: the rest of this one is empty on purpose.
    #[must_use]
    pub const fn ended_by_switch(&self) -> bool {
        matches!(self.ended, Some(Ended::Switch))
    }

    /// Why reading ended early, if it did.
    #[must_use]
    pub const fn end_of_wal(&self) -> Option<EndOfWal> {
        match self.ended {
            Some(Ended::Early(end)) => Some(end),
            _ => None,
        }
    }

    /// The end of the valid WAL read so far: after the last record, or the segment's end.
    #[must_use]
    pub const fn end(&self) -> Lsn {
        match self.ended {
            Some(Ended::Full | Ended::Switch) => self.lsn(self.segment_length),
            _ => self.lsn(self.valid_until),
        }
    }

    /// The timeline in the header of the last page that was read.
    #[must_use]
    pub const fn page_timeline(&self) -> u32 {
        self.page_timeline
    }

    /// The timeline of a page that belongs there but for its timeline, which is later than the one in the name.
    pub(super) const fn foreign_timeline(&self) -> Option<u32> {
        self.foreign_timeline
    }

    /// The next record; none at the end of the segment or of valid WAL.
    #[inline]
    pub fn next_record(&mut self) -> Option<WalRecord<'_>> {
        let (header, at, place) = loop {
            match self.step() {
                Step::Record { header, at, place } => break (header, at, place),
                Step::Again => {}
                Step::Stop => return None,
            }
        };
        let bytes = match place {
            Place::InPage { from, to } => self.bytes.get(from..to).unwrap_or_default(),
            Place::Buffer => self.buffer.as_slice(),
        };
        let version = self.header.version;
        let main_data = parse_body(bytes, version, &mut self.blocks);
        let end = match self.ended {
            Some(Ended::Switch) => self.segment_length,
            _ => self.valid_until,
        };
        Some(WalRecord {
            lsn: Lsn(self.start.saturating_add(at as u64)),
            end: Lsn(self.start.saturating_add(end as u64)),
            prev: Lsn(header.prev),
            xid: header.xid,
            rmgr: header.rmgr,
            info: header.info,
            version,
            blocks: if main_data.is_some() { &self.blocks } else { &[] },
            main_data: main_data.unwrap_or_default(),
            malformed: main_data.is_none(),
            bytes,
        })
    }

    #[inline]
    fn step(&mut self) -> Step {
        if self.ended.is_some() {
            return Step::Stop;
        }
        let at = self.at;
        let in_page = at & (self.page_size - 1);
        if in_page == 0 {
            return self.enter_page();
        }
        let page_end = (at - in_page).saturating_add(self.page_size).min(self.bytes.len());
        let rest = self.bytes.get(at..page_end).unwrap_or_default();
        let Some(length) = rest.first_chunk::<4>().map(|b| u32::from_le_bytes(*b)) else {
            return self.stop(StopReason::EndOfBytes);
        };
        if !(MIN_RECORD..=MAX_RECORD).contains(&length) {
            return self.bad_length(length);
        }
        let header = RecordHeader::parse(rest);
        if let Some(reason) = header.as_ref().and_then(|header| self.objection(header, at)) {
            return self.stop(reason);
        }
        if let (Some(header), Some(record)) = (header, rest.get(..length as usize)) {
            if !self.checksum.matches(record, header.crc) {
                return self.stop(StopReason::BadChecksum);
            }
            let to = at.saturating_add(length as usize);
            self.accept(&header, at, align(to));
            return Step::Record { header, at, place: Place::InPage { from: at, to } };
        }
        self.step_across_pages(at, length)
    }

    fn step_across_pages(&mut self, at: usize, length: u32) -> Step {
        match self.gather(at, length) {
            Gathered::Whole { next } => {
                let Some(header) = RecordHeader::parse(&self.buffer) else {
                    return self.stop(StopReason::BadLength);
                };
                if let Some(reason) = self.objection(&header, at) {
                    return self.stop(reason);
                }
                if !self.checksum.matches(&self.buffer, header.crc) {
                    return self.stop(StopReason::BadChecksum);
                }
                self.accept(&header, at, align(next));
                Step::Record { header, at, place: Place::Buffer }
            }
            Gathered::SegmentEnd { held } => {
                self.tail = Some(self.fragment(self.lsn(at), self.lsn(self.segment_length), length, held));
                self.ended = Some(Ended::Full);
                Step::Stop
            }
            Gathered::Void { page } => {
                self.overwritten = true;
                self.at = page.saturating_add(SHORT_HEADER);
                Step::Again
            }
            Gathered::Broken(reason) => self.stop(reason),
        }
    }

    /// At a page boundary with no record pending: steps over the header of the next page.
    fn enter_page(&mut self) -> Step {
        if self.at >= self.segment_length {
            self.ended = Some(Ended::Full);
            return Step::Stop;
        }
        match self.page_at(self.at) {
            Ok(page) if page.continues_record() => self.stop(StopReason::BadContinuation),
            Ok(_) => {
                self.at = self.at.saturating_add(SHORT_HEADER);
                Step::Again
            }
            Err(reason) => self.stop(reason),
        }
    }

    fn accept(&mut self, header: &RecordHeader, at: usize, next: usize) {
        self.previous = Some(self.start.saturating_add(at as u64));
        self.at = next;
        self.valid_until = next;
        if header.rmgr == rmgr::XLOG && header.info & 0xF0 == 0x40 {
            self.ended = Some(Ended::Switch);
        }
    }

    /// Why a header cannot be that of the record at `at`, whatever its checksum.
    #[inline]
    fn objection(&self, header: &RecordHeader, at: usize) -> Option<StopReason> {
        let custom = header.rmgr >= rmgr::FIRST_CUSTOM && self.header.version >= WalVersion::V15;
        if header.rmgr > rmgr::LAST && !custom {
            return Some(StopReason::BadResourceManager);
        }
        let follows = match self.previous {
            Some(previous) => header.prev == previous,
            None => header.prev < self.start.saturating_add(at as u64),
        };
        if follows { None } else { Some(StopReason::BadPreviousLink) }
    }

    /// Reads the rest of the record from the segment before.
    fn read_head(&mut self, remaining: u32) {
        if remaining == 0 || remaining > MAX_RECORD {
            self.stop(StopReason::BadContinuation);
            return;
        }
        match self.gather(LONG_HEADER, remaining) {
            Gathered::Whole { next } => {
                self.at = align(next);
                self.valid_until = self.at;
                self.head =
                    Some(self.fragment(self.lsn(0), self.lsn(self.valid_until), remaining, remaining));
            }
            Gathered::SegmentEnd { held } => {
                self.head = Some(self.fragment(self.lsn(0), self.lsn(self.segment_length), remaining, held));
                self.ended = Some(Ended::Full);
            }
            Gathered::Void { page } => {
                self.overwrites_previous = true;
                self.at = page.saturating_add(SHORT_HEADER);
            }
            Gathered::Broken(reason) => {
                self.stop(reason);
            }
        }
    }

    /// Collects `length` bytes of a record from `at` on into the buffer, over page boundaries.
    ///
    /// Bytes that will not be needed are not copied: those of a record that leaves the segment and is too large to keep.
    fn gather(&mut self, at: usize, length: u32) -> Gathered {
        self.buffer.clear();
        let keep = length as usize <= FRAGMENT_LIMIT.max(self.capacity_from(at));
        let mut at = at;
        let mut missing = length;
        loop {
            let page_end = (at & !(self.page_size - 1)).saturating_add(self.page_size);
            let share = page_end.saturating_sub(at).min(missing as usize);
            let Some(piece) = self.bytes.get(at..at.saturating_add(share)) else {
                return Gathered::Broken(StopReason::EndOfBytes);
            };
            if keep || self.buffer.len().saturating_add(share) <= FRAGMENT_LIMIT {
                self.buffer.extend_from_slice(piece);
            }
            missing = missing.saturating_sub(u32::try_from(share).unwrap_or(u32::MAX));
            at = at.saturating_add(share);
            if missing == 0 {
                return Gathered::Whole { next: at };
            }
            if at >= self.segment_length {
                return Gathered::SegmentEnd { held: length.saturating_sub(missing) };
            }
            match self.page_at(at) {
                Ok(page) if page.overwrites_record() => return Gathered::Void { page: at },
                Ok(page) if page.continues_record() && page.remaining == missing => {}
                Ok(_) => return Gathered::Broken(StopReason::BadContinuation),
                Err(reason) => return Gathered::Broken(reason),
            }
            at = at.saturating_add(SHORT_HEADER);
        }
    }

    /// How many bytes of a record that starts at `at` the segment can hold.
    const fn capacity_from(&self, at: usize) -> usize {
        let page_end = (at & !(self.page_size - 1)).saturating_add(self.page_size);
        let pages = self.segment_length.saturating_sub(page_end) / self.page_size;
        page_end.saturating_sub(at).saturating_add(pages.saturating_mul(self.page_size - SHORT_HEADER))
    }

    /// The header of a page after the first, if it is the page that belongs there.
    fn page_at(&mut self, offset: usize) -> Result<PageHeader, StopReason> {
        let bytes = self.bytes.get(offset..).unwrap_or_default();
        let page = PageHeader::parse(bytes).ok_or(StopReason::EndOfBytes)?;
        if page.magic == 0 && page.address == Lsn::INVALID {
            return Err(StopReason::Zeros);
        }
        if page.magic != self.header.page.magic
            || page.address != self.lsn(offset)
            || page.is_long()
            || page.has_unknown_flags()
            || page.timeline < self.page_timeline
        {
            return Err(StopReason::BadPage);
        }
        if page.timeline > self.expected.timeline.get() {
            self.foreign_timeline = Some(page.timeline);
            return Err(StopReason::BadPage);
        }
        self.page_timeline = page.timeline;
        Ok(page)
    }

    fn fragment(&self, start: Lsn, end: Lsn, length: u32, held: u32) -> Fragment {
        let kept = usize::try_from(held) == Ok(self.buffer.len()) && self.buffer.len() <= FRAGMENT_LIMIT;
        Fragment { start, end, length, held, bytes: kept.then(|| self.buffer.clone()) }
    }

    fn bad_length(&mut self, length: u32) -> Step {
        // A switch record may itself cross into this segment; what follows it is empty then.
        if length == 0 && self.previous.is_none() && self.head.as_ref().is_some_and(ends_with_switch) {
            self.ended = Some(Ended::Switch);
            return Step::Stop;
        }
        self.stop(if length == 0 { StopReason::Zeros } else { StopReason::BadLength })
    }

    fn stop(&mut self, reason: StopReason) -> Step {
        self.ended = Some(Ended::Early(EndOfWal { at: self.lsn(self.valid_until), reason }));
        Step::Stop
    }

    const fn lsn(&self, offset: usize) -> Lsn {
        Lsn(self.start.saturating_add(offset as u64))
    }
}

/// Whether a piece is the last 8 or 16 bytes of a switch record, which consists of a header only. Its checksum cannot be
/// verified without the piece before; that nothing but zeros follows is what makes it certain enough.
fn ends_with_switch(head: &Fragment) -> bool {
    let Some(bytes) = &head.bytes else { return false };
    matches!(bytes.len(), 8 | 16)
        && bytes.len().checked_sub(8).and_then(|at| bytes.get(at..)).is_some_and(|end| {
            end.first_chunk::<4>().is_some_and(|b| b[0] & 0xF0 == 0x40 && b[1] == rmgr::XLOG)
        })
}
