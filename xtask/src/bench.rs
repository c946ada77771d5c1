//! `cargo xtask bench`: what pgkeep costs next to its peers, on data made here.
//!
//! All tools copy the same cluster in one call, in turn, with the same codec and level, and the median round of
//! each is printed. CPU time includes the server's share, since a tool that lets the server do its work has not
//! saved it. Figures go to `docs/benchmarks.md` by hand, with the machine. No test asserts a time.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_testkit::{Cluster, Scratch, installation, pgkeep_binary, project_root};

use crate::Failure;

mod data;
mod dump;
mod dump_data;
mod incremental;
mod measure;
mod peer;
mod physical;
mod table;

use measure::Measured;
use peer::Workbench;

/// What is measured on how much data.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Size of pgbench's tables, in its unit of 15 MB
    #[arg(long, default_value_t = 40)]
    scale: u32,
    /// MiB of text and jsonb, which compress well
    #[arg(long, default_value_t = 200)]
    text: u32,
    /// MiB of random bytes, which do not
    #[arg(long, default_value_t = 100)]
    random: u32,
    /// Number of small tables
    #[arg(long, default_value_t = 5000)]
    tables: u32,
    /// Rounds of each tool; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Codec and level, for every tool
    #[arg(long, default_value = "zstd:3")]
    compress: String,
    /// WAL segments to push one by one
    #[arg(long, default_value_t = 16)]
    segments: u32,
    /// Measure incremental backups instead, with so many of them in a chain
    #[arg(long, value_name = "CHAIN", num_args = 0..=1, default_missing_value = "20")]
    incremental: Option<u32>,
    /// Measure instead how so many backups are removed at once
    #[arg(long, value_name = "BACKUPS", num_args = 0..=1, default_missing_value = "1000")]
    expire: Option<u32>,
    /// Measure dumps instead, of one table of so many MiB, of the small tables, of wide rows, and of definitions
    #[arg(long, value_name = "MIB", num_args = 0..=1, default_missing_value = "5120")]
    dump: Option<u32>,
    /// Measure instead base backups, their verification and combination, and receiving WAL
    #[arg(long)]
    physical: bool,
    /// Of the databases that are dumped, only these
    #[arg(long, value_enum, requires = "dump")]
    database: Vec<dump_data::Database>,
    /// Number of objects whose definitions are dumped
    #[arg(long, default_value_t = 100_000)]
    objects: u32,
    /// Where repositories and restored clusters go; put it on a journaled file system (PGKEEP_TEST_TMP does the
    /// same for the server's own directory)
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Server major; Debian 12's pgBackRest knows none above 15
    #[arg(long, default_value_t = 15)]
    major: u32,
}

/// Measures every tool that is here and prints one table.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    crate::servers::ensure()?;
    build_release()?;
    let scratch = Scratch::new();
    let root = match &options.dir {
        Some(folder) => folder.clone(),
        None => scratch.path().to_owned(),
    };
    eprintln!("making the data …");
    let mut builder = Cluster::builder(options.major)
        .conf("max_wal_size", "4GB")
        .conf("shared_buffers", "256MB")
        .conf("autovacuum", "off");
    if options.dump.is_some() {
        // A dump locks every table.
        builder = builder.conf("max_locks_per_transaction", "1024");
    }
    if options.physical || options.incremental.or(options.expire).is_some() {
        // So that WAL since the last backup is there although nobody archives it.
        builder = builder.conf("wal_keep_size", "4GB");
        if options.major >= 17 {
            builder = builder.conf("summarize_wal", "on");
        }
    }
    let cluster = builder.start();
    if options.dump.is_none() {
        data::generate(&cluster, options);
    }
    let size: u64 = cluster.sql("SELECT sum(pg_database_size(oid))::bigint FROM pg_database").parse()?;
    let bench = Workbench {
        cluster: &cluster,
        root: &root,
        compress: &options.compress,
        data_bytes: size,
        pgkeep: release_binary(),
        // Of the test installations only 17's has zstd and lz4; it serves older servers too.
        pg_basebackup: installation(options.major.max(17)).program("pg_basebackup"),
    };
    if let Some(mib) = options.dump {
        dump::prepare(&bench, options, mib);
        let results = dump::measure_all(&bench, options);
        let size: u64 = cluster.sql("SELECT sum(pg_database_size(oid))::bigint FROM pg_database").parse()?;
        println!("{}", table::render(&machine(options, size), &results));
        return Ok(());
    }
    if options.physical {
        let results = physical::measure_all(&bench, options)?;
        println!("{}", table::render(&machine(options, size), &results));
        return Ok(());
    }
    if let Some(chain) = options.incremental {
        incremental::prepare(&bench);
        let results = incremental::measure_all(&bench, chain);
        println!("{}", table::render(&machine(options, size), &collect(results)));
        return Ok(());
    }
    if let Some(backups) = options.expire {
        let results = incremental::measure_expire(&bench, backups);
        println!("{}", table::render(&machine(options, size), &collect(results)));
        return Ok(());
    }
    let mut results = Vec::new();
    let peers = peer::present(&bench);
    for round in 1..=options.rounds {
        for peer in &peers {
            eprintln!("round {round} of {}: {}", options.rounds, peer.name());
            results.push(bench.backup(*peer));
            results.push(bench.restore(*peer));
            results.extend(bench.delta_restore(*peer));
            bench.forget(*peer);
        }
    }
    let pushes = bench.push_wal(options.segments);
    results.extend(pushes);
    println!("{}", table::render(&machine(options, size), &collect(results)));
    Ok(())
}

/// A failed measurement is printed in its place, so that one broken tool does not hide the others.
fn collect(results: Vec<Result<Measured, Failure>>) -> Vec<Measured> {
    results
        .into_iter()
        .filter_map(|result| result.inspect_err(|failure| eprintln!("not measured: {failure}")).ok())
        .collect()
}

fn machine(options: &Options, size: u64) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("?", |pair| pair.1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "PostgreSQL {}, {:.2} GiB of data, {}, {cores} × {}, median of {} rounds",
        options.major,
        gib(size),
        options.compress,
        model.trim(),
        options.rounds
    )
}

/// Bytes in GiB, for printing.
fn gib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "printed with two decimals")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 30)
}

/// Builds the program with optimisation, unless `PGKEEP_BINARY` names one to measure.
fn build_release() -> Result<(), Failure> {
    if std::env::var_os("PGKEEP_BINARY").is_some() {
        return Ok(());
    }
    eprintln!("building pgkeep with optimisation …");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--quiet", "--package", "pgkeep"]).current_dir(project_root());
    if command.status()?.success() { Ok(()) } else { Err("`cargo build --release -p pgkeep` failed".into()) }
}

/// The optimised build beside the one this program belongs to, copied for the server user.
fn release_binary() -> PathBuf {
    if std::env::var_os("PGKEEP_BINARY").is_some() {
        return pgkeep_binary();
    }
    let own = std::env::current_exe().unwrap_or_default();
    let release = own.parent().and_then(Path::parent).map(|target| target.join("release/pgkeep"));
    if let Some(path) = release.filter(|path| path.exists()) {
        return pgkeep_testkit::world_executable(&path);
    }
    pgkeep_binary()
}
