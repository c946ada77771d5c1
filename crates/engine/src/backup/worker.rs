//! One worker of a backup: reads a stretch, checks its pages, digests and compresses its blocks.
//!
//! The steps are fused so that a block is handled while it is in the cache. A worker owns its buffers and codec state; all
//! it shares is the channels. Memory: one stretch, one frame and the codec per worker.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use pgkeep_format::Lsn;
use pgkeep_format::page::{PageVerdict, page_lsn, verify_page};
use pgkeep_repo::{BlockEncoder, EncodedFrame};

use super::work::{FRAME_BYTES, SourceFile, Stretch, Work};
use crate::error::{Error, ErrorKind, Result};

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

/// Blocks of one file that lie together in one place.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The first of them in the file.
    pub first_block: u32,
    /// How many.
    pub count: u32,
    /// The frame (index within the work) and the position in it; none for zeros.
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
    /// Its blocks.
    pub runs: Vec<Run>,
    /// Pages whose checksum is wrong and whose position does not excuse it.
    pub bad: Vec<u32>,
    /// Pages whose checksum is wrong and whose position says that replay heals them: true unless it lies beyond the end.
    pub excused: Vec<Suspect>,
    /// Bytes really read.
    pub read_bytes: u64,
}

/// What became of one piece of work.
#[derive(Debug)]
pub struct Processed {
    /// Frames, in the order in which the runs name them.
    pub frames: Vec<EncodedFrame>,
    /// The stretches.
    pub stretches: Vec<ProcessedStretch>,
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    encoder: BlockEncoder,
    rule: PageRule,
    buffer: Vec<u8>,
    frame: Vec<u8>,
}

impl Worker {
    /// A worker with its own buffers.
    pub fn new(encoder: BlockEncoder, rule: PageRule) -> Worker {
        Worker { encoder, rule, buffer: Vec::new(), frame: Vec::with_capacity(FRAME_BYTES) }
    }

    /// Handles one piece of work.
    pub fn process(&mut self, work: Work) -> Result<Processed> {
        let mut processed =
            Processed { frames: Vec::new(), stretches: Vec::with_capacity(work.stretches.len()) };
        for stretch in work.stretches {
            let done = self.process_stretch(stretch, &mut processed)?;
            processed.stretches.push(done);
        }
        self.finish_frame(&mut processed);
        Ok(processed)
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
        })?;
        let mut done = ProcessedStretch {
            file: Arc::clone(&stretch.file),
            runs: Vec::new(),
            bad: Vec::new(),
            excused: Vec::new(),
            read_bytes: read_bytes as u64,
        };
        if self.rule.checksums && stretch.file.relation.is_some() {
            self.check_pages(&stretch.file, first_block, &mut buffer, read_bytes, &mut done)?;
        }
        for (index, block) in buffer.chunks_exact(block_size).enumerate() {
            // A stretch is at most 1 MiB: its index fits.
            let number = first_block + index as u32;
            if pgkeep_repo::is_zero_block(block) {
                match done.runs.last_mut() {
                    Some(run) if run.place.is_none() => run.count += 1,
                    _ => done.runs.push(Run { first_block: number, count: 1, place: None }),
                }
                continue;
            }
            if self.frame.len() >= FRAME_BYTES {
                self.finish_frame(processed);
            }
            let position = (self.frame.len() / block_size) as u32;
            let frame = processed.frames.len();
            self.frame.extend_from_slice(block);
            match done.runs.last_mut() {
                Some(run) if run.place.is_some_and(|(f, p)| f == frame && p + run.count == position) => {
                    run.count += 1;
                }
                _ => done.runs.push(Run { first_block: number, count: 1, place: Some((frame, position)) }),
            }
        }
        self.buffer = buffer;
        Ok(done)
    }

    fn finish_frame(&mut self, processed: &mut Processed) {
        if !self.frame.is_empty() {
            processed.frames.push(self.encoder.encode(&self.frame));
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
        Worker::new(BlockEncoder::new(Compression::None, DigestKey::new(&[7; 32]), BLOCK as u32), rule)
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
            stretches: 1,
            read_end: AtomicU64::new(0),
        });
        Stretch { file, offset: 0, length: bytes.len(), bytes: Some(bytes) }
    }

    fn work(stretches: Vec<Stretch>) -> Work {
        Work { padded_bytes: 0, stretches }
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
        let done = worker(0)
            .process(work(vec![stretch("a.conf", b"hello".to_vec()), stretch("pg_xact/0000", bytes)]))
            .unwrap();
        assert_eq!(done.frames.len(), 1);
        assert_eq!(done.frames[0].raw_len as usize, 3 * BLOCK);
        let runs: Vec<_> = done.stretches[1].runs.iter().map(|r| (r.first_block, r.count, r.place)).collect();
        assert_eq!(runs, [(0, 1, Some((0, 1))), (1, 2, None), (3, 1, Some((0, 2)))]);
        assert_eq!(done.stretches[0].read_bytes, 5);
    }

    #[test]
    fn frames_are_cut_at_their_size() {
        let bytes = vec![3; FRAME_BYTES + BLOCK];
        let done = worker(0).process(work(vec![stretch("pg_xact/0000", bytes)])).unwrap();
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
        let done = worker(500).process(work(vec![stretch("base/5/16384", bytes)])).unwrap();
        assert_eq!(done.stretches[0].bad, [1]);
        assert_eq!(done.stretches[0].excused, [Suspect { block: 3, lsn: Lsn(900) }]);
    }

    #[test]
    fn only_relations_have_checksums() {
        let done = worker(500).process(work(vec![stretch("pg_xact/0000", vec![9; BLOCK])])).unwrap();
        assert!(done.stretches[0].bad.is_empty());
    }

    #[test]
    fn the_block_number_counts_across_segments() {
        let second = page(131_072, 100);
        let done = worker(500).process(work(vec![stretch("base/5/16384.1", second)])).unwrap();
        assert!(done.stretches[0].bad.is_empty());
    }
}
