//! Functions and procedures.
//!
//! Not by `pg_get_functiondef`, whose texts differ from stock's dumps.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::texts::FunctionTexts;
use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts};
use crate::dump::sql::{dollar_quoted, parse_array, setting_value};

impl Definer<'_> {
    pub(super) fn function(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::Function(function) = &object.kind else { return Ok(()) };
        let texts =
            self.texts.functions.get(&object.catalog.oid).ok_or_else(|| {
                ToolError::catalog(format!("function \"{}\" has no definition", object.name))
            })?;
        let keyword = if texts.kind == b'p' { "PROCEDURE" } else { "FUNCTION" };
        let schema = self.quoting.name(self.model.schema_name(id));
        let name = self.quoting.name(&object.name);
        let identity = format!("{name}({})", texts.identity_arguments);
        let types: Result<Vec<&str>> = function.arguments.iter().map(|oid| self.type_name(*oid)).collect();
        let tag = format!("{}({})", object.name, types?.join(", "));
        let mut sql = format!("CREATE {keyword} {schema}.{name}({})", texts.arguments);
        if texts.kind != b'p' {
            match &texts.result {
                Some(result) => sql.push_str(&format!(" RETURNS {result}")),
                None => {
                    let set = if texts.returns_set { "SETOF " } else { "" };
                    sql.push_str(&format!(" RETURNS {set}{}", self.type_name(function.result)?));
                }
            }
        }
        self.push_properties(&mut sql, texts)?;
        sql.push_str(&format!("\n    {};\n", self.function_body(texts)));
        let qualified = format!("{schema}.{identity}");
        sql.push_str(&self.depends_on_extension(id, keyword, &qualified));
        if self.wants(id, Parts::DEFINITION) {
            let section = if function.postponed { Section::PostData } else { Section::PreData };
            let draft = Draft {
                tag,
                definition: Some(sql),
                drop: Some(format!("DROP {keyword} {qualified};\n")),
                section: Some(section),
                ..self.draft(id, keyword)
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, keyword, &identity);
        }
        self.labels(id, keyword, &identity);
        self.privileges(id, keyword, &identity)?;
        Ok(())
    }

    fn push_properties(&self, sql: &mut String, texts: &FunctionTexts) -> Result<()> {
        sql.push_str(&format!("\n    LANGUAGE {}", self.quoting.name(&texts.language)));
        for (position, oid) in texts.transforms.iter().enumerate() {
            sql.push_str(if position == 0 { " TRANSFORM " } else { ", " });
            sql.push_str(&format!("FOR TYPE {}", self.type_name(*oid)?));
        }
        if texts.kind == b'w' {
            sql.push_str(" WINDOW");
        }
        match texts.volatility {
            b'i' => sql.push_str(" IMMUTABLE"),
            b's' => sql.push_str(" STABLE"),
            _ => {}
        }
        for (is, word) in [
            (texts.strict, " STRICT"),
            (texts.security_definer, " SECURITY DEFINER"),
            (texts.leakproof, " LEAKPROOF"),
        ] {
            if is {
                sql.push_str(word);
            }
        }
        // Cost and rows are said when they are not the defaults.
        let usual_cost = if matches!(texts.language.as_str(), "internal" | "c") { "1" } else { "100" };
        if texts.cost != "0" && texts.cost != usual_cost {
            sql.push_str(&format!(" COST {}", texts.cost));
        }
        if texts.returns_set && texts.rows != "0" && texts.rows != "1000" {
            sql.push_str(&format!(" ROWS {}", texts.rows));
        }
        if texts.support != "-" {
            sql.push_str(&format!(" SUPPORT {}", texts.support));
        }
        match texts.parallel {
            b's' => sql.push_str(" PARALLEL SAFE"),
            b'r' => sql.push_str(" PARALLEL RESTRICTED"),
            _ => {}
        }
        if !texts.configuration.is_empty() {
            let settings = parse_array(&texts.configuration)
                .ok_or_else(|| ToolError::catalog("could not parse proconfig array"))?;
            for setting in settings {
                if let Some((name, value)) = setting.split_once('=') {
                    sql.push_str(&format!(
                        "\n    SET {} TO {}",
                        self.quoting.name(name),
                        setting_value(self.quoting, name, value)
                    ));
                }
            }
        }
        Ok(())
    }

    fn function_body(&self, texts: &FunctionTexts) -> String {
        if let Some(body) = &texts.sql_body {
            return body.clone();
        }
        let source = &texts.source;
        let may_dollar = !self.options.disable_dollar_quoting;
        if texts.binary.is_empty() {
            return match may_dollar {
                true => format!("AS {}", dollar_quoted(source)),
                false => format!("AS {}", self.quoting.literal(source)),
            };
        }
        let mut body = format!("AS {}", self.quoting.literal(&texts.binary));
        if !source.is_empty() {
            let source = match may_dollar && source.contains(['\'', '\\']) {
                true => dollar_quoted(source),
                false => self.quoting.literal(source),
            };
            body.push_str(&format!(", {source}"));
        }
        body
    }
}
