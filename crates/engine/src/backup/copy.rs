//! The copying stage: a source hands out work, workers handle it, one collector stores it. Every queue is bounded.
//!
//! Memory: two pieces of work (1 MiB each) per worker wait before and after it, whatever the cluster's size. The first
//! error stops every thread; the others' errors are its consequences and are dropped.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::collector::Collector;
use super::work::Work;
use super::worker::{Processed, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Something for the collector.
#[derive(Debug)]
enum Message {
    Processed(Processed),
    Directory { path: String, mode: u32 },
}

/// Where a source puts what it finds. Every method fails when the copy was stopped.
pub struct Sink<'a> {
    work: Sender<Work>,
    messages: Sender<Message>,
    stop: &'a Stop,
}

impl Sink<'_> {
    /// Blocks to be handled.
    pub fn work(&self, work: Work) -> Result<()> {
        self.stop.check()?;
        self.work.send(work).map_err(|_| stopped())
    }

    /// A directory.
    pub fn directory(&self, path: String, mode: u32) -> Result<()> {
        self.stop.check()?;
        self.messages.send(Message::Directory { path, mode }).map_err(|_| stopped())
    }

    /// Fails when the copy was stopped.
    pub fn check(&self) -> Result<()> {
        self.stop.check()
    }
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

/// The first error, and whether there is one.
#[derive(Debug)]
struct Stop {
    stopped: AtomicBool,
    first: Mutex<Option<Error>>,
    cancel: Cancel,
}

impl Stop {
    fn check(&self) -> Result<()> {
        self.cancel.check()?;
        if self.stopped.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
    }

    fn fail(&self, error: Error) {
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !self.stopped.swap(true, Ordering::SeqCst) {
            *first = Some(error);
        }
    }
}

/// What a stage answers that was stopped by another one's error; never shown.
fn stopped() -> Error {
    Error::new(ErrorKind::Internal, "the copy was stopped")
}

/// Runs the stage. `produce` is called on a thread of its own and ends the stage by returning.
pub fn copy<P>(
    workers: Vec<Worker>,
    collector: &mut Collector<'_>,
    observer: &dyn Observer,
    cancel: &Cancel,
    produce: P,
) -> Result<()>
where
    P: FnOnce(&Sink<'_>) -> Result<()> + Send,
{
    let stop = Stop { stopped: AtomicBool::new(false), first: Mutex::new(None), cancel: cancel.clone() };
    let depth = workers.len() * 2;
    let (work_in, work_out) = bounded::<Work>(depth);
    let (messages_in, messages_out) = bounded::<Message>(depth);
    std::thread::scope(|scope| {
        for (index, worker) in workers.into_iter().enumerate() {
            let (work, messages, stop) = (work_out.clone(), messages_in.clone(), &stop);
            spawn(scope, format!("worker-{index}"), stop, move || {
                work_until_done(worker, &work, &messages, stop)
            });
        }
        drop(work_out);
        let sink = Sink { work: work_in, messages: messages_in, stop: &stop };
        let stop = &stop;
        spawn(scope, "source".to_owned(), stop, move || produce(&sink));
        if let Err(error) = collect(collector, &messages_out, observer, stop) {
            stop.fail(error);
        }
        // Unblocks whoever waits to send.
        drop(messages_out);
    });
    let first = stop.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    match first {
        Some(error) => Err(error),
        None => cancel.check(),
    }
}

fn spawn<'scope, 'env, F>(
    scope: &'scope std::thread::Scope<'scope, 'env>,
    name: String,
    stop: &'scope Stop,
    run: F,
) where
    F: FnOnce() -> Result<()> + Send + 'scope,
{
    let guarded = move || {
        // A panic of one stage must stop the others, or they wait for it for ever.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => stop.fail(error),
            Err(_) => stop.fail(
                Error::new(ErrorKind::Internal, "a thread of the copy panicked")
                    .hint("this is a defect: report it"),
            ),
        }
    };
    if let Err(error) = std::thread::Builder::new().name(name).spawn_scoped(scope, guarded) {
        stop.fail(Error::new(ErrorKind::Internal, "cannot start a thread").caused_by(&error));
    }
}

fn work_until_done(
    mut worker: Worker,
    work: &Receiver<Work>,
    messages: &Sender<Message>,
    stop: &Stop,
) -> Result<()> {
    for work in work {
        stop.check()?;
        worker.process(work, &mut |processed| {
            messages.send(Message::Processed(processed)).map_err(|_| stopped())
        })?;
    }
    Ok(())
}

fn collect(
    collector: &mut Collector<'_>,
    messages: &Receiver<Message>,
    observer: &dyn Observer,
    stop: &Stop,
) -> Result<()> {
    let mut done_bytes = 0;
    let mut told = Instant::now();
    for message in messages {
        stop.check()?;
        match message {
            Message::Processed(processed) => done_bytes += collector.accept(processed)?,
            Message::Directory { path, mode } => collector.add_directory(&path, mode)?,
        }
        if told.elapsed() >= PROGRESS_EVERY {
            observer.event(Event::Progress { step: Step::Copy, done_bytes });
            told = Instant::now();
        }
    }
    observer.event(Event::Progress { step: Step::Copy, done_bytes });
    Ok(())
}
