//! Writes block maps into metadata frames that many files share. The bytes are those of `docs/format/block-map.md`.
//!
//! A root names the frames of its leaves, and a manifest line the frame of its root; but where a frame lies is known
//! only when it is full. So roots wait for the frames of their leaves, and lines for the frame of their root. What
//! waits is bounded by what fits into the open frames.

use std::collections::VecDeque;

use crate::block_map::{
    BlockMapBuilder, FinishedMap, Leaf, LeafLayout, Leaves, PieceRef, Root, RunTarget, ShareCount,
    encode_digests, encode_runs,
};
use crate::error::Result;
use crate::frame::{FrameKind, FrameRef, MAX_META_FRAME};
use crate::manifest::{FileEntry, FileKind, FileMeta};
use crate::{BlockDigest, DigestKey, RepoError};

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
    block_count: u32,
    layout: LeafLayout,
    leaves: Vec<WaitingLeaf>,
    shares: ShareCount,
}

#[derive(Debug)]
struct WaitingLeaf {
    pieces: Option<(Placed, Placed)>,
    digest: [u8; 8],
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
    waiting_lines: VecDeque<(FileMeta, Placed)>,
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
        }
    }

    /// Takes the map of a file that is not empty; entries that are complete now are pushed to `done`.
    pub(crate) fn add(
        &mut self,
        meta: FileMeta,
        map: BlockMapBuilder,
        sink: &mut impl FrameSink,
        done: &mut Vec<FileEntry>,
    ) -> Result<()> {
        let name = || String::from_utf8_lossy(&meta.path).into_owned();
        let blocks = u32::try_from(meta.size.div_ceil(u64::from(self.block_size)))
            .map_err(|_| RepoError::unrepresentable(format!("`{}`: it is too large", name())))?;
        let map =
            map.finish(blocks).map_err(|m| RepoError::unrepresentable(format!("`{}`: {}", name(), m.0)))?;
        let layout = LeafLayout::new(blocks);
        if layout.leaf_count() == 1 {
            let root = Root::inline(map, &self.key).encode();
            let placed = self.roots.put(&root, sink)?;
            self.waiting_lines.push_back((meta, placed));
        } else {
            let waiting = self.put_leaves(meta, &map, layout, sink)?;
            self.waiting_roots.push_back(waiting);
        }
        self.advance(sink, done)
    }

    fn put_leaves(
        &mut self,
        meta: FileMeta,
        map: &FinishedMap,
        layout: LeafLayout,
        sink: &mut impl FrameSink,
    ) -> Result<WaitingRoot> {
        let mut shares = ShareCount::default();
        let mut leaves = Vec::with_capacity(layout.leaf_count() as usize);
        for (runs, index) in map.leaf_runs(layout).iter().zip(0..) {
            let digests: &[BlockDigest] = map.leaf_digests(layout, index);
            let all_zero = runs.iter().all(|run| run.target == RunTarget::Zero);
            let pieces = if all_zero {
                None
            } else {
                runs.iter().for_each(|run| shares.add_run(run, self.block_size));
                let mut raw = Vec::with_capacity(digests.len() * 8);
                encode_digests(digests, &mut raw);
                Some((self.runs.put(&encode_runs(runs), sink)?, self.digests.put(&raw, sink)?))
            };
            leaves.push(WaitingLeaf { pieces, digest: self.key.leaf(digests) });
        }
        Ok(WaitingRoot { meta, block_count: layout.block_count, layout, leaves, shares })
    }

    /// Stores what is left.
    pub(crate) fn finish(&mut self, sink: &mut impl FrameSink, done: &mut Vec<FileEntry>) -> Result<()> {
        self.runs.flush(sink)?;
        self.digests.flush(sink)?;
        self.advance(sink, done)?;
        self.roots.flush(sink)?;
        self.advance(sink, done)
    }

    fn advance(&mut self, sink: &mut impl FrameSink, done: &mut Vec<FileEntry>) -> Result<()> {
        while let Some(waiting) = self.waiting_roots.front() {
            let Some(root) = self.resolve_root(waiting) else { break };
            let placed = self.roots.put(&root.encode(), sink)?;
            if let Some(waiting) = self.waiting_roots.pop_front() {
                self.waiting_lines.push_back((waiting.meta, placed));
            }
        }
        while let Some((_, placed)) = self.waiting_lines.front() {
            let Some(root) = self.roots.resolve(*placed) else { break };
            if let Some((meta, _)) = self.waiting_lines.pop_front() {
                done.push(FileEntry { meta, kind: FileKind::File { root: Some(root) } });
            }
        }
        Ok(())
    }

    fn resolve_root(&self, waiting: &WaitingRoot) -> Option<Root> {
        let mut shares = waiting.shares.clone();
        let mut leaves = Vec::with_capacity(waiting.leaves.len());
        // The last leaf's frames are stored last: ask for them first.
        if let Some(WaitingLeaf { pieces: Some((runs, digests)), .. }) = waiting.leaves.last() {
            self.runs.resolve(*runs)?;
            self.digests.resolve(*digests)?;
        }
        for leaf in &waiting.leaves {
            let pieces = match leaf.pieces {
                None => None,
                Some((runs, digests)) => {
                    let (runs, digests) = (self.runs.resolve(runs)?, self.digests.resolve(digests)?);
                    shares.add_piece(&runs);
                    shares.add_piece(&digests);
                    Some((runs, digests))
                }
            };
            leaves.push(Leaf { pieces, digest: leaf.digest });
        }
        let digest =
            self.key.file(waiting.block_count, waiting.layout.shift, leaves.iter().map(|leaf| leaf.digest));
        Some(Root {
            block_count: waiting.block_count,
            leaf_shift: waiting.layout.shift,
            digest,
            leaves: Leaves::Pieces { leaves, shares: shares.shares() },
        })
    }
}
