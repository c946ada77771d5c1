//! Reads frames out of packs, proved: right place, right length, right digest.
//!
//! Thread-safe. Neighbouring frames come with one read. Callers that read with many threads fetch stored frames and
//! decode them with a [`FrameDecoder`] of their own; [`FrameFetcher::read`] does both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::backup_writer::frames_end;
use crate::bytes::Malformed;
use crate::error::Result;
use crate::frame::{FrameDecoder, FrameHeader, FrameKind, FramePlace, FrameRef};
use crate::key::StanzaName;
use crate::manifest::PackEntry;
use crate::{BackupId, DigestKey, RepoError, Store};

/// Frames this close are read together with what lies between.
const GAP_BYTES: u64 = 32 << 10;
/// No read is longer.
const READ_BYTES: u64 = 8 << 20;
/// As many decoders wait for their next use; each holds some 200 KiB.
const IDLE_DECODERS: usize = 16;

/// Reads frames of the packs that one backup needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FrameFetcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    key: DigestKey,
    block_size: u32,
    packs: HashMap<(u32, u32), Pack>,
    idle: Mutex<Vec<FrameDecoder>>,
}

#[derive(Debug)]
struct Pack {
    key: String,
    id: [u8; 16],
    size: u64,
}

/// A frame as it is stored, not checked yet.
#[derive(Clone, Debug)]
pub struct StoredFrame {
    /// Where it came from.
    pub frame: FrameRef,
    pub(crate) bytes: Bytes,
}

impl FrameFetcher {
    pub(crate) fn new(
        store: Store,
        key: DigestKey,
        block_size: u32,
        stanza: &StanzaName,
        packs: &[PackEntry],
        key_of: fn(&StanzaName, BackupId, u32) -> String,
    ) -> FrameFetcher {
        let packs = packs
            .iter()
            .map(|pack| {
                let key = key_of(stanza, pack.backup, pack.number);
                ((pack.epoch, pack.number), Pack { key, id: pack.id.0, size: pack.size })
            })
            .collect();
        FrameFetcher { inner: Arc::new(Inner { store, key, block_size, packs, idle: Mutex::default() }) }
    }

    /// A decoder for one thread.
    #[must_use]
    pub fn decoder(&self) -> FrameDecoder {
        FrameDecoder::new(self.inner.key.clone(), self.inner.block_size)
    }

    /// The key of the pack that a frame lies in, for messages.
    #[must_use]
    pub fn pack_key(&self, frame: &FrameRef) -> String {
        match self.inner.packs.get(&(frame.epoch, frame.pack)) {
            Some(pack) => pack.key.clone(),
            None => format!("pack {} of epoch {}", frame.pack, frame.epoch),
        }
    }

    /// The key of a pack of which frames are read; none of another one.
    pub(crate) fn key_of(&self, pack: &PackEntry) -> Option<String> {
        self.inner.packs.get(&(pack.epoch, pack.number)).map(|known| known.key.clone())
    }

    fn pack(&self, frame: &FrameRef) -> Result<&Pack> {
        let pack = self.inner.packs.get(&(frame.epoch, frame.pack));
        let pack = pack.ok_or_else(|| {
            self.corrupt(frame, Malformed("a frame of a pack that the manifest does not list"))
        })?;
        frame.check().map_err(|m| self.corrupt(frame, m))?;
        if frame.end() > frames_end(pack.size) {
            return Err(self.corrupt(frame, Malformed("a frame lies outside of its pack")));
        }
        Ok(pack)
    }

    fn corrupt(&self, frame: &FrameRef, malformed: Malformed) -> RepoError {
        RepoError::corrupt(self.pack_key(frame), frame.offset, malformed.0)
    }

    /// Reads stored frames, in the order asked for; neighbours with one read.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] where a frame cannot be there, [`RepoError::NotFound`] where its pack is gone, or when the
    /// storage fails.
    pub fn fetch(&self, frames: &[FrameRef]) -> Result<Vec<StoredFrame>> {
        let mut order: Vec<(usize, &FrameRef)> = frames.iter().enumerate().collect();
        order.sort_by_key(|(_, frame)| (frame.epoch, frame.pack, frame.offset));
        let mut found: Vec<Option<StoredFrame>> = vec![None; frames.len()];
        let mut rest = order.as_slice();
        while let Some((_, first)) = rest.first() {
            let pack = self.pack(first)?;
            let mut end = first.end();
            let mut count = 1;
            for (_, next) in rest.iter().skip(1) {
                let same_pack = (next.epoch, next.pack) == (first.epoch, first.pack);
                if !same_pack
                    || next.offset > end.saturating_add(GAP_BYTES)
                    || next.end().saturating_sub(first.offset) > READ_BYTES
                {
                    break;
                }
                self.pack(next)?;
                end = end.max(next.end());
                count += 1;
            }
            let bytes = self.inner.store.get_range(&pack.key, first.offset..end)?;
            let (group, later) = rest.split_at(count);
            for (index, frame) in group {
                // Inside the range that was read, whose length is checked.
                let from = (frame.offset - first.offset) as usize;
                let stored = bytes.slice(from..from + frame.stored_len as usize);
                if let Some(slot) = found.get_mut(*index) {
                    *slot = Some(StoredFrame { frame: **frame, bytes: stored });
                }
            }
            rest = later;
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Checks and decodes a stored frame of blocks into `out`, which is cleared first and may be used again and again.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] with the pack and the offset of the frame.
    pub fn decode(&self, decoder: &mut FrameDecoder, stored: &StoredFrame, out: &mut Vec<u8>) -> Result<()> {
        self.decode_as(FrameKind::Blocks, decoder, stored, out)
    }

    /// As [`FrameFetcher::decode`] for a frame of another kind.
    pub(crate) fn decode_as(
        &self,
        kind: FrameKind,
        decoder: &mut FrameDecoder,
        stored: &StoredFrame,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let pack = self.pack(&stored.frame)?;
        let place = FramePlace { pack_id: pack.id, offset: stored.frame.offset };
        let decoded = decoder.decode(&stored.bytes, place, stored.frame.raw_len, out);
        match decoded {
            Ok(found) if found == kind => Ok(()),
            Ok(_) => {
                Err(self.corrupt(&stored.frame, Malformed("the frame is of another kind than was expected")))
            }
            Err(malformed) => Err(self.corrupt(&stored.frame, malformed)),
        }
    }

    /// Checks place, lengths and checksum of a stored frame without decompressing it.
    pub(crate) fn check_stored(&self, stored: &StoredFrame) -> Result<FrameHeader> {
        let pack = self.pack(&stored.frame)?;
        let place = FramePlace { pack_id: pack.id, offset: stored.frame.offset };
        let parsed = FrameHeader::parse(&stored.bytes, place);
        parsed.map(|(header, _)| header).map_err(|m| self.corrupt(&stored.frame, m))
    }

    /// The plain bytes of one frame of blocks, proved.
    ///
    /// # Errors
    /// As [`FrameFetcher::fetch`] and [`FrameFetcher::decode`].
    pub fn read(&self, frame: FrameRef) -> Result<Vec<u8>> {
        self.read_as(FrameKind::Blocks, frame)
    }

    /// As [`FrameFetcher::read`] for a frame of another kind.
    pub(crate) fn read_as(&self, kind: FrameKind, frame: FrameRef) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for stored in self.fetch(&[frame])? {
            self.with_decoder(|decoder| self.decode_as(kind, decoder, &stored, &mut out))?;
        }
        Ok(out)
    }

    /// The plain bytes of several frames of blocks, proved, in the order asked for; neighbours with one read.
    ///
    /// # Errors
    /// As [`FrameFetcher::fetch`] and [`FrameFetcher::decode`].
    pub fn read_coalesced(&self, frames: &[FrameRef]) -> Result<Vec<Vec<u8>>> {
        let stored = self.fetch(frames)?;
        self.with_decoder(|decoder| {
            let decode = |frame: &StoredFrame| {
                let mut out = Vec::new();
                self.decode(decoder, frame, &mut out).map(|_| out)
            };
            stored.iter().map(decode).collect()
        })
    }

    fn with_decoder<T>(&self, work: impl FnOnce(&mut FrameDecoder) -> T) -> T {
        let idle = || self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut decoder = taken.unwrap_or_else(|| self.decoder());
        let done = work(&mut decoder);
        let mut waiting = idle();
        if waiting.len() < IDLE_DECODERS {
            waiting.push(decoder);
        }
        done
    }
}
