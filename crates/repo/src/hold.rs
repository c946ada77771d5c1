//! Holds: backups and dumps that nobody may remove, as `<stanza>/hold/<backup-id>-<random>.json`.
//!
//! A backup may be held several times; it stays as long as one hold is there. What a removal that is under way has named
//! already cannot be held any more: [`Stanza::hold`] looks after it stored its object, and whoever removes looks for
//! holds after it published what it removes, so one of the two sees the other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{random, to_hex};
use crate::error::Result;
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, condemnation, key, lease};

/// Why a backup, or a dump, is kept whatever the policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The backup.
    pub backup: BackupId,
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

impl Stanza {
    /// Holds a backup or a dump.
    ///
    /// # Errors
    /// [`RepoError::BackupNotFound`], [`RepoError::BeingRemoved`] where its removal has begun, or when the storage fails.
    pub fn hold(&self, id: BackupId, reason: &str, now: Timestamp) -> Result<()> {
        let store = self.repository().store();
        self.require_manifest(id)?;
        let hold = Hold { backup: id, reason: reason.to_owned(), since: now };
        let json = serde_json::to_vec_pretty(&hold)
            .map_err(|e| RepoError::unrepresentable(format!("the reason of a hold: {e}")))?;
        let key = key::hold(self.name(), id, &to_hex(&random::<4>()?));
        if !store.put_new(&key, json)? {
            return Err(RepoError::AlreadyExists { key });
        }
        let checked = condemnation::list(self).and_then(|found| {
            if found.iter().any(|condemned| condemned.names_backup(id)) {
                return Err(RepoError::BeingRemoved { id });
            }
            self.require_manifest(id)
        });
        if checked.is_err() {
            store.delete(&key)?;
        }
        checked
    }

    /// Lets go of a backup; how many holds there were.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn release(&self, id: BackupId) -> Result<usize> {
        let store = self.repository().store();
        let folder = format!("{}/hold", self.name());
        let names = store.list_names(&folder)?;
        let own: Vec<&String> = names.iter().filter(|name| key::parse_hold(name) == Some(id)).collect();
        for name in &own {
            store.delete_durably(&format!("{folder}/{name}"))?;
        }
        Ok(own.len())
    }

    /// The backups that are held, each with its oldest hold. A hold that cannot be understood holds too.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn holds(&self) -> Result<BTreeMap<BackupId, Hold>> {
        let store = self.repository().store();
        let folder = format!("{}/hold", self.name());
        let mut held: BTreeMap<BackupId, Hold> = BTreeMap::new();
        for name in store.list_names(&folder)? {
            let Some(id) = key::parse_hold(&name) else { continue };
            let Some(bytes) = store.get_optional(&format!("{folder}/{name}"))? else { continue };
            let hold = serde_json::from_slice::<Hold>(&bytes).ok().filter(|hold| hold.backup == id);
            let hold = hold.unwrap_or(Hold {
                backup: id,
                reason: format!("by `{folder}/{name}`, which cannot be read"),
                since: Timestamp::UNIX_EPOCH,
            });
            match held.get(&id) {
                Some(older) if older.since <= hold.since => {}
                _ => drop(held.insert(id, hold)),
            }
        }
        Ok(held)
    }

    fn require_manifest(&self, id: BackupId) -> Result<()> {
        // An id names a backup or a dump, never both.
        for manifest in [key::manifest(self.name(), id), key::dump_manifest(self.name(), id)] {
            if self.repository().store().head(&manifest)?.is_some() && !lease::is_void(self, &manifest)? {
                return Ok(());
            }
        }
        Err(RepoError::BackupNotFound { stanza: self.name().to_string(), id })
    }
}
