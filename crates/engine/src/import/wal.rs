//! WAL of others into the archive: out of the backup itself, and out of folders, compressed or not, as archivers and
//! `pg_receivewal` leave them.
//!
//! A segment is taken when it is what its name says, of this cluster, and whole. One whose WAL ends before its time, without
//! a switch to the next, may have been cut off while it was streamed: the server's archiver may bring the whole one under the
//! same name, and must not find another there. Such a segment is only kept with a backup that needs its beginning.

use std::io::Read;
use std::path::{Path, PathBuf};

use pgkeep_format::{WalFileName, WalSegmentName};
use pgkeep_repo::{ClusterRecord, Compression, WalArchive};

use super::compressed;
use super::directory::{cannot_read, names};
use super::{RefusedWal, WalReport};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;
use crate::wal::PushOutcome;
use crate::wal::segment::{ExpectedCluster, inspect, largest};
use crate::wal::store::{expected_cluster, put_file, put_history};

/// Names that are told of by name; the others are only counted.
const LISTED: usize = 1000;
/// Folders are walked this deep: `wals/<16 digits>/<segment>`, and a few more.
const DEEPEST: usize = 6;

/// Takes WAL files, one after the other.
#[derive(Debug)]
pub struct WalIntake {
    archive: WalArchive,
    record: ClusterRecord,
    cluster: ExpectedCluster,
    compression: Compression,
    /// The unfinished segment to remember, where it comes.
    wanted_tail: Option<WalSegmentName>,
    tail: Option<(WalSegmentName, Vec<u8>)>,
    first: Option<WalSegmentName>,
    last: Option<WalSegmentName>,
    report: WalReport,
    is_dry: bool,
}

impl WalIntake {
    /// Takes the WAL of that cluster; nothing is stored on a dry run.
    pub fn new(
        archive: WalArchive,
        record: &ClusterRecord,
        compression: Compression,
        is_dry: bool,
    ) -> Result<WalIntake> {
        Ok(WalIntake {
            archive,
            record: *record,
            cluster: expected_cluster(record)?,
            compression,
            wanted_tail: None,
            tail: None,
            first: None,
            last: None,
            report: WalReport::default(),
            is_dry,
        })
    }

    /// Remembers the beginning of that segment where it comes unfinished.
    pub fn want_tail(&mut self, segment: WalSegmentName) {
        self.wanted_tail = Some(segment);
    }

    /// The name of a WAL file; none where it is none.
    pub fn parse(&self, name: &str) -> Option<WalFileName> {
        WalFileName::parse(compressed::plain_name(name), self.cluster.segment_size)
    }

    /// The most bytes that a file of that name has.
    pub fn largest(&self, name: WalFileName) -> u64 {
        largest(name, self.cluster.segment_size)
    }

    /// A file that is no WAL.
    pub fn count_other(&mut self) {
        self.report.other_files += 1;
    }

    /// A file that cannot be what its name says.
    pub fn refuse(&mut self, file: &str, why: impl std::fmt::Display) {
        if self.report.refused.len() < LISTED {
            self.report.refused.push(RefusedWal { file: file.to_owned(), why: why.to_string() });
        }
    }

    /// Takes one file. What is wrong with it is told in the report; an error is that of the repository.
    pub fn take(&mut self, file: &str, name: WalFileName, bytes: &[u8]) -> Result<()> {
        let outcome = match name {
            WalFileName::Partial(segment) => return self.unfinished(file, segment, bytes),
            WalFileName::Segment(segment) => match inspect(name, bytes, self.cluster) {
                Ok(inspected) if inspected.early_end().is_some() => {
                    return self.unfinished(file, segment, bytes);
                }
                Ok(_) if self.is_dry => Ok(PushOutcome::Stored),
                Ok(_) => put_file(&self.archive, self.cluster, name, bytes, self.compression)
                    .map(|report| report.outcome),
                Err(error) => Err(error),
            },
            _ if self.is_dry => inspect(name, bytes, self.cluster).map(|_| PushOutcome::Stored),
            WalFileName::TimelineHistory(timeline) => {
                let was_there = self.archive.header(name)?.is_some();
                put_history(&self.archive, &self.record, timeline, bytes)
                    .map(|()| if was_there { PushOutcome::AlreadyThere } else { PushOutcome::Stored })
            }
            WalFileName::BackupHistory { .. } => {
                put_file(&self.archive, self.cluster, name, bytes, self.compression)
                    .map(|report| report.outcome)
            }
        };
        match outcome {
            Ok(PushOutcome::Stored) => {
                self.report.stored += 1;
                self.report.size_bytes += bytes.len() as u64;
                self.note(name);
            }
            Ok(PushOutcome::AlreadyThere) => {
                self.report.already_there += 1;
                self.note(name);
            }
            Err(error) if is_of_the_file(&error) => self.refuse(file, error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn note(&mut self, name: WalFileName) {
        if let WalFileName::Segment(segment) = name {
            let order = |segment: &WalSegmentName| (segment.number, segment.timeline);
            if self.first.is_none_or(|first| order(&segment) < order(&first)) {
                self.first = Some(segment);
            }
            if self.last.is_none_or(|last| order(&segment) > order(&last)) {
                self.last = Some(segment);
            }
        }
    }

    fn unfinished(&mut self, file: &str, segment: WalSegmentName, bytes: &[u8]) -> Result<()> {
        if let Err(error) = inspect(WalFileName::Partial(segment), bytes, self.cluster) {
            self.refuse(file, error);
            return Ok(());
        }
        if self.wanted_tail.is_none_or(|wanted| wanted == segment) {
            let is_newer = self.tail.as_ref().is_none_or(|(known, _)| *known <= segment);
            if is_newer {
                self.tail = Some((segment, bytes.to_vec()));
            }
        }
        if self.report.unfinished.len() < LISTED {
            self.report.unfinished.push(file.to_owned());
        }
        Ok(())
    }

    /// The unfinished segment that was remembered.
    pub fn tail(&mut self) -> Option<(WalSegmentName, Vec<u8>)> {
        self.tail.take()
    }

    /// What became of all files.
    pub fn report(&self) -> WalReport {
        let name = |segment: Option<WalSegmentName>| {
            segment.map(|segment| segment.file_name(self.cluster.segment_size))
        };
        WalReport { first: name(self.first), last: name(self.last), ..self.report.clone() }
    }

    /// Takes everything in a folder, or one file.
    pub fn take_folder(&mut self, path: &Path, cancel: &Cancel) -> Result<()> {
        let metadata = std::fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
        if metadata.is_dir() { self.walk(path, 0, cancel) } else { self.take_path(path) }
    }

    fn walk(&mut self, folder: &Path, depth: usize, cancel: &Cancel) -> Result<()> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for name in names(folder)? {
            cancel.check()?;
            let path = folder.join(&name);
            let metadata = std::fs::symlink_metadata(&path).map_err(|error| cannot_read(&path, &error))?;
            if metadata.is_dir() {
                // Notes of the server's archiver, by the names of the files.
                if name != "archive_status" && name != "summaries" && depth < DEEPEST {
                    folders.push(path);
                }
            } else {
                self.take_path(&path)?;
            }
        }
        folders.iter().try_for_each(|folder| self.walk(folder, depth + 1, cancel))
    }

    fn take_path(&mut self, path: &Path) -> Result<()> {
        let shown = path.display().to_string();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| self.parse(name))
        else {
            self.count_other();
            return Ok(());
        };
        let limit = self.largest(name);
        let mut bytes = Vec::new();
        let read = compressed::open(path).and_then(|input| input.take(limit + 1).read_to_end(&mut bytes));
        match read {
            Ok(_) if bytes.len() as u64 > limit => {
                self.refuse(&shown, "it has more bytes than such a file can have");
                Ok(())
            }
            Ok(_) => self.take(&shown, name, &bytes),
            // One bad file must not keep the others out.
            Err(error) => {
                self.refuse(&shown, error);
                Ok(())
            }
        }
    }
}

/// Whether the file is to blame; else the repository is, and nothing more can be taken.
fn is_of_the_file(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Mismatch | ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Usage)
}
