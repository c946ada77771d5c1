//! Large objects: that they exist, and what they hold.

use pgkeep_format::archive::{CatalogId, Section};
use pgkeep_tool::Result;

use super::{DataSource, Definer, Draft};
use crate::dump::model::{Id, Kind, Parts, catalog};

impl Definer<'_> {
    pub(super) fn large_objects(&mut self, id: Id) -> Result<()> {
        let Kind::LargeObjects { oids } = &self.model.get(id).kind else { return Ok(()) };
        let oids = oids.clone();
        if self.wants(id, Parts::DEFINITION) {
            // Restorers make commands of the OIDs.
            let draft = Draft {
                definition: Some(oids.iter().map(|oid| format!("{oid}\n")).collect()),
                drop: Some("-- dummy".to_owned()),
                section: Some(Section::Data),
                ..self.draft(id, "BLOB METADATA")
            };
            self.add(draft);
        }
        // Comments and privileges of large objects go with the data.
        let (comments, labels) = (self.wants(id, Parts::COMMENT), self.wants(id, Parts::LABEL));
        if (comments || labels) && (self.options.data || self.options.binary_upgrade) {
            for oid in &oids {
                let on = CatalogId { table_oid: catalog::LARGE_OBJECT, oid: *oid };
                if comments {
                    self.comment_on(id, "LARGE OBJECT", &oid.to_string(), on, id);
                }
                if labels {
                    self.labels_of(id, "LARGE OBJECT", &oid.to_string(), on, 0);
                }
            }
        }
        if let (Some(first), Some(last)) = (oids.first(), oids.last()) {
            let tag = (oids.len() > 1).then(|| format!("LARGE OBJECTS {first}..{last}"));
            self.privileges_with_tag(id, "LARGE OBJECT", &first.to_string(), tag)?;
        }
        Ok(())
    }

    pub(super) fn large_object_data(&mut self, id: Id, metadata: Id) {
        // In a binary upgrade there are large objects even where no data is wanted.
        if !self.wants(id, Parts::DATA) || !self.options.data {
            return;
        }
        let object = self.model.get(metadata);
        let Kind::LargeObjects { oids } = &object.kind else { return };
        let draft = Draft {
            section: Some(Section::Data),
            owner: Some(object.owner.clone()),
            dependencies: self.model.get(id).dependencies.clone(),
            data: Some(DataSource::LargeObjects(oids.clone())),
            ..self.draft(id, "BLOBS")
        };
        self.add(draft);
    }
}
