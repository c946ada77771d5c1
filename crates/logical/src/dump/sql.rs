//! Quoting as stock's dumps have it, and the server's own notations that are taken apart: arrays, options, lists.
//!
//! Texts are Rust's here, where [`crate::quote`] has the bytes of archives: a dumping session speaks UTF-8.

use crate::quote;

/// How names and strings are written in one dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quoting {
    /// `--quote-all-identifiers`.
    pub(crate) all_identifiers: bool,
    /// The server's `standard_conforming_strings`: a backslash needs no escape.
    pub(crate) standard_strings: bool,
}

impl Quoting {
    /// A name, quoted where it must be.
    pub(crate) fn name(self, name: &str) -> String {
        if !self.all_identifiers && quote::is_plain(name.as_bytes()) {
            name.to_owned()
        } else {
            format!("\"{}\"", name.replace('"', "\"\""))
        }
    }

    /// A name in a schema.
    pub(crate) fn qualified(self, schema: &str, name: &str) -> String {
        format!("{}.{}", self.name(schema), self.name(name))
    }

    /// A string literal for a session whose `standard_conforming_strings` is the dumped server's.
    pub(crate) fn literal(self, text: &str) -> String {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('\'');
        for character in text.chars() {
            if character == '\'' || (character == '\\' && !self.standard_strings) {
                quoted.push(character);
            }
            quoted.push(character);
        }
        quoted.push('\'');
        quoted
    }

    /// A string literal that means the same in every session: backslashes are escaped and announced. As stock writes
    /// what it does not put into archives; a space must stand in front.
    pub(crate) fn portable_literal(self, text: &str) -> String {
        if text.contains('\\') {
            format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
        } else {
            self.literal(text)
        }
    }

    /// The command that sets what an item of `pg_db_role_setting` says: `ALTER ROLE … SET …`. `None` when it is no setting.
    pub(crate) fn alter_setting(self, target: &str, item: &str) -> Option<String> {
        let (setting, value) = item.split_once('=')?;
        let value = if is_quoted_list(setting) {
            let items = split_quoted_list(value).unwrap_or_default();
            items.iter().map(|item| self.portable_literal(item)).collect::<Vec<_>>().join(", ")
        } else {
            self.portable_literal(value)
        };
        Some(format!("ALTER {target} SET {} TO {value};\n", self.name(setting)))
    }

    /// A list of options as `pg_class.reloptions` has it, for `WITH (…)`. `prefix` is `toast.` for a TOAST table's.
    /// `None` when the array cannot be read.
    pub(crate) fn options(self, array: &str, prefix: &str) -> Option<String> {
        let mut list = Vec::new();
        for item in parse_array(array)? {
            let (name, value) = item.split_once('=').unwrap_or((&item, ""));
            let value = match quote::is_plain(value.as_bytes()) {
                // What is an identifier needs no quotes; `fillfactor='70'` has them.
                true if !self.all_identifiers => value.to_owned(),
                _ => self.literal(value),
            };
            list.push(format!("{prefix}{}={value}", self.name(name)));
        }
        Some(list.join(", "))
    }
}

/// A text between dollar quotes whose tag does not occur in it.
pub(crate) fn dollar_quoted(text: &str) -> String {
    // A text may end with a part of the closing quote, hence the search without its last dollar sign.
    const SUFFIX: &[u8] = b"_XXXXXXX";
    let mut delimiter = String::from("$");
    let mut position = 0;
    while text.contains(&delimiter) {
        delimiter.push(char::from(SUFFIX[position]));
        position = (position + 1) % (SUFFIX.len());
    }
    delimiter.push('$');
    format!("{delimiter}{text}{delimiter}")
}

/// The items of an array of one dimension, as the server writes it: `{a,"b c"}`. `None` when it is not one.
pub(crate) fn parse_array(text: &str) -> Option<Vec<String>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    if inner.is_empty() {
        return Some(items);
    }
    let mut characters = inner.chars().peekable();
    loop {
        let mut item = String::new();
        if characters.next_if_eq(&'"').is_some() {
            loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => item.push(characters.next()?),
                    other => item.push(other),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|next| *next != ',') {
                match character {
                    '\\' => item.push(characters.next()?),
                    other => item.push(other),
                }
            }
        }
        items.push(item);
        match characters.next() {
            None => return Some(items),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

/// An item for an array as the server writes it: the opposite of [`parse_array`].
pub(crate) fn array_item(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.eq_ignore_ascii_case("NULL")
        && !text.chars().any(|c| matches!(c, '"' | '\\' | '{' | '}' | ',') || c.is_ascii_whitespace());
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

/// Whether a setting holds a list whose items the server has quoted already (`GUC_LIST_QUOTE` in 18's `guc_tables.c`).
pub(crate) fn is_quoted_list(setting: &str) -> bool {
    const LISTS: [&str; 8] = [
        "local_preload_libraries",
        "oauth_validator_libraries",
        "output_plugin_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    ];
    LISTS.iter().any(|known| known.eq_ignore_ascii_case(setting))
}

/// The items of such a list. `None` when it cannot be read.
pub(crate) fn split_quoted_list(value: &str) -> Option<Vec<String>> {
    let mut items = Vec::new();
    let mut rest = value.trim_start_matches(|c: char| c.is_ascii_whitespace());
    if rest.is_empty() {
        return Some(items);
    }
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut item = String::new();
            let mut characters = quoted.char_indices().peekable();
            let end = loop {
                match characters.next()? {
                    (_, '"') if characters.next_if(|(_, next)| *next == '"').is_some() => item.push('"'),
                    (position, '"') => break position + 1,
                    (_, other) => item.push(other),
                }
            };
            items.push(item);
            rest = &quoted[end..];
        } else {
            let end = rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            items.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches(|c: char| c.is_ascii_whitespace()),
            None if rest.is_empty() => return Some(items),
            None => return None,
        }
    }
}

/// The value of a setting as it stands behind `SET … TO`.
pub(crate) fn setting_value(quoting: Quoting, setting: &str, value: &str) -> String {
    if is_quoted_list(setting) {
        let items = split_quoted_list(value).unwrap_or_default();
        items.iter().map(|item| quoting.literal(item)).collect::<Vec<_>>().join(", ")
    } else {
        quoting.literal(value)
    }
}

/// A name for a line of comment: line ends would end the comment.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTING: Quoting = Quoting { all_identifiers: false, standard_strings: true };

    #[test]
    fn names() {
        assert_eq!(QUOTING.name("plain_1"), "plain_1");
        assert_eq!(QUOTING.name("select"), "\"select\"");
        assert_eq!(QUOTING.name("Upper"), "\"Upper\"");
        assert_eq!(QUOTING.name("1a"), "\"1a\"");
        assert_eq!(QUOTING.name(""), "\"\"");
        assert_eq!(QUOTING.name("a\"b"), "\"a\"\"b\"");
        let all = Quoting { all_identifiers: true, ..QUOTING };
        assert_eq!(all.qualified("a", "b"), "\"a\".\"b\"");
    }

    #[test]
    fn literals() {
        assert_eq!(QUOTING.literal(r"it's a \"), r"'it''s a \'");
        let old = Quoting { standard_strings: false, ..QUOTING };
        assert_eq!(old.literal(r"it's a \"), r"'it''s a \\'");
    }

    #[test]
    fn settings_are_spelled_for_every_session() {
        let command = |item| QUOTING.alter_setting("ROLE r", item);
        assert_eq!(command(r"a.b=c\d'").unwrap(), "ALTER ROLE r SET \"a.b\" TO E'c\\\\d''';\n");
        assert_eq!(
            command(r#"search_path="$user", "A\b""#).unwrap(),
            "ALTER ROLE r SET search_path TO '$user', E'A\\\\b';\n"
        );
        assert_eq!(command("nothing"), None);
    }

    #[test]
    fn dollar_quotes_avoid_the_text() {
        assert_eq!(dollar_quoted("a"), "$$a$$");
        assert_eq!(dollar_quoted("a $$ b"), "$_$a $$ b$_$");
        assert_eq!(dollar_quoted("$1"), "$_$$1$_$");
        assert_eq!(dollar_quoted("$_"), "$_X$$_$_X$");
    }

    #[test]
    fn arrays() {
        assert_eq!(parse_array("{}").unwrap(), Vec::<String>::new());
        assert_eq!(parse_array(r#"{a,"b,\"c\\",}"#).unwrap(), ["a", "b,\"c\\", ""]);
        assert!(parse_array("{a").is_none());
        assert!(parse_array(r#"{"a}"#).is_none());
        for text in ["a", "", "a b", "q\"\\{", "null"] {
            assert_eq!(parse_array(&format!("{{{}}}", array_item(text))).unwrap(), [text]);
        }
    }

    #[test]
    fn options() {
        assert_eq!(
            QUOTING.options("{fillfactor=70,buffering=auto}", "").unwrap(),
            "fillfactor='70', buffering=auto"
        );
        assert_eq!(
            QUOTING.options("{autovacuum_enabled=false}", "toast.").unwrap(),
            "toast.autovacuum_enabled='false'"
        );
    }

    #[test]
    fn lists_of_settings() {
        assert_eq!(split_quoted_list(r#""$user", public,"a""b""#).unwrap(), ["$user", "public", "a\"b"]);
        assert_eq!(split_quoted_list("").unwrap(), Vec::<String>::new());
        assert!(split_quoted_list("a b").is_none());
        assert_eq!(setting_value(QUOTING, "search_path", "\"\""), "''");
        assert_eq!(setting_value(QUOTING, "work_mem", "1MB"), "'1MB'");
    }
}
