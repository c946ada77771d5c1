//! The directories of the result: made or found empty, and emptied again when something fails.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError, system_text};

use super::Talk;
use super::inputs::{Input, Inputs};
use super::staging::Staging;

/// The modes of what is made: the group may read where it may read the newest backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Modes {
    pub(super) directory: u32,
    pub(super) file: u32,
}

impl Modes {
    const OWNER: Modes = Modes { directory: 0o700, file: 0o600 };
    const GROUP: Modes = Modes { directory: 0o750, file: 0o640 };

    /// Those of a data directory with that mode.
    pub(super) const fn of_mode(mode: u32) -> Modes {
        if mode & 0o050 == 0o050 { Modes::GROUP } else { Modes::OWNER }
    }

    /// Those of the newest backup.
    pub(super) fn of_input(input: &Input, staging: &Staging) -> Result<Modes> {
        if input.unpacked.is_some() {
            return Ok(staging.modes());
        }
        let metadata = input.directory.metadata().map_err(|error| {
            let path = input.directory.display();
            ToolError::new(format!("could not stat file \"{path}\": {}", system_text(&error)))
        })?;
        Ok(Modes::of_mode(metadata.permissions().mode()))
    }
}

/// What was made, to be removed if need be.
pub(super) struct OutputDirectories<'a> {
    dry_run: bool,
    talk: Talk<'a>,
    /// And whether it was not there before.
    made: Vec<(PathBuf, bool)>,
}

impl<'a> OutputDirectories<'a> {
    pub(super) fn new(dry_run: bool, talk: Talk<'a>) -> OutputDirectories<'a> {
        OutputDirectories { dry_run, talk, made: Vec::new() }
    }

    /// Makes a directory, or makes sure that it is empty. One that was made by this is taken as it is.
    pub(super) fn create(&mut self, path: &Path, modes: Modes) -> Result<()> {
        let shown = path.display();
        if let Some((_, is_new)) = self.made.iter().find(|(made, _)| made == path) {
            if *is_new {
                set_mode(path, modes.directory)?;
            }
            return Ok(());
        }
        let is_empty = match path.read_dir() {
            Ok(mut entries) => Some(entries.next().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let text = system_text(&error);
                return Err(ToolError::new(format!("could not access directory \"{shown}\": {text}")));
            }
        };
        match is_empty {
            Some(false) => {
                return Err(ToolError::new(format!("directory \"{shown}\" exists but is not empty")));
            }
            Some(true) => {
                self.talk.debug(|| format!("using existing directory \"{shown}\""));
                if !self.dry_run {
                    self.made.push((path.to_owned(), false));
                }
            }
            None if self.dry_run => self.talk.debug(|| format!("would create directory \"{shown}\"")),
            None => {
                self.talk.debug(|| format!("creating directory \"{shown}\""));
                make_directories(path, modes)?;
                self.made.push((path.to_owned(), true));
            }
        }
        Ok(())
    }

    /// Refuses a result within a backup that is read: it would be read itself.
    pub(super) fn refuse_nesting(&self, inputs: &Inputs) -> Result<()> {
        for (made, _) in &self.made {
            let Ok(real) = made.canonicalize() else { continue };
            let outer = inputs.inputs.iter().find(|input| {
                input.unpacked.is_none()
                    && input.directory.canonicalize().is_ok_and(|dir| real.starts_with(dir))
            });
            if let Some(outer) = outer {
                return Err(ToolError::new(format!(
                    "output directory \"{}\" lies within input directory \"{}\"",
                    made.display(),
                    outer.name.display()
                ))
                .hint("Name an output directory elsewhere."));
            }
        }
        Ok(())
    }

    /// Removes what was made.
    pub(super) fn remove(&mut self) {
        for (path, is_new) in self.made.drain(..).rev() {
            let shown = path.display();
            let what = if is_new { "" } else { "contents of " };
            self.talk.reporter.info(&format!("removing {what}output directory \"{shown}\""));
            let removed = if is_new { std::fs::remove_dir_all(&path) } else { remove_contents(&path) };
            if let Err(error) = removed {
                let text = system_text(&error);
                self.talk
                    .reporter
                    .error(&format!("failed to remove {what}output directory \"{shown}\": {text}"));
            }
        }
    }
}

/// Makes a directory and those above it.
pub(super) fn make_directories(path: &Path, modes: Modes) -> Result<()> {
    DirBuilder::new().recursive(true).mode(modes.directory).create(path).map_err(|error| {
        ToolError::new(format!("could not create directory \"{}\": {}", path.display(), system_text(&error)))
    })
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|error| {
        let path = path.display();
        ToolError::new(format!("could not set permissions on directory \"{path}\": {}", system_text(&error)))
    })
}

fn remove_contents(path: &Path) -> io::Result<()> {
    for entry in path.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
