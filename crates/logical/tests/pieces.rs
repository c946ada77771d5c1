//! One table loaded by several sessions, by the index of pieces that archives of pgkeep have.

#![allow(clippy::unwrap_used, reason = "an error in a helper is the test's failure as well")]

#[allow(dead_code, reason = "shared with tests that use all of it")]
mod dump_support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dump_support::{assert_same_text, output, stock, text};
use pgkeep_format::archive::{ArchiveFormat, Compression};
use pgkeep_logical::dump::write::{ArchiveOptions, write_archive, write_archive_to};
use pgkeep_logical::dump::{Dump, DumpOptions, RowFormat};
use pgkeep_logical::load::{
    LoadErrorKind, LoadEvent, LoadObserver, LoadRequest, LoadSelection, LoadSource, load,
};
use pgkeep_logical::restore::{self, Archive, Input, RestoreOptions, Selection};
use pgkeep_testkit::{Cluster, Scratch};
use pgkeep_tool::Reporter;
use pgkeep_wire::{ConnInfo, Environment};

/// The domain takes the number 5000 in databases only that say so.
const TABLES: &str = "
    CREATE DOMAIN careful AS integer
        CHECK (VALUE <> 5000 OR current_setting('test.allowed', true) IS NOT DISTINCT FROM 'yes');
    CREATE TABLE big (id careful PRIMARY KEY, filler text, n numeric GENERATED ALWAYS AS (id * 2) STORED);
    INSERT INTO big SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 6000) i;
    CREATE INDEX ON big (filler);
    CREATE TABLE one_column (v text);
    INSERT INTO one_column SELECT CASE WHEN i % 3 = 0 THEN '' WHEN i % 3 = 1 THEN '\\.' ELSE E'a\\nb' END
        FROM generate_series(1, 100000) i;
    CREATE TABLE wide (id integer, doc text);
    ALTER TABLE wide ALTER doc SET STORAGE EXTERNAL;
    INSERT INTO wide SELECT i, repeat(md5(i::text), 10000) FROM generate_series(1, 12) i;
    CREATE TABLE small AS SELECT 1 AS a;
";
/// Bytes of a piece.
const PIECE: u64 = 64 << 10;

/// Counts errors, and keeps what was said.
#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl Reporter for Kept {
    fn info(&self, _: &str) {}
    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn error(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

fn cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).start();
    cluster.sql("CREATE DATABASE shop");
    cluster.sql("ALTER DATABASE shop SET test.allowed = 'yes'");
    cluster.sql_db("shop", TABLES);
    cluster
}

fn conninfo(text: &str) -> ConnInfo {
    ConnInfo::resolve(Some(text), &Environment::empty()).unwrap()
}

fn dump_of(cluster: &Cluster, jobs: u32, rows: RowFormat) -> Dump {
    let options =
        DumpOptions { jobs, rows, part_bytes: PIECE, create_database: true, ..DumpOptions::default() };
    Dump::start(&conninfo(&cluster.conninfo_db("shop")), &options).unwrap()
}

fn selection() -> RestoreOptions {
    let selection = Selection { statistics: false, ..Selection::default() };
    RestoreOptions { selection, ..RestoreOptions::default() }
}

fn write(cluster: &Cluster, jobs: u32, rows: RowFormat, options: &ArchiveOptions, path: &Path) {
    let mut dump = dump_of(cluster, jobs, rows);
    let mut all = selection();
    all.selection.create = true;
    write_archive(&mut dump, &mut all, options, Some(path)).unwrap();
}

fn options(format: ArchiveFormat, compression: Compression) -> ArchiveOptions {
    ArchiveOptions { format, compression, sync: false, ..ArchiveOptions::default() }
}

fn new_database(cluster: &Cluster, name: &str, allowed: bool) -> String {
    cluster.sql(&format!("CREATE DATABASE {name}"));
    if allowed {
        cluster.sql(&format!("ALTER DATABASE {name} SET test.allowed = 'yes'"));
    }
    cluster.conninfo_db(name)
}

/// Everything that the database holds. Rows may lie in another order.
fn contents(connection: &str) -> Vec<u8> {
    let script = output("contents", stock("pg_dump", &["--restrict-key=key", "-d", connection]));
    let mut lines: Vec<&[u8]> = script.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.join(&b'\n')
}

fn restore_with(path: &Path, connection: &str, jobs: u32) -> (pgkeep_tool::Result<u64>, Vec<String>) {
    let mut archive = Archive::open(Input::Path(path.to_owned()), None).unwrap();
    let kept = Kept::default();
    let mut options = RestoreOptions { jobs, ..selection() };
    let result = restore::restore(&mut archive, &mut options, &conninfo(connection), &kept);
    (result, kept.0.into_inner().unwrap())
}

/// How many transactions wrote the rows that a table has.
fn transactions(cluster: &Cluster, database: &str, table: &str) -> u32 {
    cluster
        .sql_db(database, &format!("SELECT count(DISTINCT xmin::text) FROM {table}"))
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn sessions_that_restore_share_a_table() {
    let cluster = cluster(18);
    let scratch = Scratch::new();
    let expected = contents(&cluster.conninfo_db("shop"));
    let mut number = 0;
    for (format, compression, jobs, rows) in [
        (ArchiveFormat::Custom, Compression::None, 1, RowFormat::Copy),
        (ArchiveFormat::Custom, Compression::Gzip, 1, RowFormat::Copy),
        (ArchiveFormat::Custom, Compression::Lz4, 3, RowFormat::Copy),
        (ArchiveFormat::Custom, Compression::Zstd, 1, RowFormat::Copy),
        (ArchiveFormat::Custom, Compression::Gzip, 3, RowFormat::CopyBinary),
        (ArchiveFormat::Directory, Compression::None, 1, RowFormat::Copy),
        (ArchiveFormat::Directory, Compression::Gzip, 3, RowFormat::Copy),
        (ArchiveFormat::Directory, Compression::Lz4, 1, RowFormat::Copy),
        (ArchiveFormat::Directory, Compression::Zstd, 3, RowFormat::CopyBinary),
    ] {
        number += 1;
        let what = format!("{format:?} {compression:?} {jobs} {rows:?}");
        let path = scratch.path().join(number.to_string());
        write(&cluster, jobs, rows, &options(format, compression), &path);
        let database = format!("copy{number}");
        let connection = new_database(&cluster, &database, true);
        let (result, said) = restore_with(&path, &connection, 3);
        assert_eq!((result.unwrap(), said), (0, Vec::new()), "{what}");
        assert_same_text(&what, &expected, &contents(&connection));
        assert!(transactions(&cluster, &database, "big") > 4, "{what}");
        assert_eq!(transactions(&cluster, &database, "small"), 1);
        // Stock reads it as it reads its own. This one was built without the others.
        if !matches!(compression, Compression::None | Compression::Gzip) {
            continue;
        }
        let (theirs, target) = (format!("theirs{number}"), cluster.conninfo_db(&format!("theirs{number}")));
        new_database(&cluster, &theirs, true);
        output("stock", stock("pg_restore", &["--exit-on-error", "-d", &target, text(&path)]));
        assert_same_text(&what, &expected, &contents(&target));
        for database in [database, theirs] {
            cluster.sql(&format!("DROP DATABASE {database}"));
        }
    }
}

#[test]
fn an_archive_out_of_a_pipe_is_restored_by_several_sessions() {
    let cluster = cluster(17);
    let scratch = Scratch::new();
    let mut bytes = Vec::new();
    let mut dump = dump_of(&cluster, 2, RowFormat::Copy);
    let options = options(ArchiveFormat::Custom, Compression::Zstd);
    write_archive_to(&mut dump, &mut selection(), &options, &mut bytes).unwrap();
    let path = scratch.path().join("piped");
    std::fs::write(&path, &bytes).unwrap();
    let connection = new_database(&cluster, "copy", true);
    let (result, said) = restore_with(&path, &connection, 2);
    assert_eq!((result.unwrap(), said), (0, Vec::new()));
    assert_same_text("piped", &contents(&cluster.conninfo_db("shop")), &contents(&connection));
    assert!(transactions(&cluster, "copy", "big") > 4);
}

#[test]
fn a_refused_piece_leaves_no_row_and_counts_as_stocks() {
    let cluster = cluster(18);
    let scratch = Scratch::new();
    let path = scratch.path().join("archive");
    let gzip = options(ArchiveFormat::Custom, Compression::Gzip);
    write(&cluster, 1, RowFormat::Copy, &gzip, &path);
    let connection = new_database(&cluster, "ours", false);
    let (result, said) = restore_with(&path, &connection, 3);
    assert!(said.iter().any(|text| text.contains("violates check constraint")), "{said:?}");
    assert_eq!(cluster.sql_db("ours", "SELECT count(*) FROM big").trim(), "0");
    assert_eq!(cluster.sql_db("ours", "SELECT count(*) FROM one_column").trim(), "100000");
    let connection = new_database(&cluster, "theirs", false);
    let theirs = stock("pg_restore", &["-j3", "-d", &connection, text(&path)]);
    let said = String::from_utf8_lossy(&theirs.stderr).into_owned();
    let counted = format!("errors ignored on restore: {}", result.unwrap());
    assert!(said.contains(&counted), "{counted}, stock: {said}");
}

#[test]
fn damage_is_seen_and_its_rows_are_not_kept() {
    let cluster = cluster(18);
    let scratch = Scratch::new();
    let path = scratch.path().join("archive");
    let plain = options(ArchiveFormat::Custom, Compression::None);
    write(&cluster, 1, RowFormat::Copy, &plain, &path);
    let mut bytes = std::fs::read(&path).unwrap();
    let row = b"4000\t";
    let at = bytes.windows(row.len()).position(|bytes| bytes == row).unwrap();
    // Another digit is as good a number: nothing but the digest tells.
    bytes[at] = b'9';
    std::fs::write(&path, &bytes).unwrap();
    let connection = new_database(&cluster, "ours", true);
    let (result, _) = restore_with(&path, &connection, 2);
    let error = result.unwrap_err().message;
    assert!(error.contains("is not what the archive's index says (entry"), "{error}");
    assert_eq!(cluster.sql_db("ours", "SELECT count(*) FROM big WHERE id IN (4000, 9000)").trim(), "0");
    // A damaged index is told, and nothing else is lost by it.
    bytes[at] = b'4';
    let end = bytes.len() - 40;
    bytes[end] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let connection = new_database(&cluster, "again", true);
    let (result, said) = restore_with(&path, &connection, 2);
    assert_eq!(result.unwrap(), 0);
    assert!(said.iter().any(|text| text.contains("index of pieces is not used")), "{said:?}");
    assert_same_text("without index", &contents(&cluster.conninfo_db("shop")), &contents(&connection));
    assert_eq!(transactions(&cluster, "again", "big"), 1);
}

/// Interrupts a load when so many steps have begun.
struct Impatient {
    left: AtomicUsize,
}

impl LoadObserver for Impatient {
    fn event(&self, event: &LoadEvent<'_>) {
        if let LoadEvent::Started { step } = event
            && step.contains("big")
        {
            let left = self.left.load(Ordering::Relaxed);
            self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

fn request(cluster: &Cluster, database: &str, jobs: u32, resume: bool) -> LoadRequest {
    LoadRequest {
        target: conninfo(&cluster.conninfo_db(database)),
        selection: LoadSelection::default(),
        schema_names: Vec::new(),
        roles: Vec::new(),
        no_owner: false,
        no_privileges: false,
        no_tablespaces: false,
        jobs,
        maintenance_memory: None,
        into_existing: false,
        resume,
        continue_on_error: false,
        disable_triggers: false,
        no_analyze: false,
        dry_run: false,
    }
}

fn loads_in_pieces(major: u32) {
    let cluster = cluster(major);
    let scratch = Scratch::new();
    let expected = contents(&cluster.conninfo_db("shop"));
    for (number, (format, first, second)) in
        [(ArchiveFormat::Custom, 3, 1), (ArchiveFormat::Directory, 2, 4), (ArchiveFormat::Tar, 3, 2)]
            .into_iter()
            .enumerate()
    {
        let what = format!("{major} {format:?}");
        let path: PathBuf = scratch.path().join(number.to_string());
        let compression = if format == ArchiveFormat::Tar { Compression::None } else { Compression::Zstd };
        write(&cluster, 1, RowFormat::Copy, &options(format, compression), &path);
        let source = LoadSource::path(path);
        let database = format!("copy{number}");
        let impatient = Impatient { left: AtomicUsize::new(8) };
        let error = load(&source, &request(&cluster, &database, first, false), &impatient).unwrap_err();
        assert_eq!(error.kind, LoadErrorKind::Interrupted, "{error:?}");
        let rows: u32 = cluster.sql_db(&database, "SELECT count(*) FROM big").trim().parse().unwrap();
        assert!((1..6000).contains(&rows), "{rows} rows");
        // The number of sessions is another one now.
        let patient = Impatient { left: AtomicUsize::new(usize::MAX) };
        let report = load(&source, &request(&cluster, &database, second, true), &patient).unwrap();
        let result = report.result.unwrap();
        assert!(result.complete && result.steps_done_before > 0, "{result:?}");
        assert_eq!(report.plan.tables.iter().filter(|table| table.table.contains("big")).count(), 1);
        assert_eq!(result.tables.iter().filter(|table| table.table.contains("big")).count(), 1);
        assert_same_text(&what, &expected, &contents(&cluster.conninfo_db(&database)));
        assert!(transactions(&cluster, &database, "big") > 8, "{what}");
    }
}

#[test]
fn loads_share_a_table_and_go_on_in_the_middle_of_it_14() {
    loads_in_pieces(14);
}

#[test]
fn loads_share_a_table_and_go_on_in_the_middle_of_it_18() {
    loads_in_pieces(18);
}

#[test]
fn stock_reads_an_index_over_as_something_that_it_does_not_know() {
    let cluster = cluster(18);
    let scratch = Scratch::new();
    let path = scratch.path().join("archive");
    let plain = options(ArchiveFormat::Custom, Compression::None);
    write(&cluster, 1, RowFormat::Copy, &plain, &path);
    let bytes = std::fs::read(&path).unwrap();
    // Out of a pipe stock has to read over everything.
    let mut child = Command::new(pgkeep_testkit::client("pg_restore"))
        .args(["--data-only", "-t", "wide", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let script = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(script.status.success());
    assert_eq!(script.stdout.windows(6).filter(|bytes| bytes == b"COPY p").count(), 1);
}

fn verify(path: &Path) -> restore::ArchiveVerification {
    let mut archive = Archive::open(Input::Path(path.to_owned()), None).unwrap();
    restore::verify_archive(&mut archive, &mut |_| Ok(())).unwrap()
}

#[test]
fn an_archive_is_compared_with_its_index() {
    let cluster = cluster(18);
    cluster.sql_db(
        "shop",
        "SELECT lo_from_bytea(0, convert_to(repeat(i::text, i * 50), 'UTF8')) FROM generate_series(1, 150) i; \
         SELECT lo_create(0)",
    );
    let rows = 6000 + 100_000 + 12 + 1;
    let scratch = Scratch::new();
    let inserts = RowFormat::Inserts { rows_per_command: 10, name_columns: false, skip_conflicts: false };
    for (number, (format, compression, rows_as)) in [
        (ArchiveFormat::Custom, Compression::None, RowFormat::Copy),
        (ArchiveFormat::Custom, Compression::Gzip, RowFormat::CopyBinary),
        (ArchiveFormat::Directory, Compression::Zstd, RowFormat::Copy),
        (ArchiveFormat::Directory, Compression::Lz4, inserts),
        (ArchiveFormat::Tar, Compression::None, RowFormat::Copy),
    ]
    .into_iter()
    .enumerate()
    {
        let path = scratch.path().join(number.to_string());
        write(&cluster, 2, rows_as, &options(format, compression), &path);
        let found = verify(&path);
        assert_eq!(found.damage, []);
        let counts = (found.tables, found.large_objects, found.entries, found.indexed);
        assert_eq!(counts, (4, 151, 5, 5), "{format:?} {compression:?}");
        assert_eq!(found.rows, rows, "{format:?} {compression:?} {rows_as:?}");
        assert!(found.indexed > 4);
        // Bytes that were changed are found wherever they are, but for those of the table of contents.
        let file = if format == ArchiveFormat::Directory { largest_file(&path) } else { path.clone() };
        let whole = std::fs::read(&file).unwrap();
        for part in [3, 5, 7] {
            let mut bytes = whole.clone();
            let at = bytes.len() / 10 * part;
            bytes[at] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            let found = verify(&path);
            assert_eq!(found.damage.len(), 1, "{format:?} at {at}: {found:?}");
        }
        std::fs::write(&file, &whole).unwrap();
    }
    // Stock's have no index.
    let path = scratch.path().join("stock");
    let connection = cluster.conninfo_db("shop");
    output("stock", stock("pg_dump", &["-Fc", "-d", &connection, "-f", text(&path)]));
    let found = verify(&path);
    assert_eq!((found.damage.len(), found.rows, found.indexed, found.large_objects), (0, rows, 0, 151));
}

fn largest_file(directory: &Path) -> PathBuf {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}
