//! Chains of incremental backups of real servers are combined, and compared with what stock's `pg_combinebackup` makes of
//! them, or with the server itself where stock is wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]
#![allow(dead_code, reason = "helpers are shared")]

mod backup_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use backup_support::{Told, assert_good, base_backup, request, with_flipped_byte, without};
use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestFile, PgManifest};
use pgkeep_physical::base_backup::{SyncMethod, TablespaceMappings};
use pgkeep_physical::combine::{CombineReport, CombineRequest, CopyMethod, combine};
use pgkeep_testkit::{Cluster, installation, table_digests, wait_until};

fn cluster(major: u32) -> Cluster {
    Cluster::builder(major)
        .wal_segment_mib(1)
        .conf("summarize_wal", "on")
        .conf("wal_keep_size", "1GB")
        .conf("autovacuum", "off")
        .conf("wal_buffers", "16MB")
        .conf("wal_writer_delay", "10s")
        .start()
}

fn combine_request(inputs: &[&Path], output: &Path) -> CombineRequest {
    CombineRequest {
        inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: output.to_owned(),
        dry_run: false,
        debug: false,
        sync: None,
        tablespace_mappings: TablespaceMappings::default(),
        manifest: true,
        manifest_checksums: Some(ChecksumAlgorithm::Crc32c),
        copy_method: CopyMethod::Copy,
        verify_inputs: true,
    }
}

fn combined(request: &CombineRequest) -> (Result<CombineReport, String>, String) {
    let told = Told::default();
    let result = combine(request, &told).map_err(|error| error.message);
    (result, told.text())
}

/// A chain whose backups were made by the closures between them.
fn incremental(cluster: &Cluster, name: &str, parent: &Path, arguments: &[&str]) -> PathBuf {
    let manifest = parent.join("backup_manifest");
    let arguments = [&["-i", manifest.to_str().unwrap()], arguments].concat();
    base_backup(cluster, name, &arguments)
}

fn stock(major: u32, arguments: &[&str], inputs: &[&Path], output: &Path) {
    let mut command = Command::new(installation(major).program("pg_combinebackup"));
    let result = command.args(arguments).args(inputs).arg("-N").arg("-o").arg(output).output().unwrap();
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
}

/// Files, directories and links beneath a directory; links are followed into tablespaces.
fn tree(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(directory.to_owned(), String::new())];
    while let Some((directory, prefix)) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
            let metadata = fs::metadata(&path).unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            if metadata.is_dir() {
                found.insert(name.clone(), format!("directory {mode:o}"));
                waiting.push((path, format!("{name}/")));
            } else if name != "backup_manifest" {
                let bytes = fs::read(&path).unwrap();
                let sum = digest(&SHA256, &bytes);
                found.insert(name, format!("{mode:o} {} {sum:?}", bytes.len()));
            }
        }
    }
    found
}

fn assert_same_tree(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (tree(ours), tree(theirs));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let different: Vec<_> = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).collect();
    assert!(different.is_empty(), "{different:?}");
    assert!(ours.len() > 900);
}

fn manifest(directory: &Path) -> PgManifest {
    let bytes = fs::read(directory.join("backup_manifest")).unwrap();
    PgManifest::parse(&bytes, |bytes| digest(&SHA256, bytes).as_ref().try_into().unwrap()).unwrap()
}

/// All that two manifests say but for the times, in the order of paths.
fn assert_same_manifest(ours: &Path, theirs: &Path) {
    let plain = |directory: &Path| {
        let mut manifest = manifest(directory);
        manifest.files.iter_mut().for_each(|file: &mut ManifestFile| file.last_modified = None);
        manifest.files.sort_by(|left, right| left.path.cmp(&right.path));
        manifest
    };
    assert_eq!(plain(ours), plain(theirs));
}

/// Full backup and three incrementals with a tablespace, deletes, truncations, drops, databases, updates.
struct Chain {
    cluster: Cluster,
    tablespace: PathBuf,
    backups: Vec<PathBuf>,
    /// Where each backup's copy of the tablespace is; empty for archives.
    copies: Vec<PathBuf>,
}

impl Chain {
    fn make(major: u32, format: &[&str]) -> Chain {
        let cluster = cluster(major);
        let tablespace = cluster.scratch().create_dir("space", 0o700);
        cluster.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", tablespace.display()));
        cluster.sql(
            "CREATE TABLE kept AS SELECT n, repeat('k', 100) AS t FROM generate_series(1, 20000) n;
             CREATE TABLE changed AS SELECT n, repeat('c', 100) AS t FROM generate_series(1, 20000) n;
             CREATE TABLE cut AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 20000) n;
             CREATE TABLE emptied AS SELECT * FROM kept; CREATE TABLE dropped AS SELECT * FROM kept;
             CREATE TABLE there TABLESPACE space AS SELECT * FROM kept;
             CREATE INDEX ON changed (n); CREATE DATABASE other TABLESPACE space;",
        );
        let is_plain = !format.contains(&"-Ft");
        let mut chain = Chain { cluster, tablespace, backups: Vec::new(), copies: Vec::new() };
        chain.back_up("full", format, is_plain);
        chain.cluster.sql(
            "UPDATE changed SET t = 'one' WHERE n % 500 = 0; UPDATE there SET t = 'one' WHERE n % 900 = 0;
             DELETE FROM cut WHERE n > 3000; VACUUM cut; TRUNCATE emptied; DROP TABLE dropped;",
        );
        chain.back_up("first", format, is_plain);
        chain.cluster.sql(
            "INSERT INTO cut SELECT n, repeat('y', 100) FROM generate_series(3001, 5000) n;
             CREATE TABLE newcomer AS SELECT * FROM there; CREATE DATABASE late;
             DELETE FROM there WHERE n > 15000; VACUUM there; INSERT INTO emptied SELECT * FROM kept;",
        );
        chain.back_up("second", format, is_plain);
        chain
            .cluster
            .sql("UPDATE changed SET t = 'three' WHERE n % 700 = 0; DROP DATABASE other; VACUUM changed;");
        chain.back_up("third", format, is_plain);
        chain
    }

    fn back_up(&mut self, name: &str, format: &[&str], is_plain: bool) {
        let mut arguments: Vec<String> = format.iter().map(|&argument| argument.to_owned()).collect();
        if is_plain {
            let copy = self.cluster.scratch().create_dir(&format!("space-{name}"), 0o700);
            arguments.extend(["-T".to_owned(), format!("{}={}", self.tablespace.display(), copy.display())]);
            self.copies.push(copy);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let backup = match self.backups.last() {
            None => base_backup(&self.cluster, name, &arguments),
            Some(parent) => incremental(&self.cluster, name, &parent.clone(), &arguments),
        };
        self.backups.push(backup);
    }

    fn inputs(&self) -> Vec<&Path> {
        self.backups.iter().map(PathBuf::as_path).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cluster.scratch().path().join(name)
    }

    /// Combines the first backups, with the tablespace beside the output.
    fn request(&self, backups: usize, output: &str) -> CombineRequest {
        let mut request = combine_request(&self.inputs()[..backups], &self.path(output));
        let old = self.copies.get(backups - 1).unwrap_or(&self.tablespace).display();
        let mapping = format!("{old}={}", self.path(&format!("{output}-space")).display());
        request.tablespace_mappings.add(mapping.as_ref()).unwrap();
        request
    }

    fn stock(&self, backups: usize, output: &str) {
        let mapping = format!(
            "{}={}",
            self.copies[backups - 1].display(),
            self.path(&format!("{output}-space")).display()
        );
        stock(self.cluster.major(), &["-T", &mapping], &self.inputs()[..backups], &self.path(output));
    }
}

fn result_is_stocks(major: u32) {
    let chain = Chain::make(major, &[]);
    for backups in 1..=4 {
        let (ours, theirs) = (format!("ours{backups}"), format!("theirs{backups}"));
        chain.stock(backups, &theirs);
        let mut request = chain.request(backups, &ours);
        // Each method once.
        request.copy_method =
            [CopyMethod::CopyFileRange, CopyMethod::Copy, CopyMethod::CopyFileRange, CopyMethod::Copy]
                [backups - 1];
        request.sync = [None, Some(SyncMethod::Fsync), Some(SyncMethod::Syncfs), None][backups - 1];
        let (report, text) = combined(&request);
        let report = report.unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(text, "");
        assert_eq!(report.reconstructed > 100, backups > 1, "{report:?}");
        let (ours, theirs) = (chain.path(&ours), chain.path(&theirs));
        assert_same_tree(&ours, &theirs);
        assert_same_manifest(&ours, &theirs);
        assert_good(&self::request(&ours));
    }
    // A result is a full backup, as good as any.
    let mut again = chain.request(4, "again");
    again.inputs = vec![chain.path("ours2"), chain.backups[2].clone(), chain.backups[3].clone()];
    combined(&again).0.unwrap();
    assert_same_tree(&chain.path("again"), &chain.path("theirs4"));
    let live = table_digests(&chain.cluster, "postgres");
    let restored = Cluster::from_data_dir(major, &chain.path("ours4"), &[]);
    assert_eq!(table_digests(&restored, "postgres"), live);
    assert_eq!(restored.sql("SELECT datname FROM pg_database WHERE datname IN ('late', 'other')"), "late");
}

#[test]
fn the_result_is_stocks_with_17() {
    result_is_stocks(17);
}

#[test]
fn the_result_is_stocks_with_18() {
    result_is_stocks(18);
}

/// Files are cut, then grow again by pages of zeros that no WAL tells of, since the server crashes. Stock's program takes
/// the blocks in between from before the cut.
fn deleted_rows_do_not_come_back(major: u32) {
    let cluster = cluster(major);
    cluster.sql("CREATE TABLE cut AS SELECT n, repeat('x', 40) AS t FROM generate_series(1, 30000) n; VACUUM FREEZE cut;");
    let full = base_backup(&cluster, "full", &[]);
    cluster.sql("DELETE FROM cut WHERE n > 5000; VACUUM cut;");
    let first = incremental(&cluster, "first", &full, &[]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ends with the server.
            cluster.try_sql(
                "BEGIN; COPY cut FROM PROGRAM 'seq 1 30000 | sed s/$/\\\\tgrown/'; SELECT pg_sleep(300)",
            )
        });
        wait_until("COPY", Duration::from_secs(60), || {
            cluster.sql(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND wait_event = 'PgSleep'",
            ) == "1"
        });
        cluster.crash();
    });
    cluster.start();
    let second = incremental(&cluster, "second", &first, &[]);
    assert_eq!(cluster.sql("SELECT count(*), max(n) FROM cut"), "5000|5000");
    let chain = [full.as_path(), &first, &second];
    let (ours, theirs) = (cluster.scratch().path().join("ours"), cluster.scratch().path().join("theirs"));
    stock(major, &[], &chain, &theirs);
    combined(&combine_request(&chain, &ours)).0.unwrap();
    assert_good(&request(&ours));
    // Its own manifest is no help.
    assert_good(&request(&theirs));
    let path = cluster.sql("SELECT pg_relation_filepath('cut')");
    cluster.sql("CHECKPOINT");
    let live = fs::read(cluster.data_dir().join(&path)).unwrap();
    assert!(live.len() > 40 * 8192, "the table did not grow: {} bytes", live.len());
    assert!(live[live.len() - 8192..].iter().all(|byte| *byte == 0), "the crash lost nothing");
    let rows = |directory: &Path| {
        let restored = Cluster::from_data_dir(major, directory, &[]);
        restored.sql("SELECT count(*), max(n) FROM cut")
    };
    assert_eq!(rows(&ours), "5000|5000");
    let resurrected = rows(&theirs);
    assert_ne!(resurrected, "5000|5000", "stock's program is right: there is nothing to be better at");
    let count: u32 = resurrected.split('|').next().unwrap().parse().unwrap();
    assert!(count > 10_000, "{resurrected}");
}

#[test]
fn deleted_rows_do_not_come_back_with_17() {
    deleted_rows_do_not_come_back(17);
}

#[test]
fn deleted_rows_do_not_come_back_with_18() {
    deleted_rows_do_not_come_back(18);
}

fn archives_are_inputs(major: u32, format: &[&str]) {
    let chain = Chain::make(major, format);
    let mut request = chain.request(4, "ours");
    request.sync = Some(SyncMethod::Fsync);
    let (report, text) = combined(&request);
    report.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(text, "");
    let ours = chain.path("ours");
    assert_good(&self::request(&ours));
    // The same from directories.
    for (number, backup) in chain.backups.iter().enumerate() {
        let plain = chain.path(&format!("plain{number}"));
        fs::create_dir_all(plain.join("pg_wal")).unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o700)).unwrap();
        unpack(backup, "base", &plain);
        unpack(backup, "pg_wal", &plain.join("pg_wal"));
        let map = fs::read_to_string(plain.join("tablespace_map")).unwrap();
        fs::remove_file(plain.join("tablespace_map")).unwrap();
        let (oid, _) = map.split_once(' ').unwrap();
        let copy = chain.path(&format!("copy{number}"));
        fs::create_dir(&copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
        unpack(backup, oid, &copy);
        std::os::unix::fs::symlink(&copy, plain.join("pg_tblspc").join(oid)).unwrap();
        fs::copy(backup.join("backup_manifest"), plain.join("backup_manifest")).unwrap();
    }
    let plains: Vec<PathBuf> = (0..4).map(|number| chain.path(&format!("plain{number}"))).collect();
    let plains: Vec<&Path> = plains.iter().map(PathBuf::as_path).collect();
    let theirs = chain.path("theirs");
    let mapping = format!("{}={}", chain.path("copy3").display(), chain.path("theirs-space").display());
    stock(major, &["-T", &mapping], &plains, &theirs);
    assert_same_tree(&ours, &theirs);
    // Some archives, some directories.
    let mut mixed = chain.request(4, "mixed");
    mixed.inputs[1] = plains[1].to_owned();
    mixed.inputs[2] = plains[2].to_owned();
    combined(&mixed).0.unwrap();
    assert_same_tree(&chain.path("mixed"), &theirs);
    assert_same_manifest(&chain.path("mixed"), &ours);
    let mut unmapped = chain.request(4, "unmapped");
    unmapped.tablespace_mappings = TablespaceMappings::default();
    let expected = format!("tablespace at \"{}\" has no tablespace mapping", chain.tablespace.display());
    assert_eq!(combined(&unmapped).0.unwrap_err(), expected);
    assert!(!unmapped.output.exists());
    let mut dry = chain.request(4, "dry");
    dry.dry_run = true;
    assert!(combined(&dry).0.unwrap_err().contains("because it is in tar format"));
    assert!(!dry.output.exists());

    let live = table_digests(&chain.cluster, "postgres");
    let restored = Cluster::from_data_dir(major, &ours, &[]);
    assert_eq!(table_digests(&restored, "postgres"), live);
}

/// Unpacks an archive with tar, whatever its compression.
fn unpack(backup: &Path, stem: &str, to: &Path) {
    let archive = fs::read_dir(backup)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{stem}.tar")))
        .unwrap();
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(to).arg("-p").status().unwrap();
    assert!(status.success());
}

#[test]
fn archives_are_inputs_with_17() {
    archives_are_inputs(17, &["-Ft", "-z"]);
}

#[test]
fn archives_are_inputs_with_18() {
    archives_are_inputs(18, &["-Ft"]);
}

#[test]
fn damaged_inputs_are_refused_and_nothing_stays() {
    let cluster = cluster(18);
    cluster.sql(
        "CREATE TABLE big AS SELECT n, repeat('b', 100) AS t FROM generate_series(1, 20000) n;
         CREATE TABLE quiet AS SELECT * FROM big; CREATE TABLE gone AS SELECT * FROM big;",
    );
    let path = |table: &str| cluster.sql(&format!("SELECT pg_relation_filepath('{table}')"));
    let full = base_backup(&cluster, "full", &[]);
    cluster.sql("UPDATE big SET t = 'changed' WHERE n % 1000 = 0; CREATE TABLE fresh AS SELECT * FROM big; TRUNCATE gone;");
    let first = incremental(&cluster, "first", &full, &["--manifest-checksums=SHA256"]);
    cluster.sql("UPDATE big SET t = 'again' WHERE n % 1500 = 0;");
    let second = incremental(&cluster, "second", &first, &[]);
    let (big, quiet, fresh) = (path("big"), path("quiet"), path("fresh"));
    let part = |path: &str| path.replacen("base/5/", "base/5/INCREMENTAL.", 1);
    let output = cluster.scratch().path().join("output");
    let base = combine_request(&[&full, &first, &second], &output);
    let clean_up = || {
        if output.exists() {
            fs::remove_dir_all(&output).unwrap();
        }
    };
    for method in [CopyMethod::Copy, CopyMethod::Link, CopyMethod::CopyFileRange] {
        let mut request = base.clone();
        request.copy_method = method;
        let refused = |expected: &str| {
            let (result, text) = combined(&request);
            let error = result.expect_err("taken for good");
            assert!(error.contains(expected), "wanted: {expected}\nfound: {error}");
            assert!(text.contains("info: removing output directory"), "{text}");
            assert!(!output.exists());
        };
        let mut unchecked = request.clone();
        unchecked.verify_inputs = false;
        let damages = [
            (&full, big.clone()),
            (&full, quiet.clone()),
            (&first, part(&big)),
            (&second, part(&big)),
            (&first, part(&fresh).replace("INCREMENTAL.", "")),
            (&second, "PG_VERSION".to_owned()),
            (&second, "pg_xact/0000".to_owned()),
            (&second, "backup_label".to_owned()),
        ];
        let some = if method == CopyMethod::Copy { damages.len() } else { 3 };
        for (backup, file) in damages.into_iter().take(some) {
            let damaged = backup.join(&file);
            let length = fs::metadata(&damaged).unwrap().len();
            // The label stays one when its last but one byte changes.
            let offset = if file == "PG_VERSION" { 0 } else { length - 20 };
            let expected =
                format!("checksum mismatch for file \"{file}\" in backup \"{}\"", backup.display());
            if file == "PG_VERSION" {
                with_flipped_byte(&damaged, offset, || {
                    assert!(combined(&request).0.unwrap_err().contains("could not parse version number"));
                });
            } else if file == "backup_label" {
                with_flipped_byte(&damaged, 90, || {
                    assert!(combined(&request).0.unwrap_err().contains(&expected));
                });
            } else {
                with_flipped_byte(&damaged, offset, || {
                    refused(&expected);
                    combined(&unchecked).0.unwrap();
                    clean_up();
                });
            }
        }
        without(&full.join(&big), || refused("INCREMENTAL."));
        without(&second.join(part(&big)), || refused("is present in the manifest of backup"));
        let grown = second.join("pg_xact/0000");
        let bytes = fs::read(&grown).unwrap();
        fs::write(&grown, [bytes.as_slice(), b"x"].concat()).unwrap();
        refused("has size 8193 but size 8192 in the manifest");
        fs::write(&grown, bytes).unwrap();
        assert!(combined(&request).0.unwrap().reconstructed > 100);
        clean_up();
    }
    // Configuration is changed by people.
    fs::write(second.join("postgresql.auto.conf"), "work_mem = '5MB'\n").unwrap();
    combined(&base).0.unwrap();
    assert_good(&request(&output));
    clean_up();
    // An output that was there stays, empty.
    fs::create_dir(&output).unwrap();
    with_flipped_byte(&full.join(&big), 5, || {
        let (result, text) = combined(&base);
        assert!(result.is_err() && text.contains("info: removing contents of output directory"));
    });
    assert!(output.read_dir().unwrap().next().is_none());
    fs::remove_dir(&output).unwrap();
    hostile_incremental_files_do_no_harm(&base, &second.join(part(&big)), &output);
    nesting_and_order_are_refused(&base, &full);
    links_and_modes(&cluster, &base, &quiet);
}

fn hostile_incremental_files_do_no_harm(base: &CombineRequest, file: &Path, output: &Path) {
    let good = fs::read(file).unwrap();
    let mut request = base.clone();
    request.verify_inputs = false;
    let refused = |bytes: &[u8], expected: &str| {
        fs::write(file, bytes).unwrap();
        let error = combined(&request).0.expect_err(expected);
        assert!(error.contains(expected), "wanted: {expected}\nfound: {error}");
        assert!(!output.exists());
    };
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    refused(&with(0, 7), "has bad incremental magic number (0x7, expected 0xd3ae1f0d)");
    refused(&with(4, u32::MAX), "has block count 4294967295 in excess of segment size 131072");
    refused(&with(4, 3), "by its header");
    refused(&with(12, u32::MAX), "is out of order or beyond the segment");
    for length in [0, 3, 12, 100, good.len() - 1] {
        refused(&good[..length], "INCREMENTAL.");
    }
    fs::write(file, &good).unwrap();
}

fn nesting_and_order_are_refused(base: &CombineRequest, full: &Path) {
    let mut nested = base.clone();
    nested.output = base.inputs[2].join("output");
    let error = combined(&nested).0.unwrap_err();
    assert!(error.contains("lies within input directory"), "{error}");
    assert!(!nested.output.exists());
    let mut twice = base.clone();
    twice.inputs = vec![full.to_owned(), full.to_owned()];
    assert!(combined(&twice).0.unwrap_err().contains("only the first backup should be a full backup"));
    let mut used = base.clone();
    used.output = full.to_owned();
    assert!(combined(&used).0.unwrap_err().contains("exists but is not empty"));
    assert!(full.join("PG_VERSION").exists());
}

fn links_and_modes(cluster: &Cluster, base: &CombineRequest, quiet: &str) {
    let mut linked = base.clone();
    linked.output = cluster.scratch().path().join("linked");
    linked.copy_method = CopyMethod::Link;
    let (result, text) = combined(&linked);
    result.unwrap();
    assert!(text.contains("warning: --link mode was used"), "{text}");
    assert_eq!(fs::metadata(linked.output.join(quiet)).unwrap().nlink(), 2);
    assert_good(&request(&linked.output));

    let mut open = base.clone();
    open.output = cluster.scratch().path().join("open");
    fs::set_permissions(&open.inputs[2], fs::Permissions::from_mode(0o750)).unwrap();
    open.manifest_checksums = None;
    combined(&open).0.unwrap();
    let mode = |path: &str| fs::metadata(open.output.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("base"), mode("PG_VERSION"), mode(quiet)), (0o750, 0o750, 0o640, 0o640));
    assert!(manifest(&open.output).files.iter().all(|file| file.checksum.is_none()));

    let mut dry = base.clone();
    dry.output = cluster.scratch().path().join("dry");
    (dry.dry_run, dry.debug) = (true, true);
    let (result, text) = combined(&dry);
    result.unwrap();
    assert!(!dry.output.exists());
    assert!(text.contains("info: debug: would reconstruct \""), "{text}");
    assert!(text.contains("info: debug: reconstruction plan: 0"), "{text}");
}
