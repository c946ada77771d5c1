//! Where tablespaces go: `OLD=NEW`, with `\=` for a `=` in a name.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The mappings of a command line, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablespaceMappings(Vec<(PathBuf, PathBuf)>);

impl TablespaceMappings {
    /// One more.
    ///
    /// # Errors
    /// What is wrong with it, in stock's words.
    pub fn add(&mut self, text: &OsStr) -> Result<(), String> {
        let mut parts = vec![Vec::new()];
        let mut bytes = text.as_bytes().iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            if byte == b'=' && parts.len() == 2 {
                return Err(format!(
                    "multiple \"=\" signs in tablespace mapping: {}",
                    text.to_string_lossy()
                ));
            }
            if byte == b'=' {
                parts.push(Vec::new());
                continue;
            }
            let escaped = if byte == b'\\' { bytes.next_if_eq(&b'=') } else { None };
            if let Some(part) = parts.last_mut() {
                part.push(escaped.unwrap_or(byte));
            }
        }
        let mut parts = parts.into_iter().filter(|part| !part.is_empty()).map(canonical);
        let (Some(old), Some(new)) = (parts.next(), parts.next()) else {
            return Err(format!(
                "invalid tablespace mapping format \"{}\", must be \"OLDDIR=NEWDIR\"",
                text.to_string_lossy()
            ));
        };
        for (which, path) in [("old", &old), ("new", &new)] {
            if !path.is_absolute() {
                return Err(format!(
                    "{which} directory is not an absolute path in tablespace mapping: {}",
                    path.display()
                ));
            }
        }
        self.0.push((old, new));
        Ok(())
    }

    /// Where what the server has at `old` goes.
    #[must_use]
    pub fn place<'a>(&'a self, old: &'a Path) -> &'a Path {
        self.0.iter().find(|(from, _)| from == old).map_or(old, |(_, to)| to)
    }
}

/// Without the slashes and dots that change nothing.
fn canonical(path: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path)).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(text: &str, old: &str) -> Result<String, String> {
        let mut mappings = TablespaceMappings::default();
        mappings.add(text.as_ref())?;
        Ok(mappings.place(Path::new(old)).display().to_string())
    }

    #[test]
    fn equals_signs_are_escaped() {
        assert_eq!(mapped("/a=/b", "/a").unwrap(), "/b");
        assert_eq!(mapped("/a/=/b//c/", "/a").unwrap(), "/b/c");
        assert_eq!(mapped(r"/a\=1=/b\=2\3", "/a=1").unwrap(), r"/b=2\3");
        assert_eq!(mapped("/a=/b", "/ab").unwrap(), "/ab");
    }

    #[test]
    fn mistakes_are_told_in_stocks_words() {
        for (text, expected) in [
            ("=/foo", "invalid tablespace mapping format \"=/foo\", must be \"OLDDIR=NEWDIR\""),
            ("/foo=", "invalid tablespace mapping format"),
            ("foo", "invalid tablespace mapping format"),
            ("/foo=/bar=/baz", "multiple \"=\" signs in tablespace mapping: /foo=/bar=/baz"),
            ("foo=/bar", "old directory is not an absolute path in tablespace mapping: foo"),
            ("/foo=bar", "new directory is not an absolute path in tablespace mapping: bar"),
        ] {
            assert!(mapped(text, "").unwrap_err().starts_with(expected), "{text}");
        }
    }
}
