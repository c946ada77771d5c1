//! The WAL that makes a backup consistent, streamed into the repository while the backup runs.
//!
//! A temporary slot is reserved before the backup begins, so that the server cannot remove what is needed. Whole segments
//! go to the stanza's archive under their own names, exactly as `wal push` would store them: both ways agree byte for
//! byte, and an archiver that is set up later finds its duplicates accepted. The unfinished last segment of a standby
//! (which cannot switch) is handed back and kept with the backup. If the stream breaks, the backup fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_physical::wal_receive::{
    Progress, StreamError, StreamOptions, TimelineEnd, WalSink, stream_timeline,
};
use pgkeep_repo::{ClusterRecord, Compression, WalArchive};
use pgkeep_wire::Connection;

use crate::ConnectionRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::wal::put_segment;

/// How often the server is told what is stored; it ends a silent connection after `wal_sender_timeout` (60 s by default).
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How long the stream may bring nothing while it must before it counts as broken.
const SILENCE: Duration = Duration::from_secs(120);

/// A replication session whose slot keeps WAL for the backup that is about to begin.
#[derive(Debug)]
pub struct PreparedReceiver {
    connection: Connection,
    slot: String,
}

/// What was received.
#[derive(Debug)]
pub struct Received {
    /// The last segment, whole or not.
    pub last: WalSegmentName,
    /// The beginning of the last segment, where it is not whole.
    pub tail: Option<Vec<u8>>,
}

/// The receiving thread.
#[derive(Debug)]
pub struct RunningReceiver {
    thread: Option<JoinHandle<Result<Received>>>,
    stop_at: Arc<AtomicU64>,
    give_up: Arc<AtomicBool>,
}

/// What the thread works with.
struct Reception {
    archive: WalArchive,
    record: ClusterRecord,
    compression: Compression,
    timeline: TimelineId,
    segment_size: WalSegmentSize,
    stop_at: Arc<AtomicU64>,
    give_up: Arc<AtomicBool>,
    standby: bool,
}

impl PreparedReceiver {
    /// Connects and reserves WAL from the last checkpoint on.
    pub fn prepare(connection: &ConnectionRequest, name: &str) -> Result<PreparedReceiver> {
        let mut connection = connection.connect_replication()?;
        // A standby of 14 does not know its timeline before it was asked for it, and refuses to stream.
        connection.identify_system()?;
        let slot = format!("pgkeep_{name}").to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        connection.create_physical_slot(&slot, true, true)?;
        Ok(PreparedReceiver { connection, slot })
    }

    /// Gets the history file of the timeline, which restores need to find the way.
    pub fn timeline_history(&mut self, timeline: TimelineId) -> Result<Option<(String, Vec<u8>)>> {
        if timeline == TimelineId::FIRST {
            return Ok(None);
        }
        Ok(self.connection.timeline_history(timeline)?)
    }

    /// Streams from the segment that holds `start`.
    pub fn start(
        self,
        archive: WalArchive,
        record: ClusterRecord,
        compression: Compression,
        start: Lsn,
        timeline: TimelineId,
        standby: bool,
    ) -> Result<RunningReceiver> {
        let segment_size = archive.segment_size();
        let stop_at = Arc::new(AtomicU64::new(0));
        let give_up = Arc::new(AtomicBool::new(false));
        let reception = Reception {
            archive,
            record,
            compression,
            timeline,
            segment_size,
            stop_at: Arc::clone(&stop_at),
            give_up: Arc::clone(&give_up),
            standby,
        };
        let thread = std::thread::Builder::new()
            .name("wal-receive".into())
            .spawn(move || reception.run(self, segment_size.segment_at(start)))
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot start a thread").caused_by(&error))?;
        Ok(RunningReceiver { thread: Some(thread), stop_at, give_up })
    }
}

impl RunningReceiver {
    /// Whether the thread has ended already, which before [`finish`](Self::finish) means that it failed.
    pub fn has_failed(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until all WAL before `stop` is in the repository.
    pub fn finish(mut self, stop: Lsn) -> Result<Received> {
        self.stop_at.store(stop.0, Ordering::SeqCst);
        self.join()
    }

    /// Ends the thread early; answers why it had ended by itself, if it had.
    pub fn abandon(mut self) -> Option<Error> {
        self.give_up.store(true, Ordering::SeqCst);
        self.join().err().filter(|error| error.kind != ErrorKind::Interrupted)
    }

    fn join(&mut self) -> Result<Received> {
        let Some(thread) = self.thread.take() else {
            return Err(Error::new(ErrorKind::Internal, "the WAL receiver was joined twice"));
        };
        thread.join().unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the WAL receiver panicked")
                .hint("this is a defect: report it"))
        })
    }
}

impl Drop for RunningReceiver {
    fn drop(&mut self) {
        self.give_up.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Only reached when the backup failed already: its error is the one to show.
            drop(thread.join());
        }
    }
}

impl Reception {
    fn run(self, prepared: PreparedReceiver, first: SegmentNumber) -> Result<Received> {
        let PreparedReceiver { mut connection, slot } = prepared;
        let size = self.segment_size;
        let options = StreamOptions {
            slot: Some(&slot),
            segment_size: size,
            status_every: Some(REPORT_EVERY),
            reports_flush: true,
            synchronous: false,
        };
        let mut sink = ArchiveSink {
            reception: &self,
            open: WalSegmentName { timeline: self.timeline, number: first },
            bytes: Vec::new(),
        };
        let mut failure = None;
        let mut silence = Silence::default();
        let mut stop = |progress: Progress| match self.judge(progress.position, &mut silence) {
            Ok(is_enough) => is_enough,
            Err(error) => {
                failure = Some(error);
                true
            }
        };
        let start = size.start_of(first);
        let end = stream_timeline(&mut connection, &options, start, self.timeline, &mut sink, &mut stop);
        if let Some(error) = failure {
            return Err(error);
        }
        match end.map_err(failed)? {
            TimelineEnd::Stopped(position) => {
                let open = WalSegmentName::at(self.timeline, position, size);
                let stop = Lsn(self.stop_at.load(Ordering::SeqCst));
                if size.start_of(open.number) >= stop {
                    let last = WalSegmentName { number: SegmentNumber(open.number.0 - 1), ..open };
                    return Ok(Received { last, tail: None });
                }
                Ok(Received { last: open, tail: Some(sink.bytes) })
            }
            TimelineEnd::Switched { next, .. } => {
                Err(Error::new(ErrorKind::Mismatch, "the server was promoted during the backup")
                    .cause(format!("timeline {} ended, {next} began", self.timeline))
                    .hint("take the backup again"))
            }
            TimelineEnd::ServerEnded(_) => Err(broken("the server ended the stream".to_owned())),
        }
    }

    /// Whether the backup has all the WAL that it needs.
    fn judge(&self, position: Lsn, silence: &mut Silence) -> Result<bool> {
        if self.give_up.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Interrupted, "the backup was given up"));
        }
        let stop = Lsn(self.stop_at.load(Ordering::SeqCst));
        if !stop.is_valid() {
            return Ok(false);
        }
        // Later WAL than the backup needs may have begun to come: its segment is not waited for.
        // A primary switches at the end of a backup: the rest of the segment follows at once. A standby cannot.
        let size = self.segment_size;
        if size.start_of(size.segment_at(position)) >= stop || (self.standby && position >= stop) {
            return Ok(true);
        }
        if silence.lasts_for(position) > SILENCE {
            let seconds = SILENCE.as_secs();
            return Err(broken(format!("nothing came for {seconds} s, {stop} is due")));
        }
        Ok(false)
    }
}

/// Since when nothing has come. An idle server is silent for as long as the copy takes; so this counts from when it is first
/// asked, which is when something is due.
#[derive(Default)]
struct Silence(Option<(Lsn, Instant)>);

impl Silence {
    fn lasts_for(&mut self, position: Lsn) -> Duration {
        match self.0 {
            Some((seen, since)) if seen == position => since.elapsed(),
            _ => {
                self.0 = Some((position, Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// Whole segments go to the archive; the open one is only in memory.
struct ArchiveSink<'a> {
    reception: &'a Reception,
    open: WalSegmentName,
    bytes: Vec<u8>,
}

impl WalSink for ArchiveSink<'_> {
    type Error = Error;

    /// The backup takes care of its timeline's history itself.
    fn has_history(&mut self, _: TimelineId) -> Result<bool> {
        Ok(true)
    }

    fn put_history(&mut self, _: TimelineId, _: &str, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, segment: WalSegmentName) -> Result<()> {
        self.open = segment;
        self.bytes.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn complete(&mut self) -> Result<()> {
        let Reception { archive, record, compression, .. } = self.reception;
        put_segment(archive, record, self.open, &self.bytes, *compression)?;
        self.bytes.clear();
        self.open.number = self.open.number.next();
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self, _: Lsn) -> Result<Lsn> {
        Ok(self.reception.segment_size.start_of(self.open.number))
    }
}

fn failed(error: StreamError<Error>) -> Error {
    match error {
        StreamError::Start(error) | StreamError::History(error) | StreamError::Broken(error) => error.into(),
        StreamError::Unfit(why) => broken(why),
        StreamError::ServerEnded(_) => broken("the server ended the stream".to_owned()),
        StreamError::Sink(error) => error,
    }
}

fn broken(why: String) -> Error {
    Error::new(ErrorKind::Connect, "the WAL stream that belongs to the backup broke off")
        .cause(why)
        .hint("look at the server's log, then take the backup again")
}
