//! Backups of live servers of every major, from both sources, brought back: every table must hold the same rows.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{LIMIT, Site, all_digests, run_restore, said, start_restored};
use pgkeep_engine::list::list;
use pgkeep_engine::restore::{RecoveryTarget, RestoreRequest};
use pgkeep_testkit::{Cluster, StopMode, client, run_as_server_user, wait_until};
use serde_json::Value;

/// One combination of what a cluster and a backup can be.
#[derive(Clone, Copy)]
struct Case {
    major: u32,
    source: &'static str,
    wal: &'static str,
    checksums: bool,
    tablespace: bool,
    group_access: bool,
    separate_wal: bool,
    from_standby: bool,
    segment_mib: u32,
    compress: &'static str,
}

const PLAIN: Case = Case {
    major: 0,
    source: "local",
    wal: "include",
    checksums: true,
    tablespace: false,
    group_access: false,
    separate_wal: false,
    from_standby: false,
    segment_mib: 16,
    compress: "zstd:1",
};

#[test]
fn pg14_local_without_checksums_with_tablespace_and_archive() {
    prove(Case { major: 14, checksums: false, tablespace: true, wal: "archive", ..PLAIN });
}

/// A standby of 14 streams only to who asked it for its timeline before.
#[test]
fn pg14_stream_from_a_standby() {
    prove(Case { major: 14, source: "stream", from_standby: true, ..PLAIN });
}

#[test]
fn pg14_stream_with_group_access() {
    prove(Case { major: 14, source: "stream", group_access: true, compress: "lz4", ..PLAIN });
}

#[test]
fn pg15_local_with_small_segments() {
    prove(Case { major: 15, segment_mib: 1, ..PLAIN });
}

#[test]
fn pg15_stream_from_a_standby() {
    prove(Case { major: 15, source: "stream", from_standby: true, ..PLAIN });
}

#[test]
fn pg16_local_with_group_access_separate_wal_and_archive() {
    prove(Case { major: 16, group_access: true, separate_wal: true, wal: "archive", ..PLAIN });
}

#[test]
fn pg16_stream_with_tablespace() {
    prove(Case { major: 16, source: "stream", tablespace: true, compress: "none", ..PLAIN });
}

#[test]
fn pg17_local_with_tablespace_and_group_access() {
    prove(Case { major: 17, tablespace: true, group_access: true, ..PLAIN });
}

#[test]
fn pg17_stream_with_large_segments_and_archive() {
    prove(Case { major: 17, source: "stream", segment_mib: 64, wal: "archive", ..PLAIN });
}

#[test]
fn pg18_local_from_a_standby_with_tablespace() {
    prove(Case { major: 18, from_standby: true, tablespace: true, ..PLAIN });
}

#[test]
fn pg18_stream_without_checksums_with_archive() {
    prove(Case { major: 18, source: "stream", checksums: false, wal: "archive", ..PLAIN });
}

/// A server whose load dies down must not keep a backup waiting for a segment that never fills.
#[test]
fn the_segment_after_the_stop_is_not_waited_for() {
    let site = Site::new();
    let primary = Cluster::builder(17).wal_segment_mib(1).start();
    site.init(&primary);
    primary.sql("CREATE TABLE trickle (i int)");
    let segment_of = |lsn: &str| primary.sql(&format!("SELECT pg_walfile_name('{lsn}')"));
    for source in ["stream", "local"] {
        let stop = std::thread::scope(|scope| {
            let backup = scope.spawn(|| site.backup(&primary, &["--source", source, "--wal", "include"]));
            let begun = Instant::now();
            while !backup.is_finished() {
                assert!(begun.elapsed() < LIMIT, "{source}: the backup does not end");
                // A few hundred bytes at a time: the next segment begins at once and takes minutes to fill.
                primary.sql("INSERT INTO trickle VALUES (1)");
            }
            backup.join().unwrap()["stop_lsn"].as_str().unwrap().to_owned()
        });
        let next = primary.sql(&format!("SELECT pg_walfile_name('{stop}'::pg_lsn + 1048576)"));
        let now = segment_of(&primary.current_lsn());
        assert!(now <= next, "{source}: the backup stopped in {} and ended in {now}", segment_of(&stop));
    }
}

/// Takes a backup under load, then brings the cluster back twice: as it was when the backup ended, and as it is at the end.
fn prove(case: Case) {
    let site = Site::new();
    let primary = start(&site, case);
    seed(&primary, case);
    let standby = case.from_standby.then(|| Cluster::standby_of(&primary));

    let report = backup_under_load(&site, &primary, standby.as_ref().unwrap_or(&primary), case);
    assert_eq!(report["source"], case.source);
    assert_eq!(report["wal"], case.wal);
    assert_eq!(report["checksums_verified"], case.checksums);
    assert_eq!(report["bad_pages"], serde_json::json!([]));
    // A standby has its tablespaces elsewhere, and the backup was taken of it.
    let locations = tablespaces(standby.as_ref().unwrap_or(&primary));
    drop(standby);

    let id = report["id"].as_str().unwrap();
    let listed = list(&site.location()).unwrap();
    assert_eq!(listed.backups.iter().map(|backup| backup.id.as_str()).collect::<Vec<_>>(), [id]);

    // What was included is archived too now: identical duplicates, which must be taken for that.
    primary.alter_system("archive_command", &site.archive_command());
    primary.sql("CREATE TABLE after_backup AS SELECT i, md5(i::text) FROM generate_series(1, 1000) i");
    let digests = all_digests(&primary);
    let last = primary.switch_wal();
    site.wait_for_segment(&last);
    wait_until("the archiver to come to rest", LIMIT, || {
        primary.sql(&format!("SELECT coalesce(last_archived_wal >= '{last}', false) FROM pg_stat_archiver"))
            == "t"
    });
    let gaps = list(&site.location()).unwrap().gaps;
    assert!(gaps.is_empty(), "{gaps:?}");
    drop(primary);

    let request = restore_request(&site, RecoveryTarget::Latest, &locations);
    run_restore(&request).unwrap();
    check_directory(case, &request);
    let restored = start_restored(case.major, &request.destination);
    check_latest(case, &restored, &digests);
    check_pages(case, restored);

    // WAL after the end of the backup must not be needed for that end.
    let request = restore_request(&site, RecoveryTarget::Immediate, &locations);
    run_restore(&request).unwrap();
    check_immediate(&start_restored(case.major, &request.destination));
}

fn start(site: &Site, case: Case) -> Cluster {
    let mut builder = Cluster::builder(case.major)
        .checksums(case.checksums)
        .group_access(case.group_access)
        .wal_segment_mib(case.segment_mib)
        .conf("archive_mode", "on")
        .conf("wal_keep_size", "1GB")
        // Checkpoints during the backup are where torn and missing pages come from.
        .conf("checkpoint_timeout", "30s")
        .conf("archive_command", if case.wal == "archive" { site.archive_command() } else { String::new() });
    if case.segment_mib == 64 {
        builder = builder.conf("min_wal_size", "128MB");
    }
    if case.separate_wal {
        builder = builder.separate_wal();
    }
    let cluster = builder.start();
    site.init(&cluster);
    cluster
}

fn seed(cluster: &Cluster, case: Case) {
    cluster.pgbench_init(1);
    cluster.sql(
        "CREATE TABLE texts (id int PRIMARY KEY, body text, extra jsonb); \
         INSERT INTO texts SELECT i, repeat(md5(i::text), 200), jsonb_build_object('n', i) FROM generate_series(1, 300) i; \
         CREATE INDEX ON texts USING gin (extra); \
         CREATE UNLOGGED TABLE passing (i int PRIMARY KEY); \
         INSERT INTO passing SELECT generate_series(1, 1000); \
         CREATE TABLE emptied AS SELECT generate_series(1, 5000) i; \
         TRUNCATE emptied; \
         SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')); \
         DO $$ BEGIN FOR i IN 1..30 LOOP EXECUTE format('CREATE TABLE small_%s AS SELECT %s i', i, i); END LOOP; END $$",
    );
    if case.tablespace {
        cluster.create_tablespace("elsewhere");
        cluster.sql(
            "CREATE TABLE far TABLESPACE elsewhere AS SELECT i, md5(i::text) FROM generate_series(1, 3000) i; \
             CREATE INDEX far_index ON far (i) TABLESPACE elsewhere",
        );
        cluster.sql("CREATE DATABASE faraway TABLESPACE elsewhere");
        cluster.sql_db("faraway", "CREATE TABLE inside AS SELECT generate_series(1, 100) i");
    }
}

/// Takes a backup of `source` while the primary is busy with transactions, DDL and new databases.
fn backup_under_load(site: &Site, primary: &Cluster, source: &Cluster, case: Case) -> Value {
    // Ends by itself: a receiver of WAL that is slower than the load (a debug build, a busy machine) would never be done.
    let load = primary.pgbench_start(4);
    wait_until("the load to begin", LIMIT, || {
        primary.sql("SELECT count(*) > 50 FROM pgbench_history") == "t"
    });
    let report = std::thread::scope(|scope| {
        let backup = scope.spawn(|| {
            let arguments = ["--source", case.source, "--wal", case.wal, "--compress", case.compress];
            site.backup(source, &arguments)
        });
        let mut round = 0;
        while !backup.is_finished() && round < 10 {
            if round < 3 {
                primary.sql(&format!("CREATE DATABASE during_{round}"));
                primary.sql_db(
                    &format!("during_{round}"),
                    "CREATE TABLE there AS SELECT generate_series(1, 500) i; CREATE INDEX ON there (i)",
                );
            }
            primary.sql(&format!(
                "CREATE TABLE during_{round} AS SELECT i, md5(i::text) FROM generate_series(1, 2000) i; \
                 VACUUM during_{round}; TRUNCATE emptied; INSERT INTO emptied SELECT generate_series(1, 50); \
                 UPDATE texts SET body = body || '{round}' WHERE id % 30 = 0"
            ));
            if round > 0 {
                primary.sql(&format!("DROP TABLE during_{}", round - 1));
            }
            round += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        backup.join().unwrap()
    });
    load.stop();
    // pgbench's sessions may still be ending their last transactions.
    wait_until("the end of the load", LIMIT, || {
        primary.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") == "0"
    });
    report
}

/// Where the tablespaces of a cluster are.
fn tablespaces(cluster: &Cluster) -> Vec<String> {
    let places = cluster.sql(
        "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')",
    );
    places.lines().map(str::to_owned).collect()
}

fn restore_request(site: &Site, target: RecoveryTarget, locations: &[String]) -> RestoreRequest {
    let mut request = site.request(target);
    request.tablespace_map =
        locations.iter().map(|location| (location.clone(), site.destination())).collect();
    request
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

/// What a DBA sees before the server starts.
fn check_directory(case: Case, request: &RestoreRequest) {
    let directory = &request.destination;
    let (folder, file) = if case.group_access { (0o750, 0o640) } else { (0o700, 0o600) };
    assert_eq!(mode(directory), folder);
    for path in ["base", "global", "pg_wal", "pg_wal/archive_status"] {
        assert_eq!(mode(&directory.join(path)), folder, "{path}");
    }
    for (_, place) in &request.tablespace_map {
        assert_eq!(mode(place), folder);
    }
    for path in ["PG_VERSION", "global/pg_control", "backup_label", "postgresql.auto.conf", "recovery.signal"]
    {
        assert_eq!(mode(&directory.join(path)), file, "{path}");
    }
    assert!(!directory.join("postmaster.pid").exists());
    assert!(!directory.join("standby.signal").exists());
    let links: Vec<PathBuf> = fs::read_dir(directory.join("pg_tblspc"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .collect();
    let places: Vec<PathBuf> = request.tablespace_map.iter().map(|(_, new)| new.clone()).collect();
    assert_eq!(links, places);
}

fn check_latest(case: Case, restored: &Cluster, digests: &BTreeMap<String, String>) {
    assert_eq!(&all_digests(restored), digests);
    assert_eq!(restored.sql("SELECT count(*) FROM passing"), "0", "unlogged tables come back empty");
    restored.sql("INSERT INTO passing VALUES (1); INSERT INTO after_backup VALUES (0, 'works')");
    if case.tablespace {
        assert_eq!(restored.sql("SET enable_seqscan = off; SELECT count(*) FROM far WHERE i > 2990"), "10");
    }
    // Older installations come without the extension.
    if case.major >= 17 {
        let mut command = Command::new(client("pg_amcheck"));
        command.args(["--install-missing", "--heapallindexed", "--all", "-U", "postgres"]);
        command.arg("-h").arg(restored.socket_dir()).args(["-p", &restored.port().to_string()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "pg_amcheck: {}", said(&output));
    }
}

fn check_pages(case: Case, restored: Cluster) {
    restored.stop(StopMode::Fast);
    if case.checksums && case.major >= 17 {
        let mut command = Command::new(restored.installation().program("pg_checksums"));
        command.arg("--check").arg("-D").arg(restored.data_dir());
        run_as_server_user(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "pg_checksums: {}", said(&output));
    }
}

/// At the end of the backup the transactions of the load are there whole or not at all.
fn check_immediate(restored: &Cluster) {
    assert_eq!(restored.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'after_backup'"), "0");
    let sums = restored.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) \
         AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history) \
         AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)",
    );
    assert_eq!(sums, "t");
    assert_eq!(restored.sql("SELECT count(*) FROM pgbench_accounts"), "100000");
    assert_eq!(restored.sql("SELECT count(*) > 50 FROM pgbench_history"), "t");
    assert_eq!(restored.sql("SELECT count(*) FROM texts"), "300");
    restored.sql("CREATE TABLE writes_work (i int)");
}

/// Whose WAL ends with the backup: nothing is archived after it, and nothing happens on the primary while it is taken.
fn at_the_end_of_wal(major: u32) {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(major));
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let standby = Cluster::standby_of(&primary);
    site.archive_all(&primary);
    primary.sql("CHECKPOINT");
    standby.wait_for_replay_of(&primary);
    let report = site.backup(&standby, &[]);
    let expected = all_digests(&primary);
    let immediate = site.request(RecoveryTarget::Immediate);
    let copy = site.bring_back(major, &immediate);
    assert_eq!(all_digests(&copy), expected, "{report}");
}

#[test]
fn pg14_standby_backup_at_the_end_of_wal_comes_back() {
    at_the_end_of_wal(14);
}

#[test]
fn pg18_standby_backup_at_the_end_of_wal_comes_back() {
    at_the_end_of_wal(18);
}
