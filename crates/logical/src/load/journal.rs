//! What is done, kept in the database that is loaded.
//!
//! Each step commits together with its line in the journal, so the two cannot disagree, whatever is killed: a server that
//! crashes with `synchronous_commit` off loses the last commits whole, and none that came before one that it kept.
//!
//! - The line comes first in the transaction. A step of a killed run that still ends on the server and the same step of the
//!   next run meet at the line's key: the second waits, and sees that it is done.
//! - A crash empties unlogged tables. Steps that fill them are written down in an unlogged table, which is emptied too.
//! - Positions of sequences are set again by every run: a crash resets those of unlogged sequences.
//!
//! The schema `pgkeep_load` goes in the last transaction of the load, the one that is flushed to disk. In a database of a set
//! that transaction writes [`FINISHED`] down instead, and the schema goes when all databases are loaded: see [`super::member`].

use std::collections::BTreeSet;

use pgkeep_wire::{Connection, WireError, quote_literal};

/// The schema.
pub(super) const SCHEMA: &str = "pgkeep_load";
/// Written down in a database of a set that is loaded.
pub(super) const FINISHED: &str = "finished";
/// Written down in the last database of a set when all of them are loaded.
pub(super) const SET_FINISHED: &str = "set finished";
/// The advisory lock that a running load holds.
pub(super) const LOCK: i64 = 0x7067_6b70_6c6f_6164;

/// Which load a journal is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// A digest of the archive's table of contents.
    pub(super) archive: String,
    /// The options that decide what is made.
    pub(super) options: String,
    /// The load made the database.
    pub(super) created_database: bool,
}

/// A journal that is there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    /// When it was begun.
    pub(super) began: String,
    /// Steps that are done.
    pub(super) done: BTreeSet<String>,
}

impl Found {
    /// Whether the whole, or the set, is loaded.
    pub(super) fn is_marked(&self, word: &str) -> bool {
        self.done.contains(word)
    }
}

pub(super) fn find(connection: &mut Connection) -> Result<Option<Found>, WireError> {
    let there = connection.query(&format!(
        "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = '{SCHEMA}' AND c.relname = 'load'"
    ))?;
    if there.is_empty() {
        return Ok(None);
    }
    let rows = connection.query(&format!(
        "SELECT archive, options, created_database, pg_catalog.date_trunc('second', began) AS began FROM {SCHEMA}.load"
    ))?;
    let Some(row) = rows.first() else { return Ok(None) };
    let key = Key {
        archive: row.text("archive")?.to_owned(),
        options: row.text("options")?.to_owned(),
        created_database: row.boolean("created_database")?,
    };
    let began = row.text("began")?.to_owned();
    let steps = connection.query(&format!(
        "SELECT step FROM {SCHEMA}.done UNION ALL SELECT step FROM {SCHEMA}.done_unlogged"
    ))?;
    let done = steps.iter().map(|row| Ok(row.text("step")?.to_owned())).collect::<Result<_, WireError>>()?;
    Ok(Some(Found { key, began, done }))
}

/// Makes the journal, durably.
pub(super) fn create(connection: &mut Connection, key: &Key) -> Result<(), WireError> {
    connection.execute(&format!(
        "BEGIN; SET LOCAL synchronous_commit = on; CREATE SCHEMA {SCHEMA}; \
         CREATE TABLE {SCHEMA}.load (archive text NOT NULL, options text NOT NULL, created_database boolean NOT NULL, \
         began timestamptz NOT NULL DEFAULT pg_catalog.now()); \
         CREATE TABLE {SCHEMA}.done (step text PRIMARY KEY); \
         CREATE UNLOGGED TABLE {SCHEMA}.done_unlogged (step text PRIMARY KEY); \
         INSERT INTO {SCHEMA}.load VALUES ({}, {}, {}); COMMIT",
        quote_literal(&key.archive),
        quote_literal(&key.options),
        key.created_database
    ))
}

/// The command that writes down one of the words above.
pub(super) fn mark(word: &str) -> String {
    format!("INSERT INTO {SCHEMA}.done VALUES ({}) ON CONFLICT DO NOTHING", quote_literal(word))
}

/// Writes a step down in the open transaction; false: it is done already.
pub(super) fn write(connection: &mut Connection, step: &str, unlogged: bool) -> Result<bool, WireError> {
    let table = if unlogged { "done_unlogged" } else { "done" };
    let rows = connection.query(&format!(
        "INSERT INTO {SCHEMA}.{table} VALUES ({}) ON CONFLICT DO NOTHING",
        quote_literal(step)
    ))?;
    Ok(rows.command_tag().ends_with(" 1"))
}
