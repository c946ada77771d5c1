//! Triggers.

use pgkeep_format::archive::Section;
use pgkeep_tool::Result;

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts};

impl Definer<'_> {
    pub(super) fn trigger(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Trigger(trigger) = &object.kind else { return Ok(()) };
        let table = trigger.table;
        let relation = self.model.table(table);
        let table_name = self.qualified(table);
        let name = self.quoting.name(&object.name);
        let identity = format!("{name} ON {table_name}");
        // A partition's copy is made with its parent's trigger: only its state is said.
        let (mut sql, drop) = if trigger.of_partition {
            (String::new(), String::new())
        } else {
            (
                format!("{};\n{}", trigger.definition, self.depends_on_extension(id, "TRIGGER", &identity)),
                format!("DROP TRIGGER {identity};\n"),
            )
        };
        if trigger.of_partition || trigger.enabled != b'O' {
            let foreign = if relation.kind == b'f' { "FOREIGN " } else { "" };
            let state = match trigger.enabled {
                b'D' => "DISABLE",
                b'R' => "ENABLE REPLICA",
                b'A' => "ENABLE ALWAYS",
                _ => "ENABLE",
            };
            sql.push_str(&format!("\nALTER {foreign}TABLE {table_name} {state} TRIGGER {name};\n"));
        }
        let on = object.catalog;
        if self.wants(id, Parts::DEFINITION) {
            let of = self.model.get(table);
            let draft = Draft {
                tag: format!("{} {}", of.name, object.name),
                definition: Some(sql),
                drop: Some(drop),
                section: Some(Section::PostData),
                owner: Some(of.owner.clone()),
                ..self.draft(id, "TRIGGER")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let of = self.name(table);
            self.comment_on(table, &format!("TRIGGER {name} ON"), &of, on, id);
        }
        Ok(())
    }
}
