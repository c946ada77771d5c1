//! `pgkeep wal push` and `pgkeep wal get`, whose command lines stand in the server's settings.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::Flag;

const PUSH_EXAMPLES: &str = "\
Examples:
  archive_command = 'pgkeep wal push --repo /srv/backup %p'
  pgkeep wal push --repo /srv/backup --stanza orders pg_wal/000000010000000000000001

`pgkeep init` prints the exact line for a server. Exit codes stay below 126, so that the server
tries again.";

const GET_EXAMPLES: &str = "\
Examples:
  restore_command = 'pgkeep wal get --repo /srv/backup %f %p'
  pgkeep wal get --repo /srv/backup 000000010000000000000001 /tmp/000000010000000000000001

Exit codes: 0 the file is there; 1 the archive certainly does not hold it; 200 it cannot be told,
which makes the server stop recovery instead of taking the archive for complete.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  pgkeep wal import --repo /srv/backup /srv/walarchive
  pgkeep wal import --repo /srv/backup /barman/main/wals /barman/main/streaming

Folders are walked, whatever is compressed is decompressed, and every file is checked as `wal push`
checks it. What is there already is compared. A segment whose WAL ends early is left out: its
server may still bring the whole one.";

/// Options of `wal`.
#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true, subcommand_value_name = "VERB")]
pub(crate) struct WalArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: WalVerb,
}

/// The verbs of `wal`.
#[derive(Debug, Subcommand)]
pub(crate) enum WalVerb {
    /// Store one WAL file; for archive_command
    Push(PushArgs),
    /// Fetch one WAL file; for restore_command
    Get(GetArgs),
    /// Take in WAL that another archive keeps
    Import(WalImportArgs),
}

/// Options of `wal push`.
#[derive(Args, Debug)]
#[command(after_help = PUSH_EXAMPLES)]
pub(crate) struct PushArgs {
    /// The file, `%p`
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Codec: `zstd`, `zstd:LEVEL`, `lz4` or `none` [default: zstd:3]
    #[arg(long, value_name = "CODEC")]
    compress: Option<String>,
}

impl PushArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("archive.compress", "--compress", &self.compress)])
    }
}

/// Options of `wal import`.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(crate) struct WalImportArgs {
    /// Folders, or single files
    #[arg(value_name = "PATH", required = true)]
    pub(crate) sources: Vec<PathBuf>,
    /// Codec: `zstd`, `zstd:LEVEL`, `lz4` or `none` [default: zstd:3]
    #[arg(long, value_name = "CODEC")]
    compress: Option<String>,
}

impl WalImportArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("archive.compress", "--compress", &self.compress)])
    }
}

/// Options of `wal get`.
#[derive(Args, Debug)]
#[command(after_help = GET_EXAMPLES)]
pub(crate) struct GetArgs {
    /// The file's name, `%f`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Where to put it, `%p`
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// How many segments to fetch ahead; 0 switches that off [default: 8]
    #[arg(long, value_name = "N")]
    prefetch: Option<String>,
    /// Where segments fetched ahead wait [default: private, in the temporary folder]
    #[arg(long, value_name = "DIR")]
    spool: Option<String>,
    /// Exit with 1 also when it cannot be told, so that a standby goes on to streaming
    #[arg(long)]
    pub(crate) standby: bool,
}

impl GetArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([
            ("restore.prefetch", "--prefetch", &self.prefetch),
            ("restore.spool", "--spool", &self.spool),
        ])
    }
}
