//! `cargo xtask tap`: PostgreSQL's own tests of its programs for dumps and backups, with pgkeep in their place.
//!
//! The scripts come from the Debian source package by apt, the servers are those of every other test. Nothing of either is
//! part of this repository. Strict: a script that dies counts every check that it did not reach as failed, and the
//! number to reach is what stock PostgreSQL passes on this machine, measured once per script.
//!
//! Half of the checks of `002_pg_dump` say that something is *not* in a dump, so an empty dump passes a third of them.
//! Hence checks that something *is* there are counted apart.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use pgkeep_testkit::{installation as server_installation, pgkeep_binary, project_root};

use crate::{Failure, servers};

mod installation;
mod result;
mod script;
mod source;
mod totals;

use installation::{Installation, Run};
use result::{Outcome, summarise};
use script::Script;
use source::Source;
use totals::Totals;

/// What to run, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Suites, or scripts of them by the beginning of their names, such as pg_dump/002
    #[arg(value_name = "SUITE[/FILE]", default_values = ["pg_dump", "test_pg_dump"])]
    wanted: Vec<String>,
    /// Scripts that run at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Longest that a script may take, in seconds
    #[arg(long, default_value_t = 900)]
    limit: u64,
    /// Names of failed checks to show for each script
    #[arg(long, default_value_t = 5)]
    show: usize,
    /// A file that was not written counts as empty, so that a script goes on (not the real bar)
    #[arg(long)]
    lenient: bool,
    /// Run PostgreSQL's own programs, and note what they pass as what is to be reached
    #[arg(long, conflicts_with = "lenient")]
    stock: bool,
    /// Source of PostgreSQL that is here already (a tar archive), instead of asking apt
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,
    /// Whose scripts and server
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u32).range(17..=18))]
    major: u32,
    /// In servers of the tests, `pgkeep wal push` and `wal get` archive and fetch WAL instead of `cp`
    #[arg(long, conflicts_with = "stock")]
    archive: bool,
}

/// Runs the scripts and prints what they say.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    servers::ensure()?;
    let source = Source::ensure(options.major, options.source.as_deref())?;
    let scripts = source.scripts(&options.wanted)?;
    if let Some(warning) = source.warning(&server_version(options.major)?) {
        eprintln!("{warning}");
    }
    let run = Run::begin()?;
    let mut totals = Totals::read(&source);
    let unknown: Vec<&Script> =
        scripts.iter().filter(|script| options.stock || totals.of(script).is_none()).collect();
    if !unknown.is_empty() {
        let stock = run.installation(&source, None)?;
        println!(
            "== stock PostgreSQL {} in {} scripts, to know what is to be reached",
            source.version,
            unknown.len()
        );
        let outcomes = run_all(options, &stock, &unknown, &totals);
        for outcome in &outcomes {
            totals.note(outcome)?;
        }
        if options.stock {
            return summarise(&outcomes);
        }
        run.clear_logs()?;
    }
    build()?;
    let mut ours = run.installation(&source, Some(&pgkeep_binary()))?;
    if options.archive {
        ours.archive_with(&pgkeep_binary(), &source)?;
    }
    println!(
        "== scripts of PostgreSQL {}, pgkeep in the place of {}{}{}",
        source.version,
        ours.swapped.join(", "),
        if options.archive { " and of `cp`" } else { "" },
        if options.lenient { "; lenient, not the real bar" } else { "" }
    );
    let all: Vec<&Script> = scripts.iter().collect();
    let outcomes = run_all(options, &ours, &all, &totals);
    println!("logs: {}", run.logs().display());
    summarise(&outcomes)
}

/// The version of the server that the scripts run against, such as 18.6.
fn server_version(major: u32) -> Result<String, Failure> {
    let postgres = server_installation(major).program("postgres");
    let output = Command::new(&postgres).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(2).filter(|_| output.status.success());
    version
        .map(str::to_owned)
        .ok_or_else(|| format!("`{} --version` says `{}`", postgres.display(), text.trim()).into())
}

/// Runs scripts, some at a time, and shows each result as it comes. In the order given.
fn run_all(
    options: &Options,
    installation: &Installation,
    scripts: &[&Script],
    totals: &Totals,
) -> Vec<Outcome> {
    let queue = Mutex::new(scripts.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, scripts.len().max(1)) {
            scope.spawn(|| {
                while let Some((position, script)) = next() {
                    let outcome = script.run(installation, options.limit, options.lenient, totals.of(script));
                    outcome.show(options.show);
                    if let Ok(mut done) = done.lock() {
                        done.push((position, outcome));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Builds the program, unless `PGKEEP_BINARY` names another one.
pub(crate) fn build() -> Result<(), Failure> {
    if std::env::var_os("PGKEEP_BINARY").is_some() {
        return Ok(());
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "pgkeep"]).current_dir(project_root());
    if command.status()?.success() { Ok(()) } else { Err("`cargo build -p pgkeep` failed".into()) }
}
