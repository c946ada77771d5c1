//! Incremental backups, side by side: nothing changed, scattered pages, appended rows, a chain, and what a restore and a
//! clean-up cost after it.
//!
//! Every tool sees the same changes and builds on its own last backup. `pg_basebackup` can from 17 on, pgBackRest as it is
//! installed (Debian 12's knows servers up to 15, and no block increments).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::measure::{Measured, folder_bytes, measure};
use super::peer::{Peer, Workbench, run};
use crate::Failure;

/// One row in each of every so many pages is changed: 2 %.
const EVERY: u32 = 50;

/// Leaves room in pages, so that an updated row stays in its own.
pub(super) fn prepare(bench: &Workbench<'_>) {
    bench.cluster.sql("ALTER TABLE pgbench_accounts SET (fillfactor = 90)");
    bench.cluster.sql("VACUUM FULL pgbench_accounts");
    bench.cluster.sql("VACUUM (FREEZE, ANALYZE)");
    bench.cluster.sql("CHECKPOINT");
}

/// All steps; `chain` backups lie between the first and the restore.
pub(super) fn measure_all(bench: &Workbench<'_>, chain: u32) -> Vec<Result<Measured, Failure>> {
    let peers = present(bench);
    let mut results = Vec::new();
    for peer in &peers {
        if let Err(failure) = begin(bench, *peer) {
            results.push(Err(failure));
        }
    }
    let step = |name: &'static str, results: &mut Vec<Result<Measured, Failure>>| {
        for peer in &peers {
            eprintln!("{name}: {}", peer.name());
            results
                .push(increment(bench, *peer).map(|measured| Measured { step: name.to_owned(), ..measured }));
        }
    };
    // The first one after a full backup finds what the full one itself left behind.
    step("incremental, just after the full one", &mut results);
    step("incremental, nothing changed", &mut results);
    touch(bench, 1);
    step("incremental, 2 % of pages", &mut results);
    append(bench);
    step("incremental, 2 % appended", &mut results);
    for round in 0..chain {
        touch(bench, 2 + round);
        for peer in peers.iter().filter(|peer| peer.goes_on()) {
            if let Err(failure) = increment(bench, *peer) {
                results.push(Err(failure));
            }
        }
    }
    for peer in peers.iter().filter(|peer| peer.goes_on()) {
        let restored = bench.restore(*peer);
        results.push(
            restored.map(|measured| Measured { step: "restore after the chain".to_owned(), ..measured }),
        );
    }
    results.push(expire(bench));
    peers.iter().for_each(|peer| bench.forget(*peer));
    results
}

/// Removes so many backups at once, each with a few changes.
pub(super) fn measure_expire(bench: &Workbench<'_>, backups: u32) -> Vec<Result<Measured, Failure>> {
    let take = || -> Result<(), Failure> {
        begin(bench, Peer::Pgkeep)?;
        for number in 0..backups {
            bench.cluster.sql(&format!("CREATE TABLE expire_{number} AS SELECT {number}"));
            increment(bench, Peer::Pgkeep)?;
            if number % 100 == 99 {
                eprintln!("{} of {backups} backups", number + 1);
            }
        }
        Ok(())
    };
    let results = vec![take().and_then(|()| expire(bench))];
    bench.forget(Peer::Pgkeep);
    results
}

fn present(bench: &Workbench<'_>) -> Vec<Peer> {
    let mut peers = super::peer::present(bench);
    peers.retain(|peer| *peer != Peer::PgkeepStream);
    peers.insert(1, Peer::PgkeepCompare);
    peers.retain(|peer| *peer != Peer::PgBasebackup || bench.cluster.major() >= 17);
    peers
}

/// The full backup that the others build on.
fn begin(bench: &Workbench<'_>, peer: Peer) -> Result<(), Failure> {
    if peer != Peer::PgBasebackup {
        return bench.backup(peer).map(drop);
    }
    bench.forget(peer);
    bench.make_folder(&bench.repository(peer))?;
    run(basebackup(bench, 0))
}

/// Plain backups beside each other, each relative to the one before.
fn basebackup(bench: &Workbench<'_>, number: u32) -> Command {
    let folder =
        |number: u32| bench.repository(Peer::PgBasebackup).join(format!("b{number}")).display().to_string();
    let (target, conninfo) = (folder(number), bench.cluster.conninfo());
    let mut arguments = vec!["-d", &conninfo, "-c", "fast", "-X", "stream", "-D", &target];
    let manifest =
        number.checked_sub(1).map(|before| format!("--incremental={}/backup_manifest", folder(before)));
    arguments.extend(manifest.as_deref());
    bench.command(&bench.pg_basebackup, &arguments)
}

fn increment(bench: &Workbench<'_>, peer: Peer) -> Result<Measured, Failure> {
    let repository = bench.repository(peer);
    let before = folder_bytes(&repository);
    let shown = repository.display().to_string();
    let conninfo = bench.cluster.conninfo();
    let command = match peer {
        Peer::Pgkeep | Peer::PgkeepCompare | Peer::PgkeepStream => {
            let changes = if peer == Peer::PgkeepCompare { "compare" } else { "auto" };
            let arguments = ["backup", "--repo", &shown, "-d", &conninfo, "--jobs", "2", "--source", "local"];
            let more = ["--wal", "include", "--compress", bench.compress, "--changes", changes];
            bench.command(&bench.pgkeep, &[&arguments[..], &more].concat())
        }
        Peer::PgBasebackup => {
            let taken = fs::read_dir(&repository)?.count();
            basebackup(bench, u32::try_from(taken)?)
        }
        Peer::PgBackRest => bench.pgbackrest(&["backup", "--type=incr"]),
    };
    let mut measured = measure(command, bench.cluster.pid())?;
    measured.stored = folder_bytes(&repository).saturating_sub(before);
    Ok(Measured { tool: peer.name(), handled: bench.data_bytes, ..measured })
}

/// Changes one row in every fiftieth page, in other pages every time.
fn touch(bench: &Workbench<'_>, round: u32) {
    let page = round * 7 % EVERY;
    bench.cluster.sql(&format!(
        "UPDATE pgbench_accounts SET abalance = abalance + 1
         WHERE ctid IN (SELECT ctid FROM pgbench_accounts
                        WHERE (ctid::text::point)[0]::int % {EVERY} = {page} AND (ctid::text::point)[1] = 1)"
    ));
    bench.cluster.sql("CHECKPOINT");
}

/// Adds 2 % of the rows at the end.
fn append(bench: &Workbench<'_>) {
    bench.cluster.sql(
        "CREATE TABLE appended AS SELECT * FROM pgbench_accounts LIMIT (SELECT count(*) / 50 FROM pgbench_accounts)",
    );
    bench.cluster.sql("CHECKPOINT");
}

/// Removes all backups but the newest.
fn expire(bench: &Workbench<'_>) -> Result<Measured, Failure> {
    let repository: PathBuf = bench.repository(Peer::Pgkeep);
    let before = folder_bytes(&repository);
    let shown = repository.display().to_string();
    let command =
        bench.command(&bench.pgkeep, &["expire", "--repo", &shown, "--keep-count", "1", "--grace", "0s"]);
    let mut measured = measure(command, None)?;
    measured.stored = before.saturating_sub(folder_bytes(&repository));
    Ok(Measured {
        step: "expire of all but one".to_owned(),
        tool: Peer::Pgkeep.name(),
        handled: bench.data_bytes,
        ..measured
    })
}
