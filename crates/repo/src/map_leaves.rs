//! A block map leaf by leaf, runs and digests together: for whoever compares blocks with what is on a disk, checks maps, or
//! builds on them, and cannot hold a whole one.
//!
//! A file of any size costs its root and one leaf of memory: 256 blocks, or at most 65536 of a huge file. A leaf is named by
//! where its two pieces lie; backups that share a leaf share these places, so that work done for one of them need not be
//! done again for the next. What is handed out is checked: there is a digest for every block, the digests of a leaf have
//! the digest that the root names, and a run of zeros has the digests of zero blocks.

use crate::backup_reader::BackupReader;
use crate::block_map::{Leaves, Root, decode_digests, decode_runs};
use crate::bytes::Malformed;
use crate::error::Result;
use crate::frame::FrameKind;
use crate::manifest::FileEntry;
use crate::{BlockDigest, BlockRun, PieceRef, RunTarget};

/// The root of the map of one file, decoded and proved: its leaves agree with the digest of the file.
#[derive(Clone, Debug)]
pub struct MapLeaves {
    pub(crate) reader: BackupReader,
    /// Where the root lies.
    pub(crate) place: PieceRef,
    pub(crate) root: Root,
    zero: BlockDigest,
}

/// One leaf: where its blocks are and what their digests are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLeaf {
    /// The first block.
    pub first_block: u32,
    /// Where they are; every block once, in order.
    pub runs: Vec<BlockRun>,
    /// The digest of every block.
    pub digests: Vec<BlockDigest>,
}

impl BackupReader {
    /// The leaves of the block map of a regular file; none where the file is empty.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`](crate::RepoError::Corrupt), [`RepoError::NotFound`](crate::RepoError::NotFound) where a pack
    /// is gone, or when the storage fails. The leaves fail in the same way, each when it is read.
    pub fn map_leaves(&self, entry: &FileEntry) -> Result<Option<MapLeaves>> {
        let Some((place, root)) = self.root(entry)? else { return Ok(None) };
        Ok(Some(MapLeaves { reader: self.clone(), place, root, zero: self.zero_digest() }))
    }
}

impl MapLeaves {
    /// How many leaves there are; at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.root.layout().leaf_count()
    }

    /// First block and number of blocks of a leaf.
    #[must_use]
    pub fn extent(&self, index: u32) -> (u32, u32) {
        self.root.layout().leaf(index)
    }

    /// Where the runs and the digests of a leaf lie; none where it is held in the root, or all its blocks are zeros.
    #[must_use]
    pub fn pieces(&self, index: u32) -> Option<(PieceRef, PieceRef)> {
        match &self.root.leaves {
            Leaves::Inline { .. } => None,
            Leaves::Pieces { leaves, .. } => leaves.get(index as usize)?.pieces,
        }
    }

    /// Whether the map needs anything of a pack (by epoch and number) that is wanted.
    pub fn needs_any(&self, is_wanted: impl Fn(u32, u32) -> bool) -> bool {
        match &self.root.leaves {
            Leaves::Inline { runs, .. } => runs.iter().any(|run| match run.target {
                RunTarget::Zero => false,
                RunTarget::Frame { frame, .. } => is_wanted(frame.epoch, frame.pack),
            }),
            Leaves::Pieces { shares, .. } => shares.iter().any(|share| is_wanted(share.epoch, share.pack)),
        }
    }

    /// Where the blocks of a leaf are, without their digests.
    ///
    /// # Errors
    /// As [`BackupReader::map_leaves`].
    pub fn runs(&self, index: u32) -> Result<Vec<BlockRun>> {
        let (first_block, count) = self.extent(index);
        if let Leaves::Inline { runs, .. } = &self.root.leaves {
            return Ok(runs.clone());
        }
        match self.pieces(index) {
            None => Ok(vec![BlockRun { first_block, count, target: RunTarget::Zero }]),
            Some((runs, _)) => self.reader.piece(FrameKind::Map, &runs, |bytes| {
                decode_runs(bytes, first_block, count, self.reader.header().block_size)
            }),
        }
    }

    /// Reads a leaf and proves its digests.
    ///
    /// # Errors
    /// As [`BackupReader::map_leaves`].
    pub fn read(&self, index: u32) -> Result<MapLeaf> {
        let (first_block, count) = self.extent(index);
        let runs = self.runs(index)?;
        let leaf = match &self.root.leaves {
            Leaves::Inline { digests, .. } => MapLeaf { first_block, runs, digests: digests.clone() },
            Leaves::Pieces { leaves, .. } => {
                let missing = || self.reader.corrupt(&self.place, Malformed("a block map lacks a leaf"));
                let leaf = leaves.get(index as usize).ok_or_else(missing)?;
                let (at, digests) = match &leaf.pieces {
                    None => (&self.place, vec![self.zero; count as usize]),
                    Some((_, digests)) => {
                        (digests, self.reader.piece(FrameKind::Digests, digests, decode_digests)?)
                    }
                };
                let key = self.reader.stanza().repository().digest_key();
                if digests.len() != count as usize || key.leaf(&digests) != leaf.digest {
                    return Err(self.reader.corrupt(at, Malformed("the digest of a leaf is wrong")));
                }
                MapLeaf { first_block, runs, digests }
            }
        };
        if has_false_zeros(&leaf, self.zero) {
            let wrong = Malformed("a block of zeros has the digest of another");
            return Err(self.reader.corrupt(&self.place, wrong));
        }
        Ok(leaf)
    }

    /// All leaves, in order, each read when it is asked for.
    pub fn iter(&self) -> impl Iterator<Item = Result<MapLeaf>> + '_ {
        (0..self.count()).map(|index| self.read(index))
    }
}

/// Whether a run of zeros has a digest that is not that of zeros.
fn has_false_zeros(leaf: &MapLeaf, zero: BlockDigest) -> bool {
    leaf.runs.iter().filter(|run| run.target == RunTarget::Zero).any(|run| {
        let from = (run.first_block - leaf.first_block) as usize;
        leaf.digests
            .get(from..from + run.count as usize)
            .is_none_or(|digests| digests.iter().any(|digest| *digest != zero))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_must_have_the_digest_of_zeros() {
        let zero = BlockDigest([1; 8]);
        let run = |first_block, count| BlockRun { first_block, count, target: RunTarget::Zero };
        let leaf = |digests: Vec<BlockDigest>| MapLeaf { first_block: 256, runs: vec![run(256, 2)], digests };
        assert!(!has_false_zeros(&leaf(vec![zero; 2]), zero));
        assert!(has_false_zeros(&leaf(vec![zero, BlockDigest([2; 8])]), zero));
        assert!(has_false_zeros(&leaf(vec![zero]), zero), "one digest too few");
    }
}
