//! What interrupted backups left, for the next one to go on with.
//!
//! A backup that was interrupted leaves whole packs and no manifest. Their journals ([`crate::journal`]) say which blocks lie
//! in them. A later backup copies a frame of them into a pack of its own when the cluster still has its bytes; it never
//! refers to them. So what was left stays rubbish that anybody may remove at any moment: a frame that is gone, or damaged,
//! is one that is not taken over.
//!
//! Memory: which journal frames speak of a file, and a few decoded journal frames; never a list of all blocks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::condemnation::PackName;
use crate::digest::Hex;
use crate::error::Result;
use crate::frame::{EncodedFrame, FrameDecoder, FrameKind, FrameRef};
use crate::frame_fetcher::{FrameFetcher, StoredFrame};
use crate::journal::Journal;
use crate::manifest::PackEntry;
use crate::pack::{PACK_HEADER_LEN, PackHeader};
use crate::stanza::{ClusterRecord, Stanza};
use crate::{BackupId, RepoError, key, lease};

/// Older packs are left aside when so many pairs of journal frame and file are known, each of some 100 bytes.
const MOST_SPANS: usize = 1 << 20;
/// Decoded journal frames that are held, each of some 500 KiB.
const HELD_JOURNALS: usize = 24;

/// The blocks of interrupted backups. Shared by all workers.
#[derive(Debug)]
pub struct Leftovers {
    fetcher: FrameFetcher,
    backups: Vec<BackupId>,
    frames: u64,
    /// For each file the journal frames that speak of it, newest backup first.
    files: HashMap<Box<[u8]>, Vec<Span>>,
    journals: Vec<FrameRef>,
    held: Mutex<VecDeque<(u32, Arc<FilesOfJournal>)>>,
    damaged: AtomicU64,
}

/// Which blocks of a file a journal frame may speak of.
#[derive(Clone, Copy, Debug)]
struct Span {
    first: u32,
    end: u32,
    journal: u32,
}

type FilesOfJournal = HashMap<Box<[u8]>, Vec<LeftRun>>;

#[derive(Clone, Copy, Debug)]
struct LeftRun {
    first_block: u32,
    count: u32,
    frame: FrameRef,
    position: u32,
}

/// Where an interrupted backup put a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftBlock {
    /// The frame.
    pub frame: FrameRef,
    /// The position in it, in blocks.
    pub position: u32,
}

impl Stanza {
    /// What backups of that cluster left that were interrupted after the newest complete one; none where there is nothing.
    /// `own` is the backup that asks: packs that are being removed since before it began are left aside.
    ///
    /// # Errors
    /// When the storage fails. Packs that cannot be read are left aside and counted ([`Leftovers::damaged`]).
    pub fn leftovers(&self, record: &ClusterRecord, own: Option<BackupId>) -> Result<Option<Leftovers>> {
        let own = own.unwrap_or(BackupId::new(u32::MAX, Timestamp::MAX));
        let names = self.interrupted_packs(own)?;
        if names.is_empty() {
            return Ok(None);
        }
        let condemned = self.condemned_packs(own)?;
        let mut damaged = 0;
        let mut packs = Vec::new();
        for name in names.into_iter().filter(|name| !condemned.contains(name)) {
            packs.extend(or_damaged(self.left_pack(name), &mut damaged)?);
        }
        let fetcher = self.frames_of(record.block_size, &packs);
        let mut left = Leftovers {
            fetcher,
            backups: Vec::new(),
            frames: 0,
            files: HashMap::new(),
            journals: Vec::new(),
            held: Mutex::default(),
            damaged: AtomicU64::new(0),
        };
        let mut spans = 0;
        for pack in &packs {
            if spans >= MOST_SPANS {
                break;
            }
            let Some(read) = or_damaged(left.add_pack(self, pack, record), &mut damaged)? else { continue };
            spans += read;
            if read > 0 && left.backups.last() != Some(&pack.backup) {
                left.backups.push(pack.backup);
            }
        }
        left.damaged = AtomicU64::new(damaged);
        Ok((left.frames > 0 || damaged > 0).then_some(left))
    }

    /// Whole packs of backups that were interrupted after the newest complete one, newest first.
    fn interrupted_packs(&self, own: BackupId) -> Result<Vec<PackName>> {
        let mut packs = Vec::new();
        let mut over: Option<HashSet<u32>> = None;
        for backup in self.backup_ids()?.into_iter().rev().filter(|id| id.epoch() < own.epoch()) {
            let names = self.repository().store().list_names(&format!("{}/backup/{backup}", self.name()))?;
            if names.iter().any(|name| name == "manifest") {
                if lease::is_void(self, &key::manifest(self.name(), backup))? {
                    continue;
                }
                break;
            }
            let over = match &mut over {
                Some(over) => over,
                none => {
                    let leases = lease::list(self)?.into_iter();
                    none.insert(leases.filter(|lease| lease.is_over).map(|lease| lease.epoch).collect())
                }
            };
            if over.contains(&backup.epoch()) {
                let numbers = names.iter().rev().filter_map(|name| key::parse_pack(name));
                packs.extend(numbers.map(|number| PackName { backup, number }));
            }
        }
        Ok(packs)
    }

    /// What a manifest would say of a pack, from the pack itself.
    fn left_pack(&self, name: PackName) -> Result<PackEntry> {
        let key = key::pack(self.name(), name.backup, name.number);
        let (head, size) = self.repository().store().get_start(&key, PACK_HEADER_LEN as u64)?;
        let header = PackHeader::decode(&key, &head)?;
        let place = (header.repository_id, header.epoch, header.number);
        if place != (self.repository().id_bytes(), name.backup.epoch(), name.number) {
            return Err(RepoError::corrupt(key, 0, "it is another pack than its name says"));
        }
        Ok(PackEntry {
            epoch: header.epoch,
            backup: name.backup,
            number: name.number,
            id: Hex(header.pack_id),
            size,
            live_bytes: 0,
        })
    }
}

/// Nothing where it is gone, or damaged, which is counted.
fn or_damaged<T>(read: Result<T>, damaged: &mut u64) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(RepoError::NotFound { .. }) => Ok(None),
        Err(RepoError::Corrupt { .. } | RepoError::NewerFormat { .. }) => {
            *damaged += 1;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Leftovers {
    /// Takes up the journals of a pack; answers how many pairs of journal frame and file that made.
    fn add_pack(&mut self, stanza: &Stanza, pack: &PackEntry, record: &ClusterRecord) -> Result<usize> {
        let entries = stanza.pack_index(&self.fetcher, pack)?;
        let mut added = 0;
        for frame in entries.iter().filter(|entry| entry.kind == FrameKind::Journal).map(|entry| entry.frame)
        {
            let journal = self.read_journal(frame)?;
            if (journal.record, journal.block_size) != (record.sequence, record.block_size) {
                continue;
            }
            let number = u32::try_from(self.journals.len())
                .map_err(|_| RepoError::unrepresentable("so many interrupted backups"))?;
            self.journals.push(frame);
            self.frames += u64::from(journal.frames);
            for run in &journal.runs {
                let Some(path) = journal.paths.get(run.path as usize) else { continue };
                let (first, end) = (run.first_block, run.first_block.saturating_add(run.count));
                let spans = match self.files.get_mut(path) {
                    Some(spans) => spans,
                    None => self.files.entry(path.clone()).or_default(),
                };
                match spans.last_mut() {
                    Some(span) if span.journal == number => {
                        (span.first, span.end) = (span.first.min(first), span.end.max(end));
                    }
                    _ => {
                        added += 1;
                        spans.push(Span { first, end, journal: number });
                    }
                }
            }
        }
        Ok(added)
    }

    fn read_journal(&self, frame: FrameRef) -> Result<Journal> {
        let raw = self.fetcher.read_as(FrameKind::Journal, frame)?;
        Journal::decode(&raw, frame.epoch, frame.pack)
            .map_err(|m| RepoError::corrupt(self.fetcher.pack_key(&frame), frame.offset, m.0))
    }

    /// The backups that were interrupted, newest first.
    #[must_use]
    pub fn backups(&self) -> &[BackupId] {
        &self.backups
    }

    /// Frames of blocks that they left.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Packs and frames that turned out to be damaged so far. They are not used.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// A decoder for one thread.
    #[must_use]
    pub fn decoder(&self) -> FrameDecoder {
        self.fetcher.decoder()
    }

    /// Where these blocks of a file may lie: one entry for each block; or an empty list where none is known.
    #[must_use]
    pub fn find(&self, path: &[u8], first: u32, count: u32) -> Vec<Option<LeftBlock>> {
        let mut found = Vec::new();
        let end = first.saturating_add(count);
        for span in self.files.get(path).into_iter().flatten() {
            if span.end <= first || span.first >= end {
                continue;
            }
            let Some(journal) = self.journal(span.journal) else { continue };
            let Some(runs) = journal.get(path) else { continue };
            let from = runs.partition_point(|run| run.first_block.saturating_add(run.count) <= first);
            for run in runs.iter().skip(from).take_while(|run| run.first_block < end) {
                found.resize(count as usize, None);
                for index in 0..run.count {
                    let Some(at) = (run.first_block + index).checked_sub(first) else { continue };
                    // What a newer backup left is there already.
                    if let Some(slot @ None) = found.get_mut(at as usize) {
                        *slot = Some(LeftBlock { frame: run.frame, position: run.position + index });
                    }
                }
            }
        }
        found
    }

    /// A journal frame, decoded; none where it cannot be read any more.
    fn journal(&self, number: u32) -> Option<Arc<FilesOfJournal>> {
        let lock = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, files)) = lock().iter().find(|(held, _)| *held == number) {
            return Some(Arc::clone(files));
        }
        let mut files = FilesOfJournal::new();
        // One that is gone or damaged since it was looked at is remembered as empty.
        match self.read_journal(*self.journals.get(number as usize)?) {
            Ok(journal) => {
                for run in &journal.runs {
                    let Some(path) = journal.paths.get(run.path as usize) else { continue };
                    let left = LeftRun {
                        first_block: run.first_block,
                        count: run.count,
                        frame: run.frame,
                        position: run.position,
                    };
                    match files.get_mut(path) {
                        Some(runs) => runs.push(left),
                        None => drop(files.insert(path.clone(), vec![left])),
                    }
                }
                files.values_mut().for_each(|runs| runs.sort_by_key(|run| run.first_block));
            }
            Err(error) => self.count(&error),
        }
        let files = Arc::new(files);
        let mut held = lock();
        if held.len() >= HELD_JOURNALS {
            held.pop_front();
        }
        held.push_back((number, Arc::clone(&files)));
        Some(files)
    }

    fn count(&self, error: &RepoError) {
        if matches!(error, RepoError::Corrupt { .. } | RepoError::NewerFormat { .. }) {
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads stored frames, as far as they can be read; neighbours with one read.
    #[must_use]
    pub fn fetch(&self, frames: &[FrameRef]) -> Vec<StoredFrame> {
        if let Ok(stored) = self.fetcher.fetch(frames) {
            return stored;
        }
        let one = |frame: &FrameRef| self.fetcher.fetch(std::slice::from_ref(frame));
        let each = frames.iter().map(one).map(|read| read.inspect_err(|error| self.count(error)));
        each.filter_map(std::result::Result::ok).flatten().collect()
    }

    /// Proves a frame and decodes it into `out`; answers it as one that can be appended to another pack, with its stored
    /// bytes. None where it is damaged.
    #[must_use]
    pub fn take_over(
        &self,
        decoder: &mut FrameDecoder,
        stored: &StoredFrame,
        out: &mut Vec<u8>,
    ) -> Option<EncodedFrame> {
        match self.fetcher.decode(decoder, stored, out) {
            Ok(()) => Some(EncodedFrame::copied(stored, decoder.digests())),
            Err(error) => {
                self.count(&error);
                None
            }
        }
    }
}
