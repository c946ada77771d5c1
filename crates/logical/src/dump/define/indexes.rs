//! Indexes, constraints and extended statistics.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::{Definer, Draft, has_options};
use crate::dump::model::{Constraint, Id, Index, Kind, Parts, Table};

impl Definer<'_> {
    pub(super) fn index(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Index(index) = &object.kind else { return Ok(()) };
        let table = index.table;
        let on = object.catalog;
        let constraint = index.constraint;
        let name = self.name(id);
        if constraint.is_none() && self.wants(id, Parts::DEFINITION) {
            let qualified = self.qualified(id);
            let mut sql = format!("{}{};\n", self.preserve_class(on.oid)?, index.definition);
            self.push_clustered(&mut sql, index, &name);
            for (column, target) in &index.statistics {
                sql.push_str(&format!(
                    "ALTER INDEX {qualified} ALTER COLUMN {column} SET STATISTICS {target};\n"
                ));
            }
            sql.push_str(&self.depends_on_extension(id, "INDEX", &qualified));
            self.push_replica_identity(&mut sql, index, &name);
            // An attached index cannot be dropped by itself.
            let drop = if index.parent == 0 { format!("DROP INDEX {qualified};\n") } else { String::new() };
            let draft = Draft {
                definition: Some(sql),
                drop: Some(drop),
                section: Some(Section::PostData),
                tablespace: Some(index.tablespace.clone()),
                owner: Some(self.model.get(table).owner.clone()),
                ..self.draft(id, "INDEX")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment_on(table, "INDEX", &name, on, constraint.unwrap_or(id));
        }
        Ok(())
    }

    fn push_clustered(&self, sql: &mut String, index: &Index, name: &str) {
        if index.clustered {
            sql.push_str(&format!("\nALTER TABLE {} CLUSTER ON {name};\n", self.qualified(index.table)));
        }
    }

    fn push_replica_identity(&self, sql: &mut String, index: &Index, name: &str) {
        if index.replica_identity {
            sql.push_str(&format!(
                "\nALTER TABLE ONLY {} REPLICA IDENTITY USING INDEX {name};\n",
                self.qualified(index.table)
            ));
        }
    }

    pub(super) fn index_attach(&mut self, id: Id) -> Result<()> {
        let Kind::IndexAttach { parent, partition } = self.model.get(id).kind else { return Ok(()) };
        if !self.wants(partition, Parts::DEFINITION) {
            return Ok(());
        }
        let owner = match &self.model.get(parent).kind {
            Kind::Index(index) => self.model.get(index.table).owner.clone(),
            _ => String::new(),
        };
        let draft = Draft {
            definition: Some(format!(
                "ALTER INDEX {} ATTACH PARTITION {};\n",
                self.qualified(parent),
                self.qualified(partition)
            )),
            section: Some(Section::PostData),
            owner: Some(owner),
            ..self.draft(id, "INDEX ATTACH")
        };
        self.add(draft);
        Ok(())
    }

    pub(super) fn extended_statistics(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::ExtendedStatistics { target } = object.kind else { return Ok(()) };
        let qualified = self.qualified(id);
        let definition = self.texts.statistics.get(&object.catalog.oid).ok_or_else(|| {
            ToolError::catalog(format!("statistics object \"{}\" has no definition", object.name))
        })?;
        let mut sql = format!("{definition};\n");
        if target >= 0 {
            sql.push_str(&format!("ALTER STATISTICS {qualified} SET STATISTICS {target};\n"));
        }
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(sql),
                drop: Some(format!("DROP STATISTICS {qualified};\n")),
                section: Some(Section::PostData),
                ..self.draft(id, "STATISTICS")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let name = self.name(id);
            self.comment(id, "STATISTICS", &name);
        }
        Ok(())
    }

    pub(super) fn constraint(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let (Kind::Constraint(facts) | Kind::ForeignKey(facts)) = &object.kind else { return Ok(()) };
        match (facts.table, facts.domain) {
            (Some(table), _) => self.constraint_of_table(id, table),
            (None, Some(domain)) => {
                self.constraint_of_domain(id, domain);
                Ok(())
            }
            (None, None) => {
                Err(ToolError::catalog(format!("constraint \"{}\" belongs to nothing", object.name)))
            }
        }
    }

    fn constraint_of_table(&mut self, id: Id, table: Id) -> Result<()> {
        let object = self.model.get(id);
        let (Kind::Constraint(facts) | Kind::ForeignKey(facts)) = &object.kind else { return Ok(()) };
        let relation = self.model.table(table);
        let foreign = if relation.kind == b'f' { "FOREIGN " } else { "" };
        let table_name = self.qualified(table);
        let name = self.quoting.name(&object.name);
        let definition = facts.definition.as_deref().unwrap_or("");
        let mut tablespace = None;
        let mut preserved = String::new();
        let (desc, only, definition) = match facts.kind {
            b'p' | b'u' | b'x' => {
                let index_id = facts.index;
                let Some((index_id, Kind::Index(index))) =
                    index_id.map(|index| (index, &self.model.get(index).kind))
                else {
                    return Err(ToolError::catalog(format!(
                        "missing index for constraint \"{}\"",
                        object.name
                    )));
                };
                tablespace = Some(index.tablespace.clone());
                preserved = self.preserve_class(self.model.get(index_id).catalog.oid)?;
                let mut sql = match &facts.definition {
                    Some(definition) => format!("{definition};\n"),
                    None => self.key_clauses(facts, index, relation)?,
                };
                let index_name = self.name(index_id);
                self.push_clustered(&mut sql, index, &index_name);
                self.push_replica_identity(&mut sql, index, &index_name);
                sql.push_str(&self.depends_on_extension(index_id, "INDEX", &self.qualified(index_id)));
                ("CONSTRAINT", "ONLY ", sql)
            }
            b'f' => {
                let only = if relation.kind == b'p' { "" } else { "ONLY " };
                ("FK CONSTRAINT", only, format!("{definition};\n"))
            }
            b'c' | b'n' => {
                let desc = if facts.kind == b'c' { "CHECK CONSTRAINT" } else { "CONSTRAINT" };
                (desc, "", format!("{definition};\n"))
            }
            other => {
                return Err(ToolError::catalog(format!(
                    "unrecognized constraint type: {}",
                    char::from(other)
                )));
            }
        };
        // A CHECK or NOT NULL stands by itself when it was not valid yet, or was cut out of its table; a child's own
        // ones only.
        let written = facts.separate && (facts.local || !matches!(facts.kind, b'c' | b'n'));
        let separate = facts.separate;
        let on = object.catalog;
        if written && self.wants(id, Parts::DEFINITION) {
            let of = self.model.get(table);
            let draft = Draft {
                tag: format!("{} {}", of.name, object.name),
                definition: Some(format!(
                    "{preserved}ALTER {foreign}TABLE {only}{table_name}\n    ADD CONSTRAINT {name} {definition}"
                )),
                drop: Some(format!("ALTER {foreign}TABLE {only}{table_name} DROP CONSTRAINT {name};\n")),
                section: Some(Section::PostData),
                tablespace,
                owner: Some(of.owner.clone()),
                ..self.draft(id, desc)
            };
            self.add(draft);
        }
        if separate && self.wants(id, Parts::COMMENT) {
            let of = self.name(table);
            self.comment_on(table, &format!("CONSTRAINT {name} ON"), &of, on, id);
        }
        Ok(())
    }

    /// A primary key or unique constraint, from the columns of its index.
    fn key_clauses(&self, facts: &Constraint, index: &Index, table: &Table) -> Result<String> {
        let columns = |numbers: &[i32]| -> Result<String> {
            let names: Result<Vec<String>> =
                numbers.iter().map(|number| Ok(self.quoting.name(column_name(table, *number)?))).collect();
            Ok(names?.join(", "))
        };
        let (keys, included) = index.columns.split_at(index.key_columns.min(index.columns.len()));
        let mut sql = String::from(if facts.kind == b'p' { "PRIMARY KEY" } else { "UNIQUE" });
        if index.nulls_not_distinct && facts.kind != b'p' {
            sql.push_str(" NULLS NOT DISTINCT");
        }
        sql.push_str(&format!(" ({}", columns(keys)?));
        if facts.period {
            sql.push_str(" WITHOUT OVERLAPS");
        }
        if !included.is_empty() {
            sql.push_str(&format!(") INCLUDE ({}", columns(included)?));
        }
        sql.push(')');
        if has_options(index.options.as_deref()) {
            let options = self.options_list(index.options.as_deref().unwrap_or(""), "")?;
            sql.push_str(&format!(" WITH ({options})"));
        }
        if facts.deferrable {
            sql.push_str(" DEFERRABLE");
            if facts.deferred {
                sql.push_str(" INITIALLY DEFERRED");
            }
        }
        sql.push_str(";\n");
        Ok(sql)
    }

    fn constraint_of_domain(&mut self, id: Id, domain: Id) {
        let object = self.model.get(id);
        let Kind::Constraint(facts) = &object.kind else { return };
        if !facts.separate {
            return;
        }
        let name = self.quoting.name(&object.name);
        let domain_name = self.qualified(domain);
        let of = self.model.get(domain);
        let on = object.catalog;
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                tag: format!("{} {}", of.name, object.name),
                definition: Some(format!(
                    "ALTER DOMAIN {domain_name}\n    ADD CONSTRAINT {name} {};\n",
                    facts.definition.as_deref().unwrap_or("")
                )),
                drop: Some(format!("ALTER DOMAIN {domain_name} DROP CONSTRAINT {name};\n")),
                section: Some(Section::PostData),
                owner: Some(of.owner.clone()),
                ..self.draft(id, if facts.kind == b'c' { "CHECK CONSTRAINT" } else { "CONSTRAINT" })
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let of = self.name(domain);
            self.comment_on(domain, &format!("CONSTRAINT {name} ON DOMAIN"), &of, on, id);
        }
    }
}

/// A column by its number; system columns have negative ones.
fn column_name(table: &Table, number: i32) -> Result<&str> {
    let position = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    if let Some(column) = position.and_then(|position| table.columns.get(position)) {
        return Ok(&column.name);
    }
    match number {
        -1 => Ok("ctid"),
        -2 => Ok("xmin"),
        -3 => Ok("cmin"),
        -4 => Ok("xmax"),
        -5 => Ok("cmax"),
        -6 => Ok("tableoid"),
        _ => Err(ToolError::catalog(format!("invalid column number {number}"))),
    }
}
