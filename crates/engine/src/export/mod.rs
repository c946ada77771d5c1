//! `export`: a backup out of the repository, as `pg_basebackup` would have written it: a data directory, or tar files, with
//! the WAL that makes it consistent and a `backup_manifest` that `pg_verifybackup` agrees with.
//!
//! The repository is read in the order of the manifest by several threads (`contents`); one thread writes and computes the
//! checksums. Nothing half-made is left under a final name: tar files are written beside their names, the control file of a
//! data directory and `backup_manifest` come last, and an export that fails removes what it made. Layout and order are those
//! of `backup/basebackup.c` and `pg_basebackup.c`, 13 to 18.

mod contents;
mod manifest;
mod plain;
mod request;
mod tar_files;
mod target;
mod wal;

pub use request::{ExportFormat, ExportReport, ExportRequest, ExportWal};

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_format::tablespace_map;
use pgkeep_repo::{BackupReader, FileEntry, FileKind, ManifestHeader, Stanza};

use self::contents::{Content, in_order};
use self::manifest::ManifestLines;
use self::target::{Member, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::restore::MARKER;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Writes a backup out.
pub fn export(request: &ExportRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<ExportReport> {
    let stanza = request.location.open_stanza()?;
    let reader = open_backup(&stanza, &request.backup)?;
    let header = reader.header();
    // Proved to be there before anything is written.
    let wal = wal::needed(&stanza, &reader, request)?;
    let target = Target::prepare(request, header)?;
    for (oid, place) in target.tablespaces() {
        observer.event(Event::Note { text: format!("tablespace {oid}: {}", place.display()) });
    }
    for file in &header.external_files {
        observer.event(Event::Note {
            text: format!("`{}` lay outside the data directory and is left out", file.path),
        });
    }
    let export = Export { request, reader: &reader, wal, observer, cancel };
    export.run(target)
}

fn open_backup(stanza: &Stanza, name: &str) -> Result<BackupReader> {
    let ids = stanza.backups()?.into_iter().map(|listing| listing.id).collect();
    Ok(stanza.backup(crate::list::choose(ids, name, stanza.name().as_str())?)?)
}

struct Export<'a> {
    request: &'a ExportRequest,
    reader: &'a BackupReader,
    wal: wal::NeededWal,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
}

impl Export<'_> {
    fn run(&self, mut target: Target) -> Result<ExportReport> {
        let total_bytes = Some(self.reader.header().totals.size_bytes + self.wal.bytes());
        self.observer.event(Event::StepStarted { step: Step::Write, total_bytes });
        match self.fill(&mut target) {
            Ok(read_bytes) => Ok(self.report(&target, read_bytes)),
            Err(error) => {
                target.remove();
                Err(error)
            }
        }
    }

    fn fill(&self, target: &mut Target) -> Result<u64> {
        let header = self.reader.header();
        let mut writing = Writing {
            lines: ManifestLines::new(self.request.checksums),
            target,
            observer: self.observer,
            done_bytes: 0,
            told: Instant::now(),
        };
        let started = header.start_time.as_second();
        let text = |path: &'static str, text: &str| {
            (Member::file(path.as_bytes(), 0o600, started, text.len() as u64), text.to_owned())
        };
        let (label, label_text) = text("backup_label", &header.backup_label);
        writing.whole(&label, label_text.as_bytes())?;
        // Who unpacks tar files needs it; a data directory has its links.
        if self.request.format == ExportFormat::Tar && !header.tablespaces.is_empty() {
            let map = self.tablespace_map_text(writing.target);
            writing.whole(&text("tablespace_map", &map).0, map.as_bytes())?;
        }
        let mut control = None;
        let is_wanted =
            |entry: &FileEntry| is_exported(entry) && entry.meta.path != CONTROL_FILE_PATH.as_bytes();
        let mut read_bytes =
            in_order(self.reader, self.request.jobs, self.cancel, is_wanted, &mut |content| {
                writing.take(content)
            })?;
        let is_control = |entry: &FileEntry| entry.meta.path == CONTROL_FILE_PATH.as_bytes();
        let mut bytes = Vec::new();
        read_bytes += in_order(self.reader, 1, self.cancel, is_control, &mut |content| {
            match content {
                Content::Entry(entry) => control = Some(entry.clone()),
                Content::Bytes(part) => bytes.extend_from_slice(part),
                Content::Zeros(count) => bytes.resize(bytes.len() + usize::try_from(count).unwrap_or(0), 0),
            }
            if bytes.len() > 1 << 20 { Err(too_large_control_file()) } else { Ok(()) }
        })?;
        writing.target.link_tablespaces(started)?;
        let control = control.ok_or_else(|| no_control_file(header))?;
        writing.whole(&Member::of(&control), &bytes)?;
        self.wal.write(self.reader, &mut writing, self.cancel)?;
        let lines = writing.lines;
        self.observer.event(Event::StepFinished { step: Step::Write });
        self.observer.event(Event::StepStarted { step: Step::Sync, total_bytes: None });
        target.finish(&lines.text(header, self.wal.ranges()))?;
        self.observer.event(Event::StepFinished { step: Step::Sync });
        Ok(read_bytes)
    }

    /// What the server sent; where tablespaces are to go elsewhere, that.
    fn tablespace_map_text(&self, target: &Target) -> String {
        match &self.reader.header().tablespace_map {
            Some(text) if self.request.tablespace_map.is_empty() => text.clone(),
            _ => {
                let place = |(oid, place): &(u32, PathBuf)| (*oid, place.to_string_lossy().into_owned());
                tablespace_map::write(&target.tablespaces().iter().map(place).collect::<Vec<_>>())
            }
        }
    }

    fn report(&self, target: &Target, read_bytes: u64) -> ExportReport {
        let header = self.reader.header();
        let (wal_first, wal_last) = self.wal.names();
        ExportReport {
            backup: header.id.to_string(),
            destination: target.directory().to_owned(),
            format: self.request.format,
            archives: target.archives(),
            files: header.totals.files,
            size_bytes: header.totals.size_bytes,
            read_bytes,
            written_bytes: target.written_bytes(),
            wal_first,
            wal_last,
            tablespaces: target.tablespaces().to_vec(),
            next_steps: self.next_steps(target),
        }
    }

    fn next_steps(&self, target: &Target) -> Vec<String> {
        let directory = target.directory().display();
        let mut steps = Vec::new();
        match (self.request.format, self.reader.header().major) {
            (ExportFormat::Plain, _) => steps.push(format!("check it with `pg_verifybackup {directory}`")),
            (ExportFormat::Tar, 18..) => {
                steps.push(format!("check it with `pg_verifybackup -n {directory}`"))
            }
            (ExportFormat::Tar, _) => {}
        }
        if self.request.wal == ExportWal::None {
            steps.push(
                "there is no WAL in it: give the server a `restore_command` and a `recovery.signal` before it starts"
                    .to_owned(),
            );
        }
        steps.push(match self.request.format {
            ExportFormat::Plain => format!("start a server: `pg_ctl -D {directory} start`"),
            ExportFormat::Tar => {
                "unpack base.tar into a new directory, each other tar file where its tablespace goes"
                    .to_owned()
            }
        });
        steps
    }
}

/// The writing side: a member at a time, into the target and the manifest.
pub(crate) struct Writing<'a> {
    lines: ManifestLines,
    target: &'a mut Target,
    observer: &'a dyn Observer,
    done_bytes: u64,
    told: Instant,
}

impl Writing<'_> {
    fn take(&mut self, content: Content<'_>) -> Result<()> {
        match content {
            Content::Entry(entry) => {
                let member = Member::of(entry);
                match &entry.kind {
                    FileKind::Directory => self.target.directory_entry(&member),
                    // Tablespaces are linked by what the header says of them; a cluster has no other links.
                    FileKind::Symlink { .. } => Ok(()),
                    FileKind::File { .. } => {
                        self.lines.begin(&member);
                        self.target.begin(&member)?;
                        self.tell(0);
                        Ok(())
                    }
                }
            }
            Content::Bytes(bytes) => {
                self.lines.bytes(bytes);
                self.target.bytes(bytes)?;
                self.tell(bytes.len() as u64);
                Ok(())
            }
            Content::Zeros(count) => {
                self.lines.zeros(count);
                self.target.zeros(count)?;
                self.tell(count);
                Ok(())
            }
        }
    }

    /// A whole file at once.
    fn whole(&mut self, member: &Member, bytes: &[u8]) -> Result<()> {
        self.lines.begin(member);
        self.target.begin(member)?;
        self.lines.bytes(bytes);
        self.target.bytes(bytes)?;
        self.tell(bytes.len() as u64);
        Ok(())
    }

    fn tell(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        if self.told.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told = Instant::now();
        self.observer.event(Event::Progress { step: Step::Write, done_bytes: self.done_bytes });
    }
}

/// The note of an unfinished restore belongs to nobody's backup.
fn is_exported(entry: &FileEntry) -> bool {
    entry.meta.path != MARKER.as_bytes()
}

fn no_control_file(header: &ManifestHeader) -> Error {
    Error::new(ErrorKind::Corrupt, format!("backup {} holds no control file", header.id))
        .hint("export another backup: `pgkeep list` shows them")
}

fn too_large_control_file() -> Error {
    Error::new(ErrorKind::Corrupt, format!("`{CONTROL_FILE_PATH}` of the backup is far too large"))
        .hint("export another backup: `pgkeep list` shows them")
}
