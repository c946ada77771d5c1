//! An export as a data directory, with its tablespaces beside it.
//!
//! Directories are judged as for a restore: absent or empty, nobody else's. The control file is written under another name
//! and renamed once all else is durable, so a server never starts from half an export.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_repo::ManifestHeader;

use super::ExportRequest;
use super::target::Member;
use crate::error::{Error, Result};
use crate::restore::destination::{self, Destination};
use crate::restore::layout::Layout;
use crate::restore::marker::sync_directory;
use crate::restore::write::{cannot_write, create_file, give_away};

/// Where the control file is written first.
const NEW_CONTROL_FILE: &str = "global/pg_control.pgkeep-new";
/// Where the manifest is written first.
const NEW_MANIFEST: &str = "backup_manifest.tmp";

/// The directories.
#[derive(Debug)]
pub struct PlainTarget {
    layout: Layout,
    places: Vec<(u32, PathBuf)>,
    /// The data directory first.
    destinations: Vec<Destination>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    offset: u64,
}

impl PlainTarget {
    /// Looks at the directories and makes them.
    pub fn prepare(request: &ExportRequest, header: &ManifestHeader) -> Result<PlainTarget> {
        let data = destination::inspect(&request.destination).map_err(for_export)?;
        let layout = Layout::new(&data.directory, &header.tablespaces, &request.tablespace_map)?;
        let mut destinations = vec![data];
        for space in &layout.tablespaces {
            destinations.push(destination::inspect(&space.target).map_err(|error| {
                for_export(error).hint(format!(
                    "send this tablespace elsewhere: `--tablespace-map {}=/new/place`",
                    space.source
                ))
            })?);
        }
        let wal = u64::from(header.wal_segment_size);
        destination::refuse_too_small(&[(&destinations[0], header.totals.size_bytes + wal)])?;
        let places = layout.tablespaces.iter().map(|space| (space.oid, space.target.clone())).collect();
        let target = PlainTarget { layout, places, destinations, open: None };
        match target.make_directories(header.directory_mode & 0o750 | 0o700) {
            Ok(()) => Ok(target),
            Err(error) => {
                target.remove();
                Err(error)
            }
        }
    }

    fn make_directories(&self, mode: u32) -> Result<()> {
        for place in &self.destinations {
            let path = &place.directory;
            if !place.exists {
                let parent = path.parent().unwrap_or(Path::new("/"));
                fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
                DirBuilder::new().mode(mode).create(path).map_err(|error| cannot_write(path, &error))?;
            }
            // PostgreSQL refuses to start on any other mode.
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(|error| cannot_write(path, &error))?;
            give_away(path, place.owner)?;
        }
        Ok(())
    }

    fn owner(&self) -> destination::Owner {
        self.destinations.first().map_or(destination::Owner::Caller, |place| place.owner)
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.layout.place(Path::new(OsStr::from_bytes(path)))
    }

    /// Makes a directory of the cluster.
    pub fn directory_entry(&mut self, member: &Member) -> Result<()> {
        let path = self.place(&member.path);
        match DirBuilder::new().mode(member.mode).create(&path) {
            Ok(()) => give_away(&path, self.owner()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(cannot_write(&path, &error)),
        }
    }

    /// Makes a file.
    pub fn begin(&mut self, member: &Member) -> Result<()> {
        let is_control = member.path == CONTROL_FILE_PATH.as_bytes();
        let path = self.place(if is_control { NEW_CONTROL_FILE.as_bytes() } else { &member.path });
        let file = create_file(&path, member.mode, member.size, self.owner())?;
        self.open = Some(Open { file, path, offset: 0 });
        Ok(())
    }

    /// Writes to the file that began last.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.file.write_all_at(bytes, open.offset).map_err(|error| cannot_write(&open.path, &error))?;
        open.offset += bytes.len() as u64;
        Ok(())
    }

    /// Leaves a hole.
    pub fn zeros(&mut self, count: u64) -> Result<()> {
        if let Some(open) = &mut self.open {
            open.offset += count;
        }
        Ok(())
    }

    /// Makes the links in `pg_tblspc`.
    pub fn link_tablespaces(&mut self) -> Result<()> {
        for (oid, target) in &self.places {
            let link = self.layout.data_directory.join(format!("pg_tblspc/{oid}"));
            std::os::unix::fs::symlink(target, &link).map_err(|error| cannot_write(&link, &error))?;
            give_away(&link, self.owner())?;
        }
        Ok(())
    }

    /// Makes all durable, then puts the control file and the manifest in place.
    pub fn finish(&mut self, manifest: &[u8]) -> Result<()> {
        self.open = None;
        for place in &self.destinations {
            let directory =
                File::open(&place.directory).map_err(|error| cannot_write(&place.directory, &error))?;
            rustix::fs::syncfs(&directory).map_err(|error| cannot_write(&place.directory, &error.into()))?;
        }
        let data = &self.layout.data_directory;
        let control = data.join(CONTROL_FILE_PATH);
        fs::rename(data.join(NEW_CONTROL_FILE), &control).map_err(|error| cannot_write(&control, &error))?;
        sync_directory(&data.join("global"))?;
        put_manifest(data, manifest, |path| give_away(path, self.owner()))?;
        data.parent().map_or(Ok(()), sync_directory)
    }

    /// Removes what was made: directories that were there are emptied.
    pub fn remove(self) {
        for place in &self.destinations {
            // Nothing was in it before. What cannot be removed stays in the user's sight.
            if place.exists {
                empty(&place.directory);
            } else {
                drop(fs::remove_dir_all(&place.directory));
            }
        }
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.layout.data_directory
    }

    /// Where the tablespaces are.
    pub fn tablespaces(&self) -> &[(u32, PathBuf)] {
        &self.places
    }
}

/// Empties a directory that held nothing but what a new file system has.
pub fn empty(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name() == "lost+found" {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            drop(fs::remove_dir_all(&path));
        } else {
            drop(fs::remove_file(&path));
        }
    }
}

/// Writes `backup_manifest` whole: an export without it is not finished.
pub fn put_manifest(
    directory: &Path,
    manifest: &[u8],
    give_away: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let (staged, path) = (directory.join(NEW_MANIFEST), directory.join("backup_manifest"));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(manifest)?;
        file.sync_all()
    };
    write().map_err(|error| cannot_write(&staged, &error))?;
    give_away(&staged)?;
    fs::rename(&staged, &path).map_err(|error| cannot_write(&path, &error))?;
    sync_directory(directory)
}

/// The words of a restore's refusals, where they do not fit.
fn for_export(mut error: Error) -> Error {
    error.message = error.message.replace("refusing to restore into", "refusing to export into");
    error.hints.retain(|hint| !hint.contains("--delta"));
    for hint in &mut error.hints {
        *hint = hint.replace("pgkeep restore …", "pgkeep export …").replace("restore into", "export into");
    }
    error
}
