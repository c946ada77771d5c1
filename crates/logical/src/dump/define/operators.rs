//! Operators, their classes and families.

use pgkeep_tool::Result;

use super::records::Record;
use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts, catalog};

impl Definer<'_> {
    /// `OPERATOR(schema.op)`; `None` for no operator.
    pub(super) fn operator_name(&self, oid: u32) -> Option<String> {
        let id = self.model.find(catalog::OPERATOR, oid)?;
        let schema = self.quoting.name(self.model.schema_name(id));
        Some(format!("OPERATOR({schema}.{})", self.model.get(id).name))
    }

    pub(super) fn operator(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Operator { kind, .. } = object.kind else { return Ok(()) };
        let record = self.texts.records.of(object.catalog);
        // A name that was only referred to so far.
        if record.oid("code") == 0 {
            return Ok(());
        }
        let (left, right) = (record.text("oprleft"), record.text("oprright"));
        let mut details = Vec::new();
        if let Some(function) = record.function("oprcode") {
            details.push(format!("FUNCTION = {}", without_arguments(function)));
        }
        let (has_left, has_right) = (matches!(kind, b'r' | b'b'), matches!(kind, b'l' | b'b'));
        if has_left {
            details.push(format!("LEFTARG = {left}"));
        }
        if has_right {
            details.push(format!("RIGHTARG = {right}"));
        }
        for (word, column) in [("COMMUTATOR", "oprcom"), ("NEGATOR", "oprnegate")] {
            if let Some(operator) = self.operator_name(record.oid(column)) {
                details.push(format!("{word} = {operator}"));
            }
        }
        for (word, column) in [("MERGES", "oprcanmerge"), ("HASHES", "oprcanhash")] {
            if record.flag(column) {
                details.push(word.to_owned());
            }
        }
        for (word, column) in [("RESTRICT", "oprrest"), ("JOIN", "oprjoin")] {
            if let Some(function) = record.function(column) {
                details.push(format!("{word} = {}", without_arguments(function)));
            }
        }
        let schema = self.quoting.name(self.model.schema_name(id));
        let name = object.name.clone();
        let identity = format!(
            "{name} ({}, {})",
            if has_left { left } else { "NONE" },
            if has_right { right } else { "NONE" }
        );
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(format!(
                    "CREATE OPERATOR {schema}.{name} (\n    {}\n);\n",
                    details.join(",\n    ")
                )),
                drop: Some(format!("DROP OPERATOR {schema}.{identity};\n")),
                ..self.draft(id, "OPERATOR")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "OPERATOR", &identity);
        }
        Ok(())
    }

    fn operator_items(&self, records: &[Record]) -> Vec<String> {
        records
            .iter()
            .map(|record| {
                let mut item = format!("OPERATOR {} {}", record.text("amopstrategy"), record.text("amopopr"));
                if let Some(family) = record.get("sortfamily") {
                    let family = self.quoting.qualified(record.text("sortfamilynsp"), family);
                    item.push_str(&format!(" FOR ORDER BY {family}"));
                }
                item
            })
            .collect()
    }

    fn function_items(records: &[Record]) -> Vec<String> {
        records
            .iter()
            .map(|record| {
                format!(
                    "FUNCTION {} ({}, {}) {}",
                    record.text("amprocnum"),
                    record.text("amproclefttype"),
                    record.text("amprocrighttype"),
                    record.text("amproc")
                )
            })
            .collect()
    }

    pub(super) fn operator_class(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let oid = object.catalog.oid;
        let records = &self.texts.records;
        let record = records.of(object.catalog);
        let method = self.quoting.name(record.text("amname"));
        let mut items = Vec::new();
        if let Some(storage) = record.function("opckeytype") {
            items.push(format!("STORAGE {storage}"));
        }
        items.extend(self.operator_items(records.members("operators of class", oid)));
        items.extend(Self::function_items(records.members("functions of class", oid)));
        if items.is_empty() {
            // Something must be said; this is what holds anyway.
            items.push(format!("STORAGE {}", record.text("opcintype")));
        }
        let default = if record.flag("opcdefault") { "DEFAULT " } else { "" };
        let family = match record.get("opfname") {
            Some(family) => format!(" FAMILY {}", self.quoting.qualified(record.text("nspname"), family)),
            None => String::new(),
        };
        let qualified = self.qualified(id);
        let definition = format!(
            "CREATE OPERATOR CLASS {qualified}\n    {default}FOR TYPE {} USING {method}{family} AS\n    {};\n",
            record.text("opcintype"),
            items.join(" ,\n    ")
        );
        self.class_or_family(id, "OPERATOR CLASS", &method, definition);
        Ok(())
    }

    pub(super) fn operator_family(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let oid = object.catalog.oid;
        let records = &self.texts.records;
        let method = self.quoting.name(records.of(object.catalog).text("amname"));
        let qualified = self.qualified(id);
        let mut definition = format!("CREATE OPERATOR FAMILY {qualified} USING {method};\n");
        let mut items = self.operator_items(records.members("operators of family", oid));
        items.extend(Self::function_items(records.members("functions of family", oid)));
        if !items.is_empty() {
            definition.push_str(&format!(
                "ALTER OPERATOR FAMILY {qualified} USING {method} ADD\n    {};\n",
                items.join(" ,\n    ")
            ));
        }
        self.class_or_family(id, "OPERATOR FAMILY", &method, definition);
        Ok(())
    }

    fn class_or_family(&mut self, id: Id, desc: &'static str, method: &str, definition: String) {
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP {desc} {} USING {method};\n", self.qualified(id))),
                ..self.draft(id, desc)
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let name = format!("{} USING {method}", self.name(id));
            self.comment(id, desc, &name);
        }
    }
}

/// A function's name out of its signature: up to the first parenthesis outside of quotes.
fn without_arguments(signature: &str) -> &str {
    let mut quoted = false;
    let end = signature.find(|character| {
        quoted ^= character == '"';
        character == '(' && !quoted
    });
    &signature[..end.unwrap_or(signature.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_signatures() {
        assert_eq!(without_arguments("a.b(integer,text)"), "a.b");
        assert_eq!(without_arguments("\"a(b\".c(integer)"), "\"a(b\".c");
        assert_eq!(without_arguments("plain"), "plain");
    }
}
