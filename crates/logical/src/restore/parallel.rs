//! `-j`: entries restored by several sessions at once.
//!
//! The leader makes what comes before the data in its own session, which it then closes. Workers, a session and an open
//! archive each, take entries from it as the [`Schedule`] allows; results come back in one channel. What is left in the
//! end, since it depends on itself, the leader does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc;

use pgkeep_format::archive::Section;
use pgkeep_wire::{CancelHandle, ConnInfo};

use super::emit::{Emitter, Job, TableOutcome, Target};
use super::run::leave_out_data;
use super::schedule::Schedule;
use super::select::{Pass, Wanted};
use super::server::Server;
use super::source::Source;
use crate::error::{LogicalError, Result};

/// An entry for a worker.
struct Order {
    index: usize,
    wanted: Wanted,
    truncate: bool,
}

/// What workers say.
enum Report {
    /// A worker's session is there.
    Ready(CancelHandle),
    /// An entry is done.
    Done { worker: usize, index: usize, outcome: TableOutcome, errors: u64 },
    /// A worker ended with an error.
    Failed(LogicalError),
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
    let mut workers = Vec::new();
    // More workers than entries would have nothing to do.
    let most = u32::try_from(wanted.len()).unwrap_or(u32::MAX).max(1);
    for _ in 0..job.options.jobs.min(most) {
        workers.push(source.reopen(path)?);
    }
    job.reporter.info("entering main parallel loop");
    let errors = second_part(job, &info, workers, &mut schedule, &mut wanted, &mut created)?;
    job.reporter.info("finished main parallel loop");
    let left = schedule.left();
    if left.iter().any(|index| wanted[*index].is_restored()) {
        rest(emitter, source, &left, &wanted)?;
    }
    Ok(errors)
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

fn second_part(
    job: Job<'_>,
    info: &ConnInfo,
    sources: Vec<Source>,
    schedule: &mut Schedule,
    wanted: &mut [Wanted],
    created: &mut [bool],
) -> Result<u64> {
    std::thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let mut orders = Vec::new();
        let mut idle = Vec::new();
        for (worker, source) in sources.into_iter().enumerate() {
            let (order, inbox) = mpsc::channel();
            let report = report.clone();
            let spawned = std::thread::Builder::new().name(format!("restore-{worker}")).spawn_scoped(
                scope,
                move || {
                    if let Err(error) = work(job, info, source, worker, &inbox, &report) {
                        // The leader may have gone.
                        drop(report.send(Report::Failed(error)));
                    }
                },
            );
            if let Err(error) = spawned {
                return Err(LogicalError::new(format!("could not create worker process: {error}"))
                    .hint("use fewer jobs"));
            }
            orders.push(order);
            idle.push(worker);
        }
        drop(report);
        let mut errors = 0;
        let mut handles = Vec::new();
        schedule.start();
        let result = lead(job, &orders, idle, &reports, schedule, wanted, created, &mut errors, &mut handles);
        if result.is_err() {
            // Workers stop at their next command; long ones are cut short.
            for handle in &handles {
                drop(handle.cancel());
            }
        }
        drop(orders);
        result.map(|()| errors)
    })
}

#[allow(clippy::too_many_arguments, reason = "the leader's state, split for borrowing; called once")]
fn lead(
    job: Job<'_>,
    orders: &[mpsc::Sender<Order>],
    mut idle: Vec<usize>,
    reports: &mpsc::Receiver<Report>,
    schedule: &mut Schedule,
    wanted: &mut [Wanted],
    created: &mut [bool],
    errors: &mut u64,
    handles: &mut Vec<CancelHandle>,
) -> Result<()> {
    let entries = &job.contents.entries;
    loop {
        while let Some(worker) = idle.last().copied() {
            let Some(index) = schedule.next() else { break };
            let entry = &entries[index];
            if !wanted[index].is_restored() {
                job.reporter.info(&format!("skipping item {} {} {}", entry.dump_id, entry.desc, entry.tag));
                schedule.done(index);
                continue;
            }
            job.reporter.info(&format!("launching item {} {} {}", entry.dump_id, entry.desc, entry.tag));
            let table = entry.dependencies.first().and_then(|table| job.contents.index_of(*table));
            let truncate = entry.desc == "TABLE DATA" && table.is_some_and(|table| created[table]);
            if orders[worker].send(Order { index, wanted: wanted[index], truncate }).is_ok() {
                idle.pop();
            } else {
                // It failed, and its report is on the way.
                break;
            }
        }
        if idle.len() == orders.len() {
            return Ok(());
        }
        match reports.recv() {
            Ok(Report::Ready(handle)) => handles.push(handle),
            Ok(Report::Failed(error)) => return Err(error),
            Ok(Report::Done { worker, index, outcome, errors: more }) => {
                let entry = &entries[index];
                job.reporter.info(&format!("finished item {} {} {}", entry.dump_id, entry.desc, entry.tag));
                // As stock counts: the errors of an entry, and the entry.
                *errors += more + u64::from(more > 0);
                note(job, outcome, index, wanted, created);
                schedule.done(index);
                idle.push(worker);
            }
            Err(_) => return Err(LogicalError::new("worker process died unexpectedly")),
        }
    }
}

/// A worker: a session, and entries one after the other.
fn work(
    job: Job<'_>,
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
        let outcome = emitter.restore_entry(&mut source, entry, order.wanted, order.truncate)?;
        let after = emitter.server().map_or(0, |server| server.errors());
        let done = Report::Done { worker, index: order.index, outcome, errors: after - before };
        before = after;
        if report.send(done).is_err() {
            break;
        }
    }
    Ok(())
}
