//! Connections whose failures are told as libpq's programs tell them: each address that was tried, and why it did not do.

use std::io;

use pgkeep_wire::{Attempt, ConnInfo, Connection, Endpoint, SessionMode, WireError};

use crate::error::{Result, ToolError, system_text};
use crate::server_text::server_words;

/// Connects.
///
/// # Errors
/// When no address lets us in: the message has a line for each that was tried.
pub fn connect(info: &ConnInfo, mode: SessionMode) -> Result<Connection> {
    Connection::connect_reporting(info, mode).map_err(|attempts| {
        let texts: Vec<String> = attempts.iter().map(attempt_text).collect();
        let mut error = ToolError::new(texts.join("\n"));
        match attempts.last().map(|attempt| &attempt.error) {
            Some(WireError::PasswordMissing { .. }) => error.wants_password = true,
            Some(WireError::PasswordFileIgnored { reason, .. }) => {
                error.wants_password = true;
                error.hint = Some(reason.clone());
            }
            _ => {}
        }
        error
    })
}

fn attempt_text(Attempt { endpoint, error }: &Attempt) -> String {
    let reason = match error {
        WireError::Unreachable { endpoint: Endpoint::Tcp { host, address: None, .. }, source } => {
            return format!("could not translate host name \"{host}\" to address: {}", system_text(source));
        }
        WireError::Unreachable { source, .. } => unreachable_text(endpoint, source),
        WireError::PasswordMissing { .. } | WireError::PasswordFileIgnored { .. } => {
            "fe_sendauth: no password supplied".to_owned()
        }
        other => server_words(other),
    };
    format!("connection to server {} failed: {reason}", endpoint_text(endpoint))
}

fn endpoint_text(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Unix(path) => format!("on socket \"{}\"", path.display()),
        Endpoint::Tcp { host, address, port } => match address {
            Some(address) if address.to_string() != *host => {
                format!("at \"{host}\" ({address}), port {port}")
            }
            _ => format!("at \"{host}\", port {port}"),
        },
    }
}

fn unreachable_text(endpoint: &Endpoint, source: &io::Error) -> String {
    let reason = system_text(source);
    if !matches!(source.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) {
        return reason;
    }
    match endpoint {
        Endpoint::Unix(_) => {
            format!("{reason}\n\tIs the server running locally and accepting connections on that socket?")
        }
        Endpoint::Tcp { .. } => {
            format!("{reason}\n\tIs the server running on that host and accepting TCP/IP connections?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(endpoint: Endpoint) -> String {
        let source = io::Error::from_raw_os_error(111);
        attempt_text(&Attempt {
            endpoint: endpoint.clone(),
            error: WireError::Unreachable { endpoint, source },
        })
    }

    #[test]
    fn endpoints_are_named_as_libpq_names_them() {
        let tcp = |host: &str| Endpoint::Tcp {
            host: host.to_owned(),
            address: Some("127.0.0.1".parse().unwrap()),
            port: 5433,
        };
        assert_eq!(
            refused(tcp("localhost")),
            "connection to server at \"localhost\" (127.0.0.1), port 5433 failed: Connection refused\n\t\
             Is the server running on that host and accepting TCP/IP connections?"
        );
        assert!(
            refused(tcp("127.0.0.1"))
                .starts_with("connection to server at \"127.0.0.1\", port 5433 failed: ")
        );
        assert_eq!(
            refused(Endpoint::Unix("/tmp/.s.PGSQL.5432".into())),
            "connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: Connection refused\n\t\
             Is the server running locally and accepting connections on that socket?"
        );
    }
}
