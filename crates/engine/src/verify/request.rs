//! What can be asked of `verify`, and what it answers. Plain data: the report is what `--json` prints and what is kept in
//! the repository.

use std::time::Duration;

use super::damage::Damage;
use crate::Location;
use crate::dump::DumpVerification;
use crate::list::Window;

/// What was asked.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Where.
    pub location: Location,
    /// Only what this backup needs: an id, an unambiguous beginning of one, or `latest`. None: everything.
    pub backup: Option<String>,
    /// Only so many percent of what could be verified, chosen at random: 1 to 100.
    pub sample_percent: Option<u8>,
    /// Only what was never verified.
    pub since_last: bool,
    /// Read at most about so many stored bytes.
    pub max_bytes: Option<u64>,
    /// Begin nothing new after this time.
    pub max_time: Option<Duration>,
    /// Threads; at least one.
    pub jobs: usize,
    /// What the sample is drawn with.
    pub seed: u64,
    /// Only say what would be verified.
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifiedAmounts {
    /// Backups whose manifest and block maps were checked.
    pub backups: u64,
    /// Files in these.
    pub files: u64,
    /// Packs of which something was read.
    pub packs: u64,
    /// Frames read and proved.
    pub frames: u64,
    /// Pages whose checksum was looked at again.
    pub pages: u64,
    /// WAL files read and proved.
    pub wal_files: u64,
    /// Stored bytes that were read for all this.
    pub read_bytes: u64,
}

/// How much of the repository was ever verified.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Coverage {
    /// Bytes of all packs that backups need.
    pub pack_bytes: u64,
    /// Those of them that were verified at some time.
    pub verified_pack_bytes: u64,
    /// Archived WAL segments.
    pub wal_segments: u64,
    /// Those of them that were verified at some time.
    pub verified_wal_segments: u64,
    /// The oldest time at which something was verified that was not since (RFC 3339 UTC).
    pub oldest: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct VerifyReport {
    /// The stanza.
    pub stanza: String,
    /// RFC 3339 UTC.
    pub started: String,
    /// RFC 3339 UTC.
    pub finished: String,
    /// Whether nothing was read.
    pub dry_run: bool,
    /// Whether the user stopped it before the end.
    pub interrupted: bool,
    /// What would be done, in words; filled on a dry run.
    pub plan: Vec<String>,
    /// What was verified.
    pub verified: VerifiedAmounts,
    /// How much of the repository was ever verified, this run included.
    pub coverage: Coverage,
    /// Whether there is no damage.
    pub ok: bool,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Damaged places that are not in the list, which is bounded.
    pub damage_not_listed: u64,
    /// Dumps that were verified.
    pub dumps: Vec<DumpVerification>,
    /// Places that were damaged and are not any more.
    pub healed: Vec<String>,
    /// Backups that restore, as far as is known.
    pub good_backups: Vec<String>,
    /// Backups that do not.
    pub damaged_backups: Vec<String>,
    /// Windows in which every moment can be recovered, without what is damaged.
    pub good_windows: Vec<Window>,
    /// The name under which this report is kept in the repository.
    pub stored_as: Option<String>,
    /// Why it could not be kept.
    pub not_stored: Option<String>,
    /// What else the user should know.
    pub warnings: Vec<String>,
}
