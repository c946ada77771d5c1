//! One worker of a backup: reads a stretch, checks its pages, digests and compresses its blocks.
//!
//! With a parent, a block whose digest is the parent's is left where it is, and only the others go on. Of those, the ones that
//! an interrupted backup has stored already are taken over from there ([`super::reuse`]).
//!
//! The steps are fused so that a block is handled while it is in the cache. A worker owns its buffers and codec state; all
//! it shares is the channels. Memory: one stretch, one frame and the codec per worker, and 4 MiB after an interruption.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use pgkeep_format::Lsn;
use pgkeep_format::page::{PageVerdict, page_lsn, verify_page};
use pgkeep_repo::{BlockDigest, BlockEncoder, EncodedFrame, LeftBlock, Leftovers, ParentLeaf, Scatter};

use super::reuse::{Held, Reuse};
use super::work::{FRAME_BYTES, SourceFile, Stretch, Work};
use crate::error::{Error, ErrorKind, Result};

/// What a worker did is handed on when it holds that many plain bytes, so that compared work of many stretches stays small.
const HAND_ON_BYTES: u64 = 1 << 20;
/// The same while blocks wait for frames that an interrupted backup left: frames of a compared work hold blocks of many
/// stretches.
const HAND_ON_WAITING_BYTES: u64 = 4 << 20;
/// A leaf of a block map is written anew when a restore of it would decompress more than this many times its own bytes:
/// the time of a restore must not grow with the number of backups. See `docs/design/0010-fragmentation.md`.
const LEAST_DECODING: u64 = 4;
/// Leaves differ by up to this in what they bear, so that those of one table, which age alike, are not all written anew by
/// one backup.
const SPREAD: u64 = 5;
/// So few frames are never too many: a small file shares its frame with its neighbours, which are restored with it.
const FEW_FRAMES: u32 = 2;

/// How often a page with a wrong checksum is read again before it counts as bad: the server may be writing it just now.
const RE_READS: u32 = 4;

/// What pages are judged by.
#[derive(Clone, Copy, Debug)]
pub struct PageRule {
    /// Bytes of a block.
    pub block_size: usize,
    /// Whether pages carry checksums that can be verified.
    pub checksums: bool,
    /// Pages changed since are healed by replay and may be torn.
    pub start: Lsn,
    /// Blocks of a whole relation segment file.
    pub relation_segment_blocks: u32,
}

/// Packs of earlier backups, by epoch and number, in which no block is left.
pub type RewrittenPacks = Arc<BTreeSet<(u32, u32)>>;

/// Blocks of one file that lie together in one place.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The first of them in the file.
    pub first_block: u32,
    /// How many.
    pub count: u32,
    /// The frame (index within what was handed on) and the position in it; none for zeros.
    pub place: Option<(usize, u32)>,
}

/// A page that was found bad, or that only the stop position can judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Block within the file.
    pub block: u32,
    /// The position that the page claims to have been changed at.
    pub lsn: Lsn,
}

/// What became of one stretch.
#[derive(Debug)]
pub struct ProcessedStretch {
    /// Which file.
    pub file: Arc<SourceFile>,
    /// Its blocks, in any order, without those that stay where the parent has them.
    pub runs: Vec<Run>,
    /// Pages whose checksum is wrong and whose position does not excuse it.
    pub bad: Vec<u32>,
    /// Pages whose checksum is wrong and whose position says that replay heals them: true unless it lies beyond the end.
    pub excused: Vec<Suspect>,
    /// Bytes really read.
    pub read_bytes: u64,
    /// Bytes that nobody needed to read.
    pub skipped_bytes: u64,
}

/// What became of a piece of work, or of a part of one.
#[derive(Debug, Default)]
pub struct Processed {
    /// Frames, in the order in which the runs name them.
    pub frames: Vec<EncodedFrame>,
    /// The stretches.
    pub stretches: Vec<ProcessedStretch>,
}

impl Run {
    /// Whether a block goes on where this run ends.
    fn is_followed_by(&self, block: u32, place: Option<(usize, u32)>) -> bool {
        self.first_block + self.count == block
            && match (self.place, place) {
                (None, None) => true,
                (Some((frame, first)), Some((next_frame, position))) => {
                    frame == next_frame && first + self.count == position
                }
                _ => false,
            }
    }
}

impl ProcessedStretch {
    fn add(&mut self, block: u32, place: Option<(usize, u32)>) {
        match self.runs.last_mut() {
            Some(run) if run.is_followed_by(block, place) => run.count += 1,
            _ => self.runs.push(Run { first_block: block, count: 1, place }),
        }
    }
}

impl Processed {
    /// Gives a block that waited its place.
    fn place(&mut self, held: &Held, place: (usize, u32)) {
        if let Some(stretch) = self.stretches.get_mut(held.stretch) {
            stretch.add(held.block, Some(place));
        }
    }

    fn raw_bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.raw_len)).sum()
    }
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    encoder: BlockEncoder,
    rule: PageRule,
    rewrite: RewrittenPacks,
    zero_digest: BlockDigest,
    buffer: Vec<u8>,
    frame: Vec<u8>,
    frame_digests: Vec<BlockDigest>,
    /// The leaf of a parent's map that was looked at last, and the file that it belongs to.
    leaf: Option<(u64, OldLeaf)>,
    /// What interrupted backups left.
    reuse: Option<Reuse>,
}

/// A leaf of the parent's map.
#[derive(Debug)]
struct OldLeaf {
    leaf: ParentLeaf,
    /// Its blocks lie in too many places to stay there.
    scattered: bool,
}

impl Worker {
    /// A worker with its own buffers.
    pub fn new(encoder: BlockEncoder, rule: PageRule, rewrite: RewrittenPacks) -> Worker {
        Worker {
            rewrite,
            zero_digest: encoder.zero_digest(),
            encoder,
            rule,
            buffer: Vec::new(),
            frame: Vec::with_capacity(FRAME_BYTES),
            frame_digests: Vec::new(),
            leaf: None,
            reuse: None,
        }
    }

    /// Takes over what interrupted backups left.
    #[must_use]
    pub fn reusing(self, left: Option<Arc<Leftovers>>) -> Worker {
        let reuse = left.map(|left| Reuse::new(left, self.rule.block_size));
        Worker { reuse, ..self }
    }

    /// Handles one piece of work; `hand_on` takes what is ready, in one or several parts.
    pub fn process(&mut self, work: Work, hand_on: &mut dyn FnMut(Processed) -> Result<()>) -> Result<()> {
        let mut processed = Processed::default();
        for stretch in work.stretches {
            let done = self.process_stretch(stretch, &mut processed)?;
            processed.stretches.push(done);
            let waiting = self.reuse.as_ref().map_or(0, Reuse::held_bytes) as u64;
            let enough = if waiting == 0 { HAND_ON_BYTES } else { HAND_ON_WAITING_BYTES };
            if processed.raw_bytes() + waiting >= enough {
                self.finish_part(&mut processed);
                hand_on(std::mem::take(&mut processed))?;
            }
        }
        self.finish_part(&mut processed);
        if processed.stretches.is_empty() { Ok(()) } else { hand_on(processed) }
    }

    fn process_stretch(&mut self, stretch: Stretch, processed: &mut Processed) -> Result<ProcessedStretch> {
        let block_size = self.rule.block_size;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let read_bytes = match stretch.bytes {
            Some(bytes) => {
                buffer = bytes;
                buffer.len()
            }
            None => read_stretch(&stretch, &mut buffer)?,
        };
        buffer.resize(stretch.length.next_multiple_of(block_size), 0);
        stretch
            .file
            .read_end
            .fetch_max(stretch.offset + read_bytes as u64, std::sync::atomic::Ordering::Relaxed);
        let first_block = u32::try_from(stretch.offset / block_size as u64).map_err(|_| {
            Error::new(ErrorKind::Unsupported, format!("`{}` is too large", stretch.file.path))
                .hint("pgkeep backs up files of up to 32 TiB; leave this one out of the data directory")
        })?;
        let mut done = ProcessedStretch {
            file: Arc::clone(&stretch.file),
            runs: Vec::new(),
            bad: Vec::new(),
            excused: Vec::new(),
            read_bytes: read_bytes as u64,
            skipped_bytes: stretch.skipped,
        };
        if self.rule.checksums && stretch.file.relation.is_some() {
            self.check_pages(&stretch.file, first_block, &mut buffer, read_bytes, &mut done)?;
        }
        let left = match &self.reuse {
            Some(reuse) => reuse.find(&stretch.file.path, first_block, buffer.len() / block_size),
            None => Vec::new(),
        };
        for (index, block) in buffer.chunks_exact(block_size).enumerate() {
            // A stretch is at most 1 MiB: its index fits.
            let number = first_block + index as u32;
            let is_zero = pgkeep_repo::is_zero_block(block);
            let digest = if is_zero { self.zero_digest } else { self.encoder.digest(block) };
            if self.may_stay(&stretch.file, number, digest)? {
                continue;
            }
            if !is_zero && self.hold(&left, index, processed.stretches.len(), (number, digest, block)) {
                continue;
            }
            let place = if is_zero { None } else { Some(self.put(block, digest, processed)) };
            done.add(number, place);
        }
        self.buffer = buffer;
        Ok(done)
    }

    /// Whether the parent has the very same bytes in this block, in a place that is good enough.
    fn may_stay(&mut self, file: &SourceFile, block: u32, digest: BlockDigest) -> Result<bool> {
        let Some(map) = file.parent.as_ref().and_then(|parent| parent.map.as_ref()) else { return Ok(false) };
        let known = self.leaf.as_ref().is_some_and(|(number, old)| {
            *number == file.number
                && block.checked_sub(old.leaf.first_block).is_some_and(|at| at < old.leaf.block_count())
        });
        if !known {
            let leaf = map
                .leaf_of(block)
                .map_err(|error| super::parent_files::unusable(map.reader(), error.into()))?;
            self.leaf = leaf.map(|leaf| {
                let scattered = is_scattered(leaf.scatter(), leaf.first_block);
                (file.number, OldLeaf { leaf, scattered })
            });
        }
        let Some((_, old)) = &self.leaf else { return Ok(false) };
        if old.scattered || old.leaf.digest(block) != Some(digest) {
            return Ok(false);
        }
        Ok(self.rewrite.is_empty()
            || old.leaf.pack_of(block).is_none_or(|pack| !self.rewrite.contains(&pack)))
    }

    /// Lets a block wait that an interrupted backup may have stored; `false` where none has.
    fn hold(
        &mut self,
        left: &[Option<LeftBlock>],
        index: usize,
        stretch: usize,
        (number, digest, block): (u32, BlockDigest, &[u8]),
    ) -> bool {
        match (&mut self.reuse, left.get(index)) {
            (Some(reuse), Some(Some(left))) => {
                reuse.hold(stretch, number, digest, *left, block);
                true
            }
            _ => false,
        }
    }

    /// Ends the open frame, and gives the blocks that wait their places.
    fn finish_part(&mut self, processed: &mut Processed) {
        let Some(mut reuse) = self.reuse.take_if(|reuse| reuse.held_bytes() > 0) else {
            return self.finish_frame(processed);
        };
        let (taken, anew) = reuse.decide();
        for held in anew {
            let place = self.put(reuse.bytes(&held), held.digest, processed);
            processed.place(&held, place);
        }
        reuse.clear();
        self.reuse = Some(reuse);
        // Places name frames by their number: the open one comes before those that are taken over.
        self.finish_frame(processed);
        for (frame, blocks) in taken {
            let number = processed.frames.len();
            processed.frames.push(frame);
            blocks.iter().for_each(|held| processed.place(held, (number, held.position())));
        }
    }

    /// Puts a block into the open frame; answers where.
    fn put(&mut self, block: &[u8], digest: BlockDigest, processed: &mut Processed) -> (usize, u32) {
        if self.frame.len() >= FRAME_BYTES {
            self.finish_frame(processed);
        }
        let position = self.frame_digests.len() as u32;
        self.frame.extend_from_slice(block);
        self.frame_digests.push(digest);
        (processed.frames.len(), position)
    }

    fn finish_frame(&mut self, processed: &mut Processed) {
        if !self.frame.is_empty() {
            let digests = std::mem::take(&mut self.frame_digests);
            processed.frames.push(self.encoder.encode_digested(&self.frame, digests));
            self.frame.clear();
        }
    }

    fn check_pages(
        &self,
        file: &SourceFile,
        first_block: u32,
        buffer: &mut [u8],
        read_bytes: usize,
        done: &mut ProcessedStretch,
    ) -> Result<()> {
        let block_size = self.rule.block_size;
        let segment = file.relation.as_ref().map_or(0, |relation| relation.segment);
        let whole = read_bytes / block_size;
        for (index, page) in buffer.chunks_exact_mut(block_size).take(whole).enumerate() {
            let block = first_block + index as u32;
            let in_relation = segment.wrapping_mul(self.rule.relation_segment_blocks).wrapping_add(block);
            let mut tries = 0;
            while !is_sound(page, in_relation) {
                let lsn = page_lsn(page);
                if lsn >= self.rule.start {
                    done.excused.push(Suspect { block, lsn });
                    break;
                }
                let Some(source) = &file.file else {
                    done.bad.push(block);
                    break;
                };
                if tries == RE_READS {
                    done.bad.push(block);
                    break;
                }
                if tries > 0 {
                    std::thread::sleep(Duration::from_millis(5 << tries));
                }
                tries += 1;
                let offset = u64::from(block) * block_size as u64;
                if read_at_most(source, page, offset, &file.path)? < block_size {
                    // Truncated just now: the rest of the page is the zeros that replay expects there.
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether the blocks of a leaf, which begins with `first_block`, lie in so many places that they are written anew, together.
pub fn is_scattered(scatter: Scatter, first_block: u32) -> bool {
    // Any number will do that differs between neighbours and stays the same from backup to backup.
    let own = (u64::from(first_block) / 256).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let most = LEAST_DECODING + own % SPREAD;
    scatter.frames > FEW_FRAMES && scatter.frame_bytes > most * scatter.used_bytes
}

fn is_sound(page: &[u8], block: u32) -> bool {
    matches!(verify_page(page, block), PageVerdict::Valid | PageVerdict::New)
}

fn read_stretch(stretch: &Stretch, buffer: &mut Vec<u8>) -> Result<usize> {
    buffer.resize(stretch.length, 0);
    let Some(file) = &stretch.file.file else { return Ok(0) };
    let read = read_at_most(file, buffer, stretch.offset, &stretch.file.path)?;
    // What a truncation took away while we read is zeros: replay knows of it.
    buffer[read..].fill(0);
    Ok(read)
}

/// Reads until the buffer is full or the file ends; answers how much.
fn read_at_most(file: &std::fs::File, buffer: &mut [u8], offset: u64, path: &str) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Error::new(ErrorKind::Storage, format!("cannot read `{path}` of the cluster"))
                    .cause(format!("at byte {}", offset + done as u64))
                    .caused_by(&error)
                    .hint("a file that cannot be read fails the backup; look at the server's disk and its kernel log"));
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    use pgkeep_format::page::page_checksum;
    use pgkeep_format::relation::RelationFile;
    use pgkeep_repo::{Compression, DigestKey};

    const BLOCK: usize = 8192;

    fn worker(start: u64) -> Worker {
        let rule = PageRule {
            block_size: BLOCK,
            checksums: true,
            start: Lsn(start),
            relation_segment_blocks: 131_072,
        };
        let encoder = BlockEncoder::new(Compression::None, DigestKey::new(&[7; 32]), BLOCK as u32);
        Worker::new(encoder, rule, RewrittenPacks::default())
    }

    fn stretch(path: &str, bytes: Vec<u8>) -> Stretch {
        let file = Arc::new(SourceFile {
            number: 1,
            path: path.to_owned(),
            mode: 0o600,
            modified: 0,
            size: bytes.len() as u64,
            relation: RelationFile::parse_path(path, "PG_18_202506291"),
            file: None,
            parent: None,
            stretches: AtomicU64::new(1),
            read_end: AtomicU64::new(0),
        });
        Stretch { file, offset: 0, length: bytes.len(), bytes: Some(bytes), skipped: 0 }
    }

    /// What becomes of stretches that are small enough to be handed on together.
    fn process(mut worker: Worker, stretches: Vec<Stretch>) -> Processed {
        let mut parts = Vec::new();
        let work = Work { padded_bytes: 0, stretches };
        worker
            .process(work, &mut |part| {
                parts.push(part);
                Ok(())
            })
            .unwrap();
        assert_eq!(parts.len(), 1);
        parts.remove(0)
    }

    /// A page as the server would write it, changed at `lsn`.
    fn page(block: u32, lsn: u64) -> Vec<u8> {
        let mut page = vec![block as u8 | 1; BLOCK];
        page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[8..12].fill(0);
        page[12..14].copy_from_slice(&40_u16.to_le_bytes());
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
        page[18..20].copy_from_slice(&0x2004_u16.to_le_bytes());
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn zero_blocks_take_no_room_and_small_files_share_a_frame() {
        let mut bytes = vec![1; BLOCK];
        bytes.extend(vec![0; 2 * BLOCK]);
        bytes.extend(vec![2; BLOCK]);
        let done =
            process(worker(0), vec![stretch("a.conf", b"hello".to_vec()), stretch("pg_xact/0000", bytes)]);
        assert_eq!(done.frames.len(), 1);
        assert_eq!(done.frames[0].raw_len as usize, 3 * BLOCK);
        let runs: Vec<_> = done.stretches[1].runs.iter().map(|r| (r.first_block, r.count, r.place)).collect();
        assert_eq!(runs, [(0, 1, Some((0, 1))), (1, 2, None), (3, 1, Some((0, 2)))]);
        assert_eq!(done.stretches[0].read_bytes, 5);
    }

    #[test]
    fn frames_are_cut_at_their_size() {
        let bytes = vec![3; FRAME_BYTES + BLOCK];
        let done = process(worker(0), vec![stretch("pg_xact/0000", bytes)]);
        let sizes: Vec<_> = done.frames.iter().map(|frame| frame.raw_len as usize).collect();
        assert_eq!(sizes, [FRAME_BYTES, BLOCK]);
    }

    #[test]
    fn a_bad_page_is_reported_unless_replay_heals_it() {
        let mut bytes: Vec<u8> = (0..4).flat_map(|block| page(block, 100)).collect();
        bytes[BLOCK + 5000] ^= 1; // block 1, older than the start: damage
        let newer = page(3, 900);
        bytes[3 * BLOCK..].copy_from_slice(&newer);
        bytes[3 * BLOCK + 5000] ^= 1; // block 3, newer than the start: torn, replay heals it
        let done = process(worker(500), vec![stretch("base/5/16384", bytes)]);
        assert_eq!(done.stretches[0].bad, [1]);
        assert_eq!(done.stretches[0].excused, [Suspect { block: 3, lsn: Lsn(900) }]);
    }

    #[test]
    fn leaves_of_one_table_become_too_scattered_at_different_times() {
        let scatter = |frames: u32| Scatter {
            frames,
            frame_bytes: u64::from(frames) * FRAME_BYTES as u64,
            used_bytes: 256 * BLOCK as u64,
        };
        let when: std::collections::BTreeSet<u32> = (0..64)
            .map(|leaf| (1..200).find(|frames| is_scattered(scatter(*frames), leaf * 256)).unwrap())
            .collect();
        assert_eq!(when.into_iter().collect::<Vec<_>>(), [65, 81, 97, 113, 129]);
        // A small file in one frame with its neighbours.
        assert!(!is_scattered(Scatter { frames: 1, frame_bytes: 131_072, used_bytes: 8192 }, 0));
    }

    #[test]
    fn only_relations_have_checksums() {
        let done = process(worker(500), vec![stretch("pg_xact/0000", vec![9; BLOCK])]);
        assert!(done.stretches[0].bad.is_empty());
    }

    #[test]
    fn the_block_number_counts_across_segments() {
        let second = page(131_072, 100);
        let done = process(worker(500), vec![stretch("base/5/16384.1", second)]);
        assert!(done.stretches[0].bad.is_empty());
    }
}
