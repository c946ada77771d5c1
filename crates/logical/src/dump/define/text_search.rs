//! Text search: parsers, templates, dictionaries, configurations.

use pgkeep_tool::Result;

use super::{Definer, Draft};
use crate::dump::model::{Id, Parts};

impl Definer<'_> {
    pub(super) fn text_search_parser(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let mut items = Vec::new();
        for (word, column) in [
            ("START", "prsstart"),
            ("GETTOKEN", "prstoken"),
            ("END", "prsend"),
            ("HEADLINE", "prsheadline"),
            ("LEXTYPES", "prslextype"),
        ] {
            if let Some(function) = record.function(column) {
                items.push(format!("{word} = {function}"));
            }
        }
        self.text_search_object(id, "TEXT SEARCH PARSER", &items, false);
        Ok(())
    }

    pub(super) fn text_search_template(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let mut items = Vec::new();
        for (word, column) in [("INIT", "tmplinit"), ("LEXIZE", "tmpllexize")] {
            if let Some(function) = record.function(column) {
                items.push(format!("{word} = {function}"));
            }
        }
        self.text_search_object(id, "TEXT SEARCH TEMPLATE", &items, false);
        Ok(())
    }

    pub(super) fn text_search_dictionary(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let template = self.quoting.qualified(record.text("nspname"), record.text("tmplname"));
        let mut items = vec![format!("TEMPLATE = {template}")];
        if let Some(options) = record.get("dictinitoption") {
            items.push(options.to_owned());
        }
        self.text_search_object(id, "TEXT SEARCH DICTIONARY", &items, true);
        Ok(())
    }

    fn text_search_object(&mut self, id: Id, desc: &'static str, items: &[String], owned: bool) {
        let definition =
            format!("CREATE {desc} {} (\n    {} );\n", self.qualified(id), items.join(",\n    "));
        if self.wants(id, Parts::DEFINITION) {
            let mut draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP {desc} {};\n", self.qualified(id))),
                ..self.draft(id, desc)
            };
            if !owned {
                draft.owner = None;
            }
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let name = self.name(id);
            self.comment(id, desc, &name);
        }
    }

    pub(super) fn text_search_configuration(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let record = self.texts.records.of(object.catalog);
        let qualified = self.qualified(id);
        let parser = self.quoting.qualified(record.text("nspname"), record.text("prsname"));
        let mut sql = format!("CREATE TEXT SEARCH CONFIGURATION {qualified} (\n    PARSER = {parser} );\n");
        let mappings = self.texts.records.members("mappings", object.catalog.oid);
        // A run of rows for the same token is one command.
        for run in mappings.chunk_by(|a, b| a.text("tokenname") == b.text("tokenname")) {
            let Some(first) = run.first() else { continue };
            let dictionaries: Vec<&str> = run.iter().map(|mapping| mapping.text("dictname")).collect();
            sql.push_str(&format!(
                "\nALTER TEXT SEARCH CONFIGURATION {qualified}\n    ADD MAPPING FOR {} WITH {};\n",
                self.quoting.name(first.text("tokenname")),
                dictionaries.join(", ")
            ));
        }
        self.object_with_comment(id, "TEXT SEARCH CONFIGURATION", sql);
        Ok(())
    }
}
