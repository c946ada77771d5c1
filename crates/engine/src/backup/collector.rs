//! The one place where what the workers did becomes part of the backup: frames into packs, runs into block maps, files
//! into the manifest.
//!
//! Runs on one thread and only moves bytes, so it never is the bottleneck. A file enters the manifest when its last
//! stretch has arrived; until then its runs wait here.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use pgkeep_format::Lsn;
use pgkeep_repo::{BackupWriter, BlockDigest, BlockMapBuilder, FileEntry, FileMeta, FrameRef, PlacedBlocks};

use super::BadPages;
use super::work::SourceFile;
use super::worker::{Processed, ProcessedStretch, Suspect};
use crate::error::{Error, ErrorKind, Result};

/// Blocks of one file that are listed by number; beyond, they are only counted.
const LISTED_BAD_BLOCKS: usize = 1000;
/// Pages that wait for the stop position; more than these means damage that the plain check reports as well.
const MOST_EXCUSED: usize = 100_000;

/// A file that is not complete yet.
#[derive(Debug)]
struct OpenMap {
    builder: BlockMapBuilder,
    stretches: u64,
}

/// Totals and findings so far.
#[derive(Debug, Default)]
pub struct Collected {
    /// Files in the manifest.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes that were read from the cluster.
    pub read_bytes: u64,
    /// Bytes of the blocks that are stored by this backup; the others lie in packs of earlier ones or hold zeros.
    pub new_bytes: u64,
    /// Those of them that an interrupted backup had stored.
    pub reused_bytes: u64,
    /// Files that are exactly the parent's.
    pub unchanged_files: u64,
    /// Bad pages by file.
    pub bad_pages: Vec<BadPages>,
    /// Pages that only the stop position can judge.
    pub excused: Vec<(String, Suspect)>,
}

/// Receives what the workers did.
#[derive(Debug)]
pub struct Collector<'a> {
    writer: &'a mut BackupWriter,
    open: HashMap<u64, OpenMap>,
    collected: Collected,
    block_size: u32,
    zero_digest: BlockDigest,
}

impl<'a> Collector<'a> {
    /// Starts with nothing.
    pub fn new(writer: &'a mut BackupWriter, block_size: u32, zero_digest: BlockDigest) -> Collector<'a> {
        Collector { writer, open: HashMap::new(), collected: Collected::default(), block_size, zero_digest }
    }

    /// Takes over one piece of work; answers the bytes of files that it covered.
    pub fn accept(&mut self, processed: Processed) -> Result<u64> {
        let mut places = Vec::with_capacity(processed.frames.len());
        let mut contents = contents_of(&processed.stretches, processed.frames.len());
        for (mut frame, blocks) in processed.frames.into_iter().zip(&mut contents) {
            let digests = std::mem::take(&mut frame.digests);
            blocks.sort_unstable_by_key(|blocks| blocks.position);
            if frame.is_copy {
                let blocks: u64 = blocks.iter().map(|run| u64::from(run.count)).sum();
                self.collected.reused_bytes += blocks * u64::from(self.block_size);
            }
            places.push((self.writer.append_blocks(frame, blocks)?, digests));
        }
        drop(contents);
        let mut bytes = 0;
        for stretch in processed.stretches {
            bytes += stretch.read_bytes + stretch.skipped_bytes;
            self.collected.read_bytes += stretch.read_bytes;
            self.accept_stretch(stretch, &places)?;
        }
        Ok(bytes)
    }

    fn accept_stretch(
        &mut self,
        stretch: ProcessedStretch,
        places: &[(FrameRef, Vec<BlockDigest>)],
    ) -> Result<()> {
        let file = &stretch.file;
        let blocks = file.size.div_ceil(u64::from(self.block_size));
        let open = self.open.entry(file.number).or_insert_with(|| OpenMap {
            // Only a hint: the worker has refused files with more blocks than fit.
            builder: BlockMapBuilder::new(u32::try_from(blocks).unwrap_or(u32::MAX)),
            stretches: 0,
        });
        for run in stretch.runs {
            match run.place {
                Some((frame, position)) => {
                    let (place, digests) = &places[frame];
                    let from = position as usize;
                    let own = &digests[from..from + run.count as usize];
                    open.builder.put_run(run.first_block, own, *place, position);
                    self.collected.new_bytes += u64::from(run.count) * u64::from(self.block_size);
                }
                None => open.builder.put_zero(run.first_block, run.count, self.zero_digest),
            }
        }
        if !stretch.bad.is_empty() {
            self.collected.add_bad(&file.path, &stretch.bad);
        }
        for suspect in stretch.excused {
            if self.collected.excused.len() < MOST_EXCUSED {
                self.collected.excused.push((file.path.clone(), suspect));
            }
        }
        open.stretches += 1;
        if open.stretches == file.stretches.load(Ordering::SeqCst) {
            let Some(done) = self.open.remove(&file.number) else { return Ok(()) };
            // A file cut short while it was read: a relation keeps its announced length, for replay expects the zeros
            // or the truncation; any other file is what was read.
            let size =
                if file.relation.is_some() { file.size } else { file.read_end.load(Ordering::Relaxed) };
            let meta = FileMeta {
                path: file.path.clone().into_bytes(),
                mode: file.mode,
                mtime: file.modified,
                size,
            };
            self.add_file(file, meta, done.builder)?;
            self.collected.files += 1;
            self.collected.size_bytes += size;
        }
        Ok(())
    }

    fn add_file(&mut self, file: &SourceFile, meta: FileMeta, mut map: BlockMapBuilder) -> Result<()> {
        // Less was read than announced: the zeros that stood for the rest are not part of the file.
        let blocks = meta.size.div_ceil(u64::from(self.block_size));
        map.truncate(u32::try_from(blocks).unwrap_or(u32::MAX));
        match &file.parent {
            None => self.writer.add_file(meta, map)?,
            Some(parent) if map.is_empty() && meta.size == parent.entry.meta.size => {
                self.collected.unchanged_files += 1;
                self.writer.keep_file(meta, &parent.entry)?;
            }
            Some(parent) => self.writer.add_changed_file(meta, map, &parent.entry)?,
        }
        Ok(())
    }

    /// Says that these files of the parent are gone.
    pub fn drop_files(&mut self, gone: &[FileEntry]) -> Result<()> {
        Ok(gone.iter().try_for_each(|entry| self.writer.drop_file(entry))?)
    }

    /// Takes over a directory.
    pub fn add_directory(&mut self, path: &str, mode: u32) -> Result<()> {
        Ok(self.writer.add_directory(path, mode, 0)?)
    }

    /// Ends; every file that began must be complete.
    pub fn finish(self) -> Result<Collected> {
        if !self.open.is_empty() {
            return Err(Error::new(ErrorKind::Internal, format!("{} files are incomplete", self.open.len()))
                .hint("this is a defect of pgkeep: report it; no backup was listed"));
        }
        Ok(self.collected)
    }
}

/// What lies in each frame, by the runs of the stretches.
fn contents_of(stretches: &[ProcessedStretch], frames: usize) -> Vec<Vec<PlacedBlocks<'_>>> {
    let mut contents: Vec<Vec<PlacedBlocks<'_>>> = vec![Vec::new(); frames];
    for stretch in stretches {
        for run in &stretch.runs {
            if let Some((frame, position)) = run.place
                && let Some(blocks) = contents.get_mut(frame)
            {
                let path = stretch.file.path.as_bytes();
                let (first_block, count) = (run.first_block, run.count);
                blocks.push(PlacedBlocks { path, first_block, count, position });
            }
        }
    }
    contents
}

impl Collected {
    /// Records bad blocks of one file.
    pub fn add_bad(&mut self, path: &str, blocks: &[u32]) {
        let index = match self.bad_pages.iter().position(|bad| bad.path == path) {
            Some(index) => index,
            None => {
                self.bad_pages.push(BadPages { path: path.to_owned(), blocks: Vec::new(), total: 0 });
                self.bad_pages.len() - 1
            }
        };
        let bad = &mut self.bad_pages[index];
        bad.total += blocks.len() as u64;
        bad.blocks.extend_from_slice(blocks);
        bad.blocks.sort_unstable();
        bad.blocks.truncate(LISTED_BAD_BLOCKS);
    }

    /// Judges the pages that claimed to be newer than the start: none can be newer than the end.
    pub fn judge_excused(&mut self, stop: Lsn) {
        for (path, suspect) in std::mem::take(&mut self.excused) {
            if suspect.lsn > stop {
                self.add_bad(&path, &[suspect.block]);
            }
        }
        self.bad_pages.sort_by(|a, b| a.path.cmp(&b.path));
    }
}
