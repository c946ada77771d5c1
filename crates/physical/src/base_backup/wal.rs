//! WAL over a second connection, while the backup runs.

use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pgkeep_format::{Lsn, TimelineId, WalSegmentSize};
use pgkeep_tool::compress::Codec;
use pgkeep_tool::server_text::server_words;
use pgkeep_tool::{Reporter, Result, ToolError};
use pgkeep_wire::{CancelHandle, ConnInfo, Connection, SessionMode, WireError};

use super::directory::make;
use super::request::Slot;
use crate::output_files::Modes;
use crate::wal_receive::{DirectoryOptions, DirectorySink, StreamOptions, TarSink, WalSink, follow};

/// What the threads of a backup tell each other.
#[derive(Debug)]
pub(super) struct Signals<'a> {
    /// The user wants it to end.
    pub(super) cancelled: &'a AtomicBool,
    /// The backup has failed.
    pub(super) given_up: AtomicBool,
    /// The stream has ended too early.
    pub(super) wal_lost: AtomicBool,
    /// The end of the WAL that is needed; `u64::MAX` until it is known.
    pub(super) wal_end: AtomicU64,
}

impl<'a> Signals<'a> {
    pub(super) fn new(cancelled: &'a AtomicBool) -> Signals<'a> {
        Signals {
            cancelled,
            given_up: AtomicBool::new(false),
            wal_lost: AtomicBool::new(false),
            wal_end: AtomicU64::new(u64::MAX),
        }
    }

    /// Why the backup is to end, if it is.
    pub(super) fn failure(&self) -> Option<ToolError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Some(ToolError::new("canceled by a signal"));
        }
        let is_lost = self.wal_lost.load(Ordering::Relaxed);
        is_lost.then(|| ToolError::new("background process terminated unexpectedly"))
    }
}

/// Where WAL goes.
#[derive(Debug, Clone)]
pub(super) enum WalPlace {
    /// Segments in `pg_wal` of this data directory.
    Plain(PathBuf),
    /// `pg_wal.tar` in this directory.
    Tar(PathBuf, Codec),
}

/// A stream that is about to begin.
#[derive(Debug)]
pub(super) struct WalStreaming {
    connection: Connection,
    start: Lsn,
    timeline: TimelineId,
    segment_size: WalSegmentSize,
    place: WalPlace,
    slot: Option<String>,
    status_every: Option<Duration>,
    modes: Modes,
}

/// What of a backup its stream has to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalStart {
    pub(super) system_identifier: u64,
    pub(super) start: Lsn,
    pub(super) timeline: TimelineId,
    pub(super) segment_size: WalSegmentSize,
    pub(super) modes: Modes,
}

impl WalStreaming {
    /// Connects, and makes the slot.
    pub(super) fn prepare(
        info: &ConnInfo,
        at: WalStart,
        place: WalPlace,
        slot: &Slot,
        status_every: Option<Duration>,
        reporter: &dyn Reporter,
    ) -> Result<WalStreaming> {
        let mut connection = pgkeep_tool::connect(info, SessionMode::PhysicalReplication)?;
        let identity = connection.identify_system().map_err(|error| refused("IDENTIFY_SYSTEM", &error))?;
        if identity.system_identifier != at.system_identifier {
            return Err(ToolError::new(
                "system identifier does not match between base backup and streaming connection",
            ));
        }
        let name = match slot {
            Slot::None => None,
            Slot::Temporary => Some(format!("pg_basebackup_{}", connection.server_process_id())),
            Slot::Existing(name) | Slot::Created(name) => Some(name.clone()),
        };
        if let (Slot::Temporary | Slot::Created(_), Some(name)) = (slot, &name) {
            let is_temporary = *slot == Slot::Temporary;
            connection
                .create_physical_slot(name, is_temporary, true)
                .map_err(|error| refused("CREATE_REPLICATION_SLOT", &error))?;
            let kind = if is_temporary { "temporary replication slot" } else { "replication slot" };
            reporter.info(&format!("created {kind} \"{name}\""));
        }
        if let WalPlace::Plain(directory) = &place {
            let wal = directory.join("pg_wal");
            if !wal.exists() {
                make(&wal, at.modes.directory)?;
            }
            make(&wal.join("archive_status"), at.modes.directory)?;
            if connection.server_major() >= 17 {
                make(&wal.join("summaries"), at.modes.directory)?;
            }
        }
        let size = at.segment_size;
        Ok(WalStreaming {
            connection,
            start: size.start_of(size.segment_at(at.start)),
            timeline: at.timeline,
            segment_size: size,
            place,
            slot: name,
            status_every,
            modes: at.modes,
        })
    }

    /// What interrupts the stream.
    pub(super) fn cancel_handle(&self) -> CancelHandle {
        self.connection.cancel_handle()
    }

    /// Streams until the end is known and reached, or the backup has failed. What fails is told, too.
    pub(super) fn run(mut self, signals: &Signals<'_>, reporter: &dyn Reporter) -> Result<()> {
        let outcome = match self.place.clone() {
            WalPlace::Plain(directory) => self.write_directory(&directory.join("pg_wal"), signals, reporter),
            WalPlace::Tar(directory, codec) => self.write_archive(&directory, codec, signals),
        };
        if let Err(error) = &outcome
            && !signals.given_up.load(Ordering::Relaxed)
        {
            reporter.error(&error.message);
            signals.wal_lost.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn write_directory(
        &mut self,
        directory: &Path,
        signals: &Signals<'_>,
        reporter: &dyn Reporter,
    ) -> Result<()> {
        let options = DirectoryOptions {
            segment_size: self.segment_size,
            codec: Codec::default(),
            marks_partial: false,
            marks_done: true,
            // All of the backup is flushed at its end.
            is_durable: false,
            mode: self.modes.file,
        };
        self.stream(&mut DirectorySink::new(directory, options, reporter), signals)
    }

    fn write_archive(&mut self, directory: &Path, codec: Codec, signals: &Signals<'_>) -> Result<()> {
        let path = directory.join(format!("pg_wal.tar{}", codec.compression.file_suffix()));
        let file = create_new(&path, self.modes.file)?;
        let output = BufWriter::with_capacity(256 << 10, file);
        let mut sink = TarSink::new(&path, output, codec, self.segment_size, self.modes.file)?;
        self.stream(&mut sink, signals)?;
        sink.finish()?
            .into_inner()
            .map(drop)
            .map_err(|error| ToolError::could_not("write to file", path.display(), error.error()))
    }

    fn stream(&mut self, sink: &mut impl WalSink<Error = ToolError>, signals: &Signals<'_>) -> Result<()> {
        let options = StreamOptions {
            slot: self.slot.as_deref(),
            segment_size: self.segment_size,
            status_every: self.status_every,
            reports_flush: self.slot.is_some(),
            synchronous: false,
        };
        let stopped = |position: Lsn| {
            position.0 >= signals.wal_end.load(Ordering::Relaxed)
                || signals.given_up.load(Ordering::Relaxed)
                || signals.cancelled.load(Ordering::Relaxed)
        };
        follow(&mut self.connection, &options, self.start, self.timeline, sink, &mut |progress| {
            stopped(progress.position)
        })
        .map(drop)
        .map_err(ToolError::from)
    }
}

/// A file that was not there.
pub(super) fn create_new(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| ToolError::could_not("create file", path.display(), &error))
}

fn refused(command: &str, error: &WireError) -> ToolError {
    ToolError::new(format!("could not send replication command \"{command}\": {}", server_words(error)))
}
