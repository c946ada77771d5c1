//! Backups: written, committed, read back; abandoned ones leave nothing; damage is noticed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use common::*;
use pgkeep_repo::*;

fn sample_files() -> Contents {
    let mut files = Contents::new();
    files.insert("PG_VERSION".into(), b"17\n".to_vec());
    files.insert("base/5/empty".into(), Vec::new());
    files.insert("base/5/zeros".into(), vec![0; 5 * BLOCK]);
    files.insert("base/5/1259".into(), noise(1, 20 * BLOCK));
    files.insert("base/5/holes".into(), {
        let mut bytes = noise(2, 700 * BLOCK);
        bytes[3 * BLOCK..9 * BLOCK].fill(0);
        bytes[256 * BLOCK..520 * BLOCK].fill(0);
        bytes
    });
    files.insert("base/5/16384".into(), noise(3, 1500 * BLOCK + 100));
    files.insert("name with \" and é".into(), noise(4, 100));
    files
}

fn backup(stanza: &Stanza, files: &Contents, compression: Compression) -> ManifestHeader {
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    writer.set_pack_bytes(1 << 20);
    writer.add_directory("base", 0o700, 7).unwrap();
    writer.add_symlink("pg_wal", 0o777, 7, *b"/elsewhere/\xFF").unwrap();
    write_files(&mut writer, stanza.repository().digest_key(), files, compression, 16);
    writer.commit(header()).unwrap()
}

#[test]
fn files_come_back_as_they_were() {
    let place = Place::new();
    let stanza = place.stanza();
    let files = sample_files();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
        let committed = backup(&stanza, &files, compression);
        let reader = stanza.backup(committed.id).unwrap();
        assert!(committed.packs.len() > 1);
        assert_eq!(reader.header().totals.files, files.len() as u64);
        compare(&reader, &files, stanza.repository().digest_key());
        let link = reader.files().map(|f| f.unwrap()).find(|f| f.path_text() == "pg_wal").unwrap();
        assert_eq!(link.kind, FileKind::Symlink { target: b"/elsewhere/\xFF".to_vec() });
        let stored: u64 = committed
            .packs
            .iter()
            .map(|pack| {
                let key = format!("main/backup/{}/pack-{:06}", committed.id, pack.number);
                stanza.repository().store().head(&key).unwrap().unwrap()
            })
            .sum();
        assert_eq!(committed.totals.stored_bytes, stored);
    }
    let listed = stanza.backups().unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().zip(1..).all(|(b, epoch)| b.id.epoch() == epoch && b.header.is_ok()));
}

#[test]
fn entries_are_sorted_whatever_their_order_and_number() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    let mut paths: Vec<String> = (0..50_000_u64)
        .map(|i| format!("base/{}/{}", i * 7919 % 61, "x".repeat(60) + &i.to_string()))
        .collect();
    for path in &paths {
        writer.add_directory(path.as_bytes(), 0o700, 0).unwrap();
    }
    let id = writer.commit(header()).unwrap().id;
    paths.sort();
    let reader = stanza.backup(id).unwrap();
    assert!(reader.files().map(|f| f.unwrap().path_text()).eq(paths));
}

#[test]
fn a_path_cannot_come_twice_nor_leave_the_directory() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    for path in ["", "/etc/passwd", "a/../../b", "./a", "a//b", "a/", "a\0b"] {
        assert!(
            matches!(writer.add_directory(path, 0o700, 0), Err(RepoError::Unrepresentable { .. })),
            "{path}"
        );
    }
    writer.add_directory("a", 0o700, 0).unwrap();
    writer.add_directory("a", 0o700, 1).unwrap();
    assert!(matches!(writer.commit(header()), Err(RepoError::Unrepresentable { .. })));
    assert!(stanza.backups().unwrap().is_empty());
}

#[test]
fn the_manifest_exists_only_after_commit_and_an_abandoned_backup_leaves_no_packs() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    writer.set_pack_bytes(1 << 20);
    write_files(&mut writer, stanza.repository().digest_key(), &sample_files(), Compression::None, 16);
    let folder = format!("main/backup/{}", writer.id());
    assert!(stanza.repository().store().list(&folder).unwrap().iter().all(|o| !o.key.ends_with("manifest")));
    assert!(stanza.backups().unwrap().is_empty());
    let id = writer.id();
    assert!(matches!(stanza.backup(id), Err(RepoError::BackupNotFound { .. })));
    writer.abandon();
    assert!(stanza.repository().store().list(&folder).unwrap().is_empty());
    let left: Vec<_> = std::fs::read_dir(place.path(&folder)).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // The epoch is not given out again.
    assert_eq!(stanza.begin_backup(now(), lease()).unwrap().id().epoch(), id.epoch() + 1);
}

#[test]
fn a_writer_that_was_dropped_like_a_killed_one_leaves_no_backup() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    write_files(&mut writer, stanza.repository().digest_key(), &sample_files(), Compression::Lz4, 16);
    std::mem::forget(writer);
    assert!(stanza.backups().unwrap().is_empty());
    let committed = backup(&stanza, &sample_files(), Compression::Lz4);
    assert_eq!(committed.epoch, 2);
}

#[test]
fn backups_that_begin_at_once_have_different_epochs() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut epochs: Vec<u32> = std::thread::scope(|scope| {
        let begin =
            |_| scope.spawn(|| stanza.begin_backup(now(), lease()).unwrap().commit(header()).unwrap().epoch);
        let threads: Vec<_> = (0..6).map(begin).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    // A writer that sees a larger epoch than its own claims once more, so that epochs are in the order of their claims: some
    // may be skipped.
    epochs.sort();
    epochs.dedup();
    assert_eq!(epochs.len(), 6, "{epochs:?}");
    assert_eq!(stanza.backups().unwrap().len(), 6);
}

#[test]
fn a_backup_declared_abandoned_cannot_commit() {
    let place = Place::new();
    let stanza = place.stanza();
    let writer = stanza.begin_backup(now(), lease()).unwrap();
    let id = writer.id();
    stanza.repository().store().put_new("main/expire/0000000001.json", "{}").unwrap();
    assert!(matches!(writer.commit(header()), Err(RepoError::Fenced { .. })));
    assert!(matches!(stanza.backup(id), Err(RepoError::BackupNotFound { .. })));
    assert!(stanza.begin_backup(now(), lease()).unwrap().commit(header()).is_ok());
}

#[test]
fn a_map_that_does_not_cover_its_file_is_refused() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    let zero = stanza.repository().digest_key().zero_block(BLOCK as u32);
    let meta = |size| FileMeta { path: b"f".to_vec(), mode: 0o600, mtime: 0, size };
    let map = |runs: &[(u32, u32)]| {
        let mut map = BlockMapBuilder::new(0);
        runs.iter().for_each(|(first, count)| map.put_zero(*first, *count, zero));
        map
    };
    let size = 4 * BLOCK as u64;
    for wrong in [map(&[]), map(&[(0, 3)]), map(&[(0, 5)]), map(&[(0, 2), (1, 3)]), map(&[(0, 1), (2, 2)])] {
        assert!(matches!(writer.add_file(meta(size), wrong), Err(RepoError::Unrepresentable { .. })));
    }
    assert!(writer.add_file(meta(0), map(&[(0, 1)])).is_err());
    writer.add_file(meta(size - 5), map(&[(2, 2), (0, 2)])).unwrap();
}

#[test]
fn wal_can_be_kept_with_one_backup() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    let bytes = noise(9, 1 << 20);
    writer.put_wal_tail(&segment(5, &bytes)).unwrap();
    assert!(matches!(writer.put_wal_tail(&segment(5, &bytes)), Err(RepoError::AlreadyExists { .. })));
    let committed = writer.commit(header()).unwrap();
    let reader = stanza.backup(committed.id).unwrap();
    assert_eq!(reader.header().wal_tail.len(), 1);
    assert_eq!(reader.wal_tail(&reader.header().wal_tail[0]).unwrap().bytes, bytes);
}

#[test]
fn packs_are_checked_as_deeply_as_asked() {
    let place = Place::new();
    let stanza = place.stanza();
    let committed = backup(&stanza, &sample_files(), Compression::Lz4);
    let reader = stanza.backup(committed.id).unwrap();
    for pack in committed.packs.iter().rev().take(2) {
        let contents = reader.check_pack(pack, PackCheck::Digests).unwrap();
        assert!(contents.frames > 0 && contents.stored_bytes < pack.size);
        let key = format!("main/backup/{}/pack-{:06}", committed.id, pack.number);
        let path = place.path(&key);
        let original = std::fs::read(&path).unwrap();
        // Nothing of a pack is without a checksum.
        for i in 0..150 {
            let at = if i < 70 { i } else { original.len() - 1 - (i - 70) * (i - 70) % original.len() };
            let mut broken = original.clone();
            broken[at] ^= 1 << (i % 8);
            std::fs::write(&path, &broken).unwrap();
            assert!(
                reader.check_pack(pack, PackCheck::Checksums).is_err(),
                "byte {at} of {}",
                original.len()
            );
        }
        std::fs::write(&path, &original[..original.len() - 1]).unwrap();
        assert!(matches!(reader.check_pack(pack, PackCheck::Structure), Err(RepoError::Corrupt { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(reader.check_pack(pack, PackCheck::Structure), Err(RepoError::NotFound { .. })));
        std::fs::write(&path, &original).unwrap();
        reader.check_pack(pack, PackCheck::Structure).unwrap();
    }
}

/// Flips bytes all over a backup. Reading everything must fail, or give exactly what was stored (a pack's index and
/// trailer are not needed to read files).
#[test]
fn every_damage_is_noticed_or_harmless() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut files = sample_files();
    files.retain(|path, _| path != "base/5/16384");
    let committed = backup(&stanza, &files, Compression::Zstd(3));
    let key = stanza.repository().digest_key().clone();
    let objects = stanza.repository().store().list(&format!("main/backup/{}", committed.id)).unwrap();
    let read_all = || -> Result<usize> {
        let reader = stanza.backup(committed.id)?;
        let mut harmless = 0;
        for entry in reader.files() {
            let entry = entry?;
            if matches!(entry.kind, FileKind::File { .. }) {
                let bytes = read_file(&reader, &entry)?;
                assert!(bytes == files[&entry.path_text()], "wrong bytes without an error");
                let mut padded = bytes;
                padded.resize(padded.len().next_multiple_of(BLOCK), 0);
                let digests: Vec<BlockDigest> = padded.chunks(BLOCK).map(|b| key.block(b)).collect();
                assert_eq!(reader.map(&entry)?.digests()?, digests);
                harmless += 1;
            }
        }
        Ok(harmless)
    };
    let (mut noticed, mut harmless) = (0, 0);
    for (object, seed) in objects.iter().zip(1_u64..) {
        let path = place.path(&object.key);
        let original = std::fs::read(&path).unwrap();
        for i in 0..40 {
            let mut broken = original.clone();
            let at = ((i * 2_654_435_761 + seed * 977) % original.len() as u64) as usize;
            broken[at] ^= 1 << (i % 8);
            std::fs::write(&path, &broken).unwrap();
            match read_all() {
                Ok(_) => harmless += 1,
                Err(RepoError::Corrupt { .. } | RepoError::NewerFormat { .. }) => noticed += 1,
                Err(other) => panic!("{other}"),
            }
        }
        std::fs::write(&path, &original[..original.len() / 2]).unwrap();
        assert!(read_all().is_err());
        std::fs::write(&path, &original).unwrap();
    }
    assert!(read_all().is_ok());
    assert!(noticed > 0 && harmless * 5 < noticed, "{noticed} noticed, {harmless} harmless");
}

/// A limit on file sizes stands for a disk that is full at another moment each time: for the first pack, a later one, the
/// manifest. Whatever happens, the backups that are listed can be read, and the next backup works.
#[test]
fn a_disk_that_fills_up_at_any_moment_leaves_a_valid_repository() {
    let place = Place::new();
    let stanza = place.stanza();
    let key = stanza.repository().digest_key().clone();
    let mut failed = 0;
    for limit in [1, 10, 40, 100, 400, 1_000, 1_020, 100_000] {
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new("bash")
            .arg("-c")
            .arg("trap '' XFSZ; ulimit -f $1; exec \"$0\" --exact --ignored --nocapture full_disk_backup_child")
            .arg(program)
            .arg(limit.to_string())
            .env("PGKEEP_TEST_FULL_DISK", &place.location)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("no space") || text.contains("committed"), "{text}");
        failed += usize::from(text.contains("no space"));
        let listed = stanza.backups().unwrap();
        for listing in &listed {
            assert!(listing.header.is_ok());
            compare(&stanza.backup(listing.id).unwrap(), &crowded(), &key);
        }
        // What failed left nothing that takes space.
        let folders = std::fs::read_dir(place.path("main/backup")).unwrap();
        let full =
            folders.filter(|f| std::fs::read_dir(f.as_ref().unwrap().path()).unwrap().next().is_some());
        assert_eq!(full.count(), listed.len(), "after a limit of {limit}");
    }
    assert_eq!(stanza.backups().unwrap().len() + failed, 8);
    assert!((3..8).contains(&failed), "{failed}");
}

/// A manifest that is larger than a pack may be.
fn crowded() -> Contents {
    (0..3_000_u64)
        .map(|i| {
            (
                format!("{:x}", u128::from(i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)),
                noise(i, (i % 3) as usize * 700),
            )
        })
        .collect()
}

#[test]
#[ignore = "run by a_disk_that_fills_up_at_any_moment_leaves_a_valid_repository in a process with a limit"]
fn full_disk_backup_child() {
    let Ok(location) = std::env::var("PGKEEP_TEST_FULL_DISK") else { return };
    let repository = Repository::open(Store::open(&location).unwrap()).unwrap();
    let stanza = repository.stanza("main").unwrap();
    let files = crowded();
    let attempt = || -> Result<BackupId> {
        let mut writer = stanza.begin_backup(now(), lease())?;
        writer.set_pack_bytes(1 << 20);
        let written = try_write_files(&mut writer, repository.digest_key(), &files, Compression::Zstd(3), 16);
        match written {
            Ok(()) => Ok(writer.commit(header())?.id),
            Err(error) => {
                writer.abandon();
                Err(error)
            }
        }
    };
    match attempt() {
        Ok(id) => println!("committed {id}"),
        Err(error) if error.is_no_space() => println!("no space"),
        Err(error) => panic!("{error:?}"),
    }
}
