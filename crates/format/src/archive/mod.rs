//! Archives of `pg_dump`: what one says (this model), and the codec between the model and bytes.
//!
//! An archive is a [header](ArchiveHeader), a table of contents (a list of [`TocEntry`]), and data: one piece for each
//! entry that has a dumper. Custom, directory and tar archives share header and table; they differ in where the data
//! lies. Plain dumps are text and no archives.
//!
//! Names, definitions and owners are [`Text`]: bytes as the database has them, since a database in `SQL_ASCII` holds
//! what is not UTF-8. NULL and the empty text differ everywhere: an entry's tablespace is NULL where tablespaces do not
//! apply and empty for the database's default one.
//!
//! Mirrors `src/bin/pg_dump/pg_backup_archiver.{h,c}` and `pg_backup_{custom,directory,tar}.c` of PostgreSQL 18; versions
//! of the archive from 1.12 (PostgreSQL 9.0) to 1.16 (17 and 18) are known.

mod blocks;
mod decode;
pub mod directory;
mod encode;
mod entry;
mod error;
mod header;
#[cfg(test)]
mod tests;
mod text;

pub use blocks::{
    BlockHeader, BlockKind, ChunkReader, write_block, write_chunk_end, write_chunks, write_large_object,
};
pub use decode::{ArchiveDecoder, MAGIC, MAX_TEXT_LENGTH};
pub use encode::{
    EncodeError, INT_SIZE, LOCATION_SIZE, OFFSET_SIZE, write_entry, write_entry_count, write_header,
    write_int, write_location, write_text,
};
pub use entry::{CatalogId, DataLocation, DumpId, Section, TocEntry};
pub use error::ArchiveError;
pub use header::{ArchiveFormat, ArchiveHeader, ArchiveVersion, Compression, LocalTime};
pub use text::Text;
