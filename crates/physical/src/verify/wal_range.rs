//! Whether the WAL that a restore needs is whole: every record from the first segment of a range to the range's end.
//!
//! Stock has `pg_waldump` read it. Here segments are read on their own, several at a time, and joined afterwards: a record
//! that crosses from one into the next is put together and its checksum compared, and each first record must follow the
//! last one of the segment before.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use pgkeep_format::pg_manifest::ManifestWalRange;
use pgkeep_format::wal::{Fragment, FragmentError, LongHeader, WholeRecord, header_of};
use pgkeep_format::{Lsn, WalSegmentName, WalSegmentSize};
use pgkeep_tool::{Result, system_text};

use super::Check;
use super::wal_segment::SegmentFacts;

/// Segments at one time may have so many bytes in all, unless one alone has more.
const MEMORY: u64 = 128 << 20;

/// The facts about a segment, or why there are none.
pub(super) type Facts = std::result::Result<SegmentFacts, String>;

impl Check<'_> {
    /// Checks the ranges of the manifest with segments from a directory.
    pub(super) fn check_wal_directory(&self, directory: &Path) -> Result<()> {
        for range in &self.table.wal_ranges {
            self.report_range(range, self.check_range(range, directory))?;
        }
        Ok(())
    }

    /// Reads the segments of a range, several at a time, and joins them.
    fn check_range(&self, range: &ManifestWalRange, directory: &Path) -> std::result::Result<(), String> {
        let header = any_header(directory)?;
        self.check_system_identifier(header.system_identifier)?;
        let size = header.segment_size;
        let mut walk = RangeWalk::new(range, size);
        let share = usize::try_from(MEMORY / size.bytes()).unwrap_or(usize::MAX);
        let width = self.request.jobs.min(share).max(1);
        let mut rest = segments_of(range, size);
        loop {
            let names: Vec<WalSegmentName> = rest.by_ref().take(width).collect();
            if names.is_empty() {
                return Ok(());
            }
            for (name, facts) in names.iter().zip(read_segments(directory, &names, size)) {
                let facts = facts?;
                self.check_system_identifier(facts.system_identifier)?;
                walk.step(*name, &facts)?;
            }
        }
    }

    /// That WAL is of the cluster of the manifest, where that says which it is.
    pub(super) fn check_system_identifier(&self, found: u64) -> std::result::Result<(), String> {
        match self.table.system_identifier {
            Some(expected) if expected != found => Err(format!(
                "WAL is of the cluster with system identifier {found}, but the manifest's is {expected}"
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn report_range(
        &self,
        range: &ManifestWalRange,
        checked: std::result::Result<(), String>,
    ) -> Result<()> {
        match checked {
            Ok(()) => Ok(()),
            Err(detail) => {
                let text = format!("WAL parsing failed for timeline {}", range.timeline);
                self.findings.add_with_detail(&text, Some(&detail))
            }
        }
    }
}

/// The facts about some segments, read at the same time.
fn read_segments(directory: &Path, names: &[WalSegmentName], size: WalSegmentSize) -> Vec<Facts> {
    let read = |name: &WalSegmentName| read_segment(directory, *name, size);
    std::thread::scope(|scope| {
        let threads: Vec<_> = names.iter().map(|name| scope.spawn(move || read(name))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Facts>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// The segments that hold a range.
pub(super) fn segments_of(
    range: &ManifestWalRange,
    size: WalSegmentSize,
) -> impl Iterator<Item = WalSegmentName> + use<> {
    let timeline = range.timeline;
    let last = size.segment_before(range.end).max(size.segment_at(range.start));
    let mut next = Some(size.segment_at(range.start));
    std::iter::from_fn(move || {
        let number = next.filter(|number| *number <= last)?;
        next = (number < last).then(|| number.next());
        Some(WalSegmentName { timeline, number })
    })
}

/// Whether a segment holds a part of a range.
pub(super) fn is_in_range(name: WalSegmentName, range: &ManifestWalRange, size: WalSegmentSize) -> bool {
    let last = size.segment_before(range.end).max(size.segment_at(range.start));
    name.timeline == range.timeline && (size.segment_at(range.start)..=last).contains(&name.number)
}

/// Judges a range by the facts about its segments, given in order.
pub(super) struct RangeWalk {
    size: WalSegmentSize,
    end: Lsn,
    is_first: bool,
    /// A record that has begun.
    open: Option<Fragment>,
    last_record: Option<Lsn>,
}

impl RangeWalk {
    pub(super) fn new(range: &ManifestWalRange, size: WalSegmentSize) -> RangeWalk {
        RangeWalk { size, end: range.end, is_first: true, open: None, last_record: None }
    }

    /// Takes the next segment.
    pub(super) fn step(
        &mut self,
        name: WalSegmentName,
        facts: &SegmentFacts,
    ) -> std::result::Result<(), String> {
        let begin = self.size.start_of(name.number);
        if !std::mem::take(&mut self.is_first) {
            self.join(begin, facts)?;
        }
        let wanted = self.end.min(self.size.end_of(name.number));
        if facts.valid_until < wanted {
            let found = facts.stopped_by.as_deref().unwrap_or("the end of the file");
            return Err(format!("no valid WAL record at {}: {found}", facts.valid_until));
        }
        if let Some(tail) = &facts.tail {
            self.open = Some(tail.clone());
        }
        self.last_record = facts.last_record.or(self.last_record);
        Ok(())
    }

    /// Joins the beginning of a segment with the end of the one before.
    fn join(&mut self, begin: Lsn, facts: &SegmentFacts) -> std::result::Result<(), String> {
        match (self.open.take(), &facts.head) {
            (Some(_), None) if facts.overwrites_previous => {}
            (Some(open), None) => return Err(format!("the WAL record at {} is not continued", open.start)),
            (None, Some(_)) => {
                return Err(format!("a WAL record is continued at {begin} that has no beginning"));
            }
            (None, None) => {}
            (Some(open), Some(head)) => {
                let joined = open.join(head).map_err(|error| error.to_string())?;
                if joined.is_complete() {
                    match WholeRecord::from_fragment(joined, facts.version) {
                        // A record that large is not kept; its pieces have the right lengths.
                        Ok(_) | Err(FragmentError::TooLarge { .. }) => {}
                        Err(error) => return Err(error.to_string()),
                    }
                } else {
                    self.open = Some(joined);
                }
            }
        }
        match (self.last_record, facts.first_link) {
            (Some(last), Some(link)) if last != link && !facts.overwrites_previous => {
                Err(format!("the first WAL record after {begin} follows {link}, not {last}"))
            }
            _ => Ok(()),
        }
    }
}

/// The header of any segment in a directory, which tells the size of all.
fn any_header(directory: &Path) -> std::result::Result<LongHeader, String> {
    let shown = directory.display();
    let entries = super::directory::sorted_entries(directory)
        .map_err(|error| format!("could not open directory \"{shown}\": {}", system_text(&error)))?;
    let mut reason = None;
    for name in entries.iter().filter_map(|name| name.to_str()).filter(|name| is_segment_name(name)) {
        let mut bytes = Vec::new();
        let read = File::open(directory.join(name)).and_then(|file| file.take(64).read_to_end(&mut bytes));
        match read
            .map_err(|error| system_text(&error))
            .and_then(|_| header_of(&bytes).map_err(|error| error.to_string()))
        {
            Ok(header) => return Ok(header),
            Err(error) => reason = Some(format!("could not read file \"{name}\": {error}")),
        }
    }
    Err(reason.unwrap_or_else(|| format!("could not find any WAL file in \"{shown}\"")))
}

/// Whether that is how segments are called.
pub(super) fn is_segment_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

fn read_segment(directory: &Path, name: WalSegmentName, size: WalSegmentSize) -> Facts {
    let file_name = name.file_name(size);
    let failed = |error: &dyn std::fmt::Display| format!("could not read file \"{file_name}\": {error}");
    let file = File::open(directory.join(&file_name)).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            format!("could not find file \"{file_name}\"")
        } else {
            failed(&system_text(&error))
        }
    })?;
    let mut bytes = Vec::with_capacity(usize::try_from(size.bytes()).unwrap_or_default());
    file.take(size.bytes() + 1).read_to_end(&mut bytes).map_err(|error| failed(&system_text(&error)))?;
    SegmentFacts::read(&bytes, name, size).map_err(|error| failed(&error))
}
