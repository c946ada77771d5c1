//! What belongs to no database, from the script that `pg_dumpall --globals-only` is: roles, memberships, privileges on
//! parameters, tablespaces. The statements are run as they stand, one after the other, without psql.
//!
//! - Roles and tablespaces that are there are kept. What the script says *about* them is applied, as psql would: attributes,
//!   settings, memberships, privileges and comments are those of the dump afterwards. So a second run does no harm.
//! - What it says about the role that connects comes last, after the databases, since it may lock that role out.
//! - Nothing is run of a script that is cut short, or that wants something of psql that is not known.
//! - Texts of statements may hold passwords: messages say only what a statement is about.
//!
//! Commands of psql in such scripts: `\restrict` and `\unrestrict`, which mean something to psql alone.

mod statements;

use std::collections::BTreeSet;
use std::ops::Range;

use pgkeep_tool::server_text::server_words;
use pgkeep_wire::{ConnInfo, Connection, WireError};
use serde::Serialize;

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::observe::{LoadEvent, LoadObserver};
use super::parallel::interrupted;
use super::report::hint_for;
use super::target;
use statements::{About, Statement};

/// How many directories or names a message lists.
const SHOWN: usize = 10;

/// A script, in statements.
#[derive(Debug)]
pub struct GlobalsScript {
    script: Vec<u8>,
    statements: Vec<Statement>,
}

/// How the script is run.
#[derive(Debug, Clone)]
pub struct GlobalsRequest {
    /// The server and the role; the database does not matter.
    pub target: ConnInfo,
    /// Nothing about tablespaces.
    pub no_tablespaces: bool,
    /// No privileges on tablespaces and parameters.
    pub no_privileges: bool,
    /// Go on after what the server refuses.
    pub continue_on_error: bool,
}

/// What of the script is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalsPart {
    /// Everything but the role that connects: before the databases.
    Others,
    /// What is said of the role that connects: after them.
    OwnRole,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GlobalsReport {
    /// Everything that was asked for is there.
    pub complete: bool,
    /// Statements that were run.
    pub statements: usize,
    /// Roles that were made.
    pub roles_made: Vec<String>,
    /// Roles that were there.
    pub roles_kept: Vec<String>,
    /// Tablespaces that were made.
    pub tablespaces_made: Vec<String>,
    /// Tablespaces that were there.
    pub tablespaces_kept: Vec<String>,
    /// Statements that options left out, in short.
    pub left_out: Vec<String>,
    /// What the server refused.
    pub failures: Vec<GlobalsFailure>,
    /// What was not tried, after failures.
    pub missing: Vec<String>,
}

/// A statement that the server refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GlobalsFailure {
    /// What it is about.
    pub statement: String,
    /// The server's words.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl GlobalsScript {
    /// Finds the statements.
    ///
    /// # Errors
    /// When the script is not whole, or holds commands for psql that are not known.
    pub fn parse(script: Vec<u8>) -> LoadResult<GlobalsScript> {
        let statements = statements::parse(&script)?;
        Ok(GlobalsScript { script, statements })
    }

    /// The roles that there will be.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<Vec<u8>> {
        let made = self.statements.iter().filter_map(|statement| match &statement.about {
            About::CreateRole(name) => Some(name.clone()),
            _ => None,
        });
        made.collect()
    }

    /// The tablespaces that there will be.
    #[must_use]
    pub fn tablespaces(&self) -> BTreeSet<Vec<u8>> {
        let made = self.statements.iter().filter_map(|statement| match &statement.about {
            About::CreateTablespace(name, _) => Some(name.clone()),
            _ => None,
        });
        made.collect()
    }

    fn text(&self, range: &Range<usize>) -> &[u8] {
        self.script.get(range.clone()).unwrap_or_default()
    }

    /// What would be made and kept. Also looks whether the directories of the tablespaces are there.
    ///
    /// # Errors
    /// When the server does not answer, or lacks a directory.
    pub fn plan(&self, request: &GlobalsRequest) -> LoadResult<GlobalsReport> {
        let (mut connection, there) = self.open(request)?;
        let mut report = GlobalsReport { complete: true, ..GlobalsReport::default() };
        let mut lacking = Vec::new();
        for statement in &self.statements {
            if is_left_out(&statement.about, request) {
                report.left_out.push(statement.label.clone());
                continue;
            }
            report.statements += 1;
            match &statement.about {
                About::CreateRole(name) => report.role(name, there.roles.contains(name)),
                About::CreateTablespace(name, directory) => {
                    let is_there = there.tablespaces.contains(name);
                    report.tablespace(name, is_there);
                    if !is_there && !self.has_directory(&mut connection, directory)? {
                        let directory = String::from_utf8_lossy(self.text(directory)).into_owned();
                        lacking.push(format!("{directory} of `{}`", String::from_utf8_lossy(name)));
                    }
                }
                _ => {}
            }
        }
        connection.close();
        if lacking.is_empty() {
            return Ok(report);
        }
        lacking.truncate(SHOWN);
        Err(LoadError::new(
            LoadErrorKind::NotFound,
            format!("the server's machine lacks directories of tablespaces: {}", lacking.join(", ")),
        )
        .hint("make them there, empty and owned by the server's user")
        .hint("`--no-tablespaces` makes none, and everything goes into the databases' own"))
    }

    /// Whether there is such a directory, as far as the role may know.
    fn has_directory(&self, connection: &mut Connection, directory: &Range<usize>) -> LoadResult<bool> {
        let literal = self.text(directory);
        if literal == b"''" {
            // The server's own place.
            return Ok(true);
        }
        let query = [b"SELECT (pg_catalog.pg_stat_file(", literal, b", true)).isdir AS there"].concat();
        match connection.query(&query) {
            Ok(rows) => {
                let row = rows.one().map_err(|error| asked(&error))?;
                Ok(row.optional("there").map_err(|error| asked(&error))? == Some("t"))
            }
            // It may not know: then it will be told when it makes the tablespace.
            Err(error) if error.server_error().is_some_and(|error| !error.is_fatal()) => Ok(true),
            Err(error) => Err(asked(&error)),
        }
    }

    /// A session with the script's settings, and what is there already.
    fn open(&self, request: &GlobalsRequest) -> LoadResult<(Connection, There)> {
        let mut connection = target::maintenance(&request.target)?;
        let mut ask = || {
            // In the encoding of the script, as its names are.
            for statement in self.statements.iter().filter(|statement| statement.about == About::Setting) {
                connection.execute(self.text(&statement.text))?;
            }
            let rows = connection.query("SELECT SESSION_USER AS name")?;
            Ok::<_, WireError>(There {
                user: rows.one()?.bytes("name")?.unwrap_or_default().to_vec(),
                roles: target::names(&mut connection, "SELECT rolname AS name FROM pg_catalog.pg_roles")?,
                tablespaces: target::names(
                    &mut connection,
                    "SELECT spcname AS name FROM pg_catalog.pg_tablespace",
                )?,
            })
        };
        let there = ask().map_err(|error| asked(&error))?;
        Ok((connection, there))
    }

    /// Runs a part of the script, and adds to the report what was done.
    ///
    /// # Errors
    /// When the connection is lost, or the user wishes an end. What the server refuses is in the report.
    pub fn run(
        &self,
        request: &GlobalsRequest,
        part: GlobalsPart,
        observer: &dyn LoadObserver,
        report: &mut GlobalsReport,
    ) -> LoadResult<()> {
        let (mut connection, there) = self.open(request)?;
        for statement in &self.statements {
            let is_own = matches!(&statement.about, About::AlterRole(name) if *name == there.user);
            let is_of_part = match part {
                GlobalsPart::Others => !is_own && statement.about != About::Setting,
                GlobalsPart::OwnRole => is_own,
            };
            if !is_of_part {
                continue;
            }
            if observer.is_cancelled() {
                return Err(interrupted());
            }
            if is_left_out(&statement.about, request) {
                report.left_out.push(statement.label.clone());
                continue;
            }
            match &statement.about {
                About::CreateRole(name) if there.roles.contains(name) => {
                    report.role(name, true);
                    continue;
                }
                About::CreateTablespace(name, _) if there.tablespaces.contains(name) => {
                    report.tablespace(name, true);
                    continue;
                }
                _ => {}
            }
            if !report.failures.is_empty() && !request.continue_on_error {
                report.missing.push(statement.label.clone());
                continue;
            }
            match connection.execute(self.text(&statement.text)) {
                Ok(()) => {
                    report.statements += 1;
                    match &statement.about {
                        About::CreateRole(name) => report.role(name, false),
                        About::CreateTablespace(name, _) => report.tablespace(name, false),
                        _ => {}
                    }
                }
                Err(error) => report.refused(statement, &error, observer)?,
            }
        }
        connection.close();
        report.complete = report.failures.is_empty() && report.missing.is_empty();
        Ok(())
    }
}

/// What is on the server.
struct There {
    user: Vec<u8>,
    roles: BTreeSet<Vec<u8>>,
    tablespaces: BTreeSet<Vec<u8>>,
}

impl GlobalsReport {
    fn role(&mut self, name: &[u8], is_there: bool) {
        let list = if is_there { &mut self.roles_kept } else { &mut self.roles_made };
        list.push(String::from_utf8_lossy(name).into_owned());
    }

    fn tablespace(&mut self, name: &[u8], is_there: bool) {
        let list = if is_there { &mut self.tablespaces_kept } else { &mut self.tablespaces_made };
        list.push(String::from_utf8_lossy(name).into_owned());
    }

    fn refused(
        &mut self,
        statement: &Statement,
        error: &WireError,
        observer: &dyn LoadObserver,
    ) -> LoadResult<()> {
        if error.server_error().is_none_or(|error| error.is_fatal()) {
            return Err(LoadError::server("the connection to the server was lost", error));
        }
        let message = server_words(error);
        observer.event(&LoadEvent::Refused { step: &statement.label, message: &message });
        let hint = match (&statement.about, error.sqlstate()) {
            (About::CreateTablespace(..) | About::Tablespace(_), _) => {
                "give the server an empty directory of its user there, or leave tablespaces out with `--no-tablespaces`"
            }
            (_, Some("42501")) => "connect as a superuser",
            (_, state) => hint_for(state),
        };
        self.failures.push(GlobalsFailure {
            statement: statement.label.clone(),
            message,
            hint: hint.to_owned(),
        });
        Ok(())
    }
}

fn asked(error: &WireError) -> LoadError {
    LoadError::server("the server did not answer a question about roles and tablespaces", error)
}

fn is_left_out(about: &About, request: &GlobalsRequest) -> bool {
    match about {
        About::CreateTablespace(..) | About::Tablespace(false) => request.no_tablespaces,
        About::Tablespace(true) => request.no_tablespaces || request.no_privileges,
        About::ParameterPrivilege => request.no_privileges,
        _ => false,
    }
}
