//! WAL that was lost before it was received: recorded in the repository, told, and followed by a backup where that is wished.
//!
//! That a hole is there shows in `list` and `check` by the names of what is stored around it; the record says when it was
//! noticed, and why.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_repo::Stanza;

use super::ReceiveRequest;
use super::begin::Beginning;
use crate::event::{Cancel, Event, Observer};
use crate::{Error, ErrorKind, Result};

/// Lost WAL.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RecordedGap {
    /// On which timeline it was wanted.
    pub timeline: TimelineId,
    /// The first segment that is missing.
    pub first_missing: String,
    /// The last one.
    pub last_missing: String,
    /// How many.
    pub segments: u64,
    /// From where.
    pub from_lsn: Lsn,
    /// To where.
    pub to_lsn: Lsn,
    /// When it was noticed, RFC 3339 UTC.
    pub noticed: String,
    /// The report that records it.
    pub report: String,
    /// The backup that was taken after it.
    pub backup: Option<String>,
}

/// How long after a backup failed it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// A backup that is being taken.
struct Running {
    thread: JoinHandle<Result<String>>,
    /// How many of the gaps it began after.
    gaps: usize,
}

/// Keeps what was lost, and the backup that is being taken because of it.
pub(super) struct GapKeeper<'a> {
    request: &'a ReceiveRequest,
    stanza: &'a Stanza,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    gaps: Vec<RecordedGap>,
    running: Option<Running>,
    /// When a backup failed, or could not begin.
    failed: Option<Instant>,
    /// Nothing is received any more.
    is_over: bool,
}

impl<'a> GapKeeper<'a> {
    pub(super) fn new(
        request: &'a ReceiveRequest,
        stanza: &'a Stanza,
        observer: &'a dyn Observer,
        cancel: &'a Cancel,
    ) -> GapKeeper<'a> {
        GapKeeper {
            request,
            stanza,
            observer,
            cancel,
            gaps: Vec::new(),
            running: None,
            failed: None,
            is_over: false,
        }
    }

    /// Records that WAL from `wanted` up to `next` is lost.
    pub(super) fn record(&mut self, wanted: Beginning, next: Beginning, size: WalSegmentSize) -> Result<()> {
        let first = size.segment_at(wanted.position);
        let behind = size.segment_at(next.position);
        if behind <= first {
            return Err(Error::new(
                ErrorKind::WalGap,
                "the server does not have the WAL that it says it keeps",
            )
            .cause(format!("WAL from {} on was asked for", wanted.position))
            .hint("look at `pg_replication_slots` and `pg_wal` of the server")
            .hint("`--slot NAME --create-slot` with another name begins anew; take a backup then"));
        }
        let name = |number| WalSegmentName { timeline: wanted.timeline, number }.file_name(size);
        let now = Timestamp::now();
        let mut gap = RecordedGap {
            timeline: wanted.timeline,
            first_missing: name(first),
            last_missing: name(SegmentNumber(behind.0 - 1)),
            segments: behind.0 - first.0,
            from_lsn: size.start_of(first),
            to_lsn: size.start_of(behind),
            noticed: now.to_string(),
            report: String::new(),
            backup: None,
        };
        let json = serde_json::to_vec(&gap).map_err(|error| {
            Error::new(ErrorKind::Internal, "a gap cannot be recorded")
                .caused_by(&error)
                .hint("this is a defect of pgkeep: report it")
        })?;
        gap.report = self.stanza.put_report(now, "wal-gap", json)?.as_str().to_owned();
        let takes_backup = self.request.backup_after_gap.is_some();
        self.observer.event(Event::Warning {
            text: format!(
                "{} WAL segments are lost, {} to {}: the server does not have them any more",
                gap.segments, gap.first_missing, gap.last_missing
            ),
            hint: Some(if takes_backup {
                "a backup is taken now; nothing between the gap and its end can be recovered".to_owned()
            } else {
                format!(
                    "nothing after {} can be recovered until there is a new backup: `pgkeep backup --stanza {}`; where the files still exist, `pgkeep wal push FILE` closes the gap",
                    gap.from_lsn,
                    self.stanza.name()
                )
            }),
        });
        self.gaps.push(gap);
        self.begin_backup();
        Ok(())
    }

    /// Asked often while WAL is received: what became of the backup, and whether another one is due.
    pub(super) fn look(&mut self) {
        if let Some(running) = self.running.take_if(|running| running.thread.is_finished()) {
            self.end_backup(running);
        }
        if self.failed.is_some_and(|failed| failed.elapsed() >= TRY_AGAIN) && !self.cancel.is_cancelled() {
            self.begin_backup();
        }
    }

    fn begin_backup(&mut self) {
        let Some(request) = self.request.backup_after_gap.clone() else { return };
        // One that runs began before the last gap; its end begins the next.
        if self.running.is_some() {
            return;
        }
        self.failed = None;
        let cancel = self.cancel.clone();
        // It is told when it is done; its progress would mix with what the receiver tells.
        let thread = std::thread::Builder::new().name("backup-after-gap".into()).spawn(move || {
            crate::backup::backup(&request, &crate::event::Silent, &cancel)
                .map(|report| report.id.unwrap_or_default())
        });
        match thread {
            Ok(thread) => self.running = Some(Running { thread, gaps: self.gaps.len() }),
            Err(error) => {
                self.tell_failure(&format!("the backup cannot begin: {error}"), None);
            }
        }
    }

    fn end_backup(&mut self, running: Running) {
        match running.thread.join() {
            Ok(Ok(id)) => {
                self.observer.event(Event::Note { text: format!("backup `{id}` was taken after the gap") });
                for gap in self.gaps.iter_mut().take(running.gaps).filter(|gap| gap.backup.is_none()) {
                    gap.backup = Some(id.clone());
                }
                if self.gaps.len() > running.gaps && !self.cancel.is_cancelled() {
                    self.begin_backup();
                }
            }
            Ok(Err(error)) => {
                let hint = error.hints.first().cloned();
                self.tell_failure(&format!("the backup after the gap failed: {error}"), hint);
            }
            Err(_) => self.tell_failure(
                "the backup after the gap panicked",
                Some("this is a defect of pgkeep: report it".to_owned()),
            ),
        }
    }

    fn tell_failure(&mut self, text: &str, hint: Option<String>) {
        self.failed = Some(Instant::now());
        let then = if self.is_over || self.cancel.is_cancelled() {
            format!("take it: `pgkeep backup --stanza {}`", self.stanza.name())
        } else {
            format!("it is tried again in {} s", TRY_AGAIN.as_secs())
        };
        self.observer.event(Event::Warning { text: format!("{text}; {then}"), hint });
    }

    /// Waits for the backup, and answers what was lost.
    pub(super) fn finish(mut self) -> Vec<RecordedGap> {
        self.is_over = true;
        while let Some(running) = self.running.take() {
            self.end_backup(running);
        }
        self.gaps
    }
}
