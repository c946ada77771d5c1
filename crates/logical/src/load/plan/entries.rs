//! The steps of each entry, one after the other in the order of the archive.

use std::collections::BTreeSet;

use pgkeep_format::archive::{DumpId, Section, TocEntry};

use super::{Basis, Builder, Lock, Phase, Step};
use crate::load::select::{Chosen, is_relation, label};
use crate::load::statements::about_database;
use crate::quote;
use crate::restore::{Pass, Wanted};

impl Builder<'_> {
    pub(super) fn is_done(&self, key: &str) -> bool {
        self.basis.facts.journal.as_ref().is_some_and(|journal| journal.done.contains(key))
    }

    pub(super) fn standard_strings(&self) -> bool {
        self.basis.contents.standard_strings
    }

    /// One after the other, in the order of the archive.
    pub(super) fn steps(&mut self, chosen: &Chosen) {
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

    pub(super) fn step(&self, index: usize, phase: Phase) -> Step {
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

    pub(super) fn push(&mut self, index: usize, step: Step) -> usize {
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

    pub(super) fn entry(&mut self, index: usize, section: Section) {
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
                for step in self.row_steps(index, &step) {
                    let number = self.push(index, step);
                    self.pieces_of.entry(index).or_default().push(number);
                    if let Some(table) = owner {
                        self.rows_of.entry(table).or_default().push(number);
                    }
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
}
