//! From an address to an authenticated session: socket, TLS negotiation, start-up message, authentication.
//!
//! The orders of `sslmode` and `sslnegotiation` are libpq's (up to 18). Before TLS begins exactly one byte is read,
//! so that nothing that was slipped in there counts as the server's. All of it has one time limit, `connect_timeout`,
//! for each address.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::auth::{Authentication, Progress};
use crate::connection::{CancelData, SessionMode};
use crate::error::{Notice, ServerError, ServerErrorKind, WireError};
use crate::host::Target;
use crate::message::{Fields, MessageReader};
use crate::raw_text::raw_bytes;
use crate::settings::{Keepalive, Settings, SslMode, SslNegotiation};
use crate::stream::{Deadline, Socket, SocketAddress, Transport};
use crate::tls::{self, TlsContext};

/// What is there when the server says that it is ready.
pub(crate) struct Established {
    pub(crate) transport: Transport,
    pub(crate) reader: MessageReader,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) cancel: CancelData,
}

/// Messages accepted between the start-up message and readiness.
const MAX_STARTUP_MESSAGES: usize = 2000;

/// How one attempt treats TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

/// Connects to one address, with the second attempt that `allow` and `prefer` mean.
pub(crate) fn establish(
    settings: &Arc<Settings>,
    target: &Target,
    mode: SessionMode,
) -> Result<Established, WireError> {
    let over_unix = matches!(target.address, SocketAddress::Unix(_));
    let (first, second) = match settings.ssl.mode {
        _ if over_unix => (Encryption::Never, None),
        SslMode::Disable => (Encryption::Never, None),
        SslMode::Allow => (Encryption::Never, Some(Encryption::Always)),
        SslMode::Prefer => (Encryption::IfOffered, Some(Encryption::Never)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Always, None),
    };
    // As in libpq the time limit is for each address, not for each way of asking it.
    let deadline = Deadline::after(settings.connect_timeout);
    let mut was_encrypted = false;
    let error = match attempt(settings, target, mode, first, deadline, &mut was_encrypted) {
        Ok(established) => return Ok(established),
        Err(error) => error,
    };
    let Some(second) = second else { return Err(error) };
    let retry = match first {
        // Only where TLS made the difference: the same plain attempt again would fail again.
        Encryption::IfOffered => {
            matches!(error, WireError::Tls { .. }) || (was_encrypted && is_refusal(&error))
        }
        _ => is_refusal(&error),
    };
    if !retry {
        return Err(error);
    }
    // The first answer is the one that belongs to what the user prefers.
    attempt(settings, target, mode, second, deadline, &mut was_encrypted).map_err(|_| error)
}

/// Failures that another kind of connection may not have.
fn is_refusal(error: &WireError) -> bool {
    match error {
        WireError::Tls { .. } => true,
        other => matches!(
            other.server_kind(),
            Some(ServerErrorKind::NoHbaEntry | ServerErrorKind::AuthenticationRejected)
        ),
    }
}

fn attempt(
    settings: &Arc<Settings>,
    target: &Target,
    mode: SessionMode,
    encryption: Encryption,
    deadline: Deadline,
    was_encrypted: &mut bool,
) -> Result<Established, WireError> {
    let socket = open_socket(settings, target, deadline)?;
    let (transport, context) = negotiate(settings, target, socket, encryption, deadline)?;
    *was_encrypted = transport.is_tls();
    let cancel = CancelData {
        process_id: 0,
        secret_key: 0,
        target: target.clone(),
        tls: context,
        settings: Arc::clone(settings),
    };
    start_session(transport, cancel, mode, deadline)
}

fn open_socket(settings: &Settings, target: &Target, deadline: Deadline) -> Result<Socket, WireError> {
    let unreachable = |source| WireError::Unreachable { endpoint: target.endpoint.clone(), source };
    let socket = Socket::connect(&target.address, &settings.keepalive, deadline).map_err(unreachable)?;
    if let (Some(wanted), Some(uid)) = (&settings.require_peer, socket.peer_uid().map_err(WireError::Io)?) {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        if crate::environment::user_name_in(&passwd, uid).as_deref() != Some(wanted) {
            return Err(WireError::AuthRefused(format!(
                "`requirepeer` asks for a server of user `{wanted}`, but its user id is {uid}"
            )));
        }
    }
    Ok(socket)
}

/// The socket as the session will use it, with the TLS configuration that a cancel request needs again.
fn negotiate(
    settings: &Settings,
    target: &Target,
    mut socket: Socket,
    encryption: Encryption,
    deadline: Deadline,
) -> Result<(Transport, Option<Arc<TlsContext>>), WireError> {
    if encryption == Encryption::Never {
        return Ok((Transport::Plain(socket), None));
    }
    if settings.ssl.negotiation == SslNegotiation::Postgres {
        match request_tls(&mut socket, deadline)? {
            b'S' => {}
            b'N' if encryption == Encryption::IfOffered => return Ok((Transport::Plain(socket), None)),
            b'N' => return Err(tls_error(target, "the server does not support TLS")),
            // An error text from someone who has not shown a certificate is not worth displaying.
            b'E' => return Err(tls_error(target, "the server answers the request for TLS with an error")),
            _ => {
                return Err(WireError::protocol(
                    "the answer to the request for TLS is not that of PostgreSQL",
                ));
            }
        }
    }
    let context = tls::context(settings, target)?;
    let transport = tls::connect(socket, &context, settings, target, deadline)?;
    Ok((transport, Some(Arc::new(context))))
}

fn tls_error(target: &Target, reason: &str) -> WireError {
    WireError::Tls { endpoint: target.endpoint.clone(), reason: reason.to_owned() }
}

/// Asks for TLS; exactly one byte is read, so that nothing an attacker adds before the handshake can count as data.
fn request_tls(socket: &mut Socket, deadline: Deadline) -> Result<u8, WireError> {
    const DURING: &str = "asking for TLS";
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    let mut ask = || -> io::Result<u8> {
        socket.set_read_timeout(deadline.remaining()?)?;
        socket.write_all(&request)?;
        let mut answer = [0; 1];
        socket.read_exact(&mut answer)?;
        Ok(answer[0])
    };
    ask().map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => WireError::Closed { mid_message: false },
        _ => WireError::from_io(error, DURING),
    })
}

/// A connection for a cancel request: encrypted when the session is.
pub(crate) fn open_for_cancel(
    data: &CancelData,
    keepalive: &Keepalive,
    deadline: Deadline,
) -> Result<Transport, WireError> {
    let unreachable = |source| WireError::Unreachable { endpoint: data.target.endpoint.clone(), source };
    let mut socket = Socket::connect(&data.target.address, keepalive, deadline).map_err(unreachable)?;
    let Some(context) = &data.tls else {
        socket.set_read_timeout(deadline.remaining().map_err(unreachable)?).map_err(WireError::Io)?;
        return Ok(Transport::Plain(socket));
    };
    if data.settings.ssl.negotiation == SslNegotiation::Postgres
        && request_tls(&mut socket, deadline)? != b'S'
    {
        return Err(tls_error(&data.target, "the server offered TLS before, but not now"));
    }
    tls::connect(socket, context, &data.settings, &data.target, deadline)
}

fn start_session(
    mut transport: Transport,
    mut cancel: CancelData,
    mode: SessionMode,
    deadline: Deadline,
) -> Result<Established, WireError> {
    const DURING: &str = "logging in";
    let settings = Arc::clone(&cancel.settings);
    let mut out = BytesMut::new();
    startup_message(&settings, mode, &mut out)?;
    send(&mut transport, &out)?;

    let mut reader = MessageReader::new();
    let mut authentication = Authentication::new(&settings, &cancel.target, mode, &transport);
    let (mut parameters, mut notices) = (Vec::new(), Vec::new());
    for _ in 0..MAX_STARTUP_MESSAGES {
        let timeout = deadline.remaining().map_err(|error| WireError::from_io(error, DURING))?;
        transport.socket().set_read_timeout(timeout).map_err(WireError::Io)?;
        let tag =
            reader.advance(&mut transport, DURING).map_err(|error| as_tls_error(error, &cancel.target))?;
        match tag {
            b'R' => {
                out.clear();
                if let Progress::Answer = authentication.handle(reader.body(), &mut out)? {
                    send(&mut transport, &out)?;
                }
                if authentication.is_complete() {
                    reader.lift_limit();
                }
            }
            b'E' => return Err(authentication.explain(ServerError::parse(reader.body()))),
            b'N' => notices.push(ServerError::parse(reader.body())),
            _ if !authentication.is_complete() => {
                return Err(WireError::protocol(format!(
                    "message of type `{}` before authentication is complete",
                    char::from(tag)
                )));
            }
            b'S' => parameters.extend(parse_parameter(reader.body())),
            b'K' => {
                let mut fields = Fields(reader.body());
                cancel.process_id = fields.i32()?;
                cancel.secret_key = fields.i32()?;
            }
            b'Z' => {
                transport.socket().set_read_timeout(None).map_err(WireError::Io)?;
                return Ok(Established { transport, reader, parameters, notices, cancel });
            }
            other => {
                return Err(WireError::protocol(format!(
                    "unexpected message of type `{}` while logging in",
                    char::from(other)
                )));
            }
        }
    }
    Err(WireError::protocol("the server does not come to an end of its start-up messages"))
}

/// In TLS 1.3 the server's verdict on our certificate arrives after the handshake.
fn as_tls_error(error: WireError, target: &Target) -> WireError {
    match &error {
        WireError::Io(io) => match tls::tls_reason(io) {
            Some(reason) => WireError::Tls { endpoint: target.endpoint.clone(), reason },
            None => error,
        },
        _ => error,
    }
}

fn send(transport: &mut Transport, bytes: &[u8]) -> Result<(), WireError> {
    let result = transport.write_all(bytes).and_then(|()| transport.flush());
    result.map_err(|error| WireError::from_io(error, "logging in"))
}

/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 3 << 16;

/// Names go as the bytes that they are: nothing is known of encodings yet.
fn startup_message(settings: &Settings, mode: SessionMode, out: &mut BytesMut) -> Result<(), WireError> {
    let mut parameters = vec![("user", settings.user.as_str())];
    match mode {
        SessionMode::Sql => parameters.push(("database", &settings.database)),
        SessionMode::DatabaseReplication => {
            parameters.extend([("database", settings.database.as_str()), ("replication", "database")]);
        }
        SessionMode::PhysicalReplication => parameters.push(("replication", "true")),
    }
    parameters.extend([
        ("application_name", settings.application_name.as_str()),
        ("client_encoding", "UTF8"),
        // What the server's and the role's settings say about formats must not change what we read.
        ("DateStyle", "ISO"),
        ("extra_float_digits", "3"),
    ]);
    if let Some(options) = &settings.options {
        parameters.push(("options", options));
    }
    let mut body = Vec::from(PROTOCOL.to_be_bytes());
    for (name, value) in parameters {
        for text in [name, value] {
            let bytes = raw_bytes(text);
            if bytes.contains(&0) {
                return Err(WireError::protocol(format!("the parameter `{name}` holds a zero byte")));
            }
            body.extend_from_slice(&bytes);
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4)
        .map_err(|_| WireError::protocol("the connection parameters are too long"))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// Name and value of a ParameterStatus message.
pub(crate) fn parse_parameter(body: &[u8]) -> Option<(String, String)> {
    let mut fields = Fields(body);
    let name = String::from_utf8_lossy(fields.c_string().ok()?).into_owned();
    let value = String::from_utf8_lossy(fields.c_string().ok()?).into_owned();
    Some((name, value))
}
