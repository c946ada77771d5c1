//! `pgkeep backup`.

use pgkeep_engine::Result;
use pgkeep_engine::backup::{BackupRequest, backup as run};

use super::Context;
use crate::args::backup::BackupArgs;
use crate::render::progress::Progress;
use crate::render::text;
use crate::{exit, signal};

/// Takes a backup.
pub(super) fn backup(context: &Context, args: &BackupArgs) -> Result<u8> {
    let settings = context.settings();
    let request = BackupRequest {
        location: context.location()?,
        connection: context.caller.connection(&args.connection, settings.conninfo.as_deref()),
        kind: settings.backup.kind,
        changes: settings.backup.changes,
        source: settings.backup.source,
        jobs: settings.backup.jobs,
        compression: settings.backup.compression,
        wal: settings.backup.wal,
        checkpoint: settings.backup.checkpoint,
        annotations: args.annotate.iter().cloned().collect(),
        archive_timeout_seconds: settings.backup.archive_timeout_seconds,
        dry_run: args.dry_run,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(args.dry_run), cancel.clone());
    let report = run(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, text::backup)?;
    Ok(exit::OK)
}
