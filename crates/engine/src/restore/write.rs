//! Writes the files of a backup: block maps are read in order of the files, frames in order of the packs.
//!
//! One thread reads maps and gathers what is to be written into tasks (see [`super::task`]); workers fetch each task's
//! frames with few reads, prove and decompress them, and write blocks at their positions. Files are created at
//! their final length first, so zero blocks cost nothing. Memory: two tasks per
//! worker, and what is gathered. Nothing is synced here: one sync of
//! the whole file system at the end costs a fraction of one per file.
//!
//! A delta restore hands the workers the blocks of files that are there, to compare first (`delta::compare`).
//!
//! The control file is not written but handed back: it goes into place last.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_repo::{BackupReader, FileEntry, FileKind, FrameDecoder, FrameRef, RunTarget};

use super::delta::compare::{Compare, Comparer, Counters};
use super::delta::reuse::{reuse, set_mode};
use super::destination::Owner;
use super::marker::MARKER;
use super::plan::RestorePlan;
use super::task::{Batch, Piece, TASK_BYTES, TargetFile, Task};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};

/// Files of a former recovery or restore: they would turn this one into something that was not asked for.
const STALE_FILES: [&str; 3] = ["recovery.signal", "standby.signal", MARKER];
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The control file's bytes and mode.
    pub control_file: (Vec<u8>, u32),
    /// Bytes read from the repository.
    pub read_bytes: u64,
    /// What became of the files of a former cluster.
    pub compared: Counters,
}

struct Shared<'a> {
    reader: &'a BackupReader,
    block_size: u64,
    done_bytes: AtomicU64,
    read_bytes: AtomicU64,
    compared: Counters,
    stopped: AtomicBool,
    first: Mutex<Option<Error>>,
    cancel: &'a Cancel,
    observer: &'a dyn Observer,
    told: Mutex<Instant>,
}

impl Shared<'_> {
    fn fail(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.stopped.swap(true, Ordering::SeqCst) {
            *first = Some(error);
        }
    }

    /// Tells the progress, unless that was done just now or another thread is at it.
    fn tell(&self) {
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= PROGRESS_EVERY {
            *told = Instant::now();
            let done_bytes = self.done_bytes.load(Ordering::Relaxed);
            self.observer.event(Event::Progress { step: Step::Write, done_bytes });
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.cancel.is_cancelled()
    }
}

/// Writes everything but the control file.
pub fn write(plan: &RestorePlan, jobs: usize, observer: &dyn Observer, cancel: &Cancel) -> Result<Written> {
    let header = plan.reader.header();
    observer.event(Event::StepStarted { step: Step::Write, total_bytes: Some(header.totals.size_bytes) });
    let shared = Shared {
        reader: &plan.reader,
        block_size: u64::from(header.block_size),
        done_bytes: AtomicU64::new(0),
        read_bytes: AtomicU64::new(0),
        compared: Counters::default(),
        stopped: AtomicBool::new(false),
        first: Mutex::new(None),
        cancel,
        observer,
        told: Mutex::new(Instant::now()),
    };
    let (tasks_in, tasks_out) = bounded::<Task>(jobs.max(1) * 2);
    let mut control_file = None;
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (tasks, shared) = (tasks_out.clone(), &shared);
            scope.spawn(move || {
                // A panic here must not leave the other threads waiting.
                let run = std::panic::AssertUnwindSafe(|| work(&tasks, shared));
                match std::panic::catch_unwind(run) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => shared.fail(error),
                    Err(_) => shared.fail(
                        Error::new(ErrorKind::Internal, "a thread of the restore panicked")
                            .hint("this is a defect: report it"),
                    ),
                }
            });
        }
        drop(tasks_out);
        match hand_out(plan, &shared, tasks_in) {
            Ok(found) => control_file = found,
            Err(error) => shared.fail(error),
        }
    });
    cancel.check().map_err(|error| unfinished(error, plan))?;
    let first = shared.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(error) = first {
        return Err(unfinished(error, plan));
    }
    observer
        .event(Event::Progress { step: Step::Write, done_bytes: shared.done_bytes.load(Ordering::Relaxed) });
    observer.event(Event::StepFinished { step: Step::Write });
    let control_file = control_file.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("backup {} holds no control file", header.id))
            .hint("restore another backup: `pgkeep list` shows them")
    })?;
    Ok(Written {
        control_file,
        read_bytes: shared.read_bytes.load(Ordering::Relaxed),
        compared: shared.compared,
    })
}

/// Whether an entry of a manifest is written by a restore. Links are made from what the plan says.
pub fn is_restored(entry: &FileEntry) -> bool {
    match entry.kind {
        FileKind::Directory => true,
        FileKind::Symlink { .. } => false,
        FileKind::File { .. } => !STALE_FILES.iter().any(|name| entry.meta.path == name.as_bytes()),
    }
}

/// Says what an interrupted restore leaves, and what to do with it.
pub fn unfinished(error: Error, plan: &RestorePlan) -> Error {
    error.hint(format!(
        "`{}` holds an unfinished restore that no server starts on: finish it with `--delta`, or remove it before the next try",
        plan.destination.directory.display()
    ))
}

/// Makes the data directory and those of the tablespaces.
pub fn make_roots(plan: &RestorePlan) -> Result<()> {
    let mode = plan.reader.header().directory_mode & 0o750 | 0o700;
    for place in plan.tablespaces.iter().chain([&plan.destination]) {
        let path = &place.directory;
        if !place.exists {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
                .map_err(|e| cannot_write(path, &e))?;
            DirBuilder::new().mode(mode).create(path).map_err(|e| cannot_write(path, &e))?;
        }
        // PostgreSQL refuses to start on any other mode.
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| cannot_write(path, &e))?;
        give_away(path, plan.destination.owner)?;
    }
    Ok(())
}

/// Walks the manifest; answers the control file.
fn hand_out(plan: &RestorePlan, shared: &Shared<'_>, tasks: Sender<Task>) -> Result<Option<(Vec<u8>, u32)>> {
    let mut control_file = None;
    let mut batch = Batch::new(shared.block_size);
    let mut compares = Task::default();
    for entry in plan.reader.files() {
        let entry = entry?;
        if shared.is_stopped() {
            return Ok(None);
        }
        if !is_restored(&entry) {
            continue;
        }
        let relative = Path::new(std::ffi::OsStr::from_bytes(&entry.meta.path));
        let path = plan.layout.place(relative);
        match &entry.kind {
            FileKind::Directory => {
                // A tablespace's own directory is there already, made before.
                match DirBuilder::new().mode(entry.meta.mode & 0o7777).create(&path) {
                    Ok(()) => give_away(&path, plan.destination.owner)?,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                        if plan.delta.is_some() {
                            set_mode(&path, entry.meta.mode, plan.destination.owner)?;
                        }
                    }
                    Err(error) => return Err(cannot_write(&path, &error)),
                }
            }
            FileKind::Symlink { .. } => {}
            FileKind::File { .. } => {
                if relative == Path::new(CONTROL_FILE_PATH) {
                    control_file = Some((read_whole(shared, &entry)?, entry.meta.mode));
                    continue;
                }
                if plan.delta.is_some()
                    && let Some((file, former_length)) = reuse(plan.destination.owner, &entry, &path)?
                {
                    add_compares(shared, &entry, &Arc::new(file), former_length, &mut compares, &tasks)?;
                    continue;
                }
                let file = create(plan, &entry, path)?;
                add_pieces(shared, &entry, &Arc::new(file), &mut batch, &tasks)?;
            }
        }
    }
    send(&tasks, batch.flush());
    send(&tasks, Some(compares).filter(|task| !task.compares.is_empty()));
    Ok(control_file)
}

/// Creates the file of an entry.
fn create(plan: &RestorePlan, entry: &FileEntry, path: PathBuf) -> Result<TargetFile> {
    create_file(&path, entry.meta.mode & 0o7777, entry.meta.size, plan.destination.owner)?;
    Ok(target_file(entry, path))
}

/// Creates a file at its final length, so that what is not written stays holes. A link in its place is never followed.
pub fn create_file(path: &Path, mode: u32, length: u64, owner: Owner) -> Result<File> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
    };
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A manifest from a stream may name a file before its directory.
            let parent = path.parent().unwrap_or(Path::new("/"));
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|e| cannot_write(parent, &e))?;
            open()
        }
        opened => opened,
    };
    let file = file.map_err(|error| cannot_write(path, &error))?;
    if length > 0 {
        file.set_len(length).map_err(|error| cannot_write(path, &error))?;
    }
    give_away(path, owner)?;
    Ok(file)
}

/// What an entry of a manifest is written to.
pub fn target_file(entry: &FileEntry, path: PathBuf) -> TargetFile {
    TargetFile { path, shown: entry.path_text(), length: entry.meta.size, mode: entry.meta.mode & 0o7777 }
}

fn add_compares(
    shared: &Shared<'_>,
    entry: &FileEntry,
    file: &Arc<TargetFile>,
    former_length: u64,
    task: &mut Task,
    tasks: &Sender<Task>,
) -> Result<()> {
    let broken = |error: pgkeep_repo::RepoError| in_file(&file.shown, None, error.into());
    let Some(leaves) = shared.reader.map_leaves(entry).map_err(broken)? else { return Ok(()) };
    for leaf in leaves.iter() {
        for part in Compare::parts(file, former_length, leaf.map_err(broken)?) {
            task.compares.push(part);
            if task.compared_blocks() * shared.block_size >= TASK_BYTES {
                send(tasks, Some(std::mem::take(task)));
            }
        }
    }
    Ok(())
}

fn add_pieces(
    shared: &Shared<'_>,
    entry: &FileEntry,
    file: &Arc<TargetFile>,
    batch: &mut Batch,
    tasks: &Sender<Task>,
) -> Result<()> {
    let map = shared.reader.map(entry).map_err(|error| in_file(&file.shown, None, error.into()))?;
    for run in map.runs() {
        let bytes = u64::from(run.count) * shared.block_size;
        match run.target {
            RunTarget::Zero => {
                shared.done_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            RunTarget::Frame { frame, position } => {
                Counters::add(&shared.compared.fetched_blocks, u64::from(run.count));
                send(tasks, batch.add(Piece { file: Arc::clone(file), run: *run, frame, position }));
            }
        }
    }
    Ok(())
}

/// Workers only go away after an error, which is told elsewhere.
fn send(tasks: &Sender<Task>, ready: impl IntoIterator<Item = Task>) {
    for task in ready {
        drop(tasks.send(task));
    }
}

fn work(tasks: &Receiver<Task>, shared: &Shared<'_>) -> Result<()> {
    let mut decoder = shared.reader.frames().decoder();
    let mut plain = Vec::new();
    let key = shared.reader.stanza().repository().digest_key();
    let mut comparer = Comparer::new(key, shared.reader.header().block_size, &shared.compared);
    for mut task in tasks {
        if shared.is_stopped() {
            return Ok(());
        }
        for part in &task.compares {
            let kept = comparer.compare(part, &mut task.pieces)?;
            shared.done_bytes.fetch_add(kept, Ordering::Relaxed);
            shared.tell();
        }
        task.sort();
        write_task(&task, shared, &mut decoder, &mut plain)?;
    }
    Ok(())
}

fn write_task(
    task: &Task,
    shared: &Shared<'_>,
    decoder: &mut FrameDecoder,
    plain: &mut Vec<u8>,
) -> Result<()> {
    let fetcher = shared.reader.frames();
    let mut frames: Vec<FrameRef> = task.pieces.iter().map(|piece| piece.frame).collect();
    frames.dedup();
    let named = |piece: &Piece, error: pgkeep_repo::RepoError| {
        in_file(&piece.file.shown, Some((piece.run.first_block, piece.run.count)), error.into())
    };
    let Some(first) = task.pieces.first() else { return Ok(()) };
    let stored = fetcher.fetch(&frames).map_err(|error| named(first, error))?;
    let mut pieces = task.pieces.as_slice();
    // Consecutive pieces mostly go to the same file: it is opened once.
    let mut open: Option<(Arc<TargetFile>, File)> = None;
    for stored in &stored {
        let count = pieces.iter().take_while(|piece| piece.frame == stored.frame).count();
        let (now, later) = pieces.split_at(count);
        pieces = later;
        let Some(first) = now.first() else { continue };
        fetcher.decode(decoder, stored, plain).map_err(|error| named(first, error))?;
        shared.read_bytes.fetch_add(u64::from(stored.frame.stored_len), Ordering::Relaxed);
        for piece in now {
            if !open.as_ref().is_some_and(|(file, _)| Arc::ptr_eq(file, &piece.file)) {
                let file = piece.file.open().map_err(|error| cannot_write(&piece.file.path, &error))?;
                open = Some((Arc::clone(&piece.file), file));
            }
            if let Some((_, file)) = &open {
                write_piece(piece, file, plain, shared)?;
            }
        }
    }
    Ok(())
}

fn write_piece(piece: &Piece, file: &File, plain: &[u8], shared: &Shared<'_>) -> Result<()> {
    let offset = u64::from(piece.run.first_block) * shared.block_size;
    let from = u64::from(piece.position) * shared.block_size;
    let bytes = u64::from(piece.run.count) * shared.block_size;
    // The last block of a file is padded in the frame.
    let wanted = bytes.min(piece.file.length.saturating_sub(offset));
    let block = usize::try_from(from)
        .ok()
        .zip(usize::try_from(from + wanted).ok())
        .and_then(|(from, to)| plain.get(from..to))
        .ok_or_else(|| {
            let error = Error::new(ErrorKind::Corrupt, "a block map points beyond its frame");
            in_file(&piece.file.shown, Some((piece.run.first_block, piece.run.count)), error)
        })?;
    file.write_all_at(block, offset).map_err(|error| cannot_write(&piece.file.path, &error))?;
    shared.done_bytes.fetch_add(wanted, Ordering::Relaxed);
    shared.tell();
    Ok(())
}

fn read_whole(shared: &Shared<'_>, entry: &FileEntry) -> Result<Vec<u8>> {
    let shown = entry.path_text();
    if entry.meta.size > 1 << 20 {
        return Err(in_file(&shown, None, Error::new(ErrorKind::Corrupt, "it is far too large")));
    }
    let map = shared.reader.map(entry).map_err(|error| in_file(&shown, None, error.into()))?;
    let mut bytes = vec![0; entry.meta.size as usize];
    for run in map.runs() {
        let RunTarget::Frame { frame, position } = run.target else { continue };
        let blocks = Some((run.first_block, run.count));
        let plain =
            shared.reader.frames().read(frame).map_err(|error| in_file(&shown, blocks, error.into()))?;
        let offset = u64::from(run.first_block) * shared.block_size;
        let from = u64::from(position) * shared.block_size;
        let wanted = (u64::from(run.count) * shared.block_size).min(entry.meta.size.saturating_sub(offset));
        // All below 1 MiB plus one frame.
        let (offset, from, wanted) = (offset as usize, from as usize, wanted as usize);
        match (bytes.get_mut(offset..offset + wanted), plain.get(from..from + wanted)) {
            (Some(target), Some(source)) => target.copy_from_slice(source),
            _ => {
                return Err(in_file(
                    &shown,
                    blocks,
                    Error::new(ErrorKind::Corrupt, "a block map points beyond its frame"),
                ));
            }
        }
    }
    Ok(bytes)
}

/// Says which file of the cluster an error of the repository hits.
fn in_file(path: &str, blocks: Option<(u32, u32)>, error: Error) -> Error {
    let what = match blocks {
        Some((first, count)) if count > 1 => {
            format!("cannot restore `{path}`, blocks {first} to {}", u64::from(first) + u64::from(count) - 1)
        }
        Some((first, _)) => format!("cannot restore `{path}`, block {first}"),
        None => format!("cannot restore `{path}`"),
    };
    let error = error.while_doing(what);
    if error.hints.is_empty() {
        error.hint("restore another backup: `pgkeep list` shows them")
    } else {
        error
    }
}

/// Hands a path to its owner, where that is not us.
pub fn give_away(path: &Path, owner: Owner) -> Result<()> {
    match owner {
        Owner::Caller => Ok(()),
        Owner::Other { uid, gid } => {
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|error| cannot_write(path, &error))
        }
    }
}

/// A failure to write at the destination; a full disk is called one.
pub fn cannot_write(path: &Path, error: &io::Error) -> Error {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let (kind, what, hint) = if full {
        (ErrorKind::Space, "disk full: cannot write", "free some space, or restore to another file system")
    } else {
        (ErrorKind::Destination, "cannot write", "check the path, its permissions and the disk")
    };
    Error::new(kind, format!("{what} `{}`", path.display())).caused_by(error).hint(hint)
}
