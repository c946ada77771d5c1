//! How fast frames are encoded, written, read and decoded: `cargo run --release -p pgkeep-repo --example encode_speed [FILE]`.
//!
//! Takes the first 256 MiB of a file (a relation, say), or made-up pages. Quotes CPU time of one thread.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::path::Path;
use std::time::Duration;

use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{
    BackupWriter, BlockEncoder, BlockMapBuilder, ClusterRecord, Compression, DigestKey, FileMeta, FrameRef,
    LeaseInfo, ManifestHeader, Repository, Stanza, Store, WalFacts, WalObject, is_zero_block,
};

const BLOCK: usize = 8192;
const FRAME: usize = 16 * BLOCK;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn rate(what: &str, bytes: usize, since: Duration) {
    let spent = cpu().saturating_sub(since).as_secs_f64();
    println!("{what:<28} {:>8.0} MB/s of cpu", bytes as f64 / 1e6 / spent);
}

/// Pages of rows: a counter, some text, some random bytes.
fn pages() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut out = Vec::with_capacity(128 << 20);
    let words = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"];
    let mut row = 0_u32;
    while out.len() < 128 << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        row += 1;
        out.extend_from_slice(&row.to_le_bytes());
        out.extend_from_slice(&[0, 0, 7, 0, 2, 9, 24, 0]);
        out.extend_from_slice(&state.to_le_bytes());
        for shift in [0, 3, 6, 9, 12] {
            out.extend_from_slice(words[(state >> shift & 7) as usize].as_bytes());
            out.push(b' ');
        }
    }
    out.truncate(128 << 20);
    out
}

fn main() {
    let mut data = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path).expect("the file can be read"),
        None => pages(),
    };
    data.truncate(data.len().min(256 << 20) / FRAME * FRAME);
    println!("{} MB", data.len() / 1_000_000);
    let key = DigestKey::new(&[7; 32]);

    let start = cpu();
    let zeros = data.chunks(BLOCK).filter(|b| is_zero_block(b)).count();
    rate(&format!("zero test ({zeros} blocks)"), data.len(), start);
    let start = cpu();
    let sum = data.chunks(BLOCK).fold(0, |sum, b| sum ^ key.block(b).0[0]);
    rate(&format!("block digests ({sum:02x})"), data.len(), start);

    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Zstd(3)] {
        let mut encoder = BlockEncoder::new(compression, key.clone(), BLOCK as u32);
        let start = cpu();
        let stored: usize = data.chunks(FRAME).map(|blocks| encoder.encode(blocks).bytes.len()).sum();
        let ratio = data.len() as f64 / stored as f64;
        rate(&format!("encode {compression} ({ratio:.2})"), data.len(), start);
    }
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
        whole(&data, compression);
    }
    many_files();
    wal(&data);
}

/// A repository with one stanza, in the folder for temporary files.
fn make_stanza(directory: &Path) -> (String, Stanza) {
    let location = directory.join("repo").display().to_string();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let repository =
        Repository::create(Store::open_or_create(&location).expect("a store"), now).expect("a repository");
    let cluster = ClusterRecord {
        sequence: 1,
        system_identifier: 1,
        major: 17,
        catalog_version: 1,
        wal_segment_size: 16 << 20,
        block_size: BLOCK as u32,
        created: now,
    };
    let stanza = repository.create_stanza("main", &cluster).expect("a stanza");
    (location, stanza)
}

fn begin(stanza: &Stanza) -> BackupWriter {
    let lease = LeaseInfo { verb: "bench".into(), host: String::new(), pid: 0, program: String::new() };
    stanza.begin_backup(jiff::Timestamp::UNIX_EPOCH, lease).expect("a writer")
}

/// What a manifest and the roots of small files cost.
fn many_files() {
    const FILES: u32 = 100_000;
    let directory = tempfile::tempdir().expect("a folder");
    let (_, stanza) = make_stanza(directory.path());
    let mut writer = begin(&stanza);
    let key = stanza.repository().digest_key().clone();
    let mut encoder = BlockEncoder::new(Compression::default(), key, BLOCK as u32);
    let frame = encoder.encode(&vec![1; FRAME]);
    let digests = frame.digests.clone();
    let place = writer.append(frame).expect("a frame");
    let start = cpu();
    for file in 0..FILES {
        let mut map = BlockMapBuilder::new(1);
        let position = file % 16;
        map.put_run(0, &digests[position as usize..][..1], place, position);
        let path = format!("base/{}/{}", 16_384 + file / 1_000, 20_000 + file % 1_000 * 3).into_bytes();
        let mtime = 1_700_000_000 + i64::from(file) * 7_919 % 100_000;
        writer.add_file(FileMeta { path, mode: 0o600, mtime, size: BLOCK as u64 }, map).expect("a file");
    }
    let id = writer.commit(ManifestHeader::default()).expect("a backup").id;
    let spent = cpu().saturating_sub(start);
    let store = stanza.repository().store();
    let size = |name: &str| store.head(&format!("main/backup/{id}/{name}")).expect("a size").unwrap_or(0);
    let each = |bytes: u64| bytes as f64 / f64::from(FILES);
    println!(
        "{FILES} small files: {:.1} bytes of manifest and {:.1} of roots for each; writing took {spent:?} of cpu",
        each(size("manifest")),
        each(size("pack-000001")),
    );
    let start = cpu();
    let count = stanza.backup(id).expect("the backup").files().filter(|file| file.is_ok()).count();
    println!("reading {count} entries took {:?} of cpu", cpu().saturating_sub(start));
}

/// What archiving one segment costs, opening everything anew as `wal push` does.
fn wal(data: &[u8]) {
    let directory = tempfile::tempdir().expect("a folder");
    let (location, _) = make_stanza(directory.path());
    let segment_size = WalSegmentSize::DEFAULT;
    let mut bytes = data.to_vec();
    bytes.resize(16 << 20, 0);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
        let wall = std::time::Instant::now();
        let repository = Repository::open(Store::open(&location).expect("a store")).expect("a repository");
        let stanza = repository.stanza("main").expect("a stanza");
        let opened = wall.elapsed();
        let number = SegmentNumber(compression.to_string().len() as u64);
        let timeline = TimelineId::FIRST;
        let facts = WalFacts {
            system_identifier: 1,
            timeline,
            segment_size,
            page_magic: 0xD116,
            start: segment_size.start_of(number),
            end: segment_size.end_of(number),
            first_commit_time: None,
            last_commit_time: None,
            commits: 0,
            records: 0,
            flags: 0,
        };
        let name = WalFileName::Segment(WalSegmentName { timeline, number });
        let start = cpu();
        let object = WalObject { name, facts, bytes: &bytes, summary: b"", compression };
        stanza.wal(&stanza.records()[0]).put(&object).expect("the segment");
        let spent = cpu().saturating_sub(start);
        println!("wal put {compression}: opened in {opened:?}, {spent:?} of cpu, {:?} wall", wall.elapsed());
    }
}

/// A backup of one file into a repository in the folder for temporary files, and back.
fn whole(data: &[u8], compression: Compression) {
    let directory = tempfile::tempdir().expect("a folder");
    let (_, stanza) = make_stanza(directory.path());
    let mut writer = begin(&stanza);
    let repository = stanza.repository();
    let mut encoder = BlockEncoder::new(compression, repository.digest_key().clone(), BLOCK as u32);
    let frames: Vec<_> = data.chunks(FRAME).map(|blocks| encoder.encode(blocks)).collect();
    let start = cpu();
    let wall = std::time::Instant::now();
    let mut map = BlockMapBuilder::new((data.len() / BLOCK) as u32);
    let mut places: Vec<FrameRef> = Vec::new();
    for (frame, index) in frames.into_iter().zip(0_u32..) {
        let digests = frame.digests.clone();
        let place = writer.append(frame).expect("a frame");
        map.put_run(index * 16, &digests, place, 0);
        places.push(place);
    }
    let meta = FileMeta { path: b"file".to_vec(), mode: 0o600, mtime: 0, size: data.len() as u64 };
    writer.add_file(meta, map).expect("a file");
    let id = writer.commit(ManifestHeader::default()).expect("a backup").id;
    rate(&format!("write {compression}, {:?} wall", wall.elapsed()), data.len(), start);

    let reader = stanza.backup(id).expect("the backup");
    let fetcher = reader.frames();
    let start = cpu();
    let mut bytes = 0;
    for group in places.chunks(16) {
        bytes +=
            fetcher.fetch(group).expect("frames").iter().map(|s| s.frame.raw_len as usize).sum::<usize>();
    }
    rate(&format!("fetch {compression}, groups of 16"), bytes, start);
    let start = cpu();
    for place in &places {
        fetcher.fetch(&[*place]).expect("frames");
    }
    rate(&format!("fetch {compression}, one by one"), bytes, start);
    let mut decoder = fetcher.decoder();
    let mut out = Vec::new();
    let start = cpu();
    for group in places.chunks(16) {
        for stored in fetcher.fetch(group).expect("frames") {
            fetcher.decode(&mut decoder, &stored, &mut out).expect("a frame");
        }
    }
    rate(&format!("fetch and decode {compression}"), bytes, start);
}
