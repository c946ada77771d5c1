//! The contents of a backup's files in order, fetched and decompressed by several threads.
//!
//! One thread reads the manifest and the block maps and cuts them into jobs; workers fetch the frames of a job and lay its
//! plain bytes one after the other; whoever asked takes the jobs in the order in which they were cut. Memory: two jobs for
//! each worker, each of 2 MiB plain and at most 8 MiB stored bytes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, bounded};
use pgkeep_repo::{BackupReader, FileEntry, FileKind, FrameDecoder, FrameRef, RunTarget};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Plain bytes of a job.
const JOB_BYTES: u64 = 2 << 20;
/// Stored bytes of its frames.
const JOB_STORED_BYTES: u64 = 8 << 20;
/// Entries and runs of a job.
const JOB_ITEMS: usize = 1024;

/// What comes next.
#[derive(Debug)]
pub enum Content<'a> {
    /// A file, directory or link begins; for a file its bytes follow, as many as its entry says.
    Entry(&'a FileEntry),
    /// Bytes of the file that began last.
    Bytes(&'a [u8]),
    /// So many zero bytes of it.
    Zeros(u64),
}

#[derive(Debug)]
enum Item {
    Entry(Box<FileEntry>),
    Blocks { frame: FrameRef, from: usize, length: usize, blocks: (u32, u32) },
    Zeros(u64),
}

#[derive(Debug, Default)]
struct Job {
    items: Vec<Item>,
    plain_bytes: u64,
    stored_bytes: u64,
    /// The file to which the first items belong.
    path: String,
    /// Small files share frames: one that was counted just before is not counted again.
    last_frame: Option<FrameRef>,
}

#[derive(Debug)]
struct Done {
    items: Vec<Item>,
    bytes: Vec<u8>,
    read_bytes: u64,
}

type Answer = Result<Done>;

/// Hands the contents of all entries for which `wanted` says so to `take`; answers the bytes read from the repository.
///
/// # Errors
/// When the repository fails or is damaged: the error names the file. And what `take` fails with.
pub fn in_order(
    reader: &BackupReader,
    jobs: usize,
    cancel: &Cancel,
    wanted: impl Fn(&FileEntry) -> bool + Send,
    take: &mut dyn FnMut(Content<'_>) -> Result<()>,
) -> Result<u64> {
    let workers = jobs.max(1);
    let (work_in, work_out) = bounded::<(Job, Sender<Answer>)>(workers);
    let (order_in, order_out) = bounded::<Receiver<Answer>>(workers * 2);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let work = work_out.clone();
            scope.spawn(move || {
                // A panic here must end the worker and nothing else: its answer stays out, which is told.
                drop(catch_unwind(AssertUnwindSafe(|| work_until_done(reader, &work))));
            });
        }
        drop(work_out);
        scope.spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| hand_out(reader, &wanted, &work_in, &order_in)));
            if let Ok(Err(error)) = outcome {
                let (answer, waiting) = bounded(1);
                drop(answer.send(Err(error)));
                drop(order_in.send(waiting));
            }
        });
        // Dropped at the end, or with the first error: whoever waits to send goes away.
        let order = order_out;
        let mut read_bytes = 0;
        for waiting in &order {
            cancel.check()?;
            let done = waiting.recv().map_err(|_| {
                Error::new(ErrorKind::Internal, "a thread of the export panicked")
                    .hint("this is a defect: report it")
            })??;
            read_bytes += done.read_bytes;
            let mut rest = done.bytes.as_slice();
            for item in &done.items {
                match item {
                    Item::Entry(entry) => take(Content::Entry(entry))?,
                    Item::Zeros(count) => take(Content::Zeros(*count))?,
                    Item::Blocks { length, .. } => {
                        let (now, later) = rest.split_at_checked(*length).unwrap_or((rest, &[]));
                        rest = later;
                        take(Content::Bytes(now))?;
                    }
                }
            }
        }
        Ok(read_bytes)
    })
}

/// What a stage answers that was stopped by another one's end; never shown.
fn stopped() -> Error {
    Error::new(ErrorKind::Internal, "the export was stopped")
}

fn hand_out(
    reader: &BackupReader,
    wanted: &impl Fn(&FileEntry) -> bool,
    work: &Sender<(Job, Sender<Answer>)>,
    order: &Sender<Receiver<Answer>>,
) -> Result<()> {
    let send = |job: Job| -> Result<()> {
        let (answer, waiting) = bounded(1);
        order.send(waiting).map_err(|_| stopped())?;
        work.send((job, answer)).map_err(|_| stopped())
    };
    let block_size = u64::from(reader.header().block_size);
    let mut job = Job::default();
    for entry in reader.files() {
        let entry = entry?;
        if !wanted(&entry) {
            continue;
        }
        let map = match &entry.kind {
            FileKind::File { .. } => Some(reader.map(&entry).map_err(|error| in_file(&entry, error.into()))?),
            FileKind::Directory | FileKind::Symlink { .. } => None,
        };
        let (path, size) = (entry.path_text(), entry.meta.size);
        if job.items.is_empty() {
            job.path.clone_from(&path);
        }
        job.items.push(Item::Entry(Box::new(entry)));
        for run in map.iter().flat_map(|map| map.runs()) {
            let mut offset = u64::from(run.first_block) * block_size;
            let end = (offset + u64::from(run.count) * block_size).min(size);
            let RunTarget::Frame { frame, position } = run.target else {
                job.items.push(Item::Zeros(end.saturating_sub(offset)));
                continue;
            };
            let mut from = u64::from(position) * block_size;
            while offset < end {
                if job.is_full() {
                    send(std::mem::replace(&mut job, Job { path: path.clone(), ..Job::default() }))?;
                }
                let length = (end - offset).min(JOB_BYTES);
                job.add(frame, (from, length), (run.first_block, run.count));
                offset += length;
                from += length;
            }
        }
        if job.is_full() {
            send(std::mem::take(&mut job))?;
        }
    }
    if job.items.is_empty() { Ok(()) } else { send(job) }
}

impl Job {
    fn is_full(&self) -> bool {
        self.plain_bytes >= JOB_BYTES
            || self.stored_bytes >= JOB_STORED_BYTES
            || self.items.len() >= JOB_ITEMS
    }

    fn add(&mut self, frame: FrameRef, (from, length): (u64, u64), blocks: (u32, u32)) {
        self.plain_bytes += length;
        if self.last_frame != Some(frame) {
            self.stored_bytes += u64::from(frame.stored_len);
            self.last_frame = Some(frame);
        }
        // Within a frame, whose length is 32 bits.
        let (from, length) = (from as usize, length as usize);
        self.items.push(Item::Blocks { frame, from, length, blocks });
    }
}

fn work_until_done(reader: &BackupReader, work: &Receiver<(Job, Sender<Answer>)>) {
    let mut decoder = reader.frames().decoder();
    for (job, answer) in work {
        let done = read_job(reader, &mut decoder, job);
        let has_failed = done.is_err();
        // Nobody takes it when the export was stopped.
        if answer.send(done).is_err() || has_failed {
            return;
        }
    }
}

fn read_job(reader: &BackupReader, decoder: &mut FrameDecoder, job: Job) -> Result<Done> {
    let mut frames: Vec<FrameRef> = job
        .items
        .iter()
        .filter_map(|item| match item {
            Item::Blocks { frame, .. } => Some(*frame),
            Item::Entry(_) | Item::Zeros(_) => None,
        })
        .collect();
    frames.sort_unstable();
    frames.dedup();
    let fetcher = reader.frames();
    let stored = fetcher.fetch(&frames).map_err(|error| in_path(&job.path, None, error.into()))?;
    let read_bytes = frames.iter().map(|frame| u64::from(frame.stored_len)).sum();
    // A frame is decoded once, however many runs it has in the job; the runs go where the order of the items puts them.
    let mut bytes = vec![0; usize::try_from(job.plain_bytes).unwrap_or(0)];
    let mut parts: HashMap<FrameRef, Vec<Part>> = HashMap::new();
    let mut names = vec![job.path.clone()];
    let mut at = 0;
    for item in &job.items {
        match item {
            Item::Entry(entry) => names.push(entry.path_text()),
            Item::Zeros(_) => {}
            Item::Blocks { frame, from, length, blocks } => {
                let part = Part { at, from: *from, length: *length, blocks: *blocks, name: names.len() - 1 };
                parts.entry(*frame).or_default().push(part);
                at += length;
            }
        }
    }
    let name = |part: &Part| names.get(part.name).map_or("", String::as_str);
    let mut plain = Vec::new();
    for stored in &stored {
        let parts = parts.remove(&stored.frame).unwrap_or_default();
        let Some(first) = parts.first() else { continue };
        fetcher
            .decode(decoder, stored, &mut plain)
            .map_err(|error| in_path(name(first), Some(first.blocks), error.into()))?;
        for part in &parts {
            match (
                bytes.get_mut(part.at..part.at + part.length),
                plain.get(part.from..part.from + part.length),
            ) {
                (Some(target), Some(source)) => target.copy_from_slice(source),
                _ => return Err(beyond(name(part), part.blocks)),
            }
        }
    }
    if let Some(part) = parts.values().flatten().next() {
        return Err(beyond(name(part), part.blocks));
    }
    Ok(Done { items: job.items, bytes, read_bytes })
}

/// Bytes of a job that come out of one frame.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where they go among the bytes of the job.
    at: usize,
    from: usize,
    length: usize,
    blocks: (u32, u32),
    /// Index of the file's name.
    name: usize,
}

fn beyond(path: &str, blocks: (u32, u32)) -> Error {
    in_path(path, Some(blocks), Error::new(ErrorKind::Corrupt, "a block map points beyond its frame"))
}

fn in_file(entry: &FileEntry, error: Error) -> Error {
    in_path(&entry.path_text(), None, error)
}

/// Says which file of the cluster an error of the repository hits.
fn in_path(path: &str, blocks: Option<(u32, u32)>, error: Error) -> Error {
    let what = match blocks {
        Some((first, _)) => format!("cannot export `{path}`, from block {first} on"),
        None => format!("cannot export `{path}`"),
    };
    let error = error.while_doing(what);
    if error.hints.is_empty() { error.hint("export another backup: `pgkeep list` shows them") } else { error }
}
