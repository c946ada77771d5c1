//! Incremental base backups of real servers, against parents that no server's manifest describes: files that came in part are
//! put together with the parent's blocks and compared with the data directory.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod cluster_copy;
mod stanza_support;

use std::collections::BTreeMap;
use std::fs;

use cluster_copy::{Copy, copy, crash_in_copy, promote, relation_files};
use pgkeep_engine::changed_blocks::{
    LimitBlocks, NotUsable, ParentFile, check_server, limit_blocks, upload_parent,
};
use pgkeep_engine::history::TimelinePath;
use pgkeep_format::incremental_file::{IncrementalEvent, IncrementalHeader, IncrementalReader, whole_path};
use pgkeep_format::pg_manifest::has_stale_vm_fault;
use pgkeep_format::tar::{TarEvent, TarReader};
use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::{Fork, Lsn, RelationFile, TimelineId, differs_only_in_hints};
use pgkeep_repo::ManifestHeader;
use pgkeep_testkit::{Cluster, Scratch};
use pgkeep_wire::{BaseBackupEvent, BaseBackupOptions, Connection};
use stanza_support::connection;

const BLOCK: usize = 8192;
const SEGMENT: u32 = 131_072;

fn cluster(major: u32, summarize: bool) -> Cluster {
    let builder = Cluster::builder(major)
        .wal_segment_mib(1)
        .conf("wal_keep_size", "1GB")
        .conf("autovacuum", "off")
        .conf("wal_buffers", "16MB")
        .conf("wal_writer_delay", "10s");
    if summarize { builder.conf("summarize_wal", "on").start() } else { builder.start() }
}

fn path_to(replication: &mut Connection, timeline: TimelineId) -> TimelinePath {
    match replication.timeline_history(timeline).unwrap() {
        Some((_, bytes)) => TimelinePath::of_history(&TimelineHistory::parse(timeline, &bytes).unwrap()),
        None => TimelinePath::of_root(timeline),
    }
}

/// The parent's files as the repository knows them.
fn parent_files(parent: &Copy) -> Vec<ParentFile> {
    let file = |(path, (relation, at)): (String, (RelationFile, std::path::PathBuf))| ParentFile {
        path,
        relation: Some(relation),
        bytes: fs::metadata(at).unwrap().len(),
    };
    relation_files(parent).into_iter().map(file).collect()
}

/// What an incremental backup brought.
#[derive(Default)]
struct Received {
    start: Lsn,
    whole: BTreeMap<String, Vec<u8>>,
    partial: BTreeMap<String, (IncrementalHeader, Vec<u8>)>,
}

fn take(replication: &mut Connection) -> Received {
    let options = BaseBackupOptions { incremental: true, ..Default::default() };
    let mut backup = replication.base_backup(&options).unwrap();
    let mut received = Received { start: backup.start, ..Received::default() };
    let (mut reader, mut prefix) = (TarReader::new(), String::new());
    let mut member: Option<(String, Vec<u8>)> = None;
    while let Some(event) = backup.next().unwrap() {
        match event {
            BaseBackupEvent::NewArchive { tablespace, .. } => {
                prefix = tablespace.map_or_else(String::new, |oid| format!("pg_tblspc/{oid}/"));
                reader = TarReader::new();
            }
            BaseBackupEvent::Data(mut bytes) => {
                while let Some(event) = reader.next(&mut bytes).unwrap() {
                    match event {
                        TarEvent::Entry(entry) => {
                            member = Some((
                                format!("{prefix}{}", String::from_utf8(entry.path).unwrap()),
                                Vec::new(),
                            ));
                        }
                        TarEvent::Data(data) => member.as_mut().unwrap().1.extend_from_slice(data),
                        TarEvent::EndOfEntry => received.add(member.take().unwrap()),
                    }
                }
            }
            _ => {}
        }
    }
    backup.finish().unwrap();
    received
}

impl Received {
    fn add(&mut self, (path, bytes): (String, Vec<u8>)) {
        let Some(whole) = whole_path(&path) else {
            self.whole.insert(path, bytes);
            return;
        };
        let mut reader = IncrementalReader::new(bytes.len() as u64, BLOCK as u32, SEGMENT);
        let (mut header, mut blocks, mut rest) = (None, Vec::new(), bytes.as_slice());
        while let Some(event) = reader.next(&mut rest).unwrap() {
            match event {
                IncrementalEvent::Header(found) => header = Some(found),
                IncrementalEvent::Data(data) => blocks.extend_from_slice(data),
            }
        }
        reader.finish().unwrap();
        self.partial.insert(whole, (header.unwrap(), blocks));
    }

    /// The whole file; `limits` none: as if the server's incremental file said everything.
    fn file(
        &self,
        path: &str,
        relation: &RelationFile,
        parent: &Copy,
        limits: Option<&LimitBlocks>,
    ) -> Vec<u8> {
        if let Some(bytes) = self.whole.get(path) {
            return bytes.clone();
        }
        let (header, sent) = self.partial.get(path).unwrap_or_else(|| panic!("{path} did not come"));
        let old = fs::read(parent.files.join(path)).unwrap();
        let old_blocks = (old.len() / BLOCK) as u32;
        let from_parent =
            limits.map_or(old_blocks, |limits| limits.parent_blocks(relation, old_blocks, SEGMENT));
        let mut bytes = vec![0; header.file_blocks() as usize * BLOCK];
        let kept = (from_parent as usize * BLOCK).min(bytes.len());
        bytes[..kept].copy_from_slice(&old[..kept]);
        for (number, page) in header.blocks.iter().zip(sent.chunks_exact(BLOCK)) {
            bytes[*number as usize * BLOCK..][..BLOCK].copy_from_slice(page);
        }
        bytes
    }
}

/// How many blocks differ in more than hints, length included.
fn different(one: &[u8], other: &[u8]) -> usize {
    let pages = one.chunks(BLOCK).zip(other.chunks(BLOCK));
    pages.filter(|(one, other)| !differs_only_in_hints(one, other)).count()
        + one.len().abs_diff(other.len()).div_ceil(BLOCK)
}

#[test]
fn files_sent_in_part_are_put_together_from_any_parent() {
    for major in [17, 18] {
        let cluster = cluster(major, true);
        let scratch = Scratch::new();
        cluster.create_tablespace("elsewhere");
        cluster.sql(
            "CREATE TABLE cut AS SELECT n, repeat('x', 150) FROM generate_series(1, 30000) n;
             CREATE TABLE changed AS SELECT * FROM cut;
             CREATE TABLE kept AS SELECT * FROM cut;
             CREATE TABLE unlisted AS SELECT * FROM cut;
             CREATE TABLE away TABLESPACE elsewhere AS SELECT * FROM cut;
             CREATE TABLE dropped AS SELECT * FROM cut;
             VACUUM;",
        );
        let path_of = |table: &str| cluster.sql(&format!("SELECT pg_relation_filepath('{table}')"));
        let (cut, kept, unlisted) = (path_of("cut"), path_of("kept"), path_of("unlisted"));
        let parent = copy(&cluster, scratch.path(), "parent");
        cluster.sql(
            "UPDATE changed SET n = -n WHERE n % 1000 = 0;
             UPDATE away SET n = -n WHERE n % 3000 = 0;
             DELETE FROM cut WHERE n > 100; VACUUM cut;
             DROP TABLE dropped; CREATE TABLE newcomer AS SELECT * FROM changed;
             CREATE DATABASE by_file STRATEGY file_copy; CREATE DATABASE by_log STRATEGY wal_log;",
        );
        crash_in_copy(&cluster, "cut");
        cluster.start();
        // 17.10 may wait for ever for a summary after a promotion; 18.6 does not.
        if major == 18 {
            promote(&cluster);
        }
        cluster.sql("UPDATE changed SET n = 0 WHERE n = 77");

        let mut sql = connection(&cluster).connect().unwrap();
        let mut replication = connection(&cluster).connect_replication().unwrap();
        let timeline = replication.identify_system().unwrap().timeline;
        let path = path_to(&mut replication, timeline);
        assert_eq!(check_server(&mut sql, &parent.header, &path).unwrap(), Ok(()));
        let files = parent_files(&parent).into_iter().filter(|file| file.path != unlisted).map(Ok);
        upload_parent(&mut replication, &parent.header, files).unwrap();
        let received = take(&mut replication);
        let limits = limit_blocks(&mut sql, &parent.header, &path, received.start).unwrap().unwrap();
        assert!(!limits.is_empty());

        cluster.sql("CHECKPOINT");
        let now = copy(&cluster, scratch.path(), "now");
        let mut resurrected = 0;
        for (path, (relation, at)) in relation_files(&now) {
            if matches!(relation.fork, Fork::Fsm) {
                continue;
            }
            let live = fs::read(at).unwrap();
            let built = received.file(&path, &relation, &parent, Some(&limits));
            assert_eq!(different(&built, &live), 0, "PostgreSQL {major}: {path}");
            resurrected += different(&received.file(&path, &relation, &parent, None), &live);
        }
        println!(
            "PostgreSQL {major}: {} whole, {} in part, {resurrected} resurrected",
            received.whole.len(),
            received.partial.len()
        );
        // Without the limits, blocks that VACUUM had cut off come back in place of the zeros that a crash left.
        assert!(resurrected > 20, "PostgreSQL {major}: {resurrected}");
        assert!(received.partial[&cut].0.truncation_block_length > 50);
        // What the manifest does not list comes whole, though nothing in it changed.
        assert!(received.whole.contains_key(&unlisted) && received.partial[&kept].0.blocks.is_empty());
        let is_faulty = has_stale_vm_fault(sql.server_version_num());
        let map = format!("{kept}_vm");
        assert_eq!(received.whole.contains_key(&map), is_faulty, "PostgreSQL {major}");
        assert_eq!(received.partial.contains_key(&map), !is_faulty, "PostgreSQL {major}");
    }
}

#[test]
fn a_server_that_cannot_is_told_apart_from_one_that_fails() {
    let ask = |cluster: &Cluster, parent: &ManifestHeader| {
        let mut sql = connection(cluster).connect().unwrap();
        let path = TimelinePath::of_root(TimelineId::FIRST);
        check_server(&mut sql, parent, &path).unwrap()
    };
    let old = cluster(16, false);
    let any = ManifestHeader { start_lsn: Lsn(1), stop_lsn: Lsn(2), ..ManifestHeader::default() };
    assert_eq!(ask(&old, &any), Err(NotUsable::ServerTooOld { major: 16 }));
    drop(old);
    let off = cluster(17, false);
    assert_eq!(ask(&off, &any), Err(NotUsable::SummarizerOff));
    drop(off);

    let cluster = cluster(18, true);
    let scratch = Scratch::new();
    cluster.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let parent = copy(&cluster, scratch.path(), "parent").header;
    cluster.sql("UPDATE t SET n = 0; CHECKPOINT");
    let later = copy(&cluster, scratch.path(), "later").header;
    let summarized = || {
        cluster.sql(&format!(
            "SELECT (SELECT summarized_lsn FROM pg_get_wal_summarizer_state()) >= '{}'",
            later.start_lsn
        )) == "t"
    };
    pgkeep_testkit::wait_until("summaries", std::time::Duration::from_secs(60), summarized);
    assert_eq!(ask(&cluster, &parent), Ok(()));
    // Of a timeline that this server never was on.
    let elsewhere = ManifestHeader { timeline: TimelineId::new(7).unwrap(), ..parent.clone() };
    assert!(matches!(ask(&cluster, &elsewhere), Err(NotUsable::OffHistory { .. })));
    let limits = |start| {
        let mut sql = connection(&cluster).connect().unwrap();
        limit_blocks(&mut sql, &parent, &TimelinePath::of_root(TimelineId::FIRST), start).unwrap()
    };
    assert!(limits(later.start_lsn).is_ok());
    assert!(matches!(limits(parent.stop_lsn), Err(NotUsable::StartsBeforeParentEnds { .. })));
    // Not summarized yet: the caller asked too early.
    assert!(matches!(limits(Lsn(later.start_lsn.0 + (1 << 30))), Err(NotUsable::ServerSummaryGap { .. })));

    // Any role may look, unless somebody took that away.
    cluster.sql("CREATE ROLE plain LOGIN; REVOKE EXECUTE ON FUNCTION pg_available_wal_summaries FROM PUBLIC");
    let mut plain = pgkeep_engine::ConnectionRequest {
        conninfo: Some(cluster.conninfo().replace("user=postgres", "user=plain")),
        ..connection(&cluster)
    }
    .connect()
    .unwrap();
    let answer = check_server(&mut plain, &parent, &TimelinePath::of_root(TimelineId::FIRST)).unwrap();
    assert!(matches!(answer, Err(NotUsable::NotAllowed { .. })), "{answer:?}");

    // Summaries that were removed make a gap.
    for entry in fs::read_dir(cluster.data_dir().join("pg_wal/summaries")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let gap = NotUsable::ServerSummaryGap { timeline: TimelineId::FIRST, from: parent.start_lsn };
    assert_eq!(ask(&cluster, &parent), Err(gap.clone()));
    assert_eq!(limits(later.start_lsn).unwrap_err(), gap);
}
