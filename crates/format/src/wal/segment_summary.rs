//! All that is worth knowing about one segment: what it is, what it changes, which moments it reaches.
//!
//! A pure function of the segment's bytes: pushing a segment twice, from anywhere, gives the same summary. It is
//! computed when the segment is archived and stored beside it as `docs/format/wal-summary.md` says, so that gap
//! checks, target finding and (later) incrementals need not read WAL again.

use serde::{Deserialize, Serialize};

use super::block_summary::BlockSummary;
use super::changes::ChangeCollector;
use super::decoder::SegmentDecoder;
use super::error::{EndOfWal, WalError};
use super::fragment::Fragment;
use super::page::WalVersion;
use super::record::rmgr;
use crate::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};

/// A named point, set by `pg_create_restore_point`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Where its record starts.
    pub lsn: Lsn,
    /// Where its record ends. Recovery to the name stops here.
    pub end: Lsn,
    /// When, in microseconds since 2000-01-01 UTC.
    pub time: i64,
    /// The name; bytes that are not UTF-8 are replaced.
    pub name: String,
}

/// What a user of the summary must know beside the blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryFlags {
    /// `wal_level` was `minimal` somewhere: changes may not be in WAL at all.
    pub wal_level_minimal: bool,
    /// A record changes files in a way that was not understood.
    pub unknown_change: bool,
    /// An extension's resource manager wrote records. Their block references are in the summary, but nobody knows
    /// whether these are all.
    pub custom_resource_manager: bool,
    /// The segment declares void the record that the segment before did not finish: that one's tail counts for nothing.
    pub overwrites_previous: bool,
    /// A record was declared void inside the segment.
    pub overwritten: bool,
    /// The server switched to the next segment: the rest of this one is empty on purpose.
    pub ended_by_switch: bool,
    /// A server ended recovery here; on another timeline than before if it was a promotion.
    pub timeline_began: bool,
    /// `full_page_writes` was off: torn pages of a backup from a standby cannot be repaired.
    pub full_page_writes_off: bool,
}

impl SummaryFlags {
    /// Whether blocks may have changed that the summary does not name, so that an incremental must read everything.
    #[must_use]
    pub const fn requires_full_read(&self) -> bool {
        self.wal_level_minimal || self.unknown_change || self.custom_resource_manager
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.wal_level_minimal as u64
            | (self.unknown_change as u64) << 1
            | (self.custom_resource_manager as u64) << 2
            | (self.overwrites_previous as u64) << 3
            | (self.overwritten as u64) << 4
            | (self.ended_by_switch as u64) << 5
            | (self.timeline_began as u64) << 6
            | (self.full_page_writes_off as u64) << 7
    }

    /// None if a bit is set that this program does not know.
    pub(super) const fn from_bits(bits: u64) -> Option<SummaryFlags> {
        if bits > 0xFF {
            return None;
        }
        Some(SummaryFlags {
            wal_level_minimal: bits & 1 != 0,
            unknown_change: bits & 2 != 0,
            custom_resource_manager: bits & 4 != 0,
            overwrites_previous: bits & 8 != 0,
            overwritten: bits & 0x10 != 0,
            ended_by_switch: bits & 0x20 != 0,
            timeline_began: bits & 0x40 != 0,
            full_page_writes_off: bits & 0x80 != 0,
        })
    }

    /// What holds for two stretches of WAL together. What concerns the borders of the segment is the later one's.
    pub(super) const fn union(self, later: SummaryFlags) -> SummaryFlags {
        SummaryFlags {
            wal_level_minimal: self.wal_level_minimal || later.wal_level_minimal,
            unknown_change: self.unknown_change || later.unknown_change,
            custom_resource_manager: self.custom_resource_manager || later.custom_resource_manager,
            overwrites_previous: self.overwrites_previous,
            overwritten: self.overwritten || later.overwritten || later.overwrites_previous,
            ended_by_switch: later.ended_by_switch,
            timeline_began: self.timeline_began || later.timeline_began,
            full_page_writes_off: self.full_page_writes_off || later.full_page_writes_off,
        }
    }
}

/// The summary of one segment: of the records that lie in it whole, with the pieces of those that cross its borders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The cluster that wrote it.
    pub system_identifier: u64,
    /// The timeline in its name.
    pub timeline: TimelineId,
    /// The size of the cluster's segments.
    pub segment_size: WalSegmentSize,
    /// The position of its first byte.
    pub start: Lsn,
    /// The end of the valid WAL in it; the segment's end unless `end_of_wal` is set.
    pub end: Lsn,
    /// The version that wrote it.
    pub version: WalVersion,
    /// Where the record before the first whole one starts, as that one says: proves that the segment before belongs
    /// to the same log.
    pub first_previous: Option<Lsn>,
    /// Where the last whole record starts.
    pub last_record: Option<Lsn>,
    /// Whole records.
    pub records: u64,
    /// Records that commit a transaction.
    pub commits: u64,
    /// Records that abort one.
    pub aborts: u64,
    /// The earliest time of a commit or abort, in microseconds since 2000-01-01 UTC.
    pub first_commit_time: Option<i64>,
    /// The latest.
    pub last_commit_time: Option<i64>,
    /// The rest of a record that began before the segment, or its middle.
    pub head: Option<Fragment>,
    /// The beginning of a record that ends after the segment.
    pub tail: Option<Fragment>,
    /// What its whole records change.
    pub blocks: BlockSummary,
    /// The restore points in it.
    pub restore_points: Vec<RestorePoint>,
    /// What else is to be known.
    pub flags: SummaryFlags,
    /// Where and why valid WAL ended, if before the segment's end and not because of a switch.
    pub end_of_wal: Option<EndOfWal>,
}

/// Reads a whole segment and summarizes it. Needs nothing but its bytes and its name.
///
/// # Errors
///
/// When the bytes are not the segment of that name: another length, position, timeline or segment size, no WAL, or of
/// an unsupported version. Damage inside is no error: it is where the WAL ends, see [`SegmentSummary::end_of_wal`].
pub fn summarize_segment(
    bytes: &[u8],
    expected: WalSegmentName,
    size: WalSegmentSize,
) -> Result<SegmentSummary, WalError> {
    // What the file is tells more than how long it is, so the header comes first.
    let decoder = SegmentDecoder::new(bytes, expected, size)?;
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if found != size.bytes() {
        return Err(WalError::WrongLength { expected: size.bytes(), found });
    }
    summarize(decoder, expected, size)
}

/// As [`summarize_segment`], for a segment of which only the first bytes are there yet.
///
/// # Errors
///
/// As [`summarize_segment`], but being short is none.
pub fn summarize_partial_segment(
    bytes: &[u8],
    expected: WalSegmentName,
    size: WalSegmentSize,
) -> Result<SegmentSummary, WalError> {
    summarize(SegmentDecoder::new(bytes, expected, size)?, expected, size)
}

fn summarize(
    mut decoder: SegmentDecoder<'_>,
    expected: WalSegmentName,
    size: WalSegmentSize,
) -> Result<SegmentSummary, WalError> {
    let mut changes = ChangeCollector::new();
    let mut first_previous = None;
    let mut last_record = None;
    while let Some(record) = decoder.next_record() {
        first_previous.get_or_insert(record.prev);
        last_record = Some(record.lsn);
        changes.apply(&record);
    }
    let header = *decoder.header();
    let head = decoder.take_head();
    let tail = decoder.take_tail();
    check_timeline(&decoder, &changes, tail.as_ref(), expected.timeline)?;
    let mut flags = changes.flags;
    flags.overwrites_previous = decoder.overwrites_previous();
    flags.overwritten = decoder.overwritten();
    flags.ended_by_switch = decoder.ended_by_switch();
    Ok(SegmentSummary {
        system_identifier: header.system_identifier,
        timeline: expected.timeline,
        segment_size: size,
        start: header.page.address,
        end: decoder.end(),
        version: header.version,
        first_previous,
        last_record,
        records: changes.records,
        commits: changes.commits,
        aborts: changes.aborts,
        first_commit_time: changes.times.map(|(first, _)| first),
        last_commit_time: changes.times.map(|(_, last)| last),
        head,
        tail,
        restore_points: std::mem::take(&mut changes.restore_points),
        blocks: changes.into_blocks(),
        flags,
        end_of_wal: decoder.end_of_wal(),
    })
}

/// A promotion copies the start of a segment to the new timeline, page headers included, so a segment may begin with an
/// older timeline than its name has. But then it must reach the new one: by a page header, or on its last page by the
/// record that begins it. And it must not go on to a later one.
fn check_timeline(
    decoder: &SegmentDecoder<'_>,
    changes: &ChangeCollector,
    tail: Option<&Fragment>,
    expected: TimelineId,
) -> Result<(), WalError> {
    if let Some(found) = decoder.foreign_timeline() {
        return Err(WalError::OtherTimeline { expected, found });
    }
    let reached = decoder.page_timeline() == expected.get()
        || changes.announced_timeline == expected.get()
        || decoder.end_of_wal().is_some()
        || tail.is_some_and(may_begin_timeline);
    if reached { Ok(()) } else { Err(WalError::OtherTimeline { expected, found: decoder.page_timeline() }) }
}

/// Whether the record that begins here could be the first of a timeline: a checkpoint, the end of recovery, or the note
/// on `full_page_writes` that a server may write before these.
fn may_begin_timeline(tail: &Fragment) -> bool {
    let Some(bytes) = &tail.bytes else { return false };
    match bytes.get(16..18) {
        Some([info, manager]) => *manager == rmgr::XLOG && matches!(info & 0xF0, 0x00 | 0x80 | 0x90),
        _ => true,
    }
}
