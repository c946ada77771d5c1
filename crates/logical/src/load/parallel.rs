//! The steps of a phase in several sessions: a leader that chooses by the [`Schedule`], and workers with a session and an
//! open archive each.
//!
//! After a refusal no further step begins, unless the load is to go on; what runs is brought to its end, since it would have
//! to be done again. A lost connection, a damaged archive and the user's wish stop what runs.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use pgkeep_wire::CancelHandle;

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::observe::LoadEvent;
use super::plan::{Phase, Step};
use super::run::Progress;
use super::schedule::Schedule;
use super::session::{Listener, Outcome, Session, Shared};
use super::source::LoadSource;

/// How often the leader asks whether it is to stop.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

enum Report {
    /// A session is there.
    Ready(CancelHandle),
    Done {
        worker: usize,
        step: usize,
        outcome: Outcome,
        seconds: f64,
    },
    /// A worker is at its end.
    Failed(LoadError),
}

/// Does what is left of a phase. `quiet`: steps during which triggers must not fire.
pub(super) fn run(
    shared: Shared<'_>,
    source: &LoadSource,
    phase: Phase,
    jobs: u32,
    steps: &[Step],
    quiet: &[bool],
    progress: &mut Progress,
) -> LoadResult<()> {
    let mut schedule = Schedule::new(steps, phase, jobs);
    let left = schedule.left().count();
    if left == 0 {
        return Ok(());
    }
    let workers = usize::try_from(jobs).unwrap_or(usize::MAX).min(left);
    std::thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let mut orders = Vec::new();
        for worker in 0..workers {
            let (order, inbox) = mpsc::channel::<usize>();
            let report = report.clone();
            let spawned =
                std::thread::Builder::new().name(format!("load-{worker}")).spawn_scoped(scope, move || {
                    if let Err(error) = work(shared, source, steps, quiet, worker, &inbox, &report) {
                        // The leader may have gone.
                        drop(report.send(Report::Failed(error)));
                    }
                });
            if let Err(error) = spawned {
                return Err(LoadError::new(LoadErrorKind::Connect, "cannot start a thread")
                    .cause(error.to_string())
                    .hint("use fewer `--jobs`"));
            }
            orders.push(order);
        }
        drop(report);
        let mut handles = Vec::new();
        let result = lead(shared, steps, &orders, &reports, &mut schedule, progress, &mut handles);
        if result.is_err() {
            // Workers stop at their next step; long ones are cut short.
            for handle in &handles {
                drop(handle.cancel());
            }
        }
        drop(orders);
        progress.missing.extend(schedule.left().map(|step| steps[step].label.clone()));
        result
    })
}

fn lead(
    shared: Shared<'_>,
    steps: &[Step],
    orders: &[mpsc::Sender<usize>],
    reports: &mpsc::Receiver<Report>,
    schedule: &mut Schedule<'_>,
    progress: &mut Progress,
    handles: &mut Vec<CancelHandle>,
) -> LoadResult<()> {
    let mut idle: Vec<usize> = (0..orders.len()).rev().collect();
    loop {
        if shared.observer.is_cancelled() {
            return Err(interrupted());
        }
        while progress.goes_on()
            && let Some(worker) = idle.last().copied()
        {
            let Some(step) = schedule.next() else { break };
            shared.observer.event(&LoadEvent::Started { step: &steps[step].label });
            if orders[worker].send(step).is_err() {
                // It failed, and its report is on the way.
                break;
            }
            idle.pop();
        }
        if idle.len() == orders.len() {
            return Ok(());
        }
        match reports.recv_timeout(LOOK_INTERVAL) {
            Ok(Report::Ready(handle)) => handles.push(handle),
            Ok(Report::Failed(error)) => return Err(error),
            Ok(Report::Done { worker, step, outcome, seconds }) => {
                idle.push(worker);
                match outcome {
                    Outcome::Done { bytes } => {
                        progress.done(shared, &steps[step], bytes, seconds);
                        schedule.done(step);
                    }
                    Outcome::Refused(refusal) => {
                        progress.refused(shared, &steps[step], &refusal);
                        let lost = schedule.failed(step);
                        progress.missing.extend(lost.into_iter().map(|step| steps[step].label.clone()));
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(LoadError::new(LoadErrorKind::Connect, "all sessions of the load ended")
                    .hint("look at the server and its log, then go on with `--resume`"));
            }
        }
    }
}

/// The user's wish.
pub(super) fn interrupted() -> LoadError {
    LoadError::new(LoadErrorKind::Interrupted, "the load was interrupted")
        .hint("the same command with `--resume` goes on with it")
}

fn work(
    shared: Shared<'_>,
    source: &LoadSource,
    steps: &[Step],
    quiet: &[bool],
    worker: usize,
    inbox: &mpsc::Receiver<usize>,
    report: &mpsc::Sender<Report>,
) -> LoadResult<()> {
    let listener = Listener::new(shared.observer);
    let archive = source.open()?;
    if archive.contents.entries.len() != shared.contents.entries.len()
        || archive.contents.header != shared.contents.header
    {
        return Err(LoadError::new(LoadErrorKind::Corrupt, "the archive changed while it was read")
            .hint("let nothing write to it, then go on with `--resume`"));
    }
    let mut session = Session::open(shared, &listener, archive.source)?;
    drop(report.send(Report::Ready(session.cancel_handle()?)));
    while let Ok(number) = inbox.recv() {
        let began = Instant::now();
        let outcome = session.step(number, &steps[number], quiet[number])?;
        let seconds = began.elapsed().as_secs_f64();
        if report.send(Report::Done { worker, step: number, outcome, seconds }).is_err() {
            break;
        }
    }
    Ok(())
}
