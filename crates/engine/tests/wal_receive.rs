//! `wal receive` on real servers: what it received is restored, from the repository alone; beside `wal push`; over a
//! failover; after its slot was lost.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod common;
mod receiver_support;

use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_testkit::{Cluster, ClusterBuilder, StopMode, wait_until};

use common::{LIMIT, Site, said};
use receiver_support::{Receiver, report_of, store_spool, wait_for_flush, window_end};

fn builder(major: u32) -> ClusterBuilder {
    Cluster::builder(major).wal_segment_mib(1).conf("wal_keep_size", "256MB")
}

fn lsn(text: &str) -> u64 {
    text.parse::<pgkeep_format::Lsn>().unwrap().0
}

#[test]
fn the_beginning_of_the_open_segment_is_restored_from_the_repository_alone() {
    for major in [14, 18] {
        let site = Site::new();
        let cluster = builder(major).start();
        site.init(&cluster);
        let receiver = Receiver::start(&site, &cluster.conninfo(), &["--partial-every", "1"]);
        site.backup(&cluster, &["--source", "stream"]);
        cluster.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
        cluster.switch_wal();
        let before = cluster.current_lsn();
        cluster.sql("INSERT INTO t VALUES (2)");
        let position = cluster.current_lsn();
        wait_until("a tail in the repository", LIMIT, || lsn(&window_end(&site)) >= lsn(&position));
        // A position in it can be a target.
        let target = RecoveryTarget::Lsn(before.parse().unwrap());
        let restored = site.bring_back(major, &site.request(target));
        assert_eq!(restored.sql("SELECT count(*) >= 1 FROM t"), "t", "{major}");
        cluster.crash();
        receiver.kill();
        // The spool is on the disk that was lost.
        std::fs::remove_dir_all(receiver_support::spool(&site)).unwrap();
        let restored = site.bring_back(major, &site.request(RecoveryTarget::Latest));
        assert_eq!(restored.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1,2", "{major}");
    }
}

#[test]
fn a_receiver_that_was_killed_goes_on_and_tails_go_when_segments_are_whole() {
    let site = Site::new();
    let cluster = builder(17).start();
    site.init(&cluster);
    site.backup(&cluster, &["--source", "stream"]);
    cluster.sql("CREATE TABLE t (n int)");
    for round in 0..3 {
        let receiver =
            Receiver::start(&site, &cluster.conninfo(), &["--partial-every", "1", "--synchronous"]);
        cluster.sql(&format!("INSERT INTO t SELECT {round} FROM generate_series(1, 5000)"));
        wait_for_flush(&cluster);
        receiver.kill();
    }
    let receiver = Receiver::start(&site, &cluster.conninfo(), &["--synchronous"]);
    let last = cluster.switch_wal();
    site.wait_for_segment(&last);
    // Nothing archives, and yet all is well.
    site.run(&["check", "-d", &cluster.conninfo()]);
    let (report, code) = receiver.stop();
    assert_eq!((report["end"].as_str(), code), (Some("stopped"), Some(0)), "{report}");
    let list = site.run(&["list"]);
    assert!(list["gaps"].as_array().unwrap().is_empty(), "{list}");
    let check = site.command(&["check", "-d", &cluster.conninfo()]).output().unwrap();
    assert_eq!(check.status.code(), Some(1), "{}", said(&check));
    assert!(said(&check).contains("nobody receives WAL by the slot `pgkeep_main`"), "{}", said(&check));
    let tails = site.repository().join("main/wal/000001/00000001/tail");
    let left: Vec<_> = std::fs::read_dir(tails).into_iter().flatten().flatten().collect();
    assert!(left.len() <= 1, "{left:?}");
    let restored = site.bring_back(17, &site.request(RecoveryTarget::Latest));
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "15000");
}

#[test]
fn push_and_receive_agree_in_one_stanza() {
    let site = Site::new();
    let cluster = site.archiving(builder(18));
    let receiver = Receiver::start(&site, &cluster.conninfo(), &["--synchronous"]);
    site.backup(&cluster, &[]);
    cluster.sql("CREATE TABLE t (n int)");
    let mut last = String::new();
    for round in 0..8 {
        cluster.sql(&format!("INSERT INTO t VALUES ({round})"));
        last = cluster.switch_wal();
    }
    site.wait_for_segment(&last);
    wait_for_flush(&cluster);
    wait_until("the archiver", LIMIT, || {
        cluster.sql(&format!("SELECT coalesce(last_archived_wal >= '{last}', false) FROM pg_stat_archiver"))
            == "t"
    });
    let (report, code) = receiver.stop();
    assert_eq!(code, Some(0), "{report}");
    assert!(report["segments"].as_u64().unwrap() >= 8, "{report}");
    let failed = cluster.sql("SELECT failed_count FROM pg_stat_archiver");
    assert_eq!(failed, "0");
    assert!(!site.repository().join("main/wal/000001/00000001/conflict").exists());
    assert!(site.run(&["list"])["gaps"].as_array().unwrap().is_empty());
    let restored = site.bring_back(18, &site.request(RecoveryTarget::Latest));
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "8");
}

#[test]
fn a_failover_is_followed_onto_the_new_timeline() {
    for major in [14, 18] {
        let site = Site::new();
        let primary = builder(major).start();
        site.init(&primary);
        site.backup(&primary, &["--source", "stream"]);
        let standby = Cluster::standby_with(&primary, &[("wal_keep_size", "256MB")]);
        let hosts = format!(
            "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs=read-write",
            primary.socket_dir().display(),
            standby.socket_dir().display(),
            primary.port(),
            standby.port()
        );
        let receiver = Receiver::start(&site, &hosts, &["--synchronous", "--partial-every", "1"]);
        primary.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
        wait_for_flush(&primary);
        standby.wait_for_replay_of(&primary);
        primary.stop(StopMode::Immediate);
        standby.promote();
        standby.sql("INSERT INTO t VALUES (2)");
        let first = standby.switch_wal();
        assert!(first.starts_with("00000002"), "{first}");
        standby.sql("INSERT INTO t VALUES (3)");
        site.wait_for_segment(&first);
        wait_for_flush(&standby);
        let (report, code) = receiver.stop();
        assert_eq!((report["timeline"].as_u64(), code), (Some(2), Some(0)), "{report}");
        assert!(report["connections"].as_u64().unwrap() >= 2, "{report}");
        let list = site.run(&["list"]);
        assert!(list["gaps"].as_array().unwrap().is_empty(), "{list}");
        let restored = site.bring_back(major, &site.request(RecoveryTarget::Latest));
        assert_eq!(restored.sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM t"), "1,2,3", "{major}");
    }
}

/// A receiver was away for longer than the server keeps WAL for its slot.
fn lose_slot(site: &Site, major: u32) -> Cluster {
    let cluster = Cluster::builder(major)
        .wal_segment_mib(1)
        .conf("max_wal_size", "2MB")
        .conf("min_wal_size", "2MB")
        .start();
    site.init(&cluster);
    let receiver = Receiver::start(site, &cluster.conninfo(), &["--synchronous"]);
    site.backup(&cluster, &["--source", "stream"]);
    cluster.sql("CREATE TABLE t (n int)");
    let before = cluster.switch_wal();
    site.wait_for_segment(&before);
    receiver.kill();
    cluster.alter_system("max_slot_wal_keep_size", "1MB");
    for _ in 0..8 {
        cluster.sql("INSERT INTO t SELECT g FROM generate_series(1, 3000) AS g");
        cluster.switch_wal();
        cluster.sql("CHECKPOINT");
    }
    wait_until("the loss of the slot", LIMIT, || {
        cluster.sql("CHECKPOINT");
        cluster.sql("SELECT wal_status FROM pg_replication_slots") == "lost"
    });
    // Whoever looks after the server has seen it; with the limit a backup's own slot is lost now and then as well.
    cluster.alter_system("max_slot_wal_keep_size", "-1");
    cluster
}

#[test]
fn a_lost_slot_is_a_gap_that_is_recorded_and_told() {
    for major in [14, 16, 18] {
        let site = Site::new();
        let cluster = lose_slot(&site, major);
        let receiver = Receiver::start(&site, &cluster.conninfo(), &["--synchronous"]);
        cluster.sql("INSERT INTO t VALUES (0)");
        let after = {
            wait_until("the new slot", LIMIT, || {
                cluster.sql("SELECT count(*) FROM pg_replication_slots WHERE active") == "1"
            });
            cluster.switch_wal()
        };
        site.wait_for_segment(&after);
        let (report, code) = receiver.stop();
        assert_eq!(code, Some(9), "{report}");
        let gap = &report["gaps"][0];
        assert!(gap["segments"].as_u64().unwrap() >= 1, "{report}");
        // Everybody can see it.
        let recorded = site.repository().join("main/report").join(gap["report"].as_str().unwrap());
        let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(recorded).unwrap()).unwrap();
        assert_eq!(recorded["first_missing"], gap["first_missing"]);
        let list = site.run(&["list"]);
        assert_eq!(list["gaps"][0]["harmful"], true, "{list}");
        let check = site.command(&["check", "--json", "-d", &cluster.conninfo()]).output().unwrap();
        assert_eq!(check.status.code(), Some(1), "{}", said(&check));
        assert!(String::from_utf8_lossy(&check.stdout).contains("missing on timeline 1"), "{}", said(&check));
    }
}

#[test]
fn a_backup_follows_a_gap_where_that_is_wished() {
    let site = Site::new();
    let cluster = lose_slot(&site, 18);
    let receiver = Receiver::start(
        &site,
        &cluster.conninfo(),
        &["--synchronous", "--backup-after-gap", "--partial-every", "1"],
    );
    wait_until("the backup", LIMIT, || site.run(&["list"])["backups"].as_array().unwrap().len() == 2);
    cluster.sql("INSERT INTO t VALUES (-1)");
    wait_for_flush(&cluster);
    let (report, code) = receiver.stop();
    assert_eq!(code, Some(0), "{report}");
    assert!(report["gaps"][0]["backup"].is_string(), "{report}");
    let restored = site.bring_back(18, &site.request(RecoveryTarget::Latest));
    assert_eq!(restored.sql("SELECT count(*) FROM t WHERE n = -1"), "1");
}

#[test]
fn what_must_not_be_is_refused() {
    let site = Site::new();
    let (cluster, other) = (builder(18).start(), builder(18).fresh_identity().start());
    site.init(&cluster);
    let wrong = Receiver::start(&site, &other.conninfo(), &[]).wait();
    assert_eq!(wrong.status.code(), Some(7), "{}", said(&wrong));
    let receiver = Receiver::start(&site, &cluster.conninfo(), &[]);
    wait_for_flush(&cluster);
    let second = Receiver::start(&site, &cluster.conninfo(), &["--slot", "another"]).wait();
    assert_eq!(second.status.code(), Some(12), "{}", said(&second));
    drop(receiver);
    // A slot that is not there is not made unasked.
    let spool = receiver_support::spool(&site).display().to_string();
    let words = ["wal", "receive", "-d", &cluster.conninfo(), "--slot", "none", "--spool", &spool];
    let missing = site.command(&words).output().unwrap();
    assert_eq!(missing.status.code(), Some(8), "{}", said(&missing));
}

#[test]
fn a_position_ends_it_and_the_spool_is_stored_without_a_server() {
    let site = Site::new();
    let cluster = builder(18).start();
    site.init(&cluster);
    site.backup(&cluster, &["--source", "stream"]);
    cluster.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    let until = cluster.current_lsn();
    let output =
        Receiver::start(&site, &cluster.conninfo(), &["--until", &until, "--partial-every", "0"]).wait();
    assert_eq!(report_of(&output)["end"], "reached", "{}", said(&output));
    cluster.crash();
    let report = store_spool(&site);
    assert_eq!(report["end"], "spool_stored");
    let restored = site.bring_back(18, &site.request(RecoveryTarget::Latest));
    assert_eq!(restored.sql("SELECT count(*) FROM t"), "1");
}

/// The tails of a timeline in the repository.
fn tails(site: &Site, timeline: &str) -> Vec<std::path::PathBuf> {
    let folder = site.repository().join(format!("main/wal/000001/{timeline}/tail"));
    std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_tail_is_verified_and_goes_when_no_kept_backup_is_as_old() {
    let site = Site::new();
    let primary = builder(17).start();
    site.init(&primary);
    let receiver = Receiver::start(&site, &primary.conninfo(), &["--partial-every", "1"]);
    site.backup(&primary, &["--source", "stream"]);
    primary.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    let position = primary.current_lsn();
    wait_until("a tail in the repository", LIMIT, || lsn(&window_end(&site)) >= lsn(&position));
    receiver.kill();

    site.run(&["verify"]);
    let left = tails(&site, "00000001");
    let tail = left.iter().max().unwrap();
    let whole = std::fs::read(tail).unwrap();
    for at in [20, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(tail, damaged).unwrap();
        let output = site.command(&["verify", "--json"]).output().unwrap();
        assert!(!output.status.success(), "byte {at}: {}", said(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let damage = report["damage"].to_string();
        let name = tail.file_name().unwrap().to_str().unwrap();
        assert!(damage.contains(&format!("main/wal/000001/00000001/tail/{name}")), "byte {at}: {damage}");
    }
    std::fs::write(tail, whole).unwrap();
    site.run(&["verify"]);

    // Its timeline is left, and no kept backup needs anything of it.
    let standby = Cluster::standby_of(&primary);
    standby.wait_for_replay_of(&primary);
    primary.stop(StopMode::Fast);
    standby.promote();
    let expire = || site.run(&["expire", "--keep-count", "1", "--grace", "0s"]);
    expire();
    assert!(!tails(&site, "00000001").is_empty(), "the backup before it is still there");
    for _ in 0..3 {
        standby.sql("INSERT INTO t VALUES (2)");
        standby.switch_wal();
    }
    site.backup(&standby, &["--source", "stream"]);
    expire();
    assert_eq!(tails(&site, "00000001"), Vec::<std::path::PathBuf>::new());
    let restored = site.bring_back(17, &site.request(RecoveryTarget::Latest));
    assert_eq!(restored.sql("SELECT count(*) FROM t WHERE n = 2"), "3");
}
