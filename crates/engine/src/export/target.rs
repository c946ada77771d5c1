//! Where an export goes: a data directory or tar files, behind one face.

use std::path::{Path, PathBuf};

use pgkeep_repo::{FileEntry, ManifestHeader};

use super::plain::PlainTarget;
use super::tar_files::TarTarget;
use super::{ExportFormat, ExportRequest};
use crate::error::Result;

/// A file or directory of the export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Relative to the data directory.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
    /// Bytes.
    pub size: u64,
}

impl Member {
    /// A file.
    pub fn file(path: &[u8], mode: u32, modified: i64, size: u64) -> Member {
        Member { path: path.to_vec(), mode, modified, size }
    }

    /// What a manifest has.
    pub fn of(entry: &FileEntry) -> Member {
        let meta = &entry.meta;
        Member { path: meta.path.clone(), mode: meta.mode & 0o7777, modified: meta.mtime, size: meta.size }
    }
}

/// The target.
#[derive(Debug)]
pub enum Target {
    /// A data directory.
    Plain(Box<PlainTarget>),
    /// Tar files.
    Tar(Box<TarTarget>),
}

impl Target {
    /// Looks at the destination and makes its directories.
    ///
    /// # Errors
    /// Where it is not empty, or cannot be written to.
    pub fn prepare(request: &ExportRequest, header: &ManifestHeader) -> Result<Target> {
        Ok(match request.format {
            ExportFormat::Plain => Target::Plain(Box::new(PlainTarget::prepare(request, header)?)),
            ExportFormat::Tar => Target::Tar(Box::new(TarTarget::prepare(request, header)?)),
        })
    }

    /// A directory of the cluster.
    pub fn directory_entry(&mut self, member: &Member) -> Result<()> {
        match self {
            Target::Plain(target) => target.directory_entry(member),
            Target::Tar(target) => target.directory_entry(member),
        }
    }

    /// A file begins, whose bytes follow; the one before is complete.
    pub fn begin(&mut self, member: &Member) -> Result<()> {
        match self {
            Target::Plain(target) => target.begin(member),
            Target::Tar(target) => target.begin(member),
        }
    }

    /// The next bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Target::Plain(target) => target.bytes(bytes),
            Target::Tar(target) => target.bytes(bytes),
        }
    }

    /// So many zero bytes.
    pub fn zeros(&mut self, count: u64) -> Result<()> {
        match self {
            Target::Plain(target) => target.zeros(count),
            Target::Tar(target) => target.zeros(count),
        }
    }

    /// The links in `pg_tblspc`.
    pub fn link_tablespaces(&mut self, modified: i64) -> Result<()> {
        match self {
            Target::Plain(target) => target.link_tablespaces(),
            Target::Tar(target) => target.link_tablespaces(modified),
        }
    }

    /// Makes everything durable, and gives it its final names: the manifest last.
    pub fn finish(&mut self, manifest: &[u8]) -> Result<()> {
        match self {
            Target::Plain(target) => target.finish(manifest),
            Target::Tar(target) => target.finish(manifest),
        }
    }

    /// Removes what was made, after a failure.
    pub fn remove(self) {
        match self {
            Target::Plain(target) => target.remove(),
            Target::Tar(target) => target.remove(),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        match self {
            Target::Plain(target) => target.directory(),
            Target::Tar(target) => target.directory(),
        }
    }

    /// Names of the tar files.
    pub fn archives(&self) -> Vec<String> {
        match self {
            Target::Plain(_) => Vec::new(),
            Target::Tar(target) => target.archives(),
        }
    }

    /// Bytes of the tar files.
    pub fn written_bytes(&self) -> u64 {
        match self {
            Target::Plain(_) => 0,
            Target::Tar(target) => target.written_bytes(),
        }
    }

    /// Where the tablespaces are, or will be.
    pub fn tablespaces(&self) -> &[(u32, PathBuf)] {
        match self {
            Target::Plain(target) => target.tablespaces(),
            Target::Tar(target) => target.tablespaces(),
        }
    }
}
