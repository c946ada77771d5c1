//! Between the dump's own path of data and the verb's observer: tells of tables, counts them, and stops when asked.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgkeep_logical::dump::{DataOfEntry, DumpObserver, WrittenData};
use pgkeep_repo::DumpedTable;
use pgkeep_tool::Reporter;

use crate::event::{Cancel, Event, Observer, Step};

/// How often bytes are told.
const INTERVAL: Duration = Duration::from_millis(100);

/// What a dump says on its way. The dump owns it, and the verb's observer is only borrowed, so events go through a
/// channel; a table that is not told in time is no loss.
#[derive(Debug)]
pub(super) struct DataWatch {
    database: String,
    cancel: Cancel,
    events: Mutex<SyncSender<Event>>,
    done_bytes: AtomicU64,
    told: Mutex<Instant>,
    tables: Mutex<Vec<DumpedTable>>,
}

impl DataWatch {
    /// The watch, and the events that it sends.
    pub(super) fn new(database: &str, cancel: &Cancel) -> (Arc<DataWatch>, Receiver<Event>) {
        let (events, receiver) = sync_channel(1024);
        let watch = DataWatch {
            database: database.to_owned(),
            cancel: cancel.clone(),
            events: Mutex::new(events),
            done_bytes: AtomicU64::new(0),
            told: Mutex::new(Instant::now()),
            tables: Mutex::default(),
        };
        (Arc::new(watch), receiver)
    }

    /// The tables that were written, in the order of their entries.
    pub(super) fn take_tables(&self) -> Vec<DumpedTable> {
        std::mem::take(&mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn send(&self, event: Event) {
        drop(self.events.lock().unwrap_or_else(PoisonError::into_inner).try_send(event));
    }
}

impl DumpObserver for DataWatch {
    fn begins(&self, entry: DataOfEntry<'_>) {
        let name = if entry.schema.is_empty() {
            format!("{}: {}", self.database, entry.name)
        } else {
            format!("{}: {}.{}", self.database, entry.schema, entry.name)
        };
        let total_bytes = (entry.estimated_bytes > 0).then_some(entry.estimated_bytes);
        self.send(Event::Item { step: Step::Dump, name, total_bytes });
    }

    fn writes(&self, bytes: u64) -> io::Result<()> {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        if let Ok(mut told) = self.told.try_lock()
            && told.elapsed() >= INTERVAL
        {
            *told = Instant::now();
            self.send(Event::Progress { step: Step::Dump, done_bytes });
        }
        Ok(())
    }

    fn ends(&self, entry: DataOfEntry<'_>, data: WrittenData) {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner).push(DumpedTable {
            entry: entry.id.0,
            schema: entry.schema.to_owned(),
            name: entry.name.to_owned(),
            rows: data.rows,
            bytes: data.bytes,
        });
    }
}

/// Runs `work` while the events of a watch are handed on. `work` must drop its watch.
pub(super) fn watched<T>(observer: &dyn Observer, events: Receiver<Event>, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        scope.spawn(move || events.iter().for_each(|event| observer.event(event)));
        work()
    })
}

/// Messages of a script.
pub(super) struct Messages<'a>(pub(super) &'a dyn Observer);

impl Reporter for Messages<'_> {
    fn info(&self, _: &str) {}

    fn warning(&self, text: &str) {
        self.0.event(Event::Warning { text: text.to_owned(), hint: None });
    }

    fn error(&self, text: &str) {
        self.warning(text);
    }
}
