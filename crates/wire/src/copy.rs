//! COPY in both directions (protocol 3.0), for bulk data: pieces are slices of the read buffer, never collected.

use postgres_protocol::message::frontend;

use crate::connection::Connection;
use crate::error::WireError;

impl Connection {
    /// Runs `COPY … TO STDOUT`.
    pub fn copy_out(&mut self, sql: &(impl AsRef<[u8]> + ?Sized)) -> Result<CopyOut<'_>, WireError> {
        self.start_command(sql)?;
        match self.receive("waiting for COPY to begin")? {
            b'H' => Ok(CopyOut { connection: self, done: false }),
            b'E' => Err(self.fail_command()),
            _ => Err(not_a_copy(self)),
        }
    }

    /// Runs `COPY … FROM STDIN`.
    pub fn copy_in(&mut self, sql: &(impl AsRef<[u8]> + ?Sized)) -> Result<CopyIn<'_>, WireError> {
        self.start_command(sql)?;
        match self.receive("waiting for COPY to begin")? {
            b'G' => Ok(CopyIn { connection: self, finished: false }),
            b'E' => Err(self.fail_command()),
            _ => Err(not_a_copy(self)),
        }
    }
}

fn not_a_copy(connection: &mut Connection) -> WireError {
    connection.abandon();
    WireError::InvalidInput("the statement is not a COPY in the direction asked for".to_owned())
}

/// Data of a `COPY … TO STDOUT`. Dropping it before the end makes the connection unusable.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
    done: bool,
}

impl CopyOut<'_> {
    /// The next piece (in text and CSV formats one line), borrowed from the read buffer; `None` at the end.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot lend from the read buffer")]
    pub fn next(&mut self) -> Result<Option<&[u8]>, WireError> {
        if self.done {
            return Ok(None);
        }
        match self.connection.receive("waiting for COPY data")? {
            b'd' => Ok(Some(self.connection.body())),
            b'c' => {
                self.done = true;
                self.connection.skip_to_ready()?;
                Ok(None)
            }
            b'E' => {
                self.done = true;
                Err(self.connection.fail_command())
            }
            other => Err(self.connection.unexpected(other)),
        }
    }
}

/// Data for a `COPY … FROM STDIN`. Dropping it before [`CopyIn::finish`] fails the COPY.
#[derive(Debug)]
pub struct CopyIn<'a> {
    connection: &'a mut Connection,
    finished: bool,
}

impl CopyIn<'_> {
    /// Sends a piece; where pieces begin and end does not matter.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        // Half a GiB is far below what a message can hold, and above what anyone hands over at once.
        for piece in bytes.chunks(512 << 20) {
            self.connection.send(|out| {
                frontend::CopyData::new(piece)?.write(out);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends the data and returns when the server has taken it.
    pub fn finish(mut self) -> Result<(), WireError> {
        self.finished = true;
        self.connection.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.connection.skip_to_ready()
    }

    /// Makes the COPY fail, so that nothing of it stays.
    pub fn abort(mut self, reason: &str) -> Result<(), WireError> {
        self.finished = true;
        self.connection.send_copy_fail(reason)?;
        // The error is the one that we asked for.
        match self.connection.skip_to_ready() {
            Err(WireError::Server(_)) | Ok(()) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

impl Drop for CopyIn<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let failed = self.connection.send_copy_fail("given up");
            // An error is the expected answer; any other trouble shows with the next command.
            drop(failed.and_then(|()| self.connection.skip_to_ready()));
        }
    }
}
