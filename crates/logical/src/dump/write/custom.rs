//! The custom format: the table of contents, then a block for each entry with data, then the index of pieces.

use std::collections::HashMap;
use std::io::{Seek, SeekFrom, Write};

use pgkeep_format::archive::{
    ArchiveHeader, BlockHeader, BlockKind, Compression, DataKind, DataLocation, DumpId, INDEX_DUMP_ID,
    IndexTrailer, LOCATION_SIZE, write_block, write_chunk_end, write_chunks, write_large_object,
    write_location,
};
use pgkeep_tool::compress::{Framing, GzipStream};
use pgkeep_tool::{Result, ToolError};

use super::indexing::IndexBuilder;
use super::output_file::Out;
use super::{ArchiveOptions, Chosen, with_data, write_table};
use crate::dump::Dump;
use crate::dump::fetch::{Delivery, Item, PlannedEntry, Sequence};

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    options: &ArchiveOptions,
    header: &ArchiveHeader,
    file: Out<'_>,
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
    let mut blocks = Blocks {
        out: &mut out,
        is_gzip: options.compression == Compression::Gzip,
        index: IndexBuilder::new(options.compression),
        starts: HashMap::new(),
    };
    // A reader that cannot seek wants blocks in the order of the table.
    let data = with_data(&entries);
    dump.fetch(&data, Sequence::Given, (options.codec(), Framing::Chunks), |delivery| blocks.all(delivery))?;
    let Blocks { index, starts, .. } = blocks;
    if options.index {
        write_index(&mut out, &index.finish())?;
    }
    // Now that it is known where the data lies. What cannot be written again stays without: readers search then.
    if let Some(file) = out.inner.seekable() {
        let failure = |error| ToolError::output(&error);
        file.flush().map_err(failure)?;
        for (id, start) in &starts {
            let Some(place) = places.get(id) else { continue };
            let mut bytes = Vec::new();
            write_location(&mut bytes, &DataLocation::Offset(*start));
            file.seek(SeekFrom::Start(*place)).map_err(failure)?;
            file.write_all(&bytes).map_err(failure)?;
        }
    }
    Ok(())
}

/// The blocks of entries.
struct Blocks<'a, 'b> {
    out: &'a mut Counted<'b>,
    is_gzip: bool,
    index: IndexBuilder,
    starts: HashMap<DumpId, u64>,
}

impl Blocks<'_, '_> {
    fn all(&mut self, mut delivery: Delivery) -> Result<()> {
        let plan = delivery.plan();
        for entry in &plan.entries {
            self.starts.insert(entry.id, self.out.position);
            self.index.begin(entry, self.out.position);
            let is_objects = entry.kind == DataKind::LargeObjects;
            let kind = if is_objects { BlockKind::LargeObjects } else { BlockKind::Data };
            let mut start = Vec::new();
            write_block(&mut start, BlockHeader { kind, dump_id: entry.id });
            self.out.put(&start)?;
            if is_objects {
                self.objects(entry, &mut delivery)?
            } else {
                self.rows(entry, &mut delivery)?
            }
            let (bytes, rows) = self.index.totals();
            delivery.ended(entry, bytes, rows);
        }
        Ok(())
    }

    fn rows(&mut self, entry: &PlannedEntry, delivery: &mut Delivery) -> Result<()> {
        let mut stream = GzipStream::new();
        if self.is_gzip {
            self.out.put_chunks(&GzipStream::HEADER)?;
        }
        let Blocks { out, index, .. } = self;
        let mut offset = out.position;
        for _ in entry.parts.clone() {
            // What was compressed apart never shares a chunk: stock looks for a new frame only where a chunk begins.
            delivery.part(&mut |item| {
                match item {
                    Item::Bytes(bytes) => out.put_chunks(&bytes)?,
                    Item::PieceEnd(facts) => {
                        stream.join(facts.checksum, facts.plain_length);
                        index.piece(offset, out.position, &facts);
                        offset = out.position;
                    }
                    Item::LargeObject(_) | Item::LargeObjectEnd => {}
                }
                Ok(())
            })?;
        }
        if self.is_gzip {
            self.out.put_chunks(&stream.end())?;
        }
        self.out.put_end()
    }

    fn objects(&mut self, entry: &PlannedEntry, delivery: &mut Delivery) -> Result<()> {
        let Blocks { out, index, .. } = self;
        let mut offset = out.position;
        for _ in entry.parts.clone() {
            delivery.part(&mut |item| match item {
                Item::LargeObject(oid) => out.put_object(oid),
                Item::Bytes(bytes) => out.put_chunks(&bytes),
                Item::LargeObjectEnd => out.put_end(),
                Item::PieceEnd(facts) => {
                    index.piece(offset, out.position, &facts);
                    offset = out.position;
                    Ok(())
                }
            })?;
        }
        self.out.put_object(0)
    }
}

/// The index as the last block, which is found by its last chunk.
fn write_index(out: &mut Counted<'_>, index: &[u8]) -> Result<()> {
    let trailer = IndexTrailer { block: out.position, length: index.len() as u64 };
    let mut start = Vec::new();
    write_block(&mut start, BlockHeader { kind: BlockKind::Data, dump_id: INDEX_DUMP_ID });
    out.put(&start)?;
    out.put_chunks(index)?;
    out.put_chunks(&trailer.encode())?;
    out.put_end()
}

/// The file, with how much was written.
struct Counted<'a> {
    inner: Out<'a>,
    position: u64,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|error| ToolError::output(&error))
    }

    fn put_chunks(&mut self, bytes: &[u8]) -> Result<()> {
        let mut chunks = Vec::with_capacity(bytes.len() + 16);
        write_chunks(&mut chunks, bytes);
        self.put(&chunks)
    }

    fn put_end(&mut self) -> Result<()> {
        let mut end = Vec::new();
        write_chunk_end(&mut end);
        self.put(&end)
    }

    fn put_object(&mut self, oid: u32) -> Result<()> {
        let mut start = Vec::new();
        write_large_object(&mut start, oid);
        self.put(&start)
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
