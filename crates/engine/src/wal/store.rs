//! Stores WAL that was found to be what it should be: from `wal push`, and from the stream of a backup.
//!
//! The block summary, positions and commit times are computed here, once, while the bytes are at hand: incrementals,
//! target finding and gap checks read these instead of the WAL (`docs/format/wal-object.md`,
//! `docs/format/wal-summary.md`). A name is stored once; other contents under it are refused and kept beside it.

use std::collections::BTreeMap;

use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::wal::{SegmentSummary, SummaryFlags};
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{
    ClusterRecord, Compression, PutWal, RepoError, WalArchive, WalFacts, WalHeader, WalObject, WalTail,
};

use crate::archive_index::ArchiveIndex;
use crate::wal::push::{PushOutcome, PushReport};
use crate::wal::segment::{ExpectedCluster, Inspected, inspect};
use crate::{Error, ErrorKind, Result};

/// Bits of [`WalFacts::flags`], as `docs/format/wal-object.md` has them.
pub mod flag {
    /// WAL was written with `wal_level = minimal`.
    pub const WAL_LEVEL_MINIMAL: u32 = 1;
    /// A record changes blocks in a way that is not known.
    pub const UNKNOWN_CHANGE: u32 = 1 << 1;
    /// A record of an extension's resource manager.
    pub const CUSTOM_RESOURCE_MANAGER: u32 = 1 << 2;
    /// The record that crosses into the segment is void.
    pub const OVERWRITES_PREVIOUS: u32 = 1 << 3;
    /// A record inside the segment is void.
    pub const OVERWRITTEN: u32 = 1 << 4;
    /// A switch to the next segment ends the WAL in this one.
    pub const ENDED_BY_SWITCH: u32 = 1 << 5;
    /// A timeline begins in the segment.
    pub const TIMELINE_BEGAN: u32 = 1 << 6;
    /// Full-page writes were off.
    pub const FULL_PAGE_WRITES_OFF: u32 = 1 << 7;
    /// Valid WAL ends before the segment does, and not because of a switch.
    pub const END_OF_WAL: u32 = 1 << 8;
    /// There is at least one restore point.
    pub const RESTORE_POINT: u32 = 1 << 9;
}

fn flags_of(summary: &SegmentSummary) -> u32 {
    let SummaryFlags {
        wal_level_minimal,
        unknown_change,
        custom_resource_manager,
        overwrites_previous,
        overwritten,
        ended_by_switch,
        timeline_began,
        full_page_writes_off,
    } = summary.flags;
    [
        (wal_level_minimal, flag::WAL_LEVEL_MINIMAL),
        (unknown_change, flag::UNKNOWN_CHANGE),
        (custom_resource_manager, flag::CUSTOM_RESOURCE_MANAGER),
        (overwrites_previous, flag::OVERWRITES_PREVIOUS),
        (overwritten, flag::OVERWRITTEN),
        (ended_by_switch, flag::ENDED_BY_SWITCH),
        (timeline_began, flag::TIMELINE_BEGAN),
        (full_page_writes_off, flag::FULL_PAGE_WRITES_OFF),
        (summary.end_of_wal.is_some(), flag::END_OF_WAL),
        (!summary.restore_points.is_empty(), flag::RESTORE_POINT),
    ]
    .into_iter()
    .filter_map(|(is_set, bit)| is_set.then_some(bit))
    .fold(0, |flags, bit| flags | bit)
}

/// What the header of a stored segment says of it.
fn facts_of(summary: &SegmentSummary) -> WalFacts {
    WalFacts {
        system_identifier: summary.system_identifier,
        timeline: summary.timeline,
        segment_size: summary.segment_size,
        page_magic: summary.version.magic(),
        start: summary.start,
        end: summary.end,
        first_commit_time: summary.first_commit_time,
        last_commit_time: summary.last_commit_time,
        commits: summary.commits,
        records: summary.records,
        flags: flags_of(summary),
    }
}

/// What the header of a file that is not WAL says of it.
fn facts_of_text(cluster: ExpectedCluster, timeline: TimelineId) -> WalFacts {
    WalFacts {
        system_identifier: cluster.system_identifier,
        timeline,
        segment_size: cluster.segment_size,
        page_magic: 0,
        start: Lsn::INVALID,
        end: Lsn::INVALID,
        first_commit_time: None,
        last_commit_time: None,
        commits: 0,
        records: 0,
        flags: 0,
    }
}

/// Checks one file against its name and the cluster, and stores it durably.
///
/// # Errors
/// [`ErrorKind::Mismatch`] where another file of that name is stored: both are kept then.
pub(crate) fn put_file(
    archive: &WalArchive,
    cluster: ExpectedCluster,
    name: WalFileName,
    bytes: &[u8],
    compression: Compression,
) -> Result<PushReport> {
    let inspected = inspect(name, bytes, cluster)?;
    let (facts, summary) = match &inspected {
        Inspected::Wal(summary) => (facts_of(summary), summary.encode()),
        Inspected::Text => (facts_of_text(cluster, name.timeline()), Vec::new()),
    };
    let object = WalObject { name, facts, bytes, summary: &summary, compression };
    let outcome = match archive.put(&object)? {
        PutWal::Stored => PushOutcome::Stored,
        PutWal::Identical => PushOutcome::AlreadyThere,
        PutWal::Different { stored_digest, refused_digest } => {
            let kept = archive.keep_conflict(&object)?;
            return Err(conflict(
                archive,
                name,
                &stored_digest.to_string(),
                &refused_digest.to_string(),
                &kept,
            ));
        }
    };
    // Already there may also mean: put there by a process that was killed right after. One short read.
    let stored_bytes = archive.header(name)?.map_or(0, |header| header.stored_len);
    Ok(PushReport {
        name: name.file_name(cluster.segment_size),
        outcome,
        size_bytes: bytes.len() as u64,
        stored_bytes,
        warning: early_end(name, &inspected),
    })
}

fn early_end(name: WalFileName, inspected: &Inspected) -> Option<String> {
    match (name, inspected.early_end()) {
        (WalFileName::Segment(_), Some(end)) => Some(format!(
            "the WAL in this segment ends at {} ({}): recovery cannot go past it on this timeline",
            end.at, end.reason
        )),
        _ => None,
    }
}

fn conflict(archive: &WalArchive, name: WalFileName, stored: &str, refused: &str, kept: &str) -> Error {
    let file_name = name.file_name(archive.segment_size());
    let key = archive.key(name);
    Error::new(
        ErrorKind::Mismatch,
        format!("the archive holds another `{file_name}`, with other contents"),
    )
    .cause(format!("the stored one (`{key}`) has digest {stored}, this one {refused}"))
    .hint(format!("nothing was overwritten; this file is kept as `{kept}`, for you to compare the two"))
    .hint("two servers archive the same timeline here: find out which is the right one, and give the other (an old primary, a restored copy) `archive_mode = off` or another `--stanza`")
}

/// The cluster of a record.
pub(crate) fn expected_cluster(record: &ClusterRecord) -> Result<ExpectedCluster> {
    let segment_size = WalSegmentSize::try_from(record.wal_segment_size).map_err(|bad| {
        Error::new(ErrorKind::Corrupt, "the record of the cluster is damaged")
            .cause(bad)
            .hint("restore `history/` of this stanza from a copy of the repository")
    })?;
    Ok(ExpectedCluster { system_identifier: record.system_identifier, segment_size })
}

/// Stores a whole segment that came over a stream.
///
/// # Errors
/// As for a file that is pushed.
pub fn put_segment(
    archive: &WalArchive,
    record: &ClusterRecord,
    segment: WalSegmentName,
    bytes: &[u8],
    compression: Compression,
) -> Result<PushReport> {
    put_file(archive, expected_cluster(record)?, WalFileName::Segment(segment), bytes, compression)
}

/// Stores a timeline history that came over a stream.
///
/// A server that was sent the file by another one may have it with other white space: what it says counts.
///
/// # Errors
/// As for a file that is pushed.
pub fn put_history(
    archive: &WalArchive,
    record: &ClusterRecord,
    timeline: TimelineId,
    bytes: &[u8],
) -> Result<()> {
    let says_the_same = |stored: &[u8]| {
        let parse = |bytes| TimelineHistory::parse(timeline, bytes).ok();
        parse(stored).is_some() && parse(stored) == parse(bytes)
    };
    if archive.history(timeline)?.is_some_and(|stored| says_the_same(&stored)) {
        return Ok(());
    }
    let name = WalFileName::TimelineHistory(timeline);
    put_file(archive, expected_cluster(record)?, name, bytes, Compression::None).map(|_| ())
}

/// The last, unfinished segment of a stream, to be kept with its backup: under the name of the segment, without a summary
/// (the whole segment, once archived, has one).
///
/// # Errors
/// When the bytes are not the beginning of that segment.
pub fn wal_tail_object<'a>(
    record: &ClusterRecord,
    segment: WalSegmentName,
    bytes: &'a [u8],
    compression: Compression,
) -> Result<WalObject<'a>> {
    let cluster = expected_cluster(record)?;
    // Checked and summarized as any partial segment.
    let Inspected::Wal(summary) = inspect(WalFileName::Partial(segment), bytes, cluster)? else {
        return Err(Error::new(ErrorKind::Internal, "a WAL segment was taken for text")
            .hint("this is a defect of pgkeep: report it"));
    };
    Ok(WalObject {
        name: WalFileName::Segment(segment),
        facts: facts_of(&summary),
        bytes,
        summary: &[],
        compression,
    })
}

/// The least that a summary is made of: a page.
const PAGE: usize = 8192;

/// Stores the beginning of a segment that is not whole yet. How much of it is WAL, and whether it is that segment, is
/// found out first.
///
/// # Errors
/// When the bytes are not the beginning of that segment, or the storage fails.
pub(crate) fn put_tail(
    archive: &WalArchive,
    record: &ClusterRecord,
    segment: WalSegmentName,
    bytes: &[u8],
    compression: Compression,
) -> Result<WalTail> {
    let name = WalFileName::Partial(segment);
    // A page that is not full yet is read as one whose rest is empty.
    let padded = [bytes, &vec![0; PAGE.saturating_sub(bytes.len())]].concat();
    let Inspected::Wal(summary) = inspect(name, &padded, expected_cluster(record)?)? else {
        return Err(Error::new(ErrorKind::Internal, "a WAL segment was taken for text")
            .hint("this is a defect of pgkeep: report it"));
    };
    let encoded = summary.encode();
    let object = WalObject { name, facts: facts_of(&summary), bytes, summary: &encoded, compression };
    Ok(archive.put_tail(&object)?)
}

/// What is known of a segment, or of its longest tail where it is not whole.
pub(crate) fn header_of(archive: &WalArchive, segment: WalSegmentName) -> Result<Option<WalHeader>> {
    Ok(match archive.header(WalFileName::Segment(segment))? {
        Some(header) => Some(header),
        None => archive.newest_tail_summary(segment)?.map(|(header, _)| header),
    })
}

/// The beginning of a segment that is not there as a whole, filled up with zeros: what a server left behind as `.partial`, or
/// the longest tail that a receiver stored, whichever has more WAL.
pub(crate) fn longest_beginning(archive: &WalArchive, segment: WalSegmentName) -> Result<Option<Vec<u8>>> {
    let candidates = [archive.get(WalFileName::Partial(segment))?, archive.newest_tail(segment)?];
    let longest = candidates.into_iter().flatten().max_by_key(|file| file.header.facts.end);
    Ok(longest.map(|file| {
        let mut bytes = file.bytes;
        // The server wants a whole segment, and stops at the zeros.
        bytes.resize(usize::try_from(archive.segment_size().bytes()).unwrap_or(bytes.len()), 0);
        bytes
    }))
}

/// Removes tails that serve nothing: a longer one or the whole segment is there, or all WAL of their timeline after them and
/// none before, or they lie before `first_needed`, the first segment that anything needs. Answers how many.
pub(crate) fn sweep_tails(
    archive: &WalArchive,
    timeline: TimelineId,
    first_needed: Option<SegmentNumber>,
) -> Result<u64> {
    let tails = archive.tails(timeline)?;
    if tails.is_empty() {
        return Ok(0);
    }
    let whole = archive.list_segments(timeline)?;
    let mut removed = 0;
    for (at, tail) in tails.iter().enumerate() {
        let has_longer = tails.get(at + 1).is_some_and(|next| next.segment == tail.segment);
        let is_whole = whole.binary_search(&tail.segment).is_ok();
        let lies_before_all = whole.first().is_some_and(|first| tail.segment < *first);
        let serves_nobody = first_needed.is_some_and(|first| tail.segment.number < first);
        if has_longer || is_whole || lies_before_all || serves_nobody {
            archive.remove_tail(*tail)?;
            removed += 1;
        }
    }
    Ok(removed)
}

impl ArchiveIndex {
    /// The index of what an archive holds: names and history files are read, nothing else.
    ///
    /// # Errors
    /// When the storage fails or a history file cannot be read.
    pub fn load(archive: &WalArchive) -> Result<ArchiveIndex> {
        ArchiveIndex::load_with(archive, Err)
    }

    /// As [`ArchiveIndex::load`] for those who only tell what is there: a history file that is damaged is as one that is
    /// missing, and told.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn load_readable(archive: &WalArchive) -> Result<(ArchiveIndex, Vec<String>)> {
        let mut damaged = Vec::new();
        let index = ArchiveIndex::load_with(archive, |error| {
            if error.kind != ErrorKind::Corrupt {
                return Err(error);
            }
            damaged.push(format!("{error}; nothing on that timeline is known to be reachable"));
            Ok(())
        })?;
        Ok((index, damaged))
    }

    fn load_with(
        archive: &WalArchive,
        mut unreadable: impl FnMut(Error) -> Result<()>,
    ) -> Result<ArchiveIndex> {
        let mut segments: BTreeMap<TimelineId, Vec<WalSegmentName>> = BTreeMap::new();
        let mut histories = Vec::new();
        let mut tails = Vec::new();
        for timeline in archive.timelines()? {
            tails.extend(archive.tails(timeline)?);
            for name in archive.list(timeline)? {
                match name {
                    WalFileName::Segment(segment) => segments.entry(timeline).or_default().push(segment),
                    WalFileName::TimelineHistory(of) => match load_history(archive, of) {
                        Ok(history) => histories.extend(history),
                        Err(error) => unreadable(error)?,
                    },
                    WalFileName::Partial(_) | WalFileName::BackupHistory { .. } => {}
                }
            }
        }
        let segments = segments.into_values().flatten();
        Ok(ArchiveIndex::new(archive.segment_size(), segments, histories).with_tails(tails))
    }
}

fn load_history(archive: &WalArchive, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
    let Some(bytes) = archive.history(timeline)? else { return Ok(None) };
    let history = TimelineHistory::parse(timeline, &bytes).map_err(|error| {
        let key = archive.key(WalFileName::TimelineHistory(timeline));
        Error::from(RepoError::Corrupt { key, offset: 0, what: error.to_string() })
    })?;
    Ok(Some(history))
}
