//! Gathers where the blocks of one file went, in any order, and puts them in order at the end.
//!
//! Memory: 8 bytes for each block that was put and some 50 for each run. A file that is new has every block put. Of a
//! changed one only those that changed are; the rest is taken from the parent's map, leaf by leaf, when the map is
//! written.

use super::{BlockRun, LeafContents, RunTarget};
use crate::BlockDigest;
use crate::bytes::{Malformed, Parsed};
use crate::frame::FrameRef;

/// A run, and where its digests are among those that were put.
#[derive(Clone, Copy, Debug)]
struct PutRun {
    run: BlockRun,
    digests_at: usize,
}

/// Gathers where the blocks of one file went. Runs may come in any order, and none may overlap.
#[derive(Debug, Clone, Default)]
pub struct BlockMapBuilder {
    digests: Vec<BlockDigest>,
    runs: Vec<PutRun>,
}

impl BlockMapBuilder {
    /// A map without blocks; `block_count_hint` only saves reallocations.
    #[must_use]
    pub fn new(block_count_hint: u32) -> BlockMapBuilder {
        let hint = (block_count_hint as usize).min(1 << 20);
        BlockMapBuilder { digests: Vec::with_capacity(hint), runs: Vec::with_capacity(hint / 16 + 1) }
    }

    /// The blocks from `first_block` on lie in `frame`, from its block `position` on; one digest for each.
    pub fn put_run(&mut self, first_block: u32, digests: &[BlockDigest], frame: FrameRef, position: u32) {
        let digests_at = self.digests.len();
        self.digests.extend_from_slice(digests);
        self.put(first_block, digests.len(), digests_at, RunTarget::Frame { frame, position });
    }

    /// The `count` blocks from `first_block` on hold zeros; `zero_digest` is [`crate::DigestKey::zero_block`].
    pub fn put_zero(&mut self, first_block: u32, count: u32, zero_digest: BlockDigest) {
        let digests_at = self.digests.len();
        self.digests.extend(std::iter::repeat_n(zero_digest, count as usize));
        self.put(first_block, count as usize, digests_at, RunTarget::Zero);
    }

    fn put(&mut self, first_block: u32, count: usize, digests_at: usize, target: RunTarget) {
        // Frames hold at most 1024 blocks, files at most 2^32.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count > 0 {
            self.runs.push(PutRun { run: BlockRun { first_block, count, target }, digests_at });
        }
    }

    /// Forgets the blocks from `block_count` on: the file turned out to be shorter than it was announced to be.
    pub fn truncate(&mut self, block_count: u32) {
        self.runs.retain_mut(|put| match put.run.part(0, block_count) {
            Some(part) => {
                put.run = part;
                true
            }
            None => false,
        });
    }

    /// Whether nothing was put.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Sorts the runs, and checks that none overlaps another or lies outside of the `block_count` blocks of the file.
    pub(crate) fn finish(mut self, block_count: u32) -> Parsed<FinishedMap> {
        self.runs.sort_by_key(|put| put.run.first_block);
        let mut next = 0_u32;
        let mut covered = 0_u32;
        for PutRun { run, .. } in &self.runs {
            if run.first_block < next {
                return Err(Malformed("a map whose runs overlap"));
            }
            next = run
                .first_block
                .checked_add(run.count)
                .filter(|end| *end <= block_count)
                .ok_or(Malformed("a map that does not fit the length of its file"))?;
            covered += run.count;
        }
        Ok(FinishedMap { runs: self.runs, digests: self.digests, covered, block_count })
    }
}

/// Runs in order, each with its digests.
#[derive(Debug)]
pub(crate) struct FinishedMap {
    runs: Vec<PutRun>,
    digests: Vec<BlockDigest>,
    covered: u32,
    block_count: u32,
}

impl FinishedMap {
    /// Whether every block of the file was put.
    pub(crate) fn is_complete(&self) -> bool {
        self.covered == self.block_count
    }

    /// The first run that ends after `block`, as an index.
    fn from(&self, block: u32) -> usize {
        self.runs.partition_point(|put| put.run.first_block + put.run.count <= block)
    }

    /// Whether any of these blocks was put.
    pub(crate) fn touches(&self, first: u32, count: u32) -> bool {
        self.runs.get(self.from(first)).is_some_and(|put| put.run.first_block < first + count)
    }

    /// Whether all of these blocks were put.
    pub(crate) fn covers(&self, first: u32, count: u32) -> bool {
        let end = first + count;
        let parts = self.runs.iter().skip(self.from(first)).map_while(|put| put.run.part(first, end));
        parts.map(|part| part.count).sum::<u32>() == count
    }

    /// A leaf: the blocks that were put, and for the others those of `parent`, which is the parent's map of the same
    /// blocks as far as its file had them.
    pub(crate) fn leaf(&self, first: u32, count: u32, parent: Option<&LeafContents>) -> Parsed<LeafContents> {
        let end = first + count;
        let mut leaf = LeafContents::default();
        let mut next = first;
        let fill = |leaf: &mut LeafContents, from: u32, to: u32| {
            if from < to && parent.map_or(0, |parent| leaf.push_part(parent, from, to)) != to - from {
                return Err(Malformed("a map that leaves blocks out"));
            }
            Ok(())
        };
        for put in self.runs.iter().skip(self.from(first)) {
            let Some(part) = put.run.part(first, end) else { break };
            fill(&mut leaf, next, part.first_block)?;
            let at = put.digests_at + (part.first_block - put.run.first_block) as usize;
            leaf.push(part, self.digests.get(at..at + part.count as usize).unwrap_or_default());
            next = part.first_block + part.count;
        }
        fill(&mut leaf, next, end)?;
        Ok(leaf)
    }
}
