//! `wal receive`: WAL of a running server into the repository, as it is written.
//!
//! ```text
//! server ──► stream (this thread) ──► spool: <segment>.partial, fsync ──► flush is reported
//!                                        │ whole: renamed
//!                                        ▼
//!                        uploader thread ──► archive: segments, and tails of the open one
//! ```
//!
//! Invariants:
//! - What is reported as flushed is in the spool, flushed, or in the repository. So with the spool nothing that the server
//!   was told is ever lost; without it, what came after the last tail is.
//! - Segments go the way of `wal push`: the same names, the same checks, the same bytes are accepted and others refused. Both
//!   may run at once, and several receivers with slots and spools of their own.
//! - A spool has one receiver, by a lock. A slot has one, by the server.
//! - WAL that the server does not have any more is a gap: told, recorded in the repository, and never passed over in silence.

mod begin;
mod gap;
mod sink;
mod spool;
mod uploader;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgkeep_format::{Lsn, TimelineId};
use pgkeep_physical::wal_receive::{StreamError, StreamOptions, follow};
use pgkeep_repo::{ClusterRecord, Compression, Stanza, WalArchive};
use pgkeep_wire::{Connection, SessionMode, WireError};

use crate::backup::BackupRequest;
use crate::event::{Cancel, Event, Observer};
use crate::wal::push::newest_record;
use crate::{ConnectionRequest, Error, ErrorKind, Location, Result};
use begin::Beginning;
use gap::GapKeeper;
pub use gap::RecordedGap;
use sink::SpoolSink;
use spool::ReceiveSpool;
use uploader::{Shared, Uploader};

/// How often the server is told unasked; also how often WAL is flushed where the receiver is not synchronous.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// The first wait after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);

/// What was asked.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// Where to.
    pub location: Location,
    /// Where from; several hosts and `target_session_attrs` make it follow a failover.
    pub connection: ConnectionRequest,
    /// The slot that keeps WAL on the server; none: the server keeps what it likes.
    pub slot: Option<String>,
    /// Make the slot where it is missing, or lost.
    pub create_slot: bool,
    /// Flush and report as soon as WAL has arrived.
    pub is_synchronous: bool,
    /// Where WAL waits that is not in the repository yet.
    pub spool: PathBuf,
    /// Only bring what the spool holds into the repository; no server is asked.
    pub spool_only: bool,
    /// How often the beginning of the open segment is stored; none: never.
    pub tail_every: Option<Duration>,
    /// Codec and level.
    pub compression: Compression,
    /// Stop when all WAL before it is received.
    pub until: Option<Lsn>,
    /// Try again for ever when the server is lost.
    pub reconnects: bool,
    /// The backup to take when WAL was lost.
    pub backup_after_gap: Option<BackupRequest>,
}

/// Why receiving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiveEnd {
    /// Somebody asked for it.
    Stopped,
    /// The position that was asked for is reached.
    Reached,
    /// The spool is stored.
    SpoolStored,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ReceiveReport {
    /// The stanza.
    pub stanza: String,
    /// The slot.
    pub slot: Option<String>,
    /// Why it ended.
    pub end: ReceiveEnd,
    /// The timeline that was received last; none where nothing was.
    pub timeline: Option<TimelineId>,
    /// The end of what was received.
    pub position: Option<Lsn>,
    /// Whole segments that were stored, or found stored.
    pub segments: u64,
    /// Beginnings of segments that were stored.
    pub tails: u64,
    /// How often a server was connected to.
    pub connections: u64,
    /// WAL that was lost.
    pub gaps: Vec<RecordedGap>,
}

impl ReceiveReport {
    /// Whether WAL was lost and no backup was taken since.
    #[must_use]
    pub fn has_open_gap(&self) -> bool {
        self.gaps.iter().any(|gap| gap.backup.is_none())
    }
}

/// Receives WAL until somebody asks to stop.
///
/// # Errors
/// When it cannot begin, or goes wrong in a way that trying again does not mend: another cluster, other bytes under a stored
/// name, WAL that is lost with a slot that may not be made anew.
pub fn receive(request: &ReceiveRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<ReceiveReport> {
    let doing = format!("cannot receive WAL into `{}`", request.location.stanza);
    run(request, observer, cancel).map_err(|error| error.while_doing(doing))
}

fn run(request: &ReceiveRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<ReceiveReport> {
    let stanza = request.location.open_stanza()?;
    let record = *newest_record(&stanza)?;
    let archive = stanza.wal(&record);
    let repository_id = stanza.repository().id().to_string();
    let spool = ReceiveSpool::open(
        &request.spool,
        &format!("{repository_id}-{}-{:06}", stanza.name(), record.sequence),
        archive.segment_size(),
    )?;
    let shared = Shared::default();
    let uploader = Uploader {
        archive: archive.clone(),
        record,
        compression: request.compression,
        spool: &spool,
        shared: &shared,
        tail_every: request.tail_every,
        observer,
    };
    let mut report = ReceiveReport {
        stanza: stanza.name().to_string(),
        slot: request.slot.clone(),
        end: ReceiveEnd::SpoolStored,
        timeline: None,
        position: None,
        segments: 0,
        tails: 0,
        connections: 0,
        gaps: Vec::new(),
    };
    if request.spool_only {
        let stored = uploader.store_all()?;
        report.segments = stored.segments;
        report.tails = stored.tails;
        return Ok(report);
    }
    let receiver = Receiver {
        request,
        stanza: &stanza,
        record,
        archive,
        spool: &spool,
        shared: &shared,
        observer,
        cancel,
    };
    std::thread::scope(|scope| {
        let uploading = std::thread::Builder::new()
            .name("wal-upload".into())
            .spawn_scoped(scope, || uploader.run())
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot start a thread").caused_by(&error))?;
        let mut gaps = GapKeeper::new(request, &stanza, observer, cancel);
        let ended = receiver.run(&mut report, &mut gaps);
        shared.finish();
        let uploaded = uploading.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the thread that stores WAL panicked")
                .hint("this is a defect of pgkeep: report it"))
        });
        report.gaps = gaps.finish();
        // What stopped the stream may be what went wrong with storing.
        let stored = uploaded?;
        ended?;
        report.segments = stored.segments;
        report.tails = stored.tails;
        Ok(report)
    })
}

struct Receiver<'a> {
    request: &'a ReceiveRequest,
    stanza: &'a Stanza,
    record: ClusterRecord,
    archive: WalArchive,
    spool: &'a ReceiveSpool,
    shared: &'a Shared,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

/// How one session ended.
enum SessionEnd {
    /// As was wished.
    Done(ReceiveEnd),
    /// WAL from here on is not on the server any more.
    WalRemoved(Beginning),
    /// The slot was lost, and was made anew.
    SlotMadeAnew,
}

impl Receiver<'_> {
    fn run(&self, report: &mut ReceiveReport, gaps: &mut GapKeeper<'_>) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        // Where to go on behind a gap, until WAL behind it is stored.
        let mut behind_gap: Option<Beginning> = None;
        loop {
            if self.cancel.is_cancelled() {
                report.end = ReceiveEnd::Stopped;
                return Ok(());
            }
            let before = report.position;
            let error = match self.session(report, behind_gap, gaps) {
                Ok(SessionEnd::Done(end)) => {
                    report.end = end;
                    return Ok(());
                }
                Ok(SessionEnd::WalRemoved(wanted)) => {
                    behind_gap = Some(self.behind_gap(wanted, gaps)?);
                    continue;
                }
                Ok(SessionEnd::SlotMadeAnew) => continue,
                Err(error) => error,
            };
            if self.shared.has_failed() {
                return Ok(());
            }
            if self.cancel.is_cancelled() {
                continue;
            }
            if !self.request.reconnects || !is_passing(error.kind) {
                return Err(error);
            }
            if report.position != before {
                pause = FIRST_PAUSE;
            }
            self.observer.event(Event::Warning {
                text: format!("{error}; trying again in {:.1} s", pause.as_secs_f64()),
                hint: error.hints.first().cloned(),
            });
            let since = Instant::now();
            while since.elapsed() < pause && !self.cancel.is_cancelled() {
                gaps.look();
                std::thread::sleep(LOOK);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn connect(&self) -> Result<Connection> {
        let mut info = self.request.connection.resolve()?;
        let name = self.request.slot.as_deref().unwrap_or("pgkeep");
        // A server whose machine vanished says nothing more: the kernel finds out.
        for (keyword, value) in [
            ("fallback_application_name", name),
            ("keepalives_idle", "15"),
            ("keepalives_interval", "5"),
            ("keepalives_count", "3"),
        ] {
            if info.get(keyword).is_none() {
                info = info.with(keyword, value)?;
            }
        }
        Ok(Connection::connect(&info, SessionMode::PhysicalReplication)?)
    }

    fn session(
        &self,
        report: &mut ReceiveReport,
        behind_gap: Option<Beginning>,
        gaps: &mut GapKeeper<'_>,
    ) -> Result<SessionEnd> {
        let mut connection = self.connect()?;
        report.connections += 1;
        let identity = connection.identify_system()?;
        self.check_cluster(identity.system_identifier, &mut connection)?;
        if let Some(slot) = self.request.slot.as_deref().filter(|_| self.request.create_slot) {
            make_slot(&mut connection, slot)?;
        }
        let slot = self.request.slot.as_deref();
        let found = begin::find(&mut connection, &identity, &self.archive, self.spool, slot)?;
        let beginning = match behind_gap {
            Some(behind) if behind.position > found.position => behind,
            _ => found,
        };
        let Beginning { position: start, timeline } = beginning;
        self.observer.event(Event::Note {
            text: format!("receiving WAL from {start} on timeline {timeline} of {}", connection.endpoint()),
        });
        let options = StreamOptions {
            slot,
            segment_size: self.archive.segment_size(),
            status_every: Some(STATUS_EVERY),
            reports_flush: true,
            synchronous: self.request.is_synchronous,
        };
        let mut sink = SpoolSink::new(self.spool, self.shared, &self.archive, &self.record, self.observer);
        let mut end = ReceiveEnd::Stopped;
        let mut stop = |progress: pgkeep_physical::wal_receive::Progress| {
            gaps.look();
            report.position = Some(progress.position);
            report.timeline = Some(progress.timeline);
            if self.request.until.is_some_and(|until| progress.position >= until) {
                end = ReceiveEnd::Reached;
                return true;
            }
            self.cancel.is_cancelled() || self.shared.has_failed()
        };
        match follow(&mut connection, &options, start, timeline, &mut sink, &mut stop) {
            Ok(_) => Ok(SessionEnd::Done(end)),
            Err(StreamError::Start(error) | StreamError::Broken(error)) => {
                self.judge_server_error(error, beginning)
            }
            Err(StreamError::History(error)) => Err(error.into()),
            Err(StreamError::Unfit(why)) => {
                Err(Error::new(ErrorKind::Connect, "the WAL stream makes no sense")
                    .cause(why)
                    .hint("look at the server's log, and for proxies between"))
            }
            Err(StreamError::ServerEnded(at)) => {
                Err(Error::new(ErrorKind::Connect, "the server ended the stream")
                    .cause(format!("it shut down, after WAL up to {at}"))
                    .hint("start it, or let the connection string name all its hosts"))
            }
            Err(StreamError::Sink(error)) => Err(error),
        }
    }

    /// What an error of the server means.
    fn judge_server_error(&self, error: WireError, beginning: Beginning) -> Result<SessionEnd> {
        let code = error.sqlstate().map(str::to_owned);
        match (code.as_deref(), &self.request.slot) {
            // undefined_file
            (Some("58P01"), _) => {
                let position = self.shared.received().max(beginning.position);
                Ok(SessionEnd::WalRemoved(Beginning { position, ..beginning }))
            }
            // object_not_in_prerequisite_state: the slot was invalidated, its WAL was too much or too old.
            (Some("55000"), Some(slot)) if self.request.create_slot => {
                self.observer.event(Event::Warning {
                    text: format!("the slot `{slot}` was lost ({error}); it is made anew"),
                    hint: Some("`max_slot_wal_keep_size` of the server was too small for the time that the receiver was away".to_owned()),
                });
                let mut connection = self.connect()?;
                connection.drop_slot(slot)?;
                make_slot(&mut connection, slot)?;
                Ok(SessionEnd::SlotMadeAnew)
            }
            (Some("55000"), Some(slot)) => {
                Err(Error::new(ErrorKind::WalGap, format!("the slot `{slot}` was lost")).caused_by(&error).hint(
                    "`--create-slot` makes it anew; WAL that is gone meanwhile is then recorded as a gap: take a backup",
                ))
            }
            // undefined_object
            (Some("42704"), Some(slot)) => {
                Err(Error::new(ErrorKind::NotFound, format!("the server has no slot `{slot}`"))
                    .hint("`--create-slot` makes it"))
            }
            // object_in_use: a session that was killed is there for a while.
            (Some("55006"), Some(slot)) => {
                Err(Error::new(ErrorKind::Connect, format!("the slot `{slot}` is in use")).caused_by(&error).hint(
                    "another receiver may run: each needs a slot of its own; a session that was cut off ends after `wal_sender_timeout`",
                ))
            }
            // What has no code of its own: a position ahead of the server (a standby that lags), or off its history.
            (Some("XX000"), _) => Err(Error::new(
                ErrorKind::Connect,
                format!("the server does not stream WAL from {} on", beginning.position),
            )
            .caused_by(&error)
            .hint("it may be behind what is stored here: a standby that lags catches up; an old copy never does")),
            _ => Err(error.into()),
        }
    }

    fn check_cluster(&self, system_identifier: u64, connection: &mut Connection) -> Result<()> {
        if system_identifier != self.record.system_identifier {
            return Err(Error::new(
                ErrorKind::Mismatch,
                "the server is another cluster than that of the stanza",
            )
            .cause(format!(
                "its system identifier is {system_identifier}, that of `{}` is {}",
                self.stanza.name(),
                self.record.system_identifier
            ))
            .hint("correct the connection, or `--stanza`; `pgkeep init` makes a new stanza"));
        }
        let size = connection.wal_segment_size()?;
        if size != self.archive.segment_size() {
            return Err(Error::new(ErrorKind::Mismatch, "the server's WAL segments have another size")
                .cause(format!(
                    "{} bytes, {} in the stanza",
                    size.bytes(),
                    self.archive.segment_size().bytes()
                ))
                .hint("`pgkeep init` a new stanza"));
        }
        Ok(())
    }

    /// Records that WAL from `wanted` on is lost, and says where to go on.
    fn behind_gap(&self, wanted: Beginning, gaps: &mut GapKeeper<'_>) -> Result<Beginning> {
        let mut connection = self.connect()?;
        let identity = connection.identify_system()?;
        let next = begin::oldest(
            &mut connection,
            &identity,
            self.archive.segment_size(),
            self.request.slot.as_deref(),
        )?;
        gaps.record(wanted, next, self.archive.segment_size())?;
        Ok(next)
    }
}

fn make_slot(connection: &mut Connection, slot: &str) -> Result<()> {
    match connection.create_physical_slot(slot, false, true) {
        // duplicate_object
        Err(error) if error.sqlstate() == Some("42710") => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// Whether it may go away by itself.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Connect | ErrorKind::Storage | ErrorKind::Space | ErrorKind::Timeout)
}
