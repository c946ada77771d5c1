//! A data directory as a source. No server may run in it, and none may have been started in it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgkeep_format::incremental_file::whole_path;
use pgkeep_format::tar::{TarEntry, TarEntryKind};

use super::chain::Chain;
use super::source::{Piece, Take};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// No cluster has directories this deep; links that lead in circles do.
const DEEPEST: usize = 32;

/// A data directory, and what may lie beside it.
#[derive(Debug)]
pub struct DirectorySource {
    directory: PathBuf,
    /// Where directories of tablespaces lie by their OIDs.
    beside: Option<PathBuf>,
    /// The backups that this one builds on.
    chain: Option<Chain>,
}

impl DirectorySource {
    /// Takes the paths.
    pub fn new(directory: &Path, beside: Option<&Path>) -> DirectorySource {
        DirectorySource { directory: directory.to_owned(), beside: beside.map(Path::to_owned), chain: None }
    }

    /// The same as the end of a chain: parts of files come out as whole ones.
    #[must_use]
    pub fn building_on(self, chain: Chain) -> DirectorySource {
        DirectorySource { chain: Some(chain), ..self }
    }

    /// Where a file of it is.
    pub fn location(&self, relative: &str) -> Result<PathBuf> {
        if let Some(rest) = relative.strip_prefix("pg_tblspc/")
            && let Some((oid, rest)) = rest.split_once('/')
            && let Ok(oid) = oid.parse::<u32>()
            && let Some((_, place)) = self.tablespaces()?.into_iter().find(|(known, _)| *known == oid)
        {
            return Ok(place.join(rest));
        }
        Ok(self.directory.join(relative))
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory above it, in Barman's layout.
    pub fn beside(&self) -> Option<&Path> {
        self.beside.as_deref()
    }

    /// Its permission bits.
    pub fn mode(&self) -> Option<u32> {
        fs::metadata(&self.directory).ok().map(|metadata| metadata.mode() & 0o7777)
    }

    /// OIDs and places of tablespaces.
    pub fn links(&self) -> Result<Vec<(u32, String)>> {
        let mut found = Vec::new();
        for (oid, path) in self.tablespaces()? {
            let place = fs::canonicalize(&path).map_err(|error| cannot_read(&path, &error))?;
            let place = place.into_os_string().into_string().map_err(|name| {
                Error::new(ErrorKind::Unsupported, "the path of a tablespace is not UTF-8")
                    .cause(name.to_string_lossy())
                    .hint("move the tablespace's directory to a plain path")
            })?;
            found.push((oid, place));
        }
        Ok(found)
    }

    /// OIDs, and paths by which the directories are reached.
    fn tablespaces(&self) -> Result<Vec<(u32, PathBuf)>> {
        let mut found: Vec<(u32, PathBuf)> = Vec::new();
        let links = self.directory.join("pg_tblspc");
        let places = [Some(links), self.beside.clone()];
        for folder in places.into_iter().flatten().filter(|folder| folder.is_dir()) {
            for name in names(&folder)? {
                let Some(oid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
                // A link into nothing: what it led to lies beside.
                let path = folder.join(&name);
                if path.is_dir() && !found.iter().any(|(known, _)| *known == oid) {
                    found.push((oid, path));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Gives out what is in it.
    pub fn read(
        &self,
        wanted: &dyn Fn(&TarEntry) -> bool,
        cancel: &Cancel,
        take: &mut Take<'_>,
    ) -> Result<()> {
        let lock = self.directory.join("postmaster.pid");
        if lock.exists() {
            return Err(Error::new(
                ErrorKind::Locked,
                format!("a server runs in `{}`, or was started there", self.directory.display()),
            )
            .cause(format!("`{}` is there", lock.display()))
            .hint("a backup in which a server ran is none any more: import one that was not touched")
            .hint("a running server is backed up with `pgkeep backup`"));
        }
        let mut walk = Walk { wanted, cancel, take, chain: self.chain.as_ref(), buffer: vec![0; CHUNK] };
        walk.directory(&self.directory, "", 0)?;
        for (oid, path) in self.tablespaces()? {
            walk.directory(&path, &format!("pg_tblspc/{oid}"), 0)?;
        }
        Ok(())
    }
}

struct Walk<'a, 't> {
    wanted: &'a dyn Fn(&TarEntry) -> bool,
    cancel: &'a Cancel,
    take: &'a mut Take<'t>,
    chain: Option<&'a Chain>,
    buffer: Vec<u8>,
}

impl Walk<'_, '_> {
    fn directory(&mut self, directory: &Path, relative: &str, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("`{}` lies too deep", directory.display()),
            )
            .hint("this is no data directory: look for links that lead in circles"));
        }
        for name in names(directory)? {
            self.cancel.check()?;
            let path = directory.join(&name);
            let text = name.to_str().ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "a file name in the backup is not UTF-8")
                    .cause(path.display())
                    .hint("PostgreSQL makes no such names in its data directory: remove the file")
            })?;
            let relative = if relative.is_empty() { text.to_owned() } else { format!("{relative}/{text}") };
            if relative == "lost+found" || relative == "backup_manifest" {
                continue;
            }
            self.entry(&path, &relative, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, relative: &str, depth: usize) -> Result<()> {
        let mut metadata = fs::symlink_metadata(path).map_err(|error| cannot_read(path, &error))?;
        let in_tablespaces = relative.strip_prefix("pg_tblspc/").is_some_and(|rest| !rest.contains('/'));
        if in_tablespaces {
            // Walked on their own.
            return Ok(());
        }
        if metadata.is_symlink() {
            if relative != "pg_wal" {
                return Err(odd(path, "it is a link"));
            }
            metadata = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
        }
        let kind = if metadata.is_dir() {
            TarEntryKind::Directory
        } else if metadata.is_file() {
            TarEntryKind::File
        } else {
            return Err(odd(path, "it is neither a file nor a directory"));
        };
        let is_file = kind == TarEntryKind::File;
        if let Some((chain, whole)) = self.chain.zip(whole_path(relative)).filter(|_| is_file) {
            return self.whole(chain, path, &whole, &metadata);
        }
        let entry = TarEntry {
            path: relative.as_bytes().to_vec(),
            kind,
            size: if is_file { metadata.len() } else { 0 },
            mode: metadata.mode() & 0o7777,
            mtime: metadata.mtime(),
            link: Vec::new(),
        };
        if (self.wanted)(&entry) {
            (self.take)(Piece::Entry(&entry))?;
            if is_file {
                self.contents(path, entry.size)?;
            }
            (self.take)(Piece::End)?;
        }
        if is_file { Ok(()) } else { self.directory(path, relative, depth + 1) }
    }

    /// A file that is put together from parts.
    fn whole(&mut self, chain: &Chain, newest: &Path, path: &str, metadata: &fs::Metadata) -> Result<()> {
        let file = chain.open(newest, path)?;
        let entry = TarEntry {
            path: path.as_bytes().to_vec(),
            kind: TarEntryKind::File,
            size: file.size(),
            mode: metadata.mode() & 0o7777,
            mtime: metadata.mtime(),
            link: Vec::new(),
        };
        if !(self.wanted)(&entry) {
            return Ok(());
        }
        let (take, cancel) = (&mut self.take, self.cancel);
        take(Piece::Entry(&entry))?;
        file.read(&mut |bytes| {
            cancel.check()?;
            take(Piece::Data(bytes))
        })?;
        take(Piece::End)
    }

    fn contents(&mut self, path: &Path, size: u64) -> Result<()> {
        let mut file = File::open(path).map_err(|error| cannot_read(path, &error))?;
        let mut left = size;
        while left > 0 {
            self.cancel.check()?;
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let count = match file.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(odd(path, "it became shorter while it was read")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cannot_read(path, &error)),
            };
            (self.take)(Piece::Data(&self.buffer[..count]))?;
            left -= count as u64;
        }
        Ok(())
    }
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Result<Vec<OsString>> {
    let read = || -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let mut names = read().map_err(|error| cannot_read(directory, &error))?;
    names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

fn odd(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("`{}` does not belong into a base backup", path.display()))
        .cause(what)
        .hint("is this a backup that nobody touched? import a copy without it if it is of no use")
}

/// A source that cannot be read.
pub fn cannot_read(path: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Config,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, format!("cannot read `{}`", path.display()))
        .caused_by(error)
        .hint("check the path, and run pgkeep as a user who may read it")
}
