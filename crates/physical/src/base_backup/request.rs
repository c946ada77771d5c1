//! What a base backup is asked for, fully resolved.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use pgkeep_tool::compress::Codec;

use super::mapping::TablespaceMappings;

/// How the WAL that makes the backup consistent gets into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalMethod {
    /// Not at all.
    None,
    /// The server sends it at the end.
    Fetch,
    /// Over a second connection, while the backup runs.
    Stream,
}

/// The replication slot of streamed WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// None: WAL may go away too early.
    None,
    /// One that goes with the connection.
    Temporary,
    /// One that exists.
    Existing(String),
    /// One that is made, and stays.
    Created(String),
}

impl Slot {
    /// Its name, where the user gave one.
    pub(super) fn given_name(&self) -> Option<&str> {
        match self {
            Slot::Existing(name) | Slot::Created(name) => Some(name),
            Slot::None | Slot::Temporary => None,
        }
    }
}

/// The manifest of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// All names in hexadecimal.
    pub force_encode: bool,
    /// The server's name for the checksums; its default when none.
    pub checksums: Option<String>,
}

/// How files get durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMethod {
    /// One after the other.
    Fsync,
    /// The whole file system.
    Syncfs,
}

/// Where the backup goes.
pub enum Destination {
    /// A data directory that a server can start on.
    Plain {
        /// The directory: absent or empty.
        directory: PathBuf,
        /// Where `pg_wal` leads, if it is to be a link; absolute.
        wal_directory: Option<PathBuf>,
        /// Where tablespaces go.
        mappings: TablespaceMappings,
    },
    /// An archive for each tablespace.
    Tar {
        /// The directory for them: absent or empty.
        directory: PathBuf,
        /// How they are compressed here.
        codec: Codec,
        /// With how many threads.
        threads: usize,
    },
    /// One archive into a stream, the manifest in it.
    Stream {
        /// The stream.
        output: Box<dyn Write + Send>,
        /// How it is compressed here.
        codec: Codec,
        /// With how many threads.
        threads: usize,
    },
    /// The server keeps it.
    Server {
        /// The kind of target.
        kind: String,
        /// What belongs to it.
        detail: Option<String>,
    },
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Destination::Plain { directory, .. } => f.debug_tuple("Plain").field(directory).finish(),
            Destination::Tar { directory, .. } => f.debug_tuple("Tar").field(directory).finish(),
            Destination::Stream { .. } => f.write_str("Stream"),
            Destination::Server { kind, .. } => f.debug_tuple("Server").field(kind).finish(),
        }
    }
}

/// What is asked for.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the program")]
pub struct Request {
    /// Goes into `backup_label`, as [`raw_text`](pgkeep_wire::raw_text).
    pub label: String,
    /// An immediate checkpoint.
    pub fast_checkpoint: bool,
    /// Let the server find out how much there is.
    pub estimate_size: bool,
    /// Limit in KiB/s.
    pub max_rate_kib: Option<u32>,
    /// Let the server check pages.
    pub verify_checksums: bool,
    /// None: no manifest.
    pub manifest: Option<Manifest>,
    /// The manifest of the backup that this one begins from.
    pub incremental_from: Option<PathBuf>,
    /// Where it goes.
    pub destination: Destination,
    /// Method and details, which the server reads.
    pub server_compression: Option<(String, Option<String>)>,
    /// How the WAL comes.
    pub wal: WalMethod,
    /// For streamed WAL.
    pub slot: Slot,
    /// How often the server is told where streaming is; none: when it asks.
    pub status_every: Option<Duration>,
    /// Set the copy up as a standby.
    pub recovery: Option<Recovery>,
    /// None: files are not flushed.
    pub sync: Option<SyncMethod>,
    /// Take back what was made, after a failure.
    pub clean: bool,
}

/// What goes into the settings of a standby, beside how this connection was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The database in its connection string, for slot synchronization.
    pub database: Option<String>,
}
