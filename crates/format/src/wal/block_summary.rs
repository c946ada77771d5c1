//! Which blocks a stretch of WAL changes, as PostgreSQL 17's summarizer defines it (`common/blkreftable.c`).
//!
//! Two things about each fork: the blocks that records refer to, and the *limit*, the shortest length that the fork
//! had. A block is unchanged only if neither names it. Merging is ordered: the later stretch's limit wipes out
//! earlier marks. Stored as `docs/format/wal-summary.md` says.

use std::collections::{BTreeMap, BTreeSet};

use super::block_set::BlockSet;
use crate::relation::{Fork, RelFileLocator};

/// What happened to one fork.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForkChanges {
    /// The shortest length that the fork had, in blocks, if it was created, truncated or dropped. Blocks from here on
    /// have nothing in common with those that they had before, whether they are in `blocks` or not.
    pub limit: Option<u32>,
    /// The blocks that records refer to.
    pub blocks: BlockSet,
}

impl ForkChanges {
    /// Whether a backup must copy the block, although an earlier backup has a block of that number.
    #[must_use]
    pub fn is_changed(&self, block: u32) -> bool {
        self.limit.is_some_and(|limit| block >= limit) || self.blocks.contains(block)
    }

    /// Lowers the limit and forgets the blocks from there on; a limit that is not lower does nothing.
    pub fn set_limit(&mut self, limit: u32) {
        if self.limit.is_none_or(|old| limit < old) {
            self.limit = Some(limit);
            self.blocks.truncate(limit);
        }
    }
}

/// The blocks that a stretch of WAL changes. FSM forks are not in it: they are only partly logged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSummary {
    pub(super) forks: BTreeMap<(RelFileLocator, Fork), ForkChanges>,
    /// Databases, by tablespace and database, of which every file may have changed.
    pub(super) full_databases: BTreeSet<(u32, u32)>,
}

impl BlockSummary {
    /// No change at all.
    #[must_use]
    pub const fn new() -> BlockSummary {
        BlockSummary { forks: BTreeMap::new(), full_databases: BTreeSet::new() }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forks.is_empty() && self.full_databases.is_empty()
    }

    /// Adds the changes of the WAL that follows.
    pub fn merge(&mut self, later: &BlockSummary) {
        for (key, changes) in &later.forks {
            let mine = self.forks.entry(*key).or_default();
            if let Some(limit) = changes.limit {
                mine.set_limit(limit);
            }
            mine.blocks.union_with(&changes.blocks);
        }
        self.full_databases.extend(&later.full_databases);
    }

    /// Whether every file of the database in that tablespace must be copied: it was created or dropped there.
    #[must_use]
    pub fn is_full_database(&self, tablespace: u32, database: u32) -> bool {
        self.full_databases.contains(&(tablespace, database))
    }

    /// What happened to a fork; none if no record mentions it. [`BlockSummary::is_full_database`] comes first.
    #[must_use]
    pub fn changes_of(&self, locator: RelFileLocator, fork: Fork) -> Option<&ForkChanges> {
        self.forks.get(&(locator, fork))
    }

    /// All forks that changed, in order.
    pub fn forks(&self) -> impl Iterator<Item = (RelFileLocator, Fork, &ForkChanges)> {
        self.forks.iter().map(|((locator, fork), changes)| (*locator, *fork, changes))
    }

    /// The databases, by tablespace and database, that must be copied whole.
    pub fn full_databases(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.full_databases.iter().copied()
    }

    /// How many blocks are marked in all forks together.
    #[must_use]
    pub fn block_count(&self) -> u64 {
        self.forks.values().map(|changes| changes.blocks.len()).sum()
    }

    /// Marks one block; for summaries that come from elsewhere than WAL. FSM blocks are ignored.
    pub fn mark(&mut self, locator: RelFileLocator, fork: Fork, block: u32) {
        if fork != Fork::Fsm {
            self.forks.entry((locator, fork)).or_default().blocks.insert(block);
        }
    }

    /// Notes that the fork was as short as `limit` blocks. FSM forks are ignored.
    pub fn set_limit(&mut self, locator: RelFileLocator, fork: Fork, limit: u32) {
        if fork != Fork::Fsm {
            self.forks.entry((locator, fork)).or_default().set_limit(limit);
        }
    }

    /// Notes that every file of that database in that tablespace may have changed.
    pub fn mark_full_database(&mut self, tablespace: u32, database: u32) {
        self.full_databases.insert((tablespace, database));
    }
}
