//! The project's own chores.
//!
//! `cargo xtask demo` shows a table brought back from the dead, `cargo xtask test` proves the whole project,
//! `cargo xtask bench` measures it against its peers, `cargo xtask tap` lets PostgreSQL's own tests judge it, and
//! `cargo xtask campaign` kills at random. Each installs what it needs below the project's cache folder.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod campaign;
mod compare_dump;
mod demo;
mod fuzz;
mod servers;
mod shell;
mod tap;
mod test;

/// The project's own chores
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install PostgreSQL 14 to 18 for the tests into the cache folder (.cache or PGKEEP_CACHE)
    Servers,
    /// Check format, lints and documentation, then run every test on real servers
    Test(test::Options),
    /// Back up a throw-away cluster, drop a table by accident, and bring it back
    Demo(demo::Options),
    /// Measure backup, restore and WAL push against pg_basebackup and pgBackRest
    Bench(bench::Options),
    /// Compare our dump's entries with those of stock pg_dump
    CompareDump(compare_dump::Options),
    /// Run PostgreSQL's own tests of its programs for dumps and backups with pgkeep in their place
    Tap(tap::Options),
    /// Kill servers and receivers of WAL at random, and look that nothing acknowledged is lost
    Campaign(campaign::Options),
    /// Feed every parser with hostile bytes for a while
    Fuzz(fuzz::Options),
}

/// Why a chore failed, in words for the terminal.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Servers => servers::run(),
        Chore::Test(options) => test::run(&options),
        Chore::Demo(options) => demo::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::CompareDump(options) => compare_dump::run(&options),
        Chore::Tap(options) => tap::run(&options),
        Chore::Campaign(options) => campaign::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            let mut source = failure.source();
            while let Some(cause) = source {
                eprintln!("  caused by: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}
