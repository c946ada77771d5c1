//! A drill: a restore that is tried out with a real server, and leaves nothing behind.
//!
//! request → plan → restore into a scratch directory → a server on it → consistency, target → questions → stop → remove →
//! report. What is measured is how long a restore in earnest would take until the first answer.
//!
//! *Apart from the living cluster.* The data directory, every tablespace, configuration from outside, the socket and the
//! access rules lie in the scratch directory. What could reach the living cluster, its archive, its subscribers or its
//! network is overridden on the server's command line, which beats every file (`configuration.rs`). The only way to the
//! repository is `restore_command`, which reads. A scratch directory inside a data directory is refused.
//!
//! *Killed at any point*: the server ends with pgkeep (`server.rs`); the scratch directory stays only after SIGKILL or a second
//! interrupt, and is never mistaken for anything: its name says what it is.

mod configuration;
mod questions;
mod request;
mod scratch;
mod server;
mod sql_script;

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pgkeep_format::control_file::{CONTROL_FILE_PATH, ControlFile};
use pgkeep_format::{Lsn, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{BackupId, ManifestHeader, Stanza};
use pgkeep_wire::{Connection, WireError};

pub use request::{
    AmcheckResult, Assertion, DrillFailure, DrillReport, DrillRequest, Override, Phase, RunAs, Script,
};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::restore::{RecoveryTarget, RestorePlan, RestoreRequest, TargetAction, carry_out, plan_below};
use configuration::Places;
use scratch::Scratch;
use server::{Programs, Server};

/// The verb in the names of reports.
const VERB: &str = "drill";
/// `show` looks at no more reports of drills.
const DRILLS_LOOKED_AT: usize = 32;
/// Between two looks at the server.
const POLL: Duration = Duration::from_millis(30);

/// Tries a restore out.
///
/// # Errors
/// When it cannot be tried: no backup or target, no server program, no room. What fails in the restored cluster is in the
/// report.
pub fn drill(request: &DrillRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<DrillReport> {
    let doing = format!("cannot do a drill with `{}`", request.location.stanza);
    run(request, observer, cancel).map_err(|error| error.while_doing(doing))
}

fn run(request: &DrillRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<DrillReport> {
    configuration::refuse_dangerous(&request.settings)?;
    // A mistake in the script is told before anything is restored.
    let steps = match &request.script {
        Some(script) => sql_script::steps(&script.name, &script.text)?,
        None => Vec::new(),
    };
    let stanza = request.location.open_stanza()?;
    let scratch = Scratch::make(request)?;
    let places = Places::below(scratch.path());
    prepare(&stanza, &scratch, &places)?;
    let restore = restore_request(request, &places);
    observer.event(Event::StepStarted { step: Step::Prove, total_bytes: None });
    let began = Instant::now();
    let plan = plan_below(&restore, Some(&places.tablespaces), cancel)?;
    observer.event(Event::StepFinished { step: Step::Prove });
    for line in plan.describe() {
        observer.event(Event::Note { text: line });
    }
    let header = plan.reader.header().clone();
    let programs = server::find_programs(request, header.major)?;
    let mut report = new_report(&stanza, &plan, scratch.path());
    report.phase("prove", began);
    report.dry_run = request.dry_run;
    if request.dry_run {
        report.overrides = configuration::overrides(
            &places,
            header.major,
            &places.data.join("postgresql.conf"),
            None,
            &request.settings,
        );
        report.ok = true;
        scratch.remove()?;
        return Ok(report);
    }
    let mut drill = Drill {
        request,
        observer,
        cancel,
        began,
        places: &places,
        programs: &programs,
        scratch: &scratch,
        stanza: &stanza,
        header: &header,
        plan: &plan,
        report,
    };
    let outcome = drill.carry(&restore, &steps);
    let mut report = drill.report;
    report.failure = outcome?;
    let answers = report.assertions.iter().all(|assertion| assertion.ok);
    let sound = report.amcheck.as_ref().is_none_or(|amcheck| amcheck.ok);
    report.ok = report.failure.is_none() && answers && sound;
    drop(plan);
    if let Err(error) = scratch.remove() {
        let hint = error.hints.first().cloned();
        observer.event(Event::Warning { text: error.to_string(), hint });
    }
    report.finished = Timestamp::now().to_string();
    store(&stanza, &mut report);
    Ok(report)
}

/// Everything that the restore and the server find there. Tablespaces get their directories before it is known which backup
/// it will be: as root, a restore goes only into directories of another user.
fn prepare(stanza: &Stanza, scratch: &Scratch, places: &Places) -> Result<()> {
    for directory in [&places.data, &places.tablespaces, &places.external, &places.sockets] {
        scratch.directory(directory)?;
    }
    let mut oids: Vec<u32> = stanza
        .backups()?
        .iter()
        .filter_map(|listing| listing.header.as_ref().ok())
        .flat_map(|header| header.tablespaces.iter().map(|space| space.oid))
        .collect();
    oids.sort_unstable();
    oids.dedup();
    for oid in oids {
        scratch.directory(&places.tablespaces.join(oid.to_string()))?;
    }
    // Only whoever may enter the socket's directory gets so far.
    scratch.file(&places.hba, "local all all trust\n")?;
    scratch.file(&places.ident, "")?;
    scratch.file(&places.log, "")?;
    scratch.file(&places.own_configuration, "# made by pgkeep for a drill\n")
}

fn restore_request(request: &DrillRequest, places: &Places) -> RestoreRequest {
    RestoreRequest {
        location: request.location.clone(),
        backup: request.backup.clone(),
        target: request.target.clone(),
        exclusive: request.exclusive,
        timeline: request.timeline,
        // The end of recovery is tried as well, and the statements may write.
        action: Some(TargetAction::Promote),
        tablespace_map: Vec::new(),
        standby: false,
        settings: vec![("archive_mode".to_owned(), "off".to_owned())],
        destination: places.data.clone(),
        external_config: Some(places.external.clone()),
        restore_command: request.restore_command.clone(),
        caller_time_zone: request.caller_time_zone.clone(),
        jobs: request.jobs,
        delta: false,
        dry_run: false,
    }
}

fn new_report(stanza: &Stanza, plan: &RestorePlan, scratch: &Path) -> DrillReport {
    let header = plan.reader.header();
    DrillReport {
        stanza: stanza.name().to_string(),
        started: Timestamp::now().to_string(),
        finished: Timestamp::now().to_string(),
        ok: false,
        backup: header.id.to_string(),
        backup_reason: plan.backup_reason.clone(),
        proof: plan.proof.clone(),
        server_version: header.server_version_num,
        scratch: scratch.to_owned(),
        overrides: Vec::new(),
        phases: Vec::new(),
        time_to_first_query_seconds: None,
        replay_end: None,
        assertions: Vec::new(),
        amcheck: None,
        failure: None,
        stored_as: None,
        not_stored: None,
        dry_run: false,
    }
}

impl DrillReport {
    fn phase(&mut self, phase: &str, began: Instant) {
        self.phases.push(Phase { phase: phase.to_owned(), seconds: began.elapsed().as_secs_f64() });
    }
}

fn store(stanza: &Stanza, report: &mut DrillReport) {
    let kept = serde_json::to_vec(&*report)
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
        .and_then(|json| Ok(stanza.put_report(Timestamp::now(), VERB, json)?));
    match kept {
        Ok(name) => report.stored_as = Some(name.as_str().to_owned()),
        Err(error) => report.not_stored = Some(error.to_string()),
    }
}

/// What is known of the last drill with a backup.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LastDrill {
    /// When it was finished (RFC 3339 UTC).
    pub at: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// How long it took until the first answer.
    pub seconds: Option<u64>,
}

/// Looks for it in the newest reports.
pub(crate) fn last_drill(stanza: &Stanza, backup: BackupId) -> Result<Option<LastDrill>> {
    #[derive(serde::Deserialize)]
    struct Kept {
        backup: String,
        finished: String,
        ok: bool,
        time_to_first_query_seconds: Option<f64>,
    }
    let mut names = stanza.reports()?;
    names.retain(|name| name.verb() == Some(VERB));
    names.sort();
    for name in names.iter().rev().take(DRILLS_LOOKED_AT) {
        // One that cannot be read tells nothing; the one before may.
        let kept = stanza.report(name).ok().and_then(|json| serde_json::from_slice::<Kept>(&json).ok());
        let Some(kept) = kept.filter(|kept| kept.backup == backup.to_string()) else { continue };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole seconds are shown"
        )]
        let seconds = kept.time_to_first_query_seconds.map(|seconds| seconds.round() as u64);
        return Ok(Some(LastDrill { at: kept.finished, ok: kept.ok, seconds }));
    }
    Ok(None)
}

struct Drill<'a> {
    request: &'a DrillRequest,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    began: Instant,
    places: &'a Places,
    programs: &'a Programs,
    scratch: &'a Scratch,
    stanza: &'a Stanza,
    header: &'a ManifestHeader,
    plan: &'a RestorePlan,
    report: DrillReport,
}

impl Drill<'_> {
    /// Answers why it failed, where it did; an error says that it could not be tried.
    fn carry(
        &mut self,
        restore: &RestoreRequest,
        steps: &[sql_script::Step],
    ) -> Result<Option<DrillFailure>> {
        let phase = Instant::now();
        if let Err(error) = carry_out(self.plan, restore, self.observer, self.cancel) {
            return match error.kind {
                ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported => {
                    Ok(Some(failure("restore", &error, Vec::new())))
                }
                _ => Err(error),
            };
        }
        self.report.phase("restore", phase);
        let mut server = self.start()?;
        self.observer.event(Event::StepStarted { step: Step::Recover, total_bytes: None });
        let (role, mut session) = match self.await_consistency(&mut server)? {
            Ok(open) => open,
            Err(failure) => return Ok(Some(failure)),
        };
        if let Err(failure) = self.await_target(&mut server, &role, &mut session)? {
            return Ok(Some(failure));
        }
        drop(session);
        self.observer.event(Event::StepFinished { step: Step::Recover });
        self.observer.event(Event::StepStarted { step: Step::Question, total_bytes: None });
        let (cancel, began, most) = (self.cancel, self.began, self.request.max_time);
        let go_on = move || check(cancel, began, most);
        if !steps.is_empty() {
            let phase = Instant::now();
            self.report.assertions = questions::ask(&server, &role, &self.request.database, steps, &go_on)?;
            self.report.phase("questions", phase);
        }
        if self.request.amcheck {
            let phase = Instant::now();
            self.report.amcheck = Some(questions::amcheck(
                self.programs,
                self.places,
                &server,
                &role,
                self.request,
                self.scratch.owner,
                &go_on,
            )?);
            self.report.phase("amcheck", phase);
        }
        self.observer.event(Event::StepFinished { step: Step::Question });
        if let Some(status) = server.ended() {
            let error =
                Error::new(ErrorKind::Internal, format!("the server ended while it was asked: {status}"))
                    .hint("its log says why");
            return Ok(Some(failure("questions", &error, server.log_tail())));
        }
        let phase = Instant::now();
        let log = server.log_tail();
        let properly = server.stop();
        self.report.phase("stop", phase);
        if !properly {
            let error = Error::new(ErrorKind::Timeout, "the server did not stop in time")
                .hint("look at its log; the data itself was restored and asked");
            return Ok(Some(failure("stop", &error, log)));
        }
        Ok(None)
    }

    fn start(&mut self) -> Result<Server> {
        self.scratch.own_tree(&self.places.external)?;
        let external: Vec<String> = self.header.external_files.iter().map(|file| file.path.clone()).collect();
        let configuration = configuration::configuration_of(self.places, &external);
        for left_out in configuration::redirect_includes(self.places, &configuration)? {
            let hint = "what it sets is not set in the drill; `--set NAME=VALUE` does it".to_owned();
            let text = format!("the configuration includes `{left_out}`, which is not in the backup");
            self.observer.event(Event::Warning { text, hint: Some(hint) });
        }
        let control = std::fs::read(self.places.data.join(CONTROL_FILE_PATH)).ok();
        let control = control.and_then(|bytes| ControlFile::parse(&bytes).ok());
        self.report.overrides = configuration::overrides(
            self.places,
            self.header.major,
            &configuration,
            control.as_ref(),
            &self.request.settings,
        );
        if self.programs.setpriv.is_none() {
            let text =
                "`setpriv` is not installed: if pgkeep is killed with SIGKILL, the scratch server goes on";
            self.observer.event(Event::Warning {
                text: text.to_owned(),
                hint: Some("install util-linux; any other end stops the server in any case".to_owned()),
            });
        }
        Server::start(self.programs, self.places, &self.report.overrides, self.request, self.scratch.owner)
    }

    /// Waits until the server takes connections, which it does when the backup is consistent.
    fn await_consistency(
        &mut self,
        server: &mut Server,
    ) -> Result<std::result::Result<(String, Connection), DrillFailure>> {
        let phase = Instant::now();
        let mut roles = self.request.roles.iter();
        let mut role = roles.next().cloned().unwrap_or_else(|| "postgres".to_owned());
        let mut database = "postgres";
        loop {
            check(self.cancel, self.began, self.request.max_time)?;
            if let Some(status) = server.ended() {
                return Ok(Err(ended("consistency", &status.to_string(), server.log_tail())));
            }
            match server.connect(&role, database) {
                Ok(session) => {
                    self.report.phase("consistency", phase);
                    return Ok(Ok((role, session)));
                }
                Err(error) => match error.sqlstate() {
                    // The role is not there: the next one may be.
                    Some("28000") => match roles.next() {
                        Some(next) => role.clone_from(next),
                        None => return Ok(Err(no_role(&error, server.log_tail()))),
                    },
                    Some("3D000") if database == "postgres" => database = "template1",
                    // Starting up, or not there yet: any other end is seen above.
                    _ => {}
                },
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until recovery is over and the first query is answered.
    fn await_target(
        &mut self,
        server: &mut Server,
        role: &str,
        session: &mut Connection,
    ) -> Result<std::result::Result<(), DrillFailure>> {
        let phase = Instant::now();
        loop {
            check(self.cancel, self.began, self.request.max_time)?;
            if let Some(status) = server.ended() {
                return Ok(Err(ended("target", &status.to_string(), server.log_tail())));
            }
            let answer = session.query("SELECT pg_is_in_recovery() AS r, pg_last_wal_replay_lsn() AS l");
            match answer.as_ref().map(|rows| rows.first().map(|row| (row.boolean("r"), row.optional("l")))) {
                Ok(Some((Ok(false), lsn))) => {
                    self.report.time_to_first_query_seconds = Some(self.began.elapsed().as_secs_f64());
                    self.report.phase("target", phase);
                    self.report.replay_end = lsn.ok().flatten().map(str::to_owned);
                    return self.check_replay(server);
                }
                Ok(_) => {}
                Err(_) => {
                    // The session may end with recovery; the server's own end is seen above.
                    if let Ok(again) = server.connect(role, "template1") {
                        *session = again;
                    }
                }
            }
            std::thread::sleep(POLL);
        }
    }

    /// Without a target, all that was proved to be there must have been replayed: an archive that answers "no such file" too
    /// early makes a primary that lacks the rest, and only a line in its log says so.
    fn check_replay(&self, server: &Server) -> Result<std::result::Result<(), DrillFailure>> {
        let (RecoveryTarget::Latest, Some(last)) = (&self.request.target, &self.plan.proof.wal_last) else {
            return Ok(Ok(()));
        };
        let record = self.stanza.records().iter().find(|record| record.sequence == self.header.record);
        let Some(archive) = record.map(|record| self.stanza.wal(record)) else { return Ok(Ok(())) };
        let size: WalSegmentSize = archive.segment_size();
        let Some(name) = WalSegmentName::parse(last, size) else { return Ok(Ok(())) };
        let header = archive.header(WalFileName::Segment(name))?;
        let has_records = header.is_some_and(|header| header.facts.records > 0);
        let replayed: Option<Lsn> = self.report.replay_end.as_ref().and_then(|lsn| lsn.parse().ok());
        if has_records && replayed.is_some_and(|lsn| lsn <= size.start_of(name.number)) {
            let lsn = replayed.unwrap_or(Lsn::INVALID);
            let error = Error::new(
                ErrorKind::TargetUnreachable,
                format!("replay ended at {lsn}, though the archive goes on to segment {last}"),
            )
            .hint("the server's log says which file it did not get; run `pgkeep verify`");
            return Ok(Err(failure("target", &error, server.log_tail())));
        }
        Ok(Ok(()))
    }
}

fn check(cancel: &Cancel, began: Instant, most: Option<Duration>) -> Result<()> {
    cancel.check()?;
    match most {
        Some(most) if began.elapsed() > most => {
            Err(Error::new(ErrorKind::Timeout, format!("the drill took longer than {} s", most.as_secs()))
                .hint("give it more: `--max-time`"))
        }
        _ => Ok(()),
    }
}

fn failure(phase: &str, error: &Error, log: Vec<String>) -> DrillFailure {
    DrillFailure {
        phase: phase.to_owned(),
        message: error.to_string(),
        hint: error.hints.first().cloned().unwrap_or_else(|| "the server's log says more".to_owned()),
        log,
    }
}

/// A server that ended by itself, with what its log says about the usual reasons.
fn ended(phase: &str, status: &str, log: Vec<String>) -> DrillFailure {
    let find = |part: &str| log.iter().rev().find(|line| line.contains(part)).cloned();
    let (message, hint) = if let Some(line) = find("could not access file") {
        (
            format!("the server lacks a library: {line}"),
            "install the extension on this machine, or leave it out: `--set shared_preload_libraries=`",
        )
    } else if let Some(line) = find("recovery ended before configured recovery target was reached") {
        (line, "the archive ends before the target: `pgkeep verify` says whether WAL is damaged or missing")
    } else if let Some(line) = find("could not map anonymous shared memory") {
        (line, "this machine has too little memory: `--set shared_buffers=1GB`")
    } else {
        let last = find("FATAL").or_else(|| find("PANIC")).unwrap_or_default();
        (format!("the server ended ({status}): {last}"), "the log says why")
    };
    DrillFailure { phase: phase.to_owned(), message, hint: hint.to_owned(), log }
}

fn no_role(error: &WireError, log: Vec<String>) -> DrillFailure {
    DrillFailure {
        phase: "consistency".to_owned(),
        message: error.to_string(),
        hint: "name a superuser of the cluster: `--role NAME`".to_owned(),
        log,
    }
}
