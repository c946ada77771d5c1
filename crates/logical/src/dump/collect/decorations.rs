//! What is said about objects: initial privileges, comments, security labels.

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;

use super::Collector;
use crate::dump::model::{Comment, Id, Kind, Label, Parts, catalog};
use crate::dump::session::{optional, text};

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
            if let Some(commented) = self.with_columns(id, sub) {
                self.model.get_mut(commented).present.add(Parts::COMMENT);
            }
            let comment = Comment { sub, text: text(row, "description")? };
            self.model.comments.entry(object).or_default().push(comment);
        }
        Ok(())
    }

    pub(super) fn security_labels(&mut self) -> Result<()> {
        if self.options.no_security_labels {
            return Ok(());
        }
        // The original sorts no further, so which provider's label comes first is up to the server's plan: asked for the same
        // view it has the same one, unless its statistics changed.
        let rows = self.session.query(
            "SELECT provider, label, classoid, objoid, objsubid FROM pg_catalog.pg_seclabels \
             ORDER BY classoid, objoid, objsubid",
        )?;
        for row in rows.iter() {
            let object = CatalogId { table_oid: row.parse("classoid")?, oid: row.parse("objoid")? };
            let label = Label {
                sub: row.parse("objsubid")?,
                provider: text(row, "provider")?,
                text: text(row, "label")?,
            };
            if let Some(id) = self.model.find(object.table_oid, object.oid) {
                let labelled = self.with_columns(id, label.sub);
                if let Some(labelled) = labelled {
                    self.model.get_mut(labelled).present.add(Parts::LABEL);
                }
            } else if object.table_oid != catalog::DATABASE {
                continue;
            }
            self.model.labels.entry(object).or_default().push(label);
        }
        Ok(())
    }

    /// The object with whose entry it goes what is said of an object's column, or (`sub` 0) of itself: columns of a
    /// composite type go with the type.
    fn with_columns(&self, id: Id, sub: i32) -> Option<Id> {
        let table = self.model.table(id);
        match sub != 0 && table.kind == b'c' {
            true => self.model.find(catalog::TYPE, table.row_type),
            false => Some(id),
        }
    }
}
