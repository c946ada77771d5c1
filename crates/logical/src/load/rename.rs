//! Other names for schemas, in all that an entry says.
//!
//! A name is replaced only where SQL can mean nothing but the schema: before a dot, behind the word SCHEMA, in a string
//! that is cast to `regclass` and the like or says which sequence is set, in a `search_path` that a function sets. Where a query could mean a table or an
//! alias of the same name, the entry is refused. Strings and bodies of functions are left alone and told of.

use std::borrow::Cow;

use pgkeep_format::archive::{Text, TocEntry};

use super::lexer::{Kind, Sql};
use crate::quote;

/// Types whose texts are names.
const NAME_TYPES: [&str; 10] = [
    "regclass",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regtype",
    "regnamespace",
    "regconfig",
    "regdictionary",
    "regcollation",
];

/// Encodings in which a byte of a character may look like a quote or a backslash: tokens cannot be told in them.
pub(super) const UNSAFE_ENCODINGS: [&str; 7] =
    ["SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004"];

/// Old and new names of schemas.
#[derive(Debug, Clone, Default)]
pub(super) struct Renaming {
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    standard_strings: bool,
}

/// What was found besides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The schema may be named in a string or a body, which was left as it is.
    pub(super) mentioned: bool,
    /// The schema's name, where it cannot be told what is meant.
    pub(super) ambiguous: Option<Vec<u8>>,
}

impl Renaming {
    pub(super) fn new(pairs: &[(String, String)], standard_strings: bool) -> Renaming {
        let pairs = pairs.iter().map(|(old, new)| (old.as_bytes().to_vec(), new.as_bytes().to_vec()));
        Renaming { pairs: pairs.collect(), standard_strings }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.pairs.iter().find(|(old, _)| old == name).map(|(_, new)| &new[..])
    }

    /// The name that a schema has from now on.
    pub(super) fn of<'a>(&'a self, name: &'a [u8]) -> &'a [u8] {
        self.get(name).unwrap_or(name)
    }

    /// Renames in everything that an entry says.
    pub(super) fn apply(&self, entry: &mut TocEntry) -> Findings {
        let mut findings = Findings::default();
        if let Some(namespace) = entry.namespace.as_deref() {
            entry.namespace = Some(Text::from(self.of(namespace)));
        }
        if entry.desc == "SCHEMA" {
            entry.tag = Text::from(self.of(&entry.tag));
        }
        let has_query = matches!(
            &entry.desc[..],
            b"VIEW" | b"MATERIALIZED VIEW" | b"RULE" | b"POLICY" | b"FUNCTION" | b"PROCEDURE" | b"TRIGGER"
        );
        // Large objects are listed in theirs, and it is no SQL.
        if entry.desc != "BLOB METADATA" {
            entry.definition =
                entry.definition.take().map(|text| self.text(&text, has_query, &mut findings).into());
        }
        for text in [&mut entry.drop_statement, &mut entry.copy_statement] {
            *text = text.take().map(|text| self.text(&text, false, &mut findings).into());
        }
        findings
    }

    fn text(&self, text: &[u8], has_query: bool, findings: &mut Findings) -> Vec<u8> {
        let sql = Sql::new(text, self.standard_strings);
        let mut edits: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut bare = Vec::new();
        let mut in_search_path = false;
        for index in 0..sql.tokens.len() {
            if sql.is(index, "search_path") && index > 0 && sql.is(index - 1, "set") {
                in_search_path = true;
                continue;
            }
            let continues_path = sql.is(index, "to") || sql.symbol(index, b',') || sql.symbol(index, b'=');
            match sql.kind(index) {
                Some(Kind::Word | Kind::Quoted) => {
                    let Some(new) = sql.name(index).and_then(|name| self.get(&name).map(<[u8]>::to_vec))
                    else {
                        in_search_path &= continues_path || sql.kind(index) == Some(Kind::Quoted);
                        continue;
                    };
                    let is_behind_dot = index > 0 && sql.symbol(index - 1, b'.');
                    let is_before_dot = sql.symbol(index + 1, b'.');
                    let is_schema = index > 0 && sql.is(index - 1, "schema");
                    if (is_before_dot && !is_behind_dot) || is_schema || in_search_path {
                        edits.push((index, quote::identifier(&new)));
                    } else if !is_before_dot {
                        bare.extend(sql.name(index).map(Cow::into_owned));
                    }
                }
                Some(Kind::Literal) => {
                    if let Some(new) = self.literal(&sql, index, in_search_path) {
                        edits.push((index, new));
                    } else if self.is_mentioned(sql.bytes(index)) {
                        findings.mentioned = true;
                    }
                }
                Some(Kind::Body) => findings.mentioned |= self.is_mentioned(sql.bytes(index)),
                _ => in_search_path &= continues_path,
            }
        }
        if has_query {
            // `a.x` is a column of the relation `a` where there is one.
            let meant = edits.iter().filter(|(index, _)| sql.symbol(index + 1, b'.'));
            let mut names = meant.filter_map(|(index, _)| sql.name(*index));
            let doubtful = names.find(|name| {
                bare.iter().any(|bare| bare == &name[..])
                    || matches!(&name[..], b"old" | b"new" | b"excluded")
            });
            findings.ambiguous = findings.ambiguous.take().or(doubtful.map(Cow::into_owned));
        }
        sql.edited(&edits)
    }

    /// A literal that names an object or a schema, with the other name.
    fn literal(&self, sql: &Sql<'_>, index: usize, in_search_path: bool) -> Option<Vec<u8>> {
        let text = sql.literal(index)?;
        let is_cast = sql.symbol(index + 1, b':') && sql.symbol(index + 2, b':');
        let is_position = index >= 2 && sql.symbol(index - 1, b'(') && sql.is(index - 2, "setval");
        let new = if is_position || is_cast && NAME_TYPES.iter().any(|name| sql.is(index + 3, name)) {
            let inner = Sql::new(&text, true);
            let is_namespace = sql.is(index + 3, "regnamespace");
            let edits: Vec<_> = (0..inner.tokens.len())
                .filter(|at| is_namespace || inner.symbol(at + 1, b'.'))
                .filter_map(|at| Some((at, quote::identifier(self.get(&inner.name(at)?)?))))
                .collect();
            if edits.is_empty() {
                return None;
            }
            inner.edited(&edits)
        } else if in_search_path || is_schema_argument(sql, index) {
            self.get(&text)?.to_vec()
        } else {
            return None;
        };
        let mut quoted = Vec::new();
        quote::push_literal(&mut quoted, &new, self.standard_strings);
        Some(quoted)
    }

    /// Whether a text has one of the names as a word.
    fn is_mentioned(&self, text: &[u8]) -> bool {
        self.pairs.iter().any(|(old, _)| {
            let is_word = |byte: Option<&u8>| {
                byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80)
            };
            !old.is_empty()
                && text.windows(old.len()).enumerate().any(|(at, window)| {
                    window.eq_ignore_ascii_case(old)
                        && !is_word(at.checked_sub(1).and_then(|before| text.get(before)))
                        && !is_word(text.get(at + old.len()))
                })
        })
    }
}

/// Statistics name the schema as `'schemaname', 'app'`.
fn is_schema_argument(sql: &Sql<'_>, index: usize) -> bool {
    index >= 2 && sql.symbol(index - 1, b',') && sql.literal(index - 2).as_deref() == Some(b"schemaname")
}

#[cfg(test)]
mod tests {
    use pgkeep_format::archive::{DumpId, Section};

    use super::*;

    fn renamed(desc: &str, text: &str) -> (String, Findings) {
        let renaming = Renaming::new(&[("app".to_owned(), "New".to_owned())], true);
        let mut entry = TocEntry::new(DumpId(1), desc, "t", Section::PreData);
        entry.definition = Some(text.into());
        let findings = renaming.apply(&mut entry);
        (entry.definition.unwrap().to_lossy().into_owned(), findings)
    }

    #[test]
    fn names_before_dots_and_behind_schema_are_replaced() {
        for (desc, old, new) in [
            (
                "TABLE",
                "CREATE TABLE app.app (app app.mood, x text DEFAULT 'app.x');",
                "CREATE TABLE \"New\".app (app \"New\".mood, x text DEFAULT 'app.x');",
            ),
            (
                "SEQUENCE SET",
                "SELECT pg_catalog.setval('app.s', 5, true);",
                "SELECT pg_catalog.setval('\"New\".s', 5, true);",
            ),
            ("SCHEMA", "CREATE SCHEMA app;", "CREATE SCHEMA \"New\";"),
            (
                "DEFAULT",
                "SET DEFAULT nextval('app.s'::regclass);",
                "SET DEFAULT nextval('\"New\".s'::regclass);",
            ),
            ("ACL", "GRANT ALL ON SCHEMA app TO app;", "GRANT ALL ON SCHEMA \"New\" TO app;"),
            (
                "VIEW",
                "CREATE VIEW app.v AS SELECT x.app FROM (app.t x) WHERE (x.a OPERATOR(app.=) 1);",
                "CREATE VIEW \"New\".v AS SELECT x.app FROM (\"New\".t x) WHERE (x.a OPERATOR(\"New\".=) 1);",
            ),
            (
                "FUNCTION",
                "CREATE FUNCTION app.f() SET search_path TO 'app', 'public' AS $$x$$;",
                "CREATE FUNCTION \"New\".f() SET search_path TO 'New', 'public' AS $$x$$;",
            ),
            (
                "STATISTICS DATA",
                "SELECT f('schemaname', 'app', 'relname', 'app');",
                "SELECT f('schemaname', 'New', 'relname', 'app');",
            ),
            (
                "SEQUENCE OWNED BY",
                "ALTER SEQUENCE app.s OWNED BY app.t.app;",
                "ALTER SEQUENCE \"New\".s OWNED BY \"New\".t.app;",
            ),
            (
                "TABLE",
                "CREATE TABLE other.\"app.x\" (\"App\" integer);",
                "CREATE TABLE other.\"app.x\" (\"App\" integer);",
            ),
        ] {
            if desc == "VIEW" {
                // A column named as the schema makes the view doubtful, though it is right.
                assert_eq!(renamed(desc, old).0, new);
                continue;
            }
            let (text, findings) = renamed(desc, old);
            assert_eq!(text, new);
            assert_eq!(findings.ambiguous, None, "{old}");
        }
    }

    #[test]
    fn bodies_and_strings_stay_and_are_told_of() {
        let (text, findings) = renamed("FUNCTION", "CREATE FUNCTION x.f() AS $$ SELECT * FROM app.t $$;");
        assert!(text.contains("app.t") && findings.mentioned);
        assert!(!renamed("FUNCTION", "CREATE FUNCTION x.f() AS $$ SELECT application.t $$;").1.mentioned);
    }

    #[test]
    fn an_alias_of_the_same_name_is_refused() {
        let doubtful = "CREATE VIEW x.v AS SELECT app.id FROM x.t app;";
        assert_eq!(renamed("VIEW", doubtful).1.ambiguous, Some(b"app".to_vec()));
        let clear = "CREATE VIEW x.v AS SELECT t.id FROM app.t;";
        assert_eq!(renamed("VIEW", clear).1.ambiguous, None);
    }
}
