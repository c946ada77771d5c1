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
use pgkeep_repo::{ClusterRecord, Compression, WalArchive};
use pgkeep_wire::{Connection, WalEvent};

use crate::ConnectionRequest;
use crate::error::{Error, ErrorKind, Result};
use crate::wal::put_segment;

/// How long to wait for the server between two looks at whether the backup was given up.
const LOOK: Duration = Duration::from_millis(200);
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
        let name = |number| WalSegmentName { timeline: self.timeline, number };
        let mut stream = connection.start_replication(Some(&slot), size.start_of(first), self.timeline)?;
        let mut number = first;
        let mut segment: Vec<u8> = Vec::new();
        let mut reported = Instant::now();
        let mut last_data = Instant::now();
        // An idle server is silent for as long as the copy takes; only from the stop on is something due.
        let mut due_since = None;
        loop {
            if self.give_up.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Interrupted, "the backup was given up"));
            }
            let stop = Lsn(self.stop_at.load(Ordering::SeqCst));
            let position = size.start_of(number).saturating_add(segment.len() as u64);
            if stop.is_valid() {
                // Later WAL than the backup needs may have begun to come: its segment is not waited for.
                if size.start_of(number) >= stop {
                    return Ok(Received { last: name(SegmentNumber(number.0 - 1)), tail: None });
                }
                // A primary switches at the end of a backup: the rest of the segment follows at once. A standby cannot.
                if self.standby && position >= stop {
                    return Ok(Received { last: name(number), tail: Some(segment) });
                }
            }
            let mut reply = reported.elapsed() >= REPORT_EVERY;
            match stream.next(Some(LOOK))? {
                WalEvent::Data { start, mut bytes } => {
                    last_data = Instant::now();
                    if start != position {
                        return Err(broken(format!("the server sent {start} where {position} was due")));
                    }
                    while !bytes.is_empty() {
                        let room = size.bytes() as usize - segment.len();
                        let (now, later) = bytes.split_at(room.min(bytes.len()));
                        segment.extend_from_slice(now);
                        bytes = later;
                        if segment.len() as u64 == size.bytes() {
                            put_segment(
                                &self.archive,
                                &self.record,
                                name(number),
                                &segment,
                                self.compression,
                            )?;
                            segment.clear();
                            number = number.next();
                            reply = true;
                        }
                    }
                }
                WalEvent::Keepalive { reply_requested, .. } => reply |= reply_requested,
                WalEvent::Timeout => {
                    if stop.is_valid() {
                        let due = *due_since.get_or_insert_with(Instant::now);
                        if last_data.max(due).elapsed() > SILENCE {
                            let silence = SILENCE.as_secs();
                            return Err(broken(format!("nothing came for {silence} s, {stop} is due")));
                        }
                    }
                }
                WalEvent::EndOfTimeline { next, .. } => {
                    return Err(Error::new(ErrorKind::Mismatch, "the server was promoted during the backup")
                        .cause(format!("timeline {} ended, {next} began", self.timeline))
                        .hint("take the backup again"));
                }
                WalEvent::EndOfStream => return Err(broken("the server ended the stream".to_owned())),
            }
            if reply {
                // Whole segments are durable; the open one is only in memory.
                let stored = size.start_of(number);
                let written = stored.saturating_add(segment.len() as u64);
                stream.send_status(written, stored, Lsn::INVALID, false)?;
                reported = Instant::now();
            }
        }
    }
}

fn broken(why: String) -> Error {
    Error::new(ErrorKind::Connect, "the WAL stream that belongs to the backup broke off")
        .cause(why)
        .hint("look at the server's log, then take the backup again")
}
