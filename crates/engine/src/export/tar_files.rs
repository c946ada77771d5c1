//! An export as tar files: `base.tar`, one named by its OID for each tablespace, and `pg_wal.tar`.
//!
//! Files come sorted by path, so that those of a tablespace follow each other: two archives are open at most, and the WAL's
//! at the end. Each is written beside its name and renamed when all are durable.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pgkeep_format::tar::{END_OF_ARCHIVE, TarEntry, TarEntryKind, padding_of};
use pgkeep_repo::ManifestHeader;
use pgkeep_tool::compress::{Codec, Compressor, Framing};

use super::plain::{empty, put_manifest};
use super::target::Member;
use super::{ExportRequest, ExportWal};
use crate::error::{Error, ErrorKind, Result};
use crate::restore::layout::Layout;
use crate::restore::marker::sync_directory;
use crate::restore::write::cannot_write;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Which archive a member belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Base,
    Tablespace(u32),
    Wal,
}

/// The archives.
#[derive(Debug)]
pub struct TarTarget {
    directory: PathBuf,
    existed: bool,
    codec: Codec,
    separate_wal: bool,
    places: Vec<(u32, PathBuf)>,
    base: Option<Archive>,
    /// The tablespace or the WAL that is being written.
    other: Option<(Part, Archive)>,
    /// The part of the open member, and the padding that follows it.
    current: Option<(Part, u64)>,
    /// Finished, under their provisional names: these are the final ones.
    done: Vec<String>,
    written_bytes: u64,
}

/// One archive.
#[derive(Debug)]
struct Archive {
    name: String,
    path: PathBuf,
    out: Compressor<BufWriter<File>>,
}

impl TarTarget {
    /// Looks at the directory and makes it.
    pub fn prepare(request: &ExportRequest, header: &ManifestHeader) -> Result<TarTarget> {
        let directory = std::path::absolute(&request.destination).map_err(|error| {
            Error::new(ErrorKind::Usage, "the destination is not a path")
                .caused_by(&error)
                .hint("give a directory")
        })?;
        let existed = inspect(&directory)?;
        let layout = Layout::new(&directory, &header.tablespaces, &request.tablespace_map)?;
        if !existed {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|error| cannot_write(&directory, &error))?;
        }
        let mut target = TarTarget {
            directory,
            existed,
            codec: request.compression,
            separate_wal: request.wal == ExportWal::Stream,
            places: layout.tablespaces.iter().map(|space| (space.oid, space.target.clone())).collect(),
            base: None,
            other: None,
            current: None,
            done: Vec::new(),
            written_bytes: 0,
        };
        match target.open("base") {
            Ok(archive) => target.base = Some(archive),
            Err(error) => {
                target.remove();
                return Err(error);
            }
        }
        Ok(target)
    }

    fn open(&self, stem: &str) -> Result<Archive> {
        let name = format!("{stem}.tar{}", self.codec.compression.file_suffix());
        let path = self.directory.join(format!("{name}.tmp"));
        let open = || -> io::Result<Compressor<BufWriter<File>>> {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            Compressor::new(BufWriter::with_capacity(256 << 10, file), self.codec, Framing::File)
        };
        let out = open().map_err(|error| cannot_write(&path, &error))?;
        Ok(Archive { name, path, out })
    }

    /// The part that a path belongs to, and its name there.
    fn part_of<'p>(&self, path: &'p [u8]) -> (Part, &'p [u8]) {
        if let Some(rest) = path.strip_prefix(b"pg_tblspc/")
            && let Some(slash) = rest.iter().position(|byte| *byte == b'/')
            && let Some(oid) =
                rest.get(..slash).and_then(|oid| std::str::from_utf8(oid).ok()?.parse::<u32>().ok())
            && self.places.iter().any(|(known, _)| *known == oid)
        {
            return (Part::Tablespace(oid), rest.get(slash + 1..).unwrap_or_default());
        }
        match path.strip_prefix(b"pg_wal/") {
            Some(rest) if self.separate_wal && rest != b"archive_status" && rest != b"summaries" => {
                (Part::Wal, rest)
            }
            _ => (Part::Base, path),
        }
    }

    /// The archive of a part, begun where it is not yet.
    fn archive(&mut self, part: Part) -> Result<&mut Archive> {
        if part != Part::Base && self.other.as_ref().is_none_or(|(open, _)| *open != part) {
            if let Some((_, archive)) = self.other.take() {
                self.close(archive)?;
            }
            let archive = self.open(&match part {
                Part::Tablespace(oid) => oid.to_string(),
                Part::Wal | Part::Base => "pg_wal".to_owned(),
            })?;
            self.other = Some((part, archive));
        }
        let archive = match part {
            Part::Base => self.base.as_mut(),
            Part::Tablespace(_) | Part::Wal => self.other.as_mut().map(|(_, archive)| archive),
        };
        archive.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "a member came after the end of its archive")
                .hint("this is a defect of pgkeep: report it")
        })
    }

    fn close(&mut self, archive: Archive) -> Result<()> {
        let Archive { name, path, mut out } = archive;
        let mut finish = || -> io::Result<()> { out.write_all(&END_OF_ARCHIVE) };
        finish().map_err(|error| cannot_write(&path, &error))?;
        let ended = || -> io::Result<u64> {
            let file = out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        };
        self.written_bytes += ended().map_err(|error| cannot_write(&path, &error))?;
        self.done.push(name);
        Ok(())
    }

    /// Adds a directory.
    pub fn directory_entry(&mut self, member: &Member) -> Result<()> {
        self.put(member, TarEntryKind::Directory, Vec::new())
    }

    /// Adds a file, whose bytes follow.
    pub fn begin(&mut self, member: &Member) -> Result<()> {
        self.put(member, TarEntryKind::File, Vec::new())
    }

    fn put(&mut self, member: &Member, kind: TarEntryKind, link: Vec<u8>) -> Result<()> {
        self.end_member()?;
        let (part, name) = self.part_of(&member.path);
        let entry = TarEntry {
            path: name.to_vec(),
            kind,
            size: if kind == TarEntryKind::File { member.size } else { 0 },
            mode: member.mode,
            // A time before 1970 has no place in a header.
            mtime: member.modified.max(0),
            link,
        };
        let header = entry.header().map_err(|error| {
            Error::new(ErrorKind::Unsupported, "a file of the backup cannot be put into a tar archive")
                .caused_by(&error)
                .hint("export it as a directory: `--format plain`")
        })?;
        self.write(part, &header)?;
        if kind == TarEntryKind::File {
            self.current = Some((part, padding_of(member.size)));
        }
        Ok(())
    }

    fn end_member(&mut self) -> Result<()> {
        let Some((part, padding)) = self.current.take() else { return Ok(()) };
        // Less than a block.
        self.write(part, ZEROS.get(..padding as usize).unwrap_or_default())
    }

    fn write(&mut self, part: Part, bytes: &[u8]) -> Result<()> {
        let archive = self.archive(part)?;
        archive.out.write_all(bytes).map_err(|error| cannot_write(&archive.path, &error))
    }

    /// The next bytes of the file that began last.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        match self.current {
            Some((part, _)) => self.write(part, bytes),
            None => Ok(()),
        }
    }

    /// So many zero bytes of it.
    pub fn zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            // At most the array's length.
            let now = count.min(ZEROS.len() as u64) as usize;
            self.bytes(ZEROS.get(..now).unwrap_or_default())?;
            count -= now as u64;
        }
        Ok(())
    }

    /// The links in `pg_tblspc`, to where the tablespaces were or are to be.
    pub fn link_tablespaces(&mut self, modified: i64) -> Result<()> {
        for (oid, target) in self.places.clone() {
            let path = format!("pg_tblspc/{oid}").into_bytes();
            let member = Member { path, mode: 0o777, modified, size: 0 };
            self.put(&member, TarEntryKind::Symlink, target.into_os_string().into_encoded_bytes())?;
        }
        Ok(())
    }

    /// Ends the archives, and gives all files their names.
    pub fn finish(&mut self, manifest: &[u8]) -> Result<()> {
        self.end_member()?;
        if let Some((_, archive)) = self.other.take() {
            self.close(archive)?;
        }
        // A tablespace without a file in it has an archive all the same.
        for (oid, _) in self.places.clone() {
            let is_done = self.done.iter().any(|name| name.starts_with(&format!("{oid}.tar")));
            if !is_done {
                let archive = self.open(&oid.to_string())?;
                self.close(archive)?;
            }
        }
        if let Some(archive) = self.base.take() {
            self.close(archive)?;
        }
        for name in &self.done {
            let path = self.directory.join(name);
            fs::rename(self.directory.join(format!("{name}.tmp")), &path)
                .map_err(|error| cannot_write(&path, &error))?;
        }
        put_manifest(&self.directory, manifest, |_| Ok(()))?;
        self.directory.parent().map_or(Ok(()), sync_directory)
    }

    /// Removes what was made.
    pub fn remove(self) {
        if self.existed {
            empty(&self.directory);
        } else {
            drop(fs::remove_dir_all(&self.directory));
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files, the data directory's first.
    pub fn archives(&self) -> Vec<String> {
        let mut names = self.done.clone();
        names.sort_by_key(|name| (!name.starts_with("base."), name.starts_with("pg_wal."), name.clone()));
        names
    }

    /// Bytes of all archives.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Where the tablespaces are to be.
    pub fn tablespaces(&self) -> &[(u32, PathBuf)] {
        &self.places
    }
}

/// Whether the directory exists; it must be empty then.
fn inspect(directory: &Path) -> Result<bool> {
    let refuse = |error: &io::Error| {
        Error::new(ErrorKind::Destination, format!("`{}` cannot be used", directory.display()))
            .caused_by(error)
            .hint("name a directory that is empty or does not exist")
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(refuse(&error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| refuse(&error))?.file_name();
        if name != "lost+found" {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("`{}` is not empty", directory.display()),
            )
            .cause(format!("it contains `{}`", name.to_string_lossy()))
            .hint("export into a new directory"));
        }
    }
    Ok(true)
}
