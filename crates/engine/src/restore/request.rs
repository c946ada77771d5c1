//! What can be asked of a restore, and what it answers. Plain data: the report is what `--json` prints.

use std::path::PathBuf;

use pgkeep_format::{Lsn, TimelineId};

use crate::Location;

/// Up to where WAL is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryTarget {
    /// Everything that the repository holds.
    #[default]
    Latest,
    /// The moment at which the backup is consistent.
    Immediate,
    /// A moment, as the user wrote it.
    Time(String),
    /// A position.
    Lsn(Lsn),
    /// A transaction.
    Xid(u64),
    /// A restore point.
    Name(String),
}

/// Which timeline is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetTimeline {
    /// The newest that descends from the backup's.
    #[default]
    Latest,
    /// The backup's own.
    Current,
    /// This one.
    Number(TimelineId),
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetAction {
    /// Waits for `pg_wal_replay_resume()`, readable meanwhile.
    #[default]
    Pause,
    /// Becomes a primary on a new timeline.
    Promote,
    /// Stops.
    Shutdown,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// Where from.
    pub location: Location,
    /// Which backup; the best for the target when none is named.
    pub backup: Option<String>,
    /// Up to where.
    pub target: RecoveryTarget,
    /// Stop just before the target instead of just after.
    pub exclusive: bool,
    /// Which timeline.
    pub timeline: TargetTimeline,
    /// What then; none takes PostgreSQL's default for the kind of target (promote without a target).
    pub action: Option<TargetAction>,
    /// Old and new places of tablespaces.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// Make a standby instead of a primary.
    pub standby: bool,
    /// More lines for `postgresql.auto.conf`.
    pub settings: Vec<(String, String)>,
    /// The data directory to make.
    pub destination: PathBuf,
    /// Reuse what is right of the files of a former cluster, or of an unfinished restore.
    pub delta: bool,
    /// Also put configuration files from outside the data directory here.
    pub external_config: Option<PathBuf>,
    /// The `restore_command` to write, with `%f` and `%p`.
    pub restore_command: String,
    /// The caller's time zone, an IANA name; `UTC` where unknown.
    pub caller_time_zone: String,
    /// Worker threads; at least one.
    pub jobs: usize,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Why the target can be reached.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct TargetProof {
    /// The target in words, with UTC beside a time.
    pub description: String,
    /// The moment in UTC, for time targets (RFC 3339, microseconds).
    pub target_time_utc: Option<String>,
    /// Where replay will stop, where that is known.
    pub stop_lsn: Option<Lsn>,
    /// The timelines that are followed, oldest first.
    pub timelines: Vec<TimelineId>,
    /// First and last segment that replay needs.
    pub wal_first: Option<String>,
    /// See `wal_first`.
    pub wal_last: Option<String>,
    /// Segments between them, all of them present.
    pub wal_segments: u64,
}

/// What a delta restore found, and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeltaReport {
    /// `former_cluster`, `unfinished_restore` or `nothing_there`.
    pub found: String,
    /// Bytes of the former files that were read to compare them; on a dry run, that would be.
    pub local_bytes: u64,
    /// Blocks that were right already.
    pub kept_blocks: u64,
    /// Blocks that were fetched.
    pub fetched_blocks: u64,
    /// Blocks that were made zeros.
    pub zeroed_blocks: u64,
    /// Files that did not belong.
    pub removed_files: u64,
    /// Directories that did not belong.
    pub removed_directories: u64,
    /// Links and special files that did not belong.
    pub removed_links: u64,
    /// The first of all these, relative to the data directory.
    pub removed: Vec<String>,
}

/// What was done, or would be.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RestoreReport {
    /// Which backup.
    pub backup: String,
    /// Why that one.
    pub backup_reason: String,
    /// Where to.
    pub destination: PathBuf,
    /// Why the target can be reached.
    pub proof: TargetProof,
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes read from the repository.
    pub read_bytes: u64,
    /// Tablespaces and where they go.
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Lines written to `postgresql.auto.conf`.
    pub recovery_settings: Vec<(String, String)>,
    /// What became of the former files; none unless asked to reuse them.
    pub delta: Option<DeltaReport>,
    /// Whether anything was written.
    pub dry_run: bool,
    /// What to do next.
    pub next_steps: Vec<String>,
}
