//! `expire` on real servers: what is kept restores, what is held stays, and killed between any two deletions every listed
//! backup is whole and the next run finishes.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod common;
#[path = "stanza_support/mod.rs"]
mod stanza_support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Site, all_digests, said};
use pgkeep_engine::backup::{SourceChoice, backup};
use pgkeep_engine::event::Silent;
use pgkeep_engine::expire::{
    ExpireChoice, ExpireReport, ExpireRequest, RetentionPolicy, expire, hold, release,
};
use pgkeep_engine::list::list;
use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_engine::{Cancel, ErrorKind, Event, Location, Observer, Step};
use pgkeep_testkit::Cluster;
use stanza_support::{Place, backup_request, finished_segment};

/// What the child is told: the repository, and after how many removals it dies.
const CHILD: &str = "PGKEEP_TEST_EXPIRE_KILL";

fn count(location: &Location, count: u32) -> ExpireRequest {
    ExpireRequest {
        location: location.clone(),
        choice: ExpireChoice::Policy(RetentionPolicy { count: Some(count), ..RetentionPolicy::default() }),
        dumps: pgkeep_engine::expire::DumpRetention::default(),
        grace_seconds: 0,
        abandoned_after_seconds: 7 * 86_400,
        dry_run: false,
    }
}

fn run(request: &ExpireRequest) -> ExpireReport {
    expire(request, &Silent, &Cancel::default()).unwrap()
}

fn ids(location: &Location) -> Vec<String> {
    list(location).unwrap().backups.into_iter().map(|backup| backup.id).collect()
}

/// All files of a repository below a folder.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

/// Every listed backup can be restored, and has all of its packs.
fn prove_listed(location: &Location) {
    let stanza = location.open_stanza().unwrap();
    for backup in list(location).unwrap().backups {
        assert!(backup.restorable, "{}: {:?}", backup.id, backup.problem);
        let reader = stanza.backup(backup.id.parse().unwrap()).unwrap();
        for pack in &reader.header().packs {
            reader.check_pack(pack, pgkeep_repo::PackCheck::Digests).unwrap();
        }
    }
}

#[test]
fn what_is_kept_restores_to_every_moment_and_a_policy_works_after_a_backup() {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(17).wal_segment_mib(1));
    let mut backups = Vec::new();
    let mut digests = Vec::new();
    for number in 0..4 {
        primary
            .sql(&format!("CREATE TABLE t{number} AS SELECT i, md5(i::text) FROM generate_series(1, 500) i"));
        // Full ones, so that each has packs of its own to remove.
        backups.push(site.backup(&primary, &["--type", "full"])["id"].as_str().unwrap().to_owned());
        primary.sql(&format!("INSERT INTO t{number} VALUES (0, 'later')"));
        primary.sql(&format!("SELECT pg_create_restore_point('point{number}')"));
        digests.push(all_digests(&primary));
        site.archive_all(&primary);
    }
    site.run(&["hold", &backups[0], "--reason", "audit"]);
    let wal = site.repository().join("main/wal");
    let before = (files(&site.repository()), files(&wal).len());
    let dry = site.run(&["expire", "--keep-count", "2", "--dry-run"]);
    assert_eq!(files(&site.repository()), before.0, "a dry run writes nothing");
    let keeps: Vec<bool> =
        dry["backups"].as_array().unwrap().iter().map(|b| b["keep"].as_bool().unwrap()).collect();
    assert_eq!(keeps, [true, false, true, true]);

    let report = site.run(&["expire", "--keep-count", "2", "--grace", "0s"]);
    assert_eq!(
        (&report["removed_backups"], &report["removed_packs"]),
        (&dry["removed_backups"], &dry["removed_packs"])
    );
    assert_eq!(report["removed_wal_files"], dry["removed_wal_files"]);
    assert!(report["freed_bytes"].as_u64().unwrap() > 100_000);
    assert!(files(&wal).len() < before.1);
    assert_eq!(ids(&site.location()), [&backups[0], &backups[2], &backups[3]].map(String::clone));
    prove_listed(&site.location());
    let again = site.run(&["expire", "--keep-count", "2", "--grace", "0s"]);
    assert_eq!((&again["removed_backups"], &again["removed_wal_files"]), (&0.into(), &0.into()));

    // The gap behind the held one is meant, and told from a loss.
    let listed = list(&site.location()).unwrap();
    assert!(!listed.gaps.is_empty() && listed.gaps.iter().all(|gap| gap.expired && !gap.harmful));

    // The held one as it was at its end; the others to moments after them.
    let restore = |backup: &str, target| {
        let mut request = site.request(target);
        request.backup = Some(backup.to_owned());
        all_digests(&site.bring_back(17, &request))
    };
    assert_eq!(restore(&backups[2], RecoveryTarget::Name("point2".into())), digests[2]);
    assert_eq!(restore(&backups[2], RecoveryTarget::Latest), digests[3]);
    assert_eq!(restore(&backups[0], RecoveryTarget::Immediate).len(), digests[0].len());

    // One by name; a held one is refused until it is let go.
    let refused = site.command(&["expire", "--backup", &backups[0], "--grace", "0s"]).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("is held"), "{}", said(&refused));
    site.run(&["release", &backups[0]]);
    site.run(&["expire", "--backup", &backups[0], "--grace", "0s"]);
    assert_eq!(ids(&site.location()), [&backups[2], &backups[3]].map(String::clone));

    // After a backup the policy works by itself, unless told not to.
    let conninfo = primary.conninfo();
    let with_policy = |more: &[&str]| {
        let arguments = [&["backup", "--json", "-d", &conninfo], more].concat();
        let output = site
            .command(&arguments)
            .env("PGKEEP_RETENTION_COUNT", "1")
            .env("PGKEEP_RETENTION_GRACE", "0s")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let listed = list(&site.location()).unwrap();
    assert!(listed.gaps.is_empty(), "{:?}", listed.gaps);
    let left = fs::read_dir(site.repository().join("main/expire")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "notes are forgotten when there is nothing before the gap");
    assert!(with_policy(&["--no-expire"])["expire"].is_null());
    assert_eq!(ids(&site.location()).len(), 3);
    let report = with_policy(&[]);
    assert_eq!(report["expire"]["removed_backups"], 3);
    assert_eq!(ids(&site.location()), [report["id"].as_str().unwrap()]);
    prove_listed(&site.location());
    primary.sql("INSERT INTO t0 VALUES (1, 'last')");
    let last = all_digests(&primary);
    site.archive_all(&primary);
    assert_eq!(restore("latest", RecoveryTarget::Latest), last);
}

#[test]
fn a_policy_that_says_nothing_and_an_unknown_backup_are_mistakes() {
    let cluster = Cluster::builder(16).wal_segment_mib(1).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    backup(
        &backup_request(&place.location, &cluster.conninfo(), SourceChoice::Local),
        &Silent,
        &Cancel::default(),
    )
    .unwrap();
    let mut request = count(&place.location, 1);
    let silent = Cancel::default();
    request.choice = ExpireChoice::Policy(RetentionPolicy { min: Some(2), ..RetentionPolicy::default() });
    assert_eq!(expire(&request, &Silent, &silent).unwrap_err().kind, ErrorKind::Usage);
    request.choice = ExpireChoice::Backup("000009".into());
    assert_eq!(expire(&request, &Silent, &silent).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(release(&place.location, "latest").unwrap_err().kind, ErrorKind::NotFound);
    hold(&place.location, "latest", "").unwrap();
    assert!(list(&place.location).unwrap().backups[0].held);
    request.choice = ExpireChoice::Backup("latest".into());
    assert_eq!(expire(&request, &Silent, &silent).unwrap_err().kind, ErrorKind::Locked);
    release(&place.location, "latest").unwrap();
    // By name even the last one goes; the WAL of a cluster without a backup stays.
    let report = run(&request);
    assert_eq!((report.removed_backups, report.removed_wal_files), (1, 0));
    assert!(ids(&place.location).is_empty());
}

/// Kills its own process after so many removals.
struct DieAfter(usize, AtomicUsize);

impl Observer for DieAfter {
    fn event(&self, event: Event) {
        let is_removal = matches!(event, Event::Progress { step: Step::Remove, .. });
        let is_begin = matches!(event, Event::StepStarted { step: Step::Grace, .. });
        if (is_removal && self.1.fetch_add(1, Ordering::SeqCst) + 1 == self.0) || (is_begin && self.0 == 0) {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[test]
#[ignore = "the child of the other test"]
fn child() {
    let told = std::env::var(CHILD).unwrap();
    let (repository, after) = told.split_once('|').unwrap();
    let location = Location { repository: repository.to_owned(), stanza: "main".to_owned() };
    let observer = DieAfter(after.parse().unwrap(), AtomicUsize::new(0));
    expire(&count(&location, 1), &observer, &Cancel::default()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        // Nothing in a repository is ever changed in place.
        fs::hard_link(&file, target).unwrap();
    }
}

#[test]
fn killed_after_any_removal_every_listed_backup_is_whole_and_the_next_run_finishes() {
    let cluster = Cluster::builder(18).wal_segment_mib(1).conf("wal_keep_size", "1GB").start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    for _ in 0..3 {
        let request = backup_request(&place.location, &cluster.conninfo(), SourceChoice::Local);
        backup(&request, &Silent, &Cancel::default()).unwrap();
        for _ in 0..2 {
            place.push(&finished_segment(&cluster)).unwrap();
        }
    }
    // With nothing to remove nobody is made to wait, and leases do not pile up.
    let mut idle = count(&place.location, 9);
    idle.grace_seconds = 3600;
    (0..3).for_each(|_| assert_eq!(run(&idle).removed_backups, 0));
    let last = ids(&place.location).pop().unwrap();
    let leases = fs::read_dir(PathBuf::from(&place.location.repository).join("main/lease")).unwrap();
    assert_eq!(leases.count(), 1);
    let original = PathBuf::from(&place.location.repository);
    let objects = |root: &Path| -> BTreeSet<PathBuf> {
        let found = files(root).into_iter().map(|file| file.strip_prefix(root).unwrap().to_owned());
        found.filter(|file| !file.starts_with("main/lease")).collect()
    };
    let finished = {
        let whole = place.directory.path().join("whole");
        copy(&original, &whole);
        let location = Location { repository: whole.display().to_string(), stanza: "main".to_owned() };
        assert_eq!(run(&count(&location, 1)).removed_backups, 2);
        objects(&whole)
    };
    assert!(!finished.iter().any(|file| file.starts_with("main/expire")), "{finished:?}");
    let mut after = 0;
    loop {
        let root = place.directory.path().join(format!("killed{after}"));
        copy(&original, &root);
        let location = Location { repository: root.display().to_string(), stanza: "main".to_owned() };
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env(CHILD, format!("{}|{after}", location.repository))
            .output()
            .unwrap();
        prove_listed(&location);
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "{}", said(&output));
        run(&count(&location, 1));
        assert_eq!(ids(&location), std::slice::from_ref(&last));
        prove_listed(&location);
        run(&count(&location, 1));
        assert_eq!(objects(&root), finished, "killed after {after} removals");
        fs::remove_dir_all(&root).unwrap();
        after += 1;
    }
    assert!(after > 10, "only {after} removals");
}

#[test]
fn what_a_killed_backup_left_goes_when_a_later_one_is_complete() {
    let cluster = Cluster::builder(15).wal_segment_mib(1).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    let take = || {
        let request = backup_request(&place.location, &cluster.conninfo(), SourceChoice::Local);
        backup(&request, &Silent, &Cancel::default()).unwrap().id.unwrap()
    };
    take();
    // As a killed process leaves it: a lease of a process that is gone, a pack, a staging file.
    let repository = PathBuf::from(&place.location.repository);
    let mut gone = Command::new("true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    let lease = fs::read_to_string(repository.join("main/lease/0000000001.json")).unwrap();
    let mut lease: serde_json::Value = serde_json::from_str(&lease).unwrap();
    lease["epoch"] = 2.into();
    lease["process"]["pid"] = pid.into();
    lease["claimed"] = "2026-11-22T09:30:00Z".into();
    fs::write(repository.join("main/lease/0000000002.json"), lease.to_string()).unwrap();
    let folder = repository.join("main/backup/000002-20261122T093000Z");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("pack-000001"), [1; 1000]).unwrap();
    fs::write(folder.join("pack-000002#1"), [1; 1000]).unwrap();

    let keep = count(&place.location, 9);
    let report = run(&keep);
    assert!(report.unlisted_packs[0].keep, "{:?}", report.unlisted_packs);
    assert!(folder.join("pack-000001").exists(), "the next backup may go on with it");
    take();
    let report = run(&keep);
    assert!(!report.unlisted_packs[0].keep, "{:?}", report.unlisted_packs);
    assert_eq!((report.removed_packs, report.freed_bytes, report.removed_backups), (1, 1000, 0));
    assert!(!folder.exists());
    prove_listed(&place.location);
    assert_eq!(ids(&place.location).len(), 2);
}
