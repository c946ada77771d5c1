//! Leases: who writes, and under which epoch. See `docs/format/overview.md`.
//!
//! A writer claims an epoch by creating `<stanza>/lease/<epoch>.json`; creation fails where the object exists, so no
//! two writers ever share an epoch, even on storages without locks. An object `<stanza>/expire/<epoch>.json` declares
//! every uncommitted backup up to that epoch abandoned; its writer finds that out when it commits, and fails. A
//! writer that was killed leaves its lease: an epoch that nothing uses.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, key};

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

#[derive(Serialize)]
struct LeaseRecord<'a> {
    epoch: u32,
    claimed: Timestamp,
    #[serde(flatten)]
    info: &'a LeaseInfo,
}

/// Claims the next epoch of the stanza.
pub(crate) fn claim(stanza: &Stanza, now: Timestamp, info: &LeaseInfo) -> Result<BackupId> {
    let store = stanza.repository().store();
    let name = stanza.name();
    let leases = store.list_names(&format!("{name}/lease"))?;
    let fences = store.list_names(&format!("{name}/expire"))?;
    let claimed = leases.iter().chain(&fences).filter_map(|lease| key::parse_sequence(lease, 10)).max();
    // Leases may be cleaned up; the backups that came of them count too.
    let committed = stanza.backup_ids()?.into_iter().map(BackupId::epoch).max();
    let mut epoch = claimed.max(committed).unwrap_or(0);
    loop {
        epoch =
            epoch.checked_add(1).ok_or_else(|| RepoError::unrepresentable("more than 4294967295 backups"))?;
        let record = LeaseRecord { epoch, claimed: now, info };
        let json =
            serde_json::to_vec(&record).map_err(|e| RepoError::unrepresentable(format!("a lease: {e}")))?;
        if store.put_new(&key::lease(name, epoch), json)? {
            return Ok(BackupId::new(epoch, now));
        }
    }
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
