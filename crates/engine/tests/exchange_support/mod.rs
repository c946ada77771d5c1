//! What the tests of export and import share: a cluster with a tablespace, PostgreSQL's own programs.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part; helpers fail loudly")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgkeep_testkit::{Cluster, Scratch, client, installation, run_as_server_user};

use crate::common::said;

/// Tables of every kind that matters to a file, and one in a tablespace beside the cluster.
pub fn fill(cluster: &Cluster, scratch: &Scratch) -> PathBuf {
    let space = scratch.create_dir(&format!("space-{}", cluster.port()), 0o700);
    cluster.sql(&format!("CREATE TABLESPACE beside LOCATION '{}'", space.display()));
    cluster.sql(
        "CREATE TABLE plain AS SELECT i, repeat(md5(i::text), 3) AS text FROM generate_series(1, 20000) i; \
         CREATE INDEX ON plain (text); \
         CREATE TABLE away (i int, text text) TABLESPACE beside; \
         INSERT INTO away SELECT i, md5(i::text) FROM generate_series(1, 5000) i; \
         CREATE TABLE empty (i int); CREATE UNLOGGED TABLE volatile AS SELECT 1; \
         CHECKPOINT",
    );
    space
}

/// PostgreSQL's program of a major that has client programs, 18's for all others.
pub fn program_for(major: u32, name: &str) -> PathBuf {
    let own = installation(major);
    if own.has(name) { own.program(name) } else { client(name) }
}

/// Runs a program as the server's user, without `PG*` variables.
pub fn output(program: &Path, arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    run_as_server_user(&mut command);
    command.output().unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()))
}

#[track_caller]
pub fn run(program: &Path, arguments: &[impl AsRef<OsStr>]) {
    let output = output(program, arguments);
    assert!(output.status.success(), "{}: {}", program.display(), said(&output));
}

/// A base backup as PostgreSQL's own program makes it; tablespaces go to `<directory>-space` where it is plain.
#[track_caller]
pub fn pg_basebackup(cluster: &Cluster, directory: &Path, arguments: &[&str]) {
    let conninfo = cluster.conninfo();
    let mut all = vec!["-d".to_owned(), conninfo, "-c".into(), "fast".into(), "--no-sync".into()];
    all.extend(["-D".to_owned(), directory.display().to_string()]);
    let is_plain = !arguments.iter().any(|argument| argument.starts_with("-Ft"));
    let location =
        cluster.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'beside'");
    if is_plain && !location.is_empty() {
        all.extend(["-T".to_owned(), format!("{location}={}-space", directory.display())]);
    }
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    run(&client("pg_basebackup"), &all);
}

/// PostgreSQL's own check of a backup, with its WAL where the program is of the same major.
#[track_caller]
pub fn pg_verifybackup(major: u32, directory: &Path, is_plain: bool) {
    let own = installation(major);
    let mut arguments = vec![directory.display().to_string()];
    if !is_plain || !own.has("pg_verifybackup") {
        arguments.insert(0, "-n".to_owned());
    }
    run(&program_for(major, "pg_verifybackup"), &arguments);
}

/// Unpacks tar files as a person would.
#[track_caller]
pub fn unpack(tars: &Path, suffix: &str, data: &Path, tablespaces: &[(u32, PathBuf)]) {
    let untar = |name: String, to: &Path| {
        let archive = tars.join(format!("{name}.tar{suffix}"));
        let mut command = Command::new("tar");
        match suffix {
            ".zst" => drop(command.arg("--zstd")),
            ".gz" => drop(command.arg("--gzip")),
            _ => {}
        }
        command.arg("-xf").arg(&archive).arg("-C").arg(to);
        run_as_server_user(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", archive.display(), said(&output));
    };
    untar("base".to_owned(), data);
    for (oid, place) in tablespaces {
        untar(oid.to_string(), place);
    }
    if tars.join(format!("pg_wal.tar{suffix}")).exists() {
        untar("pg_wal".to_owned(), &data.join("pg_wal"));
    }
}
