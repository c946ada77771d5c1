//! Writing the header and the table of contents.
//!
//! The bytes are those that `pg_dump` of the header's version writes. A custom archive's table is written twice, before
//! the data and again when the offsets are known; both have the same length ([`DataLocation::Unknown`] takes the room of
//! an offset).

use super::decode::{MAGIC, format_number};
use super::{ArchiveFormat, ArchiveHeader, ArchiveVersion, Compression, DataLocation, Section, TocEntry};

/// Integers are written with this many bytes.
pub const INT_SIZE: u8 = 4;
/// Offsets are written with this many bytes.
pub const OFFSET_SIZE: u8 = 8;
/// Bytes of [`write_location`].
pub const LOCATION_SIZE: u64 = 9;

/// The archive's version cannot say what it was to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Only versions 1.14 to 1.16 are written.
    #[error("archives of version {0} cannot be written")]
    Version(ArchiveVersion),
    /// Versions up to 1.14 know zlib only.
    #[error("archives of version {version} cannot be compressed with {}", compression.name())]
    Compression {
        /// The version.
        version: ArchiveVersion,
        /// What it was to be compressed with.
        compression: Compression,
    },
    /// Longer than the archive's lengths can tell.
    #[error("a text of {0} bytes is too long for an archive")]
    TextTooLong(usize),
}

/// Appends the header.
///
/// # Errors
/// When the version is not one that is written, or knows no such compression.
pub fn write_header(out: &mut Vec<u8>, header: &ArchiveHeader) -> Result<(), EncodeError> {
    let version = header.version;
    if version.major != 1 || !(14..=16).contains(&version.minor) {
        return Err(EncodeError::Version(version));
    }
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[version.major, version.minor, version.revision]);
    out.extend_from_slice(&[INT_SIZE, OFFSET_SIZE, format_number(header.format)]);
    if version.is_at_least(ArchiveVersion::V1_15) {
        out.push(match header.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Lz4 => 2,
            Compression::Zstd => 3,
        });
    } else {
        let level = match header.compression {
            Compression::None => 0,
            // zlib's default.
            Compression::Gzip => header.compression_level.filter(|level| *level != 0).unwrap_or(-1),
            compression => return Err(EncodeError::Compression { version, compression }),
        };
        write_int(out, level);
    }
    let created = &header.created;
    for field in [
        created.second,
        created.minute,
        created.hour,
        created.day,
        created.month0,
        created.year_since_1900,
        created.is_dst,
    ] {
        write_int(out, field);
    }
    for text in [&header.database, &header.server_version, &header.dump_version] {
        write_text(out, text.as_deref())?;
    }
    Ok(())
}

/// Appends the number of entries; [`write_entry`] for each of them follows.
pub fn write_entry_count(out: &mut Vec<u8>, count: u32) {
    write_int(out, i32::try_from(count).unwrap_or(i32::MAX));
}

/// Appends an entry.
///
/// # Errors
/// When a text is too long.
pub fn write_entry(out: &mut Vec<u8>, header: &ArchiveHeader, entry: &TocEntry) -> Result<(), EncodeError> {
    write_id(out, entry.dump_id.0);
    write_int(out, entry.had_dumper.into());
    write_decimal(out, entry.catalog_id.table_oid)?;
    write_decimal(out, entry.catalog_id.oid)?;
    write_text(out, Some(&entry.tag))?;
    write_text(out, Some(&entry.desc))?;
    write_int(
        out,
        match entry.section {
            Section::None => 1,
            Section::PreData => 2,
            Section::Data => 3,
            Section::PostData => 4,
        },
    );
    for text in [
        &entry.definition,
        &entry.drop_statement,
        &entry.copy_statement,
        &entry.namespace,
        &entry.tablespace,
        &entry.table_access_method,
    ] {
        write_text(out, text.as_deref())?;
    }
    if header.version.is_at_least(ArchiveVersion::V1_16) {
        write_int(out, entry.relkind.into());
    }
    write_text(out, entry.owner.as_deref())?;
    write_text(out, Some(b"false"))?;
    for dependency in &entry.dependencies {
        write_decimal(out, dependency.0)?;
    }
    write_text(out, None)?;
    match (header.format, &entry.data) {
        (ArchiveFormat::Custom, location) => {
            write_location(out, location);
            Ok(())
        }
        (_, DataLocation::File(file)) => write_text(out, Some(file)),
        (_, _) => write_text(out, Some(b"")),
    }
}

/// Appends where an entry's data lies, as custom archives have it: the last field of the entry, of [`LOCATION_SIZE`] bytes.
pub fn write_location(out: &mut Vec<u8>, location: &DataLocation) {
    let (flag, offset) = match location {
        DataLocation::Unknown => (1, 0),
        DataLocation::Offset(offset) => (2, *offset),
        DataLocation::None | DataLocation::File(_) => (3, 0),
    };
    out.push(flag);
    out.extend_from_slice(&offset.to_le_bytes());
}

/// Appends an integer.
pub fn write_int(out: &mut Vec<u8>, value: i32) {
    out.push(u8::from(value < 0));
    out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
}

/// Appends a dump id or an OID as an integer. Stock reads it as a signed number and takes OIDs above 2³¹ for negative
/// ones, with the same bits; so this is the magnitude of that number with its sign.
pub fn write_id(out: &mut Vec<u8>, value: u32) {
    write_int(out, value.cast_signed());
}

/// Appends a text, or NULL.
///
/// # Errors
/// When it is too long.
pub fn write_text(out: &mut Vec<u8>, text: Option<&[u8]>) -> Result<(), EncodeError> {
    let Some(text) = text else {
        write_int(out, -1);
        return Ok(());
    };
    let length = i32::try_from(text.len()).map_err(|_| EncodeError::TextTooLong(text.len()))?;
    write_int(out, length);
    out.extend_from_slice(text);
    Ok(())
}

fn write_decimal(out: &mut Vec<u8>, value: u32) -> Result<(), EncodeError> {
    write_text(out, Some(value.to_string().as_bytes()))
}
