//! From objects to entries: the SQL that makes each object, and what is said about it.
//!
//! Texts that only the server can give (views, expressions, functions) are fetched for the whole dump at once
//! ([`texts`]); what follows from them and the model is put together here. Every text is stock 18's to the letter.

mod aggregates;
mod binary_upgrade;
mod data;
mod database;
mod decorations;
mod foreign;
mod functions;
mod indexes;
mod large_objects;
mod operators;
mod other_classes;
mod policies;
mod records;
mod replication;
mod schemas;
mod sequences;
mod statistics;
mod tables;
mod text_search;
mod texts;
mod triggers;
mod types;
mod views;

use std::collections::{HashMap, HashSet};

use pgkeep_format::archive::{CatalogId, DumpId, Section, Text, TocEntry};
use pgkeep_tool::{Result, ToolError};

use super::collect::{Collected, Sequence};
use super::encoding::Encoding;
use super::model::{Id, Kind, Model, Parts};
use super::options::DumpOptions;
use super::session::Session;
use super::sql::Quoting;
use super::statistics::StatisticsSource;
use texts::Texts;
pub(super) use texts::{TYPE_NAMES, view_queries};

/// Where the data of an entry comes from.
#[derive(Debug, Clone)]
pub(crate) enum DataSource {
    /// Rows of a table.
    Rows(RowSource),
    /// Large objects with these OIDs.
    LargeObjects(Vec<u32>),
}

/// Rows of a table.
#[derive(Debug, Clone)]
pub(crate) struct RowSource {
    /// The table, quoted.
    pub(crate) table: String,
    /// The table's OID.
    pub(crate) oid: u32,
    /// The table's name alone, for messages.
    pub(crate) name: String,
    /// It is a foreign table.
    pub(crate) foreign: bool,
    /// About how many, for the order of work.
    pub(crate) pages: u64,
    pub(crate) how: Rows,
    /// A query for the rows that COPY gives, to which a condition on `ctid` can be added; none where rows have no fixed
    /// places, or cannot be asked for by them.
    pub(crate) ranged: Option<String>,
}

/// How rows are fetched.
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    /// By this COPY command.
    Copy(String),
    /// By a query, to be written as INSERT commands.
    Inserts(InsertSource),
}

/// Rows to be written as INSERT commands.
#[derive(Debug, Clone)]
pub(crate) struct InsertSource {
    pub(crate) query: String,
    /// Up to `VALUES`; all of it when there are no columns.
    pub(crate) command: String,
    /// Whether each column is generated.
    pub(crate) generated: Vec<bool>,
}

/// What a dump consists of.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) list: Vec<TocEntry>,
    pub(crate) data: HashMap<DumpId, DataSource>,
    /// Statistics, in the order of their entries.
    pub(crate) statistics: Vec<(DumpId, StatisticsSource)>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

/// An entry in the making; what is not set is NULL.
#[derive(Debug, Default)]
struct Draft {
    catalog: CatalogId,
    id: Option<Id>,
    tag: String,
    desc: &'static str,
    section: Option<Section>,
    definition: Option<String>,
    drop: Option<String>,
    copy: Option<String>,
    schema: Option<String>,
    tablespace: Option<String>,
    access_method: Option<String>,
    relkind: u8,
    owner: Option<String>,
    dependencies: Vec<Id>,
    data: Option<DataSource>,
}

/// Makes entries.
#[derive(Debug)]
struct Definer<'a> {
    options: &'a DumpOptions,
    quoting: Quoting,
    encoding: Encoding,
    model: &'a mut Model,
    sequences: &'a HashMap<u32, Sequence>,
    texts: Texts,
    entries: Entries,
}

/// The entries of all objects, in their order.
pub(crate) fn define(
    session: &mut Session,
    options: &DumpOptions,
    collected: &mut Collected,
    order: &[Id],
) -> Result<Entries> {
    let model = &mut collected.model;
    for id in order {
        let object = model.get_mut(*id);
        object.wanted = object.wanted.and(object.present);
    }
    let texts = Texts::fetch(session, options, model, order)?;
    let mut definer = Definer {
        options,
        quoting: session.quoting,
        encoding: session.encoding.clone(),
        model,
        sequences: &collected.sequences,
        texts,
        entries: Entries::default(),
    };
    definer.first_entries(session)?;
    if options.create_database {
        definer.database(session)?;
    }
    for id in order {
        definer.object(*id)?;
    }
    Ok(definer.entries)
}

impl Definer<'_> {
    fn object(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        if object.wanted.is_empty() {
            return Ok(());
        }
        match &object.kind {
            Kind::TableData(_) => self.table_data(id),
            Kind::SequenceSet(_) => self.sequence_set(id),
            Kind::MatviewRefresh(_) => self.matview_refresh(id),
            Kind::LargeObjects { .. } => self.large_objects(id),
            Kind::LargeObjectData { metadata } => {
                let metadata = *metadata;
                self.large_object_data(id, metadata);
                Ok(())
            }
            Kind::Statistics(_) => {
                self.relation_statistics(id);
                Ok(())
            }
            _ if !self.options.schema => Ok(()),
            Kind::Schema { .. } => self.schema(id),
            Kind::Extension(_) => self.extension(id),
            Kind::Type(_) => self.type_of_any_kind(id),
            Kind::ShellType { .. } => self.shell_type(id),
            Kind::Function(_) => self.function(id),
            Kind::Table(_) => self.table(id),
            Kind::TableAttach { .. } => self.table_attach(id),
            Kind::Default(_) => self.column_default(id),
            Kind::Index(_) => self.index(id),
            Kind::IndexAttach { .. } => self.index_attach(id),
            Kind::ExtendedStatistics { .. } => self.extended_statistics(id),
            Kind::Rule(_) => self.rule(id),
            Kind::Trigger(_) => self.trigger(id),
            Kind::Constraint(_) | Kind::ForeignKey(_) => self.constraint(id),
            Kind::Aggregate(_) => self.aggregate(id),
            Kind::Operator { .. } => self.operator(id),
            Kind::OperatorClass { .. } => self.operator_class(id),
            Kind::OperatorFamily { .. } => self.operator_family(id),
            Kind::AccessMethod => self.access_method(id),
            Kind::Collation { .. } => self.collation(id),
            Kind::Conversion => self.conversion(id),
            Kind::Language => self.language(id),
            Kind::Cast => self.cast(id),
            Kind::Transform => self.transform(id),
            Kind::TextSearchParser => self.text_search_parser(id),
            Kind::TextSearchDictionary => self.text_search_dictionary(id),
            Kind::TextSearchTemplate => self.text_search_template(id),
            Kind::TextSearchConfiguration => self.text_search_configuration(id),
            Kind::ForeignDataWrapper => self.foreign_data_wrapper(id),
            Kind::ForeignServer => self.foreign_server(id),
            Kind::DefaultPrivileges { .. } => self.default_privileges(id),
            Kind::EventTrigger => self.event_trigger(id),
            Kind::Policy { .. } => self.policy(id),
            Kind::Publication => self.publication(id),
            Kind::PublicationTable { .. } => self.publication_table(id),
            Kind::PublicationSchema { .. } => self.publication_schema(id),
            Kind::Subscription => self.subscription(id),
            Kind::SubscriptionTable(_) => {
                self.subscription_table(id);
                Ok(())
            }
            // These come into being with others, or stand for places.
            Kind::DummyType(_) | Kind::PreDataBoundary | Kind::PostDataBoundary => Ok(()),
        }
    }

    fn add(&mut self, mut draft: Draft) -> Id {
        if let Some(membership) = self.membership(&draft) {
            draft.definition.get_or_insert_default().push_str(&membership);
        }
        let id = draft.id.unwrap_or_else(|| self.model.next_id());
        let encode = |text: &str| Text::from(&*self.encoding.lower(text));
        let text = |value: Option<String>| value.map(|value| encode(&value));
        let dump_id = DumpId(id.0);
        self.entries.list.push(TocEntry {
            dump_id,
            had_dumper: draft.data.is_some(),
            catalog_id: draft.catalog,
            tag: encode(&draft.tag),
            desc: draft.desc.into(),
            section: draft.section.unwrap_or(Section::None),
            definition: text(draft.definition),
            drop_statement: text(draft.drop),
            copy_statement: text(draft.copy),
            namespace: text(draft.schema),
            tablespace: text(draft.tablespace),
            table_access_method: text(draft.access_method),
            relkind: draft.relkind,
            owner: text(draft.owner),
            dependencies: draft.dependencies.iter().map(|id| DumpId(id.0)).collect(),
            with_oids: false,
            data: pgkeep_format::archive::DataLocation::None,
        });
        if let Some(source) = draft.data {
            self.entries.data.insert(dump_id, source);
        }
        id
    }

    /// The beginnings of an entry for an object of the pre-data section.
    fn draft(&self, id: Id, desc: &'static str) -> Draft {
        let object = self.model.get(id);
        Draft {
            catalog: object.catalog,
            id: Some(id),
            tag: object.name.clone(),
            desc,
            section: Some(Section::PreData),
            schema: object.schema.map(|schema| self.model.get(schema).name.clone()),
            owner: Some(object.owner.clone()),
            ..Draft::default()
        }
    }

    /// `schema.name`, quoted where it must be.
    fn qualified(&self, id: Id) -> String {
        self.quoting.qualified(self.model.schema_name(id), &self.model.get(id).name)
    }

    /// The name alone, quoted where it must be.
    fn name(&self, id: Id) -> String {
        self.quoting.name(&self.model.get(id).name)
    }

    fn wants(&self, id: Id, part: Parts) -> bool {
        self.model.get(id).wanted.has(part)
    }

    /// A type as `format_type` writes it without a modifier.
    fn type_name(&self, oid: u32) -> Result<&str> {
        self.texts
            .type_names
            .get(&oid)
            .map(String::as_str)
            .ok_or_else(|| ToolError::catalog(format!("type with OID {oid} does not exist")))
    }

    /// ` COLLATE c`, or nothing.
    fn collate(&self, collation: u32) -> String {
        match self.model.find(super::model::catalog::COLLATION, collation) {
            Some(id) => format!(" COLLATE {}", self.qualified(id)),
            None => String::new(),
        }
    }

    /// `ALTER … DEPENDS ON EXTENSION` for each extension that the object was said to depend on.
    fn depends_on_extension(&self, id: Id, keyword: &str, name: &str) -> String {
        let catalog = self.model.get(id).catalog;
        let extensions = self.texts.depends_on_extension.get(&catalog).map_or(&[][..], Vec::as_slice);
        extensions
            .iter()
            .map(|extension| {
                format!("\nALTER {keyword} {name} DEPENDS ON EXTENSION {};", self.quoting.name(extension))
            })
            .collect()
    }

    fn options_list(&self, array: &str, prefix: &str) -> Result<String> {
        self.quoting
            .options(array, prefix)
            .ok_or_else(|| ToolError::catalog("could not parse reloptions array"))
    }
}

/// Whether there is an option in an array of them.
fn has_options(array: Option<&str>) -> bool {
    array.is_some_and(|array| array.len() > 2)
}

/// Gives every entry that has none yet the nearest entries of the list that its object depends on.
pub(crate) fn add_dependencies(model: &Model, entries: &mut [TocEntry]) {
    let listed: HashSet<DumpId> = entries.iter().map(|entry| entry.dump_id).collect();
    for entry in entries {
        if !entry.dependencies.is_empty() {
            continue;
        }
        let Some(object) = model.find_id(Id(entry.dump_id.0)) else { continue };
        let mut found = Vec::new();
        // Objects without an entry stand for what they depend on themselves. Loops are broken, so this ends.
        let mut rest: Vec<Id> = object.dependencies.iter().rev().copied().collect();
        while let Some(id) = rest.pop() {
            if listed.contains(&DumpId(id.0)) {
                found.push(DumpId(id.0));
                continue;
            }
            let Some(object) = model.find_id(id) else { continue };
            // Through a boundary everything would depend on everything.
            if !matches!(object.kind, Kind::PreDataBoundary | Kind::PostDataBoundary) {
                rest.extend(object.dependencies.iter().rev());
            }
        }
        entry.dependencies = found;
    }
}
