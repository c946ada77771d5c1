//! The header of an archive: versions, origin, time, format and compression.

use std::fmt;

use super::Text;

/// The version of an archive's layout, not of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveVersion {
    /// 1.
    pub major: u8,
    /// 12 to 16 can be read, 14 to 16 written.
    pub minor: u8,
    /// Plays no part.
    pub revision: u8,
}

impl ArchiveVersion {
    /// PostgreSQL 9.0 to 10.2: the oldest that is read.
    pub const V1_12: ArchiveVersion = ArchiveVersion::of(12);
    /// PostgreSQL 10.3 and 11: an entry sets the search path.
    pub const V1_13: ArchiveVersion = ArchiveVersion::of(13);
    /// PostgreSQL 12 to 15: table access methods. The oldest that is written.
    pub const V1_14: ArchiveVersion = ArchiveVersion::of(14);
    /// PostgreSQL 16: the header names the compression.
    pub const V1_15: ArchiveVersion = ArchiveVersion::of(15);
    /// PostgreSQL 17 and 18: kinds of relations, large objects in groups.
    pub const V1_16: ArchiveVersion = ArchiveVersion::of(16);

    const fn of(minor: u8) -> ArchiveVersion {
        ArchiveVersion { major: 1, minor, revision: 0 }
    }

    /// Whether this is `other` or later, whatever the revisions.
    #[must_use]
    pub fn is_at_least(self, other: ArchiveVersion) -> bool {
        (self.major, self.minor) >= (other.major, other.minor)
    }
}

impl fmt::Display for ArchiveVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-{}", self.major, self.minor, self.revision)
    }
}

/// How an archive is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFormat {
    /// One file: the table, then blocks of data.
    Custom,
    /// A directory: `toc.dat` and a file for each piece of data. Its header calls itself a tar archive.
    Directory,
    /// A tar file with the directory's files as members.
    Tar,
}

/// How the data of an archive is compressed. The table never is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// zlib streams in custom archives, gzip files in directories.
    Gzip,
    /// LZ4 frames.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// As `pg_restore -l` writes it, and as `pg_dump -Z` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// What the names of files end with that are compressed so: of a directory's data, tar archives, WAL.
    #[must_use]
    pub fn file_suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Lz4 => ".lz4",
            Compression::Zstd => ".zst",
        }
    }
}

/// A local time of the machine that dumped, in the fields of C's `struct tm`. Without a zone; fields may lie out of range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct LocalTime {
    /// 0 to 60.
    pub second: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 to 11.
    pub month0: i32,
    /// Years since 1900.
    pub year_since_1900: i32,
    /// 1 in summer time, 0 otherwise, −1 not known.
    pub is_dst: i32,
}

/// What an archive says of itself before its table of contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveHeader {
    /// Of the layout.
    pub version: ArchiveVersion,
    /// Bytes of a number's magnitude: 4.
    pub int_size: u8,
    /// Bytes of an offset: 8.
    pub offset_size: u8,
    /// Where the data lies.
    pub format: ArchiveFormat,
    /// Of the data.
    pub compression: Compression,
    /// Up to version 1.14: zlib's level, 0 for none, −1 for its default. Later versions do not keep it (`None`).
    pub compression_level: Option<i32>,
    /// When the dump began.
    pub created: LocalTime,
    /// The database's name.
    pub database: Option<Text>,
    /// The dumped server's version, such as `18.6`.
    pub server_version: Option<Text>,
    /// The version of the program that dumped, such as `15.20 (Debian 15.20-0+deb12u1)`.
    pub dump_version: Option<Text>,
}
