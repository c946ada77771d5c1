//! What interrupted backups left, on the side of a worker: blocks that may lie in a left frame wait until it is clear how
//! many of the frame's blocks the cluster still has.
//!
//! A frame is taken over only when more than half of its blocks are, byte by byte, those that were read just now. Each
//! block is read once in a backup, so this can be true for one piece of work at most, and a frame is copied at most once,
//! without a word between the workers. Memory: the bytes of the waiting blocks ([`Reuse::held_bytes`], which the worker
//! bounds), and one frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgkeep_repo::{BlockDigest, EncodedFrame, FrameDecoder, FrameRef, LeftBlock, Leftovers};

/// A block that waits.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Which stretch of those that are processed together.
    pub stretch: usize,
    /// The block in its file.
    pub block: u32,
    /// Its digest.
    pub digest: BlockDigest,
    left: LeftBlock,
    /// Where its bytes wait, in blocks.
    at: usize,
}

impl Held {
    /// The position in the frame, in blocks.
    pub const fn position(&self) -> u32 {
        self.left.position
    }
}

/// A frame that is taken over, and the blocks that are the cluster's.
pub type TakenOver = (EncodedFrame, Vec<Held>);

/// One worker's view of what is left.
#[derive(Debug)]
pub struct Reuse {
    left: Arc<Leftovers>,
    decoder: FrameDecoder,
    block_size: usize,
    held: Vec<Held>,
    bytes: Vec<u8>,
    plain: Vec<u8>,
}

impl Reuse {
    /// Nothing waits yet.
    pub fn new(left: Arc<Leftovers>, block_size: usize) -> Reuse {
        Reuse {
            decoder: left.decoder(),
            left,
            block_size,
            held: Vec::new(),
            bytes: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Where blocks of a file may lie: one entry for each, or none at all.
    pub fn find(&self, path: &str, first: u32, count: usize) -> Vec<Option<LeftBlock>> {
        self.left.find(path.as_bytes(), first, u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Lets a block wait.
    pub fn hold(&mut self, stretch: usize, block: u32, digest: BlockDigest, left: LeftBlock, bytes: &[u8]) {
        let at = self.held.len();
        self.held.push(Held { stretch, block, digest, left, at });
        self.bytes.extend_from_slice(bytes);
    }

    /// How much waits.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Decides about all that waits. The second list are the blocks that must be stored anew, in the order in which they
    /// came; [`Self::bytes`] has them until [`Self::clear`].
    pub fn decide(&mut self) -> (Vec<TakenOver>, Vec<Held>) {
        let mut by_frame: BTreeMap<FrameRef, Vec<Held>> = BTreeMap::new();
        for held in std::mem::take(&mut self.held) {
            by_frame.entry(held.left.frame).or_default().push(held);
        }
        let promising: Vec<FrameRef> = by_frame
            .iter()
            .filter(|(frame, held)| self.is_most(held.len(), frame))
            .map(|(frame, _)| *frame)
            .collect();
        let mut taken = Vec::new();
        let mut anew = Vec::new();
        for stored in self.left.fetch(&promising) {
            let mut plain = std::mem::take(&mut self.plain);
            let frame = self.left.take_over(&mut self.decoder, &stored, &mut plain);
            self.plain = plain;
            let Some(frame) = frame else { continue };
            let Some(held) = by_frame.remove(&stored.frame) else { continue };
            let (same, other): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|held| self.is_same(held));
            if self.is_most(same.len(), &stored.frame) {
                anew.extend(other);
                taken.push((frame, same));
            } else {
                anew.extend(same);
                anew.extend(other);
            }
        }
        anew.extend(by_frame.into_values().flatten());
        anew.sort_by_key(|held| held.at);
        (taken, anew)
    }

    /// The bytes of a block that `decide` answered.
    pub fn bytes(&self, held: &Held) -> &[u8] {
        &self.bytes[held.at * self.block_size..][..self.block_size]
    }

    /// Forgets the bytes.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    fn is_most(&self, blocks: usize, frame: &FrameRef) -> bool {
        blocks * 2 > frame.raw_len as usize / self.block_size
    }

    /// Whether the frame that was decoded last has the very bytes of this block.
    fn is_same(&self, held: &Held) -> bool {
        let from = held.left.position as usize * self.block_size;
        self.plain.get(from..from + self.block_size) == Some(self.bytes(held))
    }
}
