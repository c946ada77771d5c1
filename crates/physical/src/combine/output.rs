//! The directories of the result: made or found empty, and emptied again when something fails.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError, system_text};

use super::Talk;
use super::inputs::{Input, Inputs};
use super::staging::Staging;
use crate::output_files::{Modes, empty_directory, make_directories};

/// The modes of the newest backup.
pub(super) fn modes_of(input: &Input, staging: &Staging) -> Result<Modes> {
    if input.unpacked.is_some() {
        return Ok(staging.modes());
    }
    let metadata = input.directory.metadata();
    let metadata =
        metadata.map_err(|error| ToolError::could_not("stat file", input.directory.display(), &error))?;
    Ok(Modes::of_directory(metadata.permissions().mode()))
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
                make_directories(path, modes.directory)?;
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
            let removed = if is_new { std::fs::remove_dir_all(&path) } else { empty_directory(&path) };
            if let Err(error) = removed {
                let text = system_text(&error);
                self.talk
                    .reporter
                    .error(&format!("failed to remove {what}output directory \"{shown}\": {text}"));
            }
        }
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|error| {
        let path = path.display();
        ToolError::could_not("set permissions on directory", path, &error)
    })
}
