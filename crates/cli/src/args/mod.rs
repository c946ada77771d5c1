//! The command line's grammar, one file per verb.
//!
//! Connecting verbs take `-h` as libpq's programs do: it names the server's host. Help is `--help` or `-?` everywhere.

pub(crate) mod backup;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod dump;
pub(crate) mod exchange;
pub(crate) mod expire;
pub(crate) mod init;
pub(crate) mod load;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod standby;
pub(crate) mod target;
pub(crate) mod verify;
pub(crate) mod wal;

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  pgkeep init --repo /srv/backup       # make a repository for the server that PG* names
  pgkeep backup --repo /srv/backup     # back it up
  pgkeep list --repo /srv/backup       # what there is, and what can be recovered
  pgkeep restore --repo /srv/backup --target-time '2026-11-22 09:00:00+00' /srv/restored

`pgkeep help VERB` explains one verb. Settings may also come from /etc/pgkeep/config.toml,
the user's configuration file and PGKEEP_* variables; `pgkeep config show --origin` says which.";

/// Backs up PostgreSQL clusters and brings them back as they were at any moment
#[derive(Debug, Parser)]
#[command(
    name = "pgkeep",
    version,
    propagate_version = true,
    disable_help_flag = true,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    max_term_width = 100,
    after_help = EXAMPLES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb understands.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Repository: a directory, or a file:// URL
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) repo: Option<String>,
    /// Stanza: the name of this cluster's history in the repository [default: main]
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) stanza: Option<String>,
    /// Read this configuration file instead of those of the system and the user
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print the result, or the error, as one JSON object
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Tell more; may be repeated
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Print no progress and no notes, only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print help
    #[arg(short = '?', long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, global = true)]
    version: Option<bool>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a repository and a stanza in it, and say what the server lacks for archiving
    Init(init::InitArgs),
    /// Back up a whole cluster
    Backup(backup::BackupArgs),
    /// Dump databases as SQL and rows, into the repository or to a file
    Dump(Box<dump::DumpArgs>),
    /// Restore a cluster as it was at a chosen moment
    Restore(restore::RestoreArgs),
    /// Make standbys out of the repository
    Standby(standby::StandbyArgs),
    /// Write a backup out as pg_basebackup would have
    Export(exchange::ExportArgs),
    /// Take in a base backup, and WAL, that another program made
    Import(exchange::ImportArgs),
    /// Load a dump into a database: all of it or chosen tables, under other names, resumable
    Load(Box<load::LoadArgs>),
    /// Store, fetch and receive WAL
    Wal(wal::WalArgs),
    /// List the backups and dumps, the windows that can be recovered, and the gaps
    List(show::ListArgs),
    /// Show everything that is known of one backup
    Show(show::ShowArgs),
    /// Try the set-up end to end and say what is wrong with it
    Check(show::CheckArgs),
    /// Remove the backups, the WAL and the dumps that the policy does not keep
    Expire(expire::ExpireArgs),
    /// Keep a backup or a dump whatever the policy says
    Hold(expire::HoldArgs),
    /// Let go of a backup or a dump that is held
    Release(expire::ReleaseArgs),
    /// Prove that what is stored is what was written, or try a restore with a real server
    Verify(Box<verify::VerifyArgs>),
    /// Show the configuration
    Config(config::ConfigArgs),
    /// Print the version
    Version,
}

/// The whole grammar, for parsing and for help.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod documentation_tests;

#[cfg(test)]
mod tests {
    #[test]
    fn the_grammar_is_consistent() {
        let mut command = super::command();
        command.build();
        command.debug_assert();
    }
}
