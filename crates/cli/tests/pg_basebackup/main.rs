//! `pgkeep pg_basebackup` on servers of every major. Stock's `pg_verifybackup` judges the files, and a server that starts on
//! them the data.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

mod copies;
mod failures;
mod options;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgkeep_format::archive::Compression;
use pgkeep_format::tar::{TarEvent, TarReader};
use pgkeep_testkit::{Cluster, client, installation, pgkeep_binary};
use pgkeep_tool::compress::{Framing, buffered_reader};

const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

fn ours(cluster: &Cluster, words: &[&str]) -> Command {
    let mut command = Command::new(pgkeep_binary());
    command.arg("pg_basebackup").args(["-d", &cluster.conninfo(), "-cfast"]).args(words);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    said(&output)
}

/// A backup that must succeed without a word.
#[track_caller]
fn back_up(cluster: &Cluster, directory: &Path, words: &[&str]) {
    let mut all = vec!["-D", directory.to_str().unwrap()];
    all.extend(words);
    let text = run(ours(cluster, &all));
    // Of WAL that is not in the backup the server tells what it thinks.
    let is_silent = text.is_empty() || (text.starts_with("NOTICE:  ") && text.lines().count() == 1);
    assert!(is_silent, "{words:?}: {text}");
}

#[track_caller]
fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {}", said(&output));
    said(&output)
}

/// What stock says of a backup: the program of 18, which does not read the WAL of others, nor the control file of 17, which
/// has one of its own.
#[track_caller]
fn verify(directory: &Path, major: u32) {
    let program =
        if major == 17 { installation(17).program("pg_verifybackup") } else { client("pg_verifybackup") };
    let mut command = Command::new(program);
    command.arg(directory);
    let is_plain = directory.join("PG_VERSION").exists();
    if !is_plain || names(&directory.join("pg_wal")).iter().all(|name| name.len() != 24) || major < 17 {
        command.arg("--no-parse-wal");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}

fn fill(cluster: &Cluster) {
    cluster.sql(
        "CREATE TABLE t AS SELECT g, repeat(md5(g::text), 5) AS text FROM generate_series(1, 20000) g; \
         CREATE INDEX ON t (g)",
    );
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn compression_of(path: &Path) -> Compression {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Compression::Gzip,
        Some("lz4") => Compression::Lz4,
        Some("zst") => Compression::Zstd,
        _ => Compression::None,
    }
}

/// The members of an archive.
fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut plain = Vec::new();
    buffered_reader(File::open(path).unwrap(), compression_of(path), Framing::File)
        .unwrap()
        .read_to_end(&mut plain)
        .unwrap();
    let mut bytes = &plain[..];
    let mut reader = TarReader::new();
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(event) = reader.next(&mut bytes).unwrap() {
        match event {
            TarEvent::Entry(entry) => members.push((String::from_utf8(entry.path).unwrap(), Vec::new())),
            TarEvent::Data(data) => members.last_mut().unwrap().1.extend_from_slice(data),
            TarEvent::EndOfEntry => {}
        }
    }
    assert!(reader.has_ended(), "{} lacks its end", path.display());
    members
}

/// Unpacks an archive with the system's own program.
fn untar(archive: &Path, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(directory).status().unwrap();
    assert!(status.success());
}

fn path(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    directory.path().join(name)
}
