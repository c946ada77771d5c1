//! Removing backups, packs and WAL so that nothing that any backup needs is lost, whoever writes at the same time and
//! wherever the process dies. `docs/design/0007-two-phase-deletion.md` has the argument.
//!
//! 1. [`Stanza::condemn`] publishes what is to go and claims an epoch, the *boundary*.
//! 2. The caller waits the grace time and takes a new [`Inventory`].
//! 3. [`Removal::steps`] lists what may go by then, in an order that is safe to be cut off anywhere: manifests first, then
//!    packs that no manifest lists, then WAL, oldest first. Packs and WAL wait for every writer below the boundary; what is
//!    left stays condemned, and the next run goes on.
//! 4. [`Stanza::remove`] does one step; doing one twice changes nothing.
//!
//! An inventory is read in an order that matters: packs and published lists before leases, so that a pack of a running backup,
//! or a list that somebody works on, is never seen without its lease; leases before manifests, so that a writer that is seen
//! to have stopped has its manifest seen, too.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgkeep_format::{SegmentNumber, TimelineId, WalFileName};

use crate::condemnation::{self, Condemned, Found, PackName, WalRange};
use crate::dump::DumpInventory;
use crate::error::Result;
use crate::hold::Hold;
use crate::lease::{self, Lease, LeaseInfo};
use crate::manifest::ManifestHeader;
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, key};

/// A pack that lies in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPack {
    /// Its name.
    pub name: PackName,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a pack that no manifest lists stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnlistedPack {
    /// The backup that wrote it may be running.
    Running,
    /// The backup that wrote it was interrupted, and no later one is complete: the next one may take the pack over.
    Resumable,
    /// This backup cannot be read, and may need it.
    MayBeNeededBy(BackupId),
    /// Nothing needs it.
    Rubbish,
}

/// All that decides what may be removed, read at one time.
#[derive(Debug)]
pub struct Inventory {
    /// Packs, in order.
    pub packs: Vec<StoredPack>,
    /// WAL files kept with backups: the backup, the name, the size.
    tails: Vec<(BackupId, String, u64)>,
    /// Everything in the folder of backups, whatever is left of it.
    folders: Vec<BackupId>,
    leases: Vec<Lease>,
    condemned: Vec<Found>,
    /// Dumps.
    pub dumps: DumpInventory,
    fences: BTreeSet<u32>,
    /// Backups that are held.
    pub holds: BTreeMap<BackupId, Hold>,
    /// Manifests that can be read, by backup.
    pub backups: BTreeMap<BackupId, ManifestHeader>,
    /// Manifests that cannot be read, with the reason.
    pub unreadable: BTreeMap<BackupId, RepoError>,
}

impl Inventory {
    /// Leases of backups that may still be running.
    #[must_use]
    pub fn running(&self) -> Vec<&Lease> {
        self.leases.iter().filter(|lease| lease.is_of_backup() && !self.is_settled(lease)).collect()
    }

    /// Leases of backups and dumps that may still be running.
    fn open_leases(&self) -> Vec<&Lease> {
        let writes = |lease: &&Lease| lease.is_of_backup() || lease.is_of_dump();
        self.leases.iter().filter(|lease| writes(lease) && !self.is_settled(lease)).collect()
    }

    fn open_epochs(&self) -> BTreeSet<u32> {
        self.open_leases().iter().map(|lease| lease.epoch).collect()
    }

    /// Leases of dumps that may still be running.
    #[must_use]
    pub fn running_dumps(&self) -> Vec<&Lease> {
        self.open_leases().into_iter().filter(|lease| lease.is_of_dump()).collect()
    }

    /// The packs of dumps that nothing needs when the manifests of `doomed` are gone.
    #[must_use]
    pub fn dump_rubbish(&self, doomed: &BTreeSet<BackupId>) -> Vec<StoredPack> {
        self.dumps.rubbish(doomed, &self.open_epochs())
    }

    /// Whether nothing will ever be written under a lease any more.
    fn is_settled(&self, lease: &Lease) -> bool {
        lease.is_over || self.has_manifest(lease.epoch)
    }

    fn has_manifest(&self, epoch: u32) -> bool {
        // Ids are ordered by their epochs, and no two share one.
        let of_epoch = BackupId::new(epoch, Timestamp::MIN)..=BackupId::new(epoch, Timestamp::MAX);
        self.backups.range(of_epoch.clone()).next().is_some()
            || self.unreadable.range(of_epoch).next().is_some()
            || self.dumps.has_epoch(epoch)
    }

    /// What to think of a pack that no manifest but those of `doomed` lists; none for a pack that is listed.
    #[must_use]
    pub fn unlisted(&self, doomed: &BTreeSet<BackupId>) -> Vec<(StoredPack, UnlistedPack)> {
        let listed: BTreeSet<PackName> = self
            .backups
            .iter()
            .filter(|(id, _)| !doomed.contains(id))
            .flat_map(|(_, header)| &header.packs)
            .map(|pack| PackName { backup: pack.backup, number: pack.number })
            .collect();
        let open: BTreeMap<u32, &Lease> = self.running().into_iter().map(|l| (l.epoch, l)).collect();
        let newest = self.backups.keys().next_back().map(|id| id.epoch());
        let leased: BTreeSet<u32> = self.leases.iter().map(|lease| lease.epoch).collect();
        let judge = |pack: &StoredPack| {
            let epoch = pack.name.backup.epoch();
            if open.contains_key(&epoch) {
                return UnlistedPack::Running;
            }
            // A backup refers to packs of its own and older epochs only.
            let unreadable = self.unreadable.keys().find(|id| id.epoch() >= epoch && !doomed.contains(id));
            if let Some(id) = unreadable {
                return UnlistedPack::MayBeNeededBy(*id);
            }
            let was_interrupted = leased.contains(&epoch) && !self.has_manifest(epoch);
            if was_interrupted && newest.is_none_or(|newest| newest < epoch) {
                return UnlistedPack::Resumable;
            }
            UnlistedPack::Rubbish
        };
        self.packs
            .iter()
            .filter(|pack| !listed.contains(&pack.name))
            .map(|pack| (*pack, judge(pack)))
            .collect()
    }

    /// The packs that nothing needs when the manifests of `doomed` are gone.
    #[must_use]
    pub fn rubbish(&self, doomed: &BTreeSet<BackupId>) -> Vec<StoredPack> {
        let unlisted = self.unlisted(doomed).into_iter();
        unlisted.filter(|(_, why)| *why == UnlistedPack::Rubbish).map(|(pack, _)| pack).collect()
    }

    /// Backups that were said to go and whose manifests are gone: who removed them may have been killed before that was
    /// durable.
    fn removed_before(&self) -> impl Iterator<Item = BackupId> {
        let named = self.condemned.iter().filter_map(|found| found.condemned.as_ref());
        let backups = named.flat_map(|condemned| condemned.backups.iter().copied());
        backups.filter(|id| !self.backups.contains_key(id) && !self.unreadable.contains_key(id))
    }

    /// Whether an earlier removal was not finished.
    #[must_use]
    pub fn has_leftovers(&self) -> bool {
        !self.condemned.is_empty()
    }

    /// What can be cleaned up without saying so before: leases that are over, and what their backups left besides packs.
    #[must_use]
    pub fn tidying(&self) -> Vec<RemovalStep> {
        let with_packs: BTreeSet<BackupId> = self.packs.iter().map(|pack| pack.name.backup).collect();
        let stale: Vec<u32> = self.stale_leases(u32::MAX).map(|lease| lease.epoch).collect();
        let folders = self.folders.iter().filter(|id| {
            stale.contains(&id.epoch()) && !self.has_manifest(id.epoch()) && !with_packs.contains(id)
        });
        let folders = folders.map(|id| RemovalStep::Folder(*id));
        let dumps = self.dumps.empty_folders(&self.open_epochs()).into_iter().map(RemovalStep::DumpFolder);
        folders.chain(dumps).chain(stale.iter().map(|epoch| RemovalStep::Lease(*epoch))).collect()
    }

    /// Leases that nobody has to look at any more; the newest lease stays, so that no epoch is given out twice.
    fn stale_leases(&self, below: u32) -> impl Iterator<Item = &Lease> {
        let newest = self.leases.last().map_or(0, |lease| lease.epoch);
        let packs = self.packs.iter().chain(&self.dumps.packs);
        let with_packs: BTreeSet<u32> = packs.map(|pack| pack.name.backup.epoch()).collect();
        self.leases.iter().filter(move |lease| {
            // A lease of an interrupted backup says that its packs may be taken over; it goes after them.
            let is_committed = self.has_manifest(lease.epoch);
            let is_needed = !is_committed && with_packs.contains(&lease.epoch);
            let names_something =
                lease.removes.as_ref().is_some_and(|name| self.condemned.iter().any(|c| c.name == *name));
            lease.epoch < newest.min(below) && self.is_settled(lease) && !is_needed && !names_something
        })
    }
}

/// One thing to remove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemovalStep {
    /// The manifest of a backup: from then on it does not exist.
    Manifest(BackupId),
    /// Nothing goes: from here on these manifests stay removed, whatever happens to the machine.
    Flush(Vec<BackupId>),
    /// A WAL file that was kept with a backup: its name, and its size in bytes.
    Tail(BackupId, String, u64),
    /// A pack, and its size in bytes.
    Pack(PackName, u64),
    /// What a local directory keeps of the folder of a backup of which nothing is left.
    Folder(BackupId),
    /// A WAL file of the archive of a cluster, by the sequence of its record.
    Wal(u32, WalFileName),
    /// The manifest of a dump: from then on it does not exist.
    DumpManifest(BackupId),
    /// Nothing goes: from here on these manifests of dumps stay removed.
    DumpFlush(Vec<BackupId>),
    /// A pack of a dump, and its size in bytes.
    DumpPack(PackName, u64),
    /// What a local directory keeps of the folder of a dump of which nothing is left.
    DumpFolder(BackupId),
    /// A lease that is over.
    Lease(u32),
    /// The list of what was to be removed, when all of it is.
    Condemnation(String),
}

/// What may be done by now.
#[derive(Debug, Default)]
pub struct RemovalSteps {
    /// In this order.
    pub steps: Vec<RemovalStep>,
    /// Packs that have to wait, and their size in bytes.
    pub waiting_packs: u64,
    /// See `waiting_packs`.
    pub waiting_bytes: u64,
    /// Whether WAL has to wait.
    pub waiting_wal: bool,
    /// Who is waited for.
    pub waiting_for: Vec<Lease>,
}

/// A removal that is published.
#[derive(Debug)]
pub struct Removal {
    name: String,
    /// Its leases; the second is the boundary.
    epochs: [u32; 2],
    condemned: Condemned,
    /// Packs that no manifest listed when this was published.
    unlisted_before: BTreeSet<PackName>,
}

impl Stanza {
    /// Reads all that decides what may be removed.
    ///
    /// # Errors
    /// When the storage fails. A manifest whose bytes are wrong is part of the inventory; one that cannot be fetched is an
    /// error, for the storage may only be out of reach.
    pub fn inventory(&self) -> Result<Inventory> {
        let store = self.repository().store();
        let folder = format!("{}/backup", self.name());
        let folders = self.backup_ids()?;
        let (mut packs, mut tails) = (Vec::new(), Vec::new());
        for object in store.list(&folder)? {
            let Some(rest) = object.key.get(folder.len() + 1..) else { continue };
            let Some((id, rest)) = rest.split_once('/') else { continue };
            let Ok(backup) = id.parse::<BackupId>() else { continue };
            if let Some(number) = key::parse_pack(rest) {
                packs.push(StoredPack { name: PackName { backup, number }, size: object.size });
            } else if let Some(name) = rest.strip_prefix("wal/") {
                tails.push((backup, name.to_owned(), object.size));
            }
        }
        packs.sort_by_key(|pack| pack.name);
        let mut dumps = DumpInventory::load_packs(self)?;
        let condemned = condemnation::list(self)?;
        let mut leases = lease::list(self)?;
        let writes = |lease: &&mut Lease| lease.is_of_backup() || lease.is_of_dump();
        for lease in leases.iter_mut().filter(writes).filter(|lease| !lease.is_over) {
            lease.is_over = lease::is_void(self, &lease.manifest_key(self))?;
        }
        let names = store.list_names(&format!("{}/expire", self.name()))?;
        let fences = names.iter().filter_map(|name| key::parse_sequence(name, 10)).collect();
        let holds = self.holds()?;
        let (mut backups, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for listing in self.backups()? {
            match listing.header {
                Ok(header) => drop(backups.insert(listing.id, header)),
                Err(error @ (RepoError::Corrupt { .. } | RepoError::NewerFormat { .. })) => {
                    unreadable.insert(listing.id, error);
                }
                Err(error) => return Err(error),
            }
        }
        dumps.load_manifests(self)?;
        Ok(Inventory { dumps, packs, tails, folders, leases, condemned, fences, holds, backups, unreadable })
    }

    /// Publishes what is to be removed. Nothing is removed yet.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn condemn(
        &self,
        condemned: Condemned,
        inventory: &Inventory,
        now: Timestamp,
        info: &LeaseInfo,
    ) -> Result<Removal> {
        let (name, epochs) = condemnation::publish(self, &condemned, now, info)?;
        let unlisted = inventory.unlisted(&BTreeSet::new());
        let unlisted_before = unlisted.into_iter().map(|(pack, _)| pack.name).collect();
        Ok(Removal { name, epochs, condemned, unlisted_before })
    }

    /// Gives up the backups whose leases are open and were claimed before `before`, by publishing a fence. Those below which
    /// a younger one may be running stay. Which ones; [`Stanza::void_given_up`] makes it final after the grace time.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn give_up_older(
        &self,
        inventory: &Inventory,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Lease>> {
        let running = inventory.open_leases().into_iter();
        // Of a lease that cannot be understood the age is not known.
        let is_old = |lease: &&Lease| lease.info.is_some() && lease.claimed < before;
        let given_up: Vec<Lease> = running.take_while(is_old).cloned().collect();
        if let Some(last) = given_up.last()
            && inventory.fences.last().is_none_or(|fence| *fence < last.epoch)
        {
            lease::fence(self, last.epoch, now)?;
        }
        Ok(given_up)
    }

    /// Takes the place of the manifests of backups that were given up, so that their writers cannot commit even if they were
    /// only asleep. One that was committed meanwhile stays.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn void_given_up(&self, leases: &[Lease]) -> Result<()> {
        leases.iter().try_for_each(|lease| lease::void(self, &lease.manifest_key(self)).map(drop))
    }

    /// Does one step. What is gone already is no error.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn remove(&self, step: &RemovalStep) -> Result<()> {
        let store = self.repository().store();
        match step {
            RemovalStep::Manifest(id) => {
                // A lease without a manifest would look like a backup that is running.
                self.remove_lease(id.epoch())?;
                store.delete(&key::manifest(self.name(), *id))
            }
            // Before any pack goes: a power failure must not bring back a backup without its packs.
            RemovalStep::Flush(ids) => {
                let manifests: Vec<String> = ids.iter().map(|id| key::manifest(self.name(), *id)).collect();
                store.flush_removals(&manifests)
            }
            RemovalStep::Tail(id, name, _) => store.delete(&key::backup_wal(self.name(), *id, name)),
            RemovalStep::Pack(pack, _) => store.delete(&key::pack(self.name(), pack.backup, pack.number)),
            RemovalStep::Folder(id) => {
                store.clear_folder(&format!("{}/backup/{id}/wal", self.name()));
                store.clear_folder(&format!("{}/backup/{id}", self.name()));
                Ok(())
            }
            RemovalStep::Wal(record, name) => {
                let record = self.records().iter().find(|known| known.sequence == *record);
                record.map_or(Ok(()), |record| store.delete(&self.wal(record).key(*name)))
            }
            RemovalStep::DumpManifest(id) => {
                self.remove_lease(id.epoch())?;
                store.delete(&key::dump_manifest(self.name(), *id))
            }
            RemovalStep::DumpFlush(ids) => {
                let manifests: Vec<String> =
                    ids.iter().map(|id| key::dump_manifest(self.name(), *id)).collect();
                store.flush_removals(&manifests)
            }
            RemovalStep::DumpPack(pack, _) => {
                store.delete(&key::dump_pack(self.name(), pack.backup, pack.number))
            }
            RemovalStep::DumpFolder(id) => {
                store.clear_folder(&format!("{}/{id}", key::dumps(self.name())));
                Ok(())
            }
            RemovalStep::Lease(epoch) => self.remove_lease(*epoch),
            RemovalStep::Condemnation(name) => store.delete(&key::condemned(self.name(), name)),
        }
    }

    fn remove_lease(&self, epoch: u32) -> Result<()> {
        let store = self.repository().store();
        store.delete(&key::lease(self.name(), epoch))?;
        store.delete(&key::lease_end(self.name(), epoch))
    }

    /// Notes that this WAL is removed on purpose, so that its absence between other WAL is not taken for a loss.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn note_removed_wal(&self, range: &WalRange) -> Result<()> {
        self.repository().store().put_new(&self.removed_wal_key(range), b"{}".to_vec()).map(drop)
    }

    /// The WAL that was noted as removed on purpose.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn removed_wal(&self) -> Result<Vec<WalRange>> {
        let names = self.repository().store().list_names(&format!("{}/expire", self.name()))?;
        let range = |name: &String| {
            let (record, timeline, [first, last]) = key::parse_removed_wal(name)?;
            let timeline = TimelineId::new(timeline)?;
            Some(WalRange { record, timeline, first: SegmentNumber(first), last: SegmentNumber(last) })
        };
        Ok(names.iter().filter_map(range).collect())
    }

    /// Forgets a note, when there is nothing before that WAL any more.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn forget_removed_wal(&self, range: &WalRange) -> Result<()> {
        self.repository().store().delete(&self.removed_wal_key(range))
    }

    fn removed_wal_key(&self, range: &WalRange) -> String {
        key::removed_wal(self.name(), range.record, range.timeline.get(), [range.first.0, range.last.0])
    }

    /// Says that a removal stopped, finished or not, so that others need not wait for it.
    pub fn end_removal(&self, removal: &Removal) {
        removal.epochs.iter().for_each(|epoch| lease::end(self, *epoch));
    }
}

impl Removal {
    /// What was published.
    #[must_use]
    pub fn condemned(&self) -> &Condemned {
        &self.condemned
    }

    /// What may be removed by now. `now` is an inventory that was taken after this was published; `doomed`, `dumps` and
    /// `wal` are what the caller still wants removed when it looks at that inventory. Only what was published goes, and no backup
    /// that is held.
    #[must_use]
    pub fn steps(
        &self,
        now: &Inventory,
        doomed: &BTreeSet<BackupId>,
        dumps: &BTreeSet<BackupId>,
        wal: &[(u32, WalFileName)],
    ) -> RemovalSteps {
        let doomed: BTreeSet<BackupId> = doomed
            .iter()
            .copied()
            .filter(|id| self.condemned.backups.contains(id) && !now.holds.contains_key(id))
            .collect();
        let mut out = RemovalSteps::default();
        out.steps.extend(doomed.iter().copied().map(RemovalStep::Manifest));
        let flushed: BTreeSet<BackupId> = doomed.iter().copied().chain(now.removed_before()).collect();
        if !flushed.is_empty() {
            out.steps.push(RemovalStep::Flush(flushed.into_iter().collect()));
        }
        let own_boundary = self.epochs[1];
        let waited_for: Vec<&Lease> =
            now.running().into_iter().filter(|lease| lease.epoch < own_boundary).collect();
        let boundaries: Vec<(&Found, u32)> =
            now.condemned.iter().filter_map(|found| Some((found, found.boundary(&now.leases)?))).collect();
        let may_go = |pack: PackName| {
            // An earlier list has kept younger writers from the pack for longer, if nothing listed it since.
            let earlier = boundaries.iter().filter(|(found, _)| {
                self.unlisted_before.contains(&pack)
                    && found.condemned.as_ref().is_some_and(|condemned| condemned.packs.contains(&pack))
            });
            let boundary = earlier.map(|(_, boundary)| *boundary).chain([own_boundary]).min();
            !waited_for.iter().any(|lease| boundary.is_some_and(|boundary| lease.epoch < boundary))
        };
        let rubbish = now.rubbish(&doomed).into_iter();
        let (go, wait): (Vec<_>, Vec<_>) = rubbish
            .filter(|pack| self.condemned.packs.contains(&pack.name))
            .partition(|pack| may_go(pack.name));
        let gone: BTreeSet<PackName> = go.iter().map(|pack| pack.name).collect();
        let left: BTreeSet<BackupId> =
            now.packs.iter().filter(|pack| !gone.contains(&pack.name)).map(|p| p.name.backup).collect();
        let (steps, emptied) = self.folder_steps(now, &doomed, &left);
        out.steps.extend(steps);
        out.steps.extend(go.iter().map(|pack| RemovalStep::Pack(pack.name, pack.size)));
        out.steps.extend(emptied.into_iter().map(RemovalStep::Folder));
        out.waiting_packs = wait.len() as u64;
        out.waiting_bytes = wait.iter().map(|pack| pack.size).sum();
        let condemned_wal = |record: u32, name: WalFileName| {
            let segment = match name {
                WalFileName::Segment(segment) | WalFileName::Partial(segment) => segment,
                WalFileName::BackupHistory { segment, .. } => segment,
                WalFileName::TimelineHistory(_) => return false,
            };
            let ranges = self.condemned.wal.iter().filter(|range| range.record == record);
            ranges.into_iter().any(|range| range.contains(segment.timeline, segment.number))
        };
        let wal = wal.iter().copied().filter(|(record, name)| condemned_wal(*record, *name));
        let mut wal: Vec<(u32, WalFileName)> = wal.collect();
        wal.sort();
        out.waiting_wal = !wal.is_empty() && !waited_for.is_empty();
        if waited_for.is_empty() {
            out.steps.extend(wal.into_iter().map(|(record, name)| RemovalStep::Wal(record, name)));
        }
        out.steps.extend(self.dump_steps(now, dumps));
        let is_waiting = !wait.is_empty() || out.waiting_wal;
        out.steps.extend(self.closing_steps(now, is_waiting, &gone));
        if is_waiting {
            out.waiting_for = waited_for.into_iter().cloned().collect();
        }
        out
    }

    /// Dumps, and the packs of those that are gone.
    fn dump_steps(&self, now: &Inventory, dumps: &BTreeSet<BackupId>) -> Vec<RemovalStep> {
        let goes = |id: &BackupId| self.condemned.dumps.contains(id) && !now.holds.contains_key(id);
        let doomed: BTreeSet<BackupId> = dumps.iter().copied().filter(goes).collect();
        let mut rubbish = now.dump_rubbish(&doomed);
        rubbish.retain(|pack| self.condemned.dump_packs.contains(&pack.name));
        let named = now.condemned.iter().filter_map(|found| found.condemned.as_ref());
        let before = named.flat_map(|condemned| condemned.dumps.iter().copied());
        now.dumps.steps(&doomed, &rubbish, before.filter(|id| !now.dumps.exists(*id)))
    }

    /// WAL that was kept with backups that are gone, and the folders of which nothing is left then.
    fn folder_steps(
        &self,
        now: &Inventory,
        doomed: &BTreeSet<BackupId>,
        with_packs: &BTreeSet<BackupId>,
    ) -> (Vec<RemovalStep>, Vec<BackupId>) {
        let open: BTreeSet<u32> = now.running().iter().map(|lease| lease.epoch).collect();
        let has_manifest = |id: &BackupId| now.backups.contains_key(id) || now.unreadable.contains_key(id);
        let is_dead =
            |id: &BackupId| (!has_manifest(id) || doomed.contains(id)) && !open.contains(&id.epoch());
        let steps = now
            .tails
            .iter()
            .filter(|(id, ..)| is_dead(id))
            .map(|(id, name, size)| RemovalStep::Tail(*id, name.clone(), *size))
            .collect();
        // What an interrupted backup leaves besides whole packs is not listed, but is in its folder.
        let leased: BTreeSet<u32> = now.leases.iter().map(|lease| lease.epoch).collect();
        let was_interrupted = |id: &BackupId| leased.contains(&id.epoch()) && !has_manifest(id);
        let known = now.folders.iter().chain(doomed).copied().collect::<BTreeSet<BackupId>>();
        let emptied = known
            .into_iter()
            .filter(|id| is_dead(id) && (!with_packs.contains(id) || was_interrupted(id)))
            .collect();
        (steps, emptied)
    }

    /// Leases that are over, and lists whose owners have stopped and of which nothing is left to do.
    fn closing_steps(
        &self,
        now: &Inventory,
        is_waiting: bool,
        gone: &BTreeSet<PackName>,
    ) -> Vec<RemovalStep> {
        let mut steps: Vec<RemovalStep> =
            now.stale_leases(self.epochs[0]).map(|lease| RemovalStep::Lease(lease.epoch)).collect();
        if is_waiting {
            return steps;
        }
        let listed: BTreeSet<PackName> = now
            .backups
            .values()
            .flat_map(|header| &header.packs)
            .map(|pack| PackName { backup: pack.backup, number: pack.number })
            .collect();
        let stored: BTreeSet<PackName> = now.packs.iter().map(|pack| pack.name).collect();
        for found in &now.condemned {
            let has_stopped = found.owners(&now.leases).all(|lease| lease.is_over);
            // Somebody else may rely on the list to keep young writers from a pack that is still there.
            let is_done = found.condemned.as_ref().is_none_or(|condemned| {
                condemned
                    .packs
                    .iter()
                    .all(|pack| gone.contains(pack) || !stored.contains(pack) || listed.contains(pack))
            });
            if found.name == self.name || (has_stopped && is_done) {
                steps.push(RemovalStep::Condemnation(found.name.clone()));
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests;
