//! The custom format: the table of contents, then a block for each entry with data.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};

use pgkeep_format::archive::{
    ArchiveHeader, BlockHeader, BlockKind, DataLocation, DumpId, LOCATION_SIZE, write_block, write_chunk_end,
    write_chunks, write_large_object, write_location,
};

use super::{ArchiveOptions, Chosen, OutputFile, write_stream, write_table};
use crate::compress::{Compressor, Framing};
use crate::dump::Dump;
use crate::error::{LogicalError, Result};

/// Compressed bytes that make a chunk.
const CHUNK: usize = 64 << 10;

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    options: &ArchiveOptions,
    header: &ArchiveHeader,
    file: &mut OutputFile,
) -> Result<()> {
    for chosen in &mut entries {
        chosen.entry.data = match chosen.entry.had_dumper {
            true => DataLocation::Unknown,
            false => DataLocation::None,
        };
    }
    let mut out = Counted { inner: file, position: 0 };
    // Where each entry says where its data lies: that is the last field of an entry.
    let mut places = HashMap::new();
    write_table(dump, header, &entries, &mut out, |id, end| {
        places.insert(id, end - LOCATION_SIZE);
    })?;
    for chosen in &mut entries {
        if !chosen.with_data || !chosen.entry.had_dumper {
            continue;
        }
        let id = chosen.entry.dump_id;
        chosen.entry.data = DataLocation::Offset(out.position);
        match dump.large_objects(id).map(<[u32]>::to_vec) {
            Some(oids) => large_objects(dump, id, &oids, options, &mut out)?,
            None => rows(dump, id, options, &mut out)?,
        }
    }
    // Now that it is known where the data lies. What cannot be written again stays without: readers search then.
    if let Some(file) = out.inner.seekable() {
        let failure = |error| LogicalError::output(&error);
        file.flush().map_err(failure)?;
        for Chosen { entry, .. } in &entries {
            let Some(place) = places.get(&entry.dump_id) else { continue };
            if !matches!(entry.data, DataLocation::Offset(_)) {
                continue;
            }
            let mut bytes = Vec::new();
            write_location(&mut bytes, &entry.data);
            file.seek(SeekFrom::Start(*place)).map_err(failure)?;
            file.write_all(&bytes).map_err(failure)?;
        }
    }
    Ok(())
}

fn rows(dump: &mut Dump, id: DumpId, options: &ArchiveOptions, out: &mut Counted<'_>) -> Result<()> {
    let mut start = Vec::new();
    write_block(&mut start, BlockHeader { kind: BlockKind::Data, dump_id: id });
    out.put(&start)?;
    let chunks = Chunks { out, pending: Vec::with_capacity(CHUNK) };
    let compressor = Compressor::new(chunks, options.compression, options.level, Framing::Chunks)
        .map_err(|error| LogicalError::output(&error))?;
    write_stream(dump, id, compressor)?.finish().map_err(|error| LogicalError::output(&error))?.end()
}

fn large_objects(
    dump: &mut Dump,
    id: DumpId,
    oids: &[u32],
    options: &ArchiveOptions,
    out: &mut Counted<'_>,
) -> Result<()> {
    let mut start = Vec::new();
    write_block(&mut start, BlockHeader { kind: BlockKind::LargeObjects, dump_id: id });
    out.put(&start)?;
    for oid in oids {
        let mut start = Vec::new();
        write_large_object(&mut start, *oid);
        out.put(&start)?;
        let chunks = Chunks { out, pending: Vec::with_capacity(CHUNK) };
        let mut compressor = Compressor::new(chunks, options.compression, options.level, Framing::Chunks)
            .map_err(|error| LogicalError::output(&error))?;
        dump.write_large_object(*oid, &mut compressor)?;
        compressor.finish().map_err(|error| LogicalError::output(&error))?.end()?;
    }
    let mut end = Vec::new();
    write_large_object(&mut end, 0);
    out.put(&end)
}

/// The file, with how much was written.
struct Counted<'a> {
    inner: &'a mut OutputFile,
    position: u64,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|error| LogicalError::output(&error))
    }
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Makes chunks of what is written.
struct Chunks<'a, 'b> {
    out: &'a mut Counted<'b>,
    pending: Vec<u8>,
}

impl Chunks<'_, '_> {
    fn write_pending(&mut self) -> std::io::Result<()> {
        let mut chunk = Vec::with_capacity(self.pending.len() + 8);
        write_chunks(&mut chunk, &self.pending);
        self.pending.clear();
        self.out.write_all(&chunk)
    }

    /// Writes what is left and the end of the chunks.
    fn end(mut self) -> Result<()> {
        self.write_pending().map_err(|error| LogicalError::output(&error))?;
        let mut end = Vec::new();
        write_chunk_end(&mut end);
        self.out.put(&end)
    }
}

impl Write for Chunks<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.write_pending()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
