//! Tails: the beginning of a segment that is not whole yet, stored by a receiver again and again as it grows.
//!
//! Each is an object of its own, `<stanza>/wal/<record>/<tli>/tail/<segment>-<length>`, a partial segment as
//! `docs/format/wal-object.md` has it; the longest one counts. A receiver removes those that a longer one, or the whole
//! segment, made superfluous. Nothing that must stay rests upon a tail: who reads one has to bear that it is gone, since
//! there is a better object then.

use pgkeep_format::{TimelineId, WalFileName, WalSegmentName};

use crate::RepoError;
use crate::error::Result;
use crate::wal_archive::WalArchive;
use crate::wal_object::{self, WalFile, WalHeader, WalObject};

/// How often a tail is looked for anew that was removed between listing and reading.
const ATTEMPTS: usize = 5;

/// A tail by its name. Ordered by segment, then length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalTail {
    /// Of which segment.
    pub segment: WalSegmentName,
    /// Bytes that it has.
    pub length: u32,
}

impl WalArchive {
    fn tail_folder(&self, timeline: TimelineId) -> String {
        format!("{}/tail", self.timeline_folder(timeline))
    }

    /// The key of a tail.
    #[must_use]
    pub fn tail_key(&self, tail: WalTail) -> String {
        let folder = self.tail_folder(tail.segment.timeline);
        format!("{folder}/{}-{:08X}", tail.segment.file_name(self.segment_size()), tail.length)
    }

    /// Stores the beginning of a segment, durably; `object` is named as a partial segment. One of that length which is there
    /// already is left.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where it is not a partial segment, or when the storage fails.
    pub fn put_tail(&self, object: &WalObject<'_>) -> Result<WalTail> {
        let (WalFileName::Partial(segment), Ok(length)) = (object.name, u32::try_from(object.bytes.len()))
        else {
            return Err(RepoError::unrepresentable(format!("`{}` as a tail", object.file_name())));
        };
        let tail = WalTail { segment, length };
        let repository = self.stanza().repository();
        let encoded = wal_object::encode(object, repository.id_bytes(), repository.digest_key())?;
        repository.store().put_new_chunks(&self.tail_key(tail), encoded.chunks)?;
        Ok(tail)
    }

    /// The tails of a timeline, ascending.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn tails(&self, timeline: TimelineId) -> Result<Vec<WalTail>> {
        let names = self.stanza().repository().store().list_names(&self.tail_folder(timeline))?;
        let mut found: Vec<WalTail> =
            names.iter().filter_map(|name| self.parse_tail(timeline, name)).collect();
        found.sort();
        Ok(found)
    }

    fn parse_tail(&self, timeline: TimelineId, name: &str) -> Option<WalTail> {
        let (segment, length) = name.split_once('-')?;
        let segment = WalSegmentName::parse(segment, self.segment_size())?;
        let length = u32::from_str_radix(length, 16).ok()?;
        let tail = WalTail { segment, length };
        (segment.timeline == timeline && self.tail_key(tail).ends_with(&format!("/{name}"))).then_some(tail)
    }

    /// Removes a tail; fine when it is gone already.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn remove_tail(&self, tail: WalTail) -> Result<()> {
        self.stanza().repository().store().delete(&self.tail_key(tail))
    }

    /// One tail, proved by its digest, its encoded block summary decompressed; none where it is gone.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails.
    pub fn tail(&self, tail: WalTail) -> Result<Option<(WalFile, Vec<u8>)>> {
        let repository = self.stanza().repository();
        let key = self.tail_key(tail);
        let Some(bytes) = repository.store().get_optional(&key)? else { return Ok(None) };
        let file = wal_object::decode(&key, &bytes, repository.id_bytes(), repository.digest_key())?;
        self.check_name(&key, &file.header, WalFileName::Partial(tail.segment))?;
        if file.bytes.len() as u64 != u64::from(tail.length) {
            return Err(RepoError::corrupt(&key, 0, "it has not the length that its name says"));
        }
        match self.read_summary(&key, WalFileName::Partial(tail.segment)) {
            Ok((_, summary)) => Ok(Some((file, summary))),
            Err(RepoError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The longest tail of a segment, proved by its digest.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails.
    pub fn newest_tail(&self, segment: WalSegmentName) -> Result<Option<WalFile>> {
        let repository = self.stanza().repository();
        self.with_newest_tail(segment, |key| {
            let Some(bytes) = repository.store().get_optional(key)? else { return Ok(None) };
            let file = wal_object::decode(key, &bytes, repository.id_bytes(), repository.digest_key())?;
            self.check_name(key, &file.header, WalFileName::Partial(segment))?;
            Ok(Some(file))
        })
    }

    /// Header and encoded block summary of the longest tail of a segment.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], or when the storage fails.
    pub fn newest_tail_summary(&self, segment: WalSegmentName) -> Result<Option<(WalHeader, Vec<u8>)>> {
        self.with_newest_tail(segment, |key| match self.read_summary(key, WalFileName::Partial(segment)) {
            Ok(found) => Ok(Some(found)),
            Err(RepoError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Reads with the key of the longest tail; looks again where that was removed meanwhile, which is for a better one.
    fn with_newest_tail<T>(
        &self,
        segment: WalSegmentName,
        read: impl Fn(&str) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        for _ in 0..ATTEMPTS {
            let tails = self.tails(segment.timeline)?;
            let Some(newest) = tails.into_iter().rfind(|tail| tail.segment == segment) else { break };
            if let Some(found) = read(&self.tail_key(newest))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
