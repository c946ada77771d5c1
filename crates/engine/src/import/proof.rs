//! Proves the files of a source by its `backup_manifest` while they are read: nothing missing, nothing more, every size and
//! every checksum.
//!
//! What `pg_verifybackup` leaves to the user is left here too: `postgresql.auto.conf` and the signal files may differ, for
//! `pg_basebackup -R` writes them after the manifest; WAL has checksums of its own.

use std::collections::HashMap;

use pgkeep_format::pg_manifest::{ManifestChecksum, ManifestFile, PgManifest};
use pgkeep_format::tar::{TarEntry, TarEntryKind};

use pgkeep_physical::CHANGED_BY_HAND;
use pgkeep_physical::checksum::Hasher;

use crate::error::{Error, ErrorKind, Result};

/// What the manifest says of a file.
#[derive(Debug)]
struct Listed {
    size: u64,
    checksum: Option<ManifestChecksum>,
    seen: bool,
}

/// The state of the proof.
#[derive(Debug)]
pub struct Proof {
    /// None where there is no manifest: then only a file that comes twice is refused.
    listed: Option<HashMap<Vec<u8>, Listed>>,
    seen: std::collections::HashSet<Vec<u8>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: Vec<u8>,
    checksum: Option<(Hasher, ManifestChecksum)>,
}

impl Proof {
    /// Nothing was read yet.
    pub fn new(manifest: Option<PgManifest>) -> Proof {
        let listed = manifest.map(|manifest| {
            let entry = |file: ManifestFile| {
                (file.path, Listed { size: file.size, checksum: file.checksum, seen: false })
            };
            // With `-X fetch` the archiver's notes are listed, though not the segments that they are about.
            let files = manifest.files.into_iter().filter(|file| !file.path.starts_with(b"pg_wal/"));
            files.map(entry).collect()
        });
        Proof { listed, seen: std::collections::HashSet::new(), open: None }
    }

    /// Bytes of all files, by the manifest.
    pub fn total_bytes(&self) -> Option<u64> {
        self.listed.as_ref().map(|listed| listed.values().map(|file| file.size).sum())
    }

    /// An entry begins.
    pub fn begin(&mut self, entry: &TarEntry) -> Result<()> {
        self.open = None;
        if entry.kind != TarEntryKind::File {
            return Ok(());
        }
        let path = &entry.path;
        let Some(listed) = &mut self.listed else {
            return if self.seen.insert(path.clone()) { Ok(()) } else { Err(twice(path)) };
        };
        if CHANGED_BY_HAND.contains(&path.as_slice()) {
            return if self.seen.insert(path.clone()) { Ok(()) } else { Err(twice(path)) };
        }
        let Some(file) = listed.get_mut(path) else {
            return Err(disagrees(path, "the manifest does not list it"));
        };
        if std::mem::replace(&mut file.seen, true) {
            return Err(twice(path));
        }
        if file.size != entry.size {
            return Err(disagrees(
                path,
                &format!("it has {} bytes, the manifest says {}", entry.size, file.size),
            ));
        }
        let checksum = file.checksum.clone().map(|expected| (Hasher::new(expected.algorithm), expected));
        self.open = Some(Open { path: path.clone(), checksum });
        Ok(())
    }

    /// Bytes of the entry.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(Open { checksum: Some((checksum, _)), .. }) = &mut self.open {
            checksum.update(bytes);
        }
    }

    /// The entry is complete.
    pub fn end(&mut self) -> Result<()> {
        let Some(Open { path, checksum: Some((checksum, expected)) }) = self.open.take() else {
            return Ok(());
        };
        if checksum.finish() == expected {
            return Ok(());
        }
        Err(disagrees(&path, &format!("its {} is not the manifest's", expected.algorithm.name())))
    }

    /// All was read: whatever the manifest lists must have come.
    pub fn finish(&self) -> Result<()> {
        let missing = self
            .listed
            .iter()
            .flatten()
            .filter(|(path, file)| !file.seen && !CHANGED_BY_HAND.contains(&path.as_slice()));
        match missing.map(|(path, _)| path).min() {
            Some(path) => Err(disagrees(path, "it is missing")),
            None => Ok(()),
        }
    }
}

/// A file that is not what the manifest says.
fn disagrees(path: &[u8], what: &str) -> Error {
    let shown = String::from_utf8_lossy(path);
    Error::new(ErrorKind::Corrupt, format!("`{shown}` is not what `backup_manifest` says"))
        .cause(what)
        .hint("the backup is damaged, or was changed or started since: import another one")
        .hint("nothing was listed as a backup")
}

fn twice(path: &[u8]) -> Error {
    Error::new(ErrorKind::Corrupt, format!("`{}` comes twice in the backup", String::from_utf8_lossy(path)))
        .hint("the backup is damaged or was put together by hand: import another one")
}

#[cfg(test)]
mod tests {
    use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestFile};

    use super::*;

    fn entry(path: &str, size: u64) -> TarEntry {
        TarEntry {
            path: path.as_bytes().to_vec(),
            kind: TarEntryKind::File,
            size,
            mode: 0o600,
            mtime: 0,
            link: Vec::new(),
        }
    }

    fn manifest() -> PgManifest {
        let file = |path: &str, contents: &[u8]| {
            let mut checksum = Hasher::new(ChecksumAlgorithm::Crc32c);
            checksum.update(contents);
            ManifestFile {
                path: path.as_bytes().to_vec(),
                size: contents.len() as u64,
                last_modified: None,
                checksum: Some(checksum.finish()),
            }
        };
        let files = vec![file("a", b"hello"), file("b", b""), file("postgresql.auto.conf", b"x")];
        PgManifest { version: 1, system_identifier: None, files, wal_ranges: Vec::new() }
    }

    fn put(proof: &mut Proof, path: &str, contents: &[u8]) -> Result<()> {
        proof.begin(&entry(path, contents.len() as u64))?;
        proof.bytes(contents);
        proof.end()
    }

    #[test]
    fn whatever_differs_is_refused_by_name() {
        let mut good = Proof::new(Some(manifest()));
        put(&mut good, "a", b"hello").unwrap();
        put(&mut good, "postgresql.auto.conf", b"written later").unwrap();
        put(&mut good, "standby.signal", b"").unwrap();
        let error = good.finish().unwrap_err();
        assert!(error.to_string().contains("`b`") && error.to_string().contains("missing"), "{error}");
        put(&mut good, "b", b"").unwrap();
        good.finish().unwrap();
        assert!(put(&mut good, "b", b"").unwrap_err().to_string().contains("twice"));
        for (path, contents) in [("a", &b"hellO"[..]), ("a", b"hello!"), ("c", b"")] {
            let mut proof = Proof::new(Some(manifest()));
            let error = put(&mut proof, path, contents).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("`{path}`")), "{error}");
        }
    }

    #[test]
    fn without_a_manifest_a_name_must_still_come_once() {
        let mut proof = Proof::new(None);
        put(&mut proof, "a", b"1").unwrap();
        assert!(put(&mut proof, "a", b"1").is_err());
        assert!(proof.finish().is_ok());
    }
}
