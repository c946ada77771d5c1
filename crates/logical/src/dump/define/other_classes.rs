//! Casts, transforms, languages, access methods, collations, conversions and default privileges.

use pgkeep_format::archive::Section;
use pgkeep_tool::{Result, ToolError};

use super::{Definer, Draft};
use crate::dump::model::{Id, Kind, Parts, catalog};
use crate::dump::privileges::{self, Subject};

impl Definer<'_> {
    /// A function with its arguments' types: `schema.name(integer, text)`.
    fn function_signature(&self, oid: u32) -> Result<String> {
        let failure =
            || ToolError::catalog(format!("could not find function definition for function with OID {oid}"));
        let id = self.model.find(catalog::FUNCTION, oid).ok_or_else(failure)?;
        let (Kind::Function(function) | Kind::Aggregate(function)) = &self.model.get(id).kind else {
            return Err(failure());
        };
        let types: Result<Vec<&str>> = function.arguments.iter().map(|oid| self.type_name(*oid)).collect();
        Ok(format!("{}({})", self.qualified(id), types?.join(", ")))
    }

    pub(super) fn cast(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let from_to = format!(
            "({} AS {})",
            self.type_name(record.oid("castsource"))?,
            self.type_name(record.oid("casttarget"))?
        );
        let method = match record.letter("castmethod") {
            b'b' => "WITHOUT FUNCTION".to_owned(),
            b'i' => "WITH INOUT".to_owned(),
            b'f' => format!("WITH FUNCTION {}", self.function_signature(record.oid("castfunc"))?),
            _ => return Err(ToolError::catalog("bogus value in pg_cast.castmethod field")),
        };
        let context = match record.letter("castcontext") {
            b'a' => " AS ASSIGNMENT",
            b'i' => " AS IMPLICIT",
            _ => "",
        };
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                tag: format!("CAST {from_to}"),
                definition: Some(format!("CREATE CAST {from_to} {method}{context};\n")),
                drop: Some(format!("DROP CAST {from_to};\n")),
                owner: None,
                ..self.draft(id, "CAST")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "CAST", &from_to);
        }
        Ok(())
    }

    pub(super) fn transform(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let record = self.texts.records.of(object.catalog);
        let language = self.quoting.name(record.text("lanname"));
        let of = format!("FOR {} LANGUAGE {language}", self.type_name(record.oid("trftype"))?);
        let mut functions = Vec::new();
        for (word, column) in [("FROM", "trffromsql"), ("TO", "trftosql")] {
            let oid = record.oid(column);
            if oid != 0 {
                functions.push(format!("{word} SQL WITH FUNCTION {}", self.function_signature(oid)?));
            }
        }
        let dependencies = object.dependencies.clone();
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                tag: format!("TRANSFORM {of}"),
                definition: Some(format!("CREATE TRANSFORM {of} ({});\n", functions.join(", "))),
                drop: Some(format!("DROP TRANSFORM {of};\n")),
                owner: None,
                dependencies,
                ..self.draft(id, "TRANSFORM")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "TRANSFORM", &of);
        }
        Ok(())
    }

    pub(super) fn language(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let name = self.name(id);
        // Functions that are part of the dump; a language whose functions are not is known to the target.
        let function = |column: &str| {
            let found = self.model.find(catalog::FUNCTION, record.oid(column));
            found.filter(|id| !self.model.get(*id).wanted.is_empty()).map(|id| self.qualified(id))
        };
        let optional = |column: &str| match record.oid(column) {
            0 => Some(None),
            _ => function(column).map(Some),
        };
        let trusted = record.flag("lanpltrusted");
        let definition = match (function("lanplcallfoid"), optional("laninline"), optional("lanvalidator")) {
            (Some(handler), Some(inline), Some(validator)) => {
                let kind = if trusted { "TRUSTED " } else { "" };
                let inline = inline.map(|function| format!(" INLINE {function}")).unwrap_or_default();
                let validator =
                    validator.map(|function| format!(" VALIDATOR {function}")).unwrap_or_default();
                format!("CREATE {kind}PROCEDURAL LANGUAGE {name} HANDLER {handler}{inline}{validator};\n")
            }
            _ => format!("CREATE OR REPLACE PROCEDURAL LANGUAGE {name};\n"),
        };
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP PROCEDURAL LANGUAGE {name};\n")),
                ..self.draft(id, "PROCEDURAL LANGUAGE")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "LANGUAGE", &name);
        }
        self.labels(id, "LANGUAGE", &name);
        if trusted {
            self.privileges(id, "LANGUAGE", &name)?;
        }
        Ok(())
    }

    pub(super) fn access_method(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let name = self.name(id);
        let kind = match record.letter("amtype") {
            b'i' => "INDEX",
            b't' => "TABLE",
            other => {
                return Err(ToolError::catalog(format!(
                    "invalid type \"{}\" of access method \"{name}\"",
                    char::from(other)
                )));
            }
        };
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(format!(
                    "CREATE ACCESS METHOD {name} TYPE {kind} HANDLER {};\n",
                    record.text("amhandler")
                )),
                drop: Some(format!("DROP ACCESS METHOD {name};\n")),
                owner: None,
                ..self.draft(id, "ACCESS METHOD")
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            self.comment(id, "ACCESS METHOD", &name);
        }
        Ok(())
    }

    pub(super) fn collation(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let record = self.texts.records.of(object.catalog);
        let mut items = Vec::new();
        let mut item =
            |word: &str, value: &str| items.push(format!("{word} = {}", self.quoting.literal(value)));
        // Up to 14 what does not apply is empty instead of NULL.
        let collate = record.get("collcollate").filter(|collate| !collate.is_empty());
        let ctype = record.get("collctype").filter(|ctype| !ctype.is_empty());
        let provider = match record.letter("collprovider") {
            b'b' => {
                item("locale", record.text("locale"));
                "builtin"
            }
            b'i' => {
                item("locale", record.get("locale").or(collate).unwrap_or(""));
                if let Some(rules) = record.get("rules") {
                    item("rules", rules);
                }
                "icu"
            }
            b'c' => {
                if collate.is_some() && collate == ctype {
                    item("locale", collate.unwrap_or(""));
                } else {
                    item("lc_collate", collate.unwrap_or(""));
                    item("lc_ctype", ctype.unwrap_or(""));
                }
                "libc"
            }
            b'd' => "default",
            other => {
                return Err(ToolError::catalog(format!(
                    "unrecognized collation provider: {}",
                    char::from(other)
                )));
            }
        };
        if let Some(version) = record.get("collversion").filter(|_| self.options.binary_upgrade) {
            items.push(format!("version = {}", self.quoting.literal(version)));
        }
        if record.get("collisdeterministic") == Some("f") {
            items.insert(0, "deterministic = false".to_owned());
        }
        items.insert(0, format!("provider = {provider}"));
        self.plain_object(id, "COLLATION", format!("({})", items.join(", ")));
        Ok(())
    }

    pub(super) fn conversion(&mut self, id: Id) -> Result<()> {
        let record = self.texts.records.of(self.model.get(id).catalog);
        let default = if record.flag("condefault") { "DEFAULT " } else { "" };
        let qualified = self.qualified(id);
        let definition = format!(
            "CREATE {default}CONVERSION {qualified} FOR {} TO {} FROM {};\n",
            self.quoting.literal(record.text("source")),
            self.quoting.literal(record.text("target")),
            record.text("conproc")
        );
        self.object_with_comment(id, "CONVERSION", definition);
        Ok(())
    }

    /// `CREATE kind schema.name rest`.
    fn plain_object(&mut self, id: Id, desc: &'static str, rest: String) {
        let definition = format!("CREATE {desc} {} {rest};\n", self.qualified(id));
        self.object_with_comment(id, desc, definition);
    }

    /// An entry for an object with a name and an owner, and its comment.
    pub(super) fn object_with_comment(&mut self, id: Id, desc: &'static str, definition: String) {
        if self.wants(id, Parts::DEFINITION) {
            let draft = Draft {
                definition: Some(definition),
                drop: Some(format!("DROP {desc} {};\n", self.qualified(id))),
                ..self.draft(id, desc)
            };
            self.add(draft);
        }
        if self.wants(id, Parts::COMMENT) {
            let name = self.name(id);
            self.comment(id, desc, &name);
        }
    }

    pub(super) fn default_privileges(&mut self, id: Id) -> Result<()> {
        let object = self.model.get(id);
        let Kind::DefaultPrivileges { role } = &object.kind else { return Ok(()) };
        if self.options.no_privileges || !self.wants(id, Parts::PRIVILEGES) {
            return Ok(());
        }
        let kind = match object.name.as_str() {
            "r" => "TABLES",
            "S" => "SEQUENCES",
            "f" => "FUNCTIONS",
            "T" => "TYPES",
            "n" => "SCHEMAS",
            "L" => "LARGE OBJECTS",
            other => {
                return Err(ToolError::catalog(format!(
                    "unrecognized object type in default privileges: {other}"
                )));
            }
        };
        let schema = object.schema.map(|schema| self.model.get(schema).name.clone());
        let mut prefix = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {} ", self.quoting.name(role));
        if let Some(schema) = &schema {
            prefix.push_str(&format!("IN SCHEMA {} ", self.quoting.name(schema)));
        }
        let subject = Subject { kind, name: "", column: None, schema: "", owner: role, prefix: &prefix };
        let current = object.privileges.current.as_deref().unwrap_or("");
        let commands = privileges::commands(self.quoting, &subject, current, &object.privileges.default)?;
        let draft = Draft {
            tag: format!("DEFAULT PRIVILEGES FOR {kind}"),
            definition: Some(commands),
            section: Some(Section::PostData),
            owner: Some(role.clone()),
            ..self.draft(id, "DEFAULT ACL")
        };
        self.add(draft);
        Ok(())
    }
}
