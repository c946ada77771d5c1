//! Quoting for SQL and for the replication grammar (`replication/repl_scanner.l`), which knows fewer escapes.
//!
//! Every name and text that goes into a command passes through here.

/// An SQL string literal. Right whatever `standard_conforming_strings` says: a backslash makes it an `E''` literal.
pub fn quote_literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    let escape = text.contains('\\');
    if escape {
        // The leading space keeps the E from joining a keyword before it.
        quoted.push_str(" E");
    }
    quoted.push('\'');
    for character in text.chars() {
        if character == '\'' || (escape && character == '\\') {
            quoted.push(character);
        }
        quoted.push(character);
    }
    quoted.push('\'');
    quoted
}

/// An SQL identifier, always in double quotes, so that no list of keywords is needed.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string of the replication grammar, which knows no escape but the doubled quote.
pub(crate) fn quote_replication_string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_and_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_replication_string(r"a\'b"), r"'a\''b'");
    }

    proptest! {
        #[test]
        fn no_quote_stands_alone_inside_a_literal(text in ".*") {
            let quoted = quote_literal(&text);
            let inner = quoted.trim_start_matches(" E");
            let inner = &inner[1..inner.len() - 1];
            let without_pairs = inner.replace("''", "");
            prop_assert!(!without_pairs.contains('\''));
        }

        #[test]
        fn an_identifier_unquotes_to_itself(name in ".*") {
            let quoted = quote_identifier(&name);
            prop_assert_eq!(quoted[1..quoted.len() - 1].replace("\"\"", "\""), name);
        }
    }
}
