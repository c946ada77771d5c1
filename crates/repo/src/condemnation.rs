//! What is going to be removed, published before it is: `<stanza>/expire/condemned-<random>.json`.
//!
//! After the object is stored, its owner claims a lease that names it, the *boundary*. So everybody whose epoch is larger can
//! see the object, and must not begin to refer to anything in it; everybody whose epoch is smaller may have looked before,
//! and is waited for ([`crate::removal`]). An earlier lease of the owner names it too, so that a list whose owner was killed
//! before it had a boundary can be told from one that is being published. [`Stanza::refuse_unsafe_commit`] is the writer's side. The whole argument is in
//! `docs/design/0007-two-phase-deletion.md`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgkeep_format::{SegmentNumber, TimelineId, WalFileName, WalSegmentName};
use serde::{Deserialize, Serialize};

use crate::digest::{random, to_hex};
use crate::error::Result;
use crate::lease::{self, Lease, LeaseInfo};
use crate::manifest::ManifestHeader;
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, key};

/// A pack by the backup that wrote it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackName {
    /// The backup that wrote it.
    pub backup: BackupId,
    /// Its number there, from 1.
    pub number: u32,
}

/// Consecutive segments of one timeline of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WalRange {
    /// The cluster, by its sequence in the history of the stanza.
    pub record: u32,
    /// The timeline.
    pub timeline: TimelineId,
    /// The first segment.
    pub first: SegmentNumber,
    /// The last one, itself included.
    pub last: SegmentNumber,
}

impl WalRange {
    /// Whether the two have a segment in common.
    #[must_use]
    pub fn meets(&self, other: &WalRange) -> bool {
        (self.record, self.timeline) == (other.record, other.timeline)
            && self.first <= other.last
            && other.first <= self.last
    }

    /// Whether a segment of this cluster and timeline lies in it.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, number: SegmentNumber) -> bool {
        self.timeline == timeline && self.first <= number && number <= self.last
    }
}

/// What somebody is going to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// Backups, by their manifests.
    #[serde(default)]
    pub backups: BTreeSet<BackupId>,
    /// Packs, whoever wrote them.
    #[serde(default)]
    pub packs: BTreeSet<PackName>,
    /// WAL.
    #[serde(default)]
    pub wal: Vec<WalRange>,
    /// Dumps, by their manifests.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dumps: BTreeSet<BackupId>,
    /// Packs of dumps.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dump_packs: BTreeSet<PackName>,
}

impl Condemned {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty()
            && self.packs.is_empty()
            && self.wal.is_empty()
            && self.dumps.is_empty()
            && self.dump_packs.is_empty()
    }
}

/// A condemnation as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// None where it cannot be understood: then it may name anything.
    pub(crate) condemned: Option<Condemned>,
}

impl Found {
    pub(crate) fn names_backup(&self, id: BackupId) -> bool {
        let named = |condemned: &Condemned| condemned.backups.contains(&id) || condemned.dumps.contains(&id);
        self.condemned.as_ref().is_none_or(named)
    }

    fn names_pack(&self, pack: PackName) -> bool {
        self.condemned.as_ref().is_none_or(|condemned| condemned.packs.contains(&pack))
    }

    fn meets_wal(&self, range: &WalRange) -> bool {
        self.condemned.as_ref().is_none_or(|condemned| condemned.wal.iter().any(|wal| wal.meets(range)))
    }

    /// The epoch of the lease that names it: leases above it are younger than the condemnation.
    pub(crate) fn boundary(&self, leases: &[Lease]) -> Option<u32> {
        self.owners(leases).find(|lease| lease.is_boundary).map(|lease| lease.epoch)
    }

    /// The leases of whoever published it.
    pub(crate) fn owners<'a>(&'a self, leases: &'a [Lease]) -> impl Iterator<Item = &'a Lease> {
        leases.iter().filter(|lease| lease.removes.as_ref() == Some(&self.name))
    }
}

/// Publishes what is going to be removed: a lease, the list, the lease that is its boundary. Returns the name of the list,
/// and the epochs of the leases.
pub(crate) fn publish(
    stanza: &Stanza,
    condemned: &Condemned,
    now: Timestamp,
    info: &LeaseInfo,
) -> Result<(String, [u32; 2])> {
    let json = serde_json::to_vec(condemned)
        .map_err(|e| RepoError::unrepresentable(format!("a list of what is to be removed: {e}")))?;
    let name = to_hex(&random::<8>()?);
    let info = LeaseInfo { verb: lease::EXPIRE.to_owned(), ..info.clone() };
    let owner = lease::claim_for(stanza, now, &info, Some(&name), false)?;
    let key = key::condemned(stanza.name(), &name);
    if !stanza.repository().store().put_new(&key, json)? {
        return Err(RepoError::AlreadyExists { key });
    }
    let boundary = lease::claim_for(stanza, now, &info, Some(&name), true)?;
    Ok((name, [owner, boundary]))
}

/// All condemnations.
pub(crate) fn list(stanza: &Stanza) -> Result<Vec<Found>> {
    let store = stanza.repository().store();
    let mut found = Vec::new();
    for entry in store.list_names(&format!("{}/expire", stanza.name()))? {
        let Some(name) = key::parse_condemned(&entry) else { continue };
        // One that went away meanwhile is done.
        let Some(bytes) = store.get_optional(&key::condemned(stanza.name(), name))? else { continue };
        found.push(Found { name: name.to_owned(), condemned: serde_json::from_slice(&bytes).ok() });
    }
    Ok(found)
}

impl Stanza {
    /// What a writer asks right before it stores its manifest: may this backup still be committed? Not where it was
    /// declared abandoned, nor where a pack of another backup or WAL that it needs is being removed or gone.
    ///
    /// Whoever removes things waits for the writers that may have asked before it published what it removes. So the answer
    /// holds until the manifest is stored, however long that takes.
    ///
    /// # Errors
    /// [`RepoError::Fenced`], [`RepoError::Removed`], or when the storage fails.
    pub fn refuse_unsafe_commit(&self, id: BackupId, header: &ManifestHeader) -> Result<()> {
        lease::refuse_fenced(self, id)?;
        let packs: BTreeSet<PackName> = header
            .packs
            .iter()
            .filter(|pack| pack.backup != id)
            .map(|pack| PackName { backup: pack.backup, number: pack.number })
            .collect();
        let wal = wal_of(self, header);
        // First what is condemned, then what is there: a condemnation goes away only after what it named.
        self.refuse_condemned(id, &packs, wal.as_ref())?;
        self.require_packs(id, &packs)?;
        match wal {
            Some(range) => self.require_wal(id, &range, &header.wal_tail),
            None => Ok(()),
        }
    }

    /// The packs that a backup with this id must not begin to refer to. A writer that chooses a parent, or that takes over
    /// what an interrupted backup left, asks after it claimed its epoch.
    ///
    /// # Errors
    /// When the storage fails, or where a condemnation cannot be understood.
    pub fn condemned_packs(&self, id: BackupId) -> Result<BTreeSet<PackName>> {
        let found = list(self)?;
        let mut packs = BTreeSet::new();
        if found.is_empty() {
            return Ok(packs);
        }
        let leases = lease::list(self)?;
        for found in found.iter().filter(|f| f.boundary(&leases).is_some_and(|b| b < id.epoch())) {
            let Some(condemned) = &found.condemned else {
                let key = key::condemned(self.name(), &found.name);
                return Err(RepoError::corrupt(key, 0, "it is not a list of what is to be removed"));
            };
            packs.extend(condemned.packs.iter().copied());
        }
        Ok(packs)
    }

    fn refuse_condemned(
        &self,
        id: BackupId,
        packs: &BTreeSet<PackName>,
        wal: Option<&WalRange>,
    ) -> Result<()> {
        let mut leases = None;
        for found in list(self)? {
            let pack = packs.iter().find(|pack| found.names_pack(**pack));
            let range = wal.filter(|range| found.meets_wal(range));
            let Some(key) = pack
                .map(|pack| key::pack(self.name(), pack.backup, pack.number))
                .or_else(|| range.map(|range| key::wal_timeline(self.name(), range.record, range.timeline)))
            else {
                continue;
            };
            let leases = match &mut leases {
                Some(leases) => leases,
                none => none.insert(lease::list(self)?),
            };
            // Whoever removes it waits for this backup if this backup is older, and then sees its manifest.
            if found.boundary(leases).is_some_and(|boundary| boundary < id.epoch()) {
                let by = key::condemned(self.name(), &found.name);
                return Err(RepoError::Removed { id, key, why: format!("which is being removed by `{by}`") });
            }
        }
        Ok(())
    }

    fn require_packs(&self, id: BackupId, packs: &BTreeSet<PackName>) -> Result<()> {
        let mut numbers: BTreeMap<BackupId, BTreeSet<u32>> = BTreeMap::new();
        for pack in packs {
            numbers.entry(pack.backup).or_default().insert(pack.number);
        }
        for (backup, numbers) in numbers {
            let names = self.repository().store().list_names(&format!("{}/backup/{backup}", self.name()))?;
            let present: BTreeSet<u32> = names.iter().filter_map(|name| key::parse_pack(name)).collect();
            if let Some(lost) = numbers.difference(&present).next() {
                return Err(gone(id, key::pack(self.name(), backup, *lost)));
            }
        }
        Ok(())
    }

    fn require_wal(&self, id: BackupId, range: &WalRange, tail: &[String]) -> Result<()> {
        let Some(record) = self.records().iter().find(|record| record.sequence == range.record) else {
            return Ok(());
        };
        let archive = self.wal(record);
        let mut folder = (String::new(), BTreeSet::new());
        for number in range.first.0..=range.last.0 {
            let segment = WalSegmentName { timeline: range.timeline, number: SegmentNumber(number) };
            let name = segment.file_name(archive.segment_size());
            let key = archive.key(WalFileName::Segment(segment));
            let Some((group, _)) = key.rsplit_once('/') else { continue };
            if folder.0 != group {
                let names = self.repository().store().list_names(group)?;
                folder = (group.to_owned(), names.into_iter().collect());
            }
            if !folder.1.contains(&name) && !tail.contains(&name) {
                return Err(gone(id, key));
            }
        }
        Ok(())
    }
}

fn gone(id: BackupId, key: String) -> RepoError {
    RepoError::Removed { id, key, why: "which is not there any more".to_owned() }
}

/// The WAL that makes a backup consistent, as its manifest names it.
fn wal_of(stanza: &Stanza, header: &ManifestHeader) -> Option<WalRange> {
    let record = stanza.records().iter().find(|record| record.sequence == header.record)?;
    let size = stanza.wal(record).segment_size();
    let first = WalSegmentName::parse(&header.wal.first, size)?;
    let last = WalSegmentName::parse(&header.wal.last, size)?;
    (first.timeline == last.timeline && first <= last).then_some(WalRange {
        record: record.sequence,
        timeline: first.timeline,
        first: first.number,
        last: last.number,
    })
}
