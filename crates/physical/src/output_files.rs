//! What everything that writes a backup does with files and directories alike, and how it says that it cannot.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use pgkeep_tool::{Result, ToolError, system_text};

/// The modes of what is made: the group may read where it may read the data directory that is copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modes {
    pub(crate) directory: u32,
    pub(crate) file: u32,
}

impl Modes {
    /// By whether the group may read.
    pub(crate) const fn new(group_access: bool) -> Modes {
        if group_access {
            Modes { directory: 0o750, file: 0o640 }
        } else {
            Modes { directory: 0o700, file: 0o600 }
        }
    }

    /// Those of a data directory with that mode.
    pub(crate) const fn of_directory(mode: u32) -> Modes {
        Modes::new(mode & 0o050 == 0o050)
    }
}

/// Makes a directory and those above it.
pub(crate) fn make_directories(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|error| ToolError::could_not("create directory", path.display(), &error))
}

/// Removes what is in a directory.
pub(crate) fn empty_directory(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Gives a file another name.
pub(crate) fn rename_file(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| {
        ToolError::new(format!(
            "could not rename file \"{}\" to \"{}\": {}",
            from.display(),
            to.display(),
            system_text(&error)
        ))
    })
}
