//! `pgkeep backup`.

use std::collections::BTreeMap;

use pgkeep_engine::backup::{BackupReport, BackupRequest, backup as run};
use pgkeep_engine::expire::ExpireReport;
use pgkeep_engine::{ConnectionRequest, Result};

use super::{Context, expire};
use crate::args::backup::BackupArgs;
use crate::render::progress::Progress;
use crate::render::{expire as expire_text, text};
use crate::{exit, signal};

/// What `backup` answers: the backup, and what the policy removed after it.
#[derive(serde::Serialize)]
struct Answer {
    #[serde(flatten)]
    backup: BackupReport,
    expire: Option<ExpireReport>,
}

/// The backup that the settings describe.
pub(super) fn request_of(context: &Context, connection: ConnectionRequest) -> Result<BackupRequest> {
    let settings = context.settings();
    Ok(BackupRequest {
        location: context.location()?,
        connection,
        kind: settings.backup.kind,
        changes: settings.backup.changes,
        source: settings.backup.source,
        jobs: settings.backup.jobs,
        compression: settings.backup.compression,
        wal: settings.backup.wal,
        checkpoint: settings.backup.checkpoint,
        annotations: BTreeMap::new(),
        archive_timeout_seconds: settings.backup.archive_timeout_seconds,
        pack_bytes: None,
        dry_run: false,
    })
}

/// Takes a backup.
pub(super) fn backup(context: &Context, args: &BackupArgs) -> Result<u8> {
    let settings = context.settings();
    let connection = context.caller.connection(&args.connection, settings.conninfo.as_deref());
    let request = BackupRequest {
        annotations: args.annotate.iter().cloned().collect(),
        dry_run: args.dry_run,
        ..request_of(context, connection)?
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(args.dry_run), cancel.clone());
    let backup = run(&request, &progress, &cancel)?;
    let expires = !args.dry_run && !args.no_expire;
    let expired = expires.then(|| expire::after_backup(context, &progress, &cancel)).flatten().transpose();
    drop(progress);
    // The backup is told whatever became of the old ones.
    let (expire, failed) = match expired {
        Ok(expire) => (expire, None),
        Err(error) => (None, Some(error)),
    };
    context.answer(&Answer { backup, expire }, |answer| {
        let expired = answer.expire.as_ref().map(|report| format!("\n{}", expire_text::expire(report)));
        text::backup(&answer.backup) + &expired.unwrap_or_default()
    })?;
    match failed {
        None => Ok(exit::OK),
        Some(error) => {
            Err(error.hint("the new backup is complete; `pgkeep expire` removes what the policy gives up"))
        }
    }
}
