//! What can be asked of a backup, and what it answers. Plain data: the report is what `--json` prints.

use std::collections::BTreeMap;

use pgkeep_format::{Lsn, TimelineId};
use pgkeep_repo::{BackupKind, Compression};

use crate::{ConnectionRequest, Location};

/// How much is read and written, as asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum TypeChoice {
    /// Incremental where there is a backup to build on, full otherwise.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// All of it.
    #[serde(rename = "full")]
    Full,
    /// What changed since the last full backup.
    #[serde(rename = "diff")]
    Differential,
    /// What changed since the newest backup.
    #[serde(rename = "incr")]
    Incremental,
}

/// How much was read and written. Every backup is complete, whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum BackupType {
    /// All of it.
    #[serde(rename = "full")]
    Full,
    /// What changed since the last full backup.
    #[serde(rename = "diff")]
    Differential,
    /// What changed since another backup.
    #[serde(rename = "incr")]
    Incremental,
}

impl BackupType {
    /// The name that users know: `full`, `diff`, `incr`.
    pub const fn name(self) -> &'static str {
        match self {
            BackupType::Full => "full",
            BackupType::Differential => "diff",
            BackupType::Incremental => "incr",
        }
    }
}

impl From<BackupKind> for BackupType {
    fn from(kind: BackupKind) -> BackupType {
        match kind {
            BackupKind::Full => BackupType::Full,
            BackupKind::Differential => BackupType::Differential,
            BackupKind::Incremental => BackupType::Incremental,
        }
    }
}

impl From<BackupType> for BackupKind {
    fn from(kind: BackupType) -> BackupKind {
        match kind {
            BackupType::Full => BackupKind::Full,
            BackupType::Differential => BackupKind::Differential,
            BackupType::Incremental => BackupKind::Incremental,
        }
    }
}

/// How an incremental backup finds what changed, as asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangesChoice {
    /// What is proved safe and costs least.
    #[default]
    Auto,
    /// Every block is read, and its digest compared with the parent's.
    Compare,
    /// The block summaries of the archived WAL say what is to be read.
    Wal,
    /// The server sends what changed (17 and later, `--source stream`).
    Server,
}

/// How an incremental backup found what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangesFrom {
    /// Every block was read, and its digest compared with the parent's.
    Compare,
    /// The block summaries of the archived WAL said what was to be read.
    Wal,
    /// The server sent what changed.
    Server,
}

/// Where the bytes come from, as asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceChoice {
    /// The data directory when it is readable here and is this very cluster, the replication protocol otherwise.
    #[default]
    Auto,
    /// The data directory.
    Local,
    /// The replication protocol.
    Stream,
}

/// Where the bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The data directory.
    Local,
    /// The replication protocol.
    Stream,
    /// A base backup that another program made, imported.
    Import,
}

/// Where the WAL that makes the backup consistent comes from, as asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalChoice {
    /// The archiver when it feeds this repository, a stream during the backup otherwise.
    #[default]
    Auto,
    /// Wait for the archiver.
    Archive,
    /// Stream it while the backup runs.
    Include,
}

/// Where the WAL came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalMode {
    /// The archiver.
    Archive,
    /// A stream during the backup.
    Include,
}

/// How the server makes its first checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checkpoint {
    /// At once.
    #[default]
    Fast,
    /// At the pace of `checkpoint_completion_target`.
    Spread,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Where to.
    pub location: Location,
    /// The server.
    pub connection: ConnectionRequest,
    /// How much to read.
    pub kind: TypeChoice,
    /// How to find what changed.
    pub changes: ChangesChoice,
    /// Where from.
    pub source: SourceChoice,
    /// Worker threads; at least one.
    pub jobs: usize,
    /// Codec and level of the frames.
    pub compression: Compression,
    /// Where the WAL comes from.
    pub wal: WalChoice,
    /// How the checkpoint is made.
    pub checkpoint: Checkpoint,
    /// The user's notes, kept in the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Seconds to wait for the archiver before giving up.
    pub archive_timeout_seconds: u64,
    /// Close packs at another size than 256 MiB. For tests: small clusters then fill many packs.
    pub pack_bytes: Option<u64>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Bad pages of one file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BadPages {
    /// The file, relative to the data directory.
    pub path: String,
    /// Blocks within the file, in order; the first thousand.
    pub blocks: Vec<u32>,
    /// How many there are in all.
    pub total: u64,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BackupReport {
    /// The backup; none on a dry run.
    pub id: Option<String>,
    /// How much was read and written.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// The backup that it builds on; none for a full one. It is not needed for a restore.
    pub parent: Option<String>,
    /// Why that type and that parent.
    pub type_reason: String,
    /// How it was found what changed; none for a full backup.
    pub changes: Option<ChangesFrom>,
    /// Why in that way.
    pub changes_reason: String,
    /// Where the bytes came from.
    pub source: SourceKind,
    /// Why that source.
    pub source_reason: String,
    /// Where the WAL came from.
    pub wal: WalMode,
    /// Why.
    pub wal_reason: String,
    /// Started, RFC 3339 UTC.
    pub started: String,
    /// Finished, RFC 3339 UTC.
    pub finished: Option<String>,
    /// Where replay starts.
    pub start_lsn: Option<Lsn>,
    /// Where the backup becomes consistent.
    pub stop_lsn: Option<Lsn>,
    /// The timeline at the end.
    pub timeline: Option<TimelineId>,
    /// Files stored.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes that were read from the cluster.
    pub read_bytes: u64,
    /// Bytes of blocks that are new in the repository, before compression.
    pub new_bytes: u64,
    /// Those of them that an interrupted backup had stored: they were compared and copied, not compressed again.
    pub reused_bytes: u64,
    /// Files that are exactly the parent's.
    pub unchanged_files: u64,
    /// Bytes that this backup added to the repository.
    pub stored_bytes: u64,
    /// Files that went away while the backup ran, which PostgreSQL allows.
    pub vanished_files: u64,
    /// Whether page checksums were verified.
    pub checksums_verified: bool,
    /// Pages whose checksum is wrong.
    pub bad_pages: Vec<BadPages>,
}
