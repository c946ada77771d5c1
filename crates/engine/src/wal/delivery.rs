//! Puts a fetched file at its place: whole, or not at all.
//!
//! It is written under another name beside its place and renamed. Killed in between, it leaves a hidden file that
//! PostgreSQL never reads and that is swept later. Copies for a human are flushed; those for a recovering server are
//! not, because the server fetches them again after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::{Error, ErrorKind, Result};

/// The names under which PostgreSQL has files restored. It deletes such a file when it starts and fetches it again, so
/// there is nothing in flushing it, and flushing every segment would slow recovery down to the speed of the disk.
const TEMPORARY_NAMES: [&str; 2] = ["RECOVERYXLOG", "RECOVERYHISTORY"];

const STAGING_SUFFIX: &str = ".pgkeep-";

/// A fetch takes seconds; what is older belongs to none that runs.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Whether PostgreSQL itself asked, rather than a human who wants a copy.
pub(crate) fn is_for_recovery(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| TEMPORARY_NAMES.contains(&name))
}

/// The directory of a file that may be named relative to the working directory.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether the server that asks is a standby: it tries again by itself, from the archive and from its primary.
///
/// The destination is `pg_wal/RECOVERYXLOG`, and `standby.signal` lies beside `pg_wal`. Decided by the path as it is
/// written: `pg_wal` may be a symbolic link to another disk.
pub(crate) fn is_for_standby(path: &Path) -> bool {
    if !is_for_recovery(path) {
        return false;
    }
    let wal_directory = directory_of(path);
    let data_directory = match wal_directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ if wal_directory == Path::new(".") => PathBuf::from(".."),
        _ => PathBuf::from("."),
    };
    data_directory.join("standby.signal").exists()
}

/// Writes the file under another name beside its place, then renames it. Flushed unless it is only passing through.
pub(crate) fn deliver(path: &Path, bytes: &[u8]) -> Result<()> {
    let staging = staging_path(path);
    let is_lasting = !is_for_recovery(path);
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staging)?;
        file.write_all(bytes)?;
        if is_lasting {
            file.sync_all()?;
        }
        drop(file);
        fs::rename(&staging, path)?;
        if is_lasting {
            File::open(directory_of(path))?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|error| {
        // What is left of it is never read; the error that matters is the first.
        drop(fs::remove_file(&staging));
        delivery_error(path, error)
    })
}

/// Removes unfinished files that processes which were killed left beside `path`. Called now and then, not for each segment.
pub(crate) fn sweep(path: &Path, now: SystemTime) {
    for entry in fs::read_dir(directory_of(path)).into_iter().flatten().flatten() {
        let is_unfinished = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(".RECOVERY") && name.contains(STAGING_SUFFIX));
        let is_old = || {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > LEFTOVER_AGE))
        };
        if is_unfinished && is_old() {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn staging_path(path: &Path) -> PathBuf {
    let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy().into_owned());
    directory_of(path).join(format!(".{name}{STAGING_SUFFIX}{}", std::process::id()))
}

fn delivery_error(path: &Path, error: io::Error) -> Error {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            ErrorKind::Space,
            "the disk of the destination is full: free space there; recovery goes on where it stopped",
        ),
        io::ErrorKind::NotFound => (
            ErrorKind::Destination,
            "the directory of the destination does not exist; in `restore_command` write `%p`, which PostgreSQL replaces",
        ),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Destination, "run the command as the server's user, who owns `pg_wal`")
        }
        _ => (ErrorKind::Destination, "look at the disk of the destination"),
    };
    Error::new(kind, format!("cannot write `{}`", path.display())).cause(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_delivered_whole_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["RECOVERYXLOG", "000000010000000000000001"] {
            let path = directory.path().join(name);
            deliver(&path, b"hello").unwrap();
            deliver(&path, b"again").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"again");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_missing_directory_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let error = deliver(&directory.path().join("no/RECOVERYXLOG"), b"x").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Destination);
    }

    #[test]
    fn a_standby_is_known_by_its_signal_file() {
        let data = tempfile::tempdir().unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        let path = data.path().join("pg_wal/RECOVERYXLOG");
        assert!(!is_for_standby(&path));
        fs::write(data.path().join("standby.signal"), "").unwrap();
        assert!(is_for_standby(&path));
        assert!(!is_for_standby(&data.path().join("pg_wal/000000010000000000000001")));
    }
}
