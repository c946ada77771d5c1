//! Comments and privileges.

use pgkeep_format::archive::{CatalogId, Section};
use pgkeep_tool::Result;

use super::{Definer, Draft};
use crate::dump::model::{Id, Label, Parts};
use crate::dump::privileges::{self, Subject};

impl Definer<'_> {
    /// A comment on an object with an entry of its own. `kind` and `name` are as in COMMENT ON; `name` without schema.
    pub(super) fn comment(&mut self, id: Id, kind: &str, name: &str) {
        let object = self.model.get(id);
        let on = object.catalog;
        self.comment_on(id, kind, name, on, id);
    }

    /// A comment on what `on` says, as part of `owner`'s, depending on `depends_on`.
    pub(super) fn comment_on(&mut self, owner: Id, kind: &str, name: &str, on: CatalogId, depends_on: Id) {
        if self.options.no_comments {
            return;
        }
        let Some(text) = self.comment_text(on, 0) else { return };
        self.comment_entry(owner, kind, name, &text, depends_on);
    }

    pub(super) fn comment_text(&self, on: CatalogId, sub: i32) -> Option<String> {
        let comments = self.model.comments.get(&on)?;
        comments.iter().find(|comment| comment.sub == sub).map(|comment| comment.text.clone())
    }

    /// The entry of a comment.
    pub(super) fn comment_entry(&mut self, owner: Id, kind: &str, name: &str, text: &str, depends_on: Id) {
        let object = self.model.get(owner);
        let schema = object.schema.map(|schema| self.model.get(schema).name.clone());
        let dot = schema.as_ref().map(|schema| format!("{}.", self.quoting.name(schema))).unwrap_or_default();
        let draft = Draft {
            tag: format!("{kind} {name}"),
            desc: "COMMENT",
            definition: Some(format!("COMMENT ON {kind} {dot}{name} IS {};\n", self.quoting.literal(text))),
            schema,
            owner: Some(object.owner.clone()),
            dependencies: vec![depends_on],
            ..Draft::default()
        };
        self.add(draft);
    }

    /// Comments on a relation and on its columns.
    pub(super) fn table_comments(&mut self, id: Id, kind: &str) {
        if self.options.no_comments || !self.wants(id, Parts::COMMENT) {
            return;
        }
        let comments = self.model.comments.get(&self.model.get(id).catalog).cloned().unwrap_or_default();
        for comment in comments {
            if comment.sub == 0 {
                let name = self.name(id);
                self.comment_entry(id, kind, &name, &comment.text, id);
                continue;
            }
            let position = usize::try_from(comment.sub).ok().and_then(|number| number.checked_sub(1));
            let column = position.and_then(|position| self.model.table(id).columns.get(position));
            if let Some(column) = column {
                let name = format!("{}.{}", self.name(id), self.quoting.name(&column.name));
                self.comment_entry(id, "COLUMN", &name, &comment.text, id);
            }
        }
    }

    /// The security labels of an object with an entry of its own. `kind` and `name` are as in SECURITY LABEL; `name` without
    /// schema.
    pub(super) fn labels(&mut self, id: Id, kind: &str, name: &str) {
        if self.wants(id, Parts::LABEL) {
            let of = self.model.get(id).catalog;
            self.labels_of(id, kind, name, of, 0);
        }
    }

    /// Labels of what `of` says, or of its column of number `sub`, as part of `owner`'s.
    pub(super) fn labels_of(&mut self, owner: Id, kind: &str, name: &str, of: CatalogId, sub: i32) {
        let object = self.model.get(owner);
        let schema = object.schema.map(|schema| self.model.get(schema).name.clone());
        let dot = schema.as_ref().map(|schema| format!("{}.", self.quoting.name(schema))).unwrap_or_default();
        let commands =
            self.label_commands(of, |label| (label.sub == sub).then(|| format!("{kind} {dot}{name}")));
        self.labels_entry(owner, format!("{kind} {name}"), commands);
    }

    /// Labels of a relation and of its columns, in one entry.
    pub(super) fn table_labels(&mut self, id: Id, kind: &str) {
        if !self.wants(id, Parts::LABEL) {
            return;
        }
        let qualified = self.qualified(id);
        let commands = self.label_commands(self.model.get(id).catalog, |label| {
            if label.sub == 0 {
                return Some(format!("{kind} {qualified}"));
            }
            let position = usize::try_from(label.sub).ok()?.checked_sub(1)?;
            let column = self.model.table(id).columns.get(position)?;
            Some(format!("COLUMN {qualified}.{}", self.quoting.name(&column.name)))
        });
        let tag = format!("{kind} {}", self.name(id));
        self.labels_entry(id, tag, commands);
    }

    /// A command for each label for which `subject` knows what it is on.
    pub(super) fn label_commands(&self, of: CatalogId, subject: impl Fn(&Label) -> Option<String>) -> String {
        if self.options.no_security_labels {
            return String::new();
        }
        let labels = self.model.labels.get(&of);
        let commands = labels.into_iter().flatten().filter_map(|label| {
            Some(format!(
                "SECURITY LABEL FOR {} ON {} IS {};\n",
                self.quoting.name(&label.provider),
                subject(label)?,
                self.quoting.literal(&label.text)
            ))
        });
        commands.collect()
    }

    fn labels_entry(&mut self, owner: Id, tag: String, commands: String) {
        if commands.is_empty() {
            return;
        }
        let object = self.model.get(owner);
        let draft = Draft {
            tag,
            desc: "SECURITY LABEL",
            definition: Some(commands),
            schema: object.schema.map(|schema| self.model.get(schema).name.clone()),
            owner: Some(object.owner.clone()),
            dependencies: vec![owner],
            ..Draft::default()
        };
        self.add(draft);
    }

    /// The privileges of an object; gives the number of their entry if there is one.
    pub(super) fn privileges(&mut self, id: Id, kind: &str, name: &str) -> Result<Option<Id>> {
        self.privileges_with_tag(id, kind, name, None)
    }

    /// As [`Self::privileges`], with a tag of its own.
    pub(super) fn privileges_with_tag(
        &mut self,
        id: Id,
        kind: &str,
        name: &str,
        tag: Option<String>,
    ) -> Result<Option<Id>> {
        if self.options.no_privileges || !self.wants(id, Parts::PRIVILEGES) {
            return Ok(None);
        }
        let privileges = self.model.get(id).privileges.clone();
        self.privileges_entry(id, kind, name, None, &privileges, &[id], tag)
    }

    /// Privileges of a column; `dependencies` are the table and its own privileges.
    #[allow(clippy::too_many_arguments, reason = "each is another part of one entry")]
    pub(super) fn privileges_entry(
        &mut self,
        id: Id,
        kind: &str,
        name: &str,
        column: Option<&str>,
        privileges: &crate::dump::model::Privileges,
        dependencies: &[Id],
        tag: Option<String>,
    ) -> Result<Option<Id>> {
        let object = self.model.get(id);
        let schema = object.schema.map(|schema| self.model.get(schema).name.clone());
        // NULL stands for the defaults, which is a change where there are other initial privileges.
        let initial = privileges.initial.as_deref().filter(|initial| !initial.is_empty());
        let (current, base) = match (initial, privileges.current.as_deref()) {
            (Some(initial), current) => (current.unwrap_or(&privileges.default), initial),
            (None, current) => (current.unwrap_or(""), privileges.default.as_str()),
        };
        let subject = Subject {
            kind,
            name,
            column,
            schema: schema.as_deref().unwrap_or(""),
            owner: &object.owner,
            prefix: "",
        };
        let mut commands = String::new();
        // In a binary upgrade no extension's script runs: what it gave is given, and noted as having come from one.
        let recorded = initial.filter(|_| self.options.binary_upgrade && privileges.initial_of_extension);
        if let Some(initial) = recorded {
            let given = privileges::commands(self.quoting, &subject, initial, &privileges.default)?;
            commands = format!(
                "SELECT pg_catalog.binary_upgrade_set_record_init_privs(true);\n{given}\
                 SELECT pg_catalog.binary_upgrade_set_record_init_privs(false);\n"
            );
        }
        commands.push_str(&privileges::commands(self.quoting, &subject, current, base)?);
        if commands.is_empty() {
            return Ok(None);
        }
        let tag = tag.unwrap_or_else(|| match column {
            Some(column) => format!("COLUMN {name}.{column}"),
            None => format!("{kind} {name}"),
        });
        let draft = Draft {
            tag,
            desc: "ACL",
            section: Some(Section::None),
            definition: Some(commands),
            schema,
            owner: Some(object.owner.clone()),
            dependencies: dependencies.to_vec(),
            ..Draft::default()
        };
        Ok(Some(self.add(draft)))
    }
}
