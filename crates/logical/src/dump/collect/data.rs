//! What is data: rows of tables, positions of sequences, contents of materialised views, large objects.

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;

use super::Collector;
use crate::dump::model::{Id, Kind, Parts, TableData, catalog};
use crate::dump::session::{optional, text};

/// The most large objects of one entry.
const LARGE_OBJECTS_PER_ENTRY: usize = 1000;

impl Collector<'_> {
    pub(super) fn data(&mut self) -> Result<()> {
        let (rows, sequences) = (self.options.data, self.options.sequence_data);
        for id in self.model.tables.clone() {
            let of_interest = rows || (sequences && self.model.table(id).kind == b'S');
            if of_interest && self.model.get(id).wanted.has(Parts::DATA) {
                self.table_data(id);
            }
        }
        if rows {
            self.refresh_dependencies()?;
            if !self.options.schema {
                self.order_by_foreign_keys();
            }
        }
        Ok(())
    }

    /// Makes the object of a table's data, if it has any.
    pub(super) fn table_data(&mut self, id: Id) {
        let table = self.model.table(id);
        let oid = self.model.get(id).catalog.oid;
        let skip_unlogged = self.options.no_unlogged_table_data || self.session.is_standby;
        let foreign = table.kind == b'f' && !self.selection.foreign_servers.contains(&table.foreign_server);
        if table.data.is_some()
            || matches!(table.kind, b'v' | b'p')
            || foreign
            || (table.persistence == b'u' && skip_unlogged)
            || self.selection.exclude_table_data.contains(&oid)
        {
            return;
        }
        let facts = TableData { table: id, condition: None };
        let kind = match table.kind {
            b'm' => Kind::MatviewRefresh(facts),
            b'S' => Kind::SequenceSet(facts),
            _ => Kind::TableData(facts),
        };
        let object = self.model.get(id);
        let (name, schema) = (object.name.clone(), object.schema);
        let data = self.model.add(CatalogId { table_oid: 0, oid }, name, schema, kind);
        self.model.depend(data, id);
        self.model.get_mut(data).present.add(Parts::DATA);
        // A refresh makes the view anew, without statistics.
        if let Some(statistics) = self.model.table(id).statistics {
            if let Kind::Statistics(facts) = &mut self.model.get_mut(statistics).kind {
                facts.post_data = true;
            }
            self.model.depend(statistics, data);
        }
        self.model.with_table(id, |table| {
            table.data = Some(data);
            table.interesting = true;
        });
    }

    /// A materialised view is refreshed after those that it reads, through views too.
    fn refresh_dependencies(&mut self) -> Result<()> {
        let rows = self.session.query(
            "WITH RECURSIVE w AS ( \
               SELECT d1.objid, d2.refobjid, c2.relkind AS refrelkind FROM pg_catalog.pg_depend d1 \
               JOIN pg_catalog.pg_class c1 ON c1.oid = d1.objid AND c1.relkind = 'm' \
               JOIN pg_catalog.pg_rewrite r1 ON r1.ev_class = d1.objid \
               JOIN pg_catalog.pg_depend d2 ON d2.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
                 AND d2.objid = r1.oid AND d2.refobjid <> d1.objid \
               JOIN pg_catalog.pg_class c2 ON c2.oid = d2.refobjid AND c2.relkind IN ('m', 'v') \
               WHERE d1.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
             UNION \
               SELECT w.objid, d3.refobjid, c3.relkind FROM w \
               JOIN pg_catalog.pg_rewrite r3 ON r3.ev_class = w.refobjid \
               JOIN pg_catalog.pg_depend d3 ON d3.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
                 AND d3.objid = r3.oid AND d3.refobjid <> w.refobjid \
               JOIN pg_catalog.pg_class c3 ON c3.oid = d3.refobjid AND c3.relkind IN ('m', 'v') \
             ) SELECT objid, refobjid FROM w WHERE refrelkind = 'm'",
        )?;
        for row in rows.iter() {
            let view = self.model.find_table(row.parse("objid")?);
            let read = self.model.find_table(row.parse("refobjid")?);
            let (Some(view), Some(read)) = (view, read) else { continue };
            let (Some(data), Some(data_read)) = (self.model.table(view).data, self.model.table(read).data)
            else {
                continue;
            };
            self.model.depend(data, data_read);
            if !self.model.table(read).populated {
                self.model.with_table(view, |table| table.populated = false);
            }
        }
        Ok(())
    }

    /// Where only rows are dumped the foreign keys are there already when they are restored.
    fn order_by_foreign_keys(&mut self) {
        let mut pairs = Vec::new();
        for id in self.model.ids() {
            let Kind::ForeignKey(key) = &self.model.get(id).kind else { continue };
            let from = key.table.and_then(|table| self.model.table(table).data);
            let to = self.model.find_table(key.foreign_table).and_then(|table| self.model.table(table).data);
            pairs.extend(from.zip(to));
        }
        for (from, to) in pairs {
            self.model.depend(from, to);
        }
    }

    /// Large objects with the same owner and privileges share an entry.
    pub(super) fn large_objects(&mut self) -> Result<()> {
        let default = self.options.everything && self.options.data;
        if !self.options.large_objects.unwrap_or(default) && !self.options.binary_upgrade {
            return Ok(());
        }
        let rows = self.session.query(
            "SELECT oid, lomowner, lomacl, pg_catalog.acldefault('L', lomowner) AS acldefault \
             FROM pg_catalog.pg_largeobject_metadata ORDER BY lomowner, lomacl::pg_catalog.text, oid",
        )?;
        let mut groups: Vec<(u32, Option<String>, String, Vec<u32>)> = Vec::new();
        for row in rows.iter() {
            let (oid, owner) = (row.parse("oid")?, row.parse("lomowner")?);
            let privileges = optional(row, "lomacl")?;
            match groups.last_mut() {
                Some((group_owner, group_privileges, _, oids))
                    if *group_owner == owner
                        && group_privileges.as_deref().unwrap_or("")
                            == privileges.as_deref().unwrap_or("")
                        && oids.len() < LARGE_OBJECTS_PER_ENTRY =>
                {
                    oids.push(oid);
                }
                _ => groups.push((owner, privileges, text(row, "acldefault")?, vec![oid])),
            }
        }
        for (owner, privileges, default, oids) in groups {
            let (Some(first), Some(last)) = (oids.first().copied(), oids.last().copied()) else { continue };
            let name = if first == last { first.to_string() } else { format!("{first}..{last}") };
            let row = |oid| CatalogId { table_oid: catalog::LARGE_OBJECT, oid };
            let metadata =
                self.model.add(row(first), name.clone(), None, Kind::LargeObjects { oids: oids.clone() });
            for oid in &oids[1..] {
                self.model.also(row(*oid), metadata);
            }
            self.owner(metadata, owner)?;
            let object = self.model.get_mut(metadata);
            object.present.add(Parts::DATA);
            if privileges.is_some() {
                object.present.add(Parts::PRIVILEGES);
            }
            object.privileges.current = privileges;
            object.privileges.default = default;
            if self.options.binary_upgrade {
                // Their contents are in the files that are taken over.
                object.wanted = object.wanted.without(Parts::DATA);
            }
            let data = self.model.add(CatalogId::default(), name, None, Kind::LargeObjectData { metadata });
            self.model.get_mut(data).present.add(Parts::DATA);
            self.model.depend(data, metadata);
        }
        Ok(())
    }
}
