//! Makes a backup durable: files first, then the directories that name them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError, system_text};

use super::request::SyncMethod;

/// Threads that flush the files of a directory.
const THREADS: usize = 8;
/// Fewer files than this are not worth a thread.
const LEAST_SHARE: usize = 8;

/// Flushes everything below a directory, which holds no links that lead to more of the backup.
pub(crate) fn sync_tree(root: &Path, method: SyncMethod) -> Result<()> {
    match method {
        SyncMethod::Fsync => {
            sync_below(root)?;
            // The name of the directory itself.
            match root.parent() {
                // Where we may not read, we did not make the name either.
                Some(parent) if !parent.as_os_str().is_empty() && File::open(parent).is_ok() => {
                    sync_path(parent)
                }
                _ => Ok(()),
            }
        }
        SyncMethod::Syncfs => {
            let directory = File::open(root).map_err(|error| failed("open", root, &error))?;
            rustix::fs::syncfs(&directory).map_err(|error| {
                ToolError::new(format!(
                    "could not synchronize file system for file \"{}\": {}",
                    root.display(),
                    system_text(&error.into())
                ))
            })
        }
    }
}

fn sync_below(directory: &Path) -> Result<()> {
    let reading = |error: io::Error| failed("read directory", directory, &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let kind = entry.file_type().map_err(reading)?;
        if kind.is_dir() {
            sync_below(&entry.path())?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    sync_files(&files)?;
    sync_path(directory)
}

/// Flushes files with several threads: the file system then does much of it at once.
fn sync_files(files: &[PathBuf]) -> Result<()> {
    let share = files.len().div_ceil(THREADS).max(LEAST_SHARE);
    std::thread::scope(|scope| {
        let one_after_the_other = |files: &[PathBuf]| files.iter().try_for_each(|file| sync_path(file));
        let mut shares = files.chunks(share);
        let own = shares.next().unwrap_or_default();
        let others: Vec<_> = shares.map(|files| scope.spawn(move || one_after_the_other(files))).collect();
        let mut outcome = one_after_the_other(own);
        for other in others {
            let ended = other.join().unwrap_or_else(|_| Err(ToolError::new("a flushing thread crashed")));
            outcome = outcome.and(ended);
        }
        outcome
    })
}

/// Flushes a file or a directory.
pub(super) fn sync_path(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|error| failed("open file", path, &error))?;
    match file.sync_all() {
        // Some file systems cannot flush directories, and need not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput && path.is_dir() => Ok(()),
        outcome => outcome.map_err(|error| failed("fsync file", path, &error)),
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not(what, path.display(), error)
}
