//! Dumps: written, read back at any place, listed when they are committed, removed without a trace.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use std::io::{Read, Seek, SeekFrom, Write};

use jiff::Timestamp;
use pgkeep_repo::{
    ClusterRecord, Compression, DumpHeader, DumpPartKind, DumpedTable, LeaseInfo, RepoError, Repository,
    Stanza, Store,
};

fn stanza(directory: &tempfile::TempDir) -> Stanza {
    let location = directory.path().join("repo").display().to_string();
    let now = Timestamp::UNIX_EPOCH;
    let repository = Repository::create(Store::open_or_create(&location).unwrap(), now).unwrap();
    let cluster = ClusterRecord {
        sequence: 0,
        system_identifier: 7,
        major: 17,
        catalog_version: 202_406_281,
        wal_segment_size: 1 << 20,
        block_size: 8192,
        created: now,
    };
    repository.create_stanza("main", &cluster).unwrap()
}

fn lease() -> LeaseInfo {
    LeaseInfo { verb: "dump".into(), host: "h".into(), pid: 1, program: "test".into() }
}

/// Bytes that do not repeat.
fn sample(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn table(entry: u32, rows: u64) -> DumpedTable {
    DumpedTable { entry, schema: "public".into(), name: format!("t{entry}"), rows: Some(rows), bytes: 9 }
}

#[test]
fn what_was_written_is_read_in_order_and_at_any_place() {
    let directory = tempfile::tempdir().unwrap();
    let stanza = stanza(&directory);
    let bytes = sample((5 << 20) + 12_345);
    let mut writer = stanza.begin_dump(Timestamp::UNIX_EPOCH, lease(), Compression::default()).unwrap();
    writer.set_pack_bytes(1 << 20);
    writer.begin_part(DumpPartKind::Globals, None);
    writer.write_all(b"CREATE ROLE x;\n").unwrap();
    writer.end_part(0, &[]).unwrap();
    writer.begin_part(DumpPartKind::Archive, Some("app"));
    writer.write_all(&bytes).unwrap();
    writer.end_part(12, &[table(3, 10), table(4, 20)]).unwrap();
    writer.begin_part(DumpPartKind::Archive, Some("empty"));
    writer.end_part(0, &[]).unwrap();
    assert!(stanza.dumps().unwrap().is_empty());
    let id = writer.id();
    let header = writer.commit(DumpHeader::default()).unwrap();
    assert!(header.packs.len() > 1, "{} packs", header.packs.len());

    let listed = stanza.dumps().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].header.as_ref().unwrap().rows(), 30);
    let dump = stanza.dump(id).unwrap();
    let part = dump.archive_of("app").unwrap();
    assert_eq!(dump.tables(part), [table(3, 10), table(4, 20)]);
    let mut reader = dump.open_part(part).unwrap();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    let mut hasher = dump.hasher();
    hasher.update(&bytes);
    assert!(dump.is_digest_of(&dump.header().parts[part], &hasher));
    for at in [0, 1, (1 << 20) - 1, 1 << 20, 3_333_333, bytes.len() - 1] {
        reader.seek(SeekFrom::Start(at as u64)).unwrap();
        let mut some = vec![0; 100.min(bytes.len() - at)];
        reader.read_exact(&mut some).unwrap();
        assert!(some == bytes[at..at + some.len()], "at {at}");
    }
    let mut empty = Vec::new();
    dump.open_part(dump.archive_of("empty").unwrap()).unwrap().read_to_end(&mut empty).unwrap();
    assert!(empty.is_empty());
    for pack in &dump.header().packs {
        assert!(!dump.pack_index(pack).unwrap().is_empty());
    }
}

#[test]
fn a_flipped_byte_of_a_pack_is_an_error_that_names_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let stanza = stanza(&directory);
    let mut writer = stanza.begin_dump(Timestamp::UNIX_EPOCH, lease(), Compression::default()).unwrap();
    writer.begin_part(DumpPartKind::Archive, Some("app"));
    writer.write_all(&sample(3 << 20)).unwrap();
    writer.end_part(1, &[]).unwrap();
    let header = writer.commit(DumpHeader::default()).unwrap();
    let path = directory.path().join(format!("repo/main/dump/{}/pack-000001", header.id));
    let mut stored = std::fs::read(&path).unwrap();
    stored[2 << 20] ^= 1;
    std::fs::write(&path, stored).unwrap();
    let mut reader = stanza.dump(header.id).unwrap().open_part(0).unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    match reader.take_failure().unwrap() {
        RepoError::Corrupt { key, offset, .. } => {
            assert!(key.ends_with("/pack-000001"), "{key}");
            assert!(offset > 1 << 20 && offset <= 2 << 20, "{offset}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_dump_that_is_given_up_leaves_nothing_and_its_epoch_is_not_given_out_again() {
    let directory = tempfile::tempdir().unwrap();
    let stanza = stanza(&directory);
    let mut writer = stanza.begin_dump(Timestamp::UNIX_EPOCH, lease(), Compression::None).unwrap();
    writer.begin_part(DumpPartKind::Archive, Some("app"));
    writer.write_all(&sample(2 << 20)).unwrap();
    let first = writer.id();
    drop(writer);
    assert!(stanza.dumps().unwrap().is_empty());
    assert!(stanza.inventory().unwrap().dumps.packs.is_empty());
    let backup = stanza.begin_backup(Timestamp::UNIX_EPOCH, lease()).unwrap();
    assert!(backup.id().epoch() > first.epoch());
}
