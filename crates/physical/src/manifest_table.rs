//! The files of a backup by their paths, read from its `backup_manifest`.
//!
//! The manifest is read in pieces; what stays in memory is its files, without their times.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgkeep_format::pg_manifest::{
    ManifestChecksum, ManifestItem, ManifestReader, ManifestWalRange, PgManifestError,
};
use pgkeep_tool::{Result, ToolError};

use crate::checksum::ManifestDigest;

/// A manifest.
#[derive(Debug, Default)]
pub(crate) struct ManifestTable {
    /// 1 or 2.
    pub(crate) version: u32,
    /// Which cluster; from version 2.
    pub(crate) system_identifier: Option<u64>,
    /// Sorted by path.
    pub(crate) files: Vec<TableFile>,
    /// The WAL that a restore needs.
    pub(crate) wal_ranges: Vec<ManifestWalRange>,
    index: HashMap<Arc<[u8]>, usize>,
}

/// A file of the backup.
#[derive(Debug)]
pub(crate) struct TableFile {
    pub(crate) path: Arc<[u8]>,
    pub(crate) size: u64,
    pub(crate) checksum: Option<ManifestChecksum>,
    /// It was come across.
    seen: AtomicBool,
    /// Something about it was found wrong.
    bad: AtomicBool,
}

impl TableFile {
    pub(crate) fn is_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    pub(crate) fn set_seen(&self) {
        self.seen.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.bad.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bad(&self) {
        self.bad.store(true, Ordering::Relaxed);
    }

    /// The path for messages.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// That the checksum found is the one listed, else what is wrong, in stock's words. `place` names the archive.
    pub(crate) fn check(&self, found: &ManifestChecksum, place: &str) -> std::result::Result<(), String> {
        let Some(expected) = &self.checksum else { return Ok(()) };
        let (path, length) = (self.shown(), expected.bytes.len());
        if length != found.bytes.len() {
            let wanted = found.bytes.len();
            return Err(format!(
                "file \"{path}\"{place} has checksum of length {length}, but expected {wanted}"
            ));
        }
        if expected.bytes != found.bytes {
            return Err(format!("checksum mismatch for file \"{path}\"{place}"));
        }
        Ok(())
    }
}

impl ManifestTable {
    /// Reads and proves the manifest in that file; none where there is no such file.
    ///
    /// # Errors
    /// When it cannot be read or is not a manifest.
    pub(crate) fn read(path: &Path) -> Result<Option<ManifestTable>> {
        let shown = path.display();
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(not_opened(path, &error)),
        };
        let failed = |error: &std::io::Error| ToolError::could_not("read file", shown, error);
        let mut table = ManifestTable::default();
        let take = &mut |item| table.take(item);
        let mut reader = ManifestReader::new(ManifestDigest::new());
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => reader.feed(buffer.get(..length).unwrap_or_default(), take)?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        reader.finish(take).map_err(ToolError::from)?;
        table.sort();
        Ok(Some(table))
    }

    /// The file of that path.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&TableFile> {
        self.index.get(path).and_then(|at| self.files.get(*at))
    }

    fn take(&mut self, item: ManifestItem) -> std::result::Result<(), Refusal> {
        match item {
            ManifestItem::Version(version) => self.version = version,
            ManifestItem::SystemIdentifier(identifier) => self.system_identifier = Some(identifier),
            ManifestItem::WalRange(range) => self.wal_ranges.push(range),
            ManifestItem::File(file) => {
                let path: Arc<[u8]> = file.path.into();
                if self.index.insert(Arc::clone(&path), self.files.len()).is_some() {
                    return Err(Refusal(ToolError::new(format!(
                        "duplicate path name in backup manifest: \"{}\"",
                        String::from_utf8_lossy(&path)
                    ))));
                }
                self.files.push(TableFile {
                    path,
                    size: file.size,
                    checksum: file.checksum,
                    seen: AtomicBool::new(false),
                    bad: AtomicBool::new(false),
                });
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.files.sort_unstable_by(|left, right| left.path.cmp(&right.path));
        for (at, file) in self.files.iter().enumerate() {
            if let Some(place) = self.index.get_mut(&file.path) {
                *place = at;
            }
        }
    }
}

/// Files that may be more, less or other than a manifest says: people change them after a backup, and `pg_basebackup -R`
/// writes them after the manifest (`bin/pg_verifybackup/pg_verifybackup.c`).
pub const CHANGED_BY_HAND: [&[u8]; 3] = [b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"];

/// That a file cannot be opened, in stock's words.
pub(crate) fn not_opened(path: &Path, error: &std::io::Error) -> ToolError {
    ToolError::could_not("open file", path.display(), error)
}

/// Why a manifest is not taken.
struct Refusal(ToolError);

impl From<PgManifestError> for Refusal {
    fn from(error: PgManifestError) -> Refusal {
        Refusal(ToolError::new(error.to_string()))
    }
}

impl From<Refusal> for ToolError {
    fn from(refusal: Refusal) -> ToolError {
        refusal.0
    }
}
