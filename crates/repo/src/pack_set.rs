//! The packs of a backup that is being written: one is open, one is being made durable, the others are.
//!
//! A pack that is full is made durable on a thread of its own while the next one fills. A journal of what lies in the open
//! pack goes into it, so that a later backup can go on with the packs of one that was interrupted.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::digest::Hex;
use crate::error::Result;
use crate::frame::{EncodedFrame, FrameKind, FrameRef, MAX_BLOCKS_FRAME, MetaEncoder};
use crate::journal::{JournalWriter, PlacedBlocks};
use crate::manifest::PackEntry;
use crate::map_writer::FrameSink;
use crate::pack::PackWriter;
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, StanzaName, key};

/// Packs are closed at this size unless told otherwise.
const PACK_BYTES: u64 = 256 << 20;
/// And when they have been open for so long and hold so much: only whole packs outlive an interruption.
const PACK_TIME: Duration = Duration::from_secs(300);
const LEAST_TIMED_BYTES: u64 = 4 << 20;

/// What writes packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PackOrigin {
    Backup,
    Dump,
}

impl PackOrigin {
    fn key(self, stanza: &StanzaName, id: BackupId, number: u32) -> String {
        match self {
            PackOrigin::Backup => key::pack(stanza, id, number),
            PackOrigin::Dump => key::dump_pack(stanza, id, number),
        }
    }
}

/// The packs of one backup: finished ones, and the one that is open.
#[derive(Debug)]
pub(crate) struct PackSet {
    stanza: Stanza,
    id: BackupId,
    /// What writes them.
    origin: PackOrigin,
    pack_bytes: u64,
    pack_time: Duration,
    meta: MetaEncoder,
    open: Option<PackWriter>,
    open_since: Instant,
    journal: JournalWriter,
    /// Stored bytes of frames that the journals speak of: of this backup's own making, and copied.
    journaled: (u64, u64),
    finishing: Option<JoinHandle<Result<()>>>,
    written: Vec<PackEntry>,
    closed_bytes: u64,
    next_number: u32,
}

impl PackSet {
    /// None yet, of a backup.
    pub(crate) fn new(stanza: &Stanza, id: BackupId, block_size: u32) -> PackSet {
        PackSet::at(PackOrigin::Backup, stanza, id, block_size)
    }

    /// None yet.
    pub(crate) fn at(origin: PackOrigin, stanza: &Stanza, id: BackupId, block_size: u32) -> PackSet {
        let record = stanza.records().last().map_or(0, |record| record.sequence);
        PackSet {
            stanza: stanza.clone(),
            id,
            origin,
            pack_bytes: PACK_BYTES,
            pack_time: PACK_TIME,
            meta: MetaEncoder::new(stanza.repository().digest_key().clone()),
            open: None,
            open_since: Instant::now(),
            journal: JournalWriter::new(record, block_size),
            journaled: (0, 0),
            finishing: None,
            written: Vec::new(),
            closed_bytes: 0,
            next_number: 1,
        }
    }

    /// Closes packs at another size than 256 MiB.
    pub(crate) fn set_pack_bytes(&mut self, bytes: u64) {
        self.pack_bytes = bytes.max(MAX_BLOCKS_FRAME as u64);
    }

    /// The packs that are closed, to be listed.
    pub(crate) fn take_written(&mut self) -> Vec<PackEntry> {
        std::mem::take(&mut self.written)
    }

    pub(crate) fn append(&mut self, kind: FrameKind, frame: EncodedFrame) -> Result<FrameRef> {
        if let Some(open) = &self.open {
            let is_full = open.size() + frame.bytes.len() as u64 > self.pack_bytes;
            if is_full || (open.size() >= LEAST_TIMED_BYTES && self.open_since.elapsed() >= self.pack_time) {
                self.close()?;
            }
        }
        if self.open.is_none() {
            let number = self.next_number;
            let key = self.origin.key(self.stanza.name(), self.id, number);
            let repository = self.stanza.repository();
            let pack = PackWriter::begin(
                repository.store(),
                &key,
                repository.id_bytes(),
                self.id.epoch(),
                number,
                self.origin == PackOrigin::Dump,
            )?;
            self.next_number += 1;
            self.open = Some(pack);
            self.open_since = Instant::now();
        }
        match &mut self.open {
            Some(open) => open.append(kind, frame),
            None => Err(RepoError::unrepresentable("a frame outside of a pack")),
        }
    }

    /// Appends a frame of blocks, and notes what it holds.
    pub(crate) fn append_blocks(
        &mut self,
        frame: EncodedFrame,
        blocks: &[PlacedBlocks<'_>],
    ) -> Result<FrameRef> {
        let is_copy = frame.is_copy;
        let place = self.append(FrameKind::Blocks, frame)?;
        if !blocks.is_empty() {
            let bytes = if is_copy { &mut self.journaled.1 } else { &mut self.journaled.0 };
            *bytes += u64::from(place.stored_len);
            self.journal.add(&place, blocks);
            if let (Some(open), Some(full)) = (&mut self.open, self.journal.take_full()) {
                open.append(FrameKind::Journal, self.meta.encode(FrameKind::Journal, &full))?;
            }
        }
        Ok(place)
    }

    /// Seals the open pack and lets a thread make it durable; one at a time, so that memory stays bounded.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if let Some(journal) = self.journal.take() {
            open.append(FrameKind::Journal, self.meta.encode(FrameKind::Journal, &journal))?;
        }
        let sealed = open.seal(&mut self.meta)?;
        self.wait()?;
        self.written.push(PackEntry {
            epoch: sealed.header.epoch,
            backup: self.id,
            number: sealed.header.number,
            id: Hex(sealed.header.pack_id),
            size: sealed.size,
            live_bytes: 0,
        });
        self.closed_bytes += sealed.size;
        let thread = std::thread::Builder::new().name("finish pack".to_owned());
        let finishing = thread
            .spawn(move || sealed.finish())
            .map_err(|e| RepoError::from_store("finish", "a pack", e))?;
        self.finishing = Some(finishing);
        Ok(())
    }

    pub(crate) fn wait(&mut self) -> Result<()> {
        match self.finishing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(finished)) => finished,
            Some(Err(_)) => Err(RepoError::unrepresentable("a pack: its thread panicked")),
        }
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        self.closed_bytes + self.open.as_ref().map_or(0, PackWriter::size)
    }

    /// Leaves whole packs for the next backup to go on with, where it has more of them than of what it copied itself.
    pub(crate) fn leave(&mut self) -> bool {
        let (made, copied) = self.journaled;
        if made <= copied {
            self.discard();
            return false;
        }
        // What cannot be finished is not there, and the rest may still be of use.
        drop(self.close());
        drop(self.wait());
        true
    }

    /// Removes what was written, as far as that is possible.
    pub(crate) fn discard(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
        }
        drop(self.wait());
        for number in 1..self.next_number {
            let key = self.origin.key(self.stanza.name(), self.id, number);
            drop(self.stanza.repository().store().delete(&key));
        }
    }
}

impl FrameSink for PackSet {
    fn put(&mut self, kind: FrameKind, raw: &[u8]) -> Result<FrameRef> {
        let frame = self.meta.encode(kind, raw);
        self.append(kind, frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockEncoder, Compression, LeaseInfo, Repository, Store};

    #[test]
    fn a_pack_that_has_been_open_for_long_is_closed_when_it_holds_enough() {
        let directory = tempfile::tempdir().unwrap();
        let location = directory.path().join("repo").display().to_string();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let repository = Repository::create(Store::open_or_create(&location).unwrap(), now).unwrap();
        let cluster = crate::ClusterRecord {
            sequence: 0,
            system_identifier: 7,
            major: 17,
            catalog_version: 202_406_281,
            wal_segment_size: 1 << 20,
            block_size: 8192,
            created: now,
        };
        let stanza = repository.create_stanza("main", &cluster).unwrap();
        let info = LeaseInfo { verb: "backup".into(), host: "h".into(), pid: 1, program: "test".into() };
        let mut encoder = BlockEncoder::new(Compression::None, repository.digest_key().clone(), 8192);
        let mut packs_of = |time: Duration| {
            let writer = stanza.begin_backup(now, info.clone()).unwrap();
            let mut packs = PackSet::new(&stanza, writer.id(), 8192);
            packs.pack_time = time;
            let mut append = |_| packs.append_blocks(encoder.encode(&[7; 1 << 20]), &[]).unwrap().pack;
            let places: Vec<u32> = (0..20).map(&mut append).collect();
            places.into_iter().max().unwrap()
        };
        assert_eq!(packs_of(PACK_TIME), 1);
        assert_eq!(packs_of(Duration::ZERO), 5);
    }
}
