//! Backups that servers start on, with the data of their origin.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use pgkeep_testkit::{Cluster, installation, table_digests};

use super::{MAJORS, back_up, fill, members, names, path, untar, verify};

/// Starts a server on a copy and compares all tables.
#[track_caller]
fn start_and_compare(origin: &Cluster, data: &Path, what: &str) {
    let settings = [("archive_mode", "off"), ("hot_standby", "on")];
    let copy = Cluster::from_data_dir(origin.major(), data, &settings);
    assert_eq!(table_digests(&copy, "postgres"), table_digests(origin, "postgres"), "{what}");
}

fn tablespace(cluster: &Cluster) -> String {
    let location = cluster.scratch().create_dir("ts", 0o700).to_str().unwrap().to_owned();
    cluster.sql(&format!("CREATE TABLESPACE ts LOCATION '{location}'"));
    cluster.sql("CREATE TABLE elsewhere TABLESPACE ts AS SELECT generate_series(1, 1000) g");
    location
}

#[test]
fn every_major_is_copied_plain_by_every_wal_method() {
    for major in MAJORS {
        let cluster = Cluster::builder(major).start();
        fill(&cluster);
        let location = tablespace(&cluster);
        for method in ["stream", "fetch", "none"] {
            let place = tempfile::tempdir().unwrap();
            let data = path(&place, "data");
            let mapping = format!("{location}={}", path(&place, "ts").display());
            let wal = path(&place, "wal");
            let mut words = vec!["-X", method, "-T", &mapping, "-N"];
            let moves_wal = method == "stream";
            if moves_wal {
                words.extend(["--waldir", wal.to_str().unwrap()]);
            }
            back_up(&cluster, &data, &words);
            verify(&data, major);
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&data), mode(&data.join("PG_VERSION"))), (0o700, 0o600));
            if moves_wal {
                assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), wal);
                let segment = names(&wal).into_iter().find(|name| name.len() == 24).unwrap();
                assert_eq!(mode(&wal.join(segment)), 0o600);
            }
            if method != "none" {
                start_and_compare(&cluster, &data, &format!("{major} {method}"));
            }
        }
    }
}

/// Unpacks what `-Ft` made into a data directory.
fn unpack(backup: &Path, suffix: &str, data: &Path, tablespace: &Path) {
    untar(&backup.join(format!("base.tar{suffix}")), data);
    let archives = names(backup);
    let other =
        archives.iter().find(|name| name.starts_with(|letter: char| letter.is_ascii_digit())).unwrap();
    untar(&backup.join(other), tablespace);
    let oid = other.split('.').next().unwrap();
    fs::write(data.join("tablespace_map"), format!("{oid} {}\n", tablespace.display())).unwrap();
    // The server would make the link; with it here, the tests' server user is given what it leads to.
    symlink(tablespace, data.join("pg_tblspc").join(oid)).unwrap();
    if let Some(wal) = archives.iter().find(|name| name.starts_with("pg_wal.tar")) {
        untar(&backup.join(wal), &data.join("pg_wal"));
    }
    fs::set_permissions(data, Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn every_major_is_copied_as_archives() {
    for major in MAJORS {
        let cluster = Cluster::builder(major).start();
        fill(&cluster);
        tablespace(&cluster);
        for (words, suffix) in [(&["-X", "stream", "-z"][..], ".gz"), (&["-X", "fetch"], "")] {
            let place = tempfile::tempdir().unwrap();
            let backup = path(&place, "backup");
            back_up(&cluster, &backup, &[&["-Ft", "-N"], words].concat());
            if major != 17 {
                verify(&backup, major);
            }
            let (data, tablespace) = (path(&place, "data"), path(&place, "ts"));
            unpack(&backup, suffix, &data, &tablespace);
            start_and_compare(&cluster, &data, &format!("{major} {words:?}"));
        }
    }
}

#[test]
fn the_commands_of_users_work_as_they_are_written() {
    // No -c fast: the checkpoints are not to take their time.
    let cluster = Cluster::builder(18).conf("checkpoint_completion_target", "0").start();
    fill(&cluster);
    let place = tempfile::tempdir().unwrap();
    let shell = |line: &str| {
        let backup = place.path().display();
        let line = line.replace("/backup/", &format!("{backup}/"));
        let pgkeep = pgkeep_testkit::pgkeep_binary();
        // Called by the name, as after `ln -s pgkeep /usr/local/bin/pg_basebackup`.
        let link = path(&place, "pg_basebackup");
        drop(symlink(pgkeep, &link));
        let output = Command::new("sh")
            .arg("-c")
            .arg(&line)
            .env("PATH", format!("{backup}:{}", std::env::var("PATH").unwrap()))
            .env("PGHOST", cluster.socket_dir())
            .env("PGPORT", cluster.port().to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", super::said(&output));
    };
    shell("pg_basebackup -U postgres -D /backup/postgresql/ -Ft -z -P");
    assert_eq!(names(&path(&place, "postgresql")), ["backup_manifest", "base.tar.gz", "pg_wal.tar.gz"]);
    let data = path(&place, "data");
    fs::create_dir(&data).unwrap();
    shell("tar -xzf /backup/postgresql/base.tar.gz -C /backup/data");
    shell("tar -xzf /backup/postgresql/pg_wal.tar.gz -C /backup/data/pg_wal");
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    start_and_compare(&cluster, &data, "tar");
    shell("pg_basebackup -U postgres -D /backup/full_backup/");
    start_and_compare(&cluster, &path(&place, "full_backup"), "plain");
}

#[test]
fn a_standby_follows_from_either_format() {
    for (major, words) in
        [(14, &[][..]), (18, &[]), (14, &["-Ft"]), (18, &["-Ft"]), (18, &["-Ft", "-Zserver-gzip"])]
    {
        let cluster = Cluster::builder(major).start();
        fill(&cluster);
        let place = tempfile::tempdir().unwrap();
        let backup = path(&place, "backup");
        back_up(&cluster, &backup, &[&["-R", "-C", "-S", "standby", "-N"], words].concat());
        let mut data = backup.clone();
        if words.contains(&"-Ft") {
            let archive = names(&backup).into_iter().find(|name| name.starts_with("base.tar")).unwrap();
            assert_eq!(archive.ends_with(".gz"), words.len() > 1);
            verify(&backup, major);
            data = path(&place, "data");
            untar(&backup.join(archive), &data);
            untar(&backup.join("pg_wal.tar"), &data.join("pg_wal"));
            fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
        }
        let settings = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap();
        assert!(settings.contains("primary_slot_name = 'standby'\n"), "{settings}");
        assert!(data.join("standby.signal").is_file());
        cluster.sql("CREATE TABLE later AS SELECT 1 AS n");
        let standby = Cluster::from_data_dir(major, &data, &[("hot_standby", "on")]);
        pgkeep_testkit::wait_until(
            "the standby has what came later",
            std::time::Duration::from_secs(60),
            || standby.try_sql("SELECT n FROM later").is_ok_and(|answer| answer == "1"),
        );
        assert_eq!(standby.sql("SELECT pg_is_in_recovery()"), "t");
    }
}

#[test]
fn incremental_backups_combine() {
    for major in [17, 18] {
        let cluster = Cluster::builder(major).conf("summarize_wal", "on").start();
        fill(&cluster);
        let place = tempfile::tempdir().unwrap();
        let (full, changed, whole) = (path(&place, "full"), path(&place, "changed"), path(&place, "whole"));
        back_up(&cluster, &full, &["-N"]);
        cluster.sql("UPDATE t SET text = 'changed' WHERE g < 50");
        let manifest = full.join("backup_manifest");
        back_up(&cluster, &changed, &["-N", "-i", manifest.to_str().unwrap()]);
        verify(&changed, major);
        let mut combine = Command::new(installation(major).program("pg_combinebackup"));
        combine.args([&full, &changed]).arg("-N").arg("-o").arg(&whole);
        assert!(combine.status().unwrap().success());
        start_and_compare(&cluster, &whole, "combined");
    }
    let cluster = Cluster::builder(16).start();
    let place = tempfile::tempdir().unwrap();
    let mut command = super::ours(&cluster, &["-D", path(&place, "x").to_str().unwrap(), "-i", "/dev/null"]);
    let output = command.output().unwrap();
    assert!(super::said(&output).contains("server does not support incremental backup"));
}

#[test]
fn one_archive_goes_to_standard_output() {
    for major in [14, 18] {
        let cluster = Cluster::builder(major).start();
        fill(&cluster);
        let place = tempfile::tempdir().unwrap();
        for (words, suffix) in [(&["-R"][..], ""), (&["-z"], ".gz"), (&["--no-manifest"], "")] {
            let archive = path(&place, &format!("base.tar{suffix}"));
            let mut command = super::ours(&cluster, &["-D", "-", "-Ft", "-Xfetch"]);
            let status = command.args(words).stdout(fs::File::create(&archive).unwrap()).status().unwrap();
            assert!(status.success());
            let has = |name: &str| members(&archive).iter().any(|(path, _)| path == name);
            assert_eq!(has("backup_manifest"), !words.contains(&"--no-manifest"), "{words:?}");
            assert_eq!(has("standby.signal"), words.contains(&"-R"));
            if has("backup_manifest") && !words.contains(&"-R") {
                let data = path(&place, &format!("data{major}"));
                untar(&archive, &data);
                verify(&data, major);
                fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
                start_and_compare(&cluster, &data, &format!("{major} {words:?}"));
            }
        }
    }
}
