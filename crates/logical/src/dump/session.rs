//! The session that a dump reads with: one snapshot, and settings under which texts come out the same everywhere.
//!
//! The order of the settings and why each is there: stock 18's `setup_connection`. `search_path` is empty all the time
//! (but while patterns are looked up), so that every name that the server prints is qualified.

use std::str::FromStr;

use pgkeep_tool::{Result, ToolError, connect};
use pgkeep_wire::{ConnInfo, Connection, Row, Rows};

use super::ahead::Ahead;
use super::encoding::Encoding;
use super::options::{DumpOptions, SessionOptions};
use super::sql::Quoting;

/// Servers below are not dumped.
const OLDEST_SERVER: u32 = 130_000;
/// Servers from here on are not known.
const TOO_NEW_SERVER: u32 = 190_000;
/// Databases of so many relations are read by two sessions: below, a second one costs more time than it saves.
const LARGE: u32 = 5_000;
/// The version of PostgreSQL whose `pg_dump` this one is like.
pub const TOOL_VERSION: &str = "18.6";

pub(crate) const EMPTY_SEARCH_PATH: &str = "SELECT pg_catalog.set_config('search_path', '', false);";

/// A session in the dump's snapshot.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    /// `server_version_num`.
    pub(crate) version: u32,
    /// The server's version in words.
    pub(crate) version_text: String,
    /// Encoding of all texts.
    pub(crate) encoding: Encoding,
    pub(crate) quoting: Quoting,
    /// The database.
    pub(crate) database: String,
    pub(crate) is_standby: bool,
    ahead: Option<Ahead>,
}

impl Session {
    /// Connects and takes a snapshot.
    pub(crate) fn start(conninfo: &ConnInfo, options: &DumpOptions) -> Result<Session> {
        let connection = connect(conninfo, pgkeep_wire::SessionMode::Sql)?;
        let mut session = Session::over(
            connection,
            conninfo.database(),
            "pg_dump",
            options.quote_all_identifiers,
            options.session.force,
        )?;
        session.set_up(options, client_encoding(conninfo))?;
        Ok(session)
    }

    /// A session for what belongs to the cluster rather than to a database, in a snapshot. The settings are fewer, since
    /// nothing is read that they change.
    pub(crate) fn start_for_cluster(
        connection: Connection,
        conninfo: &ConnInfo,
        encoding: Option<&str>,
        role: Option<&str>,
        quote_all_identifiers: bool,
    ) -> Result<Session> {
        let mut session =
            Session::over(connection, conninfo.database(), "pg_dumpall", quote_all_identifiers, false)?;
        session.execute(EMPTY_SEARCH_PATH)?;
        session.encoding = session.choose_encoding(encoding.or(client_encoding(conninfo)))?;
        if let Some(role) = role {
            session.execute(&format!("SET ROLE {}", session.quoting.name(role)))?;
        }
        if quote_all_identifiers {
            session.execute("SET quote_all_identifiers = true")?;
        }
        session.begin(&SessionOptions::default())?;
        Ok(session)
    }

    fn over(
        connection: Connection,
        database: &str,
        program: &str,
        quote_all: bool,
        force: bool,
    ) -> Result<Session> {
        let version = connection.server_version_num();
        let version_text = connection.parameter("server_version").unwrap_or_default().to_owned();
        check_version(version, &version_text, program, force)?;
        let standard_strings = connection.parameter("standard_conforming_strings") == Some("on");
        Ok(Session {
            connection,
            version,
            version_text,
            encoding: Encoding::new("UTF8"),
            quoting: Quoting { all_identifiers: quote_all, standard_strings },
            database: database.to_owned(),
            is_standby: false,
            ahead: None,
        })
    }

    fn set_up(&mut self, options: &DumpOptions, client_encoding: Option<&str>) -> Result<()> {
        let SessionOptions { encoding, role, extra_float_digits, .. } = &options.session;
        self.execute(EMPTY_SEARCH_PATH)?;
        self.encoding = self.choose_encoding(encoding.as_deref().or(client_encoding))?;
        if let Some(role) = role {
            self.execute(&format!("SET ROLE {}", self.quoting.name(role)))?;
        }
        let mut settings = vec![
            "SET DATESTYLE = ISO".to_owned(),
            "SET INTERVALSTYLE = POSTGRES".to_owned(),
            format!("SET extra_float_digits TO {}", extra_float_digits.unwrap_or(3)),
            "SET synchronize_seqscans TO off".to_owned(),
            "SET statement_timeout = 0".to_owned(),
            "SET lock_timeout = 0".to_owned(),
            "SET idle_in_transaction_session_timeout = 0".to_owned(),
        ];
        if self.version >= 170_000 {
            settings.push("SET transaction_timeout = 0".to_owned());
        }
        if options.quote_all_identifiers {
            settings.push("SET quote_all_identifiers = true".to_owned());
        }
        let row_security = if options.session.enable_row_security { "on" } else { "off" };
        settings.push(format!("SET row_security = {row_security}"));
        for setting in &settings {
            self.execute(setting)?;
        }
        self.restrict_relations("view, foreign-table")?;
        self.is_standby = self.one("SELECT pg_catalog.pg_is_in_recovery()")? == "t";
        self.begin(&options.session)
    }

    /// Another session in the snapshot of this one, which has to live on until the other has begun.
    pub(crate) fn another(&mut self, conninfo: &ConnInfo, options: &DumpOptions) -> Result<Session> {
        let snapshot = match &options.session.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => self.one("SELECT pg_catalog.pg_export_snapshot()")?,
        };
        let mut options = options.clone();
        options.session.snapshot = Some(snapshot);
        options.session.encoding = Some(self.encoding.name.clone());
        Session::start(conninfo, &options)
    }

    /// In a large database, opens a second session for what [`Self::ask_ahead`] is told. Does without it when it cannot be had.
    pub(crate) fn prepare_ahead(&mut self, conninfo: &ConnInfo, options: &DumpOptions) -> Result<()> {
        let is_large = format!(
            "SELECT pg_catalog.count(*) >= {LARGE} FROM (SELECT 1 FROM pg_catalog.pg_class LIMIT {LARGE}) relations"
        );
        if self.one(&is_large)? == "t" {
            self.ahead = self.another(conninfo, options).ok().map(Ahead::new);
        }
        Ok(())
    }

    /// Tells of a query that will be run later, to the same letter, so that its answer can be there by then.
    pub(crate) fn ask_ahead(&mut self, sql: &str) {
        if let Some(ahead) = &mut self.ahead {
            ahead.ask(sql.to_owned());
        }
    }

    fn begin(&mut self, options: &SessionOptions) -> Result<()> {
        self.execute("BEGIN")?;
        self.execute(if options.serializable_deferrable && options.snapshot.is_none() {
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE"
        } else {
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
        })?;
        if let Some(snapshot) = &options.snapshot {
            self.execute(&format!("SET TRANSACTION SNAPSHOT {}", self.quoting.literal(snapshot)))?;
        }
        Ok(())
    }

    /// Lets the session speak the encoding asked for, or the database's.
    fn choose_encoding(&mut self, wanted: Option<&str>) -> Result<Encoding> {
        let name = match wanted {
            Some(wanted) => wanted.to_owned(),
            None => self.one("SELECT pg_catalog.getdatabaseencoding()")?,
        };
        let set = format!("SET client_encoding = {}", self.quoting.literal(&name));
        if self.connection.execute(&set).is_err() {
            return Err(ToolError::new(format!("invalid client encoding \"{name}\" specified")));
        }
        let name = self.one("SHOW client_encoding")?;
        Ok(Encoding::new(&name))
    }

    /// Says which relations the server refuses to expand, against traps set for whoever dumps (CVE-2024-7348).
    pub(crate) fn restrict_relations(&mut self, kinds: &str) -> Result<()> {
        // Older minors of a server do not know the setting.
        let sql = format!(
            "SELECT pg_catalog.set_config(name, '{kinds}', false) FROM pg_catalog.pg_settings \
             WHERE name = 'restrict_nonsystem_relation_kind'"
        );
        self.execute(&sql)
    }

    /// Runs a query.
    pub(crate) fn query(&mut self, sql: &str) -> Result<Rows> {
        if let Some(rows) = self.ahead.as_mut().and_then(|ahead| ahead.take(sql)) {
            return Ok(rows);
        }
        let rows = self.connection.query(&self.encoding.lower(sql));
        let rows = rows.map_err(|error| ToolError::query(&error, sql))?;
        Ok(if self.encoding.is_foreign() { rows.map_fields(|field| self.encoding.lift(field)) } else { rows })
    }

    /// Runs a command.
    pub(crate) fn execute(&mut self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    /// The one value of a query.
    pub(crate) fn one(&mut self, sql: &str) -> Result<String> {
        let rows = self.query(sql)?;
        let column = rows.columns().first().cloned().unwrap_or_default();
        Ok(rows.one()?.optional(&column)?.unwrap_or_default().to_owned())
    }

    /// The connection, for COPY.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What to tell the user of a server that is newer than all that are known.
    pub(crate) fn warning(&self) -> Option<String> {
        (self.version >= TOO_NEW_SERVER).then(|| {
            format!(
                "server version {} is newer than {TOOL_VERSION}, the newest that is known\ndetail: What is new in it is not \
                 in the dump.",
                self.version_text
            )
        })
    }

    /// Stops what the session is doing, from another thread.
    pub(crate) fn cancel_handle(&self) -> pgkeep_wire::CancelHandle {
        self.connection.cancel_handle()
    }

    /// Whether the server is of this major version or later.
    pub(crate) fn is_at_least(&self, major: u32) -> bool {
        self.version >= major * 10_000
    }
}

/// Refuses servers that are not known. Of a newer one everything may be read that the newest known one has, when the user
/// says so; what is new in it nobody asks for.
fn check_version(version: u32, text: &str, program: &str, force: bool) -> Result<()> {
    if (OLDEST_SERVER..TOO_NEW_SERVER).contains(&version) || (version >= TOO_NEW_SERVER && force) {
        return Ok(());
    }
    let error = ToolError::new("aborting because of server version mismatch")
        .detail(format!("server version: {text}; {program} version: {TOOL_VERSION}"));
    Err(if version >= TOO_NEW_SERVER && program == "pg_dump" {
        error.hint("--force dumps it as if it were of the newest version that is known.")
    } else {
        error
    })
}

/// What libpq takes from PGCLIENTENCODING; `auto` would be the locale's.
fn client_encoding(conninfo: &ConnInfo) -> Option<&str> {
    conninfo.get("client_encoding").filter(|encoding| *encoding != "auto" && !encoding.is_empty())
}

/// A column as a number or the like; NULL and the empty text are its default.
pub(crate) fn number<T: FromStr + Default>(row: Row<'_>, column: &str) -> Result<T> {
    match row.optional(column)? {
        None | Some("") => Ok(T::default()),
        Some(_) => Ok(row.parse(column)?),
    }
}

/// A column as a text; empty when it is NULL.
pub(crate) fn text(row: Row<'_>, column: &str) -> Result<String> {
    Ok(row.optional(column)?.unwrap_or_default().to_owned())
}

/// A column as a text.
pub(crate) fn optional(row: Row<'_>, column: &str) -> Result<Option<String>> {
    Ok(row.optional(column)?.map(str::to_owned))
}

/// A column of type `"char"`; 0 when it is NULL or empty.
pub(crate) fn letter(row: Row<'_>, column: &str) -> Result<u8> {
    Ok(row.optional(column)?.and_then(|text| text.bytes().next()).unwrap_or(0))
}

/// A truth value; NULL is false.
pub(crate) fn flag(row: Row<'_>, column: &str) -> Result<bool> {
    Ok(matches!(row.optional(column)?, Some("t" | "true" | "on")))
}

/// The OIDs of a vector: `1 2 3`.
pub(crate) fn oids(text: &str) -> Vec<u32> {
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// OIDs as an array for a query.
pub(crate) fn oid_array(oids: impl IntoIterator<Item = u32>) -> String {
    let list: Vec<String> = oids.into_iter().map(|oid| oid.to_string()).collect();
    format!("'{{{}}}'::pg_catalog.oid[]", list.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_servers_are_refused_but_by_force_and_older_ones_always() {
        let check = |version, force| check_version(version, "x", "pg_dump", force);
        assert!(check(140_000, false).is_ok() && check(180_006, false).is_ok());
        let newer = check(190_000, false).unwrap_err();
        assert_eq!(newer.message, "aborting because of server version mismatch");
        assert!(newer.hint.is_some_and(|hint| hint.contains("--force")));
        assert!(check(190_000, true).is_ok());
        assert!(check(120_022, true).is_err() && check(120_022, false).unwrap_err().hint.is_none());
    }
}
