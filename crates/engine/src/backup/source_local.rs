//! The data directory as a source: walked once ([`super::walk`]), read at random by every worker.
//!
//! Files may vanish between the walk and the open: that is normal for relations (dropped) and temporary files, and counted.
//! `global/pg_control` is read last, because a standby's carries the position up to which replay must go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pgkeep_format::control_file::{CONTROL_FILE_PATH, ControlFile};
use pgkeep_format::relation::RelationFile;

use super::parent_files::ParentFile;
use super::reading::BlockSpan;
use super::server::ServerFacts;
use super::walk::Entry;
use super::work::{STRETCH_BYTES, SourceFile, Stretch};
use crate::error::{Error, ErrorKind, Result};

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

pub(super) fn cannot_walk(path: &Path, error: &io::Error) -> Error {
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
    data_directory: &Path,
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
        let location = data_directory.join(&entry.path);
        let file = match File::open(&location) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_walk(&location, &error)),
        };
        let metadata = file.metadata().map_err(|error| cannot_walk(&location, &error))?;
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
