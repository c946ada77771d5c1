//! `cargo xtask campaign`: servers and receivers killed at random, many more times than the tests can afford.
//!
//! The same code runs as a test with a few rounds; here it gets a number and a seed, which it prints, so that a failure
//! can be had again.

use std::process::Command;

use pgkeep_testkit::project_root;

use crate::{Failure, servers, tap};

/// How long, and which way.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds: in each a primary, a receiver or both are killed, the cluster is restored, and every acknowledged commit looked for
    #[arg(long, default_value_t = 200)]
    rounds: u32,
    /// Where chance begins
    #[arg(long, default_value_t = 20_261_125)]
    seed: u64,
}

/// Runs the rounds; the first lost commit ends them.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    servers::ensure()?;
    tap::build()?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--quiet", "--package", "pgkeep-engine", "--test", "wal_receive_kills"]);
    command.args(["--", "--nocapture"]).current_dir(project_root());
    command.env("PGKEEP_RECEIVE_ROUNDS", options.rounds.to_string());
    command.env("PGKEEP_RECEIVE_SEED", options.seed.to_string());
    if command.status()?.success() {
        return Ok(());
    }
    Err(format!("a round failed; `--seed {}` goes the same way again", options.seed).into())
}
