//! A block map leaf by leaf, runs and digests together: for whoever checks maps and cannot hold a whole one.
//!
//! A leaf is named by where its two pieces lie. Backups that share a leaf share these places, so that work done for one
//! of them need not be done again for the next.

use crate::backup_reader::BackupReader;
use crate::block_map::{Leaves, Root, decode_digests, decode_runs};
use crate::bytes::Malformed;
use crate::error::Result;
use crate::frame::FrameKind;
use crate::manifest::{FileEntry, FileKind};
use crate::{BlockDigest, BlockRun, PieceRef, RunTarget};

/// The root of the map of one file, decoded and proved: its leaves agree with the digest of the file.
#[derive(Clone, Debug)]
pub struct MapLeaves {
    reader: BackupReader,
    place: PieceRef,
    root: Root,
}

/// One leaf: where its blocks are and what their digests are.
#[derive(Clone, Debug)]
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
    /// [`crate::RepoError::Corrupt`], [`crate::RepoError::NotFound`] where a pack is gone, or when the storage fails.
    pub fn map_leaves(&self, entry: &FileEntry) -> Result<Option<MapLeaves>> {
        let FileKind::File { root: Some(place) } = entry.kind else { return Ok(None) };
        let block_size = self.header().block_size;
        let key = self.stanza().repository().digest_key();
        let root = self.piece(FrameKind::Map, &place, |bytes| Root::decode(bytes, block_size, key))?;
        if u64::from(root.block_count) != entry.meta.size.div_ceil(u64::from(block_size)) {
            return Err(self.corrupt(&place, Malformed("a block map does not fit the size of its file")));
        }
        Ok(Some(MapLeaves { reader: self.clone(), place, root }))
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

    /// Reads a leaf and proves its digests.
    ///
    /// # Errors
    /// As [`BackupReader::map_leaves`].
    pub fn read(&self, index: u32) -> Result<MapLeaf> {
        let (first_block, count) = self.extent(index);
        let leaves = match &self.root.leaves {
            Leaves::Inline { runs, digests } => {
                return Ok(MapLeaf { first_block, runs: runs.clone(), digests: digests.clone() });
            }
            Leaves::Pieces { leaves, .. } => leaves,
        };
        let missing = || self.reader.corrupt(&self.place, Malformed("a block map lacks a leaf"));
        let leaf = leaves.get(index as usize).ok_or_else(missing)?;
        let block_size = self.reader.header().block_size;
        let key = self.reader.stanza().repository().digest_key();
        let (runs, digests) = match &leaf.pieces {
            None => (
                vec![BlockRun { first_block, count, target: RunTarget::Zero }],
                vec![key.zero_block(block_size); count as usize],
            ),
            Some((runs, digests)) => (
                self.reader.piece(FrameKind::Map, runs, |bytes| {
                    decode_runs(bytes, first_block, count, block_size)
                })?,
                self.reader.piece(FrameKind::Digests, digests, decode_digests)?,
            ),
        };
        if digests.len() != count as usize || key.leaf(&digests) != leaf.digest {
            let place = leaf.pieces.as_ref().map_or(&self.place, |(_, digests)| digests);
            return Err(self.reader.corrupt(place, Malformed("the digest of a leaf is wrong")));
        }
        Ok(MapLeaf { first_block, runs, digests })
    }
}
