//! Restoring onto the directory of a former cluster: what is already right stays.
//!
//! `former` judges whether the directories may be reused, `in_use` whether a server runs on them, `survey` finds (and
//! removes) what does not belong, `reuse` gives files that stay their length and mode,
//! `compare` finds the blocks that differ; the writing is that of any restore.
//!
//! Order, so that a kill at any point leaves a directory on which no server starts and which the next run finishes: the
//! marker is put in place, the former control file is renamed away and that made durable, and only then the first byte
//! changes. The new control file is renamed into place when all else is durable, and the marker goes last.

pub mod compare;
pub mod former;
pub mod in_use;
pub mod reuse;
pub mod survey;
mod wal_directory;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_repo::{ManifestHeader, Stanza};

use self::former::{Contents, Former};
use self::survey::{Ground, Survey};
use super::destination::{self, Destination};
use super::layout::Layout;
use super::plan::RestorePlan;
use super::write::cannot_write;
use super::{DeltaReport, marker};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Where the former control file waits for its removal.
const FORMER_CONTROL_FILE: &str = "global/pg_control.pgkeep-old";
/// Names of ours beside the control file, which an interrupted restore may leave.
const CONTROL_FILE_LEFTOVERS: [&str; 2] = [FORMER_CONTROL_FILE, super::finish::NEW_CONTROL_FILE];

/// What any restore writes itself, whatever was there: not worth a word.
const OWN_FILES: [&str; 3] = ["backup_label", "tablespace_map", "recovery.signal"];

/// What a delta restore will do beyond what any restore does.
#[derive(Debug)]
pub struct DeltaPlan {
    /// What is in the data directory.
    pub former: Former,
    /// What was found there.
    pub survey: Survey,
    /// This server's own directory in every tablespace.
    pub version_directory: String,
}

/// This server's own directory in every tablespace.
pub fn version_directory(header: &ManifestHeader) -> String {
    format!("PG_{}_{}", header.major, header.catalog_version)
}

/// Refuses directories that a running server uses.
pub fn refuse_used(destination: &Destination, layout: &Layout, version: &str) -> Result<()> {
    let servers = in_use::servers();
    in_use::refuse_used(&servers, &destination.directory)?;
    let wal = destination.directory.join("pg_wal");
    if fs::symlink_metadata(&wal).is_ok_and(|metadata| metadata.is_symlink()) {
        in_use::refuse_used(&servers, &wal)?;
    }
    for space in &layout.tablespaces {
        in_use::refuse_used(&servers, &space.target.join(version))?;
    }
    Ok(())
}

/// Looks at everything in the former directories, and refuses what cannot be.
pub fn survey_places(
    ground: Ground<'_>,
    destinations: &[&Destination],
    spare_bytes: u64,
    cancel: &Cancel,
) -> Result<Survey> {
    let found = survey::survey(ground, false, cancel)?;
    refuse_too_large(&found, destinations, spare_bytes)?;
    Ok(found)
}

/// Refuses where the file systems cannot take what they will hold more than now.
fn refuse_too_large(found: &Survey, destinations: &[&Destination], spare_bytes: u64) -> Result<()> {
    for (device, (growth, path)) in &found.growth {
        let home = destinations.first().is_some_and(|home| home.device == *device);
        let need = growth.saturating_add_unsigned(if home { spare_bytes } else { 0 });
        let free = match destinations.iter().find(|place| place.device == *device) {
            Some(place) => place.free_bytes,
            None => destination::free_bytes(path)?,
        };
        if u64::try_from(need).unwrap_or(0) > free {
            return Err(Error::new(
                ErrorKind::Space,
                format!("`{}` has too little free space", path.display()),
            )
            .cause(format!("{need} bytes are needed beyond what is reused, {free} are free"))
            .hint("free some space, or restore to another file system"));
        }
    }
    Ok(())
}

/// The ground of a plan.
fn ground<'a>(plan: &'a RestorePlan, delta: &'a DeltaPlan, repository: Option<&Path>) -> Ground<'a> {
    Ground {
        reader: &plan.reader,
        layout: &plan.layout,
        owner: plan.destination.owner,
        version_directory: &delta.version_directory,
        repository: repository.and_then(in_use::identity),
    }
}

/// The root of a local repository.
pub fn repository_root(stanza: &Stanza) -> Option<PathBuf> {
    stanza.repository().store().local_root().map(Path::to_owned)
}

/// Makes sure that no server starts any more: the former control file goes. Nothing else was changed before.
pub fn disarm(plan: &RestorePlan, delta: &DeltaPlan) -> Result<()> {
    let directory = &plan.destination.directory;
    let (path, away) = (directory.join(CONTROL_FILE_PATH), directory.join(FORMER_CONTROL_FILE));
    let global = directory.join("global");
    if !fs::symlink_metadata(&global).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    match fs::rename(&path, &away) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_write(&path, &error)),
    }
    marker::sync_directory(&global)?;
    // A server may have been started since the plan was made; from here on none can be.
    let used = in_use::refuse_locked(directory)
        .and_then(|()| refuse_used(&plan.destination, &plan.layout, &delta.version_directory));
    used.or_else(|error| {
        fs::rename(&away, &path).map_err(|error| cannot_write(&path, &error))?;
        marker::sync_directory(&global)?;
        if !matches!(delta.former.contents, Contents::Unfinished(_)) {
            marker::remove(directory)?;
        }
        Err(error)
    })
}

/// Removes what does not belong.
pub fn clear(plan: &RestorePlan, delta: &DeltaPlan, cancel: &Cancel) -> Result<Survey> {
    let root = repository_root(plan.reader.stanza());
    survey::survey(ground(plan, delta, root.as_deref()), true, cancel)
}

impl DeltaPlan {
    /// What will be done, in lines.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(named) = &self.former.named {
            lines.push(format!("`{}` is a link to the data directory", named.display()));
        }
        lines.push(format!(
            "{}: what is right stays; {} files, {} directories, {} links do not belong and are removed",
            self.found(),
            self.survey.removed_files,
            self.survey.removed_directories,
            self.survey.removed_links
        ));
        lines
    }

    fn found(&self) -> &'static str {
        match self.former.contents {
            Contents::Nothing => "nothing there",
            Contents::Cluster(_) => "former cluster",
            Contents::Unfinished(_) => "unfinished restore",
        }
    }

    /// What would be done.
    pub fn report(&self) -> DeltaReport {
        DeltaReport {
            found: self.found().replace(' ', "_"),
            local_bytes: self.survey.compare_bytes,
            kept_blocks: 0,
            fetched_blocks: 0,
            zeroed_blocks: 0,
            removed_files: self.survey.removed_files,
            removed_directories: self.survey.removed_directories,
            removed_links: self.survey.removed_links,
            removed: self.survey.removed.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::destination::Owner;

    #[test]
    fn only_what_grows_needs_space() {
        let place = |device, free_bytes| Destination {
            directory: "/data".into(),
            exists: true,
            owner: Owner::Caller,
            free_bytes,
            device,
        };
        let (home, space) = (place(1, 1000), place(2, 500));
        let judge = |one: i64, two: i64| {
            let growth = [(1, (one, PathBuf::from("/data"))), (2, (two, PathBuf::from("/space")))].into();
            let found = Survey { growth, ..Survey::default() };
            refuse_too_large(&found, &[&home, &space], 100).map_err(|error| error.kind)
        };
        assert_eq!(judge(900, 500), Ok(()));
        assert_eq!(judge(901, 0), Err(ErrorKind::Space), "replay needs some as well");
        assert_eq!(judge(-5000, 501), Err(ErrorKind::Space), "what one frees another cannot use");
        assert_eq!(judge(-5000, -1), Ok(()));
    }
}
