//! Restores onto the directory of a former cluster: the same, file for file, as a plain restore of the same backup; only what
//! differs is fetched; what is not this cluster's is refused and left alone.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;
mod delta_support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use common::{Dice, Site, all_digests, run_restore, start_restored, tree};
use delta_support::{Outside, assert_same, mutate};
use pgkeep_engine::restore::{DeltaReport, RecoveryTarget, RestoreReport, RestoreRequest};
use pgkeep_engine::{Error, ErrorKind};
use pgkeep_testkit::{Cluster, StopMode};

fn onto(site: &Site, directory: &Path, target: RecoveryTarget) -> RestoreRequest {
    RestoreRequest { destination: directory.to_owned(), delta: true, ..site.request(target) }
}

fn delta_of(report: &RestoreReport) -> &DeltaReport {
    report.delta.as_ref().unwrap()
}

#[track_caller]
fn refused(request: &RestoreRequest, kind: ErrorKind, words: &str) -> Error {
    let before = request.destination.exists().then(|| tree(&request.destination));
    let error = run_restore(request).unwrap_err();
    assert_eq!(error.kind, kind, "{error:#?}");
    let text = format!("{error}\n{}", error.hints.join("\n"));
    assert!(text.contains(words), "{text}");
    assert!(!error.hints.is_empty(), "{error:#?}");
    let after = request.destination.exists().then(|| tree(&request.destination));
    assert!(before == after, "a refused restore changed something");
    error
}

fn busy(major: u32, site: &Site) -> Cluster {
    let primary = site.archiving(Cluster::builder(major).wal_segment_mib(1).conf("wal_keep_size", "1GB"));
    primary.create_tablespace("elsewhere");
    primary.sql(
        "CREATE TABLE changed AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i; \
         CREATE INDEX ON changed (i); \
         CREATE TABLE dropped AS SELECT generate_series(1, 1000) i; \
         CREATE TABLE emptied AS SELECT generate_series(1, 5000) i; \
         CREATE TABLE rewritten AS SELECT generate_series(1, 5000) i; \
         CREATE UNLOGGED TABLE passing AS SELECT generate_series(1, 1000) i; \
         CREATE TABLE far TABLESPACE elsewhere AS SELECT i, md5(i::text) FROM generate_series(1, 3000) i; \
         CREATE TABLE far_dropped TABLESPACE elsewhere AS SELECT generate_series(1, 3000) i",
    );
    primary.sql("CREATE DATABASE gone");
    primary
}

fn goes_on(primary: &Cluster) {
    primary.sql(
        "UPDATE changed SET md5 = 'other' WHERE i % 100 = 0; VACUUM changed; DROP TABLE dropped, far_dropped; \
         TRUNCATE emptied; DELETE FROM rewritten WHERE i > 100; \
         INSERT INTO far SELECT i, 'new' FROM generate_series(1, 5000) i; \
         CREATE TABLE fresh AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i; \
         CREATE TABLE far_fresh TABLESPACE elsewhere AS SELECT generate_series(1, 3000) i",
    );
    primary.sql("VACUUM FULL rewritten");
    primary.sql("DROP DATABASE gone");
    primary.sql("CREATE DATABASE fresh TABLESPACE elsewhere");
}

/// The cluster goes on after a backup; then its own directory goes back to it, and forward to the end.
fn there_and_back(major: u32) {
    let site = Site::new();
    let primary = busy(major, &site);
    let first = site.backup(&primary, &[])["id"].as_str().unwrap().to_owned();
    let before = all_digests(&primary);
    goes_on(&primary);
    site.backup(&primary, &[]);
    primary.sql("INSERT INTO fresh VALUES (0, 'last')");
    let last = all_digests(&primary);
    site.archive_all(&primary);
    let old = primary.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'");
    // As a crash leaves it, lock file and all.
    primary.crash();
    let directory = primary.data_dir().to_owned();
    fs::write(directory.join("notes.txt"), "not of the cluster").unwrap();
    let space = fs::read_link(directory.join("pg_tblspc").join(&old)).unwrap();
    fs::write(space.join("neighbour"), "not in the directory of this version").unwrap();

    for (backup, target, digests) in [
        (Some(&first), RecoveryTarget::Immediate, &before),
        (Some(&first), RecoveryTarget::Latest, &last),
        (None, RecoveryTarget::Latest, &last),
    ] {
        let plain = RestoreRequest {
            backup: backup.cloned(),
            tablespace_map: vec![(old.clone(), site.destination())],
            ..site.request(target.clone())
        };
        run_restore(&plain).unwrap();
        let delta = RestoreRequest { backup: backup.cloned(), ..onto(&site, &directory, target) };
        let told = run_restore(&RestoreRequest { dry_run: true, ..delta.clone() }).unwrap();
        assert!(directory.join("global/pg_control").exists(), "a dry run changes nothing");
        let done = run_restore(&delta).unwrap();
        assert_same(&directory, &plain.destination);
        assert_same(&space.join(version(&space)), &plain.tablespace_map[0].1.join(version(&space)));
        assert_eq!(fs::read_link(directory.join("pg_tblspc").join(&old)).unwrap(), space);
        assert!(space.join("neighbour").exists());
        let (told, did) = (delta_of(&told), delta_of(&done));
        assert_eq!(did.found, "former_cluster");
        assert_eq!(told.local_bytes, did.local_bytes, "a dry run knows what will be read");
        assert_eq!(told.removed, did.removed);
        assert_eq!(told.removed_files, did.removed_files);
        assert!(did.kept_blocks > did.fetched_blocks, "{did:?}");
        let restored = start_restored(major, &directory);
        assert_eq!(&all_digests(&restored), digests, "{backup:?}");
        restored.sql("INSERT INTO changed VALUES (0, 'the restored one lives')");
        restored.stop(StopMode::Fast);
    }
}

/// The only directory of a server version in a tablespace.
fn version(space: &Path) -> String {
    let names = fs::read_dir(space).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.into_iter().find(|name| name.starts_with("PG_")).unwrap()
}

#[test]
fn pg14_goes_back_to_a_backup_and_forward_again() {
    there_and_back(14);
}

#[test]
fn pg18_goes_back_to_a_backup_and_forward_again() {
    there_and_back(18);
}

/// A small cluster with a backup, stopped, and a plain restore of it.
fn restored_once(site: &Site, major: u32, rows: u32) -> RestoreRequest {
    let primary = site.archiving(Cluster::builder(major).wal_segment_mib(1));
    primary.sql(&format!(
        "CREATE TABLE big AS SELECT i, md5(i::text) a, md5((i + 1)::text) b FROM generate_series(1, {rows}) i"
    ));
    site.backup(&primary, &["--wal", "include"]);
    let plain = site.request(RecoveryTarget::Immediate);
    run_restore(&plain).unwrap();
    plain
}

#[test]
fn what_is_fetched_is_what_differs() {
    let site = Site::new();
    let plain = restored_once(&site, 17, 200_000);
    let full = run_restore(&site.request(RecoveryTarget::Immediate)).unwrap();
    let directory = plain.destination.clone();
    let expected = site.destination();
    run_restore(&RestoreRequest { destination: expected.clone(), ..plain.clone() }).unwrap();
    let delta = onto(&site, &directory, RecoveryTarget::Immediate);

    // Nothing differs but what a restore writes itself.
    let report = run_restore(&delta).unwrap();
    let did = delta_of(&report);
    assert!(report.read_bytes < full.read_bytes / 500, "{} of {}", report.read_bytes, full.read_bytes);
    let blocks = did.kept_blocks;
    assert!(did.fetched_blocks <= 1 && did.zeroed_blocks == 0, "{did:?}");
    assert!(blocks * 8192 >= did.local_bytes && did.local_bytes >= report.size_bytes - 16384, "{did:?}");

    // One page in fifty of the whole cluster, in stretches of whole frames.
    let (big, pages) = largest(&directory);
    let damage = fs::OpenOptions::new().write(true).open(&big).unwrap();
    let wanted = blocks / 50;
    for number in 0..wanted {
        let page = number / 16 * 16 * (pages / wanted) + number % 16;
        damage.write_all_at(&[0xAB; 64], page * 8192 + 100).unwrap();
    }
    let report = run_restore(&delta).unwrap();
    let did = delta_of(&report);
    assert!(did.fetched_blocks >= wanted && did.fetched_blocks <= wanted + 1, "{wanted}: {did:?}");
    let share = report.read_bytes as f64 / full.read_bytes as f64;
    assert!(share < 0.04, "{share}");
    assert_same(&directory, &expected);

    // Zeros where pages are, and pages where zeros are.
    damage.write_all_at(&vec![0; 80 * 8192], 0).unwrap();
    let (empty, (_, zeros)) = tree(&directory)
        .into_iter()
        .find(|(_, (_, bytes))| !bytes.is_empty() && bytes.iter().all(|byte| *byte == 0))
        .unwrap();
    fs::write(directory.join(empty), vec![1; zeros.len()]).unwrap();
    let report = run_restore(&delta).unwrap();
    let did = delta_of(&report);
    assert!((80..=81).contains(&did.fetched_blocks), "{did:?}");
    assert_eq!(did.zeroed_blocks, zeros.len().div_ceil(8192) as u64);
    assert_same(&directory, &expected);
}

fn largest(directory: &Path) -> (std::path::PathBuf, u64) {
    let files = tree(directory)
        .into_iter()
        .map(|(path, (_, bytes))| (directory.join(path), bytes.len() as u64 / 8192));
    files.max_by_key(|(_, pages)| *pages).unwrap()
}

#[test]
fn any_former_directory_becomes_the_backup_and_nothing_outside_is_touched() {
    let mut dice = Dice::new("mutations of a former cluster");
    let site = Site::new();
    let plain = restored_once(&site, 18, 10_000);
    let outside = Outside::new(site.scratch.path().join("outside"));
    let directory = site.destination();
    run_restore(&RestoreRequest { destination: directory.clone(), ..plain.clone() }).unwrap();
    for round in 0..30 {
        let done: Vec<String> =
            (0..=dice.below(12)).map(|_| mutate(&mut dice, &directory, &outside.path)).collect();
        println!("{round}: {done:#?}");
        let result = run_restore(&onto(&site, &directory, RecoveryTarget::Immediate));
        outside.assert_untouched();
        if let Err(error) = result {
            // A WAL directory elsewhere is emptied of WAL only: anything else there is refused, before anything changes.
            assert!(error.message.contains("pg_wal"), "{error:#?}");
            assert!(directory.join("global/pg_control").exists());
            fs::remove_file(directory.join("pg_wal")).unwrap();
            run_restore(&onto(&site, &directory, RecoveryTarget::Immediate)).unwrap();
            outside.assert_untouched();
        }
        assert_same(&directory, &plain.destination);
    }
}

#[test]
fn a_wal_directory_on_another_disk_stays_there_and_is_emptied() {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(17).wal_segment_mib(1).separate_wal());
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 100) i");
    site.backup(&primary, &["--wal", "include"]);
    let directory = primary.data_dir().to_owned();
    primary.stop(StopMode::Fast);
    let wal = fs::read_link(directory.join("pg_wal")).unwrap();
    fs::create_dir(wal.join("lost+found")).unwrap();
    let delta = onto(&site, &directory, RecoveryTarget::Immediate);

    fs::write(wal.join("thesis.txt"), "mine").unwrap();
    let segments = fs::read_dir(&wal).unwrap().count();
    refused(&delta, ErrorKind::Destination, "thesis.txt");
    assert_eq!(fs::read_dir(&wal).unwrap().count(), segments);
    fs::remove_file(wal.join("thesis.txt")).unwrap();

    run_restore(&delta).unwrap();
    assert_eq!(fs::read_link(directory.join("pg_wal")).unwrap(), wal);
    let left: Vec<_> = tree(&wal).into_keys().collect();
    assert_eq!(left, ["archive_status", "lost+found", "summaries"].map(Into::<std::path::PathBuf>::into));
    fs::remove_dir(wal.join("lost+found")).unwrap();
    assert_eq!(start_restored(17, &directory).sql("SELECT count(*) FROM t"), "100");

    fs::remove_file(directory.join("pg_wal")).unwrap();
    symlink("base", directory.join("pg_wal")).unwrap();
    refused(&delta, ErrorKind::Destination, "is a link into");
    fs::remove_file(directory.join("pg_wal")).unwrap();
    symlink("/nowhere", directory.join("pg_wal")).unwrap();
    refused(&delta, ErrorKind::Destination, "link to nowhere");
}

#[test]
fn what_is_not_this_clusters_is_refused_and_left_alone() {
    let site = Site::new();
    let primary = busy(18, &site);
    let report = site.backup(&primary, &["--wal", "include"]);
    assert!(report["id"].is_string());
    let directory = primary.data_dir().to_owned();
    let delta = |path: &Path| onto(&site, path, RecoveryTarget::Immediate);

    // A running server: by its lock file, and without it.
    let running = run_restore(&delta(&directory)).unwrap_err();
    assert_eq!(running.kind, ErrorKind::Locked, "{running:#?}");
    let lock = fs::read(directory.join("postmaster.pid")).unwrap();
    fs::remove_file(directory.join("postmaster.pid")).unwrap();
    let running = run_restore(&delta(&directory)).unwrap_err();
    assert_eq!(running.kind, ErrorKind::Locked, "{running:#?}");
    assert!(running.causes[0].contains(directory.to_str().unwrap()), "{running:#?}");
    fs::write(directory.join("postmaster.pid"), &lock).unwrap();
    assert_eq!(primary.sql("SELECT count(*) FROM changed"), "20000");

    // A copy of the directory has links to the living server's tablespaces.
    let copy = site.destination();
    copy_of(&directory, &copy);
    fs::remove_file(copy.join("postmaster.pid")).unwrap();
    refused(&delta(&copy), ErrorKind::Locked, "a running server uses");

    // Without such a link, the tablespace is somebody else's.
    let space = fs::read_dir(copy.join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&space).unwrap();
    refused(&delta(&copy), ErrorKind::Destination, "--tablespace-map");
    primary.stop(StopMode::Fast);
    refused(&delta(&copy), ErrorKind::Destination, "--tablespace-map");

    // Another cluster.
    let other = Cluster::builder(18).fresh_identity().start();
    other.stop(StopMode::Fast);
    refused(&delta(other.data_dir()), ErrorKind::Mismatch, "system identifier");

    // A directory that is no cluster's, and a cluster's whose control file tells nothing.
    let mine = site.destination();
    fs::write(mine.join("thesis.txt"), "mine").unwrap();
    let error = refused(&delta(&mine), ErrorKind::Destination, "would be removed");
    assert!(error.hints.iter().all(|hint| !hint.contains("--delta")), "{error:#?}");
    fs::write(copy.join("global/pg_control"), vec![0; 8192]).unwrap();
    refused(&delta(&copy), ErrorKind::Destination, "cannot be told which cluster");

    // A marker of another cluster's restore.
    let foreign = site.destination();
    fs::write(
        foreign.join("pgkeep_restore.unfinished"),
        r#"{"format":1,"system_identifier":"7","stanza":"x","backup":"x","tablespaces":[]}"#,
    )
    .unwrap();
    refused(&delta(&foreign), ErrorKind::Mismatch, "unfinished restore of another cluster");

    // Entangled places.
    let map = |path: &Path| vec![(space.file_name().unwrap().to_str().unwrap().to_owned(), path.to_owned())];
    let mapped =
        |to: &Path, tablespace: &Path| RestoreRequest { tablespace_map: map(tablespace), ..delta(to) };
    let repository = site.repository();
    let inside = repository.join("main/inside");
    fs::create_dir(&inside).unwrap();
    std::os::unix::fs::chown(&inside, Some(fs::metadata(&repository).unwrap().uid()), None).unwrap();
    refused(&mapped(&inside, &site.destination()), ErrorKind::Destination, "lies inside the repository");
    refused(&mapped(&site.destination(), &inside), ErrorKind::Destination, "lies inside the repository");
    fs::remove_dir(&inside).unwrap();
    let empty = site.destination();
    let link = site.scratch.path().join("link");
    symlink(&empty, &link).unwrap();
    refused(&mapped(&empty, &link), ErrorKind::Destination, "not apart from");
    let nested = directory.join("base/nested");
    fs::create_dir(&nested).unwrap();
    std::os::unix::fs::chown(&nested, Some(fs::metadata(&repository).unwrap().uid()), None).unwrap();
    refused(&mapped(&empty, &nested), ErrorKind::Destination, "lies inside the data directory");
    refused(&mapped(&nested, &site.destination()), ErrorKind::Destination, "lies inside the data directory");
    fs::remove_dir(&nested).unwrap();

    // A repository in the data directory itself, where everything unknown is removed.
    fs::rename(&repository, directory.join("repo")).unwrap();
    let location = pgkeep_engine::Location {
        repository: directory.join("repo").display().to_string(),
        stanza: "main".to_owned(),
    };
    let error = run_restore(&RestoreRequest { location, ..delta(&directory) }).unwrap_err();
    assert!(error.causes[0].contains("contains the repository"), "{error:#?}");
    fs::rename(directory.join("repo"), &repository).unwrap();

    // A link to the former directory is followed, and named; the link stays.
    let named = site.scratch.path().join("named");
    symlink(&directory, &named).unwrap();
    let done = run_restore(&delta(&named)).unwrap();
    assert_eq!(done.destination, directory);
    assert!(fs::symlink_metadata(&named).unwrap().is_symlink());
    assert_eq!(start_restored(18, &directory).sql("SELECT count(*) FROM changed"), "20000");
}

fn copy_of(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}
