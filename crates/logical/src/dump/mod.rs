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
mod fetch;
mod large_objects;
mod model;
mod options;
mod order;
pub(crate) mod patterns;
pub(crate) mod privileges;
mod progress;
mod rows;
pub(crate) mod session;
pub(crate) mod sql;
mod statistics;
pub mod write;

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use pgkeep_format::archive::{DumpId, Text, TocEntry};
use pgkeep_tool::Result;
use pgkeep_tool::compress::{Codec, Framing};
use pgkeep_wire::ConnInfo;

pub(crate) use encoding::Encoding;
pub use options::{DumpOptions, Patterns, RowFormat, SessionOptions};
pub use progress::{DataOfEntry, DumpObserver, WrittenData};
pub use session::TOOL_VERSION;

use collect::Collector;
use define::DataSource;
use fetch::{Delivery, Fetching, Plan, Sequence};
use model::Model;
use progress::Observed;
use rows::Extent;
use session::Session;
use statistics::AllStatistics;

use crate::restore::LiveData;

/// A dump whose table of contents is known and whose data can be fetched, in its snapshot.
#[derive(Debug)]
pub struct Dump {
    session: Session,
    /// More sessions in the same snapshot, which fetch the data of a parallel dump.
    others: Vec<Session>,
    entries: Vec<TocEntry>,
    data: Arc<HashMap<DumpId, DataSource>>,
    statistics: AllStatistics,
    model: Model,
    rows: RowFormat,
    part_bytes: u64,
    warnings: Vec<String>,
    observed: Option<Arc<Observed>>,
}

impl Dump {
    /// Who is told of the data from now on.
    pub fn observe(&mut self, observer: Arc<dyn DumpObserver>) {
        let mut of = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.had_dumper) {
            let schema = entry.namespace.as_ref().map(|schema| schema.to_lossy().into_owned());
            let name = entry.tag.to_lossy().into_owned();
            of.insert(entry.dump_id, (schema.unwrap_or_default(), name, self.estimate(entry.dump_id)));
        }
        self.observed = Some(Arc::new(Observed { observer, of }));
    }

    /// About how many bytes on the server the data is in that would be written.
    pub fn estimated_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| self.estimate(entry.dump_id)).sum()
    }

    fn estimate(&self, id: DumpId) -> u64 {
        match self.data.get(&id) {
            Some(DataSource::Rows(source)) => source.pages.saturating_mul(8192),
            Some(DataSource::LargeObjects(_)) | None => 0,
        }
    }

    /// Connects, takes a snapshot, and reads the catalogs.
    pub fn start(conninfo: &ConnInfo, options: &DumpOptions) -> Result<Dump> {
        let mut session = Session::start(conninfo, options)?;
        let mut others = Vec::new();
        // With several jobs the first session keeps the locks and the snapshot, and fetches nothing.
        for _ in 0..if options.jobs > 1 { options.jobs } else { 0 } {
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
            data: Arc::new(data),
            statistics,
            model: collected.model,
            rows: options.rows,
            part_bytes: options.part_bytes,
            warnings,
            observed: None,
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
        let Some(DataSource::Rows(source)) = self.data.get(&id) else { return Ok(()) };
        let (session, format) = (&mut self.session, self.rows);
        let mut write =
            |out: &mut dyn Write| rows::write(session, source, Extent::WHOLE, format, out).map(drop);
        match &self.observed {
            Some(observed) => observed.write(id, format == RowFormat::Copy, out, &mut write),
            None => write(out),
        }
    }

    /// The definition of an entry that has none in the table of contents: statistics are fetched when they are written.
    pub fn late_definition(&mut self, id: DumpId) -> Result<Option<Text>> {
        self.statistics.text(&mut self.session, id)
    }

    /// Writes the contents of a large object.
    pub fn write_large_object(&mut self, oid: u32, out: &mut dyn Write) -> Result<()> {
        large_objects::write(&mut self.session, oid, out)
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

impl Dump {
    /// How data is fetched.
    fn fetching(&self, codec: Codec, framing: Framing) -> Fetching {
        Fetching {
            data: Arc::clone(&self.data),
            rows: self.rows,
            codec,
            framing,
            piece_bytes: self.part_bytes,
            observed: self.observed.clone(),
        }
    }

    /// Fetches the data of these entries, by all sessions that there are for it, while `write` takes it.
    fn fetch<T>(
        &mut self,
        entries: &[DumpId],
        sequence: Sequence,
        (codec, framing): (Codec, Framing),
        write: impl FnOnce(Delivery) -> Result<T>,
    ) -> Result<T> {
        let plan = Plan::new(self, entries, sequence)?;
        let fetching = self.fetching(codec, framing);
        if self.others.is_empty() {
            return fetch::fetch(vec![&mut self.session], true, &fetching, plan, write);
        }
        fetch::fetch(self.others.iter_mut().collect(), false, &fetching, plan, write)
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
