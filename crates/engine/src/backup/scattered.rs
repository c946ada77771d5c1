//! Puts files together of which the server sent only the blocks that changed: the rest is the parent's, or zeros.
//!
//! A block that was not sent is the parent's only below the parent's length and below the shortest length that the file had
//! since (`LimitBlocks`). Everything else holds zeros: pages by which a file grew without a word in WAL. Taking the
//! parent's there would bring deleted rows back; see `docs/design/0009-changed-blocks-from-the-server.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::parent_files::ParentFiles;
use super::server::ServerFacts;
use super::source_stream::{ScatteredBlocks, ScatteredFile};
use super::work::{Bundler, STRETCH_BYTES, SourceFile, Stretch, Work};
use crate::changed_blocks::LimitBlocks;
use crate::error::{Error, ErrorKind, Result};

/// Gathered until a piece of work is worth it, as for a stream that is compared.
const COMPARED_BYTES: usize = 4 << 20;

/// Makes work of what the server sends in part.
#[derive(Debug)]
pub struct Scattered<'a> {
    parent: &'a ParentFiles,
    limits: LimitBlocks,
    block_size: u32,
    relation_segment_blocks: u32,
    open: Option<Open>,
    bundler: Bundler,
    unseen_bad_pages: Vec<(String, Vec<u32>)>,
}

/// A file that comes.
#[derive(Debug)]
struct Open {
    from: Arc<ScatteredFile>,
    file: Arc<SourceFile>,
    /// Blocks from here on that are not sent are zeros.
    parent_blocks: u32,
    /// The first block, from `parent_blocks` on, of which nothing was said yet.
    next: u32,
    stretches: u64,
    /// Pages that were bad in the parent and were not sent.
    bad: Vec<u32>,
    skipped: u64,
}

impl<'a> Scattered<'a> {
    /// For a stream relative to that parent.
    pub fn new(parent: &'a ParentFiles, limits: LimitBlocks, facts: &ServerFacts) -> Scattered<'a> {
        Scattered {
            parent,
            limits,
            block_size: facts.block_size,
            relation_segment_blocks: facts.relation_segment_blocks,
            open: None,
            bundler: Bundler::new(facts.block_size, COMPARED_BYTES),
            unseen_bad_pages: Vec::new(),
        }
    }

    /// Pages that were bad in the parent and did not come again, by file.
    pub fn unseen_bad_pages(&self) -> impl Iterator<Item = (&str, &[u32])> {
        self.unseen_bad_pages.iter().map(|(path, blocks)| (path.as_str(), blocks.as_slice()))
    }

    /// Takes the next blocks of a file.
    pub fn take(&mut self, blocks: ScatteredBlocks, sink: &mut dyn FnMut(Work) -> Result<()>) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) if Arc::ptr_eq(&open.from, &blocks.file) => open,
            _ => self.begin(&blocks.file)?,
        };
        let mut stretches = Vec::new();
        let size = self.block_size as usize;
        for (number, block) in blocks.numbers.iter().zip(blocks.bytes.chunks_exact(size)) {
            if *number >= open.parent_blocks {
                open.zeros(*number, size, &mut stretches);
                open.next = number + 1;
            }
            open.bad.retain(|bad| bad != number);
            open.add(*number, block, size, &mut stretches);
        }
        if blocks.is_last {
            open.zeros(open.from.file_blocks, size, &mut stretches);
            if open.stretches == 0 {
                let file = Arc::clone(&open.file);
                stretches.push(Stretch { file, offset: 0, length: 0, bytes: Some(Vec::new()), skipped: 0 });
                open.stretches = 1;
            }
            // Known only now; whoever counts looks again with each stretch that arrives.
            open.file.stretches.store(open.stretches, Ordering::SeqCst);
        }
        if let Some(first) = stretches.first_mut() {
            first.skipped = std::mem::take(&mut open.skipped);
        }
        for stretch in stretches {
            if let Some(work) = self.bundler.add(stretch) {
                sink(work)?;
            }
        }
        if blocks.is_last {
            if !open.bad.is_empty() {
                self.unseen_bad_pages.push((open.file.path.clone(), std::mem::take(&mut open.bad)));
            }
            return match self.bundler.flush() {
                Some(work) => sink(work),
                None => Ok(()),
            };
        }
        self.open = Some(open);
        Ok(())
    }

    fn begin(&self, from: &Arc<ScatteredFile>) -> Result<Open> {
        let old = self.parent.take(&from.path)?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the server sent a part of `{}`", from.path))
                .cause("the backup that it was told of has no such file")
                .hint("take the backup with `--changes compare`, and report this")
        })?;
        let old_blocks = old.map.as_ref().map_or(0, pgkeep_repo::ParentMap::block_count);
        let parent_blocks = self
            .limits
            .parent_blocks(&from.relation, old_blocks, self.relation_segment_blocks)
            .min(from.file_blocks);
        let size = u64::from(from.file_blocks) * u64::from(self.block_size);
        let sent = u64::from(from.sent_blocks) * u64::from(self.block_size);
        let mut bad = self.parent.bad_pages_of(&from.path);
        bad.retain(|block| *block < parent_blocks);
        let file = Arc::new(SourceFile {
            number: from.number,
            path: from.path.clone(),
            mode: from.mode,
            modified: from.modified,
            size,
            relation: Some(from.relation),
            parent: Some(old),
            file: None,
            stretches: AtomicU64::new(u64::MAX),
            read_end: AtomicU64::new(0),
        });
        Ok(Open {
            from: Arc::clone(from),
            file,
            parent_blocks,
            next: parent_blocks,
            stretches: 0,
            bad,
            skipped: size.saturating_sub(sent),
        })
    }
}

impl Open {
    /// Adds a block that was sent, to the stretch before where it follows.
    fn add(&mut self, number: u32, block: &[u8], size: usize, stretches: &mut Vec<Stretch>) {
        let offset = u64::from(number) * size as u64;
        if let Some(last) = stretches.last_mut()
            && last.offset + last.length as u64 == offset
            && last.length + size <= STRETCH_BYTES as usize
            && let Some(bytes) = &mut last.bytes
        {
            bytes.extend_from_slice(block);
            last.length += size;
            return;
        }
        self.stretches += 1;
        let file = Arc::clone(&self.file);
        let bytes = Some(block.to_vec());
        stretches.push(Stretch { file, offset, length: size, bytes, skipped: 0 });
    }

    /// Adds zeros for the blocks before `end` that were not sent and are not the parent's.
    fn zeros(&mut self, end: u32, size: usize, stretches: &mut Vec<Stretch>) {
        for number in self.next..end {
            self.add(number, &vec![0; size], size, stretches);
        }
        self.next = self.next.max(end);
    }
}
