//! The tar format: the directory's files as members of a tar archive, not compressed.

use std::io::{self, Read, Seek, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use pgkeep_format::archive::directory::{
    TOC_FILE, data_file, large_object_file, large_object_line, large_object_list,
};
use pgkeep_format::archive::{ArchiveHeader, Compression, DataKind, DataLocation, INDEX_FILE};
use pgkeep_format::tar::{BLOCK, END_OF_ARCHIVE};
use pgkeep_tool::compress::{Codec, Framing};
use pgkeep_tool::{Result, ToolError, system_text};
use tempfile::SpooledTempFile;

use super::indexing::IndexBuilder;
use super::output_file::Out;
use super::{ArchiveOptions, Chosen, with_data, write_table};
use crate::dump::Dump;
use crate::dump::fetch::{Delivery, Item, PlannedEntry, Sequence};

/// Bytes of a member that wait in memory.
const IN_MEMORY: usize = 4 << 20;

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    options: &ArchiveOptions,
    header: &ArchiveHeader,
    mut file: Out<'_>,
) -> Result<()> {
    for chosen in &mut entries {
        let entry = &mut chosen.entry;
        if entry.had_dumper {
            let name = match dump.large_objects(entry.dump_id) {
                Some(_) => large_object_list(entry.dump_id),
                None => data_file(entry.dump_id),
            };
            entry.data = DataLocation::File(name.as_str().into());
        }
    }
    spooled_member(&mut file, TOC_FILE, |spool| write_table(dump, header, &entries, spool, |_, _| ()))?;
    let data = with_data(&entries);
    let codec = (Codec::default(), Framing::File);
    let mut members = Members { out: &mut file, index: IndexBuilder::new(Compression::None) };
    dump.fetch(&data, Sequence::Given, codec, |delivery| members.all(delivery))?;
    let index = members.index.finish();
    if options.index {
        member(&mut file, INDEX_FILE, &index)?;
    }
    file.write_all(&END_OF_ARCHIVE).map_err(|error| ToolError::output(&error))
}

/// The members of entries.
struct Members<'a, 'b> {
    out: &'a mut Out<'b>,
    index: IndexBuilder,
}

impl Members<'_, '_> {
    fn all(&mut self, mut delivery: Delivery) -> Result<()> {
        let plan = delivery.plan();
        for entry in &plan.entries {
            self.index.begin(entry, 0);
            if entry.kind == DataKind::LargeObjects {
                self.objects(entry, &mut delivery)?;
            } else {
                self.rows(entry, &mut delivery)?;
            }
            let (bytes, rows) = self.index.totals();
            delivery.ended(entry, bytes, rows);
        }
        Ok(())
    }

    fn rows(&mut self, entry: &PlannedEntry, delivery: &mut Delivery) -> Result<()> {
        let index = &mut self.index;
        spooled_member(self.out, &data_file(entry.id), |spool| {
            let mut position = 0;
            let mut offset = 0;
            for _ in entry.parts.clone() {
                delivery.part(&mut |item| {
                    match item {
                        Item::Bytes(bytes) => {
                            position += bytes.len() as u64;
                            spool.write_all(&bytes).map_err(|error| spool_error(&error))?;
                        }
                        Item::PieceEnd(facts) => {
                            index.piece(offset, position, &facts);
                            offset = position;
                        }
                        Item::LargeObject(_) | Item::LargeObjectEnd => {}
                    }
                    Ok(())
                })?;
            }
            Ok(())
        })
    }

    fn objects(&mut self, entry: &PlannedEntry, delivery: &mut Delivery) -> Result<()> {
        let mut list = String::new();
        for _ in entry.parts.clone() {
            let mut open: Option<(u32, SpooledTempFile)> = None;
            delivery.part(&mut |item| match (item, &mut open) {
                (Item::LargeObject(oid), open) => {
                    *open = Some((oid, tempfile::spooled_tempfile(IN_MEMORY)));
                    Ok(())
                }
                (Item::Bytes(bytes), Some((_, spool))) => {
                    spool.write_all(&bytes).map_err(|error| spool_error(&error))
                }
                (Item::Bytes(_), None) => Ok(()),
                (Item::LargeObjectEnd, open) => {
                    let Some((oid, spool)) = open.take() else { return Ok(()) };
                    list.push_str(&large_object_line(oid));
                    put_spooled(self.out, &large_object_file(oid), spool)
                }
                (Item::PieceEnd(facts), _) => {
                    self.index.piece(0, 0, &facts);
                    Ok(())
                }
            })?;
        }
        member(self.out, &large_object_list(entry.id), list.as_bytes())
    }
}

fn member(out: &mut Out<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let header = tar_header(name, bytes.len() as u64);
    let padding = vec![0; padding(bytes.len() as u64)];
    for part in [&header[..], bytes, &padding] {
        out.write_all(part).map_err(|error| ToolError::output(&error))?;
    }
    Ok(())
}

/// A member's size stands in front of it, so that what is not known yet has to wait, in a file when there is much of it.
fn spooled_member(
    out: &mut Out<'_>,
    name: &str,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let mut spool = tempfile::spooled_tempfile(IN_MEMORY);
    fill(&mut spool)?;
    put_spooled(out, name, spool)
}

fn put_spooled(out: &mut Out<'_>, name: &str, mut spool: SpooledTempFile) -> Result<()> {
    let size = spool.stream_position().map_err(|error| spool_error(&error))?;
    spool.rewind().map_err(|error| spool_error(&error))?;
    out.write_all(&tar_header(name, size)).map_err(|error| ToolError::output(&error))?;
    let mut left = size;
    let mut buffer = vec![0; 128 << 10];
    while left > 0 {
        let read = spool.read(&mut buffer).map_err(|error| spool_error(&error))?;
        if read == 0 {
            return Err(ToolError::new("a temporary file became shorter"));
        }
        left = left.saturating_sub(read as u64);
        out.write_all(&buffer[..read]).map_err(|error| ToolError::output(&error))?;
    }
    out.write_all(&vec![0; padding(size)]).map_err(|error| ToolError::output(&error))
}

fn spool_error(error: &io::Error) -> ToolError {
    ToolError::new(format!("could not use a temporary file: {}", system_text(error)))
        .hint("free space in the temporary folder, or choose another format")
}

fn padding(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// A ustar header as stock's: owner `postgres`, mode 0600.
fn tar_header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes().get(..99.min(name.len())).unwrap_or_default());
    put(100, b"0000600 ");
    put(108, b"0004000 ");
    put(116, b"0002000 ");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    put(124, &number(size));
    put(136, &number(now));
    // The sum is taken with spaces in its own place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(265, b"postgres");
    put(297, b"postgres");
    put(329, b"0000000 ");
    put(337, b"0000000 ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Twelve bytes: octal digits, or a binary number where these do not do (8 GiB and more).
fn number(value: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if value < 1 << 33 {
        field.copy_from_slice(format!("{value:011o} ").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(&number(0o1234), b"00000001234 ");
        assert_eq!(number(1 << 33), [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn padding_fills_blocks() {
        assert_eq!((padding(0), padding(1), padding(512)), (0, 511, 0));
    }
}
