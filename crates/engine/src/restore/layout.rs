//! Where every path of a backup goes: the data directory, and a directory for each tablespace.
//!
//! Pure. Names come from a manifest, which the repository has checked to be relative and free of `..`; still no path is made
//! here but by joining checked names to directories that the user named or that the backup recorded and the plan showed.

use std::path::{Path, PathBuf};

use pgkeep_repo::Tablespace;

use crate::error::{Error, ErrorKind, Result};

/// A tablespace and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedTablespace {
    /// Its OID.
    pub oid: u32,
    /// Where it was.
    pub source: String,
    /// Where it goes.
    pub target: PathBuf,
}

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The data directory.
    pub data_directory: PathBuf,
    /// The tablespaces.
    pub tablespaces: Vec<PlacedTablespace>,
}

impl Layout {
    /// Applies the user's map to the tablespaces of a backup.
    pub fn new(
        data_directory: &Path,
        tablespaces: &[Tablespace],
        map: &[(String, PathBuf)],
    ) -> Result<Layout> {
        for (old, new) in map {
            if !tablespaces.iter().any(|space| matches_old(space, old)) {
                let known: Vec<&str> = tablespaces.iter().map(|space| space.path.as_str()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("no tablespace of the backup is at `{old}`"),
                )
                .hint(format!("tablespaces of this backup: {known}")));
            }
            if !new.is_absolute() {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("`{}` is not an absolute path", new.display()),
                )
                .hint("a tablespace needs an absolute path: `--tablespace-map OLD=/new/place`"));
            }
        }
        let placed: Vec<PlacedTablespace> = tablespaces
            .iter()
            .map(|space| PlacedTablespace {
                oid: space.oid,
                source: space.path.clone(),
                target: map
                    .iter()
                    .rev()
                    .find(|(old, _)| matches_old(space, old))
                    .map_or_else(|| PathBuf::from(&space.path), |(_, new)| new.clone()),
            })
            .collect();
        for (index, space) in placed.iter().enumerate() {
            let clash = placed[..index].iter().find(|other| other.target == space.target);
            if clash.is_some() || space.target.starts_with(data_directory) {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("tablespace {} cannot go to `{}`", space.oid, space.target.display()),
                )
                .cause(if clash.is_some() {
                    "another tablespace goes there"
                } else {
                    "that is inside the data directory"
                })
                .hint(format!(
                    "give it a place of its own: `--tablespace-map {}=/new/place`",
                    space.source
                )));
            }
        }
        Ok(Layout { data_directory: data_directory.to_owned(), tablespaces: placed })
    }

    /// Where a path of the manifest goes.
    pub fn place(&self, path: &Path) -> PathBuf {
        let mut parts = path.components();
        if parts.next().is_some_and(|part| part.as_os_str() == "pg_tblspc")
            && let Some(oid) = parts.next().and_then(|part| part.as_os_str().to_str()?.parse::<u32>().ok())
            && let Some(space) = self.tablespaces.iter().find(|space| space.oid == oid)
        {
            return space.target.join(parts.as_path());
        }
        self.data_directory.join(path)
    }
}

/// The user may name a tablespace by its old place or by its OID.
fn matches_old(space: &Tablespace, old: &str) -> bool {
    space.path.trim_end_matches('/') == old.trim_end_matches('/') || old == space.oid.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spaces() -> Vec<Tablespace> {
        vec![
            Tablespace { oid: 16500, path: "/mnt/fast".into() },
            Tablespace { oid: 16501, path: "/mnt/big".into() },
        ]
    }

    #[test]
    fn files_of_a_tablespace_go_where_the_map_says() {
        let map = [("/mnt/fast/".to_owned(), PathBuf::from("/new/fast"))];
        let layout = Layout::new(Path::new("/data"), &spaces(), &map).unwrap();
        let place = |path: &str| layout.place(Path::new(path));
        assert_eq!(place("base/5/1259"), Path::new("/data/base/5/1259"));
        assert_eq!(place("pg_tblspc/16500/PG_18_1/5/1"), Path::new("/new/fast/PG_18_1/5/1"));
        assert_eq!(place("pg_tblspc/16501/PG_18_1"), Path::new("/mnt/big/PG_18_1"));
        // An in-place tablespace stays in the data directory.
        assert_eq!(place("pg_tblspc/16502/PG_18_1"), Path::new("/data/pg_tblspc/16502/PG_18_1"));
    }

    #[test]
    fn maps_that_cannot_be_meant_are_refused() {
        let refuse = |old: &str, new: &str| {
            Layout::new(Path::new("/data"), &spaces(), &[(old.to_owned(), PathBuf::from(new))]).unwrap_err()
        };
        assert_eq!(refuse("/mnt/none", "/x").kind, ErrorKind::Usage);
        assert_eq!(refuse("/mnt/fast", "relative").kind, ErrorKind::Usage);
        assert_eq!(refuse("/mnt/fast", "/mnt/big").kind, ErrorKind::Usage);
        assert_eq!(refuse("16500", "/data/inside").kind, ErrorKind::Usage);
    }
}
