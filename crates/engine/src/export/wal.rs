//! The WAL of an export: every segment from the start of the backup to its end, by the names that the backup's timeline
//! gives them, and the history of that timeline.
//!
//! A backup that a standby gave ends within a segment, of which the backup itself keeps the beginning; a whole one in the
//! archive is better. Beside each file goes its `.done`, so that a server that archives does not offer it again.

use pgkeep_format::pg_manifest::ManifestWalRange;
use pgkeep_format::{TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{BackupReader, Stanza, WalArchive};

use super::target::Member;
use super::{ExportRequest, ExportWal, Writing};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Segments, and where they are.
#[derive(Debug)]
pub struct NeededWal {
    archive: WalArchive,
    size: WalSegmentSize,
    segments: Vec<WalSegmentName>,
    history: Option<(TimelineId, Vec<u8>)>,
    range: ManifestWalRange,
    modified: i64,
}

/// Finds the WAL that the backup needs; with `--wal none` there is nothing to be found.
///
/// # Errors
/// [`ErrorKind::WalGap`] where a segment is missing.
pub fn needed(stanza: &Stanza, reader: &BackupReader, request: &ExportRequest) -> Result<NeededWal> {
    let header = reader.header();
    let record =
        stanza.records().iter().find(|record| record.sequence == header.record).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the stanza has no cluster record {}", header.record))
                .hint("restore `history/` of this stanza from a copy of the repository")
        })?;
    let archive = stanza.wal(record);
    let size = archive.segment_size();
    let range = ManifestWalRange { timeline: header.timeline, start: header.start_lsn, end: header.stop_lsn };
    let modified = header.stop_time.as_second();
    let mut wal = NeededWal { archive, size, segments: Vec::new(), history: None, range, modified };
    if request.wal == ExportWal::None {
        return Ok(wal);
    }
    let timeline = header.timeline;
    let (first, last) = (size.segment_at(header.start_lsn), size.segment_before(header.stop_lsn));
    for number in first.0..=last.0 {
        let name = WalSegmentName { timeline, number: pgkeep_format::SegmentNumber(number) };
        let is_there = wal.archive.header(WalFileName::Segment(name))?.is_some()
            || tail_of(reader, &name.file_name(size)).is_some();
        if !is_there {
            return Err(missing(&name.file_name(size), &header.id.to_string()));
        }
        wal.segments.push(name);
    }
    if timeline != TimelineId::FIRST {
        wal.history = wal.archive.history(timeline)?.map(|bytes| (timeline, bytes));
    }
    Ok(wal)
}

impl NeededWal {
    /// Bytes that will be written.
    pub fn bytes(&self) -> u64 {
        self.segments.len() as u64 * self.size.bytes()
    }

    /// The ranges for the manifest.
    pub fn ranges(&self) -> Vec<ManifestWalRange> {
        vec![self.range]
    }

    /// First and last segment.
    pub fn names(&self) -> (Option<String>, Option<String>) {
        let name = |segment: Option<&WalSegmentName>| segment.map(|segment| segment.file_name(self.size));
        (name(self.segments.first()), name(self.segments.last()))
    }

    /// Writes the files.
    pub fn write(&self, reader: &BackupReader, writing: &mut Writing<'_>, cancel: &Cancel) -> Result<()> {
        if let Some((timeline, bytes)) = &self.history {
            let name = WalFileName::TimelineHistory(*timeline).file_name(self.size);
            self.put(&name, bytes, writing)?;
        }
        for segment in &self.segments {
            cancel.check()?;
            let name = segment.file_name(self.size);
            let found = match self.archive.get(WalFileName::Segment(*segment))? {
                Some(file) => Some(file),
                None => tail_of(reader, &name).map(|tail| reader.wal_tail(&tail)).transpose()?,
            };
            let mut bytes = found.ok_or_else(|| missing(&name, &reader.header().id.to_string()))?.bytes;
            // The server reads whole segments only; zeros end its WAL as they end any segment that is being written.
            bytes.resize(usize::try_from(self.size.bytes()).unwrap_or(0), 0);
            self.put(&name, &bytes, writing)?;
        }
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8], writing: &mut Writing<'_>) -> Result<()> {
        let member =
            |path: String, size: usize| Member::file(path.as_bytes(), 0o600, self.modified, size as u64);
        writing.whole(&member(format!("pg_wal/{name}"), bytes.len()), bytes)?;
        writing.whole(&member(format!("pg_wal/archive_status/{name}.done"), 0), &[])
    }
}

/// The name under which the backup itself keeps a segment.
fn tail_of(reader: &BackupReader, segment: &str) -> Option<String> {
    reader.header().wal_tail.iter().find(|name| name.trim_end_matches(".partial") == segment).cloned()
}

fn missing(name: &str, backup: &str) -> Error {
    Error::new(ErrorKind::WalGap, format!("WAL that backup {backup} needs is not in the archive"))
        .cause(format!("segment {name} is missing"))
        .hint("export another backup: `pgkeep list` shows them")
        .hint("or export it without WAL, for a server that gets it elsewhere: `--wal none`")
}
