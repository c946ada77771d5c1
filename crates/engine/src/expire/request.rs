//! What can be asked of `expire`, and what it answers. Plain data: the report is what `--json` prints.

use pgkeep_format::TimelineId;

use crate::Location;

/// For which backups the WAL is kept that leads from them to every later moment. The others keep what makes them
/// consistent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalRetention {
    /// For all that are kept, except those that only a hold keeps.
    #[default]
    All,
    /// For the newest so many.
    Count(u32),
    /// For those that the moments of the last so many seconds need.
    Window(u64),
}

/// What is to be kept. A backup stays when any rule keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The newest so many.
    pub count: Option<u32>,
    /// All that are needed to reach every moment of the last so many seconds.
    pub window_seconds: Option<u64>,
    /// The last backup of each of so many hours that have one, the newest first, in UTC.
    pub hourly: Option<u32>,
    /// The same for days.
    pub daily: Option<u32>,
    /// The same for weeks, which begin on Monday.
    pub weekly: Option<u32>,
    /// The same for months.
    pub monthly: Option<u32>,
    /// The same for years.
    pub yearly: Option<u32>,
    /// Never fewer than so many; a floor beneath the other rules.
    pub min: Option<u32>,
    /// Which WAL is kept.
    pub wal: WalRetention,
}

impl RetentionPolicy {
    /// Whether any rule says what to keep. The floor alone does not.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        let counts = [self.count, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        self.window_seconds.is_some() || counts.iter().any(Option::is_some)
    }
}

/// Which dumps are kept. A dump stays when any rule keeps it; without a rule all stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpRetention {
    /// The newest so many.
    pub count: Option<u32>,
    /// Those of the last so many seconds.
    pub window_seconds: Option<u64>,
}

impl DumpRetention {
    /// Whether any rule says what to keep.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.count.is_some() || self.window_seconds.is_some()
    }
}

/// What is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpireChoice {
    /// All that the policy does not keep.
    Policy(RetentionPolicy),
    /// One backup or dump: an id, an unambiguous beginning of one, or `latest`.
    Backup(String),
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct ExpireRequest {
    /// Where.
    pub location: Location,
    /// What is to go.
    pub choice: ExpireChoice,
    /// Which dumps are kept where a policy decides.
    pub dumps: DumpRetention,
    /// Seconds between saying what goes and removing it.
    pub grace_seconds: u64,
    /// A backup that began so many seconds ago and neither ended nor was proved dead is given up.
    pub abandoned_after_seconds: u64,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// One backup.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BackupDecision {
    /// Its name.
    pub id: String,
    /// RFC 3339 UTC; when it began, where its end is not known.
    pub finished: String,
    /// Whether it stays.
    pub keep: bool,
    /// The rules that decided, in words.
    pub rules: Vec<String>,
    /// Whether the WAL to every later moment stays with it.
    pub keeps_later_wal: bool,
    /// Whether it is held.
    pub held: bool,
    /// Whether it can be restored.
    pub restorable: bool,
}

/// One dump.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DumpDecision {
    /// Its name.
    pub id: String,
    /// RFC 3339 UTC; when it began, where its end is not known.
    pub finished: String,
    /// Whether it stays.
    pub keep: bool,
    /// The rules that decided, in words.
    pub rules: Vec<String>,
    /// Whether it is held.
    pub held: bool,
}

/// Consecutive segments of one timeline.
#[derive(Clone, Debug, serde::Serialize)]
pub struct WalDecision {
    /// Sequence of the cluster in the history of the stanza.
    pub record: u32,
    /// The cluster.
    #[serde(serialize_with = "crate::json::as_text")]
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: TimelineId,
    /// The first segment.
    pub first: String,
    /// The last segment.
    pub last: String,
    /// How many.
    pub segments: u64,
    /// Whether they stay.
    pub keep: bool,
    /// The rule that decided, in words.
    pub rule: String,
}

/// Packs that no manifest lists, by the backup that wrote them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct UnlistedPacks {
    /// The backup that wrote them.
    pub backup: String,
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether they stay.
    pub keep: bool,
    /// Why.
    pub reason: String,
}

/// Packs that are kept for a small part of their bytes.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct SparsePacks {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of these bytes are needed, about.
    pub live_bytes: u64,
    /// What becomes of them, and why.
    pub reason: String,
}

/// What was decided, and what was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ExpireReport {
    /// The stanza.
    pub stanza: String,
    /// Whether nothing was removed because that was asked.
    pub dry_run: bool,
    /// Oldest first.
    pub backups: Vec<BackupDecision>,
    /// Oldest first.
    pub dumps: Vec<DumpDecision>,
    /// By cluster, timeline and position.
    pub wal: Vec<WalDecision>,
    /// Packs of interrupted and of removed backups.
    pub unlisted_packs: Vec<UnlistedPacks>,
    /// Packs that are kept for little.
    pub sparse_packs: SparsePacks,
    /// Backups removed, or on a dry run those that would be.
    pub removed_backups: u64,
    /// Dumps removed, or on a dry run those that would be.
    pub removed_dumps: u64,
    /// Packs removed.
    pub removed_packs: u64,
    /// WAL files removed.
    pub removed_wal_files: u64,
    /// Bytes of the packs that were removed.
    pub freed_bytes: u64,
    /// Bytes of packs that go later.
    pub waiting_bytes: u64,
    /// For whom the rest waits, in words.
    pub waiting_for: Vec<String>,
    /// What else is to be known.
    pub notes: Vec<String>,
}
