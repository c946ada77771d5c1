//! Statistics of a relation: the entry. Its text is made when it is written.

use pgkeep_format::archive::{CatalogId, DumpId, Section};

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind};
use crate::dump::statistics::StatisticsSource;

impl Definer<'_> {
    pub(super) fn relation_statistics(&mut self, id: Id) {
        let object = self.model.get(id);
        let Kind::Statistics(facts) = &object.kind else { return };
        let source = StatisticsSource {
            schema: self.model.schema_name(id).to_owned(),
            relation: object.name.clone(),
            facts: (**facts).clone(),
        };
        let draft = Draft {
            catalog: CatalogId::default(),
            id: None,
            section: Some(if facts.post_data { Section::PostData } else { Section::Data }),
            owner: None,
            dependencies: object.dependencies.clone(),
            ..self.draft(id, "STATISTICS DATA")
        };
        let entry = self.add(draft);
        self.entries.statistics.push((DumpId(entry.0), source));
    }
}
