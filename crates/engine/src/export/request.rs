//! What can be asked of an export, and what it answers. Plain data: the report is what `--json` prints.

use std::path::PathBuf;

use pgkeep_format::pg_manifest::ChecksumAlgorithm;
use pgkeep_tool::compress::Codec;

use crate::Location;

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// A data directory, ready to be started.
    #[default]
    Plain,
    /// `base.tar` and a tar file for each tablespace.
    Tar,
}

/// Where the WAL goes without which the backup is not consistent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportWal {
    /// Into `pg_wal`, or `pg_wal.tar`: what `pg_basebackup -X stream` makes.
    #[default]
    Stream,
    /// Into `pg_wal`, or into `base.tar`: what `pg_basebackup -X fetch` makes.
    Fetch,
    /// Nowhere: the server that starts from it needs a `restore_command`.
    None,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// Where from.
    pub location: Location,
    /// Which backup: an id, the beginning of one, or `latest`.
    pub backup: String,
    /// The directory to make.
    pub destination: PathBuf,
    /// What to write.
    pub format: ExportFormat,
    /// How tar files are compressed.
    pub compression: Codec,
    /// Where the WAL goes.
    pub wal: ExportWal,
    /// Checksums of files in `backup_manifest`; none for none.
    pub checksums: Option<ChecksumAlgorithm>,
    /// Old and new places of tablespaces.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// Threads that read; at least one.
    pub jobs: usize,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ExportReport {
    /// Which backup.
    pub backup: String,
    /// Where to.
    pub destination: PathBuf,
    /// What was written.
    pub format: ExportFormat,
    /// The tar files, by name.
    pub archives: Vec<String>,
    /// Files of the backup.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes read from the repository.
    pub read_bytes: u64,
    /// Bytes of the tar files.
    pub written_bytes: u64,
    /// First and last WAL segment that came along.
    pub wal_first: Option<String>,
    /// See `wal_first`.
    pub wal_last: Option<String>,
    /// Tablespaces and where they are, or will be once the tar files are unpacked.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// What to do next.
    pub next_steps: Vec<String>,
}
