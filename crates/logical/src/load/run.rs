//! A load from its beginning to its end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pgkeep_wire::Connection;

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::journal;
use super::member::{self, SetMember};
use super::observe::{LoadEvent, LoadObserver};
use super::parallel::{self, interrupted};
use super::plan::{Phase, Step};
use super::prepare::{Prepared, prepare};
use super::report::{LoadFailure, LoadOutcome, LoadReport, LoadedTable, hint_for};
use super::request::LoadRequest;
use super::session::{Listener, Outcome, Refusal, Session, Shared};
use super::source::LoadSource;
use super::target;
use crate::restore::{RestoreOptions, Source};

/// Definitions in one transaction: few enough for the server's table of locks.
const BATCH: usize = 64;
/// How long the sessions of a load that was killed may live on.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What was done so far.
pub(super) struct Progress {
    pub(super) missing: Vec<String>,
    continue_on_error: bool,
    outcome: LoadOutcome,
}

impl Progress {
    /// Whether further steps may begin.
    pub(super) fn goes_on(&self) -> bool {
        self.continue_on_error || self.outcome.failures.is_empty()
    }

    pub(super) fn done(&mut self, shared: Shared<'_>, step: &Step, bytes: u64, seconds: f64) {
        self.outcome.steps_done += 1;
        if let Some(rows) = step.rows {
            let table = step.label.strip_prefix("TABLE DATA ").unwrap_or(&step.label);
            let before = self.outcome.tables.iter_mut().rev();
            match before.filter(|_| rows.piece.is_some()).find(|loaded| loaded.table == table) {
                Some(loaded) => {
                    loaded.bytes += bytes;
                    loaded.seconds += seconds;
                }
                None => {
                    self.outcome.tables.push(LoadedTable { table: table.to_owned(), bytes, seconds });
                }
            }
        }
        shared.observer.event(&LoadEvent::Done { step: &step.label, stored_bytes: step.stored });
    }

    pub(super) fn refused(&mut self, shared: Shared<'_>, step: &Step, refusal: &Refusal) {
        shared.observer.event(&LoadEvent::Refused { step: &step.label, message: &refusal.message });
        self.outcome.failures.push(LoadFailure {
            step: step.label.clone(),
            entry: shared.contents.entries[step.index].dump_id.0,
            message: refusal.message.clone(),
            hint: hint_for(refusal.state.as_deref()).to_owned(),
        });
    }
}

/// Loads an archive. What the server refuses is in the report.
///
/// # Errors
/// When the load cannot begin or go on: nothing answers, the archive is damaged, the database is not fit, names are missing.
pub fn load(
    source: &LoadSource,
    request: &LoadRequest,
    observer: &dyn LoadObserver,
) -> LoadResult<LoadReport> {
    load_as(source, request, None, observer)
}

/// As [`load`]; `member`: as a database of a set.
pub(super) fn load_as(
    source: &LoadSource,
    request: &LoadRequest,
    member: Option<&SetMember>,
    observer: &dyn LoadObserver,
) -> LoadResult<LoadReport> {
    let began = Instant::now();
    let info = &request.target;
    // Facts that another load changes meanwhile would be none.
    let mut guard = if request.dry_run { None } else { lock(request)? };
    let mut facts = target::facts(info)?;
    let of_member;
    let request = match member {
        Some(member) => {
            member.add_to(&mut facts, request.dry_run);
            of_member = member.request(request, &facts);
            &of_member
        }
        None => request,
    };
    let prepared = prepare(source, request, &facts, observer)?;
    observer.event(&LoadEvent::Planned(&prepared.plan));
    if request.dry_run {
        return Ok(LoadReport { plan: prepared.plan, result: None, warnings: prepared.warnings });
    }
    if facts.journal.as_ref().is_some_and(|journal| journal.is_marked(journal::FINISHED)) {
        return Ok(member::done_before(prepared.plan, prepared.warnings, observer));
    }
    match &prepared.create {
        Some((sql, made_as)) => {
            target::create(info, sql, made_as, &prepared.key)?;
            guard = lock(request)?;
        }
        None if facts.journal.is_none() => target::begin_journal(info, &prepared.key)?,
        None => {}
    }
    let Prepared { contents, source: data, pieces, plan, settings, warnings, .. } = prepared;
    let mut options = RestoreOptions {
        no_owner: request.no_owner,
        no_tablespaces: request.no_tablespaces,
        exit_on_error: true,
        // Transactions are the load's, never the emitter's.
        single_transaction: true,
        ..RestoreOptions::default()
    };
    options.selection.schema = !request.selection.data_only;
    let shared = Shared {
        contents: &contents,
        pieces: &pieces,
        options: &options,
        info,
        settings: &settings,
        observer,
        maintenance_work_mem: plan.maintenance_work_mem,
        disable_triggers: request.disable_triggers,
    };
    let mut progress = Progress {
        missing: Vec::new(),
        continue_on_error: request.continue_on_error,
        outcome: LoadOutcome { steps_done_before: plan.steps_done_before, ..LoadOutcome::default() },
    };
    let end = match member {
        // First of its transaction, so that no event trigger of the archive sees it.
        None => format!("DROP SCHEMA {} CASCADE", journal::SCHEMA),
        Some(_) => journal::mark(journal::FINISHED),
    };
    let last = (end.as_str(), facts.durable_commit.as_str());
    run(shared, source, data, request.jobs, &plan.work, last, &mut progress)?;
    drop(guard);
    let Progress { missing, mut outcome, .. } = progress;
    outcome.complete = outcome.failures.is_empty();
    outcome.missing = missing;
    outcome.seconds = began.elapsed().as_secs_f64();
    Ok(LoadReport { plan, result: Some(outcome), warnings })
}

fn run(
    shared: Shared<'_>,
    source: &LoadSource,
    data: Source,
    jobs: u32,
    steps: &[Step],
    last: (&str, &str),
    progress: &mut Progress,
) -> LoadResult<()> {
    let quiet = quiet_steps(steps);
    let listener = Listener::new(shared.observer);
    let mut session = Session::open(shared, &listener, data)?;
    for phase in [Phase::Definitions, Phase::Main, Phase::Privileges, Phase::Last] {
        if !progress.goes_on() {
            let left = steps.iter().filter(|step| step.phase == phase && !step.done);
            progress.missing.extend(left.map(|step| step.label.clone()));
            continue;
        }
        match phase {
            Phase::Definitions | Phase::Privileges => {
                in_batches(shared, &mut session, phase, steps, progress)?
            }
            _ => parallel::run(shared, source, phase, jobs, steps, &quiet, progress)?,
        }
    }
    finish(shared, &mut session, steps, last, progress)
}

/// Rows of unlogged tables that a crash emptied when their triggers and keys were made already.
fn quiet_steps(steps: &[Step]) -> Vec<bool> {
    let done: BTreeSet<usize> = steps
        .iter()
        .filter(|step| step.done && step.phase == Phase::Main)
        .flat_map(|step| step.locks.iter().map(|(table, _)| *table))
        .collect();
    let mut quiet = vec![false; steps.len()];
    if done.is_empty() {
        return quiet;
    }
    // Whose rows they are, the steps that wait for them say by their locks.
    for step in steps {
        let tables = step.locks.iter().any(|(table, _)| done.contains(table));
        for need in step.needs.iter().copied().filter(|_| tables) {
            quiet[need] |= steps[need].rows.is_some_and(|rows| rows.unlogged) && !steps[need].done;
        }
    }
    quiet
}

/// Steps one after the other, many in a transaction. After a failure the load goes on with one in each.
fn in_batches(
    shared: Shared<'_>,
    session: &mut Session<'_>,
    phase: Phase,
    steps: &[Step],
    progress: &mut Progress,
) -> LoadResult<()> {
    let of_phase = steps.iter().enumerate().filter(|(_, step)| step.phase == phase && !step.done);
    let open: Vec<(usize, &Step)> = of_phase.collect();
    let size = if progress.continue_on_error { 1 } else { BATCH };
    let mut batches = open.chunks(size);
    while let Some(batch) = batches.next() {
        if shared.observer.is_cancelled() {
            return Err(interrupted());
        }
        for (_, step) in batch {
            shared.observer.event(&LoadEvent::Started { step: &step.label });
        }
        match session.batch(batch, false, None)? {
            Outcome::Done { .. } => batch.iter().for_each(|(_, step)| progress.done(shared, step, 0, 0.0)),
            Outcome::Refused(refusal) => {
                progress.refused(shared, &steps[refusal.step], &refusal);
                if !progress.goes_on() {
                    let left = batch.iter().chain(batches.by_ref().flatten());
                    let left = left.filter(|(number, _)| *number != refusal.step);
                    progress.missing.extend(left.map(|(_, step)| step.label.clone()));
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// The end: what concerns the database as a whole, and the journal goes (`last`: how, and the mode of the commit). This commit waits for the disk, and since a
/// server's log is written in order, everything before it is on the disk then.
fn finish(
    shared: Shared<'_>,
    session: &mut Session<'_>,
    steps: &[Step],
    last: (&str, &str),
    progress: &mut Progress,
) -> LoadResult<()> {
    let of_phase = steps.iter().enumerate().filter(|(_, step)| step.phase == Phase::Finish && !step.done);
    let open: Vec<(usize, &Step)> = of_phase.collect();
    if !progress.outcome.failures.is_empty() {
        // The journal stays, so that the load can go on.
        if progress.goes_on() {
            return in_batches(shared, session, Phase::Finish, steps, progress);
        }
        progress.missing.extend(open.iter().map(|(_, step)| step.label.clone()));
        return Ok(());
    }
    match session.batch(&open, false, Some(last))? {
        Outcome::Done { .. } => open.iter().for_each(|(_, step)| progress.done(shared, step, 0, 0.0)),
        Outcome::Refused(refusal) => match steps.get(refusal.step).filter(|_| !open.is_empty()) {
            Some(step) => {
                progress.refused(shared, step, &refusal);
                let left = open.iter().filter(|(number, _)| *number != refusal.step);
                progress.missing.extend(left.map(|(_, step)| step.label.clone()));
            }
            None => {
                return Err(LoadError::new(LoadErrorKind::Destination, "the load could not be ended")
                    .cause(refusal.message)
                    .hint("everything is loaded; the same command with `--resume` ends it"));
            }
        },
    }
    Ok(())
}

/// Keeps other loads of the database away; none where the database is not there yet.
fn lock(request: &LoadRequest) -> LoadResult<Option<Connection>> {
    let Some(mut connection) = target::connect_if_there(&request.target)? else { return Ok(None) };
    let failed = |error| LoadError::server("cannot lock the database against other loads", &error);
    connection.execute("SET idle_session_timeout = 0").map_err(failed)?;
    let began = Instant::now();
    loop {
        let rows = connection
            .query(&format!("SELECT pg_catalog.pg_try_advisory_lock({}) AS got", journal::LOCK))
            .map_err(failed)?;
        let got = rows.one().and_then(|row| row.boolean("got")).map_err(failed)?;
        if got {
            return Ok(Some(connection));
        }
        if began.elapsed() > LOCK_PATIENCE {
            return Err(LoadError::new(
                LoadErrorKind::Locked,
                format!("another load of the database `{}` is running", request.target.database()),
            )
            .hint("wait for its end; sessions of one that was killed end by themselves"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
