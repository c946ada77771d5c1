//! Reads one dump: its header, its tables, and the bytes of its parts.

use std::sync::Arc;

use super::archive_reader::DumpPartReader;
use super::manifest::{self, PartLines};
use super::{DumpHeader, DumpId, DumpPart, DumpPartKind, DumpedTable};
use crate::error::Result;
use crate::frame_fetcher::FrameFetcher;
use crate::manifest::PackEntry;
use crate::pack::IndexEntry;
use crate::stanza::Stanza;
use crate::{RepoError, key};

/// A dump that is open for reading. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct DumpReader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stanza: Stanza,
    id: DumpId,
    header: DumpHeader,
    parts: Vec<PartLines>,
    fetcher: FrameFetcher,
}

impl DumpReader {
    pub(super) fn open(stanza: &Stanza, id: DumpId) -> Result<DumpReader> {
        let (header, parts) = match manifest::read(stanza, id) {
            Err(RepoError::NotFound { .. }) => {
                return Err(RepoError::DumpNotFound { stanza: stanza.name().to_string(), id });
            }
            read => read?,
        };
        let repository = stanza.repository();
        let fetcher = FrameFetcher::new(
            repository.store().clone(),
            repository.digest_key().clone(),
            8192,
            stanza.name(),
            &header.packs,
            key::dump_pack,
        );
        Ok(DumpReader { inner: Arc::new(Inner { stanza: stanza.clone(), id, header, parts, fetcher }) })
    }

    /// The dump's id.
    #[must_use]
    pub fn id(&self) -> DumpId {
        self.inner.id
    }

    /// The first line of the manifest.
    #[must_use]
    pub fn header(&self) -> &DumpHeader {
        &self.inner.header
    }

    /// The key of its manifest, for messages.
    #[must_use]
    pub fn manifest_key(&self) -> String {
        key::dump_manifest(self.inner.stanza.name(), self.inner.id)
    }

    /// The part with the archive of a database, by its place in [`DumpHeader::parts`].
    #[must_use]
    pub fn archive_of(&self, database: &str) -> Option<usize> {
        self.inner.header.parts.iter().position(|part| part.database.as_deref() == Some(database))
    }

    /// The part with the script of what belongs to no database.
    #[must_use]
    pub fn globals(&self) -> Option<usize> {
        self.inner.header.parts.iter().position(|part| part.kind == DumpPartKind::Globals)
    }

    /// The tables of a part.
    #[must_use]
    pub fn tables(&self, part: usize) -> &[DumpedTable] {
        self.inner.parts.get(part).map_or(&[], |lines| &lines.tables)
    }

    /// Opens the bytes of a part; none where there is no such part. Each reader is apart from the others.
    #[must_use]
    pub fn open_part(&self, part: usize) -> Option<DumpPartReader> {
        let frames = self.inner.parts.get(part)?.frames.clone();
        Some(DumpPartReader::new(self.inner.fetcher.clone(), frames))
    }

    /// Whether the digest that a [`PartHasher`] came to is that of the part.
    #[must_use]
    pub fn is_digest_of(&self, part: &DumpPart, hasher: &PartHasher) -> bool {
        crate::digest::finish16(&hasher.0).0 == part.digest.0
    }

    /// For the digest of a part's bytes.
    #[must_use]
    pub fn hasher(&self) -> PartHasher {
        PartHasher(Box::new(self.inner.stanza.repository().digest_key().dump_hasher()))
    }

    /// The frames of a pack, by its index, after checking header, index and trailer.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] with the pack and the offset of what is wrong, [`RepoError::NotFound`] where it is gone, or
    /// when the storage fails.
    pub fn pack_index(&self, pack: &PackEntry) -> Result<Vec<IndexEntry>> {
        self.inner.stanza.pack_index(&self.inner.fetcher, pack)
    }
}

/// Digests the bytes of a part.
#[derive(Clone, Debug)]
pub struct PartHasher(Box<blake3::Hasher>);

impl PartHasher {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
