//! The WAL of one cluster: every file it archived, by name. Objects are those of `docs/format/wal-object.md`.
//!
//! Names are written once. A second file of a name is accepted when it is the same file and refused when it is
//! another; who wants to keep the other one for a human stores it beside, under its digest. When a file is said to be
//! there, it is durable, also where another process put it there and was killed. So a listing of names is proof of
//! presence.

use pgkeep_format::{TimelineId, WalFileName, WalSegmentName, WalSegmentSize};

use crate::RepoError;
use crate::digest::{Digest32, to_hex};
use crate::error::Result;
use crate::key;
use crate::stanza::{ClusterRecord, Stanza};
use crate::wal_object::{self, WAL_HEADER_LEN, WalFile, WalHeader, WalObject};

/// One read of this size mostly has header and summary.
const FIRST_READ: u64 = 16 << 10;

/// What became of a file that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutWal {
    /// It is stored, durably.
    Stored,
    /// The very same file was stored before, and is durable.
    Identical,
    /// Another file of that name is stored; nothing was changed.
    Different {
        /// Digest of the file that is stored.
        stored_digest: Digest32,
        /// Digest of the file that was refused.
        refused_digest: Digest32,
    },
}

/// The WAL files of one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WalArchive {
    stanza: Stanza,
    record: u32,
    segment_size: WalSegmentSize,
}

impl WalArchive {
    pub(crate) fn new(stanza: &Stanza, record: &ClusterRecord) -> WalArchive {
        // Records with another size are refused when the stanza is opened.
        let segment_size =
            WalSegmentSize::try_from(record.wal_segment_size).unwrap_or(WalSegmentSize::DEFAULT);
        WalArchive { stanza: stanza.clone(), record: record.sequence, segment_size }
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_size(&self) -> WalSegmentSize {
        self.segment_size
    }

    pub(crate) fn stanza(&self) -> &Stanza {
        &self.stanza
    }

    pub(crate) fn timeline_folder(&self, timeline: TimelineId) -> String {
        key::wal_timeline(self.stanza.name(), self.record, timeline)
    }

    /// The key of a WAL file.
    #[must_use]
    pub fn key(&self, name: WalFileName) -> String {
        let file_name = name.file_name(self.segment_size);
        let group = match name {
            WalFileName::TimelineHistory(_) => "history",
            _ => file_name.get(8..16).unwrap_or("history"),
        };
        format!("{}/{group}/{file_name}", self.timeline_folder(name.timeline()))
    }

    fn check_size(&self, object: &WalObject<'_>) -> Result<()> {
        if object.facts.segment_size == self.segment_size {
            return Ok(());
        }
        Err(RepoError::unrepresentable(format!(
            "`{}`: its segment size is not the archive's",
            object.file_name()
        )))
    }

    /// Stores a file durably, unless one of that name is there.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] where the stored file of that name cannot be understood, or when the storage fails.
    pub fn put(&self, object: &WalObject<'_>) -> Result<PutWal> {
        self.check_size(object)?;
        let repository = self.stanza.repository();
        let encoded = wal_object::encode(object, repository.id_bytes(), repository.digest_key())?;
        let key = self.key(object.name);
        if repository.store().put_new_chunks(&key, encoded.chunks)? {
            return Ok(PutWal::Stored);
        }
        let (stored, _, size) = self.read_start(&key)?;
        if stored.object_len() != size {
            return Err(RepoError::corrupt(key, size, "it does not have the length that it declares"));
        }
        let same = stored.digest == encoded.header.digest && stored.raw_len == encoded.header.raw_len;
        if same {
            Ok(PutWal::Identical)
        } else {
            Ok(PutWal::Different { stored_digest: stored.digest, refused_digest: encoded.header.digest })
        }
    }

    /// Keeps a file that was refused because another one has its name, and returns the key under which it lies. Keeping
    /// the same file again changes nothing.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn keep_conflict(&self, object: &WalObject<'_>) -> Result<String> {
        let repository = self.stanza.repository();
        let encoded = wal_object::encode(object, repository.id_bytes(), repository.digest_key())?;
        let digest = to_hex(encoded.header.digest.0.get(..8).unwrap_or_default());
        let folder = self.timeline_folder(object.name.timeline());
        let key = format!("{folder}/conflict/{}-{digest}", object.file_name());
        repository.store().put_new_chunks(&key, encoded.chunks)?;
        Ok(key)
    }

    /// A file, proved by its digest; none where it is certainly not in the archive.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails: then nothing is known about the file.
    pub fn get(&self, name: WalFileName) -> Result<Option<WalFile>> {
        let repository = self.stanza.repository();
        let key = self.key(name);
        let Some(bytes) = repository.store().get_optional(&key)? else {
            return self.confirm_absence().map(|()| None);
        };
        let file = wal_object::decode(&key, &bytes, repository.id_bytes(), repository.digest_key())?;
        self.check_name(&key, &file.header, name)?;
        Ok(Some(file))
    }

    /// What is known about a file without reading it; none where it is certainly not in the archive.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails.
    pub fn header(&self, name: WalFileName) -> Result<Option<WalHeader>> {
        let key = self.key(name);
        match self.read_start(&key) {
            Ok((header, _, _)) => self.check_name(&key, &header, name).map(|()| Some(header)),
            Err(RepoError::NotFound { .. }) => self.confirm_absence().map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Header and encoded block summary of a file; the summary is empty where the file was stored without one.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails.
    pub fn summary(&self, name: WalFileName) -> Result<Option<(WalHeader, Vec<u8>)>> {
        match self.read_summary(&self.key(name), name) {
            Ok(found) => Ok(Some(found)),
            Err(RepoError::NotFound { .. }) => self.confirm_absence().map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// Header and summary of the object with this key, which is to be a file of that name.
    pub(crate) fn read_summary(&self, key: &str, name: WalFileName) -> Result<(WalHeader, Vec<u8>)> {
        let (header, start, _) = self.read_start(key)?;
        self.check_name(key, &header, name)?;
        let end = header.summary_end();
        let stored = match start.get(WAL_HEADER_LEN..end as usize) {
            Some(_) => start.slice(WAL_HEADER_LEN..end as usize),
            None => self.stanza.repository().store().get_range(key, WAL_HEADER_LEN as u64..end)?,
        };
        let summary = header.decode_summary(key, &stored)?;
        Ok((header, summary))
    }

    /// An object that is not found is certainly absent only while the archive itself is there: a directory that was
    /// unmounted has no objects either, and a server that is told "not there" ends its recovery.
    fn confirm_absence(&self) -> Result<()> {
        let store = self.stanza.repository().store();
        match store.head(&key::history(self.stanza.name(), self.record))? {
            Some(_) => Ok(()),
            None => Err(RepoError::NotARepository { location: store.location().to_owned() }),
        }
    }

    fn read_start(&self, key: &str) -> Result<(WalHeader, bytes::Bytes, u64)> {
        let repository = self.stanza.repository();
        let (start, size) = repository.store().get_start(key, FIRST_READ)?;
        Ok((WalHeader::decode(key, &start, repository.id_bytes())?, start, size))
    }

    pub(crate) fn check_name(&self, key: &str, header: &WalHeader, name: WalFileName) -> Result<()> {
        if header.facts.segment_size == self.segment_size && header.fits(name) {
            return Ok(());
        }
        Err(RepoError::corrupt(key, 0, "it is another file than its name says"))
    }

    /// The timelines of which there is anything, ascending.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn timelines(&self) -> Result<Vec<TimelineId>> {
        let folder = key::wal_record(self.stanza.name(), self.record);
        let names = self.stanza.repository().store().list_names(&folder)?;
        let mut found: Vec<TimelineId> = names
            .iter()
            .filter(|name| name.len() == 8)
            .filter_map(|name| TimelineId::new(u32::from_str_radix(name, 16).ok()?))
            .collect();
        found.sort();
        Ok(found)
    }

    /// All files of a timeline except those kept as conflicts and tails, sorted: segments, partial ones, notes, the history.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn list(&self, timeline: TimelineId) -> Result<Vec<WalFileName>> {
        let store = self.stanza.repository().store();
        let folder = self.timeline_folder(timeline);
        let mut found = Vec::new();
        for group in store.list_names(&folder)? {
            if group == "conflict" || group == "tail" {
                continue;
            }
            for file in store.list_names(&format!("{folder}/{group}"))? {
                let name = WalFileName::parse(&file, self.segment_size);
                found.extend(name.filter(|name| self.key(*name) == format!("{folder}/{group}/{file}")));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The whole segments of a timeline, ascending.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn list_segments(&self, timeline: TimelineId) -> Result<Vec<WalSegmentName>> {
        let segment = |name| match name {
            WalFileName::Segment(segment) => Some(segment),
            _ => None,
        };
        Ok(self.list(timeline)?.into_iter().filter_map(segment).collect())
    }

    /// The keys of files kept as conflicts on a timeline.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn conflicts(&self, timeline: TimelineId) -> Result<Vec<String>> {
        let folder = format!("{}/conflict", self.timeline_folder(timeline));
        let names = self.stanza.repository().store().list_names(&folder)?;
        Ok(names.into_iter().map(|name| format!("{folder}/{name}")).collect())
    }

    /// The history file of a timeline; none where it is certainly not in the archive.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<Vec<u8>>> {
        Ok(self.get(WalFileName::TimelineHistory(timeline))?.map(|file| file.bytes))
    }
}
