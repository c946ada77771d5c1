//! `pgkeep list`, `pgkeep show` and `pgkeep check`: the verbs that only tell.

use clap::Args;

use super::connection::ConnectionArgs;
use crate::config::Flag;

const LIST_EXAMPLES: &str = "\
Examples:
  pgkeep list --repo /srv/backup
  pgkeep list --repo /srv/backup --stanza orders --json";

const SHOW_EXAMPLES: &str = "\
Examples:
  pgkeep show --repo /srv/backup latest
  pgkeep show --repo /srv/backup 000007 --json";

const CHECK_EXAMPLES: &str = "\
Examples:
  pgkeep check --repo /srv/backup
  pgkeep check --repo /srv/backup --archive-timeout 5min -d 'service=orders'
  pgkeep check --repo /srv/backup --incremental-sample 5     # proves what incremental backups rely upon

Forces a WAL segment switch on the server and waits until it arrives in the repository.
Exits with 1 when a check fails.";

/// Options of `list`.
#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {}

/// Options of `show`.
#[derive(Args, Debug)]
#[command(after_help = SHOW_EXAMPLES)]
pub(crate) struct ShowArgs {
    /// Backup: its id, the beginning of one, or `latest`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
}

/// Options of `check`.
#[derive(Args, Debug)]
#[command(after_help = CHECK_EXAMPLES)]
pub(crate) struct CheckArgs {
    /// How long to wait for the archiver [default: 60s]
    #[arg(long, value_name = "DURATION")]
    archive_timeout: Option<String>,
    /// Compare so many percent of the blocks that WAL says did not change with the newest backup [default: 1]
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "1", value_parser = percent)]
    pub(crate) incremental_sample: Option<f64>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("expected a number above 0 and up to 100".to_owned()),
    }
}

impl CheckArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("backup.archive_timeout", "--archive-timeout", &self.archive_timeout)])
    }
}
