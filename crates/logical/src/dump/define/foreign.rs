//! Foreign data: wrappers, servers, user mappings.

use pgkeep_format::archive::Section;
use pgkeep_tool::Result;

use super::{Definer, Draft};
use crate::dump::model::{Id, Parts};

/// ` OPTIONS (…)`, or nothing.
fn options(list: &str) -> String {
    if list.is_empty() { String::new() } else { format!(" OPTIONS (\n    {list}\n)") }
}

impl Definer<'_> {
    pub(super) fn foreign_data_wrapper(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let name = self.name(id);
        let mut sql = format!("CREATE FOREIGN DATA WRAPPER {name}");
        for (word, column) in [("HANDLER", "fdwhandler"), ("VALIDATOR", "fdwvalidator")] {
            if let Some(function) = record.function(column) {
                sql.push_str(&format!(" {word} {function}"));
            }
        }
        sql.push_str(&format!("{};\n", options(record.text("options"))));
        self.named_object(id, "FOREIGN DATA WRAPPER", sql);
        self.privileges(id, "FOREIGN DATA WRAPPER", &name)?;
        Ok(())
    }

    pub(super) fn foreign_server(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let record = self.texts.records.of(object.catalog);
        let server = object.name.clone();
        let owner = object.owner.clone();
        let mappings = self.texts.records.members("user mappings", object.catalog.oid).to_vec();
        let name = self.name(id);
        let mut sql = format!("CREATE SERVER {name}");
        for (word, column) in [("TYPE", "srvtype"), ("VERSION", "srvversion")] {
            let value = record.text(column);
            if !value.is_empty() {
                sql.push_str(&format!(" {word} {}", self.quoting.literal(value)));
            }
        }
        sql.push_str(&format!(" FOREIGN DATA WRAPPER {}", self.quoting.name(record.text("fdwname"))));
        sql.push_str(&format!("{};\n", options(record.text("options"))));
        self.named_object(id, "SERVER", sql);
        self.privileges(id, "FOREIGN SERVER", &name)?;
        if !self.wants(id, Parts::USER_MAPPING) {
            return Ok(());
        }
        for mapping in mappings {
            let user = self.quoting.name(mapping.text("usename"));
            self.add(Draft {
                tag: format!("USER MAPPING {} SERVER {server}", mapping.text("usename")),
                desc: "USER MAPPING",
                section: Some(Section::PreData),
                definition: Some(format!(
                    "CREATE USER MAPPING FOR {user} SERVER {name}{};\n",
                    options(mapping.text("options"))
                )),
                drop: Some(format!("DROP USER MAPPING FOR {user} SERVER {name};\n")),
                owner: Some(owner.clone()),
                ..Draft::default()
            });
        }
        Ok(())
    }

    /// An entry for an object outside of schemas, and its comment.
    pub(super) fn named_object(&mut self, id: Id, desc: &'static str, definition: String) {
        let name = self.name(id);
        let section = self.model.get(id).kind.section();
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP {desc} {name};\n")),
                section,
                ..self.draft(id, desc)
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, desc, &name);
        }
        self.labels(id, desc, &name);
    }
}
