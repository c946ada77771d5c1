//! Fetching the data of a dump: by one session or several, in parts, delivered in order.
//!
//! ```text
//! Plan ──► parts ──► sessions, a thread each: COPY ──► Encoder: digest, compress ──► Window ──► Delivery: the writer
//! ```
//!
//! What a part holds does not depend on how many sessions there are, and parts are delivered in their order, so that an
//! archive holds the same bytes (before compression) as one that a single session fetched. Parts of a table are ranges of
//! its pages: in one snapshot every row has one place, so that ranges hold each row once, in the order of a whole COPY.
//!
//! A part is compressed in *pieces*, each to be read apart from all others; a part that one session fetches of a large table
//! has several, cut between rows.

mod encoder;
mod plan;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc;

use pgkeep_format::archive::{Compression, DataKind, DumpId};
use pgkeep_tool::compress::{Codec, Framing};
use pgkeep_tool::{Result, ToolError};

use super::define::DataSource;
use super::large_objects;
use super::options::RowFormat;
use super::progress::{DumpObserver, Observed, WrittenData};
use super::rows::{self, Extent};
use super::session::Session;
use encoder::{Encoder, Feed, Message};

pub(crate) use plan::{PageRange, Plan, PlannedEntry, Sequence};
use plan::{Part, PartOf};
use window::Window;
pub(crate) use window::{Item, PieceFacts};

/// Buffers that wait for the thread that compresses.
const WAITING_BUFFERS: usize = 16;

/// What sessions fetch by.
#[derive(Debug, Clone)]
pub(crate) struct Fetching {
    pub(crate) data: Arc<HashMap<DumpId, DataSource>>,
    pub(crate) rows: RowFormat,
    pub(crate) codec: Codec,
    pub(crate) framing: Framing,
    /// Bytes of a piece of rows, about.
    pub(crate) piece_bytes: u64,
    pub(crate) observed: Option<Arc<Observed>>,
}

/// Parts as they come in. Nobody fetches any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Delivery {
    window: Arc<Window>,
    plan: Arc<Plan>,
    observed: Option<Arc<Observed>>,
}

impl Delivery {
    /// What comes, in order.
    pub(crate) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan)
    }

    /// Hands out the next part.
    pub(crate) fn part(&mut self, take: &mut dyn FnMut(Item) -> Result<()>) -> Result<()> {
        self.window.deliver(take)
    }

    /// Tells that an entry is written.
    pub(crate) fn ended(&self, entry: &PlannedEntry, plain_length: u64, rows: u64) {
        // Large objects are no rows of anything.
        let observed = self.observed.as_ref().filter(|_| entry.kind != DataKind::LargeObjects);
        if let Some(observed) = observed {
            let rows = (entry.kind == DataKind::Text).then_some(rows);
            observed.ended(entry.id, WrittenData { bytes: plain_length, rows });
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.window.stop();
    }
}

/// Fetches what is planned with these sessions while `write` takes it. The first session holds the locks when `first_holds`.
pub(crate) fn fetch<T>(
    sessions: Vec<&mut Session>,
    first_holds: bool,
    fetching: &Fetching,
    plan: Plan,
    write: impl FnOnce(Delivery) -> Result<T>,
) -> Result<T> {
    let plan = Arc::new(plan);
    let cancels = sessions.iter().map(|session| session.cancel_handle()).collect();
    let window = Arc::new(Window::new(plan.parts.len(), cancels));
    let is_alone = sessions.len() == 1;
    std::thread::scope(|scope| {
        for (number, session) in sessions.into_iter().enumerate() {
            let (window, plan, fetching) = (&window, &plan, &*fetching);
            let locks = number > 0 || !first_holds;
            scope.spawn(move || {
                let _guard = Ended(window);
                let observed = fetching.observed.as_deref();
                let observer = observed.map(|observed| &*observed.observer as &dyn DumpObserver);
                let encoder = Encoder::new(window, fetching, observer);
                let worker = Worker { session, locks, locked: None, fetching, window, plan };
                let result = if is_alone && fetching.codec.compression != Compression::None {
                    // One thread reads, another one compresses.
                    std::thread::scope(|scope| {
                        let (sender, messages) = mpsc::sync_channel(WAITING_BUFFERS);
                        scope.spawn(move || {
                            let _guard = Ended(window);
                            compress(encoder, &messages, window);
                        });
                        worker.run(Feed::elsewhere(sender))
                    })
                } else {
                    worker.run(Feed::here(encoder))
                };
                if let Err(error) = result {
                    window.fail(error);
                }
            });
        }
        let delivery = Delivery {
            window: Arc::clone(&window),
            plan: Arc::clone(&plan),
            observed: fetching.observed.clone(),
        };
        write(delivery)
    })
}

/// Makes sure that nobody waits for a thread that ended by a defect.
struct Ended<'a>(&'a Window);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(ToolError::new("a session's thread ended by a defect"));
        }
    }
}

fn compress(mut encoder: Encoder<'_>, messages: &mpsc::Receiver<Message>, window: &Window) {
    for message in messages {
        if let Err(error) = encoder.take(message) {
            window.fail(error);
            return;
        }
    }
}

/// A session at work.
struct Worker<'a> {
    session: &'a mut Session,
    /// It has to lock tables before it reads them.
    locks: bool,
    /// The last table that it locked.
    locked: Option<DumpId>,
    fetching: &'a Fetching,
    window: &'a Window,
    plan: &'a Plan,
}

impl Worker<'_> {
    fn run(mut self, mut feed: Feed<'_>) -> Result<()> {
        if self.plan.parts.iter().any(|part| matches!(part.what, PartOf::Pages(_))) {
            // Ranges have to be read as such, by one process each, or their rows come in another order.
            for setting in ["SET max_parallel_workers_per_gather = 0", "SET enable_tidscan = on"] {
                self.session.execute(setting)?;
            }
        }
        while let Some(number) = self.window.take() {
            let Some(part) = self.plan.parts.get(number) else { break };
            self.part(number, part, &mut feed)?;
        }
        Ok(())
    }

    fn part(&mut self, number: usize, part: &Part, feed: &mut Feed<'_>) -> Result<()> {
        let fetching = self.fetching;
        if part.is_first
            && let Some(observed) = &fetching.observed
        {
            observed.begun(part.entry);
        }
        feed.say(Message::Begin { part: number, kind: part.kind })?;
        let rows = match (&part.what, fetching.data.get(&part.entry)) {
            (PartOf::LargeObjects(oids), _) => {
                large_objects::fetch(self.session, oids, &mut |piece| match piece {
                    large_objects::Piece::Begin(oid) => feed.say(Message::LargeObject(oid)),
                    large_objects::Piece::Bytes(bytes) => {
                        std::io::Write::write_all(feed, bytes).map_err(|error| ToolError::output(&error))
                    }
                    large_objects::Piece::End => feed.say(Message::LargeObjectEnd),
                })?;
                oids.len() as u64
            }
            (what, Some(DataSource::Rows(source))) => {
                if self.locks && self.locked != Some(part.entry) {
                    rows::lock(self.session, source)?;
                    self.locked = Some(part.entry);
                }
                let pages = match what {
                    PartOf::Pages(pages) => Some(*pages),
                    _ => None,
                };
                let extent = Extent { pages, is_first: part.is_first, is_last: part.is_last };
                rows::write(self.session, source, extent, fetching.rows, feed)?
            }
            _ => 0,
        };
        feed.say(Message::End { rows, is_last: part.is_last })
    }
}
