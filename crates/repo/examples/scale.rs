//! What very large clusters cost in the repository layer: a full backup and an incremental one without a change, of made-up
//! files. Prints seconds, sizes and the peak of memory; nothing is asserted.
//!
//! `cargo run --release -p pgkeep-repo --example scale -- files 1000000`: so many files of one block each.
//! `cargo run --release -p pgkeep-repo --example scale -- segments 102400`: so many sparse files of 1 GiB (here 100 TiB).

use std::collections::BTreeSet;
use std::time::Instant;

use jiff::Timestamp;
use pgkeep_repo::{
    BackupWriter, BlockEncoder, BlockMapBuilder, ClusterRecord, Compression, FileMeta, LeaseInfo,
    ManifestHeader, Repository, Result, Stanza, Store,
};

const BLOCK: u32 = 8192;
const SEGMENT_BLOCKS: u32 = 131_072;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, count] = arguments.as_slice() else {
        eprintln!("usage: scale files|segments COUNT");
        std::process::exit(2);
    };
    let count: u32 = count.parse().unwrap_or(1000);
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
    let location = directory.path().join("repo").display().to_string();
    let stanza = Repository::create(Store::open_or_create(&location)?, Timestamp::now())?
        .create_stanza("main", &cluster())?;
    let began = Instant::now();
    let mut writer = begin(&stanza)?;
    if shape == "files" {
        small_files(&stanza, &mut writer, count)?
    } else {
        segments(&stanza, &mut writer, count)?
    }
    let full = writer.commit(header())?;
    tell("full", began, full.totals.stored_bytes, &location, &full.id.to_string());
    let began = Instant::now();
    let parent = stanza.backup(full.id)?;
    let mut writer = begin(&stanza)?;
    writer.build_on(&parent, &BTreeSet::new())?;
    for entry in parent.files() {
        let entry = entry?;
        writer.keep_file(entry.meta.clone(), &entry)?;
    }
    let next = writer.commit(header())?;
    tell("incremental, nothing changed", began, next.totals.stored_bytes, &location, &next.id.to_string());
    Ok(())
}

fn begin(stanza: &Stanza) -> Result<BackupWriter> {
    let lease = LeaseInfo {
        verb: "backup".into(),
        host: "scale".into(),
        pid: std::process::id(),
        program: "scale".into(),
    };
    stanza.begin_backup(Timestamp::now(), lease)
}

/// One block each, sixteen to a frame.
fn small_files(stanza: &Stanza, writer: &mut BackupWriter, count: u32) -> Result<()> {
    let mut encoder =
        BlockEncoder::new(Compression::default(), stanza.repository().digest_key().clone(), BLOCK);
    for first in (0..count).step_by(16) {
        let numbers = first..(first + 16).min(count);
        let mut blocks = Vec::new();
        for number in numbers.clone() {
            let line = format!("the contents of file {number}\n");
            blocks.extend(line.bytes().cycle().take(BLOCK as usize));
        }
        let frame = encoder.encode(&blocks);
        let digests = frame.digests.clone();
        let place = writer.append(frame)?;
        for (number, (digest, position)) in numbers.zip(digests.iter().zip(0..)) {
            let mut map = BlockMapBuilder::new(1);
            map.put_run(0, std::slice::from_ref(digest), place, position);
            writer.add_file(meta(number, u64::from(BLOCK)), map)?;
        }
    }
    Ok(())
}

/// Zeros: maps of the full size, and no blocks.
fn segments(stanza: &Stanza, writer: &mut BackupWriter, count: u32) -> Result<()> {
    let zero = stanza.repository().digest_key().zero_block(BLOCK);
    for number in 0..count {
        let mut map = BlockMapBuilder::new(SEGMENT_BLOCKS);
        map.put_zero(0, SEGMENT_BLOCKS, zero);
        writer.add_file(meta(number, u64::from(SEGMENT_BLOCKS) * u64::from(BLOCK)), map)?;
    }
    Ok(())
}

fn meta(number: u32, size: u64) -> FileMeta {
    let path = format!("base/{}/{}", 16_384 + number / 2000, 20_000 + number).into_bytes();
    FileMeta { path, mode: 0o600, mtime: 1_795_000_000, size }
}

fn cluster() -> ClusterRecord {
    ClusterRecord {
        sequence: 0,
        system_identifier: 7_440_000_000_000_000_001,
        major: 18,
        catalog_version: 202_506_291,
        wal_segment_size: 16 << 20,
        block_size: BLOCK,
        created: Timestamp::UNIX_EPOCH,
    }
}

fn header() -> ManifestHeader {
    ManifestHeader { block_size: BLOCK, ..ManifestHeader::default() }
}

fn tell(step: &str, began: Instant, stored: u64, location: &str, id: &str) {
    let manifest = std::fs::metadata(format!("{location}/main/backup/{id}/manifest")).map_or(0, |m| m.len());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim();
    println!(
        "{step}: {:.1} s, {stored} bytes in packs, {manifest} bytes of manifest, peak so far {peak}",
        began.elapsed().as_secs_f64()
    );
}
