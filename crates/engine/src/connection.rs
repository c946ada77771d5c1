//! How to reach the server: libpq's conventions, resolved once per verb.
//!
//! The caller hands over its environment; nothing here reads one. The string and the variables may hold passwords, so
//! they never appear in debug output.

use std::path::PathBuf;

use pgkeep_wire::{ConnInfo, Connection, Environment, SessionMode};

use crate::error::Result;

/// What the user said about the connection.
#[derive(Clone, Default)]
pub struct ConnectionRequest {
    /// A database name, a `key=value` string or a URI; the environment fills in the rest.
    pub conninfo: Option<String>,
    /// The `PG*` variables of the caller.
    pub environment: Vec<(String, String)>,
    /// The caller's home directory: `.pgpass`, `.pg_service.conf`, `.postgresql/`.
    pub home: Option<PathBuf>,
}

impl std::fmt::Debug for ConnectionRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The connection string and PGPASSWORD may hold a secret.
        f.debug_struct("ConnectionRequest").finish_non_exhaustive()
    }
}

impl ConnectionRequest {
    /// Resolves it by libpq's rules.
    pub fn resolve(&self) -> Result<ConnInfo> {
        let environment = Environment::from_iter(self.environment.iter().cloned(), self.home.clone());
        Ok(ConnInfo::resolve(self.conninfo.as_deref(), &environment)?)
    }

    /// Opens an ordinary session.
    pub fn connect(&self) -> Result<Connection> {
        Ok(Connection::connect(&self.resolve()?, SessionMode::Sql)?)
    }

    /// Opens a physical replication session.
    pub fn connect_replication(&self) -> Result<Connection> {
        Ok(Connection::connect(&self.resolve()?, SessionMode::PhysicalReplication)?)
    }
}
