//! `.pgpass`: `host:port:database:user:password` lines, with `*` as wildcard and backslash escapes.
//!
//! As in libpq the file is ignored (with a notice, not an error) when others can read it, so that the mistake shows.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::settings::Password;

/// What is looked for: any of `hosts` and any of `databases` will do.
pub(crate) struct Wanted<'a> {
    /// The host name or socket directory, and `localhost` for a default socket directory.
    pub(crate) hosts: &'a [&'a str],
    pub(crate) port: u16,
    /// The database, and `replication` for a physical replication connection.
    pub(crate) databases: &'a [&'a str],
    pub(crate) user: &'a str,
}

/// What the file gave.
pub(crate) enum Lookup {
    Found(Password),
    NotFound,
    /// The file exists but cannot be used; the text says why.
    Ignored(String),
}

/// More than anyone's password file, less than what would hurt.
const MAX_FILE: u64 = 4 << 20;

pub(crate) fn lookup(path: &Path, wanted: &Wanted<'_>) -> Lookup {
    let Ok(file) = File::open(path) else { return Lookup::NotFound };
    let Ok(metadata) = file.metadata() else { return Lookup::NotFound };
    if !metadata.is_file() {
        return Lookup::Ignored(format!("password file {} is not a plain file", path.display()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Lookup::Ignored(format!(
            "password file {} has group or world access; permissions should be 0600 or less",
            path.display()
        ));
    }
    let mut bytes = Vec::new();
    if file.take(MAX_FILE).read_to_end(&mut bytes).is_err() {
        return Lookup::Ignored(format!("password file {} cannot be read", path.display()));
    }
    match find(&String::from_utf8_lossy(&bytes), wanted) {
        Some(password) => Lookup::Found(password),
        None => Lookup::NotFound,
    }
}

fn find(text: &str, wanted: &Wanted<'_>) -> Option<Password> {
    let port = wanted.port.to_string();
    text.lines().find_map(|line| {
        if line.starts_with('#') {
            return None;
        }
        let mut rest = line;
        for choices in [wanted.hosts, &[port.as_str()], wanted.databases, &[wanted.user]] {
            let (field, after) = take_field(rest)?;
            if !matches(field, choices) {
                return None;
            }
            rest = after;
        }
        // A further colon ends the password, as in libpq.
        let password = unescape(&rest[..unescaped_colon(rest).unwrap_or(rest.len())]);
        (!password.is_empty()).then(|| Password::new(password))
    })
}

/// The text up to an unescaped colon, which must be there, and what follows it.
fn take_field(text: &str) -> Option<(&str, &str)> {
    let end = unescaped_colon(text)?;
    Some((&text[..end], &text[end + 1..]))
}

fn unescaped_colon(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b':' => return Some(index),
            _ => {}
        }
    }
    None
}

fn matches(field: &str, choices: &[&str]) -> bool {
    field == "*" || choices.contains(&unescape(field).as_str())
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            plain.extend(characters.next());
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn ask(text: &str, host: &str, database: &str, user: &str) -> Option<String> {
        let wanted = Wanted { hosts: &[host], port: 5432, databases: &[database], user };
        find(text, &wanted).map(|password| password.reveal().to_owned())
    }

    #[test]
    fn the_first_matching_line_counts() {
        let text = "# h:*:*:*:comment\nother:*:*:*:no\nh:5433:*:*:no\nh:5432:db:*:first\n*:*:*:*:second\n";
        assert_eq!(ask(text, "h", "db", "u").as_deref(), Some("first"));
        assert_eq!(ask(text, "h", "db2", "u").as_deref(), Some("second"));
        assert_eq!(ask("h:1:db:u\n", "h", "db", "u"), None);
    }

    #[test]
    fn escapes_and_extra_colons() {
        assert_eq!(ask(r"\:\:1:*:a\:b:u:p\:w\\:rest", "::1", "a:b", "u").as_deref(), Some(r"p:w\"));
        assert_eq!(ask(r"\*:*:*:*:x", "h", "d", "u"), None);
        assert_eq!(ask("*:*:*:*:", "h", "d", "u"), None);
    }

    #[test]
    fn a_file_others_can_read_is_ignored_and_said_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:x\n").unwrap();
        let wanted = Wanted { hosts: &["h"], port: 1, databases: &["d"], user: "u" };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(lookup(&path, &wanted), Lookup::Ignored(text) if text.contains("0600")));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(matches!(lookup(&path, &wanted), Lookup::Found(_)));
        assert!(matches!(lookup(&directory.path().join("none"), &wanted), Lookup::NotFound));
        assert!(matches!(lookup(directory.path(), &wanted), Lookup::Ignored(_)));
    }

    proptest! {
        #[test]
        fn any_line_is_survived(text in ".*") {
            let _ = ask(&text, "h", "d", "u");
        }

        #[test]
        fn any_password_survives_escaping(password in "[^\\x00\\r\\n]+") {
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            prop_assert_eq!(ask(&format!("*:*:*:*:{escaped}"), "h", "d", "u"), Some(password));
        }
    }
}
