//! The producer that reads the archive: merges the summaries that `wal push` stored with every segment.
//!
//! Only headers and summaries are read, a few hundred bytes to some kilobytes a segment, several segments at a time; one
//! merged summary is in memory. The range is everything from the parent's start to the start of this backup, along the
//! server's history. Around these two positions whole segments are taken: what is marked too much is read and found equal.
//!
//! Where the server's `pg_wal` is at hand, the segment that holds the start is taken from there, whatever the archive has:
//! the server is writing it, and it must follow what came before. Segments that are not archived yet are summarized from
//! there too, and the last archived one is compared with the server's own file, if that is still there. Without `pg_wal`
//! nothing proves that the archive holds the log of this very server, and not that of a copy of the cluster that runs
//! elsewhere under the same identity and timeline.

use std::path::Path;

use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::wal::{RangeSummary, SegmentSummary, SummaryFlags};
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{ManifestHeader, WalArchive};

use super::{ChangedBlocks, NotUsable, WalRange, local_wal};
use crate::archive_index::ArchiveIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;
use crate::history::TimelinePath;

/// Segments whose summaries are read before they are merged.
const BATCH: usize = 64;
/// How many are read at the same time.
const READERS: usize = 4;
/// Bytes of the header of a segment's first page: the first record of a segment that was switched to starts after it.
const LONG_PAGE_HEADER: u64 = 40;

/// What to find out.
#[derive(Clone, Copy, Debug)]
pub struct WalRequest<'a> {
    /// The archive of the cluster.
    pub archive: &'a WalArchive,
    /// `pg_wal` of the running server, where it is on this machine. Leave it out only where it is known otherwise that this
    /// server writes to this archive.
    pub local_wal: Option<&'a Path>,
    /// The parent backup.
    pub parent: &'a ManifestHeader,
    /// Where the new backup starts: the redo position that the server answered, the start of a record.
    pub start: Lsn,
    /// The timeline of that position.
    pub timeline: TimelineId,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

/// Finds out from WAL summaries which blocks changed since the parent began.
///
/// That the parent is [`comparable`](super::comparable) is for the caller to check first.
///
/// # Errors
/// When the storage fails, or the caller asked to stop. A gap, or whatever else makes the summaries useless, is the inner
/// [`NotUsable`].
pub fn from_wal(request: &WalRequest<'_>) -> Result<Result<ChangedBlocks, NotUsable>> {
    match find(request) {
        Ok(found) => Ok(Ok(found)),
        Err(Stop::NotUsable(reason)) => Ok(Err(reason)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Why there is no answer.
enum Stop {
    NotUsable(NotUsable),
    Failed(Error),
}

impl From<NotUsable> for Stop {
    fn from(reason: NotUsable) -> Stop {
        Stop::NotUsable(reason)
    }
}

impl From<Error> for Stop {
    /// Damage in the archive makes it useless here; a storage that fails will fail the backup too.
    fn from(error: Error) -> Stop {
        match error.kind {
            ErrorKind::Corrupt => NotUsable::DamagedArchive { what: error.to_string() }.into(),
            _ => Stop::Failed(error),
        }
    }
}

/// One segment of the range.
#[derive(Debug, PartialEq, Eq)]
struct Needed {
    number: SegmentNumber,
    /// Up to where its WAL must be there: its end, except in the segment that holds the start of the new backup.
    upto: Lsn,
    /// The names under which that WAL is, newest timeline first; a newer one begins with a copy of the older one's part.
    names: Vec<WalSegmentName>,
}

fn find(request: &WalRequest<'_>) -> Result<ChangedBlocks, Stop> {
    let WalRequest { archive, parent, start, timeline, .. } = *request;
    if start <= parent.stop_lsn || start <= parent.start_lsn {
        return Err(NotUsable::StartsBeforeParentEnds { start, parent_stop: parent.stop_lsn }.into());
    }
    let index = ArchiveIndex::load(archive)?;
    let path = path_of(request, &index)?;
    if !path.contains(parent.timeline, parent.stop_lsn) {
        return Err(NotUsable::OffHistory {
            parent_timeline: parent.timeline,
            parent_stop: parent.stop_lsn,
            timeline,
        }
        .into());
    }
    let size = archive.segment_size();
    let boundary = size.start_of(size.segment_at(start));
    // A backup on a primary switches to a new segment: most often there is nothing before its start but a page header.
    let is_next_to_boundary = size.offset_of(start) <= LONG_PAGE_HEADER;
    let end = if request.local_wal.is_some() || is_next_to_boundary { boundary } else { start };
    let needed = needed_segments(&path, size, parent.start_lsn, end);
    let mut segments = needed.len() as u64;
    let mut range: Option<RangeSummary> = None;
    let mut last_archived = None;
    for batch in needed.chunks(BATCH) {
        request.cancel.check()?;
        for (summary, is_archived) in read_batch(request, &index, batch)? {
            add(&mut range, &summary, size)?;
            if is_archived && summary.end <= start {
                last_archived = Some(summary);
            }
        }
    }
    if let Some(pg_wal) = request.local_wal {
        if let Some(summary) = last_archived {
            confirm_log(pg_wal, &summary, size)?;
        }
        add(&mut range, &segment_of_start(request, pg_wal, &path)?, size)?;
        segments = segments.saturating_add(1);
    }
    // There is at least the segment of the parent's start: it lies before `start`.
    let Some(range) = range else {
        return Err(missing(WalSegmentName::at(parent.timeline, parent.start_lsn, size), size).into());
    };
    if let Some(tail) = range.tail.filter(|tail| tail.start < start) {
        let segment = WalSegmentName::at(timeline, tail.start, size).file_name(size);
        return Err(NotUsable::ShortSegment { segment, at: tail.start, needed: start }.into());
    }
    let looked_at = WalRange { start: parent.start_lsn, end: start, segments };
    Ok(ChangedBlocks::new(range.blocks, looked_at, parent))
}

/// Adds the next segment to the range.
fn add(
    range: &mut Option<RangeSummary>,
    summary: &SegmentSummary,
    size: WalSegmentSize,
) -> Result<(), NotUsable> {
    let segment = WalSegmentName::at(summary.timeline, summary.start, size).file_name(size);
    refuse_unknown(summary.flags, &segment)?;
    let range = match range {
        None => range.insert(RangeSummary::new(summary)),
        Some(range) => {
            range
                .push(summary)
                .map_err(|error| NotUsable::DoesNotFollow { segment: segment.clone(), error })?;
            range
        }
    };
    // Those of the record that crossed into this segment.
    refuse_unknown(range.flags, &segment)?;
    range.restore_points.clear();
    Ok(())
}

/// The segment that holds the start of the new backup, as far as the server has written it.
fn segment_of_start(
    request: &WalRequest<'_>,
    pg_wal: &Path,
    path: &TimelinePath,
) -> Result<SegmentSummary, NotUsable> {
    let size = request.archive.segment_size();
    let number = size.segment_at(request.start);
    let names = names_of(path, size, number, request.start);
    for name in names.iter().copied() {
        // What comes after the start marks a few blocks too many; its first record proves that it follows.
        let end = size.end_of(number);
        if let Some(summary) = local_wal::summary(pg_wal, name, size, end, request.start)? {
            check_identity(&summary, name, request.parent.system_identifier, size)?;
            return Ok(summary);
        }
    }
    Err(missing(WalSegmentName { timeline: request.timeline, number }, size))
}

/// The server's history: from the archive, from the server, and where both have it, the same.
fn path_of(request: &WalRequest<'_>, index: &ArchiveIndex) -> Result<TimelinePath, Stop> {
    let timeline = request.timeline;
    let archived = index.tree().history(timeline);
    let local = match request.local_wal {
        Some(pg_wal) => local_wal::history(pg_wal, timeline)?,
        None => None,
    };
    match (archived, local) {
        (Some(archived), Some(local)) if !agree(&archived, &local) => {
            Err(NotUsable::OtherHistory { timeline }.into())
        }
        (Some(history), _) | (None, Some(history)) => Ok(TimelinePath::of_history(&history)),
        // No switch lies in the range, so it does not matter what was before.
        (None, None) if request.parent.timeline == timeline => Ok(TimelinePath::of_root(timeline)),
        (None, None) => Err(NotUsable::NoHistory { timeline }.into()),
    }
}

/// Whether two histories say the same; the reasons of the switches do not matter.
fn agree(one: &TimelineHistory, other: &TimelineHistory) -> bool {
    let switches = |history: &TimelineHistory| -> Vec<_> {
        history.ancestors.iter().map(|a| (a.timeline, a.switch)).collect()
    };
    switches(one) == switches(other)
}

/// The segments from the one that holds `from` to the one that holds the byte before `end`.
fn needed_segments(path: &TimelinePath, size: WalSegmentSize, from: Lsn, end: Lsn) -> Vec<Needed> {
    if end <= from {
        return Vec::new();
    }
    let (first, last) = (size.segment_at(from).0, size.segment_before(end).0);
    (first..=last)
        .map(SegmentNumber)
        .map(|number| {
            let upto = end.min(size.end_of(number));
            Needed { number, upto, names: names_of(path, size, number, upto) }
        })
        .collect()
}

/// The names under which the path's WAL in a segment may be, up to `upto`; newest timeline first.
fn names_of(
    path: &TimelinePath,
    size: WalSegmentSize,
    number: SegmentNumber,
    upto: Lsn,
) -> Vec<WalSegmentName> {
    path.steps()
        .iter()
        .rev()
        .filter(|step| size.segment_at(step.from) <= number && step.to.is_none_or(|to| to >= upto))
        .map(|step| WalSegmentName { timeline: step.timeline, number })
        .collect()
}

/// The summaries of a batch in order, each with whether it came from the archive.
fn read_batch(
    request: &WalRequest<'_>,
    index: &ArchiveIndex,
    batch: &[Needed],
) -> Result<Vec<(SegmentSummary, bool)>, Stop> {
    let share = batch.len().div_ceil(READERS).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = batch
            .chunks(share)
            .map(|part| {
                let read =
                    move || part.iter().map(|needed| read_one(request, index, needed)).collect::<Vec<_>>();
                scope.spawn(read)
            })
            .collect();
        readers
            .into_iter()
            .flat_map(|reader| reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn read_one(
    request: &WalRequest<'_>,
    index: &ArchiveIndex,
    needed: &Needed,
) -> Result<(SegmentSummary, bool), Stop> {
    let size = request.archive.segment_size();
    for name in needed.names.iter().copied().filter(|name| index.has(*name)) {
        if let Some(summary) = archived_summary(request, name, needed.upto)? {
            return Ok((summary, true));
        }
    }
    if let Some(pg_wal) = request.local_wal {
        for name in &needed.names {
            if let Some(summary) = local_wal::summary(pg_wal, *name, size, needed.upto, needed.upto)? {
                check_identity(&summary, *name, request.parent.system_identifier, size)?;
                return Ok((summary, false));
            }
        }
    }
    let oldest = WalSegmentName { timeline: request.timeline, number: needed.number };
    Err(missing(needed.names.last().copied().unwrap_or(oldest), size).into())
}

/// The stored summary, checked; none where the object went away since it was listed.
fn archived_summary(
    request: &WalRequest<'_>,
    name: WalSegmentName,
    upto: Lsn,
) -> Result<Option<SegmentSummary>, Stop> {
    let size = request.archive.segment_size();
    let segment = name.file_name(size);
    let stored = request.archive.summary(WalFileName::Segment(name)).map_err(Error::from);
    let bytes = match stored {
        Ok(Some((_, bytes))) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if error.kind == ErrorKind::Corrupt => {
            return Err(NotUsable::DamagedSegment { segment, what: error.to_string() }.into());
        }
        Err(error) => return Err(Stop::Failed(error)),
    };
    if bytes.is_empty() {
        return Err(NotUsable::NoSummary { segment }.into());
    }
    let summary = SegmentSummary::decode(&bytes)
        .map_err(|error| NotUsable::DamagedSegment { segment: segment.clone(), what: error.to_string() })?;
    check_identity(&summary, name, request.parent.system_identifier, size)?;
    if summary.end < upto {
        return Err(NotUsable::ShortSegment { segment, at: summary.end, needed: upto }.into());
    }
    Ok(Some(summary))
}

/// That a summary is of the segment of that name, and of this cluster.
fn check_identity(
    summary: &SegmentSummary,
    name: WalSegmentName,
    system_identifier: u64,
    size: WalSegmentSize,
) -> Result<(), NotUsable> {
    let segment = name.file_name(size);
    if summary.system_identifier != system_identifier {
        let what = format!("it belongs to the cluster {}", summary.system_identifier);
        return Err(NotUsable::DamagedSegment { segment, what });
    }
    let is_named_right = summary.timeline == name.timeline
        && summary.start == size.start_of(name.number)
        && summary.segment_size == size;
    if is_named_right {
        Ok(())
    } else {
        Err(NotUsable::DamagedSegment { segment, what: "its summary is of another segment".to_owned() })
    }
}

/// That the server has the same segment as the archive, where it still has it.
fn confirm_log(pg_wal: &Path, archived: &SegmentSummary, size: WalSegmentSize) -> Result<(), NotUsable> {
    let name = WalSegmentName::at(archived.timeline, archived.start, size);
    let segment = name.file_name(size);
    let end = size.end_of(name.number);
    match local_wal::summary(pg_wal, name, size, end, end) {
        Ok(None) => Ok(()),
        Ok(Some(local)) if local == *archived => Ok(()),
        Ok(Some(_)) => Err(NotUsable::OtherLog { segment }),
        Err(reason) => Err(reason),
    }
}

/// Refuses WAL that does not tell all that changed.
fn refuse_unknown(flags: SummaryFlags, segment: &str) -> Result<(), NotUsable> {
    let segment = segment.to_owned();
    if flags.wal_level_minimal {
        Err(NotUsable::WalLevelMinimal { segment })
    } else if flags.custom_resource_manager {
        Err(NotUsable::CustomResourceManager { segment })
    } else if flags.requires_full_read() {
        Err(NotUsable::UnknownChange { segment })
    } else {
        Ok(())
    }
}

fn missing(name: WalSegmentName, size: WalSegmentSize) -> NotUsable {
    NotUsable::MissingSegment { segment: name.file_name(size) }
}

#[cfg(test)]
mod tests;
