//! Reads windows of packs, each frame once, and keeps what the block maps are compared with: digests and page facts of the
//! blocks of every frame, sixteen bytes for each block.
//!
//! A batch is as much as fits into [`BATCH_BLOCKS`]; threads share it window by window. A frame that cannot be read or
//! proved is noted as damage; the batch knows of it, so that the maps then say what it held.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pgkeep_format::page::PageFacts;
use pgkeep_repo::{BlockDigest, FrameFetcher, FrameKind, FrameRef, IndexEntry, RepoError};

use super::damage::{DamageKind, Findings, PlaceName};
use super::inventory::{Inventory, Pack, PackId, WINDOW_BYTES, is_general, pack_key};
use crate::error::{Error, ErrorKind, Result};

/// Blocks whose facts are held at a time: 64 MiB, for 32 GiB of a cluster.
pub(super) const BATCH_BLOCKS: u64 = 4 << 20;
/// Windows of one task.
const TASK_WINDOWS: u64 = 8;
/// Frames of one read.
const GROUP_FRAMES: usize = 64;

/// Frames of one pack that were read together.
#[derive(Debug)]
struct Stretch {
    /// Offsets `from..to` are covered: a frame that begins there is in `frames`, or is not in the pack.
    from: u64,
    to: u64,
    frames: Vec<FrameFacts>,
    digests: Vec<BlockDigest>,
    pages: Vec<PageFacts>,
}

#[derive(Debug)]
struct FrameFacts {
    frame: FrameRef,
    kind: FrameKind,
    /// Its first block in `digests` and `pages`, and how many there are.
    blocks: Range<usize>,
    damage: Option<PlaceName>,
}

/// What is known of a frame.
#[derive(Debug)]
pub(super) enum Lookup<'a> {
    /// It is not in this batch.
    NotRead,
    /// No such frame begins there.
    Absent,
    /// It is damaged.
    Damaged(&'a PlaceName),
    /// It holds blocks with these digests, and these pages where they were looked at.
    Sound { digests: &'a [BlockDigest], pages: &'a [PageFacts] },
}

/// What a batch knows.
#[derive(Debug, Default)]
pub(super) struct FrameTable {
    stretches: BTreeMap<PackId, Vec<Stretch>>,
    /// From which offset on a pack cannot be read.
    lost: BTreeMap<PackId, (u64, PlaceName)>,
}

impl FrameTable {
    pub(super) fn is_empty(&self) -> bool {
        self.stretches.is_empty() && self.lost.is_empty()
    }

    pub(super) fn has_pack(&self, epoch: u32, pack: u32) -> bool {
        self.stretches.contains_key(&(epoch, pack)) || self.lost.contains_key(&(epoch, pack))
    }

    /// Whether maps are needed to say what damage touches.
    pub(super) fn damaged_packs(&self) -> impl Iterator<Item = PackId> + '_ {
        let in_frames = self.stretches.iter().filter(|(_, stretches)| {
            stretches.iter().any(|stretch| stretch.frames.iter().any(|frame| frame.damage.is_some()))
        });
        in_frames.map(|(id, _)| *id).chain(self.lost.keys().copied())
    }

    pub(super) fn look_up(&self, frame: &FrameRef) -> Lookup<'_> {
        let id = (frame.epoch, frame.pack);
        if let Some((from, place)) = self.lost.get(&id)
            && frame.end() > *from
        {
            return Lookup::Damaged(place);
        }
        let Some(stretches) = self.stretches.get(&id) else { return Lookup::NotRead };
        let covers = |stretch: &&Stretch| stretch.from <= frame.offset && frame.offset < stretch.to;
        let Some(stretch) = stretches.iter().find(covers) else { return Lookup::NotRead };
        let index = stretch.frames.partition_point(|known| known.frame.offset < frame.offset);
        match stretch.frames.get(index) {
            Some(known) if known.frame.offset == frame.offset => match &known.damage {
                Some(place) => Lookup::Damaged(place),
                None if known.frame != *frame || known.kind != FrameKind::Blocks => Lookup::Absent,
                None => Lookup::Sound {
                    digests: stretch.digests.get(known.blocks.clone()).unwrap_or_default(),
                    pages: stretch.pages.get(known.blocks.clone()).unwrap_or_default(),
                },
            },
            _ => Lookup::Absent,
        }
    }
}

/// What reading cost.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Amounts {
    pub(super) frames: u64,
    pub(super) pages: u64,
    pub(super) bytes: u64,
}

/// Windows that are read in one go.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) pack: PackId,
    /// Windows, both ends included.
    pub(super) first: u64,
    pub(super) last: u64,
    entries: Arc<Vec<IndexEntry>>,
    range: Range<usize>,
}

/// The frames of a pack, loaded when its turn comes.
pub(super) struct OpenPack {
    pub(super) id: PackId,
    entries: Arc<Vec<IndexEntry>>,
    /// From where on nothing can be told, and the damage that says so.
    lost: Option<(u64, PlaceName)>,
}

impl OpenPack {
    /// Reads the index; where that is not possible, looks for the frames one by one.
    pub(super) fn open(
        inventory: &Inventory,
        frames: &FrameFetcher,
        id: PackId,
        pack: &Pack,
        findings: &Findings,
    ) -> Result<OpenPack> {
        let error = match inventory.stanza.pack_index(frames, &pack.entry) {
            Ok(entries) => return Ok(OpenPack { id, entries: Arc::new(entries), lost: None }),
            Err(error) if is_general(&error) => return Err(error.into()),
            Err(error) => error,
        };
        let key = pack_key(&inventory.stanza, &pack.entry);
        let is_gone = matches!(error, RepoError::NotFound { .. });
        let place = findings.error(&key, error)?;
        let (entries, lost) = match inventory.stanza.scan_pack(&pack.entry) {
            _ if is_gone => (Vec::new(), Some(0)),
            Ok(found) => found,
            Err(error) if is_general(&error) => return Err(error.into()),
            Err(_) => (Vec::new(), Some(0)),
        };
        let lost = lost.map(|from| {
            let place = match from {
                0 => place,
                _ => {
                    let what = "from here on its frames cannot be found";
                    findings.place(DamageKind::Corrupt, &key, Some(from), what)
                }
            };
            // Whatever maps say later: these backups list the pack and may need any of it.
            findings.needed_by(&place, inventory.ids(&pack.backups));
            (from, place)
        });
        Ok(OpenPack { id, entries: Arc::new(entries), lost })
    }

    /// The tasks of windows `first..=last`.
    pub(super) fn tasks(&self, first: u64, last: u64) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut next = first;
        while next <= last {
            let end = last.min(next + TASK_WINDOWS - 1);
            let begin = |window: u64| {
                let offset = window.saturating_mul(WINDOW_BYTES);
                self.entries.partition_point(|entry| entry.frame.offset < offset)
            };
            let range = begin(next)..begin(end + 1);
            tasks.push(Task {
                pack: self.id,
                first: next,
                last: end,
                entries: Arc::clone(&self.entries),
                range,
            });
            next = end + 1;
        }
        tasks
    }

    pub(super) fn lost(&self) -> Option<(u64, PlaceName)> {
        self.lost.clone()
    }
}

impl Task {
    /// Blocks that it will hold facts of.
    pub(super) fn blocks(&self, block_size: u32) -> u64 {
        let entries = self.entries.get(self.range.clone()).unwrap_or_default();
        let blocks = entries.iter().filter(|entry| entry.kind == FrameKind::Blocks);
        blocks.map(|entry| u64::from(entry.frame.raw_len / block_size.max(1))).sum()
    }
}

/// A batch that is being read.
pub(super) struct Batch<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) frames: &'a BTreeMap<u32, FrameFetcher>,
    pub(super) findings: &'a Findings,
    pub(super) jobs: usize,
    /// Whether to begin nothing new.
    pub(super) is_over: &'a (dyn Fn() -> bool + Sync),
    /// Is told the stored bytes of each task that is done.
    pub(super) told: &'a (dyn Fn(u64) + Sync),
}

#[derive(Default)]
struct Gathered {
    table: FrameTable,
    done: Vec<(PackId, u64, u64)>,
    amounts: Amounts,
    error: Option<Error>,
}

/// What a batch gave: what is known, and which windows of which packs were read.
pub(super) struct BatchResult {
    pub(super) table: FrameTable,
    pub(super) done: Vec<(PackId, u64, u64)>,
    pub(super) amounts: Amounts,
}

impl Batch<'_> {
    /// Reads all tasks.
    pub(super) fn read(
        &self,
        tasks: &[Task],
        lost: BTreeMap<PackId, (u64, PlaceName)>,
    ) -> Result<BatchResult> {
        let next = AtomicUsize::new(0);
        let stopped = AtomicBool::new(false);
        let gathered = Mutex::new(Gathered::default());
        let gather = || gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            while !stopped.load(Ordering::Relaxed) && !(self.is_over)() {
                let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                match self.read_task(task) {
                    Ok((stretch, amounts)) => {
                        let mut all = gather();
                        all.done.push((task.pack, task.first, task.last));
                        all.amounts.frames += amounts.frames;
                        all.amounts.pages += amounts.pages;
                        all.amounts.bytes += amounts.bytes;
                        all.table.stretches.entry(task.pack).or_default().push(stretch);
                        drop(all);
                        (self.told)(amounts.bytes);
                    }
                    Err(error) => {
                        stopped.store(true, Ordering::Relaxed);
                        gather().error.get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1).min(tasks.len()) {
                scope.spawn(|| {
                    // A panic here must end in an error, not in a result that lacks something.
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                        stopped.store(true, Ordering::Relaxed);
                        gather().error.get_or_insert_with(|| {
                            Error::new(ErrorKind::Internal, "a thread of verify panicked")
                                .hint("this is a defect: report it")
                        });
                    }
                });
            }
        });
        let all = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = all.error {
            return Err(error);
        }
        let table = FrameTable { lost, ..all.table };
        Ok(BatchResult { table, done: all.done, amounts: all.amounts })
    }

    fn read_task(&self, task: &Task) -> Result<(Stretch, Amounts)> {
        let internal = || {
            Error::new(ErrorKind::Internal, "a pack of the plan is not in the inventory")
                .hint("this is a defect: report it")
        };
        let pack = self.inventory.packs.get(&task.pack).ok_or_else(internal)?;
        let frames = self.frames.get(&pack.block_size).ok_or_else(internal)?;
        let mut reading = Reading {
            batch: self,
            frames,
            pack,
            key: pack_key(&self.inventory.stanza, &pack.entry),
            stretch: Stretch {
                from: task.first.saturating_mul(WINDOW_BYTES),
                to: task.last.saturating_add(1).saturating_mul(WINDOW_BYTES),
                frames: Vec::new(),
                digests: Vec::new(),
                pages: Vec::new(),
            },
            amounts: Amounts::default(),
        };
        let entries = task.entries.get(task.range.clone()).unwrap_or_default();
        for group in entries.chunks(GROUP_FRAMES) {
            reading.group(group)?;
        }
        Ok((reading.stretch, reading.amounts))
    }
}

struct Reading<'a> {
    batch: &'a Batch<'a>,
    frames: &'a FrameFetcher,
    pack: &'a Pack,
    key: String,
    stretch: Stretch,
    amounts: Amounts,
}

impl Reading<'_> {
    fn group(&mut self, group: &[IndexEntry]) -> Result<()> {
        let wanted: Vec<FrameRef> = group.iter().map(|entry| entry.frame).collect();
        let mut decoder = self.frames.decoder();
        let mut plain = Vec::new();
        let together = match self.frames.fetch(&wanted) {
            Ok(stored) => Some(stored),
            Err(error) if is_general(&error) => return Err(error.into()),
            // One of them is unreadable: each is tried alone.
            Err(_) => None,
        };
        for (index, entry) in group.iter().enumerate() {
            let stored = match &together {
                Some(stored) => Ok(stored.get(index).cloned()),
                None => self.frames.fetch(&[entry.frame]).map(|stored| stored.into_iter().next()),
            };
            let outcome = stored.and_then(|stored| match stored {
                Some(stored) => self.frames.check_frame(entry, &mut decoder, &stored, &mut plain),
                None => Err(RepoError::NotFound { key: self.key.clone() }),
            });
            let begin = self.stretch.digests.len();
            let damage = match outcome {
                Ok(()) => None,
                Err(error) if is_general(&error) => return Err(error.into()),
                Err(error) => Some(self.note(entry, error)?),
            };
            self.amounts.frames += 1;
            self.amounts.bytes += u64::from(entry.frame.stored_len);
            if damage.is_none() && entry.kind == FrameKind::Blocks {
                self.stretch.digests.extend_from_slice(decoder.digests());
                if self.pack.checksums {
                    let pages = plain.chunks_exact(self.pack.block_size as usize).map(PageFacts::of);
                    self.stretch.pages.extend(pages);
                }
            }
            let blocks = begin..self.stretch.digests.len();
            self.stretch.frames.push(FrameFacts { frame: entry.frame, kind: entry.kind, blocks, damage });
        }
        Ok(())
    }

    /// A frame that cannot be read is damage at its offset, whatever the storage says of the whole object.
    fn note(&self, entry: &IndexEntry, error: RepoError) -> Result<PlaceName> {
        let offset = Some(entry.frame.offset);
        Ok(match error {
            RepoError::Storage { source, .. } => {
                self.batch.findings.place(DamageKind::Unreadable, &self.key, offset, source.to_string())
            }
            RepoError::NotFound { .. } => {
                self.batch.findings.place(DamageKind::Missing, &self.key, None, "it is not there")
            }
            other => self.batch.findings.error(&self.key, other)?,
        })
    }
}
