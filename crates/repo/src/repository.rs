//! A repository: its record, and the stanzas in it. See `docs/format/overview.md`.
//!
//! The record `pgkeep/repo-<seq>.json` with the largest sequence counts. Its format version and required features are
//! read first; one that is not known refuses the whole repository, before anything else is believed. Making a
//! repository is one object: killed before, there is none.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::{self, Hex, to_hex};
use crate::error::Result;
use crate::format_version::{FORMAT, KNOWN_FEATURES};
use crate::key::{self, StanzaName};
use crate::stanza::{ClusterRecord, Stanza};
use crate::{DigestKey, RepoError, Store};

/// What `pgkeep/repo-<seq>.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct RepositoryRecord {
    format: u32,
    repository_id: Hex<16>,
    created: Timestamp,
    cipher: String,
    #[serde(default)]
    key_slots: Vec<serde_json::Value>,
    digest_key: Option<Hex<32>>,
    #[serde(default)]
    required_features: Vec<String>,
    #[serde(default)]
    written_by: String,
}

/// The two fields that every version has, read before the rest.
#[derive(Debug, Deserialize)]
struct RecordVersion {
    format: u32,
    #[serde(default)]
    required_features: Vec<String>,
}

/// An open repository. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    id: [u8; 16],
    created: Timestamp,
    key: DigestKey,
}

impl Repository {
    /// Makes a new repository in an empty place.
    ///
    /// # Errors
    /// [`RepoError::RepositoryExists`], [`RepoError::NotEmpty`], or when the storage fails.
    pub fn create(store: Store, now: Timestamp) -> Result<Repository> {
        Repository::create_with(store, now, digest::random()?, digest::random()?)
    }

    /// As [`Repository::create`] with a given id and digest key, for samples that must not change.
    #[doc(hidden)]
    pub fn create_with(
        store: Store,
        now: Timestamp,
        id: [u8; 16],
        digest_key: [u8; 32],
    ) -> Result<Repository> {
        let exists = |store: &Store| RepoError::RepositoryExists { location: store.location().to_owned() };
        if newest_record(&store)?.is_some() {
            return Err(exists(&store));
        }
        if let Some(entry) = store.foreign_entry()? {
            return Err(RepoError::NotEmpty { location: store.location().to_owned(), entry });
        }
        let record = RepositoryRecord {
            format: u32::from(FORMAT),
            repository_id: Hex(id),
            created: now,
            cipher: "none".to_owned(),
            key_slots: Vec::new(),
            digest_key: Some(Hex(digest_key)),
            required_features: Vec::new(),
            written_by: format!("pgkeep {}", env!("CARGO_PKG_VERSION")),
        };
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|e| RepoError::unrepresentable(format!("the record of the repository: {e}")))?;
        if !store.put_new(&key::repository(1), json)? {
            return Err(exists(&store));
        }
        Repository::open(store)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// [`RepoError::NotARepository`], [`RepoError::NewerFormat`], or when the storage fails.
    pub fn open(store: Store) -> Result<Repository> {
        let Some(sequence) = newest_record(&store)? else {
            return Err(RepoError::NotARepository { location: store.location().to_owned() });
        };
        let key = key::repository(sequence);
        let bytes = store.get(&key)?;
        let newer = |what: String| RepoError::NewerFormat { key: key.clone(), what };
        let corrupt = |e: serde_json::Error| RepoError::corrupt(key.clone(), 0, e.to_string());
        let version: RecordVersion = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if version.format != u32::from(FORMAT) {
            return Err(newer(format!("repository format {} (this program knows {FORMAT})", version.format)));
        }
        if let Some(feature) =
            version.required_features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str()))
        {
            return Err(newer(format!("the feature `{feature}`")));
        }
        let record: RepositoryRecord = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if record.cipher != "none" {
            return Err(newer(format!("the cipher `{}`", record.cipher)));
        }
        let Some(digest_key) = record.digest_key else {
            return Err(RepoError::corrupt(key, 0, "the digest key is missing"));
        };
        let inner = Inner {
            store,
            id: record.repository_id.0,
            created: record.created,
            key: DigestKey::new(&digest_key.0),
        };
        Ok(Repository { inner: Arc::new(inner) })
    }

    /// The random id of the repository, in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        to_hex(&self.inner.id)
    }

    pub(crate) fn id_bytes(&self) -> [u8; 16] {
        self.inner.id
    }

    /// When the repository was made.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.inner.created
    }

    /// The keys of its digests.
    #[must_use]
    pub fn digest_key(&self) -> &DigestKey {
        &self.inner.key
    }

    /// The storage beneath.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The names of all stanzas, sorted.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn stanzas(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for name in self.store().list_names("")? {
            let Ok(stanza) = name.parse::<StanzaName>() else { continue };
            if self.store().head(&key::history(&stanza, 1))?.is_some() {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Opens a stanza.
    ///
    /// # Errors
    /// [`RepoError::StanzaNotFound`] with the names that exist, [`RepoError::BadStanzaName`], or when the storage fails.
    pub fn stanza(&self, name: &str) -> Result<Stanza> {
        let checked: StanzaName = name.parse()?;
        match Stanza::open(self, &checked)? {
            Some(stanza) => Ok(stanza),
            None => Err(RepoError::StanzaNotFound { name: name.to_owned(), existing: self.stanzas()? }),
        }
    }

    /// Makes a stanza whose history begins with this cluster.
    ///
    /// # Errors
    /// [`RepoError::StanzaExists`], [`RepoError::BadStanzaName`], or when the storage fails.
    pub fn create_stanza(&self, name: &str, cluster: &ClusterRecord) -> Result<Stanza> {
        let checked: StanzaName = name.parse()?;
        let record = cluster.numbered(1);
        if !Stanza::put_record(self, &checked, &record)? {
            return Err(RepoError::StanzaExists { name: name.to_owned() });
        }
        self.stanza(name)
    }
}

fn newest_record(store: &Store) -> Result<Option<u32>> {
    let names = store.list_names(key::REPOSITORY_FOLDER)?;
    Ok(names.iter().filter_map(|name| key::parse_repository(name)).max())
}
