//! `pgkeep verify`: what is stored, and with `--restore` a drill.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use pgkeep_engine::restore::{RecoveryTarget, TargetTimeline};
use pgkeep_engine::{Lsn, Result};

use super::restore::{setting, timeline};
use super::target::TargetChoice;
use crate::config::Flag;

const EXAMPLES: &str = "\
Examples:
  pgkeep verify --repo /srv/backup                     # everything
  pgkeep verify --repo /srv/backup --max-time 2h       # every night: goes on where the last one ended
  pgkeep verify --repo /srv/backup --since-last        # only what was never verified
  pgkeep verify --repo /srv/backup --backup latest --dry-run
  pgkeep verify --repo /srv/backup --restore           # a drill: restore, start, ask, remove
  pgkeep verify --repo /srv/backup --restore --sql checks.sql --amcheck --directory /srv/scratch

Exits with 17 when something is damaged and with 18 when a drill fails; the report says what is
touched and what still restores.";

/// Options of `verify`.
#[derive(Args, Debug)]
#[command(
    after_help = EXAMPLES,
    group = ArgGroup::new("drill target").args(["target_time", "target_lsn", "target_xid", "target_name", "target"])
)]
pub(crate) struct VerifyArgs {
    /// Backup: its id, the beginning of one, `latest`, or `all` [default: all; for a drill the best one]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Only so much of it, chosen at random
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100), conflicts_with = "restore")]
    pub(crate) sample: Option<u8>,
    /// Only what was never verified
    #[arg(long, conflicts_with = "restore")]
    pub(crate) since_last: bool,
    /// Read at most about so much, as in 50GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with = "restore")]
    pub(crate) max_bytes: Option<u64>,
    /// Begin nothing new after this time, as in 2h; a drill that takes longer fails
    #[arg(long, value_name = "DURATION", value_parser = time)]
    pub(crate) max_time: Option<Duration>,
    /// Threads [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Only say what would be verified
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Restore into a scratch directory, start a server on it, ask it, and remove it again
    #[arg(long, help_heading = "Drill")]
    pub(crate) restore: bool,
    /// File with statements that must succeed; a query with one boolean column must be all true
    #[arg(long, value_name = "FILE", requires = "restore", help_heading = "Drill")]
    pub(crate) sql: Option<PathBuf>,
    /// Database for the statements [default: postgres]
    #[arg(long, value_name = "NAME", requires = "restore", help_heading = "Drill")]
    pub(crate) database: Option<String>,
    /// Role to connect as [default: postgres, then the server's user]
    #[arg(long, value_name = "ROLE", requires = "restore", help_heading = "Drill")]
    pub(crate) role: Option<String>,
    /// Also run pg_amcheck on every database
    #[arg(long, requires = "restore", help_heading = "Drill")]
    pub(crate) amcheck: bool,
    /// Where the scratch directory is made [default: the folder for temporary files]
    #[arg(long, value_name = "DIR", requires = "restore", help_heading = "Drill")]
    pub(crate) directory: Option<PathBuf>,
    /// Directory of postgres, of the backup's major version [default: PATH and the usual places]
    #[arg(long, value_name = "DIR", requires = "restore", help_heading = "Drill")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// User whom the server runs as, where pgkeep runs as root [default: the owner of DIR]
    #[arg(long, value_name = "USER", requires = "restore", help_heading = "Drill")]
    pub(crate) run_as: Option<String>,
    /// Change a setting of the scratch server; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting, requires = "restore", help_heading = "Drill")]
    pub(crate) set: Vec<(String, String)>,

    /// Up to the last transaction committed at this time
    #[arg(long, value_name = "TIME", requires = "restore", help_heading = "Recovery target of the drill")]
    target_time: Option<String>,
    /// Up to this WAL position
    #[arg(long, value_name = "LSN", requires = "restore", help_heading = "Recovery target of the drill")]
    target_lsn: Option<Lsn>,
    /// Up to the end of this transaction
    #[arg(long, value_name = "XID", requires = "restore", help_heading = "Recovery target of the drill")]
    target_xid: Option<u64>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME", requires = "restore", help_heading = "Recovery target of the drill")]
    target_name: Option<String>,
    /// Only until consistent, or up to the end of the archive [default: latest]
    #[arg(long, value_name = "WHAT", value_parser = ["immediate", "latest"], requires = "restore", help_heading = "Recovery target of the drill")]
    target: Option<String>,
    /// Stop just before the target, not just after
    #[arg(long, requires = "restore", help_heading = "Recovery target of the drill")]
    pub(crate) target_exclusive: bool,
    /// Timeline to follow: latest, current or a number [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = timeline, requires = "restore", help_heading = "Recovery target of the drill")]
    target_timeline: Option<TargetTimeline>,
}

impl VerifyArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("restore.jobs", "--jobs", &self.jobs)])
    }

    /// The one backup that is asked for.
    pub(crate) fn one_backup(&self) -> Option<String> {
        self.backup.clone().filter(|name| name != "all")
    }

    /// The target; the grammar lets at most one be given.
    pub(crate) fn recovery_target(&self) -> Result<RecoveryTarget> {
        TargetChoice {
            time: self.target_time.as_deref(),
            lsn: self.target_lsn,
            xid: self.target_xid,
            name: self.target_name.as_deref(),
            immediate: self.target.as_deref() == Some("immediate"),
            exclusive: self.target_exclusive,
        }
        .read()
    }

    /// Which timeline to follow.
    pub(crate) fn timeline(&self) -> TargetTimeline {
        self.target_timeline.unwrap_or_default()
    }
}

/// `500MB`, `50GiB`, `1T`, or bytes: binary units, as PostgreSQL's own settings have them.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("expected a size such as `500MiB` or `50GiB`".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a size such as `500MiB` or `50GiB`".to_owned())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(|| "that is no size".to_owned())
}

/// `90s`, `30min`, `2h`, `1d`, or seconds.
fn time(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as `30min` or `2h`".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "" | "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(seconds).filter(|n| *n > 0).map(Duration::from_secs).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        for (text, expected) in
            [("17", 17), ("2kB", 2048), ("1 MiB", 1 << 20), ("3g", 3 << 30), ("1TB", 1 << 40)]
        {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "GB", "-1", "1x", "99999999999T", "0"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for (text, expected) in [("90", 90), ("2min", 120), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(time(text), Ok(Duration::from_secs(expected)), "{text}");
        }
        for bad in ["", "h", "1m", "0s", "-1s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
