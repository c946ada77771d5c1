//! `pgkeep config show`.

use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  pgkeep config show --origin
  PGKEEP_BACKUP_JOBS=2 pgkeep config show --stanza orders";

/// Options of `config`.
#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true, subcommand_value_name = "VERB")]
pub(crate) struct ConfigArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

/// The verbs of `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print every setting, passwords hidden
    Show(ConfigShowArgs),
}

/// Options of `config show`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConfigShowArgs {
    /// Say where each value comes from
    #[arg(long)]
    pub(crate) origin: bool,
}
