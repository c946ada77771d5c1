//! What can be asked of an import, and what it answers. Plain data: the reports are what `--json` prints.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgkeep_format::{Lsn, TimelineId};
use pgkeep_repo::Compression;

use crate::Location;
use crate::backup::{BackupType, BadPages, TypeChoice};

/// What was asked.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// Where to.
    pub location: Location,
    /// The backup: a directory; or a full one and the incremental ones that build on it, oldest first.
    pub sources: Vec<PathBuf>,
    /// Folders with WAL.
    pub wal: Vec<PathBuf>,
    /// Take a backup without a `backup_manifest`, of which nothing can be proved but its shape.
    pub without_manifest: bool,
    /// Make the stanza (and the repository) for the cluster of the backup where there is none.
    pub create_stanza: bool,
    /// Full, or building on the newest backup of the stanza.
    pub kind: TypeChoice,
    /// Worker threads; at least one.
    pub jobs: usize,
    /// Codec and level of the frames and of WAL.
    pub compression: Compression,
    /// The user's notes, kept in the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Only look at the source and say what would be done.
    pub dry_run: bool,
}

/// What was asked of `wal import`.
#[derive(Clone, Debug)]
pub struct WalImportRequest {
    /// Where to.
    pub location: Location,
    /// Folders with WAL, or single files.
    pub sources: Vec<PathBuf>,
    /// Codec and level.
    pub compression: Compression,
}

/// What became of WAL files.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WalReport {
    /// Files that are in the archive now.
    pub stored: u64,
    /// Files that were there already, with the same contents.
    pub already_there: u64,
    /// Segments that end before their time, and may be whole elsewhere: not stored.
    pub unfinished: Vec<String>,
    /// Files that are not what their name says, of another cluster, or different from what is stored; and why.
    pub refused: Vec<RefusedWal>,
    /// Files whose names are not those of WAL.
    pub other_files: u64,
    /// Bytes of the files that were stored.
    pub size_bytes: u64,
    /// First and last segment that were stored or found there, by name.
    pub first: Option<String>,
    /// See `first`.
    pub last: Option<String>,
}

/// A WAL file that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RefusedWal {
    /// Where it is.
    pub file: String,
    /// Why.
    pub why: String,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ImportReport {
    /// The backup; none on a dry run.
    pub id: Option<String>,
    /// What the source is, in words.
    pub source: String,
    /// Whether every file was proved by a `backup_manifest`.
    pub proved_by_manifest: bool,
    /// How much was written.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// The backup whose blocks it shares.
    pub parent: Option<String>,
    /// The cluster.
    #[serde(serialize_with = "crate::json::as_text")]
    pub system_identifier: u64,
    /// Its major version.
    pub major: u32,
    /// When the backup began, RFC 3339 UTC.
    pub started: String,
    /// Where replay starts.
    pub start_lsn: Lsn,
    /// Where the backup becomes consistent.
    pub stop_lsn: Option<Lsn>,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Files stored.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes of blocks that are new in the repository, before compression.
    pub new_bytes: u64,
    /// Bytes that this backup added to the repository.
    pub stored_bytes: u64,
    /// Whether page checksums were verified.
    pub checksums_verified: bool,
    /// Pages whose checksum is wrong.
    pub bad_pages: Vec<BadPages>,
    /// The WAL that came along.
    pub wal: WalReport,
}
