//! The test servers themselves.

use std::path::Path;
use std::time::Duration;

use pgkeep_testkit::{Cluster, MAJORS, Scratch, StopMode, installations, table_digests, wait_until};

#[test]
fn every_major_starts_answers_and_leaves_nothing_behind() {
    for installation in installations() {
        let cluster = Cluster::builder(installation.major).start();
        let version: u32 = cluster.sql("SHOW server_version_num").parse().unwrap();
        assert_eq!(version / 10_000, installation.major);
        assert_eq!(cluster.sql("SHOW data_checksums"), "on");
        let (folder, pid) = (cluster.scratch().path().to_owned(), cluster.pid().unwrap());
        drop(cluster);
        assert!(!folder.exists(), "{} is left", folder.display());
        assert!(!Path::new("/proc").join(pid.to_string()).exists(), "postmaster {pid} is left");
    }
}

#[test]
fn a_panicking_test_leaves_nothing_behind() {
    let folder = std::thread::spawn(|| {
        let cluster = Cluster::builder(18).start();
        std::panic::panic_any(cluster.scratch().path().to_owned());
    })
    .join()
    .unwrap_err()
    .downcast::<std::path::PathBuf>()
    .unwrap();
    assert!(!folder.exists());
}

#[test]
fn a_killed_test_leaves_no_server() {
    use std::io::{BufRead, BufReader};
    // The process that gets killed is this very test, run once more with this variable.
    const VICTIM: &str = "PGKEEP_TESTKIT_VICTIM";
    if std::env::var_os(VICTIM).is_some() {
        let cluster = Cluster::builder(17).start();
        println!("holding {} {}", cluster.pid().unwrap(), cluster.scratch().path().display());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_leaves_no_server", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(test.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("holding ")).unwrap();
    let mut words = line.split("holding ").nth(1).unwrap().split(' ');
    let (server, folder) = (words.next().unwrap(), Path::new(words.next().unwrap()));
    let process = Path::new("/proc").join(server);
    assert!(process.exists());
    test.kill().unwrap();
    test.wait().unwrap();
    wait_until("the server's end", Duration::from_secs(20), || !process.exists());
    // A later run would sweep it; be tidy now.
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn options_reach_the_server() {
    for major in MAJORS {
        let cluster = Cluster::builder(major)
            .checksums(false)
            .wal_segment_mib(1)
            .group_access(true)
            .separate_wal()
            .tcp()
            .conf("work_mem", "3MB")
            .start();
        assert_eq!(cluster.sql("SHOW data_checksums; SHOW wal_segment_size; SHOW work_mem"), "off\n1MB\n3MB");
        assert_eq!(cluster.sql("SHOW data_directory_mode"), "0750");
        assert!(cluster.data_dir().join("pg_wal").is_symlink());
        assert!(cluster.tcp_conninfo().contains("127.0.0.1"));
    }
}

#[test]
fn a_crash_loses_nothing_that_was_committed() {
    let cluster = Cluster::builder(16).start();
    cluster.sql("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id");
    let before = table_digests(&cluster, "postgres");
    assert!(before.contains_key("public.kept"));
    cluster.crash();
    assert!(!cluster.is_running());
    cluster.start();
    assert!(cluster.log().contains("automatic recovery in progress"));
    assert_eq!(table_digests(&cluster, "postgres"), before);
    cluster.sql("UPDATE kept SET id = 0 WHERE id = 7");
    assert_ne!(table_digests(&cluster, "postgres"), before);
}

#[test]
fn standbys_follow_and_promote_on_every_major() {
    for major in MAJORS {
        let primary = Cluster::builder(major).start();
        let folder = primary.create_tablespace("extra");
        assert!(folder.exists());
        primary.sql("CREATE TABLE t (id int) TABLESPACE extra; INSERT INTO t SELECT generate_series(1, 100)");
        let standby = Cluster::standby_of(&primary);
        primary.sql("INSERT INTO t VALUES (101)");
        standby.wait_for_replay_of(&primary);
        assert_eq!(standby.sql("SELECT count(*), pg_is_in_recovery() FROM t"), "101|t");
        assert_eq!(table_digests(&standby, "postgres"), table_digests(&primary, "postgres"));
        standby.promote();
        standby.sql("INSERT INTO t VALUES (102)");
        assert!(standby.switch_wal().starts_with("00000002"));
    }
}

#[test]
fn a_copied_directory_starts_in_its_own_place() {
    let cluster = Cluster::builder(17).start();
    cluster.pgbench_init(1);
    cluster.pgbench_start(1).wait();
    let before = table_digests(&cluster, "postgres");
    cluster.stop(StopMode::Fast);
    let scratch = Scratch::new();
    let copy = scratch.path().join("copy");
    let status =
        std::process::Command::new("cp").arg("-a").arg(cluster.data_dir()).arg(&copy).status().unwrap();
    assert!(status.success());
    let second = Cluster::from_data_dir(17, &copy, &[("work_mem", "2MB")]);
    assert_eq!(table_digests(&second, "postgres"), before);
    assert_eq!(second.sql("SHOW work_mem"), "2MB");
    drop(second);
    assert!(copy.exists(), "the directory was not the testkit's to remove");
}

#[test]
fn identities_differ_only_when_asked() {
    let (first, second) = (Cluster::builder(18).start(), Cluster::builder(18).start());
    assert_eq!(first.system_identifier(), second.system_identifier());
    let third = Cluster::builder(18).fresh_identity().start();
    assert_ne!(first.system_identifier(), third.system_identifier());
}

#[test]
fn archiving_runs_a_command_as_the_server_user() {
    let archive = Scratch::new();
    let cluster = Cluster::builder(14)
        .wal_segment_mib(1)
        .conf("archive_mode", "on")
        .conf("archive_command", format!("cp %p {}/%f", archive.path().display()))
        .start();
    let segment = cluster.switch_wal();
    wait_until("the segment in the archive", Duration::from_secs(20), || {
        archive.path().join(&segment).exists()
    });
}

#[test]
fn a_refused_setting_reports_the_log() {
    let error = Cluster::builder(18).conf("no_such_setting", "1").try_start().unwrap_err();
    assert!(error.log.contains("no_such_setting"), "{error}");
}
