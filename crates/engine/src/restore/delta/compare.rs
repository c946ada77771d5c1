//! Compares blocks of a file that is there with the digests of the backup's block map: equal ones stay as they are.
//!
//! A worker reads its part of the file once, in order, 256 KiB at a time. What differs is handed back as pieces for the same
//! worker to fetch. A block that must hold zeros and does not is made a hole. Blocks beyond the former end of the file
//! hold zeros since it was extended, and are not read.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgkeep_repo::{BlockDigest, BlockRun, DigestKey, MapLeaf, RunTarget};

use crate::error::{Error, ErrorKind, Result};
use crate::restore::DeltaReport;
use crate::restore::task::{Piece, TargetFile};
use crate::restore::write::cannot_write;

/// Bytes of a file that are read at once: fits the second level cache, and is worth a system call.
const READ_BYTES: u64 = 256 << 10;
/// Blocks of a file that are compared as one piece of work: 2 MiB of a relation.
const PART_BLOCKS: usize = 256;

/// Some blocks of a file that is there.
#[derive(Debug)]
pub struct Compare {
    file: Arc<TargetFile>,
    /// Bytes that the file had, at most its new length.
    former_length: u64,
    first_block: u32,
    runs: Vec<BlockRun>,
    digests: Vec<BlockDigest>,
}

impl Compare {
    /// The work of a leaf, in parts.
    pub fn parts(file: &Arc<TargetFile>, former_length: u64, leaf: MapLeaf) -> Vec<Compare> {
        let whole = Compare {
            file: Arc::clone(file),
            former_length,
            first_block: leaf.first_block,
            runs: leaf.runs,
            digests: leaf.digests,
        };
        if whole.digests.len() <= PART_BLOCKS {
            return vec![whole];
        }
        let mut parts = Vec::new();
        let mut first_block = leaf.first_block;
        let mut runs = whole.runs.as_slice();
        for digests in whole.digests.chunks(PART_BLOCKS) {
            let end = first_block + u32::try_from(digests.len()).unwrap_or_default();
            let reach = runs.iter().take_while(|run| run.first_block < end).count();
            let own = runs.get(..reach).unwrap_or_default();
            parts.push(Compare {
                file: Arc::clone(file),
                former_length,
                first_block,
                runs: own.iter().filter_map(|run| cut(run, first_block, end)).collect(),
                digests: digests.to_vec(),
            });
            // The last one may reach into the next part.
            runs = runs.get(reach.saturating_sub(1)..).unwrap_or_default();
            first_block = end;
        }
        parts
    }

    /// Blocks in it.
    pub fn blocks(&self) -> u64 {
        self.digests.len() as u64
    }
}

/// The part of a run that lies in `from..end`.
fn cut(run: &BlockRun, from: u32, end: u32) -> Option<BlockRun> {
    let first = run.first_block.max(from);
    let last = run.first_block.saturating_add(run.count).min(end);
    let count = last.checked_sub(first).filter(|count| *count > 0)?;
    let target = match run.target {
        RunTarget::Frame { frame, position } => {
            RunTarget::Frame { frame, position: position + (first - run.first_block) }
        }
        RunTarget::Zero => RunTarget::Zero,
    };
    Some(BlockRun { first_block: first, count, target })
}

/// Sums of all workers.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes read from the former files.
    pub local_bytes: AtomicU64,
    /// Blocks that were as they must be.
    pub kept_blocks: AtomicU64,
    /// Blocks that are fetched: those that differ, and those of files that were not there.
    pub fetched_blocks: AtomicU64,
    /// Blocks that were made zeros.
    pub zeroed_blocks: AtomicU64,
}

impl Counters {
    /// Puts the sums into a report.
    pub fn fill(&self, report: &mut DeltaReport) {
        let sum = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        report.local_bytes = sum(&self.local_bytes);
        report.kept_blocks = sum(&self.kept_blocks);
        report.fetched_blocks = sum(&self.fetched_blocks);
        report.zeroed_blocks = sum(&self.zeroed_blocks);
    }

    /// Adds to one of them.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// What a worker needs for it.
#[derive(Debug)]
pub struct Comparer<'a> {
    key: &'a DigestKey,
    zero: BlockDigest,
    block_size: u64,
    buffer: Vec<u8>,
    counters: &'a Counters,
}

impl<'a> Comparer<'a> {
    /// For one thread.
    pub fn new(key: &'a DigestKey, block_size: u32, counters: &'a Counters) -> Comparer<'a> {
        Comparer {
            key,
            zero: key.zero_block(block_size),
            block_size: u64::from(block_size),
            buffer: Vec::new(),
            counters,
        }
    }

    /// Compares; pieces that must be fetched are pushed to `pieces`. Answers how many bytes need nothing more.
    pub fn compare(&mut self, part: &Compare, pieces: &mut Vec<Piece>) -> Result<u64> {
        let path = &part.file.path;
        let file = part.file.open().map_err(|error| cannot_write(path, &error))?;
        let differs = self.differing(part, &file).map_err(|error| cannot_read(part, &error))?;
        let mut fetched = 0;
        for run in &part.runs {
            for (first, count) in stretches(&differs, part.first_block, run) {
                let Some(run) = cut(run, first, first + count) else { continue };
                match run.target {
                    RunTarget::Frame { frame, position } => {
                        fetched += u64::from(count);
                        pieces.push(Piece { file: Arc::clone(&part.file), run, frame, position });
                    }
                    RunTarget::Zero => {
                        self.zero(&file, part.file.length, &run)
                            .map_err(|error| cannot_write(path, &error))?;
                        Counters::add(&self.counters.zeroed_blocks, u64::from(count));
                    }
                }
            }
        }
        let kept = differs.iter().filter(|differs| !**differs).count() as u64;
        Counters::add(&self.counters.kept_blocks, kept);
        Counters::add(&self.counters.fetched_blocks, fetched);
        Ok((part.blocks() - fetched) * self.block_size)
    }

    /// For each block whether it is another than the backup's.
    fn differing(&mut self, part: &Compare, file: &File) -> io::Result<Vec<bool>> {
        let block_size = self.block_size;
        let at_once = (READ_BYTES / block_size).max(1) as usize;
        let mut differs = Vec::with_capacity(part.digests.len());
        let mut offset = u64::from(part.first_block) * block_size;
        for digests in part.digests.chunks(at_once) {
            let whole = digests.len() as u64 * block_size;
            let there = part.former_length.saturating_sub(offset).min(whole);
            // At most READ_BYTES. The last block of a file is padded, as it is in the backup.
            self.buffer.clear();
            self.buffer.resize(there.next_multiple_of(block_size) as usize, 0);
            if let Some(target) = self.buffer.get_mut(..there as usize) {
                file.read_exact_at(target, offset)?;
            }
            Counters::add(&self.counters.local_bytes, there);
            let mut blocks = self.buffer.chunks_exact(block_size as usize);
            differs.extend(digests.iter().map(|digest| match blocks.next() {
                Some(block) => self.key.block(block) != *digest,
                None => self.zero != *digest,
            }));
            offset += whole;
        }
        Ok(differs)
    }

    /// Makes the blocks of a run zeros.
    fn zero(&self, mut file: &File, length: u64, run: &BlockRun) -> io::Result<()> {
        let offset = u64::from(run.first_block) * self.block_size;
        let bytes = (u64::from(run.count) * self.block_size).min(length.saturating_sub(offset));
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(file, hole, offset, bytes) {
            Ok(()) => Ok(()),
            // Not every file system makes holes.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                io::Seek::seek(&mut file, io::SeekFrom::Start(offset))?;
                io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut file)?;
                file.flush()
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Neighbouring blocks of a run that differ: first block and count.
fn stretches(differs: &[bool], base: u32, run: &BlockRun) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for block in run.first_block..run.first_block + run.count {
        if !differs.get((block - base) as usize).copied().unwrap_or(true) {
            continue;
        }
        match found.last_mut() {
            Some((first, count)) if *first + *count == block => *count += 1,
            _ => found.push((block, 1)),
        }
    }
    found
}

fn cannot_read(part: &Compare, error: &io::Error) -> Error {
    let what = format!("cannot read `{}` to compare it", part.file.path.display());
    Error::new(ErrorKind::Destination, what)
        .caused_by(error)
        .hint("if its disk is damaged, restore into an empty directory on another one")
        .hint("if something else writes there, end that first")
}

#[cfg(test)]
mod tests {
    use pgkeep_repo::FrameRef;

    use super::*;

    fn file(path: std::path::PathBuf, length: u64) -> Arc<TargetFile> {
        Arc::new(TargetFile { path, shown: "f".into(), length, mode: 0o600 })
    }

    fn frame() -> FrameRef {
        FrameRef { epoch: 1, pack: 1, offset: 64, stored_len: 100, raw_len: 1 << 17 }
    }

    fn stored(first_block: u32, count: u32, position: u32) -> BlockRun {
        BlockRun { first_block, count, target: RunTarget::Frame { frame: frame(), position } }
    }

    #[test]
    fn large_leaves_are_cut_with_their_runs() {
        let digests: Vec<BlockDigest> = (0..600_u64).map(|i| BlockDigest(i.to_le_bytes())).collect();
        let zero = BlockRun { first_block: 1400, count: 200, target: RunTarget::Zero };
        let leaf = MapLeaf { first_block: 1000, runs: vec![stored(1000, 400, 0), zero], digests };
        let parts = Compare::parts(&file("f".into(), 1600 * 8192), 0, leaf.clone());
        assert_eq!(parts.iter().map(Compare::blocks).collect::<Vec<_>>(), [256, 256, 88]);
        let runs: Vec<BlockRun> = parts.iter().flat_map(|part| part.runs.clone()).collect();
        let cut = |first_block, count| BlockRun { first_block, count, target: RunTarget::Zero };
        assert_eq!(runs, [stored(1000, 256, 0), stored(1256, 144, 256), cut(1400, 112), cut(1512, 88)]);
        let digests: Vec<BlockDigest> = parts.into_iter().flat_map(|part| part.digests).collect();
        assert_eq!(digests, leaf.digests);
    }

    #[test]
    fn equal_blocks_stay_others_are_fetched_and_zeros_are_made() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        let key = DigestKey::new(&[3; 32]);
        // Blocks: equal, different, must be zero and is not, zero, partial and equal, beyond the end, zeros beyond the end.
        let block = |byte: u8| vec![byte; 8192];
        let zero = key.zero_block(8192);
        let mut partial = block(0);
        partial[..100].fill(5);
        std::fs::write(&path, [block(1), block(9), block(7), block(0), vec![5; 100]].concat()).unwrap();
        let length = 7 * 8192 - 10;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let run = |first_block, count| BlockRun { first_block, count, target: RunTarget::Zero };
        let leaf = MapLeaf {
            first_block: 0,
            runs: vec![stored(0, 2, 3), run(2, 2), stored(4, 2, 8), run(6, 1)],
            digests: vec![
                key.block(&block(1)),
                key.block(&block(2)),
                zero,
                zero,
                key.block(&partial),
                key.block(&block(6)),
                zero,
            ],
        };
        let counters = Counters::default();
        let mut comparer = Comparer::new(&key, 8192, &counters);
        let mut pieces = Vec::new();
        for part in Compare::parts(&file(path.clone(), length), 4 * 8192 + 100, leaf) {
            assert_eq!(comparer.compare(&part, &mut pieces).unwrap(), 5 * 8192);
        }
        let found: Vec<(u32, u32, u32)> =
            pieces.iter().map(|piece| (piece.run.first_block, piece.run.count, piece.position)).collect();
        assert_eq!(found, [(1, 1, 4), (5, 1, 9)]);
        let now = std::fs::read(&path).unwrap();
        assert_eq!(now.len() as u64, length);
        assert!(now[2 * 8192..4 * 8192].iter().all(|byte| *byte == 0));
        assert_eq!(now[..8192], block(1));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(count(&counters.local_bytes), 4 * 8192 + 100);
        assert_eq!(count(&counters.kept_blocks), 4);
        assert_eq!(count(&counters.zeroed_blocks), 1);
        assert_eq!(count(&counters.fetched_blocks), 2);
    }
}
