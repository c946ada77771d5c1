//! Views, the rules behind them, and other rules; what fills materialised views.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::binary_upgrade::TypeOids;
use super::{Definer, Draft, has_options};
use crate::dump::model::{Id, Kind, Parts};

impl Definer<'_> {
    /// The query of a view, without the semicolon at its end.
    pub(super) fn view_query(&self, id: Id) -> Result<&str> {
        let object = self.model.get(id);
        match self.texts.view_queries.get(&object.catalog.oid).map(String::as_str) {
            None => Err(ToolError::new(format!(
                "query to obtain definition of view \"{}\" returned no data",
                object.name
            ))),
            Some("") => Err(ToolError::new(format!(
                "definition of view \"{}\" appears to be empty (length zero)",
                object.name
            ))),
            Some(query) => Ok(query.strip_suffix(';').unwrap_or(query)),
        }
    }

    /// A query with the view's columns and no rows, to stand in for one that cannot be made yet.
    fn stand_in_query(&self, id: Id) -> String {
        let columns: Vec<String> = self
            .model
            .table(id)
            .columns
            .iter()
            .map(|column| {
                format!(
                    "\n    NULL::{}{} AS {}",
                    column.type_name,
                    self.collate(column.collation),
                    self.quoting.name(&column.name)
                )
            })
            .collect();
        format!("SELECT{}", columns.join(","))
    }

    /// `schema.view WITH (…) AS query WITH … CHECK OPTION`.
    fn view_clauses(&self, id: Id) -> Result<String> {
        let table = self.model.table(id);
        let mut sql = self.qualified(id);
        if has_options(table.options.as_deref()) {
            let options = self.options_list(table.options.as_deref().unwrap_or(""), "")?;
            sql.push_str(&format!(" WITH ({options})"));
        }
        sql.push_str(&format!(" AS\n{}", self.view_query(id)?));
        if let Some(option) = &table.check_option {
            sql.push_str(&format!("\n  WITH {option} CHECK OPTION"));
        }
        sql.push_str(";\n");
        Ok(sql)
    }

    pub(super) fn view(&mut self, id: Id) -> Result<()> {
        let name = self.qualified(id);
        let definition = if self.model.table(id).dummy_view {
            format!("CREATE VIEW {name} AS\n{};\n", self.stand_in_query(id))
        } else {
            format!("CREATE VIEW {}", self.view_clauses(id)?)
        };
        let (row_type, oid) = (self.model.table(id).row_type, self.model.get(id).catalog.oid);
        let preserved = self.preserve_type(row_type, TypeOids::Plain)? + &self.preserve_class(oid)?;
        let draft = Draft {
            definition: Some(preserved + &definition),
            drop: Some(format!("DROP VIEW {name};\n")),
            relkind: b'v',
            ..self.draft(id, "VIEW")
        };
        self.add(draft);
        self.table_comments(id, "VIEW");
        self.table_labels(id, "VIEW");
        Ok(())
    }

    pub(super) fn rule(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Rule(rule) = &object.kind else { return Ok(()) };
        if !rule.separate {
            return Ok(());
        }
        let table = self.qualified(rule.table);
        let name = self.quoting.name(&object.name);
        let (mut definition, drop) = if rule.is_view() {
            (
                format!("CREATE OR REPLACE VIEW {}", self.view_clauses(rule.table)?),
                // The view itself goes later; until then nothing it needs may hold it.
                format!("CREATE OR REPLACE VIEW {table} AS\n{};\n", self.stand_in_query(rule.table)),
            )
        } else {
            let text = self.texts.rules.get(&object.catalog.oid).ok_or_else(|| {
                ToolError::new(format!(
                    "query to get rule \"{}\" for table \"{}\" failed: wrong number of rows returned",
                    object.name,
                    self.model.get(rule.table).name
                ))
            })?;
            (format!("{text}\n"), format!("DROP RULE {name} ON {table};\n"))
        };
        let state = match rule.enabled {
            b'A' => Some("ENABLE ALWAYS"),
            b'R' => Some("ENABLE REPLICA"),
            b'D' => Some("DISABLE"),
            _ => None,
        };
        if let Some(state) = state {
            definition.push_str(&format!("ALTER TABLE {table} {state} RULE {name};\n"));
        }
        let of = self.model.get(rule.table);
        let (table_id, table_name) = (rule.table, self.quoting.name(&of.name));
        let on = object.catalog;
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                tag: format!("{} {}", of.name, object.name),
                definition: Some(definition),
                drop: Some(drop),
                section: Some(Section::PostData),
                owner: Some(of.owner.clone()),
                ..self.draft(id, "RULE")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment_on(table_id, &format!("RULE {name} ON"), &table_name, on, id);
        }
        Ok(())
    }

    pub(super) fn matview_refresh(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::MatviewRefresh(data) = &object.kind else { return Ok(()) };
        if !self.model.table(data.table).populated || !self.wants(id, Parts::DATA) {
            return Ok(());
        }
        let draft = Draft {
            definition: Some(format!("REFRESH MATERIALIZED VIEW {};\n", self.qualified(data.table))),
            section: Some(Section::PostData),
            owner: Some(self.model.get(data.table).owner.clone()),
            dependencies: object.dependencies.clone(),
            ..self.draft(id, "MATERIALIZED VIEW DATA")
        };
        self.add(draft);
        Ok(())
    }
}
