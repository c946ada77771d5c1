//! Tables, views, sequences and composite types, and the locks that keep them as they are.

use std::collections::HashMap;

use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::Row;

use super::{Collector, Sequence, catalog_id};
use crate::dump::model::{Id, Kind, Parts, Table};
use crate::dump::session::{flag, letter, number, optional, text};

/// LOCK TABLE is sent in commands of about this length.
const LOCK_COMMAND_LENGTH: usize = 100_000;

impl Collector<'_> {
    pub(super) fn tables(&mut self) -> Result<()> {
        // Sequences depend on their owners 'a'utomatically or, of identity columns, 'i'nternally.
        let frozen = self.frozen_pages("c");
        let rows = self.session.query(&format!(
            "SELECT c.tableoid, c.oid, c.relname, c.relnamespace, c.relkind, c.reltype, c.relowner, c.relchecks, \
             c.relhasindex, c.relpages, c.reltuples, c.relallvisible, {frozen} AS relallfrozen, GREATEST(c.relpages, 0) + GREATEST(tc.relpages, 0) AS pages, c.relhastriggers, c.relpersistence, c.reloftype, c.relacl, \
             pg_catalog.acldefault(CASE WHEN c.relkind = 'S' THEN 's'::\"char\" ELSE 'r'::\"char\" END, \
                                   c.relowner) AS acldefault, \
             CASE WHEN c.relkind = 'f' THEN \
               (SELECT ftserver FROM pg_catalog.pg_foreign_table WHERE ftrelid = c.oid) ELSE 0 END AS foreignserver, \
             tc.reloptions AS toast_reloptions, \
             d.refobjid AS owning_tab, d.refobjsubid AS owning_col, tsp.spcname AS reltablespace, \
             c.relispopulated, c.relreplident, c.relrowsecurity, c.relforcerowsecurity, \
             array_remove(array_remove(c.reloptions, 'check_option=local'), 'check_option=cascaded') AS reloptions, \
             CASE WHEN 'check_option=local' = ANY (c.reloptions) THEN 'LOCAL'::text \
                  WHEN 'check_option=cascaded' = ANY (c.reloptions) THEN 'CASCADED'::text END AS checkoption, \
             am.amname, (d.deptype = 'i') IS TRUE AS is_identity_sequence, c.relispartition \
             FROM pg_catalog.pg_class c \
             LEFT JOIN pg_catalog.pg_depend d ON (c.relkind = 'S' \
               AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0 \
               AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')) \
             LEFT JOIN pg_catalog.pg_tablespace tsp ON (tsp.oid = c.reltablespace) \
             LEFT JOIN pg_catalog.pg_am am ON (c.relam = am.oid) \
             LEFT JOIN pg_catalog.pg_class tc ON (c.reltoastrelid = tc.oid AND tc.relkind = 't' \
               AND c.relkind <> 'p') \
             WHERE c.relkind IN ('r', 'S', 'v', 'c', 'm', 'f', 'p') ORDER BY c.oid"
        ))?;
        if let Some(timeout) = &self.options.session.lock_wait_timeout {
            let timeout = self.session.quoting.literal(timeout);
            self.session.execute(&format!("SET statement_timeout = {timeout}"))?;
        }
        let mut locks = Vec::new();
        let mut length = 0;
        for row in rows.iter() {
            let id = self.table(row)?;
            self.model.tables.push(id);
            let object = self.model.get(id);
            if object.wanted.has(Parts::LOCKED) && matches!(self.model.table(id).kind, b'r' | b'p') {
                let name = self.session.quoting.qualified(self.model.schema_name(id), &object.name);
                length += name.len() + 2;
                locks.push(name);
                if length >= LOCK_COMMAND_LENGTH {
                    self.lock(&mut locks)?;
                    length = 0;
                }
            }
        }
        self.lock(&mut locks)?;
        if self.options.session.lock_wait_timeout.is_some() {
            self.session.execute("SET statement_timeout = 0")?;
        }
        Ok(())
    }

    /// What the server makes texts from are the catalogs of now, not of the snapshot: nobody may change them meanwhile.
    fn lock(&mut self, tables: &mut Vec<String>) -> Result<()> {
        if tables.is_empty() {
            return Ok(());
        }
        let command = format!("LOCK TABLE {} IN ACCESS SHARE MODE", tables.join(", "));
        tables.clear();
        self.session.execute(&command)
    }

    fn table(&mut self, row: Row<'_>) -> Result<Id> {
        let owning_table: u32 = number(row, "owning_tab")?;
        let kind = letter(row, "relkind")?;
        let table = Table {
            kind,
            row_type: number(row, "reltype")?,
            check_count: number(row, "relchecks")?,
            has_index: flag(row, "relhasindex")?,
            has_triggers: flag(row, "relhastriggers")?,
            pages: number(row, "pages")?,
            persistence: letter(row, "relpersistence")?,
            populated: flag(row, "relispopulated")?,
            replica_identity: letter(row, "relreplident")?,
            row_security: flag(row, "relrowsecurity")?,
            force_row_security: flag(row, "relforcerowsecurity")?,
            options: optional(row, "reloptions")?,
            check_option: optional(row, "checkoption")?,
            toast_options: optional(row, "toast_reloptions")?,
            of_type: number(row, "reloftype")?,
            foreign_server: number(row, "foreignserver")?,
            access_method: optional(row, "amname")?,
            tablespace: text(row, "reltablespace")?,
            owned_by: (owning_table != 0).then_some((owning_table, number(row, "owning_col")?)),
            identity_sequence: flag(row, "is_identity_sequence")?,
            partition: flag(row, "relispartition")?,
            whole: self.options.binary_upgrade,
            ..Table::default()
        };
        let schema = self.schema(row.parse("relnamespace")?)?;
        let id = self.model.add(
            catalog_id(row)?,
            row.text("relname")?,
            Some(schema),
            Kind::Table(Box::new(table)),
        );
        self.owner(id, row.parse("relowner")?)?;
        // A composite type is dumped as a type.
        if kind == b'c' {
            self.model.get_mut(id).wanted = Parts::NONE;
        } else {
            self.select_table(id);
        }
        self.privileges(id, row, "relacl")?;
        let object = self.model.get_mut(id);
        object.present.add(Parts::DATA);
        let interesting = object.wanted.has(Parts::CONTENTS);
        self.model.with_table(id, |table| table.interesting = interesting);
        if interesting {
            let statistics = self.statistics(id, row, kind, Vec::new())?;
            if kind == b'm' {
                self.model.with_table(id, |table| table.statistics = statistics);
            }
        }
        Ok(id)
    }

    /// A sequence that a column owns is dumped where the column is.
    pub(super) fn owned_sequences(&mut self) -> Result<()> {
        for id in self.model.tables.clone() {
            let Some((owner_oid, _)) = self.model.table(id).owned_by else { continue };
            let Some(owner) = self.model.find_table(owner_oid) else {
                return Err(ToolError::catalog(format!(
                    "failed sanity check, parent table with OID {owner_oid} of sequence with OID {} not found",
                    self.model.get(id).catalog.oid
                )));
            };
            let wanted_of_owner = self.model.get(owner).wanted;
            let identity = self.model.table(id).identity_sequence;
            let sequence = self.model.get_mut(id);
            if identity {
                sequence.wanted = wanted_of_owner;
            } else {
                sequence.wanted.add(wanted_of_owner);
            }
            if !sequence.wanted.is_empty() {
                self.model.with_table(id, |table| table.interesting = true);
                self.model.with_table(owner, |table| table.interesting = true);
            }
        }
        Ok(())
    }

    pub(super) fn unsafe_partitions(&mut self) -> Result<()> {
        if !self.options.data {
            return Ok(());
        }
        // The hash of an enum's value is that of its OID, which is another one after a restore.
        let rows = self.session.query(
            "SELECT partrelid FROM pg_catalog.pg_partitioned_table WHERE \
             (SELECT c.oid FROM pg_catalog.pg_opclass c JOIN pg_catalog.pg_am a ON c.opcmethod = a.oid \
              WHERE opcname = 'enum_ops' AND opcnamespace = 'pg_catalog'::pg_catalog.regnamespace \
              AND amname = 'hash') = ANY(partclass)",
        )?;
        for row in rows.iter() {
            if let Some(table) = self.model.find_table(row.parse("partrelid")?) {
                self.model.with_table(table, |table| table.unsafe_partitions = true);
            }
        }
        Ok(())
    }

    pub(super) fn sequences(&mut self) -> Result<HashMap<u32, Sequence>> {
        let positions = self.options.data || self.options.sequence_data;
        let position = if positions && self.session.is_at_least(18) {
            "last_value, is_called FROM pg_catalog.pg_sequence, pg_catalog.pg_get_sequence_data(seqrelid)"
        } else {
            "NULL AS last_value, NULL AS is_called FROM pg_catalog.pg_sequence"
        };
        let rows = self.session.query(&format!(
            "SELECT seqrelid, pg_catalog.format_type(seqtypid, NULL) AS seqtype, seqstart, seqincrement, seqmax, \
             seqmin, seqcache, seqcycle, {position} ORDER BY seqrelid"
        ))?;
        let mut sequences = HashMap::new();
        for row in rows.iter() {
            let position = match row.optional("last_value")? {
                None => None,
                Some(_) if row.optional("is_called")?.is_none() => None,
                Some(_) => Some((row.parse("last_value")?, row.boolean("is_called")?)),
            };
            let sequence = Sequence {
                type_name: text(row, "seqtype")?,
                start: row.parse("seqstart")?,
                increment: row.parse("seqincrement")?,
                maximum: row.parse("seqmax")?,
                minimum: row.parse("seqmin")?,
                cache: row.parse("seqcache")?,
                cycles: row.boolean("seqcycle")?,
                position,
            };
            sequences.insert(row.parse("seqrelid")?, sequence);
        }
        Ok(sequences)
    }
}
