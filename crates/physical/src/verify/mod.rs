//! Checks a backup against its `backup_manifest`: a directory, or tar archives of any compression.
//!
//! Every file that is listed must be there with its size and checksum, no other file may be, the control file must be of
//! the cluster that the manifest names, and the WAL that a restore needs must be whole. Files are digested, and archives
//! read, by several threads. Nothing is written.
//!
//! What is wrong is told as it is found, in stock's words; the order is that of paths.

mod archives;
mod control;
mod digests;
mod directory;
mod findings;
mod ignored;
mod wal_archive;
mod wal_range;
mod wal_segment;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use pgkeep_tool::{Reporter, Result, ToolError};

use crate::manifest_table::{ManifestTable, not_opened};
pub(crate) use control::control_error;
pub(crate) use directory::sorted_entries;
use findings::Findings;
use ignored::Ignored;
use wal_archive::ArchivedWal;

/// Whether a backup is a directory or archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFormat {
    /// A data directory.
    Plain,
    /// `base.tar` and others.
    Tar,
}

/// What to check, and how.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// The backup.
    pub directory: PathBuf,
    /// Where its manifest is, if not in it.
    pub manifest_path: Option<PathBuf>,
    /// By the presence of `PG_VERSION` where none is said.
    pub format: Option<BackupFormat>,
    /// Paths in the backup that do not count, beside those that no manifest lists.
    pub ignore: Vec<Vec<u8>>,
    /// Stop at the first thing that is wrong.
    pub exit_on_error: bool,
    /// Sizes do.
    pub skip_checksums: bool,
    /// Read the WAL that a restore needs.
    pub parse_wal: bool,
    /// Where the WAL is, if not in the backup.
    pub wal_directory: Option<PathBuf>,
    /// How many threads work.
    pub jobs: usize,
}

/// How far the checking is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub done: u64,
    /// Bytes to be read in all.
    pub total: u64,
    /// Nothing more comes.
    pub is_finished: bool,
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyReport {
    /// Nothing is wrong.
    pub is_good: bool,
    /// How many files the manifest lists.
    pub files: usize,
}

/// What all parts of a check share.
struct Check<'a> {
    request: &'a VerifyRequest,
    table: &'a ManifestTable,
    ignored: Ignored,
    findings: Findings<'a>,
    total: AtomicU64,
    done: AtomicU64,
    progress: &'a (dyn Fn(Progress) + Sync),
}

/// Checks a backup. What is wrong goes to `reporter`, how far it is to `progress`.
///
/// # Errors
/// When the check cannot go on, or was to end at the first error.
pub fn verify(
    request: &VerifyRequest,
    reporter: &dyn Reporter,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<VerifyReport> {
    let manifest_path =
        request.manifest_path.clone().unwrap_or_else(|| request.directory.join("backup_manifest"));
    let table = ManifestTable::read(&manifest_path)?
        .ok_or_else(|| not_opened(&manifest_path, &std::io::Error::from_raw_os_error(2)))?;
    let check = Check {
        request,
        table: &table,
        ignored: Ignored::new(&request.ignore),
        findings: Findings::new(reporter, request.exit_on_error),
        total: AtomicU64::new(0),
        done: AtomicU64::new(0),
        progress,
    };
    check.run()?;
    Ok(VerifyReport { is_good: !check.findings.any(), files: table.files.len() })
}

impl Check<'_> {
    fn run(&self) -> Result<()> {
        let entries = sorted_entries(&self.request.directory).map_err(|error| {
            let path = self.request.directory.display();
            ToolError::could_not("open directory", path, &error)
        })?;
        match self.format()? {
            BackupFormat::Plain => {
                self.check_directory(entries)?;
                self.report_missing_files()?;
                if !self.request.skip_checksums {
                    self.check_digests()?;
                }
                if self.request.parse_wal {
                    let path = self.request.directory.join("pg_wal");
                    self.check_wal_directory(self.request.wal_directory.as_deref().unwrap_or(&path))?;
                }
            }
            BackupFormat::Tar => {
                let wal = ArchivedWal::wanted(self.table, self.request);
                self.check_archives(&entries, &wal)?;
                self.report_missing_files()?;
                match &self.request.wal_directory {
                    _ if !self.request.parse_wal => {}
                    Some(path) => self.check_wal_directory(path)?,
                    None => self.check_archived_wal(&wal)?,
                }
            }
        }
        Ok(())
    }

    fn format(&self) -> Result<BackupFormat> {
        if let Some(format) = self.request.format {
            return Ok(format);
        }
        let path = self.request.directory.join("PG_VERSION");
        match path.metadata() {
            Ok(_) => Ok(BackupFormat::Plain),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BackupFormat::Tar),
            Err(error) => {
                let path = path.display();
                Err(ToolError::could_not("stat file", path, &error))
            }
        }
    }

    fn report_missing_files(&self) -> Result<()> {
        for file in self.table.files.iter().filter(|file| !file.is_seen()) {
            if !self.ignored.contains(&file.path) {
                let path = file.shown();
                self.findings.add(&format!("\"{path}\" is present in the manifest but not on disk"))?;
            }
        }
        Ok(())
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.tell_progress(false);
    }

    fn tell_progress(&self, is_finished: bool) {
        (self.progress)(Progress {
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            is_finished,
        });
    }
}
