//! What WAL reading makes of the logs of real servers, compared with what the servers' own programs say about them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgkeep_format::wal::{
    ChangeCollector, FragmentError, LongHeader, RangeSummary, SegmentDecoder, SegmentEvent, SegmentSummary,
    TransactionEnd, TransactionEndKind, WalError, WalRecord, header_of, join_fragments, scan_transactions,
    summarize_segment,
};
use pgkeep_format::{Fork, Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_testkit::{Cluster, StopMode, installation, wait_until};

/// Segments of 1 MiB: every kind of record gets to cross a border.
fn cluster(major: u32) -> Cluster {
    let builder = Cluster::builder(major)
        .wal_segment_mib(1)
        .conf("wal_keep_size", "4GB")
        .conf("max_wal_size", "4GB")
        .conf("max_prepared_transactions", "10")
        .conf("autovacuum", "off");
    if major >= 17 { builder.conf("summarize_wal", "on").start() } else { builder.start() }
}

struct Segment {
    name: WalSegmentName,
    bytes: Vec<u8>,
}

/// The segments of `pg_wal` from the one that holds `from` to the one before `to`, on one timeline.
fn segments(pg_wal: &Path, timeline: TimelineId, from: Lsn, to: Lsn) -> (WalSegmentSize, Vec<Segment>) {
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    let (first, last) = (size.segment_at(from).0, size.segment_before(to).0);
    let read = |number| {
        let name = WalSegmentName { timeline, number: SegmentNumber(number) };
        let path = pg_wal.join(name.file_name(size));
        Segment { name, bytes: fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())) }
    };
    (size, (first..=last).map(read).collect())
}

/// Calls `visit` with each record, those that cross segments included.
fn for_each_record(size: WalSegmentSize, segments: &[Segment], mut visit: impl FnMut(&WalRecord<'_>)) {
    let mut carry = None;
    for segment in segments {
        let mut decoder = SegmentDecoder::new(&segment.bytes, segment.name, size).unwrap();
        if let (Some(tail), Some(head)) = (carry.take(), decoder.take_head()) {
            match join_fragments(&tail, [&head], decoder.version()) {
                Ok(whole) => visit(&whole.record()),
                Err(FragmentError::Incomplete { .. }) => {
                    carry = Some(tail.join(&head).unwrap());
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
        }
        while let Some(record) = decoder.next_record() {
            visit(&record);
        }
        assert_eq!(decoder.end_of_wal(), None, "{}", segment.name.file_name(size));
        carry = decoder.take_tail();
    }
}

fn summaries(size: WalSegmentSize, segments: &[Segment]) -> Vec<SegmentSummary> {
    segments.iter().map(|s| summarize_segment(&s.bytes, s.name, size).unwrap()).collect()
}

fn range_of(summaries: &[SegmentSummary]) -> RangeSummary {
    let mut range = RangeSummary::new(&summaries[0]);
    for next in &summaries[1..] {
        range.push(next).unwrap();
    }
    range
}

fn ends(size: WalSegmentSize, segments: &[Segment]) -> Vec<TransactionEnd> {
    let mut carry = None;
    let mut found = Vec::new();
    for segment in segments {
        let mut events = scan_transactions(&segment.bytes, segment.name, size, carry.as_ref()).unwrap();
        for event in events.by_ref() {
            if let SegmentEvent::TransactionEnd(end) = event {
                found.push(end);
            }
        }
        carry = events.carry();
    }
    found
}

fn lsn(cluster: &Cluster) -> Lsn {
    cluster.current_lsn().parse().unwrap()
}

/// Ends the current segment and returns where it ends.
fn switch_wal(cluster: &Cluster) -> Lsn {
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    size.end_of(WalSegmentName::parse(&cluster.switch_wal(), size).unwrap().number)
}

fn pg_wal(cluster: &Cluster) -> std::path::PathBuf {
    cluster.data_dir().join("pg_wal")
}

/// Every way in which data files change, or nearly.
fn workload(cluster: &Cluster) {
    cluster.sql(
        "CREATE TABLE big (id int PRIMARY KEY, filler text);
         INSERT INTO big SELECT n, repeat('x', 150) FROM generate_series(1, 20000) n;
         CREATE INDEX ON big (filler);
         UPDATE big SET filler = 'y' WHERE id % 10 = 0;
         DELETE FROM big WHERE id > 5000;
         VACUUM big;
         INSERT INTO big SELECT n, 'again' FROM generate_series(20001, 22000) n;
         CREATE TABLE short_lived AS SELECT * FROM big;
         DROP TABLE short_lived;
         TRUNCATE big;
         INSERT INTO big SELECT n, md5(n::text) FROM generate_series(1, 5000) n;
         CREATE UNLOGGED TABLE unlogged AS SELECT * FROM big;
         CREATE TABLE j (doc jsonb);
         CREATE INDEX ON j USING gin (doc);
         INSERT INTO j SELECT jsonb_build_object('a', n, 'b', repeat(md5(n::text), 200)) FROM generate_series(1, 200) n;
         CREATE TABLE p (at point);
         CREATE INDEX ON p USING gist (at);
         CREATE INDEX ON p USING spgist (at);
         INSERT INTO p SELECT point(n, n % 77) FROM generate_series(1, 3000) n;
         CREATE TABLE b AS SELECT generate_series(1, 10000) AS n;
         CREATE INDEX ON b USING brin (n);
         CREATE INDEX ON b USING hash (n);
         CREATE SEQUENCE s;
         SELECT count(nextval('s')) FROM generate_series(1, 100);
         VACUUM FULL b;
         CREATE DATABASE made;
         SELECT pg_logical_emit_message(false, 'test', repeat('z', 100000));",
    );
    if cluster.major() >= 15 {
        cluster.sql("CREATE DATABASE copied STRATEGY file_copy");
    }
    cluster.sql("DROP DATABASE made");
}

#[test]
fn every_record_of_every_major_is_read_and_every_transaction_found() {
    for major in 14..=18 {
        let cluster = cluster(major);
        let start = lsn(&cluster);
        workload(&cluster);
        let counted_from = lsn(&cluster);
        cluster.sql("CREATE TABLE counted (n int)");
        let xid: u32 = cluster
            .sql("BEGIN; INSERT INTO counted VALUES (0); SELECT pg_current_xact_id(); COMMIT")
            .parse()
            .unwrap();
        cluster.sql(
            "DO $$ BEGIN FOR n IN 1..200 LOOP INSERT INTO counted VALUES (n); COMMIT; END LOOP;
             FOR n IN 1..30 LOOP INSERT INTO counted VALUES (n); ROLLBACK; END LOOP; END $$;
             BEGIN; SAVEPOINT a; INSERT INTO counted VALUES (1); RELEASE a; COMMIT;
             BEGIN; INSERT INTO counted VALUES (1); PREPARE TRANSACTION 'one';
             BEGIN; INSERT INTO counted VALUES (1); CREATE TABLE gone (n int); PREPARE TRANSACTION 'two';
             COMMIT PREPARED 'one'; ROLLBACK PREPARED 'two';
             SELECT pg_create_restore_point('the point')",
        );
        let counted_to = lsn(&cluster);
        let end = switch_wal(&cluster);
        cluster.stop(StopMode::Fast);

        let (size, segments) = segments(&pg_wal(&cluster), TimelineId::FIRST, start, end);
        let summaries = summaries(size, &segments);
        for summary in &summaries {
            assert_eq!(summary.end_of_wal, None, "{major}: {}", summary.start);
            assert!(!summary.flags.requires_full_read(), "{major}: {:?}", summary.flags);
            assert_eq!(summary.version.major(), major);
        }
        let range = range_of(&summaries);
        assert_eq!(range.end, end);
        assert!(range.restore_points.iter().any(|point| point.name == "the point"));
        assert!(range.blocks.full_databases().count() >= 1, "{major}");
        let mut records = 0;
        for_each_record(size, &segments, |record| {
            assert!(!record.malformed);
            records += 1;
        });
        // The record that crosses into the first segment is in neither.
        assert_eq!(range.records, records);

        let all = ends(size, &segments);
        let counted: Vec<_> =
            all.iter().filter(|end| end.start >= counted_from && end.start < counted_to).collect();
        let of = |kind| counted.iter().filter(|end| end.kind == kind).count();
        // The table, the one row, the loop, the savepoint.
        assert_eq!(of(TransactionEndKind::Commit), 1 + 1 + 200 + 1, "{major}");
        assert_eq!(of(TransactionEndKind::Abort), 30, "{major}");
        assert_eq!((of(TransactionEndKind::CommitPrepared), of(TransactionEndKind::AbortPrepared)), (1, 1));
        assert!(counted.iter().any(|end| end.xid == xid));
        assert_eq!(all.iter().filter(|end| end.kind.is_commit()).count() as u64, range.commits);
        assert_eq!(all.iter().map(|end| end.time).max(), range.times.map(|(_, last)| last));
    }
}

/// Start, link to the record before, transaction, length, blocks.
type RecordLine = (Lsn, Lsn, u32, usize, Vec<String>);

fn waldump_lines(major: u32, pg_wal: &Path, start: Lsn, end: Lsn) -> Vec<RecordLine> {
    let output = Command::new(installation(major).program("pg_waldump"))
        .args(["-p".as_ref(), pg_wal.as_os_str()])
        .args(["-s", &start.to_string(), "-e", &end.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("rmgr: ")).map(waldump_line).collect();
    assert!(!lines.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    lines
}

fn waldump_line(line: &str) -> RecordLine {
    let after = |label: &str| line.split_once(label).unwrap_or_else(|| panic!("{line}")).1.trim_start();
    let word = |label: &str| after(label).split([',', ' ']).next().unwrap().to_owned();
    let total = after("len (rec/tot):").split_once('/').unwrap().1.trim_start();
    let blocks = line
        .split("blkref #")
        .skip(1)
        .map(|part| {
            let part = part.split_once(": rel ").unwrap().1;
            part.split([',', ';']).next().unwrap().trim().trim_end_matches(" FPW").to_owned()
        })
        .collect();
    (
        word("lsn: ").parse().unwrap(),
        word("prev ").parse().unwrap(),
        word("tx:").parse().unwrap(),
        total.split(',').next().unwrap().parse().unwrap(),
        blocks,
    )
}

fn own_line(record: &WalRecord<'_>) -> RecordLine {
    let blocks = record
        .blocks
        .iter()
        .map(|block| {
            let fork = match block.fork {
                Fork::Main => "",
                Fork::Fsm => " fork fsm",
                Fork::Vm => " fork vm",
                Fork::Init => " fork init",
            };
            let locator = block.locator;
            format!(
                "{}/{}/{}{fork} blk {}",
                locator.tablespace, locator.database, locator.number, block.block
            )
        })
        .collect();
    (record.lsn, record.prev, record.xid, record.bytes.len(), blocks)
}

#[test]
fn records_and_blocks_are_those_that_pg_waldump_prints() {
    for major in [17, 18] {
        let cluster = cluster(major);
        cluster.switch_wal();
        let start = lsn(&cluster);
        workload(&cluster);
        let end = switch_wal(&cluster);
        cluster.stop(StopMode::Fast);
        let (size, segments) = segments(&pg_wal(&cluster), TimelineId::FIRST, start, end);
        let mut own = Vec::new();
        for_each_record(size, &segments, |record| own.push(own_line(record)));
        let start = own[0].0;
        let said = waldump_lines(major, &pg_wal(&cluster), start, end);
        assert_eq!(own.len(), said.len());
        for (own, said) in own.iter().zip(&said) {
            assert_eq!(own, said);
        }
    }
}

/// Relation (tablespace, database, number, fork), block, whether it is a limit.
type SummaryLine = (u32, u32, u32, u32, u64, bool);

fn server_summary(cluster: &Cluster, start: Lsn, end: Lsn) -> BTreeSet<SummaryLine> {
    let sql = format!(
        "SELECT reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber, is_limit_block::int
         FROM pg_wal_summary_contents(1, '{start}', '{end}')"
    );
    cluster
        .sql(&sql)
        .lines()
        .map(|line| {
            let columns: Vec<u64> = line.split('|').map(|column| column.parse().unwrap()).collect();
            let id = |at: usize| u32::try_from(columns[at]).unwrap();
            (id(0), id(1), id(2), id(3), columns[4], columns[5] == 1)
        })
        .collect()
}

#[test]
fn block_summaries_are_those_of_the_server() {
    for major in [17, 18] {
        let cluster = cluster(major);
        // No record crosses into the first segment, and summaries are cut where checkpoints begin.
        cluster.switch_wal();
        let from = lsn(&cluster);
        cluster.sql("CHECKPOINT");
        workload(&cluster);
        cluster.sql("CHECKPOINT");
        cluster.sql("UPDATE b SET n = n + 1 WHERE n < 3000; DROP TABLE p; VACUUM b");
        cluster.sql("CHECKPOINT");
        let to = lsn(&cluster);
        cluster.switch_wal();
        wait_until("the summarizer to catch up", Duration::from_secs(120), || {
            let done = cluster.sql("SELECT summarized_lsn FROM pg_get_wal_summarizer_state()");
            cluster.sql("CHECKPOINT");
            done.parse::<Lsn>().unwrap() >= to
        });
        let listed = cluster.sql(&format!(
            "SELECT start_lsn, end_lsn FROM pg_available_wal_summaries()
             WHERE tli = 1 AND start_lsn >= '{from}' ORDER BY 1"
        ));
        let ranges: Vec<(Lsn, Lsn)> = listed
            .lines()
            .map(|line| line.split_once('|').unwrap())
            .map(|(start, end)| (start.parse().unwrap(), end.parse().unwrap()))
            .filter(|(_, end)| *end <= to)
            .collect();
        assert!(ranges.len() >= 2, "{listed}");
        cluster.switch_wal();
        let last = ranges.last().unwrap().1;
        let (size, segments) = segments(&pg_wal(&cluster), TimelineId::FIRST, from, last);
        let mut compared = 0;
        for (start, end) in &ranges {
            let mut changes = ChangeCollector::new();
            for_each_record(size, &segments, |record| {
                if record.lsn >= *start && record.lsn < *end {
                    changes.apply(record);
                }
            });
            let blocks = changes.into_blocks();
            let mut own = BTreeSet::new();
            for (locator, fork, changes) in blocks.forks() {
                let line = |block, limit| {
                    (locator.tablespace, locator.database, locator.number, fork.number(), block, limit)
                };
                own.extend(changes.limit.map(|limit| line(u64::from(limit), true)));
                own.extend(changes.blocks.iter().map(|block| line(u64::from(block), false)));
            }
            own.extend(blocks.full_databases().map(|(tablespace, db)| (tablespace, db, 0, 0, 0, true)));
            let said = server_summary(&cluster, *start, *end);
            compared += said.len();
            let missing: Vec<_> = said.difference(&own).collect();
            let extra: Vec<_> = own.difference(&said).collect();
            assert!(missing.is_empty() && extra.is_empty(), "{major}: missing {missing:?} extra {extra:?}");
        }
        assert!(compared > 1000);

        // The summaries of whole segments, put together, name at least what the server names.
        let range = range_of(&summaries(size, &segments));
        for (start, end) in &ranges {
            for (tablespace, database, number, fork, block, limit) in server_summary(&cluster, *start, *end) {
                if number == 0 {
                    assert!(range.blocks.is_full_database(tablespace, database));
                    continue;
                }
                let locator = pgkeep_format::RelFileLocator { tablespace, database, number };
                let changes = range.blocks.changes_of(locator, Fork::from_number(fork).unwrap()).unwrap();
                let block = u32::try_from(block).unwrap();
                assert!(changes.is_changed(block));
                assert!(!limit || changes.limit.is_some_and(|own| own <= block));
            }
        }
    }
}

#[test]
fn a_log_goes_on_over_crashes() {
    let cluster = cluster(16);
    let start = lsn(&cluster);
    cluster.sql("CREATE TABLE t (n int, filler text)");
    for round in 0..4 {
        cluster.sql(&format!("INSERT INTO t SELECT {round}, repeat('x', 300) FROM generate_series(1, 5000)"));
        // Not committed, so not flushed: the crash loses some of it.
        let _lost =
            cluster.try_sql("BEGIN; INSERT INTO t SELECT 9, repeat('y', 999) FROM generate_series(1, 500)");
        cluster.crash();
        cluster.start();
    }
    let end = switch_wal(&cluster);
    let (size, segments) = segments(&pg_wal(&cluster), TimelineId::FIRST, start, end);
    let range = range_of(&summaries(size, &segments));
    assert!(range.commits >= 5 && !range.flags.requires_full_read());
}

#[test]
fn segments_of_other_clusters_timelines_and_places_are_told_apart() {
    let primary = cluster(15);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 50000) n");
    let start = lsn(&primary);
    primary.switch_wal();
    let (size, old) = segments(&pg_wal(&primary), TimelineId::FIRST, start, start);
    let header: LongHeader = header_of(&old[0].bytes).unwrap();
    assert_eq!(header.system_identifier, primary.system_identifier());

    let other = Cluster::builder(15).wal_segment_mib(1).fresh_identity().start();
    assert_eq!(
        header.check_system_identifier(other.system_identifier()),
        Err(WalError::OtherCluster {
            expected: other.system_identifier(),
            found: primary.system_identifier()
        })
    );
    drop(other);

    // A file that the server keeps for later still holds what it held before.
    primary.sql("CREATE TABLE u AS SELECT generate_series(1, 200000) n");
    let at = lsn(&primary);
    let current = WalSegmentName::at(TimelineId::FIRST, at, size);
    let next = WalSegmentName { number: current.number.next(), ..current };
    let content = &fs::read(pg_wal(&primary).join(current.file_name(size))).unwrap();
    assert_eq!(
        summarize_segment(content, next, size),
        Err(WalError::Recycled {
            expected: size.start_of(next.number),
            found: size.start_of(current.number)
        })
    );

    // A promotion copies the start of the segment: the copy is of the new timeline, the original is not.
    let standby = Cluster::standby_of(&primary);
    primary.sql("INSERT INTO t SELECT generate_series(1, 100)");
    standby.wait_for_replay_of(&primary);
    standby.promote();
    standby.wait_for_writes();
    standby.sql("INSERT INTO t SELECT generate_series(1, 1000)");
    let after = lsn(&standby);
    standby.switch_wal();
    let second = TimelineId::new(2).unwrap();
    let (_, promoted) = segments(&pg_wal(&standby), second, after, after);
    let summary = summarize_segment(&promoted[0].bytes, promoted[0].name, size).unwrap();
    assert!(summary.flags.timeline_began);
    let on_first = WalSegmentName { timeline: TimelineId::FIRST, ..promoted[0].name };
    assert_eq!(
        summarize_segment(&promoted[0].bytes, on_first, size),
        Err(WalError::OtherTimeline { expected: TimelineId::FIRST, found: 2 })
    );
    let renamed = WalSegmentName { timeline: second, ..old[0].name };
    assert_eq!(
        summarize_segment(&old[0].bytes, renamed, size),
        Err(WalError::OtherTimeline { expected: second, found: 1 })
    );
}
