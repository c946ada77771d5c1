//! `pgkeep standby create`.

use pgkeep_engine::Result;
use pgkeep_engine::standby::{StandbyRequest, create as run};

use super::Context;
use crate::args::standby::CreateArgs;
use crate::render::exchange as text;
use crate::render::progress::Progress;
use crate::{caller, exit, signal};

/// Makes a standby.
pub(super) fn create(context: &Context, args: CreateArgs) -> Result<u8> {
    let settings = context.settings();
    let request = StandbyRequest {
        location: context.location()?,
        primary: context.caller.connection(&args.connection, settings.conninfo.as_deref()),
        backup: args.backup,
        slot: args.slot,
        create_slot: args.create_slot,
        destination: context.caller.working_directory.join(args.destination),
        delta: args.delta,
        tablespace_map: args.tablespace_map,
        settings: args.set,
        restore_command: context.server_command()?.restore(&caller::program(), true),
        jobs: settings.restore.jobs,
        dry_run: args.dry_run,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(request.dry_run), cancel.clone());
    let report = run(&request, &progress, &cancel)?;
    drop(progress);
    let verbose = context.telling(request.dry_run).verbose > 0;
    context.answer(&report, |report| text::standby(report, verbose))?;
    Ok(exit::OK)
}
