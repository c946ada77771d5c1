//! What `pg_upgrade` needs beyond a dump: objects get the OIDs and files that they had, since the files are taken over as
//! they are, and tables get columns in the same places, dropped ones too.
//!
//! The server does so in its binary upgrade mode only, by the functions `pg_catalog.binary_upgrade_*`.

use std::collections::HashMap;

use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::Row;

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Table};
use crate::dump::session::{Session, flag, letter, number, optional, text};

/// What the catalogs say that no other dump asks for.
#[derive(Debug, Default)]
pub(super) struct UpgradeFacts {
    classes: HashMap<u32, Class>,
    /// Array types, by the type of their elements.
    arrays: HashMap<u32, u32>,
    /// Multirange types and their array types, by range type.
    multiranges: HashMap<u32, (u32, u32)>,
    /// By relation, in order.
    columns: HashMap<u32, Vec<Column>>,
    extensions: HashMap<u32, Extension>,
    /// OIDs of an enumeration's labels, in order.
    pub(super) enum_labels: HashMap<u32, Vec<u32>>,
    /// Where a subscription stands, and whether it is enabled.
    subscriptions: HashMap<u32, (Option<String>, bool)>,
}

/// A relation, its TOAST table, and the index of that.
#[derive(Debug)]
struct Class {
    kind: u8,
    file: u32,
    horizon: (String, String),
    toast: u32,
    toast_file: u32,
    toast_horizon: (String, String),
    toast_index: u32,
    toast_index_file: u32,
}

/// A column that was dropped, or that old rows lack.
#[derive(Debug)]
struct Column {
    name: String,
    /// Length and alignment, if it was dropped.
    dropped: Option<(String, char)>,
    missing: Option<String>,
}

#[derive(Debug)]
struct Extension {
    relocatable: bool,
    version: String,
    configuration: Option<String>,
    conditions: Option<String>,
}

impl UpgradeFacts {
    pub(super) fn fetch(session: &mut Session) -> Result<UpgradeFacts> {
        let mut facts = UpgradeFacts::default();
        let rows = session.query(
            "SELECT c.oid, c.relkind, c.relfilenode, c.relfrozenxid, c.relminmxid, c.reltoastrelid, \
             ct.relfilenode AS toastfile, ct.relfrozenxid AS toastfrozenxid, ct.relminmxid AS toastminmxid, \
             i.indexrelid, cti.relfilenode AS indexfile FROM pg_catalog.pg_class c \
             LEFT JOIN pg_catalog.pg_index i ON (c.reltoastrelid = i.indrelid AND i.indisvalid) \
             LEFT JOIN pg_catalog.pg_class ct ON (c.reltoastrelid = ct.oid) \
             LEFT JOIN pg_catalog.pg_class cti ON (i.indexrelid = cti.oid)",
        )?;
        for row in rows.iter() {
            facts.classes.insert(row.parse("oid")?, Class::of(row)?);
        }
        let rows = session.query("SELECT oid, typarray FROM pg_catalog.pg_type WHERE typarray <> 0")?;
        for row in rows.iter() {
            facts.arrays.insert(row.parse("oid")?, row.parse("typarray")?);
        }
        if session.is_at_least(14) {
            let rows = session.query(
                "SELECT r.rngtypid, t.oid, t.typarray FROM pg_catalog.pg_type t \
                 JOIN pg_catalog.pg_range r ON t.oid = r.rngmultitypid",
            )?;
            for row in rows.iter() {
                let multirange = (row.parse("oid")?, row.parse("typarray")?);
                facts.multiranges.insert(row.parse("rngtypid")?, multirange);
            }
        }
        let rows = session.query(
            "SELECT attrelid, attname, attisdropped, attlen, attalign, \
             CASE WHEN atthasmissing AND NOT attisdropped THEN attmissingval END AS missing \
             FROM pg_catalog.pg_attribute WHERE attnum > 0 AND (attisdropped OR atthasmissing) \
             ORDER BY attrelid, attnum",
        )?;
        for row in rows.iter() {
            let dropped = (text(row, "attlen")?, char::from(letter(row, "attalign")?));
            let column = Column {
                name: text(row, "attname")?,
                dropped: flag(row, "attisdropped")?.then_some(dropped),
                missing: optional(row, "missing")?.filter(|missing| !missing.is_empty()),
            };
            facts.columns.entry(row.parse("attrelid")?).or_default().push(column);
        }
        facts.fetch_others(session)?;
        Ok(facts)
    }

    fn fetch_others(&mut self, session: &mut Session) -> Result<()> {
        let rows = session.query(
            "SELECT oid, extrelocatable, extversion, extconfig, extcondition FROM pg_catalog.pg_extension",
        )?;
        for row in rows.iter() {
            let list = |column: &str| -> Result<Option<String>> {
                Ok(optional(row, column)?.filter(|array| array.len() > 2))
            };
            let extension = Extension {
                relocatable: flag(row, "extrelocatable")?,
                version: text(row, "extversion")?,
                configuration: list("extconfig")?,
                conditions: list("extcondition")?,
            };
            self.extensions.insert(row.parse("oid")?, extension);
        }
        let rows = session
            .query("SELECT enumtypid, oid FROM pg_catalog.pg_enum ORDER BY enumtypid, enumsortorder")?;
        for row in rows.iter() {
            self.enum_labels.entry(row.parse("enumtypid")?).or_default().push(row.parse("oid")?);
        }
        let superuser = session.connection().parameter("is_superuser") == Some("on");
        if session.is_at_least(17) && superuser {
            let rows = session.query(
                "SELECT s.oid, s.subenabled, o.remote_lsn FROM pg_catalog.pg_subscription s \
                 LEFT JOIN pg_catalog.pg_replication_origin_status o ON o.external_id = 'pg_' || s.oid::text",
            )?;
            for row in rows.iter() {
                let state = (optional(row, "remote_lsn")?, flag(row, "subenabled")?);
                self.subscriptions.insert(row.parse("oid")?, state);
            }
        }
        Ok(())
    }
}

impl Class {
    fn of(row: Row<'_>) -> Result<Class> {
        Ok(Class {
            kind: letter(row, "relkind")?,
            file: number(row, "relfilenode")?,
            horizon: (text(row, "relfrozenxid")?, text(row, "relminmxid")?),
            toast: number(row, "reltoastrelid")?,
            toast_file: number(row, "toastfile")?,
            toast_horizon: (text(row, "toastfrozenxid")?, text(row, "toastminmxid")?),
            toast_index: number(row, "indexrelid")?,
            toast_index_file: number(row, "indexfile")?,
        })
    }
}

fn set_next(what: &str, oid: u32) -> String {
    format!("SELECT pg_catalog.binary_upgrade_set_next_{what}('{oid}'::pg_catalog.oid);\n")
}

/// How the OIDs that come with a type are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TypeOids {
    /// An array type if there is one.
    Plain,
    /// There has to be an array type.
    WithArray,
    /// With a multirange type and its array type.
    WithMultirange,
}

impl Definer<'_> {
    /// What goes in front of whatever makes a type. Nothing but in a binary upgrade, as of all functions here.
    pub(super) fn preserve_type(&self, oid: u32, with: TypeOids) -> Result<String> {
        let Some(facts) = self.texts.upgrade.as_ref().filter(|_| oid != 0) else { return Ok(String::new()) };
        let mut sql = String::new();
        let mut preserve = |comment: &str, what: &str, oid: u32| {
            sql.push_str(&format!(
                "\n-- For binary upgrade, must preserve {comment} oid\n{}\n",
                set_next(what, oid)
            ));
        };
        preserve("pg_type", "pg_type_oid", oid);
        match facts.arrays.get(&oid) {
            Some(array) => preserve("pg_type array", "array_pg_type_oid", *array),
            // Servers from 11 on make array types of domains; one upgraded to 13 or less may have some without.
            None if with == TypeOids::WithArray => {
                return Err(ToolError::new(format!("domain with OID {oid} has no array type"))
                    .hint("--binary-upgrade cannot make up an OID for it; make the domain anew first"));
            }
            None => {}
        }
        if with == TypeOids::WithMultirange {
            let Some((multirange, array)) = facts.multiranges.get(&oid) else {
                return Err(ToolError::new(format!("range type with OID {oid} has no multirange type"))
                    .hint(
                        "--binary-upgrade needs a server of version 14 or later where there are range types",
                    ));
            };
            preserve("multirange pg_type", "multirange_pg_type_oid", *multirange);
            preserve("multirange pg_type array", "multirange_array_pg_type_oid", *array);
        }
        Ok(sql)
    }

    /// What goes in front of whatever makes a relation or an index.
    pub(super) fn preserve_class(&self, oid: u32) -> Result<String> {
        let Some(facts) = &self.texts.upgrade else { return Ok(String::new()) };
        let class = facts
            .classes
            .get(&oid)
            .ok_or_else(|| ToolError::catalog(format!("relation with OID {oid} does not exist")))?;
        let mut sql = String::from("\n-- For binary upgrade, must preserve pg_class oids and relfilenodes\n");
        if matches!(class.kind, b'i' | b'I') {
            sql.push_str(&set_next("index_pg_class_oid", oid));
            sql.push_str(&set_next("index_relfilenode", class.file));
        } else {
            sql.push_str(&set_next("heap_pg_class_oid", oid));
            if class.file != 0 && class.kind != b'p' {
                sql.push_str(&set_next("heap_relfilenode", class.file));
            }
            if class.toast != 0 && class.kind != b'p' {
                sql.push_str(&set_next("toast_pg_class_oid", class.toast));
                sql.push_str(&set_next("toast_relfilenode", class.toast_file));
                sql.push_str(&set_next("index_pg_class_oid", class.toast_index));
                sql.push_str(&set_next("index_relfilenode", class.toast_index_file));
            }
        }
        sql.push('\n');
        Ok(sql)
    }

    /// What goes behind CREATE TABLE: what its columns, constraints and parents are like in truth.
    pub(super) fn restore_physical_state(&self, id: Id, table: &Table, name: &str) -> Result<String> {
        let Some(facts) = &self.texts.upgrade else { return Ok(String::new()) };
        let oid = self.model.get(id).catalog.oid;
        let literal = self.quoting.literal(name);
        let mut sql = String::new();
        for column in facts.columns.get(&oid).into_iter().flatten() {
            if let Some(missing) = &column.missing {
                sql.push_str(&format!(
                    "\n-- set missing value.\nSELECT pg_catalog.binary_upgrade_set_missing_value(\
                     {literal}::pg_catalog.regclass,{},{});\n\n",
                    self.quoting.literal(&column.name),
                    self.quoting.literal(missing)
                ));
            }
        }
        if matches!(table.kind, b'r' | b'f' | b'p') {
            self.push_dropped_columns(&mut sql, oid, table, name);
            self.push_inherited_columns(&mut sql, table, &literal);
            self.push_inherited_not_nulls(&mut sql, table, &literal);
            self.push_inherited_checks(&mut sql, table, name, &literal);
            let foreign = if table.kind == b'f' { "FOREIGN " } else { "" };
            if !table.parents.is_empty() && !table.partition {
                sql.push_str("\n-- For binary upgrade, set up inheritance this way.\n");
                for parent in &table.parents {
                    sql.push_str(&format!(
                        "ALTER {foreign}TABLE ONLY {name} INHERIT {};\n",
                        self.qualified(*parent)
                    ));
                }
            }
            if table.of_type != 0 {
                sql.push_str(&format!(
                    "\n-- For binary upgrade, set up typed tables this way.\nALTER TABLE ONLY {name} OF {};\n",
                    self.type_name(table.of_type)?
                ));
            }
        }
        if matches!(table.kind, b'r' | b'm')
            && let Some(class) = facts.classes.get(&oid)
        {
            let update = |(frozen, multi): &(String, String), of: &str| {
                format!(
                    "UPDATE pg_catalog.pg_class\nSET relfrozenxid = '{frozen}', relminmxid = '{multi}'\n\
                     WHERE oid = {of};\n"
                )
            };
            sql.push_str("\n-- For binary upgrade, set heap's relfrozenxid and relminmxid\n");
            sql.push_str(&update(&class.horizon, &format!("{literal}::pg_catalog.regclass")));
            if class.toast != 0 {
                sql.push_str("\n-- For binary upgrade, set toast's relfrozenxid and relminmxid\n");
                sql.push_str(&update(&class.toast_horizon, &format!("'{}'", class.toast)));
            }
        }
        if table.kind == b'm' && table.populated {
            sql.push_str(&format!(
                "\n-- For binary upgrade, mark materialized view as populated\nUPDATE pg_catalog.pg_class\n\
                 SET relispopulated = 't'\nWHERE oid = {literal}::pg_catalog.regclass;\n"
            ));
        }
        Ok(sql)
    }

    fn push_dropped_columns(&self, sql: &mut String, oid: u32, table: &Table, name: &str) {
        let foreign = if table.kind == b'f' { "FOREIGN " } else { "" };
        let (values, drops) = self.dropped_columns(oid, |column| {
            format!("ALTER {foreign}TABLE ONLY {name} DROP COLUMN {column};\n")
        });
        if !values.is_empty() {
            sql.push_str(&format!(
                "\n-- For binary upgrade, recreate dropped columns.\nUPDATE pg_catalog.pg_attribute\n\
                 SET attlen = v.dlen, attalign = v.dalign, attbyval = false\nFROM (VALUES {}) v(dname, dlen, dalign)\n\
                 WHERE attrelid = {}::pg_catalog.regclass\n  AND attname = v.dname;\n{drops}",
                values.join(",\n             "),
                self.quoting.literal(name)
            ));
        }
    }

    /// Name, length and alignment of each dropped column, and the commands that drop them.
    fn dropped_columns(&self, oid: u32, drop: impl Fn(&str) -> String) -> (Vec<String>, String) {
        let columns = self.texts.upgrade.as_ref().and_then(|facts| facts.columns.get(&oid));
        let mut values = Vec::new();
        let mut drops = String::new();
        for column in columns.into_iter().flatten() {
            if let Some((length, alignment)) = &column.dropped {
                values.push(format!("({}, {length}, '{alignment}')", self.quoting.literal(&column.name)));
                drops.push_str(&drop(&self.quoting.name(&column.name)));
            }
        }
        (values, drops)
    }

    fn push_inherited_columns(&self, sql: &mut String, table: &Table, literal: &str) {
        let inherited = table.columns.iter().filter(|column| !column.dropped && !column.local);
        let names: Vec<String> = inherited.map(|column| self.quoting.literal(&column.name)).collect();
        if !names.is_empty() {
            sql.push_str(&format!(
                "\n-- For binary upgrade, recreate inherited columns.\nUPDATE pg_catalog.pg_attribute\n\
                 SET attislocal = false\nWHERE attrelid = {literal}::pg_catalog.regclass\n  AND attname IN ({});\n",
                names.join(", ")
            ));
        }
    }

    /// By name, or by column where the server gives no name: before 18.
    fn push_inherited_not_nulls(&self, sql: &mut String, table: &Table, literal: &str) {
        let (mut names, mut numbers) = (Vec::new(), Vec::new());
        for (position, column) in table.columns.iter().enumerate() {
            match column.not_null.as_deref().filter(|_| !column.not_null_local) {
                Some("") => numbers.push(format!("'{{{}}}'", position + 1)),
                Some(name) => names.push(self.quoting.literal(name)),
                None => {}
            }
        }
        for (column, list) in [("conname", names), ("conkey", numbers)] {
            if !list.is_empty() {
                sql.push_str(&format!(
                    "UPDATE pg_catalog.pg_constraint\nSET conislocal = false\nWHERE contype = 'n' AND conrelid = \
                     {literal}::pg_catalog.regclass AND\n{column} IN ({});\n",
                    list.join(", ")
                ));
            }
        }
    }

    fn push_inherited_checks(&self, sql: &mut String, table: &Table, name: &str, literal: &str) {
        let foreign = if table.kind == b'f' { "FOREIGN " } else { "" };
        let mut names = Vec::new();
        for check in &table.checks {
            let object = self.model.get(*check);
            let Kind::Constraint(facts) = &object.kind else { continue };
            if facts.separate || facts.local || table.partition {
                continue;
            }
            if names.is_empty() {
                sql.push_str("\n-- For binary upgrade, set up inherited constraints.\n");
            }
            sql.push_str(&format!(
                "ALTER {foreign}TABLE ONLY {name} ADD CONSTRAINT {} {};\n",
                self.quoting.name(&object.name),
                facts.definition.as_deref().unwrap_or("")
            ));
            names.push(self.quoting.literal(&object.name));
        }
        if !names.is_empty() {
            sql.push_str(&format!(
                "UPDATE pg_catalog.pg_constraint\nSET conislocal = false\nWHERE contype = 'c' AND conrelid = \
                 {literal}::pg_catalog.regclass\n  AND conname IN ({});\n",
                names.join(", ")
            ));
        }
    }

    /// What goes behind CREATE TYPE of a composite type: its dropped columns are dropped again.
    pub(super) fn drop_attributes(&self, relation: u32, name: &str) -> String {
        let columns = self.texts.upgrade.as_ref().and_then(|facts| facts.columns.get(&relation));
        let mut sql = String::new();
        for column in columns.into_iter().flatten() {
            if let Some((length, alignment)) = &column.dropped {
                sql.push_str(&format!(
                    "\n-- For binary upgrade, recreate dropped column.\nUPDATE pg_catalog.pg_attribute\n\
                     SET attlen = {length}, attalign = '{alignment}', attbyval = false\nWHERE attname = {}\n  \
                     AND attrelid = {}::pg_catalog.regclass;\nALTER TYPE {name} DROP ATTRIBUTE {};\n",
                    self.quoting.literal(&column.name),
                    self.quoting.literal(name),
                    self.quoting.name(&column.name)
                ));
            }
        }
        sql
    }

    /// An extension without members: those are made one by one and added.
    pub(super) fn empty_extension(&self, id: Id, schema: &str) -> Option<String> {
        let object = self.model.get(id);
        let facts = self.texts.upgrade.as_ref()?.extensions.get(&object.catalog.oid)?;
        let list = |array: &Option<String>| {
            array.as_ref().map_or_else(|| "NULL".to_owned(), |array| self.quoting.literal(array))
        };
        let needed: Vec<String> = object
            .dependencies
            .iter()
            .map(|on| self.model.get(*on))
            .filter(|on| matches!(on.kind, Kind::Extension(_)))
            .map(|on| self.quoting.literal(&on.name))
            .collect();
        Some(format!(
            "-- For binary upgrade, create an empty extension and insert objects into it\n\
             DROP EXTENSION IF EXISTS {};\n\
             SELECT pg_catalog.binary_upgrade_create_empty_extension({}, {}, {}, {}, {}, {}, \
             ARRAY[{}]::pg_catalog.text[]);\n",
            self.quoting.name(&object.name),
            self.quoting.literal(&object.name),
            self.quoting.literal(schema),
            facts.relocatable,
            self.quoting.literal(&facts.version),
            list(&facts.configuration),
            list(&facts.conditions),
            needed.join(",")
        ))
    }

    /// What goes behind whatever makes a member of an extension. Which object that is, is said as in its DROP.
    pub(super) fn membership(&self, draft: &Draft) -> Option<String> {
        let id = draft.id.filter(|_| self.texts.upgrade.is_some())?;
        let object = self.model.get(id);
        let extension = self.model.members.get(&object.catalog).filter(|_| object.extension_member)?;
        let drop = draft.drop.as_deref().unwrap_or("");
        let subject = match (&object.kind, drop.strip_prefix("DROP ")) {
            // Identity sequences go with their column, and `public` is not dropped.
            (Kind::Table(_), None) => format!("SEQUENCE {}", self.qualified(id)),
            (Kind::Schema { .. }, None) => format!("SCHEMA {}", self.name(id)),
            (_, None) => return None,
            (_, Some(dropped)) => {
                let dropped = dropped.strip_suffix(";\n").unwrap_or(dropped);
                let dropped = dropped.strip_suffix(" CASCADE").unwrap_or(dropped);
                dropped.strip_prefix("PROCEDURAL ").unwrap_or(dropped).to_owned()
            }
        };
        Some(format!(
            "\n-- For binary upgrade, handle extension membership the hard way\nALTER EXTENSION {} ADD {subject};\n",
            self.name(*extension)
        ))
    }

    /// What goes behind CREATE SUBSCRIPTION: it goes on where it stood.
    pub(super) fn subscription_state(&self, id: Id) -> String {
        let object = self.model.get(id);
        let facts = self.texts.upgrade.as_ref();
        let Some((position, enabled)) = facts.and_then(|facts| facts.subscriptions.get(&object.catalog.oid))
        else {
            return String::new();
        };
        let mut sql = String::new();
        if let Some(position) = position {
            sql.push_str(&format!(
                "\n-- For binary upgrade, must preserve the remote_lsn for the subscriber's replication origin.\n\
                 SELECT pg_catalog.binary_upgrade_replorigin_advance({}, '{position}');\n",
                self.quoting.literal(&object.name)
            ));
        }
        if *enabled {
            sql.push_str(&format!(
                "\n-- For binary upgrade, must preserve the subscriber's running state.\n\
                 ALTER SUBSCRIPTION {} ENABLE;\n",
                self.name(id)
            ));
        }
        sql
    }
}
