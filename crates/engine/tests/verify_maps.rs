//! Maps and frames that are sound each by itself and contradict each other, and pages that nobody knows to be bad: made by
//! hand, since no server makes them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

use jiff::Timestamp;
use pgkeep_engine::event::{Event, Observer, Silent};
use pgkeep_engine::list::list;
use pgkeep_engine::verify::{
    BlockRange, Damage, DamageKind, VerifyReport, VerifyRequest, known_damage, verify,
};
use pgkeep_engine::{Cancel, Compression, ErrorKind, Location};
use pgkeep_format::page::page_checksum;
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{
    BadPages, BadPagesOfFile, BlockDigest, BlockEncoder, BlockMapBuilder, ClusterRecord, FileMeta, LeaseInfo,
    ManifestHeader, Repository, Stanza, Store, WalFacts, WalObject,
};

const BLOCK: usize = 8192;
const TABLE: &str = "base/5/16384.1";
/// The first block of the second segment of a relation.
const SECOND_SEGMENT: u32 = 131_072;
const START: Lsn = Lsn(0x100_0028);
const STOP: Lsn = Lsn(0x100_0100);

struct Place {
    _directory: tempfile::TempDir,
    location: Location,
    stanza: Stanza,
}

impl Place {
    /// An empty stanza with the one WAL segment that the backups below need.
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("repo").to_str().unwrap().to_owned();
        let now: Timestamp = "2026-11-22T09:30:00Z".parse().unwrap();
        let record = ClusterRecord {
            sequence: 0,
            system_identifier: 7,
            major: 17,
            catalog_version: 202_406_281,
            wal_segment_size: 1 << 20,
            block_size: BLOCK as u32,
            created: now,
        };
        let opened = Repository::create(Store::open_or_create(&repository).unwrap(), now).unwrap();
        let stanza = opened.create_stanza("main", &record).unwrap();
        let size = WalSegmentSize::try_from(1 << 20).unwrap();
        let number = SegmentNumber(16);
        let facts = WalFacts {
            system_identifier: 7,
            timeline: TimelineId::FIRST,
            segment_size: size,
            page_magic: 0xD116,
            start: size.start_of(number),
            end: size.end_of(number),
            first_commit_time: None,
            last_commit_time: None,
            commits: 0,
            records: 0,
            flags: 0,
        };
        let name = WalFileName::Segment(WalSegmentName { timeline: TimelineId::FIRST, number });
        let bytes = vec![7; 1 << 20];
        let object =
            WalObject { name, facts, bytes: &bytes, summary: b"", compression: Compression::default() };
        stanza.wal(&stanza.records()[0]).put(&object).unwrap();
        let location = Location { repository, stanza: "main".to_owned() };
        Place { _directory: directory, location, stanza }
    }

    /// A backup of one file; `map` is told the digests and may change them.
    fn backup(
        &self,
        pages: &[u8],
        bad_pages: BadPages,
        spoil: impl Fn(&mut Vec<BlockDigest>) -> u32,
    ) -> String {
        let lease = LeaseInfo { verb: "backup".into(), host: "h".into(), pid: 1, program: "test".into() };
        let mut writer = self.stanza.begin_backup(Timestamp::now(), lease).unwrap();
        let key = self.stanza.repository().digest_key().clone();
        let frame = BlockEncoder::new(Compression::default(), key, BLOCK as u32).encode(pages);
        let mut digests = frame.digests.clone();
        let place = writer.append(frame).unwrap();
        let position = spoil(&mut digests);
        writer.put_wal_tail(&segment(&vec![8; 1 << 20])).unwrap();
        let mut map = BlockMapBuilder::new(0);
        map.put_run(0, &digests, place, position);
        let size = (digests.len() * BLOCK) as u64;
        let meta = FileMeta { path: TABLE.into(), mode: 0o600, mtime: 0, size };
        writer.add_file(meta, map).unwrap();
        let header = ManifestHeader {
            record: 1,
            system_identifier: 7,
            major: 17,
            catalog_version: 202_406_281,
            wal_segment_size: 1 << 20,
            checksums: true,
            start_lsn: START,
            stop_lsn: STOP,
            bad_pages,
            ..ManifestHeader::default()
        };
        writer.commit(header).unwrap().id.to_string()
    }

    fn verify(&self) -> VerifyReport {
        verify(&self.request(), &Silent, &Cancel::default()).unwrap()
    }

    fn request(&self) -> VerifyRequest {
        VerifyRequest {
            location: self.location.clone(),
            backup: None,
            sample_percent: None,
            since_last: false,
            max_bytes: None,
            max_time: None,
            jobs: 2,
            seed: 1,
            dry_run: false,
        }
    }
}

/// Asks to stop as soon as something was read.
struct StopsEarly(Cancel);

impl Observer for StopsEarly {
    fn event(&self, event: Event) {
        if matches!(event, Event::StepStarted { .. } | Event::Progress { .. }) {
            self.0.cancel();
        }
    }
}

/// The segment that the backups below need.
fn segment(bytes: &[u8]) -> WalObject<'_> {
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    let number = SegmentNumber(16);
    let facts = WalFacts {
        system_identifier: 7,
        timeline: TimelineId::FIRST,
        segment_size: size,
        page_magic: 0xD116,
        start: size.start_of(number),
        end: size.end_of(number),
        first_commit_time: None,
        last_commit_time: None,
        commits: 0,
        records: 0,
        flags: 0,
    };
    let name = WalFileName::Segment(WalSegmentName { timeline: TimelineId::FIRST, number });
    WalObject { name, facts, bytes, summary: b"", compression: Compression::default() }
}

/// A page as the server would write it at that block of the segment, changed at `lsn`.
fn page(block: u32, lsn: Lsn) -> Vec<u8> {
    let mut page = vec![block as u8 | 1; BLOCK];
    page[0..4].copy_from_slice(&((lsn.0 >> 32) as u32).to_le_bytes());
    page[4..8].copy_from_slice(&(lsn.0 as u32).to_le_bytes());
    page[8..12].fill(0);
    for (at, value) in [(12, 40_u16), (14, 8000), (16, 8192), (18, 0x2004)] {
        page[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    let sum = page_checksum(&page, SECOND_SEGMENT + block);
    page[8..10].copy_from_slice(&sum.to_le_bytes());
    page
}

fn pages(count: u32) -> Vec<u8> {
    (0..count).flat_map(|block| page(block, Lsn(100))).collect()
}

fn blocks(damage: &Damage) -> Vec<(u32, u32)> {
    damage.files[0].blocks.iter().map(|BlockRange { first, last }| (*first, *last)).collect()
}

#[test]
fn a_map_that_contradicts_its_frame_is_found() {
    let place = Place::new();
    let good = place.backup(&pages(8), BadPages::default(), |_| 0);
    assert!(place.verify().ok, "{:#?}", place.verify().damage);
    let bad = place.backup(&pages(8), BadPages::default(), |digests| {
        digests[3].0[0] ^= 1;
        digests[4].0[7] ^= 1;
        0
    });
    let report = place.verify();
    assert_eq!(report.damage.len(), 1, "{:#?}", report.damage);
    let damage = &report.damage[0];
    assert_eq!((damage.kind, blocks(damage)), (DamageKind::Mismatch, vec![(3, 4)]));
    assert_eq!((damage.files[0].relfilenode, damage.files[0].segment), (Some(16384), Some(1)));
    assert_eq!((report.good_backups, report.damaged_backups), (vec![good], vec![bad.clone()]));
    assert!(known_damage(&place.stanza).unwrap().is_damaged(&bad));
}

#[test]
fn a_map_that_points_one_block_off_is_found() {
    let place = Place::new();
    // The blocks are those of another place in the frame; each digest alone is one of the frame.
    let bad = place.backup(&pages(8), BadPages::default(), |digests| {
        digests.truncate(7);
        1
    });
    let report = place.verify();
    assert_eq!(report.damaged_backups, [bad]);
    assert_eq!(report.damage[0].kind, DamageKind::Mismatch);
    assert_eq!(blocks(&report.damage[0]), [(0, 6)]);
}

#[test]
fn a_bad_page_is_news_unless_the_backup_names_it_or_replay_heals_it() {
    let place = Place::new();
    let mut bytes = pages(6);
    for block in [1, 2, 4] {
        bytes[block * BLOCK + 5000] ^= 1;
    }
    // Torn while the backup ran.
    bytes[4 * BLOCK..5 * BLOCK].copy_from_slice(&page(4, Lsn(START.0 + 8)));
    bytes[4 * BLOCK + 5000] ^= 1;
    let named = BadPages { total: 1, files: vec![BadPagesOfFile { path: TABLE.into(), blocks: vec![2] }] };
    let backup = place.backup(&bytes, named, |_| 0);
    let report = place.verify();
    assert!(!report.ok);
    assert_eq!(report.damage.len(), 1, "{:#?}", report.damage);
    assert_eq!((report.damage[0].kind, blocks(&report.damage[0])), (DamageKind::BadPages, vec![(1, 1)]));
    assert_eq!(report.verified.pages, 6);
    // The backup is what the cluster was: it restores.
    assert_eq!(report.good_backups, std::slice::from_ref(&backup));
    assert!(!known_damage(&place.stanza).unwrap().is_damaged(&backup));
    let listed = list(&place.location).unwrap();
    assert!(listed.backups[0].restorable, "{listed:#?}");
    assert_eq!(listed.damage.len(), 1);
}

#[test]
fn wal_that_is_kept_with_a_backup_is_read_with_it() {
    let place = Place::new();
    let backup = place.backup(&pages(2), BadPages::default(), |_| 0);
    assert_eq!(place.verify().verified.wal_files, 2);
    let folder = std::path::Path::new(&place.location.repository).join(format!("main/backup/{backup}/wal"));
    let object = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&object).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let report = place.verify();
    assert_eq!(report.damage.len(), 1, "{:#?}", report.damage);
    assert!(report.damage[0].object.contains("/wal/"));
    assert_eq!(report.damaged_backups, std::slice::from_ref(&backup));
    std::fs::remove_file(&object).unwrap();
    assert_eq!(place.verify().damage[0].kind, DamageKind::Missing);
    assert!(known_damage(&place.stanza).unwrap().is_damaged(&backup));
}

/// What was not read does not count as read, and what was does.
#[test]
fn an_interrupted_run_remembers_only_what_it_did() {
    let place = Place::new();
    let backup = place.backup(&pages(2), BadPages::default(), |_| 0);
    let cancel = Cancel::default();
    let report = verify(&place.request(), &StopsEarly(cancel.clone()), &cancel).unwrap();
    assert!(report.interrupted && report.ok && report.stored_as.is_some(), "{report:#?}");
    assert_eq!(report.verified.frames, 0);
    let listed = list(&place.location).unwrap();
    assert!(listed.backups[0].verified.as_ref().is_none_or(|verified| verified.share_percent == 0));
    place.verify();
    assert_eq!(list(&place.location).unwrap().backups[0].verified.as_ref().unwrap().share_percent, 100);
    assert_eq!(list(&place.location).unwrap().backups[0].id, backup);
}

/// A repository that is not there any more has not lost its objects: that is told, and is no damage.
#[test]
fn a_repository_that_went_away_is_no_damage() {
    let place = Place::new();
    place.backup(&pages(2), BadPages::default(), |_| 0);
    struct TakesAway(String);
    impl Observer for TakesAway {
        fn event(&self, event: Event) {
            if matches!(event, Event::StepStarted { .. }) {
                std::fs::rename(&self.0, format!("{}.away", self.0)).unwrap();
            }
        }
    }
    let observer = TakesAway(place.location.repository.clone());
    let error = verify(&place.request(), &observer, &Cancel::default()).unwrap_err();
    assert!(!error.hints.is_empty() && error.kind != ErrorKind::Internal, "{error:#?}");
}

/// A repository that may only be read is verified all the same; only the result is not kept.
#[test]
fn a_result_that_cannot_be_kept_is_told() {
    let place = Place::new();
    place.backup(&pages(2), BadPages::default(), |_| 0);
    let reports = std::path::Path::new(&place.location.repository).join("main/report");
    std::fs::write(&reports, "in the way").unwrap();
    let report = place.verify();
    assert!(report.ok && report.stored_as.is_none() && report.not_stored.is_some(), "{report:#?}");
}
