//! Which entries of an archive are loaded: patterns matched against its own table of contents, and what belongs to what.

use std::collections::{BTreeSet, HashMap};

use pgkeep_format::archive::{DumpId, Section, TocEntry};
use regex::bytes::{Regex, RegexBuilder};

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::lexer::QualifiedName;
use super::request::LoadSelection;
use super::statements::{foreign_key, owner_of_sequence};
use crate::dump::patterns::Pattern;
use crate::quote;
use crate::restore::Contents;

/// The largest automaton that a pattern may become.
const MAX_PATTERN_SIZE: usize = 1 << 20;

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// For each entry.
    pub(super) entries: Vec<bool>,
    /// What was left out, and why.
    pub(super) left_out: Vec<String>,
    /// What chosen ones need, and is in the archive, and was not chosen.
    pub(super) needs: Vec<String>,
}

/// An entry in messages: kind, schema and name.
pub(super) fn label(entry: &TocEntry) -> String {
    match entry.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{} {}.{}", entry.desc, String::from_utf8_lossy(namespace), entry.tag),
        None => format!("{} {}", entry.desc, entry.tag),
    }
}

/// Whether it is a table or something that is read like one.
pub(super) fn is_relation(entry: &TocEntry) -> bool {
    matches!(&entry.desc[..], b"TABLE" | b"FOREIGN TABLE" | b"VIEW" | b"MATERIALIZED VIEW" | b"SEQUENCE")
}

/// Whether it is said of another entry.
fn is_about_another(entry: &TocEntry) -> bool {
    matches!(&entry.desc[..], b"COMMENT" | b"ACL" | b"SECURITY LABEL")
}

/// Rows, positions, large objects.
pub(super) fn is_data(entry: &TocEntry) -> bool {
    let about_large_objects = is_about_another(entry) && entry.tag.starts_with(b"LARGE OBJECT");
    about_large_objects
        || entry.had_dumper
        || matches!(
            &entry.desc[..],
            b"TABLE DATA"
                | b"BLOBS"
                | b"BLOB"
                | b"BLOB METADATA"
                | b"SEQUENCE SET"
                | b"MATERIALIZED VIEW DATA"
                | b"STATISTICS DATA"
        )
}

/// What belongs to which relation.
#[derive(Debug)]
pub(super) struct Belongings {
    /// For each entry the relation that it is a part of.
    owner: Vec<Option<usize>>,
    /// Parents and children of partitions, with the entry that attaches.
    attached: Vec<(usize, usize, usize)>,
}

impl Belongings {
    pub(super) fn of(contents: &Contents) -> Belongings {
        let entries = &contents.entries;
        let mut relations: HashMap<(&[u8], &[u8]), usize> = HashMap::new();
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| is_relation(entry)) {
            relations.insert((entry.namespace.as_deref().unwrap_or_default(), &entry.tag), index);
        }
        let mut owner = vec![None; entries.len()];
        let mut attached = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let mut parents = entry
                .dependencies
                .iter()
                .filter_map(|id| contents.index_of(*id))
                .filter(|parent| is_relation(&entries[*parent]));
            let mut same_schema =
                parents.clone().filter(|parent| entries[*parent].namespace == entry.namespace);
            owner[index] = match &entry.desc[..] {
                b"TABLE DATA"
                | b"MATERIALIZED VIEW DATA"
                | b"ROW SECURITY"
                | b"SEQUENCE SET"
                | b"SEQUENCE OWNED BY" => same_schema.find(|parent| entries[*parent].tag == entry.tag),
                b"DEFAULT" | b"CONSTRAINT" | b"CHECK CONSTRAINT" | b"FK CONSTRAINT" | b"TRIGGER"
                | b"RULE" | b"POLICY" => same_schema.find(|parent| {
                    let rest = entry.tag.strip_prefix(entries[*parent].tag.as_bytes());
                    rest.is_some_and(|rest| rest.first() == Some(&b' '))
                }),
                b"INDEX" => same_schema.next(),
                b"STATISTICS" | b"STATISTICS DATA" => parents.next(),
                // An identity's sequence depends on its table.
                b"SEQUENCE" => same_schema.find(|parent| entries[*parent].desc != "SEQUENCE"),
                _ => None,
            };
            if entry.desc == "TABLE ATTACH" {
                let parents: Vec<usize> = parents.collect();
                let child = parents.iter().copied().find(|parent| {
                    entries[*parent].tag == entry.tag && entries[*parent].namespace == entry.namespace
                });
                let parent = parents.iter().copied().find(|parent| Some(*parent) != child);
                attached.extend(child.zip(parent).map(|(child, parent)| (parent, child, index)));
            }
        }
        for (index, entry) in
            entries.iter().enumerate().filter(|(_, entry)| entry.desc == "SEQUENCE OWNED BY")
        {
            let definition = entry.definition.as_deref().unwrap_or_default();
            let table = owner_of_sequence(definition, contents.standard_strings).and_then(|table| {
                let schema = table.schema.or_else(|| entry.namespace.as_deref().map(<[u8]>::to_vec));
                relations.get(&(&schema.unwrap_or_default()[..], &table.name[..])).copied()
            });
            if let (Some(sequence), Some(table)) = (owner[index], table) {
                owner[sequence] = Some(table);
            }
        }
        Belongings { owner, attached }
    }

    pub(super) fn owner(&self, entry: usize) -> Option<usize> {
        self.owner.get(entry).copied().flatten()
    }

    /// The partitioned table that a partition is attached to.
    pub(super) fn parent(&self, child: usize) -> Option<usize> {
        self.attached.iter().find(|(_, found, _)| *found == child).map(|(parent, _, _)| *parent)
    }

    /// The relation at the end of the chain of owners.
    fn root(&self, entry: usize) -> Option<usize> {
        let owner = self.owner(entry)?;
        Some(self.owner(owner).unwrap_or(owner))
    }
}

/// Names that patterns fit.
#[derive(Debug)]
struct Names {
    /// The pattern, its parts (schema, if any, and name), and whether it fitted anything.
    patterns: Vec<(String, Option<Regex>, Regex, bool)>,
}

impl Names {
    fn parse(patterns: &[String], is_utf8: bool, most_dots: usize) -> LoadResult<Names> {
        let parse = |text: &String| {
            let pattern = Pattern::parse(text);
            if pattern.parts.len() > most_dots + 1 {
                return Err(LoadError::new(
                    LoadErrorKind::Usage,
                    format!("too many dots in the pattern `{text}`"),
                )
                .hint("write `schema.name`; put a name that has a dot into double quotes"));
            }
            let compiled = |(expression, _): &(String, String)| {
                RegexBuilder::new(&format!("^(?s:{expression})$"))
                    .unicode(is_utf8)
                    .size_limit(MAX_PATTERN_SIZE)
                    .build()
                    .map_err(|error| {
                        LoadError::new(LoadErrorKind::Usage, format!("the pattern `{text}` cannot be understood"))
                            .cause(error.to_string())
                            .hint("outside of double quotes `*` and `?` are wildcards, and the rest is a regular expression")
                    })
            };
            let parts = pattern.parts.iter().map(compiled).collect::<LoadResult<Vec<Regex>>>()?;
            let mut parts = parts.into_iter().rev();
            let name = parts.next();
            let schema = parts.next();
            name.map(|name| (text.clone(), schema, name, false))
                .ok_or_else(|| LoadError::new(LoadErrorKind::Usage, "an empty pattern").hint("write a name"))
        };
        Ok(Names { patterns: patterns.iter().map(parse).collect::<LoadResult<_>>()? })
    }

    fn fit(&mut self, schema: Option<&[u8]>, name: &[u8]) -> bool {
        let mut fits = false;
        for (_, schema_pattern, name_pattern, met) in &mut self.patterns {
            let fits_schema = schema_pattern
                .as_ref()
                .is_none_or(|pattern| schema.is_some_and(|schema| pattern.is_match(schema)));
            if fits_schema && name_pattern.is_match(name) {
                *met = true;
                fits = true;
            }
        }
        fits
    }

    fn all_met(&self, option: &str, what: &str) -> LoadResult<()> {
        match self.patterns.iter().find(|(.., met)| !met) {
            Some((text, ..)) => Err(LoadError::new(
                LoadErrorKind::NotFound,
                format!("`{option} {text}` fits no {what} of the archive"),
            )
            .hint("`pgkeep pg_restore --list FILE` shows what the archive holds")),
            None => Ok(()),
        }
    }
}

/// Decides. `is_there` says whether the database has a relation of that name (as it is called in the archive).
pub(super) fn choose(
    contents: &Contents,
    belongings: &Belongings,
    selection: &LoadSelection,
    is_there: &dyn Fn(&QualifiedName) -> bool,
) -> LoadResult<Chosen> {
    let entries = &contents.entries;
    let is_utf8 = contents.encoding == "UTF8";
    let mut schemas = Names::parse(&selection.schemas, is_utf8, 0)?;
    let mut exclude_schemas = Names::parse(&selection.exclude_schemas, is_utf8, 0)?;
    let mut tables = Names::parse(&selection.tables, is_utf8, 1)?;
    let mut exclude_tables = Names::parse(&selection.exclude_tables, is_utf8, 1)?;
    let mut by_table = vec![false; entries.len()];
    let mut excluded = vec![false; entries.len()];
    let mut chosen = vec![!selection.is_partial(); entries.len()];
    for (index, entry) in entries.iter().enumerate() {
        let namespace =
            if entry.desc == "SCHEMA" { Some(&entry.tag[..]) } else { entry.namespace.as_deref() };
        if let Some(namespace) = namespace {
            chosen[index] |= schemas.fit(None, namespace);
            excluded[index] |= exclude_schemas.fit(None, namespace);
        }
        if is_relation(entry) {
            by_table[index] = tables.fit(entry.namespace.as_deref(), &entry.tag);
            excluded[index] |= exclude_tables.fit(entry.namespace.as_deref(), &entry.tag);
        }
    }
    schemas.all_met("--schema", "schema")?;
    exclude_schemas.all_met("--exclude-schema", "schema")?;
    tables.all_met("--table", "table")?;
    exclude_tables.all_met("--exclude-table", "table")?;
    for index in 0..entries.len() {
        let owner = belongings.root(index);
        excluded[index] |= owner.is_some_and(|owner| excluded[owner]);
    }
    let mut state = State { contents, belongings, selection, by_table, excluded, chosen };
    state.expand();
    if selection.with_dependencies && selection.is_partial() {
        while state.pull_dependencies() {
            state.expand();
        }
    }
    let mut left_out = state.leave_out_foreign_keys(is_there);
    state.choose_attachments(&mut left_out);
    state.choose_schemas();
    state.follow();
    state.limit_to_parts();
    let needs = state.needs(is_there);
    Ok(Chosen { entries: state.chosen, left_out, needs })
}

struct State<'a> {
    contents: &'a Contents,
    belongings: &'a Belongings,
    selection: &'a LoadSelection,
    by_table: Vec<bool>,
    excluded: Vec<bool>,
    chosen: Vec<bool>,
}

impl State<'_> {
    fn indexes_of<'b>(&self, ids: &'b [DumpId]) -> impl Iterator<Item = usize> + use<'_, 'b> {
        ids.iter().filter_map(|id| self.contents.index_of(*id))
    }

    /// Partitions, owned sequences and parts of the chosen tables.
    fn expand(&mut self) {
        let entries = &self.contents.entries;
        let mut changed = true;
        while changed {
            changed = false;
            for (parent, child, _) in &self.belongings.attached {
                if self.by_table[*parent] && !self.by_table[*child] && !self.excluded[*child] {
                    self.by_table[*child] = true;
                    changed = true;
                }
            }
            for (index, _) in entries.iter().enumerate().filter(|(_, entry)| entry.desc == "SEQUENCE") {
                let owner = self.belongings.owner(index);
                if owner.is_some_and(|owner| self.by_table[owner]) && !self.by_table[index] {
                    self.by_table[index] = true;
                    changed = true;
                }
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            let belongs = self.belongings.owner(index).is_some_and(|owner| self.by_table[owner]);
            let is_part = belongs && self.is_wanted_part(index, entry);
            self.chosen[index] |= self.by_table[index] || is_part;
            self.chosen[index] &= !self.excluded[index];
        }
    }

    fn is_wanted_part(&self, index: usize, entry: &TocEntry) -> bool {
        let selection = self.selection;
        match &entry.desc[..] {
            b"INDEX" | b"STATISTICS" => selection.with_indexes,
            b"CONSTRAINT" | b"CHECK CONSTRAINT" | b"FK CONSTRAINT" => selection.with_constraints,
            b"TRIGGER" => selection.with_triggers,
            // A rule of a view may be the view itself.
            b"RULE" => {
                let owner = self.belongings.owner(index).map(|owner| &self.contents.entries[owner]);
                selection.with_triggers || owner.is_some_and(|owner| owner.desc == "VIEW")
            }
            // Who may see which rows is never left out.
            _ => true,
        }
    }

    /// Chooses what chosen entries before the data, and triggers, need. Whether there was something.
    fn pull_dependencies(&mut self) -> bool {
        let entries = &self.contents.entries;
        let mut found = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            if self.chosen[index] && (entry.section == Section::PreData || entry.desc == "TRIGGER") {
                found.extend(self.indexes_of(&entry.dependencies).filter(|need| !self.chosen[*need]));
            }
        }
        found.retain(|need| entries[*need].section == Section::PreData && !self.excluded[*need]);
        for need in &found {
            self.chosen[*need] = true;
            self.by_table[*need] |= is_relation(&entries[*need]);
        }
        !found.is_empty()
    }

    /// Foreign keys to tables that are nowhere go; they could not be made.
    fn leave_out_foreign_keys(&mut self, is_there: &dyn Fn(&QualifiedName) -> bool) -> Vec<String> {
        let mut left_out = Vec::new();
        let entries = &self.contents.entries;
        let names: BTreeSet<(&[u8], &[u8])> = entries
            .iter()
            .enumerate()
            .filter(|(index, entry)| self.chosen[*index] && is_relation(entry))
            .map(|(_, entry)| (entry.namespace.as_deref().unwrap_or_default(), &entry.tag[..]))
            .collect();
        for (index, entry) in entries.iter().enumerate() {
            if !self.chosen[index] || entry.desc != "FK CONSTRAINT" {
                continue;
            }
            let definition = entry.definition.as_deref().unwrap_or_default();
            let Some(key) = foreign_key(definition, self.contents.standard_strings) else { continue };
            let mut referenced = key.referenced;
            let schema = referenced.schema.take().or_else(|| entry.namespace.as_deref().map(<[u8]>::to_vec));
            referenced.schema = schema;
            let loaded =
                names.contains(&(referenced.schema.as_deref().unwrap_or_default(), &referenced.name[..]));
            if !loaded && !is_there(&referenced) {
                self.chosen[index] = false;
                let shown = quote::qualified(referenced.schema.as_deref(), &referenced.name);
                left_out.push(format!(
                    "{}: refers to {}, which is neither loaded nor in the database",
                    label(entry),
                    String::from_utf8_lossy(&shown)
                ));
            }
        }
        left_out
    }

    /// Partitions and their indexes are attached to what is loaded too.
    fn choose_attachments(&mut self, left_out: &mut Vec<String>) {
        let entries = &self.contents.entries;
        for (parent, child, attach) in &self.belongings.attached {
            let both = self.chosen[*parent] && self.chosen[*child];
            if self.chosen[*child] && !both {
                left_out.push(format!(
                    "{}: the partitioned table {} is not loaded",
                    label(&entries[*attach]),
                    entries[*parent].tag
                ));
            }
            self.chosen[*attach] = both;
        }
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.desc == "INDEX ATTACH") {
            let all = self.indexes_of(&entry.dependencies).all(|need| self.chosen[need]);
            self.chosen[index] = all;
        }
    }

    /// The schemas of what was chosen.
    fn choose_schemas(&mut self) {
        let entries = &self.contents.entries;
        let used: BTreeSet<&[u8]> = entries
            .iter()
            .enumerate()
            .filter(|(index, _)| self.chosen[*index])
            .filter_map(|(_, entry)| entry.namespace.as_deref())
            .collect();
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.desc == "SCHEMA") {
            self.chosen[index] |= used.contains(&entry.tag[..]);
        }
    }

    /// Comments, privileges and labels go with what they are about; so do constraints of domains and statistics of indexes.
    fn follow(&mut self) {
        let entries = &self.contents.entries;
        for (index, entry) in entries.iter().enumerate() {
            let follows = is_about_another(entry)
                || matches!(&entry.desc[..], b"STATISTICS DATA")
                || (self.belongings.owner(index).is_none()
                    && matches!(&entry.desc[..], b"CHECK CONSTRAINT" | b"CONSTRAINT"));
            if !follows {
                continue;
            }
            if entry.tag.starts_with(b"DATABASE ") && is_about_another(entry) {
                self.chosen[index] = !self.selection.is_partial();
                continue;
            }
            let mut parents =
                self.indexes_of(&entry.dependencies).filter(|parent| entries[*parent].desc != "ACL");
            let first = parents.next();
            let any = first.into_iter().chain(parents).any(|parent| self.chosen[parent]);
            // Privileges of what is built in are about nothing in the archive.
            self.chosen[index] = any || (first.is_none() && !self.selection.is_partial());
        }
    }

    fn limit_to_parts(&mut self) {
        for (index, entry) in self.contents.entries.iter().enumerate() {
            let is_special =
                matches!(&entry.desc[..], b"ENCODING" | b"STDSTRINGS" | b"SEARCHPATH" | b"<Init>");
            let is_data = is_data(entry);
            let is_other_part = (self.selection.schema_only && is_data)
                || (self.selection.data_only && (!is_data || entry.desc == "STATISTICS DATA"));
            self.chosen[index] &= !(is_special || is_other_part);
        }
    }

    /// What is needed and not chosen.
    fn needs(&self, is_there: &dyn Fn(&QualifiedName) -> bool) -> Vec<String> {
        if self.selection.data_only {
            return Vec::new();
        }
        let entries = &self.contents.entries;
        let mut needs = BTreeSet::new();
        for (_, entry) in entries.iter().enumerate().filter(|(index, _)| self.chosen[*index]) {
            for need in self.indexes_of(&entry.dependencies) {
                let needed = &entries[need];
                if self.chosen[need] || needed.section != Section::PreData || needed.desc == "SCHEMA" {
                    continue;
                }
                let name = QualifiedName {
                    schema: needed.namespace.as_deref().map(<[u8]>::to_vec),
                    name: needed.tag.as_bytes().to_vec(),
                };
                if !(is_relation(needed) && is_there(&name)) {
                    needs.insert(need);
                }
            }
        }
        needs.into_iter().map(|need| label(&entries[need])).collect()
    }
}
