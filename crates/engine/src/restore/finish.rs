//! What makes a written directory a cluster: links, label, recovery settings, durability, and the control file last.
//!
//! Order: everything is written, then every file system that was touched is synced once, then the control file is written
//! under another name, synced, renamed and its directory synced. Killed before the rename, the directory does not start.
//! The marker of an unfinished restore goes after that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_format::tablespace_map;

use super::RestoreRequest;
use super::marker;
use super::plan::RestorePlan;
use super::recovery_settings::replace_settings;
use super::write::{cannot_write, give_away};
use crate::error::{Error, ErrorKind, Result};

/// Where the control file is written first.
pub const NEW_CONTROL_FILE: &str = "global/pg_control.pgkeep-new";

/// Finishes what `write` began.
pub fn finish(plan: &RestorePlan, request: &RestoreRequest, control_file: (Vec<u8>, u32)) -> Result<()> {
    let header = plan.reader.header();
    let directory = &plan.layout.data_directory;
    link_tablespaces(plan)?;
    put(plan, "backup_label", header.backup_label.as_bytes(), 0o600)?;
    if !plan.layout.tablespaces.is_empty() {
        let places: Vec<(u32, String)> = plan
            .layout
            .tablespaces
            .iter()
            .map(|space| (space.oid, space.target.to_string_lossy().into_owned()))
            .collect();
        put(plan, "tablespace_map", tablespace_map::write(&places).as_bytes(), 0o600)?;
    }
    put_wal_tail(plan)?;
    let auto = directory.join("postgresql.auto.conf");
    let before = match fs::read_to_string(&auto) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(cannot_write(&auto, &error)),
    };
    let heading = format!("added by pgkeep restore of backup {}", header.id);
    put(plan, "postgresql.auto.conf", replace_settings(&before, &plan.settings, &heading).as_bytes(), 0o600)?;
    put(plan, if request.standby { "standby.signal" } else { "recovery.signal" }, b"", 0o600)?;
    if let Some(target) = &request.external_config {
        put_external(plan, target)?;
    }
    sync_file_systems(plan, request)?;
    put_control_file(plan, control_file)
}

/// Files that recovery must not find twice are replaced as a whole.
fn put(plan: &RestorePlan, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let path = plan.layout.data_directory.join(name);
    let mode = if plan.reader.header().directory_mode & 0o070 != 0 { mode | 0o040 } else { mode };
    // What is there under that name goes, and is not written through: it may be a link.
    let replace = || -> io::Result<()> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        file.write_all(bytes)
    };
    replace().map_err(|error| cannot_write(&path, &error))?;
    give_away(&path, plan.destination.owner)
}

/// The server makes these links from `tablespace_map` as well; here they are for whoever looks before it starts.
fn link_tablespaces(plan: &RestorePlan) -> Result<()> {
    let links = plan.layout.data_directory.join("pg_tblspc");
    for space in &plan.layout.tablespaces {
        let link = links.join(space.oid.to_string());
        std::os::unix::fs::symlink(&space.target, &link).map_err(|error| cannot_write(&link, &error))?;
        give_away(&link, plan.destination.owner)?;
    }
    Ok(())
}

/// The unfinished last segment of a standby's backup goes where the server looks when the archive has no better one.
fn put_wal_tail(plan: &RestorePlan) -> Result<()> {
    let header = plan.reader.header();
    for name in &header.wal_tail {
        let file = plan.reader.wal_tail(name)?;
        // Its own name ends in `.partial`, which recovery never reads.
        let segment = name.trim_end_matches(".partial");
        let mut bytes = file.bytes;
        // The server reads whole segments only; zeros end its WAL as they end any segment that is being written.
        bytes.resize(header.wal_segment_size as usize, 0);
        put(plan, &format!("pg_wal/{segment}"), &bytes, 0o600)?;
    }
    Ok(())
}

fn put_external(plan: &RestorePlan, target: &Path) -> Result<()> {
    for file in &plan.reader.header().external_files {
        let relative = Path::new(file.path.trim_start_matches('/'));
        let escapes = relative.components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if escapes {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the backup names a configuration file `{}`", file.path),
            )
            .hint("restore without `--external-config`"));
        }
        let path = target.join(relative);
        let parent = path.parent().unwrap_or(target);
        fs::create_dir_all(parent).map_err(|error| cannot_write(parent, &error))?;
        if plan.delta.is_some() && fs::read(&path).is_ok_and(|there| there == file.contents) {
            // An interrupted restore was here before.
            continue;
        }
        put_new(plan, &path, &file.contents)?;
    }
    Ok(())
}

/// A file that must not be there yet, and is there whole or not at all.
fn put_new(plan: &RestorePlan, path: &Path, contents: &[u8]) -> Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".pgkeep-new");
    let staged = PathBuf::from(staged);
    let write = || {
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&staged)?;
        out.write_all(contents)?;
        out.sync_all()
    };
    write().map_err(|error| cannot_write(&staged, &error))?;
    give_away(&staged, plan.destination.owner)?;
    // Fails where something is, as a rename does not.
    let linked = fs::hard_link(&staged, path);
    fs::remove_file(&staged).map_err(|error| cannot_write(&staged, &error))?;
    linked.map_err(|error| cannot_write(path, &error))
}

/// One sync per file system instead of one per file: the wait for the disk is the same, the number of waits is not.
fn sync_file_systems(plan: &RestorePlan, request: &RestoreRequest) -> Result<()> {
    let mut done = Vec::new();
    let mut places: Vec<PathBuf> = vec![plan.destination.directory.clone()];
    places.extend(plan.tablespaces.iter().map(|place| place.directory.clone()));
    // It may be a link to another disk.
    places.extend([plan.layout.data_directory.join("pg_wal")].into_iter().filter(|path| path.exists()));
    places.extend(request.external_config.clone().filter(|path| path.exists()));
    for path in places {
        let directory = File::open(&path).map_err(|error| cannot_write(&path, &error))?;
        let device = {
            use std::os::unix::fs::MetadataExt;
            directory.metadata().map_err(|error| cannot_write(&path, &error))?.dev()
        };
        if !done.contains(&device) {
            rustix::fs::syncfs(&directory).map_err(|error| cannot_write(&path, &error.into()))?;
            done.push(device);
        }
    }
    Ok(())
}

fn put_control_file(plan: &RestorePlan, (bytes, mode): (Vec<u8>, u32)) -> Result<()> {
    let directory = &plan.layout.data_directory;
    let path = directory.join(CONTROL_FILE_PATH);
    let temporary = directory.join(NEW_CONTROL_FILE);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o7777)
        .open(&temporary)
        .map_err(|error| cannot_write(&temporary, &error))?;
    file.write_all(&bytes).map_err(|error| cannot_write(&temporary, &error))?;
    give_away(&temporary, plan.destination.owner)?;
    file.sync_all().map_err(|error| cannot_write(&temporary, &error))?;
    fs::rename(&temporary, &path).map_err(|error| cannot_write(&path, &error))?;
    marker::sync_directory(&directory.join("global"))?;
    marker::remove(directory)?;
    marker::sync_directory(directory)?;
    // The directory's own entry in its parent.
    match directory.parent() {
        Some(parent) => marker::sync_directory(parent),
        None => Ok(()),
    }
}
