//! The moments inside an archived segment at which recovery can stop.
//!
//! Restore points come from the summary that `wal push` stored; transactions are read from the segment itself, since
//! listing every commit in the summary would cost a tenth of the WAL.

use pgkeep_format::wal::{
    Fragment, RestorePoint, SegmentDecoder, SegmentEvent, SegmentSummary, first_record_from as first_record,
    scan_transactions,
};
use pgkeep_format::{Lsn, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::WalArchive;

use crate::error::{Error, ErrorKind, Result};
use crate::wal::store::longest_beginning;

/// The transactions that end in a segment, in the order of WAL; `earlier` is the segment before it on the path.
pub fn transaction_ends(
    archive: &WalArchive,
    name: WalSegmentName,
    earlier: Option<WalSegmentName>,
    size: WalSegmentSize,
) -> Result<Vec<pgkeep_format::wal::TransactionEnd>> {
    let carry = match earlier {
        Some(earlier) => tail_of(archive, earlier, size)?,
        None => None,
    };
    let bytes = body(archive, name, size)?;
    let events =
        scan_transactions(&bytes, name, size, carry.as_ref()).map_err(|error| damaged(name, size, &error))?;
    Ok(events
        .filter_map(|event| match event {
            SegmentEvent::TransactionEnd(end) => Some(end),
            SegmentEvent::RestorePoint(_) => None,
        })
        .collect())
}

/// Where the first record at or after `lsn` starts in that segment.
pub fn first_record_from(
    archive: &WalArchive,
    name: WalSegmentName,
    size: WalSegmentSize,
    lsn: Lsn,
) -> Result<Option<Lsn>> {
    let bytes = body(archive, name, size)?;
    let found = first_record(&bytes, name, size, lsn).map_err(|error| damaged(name, size, &error))?;
    Ok(found.map(|(start, _)| start))
}

/// Where the last record before `end` starts in the segment of which these are the bytes, whole or with zeros after its WAL.
pub fn last_record_before(
    bytes: &[u8],
    name: WalSegmentName,
    size: WalSegmentSize,
    end: Lsn,
) -> Result<Option<Lsn>> {
    let mut decoder = SegmentDecoder::new(bytes, name, size).map_err(|error| damaged(name, size, &error))?;
    let mut last = None;
    while let Some(record) = decoder.next_record() {
        if record.lsn >= end {
            break;
        }
        last = Some(record.lsn);
    }
    Ok(last)
}

/// The restore points of a segment.
pub fn restore_points(
    archive: &WalArchive,
    name: WalSegmentName,
    size: WalSegmentSize,
) -> Result<Vec<RestorePoint>> {
    Ok(summary(archive, name, size)?.map(|summary| summary.restore_points).unwrap_or_default())
}

fn tail_of(archive: &WalArchive, name: WalSegmentName, size: WalSegmentSize) -> Result<Option<Fragment>> {
    Ok(summary(archive, name, size)?.and_then(|summary| summary.tail))
}

fn summary(
    archive: &WalArchive,
    name: WalSegmentName,
    size: WalSegmentSize,
) -> Result<Option<SegmentSummary>> {
    let found = match archive.summary(WalFileName::Segment(name))? {
        Some(found) => Some(found),
        None => archive.newest_tail_summary(name)?,
    };
    let Some((_, bytes)) = found else { return Ok(None) };
    SegmentSummary::decode(&bytes).map(Some).map_err(|error| damaged(name, size, &error))
}

fn body(archive: &WalArchive, name: WalSegmentName, size: WalSegmentSize) -> Result<Vec<u8>> {
    let found = match archive.get(WalFileName::Segment(name))? {
        Some(file) => Some(file.bytes),
        None => longest_beginning(archive, name)?,
    };
    found.ok_or_else(|| {
        Error::new(
            ErrorKind::WalGap,
            format!("WAL segment {} vanished from the archive", name.file_name(size)),
        )
        .hint("somebody removes objects from the repository: find out who before anything else")
    })
}

fn damaged(name: WalSegmentName, size: WalSegmentSize, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(ErrorKind::Corrupt, format!("archived WAL segment {} cannot be read", name.file_name(size)))
        .caused_by(error)
        .hint(
            "if the server or another copy still has this segment, keep it; targets before it can be reached",
        )
}
