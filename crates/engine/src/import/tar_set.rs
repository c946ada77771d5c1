//! Tar files as a source: `base.tar`, one named by its OID for each tablespace, `pg_wal.tar`, in any compression.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use pgkeep_format::tar::{TarEntry, TarEvent, TarReader};

use super::compressed;
use super::directory::{cannot_read, names};
use super::source::{Part, Piece, Take};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// The archives of one backup.
#[derive(Debug)]
pub struct TarSet {
    directory: PathBuf,
    archives: Vec<Archive>,
}

#[derive(Debug)]
struct Archive {
    path: PathBuf,
    /// What its names are relative to.
    prefix: String,
    size: u64,
    is_compressed: bool,
}

impl TarSet {
    /// Looks for archives; none where there is no `base.tar`.
    pub fn find(directory: &Path) -> Result<Option<TarSet>> {
        let mut archives = Vec::new();
        for name in names(directory)? {
            let Some(name) = name.to_str() else { continue };
            let plain = compressed::plain_name(name);
            let Some(stem) = plain.strip_suffix(".tar") else { continue };
            let prefix = match stem {
                "base" => String::new(),
                "pg_wal" => "pg_wal/".to_owned(),
                oid => match oid.parse::<u32>() {
                    Ok(oid) => format!("pg_tblspc/{oid}/"),
                    Err(_) => continue,
                },
            };
            let path = directory.join(name);
            let size = fs::metadata(&path).map_err(|error| cannot_read(&path, &error))?.len();
            if let Some(other) = archives.iter().find(|other: &&Archive| other.prefix == prefix) {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("both `{}` and `{}` are there", other.path.display(), path.display()),
                )
                .hint("leave one of them in the directory"));
            }
            archives.push(Archive { path, prefix, size, is_compressed: plain != name });
        }
        let has_base = archives.iter().any(|archive| archive.prefix.is_empty());
        // WAL first: what is wrong with it is told before all else is read.
        archives.sort_by_key(|archive| (archive.prefix != "pg_wal/", archive.prefix.clone()));
        Ok(has_base.then(|| TarSet { directory: directory.to_owned(), archives }))
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of all archives, where none is compressed.
    pub fn plain_bytes(&self) -> Option<u64> {
        self.archives.iter().map(|archive| (!archive.is_compressed).then_some(archive.size)).sum()
    }

    /// Gives out what is in them, or in those in which that part is.
    pub fn read(
        &self,
        part: Part,
        wanted: &dyn Fn(&TarEntry) -> bool,
        cancel: &Cancel,
        take: &mut Take<'_>,
    ) -> Result<()> {
        let has_wal = self.archives.iter().any(|archive| archive.prefix == "pg_wal/");
        let prefix = match part {
            Part::All => None,
            Part::Wal if has_wal => Some("pg_wal/"),
            Part::Base | Part::Wal => Some(""),
        };
        let archives =
            self.archives.iter().filter(|archive| prefix.is_none_or(|prefix| archive.prefix == prefix));
        archives.into_iter().try_for_each(|archive| archive.read(wanted, cancel, take))
    }
}

impl Archive {
    fn read(&self, wanted: &dyn Fn(&TarEntry) -> bool, cancel: &Cancel, take: &mut Take<'_>) -> Result<()> {
        let mut input = compressed::open(&self.path).map_err(|error| cannot_read(&self.path, &error))?;
        let mut reader = TarReader::new();
        let mut buffer = vec![0; CHUNK];
        let mut is_wanted = false;
        loop {
            cancel.check()?;
            let count = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // Most often a decompressor that found damage.
                Err(error) => return Err(self.broken(&error)),
            };
            let mut rest = &buffer[..count];
            while let Some(event) = reader.next(&mut rest).map_err(|error| self.broken(&error))? {
                match event {
                    TarEvent::Entry(mut entry) => {
                        if !self.prefix.is_empty() {
                            entry.path = [self.prefix.as_bytes(), &entry.path].concat();
                        }
                        is_wanted = entry.path != b"." && !entry.path.ends_with(b"/.") && wanted(&entry);
                        if is_wanted {
                            take(Piece::Entry(&entry))?;
                        }
                    }
                    TarEvent::Data(data) if is_wanted => take(Piece::Data(data))?,
                    TarEvent::EndOfEntry if is_wanted => take(Piece::End)?,
                    TarEvent::Data(_) | TarEvent::EndOfEntry => {}
                }
            }
        }
        reader.finish().map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        Error::new(ErrorKind::Corrupt, format!("`{}` is damaged or cut off", self.path.display()))
            .caused_by(error)
            .hint("get another copy of it; nothing was listed as a backup")
    }
}
