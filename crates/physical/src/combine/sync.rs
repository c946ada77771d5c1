//! Making the result durable: every file and directory, or the file systems that they are in.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError, system_text};

use super::Talk;

/// How files become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMethod {
    /// Each on its own.
    Fsync,
    /// Whole file systems.
    Syncfs,
}

/// Waits until all of the result is on disk.
pub(super) fn make_durable(output: &Path, method: SyncMethod, dry_run: bool, talk: Talk<'_>) -> Result<()> {
    let shown = output.display();
    if dry_run {
        talk.debug(|| format!("would recursively fsync \"{shown}\""));
        return Ok(());
    }
    talk.debug(|| format!("recursively fsyncing \"{shown}\""));
    let mut roots = vec![output.to_owned()];
    roots.extend(linked_directories(output)?);
    for root in &roots {
        match method {
            SyncMethod::Fsync => sync_tree(root)?,
            SyncMethod::Syncfs => File::open(root)
                .and_then(|directory| Ok(rustix::fs::syncfs(&directory)?))
                .map_err(|error| {
                    let root = root.display();
                    let text = system_text(&error);
                    ToolError::new(format!("could not synchronize file system for file \"{root}\": {text}"))
                })?,
        }
        // The name of a directory that was made.
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_one(parent)?;
        }
    }
    Ok(())
}

/// Where links of the result lead: those to tablespaces.
fn linked_directories(output: &Path) -> Result<Vec<PathBuf>> {
    let directory = output.join("pg_tblspc");
    let failed = |error: io::Error| {
        let directory = directory.display();
        ToolError::new(format!("could not open directory \"{directory}\": {}", system_text(&error)))
    };
    let mut found = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_symlink() {
            found.push(entry.path().canonicalize().map_err(failed)?);
        }
    }
    Ok(found)
}

/// Flushes everything beneath a directory, then the directory. Links are not followed.
fn sync_tree(directory: &Path) -> Result<()> {
    let failed = |error: io::Error| {
        let directory = directory.display();
        ToolError::new(format!("could not open directory \"{directory}\": {}", system_text(&error)))
    };
    for entry in directory.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            sync_one(&entry.path())?;
        }
    }
    sync_one(directory)
}

fn sync_one(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| {
        ToolError::new(format!("could not fsync file \"{}\": {}", path.display(), system_text(&error)))
    })
}
