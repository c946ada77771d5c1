//! How many stored bytes of each pack a file needs.
//!
//! A frame that several files share counts for each by the part of it that the file uses, rounded up. So a pack has a
//! share if and only if something in it is needed, and shares can be added and taken away exactly: the needs of a backup
//! are those of its parent, less the files that changed or went, plus what replaced them. Retention trusts the sums.

use std::collections::BTreeMap;

use super::{BlockRun, PieceRef, RunTarget};
use crate::bytes::{Malformed, Parsed};
use crate::frame::FrameRef;

/// The stored bytes of one pack that something needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackShare {
    pub(crate) epoch: u32,
    pub(crate) pack: u32,
    pub(crate) bytes: u64,
}

/// Sums up how much of each pack is needed, by epoch and number.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ShareCount(BTreeMap<(u32, u32), u64>);

/// The part of a frame's stored bytes that `used` of its plain bytes stand for; at least 1.
fn share_of(frame: &FrameRef, used: u64) -> u64 {
    // Frames are below 16 MiB: the product fits.
    (used * u64::from(frame.stored_len)).div_ceil(u64::from(frame.raw_len.max(1))).max(1)
}

fn run_share(run: &BlockRun, block_size: u32) -> Option<(FrameRef, u64)> {
    match run.target {
        RunTarget::Zero => None,
        RunTarget::Frame { frame, .. } => {
            Some((frame, share_of(&frame, u64::from(run.count) * u64::from(block_size))))
        }
    }
}

impl ShareCount {
    pub(crate) fn from_shares(shares: &[PackShare]) -> ShareCount {
        let mut count = ShareCount::default();
        for share in shares {
            count.add((share.epoch, share.pack), share.bytes);
        }
        count
    }

    pub(crate) fn add_run(&mut self, run: &BlockRun, block_size: u32) {
        if let Some((frame, bytes)) = run_share(run, block_size) {
            self.add((frame.epoch, frame.pack), bytes);
        }
    }

    pub(crate) fn add_piece(&mut self, piece: &PieceRef) {
        let bytes = share_of(&piece.frame, u64::from(piece.len));
        self.add((piece.frame.epoch, piece.frame.pack), bytes);
    }

    /// Adds what is known of a whole pack.
    pub(crate) fn add_pack(&mut self, pack: (u32, u32), bytes: u64) {
        if bytes > 0 {
            self.add(pack, bytes);
        }
    }

    /// What is needed of one pack.
    pub(crate) fn of(&self, pack: (u32, u32)) -> u64 {
        self.0.get(&pack).copied().unwrap_or(0)
    }

    pub(crate) fn add_all(&mut self, other: &ShareCount) {
        other.0.iter().for_each(|(pack, bytes)| self.add(*pack, *bytes));
    }

    fn add(&mut self, pack: (u32, u32), bytes: u64) {
        let sum = self.0.entry(pack).or_default();
        // Sums of what exists; one that lies does not wrap.
        *sum = sum.saturating_add(bytes);
    }

    /// Takes away what was added before. A pack of which nothing is left goes.
    pub(crate) fn subtract_all(&mut self, other: &ShareCount) -> Parsed<()> {
        for (pack, bytes) in &other.0 {
            let left = self.0.get(pack).and_then(|sum| sum.checked_sub(*bytes));
            match left {
                Some(0) => drop(self.0.remove(pack)),
                Some(left) => drop(self.0.insert(*pack, left)),
                None => return Err(Malformed("more of a pack is given up than was needed")),
            }
        }
        Ok(())
    }

    /// By epoch and number; none of them is 0.
    pub(crate) fn shares(&self) -> Vec<PackShare> {
        self.0.iter().map(|(&(epoch, pack), &bytes)| PackShare { epoch, pack, bytes }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pack: u32, len: u32) -> PieceRef {
        let frame = FrameRef { epoch: 1, pack, offset: 64, stored_len: 33, raw_len: 65_536 };
        PieceRef { frame, offset: 0, len }
    }

    #[test]
    fn the_smallest_need_counts_and_can_be_taken_away_exactly() {
        let mut all = ShareCount::default();
        let mut one = ShareCount::default();
        one.add_piece(&piece(1, 1));
        let mut two = ShareCount::default();
        two.add_piece(&piece(1, 65_536));
        two.add_piece(&piece(2, 40_000));
        all.add_all(&one);
        all.add_all(&two);
        assert_eq!(all.shares()[0], PackShare { epoch: 1, pack: 1, bytes: 34 });
        all.subtract_all(&two).unwrap();
        assert_eq!(all, one);
        assert!(all.clone().subtract_all(&two).is_err());
        all.subtract_all(&one).unwrap();
        assert!(all.shares().is_empty());
    }
}
