//! Interleavings of writers and removals on a store in memory, step by step: whatever happens between any two steps, and
//! whoever dies there, every backup that is listed has all of its packs, and a held one stays.
//!
//! Writers here do what [`crate::BackupWriter`] does (claim, look at what is condemned, write packs, ask, store the
//! manifest), with the last two apart: a process may sleep for any time between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use object_store::memory::InMemory;
use proptest::prelude::*;

use super::*;
use crate::digest::Hex;
use crate::manifest::PackEntry;
use crate::manifest_writer::{ManifestLines, assemble};
use crate::stanza::ClusterRecord;
use crate::wal_object::{WalFacts, WalObject};
use crate::{Compression, Repository, Store, WalRange, lease};
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};

fn now() -> Timestamp {
    "2026-11-22T09:30:00Z".parse().unwrap()
}

fn info() -> LeaseInfo {
    LeaseInfo { verb: "backup".into(), host: "host".into(), pid: 1, program: "test".into() }
}

fn stanza() -> Stanza {
    let store = Store::from_object_store("memory", Arc::new(InMemory::new()));
    let cluster = ClusterRecord {
        sequence: 0,
        system_identifier: 7,
        major: 17,
        catalog_version: 1,
        wal_segment_size: 1 << 20,
        block_size: 8192,
        created: now(),
    };
    Repository::create(store, now()).unwrap().create_stanza("main", &cluster).unwrap()
}

/// A backup that is being written.
struct Writer {
    id: BackupId,
    packs: BTreeSet<PackName>,
    header: Option<ManifestHeader>,
}

fn begin(stanza: &Stanza) -> Writer {
    let id = lease::claim(stanza, now(), &info()).unwrap();
    Writer { id, packs: BTreeSet::new(), header: None }
}

fn write_pack(stanza: &Stanza, writer: &mut Writer) {
    let number = writer.packs.iter().filter(|pack| pack.backup == writer.id).count() as u32 + 1;
    let store = stanza.repository().store();
    assert!(store.put_new(&key::pack(stanza.name(), writer.id, number), vec![7; 10]).unwrap());
    writer.packs.insert(PackName { backup: writer.id, number });
}

/// Takes over the packs of a backup, as an incremental does, except those that it must not.
fn refer(stanza: &Stanza, writer: &mut Writer, parent: BackupId) {
    let condemned = stanza.condemned_packs(writer.id).unwrap();
    let Ok((header, _)) = crate::backup_reader::read_header(stanza, parent) else { return };
    let packs = header.packs.iter().map(|pack| PackName { backup: pack.backup, number: pack.number });
    writer.packs.extend(packs.filter(|pack| !condemned.contains(pack)));
}

/// Takes over packs that no manifest lists, as whoever resumes an interrupted backup may do.
fn resume(stanza: &Stanza, writer: &mut Writer) {
    let condemned = stanza.condemned_packs(writer.id).unwrap();
    let inventory = stanza.inventory().unwrap();
    let open: BTreeSet<u32> = inventory.running().iter().map(|lease| lease.epoch).collect();
    let packs = inventory.unlisted(&BTreeSet::new()).into_iter().map(|(pack, _)| pack.name);
    writer.packs.extend(packs.filter(|pack| {
        pack.backup < writer.id && !open.contains(&pack.backup.epoch()) && !condemned.contains(pack)
    }));
}

/// Asks whether the backup may be committed.
fn ask(stanza: &Stanza, writer: &mut Writer) -> Result<()> {
    let entry = |pack: &PackName| PackEntry {
        epoch: pack.backup.epoch(),
        backup: pack.backup,
        number: pack.number,
        id: Hex([0; 16]),
        size: 10,
        live_bytes: 10,
    };
    let header = ManifestHeader {
        id: writer.id,
        epoch: writer.id.epoch(),
        stanza: "main".into(),
        packs: writer.packs.iter().map(entry).collect(),
        ..ManifestHeader::default()
    };
    stanza.refuse_unsafe_commit(writer.id, &header)?;
    writer.header = Some(header);
    Ok(())
}

/// Stores the manifest of a backup that may be committed.
fn commit(stanza: &Stanza, writer: &Writer) -> bool {
    let repository = stanza.repository();
    let lines = ManifestLines::default().sort(repository.digest_key()).unwrap();
    let header = writer.header.as_ref().unwrap();
    let chunks =
        assemble(header, header.epoch, lines, repository.id_bytes(), repository.digest_key()).unwrap();
    repository.store().put_new_chunks(&key::manifest(stanza.name(), writer.id), chunks).unwrap()
}

fn backup(stanza: &Stanza, packs: u32, parents: &[BackupId]) -> BackupId {
    let mut writer = begin(stanza);
    parents.iter().for_each(|parent| refer(stanza, &mut writer, *parent));
    (0..packs).for_each(|_| write_pack(stanza, &mut writer));
    ask(stanza, &mut writer).unwrap();
    assert!(commit(stanza, &writer));
    writer.id
}

fn ids(stanza: &Stanza) -> Vec<BackupId> {
    stanza.backups().unwrap().iter().map(|listing| listing.id).collect()
}

/// Every listed backup has every pack that it lists.
fn assert_complete(stanza: &Stanza) {
    for listing in stanza.backups().unwrap() {
        for pack in listing.header.unwrap().packs {
            let key = key::pack(stanza.name(), pack.backup, pack.number);
            assert!(stanza.repository().store().head(&key).unwrap().is_some(), "{} lacks {key}", listing.id);
        }
    }
}

fn condemn(stanza: &Stanza, doomed: &BTreeSet<BackupId>) -> Removal {
    let inventory = stanza.inventory().unwrap();
    let doomed: BTreeSet<BackupId> =
        doomed.iter().copied().filter(|id| !inventory.holds.contains_key(id)).collect();
    let packs = inventory.rubbish(&doomed).iter().map(|pack| pack.name).collect();
    let condemned = Condemned { backups: doomed, packs, ..Condemned::default() };
    stanza.condemn(condemned, &inventory, now(), &info()).unwrap()
}

fn steps(stanza: &Stanza, removal: &Removal) -> RemovalSteps {
    removal.steps(&stanza.inventory().unwrap(), &removal.condemned().backups.clone(), &BTreeSet::new(), &[])
}

fn expire(stanza: &Stanza, doomed: &[BackupId]) -> RemovalSteps {
    let removal = condemn(stanza, &doomed.iter().copied().collect());
    let steps = steps(stanza, &removal);
    steps.steps.iter().for_each(|step| stanza.remove(step).unwrap());
    stanza.end_removal(&removal);
    steps
}

fn stored(stanza: &Stanza) -> Vec<(u32, u32)> {
    let inventory = stanza.inventory().unwrap();
    inventory.packs.iter().map(|pack| (pack.name.backup.epoch(), pack.name.number)).collect()
}

#[test]
fn packs_outlive_their_manifest_while_another_lists_them() {
    let stanza = stanza();
    let full = backup(&stanza, 2, &[]);
    let child = backup(&stanza, 1, &[full]);
    expire(&stanza, &[full]);
    assert_eq!(ids(&stanza), [child]);
    assert_eq!(stored(&stanza).len(), 3);
    assert_complete(&stanza);
    // They are not those of a backup that is running or abandoned, either.
    expire(&stanza, &[]);
    assert_eq!(stored(&stanza).len(), 3);
    assert!(stanza.inventory().unwrap().running().is_empty());
    // A grandchild takes them over from the child.
    let grandchild = backup(&stanza, 1, &[child]);
    expire(&stanza, &[child]);
    assert_eq!(ids(&stanza), [grandchild]);
    assert_eq!(stored(&stanza).len(), 4);
    expire(&stanza, &[grandchild]);
    assert!(stored(&stanza).is_empty());
}

/// A power failure after the packs are gone must not bring their backups back.
#[test]
fn manifests_stay_removed_before_any_pack_goes() {
    let stanza = stanza();
    let ids: Vec<BackupId> = (0..20).map(|_| backup(&stanza, 1, &[])).collect();
    for doomed in [&ids[..2], &ids[2..]] {
        let steps = expire(&stanza, doomed).steps;
        let place = |is: fn(&RemovalStep) -> bool| steps.iter().position(is).unwrap();
        let flush = place(|step| matches!(step, RemovalStep::Flush(_)));
        assert_eq!(steps[flush], RemovalStep::Flush(doomed.to_vec()));
        assert!(steps[..flush].iter().all(|step| matches!(step, RemovalStep::Manifest(_))));
        assert!(place(|step| matches!(step, RemovalStep::Pack(..))) > flush);
    }
    assert!(stored(&stanza).is_empty());
}

/// Killed between its last manifest and the flush, a removal leaves that to the next one.
#[test]
fn manifests_that_a_killed_removal_took_are_flushed_before_their_packs_go() {
    let stanza = stanza();
    let gone = backup(&stanza, 1, &[]);
    backup(&stanza, 1, &[]);
    let killed = condemn(&stanza, &[gone].into());
    let manifests = steps(&stanza, &killed).steps.into_iter();
    for step in manifests.take_while(|step| matches!(step, RemovalStep::Manifest(_))) {
        stanza.remove(&step).unwrap();
    }
    let next = condemn(&stanza, &BTreeSet::new());
    let steps = steps(&stanza, &next).steps;
    assert_eq!(steps[0], RemovalStep::Flush(vec![gone]));
    assert!(steps.iter().any(|step| matches!(step, RemovalStep::Pack(..))), "{steps:?}");
}

#[test]
fn a_writer_that_may_refer_to_a_pack_is_waited_for() {
    let stanza = stanza();
    let parent = backup(&stanza, 1, &[]);
    let mut writer = begin(&stanza);
    refer(&stanza, &mut writer, parent);
    write_pack(&stanza, &mut writer);
    ask(&stanza, &mut writer).unwrap();
    // The writer sleeps here; the parent is removed meanwhile.
    let waiting = expire(&stanza, &[parent]);
    assert_eq!((waiting.waiting_packs, waiting.waiting_bytes), (1, 10));
    assert_eq!(waiting.waiting_for.len(), 1);
    assert!(ids(&stanza).is_empty());
    assert!(commit(&stanza, &writer));
    assert_complete(&stanza);
    expire(&stanza, &[]);
    assert_complete(&stanza);
    assert_eq!(ids(&stanza), [writer.id]);
    assert_eq!(stored(&stanza).len(), 2);
}

#[test]
fn a_writer_that_ends_without_a_backup_is_not_waited_for_any_more() {
    let stanza = stanza();
    let parent = backup(&stanza, 1, &[]);
    let writer = begin(&stanza);
    assert_eq!(expire(&stanza, &[parent]).waiting_packs, 1);
    assert_eq!(stored(&stanza).len(), 1);
    lease::end(&stanza, writer.id.epoch());
    expire(&stanza, &[]);
    assert!(stored(&stanza).is_empty());
    expire(&stanza, &[]);
    let names = stanza.repository().store().list("main/expire").unwrap();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn a_writer_that_began_after_the_list_may_not_refer_to_what_is_on_it() {
    let stanza = stanza();
    let parent = backup(&stanza, 1, &[]);
    let removal = condemn(&stanza, &[parent].into());
    let mut young = begin(&stanza);
    assert_eq!(stanza.condemned_packs(young.id).unwrap().len(), 1);
    // It does not ask and takes the pack over all the same.
    young.packs.insert(PackName { backup: parent, number: 1 });
    assert!(matches!(ask(&stanza, &mut young), Err(RepoError::Removed { .. })));
    // So it need not be waited for.
    let steps = steps(&stanza, &removal);
    assert!(steps.waiting_for.is_empty());
    steps.steps.iter().for_each(|step| stanza.remove(step).unwrap());
    stanza.end_removal(&removal);
    assert!(matches!(ask(&stanza, &mut young), Err(RepoError::Removed { .. })));
}

#[test]
fn an_old_list_lets_packs_go_although_younger_writers_run() {
    let stanza = stanza();
    let parent = backup(&stanza, 1, &[]);
    let old = begin(&stanza);
    assert_eq!(expire(&stanza, &[parent]).waiting_packs, 1);
    let _young = begin(&stanza);
    lease::end(&stanza, old.id.epoch());
    assert_eq!(expire(&stanza, &[]).waiting_packs, 0);
    assert!(stored(&stanza).is_empty());
}

#[test]
fn packs_of_a_running_backup_stay_and_those_of_an_interrupted_one_can_be_taken_over() {
    let stanza = stanza();
    let mut running = begin(&stanza);
    write_pack(&stanza, &mut running);
    expire(&stanza, &[]);
    assert_eq!(stored(&stanza), [(1, 1)]);
    // Killed: the next backup may take its packs over, until a later backup is complete.
    lease::end(&stanza, running.id.epoch());
    expire(&stanza, &[]);
    assert_eq!(stored(&stanza), [(1, 1)]);
    let unlisted = stanza.inventory().unwrap().unlisted(&BTreeSet::new());
    assert_eq!(unlisted[0].1, UnlistedPack::Resumable);
    let mut resumed = begin(&stanza);
    resumed.packs.insert(PackName { backup: running.id, number: 1 });
    let other = backup(&stanza, 1, &[]);
    let waiting = expire(&stanza, &[]);
    assert_eq!(waiting.waiting_packs, 1);
    ask(&stanza, &mut resumed).unwrap();
    assert!(commit(&stanza, &resumed));
    expire(&stanza, &[other]);
    assert_complete(&stanza);
    assert_eq!(stored(&stanza), [(1, 1)]);
    expire(&stanza, &[resumed.id]);
    assert!(stored(&stanza).is_empty());
}

#[test]
fn a_held_backup_is_not_removed_even_if_it_was_held_after_the_list_was_published() {
    let stanza = stanza();
    let held = backup(&stanza, 1, &[]);
    // Whoever holds sees the list and is told so.
    let removal = condemn(&stanza, &[held].into());
    assert!(matches!(stanza.hold(held, "audit", now()), Err(RepoError::BeingRemoved { .. })));
    assert!(stanza.holds().unwrap().is_empty());
    // One that came between the first look and the list is seen by the second look.
    let json = serde_json::to_vec(&Hold { backup: held, reason: "audit".into(), since: now() }).unwrap();
    stanza.repository().store().put_new(&key::hold(stanza.name(), held, "00000000"), json).unwrap();
    let steps = steps(&stanza, &removal);
    assert!(!steps.steps.iter().any(|step| matches!(step, RemovalStep::Manifest(_) | RemovalStep::Pack(..))));
    steps.steps.iter().for_each(|step| stanza.remove(step).unwrap());
    assert_eq!(stanza.holds().unwrap()[&held].reason, "audit");
    assert_eq!(stanza.release(held).unwrap(), 1);
    assert_eq!(stanza.release(held).unwrap(), 0);
    assert!(matches!(stanza.hold(begin(&stanza).id, "", now()), Err(RepoError::BackupNotFound { .. })));
}

#[test]
fn a_backup_that_was_given_up_cannot_be_committed_even_if_it_asked_before() {
    let stanza = stanza();
    let mut asleep = begin(&stanza);
    write_pack(&stanza, &mut asleep);
    ask(&stanza, &mut asleep).unwrap();
    let later = "2026-12-22T09:30:00Z".parse().unwrap();
    let inventory = stanza.inventory().unwrap();
    assert!(stanza.give_up_older(&inventory, now(), later).unwrap().is_empty());
    let given_up = stanza.give_up_older(&inventory, later, later).unwrap();
    assert_eq!(given_up.len(), 1);
    assert!(matches!(ask(&stanza, &mut asleep), Err(RepoError::Fenced { .. })));
    stanza.void_given_up(&given_up).unwrap();
    assert!(!commit(&stanza, &asleep));
    assert!(ids(&stanza).is_empty());
    assert!(matches!(stanza.backup(asleep.id), Err(RepoError::BackupNotFound { .. })));
    backup(&stanza, 1, &[]);
    expire(&stanza, &[]);
    assert_eq!(stored(&stanza).len(), 1);
    // Forever.
    expire(&stanza, &[]);
    assert!(!commit(&stanza, &asleep));
}

#[test]
fn a_writer_whose_place_was_taken_is_told_that_it_was_given_up() {
    let stanza = stanza();
    let mut writer = stanza.begin_backup(now(), info()).unwrap();
    writer.add_directory("base", 0o700, 0).unwrap();
    let key = stanza.repository().digest_key().clone();
    let frame = crate::BlockEncoder::new(Compression::None, key, 8192).encode(&[1; 8192]);
    writer.append(frame).unwrap();
    assert!(lease::void(&stanza, &key::manifest(stanza.name(), writer.id())).unwrap());
    assert!(matches!(writer.commit(ManifestHeader::default()), Err(RepoError::Fenced { .. })));
    assert!(stored(&stanza).is_empty() && ids(&stanza).is_empty());
}

#[test]
fn a_running_backup_below_protects_itself_from_the_fence_above() {
    let stanza = stanza();
    let young: Timestamp = "2026-12-22T09:30:00Z".parse().unwrap();
    let id = lease::claim(&stanza, young, &info()).unwrap();
    let _old = begin(&stanza);
    let given_up = stanza.give_up_older(&stanza.inventory().unwrap(), young, young).unwrap();
    assert!(given_up.is_empty());
    lease::refuse_fenced(&stanza, id).unwrap();
}

#[test]
fn packs_that_an_unreadable_manifest_may_need_stay() {
    let stanza = stanza();
    let full = backup(&stanza, 1, &[]);
    let child = backup(&stanza, 1, &[full]);
    let later = backup(&stanza, 1, &[]);
    let store = stanza.repository().store();
    let manifest = key::manifest(stanza.name(), child);
    store.delete(&manifest).unwrap();
    store.put_new(&manifest, vec![1; 500]).unwrap();
    expire(&stanza, &[full, later]);
    // The packs of the later one cannot be needed by it.
    assert_eq!(stored(&stanza), [(1, 1), (2, 1)]);
    expire(&stanza, &[child]);
    assert!(stored(&stanza).is_empty());
}

#[test]
fn epochs_are_never_given_out_twice() {
    let stanza = stanza();
    for _ in 0..3 {
        backup(&stanza, 1, &[]);
    }
    let all = ids(&stanza);
    let last = all[2];
    expire(&stanza, &all);
    expire(&stanza, &[]);
    expire(&stanza, &[]);
    assert!(begin(&stanza).id.epoch() > last.epoch());
    // Leases do not pile up.
    (0..5).for_each(|_| drop(expire(&stanza, &[])));
    let leases = lease::list(&stanza).unwrap();
    assert!(leases.len() <= 4, "{leases:?}");
}

#[test]
fn a_lease_that_fills_an_old_place_is_claimed_again() {
    let stanza = stanza();
    (0..3).for_each(|_| drop(begin(&stanza)));
    stanza.repository().store().delete(&key::lease(stanza.name(), 2)).unwrap();
    assert_eq!(begin(&stanza).id.epoch(), 4);
}

#[test]
fn a_backup_whose_wal_is_being_removed_or_gone_is_refused() {
    let stanza = stanza();
    let archive = stanza.wal(&stanza.records()[0]);
    let size = WalSegmentSize::try_from(1 << 20).unwrap();
    let name = |number| WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(number) };
    let put = |number: u64| {
        let start = size.start_of(SegmentNumber(number));
        let facts = WalFacts {
            system_identifier: 7,
            timeline: TimelineId::FIRST,
            segment_size: size,
            page_magic: 0xD116,
            start,
            end: start,
            first_commit_time: None,
            last_commit_time: None,
            commits: 0,
            records: 0,
            flags: 0,
        };
        let object = WalObject {
            name: WalFileName::Segment(name(number)),
            facts,
            bytes: &vec![1; 1 << 20],
            summary: b"",
            compression: Compression::default(),
        };
        archive.put(&object).unwrap();
    };
    (2..=5).for_each(put);
    let header = |first: u64, last: u64| ManifestHeader {
        start_lsn: Lsn(1),
        wal: crate::WalNeeded {
            first: name(first).file_name(size),
            last: name(last).file_name(size),
            ..crate::WalNeeded::default()
        },
        ..ManifestHeader::default()
    };
    let before = begin(&stanza).id;
    let range =
        WalRange { record: 1, timeline: TimelineId::FIRST, first: SegmentNumber(1), last: SegmentNumber(3) };
    let condemned = Condemned { wal: vec![range], ..Condemned::default() };
    let removal = stanza.condemn(condemned, &stanza.inventory().unwrap(), now(), &info()).unwrap();
    let after = begin(&stanza).id;
    stanza.refuse_unsafe_commit(before, &header(2, 5)).unwrap();
    stanza.refuse_unsafe_commit(after, &header(4, 5)).unwrap();
    let refused = stanza.refuse_unsafe_commit(after, &header(3, 5));
    assert!(matches!(refused, Err(RepoError::Removed { .. })));
    let wal: Vec<_> = (2..=5).map(|number| (1, WalFileName::Segment(name(number)))).collect();
    let steps = removal.steps(&stanza.inventory().unwrap(), &BTreeSet::new(), &BTreeSet::new(), &wal);
    assert!(steps.waiting_wal && steps.waiting_for.len() == 1);
    lease::end(&stanza, before.epoch());
    let steps = removal.steps(&stanza.inventory().unwrap(), &BTreeSet::new(), &BTreeSet::new(), &wal);
    assert_eq!(steps.steps.iter().filter(|step| matches!(step, RemovalStep::Wal(..))).count(), 2);
    steps.steps.iter().for_each(|step| stanza.remove(step).unwrap());
    assert_eq!(archive.list_segments(TimelineId::FIRST).unwrap(), [name(4), name(5)]);
    assert!(matches!(stanza.refuse_unsafe_commit(after, &header(3, 5)), Err(RepoError::Removed { .. })));
}

/// Somebody who removes: the steps that are left to do.
struct Remover {
    removal: Removal,
    steps: Option<Vec<RemovalStep>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_loses_a_pack_that_a_listed_backup_needs(
        actions in proptest::collection::vec((0_u8..12, any::<u8>(), any::<u8>()), 1..70),
    ) {
        let stanza = stanza();
        let mut writers: Vec<Writer> = Vec::new();
        let mut removers: Vec<Remover> = Vec::new();
        let mut held: BTreeMap<BackupId, ()> = BTreeMap::new();
        let first = backup(&stanza, 1, &[]);
        backup(&stanza, 1, &[first]);
        backup(&stanza, 1, &[]);
        for (action, one, two) in actions {
            let listed = ids(&stanza);
            let pick = |length: usize| usize::from(one) % length.max(1);
            match action {
                0 | 2 if writers.len() < 4 => {
                    let mut writer = begin(&stanza);
                    if !listed.is_empty() && one > 30 {
                        refer(&stanza, &mut writer, listed[usize::from(two) % listed.len()]);
                    }
                    if one % 4 == 0 {
                        resume(&stanza, &mut writer);
                    }
                    writers.push(writer);
                }
                1 if !writers.is_empty() => {
                    let index = pick(writers.len());
                    let writer = &mut writers[index];
                    if writer.header.is_none() {
                        write_pack(&stanza, writer);
                    }
                }
                3 if !writers.is_empty() => {
                    let index = pick(writers.len());
                    if ask(&stanza, &mut writers[index]).is_err() {
                        let writer = writers.remove(index);
                        lease::end(&stanza, writer.id.epoch());
                    }
                }
                4 | 5 if writers.iter().any(|writer| writer.header.is_some()) => {
                    let index = writers.iter().position(|writer| writer.header.is_some()).unwrap();
                    let writer = writers.remove(index);
                    prop_assert!(commit(&stanza, &writer));
                }
                // Killed, and known to be.
                6 if !writers.is_empty() && one > 128 => {
                    let writer = writers.remove(pick(writers.len()));
                    lease::end(&stanza, writer.id.epoch());
                }
                7 if removers.len() < 3 => {
                    let doomed = listed.iter().enumerate();
                    let doomed = doomed.filter(|(i, _)| two >> (i % 8) & 1 == 1).map(|(_, id)| *id).collect();
                    removers.push(Remover { removal: condemn(&stanza, &doomed), steps: None });
                }
                8 | 9 if !removers.is_empty() => {
                    let index = pick(removers.len());
                    let remover = &mut removers[index];
                    match &mut remover.steps {
                        None => {
                            let mut list = steps(&stanza, &remover.removal).steps;
                            list.reverse();
                            remover.steps = Some(list);
                        }
                        Some(list) => {
                            for _ in 0..=two % 4 {
                                if let Some(step) = list.pop() {
                                    stanza.remove(&step).unwrap();
                                    assert_complete(&stanza);
                                }
                            }
                            if list.is_empty() {
                                stanza.end_removal(&remover.removal);
                                removers.remove(index);
                            }
                        }
                    }
                }
                // Killed between two steps.
                10 if !removers.is_empty() && one > 128 => {
                    let remover = removers.remove(pick(removers.len()));
                    stanza.end_removal(&remover.removal);
                }
                11 if !listed.is_empty() => {
                    let id = listed[pick(listed.len())];
                    if two > 128 {
                        if stanza.hold(id, "", now()).is_ok() {
                            held.insert(id, ());
                        }
                    } else {
                        stanza.release(id).unwrap();
                        held.remove(&id);
                    }
                }
                _ => {}
            }
            assert_complete(&stanza);
            let listed = ids(&stanza);
            prop_assert!(held.keys().all(|id| listed.contains(id)), "a held backup is gone");
        }
        // Whoever is left stops; then nothing stays but what a backup needs.
        for writer in &writers {
            lease::end(&stanza, writer.id.epoch());
        }
        for remover in &removers {
            stanza.end_removal(&remover.removal);
        }
        let last = backup(&stanza, 1, &[]);
        let before = ids(&stanza);
        expire(&stanza, &[]);
        expire(&stanza, &[]);
        assert_complete(&stanza);
        prop_assert_eq!(ids(&stanza), before.clone());
        let inventory = stanza.inventory().unwrap();
        prop_assert!(inventory.rubbish(&BTreeSet::new()).is_empty());
        prop_assert!(inventory.running().is_empty());
        prop_assert!(inventory.condemned.is_empty(), "{:?}", inventory.condemned);
        let all: Vec<BackupId> = before.into_iter().filter(|id| !held.contains_key(id)).collect();
        expire(&stanza, &all);
        if held.is_empty() {
            prop_assert!(stored(&stanza).is_empty());
        } else {
            assert_complete(&stanza);
        }
        prop_assert!(last.epoch() > 0);
    }
}
