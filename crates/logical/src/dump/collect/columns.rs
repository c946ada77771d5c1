//! Columns of tables, with their defaults, NOT NULL and CHECK constraints.

use std::collections::HashMap;

use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::Row;

use super::{Collector, catalog_id};
use crate::dump::model::{Column, ColumnDefault, Constraint, Id, Kind};
use crate::dump::session::{flag, letter, number, oid_array, optional, text};

impl Collector<'_> {
    pub(super) fn columns(&mut self) -> Result<()> {
        let interesting: Vec<(u32, Id)> = self
            .model
            .tables
            .iter()
            .filter(|id| {
                let table = self.model.table(**id);
                table.kind != b'S' && table.interesting
            })
            .map(|id| (self.model.get(*id).catalog.oid, *id))
            .collect();
        let by_oid: HashMap<u32, Id> = interesting.iter().copied().collect();
        let table_of = |row: Row<'_>, column: &str| -> Result<Id> {
            let oid: u32 = row.parse(column)?;
            by_oid
                .get(&oid)
                .copied()
                .ok_or_else(|| ToolError::catalog(format!("unrecognized table OID {oid}")))
        };
        let is_18 = self.session.is_at_least(18);
        // Up to 17 a NOT NULL has no name and is taken as the column's own, unless a parent has it too.
        let (not_null, constraints) = if is_18 {
            (
                "co.conname AS notnull_name, \
                 CASE WHEN co.convalidated THEN pt.description END AS notnull_comment, \
                 CASE WHEN NOT co.convalidated THEN co.oid END AS notnull_invalidoid, \
                 co.connoinherit AS notnull_noinherit, co.conislocal AS notnull_islocal,",
                "LEFT JOIN pg_catalog.pg_constraint co ON (a.attrelid = co.conrelid AND co.contype = 'n' \
                 AND co.conkey = array[a.attnum]) \
                 LEFT JOIN pg_catalog.pg_description pt ON (pt.classoid = co.tableoid AND pt.objoid = co.oid)",
            )
        } else {
            (
                "CASE WHEN a.attnotnull THEN '' END AS notnull_name, NULL AS notnull_comment, \
                 NULL AS notnull_invalidoid, false AS notnull_noinherit, \
                 (a.attislocal OR a.attnotnull) AS notnull_islocal,",
                "",
            )
        };
        let compression = if self.session.is_at_least(14) { "a.attcompression" } else { "''" };
        let array = oid_array(interesting.iter().map(|(oid, _)| *oid));
        let rows = self.session.query(&format!(
            "SELECT a.attrelid, a.attnum, a.attname, a.attstattarget, a.attstorage, t.typstorage, a.atthasdef, \
             a.attisdropped, a.attislocal, pg_catalog.format_type(t.oid, a.atttypmod) AS atttypname, \
             pg_catalog.array_to_string(a.attoptions, ', ') AS attoptions, \
             CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation ELSE 0 END AS attcollation, \
             pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(option_name) || ' ' || \
               pg_catalog.quote_literal(option_value) FROM pg_catalog.pg_options_to_table(attfdwoptions) \
               ORDER BY option_name), E',\\n    ') AS attfdwoptions, {not_null} \
             {compression} AS attcompression, a.attidentity, a.attgenerated \
             FROM unnest({array}) AS src(tbloid) JOIN pg_catalog.pg_attribute a ON (src.tbloid = a.attrelid) \
             LEFT JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid) {constraints} \
             WHERE a.attnum > 0::pg_catalog.int2 ORDER BY a.attrelid, a.attnum"
        ))?;
        let mut with_defaults = Vec::new();
        let mut invalid_not_nulls: Vec<u32> = Vec::new();
        for row in rows.iter() {
            let table = table_of(row, "attrelid")?;
            let invalid: u32 = number(row, "notnull_invalidoid")?;
            if invalid != 0 {
                invalid_not_nulls.push(invalid);
            }
            // In a binary upgrade an inherited constraint is changed by its name later.
            let by_name = self.options.binary_upgrade && is_18 && !self.model.table(table).partition;
            let column = column(row, &self.model.get(table).name, by_name)?;
            let expected = self.model.table(table).columns.len() + 1;
            if row.parse::<usize>("attnum")? != expected {
                return Err(ToolError::catalog(format!(
                    "invalid column numbering in table \"{}\"",
                    self.model.get(table).name
                )));
            }
            if flag(row, "atthasdef")? && with_defaults.last() != Some(&row.parse("attrelid")?) {
                with_defaults.push(row.parse::<u32>("attrelid")?);
            }
            self.model.with_table(table, |table| {
                table.needs_override |= column.identity == b'a';
                table.columns.push(column);
            });
        }
        if !self.options.schema {
            return Ok(());
        }
        if !with_defaults.is_empty() {
            self.defaults(&oid_array(with_defaults))?;
        }
        if !invalid_not_nulls.is_empty() {
            let rows = self.session.query(&format!(
                "SELECT c.tableoid, c.oid, conrelid, conname, pg_catalog.pg_get_constraintdef(c.oid) AS consrc, \
                 conislocal, 'n' AS contype, false AS convalidated FROM unnest({}) AS src(conoid) \
                 JOIN pg_catalog.pg_constraint c ON (src.conoid = c.oid) ORDER BY c.conrelid, c.conname",
                oid_array(invalid_not_nulls)
            ))?;
            for row in rows.iter() {
                let table = table_of(row, "conrelid")?;
                self.table_constraint(row, table)?;
            }
        }
        let with_checks: Vec<u32> = interesting
            .iter()
            .filter(|(_, id)| self.model.table(*id).check_count > 0)
            .map(|(oid, _)| *oid)
            .collect();
        if !with_checks.is_empty() {
            self.checks(&oid_array(with_checks), &table_of)?;
        }
        Ok(())
    }

    fn defaults(&mut self, tables: &str) -> Result<()> {
        let rows = self.session.query(&format!(
            "SELECT a.tableoid, a.oid, adrelid, adnum, pg_catalog.pg_get_expr(adbin, adrelid) AS adsrc \
             FROM unnest({tables}) AS src(tbloid) JOIN pg_catalog.pg_attrdef a ON (src.tbloid = a.adrelid) \
             ORDER BY a.adrelid, a.adnum"
        ))?;
        for row in rows.iter() {
            let oid: u32 = row.parse("adrelid")?;
            let Some(table) = self.model.find_table(oid) else {
                return Err(ToolError::catalog(format!("unrecognized table OID {oid}")));
            };
            let number: i32 = row.parse("adnum")?;
            let facts = self.model.table(table);
            let position = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let Some((position, column)) =
                position.and_then(|position| Some((position, facts.columns.get(position)?)))
            else {
                return Err(ToolError::catalog(format!(
                    "invalid adnum value {number} for table \"{}\"",
                    self.model.get(table).name
                )));
            };
            if column.dropped {
                continue;
            }
            // Generation belongs to the column; defaults of views are set afterwards; an inherited column is not
            // written, so its default is set apart.
            let separate = column.generated == 0 && (facts.kind == b'v' || !facts.is_printed(position));
            let object = self.model.get(table);
            let (name, schema, wanted) = (object.name.clone(), object.schema, object.wanted);
            let kind = Kind::Default(ColumnDefault {
                table,
                column: number,
                expression: text(row, "adsrc")?,
                separate,
            });
            let id = self.model.add(catalog_id(row)?, name, schema, kind);
            self.model.get_mut(id).wanted = wanted;
            if !separate {
                self.model.depend(table, id);
            }
            self.model.with_table(table, |table| table.columns[position].default = Some(id));
        }
        Ok(())
    }

    fn checks(&mut self, tables: &str, table_of: &dyn Fn(Row<'_>, &str) -> Result<Id>) -> Result<()> {
        let rows = self.session.query(&format!(
            "SELECT c.tableoid, c.oid, conrelid, conname, pg_catalog.pg_get_constraintdef(c.oid) AS consrc, \
             conislocal, 'c' AS contype, convalidated FROM unnest({tables}) AS src(tbloid) \
             JOIN pg_catalog.pg_constraint c ON (src.tbloid = c.conrelid) WHERE contype = 'c' \
             ORDER BY c.conrelid, c.conname"
        ))?;
        for row in rows.iter() {
            let table = table_of(row, "conrelid")?;
            let id = self.table_constraint(row, table)?;
            self.model.with_table(table, |table| table.checks.push(id));
        }
        for id in &self.model.tables {
            let table = self.model.table(*id);
            let found = i32::try_from(table.checks.len()).unwrap_or(i32::MAX);
            if table.kind != b'S' && table.interesting && found != table.check_count {
                return Err(ToolError::catalog(format!(
                    "expected {} check constraint{} on table \"{}\" but found {found}",
                    table.check_count,
                    if table.check_count == 1 { "" } else { "s" },
                    self.model.get(*id).name
                )));
            }
        }
        Ok(())
    }

    /// A CHECK or an invalid NOT NULL. What is not valid yet is added when the data is there.
    fn table_constraint(&mut self, row: Row<'_>, table: Id) -> Result<Id> {
        let separate = !flag(row, "convalidated")?;
        let constraint = Constraint {
            definition: Some(text(row, "consrc")?),
            local: flag(row, "conislocal")?,
            separate,
            ..Constraint::of_table(table, letter(row, "contype")?)
        };
        let object = self.model.get(table);
        let (schema, wanted) = (object.schema, object.wanted);
        let id = self.model.add(
            catalog_id(row)?,
            row.text("conname")?,
            schema,
            Kind::Constraint(Box::new(constraint)),
        );
        self.model.get_mut(id).wanted = wanted;
        if !separate {
            self.model.depend(table, id);
        }
        Ok(id)
    }
}

/// `by_name`: inherited NOT NULL constraints are named even where the server gives the name by itself.
fn column(row: Row<'_>, table: &str, by_name: bool) -> Result<Column> {
    let name = text(row, "attname")?;
    let invalid = row.optional("notnull_invalidoid")?.is_some();
    let comment = optional(row, "notnull_comment")?;
    let not_null = match optional(row, "notnull_name")? {
        // It comes later, as a constraint.
        Some(_) if invalid => None,
        Some(constraint) if by_name && !flag(row, "notnull_islocal")? => Some(constraint),
        // The name that the server gives by itself need not be said.
        Some(constraint) if comment.is_none() && constraint == format!("{table}_{name}_not_null") => {
            Some(String::new())
        }
        other => other,
    };
    Ok(Column {
        type_name: text(row, "atttypname")?,
        statistics_target: match row.optional("attstattarget")? {
            None => -1,
            Some(_) => row.parse("attstattarget")?,
        },
        storage: letter(row, "attstorage")?,
        type_storage: letter(row, "typstorage")?,
        identity: letter(row, "attidentity")?,
        generated: letter(row, "attgenerated")?,
        dropped: flag(row, "attisdropped")?,
        local: flag(row, "attislocal")?,
        not_null,
        not_null_comment: comment,
        not_null_no_inherit: !invalid && flag(row, "notnull_noinherit")?,
        not_null_local: !invalid && flag(row, "notnull_islocal")?,
        not_null_invalid: invalid,
        options: text(row, "attoptions")?,
        collation: number(row, "attcollation")?,
        compression: letter(row, "attcompression")?,
        foreign_options: text(row, "attfdwoptions")?,
        default: None,
        name,
    })
}

impl Constraint {
    pub(super) fn of_table(table: Id, kind: u8) -> Constraint {
        Constraint {
            table: Some(table),
            domain: None,
            kind,
            definition: None,
            foreign_table: 0,
            index: None,
            deferrable: false,
            deferred: false,
            period: false,
            local: true,
            separate: true,
        }
    }
}
