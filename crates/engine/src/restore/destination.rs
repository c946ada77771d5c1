//! Proves, before a byte is written, that the destination may be written to.
//!
//! A data directory is made only where nothing is: an empty or absent directory, and the same for every tablespace. A
//! running server is recognised by its lock file and named. A delta restore judges the contents in another way, see
//! `delta::former`. Root is refused unless the directory is already somebody
//! else's, since PostgreSQL runs as nobody's root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::marker::{MARKER, STAGED_MARKER};
use crate::error::{Error, ErrorKind, Result};

/// Who the restored files will belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whoever runs the restore.
    Caller,
    /// The owner of the prepared directory: only root can give files away.
    Other {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// A directory that may be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The directory, absolute.
    pub directory: PathBuf,
    /// Whether it exists already.
    pub exists: bool,
    /// Who owns what is written.
    pub owner: Owner,
    /// Bytes that its file system can still take.
    pub free_bytes: u64,
    /// The device of the file system: directories on one device share its free bytes.
    pub device: u64,
}

/// Looks at a directory that is to be written, and must be empty or absent.
pub fn inspect(directory: &Path) -> Result<Destination> {
    examine(directory, refuse_contents).map(|(destination, ())| destination)
}

/// Looks at a directory that is to be written; `judge` looks at its contents where it exists.
pub fn examine<T: Default>(
    directory: &Path,
    judge: impl FnOnce(&Path) -> Result<T>,
) -> Result<(Destination, T)> {
    let directory = std::path::absolute(directory)
        .map_err(|error| refuse(directory, "is not a path that can be used", &error))?;
    let (exists, nearest, contents) = match fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => {
            let contents = judge(&directory)?;
            (true, directory.clone(), contents)
        }
        Ok(_) => {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("`{}` is not a directory", directory.display()),
            )
            .hint("name a directory that is empty or does not exist"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let nearest = directory.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(Path::new("/"));
            (false, nearest.to_owned(), T::default())
        }
        Err(error) => return Err(refuse(&directory, "cannot be looked at", &error)),
    };
    let metadata = fs::metadata(&nearest).map_err(|error| refuse(&nearest, "cannot be looked at", &error))?;
    let owner = owner_of(&directory, exists, &metadata)?;
    let free_bytes = free_bytes(&nearest)?;
    Ok((Destination { directory, exists, owner, free_bytes, device: metadata.dev() }, contents))
}

/// Bytes that the file system of a path can still take.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let space = rustix::fs::statvfs(path)
        .map_err(|error| refuse(path, "cannot be asked for its free space", &io::Error::from(error)))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

fn owner_of(directory: &Path, exists: bool, metadata: &fs::Metadata) -> Result<Owner> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Owner::Caller);
    }
    if exists && metadata.uid() != 0 {
        return Ok(Owner::Other { uid: metadata.uid(), gid: metadata.gid() });
    }
    Err(Error::new(
        ErrorKind::Destination,
        format!("refusing to restore into `{}` as root", directory.display()),
    )
    .cause("PostgreSQL does not run as root and would not start on files that root owns")
    .hint("run pgkeep as the server's user, as in `sudo -u postgres pgkeep restore …`")
    .hint(format!(
        "or prepare the directory: `install -d -m 700 -o postgres -g postgres {}`",
        directory.display()
    )))
}

fn refuse_contents(directory: &Path) -> Result<()> {
    let lock = directory.join("postmaster.pid");
    if let Ok(text) = fs::read_to_string(&lock) {
        let pid = text.lines().next().unwrap_or("?").to_owned();
        return Err(Error::new(
            ErrorKind::Locked,
            format!("a server runs in `{}`, or died there", directory.display()),
        )
        .cause(format!("`{}` names process {pid}", lock.display()))
        .hint(format!("stop it first: `pg_ctl stop -D {}`", directory.display()))
        .hint("or restore into another, empty directory"));
    }
    if fs::symlink_metadata(directory.join(MARKER)).is_ok() {
        return Err(Error::new(
            ErrorKind::Destination,
            format!("`{}` holds an unfinished restore", directory.display()),
        )
        .cause(format!("`{MARKER}` is in it"))
        .hint("finish it: add `--delta` to the command")
        .hint("or remove the directory, and run the command again"));
    }
    let mut listing =
        fs::read_dir(directory).map_err(|error| refuse(directory, "cannot be listed", &error))?;
    // A mount point has the first one, and nothing of a cluster is in it. The second is all that a restore leaves that was
    // killed before it began.
    let unimportant = ["lost+found", STAGED_MARKER];
    let occupied = listing.find(|entry| {
        entry.as_ref().map_or(true, |entry| !unimportant.iter().any(|name| entry.file_name() == *name))
    });
    match occupied {
        None => Ok(()),
        Some(Err(error)) => Err(refuse(directory, "cannot be listed", &error)),
        Some(Ok(entry)) => {
            let error =
                Error::new(ErrorKind::Destination, format!("`{}` is not empty", directory.display()))
                    .cause(format!("it contains `{}`", entry.file_name().to_string_lossy()))
                    .hint("restore into a new directory, or move the old one away first: `mv OLD OLD.before-restore`");
            if directory.join("PG_VERSION").is_file() {
                return Err(
                    error.hint("to reuse the files of the former cluster: add `--delta` to the command")
                );
            }
            Err(error)
        }
    }
}

fn refuse(path: &Path, what: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Destination, format!("`{}` {what}", path.display()))
        .caused_by(error)
        .hint("check the path and its permissions")
}

/// Refuses where the destinations together cannot take what is to be written.
pub fn refuse_too_small(wanted: &[(&Destination, u64)]) -> Result<()> {
    for (destination, _) in wanted {
        let need: u64 = wanted
            .iter()
            .filter(|(other, _)| other.device == destination.device)
            .map(|(_, bytes)| bytes)
            .sum();
        if need > destination.free_bytes {
            return Err(Error::new(
                ErrorKind::Space,
                format!("`{}` has too little free space", destination.directory.display()),
            )
            .cause(format!("{need} bytes are needed, {} are free", destination.free_bytes))
            .hint("free some space, or restore to another file system")
            .hint("tablespaces can go elsewhere: `--tablespace-map OLD=NEW`"));
        }
    }
    Ok(())
}
