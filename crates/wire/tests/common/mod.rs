//! What the integration tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use pgkeep_testkit::Cluster;
use pgkeep_wire::{ConnInfo, Connection, Environment, SessionMode, WireError};

/// Resolves a connection string with no environment.
pub fn info(text: &str) -> ConnInfo {
    ConnInfo::resolve(Some(text), &Environment::empty()).unwrap()
}

pub fn connect(text: &str) -> Result<Connection, WireError> {
    Connection::connect(&info(text), SessionMode::Sql)
}

pub fn sql_session(cluster: &Cluster) -> Connection {
    connect(&cluster.conninfo()).unwrap()
}

pub fn replication_session(cluster: &Cluster) -> Connection {
    Connection::connect(&info(&cluster.conninfo()), SessionMode::PhysicalReplication).unwrap()
}

/// The error and its causes in one line, as an operator would see them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
