//! The archives of a backup in tar format: which files of a directory they are, and reading them.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use pgkeep_format::archive::Compression;
use pgkeep_tool::compress::{Framing, reader};

/// What an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ArchiveContents {
    /// The data directory.
    Base,
    /// WAL that was streamed beside the backup.
    Wal,
    /// The tablespace with that OID.
    Tablespace(u32),
}

/// What the name of a file says that it is; none when it is no archive of a backup.
pub(crate) fn archive_of_name(name: &str) -> Option<(ArchiveContents, Compression)> {
    let (stem, suffix) = name.split_at(name.find('.')?);
    let contents = match stem {
        "base" => ArchiveContents::Base,
        "pg_wal" => ArchiveContents::Wal,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            ArchiveContents::Tablespace(digits.parse().ok().filter(|oid| *oid > 0)?)
        }
        _ => return None,
    };
    let compression = match suffix {
        ".tar" => Compression::None,
        ".tgz" | ".tar.gz" => Compression::Gzip,
        ".tar.lz4" => Compression::Lz4,
        ".tar.zst" => Compression::Zstd,
        _ => return None,
    };
    Some((contents, compression))
}

/// Opens an archive; what is read from it is plain tar. `count` is told how many bytes of the file were read.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn open<'a>(
    path: &Path,
    compression: Compression,
    count: impl FnMut(u64) + Send + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    let counted = Counted { file: File::open(path)?, count };
    reader(BufReader::with_capacity(256 << 10, counted), compression, Framing::File)
}

struct Counted<C> {
    file: File,
    count: C,
}

impl<C: FnMut(u64)> Read for Counted<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        (self.count)(length as u64);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        use ArchiveContents as A;
        for (name, expected) in [
            ("base.tar", Some((A::Base, Compression::None))),
            ("base.tgz", Some((A::Base, Compression::Gzip))),
            ("16384.tar.gz", Some((A::Tablespace(16_384), Compression::Gzip))),
            ("pg_wal.tar.lz4", Some((A::Wal, Compression::Lz4))),
            ("4294967295.tar.zst", Some((A::Tablespace(u32::MAX), Compression::Zstd))),
            ("4294967296.tar", None),
            ("0.tar", None),
            (".tar", None),
            ("base", None),
            ("basement.tar", None),
            ("base.tar.xz", None),
            ("backup_manifest", None),
        ] {
            assert_eq!(archive_of_name(name), expected, "{name}");
        }
    }
}
