//! `pgkeep wal push` and `pgkeep wal get`: called by the server, silent unless something is wrong.
//!
//! What they say ends up in the server's log. How they exit is read by the server: see `exit`.

use std::path::PathBuf;

use pgkeep_engine::Result;
use pgkeep_engine::wal::{GetOutcome, GetRequest, PushOutcome, PushRequest};

use super::Context;
use crate::args::wal::{GetArgs, PushArgs};
use crate::render::quantity::size;
use crate::{exit, render};

/// Stores one WAL file.
pub(super) fn push(context: &Context, args: PushArgs) -> Result<u8> {
    let report = pgkeep_engine::wal::push(&PushRequest {
        location: context.location()?,
        path: args.path,
        compression: context.settings().archive_compression,
    })?;
    if let Some(warning) = &report.warning {
        render::warn(&format!("{}: {warning}", report.name));
    }
    if context.global.json || context.global.verbose > 0 {
        context.answer(&report, |report| {
            let outcome = match report.outcome {
                PushOutcome::Stored => format!("stored, {} in the repository", size(report.stored_bytes)),
                PushOutcome::AlreadyThere => "was there already".to_owned(),
            };
            format!("{}: {outcome}\n", report.name)
        })?;
    }
    Ok(exit::OK)
}

/// Where segments fetched ahead wait unless told otherwise. Not in the data directory: tools that copy `pg_wal`, such as
/// pg_rewind, would take them along. Each user has a spool of his own, which the engine trusts only if it is private.
fn default_spool() -> PathBuf {
    std::env::temp_dir().join(format!("pgkeep-spool-{}", rustix::process::geteuid().as_raw()))
}

/// Fetches one WAL file.
pub(super) fn get(context: &Context, args: GetArgs) -> Result<u8> {
    #[derive(serde::Serialize)]
    struct Report {
        name: String,
        outcome: GetOutcome,
    }
    let prefetch = context.settings().restore.prefetch;
    let spool = context.settings().restore.spool.clone().or_else(|| Some(default_spool()));
    let outcome = pgkeep_engine::wal::get(&GetRequest {
        location: context.location()?,
        name: args.name.clone(),
        path: args.path,
        spool: spool.filter(|_| prefetch > 0),
        prefetch,
    })?;
    if context.global.json || context.global.verbose > 0 {
        context.answer(&Report { name: args.name, outcome }, |report| {
            let words = match report.outcome {
                GetOutcome::Delivered => "delivered",
                GetOutcome::NotThere => "is not in the archive",
            };
            format!("{}: {words}\n", report.name)
        })?;
    }
    Ok(match outcome {
        GetOutcome::Delivered => exit::OK,
        GetOutcome::NotThere => exit::NO,
    })
}
