//! Backups that build on others, against a model: a store of files under random changes. Every backup is complete,
//! whatever becomes of the others, and says exactly what it needs of each pack.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use pgkeep_repo::*;
use proptest::prelude::*;

/// Takes a backup of `files` that builds on `parent`: blocks whose digests agree stay where they are.
fn incremental(stanza: &Stanza, parent: BackupId, files: &Contents) -> ManifestHeader {
    rewriting(stanza, parent, files, &BTreeSet::new()).unwrap()
}

/// As `incremental`; nothing of the packs in `rewrite` is referred to.
fn rewriting(
    stanza: &Stanza,
    parent: BackupId,
    files: &Contents,
    rewrite: &BTreeSet<(u32, u32)>,
) -> Result<ManifestHeader> {
    let reader = stanza.backup(parent)?;
    let mut writer = stanza.begin_backup(now(), lease())?;
    writer.set_pack_bytes(1 << 20);
    writer.build_on(&reader, rewrite)?;
    let key = stanza.repository().digest_key();
    let mut added = BTreeSet::new();
    for entry in reader.files() {
        let entry = entry?;
        let path = entry.path_text();
        let Some(bytes) = files.get(&path) else {
            writer.drop_file(&entry)?;
            continue;
        };
        added.insert(path);
        let meta = FileMeta { size: bytes.len() as u64, ..entry.meta.clone() };
        let map = reader.parent_map(&entry)?;
        let changes = changed_blocks(&mut writer, key, bytes, map.as_ref(), rewrite)?;
        if changes.is_empty() && meta.size == entry.meta.size {
            writer.keep_file(meta, &entry)?;
        } else {
            writer.add_changed_file(meta, changes, &entry)?;
        }
    }
    let new: Contents =
        files.iter().filter(|(p, _)| !added.contains(*p)).map(|(p, b)| (p.clone(), b.clone())).collect();
    try_write_files(&mut writer, key, &new, Compression::None, 16)?;
    writer.commit(header())
}

/// Blocks whose digest is not the parent's, one in each frame or three together.
fn changed_blocks(
    writer: &mut BackupWriter,
    key: &DigestKey,
    bytes: &[u8],
    parent: Option<&ParentMap>,
    rewrite: &BTreeSet<(u32, u32)>,
) -> Result<BlockMapBuilder> {
    let mut encoder = BlockEncoder::new(Compression::None, key.clone(), BLOCK as u32);
    let mut map = BlockMapBuilder::new(0);
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let mut scattered: Vec<(u32, &[u8])> = Vec::new();
    for (block, content) in (0_u32..).zip(padded.chunks(BLOCK)) {
        let leaf = parent.map(|parent| parent.leaf_of(block)).transpose()?.flatten();
        if leaf.is_some_and(|leaf| {
            let stays = leaf.pack_of(block).is_none_or(|pack| !rewrite.contains(&pack));
            stays && leaf.digest(block) == Some(key.block(content))
        }) {
            continue;
        }
        if is_zero_block(content) {
            map.put_zero(block, 1, encoder.zero_digest());
        } else {
            scattered.push((block, content));
        }
    }
    for group in scattered.chunks(3) {
        let frame: Vec<u8> = group.iter().flat_map(|(_, content)| content.iter().copied()).collect();
        let frame = encoder.encode(&frame);
        let digests = frame.digests.clone();
        let place = writer.append(frame)?;
        for ((block, _), (digest, position)) in group.iter().zip(digests.iter().zip(0..)) {
            map.put_run(*block, std::slice::from_ref(digest), place, position);
        }
    }
    Ok(map)
}

fn full(stanza: &Stanza, files: &Contents) -> ManifestHeader {
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    writer.set_pack_bytes(1 << 20);
    write_files(&mut writer, stanza.repository().digest_key(), files, Compression::None, 16);
    writer.commit(header()).unwrap()
}

/// What the header says that it needs of each pack, against a count of every reference from scratch.
fn assert_needs_are_exact(stanza: &Stanza, header: &ManifestHeader) {
    let reader = stanza.backup(header.id).unwrap();
    let counted = reader.count_needs().unwrap();
    let said: BTreeMap<(u32, u32), u64> = header
        .packs
        .iter()
        .filter(|pack| pack.live_bytes > 0)
        .map(|pack| ((pack.epoch, pack.number), pack.live_bytes))
        .collect();
    assert_eq!(said, counted);
}

#[test]
fn an_unchanged_file_costs_a_line_and_a_changed_block_costs_its_leaf() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut files = Contents::new();
    files.insert("base/5/1".into(), noise(1, 2000 * BLOCK));
    files.insert("base/5/2".into(), noise(2, 2000 * BLOCK));
    files.insert("base/5/3".into(), noise(3, 5 * BLOCK));
    let first = full(&stanza, &files);
    let nothing = incremental(&stanza, first.id, &files);
    assert_eq!(nothing.totals.stored_bytes, 0);
    assert!(nothing.packs.iter().all(|pack| pack.backup == first.id));
    compare(&stanza.backup(nothing.id).unwrap(), &files, stanza.repository().digest_key());
    files.get_mut("base/5/1").unwrap()[700 * BLOCK + 5] ^= 1;
    let second = incremental(&stanza, nothing.id, &files);
    // The block, its leaf's runs and digests, the root; packs have some 300 bytes of their own.
    let stored = second.totals.stored_bytes;
    assert!(stored < (BLOCK + 2 * 256 * 8 + 2000) as u64, "{stored}");
    compare(&stanza.backup(second.id).unwrap(), &files, stanza.repository().digest_key());
    assert_needs_are_exact(&stanza, &second);
}

#[test]
fn every_file_of_the_parent_must_be_told_of_once() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut files = Contents::new();
    files.insert("a".into(), noise(1, 3 * BLOCK));
    files.insert("b".into(), Vec::new());
    let first = full(&stanza, &files);
    let reader = stanza.backup(first.id).unwrap();
    let entries: Vec<FileEntry> = reader.files().map(|entry| entry.unwrap()).collect();
    let begin = || {
        let mut writer = stanza.begin_backup(now(), lease()).unwrap();
        writer.build_on(&reader, &BTreeSet::new()).unwrap();
        writer
    };
    let mut forgetful = begin();
    forgetful.drop_file(&entries[0]).unwrap();
    assert!(matches!(forgetful.commit(header()), Err(RepoError::Unrepresentable { .. })));
    let mut twice = begin();
    twice.keep_file(entries[0].meta.clone(), &entries[0]).unwrap();
    twice.keep_file(entries[1].meta.clone(), &entries[1]).unwrap();
    assert!(twice.drop_file(&entries[1]).is_err());
    let mut resized = begin();
    let meta = FileMeta { size: 7, ..entries[0].meta.clone() };
    assert!(resized.keep_file(meta, &entries[0]).is_err());
    let mut complete = begin();
    entries.iter().for_each(|entry| complete.drop_file(entry).unwrap());
    assert!(complete.commit(header()).unwrap().packs.is_empty());
    let mut orphan = stanza.begin_backup(now(), lease()).unwrap();
    assert!(orphan.keep_file(entries[0].meta.clone(), &entries[0]).is_err());
}

#[test]
fn blocks_that_the_parent_did_not_have_must_be_put() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut files = Contents::new();
    files.insert("a".into(), noise(1, 3 * BLOCK));
    let first = full(&stanza, &files);
    let reader = stanza.backup(first.id).unwrap();
    let entry = reader.files().next().unwrap().unwrap();
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    writer.build_on(&reader, &BTreeSet::new()).unwrap();
    let meta = FileMeta { size: 4 * BLOCK as u64, ..entry.meta.clone() };
    let refused = writer.add_changed_file(meta, BlockMapBuilder::new(0), &entry);
    assert!(matches!(refused, Err(RepoError::Unrepresentable { .. })));
}

/// One change of the store.
#[derive(Clone, Debug)]
enum Change {
    Write { file: u8, block: u16, count: u8, seed: u8 },
    Zero { file: u8, block: u16, count: u8 },
    Length { file: u8, blocks: u16, extra: u16 },
    Drop { file: u8 },
}

fn change() -> impl Strategy<Value = Change> {
    let file = 0..5_u8;
    prop_oneof![
        6 => (file.clone(), 0..700_u16, 1..40_u8, any::<u8>())
            .prop_map(|(file, block, count, seed)| Change::Write { file, block, count, seed }),
        1 => (file.clone(), 0..700_u16, 1..255_u8)
            .prop_map(|(file, block, count)| Change::Zero { file, block, count }),
        2 => (file.clone(), 0..800_u16, prop_oneof![Just(0_u16), 1..8192_u16])
            .prop_map(|(file, blocks, extra)| Change::Length { file, blocks, extra }),
        1 => file.prop_map(|file| Change::Drop { file }),
    ]
}

fn apply(files: &mut Contents, change: &Change) {
    let name = |file: u8| format!("base/5/{}", 16384 + u32::from(file));
    let span = |bytes: &[u8], block: u16, count: u8| {
        let from = (usize::from(block) * BLOCK).min(bytes.len());
        from..(from + usize::from(count) * BLOCK).min(bytes.len())
    };
    match *change {
        Change::Write { file, block, count, seed } => {
            let bytes = files.entry(name(file)).or_default();
            let span = span(bytes, block, count);
            let fresh = noise(u64::from(seed) << 16 | u64::from(block), span.len());
            bytes[span].copy_from_slice(&fresh);
        }
        Change::Zero { file, block, count } => {
            let bytes = files.entry(name(file)).or_default();
            let span = span(bytes, block, count);
            bytes[span].fill(0);
        }
        Change::Length { file, blocks, extra } => {
            let bytes = files.entry(name(file)).or_default();
            let length = usize::from(blocks) * BLOCK + usize::from(extra);
            if length > bytes.len() {
                bytes.extend(noise(u64::from(blocks), length - bytes.len()));
            }
            bytes.truncate(length);
        }
        Change::Drop { file } => drop(files.remove(&name(file))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn every_backup_of_a_chain_is_complete_and_knows_what_it_needs(
        steps in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..7),
        parents in prop::collection::vec(any::<prop::sample::Index>(), 7),
        rewritten in prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 7),
    ) {
        let place = Place::new();
        let stanza = place.stanza();
        let mut files = Contents::new();
        apply(&mut files, &Change::Length { file: 0, blocks: 600, extra: 0 });
        apply(&mut files, &Change::Length { file: 1, blocks: 3, extra: 100 });
        let mut taken = vec![(full(&stanza, &files), files.clone())];
        for ((changes, parent), rewritten) in steps.iter().zip(&parents).zip(&rewritten) {
            changes.iter().for_each(|change| apply(&mut files, change));
            // Any backup will do as the parent, not only the newest.
            let parent = &taken[parent.index(taken.len())].0;
            let packs: Vec<(u32, u32)> = parent.packs.iter().map(|pack| (pack.epoch, pack.number)).collect();
            let rewrite: BTreeSet<(u32, u32)> =
                rewritten.filter(|_| !packs.is_empty()).map(|index| packs[index.index(packs.len())]).into_iter().collect();
            let header = rewriting(&stanza, parent.id, &files, &rewrite).unwrap();
            for pack in &header.packs {
                prop_assert!(!rewrite.contains(&(pack.epoch, pack.number)), "a pack that was to be given up is listed");
            }
            assert_needs_are_exact(&stanza, &header);
            taken.push((header, files.clone()));
        }
        for (header, files) in &taken {
            compare(&stanza.backup(header.id).unwrap(), files, stanza.repository().digest_key());
        }
        // Without every pack that the last one does not list, it is still whole.
        let (last, files) = taken.last().unwrap();
        let needed: BTreeSet<String> =
            last.packs.iter().map(|pack| format!("main/backup/{}/pack-{:06}", pack.backup, pack.number)).collect();
        for (header, _) in &taken {
            for object in stanza.repository().store().list(&format!("main/backup/{}", header.id)).unwrap() {
                if object.key.contains("/pack-") && !needed.contains(&object.key) {
                    std::fs::remove_file(place.path(&object.key)).unwrap();
                }
            }
            if header.id != last.id {
                std::fs::remove_file(place.path(&format!("main/backup/{}/manifest", header.id))).unwrap();
            }
        }
        compare(&stanza.backup(last.id).unwrap(), files, stanza.repository().digest_key());
    }
}
