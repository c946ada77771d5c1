//! Schemas and extensions.

use pgkeep_tool::Result;

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts};

/// What `initdb` says about `public`.
const COMMENT_ON_PUBLIC: &str = "standard public schema";

impl Definer<'_> {
    pub(super) fn schema(&mut self, id: Id) -> Result<()> {
        let name = self.name(id);
        let create = matches!(self.model.get(id).kind, Kind::Schema { create: true });
        if self.wants(id, Parts::DEFINITION) {
            let (definition, drop) = if create {
                (format!("CREATE SCHEMA {name};\n"), format!("DROP SCHEMA {name};\n"))
            } else {
                (
                    "-- *not* creating schema, since initdb creates it\n".to_owned(),
                    "-- *not* dropping schema, since initdb creates it\n".to_owned(),
                )
            };
            let draft = Draft { definition: Some(definition), drop: Some(drop), ..self.draft(id, "SCHEMA") };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) && !self.options.no_comments {
            let text = self.comment_text(self.model.get(id).catalog, 0);
            // A new database has the comment already; one that was dropped is dropped again.
            let text = match text {
                Some(text) if !create && name == "public" && text == COMMENT_ON_PUBLIC => None,
                None if !create && name == "public" => Some(String::new()),
                text => text,
            };
            if let Some(text) = text {
                self.comment_entry(id, "SCHEMA", &name, &text, id);
            }
        }
        self.labels(id, "SCHEMA", &name);
        self.privileges(id, "SCHEMA", &name)?;
        Ok(())
    }

    pub(super) fn extension(&mut self, id: Id) -> Result<()> {
        let name = self.name(id);
        let Kind::Extension(facts) = &self.model.get(id).kind else { return Ok(()) };
        if self.wants(id, Parts::DEFINITION) {
            // No version: the target's default is the one that fits there.
            let definition = self.empty_extension(id, &facts.schema_name).unwrap_or_else(|| {
                let schema = self.quoting.name(&facts.schema_name);
                format!("CREATE EXTENSION IF NOT EXISTS {name} WITH SCHEMA {schema};\n")
            });
            let draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP EXTENSION {name};\n")),
                owner: None,
                ..self.draft(id, "EXTENSION")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "EXTENSION", &name);
        }
        self.labels(id, "EXTENSION", &name);
        Ok(())
    }
}
