//! Proves, before a byte is written, that the destination may be written to.
//!
//! A data directory is made only where nothing is: an empty or absent directory, and the same for every tablespace. A
//! running server is recognised by its lock file and named. Root is refused unless the directory is already somebody
//! else's, since PostgreSQL runs as nobody's root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// Whether it exists already, empty.
    pub exists: bool,
    /// Who owns what is written.
    pub owner: Owner,
    /// Bytes that its file system can still take.
    pub free_bytes: u64,
    /// The device of the file system: directories on one device share its free bytes.
    pub device: u64,
}

/// Looks at a directory that is to be written.
pub fn inspect(directory: &Path) -> Result<Destination> {
    let directory = std::path::absolute(directory)
        .map_err(|error| refuse(directory, "is not a path that can be used", &error))?;
    let (exists, nearest) = match fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => {
            refuse_contents(&directory)?;
            (true, directory.clone())
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
            (false, nearest.to_owned())
        }
        Err(error) => return Err(refuse(&directory, "cannot be looked at", &error)),
    };
    let metadata = fs::metadata(&nearest).map_err(|error| refuse(&nearest, "cannot be looked at", &error))?;
    let owner = owner_of(&directory, exists, &metadata)?;
    let space = rustix::fs::statvfs(&nearest)
        .map_err(|error| refuse(&nearest, "cannot be asked for its free space", &io::Error::from(error)))?;
    Ok(Destination {
        directory,
        exists,
        owner,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        device: metadata.dev(),
    })
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
    let mut listing =
        fs::read_dir(directory).map_err(|error| refuse(directory, "cannot be listed", &error))?;
    // A mount point has this one, and nothing of a cluster is in it.
    let occupied =
        listing.find(|entry| entry.as_ref().map_or(true, |entry| entry.file_name() != "lost+found"));
    match occupied {
        None => Ok(()),
        Some(Err(error)) => Err(refuse(directory, "cannot be listed", &error)),
        Some(Ok(entry)) => Err(Error::new(
            ErrorKind::Destination,
            format!("`{}` is not empty", directory.display()),
        )
        .cause(format!("it contains `{}`", entry.file_name().to_string_lossy()))
        .hint("restore into a new directory, or move the old one away first: `mv OLD OLD.before-restore`")),
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
