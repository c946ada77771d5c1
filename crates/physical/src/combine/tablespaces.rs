//! The tablespaces of the newest backup, and where they go.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError};

use super::inputs::Input;
use super::{CombineRequest, Talk};
use crate::canonical_path;
use crate::manifest_table::not_opened;

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
    let names = crate::verify::sorted_entries(&directory)
        .map_err(|error| ToolError::could_not("open directory", &shown, &error))?;
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
            let target = request.tablespace_mappings.last_place(&location).ok_or_else(|| {
                let location = location.display();
                ToolError::new(format!("tablespace at \"{location}\" has no tablespace mapping"))
            })?;
            let target = target.to_owned();
            let source = if input.unpacked.is_some() { path } else { location };
            Tablespace { oid, is_in_place: false, source, target }
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
    let target =
        path.read_link().map_err(|error| ToolError::could_not("read symbolic link", &shown, &error))?;
    if !target.is_absolute() {
        return Err(ToolError::new(format!("target of symbolic link \"{shown}\" is relative")));
    }
    Ok(OsString::from_vec(canonical_path(target.as_os_str().as_bytes())).into())
}
