//! Which blocks of a cluster may differ from those of a parent backup, so that all others need not be read.
//!
//! A *producer* finds out what changed between the start of the parent and the start of the new backup: from the WAL
//! summaries of the archive ([`from_wal()`]), or from a server that keeps such summaries itself. A producer answers [`NotUsable`] wherever it does not *know*; then every file is read and compared. There is no third answer: a
//! block too many costs a read, a block too few is a backup with wrong contents.
//!
//! [`ChangedBlocks::of_file`] decides for one file. Only main forks of relations are ever read in part. Visibility maps
//! are not: before PostgreSQL 17.11 and 18.6 their bits are cleared without a block reference in WAL. Free space maps
//! are only partly logged, and all other files are not logged by blocks at all.
//!
//! Servers from 17 on can also send an incremental backup themselves ([`upload_parent`]). There the server decides what it
//! sends, and [`LimitBlocks`] tells what the blocks are that it does not send.
//!
//! Why this is safe is written down in `docs/design/0008-changed-blocks-from-wal.md` and
//! `docs/design/0009-changed-blocks-from-the-server.md`.
mod from_server;
mod from_wal;
mod local_wal;
mod not_usable;

use pgkeep_format::wal::BlockSummary;
use pgkeep_format::{Fork, Lsn, RelationFile};
use pgkeep_repo::ManifestHeader;

pub use from_server::{LimitBlocks, ParentFile, check_server, limit_blocks, upload_parent};
pub use from_wal::{WalRequest, from_wal};
pub use not_usable::{ClusterShape, NotUsable, comparable};

/// What may have changed in a cluster between the start of a parent backup and the start of the next one.
#[derive(Clone, Debug)]
pub struct ChangedBlocks {
    blocks: BlockSummary,
    range: WalRange,
    block_size: u32,
    relation_segment_blocks: u32,
}

/// The WAL that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct WalRange {
    /// The start of the parent backup.
    pub start: Lsn,
    /// The start of the new backup. Changes after it are healed by replay.
    pub end: Lsn,
    /// How many segments that were.
    pub segments: u64,
}

/// What must be read of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// Nothing is known: every block is read and compared.
    ReadAll(Rule),
    /// All blocks but these are the parent's.
    Blocks {
        /// Numbers within this file, ascending, all below `from`.
        marked: Vec<u32>,
        /// Every block from here to the end of the file is read as well; at most the file's length.
        from: u32,
    },
}

/// Why every block of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// WAL does not tell what changes in it by blocks.
    #[error("it is not a file of a relation")]
    NotARelation,
    /// Changes of these forks are logged in part only.
    #[error("the {} is always read whole", fork_name(*.0))]
    OtherFork(Fork),
    /// There is nothing that could be the same.
    #[error("the parent backup does not have it")]
    NotInParent,
    /// Something that is no page is in it, in the parent or now.
    #[error("its length is not a whole number of blocks")]
    OddLength,
    /// Longer than a segment can be, or a segment of that number can not be.
    #[error("it is larger than a segment of a relation")]
    Oversized,
    /// The database was created, dropped or moved in this tablespace.
    #[error("its database was created, dropped or moved")]
    DatabaseChanged,
    /// The relation was created, dropped or truncated to before this file.
    #[error("the relation was created anew or cut off before this file")]
    Recreated,
}

const fn fork_name(fork: Fork) -> &'static str {
    match fork {
        Fork::Main => "main fork",
        Fork::Fsm => "free space map",
        Fork::Vm => "visibility map",
        Fork::Init => "initialization fork",
    }
}

impl ChangedBlocks {
    /// The changes that `blocks` names, which must be complete for `range`, since that parent.
    fn new(blocks: BlockSummary, range: WalRange, parent: &ManifestHeader) -> ChangedBlocks {
        ChangedBlocks {
            blocks,
            range,
            block_size: parent.block_size,
            relation_segment_blocks: parent.relation_segment_blocks,
        }
    }

    /// The WAL that was looked at.
    #[must_use]
    pub const fn range(&self) -> WalRange {
        self.range
    }

    /// How many blocks are marked, in files that exist and in those that do not any more.
    #[must_use]
    pub fn marked_blocks(&self) -> u64 {
        self.blocks.block_count()
    }

    /// What must be read of a file.
    ///
    /// `relation` is what the path says that the file is, `parent_bytes` how long the parent backup has it (none where it
    /// has no such file), `bytes` how long it is now.
    #[must_use]
    pub fn of_file(
        &self,
        relation: Option<&RelationFile>,
        parent_bytes: Option<u64>,
        bytes: u64,
    ) -> FileChange {
        match self.parts_of(relation, parent_bytes, bytes) {
            Ok((marked, from)) => FileChange::Blocks { marked, from },
            Err(rule) => FileChange::ReadAll(rule),
        }
    }

    fn parts_of(
        &self,
        relation: Option<&RelationFile>,
        parent_bytes: Option<u64>,
        bytes: u64,
    ) -> Result<(Vec<u32>, u32), Rule> {
        let relation = relation.ok_or(Rule::NotARelation)?;
        if relation.fork != Fork::Main {
            return Err(Rule::OtherFork(relation.fork));
        }
        let parent_blocks = self.whole_blocks(parent_bytes.ok_or(Rule::NotInParent)?)?;
        let blocks = self.whole_blocks(bytes)?;
        let first = relation.first_block(self.relation_segment_blocks).ok_or(Rule::Oversized)?;
        let locator = relation.locator;
        if self.blocks.is_full_database(locator.tablespace, locator.database) {
            return Err(Rule::DatabaseChanged);
        }
        // What is longer than the parent's was, or than the relation ever was in between, has nothing to do with
        // the blocks of those numbers in the parent, and may have become so without a word in WAL.
        let mut from = parent_blocks.min(blocks);
        let Some(changes) = self.blocks.changes_of(locator, Fork::Main) else {
            return Ok((Vec::new(), from));
        };
        if let Some(limit) = changes.limit {
            if limit <= first {
                return Err(Rule::Recreated);
            }
            from = from.min(limit - first);
        }
        let below = first..first.saturating_add(from);
        Ok((changes.blocks.iter_range(below).map(|block| block - first).collect(), from))
    }

    fn whole_blocks(&self, bytes: u64) -> Result<u32, Rule> {
        let size = u64::from(self.block_size.max(1));
        if !bytes.is_multiple_of(size) {
            return Err(Rule::OddLength);
        }
        u32::try_from(bytes / size)
            .ok()
            .filter(|blocks| *blocks <= self.relation_segment_blocks)
            .ok_or(Rule::Oversized)
    }
}

#[cfg(test)]
mod tests;
