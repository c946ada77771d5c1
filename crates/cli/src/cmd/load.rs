//! `pgkeep load`.

use std::path::Path;

use pgkeep_engine::{Cancel, Error, ErrorKind, Result};
use pgkeep_logical::load::{self, LoadError, LoadErrorKind, LoadRequest, LoadSource};

use super::Context;
use crate::args::load::LoadArgs;
use crate::render::load::{LoadProgress, text};
use crate::{exit, signal};

/// Loads an archive into a database.
pub(super) fn load(context: &Context, args: &LoadArgs) -> Result<u8> {
    let mut target =
        context.caller.connection(&args.connection, context.settings().conninfo.as_deref()).resolve()?;
    if let Some(database) = &args.target {
        target = target.with("dbname", database).map_err(|error| {
            Error::new(ErrorKind::Usage, format!("`{database}` cannot be the name of a database"))
                .cause(error)
                .hint("choose another name with `--target`")
        })?;
    }
    let request = LoadRequest {
        target,
        selection: args.selection(),
        schema_names: args.rename_schema.clone(),
        roles: args.owner_map.clone(),
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        jobs: args.jobs.unwrap_or_else(processors),
        maintenance_memory: args.maintenance_memory,
        into_existing: args.into_existing,
        resume: args.resume,
        continue_on_error: args.continue_on_error,
        disable_triggers: args.disable_triggers,
        no_analyze: args.no_analyze,
        dry_run: args.dry_run,
    };
    let source = if args.archive == Path::new("-") {
        LoadSource::stream(std::io::stdin().lock()).map_err(error)?
    } else {
        LoadSource::path(context.caller.working_directory.join(&args.archive))
    };
    let cancel = if args.dry_run { Cancel::default() } else { signal::cancel_on_signals()? };
    let progress = LoadProgress::new(context.telling(args.dry_run), cancel);
    let report = load::load(&source, &request, &progress).map_err(error)?;
    drop(progress);
    context.answer(&report, text)?;
    Ok(match &report.result {
        Some(result) if !result.complete => exit::INCOMPLETE,
        _ => exit::OK,
    })
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}

/// The library's errors in the form of the program's.
fn error(error: LoadError) -> Error {
    let kind = match error.kind {
        LoadErrorKind::Usage => ErrorKind::Usage,
        LoadErrorKind::Connect => ErrorKind::Connect,
        LoadErrorKind::Auth => ErrorKind::Auth,
        LoadErrorKind::NotFound => ErrorKind::NotFound,
        LoadErrorKind::Mismatch => ErrorKind::Mismatch,
        LoadErrorKind::Destination => ErrorKind::Destination,
        LoadErrorKind::Corrupt => ErrorKind::Corrupt,
        LoadErrorKind::Locked => ErrorKind::Locked,
        LoadErrorKind::Interrupted => ErrorKind::Interrupted,
    };
    Error { kind, message: error.message, causes: error.causes, hints: error.hints }
}
