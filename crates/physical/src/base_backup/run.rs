//! A base backup from its beginning to its end.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgkeep_format::archive::Compression;
use pgkeep_format::{Lsn, TimelineId, WalSegmentSize};
use pgkeep_tool::compress::Codec;
use pgkeep_tool::server_text::server_words;
use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::{BaseBackupOptions, CancelHandle, ConnInfo, Connection, TablespaceInfo, WireError};

use super::directory::{Directories, Purpose};
use super::observer::Observer;
use super::receive::{MANIFEST, Output, Receiving, UNFINISHED_MANIFEST, tell_notices};
use super::recovery;
use super::request::{Destination, Request, WalMethod};
use super::sync::{sync_path, sync_tree};
use super::tablespaces::{Places, places};
use super::wal::{Signals, WalPlace, WalStart, WalStreaming};
use crate::output_files::{Modes, rename_file};

/// The oldest server that can be copied.
const OLDEST_MAJOR: u32 = 13;
/// How often a running backup looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// The class of errors for damaged data: pages with wrong checksums.
const DATA_CORRUPTED: &str = "XX001";

/// A base backup that is being made.
#[derive(Debug)]
pub struct BaseBackup {
    directories: Directories,
    /// All is there, but the server found wrong checksums.
    is_kept: bool,
    clean: bool,
}

/// What is known of the server.
#[derive(Debug, Clone, Copy)]
struct Server {
    major: u32,
    modes: Modes,
    segment_size: WalSegmentSize,
    system_identifier: u64,
}

impl BaseBackup {
    /// Before anything is done.
    #[must_use]
    pub fn new(request: &Request) -> BaseBackup {
        BaseBackup { directories: Directories::default(), is_kept: false, clean: request.clean }
    }

    /// Makes it, until `cancelled`. `connection` is a replication session made from `info`, of which another one is made for
    /// streamed WAL.
    ///
    /// # Errors
    /// When the server, a connection or the file system fails, or it was cancelled: then [`BaseBackup::clean_up`] is due.
    pub fn run(
        &mut self,
        request: Request,
        info: &ConnInfo,
        mut connection: Connection,
        cancelled: &AtomicBool,
        observer: &dyn Observer,
    ) -> Result<()> {
        let outcome = self.make(request, info, &mut connection, cancelled, observer);
        tell_notices(&mut connection.take_notices(), observer);
        outcome
    }

    /// Takes back what a failed run has made.
    pub fn clean_up(self, observer: &dyn Observer) {
        if !self.is_kept {
            self.directories.undo(self.clean, observer);
        }
    }

    fn make(
        &mut self,
        mut request: Request,
        info: &ConnInfo,
        connection: &mut Connection,
        cancelled: &AtomicBool,
        observer: &dyn Observer,
    ) -> Result<()> {
        check_version(&request, connection.server_major())?;
        let server = facts(connection)?;
        observer.group_access(server.modes.directory & 0o050 != 0);
        self.prepare_destination(&request.destination, server.modes)?;
        let standby = request.recovery.as_ref().map(|recovery| {
            recovery::settings(info, recovery.database.as_deref(), request.slot.given_name())
        });
        if let Some(manifest) = &request.incremental_from {
            upload(connection, manifest)?;
        }

        let signals = Signals::new(cancelled);
        let handle = connection.cancel_handle();
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&signals, &handle));
            let mut wal_handle = None;
            let outcome = (|| {
                observer.info("initiating base backup, waiting for checkpoint to complete");
                observer.waiting_for_checkpoint();
                let options = options(&request);
                let mut backup = connection.base_backup(&options).map_err(|error| {
                    signals.failure().unwrap_or_else(|| {
                        ToolError::new(format!("could not initiate base backup: {}", server_words(&error)))
                    })
                })?;
                observer.info("checkpoint completed");
                tell_notices(&mut backup.take_notices(), observer);
                let (start, timeline) = (backup.start, backup.timeline);
                if request.wal != WalMethod::None {
                    observer.info(&format!("write-ahead log start point: {start} on timeline {timeline}"));
                }
                let wal = wal_place(&request);
                let output =
                    self.prepare_output(&mut request.destination, &backup.tablespaces, server.modes)?;
                let streaming = match wal {
                    Some(place) => {
                        observer.info("starting background WAL receiver");
                        let at = wal_start(server, start, timeline);
                        let streaming = WalStreaming::prepare(
                            info,
                            at,
                            place,
                            &request.slot,
                            request.status_every,
                            observer,
                        )?;
                        wal_handle = Some(streaming.cancel_handle());
                        Some(scope.spawn(|| streaming.run(&signals, observer)))
                    }
                    None => None,
                };
                let receiving = Receiving {
                    output,
                    standby,
                    has_manifest: request.manifest.is_some(),
                    modes: server.modes,
                    is_old_server: server.major < 15,
                    observer,
                };
                let progress = receiving.run(&mut backup, &signals)?;
                observer.progress(&progress);
                let (end, _) = backup.finish().map_err(|error| self.failed_at_end(&error, &signals))?;
                if request.wal != WalMethod::None {
                    observer.info(&format!("write-ahead log end point: {end}"));
                }
                if let Some(thread) = streaming {
                    observer.info("waiting for background process to finish streaming ...");
                    signals.wal_end.store(end.0, Ordering::Relaxed);
                    let ended = thread.join().unwrap_or_else(|_| Err(ToolError::new("WAL thread crashed")));
                    ended.map_err(|_| {
                        signals
                            .failure()
                            .unwrap_or_else(|| ToolError::new("child process exited with error 1"))
                    })?;
                }
                signals.failure().map_or(Ok(()), Err)
            })();
            // Ends the other threads.
            signals.given_up.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            if let (Err(_), Some(handle)) = (&outcome, wal_handle) {
                handle.shutdown();
            }
            outcome
        })?;
        self.make_durable(&request, observer)?;
        observer.info("base backup completed");
        Ok(())
    }

    /// Makes the directories that must not wait for the server.
    fn prepare_destination(&mut self, destination: &Destination, modes: Modes) -> Result<()> {
        match destination {
            Destination::Plain { directory, wal_directory, .. } => {
                self.directories.prepare(directory, Purpose::Data, modes)?;
                let Some(wal) = wal_directory else { return Ok(()) };
                self.directories.prepare(wal, Purpose::Wal, modes)?;
                let link = directory.join("pg_wal");
                symlink(wal, &link)
                    .map_err(|error| ToolError::could_not("create symbolic link", link.display(), &error))
            }
            Destination::Tar { directory, .. } => self.directories.prepare(directory, Purpose::Data, modes),
            Destination::Stream { .. } | Destination::Server { .. } => Ok(()),
        }
    }

    /// Makes the directories of tablespaces, and says where archives go.
    fn prepare_output(
        &mut self,
        destination: &mut Destination,
        tablespaces: &[TablespaceInfo],
        modes: Modes,
    ) -> Result<Output> {
        Ok(match destination {
            Destination::Plain { directory, wal_directory, mappings } => {
                let places: Places = places(tablespaces, directory, mappings)?;
                for place in places.values() {
                    self.directories.prepare(&place.here, Purpose::Tablespace, modes)?;
                }
                Output::Plain { directory: directory.clone(), wal_directory: wal_directory.clone(), places }
            }
            Destination::Tar { directory, codec, threads } => {
                Output::Tar { directory: directory.clone(), codec: *codec, threads: *threads }
            }
            Destination::Stream { output, codec, threads } => {
                if tablespaces.len() > 1 {
                    return Err(ToolError::new(format!(
                        "can only write single tablespace to stdout, database has {}",
                        tablespaces.len()
                    )));
                }
                let output = std::mem::replace(output, Box::new(std::io::sink()));
                Output::Stream { output: Some(output), codec: *codec, threads: *threads }
            }
            Destination::Server { .. } => Output::Nowhere,
        })
    }

    /// All data is there; what the server says then is about its checksums, mostly.
    fn failed_at_end(&mut self, error: &WireError, signals: &Signals<'_>) -> ToolError {
        if error.sqlstate() == Some(DATA_CORRUPTED) {
            // What was copied may be all that is left of the data.
            self.is_kept = true;
            return ToolError::new("checksum error occurred");
        }
        signals.failure().unwrap_or_else(|| ToolError::new(format!("backup failed: {}", server_words(error))))
    }

    /// Flushes everything; then the manifest gets its name.
    fn make_durable(&self, request: &Request, observer: &dyn Observer) -> Result<()> {
        let Some(directory) = directory_of(&request.destination) else { return Ok(()) };
        if let Some(method) = request.sync {
            observer.info("syncing data to disk ...");
            for path in self.directories.paths() {
                sync_tree(path, method)?;
            }
        }
        if request.manifest.is_some() {
            observer.info(&format!("renaming {UNFINISHED_MANIFEST} to {MANIFEST}"));
            let (from, to) = (directory.join(UNFINISHED_MANIFEST), directory.join(MANIFEST));
            rename_file(&from, &to)?;
            if request.sync.is_some() {
                sync_path(directory)?;
            }
        }
        Ok(())
    }
}

/// Interrupts the main session when another thread has failed or the user wants so: it may wait for long.
fn watch(signals: &Signals<'_>, handle: &CancelHandle) {
    while !signals.given_up.load(Ordering::Relaxed) {
        if signals.failure().is_some() {
            // The server ends the backup at once; whether it hears that or not, we are not bound to it.
            drop(handle.cancel());
            handle.shutdown();
            return;
        }
        std::thread::park_timeout(LOOK);
    }
}

fn check_version(request: &Request, major: u32) -> Result<()> {
    let refuse = |text: &str| Err(ToolError::new(text));
    if major < OLDEST_MAJOR {
        return Err(ToolError::new(format!("incompatible server version {major}"))
            .hint(format!("use pg_basebackup of PostgreSQL {major}")));
    }
    if request.incremental_from.is_some() && major < 17 {
        return refuse("server does not support incremental backup");
    }
    if matches!(request.destination, Destination::Server { .. }) && major < 15 {
        return refuse("backup targets are not supported by this server version");
    }
    if request.server_compression.is_some() && major < 15 {
        return refuse("server does not support server-side compression");
    }
    Ok(())
}

fn facts(connection: &mut Connection) -> Result<Server> {
    let refused = |command: &str, error: &WireError| {
        ToolError::new(format!("could not send replication command \"{command}\": {}", server_words(error)))
    };
    let shown = connection
        .show("data_directory_mode")
        .map_err(|error| refused("SHOW data_directory_mode", &error))?;
    let group_access = u32::from_str_radix(&shown, 8).is_ok_and(|mode| mode & 0o050 == 0o050);
    let segment_size =
        connection.wal_segment_size().map_err(|error| refused("SHOW wal_segment_size", &error))?;
    let identity = connection.identify_system().map_err(|error| refused("IDENTIFY_SYSTEM", &error))?;
    Ok(Server {
        major: connection.server_major(),
        modes: Modes::new(group_access),
        segment_size,
        system_identifier: identity.system_identifier,
    })
}

/// Sends the manifest of an earlier backup.
fn upload(connection: &mut Connection, path: &Path) -> Result<()> {
    let unreadable = |what: &str, error: &std::io::Error| {
        ToolError::could_not(&format!("{what} file"), path.display(), error)
    };
    let mut file = File::open(path).map_err(|error| unreadable("open", &error))?;
    let refused =
        |error: &WireError| ToolError::new(format!("could not upload manifest: {}", server_words(error)));
    let mut copy = connection.upload_manifest().map_err(|error| refused(&error))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer).map_err(|error| unreadable("read", &error))?;
        if read == 0 {
            break;
        }
        copy.write(buffer.get(..read).unwrap_or_default()).map_err(|error| refused(&error))?;
    }
    copy.finish().map_err(|error| refused(&error))
}

fn options(request: &Request) -> BaseBackupOptions {
    BaseBackupOptions {
        label: request.label.clone(),
        fast: request.fast_checkpoint,
        progress: request.estimate_size,
        tablespace_map: !matches!(request.destination, Destination::Plain { .. }),
        max_rate_kib: request.max_rate_kib,
        verify_checksums: request.verify_checksums,
        wal: request.wal == WalMethod::Fetch,
        // WAL that is in the backup need not be archived for its sake.
        waits_for_archive: request.wal == WalMethod::None,
        manifest: request.manifest.is_some(),
        manifest_force_encode: request.manifest.as_ref().is_some_and(|manifest| manifest.force_encode),
        manifest_checksums: request.manifest.as_ref().and_then(|manifest| manifest.checksums.clone()),
        incremental: request.incremental_from.is_some(),
        compression: request.server_compression.clone(),
        target: match &request.destination {
            Destination::Server { kind, detail } => Some((kind.clone(), detail.clone())),
            _ => None,
        },
    }
}

fn wal_start(server: Server, start: Lsn, timeline: TimelineId) -> WalStart {
    WalStart {
        system_identifier: server.system_identifier,
        start,
        timeline,
        segment_size: server.segment_size,
        modes: server.modes,
    }
}

fn wal_place(request: &Request) -> Option<WalPlace> {
    if request.wal != WalMethod::Stream {
        return None;
    }
    match &request.destination {
        Destination::Plain { directory, .. } => Some(WalPlace::Plain(directory.clone())),
        Destination::Tar { directory, codec, .. } => {
            // As stock does: whoever unpacks it knows which name to look for.
            let codec = if codec.compression == Compression::Gzip { *codec } else { Codec::default() };
            Some(WalPlace::Tar(directory.clone(), codec))
        }
        Destination::Stream { .. } | Destination::Server { .. } => None,
    }
}

fn directory_of(destination: &Destination) -> Option<&PathBuf> {
    match destination {
        Destination::Plain { directory, .. } | Destination::Tar { directory, .. } => Some(directory),
        Destination::Stream { .. } | Destination::Server { .. } => None,
    }
}
