//! The walk of a data directory and its tablespaces, and the list that it leaves.
//!
//! What is taken and what is left follows `pgkeep_format::exclude` (basebackup.c). `global/pg_control` is not in the list: it is
//! read last of all.
//!
//! The list is held while the backup runs, and a cluster may have a million files: it takes some 32 bytes for each and the
//! bytes of its name, and while a directory is being read some 50 more for each file in it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_format::exclude::{Disposition, classify_entry, init_fork_of, is_temporary_relation};
use pgkeep_format::relation::RelationFile;
use rustix::fs::{AtFlags, FileType, Stat};

use super::server::ServerFacts;
use super::source_local::{cannot_walk, directory_mode};
use crate::error::{Error, ErrorKind, Result};

/// A file or directory that the walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory, as the manifest names it; links on the way are followed.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes; nothing for a directory.
    pub size: u64,
    /// Seconds since 1970; nothing for a directory.
    pub modified: i64,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// What the walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Entries that went away during the walk.
    pub vanished: u64,
    /// Things that are neither file, directory nor link, and are left out with a warning.
    pub special: Vec<String>,
    /// Directories with files in them; the first is the data directory.
    folders: Vec<String>,
    /// One name after the other.
    names: String,
    entries: Vec<Packed>,
}

/// An entry of which the folder and the name are elsewhere.
#[derive(Debug)]
struct Packed {
    size: u64,
    modified: i64,
    name_end: usize,
    folder: u32,
    /// Permission bits, with [`DIRECTORY`] beyond them.
    mode: u32,
}

const DIRECTORY: u32 = 1 << 31;

impl Walk {
    /// Directories and files in the order of the walk, parents first; without the control file.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let mut name_start = 0;
        self.entries.iter().map(move |packed| {
            let name = self.names.get(name_start..packed.name_end).unwrap_or_default();
            name_start = packed.name_end;
            let folder = self.folders.get(packed.folder as usize).map_or("", String::as_str);
            Entry {
                path: below(folder, name),
                mode: packed.mode & !DIRECTORY,
                size: packed.size,
                modified: packed.modified,
                is_directory: packed.mode & DIRECTORY != 0,
            }
        })
    }

    fn add_folder(&mut self, path: &str) -> u32 {
        self.folders.push(path.to_owned());
        // More directories than that do not fit into the memory of any machine.
        u32::try_from(self.folders.len() - 1).unwrap_or(u32::MAX)
    }

    fn add_directory(&mut self, folder: u32, name: &str, mode: u32) {
        self.names.push_str(name);
        let name_end = self.names.len();
        self.entries.push(Packed { size: 0, modified: 0, name_end, folder, mode: mode | DIRECTORY });
    }

    fn add_file(&mut self, folder: u32, name: &str, stat: &Stat) {
        self.names.push_str(name);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.size_bytes += size;
        self.entries.push(Packed {
            size,
            modified: stat.st_mtime,
            name_end: self.names.len(),
            folder,
            mode: permissions(stat),
        });
    }
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Walks the data directory and its tablespaces.
pub fn walk(data_directory: &Path, facts: &ServerFacts) -> Result<Walk> {
    let version_directory = facts.tablespace_directory();
    let mut walker = Walker {
        walk: Walk::default(),
        data_directory,
        major: facts.major(),
        version_directory: &version_directory,
    };
    walker.directory("")?;
    for space in &facts.tablespaces {
        let folder = format!("pg_tblspc/{}", space.oid);
        let path = below(&folder, &version_directory);
        let location = data_directory.join(&path);
        match rustix::fs::stat(&location) {
            Ok(stat) => {
                let folder = walker.walk.add_folder(&folder);
                walker.walk.add_directory(folder, &version_directory, permissions(&stat));
                walker.directory(&path)?;
            }
            Err(rustix::io::Errno::NOENT) => walker.walk.vanished += 1,
            Err(error) => return Err(cannot_walk(&location, &error.into())),
        }
    }
    Ok(walker.walk)
}

struct Walker<'a> {
    walk: Walk,
    data_directory: &'a Path,
    major: u32,
    version_directory: &'a str,
}

impl Walker<'_> {
    /// Adds what is in a directory, and below it.
    fn directory(&mut self, relative: &str) -> Result<()> {
        let directory = self.data_directory.join(relative);
        let (open, names) = match read_names(&directory) {
            Ok(read) => read,
            // A database that was dropped just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !relative.is_empty() => {
                self.walk.vanished += 1;
                return Ok(());
            }
            Err(error) => return Err(cannot_walk(&directory, &error)),
        };
        let names = as_text(names, &directory)?;
        let folder = self.walk.add_folder(relative);
        for name in &names {
            let path = below(relative, name);
            if path == CONTROL_FILE_PATH {
                continue;
            }
            // Of the name in its directory: the system need not look the whole path up again.
            match rustix::fs::statat(&open, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => self.entry(folder, name, path, &stat, (&open, &names))?,
                Err(rustix::io::Errno::NOENT) => self.walk.vanished += 1,
                Err(error) => return Err(cannot_walk(&directory.join(name), &error.into())),
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: u32,
        name: &str,
        path: String,
        stat: &Stat,
        (directory, names): (&File, &[String]),
    ) -> Result<()> {
        let is_link = kind(stat) == FileType::Symlink;
        if is_link && path.strip_prefix("pg_tblspc/").is_some_and(|rest| !rest.contains('/')) {
            // The tablespaces, walked on their own.
            return Ok(());
        }
        let followed = is_link.then(|| rustix::fs::statat(directory, name, AtFlags::empty()).ok()).flatten();
        // pg_wal may be a link to another disk, and is backed up as a directory.
        let is_linked_directory = followed.as_ref().is_some_and(|target| kind(target) == FileType::Directory);
        let is_directory = kind(stat) == FileType::Directory || is_linked_directory;
        let disposition = classify_entry(&path, is_directory, self.major);
        if disposition == Disposition::Skip {
            return Ok(());
        }
        if is_directory {
            // What is on the other disk may have any mode; in the copy it is a directory like its neighbours.
            let mode = if is_linked_directory {
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                directory_mode(&self.data_directory.join(parent))?
            } else {
                permissions(stat)
            };
            self.walk.add_directory(folder, name, mode);
            return if disposition == Disposition::Take { self.directory(&path) } else { Ok(()) };
        }
        // A configuration file may be a link: what it points to is what the server reads.
        let target = if is_link { followed.as_ref() } else { Some(stat) };
        let Some(target) = target.filter(|target| kind(target) == FileType::RegularFile) else {
            self.walk.special.push(path);
            return Ok(());
        };
        let is_unlogged = RelationFile::parse_path(&path, self.version_directory).is_some()
            && init_fork_of(name).is_some_and(|init| names.binary_search(&init).is_ok());
        if !is_unlogged && !is_temporary_relation(name) {
            self.walk.add_file(folder, name, target);
        }
        Ok(())
    }
}

/// The directory, and the names in it, sorted.
fn read_names(directory: &Path) -> io::Result<(File, Vec<OsString>)> {
    let mut names: Vec<OsString> =
        fs::read_dir(directory)?.map(|child| Ok(child?.file_name())).collect::<io::Result<_>>()?;
    names.sort_unstable();
    Ok((File::open(directory)?, names))
}

fn as_text(names: Vec<OsString>, directory: &Path) -> Result<Vec<String>> {
    let text = names.into_iter().map(OsString::into_string).collect::<Result<Vec<String>, OsString>>();
    text.map_err(|name| {
        Error::new(ErrorKind::Unsupported, "a file name in the data directory is not UTF-8")
            .cause(format!("{} in `{}`", name.to_string_lossy(), directory.display()))
            .hint("rename or remove the file: PostgreSQL makes no such names in its data directory")
    })
}
