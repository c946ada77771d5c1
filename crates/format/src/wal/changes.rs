//! What records change: the rules of PostgreSQL 17's summarizer (`postmaster/walsummarizer.c`), for 13 to 18.
//!
//! The rules are listed in `docs/format/wal-summary.md`. Naming a block too many costs a read; one too few is a
//! backup with wrong contents. So whatever is not understood sets a flag that makes an incremental read everything.

use std::collections::HashMap;

use super::block_set::BlockSet;
use super::block_summary::{BlockSummary, ForkChanges};
use super::cursor::Cursor;
use super::page::WalVersion;
use super::record::{WalRecord, rmgr};
use super::segment_summary::{RestorePoint, SummaryFlags};
use super::transaction::{TransactionRecord, parse_transaction_record};
use crate::relation::{Fork, RelFileLocator};

/// Heap blocks that one page of the visibility map covers, with blocks of 8 KiB: 2 bits each after 24 bytes of header.
const HEAP_BLOCKS_PER_VM_PAGE: u32 = 32_672;

/// Set in a record's info when it changes files in a way that its block references do not tell.
const SPECIAL_RELATION_UPDATE: u8 = 1;

const TRUNCATES_HEAP: i32 = 1;
const TRUNCATES_VM: i32 = 2;

/// The longest name that a restore point has, with its end.
const RESTORE_POINT_NAME: usize = 64;

/// Gathers what records change, one after the other in the order of the log.
#[derive(Debug)]
pub struct ChangeCollector {
    index: HashMap<(RelFileLocator, Fork), usize>,
    forks: Vec<ForkState>,
    /// The forks looked up last, by hash: nearly every record refers to one of a few.
    recent_forks: Vec<Option<(RelFileLocator, Fork, usize)>>,
    /// Fork and block marked last, by hash, so that the same block is not marked by every record that changes it.
    recent_blocks: Vec<(usize, u32)>,
    databases: BlockSummary,
    pub(super) flags: SummaryFlags,
    pub(super) records: u64,
    pub(super) commits: u64,
    pub(super) aborts: u64,
    pub(super) times: Option<(i64, i64)>,
    pub(super) restore_points: Vec<RestorePoint>,
    /// The highest timeline that a record says it begins or continues.
    pub(super) announced_timeline: u32,
}

#[derive(Debug)]
struct ForkState {
    locator: RelFileLocator,
    fork: Fork,
    limit: Option<u32>,
    /// In order of marking, with repetitions; sorted and thinned out whenever it doubled.
    blocks: Vec<u32>,
    thinned: usize,
}

const RECENT_FORKS: usize = 64;
const RECENT_BLOCKS: usize = 2048;
const NOTHING: (usize, u32) = (usize::MAX, u32::MAX);

impl Default for ChangeCollector {
    fn default() -> ChangeCollector {
        ChangeCollector::new()
    }
}

impl ChangeCollector {
    /// Nothing gathered yet.
    #[must_use]
    pub fn new() -> ChangeCollector {
        ChangeCollector {
            index: HashMap::new(),
            forks: Vec::new(),
            recent_forks: vec![None; RECENT_FORKS],
            recent_blocks: vec![NOTHING; RECENT_BLOCKS],
            databases: BlockSummary::new(),
            flags: SummaryFlags::default(),
            records: 0,
            commits: 0,
            aborts: 0,
            times: None,
            restore_points: Vec::new(),
            announced_timeline: 0,
        }
    }

    /// Adds what the record changes.
    #[inline]
    pub fn apply(&mut self, record: &WalRecord<'_>) {
        self.records += 1;
        if record.malformed {
            self.flags.unknown_change = true;
            return;
        }
        for block in record.blocks {
            self.mark(block.locator, block.fork, block.block);
        }
        let known = match record.rmgr {
            rmgr::XLOG => self.apply_xlog(record),
            rmgr::XACT => self.apply_transaction(record),
            rmgr::SMGR => self.apply_storage(record),
            rmgr::DBASE => self.apply_database(record),
            rmgr::FIRST_CUSTOM.. => {
                self.flags.custom_resource_manager = true;
                true
            }
            _ => record.info & SPECIAL_RELATION_UPDATE == 0,
        };
        if !known {
            self.flags.unknown_change = true;
        }
    }

    /// The blocks that changed.
    #[must_use]
    pub fn into_blocks(self) -> BlockSummary {
        let mut summary = self.databases;
        for state in self.forks {
            summary.forks.insert((state.locator, state.fork), state.into_changes());
        }
        summary
    }

    #[inline]
    fn mark(&mut self, locator: RelFileLocator, fork: Fork, block: u32) {
        if fork == Fork::Fsm {
            return;
        }
        let at = self.fork_at(locator, fork);
        let slot = (block as usize).wrapping_add(at.wrapping_mul(367)) % RECENT_BLOCKS;
        if let Some(recent) = self.recent_blocks.get_mut(slot) {
            if *recent == (at, block) {
                return;
            }
            *recent = (at, block);
        }
        if let Some(state) = self.forks.get_mut(at) {
            state.push(block);
        }
    }

    #[inline]
    fn fork_at(&mut self, locator: RelFileLocator, fork: Fork) -> usize {
        let slot = (locator.number as usize).wrapping_mul(4).wrapping_add(fork as usize) % RECENT_FORKS;
        if let Some(Some((recent, recent_fork, at))) = self.recent_forks.get(slot)
            && *recent == locator
            && *recent_fork == fork
        {
            return *at;
        }
        let at = *self.index.entry((locator, fork)).or_insert_with(|| {
            self.forks.push(ForkState { locator, fork, limit: None, blocks: Vec::new(), thinned: 0 });
            self.forks.len() - 1
        });
        if let Some(recent) = self.recent_forks.get_mut(slot) {
            *recent = Some((locator, fork, at));
        }
        at
    }

    fn set_limit(&mut self, locator: RelFileLocator, fork: Fork, limit: u32) {
        if fork == Fork::Fsm {
            return;
        }
        let at = self.fork_at(locator, fork);
        if let Some(state) = self.forks.get_mut(at)
            && state.limit.is_none_or(|old| limit < old)
        {
            state.limit = Some(limit);
            if !state.blocks.is_empty() {
                state.blocks.retain(|block| *block < limit);
                state.thinned = 0;
                // A block that is marked again after the truncation counts again.
                self.recent_blocks.fill(NOTHING);
            }
        }
    }

    /// Each of these returns whether the record was understood.
    fn apply_xlog(&mut self, record: &WalRecord<'_>) -> bool {
        let mut cursor = Cursor(record.main_data);
        let has_level = record.version >= WalVersion::V17;
        let known = match record.info & 0xF0 {
            // CHECKPOINT_SHUTDOWN, CHECKPOINT_ONLINE
            0x00 | 0x10 => (|| {
                cursor.take(8)?;
                self.announced_timeline = self.announced_timeline.max(cursor.u32()?);
                cursor.take(4)?;
                self.flags.full_page_writes_off |= cursor.u8()? == 0;
                if has_level {
                    cursor.take(3)?;
                    self.note_wal_level(cursor.i32()?);
                }
                Some(())
            })(),
            // PARAMETER_CHANGE
            0x60 => (|| {
                cursor.take(20)?;
                self.note_wal_level(cursor.i32()?);
                Some(())
            })(),
            // RESTORE_POINT
            0x70 => parse_restore_point(record).map(|point| self.restore_points.push(point)),
            // FPW_CHANGE
            0x80 => cursor.u8().map(|on| self.flags.full_page_writes_off |= on == 0),
            // END_OF_RECOVERY
            0x90 => (|| {
                cursor.take(8)?;
                self.announced_timeline = self.announced_timeline.max(cursor.u32()?);
                self.flags.timeline_began = true;
                if has_level {
                    cursor.take(4)?;
                    self.note_wal_level(cursor.i32()?);
                }
                Some(())
            })(),
            // CHECKPOINT_REDO
            0xE0 if has_level => cursor.i32().map(|level| self.note_wal_level(level)),
            _ => (record.info & SPECIAL_RELATION_UPDATE == 0).then_some(()),
        };
        known.is_some()
    }

    fn note_wal_level(&mut self, level: i32) {
        self.flags.wal_level_minimal |= level == 0;
    }

    fn apply_transaction(&mut self, record: &WalRecord<'_>) -> bool {
        match parse_transaction_record(record) {
            TransactionRecord::Other => true,
            TransactionRecord::Malformed => false,
            TransactionRecord::End(end) => {
                if end.end.kind.is_commit() {
                    self.commits += 1;
                } else {
                    self.aborts += 1;
                }
                let time = end.end.time;
                let (first, last) = self.times.unwrap_or((time, time));
                self.times = Some((first.min(time), last.max(time)));
                for locator in end.dropped_relations() {
                    for fork in [Fork::Main, Fork::Vm, Fork::Init] {
                        self.set_limit(locator, fork, 0);
                    }
                }
                true
            }
        }
    }

    fn apply_storage(&mut self, record: &WalRecord<'_>) -> bool {
        let mut cursor = Cursor(record.main_data);
        let locator = |cursor: &mut Cursor<'_>| {
            Some(RelFileLocator { tablespace: cursor.u32()?, database: cursor.u32()?, number: cursor.u32()? })
        };
        let known = match record.info & 0xF0 {
            // CREATE
            0x10 => (|| {
                let locator = locator(&mut cursor)?;
                let fork = Fork::from_number(cursor.u32()?)?;
                self.set_limit(locator, fork, 0);
                Some(())
            })(),
            // TRUNCATE
            0x20 => (|| {
                let blocks = cursor.u32()?;
                let locator = locator(&mut cursor)?;
                let parts = cursor.i32()?;
                if parts & TRUNCATES_HEAP != 0 {
                    self.set_limit(locator, Fork::Main, blocks);
                }
                if parts & TRUNCATES_VM != 0 {
                    self.set_limit(locator, Fork::Vm, blocks.div_ceil(HEAP_BLOCKS_PER_VM_PAGE));
                }
                Some(())
            })(),
            _ => None,
        };
        known.is_some()
    }

    fn apply_database(&mut self, record: &WalRecord<'_>) -> bool {
        let mut cursor = Cursor(record.main_data);
        let dropped = if record.version < WalVersion::V15 { 0x10 } else { 0x20 };
        let operation = record.info & 0xF0;
        let known = (|| {
            let database = cursor.u32()?;
            if operation == dropped {
                for tablespace in cursor.counted(4)?.chunks_exact(4) {
                    self.databases.mark_full_database(Cursor(tablespace).u32()?, database);
                }
            } else if operation < dropped {
                self.databases.mark_full_database(cursor.u32()?, database);
            } else {
                return None;
            }
            Some(())
        })();
        known.is_some()
    }
}

/// The restore point that a record sets, if it is such a record.
pub(super) fn parse_restore_point(record: &WalRecord<'_>) -> Option<RestorePoint> {
    if record.rmgr != rmgr::XLOG || record.info & 0xF0 != 0x70 {
        return None;
    }
    let mut cursor = Cursor(record.main_data);
    let time = cursor.i64()?;
    let name = cursor.take(RESTORE_POINT_NAME)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(RestorePoint {
        lsn: record.lsn,
        end: record.end,
        time,
        name: String::from_utf8_lossy(name).into_owned(),
    })
}

impl ForkState {
    #[inline]
    fn push(&mut self, block: u32) {
        self.blocks.push(block);
        if self.blocks.len() >= self.thinned.saturating_mul(2).saturating_add(4096) {
            self.thin_out();
        }
    }

    fn thin_out(&mut self) {
        self.blocks.sort_unstable();
        self.blocks.dedup();
        self.thinned = self.blocks.len();
    }

    fn into_changes(mut self) -> ForkChanges {
        self.thin_out();
        ForkChanges { limit: self.limit, blocks: self.blocks.into_iter().collect::<BlockSet>() }
    }
}
