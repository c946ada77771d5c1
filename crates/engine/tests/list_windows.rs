//! `list` and `show` with real backups, archived WAL, a hole and a promotion.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod stanza_support;

use std::fs;
use std::path::Path;

use pgkeep_engine::backup::{
    BackupRequest, ChangesChoice, Checkpoint, SourceChoice, TypeChoice, WalChoice, backup,
};
use pgkeep_engine::event::Silent;
use pgkeep_engine::list::{ListReport, list, show};
use pgkeep_engine::{Cancel, Compression, ErrorKind};
use pgkeep_format::{TimelineId, WalFileName, WalSegmentSize};
use pgkeep_testkit::Cluster;
use stanza_support::{Place, connection, file_name, finished_segment};

fn take_backup(place: &Place, cluster: &Cluster) -> String {
    let request = BackupRequest {
        location: place.location.clone(),
        connection: connection(cluster),
        kind: TypeChoice::Auto,
        changes: ChangesChoice::Auto,
        source: SourceChoice::Stream,
        jobs: 1,
        compression: Compression::default(),
        wal: WalChoice::Include,
        checkpoint: Checkpoint::Fast,
        annotations: [("why".to_owned(), "test".to_owned())].into(),
        archive_timeout_seconds: 30,
        pack_bytes: None,
        dry_run: false,
    };
    backup(&request, &Silent, &Cancel::default()).unwrap().id.unwrap()
}

#[test]
fn windows_end_at_holes_and_follow_promotions() {
    let primary = Cluster::builder(17).wal_segment_mib(1).conf("wal_keep_size", "1GB").start();
    let place = Place::new();
    place.init(&primary).unwrap();
    let empty = list(&place.location).unwrap();
    assert!(empty.backups.is_empty() && empty.windows.is_empty() && empty.gaps.is_empty());

    let first = take_backup(&place, &primary);
    let listed = list(&place.location).unwrap();
    assert_eq!(listed.backups.len(), 1);
    assert!(listed.backups[0].restorable, "{:?}", listed.backups[0].problem);
    assert_eq!(listed.windows.len(), 1);
    assert!(listed.windows[0].to_lsn >= listed.backups[0].stop_lsn);

    // Archived WAL after it, every segment from the one after the backup's last.
    let archive_all = |cluster: &Cluster| {
        let folder = cluster.data_dir().join("pg_wal");
        let mut names: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| file_name(&entry.unwrap().path()))
            .filter(|name| name.len() == 24 || name.ends_with(".history"))
            .collect();
        names.sort();
        names
    };
    let segments: Vec<_> = (0..4).map(|_| finished_segment(&primary)).collect();
    let last = file_name(segments.last().unwrap());
    let needed_from = listed.backups[0].stop_lsn;
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    for name in archive_all(&primary) {
        let Some(WalFileName::Segment(segment)) = WalFileName::parse(&name, size) else { continue };
        if segment.number >= size.segment_before(needed_from) && name <= last {
            place.push(&primary.data_dir().join("pg_wal").join(&name)).unwrap();
        }
    }
    let listed = list(&place.location).unwrap();
    assert_eq!(listed.windows.len(), 1, "{:?}", listed.windows);
    let window = &listed.windows[0];
    assert_eq!(window.backup, first);
    assert_eq!(
        size.segment_before(window.to_lsn),
        match WalFileName::parse(&last, size).unwrap() {
            WalFileName::Segment(segment) => segment.number,
            _ => unreachable!(),
        }
    );
    let to_time = window.to_time.clone().unwrap();
    assert!(to_time > window.from_time, "{to_time} {}", window.from_time);
    assert!(listed.gaps.is_empty());

    // A promotion, archived too: still one window, which ends on the new timeline.
    let standby = Cluster::standby_of(&primary);
    standby.wait_for_replay_of(&primary);
    standby.promote();
    finished_segment(&standby);
    let folder = standby.data_dir().join("pg_wal");
    place.push(&folder.join("00000002.history")).unwrap();
    let switched = finished_segment(&standby);
    for name in archive_all(&standby) {
        let on_two = name.starts_with("00000002") && name.len() == 24 && name <= file_name(&switched);
        let before_fork = name.starts_with("00000001") && name > last;
        // The segment of the fork is `.partial` on timeline 1 and complete on 2.
        if on_two
            || (before_fork
                && folder.join(&name).exists()
                && !folder.join(name.replacen('1', "2", 1)).exists())
        {
            place.push(&folder.join(&name)).unwrap();
        }
    }
    let second = take_backup(&place, &standby);
    let listed = list(&place.location).unwrap();
    assert_eq!(listed.windows.len(), 1, "{:#?}", listed.windows);
    assert_eq!(listed.windows[0].timeline.get(), 2);
    assert_eq!(listed.backups[1].timeline.get(), 2);

    // A hole: two windows, and it is named.
    let lost = file_name(&segments[1]);
    let WalFileName::Segment(lost_segment) = WalFileName::parse(&lost, size).unwrap() else { unreachable!() };
    fs::remove_file(
        Path::new(&place.location.repository).join(place.archive().key(WalFileName::Segment(lost_segment))),
    )
    .unwrap();
    let listed = list(&place.location).unwrap();
    assert_eq!(listed.gaps.len(), 1);
    assert_eq!((&listed.gaps[0].first_missing, listed.gaps[0].segments), (&lost, 1));
    assert!(listed.gaps[0].harmful);
    let windows: Vec<_> = listed.windows.iter().map(|w| (w.backup.clone(), w.timeline.get())).collect();
    assert_eq!(windows, [(first.clone(), 1), (second.clone(), 2)]);
    assert!(listed.windows[0].to_lsn <= listed.gaps[0].from_lsn);
    assert!(listed.backups.iter().all(|backup| backup.restorable));

    let shown = show(&place.location, "latest").unwrap();
    assert_eq!(shown.summary.id, second);
    assert_eq!(shown.annotations.get("why").map(String::as_str), Some("test"));
    assert!(shown.wal_missing.is_empty() && shown.files > 100);
    assert_eq!(show(&place.location, &first).unwrap().summary.id, first);
    assert_eq!(show(&place.location, "nonsense").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(show(&place.location, "0").unwrap_err().kind, ErrorKind::Usage);

    // A history file that is damaged hides nothing but its own timeline, and is told.
    let history = WalFileName::TimelineHistory(TimelineId::new(2).unwrap());
    let history = Path::new(&place.location.repository).join(place.archive().key(history));
    let mut bytes = fs::read(&history).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&history, bytes).unwrap();
    let damaged = list(&place.location).unwrap();
    assert!(listed.warnings.is_empty());
    assert_eq!(damaged.warnings.len(), 1, "{:?}", damaged.warnings);
    assert!(damaged.warnings[0].contains("00000002.history"), "{:?}", damaged.warnings);
    let ids = |listed: &ListReport| listed.backups.iter().map(|backup| backup.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&damaged), ids(&listed));
    assert_eq!(damaged.windows[0].to_lsn, listed.windows[0].to_lsn);
    assert_eq!(show(&place.location, &first).unwrap().summary.id, first);
}

#[test]
fn a_backup_that_lost_its_wal_or_its_manifest_says_so() {
    let cluster = Cluster::builder(18).wal_segment_mib(1).start();
    let place = Place::new();
    place.init(&cluster).unwrap();
    let first = take_backup(&place, &cluster);
    let second = take_backup(&place, &cluster);
    let shown = show(&place.location, &first).unwrap();
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    let needed = WalFileName::parse(&shown.wal_first, size).unwrap();
    let repository = Path::new(&place.location.repository);
    fs::remove_file(repository.join(place.archive().key(needed))).unwrap();
    let manifest = repository.join(format!("main/backup/{second}/manifest"));
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[40] ^= 1;
    bytes[middle] ^= 1;
    fs::write(&manifest, bytes).unwrap();

    let listed = list(&place.location).unwrap();
    assert_eq!(listed.backups.len(), 2);
    assert!(listed.backups.iter().all(|backup| !backup.restorable));
    assert!(listed.backups[0].problem.as_deref().unwrap().contains(&shown.wal_first));
    assert!(
        listed.backups[1].problem.as_deref().unwrap().contains("corrupt"),
        "{:?}",
        listed.backups[1].problem
    );
    assert!(listed.windows.is_empty());
    assert_eq!(show(&place.location, &first).unwrap().wal_missing, [shown.wal_first]);
    assert_eq!(show(&place.location, &second).unwrap_err().kind, ErrorKind::Corrupt);
}
