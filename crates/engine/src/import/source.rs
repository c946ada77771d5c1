//! What is imported: a data directory as `pg_basebackup` leaves it, a set of tar files, or Barman's layout.
//!
//! Whatever it is, it is read as one stream of entries with paths relative to the data directory, those of tablespaces below
//! `pg_tblspc/<oid>/`: once for the few files that say what the backup is, and once for all of it. Nothing in it is trusted:
//! names in archives are checked by `TarReader`, links are followed only where a cluster has links.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgkeep_format::tar::TarEntry;

use super::directory::{DirectorySource, cannot_read};
use super::tar_set::TarSet;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Something of the stream.
#[derive(Debug)]
pub enum Piece<'a> {
    /// An entry begins; its path is relative to the data directory.
    Entry(&'a TarEntry),
    /// The next bytes of the file.
    Data(&'a [u8]),
    /// The entry is complete.
    End,
}

/// How much of a source is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// Where the files of the data directory are.
    Base,
    /// Where WAL is.
    Wal,
}

/// Takes the pieces.
pub type Take<'t> = dyn FnMut(Piece<'_>) -> Result<()> + 't;

/// A backup that somebody else made.
#[derive(Debug)]
pub enum Source {
    /// A data directory.
    Directory(DirectorySource),
    /// Tar files.
    Tar(TarSet),
}

impl Source {
    /// Looks at what is there.
    ///
    /// # Errors
    /// Where it is nothing that can be imported.
    pub fn open(path: &Path) -> Result<Source> {
        let is_file = |name: &str| path.join(name).is_file();
        fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
        if is_file("PG_VERSION") {
            return Ok(Source::Directory(DirectorySource::new(path, None)));
        }
        // Barman: the tablespaces lie beside the data directory, by their OIDs.
        if path.join("data/PG_VERSION").is_file() {
            return Ok(Source::Directory(DirectorySource::new(&path.join("data"), Some(path))));
        }
        if let Some(set) = TarSet::find(path)? {
            return Ok(Source::Tar(set));
        }
        Err(Error::new(ErrorKind::NotFound, format!("`{}` is no base backup", path.display()))
            .cause("it holds neither `PG_VERSION` nor `base.tar`")
            .hint("name the directory that pg_basebackup wrote (`-D`), or Barman's `base/<id>`")
            .hint("for a folder with nothing but WAL: `pgkeep wal import DIR`"))
    }

    /// What it is, in words.
    pub fn describe(&self) -> String {
        match self {
            Source::Directory(source) => format!("the directory `{}`", source.directory().display()),
            Source::Tar(set) => format!("the tar files in `{}`", set.directory().display()),
        }
    }

    /// Where the manifest lies, if there is one.
    pub fn manifest_path(&self) -> PathBuf {
        match self {
            Source::Directory(source) => source.directory().join("backup_manifest"),
            Source::Tar(set) => set.directory().join("backup_manifest"),
        }
    }

    /// Barman's note beside the backup, where it is there.
    pub fn note_path(&self) -> Option<PathBuf> {
        match self {
            Source::Directory(source) => source.beside().map(|beside| beside.join("backup.info")),
            Source::Tar(set) => Some(set.directory().join("backup.info")),
        }
    }

    /// Gives out all entries for which `wanted` says so, in an order of the source's own.
    ///
    /// # Errors
    /// When it cannot be read, is not what it should be, or `take` fails.
    pub fn read(
        &self,
        part: Part,
        wanted: &dyn Fn(&TarEntry) -> bool,
        cancel: &Cancel,
        take: &mut Take<'_>,
    ) -> Result<()> {
        match self {
            Source::Directory(source) => source.read(wanted, cancel, take),
            Source::Tar(set) => set.read(part, wanted, cancel, take),
        }
    }

    /// Bytes of what will be read, where that is known beforehand.
    pub fn size_bytes(&self) -> Option<u64> {
        match self {
            Source::Directory(_) => None,
            Source::Tar(set) => set.plain_bytes(),
        }
    }

    /// Permission bits of the data directory, where the source has them.
    pub fn directory_mode(&self) -> Option<u32> {
        match self {
            Source::Directory(source) => source.mode(),
            Source::Tar(_) => None,
        }
    }

    /// Places of tablespaces that the source's own links give.
    pub fn links(&self) -> Result<Vec<(u32, String)>> {
        match self {
            Source::Directory(source) => source.links(),
            Source::Tar(_) => Ok(Vec::new()),
        }
    }
}

/// Reads a small file whole; none where it is not there.
pub fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(path, &error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(path, &error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::Corrupt, format!("`{}` is far too large", path.display()))
            .hint("this is not what its name says: look at it"));
    }
    Ok(Some(bytes))
}
