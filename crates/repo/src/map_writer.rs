//! Writes block maps into metadata frames that many files share. The bytes are those of `docs/format/block-map.md`.
//!
//! The map of a changed file is written over that of the parent's: a leaf in which nothing changed is the parent's own,
//! and only what changed is written.
//!
//! A root names the frames of its leaves, and a manifest line the frame of its root; but where a frame lies is known
//! only when it is full. So roots wait for the frames of their leaves, and lines for the frame of their root. What
//! waits is bounded by what fits into the open frames.

use std::collections::{BTreeSet, VecDeque};

use crate::block_map::{
    BlockMapBuilder, FinishedMap, Leaf, LeafContents, LeafLayout, Leaves, PieceRef, Root, RunTarget,
    ShareCount, encode_digests, encode_runs,
};
use crate::error::Result;
use crate::frame::{FrameKind, FrameRef, MAX_META_FRAME};
use crate::manifest::{FileEntry, FileKind, FileMeta};
use crate::parent_map::ParentMap;
use crate::{DigestKey, RepoError};

/// Metadata frames are closed at this size: small enough to read for one file, large enough to compress.
const META_FRAME_BYTES: usize = 64 << 10;

/// Where frames go.
pub(crate) trait FrameSink {
    /// Stores a frame of metadata and says where.
    fn put(&mut self, kind: FrameKind, raw: &[u8]) -> Result<FrameRef>;
}

/// Pieces that are gathered into frames.
#[derive(Debug)]
struct MetaStream {
    kind: FrameKind,
    buffer: Vec<u8>,
    frames: Vec<FrameRef>,
}

/// A piece in a frame that may not be stored yet.
#[derive(Clone, Copy, Debug)]
struct Placed {
    frame: usize,
    offset: u32,
    len: u32,
}

impl MetaStream {
    fn new(kind: FrameKind) -> MetaStream {
        MetaStream { kind, buffer: Vec::new(), frames: Vec::new() }
    }

    fn put(&mut self, piece: &[u8], sink: &mut impl FrameSink) -> Result<Placed> {
        if piece.len() > MAX_META_FRAME {
            return Err(RepoError::unrepresentable("a file whose block map is this large"));
        }
        if !self.buffer.is_empty() && self.buffer.len() + piece.len() > META_FRAME_BYTES {
            self.flush(sink)?;
        }
        // Both are below 16 MiB.
        let placed =
            Placed { frame: self.frames.len(), offset: self.buffer.len() as u32, len: piece.len() as u32 };
        self.buffer.extend_from_slice(piece);
        Ok(placed)
    }

    fn flush(&mut self, sink: &mut impl FrameSink) -> Result<()> {
        if !self.buffer.is_empty() {
            self.frames.push(sink.put(self.kind, &self.buffer)?);
            self.buffer.clear();
        }
        Ok(())
    }

    fn resolve(&self, placed: Placed) -> Option<PieceRef> {
        let frame = *self.frames.get(placed.frame)?;
        Some(PieceRef { frame, offset: placed.offset, len: placed.len })
    }
}

#[derive(Debug)]
struct WaitingRoot {
    meta: FileMeta,
    layout: LeafLayout,
    leaves: Vec<WaitingLeaf>,
    /// All but the pieces that have no place yet.
    shares: ShareCount,
}

#[derive(Debug)]
enum WaitingLeaf {
    /// Written now; no pieces where all blocks hold zeros.
    New { pieces: Option<(Placed, Placed)>, digest: [u8; 8] },
    /// Written by an earlier backup.
    Kept(Leaf),
}

#[derive(Debug)]
struct WaitingLine {
    meta: FileMeta,
    root: Placed,
    /// All but the root.
    shares: ShareCount,
}

/// A file whose map is stored, and what it needs of each pack.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) entry: FileEntry,
    pub(crate) shares: ShareCount,
}

/// Writes block maps, and hands out the finished entries of the manifest.
#[derive(Debug)]
pub(crate) struct MapWriter {
    key: DigestKey,
    block_size: u32,
    runs: MetaStream,
    digests: MetaStream,
    roots: MetaStream,
    waiting_roots: VecDeque<WaitingRoot>,
    waiting_lines: VecDeque<WaitingLine>,
    /// Leaves that lie in these packs are not kept there.
    rewrite: BTreeSet<(u32, u32)>,
}

impl MapWriter {
    pub(crate) fn new(key: DigestKey, block_size: u32) -> MapWriter {
        MapWriter {
            key,
            block_size,
            runs: MetaStream::new(FrameKind::Map),
            digests: MetaStream::new(FrameKind::Digests),
            roots: MetaStream::new(FrameKind::Map),
            waiting_roots: VecDeque::new(),
            waiting_lines: VecDeque::new(),
            rewrite: BTreeSet::new(),
        }
    }

    /// Leaves that lie in these packs are written anew from now on.
    pub(crate) fn rewrite(&mut self, packs: &BTreeSet<(u32, u32)>) {
        self.rewrite.clone_from(packs);
    }

    fn may_keep(&self, leaf: &Leaf) -> bool {
        let lies_there = |piece: &PieceRef| self.rewrite.contains(&piece.frame.pack_name());
        !leaf.pieces.is_some_and(|(runs, digests)| lies_there(&runs) || lies_there(&digests))
    }

    /// Takes the map of a file that is not empty; entries that are complete now are pushed to `done`. Blocks that `map`
    /// leaves out are those of `parent`, and leaves without a block of `map` are the parent's own, pieces and all.
    pub(crate) fn add(
        &mut self,
        meta: FileMeta,
        map: BlockMapBuilder,
        parent: Option<&ParentMap>,
        sink: &mut impl FrameSink,
        done: &mut Vec<MappedFile>,
    ) -> Result<()> {
        let named = |meta: &FileMeta, what: &str| {
            RepoError::unrepresentable(format!("`{}`: {what}", String::from_utf8_lossy(&meta.path)))
        };
        let blocks = u32::try_from(meta.size.div_ceil(u64::from(self.block_size)))
            .map_err(|_| named(&meta, "it is too large"))?;
        let map = map.finish(blocks).map_err(|m| named(&meta, m.0))?;
        if parent.is_none() && !map.is_complete() {
            return Err(named(&meta, "a map that leaves blocks out"));
        }
        let layout = LeafLayout::new(blocks);
        if layout.leaf_count() == 1 {
            let leaf =
                self.leaf(&map, 0, blocks, parent).map_err(|error| error.named(|what| named(&meta, what)))?;
            let root = Root::inline(leaf, &self.key);
            let shares = root.shares(self.block_size);
            let root = self.roots.put(&root.encode(), sink)?;
            self.waiting_lines.push_back(WaitingLine { meta, root, shares });
        } else {
            let (leaves, shares) = match self.put_leaves(&map, layout, parent, sink) {
                Ok(put) => put,
                Err(error) => return Err(error.named(|what| named(&meta, what))),
            };
            self.waiting_roots.push_back(WaitingRoot { meta, layout, leaves, shares });
        }
        self.advance(sink, done)
    }

    /// One leaf of the new map.
    fn leaf(
        &self,
        map: &FinishedMap,
        first: u32,
        count: u32,
        parent: Option<&ParentMap>,
    ) -> Result<LeafContents, LeafError> {
        let below = match parent {
            Some(parent) if !map.covers(first, count) => Some(parent.blocks(first, count)?),
            _ => None,
        };
        map.leaf(first, count, below.as_ref()).map_err(|m| LeafError::Malformed(m.0))
    }

    fn put_leaves(
        &mut self,
        map: &FinishedMap,
        layout: LeafLayout,
        parent: Option<&ParentMap>,
        sink: &mut impl FrameSink,
    ) -> Result<(Vec<WaitingLeaf>, ShareCount), LeafError> {
        let mut leaves = Vec::with_capacity(layout.leaf_count() as usize);
        let mut shares = ShareCount::default();
        let mut kept = 0;
        for index in 0..layout.leaf_count() {
            let (first, count) = layout.leaf(index);
            if !map.touches(first, count)
                && let Some(leaf) = parent.and_then(|parent| parent.same_leaf(layout, index))
                && self.may_keep(&leaf)
            {
                kept += 1;
                leaves.push(WaitingLeaf::Kept(leaf));
                continue;
            }
            let leaf = self.leaf(map, first, count, parent)?;
            leaf.runs.iter().for_each(|run| shares.add_run(run, self.block_size));
            let pieces = if leaf.runs.iter().all(|run| run.target == RunTarget::Zero) {
                None
            } else {
                let mut raw = Vec::with_capacity(leaf.digests.len() * 8);
                encode_digests(&leaf.digests, &mut raw);
                Some((self.runs.put(&encode_runs(&leaf.runs), sink)?, self.digests.put(&raw, sink)?))
            };
            leaves.push(WaitingLeaf::New { pieces, digest: self.key.leaf(&leaf.digests) });
        }
        // What kept leaves need is in the parent's sum, less what its other leaves need: most leaves are not opened.
        if let Some(parent) = parent.filter(|_| kept > 0) {
            let replaced = |index: u32| !matches!(leaves.get(index as usize), Some(WaitingLeaf::Kept(_)));
            shares.add_all(&parent.shares_without(replaced)?);
        }
        Ok((leaves, shares))
    }

    /// Stores what is left.
    pub(crate) fn finish(&mut self, sink: &mut impl FrameSink, done: &mut Vec<MappedFile>) -> Result<()> {
        self.runs.flush(sink)?;
        self.digests.flush(sink)?;
        self.advance(sink, done)?;
        self.roots.flush(sink)?;
        self.advance(sink, done)
    }

    fn advance(&mut self, sink: &mut impl FrameSink, done: &mut Vec<MappedFile>) -> Result<()> {
        while let Some(waiting) = self.waiting_roots.front() {
            let Some((root, shares)) = self.resolve_root(waiting) else { break };
            let root = self.roots.put(&root.encode(), sink)?;
            if let Some(waiting) = self.waiting_roots.pop_front() {
                self.waiting_lines.push_back(WaitingLine { meta: waiting.meta, root, shares });
            }
        }
        while let Some(waiting) = self.waiting_lines.front() {
            let Some(root) = self.roots.resolve(waiting.root) else { break };
            if let Some(WaitingLine { meta, mut shares, .. }) = self.waiting_lines.pop_front() {
                shares.add_piece(&root);
                let entry = FileEntry { meta, kind: FileKind::File { root: Some(root) } };
                done.push(MappedFile { entry, shares });
            }
        }
        Ok(())
    }

    fn resolve_root(&self, waiting: &WaitingRoot) -> Option<(Root, ShareCount)> {
        let mut shares = waiting.shares.clone();
        let mut leaves = Vec::with_capacity(waiting.leaves.len());
        // The last new leaf's frames are stored last: ask for them first.
        let placed = |leaf: &WaitingLeaf| match leaf {
            WaitingLeaf::New { pieces, .. } => *pieces,
            WaitingLeaf::Kept(_) => None,
        };
        if let Some((runs, digests)) = waiting.leaves.iter().rev().find_map(placed) {
            self.runs.resolve(runs)?;
            self.digests.resolve(digests)?;
        }
        for leaf in &waiting.leaves {
            leaves.push(match leaf {
                WaitingLeaf::Kept(leaf) => *leaf,
                WaitingLeaf::New { pieces: None, digest } => Leaf { pieces: None, digest: *digest },
                WaitingLeaf::New { pieces: Some((runs, digests)), digest } => {
                    let (runs, digests) = (self.runs.resolve(*runs)?, self.digests.resolve(*digests)?);
                    shares.add_piece(&runs);
                    shares.add_piece(&digests);
                    Leaf { pieces: Some((runs, digests)), digest: *digest }
                }
            });
        }
        let LeafLayout { block_count, shift } = waiting.layout;
        let digest = self.key.file(block_count, shift, leaves.iter().map(|leaf| leaf.digest));
        let leaves = Leaves::Pieces { leaves, shares: shares.shares() };
        Some((Root { block_count, leaf_shift: shift, digest, leaves }, shares))
    }
}

/// Why a leaf cannot be made: what was put does not fit, or the parent's map cannot be read.
#[derive(Debug)]
enum LeafError {
    Malformed(&'static str),
    Repo(RepoError),
}

impl LeafError {
    fn named(self, named: impl FnOnce(&'static str) -> RepoError) -> RepoError {
        match self {
            LeafError::Malformed(what) => named(what),
            LeafError::Repo(error) => error,
        }
    }
}

impl From<RepoError> for LeafError {
    fn from(error: RepoError) -> LeafError {
        LeafError::Repo(error)
    }
}
