//! WAL that the server on this machine still has in `pg_wal`: what is not archived yet, and what proves that the archive
//! holds this server's log.
//!
//! The server goes on while we read. It only ever adds to a segment, or renames one that it needs no more; whatever is
//! read in the middle of that fails the checks of the decoder, and what was not read in full is not used.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use pgkeep_format::timeline_history::{MAX_HISTORY_LENGTH, TimelineHistory};
use pgkeep_format::wal::{SegmentSummary, StopReason, header_of, summarize_partial_segment};
use pgkeep_format::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};

use super::NotUsable;

/// Bytes of a segment that are read first: a cluster that is backed up often leaves most of a segment unused.
const FIRST_READ: u64 = 256 << 10;
/// Bytes of the header of a WAL page that is not the first of its segment.
const PAGE_HEADER: u64 = 24;

/// The summary of a segment in `pg_wal`, of what is valid in it before `read_to`; none where there is no such file. Its WAL
/// must reach `needed`, which is the start of a record or the segment's end.
pub(super) fn summary(
    pg_wal: &Path,
    name: WalSegmentName,
    size: WalSegmentSize,
    read_to: Lsn,
    needed: Lsn,
) -> Result<Option<SegmentSummary>, NotUsable> {
    let segment = name.file_name(size);
    let damaged = |what: String| NotUsable::DamagedSegment { segment: segment.clone(), what };
    let unreadable = |error: io::Error| damaged(format!("it cannot be read in `pg_wal`: {error}"));
    let mut file = match open(&pg_wal.join(&segment)).map_err(unreadable)? {
        Some(file) => file,
        None => return Ok(None),
    };
    let most = read_to.0.saturating_sub(size.start_of(name.number).0).min(size.bytes());
    let mut length = most.min(FIRST_READ);
    let mut bytes = Vec::new();
    let summary = loop {
        let wanted = length - bytes.len() as u64;
        (&mut file).take(wanted).read_to_end(&mut bytes).map_err(unreadable)?;
        let summary =
            summarize_partial_segment(&bytes, name, size).map_err(|error| damaged(error.to_string()))?;
        if has_ended(&summary) || length >= most || (bytes.len() as u64) < length {
            break summary;
        }
        // Once more than a little of it is used, most of it will be.
        length = most;
    };
    let page_size = header_of(&bytes).map_err(|error| damaged(error.to_string()))?.page_size;
    // A record that would start right at a border of pages starts after the page's header.
    let is_at_page = summary.end.0.is_multiple_of(u64::from(page_size.max(1)));
    let is_reached =
        summary.end >= needed || (is_at_page && summary.end.saturating_add(PAGE_HEADER) == needed);
    if !is_reached {
        return Err(NotUsable::ShortSegment { segment, at: summary.end, needed });
    }
    Ok(Some(summary))
}

/// Whether what follows in the segment is known to be no WAL, so that it need not be read.
fn has_ended(summary: &SegmentSummary) -> bool {
    summary.flags.ended_by_switch
        || summary.end_of_wal.is_some_and(|end| end.reason != StopReason::EndOfBytes)
}

/// The history file of a timeline in `pg_wal`; none where there is none.
pub(super) fn history(pg_wal: &Path, timeline: TimelineId) -> Result<Option<TimelineHistory>, NotUsable> {
    let path = pg_wal.join(format!("{:08X}.history", timeline.get()));
    let damaged = |what: String| NotUsable::DamagedArchive { what: format!("`{}`: {what}", path.display()) };
    match read_start(&path, MAX_HISTORY_LENGTH as u64) {
        Ok(Some(bytes)) => {
            TimelineHistory::parse(timeline, &bytes).map(Some).map_err(|error| damaged(error.to_string()))
        }
        Ok(None) => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
    }
}

/// The first bytes of a file; none where there is no such file.
fn read_start(path: &Path, length: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
