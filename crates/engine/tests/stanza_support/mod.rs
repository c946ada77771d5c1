//! A cluster with a repository beside it, for tests that call the library directly.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part; helpers fail loudly")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgkeep_engine::backup::{BackupRequest, ChangesChoice, Checkpoint, SourceChoice, TypeChoice, WalChoice};
use pgkeep_engine::init::{InitReport, InitRequest, init};
use pgkeep_engine::wal::{GetOutcome, GetRequest, PushReport, PushRequest, get, push};
use pgkeep_engine::{Compression, ConnectionRequest, Error, Location};
use pgkeep_repo::{Stanza, WalArchive};
use pgkeep_testkit::Cluster;

/// A repository in a temporary directory, and where WAL files are collected.
pub struct Place {
    pub directory: tempfile::TempDir,
    pub location: Location,
}

pub fn connection(cluster: &Cluster) -> ConnectionRequest {
    ConnectionRequest { conninfo: Some(cluster.conninfo()), ..ConnectionRequest::default() }
}

impl Place {
    pub fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("repo").display().to_string();
        Place { directory, location: Location { repository, stanza: "main".to_owned() } }
    }

    pub fn init(&self, cluster: &Cluster) -> Result<InitReport, Error> {
        init(&InitRequest {
            location: self.location.clone(),
            connection: connection(cluster),
            apply: false,
            archive_command: "pgkeep wal push %p".to_owned(),
        })
    }

    pub fn push(&self, path: &Path) -> Result<PushReport, Error> {
        push(&PushRequest {
            location: self.location.clone(),
            path: path.to_owned(),
            compression: Compression::default(),
        })
    }

    /// Fetches as a human would, into a file named as told.
    pub fn get(&self, name: &str, path: &Path) -> Result<GetOutcome, Error> {
        self.get_with(name, path, None, 0)
    }

    pub fn get_with(
        &self,
        name: &str,
        path: &Path,
        spool: Option<PathBuf>,
        prefetch: usize,
    ) -> Result<GetOutcome, Error> {
        get(&GetRequest {
            location: self.location.clone(),
            name: name.to_owned(),
            path: path.to_owned(),
            spool,
            prefetch,
        })
    }

    pub fn stanza(&self) -> Stanza {
        self.location.open_stanza().unwrap()
    }

    pub fn archive(&self) -> WalArchive {
        let stanza = self.stanza();
        stanza.wal(stanza.records().last().unwrap())
    }

    /// A writable copy of a file under another name.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let folder = self.directory.path().join("copies");
        std::fs::create_dir_all(&folder).unwrap();
        let to = folder.join(name);
        std::fs::write(&to, std::fs::read(from).unwrap()).unwrap();
        to
    }
}

/// A backup that brings its own WAL.
pub fn backup_request(location: &Location, conninfo: &str, source: SourceChoice) -> BackupRequest {
    BackupRequest {
        location: location.clone(),
        connection: ConnectionRequest { conninfo: Some(conninfo.to_owned()), ..ConnectionRequest::default() },
        kind: TypeChoice::Auto,
        changes: ChangesChoice::Auto,
        source,
        jobs: 2,
        compression: Compression::default(),
        wal: WalChoice::Include,
        checkpoint: Checkpoint::Fast,
        annotations: BTreeMap::new(),
        archive_timeout_seconds: 60,
        pack_bytes: None,
        dry_run: false,
    }
}

/// A small cluster that keeps its WAL.
pub fn cluster(major: u32) -> Cluster {
    Cluster::builder(major).wal_segment_mib(1).conf("wal_keep_size", "1GB").start()
}

/// Ends the current segment and gives the path of the finished file.
pub fn finished_segment(cluster: &Cluster) -> PathBuf {
    cluster.sql("CREATE TABLE IF NOT EXISTS moments (t timestamptz); INSERT INTO moments VALUES (now())");
    let name = cluster.switch_wal();
    cluster.data_dir().join("pg_wal").join(name)
}

pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}
