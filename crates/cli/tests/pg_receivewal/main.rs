//! `pgkeep pg_receivewal` on servers of every major: files as the server has them, slots, restarts of the server, and
//! agreement with stock's program.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pgkeep_format::archive::Compression;
use pgkeep_testkit::{Cluster, StopMode, client, pgkeep_binary, wait_until};
use pgkeep_tool::compress::{Framing, buffered_reader};

const LIMIT: Duration = Duration::from_secs(60);
const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

fn cluster(major: u32) -> Cluster {
    Cluster::builder(major).wal_segment_mib(1).conf("wal_keep_size", "1GB").start()
}

fn ours(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = Command::new(pgkeep_binary());
    command.arg("pg_receivewal").args(["-d", &cluster.conninfo()]).args(words);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    assert!(output.stdout.is_empty());
    said(&output)
}

/// The end of WAL, after a segment that is whole.
fn next_position(cluster: &Cluster) -> String {
    cluster.sql("CREATE TABLE IF NOT EXISTS t (n int); INSERT INTO t VALUES (1)");
    cluster.switch_wal();
    let position = cluster.sql("SELECT pg_current_wal_insert_lsn()");
    // Something beyond it has to come for the program to stop.
    cluster.sql("INSERT INTO t VALUES (2)");
    position
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn contents(path: &Path) -> Vec<u8> {
    let compression = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Compression::Gzip,
        Some("lz4") => Compression::Lz4,
        _ => Compression::None,
    };
    let mut bytes = Vec::new();
    let mut reader = buffered_reader(File::open(path).unwrap(), compression, Framing::File).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Every whole file is the server's; returns how many there are.
fn compare_with_server(cluster: &Cluster, directory: &Path) -> usize {
    let mut compared = 0;
    for name in names(directory) {
        if name.ends_with(".partial") || name.ends_with(".history") {
            continue;
        }
        let segment = &name[..24];
        let server = fs::read(cluster.data_dir().join("pg_wal").join(segment)).unwrap();
        assert!(contents(&directory.join(&name)) == server, "{name}");
        compared += 1;
    }
    compared
}

fn start(cluster: &Cluster, directory: &Path, words: &[&str]) -> Child {
    let mut all = vec!["-D", directory.to_str().unwrap()];
    all.extend(words);
    ours(cluster, &all).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: Child) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_major_streams_through_a_slot_in_every_compression() {
    for major in MAJORS {
        let cluster = cluster(major);
        let create = ["-S", "arch", "--create-slot"];
        run(ours(&cluster, &create));
        let twice = ours(&cluster, &create).output().unwrap();
        assert!(!twice.status.success() && said(&twice).contains("already exists"), "{}", said(&twice));
        run(ours(&cluster, &["-S", "arch", "--create-slot", "--if-not-exists"]));

        let place = tempfile::tempdir().unwrap();
        let directory = place.path().to_str().unwrap();
        for (compression, suffix) in [("none", ""), ("gzip:3", ".gz"), ("lz4", ".lz4"), ("none", "")] {
            let end = next_position(&cluster);
            let words = ["-D", directory, "-S", "arch", "-n", "-s", "1", "-E", &end, "-Z", compression, "-v"];
            let told = run(ours(&cluster, &words));
            assert!(told.contains("starting log streaming at "), "{told}");
            assert!(told.contains("stopped log streaming at "), "{told}");
            let partial = format!("{suffix}.partial");
            assert!(names(place.path()).last().unwrap().ends_with(&partial), "{:?}", names(place.path()));
        }
        // The first run began where the server was, in a segment that the second one finished.
        assert_eq!(compare_with_server(&cluster, place.path()), 3, "{major}");
        // What was reported has moved the slot.
        let moved = cluster.sql("SELECT restart_lsn IS NOT NULL FROM pg_replication_slots");
        assert_eq!(moved, "t", "{major}");
        run(ours(&cluster, &["-S", "arch", "--drop-slot"]));
        assert_eq!(cluster.sql("SELECT count(*) FROM pg_replication_slots"), "0");
    }
}

#[test]
fn files_are_those_of_stocks_program() {
    let cluster = cluster(18);
    cluster.sql("SELECT pg_create_physical_replication_slot('a', true)");
    cluster.sql("SELECT pg_create_physical_replication_slot('b', true)");
    next_position(&cluster);
    let end = next_position(&cluster);
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rest = ["-n", "-E", &end, "--synchronous"];
    run({
        let mut command = ours(&cluster, &["-S", "a", "-D", a.path().to_str().unwrap()]);
        command.args(rest);
        command
    });
    run({
        let mut command = Command::new(client("pg_receivewal"));
        command.args(["-d", &cluster.conninfo(), "-S", "b", "-D", b.path().to_str().unwrap()]).args(rest);
        command
    });
    assert_eq!(names(a.path()), names(b.path()));
    assert!(names(a.path()).len() >= 3);
    for name in names(a.path()) {
        let (a, b) = (fs::read(a.path().join(&name)).unwrap(), fs::read(b.path().join(&name)).unwrap());
        if name.ends_with(".partial") {
            // Each stops where it looks; the beginning is the same, and both are full of zeros to the end.
            assert_eq!(a.len(), b.len());
            assert!(a[..8192] == b[..8192], "{name}");
        } else {
            assert!(a == b, "{name}");
        }
    }
    // Each goes on where the other stopped.
    let end = next_position(&cluster);
    run(ours(&cluster, &["-S", "b", "-D", b.path().to_str().unwrap(), "-n", "-E", &end]));
    assert!(compare_with_server(&cluster, b.path()) >= 3);
}

#[test]
fn a_server_that_goes_and_comes_back_is_followed() {
    let cluster = cluster(18);
    cluster.sql("SELECT pg_create_physical_replication_slot('arch', true)");
    let place = tempfile::tempdir().unwrap();
    let child = start(&cluster, place.path(), &["-S", "arch", "-v"]);
    cluster.sql("CREATE TABLE t (n int)");
    let first = cluster.switch_wal();
    let has = |name: &str| place.path().join(name).exists();
    wait_until(&first, LIMIT, || has(&first));
    // A clean stop waits for the receiver, which the receiver must not keep from happening.
    cluster.stop(StopMode::Fast);
    cluster.start();
    let second = cluster.switch_wal();
    wait_until(&second, LIMIT, || has(&second));
    let output = interrupt(child);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("disconnected; waiting 5 seconds to try again"), "{}", said(&output));
    assert!(said(&output).contains("received interrupt signal, exiting"), "{}", said(&output));
    assert!(compare_with_server(&cluster, place.path()) >= 2);
}

#[test]
fn a_commit_that_a_synchronous_receiver_acknowledged_is_on_its_disk() {
    let cluster =
        Cluster::builder(18).wal_segment_mib(1).conf("synchronous_standby_names", "pg_receivewal").start();
    let place = tempfile::tempdir().unwrap();
    let mut child = start(&cluster, place.path(), &["--synchronous", "-s", "0"]);
    // Returns only when the receiver has said so.
    cluster.sql("SET statement_timeout = '60s'; CREATE TABLE t AS SELECT 'the acknowledged row' AS what");
    child.kill().unwrap();
    child.wait().unwrap();
    let has_it = names(place.path()).iter().any(|name| {
        let bytes = fs::read(place.path().join(name)).unwrap();
        bytes.windows(20).any(|window| window == b"the acknowledged row")
    });
    assert!(has_it, "{:?}", names(place.path()));
}

#[test]
fn what_cannot_be_is_said_and_ends_with_failure() {
    let cluster = cluster(18);
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().to_str().unwrap();
    for (words, text) in [
        (&["-D", "/no/such/directory", "-n"][..], "could not open directory \"/no/such/directory\""),
        (&["-D", directory, "-n", "-S", "none"], "replication slot \"none\" does not exist"),
        (&["-S", "none", "--drop-slot"], "replication slot \"none\" does not exist"),
        (&["-D", directory, "-n", "-p", "1"], "connection to server on socket"),
    ] {
        let output = ours(&cluster, words).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(said(&output).contains(text), "{words:?}: {}", said(&output));
    }
    // A file that is in the way is told apart from a segment.
    let odd: PathBuf = place.path().join("000000010000000000000001");
    fs::write(&odd, "short").unwrap();
    let end = next_position(&cluster);
    let told = run(ours(&cluster, &["-D", directory, "-n", "-E", &end]));
    assert!(told.contains("has incorrect size 5, skipping"), "{told}");
}
