//! A stanza: the named history of one cluster. See `docs/format/overview.md`.
//!
//! initdb and pg_upgrade give a cluster a new system identifier; each adds a record to the history, and WAL of
//! different records is kept apart. The stanza exists when its first record does. Records are only ever added.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup_reader::{self, BackupReader};
use crate::backup_writer::BackupWriter;
use crate::error::Result;
use crate::key::{self, StanzaName};
use crate::lease::{self, LeaseInfo};
use crate::manifest::{ManifestHeader, number_as_text};
use crate::wal_archive::WalArchive;
use crate::{BackupId, RepoError, Repository};

/// One cluster in the history of a stanza.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its place in the history, from 1; whoever adds the record sets it.
    pub sequence: u32,
    /// The cluster's identity.
    #[serde(with = "number_as_text")]
    pub system_identifier: u64,
    /// Major version of the server.
    pub major: u32,
    /// Version of the system catalogs.
    pub catalog_version: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Bytes of a page.
    pub block_size: u32,
    /// When the record was made.
    pub created: Timestamp,
}

impl ClusterRecord {
    pub(crate) fn numbered(&self, sequence: u32) -> ClusterRecord {
        ClusterRecord { sequence, ..*self }
    }

    /// Sizes are used to cut and to allocate.
    fn is_plausible(&self) -> bool {
        let block = self.block_size;
        block.is_power_of_two()
            && (1 << 10..=32 << 10).contains(&block)
            && pgkeep_format::WalSegmentSize::try_from(self.wal_segment_size).is_ok()
    }
}

/// A backup in a listing. One that cannot be read is listed too, with the reason.
#[derive(Debug)]
pub struct BackupListing {
    /// The backup.
    pub id: BackupId,
    /// The first line of its manifest.
    pub header: Result<ManifestHeader>,
}

/// An open stanza. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stanza {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    repository: Repository,
    name: StanzaName,
    records: Vec<ClusterRecord>,
}

impl Stanza {
    pub(crate) fn open(repository: &Repository, name: &StanzaName) -> Result<Option<Stanza>> {
        let store = repository.store();
        let mut records = Vec::new();
        let mut names = store.list_names(&format!("{name}/history"))?;
        names.retain(|name| key::parse_sequence(name, 6).is_some());
        for entry in names {
            let key = format!("{name}/history/{entry}");
            let record: ClusterRecord = serde_json::from_slice(&store.get(&key)?)
                .map_err(|e| RepoError::corrupt(key.clone(), 0, e.to_string()))?;
            if Some(record.sequence) != key::parse_sequence(&entry, 6) || !record.is_plausible() {
                return Err(RepoError::corrupt(key, 0, "the record is not one of a cluster"));
            }
            records.push(record);
        }
        if records.is_empty() {
            return Ok(None);
        }
        records.sort_by_key(|record| record.sequence);
        Ok(Some(Stanza {
            inner: Arc::new(Inner { repository: repository.clone(), name: name.clone(), records }),
        }))
    }

    pub(crate) fn put_record(
        repository: &Repository,
        name: &StanzaName,
        record: &ClusterRecord,
    ) -> Result<bool> {
        if !record.is_plausible() {
            return Err(RepoError::unrepresentable("a cluster with such sizes of pages or WAL segments"));
        }
        let json = serde_json::to_vec_pretty(record)
            .map_err(|e| RepoError::unrepresentable(format!("the record of a cluster: {e}")))?;
        repository.store().put_new(&key::history(name, record.sequence), json)
    }

    /// The repository that the stanza is in.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.inner.repository
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &StanzaName {
        &self.inner.name
    }

    /// The clusters of its history, oldest first; at least one.
    #[must_use]
    pub fn records(&self) -> &[ClusterRecord] {
        &self.inner.records
    }

    /// The newest record of the cluster with that identifier.
    #[must_use]
    pub fn record_for(&self, system_identifier: u64) -> Option<&ClusterRecord> {
        self.inner.records.iter().rev().find(|record| record.system_identifier == system_identifier)
    }

    /// Adds a cluster to the history, after initdb or pg_upgrade, under the next sequence. Returns the stanza as it is
    /// then.
    ///
    /// # Errors
    /// [`RepoError::AlreadyExists`] where somebody else adds one at the same time, or when the storage fails.
    pub fn add_record(&self, cluster: &ClusterRecord) -> Result<Stanza> {
        let last = self.inner.records.last().map_or(0, |record| record.sequence);
        let record = cluster.numbered(last + 1);
        if !Stanza::put_record(self.repository(), self.name(), &record)? {
            return Err(RepoError::AlreadyExists { key: key::history(self.name(), record.sequence) });
        }
        self.repository().stanza(self.name().as_str())
    }

    /// The ids of everything in the folder of backups, committed or not, sorted.
    pub(crate) fn backup_ids(&self) -> Result<Vec<BackupId>> {
        let names = self.repository().store().list_names(&format!("{}/backup", self.name()))?;
        let mut ids: Vec<BackupId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// All backups, oldest first: those whose manifest exists.
    ///
    /// # Errors
    /// When the storage fails. A manifest that cannot be read is an entry of the list, not an error.
    pub fn backups(&self) -> Result<Vec<BackupListing>> {
        let mut found = Vec::new();
        for id in self.backup_ids()? {
            match backup_reader::read_header(self, id) {
                Err(RepoError::NotFound { .. }) => {}
                header => found.push(BackupListing { id, header: header.map(|(header, _)| header) }),
            }
        }
        Ok(found)
    }

    /// Opens a backup for reading.
    ///
    /// # Errors
    /// [`RepoError::BackupNotFound`], [`RepoError::Corrupt`], or when the storage fails.
    pub fn backup(&self, id: BackupId) -> Result<BackupReader> {
        BackupReader::open(self, id)
    }

    /// Begins a backup of the newest cluster of the history: claims an epoch. Nothing else is written yet.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn begin_backup(&self, now: Timestamp, lease: LeaseInfo) -> Result<BackupWriter> {
        let id = lease::claim(self, now, &lease)?;
        let block_size = self.inner.records.last().map_or(8192, |record| record.block_size);
        Ok(BackupWriter::begin(self, id, block_size))
    }

    /// The WAL archive of a cluster in the history.
    #[must_use]
    pub fn wal(&self, record: &ClusterRecord) -> WalArchive {
        WalArchive::new(self, record)
    }
}
