//! `pg_receivewal`: WAL of a running server into a directory, and slots for it.

mod arguments;
mod help;

use std::ffi::OsString;

use pgkeep_physical::wal_receive::{ReceiveRequest, receive};
use pgkeep_tool::server_text::server_words;
use pgkeep_tool::{Reporter, ToolError, connect};
use pgkeep_wire::{Connection, SessionMode, WireError};

use super::message::Messages;
use super::program::Program;
use crate::signal::cancel_on_signals;
use arguments::{Action, Arguments};

const NAME: &str = "pg_receivewal";

const PROGRAM: Program<Arguments> = Program {
    name: NAME,
    help: help::TEXT,
    parse: Arguments::parse,
    is_verbose: |arguments| arguments.is_verbose,
    act: |arguments, messages| act(arguments, messages).map(|()| 0),
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

fn act(arguments: Arguments, messages: &Messages) -> Result<(), ToolError> {
    let Arguments { action, mut connection, prompt, .. } = arguments;
    if let Action::Receive(request) = &action {
        // Stock looks before it connects.
        request.check_directory()?;
    }
    let mut session = prompt.connected(&mut connection, messages, |connection| {
        connect(connection, SessionMode::PhysicalReplication)
    })?;
    match action {
        Action::CreateSlot { slot, may_exist } => {
            messages.info(&format!("creating replication slot \"{slot}\""));
            match session.create_physical_slot(&slot, false, false) {
                // duplicate_object
                Err(error) if may_exist && error.sqlstate() == Some("42710") => Ok(()),
                outcome => told("CREATE_REPLICATION_SLOT", &slot, outcome),
            }
        }
        Action::DropSlot { slot } => {
            messages.info(&format!("dropping replication slot \"{slot}\""));
            let outcome = session.drop_slot(&slot);
            told("DROP_REPLICATION_SLOT", &slot, outcome)
        }
        Action::Receive(request) => receive_until_told(&request, session, &connection, messages),
    }
}

fn receive_until_told(
    request: &ReceiveRequest,
    session: Connection,
    connection: &pgkeep_wire::ConnInfo,
    messages: &Messages,
) -> Result<(), ToolError> {
    let cancel = cancel_on_signals().map_err(|error| {
        messages.error(&error.to_string());
        ToolError::reported(error.to_string())
    })?;
    // Some of what is told does not wait for -v; the rest is decided by the request.
    let always = Messages::new(NAME, true);
    receive(
        request,
        session,
        &mut || connect(connection, SessionMode::PhysicalReplication),
        &|| cancel.is_cancelled(),
        &always,
    )
}

/// The failure of a command about a slot, as stock tells it.
fn told<T>(command: &str, slot: &str, outcome: Result<T, WireError>) -> Result<(), ToolError> {
    outcome.map(drop).map_err(|error| {
        ToolError::new(format!(
            "could not send replication command \"{command} \"{slot}\"\": {}",
            server_words(&error)
        ))
    })
}
