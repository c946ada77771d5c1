//! Dumps: databases as archives of `pg_dump`, kept as backups are. See `docs/format/dump.md`.
//!
//! A dump is a set of *parts*: an archive for each database, and perhaps the script of what belongs to none. The bytes of
//! a part are cut into frames, which lie in packs of the dump's own; the manifest, written last, makes the dump exist. A
//! dump refers to no pack of another, and no backup refers to one of its packs, so any can go at any time.
//!
//! Epochs are shared with backups, so an id names one thing of a stanza, and [`DumpId`] is the same type.

mod archive_reader;
mod inventory;
mod manifest;
mod reader;
mod writer;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Hex;
use crate::error::Result;
use crate::lease::{self, LeaseInfo};
use crate::manifest::{PackEntry, number_as_text};
use crate::{BackupId, Compression, RepoError, Stanza, key};

pub use archive_reader::DumpPartReader;
pub use inventory::DumpInventory;
pub(crate) use manifest::answer_lines;
pub use reader::{DumpReader, PartHasher};
pub use writer::DumpWriter;

/// Names a dump. Epochs are given out once to backups and dumps together.
pub type DumpId = BackupId;

/// What a part of a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpPartKind {
    /// A database, as an archive of `pg_dump` in the custom format.
    Archive,
    /// What belongs to no database, as a script for psql.
    Globals,
}

/// A part of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpPart {
    /// What it is.
    pub kind: DumpPartKind,
    /// The database; none for globals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Its bytes.
    pub size: u64,
    /// The digest of its bytes.
    pub(crate) digest: Hex<16>,
    /// Entries of the archive's table of contents.
    #[serde(default)]
    pub entries: u64,
    /// Entries with rows.
    #[serde(default)]
    pub tables: u64,
    /// Rows of all of them.
    #[serde(default)]
    pub rows: u64,
}

/// The rows of an entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedTable {
    /// The entry's number in the archive.
    pub entry: u32,
    /// Its schema.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// Its name.
    pub name: String,
    /// How many rows it has; none where they are not lines of COPY (large objects).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// How many bytes.
    pub bytes: u64,
}

/// The first line of the manifest of a dump. Fields marked *(writer)* are filled by [`DumpWriter::commit`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DumpHeader {
    /// Version of the repository format *(writer)*.
    pub format: u32,
    /// The dump *(writer)*.
    pub id: DumpId,
    /// The epoch in its id *(writer)*.
    pub epoch: u32,
    /// The stanza *(writer)*.
    pub stanza: String,
    /// The sequence of the cluster's record in the history of the stanza.
    pub record: u32,
    /// The program that wrote it.
    pub written_by: String,
    /// The machine that it ran on.
    #[serde(default)]
    pub host: String,
    /// Identifies the cluster.
    #[serde(with = "number_as_text")]
    pub system_identifier: u64,
    /// The server's version, as in `170002`.
    pub server_version_num: u32,
    /// When it began, by the clock of the machine that wrote it.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// What was asked beside the names of databases, as options of the command line.
    #[serde(default)]
    pub options: Vec<String>,
    /// Codec and level of its frames.
    pub compression: String,
    /// What the user noted.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Its parts, globals first *(writer)*.
    #[serde(default)]
    pub parts: Vec<DumpPart>,
    /// Bytes that it takes in the repository, its manifest not counted *(writer)*.
    #[serde(default)]
    pub stored_bytes: u64,
    /// Its packs *(writer)*.
    #[serde(default)]
    pub packs: Vec<PackEntry>,
}

impl DumpHeader {
    /// Bytes of all parts.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.size))
    }

    /// Rows of all parts.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.rows))
    }

    /// Entries with rows of all parts.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.tables))
    }

    /// Its databases, in order.
    pub fn databases(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| part.database.as_deref())
    }

    /// Whether it has what belongs to no database.
    #[must_use]
    pub fn has_globals(&self) -> bool {
        self.parts.iter().any(|part| part.kind == DumpPartKind::Globals)
    }
}

impl Default for DumpHeader {
    fn default() -> DumpHeader {
        DumpHeader {
            format: u32::from(crate::FORMAT),
            id: DumpId::new(1, Timestamp::UNIX_EPOCH),
            epoch: 0,
            stanza: String::new(),
            record: 1,
            written_by: String::new(),
            host: String::new(),
            system_identifier: 0,
            server_version_num: 0,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            options: Vec::new(),
            compression: String::new(),
            annotations: BTreeMap::new(),
            parts: Vec::new(),
            stored_bytes: 0,
            packs: Vec::new(),
        }
    }
}

/// A dump in a listing. One that cannot be read is listed too, with the reason.
#[derive(Debug)]
pub struct DumpListing {
    /// The dump.
    pub id: DumpId,
    /// The first line of its manifest.
    pub header: Result<DumpHeader>,
}

impl Stanza {
    /// The ids of everything in the folder of dumps, committed or not, sorted.
    pub(crate) fn dump_folders(&self) -> Result<Vec<DumpId>> {
        let names = self.repository().store().list_names(&key::dumps(self.name()))?;
        let mut ids: Vec<DumpId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// All dumps, oldest first: those whose manifest exists.
    ///
    /// # Errors
    /// When the storage fails. A manifest that cannot be read is an entry of the list, not an error.
    pub fn dumps(&self) -> Result<Vec<DumpListing>> {
        let mut found = Vec::new();
        for id in self.dump_folders()? {
            match manifest::read_header(self, id) {
                Err(RepoError::NotFound { .. }) => {}
                header => found.push(DumpListing { id, header: header.map(|(header, _)| header) }),
            }
        }
        Ok(found)
    }

    /// Opens a dump for reading.
    ///
    /// # Errors
    /// [`RepoError::DumpNotFound`], [`RepoError::Corrupt`], or when the storage fails.
    pub fn dump(&self, id: DumpId) -> Result<DumpReader> {
        DumpReader::open(self, id)
    }

    /// Begins a dump: claims an epoch. Nothing else is written yet. The verb of the lease is set here.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn begin_dump(
        &self,
        now: Timestamp,
        lease: LeaseInfo,
        compression: Compression,
    ) -> Result<DumpWriter> {
        let lease = LeaseInfo { verb: lease::DUMP.to_owned(), ..lease };
        let id = lease::claim(self, now, &lease)?;
        DumpWriter::begin(self, id, compression)
    }
}
