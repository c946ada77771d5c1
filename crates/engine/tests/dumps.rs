//! Dumps in the repository, on real servers: taken, listed, verified, exported and restored by stock's program; damaged;
//! killed; expired; two at once; with a connection that breaks.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod stanza_support;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgkeep_engine::dump::{
    ArchiveCompression, ArchiveFormat, DumpChoice, DumpContent, DumpDestination, DumpExportRequest, DumpFile,
    DumpReport, DumpRequest, dump, export, verify_dumps,
};
use pgkeep_engine::event::Silent;
use pgkeep_engine::expire::{
    DumpRetention, ExpireChoice, ExpireReport, ExpireRequest, RetentionPolicy, expire, hold, release,
};
use pgkeep_engine::list::list;
use pgkeep_engine::verify::{VerifyRequest, verify};
use pgkeep_engine::{Cancel, Compression, ConnectionRequest, ErrorKind, Event, Location, Observer};
use pgkeep_testkit::{Cluster, client, table_digests};
use stanza_support::Place;

/// What the child is told: repository, connection, and where to die.
const CHILD: &str = "PGKEEP_TEST_DUMP_KILL";

fn request(location: &Location, conninfo: &str, choice: DumpChoice) -> DumpRequest {
    DumpRequest {
        connection: ConnectionRequest { conninfo: Some(conninfo.to_owned()), ..ConnectionRequest::default() },
        choice,
        content: DumpContent::default(),
        destination: DumpDestination::Repository {
            location: location.clone(),
            compression: Compression::default(),
            pack_bytes: Some(1 << 20),
        },
        jobs: 2,
        annotations: BTreeMap::new(),
        dry_run: false,
    }
}

fn one(name: &str) -> DumpChoice {
    DumpChoice::One(Some(name.to_owned()))
}

fn take(request: &DumpRequest) -> DumpReport {
    dump(request, &Silent, &Cancel::default()).unwrap()
}

/// A cluster with a database that has some of everything.
fn cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).wal_segment_mib(1).start();
    cluster.sql("CREATE DATABASE app");
    cluster.sql("CREATE ROLE reader; CREATE ROLE writer IN ROLE reader");
    cluster.sql_db(
        "app",
        "CREATE SCHEMA sales; \
         CREATE TABLE sales.orders (id int PRIMARY KEY, note text); \
         INSERT INTO sales.orders SELECT i, CASE WHEN i % 7 = 0 THEN E'a\\nb\\\\c' ELSE md5(i::text) END \
           FROM generate_series(1, 20000) AS i; \
         CREATE TABLE plain (t text); INSERT INTO plain VALUES (NULL), (''), (E'\\\\.'), (E'x\\ty'); \
         CREATE TABLE empty (i int); \
         CREATE VIEW all_orders AS SELECT * FROM sales.orders; \
         GRANT SELECT ON sales.orders TO reader; \
         SELECT lo_from_bytea(4711, decode(repeat('00ff', 5000), 'hex'))",
    );
    cluster
}

fn place(cluster: &Cluster) -> Place {
    let place = Place::new();
    place.init(cluster).unwrap();
    place
}

fn export_to(place: &Place, id: &str, name: &str, globals: bool) -> std::path::PathBuf {
    let path = place.directory.path().join(format!("{name}.{id}"));
    let request = DumpExportRequest {
        location: place.location.clone(),
        id: id.to_owned(),
        database: (!globals).then(|| name.to_owned()),
        globals,
        output: Some(path.clone()),
    };
    export(&request, &Cancel::default()).unwrap();
    path
}

/// Stock's `pg_restore` of 18 makes a database of an archive.
fn stock_restores(cluster: &Cluster, archive: &Path, into: &str) {
    cluster.sql(&format!("CREATE DATABASE {into}"));
    let output = Command::new(client("pg_restore"))
        .arg("-d")
        .arg(format!("{} dbname={into}", cluster.conninfo()))
        .arg(archive)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It sends a setting that servers before 17 do not have, and goes on.
    let expected = cluster.major() < 17
        && said.contains("transaction_timeout")
        && said.contains("errors ignored on restore: 1");
    assert!(output.status.success() || expected, "{said}");
}

#[test]
fn what_was_dumped_is_listed_verified_exported_and_restored_by_stock() {
    for major in [14, 18] {
        let cluster = cluster(major);
        let place = place(&cluster);
        let report = take(&request(&place.location, &cluster.conninfo(), one("app")));
        let id = report.id.clone().unwrap();
        assert_eq!(report.databases.len(), 1);
        assert_eq!(report.databases[0].rows, 20_004, "{report:?}");

        let listed = list(&place.location).unwrap().dumps;
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].id.as_str(), listed[0].rows, listed[0].tables), (id.as_str(), 20_004, 3));
        assert_eq!(listed[0].databases, ["app"]);
        assert!(listed[0].stored_bytes < listed[0].size_bytes, "{:?}", listed[0]);

        let verified = verify_dumps(&place.location, Some("latest"), &Silent, &Cancel::default()).unwrap();
        assert!(verified.ok, "{verified:?}");
        assert_eq!((verified.dumps[0].rows, verified.dumps[0].databases), (20_004, 1));

        let archive = export_to(&place, &id, "app", false);
        stock_restores(&cluster, &archive, "copy");
        assert_eq!(table_digests(&cluster, "copy"), table_digests(&cluster, "app"), "{major}");
        assert_eq!(cluster.sql_db("copy", "SELECT length(lo_get(4711))"), "10000");
    }
}

#[test]
fn a_set_of_all_databases_brings_back_roles_and_every_database() {
    let source = cluster(18);
    source.sql("CREATE DATABASE \"Odd \"\"name\"\"\"");
    let odd = "'Odd \"name\"'";
    source.sql_db(odd, "CREATE TABLE t AS SELECT generate_series(1, 100) AS i");
    source.sql("CREATE DATABASE closed ALLOW_CONNECTIONS false");
    let place = place(&source);
    let report = take(&request(&place.location, &source.conninfo(), DumpChoice::All));
    let names: Vec<&str> = report.databases.iter().map(|database| database.name.as_str()).collect();
    assert_eq!(names, ["Odd \"name\"", "app", "postgres", "template1"]);
    let id = report.id.unwrap();
    let listed = list(&place.location).unwrap().dumps;
    assert!(listed[0].globals);
    assert!(verify_dumps(&place.location, None, &Silent, &Cancel::default()).unwrap().ok);

    let target = Cluster::builder(18).wal_segment_mib(1).start();
    let globals = export_to(&place, &id, "globals", true);
    let output = Command::new(client("psql"))
        .args(["-X", "-d", &target.conninfo(), "-f"])
        .arg(&globals)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let members = "SELECT pg_has_role('writer', 'reader', 'member')";
    assert_eq!(target.sql(members), "t");
    stock_restores(&target, &export_to(&place, &id, "app", false), "app");
    assert_eq!(table_digests(&target, "app"), table_digests(&source, "app"));
    assert_eq!(target.sql_db("app", "SELECT has_table_privilege('reader', 'sales.orders', 'SELECT')"), "t");
    stock_restores(&target, &export_to(&place, &id, "Odd \"name\"", false), "odd");
    assert_eq!(target.sql_db("odd", "SELECT count(*) FROM t"), "100");
}

#[test]
fn a_choice_of_objects_is_what_is_in_the_dump() {
    let cluster = cluster(18);
    let place = place(&cluster);
    let mut chosen = request(&place.location, &cluster.conninfo(), one("app"));
    chosen.content.schemas.push("sales".to_owned());
    assert_eq!(take(&chosen).databases[0].rows, 20_000);
    let mut schema = request(&place.location, &cluster.conninfo(), one("app"));
    schema.content.schema_only = true;
    assert_eq!((take(&schema).databases[0].rows, take(&schema).databases[0].tables), (0, 0));
    let mut without = request(&place.location, &cluster.conninfo(), one("app"));
    without.content.exclude_table_data.push("sales.*".to_owned());
    assert_eq!(take(&without).databases[0].rows, 4);
    assert!(verify_dumps(&place.location, None, &Silent, &Cancel::default()).unwrap().ok);
    let mut missing = request(&place.location, &cluster.conninfo(), one("app"));
    missing.content.tables.push("nothing_like_this".to_owned());
    assert!(dump(&missing, &Silent, &Cancel::default()).is_err());
}

#[test]
fn files_of_each_format_are_read_by_stock() {
    let cluster = cluster(18);
    let place = place(&cluster);
    for (name, format, compression) in [
        ("custom", Some(ArchiveFormat::Custom), ArchiveCompression::Gzip),
        ("directory", Some(ArchiveFormat::Directory), ArchiveCompression::Gzip),
        ("tar", Some(ArchiveFormat::Tar), ArchiveCompression::None),
        ("plain", None, ArchiveCompression::None),
    ] {
        let path = place.directory.path().join(name);
        let mut wanted = request(&place.location, &cluster.conninfo(), one("app"));
        wanted.destination =
            DumpDestination::File(DumpFile { path: Some(path.clone()), format, compression, level: None });
        let report = take(&wanted);
        assert_eq!((report.id, report.databases[0].rows), (None, 20_004), "{name}");
        if format.is_some() {
            stock_restores(&cluster, &path, name);
        } else {
            cluster.sql(&format!("CREATE DATABASE {name}"));
            let output = Command::new(client("psql"))
                .args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &cluster.conninfo_db(name), "-f"])
                .arg(&path)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(table_digests(&cluster, name), table_digests(&cluster, "app"), "{name}");
    }
    assert!(list(&place.location).unwrap().dumps.is_empty());
}

/// Packs of dumps that lie in the repository, listed or not.
fn stored_packs(location: &Location) -> usize {
    location.open_stanza().unwrap().inventory().unwrap().dumps.packs.len()
}

fn verify_everything(location: &Location) -> pgkeep_engine::verify::VerifyReport {
    let request = VerifyRequest {
        location: location.clone(),
        backup: None,
        sample_percent: None,
        since_last: false,
        max_bytes: None,
        max_time: None,
        jobs: 2,
        seed: 1,
        dry_run: false,
    };
    verify(&request, &Silent, &Cancel::default()).unwrap()
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    let cluster = cluster(18);
    let place = place(&cluster);
    let good = take(&request(&place.location, &cluster.conninfo(), one("app"))).id.unwrap();
    let bad = take(&request(&place.location, &cluster.conninfo(), one("app"))).id.unwrap();
    assert!(verify_everything(&place.location).ok);
    let folder = Path::new(&place.location.repository).join("main/dump").join(&bad);
    let path = folder.join("pack-000001");
    let sound = std::fs::read(&path).unwrap();
    for at in [200, sound.len() / 2, sound.len() - 60] {
        let mut broken = sound.clone();
        broken[at] ^= 0x20;
        std::fs::write(&path, &broken).unwrap();
        let report = verify_everything(&place.location);
        assert!(!report.ok);
        let by_id: BTreeMap<&str, _> = report.dumps.iter().map(|dump| (dump.id.as_str(), dump)).collect();
        assert!(by_id[good.as_str()].ok);
        let damage = &by_id[bad.as_str()].damage;
        let object = format!("main/dump/{bad}/pack-000001");
        assert!(!damage.is_empty() && damage.iter().all(|damage| damage.object == object), "{damage:?}");
        let one = verify_dumps(&place.location, Some(&good), &Silent, &Cancel::default()).unwrap();
        assert!(one.ok);
    }
    std::fs::write(&path, &sound).unwrap();
    assert!(verify_everything(&place.location).ok);
    std::fs::remove_file(&path).unwrap();
    let report = verify_dumps(&place.location, Some(&bad), &Silent, &Cancel::default()).unwrap();
    assert!(report.dumps[0].damage.iter().any(|damage| damage.what == "it is not there"), "{report:?}");
    // A manifest that is damaged is listed with the reason, and found.
    let manifest = folder.join("manifest");
    let mut broken = std::fs::read(&manifest).unwrap();
    let at = broken.len() - 5;
    broken[at] ^= 1;
    std::fs::write(&manifest, broken).unwrap();
    let report = verify_dumps(&place.location, Some(&bad), &Silent, &Cancel::default()).unwrap();
    assert!(report.dumps[0].damage[0].object.ends_with("/manifest"), "{report:?}");
}

fn expire_request(location: &Location, count: Option<u32>) -> ExpireRequest {
    ExpireRequest {
        location: location.clone(),
        choice: ExpireChoice::Policy(RetentionPolicy::default()),
        dumps: DumpRetention { count, window_seconds: None },
        grace_seconds: 0,
        abandoned_after_seconds: 7 * 86_400,
        dry_run: false,
    }
}

fn run(request: &ExpireRequest) -> ExpireReport {
    expire(request, &Silent, &Cancel::default()).unwrap()
}

fn ids(location: &Location) -> Vec<String> {
    list(location).unwrap().dumps.into_iter().map(|dump| dump.id).collect()
}

#[test]
fn expire_removes_the_dumps_that_no_rule_keeps_and_says_why_the_others_stay() {
    let cluster = cluster(18);
    let place = place(&cluster);
    let location = &place.location;
    let taken: Vec<String> =
        (0..4).map(|_| take(&request(location, &cluster.conninfo(), one("app"))).id.unwrap()).collect();
    assert_eq!(ids(location), taken);
    hold(location, &taken[0], "audit").unwrap();
    let plan = run(&ExpireRequest { dry_run: true, ..expire_request(location, Some(1)) });
    assert_eq!(plan.removed_dumps, 2);
    let rules: Vec<(bool, String)> =
        plan.dumps.iter().map(|dump| (dump.keep, dump.rules.join("; "))).collect();
    assert_eq!(
        rules,
        [
            (true, "held: audit".to_owned()),
            (false, "no rule keeps it".to_owned()),
            (false, "no rule keeps it".to_owned()),
            (true, "count: number 1 of the newest 1".to_owned()),
        ]
    );
    assert_eq!(ids(location), taken);
    let done = run(&expire_request(location, Some(1)));
    assert_eq!(done.removed_dumps, 2);
    assert!(done.removed_packs >= 2 && done.freed_bytes > 0, "{done:?}");
    assert_eq!(ids(location), [taken[0].clone(), taken[3].clone()]);
    for id in &taken[1..3] {
        assert!(!Path::new(&location.repository).join("main/dump").join(id).exists());
    }
    assert!(verify_dumps(location, None, &Silent, &Cancel::default()).unwrap().ok);

    // The last one stays unless it is named; one that is held stays then, too.
    release(location, &taken[0]).unwrap();
    let mut old = expire_request(location, None);
    old.dumps.window_seconds = Some(0);
    run(&old);
    assert_eq!(ids(location), [taken[3].clone()]);
    hold(location, &taken[3], "").unwrap();
    let named =
        ExpireRequest { choice: ExpireChoice::Backup(taken[3].clone()), ..expire_request(location, None) };
    assert_eq!(expire(&named, &Silent, &Cancel::default()).unwrap_err().kind, ErrorKind::Locked);
    release(location, &taken[3]).unwrap();
    assert_eq!(run(&named).removed_dumps, 1);
    assert!(ids(location).is_empty());
    // Epochs go on.
    let next = take(&request(location, &cluster.conninfo(), one("app"))).id.unwrap();
    assert!(next > taken[3], "{next}");
}

/// Kills its own process at a step.
struct DieAt(String);

impl Observer for DieAt {
    fn event(&self, event: Event) {
        let name = match event {
            Event::StepStarted { step, .. } => format!("start {step:?}"),
            Event::StepFinished { step } => format!("end {step:?}"),
            Event::Item { name, .. } => format!("item {name}"),
            _ => return,
        };
        if name == self.0 {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[test]
#[ignore = "the child of the test below"]
fn child() {
    let told = std::env::var(CHILD).unwrap();
    let parts: Vec<&str> = told.split('|').collect();
    let location = Location { repository: parts[0].to_owned(), stanza: "main".to_owned() };
    let observer = DieAt(parts[2].to_owned());
    drop(dump(&request(&location, parts[1], DumpChoice::All), &observer, &Cancel::default()));
}

#[test]
fn a_dump_killed_at_any_step_is_not_listed_and_expire_removes_what_it_left() {
    let cluster = cluster(15);
    // More than a pack, so that a whole one is left.
    cluster
        .sql_db("app", "CREATE TABLE bulk AS SELECT md5(i::text) AS t FROM generate_series(1, 150000) AS i");
    let place = place(&cluster);
    let kept = take(&request(&place.location, &cluster.conninfo(), one("app"))).id.unwrap();
    let mut left = 0;
    for step in ["start Dump", "item app: sales.orders", "end Dump", "start Commit", "end Commit"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(CHILD, [&place.location.repository, &cluster.conninfo(), step].join("|"))
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(9), "{step}: {status}");
        // Behind the commit the dump counts, whatever becomes of the process.
        let expected = if step == "end Commit" { 2 } else { 1 };
        assert_eq!(ids(&place.location).len(), expected, "{step}");
        assert!(verify_dumps(&place.location, None, &Silent, &Cancel::default()).unwrap().ok, "{step}");
        let report = run(&expire_request(&place.location, Some(2)));
        assert_eq!(report.removed_dumps, 0, "{step}");
        left += report.removed_packs;
        let listed = list(&place.location).unwrap().dumps.len();
        assert!(stored_packs(&place.location) >= listed, "{step}");
        let folders = std::fs::read_dir(Path::new(&place.location.repository).join("main/dump")).unwrap();
        assert_eq!(folders.count(), expected, "{step}");
    }
    assert!(left > 0, "no killed dump left a pack");
    assert!(ids(&place.location).contains(&kept));
}

#[test]
fn a_dump_of_a_machine_that_never_comes_back_is_given_up_and_cannot_commit_later() {
    let cluster = cluster(18);
    let place = place(&cluster);
    let stanza = place.location.open_stanza().unwrap();
    let lease = pgkeep_repo::LeaseInfo {
        verb: "dump".into(),
        host: "elsewhere".into(),
        pid: 1,
        program: "test".into(),
    };
    let long_ago = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut writer = stanza.begin_dump(long_ago, lease, Compression::None).unwrap();
    writer.begin_part(pgkeep_repo::DumpPartKind::Archive, Some("app"));
    std::io::Write::write_all(&mut writer, b"asleep").unwrap();
    writer.end_part(0, &[]).unwrap();
    run(&expire_request(&place.location, Some(1)));
    let refused = writer.commit(pgkeep_repo::DumpHeader::default()).unwrap_err();
    assert!(matches!(refused, pgkeep_repo::RepoError::Fenced { .. }), "{refused}");
    run(&expire_request(&place.location, Some(1)));
    assert_eq!(stored_packs(&place.location), 0);
    assert!(ids(&place.location).is_empty());
    take(&request(&place.location, &cluster.conninfo(), one("app")));
    assert_eq!(ids(&place.location).len(), 1);
}

#[test]
fn two_dumps_at_once_and_an_expire_do_not_disturb_each_other() {
    let cluster = cluster(18);
    let place = place(&cluster);
    take(&request(&place.location, &cluster.conninfo(), one("app")));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3 {
                    take(&request(&place.location, &cluster.conninfo(), one("app")));
                }
            });
        }
        for _ in 0..6 {
            run(&expire_request(&place.location, Some(100)));
        }
    });
    assert_eq!(ids(&place.location).len(), 7);
    assert!(verify_dumps(&place.location, None, &Silent, &Cancel::default()).unwrap().ok);
}

#[test]
fn a_connection_that_breaks_is_an_error_and_nothing_is_listed() {
    let cluster = cluster(18);
    cluster.sql_db(
        "app",
        "CREATE TABLE long AS SELECT i, repeat('x', 200) AS t FROM generate_series(1, 300000) AS i",
    );
    let place = place(&cluster);
    let over = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                cluster.sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = 'app' AND query LIKE 'COPY %public.long%'",
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let outcome =
            dump(&request(&place.location, &cluster.conninfo(), one("app")), &Silent, &Cancel::default());
        over.store(true, Ordering::SeqCst);
        outcome
    });
    let error = outcome.unwrap_err();
    assert!(!error.hints.is_empty(), "{error:?}");
    assert!(error.to_string().contains("long"), "{error}");
    assert!(ids(&place.location).is_empty());
    // What was written is gone at once.
    assert_eq!(stored_packs(&place.location), 0);
}

#[test]
fn a_dump_that_is_interrupted_says_so_and_is_not_listed() {
    let cluster = cluster(18);
    let place = place(&cluster);
    struct Interrupt(Cancel);
    impl Observer for Interrupt {
        fn event(&self, event: Event) {
            if matches!(event, Event::StepStarted { .. }) {
                self.0.cancel();
            }
        }
    }
    let cancel = Cancel::default();
    let wanted = request(&place.location, &cluster.conninfo(), one("app"));
    let error = dump(&wanted, &Interrupt(cancel.clone()), &cancel).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Interrupted, "{error}");
    assert!(ids(&place.location).is_empty());
}

#[test]
fn another_cluster_is_refused() {
    let (first, second) = (cluster(18), Cluster::builder(18).start());
    let place = place(&first);
    let wanted = request(&place.location, &second.conninfo(), one("postgres"));
    assert_eq!(dump(&wanted, &Silent, &Cancel::default()).unwrap_err().kind, ErrorKind::Mismatch);
}
