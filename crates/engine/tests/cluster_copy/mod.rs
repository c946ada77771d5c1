//! Copies of the relation files of a running cluster, as a backup would make them, and ways to make them differ.
#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses its own part; helpers fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgkeep_format::{Fork, RelationFile};
use pgkeep_repo::ManifestHeader;
use pgkeep_testkit::{Cluster, StopMode, wait_until};

/// A backup, as far as this matters: a copy of the relation files, and the header of its manifest.
pub struct Copy {
    pub files: PathBuf,
    pub header: ManifestHeader,
}

/// Copies the relation files between the start and the end of a backup.
pub fn copy(cluster: &Cluster, folder: &Path, name: &str) -> Copy {
    let files = folder.join(name);
    let data = cluster.data_dir().display().to_string();
    let (start, stop) = if cluster.major() >= 15 {
        ("pg_backup_start('copy', true)", "pg_backup_stop(false)")
    } else {
        ("pg_start_backup('copy', true, false)", "pg_stop_backup(false, false)")
    };
    let answer = cluster.sql(&format!(
        "SELECT {start};
         \\! mkdir {to} && cp -rL {data}/base {data}/global {data}/pg_tblspc {to}/
         SELECT lsn FROM {stop};
         SELECT timeline_id, catalog_version_no, system_identifier, data_page_checksum_version
             FROM pg_control_checkpoint(), pg_control_system(), pg_control_init()",
        to = files.display(),
    ));
    let lines: Vec<&str> = answer.lines().collect();
    let facts: Vec<&str> = lines[2].split('|').collect();
    let header = ManifestHeader {
        start_lsn: lines[0].parse().unwrap(),
        stop_lsn: lines[1].parse().unwrap(),
        timeline: facts[0].parse::<u32>().unwrap().try_into().unwrap(),
        catalog_version: facts[1].parse().unwrap(),
        system_identifier: facts[2].parse().unwrap(),
        major: cluster.major(),
        checksums: facts[3] == "1",
        wal_segment_size: 1 << 20,
        ..ManifestHeader::default()
    };
    Copy { files, header }
}

/// The files of permanent relations by path, with what they are.
pub fn relation_files(copy: &Copy) -> BTreeMap<String, (RelationFile, PathBuf)> {
    let version = format!("PG_{}_{}", copy.header.major, copy.header.catalog_version);
    let mut found = BTreeMap::new();
    let mut folders = vec![copy.files.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&copy.files).unwrap().to_str().unwrap().to_owned();
            let Some(file) = RelationFile::parse_path(&name, &version) else { continue };
            let is_unlogged = path.with_file_name(format!("{}_init", file.locator.number)).exists();
            if file.fork == Fork::Init || !is_unlogged {
                found.insert(name, (file, path));
            }
        }
    }
    found
}

/// The same directory goes on as a new timeline.
pub fn promote(cluster: &Cluster) {
    cluster.stop(StopMode::Fast);
    fs::write(cluster.data_dir().join("standby.signal"), "").unwrap();
    cluster.start();
    cluster.promote();
}

/// Makes a table longer and crashes, so that pages of zeros stay of which WAL knows nothing. The WAL writer must be slow.
pub fn crash_in_copy(cluster: &Cluster, table: &str) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ends with the server.
            cluster.try_sql(&format!(
                "BEGIN; COPY {table} FROM PROGRAM 'seq 1 30000 | sed s/$/\\\\tgrown/'; SELECT pg_sleep(300)"
            ))
        });
        wait_until("COPY", Duration::from_secs(60), || {
            cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND wait_event = 'PgSleep'") == "1"
        });
        cluster.crash();
    });
}
