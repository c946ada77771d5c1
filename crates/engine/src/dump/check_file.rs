//! `dump verify --file`: an archive that is no part of a repository, ours or another program's.

use std::path::{Path, PathBuf};

use pgkeep_logical::restore::{Archive, Input, verify_archive};
use pgkeep_tool::ToolError;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};

/// What is wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ArchiveDamage {
    /// The entry of the table of contents, in words; none for the index as a whole.
    pub entry: Option<String>,
    /// What.
    pub what: String,
}

/// What was found about an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ArchiveReport {
    /// The file or directory.
    pub file: PathBuf,
    /// Whether there is no damage.
    pub ok: bool,
    /// Entries whose data was decoded.
    pub entries: u64,
    /// Of these, tables.
    pub tables: u64,
    /// Rows of these, as far as they are known.
    pub rows: u64,
    /// Large objects that were decoded.
    pub large_objects: u64,
    /// Bytes that were decoded.
    pub size_bytes: u64,
    /// Entries that were compared with the archive's index: none of an archive that pgkeep did not write.
    pub compared: u64,
    /// What is damaged.
    pub damage: Vec<ArchiveDamage>,
}

/// Decodes all that an archive holds, and compares it with its index.
pub fn verify_file(path: &Path, observer: &dyn Observer, cancel: &Cancel) -> Result<ArchiveReport> {
    let failed = |error: ToolError| {
        let doing = format!("cannot verify the archive `{}`", path.display());
        let hint =
            error.hint.unwrap_or_else(|| "name an archive of pg_dump: a file or a directory".to_owned());
        Error::new(ErrorKind::Corrupt, error.message).hint(hint).while_doing(doing)
    };
    if !path.exists() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no archive `{}`", path.display()))
            .hint("correct the path"));
    }
    let mut archive = Archive::open(Input::Path(path.to_owned()), None).map_err(failed)?;
    observer.event(Event::StepStarted { step: Step::Verify, total_bytes: None });
    let mut done_bytes = 0;
    let verified = verify_archive(&mut archive, &mut |bytes| {
        done_bytes += bytes;
        observer.event(Event::Progress { step: Step::Verify, done_bytes });
        if cancel.is_cancelled() { Err(ToolError::new("interrupted")) } else { Ok(()) }
    });
    cancel.check()?;
    let found = verified.map_err(failed)?;
    observer.event(Event::StepFinished { step: Step::Verify });
    Ok(ArchiveReport {
        file: path.to_owned(),
        ok: found.damage.is_empty(),
        entries: found.entries,
        tables: found.tables,
        rows: found.rows,
        large_objects: found.large_objects,
        size_bytes: found.bytes,
        compared: found.indexed,
        damage: found.damage.into_iter().map(|(entry, what)| ArchiveDamage { entry, what }).collect(),
    })
}
