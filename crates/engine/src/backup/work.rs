//! The message that both sources send: stretches of files, to be checked, digested, compressed and packed.
//!
//! A data directory is read at random by the workers themselves (a stretch names an open file); a base backup stream is
//! pushed in order (a stretch carries its bytes). Everything after is common.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use pgkeep_format::relation::RelationFile;

use super::parent_files::ParentFile;

/// Bytes of a large file that travel as one piece of work: small enough to spread one file over every worker.
pub const STRETCH_BYTES: u64 = 1 << 20;
/// Bytes of one frame before compression. Measured best for zstd on PostgreSQL pages: bigger gains 1 %, smaller loses more.
pub const FRAME_BYTES: usize = 128 << 10;

/// A file of the cluster while it is being backed up.
#[derive(Debug)]
pub struct SourceFile {
    /// A number of its own in this backup.
    pub number: u64,
    /// Relative to the data directory, with `pg_tblspc/<oid>/…` for tablespaces; bytes as the file system has them.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
    /// Bytes when it was opened or announced.
    pub size: u64,
    /// What relation it belongs to; none for any other file.
    pub relation: Option<RelationFile>,
    /// What the backup that this one builds on has of it: blocks with the same digest stay there. Blocks that no stretch
    /// covers are known to be the parent's.
    pub parent: Option<ParentFile>,
    /// The open file; none where the bytes travel with the work.
    pub file: Option<File>,
    /// How many stretches the file is cut into; `u64::MAX` as long as that is not known.
    pub stretches: AtomicU64,
    /// The end of the last byte that was really read.
    pub read_end: AtomicU64,
}

impl SourceFile {
    /// Into how many stretches a file of that size is cut; an empty file is one empty stretch.
    pub const fn stretches_of(size: u64) -> u64 {
        if size == 0 { 1 } else { size.div_ceil(STRETCH_BYTES) }
    }
}

/// Consecutive blocks of one file.
#[derive(Debug)]
pub struct Stretch {
    /// Which file.
    pub file: Arc<SourceFile>,
    /// Where it begins, in bytes; a multiple of the block size.
    pub offset: u64,
    /// How many bytes, at most [`STRETCH_BYTES`]; not a multiple of the block size only at the end of a file.
    pub length: usize,
    /// The bytes, when they came with it.
    pub bytes: Option<Vec<u8>>,
    /// Bytes of the file that count as done with this stretch although nobody reads them: they are the parent's.
    pub skipped: u64,
}

/// Stretches that share frames: one of a large file, or many small files.
#[derive(Debug, Default)]
pub struct Work {
    /// In order.
    pub stretches: Vec<Stretch>,
    /// Their bytes in whole blocks.
    pub padded_bytes: usize,
}

/// Gathers small files, and stretches that are only compared, until they are worth a piece of work.
///
/// Of compared stretches little is expected to remain; what does should share frames.
#[derive(Debug)]
pub struct Bundler {
    block_size: usize,
    compared_bytes: usize,
    pending: Work,
    /// Whether anything in `pending` is compared with a parent.
    comparing: bool,
}

/// Most stretches of one piece of work: each may hold an open descriptor.
const MOST_STRETCHES: usize = 128;

impl Bundler {
    /// An empty bundle. Compared stretches are gathered up to that many bytes.
    pub fn new(block_size: u32, compared_bytes: usize) -> Bundler {
        Bundler {
            block_size: block_size as usize,
            compared_bytes,
            pending: Work::default(),
            comparing: false,
        }
    }

    /// Adds a stretch; gives back the work that is full now.
    pub fn add(&mut self, stretch: Stretch) -> Option<Work> {
        let padded = stretch.length.div_ceil(self.block_size) * self.block_size;
        let compared = stretch.file.parent.is_some();
        if stretch.length as u64 >= STRETCH_BYTES && !compared {
            return Some(Work { padded_bytes: padded, stretches: vec![stretch] });
        }
        self.comparing |= compared;
        self.pending.padded_bytes += padded;
        self.pending.stretches.push(stretch);
        let enough = if self.comparing { self.compared_bytes } else { STRETCH_BYTES as usize };
        let full = self.pending.padded_bytes >= enough || self.pending.stretches.len() >= MOST_STRETCHES;
        full.then(|| self.flush()).flatten()
    }

    /// Gives back what is pending.
    pub fn flush(&mut self) -> Option<Work> {
        self.comparing = false;
        let work = std::mem::take(&mut self.pending);
        (!work.stretches.is_empty()).then_some(work)
    }
}
