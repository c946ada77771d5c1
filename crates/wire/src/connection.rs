//! A session with one server: connecting, sending commands, receiving messages, cancelling.
//!
//! A connection is idle, busy with one command, or broken. After an error in the middle of a stream of messages it is
//! broken for good and says so, instead of taking the rest of one answer for the next. Dropping it ends the session;
//! a backup that it framed ends with it on the server.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use crate::conninfo::ConnInfo;
use crate::error::{Attempt, Endpoint, Notice, ServerError, ServerErrorKind, WireError};
use crate::handshake::{self, Established};
use crate::host::{self, Target};
use crate::message::MessageReader;
use crate::session_target;
use crate::settings::{Keepalive, LoadBalance, Settings, TargetSession};
use crate::stream::{Deadline, Socket, Transport};
use crate::tls::TlsContext;

/// What a session can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionMode {
    /// SQL.
    Sql,
    /// Physical replication commands and SHOW; needs a `replication` line in `pg_hba.conf`.
    PhysicalReplication,
    /// Replication commands and SQL in one database.
    DatabaseReplication,
}

/// Notices kept until they are taken; more are dropped, oldest first.
const MAX_NOTICES: usize = 200;
/// A server reports some fifteen parameters; nobody needs thousands.
const MAX_PARAMETERS: usize = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// A command runs, or was left in the middle.
    Busy,
    /// The stream of messages is lost.
    Broken,
}

/// An established session.
pub struct Connection {
    pub(crate) transport: Transport,
    pub(crate) reader: MessageReader,
    out: BytesMut,
    parameters: BTreeMap<String, String>,
    notices: Vec<Notice>,
    phase: Phase,
    mode: SessionMode,
    endpoint: Endpoint,
    read_timeout: Option<Duration>,
    applied_timeout: Option<Duration>,
    cancel: CancelData,
}

#[derive(Clone)]
pub(crate) struct CancelData {
    pub(crate) process_id: i32,
    pub(crate) secret_key: i32,
    pub(crate) target: Target,
    pub(crate) tls: Option<Arc<TlsContext>>,
    pub(crate) settings: Arc<Settings>,
}

impl Connection {
    /// Connects to the first host of the list that answers, lets us in and is what `target_session_attrs` asks for.
    pub fn connect(info: &ConnInfo, mode: SessionMode) -> Result<Connection, WireError> {
        Connection::try_hosts(info, mode).map_err(|failure| {
            let Failure { mut attempts, is_final } = failure;
            match attempts.pop() {
                Some(only) if is_final || attempts.is_empty() => only.error,
                last => {
                    attempts.extend(last);
                    WireError::NoUsableHost { attempts }
                }
            }
        })
    }

    /// As [`Connection::connect`]; when it fails, every address that was tried is told, in order.
    pub fn connect_reporting(info: &ConnInfo, mode: SessionMode) -> Result<Connection, Vec<Attempt>> {
        Connection::try_hosts(info, mode).map_err(|failure| failure.attempts)
    }

    fn try_hosts(info: &ConnInfo, mode: SessionMode) -> Result<Connection, Failure> {
        let settings = Arc::new(info.settings.clone());
        let passes: &[TargetSession] = match settings.target_session {
            TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
            _ => std::slice::from_ref(&settings.target_session),
        };
        let mut attempts = Vec::new();
        for wanted in passes {
            attempts.clear();
            match connect_to_any(&settings, mode, *wanted, &mut attempts) {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) => {}
                Err(last) => {
                    attempts.push(*last);
                    return Err(Failure { attempts, is_final: true });
                }
            }
        }
        Err(Failure { attempts, is_final: false })
    }

    pub(crate) fn from_established(
        established: Established,
        mode: SessionMode,
        endpoint: Endpoint,
    ) -> Connection {
        let Established { transport, reader, parameters, notices, cancel } = established;
        let mut connection = Connection {
            transport,
            reader,
            out: BytesMut::new(),
            parameters: BTreeMap::new(),
            notices: Vec::new(),
            phase: Phase::Idle,
            mode,
            endpoint,
            read_timeout: None,
            applied_timeout: None,
            cancel,
        };
        for (name, value) in parameters {
            connection.set_parameter(name, value);
        }
        for notice in notices {
            connection.push_notice(notice);
        }
        connection
    }

    /// The server's major version (13, 14, …), 0 when it does not say.
    pub fn server_major(&self) -> u32 {
        self.server_version_num() / 10000
    }

    /// The server's version as `server_version_num`: 150018 for 15.18.
    pub fn server_version_num(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_number)
    }

    /// A parameter that the server reported: `server_version`, `TimeZone`, `in_hot_standby` (from 14), …
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The number of the server's process for this session.
    pub fn server_process_id(&self) -> i32 {
        self.cancel.process_id
    }

    /// What kind of session this is.
    pub fn mode(&self) -> SessionMode {
        self.mode
    }

    /// The server that was chosen.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// True when the session is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.transport.is_tls()
    }

    /// True when the connection can take no more commands.
    pub fn is_broken(&self) -> bool {
        self.phase == Phase::Broken
    }

    /// The warnings and notices received since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// How long to wait for the server before an operation gives [`WireError::Timeout`]; `None` waits for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> Result<(), WireError> {
        self.read_timeout = timeout;
        self.apply_timeout(timeout)
    }

    pub(crate) fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    pub(crate) fn apply_timeout(&mut self, timeout: Option<Duration>) -> Result<(), WireError> {
        if timeout != self.applied_timeout {
            self.transport.socket().set_read_timeout(timeout).map_err(WireError::Io)?;
            self.applied_timeout = timeout;
        }
        Ok(())
    }

    /// A handle that another thread can use to stop what this session is doing.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle {
            data: self.cancel.clone(),
            socket: self.transport.socket().try_clone().ok().map(Arc::new),
        }
    }

    /// Says goodbye and closes.
    pub fn close(mut self) {
        self.say_goodbye();
    }

    fn say_goodbye(&mut self) {
        if self.phase == Phase::Idle {
            self.out.clear();
            frontend::terminate(&mut self.out);
            // The server notices the closed socket anyway.
            drop(self.transport.write_all(&self.out));
            if let Transport::Tls(stream) = &mut self.transport {
                stream.conn.send_close_notify();
                drop(stream.flush());
            }
        }
        self.phase = Phase::Broken;
        drop(self.transport.socket().shutdown());
    }

    // --- what the other modules build on ---

    /// Sends a simple query; the connection is busy until [`Connection::finish_command`].
    pub(crate) fn start_command(&mut self, sql: &(impl AsRef<[u8]> + ?Sized)) -> Result<(), WireError> {
        match self.phase {
            Phase::Idle => {}
            Phase::Busy => return Err(WireError::Busy),
            Phase::Broken => return Err(WireError::Closed { mid_message: false }),
        }
        let sql = sql.as_ref();
        if sql.contains(&0) {
            return Err(WireError::InvalidInput("the command contains a zero byte".to_owned()));
        }
        // Length and terminator count; a command may be in any encoding, hence not `frontend::query`.
        let length = i32::try_from(sql.len() + 5)
            .map_err(|_| WireError::InvalidInput("the command is longer than 2 GiB".to_owned()))?;
        self.out.clear();
        self.out.put_u8(b'Q');
        self.out.put_i32(length);
        self.out.put_slice(sql);
        self.out.put_u8(0);
        self.apply_timeout(self.read_timeout)?;
        self.phase = Phase::Busy;
        self.flush_out()
    }

    /// ReadyForQuery has arrived.
    pub(crate) fn finish_command(&mut self) {
        if self.phase == Phase::Busy {
            self.phase = Phase::Idle;
        }
    }

    /// The stream of messages cannot be followed any more.
    pub(crate) fn abandon(&mut self) {
        self.phase = Phase::Broken;
    }

    /// The next message that is not a notice, parameter or notification; its body is in [`Connection::body`].
    pub(crate) fn receive(&mut self, during: &'static str) -> Result<u8, WireError> {
        loop {
            let tag = match self.reader.advance(&mut self.transport, during) {
                Ok(tag) => tag,
                Err(error) => {
                    if !matches!(error, WireError::Timeout { .. }) {
                        self.abandon();
                    }
                    return Err(error);
                }
            };
            match tag {
                b'N' => {
                    let notice = ServerError::parse(self.reader.body());
                    self.push_notice(notice);
                }
                b'S' => {
                    if let Some((name, value)) = handshake::parse_parameter(self.reader.body()) {
                        self.set_parameter(name, value);
                    }
                }
                b'A' => {}
                tag => return Ok(tag),
            }
        }
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.reader.body()
    }

    /// Takes the ErrorResponse just received, and reads on to where commands are possible again.
    pub(crate) fn fail_command(&mut self) -> WireError {
        let error = ServerError::parse(self.body());
        if error.is_fatal() {
            self.abandon();
        } else {
            // A failure here shows with the next command; the server's error matters more.
            drop(self.skip_to_ready());
        }
        Box::new(error).into()
    }

    /// Reads up to ReadyForQuery; an error on the way is returned.
    pub(crate) fn skip_to_ready(&mut self) -> Result<(), WireError> {
        let mut failure = None;
        loop {
            match self.receive("waiting for the end of a command")? {
                b'Z' => {
                    self.finish_command();
                    return failure.map_or(Ok(()), Err);
                }
                b'E' => {
                    let error = ServerError::parse(self.body());
                    let fatal = error.is_fatal();
                    failure.get_or_insert(Box::new(error).into());
                    if fatal {
                        self.abandon();
                        return failure.map_or(Ok(()), Err);
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn unexpected(&mut self, tag: u8) -> WireError {
        self.abandon();
        WireError::protocol(format!("unexpected message of type `{}`", char::from(tag)))
    }

    /// Collects bytes with `build` and sends them.
    pub(crate) fn send(
        &mut self,
        build: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), WireError> {
        self.out.clear();
        build(&mut self.out).map_err(|error| WireError::from_io(error, "sending"))?;
        self.flush_out()
    }

    pub(crate) fn send_copy_fail(&mut self, reason: &str) -> Result<(), WireError> {
        self.send(|out| frontend::copy_fail(reason, out))
    }

    fn flush_out(&mut self) -> Result<(), WireError> {
        let result = self.transport.write_all(&self.out).and_then(|()| self.transport.flush());
        result.map_err(|error| {
            self.abandon();
            WireError::from_io(error, "sending")
        })
    }

    fn push_notice(&mut self, notice: Notice) {
        if self.notices.len() >= MAX_NOTICES {
            self.notices.remove(0);
        }
        self.notices.push(notice);
    }

    fn set_parameter(&mut self, name: String, value: String) {
        if self.parameters.len() < MAX_PARAMETERS || self.parameters.contains_key(&name) {
            self.parameters.insert(name, value);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("mode", &self.mode)
            .field("encrypted", &self.is_encrypted())
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// One pass over the host list. `Ok(None)` when no host will do; an error when trying others makes no sense.
/// No host would do.
struct Failure {
    attempts: Vec<Attempt>,
    /// The last one failed for a reason that holds for all.
    is_final: bool,
}

/// The error is one after which no other host is tried.
fn connect_to_any(
    settings: &Arc<Settings>,
    mode: SessionMode,
    wanted: TargetSession,
    attempts: &mut Vec<Attempt>,
) -> Result<Option<Connection>, Box<Attempt>> {
    let mut specs: Vec<_> = settings.hosts.iter().collect();
    if settings.load_balance == LoadBalance::Random {
        host::shuffle(&mut specs);
    }
    for spec in specs {
        let targets = match host::targets(spec, settings.load_balance) {
            Ok(targets) => targets,
            Err(error) => {
                let endpoint = match &error {
                    WireError::Unreachable { endpoint, .. } => endpoint.clone(),
                    _ => Endpoint::Tcp { host: spec.to_string(), address: None, port: spec.port },
                };
                attempts.push(Attempt { endpoint, error });
                continue;
            }
        };
        for target in targets {
            let endpoint = target.endpoint.clone();
            let error = match connect_to_target(settings, &target, mode, wanted) {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) if may_try_next(&error) => error,
                Err(error) => return Err(Box::new(Attempt { endpoint, error })),
            };
            attempts.push(Attempt { endpoint, error });
        }
    }
    Ok(None)
}

fn connect_to_target(
    settings: &Arc<Settings>,
    target: &Target,
    mode: SessionMode,
    wanted: TargetSession,
) -> Result<Connection, WireError> {
    let established = handshake::establish(settings, target, mode)?;
    let mut connection = Connection::from_established(established, mode, target.endpoint.clone());
    connection.set_read_timeout(settings.connect_timeout)?;
    if !session_target::fits(&mut connection, wanted)? {
        return Err(WireError::WrongSession { endpoint: target.endpoint.clone(), wanted });
    }
    connection.set_read_timeout(None)?;
    Ok(connection)
}

/// A wrong password is wrong for the others too (and would be told to each of them); a dead or starting server is not.
fn may_try_next(error: &WireError) -> bool {
    match error {
        WireError::Unreachable { .. }
        | WireError::Timeout { .. }
        | WireError::Closed { .. }
        | WireError::Io(_)
        | WireError::WrongSession { .. } => true,
        other => other.server_kind() == Some(ServerErrorKind::StartingUp),
    }
}

/// `15.18 (Debian 15.18-1)` is 150018, `19devel` 190000.
fn version_number(text: &str) -> u32 {
    let digits = |text: &str| -> u32 {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().unwrap_or(0)
    };
    let major = digits(text).min(400_000);
    let minor = text.split_once('.').map_or(0, |(_, minor)| digits(minor)).min(9999);
    major * 10000 + minor
}

/// Stops what a session is doing, from another thread. Cheap to clone.
#[derive(Clone)]
pub struct CancelHandle {
    data: CancelData,
    socket: Option<Arc<Socket>>,
}

impl CancelHandle {
    /// Asks the server to cancel the running command, over a connection of its own (encrypted when the session is).
    /// Returning says that the request was delivered, not that there was anything to cancel.
    pub fn cancel(&self) -> Result<(), WireError> {
        let deadline =
            Deadline::after(Some(self.data.settings.connect_timeout.unwrap_or(Duration::from_secs(10))));
        let keepalive = Keepalive { ..self.data.settings.keepalive.clone() };
        let mut transport = handshake::open_for_cancel(&self.data, &keepalive, deadline)?;
        let mut request = BytesMut::new();
        frontend::cancel_request(self.data.process_id, self.data.secret_key, &mut request);
        transport.write_all(&request).and_then(|()| transport.flush()).map_err(WireError::Io)?;
        // The server closes once it has passed the signal on.
        let mut nothing = [0; 1];
        drop(transport.read(&mut nothing));
        Ok(())
    }

    /// Cuts the connection: whatever the session waits for fails at once. The server ends the session when it notices.
    pub fn shutdown(&self) {
        if let Some(socket) = &self.socket {
            drop(socket.shutdown());
        }
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle").field("endpoint", &self.data.target.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_servers_write_them() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("18beta2"), 180_000);
        assert_eq!(version_number("19devel"), 190_000);
        assert_eq!(version_number("99999999999.1"), 1);
        assert_eq!(version_number(""), 0);
    }
}
