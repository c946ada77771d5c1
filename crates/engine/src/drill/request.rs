//! What can be asked of a drill, and what it answers. Plain data: the report is what `--json` prints and what is kept in the
//! repository.

use std::path::PathBuf;
use std::time::Duration;

use crate::Location;
use crate::restore::{RecoveryTarget, TargetProof, TargetTimeline};

/// An unprivileged user, for a caller who is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Statements that must succeed.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name, for messages.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct DrillRequest {
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
    /// What is asked of the server.
    pub script: Option<Script>,
    /// The database for it.
    pub database: String,
    /// Roles to connect as; the first that exists is taken.
    pub roles: Vec<String>,
    /// Whether `pg_amcheck` is run.
    pub amcheck: bool,
    /// Where the scratch directory is made.
    pub directory: PathBuf,
    /// Where the server's programs are; else they are looked for in `search_path` and the usual places.
    pub bin_dir: Option<PathBuf>,
    /// The caller's search path.
    pub search_path: Vec<PathBuf>,
    /// The environment of the server and of what it runs.
    pub environment: Vec<(String, String)>,
    /// Whom the server runs as, where the caller is root; none: the owner of `directory`.
    pub run_as: Option<RunAs>,
    /// More settings of the scratch server; they win.
    pub settings: Vec<(String, String)>,
    /// The only way of the server to the repository; it reads.
    pub restore_command: String,
    /// The caller's time zone, an IANA name.
    pub caller_time_zone: String,
    /// How long all of it may take.
    pub max_time: Option<Duration>,
    /// Threads of the restore.
    pub jobs: usize,
    /// Only prove the target and say what would be done.
    pub dry_run: bool,
}

/// A setting of the scratch server that is not the one of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Override {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Why.
    pub why: String,
}

/// How long a part took.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Phase {
    /// `prove`, `restore`, `consistency` (from the start of the server until it takes connections), `target` (until replay is
    /// over), `questions`, `amcheck`, `stop`.
    pub phase: String,
    /// How long.
    pub seconds: f64,
}

/// What became of one statement.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Assertion {
    /// Its line in the script.
    pub line: usize,
    /// Its beginning.
    pub statement: String,
    /// Whether it succeeded, and was true where it had one boolean column.
    pub ok: bool,
    /// Why not.
    pub problem: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// What `pg_amcheck` said.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AmcheckResult {
    /// Whether it found nothing.
    pub ok: bool,
    /// The end of what it printed.
    pub output: Vec<String>,
}

/// Why a drill failed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DrillFailure {
    /// In which phase.
    pub phase: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// The end of the server's log.
    pub log: Vec<String>,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DrillReport {
    /// The stanza.
    pub stanza: String,
    /// RFC 3339 UTC.
    pub started: String,
    /// RFC 3339 UTC.
    pub finished: String,
    /// Whether all of it went as it should.
    pub ok: bool,
    /// Which backup.
    pub backup: String,
    /// Why that one.
    pub backup_reason: String,
    /// Why the target can be reached.
    pub proof: TargetProof,
    /// `server_version_num` of the backup.
    pub server_version: u32,
    /// The scratch directory, which is gone.
    pub scratch: PathBuf,
    /// What was set otherwise than in the cluster, and why.
    pub overrides: Vec<Override>,
    /// How long each part took.
    pub phases: Vec<Phase>,
    /// From the beginning of the restore to the first answer at the target: what a restore in earnest would take at least.
    pub time_to_first_query_seconds: Option<f64>,
    /// Where replay ended.
    pub replay_end: Option<String>,
    /// What became of each statement.
    pub assertions: Vec<Assertion>,
    /// What `pg_amcheck` said.
    pub amcheck: Option<AmcheckResult>,
    /// Why it failed.
    pub failure: Option<DrillFailure>,
    /// The name under which this report is kept in the repository.
    pub stored_as: Option<String>,
    /// Why it could not be kept.
    pub not_stored: Option<String>,
    /// Whether nothing was done.
    pub dry_run: bool,
}
