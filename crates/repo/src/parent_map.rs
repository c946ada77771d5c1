//! The block map of a file in the backup that a new one builds on, read leaf by leaf.
//!
//! An incremental backup asks it for the digests that it compares with, and for the places of the blocks that stay where
//! they are. Only the root is held; leaves are read when they are asked for, through the backup's cache of metadata
//! frames. Cheap to clone, and shared between threads.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::backup_reader::BackupReader;
use crate::block_map::{BlockRun, Leaf, LeafContents, LeafLayout, Leaves, RunTarget, ShareCount};
use crate::bytes::Malformed;
use crate::error::Result;
use crate::manifest::FileEntry;
use crate::map_leaves::{MapLeaf, MapLeaves};
use crate::{BlockDigest, FrameRef, RepoError};

/// The map of one file that is not empty.
#[derive(Clone, Debug)]
pub struct ParentMap {
    leaves: Arc<MapLeaves>,
}

/// One leaf: neighbouring blocks, with their digests and places.
#[derive(Clone, Debug)]
pub struct ParentLeaf {
    /// The first block of the leaf.
    pub first_block: u32,
    contents: LeafContents,
    block_size: u32,
}

impl ParentLeaf {
    /// How many blocks it has.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        // At most 2^16.
        self.contents.digests.len() as u32
    }

    /// The digest of a block; none beyond the leaf.
    #[must_use]
    pub fn digest(&self, block: u32) -> Option<BlockDigest> {
        let index = block.checked_sub(self.first_block)?;
        self.contents.digests.get(index as usize).copied()
    }

    /// The pack that a block lies in, by epoch and number; none for a block of zeros, and beyond the leaf.
    #[must_use]
    pub fn pack_of(&self, block: u32) -> Option<(u32, u32)> {
        let runs = &self.contents.runs;
        let after = runs.partition_point(|run| run.first_block <= block);
        match runs.get(after.checked_sub(1)?)?.part(block, block.saturating_add(1))?.target {
            RunTarget::Zero => None,
            RunTarget::Frame { frame, .. } => Some(frame.pack_name()),
        }
    }

    /// Where its blocks are.
    #[must_use]
    pub fn runs(&self) -> &[BlockRun] {
        &self.contents.runs
    }

    /// How scattered its blocks are.
    #[must_use]
    pub fn scatter(&self) -> Scatter {
        let mut frames: HashSet<FrameRef> = HashSet::new();
        let mut scatter = Scatter::default();
        for run in &self.contents.runs {
            if let RunTarget::Frame { frame, .. } = run.target {
                scatter.used_bytes += u64::from(run.count) * u64::from(self.block_size);
                if frames.insert(frame) {
                    scatter.frames += 1;
                    scatter.frame_bytes += u64::from(frame.raw_len);
                }
            }
        }
        scatter
    }
}

/// How much a restore of one leaf must decompress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scatter {
    /// Frames that hold a block of the leaf.
    pub frames: u32,
    /// Their plain bytes.
    pub frame_bytes: u64,
    /// Plain bytes of the leaf's blocks, without blocks of zeros.
    pub used_bytes: u64,
}

impl BackupReader {
    /// The map of a regular file, to build on; none for an empty one.
    ///
    /// # Errors
    /// As [`BackupReader::map`].
    pub fn parent_map(&self, entry: &FileEntry) -> Result<Option<ParentMap>> {
        Ok(self.map_leaves(entry)?.map(|leaves| ParentMap { leaves: Arc::new(leaves) }))
    }
}

impl BackupReader {
    /// Counts from scratch what the backup needs of each pack (by epoch and number), opening every map. The header says
    /// the same in `packs`, where it was reckoned from what the parent needed; checks compare the two.
    ///
    /// # Errors
    /// As [`BackupReader::map`].
    pub fn count_needs(&self) -> Result<BTreeMap<(u32, u32), u64>> {
        let mut needs = ShareCount::default();
        for entry in self.files() {
            if let Some(map) = self.parent_map(&entry?)? {
                let mut shares = ShareCount::default();
                let mut every_leaf = 0..map.leaves.count();
                every_leaf.try_for_each(|index| map.add_leaf_shares(index, &mut shares))?;
                shares.add_piece(&map.leaves.place);
                needs.add_all(&shares);
            }
        }
        Ok(needs.shares().into_iter().map(|share| ((share.epoch, share.pack), share.bytes)).collect())
    }
}

impl ParentMap {
    /// The backup that the map is of.
    #[must_use]
    pub fn reader(&self) -> &BackupReader {
        &self.leaves.reader
    }

    fn block_size(&self) -> u32 {
        self.leaves.reader.header().block_size
    }

    /// How many blocks the file had.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        self.leaves.root.block_count
    }

    /// Whether anything of the file lies in one of these packs, by epoch and number.
    #[must_use]
    pub fn needs_any(&self, packs: &BTreeSet<(u32, u32)>) -> bool {
        packs.contains(&self.leaves.place.frame.pack_name())
            || self.leaves.needs_any(|epoch, pack| packs.contains(&(epoch, pack)))
    }

    /// The leaf that a block is in; none where the file did not have it.
    ///
    /// # Errors
    /// As [`BackupReader::map`].
    pub fn leaf_of(&self, block: u32) -> Result<Option<ParentLeaf>> {
        if block >= self.block_count() {
            return Ok(None);
        }
        let index = block >> self.leaves.root.leaf_shift;
        let (first_block, _) = self.leaves.root.layout().leaf(index);
        let contents = self.contents(index)?;
        Ok(Some(ParentLeaf { first_block, contents, block_size: self.block_size() }))
    }

    fn contents(&self, index: u32) -> Result<LeafContents> {
        let MapLeaf { runs, digests, .. } = self.leaves.read(index)?;
        Ok(LeafContents { runs, digests })
    }

    /// The blocks of this range that the file had.
    pub(crate) fn blocks(&self, first: u32, count: u32) -> Result<LeafContents> {
        let end = first.saturating_add(count).min(self.block_count());
        let mut found = LeafContents::default();
        let mut next = first;
        while next < end {
            let index = next >> self.leaves.root.leaf_shift;
            let (leaf_first, leaf_count) = self.leaves.root.layout().leaf(index);
            let leaf_end = (leaf_first + leaf_count).min(end);
            found.push_part(&self.contents(index)?, next, leaf_end);
            next = leaf_end;
        }
        Ok(found)
    }

    /// The leaf of that index, where it is one of pieces and covers the very blocks that it covers in `layout`.
    pub(crate) fn same_leaf(&self, layout: LeafLayout, index: u32) -> Option<Leaf> {
        let own = self.leaves.root.layout();
        let same =
            own.shift == layout.shift && index < own.leaf_count() && own.leaf(index) == layout.leaf(index);
        match &self.leaves.root.leaves {
            Leaves::Pieces { leaves, .. } if same => leaves.get(index as usize).copied(),
            _ => None,
        }
    }

    /// An error that names the place of the root.
    pub(crate) fn corrupt(&self, malformed: Malformed) -> RepoError {
        self.leaves.reader.corrupt(&self.leaves.place, malformed)
    }

    /// What the file needs of each pack, its root included.
    pub(crate) fn shares(&self) -> ShareCount {
        let mut shares = self.leaves.root.shares(self.block_size());
        shares.add_piece(&self.leaves.place);
        shares
    }

    /// What the file's leaves need of each pack, without those leaves that are `replaced` and without its root.
    pub(crate) fn shares_without(&self, replaced: impl Fn(u32) -> bool) -> Result<ShareCount> {
        let mut shares = self.leaves.root.shares(self.block_size());
        for index in (0..self.leaves.root.layout().leaf_count()).filter(|index| replaced(*index)) {
            let mut leaf = ShareCount::default();
            self.add_leaf_shares(index, &mut leaf)?;
            shares.subtract_all(&leaf).map_err(|m| self.corrupt(m))?;
        }
        Ok(shares)
    }

    /// What one leaf needs: its blocks, and its own pieces.
    fn add_leaf_shares(&self, index: u32, shares: &mut ShareCount) -> Result<()> {
        self.leaves.runs(index)?.iter().for_each(|run| shares.add_run(run, self.block_size()));
        if let Leaves::Pieces { leaves, .. } = &self.leaves.root.leaves
            && let Some((runs, digests)) = leaves.get(index as usize).and_then(|leaf| leaf.pieces)
        {
            shares.add_piece(&runs);
            shares.add_piece(&digests);
        }
        Ok(())
    }
}
