//! A block map leaf by leaf: runs and digests of some blocks at a time, for whoever compares blocks with what is on a disk.
//!
//! A file of any size costs one leaf of memory: 256 blocks, or at most 65536 of a huge file. What is handed out is checked:
//! there is a digest for every block, the digests of a leaf have the digest that the root names, and a run of zeros has
//! the digests of zero blocks.

use crate::block_map::{BlockRun, Leaves, PieceRef, Root, RunTarget, decode_digests, decode_runs};
use crate::bytes::Malformed;
use crate::error::Result;
use crate::frame::FrameKind;
use crate::manifest::FileEntry;
use crate::{BackupReader, BlockDigest};

/// Some neighbouring blocks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLeaf {
    /// Number of the first block.
    pub first_block: u32,
    /// Where the blocks are: in order, every block once.
    pub runs: Vec<BlockRun>,
    /// The digest of every block.
    pub digests: Vec<BlockDigest>,
}

/// The leaves of one file's block map, in order.
#[derive(Debug)]
pub struct MapLeaves {
    reader: BackupReader,
    root: Option<(PieceRef, Root)>,
    next: u32,
    zero: BlockDigest,
}

impl BackupReader {
    /// The block map of a regular file, leaf by leaf; that of an empty file has none.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`](crate::RepoError::Corrupt), [`RepoError::NotFound`](crate::RepoError::NotFound) where a pack
    /// is gone, or when the storage fails. The leaves fail in the same way, each when it is asked for.
    pub fn leaves(&self, entry: &FileEntry) -> Result<MapLeaves> {
        let zero = self.stanza().repository().digest_key().zero_block(self.header().block_size);
        Ok(MapLeaves { reader: self.clone(), root: self.root(entry)?, next: 0, zero })
    }
}

/// Reads and checks one leaf of a map whose root lies at `piece`; `zero` is the digest of a block of zeros.
pub(crate) fn read_leaf(
    reader: &BackupReader,
    piece: &PieceRef,
    root: &Root,
    zero: BlockDigest,
    index: u32,
) -> Result<MapLeaf> {
    let (first_block, count) = root.layout().leaf(index);
    let block_size = reader.header().block_size;
    let leaf = match &root.leaves {
        Leaves::Inline { runs, digests } => {
            MapLeaf { first_block, runs: runs.clone(), digests: digests.clone() }
        }
        Leaves::Pieces { leaves, .. } => {
            let leaf = leaves.get(index as usize);
            let leaf = leaf.ok_or_else(|| reader.corrupt(piece, Malformed("a block map lacks a leaf")))?;
            let (at, runs, digests) = match &leaf.pieces {
                None => {
                    let run = BlockRun { first_block, count, target: RunTarget::Zero };
                    (piece, vec![run], vec![zero; count as usize])
                }
                Some((runs, digests)) => {
                    let decode = |bytes: &[u8]| decode_runs(bytes, first_block, count, block_size);
                    let runs = reader.piece(FrameKind::Map, runs, decode)?;
                    (digests, runs, reader.piece(FrameKind::Digests, digests, decode_digests)?)
                }
            };
            let key = reader.stanza().repository().digest_key();
            if digests.len() != count as usize || key.leaf(&digests) != leaf.digest {
                return Err(reader.corrupt(at, Malformed("the digest of a leaf is wrong")));
            }
            MapLeaf { first_block, runs, digests }
        }
    };
    if has_false_zeros(&leaf, zero) {
        return Err(reader.corrupt(piece, Malformed("a block of zeros has the digest of another")));
    }
    Ok(leaf)
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

impl Iterator for MapLeaves {
    type Item = Result<MapLeaf>;

    fn next(&mut self) -> Option<Self::Item> {
        let (piece, root) = self.root.as_ref()?;
        if self.next >= root.layout().leaf_count() {
            return None;
        }
        let leaf = read_leaf(&self.reader, piece, root, self.zero, self.next);
        // After an error there is nothing more: the rest could not be placed.
        self.next = if leaf.is_ok() { self.next + 1 } else { u32::MAX };
        Some(leaf)
    }
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
