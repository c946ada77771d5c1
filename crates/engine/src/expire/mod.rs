//! `expire`, `hold` and `release`: which backups, packs and WAL go, and making them go.
//!
//! request → plan → run → report. `policy` decides on backups, `wal_need` on WAL, `plan` puts both
//! together; all of it is decided before anything is said to go, and once more after the grace time, and only what both
//! times was to go does. What keeps a running backup and a killed `expire` from losing anything is in `pgkeep-repo`
//! (`removal.rs`) and in `docs/design/0007-two-phase-deletion.md`.

mod dump_policy;
mod plan;
mod policy;
mod request;
mod wal_need;

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pgkeep_repo::{BackupId, LeaseInfo, Removal, RemovalStep, RemovalSteps, Stanza};

pub use request::{
    BackupDecision, DumpDecision, DumpRetention, ExpireChoice, ExpireReport, ExpireRequest, RetentionPolicy,
    SparsePacks, UnlistedPacks, WalDecision, WalRetention,
};

use self::plan::{ExpirePlan, Facts};
use crate::Location;
use crate::backup::{host_name, written_by};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::list::{DUMPS, choose, choose_among};
use crate::wal::store::sweep_tails;

/// How often a wait looks at the cancel token.
const LOOK: Duration = Duration::from_millis(100);

/// Removes what the request does not keep.
pub fn expire(request: &ExpireRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<ExpireReport> {
    let doing = format!("cannot expire backups of `{}`", request.location.stanza);
    check(request)
        .and_then(|()| expire_stanza(request, observer, cancel))
        .map_err(|error| error.while_doing(doing))
}

fn check(request: &ExpireRequest) -> Result<()> {
    match &request.choice {
        ExpireChoice::Policy(policy) if !policy.is_configured() && !request.dumps.is_configured() => {
            let error = Error::new(ErrorKind::Usage, "nothing says what is to be kept");
            Err(match policy.min {
                Some(_) => error.cause("a minimum alone keeps what other rules do not; it removes nothing"),
                None => error,
            }
            .hint("give `--keep-count N`, `--keep-window 30d` or one of `--keep-daily N` and its like")
            .hint("or write `[retention]` into the configuration file, once for all runs"))
        }
        _ => Ok(()),
    }
}

fn expire_stanza(request: &ExpireRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<ExpireReport> {
    let stanza = request.location.open_stanza()?;
    let now = Timestamp::now();
    let facts = Facts::load(&stanza)?;
    let named = match &request.choice {
        ExpireChoice::Backup(id) => {
            let inventory = &facts.inventory;
            let backups = inventory.backups.keys().chain(inventory.unreadable.keys()).copied().collect();
            let dumps = inventory.dumps.dumps.keys().chain(inventory.dumps.unreadable.keys()).copied();
            Some(choose_either(backups, dumps.collect(), id, stanza.name().as_str())?)
        }
        ExpireChoice::Policy(_) => None,
    };
    let plan = ExpirePlan::make(&facts, &request.choice, &request.dumps, named, now)?;
    let mut report = plan.report(&stanza, &facts);
    if request.dry_run {
        return Ok(report);
    }
    report.dry_run = false;
    let condemned = plan.condemned(&facts);
    let before = cutoff(now, request.abandoned_after_seconds);
    let (backups, dumps) = (facts.inventory.running(), facts.inventory.running_dumps());
    let is_stale = backups.iter().chain(&dumps).any(|lease| lease.claimed < before);
    if condemned.is_empty() && !facts.inventory.has_leftovers() && !is_stale {
        facts.inventory.tidying().iter().try_for_each(|step| stanza.remove(step))?;
        report.waiting_for.clear();
        return Ok(report);
    }
    let given_up = stanza.give_up_older(&facts.inventory, before, now)?;
    for lease in &given_up {
        observer.event(Event::Warning {
            text: format!(
                "the {} of {} that began at {} is given up",
                if lease.is_of_dump() { "dump" } else { "backup" },
                lease.holder(),
                lease.claimed
            ),
            hint: Some("where it is still running, take a new one when it has failed".to_owned()),
        });
    }
    let removal = stanza.condemn(condemned, &facts.inventory, now, &lease_info())?;
    // What was decided is out of date when the wait is over.
    drop((plan, facts));
    let done = settle(request, &stanza, &removal, named, now, observer, cancel, |stanza| {
        Ok(stanza.void_given_up(&given_up)?)
    });
    stanza.end_removal(&removal);
    let (steps, removed) = done?;
    report.removed_backups = removed.backups;
    report.removed_dumps = removed.dumps;
    report.removed_packs = removed.packs;
    report.removed_wal_files = removed.wal_files;
    report.freed_bytes = removed.bytes;
    report.waiting_bytes = steps.waiting_bytes;
    report.waiting_for = steps.waiting_for.iter().map(|lease| lease.holder()).collect();
    if !steps.waiting_for.is_empty() {
        report.notes.push("what a running backup may need goes with the next `pgkeep expire`".to_owned());
    }
    Ok(report)
}

/// Removes one backup or WAL file after the other.
#[derive(Default)]
struct Removed {
    backups: u64,
    dumps: u64,
    packs: u64,
    wal_files: u64,
    bytes: u64,
}

/// Waits, looks again, and removes.
#[allow(clippy::too_many_arguments, reason = "the parts of one verb, called once")]
fn settle(
    request: &ExpireRequest,
    stanza: &Stanza,
    removal: &Removal,
    named: Option<BackupId>,
    now: Timestamp,
    observer: &dyn Observer,
    cancel: &Cancel,
    after_grace: impl FnOnce(&Stanza) -> Result<()>,
) -> Result<(RemovalSteps, Removed)> {
    observer.event(Event::StepStarted { step: Step::Grace, total_bytes: None });
    wait(Duration::from_secs(request.grace_seconds), cancel)?;
    observer.event(Event::StepFinished { step: Step::Grace });
    after_grace(stanza)?;
    let facts = Facts::load(stanza)?;
    let exists = named.is_none_or(|id| {
        let inventory = &facts.inventory;
        inventory.backups.contains_key(&id)
            || inventory.unreadable.contains_key(&id)
            || inventory.dumps.exists(id)
    });
    let plan = ExpirePlan::make(&facts, &request.choice, &request.dumps, named.filter(|_| exists), now)?;
    let steps =
        removal.steps(&facts.inventory, &plan.doomed(), &plan.doomed_dumps(), &plan.wal_files(&facts));
    observer.event(Event::StepStarted { step: Step::Remove, total_bytes: None });
    if steps.steps.iter().any(|step| matches!(step, RemovalStep::Wal(..))) {
        plan.gaps().iter().try_for_each(|range| stanza.note_removed_wal(range))?;
    }
    let mut removed = Removed::default();
    for step in &steps.steps {
        cancel.check()?;
        stanza.remove(step)?;
        match step {
            RemovalStep::Manifest(_) => removed.backups += 1,
            RemovalStep::DumpManifest(_) => removed.dumps += 1,
            RemovalStep::Pack(_, size) | RemovalStep::DumpPack(_, size) => {
                removed.packs += 1;
                removed.bytes += size;
            }
            RemovalStep::Tail(.., size) => removed.bytes += size,
            RemovalStep::Wal(..) => removed.wal_files += 1,
            RemovalStep::Flush(_)
            | RemovalStep::DumpFlush(_)
            | RemovalStep::DumpFolder(_)
            | RemovalStep::Folder(_)
            | RemovalStep::Lease(_)
            | RemovalStep::Condemnation(_) => {}
        }
        observer.event(Event::Progress { step: Step::Remove, done_bytes: removed.bytes });
    }
    for record in stanza.records() {
        let archive = stanza.wal(record);
        // A backup that is running may need WAL from before all that are there.
        let is_running = !facts.inventory.running().is_empty();
        let first = plan.first_needed(&facts, record.sequence).filter(|_| !is_running);
        for timeline in archive.timelines()? {
            // Nothing rests upon them: they may go at once.
            removed.wal_files += sweep_tails(&archive, timeline, first)?;
        }
    }
    for range in stanza.removed_wal()?.iter().filter(|range| plan.begins_with(range)) {
        stanza.forget_removed_wal(range)?;
    }
    observer.event(Event::StepFinished { step: Step::Remove });
    Ok((steps, removed))
}

fn wait(length: Duration, cancel: &Cancel) -> Result<()> {
    let begun = Instant::now();
    loop {
        cancel.check()?;
        match length.checked_sub(begun.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(LOOK)),
            _ => return Ok(()),
        }
    }
}

fn cutoff(now: Timestamp, seconds: u64) -> Timestamp {
    let length = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_sub(length).unwrap_or(Timestamp::MIN)
}

fn lease_info() -> LeaseInfo {
    LeaseInfo { verb: "expire".to_owned(), host: host_name(), pid: std::process::id(), program: written_by() }
}

/// What `hold` and `release` did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct HoldReport {
    /// The backup.
    pub backup: String,
    /// Whether it is held now.
    pub held: bool,
    /// Why, as it was given.
    pub reason: String,
}

/// Holds a backup, with the WAL that makes it consistent, until it is released; `id` as for `show`.
pub fn hold(location: &Location, id: &str, reason: &str) -> Result<HoldReport> {
    let doing = format!("cannot hold backup `{id}` of `{}`", location.stanza);
    let hold = || {
        let stanza = location.open_stanza()?;
        let backup = find(&stanza, id)?;
        stanza.hold(backup, reason, Timestamp::now())?;
        Ok(HoldReport { backup: backup.to_string(), held: true, reason: reason.to_owned() })
    };
    hold().map_err(|error: Error| error.while_doing(doing))
}

/// Lets go of a backup.
pub fn release(location: &Location, id: &str) -> Result<HoldReport> {
    let doing = format!("cannot release backup `{id}` of `{}`", location.stanza);
    let release = || {
        let stanza = location.open_stanza()?;
        let backup = find(&stanza, id)?;
        if stanza.release(backup)? == 0 {
            return Err(Error::new(ErrorKind::NotFound, format!("backup {backup} is not held"))
                .hint("`pgkeep list` shows which backups are held"));
        }
        Ok(HoldReport { backup: backup.to_string(), held: false, reason: String::new() })
    };
    release().map_err(|error: Error| error.while_doing(doing))
}

fn find(stanza: &Stanza, id: &str) -> Result<BackupId> {
    let backups = stanza.backups()?.iter().map(|listing| listing.id).collect();
    let dumps = stanza.dumps()?.iter().map(|listing| listing.id).collect();
    choose_either(backups, dumps, id, stanza.name().as_str())
}

/// The backup or dump that the user means; `latest` is a backup.
fn choose_either(backups: Vec<BackupId>, dumps: Vec<BackupId>, id: &str, stanza: &str) -> Result<BackupId> {
    let is_dump = |dump: &BackupId| !id.is_empty() && dump.to_string().starts_with(id);
    let matching: Vec<BackupId> = dumps.into_iter().filter(is_dump).collect();
    if matching.is_empty() {
        return choose(backups, id, stanza);
    }
    // What the beginning fits to as well is told of.
    let both = backups.into_iter().filter(|backup| backup.to_string().starts_with(id));
    choose_among(&DUMPS, both.chain(matching).collect(), id, stanza)
}
