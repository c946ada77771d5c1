//! Checks a whole pack: header, every frame, index, trailer, as `docs/format/pack.md` has them.
//!
//! The stored bytes are checked without decompressing them, which finds rot at the speed of reading; the digests only
//! with. Nothing is changed, whatever is found.

use crate::backup_reader::BackupReader;
use crate::bytes::Malformed;
use crate::error::Result;
use crate::frame::{FRAME_HEADER_LEN, FrameDecoder, FrameHeader, FrameKind, FrameRef};
use crate::frame_fetcher::{FrameFetcher, StoredFrame};
use crate::manifest::PackEntry;
use crate::pack::{IndexEntry, PACK_HEADER_LEN, PACK_TRAILER_LEN, PackHeader, PackTrailer, decode_index};
use crate::stanza::Stanza;
use crate::{RepoError, key};

/// How thoroughly a pack is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackCheck {
    /// It is there, with the right size, header, trailer and index.
    Structure,
    /// And every stored byte has its checksum: finds rot at the speed of reading.
    Checksums,
    /// And every frame decodes to the bytes of its digest.
    Digests,
}

/// What a pack holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackContents {
    /// Frames, the index not counted.
    pub frames: u64,
    /// Their plain bytes.
    pub raw_bytes: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
}

impl BackupReader {
    /// Checks a pack that this backup needs.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] with the pack and the offset of what is wrong, [`RepoError::NotFound`] where it is gone, or
    /// when the storage fails.
    pub fn check_pack(&self, pack: &PackEntry, depth: PackCheck) -> Result<PackContents> {
        let entries = self.pack_index(pack)?;
        let mut contents = PackContents::default();
        let mut decoder = self.frames().decoder();
        let mut plain = Vec::new();
        // Groups that one read can have.
        for group in entries.chunks(64) {
            let frames: Vec<FrameRef> = group.iter().map(|entry| entry.frame).collect();
            for frame in &frames {
                contents.frames += 1;
                contents.raw_bytes += u64::from(frame.raw_len);
                contents.stored_bytes += u64::from(frame.stored_len);
            }
            if depth == PackCheck::Structure {
                continue;
            }
            for (stored, entry) in self.frames().fetch(&frames)?.iter().zip(group) {
                if depth == PackCheck::Digests {
                    self.frames().check_frame(entry, &mut decoder, stored, &mut plain)?;
                } else {
                    self.frames().check_header(entry, stored)?;
                }
            }
        }
        Ok(contents)
    }

    /// The frames of a pack, by its index, after checking header, index and trailer.
    ///
    /// # Errors
    /// As [`BackupReader::check_pack`].
    pub fn pack_index(&self, pack: &PackEntry) -> Result<Vec<IndexEntry>> {
        self.stanza().pack_index(self.frames(), pack)
    }
}

impl FrameFetcher {
    /// Checks and decodes a stored frame of any kind that the index of its pack names.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] with the pack and the offset of the frame.
    pub fn check_frame(
        &self,
        entry: &IndexEntry,
        decoder: &mut FrameDecoder,
        stored: &StoredFrame,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        self.check_header(entry, stored)?;
        self.decode_as(entry.kind, decoder, stored, plain)
    }

    fn check_header(&self, entry: &IndexEntry, stored: &StoredFrame) -> Result<()> {
        let header = self.check_stored(stored)?;
        if header.kind != entry.kind || header.raw_len != entry.frame.raw_len {
            let what = "the index says something else about a frame than its header";
            return Err(RepoError::corrupt(self.pack_key(&entry.frame), entry.frame.offset, what));
        }
        Ok(())
    }
}

impl Stanza {
    /// Reads frames of these packs, whichever backups need them. `block_size` is that of their cluster.
    #[must_use]
    pub fn frames_of(&self, block_size: u32, packs: &[PackEntry]) -> FrameFetcher {
        let repository = self.repository();
        FrameFetcher::new(
            repository.store().clone(),
            repository.digest_key().clone(),
            block_size,
            self.name(),
            packs,
            key::pack,
        )
    }

    /// The frames of a pack, by its index, after checking header, index and trailer.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] with the pack and the offset of what is wrong, [`RepoError::NotFound`] where it is gone, or
    /// when the storage fails.
    pub fn pack_index(&self, frames: &FrameFetcher, pack: &PackEntry) -> Result<Vec<IndexEntry>> {
        let store = self.repository().store();
        let key = frames.key_of(pack).unwrap_or_else(|| key::pack(self.name(), pack.backup, pack.number));
        let corrupt = |offset: u64, what: &str| RepoError::corrupt(key.clone(), offset, what);
        let (head, size) = store.get_start(&key, PACK_HEADER_LEN as u64)?;
        let header = PackHeader::decode(&key, &head)?;
        let known = (header.repository_id, header.pack_id, header.epoch, header.number);
        if known != (self.repository().id_bytes(), pack.id.0, pack.epoch, pack.number) {
            return Err(corrupt(0, "it is another pack than the manifest says"));
        }
        if size != pack.size || size < (PACK_HEADER_LEN + PACK_TRAILER_LEN) as u64 {
            return Err(corrupt(size.min(pack.size), "it does not have the size that the manifest says"));
        }
        let end = size - PACK_TRAILER_LEN as u64;
        let trailer =
            PackTrailer::decode(&store.get_range(&key, end..size)?).map_err(|m| corrupt(end, m.0))?;
        let index_end = trailer.index_offset.checked_add(u64::from(trailer.index_len));
        if trailer.pack_id != header.pack_id || index_end != Some(end) {
            return Err(corrupt(end, "its end does not fit it"));
        }
        let entries = self.read_index(frames, &key, pack, &trailer).map_err(|error| match error {
            IndexError::Repo(error) => error,
            IndexError::Malformed(m) => corrupt(trailer.index_offset, m.0),
        })?;
        Ok(entries)
    }

    /// The frames of a pack whose index or end cannot be read, found one after another by their own headers; and where
    /// that ends before the pack does, from which offset on nothing is known. Nothing about the frames is proved yet.
    ///
    /// # Errors
    /// [`RepoError::NotFound`] where the pack is gone, or when the storage fails.
    pub fn scan_pack(&self, pack: &PackEntry) -> Result<(Vec<IndexEntry>, Option<u64>)> {
        let store = self.repository().store();
        let key = key::pack(self.name(), pack.backup, pack.number);
        let size = store.head(&key)?.ok_or_else(|| RepoError::NotFound { key: key.clone() })?;
        let mut entries = Vec::new();
        let mut at = PACK_HEADER_LEN as u64;
        while at < pack.size.saturating_sub(PACK_TRAILER_LEN as u64) {
            if at.saturating_add(FRAME_HEADER_LEN as u64) > size {
                return Ok((entries, Some(at)));
            }
            let head = store.get_range(&key, at..at + FRAME_HEADER_LEN as u64)?;
            let Ok(header) = FrameHeader::parse_unchecked(&head) else { return Ok((entries, Some(at))) };
            let frame = FrameRef {
                epoch: pack.epoch,
                pack: pack.number,
                offset: at,
                stored_len: header.stored_len,
                raw_len: header.raw_len,
            };
            if frame.check().is_err() || frame.end() > pack.size {
                return Ok((entries, Some(at)));
            }
            if header.kind == FrameKind::Index {
                return Ok((entries, None));
            }
            entries.push(IndexEntry { kind: header.kind, frame });
            at = frame.end();
        }
        Ok((entries, None))
    }

    /// Index frames follow each other up to the trailer; each says in its header how long it is.
    fn read_index(
        &self,
        frames: &FrameFetcher,
        key: &str,
        pack: &PackEntry,
        trailer: &PackTrailer,
    ) -> Result<Vec<IndexEntry>, IndexError> {
        let store = self.repository().store();
        let end = trailer.index_offset + u64::from(trailer.index_len);
        let mut entries = Vec::new();
        let mut next_frame = PACK_HEADER_LEN as u64;
        let mut at = trailer.index_offset;
        while at < end {
            let head_end = at.saturating_add(FRAME_HEADER_LEN as u64).min(end);
            let head = FrameHeader::parse_unchecked(&store.get_range(key, at..head_end)?)?;
            let frame = FrameRef {
                epoch: pack.epoch,
                pack: pack.number,
                offset: at,
                stored_len: head.stored_len,
                raw_len: head.raw_len,
            };
            if head.kind != FrameKind::Index || frame.end() > end {
                return Err(Malformed("its index does not fit").into());
            }
            decode_index(
                &frames.read_as(FrameKind::Index, frame)?,
                pack.epoch,
                pack.number,
                &mut next_frame,
                &mut entries,
            )?;
            at = frame.end();
        }
        if next_frame != trailer.index_offset || entries.len() != trailer.frames as usize {
            return Err(Malformed("its index does not list all frames").into());
        }
        Ok(entries)
    }
}

enum IndexError {
    Repo(RepoError),
    Malformed(Malformed),
}

impl From<RepoError> for IndexError {
    fn from(error: RepoError) -> IndexError {
        IndexError::Repo(error)
    }
}

impl From<Malformed> for IndexError {
    fn from(malformed: Malformed) -> IndexError {
        IndexError::Malformed(malformed)
    }
}
