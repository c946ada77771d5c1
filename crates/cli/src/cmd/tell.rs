//! `pgkeep init`, `list`, `show` and `check`: short verbs that mostly tell.

use pgkeep_engine::Result;
use pgkeep_engine::check::CheckRequest;
use pgkeep_engine::init::InitRequest;

use super::Context;
use crate::args::init::InitArgs;
use crate::args::show::{CheckArgs, ShowArgs};
use crate::render::progress::Progress;
use crate::render::style::Palette;
use crate::render::text;
use crate::{caller, exit};

/// Makes the repository and the stanza.
pub(super) fn init(context: &Context, args: &InitArgs) -> Result<u8> {
    let location = context.location()?;
    let report = pgkeep_engine::init::init(&InitRequest {
        location: location.clone(),
        connection: context.caller.connection(&args.connection, context.settings().conninfo.as_deref()),
        apply: args.apply,
        archive_command: context.server_command()?.archive(&caller::program()),
    })?;
    context.answer(&report, |report| text::init(report, &location.repository, &location.stanza))?;
    Ok(exit::OK)
}

/// Lists the stanza.
pub(super) fn list(context: &Context) -> Result<u8> {
    context.answer(&pgkeep_engine::list::list(&context.location()?)?, text::list)?;
    Ok(exit::OK)
}

/// Shows one backup.
pub(super) fn show(context: &Context, args: &ShowArgs) -> Result<u8> {
    context.answer(&pgkeep_engine::list::show(&context.location()?, &args.id)?, text::show)?;
    Ok(exit::OK)
}

/// Tries the set-up.
pub(super) fn check(context: &Context, args: &CheckArgs) -> Result<u8> {
    let settings = context.settings();
    let request = CheckRequest {
        location: context.location()?,
        connection: context.caller.connection(&args.connection, settings.conninfo.as_deref()),
        archive_command: context.server_command()?.archive(&caller::program()),
        archive_timeout_seconds: settings.backup.archive_timeout_seconds,
        incremental_sample: args.incremental_sample,
    };
    let progress = Progress::new(context.telling(false), pgkeep_engine::Cancel::default());
    let report = pgkeep_engine::check::check(&request, &progress)?;
    drop(progress);
    context.answer(&report, |report| text::check(report, Palette::stdout()))?;
    Ok(if report.ok { exit::OK } else { exit::NO })
}
