//! Made-up logs: records that cross pages and segments, torn records, switches, damage, and every rule of the
//! summarizer.

use proptest::prelude::*;

use super::test_wal::{AFTER_SHORT_HEADER, FIRST_RECORD, PAGE, SYSTEM, Wal, block_body, main_data, words};
use super::*;
use crate::relation::{Fork, RelFileLocator};
use crate::{Lsn, TimelineId, WalSegmentName, WalSegmentSize};

const ALL: [WalVersion; 6] =
    [WalVersion::V13, WalVersion::V14, WalVersion::V15, WalVersion::V16, WalVersion::V17, WalVersion::V18];

const TABLE: [u32; 3] = [1663, 5, 16384];

fn locator([tablespace, database, number]: [u32; 3]) -> RelFileLocator {
    RelFileLocator { tablespace, database, number }
}

fn summaries(wal: &Wal) -> Vec<SegmentSummary> {
    wal.segments().iter().map(|(name, bytes)| summarize_segment(bytes, *name, wal.size).unwrap()).collect()
}

fn range_of(wal: &Wal) -> RangeSummary {
    let summaries = summaries(wal);
    let mut range = RangeSummary::new(&summaries[0]);
    for next in &summaries[1..] {
        range.push(next).unwrap();
    }
    range
}

fn events_of(wal: &Wal) -> Vec<SegmentEvent> {
    let mut carry = None;
    let mut found = Vec::new();
    for (name, bytes) in wal.segments() {
        let mut events = scan_transactions(&bytes, name, wal.size, carry.as_ref()).unwrap();
        found.extend(events.by_ref());
        assert!(!events.lost_crossing());
        carry = events.carry();
    }
    found
}

fn commit_body(time: i64) -> Vec<u8> {
    main_data(&time.to_le_bytes())
}

#[test]
fn records_over_pages_and_segments_are_all_found() {
    for version in ALL {
        let mut wal = Wal::new(version);
        let mut starts = Vec::new();
        for n in 0..4000_u32 {
            let body = [block_body(0, 0, TABLE, n), main_data(&vec![5; (n as usize * 37) % 1200])].concat();
            starts.push(wal.record(10, 0, n, &body));
        }
        let segments = wal.segments();
        assert!(segments.len() > 2);
        let range = range_of(&wal);
        assert_eq!(range.records, 4000, "{version:?}");
        let changes = range.blocks.changes_of(locator(TABLE), Fork::Main).unwrap();
        assert!(changes.blocks.iter().eq(0..4000));
        assert_eq!((range.start, range.end.0), (Lsn(4 << 20), wal.position().0.next_multiple_of(8)));

        // Each whole record is returned with the positions that PostgreSQL gives it.
        let (name, bytes) = &segments[1];
        let mut decoder = SegmentDecoder::new(bytes, *name, wal.size).unwrap();
        let mut previous = None;
        while let Some(record) = decoder.next_record() {
            assert!(starts.contains(&record.lsn) && record.end > record.lsn);
            assert!(previous.is_none_or(|previous| previous == record.prev));
            assert_eq!(record.blocks.len(), 1);
            previous = Some(record.lsn);
        }
    }
}

#[test]
fn a_record_larger_than_a_segment_is_joined_from_three_pieces() {
    let mut wal = Wal::new(WalVersion::V16);
    wal.record(10, 0, 1, &[]);
    let large = [block_body(0, 0, TABLE, 77), main_data(&vec![3; 1_700_000])].concat();
    wal.record(10, 0, 2, &large);
    wal.record(10, 0, 3, &[]);
    let all = summaries(&wal);
    assert_eq!(all.len(), 2);
    let mut wal = Wal::new(WalVersion::V16);
    wal.fill_segment();
    wal.record(10, 0, 2, &large);
    wal.record(1, 0, 3, &commit_body(9));
    let all = summaries(&wal);
    assert_eq!(all.len(), 3);
    assert!(!all[1].head.as_ref().unwrap().is_complete() && all[1].records == 0);
    let whole = join_fragments(
        all[0].tail.as_ref().unwrap(),
        [&all[1], &all[2]].map(|s| s.head.as_ref().unwrap()),
        wal.version,
    )
    .unwrap();
    assert_eq!((whole.record().blocks[0].block, whole.record().main_data.len()), (77, 1_700_000));
    let range = range_of(&wal);
    assert!(range.blocks.changes_of(locator(TABLE), Fork::Main).unwrap().is_changed(77));
    assert_eq!((range.commits, events_of(&wal).len()), (1, 1));

    // A range may begin inside the record.
    let mut range = RangeSummary::new(&all[1]);
    range.push(&all[2]).unwrap();
    assert_eq!(range.records, 1);
    // But it cannot go on with another record's end.
    let mut range = RangeSummary::new(&all[0]);
    assert!(matches!(range.push(&all[2]), Err(RangeError::Gap { .. })));
}

#[test]
fn a_record_too_large_to_keep_makes_the_range_unknown() {
    let mut wal = Wal::new(WalVersion::V18);
    wal.fill_segment();
    wal.record(10, 0, 2, &main_data(&vec![3; 4_000_000]));
    wal.record(10, 0, 3, &[]);
    let all = summaries(&wal);
    assert!(!all[0].flags.unknown_change);
    let range = range_of(&wal);
    assert!(range.flags.requires_full_read());
    assert!(all.iter().all(|s| s.encode().len() < FRAGMENT_LIMIT + 1000));
}

#[test]
fn a_switch_ends_the_segment_even_where_the_switch_record_crosses_into_it() {
    let mut wal = Wal::new(WalVersion::V17);
    wal.record(10, 0, 1, &[]);
    wal.switch();
    wal.record(10, 0, 1, &[]);
    let all = summaries(&wal);
    assert!(all[0].flags.ended_by_switch && all[0].end_of_wal.is_none());
    assert_eq!(all[0].end, Lsn(5 << 20));
    assert_eq!(all[1].end_of_wal.unwrap().reason, StopReason::Zeros);

    for left in [8, 16] {
        let mut wal = Wal::new(WalVersion::V17);
        wal.fill_segment();
        while !wal.position().0.is_multiple_of(1 << 20) {
            let room = (1 << 20) - wal.position().0 % (1 << 20);
            if room <= PAGE as u64 - 32 {
                break;
            }
            wal.record(10, 0, 9, &main_data(&[2; 200]));
        }
        wal.fill_page(left);
        wal.switch();
        wal.record(10, 0, 1, &[]);
        let all = summaries(&wal);
        assert_eq!(all.len(), 3, "{left}");
        assert_eq!(all[1].head.as_ref().unwrap().length as usize, 24 - left);
        assert!(all[1].flags.ended_by_switch && all[1].end_of_wal.is_none());
        assert_eq!(all[1].end, all[2].start);
        assert_eq!(range_of(&wal).end, Lsn(wal.position().0));
    }
}

#[test]
fn a_record_that_a_crash_tore_is_skipped() {
    let mut wal = Wal::new(WalVersion::V15);
    wal.record(10, 0, 1, &block_body(0, 0, TABLE, 1));
    wal.torn_record(20_000);
    wal.record(0, 0xD0, 0, &main_data(&[0; 16]));
    wal.record(10, 0, 1, &block_body(0, 0, TABLE, 2));
    let all = summaries(&wal);
    assert_eq!((all[0].records, all[0].flags.overwritten), (3, true));

    // At the border of two segments it is the later one that says so.
    let mut wal = Wal::new(WalVersion::V15);
    wal.fill_segment();
    while wal.position().0 % (1 << 20) < (1 << 20) - PAGE as u64 {
        wal.record(10, 0, 9, &main_data(&[2; 200]));
    }
    wal.torn_record(20_000);
    wal.record(0, 0xD0, 0, &main_data(&[0; 16]));
    let all = summaries(&wal);
    assert!(all[0].tail.is_some() && all[1].flags.overwrites_previous && all[1].head.is_none());
    let range = range_of(&wal);
    assert!(range.tail.is_none() && !range.flags.unknown_change);
}

#[test]
fn damage_is_where_wal_ends_and_is_named() {
    let mut wal = Wal::new(WalVersion::V14);
    let starts: Vec<Lsn> = (0..400).map(|n| wal.record(10, 0, n, &main_data(&[1; 200]))).collect();
    let (name, good) = wal.segments().remove(0);
    let offset = |lsn: Lsn| (lsn.0 - (4 << 20)) as usize;
    let fourth = offset(starts[4]);
    let check = |change: &dyn Fn(&mut Vec<u8>), reason, records| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let summary = summarize_segment(&bytes, name, wal.size).unwrap();
        assert_eq!(summary.end_of_wal.map(|end| end.reason), Some(reason));
        assert_eq!(summary.records, records, "{reason:?}");
        assert_eq!(summary.end_of_wal.map(|end| end.at), Some(summary.end));
    };
    check(&|b| b[fourth + 100] ^= 1, StopReason::BadChecksum, 4);
    check(&|b| b[fourth + 8] ^= 1, StopReason::BadPreviousLink, 4);
    check(&|b| b[fourth + 17] = 100, StopReason::BadResourceManager, 4);
    // Custom resource managers exist from 15 on.
    check(&|b| b[fourth + 17] = 200, StopReason::BadResourceManager, 4);
    check(&|b| b[fourth] = 3, StopReason::BadLength, 4);
    check(&|b| b[fourth..fourth + 4].fill(0), StopReason::Zeros, 4);
    let on_first_page = starts.iter().filter(|lsn| offset(**lsn) < PAGE).count() as u64;
    check(&|b| b[PAGE + 8] ^= 0x10, StopReason::BadPage, on_first_page - 1);
    check(&|b| b[PAGE] ^= 0x10, StopReason::BadPage, on_first_page - 1);
    check(&|b| b[PAGE + 2] = 0, StopReason::BadContinuation, on_first_page - 1);
    check(&|b| b[PAGE + 16] ^= 1, StopReason::BadContinuation, on_first_page - 1);
    check(&|b| b[PAGE..].fill(0), StopReason::Zeros, on_first_page - 1);

    let short = summarize_partial_segment(&good[..2 * PAGE + 100], name, wal.size).unwrap();
    assert_eq!(short.end_of_wal.unwrap().reason, StopReason::EndOfBytes);
    assert!(short.records > on_first_page);
    assert!(summarize_partial_segment(&good[..40], name, wal.size).is_ok());
    assert!(summarize_partial_segment(&good[..39], name, wal.size).is_err());
}

#[test]
fn the_wrong_segment_is_refused_with_what_was_expected_and_found() {
    let mut wal = Wal::new(WalVersion::V18);
    wal.record(10, 0, 1, &[]);
    let (name, good) = wal.segments().remove(0);
    let size = wal.size;
    let with = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = good.clone();
        change(&mut bytes);
        summarize_segment(&bytes, name, size).unwrap_err()
    };
    assert_eq!(with(&|b| b.fill(0)), WalError::NotWal { found: 0 });
    assert_eq!(with(&|b| b[0] = 0x21), WalError::UnsupportedVersion { magic: 0xD121 });
    assert!(matches!(with(&|b| b[2] = 0), WalError::BadHeader { .. }));
    assert_eq!(with(&|b| b[4] = 2), WalError::OtherTimeline { expected: TimelineId::FIRST, found: 2 });
    let (here, before, after) = (Lsn(4 << 20), Lsn(3 << 20), Lsn(5 << 20));
    assert_eq!(with(&|b| b[10] = 0x30), WalError::Recycled { expected: here, found: before });
    assert_eq!(with(&|b| b[10] = 0x50), WalError::OtherPosition { expected: here, found: after });
    assert_eq!(with(&|b| b[34] = 0x20), WalError::OtherSegmentSize { expected: 1 << 20, found: 2 << 20 });
    assert_eq!(
        summarize_segment(&good[..PAGE], name, size),
        Err(WalError::WrongLength { expected: 1 << 20, found: PAGE as u64 })
    );
    let header = header_of(&good[..40]).unwrap();
    assert_eq!((header.system_identifier, header.segment_size), (SYSTEM, size));
    assert!(header.check_system_identifier(SYSTEM).is_ok());
    assert_eq!(header.check_system_identifier(1), Err(WalError::OtherCluster { expected: 1, found: SYSTEM }));
}

#[test]
fn a_segment_of_an_older_timeline_must_reach_the_one_in_its_name() {
    let on_two = |wal: &Wal| {
        let (name, bytes) = wal.segments().remove(0);
        let name = WalSegmentName { timeline: TimelineId::new(2).unwrap(), ..name };
        summarize_segment(&bytes, name, wal.size)
    };
    // All of it belongs to timeline 1: the name is wrong.
    let mut wal = Wal::new(WalVersion::V18);
    wal.record(10, 0, 1, &[]);
    wal.switch();
    assert_eq!(
        on_two(&wal),
        Err(WalError::OtherTimeline { expected: TimelineId::new(2).unwrap(), found: 1 })
    );
    // The promotion is told by the pages after it, or by the record alone if there are none.
    let end_of_recovery = [1_u64.to_le_bytes().to_vec(), words(&[2, 1, 1])].concat();
    let mut wal = Wal::new(WalVersion::V18);
    wal.record(0, 0x90, 0, &main_data(&end_of_recovery));
    wal.switch();
    assert!(on_two(&wal).unwrap().flags.timeline_began);
    let mut wal = Wal::new(WalVersion::V18);
    wal.record(10, 0, 1, &[]);
    wal.timeline = 2;
    wal.fill_segment();
    wal.switch();
    assert!(on_two(&wal).is_ok());
    // It may never go back.
    let mut wal = Wal::new(WalVersion::V18);
    wal.record(10, 0, 1, &main_data(&[0; 9000]));
    wal.timeline = 2;
    wal.record(10, 0, 1, &main_data(&[0; 9000]));
    wal.timeline = 1;
    wal.record(10, 0, 1, &main_data(&[0; 9000]));
    wal.timeline = 2;
    let (name, bytes) = wal.segments().remove(0);
    let summary = summarize_segment(&bytes, name, wal.size).unwrap();
    assert_eq!(summary.end_of_wal.unwrap().reason, StopReason::BadPage);
}

fn changes_of(version: WalVersion, records: &[(u8, u8, Vec<u8>)]) -> SegmentSummary {
    let mut wal = Wal::new(version);
    for (rmgr, info, body) in records {
        wal.record(*rmgr, *info, 4, body);
    }
    summaries(&wal).remove(0)
}

#[test]
fn block_references_count_but_for_the_free_space_map() {
    let same = [[1, 0x80, 0, 0].as_slice(), &9_u32.to_le_bytes()].concat();
    let body = [block_body(0, 0, TABLE, 3), same, block_body(4, 1, TABLE, 1), block_body(5, 2, TABLE, 0)];
    let summary = changes_of(WalVersion::V13, &[(10, 0, body.concat())]);
    let forks: Vec<_> =
        summary.blocks.forks().map(|(_, fork, c)| (fork, c.blocks.iter().collect::<Vec<_>>())).collect();
    assert_eq!(forks, [(Fork::Main, vec![3, 9]), (Fork::Vm, vec![0])]);
    assert!(!summary.flags.requires_full_read());
}

#[test]
fn page_images_are_stepped_over_in_both_layouts() {
    let body = |info: u8, hole: bool| {
        let mut body = vec![0, 0x10, 0, 0];
        body.extend_from_slice(&[4, 0, 40, 0, info]);
        if hole {
            body.extend_from_slice(&[0, 8]);
        }
        body.extend_from_slice(&words(&TABLE));
        body.extend_from_slice(&words(&[6]));
        body.extend_from_slice(&[255, 1]);
        body.extend_from_slice(b"imgd");
        body.push(b'm');
        body
    };
    for (version, info, hole, compression) in [
        (WalVersion::V14, 7, true, ImageCompression::Pglz),
        (WalVersion::V14, 5, false, ImageCompression::None),
        (WalVersion::V15, 3, false, ImageCompression::None),
        (WalVersion::V15, 7, true, ImageCompression::Pglz),
        (WalVersion::V18, 0x13, true, ImageCompression::Zstd),
        (WalVersion::V18, 0x0B, true, ImageCompression::Lz4),
    ] {
        let mut wal = Wal::new(version);
        wal.record(10, 0, 1, &body(info, hole));
        let (name, bytes) = wal.segments().remove(0);
        let mut decoder = SegmentDecoder::new(&bytes, name, wal.size).unwrap();
        let record = decoder.next_record().unwrap();
        assert!(!record.malformed, "{version:?}");
        assert_eq!(record.main_data, b"m");
        let block = record.blocks[0];
        assert_eq!((block.block, block.image_length, block.compression), (6, 4, compression));
        assert_eq!(block.hole_length, hole.then_some(0x0800));
        assert!(block.applies_image);
    }
}

#[test]
fn creating_truncating_and_dropping_set_limits() {
    let truncate = |blocks| main_data(&words(&[blocks, 1663, 5, 16384, 7]));
    let marks =
        |blocks: &[u32]| blocks.iter().map(|b| (10, 0, block_body(0, 0, TABLE, *b))).collect::<Vec<_>>();
    let mut records = marks(&[1, 50_000]);
    records.push((2, 0x20, truncate(40_000)));
    records.extend(marks(&[50_000, 45_000]));
    // A limit that is not lower forgets nothing.
    records.push((2, 0x20, truncate(42_000)));
    let summary = changes_of(WalVersion::V16, &records);
    let main = summary.blocks.changes_of(locator(TABLE), Fork::Main).unwrap();
    assert_eq!((main.limit, main.blocks.iter().collect::<Vec<_>>()), (Some(40_000), vec![1, 45_000, 50_000]));
    assert!(main.is_changed(40_000) && !main.is_changed(39_999));
    let vm = summary.blocks.changes_of(locator(TABLE), Fork::Vm).unwrap();
    assert_eq!(vm.limit, Some(2));
    assert!(summary.blocks.changes_of(locator(TABLE), Fork::Fsm).is_none());

    let create = |fork| (2, 0x10, main_data(&words(&[1663, 5, 99, fork])));
    let summary = changes_of(WalVersion::V16, &[create(0), create(1), create(3)]);
    let limits: Vec<_> = summary.blocks.forks().map(|(_, fork, c)| (fork, c.limit)).collect();
    assert_eq!(limits, [(Fork::Main, Some(0)), (Fork::Init, Some(0))]);
}

#[test]
fn ends_of_transactions_drop_relations_and_tell_the_time() {
    // Database, two subtransactions, one dropped relation, dropped statistics (wider from 18 on), one invalidation, and
    // for prepared ones the transaction.
    let body = |version: WalVersion, time: i64, prepared: bool| {
        let stats = version >= WalVersion::V15;
        let mut xinfo = 1 | 2 | 4 | 8;
        xinfo |= if stats { 0x100 } else { 0 } | if prepared { 0x10 } else { 0 };
        let mut data = time.to_le_bytes().to_vec();
        data.extend(words(&[xinfo, 5, 1663, 2, 11, 12, 1]));
        data.extend(words(&TABLE));
        if stats {
            data.extend(words(&[1]));
            data.extend(vec![0; if version >= WalVersion::V18 { 16 } else { 12 }]);
        }
        data.extend(words(&[1, 0, 0, 0, 0]));
        if prepared {
            data.extend(words(&[4711]));
        }
        main_data(&data)
    };
    for version in ALL {
        let mut wal = Wal::new(version);
        wal.record(1, 0x80, 10, &body(version, 500, false));
        wal.record(1, 0xB0, 0, &body(version, -200, true));
        let abort = wal.record(1, 0x20, 12, &commit_body(900));
        wal.record(1, 0x10, 13, &commit_body(1000));
        let name = [b"before the change".as_slice(), &[0; 47]].concat();
        let data = [77_i64.to_le_bytes().as_slice(), &name].concat();
        let point = wal.record(0, 0x70, 0, &main_data(&data));
        let summary = summaries(&wal).remove(0);
        assert_eq!((summary.commits, summary.aborts), (2, 1));
        assert_eq!((summary.first_commit_time, summary.last_commit_time), (Some(-200), Some(900)));
        let limits: Vec<_> = summary.blocks.forks().map(|(_, fork, c)| (fork, c.limit)).collect();
        assert_eq!(limits, [(Fork::Main, Some(0)), (Fork::Vm, Some(0)), (Fork::Init, Some(0))]);
        assert!(!summary.flags.unknown_change, "{version:?}");
        assert_eq!(summary.restore_points[0].name, "before the change");
        assert_eq!(summary.restore_points[0].lsn, point);

        let ends: Vec<_> = events_of(&wal)
            .into_iter()
            .filter_map(|event| match event {
                SegmentEvent::TransactionEnd(end) => Some((end.xid, end.kind, end.time)),
                SegmentEvent::RestorePoint(_) => None,
            })
            .collect();
        let expected = [
            (10, TransactionEndKind::Commit, 500),
            (4711, TransactionEndKind::CommitPrepared, -200),
            (12, TransactionEndKind::Abort, 900),
        ];
        assert_eq!(ends, expected);

        // Where the server stops for a position: at the first record that starts there or later.
        let (name, bytes) = wal.segments().remove(0);
        let from = |lsn| first_record_from(&bytes, name, wal.size, lsn).unwrap().map(|(start, _)| start);
        assert_eq!(from(abort), Some(abort));
        assert_eq!(from(Lsn(point.0 - 1)), Some(point));
        assert_eq!(from(Lsn(point.0 + 1)), None);
    }
}

#[test]
fn databases_made_by_copying_files_are_full() {
    for (version, records) in [
        (WalVersion::V14, vec![(0x00, words(&[20, 1663, 1, 1663])), (0x10, words(&[21, 2, 1700, 1701]))]),
        (
            WalVersion::V15,
            vec![
                (0x00, words(&[20, 1663, 1, 1663])),
                (0x10, words(&[22, 1663])),
                (0x20, words(&[21, 2, 1700, 1701])),
            ],
        ),
    ] {
        let records: Vec<_> =
            records.into_iter().map(|(info, data)| (4, info | 1, main_data(&data))).collect();
        let summary = changes_of(version, &records);
        assert!(!summary.flags.unknown_change);
        assert!(summary.blocks.is_full_database(1663, 20));
        assert!(summary.blocks.is_full_database(1701, 21));
        assert_eq!(summary.blocks.is_full_database(1663, 22), version == WalVersion::V15);
    }
}

#[test]
fn what_the_summary_cannot_know_is_flagged() {
    let flags = |version, rmgr, info, body: &[u8]| changes_of(version, &[(rmgr, info, body.to_vec())]).flags;
    // wal_level minimal, in each record that tells it.
    let parameters = main_data(&[words(&[100, 8, 10, 0, 64, 0]), vec![0, 0]].concat());
    assert!(flags(WalVersion::V13, 0, 0x60, &parameters).wal_level_minimal);
    assert!(flags(WalVersion::V17, 0, 0xE0, &main_data(&words(&[0]))).wal_level_minimal);
    assert!(!flags(WalVersion::V17, 0, 0xE0, &main_data(&words(&[1]))).requires_full_read());
    let checkpoint = |level| main_data(&words(&[0, 0, 1, 1, 1, level, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert!(flags(WalVersion::V18, 0, 0x00, &checkpoint(0)).wal_level_minimal);
    assert!(!flags(WalVersion::V16, 0, 0x00, &checkpoint(0)).requires_full_read());

    assert!(flags(WalVersion::V15, 128, 0, &block_body(0, 0, TABLE, 1)).custom_resource_manager);
    assert!(flags(WalVersion::V15, 10, 1, &[]).unknown_change);
    assert!(flags(WalVersion::V15, 2, 0x30, &[]).unknown_change);
    assert!(flags(WalVersion::V15, 4, 0x30, &main_data(&words(&[1, 2]))).unknown_change);
    assert!(flags(WalVersion::V15, 1, 0x80, &main_data(&[0; 9])).unknown_change);
    // A list of headers that makes no sense, though the checksum is right.
    assert!(flags(WalVersion::V15, 10, 0, &[77, 1, 2, 3]).unknown_change);
    assert!(flags(WalVersion::V15, 0, 0x80, &main_data(&[0])).full_page_writes_off);
    assert!(!flags(WalVersion::V15, 10, 0, &block_body(0, 0, TABLE, 1)).requires_full_read());
}

#[test]
fn segment_summaries_survive_storing() {
    let mut wal = Wal::new(WalVersion::V18);
    for n in 0..9000_u32 {
        wal.record(10, 0, n, &[block_body(0, 0, [1663, 5, n % 7], n * 13), main_data(&[5; 90])].concat());
        if n % 100 == 0 {
            wal.record(1, 0, n, &commit_body(i64::from(n)));
        }
    }
    wal.record(4, 0, 1, &main_data(&words(&[20, 1663, 1, 1663])));
    wal.record(0, 0x70, 0, &main_data(&[7; 72]));
    for summary in summaries(&wal) {
        let bytes = summary.encode();
        assert_eq!(SegmentSummary::decode(&bytes), Ok(summary));
        for length in (0..bytes.len()).step_by(997) {
            assert!(SegmentSummary::decode(&bytes[..length]).is_err());
        }
        assert!(SegmentSummary::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
        let newer = [&[2], &bytes[1..]].concat();
        assert_eq!(SegmentSummary::decode(&newer), Err(SummaryCodecError::NewerFormat(2)));
    }
}

/// A change of these bytes is a change of the repository's format (`docs/format/wal-summary.md`).
#[test]
fn the_stored_form_is_the_documented_one() {
    let table = RelFileLocator { tablespace: 1663, database: 5, number: 16384 };
    let mut blocks = BlockSummary::new();
    blocks.mark_full_database(1663, 20);
    for block in [3, 4, 5, 9, 70_000] {
        blocks.mark(table, Fork::Main, block);
    }
    blocks.set_limit(table, Fork::Vm, 2);
    let stored: &[u8] = &[
        1, 1, 0xFF, 12, 20, 2, 0xFF, 12, 5, 0x80, 0x80, 1, 0, 3, 7, 1, 6, 0xCC, 0xC5, 8, 0xFF, 12, 5, 0x80,
        0x80, 1, 6, 2, 0,
    ];
    assert_eq!(blocks.encode(), stored);
    assert_eq!(BlockSummary::decode(stored), Ok(blocks));

    let mut wal = Wal::new(WalVersion::V17);
    wal.record(1, 0, 5, &commit_body(258));
    wal.record(0, 0x70, 0, &main_data(&[[2; 9].as_slice(), &[0; 63]].concat()));
    let summary = summaries(&wal).remove(0);
    let stored: Vec<u8> = [
        [1, 0x16, 0xD1].as_slice(),
        &SYSTEM.to_le_bytes(),
        // Timeline, segment size, start, end; links, counts.
        &[1, 0x80, 0x80, 0x40, 0x80, 0x80, 0x80, 2, 0xB8, 1],
        &[0xC1, 0x80, 0x40, 0xB1, 0xFF, 0x3F, 2, 1, 0],
        // Times.
        &[1, 2, 1, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0],
        // No flags; zeros after the last record; no pieces.
        &[0, 1, 0xB8, 1, 0, 0],
        // The restore point; no blocks.
        &[1, 80, 104, 2, 2, 2, 2, 2, 2, 2, 2, 1, 2, 0, 0],
    ]
    .concat();
    assert_eq!(summary.encode(), stored);
    assert_eq!(SegmentSummary::decode(&stored), Ok(summary));
}

#[test]
fn segments_of_logs_that_parted_do_not_follow_each_other() {
    let log = |filler: &[u8]| {
        let mut wal = Wal::new(WalVersion::V18);
        wal.record(10, 0, 1, &main_data(filler));
        wal.record(10, 0, 1, &main_data(filler));
        wal.switch();
        wal.record(10, 0, 1, &main_data(&[1]));
        summaries(&wal)
    };
    let (one, other) = (log(&[1; 10]), log(&[2; 30]));
    let mut range = RangeSummary::new(&one[0]);
    assert!(matches!(range.push(&other[1]), Err(RangeError::OtherLog { .. })));
    range.push(&one[1]).unwrap();
}

/// What happens to one of few forks.
#[derive(Debug, Clone)]
enum Change {
    Mark(u32, u32),
    Limit(u32, u32),
    Full(u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (0_u32..3, prop_oneof![0_u32..50, 65_500_u32..65_600, any::<u32>()]).prop_map(|(r, b)| Change::Mark(r, b)),
        1 => (0_u32..3, 0_u32..66_000).prop_map(|(r, b)| Change::Limit(r, b)),
        1 => (0_u32..3).prop_map(Change::Full),
    ]
}

fn summary_of(changes: &[Change]) -> BlockSummary {
    let mut summary = BlockSummary::new();
    let table = |number| RelFileLocator { tablespace: 1663, database: 5, number };
    for change in changes {
        match change {
            Change::Mark(relation, block) => summary.mark(table(*relation), Fork::Main, *block),
            Change::Limit(relation, limit) => summary.set_limit(table(*relation), Fork::Main, *limit),
            Change::Full(database) => summary.mark_full_database(1663, *database),
        }
    }
    summary
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whether a block must be copied is the same for the merged summaries as for the changes in one go.
    #[test]
    fn merged_summaries_say_what_one_of_all_changes_says(
        first in proptest::collection::vec(change(), 0..60),
        second in proptest::collection::vec(change(), 0..60),
    ) {
        let mut merged = summary_of(&first);
        merged.merge(&summary_of(&second));
        let whole = summary_of(&[first.as_slice(), &second].concat());
        prop_assert!(merged.full_databases().eq(whole.full_databases()));
        for (locator, fork, changes) in whole.forks() {
            let other = merged.changes_of(locator, fork).unwrap();
            prop_assert_eq!(other.limit, changes.limit);
            for change in first.iter().chain(&second) {
                if let Change::Mark(_, block) | Change::Limit(_, block) = change {
                    prop_assert_eq!(other.is_changed(*block), changes.is_changed(*block));
                }
            }
        }
        prop_assert_eq!(merged.forks().count(), whole.forks().count());
        let bytes = merged.encode();
        prop_assert_eq!(BlockSummary::decode(&bytes), Ok(merged));
    }

    #[test]
    fn damaged_stored_summaries_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(BlockSummary::decode(&bytes));
        drop(SegmentSummary::decode(&bytes));
        let mut header = changes_of(WalVersion::V18, &[(10, 0, vec![])]).encode();
        header.extend(bytes);
        drop(SegmentSummary::decode(&header));
    }

    /// Whatever is damaged or missing, reading ends, and the records before the damage are still there.
    #[test]
    fn damaged_segments_never_panic(
        flips in proptest::collection::vec((0_usize..60_000, any::<u8>()), 1..20),
        length in prop_oneof![Just(1_usize << 20), 0_usize..60_000],
        fix in any::<bool>(),
    ) {
        let mut wal = Wal::new(WalVersion::V17);
        for n in 0..60_u32 {
            let body = [block_body(0, 0, TABLE, n), main_data(&vec![5; (n as usize * 397) % 3000])].concat();
            wal.record(10, 0, n, &body);
        }
        wal.record(1, 0x80, 7, &main_data(&[1; 40]));
        let (name, mut bytes) = wal.segments().remove(0);
        for (at, value) in &flips {
            // Damaged headers of the first page are refused at once; damage elsewhere is more interesting.
            let at = if fix { at + FIRST_RECORD } else { *at };
            bytes[at] = *value;
        }
        bytes.truncate(length);
        if let Ok(summary) = summarize_partial_segment(&bytes, name, wal.size) {
            let first = flips.iter().map(|(at, _)| at + if fix { FIRST_RECORD } else { 0 }).min().unwrap();
            prop_assert!(summary.end.0 >= summary.start.0);
            prop_assert!(summary.records <= 61);
            if first > 2 * PAGE + AFTER_SHORT_HEADER && length > first {
                prop_assert!(summary.records > 5);
            }
            prop_assert_eq!(SegmentSummary::decode(&summary.encode()), Ok(summary));
        }
        if let Ok(mut events) = scan_transactions(&bytes, name, wal.size, None) {
            prop_assert!(events.by_ref().count() <= 1);
        }
        std::hint::black_box(first_record_from(&bytes, name, WalSegmentSize::DEFAULT, Lsn(1))).ok();
    }
}
