//! Reads archived WAL: every file decodes to the bytes of its digest, is of this cluster, and continues the one before.
//!
//! That neighbours belong to one log is told by their summaries, which hold the links of the records at their borders.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use pgkeep_format::wal::{RangeSummary, SegmentSummary};
use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::RepoError;

use super::damage::{DamageKind, Findings, PlaceName};
use super::inventory::{Archive, Inventory, is_general};
use crate::error::{Error, ErrorKind, Result};

/// Segments that one thread takes at a time.
const TASK_SEGMENTS: u64 = 16;

/// Consecutive segments that are read in one go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) archive: usize,
    pub(super) timeline: TimelineId,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Cuts a range into tasks.
pub(super) fn tasks(archive: usize, timeline: TimelineId, first: u64, last: u64) -> Vec<Task> {
    let mut tasks = Vec::new();
    let mut next = first;
    while next <= last {
        let end = last.min(next.saturating_add(TASK_SEGMENTS - 1));
        tasks.push(Task { archive, timeline, first: next, last: end });
        next = end + 1;
    }
    tasks
}

/// What was read.
#[derive(Default)]
pub(super) struct WalResult {
    pub(super) done: Vec<Task>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Reads all tasks with several threads.
pub(super) fn read(
    inventory: &Inventory,
    tasks: &[Task],
    findings: &Findings,
    jobs: usize,
    is_over: &(dyn Fn() -> bool + Sync),
    told: &(dyn Fn(u64) + Sync),
) -> Result<WalResult> {
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let all = Mutex::new((WalResult::default(), None::<Error>));
    let gather = || all.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while !stopped.load(Ordering::Relaxed) && !is_over() {
            let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            match read_task(inventory, task, findings) {
                Ok(bytes) => {
                    let mut all = gather();
                    all.0.done.push(*task);
                    all.0.files += task.last - task.first + 1;
                    all.0.bytes += bytes;
                    drop(all);
                    told(bytes);
                }
                Err(error) => {
                    stopped.store(true, Ordering::Relaxed);
                    gather().1.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1).min(tasks.len()) {
            scope.spawn(|| {
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                    stopped.store(true, Ordering::Relaxed);
                    gather().1.get_or_insert_with(|| {
                        Error::new(ErrorKind::Internal, "a thread of verify panicked")
                            .hint("this is a defect: report it")
                    });
                }
            });
        }
    });
    match all.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(error)) => Err(error),
        (result, None) => Ok(result),
    }
}

fn read_task(inventory: &Inventory, task: &Task, findings: &Findings) -> Result<u64> {
    let Some(archive) = inventory.archives.get(task.archive) else { return Ok(0) };
    let name = |number| WalSegmentName { timeline: task.timeline, number: SegmentNumber(number) };
    let before = task.first.checked_sub(1).map(name).filter(|before| archive.index.has(*before));
    // Its own damage is told where it is read itself.
    let mut before = before.and_then(|before| summary(archive, before).ok().flatten());
    let mut bytes = 0;
    for number in task.first..=task.last {
        let segment = name(number);
        let key = archive.archive.key(WalFileName::Segment(segment));
        let mut places = Vec::new();
        let (stored, system) = match archive.archive.get(WalFileName::Segment(segment)) {
            Ok(Some(file)) => {
                let header = &file.header;
                (header.stored_len + u64::from(header.summary_len), Some(header.facts.system_identifier))
            }
            Ok(None) => {
                places.push(findings.place(DamageKind::Missing, &key, None, "it is not there"));
                (0, None)
            }
            Err(error) => {
                places.push(noted(findings, &key, error)?);
                (0, None)
            }
        };
        bytes += stored;
        if system.is_some_and(|system| system != archive.record.system_identifier) {
            let what = "it is WAL of another cluster";
            places.push(findings.place(DamageKind::Mismatch, &key, None, what));
        }
        let own = match summary(archive, segment) {
            Ok(own) => own,
            Err(error) => {
                places.push(noted(findings, &key, error)?);
                None
            }
        };
        if let (Some(before), Some(own)) = (&before, &own)
            && let Err(error) = RangeSummary::new(before).push(own)
        {
            places.push(findings.place(DamageKind::Mismatch, &key, None, error.to_string()));
        }
        before = own;
        for place in places {
            findings.needed_by(&place, backups_that_need(inventory, archive, segment));
        }
    }
    Ok(bytes)
}

fn noted(findings: &Findings, key: &str, error: RepoError) -> Result<PlaceName> {
    if is_general(&error) { Err(error.into()) } else { findings.error(key, error) }
}

/// The summary of a segment; none where it was stored without one.
fn summary(archive: &Archive, name: WalSegmentName) -> Result<Option<SegmentSummary>, RepoError> {
    let Some((_, bytes)) = archive.archive.summary(WalFileName::Segment(name))? else { return Ok(None) };
    if bytes.is_empty() {
        return Ok(None);
    }
    SegmentSummary::decode(&bytes).map(Some).map_err(|error| RepoError::Corrupt {
        key: archive.archive.key(WalFileName::Segment(name)),
        offset: 0,
        what: format!("its summary cannot be understood: {error}"),
    })
}

/// The backups that are not consistent without a segment.
pub(super) fn backups_that_need(
    inventory: &Inventory,
    archive: &Archive,
    segment: WalSegmentName,
) -> Vec<pgkeep_repo::BackupId> {
    let size = archive.index.segment_size();
    let needs = |header: &&pgkeep_repo::ManifestHeader| {
        let path = archive.index.path_to(header.timeline);
        header.record == archive.record.sequence
            && size.segment_at(header.start_lsn) <= segment.number
            && segment.number <= size.segment_before(header.stop_lsn)
            && path.steps().iter().any(|step| step.timeline == segment.timeline)
    };
    inventory.headers.iter().filter(needs).map(|header| header.id).collect()
}

/// Histories, notes, partial segments and tails: few and small. Answers how many there were, and their bytes.
pub(super) fn read_others(archive: &Archive, findings: &Findings) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = read_tails(archive, findings)?;
    for name in &archive.others {
        let key = archive.archive.key(*name);
        match archive.archive.get(*name) {
            Ok(Some(file)) => {
                files += 1;
                bytes += file.header.stored_len;
            }
            // Removed meanwhile.
            Ok(None) => {}
            Err(error) => {
                noted(findings, &key, error)?;
            }
        }
    }
    Ok((files, bytes))
}

/// The beginnings of open segments that receivers stored. They come and go, so they are listed only now.
fn read_tails(archive: &Archive, findings: &Findings) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for timeline in archive.archive.timelines()? {
        for tail in archive.archive.tails(timeline)? {
            let key = archive.archive.tail_key(tail);
            let (file, summary) = match archive.archive.tail(tail) {
                Ok(Some(found)) => found,
                // Removed meanwhile, for a better one.
                Ok(None) => continue,
                Err(error) => {
                    noted(findings, &key, error)?;
                    continue;
                }
            };
            files += 1;
            bytes += file.header.stored_len + u64::from(file.header.summary_len);
            if file.header.facts.system_identifier != archive.record.system_identifier {
                findings.place(DamageKind::Mismatch, &key, None, "it is WAL of another cluster");
            }
            if let Err(error) = SegmentSummary::decode(&summary) {
                let what = format!("its summary cannot be understood: {error}");
                findings.place(DamageKind::Mismatch, &key, None, what);
            }
        }
    }
    Ok((files, bytes))
}
