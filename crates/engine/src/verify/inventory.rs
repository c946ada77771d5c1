//! What there is to verify: manifests, the packs that they need, archived WAL. Built from headers and names.
//!
//! What cannot be read for it is damage and is noted; the rest of the repository is verified all the same.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::{TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::{
    BackupId, ClusterRecord, ManifestHeader, PackEntry, RepoError, Stanza, WalArchive, WalRange,
};

use super::damage::{DamageKind, Findings};
use crate::archive_index::ArchiveIndex;
use crate::error::Result;

/// Packs are verified, and remembered, in windows of so many stored bytes: a frame counts to the one that it begins in.
pub(super) const WINDOW_BYTES: u64 = 1 << 20;

/// A pack by the epoch of the backup that wrote it, and its number there.
pub(crate) type PackId = (u32, u32);

/// A pack that backups need.
#[derive(Clone, Debug)]
pub(super) struct Pack {
    pub(super) entry: PackEntry,
    pub(super) block_size: u32,
    /// Whether any of its backups is of a cluster with page checksums.
    pub(super) checksums: bool,
    /// Who needs it: places in `headers`.
    pub(super) backups: Vec<usize>,
}

impl Pack {
    pub(super) fn windows(&self) -> u64 {
        windows_of(self.entry.size)
    }
}

/// How many windows a pack of that size has.
pub(crate) fn windows_of(size: u64) -> u64 {
    size.div_ceil(WINDOW_BYTES).max(1)
}

/// The WAL of one cluster of the stanza's history.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) record: ClusterRecord,
    pub(super) archive: WalArchive,
    pub(super) index: ArchiveIndex,
    /// Everything but whole segments: histories, notes, partial segments.
    pub(super) others: Vec<WalFileName>,
}

/// All of a stanza.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) stanza: Stanza,
    /// In the order of their ends.
    pub(super) headers: Vec<ManifestHeader>,
    /// Backups whose header cannot be read.
    pub(super) unreadable: Vec<BackupId>,
    pub(super) packs: BTreeMap<PackId, Pack>,
    pub(super) archives: Vec<Archive>,
    /// WAL that `expire` removed from between.
    pub(super) removed_wal: Vec<WalRange>,
}

impl Inventory {
    pub(super) fn load(stanza: &Stanza, findings: &Findings) -> Result<Inventory> {
        let mut inventory = Inventory {
            stanza: stanza.clone(),
            headers: Vec::new(),
            unreadable: Vec::new(),
            packs: BTreeMap::new(),
            archives: Vec::new(),
            removed_wal: stanza.removed_wal()?,
        };
        for listing in stanza.backups()? {
            match listing.header {
                Ok(header) => inventory.headers.push(header),
                Err(error) => {
                    inventory.unreadable.push(listing.id);
                    let place = findings.error(&manifest_key(stanza, listing.id), error)?;
                    findings.needed_by(&place, [listing.id]);
                }
            }
        }
        inventory.headers.sort_by_key(|header| (header.stop_time, header.id));
        for index in 0..inventory.headers.len() {
            inventory.add_packs(index, findings);
        }
        for record in stanza.records() {
            inventory.archives.push(Archive::load(stanza, record, findings)?);
        }
        inventory.compare_with_records(findings);
        Ok(inventory)
    }

    fn add_packs(&mut self, index: usize, findings: &Findings) {
        let header = &self.headers[index];
        let mut contradicts = false;
        for entry in &header.packs {
            let pack = self.packs.entry((entry.epoch, entry.number)).or_insert_with(|| Pack {
                entry: entry.clone(),
                block_size: header.block_size,
                checksums: false,
                backups: Vec::new(),
            });
            // How much of it is needed differs from backup to backup, nothing else.
            let mut known = pack.entry.clone();
            known.live_bytes = entry.live_bytes;
            contradicts |= known != *entry || pack.block_size != header.block_size;
            pack.checksums |= header.checksums;
            pack.backups.push(index);
        }
        if contradicts {
            let what = "it describes a pack otherwise than an older backup does";
            let key = manifest_key(&self.stanza, header.id);
            let place = findings.place(DamageKind::Mismatch, &key, None, what);
            findings.needed_by(&place, [header.id]);
        }
    }

    /// A record has no checksum of its own; what backups say of the same cluster stands in for one.
    fn compare_with_records(&self, findings: &Findings) {
        for header in &self.headers {
            let record = self.stanza.records().iter().find(|record| record.sequence == header.record);
            let agrees = record.is_some_and(|record| {
                (record.system_identifier, record.block_size, record.wal_segment_size, record.major)
                    == (header.system_identifier, header.block_size, header.wal_segment_size, header.major)
            });
            if !agrees {
                let key = format!("{}/history/{:06}.json", self.stanza.name(), header.record);
                let what = "the record of the cluster is not that of its backups";
                let place = findings.place(DamageKind::Mismatch, &key, None, what);
                findings.needed_by(&place, [header.id]);
            }
        }
    }

    /// The places of the backups that need a pack.
    pub(super) fn ids<'a>(&'a self, indexes: &'a [usize]) -> impl Iterator<Item = BackupId> + 'a {
        indexes.iter().filter_map(|index| self.headers.get(*index)).map(|header| header.id)
    }
}

impl Archive {
    fn load(stanza: &Stanza, record: &ClusterRecord, findings: &Findings) -> Result<Archive> {
        let archive = stanza.wal(record);
        let mut segments: BTreeSet<WalSegmentName> = BTreeSet::new();
        let mut others = Vec::new();
        let mut histories = Vec::new();
        for timeline in archive.timelines()? {
            for name in archive.list(timeline)? {
                match name {
                    WalFileName::Segment(segment) => {
                        segments.insert(segment);
                        continue;
                    }
                    WalFileName::TimelineHistory(of) => {
                        // One that cannot be read is reported where all files are read.
                        histories.extend(history(&archive, of));
                    }
                    WalFileName::Partial(_) | WalFileName::BackupHistory { .. } => {}
                }
                others.push(name);
            }
        }
        let index = ArchiveIndex::new(archive.segment_size(), segments, histories);
        let loaded = Archive { record: *record, archive, index, others };
        loaded.check_histories(findings)?;
        Ok(loaded)
    }

    fn check_histories(&self, findings: &Findings) -> Result<()> {
        for name in &self.others {
            let WalFileName::TimelineHistory(timeline) = name else { continue };
            let key = self.archive.key(*name);
            match self.archive.history(*timeline) {
                Ok(Some(bytes)) => {
                    if let Err(error) = TimelineHistory::parse(*timeline, &bytes) {
                        findings.place(DamageKind::Corrupt, &key, None, error.to_string());
                    }
                }
                Ok(None) => {
                    findings.place(DamageKind::Missing, &key, None, "it is not there");
                }
                Err(error) => {
                    findings.error(&key, error)?;
                }
            }
        }
        Ok(())
    }

    /// The segment that an object is.
    pub(super) fn segment_of(&self, object: &str) -> Option<WalSegmentName> {
        let name = WalSegmentName::parse(object.rsplit('/').next()?, self.index.segment_size())?;
        (self.archive.key(WalFileName::Segment(name)) == object).then_some(name)
    }

    pub(super) fn timelines(&self) -> Vec<TimelineId> {
        self.index.timelines_with_wal().collect()
    }
}

fn history(archive: &WalArchive, timeline: TimelineId) -> Option<TimelineHistory> {
    TimelineHistory::parse(timeline, &archive.history(timeline).ok()??).ok()
}

/// The key of a manifest that could not be opened.
pub(super) fn manifest_key(stanza: &Stanza, id: BackupId) -> String {
    format!("{}/backup/{id}/manifest", stanza.name())
}

/// The key of a pack, for messages about one that cannot be opened.
pub(super) fn pack_key(stanza: &Stanza, entry: &PackEntry) -> String {
    format!("{}/backup/{}/pack-{:06}", stanza.name(), entry.backup, entry.number)
}

/// Whether the error says that the repository as a whole cannot be used, and not one object of it.
pub(super) fn is_general(error: &RepoError) -> bool {
    !matches!(
        error,
        RepoError::NotFound { .. }
            | RepoError::Corrupt { .. }
            | RepoError::NewerFormat { .. }
            | RepoError::Storage { .. }
    )
}
