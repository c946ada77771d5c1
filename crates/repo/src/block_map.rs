//! Block maps: which frame holds which block of a file, and the digest of every block. See `docs/format/block-map.md`.
//!
//! A map is a root, and leaves of 256 blocks (more for huge files). A leaf has two pieces: its runs (all that a restore
//! reads) and its digests. Pieces lie in metadata frames that many files share; a later backup's root may point to
//! pieces that an earlier backup wrote. The map of a file with a single leaf is held in its root altogether.
//!
//! What is decoded is checked: runs cover every block of their leaf exactly once, in order, and stay inside their frames.

mod builder;
mod share;

use std::collections::BTreeMap;

use crate::bytes::{Malformed, Parsed, Reader, offset_u32, put_signed, put_varint};
use crate::digest::Digest16;
use crate::frame::{FrameRef, MAX_BLOCKS_FRAME};
use crate::{BlockDigest, DigestKey};

pub use self::builder::BlockMapBuilder;
pub(crate) use self::builder::FinishedMap;
pub(crate) use self::share::{PackShare, ShareCount};

/// Blocks of a leaf, as a power of two, unless the file is so large that its root would be.
const LEAF_SHIFT: u8 = 8;
/// The largest leaf that is written or read.
const MAX_LEAF_SHIFT: u8 = 16;
/// More leaves than this, and leaves get larger instead.
const MANY_LEAVES: u64 = 1 << 15;

const ROOT_VERSION: u8 = 1;
const FLAG_INLINE: u8 = 1;

/// Where the bytes of a run of blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunTarget {
    /// Nowhere: the blocks hold zeros.
    Zero,
    /// In a frame.
    Frame {
        /// The frame.
        frame: FrameRef,
        /// Where the first block of the run lies in it, in blocks.
        position: u32,
    },
}

/// Neighbouring blocks of a file that are neighbours in a frame too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// The first block.
    pub first_block: u32,
    /// How many, at least one.
    pub count: u32,
    /// Where their bytes are.
    pub target: RunTarget,
}

/// Bytes inside a metadata frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceRef {
    /// The frame.
    pub frame: FrameRef,
    /// Where the piece begins in what the frame holds.
    pub offset: u32,
    /// Its length.
    pub len: u32,
}

impl PieceRef {
    pub(crate) fn check(&self) -> Parsed<()> {
        self.frame.check()?;
        match self.offset.checked_add(self.len) {
            Some(end) if end <= self.frame.raw_len && self.len > 0 => Ok(()),
            _ => Err(Malformed("a piece lies outside of its frame")),
        }
    }
}

/// One leaf of a map with several: where its pieces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Runs and digests; none where all blocks of the leaf hold zeros.
    pub(crate) pieces: Option<(PieceRef, PieceRef)>,
    /// Digest of the digests of its blocks.
    pub(crate) digest: [u8; 8],
}

/// The decoded root of a block map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) block_count: u32,
    pub(crate) leaf_shift: u8,
    pub(crate) digest: Digest16,
    pub(crate) leaves: Leaves,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// The single leaf itself.
    Inline { runs: Vec<BlockRun>, digests: Vec<BlockDigest> },
    /// Leaves elsewhere, and bytes of each pack that the whole map needs.
    Pieces { leaves: Vec<Leaf>, shares: Vec<PackShare> },
}

/// How leaves are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafLayout {
    pub(crate) block_count: u32,
    pub(crate) shift: u8,
}

impl LeafLayout {
    pub(crate) fn new(block_count: u32) -> LeafLayout {
        let mut shift = LEAF_SHIFT;
        while u64::from(block_count) >> shift > MANY_LEAVES && shift < MAX_LEAF_SHIFT {
            shift += 1;
        }
        LeafLayout { block_count, shift }
    }

    pub(crate) fn leaf_count(&self) -> u32 {
        self.block_count.div_ceil(1 << self.shift)
    }

    /// First block and number of blocks of a leaf.
    pub(crate) fn leaf(&self, index: u32) -> (u32, u32) {
        let first = index << self.shift;
        (first, (self.block_count - first).min(1 << self.shift))
    }
}

/// The runs of one leaf: a table of the frames that they use, then the runs.
pub(crate) fn encode_runs(runs: &[BlockRun]) -> Vec<u8> {
    let mut frames: Vec<FrameRef> = Vec::new();
    let mut coded = Vec::new();
    for run in runs {
        put_varint(&mut coded, u64::from(run.count));
        match run.target {
            RunTarget::Zero => put_varint(&mut coded, 0),
            RunTarget::Frame { frame, position } => {
                // The frame of the run before, or a new one, nearly always.
                let index = frames.iter().rposition(|known| *known == frame).unwrap_or_else(|| {
                    frames.push(frame);
                    frames.len() - 1
                });
                put_varint(&mut coded, index as u64 + 1);
                put_varint(&mut coded, u64::from(position));
            }
        }
    }
    let mut out = Vec::with_capacity(coded.len() + frames.len() * 8 + 2);
    put_frames(&mut out, &frames);
    out.extend_from_slice(&coded);
    out
}

fn put_frames(out: &mut Vec<u8>, frames: &[FrameRef]) {
    put_varint(out, frames.len() as u64);
    let mut before = None;
    for frame in frames {
        frame.encode(before, out);
        before = Some(frame);
    }
}

/// Every frame takes at least five bytes, so that a count that lies costs nothing.
fn take_frames(reader: &mut Reader<'_>) -> Parsed<Vec<FrameRef>> {
    let count = reader.varint_u32()? as usize;
    if count > reader.remaining() / 5 {
        return Err(Malformed("a table of frames is longer than its bytes"));
    }
    let mut frames: Vec<FrameRef> = Vec::with_capacity(count);
    for _ in 0..count {
        frames.push(FrameRef::decode(frames.last(), reader)?);
    }
    Ok(frames)
}

/// Reads the runs of a leaf that begins at `first_block` and has `blocks` blocks.
pub(crate) fn decode_runs(
    bytes: &[u8],
    first_block: u32,
    blocks: u32,
    block_size: u32,
) -> Parsed<Vec<BlockRun>> {
    let mut reader = Reader::new(bytes);
    let frames = take_frames(&mut reader)?;
    for frame in &frames {
        if frame.raw_len as usize > MAX_BLOCKS_FRAME || !frame.raw_len.is_multiple_of(block_size) {
            return Err(Malformed("a frame does not hold whole blocks"));
        }
    }
    let mut runs = Vec::with_capacity((blocks as usize).min(reader.remaining() / 2));
    let mut covered = 0_u32;
    while covered < blocks {
        let count = reader.varint_u32()?;
        if count == 0 || count > blocks - covered {
            return Err(Malformed("a run does not fit its leaf"));
        }
        let target = match reader.varint_u32()?.checked_sub(1) {
            None => RunTarget::Zero,
            Some(index) => {
                let frame = *frames.get(index as usize).ok_or(Malformed("a run names an unknown frame"))?;
                let position = reader.varint_u32()?;
                match position.checked_add(count) {
                    Some(end) if end <= frame.raw_len / block_size => RunTarget::Frame { frame, position },
                    _ => return Err(Malformed("a run lies outside of its frame")),
                }
            }
        };
        let first_block = first_block.checked_add(covered).ok_or(Malformed("a run does not fit its leaf"))?;
        runs.push(BlockRun { first_block, count, target });
        covered += count;
    }
    reader.finish()?;
    Ok(runs)
}

pub(crate) fn encode_digests(digests: &[BlockDigest], out: &mut Vec<u8>) {
    digests.iter().for_each(|digest| out.extend_from_slice(&digest.0));
}

pub(crate) fn decode_digests(bytes: &[u8]) -> Parsed<Vec<BlockDigest>> {
    let (digests, rest) = bytes.as_chunks::<8>();
    if rest.is_empty() {
        Ok(digests.iter().map(|d| BlockDigest(*d)).collect())
    } else {
        Err(Malformed("digests are cut"))
    }
}

/// What one leaf says: where its blocks are, and their digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeafContents {
    /// In order; every block of the leaf once.
    pub(crate) runs: Vec<BlockRun>,
    /// One for each block.
    pub(crate) digests: Vec<BlockDigest>,
}

impl LeafContents {
    /// Adds blocks behind the last one; neighbours in the same place become one run.
    pub(crate) fn push(&mut self, run: BlockRun, digests: &[BlockDigest]) {
        self.digests.extend_from_slice(digests);
        match self.runs.last_mut() {
            Some(last) if last.continues_in(&run) => last.count += run.count,
            _ => self.runs.push(run),
        }
    }

    /// Adds the blocks of `other` whose numbers are in the range; they must follow what is there. Answers how many
    /// blocks that were.
    pub(crate) fn push_part(&mut self, other: &LeafContents, from: u32, to: u32) -> u32 {
        let start = other.runs.first().map_or(0, |run| run.first_block);
        let mut pushed = 0;
        for run in &other.runs {
            let Some(part) = run.part(from, to) else { continue };
            let at = (part.first_block - start) as usize;
            let digests = other.digests.get(at..at + part.count as usize).unwrap_or_default();
            self.push(part, digests);
            pushed += part.count;
        }
        pushed
    }
}

impl BlockRun {
    /// Whether `next` goes on where this run ends, in the file and in what it points to.
    fn continues_in(&self, next: &BlockRun) -> bool {
        self.first_block + self.count == next.first_block
            && match (self.target, next.target) {
                (RunTarget::Zero, RunTarget::Zero) => true,
                (
                    RunTarget::Frame { frame, position },
                    RunTarget::Frame { frame: next_frame, position: next_position },
                ) => frame == next_frame && position + self.count == next_position,
                _ => false,
            }
    }

    /// The part of the run in the blocks from `from` up to, not including, `to`.
    #[must_use]
    pub fn part(&self, from: u32, to: u32) -> Option<BlockRun> {
        let first = self.first_block.max(from);
        let end = self.first_block.saturating_add(self.count).min(to);
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        let target = match self.target {
            RunTarget::Zero => RunTarget::Zero,
            RunTarget::Frame { frame, position } => {
                RunTarget::Frame { frame, position: position + (first - self.first_block) }
            }
        };
        Some(BlockRun { first_block: first, count, target })
    }
}

impl Root {
    /// The root of a file with one leaf.
    pub(crate) fn inline(leaf: LeafContents, key: &DigestKey) -> Root {
        let layout = LeafLayout::new(u32::try_from(leaf.digests.len()).unwrap_or(u32::MAX));
        let digest = key.file(layout.block_count, layout.shift, std::iter::once(key.leaf(&leaf.digests)));
        Root {
            block_count: layout.block_count,
            leaf_shift: layout.shift,
            digest,
            leaves: Leaves::Inline { runs: leaf.runs, digests: leaf.digests },
        }
    }

    /// What the file needs of each pack, the root itself left out.
    pub(crate) fn shares(&self, block_size: u32) -> ShareCount {
        match &self.leaves {
            Leaves::Inline { runs, .. } => {
                let mut shares = ShareCount::default();
                runs.iter().for_each(|run| shares.add_run(run, block_size));
                shares
            }
            Leaves::Pieces { shares, .. } => ShareCount::from_shares(shares),
        }
    }

    pub(crate) fn layout(&self) -> LeafLayout {
        LeafLayout { block_count: self.block_count, shift: self.leaf_shift }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![ROOT_VERSION];
        out.push(if matches!(self.leaves, Leaves::Inline { .. }) { FLAG_INLINE } else { 0 });
        out.push(self.leaf_shift);
        put_varint(&mut out, u64::from(self.block_count));
        out.extend_from_slice(&self.digest.0);
        match &self.leaves {
            Leaves::Inline { runs, digests } => {
                encode_digests(digests, &mut out);
                out.extend_from_slice(&encode_runs(runs));
            }
            Leaves::Pieces { leaves, shares } => {
                put_varint(&mut out, shares.len() as u64);
                for share in shares {
                    put_varint(&mut out, u64::from(share.epoch));
                    put_varint(&mut out, u64::from(share.pack));
                    put_varint(&mut out, share.bytes);
                }
                PieceTable::encode(leaves, &mut out);
                // Apart from the rest, because they do not compress.
                leaves.iter().for_each(|leaf| out.extend_from_slice(&leaf.digest));
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8], block_size: u32, key: &DigestKey) -> Parsed<Root> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != ROOT_VERSION {
            return Err(Malformed("the version of a block map is unknown"));
        }
        let flags = reader.u8()?;
        if flags & !FLAG_INLINE != 0 {
            return Err(Malformed("a block map has unknown flags"));
        }
        let leaf_shift = reader.u8()?;
        if !(LEAF_SHIFT..=MAX_LEAF_SHIFT).contains(&leaf_shift) {
            return Err(Malformed("a block map has leaves of an impossible size"));
        }
        let block_count = reader.varint_u32()?;
        let layout = LeafLayout { block_count, shift: leaf_shift };
        let digest = Digest16(reader.array()?);
        if block_count == 0 || (flags & FLAG_INLINE != 0 && layout.leaf_count() != 1) {
            return Err(Malformed("a block map has an impossible number of blocks"));
        }
        let leaves = if flags & FLAG_INLINE != 0 {
            let digests = decode_digests(reader.take(block_count as usize * 8)?)?;
            let runs = decode_runs(reader.take(reader.remaining())?, 0, block_count, block_size)?;
            Leaves::Inline { runs, digests }
        } else {
            let shares = take_shares(&mut reader)?;
            let mut leaves = PieceTable::decode(&mut reader, layout)?;
            for leaf in &mut leaves {
                leaf.digest = reader.array()?;
            }
            Leaves::Pieces { leaves, shares }
        };
        reader.finish()?;
        let root = Root { block_count, leaf_shift, digest, leaves };
        if root.computed_digest(key) != digest {
            return Err(Malformed("the digest of a block map is wrong"));
        }
        Ok(root)
    }

    fn computed_digest(&self, key: &DigestKey) -> Digest16 {
        match &self.leaves {
            Leaves::Inline { digests, .. } => {
                key.file(self.block_count, self.leaf_shift, std::iter::once(key.leaf(digests)))
            }
            Leaves::Pieces { leaves, .. } => {
                key.file(self.block_count, self.leaf_shift, leaves.iter().map(|leaf| leaf.digest))
            }
        }
    }
}

fn take_shares(reader: &mut Reader<'_>) -> Parsed<Vec<PackShare>> {
    let count = reader.varint_u32()? as usize;
    if count > reader.remaining() / 3 {
        return Err(Malformed("a table of packs is longer than its bytes"));
    }
    (0..count)
        .map(|_| {
            Ok(PackShare { epoch: reader.varint_u32()?, pack: reader.varint_u32()?, bytes: reader.varint()? })
        })
        .collect()
}

/// The places of the pieces of all leaves: a table of frames, then two references for each leaf.
struct PieceTable;

impl PieceTable {
    fn encode(leaves: &[Leaf], out: &mut Vec<u8>) {
        let mut frames: Vec<FrameRef> = Vec::new();
        let mut known: BTreeMap<FrameRef, u32> = BTreeMap::new();
        let mut coded = Vec::new();
        let mut before = [PieceCursor::default(); 2];
        for leaf in leaves {
            let Some((runs, digests)) = leaf.pieces else {
                put_varint(&mut coded, 0);
                continue;
            };
            put_varint(&mut coded, u64::from(runs.len));
            for (piece, cursor) in [runs, digests].iter().zip(&mut before) {
                let index = *known.entry(piece.frame).or_insert_with(|| {
                    frames.push(piece.frame);
                    frames.len() as u32 - 1
                });
                cursor.encode(index, piece, &mut coded);
            }
        }
        put_frames(out, &frames);
        out.extend_from_slice(&coded);
    }

    fn decode(reader: &mut Reader<'_>, layout: LeafLayout) -> Parsed<Vec<Leaf>> {
        let frames = take_frames(reader)?;
        let count = layout.leaf_count();
        // Every leaf has at least one byte here and eight bytes of digest.
        if count as usize > reader.remaining() / 9 {
            return Err(Malformed("a block map has fewer leaves than its blocks need"));
        }
        let mut leaves = Vec::with_capacity(count as usize);
        let mut cursors = [PieceCursor::default(); 2];
        for index in 0..count {
            let runs_len = reader.varint_u32()?;
            let pieces = if runs_len == 0 {
                None
            } else {
                let digests_len = layout.leaf(index).1 * 8;
                let [runs, digests] = &mut cursors;
                Some((runs.decode(reader, &frames, runs_len)?, digests.decode(reader, &frames, digests_len)?))
            };
            leaves.push(Leaf { pieces, digest: [0; 8] });
        }
        Ok(leaves)
    }
}

/// Where the piece before ended: the next one mostly follows it.
#[derive(Clone, Copy, Default)]
struct PieceCursor {
    frame: u32,
    end: u32,
}

impl PieceCursor {
    fn encode(&mut self, frame: u32, piece: &PieceRef, out: &mut Vec<u8>) {
        put_signed(out, i64::from(frame) - i64::from(self.frame));
        let expected = if frame == self.frame { self.end } else { 0 };
        put_signed(out, i64::from(piece.offset) - i64::from(expected));
        *self = PieceCursor { frame, end: piece.offset + piece.len };
    }

    fn decode(&mut self, reader: &mut Reader<'_>, frames: &[FrameRef], len: u32) -> Parsed<PieceRef> {
        let frame = offset_u32(self.frame, reader.signed()?)?;
        let expected = if frame == self.frame { self.end } else { 0 };
        let offset = offset_u32(expected, reader.signed()?)?;
        let found = *frames.get(frame as usize).ok_or(Malformed("a piece names an unknown frame"))?;
        let piece = PieceRef { frame: found, offset, len };
        piece.check()?;
        *self = PieceCursor { frame, end: offset + len };
        Ok(piece)
    }
}

#[cfg(test)]
mod tests;
