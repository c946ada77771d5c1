//! Dumps and restores of databases of several shapes, next to stock `pg_dump` and `pg_restore` of the server's version.
//!
//! Both tools do the same at the same time of the cluster's life, in turn, with the same format, codec and number of
//! jobs. Each restores the archive that it wrote into a new database.

use std::path::PathBuf;

use super::dump_data::Database;
use super::measure::{Measured, folder_bytes, measure};
use super::peer::Workbench;
use super::{Options, collect};
use crate::Failure;

/// Who dumps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Stock,
    Pgkeep,
    /// With two jobs where stock's format allows one.
    PgkeepParallel,
    /// `pgkeep load` of what `pgkeep pg_dump` wrote.
    PgkeepLoad,
}

/// One way to dump.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// As options of `pg_dump`.
    format: &'static str,
    codec: &'static str,
    jobs: u32,
}

/// Directory archives with two jobs are what a stock user takes for speed, custom ones what most take.
const WAYS: [Way; 5] = [
    Way { format: "-Fd", codec: "zstd:3", jobs: 2 },
    Way { format: "-Fd", codec: "gzip:6", jobs: 2 },
    Way { format: "-Fd", codec: "none", jobs: 2 },
    Way { format: "-Fc", codec: "zstd:3", jobs: 1 },
    Way { format: "-Fc", codec: "none", jobs: 1 },
];

/// Fills the databases.
pub(super) fn prepare(bench: &Workbench<'_>, options: &Options, big_mib: u32) {
    for database in Database::wanted(options) {
        eprintln!("making the database {} …", database.name());
        database.generate(bench.cluster, options, big_mib);
    }
}

/// All steps, in as many rounds as asked.
pub(super) fn measure_all(bench: &Workbench<'_>, options: &Options) -> Vec<Measured> {
    let mut results = Vec::new();
    for round in 1..=options.rounds {
        for database in Database::wanted(options) {
            eprintln!("round {round} of {}: {}", options.rounds, database.name());
            match database {
                Database::Objects => {
                    results.extend([Tool::Stock, Tool::Pgkeep].map(|tool| definitions(bench, tool)));
                }
                Database::Big | Database::Small | Database::Wide => {
                    results.extend(WAYS.iter().flat_map(|way| dump_and_restore(bench, database, *way)));
                }
            }
        }
    }
    collect(results)
}

/// Each tool dumps in one way, and restores what it wrote.
fn dump_and_restore(bench: &Workbench<'_>, database: Database, way: Way) -> Vec<Result<Measured, Failure>> {
    let mut results = Vec::new();
    for tool in tools(way) {
        results.push(dump(bench, database, way, tool));
        // What a restore costs hardly depends on the codec.
        if way.codec == "zstd:3" {
            results.push(restore(bench, database, way, tool));
        }
        if way.codec == "zstd:3" && tool == Tool::Pgkeep {
            results.push(restore(bench, database, way, Tool::PgkeepLoad));
        }
    }
    results
}

fn tools(way: Way) -> Vec<Tool> {
    match way.jobs {
        1 => vec![Tool::Stock, Tool::Pgkeep, Tool::PgkeepParallel],
        _ => vec![Tool::Stock, Tool::Pgkeep],
    }
}

fn dump(bench: &Workbench<'_>, database: Database, way: Way, tool: Tool) -> Result<Measured, Failure> {
    let archive = archive(bench, tool);
    forget(&archive);
    let (archive_text, conninfo) =
        (archive.display().to_string(), bench.cluster.conninfo_db(database.name()));
    let jobs = match (way.jobs, tool) {
        (1, Tool::PgkeepParallel) => "--parallel=2".to_owned(),
        (1, _) => "--no-sync".to_owned(),
        (jobs, _) => format!("-j{jobs}"),
    };
    let arguments = [way.format, "-Z", way.codec, &jobs, "--no-sync", "-f", &archive_text, "-d", &conninfo];
    let measured = measure(command(bench, tool, "pg_dump", &arguments), bench.cluster.pid())?;
    let stored = if archive.is_dir() { folder_bytes(&archive) } else { std::fs::metadata(&archive)?.len() };
    Ok(Measured {
        step: format!("{}: dump {} {} -j{}", database.name(), way.format, way.codec, way.jobs),
        tool: name(tool, "dump"),
        stored,
        handled: size(bench, database),
        ..measured
    })
}

/// Restores what [`dump`] left, with two jobs.
fn restore(bench: &Workbench<'_>, database: Database, way: Way, tool: Tool) -> Result<Measured, Failure> {
    let written_by = if tool == Tool::PgkeepLoad { Tool::Pgkeep } else { tool };
    let archive = archive(bench, written_by).display().to_string();
    bench.cluster.sql("DROP DATABASE IF EXISTS restored");
    bench.cluster.sql("CREATE DATABASE restored TEMPLATE template0");
    bench.cluster.sql("CHECKPOINT");
    let conninfo = bench.cluster.conninfo_db("restored");
    let command = match tool {
        Tool::PgkeepLoad => {
            let arguments = ["load", &archive, "-j2", "-d", &conninfo, "--no-analyze", "--quiet"];
            bench.command(&bench.pgkeep, &arguments)
        }
        _ => command(bench, tool, "pg_restore", &["-j2", "-d", &conninfo, &archive]),
    };
    let measured = measure(command, bench.cluster.pid());
    let handled = size(bench, database);
    bench.cluster.sql("DROP DATABASE restored");
    Ok(Measured {
        step: format!("{}: restore -j2 of {} {}", database.name(), way.format, way.codec),
        tool: name(tool, "restore"),
        handled,
        ..measured?
    })
}

/// The definitions of many objects, to nowhere.
fn definitions(bench: &Workbench<'_>, tool: Tool) -> Result<Measured, Failure> {
    let conninfo = bench.cluster.conninfo_db(Database::Objects.name());
    let measured = measure(command(bench, tool, "pg_dump", &["-s", "-d", &conninfo]), bench.cluster.pid())?;
    Ok(Measured {
        step: "objects: dump -s".to_owned(),
        tool: name(tool, "dump"),
        handled: size(bench, Database::Objects),
        ..measured
    })
}

fn command(bench: &Workbench<'_>, tool: Tool, program: &str, arguments: &[&str]) -> std::process::Command {
    match tool {
        Tool::Stock => bench.stock(program, arguments),
        Tool::Pgkeep | Tool::PgkeepParallel | Tool::PgkeepLoad => bench.drop_in(program, arguments),
    }
}

fn name(tool: Tool, step: &str) -> &'static str {
    match (tool, step) {
        (Tool::Stock, "dump") => "pg_dump",
        (Tool::Stock, _) => "pg_restore",
        (Tool::Pgkeep, _) => "pgkeep",
        (Tool::PgkeepParallel, _) => "pgkeep --parallel=2",
        (Tool::PgkeepLoad, _) => "pgkeep load",
    }
}

fn archive(bench: &Workbench<'_>, tool: Tool) -> PathBuf {
    let folder = bench.root.join("bench-dump");
    bench.make_folder(&folder).map(|folder| folder.join(format!("{tool:?}"))).unwrap_or(folder)
}

fn forget(archive: &std::path::Path) {
    // Not there is as good.
    std::fs::remove_dir_all(archive).or_else(|_| std::fs::remove_file(archive)).unwrap_or(());
}

fn size(bench: &Workbench<'_>, database: Database) -> u64 {
    bench.cluster.sql(&format!("SELECT pg_database_size('{}')", database.name())).parse().unwrap_or(0)
}
