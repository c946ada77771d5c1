//! `import`: a base backup that somebody else made becomes a backup of the repository, and WAL that somebody else kept comes
//! into its archive.
//!
//! Order: what the source says of itself is read and compared with the stanza; its WAL is stored, and every segment that the
//! backup needs is proved to be in the repository; then its files are read once, proved by its `backup_manifest` as they
//! pass, and handled as those of a streamed backup; the manifest is written last. A source that is damaged leaves nothing
//! that is listed.

mod chain;
mod compressed;
mod directory;
mod facts;
mod proof;
mod request;
mod source;
mod store;
mod tar_set;
mod wal;

pub use request::{ImportReport, ImportRequest, RefusedWal, WalImportRequest, WalReport};

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgkeep_format::pg_manifest::PgManifest;
use pgkeep_format::tar::{TarEntry, TarEntryKind};
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::{ClusterRecord, Stanza, WalArchive};

use self::chain::Chain;
use self::facts::{SourceFacts, TELLING_FILES};
use self::proof::Proof;
use self::source::{Part, Piece, Source};
use self::wal::WalIntake;
use crate::archive_index::ArchiveIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::init::{ServerIdentity, open_or_create_repository, open_or_create_stanza};
use crate::wal::push::newest_record;

/// Segments that are named when several are missing.
const MISSING_SHOWN: usize = 10;

/// A source that was looked at, and fits.
struct Checked<'a> {
    source: &'a Source,
    facts: SourceFacts,
    /// By which the files are proved while they are read; none where they were before, or are not.
    manifest: Option<PgManifest>,
    /// Whether all files are those that a manifest lists.
    is_proved: bool,
    stanza: Stanza,
    record: ClusterRecord,
    archive: WalArchive,
    /// Where the backup becomes consistent.
    stop: Lsn,
    /// The timeline of the end.
    stop_timeline: TimelineId,
    /// The unfinished last segment.
    tail: Option<(WalSegmentName, Vec<u8>)>,
    wal: WalReport,
}

/// Imports a base backup.
pub fn import(request: &ImportRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<ImportReport> {
    let (path, older) = request.sources.split_last().ok_or_else(|| {
        Error::new(ErrorKind::Usage, "no backup was named").hint("name the directory of one")
    })?;
    let source = Source::open(path)?;
    observer.event(Event::Note { text: format!("importing {}", source.describe()) });
    observer.event(Event::StepStarted { step: Step::Prove, total_bytes: None });
    let source = if older.is_empty() { source } else { linked(source, older, request, cancel)? };
    let checked = check(request, &source, !older.is_empty(), cancel)?;
    observer.event(Event::StepFinished { step: Step::Prove });
    store::store(checked, request, observer, cancel)
}

/// Imports WAL alone.
pub fn import_wal(request: &WalImportRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<WalReport> {
    let stanza = request.location.open_stanza()?;
    let record = newest_record(&stanza)?;
    let mut intake = WalIntake::new(stanza.wal(record), record, request.compression, false)?;
    for path in &request.sources {
        observer.event(Event::Note { text: format!("WAL of `{}`", path.display()) });
        intake.take_folder(path, cancel)?;
    }
    Ok(intake.report())
}

/// Proves every backup of a chain, and that each builds on the one before; the newest, which stands for all, is given back.
fn linked(newest: Source, older: &[PathBuf], request: &ImportRequest, cancel: &Cancel) -> Result<Source> {
    let mut sources = older.iter().map(|path| Source::open(path)).collect::<Result<Vec<Source>>>()?;
    sources.push(newest);
    let mut before: Option<SourceFacts> = None;
    for source in &sources {
        let facts = survey(source, cancel)?;
        facts.refuse_broken_chain(source, before.as_ref())?;
        match facts::read_manifest(source)? {
            Some(manifest) => {
                facts.refuse_other_manifest(&manifest)?;
                prove(source, manifest, cancel).map_err(|error| error.while_doing(source.describe()))?;
            }
            None if request.without_manifest => {}
            None => return Err(no_manifest(source)),
        }
        before = Some(facts);
    }
    let mut directories = Vec::new();
    for source in sources {
        match source {
            Source::Directory(directory) => directories.push(directory),
            Source::Tar(_) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{} cannot be part of a chain", source.describe()),
                )
                .hint("unpack each backup of the chain into a directory")
                .hint("or put them together first: `pgkeep pg_combinebackup FULL INCR -o DIR`"));
            }
        }
    }
    let (Some(facts), Some(newest)) = (before, directories.pop()) else {
        return Err(
            Error::new(ErrorKind::Internal, "an empty chain").hint("this is a defect of pgkeep: report it")
        );
    };
    directories.reverse();
    Ok(Source::Directory(newest.building_on(Chain {
        older: directories,
        block_size: facts.control.block_size,
        segment_blocks: facts.control.relation_segment_blocks,
    })))
}

/// Reads a backup for nothing but its checksums.
fn prove(source: &Source, manifest: PgManifest, cancel: &Cancel) -> Result<()> {
    let mut proof = Proof::new(Some(manifest));
    let is_listed =
        |entry: &TarEntry| entry.kind == TarEntryKind::File && !entry.path.starts_with(b"pg_wal/");
    source.read(Part::All, &is_listed, cancel, &mut |piece| match piece {
        Piece::Entry(entry) => proof.begin(entry),
        Piece::Data(data) => {
            proof.bytes(data);
            Ok(())
        }
        Piece::End => proof.end(),
    })?;
    proof.finish()
}

fn no_manifest(source: &Source) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} has no `backup_manifest`", source.describe()))
        .cause("without it nobody can tell whether its files are all there, and as they were")
        .hint("to take it as it is: `--without-manifest`; then prove it with `pgkeep verify --restore`")
        .hint("pg_basebackup writes one since version 13, unless told `--no-manifest`")
}

/// Everything that can be known before the files are read.
fn check<'a>(
    request: &ImportRequest,
    source: &'a Source,
    is_chain: bool,
    cancel: &Cancel,
) -> Result<Checked<'a>> {
    let manifest = facts::read_manifest(source)?;
    if manifest.is_none() && !request.without_manifest {
        return Err(no_manifest(source));
    }
    let mut facts = survey(source, cancel)?;
    if let Some(manifest) = &manifest {
        facts.refuse_other_manifest(manifest)?;
    }
    if is_chain {
        facts.forget_what_it_builds_on();
    }
    if facts.label.incremental_from.is_some() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} is an incremental backup", source.describe()),
        )
        .hint("name those that it builds on before it, oldest first: `pgkeep import FULL … INCR`"));
    }
    let stanza = open_stanza(request, &facts)?;
    let record = *newest_record(&stanza)?;
    facts.refuse_other_cluster(source, &record, stanza.name().as_str())?;
    let archive = stanza.wal(&record);
    let mut intake = WalIntake::new(archive.clone(), &record, request.compression, request.dry_run)?;
    let by_manifest = manifest.as_ref().and_then(facts::last_range);
    if let Some(range) = &by_manifest {
        let number = archive.segment_size().segment_before(range.end);
        intake.want_tail(WalSegmentName { timeline: range.timeline, number });
    }
    take_own_wal(source, &mut intake, cancel)?;
    request.wal.iter().try_for_each(|folder| intake.take_folder(folder, cancel))?;
    let (stop, stop_timeline) = match by_manifest {
        Some(range) => (range.end, range.timeline),
        None => (end_without_manifest(source, &facts, &archive)?, facts.label.start_timeline),
    };
    let mut checked = Checked {
        source,
        facts,
        is_proved: manifest.is_some(),
        // Of a chain, every backup was compared with its own.
        manifest: manifest.filter(|_| !is_chain),
        stanza,
        record,
        archive,
        stop,
        stop_timeline,
        tail: intake.tail(),
        wal: intake.report(),
    };
    if !request.dry_run {
        checked.prove_wal()?;
    }
    Ok(checked)
}

fn open_stanza(request: &ImportRequest, facts: &SourceFacts) -> Result<Stanza> {
    if request.create_stanza && !request.dry_run {
        let (repository, _) = open_or_create_repository(&request.location)?;
        let control = &facts.control;
        let identity = ServerIdentity {
            system_identifier: control.system_identifier,
            catalog_version: control.catalog_version,
            version: facts.major * 10_000,
            wal_segment_size: control.wal_segment_size,
            block_size: control.block_size,
        };
        open_or_create_stanza(&repository, &request.location, &identity)?;
    }
    request
        .location
        .open_stanza()
        .map_err(|error| error.hint("`--init` makes it for the cluster of this backup, without a server"))
}

/// Reads the few files that say what the backup is.
fn survey(source: &Source, cancel: &Cancel) -> Result<SourceFacts> {
    let mut files: BTreeMap<String, (Vec<u8>, u32)> = BTreeMap::new();
    let mut current: Option<(String, u32, Vec<u8>)> = None;
    let is_telling = |entry: &TarEntry| {
        entry.kind == TarEntryKind::File && TELLING_FILES.iter().any(|name| entry.path == name.as_bytes())
    };
    source.read(Part::Base, &is_telling, cancel, &mut |piece| {
        match piece {
            Piece::Entry(entry) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                if entry.size > facts::largest_telling(&path) {
                    return Err(facts::damaged(&path, &format!("it has {} bytes", entry.size)));
                }
                current = Some((path, entry.mode, Vec::new()));
            }
            Piece::Data(data) => {
                if let Some((_, _, bytes)) = &mut current {
                    bytes.extend_from_slice(data);
                }
            }
            Piece::End => {
                if let Some((path, mode, bytes)) = current.take() {
                    files.insert(path, (bytes, mode));
                }
            }
        }
        Ok(())
    })?;
    SourceFacts::read(source, files)
}

/// The WAL that lies in the backup.
fn take_own_wal(source: &Source, intake: &mut WalIntake, cancel: &Cancel) -> Result<()> {
    let is_wal = |entry: &TarEntry| {
        let name = entry.path.strip_prefix(b"pg_wal/").and_then(|name| std::str::from_utf8(name).ok());
        entry.kind == TarEntryKind::File && name.is_some_and(|name| !name.contains('/'))
    };
    let mut current: Option<(String, WalFileName, Vec<u8>)> = None;
    source.read(Part::Wal, &is_wal, cancel, &mut |piece| {
        match piece {
            Piece::Entry(entry) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                let name = path.strip_prefix("pg_wal/").unwrap_or_default();
                current = None;
                match intake.parse(name) {
                    Some(name) if entry.size <= intake.largest(name) => {
                        current = Some((path, name, Vec::new()));
                    }
                    Some(_) => intake.refuse(&path, "it has more bytes than such a file can have"),
                    None => intake.count_other(),
                }
            }
            Piece::Data(data) => {
                if let Some((_, _, bytes)) = &mut current {
                    bytes.extend_from_slice(data);
                }
            }
            Piece::End => {
                if let Some((path, name, bytes)) = current.take() {
                    intake.take(&path, name, &bytes)?;
                }
            }
        }
        Ok(())
    })
}

/// Where a backup ends that has no manifest: the note that the server leaves in its archive says it, and Barman's does.
fn end_without_manifest(source: &Source, facts: &SourceFacts, archive: &WalArchive) -> Result<Lsn> {
    let label = &facts.label;
    let size = archive.segment_size();
    let segment = WalSegmentName::at(label.start_timeline, label.start_lsn, size);
    // Less than a segment, which has at most 1 GiB.
    let offset = size.offset_of(label.start_lsn) as u32;
    let note = WalFileName::BackupHistory { segment, offset };
    if let Some(file) = archive.get(note)? {
        let text = String::from_utf8_lossy(&file.bytes).into_owned();
        let stop = text.lines().find_map(|line| line.strip_prefix("STOP WAL LOCATION: "));
        if let Some(stop) = stop.and_then(|stop| stop.split(' ').next()?.parse().ok()) {
            return Ok(stop);
        }
    }
    if let Some(stop) = facts::end_by_note(source)? {
        return Ok(stop);
    }
    Err(Error::new(ErrorKind::NotFound, "nobody says where this backup ends")
        .cause(format!(
            "neither `backup_manifest` nor `{}` nor Barman's `backup.info` is there",
            note.file_name(size)
        ))
        .hint("name the archive in which that file is: `--wal DIR`"))
}

impl Checked<'_> {
    /// Every byte from the start to the end must be in the repository, or in the tail.
    fn prove_wal(&mut self) -> Result<()> {
        let size = self.archive.segment_size();
        let (start, stop) = (self.facts.label.start_lsn, self.stop);
        if stop <= start {
            return Err(Error::new(ErrorKind::Corrupt, "the backup ends before it begins")
                .cause(format!("it begins at {start} and ends at {stop}"))
                .hint("the backup is damaged: import another one"));
        }
        let last = WalSegmentName { timeline: self.stop_timeline, number: size.segment_before(stop) };
        // Whole in the archive is better than unfinished here.
        let has_whole = self.archive.header(WalFileName::Segment(last))?.is_some();
        if has_whole || self.tail.as_ref().is_some_and(|(segment, _)| *segment != last) {
            self.tail = None;
        }
        if let Some((segment, bytes)) = &self.tail {
            self.prove_tail(*segment, bytes)?;
        }
        let mut index = ArchiveIndex::load(&self.archive)?;
        if let Some((segment, _)) = &self.tail {
            index = index.with_segment(*segment);
        }
        let path = index.path_to(self.stop_timeline);
        let missing = index.missing(start, stop, &path, MISSING_SHOWN);
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = missing.iter().map(|segment| segment.file_name(size)).collect();
        let mut error = Error::new(ErrorKind::WalGap, "WAL is missing without which the backup is of no use")
            .cause(format!("it needs all from {start} to {stop}; missing: {}", names.join(", ")));
        for refused in self.wal.refused.iter().take(3) {
            error = error.cause(format!("`{}`: {}", refused.file, refused.why));
        }
        Err(error
            .hint("name the folder in which it is: `--wal DIR`; several may be given")
            .hint("or let the server's archiver bring it first"))
    }

    /// The unfinished segment must reach the end of the backup.
    fn prove_tail(&self, segment: WalSegmentName, bytes: &[u8]) -> Result<()> {
        let object =
            crate::wal::wal_tail_object(&self.record, segment, bytes, pgkeep_repo::Compression::None)?;
        if object.facts.end >= self.stop {
            return Ok(());
        }
        Err(Error::new(ErrorKind::WalGap, "WAL is missing without which the backup is of no use")
            .cause(format!(
                "segment {} ends at {}, the backup at {}",
                segment.file_name(self.archive.segment_size()),
                object.facts.end,
                self.stop
            ))
            .hint("name a folder with the whole segment: `--wal DIR`"))
    }

    /// First and last segment that the backup needs.
    fn wal_names(&self) -> (String, String) {
        let size = self.archive.segment_size();
        let name = |timeline, number: SegmentNumber| WalSegmentName { timeline, number }.file_name(size);
        (
            name(self.facts.label.start_timeline, size.segment_at(self.facts.label.start_lsn)),
            name(self.stop_timeline, size.segment_before(self.stop)),
        )
    }
}
