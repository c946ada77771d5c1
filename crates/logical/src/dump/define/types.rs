//! Types: base types, enumerations, ranges, composites, domains, and names without a definition.

use pgkeep_format::archive::CatalogId;
use pgkeep_tool::{Result, ToolError};

use super::binary_upgrade::TypeOids;
use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts, Type, catalog};

impl Definer<'_> {
    pub(super) fn type_of_any_kind(&mut self, id: Id) -> Result<()> {
        let Kind::Type(facts) = &self.model.get(id).kind else { return Ok(()) };
        let name = self.qualified(id);
        let (kind, element, relation) = (facts.kind, facts.element, facts.relation);
        let domain = kind == b'd';
        let keyword = if domain { "DOMAIN" } else { "TYPE" };
        let definition = match kind {
            b'b' => self.base_type(id, &name, element)?,
            b'c' => self.composite_type(id, &name, relation)?,
            b'd' => self.domain(id, &name, facts)?,
            b'e' => self.enumeration(id, &name),
            b'r' => self.range(id, &name)?,
            b'p' if !facts.defined => format!("CREATE TYPE {name};\n"),
            _ => {
                // A pseudo-type, which only a dump of pg_catalog can meet. Nothing makes one.
                let name = &self.model.get(id).name;
                let warning = format!("typtype of data type \"{name}\" appears to be invalid");
                self.entries.warnings.push(warning);
                return Ok(());
            }
        };
        let with = match kind {
            b'd' => TypeOids::WithArray,
            b'r' => TypeOids::WithMultirange,
            _ => TypeOids::Plain,
        };
        let preserved = self.preserve_type(self.model.get(id).catalog.oid, with)?;
        let definition = preserved + &definition;
        // The functions of a base type go with it.
        let cascade = if kind == b'b' { " CASCADE" } else { "" };
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP {keyword} {name}{cascade};\n")),
                ..self.draft(id, keyword)
            };
            self.add(draft);
        }
        let name = self.name(id);
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, keyword, &name);
        }
        self.labels(id, keyword, &name);
        if kind == b'c' && self.wants(id, Parts::LABEL) {
            self.composite_column_labels(id, &name, relation);
        }
        self.privileges(id, "TYPE", &name)?;
        if domain {
            self.domain_constraint_comments(id, &name);
        }
        if kind == b'c' && self.wants(id, Parts::COMMENT) && !self.options.no_comments {
            self.composite_column_comments(id, &name);
        }
        Ok(())
    }

    pub(super) fn shell_type(&mut self, id: Id) -> Result<()> {
        let Kind::ShellType { base } = self.model.get(id).kind else { return Ok(()) };
        if self.wants(id, Parts::DEFINITION) {
            let preserved = self.preserve_type(self.model.get(base).catalog.oid, TypeOids::Plain)?;
            let draft = Draft {
                definition: Some(format!("{preserved}CREATE TYPE {};\n", self.qualified(id))),
                owner: Some(self.model.get(base).owner.clone()),
                ..self.draft(id, "SHELL TYPE")
            };
            self.add(draft);
        }
        Ok(())
    }

    fn enumeration(&self, id: Id, name: &str) -> String {
        let labels = self.texts.enum_labels.get(&self.model.get(id).catalog.oid);
        let labels: Vec<String> =
            labels.into_iter().flatten().map(|label| self.quoting.literal(label)).collect();
        let Some(facts) = &self.texts.upgrade else {
            let labels: Vec<String> = labels.iter().map(|label| format!("\n    {label}")).collect();
            return format!("CREATE TYPE {name} AS ENUM ({}\n);\n", labels.join(","));
        };
        let mut sql = format!("CREATE TYPE {name} AS ENUM (\n);\n");
        let oids = facts.enum_labels.get(&self.model.get(id).catalog.oid);
        for (number, (label, oid)) in labels.iter().zip(oids.into_iter().flatten()).enumerate() {
            if number == 0 {
                sql.push_str("\n-- For binary upgrade, must preserve pg_enum oids\n");
            }
            sql.push_str(&format!(
                "SELECT pg_catalog.binary_upgrade_set_next_pg_enum_oid('{oid}'::pg_catalog.oid);\n\
                 ALTER TYPE {name} ADD VALUE {label};\n\n"
            ));
        }
        sql
    }

    fn range(&self, id: Id, name: &str) -> Result<String> {
        let object = self.model.get(id);
        let texts =
            self.texts.ranges.get(&object.catalog.oid).ok_or_else(|| {
                ToolError::catalog(format!("range type \"{}\" has no definition", object.name))
            })?;
        let mut items = vec![format!("subtype = {}", texts.subtype)];
        if let Some(multirange) = &texts.multirange {
            items.push(format!("multirange_type_name = {multirange}"));
        }
        if let Some((schema, class)) = &texts.operator_class {
            items.push(format!("subtype_opclass = {}", self.quoting.qualified(schema, class)));
        }
        if let Some(collation) = self.model.find(catalog::COLLATION, texts.collation) {
            items.push(format!("collation = {}", self.qualified(collation)));
        }
        if texts.canonical != "-" {
            items.push(format!("canonical = {}", texts.canonical));
        }
        if texts.difference != "-" {
            items.push(format!("subtype_diff = {}", texts.difference));
        }
        Ok(format!("CREATE TYPE {name} AS RANGE (\n    {}\n);\n", items.join(",\n    ")))
    }

    fn base_type(&self, id: Id, name: &str, element: u32) -> Result<String> {
        let object = self.model.get(id);
        let texts =
            self.texts.base_types.get(&object.catalog.oid).ok_or_else(|| {
                ToolError::catalog(format!("base type \"{}\" has no definition", object.name))
            })?;
        let length = if texts.length == "-1" { "variable" } else { &texts.length };
        let mut items = vec![
            format!("INTERNALLENGTH = {length}"),
            format!("INPUT = {}", texts.input),
            format!("OUTPUT = {}", texts.output),
        ];
        for (word, function) in [
            ("RECEIVE", &texts.receive),
            ("SEND", &texts.send),
            ("TYPMOD_IN", &texts.modifier_in),
            ("TYPMOD_OUT", &texts.modifier_out),
            ("ANALYZE", &texts.analyze),
        ] {
            if let Some(function) = function {
                items.push(format!("{word} = {function}"));
            }
        }
        if texts.collatable {
            items.push("COLLATABLE = true".to_owned());
        }
        if let Some(default) = &texts.default_expression {
            items.push(format!("DEFAULT = {default}"));
        } else if let Some(default) = &texts.default_literal {
            items.push(format!("DEFAULT = {}", self.quoting.literal(default)));
        }
        if let Some(subscript) = &texts.subscript {
            items.push(format!("SUBSCRIPT = {subscript}"));
        }
        if element != 0 {
            items.push(format!("ELEMENT = {}", self.type_name(element)?));
        }
        if texts.category != "U" {
            items.push(format!("CATEGORY = {}", self.quoting.literal(&texts.category)));
        }
        if texts.preferred {
            items.push("PREFERRED = true".to_owned());
        }
        if texts.delimiter != "," {
            items.push(format!("DELIMITER = {}", self.quoting.literal(&texts.delimiter)));
        }
        let alignment = match texts.alignment {
            b'c' => "char",
            b's' => "int2",
            b'i' => "int4",
            _ => "double",
        };
        items.push(format!("ALIGNMENT = {alignment}"));
        let storage = match texts.storage {
            b'e' => "external",
            b'x' => "extended",
            b'm' => "main",
            _ => "plain",
        };
        items.push(format!("STORAGE = {storage}"));
        if texts.by_value {
            items.push("PASSEDBYVALUE".to_owned());
        }
        Ok(format!("CREATE TYPE {name} (\n    {}\n);\n", items.join(",\n    ")))
    }

    fn domain(&self, id: Id, name: &str, facts: &Type) -> Result<String> {
        let object = self.model.get(id);
        let texts = self
            .texts
            .domains
            .get(&object.catalog.oid)
            .ok_or_else(|| ToolError::catalog(format!("domain \"{}\" has no definition", object.name)))?;
        let mut sql = format!("CREATE DOMAIN {name} AS {}{}", texts.base, self.collate(texts.collation));
        if texts.not_null {
            // From 17 on it is a constraint, whose name is said unless it is the usual one.
            match facts.not_null.map(|id| self.model.get(id)) {
                None => sql.push_str(" NOT NULL"),
                Some(constraint) => {
                    if let Kind::Constraint(facts) = &constraint.kind
                        && !facts.separate
                    {
                        if constraint.name == format!("{}_not_null", object.name) {
                            sql.push_str(" NOT NULL");
                        } else {
                            sql.push_str(&format!(
                                " CONSTRAINT {} {}",
                                self.quoting.name(&constraint.name),
                                facts.definition.as_deref().unwrap_or("")
                            ));
                        }
                    }
                }
            }
        }
        if let Some(default) = &texts.default_expression {
            sql.push_str(&format!(" DEFAULT {default}"));
        } else if let Some(default) = &texts.default_literal {
            sql.push_str(&format!(" DEFAULT {}", self.quoting.literal(default)));
        }
        for check in &facts.checks {
            let constraint = self.model.get(*check);
            if let Kind::Constraint(facts) = &constraint.kind
                && !facts.separate
            {
                sql.push_str(&format!(
                    "\n\tCONSTRAINT {} {}",
                    self.quoting.name(&constraint.name),
                    facts.definition.as_deref().unwrap_or("")
                ));
            }
        }
        sql.push_str(";\n");
        Ok(sql)
    }

    fn domain_constraint_comments(&mut self, id: Id, name: &str) {
        let Kind::Type(facts) = &self.model.get(id).kind else { return };
        let constraints: Vec<Id> = facts.checks.iter().copied().chain(facts.not_null).collect();
        for constraint in constraints {
            let object = self.model.get(constraint);
            let within = matches!(&object.kind, Kind::Constraint(facts) if !facts.separate);
            if within && object.wanted.has(Parts::COMMENT) {
                let kind = format!("CONSTRAINT {} ON DOMAIN", self.quoting.name(&object.name));
                let on = object.catalog;
                self.comment_on(id, &kind, name, on, id);
            }
        }
    }

    fn composite_type(&self, id: Id, name: &str, relation: u32) -> Result<String> {
        let columns = self.texts.composites.get(&self.model.get(id).catalog.oid);
        let columns: Vec<String> = columns
            .into_iter()
            .flatten()
            .filter(|column| !column.dropped || self.options.binary_upgrade)
            .map(|column| {
                let column_name = self.quoting.name(&column.name);
                if column.dropped {
                    return format!("\n\t{column_name} INTEGER /* dummy */");
                }
                format!("\n\t{column_name} {}{}", column.type_name, self.collate(column.collation))
            })
            .collect();
        Ok(format!(
            "{}CREATE TYPE {name} AS ({}\n);\n{}",
            self.preserve_class(relation)?,
            columns.join(","),
            self.drop_attributes(relation, name)
        ))
    }

    /// The original forgets these.
    fn composite_column_labels(&mut self, id: Id, name: &str, relation: u32) {
        let of = CatalogId { table_oid: catalog::CLASS, oid: relation };
        let columns = self.texts.composites.get(&self.model.get(id).catalog.oid).cloned().unwrap_or_default();
        for column in columns.iter().filter(|column| !column.dropped) {
            let column_name = format!("{name}.{}", self.quoting.name(&column.name));
            self.labels_of(id, "COLUMN", &column_name, of, column.number);
        }
    }

    fn composite_column_comments(&mut self, id: Id, name: &str) {
        let object = self.model.get(id);
        let Kind::Type(facts) = &object.kind else { return };
        let on = CatalogId { table_oid: catalog::CLASS, oid: facts.relation };
        let comments = self.model.comments.get(&on).cloned().unwrap_or_default();
        let columns = self.texts.composites.get(&object.catalog.oid).cloned().unwrap_or_default();
        for comment in comments {
            if let Some(column) = columns.iter().find(|column| column.number == comment.sub) {
                let column = format!("{name}.{}", self.quoting.name(&column.name));
                self.comment_entry(id, "COLUMN", &column, &comment.text, id);
            }
        }
    }
}
