//! `pgkeep expire`, `pgkeep hold` and `pgkeep release`.

use clap::Args;

use crate::config::Flag;

const EXPIRE_EXAMPLES: &str = "\
Examples:
  pgkeep expire --repo /srv/backup --keep-window 30d --keep-min 2 --dry-run
  pgkeep expire --repo /srv/backup --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-wal 14d
  pgkeep expire --repo /srv/backup --backup 000007

A backup stays when any rule keeps it. Periods are in UTC. With the same settings in the
configuration file, under `[retention]`, `pgkeep backup` expires by itself.";

const HOLD_EXAMPLES: &str = "\
Examples:
  pgkeep hold --repo /srv/backup 000007 --reason 'audit 2026'
  pgkeep hold --repo /srv/backup latest";

const RELEASE_EXAMPLES: &str = "\
Examples:
  pgkeep release --repo /srv/backup 000007";

/// What is to be kept; each overrides a setting.
#[derive(Args, Debug)]
#[command(next_help_heading = "Policy")]
pub(crate) struct PolicyArgs {
    /// Keep the newest N backups
    #[arg(long, value_name = "N")]
    keep_count: Option<String>,
    /// Keep what is needed to reach every moment of this time: `36h`, `30d`, `8w`
    #[arg(long, value_name = "SPAN")]
    keep_window: Option<String>,
    /// Keep the last backup of each of the newest N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<String>,
    /// The same for days
    #[arg(long, value_name = "N")]
    keep_daily: Option<String>,
    /// The same for weeks, from Monday
    #[arg(long, value_name = "N")]
    keep_weekly: Option<String>,
    /// The same for months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<String>,
    /// The same for years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<String>,
    /// Never keep fewer than N
    #[arg(long, value_name = "N")]
    keep_min: Option<String>,
    /// Keep the newest N dumps [default: all]
    #[arg(long, value_name = "N")]
    keep_dump_count: Option<String>,
    /// Keep the dumps of this time
    #[arg(long, value_name = "SPAN")]
    keep_dump_window: Option<String>,
    /// Keep later WAL of `all` kept backups, of the newest N, or for a time; others keep what they need [default: all]
    #[arg(long, value_name = "all|N|SPAN")]
    keep_wal: Option<String>,
}

/// Options of `expire`.
#[derive(Args, Debug)]
#[command(after_help = EXPIRE_EXAMPLES)]
pub(crate) struct ExpireArgs {
    /// Remove this backup or dump only: its id, the beginning of one, or `latest`
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<String>,
    /// Wait this long between saying what goes and removing it [default: 2min]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// Give up a backup that began this long ago and neither ended nor is known to be dead [default: 7d]
    #[arg(long, value_name = "SPAN")]
    abandoned_after: Option<String>,
    /// Only say what stays and what goes, and by which rule
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

impl ExpireArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let policy = &self.policy;
        Flag::given([
            ("retention.count", "--keep-count", &policy.keep_count),
            ("retention.window", "--keep-window", &policy.keep_window),
            ("retention.hourly", "--keep-hourly", &policy.keep_hourly),
            ("retention.daily", "--keep-daily", &policy.keep_daily),
            ("retention.weekly", "--keep-weekly", &policy.keep_weekly),
            ("retention.monthly", "--keep-monthly", &policy.keep_monthly),
            ("retention.yearly", "--keep-yearly", &policy.keep_yearly),
            ("retention.min", "--keep-min", &policy.keep_min),
            ("retention.wal", "--keep-wal", &policy.keep_wal),
            ("retention.dump_count", "--keep-dump-count", &policy.keep_dump_count),
            ("retention.dump_window", "--keep-dump-window", &policy.keep_dump_window),
            ("retention.grace", "--grace", &self.grace),
            ("retention.abandoned_after", "--abandoned-after", &self.abandoned_after),
        ])
    }
}

/// Options of `hold`.
#[derive(Args, Debug)]
#[command(after_help = HOLD_EXAMPLES)]
pub(crate) struct HoldArgs {
    /// Backup or dump: its id, the beginning of one, or `latest`, which is a backup
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Why, for whoever finds it held
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// Options of `release`.
#[derive(Args, Debug)]
#[command(after_help = RELEASE_EXAMPLES)]
pub(crate) struct ReleaseArgs {
    /// Backup or dump: its id, the beginning of one, or `latest`, which is a backup
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}
