//! `tablespace_map`: the links in `pg_tblspc` that a server makes before it recovers a base backup.
//!
//! One line `<oid> <path>` for each tablespace. Line breaks and backslashes in a path have a backslash before them
//! (`access/transam/xlog.c` and `xlogrecovery.c`, 13 to 18: written by `do_pg_backup_start`, read by
//! `read_tablespace_map`). The server replaces links that are there and removes the file, so a wrong map moves data:
//! what is read must be whole, with absolute paths and no OID twice.

use std::collections::HashSet;

/// Longer texts are refused; a line has at most a few kilobytes and clusters have few tablespaces.
pub const MAX_TABLESPACE_MAP_LENGTH: usize = 4 << 20;

/// Why a `tablespace_map` could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// Far longer than any server writes it.
    #[error("tablespace_map has {length} bytes, more than any server writes")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A line is not an OID, a space and an absolute path.
    #[error("tablespace_map has a malformed line: `{0}`")]
    Malformed(String),
    /// The text ends within a line.
    #[error("tablespace_map ends within a line")]
    Truncated,
    /// A tablespace occurs twice.
    #[error("tablespace_map names tablespace {oid} twice")]
    Repeated {
        /// Which tablespace.
        oid: u32,
    },
}

/// Reads the text of a `tablespace_map` file into pairs of OID and path, in the file's order.
///
/// # Errors
/// When a line is not what a server accepts.
pub fn parse(text: &str) -> Result<Vec<(u32, String)>, TablespaceMapError> {
    if text.len() > MAX_TABLESPACE_MAP_LENGTH {
        return Err(TablespaceMapError::TooLong { length: text.len() });
    }
    let mut tablespaces = Vec::new();
    let mut seen = HashSet::new();
    let mut line = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\n' | '\r' => {
                if !line.is_empty() {
                    let (oid, path) = parse_line(&line)?;
                    if !seen.insert(oid) {
                        return Err(TablespaceMapError::Repeated { oid });
                    }
                    tablespaces.push((oid, path));
                    line.clear();
                }
            }
            '\\' => line.push(characters.next().ok_or(TablespaceMapError::Truncated)?),
            other => line.push(other),
        }
    }
    if line.is_empty() { Ok(tablespaces) } else { Err(TablespaceMapError::Truncated) }
}

/// The text of a `tablespace_map` file for pairs of OID and path.
#[must_use]
pub fn write(tablespaces: &[(u32, String)]) -> String {
    let mut text = String::new();
    for (oid, path) in tablespaces {
        text.push_str(&oid.to_string());
        text.push(' ');
        for character in path.chars() {
            if matches!(character, '\n' | '\r' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('\n');
    }
    text
}

fn parse_line(line: &str) -> Result<(u32, String), TablespaceMapError> {
    let malformed = || TablespaceMapError::Malformed(line.to_owned());
    let (oid, path) = line.split_once(' ').ok_or_else(malformed)?;
    if !oid.bytes().all(|b| b.is_ascii_digit()) || !path.starts_with('/') || path.contains('\0') {
        return Err(malformed());
    }
    match oid.parse() {
        Ok(oid) if oid != 0 => Ok((oid, path.to_owned())),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn line_breaks_and_backslashes_in_a_path_are_escaped() {
        let tablespaces = vec![(16394, "/mnt/a b\\c\nd\r".to_owned()), (u32::MAX, "/".to_owned())];
        let text = "16394 /mnt/a b\\\\c\\\nd\\\r\n4294967295 /\n";
        assert_eq!(write(&tablespaces), text);
        assert_eq!(parse(text), Ok(tablespaces));
    }

    #[test]
    fn what_a_server_refuses_is_refused() {
        for text in
            ["16394\n", "x /a\n", "0 /a\n", "-1 /a\n", "4294967296 /a\n", "1 a\n", "1  /a\n", "1 /a\0b\n"]
        {
            assert!(matches!(parse(text), Err(TablespaceMapError::Malformed(_))), "{text:?}");
        }
        for text in ["1 /a", "1 /a\\", "1 /a\\\n"] {
            assert_eq!(parse(text), Err(TablespaceMapError::Truncated), "{text:?}");
        }
        assert_eq!(parse("1 /a\n1 /b\n"), Err(TablespaceMapError::Repeated { oid: 1 }));
        assert_eq!(parse("\n\r\n"), Ok(vec![]));
        let long = "\n".repeat(MAX_TABLESPACE_MAP_LENGTH + 1);
        assert!(matches!(parse(&long), Err(TablespaceMapError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            tablespaces in prop::collection::btree_map(1u32.., "/[^\0]{0,30}", 0..6),
        ) {
            let tablespaces: Vec<_> = tablespaces.into_iter().collect();
            prop_assert_eq!(parse(&write(&tablespaces)), Ok(tablespaces));
        }

        #[test]
        fn arbitrary_text_does_no_harm(text in "\\PC{0,200}", lines in "([0-9]{0,11} ?[/a\\\\\r\n]{0,9}){0,9}") {
            drop(parse(&text));
            drop(parse(&lines));
        }
    }
}
