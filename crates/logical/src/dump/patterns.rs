//! Patterns of names, as psql's `\d` has them, and what they name.
//!
//! Outside of double quotes letters are lower case, `*` and `?` stand for any text and any character, and a dot parts
//! database, schema and name; the rest is a regular expression. Source: `patternToSQLRegex` of PostgreSQL 18.

use std::collections::BTreeSet;

use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::quote_literal;

use super::options::{DumpOptions, Patterns, Selection};
use super::session::{EMPTY_SEARCH_PATH, Session};

/// A pattern, taken apart at its dots.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// A regular expression and the plain text of each part.
    pub(crate) parts: Vec<(String, String)>,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Pattern {
        let mut parts = vec![(String::new(), String::new())];
        let mut quoted = false;
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            let (expression, plain) = match parts.last_mut() {
                Some(part) => (&mut part.0, &mut part.1),
                None => break,
            };
            match character {
                '"' if quoted && characters.next_if_eq(&'"').is_some() => {
                    expression.push('"');
                    plain.push('"');
                }
                '"' => quoted = !quoted,
                '*' if !quoted => {
                    expression.push_str(".*");
                    plain.push('*');
                }
                '?' if !quoted => {
                    expression.push('.');
                    plain.push('?');
                }
                '.' if !quoted => parts.push((String::new(), String::new())),
                // `[]` is the name of an array rather than the start of a list of characters.
                '$' | '[' if character == '$' || characters.peek() == Some(&']') => {
                    expression.push('\\');
                    expression.push(character);
                    plain.push(character);
                }
                other => {
                    let other = if quoted { other } else { other.to_ascii_lowercase() };
                    if quoted && "|*+?()[]{}.^$\\".contains(other) {
                        expression.push('\\');
                    }
                    expression.push(other);
                    plain.push(other);
                }
            }
        }
        Pattern { parts }
    }

    fn dots(&self) -> usize {
        self.parts.len() - 1
    }

    /// The condition on a column for the part so many from the end; none where every name fits.
    fn condition(&self, column: &str, from_end: usize) -> Option<String> {
        let position = self.parts.len().checked_sub(from_end + 1)?;
        let (expression, _) = self.parts.get(position)?;
        (expression != ".*").then(|| {
            let expression = quote_literal(&format!("^({expression})$"));
            format!("{column} OPERATOR(pg_catalog.~) {expression} COLLATE pg_catalog.default")
        })
    }
}

/// Looks up everything that the options name.
pub(super) fn select(session: &mut Session, options: &DumpOptions) -> Result<Selection> {
    let patterns = &in_encoding_of(session, &options.patterns);
    let strict = patterns.strict;
    let mut selection = Selection::default();
    if !patterns.schemas.is_empty() {
        selection.schemas = Some(some(schemas(session, &patterns.schemas, strict)?, "schemas")?);
    }
    selection.exclude_schemas = schemas(session, &patterns.exclude_schemas, false)?;
    let mut included = tables(session, &patterns.tables, strict, false)?;
    included.extend(tables(session, &patterns.tables_and_children, strict, true)?);
    if !patterns.tables.is_empty() || !patterns.tables_and_children.is_empty() {
        selection.tables = Some(some(included, "tables")?);
    }
    selection.exclude_tables = tables(session, &patterns.exclude_tables, false, false)?;
    selection.exclude_tables.extend(tables(session, &patterns.exclude_tables_and_children, false, true)?);
    selection.exclude_table_data = tables(session, &patterns.exclude_table_data, false, false)?;
    selection.exclude_table_data.extend(tables(
        session,
        &patterns.exclude_table_data_and_children,
        false,
        true,
    )?);
    let servers = "SELECT oid FROM pg_catalog.pg_foreign_server s";
    selection.foreign_servers =
        plain(session, &patterns.foreign_servers, servers, "s.srvname", Some("foreign servers"))?;
    let extensions = "SELECT oid FROM pg_catalog.pg_extension e";
    if !patterns.extensions.is_empty() {
        let must = strict.then_some("extensions");
        let found = plain(session, &patterns.extensions, extensions, "e.extname", must)?;
        selection.extensions = Some(some(found, "extensions")?);
    }
    selection.exclude_extensions =
        plain(session, &patterns.exclude_extensions, extensions, "e.extname", None)?;
    Ok(selection)
}

/// The names of the databases that patterns fit; one that fits none is no mistake.
pub(crate) fn databases(session: &mut Session, patterns: &[String]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for text in patterns {
        let lifted = String::from_utf8_lossy(&session.encoding.lift(text.as_bytes())).into_owned();
        let pattern = Pattern::parse(&lifted);
        if pattern.dots() > 0 {
            return Err(ToolError::new(format!("improper qualified name (too many dotted names): {text}")));
        }
        let mut sql = "SELECT datname FROM pg_catalog.pg_database".to_owned();
        if let Some(condition) = pattern.condition("datname", 0) {
            sql.push_str(&format!(" WHERE {condition}"));
        }
        for row in session.query(&sql)?.iter() {
            names.insert(row.text("datname")?.to_owned());
        }
    }
    Ok(names)
}

/// Patterns come as bytes of the session's encoding, whatever it is.
fn in_encoding_of(session: &Session, patterns: &Patterns) -> Patterns {
    let lift = |list: &Vec<String>| -> Vec<String> {
        let lifted = list.iter().map(|pattern| session.encoding.lift(pattern.as_bytes()));
        lifted.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    };
    Patterns {
        schemas: lift(&patterns.schemas),
        exclude_schemas: lift(&patterns.exclude_schemas),
        tables: lift(&patterns.tables),
        tables_and_children: lift(&patterns.tables_and_children),
        exclude_tables: lift(&patterns.exclude_tables),
        exclude_tables_and_children: lift(&patterns.exclude_tables_and_children),
        exclude_table_data: lift(&patterns.exclude_table_data),
        exclude_table_data_and_children: lift(&patterns.exclude_table_data_and_children),
        extensions: lift(&patterns.extensions),
        exclude_extensions: lift(&patterns.exclude_extensions),
        foreign_servers: lift(&patterns.foreign_servers),
        strict: patterns.strict,
    }
}

fn some(found: BTreeSet<u32>, what: &str) -> Result<BTreeSet<u32>> {
    if found.is_empty() {
        return Err(ToolError::new(format!("no matching {what} were found")));
    }
    Ok(found)
}

fn nothing_for(what: &str, pattern: &str) -> ToolError {
    ToolError::new(format!("no matching {what} were found for pattern \"{pattern}\""))
}

fn query(session: &mut Session, sql: &str, conditions: &[String]) -> Result<BTreeSet<u32>> {
    let keyword = if sql.contains("WHERE") { "AND" } else { "WHERE" };
    let mut sql = sql.to_owned();
    if !conditions.is_empty() {
        sql.push_str(&format!(" {keyword} {}", conditions.join(" AND ")));
    }
    oids(session, &sql)
}

fn oids(session: &mut Session, sql: &str) -> Result<BTreeSet<u32>> {
    let rows = session.query(sql)?;
    rows.iter().map(|row| Ok(row.parse("oid")?)).collect()
}

/// Objects without a schema; `must` names the class when each pattern has to name something.
fn plain(
    session: &mut Session,
    patterns: &[String],
    sql: &str,
    column: &str,
    must: Option<&str>,
) -> Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for text in patterns {
        let pattern = Pattern::parse(text);
        if pattern.dots() > 0 {
            return Err(ToolError::new(format!("improper qualified name (too many dotted names): {text}")));
        }
        let conditions: Vec<String> = pattern.condition(column, 0).into_iter().collect();
        let found = query(session, sql, &conditions)?;
        if let Some(what) = must.filter(|_| found.is_empty()) {
            return Err(nothing_for(what, text));
        }
        all.extend(found);
    }
    Ok(all)
}

fn same_database(session: &Session, pattern: &Pattern, text: &str) -> Result<()> {
    if pattern.parts[0].1 != session.database {
        return Err(ToolError::new(format!("cross-database references are not implemented: {text}")));
    }
    Ok(())
}

fn schemas(session: &mut Session, patterns: &[String], strict: bool) -> Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for text in patterns {
        let pattern = Pattern::parse(text);
        match pattern.dots() {
            0 => {}
            1 => same_database(session, &pattern, text)?,
            _ => {
                return Err(ToolError::new(format!(
                    "improper qualified name (too many dotted names): {text}"
                )));
            }
        }
        let conditions: Vec<String> = pattern.condition("n.nspname", 0).into_iter().collect();
        let found = query(session, "SELECT oid FROM pg_catalog.pg_namespace n", &conditions)?;
        if strict && found.is_empty() {
            return Err(nothing_for("schemas", text));
        }
        all.extend(found);
    }
    Ok(all)
}

fn tables(
    session: &mut Session,
    patterns: &[String],
    strict: bool,
    with_children: bool,
) -> Result<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for text in patterns {
        let pattern = Pattern::parse(text);
        match pattern.dots() {
            0 | 1 => {}
            2 => same_database(session, &pattern, text)?,
            _ => {
                return Err(ToolError::new(format!(
                    "improper relation name (too many dotted names): {text}"
                )));
            }
        }
        let mut sql = "SELECT c.oid FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n \
                       ON n.oid OPERATOR(pg_catalog.=) c.relnamespace WHERE c.relkind OPERATOR(pg_catalog.=) ANY \
                       (array['r', 'S', 'v', 'm', 'f', 'p'])"
            .to_owned();
        if let Some(condition) = pattern.condition("c.relname", 0) {
            sql.push_str(&format!(" AND {condition}"));
        }
        if pattern.dots() == 0 {
            sql.push_str(" AND pg_catalog.pg_table_is_visible(c.oid)");
        } else if let Some(condition) = pattern.condition("n.nspname", 1) {
            sql.push_str(&format!(" AND {condition}"));
        }
        if with_children {
            sql = format!(
                "WITH RECURSIVE partition_tree (oid) AS ({sql} UNION SELECT i.inhrelid FROM partition_tree p \
                 JOIN pg_catalog.pg_inherits i ON p.oid OPERATOR(pg_catalog.=) i.inhparent) \
                 SELECT oid FROM partition_tree"
            );
        }
        // Names without a schema are looked for where the user's own sessions look; hence the qualified operators.
        session.execute("RESET search_path")?;
        let found = oids(session, &sql)?;
        session.execute(EMPTY_SEARCH_PATH)?;
        if strict && found.is_empty() {
            return Err(nothing_for("tables", text));
        }
        all.extend(found);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expressions(text: &str) -> Vec<String> {
        Pattern::parse(text).parts.into_iter().map(|(expression, _)| expression).collect()
    }

    #[test]
    fn patterns() {
        assert_eq!(expressions("Abc*.d?e"), ["abc.*", "d.e"]);
        assert_eq!(expressions("\"A.b\"\"c*\""), ["A\\.b\"c\\*"]);
        assert_eq!(expressions("a$[]x[0-9]|b"), ["a\\$\\[]x[0-9]|b"]);
        assert_eq!(expressions("a.b.c"), ["a", "b", "c"]);
        assert_eq!(expressions("\"$\""), ["\\$"]);
    }

    #[test]
    fn a_star_alone_needs_no_condition() {
        assert_eq!(Pattern::parse("*").condition("c", 0), None);
        assert_eq!(Pattern::parse("s.*").condition("c", 0), None);
        let condition = Pattern::parse("s.*").condition("c", 1).unwrap();
        assert_eq!(condition, "c OPERATOR(pg_catalog.~) '^(s)$' COLLATE pg_catalog.default");
    }
}
