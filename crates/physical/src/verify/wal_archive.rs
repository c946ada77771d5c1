//! WAL in the archives of a backup in tar format, in whatever order it comes: in `pg_wal.tar` or in `base.tar`.
//!
//! Each segment that a range needs is read when its last byte has come; only the facts about it stay.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pgkeep_format::pg_manifest::ManifestWalRange;
use pgkeep_format::wal::header_of;
use pgkeep_format::{WalSegmentName, WalSegmentSize};
use pgkeep_tool::Result;

use super::wal_range::{Facts, RangeWalk, is_in_range, is_segment_name, segments_of};
use super::wal_segment::SegmentFacts;
use super::{Check, VerifyRequest};
use crate::manifest_table::ManifestTable;

/// The largest segment that a server can have.
const LARGEST: u64 = 1 << 30;

/// What was found of the WAL that is needed.
pub(super) struct ArchivedWal {
    /// Empty when no WAL is to be read.
    ranges: Vec<ManifestWalRange>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    size: Option<WalSegmentSize>,
    segments: BTreeMap<String, Facts>,
}

/// A segment of which the bytes come.
pub(super) struct SegmentGatherer {
    name: String,
    bytes: Vec<u8>,
}

impl SegmentGatherer {
    pub(super) fn take(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }
}

impl ArchivedWal {
    /// What the request wants to be read from archives.
    pub(super) fn wanted(table: &ManifestTable, request: &VerifyRequest) -> ArchivedWal {
        let is_wanted = request.parse_wal && request.wal_directory.is_none();
        let ranges = if is_wanted { table.wal_ranges.clone() } else { Vec::new() };
        ArchivedWal { ranges, found: Mutex::default() }
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Gathers the bytes of a file in `pg_wal` if it is a segment that is needed.
    pub(super) fn gatherer(&self, name: &[u8], size: u64) -> Option<SegmentGatherer> {
        let name = std::str::from_utf8(name).ok().filter(|name| is_segment_name(name))?;
        let segment_size = u32::try_from(size).ok().and_then(|size| WalSegmentSize::try_from(size).ok())?;
        let wanted = WalSegmentName::parse(name, segment_size)?;
        let is_needed = self.ranges.iter().any(|range| is_in_range(wanted, range, segment_size));
        (is_needed && size <= LARGEST).then(|| SegmentGatherer { name: name.to_owned(), bytes: Vec::new() })
    }

    /// Takes a segment of which all bytes have come.
    pub(super) fn put(&self, segment: SegmentGatherer) {
        let SegmentGatherer { name, bytes } = segment;
        let failed = |error: &dyn std::fmt::Display| format!("could not read file \"{name}\": {error}");
        let mut size = None;
        let facts = header_of(&bytes).map_err(|error| failed(&error)).and_then(|header| {
            size = Some(header.segment_size);
            let segment = WalSegmentName::parse(&name, header.segment_size)
                .ok_or_else(|| failed(&"no segment of that size has such a name"))?;
            SegmentFacts::read(&bytes, segment, header.segment_size).map_err(|error| failed(&error))
        });
        let mut found = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        found.size = found.size.or(size);
        found.segments.insert(name, facts);
    }
}

impl Check<'_> {
    /// Checks the ranges of the manifest with what the archives held.
    pub(super) fn check_archived_wal(&self, wal: &ArchivedWal) -> Result<()> {
        let found = wal.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for range in &wal.ranges {
            self.report_range(range, self.check_archived_range(range, &found))?;
        }
        Ok(())
    }

    fn check_archived_range(
        &self,
        range: &ManifestWalRange,
        found: &Found,
    ) -> std::result::Result<(), String> {
        let damaged = found.segments.values().find_map(|facts| facts.as_ref().err());
        let Some(size) = found.size else {
            return Err(damaged.cloned().unwrap_or_else(|| "could not find any WAL file".to_owned()));
        };
        let mut walk = RangeWalk::new(range, size);
        for name in segments_of(range, size) {
            let file_name = name.file_name(size);
            let facts = found
                .segments
                .get(&file_name)
                .ok_or_else(|| format!("could not find file \"{file_name}\""))?
                .as_ref()
                .map_err(Clone::clone)?;
            self.check_system_identifier(facts.system_identifier)?;
            walk.step(name, facts)?;
        }
        Ok(())
    }
}
