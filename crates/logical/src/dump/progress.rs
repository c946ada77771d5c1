//! Who is told of the data of a dump while it is written: which entry, how many bytes, and how many rows in the end.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use pgkeep_format::archive::DumpId;
use pgkeep_tool::Result;

/// An entry whose data is about to be written.
#[derive(Debug, Clone, Copy)]
pub struct DataOfEntry<'a> {
    /// Its number.
    pub id: DumpId,
    /// Its schema; empty where it has none.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// How many bytes it has on the server, about; 0 where that is not known.
    pub estimated_bytes: u64,
}

/// How much an entry had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrittenData {
    /// Bytes.
    pub bytes: u64,
    /// Rows, where they are lines of COPY.
    pub rows: Option<u64>,
}

/// Is told of the data of a dump. Called from every thread that fetches some.
pub trait DumpObserver: std::fmt::Debug + Send + Sync {
    /// The data of an entry begins.
    fn begins(&self, entry: DataOfEntry<'_>);

    /// So many more bytes.
    ///
    /// # Errors
    /// To stop the dump.
    fn writes(&self, bytes: u64) -> io::Result<()>;

    /// The rows of an entry are written.
    fn ends(&self, entry: DataOfEntry<'_>, data: WrittenData);
}

/// Who is told, and what of: schema, name and estimated bytes of entries with data.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(super) observer: Arc<dyn DumpObserver>,
    pub(super) of: HashMap<DumpId, (String, String, u64)>,
}

impl Observed {
    fn of(&self, id: DumpId) -> DataOfEntry<'_> {
        let (schema, name, estimated_bytes) = self
            .of
            .get(&id)
            .map_or(("", "", 0), |(schema, name, bytes)| (schema.as_str(), name.as_str(), *bytes));
        DataOfEntry { id, schema, name, estimated_bytes }
    }

    /// Its data begins.
    pub(super) fn begun(&self, id: DumpId) {
        self.observer.begins(self.of(id));
    }

    /// Its data is written.
    pub(super) fn ended(&self, id: DumpId, data: WrittenData) {
        self.observer.ends(self.of(id), data);
    }

    /// Tells of what `write` writes.
    pub(super) fn write(
        &self,
        id: DumpId,
        is_copy: bool,
        out: &mut dyn Write,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        self.begun(id);
        let mut counted = Counted::new(out, &*self.observer);
        write(&mut counted)?;
        let written = counted.written(is_copy);
        self.ended(id, written);
        Ok(())
    }
}

/// Counts the lines of COPY on their way. A line feed in a value is written as two other characters, so each ends a row.
struct Counted<'a> {
    out: &'a mut dyn Write,
    observer: &'a dyn DumpObserver,
    bytes: u64,
    lines: u64,
}

/// Lines of what follows the rows: the end mark, and two that are empty.
const LINES_OF_END: u64 = 3;

impl<'a> Counted<'a> {
    fn new(out: &'a mut dyn Write, observer: &'a dyn DumpObserver) -> Counted<'a> {
        Counted { out, observer, bytes: 0, lines: 0 }
    }

    fn written(&self, is_copy: bool) -> WrittenData {
        let rows = is_copy.then(|| self.lines.saturating_sub(LINES_OF_END));
        WrittenData { bytes: self.bytes, rows }
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        let bytes = bytes.get(..written).unwrap_or(bytes);
        self.bytes += written as u64;
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.observer.writes(written as u64)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
