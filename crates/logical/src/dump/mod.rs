//! Dumping a database: its objects in an order in which they can be made again, as entries of an archive, and its rows.
//!
//! A native `pg_dump`: it reads catalogs of servers from 13 on in one snapshot, and what it makes of them is stock 18's to
//! the letter (compared by `cargo xtask compare-dump`). The steps: a [session] in a snapshot, [patterns] to OIDs,
//! [collection](collect) of every object of every class, their [order], and their [definitions](define). What comes out
//! is a table of contents and the means to fetch the data of each entry; writers of the formats take it from there.
//!
//! Invariants:
//! - An object that was asked for and cannot be written is an error that names it, never left out in silence.
//! - Catalogs are read by class, not by object: the number of queries does not grow with the database, but with the number
//!   of tables and large objects that hold data.

mod ahead;
mod collect;
mod define;
mod encoding;
mod model;
mod options;
mod order;
pub(crate) mod patterns;
pub(crate) mod privileges;
mod rows;
pub(crate) mod session;
pub(crate) mod sql;
mod statistics;
pub mod write;

use std::collections::HashMap;
use std::io::Write;

use pgkeep_format::archive::{DumpId, Text, TocEntry};
use pgkeep_wire::ConnInfo;

pub(crate) use encoding::Encoding;
pub use options::{DumpOptions, Patterns, RowFormat, SessionOptions};
pub use session::TOOL_VERSION;

use collect::Collector;
use define::DataSource;
use model::Model;
use session::Session;
use statistics::AllStatistics;

use crate::error::Result;
use crate::restore::LiveData;

/// A dump whose table of contents is known and whose data can be fetched, in its snapshot.
#[derive(Debug)]
pub struct Dump {
    session: Session,
    /// More sessions in the same snapshot, for parallel dumps.
    others: Vec<Session>,
    entries: Vec<TocEntry>,
    data: HashMap<DumpId, DataSource>,
    statistics: AllStatistics,
    model: Model,
    rows: RowFormat,
    warnings: Vec<String>,
}

impl Dump {
    /// Connects, takes a snapshot, and reads the catalogs.
    pub fn start(conninfo: &ConnInfo, options: &DumpOptions) -> Result<Dump> {
        let mut session = Session::start(conninfo, options)?;
        let mut others = Vec::new();
        for _ in 1..options.jobs.max(1) {
            others.push(session.another(conninfo, options)?);
        }
        session.prepare_ahead(conninfo, options)?;
        let selection = patterns::select(&mut session, options)?;
        let mut collected = Collector::run(&mut session, options, &selection)?;
        let mut warnings = std::mem::take(&mut collected.warnings);
        warnings.extend(session.warning());
        let order = order::order(&mut collected.model, &mut warnings)?;
        let entries = define::define(&mut session, options, &mut collected, &order)?;
        warnings.extend(entries.warnings);
        let statistics = AllStatistics::new(entries.statistics);
        let (entries, data) = (entries.list, entries.data);
        Ok(Dump {
            session,
            others,
            entries,
            data,
            statistics,
            model: collected.model,
            rows: options.rows,
            warnings,
        })
    }

    /// The table of contents, in order. No entry says yet where its data lies, and only some what they depend on.
    pub fn entries(&self) -> &[TocEntry] {
        &self.entries
    }

    /// Completes the dependencies of these entries of the table: they are on one another.
    pub fn add_dependencies(&self, entries: &mut [TocEntry]) {
        define::add_dependencies(&self.model, entries);
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        &self.session.database
    }

    /// The server's version in words, as archives have it.
    pub fn server_version(&self) -> &str {
        &self.session.version_text
    }

    /// What the user should know. Lines after the first begin with `detail:` or `hint:`.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The large objects of an entry; `None` when it holds rows, or nothing.
    pub fn large_objects(&self, id: DumpId) -> Option<&[u32]> {
        match self.data.get(&id)? {
            DataSource::LargeObjects(oids) => Some(oids),
            DataSource::Rows(_) => None,
        }
    }

    /// Writes the rows of an entry as they stand in an archive, end mark included.
    pub fn write_rows(&mut self, id: DumpId, out: &mut dyn Write) -> Result<()> {
        match self.data.get(&id) {
            Some(DataSource::Rows(source)) => rows::write(&mut self.session, source, self.rows, out),
            Some(DataSource::LargeObjects(_)) | None => Ok(()),
        }
    }

    /// The definition of an entry that has none in the table of contents: statistics are fetched when they are written.
    pub fn late_definition(&mut self, id: DumpId) -> Result<Option<Text>> {
        self.statistics.text(&mut self.session, id)
    }

    /// Writes the contents of a large object.
    pub fn write_large_object(&mut self, oid: u32, out: &mut dyn Write) -> Result<()> {
        rows::large_object(&mut self.session, oid, out)
    }
}

/// One of the sessions that fetch data at the same time.
#[derive(Debug)]
struct Fetcher<'a> {
    session: &'a mut Session,
    data: &'a HashMap<DumpId, DataSource>,
    rows: RowFormat,
    /// It does not hold the locks.
    is_other: bool,
}

impl Dump {
    /// All sessions, to be used by a thread each.
    fn fetchers(&mut self) -> Vec<Fetcher<'_>> {
        let Dump { session, others, data, rows, .. } = self;
        let first = std::iter::once((session, false));
        let sessions = first.chain(others.iter_mut().map(|session| (session, true)));
        sessions.map(|(session, is_other)| Fetcher { session, data, rows: *rows, is_other }).collect()
    }

    /// About how much an entry holds.
    fn size(&self, id: DumpId) -> u64 {
        match self.data.get(&id) {
            Some(DataSource::Rows(source)) => source.pages,
            Some(DataSource::LargeObjects(oids)) => oids.len() as u64,
            None => 0,
        }
    }
}

impl Fetcher<'_> {
    fn large_objects(&self, id: DumpId) -> Option<&[u32]> {
        match self.data.get(&id)? {
            DataSource::LargeObjects(oids) => Some(oids),
            DataSource::Rows(_) => None,
        }
    }

    fn write_rows(&mut self, id: DumpId, out: &mut dyn Write) -> Result<()> {
        let Some(DataSource::Rows(source)) = self.data.get(&id) else { return Ok(()) };
        if self.is_other {
            rows::lock(self.session, source)?;
        }
        rows::write(self.session, source, self.rows, out)
    }

    fn write_large_object(&mut self, oid: u32, out: &mut dyn Write) -> Result<()> {
        rows::large_object(self.session, oid, out)
    }
}

impl LiveData for Dump {
    fn late_definition(&mut self, entry: DumpId) -> Result<Option<Text>> {
        Dump::late_definition(self, entry)
    }

    fn rows(&mut self, entry: DumpId, out: &mut dyn Write) -> Result<()> {
        self.write_rows(entry, out)
    }

    fn large_objects(&self, entry: DumpId) -> Vec<u32> {
        Dump::large_objects(self, entry).map(<[u32]>::to_vec).unwrap_or_default()
    }

    fn large_object(&mut self, oid: u32, out: &mut dyn Write) -> Result<()> {
        self.write_large_object(oid, out)
    }
}
