//! What a load does, decided from the archive's table of contents and from facts about the database, before anything is
//! written: steps, what each needs, what it locks.
//!
//! ```text
//! definitions ──► main: rows, indexes, keys, foreign keys, triggers ──► privileges ──► last: views' rows, ANALYZE ──► finish
//! one session     all sessions, by needs and locks                      one session    all sessions                    one transaction
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pgkeep_format::archive::{DumpId, Section, Text, TocEntry};
use serde::Serialize;

use super::lexer::QualifiedName;
use super::request::LoadRequest;
use super::select::{Belongings, Chosen, is_data, is_relation, label};
use super::statements::{about_database, foreign_key, is_partitioned, is_unlogged, key_in_steps};
use super::target::TargetFacts;
use crate::quote;
use crate::restore::{Contents, Pass, Wanted, loads_through_root};

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

/// When a step is done, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Definitions,
    Main,
    Privileges,
    Last,
    Finish,
}

/// How a step locks a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// It reads.
    Read,
    /// It builds an index.
    Build,
    /// It validates a constraint.
    Validate,
    /// Nothing else may run.
    Exclusive,
}

impl Lock {
    pub(super) fn conflicts(self, other: Lock) -> bool {
        match (self, other) {
            (Lock::Exclusive, _) | (_, Lock::Exclusive) => true,
            (Lock::Read, _) | (_, Lock::Read) | (Lock::Build, Lock::Build) => false,
            _ => true,
        }
    }
}

/// How rows are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    /// Truncating in the same transaction spares WAL.
    pub(super) truncate: bool,
    /// A crash of the server empties the table.
    pub(super) unlogged: bool,
}

/// One transaction.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// In the journal.
    pub(super) key: String,
    /// For people.
    pub(super) label: String,
    /// The entry that it is of.
    pub(super) index: usize,
    /// What is done in place of the entry.
    pub(super) instead: Option<Box<TocEntry>>,
    pub(super) wanted: Wanted,
    /// It loads rows.
    pub(super) rows: Option<Rows>,
    pub(super) phase: Phase,
    /// Steps of the same phase that come before.
    pub(super) needs: Vec<usize>,
    /// By entries of tables.
    pub(super) locks: Vec<(usize, Lock)>,
    /// About how long it takes, in bytes of the archive.
    pub(super) weight: u64,
    /// Bytes of the archive that it reads.
    pub(super) stored: u64,
    /// It does no harm twice, and a crash may undo it: it is never written down.
    pub(super) repeats: bool,
    /// An earlier run did it.
    pub(super) done: bool,
}

impl Step {
    pub(super) fn entry<'a>(&'a self, contents: &'a Contents) -> &'a TocEntry {
        self.instead.as_deref().unwrap_or(&contents.entries[self.index])
    }
}

/// What the plan is made from. Entries have their new names already.
pub(super) struct Basis<'a> {
    pub(super) contents: &'a Contents,
    pub(super) belongings: &'a Belongings,
    pub(super) request: &'a LoadRequest,
    pub(super) facts: &'a TargetFacts,
    /// Bytes of each entry's data.
    pub(super) sizes: &'a [u64],
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
    let mut tables: Vec<PlannedTable> = steps
        .iter()
        .filter(|step| step.rows.is_some())
        .map(|step| {
            let table = step.label.strip_prefix("TABLE DATA ").unwrap_or(&step.label);
            PlannedTable { table: table.to_owned(), stored_bytes: step.stored }
        })
        .collect();
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

struct Builder<'a> {
    basis: &'a Basis<'a>,
    steps: Vec<Step>,
    /// The step with which an entry is there.
    last_of: Vec<Option<usize>>,
    /// Steps that load the rows of a table.
    rows_of: HashMap<usize, Vec<usize>>,
    /// Steps that build the indexes of a table.
    builds_of: HashMap<usize, Vec<usize>>,
    relations: HashMap<(Vec<u8>, Vec<u8>), usize>,
    keys_in_steps: usize,
    foreign_keys_in_steps: usize,
}

impl Builder<'_> {
    fn is_done(&self, key: &str) -> bool {
        self.basis.facts.journal.as_ref().is_some_and(|journal| journal.done.contains(key))
    }

    fn standard_strings(&self) -> bool {
        self.basis.contents.standard_strings
    }

    /// One after the other, in the order of the archive.
    fn steps(&mut self, chosen: &Chosen) {
        let contents = self.basis.contents;
        for (index, entry) in contents.entries.iter().enumerate().filter(|(_, entry)| is_relation(entry)) {
            let schema = entry.namespace.as_deref().unwrap_or_default().to_vec();
            self.relations.insert((schema, entry.tag.as_bytes().to_vec()), index);
        }
        self.schemas_without_entry(chosen);
        let mut schemas_there: BTreeSet<usize> = BTreeSet::new();
        let mut section = Section::PreData;
        for (index, entry) in contents.entries.iter().enumerate() {
            if entry.section != Section::None {
                section = entry.section;
            }
            if !chosen.entries[index] {
                continue;
            }
            if entry.desc == "SCHEMA" && !self.schema(index, &mut schemas_there) {
                continue;
            }
            let is_of_schema_there = matches!(&entry.desc[..], b"ACL" | b"COMMENT" | b"SECURITY LABEL")
                && entry
                    .dependencies
                    .iter()
                    .filter_map(|id| contents.index_of(*id))
                    .any(|need| schemas_there.contains(&need));
            if is_of_schema_there {
                continue;
            }
            self.entry(index, section);
        }
        if !self.basis.request.no_analyze && !self.basis.request.selection.schema_only {
            self.analyze(chosen);
        }
    }

    /// Schemas that objects are in and that the archive does not make: dumps of single tables have none, and `public` is
    /// made by nobody, unless it has another name now.
    fn schemas_without_entry(&mut self, chosen: &Chosen) {
        let Basis { contents, facts, request, .. } = *self.basis;
        if request.selection.data_only {
            return;
        }
        let mut made: BTreeSet<&[u8]> = BTreeSet::from([&b"pg_catalog"[..], b"information_schema"]);
        if !facts.exists {
            made.insert(b"public");
        }
        made.extend(facts.schemas.iter().map(Vec::as_slice));
        let entries = || contents.entries.iter().zip(&chosen.entries).filter(|(_, chosen)| **chosen);
        let is_made =
            |entry: &TocEntry| !entry.definition.as_deref().is_some_and(|text| text.starts_with(b"--"));
        made.extend(
            entries()
                .filter(|(entry, _)| entry.desc == "SCHEMA" && is_made(entry))
                .map(|(entry, _)| &entry.tag[..]),
        );
        let missing: BTreeSet<&[u8]> = entries()
            .filter_map(|(entry, _)| entry.namespace.as_deref())
            .filter(|name| !name.is_empty() && !made.contains(name))
            .collect();
        for name in missing {
            let mut instead = TocEntry::new(DumpId(0), "SCHEMA", name, Section::PreData);
            instead.definition =
                Some([b"CREATE SCHEMA ", &quote::identifier(name)[..], b";\n"].concat().into());
            let mut step = self.step(0, Phase::Definitions);
            step.key = format!("schema {}", String::from_utf8_lossy(name));
            step.label = label(&instead);
            step.instead = Some(Box::new(instead));
            step.wanted = Wanted { schema: true, ..Wanted::default() };
            step.stored = 0;
            self.steps.push(step);
        }
    }

    /// A schema that was there before: nothing of it is touched, unless it is the empty database's own. Whether the entry is
    /// still to be handled as others are.
    fn schema(&mut self, index: usize, there: &mut BTreeSet<usize>) -> bool {
        let Basis { contents, facts, request, .. } = *self.basis;
        let entry = &contents.entries[index];
        let key = entry.dump_id.to_string();
        if !facts.schemas.contains(entry.tag.as_bytes()) || self.is_done(&key) {
            return true;
        }
        if request.into_existing {
            there.insert(index);
            return false;
        }
        let mut step = self.step(index, Phase::Definitions);
        let mut instead = entry.clone();
        if !entry.definition.as_deref().is_some_and(|text| text.starts_with(b"--")) {
            instead.definition = Some("-- the schema is there\n".into());
        }
        step.instead = Some(Box::new(instead));
        self.push(index, step);
        false
    }

    fn step(&self, index: usize, phase: Phase) -> Step {
        let entry = &self.basis.contents.entries[index];
        let is_statistics = entry.desc == "STATISTICS DATA";
        Step {
            key: entry.dump_id.to_string(),
            label: label(entry),
            index,
            instead: None,
            wanted: Wanted {
                schema: !entry.had_dumper && !is_statistics,
                data: entry.had_dumper && !is_statistics,
                statistics: is_statistics,
                special: false,
            },
            rows: None,
            phase,
            needs: Vec::new(),
            locks: Vec::new(),
            weight: 1,
            stored: if entry.had_dumper { self.basis.sizes[index] } else { 0 },
            repeats: entry.desc == "SEQUENCE SET",
            done: false,
        }
    }

    fn push(&mut self, index: usize, step: Step) -> usize {
        self.steps.push(step);
        self.last_of[index] = Some(self.steps.len() - 1);
        self.steps.len() - 1
    }

    fn phase(&self, index: usize, section: Section) -> Phase {
        let entry = &self.basis.contents.entries[index];
        match Pass::of(entry) {
            Pass::Privileges => return Phase::Privileges,
            // Event triggers and what is said of them.
            Pass::Last if matches!(&entry.desc[..], b"EVENT TRIGGER" | b"COMMENT" | b"SECURITY LABEL") => {
                return Phase::Finish;
            }
            Pass::Last => return Phase::Last,
            Pass::Main => {}
        }
        let needed = entry.dependencies.iter().filter_map(|id| self.basis.contents.index_of(*id));
        let after = needed.filter_map(|need| self.last_of[need]).map(|step| self.steps[step].phase).max();
        match entry.section {
            Section::None if section == Section::PreData => Phase::Definitions,
            Section::PreData => Phase::Definitions,
            Section::None if after.is_none_or(|after| after == Phase::Definitions) => Phase::Definitions,
            _ => Phase::Main,
        }
    }

    fn entry(&mut self, index: usize, section: Section) {
        let Basis { contents, belongings, facts, request, .. } = *self.basis;
        let entry = &contents.entries[index];
        let is_of_database = entry.tag.starts_with(b"DATABASE ")
            && matches!(&entry.desc[..], b"ACL" | b"COMMENT" | b"SECURITY LABEL");
        match &entry.desc[..] {
            b"DATABASE" | b"DATABASE PROPERTIES" => return self.database(index),
            _ if is_of_database => return self.database(index),
            b"ACL" | b"ACL LANGUAGE" | b"DEFAULT ACL" if request.no_privileges => return,
            b"STATISTICS DATA" if facts.major < 18 => return,
            _ => {}
        }
        let mut step = self.step(index, self.phase(index, section));
        let owner = belongings.owner(index);
        let size = owner.map_or(0, |table| self.size_of_table(table));
        match &entry.desc[..] {
            b"TABLE DATA" => {
                step.weight = self.basis.sizes[index].max(1);
                step.rows = Some(self.rows(index));
                let number = self.push(index, step);
                if let Some(table) = owner {
                    self.rows_of.entry(table).or_default().push(number);
                }
                return;
            }
            b"INDEX" => {
                step.weight = size / 2 + 1;
                step.locks.extend(owner.map(|table| (table, Lock::Build)));
                let number = self.push(index, step);
                if let Some(table) = owner {
                    self.builds_of.entry(table).or_default().push(number);
                }
                return;
            }
            b"CONSTRAINT" => {
                if let Some(table) = owner
                    && self.key_in_steps(index, table, size)
                {
                    return;
                }
                step.weight = size / 2 + 1;
            }
            b"FK CONSTRAINT" => {
                if self.foreign_key_in_steps(index, size) {
                    return;
                }
                step.weight = size / 4 + 1;
            }
            b"BLOBS" => step.weight = self.basis.sizes[index].max(1),
            _ => {}
        }
        if step.phase == Phase::Main && entry.section == Section::PostData {
            step.locks = self.tables_of(index);
        }
        self.push(index, step);
    }

    /// Everything that is done to a database itself, if it is ours.
    fn database(&mut self, index: usize) {
        let Basis { contents, request, owns_database, .. } = *self.basis;
        let entry = &contents.entries[index];
        if !owns_database || request.selection.is_partial() || (entry.desc == "ACL" && request.no_privileges)
        {
            return;
        }
        let mut instead = entry.clone();
        let database = request.target.database().as_bytes();
        let old = contents
            .entries
            .iter()
            .find(|entry| entry.desc == "DATABASE")
            .map_or_else(|| contents.header.database.clone().unwrap_or_default(), |entry| entry.tag.clone());
        let definition = if entry.desc == "DATABASE" {
            let Some(owner) = entry.owner.as_deref().filter(|owner| !owner.is_empty() && !request.no_owner)
            else {
                return;
            };
            [
                b"ALTER DATABASE ",
                &quote::identifier(database)[..],
                b" OWNER TO ",
                &quote::identifier(owner),
                b";\n",
            ]
            .concat()
        } else {
            about_database(
                entry.definition.as_deref().unwrap_or_default(),
                &old,
                database,
                self.standard_strings(),
            )
        };
        instead.definition = Some(definition.into());
        if entry.desc == "DATABASE" || entry.desc == "DATABASE PROPERTIES" {
            // The kind has a meaning of its own for whoever restores it: a new session in that database.
            instead.desc = "SETTINGS OF DATABASE".into();
        }
        instead.owner = None;
        instead.drop_statement = None;
        let mut step = self.step(index, Phase::Finish);
        step.instead = Some(Box::new(instead));
        self.push(index, step);
    }

    fn rows(&self, index: usize) -> Rows {
        let Basis { contents, facts, belongings, request, .. } = *self.basis;
        let entry = &contents.entries[index];
        let table = belongings.owner(index);
        let name = quote::qualified(entry.namespace.as_deref(), &entry.tag);
        let is_made = table.is_some_and(|table| self.last_of[table].is_some());
        let is_copy = entry.copy_statement.as_deref().is_some_and(|copy| !copy.is_empty());
        Rows {
            truncate: facts.wal_is_minimal
                && is_made
                && is_copy
                && !request.into_existing
                && !loads_through_root(entry, &name),
            unlogged: table.is_some_and(|table| is_unlogged(&contents.entries[table])),
        }
    }

    fn size_of_table(&self, table: usize) -> u64 {
        let rows = self.rows_of.get(&table).map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(|step| self.steps[*step].stored).sum()
    }

    /// The tables that an entry after the data is taken to lock.
    fn tables_of(&self, index: usize) -> Vec<(usize, Lock)> {
        let contents = self.basis.contents;
        let entry = &contents.entries[index];
        let needed = entry.dependencies.iter().filter_map(|id| contents.index_of(*id));
        let tables = needed.filter_map(|need| {
            let is_rows = contents.entries[need].desc == "TABLE DATA";
            if is_rows {
                self.basis.belongings.owner(need)
            } else {
                is_relation(&contents.entries[need]).then_some(need)
            }
        });
        tables.map(|table| (table, Lock::Exclusive)).collect()
    }

    fn with_definition(&self, index: usize, definition: Vec<u8>) -> Option<Box<TocEntry>> {
        let mut instead = self.basis.contents.entries[index].clone();
        instead.definition = Some(definition.into());
        Some(Box::new(instead))
    }

    fn key_in_steps(&mut self, index: usize, table: usize, size: u64) -> bool {
        let contents = self.basis.contents;
        let standard_strings = self.standard_strings();
        let definition = contents.entries[index].definition.as_deref().unwrap_or_default();
        let key = key_in_steps(definition, standard_strings)
            .filter(|_| !is_partitioned(&contents.entries[table], standard_strings));
        let Some(key) = key else { return false };
        let mut build = self.step(index, Phase::Main);
        build.key.push_str(".index");
        build.label = format!("index of {}", build.label);
        build.instead = self.with_definition(index, key.build);
        build.weight = size / 2 + 1;
        build.locks.push((table, Lock::Build));
        self.steps.push(build);
        let built = self.steps.len() - 1;
        self.builds_of.entry(table).or_default().push(built);
        let mut attach = self.step(index, Phase::Main);
        attach.instead = self.with_definition(index, key.attach);
        attach.needs.push(built);
        attach.locks.push((table, Lock::Exclusive));
        self.push(index, attach);
        self.keys_in_steps += 1;
        true
    }

    fn foreign_key_in_steps(&mut self, index: usize, size: u64) -> bool {
        let Basis { contents, belongings, .. } = *self.basis;
        let standard_strings = self.standard_strings();
        let entry = &contents.entries[index];
        let definition = entry.definition.as_deref().unwrap_or_default();
        let Some(key) = foreign_key(definition, standard_strings) else { return false };
        let QualifiedName { schema, name } = key.referenced;
        let schema = schema.or_else(|| entry.namespace.as_deref().map(<[u8]>::to_vec)).unwrap_or_default();
        let referenced = self.relations.get(&(schema, name)).copied();
        let (Some(steps), Some(table), Some(referenced)) =
            (key.in_steps, belongings.owner(index), referenced)
        else {
            return false;
        };
        // Partitions would have keys of their own that stay not valid.
        if [table, referenced].iter().any(|table| is_partitioned(&contents.entries[*table], standard_strings))
        {
            return false;
        }
        let mut add = self.step(index, Phase::Main);
        add.key.push_str(".add");
        add.label = format!("{}, not valid yet", add.label);
        add.instead = self.with_definition(index, steps.add);
        add.locks = vec![(table, Lock::Exclusive), (referenced, Lock::Exclusive)];
        self.steps.push(add);
        let added = self.steps.len() - 1;
        let mut validate = self.step(index, Phase::Main);
        validate.instead = self.with_definition(index, steps.validate);
        validate.needs.push(added);
        validate.weight = size / 4 + 1;
        validate.locks = vec![(table, Lock::Validate), (referenced, Lock::Read)];
        self.push(index, validate);
        self.foreign_keys_in_steps += 1;
        true
    }

    /// Statistics for the planner, of every table that got rows and whose statistics the archive does not bring.
    fn analyze(&mut self, chosen: &Chosen) {
        let Basis { contents, belongings, facts, .. } = *self.basis;
        let brought: BTreeSet<usize> = (0..contents.entries.len())
            .filter(|index| {
                chosen.entries[*index]
                    && contents.entries[*index].desc == "STATISTICS DATA"
                    && facts.major >= 18
            })
            .filter_map(|index| belongings.owner(index))
            .collect();
        let mut targets: BTreeMap<usize, &str> = BTreeMap::new();
        for table in self.rows_of.keys().copied() {
            let mut root = table;
            let mut seen = BTreeSet::new();
            while let Some(parent) = belongings.parent(root).filter(|parent| seen.insert(*parent)) {
                if facts.major >= 18 && chosen.entries[parent] {
                    targets.insert(parent, "ANALYZE ONLY ");
                }
                root = parent;
            }
            // Before 18 there is no way to look at a partitioned table but with all that it has.
            let whole = if facts.major < 18 && chosen.entries[root] { root } else { table };
            targets.entry(whole).or_insert("ANALYZE ");
        }
        for (index, entry) in contents.entries.iter().enumerate() {
            if chosen.entries[index] && entry.desc == "MATERIALIZED VIEW DATA" {
                targets.extend(belongings.owner(index).map(|view| (view, "ANALYZE ")));
            }
        }
        for (table, verb) in targets.into_iter().filter(|(table, _)| !brought.contains(table)) {
            let entry = &contents.entries[table];
            let mut instead = TocEntry::new(entry.dump_id, "ANALYZE", entry.tag.clone(), Section::PostData);
            let name = quote::qualified(entry.namespace.as_deref(), &entry.tag);
            instead.definition = Some([verb.as_bytes(), &name, b";\n"].concat().into());
            instead.namespace.clone_from(&entry.namespace);
            let mut step = self.step(table, Phase::Last);
            step.key.push_str(".analyze");
            step.label = label(&instead);
            step.weight = self.size_of_table(table) / 16 + 1;
            let refresh = contents.entries.iter().enumerate().find(|(index, entry)| {
                entry.desc == "MATERIALIZED VIEW DATA" && belongings.owner(*index) == Some(table)
            });
            step.needs.extend(refresh.and_then(|(index, _)| self.last_of[index]));
            step.instead = Some(Box::new(instead));
            step.wanted = Wanted { schema: true, ..Wanted::default() };
            self.steps.push(step);
        }
    }

    /// What every step waits for, from the dependencies of the archive.
    fn needs(&mut self) {
        let contents = self.basis.contents;
        for number in 0..self.steps.len() {
            let step = &self.steps[number];
            if !step.key.ends_with(".index")
                && !step.key.chars().all(|digit| digit.is_ascii_digit())
                && !step.key.ends_with(".add")
            {
                // Not of an entry.
                continue;
            }
            let entry = &contents.entries[step.index];
            let mut needs = step.needs.clone();
            let is_attach =
                step.instead.is_some() && entry.desc == "CONSTRAINT" && !step.key.ends_with(".index");
            for need in entry.dependencies.iter().filter_map(|id| contents.index_of(*id)) {
                match self.rows_of.get(&need).filter(|_| entry.section == Section::PostData) {
                    Some(rows) => needs.extend(rows),
                    None => needs.extend(self.last_of[need]),
                }
            }
            if is_attach && let Some(table) = self.basis.belongings.owner(step.index) {
                // It locks builders out, and would wait for them.
                needs.extend(self.builds_of.get(&table).into_iter().flatten());
            }
            let phase = step.phase;
            needs.sort_unstable();
            needs.dedup();
            needs.retain(|need| *need != number && self.steps[*need].phase == phase);
            self.steps[number].needs = needs;
        }
    }
}
