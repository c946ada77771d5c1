//! Damage in the cluster itself, and a user who stops a backup.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod stanza_support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use pgkeep_engine::backup::{BackupRequest, BadPages, SourceChoice, backup};
use pgkeep_engine::event::Silent;
use pgkeep_engine::list::list;
use pgkeep_engine::{Cancel, ErrorKind, Event, Observer, Step};
use pgkeep_testkit::Cluster;
use stanza_support::{Place, backup_request};

fn request(place: &Place, cluster: &Cluster, source: SourceChoice) -> BackupRequest {
    backup_request(&place.location, &cluster.conninfo(), source)
}

#[test]
fn bad_pages_are_reported_by_file_and_block_and_do_not_fail_the_backup() {
    let cluster = Cluster::builder(16).checksums(true).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    cluster.sql(
        "CREATE TABLE big AS SELECT g, repeat('x', 500) AS s FROM generate_series(1, 20000) g; CHECKPOINT",
    );
    let path = cluster.sql("SELECT pg_relation_filepath('big')").trim().to_owned();
    let file = OpenOptions::new().write(true).open(cluster.data_dir().join(&path)).unwrap();
    for block in [7_u64, 100, 900] {
        file.write_all_at(b"garbage!", block * 8192 + 3000).unwrap();
    }
    for source in [SourceChoice::Local, SourceChoice::Stream] {
        let report = backup(&request(&place, &cluster, source), &Silent, &Cancel::default()).unwrap();
        let expected = BadPages { path: path.clone(), blocks: vec![7, 100, 900], total: 3 };
        assert_eq!(report.bad_pages, [expected], "{source:?}");
    }
}

/// Asks to stop as soon as files are copied.
struct StopWhenCopying(Cancel);

impl Observer for StopWhenCopying {
    fn event(&self, event: Event) {
        if matches!(event, Event::StepStarted { step: Step::Copy, .. }) {
            self.0.cancel();
        }
    }
}

#[test]
fn an_interrupted_backup_ends_on_the_server_and_is_not_listed() {
    let cluster = Cluster::builder(17).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    for source in [SourceChoice::Local, SourceChoice::Stream] {
        let cancel = Cancel::default();
        let observer = StopWhenCopying(cancel.clone());
        let error = backup(&request(&place, &cluster, source), &observer, &cancel).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Interrupted, "{error}");
        assert!(list(&place.location).unwrap().backups.is_empty());
        // Sessions and temporary slots go as the server notices; a backup that still ran would hold one.
        let left =
            "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication)";
        let mut sessions = String::new();
        for _ in 0..100 {
            sessions = cluster.sql(left).trim().to_owned();
            if sessions == "0" {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(sessions, "0");
    }
    backup(&request(&place, &cluster, SourceChoice::Auto), &Silent, &Cancel::default()).unwrap();
    assert_eq!(list(&place.location).unwrap().backups.len(), 1);
}
