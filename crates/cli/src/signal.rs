//! SIGINT and SIGTERM: the first asks the verb to stop properly, the second ends the process at once.
//!
//! Stopped properly, a backup ends on the server and removes what it wrote; ended at once, the server notices that
//! the session is gone, and the repository keeps files that nothing lists.

use pgkeep_engine::{Cancel, Error, ErrorKind, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A token that the signals cancel. Verbs without one are ended by the first signal, as any program.
pub(crate) fn cancel_on_signals() -> Result<Cancel> {
    let cancel = Cancel::default();
    for signal in [SIGINT, SIGTERM] {
        // The order counts: the check for a second signal must come before the first one sets the flag.
        flag::register_conditional_shutdown(signal, 128 + signal, cancel.flag())
            .and_then(|_| flag::register(signal, cancel.flag()))
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "cannot watch for signals")
                    .cause(error)
                    .hint("this is a defect of pgkeep: please report it")
            })?;
    }
    Ok(cancel)
}
