//! A stanza and archived WAL that no server made, for tests that ask for nothing else of them.

use std::path::Path;

use jiff::Timestamp;
use pgkeep_format::wal::{BlockSummary, SegmentSummary, SummaryFlags, WalVersion};
use pgkeep_format::{Lsn, TimelineId, WalFileName, WalSegmentSize};
use pgkeep_repo::{ClusterRecord, Compression, Repository, Stanza, Store, WalArchive, WalFacts, WalObject};

/// The cluster's system identifier.
pub(crate) const SYSTEM: u64 = 77;
/// Bytes of its WAL segments.
pub(crate) const SEGMENT_BYTES: u64 = 1 << 20;

/// The size of its WAL segments.
pub(crate) fn segment_size() -> WalSegmentSize {
    WalSegmentSize::try_from(SEGMENT_BYTES as u32).unwrap()
}

/// The stanza `main` of a cluster of 18, in a new repository `repo` below the folder.
pub(crate) fn stanza(folder: &Path) -> Stanza {
    let location = folder.join("repo").display().to_string();
    let repository =
        Repository::create(Store::open_or_create(&location).unwrap(), Timestamp::UNIX_EPOCH).unwrap();
    let record = ClusterRecord {
        sequence: 1,
        system_identifier: SYSTEM,
        major: 18,
        catalog_version: 1,
        wal_segment_size: SEGMENT_BYTES as u32,
        block_size: 8192,
        created: Timestamp::UNIX_EPOCH,
    };
    repository.create_stanza("main", &record).unwrap()
}

/// The summary of a whole segment that follows the one before, and changes these blocks.
pub(crate) fn summary(timeline: TimelineId, start: Lsn, blocks: BlockSummary) -> SegmentSummary {
    let end = Lsn(start.0 + SEGMENT_BYTES);
    SegmentSummary {
        system_identifier: SYSTEM,
        timeline,
        segment_size: segment_size(),
        start,
        end,
        version: WalVersion::V18,
        first_previous: Some(Lsn(start.0.saturating_sub(64))),
        last_record: Some(Lsn(end.0 - 64)),
        records: 9,
        commits: 0,
        aborts: 0,
        first_commit_time: None,
        last_commit_time: None,
        head: None,
        tail: None,
        blocks,
        restore_points: Vec::new(),
        flags: SummaryFlags::default(),
        end_of_wal: None,
    }
}

/// Stores a WAL file whose header says what the summary says.
pub(crate) fn put_wal(
    archive: &WalArchive,
    name: WalFileName,
    summary: &SegmentSummary,
    bytes: &[u8],
    encoded: &[u8],
) {
    let facts = WalFacts {
        system_identifier: SYSTEM,
        timeline: summary.timeline,
        segment_size: segment_size(),
        page_magic: 0xD118,
        start: summary.start,
        end: summary.end,
        first_commit_time: None,
        last_commit_time: None,
        commits: 0,
        records: 0,
        flags: 0,
    };
    let object = WalObject { name, facts, bytes, summary: encoded, compression: Compression::None };
    archive.put(&object).unwrap();
}
