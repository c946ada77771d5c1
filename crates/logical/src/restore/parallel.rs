//! `-j`: entries restored by several sessions at once.
//!
//! The leader makes what comes before the data in its own session, which it then closes. Workers, a session and an open
//! archive each, take entries from it as the [`Schedule`] allows; results come back in one channel. What is left in the
//! end, since it depends on itself, the leader does.
//!
//! Rows of a table that this restore made, and that the archive has an index of pieces for, are loaded [piece by
//! piece](RowsInPieces): one worker is always at it, and those that have nothing else to do help.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::{CancelHandle, ConnInfo};

use super::emit::{Emitter, Job, TableOutcome, Target, loads_through_root};
use super::rows_in_pieces::{RowsInPieces, Turn};
use super::run::leave_out_data;
use super::schedule::Schedule;
use super::select::{Pass, Wanted};
use super::server::Server;
use super::source::{Pieces, Source};
use crate::quote;

/// An entry for a worker, or a turn at its rows.
#[derive(Clone, Copy)]
struct Order {
    index: usize,
    wanted: Wanted,
    truncate: bool,
    turn: Option<Turn>,
}

/// What workers say.
enum Report {
    /// A worker's session is there.
    Ready(CancelHandle),
    /// An order is done.
    Done { worker: usize, order: Order, outcome: TableOutcome, errors: u64 },
    /// A worker ended with an error.
    Failed(ToolError),
}

/// Restores all that is wanted. Returns the errors of the workers; those of the leader are counted by its emitter.
pub(super) fn run<'a>(
    emitter: &mut Emitter<'a>,
    source: &mut Source,
    path: Option<&Path>,
    mut wanted: Vec<Wanted>,
) -> Result<u64> {
    let job = emitter.job;
    let mut schedule = Schedule::new(job.contents, source.sizes(job.contents));
    let mut created = vec![false; wanted.len()];
    first_part(emitter, source, &mut wanted, &mut schedule, &mut created)?;
    if job.options.transaction_size > 0 {
        emitter.commit("")?;
    }
    let Some(info) = emitter.server().map(|server| server.info().clone()) else { return Ok(0) };
    let pieces = pieces(emitter, source);
    let mut workers = Vec::new();
    // More workers than entries would have nothing to do.
    let most =
        if pieces.is_empty() { u32::try_from(wanted.len()).unwrap_or(u32::MAX).max(1) } else { u32::MAX };
    for _ in 0..job.options.jobs.min(most) {
        workers.push(source.reopen(path)?);
    }
    job.reporter.info("entering main parallel loop");
    let leader = Leader {
        job,
        pieces: &pieces,
        schedule: &mut schedule,
        wanted: &mut wanted,
        created: &mut created,
        in_pieces: Vec::new(),
        errors: 0,
        handles: Vec::new(),
    };
    let errors = second_part(leader, &info, workers)?;
    job.reporter.info("finished main parallel loop");
    let left = schedule.left();
    if left.iter().any(|index| wanted[*index].is_restored()) {
        rest(emitter, source, &left, &wanted)?;
    }
    Ok(errors)
}

/// The index of pieces, where tables can be loaded by it.
fn pieces(emitter: &mut Emitter<'_>, source: &mut Source) -> Pieces {
    let job = emitter.job;
    let pieces = source.pieces(job.contents).unwrap_or_else(|error| {
        job.reporter.warning(&format!("the archive's index of pieces is not used: {error}"));
        Pieces::default()
    });
    if !job.contents.entries.iter().any(|entry| pieces.of_rows(entry).is_some()) {
        return Pieces::default();
    }
    // Such a server writes no log of a table that is emptied and filled in one transaction, which is worth more.
    let is_minimal = emitter.server().is_none_or(|server| {
        let level = server.connection().query("SHOW wal_level");
        level.is_ok_and(|rows| {
            rows.one().and_then(|row| row.text("wal_level")).is_ok_and(|level| level == "minimal")
        })
    });
    if is_minimal { Pieces::default() } else { pieces }
}

/// What depends on itself, in the order of the archive.
fn rest(
    emitter: &mut Emitter<'_>,
    source: &mut Source,
    left: &BTreeSet<usize>,
    wanted: &[Wanted],
) -> Result<()> {
    let job = emitter.job;
    let in_transactions = job.options.transaction_size > 0;
    if in_transactions {
        emitter.begin("")?;
    }
    for index in job.contents.order.iter().copied().filter(|index| left.contains(index)) {
        let entry = &job.contents.entries[index];
        if wanted[index].is_restored() {
            job.reporter
                .info(&format!("processing missed item {} {} {}", entry.dump_id, entry.desc, entry.tag));
            emitter.restore_entry(source, entry, wanted[index], false)?;
        }
    }
    if in_transactions { emitter.commit("") } else { Ok(()) }
}

/// What comes before the data, in the leader's session.
fn first_part(
    emitter: &mut Emitter<'_>,
    source: &mut Source,
    wanted: &mut [Wanted],
    schedule: &mut Schedule,
    created: &mut [bool],
) -> Result<()> {
    let job = emitter.job;
    let mut skipped_some = false;
    for index in job.contents.order.iter().copied() {
        let entry = &job.contents.entries[index];
        let do_now = match entry.section {
            Section::PreData => true,
            Section::None => !skipped_some,
            Section::Data | Section::PostData => {
                skipped_some = true;
                false
            }
        };
        if !do_now || Pass::of(entry) != Pass::Main {
            continue;
        }
        if wanted[index].is_restored() {
            job.reporter.info(&format!("processing item {} {} {}", entry.dump_id, entry.desc, entry.tag));
            let outcome = emitter.restore_entry(source, entry, wanted[index], false)?;
            note(job, outcome, index, wanted, created);
        }
        schedule.done_before(index);
    }
    Ok(())
}

fn note(job: Job<'_>, outcome: TableOutcome, index: usize, wanted: &mut [Wanted], created: &mut [bool]) {
    match outcome {
        TableOutcome::NotATable => {}
        TableOutcome::Created => created[index] = true,
        TableOutcome::Failed => leave_out_data(job, wanted, index),
    }
}

fn second_part(mut leader: Leader<'_, '_>, info: &ConnInfo, sources: Vec<Source>) -> Result<u64> {
    let (job, pieces) = (leader.job, leader.pieces);
    std::thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let mut orders = Vec::new();
        for (worker, source) in sources.into_iter().enumerate() {
            let (order, inbox) = mpsc::channel();
            let report = report.clone();
            let spawned = std::thread::Builder::new().name(format!("restore-{worker}")).spawn_scoped(
                scope,
                move || {
                    if let Err(error) = work(job, pieces, info, source, worker, &inbox, &report) {
                        // The leader may have gone.
                        drop(report.send(Report::Failed(error)));
                    }
                },
            );
            if let Err(error) = spawned {
                return Err(ToolError::new(format!("could not create worker process: {error}"))
                    .hint("use fewer jobs"));
            }
            orders.push(order);
        }
        drop(report);
        leader.schedule.start();
        let result = leader.lead(&orders, &reports);
        if result.is_err() {
            // Workers stop at their next command; long ones are cut short.
            for handle in &leader.handles {
                drop(handle.cancel());
            }
        }
        drop(orders);
        result.map(|()| leader.errors)
    })
}

/// What a worker has been given.
#[derive(Debug, Clone, Copy, Default)]
struct Hand {
    orders: u32,
    /// All of it is small.
    is_small: bool,
}

impl Hand {
    fn take(&mut self, is_small: bool) {
        self.is_small = is_small && (self.orders == 0 || self.is_small);
        self.orders += 1;
    }
}

/// Who hands out the work.
struct Leader<'a, 'b> {
    job: Job<'a>,
    pieces: &'b Pieces,
    schedule: &'b mut Schedule,
    wanted: &'b mut [Wanted],
    created: &'b mut [bool],
    /// Tables whose rows come in pieces now.
    in_pieces: Vec<RowsInPieces>,
    errors: u64,
    handles: Vec<CancelHandle>,
}

impl Leader<'_, '_> {
    fn lead(&mut self, orders: &[mpsc::Sender<Order>], reports: &mpsc::Receiver<Report>) -> Result<()> {
        let mut hands: Vec<Hand> = orders.iter().map(|_| Hand::default()).collect();
        loop {
            while let Some((worker, order)) = self.assign(&hands) {
                // When it failed its report is on the way.
                if orders[worker].send(order).is_err() {
                    break;
                }
                hands[worker].take(order.turn.is_none() && self.schedule.is_small(order.index));
            }
            if hands.iter().all(|hand| hand.orders == 0) {
                return Ok(());
            }
            match reports.recv() {
                Ok(Report::Ready(handle)) => self.handles.push(handle),
                Ok(Report::Failed(error)) => return Err(error),
                Ok(Report::Done { worker, order, outcome, errors }) => {
                    self.done(order, outcome, errors);
                    hands[worker].orders -= 1;
                }
                Err(_) => return Err(ToolError::new("worker process died unexpectedly")),
            }
        }
    }

    /// The next order and who gets it: somebody idle, or somebody at a small entry, who need not wait for us then.
    fn assign(&mut self, hands: &[Hand]) -> Option<(usize, Order)> {
        if let Some(worker) = hands.iter().position(|hand| hand.orders == 0) {
            return Some((worker, self.next()?));
        }
        let worker = hands.iter().position(|hand| hand.orders == 1 && hand.is_small)?;
        loop {
            let index = self.schedule.next_small()?;
            if let Some(order) = self.launch(index) {
                return Some((worker, order));
            }
        }
    }

    fn next(&mut self) -> Option<Order> {
        // Somebody is always at a table that was begun.
        self.turn(true).or_else(|| self.entry()).or_else(|| self.turn(false))
    }

    /// A turn at rows that come in pieces.
    fn turn(&mut self, idle_only: bool) -> Option<Order> {
        let mut tables = self.in_pieces.iter_mut().filter(|rows| !idle_only || rows.is_idle());
        let (index, turn) = tables.find_map(|rows| rows.next().map(|turn| (rows.index, turn)))?;
        Some(Order { index, wanted: self.wanted[index], truncate: false, turn: Some(turn) })
    }

    /// The next entry.
    fn entry(&mut self) -> Option<Order> {
        while let Some(index) = self.schedule.next() {
            let order = self.launch(index);
            if order.is_some() {
                return order;
            }
        }
        None
    }

    /// The order for an entry; none when it is not wanted.
    fn launch(&mut self, index: usize) -> Option<Order> {
        let job = self.job;
        let entry = &job.contents.entries[index];
        let wanted = self.wanted[index];
        if !wanted.is_restored() {
            job.reporter.info(&format!("skipping item {} {} {}", entry.dump_id, entry.desc, entry.tag));
            self.schedule.done(index);
            return None;
        }
        job.reporter.info(&format!("launching item {} {} {}", entry.dump_id, entry.desc, entry.tag));
        let table = entry.dependencies.first().and_then(|table| job.contents.index_of(*table));
        let truncate = entry.desc == "TABLE DATA" && table.is_some_and(|table| self.created[table]);
        let name = quote::qualified(entry.namespace.as_deref(), &entry.tag);
        let pieces = self.pieces.of_rows(entry).filter(|_| truncate && !loads_through_root(entry, &name));
        let Some(indexed) = pieces else { return Some(Order { index, wanted, truncate, turn: None }) };
        let mut rows = RowsInPieces::new(index, indexed.pieces.len());
        let turn = rows.next();
        self.in_pieces.push(rows);
        Some(Order { index, wanted, truncate: false, turn })
    }

    fn done(&mut self, order: Order, outcome: TableOutcome, errors: u64) {
        let job = self.job;
        let mut is_over = true;
        // As stock counts: the errors of an entry, and the entry.
        let mut counts = errors > 0;
        if let Some(turn) = order.turn
            && let Some(place) = self.in_pieces.iter().position(|rows| rows.index == order.index)
        {
            counts = self.in_pieces[place].done(turn, errors > 0);
            is_over = self.in_pieces[place].is_over();
            if is_over {
                self.in_pieces.remove(place);
            }
        }
        self.errors += errors + u64::from(counts);
        if is_over {
            let entry = &job.contents.entries[order.index];
            job.reporter.info(&format!("finished item {} {} {}", entry.dump_id, entry.desc, entry.tag));
            note(job, outcome, order.index, self.wanted, self.created);
            self.schedule.done(order.index);
        }
    }
}

/// A worker: a session, and entries one after the other.
fn work(
    job: Job<'_>,
    pieces: &Pieces,
    info: &ConnInfo,
    mut source: Source,
    worker: usize,
    inbox: &mpsc::Receiver<Order>,
    report: &mpsc::Sender<Report>,
) -> Result<()> {
    let server = Server::connect(info, job.options.exit_on_error, job.reporter)?;
    // When the leader is gone there is nobody to tell, and no more orders come.
    drop(report.send(Report::Ready(server.cancel_handle())));
    let mut emitter = Emitter::new(job, Target::Server(Box::new(server)), 0);
    emitter.fixed_state()?;
    let mut before = emitter.server().map_or(0, |server| server.errors());
    while let Ok(order) = inbox.recv() {
        let entry = &job.contents.entries[order.index];
        let outcome = match (order.turn, pieces.of_rows(entry)) {
            (Some(turn), Some(indexed)) => {
                match turn {
                    Turn::Piece(number) => emitter.restore_piece(&mut source, entry, indexed, number)?,
                    Turn::Empty => emitter.empty_table(entry)?,
                }
                TableOutcome::NotATable
            }
            _ => emitter.restore_entry(&mut source, entry, order.wanted, order.truncate)?,
        };
        let after = emitter.server().map_or(0, |server| server.errors());
        let done = Report::Done { worker, order, outcome, errors: after - before };
        before = after;
        if report.send(done).is_err() {
            break;
        }
    }
    Ok(())
}
