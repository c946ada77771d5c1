//! Backups of servers of every version are checked: good ones, damaged ones, and hostile manifests.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]
#![allow(dead_code, reason = "helpers are shared")]

mod backup_support;

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use backup_support::{assert_found, assert_good, base_backup, request, verified, with_flipped_byte, without};
use pgkeep_format::pg_manifest::PgManifest;
use pgkeep_format::wal::SegmentDecoder;
use pgkeep_format::{Lsn, WalSegmentName, WalSegmentSize};
use pgkeep_physical::verify::BackupFormat;
use pgkeep_testkit::{Cluster, Scratch};

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap()
}

fn manifest_of(directory: &Path) -> PgManifest {
    PgManifest::parse(&fs::read(directory.join("backup_manifest")).unwrap(), sha256).unwrap()
}

/// A server that writes while it is backed up, so that the WAL of a backup has several small segments.
fn busy_cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major)
        .wal_segment_mib(1)
        .conf("wal_keep_size", "500MB")
        .conf("fsync", "off")
        .start();
    cluster.pgbench_init(1);
    cluster
}

fn good_backups_of(major: u32) {
    let cluster = busy_cluster(major);
    let load = cluster.pgbench_start(60);
    let plain = base_backup(&cluster, "plain", &["--max-rate=12M", "--manifest-checksums=SHA256"]);
    let tar = base_backup(&cluster, "tar", &["-Ft", "-z", "--max-rate=12M"]);
    let fetched = base_backup(&cluster, "fetched", &["-Ft", "-X", "fetch", "--max-rate=12M"]);
    drop(load);
    let version = if major >= 17 { 2 } else { 1 };
    for directory in [&plain, &tar, &fetched] {
        let manifest = manifest_of(directory);
        assert_eq!(manifest.version, version);
        let range = manifest.wal_ranges[0];
        assert!(range.end.0 - range.start.0 > 2 << 20, "too little WAL to prove anything: {range:?}");
        for jobs in [1, 2, 7] {
            let mut request = request(directory);
            request.jobs = jobs;
            assert_good(&request);
        }
    }
    // The WAL of one backup is not that of another.
    let mut other = request(&plain);
    other.wal_directory = Some(cluster.data_dir().join("pg_wal"));
    assert_good(&other);
    other.wal_directory = Some(cluster.data_dir().join("global"));
    assert_found(&other, "error: WAL parsing failed for timeline 1\ndetail: could not find any WAL file in ");
    if major == 17 {
        for compression in ["client-lz4", "client-zstd", "server-lz4", "server-zstd", "server-gzip"] {
            let directory = base_backup(&cluster, compression, &["-Ft", "--compress", compression]);
            assert_good(&request(&directory));
        }
    }
}

#[test]
fn backups_of_14_are_good() {
    good_backups_of(14);
}

#[test]
fn backups_of_15_are_good() {
    good_backups_of(15);
}

#[test]
fn backups_of_16_are_good() {
    good_backups_of(16);
}

#[test]
fn backups_of_17_are_good() {
    good_backups_of(17);
}

#[test]
fn backups_of_18_are_good() {
    good_backups_of(18);
}

/// The path of the file of a relation, relative to the data directory.
fn path_of(cluster: &Cluster, relation: &str) -> String {
    cluster
        .sql(&format!("CHECKPOINT; SELECT pg_relation_filepath('{relation}')"))
        .lines()
        .last()
        .unwrap()
        .to_owned()
}

#[test]
fn damage_at_every_kind_of_place_is_noticed() {
    let cluster = busy_cluster(18);
    let tablespace = cluster.scratch().create_dir("space", 0o700);
    let moved = cluster.scratch().create_dir("moved", 0o700);
    cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", tablespace.display()));
    cluster.sql("CREATE TABLE there TABLESPACE space AS SELECT generate_series(1, 10000) AS n");
    let (here, there) = (path_of(&cluster, "pgbench_accounts"), path_of(&cluster, "there"));
    let load = cluster.pgbench_start(60);
    let mapping = format!("{}={}", tablespace.display(), moved.display());
    let plain = base_backup(&cluster, "plain", &["-T", &mapping, "--max-rate=12M"]);
    let tar = base_backup(&cluster, "tar", &["-Ft"]);
    drop(load);
    let check = request(&plain);
    assert_good(&check);

    for path in [&here, &there, "PG_VERSION", "pg_xact/0000", "backup_label", "global/pg_filenode.map"] {
        let expected = format!("error: checksum mismatch for file \"{path}\"");
        let length = fs::metadata(plain.join(path)).unwrap().len();
        for offset in [0, length / 2, length - 1] {
            with_flipped_byte(&plain.join(path), offset, || assert_found(&check, &expected));
        }
        without(&plain.join(path), || {
            assert_found(
                &check,
                if path == "PG_VERSION" { "not expected in a tar format backup" } else { "but not on disk" },
            );
        });
    }
    assert_good(&check);
    with_flipped_byte(&plain.join("global/pg_control"), 3, || assert_found(&check, "CRC is incorrect"));

    let extra = plain.join("base/extra");
    fs::write(&extra, "x").unwrap();
    assert_found(&check, "\"base/extra\" is present on disk but not in the manifest");
    let mut ignoring = request(&plain);
    ignoring.ignore = vec![b"base/extra".to_vec()];
    assert_good(&ignoring);
    fs::remove_file(&extra).unwrap();

    wal_damage_is_noticed(&plain);
    manifest_damage_is_noticed(&plain);
    tar_damage_is_noticed(&tar, &here);
    errors_come_in_order(&plain, [&here, "PG_VERSION", "pg_xact/0000"]);
}

fn wal_damage_is_noticed(plain: &Path) {
    let check = request(plain);
    let range = manifest_of(plain).wal_ranges[0];
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    let segment = |lsn: Lsn| {
        let name = WalSegmentName::at(range.timeline, lsn, size);
        (plain.join("pg_wal").join(name.file_name(size)), size.offset_of(lsn))
    };
    let failed = "error: WAL parsing failed for timeline 1\ndetail: ";
    // Gaps between records are not looked at, so what is damaged are records: their first bytes, and a byte within.
    let mut records = Vec::new();
    for name in
        (0..).map(|number| range.start.saturating_add(number << 20)).take_while(|lsn| *lsn < range.end)
    {
        let bytes = fs::read(segment(name).0).unwrap();
        let name = WalSegmentName::at(range.timeline, name, size);
        let mut decoder = SegmentDecoder::new(&bytes, name, size).unwrap();
        while let Some(record) = decoder.next_record() {
            if record.lsn >= range.start && record.lsn < range.end {
                records.push(record.lsn);
            }
        }
    }
    let step = (records.len() / 20).max(1);
    for record in records.iter().rev().step_by(step) {
        let (path, offset) = segment(*record);
        with_flipped_byte(&path, offset, || assert_found(&check, failed));
        with_flipped_byte(&path, offset + 5, || assert_found(&check, failed));
    }
    let (last, _) = segment(range.end);
    let (first, _) = segment(range.start);
    let (second, _) = segment(range.start.saturating_add(1 << 20));
    for path in [&first, &second, &last] {
        without(path, || assert_found(&check, &format!("{failed}could not find file")));
    }
    // Segments in each other's place.
    let (one, two) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    fs::write(&first, &two).unwrap();
    fs::write(&second, &one).unwrap();
    assert_found(&check, failed);
    fs::write(&first, &one).unwrap();
    fs::write(&second, &two).unwrap();
    // What was written after the end of the backup does not count.
    let after = range.end.saturating_add(4096);
    let (path, offset) = segment(after);
    if path == last {
        with_flipped_byte(&path, offset, || assert_good(&check));
    }
    assert_good(&check);
}

fn manifest_damage_is_noticed(plain: &Path) {
    let path = plain.join("backup_manifest");
    let length = fs::metadata(&path).unwrap().len();
    for offset in (0..200).map(|part| part * (length - 1) / 199) {
        with_flipped_byte(&path, offset, || {
            let (result, text) = verified(&request(plain));
            assert!(result.is_err(), "{offset}: {text}");
        });
    }
}

fn tar_damage_is_noticed(tar: &Path, relation: &str) {
    let check = request(tar);
    assert_good(&check);
    let base = tar.join("base.tar");
    let archive = fs::read(&base).unwrap();
    let find = |name: &str| {
        let at = archive
            .chunks(512)
            .position(|block| block.starts_with(name.as_bytes()) && block[name.len()] == 0);
        at.unwrap() as u64 * 512
    };
    let header = find(relation);
    let expected = format!("checksum mismatch for file \"{relation}\" in archive \"base.tar\"");
    with_flipped_byte(&base, header + 512 + 5000, || assert_found(&check, &expected));
    with_flipped_byte(&base, header + 3, || assert_found(&check, "could not read archive \"base.tar\""));
    with_flipped_byte(&base, find("global/pg_control") + 512, || assert_found(&check, "CRC is incorrect"));
    // Cut off, with and without threads.
    fs::write(&base, &archive[..archive.len() / 2]).unwrap();
    for jobs in [1, 3] {
        let mut check = request(tar);
        check.jobs = jobs;
        assert_found(&check, "could not read archive \"base.tar\": ");
        assert_found(&check, "is present in the manifest but not on disk");
    }
    fs::write(&base, &archive).unwrap();
    let wal = tar.join("pg_wal.tar");
    with_flipped_byte(&wal, 512 + 100_000, || assert_found(&check, "WAL parsing failed for timeline 1"));
    without(&wal, || assert_found(&check, "WAL parsing failed for timeline 1"));
    fs::write(tar.join("notes.txt"), "x").unwrap();
    assert_found(&check, "file \"notes.txt\" is not expected in a tar format backup");
    fs::remove_file(tar.join("notes.txt")).unwrap();
    let mut wrong = request(tar);
    wrong.format = Some(BackupFormat::Plain);
    assert_found(&wrong, "\"base.tar\" is present on disk but not in the manifest");
    assert_good(&check);
}

/// Whoever of the threads finishes first, errors come in the order of paths; the first ends it all where that is asked.
fn errors_come_in_order(plain: &Path, paths: [&str; 3]) {
    let [first, second, third] = paths;
    with_flipped_byte(&plain.join(first), 0, || {
        with_flipped_byte(&plain.join(second), 0, || {
            with_flipped_byte(&plain.join(third), 0, || {
                let mut sorted = paths;
                sorted.sort_unstable();
                let line = |path: &&str| format!("error: checksum mismatch for file \"{path}\"");
                let all: Vec<String> = sorted.iter().map(line).collect();
                let mut check = request(plain);
                check.jobs = 5;
                assert_eq!(verified(&check).1, all.join("\n"));
                check.exit_on_error = true;
                let (result, text) = verified(&check);
                assert!(result.unwrap_err().is_reported);
                assert_eq!(text.lines().next().unwrap_or_default(), line(&sorted[0]));
                assert_eq!(text.matches("error: ").count(), 1);
                check.exit_on_error = false;
                check.skip_checksums = true;
                assert_good(&check);
            });
        });
    });
}

/// A backup with one file and this manifest before its last line.
fn forged(scratch: &Scratch, name: &str, head: &str) -> PathBuf {
    let directory = scratch.create_dir(name, 0o700);
    fs::write(directory.join("PG_VERSION"), "18\n").unwrap();
    let sum: String = sha256(head.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{head}\"Manifest-Checksum\": \"{sum}\"}}\n");
    fs::write(directory.join("backup_manifest"), text).unwrap();
    directory
}

#[test]
fn hostile_manifests_do_no_harm() {
    let scratch = Scratch::new();
    let begin = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n";
    let good = "{ \"Path\": \"PG_VERSION\", \"Size\": 3 }";
    let ranges = "],\n\"WAL-Ranges\": [ ],\n";
    let secret = scratch.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    for (number, path) in
        ["../secret", "/etc/passwd", "base/../../secret", "", ".", "a//b"].iter().enumerate()
    {
        let files = format!(
            "{good},\n{{ \"Path\": \"{path}\", \"Size\": 6, \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }}"
        );
        let directory = forged(&scratch, &format!("path{number}"), &format!("{begin}{files}{ranges}"));
        let expected = "fatal: could not parse backup manifest: unsafe path name";
        assert_found(&request(&directory), expected);
    }
    let twice = forged(&scratch, "twice", &format!("{begin}{good},\n{good}{ranges}"));
    assert_found(&request(&twice), "fatal: duplicate path name in backup manifest: \"PG_VERSION\"");
    let huge = good.replace('3', "18446744073709551615");
    let huge = forged(&scratch, "huge", &format!("{begin}{huge}{ranges}"));
    assert_found(&request(&huge), "has size 3 on disk but size 18446744073709551615 in the manifest");
    for (number, checksum) in ["\"\"", "\"0011\""].iter().enumerate() {
        let files = format!(
            "{{ \"Path\": \"PG_VERSION\", \"Size\": 3, \"Checksum-Algorithm\": \"SHA512\", \"Checksum\": {checksum} }}"
        );
        let directory = forged(&scratch, &format!("sum{number}"), &format!("{begin}{files}{ranges}"));
        let expected = format!("has checksum of length {}, but expected 64", number * 2);
        assert_found(&request(&directory), &expected);
    }
    // All of WAL that can be, on the highest timeline.
    let range = "{ \"Timeline\": 4294967295, \"Start-LSN\": \"0/0\", \"End-LSN\": \"FFFFFFFF/FFFFFFFF\" }";
    let endless = forged(&scratch, "endless", &format!("{begin}{good}],\n\"WAL-Ranges\": [ {range} ],\n"));
    fs::create_dir(endless.join("pg_wal")).unwrap();
    assert_found(&request(&endless), "WAL parsing failed for timeline 4294967295");
    // A link that leads back.
    let round = forged(&scratch, "round", &format!("{begin}{good}{ranges}"));
    std::os::unix::fs::symlink(&round, round.join("again")).unwrap();
    let (result, _) = verified(&request(&round));
    assert!(!result.unwrap().is_good);
}
