//! WAL from the server's side: switching segments, tablespaces, and where the server is.

use std::path::PathBuf;

use crate::cluster::Cluster;

impl Cluster {
    /// Ends the current WAL segment and returns its name. Writes a restore point first, so that the segment is
    /// never empty and the switch always happens.
    pub fn switch_wal(&self) -> String {
        self.sql("SELECT pg_create_restore_point('testkit switch')");
        self.sql("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// The current write position, as PostgreSQL prints it.
    #[must_use]
    pub fn current_lsn(&self) -> String {
        self.sql("SELECT pg_current_wal_insert_lsn()")
    }

    /// The system identifier.
    #[must_use]
    pub fn system_identifier(&self) -> u64 {
        let text = self.sql("SELECT system_identifier FROM pg_control_system()");
        text.parse().unwrap_or_else(|error| panic!("system identifier `{text}`: {error}"))
    }

    /// Creates a tablespace in a directory beside PGDATA and returns that directory.
    pub fn create_tablespace(&self, name: &str) -> PathBuf {
        let path = self.scratch.create_dir(&format!("tblspc-{name}"), 0o700);
        self.sql(&format!("CREATE TABLESPACE \"{name}\" LOCATION '{}'", path.display()));
        path
    }
}
