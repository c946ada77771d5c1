//! Relations of all kinds but sequences; partitions' attachment; defaults that stand apart.

use pgkeep_tool::{Result, ToolError};

use super::binary_upgrade::TypeOids;
use super::{Definer, Draft, has_options};
use crate::dump::model::{Id, Kind, Parts, Table};

impl Definer<'_> {
    pub(super) fn table(&mut self, id: Id) -> Result<()> {
        let kind = self.model.table(id).kind;
        if self.wants(id, Parts::DEFINITION) {
            match kind {
                b'S' => self.sequence(id)?,
                b'v' => self.view(id)?,
                _ => self.relation(id)?,
            }
        }
        let keyword = if kind == b'S' { "SEQUENCE" } else { "TABLE" };
        let name = self.name(id);
        let privileges = self.privileges(id, keyword, &name)?;
        if self.wants(id, Parts::PRIVILEGES) && self.model.table(id).has_column_privileges {
            self.column_privileges(id, &name, privileges)?;
        }
        Ok(())
    }

    fn column_privileges(&mut self, id: Id, name: &str, of_table: Option<Id>) -> Result<()> {
        if self.options.no_privileges {
            return Ok(());
        }
        let oid = self.model.get(id).catalog.oid;
        let columns = self.texts.column_privileges.get(&oid).cloned().unwrap_or_default();
        let dependencies: Vec<Id> = std::iter::once(id).chain(of_table).collect();
        for (column, privileges) in columns {
            let column = self.quoting.name(&column);
            self.privileges_entry(id, "TABLE", name, Some(&column), &privileges, &dependencies, None)?;
        }
        Ok(())
    }

    /// Tables, foreign tables and materialised views.
    fn relation(&mut self, id: Id) -> Result<()> {
        let table = self.model.table(id);
        let oid = self.model.get(id).catalog.oid;
        let name = self.qualified(id);
        let keyword = match table.kind {
            b'f' => "FOREIGN TABLE",
            b'm' => "MATERIALIZED VIEW",
            _ => "TABLE",
        };
        let unlogged = if table.persistence == b'u' && table.kind != b'p' { "UNLOGGED " } else { "" };
        let upgrade = self.options.binary_upgrade;
        let mut sql = self.preserve_type(table.row_type, TypeOids::Plain)? + &self.preserve_class(oid)?;
        sql.push_str(&format!("CREATE {unlogged}{keyword} {name}"));
        if table.of_type != 0 && !upgrade {
            sql.push_str(&format!(" OF {}", self.type_name(table.of_type)?));
        }
        let foreign = self.texts.foreign_tables.get(&oid);
        if table.kind != b'm' {
            self.push_columns(&mut sql, table);
            if !table.parents.is_empty() && !table.partition && !upgrade {
                let parents: Vec<String> =
                    table.parents.iter().map(|parent| self.qualified(*parent)).collect();
                sql.push_str(&format!("\nINHERITS ({})", parents.join(", ")));
            }
            if table.kind == b'p' {
                let key = self.texts.partition_keys.get(&oid);
                let key = key.ok_or_else(|| {
                    ToolError::catalog(format!(
                        "partitioned table \"{}\" has no key",
                        self.model.get(id).name
                    ))
                })?;
                sql.push_str(&format!("\nPARTITION BY {key}"));
            }
            if let Some((server, _)) = foreign {
                sql.push_str(&format!("\nSERVER {}", self.quoting.name(server)));
            }
        }
        let mut options = Vec::new();
        if has_options(table.options.as_deref()) {
            options.push(self.options_list(table.options.as_deref().unwrap_or(""), "")?);
        }
        if has_options(table.toast_options.as_deref()) {
            options.push(self.options_list(table.toast_options.as_deref().unwrap_or(""), "toast.")?);
        }
        if !options.is_empty() {
            sql.push_str(&format!("\nWITH ({})", options.join(", ")));
        }
        if let Some((_, options)) = foreign.filter(|(_, options)| !options.is_empty()) {
            sql.push_str(&format!("\nOPTIONS (\n    {options}\n)"));
        }
        if table.kind == b'm' {
            sql.push_str(&format!(" AS\n{}\n  WITH NO DATA;\n", self.view_query(id)?));
            sql.push_str(&self.depends_on_extension(id, keyword, &name));
        } else {
            sql.push_str(";\n");
        }
        sql.push_str(&self.restore_physical_state(id, table, &name)?);
        self.push_column_settings(&mut sql, table, &name);
        match table.replica_identity {
            b'n' if matches!(table.kind, b'r' | b'p' | b'm') => {
                sql.push_str(&format!("\nALTER TABLE ONLY {name} REPLICA IDENTITY NOTHING;\n"));
            }
            b'f' if matches!(table.kind, b'r' | b'p' | b'm') => {
                sql.push_str(&format!("\nALTER TABLE ONLY {name} REPLICA IDENTITY FULL;\n"));
            }
            _ => {}
        }
        if table.force_row_security {
            sql.push_str(&format!("\nALTER TABLE ONLY {name} FORCE ROW LEVEL SECURITY;\n"));
        }
        let section = match table.postponed {
            true => pgkeep_format::archive::Section::PostData,
            false => pgkeep_format::archive::Section::PreData,
        };
        let draft = Draft {
            definition: Some(sql),
            drop: Some(format!("DROP {keyword} {name};\n")),
            section: Some(section),
            tablespace: matches!(table.kind, b'r' | b'm' | b'p').then(|| table.tablespace.clone()),
            access_method: if matches!(table.kind, b'r' | b'm' | b'p') {
                table.access_method.clone()
            } else {
                None
            },
            relkind: table.kind,
            ..self.draft(id, keyword)
        };
        self.add(draft);
        self.table_comments(id, keyword);
        self.table_labels(id, keyword);
        self.constraint_comments(id, &name);
        Ok(())
    }

    fn push_columns(&self, sql: &mut String, table: &Table) {
        let mut items = Vec::new();
        // In a binary upgrade columns come in their places; what they are in truth is said afterwards.
        let upgrade = self.options.binary_upgrade;
        let of_type = if upgrade { 0 } else { table.of_type };
        for (position, column) in table.columns.iter().enumerate() {
            let name = self.quoting.name(&column.name);
            let not_null =
                column.not_null.as_deref().filter(|_| column.not_null_local || table.partition || upgrade);
            let no_inherit = if column.not_null_no_inherit { " NO INHERIT" } else { "" };
            if table.is_printed(position) {
                if column.dropped {
                    items.push(format!("{name} INTEGER /* dummy */"));
                    continue;
                }
                let default =
                    column.default.map(|default| self.model.get(default)).and_then(|default| match &default
                        .kind
                    {
                        Kind::Default(facts) if !facts.separate && !default.wanted.is_empty() => Some(facts),
                        _ => None,
                    });
                // The type says everything about a typed table's columns but this.
                if of_type != 0 && default.is_none() && not_null.is_none() {
                    continue;
                }
                let mut item = name;
                if of_type == 0 {
                    item.push_str(&format!(" {}", column.type_name));
                }
                if let Some(default) = default {
                    let expression = &default.expression;
                    item.push_str(&match column.generated {
                        b's' => format!(" GENERATED ALWAYS AS ({expression}) STORED"),
                        b'v' => format!(" GENERATED ALWAYS AS ({expression})"),
                        _ => format!(" DEFAULT {expression}"),
                    });
                }
                match not_null {
                    Some("") => item.push_str(&format!(" NOT NULL{no_inherit}")),
                    Some(constraint) => item.push_str(&format!(
                        " CONSTRAINT {} NOT NULL{no_inherit}",
                        self.quoting.name(constraint)
                    )),
                    None => {}
                }
                item.push_str(&self.collate(column.collation));
                items.push(item);
            } else if !column.dropped && column.not_null_local {
                // Of an inherited column that only this child does not want to be NULL. Stock writes the name as it
                // is, quotes or not.
                match column.not_null.as_deref() {
                    Some("") => items.push(format!("NOT NULL {name}{no_inherit}")),
                    Some(constraint) => {
                        items.push(format!("CONSTRAINT {constraint} NOT NULL {name}{no_inherit}"))
                    }
                    None => {}
                }
            }
        }
        for check in &table.checks {
            let object = self.model.get(*check);
            if let Kind::Constraint(facts) = &object.kind
                && !facts.separate
                && (facts.local || table.partition)
            {
                let definition = facts.definition.as_deref().unwrap_or("");
                items.push(format!("CONSTRAINT {} {definition}", self.quoting.name(&object.name)));
            }
        }
        if !items.is_empty() {
            sql.push_str(&format!(" (\n    {}\n)", items.join(",\n    ")));
        } else if of_type == 0 {
            // A table without columns.
            sql.push_str(" (\n)");
        }
    }

    /// What CREATE TABLE cannot say of columns.
    fn push_column_settings(&self, sql: &mut String, table: &Table, name: &str) {
        let foreign = if table.kind == b'f' { "FOREIGN " } else { "" };
        for column in table.columns.iter().filter(|column| !column.dropped) {
            let column_name = self.quoting.name(&column.name);
            let mut alter = |action: String| {
                sql.push_str(&format!(
                    "ALTER {foreign}TABLE ONLY {name} ALTER COLUMN {column_name} {action};\n"
                ));
            };
            if column.statistics_target >= 0 {
                alter(format!("SET STATISTICS {}", column.statistics_target));
            }
            if column.storage != column.type_storage {
                let storage = match column.storage {
                    b'p' => Some("PLAIN"),
                    b'e' => Some("EXTERNAL"),
                    b'x' => Some("EXTENDED"),
                    b'm' => Some("MAIN"),
                    _ => None,
                };
                if let Some(storage) = storage {
                    alter(format!("SET STORAGE {storage}"));
                }
            }
            let compression = match column.compression {
                _ if self.options.no_toast_compression => None,
                b'p' => Some("pglz"),
                b'l' => Some("lz4"),
                _ => None,
            };
            if let Some(compression) = compression {
                alter(format!("SET COMPRESSION {compression}"));
            }
            if !column.options.is_empty() {
                alter(format!("SET ({})", column.options));
            }
            if table.kind == b'f' && !column.foreign_options.is_empty() {
                alter(format!("OPTIONS (\n    {}\n)", column.foreign_options));
            }
        }
    }

    /// Comments on constraints that are part of CREATE TABLE.
    fn constraint_comments(&mut self, id: Id, qualified: &str) {
        let table = self.model.table(id);
        let mut comments = Vec::new();
        for column in &table.columns {
            if let (Some(constraint), Some(comment)) = (&column.not_null, &column.not_null_comment) {
                comments.push((constraint.clone(), comment.clone()));
            }
        }
        let checks = table.checks.clone();
        let table_name = self.name(id);
        if !self.options.no_comments {
            for (constraint, comment) in comments {
                let constraint = self.quoting.name(&constraint);
                let object = self.model.get(id);
                let draft = Draft {
                    tag: format!("CONSTRAINT {constraint} ON {table_name}"),
                    desc: "COMMENT",
                    definition: Some(format!(
                        "COMMENT ON CONSTRAINT {constraint} ON {qualified} IS {};\n",
                        self.quoting.literal(&comment)
                    )),
                    schema: object.schema.map(|schema| self.model.get(schema).name.clone()),
                    owner: Some(object.owner.clone()),
                    dependencies: vec![id],
                    ..Draft::default()
                };
                self.add(draft);
            }
        }
        for check in checks {
            let object = self.model.get(check);
            let written_here =
                matches!(&object.kind, Kind::Constraint(facts) if !facts.separate && facts.local);
            // The turn of a constraint comes after that of its table, so what it has is not cut down yet.
            if written_here && object.wanted.has(Parts::COMMENT) {
                let (kind, on) =
                    (format!("CONSTRAINT {} ON", self.quoting.name(&object.name)), object.catalog);
                self.comment_on(id, &kind, &table_name, on, id);
            }
        }
    }

    pub(super) fn table_attach(&mut self, id: Id) -> Result<()> {
        let Kind::TableAttach { parent, partition } = self.model.get(id).kind else { return Ok(()) };
        let object = self.model.get(partition);
        let bound = self
            .texts
            .partition_bounds
            .get(&object.catalog.oid)
            .ok_or_else(|| ToolError::catalog(format!("partition \"{}\" has no bounds", object.name)))?;
        let definition = format!(
            "ALTER TABLE ONLY {} ATTACH PARTITION {} {bound};\n",
            self.qualified(parent),
            self.qualified(partition)
        );
        let owner = Some(object.owner.clone());
        let draft = Draft { definition: Some(definition), owner, ..self.draft(id, "TABLE ATTACH") };
        self.add(draft);
        Ok(())
    }

    pub(super) fn column_default(&mut self, id: Id) -> Result<()> {
        let Kind::Default(facts) = &self.model.get(id).kind else { return Ok(()) };
        if !facts.separate || !self.wants(id, Parts::DEFINITION) {
            return Ok(());
        }
        let table = self.model.table(facts.table);
        let position = usize::try_from(facts.column).unwrap_or(0).saturating_sub(1);
        let column = table.columns.get(position).map(|column| column.name.clone()).unwrap_or_default();
        let foreign = if table.kind == b'f' { "FOREIGN " } else { "" };
        let table_name = self.qualified(facts.table);
        let column_name = self.quoting.name(&column);
        let owner = self.model.get(facts.table).owner.clone();
        let draft = Draft {
            tag: format!("{} {column}", self.model.get(facts.table).name),
            definition: Some(format!(
                "ALTER {foreign}TABLE ONLY {table_name} ALTER COLUMN {column_name} SET DEFAULT {};\n",
                facts.expression
            )),
            drop: Some(format!(
                "ALTER {foreign}TABLE {table_name} ALTER COLUMN {column_name} DROP DEFAULT;\n"
            )),
            owner: Some(owner),
            ..self.draft(id, "DEFAULT")
        };
        self.add(draft);
        Ok(())
    }
}
