//! Exports are what `pg_basebackup` would have written: `pg_verifybackup` agrees, servers start, nothing is left of a failed
//! one.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod exchange_support;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Site, all_digests, said, start_restored};
use exchange_support::{fill, pg_verifybackup, unpack};
use pgkeep_testkit::{Cluster, MAJORS, wait_until};

/// A server on an exported directory: it has all WAL it needs, and asks nobody for more.
fn start(major: u32, directory: &Path) -> Cluster {
    start_restored(major, directory)
}

fn place_of(site: &Site, name: &str) -> PathBuf {
    site.scratch.create_dir(name, 0o700)
}

fn oid_of_space(cluster: &Cluster) -> u32 {
    cluster.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'beside'").parse().unwrap()
}

fn round(major: u32) {
    let site = Site::new();
    let cluster = Cluster::builder(major).start();
    let space = fill(&cluster, &site.scratch);
    site.init(&cluster);
    site.backup(&cluster, &["--wal", "include"]);
    // The second builds on the first: what is exported lies in packs of both.
    cluster.sql("UPDATE plain SET text = 'new' WHERE i % 100 = 0");
    site.backup(&cluster, &["--wal", "include"]);
    let expected = all_digests(&cluster);
    let oid = oid_of_space(&cluster);
    drop(cluster);

    let plain = place_of(&site, "plain");
    let moved = place_of(&site, "moved");
    let map = format!("{}={}", space.display(), moved.display());
    let plain_text = plain.display().to_string();
    let report = site.run(&["export", "latest", "--to", &plain_text, "--tablespace-map", &map]);
    assert!(report["wal_first"].is_string(), "{report}");
    pg_verifybackup(major, &plain, true);
    assert_eq!(fs::read_link(plain.join(format!("pg_tblspc/{oid}"))).unwrap(), moved);
    assert_eq!(all_digests(&start(major, &plain)), expected);

    for (name, arguments, suffix) in [
        ("tar", &["--format", "tar"][..], ""),
        ("zst", &["--format", "tar", "--compress", "zstd:1", "--wal", "fetch"], ".zst"),
        ("gz", &["--format", "tar", "--compress", "gzip:1", "--manifest-checksums", "sha256"], ".gz"),
    ] {
        let tars = place_of(&site, name);
        let tars_text = tars.display().to_string();
        let (data, beside) =
            (place_of(&site, &format!("{name}-data")), place_of(&site, &format!("{name}-sp")));
        let map = format!("{oid}={}", beside.display());
        let mut all = vec!["export", "latest", "--to", &tars_text, "--tablespace-map", &map];
        all.extend(arguments);
        let report = site.run(&all);
        assert_eq!(report["archives"][0], format!("base.tar{suffix}"), "{report}");
        assert_eq!(tars.join(format!("pg_wal.tar{suffix}")).exists(), name != "zst");
        // Stock's build in the cache knows no Zstandard.
        if major == 18 && suffix != ".zst" {
            pg_verifybackup(major, &tars, false);
        }
        unpack(&tars, suffix, &data, &[(oid, beside.clone())]);
        assert_eq!(all_digests(&start(major, &data)), expected, "{name}");
    }
}

#[test]
fn exports_of_14_are_checked_and_started() {
    round(14);
}

#[test]
fn exports_of_15_are_checked_and_started() {
    round(15);
}

#[test]
fn exports_of_16_are_checked_and_started() {
    round(16);
}

#[test]
fn exports_of_17_are_checked_and_started() {
    round(17);
}

#[test]
fn exports_of_18_are_checked_and_started() {
    round(18);
}

#[test]
fn a_standbys_backup_is_exported_with_its_unfinished_segment() {
    let major = *MAJORS.last().unwrap();
    let site = Site::new();
    let primary = Cluster::builder(major).start();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let standby = Cluster::standby_of(&primary);
    standby.wait_for_replay_of(&primary);
    site.init(&primary);
    site.backup(&standby, &[]);
    let plain = place_of(&site, "plain");
    let plain_text = plain.display().to_string();
    site.run(&["export", "latest", "--to", &plain_text]);
    pg_verifybackup(major, &plain, true);
    // It carries the standby's own signal and settings, as pg_basebackup's copy would.
    assert!(plain.join("standby.signal").exists());
    fs::remove_file(plain.join("standby.signal")).unwrap();
    let copy = Cluster::from_data_dir(major, &plain, &[("primary_conninfo", ""), ("primary_slot_name", "")]);
    wait_until("the end of recovery", common::LIMIT, || copy.sql("SELECT pg_is_in_recovery()") == "f");
    assert_eq!(copy.sql("SELECT count(*) FROM t"), "1000");
}

#[test]
fn nothing_is_overwritten_and_a_failed_export_leaves_nothing() {
    let site = Site::new();
    let cluster = Cluster::builder(18).start();
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i");
    site.init(&cluster);
    let backup = site.backup(&cluster, &["--wal", "include"]);

    let full = place_of(&site, "full");
    fs::write(full.join("mine"), "mine").unwrap();
    for format in ["plain", "tar"] {
        let output = site
            .command(&["export", "latest", "--format", format, "--to", &full.display().to_string()])
            .output()
            .unwrap();
        assert!(said(&output).contains("is not empty"), "{}", said(&output));
        assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    }

    // Damage in the middle of a pack.
    let folder = site.repository().join("main/backup").join(backup["id"].as_str().unwrap());
    let pack = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("pack"))
        .unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    for format in ["plain", "tar"] {
        let absent = place_of(&site, "above").join(format);
        let output = site
            .command(&["export", "latest", "--format", format, "--to", &absent.display().to_string()])
            .output()
            .unwrap();
        assert!(!output.status.success() && said(&output).contains("cannot export"), "{}", said(&output));
        assert!(!absent.exists(), "{format}");
        let empty = place_of(&site, &format!("empty-{format}"));
        let output = site
            .command(&["export", "latest", "--format", format, "--to", &empty.display().to_string()])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{}", said(&output));
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "{format}");
    }
}

#[test]
fn missing_wal_is_told_before_anything_is_written() {
    let site = Site::new();
    let cluster = Cluster::builder(16).start();
    site.init(&cluster);
    let report = site.backup(&cluster, &["--wal", "include"]);
    drop(cluster);
    let archive = site.repository().join("main/wal/000001/00000001");
    fs::remove_dir_all(&archive).unwrap();
    let absent = place_of(&site, "above").join("copy");
    let to = absent.display().to_string();
    let output = site.command(&["export", "latest", "--to", &to]).output().unwrap();
    assert!(said(&output).contains("segment 0000000100000000"), "{}", said(&output));
    assert!(!absent.exists());
    // Without WAL it goes, and says so.
    let report_without = site.run(&["export", "latest", "--to", &to, "--wal", "none"]);
    assert_eq!(report_without["backup"], report["id"]);
    assert!(report_without["next_steps"].to_string().contains("restore_command"));
    assert!(absent.join("backup_manifest").exists());
}
