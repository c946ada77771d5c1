//! `pgkeep verify`.

use std::time::{SystemTime, UNIX_EPOCH};

use pgkeep_engine::Result;
use pgkeep_engine::verify::{VerifyRequest, verify as run};

use super::Context;
use crate::args::verify::VerifyArgs;
use crate::render::progress::Progress;
use crate::{exit, render, signal};

/// Verifies what is stored, or tries a restore.
pub(super) fn verify(context: &Context, args: VerifyArgs) -> Result<u8> {
    let request = VerifyRequest {
        location: context.location()?,
        backup: args.one_backup(),
        sample_percent: args.sample,
        since_last: args.since_last,
        max_bytes: args.max_bytes,
        max_time: args.max_time,
        jobs: context.settings().restore.jobs,
        seed: chance(),
        dry_run: args.dry_run,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(request.dry_run), cancel.clone());
    let report = run(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, render::verify::verify)?;
    Ok(if !report.ok {
        exit::DAMAGED
    } else if report.interrupted {
        exit::code(pgkeep_engine::ErrorKind::Interrupted)
    } else if report.not_stored.is_some() {
        exit::code(pgkeep_engine::ErrorKind::Storage)
    } else {
        exit::OK
    })
}

/// Which part a sample takes need not be secret, only not always the same.
fn chance() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or_default() ^ u64::from(std::process::id())
}
