//! Turns entries into SQL, for a script or for a server.
//!
//! The emitter remembers what the session is set to (user, schema, tablespace, access method), and sets it anew only
//! where an entry needs something else.

mod data;
mod drops;
mod entry;
mod large_objects;
mod older;
mod split;

pub(crate) use data::{TableOutcome, loads_through_root};

use std::io::Write;

use pgkeep_format::archive::Text;
use pgkeep_tool::{Reporter, Result, ToolError};

use super::contents::Contents;
use super::options::RestoreOptions;
use super::server::Server;
use crate::quote;

/// What all emitters of a restore share.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) contents: &'a Contents,
    pub(crate) options: &'a RestoreOptions,
    pub(crate) reporter: &'a dyn Reporter,
}

/// Where SQL goes.
pub(crate) enum Target<'a> {
    Script(&'a mut dyn Write),
    Server(Box<Server<'a>>),
}

/// Writes entries.
pub(crate) struct Emitter<'a> {
    pub(crate) job: Job<'a>,
    pub(crate) target: Target<'a>,
    user: Option<Text>,
    schema: Option<Text>,
    tablespace: Option<Text>,
    table_access_method: Option<Text>,
    /// Objects since the last commit, with `--transaction-size`.
    in_transaction: u32,
    /// Workers commit after each command, so that others see it.
    transaction_size: u32,
    /// Statistics could not be restored, and that was told.
    told_of_statistics: bool,
}

impl<'a> Emitter<'a> {
    pub(crate) fn new(job: Job<'a>, target: Target<'a>, transaction_size: u32) -> Emitter<'a> {
        Emitter {
            job,
            target,
            user: None,
            schema: None,
            tablespace: None,
            table_access_method: None,
            in_transaction: 0,
            transaction_size,
            told_of_statistics: false,
        }
    }

    /// The server, if that is the target.
    pub(crate) fn server(&mut self) -> Option<&mut Server<'a>> {
        match &mut self.target {
            Target::Script(_) => None,
            Target::Server(server) => Some(server),
        }
    }

    /// Appends a name, in quotes where it, or the options, ask for them.
    fn push_identifier(&self, out: &mut Vec<u8>, name: &[u8]) {
        if self.job.options.quote_all_identifiers {
            quote::push_quoted_identifier(out, name);
        } else {
            quote::push_identifier(out, name);
        }
    }

    /// Appends `schema.name`, or `name` where there is no schema.
    fn push_qualified(&self, out: &mut Vec<u8>, schema: Option<&[u8]>, name: &[u8]) {
        if let Some(schema) = schema.filter(|schema| !schema.is_empty()) {
            self.push_identifier(out, schema);
            out.push(b'.');
        }
        self.push_identifier(out, name);
    }

    fn is_script(&self) -> bool {
        matches!(self.target, Target::Script(_))
    }

    /// Text that is only for scripts.
    pub(crate) fn comment(&mut self, text: impl AsRef<[u8]>) -> Result<()> {
        match &mut self.target {
            Target::Script(out) => out.write_all(text.as_ref()).map_err(|error| {
                ToolError::output(&error).hint("free space or choose another file; the script is incomplete")
            }),
            Target::Server(_) => Ok(()),
        }
    }

    /// SQL. A server's refusal is counted, and the restore goes on unless it is to end at the first error.
    pub(crate) fn command(&mut self, sql: impl AsRef<[u8]>) -> Result<()> {
        match &mut self.target {
            Target::Script(_) => self.comment(sql),
            Target::Server(server) => server.execute(sql.as_ref(), "could not execute query"),
        }
    }

    /// SQL without the semicolon, with what to say when a server refuses it.
    fn setting(&mut self, sql: &[u8], refused: &str) -> Result<()> {
        match &mut self.target {
            Target::Script(_) => {
                self.comment(sql)?;
                self.comment(";\n\n")
            }
            Target::Server(server) => server.set(sql, refused),
        }
    }

    /// Begins a transaction; `text` in scripts.
    pub(crate) fn begin(&mut self, text: &str) -> Result<()> {
        match &mut self.target {
            Target::Script(_) => self.comment(text),
            Target::Server(server) => server.begin(),
        }
    }

    /// Commits; `text` in scripts.
    pub(crate) fn commit(&mut self, text: &str) -> Result<()> {
        match &mut self.target {
            Target::Script(_) => self.comment(text),
            Target::Server(server) => server.commit(),
        }
    }

    /// Counts objects against `--transaction-size`, and commits when it is time.
    fn count_objects(&mut self, count: u32, script: &str) -> Result<()> {
        if self.transaction_size == 0 {
            return Ok(());
        }
        self.in_transaction = self.in_transaction.saturating_add(count);
        if self.in_transaction >= self.transaction_size {
            match &mut self.target {
                Target::Script(_) => self.comment(script)?,
                Target::Server(server) => {
                    server.commit()?;
                    server.begin()?;
                }
            }
            self.in_transaction = 0;
        }
        Ok(())
    }

    /// The settings that hold for the whole restore.
    pub(crate) fn fixed_state(&mut self) -> Result<()> {
        let job = self.job;
        let major = self.server().map(|server| server.major());
        // A server of before 17 does not know the last one; a script cannot know its server.
        self.command("SET statement_timeout = 0;\n")?;
        self.command("SET lock_timeout = 0;\n")?;
        self.command("SET idle_in_transaction_session_timeout = 0;\n")?;
        if major.is_none_or(|major| major >= 17) {
            self.command("SET transaction_timeout = 0;\n")?;
        }
        let mut sql = b"SET client_encoding = '".to_vec();
        sql.extend_from_slice(&job.contents.encoding);
        sql.extend_from_slice(b"';\n");
        self.command(sql)?;
        let on_off = if job.contents.standard_strings { "on" } else { "off" };
        self.command(format!("SET standard_conforming_strings = {on_off};\n"))?;
        if let Some(role) = &job.options.role {
            let mut sql = b"SET ROLE ".to_vec();
            self.push_identifier(&mut sql, role);
            sql.extend_from_slice(b";\n");
            self.command(sql)?;
        }
        if let Some(search_path) = &job.contents.search_path {
            self.command(search_path)?;
        }
        self.command("SET check_function_bodies = false;\n")?;
        self.command("SET xmloption = content;\n")?;
        self.command("SET client_min_messages = warning;\n")?;
        if !job.contents.standard_strings {
            self.command("SET escape_string_warning = off;\n")?;
        }
        let on_off = if job.options.enable_row_security { "on" } else { "off" };
        self.command(format!("SET row_security = {on_off};\n"))?;
        if self.transaction_size > 0 {
            self.begin("\nBEGIN;\n")?;
            self.in_transaction = 0;
        }
        self.comment("\n")
    }

    /// Forgets what the session is set to.
    pub(crate) fn forget_state(&mut self) {
        self.user = None;
        self.schema = None;
        self.tablespace = None;
        self.table_access_method = None;
    }

    pub(crate) fn forget_schema(&mut self) {
        self.schema = None;
    }

    /// `SET SESSION AUTHORIZATION`; no user: the one who connected.
    fn become_user(&mut self, user: Option<&Text>) -> Result<()> {
        let user = user.cloned().unwrap_or_default();
        if self.user.as_ref() == Some(&user) {
            return Ok(());
        }
        let mut sql = b"SET SESSION AUTHORIZATION ".to_vec();
        if user.is_empty() {
            sql.extend_from_slice(b"DEFAULT");
        } else {
            quote::push_literal(&mut sql, &user, self.job.contents.standard_strings);
        }
        match &mut self.target {
            Target::Script(_) => {
                self.comment(sql)?;
                self.comment(";\n\n")?;
            }
            Target::Server(server) => {
                server.demand(&sql, &format!("could not set session user to \"{user}\""))?;
            }
        }
        self.user = Some(user);
        Ok(())
    }

    fn become_owner(&mut self, owner: Option<&Text>) -> Result<()> {
        let options = self.job.options;
        if options.no_owner || !options.use_session_authorization {
            return Ok(());
        }
        self.become_user(owner)
    }

    /// Sets the search path, for archives that do not do so once and for all.
    fn select_schema(&mut self, schema: Option<&Text>) -> Result<()> {
        let Some(schema) = schema.filter(|schema| !schema.is_empty()) else { return Ok(()) };
        if self.job.contents.search_path.is_some() || self.schema.as_ref() == Some(schema) {
            return Ok(());
        }
        let mut sql = b"SET search_path = ".to_vec();
        self.push_identifier(&mut sql, schema);
        if *schema != "pg_catalog" {
            sql.extend_from_slice(b", pg_catalog");
        }
        self.setting(&sql, &format!("could not set \"search_path\" to \"{schema}\""))?;
        self.schema = Some(schema.clone());
        Ok(())
    }

    fn select_tablespace(&mut self, tablespace: Option<&Text>) -> Result<()> {
        let Some(tablespace) = tablespace else { return Ok(()) };
        if self.job.options.no_tablespaces || self.tablespace.as_ref() == Some(tablespace) {
            return Ok(());
        }
        let name = if tablespace.is_empty() {
            b"''".to_vec()
        } else {
            let mut name = Vec::new();
            self.push_identifier(&mut name, tablespace);
            name
        };
        let sql = [b"SET default_tablespace = ", &name[..]].concat();
        let shown = String::from_utf8_lossy(&name);
        self.setting(&sql, &format!("could not set \"default_tablespace\" to {shown}"))?;
        self.tablespace = Some(tablespace.clone());
        Ok(())
    }

    fn select_table_access_method(&mut self, method: Option<&Text>) -> Result<()> {
        let Some(method) = method else { return Ok(()) };
        if self.job.options.no_table_access_method || self.table_access_method.as_ref() == Some(method) {
            return Ok(());
        }
        let mut sql = b"SET default_table_access_method = ".to_vec();
        self.push_identifier(&mut sql, method);
        self.setting(&sql, "could not set \"default_table_access_method\"")?;
        self.table_access_method = Some(method.clone());
        Ok(())
    }

    /// Goes on in another database, or in the same one with its new settings.
    fn reconnect(&mut self, database: &Text) -> Result<()> {
        match &mut self.target {
            Target::Server(server) => server.reconnect(database)?,
            Target::Script(_) => {
                let key = self.job.options.restrict_key.clone();
                if let Some(key) = &key {
                    self.comment(format!("\\unrestrict {key}\n"))?;
                }
                let line = self.meta_connect(database)?;
                self.comment(line)?;
                if let Some(key) = &key {
                    self.comment(format!("\\restrict {key}\n"))?;
                }
                self.comment("\n")?;
            }
        }
        self.forget_state();
        self.fixed_state()
    }

    /// psql's `\connect`.
    fn meta_connect(&self, database: &Text) -> Result<Vec<u8>> {
        if database.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return Err(ToolError::new(format!(
                "database name contains a newline or carriage return: \"{database}\""
            ))
            .hint("restore without -C into a database that was created by hand"));
        }
        let is_simple = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        if database.iter().all(is_simple) {
            let mut line = b"\\connect ".to_vec();
            self.push_identifier(&mut line, database);
            line.push(b'\n');
            return Ok(line);
        }
        // As a connection string, inside an identifier's quotes for psql's scanner.
        let mut conninfo = b"dbname=".to_vec();
        push_conninfo_value(&mut conninfo, database);
        let mut line = b"\\encoding SQL_ASCII\n\\connect -reuse-previous=on ".to_vec();
        line.push(b'"');
        for byte in conninfo {
            if byte == b'"' {
                line.push(b'"');
            }
            line.push(byte);
        }
        line.extend_from_slice(b"\"\n");
        Ok(line)
    }
}

fn push_conninfo_value(out: &mut Vec<u8>, value: &[u8]) {
    let is_simple = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !value.is_empty() && value.iter().all(is_simple) {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'\'');
    for byte in value {
        if matches!(byte, b'\'' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'\'');
}
