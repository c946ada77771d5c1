//! What is said when something is wrong with a server, a repository or a destination: each is made wrong for real.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use insta::assert_snapshot;
use pgkeep_testkit::{Cluster, wait_for};

use crate::support::{Place, path_text, redactions};

/// The newest supported server, the one that most users will have.
const MAJOR: u32 = 18;

/// A place with a repository at `repo` and a stanza `main` of the cluster.
fn place_with_stanza(cluster: &Cluster) -> Place {
    let place = Place::new();
    place.succeed(&["init", "--repo", "repo", "-d", &cluster.conninfo()]);
    place
}

/// Arguments of a restore into a directory of that name.
fn restore<'a>(directory: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["restore", "--repo", "repo"], more, &[directory]].concat()
}

/// The only file below `folder` whose path has `part` in it.
fn find(folder: &Path, part: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path_text(&path).contains(part) {
                return path;
            }
        }
    }
    panic!("no `{part}` below {}", folder.display());
}

#[test]
fn a_connection_that_fails_is_told_by_its_cause() {
    let cluster = Cluster::builder(MAJOR)
        .tcp()
        .hba("host all keeper 127.0.0.1/32 scram-sha-256")
        .hba("host replication keeper 127.0.0.1/32 reject")
        .hba("host all stranger 127.0.0.1/32 reject")
        .start();
    cluster.sql("CREATE ROLE keeper LOGIN SUPERUSER REPLICATION PASSWORD 'right'; CREATE ROLE plain LOGIN");
    let place = place_with_stanza(&cluster);
    let address = cluster.tcp_conninfo();
    let as_role = |role: &str| format!("{address} user={role}");
    let backup = |conninfo: &str, more: &[&str]| {
        let mut arguments = vec!["backup", "--repo", "repo", "-d", conninfo];
        arguments.extend(more);
        place.command(&arguments)
    };
    redactions().bind(|| {
        let mut wrong = backup(&as_role("keeper"), &[]);
        assert_snapshot!("wrong_password", place.shown(wrong.env("PGPASSWORD", "wrong")));
        assert_snapshot!("password_missing", place.shown(&mut backup(&as_role("keeper"), &[])));
        let mut refused = backup(&as_role("keeper"), &["--source", "stream"]);
        assert_snapshot!("pg_hba_refuses_replication", place.shown(refused.env("PGPASSWORD", "right")));
        assert_snapshot!("pg_hba_refuses_role", place.shown(&mut backup(&as_role("stranger"), &[])));
        assert_snapshot!("role_missing", place.shown(&mut backup(&as_role("nobody_knows"), &[])));
        assert_snapshot!(
            "no_replication_privilege",
            place.shown(&mut backup(&as_role("plain"), &["--source", "stream"]))
        );
        assert_snapshot!(
            "no_backup_privilege",
            place.shown(&mut backup(&as_role("plain"), &["--source", "local"]))
        );
        let database = format!("{} dbname=absent", cluster.conninfo());
        assert_snapshot!("database_missing", place.shown(&mut backup(&database, &[])));
        assert_snapshot!("bad_conninfo", place.shown(&mut backup("host=db prot=1", &[])));
        assert_snapshot!("port_closed", place.shown(&mut backup("host=127.0.0.1 port=1 user=x", &[])));
        assert_snapshot!("socket_missing", place.shown(&mut backup("host=/absent port=5432 user=x", &[])));
        assert_snapshot!(
            "check_without_server",
            place.show(&["check", "--repo", "repo", "-h", "/absent", "-p", "5432", "-U", "x"])
        );
    });
}

#[test]
fn a_server_that_cannot_be_backed_up_is_told() {
    let minimal = Cluster::builder(MAJOR).conf("wal_level", "minimal").conf("max_wal_senders", 0).start();
    let place = place_with_stanza(&minimal);
    redactions().bind(|| {
        assert_snapshot!(
            "wal_level_minimal",
            place.show(&["backup", "--repo", "repo", "-d", &minimal.conninfo()])
        );
    });
}

#[test]
fn a_repository_that_cannot_be_used_is_told() {
    let cluster = Cluster::builder(MAJOR).start();
    let other = Cluster::builder(MAJOR).fresh_identity().start();
    let place = place_with_stanza(&cluster);
    let backup = |conninfo: &str| place.show(&["backup", "--repo", "repo", "-d", conninfo]);
    redactions().bind(|| {
        assert_snapshot!("another_cluster", backup(&other.conninfo()));
        assert_snapshot!(
            "init_another_cluster",
            place.show(&["init", "--repo", "repo", "-d", &other.conninfo()])
        );
        assert_snapshot!("stanza_misspelt", place.show(&["list", "--repo", "repo", "--stanza", "mian"]));
        assert_snapshot!("no_backup_yet", place.show(&["list", "--repo", "repo"]));
        assert_snapshot!("restore_without_backup", place.show(&restore("new", &[])));
        assert_snapshot!("show_unknown", place.show(&["show", "--repo", "repo", "000009"]));

        let foreign = place.directory("foreign");
        place.write("foreign/notes.txt", "not a repository");
        assert_snapshot!(
            "init_in_foreign_directory",
            place.show(&["init", "--repo", &path_text(&foreign), "-d", &cluster.conninfo()])
        );

        let repo = place.path("repo/main");
        let mode = std::fs::metadata(&repo).unwrap().permissions();
        for folder in [place.path("repo/main/lease"), repo.clone()] {
            if folder.exists() {
                std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o500)).unwrap();
            }
        }
        assert_snapshot!("not_writable", backup(&cluster.conninfo()));
        std::fs::set_permissions(&repo, mode).unwrap();

        let record = find(&place.path("repo/pgkeep"), "repo-");
        let text = std::fs::read_to_string(&record).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["format"] = 2.into();
        std::fs::write(&record, json.to_string()).unwrap();
        assert_snapshot!("newer_format", place.show(&["list", "--repo", "repo"]));
        std::fs::write(&record, "{").unwrap();
        assert_snapshot!("damaged_record", place.show(&["list", "--repo", "repo"]));
    });
}

#[test]
fn a_restore_that_cannot_succeed_writes_nothing_and_says_why() {
    let cluster = Cluster::builder(MAJOR).wal_segment_mib(1).start();
    let place = Place::new();
    place.succeed(&["init", "--apply", "--repo", "repo", "-d", &cluster.conninfo()]);
    cluster.restart();
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    place.succeed(&["backup", "--repo", "repo", "-d", &cluster.conninfo(), "-q"]);
    cluster.sql("INSERT INTO t VALUES (1)");
    cluster.sql("SELECT pg_create_restore_point('before_release')");
    let middle = cluster.switch_wal();
    cluster.sql("INSERT INTO t VALUES (2)");
    let last = cluster.switch_wal();
    wait_for(std::time::Duration::from_secs(30), || {
        (cluster.sql("SELECT last_archived_wal FROM pg_stat_archiver") >= last).then_some(())
    })
    .expect("the segments are archived");

    redactions().bind(|| {
        let show = |name: &str, more: &[&str]| {
            assert_snapshot!(name, place.show(&restore("new", more)));
            assert!(!place.path("new").exists(), "{name} wrote something");
        };
        show("target_in_the_future", &["--target-time", "2100-01-01 00:00:00+00"]);
        show("target_before_the_first_backup", &["--target-time", "2000-01-01 00:00:00+00"]);
        show("target_lsn_beyond_the_archive", &["--target-lsn", "FF/0"]);
        show("target_lsn_before_the_backup", &["--target-lsn", "0/1000"]);
        show("target_on_an_unknown_timeline", &["--target-timeline", "7"]);
        show("target_unknown_restore_point", &["--target-name", "before_relase"]);
        show("target_unknown_transaction", &["--target-xid", "999999999"]);
        show("target_time_not_a_time", &["--target-time", "yesterday"]);
        show("target_unknown_backup", &["--backup", "000009"]);
        show("tablespace_unknown", &["--tablespace-map", "/absent=/elsewhere"]);

        place.write("full/file.txt", "mine");
        assert_snapshot!("destination_not_empty", place.show(&restore("full", &[])));
        assert_snapshot!("delta_onto_another_directory", place.show(&restore("full", &["--delta"])));
        let running = path_text(cluster.data_dir());
        assert_snapshot!("delta_onto_a_running_server", place.show(&restore(&running, &["--delta"])));
        assert_snapshot!("destination_of_a_running_server", place.show(&restore(&running, &[])));

        std::fs::remove_file(find(&place.path("repo/main/wal"), &middle)).unwrap();
        show("wal_gap_before_the_target", &[]);
        assert_snapshot!("list_with_a_gap", place.show(&["list", "--repo", "repo"]));

        let pack = find(&place.path("repo/main/backup"), "pack-");
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
        let damaged = place.command(&restore("damaged", &["--target", "immediate"])).output().unwrap();
        assert_eq!(damaged.status.code(), Some(11));
        let told = String::from_utf8(damaged.stderr).unwrap();
        assert!(told.contains("pack-000001") && told.contains("hint: "), "{told}");

        let manifest = find(&place.path("repo/main/backup"), "manifest");
        let mut bytes = std::fs::read(&manifest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&manifest, bytes).unwrap();
        let told = place.show(&restore("damaged2", &["--target", "immediate"]));
        assert!(told.contains("exit code 11") && told.contains("manifest"), "{told}");
    });
}

#[test]
fn an_interrupted_backup_ends_on_the_server_and_leaves_the_repository_valid() {
    let cluster = Cluster::builder(MAJOR).start();
    let place = place_with_stanza(&cluster);
    // Work for the checkpoint, which `spread` then draws out.
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 200000) AS a");
    let mut command =
        place.command(&["backup", "--repo", "repo", "-d", &cluster.conninfo(), "--checkpoint", "spread"]);
    let child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    wait_for(std::time::Duration::from_secs(30), || {
        let waiting = cluster
            .sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND pid <> pg_backend_pid()");
        (waiting != "0").then_some(())
    })
    .expect("the backup waits for its checkpoint");
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("error: ") && told.contains("hint: "), "{told}");

    wait_for(std::time::Duration::from_secs(10), || {
        let left = cluster.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()",
        );
        (left == "0").then_some(())
    })
    .expect("nothing of the backup is left on the server");
    assert!(place.succeed(&["list", "--repo", "repo"]).contains("no backup yet"));
    place.succeed(&["backup", "--repo", "repo", "-d", &cluster.conninfo(), "-q"]);
}
