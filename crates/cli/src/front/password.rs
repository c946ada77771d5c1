//! Passwords that are asked for, as libpq's programs ask: on the terminal, without showing what is typed; where there is no
//! terminal, a line of standard input.
//!
//! A session that was given a password hands it to all that it opens afterwards, so nobody is asked twice.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use pgkeep_tool::{Reporter, ToolError, system_text};
use pgkeep_wire::{ConnInfo, raw_text};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::message::Messages;

const PROMPT: &str = "Password: ";

/// No password is longer: servers refuse messages of this length before anyone is known to them.
const MAX_LENGTH: u64 = 1 << 16;

/// Whether a password is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Prompt {
    /// When the server wants one and none is known.
    #[default]
    WhenWanted,
    /// `-w`: not at all.
    Never,
    /// `-W`: before the server was asked.
    First,
}

impl Prompt {
    /// What `connect` gives, which is tried again when it turns out that a password has to be asked for. The password stays in
    /// `connection`.
    pub(super) fn connected<T>(
        self,
        connection: &mut ConnInfo,
        messages: &Messages,
        mut connect: impl FnMut(&ConnInfo) -> Result<T, ToolError>,
    ) -> Result<T, ToolError> {
        if self == Prompt::First {
            *connection = with_password(connection, &ask()?)?;
        }
        match connect(connection) {
            Err(error) if error.wants_password && self == Prompt::WhenWanted => {
                // Why the password file was not used.
                if let Some(reason) = &error.hint {
                    messages.warning(reason);
                }
                *connection = with_password(connection, &ask()?)?;
                connect(connection)
            }
            outcome => outcome,
        }
    }
}

/// An empty password is none, and leaves what the environment says.
fn with_password(connection: &ConnInfo, password: &[u8]) -> Result<ConnInfo, ToolError> {
    if password.is_empty() {
        return Ok(connection.clone());
    }
    let connection = connection.clone().with("password", &raw_text(password));
    connection.map_err(|error| ToolError::new(error.to_string()))
}

fn ask() -> Result<Vec<u8>, ToolError> {
    let answer = match Silence::begin() {
        Some((_silence, terminal)) => prompt(&mut BufReader::new(&terminal), &mut &terminal),
        None => prompt(&mut io::stdin().lock(), &mut io::stderr()),
    };
    answer.map_err(|error| {
        ToolError::new(format!("could not read the password: {}", system_text(&error)))
            .hint("put the password into a password file, or into the variable PGPASSWORD")
    })
}

fn prompt(input: &mut dyn BufRead, output: &mut dyn Write) -> io::Result<Vec<u8>> {
    output.write_all(PROMPT.as_bytes())?;
    output.flush()?;
    let mut line = Vec::new();
    input.take(MAX_LENGTH).read_until(b'\n', &mut line)?;
    // The line end that was typed is not shown either.
    output.write_all(b"\n")?;
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(line)
}

/// A terminal that does not show what is typed, until this goes.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    /// The terminal that the program was called from, silent now; none when there is none.
    fn begin() -> Option<(Silence, File)> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let other = terminal.try_clone().ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &silent).ok()?;
        Some((Silence { terminal, before }, other))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing is left to do when the terminal has gone.
        tcsetattr(&self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(mut text: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        let answer = prompt(&mut text, &mut shown).unwrap();
        assert_eq!(shown, b"Password: \n");
        answer
    }

    #[test]
    fn a_line_is_a_password_without_its_end() {
        assert_eq!(typed(b"s\xffcret \r\nmore"), b"s\xffcret ");
        assert_eq!(typed(b"no end"), b"no end");
        assert_eq!(typed(b"\n"), b"");
        assert_eq!(typed(b""), b"");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        assert_eq!(typed(&vec![b'x'; 1 << 20]).len(), 1 << 16);
    }
}
