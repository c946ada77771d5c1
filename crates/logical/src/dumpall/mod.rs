//! Dumping a cluster: what belongs to no database, then every database, as one script for psql.
//!
//! A native `pg_dumpall`, whose text is stock 18's to the letter. The parts in their order: [roles], [memberships],
//! privileges on parameters, [tablespaces], [databases]; each is a text made of one query or two. Databases are dumped by
//! the caller, who is told where each belongs.
//!
//! Invariants:
//! - Everything but the contents of databases comes from one snapshot, which ends before the first database is dumped.
//! - Names are quoted, and put on one line in comments: psql reads the script, and the names come from the server.

mod databases;
mod memberships;
mod options;
mod roles;
mod tablespaces;

use std::io::{self, Write};

use pgkeep_format::archive::Text;
use pgkeep_tool::{Reporter, Result, ToolError};
use pgkeep_wire::{ConnInfo, Connection, raw_bytes};

pub use databases::ClusterDatabase;
pub use options::{ClusterDumpOptions, GlobalsOnly};

use crate::dump::patterns;
use crate::dump::session::Session;
use crate::restore::clock;

/// A session with a cluster whose dump is about to be written.
#[derive(Debug)]
pub struct ClusterDump {
    session: Session,
    options: ClusterDumpOptions,
    databases: Vec<ClusterDatabase>,
}

impl ClusterDump {
    /// Connects to the database that is given, or else to `postgres` or `template1`.
    pub fn start(conninfo: &ConnInfo, options: ClusterDumpOptions) -> Result<ClusterDump> {
        let (connection, conninfo) = connect(conninfo, options.database.as_deref())?;
        let mut session = Session::start_for_cluster(
            connection,
            &conninfo,
            options.encoding.as_deref(),
            options.role.as_deref(),
            options.quote_all_identifiers,
        )?;
        let excluded = patterns::databases(&mut session, &options.exclude_databases)?;
        let databases = databases::list(&mut session, &excluded)?;
        Ok(ClusterDump { session, options, databases })
    }

    /// Writes the script. `dump` writes that of one database.
    pub fn write(
        self,
        out: &mut dyn Write,
        reporter: &dyn Reporter,
        dump: &mut dyn FnMut(&ClusterDatabase, &mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let ClusterDump { mut session, options, databases } = self;
        let mut script = Script { encoding: session.encoding.clone(), out };
        script.push("--\n-- PostgreSQL database cluster dump\n--\n\n")?;
        if options.verbose {
            script.push(&format!("-- Started on {}\n\n", clock::now()))?;
        }
        script.push(&format!("\\restrict {}\n\n", options.restrict_key))?;
        script.push(&first_settings(&session))?;
        if options.globals {
            globals(&mut script, &mut session, &options, &databases, reporter)?;
        }
        script.push(&format!("\\unrestrict {}\n\n", options.restrict_key))?;
        // A snapshot that stays open keeps dead rows alive, and dumps take long.
        drop(session);
        if options.only.is_none() {
            if !databases.is_empty() {
                script.push("--\n-- Databases\n--\n\n")?;
            }
            for database in databases.iter().filter(|database| !database.is_template0()) {
                if database.is_excluded {
                    reporter.info(&format!("excluding database \"{}\"", database.name));
                    continue;
                }
                reporter.info(&format!("dumping database \"{}\"", database.name));
                script.push(&database.heading(options.clean))?;
                dump(database, script.out)?;
            }
        }
        if options.verbose {
            script.push(&format!("-- Completed on {}\n\n", clock::now()))?;
        }
        script.push("--\n-- PostgreSQL database cluster dump complete\n--\n\n")
    }
}

/// The parts that are in no database, those that drop what is there first.
fn globals(
    script: &mut Script<'_>,
    session: &mut Session,
    options: &ClusterDumpOptions,
    databases: &[ClusterDatabase],
    reporter: &dyn Reporter,
) -> Result<()> {
    let with_roles = options.only != Some(GlobalsOnly::Tablespaces);
    let with_tablespaces = options.only != Some(GlobalsOnly::Roles) && !options.no_tablespaces;
    if options.clean {
        if options.only.is_none() {
            script.push(&databases::drops(session.quoting, options, databases))?;
        }
        if with_tablespaces {
            script.push(&tablespaces::drops(session, options)?)?;
        }
        if with_roles {
            script.push(&roles::drops(session, options)?)?;
        }
    }
    if with_roles {
        script.push(&roles::roles(session, options, reporter)?)?;
        script.push(&memberships::memberships(session, options, reporter)?)?;
        if session.is_at_least(15) && !options.no_privileges {
            script.push(&roles::parameter_privileges(session)?)?;
        }
    }
    if with_tablespaces {
        script.push(&tablespaces::tablespaces(session, options)?)?;
    }
    Ok(())
}

fn first_settings(session: &Session) -> String {
    let strings = if session.quoting.standard_strings { "on" } else { "off" };
    let mut text = format!(
        "SET default_transaction_read_only = off;\n\nSET client_encoding = '{}';\n\
         SET standard_conforming_strings = {strings};\n",
        session.encoding.name
    );
    if !session.quoting.standard_strings {
        text.push_str("SET escape_string_warning = off;\n");
    }
    text.push('\n');
    text
}

fn connect(conninfo: &ConnInfo, database: Option<&str>) -> Result<(Connection, ConnInfo)> {
    let try_one = |database: &str| -> Result<(Connection, ConnInfo)> {
        let conninfo = conninfo
            .clone()
            .with("dbname", database)
            .map_err(|error| ToolError::new(format!("invalid connection parameters: {error}")))?;
        let connection = pgkeep_tool::connect(&conninfo, pgkeep_wire::SessionMode::Sql)?;
        Ok((connection, conninfo))
    };
    match database {
        Some(database) => try_one(database).map_err(|error| ToolError {
            message: format!("could not connect to database \"{}\"", Text::from(&*raw_bytes(database))),
            detail: Some(error.message),
            ..error
        }),
        None => try_one("postgres").or_else(|_| try_one("template1")),
    }
}

/// Where the script goes, and in which encoding.
struct Script<'a> {
    encoding: crate::dump::Encoding,
    out: &'a mut dyn Write,
}

impl Script<'_> {
    fn push(&mut self, text: &str) -> Result<()> {
        self.out.write_all(&self.encoding.lower(text)).map_err(|error| output_error(&error))
    }
}

fn output_error(error: &io::Error) -> ToolError {
    ToolError::output(error).hint("Free space or choose another file: what was written is incomplete.")
}
