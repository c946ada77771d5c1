//! Directories that a backup is written to: absent or empty before, and absent or empty again when it fails.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError, system_text};

use super::observer::Observer;
use crate::output_files::{Modes, empty_directory, make_directories};

/// What a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Data,
    Wal,
    Tablespace,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Data => "data directory",
            Purpose::Wal => "WAL directory",
            Purpose::Tablespace => "tablespace directory",
        }
    }
}

/// The directories of a backup that is being made.
#[derive(Debug, Default)]
pub(super) struct Directories(Vec<(PathBuf, Purpose, bool)>);

impl Directories {
    /// Makes a directory, or finds it empty.
    pub(super) fn prepare(&mut self, path: &Path, purpose: Purpose, modes: Modes) -> Result<()> {
        let is_new = match fs::read_dir(path) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(ToolError::new(format!(
                        "directory \"{}\" exists but is not empty",
                        path.display()
                    )));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path, modes.directory)?;
                true
            }
            Err(error) => {
                return Err(ToolError::could_not("access directory", path.display(), &error));
            }
        };
        self.0.push((path.to_owned(), purpose, is_new));
        Ok(())
    }

    /// All of them.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|(path, ..)| path.as_path())
    }

    /// Removes what was made and empties what was there, or says that it stays.
    pub(super) fn undo(self, wanted: bool, observer: &dyn Observer) {
        // The data directory has links to the others, so it goes first.
        for (path, purpose, is_new) in self.0 {
            let (name, shown) = (purpose.name(), path.display());
            if !wanted {
                observer.tell(&format!("{name} \"{shown}\" not removed at user's request"));
                continue;
            }
            let contents = if is_new { "" } else { "contents of " };
            observer.tell(&format!("removing {contents}{name} \"{shown}\""));
            let removed = if is_new { fs::remove_dir_all(&path) } else { empty_directory(&path) };
            if let Err(error) = removed {
                observer.error(&format!(
                    "failed to remove {contents}{name} \"{shown}\": {}",
                    system_text(&error)
                ));
            }
        }
    }
}

/// Makes a directory and those above it.
pub(super) fn make(path: &Path, mode: u32) -> Result<()> {
    make_directories(path, mode)?;
    // The umask must not take away what the server's directory has.
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|error| ToolError::could_not("create directory", path.display(), &error))
}
