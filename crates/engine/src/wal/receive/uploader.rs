//! Brings what the spool holds into the repository: whole segments as they come, and the beginning of the open one now and then.
//!
//! Runs beside the stream, which must not wait for the repository. When the repository fails, WAL waits in the spool and
//! is tried again; what trying again does not mend (other bytes under a stored name) stops the stream.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgkeep_format::{Lsn, WalSegmentName};
use pgkeep_repo::{ClusterRecord, Compression, WalArchive, WalTail};

use super::spool::ReceiveSpool;
use crate::event::{Event, Observer};
use crate::wal::store::{put_segment, put_tail, sweep_tails};
use crate::{Error, ErrorKind, Result};

/// How long to wait after the repository failed.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a failure that lasts is told again.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The longest sleep: how soon a stop is noticed.
const TICK: Duration = Duration::from_millis(200);
/// The header of a segment's first page: without more there is no WAL.
const HEADER: usize = 40;

/// What the stream and the uploader tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    wake: Condvar,
    state: Mutex<State>,
    is_over: AtomicBool,
    has_failed: AtomicBool,
    received: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    open: Option<WalSegmentName>,
    has_whole: bool,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A segment is being received; others that are unfinished are left for good.
    pub(super) fn began(&self, segment: WalSegmentName) {
        self.state().open = Some(segment);
    }

    /// Does something that must not happen to the segment that is being received.
    fn unless_open(&self, segment: WalSegmentName, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let state = self.state();
        if state.open == Some(segment) { Ok(()) } else { act() }
    }

    /// A segment is whole.
    pub(super) fn completed(&self) {
        self.state().has_whole = true;
        self.wake.notify_all();
    }

    /// All before this position is flushed.
    pub(super) fn flushed(&self, position: Lsn) {
        self.received.store(position.0, Ordering::SeqCst);
    }

    /// Up to where WAL was received and flushed.
    pub(super) fn received(&self) -> Lsn {
        Lsn(self.received.load(Ordering::SeqCst))
    }

    /// Nothing more comes.
    pub(super) fn finish(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.wake.notify_all();
    }

    /// The uploader gave up.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn sleep(&self) {
        let state = self.state();
        if !state.has_whole && !self.is_over() {
            drop(self.wake.wait_timeout(state, TICK));
        }
    }
}

/// How much was stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uploaded {
    pub(super) segments: u64,
    pub(super) tails: u64,
}

/// The thread's work.
pub(super) struct Uploader<'a> {
    pub(super) archive: WalArchive,
    pub(super) record: ClusterRecord,
    pub(super) compression: Compression,
    pub(super) spool: &'a ReceiveSpool,
    pub(super) shared: &'a Shared,
    pub(super) tail_every: Option<Duration>,
    pub(super) observer: &'a dyn Observer,
}

impl Uploader<'_> {
    /// Works until nothing more comes and all is stored; gives up then where the repository fails.
    pub(super) fn run(&self) -> Result<Uploaded> {
        let outcome = self.work();
        if outcome.is_err() {
            self.shared.has_failed.store(true, Ordering::SeqCst);
        }
        outcome
    }

    fn work(&self) -> Result<Uploaded> {
        let mut done = Uploaded::default();
        let mut last_tail: Option<WalTail> = None;
        let mut tail_stored = Instant::now();
        let mut told: Option<Instant> = None;
        let mut is_swept = false;
        loop {
            let is_last = self.shared.is_over();
            let is_due = self.tail_every.is_some_and(|every| tail_stored.elapsed() >= every);
            let round = self.round(&mut done, &mut last_tail, is_due || is_last, &mut is_swept);
            match round {
                Ok(()) if is_last => return Ok(done),
                Ok(()) => {
                    told = None;
                    if is_due {
                        tail_stored = Instant::now();
                    }
                    self.shared.sleep();
                }
                Err(error) if is_last || !is_passing(error.kind) => {
                    return Err(error.hint(
                        "WAL that is not stored yet waits in the spool: `pgkeep wal receive --spool-only` stores it",
                    ));
                }
                Err(error) => {
                    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                        self.observer.event(Event::Warning {
                            text: format!(
                                "the repository does not take WAL, which waits in the spool: {error}"
                            ),
                            hint: error.hints.first().cloned(),
                        });
                        told = Some(Instant::now());
                    }
                    let since = Instant::now();
                    while since.elapsed() < PAUSE && !self.shared.is_over() {
                        std::thread::sleep(TICK);
                    }
                }
            }
        }
    }

    /// Stores everything at once, where nothing is received.
    pub(super) fn store_all(&self) -> Result<Uploaded> {
        let mut done = Uploaded::default();
        self.round(&mut done, &mut None, true, &mut false)?;
        Ok(done)
    }

    fn round(
        &self,
        done: &mut Uploaded,
        last_tail: &mut Option<WalTail>,
        with_tails: bool,
        is_swept: &mut bool,
    ) -> Result<()> {
        self.shared.state().has_whole = false;
        let contents = self.spool.contents()?;
        // Asked after the look, and told before a file is made: a file that was seen is the open one, or left.
        let open = self.shared.state().open;
        for segment in contents.whole {
            let bytes = self.spool.read_whole(segment)?;
            put_segment(&self.archive, &self.record, segment, &bytes, self.compression)?;
            done.segments += 1;
            self.spool.remove_whole(segment)?;
            if let Some(tail) = last_tail.take_if(|tail| tail.segment == segment) {
                self.remove_tail(tail)?;
            }
        }
        if !*is_swept {
            for timeline in self.archive.timelines()? {
                sweep_tails(&self.archive, timeline, None)?;
            }
            *is_swept = true;
        }
        for (segment, length) in contents.partial {
            let is_left = open.is_some_and(|open| open != segment);
            if !with_tails && !is_left {
                continue;
            }
            let length = if is_left { self.archive.segment_size().bytes() } else { length };
            let holds_nothing_else = self.store_tail(segment, length, done, last_tail)?;
            if is_left && holds_nothing_else {
                self.shared.unless_open(segment, || self.spool.remove_partial(segment))?;
            }
        }
        Ok(())
    }

    /// Whether all of it that counts is stored now.
    fn store_tail(
        &self,
        segment: WalSegmentName,
        length: u64,
        done: &mut Uploaded,
        last_tail: &mut Option<WalTail>,
    ) -> Result<bool> {
        let is_stored =
            last_tail.is_some_and(|tail| tail.segment == segment && u64::from(tail.length) >= length);
        if is_stored {
            return Ok(true);
        }
        // Renamed meanwhile: it is whole, and stored as such.
        let Some(bytes) = self.spool.read_partial(segment, length)? else { return Ok(false) };
        if bytes.len() <= HEADER {
            return Ok(true);
        }
        let stored = put_tail(&self.archive, &self.record, segment, &bytes, self.compression)?;
        done.tails += 1;
        let shorter = last_tail.replace(stored).filter(|tail| tail.segment == segment && *tail != stored);
        shorter.map_or(Ok(()), |tail| self.remove_tail(tail))?;
        Ok(true)
    }

    /// A tail that a better object made superfluous. Where removing is not allowed, `expire` does it, or nobody.
    fn remove_tail(&self, tail: WalTail) -> Result<()> {
        match self.archive.remove_tail(tail) {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = Error::from(error);
                if is_passing(error.kind) { Ok(()) } else { Err(error) }
            }
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Storage | ErrorKind::Space | ErrorKind::Timeout | ErrorKind::NotFound)
}
