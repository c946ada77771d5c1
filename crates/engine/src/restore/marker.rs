//! The note in a data directory that a restore is under way there, or was interrupted.
//!
//! Written before anything else, removed after the control file is in place: where it is and no control file, there is an
//! unfinished restore of pgkeep, which `--delta` may finish, and nothing of anybody else's. It is put in place by a
//! rename, so it is whole or absent. The staging file alone says that nothing was begun.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::RestorePlan;
use super::write::{cannot_write, give_away};
use crate::error::{Error, ErrorKind, Result};

/// Its name in the data directory.
pub const MARKER: &str = "pgkeep_restore.unfinished";
/// Where it is written first.
pub const STAGED_MARKER: &str = "pgkeep_restore.unfinished.new";
/// No marker is larger: a cluster has few tablespaces.
const MAX_BYTES: u64 = 1 << 20;
const FORMAT: u32 = 1;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Version of this note.
    pub format: u32,
    /// The cluster that is restored; text, because JSON readers take large numbers for floating point.
    pub system_identifier: String,
    /// The stanza that it comes from.
    pub stanza: String,
    /// The backup.
    pub backup: String,
    /// Directories of tablespaces that are written to.
    pub tablespaces: Vec<PathBuf>,
}

/// Reads the marker of a directory; none where there is none.
pub fn read(directory: &Path) -> Result<Option<Marker>> {
    let path = directory.join(MARKER);
    let refuse = |what: String| {
        Error::new(ErrorKind::Destination, format!("`{}` is not a note of this program", path.display()))
            .cause(what)
            .hint("look at what it is; without it the directory is judged by its contents")
    };
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(error.to_string())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|error| refuse(error.to_string()))?;
    let marker: Marker = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    if marker.format != FORMAT || marker.system_identifier.parse::<u64>().is_err() {
        return Err(refuse("it is of another version, or incomplete".to_owned()));
    }
    Ok(Some(marker))
}

/// Writes the marker of this restore in place of one that is there, durably.
pub fn write(plan: &RestorePlan) -> Result<()> {
    let header = plan.reader.header();
    let marker = Marker {
        format: FORMAT,
        system_identifier: header.system_identifier.to_string(),
        stanza: header.stanza.clone(),
        backup: header.id.to_string(),
        tablespaces: plan.layout.tablespaces.iter().map(|space| space.target.clone()).collect(),
    };
    let directory = &plan.destination.directory;
    let staged = directory.join(STAGED_MARKER);
    let write = || -> io::Result<()> {
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(&serde_json::to_vec_pretty(&marker)?)?;
        file.sync_all()
    };
    write().map_err(|error| cannot_write(&staged, &error))?;
    give_away(&staged, plan.destination.owner)?;
    let path = directory.join(MARKER);
    fs::rename(&staged, &path).map_err(|error| cannot_write(&path, &error))?;
    sync_directory(directory)
}

/// Removes it: the restore is finished, or was never begun. The caller makes that durable.
pub fn remove(directory: &Path) -> Result<()> {
    let path = directory.join(MARKER);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_write(&path, &error)),
        _ => Ok(()),
    }
}

/// Held while a restore writes to a directory: two at once would undo each other's work. Ends with the process.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Locks a directory against other restores.
pub fn lock(directory: &Path) -> Result<Lock> {
    let handle = File::open(directory).map_err(|error| cannot_write(directory, &error))?;
    match rustix::fs::flock(&handle, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(ErrorKind::Locked, format!("another restore writes to `{}`", directory.display()))
                .hint("wait until it has ended, or end it; then run the command again"))
        }
        // Some network file systems lock nothing.
        _ => Ok(Lock { _directory: handle }),
    }
}

/// Makes the entries of a directory durable.
pub fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| cannot_write(directory, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_locked_once() {
        let place = tempfile::tempdir().unwrap();
        let held = lock(place.path()).unwrap();
        assert_eq!(lock(place.path()).unwrap_err().kind, ErrorKind::Locked);
        drop(held);
        lock(place.path()).unwrap();
    }

    #[test]
    fn only_a_whole_note_of_this_program_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(MARKER);
        assert_eq!(read(place.path()).unwrap(), None);
        let marker = Marker {
            format: FORMAT,
            system_identifier: "7440000000000000001".into(),
            stanza: "main".into(),
            backup: "000001-20261122T103009Z".into(),
            tablespaces: vec!["/mnt/fast".into()],
        };
        fs::write(&path, serde_json::to_vec(&marker).unwrap()).unwrap();
        assert_eq!(read(place.path()).unwrap(), Some(marker.clone()));
        for other in [
            serde_json::to_vec(&Marker { format: 2, ..marker.clone() }).unwrap(),
            serde_json::to_vec(&Marker { system_identifier: "x".into(), ..marker.clone() }).unwrap(),
            Vec::new(),
            b"mine".to_vec(),
        ] {
            fs::write(&path, other).unwrap();
            assert_eq!(read(place.path()).unwrap_err().kind, ErrorKind::Destination);
        }
        // A link to a good one is not a good one.
        let real = place.path().join("real");
        fs::write(&real, serde_json::to_vec(&marker).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        assert!(read(place.path()).is_err());
    }
}
