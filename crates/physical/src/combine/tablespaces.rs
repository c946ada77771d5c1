//! The tablespaces of the newest backup, and where they go.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError, system_text};

use super::inputs::Input;
use super::{CombineRequest, Talk};
use crate::canonical_path;
use crate::manifest_table::not_opened;

/// `-T OLDDIR=NEWDIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// Where the link in the backup leads.
    pub old: PathBuf,
    /// Where the result's is to lead.
    pub new: PathBuf,
}

impl TablespaceMapping {
    /// Reads `OLDDIR=NEWDIR`, in which `\=` is an equals sign of a path.
    ///
    /// # Errors
    /// In stock's words.
    pub fn parse(text: &[u8]) -> Result<TablespaceMapping> {
        let mut parts: Vec<Vec<u8>> = vec![Vec::new()];
        let mut bytes = text.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            let last = parts.len() - 1;
            match byte {
                b'\\' if bytes.peek() == Some(&b'=') => {
                    bytes.next();
                    parts[last].push(b'=');
                }
                b'=' if parts.len() == 2 => {
                    return Err(ToolError::new("multiple \"=\" signs in tablespace mapping"));
                }
                b'=' => parts.push(Vec::new()),
                _ => parts[last].push(byte),
            }
        }
        let (old, new) = match parts.as_slice() {
            [old, new] if !old.is_empty() && !new.is_empty() => (old, new),
            _ => {
                let text = String::from_utf8_lossy(text);
                return Err(ToolError::new(format!(
                    "invalid tablespace mapping format \"{text}\", must be \"OLDDIR=NEWDIR\""
                )));
            }
        };
        for (which, path) in [("old", old), ("new", new)] {
            if !path.starts_with(b"/") {
                let path = String::from_utf8_lossy(path);
                return Err(ToolError::new(format!(
                    "{which} directory is not an absolute path in tablespace mapping: {path}"
                )));
            }
        }
        let plain = |path: &[u8]| OsString::from_vec(canonical_path(path)).into();
        Ok(TablespaceMapping { old: plain(old), new: plain(new) })
    }
}

/// A tablespace to be combined.
#[derive(Debug)]
pub(super) struct Tablespace {
    pub(super) oid: u32,
    /// A directory in `pg_tblspc`, not a link.
    pub(super) is_in_place: bool,
    /// Where its files are.
    pub(super) source: PathBuf,
    /// Where they go.
    pub(super) target: PathBuf,
}

/// Looks for the tablespaces of a backup.
pub(super) fn scan(input: &Input, request: &CombineRequest, talk: Talk<'_>) -> Result<Vec<Tablespace>> {
    let directory = input.directory.join("pg_tblspc");
    let shown = directory.display();
    talk.debug(|| format!("scanning \"{shown}\""));
    let names = crate::verify::sorted_entries(&directory).map_err(|error| {
        ToolError::new(format!("could not open directory \"{shown}\": {}", system_text(&error)))
    })?;
    let mut found: Vec<Tablespace> = Vec::new();
    for name in names {
        let path = directory.join(&name);
        let Some(oid) = oid_of(&name) else {
            let path = path.display();
            talk.debug(|| format!("skipping \"{path}\" because the filename is not a legal tablespace OID"));
            continue;
        };
        let kind = path.symlink_metadata().map_err(|error| not_opened(&path, &error))?.file_type();
        let location = match &input.unpacked {
            Some(unpacked) => unpacked.tablespaces.get(&oid).cloned(),
            None if kind.is_symlink() => Some(link_target(&path)?),
            None => None,
        };
        let tablespace = if let Some(location) = location {
            let mapping = request.tablespace_mappings.iter().rev().find(|mapping| mapping.old == location);
            let mapping = mapping.ok_or_else(|| {
                let location = location.display();
                ToolError::new(format!("tablespace at \"{location}\" has no tablespace mapping"))
            })?;
            let source = if input.unpacked.is_some() { path } else { location };
            Tablespace { oid, is_in_place: false, source, target: mapping.new.clone() }
        } else if kind.is_dir() {
            let target = request.output.join("pg_tblspc").join(&name);
            Tablespace { oid, is_in_place: true, source: path, target }
        } else {
            let path = path.display();
            talk.debug(|| {
                format!("skipping \"{path}\" because it is neither a symbolic link nor a directory")
            });
            continue;
        };
        if let Some(other) = found.iter().find(|other| other.target == tablespace.target) {
            let (first, second, target) = (other.oid, oid, tablespace.target.display());
            return Err(ToolError::new(format!(
                "tablespaces with OIDs {first} and {second} both point at directory \"{target}\""
            )));
        }
        found.push(tablespace);
    }
    Ok(found)
}

/// The OID that a name in `pg_tblspc` is.
pub(super) fn oid_of(name: &OsStr) -> Option<u32> {
    let name = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
    name.parse().ok().filter(|oid| *oid > 0)
}

fn link_target(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let target = path.read_link().map_err(|error| {
        ToolError::new(format!("could not read symbolic link \"{shown}\": {}", system_text(&error)))
    })?;
    if !target.is_absolute() {
        return Err(ToolError::new(format!("target of symbolic link \"{shown}\" is relative")));
    }
    Ok(OsString::from_vec(canonical_path(target.as_os_str().as_bytes())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<(String, String), String> {
        TablespaceMapping::parse(text.as_bytes())
            .map(|mapping| (mapping.old.display().to_string(), mapping.new.display().to_string()))
            .map_err(|error| error.message)
    }

    #[test]
    fn mappings_are_read_as_stock_reads_them() {
        assert_eq!(read("/a/=/b//c").unwrap(), ("/a".to_owned(), "/b/c".to_owned()));
        assert_eq!(read(r"/a\=1=/b\=2").unwrap(), ("/a=1".to_owned(), "/b=2".to_owned()));
        assert_eq!(read(r"/a\b=/c").unwrap().0, r"/a\b");
        for (text, expected) in [
            ("/a", "invalid tablespace mapping format \"/a\", must be \"OLDDIR=NEWDIR\""),
            ("=/a", "invalid tablespace mapping format \"=/a\", must be \"OLDDIR=NEWDIR\""),
            ("/a=", "invalid tablespace mapping format \"/a=\", must be \"OLDDIR=NEWDIR\""),
            ("/a=/b=/c", "multiple \"=\" signs in tablespace mapping"),
            ("a=/b", "old directory is not an absolute path in tablespace mapping: a"),
            ("/a=b", "new directory is not an absolute path in tablespace mapping: b"),
        ] {
            assert_eq!(read(text).unwrap_err(), expected);
        }
    }
}
