//! GRANT and REVOKE commands that lead from the privileges that a new object has to those that it has now.
//!
//! Privileges come as `aclitem` texts: `grantee=letters/grantor`, a star behind a letter for the grant option.

use pgkeep_tool::{Result, ToolError};

use super::sql::{Quoting, parse_array};

/// What the privileges are on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The word of GRANT: `TABLE`, `FUNCTION`, `LARGE OBJECT`.
    pub(crate) kind: &'a str,
    /// Quoted; with arguments for functions. Empty for default privileges.
    pub(crate) name: &'a str,
    /// A column, quoted.
    pub(crate) column: Option<&'a str>,
    /// Not quoted; empty for none.
    pub(crate) schema: &'a str,
    /// Not quoted.
    pub(crate) owner: &'a str,
    /// In front of each command: `ALTER DEFAULT PRIVILEGES … `.
    pub(crate) prefix: &'a str,
}

/// The commands that lead from `base` to `current`; empty when both are the same.
pub(crate) fn commands(quoting: Quoting, subject: &Subject<'_>, current: &str, base: &str) -> Result<String> {
    let failure = || {
        ToolError::catalog(format!(
            "could not parse ACL list ({current}) or default ({base}) for object \"{}\" ({})",
            subject.name, subject.kind
        ))
    };
    if current.is_empty() {
        return Ok(String::new());
    }
    let items = parse_array(current).ok_or_else(failure)?;
    let base_items = parse_array(base).ok_or_else(failure)?;
    // The owner's own privileges go first, since they may be what others' are granted from.
    let mut first = String::new();
    let mut second = String::new();
    for item in base_items.iter().filter(|item| !items.contains(item)) {
        let item = Item::parse(item).ok_or_else(failure)?;
        // Whatever can be granted is revoked with its grant option.
        let (all, _) = item.privileges(subject, false);
        if !all.is_empty() {
            let target = subject.target(quoting);
            let grantee = grantee(quoting, &item.grantee);
            first.push_str(&format!("{}REVOKE {all} ON {target}FROM {grantee};\n", subject.prefix));
        }
    }
    for item in items.iter().filter(|item| !base_items.contains(item)) {
        let item = Item::parse(item).ok_or_else(failure)?;
        let (plain, with_option) = item.privileges(subject, true);
        if plain.is_empty() && with_option.is_empty() {
            continue;
        }
        let grantor = if item.grantor.is_empty() { subject.owner } else { &item.grantor };
        let by_owner = grantor == subject.owner && !subject.owner.is_empty();
        let out = if by_owner && item.grantee == subject.owner { &mut first } else { &mut second };
        let as_another = !grantor.is_empty() && !by_owner;
        if as_another {
            out.push_str(&format!("SET SESSION AUTHORIZATION {};\n", quoting.name(grantor)));
        }
        let target = subject.target(quoting);
        let grantee = grantee(quoting, &item.grantee);
        for (privileges, option) in [(plain, ""), (with_option, " WITH GRANT OPTION")] {
            if !privileges.is_empty() {
                out.push_str(&format!(
                    "{}GRANT {privileges} ON {target}TO {grantee}{option};\n",
                    subject.prefix
                ));
            }
        }
        if as_another {
            out.push_str("RESET SESSION AUTHORIZATION;\n");
        }
    }
    Ok(first + &second)
}

impl Subject<'_> {
    /// `TABLE s.t `, with a space behind each word.
    fn target(&self, quoting: Quoting) -> String {
        let mut target = format!("{} ", self.kind);
        if !self.schema.is_empty() {
            target.push_str(&quoting.name(self.schema));
            target.push('.');
        }
        if !self.name.is_empty() {
            target.push_str(self.name);
            target.push(' ');
        }
        target
    }

    /// Letters and words of the privileges that there are.
    fn letters(&self) -> &'static [(char, &'static str)] {
        match self.kind {
            "TABLE" | "TABLES" if self.column.is_none() => &[
                ('r', "SELECT"),
                ('a', "INSERT"),
                ('x', "REFERENCES"),
                ('d', "DELETE"),
                ('t', "TRIGGER"),
                ('D', "TRUNCATE"),
                ('m', "MAINTAIN"),
                ('w', "UPDATE"),
            ],
            "TABLE" => &[('r', "SELECT"), ('a', "INSERT"), ('x', "REFERENCES"), ('w', "UPDATE")],
            "SEQUENCE" | "SEQUENCES" => &[('r', "SELECT"), ('U', "USAGE"), ('w', "UPDATE")],
            "FUNCTION" | "FUNCTIONS" | "PROCEDURE" | "PROCEDURES" => &[('X', "EXECUTE")],
            "SCHEMA" | "SCHEMAS" => &[('C', "CREATE"), ('U', "USAGE")],
            "DATABASE" => &[('C', "CREATE"), ('c', "CONNECT"), ('T', "TEMPORARY")],
            "LARGE OBJECT" | "LARGE OBJECTS" => &[('r', "SELECT"), ('w', "UPDATE")],
            "TABLESPACE" => &[('C', "CREATE")],
            "PARAMETER" => &[('s', "SET"), ('A', "ALTER SYSTEM")],
            // Languages, types, foreign data wrappers and servers.
            _ => &[('U', "USAGE")],
        }
    }
}

fn grantee(quoting: Quoting, role: &str) -> String {
    if role.is_empty() { "PUBLIC".to_owned() } else { quoting.name(role) }
}

/// One `aclitem`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    /// Empty for PUBLIC.
    grantee: String,
    letters: String,
    grantor: String,
}

impl Item {
    fn parse(text: &str) -> Option<Item> {
        let (grantee, rest) = role(text)?;
        let (letters, rest) = rest.strip_prefix('=')?.split_once('/')?;
        let (grantor, rest) = role(rest)?;
        rest.is_empty().then(|| Item { grantee, letters: letters.to_owned(), grantor })
    }

    /// The privileges without and with grant option; all in the first list when options are not told apart.
    fn privileges(&self, subject: &Subject<'_>, options: bool) -> (String, String) {
        let mut plain = Vec::new();
        let mut with_option = Vec::new();
        let mut missing = false;
        for (letter, word) in subject.letters() {
            match self.letters.find(*letter) {
                None => missing = true,
                Some(position) if options && self.letters[position + 1..].starts_with('*') => {
                    with_option.push(*word);
                }
                Some(_) => plain.push(*word),
            }
        }
        let column = subject.column.map(|column| format!("({column})")).unwrap_or_default();
        let list = |words: &[&str], others: &[&str]| {
            if words.is_empty() {
                return String::new();
            }
            // ALL means the same on servers that know other privileges.
            if !missing && others.is_empty() {
                return format!("ALL{column}");
            }
            words.iter().map(|word| format!("{word}{column}")).collect::<Vec<_>>().join(",")
        };
        (list(&plain, &with_option), list(&with_option, &plain))
    }
}

/// A role's name at the start of a text, and what follows: up to an unquoted `=` or the end.
fn role(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((position, character)) = characters.next() {
        match character {
            '=' => return Some((name, &text[position..])),
            '"' => loop {
                match characters.next()?.1 {
                    '"' if characters.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
                    '"' => break,
                    other => name.push(other),
                }
            },
            other => name.push(other),
        }
    }
    Some((name, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTING: Quoting = Quoting { all_identifiers: false, standard_strings: true };

    fn table(current: &str, base: &str) -> String {
        let subject = Subject { kind: "TABLE", name: "t", column: None, schema: "s", owner: "o", prefix: "" };
        commands(QUOTING, &subject, current, base).unwrap()
    }

    #[test]
    fn nothing_to_say() {
        assert_eq!(table("{o=arwdDxtm/o}", "{o=arwdDxtm/o}"), "");
        assert_eq!(table("", "{o=arwdDxtm/o}"), "");
    }

    #[test]
    fn grants_and_revokes() {
        assert_eq!(table("{}", "{o=arwdDxtm/o}"), "REVOKE ALL ON TABLE s.t FROM o;\n");
        assert_eq!(
            table(r#"{=r/o,o=r/o,"\"Odd \"\"r\"\"\"=r*w/x"}"#, "{o=arwdDxtm/o}"),
            "REVOKE ALL ON TABLE s.t FROM o;\nGRANT SELECT ON TABLE s.t TO o;\nGRANT SELECT ON TABLE s.t TO PUBLIC;\n\
             SET SESSION AUTHORIZATION x;\nGRANT UPDATE ON TABLE s.t TO \"Odd \"\"r\"\"\";\n\
             GRANT SELECT ON TABLE s.t TO \"Odd \"\"r\"\"\" WITH GRANT OPTION;\nRESET SESSION AUTHORIZATION;\n"
        );
        assert_eq!(table("{u=a*r*w*d*D*x*t*m*/o}", "{}"), "GRANT ALL ON TABLE s.t TO u WITH GRANT OPTION;\n");
    }

    #[test]
    fn columns() {
        let subject =
            Subject { kind: "TABLE", name: "t", column: Some("c"), schema: "s", owner: "o", prefix: "" };
        assert_eq!(
            commands(QUOTING, &subject, "{u=rw/o}", "{}").unwrap(),
            "GRANT SELECT(c),UPDATE(c) ON TABLE s.t TO u;\n"
        );
    }

    #[test]
    fn what_is_no_item_is_refused() {
        let subject = Subject { kind: "TABLE", name: "t", column: None, schema: "s", owner: "o", prefix: "" };
        for wrong in ["{u}", "{u=r}", "{\"\\\"u\"}", "u=r/o"] {
            assert!(commands(QUOTING, &subject, wrong, "{}").is_err(), "{wrong}");
        }
    }
}
