//! The scratch directory: made for one drill, closed to others, and removed however the drill ends.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use super::request::{DrillRequest, RunAs};
use crate::error::{Error, ErrorKind, Result};

/// A Unix socket's path has at most 107 bytes, and `/s/.s.PGSQL.5432` is added.
const LONGEST: usize = 90;

/// A directory of mode 0700 that goes away.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Whom everything in it belongs to, where that is not the caller.
    pub(super) owner: Option<RunAs>,
    removed: bool,
}

/// Whom the server runs as: the caller, unless that is root.
pub(super) fn server_user(request: &DrillRequest) -> Result<Option<RunAs>> {
    if !rustix::process::geteuid().is_root() {
        return match request.run_as {
            None => Ok(None),
            Some(_) => Err(Error::new(ErrorKind::Usage, "only root can run the server as another user")
                .hint("leave out `--run-as`: the server runs as you")),
        };
    }
    let owner = match request.run_as {
        Some(user) => Some(user),
        None => fs::metadata(&request.directory)
            .ok()
            .map(|metadata| RunAs { uid: metadata.uid(), gid: metadata.gid() }),
    };
    match owner {
        Some(user) if user.uid != 0 => Ok(Some(user)),
        _ => Err(Error::new(ErrorKind::Usage, "PostgreSQL does not run as root")
            .hint("name its user: `--run-as postgres`")
            .hint("or run pgkeep as that user: `sudo -u postgres pgkeep verify --restore …`")),
    }
}

impl Scratch {
    pub(super) fn make(request: &DrillRequest) -> Result<Scratch> {
        let owner = server_user(request)?;
        let directory =
            std::path::absolute(&request.directory).map_err(|e| cannot(&request.directory, &e))?;
        let directory = directory.canonicalize().map_err(|error| cannot(&directory, &error))?;
        if let Some(cluster) = directory.ancestors().find(|path| path.join("PG_VERSION").exists()) {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("`{}` is inside the data directory `{}`", directory.display(), cluster.display()),
            )
            .hint("give a `--directory` that belongs to no cluster"));
        }
        let now = jiff::Timestamp::now().as_microsecond();
        let path = directory.join(format!("pgkeep-drill-{}-{:x}", std::process::id(), now & 0xFF_FFFF));
        if path.as_os_str().len() > LONGEST {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("`{}` is too long for the path of a socket", path.display()),
            )
            .hint(format!("give a shorter `--directory`, of at most {} bytes", LONGEST - 32)));
        }
        let mut scratch = Scratch { path, owner, removed: true };
        DirBuilder::new().mode(0o700).create(&scratch.path).map_err(|error| cannot(&scratch.path, &error))?;
        scratch.removed = false;
        scratch.own(&scratch.path)?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory of mode 0700 in it.
    pub(super) fn directory(&self, path: &Path) -> Result<()> {
        DirBuilder::new().mode(0o700).create(path).map_err(|error| cannot(path, &error))?;
        self.own(path)
    }

    /// Writes a file in it.
    pub(super) fn file(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).map_err(|error| cannot(path, &error))?;
        self.own(path)
    }

    /// Hands a path to the server's user.
    pub(super) fn own(&self, path: &Path) -> Result<()> {
        let Some(owner) = self.owner else { return Ok(()) };
        lchown(path, Some(owner.uid), Some(owner.gid)).map_err(|error| cannot(path, &error))
    }

    /// The same for everything below a directory, links not followed.
    pub(super) fn own_tree(&self, path: &Path) -> Result<()> {
        if self.owner.is_none() || !path.exists() {
            return Ok(());
        }
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            self.own(&path)?;
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                for entry in fs::read_dir(&path).map_err(|error| cannot(&path, &error))? {
                    waiting.push(entry.map_err(|error| cannot(&path, &error))?.path());
                }
            }
        }
        Ok(())
    }

    /// Removes it. Links are removed, not followed.
    pub(super) fn remove(mut self) -> Result<()> {
        self.removed = true;
        fs::remove_dir_all(&self.path).map_err(|error| {
            Error::new(ErrorKind::Storage, format!("cannot remove `{}`", self.path.display()))
                .caused_by(&error)
                .hint("remove it by hand: it holds a copy of the cluster")
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.removed {
            // After an error, which is told; this one would only hide it.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

fn cannot(path: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull => ErrorKind::Space,
        _ => ErrorKind::Destination,
    };
    Error::new(kind, format!("cannot use `{}` for a drill", path.display()))
        .caused_by(error)
        .hint("name a directory that exists and that you may write to: `--directory DIR`")
}
