//! START_REPLICATION: WAL as the server writes it (`replication/walsender.c`, 13 to 18).
//!
//! Bytes arrive in order, from the position asked for. The server keeps WAL for a slot only up to what it was told is
//! flushed: the caller says so, and must not say it earlier than it is true.

use std::io::ErrorKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BufMut;
use pgkeep_format::{Lsn, TimelineId};
use postgres_protocol::message::frontend;

use crate::connection::Connection;
use crate::error::WireError;
use crate::message::Fields;
use crate::query::Rows;
use crate::quote::quote_identifier;
use crate::replication::timeline;

/// Seconds from 1970 to 2000, where PostgreSQL's time begins.
const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);

/// What arrives on a WAL stream.
#[derive(Debug, PartialEq, Eq)]
pub enum WalEvent<'a> {
    /// WAL bytes, at most 128 KiB, never ending inside a record.
    Data {
        /// Position of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// The end of WAL on the server.
        end: Lsn,
        /// The server wants a status soon, or it will end the connection (`wal_sender_timeout`).
        reply_requested: bool,
    },
    /// Nothing came in the time given.
    Timeout,
    /// The timeline ends; WAL goes on on the next one, from `start`. Bytes received beyond `start` do not count.
    EndOfTimeline {
        /// The timeline that follows.
        next: TimelineId,
        /// Where it begins.
        start: Lsn,
    },
    /// The server ended the stream: it shuts down, or we stopped it.
    EndOfStream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Streaming,
    /// The server has ended it.
    Ended(Option<(TimelineId, Lsn)>),
    /// An error has ended it.
    Failed,
}

/// A running stream. End it with [`WalStream::stop`] to use the connection again.
#[derive(Debug)]
pub struct WalStream<'a> {
    connection: &'a mut Connection,
    state: State,
}

impl Connection {
    /// Starts streaming at `start`, which should be the beginning of a segment. Needs a replication session.
    pub fn start_replication(
        &mut self,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream<'_>, WireError> {
        let slot = slot.map(|name| format!("SLOT {} ", quote_identifier(name))).unwrap_or_default();
        let (high, low) = (start.0 >> 32, start.0 & 0xffff_ffff);
        self.start_command(&format!(
            "START_REPLICATION {slot}PHYSICAL {high:X}/{low:X} TIMELINE {}",
            timeline.get()
        ))?;
        match self.receive("waiting for WAL streaming to begin")? {
            b'W' => Ok(WalStream { connection: self, state: State::Streaming }),
            b'E' => Err(self.fail_command()),
            // A timeline that ended at `start` has nothing to send: its end comes at once.
            b'T' => {
                let next = read_end(self, b'T')?;
                Ok(WalStream { connection: self, state: State::Ended(next) })
            }
            other => Err(self.unexpected(other)),
        }
    }
}

impl WalStream<'_> {
    /// The next event, waiting no longer than `timeout` (`None`: for ever).
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<WalEvent<'_>, WireError> {
        match self.state {
            State::Streaming => {}
            State::Ended(next) => return Ok(end_event(next)),
            State::Failed => return Err(WireError::Closed { mid_message: false }),
        }
        self.connection.apply_timeout(timeout)?;
        match self.connection.receive("waiting for WAL") {
            Ok(b'd') => {}
            Ok(b'c') => {
                self.connection.apply_timeout(self.connection.read_timeout())?;
                self.connection.send(|out| {
                    frontend::copy_done(out);
                    Ok(())
                })?;
                let tag = self.connection.receive("waiting for the end of a timeline")?;
                let next = read_end(self.connection, tag)?;
                self.state = State::Ended(next);
                return Ok(end_event(next));
            }
            // The server shuts down: it ends the command without ending the COPY, and closes.
            Ok(b'C') => {
                self.connection.abandon();
                self.state = State::Ended(None);
                return Ok(WalEvent::EndOfStream);
            }
            Ok(b'E') => {
                self.state = State::Failed;
                return Err(self.connection.fail_command());
            }
            Ok(other) => return Err(self.connection.unexpected(other)),
            Err(WireError::Timeout { .. }) => return Ok(WalEvent::Timeout),
            Err(error) => return Err(error),
        }
        if let Some(problem) = malformed(self.connection.body()) {
            self.connection.abandon();
            return Err(WireError::protocol(problem));
        }
        let mut fields = Fields(self.connection.body());
        if fields.u8()? == b'w' {
            let start = Lsn(fields.u64()?);
            fields.bytes(16)?;
            Ok(WalEvent::Data { start, bytes: fields.0 })
        } else {
            let end = Lsn(fields.u64()?);
            fields.bytes(8)?;
            Ok(WalEvent::Keepalive { end, reply_requested: fields.u8()? != 0 })
        }
    }

    /// Whether another event has arrived already, so that it is worth taking before something slow is done.
    pub fn has_more(&self) -> bool {
        self.connection.reader.has_message()
    }

    /// Reports positions: everything before them is written, durable, applied. With a slot, WAL before `flush` may be
    /// removed by the server, so report only what is durable here; 0 leaves the slot alone.
    ///
    /// A server that shuts down may have closed already, while the end of the stream, and WAL before it, wait here to be
    /// read. So a status that cannot be delivered for that reason is no error: [`WalStream::next`] tells how it ended.
    pub fn send_status(&mut self, write: Lsn, flush: Lsn, apply: Lsn, reply: bool) -> Result<(), WireError> {
        if self.state != State::Streaming {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH + POSTGRES_EPOCH).unwrap_or_default();
        let micros = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let mut status = Vec::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(write.0);
        status.put_u64(flush.0);
        status.put_u64(apply.0);
        status.put_i64(micros);
        status.put_u8(u8::from(reply));
        let sent = self.connection.send(|out| {
            frontend::CopyData::new(status.as_slice())?.write(out);
            Ok(())
        });
        match sent {
            Err(WireError::Io(error))
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            sent => sent,
        }
    }

    /// Ends the stream from our side; what was on its way is thrown away. The connection can be used again.
    pub fn stop(self) -> Result<(), WireError> {
        if self.state != State::Streaming {
            return Ok(());
        }
        self.connection.apply_timeout(self.connection.read_timeout())?;
        self.connection.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.connection.skip_to_ready()
    }

    /// Notices so far.
    pub fn take_notices(&mut self) -> Vec<crate::error::Notice> {
        self.connection.take_notices()
    }
}

fn end_event(next: Option<(TimelineId, Lsn)>) -> WalEvent<'static> {
    match next {
        Some((next, start)) => WalEvent::EndOfTimeline { next, start },
        None => WalEvent::EndOfStream,
    }
}

fn malformed(body: &[u8]) -> Option<&'static str> {
    match body.first() {
        Some(b'w') if body.len() >= 25 => None,
        Some(b'k') if body.len() >= 18 => None,
        Some(b'w' | b'k') => Some("a message of the WAL stream is too short"),
        _ => Some("a message of the WAL stream is not understood"),
    }
}

/// From `tag`, the message after the COPY, up to ReadyForQuery: perhaps a row with the next timeline.
fn read_end(connection: &mut Connection, mut tag: u8) -> Result<Option<(TimelineId, Lsn)>, WireError> {
    let mut rows: Option<Rows> = None;
    loop {
        match tag {
            b'T' if rows.is_none() => rows = Some(Rows::describe(connection.body())?),
            b'D' => {
                if let Some(rows) = &mut rows
                    && rows.is_empty()
                {
                    rows.push(connection.body())?;
                }
            }
            b'C' => {}
            b'E' => return Err(connection.fail_command()),
            b'Z' => {
                connection.finish_command();
                break;
            }
            other => return Err(connection.unexpected(other)),
        }
        tag = connection.receive("waiting for the end of a timeline")?;
    }
    let Some(row) = rows.as_ref().and_then(Rows::first) else { return Ok(None) };
    let next = timeline(&row, "next_tli")?
        .ok_or_else(|| WireError::UnexpectedResult("the next timeline has no number".to_owned()))?;
    Ok(Some((next, row.parse("next_tli_startpos")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_unknown_stream_messages_are_refused() {
        assert!(malformed(b"").is_some());
        assert!(malformed(b"x").is_some());
        assert!(malformed(&[b'w'; 24]).is_some());
        assert!(malformed(&[b'w'; 25]).is_none());
        assert!(malformed(&[b'k'; 17]).is_some());
        assert!(malformed(&[b'k'; 18]).is_none());
    }
}
