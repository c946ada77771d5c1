//! Aggregates.

use pgkeep_tool::{Result, ToolError};

use super::records::Record;
use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts};

impl Definer<'_> {
    pub(super) fn aggregate(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Aggregate(function) = &object.kind else { return Ok(()) };
        let record = self.texts.records.of(object.catalog);
        let name = self.quoting.name(&object.name);
        let schema = self.quoting.name(self.model.schema_name(id));
        let types: Result<Vec<&str>> = function.arguments.iter().map(|oid| self.type_name(*oid)).collect();
        let types = types?.join(", ");
        // An aggregate of no arguments is written with a star.
        let arguments = |list: &str| match function.arguments.is_empty() {
            true => "*".to_owned(),
            false => list.to_owned(),
        };
        let identity = format!("{name}({})", arguments(record.text("funciargs")));
        let tag = format!("{}({})", object.name, arguments(&types));
        let details = self.aggregate_details(&record, &object.name)?.join(",\n    ");
        let definition = format!(
            "CREATE AGGREGATE {schema}.{name}({}) (\n    {details}\n);\n",
            arguments(record.text("funcargs"))
        );
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                tag,
                definition: Some(definition),
                drop: Some(format!("DROP AGGREGATE {schema}.{identity};\n")),
                ..self.draft(id, "AGGREGATE")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "AGGREGATE", &identity);
        }
        self.labels(id, "AGGREGATE", &identity);
        // GRANT knows functions only, and these have no stars.
        self.privileges(id, "FUNCTION", &format!("{name}({types})"))?;
        Ok(())
    }

    fn aggregate_details(&self, record: &Record, name: &str) -> Result<Vec<String>> {
        let kind = record.letter("aggkind");
        let usual = if kind == b'n' { b'r' } else { b'w' };
        let modify = |word: &str, column: &str| -> Result<Option<String>> {
            let how = match record.letter(column) {
                letter if letter == usual || letter == b'0' => return Ok(None),
                b'r' => "READ_ONLY",
                b's' => "SHAREABLE",
                b'w' => "READ_WRITE",
                _ => {
                    return Err(ToolError::catalog(format!(
                        "unrecognized {column} value for aggregate \"{name}\""
                    )));
                }
            };
            Ok(Some(format!("{word}_MODIFY = {how}")))
        };
        let mut details = vec![
            format!("SFUNC = {}", record.text("aggtransfn")),
            format!("STYPE = {}", record.text("aggtranstype")),
        ];
        let space = |details: &mut Vec<String>, word: &str, column: &str| {
            if record.text(column) != "0" {
                details.push(format!("{word} = {}", record.text(column)));
            }
        };
        let initial = |details: &mut Vec<String>, word: &str, column: &str| {
            if let Some(value) = record.get(column) {
                details.push(format!("{word} = {}", self.quoting.literal(value)));
            }
        };
        space(&mut details, "SSPACE", "aggtransspace");
        initial(&mut details, "INITCOND", "agginitval");
        if let Some(function) = record.function("aggfinalfn") {
            details.push(format!("FINALFUNC = {function}"));
            if record.flag("aggfinalextra") {
                details.push("FINALFUNC_EXTRA".to_owned());
            }
            details.extend(modify("FINALFUNC", "aggfinalmodify")?);
        }
        for (word, column) in [
            ("COMBINEFUNC", "aggcombinefn"),
            ("SERIALFUNC", "aggserialfn"),
            ("DESERIALFUNC", "aggdeserialfn"),
        ] {
            if let Some(function) = record.function(column) {
                details.push(format!("{word} = {function}"));
            }
        }
        if let Some(function) = record.function("aggmtransfn") {
            details.push(format!("MSFUNC = {function}"));
            details.push(format!("MINVFUNC = {}", record.text("aggminvtransfn")));
            details.push(format!("MSTYPE = {}", record.text("aggmtranstype")));
        }
        space(&mut details, "MSSPACE", "aggmtransspace");
        initial(&mut details, "MINITCOND", "aggminitval");
        if let Some(function) = record.function("aggmfinalfn") {
            details.push(format!("MFINALFUNC = {function}"));
            if record.flag("aggmfinalextra") {
                details.push("MFINALFUNC_EXTRA".to_owned());
            }
            details.extend(modify("MFINALFUNC", "aggmfinalmodify")?);
        }
        if let Some(operator) = self.operator_name(record.oid("aggsortop")) {
            details.push(format!("SORTOP = {operator}"));
        }
        if kind == b'h' {
            details.push("HYPOTHETICAL".to_owned());
        }
        match record.letter("proparallel") {
            b's' => details.push("PARALLEL = safe".to_owned()),
            b'r' => details.push("PARALLEL = restricted".to_owned()),
            _ => {}
        }
        Ok(details)
    }
}
