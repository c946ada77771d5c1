//! Which parts of a file an incremental backup reads, when it is known which blocks may have changed.
//!
//! Beside those blocks it reads what is to be written anew: leaves of the parent's map whose blocks lie in too many frames,
//! blocks in packs that are given up, and pages that were bad in the parent, so that they are judged again.

use std::collections::BTreeSet;

use super::parent_files::{ParentFile, unusable};
use super::worker::is_scattered;
use crate::changed_blocks::{ChangedBlocks, FileChange};
use crate::error::Result;
use pgkeep_format::relation::RelationFile;

/// Neighbouring blocks: the first, and how many.
pub type BlockSpan = (u32, u32);

/// What is known about the changes of the whole cluster, and what is to be read anyway.
#[derive(Debug)]
pub struct Reading<'a> {
    /// What may have changed.
    pub changes: &'a ChangedBlocks,
    /// Packs in which no block is left.
    pub rewrite: &'a BTreeSet<(u32, u32)>,
    /// Bytes of a block.
    pub block_size: u32,
}

impl Reading<'_> {
    /// The blocks of a file that are read, in order; none where all of it is.
    pub fn of_file(
        &self,
        relation: Option<&RelationFile>,
        parent: Option<&ParentFile>,
        bytes: u64,
        known_bad: &[u32],
    ) -> Result<Option<Vec<BlockSpan>>> {
        let parent_bytes = parent.map(|parent| parent.entry.meta.size);
        let FileChange::Blocks { marked, from } = self.changes.of_file(relation, parent_bytes, bytes) else {
            return Ok(None);
        };
        let mut blocks: BTreeSet<u32> = marked.into_iter().collect();
        blocks.extend(known_bad.iter().filter(|block| **block < from));
        if let Some(parent) = parent {
            self.add_misplaced(parent, from, &mut blocks)?;
        }
        // A length that is no whole number of blocks is not read in part.
        let end = u32::try_from(bytes / u64::from(self.block_size)).unwrap_or(u32::MAX);
        Ok(Some(spans(blocks.into_iter().take_while(|block| *block < from), from, end)))
    }

    /// Adds the blocks that do not lie well in the parent. Leaves without a change are left as they are, unless packs are
    /// given up: a leaf only becomes scattered by changes.
    fn add_misplaced(&self, parent: &ParentFile, from: u32, blocks: &mut BTreeSet<u32>) -> Result<()> {
        let Some(map) = &parent.map else { return Ok(()) };
        let given_up = map.needs_any(self.rewrite);
        let mut next = if given_up { Some(0) } else { blocks.first().copied() };
        while let Some(block) = next.filter(|block| *block < from) {
            let leaf = map.leaf_of(block).map_err(|error| unusable(map.reader(), error.into()))?;
            let Some(leaf) = leaf else { break };
            let end = leaf.first_block + leaf.block_count();
            if is_scattered(leaf.scatter(), leaf.first_block)
                && blocks.range(leaf.first_block..end).next().is_some()
            {
                blocks.extend(leaf.first_block..end);
            } else if given_up {
                let lies_there =
                    |block: &u32| leaf.pack_of(*block).is_some_and(|pack| self.rewrite.contains(&pack));
                blocks.extend((leaf.first_block..end).filter(lies_there));
            }
            next = if given_up { Some(end) } else { blocks.range(end..).next().copied() };
        }
        Ok(())
    }
}

/// Single blocks, and all from `from` to `end`, as spans.
fn spans(blocks: impl Iterator<Item = u32>, from: u32, end: u32) -> Vec<BlockSpan> {
    let mut spans: Vec<BlockSpan> = Vec::new();
    let mut add = |first: u32, count: u32| match spans.last_mut() {
        Some((last, length)) if *last + *length == first => *length += count,
        _ => spans.push((first, count)),
    };
    blocks.take_while(|block| *block < end).for_each(|block| add(block, 1));
    if from < end {
        add(from, end - from);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::spans;

    #[test]
    fn neighbours_become_one_span_and_the_end_of_the_file_ends_them() {
        assert_eq!(spans([1, 2, 5].into_iter(), 6, 9), [(1, 2), (5, 4)]);
        assert_eq!(spans([1, 7].into_iter(), 8, 5), [(1, 1)]);
        assert_eq!(spans(std::iter::empty(), 3, 3), []);
        assert_eq!(spans(std::iter::empty(), 0, 3), [(0, 3)]);
    }
}
