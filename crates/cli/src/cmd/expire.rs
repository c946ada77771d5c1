//! `pgkeep expire`, `pgkeep hold` and `pgkeep release`.

use pgkeep_engine::expire::{ExpireChoice, ExpireReport, ExpireRequest, RetentionPolicy, expire as run};
use pgkeep_engine::{Cancel, Observer, Result};

use super::Context;
use crate::args::expire::{ExpireArgs, HoldArgs, ReleaseArgs};
use crate::render::expire as text;
use crate::render::progress::Progress;
use crate::{exit, signal};

/// Removes what the policy does not keep, or one backup.
pub(super) fn expire(context: &Context, args: &ExpireArgs) -> Result<u8> {
    let policy = context.settings().retention.policy;
    let choice = args.backup.clone().map_or(ExpireChoice::Policy(policy), ExpireChoice::Backup);
    let request = request(context, choice, args.dry_run)?;
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(args.dry_run), cancel.clone());
    let report = run(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, text::expire)?;
    Ok(exit::OK)
}

/// What follows a successful backup, where a policy is configured.
pub(super) fn after_backup(
    context: &Context,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Option<Result<ExpireReport>> {
    let policy = context.settings().retention.policy;
    policy
        .is_configured()
        .then(|| run(&request(context, ExpireChoice::Policy(policy), false)?, observer, cancel))
}

/// What follows a successful dump, where something says which dumps are kept.
pub(super) fn after_dump(
    context: &Context,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Option<Result<ExpireReport>> {
    // Of backups nothing goes after a dump.
    let choice = ExpireChoice::Policy(RetentionPolicy::default());
    let is_configured = context.settings().retention.dumps.is_configured();
    is_configured.then(|| run(&request(context, choice, false)?, observer, cancel))
}

fn request(context: &Context, choice: ExpireChoice, dry_run: bool) -> Result<ExpireRequest> {
    let retention = &context.settings().retention;
    Ok(ExpireRequest {
        location: context.location()?,
        choice,
        dumps: retention.dumps,
        grace_seconds: retention.grace_seconds,
        abandoned_after_seconds: retention.abandoned_after_seconds,
        dry_run,
    })
}

/// Holds a backup.
pub(super) fn hold(context: &Context, args: &HoldArgs) -> Result<u8> {
    let report = pgkeep_engine::expire::hold(&context.location()?, &args.id, &args.reason)?;
    context.answer(&report, text::hold)?;
    Ok(exit::OK)
}

/// Lets go of a backup.
pub(super) fn release(context: &Context, args: &ReleaseArgs) -> Result<u8> {
    let report = pgkeep_engine::expire::release(&context.location()?, &args.id)?;
    context.answer(&report, text::hold)?;
    Ok(exit::OK)
}
