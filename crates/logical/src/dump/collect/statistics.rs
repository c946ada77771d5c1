//! Statistics of relations: the objects, and what is known of each as a whole.

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::Result;
use pgkeep_wire::Row;

use super::Collector;
use crate::dump::model::{Id, Kind, Parts, Statistics};
use crate::dump::session::{number, text};

impl Collector<'_> {
    /// The column of `pg_class` with pages that are all frozen.
    pub(super) fn frozen_pages(&self, table: &str) -> String {
        if self.session.is_at_least(18) { format!("{table}.relallfrozen") } else { "0".to_owned() }
    }

    /// Makes the object of a relation's statistics, if they are wanted and it can have some.
    pub(super) fn statistics(
        &mut self,
        relation: Id,
        row: Row<'_>,
        kind: u8,
        index_columns: Vec<String>,
    ) -> Result<Option<Id>> {
        if !self.options.statistics || !matches!(kind, b'r' | b'p' | b'i' | b'm' | b'f') {
            return Ok(None);
        }
        let statistics = Statistics {
            kind,
            post_data: kind == b'i',
            pages: number(row, "relpages")?,
            tuples: text(row, "reltuples")?,
            all_visible: number(row, "relallvisible")?,
            all_frozen: number(row, "relallfrozen")?,
            index_columns,
        };
        let object = self.model.get(relation);
        let (name, schema) = (object.name.clone(), object.schema);
        let id = self.model.add(CatalogId::default(), name, schema, Kind::Statistics(Box::new(statistics)));
        self.model.get_mut(id).present.add(Parts::STATISTICS);
        self.model.depend(id, relation);
        Ok(Some(id))
    }
}
