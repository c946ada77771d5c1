//! `restore`: a cluster out of the repository, as it was at a chosen moment.
//!
//! request → plan (`target` proves that the moment can be reached, `destination` that the place may be written) → write
//! → finish → report. Nothing is written before everything is proved. The control file is renamed into place last, so a
//! restore that was killed leaves a directory that no server starts on, with a `marker` by which `--delta` knows it and
//! finishes it. `delta` also reuses the directory of a former cluster.

mod delta;
pub(crate) mod destination;
mod finish;
pub(crate) mod layout;
pub(crate) mod marker;
mod places;
mod plan;
mod recovery_settings;
mod request;
mod target;
mod target_time;
mod task;
mod wal_points;
pub(crate) mod write;

pub(crate) use marker::MARKER;
pub(crate) use plan::{RestorePlan, plan_below};
pub use request::{
    DeltaReport, RecoveryTarget, RestoreReport, RestoreRequest, TargetAction, TargetProof, TargetTimeline,
};
pub(crate) use target_time::from_postgres;
pub use target_time::show_utc;

use crate::error::Result;
use crate::event::{Cancel, Event, Observer, Step};

/// Restores a cluster.
pub fn restore(request: &RestoreRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<RestoreReport> {
    observer.event(Event::StepStarted { step: Step::Prove, total_bytes: None });
    let plan = plan::plan(request, cancel)?;
    observer.event(Event::StepFinished { step: Step::Prove });
    for line in plan.describe() {
        observer.event(Event::Note { text: line });
    }
    if request.dry_run {
        return Ok(plan.report(request, None));
    }
    carry_out(&plan, request, observer, cancel)
}

/// Does what a plan says.
pub(crate) fn carry_out(
    plan: &RestorePlan,
    request: &RestoreRequest,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<RestoreReport> {
    let (_lock, removed) = begin(plan, observer, cancel)?;
    let mut written = write::write(plan, request.jobs, observer, cancel)?;
    observer.event(Event::StepStarted { step: Step::Sync, total_bytes: None });
    finish::finish(plan, request, std::mem::take(&mut written.control_file))
        .map_err(|error| write::unfinished(error, plan))?;
    observer.event(Event::StepFinished { step: Step::Sync });
    let mut report = plan.report(request, Some(&written));
    if let (Some(delta), Some(removed)) = (&mut report.delta, removed) {
        (delta.removed_files, delta.removed_directories) =
            (removed.removed_files, removed.removed_directories);
        (delta.removed_links, delta.removed) = (removed.removed_links, removed.removed);
    }
    Ok(report)
}

/// Makes the directory one on which no server starts, and clears it of what does not belong.
fn begin(
    plan: &plan::RestorePlan,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<(marker::Lock, Option<delta::survey::Survey>)> {
    let directory = &plan.destination.directory;
    let mut lock = None;
    if plan.destination.exists {
        lock = Some(marker::lock(directory)?);
        marker::write(plan)?;
    }
    if let Some(delta) = &plan.delta {
        delta::disarm(plan, delta)?;
    }
    write::make_roots(plan).map_err(|error| write::unfinished(error, plan))?;
    let lock = match lock {
        Some(lock) => lock,
        None => {
            let lock = marker::lock(directory)?;
            marker::write(plan)?;
            lock
        }
    };
    let Some(delta) = &plan.delta else { return Ok((lock, None)) };
    observer.event(Event::StepStarted { step: Step::Clear, total_bytes: None });
    let removed = delta::clear(plan, delta, cancel).map_err(|error| write::unfinished(error, plan))?;
    observer.event(Event::StepFinished { step: Step::Clear });
    Ok((lock, Some(removed)))
}
