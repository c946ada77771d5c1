//! The tablespaces that the server names, and where they go.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use pgkeep_tool::{Result, ToolError};
use pgkeep_wire::{TablespaceInfo, raw_bytes};

use super::mapping::TablespaceMappings;

/// A tablespace, by its OID.
pub(super) type Places = BTreeMap<u32, Place>;

/// Where a tablespace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// What the server calls its directory.
    pub(super) server: PathBuf,
    /// Its directory here.
    pub(super) here: PathBuf,
    /// A link leads to it; otherwise it lies in the data directory.
    pub(super) is_linked: bool,
}

/// Where the tablespaces of a plain backup go.
pub(super) fn places(
    tablespaces: &[TablespaceInfo],
    directory: &Path,
    mappings: &TablespaceMappings,
) -> Result<Places> {
    let mut places = Places::new();
    for tablespace in tablespaces {
        let Some(oid) = tablespace.oid else { continue };
        let location = tablespace.location.as_deref().unwrap_or_default();
        let server = PathBuf::from(OsString::from_vec(raw_bytes(location).into_owned()));
        let climbs = server.components().any(|part| part == Component::ParentDir);
        let place = if server.is_absolute() && !climbs {
            Place { here: mappings.place(&server).to_owned(), server, is_linked: true }
        } else if server == Path::new("pg_tblspc").join(oid.to_string()) {
            Place { here: directory.join(&server), server, is_linked: false }
        } else {
            return Err(ToolError::new(format!(
                "tablespace {oid} has an unexpected location on the server: \"{}\"",
                server.display()
            )));
        };
        if places.insert(oid, place).is_some() {
            return Err(ToolError::new(format!("the server named tablespace {oid} twice")));
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(location: &str) -> Result<Place> {
        let mut mappings = TablespaceMappings::default();
        mappings.add("/old=/new".as_ref()).unwrap();
        let tablespace = |oid, location: Option<&str>| TablespaceInfo {
            oid,
            location: location.map(str::to_owned),
            size_kib: None,
        };
        let list = [tablespace(Some(7), Some(location)), tablespace(None, None)];
        places(&list, Path::new("/data"), &mappings).map(|places| places[&7].clone())
    }

    #[test]
    fn locations_are_mapped_or_lie_in_place_and_nothing_else() {
        assert_eq!(place("/old").unwrap().here, Path::new("/new"));
        assert_eq!(place("/else").unwrap().here, Path::new("/else"));
        let in_place = place("pg_tblspc/7").unwrap();
        assert_eq!(in_place.here, Path::new("/data/pg_tblspc/7"));
        assert!(!in_place.is_linked);
        for bad in ["", "pg_tblspc/8", "base", "../x", "/a/../b"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
