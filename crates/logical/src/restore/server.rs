//! The session that a restore runs in: what to do with a server's refusal.
//!
//! A refused command is told and counted, and the restore goes on, unless it is to end at the first error. A lost
//! connection, and a refusal that would let data go to the wrong place (another user, no transaction), always ends it.

use pgkeep_format::archive::{Text, TocEntry};
use pgkeep_tool::server_text::{causes, notice_text, wire_text};
use pgkeep_tool::{Reporter, Result, ToolError, connect};
use pgkeep_wire::{ConnInfo, Connection, WireError, raw_text};

/// The longest part of a command that is shown with an error, as stock.
const SHOWN_COMMAND: usize = 128 << 10;

/// A session.
pub(crate) struct Server<'a> {
    connection: Connection,
    info: ConnInfo,
    reporter: &'a dyn Reporter,
    exit_on_error: bool,
    errors: u64,
    /// What is being restored, and whether an error of it was told.
    entry: Option<(String, bool)>,
    told_of_stage: bool,
    /// The SQLSTATE of the last refusal.
    last_state: Option<String>,
}

impl<'a> Server<'a> {
    pub(crate) fn connect(
        info: &ConnInfo,
        exit_on_error: bool,
        reporter: &'a dyn Reporter,
    ) -> Result<Server<'a>> {
        Ok(Server {
            connection: open(info, reporter)?,
            info: info.clone(),
            reporter,
            exit_on_error,
            errors: 0,
            entry: None,
            told_of_stage: false,
            last_state: None,
        })
    }

    pub(crate) fn major(&self) -> u32 {
        self.connection.server_major()
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// The SQLSTATE of the last refusal.
    pub(crate) fn last_state(&self) -> Option<&str> {
        self.last_state.as_deref()
    }

    /// The session itself, for commands that are not the archive's.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn cancel_handle(&self) -> pgkeep_wire::CancelHandle {
        self.connection.cancel_handle()
    }

    /// The connection's parameters, as they are after changes of the database.
    pub(crate) fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Errors from now on are of this entry.
    pub(crate) fn begin_entry(&mut self, entry: &TocEntry) {
        let owner = entry.owner.as_ref().map_or_else(|| "(no owner)".to_owned(), ToString::to_string);
        let description = format!(
            "from TOC entry {}; {} {} {} {} {owner}",
            entry.dump_id, entry.catalog_id.table_oid, entry.catalog_id.oid, entry.desc, entry.tag
        );
        self.entry = Some((description, false));
    }

    /// Runs a command.
    pub(crate) fn execute(&mut self, sql: &[u8], what: &str) -> Result<()> {
        let result = self.connection.execute(sql);
        self.pass_notices();
        result.or_else(|error| self.refused(&error, what, Some(sql), true))
    }

    /// Runs a command that changes the session.
    pub(crate) fn set(&mut self, sql: &[u8], refused: &str) -> Result<()> {
        let result = self.connection.execute(sql);
        self.pass_notices();
        result.or_else(|error| self.refused(&error, refused, Some(sql), false))
    }

    /// Runs a command without which nothing may go on.
    pub(crate) fn demand(&mut self, sql: &[u8], failed: &str) -> Result<()> {
        let result = self.connection.execute(sql);
        self.pass_notices();
        result
            .map_err(|error| ToolError::new(format!("{failed}: {}", wire_text(&error, Some(sql)).trim_end())))
    }

    pub(crate) fn begin(&mut self) -> Result<()> {
        self.demand(b"BEGIN", "could not start database transaction")
    }

    pub(crate) fn commit(&mut self) -> Result<()> {
        self.demand(b"COMMIT", "could not commit database transaction")
    }

    /// Runs a COPY and sends what `feed` gives.
    pub(crate) fn copy(
        &mut self,
        sql: &[u8],
        table: &Text,
        feed: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let failed = |error: &WireError| {
            ToolError::new(format!("error returned by PQputCopyData: {}", wire_text(error, None).trim_end()))
        };
        let result = match self.connection.copy_in(sql) {
            Ok(mut copy) => {
                feed(&mut |bytes| copy.write(bytes).map_err(|error| failed(&error)))?;
                Ok(copy.finish())
            }
            Err(error) => Err(error),
        };
        self.pass_notices();
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.refused(&error, &format!("COPY failed for table \"{table}\""), None, false)
            }
            Err(error) => self.refused(&error, "could not execute query", Some(sql), true),
        }
    }

    /// Opens a large object for writing.
    pub(crate) fn open_large_object(&mut self, sql: &str, oid: u32) -> Result<i32> {
        let failed = |error: &WireError| {
            let text = wire_text(error, None);
            ToolError::new(format!("could not open large object {oid}: {}", text.trim_end()))
        };
        let rows = self.connection.query(sql).map_err(|error| failed(&error))?;
        rows.one().and_then(|row| row.parse("lo_open")).map_err(|error| failed(&error))
    }

    /// Writes to the large object that is open, or closes it.
    pub(crate) fn write_large_object(&mut self, sql: &str) -> Result<()> {
        self.set(sql.as_bytes(), "could not write to large object")
    }

    /// Goes on in another database.
    pub(crate) fn reconnect(&mut self, database: &Text) -> Result<()> {
        let name = raw_text(database);
        let info =
            self.info.clone().with("dbname", &name).map_err(|error| ToolError::new(error.to_string()))?;
        let connection = open(&info, self.reporter)?;
        std::mem::replace(&mut self.connection, connection).close();
        self.info = info;
        Ok(())
    }

    fn pass_notices(&mut self) {
        for notice in self.connection.take_notices() {
            self.reporter.info(notice_text(&notice).trim_end());
        }
    }

    /// Tells and counts an error, or ends the restore with it.
    fn refused(
        &mut self,
        error: &WireError,
        what: &str,
        sql: Option<&[u8]>,
        show_command: bool,
    ) -> Result<()> {
        let mut text = format!("{what}: {}", wire_text(error, sql));
        if let Some(sql) = sql.filter(|_| show_command) {
            let shown = sql.get(..SHOWN_COMMAND).unwrap_or(sql);
            text.push_str("Command was: ");
            text.push_str(&String::from_utf8_lossy(shown));
        }
        if error.server_error().is_none() || self.connection.is_broken() {
            return Err(ToolError::new(text.trim_end()));
        }
        if !self.told_of_stage {
            self.told_of_stage = true;
            self.reporter.info("while PROCESSING TOC:");
        }
        if let Some((entry, told)) = &mut self.entry
            && !*told
        {
            *told = true;
            self.reporter.info(entry);
        }
        self.reporter.error(&text);
        self.last_state = error.sqlstate().map(str::to_owned);
        self.errors += 1;
        if self.exit_on_error { Err(ToolError::reported(text)) } else { Ok(()) }
    }
}

fn open(info: &ConnInfo, reporter: &dyn Reporter) -> Result<Connection> {
    let failed = |error: &WireError| {
        ToolError::new(format!("connection to database \"{}\" failed: {}", info.database(), causes(error)))
    };
    let mut connection = connect(info, pgkeep_wire::SessionMode::Sql)?;
    // Nothing of what follows may find functions of users by name.
    let secure = "SELECT pg_catalog.set_config('search_path', '', false);";
    reporter.info(&format!("executing {secure}"));
    connection.execute(secure).map_err(|error| failed(&error))?;
    Ok(connection)
}
