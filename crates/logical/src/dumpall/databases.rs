//! The databases of a cluster, in the order in which they are dumped, and what stands in front of each.

use std::collections::BTreeSet;

use pgkeep_tool::Result;
use pgkeep_wire::raw_text;

use super::ClusterDumpOptions;
use crate::dump::session::Session;
use crate::dump::sql::{Quoting, one_line};

/// A database that takes connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDatabase {
    /// Its name.
    pub name: String,
    /// Its name as a parameter of a connection.
    pub connection_name: String,
    /// A pattern says that it is not wanted.
    pub(super) is_excluded: bool,
}

impl ClusterDatabase {
    /// Every cluster has it from the start, and whoever restores may be connected to it: it is made anew only when it is
    /// to be dropped first.
    #[must_use]
    pub fn is_in_every_cluster(&self) -> bool {
        self.name == "template1" || self.name == "postgres"
    }

    /// Never dumped nor dropped, even if it takes connections: every cluster must have it as it was.
    pub(super) fn is_template0(&self) -> bool {
        self.name == "template0"
    }

    /// What stands in front of its dump. `clean`: the dump drops and creates the database, and connects to it.
    pub(super) fn heading(&self, clean: bool) -> String {
        let mut text = format!("--\n-- Database \"{}\" dump\n--\n\n", one_line(&self.name));
        if self.is_in_every_cluster() && !clean {
            text.push_str(&format!("\\connect {}\n\n", self.name));
        }
        text
    }
}

/// The databases that take connections, `template1` first: the script may have to drop the database that it began in, but
/// by then it is connected to another. A connection limit of -2 is the mark of a database whose DROP was interrupted.
pub(super) fn list(session: &mut Session, excluded: &BTreeSet<String>) -> Result<Vec<ClusterDatabase>> {
    let rows = session.query(
        "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 \
         ORDER BY (datname <> 'template1'), datname",
    )?;
    let mut databases = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        let name = row.text("datname")?.to_owned();
        let connection_name = raw_text(&session.encoding.lower(&name));
        databases.push(ClusterDatabase { is_excluded: excluded.contains(&name), name, connection_name });
    }
    Ok(databases)
}

/// Commands that drop the databases that a restore makes. Those left out are dropped as well, as stock has it.
pub(super) fn drops(quoting: Quoting, options: &ClusterDumpOptions, databases: &[ClusterDatabase]) -> String {
    let mut script = String::new();
    if !databases.is_empty() {
        script.push_str("--\n-- Drop databases (except postgres and template1)\n--\n\n");
    }
    let mut names: Vec<&str> = databases
        .iter()
        .filter(|database| !database.is_in_every_cluster() && !database.is_template0())
        .map(|database| database.name.as_str())
        .collect();
    names.sort_unstable();
    for name in names {
        script.push_str(&format!("DROP DATABASE {}{};\n", options.if_exists(), quoting.name(name)));
    }
    script.push_str("\n\n");
    script
}
