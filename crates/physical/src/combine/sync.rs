//! Making the result durable: the output, and where its links lead.

use std::io;
use std::path::{Path, PathBuf};

use pgkeep_tool::{Result, ToolError};

use super::Talk;
use crate::base_backup::{SyncMethod, sync_tree};

/// Waits until all of the result is on disk.
pub(super) fn make_durable(output: &Path, method: SyncMethod, dry_run: bool, talk: Talk<'_>) -> Result<()> {
    let shown = output.display();
    if dry_run {
        talk.debug(|| format!("would recursively fsync \"{shown}\""));
        return Ok(());
    }
    talk.debug(|| format!("recursively fsyncing \"{shown}\""));
    sync_tree(output, method)?;
    linked_directories(output)?.iter().try_for_each(|directory| sync_tree(directory, method))
}

/// Where links of the result lead: those to tablespaces.
fn linked_directories(output: &Path) -> Result<Vec<PathBuf>> {
    let directory = output.join("pg_tblspc");
    let failed = |error: io::Error| {
        let directory = directory.display();
        ToolError::could_not("open directory", directory, &error)
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
