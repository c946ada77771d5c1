//! Names and texts in SQL, spelled as `pg_dump` and `pg_restore` spell them: quoted only where they must be.
//!
//! Which words must be quoted is decided by the list of the newest server (18), as in stock's programs, whatever server
//! the SQL is for: older ones accept quotes around words that they do not reserve.

/// The words that are more than unreserved in PostgreSQL 18 (`pg_get_keywords()`), in the order of bytes.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "merge_action",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// Appends a name as an SQL identifier.
///
/// Quotes go around it unless it is made of `a-z`, `0-9` and `_`, does not start with a digit, and is no keyword.
pub fn push_identifier(out: &mut Vec<u8>, name: &[u8]) {
    if is_plain(name) {
        out.extend_from_slice(name);
    } else {
        push_quoted_identifier(out, name);
    }
}

/// Appends a name as an SQL identifier in quotes.
pub fn push_quoted_identifier(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    for byte in name {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Appends `schema.name`, or `name` where there is no schema.
pub fn push_qualified(out: &mut Vec<u8>, schema: Option<&[u8]>, name: &[u8]) {
    if let Some(schema) = schema.filter(|schema| !schema.is_empty()) {
        push_identifier(out, schema);
        out.push(b'.');
    }
    push_identifier(out, name);
}

/// Appends a text as an SQL literal for a session with this `standard_conforming_strings`.
pub fn push_literal(out: &mut Vec<u8>, text: &[u8], standard_strings: bool) {
    let has_backslash = text.contains(&b'\\');
    if has_backslash && !standard_strings {
        // Servers of old warn of backslashes in plain literals; the space keeps the E from joining a word before it.
        if out.last().is_some_and(|last| *last != b' ') {
            out.push(b' ');
        }
        out.push(b'E');
    }
    out.push(b'\'');
    for byte in text {
        if *byte == b'\'' || (*byte == b'\\' && !standard_strings) {
            out.push(*byte);
        }
        out.push(*byte);
    }
    out.push(b'\'');
}

/// The name as an SQL identifier.
#[must_use]
pub fn identifier(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    push_identifier(&mut out, name);
    out
}

/// `schema.name`.
#[must_use]
pub fn qualified(schema: Option<&[u8]>, name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 16);
    push_qualified(&mut out, schema, name);
    out
}

/// Whether a name is an SQL identifier without quotes.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    let starts_well = name.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'_');
    starts_well
        && name.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_')
        && RESERVED.binary_search_by(|word| word.as_bytes().cmp(name)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> String {
        String::from_utf8(identifier(name.as_bytes())).unwrap()
    }

    #[test]
    fn only_names_that_need_quotes_get_them() {
        for (name, expected) in [
            ("plain_1", "plain_1"),
            ("_x", "_x"),
            ("1x", "\"1x\""),
            ("", "\"\""),
            ("Upper", "\"Upper\""),
            ("a\"b", "\"a\"\"b\""),
            ("select", "\"select\""),
            ("between", "\"between\""),
            ("name", "name"),
            ("a$b", "\"a$b\""),
            ("ä", "\"ä\""),
        ] {
            assert_eq!(shown(name), expected);
        }
    }

    #[test]
    fn the_list_of_words_can_be_searched() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn literals_follow_the_setting_for_backslashes() {
        let literal = |text: &str, standard| {
            let mut out = b"x=".to_vec();
            push_literal(&mut out, text.as_bytes(), standard);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(literal("it's", true), "x='it''s'");
        assert_eq!(literal("a\\b", true), "x='a\\b'");
        assert_eq!(literal("a\\'b", false), "x= E'a\\\\''b'");
    }
}
