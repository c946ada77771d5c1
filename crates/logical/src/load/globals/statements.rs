//! The script's text, in statements: where each begins and ends, and what it is about.

use std::ops::Range;

use crate::load::error::{LoadError, LoadErrorKind, LoadResult};
use crate::load::lexer::{Kind, Sql};

/// How many words a message shows of a statement.
const SHOWN_WORDS: usize = 12;

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    /// A setting that the whole script needs.
    Setting,
    CreateRole(Vec<u8>),
    AlterRole(Vec<u8>),
    /// Its name, and its directory as it is written.
    CreateTablespace(Vec<u8>, Range<usize>),
    /// Anything else about a tablespace. `true`: who may use it.
    Tablespace(bool),
    /// Who may set a parameter.
    ParameterPrivilege,
    /// Memberships, comments, labels.
    Other,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub(super) about: About,
    pub(super) text: Range<usize>,
    /// For messages.
    pub(super) label: String,
}

fn damaged(what: &str) -> LoadError {
    LoadError::new(LoadErrorKind::Corrupt, "the script of roles and tablespaces cannot be used")
        .cause(what)
        .hint("use another dump; databases can be loaded one by one with `--database`")
}

/// Finds the statements.
pub(super) fn parse(script: &[u8]) -> LoadResult<Vec<Statement>> {
    let sql = Sql::new(script, true);
    // Said once, before the first text in quotes that it matters for.
    let old_strings = (0..sql.tokens.len()).any(|at| {
        sql.are(at, &["set", "standard_conforming_strings"])
            && sql.symbol(at + 2, b'=')
            && sql.is(at + 3, "off")
    });
    if old_strings { statements(&Sql::new(script, false), script) } else { statements(&sql, script) }
}

fn statements(sql: &Sql<'_>, script: &[u8]) -> LoadResult<Vec<Statement>> {
    let mut found = Vec::new();
    let mut begin = None;
    let mut at = 0;
    while at < sql.tokens.len() {
        if begin.is_none() && sql.symbol(at, b'\\') {
            if !sql.is(at + 1, "restrict") && !sql.is(at + 1, "unrestrict") {
                return Err(damaged("it holds a command for psql that is not known"));
            }
            let line = sql.begin(at);
            let rest = script.get(line..).unwrap_or_default();
            let end =
                rest.iter().position(|byte| *byte == b'\n').map_or(script.len(), |length| line + length);
            while at < sql.tokens.len() && sql.begin(at) < end {
                if sql.end(at) > end {
                    return Err(damaged("a command for psql does not end with its line"));
                }
                at += 1;
            }
            continue;
        }
        let first = *begin.get_or_insert(at);
        if sql.symbol(at, b';') {
            found.push(Statement {
                about: about(sql, first, at),
                text: sql.begin(first)..sql.end(at),
                label: label(sql, first, at),
            });
            begin = None;
        }
        at += 1;
    }
    match begin {
        Some(_) => Err(damaged("its last statement has no end")),
        None => Ok(found),
    }
}

fn about(sql: &Sql<'_>, first: usize, end: usize) -> About {
    let name = |at: usize| sql.name(at).map(std::borrow::Cow::into_owned).unwrap_or_default();
    // Where `ON` leads to, in GRANT, REVOKE, COMMENT and SECURITY LABEL.
    let object = (first..end).find(|at| sql.is(*at, "on")).map(|at| at + 1);
    let is_on = |word: &str| object.is_some_and(|at| sql.is(at, word));
    let is_privilege = sql.is(first, "grant") || sql.is(first, "revoke");
    // `SET SESSION AUTHORIZATION` counts for what stands between it and its RESET.
    if sql.is(first, "set") && !sql.is(first + 1, "session") {
        About::Setting
    } else if sql.are(first, &["create", "role"]) {
        About::CreateRole(name(first + 2))
    } else if sql.are(first, &["alter", "role"]) {
        About::AlterRole(name(first + 2))
    } else if sql.are(first, &["create", "tablespace"]) {
        let directory = (first..end).find(|at| sql.is(*at, "location")).map_or(end, |at| at + 1);
        About::CreateTablespace(name(first + 2), sql.begin(directory)..sql.end(directory))
    } else if sql.are(first, &["alter", "tablespace"]) || is_on("tablespace") {
        About::Tablespace(is_privilege)
    } else if is_privilege && is_on("parameter") {
        About::ParameterPrivilege
    } else {
        About::Other
    }
}

/// The statement in short: no texts in quotes, which may be passwords.
fn label(sql: &Sql<'_>, first: usize, end: usize) -> String {
    let is_role = sql.are(first, &["create", "role"]) || sql.are(first, &["alter", "role"]);
    let shown = if is_role { first + 3 } else { first + SHOWN_WORDS };
    let mut text = String::new();
    for at in first..end.min(shown) {
        if matches!(sql.kind(at), Some(Kind::Literal | Kind::Body)) {
            break;
        }
        if !text.is_empty() && sql.kind(at) != Some(Kind::Symbol) {
            text.push(' ');
        }
        text.push_str(&String::from_utf8_lossy(sql.bytes(at)));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::load::GlobalsScript;

    const SCRIPT: &str = r#"--
-- PostgreSQL database cluster dump
--

\restrict abc1

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

CREATE ROLE "a;b";
ALTER ROLE "a;b" WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x;y';
COMMENT ON ROLE "a;b" IS 'it''s; fine';
ALTER ROLE ann SET search_path TO 'x;y', public;
GRANT "a;b" TO ann WITH INHERIT TRUE GRANTED BY postgres;
GRANT SET ON PARAMETER work_mem TO ann;
CREATE TABLESPACE fast OWNER ann LOCATION E'/srv/a\\b';
ALTER TABLESPACE fast SET (random_page_cost='1.1');
GRANT ALL ON TABLESPACE fast TO ann;
COMMENT ON TABLESPACE fast IS 'on tablespace';
\unrestrict abc1

--
-- PostgreSQL database cluster dump complete
--
"#;

    fn parsed(text: &str) -> GlobalsScript {
        GlobalsScript::parse(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn statements_are_parted_and_known() {
        let script = parsed(SCRIPT);
        let of = |number: usize| {
            let statement = &script.statements[number];
            (statement.about.clone(), String::from_utf8_lossy(script.text(&statement.text)).into_owned())
        };
        assert_eq!(script.statements.len(), 13);
        assert_eq!(of(0).0, About::Setting);
        assert_eq!(of(3), (About::CreateRole(b"a;b".to_vec()), "CREATE ROLE \"a;b\";".to_owned()));
        assert_eq!(of(4).0, About::AlterRole(b"a;b".to_vec()));
        assert!(of(4).1.ends_with("x;y';"));
        assert_eq!(of(5).0, About::Other);
        assert_eq!(of(6).0, About::AlterRole(b"ann".to_vec()));
        assert_eq!(of(7).0, About::Other);
        assert_eq!(of(8).0, About::ParameterPrivilege);
        let About::CreateTablespace(name, directory) = of(9).0 else { panic!() };
        assert_eq!((&name[..], script.text(&directory)), (&b"fast"[..], &br"E'/srv/a\\b'"[..]));
        assert_eq!(of(10).0, About::Tablespace(false));
        assert_eq!(of(11).0, About::Tablespace(true));
        assert_eq!(of(12).0, About::Tablespace(false));
        assert_eq!(script.roles(), BTreeSet::from([b"a;b".to_vec()]));
        assert_eq!(script.tablespaces(), BTreeSet::from([b"fast".to_vec()]));
    }

    #[test]
    fn messages_hold_no_passwords() {
        let labels: Vec<String> =
            parsed(SCRIPT).statements.into_iter().map(|statement| statement.label).collect();
        assert_eq!(labels[4], "ALTER ROLE \"a;b\"");
        assert!(!labels.iter().any(|label| label.contains("SCRAM") || label.contains('\'')), "{labels:?}");
        assert_eq!(labels[7], "GRANT \"a;b\" TO ann WITH INHERIT TRUE GRANTED BY postgres");
    }

    #[test]
    fn backslashes_are_read_as_the_script_says() {
        let script = parsed(
            "SET standard_conforming_strings = off;\nCOMMENT ON ROLE a IS 'x\\'; CREATE ROLE b; \\\\';\nCREATE ROLE c;\n",
        );
        assert_eq!(script.statements.len(), 3);
        assert_eq!(script.roles(), BTreeSet::from([b"c".to_vec()]));
    }

    #[test]
    fn a_script_that_is_not_whole_is_refused() {
        let whole = parsed(SCRIPT).statements.len();
        for end in 0..SCRIPT.len() {
            // Cuts between statements show only by the digest of the part.
            let Ok(script) = GlobalsScript::parse(SCRIPT.as_bytes()[..end].to_vec()) else { continue };
            assert!(script.statements.len() <= whole);
            let last = script.statements.last().map_or(0, |statement| statement.text.end);
            assert!(!SCRIPT[last..end].contains("CREATE") && !SCRIPT[last..end].contains("ALTER"), "{end}");
        }
        for hostile in ["\\! rm -rf /\n", "\\restrict 'a\n;'\n", "\\connect postgres\n", "CREATE ROLE a"] {
            assert!(GlobalsScript::parse(hostile.as_bytes().to_vec()).is_err(), "{hostile}");
        }
    }
}
