//! What a load does, decided from the archive's table of contents and from facts about the database, before anything is
//! written: steps, what each needs, what it locks.
//!
//! ```text
//! definitions ──► main: rows, indexes, keys, foreign keys, triggers ──► privileges ──► last: views' rows, ANALYZE ──► finish
//! one session     all sessions, by needs and locks                      one session    all sessions                    one transaction
//! ```

mod after;
mod entries;
mod keys;
mod rows;
mod step;

use std::collections::{BTreeMap, HashMap};

use pgkeep_format::archive::Text;
use serde::Serialize;

use super::request::LoadRequest;
use super::select::{Belongings, Chosen, is_data, label};
use super::target::TargetFacts;
use crate::restore::{Contents, Pieces};

pub(super) use step::{Lock, Phase, Rows, Step};

/// The largest that a session's memory for building indexes is made without being asked.
const MOST_MEMORY: u64 = 2 << 30;

/// What will be done.
#[derive(Debug, Clone, Serialize)]
pub struct LoadPlan {
    /// The database that is loaded.
    pub database: String,
    /// It is made.
    pub creates_database: bool,
    /// An interrupted load goes on: when it began.
    pub resumes: Option<String>,
    /// The database that the archive was made of.
    pub archive_database: String,
    /// When the archive was made, in the time of the machine that made it.
    pub archive_created: String,
    /// The version of the server that it was made of.
    pub archive_server: String,
    /// Sessions at once.
    pub jobs: u32,
    /// `maintenance_work_mem` of each session, in bytes; none where the server's own is kept.
    pub maintenance_work_mem: Option<u64>,
    /// Tables with rows.
    pub tables: Vec<PlannedTable>,
    /// How many objects of each kind.
    pub objects: BTreeMap<String, usize>,
    /// Keys that are made as indexes first.
    pub keys_in_steps: usize,
    /// Foreign keys that are validated after they were added.
    pub foreign_keys_in_steps: usize,
    /// Steps, and how many of them an earlier run did.
    pub steps: usize,
    /// Of these, done before.
    pub steps_done_before: usize,
    /// Chosen, but left out all the same, and why.
    pub left_out: Vec<String>,
    /// What chosen objects need, and is not chosen.
    pub needs: Vec<String>,
    #[serde(skip)]
    pub(super) work: Vec<Step>,
}

/// A table with rows in the archive.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedTable {
    /// `schema.name`
    pub table: String,
    /// Bytes in the archive, as they are stored there; 0 where it is not known.
    pub stored_bytes: u64,
}

/// What the plan is made from. Entries have their new names already.
pub(super) struct Basis<'a> {
    pub(super) contents: &'a Contents,
    pub(super) belongings: &'a Belongings,
    pub(super) request: &'a LoadRequest,
    pub(super) facts: &'a TargetFacts,
    /// Bytes of each entry's data.
    pub(super) sizes: &'a [u64],
    /// Rows that can be loaded piece by piece.
    pub(super) pieces: &'a Pieces,
    /// The database is one that the load makes.
    pub(super) owns_database: bool,
    /// When the archive was made.
    pub(super) created: String,
}

/// Memory for building indexes of each session; none: as the server has it.
fn memory_for_each(request: &LoadRequest, facts: &TargetFacts) -> Option<u64> {
    let jobs = u64::from(request.jobs.max(1));
    if let Some(all) = request.maintenance_memory {
        return Some((all / jobs).max(1 << 20));
    }
    // `shared_buffers` is commonly a quarter of a machine's memory, so as much again is there to be had.
    let share = (facts.shared_buffers / jobs).min(MOST_MEMORY);
    (share > facts.maintenance_work_mem).then_some(share)
}

/// Makes the plan.
pub(super) fn build(basis: &Basis<'_>, chosen: &Chosen) -> LoadPlan {
    let Basis { contents, request, facts, .. } = *basis;
    let mut builder = Builder {
        basis,
        steps: Vec::new(),
        last_of: vec![None; contents.entries.len()],
        rows_of: HashMap::new(),
        pieces_of: HashMap::new(),
        builds_of: HashMap::new(),
        relations: HashMap::new(),
        keys_in_steps: 0,
        foreign_keys_in_steps: 0,
    };
    builder.steps(chosen);
    builder.needs();
    let Builder { mut steps, keys_in_steps, foreign_keys_in_steps, .. } = builder;
    if let Some(journal) = &facts.journal {
        for step in &mut steps {
            step.done = journal.done.contains(&step.key);
        }
    }
    let mut stored: BTreeMap<usize, u64> = BTreeMap::new();
    for step in steps.iter().filter(|step| step.rows.is_some()) {
        *stored.entry(step.index).or_default() += step.stored;
    }
    let tables = stored.into_iter().map(|(index, stored_bytes)| {
        let label = label(&contents.entries[index]);
        let table = label.strip_prefix("TABLE DATA ").unwrap_or(&label).to_owned();
        PlannedTable { table, stored_bytes }
    });
    let mut tables: Vec<PlannedTable> = tables.collect();
    tables.sort_by(|one, other| {
        other.stored_bytes.cmp(&one.stored_bytes).then_with(|| one.table.cmp(&other.table))
    });
    let mut objects: BTreeMap<String, usize> = BTreeMap::new();
    let entries = chosen.entries.iter().zip(&contents.entries).filter(|(chosen, _)| **chosen);
    for (_, entry) in entries.filter(|(_, entry)| !is_data(entry)) {
        *objects.entry(entry.desc.to_string()).or_default() += 1;
    }
    let text = |text: &Option<Text>| text.as_ref().map(ToString::to_string).unwrap_or_default();
    LoadPlan {
        database: request.target.database().to_owned(),
        creates_database: !facts.exists,
        resumes: facts.journal.as_ref().map(|journal| journal.began.clone()),
        archive_database: text(&contents.header.database),
        archive_created: basis.created.clone(),
        archive_server: text(&contents.header.server_version),
        jobs: request.jobs,
        maintenance_work_mem: memory_for_each(request, facts),
        tables,
        objects,
        keys_in_steps,
        foreign_keys_in_steps,
        steps: steps.len(),
        steps_done_before: steps.iter().filter(|step| step.done).count(),
        left_out: chosen.left_out.clone(),
        needs: chosen.needs.clone(),
        work: steps,
    }
}

/// A plan in the making.
struct Builder<'a> {
    basis: &'a Basis<'a>,
    steps: Vec<Step>,
    /// The step with which an entry is there.
    last_of: Vec<Option<usize>>,
    /// Steps that load the rows of a table.
    rows_of: HashMap<usize, Vec<usize>>,
    /// Steps that load the rows of an entry.
    pieces_of: HashMap<usize, Vec<usize>>,
    /// Steps that build the indexes of a table.
    builds_of: HashMap<usize, Vec<usize>>,
    relations: HashMap<(Vec<u8>, Vec<u8>), usize>,
    keys_in_steps: usize,
    foreign_keys_in_steps: usize,
}
