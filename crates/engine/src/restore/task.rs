//! What a restore's workers are given: pieces of files, arranged so that each frame is decompressed once.
//!
//! After many incremental backups, neighbouring blocks of a file lie in the frames of many backups, and one frame holds
//! blocks from far apart. So pieces are gathered over a stretch of the files, sorted by the place of their frames, and cut
//! into tasks between frames, never inside one. Of a full backup the order stays what it was: frames follow each other as
//! blocks do. Memory: 80 bytes for each gathered piece, and what a task's frames take in the repository.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use pgkeep_repo::{BlockRun, FrameRef};

use super::delta::compare::Compare;

/// Plain bytes of files in one task.
pub const TASK_BYTES: u64 = 2 << 20;
/// Stored bytes of the frames of one task, all of which are in memory at once.
const TASK_STORED_BYTES: u64 = 8 << 20;
/// Plain bytes of files over which pieces are gathered; blocks that share a frame were mostly closer in their file.
const BATCH_BYTES: u64 = 128 << 20;
/// Pieces that are gathered at most.
const BATCH_PIECES: usize = 32 << 10;

/// A file that is being written.
#[derive(Debug)]
pub struct TargetFile {
    /// Where.
    pub path: PathBuf,
    /// Its name in the cluster, for messages.
    pub shown: String,
    /// Bytes.
    pub length: u64,
    /// Its permission bits.
    pub mode: u32,
}

impl TargetFile {
    /// Opens it to write, and to read what is there; not through a link.
    pub fn open(&self) -> io::Result<File> {
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(&self.path)
        };
        let mut opened = open();
        // A file that its owner may only read (a key, say). Another worker may take the right away in between.
        for _ in 0..100 {
            if !opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
                break;
            }
            fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode | 0o600))?;
            opened = open();
            fs::set_permissions(&self.path, fs::Permissions::from_mode(self.mode))?;
        }
        opened
    }
}

/// Blocks of one file in one frame.
#[derive(Debug)]
pub struct Piece {
    /// The file.
    pub file: Arc<TargetFile>,
    /// The blocks.
    pub run: BlockRun,
    /// The frame.
    pub frame: FrameRef,
    /// Where in the frame, in blocks.
    pub position: u32,
}

/// Pieces that one worker writes, sorted by the place of their frames.
#[derive(Debug, Default)]
pub struct Task {
    /// The pieces; those of one frame follow each other.
    pub pieces: Vec<Piece>,
    /// Blocks that are there and may be right; those that are not become pieces.
    pub compares: Vec<Compare>,
}

impl Task {
    /// How many blocks are compared.
    pub fn compared_blocks(&self) -> u64 {
        self.compares.iter().map(Compare::blocks).sum()
    }

    /// Brings pieces into the order of their frames.
    pub fn sort(&mut self) {
        sort(&mut self.pieces);
    }
}

/// By frame; within a frame in the order of files and blocks, so that neighbours are written one after the other.
fn sort(pieces: &mut [Piece]) {
    pieces.sort_by_key(|piece| (piece.frame.epoch, piece.frame.pack, piece.frame.offset, piece.position));
}

/// Pieces that are gathered.
#[derive(Debug)]
pub struct Batch {
    block_size: u64,
    pieces: Vec<Piece>,
    bytes: u64,
}

impl Batch {
    /// Nothing yet.
    pub fn new(block_size: u64) -> Batch {
        Batch { block_size, pieces: Vec::new(), bytes: 0 }
    }

    /// Adds a piece; gives tasks when enough are gathered.
    pub fn add(&mut self, piece: Piece) -> Vec<Task> {
        self.bytes += u64::from(piece.run.count) * self.block_size;
        self.pieces.push(piece);
        if self.bytes >= BATCH_BYTES || self.pieces.len() >= BATCH_PIECES { self.flush() } else { Vec::new() }
    }

    /// Cuts what is gathered into tasks.
    pub fn flush(&mut self) -> Vec<Task> {
        let mut pieces = std::mem::take(&mut self.pieces);
        self.bytes = 0;
        sort(&mut pieces);
        let mut tasks = Vec::new();
        let mut task = Task::default();
        let (mut plain, mut stored) = (0, 0);
        for piece in pieces {
            let same_frame = task.pieces.last().is_some_and(|last: &Piece| last.frame == piece.frame);
            if !same_frame {
                let length = u64::from(piece.frame.stored_len);
                if !task.pieces.is_empty() && (plain >= TASK_BYTES || stored + length > TASK_STORED_BYTES) {
                    tasks.push(std::mem::take(&mut task));
                    (plain, stored) = (0, 0);
                }
                stored += length;
            }
            plain += u64::from(piece.run.count) * self.block_size;
            task.pieces.push(piece);
        }
        if !task.pieces.is_empty() {
            tasks.push(task);
        }
        tasks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgkeep_repo::RunTarget;

    fn piece(file: &Arc<TargetFile>, block: u32, frame: u32, position: u32) -> Piece {
        let stored_len = 100_000;
        let offset = 64 + u64::from(frame) * u64::from(stored_len);
        let frame = FrameRef { epoch: 1, pack: 1, offset, stored_len, raw_len: 131_072 };
        let run = BlockRun { first_block: block, count: 1, target: RunTarget::Frame { frame, position } };
        Piece { file: Arc::clone(file), run, frame, position }
    }

    #[test]
    fn a_frame_is_in_one_task_and_no_task_holds_too_much() {
        let file = Arc::new(TargetFile { path: "f".into(), shown: "f".into(), length: 1 << 30, mode: 0o600 });
        let mut batch = Batch::new(8192);
        let mut tasks = Vec::new();
        // Blocks of the file go round over 400 frames, as after 400 backups.
        for block in 0..4000_u32 {
            tasks.extend(batch.add(piece(&file, block, block % 400, block / 400)));
        }
        tasks.extend(batch.flush());
        assert_eq!(tasks.iter().map(|task| task.pieces.len()).sum::<usize>(), 4000);
        let mut seen = std::collections::HashSet::new();
        for task in &tasks {
            let mut frames: Vec<FrameRef> = task.pieces.iter().map(|piece| piece.frame).collect();
            frames.dedup();
            assert!(frames.iter().map(|frame| u64::from(frame.stored_len)).sum::<u64>() <= TASK_STORED_BYTES);
            assert!(frames.into_iter().all(|frame| seen.insert(frame)), "a frame in two tasks");
        }
        assert_eq!(seen.len(), 400);
        assert!(batch.flush().is_empty());
    }
}
