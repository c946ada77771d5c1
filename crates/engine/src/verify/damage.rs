//! Damage: what is wrong, where, and what it touches.
//!
//! One entry for each damaged place of an object (a frame of a pack, a manifest, a WAL file). Files, blocks and backups are
//! added as maps that lead to the place are met. All lists are bounded; what is left out is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgkeep_format::relation::{Fork, RelationFile};
use pgkeep_repo::{BackupId, RepoError};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::list::Window;

/// More damaged places than this are only counted.
const MAX_PLACES: usize = 10_000;
/// More files of one place than this are only counted.
const MAX_FILES: usize = 1000;
/// More ranges of blocks of one file than this are left out.
const MAX_RANGES: usize = 1000;

/// What sort of damage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageKind {
    /// The object is not there.
    Missing,
    /// The storage cannot read it.
    Unreadable,
    /// Its bytes are not what was written.
    Corrupt,
    /// Two sound objects contradict each other: a block map, and the frame that it points to.
    Mismatch,
    /// Pages with wrong checksums that the backup did not know of. The bytes are those that the cluster had.
    BadPages,
}

impl DamageKind {
    /// Whether a restore of what it touches fails or gives other bytes than the cluster had.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        !matches!(self, DamageKind::BadPages)
    }
}

/// Blocks `first..=last` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockRange {
    /// The first.
    pub first: u32,
    /// The last, itself included.
    pub last: u32,
}

/// A file of the cluster that has a damaged part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// Relative to the data directory.
    pub path: String,
    /// OID of the tablespace, for a file of a relation.
    pub tablespace: Option<u32>,
    /// OID of the database; 0 for relations that all databases share.
    pub database: Option<u32>,
    /// The relation's file number: `pg_filenode_relation(tablespace, relfilenode)` names the relation on the server.
    pub relfilenode: Option<u32>,
    /// `main`, `fsm`, `vm` or `init`.
    pub fork: Option<Fork>,
    /// Which segment of the fork, from 0.
    pub segment: Option<u32>,
    /// Which blocks of the file, ascending.
    pub blocks: Vec<BlockRange>,
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What sort.
    pub kind: DamageKind,
    /// The object's key in the repository.
    pub object: String,
    /// Where in it, in bytes; none where it is the whole.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// The files of the cluster that have a part there.
    pub files: Vec<DamagedFile>,
    /// Files that are not in the list.
    pub files_not_listed: u64,
    /// The backups that need it.
    pub backups: Vec<String>,
    /// The windows that it touches.
    #[serde(default, skip_deserializing)]
    pub windows: Vec<Window>,
}

/// The file that a map belongs to.
#[derive(Clone, Debug)]
pub(super) struct FileName {
    pub(super) path: String,
    pub(super) relation: Option<RelationFile>,
}

type Place = (String, Option<u64>, DamageKind);

#[derive(Default)]
struct Entry {
    what: String,
    files: BTreeMap<String, DamagedFile>,
    files_not_listed: u64,
    backups: BTreeSet<BackupId>,
}

/// Gathers damage from several threads.
#[derive(Default)]
pub(super) struct Findings {
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    entries: BTreeMap<Place, Entry>,
    not_listed: u64,
}

/// Names a damaged place, so that files can be added to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlaceName(Place);

impl Findings {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a damaged place.
    pub(super) fn place(
        &self,
        kind: DamageKind,
        object: &str,
        offset: Option<u64>,
        what: impl Into<String>,
    ) -> PlaceName {
        let place = (object.to_owned(), offset, kind);
        let mut places = self.places();
        if places.entries.len() >= MAX_PLACES && !places.entries.contains_key(&place) {
            places.not_listed += 1;
        } else {
            places
                .entries
                .entry(place.clone())
                .or_insert_with(|| Entry { what: what.into(), ..Entry::default() });
        }
        PlaceName(place)
    }

    /// Notes what an error of the repository says about its objects; other errors are handed back. `object` is what was
    /// being read.
    pub(super) fn error(&self, object: &str, error: RepoError) -> Result<PlaceName> {
        Ok(match error {
            RepoError::NotFound { key } => self.place(DamageKind::Missing, &key, None, "it is not there"),
            RepoError::Corrupt { key, offset, what } => {
                self.place(DamageKind::Corrupt, &key, Some(offset), what)
            }
            RepoError::NewerFormat { key, what } => self.place(DamageKind::Unreadable, &key, None, what),
            RepoError::Storage { source, .. } => {
                self.place(DamageKind::Unreadable, object, None, source.to_string())
            }
            other => return Err(Error::from(other)),
        })
    }

    /// Adds backups that need the place.
    pub(super) fn needed_by(&self, place: &PlaceName, backups: impl IntoIterator<Item = BackupId>) {
        if let Some(entry) = self.places().entries.get_mut(&place.0) {
            entry.backups.extend(backups);
        }
    }

    /// Adds blocks `first..=last` of a file.
    pub(super) fn touches(&self, place: &PlaceName, file: &FileName, first: u32, last: u32) {
        let mut places = self.places();
        let Some(entry) = places.entries.get_mut(&place.0) else { return };
        if entry.files.len() >= MAX_FILES && !entry.files.contains_key(&file.path) {
            entry.files_not_listed += 1;
            return;
        }
        let relation = file.relation.as_ref();
        let damaged = entry.files.entry(file.path.clone()).or_insert_with(|| DamagedFile {
            path: file.path.clone(),
            tablespace: relation.map(|relation| relation.locator.tablespace),
            database: relation.map(|relation| relation.locator.database),
            relfilenode: relation.map(|relation| relation.locator.number),
            fork: relation.map(|relation| relation.fork),
            segment: relation.map(|relation| relation.segment),
            blocks: Vec::new(),
        });
        add_range(&mut damaged.blocks, BlockRange { first, last });
    }

    /// Everything, and how many places are not in it.
    pub(super) fn take(&self) -> (Vec<Damage>, u64) {
        let places = std::mem::take(&mut *self.places());
        let damage = places.entries.into_iter().map(|((object, offset, kind), entry)| Damage {
            kind,
            object,
            offset,
            what: entry.what,
            files: entry.files.into_values().collect(),
            files_not_listed: entry.files_not_listed,
            backups: entry.backups.iter().map(ToString::to_string).collect(),
            windows: Vec::new(),
        });
        (damage.collect(), places.not_listed)
    }
}

/// Keeps ranges ascending, and neighbours together.
fn add_range(ranges: &mut Vec<BlockRange>, new: BlockRange) {
    let mut merged = new;
    ranges.retain(|range| {
        let apart =
            range.last.saturating_add(1) < merged.first || merged.last.saturating_add(1) < range.first;
        if !apart {
            merged.first = merged.first.min(range.first);
            merged.last = merged.last.max(range.last);
        }
        apart
    });
    if ranges.len() < MAX_RANGES {
        let at = ranges.partition_point(|range| range.first < merged.first);
        ranges.insert(at, merged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_blocks_are_merged() {
        let mut ranges = Vec::new();
        for (first, last) in [(10, 12), (1, 1), (13, 13), (5, 20), (30, 30)] {
            add_range(&mut ranges, BlockRange { first, last });
        }
        let shape: Vec<_> = ranges.iter().map(|range| (range.first, range.last)).collect();
        assert_eq!(shape, [(1, 1), (5, 20), (30, 30)]);
    }

    #[test]
    fn a_place_is_one_entry_however_often_it_is_met() {
        let findings = Findings::default();
        for _ in 0..3 {
            let place = findings.place(DamageKind::Corrupt, "pack", Some(64), "rotten");
            let file = FileName {
                path: "base/5/16384.1".into(),
                relation: RelationFile::parse_path("base/5/16384.1", ""),
            };
            findings.touches(&place, &file, 0, 15);
        }
        let (damage, not_listed) = findings.take();
        assert_eq!((damage.len(), not_listed), (1, 0));
        assert_eq!(damage[0].files[0].relfilenode, Some(16384));
        assert_eq!(damage[0].files[0].segment, Some(1));
        assert_eq!(damage[0].files[0].blocks, [BlockRange { first: 0, last: 15 }]);
    }
}
