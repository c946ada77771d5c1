//! Shared by the integration tests: a repository in a temporary directory, and backups of made-up files.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgkeep_format::{Lsn, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::*;

pub const BLOCK: usize = 8192;

pub fn now() -> Timestamp {
    "2026-11-22T09:30:00Z".parse().unwrap()
}

pub fn cluster() -> ClusterRecord {
    ClusterRecord {
        sequence: 0,
        system_identifier: 7_440_000_000_000_000_001,
        major: 17,
        catalog_version: 202_406_281,
        wal_segment_size: 1 << 20,
        block_size: BLOCK as u32,
        created: now(),
    }
}

pub fn lease() -> LeaseInfo {
    LeaseInfo { verb: "backup".into(), host: "host".into(), pid: 1, program: "test".into() }
}

pub struct Place {
    pub directory: tempfile::TempDir,
    pub location: String,
}

impl Place {
    pub fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let location = directory.path().join("repo").to_str().unwrap().to_owned();
        Place { directory, location }
    }

    pub fn store(&self) -> Store {
        Store::open_or_create(&self.location).unwrap()
    }

    pub fn repository(&self) -> Repository {
        Repository::create(self.store(), now()).unwrap()
    }

    pub fn stanza(&self) -> Stanza {
        self.repository().create_stanza("main", &cluster()).unwrap()
    }

    pub fn path(&self, key: &str) -> std::path::PathBuf {
        std::path::Path::new(&self.location).join(key)
    }
}

/// Bytes that follow from a seed: compressible in part.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = if state & 3 == 0 { state } else { state & 0xFF };
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(length);
    out
}

pub type Contents = BTreeMap<String, Vec<u8>>;

/// Stores files the way a backup does: blocks of one file in frames of `frame_blocks`, zero blocks nowhere.
pub fn write_files(
    writer: &mut BackupWriter,
    key: &DigestKey,
    files: &Contents,
    compression: Compression,
    frame_blocks: usize,
) {
    try_write_files(writer, key, files, compression, frame_blocks).unwrap();
}

pub fn try_write_files(
    writer: &mut BackupWriter,
    key: &DigestKey,
    files: &Contents,
    compression: Compression,
    frame_blocks: usize,
) -> Result<()> {
    let mut encoder = BlockEncoder::new(compression, key.clone(), BLOCK as u32);
    for (path, bytes) in files {
        let mut padded = bytes.clone();
        padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let mut map = BlockMapBuilder::new((padded.len() / BLOCK) as u32);
        let blocks: Vec<&[u8]> = padded.chunks(BLOCK).collect();
        let mut at = 0;
        while at < blocks.len() {
            if is_zero_block(blocks[at]) {
                map.put_zero(at as u32, 1, encoder.zero_digest());
                at += 1;
                continue;
            }
            let count = blocks[at..].iter().take(frame_blocks).take_while(|b| !is_zero_block(b)).count();
            let frame = encoder.encode(&padded[at * BLOCK..(at + count) * BLOCK]);
            let digests = frame.digests.clone();
            let place = writer.append(frame)?;
            map.put_run(at as u32, &digests, place, 0);
            at += count;
        }
        let meta = FileMeta {
            path: path.clone().into_bytes(),
            mode: 0o600,
            mtime: 1_700_000_000,
            size: bytes.len() as u64,
        };
        writer.add_file(meta, map)?;
    }
    Ok(())
}

pub fn header() -> ManifestHeader {
    ManifestHeader {
        system_identifier: cluster().system_identifier,
        major: 17,
        source: "local".into(),
        start_lsn: Lsn(0x100_0028),
        stop_lsn: Lsn(0x200_0000),
        start_time: now(),
        stop_time: now(),
        backup_label: "START WAL LOCATION: 0/1000028\n".into(),
        ..ManifestHeader::default()
    }
}

/// Reads every file back and compares it, and its digests, with what was stored.
pub fn compare(reader: &BackupReader, files: &Contents, key: &DigestKey) {
    let mut seen = 0;
    for entry in reader.files() {
        let entry = entry.unwrap();
        if !matches!(entry.kind, FileKind::File { .. }) {
            continue;
        }
        seen += 1;
        let bytes = read_file(reader, &entry).unwrap();
        assert!(bytes == files[&entry.path_text()], "{} differs", entry.path_text());
        let mut padded = bytes;
        padded.resize(padded.len().next_multiple_of(BLOCK), 0);
        let expected: Vec<BlockDigest> = padded.chunks(BLOCK).map(|b| key.block(b)).collect();
        let map = reader.map(&entry).unwrap();
        assert_eq!(map.digests().unwrap(), expected);
        compare_leaves(reader, &entry, &map);
    }
    assert_eq!(seen, files.len());
}

/// Leaf by leaf a map says the same as at once.
fn compare_leaves(reader: &BackupReader, entry: &FileEntry, map: &BlockMap) {
    let (mut runs, mut digests) = (Vec::new(), Vec::new());
    let leaves = reader.map_leaves(entry).unwrap();
    for leaf in leaves.iter().flat_map(MapLeaves::iter) {
        let leaf = leaf.unwrap();
        assert_eq!(leaf.first_block as usize, digests.len());
        runs.extend(leaf.runs);
        digests.extend(leaf.digests);
    }
    assert_eq!(runs, map.runs());
    assert_eq!(digests, map.digests().unwrap());
}

pub fn read_file(reader: &BackupReader, entry: &FileEntry) -> Result<Vec<u8>> {
    let map = reader.map(entry)?;
    let mut bytes = vec![0; map.block_count() as usize * BLOCK];
    for run in map.runs() {
        if let RunTarget::Frame { frame, position } = run.target {
            let raw = reader.frames().read(frame)?;
            let (to, from) = (run.first_block as usize * BLOCK, position as usize * BLOCK);
            let length = run.count as usize * BLOCK;
            bytes[to..to + length].copy_from_slice(&raw[from..from + length]);
        }
    }
    bytes.truncate(map.length() as usize);
    Ok(bytes)
}

pub fn segment_name(number: u64) -> WalFileName {
    let timeline = TimelineId::FIRST;
    WalFileName::Segment(WalSegmentName { timeline, number: pgkeep_format::SegmentNumber(number) })
}

pub fn facts(number: u64) -> WalFacts {
    let segment_size = WalSegmentSize::try_from(1 << 20).unwrap();
    WalFacts {
        system_identifier: cluster().system_identifier,
        timeline: TimelineId::FIRST,
        segment_size,
        page_magic: 0xD116,
        start: segment_size.start_of(pgkeep_format::SegmentNumber(number)),
        end: segment_size.end_of(pgkeep_format::SegmentNumber(number)),
        first_commit_time: Some(1),
        last_commit_time: Some(2),
        commits: 3,
        records: 4,
        flags: 5,
    }
}

pub fn segment(number: u64, bytes: &[u8]) -> WalObject<'_> {
    WalObject {
        name: segment_name(number),
        facts: facts(number),
        bytes,
        summary: b"summary",
        compression: Compression::default(),
    }
}
