//! Backups that go on with what interrupted ones left: whatever was left, changed, damaged or removed meanwhile, what is
//! committed is what the files held at the end.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::BTreeMap;

use common::*;
use pgkeep_repo::*;
use proptest::prelude::*;

const PACK: u64 = 1 << 20;

/// Goes on with a backup of these files for at most `frames` frames; answers how many it made, and how many it copied.
fn write_resuming(
    writer: &mut BackupWriter,
    stanza: &Stanza,
    files: &Contents,
    left: Option<&Leftovers>,
    mut frames: usize,
) -> (usize, usize) {
    let key = stanza.repository().digest_key();
    let mut encoder = BlockEncoder::new(Compression::Lz4, key.clone(), BLOCK as u32);
    let (mut made, mut copied) = (0, 0);
    for (path, bytes) in files {
        let mut padded = bytes.clone();
        padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
        let blocks: Vec<&[u8]> = padded.chunks(BLOCK).collect();
        let mut map = BlockMapBuilder::new(blocks.len() as u32);
        let mut todo: BTreeMap<u32, &[u8]> = (0..).zip(blocks.iter().copied()).collect();
        todo.retain(|number, block| {
            let zero = is_zero_block(block);
            if zero {
                map.put_zero(*number, 1, encoder.zero_digest());
            }
            !zero
        });
        if let Some(left) = left {
            let mut by_frame: BTreeMap<FrameRef, Vec<(u32, u32)>> = BTreeMap::new();
            let found = left.find(path.as_bytes(), 0, blocks.len() as u32);
            for (number, place) in (0..).zip(found) {
                if let Some(place) = place {
                    by_frame.entry(place.frame).or_default().push((place.position, number));
                }
            }
            let mut decoder = left.decoder();
            let mut plain = Vec::new();
            for (frame, mut places) in by_frame {
                let stored = left.fetch(&[frame]);
                let Some(stored) = stored.first() else { continue };
                let Some(encoded) = left.take_over(&mut decoder, stored, &mut plain) else { continue };
                places.retain(|(position, number)| {
                    let from = *position as usize * BLOCK;
                    todo.get(number).is_some_and(|block| **block == plain[from..from + BLOCK])
                });
                places.sort_unstable();
                if places.is_empty() || frames == 0 {
                    continue;
                }
                let noted: Vec<PlacedBlocks<'_>> = places
                    .iter()
                    .map(|(position, number)| PlacedBlocks {
                        path: path.as_bytes(),
                        first_block: *number,
                        count: 1,
                        position: *position,
                    })
                    .collect();
                let digests = encoded.digests.clone();
                let place = writer.append_blocks(encoded, &noted).unwrap();
                (copied, frames) = (copied + 1, frames - 1);
                for (position, number) in places {
                    let digest = &digests[position as usize..][..1];
                    map.put_run(number, digest, place, position);
                    todo.remove(&number);
                }
            }
        }
        for group in todo.iter().collect::<Vec<_>>().chunks(5) {
            if frames == 0 {
                return (made, copied);
            }
            let raw: Vec<u8> = group.iter().flat_map(|(_, block)| block.iter().copied()).collect();
            let encoded = encoder.encode(&raw);
            let digests = encoded.digests.clone();
            let placed = |(position, (block, _)): (u32, &(&u32, &&[u8]))| PlacedBlocks {
                path: path.as_bytes(),
                first_block: **block,
                count: 1,
                position,
            };
            let noted: Vec<PlacedBlocks<'_>> = (0..).zip(group).map(placed).collect();
            let place = writer.append_blocks(encoded, &noted).unwrap();
            (made, frames) = (made + 1, frames - 1);
            for (position, (block, _)) in (0..).zip(group) {
                map.put_run(**block, &digests[position as usize..][..1], place, position);
            }
        }
        let meta = FileMeta {
            path: path.clone().into_bytes(),
            mode: 0o600,
            mtime: 1_700_000_000,
            size: bytes.len() as u64,
        };
        writer.add_file(meta, map).unwrap();
    }
    (made, copied)
}

fn begin(stanza: &Stanza) -> BackupWriter {
    let mut writer = stanza.begin_backup(now(), lease()).unwrap();
    writer.set_pack_bytes(PACK);
    writer
}

fn record(stanza: &Stanza) -> ClusterRecord {
    *stanza.records().last().unwrap()
}

/// Stops like a process that was killed, and is known to be gone.
fn kill(stanza: &Stanza, writer: BackupWriter) {
    let epoch = writer.id().epoch();
    std::mem::forget(writer);
    // A pack that is full is finished by another thread, which a kill would take along.
    std::thread::sleep(std::time::Duration::from_millis(20));
    stanza.repository().store().put_new(&format!("main/lease/{epoch:010}.ended"), "").unwrap();
}

fn prove(stanza: &Stanza, id: BackupId, files: &Contents) {
    let reader = stanza.backup(id).unwrap();
    compare(&reader, files, stanza.repository().digest_key());
    for pack in &reader.header().packs {
        assert_eq!(pack.backup, id, "nothing of what was left is referred to");
        reader.check_pack(pack, PackCheck::Digests).unwrap();
    }
}

fn sample() -> Contents {
    let mut files = Contents::new();
    files.insert("base/5/1".into(), noise(1, 300 * BLOCK));
    files.insert("base/5/2".into(), noise(2, 90 * BLOCK - 100));
    files.insert("base/5/3".into(), Vec::new());
    files
}

#[test]
fn whole_packs_of_an_interrupted_backup_are_taken_over() {
    let place = Place::new();
    let stanza = place.stanza();
    let files = sample();
    let mut first = begin(&stanza);
    let id = first.id();
    let (made, _) = write_resuming(&mut first, &stanza, &files, None, usize::MAX);
    // While its process runs, it is not interrupted.
    assert!(stanza.leftovers(&record(&stanza), None).unwrap().is_none());
    kill(&stanza, first);
    let mut second = begin(&stanza);
    let left = stanza.leftovers(&record(&stanza), Some(second.id())).unwrap().unwrap();
    assert_eq!(left.backups(), [id]);
    let (made_again, copied) = write_resuming(&mut second, &stanza, &files, Some(&left), usize::MAX);
    assert_eq!(copied as u64, left.frames());
    // All but what was in the open pack.
    assert!(copied > made / 2 && made_again < made / 2, "{made} frames, {copied} copied, {made_again} anew");
    let second = second.commit(header()).unwrap().id;
    prove(&stanza, second, &files);
    // What was left is of no use any more, and the next one does not look at it.
    assert!(stanza.leftovers(&record(&stanza), None).unwrap().is_none());
}

#[test]
fn a_backup_that_fails_leaves_its_open_pack_too_but_no_second_copy() {
    let place = Place::new();
    let stanza = place.stanza();
    let files = sample();
    let mut first = begin(&stanza);
    let (made, _) = write_resuming(&mut first, &stanza, &files, None, usize::MAX);
    assert!(first.leave());
    let left = stanza.leftovers(&record(&stanza), None).unwrap().unwrap();
    assert_eq!(left.frames(), made as u64);
    let packs = || {
        let folder = stanza.repository().store().list("main/backup").unwrap();
        folder.iter().map(|object| object.size).sum::<u64>()
    };
    let before = packs();
    for _ in 0..3 {
        let mut next = begin(&stanza);
        let left = stanza.leftovers(&record(&stanza), Some(next.id())).unwrap().unwrap();
        assert_eq!(write_resuming(&mut next, &stanza, &files, Some(&left), usize::MAX), (0, made));
        assert!(!next.leave());
        assert_eq!(packs(), before);
    }
}

#[test]
fn condemned_packs_and_other_clusters_are_left_aside() {
    let place = Place::new();
    let stanza = place.stanza();
    let mut first = begin(&stanza);
    let id = first.id();
    write_resuming(&mut first, &stanza, &sample(), None, usize::MAX);
    first.leave();
    let other = ClusterRecord { sequence: 2, ..record(&stanza) };
    assert!(stanza.leftovers(&other, None).unwrap().is_none());
    let all = stanza.leftovers(&record(&stanza), None).unwrap().unwrap().frames();
    let condemned = Condemned { packs: [PackName { backup: id, number: 1 }].into(), ..Condemned::default() };
    let removal = stanza.condemn(condemned, &stanza.inventory().unwrap(), now(), &lease()).unwrap();
    let next = begin(&stanza);
    let left = stanza.leftovers(&record(&stanza), Some(next.id())).unwrap().unwrap().frames();
    assert!(left < all && left > 0, "{left} of {all}");
    // An older backup is waited for: it may go on.
    let older = stanza.leftovers(&record(&stanza), Some(BackupId::new(2, now()))).unwrap().unwrap();
    assert_eq!(older.frames(), all);
    stanza.end_removal(&removal);
}

#[test]
fn damage_in_what_was_left_is_counted_and_not_taken_over() {
    let place = Place::new();
    let stanza = place.stanza();
    let files = sample();
    let mut first = begin(&stanza);
    let id = first.id();
    write_resuming(&mut first, &stanza, &files, None, usize::MAX);
    first.leave();
    let path = place.path(&format!("main/backup/{id}/pack-000001"));
    let sound = std::fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(sound.len() / 40) {
        let mut broken = sound.clone();
        broken[at] ^= 4;
        std::fs::write(&path, &broken).unwrap();
        let mut next = begin(&stanza);
        let left = stanza.leftovers(&record(&stanza), Some(next.id())).unwrap().unwrap();
        write_resuming(&mut next, &stanza, &files, Some(&left), usize::MAX);
        assert!(left.damaged() > 0, "byte {at}");
        next.abandon();
    }
    // Gone between the look and the copy.
    let mut next = begin(&stanza);
    let left = stanza.leftovers(&record(&stanza), Some(next.id())).unwrap().unwrap();
    std::fs::remove_file(&path).unwrap();
    write_resuming(&mut next, &stanza, &files, Some(&left), usize::MAX);
    let id = next.commit(header()).unwrap().id;
    prove(&stanza, id, &files);
}

/// What happens between one attempt and the next.
#[derive(Clone, Debug)]
enum Step {
    Write { file: u8, block: u16, count: u8, seed: u8 },
    Resize { file: u8, blocks: u16, extra: u16 },
    Drop { file: u8 },
    Rename { from: u8, to: u8 },
    Interrupt { frames: u16, killed: bool },
    LosePack,
    DamagePack { at: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let file = 0..4_u8;
    prop_oneof![
        5 => (file.clone(), 0..200_u16, 1..60_u8, any::<u8>())
            .prop_map(|(file, block, count, seed)| Step::Write { file, block, count, seed }),
        2 => (file.clone(), 0..250_u16, 0..8192_u16)
            .prop_map(|(file, blocks, extra)| Step::Resize { file, blocks, extra }),
        1 => file.clone().prop_map(|file| Step::Drop { file }),
        1 => (file.clone(), file).prop_map(|(from, to)| Step::Rename { from, to }),
        6 => (0..120_u16, any::<bool>()).prop_map(|(frames, killed)| Step::Interrupt { frames, killed }),
        1 => Just(Step::LosePack),
        1 => any::<u16>().prop_map(|at| Step::DamagePack { at }),
    ]
}

fn change(files: &mut Contents, step: &Step) {
    let name = |file: u8| format!("base/5/{file}");
    match *step {
        Step::Write { file, block, count, seed } => {
            let bytes = files.entry(name(file)).or_default();
            let (from, to) = (usize::from(block) * BLOCK, (usize::from(block) + usize::from(count)) * BLOCK);
            bytes.resize(bytes.len().max(to), 0);
            bytes[from..to].copy_from_slice(&noise(u64::from(seed), to - from));
        }
        Step::Resize { file, blocks, extra } => {
            if let Some(bytes) = files.get_mut(&name(file)) {
                bytes.resize(usize::from(blocks) * BLOCK + usize::from(extra), 9);
            }
        }
        Step::Drop { file } => drop(files.remove(&name(file))),
        Step::Rename { from, to } => {
            if let Some(bytes) = files.remove(&name(from)) {
                files.insert(name(to), bytes);
            }
        }
        _ => {}
    }
}

/// Some pack that is in the repository.
fn some_pack(place: &Place, stanza: &Stanza) -> Option<std::path::PathBuf> {
    let objects = stanza.repository().store().list("main/backup").unwrap();
    objects.iter().rev().find(|object| object.key.contains("/pack-")).map(|object| place.path(&object.key))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_left_the_backup_is_that_of_the_files(steps in prop::collection::vec(step(), 1..12)) {
        let place = Place::new();
        let stanza = place.stanza();
        let mut files = sample();
        for step in &steps {
            change(&mut files, step);
            match step {
                Step::Interrupt { frames, killed } => {
                    let mut writer = begin(&stanza);
                    let left = stanza.leftovers(&record(&stanza), Some(writer.id())).unwrap();
                    write_resuming(&mut writer, &stanza, &files, left.as_ref(), usize::from(*frames));
                    if *killed { kill(&stanza, writer) } else { let _ = writer.leave(); }
                }
                Step::LosePack => {
                    some_pack(&place, &stanza).into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
                }
                Step::DamagePack { at } => {
                    if let Some(path) = some_pack(&place, &stanza) {
                        let mut bytes = std::fs::read(&path).unwrap();
                        let at = usize::from(*at) * 31 % bytes.len();
                        bytes[at] ^= 0x20;
                        std::fs::write(&path, bytes).unwrap();
                    }
                }
                _ => {}
            }
        }
        let mut writer = begin(&stanza);
        let left = stanza.leftovers(&record(&stanza), Some(writer.id())).unwrap();
        write_resuming(&mut writer, &stanza, &files, left.as_ref(), usize::MAX);
        let committed = writer.commit(header()).unwrap();
        prove(&stanza, committed.id, &files);
        let counted = stanza.backup(committed.id).unwrap().count_needs().unwrap();
        let said: BTreeMap<(u32, u32), u64> = committed.packs.iter()
            .filter(|pack| pack.live_bytes > 0)
            .map(|pack| ((pack.epoch, pack.number), pack.live_bytes))
            .collect();
        prop_assert_eq!(said, counted);
    }
}
