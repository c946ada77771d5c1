//! Killed at each named step of a backup and of a restore: what is listed stays right, and the next run works.
//!
//! The step is named by the events that the library sends; a child process kills itself when it hears the one it was told.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod stanza_support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use pgkeep_engine::backup::{SourceChoice, backup};
use pgkeep_engine::event::Silent;
use pgkeep_engine::list::list;
use pgkeep_engine::restore::{RecoveryTarget, RestoreRequest, TargetTimeline, restore};
use pgkeep_engine::{Cancel, Event, Location, Observer};
use pgkeep_testkit::{Cluster, Scratch};
use stanza_support::{Place, backup_request};

/// What the child is told: repository, connection, source or destination, and where to die.
const CHILD: &str = "PGKEEP_TEST_KILL_POINT";

/// Kills its own process at a step.
struct DieAt(String);

impl Observer for DieAt {
    fn event(&self, event: Event) {
        let name = match event {
            Event::StepStarted { step, .. } => format!("start {step:?}"),
            Event::StepFinished { step } => format!("end {step:?}"),
            _ => return,
        };
        if name == self.0 {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
    }
}

fn restore_request(location: &Location, destination: &Path, delta: bool) -> RestoreRequest {
    RestoreRequest {
        location: location.clone(),
        backup: None,
        target: RecoveryTarget::Immediate,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: None,
        tablespace_map: Vec::new(),
        standby: false,
        settings: Vec::new(),
        destination: destination.to_owned(),
        external_config: None,
        restore_command: "false".to_owned(),
        caller_time_zone: "UTC".to_owned(),
        jobs: 2,
        delta,
        dry_run: false,
    }
}

#[test]
#[ignore = "the child of the other tests"]
fn child() {
    let told = std::env::var(CHILD).unwrap();
    let parts: Vec<&str> = told.split('|').collect();
    let location = Location { repository: parts[1].to_owned(), stanza: "main".to_owned() };
    let observer = DieAt(parts[4].to_owned());
    if parts[0] == "backup" {
        let source = if parts[3] == "local" { SourceChoice::Local } else { SourceChoice::Stream };
        backup(&backup_request(&location, parts[2], source), &observer, &Cancel::default()).unwrap();
    } else {
        let request = restore_request(&location, Path::new(parts[3]), parts[0] == "delta");
        restore(&request, &observer, &Cancel::default()).unwrap();
    }
}

/// Runs the child; it must have died where it was told.
fn killed(words: &[&str]) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(CHILD, words.join("|"))
        .output()
        .unwrap()
        .status;
    assert_eq!(status.signal(), Some(9), "{words:?} ended by itself: {status}");
}

#[test]
fn a_backup_killed_at_any_step_leaves_what_was_listed_and_the_next_one_works() {
    let cluster = Cluster::builder(15).wal_segment_mib(1).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    let steps =
        ["start Checkpoint", "start Copy", "end Copy", "start AwaitWal", "end AwaitWal", "start Commit"];
    for source in ["local", "stream"] {
        for step in steps {
            killed(&["backup", &place.location.repository, &cluster.conninfo(), source, step]);
            assert!(list(&place.location).unwrap().backups.is_empty(), "{source}, {step}");
        }
    }
    // Behind the commit the backup counts, whatever becomes of the process.
    killed(&["backup", &place.location.repository, &cluster.conninfo(), "local", "end Commit"]);
    assert!(list(&place.location).unwrap().backups.iter().all(|backup| backup.restorable));
    assert_eq!(list(&place.location).unwrap().backups.len(), 1);
    let request = backup_request(&place.location, &cluster.conninfo(), SourceChoice::Auto);
    backup(&request, &Silent, &Cancel::default()).unwrap();
    assert_eq!(list(&place.location).unwrap().backups.len(), 2);
}

#[test]
fn a_restore_killed_at_any_step_leaves_nothing_that_starts() {
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    let request = backup_request(&place.location, &cluster.conninfo(), SourceChoice::Local);
    backup(&request, &Silent, &Cancel::default()).unwrap();
    for step in ["start Prove", "end Prove", "start Write", "end Write", "start Sync", "end Sync"] {
        // As root, a restore wants a directory that is the server's user's.
        let scratch = Scratch::new();
        let destination = scratch.path();
        killed(&["restore", &place.location.repository, "", &destination.display().to_string(), step]);
        let control_file = destination.join("global/pg_control");
        assert_eq!(control_file.exists(), step == "end Sync", "{step}");
        assert!(list(&place.location).unwrap().backups[0].restorable);
    }
}

#[test]
fn a_delta_restore_killed_at_any_step_is_finished_by_the_next() {
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    let request = backup_request(&place.location, &cluster.conninfo(), SourceChoice::Local);
    backup(&request, &Silent, &Cancel::default()).unwrap();
    let scratch = Scratch::new();
    let destination = scratch.path();
    restore(&restore_request(&place.location, destination, false), &Silent, &Cancel::default()).unwrap();
    let (control_file, marker) =
        (destination.join("global/pg_control"), destination.join("pgkeep_restore.unfinished"));
    let table = destination.join("base/1/1259");
    let expected = std::fs::read(&table).unwrap();
    let notes = destination.join("notes");
    for step in [
        "start Prove",
        "end Prove",
        "start Clear",
        "end Clear",
        "start Write",
        "end Write",
        "start Sync",
        "end Sync",
    ] {
        std::fs::write(&notes, "mine").unwrap();
        std::fs::write(&table, "damaged").unwrap();
        let path = destination.display().to_string();
        killed(&["delta", &place.location.repository, "", &path, step]);
        // A server starts on it only before anything was changed, and when all is done.
        let untouched = step.ends_with("Prove");
        assert_eq!(control_file.exists(), untouched || step == "end Sync", "{step}");
        assert_eq!(marker.exists(), !untouched && step != "end Sync", "{step}");
        assert_eq!(notes.exists(), untouched || step == "start Clear", "{step}");
        let done = ["end Write", "start Sync", "end Sync"].contains(&step);
        assert_eq!(std::fs::read(&table).unwrap() == expected, done, "{step}");
        let report =
            restore(&restore_request(&place.location, destination, true), &Silent, &Cancel::default())
                .unwrap();
        let found = if control_file.exists() && (untouched || step == "end Sync") {
            "former_cluster"
        } else {
            "unfinished_restore"
        };
        assert_eq!(report.delta.unwrap().found, found, "{step}");
        assert!(control_file.exists() && !marker.exists() && !notes.exists(), "{step}");
        assert!(std::fs::read(&table).unwrap() == expected, "{step}");
    }
}
