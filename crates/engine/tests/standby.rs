//! Standbys out of the repository: they stream, cascade, are promoted; the old primary is rewound with WAL of our archive and
//! follows the new one.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod exchange_support;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::{LIMIT, Site, all_digests, said};
use exchange_support::{output, run};
use pgkeep_testkit::{Cluster, StopMode, wait_until};
use serde_json::Value;

/// Makes a standby of a server.
#[track_caller]
fn create(site: &Site, primary: &Cluster, directory: &Path, slot: &str) -> Value {
    let (directory, conninfo) = (directory.display().to_string(), primary.conninfo());
    site.run(&["standby", "create", &directory, "-d", &conninfo, "--slot", slot, "--create-slot"])
}

fn wait_for_streaming(from: &Cluster, slot: &str) {
    wait_until(&format!("streaming through {slot}"), LIMIT, || {
        let query = format!(
            "SELECT count(*) FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid \
             WHERE r.state = 'streaming' AND s.slot_name = '{slot}'"
        );
        from.sql(&query) == "1"
    });
}

fn life(major: u32) {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(major).conf("wal_log_hints", "on"));
    primary.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 10000) i");
    site.backup(&primary, &[]);
    primary.sql("INSERT INTO t SELECT i, 'after the backup' FROM generate_series(1, 1000) i");
    site.archive_all(&primary);

    let place = site.destination();
    let report = create(&site, &primary, &place, "first");
    assert_eq!((&report["slot"], &report["slot_created"]), (&Value::from("first"), &Value::from(true)));
    let standby = Cluster::from_data_dir(
        major,
        &place,
        &[("archive_mode", "on"), ("wal_retrieve_retry_interval", "200ms")],
    );
    wait_for_streaming(&primary, "first");
    primary.sql("INSERT INTO t SELECT i, 'streamed' FROM generate_series(1, 1000) i");
    standby.wait_for_replay_of(&primary);
    assert_eq!(all_digests(&standby), all_digests(&primary));
    // No password, and no settings of the old server's own replication, were written.
    let auto = fs::read_to_string(place.join("postgresql.auto.conf")).unwrap();
    assert!(auto.contains("primary_slot_name = 'first'") && !auto.contains("password"), "{auto}");

    // A standby of the standby, through a slot of its own.
    let place = site.destination();
    create(&site, &standby, &place, "second");
    let cascaded = Cluster::from_data_dir(major, &place, &[("wal_retrieve_retry_interval", "200ms")]);
    wait_for_streaming(&standby, "second");
    primary.sql("INSERT INTO t SELECT i, 'cascaded' FROM generate_series(1, 1000) i");
    standby.wait_for_replay_of(&primary);
    wait_until("the cascade", LIMIT, || {
        cascaded.sql("SELECT count(*) FROM t") == standby.sql("SELECT count(*) FROM t")
    });
    assert_eq!(all_digests(&cascaded), all_digests(&primary));

    // The standby takes over, and the one behind it follows it onto its timeline.
    standby.promote();
    standby.sql("INSERT INTO t SELECT i, 'promoted' FROM generate_series(1, 1000) i; CHECKPOINT");
    wait_until("the new timeline", LIMIT, || {
        cascaded.sql("SELECT count(*) FROM t") == standby.sql("SELECT count(*) FROM t")
    });
    site.archive_all(&standby);

    // What the old primary goes on writing is on no standby.
    primary.sql("INSERT INTO t SELECT i, 'lost' FROM generate_series(1, 1000) i");
    let rest = site.archive_all(&primary);
    primary.sql("CHECKPOINT");
    primary.stop(StopMode::Fast);
    let rewind = pgkeep_testkit::installation(major).program("pg_rewind");
    if !rewind.exists() {
        // The installations of 14 to 16 have no client programs.
        return;
    }
    // WAL that pg_rewind must read is in the archive only.
    let wal = primary.data_dir().join("pg_wal");
    let mut gone = 0;
    for entry in fs::read_dir(&wal).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.len() == 24 && name <= rest && site.wal_object(&name).exists() {
            fs::remove_file(&path).unwrap();
            gone += 1;
        }
    }
    assert!(gone > 0, "nothing is left to fetch");
    let mut settings =
        fs::OpenOptions::new().append(true).open(primary.data_dir().join("postgresql.auto.conf")).unwrap();
    writeln!(settings, "restore_command = '{}'", site.restore_command()).unwrap();
    let (target, source) = (primary.data_dir().display().to_string(), standby.conninfo());
    let mut arguments = vec!["--target-pgdata", &target, "--source-server", &source];
    let without = output(&rewind, &arguments);
    assert!(!without.status.success(), "the archive was not needed: {}", said(&without));
    arguments.push("--restore-target-wal");
    run(&rewind, &arguments);
    let third = standby.sql("SELECT slot_name FROM pg_create_physical_replication_slot('third', true)");
    let auto = primary.data_dir().join("postgresql.auto.conf");
    let mut settings = fs::OpenOptions::new().append(true).open(&auto).unwrap();
    writeln!(settings, "primary_conninfo = '{}'\nprimary_slot_name = '{third}'", standby.conninfo()).unwrap();
    writeln!(settings, "restore_command = '{}'", site.restore_command()).unwrap();
    fs::write(primary.data_dir().join("standby.signal"), "").unwrap();
    primary.start();
    wait_for_streaming(&standby, "third");
    standby.sql("INSERT INTO t VALUES (0, 'all together')");
    primary.wait_for_replay_of(&standby);
    assert_eq!(primary.sql("SELECT count(*) FROM t WHERE md5 = 'lost'"), "0");
    assert_eq!(all_digests(&primary), all_digests(&standby));
}

#[test]
fn a_standby_of_14_lives() {
    life(14);
}

#[test]
fn a_standby_of_17_lives_and_the_old_primary_is_rewound() {
    life(17);
}

#[test]
fn a_standby_of_18_lives_and_the_old_primary_is_rewound() {
    life(18);
}

#[test]
fn what_cannot_be_a_standby_is_refused_before_anything_is_made() {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(16));
    site.backup(&primary, &[]);
    let other = Cluster::builder(16).fresh_identity().start();
    let place = site.destination();
    let directory = place.display().to_string();
    let refused = |arguments: &[&str]| -> String {
        let mut all = vec!["standby", "create", directory.as_str()];
        all.extend(arguments);
        let output = site.command(&all).output().unwrap();
        assert!(!output.status.success(), "{}", said(&output));
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&["-d", &other.conninfo()]);
    assert!(text.contains("belongs to another cluster"), "{text}");
    let conninfo = primary.conninfo();
    let text = refused(&["-d", &conninfo, "--slot", "absent"]);
    assert!(text.contains("--create-slot"), "{text}");
    primary.sql("CREATE ROLE weak LOGIN");
    let text = refused(&["-d", &format!("{conninfo} user=weak")]);
    assert!(text.contains("REPLICATION"), "{text}");
    // A restore that fails takes its slot with it.
    fs::remove_dir_all(site.repository().join("main/wal")).unwrap();
    let text = refused(&["-d", &conninfo, "--slot", "mine", "--create-slot"]);
    assert!(text.contains("WAL"), "{text}");
    assert_eq!(primary.sql("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn restore_makes_a_streaming_standby_too() {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(15));
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    site.backup(&primary, &[]);
    primary.sql("SELECT pg_create_physical_replication_slot('mine', true)");
    let place = site.destination();
    let (directory, conninfo) = (place.display().to_string(), primary.conninfo());
    site.run(&["restore", &directory, "--standby", "--primary", &conninfo, "--slot", "mine"]);
    let standby = Cluster::from_data_dir(15, &place, &[]);
    wait_for_streaming(&primary, "mine");
    primary.sql("INSERT INTO t VALUES (0)");
    standby.wait_for_replay_of(&primary);
    assert_eq!(all_digests(&standby), all_digests(&primary));
}
