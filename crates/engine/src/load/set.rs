//! A set: everything that a dump of a cluster has, into a server.
//!
//! ```text
//! script and tables of contents read ─► state of each database ─► globals ─► databases, one after the other ─► journals go ─► own role
//! ```
//!
//! Before the first change the whole script, every table of contents and every database's state are known to be fit. A
//! database that the server refuses something of ends the set, unless it is to go on; so does one whose archive is damaged.
//! Which databases are done, they say themselves: see `pgkeep_logical::load::member_state`.

use std::time::Instant;

use pgkeep_logical::load::{
    GlobalsPart, GlobalsReport, GlobalsRequest, GlobalsScript, LastJournal, LoadObserver, LoadReport,
    LoadRequest, MemberState, SetMember, forget, load_member, member_state,
};
use pgkeep_repo::DumpReader;
use pgkeep_wire::ConnInfo;

use super::failure;
use super::part::Part;
use crate::Location;
use crate::dump::{choose_part, find};
use crate::error::{Error, ErrorKind, Result};

/// A load of a set.
#[derive(Clone, Debug)]
pub struct SetLoadRequest {
    /// Where the dump is.
    pub location: Location,
    /// The dump: an id, an unambiguous beginning of one, or `latest`.
    pub id: String,
    /// Only roles, tablespaces and what else belongs to no database.
    pub globals_only: bool,
    /// Into which server, and how. The database of the connection does not matter.
    pub load: LoadRequest,
}

/// What became of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateOfDatabase {
    /// It would be loaded.
    Planned,
    /// It was loaded.
    Loaded,
    /// An earlier run had loaded it.
    LoadedBefore,
    /// The server refused something.
    Incomplete,
    /// It was not tried, after failures.
    NotTried,
}

/// A database of a set.
#[derive(Debug, serde::Serialize)]
pub struct DatabaseOfSet {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub state: StateOfDatabase,
    /// The plan and what was done, as of a load of one database; none where nothing was tried.
    pub load: Option<LoadReport>,
}

/// What was done, or would be.
#[derive(Debug, serde::Serialize)]
pub struct SetLoadReport {
    /// The dump.
    pub dump: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Everything that was asked for is there.
    pub complete: bool,
    /// What belongs to no database.
    pub globals: GlobalsReport,
    /// The databases, in the order in which they are loaded.
    pub databases: Vec<DatabaseOfSet>,
    /// How long it took.
    pub seconds: f64,
}

/// Loads a set.
pub fn load_set(request: &SetLoadRequest, observer: &dyn LoadObserver) -> Result<SetLoadReport> {
    run(request, observer).map_err(|error| {
        error.while_doing(format!("cannot load dump `{}` of `{}`", request.id, request.location.stanza))
    })
}

/// A database that is to be loaded.
struct Member {
    name: String,
    part: Part,
    target: ConnInfo,
}

fn run(request: &SetLoadRequest, observer: &dyn LoadObserver) -> Result<SetLoadReport> {
    let began = Instant::now();
    let how = &request.load;
    let stanza = request.location.open_stanza()?;
    let dump = stanza.dump(find(&stanza, &request.id)?)?;
    let script = Part::open(&dump, choose_part(&dump, None, true)?)?.script()?;
    let script = GlobalsScript::parse(script).map_err(failure)?;
    let globals = GlobalsRequest {
        target: how.target.clone(),
        no_tablespaces: how.no_tablespaces,
        no_privileges: how.no_privileges,
        continue_on_error: how.continue_on_error,
    };
    let members = if request.globals_only { Vec::new() } else { members(&dump, how)? };
    let plan = script.plan(&globals).map_err(failure)?;
    let mut report = SetLoadReport {
        dump: dump.id().to_string(),
        dry_run: how.dry_run,
        complete: false,
        globals: if how.dry_run { plan } else { GlobalsReport::default() },
        databases: Vec::new(),
        seconds: 0.0,
    };
    let states = states(&members, how)?;
    let assumed = SetMember { roles: script.roles(), tablespaces: script.tablespaces() };
    if how.dry_run {
        report.databases = dry_run(&members, &states, how, &assumed, observer)?;
    } else {
        script.run(&globals, GlobalsPart::Others, observer, &mut report.globals).map_err(failure)?;
        let goes_on = report.globals.complete || how.continue_on_error;
        report.databases = databases(&members, &states, how, &assumed, goes_on, observer)?;
        let is_loaded = goes_on && report.databases.iter().all(DatabaseOfSet::is_loaded);
        if is_loaded {
            end(&members, &script, &globals, observer, &mut report)?;
        }
        report.complete = is_loaded && report.globals.complete;
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

impl DatabaseOfSet {
    fn is_loaded(&self) -> bool {
        matches!(self.state, StateOfDatabase::Loaded | StateOfDatabase::LoadedBefore)
    }
}

/// The databases of a dump. Their tables of contents are sound.
fn members(dump: &DumpReader, how: &LoadRequest) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for (index, part) in dump.header().parts.iter().enumerate() {
        let Some(name) = &part.database else { continue };
        let target = how.target.clone().with("dbname", name)?;
        let member = Member { name: name.clone(), part: Part::open(dump, index)?, target };
        member.part.check().map_err(|error| member.failed(error))?;
        members.push(member);
    }
    Ok(members)
}

/// How far each database is; whether the set may begin, or go on.
fn states(members: &[Member], how: &LoadRequest) -> Result<Vec<MemberState>> {
    let mut states = Vec::with_capacity(members.len());
    for member in members {
        states.push(member_state(&member.target).map_err(failure)?);
    }
    for (member, state) in members.iter().zip(&states) {
        let name = &member.name;
        match state {
            MemberState::Filled(objects) if !is_finished(&states) => {
                let mut told =
                    Error::new(ErrorKind::Destination, format!("the database `{name}` is not empty"))
                        .cause(format!("it holds {}", objects.join(", ")));
                if how.resume {
                    told = told.hint(
                        "there is no interrupted load of this set: where it was loaded before, nothing is left to do",
                    );
                }
                return Err(told
                .hint("load the set into a server without these databases: nothing that is there is replaced")
                .hint("`--database` loads one database of the dump, `--target` under another name"));
            }
            MemberState::Begun { began, .. } if !how.resume => {
                return Err(Error::new(
                    ErrorKind::Destination,
                    format!("an interrupted load of {began} is in the database `{name}`"),
                )
                .hint("`--resume` goes on with it")
                .hint("to begin anew, drop the databases that it made"));
            }
            _ => {}
        }
    }
    Ok(states)
}

/// All databases were loaded by an earlier run, which did not come to its end.
fn is_finished(states: &[MemberState]) -> bool {
    matches!(states.last(), Some(MemberState::Begun { set_finished: true, .. }))
}

fn dry_run(
    members: &[Member],
    states: &[MemberState],
    how: &LoadRequest,
    assumed: &SetMember,
    observer: &dyn LoadObserver,
) -> Result<Vec<DatabaseOfSet>> {
    let mut databases = Vec::new();
    for (member, state) in members.iter().zip(states) {
        let (state, load) = if has_been_forgotten(state, states) {
            (StateOfDatabase::LoadedBefore, None)
        } else {
            (StateOfDatabase::Planned, Some(member.load(how, assumed, observer)?))
        };
        databases.push(DatabaseOfSet { name: member.name.clone(), state, load });
    }
    Ok(databases)
}

/// It was loaded, and its journal is gone.
fn has_been_forgotten(state: &MemberState, states: &[MemberState]) -> bool {
    is_finished(states) && !matches!(state, MemberState::Begun { .. })
}

fn databases(
    members: &[Member],
    states: &[MemberState],
    how: &LoadRequest,
    assumed: &SetMember,
    mut goes_on: bool,
    observer: &dyn LoadObserver,
) -> Result<Vec<DatabaseOfSet>> {
    let mut databases = Vec::new();
    for (member, state) in members.iter().zip(states) {
        let (state, load) = if !goes_on {
            (StateOfDatabase::NotTried, None)
        } else if has_been_forgotten(state, states) {
            (StateOfDatabase::LoadedBefore, None)
        } else {
            let load = member.load(how, assumed, observer)?;
            (state_after(&load), Some(load))
        };
        goes_on &= state != StateOfDatabase::Incomplete || how.continue_on_error;
        databases.push(DatabaseOfSet { name: member.name.clone(), state, load });
    }
    Ok(databases)
}

fn state_after(load: &LoadReport) -> StateOfDatabase {
    match &load.result {
        Some(result) if !result.complete => StateOfDatabase::Incomplete,
        Some(result) if result.steps_done == 0 && result.steps_done_before > 0 => {
            StateOfDatabase::LoadedBefore
        }
        Some(_) => StateOfDatabase::Loaded,
        None => StateOfDatabase::Planned,
    }
}

impl Member {
    fn load(
        &self,
        how: &LoadRequest,
        assumed: &SetMember,
        observer: &dyn LoadObserver,
    ) -> Result<LoadReport> {
        let request = LoadRequest { target: self.target.clone(), ..how.clone() };
        load_member(&self.part.source(), &request, assumed, observer)
            .map_err(|error| self.failed(self.part.failure(error)))
    }

    fn failed(&self, error: Error) -> Error {
        error.while_doing(format!("database `{}` cannot be loaded", self.name))
    }
}

/// Everything is loaded: journals go, and what is said of the role that connects is applied.
fn end(
    members: &[Member],
    script: &GlobalsScript,
    globals: &GlobalsRequest,
    observer: &dyn LoadObserver,
    report: &mut SetLoadReport,
) -> Result<()> {
    let last = match members.split_last() {
        Some((last, others)) => {
            let journal = LastJournal::mark(&last.target).map_err(failure)?;
            for member in others {
                forget(&member.target).map_err(failure)?;
            }
            Some(journal)
        }
        None => None,
    };
    script.run(globals, GlobalsPart::OwnRole, observer, &mut report.globals).map_err(failure)?;
    match last {
        Some(journal) if report.globals.complete => journal.forget().map_err(failure),
        _ => Ok(()),
    }
}
