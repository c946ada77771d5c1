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

use std::collections::BTreeSet;
use std::ops::Range;

use pgkeep_wire::{ConnInfo, Connection, WireError};
use serde::Serialize;

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::lexer::{Kind, Sql};
use super::observe::{LoadEvent, LoadObserver};
use super::parallel::interrupted;
use super::report::hint_for;
use super::target;
use crate::server_text::server_words;

/// How many words a message shows of a statement.
const SHOWN_WORDS: usize = 12;
/// How many directories or names a message lists.
const SHOWN: usize = 10;

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    /// A setting that the whole script needs.
    Setting,
    CreateRole(Vec<u8>),
    AlterRole(Vec<u8>),
    /// Its name, and its directory as it is written.
    CreateTablespace(Vec<u8>, Range<usize>),
    /// Anything else about a tablespace. `true`: who may use it.
    Tablespace(bool),
    /// Who may set a parameter.
    ParameterPrivilege,
    /// Memberships, comments, labels.
    Other,
}

#[derive(Debug)]
struct Statement {
    about: About,
    text: Range<usize>,
    /// For messages.
    label: String,
}

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

fn damaged(what: &str) -> LoadError {
    LoadError::new(LoadErrorKind::Corrupt, "the script of roles and tablespaces cannot be used")
        .cause(what)
        .hint("use another dump; databases can be loaded one by one with `--database`")
}

impl GlobalsScript {
    /// Finds the statements.
    ///
    /// # Errors
    /// When the script is not whole, or holds commands for psql that are not known.
    pub fn parse(script: Vec<u8>) -> LoadResult<GlobalsScript> {
        let statements = {
            let sql = Sql::new(&script, true);
            // Said once, before the first text in quotes that it matters for.
            let old_strings = (0..sql.tokens.len()).any(|at| {
                sql.are(at, &["set", "standard_conforming_strings"])
                    && sql.symbol(at + 2, b'=')
                    && sql.is(at + 3, "off")
            });
            if old_strings {
                statements(&Sql::new(&script, false), &script)?
            } else {
                statements(&sql, &script)?
            }
        };
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

fn statements(sql: &Sql<'_>, script: &[u8]) -> LoadResult<Vec<Statement>> {
    let mut found = Vec::new();
    let mut begin = None;
    let mut at = 0;
    while at < sql.tokens.len() {
        if begin.is_none() && sql.symbol(at, b'\\') {
            if !sql.is(at + 1, "restrict") && !sql.is(at + 1, "unrestrict") {
                return Err(damaged("it holds a command for psql that is not known"));
            }
            let line = sql.begin(at);
            let rest = script.get(line..).unwrap_or_default();
            let end =
                rest.iter().position(|byte| *byte == b'\n').map_or(script.len(), |length| line + length);
            while at < sql.tokens.len() && sql.begin(at) < end {
                if sql.end(at) > end {
                    return Err(damaged("a command for psql does not end with its line"));
                }
                at += 1;
            }
            continue;
        }
        let first = *begin.get_or_insert(at);
        if sql.symbol(at, b';') {
            found.push(Statement {
                about: about(sql, first, at),
                text: sql.begin(first)..sql.end(at),
                label: label(sql, first, at),
            });
            begin = None;
        }
        at += 1;
    }
    match begin {
        Some(_) => Err(damaged("its last statement has no end")),
        None => Ok(found),
    }
}

fn about(sql: &Sql<'_>, first: usize, end: usize) -> About {
    let name = |at: usize| sql.name(at).map(std::borrow::Cow::into_owned).unwrap_or_default();
    // Where `ON` leads to, in GRANT, REVOKE, COMMENT and SECURITY LABEL.
    let object = (first..end).find(|at| sql.is(*at, "on")).map(|at| at + 1);
    let is_on = |word: &str| object.is_some_and(|at| sql.is(at, word));
    let is_privilege = sql.is(first, "grant") || sql.is(first, "revoke");
    // `SET SESSION AUTHORIZATION` counts for what stands between it and its RESET.
    if sql.is(first, "set") && !sql.is(first + 1, "session") {
        About::Setting
    } else if sql.are(first, &["create", "role"]) {
        About::CreateRole(name(first + 2))
    } else if sql.are(first, &["alter", "role"]) {
        About::AlterRole(name(first + 2))
    } else if sql.are(first, &["create", "tablespace"]) {
        let directory = (first..end).find(|at| sql.is(*at, "location")).map_or(end, |at| at + 1);
        About::CreateTablespace(name(first + 2), sql.begin(directory)..sql.end(directory))
    } else if sql.are(first, &["alter", "tablespace"]) || is_on("tablespace") {
        About::Tablespace(is_privilege)
    } else if is_privilege && is_on("parameter") {
        About::ParameterPrivilege
    } else {
        About::Other
    }
}

/// The statement in short: no texts in quotes, which may be passwords.
fn label(sql: &Sql<'_>, first: usize, end: usize) -> String {
    let is_role = sql.are(first, &["create", "role"]) || sql.are(first, &["alter", "role"]);
    let shown = if is_role { first + 3 } else { first + SHOWN_WORDS };
    let mut text = String::new();
    for at in first..end.min(shown) {
        if matches!(sql.kind(at), Some(Kind::Literal | Kind::Body)) {
            break;
        }
        if !text.is_empty() && sql.kind(at) != Some(Kind::Symbol) {
            text.push(' ');
        }
        text.push_str(&String::from_utf8_lossy(sql.bytes(at)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = r#"--
-- PostgreSQL database cluster dump
--

\restrict abc1

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

CREATE ROLE "a;b";
ALTER ROLE "a;b" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x;y';
COMMENT ON ROLE "a;b" IS 'it''s; fine';
ALTER ROLE ann SET search_path TO 'x;y', public;
GRANT "a;b" TO ann WITH INHERIT TRUE GRANTED BY postgres;
GRANT SET ON PARAMETER work_mem TO ann;
CREATE TABLESPACE fast OWNER ann LOCATION E'/srv/a\\b';
ALTER TABLESPACE fast SET (random_page_cost='1.1');
GRANT ALL ON TABLESPACE fast TO ann;
COMMENT ON TABLESPACE fast IS 'on tablespace';
\unrestrict abc1

--
-- PostgreSQL database cluster dump complete
--
"#;

    fn parsed(text: &str) -> GlobalsScript {
        GlobalsScript::parse(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn statements_are_parted_and_known() {
        let script = parsed(SCRIPT);
        let of = |number: usize| {
            let statement = &script.statements[number];
            (statement.about.clone(), String::from_utf8_lossy(script.text(&statement.text)).into_owned())
        };
        assert_eq!(script.statements.len(), 13);
        assert_eq!(of(0).0, About::Setting);
        assert_eq!(of(3), (About::CreateRole(b"a;b".to_vec()), "CREATE ROLE \"a;b\";".to_owned()));
        assert_eq!(of(4).0, About::AlterRole(b"a;b".to_vec()));
        assert!(of(4).1.ends_with("x;y';"));
        assert_eq!(of(5).0, About::Other);
        assert_eq!(of(6).0, About::AlterRole(b"ann".to_vec()));
        assert_eq!(of(7).0, About::Other);
        assert_eq!(of(8).0, About::ParameterPrivilege);
        let About::CreateTablespace(name, directory) = of(9).0 else { panic!() };
        assert_eq!((&name[..], script.text(&directory)), (&b"fast"[..], &br"E'/srv/a\\b'"[..]));
        assert_eq!(of(10).0, About::Tablespace(false));
        assert_eq!(of(11).0, About::Tablespace(true));
        assert_eq!(of(12).0, About::Tablespace(false));
        assert_eq!(script.roles(), BTreeSet::from([b"a;b".to_vec()]));
        assert_eq!(script.tablespaces(), BTreeSet::from([b"fast".to_vec()]));
    }

    #[test]
    fn messages_hold_no_passwords() {
        let labels: Vec<String> =
            parsed(SCRIPT).statements.into_iter().map(|statement| statement.label).collect();
        assert_eq!(labels[4], "ALTER ROLE \"a;b\"");
        assert!(!labels.iter().any(|label| label.contains("SCRAM") || label.contains('\'')), "{labels:?}");
        assert_eq!(labels[7], "GRANT \"a;b\" TO ann WITH INHERIT TRUE GRANTED BY postgres");
    }

    #[test]
    fn backslashes_are_read_as_the_script_says() {
        let script = parsed(
            "SET standard_conforming_strings = off;\nCOMMENT ON ROLE a IS 'x\\'; CREATE ROLE b; \\\\';\nCREATE ROLE c;\n",
        );
        assert_eq!(script.statements.len(), 3);
        assert_eq!(script.roles(), BTreeSet::from([b"c".to_vec()]));
    }

    #[test]
    fn a_script_that_is_not_whole_is_refused() {
        let whole = parsed(SCRIPT).statements.len();
        for end in 0..SCRIPT.len() {
            // Cuts between statements show only by the digest of the part.
            let Ok(script) = GlobalsScript::parse(SCRIPT.as_bytes()[..end].to_vec()) else { continue };
            assert!(script.statements.len() <= whole);
            let last = script.statements.last().map_or(0, |statement| statement.text.end);
            assert!(!SCRIPT[last..end].contains("CREATE") && !SCRIPT[last..end].contains("ALTER"), "{end}");
        }
        for hostile in ["\\! rm -rf /\n", "\\restrict 'a\n;'\n", "\\connect postgres\n", "CREATE ROLE a"] {
            assert!(GlobalsScript::parse(hostile.as_bytes().to_vec()).is_err(), "{hostile}");
        }
    }
}
