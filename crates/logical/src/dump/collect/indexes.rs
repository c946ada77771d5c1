//! Indexes, the constraints they stand for, and foreign keys.

use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::Row;

use super::{Collector, catalog_id};
use crate::dump::model::{Constraint, Id, Index, Kind, Parts};
use crate::dump::session::{flag, letter, number, oid_array, optional, text};
use crate::dump::sql::parse_array;

impl Collector<'_> {
    /// The query for all indexes and the constraints that they stand for.
    pub(super) fn indexes_query(&self) -> String {
        let tables = self.model.tables.iter().filter(|id| {
            let table = self.model.table(**id);
            table.has_index && table.interesting
        });
        let array = oid_array(tables.map(|id| self.model.get(*id).catalog.oid));
        let distinct = if self.session.is_at_least(15) { "i.indnullsnotdistinct" } else { "false" };
        let frozen = self.frozen_pages("t");
        let period = if self.session.is_at_least(18) { "c.conperiod" } else { "NULL" };
        // Texts are asked for where they are used: the server spends most of the time on them.
        // Invalid indexes are left out, but those of partitioned tables are invalid until all partitions have theirs.
        format!(
            "SELECT t.tableoid, t.oid, i.indrelid, t.relname AS indexname, t.relpages, t.reltuples, t.relallvisible, \
             {frozen} AS relallfrozen, CASE WHEN i.indexprs IS NOT NULL THEN (SELECT pg_catalog.array_agg(attname \
               ORDER BY attnum) FROM pg_catalog.pg_attribute WHERE attrelid = i.indexrelid) END AS indattnames, \
             CASE WHEN c.oid IS NULL THEN pg_catalog.pg_get_indexdef(i.indexrelid) END AS indexdef, \
             i.indkey, i.indisclustered, c.contype, c.conname, \
             c.condeferrable, c.condeferred, c.tableoid AS contableoid, c.oid AS conoid, \
             CASE WHEN c.contype = 'x' THEN pg_catalog.pg_get_constraintdef(c.oid, false) END AS condef, \
             (SELECT spcname FROM pg_catalog.pg_tablespace s WHERE s.oid = t.reltablespace) AS tablespace, \
             t.reloptions AS indreloptions, i.indisreplident, inh.inhparent AS parentidx, i.indnkeyatts, \
             (SELECT pg_catalog.array_agg(attnum ORDER BY attnum) FROM pg_catalog.pg_attribute \
              WHERE attrelid = i.indexrelid AND attstattarget >= 0) AS indstatcols, \
             (SELECT pg_catalog.array_agg(attstattarget ORDER BY attnum) FROM pg_catalog.pg_attribute \
              WHERE attrelid = i.indexrelid AND attstattarget >= 0) AS indstatvals, \
             {distinct} AS indnullsnotdistinct, {period} AS conperiod \
             FROM unnest({array}) AS src(tbloid) JOIN pg_catalog.pg_index i ON (src.tbloid = i.indrelid) \
             JOIN pg_catalog.pg_class t ON (t.oid = i.indexrelid) \
             JOIN pg_catalog.pg_class t2 ON (t2.oid = i.indrelid) \
             LEFT JOIN pg_catalog.pg_constraint c ON (i.indrelid = c.conrelid AND i.indexrelid = c.conindid \
               AND c.contype IN ('p', 'u', 'x')) \
             LEFT JOIN pg_catalog.pg_inherits inh ON (inh.inhrelid = indexrelid) \
             WHERE (i.indisvalid OR t2.relkind = 'p') AND i.indisready ORDER BY i.indrelid, indexname"
        )
    }

    pub(super) fn indexes(&mut self) -> Result<()> {
        let query = self.indexes_query();
        let rows = self.session.query(&query)?;
        for row in rows.iter() {
            let oid: u32 = row.parse("indrelid")?;
            let Some(table) = self.model.find_table(oid) else {
                return Err(ToolError::catalog(format!("unrecognized table OID {oid}")));
            };
            self.index(row, table)?;
        }
        Ok(())
    }

    fn index(&mut self, row: Row<'_>, table: Id) -> Result<()> {
        let columns = text(row, "indkey")?;
        let columns = columns.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        let list = |column: &str| -> Result<Vec<String>> {
            let array = text(row, column)?;
            if array.is_empty() {
                return Ok(Vec::new());
            }
            parse_array(&array).ok_or_else(|| ToolError::catalog("could not parse index statistic columns"))
        };
        let (statistics_columns, statistics_values) = (list("indstatcols")?, list("indstatvals")?);
        if statistics_columns.len() != statistics_values.len() {
            return Err(ToolError::catalog("mismatched number of columns and values for index statistics"));
        }
        let index = Index {
            table,
            definition: text(row, "indexdef")?,
            tablespace: text(row, "tablespace")?,
            options: optional(row, "indreloptions")?,
            statistics: statistics_columns.into_iter().zip(statistics_values).collect(),
            key_columns: row.parse("indnkeyatts")?,
            columns,
            clustered: flag(row, "indisclustered")?,
            replica_identity: flag(row, "indisreplident")?,
            nulls_not_distinct: flag(row, "indnullsnotdistinct")?,
            parent: number(row, "parentidx")?,
            attachments: Vec::new(),
            constraint: None,
        };
        let object = self.model.get(table);
        let (schema, wanted) = (object.schema, object.wanted);
        let id =
            self.model.add(catalog_id(row)?, row.text("indexname")?, schema, Kind::Index(Box::new(index)));
        self.model.get_mut(id).wanted = wanted;
        self.model.with_table(table, |table| table.indexes.push(id));
        let statistics = self.statistics(id, row, b'i', list("indattnames")?)?;
        let kind = letter(row, "contype")?;
        if kind == 0 {
            return Ok(());
        }
        let constraint = Constraint {
            // Exclusion is said as the server says it; keys are put together from their columns.
            definition: (kind == b'x').then(|| text(row, "condef")).transpose()?,
            index: Some(id),
            deferrable: flag(row, "condeferrable")?,
            deferred: flag(row, "condeferred")?,
            period: flag(row, "conperiod")?,
            ..Constraint::of_table(table, kind)
        };
        let catalog = pgkeep_format::archive::CatalogId {
            table_oid: row.parse("contableoid")?,
            oid: row.parse("conoid")?,
        };
        let constraint =
            self.model.add(catalog, row.text("conname")?, schema, Kind::Constraint(Box::new(constraint)));
        self.model.get_mut(constraint).wanted = wanted;
        if let Some(statistics) = statistics {
            self.model.depend(statistics, constraint);
        }
        if let Kind::Index(index) = &mut self.model.get_mut(id).kind {
            index.constraint = Some(constraint);
        }
        Ok(())
    }

    /// Foreign keys; partitions' copies of one come into being with it.
    pub(super) fn foreign_keys(&mut self) -> Result<()> {
        let tables = self.model.tables.iter().filter(|id| self.model.get(**id).wanted.has(Parts::DEFINITION));
        let array = oid_array(tables.map(|id| self.model.get(*id).catalog.oid));
        let rows = self.session.query(&format!(
            "SELECT c.tableoid, c.oid, conrelid, conname, confrelid, conindid, \
             pg_catalog.pg_get_constraintdef(c.oid) AS condef FROM unnest({array}) AS src(tbloid) \
             JOIN pg_catalog.pg_constraint c ON (src.tbloid = c.conrelid) \
             WHERE contype = 'f' AND conparentid = 0 ORDER BY conrelid, conname"
        ))?;
        for row in rows.iter() {
            let oid: u32 = row.parse("conrelid")?;
            let Some(table) = self.model.find_table(oid) else {
                return Err(ToolError::catalog(format!("unrecognized table OID {oid}")));
            };
            let foreign_table: u32 = row.parse("confrelid")?;
            let constraint = Constraint {
                definition: Some(text(row, "condef")?),
                foreign_table,
                ..Constraint::of_table(table, b'f')
            };
            let schema = self.model.get(table).schema;
            let id = self.model.add(
                catalog_id(row)?,
                row.text("conname")?,
                schema,
                Kind::ForeignKey(Box::new(constraint)),
            );
            // The key of a partitioned table is complete when all partitions' indexes are attached.
            let target = self.model.find_table(foreign_table);
            if let Some(target) = target.filter(|target| self.model.table(*target).kind == b'p') {
                let index: u32 = number(row, "conindid")?;
                let indexes = &self.model.table(target).indexes;
                let found = indexes.iter().find(|id| self.model.get(**id).catalog.oid == index).copied();
                if let Some(found) = found {
                    self.depend_on_attachments(id, found);
                }
            }
        }
        Ok(())
    }

    fn depend_on_attachments(&mut self, id: Id, index: Id) {
        let attachments = match &self.model.get(index).kind {
            Kind::Index(index) => index.attachments.clone(),
            _ => return,
        };
        for attachment in attachments {
            self.model.depend(id, attachment);
            if let Kind::IndexAttach { partition, .. } = self.model.get(attachment).kind {
                self.depend_on_attachments(id, partition);
            }
        }
    }
}
