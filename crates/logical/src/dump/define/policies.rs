//! Row security, its policies, and event triggers.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts};

impl Definer<'_> {
    pub(super) fn policy(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Policy { table, name } = &object.kind else { return Ok(()) };
        let table = *table;
        let table_name = self.qualified(table);
        let owner = Some(self.model.get(table).owner.clone());
        let Some(name) = name.clone() else {
            if self.wants(id, Parts::DEFINITION) {
                let draft = Draft {
                    definition: Some(format!("ALTER TABLE {table_name} ENABLE ROW LEVEL SECURITY;")),
                    section: Some(Section::PostData),
                    owner,
                    dependencies: vec![table],
                    ..self.draft(id, "ROW SECURITY")
                };
                self.add(draft);
            }
            return Ok(());
        };
        let record = self.texts.records.of(object.catalog);
        let command = match record.letter("polcmd") {
            b'*' => "",
            b'r' => " FOR SELECT",
            b'a' => " FOR INSERT",
            b'w' => " FOR UPDATE",
            b'd' => " FOR DELETE",
            other => {
                return Err(ToolError::catalog(format!(
                    "unexpected policy command type: {}",
                    char::from(other)
                )));
            }
        };
        let restrictive = if record.flag("polpermissive") { "" } else { " AS RESTRICTIVE" };
        let quoted = self.quoting.name(&name);
        let mut sql = format!("CREATE POLICY {quoted} ON {table_name}{restrictive}{command}");
        if let Some(roles) = record.get("roles") {
            sql.push_str(&format!(" TO {roles}"));
        }
        if let Some(condition) = record.get("qual") {
            sql.push_str(&format!(" USING ({condition})"));
        }
        if let Some(condition) = record.get("withcheck") {
            sql.push_str(&format!(" WITH CHECK ({condition})"));
        }
        sql.push_str(";\n");
        let on = object.catalog;
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                tag: format!("{} {name}", self.model.get(table).name),
                definition: Some(sql),
                drop: Some(format!("DROP POLICY {quoted} ON {table_name};\n")),
                section: Some(Section::PostData),
                owner,
                ..self.draft(id, "POLICY")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let of = self.name(table);
            self.comment_on(table, &format!("POLICY {quoted} ON"), &of, on, id);
        }
        Ok(())
    }

    pub(super) fn event_trigger(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let name = self.name(id);
        let mut sql =
            format!("CREATE EVENT TRIGGER {name} ON {}", self.quoting.name(record.text("evtevent")));
        if !record.text("tags").is_empty() {
            sql.push_str(&format!("\n         WHEN TAG IN ({})", record.text("tags")));
        }
        sql.push_str(&format!("\n   EXECUTE FUNCTION {}();\n", record.text("function")));
        let state = match record.letter("evtenabled") {
            b'O' => None,
            b'D' => Some("DISABLE"),
            b'A' => Some("ENABLE ALWAYS"),
            b'R' => Some("ENABLE REPLICA"),
            _ => Some("ENABLE"),
        };
        if let Some(state) = state {
            sql.push_str(&format!("\nALTER EVENT TRIGGER {name} {state};\n"));
        }
        self.named_object(id, "EVENT TRIGGER", sql);
        Ok(())
    }
}
