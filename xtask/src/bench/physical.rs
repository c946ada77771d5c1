//! The physical programs next to stock's of the server's version: base backups, their verification, their combination, and
//! WAL as it is received.
//!
//! Both do the same at the same time of the cluster's life, in turn. What is verified and combined was made by stock's
//! `pg_basebackup`, so that both read the very same files.

use std::path::PathBuf;
use std::process::Command;

use pgkeep_testkit::installation;

use super::measure::{Measured, folder_bytes, measure};
use super::peer::{Workbench, run};
use super::{Options, collect};
use crate::Failure;

/// Whose programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Stock,
    Pgkeep,
}

/// Formats of base backups, as options.
const WAYS: [(&str, &[&str]); 4] = [
    ("plain", &["-Fp"]),
    ("tar", &["-Ft"]),
    ("tar gzip:6", &["-Ft", "-Z", "client-gzip:6"]),
    ("tar zstd:3", &["-Ft", "-Z", "client-zstd:3"]),
];

/// Incremental backups of a chain that is combined.
const CHAIN: u32 = 3;

/// WAL that is received, in MiB.
const WAL_MIB: u32 = 512;

/// All steps, in as many rounds as asked.
pub(super) fn measure_all(bench: &Workbench<'_>, options: &Options) -> Result<Vec<Measured>, Failure> {
    let mut results = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}: base backups", options.rounds);
        for way in WAYS {
            results.extend(TOOLS.map(|tool| base_backup(bench, tool, way)));
        }
        eprintln!("round {round} of {}: verification", options.rounds);
        for (name, arguments) in [WAYS[0], WAYS[2]] {
            let backup = make_backup(bench, "to-verify", arguments)?;
            results.extend(TOOLS.map(|tool| verify(bench, tool, name, &backup)));
        }
        if options.major >= 17 {
            eprintln!("round {round} of {}: combination", options.rounds);
            let chain = make_chain(bench)?;
            results.extend(TOOLS.map(|tool| combine(bench, tool, &chain)));
        }
        eprintln!("round {round} of {}: WAL", options.rounds);
        results.extend(TOOLS.map(|tool| receive(bench, tool)));
        results.push(receive_into_repository(bench));
    }
    forget(bench);
    Ok(collect(results))
}

const TOOLS: [Tool; 2] = [Tool::Stock, Tool::Pgkeep];

fn base_backup(
    bench: &Workbench<'_>,
    tool: Tool,
    (name, format): (&str, &[&str]),
) -> Result<Measured, Failure> {
    let target = empty(bench, "base-backup")?;
    let (shown, conninfo) = (target.display().to_string(), bench.cluster.conninfo());
    let common = ["-d", &conninfo, "-c", "fast", "-X", "fetch", "-D", &shown];
    let measured =
        measure(command(bench, tool, "pg_basebackup", &[&common, format].concat()), bench.cluster.pid())?;
    let stored = folder_bytes(&target);
    Ok(Measured {
        step: format!("base backup, {name}"),
        tool: label(tool, "pg_basebackup"),
        stored,
        handled: bench.data_bytes,
        ..measured
    })
}

fn verify(bench: &Workbench<'_>, tool: Tool, name: &str, backup: &str) -> Result<Measured, Failure> {
    // Stock's reads archives from 18 on, and no WAL in them.
    let arguments: &[&str] = if name == "plain" { &[backup] } else { &["-n", backup] };
    let command = match tool {
        Tool::Stock => bench.command(&installation(18).program("pg_verifybackup"), arguments),
        Tool::Pgkeep => command(bench, tool, "pg_verifybackup", arguments),
    };
    Ok(Measured {
        step: format!("verification, {name}"),
        tool: label(tool, "pg_verifybackup"),
        handled: bench.data_bytes,
        ..measure(command, None)?
    })
}

fn combine(bench: &Workbench<'_>, tool: Tool, chain: &[String]) -> Result<Measured, Failure> {
    let target = empty(bench, "combined")?;
    let shown = target.display().to_string();
    let mut arguments = vec!["-o", &shown];
    arguments.extend(chain.iter().map(String::as_str));
    let measured = measure(command(bench, tool, "pg_combinebackup", &arguments), None)?;
    let stored = folder_bytes(&target);
    Ok(Measured {
        step: format!("combination of 1 + {CHAIN}"),
        tool: label(tool, "pg_combinebackup"),
        stored,
        handled: bench.data_bytes,
        ..measured
    })
}

/// Receives WAL while the server writes as fast as it can.
fn receive(bench: &Workbench<'_>, tool: Tool) -> Result<Measured, Failure> {
    let target = empty(bench, "received")?.display().to_string();
    let (conninfo, end) = (bench.cluster.conninfo(), end_of_wal(bench)?);
    let shown = lsn(end);
    let arguments = ["-d", &conninfo, "-D", &target, "--no-loop", "--synchronous", "--endpos", &shown];
    let command = command(bench, tool, "pg_receivewal", &arguments);
    received(bench, command, end, label(tool, "pg_receivewal"))
}

fn receive_into_repository(bench: &Workbench<'_>) -> Result<Measured, Failure> {
    let repository = empty(bench, "repository")?.display().to_string();
    let spool = empty(bench, "spool")?.display().to_string();
    let conninfo = bench.cluster.conninfo();
    run(bench.command(&bench.pgkeep, &["init", "--repo", &repository, "-d", &conninfo]))?;
    let end = end_of_wal(bench)?;
    let shown = lsn(end);
    let arguments = [
        "wal",
        "receive",
        "--repo",
        &repository,
        "--spool",
        &spool,
        "--no-slot",
        "--synchronous",
        "--until",
        &shown,
        "-d",
        &conninfo,
    ];
    received(bench, bench.command(&bench.pgkeep, &arguments), end, "pgkeep wal receive")
}

/// Runs a receiver that ends at a position, and the server until a little behind it: a receiver begins a moment later.
fn received(
    bench: &Workbench<'_>,
    command: Command,
    end: u64,
    tool: &'static str,
) -> Result<Measured, Failure> {
    let measured = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_wal(bench, end + (16 << 20)));
        let measured = measure(command, bench.cluster.pid());
        writer.join().map_err(|_| "the server could not write".to_owned())??;
        measured
    })?;
    Ok(Measured {
        step: format!("{WAL_MIB} MiB of WAL"),
        tool,
        handled: u64::from(WAL_MIB) << 20,
        ..measured
    })
}

fn write_wal(bench: &Workbench<'_>, end: u64) -> Result<(), String> {
    bench.cluster.sql("CREATE TABLE written (filler text)");
    while position(bench)? < end {
        bench.cluster.sql("INSERT INTO written SELECT repeat('x', 1000) FROM generate_series(1, 16000)");
    }
    bench.cluster.sql("DROP TABLE written");
    bench.cluster.switch_wal();
    Ok(())
}

/// A position that much WAL from now.
fn end_of_wal(bench: &Workbench<'_>) -> Result<u64, Failure> {
    bench.cluster.switch_wal();
    Ok(position(bench)? + (u64::from(WAL_MIB) << 20))
}

fn position(bench: &Workbench<'_>) -> Result<u64, String> {
    let text = bench.cluster.sql("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn");
    text.parse().map_err(|error| format!("`{text}` is not a position: {error}"))
}

fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

/// A full backup and some incremental ones, each after a change of one row in fifty.
fn make_chain(bench: &Workbench<'_>) -> Result<Vec<String>, Failure> {
    let mut chain = vec![make_backup(bench, "chain-0", WAYS[0].1)?];
    for number in 1..=CHAIN {
        bench
            .cluster
            .sql(&format!("UPDATE pgbench_accounts SET abalance = {number} WHERE aid % 50 = {number}"));
        let manifest = format!("--incremental={}/backup_manifest", chain.last().cloned().unwrap_or_default());
        chain.push(make_backup(bench, &format!("chain-{number}"), &["-Fp", &manifest])?);
    }
    Ok(chain)
}

/// A backup by stock's program; not counted.
fn make_backup(bench: &Workbench<'_>, name: &str, arguments: &[&str]) -> Result<String, Failure> {
    let target = empty(bench, name)?.display().to_string();
    let conninfo = bench.cluster.conninfo();
    let common = ["-d", &conninfo, "-c", "fast", "-X", "fetch", "-D", &target];
    run(command(bench, Tool::Stock, "pg_basebackup", &[&common, arguments].concat()))?;
    Ok(target)
}

fn command(bench: &Workbench<'_>, tool: Tool, program: &str, arguments: &[&str]) -> Command {
    match tool {
        Tool::Stock => bench.stock(program, arguments),
        Tool::Pgkeep => bench.drop_in(program, arguments),
    }
}

fn label(tool: Tool, program: &'static str) -> &'static str {
    match tool {
        Tool::Stock => program,
        Tool::Pgkeep => "pgkeep",
    }
}

/// A folder of the bench, made anew.
fn empty(bench: &Workbench<'_>, name: &str) -> Result<PathBuf, Failure> {
    let folder = bench.root.join("bench-physical");
    bench.make_folder(&folder)?;
    let folder = folder.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    bench.make_folder(&folder)
}

fn forget(bench: &Workbench<'_>) {
    // Not there is as good.
    std::fs::remove_dir_all(bench.root.join("bench-physical")).unwrap_or(());
}
