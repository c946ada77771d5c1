//! Names of the files of a directory or tar archive, and the lists of large objects in them.
//!
//! Names come out of archives and are hostile: only plain names are accepted, which cannot lead anywhere else.

use super::{ArchiveError, DumpId};

/// The table of contents.
pub const TOC_FILE: &str = "toc.dat";
/// The script in tar archives, for people.
pub const RESTORE_SCRIPT: &str = "restore.sql";

/// The file with the rows of an entry, without compression suffix.
#[must_use]
pub fn data_file(dump_id: DumpId) -> String {
    format!("{dump_id}.dat")
}

/// The file of a large object, without compression suffix.
#[must_use]
pub fn large_object_file(oid: u32) -> String {
    format!("blob_{oid}.dat")
}

/// The list of the large objects of an entry.
#[must_use]
pub fn large_object_list(dump_id: DumpId) -> String {
    format!("blobs_{dump_id}.toc")
}

/// The list of all large objects in archives up to 1.15.
pub const LARGE_OBJECT_LIST_OF_OLD: &str = "blobs.toc";

/// A line of a list of large objects.
#[must_use]
pub fn large_object_line(oid: u32) -> String {
    format!("{oid} {}\n", large_object_file(oid))
}

/// Reads a line of a list of large objects, without its line end: OID and file name.
///
/// # Errors
/// When the line is none, or the name is not plain.
pub fn parse_large_object_line(line: &[u8], number: u64) -> Result<(u32, &[u8]), ArchiveError> {
    let invalid = || ArchiveError::LargeObjectLine { line: number };
    let space = line.iter().position(|byte| *byte == b' ').ok_or_else(invalid)?;
    let (oid, name) = line.split_at_checked(space).ok_or_else(invalid)?;
    let name = name.strip_prefix(b" ").ok_or_else(invalid)?;
    let oid = std::str::from_utf8(oid).ok().and_then(|oid| oid.parse::<u32>().ok()).filter(|oid| *oid != 0);
    let oid = oid.ok_or_else(invalid)?;
    if !is_plain_file_name(name) {
        return Err(invalid());
    }
    Ok((oid, name))
}

/// Whether a name out of an archive names a file beside `toc.dat` and nothing else.
#[must_use]
pub fn is_plain_file_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0))
}
