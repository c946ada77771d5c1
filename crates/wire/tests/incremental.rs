//! Incremental base backups of 17 and later: the manifest goes up, only some blocks come down.
#![allow(clippy::unwrap_used)]

mod common;

use common::replication_session;
use pgkeep_testkit::Cluster;
use pgkeep_wire::{BaseBackupEvent, BaseBackupOptions, Connection, WireError};

/// The archives one after the other, and the manifest.
fn take(session: &mut Connection, incremental: bool) -> Result<(Vec<u8>, Vec<u8>), WireError> {
    let options = BaseBackupOptions { manifest: true, incremental, ..Default::default() };
    let mut backup = session.base_backup(&options)?;
    let (mut archives, mut manifest) = (Vec::new(), Vec::new());
    while let Some(event) = backup.next()? {
        match event {
            BaseBackupEvent::Data(bytes) => archives.extend_from_slice(bytes),
            BaseBackupEvent::Manifest(bytes) => manifest.extend_from_slice(bytes),
            _ => {}
        }
    }
    backup.finish()?;
    Ok((archives, manifest))
}

fn has_incremental_files(archives: &[u8]) -> bool {
    archives.windows(12).any(|window| window == b"INCREMENTAL.")
}

#[test]
fn only_changed_blocks_come_after_the_manifest_went_up() {
    for major in [17, 18] {
        let cluster = Cluster::builder(major).conf("summarize_wal", "on").conf("autovacuum", "off").start();
        cluster.sql("CREATE TABLE t AS SELECT n, repeat('x', 200) FROM generate_series(1, 30000) n");
        let mut session = replication_session(&cluster);
        let (full, manifest) = take(&mut session, false).unwrap();
        assert!(!has_incremental_files(&full));
        cluster.sql("UPDATE t SET n = 0 WHERE n = 7");

        // Without a manifest the server refuses, and the session goes on.
        assert!(matches!(take(&mut session, true), Err(WireError::Server(_))));
        let mut upload = session.upload_manifest().unwrap();
        manifest.chunks(1000).for_each(|piece| upload.write(piece).unwrap());
        upload.finish().unwrap();
        let (incremental, _) = take(&mut session, true).unwrap();
        assert!(has_incremental_files(&incremental));
        assert!(incremental.len() < full.len() / 2, "{} of {}", incremental.len(), full.len());
    }
}

#[test]
fn a_manifest_that_the_server_does_not_take_leaves_the_session_usable() {
    let cluster = Cluster::builder(18).conf("summarize_wal", "on").start();
    let mut session = replication_session(&cluster);
    let mut upload = session.upload_manifest().unwrap();
    upload.write(b"{ \"PostgreSQL-Backup-Manifest-Version\": 2 }\n").unwrap();
    assert!(matches!(upload.finish(), Err(WireError::Server(_))));
    assert!(session.identify_system().is_ok());
    session.upload_manifest().unwrap().abort("changed my mind").unwrap();
    assert!(session.identify_system().is_ok());
}

#[test]
fn older_servers_are_not_asked() {
    let cluster = Cluster::builder(16).start();
    let mut session = replication_session(&cluster);
    assert!(matches!(session.upload_manifest(), Err(WireError::Unsupported(_))));
    let options = BaseBackupOptions { incremental: true, ..Default::default() };
    assert!(matches!(session.base_backup(&options), Err(WireError::Unsupported(_))));
    assert!(session.identify_system().is_ok());
}
