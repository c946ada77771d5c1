//! Entries with what they bring: definition, rows, large objects, statistics.

use pgkeep_format::archive::{IndexedEntry, TocEntry};
use pgkeep_tool::{Result, ToolError};

use super::entry::Part;
use super::split::CommandSplitter;
use super::{Emitter, Target};
use crate::restore::select::Wanted;
use crate::restore::source::{Piece, Source};

/// Bytes of a large object in one call, as stock.
const LARGE_OBJECT_PIECE: usize = 16384;
/// Write access for `lo_open`.
const LARGE_OBJECT_WRITE: u32 = 131_072;

/// What became of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableOutcome {
    /// The entry is not a table's definition.
    NotATable,
    /// It is there, and empty.
    Created,
    /// It is not.
    Failed,
}

impl Emitter<'_> {
    /// Restores what is wanted of an entry. `truncate`: the table was made in this restore, by another session.
    pub(crate) fn restore_entry(
        &mut self,
        source: &mut Source,
        entry: &TocEntry,
        wanted: Wanted,
        truncate: bool,
    ) -> Result<TableOutcome> {
        let job = self.job;
        if entry.desc == "WARNING" {
            let text = [&entry.definition, &entry.copy_statement];
            if let Some(text) = text.into_iter().flatten().find(|text| !text.is_empty()) {
                job.reporter.warning(&format!("warning from original dump file: {text}"));
            }
        }
        if let Some(server) = self.server() {
            server.begin_entry(entry);
        }
        let mut outcome = TableOutcome::NotATable;
        if wanted.schema {
            outcome = self.restore_definition(entry)?;
        }
        if wanted.data {
            if entry.had_dumper {
                self.print_entry(entry, Part::Data)?;
                if entry.desc == "BLOBS" {
                    job.reporter.info(&format!("processing {}", entry.desc));
                    self.select_schema(Some(&"pg_catalog".into()))?;
                    self.restore_large_objects(source, entry)?;
                } else {
                    self.restore_rows(source, entry, truncate)?;
                }
            } else if !wanted.schema {
                job.reporter.info(&format!("executing {} {}", entry.desc, entry.tag));
                self.print_entry(entry, Part::Definition)?;
            }
        }
        if wanted.statistics {
            self.restore_statistics(source, entry)?;
        }
        if wanted.is_restored() {
            self.count_objects(1, "COMMIT;\nBEGIN;\n\n")?;
        }
        Ok(outcome)
    }

    fn restore_definition(&mut self, entry: &TocEntry) -> Result<TableOutcome> {
        let job = self.job;
        let is_database = entry.desc == "DATABASE" || entry.desc == "DATABASE PROPERTIES";
        if is_database && self.transaction_size > 0 {
            // Neither can be done in a transaction.
            self.commit("COMMIT;\n\n")?;
        }
        match &entry.namespace {
            Some(namespace) => {
                job.reporter.info(&format!("creating {} \"{namespace}.{}\"", entry.desc, entry.tag));
            }
            None => job.reporter.info(&format!("creating {} \"{}\"", entry.desc, entry.tag)),
        }
        let errors = self.server().map(|server| server.errors());
        self.print_entry(entry, Part::Definition)?;
        if is_database {
            job.reporter.info(&format!("connecting to new database \"{}\"", entry.tag));
            self.reconnect(&entry.tag)?;
        }
        Ok(match &entry.desc[..] {
            b"TABLE" if self.server().map(|server| server.errors()) == errors => TableOutcome::Created,
            b"TABLE" => TableOutcome::Failed,
            _ => TableOutcome::NotATable,
        })
    }

    fn restore_statistics(&mut self, source: &mut Source, entry: &TocEntry) -> Result<()> {
        let major = self.server().map(|server| server.major());
        if let Some(major) = major.filter(|major| *major < 18) {
            if !self.told_of_statistics {
                self.told_of_statistics = true;
                self.job.reporter.warning(&format!(
                    "statistics are not restored: a server of version {major} cannot take them; run ANALYZE instead"
                ));
            }
            return Ok(());
        }
        match source.late_definition(entry)? {
            Some(text) => {
                let entry = TocEntry { definition: Some(text), ..entry.clone() };
                self.print_entry(&entry, Part::Statistics)
            }
            None => self.print_entry(entry, Part::Statistics),
        }
    }

    fn restore_rows(&mut self, source: &mut Source, entry: &TocEntry, truncate: bool) -> Result<()> {
        let job = self.job;
        let toggles_triggers = job.options.disable_triggers && !job.options.selection.schema;
        let mut table = Vec::new();
        self.push_qualified(&mut table, entry.namespace.as_deref(), &entry.tag);
        if toggles_triggers {
            job.reporter.info(&format!("disabling triggers for {}", entry.tag));
            self.become_user(job.options.superuser.as_ref())?;
            self.command([b"ALTER TABLE ", &table[..], b" DISABLE TRIGGER ALL;\n\n"].concat())?;
        }
        self.become_owner(entry.owner.as_ref())?;
        self.select_schema(entry.namespace.as_ref())?;
        let namespace = entry.namespace.clone().unwrap_or_default();
        job.reporter.info(&format!("processing data for table \"{namespace}.{}\"", entry.tag));
        let truncate = truncate && !loads_through_root(entry, &table);
        if truncate {
            self.begin("")?;
            self.command([b"TRUNCATE TABLE ONLY ", &table[..], b";\n\n"].concat())?;
        }
        let copy = entry.copy_statement.as_deref().filter(|copy| !copy.is_empty());
        match (&mut self.target, copy) {
            (Target::Script(_), copy) => {
                self.comment(copy.unwrap_or_default())?;
                source.rows(entry, &mut |piece| match piece {
                    Piece::Bytes(bytes) => self.comment(bytes),
                    Piece::LargeObject(_) | Piece::LargeObjectEnd => Err(misplaced(entry)),
                })?;
            }
            (Target::Server(server), Some(copy)) => server.copy(copy, &entry.tag, |sink| {
                source.rows(entry, &mut |piece| match piece {
                    Piece::Bytes(bytes) => sink(bytes),
                    Piece::LargeObject(_) | Piece::LargeObjectEnd => Err(misplaced(entry)),
                })
            })?,
            (Target::Server(_), None) => self.restore_inserts(source, entry)?,
        }
        if truncate {
            self.commit("")?;
        }
        if toggles_triggers {
            job.reporter.info(&format!("enabling triggers for {}", entry.tag));
            self.become_user(job.options.superuser.as_ref())?;
            self.command([b"ALTER TABLE ", &table[..], b" ENABLE TRIGGER ALL;\n\n"].concat())?;
        }
        Ok(())
    }

    /// Loads a piece of rows into a table that this restore made.
    pub(crate) fn restore_piece(
        &mut self,
        source: &mut Source,
        entry: &TocEntry,
        indexed: &IndexedEntry,
        number: usize,
    ) -> Result<()> {
        self.begin_rows(entry, number == 0)?;
        let copy = entry.copy_statement.as_deref().unwrap_or_default();
        let Target::Server(server) = &mut self.target else { return Ok(()) };
        server.copy(copy, &entry.tag, |sink| {
            source.piece(entry, indexed, number, &mut |piece| match piece {
                Piece::Bytes(bytes) => sink(bytes),
                Piece::LargeObject(_) | Piece::LargeObjectEnd => Err(misplaced(entry)),
            })
        })
    }

    /// Takes away the rows of pieces that were loaded before another one was refused.
    pub(crate) fn empty_table(&mut self, entry: &TocEntry) -> Result<()> {
        self.begin_rows(entry, false)?;
        let mut table = Vec::new();
        self.push_qualified(&mut table, entry.namespace.as_deref(), &entry.tag);
        self.command([b"TRUNCATE TABLE ONLY ", &table[..], b";\n\n"].concat())
    }

    fn begin_rows(&mut self, entry: &TocEntry, tell: bool) -> Result<()> {
        if let Some(server) = self.server() {
            server.begin_entry(entry);
        }
        self.become_owner(entry.owner.as_ref())?;
        self.select_schema(entry.namespace.as_ref())?;
        if tell {
            let namespace = entry.namespace.clone().unwrap_or_default();
            self.job.reporter.info(&format!("processing data for table \"{namespace}.{}\"", entry.tag));
        }
        Ok(())
    }

    /// Rows as SQL commands, one after the other.
    fn restore_inserts(&mut self, source: &mut Source, entry: &TocEntry) -> Result<()> {
        let mut splitter = CommandSplitter::new(self.job.contents.standard_strings);
        source.rows(entry, &mut |piece| {
            let Piece::Bytes(mut bytes) = piece else { return Err(misplaced(entry)) };
            while let Some(command) = splitter.next(&mut bytes) {
                self.command(command)?;
            }
            if splitter.is_too_long() {
                return Err(ToolError::new(format!(
                    "a command of entry {} is longer than a server takes",
                    entry.dump_id
                ))
                .hint("the archive is damaged: leave this entry out with -L"));
            }
            Ok(())
        })?;
        splitter.rest().map_or(Ok(()), |rest| self.command(rest))
    }

    fn restore_large_objects(&mut self, source: &mut Source, entry: &TocEntry) -> Result<()> {
        let own_transaction = !self.job.options.single_transaction && self.transaction_size == 0;
        if own_transaction {
            self.begin("BEGIN;\n\n")?;
        }
        let mut count = 0_u64;
        let mut open = None;
        let mut pending: Vec<u8> = Vec::with_capacity(LARGE_OBJECT_PIECE);
        source.large_objects(entry, &mut |piece| match piece {
            Piece::LargeObject(oid) => {
                count += 1;
                self.job.reporter.info(&format!("restoring large object with OID {oid}"));
                open = Some(self.open_large_object(oid)?);
                Ok(())
            }
            Piece::Bytes(mut bytes) => {
                let Some(descriptor) = open else { return Err(misplaced(entry)) };
                while !bytes.is_empty() {
                    if pending.len() == LARGE_OBJECT_PIECE {
                        self.write_large_object(descriptor, &pending)?;
                        pending.clear();
                    }
                    let (now, later) = bytes.split_at(bytes.len().min(LARGE_OBJECT_PIECE - pending.len()));
                    pending.extend_from_slice(now);
                    bytes = later;
                }
                Ok(())
            }
            Piece::LargeObjectEnd => {
                let Some(descriptor) = open.take() else { return Err(misplaced(entry)) };
                if !pending.is_empty() {
                    self.write_large_object(descriptor, &pending)?;
                    pending.clear();
                }
                self.close_large_object(descriptor)
            }
        })?;
        if own_transaction {
            self.commit("COMMIT;\n\n")?;
        }
        let plural = if count == 1 { "" } else { "s" };
        self.job.reporter.info(&format!("restored {count} large object{plural}"));
        Ok(())
    }

    fn open_large_object(&mut self, oid: u32) -> Result<i32> {
        let sql = format!("SELECT pg_catalog.lo_open('{oid}', {LARGE_OBJECT_WRITE});\n");
        match &mut self.target {
            // The script's descriptors always begin at 0, there is one at a time.
            Target::Script(_) => self.comment(sql).map(|()| 0),
            Target::Server(server) => server.open_large_object(&sql, oid),
        }
    }

    fn write_large_object(&mut self, descriptor: i32, bytes: &[u8]) -> Result<()> {
        let escape = if self.job.contents.standard_strings { "" } else { "\\" };
        let mut sql = format!("SELECT pg_catalog.lowrite({descriptor}, '{escape}\\x");
        sql.reserve(2 * bytes.len() + 8);
        for byte in bytes {
            for nibble in [byte >> 4, byte & 15] {
                sql.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
            }
        }
        sql.push_str("');\n");
        match &mut self.target {
            Target::Script(_) => self.comment(sql),
            Target::Server(server) => server.write_large_object(&sql),
        }
    }

    fn close_large_object(&mut self, descriptor: i32) -> Result<()> {
        match &mut self.target {
            Target::Script(_) => self.comment("SELECT pg_catalog.lo_close(0);\n\n"),
            Target::Server(server) => {
                server.write_large_object(&format!("SELECT pg_catalog.lo_close({descriptor})"))
            }
        }
    }
}

/// Whether rows go into an ancestor of the table that the entry is about. Truncating would lose rows of others then.
pub(crate) fn loads_through_root(entry: &TocEntry, table: &[u8]) -> bool {
    if entry.definition.as_deref().is_some_and(|text| text.starts_with(b"-- load via partition root ")) {
        return true;
    }
    // Archives of before the marker: the COPY tells.
    match entry.copy_statement.as_deref().filter(|copy| !copy.is_empty()) {
        Some(copy) => !copy.starts_with(&[b"COPY ", table, b" "].concat()),
        None => false,
    }
}

fn misplaced(entry: &TocEntry) -> ToolError {
    ToolError::new(format!("unrecognized data block type while restoring entry {}", entry.dump_id))
        .hint("the archive is damaged: leave this entry out with -L")
}
