//! What is said about objects: initial privileges, comments, security labels.

use pgkeep_format::archive::CatalogId;

use super::Collector;
use crate::dump::model::{Comment, Kind, Parts, catalog};
use crate::dump::session::{optional, text};
use crate::error::{LogicalError, Result};

impl Collector<'_> {
    /// Privileges of columns, and those that `initdb` or extensions gave.
    pub(super) fn additional_privileges(&mut self) -> Result<()> {
        if self.options.no_privileges {
            return Ok(());
        }
        let rows = self
            .session
            .query("SELECT DISTINCT attrelid FROM pg_catalog.pg_attribute WHERE attacl IS NOT NULL")?;
        for row in rows.iter() {
            if let Some(table) = self.model.find_table(row.parse("attrelid")?) {
                self.model.get_mut(table).present.add(Parts::PRIVILEGES);
                self.model.with_table(table, |table| table.has_column_privileges = true);
            }
        }
        let rows = self
            .session
            .query("SELECT objoid, classoid, objsubid, initprivs, privtype FROM pg_catalog.pg_init_privs")?;
        for row in rows.iter() {
            let Some(id) = self.model.find(row.parse("classoid")?, row.parse("objoid")?) else { continue };
            if row.parse::<i32>("objsubid")? != 0 {
                self.model.get_mut(id).present.add(Parts::PRIVILEGES);
                self.model.with_table(id, |table| table.has_column_privileges = true);
                continue;
            }
            let object = self.model.get_mut(id);
            let public = matches!(object.kind, Kind::Schema { .. }) && object.name == "public";
            if !public {
                object.privileges.initial = optional(row, "initprivs")?;
                object.privileges.initial_of_extension = row.text("privtype")? == "e";
            }
        }
        Ok(())
    }

    pub(super) fn comments(&mut self) -> Result<()> {
        if self.options.no_comments {
            return Ok(());
        }
        let rows = self.session.query(
            "SELECT description, classoid, objoid, objsubid FROM pg_catalog.pg_description \
             ORDER BY classoid, objoid, objsubid",
        )?;
        for row in rows.iter() {
            let object = CatalogId { table_oid: row.parse("classoid")?, oid: row.parse("objoid")? };
            let Some(id) = self.model.find(object.table_oid, object.oid) else { continue };
            let sub: i32 = row.parse("objsubid")?;
            // Columns of a composite type are commented with the type.
            let table = self.model.table(id);
            let commented = if sub != 0 && table.kind == b'c' {
                self.model.find(catalog::TYPE, table.row_type)
            } else {
                Some(id)
            };
            if let Some(commented) = commented {
                self.model.get_mut(commented).present.add(Parts::COMMENT);
            }
            let comment = Comment { sub, text: text(row, "description")? };
            self.model.comments.entry(object).or_default().push(comment);
        }
        Ok(())
    }

    /// Labels cannot be written yet: a dump that would lose one fails.
    pub(super) fn security_labels(&mut self) -> Result<()> {
        if self.options.no_security_labels {
            return Ok(());
        }
        let rows = self.session.query(
            "SELECT provider, classoid, objoid FROM pg_catalog.pg_seclabel \
             UNION ALL SELECT provider, classoid, objoid FROM pg_catalog.pg_shseclabel \
             WHERE classoid = 'pg_catalog.pg_database'::pg_catalog.regclass AND objoid = \
               (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
             ORDER BY classoid, objoid",
        )?;
        for row in rows.iter() {
            let id = self.model.find(row.parse("classoid")?, row.parse("objoid")?);
            let name = match id.map(|id| self.model.get(id)) {
                Some(object) if object.wanted.has(Parts::LABEL) => {
                    format!("{} \"{}\"", object.kind.class(), object.name)
                }
                Some(_) => continue,
                None if !self.options.create_database => continue,
                None => "DATABASE".to_owned(),
            };
            return Err(LogicalError::new(format!(
                "security labels are not supported yet: {name} has one of provider \"{}\"",
                row.text("provider")?
            ))
            .hint("Use --no-security-labels to dump without them."));
        }
        Ok(())
    }
}
