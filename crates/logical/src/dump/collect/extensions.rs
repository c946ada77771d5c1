//! Extensions, what belongs to them, and their configuration tables; schemas.

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::{Result, ToolError};

use super::{Collector, catalog_id};
use crate::dump::model::{Extension, Id, Kind, Parts, catalog};
use crate::dump::session::{number, text};
use crate::dump::sql::{array_item, parse_array};

impl Collector<'_> {
    pub(super) fn extensions(&mut self) -> Result<Vec<Id>> {
        let rows = self.session.query(
            "SELECT x.tableoid, x.oid, x.extname, n.nspname, x.extconfig, x.extcondition \
             FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace",
        )?;
        let mut extensions = Vec::new();
        for row in rows.iter() {
            let tables = list(&text(row, "extconfig")?)?;
            let conditions = list(&text(row, "extcondition")?)?;
            if tables.len() != conditions.len() {
                return Err(ToolError::catalog(
                    "mismatched number of configurations and conditions for extension",
                ));
            }
            let configuration = tables
                .iter()
                .zip(conditions)
                .filter_map(|(table, condition)| Some((table.parse().ok()?, condition)))
                .collect();
            let schema_name = text(row, "nspname")?;
            let kind = Kind::Extension(Extension { schema_name, configuration });
            let id = self.model.add(catalog_id(row)?, row.text("extname")?, None, kind);
            self.select_extension(id);
            extensions.push(id);
        }
        Ok(extensions)
    }

    pub(super) fn extension_members(&mut self, extensions: &[Id]) -> Result<()> {
        if extensions.is_empty() {
            return Ok(());
        }
        let rows = self.session.query(
            "SELECT classid, objid, refobjid FROM pg_catalog.pg_depend \
             WHERE refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND deptype = 'e' ORDER BY 3",
        )?;
        for row in rows.iter() {
            let member = CatalogId { table_oid: row.parse("classid")?, oid: row.parse("objid")? };
            if let Some(extension) = self.model.find(catalog::EXTENSION, row.parse("refobjid")?) {
                self.model.members.insert(member, extension);
            }
        }
        Ok(())
    }

    pub(super) fn schemas(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT n.tableoid, n.oid, n.nspname, n.nspowner, n.nspacl, \
             pg_catalog.acldefault('n', n.nspowner) AS acldefault FROM pg_catalog.pg_namespace n",
        )?;
        for row in rows.iter() {
            let owner: u32 = row.parse("nspowner")?;
            let id =
                self.model.add(catalog_id(row)?, row.text("nspname")?, None, Kind::Schema { create: true });
            self.owner(id, owner)?;
            self.select_schema(id, owner);
            self.privileges(id, row, "nspacl")?;
            if row.text("nspname")? == "public" {
                self.initial_privileges_of_public(id);
            }
        }
        Ok(())
    }

    /// A new database's `public` lets everybody use it, whatever the source's `initdb` did. With another owner the
    /// privileges count from that owner's, since ALTER SCHEMA … OWNER goes before.
    fn initial_privileges_of_public(&mut self, id: Id) {
        let object = self.model.get_mut(id);
        let owner = role_in_privileges(&object.owner);
        let items = [format!("{owner}=UC/{owner}"), format!("=U/{owner}")];
        let items: Vec<String> = items.iter().map(|item| array_item(item)).collect();
        object.privileges.initial = Some(format!("{{{}}}", items.join(",")));
        object.present.add(Parts::PRIVILEGES);
    }

    /// Rows of configuration tables are the user's, even where only definitions are dumped.
    pub(super) fn configuration_tables(&mut self, extensions: &[Id]) -> Result<()> {
        if extensions.is_empty() {
            return Ok(());
        }
        for extension in extensions {
            let object = self.model.get(*extension);
            let oid = object.catalog.oid;
            let included = self.selection.extensions.as_ref().is_none_or(|list| list.contains(&oid));
            if !included || self.selection.exclude_extensions.contains(&oid) {
                continue;
            }
            let dumped = object.wanted.has(Parts::DEFINITION);
            let Kind::Extension(facts) = &object.kind else { continue };
            for (table, condition) in facts.configuration.clone() {
                self.configuration_table(table, &condition, dumped);
            }
        }
        self.order_configuration_tables()
    }

    fn configuration_table(&mut self, oid: u32, condition: &str, extension_dumped: bool) {
        let Some(table) = self.model.find_table(oid) else { return };
        let schema = self.model.get(table).schema;
        let schema_wants_data = schema.is_some_and(|schema| self.model.get(schema).wanted.has(Parts::DATA));
        let schema_oid = schema.map_or(0, |schema| self.model.get(schema).catalog.oid);
        let named = self.selection.tables.as_ref().is_some_and(|list| list.contains(&oid));
        let excluded = self.selection.exclude_tables.contains(&oid)
            || self.selection.exclude_schemas.contains(&schema_oid);
        if excluded || !(extension_dumped || named || schema_wants_data) {
            return;
        }
        self.table_data(table);
        if let Some(data) = self.model.table(table).data.filter(|_| !condition.is_empty())
            && let Kind::TableData(facts) | Kind::SequenceSet(facts) | Kind::MatviewRefresh(facts) =
                &mut self.model.get_mut(data).kind
        {
            facts.condition = Some(condition.to_owned());
        }
    }

    /// Foreign keys of configuration tables exist before their rows are restored.
    fn order_configuration_tables(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT conrelid, confrelid FROM pg_catalog.pg_constraint \
             JOIN pg_catalog.pg_depend ON (objid = confrelid) WHERE contype = 'f' \
             AND refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass \
             AND classid = 'pg_catalog.pg_class'::pg_catalog.regclass",
        )?;
        for row in rows.iter() {
            let data = |oid| self.model.find_table(oid).and_then(|table| self.model.table(table).data);
            if let (Some(from), Some(to)) = (data(number(row, "conrelid")?), data(number(row, "confrelid")?))
            {
                self.model.depend(from, to);
            }
        }
        Ok(())
    }
}

fn list(array: &str) -> Result<Vec<String>> {
    if array.is_empty() {
        return Ok(Vec::new());
    }
    parse_array(array).ok_or_else(|| ToolError::catalog("could not parse extconfig array"))
}

/// A role as `aclitem` has it: in quotes unless it is of letters, digits and underscores.
fn role_in_privileges(role: &str) -> String {
    if role.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        role.to_owned()
    } else {
        format!("\"{}\"", role.replace('"', "\"\""))
    }
}
