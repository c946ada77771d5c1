//! The tar format: the directory's files as members of a tar archive, not compressed.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use pgkeep_format::archive::directory::{
    TOC_FILE, data_file, large_object_file, large_object_line, large_object_list,
};
use pgkeep_format::archive::{ArchiveHeader, DataLocation};
use pgkeep_format::tar::{BLOCK, END_OF_ARCHIVE};

use super::{Chosen, OutputFile, write_table};
use crate::dump::Dump;
use crate::error::{LogicalError, Result};

pub(super) fn write(
    dump: &mut Dump,
    mut entries: Vec<Chosen>,
    header: &ArchiveHeader,
    file: &mut OutputFile,
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
    spooled_member(file, TOC_FILE, |spool| write_table(dump, header, &entries, spool, |_, _| ()))?;
    for chosen in &entries {
        let id = chosen.entry.dump_id;
        if !chosen.with_data || !chosen.entry.had_dumper {
            continue;
        }
        match dump.large_objects(id).map(<[u32]>::to_vec) {
            None => spooled_member(file, &data_file(id), |spool| dump.write_rows(id, spool))?,
            Some(oids) => {
                let mut list = String::new();
                for oid in oids {
                    let name = large_object_file(oid);
                    spooled_member(file, &name, |spool| dump.write_large_object(oid, spool))?;
                    list.push_str(&large_object_line(oid));
                }
                member(file, &large_object_list(id), list.as_bytes())?;
            }
        }
    }
    file.write_all(&END_OF_ARCHIVE).map_err(|error| LogicalError::output(&error))
}

fn member(out: &mut OutputFile, name: &str, bytes: &[u8]) -> Result<()> {
    let header = tar_header(name, bytes.len() as u64);
    let padding = vec![0; padding(bytes.len() as u64)];
    for part in [&header[..], bytes, &padding] {
        out.write_all(part).map_err(|error| LogicalError::output(&error))?;
    }
    Ok(())
}

/// A member's size stands in front of it, so that what is not known yet has to wait in a file.
fn spooled_member(
    out: &mut OutputFile,
    name: &str,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let failure = |error: io::Error| LogicalError::new(format!("could not use a temporary file: {error}"));
    let mut spool = io::BufWriter::new(tempfile::tempfile().map_err(failure)?);
    fill(&mut spool)?;
    let mut spool = spool.into_inner().map_err(|error| failure(error.into_error()))?;
    let size = spool.stream_position().map_err(failure)?;
    spool.seek(SeekFrom::Start(0)).map_err(failure)?;
    out.write_all(&tar_header(name, size)).map_err(|error| LogicalError::output(&error))?;
    let copied = io::copy(&mut spool.take(size), out).map_err(|error| LogicalError::output(&error))?;
    if copied != size {
        return Err(LogicalError::new("a temporary file became shorter"));
    }
    out.write_all(&vec![0; padding(size)]).map_err(|error| LogicalError::output(&error))
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
