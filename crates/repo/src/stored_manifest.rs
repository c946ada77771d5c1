//! What manifests of backups and of dumps have in common as objects: how they begin, and how one comes to be.
//!
//! A manifest is the start, the compressed header, and compressed lines (`docs/format/manifest.md`). It is created, never
//! overwritten; one that was declared dead before it was stored has a note in its place, which reads as "not there".

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::dump::DumpHeader;
use crate::error::Result;
use crate::manifest::{ManifestHeader, PREAMBLE_LEN, Preamble};
use crate::stanza::Stanza;
use crate::{BackupId, RepoError, lease};

/// One read of this size mostly has the whole header.
const FIRST_READ: u64 = 64 << 10;

/// The first line of a manifest.
pub(crate) trait StoredHeader: DeserializeOwned {
    /// What the manifest is of, for messages.
    const WHAT: &'static str;

    /// The id and the stanza that it names.
    fn identity(&self) -> (BackupId, &str);

    /// What else must hold for it to be believed.
    fn check(&self) -> std::result::Result<(), &'static str>;
}

impl StoredHeader for ManifestHeader {
    const WHAT: &'static str = "backup";

    fn identity(&self) -> (BackupId, &str) {
        (self.id, &self.stanza)
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        if !self.block_size.is_power_of_two() || !(1 << 10..=32 << 10).contains(&self.block_size) {
            return Err("the block size is impossible");
        }
        if self.packs.iter().any(|pack| pack.backup.epoch() != pack.epoch) {
            return Err("a pack of another epoch than its backup");
        }
        Ok(())
    }
}

impl StoredHeader for DumpHeader {
    const WHAT: &'static str = "dump";

    fn identity(&self) -> (BackupId, &str) {
        (self.id, &self.stanza)
    }

    fn check(&self) -> std::result::Result<(), &'static str> {
        if self.packs.iter().any(|pack| pack.backup != self.id || pack.epoch != self.id.epoch()) {
            return Err("a pack of another dump");
        }
        Ok(())
    }
}

/// Reads the header, and no more than that; [`RepoError::NotFound`] where there is no manifest.
pub(crate) fn read_header<H: StoredHeader>(
    stanza: &Stanza,
    id: BackupId,
    key: String,
) -> Result<(H, Preamble)> {
    let store = stanza.repository().store();
    let (start, size) = store.get_start(&key, FIRST_READ)?;
    if start.as_ref() == lease::ABANDONED {
        return Err(RepoError::NotFound { key });
    }
    let preamble = begin(&key, &start, size)?;
    let end = preamble.files_offset();
    let stored = match usize::try_from(end).ok().and_then(|end| start.get(PREAMBLE_LEN..end)) {
        Some(stored) => Bytes::copy_from_slice(stored),
        None => store.get_range(&key, PREAMBLE_LEN as u64..end)?,
    };
    Ok((decode(stanza, id, &key, &preamble, &stored)?, preamble))
}

/// Reads the whole manifest, its lines as they are stored; [`RepoError::NotFound`] where there is none.
pub(crate) fn read<H: StoredHeader>(
    stanza: &Stanza,
    id: BackupId,
    key: &str,
) -> Result<(H, Preamble, Bytes)> {
    let bytes = stanza.repository().store().get(key)?;
    if bytes.as_ref() == lease::ABANDONED {
        return Err(RepoError::NotFound { key: key.to_owned() });
    }
    let preamble = begin(key, &bytes, bytes.len() as u64)?;
    // It is no longer than the bytes that are here.
    let lines = usize::try_from(preamble.files_offset()).unwrap_or(usize::MAX);
    let header = decode(stanza, id, key, &preamble, bytes.get(PREAMBLE_LEN..lines).unwrap_or_default())?;
    Ok((header, preamble, bytes.slice(lines..)))
}

/// The start of an object of this size, which it must fit.
fn begin(key: &str, start: &[u8], size: u64) -> Result<Preamble> {
    let preamble = Preamble::decode(key, start)?;
    let lines = preamble.files_offset();
    if lines.checked_add(preamble.files_stored) == Some(size) {
        return Ok(preamble);
    }
    let what = "the manifest does not have the length that it declares";
    Err(RepoError::corrupt(key, size.min(lines), what))
}

fn decode<H: StoredHeader>(
    stanza: &Stanza,
    id: BackupId,
    key: &str,
    preamble: &Preamble,
    stored: &[u8],
) -> Result<H> {
    let repository = stanza.repository();
    let corrupt = |what: &str| RepoError::corrupt(key, PREAMBLE_LEN as u64, what);
    let plain_len = preamble.header_plain as usize;
    let plain = zstd::bulk::decompress(stored, plain_len)
        .map_err(|_| corrupt("the header cannot be decompressed"))?;
    if plain.len() != plain_len || repository.digest_key().manifest(&plain) != preamble.header_digest {
        return Err(corrupt("the digest of the header is wrong"));
    }
    let header: H = serde_json::from_slice(&plain)
        .map_err(|error| corrupt(&format!("the header is not the JSON of a {}: {error}", H::WHAT)))?;
    if preamble.repository_id != repository.id_bytes()
        || preamble.epoch != id.epoch()
        || header.identity() != (id, stanza.name().as_str())
    {
        return Err(corrupt(&format!("the manifest is that of another {}", H::WHAT)));
    }
    header.check().map_err(corrupt)?;
    Ok(header)
}

/// Whether what a manifest names has to stay, after [`create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packs {
    /// The manifest is there, or may be.
    Needed,
    /// It certainly is not.
    Rubbish,
}

/// Stores a manifest: from then on what it describes exists. Says what becomes of the packs whatever the outcome.
pub(crate) fn create(stanza: &Stanza, id: BackupId, key: String, chunks: Vec<Bytes>) -> (Packs, Result<()>) {
    let store = stanza.repository().store();
    match store.put_new_chunks(&key, chunks) {
        Ok(true) => (Packs::Needed, Ok(())),
        Ok(false) => match lease::is_void(stanza, &key) {
            Ok(true) => (Packs::Rubbish, Err(RepoError::Fenced { id, key })),
            Ok(false) => (Packs::Needed, Err(RepoError::AlreadyExists { key })),
            Err(error) => (Packs::Needed, Err(error)),
        },
        Err(error) => {
            // The manifest may be there in spite of the error, and then it needs its packs. Only of a full disk is it
            // known that nothing was put in place.
            let is_absent = error.is_no_space() && matches!(store.head(&key), Ok(None));
            (if is_absent { Packs::Rubbish } else { Packs::Needed }, Err(error))
        }
    }
}
