//! `pg_basebackup`: a copy of a running server's cluster.

mod arguments;
mod help;
mod screen;

use std::ffi::OsString;

use pgkeep_physical::base_backup::BaseBackup;
use pgkeep_tool::{Reporter, ToolError, connect};
use pgkeep_wire::SessionMode;

use super::message::{FAILURE, Messages};
use super::program::Program;
use crate::signal::cancel_on_signals;
use arguments::Arguments;
use screen::Screen;

const NAME: &str = "pg_basebackup";

const PROGRAM: Program<Arguments> = Program {
    name: NAME,
    help: help::TEXT,
    parse: Arguments::parse,
    is_verbose: |arguments| arguments.verbose,
    act,
};

/// Runs the program; the exit status is returned.
pub(super) fn run(words: &[OsString]) -> u8 {
    PROGRAM.run(words)
}

/// Reads the words without acting on them.
#[cfg(test)]
pub(super) fn check(words: &[OsString]) -> Result<(), String> {
    PROGRAM.check(words)
}

fn act(arguments: Arguments, messages: &Messages) -> Result<u8, ToolError> {
    let Arguments { request, mut connection, prompt, verbose, progress } = arguments;
    let cancel = cancel_on_signals().map_err(|error| {
        messages.error(&error.to_string());
        ToolError::reported(error.to_string())
    })?;
    let session = prompt.connected(&mut connection, messages, |connection| {
        connect(connection, SessionMode::PhysicalReplication)
    })?;
    let screen = Screen::new(verbose, progress);
    let mut backup = BaseBackup::new(&request);
    match backup.run(request, &connection, session, &cancel.flag(), &screen) {
        Ok(()) => Ok(0),
        Err(error) => {
            screen.failure(&error);
            backup.clean_up(&screen);
            Ok(FAILURE)
        }
    }
}
