//! Parents and children: of tables, of columns, of indexes.

use super::Collector;
use crate::dump::model::{ColumnDefault, Id, Kind, Parts};

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::{Result, ToolError};

impl Collector<'_> {
    /// Pairs of child and parent.
    pub(super) fn inherits(&mut self) -> Result<Vec<(u32, u32)>> {
        let rows = self.session.query("SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits")?;
        rows.iter().map(|row| Ok((row.parse("inhrelid")?, row.parse("inhparent")?))).collect()
    }

    pub(super) fn mark_inheritance(&mut self, inherits: &[(u32, u32)]) -> Result<()> {
        for (child, parent) in inherits {
            // Indexes have parents too.
            let Some(child) = self.model.find_table(*child) else { continue };
            let Some(parent) = self.model.find_table(*parent) else {
                let object = self.model.get(child);
                return Err(ToolError::catalog(format!(
                    "failed sanity check, parent OID {parent} of table \"{}\" (OID {}) not found",
                    object.name, object.catalog.oid
                )));
            };
            self.model.with_table(child, |table| table.parents.push(parent));
        }
        for id in self.model.tables.clone() {
            let parents = self.model.table(id).parents.clone();
            if !self.model.get(id).wanted.is_empty() {
                for parent in &parents {
                    self.model.with_table(*parent, |table| table.interesting = true);
                }
            }
            if self.model.get(id).wanted.has(Parts::DEFINITION) && self.model.table(id).partition {
                self.attach_to_parent(id, &parents)?;
            }
        }
        Ok(())
    }

    /// A partition is made as a table of its own and attached then, so that its columns keep their order.
    fn attach_to_parent(&mut self, partition: Id, parents: &[Id]) -> Result<()> {
        let object = self.model.get(partition);
        let (name, schema) = (object.name.clone(), object.schema);
        let [parent] = *parents else {
            return Err(ToolError::catalog(format!(
                "invalid number of parents {} for table \"{name}\"",
                parents.len()
            )));
        };
        let attach =
            self.model.add(CatalogId::default(), name, schema, Kind::TableAttach { parent, partition });
        self.model.depend(attach, partition);
        self.model.depend(attach, parent);
        Ok(())
    }

    /// Finds out what of a child's columns comes from its parents, and what has to be said again.
    pub(super) fn mark_inherited_columns(&mut self) {
        for id in self.model.tables.clone() {
            let table = self.model.table(id);
            if matches!(table.kind, b'S' | b'v' | b'm') || self.model.get(id).wanted.is_empty() {
                continue;
            }
            if table.parents.is_empty() {
                continue;
            }
            for column in 0..table.columns.len() {
                if !self.model.table(id).columns[column].dropped {
                    self.mark_inherited_column(id, column);
                }
            }
        }
    }

    fn mark_inherited_column(&mut self, id: Id, position: usize) {
        let table = self.model.table(id);
        let column = &table.columns[position];
        let expression = |default: Option<Id>| match default.map(|id| &self.model.get(id).kind) {
            Some(Kind::Default(default)) => Some(default.expression.as_str()),
            _ => None,
        };
        let own = expression(column.default);
        let mut not_null_in_parent = false;
        let mut all_not_nulls_invalid = true;
        let mut default_in_parent = false;
        let mut generated_alike = false;
        let mut generated_otherwise = false;
        for parent in &table.parents {
            let columns = &self.model.table(*parent).columns;
            let Some(inherited) = columns.iter().find(|inherited| inherited.name == column.name) else {
                continue;
            };
            let of_parent = expression(inherited.default);
            if inherited.not_null.is_some() {
                not_null_in_parent = true;
                all_not_nulls_invalid &= inherited.not_null_invalid;
            }
            if inherited.generated == 0 {
                default_in_parent |= of_parent.is_some_and(|expression| expression != "NULL");
            } else if of_parent.is_some() && of_parent == own {
                generated_alike = true;
            } else {
                generated_otherwise = true;
            }
        }
        // Up to 17 the catalogs do not say whether a NOT NULL is inherited. From 18 on they do, but nothing is
        // inherited from constraints that are not valid: these come later, by themselves.
        let is_18 = self.session.is_at_least(18);
        let no_default = column.default.is_none();
        let default = column.default;
        let partition = table.partition;
        self.model.with_table(id, |table| {
            let column = &mut table.columns[position];
            if is_18 && all_not_nulls_invalid {
                column.not_null_local = true;
            } else if !is_18 && not_null_in_parent {
                column.not_null_local = false;
            }
        });
        if default_in_parent && no_default {
            self.add_null_default(id, position);
        }
        if generated_alike
            && !generated_otherwise
            && !partition
            && !self.options.binary_upgrade
            && let Some(default) = default
        {
            self.model.get_mut(default).wanted = Parts::NONE;
        }
    }

    /// A child without the default of its parent has to lose it.
    fn add_null_default(&mut self, id: Id, position: usize) {
        let separate = !self.model.table(id).is_printed(position);
        let object = self.model.get(id);
        let (name, schema, wanted) = (object.name.clone(), object.schema, object.wanted);
        let kind = Kind::Default(ColumnDefault {
            table: id,
            column: i32::try_from(position + 1).unwrap_or(i32::MAX),
            expression: "NULL".to_owned(),
            separate,
        });
        let default = self.model.add(CatalogId::default(), name, schema, kind);
        self.model.get_mut(default).wanted = wanted;
        if separate {
            self.model.depend(default, id);
        }
        self.model.with_table(id, |table| table.columns[position].default = Some(default));
    }

    /// Indexes of partitions are made by themselves and attached then.
    pub(super) fn mark_inherited_indexes(&mut self) {
        for table in self.model.tables.clone() {
            let facts = self.model.table(table);
            if !facts.partition || facts.parents.is_empty() {
                continue;
            }
            for index in facts.indexes.clone() {
                let object = self.model.get(index);
                let Kind::Index(facts) = &object.kind else { continue };
                let Some(parent) = self.model.find(object.catalog.table_oid, facts.parent) else { continue };
                let Kind::Index(parent_facts) = &self.model.get(parent).kind else { continue };
                let parent_table = parent_facts.table;
                let (name, schema) = (object.name.clone(), object.schema);
                let kind = Kind::IndexAttach { parent, partition: index };
                let attach = self.model.add(CatalogId::default(), name, schema, kind);
                for on in [index, parent, table, parent_table] {
                    self.model.depend(attach, on);
                }
                if let Kind::Index(parent) = &mut self.model.get_mut(parent).kind {
                    parent.attachments.push(attach);
                }
            }
        }
    }
}
