//! Incremental backups of live servers, brought back: each is complete, holds what the cluster held, and costs what changed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::fs;

use common::{Site, all_digests, run_restore, start_restored};
use pgkeep_engine::list::list;
use pgkeep_engine::restore::{RecoveryTarget, RestoreRequest};
use pgkeep_testkit::{Cluster, StopMode};
use serde_json::Value;

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("no `{field}` in {report}"))
}

/// Restores that very backup, to where it is consistent.
fn bring_back(site: &Site, major: u32, id: &str) -> Cluster {
    let request = RestoreRequest { backup: Some(id.to_owned()), ..site.request(RecoveryTarget::Immediate) };
    run_restore(&request).unwrap_or_else(|error| panic!("{id}: {error:#?}"));
    start_restored(major, &request.destination)
}

fn workload(cluster: &Cluster, round: u32) {
    cluster.sql(&format!(
        "UPDATE accounts SET balance = balance + {round} WHERE id % 97 = {round};
         DELETE FROM accounts WHERE id % 1009 = {round};
         INSERT INTO journal SELECT i, md5(i::text) FROM generate_series({round} * 1000, {round} * 1000 + 500) i;
         DROP TABLE IF EXISTS passing;
         CREATE TABLE passing AS SELECT {round} AS round, repeat('x', 300) AS s FROM generate_series(1, 200)"
    ));
    // What moves whole files: rewritten, shrunk, copied, dropped.
    match round % 4 {
        0 => drop(cluster.sql("VACUUM FULL journal")),
        1 => {
            cluster.sql("DELETE FROM accounts WHERE id > 15000");
            cluster.sql("VACUUM accounts");
        }
        2 => drop(cluster.sql("CREATE DATABASE other TEMPLATE template0")),
        _ => {
            cluster.sql("DROP DATABASE IF EXISTS other");
            cluster.sql("REINDEX TABLE accounts");
        }
    }
}

/// How a chain of backups is taken.
#[derive(Clone, Copy)]
struct Case {
    major: u32,
    source: &'static str,
    checksums: bool,
    /// How changes are to be found: by the archived WAL, by comparing, or by the server's own summaries.
    changes: &'static str,
}

fn start(site: &Site, case: Case) -> Cluster {
    let mut builder = Cluster::builder(case.major).checksums(case.checksums).wal_segment_mib(1);
    if case.changes == "server" {
        builder = builder.conf("summarize_wal", "on");
    }
    if case.changes == "wal" {
        return site.archiving(builder);
    }
    let cluster = builder.start();
    site.init(&cluster);
    cluster
}

fn prove(case: Case) {
    let Case { major, source, changes, .. } = case;
    let site = Site::new();
    let cluster = start(&site, case);
    cluster.sql(
        "CREATE TABLE accounts AS SELECT i AS id, 0::bigint AS balance, repeat(md5(i::text), 3) AS filler
             FROM generate_series(1, 20000) i;
         ALTER TABLE accounts ADD PRIMARY KEY (id);
         CREATE TABLE journal (id int, entry text);
         CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS i",
    );
    let mut taken = Vec::new();
    for round in 0..5 {
        if round > 0 {
            workload(&cluster, round);
        }
        let wal = if changes == "wal" { "archive" } else { "include" };
        let report = site.backup(&cluster, &["--source", source, "--wal", wal, "--changes", changes]);
        assert_eq!(report["type"], if round == 0 { "full" } else { "incr" });
        let parent = taken.last().map(|(id, _): &(String, _)| id.clone());
        assert_eq!(report["parent"].as_str().map(str::to_owned), parent);
        if round > 0 {
            assert_eq!(report["changes"], changes, "{report}");
            if changes != "compare" && round != 2 {
                assert!(number(&report, "read_bytes") < number(&report, "size_bytes") / 2, "{report}");
            }
            // Far less than the cluster: template databases and most of the table stay where they are.
            // A database that was created is new as a whole.
            let share = if round == 2 { 2 } else { 3 };
            assert!(number(&report, "new_bytes") < number(&report, "size_bytes") / share, "{report}");
            assert!(number(&report, "unchanged_files") > number(&report, "files") / share, "{report}");
        }
        taken.push((report["id"].as_str().unwrap().to_owned(), all_digests(&cluster)));
    }
    // Every one alone: its packs are those that its manifest lists, and no other manifest is there.
    for (id, digests) in &taken {
        let restored = bring_back(&site, major, id);
        assert_eq!(&all_digests(&restored), digests, "{id}");
        restored.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
        restored.sql("SELECT bt_index_check('accounts_pkey', true)");
        // What the visibility map says is so: its bits are cleared without a block reference in WAL on older servers.
        restored.sql("CREATE EXTENSION IF NOT EXISTS pg_visibility");
        for table in ["accounts", "journal"] {
            let wrong = format!(
                "SELECT (SELECT count(*) FROM pg_check_visible('{table}')), (SELECT count(*) FROM pg_check_frozen('{table}'))"
            );
            assert_eq!(restored.sql(&wrong), "0|0", "{id}: {table}");
        }
    }
    for (id, _) in &taken[..taken.len() - 1] {
        fs::remove_file(site.repository().join(format!("main/backup/{id}/manifest"))).unwrap();
    }
    let (id, digests) = taken.last().unwrap();
    assert_eq!(&all_digests(&bring_back(&site, major, id)), digests);
}

#[test]
fn pg14_local_without_checksums() {
    prove(Case { major: 14, source: "local", checksums: false, changes: "compare" });
}

#[test]
fn pg14_by_wal_without_checksums() {
    prove(Case { major: 14, source: "local", checksums: false, changes: "wal" });
}

#[test]
fn pg15_stream() {
    prove(Case { major: 15, source: "stream", checksums: true, changes: "compare" });
}

#[test]
fn pg15_by_wal() {
    prove(Case { major: 15, source: "local", checksums: true, changes: "wal" });
}

#[test]
fn pg16_by_wal() {
    prove(Case { major: 16, source: "local", checksums: true, changes: "wal" });
}

#[test]
fn pg17_by_wal_without_checksums() {
    prove(Case { major: 17, source: "local", checksums: false, changes: "wal" });
}

#[test]
fn pg17_stream_without_checksums() {
    prove(Case { major: 17, source: "stream", checksums: false, changes: "compare" });
}

#[test]
fn pg17_by_the_server() {
    prove(Case { major: 17, source: "stream", checksums: true, changes: "server" });
}

#[test]
fn pg18_by_the_server_without_checksums() {
    prove(Case { major: 18, source: "stream", checksums: false, changes: "server" });
}

#[test]
fn pg18_local() {
    prove(Case { major: 18, source: "local", checksums: true, changes: "compare" });
}

#[test]
fn pg18_by_wal() {
    prove(Case { major: 18, source: "local", checksums: true, changes: "wal" });
}

/// The server that is backed up next was promoted in between: what changed is followed across the timelines, or compared.
#[test]
fn a_promotion_between_two_incrementals() {
    for major in [14, 18] {
        let site = Site::new();
        let primary = site.archiving(Cluster::builder(major).wal_segment_mib(1));
        primary.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS s FROM generate_series(1, 20000) i");
        let full = site.backup(&primary, &[]);
        let standby = Cluster::standby_of(&primary);
        primary.sql("UPDATE t SET s = 'before' WHERE i % 100 = 1");
        site.archive_all(&primary);
        standby.wait_for_replay_of(&primary);
        primary.stop(StopMode::Fast);
        standby.promote();
        standby.sql("UPDATE t SET s = 'after' WHERE i % 100 = 2");
        let report = site.backup(&standby, &["--wal", "include"]);
        assert_eq!((&report["type"], &report["parent"]), (&"incr".into(), &full["id"]), "{report}");
        assert_eq!(report["timeline"], 2, "{report}");
        assert!(number(&report, "new_bytes") < number(&report, "size_bytes") / 2, "{report}");
        let digests = all_digests(&standby);
        let restored = bring_back(&site, major, report["id"].as_str().unwrap());
        assert_eq!(all_digests(&restored), digests);
    }
}

/// A hole in the WAL since the parent: what changed in it is unknown, so everything is read, and the reason is told.
#[test]
fn a_hole_in_the_wal_makes_the_next_backup_read_everything() {
    let site = Site::new();
    let cluster = site.archiving(Cluster::builder(17).wal_segment_mib(1));
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i; VACUUM FREEZE t");
    site.backup(&cluster, &[]);
    cluster.sql("UPDATE t SET md5 = 'changed in the hole' WHERE i % 100 = 0");
    let lost = site.archive_all(&cluster);
    cluster.sql("CHECKPOINT; UPDATE t SET md5 = 'changed later' WHERE i % 100 = 1");
    site.archive_all(&cluster);
    fs::remove_file(site.wal_object(&lost)).unwrap();
    // The server's own copy of it must be gone too, or it would do as well.
    cluster.sql("CHECKPOINT");
    drop(fs::remove_file(cluster.data_dir().join("pg_wal").join(&lost)));
    let report = site.backup(&cluster, &[]);
    assert_eq!((&report["type"], &report["changes"]), (&"incr".into(), &"compare".into()), "{report}");
    assert!(report["changes_reason"].as_str().unwrap().contains(&lost), "{report}");
    let digests = all_digests(&cluster);
    assert_eq!(all_digests(&bring_back(&site, 17, report["id"].as_str().unwrap())), digests);
    // From here on there is no hole any more.
    let next = site.backup(&cluster, &[]);
    assert_eq!(next["changes"], "wal", "{next}");
}

/// The published fault: rows that were deleted, and whose pages were cut off, must not come back when the file grows again
/// by pages that no WAL names.
#[test]
fn rows_of_a_truncated_table_do_not_come_back() {
    for changes in ["wal", "compare", "server"] {
        let site = Site::new();
        let builder = Cluster::builder(18).wal_segment_mib(1).conf("autovacuum", "off");
        let cluster = site.archiving(builder.conf("summarize_wal", "on"));
        cluster.sql("CREATE TABLE t (i int, s text); INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 30000) i");
        site.backup(&cluster, &["--changes", changes]);
        cluster.sql("DELETE FROM t WHERE i > 1000");
        cluster.sql("VACUUM t");
        site.backup(&cluster, &["--changes", changes]);
        // A crash while the file grows: the pages are there, the WAL is not.
        let path = cluster.data_dir().join(cluster.sql("SELECT pg_relation_filepath('t')").trim());
        cluster.sql("CHECKPOINT");
        cluster.stop(StopMode::Immediate);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length + 300 * 8192).unwrap();
        drop(file);
        cluster.restart();
        let report = site.backup(&cluster, &["--changes", changes]);
        assert_eq!(report["changes"], changes, "{report}");
        let restored = bring_back(&site, 18, report["id"].as_str().unwrap());
        assert_eq!(restored.sql("SELECT count(*), max(i) FROM t"), "1000|1000");
    }
}

/// A cluster at rest: nothing of it is stored again, whatever the type says about the parent.
#[test]
fn what_did_not_change_costs_nothing_and_diff_builds_on_the_last_full_one() {
    let site = Site::new();
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    site.init(&cluster);
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i; VACUUM FREEZE t");
    let full = site.backup(&cluster, &["--type", "incr"]);
    assert_eq!(full["type"], "full", "there is none to build on");
    let first = site.backup(&cluster, &[]);
    assert_eq!(first["parent"], full["id"]);
    assert!(number(&first, "stored_bytes") < 100_000, "{first}");
    let diff = site.backup(&cluster, &["--type", "diff"]);
    assert_eq!((&diff["type"], &diff["parent"]), (&"diff".into(), &full["id"]));
    let again = site.backup(&cluster, &["--type", "full"]);
    assert!(again["parent"].is_null());
    assert_eq!(number(&again, "new_bytes") / 10, number(&full, "new_bytes") / 10);
}

/// One page in fifty, scattered: pages share frames, and the backup costs about what they compress to.
#[test]
fn scattered_pages_share_frames() {
    let site = Site::new();
    let cluster = Cluster::builder(17).checksums(true).wal_segment_mib(1).start();
    site.init(&cluster);
    cluster.sql(
        "CREATE TABLE wide (id int, v int, s text) WITH (fillfactor = 90);
         INSERT INTO wide SELECT i, 0, repeat(md5(i::text), 20) FROM generate_series(1, 60000) i;
         VACUUM FREEZE wide",
    );
    site.backup(&cluster, &["--source", "local"]);
    cluster.sql(
        "UPDATE wide SET v = v + 1 WHERE (ctid::text::point)[0]::int % 50 = 7 AND (ctid::text::point)[1] = 1",
    );
    let pages: u64 = cluster.sql("SELECT pg_relation_size('wide') / 8192").parse().unwrap();
    let report = site.backup(&cluster, &["--source", "local"]);
    let new_blocks = number(&report, "new_bytes") / 8192;
    assert!(new_blocks >= pages / 50 && new_blocks < pages / 50 + 150, "{new_blocks} of {pages}: {report}");
    // Leaves of the map (2 KiB of digests for each 256 blocks), and the pages compressed.
    let limit = pages / 256 * 2600 + new_blocks * 8192 / 3 + 50_000;
    assert!(number(&report, "stored_bytes") < limit, "{report}, limit {limit}");
}

/// A restore must not become dearer with every backup: what it reads after a hundred of them stays within a small multiple
/// of what it reads after a full one.
#[test]
fn a_hundred_incrementals_in_a_row_restore_like_one() {
    let site = Site::new();
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    site.init(&cluster);
    cluster.sql(
        "CREATE TABLE pages (id int PRIMARY KEY, v int, s text) WITH (fillfactor = 60);
         INSERT INTO pages SELECT i, 0, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i;
         VACUUM FREEZE pages",
    );
    site.backup(&cluster, &["--source", "local"]);
    let mut last = Value::Null;
    for round in 1..=100 {
        // Rows that lie some fifty pages apart, others every time.
        cluster.sql(&format!("UPDATE pages SET v = v + 1 WHERE id % 251 = ({round} * 37) % 251"));
        last = site.backup(&cluster, &["--source", "local"]);
        assert_eq!(last["type"], "incr", "{last}");
    }
    let digests = all_digests(&cluster);
    let full = site.backup(&cluster, &["--source", "local", "--type", "full"]);
    let read = |report: &Value| {
        let backup = Some(report["id"].as_str().unwrap().to_owned());
        let request = RestoreRequest { backup, ..site.request(RecoveryTarget::Immediate) };
        let read = run_restore(&request).unwrap().read_bytes;
        (read, request.destination)
    };
    let (from_full, _) = read(&full);
    let (from_last, directory) = read(&last);
    println!("read by a restore: {from_full} of a full backup, {from_last} after 100 incremental ones");
    assert!(from_last < 4 * from_full, "{from_last} bytes against {from_full}");
    assert_eq!(all_digests(&start_restored(18, &directory)), digests);
    // Packs that nothing is needed of are not listed: what is kept of a hundred backups does not grow with their number.
    let manifest = list(&site.location()).unwrap();
    assert_eq!(manifest.backups.len(), 102);
}

fn check_sample(site: &Site, cluster: &Cluster) -> Value {
    let conninfo = cluster.conninfo();
    let arguments = ["check", "-d", &conninfo, "--incremental-sample", "100", "--json"];
    let output = site.command(&arguments).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == "incremental_sample").unwrap().clone()
}

/// A block that changed without a word in WAL: the sample finds it, and the next backup trusts no WAL.
#[test]
fn a_sample_finds_what_wal_did_not_tell_and_the_next_backup_reads_everything() {
    let site = Site::new();
    // Without checksums, so that the block looks sound to the server.
    let cluster = site.archiving(Cluster::builder(16).wal_segment_mib(1).checksums(false));
    cluster.sql(
        "CREATE TABLE t AS SELECT i, md5(i::text) AS s FROM generate_series(1, 20000) i; VACUUM FREEZE t",
    );
    site.backup(&cluster, &[]);
    // Hint bits and real changes alike are no reason to worry.
    cluster.sql("UPDATE t SET s = 'other' WHERE i % 50 = 0; SELECT count(*) FROM t; CHECKPOINT");
    let sound = check_sample(&site, &cluster);
    assert_eq!(sound["outcome"], "ok", "{sound}");
    assert_eq!(site.backup(&cluster, &[])["changes"], "wal");

    let path = cluster.sql("SELECT pg_relation_filepath('t')").trim().to_owned();
    cluster.stop(StopMode::Fast);
    let file = cluster.data_dir().join(&path);
    let mut bytes = fs::read(&file).unwrap();
    // In the middle of a row of a page that nobody touches.
    let at = 100 * 8192 + 8100;
    bytes[at] ^= 0x20;
    fs::write(&file, &bytes).unwrap();
    cluster.start();
    let found = check_sample(&site, &cluster);
    assert_eq!(found["outcome"], "failed", "{found}");
    assert!(found["text"].as_str().unwrap().contains(&format!("`{path}` block 100")), "{found}");
    let report = site.backup(&cluster, &[]);
    assert_eq!(report["changes"], "compare", "{report}");
    assert!(report["changes_reason"].as_str().unwrap().contains("sample"), "{report}");
    let digests = all_digests(&cluster);
    assert_eq!(all_digests(&bring_back(&site, 16, report["id"].as_str().unwrap())), digests);
    // It compared everything, so that from here on WAL tells what changes again.
    assert_eq!(site.backup(&cluster, &[])["changes"], "wal");
}

/// Damage must not be inherited: what `verify` knows to be bad is not built on.
#[test]
fn a_damaged_backup_is_not_built_on() {
    let site = Site::new();
    let cluster = Cluster::builder(17).wal_segment_mib(1).start();
    site.init(&cluster);
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i");
    let sound = site.backup(&cluster, &[]);
    cluster.sql("UPDATE t SET md5 = 'x'");
    let damaged = site.backup(&cluster, &["--type", "full"]);
    let pack = site.repository().join(format!("main/backup/{}/pack-000001", damaged["id"].as_str().unwrap()));
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&pack, bytes).unwrap();
    let verified = site.command(&["verify", "--json"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(17));
    let next = site.backup(&cluster, &[]);
    assert_eq!(next["parent"], sound["id"], "{next}");
    assert!(next["type_reason"].as_str().unwrap().contains("is damaged"), "{next}");
}

/// Any backup can go, in any order, and the others stay whole: packs go when no backup needs them any more.
#[test]
fn backups_can_be_removed_in_any_order() {
    let site = Site::new();
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    site.init(&cluster);
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS s FROM generate_series(1, 20000) i");
    let mut taken = Vec::new();
    for round in 0..6 {
        cluster.sql(&format!("UPDATE t SET s = 'round {round}' WHERE i % 6 = {round}"));
        let id = site.backup(&cluster, &[])["id"].as_str().unwrap().to_owned();
        taken.push((id, all_digests(&cluster)));
    }
    for gone in [2, 0, 4] {
        let report = site.run(&["expire", "--backup", &taken[gone].0, "--grace", "0s"]);
        assert_eq!(report["removed_backups"], 1, "{report}");
    }
    let verified = site.command(&["verify", "--json"]).output().unwrap();
    assert!(verified.status.success(), "{}", common::said(&verified));
    for kept in [1, 3, 5] {
        let (id, digests) = &taken[kept];
        assert_eq!(&all_digests(&bring_back(&site, 18, id)), digests, "{id}");
    }
}
