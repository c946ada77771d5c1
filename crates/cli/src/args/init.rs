//! `pgkeep init`.

use clap::Args;

use super::connection::ConnectionArgs;

const EXAMPLES: &str = "\
Examples:
  pgkeep init --repo /srv/backup -h /var/run/postgresql -U postgres
  pgkeep init --repo /srv/backup --stanza orders -d 'service=orders' --apply

Safe to run again: what exists already is left as it is.";

/// Options of `init`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Set what the server lacks with ALTER SYSTEM
    #[arg(long)]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}
