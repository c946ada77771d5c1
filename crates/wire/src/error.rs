//! Errors, by what a user does about them, and the server's own error fields.
//!
//! Texts from a server lose their control characters when they are shown. No error holds a password.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::settings::TargetSession;

/// Where a connection goes: shown in errors, never holds secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address: the host as the user wrote it, the address it stands for when known, and the port.
    Tcp {
        /// Host name or address as given.
        host: String,
        /// The address tried, when the name was resolved.
        address: Option<IpAddr>,
        /// The port.
        port: u16,
    },
    /// A Unix-domain socket, by its full path.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, address, port } => {
                if host.contains(':') {
                    write!(f, "[{}]:{port}", Printable(host))?;
                } else {
                    write!(f, "{}:{port}", Printable(host))?;
                }
                match address {
                    Some(address) if address.to_string() != *host => write!(f, " ({address})"),
                    _ => Ok(()),
                }
            }
            Endpoint::Unix(path) => write!(f, "socket {}", Printable(&path.to_string_lossy())),
        }
    }
}

/// One host that was tried, and why it did not do.
#[derive(Debug)]
pub struct Attempt {
    /// Where.
    pub endpoint: Endpoint,
    /// Why not.
    pub error: WireError,
}

/// Everything that can go wrong between us and a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The connection parameters are wrong: the user corrects them.
    #[error("invalid connection parameters")]
    ConnInfo(#[from] ConnInfoError),
    /// Nothing answers there: is the server running, are host and port right, is a firewall in between?
    #[error("server not reachable at {endpoint}")]
    Unreachable {
        /// Where we tried.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Several hosts were given and none would do.
    #[error("none of the {} hosts tried can be used{}", attempts.len(), list_attempts(attempts))]
    NoUsableHost {
        /// Each host tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The server answers, but is not what `target_session_attrs` asks for.
    #[error("the server at {endpoint} is not {wanted}")]
    WrongSession {
        /// Which server.
        endpoint: Endpoint,
        /// What was asked for.
        wanted: TargetSession,
    },
    /// The time allowed ran out. A base backup, COPY or WAL stream can go on; after a query the connection is busy.
    #[error("timeout while {during}")]
    Timeout {
        /// What we were waiting for.
        during: &'static str,
    },
    /// The server refused the password.
    #[error("authentication failed for user `{}`{}", Printable(user), describe_source(password_source.as_deref()))]
    AuthFailed {
        /// The role.
        user: String,
        /// Where the password came from, when not from the caller: the path of a password file.
        password_source: Option<String>,
        /// What the server said.
        #[source]
        source: Box<ServerError>,
    },
    /// The server wants a password and none was supplied.
    #[error("no password supplied for user `{}` at {endpoint}", Printable(user))]
    PasswordMissing {
        /// The role.
        user: String,
        /// The server that asks.
        endpoint: Endpoint,
    },
    /// The server wants a password, none was supplied, and there is a password file that cannot be used.
    #[error("no password supplied for user `{}` at {endpoint}: {}", Printable(user), Printable(reason))]
    PasswordFileIgnored {
        /// The role.
        user: String,
        /// The server that asks.
        endpoint: Endpoint,
        /// What is wrong with the file.
        reason: String,
    },
    /// The authentication exchange is not acceptable to us: a method refused by `require_auth`, missing channel
    /// binding, or a server that does not prove that it knows the password.
    #[error("authentication not accepted: {0}")]
    AuthRefused(String),
    /// TLS could not be set up, or the certificate is not trusted.
    #[error("TLS with {endpoint} failed: {reason}")]
    Tls {
        /// Which server.
        endpoint: Endpoint,
        /// What is wrong.
        reason: String,
    },
    /// The server reports an error.
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    /// The bytes do not follow the protocol: not a PostgreSQL server, a broken proxy, or a bug.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The connection is gone.
    #[error("the server closed the connection{}", if *.mid_message { " in the middle of a message" } else { "" })]
    Closed {
        /// True when bytes were missing of a message that had begun.
        mid_message: bool,
    },
    /// Reading from or writing to an established connection failed.
    #[error("connection to the server lost")]
    Io(#[source] io::Error),
    /// A previous operation was left in the middle, so nothing more can be sent.
    #[error("the connection is in the middle of another operation")]
    Busy,
    /// The server, or this build, cannot do this.
    #[error("{0}")]
    Unsupported(String),
    /// The caller's value cannot be sent (for example it contains a zero byte).
    #[error("{0}")]
    InvalidInput(String),
    /// A result does not have the column or the form that was expected.
    #[error("unexpected result: {0}")]
    UnexpectedResult(String),
}

impl WireError {
    /// The SQLSTATE, when the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server_error().map(|error| error.code.as_str())
    }

    /// The server's error, when this is one.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            WireError::Server(error) => Some(error),
            WireError::AuthFailed { source, .. } => Some(source),
            WireError::NoUsableHost { attempts } => {
                attempts.last().and_then(|last| last.error.server_error())
            }
            _ => None,
        }
    }

    /// What kind of server error this is, when it is one.
    pub fn server_kind(&self) -> Option<ServerErrorKind> {
        self.server_error().map(ServerError::kind)
    }

    /// True when trying again later, with nothing changed, may work.
    pub fn is_transient(&self) -> bool {
        match self {
            WireError::Unreachable { .. }
            | WireError::Timeout { .. }
            | WireError::Closed { .. }
            | WireError::Io(_) => true,
            WireError::NoUsableHost { attempts } => {
                attempts.iter().any(|attempt| attempt.error.is_transient())
            }
            WireError::Server(error) => {
                matches!(
                    error.kind(),
                    ServerErrorKind::StartingUp
                        | ServerErrorKind::ShuttingDown
                        | ServerErrorKind::TooManyConnections
                )
            }
            _ => false,
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> WireError {
        WireError::Protocol(what.into())
    }

    /// An I/O error on an established connection.
    pub(crate) fn from_io(error: io::Error, during: &'static str) -> WireError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WireError::Timeout { during },
            io::ErrorKind::UnexpectedEof => WireError::Closed { mid_message: true },
            io::ErrorKind::InvalidInput => WireError::InvalidInput(error.to_string()),
            _ => WireError::Io(error),
        }
    }
}

fn describe_source(source: Option<&str>) -> String {
    match source {
        Some(path) => format!(" (password taken from {})", Printable(path)),
        None => String::new(),
    }
}

fn list_attempts(attempts: &[Attempt]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        text.push_str("; ");
        text.push_str(&attempt.error.to_string());
        let mut source = std::error::Error::source(&attempt.error);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
    }
    text
}

/// Connection parameters that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// The string does not parse.
    #[error("malformed connection string: {0}")]
    Syntax(String),
    /// A keyword that PostgreSQL does not know.
    #[error("unknown connection keyword `{}`", Printable(.0))]
    UnknownKeyword(String),
    /// A value that does not fit its keyword.
    #[error("invalid value `{}` for `{keyword}`: {reason}", Printable(value))]
    InvalidValue {
        /// The keyword.
        keyword: &'static str,
        /// The value as given.
        value: String,
        /// What is expected.
        reason: String,
    },
    /// Host, address and port lists of different lengths.
    #[error("{0}")]
    HostList(String),
    /// The service is in no service file.
    #[error("service `{}` not found in {}", Printable(service), Printable(searched))]
    ServiceNotFound {
        /// The service.
        service: String,
        /// The files searched.
        searched: String,
    },
    /// A service file that cannot be read or parsed.
    #[error("service file {}: {reason}", Printable(path))]
    ServiceFile {
        /// Which file.
        path: String,
        /// What is wrong, with the line.
        reason: String,
    },
    /// Neither a user is given nor can the name of the current one be found.
    #[error("no user name given, and the name of the current system user cannot be found")]
    NoUser,
}

/// What a server error means to an operator. Decided by SQLSTATE and by the server's routine name, never by the
/// message, which is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerErrorKind {
    /// 28P01.
    WrongPassword,
    /// No line of `pg_hba.conf` lets this user, database, address and kind of connection in.
    NoHbaEntry,
    /// `peer`, `ident`, `cert` or another method that looks at who we are refused.
    AuthenticationRejected,
    /// The role does not exist (or may not log in).
    RoleMissing,
    /// The database does not exist.
    DatabaseMissing,
    /// A right is missing; on a replication connection: the REPLICATION attribute.
    InsufficientPrivilege,
    /// `max_connections`, the role's or the database's limit, or `max_wal_senders`.
    TooManyConnections,
    /// The server starts up or does recovery without accepting connections.
    StartingUp,
    /// The server is shutting down, crashed, or an administrator ended this session.
    ShuttingDown,
    /// The statement was cancelled.
    Canceled,
    /// Anything else.
    Other,
}

/// An error as the server reported it. Texts are kept as sent; [`fmt::Display`] leaves out control characters.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, not translated.
    pub severity: String,
    /// The SQLSTATE, five characters.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// More about the problem.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The context in which it happened.
    pub context: Option<String>,
    /// Character position in the query, from 1.
    pub position: Option<u32>,
    /// Schema, when an object is meant.
    pub schema: Option<String>,
    /// Table, when an object is meant.
    pub table: Option<String>,
    /// Name of the server's function that reported the error: not translated.
    pub routine: Option<String>,
}

/// A message of the server that is not an error (`WARNING`, `NOTICE`, …), with the same fields.
pub type Notice = ServerError;

impl ServerError {
    /// Reads the fields of an ErrorResponse or NoticeResponse. Never fails: what is malformed is left out.
    pub(crate) fn parse(body: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        let mut rest = body;
        let mut localized_severity = String::new();
        while let [kind, tail @ ..] = rest {
            if *kind == 0 {
                break;
            }
            let Some(end) = tail.iter().position(|byte| *byte == 0) else { break };
            let text = String::from_utf8_lossy(&tail[..end]).into_owned();
            match kind {
                b'S' => localized_severity = text,
                b'V' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(text),
                b'P' => error.position = text.parse().ok(),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'R' => error.routine = Some(text),
                _ => {}
            }
            rest = &tail[end + 1..];
        }
        if error.severity.is_empty() {
            error.severity = localized_severity;
        }
        error
    }

    /// What this means to an operator.
    pub fn kind(&self) -> ServerErrorKind {
        match self.code.as_str() {
            "28P01" => ServerErrorKind::WrongPassword,
            "28000" => match self.routine.as_deref() {
                Some("ClientAuthentication") => ServerErrorKind::NoHbaEntry,
                Some("InitializeSessionUserId") => ServerErrorKind::RoleMissing,
                _ if self.message.starts_with("no pg_hba.conf entry")
                    || self.message.starts_with("pg_hba.conf rejects") =>
                {
                    ServerErrorKind::NoHbaEntry
                }
                _ if self.message.starts_with("role \"") => ServerErrorKind::RoleMissing,
                _ => ServerErrorKind::AuthenticationRejected,
            },
            "3D000" => ServerErrorKind::DatabaseMissing,
            "42501" => ServerErrorKind::InsufficientPrivilege,
            "53300" => ServerErrorKind::TooManyConnections,
            "57P03" => ServerErrorKind::StartingUp,
            "57P01" | "57P02" | "57P05" => ServerErrorKind::ShuttingDown,
            "57014" => ServerErrorKind::Canceled,
            _ => ServerErrorKind::Other,
        }
    }

    /// True when the server ends the session with this.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = if self.message.is_empty() { "(no message)" } else { &self.message };
        write!(f, "{}", Printable(message))?;
        if !self.code.is_empty() {
            write!(f, " (SQLSTATE {})", Printable(&self.code))?;
        }
        if let Some(detail) = &self.detail {
            write!(f, "; {}", Printable(detail))?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerError")
            .field("severity", &self.severity)
            .field("code", &self.code)
            .field("message", &self.message)
            .field("detail", &self.detail)
            .field("hint", &self.hint)
            .field("routine", &self.routine)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for ServerError {}

/// Text of unknown origin, shown without what could drive a terminal: line ends and tabs become spaces, other control
/// characters and direction overrides are left out, and only the first 2,000 characters count.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for character in self.0.chars().take(2000) {
            match character {
                '\n' | '\t' => f.write_char(' ')?,
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
                other if other.is_control() => {}
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, text) in fields {
            body.push(*kind);
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    #[test]
    fn the_kind_comes_from_code_and_routine_not_from_the_translated_message() {
        let body = response(&[
            (b'S', "FATAL"),
            (b'V', "FATAL"),
            (b'C', "28000"),
            (b'M', "pas d'entrée"),
            (b'R', "ClientAuthentication"),
        ]);
        assert_eq!(ServerError::parse(&body).kind(), ServerErrorKind::NoHbaEntry);
    }

    #[test]
    fn control_characters_of_the_server_do_not_reach_the_terminal() {
        let body = response(&[(b'C', "XX000"), (b'M', "a\x1b[2Jb\nc\u{202e}d")]);
        assert_eq!(ServerError::parse(&body).to_string(), "a[2Jb cd (SQLSTATE XX000)");
    }

    #[test]
    fn a_cut_response_keeps_the_fields_that_are_whole() {
        let error = ServerError::parse(b"CXX000\0Mno end");
        assert_eq!(error.code, "XX000");
        assert_eq!(error.message, "");
    }
}
