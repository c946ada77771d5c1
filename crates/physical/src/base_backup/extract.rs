//! An archive of the server as files below a directory.
//!
//! The server is not trusted: its archives could name files elsewhere, or bring a link and a file below it. So no path is
//! resolved by its text. Each directory on the way is opened without following links, and names are made in the directory
//! that was opened. Links are made for tablespaces only, to where the user wants them. Nothing that is there is replaced.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pgkeep_format::tar::{TarEntry, TarEntryKind, TarEvent, TarReader};
use pgkeep_tool::{Result, ToolError, system_text};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fchmod, mkdirat, openat, statat, symlinkat};

use super::recovery::{SETTINGS_FILE, SIGNAL_FILE};
use super::sink::{ArchiveSink, not_written};

const WAL_DIRECTORY: &[u8] = b"pg_wal";
const TABLESPACES: &[u8] = b"pg_tblspc/";

/// What else is done in the data directory.
#[derive(Debug, Default)]
pub(super) struct DataDirectory {
    /// Links to tablespaces: what the server calls their directory, and where it is here.
    pub(super) links: BTreeMap<u32, (PathBuf, PathBuf)>,
    /// Where `pg_wal`, a link that is there already, leads.
    pub(super) wal: Option<PathBuf>,
    /// Settings of a standby to be made.
    pub(super) standby: Option<Vec<u8>>,
    /// Mode of files that the server does not send.
    pub(super) file_mode: u32,
}

/// Unpacks one archive.
#[derive(Debug)]
pub(super) struct Extractor {
    root: OwnedFd,
    root_path: PathBuf,
    wal: Option<OwnedFd>,
    data: DataDirectory,
    reader: TarReader,
    current: Current,
    /// The directory that was written to last: files come one directory after the other.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

#[derive(Debug)]
enum Current {
    Nothing,
    File(File, PathBuf),
}

impl Extractor {
    /// Into a directory that exists. Only for the archive of the data directory `data` says something.
    pub(super) fn new(root: &Path, data: DataDirectory) -> Result<Extractor> {
        let open = |path: &Path| {
            // The user's own path may well lead over links.
            openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed("open directory", path, error))
        };
        let wal = data.wal.as_deref().map(open).transpose()?;
        Ok(Extractor {
            root: open(root)?,
            root_path: root.to_owned(),
            wal,
            data,
            reader: TarReader::new(),
            current: Current::Nothing,
            parent: None,
        })
    }

    fn begin(&mut self, entry: &TarEntry) -> Result<()> {
        let shown = self.shown(&entry.path);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        if entry.path == b"." {
            return self.set_mode_of_directory(b".", mode, &shown);
        }
        match entry.kind {
            TarEntryKind::Directory => {
                self.make_directory(&entry.path, &shown)?;
                self.set_mode_of_directory(&entry.path, mode, &shown)
            }
            TarEntryKind::Symlink => self.make_link(entry, &shown),
            TarEntryKind::File if self.data.standby.is_some() && entry.path == SIGNAL_FILE.as_bytes() => {
                Ok(())
            }
            TarEntryKind::File => {
                let file = self.create(&entry.path, mode, &shown)?;
                self.current = Current::File(file, shown);
                Ok(())
            }
        }
    }

    fn create(&mut self, path: &[u8], mode: Mode, shown: &Path) -> Result<File> {
        let (parent, name) = self.place(path, shown)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
            .and_then(|file| fchmod(&file, mode).map(|()| file))
            .map_err(|error| failed("create file", shown, error))?;
        Ok(File::from(file))
    }

    fn make_directory(&mut self, path: &[u8], shown: &Path) -> Result<()> {
        let is_ours = self.wal.is_some() && path == WAL_DIRECTORY;
        let may_exist = may_exist(path);
        let (parent, name) = self.place(path, shown)?;
        match mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(_) if is_ours => Ok(()),
            Err(error) if error == rustix::io::Errno::EXIST && may_exist => {
                let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| failed("stat file", shown, error))?;
                if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                    Ok(())
                } else {
                    Err(failed("create directory", shown, error))
                }
            }
            Err(error) => Err(failed("create directory", shown, error)),
        }
    }

    /// We must be able to go on writing into it, whatever the server says.
    fn set_mode_of_directory(&mut self, path: &[u8], mode: Mode, shown: &Path) -> Result<()> {
        let directory = if path == b"." { None } else { Some(self.open_directory(path, shown)?) };
        let directory = directory.as_ref().unwrap_or(&self.root);
        fchmod(directory, mode | Mode::RWXU).map_err(|error| failed("set permissions on", shown, error))
    }

    fn make_link(&mut self, entry: &TarEntry, shown: &Path) -> Result<()> {
        let server_has = OsStr::from_bytes(&entry.link);
        let oid = entry.path.strip_prefix(TABLESPACES).and_then(|name| std::str::from_utf8(name).ok());
        let target = oid
            .and_then(|oid| oid.parse::<u32>().ok().filter(|number| number.to_string() == oid))
            .and_then(|oid| self.data.links.get(&oid))
            .filter(|(old, _)| old == Path::new(server_has))
            .map(|(_, new)| new.clone());
        let Some(target) = target else {
            return Err(ToolError::new(format!(
                "could not create symbolic link from \"{}\" to \"{}\": the server did not name such a tablespace",
                shown.display(),
                Path::new(server_has).display()
            )));
        };
        let (parent, name) = self.place(&entry.path, shown)?;
        symlinkat(&target, parent, name).map_err(|error| {
            ToolError::new(format!(
                "could not create symbolic link from \"{}\" to \"{}\": {}",
                shown.display(),
                target.display(),
                system_text(&error.into())
            ))
        })
    }

    /// The directory that a path lies in, and its last name.
    fn place<'a>(&'a mut self, path: &'a [u8], shown: &Path) -> Result<(&'a OwnedFd, &'a OsStr)> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
            return Ok((&self.root, OsStr::from_bytes(path)));
        };
        let (parent, name) = path.split_at(slash);
        let name = OsStr::from_bytes(name.get(1..).unwrap_or_default());
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let opened = self.open_directory(parent, shown)?;
            self.parent = Some((parent.to_vec(), opened));
        }
        Ok((self.parent.as_ref().map_or(&self.root, |(_, open)| open), name))
    }

    fn open_directory(&self, path: &[u8], shown: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut open: Option<OwnedFd> = None;
        for (depth, name) in path.split(|byte| *byte == b'/').enumerate() {
            let next = match &self.wal {
                Some(wal) if depth == 0 && name == WAL_DIRECTORY => wal.try_clone().map_err(|error| {
                    ToolError::new(format!("could not open directory: {}", system_text(&error)))
                })?,
                _ => {
                    let inside = open.as_ref().unwrap_or(&self.root);
                    openat(inside.as_fd(), OsStr::from_bytes(name), flags, Mode::empty())
                        .map_err(|error| failed("open directory of", shown, error))?
                }
            };
            open = Some(next);
        }
        open.ok_or_else(|| ToolError::new("empty path in the archive"))
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.root_path.join(OsStr::from_bytes(path))
    }

    /// Settings behind those that came, and the file that makes a standby.
    fn make_standby(&mut self, settings: &[u8]) -> Result<()> {
        let shown = self.shown(SETTINGS_FILE.as_bytes());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(self.data.file_mode);
        let file = openat(&self.root, SETTINGS_FILE, flags, mode)
            .map_err(|error| failed("open file", &shown, error))?;
        File::from(file).write_all(settings).map_err(|error| not_written(&shown, &error))?;
        let shown = self.shown(SIGNAL_FILE.as_bytes());
        self.create(SIGNAL_FILE.as_bytes(), mode, &shown).map(drop)
    }
}

impl ArchiveSink for Extractor {
    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let Some(event) =
                self.reader.next(&mut bytes).map_err(|error| ToolError::new(error.to_string()))?
            else {
                return Ok(());
            };
            match event {
                TarEvent::Entry(entry) => self.begin(&entry)?,
                TarEvent::Data(data) => {
                    if let Current::File(file, path) = &mut self.current {
                        file.write_all(data).map_err(|error| not_written(path, &error))?;
                    }
                }
                TarEvent::EndOfEntry => self.current = Current::Nothing,
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        std::mem::take(&mut self.reader).finish().map_err(|error| ToolError::new(error.to_string()))?;
        match self.data.standby.take() {
            Some(settings) => self.make_standby(&settings),
            None => Ok(()),
        }
    }

    fn file(&self) -> String {
        match &self.current {
            Current::File(_, path) => path.display().to_string(),
            Current::Nothing => self.root_path.display().to_string(),
        }
    }
}

/// Directories that are made before the archive comes: for streamed WAL, and for tablespaces that lie in the data directory.
fn may_exist(path: &[u8]) -> bool {
    let in_place = |oid: &[u8]| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit);
    matches!(path, b"pg_wal" | b"pg_wal/archive_status" | b"pg_wal/summaries" | b"pg_tblspc")
        || path.strip_prefix(TABLESPACES).is_some_and(in_place)
}

fn failed(what: &str, path: &Path, error: rustix::io::Errno) -> ToolError {
    let error = io::Error::from(error);
    ToolError::could_not(what, path.display(), &error)
}

#[cfg(test)]
mod tests;
