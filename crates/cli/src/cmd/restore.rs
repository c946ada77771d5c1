//! `pgkeep restore`.

use pgkeep_engine::Result;
use pgkeep_engine::restore::{RestoreRequest, restore as run};
use pgkeep_engine::standby::streaming_settings;

use super::Context;
use crate::args::connection::ConnectionArgs;
use crate::args::restore::RestoreArgs;
use crate::render::progress::Progress;
use crate::render::text;
use crate::{caller, exit, signal};

/// Restores a cluster.
pub(super) fn restore(context: &Context, args: RestoreArgs) -> Result<u8> {
    let restore_command = context.server_command()?.restore(&caller::program(), args.standby);
    let mut settings = match &args.primary {
        Some(primary) => {
            let here = ConnectionArgs { conninfo: Some(primary.clone()), ..ConnectionArgs::default() };
            let conninfo = context.caller.connection(&here, None).resolve()?.to_conninfo();
            streaming_settings(&conninfo, args.slot.as_deref())
        }
        None => Vec::new(),
    };
    settings.extend(args.set.iter().cloned());
    let request = RestoreRequest {
        location: context.location()?,
        target: args.recovery_target()?,
        timeline: args.timeline(),
        action: args.action(),
        backup: args.backup,
        exclusive: args.target_exclusive,
        tablespace_map: args.tablespace_map,
        standby: args.standby,
        settings,
        destination: context.caller.working_directory.join(args.destination),
        external_config: args
            .external_config
            .map(|directory| context.caller.working_directory.join(directory)),
        restore_command,
        caller_time_zone: caller::time_zone(),
        jobs: context.settings().restore.jobs,
        delta: args.delta,
        dry_run: args.dry_run,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(request.dry_run), cancel.clone());
    let report = run(&request, &progress, &cancel)?;
    drop(progress);
    let verbose = context.telling(request.dry_run).verbose > 0;
    context.answer(&report, |report| text::restore(report, verbose))?;
    Ok(exit::OK)
}
