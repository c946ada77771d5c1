//! A full disk, on a real one: needs root for a small file system; elsewhere there is nothing to try.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod stanza_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_engine::ErrorKind;
use pgkeep_engine::wal::PushOutcome;
use stanza_support::{Place, cluster, file_name, finished_segment};

/// A file system of a few hundred KiB; none where it may not be made.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=777");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| SmallDisk(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_is_said_and_what_was_stored_stays() {
    let place = Place::new();
    let Some(_disk) = SmallDisk::mount(Path::new(&place.location.repository), "400k") else {
        println!("not allowed to mount a file system here");
        return;
    };
    let cluster = cluster(17);
    place.init(&cluster).unwrap();
    cluster.sql("CREATE TABLE noise AS SELECT md5(random()::text) AS t FROM generate_series(1, 6000)");
    let first = finished_segment(&cluster);
    place.push(&first).unwrap();
    let error = loop {
        cluster.sql("INSERT INTO noise SELECT md5(random()::text) FROM generate_series(1, 4000)");
        let path = finished_segment(&cluster);
        match place.push(&path) {
            Ok(report) => assert_eq!(report.outcome, PushOutcome::Stored),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Space, "{error:?}");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(error.hints.iter().any(|hint| hint.contains("full")), "{:?}", error.hints);
    // Nothing half-written takes the space that is left.
    let folder = Path::new(&place.location.repository).join("main/wal/000001/00000001/00000000");
    let unfinished =
        fs::read_dir(folder).unwrap().filter(|e| file_name(&e.as_ref().unwrap().path()).contains('#'));
    assert_eq!(unfinished.count(), 0);
    // What was stored before is whole.
    let target = place.directory.path().join("copy");
    place.get(&file_name(&first), &target).unwrap();
    assert_eq!(fs::read(&target).unwrap(), fs::read(&first).unwrap());
    println!("{error}\n{:?}", error.hints);
}
