//! Reading the catalogs: every object of every class, whether it is dumped or not.
//!
//! Each class is read by one query for the whole database. The order of the classes is stock's, since numbers of objects
//! come from it, and with them the order in which loops are looked for.

mod columns;
mod data;
mod decorations;
mod dependencies;
mod extensions;
mod functions;
mod indexes;
mod inheritance;
mod other_classes;
mod publications;
mod rules_and_triggers;
mod select;
mod statistics;
mod tables;
mod types;

use std::collections::HashMap;

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;
use pgkeep_wire::Row;

use super::define;
use super::model::{Id, Model, Parts};
use super::options::{DumpOptions, Selection};
use super::session::{Session, number, optional, text};

/// The last position of a sequence, and how it counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sequence {
    pub(crate) type_name: String,
    pub(crate) start: i64,
    pub(crate) increment: i64,
    pub(crate) maximum: i64,
    pub(crate) minimum: i64,
    pub(crate) cache: i64,
    pub(crate) cycles: bool,
    /// `None` when it was not read, or may not be read.
    pub(crate) position: Option<(i64, bool)>,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) model: Model,
    pub(crate) sequences: HashMap<u32, Sequence>,
    /// Things to tell the user.
    pub(crate) warnings: Vec<String>,
}

/// Reads the catalogs of one database.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    session: &'a mut Session,
    options: &'a DumpOptions,
    selection: &'a Selection,
    model: Model,
    warnings: Vec<String>,
}

impl<'a> Collector<'a> {
    /// Reads everything.
    pub(crate) fn run(
        session: &'a mut Session,
        options: &'a DumpOptions,
        selection: &'a Selection,
    ) -> Result<Collected> {
        let mut collector =
            Collector { session, options, selection, model: Model::default(), warnings: Vec::new() };
        collector.session.ask_ahead(dependencies::DEPENDENCIES);
        if options.schema {
            collector.session.ask_ahead(define::TYPE_NAMES);
        }
        collector.roles()?;
        let extensions = collector.extensions()?;
        collector.extension_members(&extensions)?;
        collector.schemas()?;
        collector.tables()?;
        collector.owned_sequences()?;
        collector.functions()?;
        collector.types()?;
        collector.languages()?;
        collector.aggregates()?;
        collector.operators()?;
        collector.access_methods()?;
        collector.operator_classes()?;
        collector.operator_families()?;
        collector.text_search()?;
        collector.foreign_data_wrappers()?;
        collector.foreign_servers()?;
        collector.default_privileges()?;
        collector.collations()?;
        collector.conversions()?;
        collector.casts()?;
        collector.transforms()?;
        let inherits = collector.inherits()?;
        collector.event_triggers()?;
        collector.configuration_tables(&extensions)?;
        collector.mark_inheritance(&inherits)?;
        let indexes = collector.indexes_query();
        collector.session.ask_ahead(&indexes);
        if let Some(views) = define::view_queries(&collector.model).filter(|_| options.schema) {
            collector.session.ask_ahead(&views);
        }
        collector.columns()?;
        collector.mark_inherited_columns();
        collector.unsafe_partitions()?;
        collector.indexes()?;
        collector.mark_inherited_indexes();
        collector.extended_statistics()?;
        collector.foreign_keys()?;
        collector.triggers()?;
        collector.rules()?;
        collector.policies()?;
        collector.publications()?;
        collector.subscriptions()?;
        collector.subscription_tables()?;
        collector.data()?;
        collector.large_objects()?;
        collector.dependencies()?;
        collector.additional_privileges()?;
        collector.comments()?;
        collector.security_labels()?;
        let sequences = collector.sequences()?;
        Ok(Collected { model: collector.model, sequences, warnings: collector.warnings })
    }

    fn roles(&mut self) -> Result<()> {
        let rows = self.session.query("SELECT oid, rolname FROM pg_catalog.pg_roles ORDER BY 1")?;
        for row in rows.iter() {
            self.model.roles.insert(row.parse("oid")?, text(row, "rolname")?);
        }
        Ok(())
    }

    /// The object of a schema's OID.
    fn schema(&self, oid: u32) -> Result<Id> {
        self.model
            .find(super::model::catalog::NAMESPACE, oid)
            .ok_or_else(|| pgkeep_tool::ToolError::catalog(format!("schema with OID {oid} does not exist")))
    }

    fn owner(&mut self, id: Id, oid: u32) -> Result<()> {
        let name = self.model.role(oid)?;
        self.model.get_mut(id).owner = name;
        Ok(())
    }

    /// Takes privileges from a row; an object has some when they are not NULL.
    fn privileges(&mut self, id: Id, row: Row<'_>, column: &str) -> Result<()> {
        let current = optional(row, column)?;
        let object = self.model.get_mut(id);
        if current.is_some() {
            object.present.add(Parts::PRIVILEGES);
        }
        object.privileges.current = current;
        object.privileges.default = text(row, "acldefault")?;
        Ok(())
    }
}

/// The catalog and the OID of a row.
fn catalog_id(row: Row<'_>) -> Result<CatalogId> {
    Ok(CatalogId { table_oid: number(row, "tableoid")?, oid: number(row, "oid")? })
}
