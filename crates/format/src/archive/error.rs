//! What can be wrong with an archive.

use std::io;

use super::ArchiveVersion;

/// Bytes that are no archive, or one that cannot be read. Positions are bytes from the start of the archive (of
/// `toc.dat` in directories and tar files).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The first bytes are not those of an archive.
    #[error("did not find magic string in file header")]
    NotAnArchive,
    /// A layout that is newer, or older than any still in use.
    #[error("unsupported version ({}.{}) in file header", .0.major, .0.minor)]
    UnsupportedVersion(ArchiveVersion),
    /// Integers of an impossible size.
    #[error("sanity check on integer size ({0}) failed")]
    IntegerSize(u8),
    /// The header names another format than the one that was expected.
    #[error("expected format ({expected}) differs from format found in file ({found})")]
    Format {
        /// The number of the format that was expected.
        expected: u8,
        /// The number in the header.
        found: u8,
    },
    /// A codec that nobody knows.
    #[error("unknown compression algorithm ({0}) in file header")]
    Compression(u8),
    /// A number that does not fit its place.
    #[error("number out of range at byte {position} of the archive -- perhaps a corrupt TOC")]
    Number {
        /// Behind the number.
        position: u64,
    },
    /// A text that is too long to be one, or NULL where none can be.
    #[error("invalid {what} at byte {position} of the archive -- perhaps a corrupt TOC")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Behind the value.
        position: u64,
    },
    /// An entry's number is not above 0.
    #[error("entry ID {0} out of range -- perhaps a corrupt TOC")]
    DumpId(i64),
    /// A block of data is of no known type.
    #[error("unrecognized data block type ({block_type}) at byte {position} while searching archive")]
    BlockType {
        /// What was found.
        block_type: u8,
        /// Where.
        position: u64,
    },
    /// The archive ends too early.
    #[error("could not read from input file: end of file at byte {position}")]
    Truncated {
        /// The length of what is there.
        position: u64,
    },
    /// Reading failed.
    #[error("could not read from input file: {source}")]
    Read {
        /// Where.
        position: u64,
        /// The system's error.
        source: io::Error,
    },
    /// A line of a list of large objects that is none.
    #[error("invalid line {line} in large object TOC file")]
    LargeObjectLine {
        /// From 1.
        line: u64,
    },
}
