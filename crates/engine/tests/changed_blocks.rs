//! What changed between two backups, by WAL, against the files of real servers: every block of every main fork that is not read
//! must be the same in both copies of the data directory, or differ in hints only.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod cluster_copy;
mod stanza_support;

use std::fs;
use std::path::{Path, PathBuf};

use cluster_copy::{Copy, copy, crash_in_copy, promote, relation_files};
use pgkeep_engine::changed_blocks::{ChangedBlocks, FileChange, NotUsable, WalRequest, from_wal};
use pgkeep_engine::init::{InitRequest, init};
use pgkeep_engine::wal::{PushRequest, push};
use pgkeep_engine::{Cancel, Compression, Location};
use pgkeep_format::{
    Fork, Lsn, TimelineId, WalFileName, WalSegmentName, WalSegmentSize, differs_only_in_hints,
};
use pgkeep_repo::WalArchive;
use pgkeep_testkit::{Cluster, MAJORS, Scratch, StopMode};
use stanza_support::connection;

const BLOCK: usize = 8192;

/// A repository and copies, in memory where the machine has plenty: hundreds of segments are stored, each flushed.
struct Place {
    scratch: Scratch,
    location: Location,
}

impl Place {
    fn of(cluster: &Cluster) -> Place {
        let scratch = Scratch::new();
        let repository = scratch.path().join("repo").display().to_string();
        let location = Location { repository, stanza: "main".to_owned() };
        init(&InitRequest {
            location: location.clone(),
            connection: connection(cluster),
            apply: false,
            archive_command: "pgkeep wal push %p".to_owned(),
        })
        .unwrap();
        Place { scratch, location }
    }

    fn push(&self, path: &Path) {
        let compression = Compression::Lz4;
        push(&PushRequest { location: self.location.clone(), path: path.to_owned(), compression }).unwrap();
    }

    fn archive(&self) -> WalArchive {
        let stanza = self.location.open_stanza().unwrap();
        stanza.wal(stanza.records().last().unwrap())
    }
}

fn size() -> WalSegmentSize {
    WalSegmentSize::try_from(1 << 20).unwrap()
}

fn cluster(major: u32, checksums: bool) -> Cluster {
    Cluster::builder(major)
        .checksums(checksums)
        .wal_segment_mib(1)
        .conf("wal_keep_size", "4GB")
        .conf("max_wal_size", "4GB")
        .conf("autovacuum", "off")
        .start()
}

/// Archives the WAL before `upto`, except the last segments, and the history files.
fn archive(cluster: &Cluster, place: &Place, upto: Lsn, without_last: u64) {
    let mut names: Vec<PathBuf> =
        fs::read_dir(cluster.data_dir().join("pg_wal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let name = WalFileName::parse(path.file_name().unwrap().to_str().unwrap(), size());
        let wanted = match name {
            Some(WalFileName::Segment(segment)) => {
                segment.number.0 + without_last < size().segment_at(upto).0
            }
            Some(WalFileName::TimelineHistory(_)) => true,
            _ => false,
        };
        if wanted {
            place.push(&path);
        }
    }
}

fn ask(place: &Place, parent: &Copy, now: &Copy, pg_wal: Option<&Path>) -> Result<ChangedBlocks, NotUsable> {
    from_wal(&WalRequest {
        archive: &place.archive(),
        local_wal: pg_wal,
        parent: &parent.header,
        start: now.header.start_lsn,
        timeline: now.header.timeline,
        cancel: &Cancel::default(),
    })
    .unwrap()
}

#[derive(Debug, Default)]
struct Counts {
    read: u64,
    kept: u64,
    changed: u64,
    hints: u64,
}

/// Proves that every block that is not read is the parent's, but for hints.
fn prove(changed: &ChangedBlocks, parent: &Copy, now: &Copy) -> Counts {
    let mut counts = Counts::default();
    for (name, (file, path)) in relation_files(now) {
        if file.fork != Fork::Main {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let before = fs::read(parent.files.join(&name)).ok();
        let length = before.as_ref().map(|bytes| bytes.len() as u64);
        let before = before.unwrap_or_default();
        let (marked, from) = match changed.of_file(Some(&file), length, bytes.len() as u64) {
            FileChange::ReadAll(_) => (Vec::new(), 0),
            FileChange::Blocks { marked, from } => (marked, from as usize),
        };
        for (number, page) in bytes.chunks(BLOCK).enumerate() {
            let old = before.get(number * BLOCK..(number + 1) * BLOCK);
            counts.changed += u64::from(old != Some(page));
            if number >= from || marked.binary_search(&(number as u32)).is_ok() {
                counts.read += 1;
                continue;
            }
            counts.kept += 1;
            let old = old.unwrap_or_else(|| panic!("{name}: block {number} is kept and not in the parent"));
            if old != page {
                assert!(differs_only_in_hints(old, page), "{name}: block {number} changed and is not read");
                counts.hints += 1;
            }
        }
    }
    counts
}

fn before_the_parent(cluster: &Cluster) {
    cluster.create_tablespace("elsewhere");
    cluster.sql(
        "CREATE TABLE kept AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
         CREATE TABLE changed (id int PRIMARY KEY, filler text) WITH (fillfactor = 80);
         INSERT INTO changed SELECT n, repeat('x', 150) FROM generate_series(1, 20000) n;
         CREATE TABLE cut AS SELECT n, repeat('x', 150) FROM generate_series(1, 20000) n;
         CREATE TABLE grown AS SELECT n, repeat('x', 150) FROM generate_series(1, 5000) n;
         CREATE TABLE rewritten AS SELECT * FROM kept;
         CREATE TABLE clustered (id int PRIMARY KEY, filler text);
         INSERT INTO clustered SELECT n, 'x' FROM generate_series(1, 5000) n;
         CREATE TABLE dropped AS SELECT * FROM kept;
         CREATE TABLE emptied AS SELECT * FROM kept;
         CREATE UNLOGGED TABLE unlogged AS SELECT * FROM kept;
         CREATE TABLE indexed (id int, doc jsonb, at point);
         INSERT INTO indexed SELECT n, jsonb_build_object('a', n), point(n, n % 77) FROM generate_series(1, 3000) n;
         CREATE INDEX ON indexed USING hash (id);
         CREATE INDEX ON indexed USING gin (doc);
         CREATE INDEX ON indexed USING gist (at);
         CREATE INDEX ON indexed USING spgist (at);
         CREATE INDEX ON indexed USING brin (id);
         CREATE INDEX ON indexed (id);
         CREATE SEQUENCE s;
         CREATE DATABASE doomed;
         CREATE DATABASE moved;
         CREATE DATABASE returned;",
    );
    cluster.sql_db("moved", "CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n");
    cluster
        .sql_db("returned", "CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n");
    cluster.sql_db("doomed", "CREATE TABLE t AS SELECT n FROM generate_series(1, 5000) n");
    // Rows whose outcome no page knows yet: the first reader sets hints, in index pages too.
    cluster.sql(
        "CREATE TABLE unread (id int PRIMARY KEY, filler text);
         INSERT INTO unread SELECT n, repeat('x', 100) FROM generate_series(1, 10000) n;
         DELETE FROM unread WHERE id BETWEEN 3000 AND 5000;",
    );
}

/// Nearly every way in which relation files change.
fn after_the_parent(cluster: &Cluster) {
    cluster.sql(
        "SET enable_seqscan = off; SELECT count(filler) FROM unread WHERE id BETWEEN 2900 AND 5100;
         SET enable_seqscan = on; SELECT count(*) FROM unread;
         CHECKPOINT;
         UPDATE changed SET filler = 'y' WHERE id % 100 = 0;
         DELETE FROM changed WHERE id BETWEEN 7000 AND 7500;
         DELETE FROM cut WHERE n > 3000;
         VACUUM cut;
         VACUUM changed;
         CHECKPOINT;
         INSERT INTO cut SELECT n, 'again' FROM generate_series(1, 3000) n;
         COPY grown FROM PROGRAM 'seq 1 20000 | sed s/$/\\\\tgrown/';
         VACUUM FULL rewritten;
         CLUSTER clustered USING clustered_pkey;
         REINDEX TABLE indexed;
         UPDATE indexed SET id = id + 1 WHERE id % 50 = 0;
         DELETE FROM indexed WHERE id % 60 = 0;
         VACUUM indexed;
         DROP TABLE dropped;
         TRUNCATE emptied; INSERT INTO emptied SELECT * FROM kept LIMIT 100;
         INSERT INTO unlogged SELECT * FROM kept;
         CREATE TABLE newcomer AS SELECT * FROM kept;
         SELECT count(nextval('s')) FROM generate_series(1, 100);
         ALTER TABLE kept ADD COLUMN more int;
         DROP DATABASE doomed;
         ALTER DATABASE moved SET TABLESPACE elsewhere;",
    );
    if cluster.major() >= 15 {
        cluster.sql("CREATE DATABASE by_file TEMPLATE moved STRATEGY file_copy; CREATE DATABASE by_log TEMPLATE moved STRATEGY wal_log");
    } else {
        cluster.sql("CREATE DATABASE by_file TEMPLATE moved");
    }
    // What changed there is marked there; back here the files have the same names as in the parent.
    cluster.sql("ALTER DATABASE returned SET TABLESPACE elsewhere");
    cluster.sql_db("returned", "UPDATE t SET n = n + 1 WHERE n % 1000 = 0");
    cluster.sql("ALTER DATABASE returned SET TABLESPACE pg_default");
    cluster.sql_db("by_file", "UPDATE t SET n = n + 1 WHERE n % 1000 = 0");
    cluster.sql_db("moved", "DELETE FROM t WHERE n < 100");
}

fn blocks_that_are_not_read_are_the_parents(checksums: bool) {
    for major in MAJORS {
        let cluster = cluster(major, checksums);
        let place = Place::of(&cluster);
        before_the_parent(&cluster);
        let parent = copy(&cluster, place.scratch.path(), "parent");
        after_the_parent(&cluster);
        cluster.crash();
        cluster.start();
        promote(&cluster);
        cluster.sql("UPDATE changed SET filler = 'z' WHERE id % 150 = 0; CREATE TABLE newest AS SELECT 1");
        let now = copy(&cluster, place.scratch.path(), "now");
        assert_eq!((parent.header.timeline.get(), now.header.timeline.get()), (1, 2));

        // Part of the WAL is only in `pg_wal` yet, then all of it is archived.
        let pg_wal = cluster.data_dir().join("pg_wal");
        archive(&cluster, &place, now.header.start_lsn, 2);
        let early = ask(&place, &parent, &now, Some(&pg_wal)).unwrap();
        assert!(matches!(ask(&place, &parent, &now, None).unwrap_err(), NotUsable::MissingSegment { .. }));
        cluster.switch_wal();
        archive(&cluster, &place, cluster.current_lsn().parse().unwrap(), 0);
        let changed = ask(&place, &parent, &now, None).unwrap();
        assert_eq!((early.range().start, early.range().end), (changed.range().start, changed.range().end));
        prove(&early, &parent, &now);

        let counts = prove(&changed, &parent, &now);
        println!("PostgreSQL {major}, checksums {checksums}: {counts:?}");
        assert!(counts.changed > 500 && counts.kept > 1000, "{counts:?}");
        assert!(counts.read < 6 * counts.changed, "{counts:?}");
        // Without checksums hints are written without a word; with them, their first one is an image in WAL.
        assert_eq!(counts.hints == 0, checksums, "PostgreSQL {major}: {counts:?}");
    }
}

#[test]
fn blocks_that_are_not_read_are_the_parents_with_checksums() {
    blocks_that_are_not_read_are_the_parents(true);
}

#[test]
fn blocks_that_are_not_read_are_the_parents_without_checksums() {
    blocks_that_are_not_read_are_the_parents(false);
}

/// The length of a table's file, in blocks.
fn blocks_of(copy: &Copy, table: &str) -> u64 {
    fs::metadata(copy.files.join(table)).unwrap().len() / BLOCK as u64
}

/// DELETE and VACUUM cut a table off; later COPY makes it longer again, and a crash loses the WAL of that: the new pages are
/// zeros that no record mentions. Who takes unmarked blocks from an older backup brings the deleted rows back.
#[test]
fn zero_pages_that_a_crash_left_behind_are_read() {
    for major in [14, 16, 18] {
        let cluster = Cluster::builder(major)
            .wal_segment_mib(1)
            .conf("wal_keep_size", "4GB")
            .conf("autovacuum", "off")
            .conf("wal_buffers", "16MB")
            .conf("wal_writer_delay", "10s")
            .start();
        let place = Place::of(&cluster);
        cluster.sql("CREATE TABLE t AS SELECT n, repeat('x', 150) FROM generate_series(1, 30000) n");
        let table = cluster.sql("SELECT pg_relation_filepath('t')");
        let full = copy(&cluster, place.scratch.path(), "full");
        cluster.sql("DELETE FROM t WHERE n > 100; VACUUM t");
        let cut = copy(&cluster, place.scratch.path(), "cut");
        crash_in_copy(&cluster, "t");
        cluster.start();
        let grown = copy(&cluster, place.scratch.path(), "grown");
        let (full_blocks, cut_blocks, blocks) =
            (blocks_of(&full, &table), blocks_of(&cut, &table), blocks_of(&grown, &table));
        assert!(
            cut_blocks < 10 && blocks > 50 && blocks < full_blocks,
            "{cut_blocks} {blocks} {full_blocks}"
        );

        archive(&cluster, &place, grown.header.start_lsn, 0);
        let pg_wal = cluster.data_dir().join("pg_wal");
        let since_cut = ask(&place, &cut, &grown, Some(&pg_wal)).unwrap();
        prove(&since_cut, &cut, &grown);
        // The fault is there: WAL does not mention most of the new blocks.
        assert!(since_cut.marked_blocks() < blocks - cut_blocks, "PostgreSQL {major}");
        let file = relation_files(&grown)[&table].0;
        let bytes = |blocks: u64| blocks * BLOCK as u64;
        match since_cut.of_file(Some(&file), Some(bytes(cut_blocks)), bytes(blocks)) {
            FileChange::Blocks { from, .. } => {
                assert!(u64::from(from) <= cut_blocks, "PostgreSQL {major}: {from}")
            }
            FileChange::ReadAll(rule) => panic!("{rule}"),
        }
        // In one step from the full backup the limit says it.
        let since_full = ask(&place, &full, &grown, Some(&pg_wal)).unwrap();
        prove(&since_full, &full, &grown);
        match since_full.of_file(Some(&file), Some(bytes(full_blocks)), bytes(blocks)) {
            FileChange::Blocks { from, .. } => {
                assert!(u64::from(from) <= cut_blocks, "PostgreSQL {major}: {from}")
            }
            FileChange::ReadAll(rule) => panic!("{rule}"),
        }
    }
}

#[test]
fn a_copy_of_the_cluster_that_goes_its_own_way_is_found_out() {
    let original = cluster(17, true);
    let place = Place::of(&original);
    original.sql("CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let parent = copy(&original, place.scratch.path(), "parent");
    // A copy that starts as if nothing had happened: the same identity, the same timeline.
    original.stop(StopMode::Fast);
    let twin = place.scratch.path().join("twin");
    let status =
        std::process::Command::new("cp").arg("-a").arg(original.data_dir()).arg(&twin).status().unwrap();
    assert!(status.success());
    original.start();
    original.sql("INSERT INTO t SELECT n FROM generate_series(1, 10000) n");
    original.switch_wal();
    let now = copy(&original, place.scratch.path(), "now");
    archive(&original, &place, now.header.start_lsn, 0);
    let pg_wal = original.data_dir().join("pg_wal");
    assert!(ask(&place, &parent, &now, Some(&pg_wal)).is_ok());

    let twin = Cluster::from_data_dir(17, &twin, &[]);
    twin.sql("DELETE FROM t");
    while twin.current_lsn().parse::<Lsn>().unwrap() < now.header.start_lsn {
        twin.switch_wal();
    }
    let of_twin = copy(&twin, place.scratch.path(), "of-twin");
    let twins_wal = twin.data_dir().join("pg_wal");
    // The archive ends before the twin's start: what the twin has must follow, and does not.
    let reason = ask(&place, &parent, &of_twin, Some(&twins_wal)).unwrap_err();
    assert!(matches!(reason, NotUsable::DoesNotFollow { .. } | NotUsable::OtherLog { .. }), "{reason}");
    // It goes further, and is a log without a fault: but not the twin's.
    while original.current_lsn().parse::<Lsn>().unwrap().0 <= of_twin.header.start_lsn.0 + (2 << 20) {
        original.sql("INSERT INTO t SELECT n FROM generate_series(1, 1000) n");
        original.switch_wal();
    }
    archive(&original, &place, original.current_lsn().parse().unwrap(), 0);
    assert!(ask(&place, &parent, &of_twin, None).is_ok());
    let reason = ask(&place, &parent, &of_twin, Some(&twins_wal)).unwrap_err();
    assert!(matches!(reason, NotUsable::OtherLog { .. }), "{reason}");
    // A checkpoint may have removed the segment that gave it away. The one that the twin writes now remains.
    let before_start = size().segment_before(size().start_of(size().segment_at(of_twin.header.start_lsn)));
    let name = WalSegmentName { timeline: TimelineId::FIRST, number: before_start };
    fs::remove_file(twins_wal.join(name.file_name(size()))).unwrap();
    let reason = ask(&place, &parent, &of_twin, Some(&twins_wal)).unwrap_err();
    assert!(matches!(reason, NotUsable::DoesNotFollow { .. }), "{reason}");
    assert_eq!(of_twin.header.timeline, TimelineId::FIRST);
}

/// A standby's pages lack hints and command ids that the primary's have, and it starts in the middle of a segment.
#[test]
fn a_parent_of_the_primary_serves_a_backup_of_the_standby() {
    for major in [14, 18] {
        let primary = cluster(major, true);
        let standby = Cluster::standby_of(&primary);
        let place = Place::of(&primary);
        before_the_parent(&primary);
        let parent = copy(&primary, place.scratch.path(), "parent");
        primary.sql(
            "UPDATE changed SET filler = 'y' WHERE id % 100 = 0;
             DELETE FROM cut WHERE n > 3000; VACUUM cut;
             SELECT count(*) FROM unread;
             CREATE TABLE newcomer AS SELECT * FROM kept;
             CHECKPOINT;",
        );
        standby.wait_for_replay_of(&primary);
        let now = copy(&standby, place.scratch.path(), "now");
        assert!(size().offset_of(now.header.start_lsn) > 40);
        archive(&primary, &place, now.header.start_lsn, 0);
        let pg_wal = standby.data_dir().join("pg_wal");
        let changed = ask(&place, &parent, &now, Some(&pg_wal)).unwrap();
        let counts = prove(&changed, &parent, &now);
        println!("PostgreSQL {major}: {counts:?}");
        assert!(counts.kept > 1000 && counts.changed > 500, "{counts:?}");

        // Without a new restartpoint a standby begins where it began before.
        let same = copy(&standby, place.scratch.path(), "same");
        let reason = ask(&place, &now, &same, Some(&pg_wal)).unwrap_err();
        assert!(matches!(reason, NotUsable::StartsBeforeParentEnds { .. }), "{reason}");
    }
}
