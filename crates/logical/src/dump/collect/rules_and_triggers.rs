//! Rules and triggers.

use pgkeep_tool::{Result, ToolError};

use super::{Collector, catalog_id};
use crate::dump::model::{Kind, Parts, Rule, Trigger};
use crate::dump::session::{flag, letter, oid_array, text};

impl Collector<'_> {
    pub(super) fn triggers(&mut self) -> Result<()> {
        let tables = self.model.tables.iter().filter(|id| {
            self.model.table(**id).has_triggers && self.model.get(**id).wanted.has(Parts::DEFINITION)
        });
        let array = oid_array(tables.map(|id| self.model.get(*id).catalog.oid));
        // A partition's copy of a trigger is only looked at when it is enabled otherwise than that one. Up to 14 copies
        // are marked as internal.
        let (copy, which) = if self.session.is_at_least(15) {
            ("t.tgparentid <> 0", "(NOT t.tgisinternal AND t.tgparentid = 0)")
        } else {
            ("t.tgisinternal", "NOT t.tgisinternal")
        };
        let rows = self.session.query(&format!(
            "SELECT t.tgrelid, t.tgname, pg_catalog.pg_get_triggerdef(t.oid, false) AS tgdef, t.tgenabled, \
             t.tableoid, t.oid, {copy} AS tgispartition FROM unnest({array}) AS src(tbloid) \
             JOIN pg_catalog.pg_trigger t ON (src.tbloid = t.tgrelid) \
             LEFT JOIN pg_catalog.pg_trigger u ON (u.oid = t.tgparentid) \
             WHERE ({which} OR t.tgenabled <> u.tgenabled) ORDER BY t.tgrelid, t.tgname"
        ))?;
        for row in rows.iter() {
            let oid: u32 = row.parse("tgrelid")?;
            let Some(table) = self.model.find_table(oid) else {
                return Err(ToolError::catalog(format!("unrecognized table OID {oid}")));
            };
            let trigger = Trigger {
                table,
                enabled: letter(row, "tgenabled")?,
                of_partition: flag(row, "tgispartition")?,
                definition: text(row, "tgdef")?,
            };
            let schema = self.model.get(table).schema;
            self.model.add(catalog_id(row)?, row.text("tgname")?, schema, Kind::Trigger(trigger));
        }
        Ok(())
    }

    pub(super) fn rules(&mut self) -> Result<()> {
        let rows = self.session.query(
            "SELECT tableoid, oid, rulename, ev_class, ev_type, is_instead, ev_enabled FROM pg_catalog.pg_rewrite \
             ORDER BY oid",
        )?;
        for row in rows.iter() {
            let oid: u32 = row.parse("ev_class")?;
            let Some(table) = self.model.find_table(oid) else {
                return Err(ToolError::catalog(format!(
                    "failed sanity check, parent table with OID {oid} of pg_rewrite entry with OID {} not found",
                    row.text("oid")?
                )));
            };
            let mut rule = Rule {
                table,
                event: letter(row, "ev_type")?,
                instead: flag(row, "is_instead")?,
                enabled: letter(row, "ev_enabled")?,
                separate: true,
            };
            // The rule behind a view is the view's definition.
            rule.separate = !(rule.is_view() && matches!(self.model.table(table).kind, b'v' | b'm'));
            let separate = rule.separate;
            let object = self.model.get(table);
            let (schema, wanted) = (object.schema, object.wanted);
            let id = self.model.add(catalog_id(row)?, row.text("rulename")?, schema, Kind::Rule(rule));
            self.model.get_mut(id).wanted = wanted;
            if separate {
                self.model.depend(id, table);
            } else {
                self.model.depend(table, id);
            }
        }
        Ok(())
    }
}
