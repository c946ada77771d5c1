//! What is in the directories that a delta restore may reuse, and whether it may.
//!
//! A directory is taken only where it is certain that it is this cluster's: it has the control file of a cluster with the
//! backup's system identifier, or the marker of a restore of one. Anything else is somebody's, and stays. A tablespace's
//! directory is taken where the former data directory links to it, or the marker names it; of it only the directory of
//! this server version is touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgkeep_format::control_file::{CONTROL_FILE_PATH, ControlFile};

use super::in_use::{self, Identity, identity};
use crate::error::{Error, ErrorKind, Result};
use crate::restore::destination::{self, Destination};
use crate::restore::marker::{self, Marker, STAGED_MARKER};

/// What a directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Contents {
    /// Nothing, or it does not exist.
    #[default]
    Nothing,
    /// A cluster with this system identifier.
    Cluster(u64),
    /// A restore of ours that did not end.
    Unfinished(Marker),
}

/// A data directory that may be reused.
#[derive(Clone, Debug)]
pub struct Former {
    /// The path that the user gave, where it is a link to the directory.
    pub named: Option<PathBuf>,
    /// What it holds.
    pub contents: Contents,
    /// Its tablespaces, as its links and its marker name them.
    spaces: Vec<Identity>,
}

/// Looks at the directory that is to be restored onto.
pub fn inspect(directory: &Path) -> Result<(Destination, Former)> {
    let is_link = fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_symlink());
    let (real, named) = if is_link {
        let real = fs::canonicalize(directory).map_err(|error| {
            Error::new(ErrorKind::Destination, format!("`{}` is a link to nowhere", directory.display()))
                .caused_by(&error)
                .hint("make the directory that it names, or remove the link")
        })?;
        (real, Some(directory.to_owned()))
    } else {
        (directory.to_owned(), None)
    };
    let (destination, contents) = destination::examine(&real, contents)?;
    let spaces = match &contents {
        Contents::Nothing => Vec::new(),
        Contents::Cluster(_) => linked_spaces(&destination.directory),
        Contents::Unfinished(marker) => {
            let mut spaces = linked_spaces(&destination.directory);
            spaces.extend(marker.tablespaces.iter().filter_map(|path| identity(path)));
            spaces
        }
    };
    Ok((destination, Former { named, contents, spaces }))
}

impl Former {
    /// Refuses what is of another cluster than the backup.
    pub fn refuse_other_cluster(&self, directory: &Path, backup: u64) -> Result<()> {
        let refuse = |found: u64, what: &str| {
            if found == backup {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Mismatch, format!("`{}` {what} another cluster", directory.display()))
                .cause(format!("its system identifier is {found}, that of the backup is {backup}"))
                .hint("check the directory and `--stanza`: `pgkeep list` shows the stanza's cluster")
                .hint(format!("to replace it all the same, move it away: {}", move_away(directory))))
        };
        match &self.contents {
            Contents::Nothing => Ok(()),
            Contents::Cluster(found) => refuse(*found, "holds"),
            Contents::Unfinished(marker) => {
                refuse(
                    marker.system_identifier.parse().unwrap_or_default(),
                    "holds an unfinished restore of",
                )?;
                // The marker stays where a restore was killed after its very last step.
                match read_control_file(directory) {
                    Ok(control) => refuse(control.system_identifier, "holds"),
                    Err(_) => Ok(()),
                }
            }
        }
    }

    /// Looks at the directory of a tablespace.
    pub fn inspect_tablespace(&self, target: &Path, version_directory: &str) -> Result<Destination> {
        if identity(target).is_some_and(|id| self.spaces.contains(&id)) {
            return destination::examine(target, |_| Ok(())).map(|(destination, ())| destination);
        }
        destination::inspect(target).map_err(|error| {
            if fs::symlink_metadata(target.join(version_directory)).is_err() {
                return error;
            }
            error.cause("the former data directory has no link to it: it may be another cluster's")
        })
    }
}

/// Judges what is in an existing directory.
fn contents(directory: &Path) -> Result<Contents> {
    let cannot = |error: io::Error| {
        Error::new(ErrorKind::Destination, format!("`{}` cannot be listed", directory.display()))
            .caused_by(&error)
            .hint("check the path and its permissions")
    };
    // One of them, always the same, for the message.
    let mut example: Option<std::ffi::OsString> = None;
    for entry in fs::read_dir(directory).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        if name != "lost+found" && name != STAGED_MARKER {
            example = Some(example.map_or(name.clone(), |other| other.min(name)));
        }
    }
    let Some(example) = example else { return Ok(Contents::Nothing) };
    in_use::refuse_locked(directory)?;
    if let Some(marker) = marker::read(directory)? {
        return Ok(Contents::Unfinished(marker));
    }
    let is_cluster =
        is_real(&directory.join("PG_VERSION"), false) && is_real(&directory.join("global"), true);
    if !is_cluster {
        return Err(Error::new(
            ErrorKind::Destination,
            format!("`{}` is not the directory of a cluster", directory.display()),
        )
        .cause(format!(
            "it holds `{}`, but `PG_VERSION` or `global` is missing; all that it holds would be removed",
            example.to_string_lossy()
        ))
        .hint("name the former data directory, or a directory that is empty or does not exist")
        .hint(format!("if it may go, move it away: {}", move_away(directory))));
    }
    read_control_file(directory).map(|control| Contents::Cluster(control.system_identifier)).map_err(|why| {
        Error::new(
            ErrorKind::Destination,
            format!("it cannot be told which cluster `{}` holds", directory.display()),
        )
        .cause(why)
        .hint(format!("move it away and restore into an empty directory: {}", move_away(directory)))
    })
}

fn move_away(directory: &Path) -> String {
    format!("`mv {0} {0}.before-restore`", directory.display())
}

fn read_control_file(directory: &Path) -> Result<ControlFile, String> {
    let path = directory.join(CONTROL_FILE_PATH);
    if !is_real(&directory.join("global"), true) || !is_real(&path, false) {
        return Err(format!("`{CONTROL_FILE_PATH}` is not there"));
    }
    let bytes = fs::read(&path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    ControlFile::parse(&bytes).map_err(|error| format!("`{}`: {error}", path.display()))
}

/// Whether it is a directory, or a file, and no link to one.
fn is_real(path: &Path, directory: bool) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|metadata| if directory { metadata.is_dir() } else { metadata.is_file() })
}

/// Where the links in `pg_tblspc` lead.
fn linked_spaces(directory: &Path) -> Vec<Identity> {
    let links = directory.join("pg_tblspc");
    if !is_real(&links, true) {
        return Vec::new();
    }
    let entries = fs::read_dir(links).into_iter().flatten().flatten();
    entries.filter_map(|entry| identity(&entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &Path) -> Result<Contents, ErrorKind> {
        contents(path).map_err(|error| {
            assert!(!error.hints.is_empty());
            assert!(error.hints.iter().all(|hint| !hint.contains("--delta")), "no circle: {error:?}");
            error.kind
        })
    }

    #[test]
    fn only_empty_directories_clusters_and_unfinished_restores_are_taken() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path();
        assert_eq!(kind(path), Ok(Contents::Nothing));
        fs::create_dir(path.join("lost+found")).unwrap();
        fs::write(path.join(STAGED_MARKER), "half").unwrap();
        assert_eq!(kind(path), Ok(Contents::Nothing));
        fs::write(path.join("thesis.txt"), "years of work").unwrap();
        assert_eq!(kind(path), Err(ErrorKind::Destination));
        // Parts of a cluster are not one.
        fs::write(path.join("PG_VERSION"), "18\n").unwrap();
        assert_eq!(kind(path), Err(ErrorKind::Destination));
        fs::create_dir(path.join("global")).unwrap();
        assert_eq!(kind(path), Err(ErrorKind::Destination));
        fs::write(path.join(CONTROL_FILE_PATH), vec![0; 8192]).unwrap();
        assert_eq!(kind(path), Err(ErrorKind::Destination), "a control file that says nothing");
        fs::write(path.join("postmaster.pid"), "1\n").unwrap();
        assert_eq!(kind(path), Err(ErrorKind::Locked));
    }

    #[test]
    fn a_link_is_never_taken_for_the_thing() {
        let place = tempfile::tempdir().unwrap();
        let other = place.path().join("other");
        fs::create_dir_all(other.join("global")).unwrap();
        fs::create_dir_all(other.join("pg_tblspc/1")).unwrap();
        let path = place.path().join("mine");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("PG_VERSION"), "18\n").unwrap();
        std::os::unix::fs::symlink(other.join("global"), path.join("global")).unwrap();
        std::os::unix::fs::symlink(other.join("pg_tblspc"), path.join("pg_tblspc")).unwrap();
        assert_eq!(kind(&path), Err(ErrorKind::Destination));
        assert!(linked_spaces(&path).is_empty());
        assert_eq!(linked_spaces(&other).len(), 1);
    }
}
