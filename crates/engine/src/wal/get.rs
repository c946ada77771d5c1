//! `wal get`: one file for `restore_command`.
//!
//! PostgreSQL reads exit codes 1 to 125 as "no such file, the archive ends here" and may promote; so "not there" is an
//! outcome of its own here, and everything that is not certain is an error, which the program turns into a code above 125.
//! A hole in the archive is such an error: see `absence`.
//!
//! A standby is different: it asks again and again, and its primary may send what the archive lacks. There a hole is "not
//! there", and [`GetRequest::is_for_standby`] lets the program do the same with every other failure.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::WalArchive;

use crate::archive_index::ArchiveIndex;
use crate::wal::absence::{self, HistoryAbsence, SegmentAbsence};
use crate::wal::delivery::{self, deliver, directory_of, is_for_recovery};
use crate::wal::push::newest_record;
use crate::wal::segment::{ExpectedCluster, check_header, parse_name};
use crate::wal::spool::{Spool, SpoolKey};
use crate::wal::store::{expected_cluster, longest_beginning};
use crate::{Error, ErrorKind, Location, Result};

/// What was asked.
#[derive(Clone, Debug)]
pub struct GetRequest {
    /// Where from.
    pub location: Location,
    /// The file's name, `%f`.
    pub name: String,
    /// Where to put it, `%p`.
    pub path: PathBuf,
    /// Where files fetched ahead wait; none switches that off.
    pub spool: Option<PathBuf>,
    /// How many segments to fetch ahead.
    pub prefetch: usize,
}

impl GetRequest {
    /// Whether the server that asks is a standby, which takes "not there" for "not yet" and tries again: then a failure
    /// should end with exit code 1, since one above 125 stops the server.
    #[must_use]
    pub fn is_for_standby(&self) -> bool {
        delivery::is_for_standby(&self.path)
    }
}

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GetOutcome {
    /// The whole file is at its place.
    Delivered,
    /// The repository certainly does not hold it.
    NotThere,
}

/// Fetches one WAL file.
pub fn get(request: &GetRequest) -> Result<GetOutcome> {
    run(request)
        .map_err(|error| error.while_doing(format!("cannot fetch `{}` from the archive", request.name)))
}

fn run(request: &GetRequest) -> Result<GetOutcome> {
    let stanza = request.location.open_stanza()?;
    let record = newest_record(&stanza)?;
    let cluster = expected_cluster(record)?;
    let name = parse_name(&request.name, cluster.segment_size)?;
    let archive = stanza.wal(record);
    match name {
        WalFileName::Segment(segment) => {
            let key = SpoolKey {
                repository_id: &stanza.repository().id(),
                stanza: stanza.name().as_str(),
                record: record.sequence,
                timeline: segment.timeline.get(),
                destination: directory_of(&request.path),
            };
            // A human who copies one segment has no use for those after it.
            let spool = match &request.spool {
                Some(base) if is_for_recovery(&request.path) && request.prefetch > 0 => {
                    Spool::open(base, &key, cluster.segment_size)
                }
                _ => None,
            };
            get_segment(request, &archive, cluster, segment, spool.as_ref())
        }
        WalFileName::TimelineHistory(timeline) => {
            delivery::sweep(&request.path, SystemTime::now());
            get_history(request, &archive, timeline)
        }
        WalFileName::Partial(_) | WalFileName::BackupHistory { .. } => {
            let fetched = archive.get(name)?;
            match fetched {
                Some(file) => deliver(&request.path, &file.bytes).map(|()| GetOutcome::Delivered),
                None => Ok(GetOutcome::NotThere),
            }
        }
    }
}

fn get_segment(
    request: &GetRequest,
    archive: &WalArchive,
    cluster: ExpectedCluster,
    segment: WalSegmentName,
    spool: Option<&Spool>,
) -> Result<GetOutcome> {
    if let Some(spool) = spool
        && let Some(spooled) = spool.take(segment)
        && check_header(segment, &spooled.bytes, cluster).is_ok()
    {
        if !spooled.move_to(&request.path) {
            deliver(&request.path, &spooled.bytes)?;
            spooled.discard();
        }
        return Ok(GetOutcome::Delivered);
    }
    match fetch_with_following(request, archive, segment, spool)? {
        Some(bytes) => {
            check_fetched(segment, &bytes, cluster)?;
            deliver(&request.path, &bytes)?;
            Ok(GetOutcome::Delivered)
        }
        None => {
            let outcome = absent_segment(request, archive, cluster, segment)?;
            if outcome == GetOutcome::NotThere
                && let Some(spool) = spool
            {
                // The archive of this timeline ends here.
                spool.remove();
            }
            Ok(outcome)
        }
    }
}

/// Fetches a segment, and those after it into the spool, with one thread for each processor.
fn fetch_with_following(
    request: &GetRequest,
    archive: &WalArchive,
    segment: WalSegmentName,
    spool: Option<&Spool>,
) -> Result<Option<Vec<u8>>> {
    let Some(spool) = spool else { return fetch(archive, segment) };
    spool.sweep(segment, SystemTime::now());
    let following = Mutex::new((1..=spool.room_for(request.prefetch) as u64).filter_map(|distance| {
        Some(WalSegmentName { number: SegmentNumber(segment.number.0.checked_add(distance)?), ..segment })
    }));
    // A function of its own, so that the lock is not held while a segment is fetched.
    let next = || following.lock().unwrap_or_else(PoisonError::into_inner).next();
    let fetch_ahead = || {
        while let Some(ahead) = next() {
            if spool.holds(ahead) {
                continue;
            }
            // What cannot be fetched ahead is fetched, and complained about, when its turn comes.
            match fetch(archive, ahead) {
                Ok(Some(bytes)) if spool.keep(ahead, &bytes).is_ok() => {}
                _ => break,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(fetch_ahead);
        }
        let wanted = fetch(archive, segment);
        // This thread helps only where the archive goes on.
        if matches!(wanted, Ok(Some(_))) {
            fetch_ahead();
        }
        wanted
    })
}

fn fetch(archive: &WalArchive, segment: WalSegmentName) -> Result<Option<Vec<u8>>> {
    Ok(archive.get(WalFileName::Segment(segment))?.map(|file| file.bytes))
}

/// The repository proved the bytes by their digest; that they are a whole segment of this cluster is asked once more, since
/// PostgreSQL ends with FATAL on a segment of the wrong size.
fn check_fetched(segment: WalSegmentName, bytes: &[u8], cluster: ExpectedCluster) -> Result<()> {
    if bytes.len() as u64 != cluster.segment_size.bytes() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("the archived segment has {} bytes instead of {}", bytes.len(), cluster.segment_size.bytes()),
        )
        .hint("a standby or another archive may have the whole one; `pgkeep list` shows what can be restored without it"));
    }
    check_header(segment, bytes, cluster)
}

fn absent_segment(
    request: &GetRequest,
    archive: &WalArchive,
    cluster: ExpectedCluster,
    segment: WalSegmentName,
) -> Result<GetOutcome> {
    // PostgreSQL looks into pg_wal next, where a restored backup may have brought the segment; and a standby asks again.
    if is_in_pg_wal(request, cluster) || request.is_for_standby() {
        return Ok(GetOutcome::NotThere);
    }
    let index = ArchiveIndex::load(archive)?;
    let SegmentAbsence::Hole { first, last } = absence::of_segment(&index, segment) else {
        return last_of_timeline(request, archive, cluster, segment);
    };
    // The archiver may have delivered it, and later ones, between the two looks.
    if let Some(bytes) = fetch(archive, segment)? {
        check_fetched(segment, &bytes, cluster)?;
        deliver(&request.path, &bytes)?;
        return Ok(GetOutcome::Delivered);
    }
    let size = cluster.segment_size;
    let what = if first == last {
        format!("`{}` is missing from the archive, and WAL after it is there", first.file_name(size))
    } else {
        format!(
            "`{}` to `{}` ({} segments) are missing from the archive, and WAL after them is there",
            first.file_name(size),
            last.file_name(size),
            last.number.0 - first.number.0 + 1
        )
    };
    Err(Error::new(ErrorKind::WalGap, what)
        .cause("answering \"not there\" would make the server end recovery here, and promote without the rest")
        .hint("where the missing files still exist (in `pg_wal` of a server, in another archive), `pgkeep wal push FILE` adds them and recovery goes on")
        .hint(format!("to end before the gap, restore with a target before {} (`pgkeep list` shows the windows)", size.start_of(first.number))))
}

/// The end of a timeline that was left in the middle of a segment is archived as `.partial`, for which PostgreSQL never
/// asks; a receiver stores the beginning of the segment that is being written. Where the timeline that took over has not archived its copy yet, it holds the last transactions there are.
fn last_of_timeline(
    request: &GetRequest,
    archive: &WalArchive,
    cluster: ExpectedCluster,
    segment: WalSegmentName,
) -> Result<GetOutcome> {
    let Some(bytes) = longest_beginning(archive, segment)? else { return Ok(GetOutcome::NotThere) };
    check_header(segment, &bytes, cluster)?;
    deliver(&request.path, &bytes)?;
    Ok(GetOutcome::Delivered)
}

fn is_in_pg_wal(request: &GetRequest, cluster: ExpectedCluster) -> bool {
    is_for_recovery(&request.path)
        && std::fs::metadata(directory_of(&request.path).join(&request.name))
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() == cluster.segment_size.bytes())
}

fn get_history(request: &GetRequest, archive: &WalArchive, timeline: TimelineId) -> Result<GetOutcome> {
    if let Some(bytes) = archive.history(timeline)? {
        return deliver(&request.path, &bytes).map(|()| GetOutcome::Delivered);
    }
    if timeline == TimelineId::FIRST {
        return Ok(GetOutcome::NotThere);
    }
    match absence::of_history(&ArchiveIndex::load(archive)?, timeline) {
        HistoryAbsence::Expected => {
            // Asked when recovery begins, where the spool is empty, and when it ends, perhaps before what was fetched ahead.
            if let Some(base) = request.spool.as_deref().filter(|_| is_for_recovery(&request.path)) {
                Spool::remove_all(base, directory_of(&request.path));
            }
            Ok(GetOutcome::NotThere)
        }
        HistoryAbsence::Known(history) => {
            deliver(&request.path, history.to_string().as_bytes()).map(|()| GetOutcome::Delivered)
        }
        HistoryAbsence::Hole { .. } if request.is_for_standby() => Ok(GetOutcome::NotThere),
        HistoryAbsence::Hole { because } => {
            // It may have arrived between the two looks.
            if let Some(bytes) = archive.history(timeline)? {
                return deliver(&request.path, &bytes).map(|()| GetOutcome::Delivered);
            }
            Err(Error::new(ErrorKind::WalGap, "the history file is missing from the archive")
                .cause(because)
                .cause("answering \"not there\" would make the server recover an older timeline")
                .hint(format!("find `{}` in `pg_wal` of a server on that timeline and add it with `pgkeep wal push FILE`", request.name)))
        }
    }
}
