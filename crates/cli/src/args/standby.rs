//! `pgkeep standby create`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connection::ConnectionArgs;
use super::restore::{setting, tablespace};
use crate::config::Flag;

const EXAMPLES: &str = "\
Examples:
  pgkeep standby create --repo /srv/backup -d 'host=db1 user=replicator' /var/lib/postgresql/18/main
  pgkeep standby create --repo /srv/backup -h db1 -U replicator --slot db2 --create-slot /srv/db2
  pgkeep standby create --repo /srv/backup -h db1 --delta --set cluster_name=db2 /srv/db2

The files come from the newest backup and the WAL from the archive, so that the primary is spared.
The standby then streams, and falls back on the archive where the primary has no WAL any more.
Passwords are not written: give the server's user a .pgpass.";

/// Options of `standby`.
#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true, subcommand_value_name = "VERB")]
pub(crate) struct StandbyArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: StandbyVerb,
}

/// The verbs of `standby`.
#[derive(Debug, Subcommand)]
pub(crate) enum StandbyVerb {
    /// Make a streaming standby out of the repository
    Create(Box<CreateArgs>),
}

/// Options of `standby create`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CreateArgs {
    /// Data directory to make: absent or empty, unless --delta
    #[arg(value_name = "DIR")]
    pub(crate) destination: PathBuf,
    /// Backup to start from [default: the newest]
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<String>,
    /// Stream through this slot of the primary
    #[arg(long, value_name = "NAME")]
    pub(crate) slot: Option<String>,
    /// Make the slot where it is not there
    #[arg(long, requires = "slot")]
    pub(crate) create_slot: bool,
    /// Reuse the files of a former cluster in DIR
    #[arg(long)]
    pub(crate) delta: bool,
    /// Move a tablespace; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = tablespace)]
    pub(crate) tablespace_map: Vec<(String, PathBuf)>,
    /// Add a line to postgresql.auto.conf; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub(crate) set: Vec<(String, String)>,
    /// Worker threads [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

impl CreateArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("restore.jobs", "--jobs", &self.jobs)])
    }
}
