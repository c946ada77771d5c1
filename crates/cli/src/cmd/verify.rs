//! `pgkeep verify`.

use std::time::{SystemTime, UNIX_EPOCH};

use pgkeep_engine::drill::{DrillRequest, RunAs, Script, drill as run_drill};
use pgkeep_engine::verify::{VerifyRequest, verify as run};
use pgkeep_engine::{Error, ErrorKind, Result};

use super::Context;
use crate::args::verify::VerifyArgs;
use crate::render::progress::Progress;
use crate::{caller, exit, render, signal};

/// Verifies what is stored, or tries a restore.
pub(super) fn verify(context: &Context, args: VerifyArgs) -> Result<u8> {
    if args.restore {
        return drill(context, args);
    }
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
        exit::code(ErrorKind::Interrupted)
    } else if report.not_stored.is_some() {
        exit::code(ErrorKind::Storage)
    } else {
        exit::OK
    })
}

/// Restores, starts a server, asks it, and removes everything.
fn drill(context: &Context, args: VerifyArgs) -> Result<u8> {
    let script = match &args.sql {
        None => None,
        Some(file) => {
            let path = context.caller.working_directory.join(file);
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Error::new(ErrorKind::Usage, format!("cannot read `{}`", path.display()))
                    .cause(error)
                    .hint("name a file of SQL statements in UTF-8")
            })?;
            Some(Script { name: file.display().to_string(), text })
        }
    };
    let run_as = match &args.run_as {
        None => None,
        Some(name) => {
            let (uid, gid) = caller::account(name).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("there is no user `{name}` on this machine"))
                    .hint("`--run-as` wants a name of /etc/passwd, such as `postgres`")
            })?;
            Some(RunAs { uid, gid })
        }
    };
    let roles = match &args.role {
        Some(role) => vec![role.clone()],
        None => {
            let mut roles = vec!["postgres".to_owned()];
            roles.extend(args.run_as.clone().or_else(|| context.caller.os_user.clone()));
            roles
        }
    };
    let here = &context.caller.working_directory;
    let directory = args.directory.as_ref().map_or_else(std::env::temp_dir, |directory| here.join(directory));
    let request = DrillRequest {
        location: context.location()?,
        backup: args.one_backup(),
        target: args.recovery_target()?,
        exclusive: args.target_exclusive,
        timeline: args.timeline(),
        script,
        database: args.database.unwrap_or_else(|| "postgres".to_owned()),
        roles,
        amcheck: args.amcheck,
        directory,
        bin_dir: args.bin_dir.map(|folder| here.join(folder)),
        search_path: caller::search_path(),
        environment: caller::server_environment(),
        run_as,
        settings: args.set,
        restore_command: context.server_command()?.restore(&caller::program(), false),
        caller_time_zone: caller::time_zone(),
        max_time: args.max_time,
        jobs: context.settings().restore.jobs,
        dry_run: args.dry_run,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(request.dry_run), cancel.clone());
    let report = run_drill(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, render::verify::drill)?;
    Ok(if !report.ok {
        exit::DRILL_FAILED
    } else if report.not_stored.is_some() {
        exit::code(ErrorKind::Storage)
    } else {
        exit::OK
    })
}

/// Which part a sample takes need not be secret, only not always the same.
fn chance() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or_default() ^ u64::from(std::process::id())
}
