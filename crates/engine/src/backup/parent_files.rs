//! The files of the backup that a new one builds on, to be looked up by path.
//!
//! Sources come upon files in an order of their own, so all entries are held: the path in one buffer, and some 60 bytes
//! beside it, which is a fifth of what the walk of the same files takes. Each entry is given out once. What nobody asked
//! for is gone from the cluster, and told to the writer at the end.

use std::sync::{Mutex, PoisonError};

use pgkeep_repo::{BackupReader, FileEntry, FileKind, FileMeta, ParentMap, PieceRef};

use crate::error::{Error, Result};

/// What the parent says about a file of the cluster.
#[derive(Debug)]
pub struct ParentFile {
    /// Its line in the manifest.
    pub entry: FileEntry,
    /// Its block map; none where it was empty.
    pub map: Option<ParentMap>,
}

#[derive(Debug)]
struct Slot {
    path_end: usize,
    size: u64,
    root: Option<PieceRef>,
    taken: bool,
}

/// The regular files of a backup.
#[derive(Debug)]
pub struct ParentFiles {
    reader: BackupReader,
    paths: Vec<u8>,
    slots: Mutex<Vec<Slot>>,
}

impl ParentFiles {
    /// Reads the list of files.
    pub fn read(reader: &BackupReader) -> Result<ParentFiles> {
        let mut paths = Vec::new();
        let mut slots = Vec::new();
        for entry in reader.files() {
            let FileEntry { meta, kind } = entry.map_err(|error| unusable(reader, error.into()))?;
            if let FileKind::File { root } = kind {
                paths.extend_from_slice(&meta.path);
                slots.push(Slot { path_end: paths.len(), size: meta.size, root, taken: false });
            }
        }
        Ok(ParentFiles { reader: reader.clone(), paths, slots: Mutex::new(slots) })
    }

    /// The backup.
    pub const fn reader(&self) -> &BackupReader {
        &self.reader
    }

    /// The pages of a file that were bad in the backup, as far as they are listed.
    pub fn bad_pages_of(&self, path: &str) -> Vec<u32> {
        let files = &self.reader.header().bad_pages.files;
        files.iter().find(|bad| bad.path == path).map(|bad| bad.blocks.clone()).unwrap_or_default()
    }

    /// Paths and lengths of all files whose names are UTF-8, as those of relations are.
    pub fn all(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let count = self.slots.lock().unwrap_or_else(PoisonError::into_inner).len();
        // One after the other: a cluster may have a million files.
        (0..count).filter_map(|index| {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let path = std::str::from_utf8(self.path(&slots, index)).ok()?.to_owned();
            Some((path, slots[index].size))
        })
    }

    /// The file of that path, the first time that it is asked for.
    pub fn take(&self, path: &str) -> Result<Option<ParentFile>> {
        let entry = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(index) = self.find(&slots, path.as_bytes()) else { return Ok(None) };
            let entry = self.entry(&slots, index);
            match slots.get_mut(index) {
                Some(slot) if !slot.taken => slot.taken = true,
                _ => return Ok(None),
            }
            entry
        };
        let map = self.reader.parent_map(&entry).map_err(|error| unusable(&self.reader, error.into()))?;
        Ok(Some(ParentFile { entry, map }))
    }

    /// The file of that path went away before it could be read: it is among those that are left.
    pub fn put_back(&self, path: &str) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = self.find(&slots, path.as_bytes())
            && let Some(slot) = slots.get_mut(index)
        {
            slot.taken = false;
        }
    }

    /// Every file that nobody asked for.
    pub fn left(&self) -> Vec<FileEntry> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let untaken = slots.iter().enumerate().filter(|(_, slot)| !slot.taken);
        untaken.map(|(index, _)| self.entry(&slots, index)).collect()
    }

    /// The manifest is sorted by path.
    fn find(&self, slots: &[Slot], path: &[u8]) -> Option<usize> {
        let (mut from, mut to) = (0, slots.len());
        while from < to {
            let middle = from.midpoint(to);
            match self.path(slots, middle).cmp(path) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        None
    }

    fn path(&self, slots: &[Slot], index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| slots[before].path_end);
        &self.paths[start..slots[index].path_end]
    }

    fn entry(&self, slots: &[Slot], index: usize) -> FileEntry {
        let Slot { size, root, .. } = &slots[index];
        // Mode and time are the cluster's, not the parent's.
        let meta = FileMeta { path: self.path(slots, index).to_vec(), mode: 0, mtime: 0, size: *size };
        FileEntry { meta, kind: FileKind::File { root: *root } }
    }
}

/// The parent turned out to be damaged.
pub fn unusable(reader: &BackupReader, error: Error) -> Error {
    let id = reader.id();
    Error { hints: Vec::new(), ..error }
        .while_doing(format!("cannot build on backup {id}"))
        .hint("take a full backup, which builds on none: `pgkeep backup --type full`")
}
