//! What there is of dumps, and what of it may go. Part of the [`Inventory`](crate::Inventory) that removal decides by.
//!
//! Nothing but its own manifest refers to a pack of a dump. So a pack goes when the manifest is gone and nobody can store
//! one any more; nobody else has to be waited for.

use std::collections::{BTreeMap, BTreeSet};

use super::{DumpHeader, DumpId, manifest};
use crate::condemnation::PackName;
use crate::error::Result;
use crate::removal::{RemovalStep, StoredPack};
use crate::stanza::Stanza;
use crate::{RepoError, key};

/// The dumps of a stanza, and what lies in their folders.
#[derive(Debug, Default)]
pub struct DumpInventory {
    /// Packs, in order; `backup` in their names is the dump.
    pub packs: Vec<StoredPack>,
    folders: Vec<DumpId>,
    /// Manifests that can be read.
    pub dumps: BTreeMap<DumpId, DumpHeader>,
    /// Manifests that cannot be read, with the reason.
    pub unreadable: BTreeMap<DumpId, RepoError>,
}

impl DumpInventory {
    /// Reads what comes before the leases: see [`crate::removal`].
    pub(crate) fn load_packs(stanza: &Stanza) -> Result<DumpInventory> {
        let folder = key::dumps(stanza.name());
        let mut packs = Vec::new();
        for object in stanza.repository().store().list(&folder)? {
            let Some(rest) = object.key.get(folder.len() + 1..) else { continue };
            let Some((id, rest)) = rest.split_once('/') else { continue };
            if let (Ok(backup), Some(number)) = (id.parse(), key::parse_pack(rest)) {
                packs.push(StoredPack { name: PackName { backup, number }, size: object.size });
            }
        }
        packs.sort_by_key(|pack| pack.name);
        Ok(DumpInventory { packs, folders: stanza.dump_folders()?, ..DumpInventory::default() })
    }

    /// Reads what comes after the leases.
    pub(crate) fn load_manifests(&mut self, stanza: &Stanza) -> Result<()> {
        for id in stanza.dump_folders()? {
            match manifest::read_header(stanza, id) {
                Ok((header, _)) => drop(self.dumps.insert(id, header)),
                Err(RepoError::NotFound { .. }) => {}
                Err(error @ (RepoError::Corrupt { .. } | RepoError::NewerFormat { .. })) => {
                    self.unreadable.insert(id, error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether there is a manifest of that dump, whatever is in it.
    #[must_use]
    pub fn exists(&self, id: DumpId) -> bool {
        self.dumps.contains_key(&id) || self.unreadable.contains_key(&id)
    }

    pub(crate) fn has_epoch(&self, epoch: u32) -> bool {
        self.dumps.keys().chain(self.unreadable.keys()).any(|id| id.epoch() == epoch)
    }

    /// The packs that nothing needs when the manifests of `doomed` are gone; `open` are the epochs under which somebody may
    /// be writing.
    pub(crate) fn rubbish(&self, doomed: &BTreeSet<DumpId>, open: &BTreeSet<u32>) -> Vec<StoredPack> {
        let is_dead = |id: DumpId| {
            if self.exists(id) { doomed.contains(&id) } else { !open.contains(&id.epoch()) }
        };
        self.packs.iter().filter(|pack| is_dead(pack.name.backup)).copied().collect()
    }

    /// The steps that remove `doomed` and the packs of `rubbish`; `removed_before` are dumps that an earlier removal may
    /// have removed without making that durable.
    pub(crate) fn steps(
        &self,
        doomed: &BTreeSet<DumpId>,
        rubbish: &[StoredPack],
        removed_before: impl Iterator<Item = DumpId>,
    ) -> Vec<RemovalStep> {
        let mut steps: Vec<RemovalStep> = doomed.iter().copied().map(RemovalStep::DumpManifest).collect();
        let flushed: BTreeSet<DumpId> = doomed.iter().copied().chain(removed_before).collect();
        if !flushed.is_empty() {
            steps.push(RemovalStep::DumpFlush(flushed.into_iter().collect()));
        }
        steps.extend(rubbish.iter().map(|pack| RemovalStep::DumpPack(pack.name, pack.size)));
        let emptied: BTreeSet<DumpId> =
            doomed.iter().copied().chain(rubbish.iter().map(|pack| pack.name.backup)).collect();
        steps.extend(emptied.into_iter().map(RemovalStep::DumpFolder));
        steps
    }

    /// Folders of dumps that ended without anything: a killed one leaves staging files there.
    pub(crate) fn empty_folders(&self, open: &BTreeSet<u32>) -> Vec<DumpId> {
        let with_packs: BTreeSet<DumpId> = self.packs.iter().map(|pack| pack.name.backup).collect();
        let is_empty =
            |id: &&DumpId| !self.exists(**id) && !with_packs.contains(id) && !open.contains(&id.epoch());
        self.folders.iter().filter(is_empty).copied().collect()
    }
}
