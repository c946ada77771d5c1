//! Leases: who writes, and under which epoch. See `docs/format/overview.md`.
//!
//! A writer claims an epoch by creating `<stanza>/lease/<epoch>.json`; creation fails where the object exists, so no
//! two writers ever share an epoch, even on storages without locks. An object `<stanza>/expire/<epoch>.json` declares
//! every uncommitted backup up to that epoch abandoned; its writer finds that out when it commits, and fails.
//!
//! Epochs are also the order in which leases came into being: whoever sees a larger epoch after claiming its own claims
//! once more. A lease is *open* until its backup is committed, its writer said that it ended, its process is certainly
//! gone, or the place of its manifest was taken (see [`crate::removal`]). The largest lease is never removed, so no epoch
//! is given out twice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::process_identity::ProcessIdentity;
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, key};

/// What is stored at the place of a manifest that may never be written any more.
pub(crate) const ABANDONED: &[u8] = b"pgkeep: this backup was abandoned\n";

/// The verb of a lease that does not write a backup but removes things.
pub(crate) const EXPIRE: &str = "expire";

/// The verb of a lease under which a dump is written.
pub(crate) const DUMP: &str = "dump";

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseInfo {
    /// What it is for: `backup`.
    pub verb: String,
    /// The machine.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// The program and its version.
    pub program: String,
}

#[derive(Serialize, Deserialize)]
struct LeaseRecord {
    epoch: u32,
    claimed: Timestamp,
    #[serde(flatten)]
    info: LeaseInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<ProcessIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removes: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_boundary: bool,
}

/// A lease of a stanza, as it was found.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The epoch that it claims.
    pub epoch: u32,
    /// When, by the clock of the machine that claimed it; the beginning of time where the lease cannot be understood.
    pub claimed: Timestamp,
    /// Who; none where the lease cannot be understood.
    pub info: Option<LeaseInfo>,
    /// The list of what this lease's holder removes, by its random name.
    pub(crate) removes: Option<String>,
    /// Whether the list was published before this lease was claimed.
    pub(crate) is_boundary: bool,
    /// Whether its holder has certainly stopped.
    pub(crate) is_over: bool,
}

impl Lease {
    /// The id that a backup under this lease has, or would have had.
    #[must_use]
    pub fn backup_id(&self) -> BackupId {
        BackupId::new(self.epoch, self.claimed)
    }

    /// Whether a backup may be written under it (as opposed to a dump, or the removal of things).
    #[must_use]
    pub fn is_of_backup(&self) -> bool {
        self.info.as_ref().is_none_or(|info| info.verb != EXPIRE && info.verb != DUMP)
    }

    /// Whether a dump is written under it.
    #[must_use]
    pub fn is_of_dump(&self) -> bool {
        self.info.as_ref().is_some_and(|info| info.verb == DUMP)
    }

    /// Where the manifest of what is written under it is, or would be.
    pub(crate) fn manifest_key(&self, stanza: &Stanza) -> String {
        let key_of = if self.is_of_dump() { key::dump_manifest } else { key::manifest };
        key_of(stanza.name(), self.backup_id())
    }

    /// The holder in words.
    #[must_use]
    pub fn holder(&self) -> String {
        match &self.info {
            Some(info) => format!("process {} on `{}`", info.pid, info.host),
            None => "an unknown process".to_owned(),
        }
    }
}

/// Claims the next epoch of the stanza for a backup.
pub(crate) fn claim(stanza: &Stanza, now: Timestamp, info: &LeaseInfo) -> Result<BackupId> {
    claim_for(stanza, now, info, None, false).map(|epoch| BackupId::new(epoch, now))
}

/// Claims the next epoch. `removes` names the list of what its holder is going to remove, `is_boundary` says that this list
/// is published already.
pub(crate) fn claim_for(
    stanza: &Stanza,
    now: Timestamp,
    info: &LeaseInfo,
    removes: Option<&str>,
    is_boundary: bool,
) -> Result<u32> {
    let store = stanza.repository().store();
    let mut epoch = largest_epoch(stanza)?;
    let process = ProcessIdentity::current();
    loop {
        epoch =
            epoch.checked_add(1).ok_or_else(|| RepoError::unrepresentable("more than 4294967295 backups"))?;
        let record = LeaseRecord {
            epoch,
            claimed: now,
            info: info.clone(),
            process: process.clone(),
            removes: removes.map(str::to_owned),
            is_boundary,
        };
        let json =
            serde_json::to_vec(&record).map_err(|e| RepoError::unrepresentable(format!("a lease: {e}")))?;
        if !store.put_new(&key::lease(stanza.name(), epoch), json)? {
            continue;
        }
        // The first look may have been long ago: a lease that took the place of one that was cleaned up meanwhile would
        // have a smaller epoch than leases that are older than itself.
        let largest = largest_epoch(stanza)?;
        if largest <= epoch {
            return Ok(epoch);
        }
        store.delete(&key::lease(stanza.name(), epoch))?;
        epoch = largest;
    }
}

fn largest_epoch(stanza: &Stanza) -> Result<u32> {
    let store = stanza.repository().store();
    let name = stanza.name();
    let leases = store.list_names(&format!("{name}/lease"))?;
    let fences = store.list_names(&format!("{name}/expire"))?;
    let claimed = leases.iter().chain(&fences).filter_map(|lease| key::parse_sequence(lease, 10)).max();
    // Leases may be cleaned up; the backups that came of them count too.
    let ids = stanza.backup_ids()?.into_iter().chain(stanza.dump_folders()?);
    let committed = ids.map(BackupId::epoch).max();
    Ok(claimed.max(committed).unwrap_or(0))
}

/// Says that the writer of an epoch stopped without a backup: nobody has to wait for it. Best effort; where it fails, the
/// lease is given up later.
pub(crate) fn end(stanza: &Stanza, epoch: u32) {
    drop(stanza.repository().store().put_new(&key::lease_end(stanza.name(), epoch), Vec::new()));
}

/// All leases, ascending.
pub(crate) fn list(stanza: &Stanza) -> Result<Vec<Lease>> {
    let store = stanza.repository().store();
    let names = store.list_names(&format!("{}/lease", stanza.name()))?;
    let ended: BTreeSet<u32> = names.iter().filter_map(|name| key::parse_lease_end(name)).collect();
    let mut leases = Vec::new();
    for epoch in names.iter().filter_map(|name| key::parse_sequence(name, 10)) {
        // One that was removed meanwhile was over.
        let Some(bytes) = store.get_optional(&key::lease(stanza.name(), epoch))? else { continue };
        let record = serde_json::from_slice::<LeaseRecord>(&bytes).ok().filter(|r| r.epoch == epoch);
        leases.push(match record {
            Some(record) => Lease {
                epoch,
                claimed: record.claimed,
                info: Some(record.info),
                removes: record.removes,
                is_boundary: record.is_boundary,
                is_over: ended.contains(&epoch)
                    || record.process.is_some_and(|process| process.is_certainly_gone()),
            },
            // What cannot be understood may be of a later version, and held.
            None => Lease {
                epoch,
                claimed: Timestamp::UNIX_EPOCH,
                info: None,
                removes: None,
                is_boundary: false,
                is_over: ended.contains(&epoch),
            },
        });
    }
    leases.sort_by_key(|lease| lease.epoch);
    Ok(leases)
}

/// Publishes a fence: uncommitted backups up to this epoch are abandoned.
pub(crate) fn fence(stanza: &Stanza, epoch: u32, now: Timestamp) -> Result<()> {
    let json = serde_json::json!({ "epoch": epoch, "published": now }).to_string();
    stanza.repository().store().put_new(&key::fence(stanza.name(), epoch), json.into_bytes()).map(drop)
}

/// Takes the place of the manifest at this key, so that what was to have it can never be committed. `false` where it was
/// committed.
pub(crate) fn void(stanza: &Stanza, manifest: &str) -> Result<bool> {
    let store = stanza.repository().store();
    Ok(store.put_new(manifest, ABANDONED)? || is_void(stanza, manifest)?)
}

/// Whether the place of the manifest is taken by [`void`].
pub(crate) fn is_void(stanza: &Stanza, manifest: &str) -> Result<bool> {
    let store = stanza.repository().store();
    let (start, size) = match store.get_start(manifest, ABANDONED.len() as u64) {
        Ok(read) => read,
        Err(RepoError::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(size == ABANDONED.len() as u64 && start.as_ref() == ABANDONED)
}

/// Fails where the backup was declared abandoned.
pub(crate) fn refuse_fenced(stanza: &Stanza, id: BackupId) -> Result<()> {
    let folder = format!("{}/expire", stanza.name());
    let names = stanza.repository().store().list_names(&folder)?;
    let fence = names
        .iter()
        .find(|name| key::parse_sequence(name, 10).is_some_and(|boundary| boundary >= id.epoch()));
    match fence {
        Some(name) => Err(RepoError::Fenced { id, key: format!("{folder}/{name}") }),
        None => Ok(()),
    }
}
