//! The stored form of summaries, byte for byte as `docs/format/wal-summary.md` describes it.
//!
//! A decoder refuses what an encoder would not write: numbers out of order, marks beyond the possible, unknown flags,
//! bytes after the end. Memory is bounded by the number of bytes read.

use super::block_set::BlockSet;
use super::block_summary::{BlockSummary, ForkChanges};
use super::cursor::{Cursor, put_varint};
use super::error::{EndOfWal, StopReason};
use super::fragment::{FRAGMENT_LIMIT, Fragment};
use super::page::WalVersion;
use super::segment_summary::{RestorePoint, SegmentSummary, SummaryFlags};
use crate::relation::{Fork, RelFileLocator};
use crate::{Lsn, TimelineId, WalSegmentSize};

const FORMAT: u8 = 1;
const HAS_LIMIT: u8 = 4;
/// A reference to a block takes 8 bytes of WAL at least, so this many is what a segment of 1 GiB can hold.
const MAX_BLOCKS: u64 = 1 << 27;
const MAX_NAME: usize = 256;

/// Bytes that are not a stored summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SummaryCodecError {
    /// Written by a later pgkeep.
    #[error("the WAL summary has format {0}, this program knows format {FORMAT}")]
    NewerFormat(u8),
    /// Anything else.
    #[error("the WAL summary is damaged: {0}")]
    Damaged(&'static str),
}

impl BlockSummary {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        self.encode_into(&mut out);
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// When the bytes are not one, whole and in order.
    pub fn decode(bytes: &[u8]) -> Result<BlockSummary, SummaryCodecError> {
        let mut cursor = Cursor(bytes);
        check_format(&mut cursor)?;
        let summary = decode_blocks(&mut cursor, MAX_BLOCKS)
            .ok_or(SummaryCodecError::Damaged("the blocks are not in order"))?;
        check_end(&cursor)?;
        Ok(summary)
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        put_varint(out, self.full_databases.len() as u64);
        for (tablespace, database) in &self.full_databases {
            put_varint(out, u64::from(*tablespace));
            put_varint(out, u64::from(*database));
        }
        put_varint(out, self.forks.len() as u64);
        for ((locator, fork), changes) in &self.forks {
            put_varint(out, u64::from(locator.tablespace));
            put_varint(out, u64::from(locator.database));
            put_varint(out, u64::from(locator.number));
            out.push(fork_code(*fork) | if changes.limit.is_some() { HAS_LIMIT } else { 0 });
            if let Some(limit) = changes.limit {
                put_varint(out, u64::from(limit));
            }
            put_varint(out, changes.blocks.runs().count() as u64);
            let mut next = 0_u64;
            for (first, count) in changes.blocks.runs() {
                let gap = u64::from(first) - next;
                put_varint(out, gap << 1 | u64::from(count > 1));
                if count > 1 {
                    put_varint(out, u64::from(count) - 2);
                }
                next = u64::from(first) + u64::from(count);
            }
        }
    }
}

fn check_format(cursor: &mut Cursor<'_>) -> Result<(), SummaryCodecError> {
    match cursor.u8() {
        Some(FORMAT) => Ok(()),
        Some(0) | None => Err(SummaryCodecError::Damaged("it has no format number")),
        Some(other) => Err(SummaryCodecError::NewerFormat(other)),
    }
}

const fn check_end(cursor: &Cursor<'_>) -> Result<(), SummaryCodecError> {
    if cursor.is_empty() { Ok(()) } else { Err(SummaryCodecError::Damaged("there are bytes after its end")) }
}

const fn fork_code(fork: Fork) -> u8 {
    match fork {
        Fork::Main => 0,
        Fork::Fsm => 1,
        Fork::Vm => 2,
        Fork::Init => 3,
    }
}

fn decode_blocks(cursor: &mut Cursor<'_>, mut allowance: u64) -> Option<BlockSummary> {
    let mut summary = BlockSummary::new();
    for _ in 0..cursor.varint()? {
        let database = (cursor.varint_u32()?, cursor.varint_u32()?);
        if summary.full_databases.last().is_some_and(|last| *last >= database) {
            return None;
        }
        summary.full_databases.insert(database);
    }
    for _ in 0..cursor.varint()? {
        let locator = RelFileLocator {
            tablespace: cursor.varint_u32()?,
            database: cursor.varint_u32()?,
            number: cursor.varint_u32()?,
        };
        let code = cursor.u8()?;
        let fork = match code & !HAS_LIMIT {
            0 => Fork::Main,
            2 => Fork::Vm,
            3 => Fork::Init,
            _ => return None,
        };
        let limit = if code & HAS_LIMIT != 0 { Some(cursor.varint_u32()?) } else { None };
        let blocks = decode_set(cursor, &mut allowance)?;
        if summary.forks.last_key_value().is_some_and(|(last, _)| *last >= (locator, fork)) {
            return None;
        }
        summary.forks.insert((locator, fork), ForkChanges { limit, blocks });
    }
    Some(summary)
}

fn decode_set(cursor: &mut Cursor<'_>, allowance: &mut u64) -> Option<BlockSet> {
    let mut blocks = BlockSet::new();
    let mut next = 0_u64;
    for run in 0..cursor.varint()? {
        let code = cursor.varint()?;
        let count = if code & 1 == 1 { cursor.varint()?.checked_add(2)? } else { 1 };
        // Neighbouring runs would be one.
        if run > 0 && code >> 1 == 0 {
            return None;
        }
        let first = next.checked_add(code >> 1)?;
        *allowance = allowance.checked_sub(count)?;
        next = first.checked_add(count)?;
        let first = u32::try_from(first).ok()?;
        let last = u32::try_from(next - 1).ok()?;
        blocks.insert_run(first, last);
    }
    Some(blocks)
}

impl SegmentSummary {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.version.magic().to_le_bytes());
        out.extend_from_slice(&self.system_identifier.to_le_bytes());
        put_varint(&mut out, u64::from(self.timeline.get()));
        put_varint(&mut out, self.segment_size.bytes());
        put_varint(&mut out, self.start.0);
        put_varint(&mut out, self.end.0.saturating_sub(self.start.0));
        self.encode_link(&mut out, self.first_previous);
        self.encode_link(&mut out, self.last_record);
        put_varint(&mut out, self.records);
        put_varint(&mut out, self.commits);
        put_varint(&mut out, self.aborts);
        match self.first_commit_time.zip(self.last_commit_time) {
            None => out.push(0),
            Some((first, last)) => {
                out.push(1);
                out.extend_from_slice(&first.to_le_bytes());
                out.extend_from_slice(&last.to_le_bytes());
            }
        }
        put_varint(&mut out, self.flags.to_bits());
        match self.end_of_wal {
            None => out.push(0),
            Some(end) => {
                out.push(end.reason.code());
                put_varint(&mut out, end.at.0.saturating_sub(self.start.0));
            }
        }
        self.encode_fragment(&mut out, self.head.as_ref());
        self.encode_fragment(&mut out, self.tail.as_ref());
        put_varint(&mut out, self.restore_points.len() as u64);
        for point in &self.restore_points {
            put_varint(&mut out, point.lsn.0.saturating_sub(self.start.0));
            put_varint(&mut out, point.end.0.saturating_sub(point.lsn.0));
            out.extend_from_slice(&point.time.to_le_bytes());
            put_varint(&mut out, point.name.len() as u64);
            out.extend_from_slice(point.name.as_bytes());
        }
        self.blocks.encode_into(&mut out);
        out
    }

    /// A position at or before the end of the segment, as the distance from there plus one; 0 for none.
    fn encode_link(&self, out: &mut Vec<u8>, position: Option<Lsn>) {
        let end = self.start.0.saturating_add(self.segment_size.bytes());
        put_varint(out, position.map_or(0, |position| end.saturating_sub(position.0).saturating_add(1)));
    }

    fn encode_fragment(&self, out: &mut Vec<u8>, fragment: Option<&Fragment>) {
        let Some(fragment) = fragment else {
            out.push(0);
            return;
        };
        out.push(if fragment.bytes.is_some() { 1 } else { 2 });
        put_varint(out, fragment.start.0.saturating_sub(self.start.0));
        put_varint(out, fragment.end.0.saturating_sub(fragment.start.0));
        put_varint(out, u64::from(fragment.length));
        put_varint(out, u64::from(fragment.held));
        out.extend_from_slice(fragment.bytes.as_deref().unwrap_or_default());
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// When the bytes are not one, whole and in order.
    pub fn decode(bytes: &[u8]) -> Result<SegmentSummary, SummaryCodecError> {
        let mut cursor = Cursor(bytes);
        check_format(&mut cursor)?;
        let summary = decode_segment(&mut cursor).map_err(SummaryCodecError::Damaged)?;
        check_end(&cursor)?;
        Ok(summary)
    }
}

fn decode_segment(cursor: &mut Cursor<'_>) -> Result<SegmentSummary, &'static str> {
    const SHORT: &str = "it ends early";
    let version = cursor.u16().and_then(WalVersion::from_magic).ok_or("its version is unknown")?;
    let system_identifier = cursor.u64().ok_or(SHORT)?;
    let timeline = cursor.varint_u32().and_then(TimelineId::new).ok_or("its timeline is impossible")?;
    let segment_size = cursor.varint_u32().ok_or(SHORT)?;
    let segment_size =
        WalSegmentSize::try_from(segment_size).map_err(|_| "its segment size is impossible")?;
    let start = Lsn(cursor.varint().ok_or(SHORT)?);
    if segment_size.offset_of(start) != 0 {
        return Err("it does not start at a segment");
    }
    let at = |offset: u64| start.0.checked_add(offset).map(Lsn).filter(|_| offset <= segment_size.bytes());
    let end = cursor.varint().and_then(at).ok_or("its end is impossible")?;
    let link = |cursor: &mut Cursor<'_>| match cursor.varint() {
        Some(0) => Ok(None),
        Some(distance) => {
            let end = start.0.saturating_add(segment_size.bytes());
            end.checked_sub(distance - 1).map(|position| Some(Lsn(position))).ok_or("a link is impossible")
        }
        None => Err(SHORT),
    };
    let first_previous = link(cursor)?;
    let last_record = link(cursor)?;
    let (Some(records), Some(commits), Some(aborts)) = (cursor.varint(), cursor.varint(), cursor.varint())
    else {
        return Err(SHORT);
    };
    let times = match cursor.u8() {
        Some(0) => None,
        Some(1) => cursor.i64().zip(cursor.i64()),
        _ => return Err("its times are impossible"),
    };
    let flags = cursor.varint().and_then(SummaryFlags::from_bits).ok_or("it has unknown flags")?;
    let end_of_wal = match cursor.u8() {
        Some(0) => None,
        Some(code) => {
            let reason = StopReason::from_code(code).ok_or("its end is of an unknown kind")?;
            Some(EndOfWal { reason, at: cursor.varint().and_then(at).ok_or(SHORT)? })
        }
        None => return Err(SHORT),
    };
    let head = decode_fragment(cursor, start, segment_size)?;
    let tail = decode_fragment(cursor, start, segment_size)?;
    let restore_points = decode_restore_points(cursor, start, segment_size)?;
    let blocks = decode_blocks(cursor, segment_size.bytes() / 8).ok_or("the blocks are not in order")?;
    Ok(SegmentSummary {
        system_identifier,
        timeline,
        segment_size,
        start,
        end,
        version,
        first_previous,
        last_record,
        records,
        commits,
        aborts,
        first_commit_time: times.map(|(first, _)| first),
        last_commit_time: times.map(|(_, last)| last),
        head,
        tail,
        blocks,
        restore_points,
        flags,
        end_of_wal,
    })
}

fn decode_fragment(
    cursor: &mut Cursor<'_>,
    segment: Lsn,
    size: WalSegmentSize,
) -> Result<Option<Fragment>, &'static str> {
    const BAD: &str = "a piece of a record is impossible";
    let kind = cursor.u8().ok_or(BAD)?;
    if kind == 0 {
        return Ok(None);
    }
    let fragment = (|| {
        let offset = cursor.varint()?;
        let span = cursor.varint()?;
        let length = cursor.varint_u32()?;
        let held = cursor.varint_u32()?;
        if offset.checked_add(span)? > size.bytes() || held > length || u64::from(held) > span {
            return None;
        }
        let start = segment.0.checked_add(offset)?;
        let end = Lsn(start.checked_add(span)?);
        let bytes = match kind {
            1 if held as usize <= FRAGMENT_LIMIT => Some(cursor.take(held as usize)?.to_vec()),
            2 => None,
            _ => return None,
        };
        Some(Fragment { start: Lsn(start), end, length, held, bytes })
    })();
    fragment.map(Some).ok_or(BAD)
}

fn decode_restore_points(
    cursor: &mut Cursor<'_>,
    segment: Lsn,
    size: WalSegmentSize,
) -> Result<Vec<RestorePoint>, &'static str> {
    const BAD: &str = "a restore point is impossible";
    let mut points = Vec::new();
    for _ in 0..cursor.varint().ok_or(BAD)? {
        let point = (|| {
            let offset = cursor.varint()?;
            let span = cursor.varint()?;
            if offset.checked_add(span)? > size.bytes() {
                return None;
            }
            let lsn = segment.0.checked_add(offset)?;
            let time = cursor.i64()?;
            let length = usize::try_from(cursor.varint()?).ok().filter(|length| *length <= MAX_NAME)?;
            let name = std::str::from_utf8(cursor.take(length)?).ok()?.to_owned();
            Some(RestorePoint { lsn: Lsn(lsn), end: Lsn(lsn.checked_add(span)?), time, name })
        })();
        points.push(point.ok_or(BAD)?);
    }
    Ok(points)
}
