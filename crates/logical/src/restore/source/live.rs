//! A dump that is being made: its rows and large objects come from a server.

use std::io::{self, Write};

use pgkeep_format::archive::{DumpId, Text, TocEntry};
use pgkeep_tool::{Result, ToolError};

use super::{Piece, Sink};

/// Gives the data of entries.
pub trait LiveData: std::fmt::Debug {
    /// The definition of an entry that has none in the table of contents.
    ///
    /// # Errors
    /// When it cannot be read.
    fn late_definition(&mut self, entry: DumpId) -> Result<Option<Text>>;

    /// Writes the rows of an entry, as archives have them.
    ///
    /// # Errors
    /// When they cannot be read or not be written.
    fn rows(&mut self, entry: DumpId, out: &mut dyn Write) -> Result<()>;

    /// The large objects of an entry.
    fn large_objects(&self, entry: DumpId) -> Vec<u32>;

    /// Writes a large object.
    ///
    /// # Errors
    /// When it cannot be read or not be written.
    fn large_object(&mut self, oid: u32, out: &mut dyn Write) -> Result<()>;
}

pub(super) fn rows(data: &mut dyn LiveData, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
    through(sink, |out| data.rows(entry.dump_id, out))
}

pub(super) fn large_objects(data: &mut dyn LiveData, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
    for oid in data.large_objects(entry.dump_id) {
        sink(Piece::LargeObject(oid))?;
        through(sink, |out| data.large_object(oid, out))?;
        sink(Piece::LargeObjectEnd)?;
    }
    Ok(())
}

/// Lets `write` write to the sink. What the sink refuses is the error, not that of the writer which follows from it.
fn through(sink: &mut Sink<'_>, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = SinkWriter { sink, failure: None };
    let result = write(&mut out);
    match out.failure {
        Some(failure) => Err(failure),
        None => result,
    }
}

struct SinkWriter<'a, 'b> {
    sink: &'a mut Sink<'b>,
    failure: Option<ToolError>,
}

impl Write for SinkWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match (self.sink)(Piece::Bytes(bytes)) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let shown = io::Error::other(error.message.clone());
                self.failure.get_or_insert(error);
                Err(shown)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
