//! The texts of statistics: commands that give a relation and its columns what the planner knew of them.
//!
//! A text is made when its entry is written, since all of them together may be more than fits into memory. Statistics of
//! columns are fetched for some relations at once, those whose entries come next.
//!
//! The commands are functions of PostgreSQL 18 and later (`pg_restore_relation_stats`, `pg_restore_attribute_stats`), which
//! take statistics of any version.

use std::collections::HashMap;

use pgkeep_format::archive::{DumpId, Text};
use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::{Row, Rows};

use super::model::Statistics;
use super::session::Session;

/// Relations whose columns' statistics are fetched at once.
const RELATIONS_PER_FETCH: usize = 64;

/// Of what an entry's text is made.
#[derive(Debug, Clone)]
pub(crate) struct StatisticsSource {
    pub(crate) schema: String,
    pub(crate) relation: String,
    pub(crate) facts: Statistics,
}

/// Columns of `pg_stats`, with the types that the function takes them as.
const COLUMNS: [(&str, &str); 14] = [
    ("inherited", "boolean"),
    ("null_frac", "real"),
    ("avg_width", "integer"),
    ("n_distinct", "real"),
    ("most_common_vals", "text"),
    ("most_common_freqs", "real[]"),
    ("histogram_bounds", "text"),
    ("correlation", "real"),
    ("most_common_elems", "text"),
    ("most_common_elem_freqs", "real[]"),
    ("elem_count_histogram", "real[]"),
    ("range_length_histogram", "text"),
    ("range_empty_frac", "real"),
    ("range_bounds_histogram", "text"),
];
/// How many of them servers before 17 have.
const COLUMNS_BEFORE_17: usize = 11;

/// The statistics of a dump.
#[derive(Debug, Default)]
pub(crate) struct AllStatistics {
    /// In the order of the entries.
    sources: Vec<(DumpId, StatisticsSource)>,
    position: HashMap<DumpId, usize>,
    /// Those that were fetched last.
    fetched: Fetched,
}

/// Statistics of the columns of some relations that follow one another.
#[derive(Debug, Default)]
struct Fetched {
    relations: std::ops::Range<usize>,
    rows: Option<Rows>,
}

impl AllStatistics {
    pub(crate) fn new(sources: Vec<(DumpId, StatisticsSource)>) -> AllStatistics {
        let position = sources.iter().enumerate().map(|(position, (id, _))| (*id, position)).collect();
        AllStatistics { sources, position, fetched: Fetched::default() }
    }

    /// The text of an entry; none when it is not one of statistics.
    pub(crate) fn text(&mut self, session: &mut Session, id: DumpId) -> Result<Option<Text>> {
        let Some(position) = self.position.get(&id).copied() else { return Ok(None) };
        if !self.fetched.relations.contains(&position) {
            let end = (position + RELATIONS_PER_FETCH).min(self.sources.len());
            self.fetched = Fetched::default();
            let rows = fetch(session, self.sources[position..end].iter().map(|(_, source)| source))?;
            self.fetched = Fetched { relations: position..end, rows: Some(rows) };
        }
        let source = &self.sources[position].1;
        let mut sql = source.of_relation(session);
        for row in self.fetched.rows.iter().flat_map(Rows::iter) {
            if row.text("tablename")? == source.relation && row.text("schemaname")? == source.schema {
                source.push_column(&mut sql, session, row)?;
            }
        }
        Ok(Some(Text::from(&*session.encoding.lower(&sql))))
    }
}

fn fetch<'a>(
    session: &mut Session,
    sources: impl Iterator<Item = &'a StatisticsSource> + Clone,
) -> Result<Rows> {
    let list = |name: &dyn Fn(&'a StatisticsSource) -> &'a str| {
        let names: Vec<String> =
            sources.clone().map(|source| session.quoting.literal(name(source))).collect();
        format!("ARRAY[{}]::pg_catalog.name[]", names.join(", "))
    };
    let (schemas, relations) = (list(&|source| &source.schema), list(&|source| &source.relation));
    let columns: Vec<String> = columns(session).iter().map(|(name, _)| format!("s.{name}")).collect();
    // The condition on the name alone spares the server looking at all relations.
    session.query(&format!(
        "SELECT s.schemaname, s.tablename, s.attname, {} FROM pg_catalog.pg_stats s \
         JOIN unnest({schemas}, {relations}) AS u (schemaname, tablename) \
           ON s.schemaname = u.schemaname AND s.tablename = u.tablename \
         WHERE s.tablename = ANY ({relations}) ORDER BY s.schemaname, s.tablename, s.attname, s.inherited",
        columns.join(", ")
    ))
}

fn columns(session: &Session) -> &'static [(&'static str, &'static str)] {
    if session.is_at_least(17) { &COLUMNS } else { &COLUMNS[..COLUMNS_BEFORE_17] }
}

impl StatisticsSource {
    /// Version, schema and relation, as every call begins.
    fn push_relation(&self, sql: &mut String, session: &Session) {
        sql.push_str(&format!(
            "\t'version', '{}'::integer,\n\t'schemaname', {},\n\t'relname', {}",
            session.version,
            session.quoting.literal(&self.schema),
            session.quoting.literal(&self.relation)
        ));
    }

    fn of_relation(&self, session: &Session) -> String {
        let facts = &self.facts;
        let mut sql = String::from("SELECT * FROM pg_catalog.pg_restore_relation_stats(\n");
        self.push_relation(&mut sql, session);
        // Up to 13, 0 was said of relations of which nothing is known.
        let tuples = if session.version < 140_000 && facts.tuples == "0" { "-1" } else { &facts.tuples };
        sql.push_str(&format!(
            ",\n\t'relpages', '{}'::integer,\n\t'reltuples', '{tuples}'::real,\n\t'relallvisible', '{}'::integer",
            facts.pages, facts.all_visible
        ));
        if session.is_at_least(18) {
            sql.push_str(&format!(",\n\t'relallfrozen', '{}'::integer", facts.all_frozen));
        }
        sql.push_str("\n);\n");
        sql
    }

    fn push_column(&self, sql: &mut String, session: &Session, row: Row<'_>) -> Result<()> {
        sql.push_str("SELECT * FROM pg_catalog.pg_restore_attribute_stats(\n");
        self.push_relation(sql, session);
        let name = row.text("attname")?;
        if self.facts.index_columns.is_empty() {
            sql.push_str(&format!(",\n\t'attname', {}", session.quoting.literal(name)));
        } else {
            let position = self.facts.index_columns.iter().position(|column| column == name);
            let position = position
                .ok_or_else(|| ToolError::catalog(format!("could not find index attname \"{name}\"")))?;
            sql.push_str(&format!(",\n\t'attnum', '{}'::smallint", position + 1));
        }
        for (column, of_type) in columns(session) {
            if let Some(value) = row.optional(column)? {
                sql.push_str(&format!(",\n\t'{column}', {}::{of_type}", session.quoting.literal(value)));
            }
        }
        sql.push_str("\n);\n");
        Ok(())
    }
}
