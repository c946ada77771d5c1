//! `pgkeep wal receive`: runs until it is told to stop, and says then what it did.

use std::path::PathBuf;
use std::time::Duration;

use pgkeep_engine::wal::ReceiveRequest;
use pgkeep_engine::{Error, ErrorKind, Result};

use super::Context;
use super::backup::request_of;
use crate::args::wal::ReceiveArgs;
use crate::render::progress::Progress;
use crate::render::wal::received;
use crate::{exit, signal};

/// Receives WAL.
pub(super) fn receive(context: &Context, args: &ReceiveArgs) -> Result<u8> {
    let settings = context.settings();
    let connection = context.caller.connection(&args.connection, settings.conninfo.as_deref());
    let backup_after_gap =
        args.backup_after_gap.then(|| request_of(context, connection.clone())).transpose()?;
    let request = ReceiveRequest {
        location: context.location()?,
        connection,
        slot: (!args.no_slot).then(|| args.slot.clone().unwrap_or_else(|| default_slot(&settings.stanza))),
        create_slot: args.create_slot,
        is_synchronous: args.synchronous,
        spool: spool(context, args)?,
        spool_only: args.spool_only,
        tail_every: (args.partial_every > 0).then(|| Duration::from_secs(args.partial_every)),
        compression: settings.archive_compression,
        until: args.until,
        reconnects: !args.no_reconnect,
        backup_after_gap,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(false), cancel.clone());
    let report = pgkeep_engine::wal::receive(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, received)?;
    Ok(if report.has_open_gap() { exit::code(ErrorKind::WalGap) } else { exit::OK })
}

/// Names of slots have lower-case letters, digits and underscores, 63 at most.
fn default_slot(stanza: &str) -> String {
    let stanza = stanza.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut slot = format!("pgkeep_{stanza}");
    slot.truncate(63);
    slot
}

/// Unlike what `wal get` fetches ahead, this must outlive a reboot: not the temporary folder.
fn spool(context: &Context, args: &ReceiveArgs) -> Result<PathBuf> {
    if let Some(spool) = &args.spool {
        return Ok(context.caller.working_directory.join(spool));
    }
    let caller = &context.caller;
    let state = caller.xdg_state_home.clone();
    let state = state.or_else(|| Some(caller.home.as_ref()?.join(".local/state")));
    state.map(|state| state.join("pgkeep/receive")).ok_or_else(|| {
        Error::new(ErrorKind::Usage, "no place for the spool is known: this user has no home directory")
            .hint("name one: `--spool DIR`")
    })
}

#[cfg(test)]
mod tests {
    use super::default_slot;

    #[test]
    fn a_slot_is_named_after_the_stanza() {
        assert_eq!(default_slot("main"), "pgkeep_main");
        assert_eq!(default_slot("PG-17.prod"), "pgkeep_pg_17_prod");
        assert_eq!(default_slot(&"x".repeat(63)).len(), 63);
    }
}
