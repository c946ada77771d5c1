//! The data of dumps: the same bytes however many sessions fetch it, in every format and codec, read by stock's programs.

#![allow(clippy::unwrap_used, reason = "an error in a helper is the test's failure as well")]

#[allow(dead_code, reason = "shared with tests that use all of it")]
mod dump_support;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use dump_support::{assert_same_text, output, stock, text};
use pgkeep_format::archive::{ArchiveFormat, ArchiveVersion, Compression};
use pgkeep_logical::dump::write::{ArchiveOptions, write_archive, write_archive_to, write_script};
use pgkeep_logical::dump::{Dump, DumpOptions, RowFormat};
use pgkeep_logical::restore::{self, Archive, Input, RestoreOptions, Selection};
use pgkeep_testkit::{Cluster, Scratch, installation};
use pgkeep_tool::Reporter;
use pgkeep_tool::compress::{Codec, Compressor, Framing};
use pgkeep_wire::{ConnInfo, Environment};

/// Tables of many pages and few, with what makes places of rows interesting.
const TABLES: &str = "
    CREATE TABLE big (id integer PRIMARY KEY, filler text, n numeric GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO big SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 6000) i;
    UPDATE big SET filler = 'changed' WHERE id % 7 = 0;
    DELETE FROM big WHERE id % 11 = 0;
    CREATE TABLE toasted (id integer, doc text);
    ALTER TABLE toasted ALTER doc SET STORAGE EXTERNAL;
    INSERT INTO toasted SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 200) j)
        FROM generate_series(1, 200) i;
    CREATE TABLE \"Odd \"\"table\" (\"a b\" text, gone integer, c bytea);
    INSERT INTO \"Odd \"\"table\" SELECT E'tab\\t line\\n back\\\\ ' || i, i, decode(md5(i::text), 'hex')
        FROM generate_series(1, 3000) i;
    ALTER TABLE \"Odd \"\"table\" DROP gone;
    CREATE TABLE empty (a integer);
    CREATE TABLE emptied (a text);
    INSERT INTO emptied SELECT repeat('x', 500) FROM generate_series(1, 2000);
    DELETE FROM emptied;
    CREATE TABLE nothing ();
    INSERT INTO nothing SELECT FROM generate_series(1, 3);
    CREATE TABLE parted (id integer, v text) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (3000);
    CREATE TABLE part_2 PARTITION OF parted FOR VALUES FROM (3000) TO (9000);
    INSERT INTO parted SELECT i, repeat('p', 100) FROM generate_series(1, 6000) i;
    CREATE TABLE parent (id integer, v text);
    CREATE TABLE child (more integer) INHERITS (parent);
    INSERT INTO parent SELECT i, repeat('q', 200) FROM generate_series(1, 3000) i;
    INSERT INTO child SELECT i, repeat('r', 200), i FROM generate_series(1, 3000) i;
    SELECT lo_from_bytea(0, convert_to(repeat(i::text || ' ', i), 'UTF8')) FROM generate_series(1, 150) i;
    SELECT lo_create(0);
    SELECT lo_from_bytea(0, decode(repeat(md5('x'), 5000), 'hex'));
    SELECT lo_from_bytea(0, decode(repeat('00ff7f80', 300000), 'hex'));
";

/// Parts of a few pages, so that small tables have many.
const PART: u64 = 64 << 10;

struct Silent;

impl Reporter for Silent {
    fn info(&self, _: &str) {}
    fn warning(&self, text: &str) {
        panic!("{text}");
    }
    fn error(&self, text: &str) {
        panic!("{text}");
    }
}

fn cluster() -> Cluster {
    cluster_of(18)
}

fn cluster_of(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).start();
    cluster.sql(TABLES);
    cluster
}

fn connection(text: &str) -> ConnInfo {
    ConnInfo::resolve(Some(text), &Environment::empty()).unwrap()
}

fn dump_options(jobs: u32) -> DumpOptions {
    DumpOptions { jobs, part_bytes: PART, create_database: true, ..DumpOptions::default() }
}

fn start(cluster: &Cluster, options: &DumpOptions) -> Dump {
    let mut dump = Dump::start(&connection(&cluster.conninfo()), options).unwrap();
    assert_eq!(dump.take_warnings(), Vec::<String>::new());
    dump
}

fn selection() -> RestoreOptions {
    let selection = Selection { statistics: false, create: true, ..Selection::default() };
    RestoreOptions { selection, ..RestoreOptions::default() }
}

fn archive_options(format: ArchiveFormat, compression: Compression) -> ArchiveOptions {
    ArchiveOptions { format, compression, sync: false, ..ArchiveOptions::default() }
}

/// The script that stock makes of the database.
fn stocks_script(cluster: &Cluster) -> Vec<u8> {
    output("stock", stock("pg_dump", &["--restrict-key=key", "--create", "-d", &cluster.conninfo()]))
}

/// The script that stock's `pg_restore` of this version makes of an archive.
fn script_by_stock(major: u32, path: &Path) -> Vec<u8> {
    let program = installation(major).program("pg_restore");
    let ran = Command::new(program).args(["--create", "-f", "-", text(path)]).output().unwrap();
    without_key(&output(&format!("pg_restore {major} {}", path.display()), ran))
}

/// The script that we make of an archive.
fn script_by_us(path: &Path) -> Vec<u8> {
    let mut archive = Archive::open(Input::Path(path.to_owned()), None).unwrap();
    let mut options = RestoreOptions { restrict_key: Some("key".to_owned()), ..selection() };
    let mut out = Vec::new();
    restore::write_script(&mut archive, &mut options, &mut out, &Silent).unwrap();
    out
}

/// Keys are made up anew where they cannot be given.
fn without_key(script: &[u8]) -> Vec<u8> {
    let lines = script.split_inclusive(|byte| *byte == b'\n');
    lines
        .map(|line| match line {
            _ if line.starts_with(b"\\restrict ") => b"\\restrict key\n".to_vec(),
            _ if line.starts_with(b"\\unrestrict ") => b"\\unrestrict key\n".to_vec(),
            line => line.to_vec(),
        })
        .collect::<Vec<_>>()
        .concat()
}

fn write_file(cluster: &Cluster, jobs: u32, options: &ArchiveOptions, path: &Path) {
    let mut dump = start(cluster, &dump_options(jobs));
    write_archive(&mut dump, &mut selection(), options, Some(path)).unwrap();
}

#[test]
fn stock_reads_the_same_from_any_number_of_sessions() {
    let cluster = cluster();
    let expected = stocks_script(&cluster);
    let scratch = Scratch::new();
    let mut number = 0;
    for (format, compression) in [
        (ArchiveFormat::Custom, Compression::None),
        (ArchiveFormat::Custom, Compression::Gzip),
        (ArchiveFormat::Custom, Compression::Lz4),
        (ArchiveFormat::Custom, Compression::Zstd),
        (ArchiveFormat::Directory, Compression::None),
        (ArchiveFormat::Directory, Compression::Gzip),
        (ArchiveFormat::Directory, Compression::Lz4),
        (ArchiveFormat::Directory, Compression::Zstd),
        (ArchiveFormat::Tar, Compression::None),
    ] {
        // The original's program of 18 that there is cannot read these two.
        let major = if matches!(compression, Compression::Lz4 | Compression::Zstd) { 17 } else { 18 };
        for jobs in [1, 2, 5] {
            number += 1;
            let what = format!("{format:?} {compression:?} {jobs}");
            let path = scratch.path().join(number.to_string());
            write_file(&cluster, jobs, &archive_options(format, compression), &path);
            assert_same_text(&what, &expected, &script_by_stock(major, &path));
            assert_same_text(&what, &expected, &script_by_us(&path));
        }
    }
}

#[test]
fn a_stream_is_what_a_file_is_and_stock_reads_it_from_a_pipe() {
    let cluster = cluster();
    let expected = stocks_script(&cluster);
    for compression in [Compression::None, Compression::Gzip] {
        for format in [ArchiveFormat::Custom, ArchiveFormat::Tar] {
            if format == ArchiveFormat::Tar && compression != Compression::None {
                continue;
            }
            let mut stream = Vec::new();
            let mut dump = start(&cluster, &dump_options(3));
            let options = archive_options(format, compression);
            write_archive_to(&mut dump, &mut selection(), &options, &mut stream).unwrap();
            let mut child = Command::new(pgkeep_testkit::client("pg_restore"))
                .args(["--create", "-f", "-"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut pipe = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || drop(pipe.write_all(&stream)));
            let result = child.wait_with_output().unwrap();
            writer.join().unwrap();
            let what = format!("{format:?} {compression:?}");
            assert_same_text(&what, &expected, &without_key(&output(&what, result)));
        }
    }
}

#[test]
fn scripts_are_stocks_from_any_number_of_sessions() {
    for major in [14, 18] {
        let cluster = cluster_of(major);
        let expected = stocks_script(&cluster);
        for jobs in [1, 2, 4] {
            let dump = start(&cluster, &dump_options(jobs));
            let mut options = RestoreOptions { restrict_key: Some("key".to_owned()), ..selection() };
            let mut out = Vec::new();
            write_script(dump, &mut options, &mut out, &Silent).unwrap();
            assert_same_text(&format!("{major} {jobs}"), &expected, &out);
        }
    }
}

#[test]
fn what_others_write_meanwhile_is_not_in_it() {
    let cluster = cluster();
    let expected = stocks_script(&cluster);
    let scratch = Scratch::new();
    let path = scratch.path().join("archive");
    let mut dump = start(&cluster, &dump_options(3));
    // New pages behind the last one, versions on pages in between, and space given to others' rows.
    cluster.sql(
        "INSERT INTO big SELECT i, repeat('new', 50) FROM generate_series(10001, 14000) i; \
         UPDATE big SET filler = 'later' WHERE id % 3 = 0; DELETE FROM big WHERE id % 5 = 0; \
         UPDATE toasted SET doc = 'short' WHERE id < 100; INSERT INTO empty SELECT 1 FROM generate_series(1, 9); \
         SELECT lo_put((SELECT min(oid) FROM pg_largeobject_metadata), 0, 'other')",
    );
    cluster.sql("VACUUM big");
    let options = archive_options(ArchiveFormat::Custom, Compression::Gzip);
    write_archive(&mut dump, &mut selection(), &options, Some(&path)).unwrap();
    assert_same_text("snapshot", &expected, &script_by_stock(18, &path));
}

#[test]
fn rows_as_commands_and_in_encodings_and_by_a_role_are_stocks() {
    let cluster = cluster();
    let scratch = Scratch::new();
    let inserts = RowFormat::Inserts { rows_per_command: 50, name_columns: false, skip_conflicts: false };
    for (number, (rows, encoding, stocks)) in
        [(inserts, None, "--rows-per-insert=50"), (RowFormat::Copy, Some("LATIN1"), "--encoding=LATIN1")]
            .into_iter()
            .enumerate()
    {
        let mut options = DumpOptions { rows, ..dump_options(3) };
        options.session.encoding = encoding.map(str::to_owned);
        let path = scratch.path().join(number.to_string());
        let mut dump = start(&cluster, &options);
        let archive = archive_options(ArchiveFormat::Custom, Compression::Gzip);
        write_archive(&mut dump, &mut selection(), &archive, Some(&path)).unwrap();
        let expected = output(
            "stock",
            stock("pg_dump", &["--restrict-key=key", "--create", stocks, "-d", &cluster.conninfo()]),
        );
        assert_same_text(stocks, &expected, &script_by_stock(18, &path));
    }
}

#[test]
fn binary_rows_are_restored_by_stock_and_by_us() {
    let cluster = cluster();
    let scratch = Scratch::new();
    let tables = |database: &str| {
        let connection = cluster.conninfo_db(database);
        output("stock", stock("pg_dump", &["--restrict-key=key", "-d", &connection]))
    };
    let expected = tables("postgres");
    for (number, format) in
        [ArchiveFormat::Custom, ArchiveFormat::Directory, ArchiveFormat::Tar].into_iter().enumerate()
    {
        let path = scratch.path().join(number.to_string());
        let options = DumpOptions { rows: RowFormat::CopyBinary, ..dump_options(3) };
        let mut dump = start(&cluster, &options);
        write_archive(&mut dump, &mut selection(), &archive_options(format, Compression::None), Some(&path))
            .unwrap();
        for program in ["stock", "ours"] {
            let database = format!("{program}_{number}");
            cluster.sql(&format!("CREATE DATABASE {database}"));
            let target = cluster.conninfo_db(&database);
            if program == "stock" {
                output("restore", stock("pg_restore", &["--exit-on-error", "-d", &target, text(&path)]));
            } else {
                restore_by_us(&path, &target, 1);
            }
            assert_same_text(&database, &expected, &tables(&database));
        }
    }
}

fn restore_by_us(path: &Path, target: &str, jobs: u32) {
    let mut archive = Archive::open(Input::Path(path.to_owned()), None).unwrap();
    let mut options = selection();
    options.selection.create = false;
    options.exit_on_error = true;
    options.jobs = jobs;
    assert_eq!(restore::restore(&mut archive, &mut options, &connection(target), &Silent).unwrap(), 0);
}

#[test]
fn older_layouts_are_read_by_all() {
    let cluster = cluster();
    let scratch = Scratch::new();
    cluster.sql("SELECT lo_unlink(oid) FROM pg_largeobject_metadata");
    let expected = stocks_script(&cluster);
    for (number, version) in [ArchiveVersion::V1_14, ArchiveVersion::V1_15].into_iter().enumerate() {
        for format in [ArchiveFormat::Custom, ArchiveFormat::Directory, ArchiveFormat::Tar] {
            let path: PathBuf = scratch.path().join(format!("{number}{format:?}"));
            let compression =
                if format == ArchiveFormat::Tar { Compression::None } else { Compression::Gzip };
            let options = ArchiveOptions { version, ..archive_options(format, compression) };
            write_file(&cluster, 2, &options, &path);
            let list = output("list", stock("pg_restore", &["-l", text(&path)]));
            let shown = format!("Dump Version: {version}");
            assert!(String::from_utf8_lossy(&list).contains(&shown), "no {shown}");
            assert_same_text(&shown, &expected, &script_by_stock(18, &path));
            assert_same_text(&shown, &expected, &script_by_us(&path));
        }
    }
}

/// Fails when it has taken so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_and_nobody_waits_for_ever() {
    let cluster = cluster();
    for jobs in [1, 3] {
        for room in [0, 5_000, 100_000, 1_000_000] {
            let mut dump = start(&cluster, &dump_options(jobs));
            let options = archive_options(ArchiveFormat::Custom, Compression::None);
            let error = write_archive_to(&mut dump, &mut selection(), &options, &mut Full(room)).unwrap_err();
            assert!(error.message.contains("could not write to output file"), "{}", error.message);
        }
    }
}

#[test]
fn a_session_that_is_lost_fails_the_dump_and_nothing_has_its_name() {
    let cluster = cluster();
    for format in [ArchiveFormat::Custom, ArchiveFormat::Directory, ArchiveFormat::Tar] {
        for jobs in [1, 3] {
            let scratch = Scratch::new();
            let mut dump = start(&cluster, &dump_options(jobs));
            // Fetching sessions come last.
            cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = 'postgres' AND pid <> pg_backend_pid() ORDER BY backend_start DESC LIMIT 1",
            );
            let path = scratch.path().join("archive");
            let options = archive_options(format, Compression::None);
            let error = write_archive(&mut dump, &mut selection(), &options, Some(&path)).unwrap_err();
            assert!(!error.message.is_empty());
            assert!(!path.is_file() && !path.join("toc.dat").exists(), "{format:?} {jobs}");
        }
    }
}

#[test]
fn a_lock_that_somebody_wants_is_not_waited_for() {
    let cluster = cluster();
    let mut dump = start(&cluster, &dump_options(2));
    // Waits for the dump's first session; the others must not wait for it in turn.
    let waiting = cluster.conninfo();
    let other = std::thread::spawn(move || {
        let mut connection =
            pgkeep_wire::Connection::connect(&connection(&waiting), pgkeep_wire::SessionMode::Sql).unwrap();
        drop(connection.execute("BEGIN; LOCK TABLE big IN ACCESS EXCLUSIVE MODE"));
    });
    while cluster.sql("SELECT count(*) FROM pg_locks WHERE NOT granted").trim() == "0" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let options = archive_options(ArchiveFormat::Custom, Compression::None);
    let error = write_archive_to(&mut dump, &mut selection(), &options, &mut io::sink()).unwrap_err();
    assert!(error.message.contains("could not obtain lock on relation \"public.big\""), "{}", error.message);
    drop(dump);
    other.join().unwrap();
}

#[test]
fn a_compressed_script_is_one_too() {
    let cluster = cluster();
    let expected = stocks_script(&cluster);
    let dump = start(&cluster, &dump_options(3));
    let mut options = RestoreOptions { restrict_key: Some("key".to_owned()), ..selection() };
    let mut out = Compressor::new(Vec::new(), Codec::of(Compression::Gzip), Framing::File).unwrap();
    write_script(dump, &mut options, &mut out, &Silent).unwrap();
    let compressed = out.finish().unwrap();
    let mut script = Vec::new();
    let reader = pgkeep_tool::compress::buffered_reader(&compressed[..], Compression::Gzip, Framing::File);
    io::Read::read_to_end(&mut reader.unwrap(), &mut script).unwrap();
    assert_same_text("gzip", &expected, &script);
}
