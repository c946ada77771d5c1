//! The data directory as a source: walked once, read at random by every worker.
//!
//! What is taken and what is left follows `pgkeep_format::exclude` (basebackup.c). Files may vanish between the walk and
//! the open: that is normal for relations (dropped) and temporary files, and counted. `global/pg_control` is not handed
//! out by the walk: it is read last, because a standby's carries the position up to which replay must go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pgkeep_format::control_file::{CONTROL_FILE_PATH, ControlFile};
use pgkeep_format::exclude::{Disposition, classify_entry, init_fork_of, is_temporary_relation};
use pgkeep_format::relation::RelationFile;

use super::parent_files::ParentFile;
use super::reading::BlockSpan;
use super::server::ServerFacts;
use super::work::{STRETCH_BYTES, SourceFile, Stretch};
use crate::error::{Error, ErrorKind, Result};

/// A file or directory that the walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory, as the manifest names it.
    pub path: String,
    /// Where it is on this machine.
    pub location: PathBuf,
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
    /// Directories and files in the order of the walk, parents first; without the control file.
    pub entries: Vec<Entry>,
    /// Bytes of the files.
    pub size_bytes: u64,
    /// Entries that went away during the walk.
    pub vanished: u64,
    /// Things that are neither file, directory nor link, and are left out with a warning.
    pub special: Vec<String>,
}

/// Why the data directory can not be the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotThisCluster(pub String);

/// Proves that `directory` is the data directory of the very server that we talk to.
///
/// The system identifier alone does not: a standby next to us has the primary's. So the running server's lock file must
/// name the port and the start time that the server itself reports.
pub fn prove_directory(directory: &Path, facts: &ServerFacts) -> Result<ControlFile, NotThisCluster> {
    let refuse = |text: String| Err(NotThisCluster(text));
    let control = match fs::read(directory.join(CONTROL_FILE_PATH)) {
        Ok(bytes) => match ControlFile::parse(&bytes) {
            Ok(control) => control,
            Err(error) => return refuse(format!("its control file cannot be read: {error}")),
        },
        Err(error) => return refuse(format!("`{}` is not readable here: {error}", directory.display())),
    };
    if control.system_identifier != facts.system_identifier {
        return refuse(format!(
            "`{}` is cluster {}, the server is cluster {}",
            directory.display(),
            control.system_identifier,
            facts.system_identifier
        ));
    }
    let lock = match fs::read_to_string(directory.join("postmaster.pid")) {
        Ok(text) => text,
        Err(error) => return refuse(format!("no server runs in `{}`: {error}", directory.display())),
    };
    let mut lines = lock.lines().skip(2);
    let started = lines.next().and_then(|line| line.trim().parse::<i64>().ok());
    let port = lines.next().and_then(|line| line.trim().parse::<u32>().ok());
    // The lock file is written a moment before the server takes its own start time.
    let same_start = started.is_some_and(|started| (facts.started - started).abs() <= 60);
    if !same_start || port != Some(facts.port) {
        return refuse(format!("another server of the same cluster runs in `{}`", directory.display()));
    }
    Ok(control)
}

/// Walks the data directory and its tablespaces.
pub fn walk(data_directory: &Path, facts: &ServerFacts) -> Result<Walk> {
    let mut walk = Walk::default();
    let version_directory = facts.tablespace_directory();
    walk_directory(&mut walk, data_directory, "", facts, &version_directory)?;
    for space in &facts.tablespaces {
        let path = format!("pg_tblspc/{}/{version_directory}", space.oid);
        let location = data_directory.join(&path);
        match fs::metadata(&location) {
            Ok(metadata) => {
                walk.entries.push(Entry {
                    path: path.clone(),
                    location: location.clone(),
                    mode: metadata.mode() & 0o7777,
                    size: 0,
                    modified: 0,
                    is_directory: true,
                });
                walk_directory(&mut walk, &location, &path, facts, &version_directory)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => walk.vanished += 1,
            Err(error) => return Err(cannot_walk(&location, &error)),
        }
    }
    Ok(walk)
}

fn walk_directory(
    walk: &mut Walk,
    directory: &Path,
    relative: &str,
    facts: &ServerFacts,
    version_directory: &str,
) -> Result<()> {
    let mut children = Vec::new();
    let listing = match fs::read_dir(directory) {
        Ok(listing) => listing,
        // A database that was dropped just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !relative.is_empty() => {
            walk.vanished += 1;
            return Ok(());
        }
        Err(error) => return Err(cannot_walk(directory, &error)),
    };
    for child in listing {
        let child = child.map_err(|error| cannot_walk(directory, &error))?;
        let name = child.file_name().into_string().map_err(|name| {
            Error::new(ErrorKind::Unsupported, "a file name in the data directory is not UTF-8")
                .cause(format!("{} in `{}`", name.to_string_lossy(), directory.display()))
                .hint("rename or remove the file: PostgreSQL makes no such names in its data directory")
        })?;
        children.push((name, child));
    }
    children.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let names: BTreeSet<&str> = children.iter().map(|(name, _)| name.as_str()).collect();
    for (name, child) in &children {
        let path = if relative.is_empty() { name.clone() } else { format!("{relative}/{name}") };
        if path == CONTROL_FILE_PATH {
            continue;
        }
        let location = directory.join(name);
        // Of the entry, not of the path: the system need not look the whole path up again.
        let metadata = match child.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                walk.vanished += 1;
                continue;
            }
            Err(error) => return Err(cannot_walk(&location, &error)),
        };
        // pg_wal may be a link to another disk, and is backed up as a directory; links in pg_tblspc are the tablespaces,
        // walked on their own.
        let linked_directory =
            metadata.is_symlink() && fs::metadata(&location).is_ok_and(|target| target.is_dir());
        if relative == "pg_tblspc" && metadata.is_symlink() {
            continue;
        }
        let is_directory = metadata.is_dir() || linked_directory;
        let disposition = classify_entry(&path, is_directory, facts.major());
        if disposition == Disposition::Skip {
            continue;
        }
        if is_directory {
            // What is on the other disk may have any mode; in the copy it is a directory like its neighbours.
            let mode = if linked_directory { directory_mode(directory)? } else { metadata.mode() & 0o7777 };
            walk.entries.push(Entry {
                path: path.clone(),
                location: location.clone(),
                mode,
                size: 0,
                modified: 0,
                is_directory,
            });
            if disposition == Disposition::Take {
                walk_directory(walk, &location, &path, facts, version_directory)?;
            }
            continue;
        }
        let metadata = if metadata.is_symlink() {
            // A configuration file may be a link: what it points to is what the server reads.
            match fs::metadata(&location) {
                Ok(target) if target.is_file() => target,
                _ => {
                    walk.special.push(path);
                    continue;
                }
            }
        } else {
            metadata
        };
        if !metadata.is_file() {
            walk.special.push(path);
            continue;
        }
        if RelationFile::parse_path(&path, version_directory).is_some() || is_temporary_relation(name) {
            let unlogged = init_fork_of(name).is_some_and(|init| names.contains(init.as_str()));
            if unlogged || is_temporary_relation(name) {
                continue;
            }
        }
        walk.size_bytes += metadata.len();
        walk.entries.push(Entry {
            path,
            location,
            mode: metadata.mode() & 0o7777,
            size: metadata.len(),
            modified: metadata.mtime(),
            is_directory: false,
        });
    }
    Ok(())
}

fn cannot_walk(path: &Path, error: &io::Error) -> Error {
    let kind =
        if error.kind() == io::ErrorKind::PermissionDenied { ErrorKind::Config } else { ErrorKind::Storage };
    Error::new(kind, format!("cannot read `{}` of the cluster", path.display()))
        .caused_by(error)
        .hint("run pgkeep as the server's user, or take the backup with `--source stream`")
}

/// Permission bits of the data directory: 0700, or 0750 for a cluster with group access.
pub fn directory_mode(data_directory: &Path) -> Result<u32> {
    let metadata = fs::metadata(data_directory).map_err(|error| cannot_walk(data_directory, &error))?;
    Ok(metadata.mode() & 0o7777)
}

/// Opens one file of the walk; nothing where it is gone. Of `spans`, where they are given, every other block is known to
/// be the parent's; a file of which nothing is to be read is not opened.
pub fn open(
    entry: &Entry,
    number: u64,
    version_directory: &str,
    parent: Option<ParentFile>,
    spans: Option<&[BlockSpan]>,
    block_size: u32,
) -> Result<Option<OpenFile>> {
    let relation = RelationFile::parse_path(&entry.path, version_directory);
    let (file, size, modified) = if spans.is_some_and(<[BlockSpan]>::is_empty) {
        (None, entry.size, entry.modified)
    } else {
        let file = match File::open(&entry.location) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_walk(&entry.location, &error)),
        };
        let metadata = file.metadata().map_err(|error| cannot_walk(&entry.location, &error))?;
        // What is read in part was decided by the length that the walk saw: what was added since, WAL brings back.
        let size = if spans.is_some() { entry.size } else { metadata.len() };
        (Some(file), size, metadata.mtime())
    };
    let parts = match spans {
        None => cut(0, size),
        Some(spans) => {
            let block = u64::from(block_size);
            let cut_span =
                |(first, count): &BlockSpan| cut(u64::from(*first) * block, u64::from(*count) * block);
            spans.iter().flat_map(cut_span).collect()
        }
    };
    let file = Arc::new(SourceFile {
        number,
        path: entry.path.clone(),
        mode: entry.mode,
        modified,
        size,
        relation,
        parent,
        file,
        // A file of which nothing is read is one empty stretch.
        stretches: AtomicU64::new((parts.len() as u64).max(1)),
        read_end: AtomicU64::new(0),
    });
    Ok(Some(OpenFile { file, parts }))
}

/// A file, and which parts of it are read.
#[derive(Debug)]
pub struct OpenFile {
    file: Arc<SourceFile>,
    parts: Vec<(u64, usize)>,
}

/// Offsets and lengths of stretches.
fn cut(offset: u64, length: u64) -> Vec<(u64, usize)> {
    let starts = (0..length.div_ceil(STRETCH_BYTES)).map(|index| index * STRETCH_BYTES);
    // At most one stretch: fits.
    starts.map(|start| (offset + start, (length - start).min(STRETCH_BYTES) as usize)).collect()
}

impl OpenFile {
    /// The stretches, in order.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> + '_ {
        let read: u64 = self.parts.iter().map(|(_, length)| *length as u64).sum();
        let mut skipped = self.file.size.saturating_sub(read);
        let empty = self.parts.is_empty().then_some((0, 0));
        self.parts.iter().copied().chain(empty).map(move |(offset, length)| Stretch {
            file: Arc::clone(&self.file),
            offset,
            length,
            bytes: None,
            skipped: std::mem::take(&mut skipped),
        })
    }
}

/// Reads the control file, again where the server was writing it just then; answers its bytes and its description.
pub fn read_control_file(data_directory: &Path) -> Result<(Vec<u8>, u32, i64)> {
    let path = data_directory.join(CONTROL_FILE_PATH);
    let mut last = None;
    for _ in 0..20 {
        let file = File::open(&path).map_err(|error| cannot_walk(&path, &error))?;
        let metadata = file.metadata().map_err(|error| cannot_walk(&path, &error))?;
        let mut bytes = vec![0; 8192];
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, length as u64) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot_walk(&path, &error)),
            }
        }
        bytes.truncate(length);
        match ControlFile::parse(&bytes) {
            Ok(_) => return Ok((bytes, metadata.mode() & 0o7777, metadata.mtime())),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = Error::new(ErrorKind::Corrupt, "the control file of the cluster has a wrong checksum");
    let error = match &last {
        Some(cause) => error.caused_by(cause),
        None => error,
    };
    Err(error.hint("the server's disk is damaged, or the server is of a version that pgkeep does not know"))
}
