//! Files and directories that are there already get the length, the mode and the owner that they must have.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use pgkeep_repo::FileEntry;

use super::survey::open_for_writing;
use crate::error::Result;
use crate::restore::destination::Owner;
use crate::restore::task::TargetFile;
use crate::restore::write::{cannot_write, give_away, target_file};

/// Brings a file that is there to its final length, mode and owner; none where nothing is. What is there is an ordinary file
/// of one name: anything else was removed before. Answers what its length was, at most the new one.
pub fn reuse(owner: Owner, entry: &FileEntry, path: &Path) -> Result<Option<(TargetFile, u64)>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_write(path, &error)),
    };
    let former_length = metadata.len().min(entry.meta.size);
    if metadata.len() != entry.meta.size {
        let resized = open_for_writing(path, &metadata).and_then(|file| file.set_len(entry.meta.size));
        resized.map_err(|error| cannot_write(path, &error))?;
    }
    set_mode(path, entry.meta.mode, owner)?;
    Ok(Some((target_file(entry, path.to_owned()), former_length)))
}

/// Mode and owner of something that was there before, which is changed only where it differs.
pub fn set_mode(path: &Path, mode: u32, owner: Owner) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|error| cannot_write(path, &error))?;
    if metadata.mode() & 0o7777 != mode & 0o7777 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
            .map_err(|error| cannot_write(path, &error))?;
    }
    match owner {
        Owner::Other { uid, gid } if (metadata.uid(), metadata.gid()) != (uid, gid) => give_away(path, owner),
        _ => Ok(()),
    }
}
