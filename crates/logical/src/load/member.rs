//! A database of a set: a dump of a cluster is loaded database by database, and goes on after an interruption where it was.
//!
//! Which databases are done is written down in themselves, in the transaction that ends their load, so no other place can
//! disagree. The journals stay until all databases are done. Then the last database's journal gets a mark, the others go,
//! and it goes last. So of a database without a journal that holds something:
//!
//! - the mark is in the last database: it was loaded;
//! - else: somebody else filled it.
//!
//! The databases that every cluster has are loaded into as if they were the archive's own: owner, privileges, settings and
//! comment become those of the dump.

use std::collections::BTreeSet;

use pgkeep_wire::{ConnInfo, Connection, WireError};

use super::error::{LoadError, LoadResult};
use super::journal;
use super::observe::{LoadEvent, LoadObserver};
use super::plan::LoadPlan;
use super::report::{LoadOutcome, LoadReport};
use super::request::LoadRequest;
use super::run::load_as;
use super::source::LoadSource;
use super::target::{self, TargetFacts};

/// What is known of the set.
#[derive(Debug, Clone, Default)]
pub struct SetMember {
    /// Roles that there will be: a dry run takes for granted that the script has made them.
    pub roles: BTreeSet<Vec<u8>>,
    /// Tablespaces that there will be, as well.
    pub tablespaces: BTreeSet<Vec<u8>>,
}

impl SetMember {
    /// Whether a database is begun or gone on with is decided when nobody else loads it any more: what a killed run was
    /// doing may come to its end on the server after the set has looked.
    pub(super) fn request(&self, request: &LoadRequest, facts: &TargetFacts) -> LoadRequest {
        LoadRequest { resume: request.resume && facts.journal.is_some(), ..request.clone() }
    }

    pub(super) fn add_to(&self, facts: &mut TargetFacts, dry_run: bool) {
        facts.in_set = true;
        if dry_run {
            facts.roles.extend(self.roles.iter().cloned());
            facts.tablespaces.extend(self.tablespaces.iter().cloned());
        }
    }
}

/// How far a database of a set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberState {
    /// There is no database of that name.
    Absent,
    /// It holds nothing of users.
    Empty,
    /// It holds something, and has no journal. Some of what it holds.
    Filled(Vec<String>),
    /// A load of it was begun.
    Begun {
        /// When.
        began: String,
        /// All databases of the set are loaded; said by the last one.
        set_finished: bool,
    },
}

/// Looks how far the load of a database is.
///
/// # Errors
/// When the server does not answer.
pub fn member_state(info: &ConnInfo) -> LoadResult<MemberState> {
    let facts = target::facts(info)?;
    Ok(match facts.journal {
        Some(journal) => MemberState::Begun {
            set_finished: journal.is_marked(journal::SET_FINISHED),
            began: journal.began,
        },
        None if !facts.exists => MemberState::Absent,
        None if facts.objects.is_empty() => MemberState::Empty,
        None => MemberState::Filled(facts.objects),
    })
}

/// Loads a database of a set. Its journal stays.
///
/// # Errors
/// As [`load`](super::load).
pub fn load_member(
    source: &LoadSource,
    request: &LoadRequest,
    member: &SetMember,
    observer: &dyn LoadObserver,
) -> LoadResult<LoadReport> {
    load_as(source, request, Some(member), observer)
}

/// The report of a database that an earlier run had finished.
pub(super) fn done_before(
    plan: LoadPlan,
    mut warnings: Vec<String>,
    observer: &dyn LoadObserver,
) -> LoadReport {
    let emptied: Vec<&str> = plan
        .work
        .iter()
        .filter(|step| !step.done && step.rows.is_some_and(|rows| rows.unlogged))
        .map(|step| step.label.strip_prefix("TABLE DATA ").unwrap_or(&step.label))
        .collect();
    if !emptied.is_empty() {
        let text = format!(
            "a crash of the server emptied unlogged tables of `{}` after they were loaded: {}",
            plan.database,
            emptied.join(", ")
        );
        let hint = "load their rows again: `--database`, `--into-existing`, `--data-only`, `--table`";
        observer.event(&LoadEvent::Warning { text: text.clone(), hint: Some(hint.to_owned()) });
        warnings.push(text);
    }
    let steps_done_before = plan.steps;
    let result = LoadOutcome { complete: true, steps_done_before, ..LoadOutcome::default() };
    LoadReport { plan, result: Some(result), warnings }
}

/// Removes the journal of a database; nothing where it has none.
///
/// # Errors
/// When the server does not answer or does not want to.
pub fn forget(info: &ConnInfo) -> LoadResult<()> {
    let Some(mut connection) = target::connect_if_there(info)? else { return Ok(()) };
    drop_journal(&mut connection).map_err(|error| not_forgotten(info, &error))?;
    connection.close();
    Ok(())
}

fn not_forgotten(info: &ConnInfo, error: &WireError) -> LoadError {
    let database = info.database();
    LoadError::server(&format!("the journal of the load cannot be removed from `{database}`"), error).hint(
        format!(
            "everything is loaded; `DROP SCHEMA {} CASCADE` in `{database}`, or the same command with `--resume`, ends it",
            journal::SCHEMA
        ),
    )
}

/// Event triggers of the archive are there by now, and are not meant for this.
fn drop_journal(connection: &mut Connection) -> Result<(), WireError> {
    connection.execute("BEGIN")?;
    connection.execute("SET LOCAL synchronous_commit = on")?;
    let is_superuser = connection.query("SELECT pg_catalog.current_setting('is_superuser') = 'on' AS yes")?;
    if is_superuser.one()?.boolean("yes")? {
        if connection.server_major() >= 17 {
            connection.execute("SET LOCAL event_triggers = off")?;
        } else {
            connection.execute("SET LOCAL session_replication_role = replica")?;
        }
    }
    connection.execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", journal::SCHEMA))?;
    connection.execute("COMMIT")
}

/// The journal of the last database of a set, which goes last. The session is open before the connecting role changes.
#[derive(Debug)]
pub struct LastJournal {
    connection: Connection,
    info: ConnInfo,
}

impl LastJournal {
    /// Writes down that all databases are loaded.
    ///
    /// # Errors
    /// When the server does not answer or does not want to.
    pub fn mark(info: &ConnInfo) -> LoadResult<LastJournal> {
        let mut connection = target::connected(info)?;
        let mark = journal::mark(journal::SET_FINISHED);
        connection
            .execute("SET synchronous_commit = on")
            .and_then(|()| connection.execute("SET idle_session_timeout = 0"))
            .and_then(|()| connection.execute(&mark))
            .map_err(|error| {
                LoadError::server("the end of the set cannot be written down", &error)
                    .hint("everything is loaded; the same command with `--resume` ends it")
            })?;
        Ok(LastJournal { connection, info: info.clone() })
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the server does not answer or does not want to.
    pub fn forget(mut self) -> LoadResult<()> {
        drop_journal(&mut self.connection).map_err(|error| not_forgotten(&self.info, &error))?;
        self.connection.close();
        Ok(())
    }
}
