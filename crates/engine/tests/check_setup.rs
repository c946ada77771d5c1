//! `init` and `check` against real servers.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod stanza_support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use pgkeep_engine::check::{CheckReport, CheckRequest, Outcome, check};
use pgkeep_engine::event::Silent;
use pgkeep_engine::init::{InitRequest, init};
use pgkeep_engine::{ConnectionRequest, ErrorKind, Location};
use pgkeep_testkit::{Cluster, Scratch, pgkeep_binary, run_as_server_user};
use stanza_support::{Place, connection};

/// A repository that the server's user can write to.
struct Shared {
    scratch: Scratch,
    location: Location,
}

impl Shared {
    fn new() -> Shared {
        let scratch = Scratch::new();
        let repository = scratch.path().join("repo").display().to_string();
        Shared { scratch, location: Location { repository, stanza: "main".to_owned() } }
    }

    fn archive_command(&self) -> String {
        format!("{} --repo {} wal push %p", pgkeep_binary().display(), self.location.repository)
    }

    fn init_as_server_user(&self, cluster: &Cluster) {
        let mut command = Command::new(pgkeep_binary());
        command.args(["init", "--repo", &self.location.repository, "-d", &cluster.conninfo()]);
        run_as_server_user(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn check(&self, connection: ConnectionRequest) -> CheckReport {
        check(
            &CheckRequest {
                location: self.location.clone(),
                connection,
                archive_command: self.archive_command(),
                archive_timeout_seconds: 20,
                incremental_sample: None,
            },
            &Silent,
        )
        .unwrap()
    }
}

fn outcome(report: &CheckReport, check: &str) -> Outcome {
    report.findings.iter().find(|finding| finding.check == check).unwrap().outcome
}

fn text(report: &CheckReport, check: &str) -> String {
    report
        .findings
        .iter()
        .filter(|finding| finding.check == check)
        .map(|finding| format!("{} ({})\n", finding.text, finding.hint.as_deref().unwrap_or("no hint")))
        .collect()
}

#[test]
fn init_makes_what_is_missing_and_says_the_settings() {
    for major in [14, 18] {
        let cluster = Cluster::builder(major).start();
        let place = Place::new();
        let first = place.init(&cluster).unwrap();
        assert!(first.created_repository && first.created_stanza);
        assert_eq!(first.system_identifier, cluster.system_identifier());
        assert_eq!(first.server_version / 10000, major);
        let lines: Vec<&str> = first.settings.iter().map(|finding| finding.line.as_str()).collect();
        assert_eq!(lines, ["archive_mode = on", "archive_command = 'pgkeep wal push %p'"]);
        let again = place.init(&cluster).unwrap();
        assert!(!again.created_repository && !again.created_stanza);
        assert_eq!(again.repository_id, first.repository_id);
    }
}

#[test]
fn a_stanza_never_takes_another_cluster() {
    let (ours, theirs) = (Cluster::builder(17).start(), Cluster::builder(17).fresh_identity().start());
    let place = Place::new();
    place.init(&ours).unwrap();
    let error = place.init(&theirs).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Mismatch);
    assert!(error.to_string().contains(&theirs.system_identifier().to_string()));
    assert!(error.hints.iter().any(|hint| hint.contains("--stanza")));
    assert_eq!(place.stanza().records().len(), 1);
    // Nothing is made for a server that does not answer.
    let nowhere = Place::new();
    let request = InitRequest {
        location: nowhere.location.clone(),
        connection: ConnectionRequest {
            conninfo: Some("host=/nonexistent user=postgres".to_owned()),
            ..ConnectionRequest::default()
        },
        apply: false,
        archive_command: String::new(),
    };
    assert_eq!(init(&request).unwrap_err().kind, ErrorKind::Connect);
    assert!(!PathBuf::from(&nowhere.location.repository).exists());
}

#[test]
fn a_place_that_holds_something_else_is_refused() {
    let cluster = Cluster::builder(16).start();
    let place = Place::new();
    fs::create_dir(&place.location.repository).unwrap();
    fs::write(PathBuf::from(&place.location.repository).join("photo.jpg"), "x").unwrap();
    let error = place.init(&cluster).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Destination, "{error}");
}

#[test]
fn applied_settings_archive_after_a_restart() {
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    let shared = Shared::new();
    shared.init_as_server_user(&cluster);
    let request = InitRequest {
        location: shared.location.clone(),
        connection: connection(&cluster),
        apply: true,
        archive_command: shared.archive_command(),
    };
    let report = init(&request).unwrap();
    assert!(report.settings.iter().all(|finding| finding.applied), "{:?}", report.settings);
    assert!(report.restart_needed);
    // Before the restart the settings wait.
    let waiting = shared.check(connection(&cluster));
    assert_eq!(outcome(&waiting, "settings"), Outcome::Failed);
    assert!(text(&waiting, "settings").contains("restart"), "{}", text(&waiting, "settings"));
    cluster.restart();
    assert!(init(&request).unwrap().settings.is_empty());

    let report = shared.check(connection(&cluster));
    for name in
        ["repository", "permissions", "space", "connection", "replication", "settings", "archive", "gaps"]
    {
        assert_eq!(outcome(&report, name), Outcome::Ok, "{name}: {}", text(&report, name));
    }
    // It works, but there is nothing to restore yet.
    assert_eq!(outcome(&report, "backups"), Outcome::Warning);
    assert!(report.ok);
    // The probe is gone.
    let left = fs::read_dir(shared.scratch.path().join("repo/main/report"))
        .map_or(0, |entries| entries.filter(|e| e.as_ref().unwrap().path().is_file()).count());
    assert_eq!(left, 0);
}

#[test]
fn another_archiver_is_reported_and_left_alone() {
    let cluster =
        Cluster::builder(17).conf("archive_mode", "on").conf("archive_command", "/bin/true").start();
    let place = Place::new();
    let report = init(&InitRequest {
        location: place.location.clone(),
        connection: connection(&cluster),
        apply: true,
        archive_command: "pgkeep wal push %p".to_owned(),
    })
    .unwrap();
    assert_eq!(report.settings.len(), 1);
    assert!(!report.settings[0].applied && !report.settings[0].can_be_set);
    assert_eq!(cluster.sql("SHOW archive_command"), "/bin/true");
}

#[test]
fn an_archiver_that_fails_is_found() {
    let shared = Shared::new();
    let cluster = Cluster::builder(16)
        .wal_segment_mib(1)
        .conf("archive_mode", "on")
        // Ours by its words, but with a repository that is not there.
        .conf("archive_command", format!("{} --repo /nonexistent wal push %p", pgkeep_binary().display()))
        .start();
    shared.init_as_server_user(&cluster);
    let report = shared.check(connection(&cluster));
    assert_eq!(outcome(&report, "archive"), Outcome::Failed);
    assert!(text(&report, "archive").contains("did not arrive"), "{}", text(&report, "archive"));
    assert!(!report.ok);
}

#[test]
fn what_cannot_be_reached_is_said_and_the_rest_still_checked() {
    let cluster = Cluster::builder(15).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    let request = |conninfo: &str, location: &Location| CheckRequest {
        location: location.clone(),
        connection: ConnectionRequest { conninfo: Some(conninfo.to_owned()), ..ConnectionRequest::default() },
        archive_command: String::new(),
        archive_timeout_seconds: 1,
        incremental_sample: None,
    };
    let report = check(&request("host=/nonexistent user=postgres", &place.location), &Silent).unwrap();
    assert_eq!(outcome(&report, "connection"), Outcome::Failed);
    assert_eq!(outcome(&report, "archive"), Outcome::NotTried);
    assert_eq!(outcome(&report, "repository"), Outcome::Ok);
    assert_eq!(outcome(&report, "backups"), Outcome::Warning);

    let mut misspelt = place.location.clone();
    misspelt.stanza = "mian".to_owned();
    let report = check(&request(&cluster.conninfo(), &misspelt), &Silent).unwrap();
    assert_eq!(outcome(&report, "repository"), Outcome::Failed);
    assert!(text(&report, "repository").contains("`main`"));
    assert_eq!(outcome(&report, "connection"), Outcome::Ok);
    let without_hint =
        report.findings.iter().find(|finding| finding.outcome != Outcome::Ok && finding.hint.is_none());
    assert!(without_hint.is_none(), "{without_hint:?}");
}
