//! `restore`: a cluster out of the repository, as it was at a chosen moment.
//!
//! request → plan (`target` proves that the moment can be reached, `destination` that the place may be written) → write
//! → finish → report. Nothing is written before everything is proved. The control file is renamed into place last, so a
//! restore that was killed leaves a directory that no server starts on.

mod destination;
mod finish;
mod layout;
mod plan;
mod recovery_settings;
mod request;
mod target;
mod target_time;
mod wal_points;
mod write;

pub(crate) use plan::{RestorePlan, plan_below};
pub use request::{RecoveryTarget, RestoreReport, RestoreRequest, TargetAction, TargetProof, TargetTimeline};
pub use target_time::show_utc;

use crate::error::Result;
use crate::event::{Cancel, Event, Observer, Step};

/// Restores a cluster.
pub fn restore(request: &RestoreRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<RestoreReport> {
    observer.event(Event::StepStarted { step: Step::Prove, total_bytes: None });
    let plan = plan::plan(request)?;
    observer.event(Event::StepFinished { step: Step::Prove });
    for line in plan.describe() {
        observer.event(Event::Note { text: line });
    }
    if request.dry_run {
        return Ok(plan.report(request, 0));
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
    let written = write::write(plan, request.jobs, observer, cancel)?;
    observer.event(Event::StepStarted { step: Step::Sync, total_bytes: None });
    finish::finish(plan, request, written.control_file)?;
    observer.event(Event::StepFinished { step: Step::Sync });
    Ok(plan.report(request, written.read_bytes))
}
