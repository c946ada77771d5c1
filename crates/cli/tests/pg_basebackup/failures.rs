//! Backups that end early leave nothing, unless they are told to.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use pgkeep_testkit::{Cluster, StopMode, wait_until};

use super::{fails, fill, names, ours, path, said};

const LIMIT: Duration = Duration::from_secs(60);

/// A backup that takes minutes, when its data has begun to come.
fn begun(cluster: &Cluster, directory: &Path, words: &[&str]) -> Child {
    let mut all = vec!["-D", directory.to_str().unwrap(), "-r", "32", "-N"];
    all.extend(words);
    let child = ours(cluster, &all).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("data has come", LIMIT, || {
        fs::read_dir(directory).is_ok_and(|mut entries| {
            entries.any(|entry| {
                matches!(
                    entry.unwrap().file_name().to_str(),
                    Some("backup_label" | "base.tar" | "base.tar.gz")
                )
            })
        })
    });
    child
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

#[test]
fn an_interrupt_takes_back_what_was_made() {
    for (major, words) in
        [(14, &[][..]), (18, &[]), (18, &["-Ft", "-z"]), (18, &["-X", "fetch"]), (14, &["-Ft"])]
    {
        let cluster = Cluster::builder(major).start();
        fill(&cluster);
        let place = tempfile::tempdir().unwrap();
        let (new, empty) = (path(&place, "a/new"), path(&place, "empty"));
        fs::create_dir(&empty).unwrap();
        for (directory, text) in
            [(&new, "removing data directory"), (&empty, "removing contents of data directory")]
        {
            let child = begun(&cluster, directory, words);
            interrupt(&child);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert!(
                said(&output).contains("pg_basebackup: error: canceled by a signal\n"),
                "{}",
                said(&output)
            );
            assert!(said(&output).contains(&format!("pg_basebackup: {text} \"")), "{}", said(&output));
        }
        assert!(!new.exists() && names(&empty).is_empty());
        // The server is told, and does not go on for minutes.
        wait_until("the server's side has ended", LIMIT, || {
            cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'") == "0"
        });
        assert_eq!(cluster.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    }
}

#[test]
fn tablespaces_and_wal_elsewhere_are_taken_back_too() {
    let cluster = Cluster::builder(18).start();
    let location = cluster.scratch().create_dir("ts", 0o700);
    cluster.sql(&format!("CREATE TABLESPACE ts LOCATION '{}'", location.display()));
    cluster.sql("CREATE TABLE t TABLESPACE ts AS SELECT repeat('x', 500) FROM generate_series(1, 2000)");
    let place = tempfile::tempdir().unwrap();
    let (data, tablespace, wal) = (path(&place, "data"), path(&place, "ts"), path(&place, "wal"));
    let mapping = format!("{}={}", location.display(), tablespace.display());
    let words = ["-D", data.to_str().unwrap(), "-r", "32", "-T", &mapping, "--waldir", wal.to_str().unwrap()];
    let child = ours(&cluster, &words).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the tablespace comes", LIMIT, || {
        tablespace.is_dir() && fs::read_dir(&tablespace).unwrap().count() > 0
    });
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(names(place.path()), [""; 0], "{}", said(&output));
}

#[test]
fn no_clean_leaves_it() {
    let cluster = Cluster::builder(18).start();
    fill(&cluster);
    let place = tempfile::tempdir().unwrap();
    let directory = path(&place, "x");
    let child = begun(&cluster, &directory, &["-n"]);
    interrupt(&child);
    let text = said(&child.wait_with_output().unwrap());
    assert!(text.contains("not removed at user's request"), "{text}");
    assert!(directory.join("backup_label").is_file());
    assert!(!directory.join("backup_manifest").exists(), "it does not look like a whole one");
}

#[test]
fn a_server_that_goes_away_ends_it() {
    for words in [&[][..], &["-Xfetch"], &["-Ft", "-Xnone"]] {
        let cluster = Cluster::builder(18).start();
        fill(&cluster);
        let place = tempfile::tempdir().unwrap();
        let directory = path(&place, "x");
        let child = begun(&cluster, &directory, words);
        cluster.stop(StopMode::Immediate);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("pg_basebackup: error: "), "{}", said(&output));
        assert!(!directory.exists());
    }
}

#[test]
fn a_place_that_does_not_do_is_refused_before_anything_is_written() {
    let cluster = Cluster::builder(18).start();
    let place = tempfile::tempdir().unwrap();
    let directory = path(&place, "full");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("mine"), "").unwrap();
    let text = fails(ours(&cluster, &["-D", directory.to_str().unwrap()]));
    assert!(
        text.contains(&format!("directory \"{}\" exists but is not empty", directory.display())),
        "{text}"
    );
    assert_eq!(names(&directory), ["mine"]);
    let text = fails(ours(&cluster, &["-D", directory.join("mine/x").to_str().unwrap()]));
    assert!(text.contains("could not access directory"), "{text}");
    let full =
        ours(&cluster, &["-D", "-", "-Ft", "-Xnone"]).stdout(fs::File::create("/dev/full").unwrap()).output();
    let full = full.unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(
        said(&full).contains("could not write to file \"-\": No space left on device"),
        "{}",
        said(&full)
    );
}
