//! Waiting until the archiver has brought all WAL that a backup needs.
//!
//! The server's own wait (`pg_backup_stop(true)`) only proves that `archive_command` said ok; here the segments themselves
//! must be in the repository.

use std::time::{Duration, Instant};

use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::WalArchive;
use pgkeep_wire::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

const LOOK: Duration = Duration::from_millis(100);

/// Whether the segment that the server archived last is in the repository.
pub fn last_archived_is_here(session: &mut Connection, archive: &WalArchive) -> Result<bool> {
    let rows = session.query("select last_archived_wal from pg_stat_archiver")?;
    let Some(row) = rows.first() else { return Ok(false) };
    match row.optional("last_archived_wal")? {
        Some(name) => match WalFileName::parse(name, archive.segment_size()) {
            Some(name) => Ok(archive.header(name)?.is_some()),
            None => Ok(false),
        },
        None => Ok(false),
    }
}

/// Waits for every segment from `first` to `last`.
pub fn wait(
    archive: &WalArchive,
    session: &mut Connection,
    timeline: TimelineId,
    (first, last): (SegmentNumber, SegmentNumber),
    size: WalSegmentSize,
    timeout: Duration,
    cancel: &Cancel,
) -> Result<()> {
    let began = Instant::now();
    for number in first.0..=last.0 {
        let name = WalFileName::Segment(WalSegmentName { timeline, number: SegmentNumber(number) });
        while archive.header(name)?.is_none() {
            cancel.check()?;
            if began.elapsed() >= timeout {
                return Err(late(&name.file_name(size), session, timeout));
            }
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

fn late(name: &str, session: &mut Connection, timeout: Duration) -> Error {
    let mut error = Error::new(ErrorKind::Timeout, "the backup's WAL did not arrive in the archive")
        .cause(format!("segment {name} was not there after {} s", timeout.as_secs()));
    // Only to say more: the wait has failed whatever this query does.
    if let Ok(rows) = session.query(
        "select failed_count, last_failed_wal, last_failed_time > coalesce(last_archived_time, '-infinity') as failing \
         from pg_stat_archiver",
    ) && let Some(row) = rows.first()
        && row.optional("failing").ok().flatten() == Some("t")
    {
        let wal = row.optional("last_failed_wal").ok().flatten().unwrap_or("?").to_owned();
        error = error.cause(format!("the server's archiver fails: its last failure was {wal}"));
    }
    error
        .hint("look at the server's log for what `archive_command` said; `pgkeep check` tries it out")
        .hint("or take the WAL over a stream: `--wal include`")
        .hint("the copied files are not listed as a backup")
}
