//! `pgkeep wal push` and `pgkeep wal get`, whose command lines stand in the server's settings, and `pgkeep wal receive`, which
//! runs beside the server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connection::ConnectionArgs;
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

const RECEIVE_EXAMPLES: &str = "\
Examples:
  pgkeep wal receive --repo /srv/backup --create-slot -h db1 -U replicator
  pgkeep wal receive --repo /srv/backup --create-slot --synchronous \\
      -d 'host=db1,db2 target_session_attrs=read-write user=replicator'
  pgkeep wal receive --repo /srv/backup --spool-only    # store what the spool holds

With `synchronous_standby_names = 'pgkeep_main'` (the slot's name) on the server, and
--synchronous here, every commit that a client saw is in the spool, flushed. Ends with SIGINT
or SIGTERM. Exit codes: 0 done; 9 WAL was lost and there is no backup after it.";

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
    /// Receive WAL from a running server, as it is written
    Receive(Box<ReceiveArgs>),
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

/// Options of `wal receive`.
#[derive(Args, Debug)]
#[command(after_help = RECEIVE_EXAMPLES)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option")]
pub(crate) struct ReceiveArgs {
    /// Replication slot that keeps WAL on the server [default: pgkeep_ and the stanza's name]
    #[arg(long, value_name = "NAME", conflicts_with = "no_slot")]
    pub(crate) slot: Option<String>,
    /// Use no slot: WAL that the server removes too early is lost
    #[arg(long)]
    pub(crate) no_slot: bool,
    /// Make the slot where it is missing, and anew where the server gave it up
    #[arg(long, conflicts_with = "no_slot")]
    pub(crate) create_slot: bool,
    /// Flush WAL and tell the server as soon as it arrives, as a synchronous standby
    #[arg(long)]
    pub(crate) synchronous: bool,
    /// Where WAL waits until it is stored; on a disk that lasts [default: ~/.local/state/pgkeep/receive]
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,
    /// Store what the spool holds, and ask no server
    #[arg(long)]
    pub(crate) spool_only: bool,
    /// How often to store the beginning of the open segment, in seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) partial_every: u64,
    /// Codec: `zstd`, `zstd:LEVEL`, `lz4` or `none` [default: zstd:3]
    #[arg(long, value_name = "CODEC")]
    compress: Option<String>,
    /// End when all WAL before this position is received
    #[arg(long, value_name = "LSN")]
    pub(crate) until: Option<pgkeep_format::Lsn>,
    /// End when the server is lost, instead of trying again for ever
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// When WAL was lost, take a backup at once
    #[arg(long)]
    pub(crate) backup_after_gap: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

impl ReceiveArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("archive.compress", "--compress", &self.compress)])
    }
}
