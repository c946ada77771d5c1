//! Reads one backup: header, files, block maps.
//!
//! The lines of the manifest are checked against their digest as a whole when the backup is opened, before any of them is
//! believed; then they are streamed, compressed in memory, as often as they are asked for.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::block_map::{BlockRun, Leaves, PieceRef, Root, RunTarget, decode_digests, decode_runs};
use crate::bytes::Malformed;
use crate::digest::finish16;
use crate::error::Result;
use crate::frame::{FrameKind, FrameRef};
use crate::frame_fetcher::FrameFetcher;
use crate::manifest::{FileEntry, FileKind, ManifestHeader, Preamble, decode_line};
use crate::stanza::Stanza;
use crate::wal_object::{self, WalFile};
use crate::{BackupId, BlockDigest, DigestKey, RepoError, key, stored_manifest};

/// The longest line of a file.
const MAX_LINE: u64 = 1 << 20;
/// No map has more runs: 128 GiB in single blocks. Leaves that name the same piece again and again would fill memory.
const MAX_RUNS: usize = 1 << 24;
/// Digests of larger files (2 TiB) are not read into memory.
const MAX_DIGESTS: u32 = 1 << 28;
/// Metadata frames that are kept decoded; each some 64 KiB.
const CACHED_FRAMES: usize = 64;

/// A backup that is open for reading. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct BackupReader {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stanza: Stanza,
    id: BackupId,
    manifest_key: String,
    header: ManifestHeader,
    lines: Bytes,
    preamble: Preamble,
    fetcher: FrameFetcher,
    cache: Mutex<VecDeque<CachedFrame>>,
    /// The digest of a block of zeros, which every map may need.
    zero: BlockDigest,
}

/// A metadata frame and its plain bytes.
type CachedFrame = (FrameKind, FrameRef, Arc<Vec<u8>>);

/// Reads the header of a backup, and no more than that.
pub(crate) fn read_header(stanza: &Stanza, id: BackupId) -> Result<(ManifestHeader, Preamble)> {
    stored_manifest::read_header(stanza, id, key::manifest(stanza.name(), id))
}

impl BackupReader {
    pub(crate) fn open(stanza: &Stanza, id: BackupId) -> Result<BackupReader> {
        let repository = stanza.repository();
        let manifest_key = key::manifest(stanza.name(), id);
        let (header, preamble, lines): (ManifestHeader, Preamble, Bytes) =
            stored_manifest::read(stanza, id, &manifest_key).map_err(|error| match error {
                RepoError::NotFound { key } if key == manifest_key => {
                    RepoError::BackupNotFound { stanza: stanza.name().to_string(), id }
                }
                error => error,
            })?;
        check_lines(&manifest_key, &lines, &preamble, repository.digest_key())?;
        let fetcher = FrameFetcher::new(
            repository.store().clone(),
            repository.digest_key().clone(),
            header.block_size,
            stanza.name(),
            &header.packs,
            key::pack,
        );
        let zero = repository.digest_key().zero_block(header.block_size);
        let inner = Inner {
            stanza: stanza.clone(),
            id,
            manifest_key,
            header,
            lines,
            preamble,
            fetcher,
            cache: Mutex::default(),
            zero,
        };
        Ok(BackupReader { inner: Arc::new(inner) })
    }

    /// The backup's id.
    #[must_use]
    pub fn id(&self) -> BackupId {
        self.inner.id
    }

    /// The stanza that the backup is in.
    #[must_use]
    pub fn stanza(&self) -> &Stanza {
        &self.inner.stanza
    }

    /// The first line of the manifest.
    #[must_use]
    pub fn header(&self) -> &ManifestHeader {
        &self.inner.header
    }

    /// The key of its manifest, for messages.
    #[must_use]
    pub fn manifest_key(&self) -> &str {
        &self.inner.manifest_key
    }

    /// The stored bytes of its manifest.
    #[must_use]
    pub fn manifest_bytes(&self) -> u64 {
        self.inner.preamble.files_offset().saturating_add(self.inner.preamble.files_stored)
    }

    /// Everything in the backup, sorted by path.
    #[must_use]
    pub fn files(&self) -> Files {
        Files { reader: self.clone(), lines: None, offset: 0, last: Vec::new(), finished: false }
    }

    /// Frames of this backup.
    #[must_use]
    pub fn frames(&self) -> &FrameFetcher {
        &self.inner.fetcher
    }

    /// The block map of a regular file; that of an empty file has no blocks. Digests are read when they are asked for.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], [`RepoError::NotFound`] where a pack is gone, or when the storage fails.
    pub fn map(&self, entry: &FileEntry) -> Result<BlockMap> {
        let block_size = self.inner.header.block_size;
        let Some((piece, root)) = self.root(entry)? else {
            return Ok(BlockMap { reader: self.clone(), length: 0, root: None, runs: Vec::new() });
        };
        let runs = match &root.leaves {
            Leaves::Inline { runs, .. } => runs.clone(),
            Leaves::Pieces { leaves, .. } => {
                let layout = root.layout();
                let mut runs: Vec<BlockRun> = Vec::new();
                for (leaf, index) in leaves.iter().zip(0..) {
                    if runs.len() > MAX_RUNS {
                        return Err(self.corrupt(&piece, Malformed("a block map has too many runs")));
                    }
                    let (first_block, count) = layout.leaf(index);
                    match &leaf.pieces {
                        None => runs.push(BlockRun { first_block, count, target: RunTarget::Zero }),
                        Some((piece, _)) => runs.extend(self.piece(FrameKind::Map, piece, |bytes| {
                            decode_runs(bytes, first_block, count, block_size)
                        })?),
                    }
                }
                runs
            }
        };
        Ok(BlockMap { reader: self.clone(), length: entry.meta.size, root: Some((piece, root)), runs })
    }

    /// The root of the block map of a regular file that is not empty, and where it lies.
    pub(crate) fn root(&self, entry: &FileEntry) -> Result<Option<(PieceRef, Root)>> {
        let block_size = self.inner.header.block_size;
        let blocks = u32::try_from(entry.meta.size.div_ceil(u64::from(block_size))).unwrap_or(u32::MAX);
        let FileKind::File { root: Some(piece) } = &entry.kind else { return Ok(None) };
        let key = self.inner.stanza.repository().digest_key();
        let root = self.piece(FrameKind::Map, piece, |bytes| Root::decode(bytes, block_size, key))?;
        if root.block_count != blocks {
            return Err(self.corrupt(piece, Malformed("a block map does not fit the size of its file")));
        }
        Ok(Some((*piece, root)))
    }

    /// The digest of a block of zeros.
    pub(crate) fn zero_digest(&self) -> BlockDigest {
        self.inner.zero
    }

    /// A WAL file kept with this backup.
    ///
    /// # Errors
    /// [`RepoError::NotFound`], [`RepoError::Corrupt`], or when the storage fails.
    pub fn wal_tail(&self, name: &str) -> Result<WalFile> {
        let repository = self.inner.stanza.repository();
        let key = key::backup_wal(self.inner.stanza.name(), self.inner.id, name);
        let bytes = repository.store().get(&key)?;
        wal_object::decode(&key, &bytes, repository.id_bytes(), repository.digest_key())
    }

    pub(crate) fn piece<T>(
        &self,
        kind: FrameKind,
        piece: &PieceRef,
        decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T> {
        let frame = self.meta_frame(kind, piece.frame)?;
        let from = piece.offset as usize;
        let bytes = frame.get(from..from.saturating_add(piece.len as usize)).unwrap_or_default();
        decode(bytes).map_err(|m| self.corrupt(piece, m))
    }

    pub(crate) fn corrupt(&self, piece: &PieceRef, malformed: Malformed) -> RepoError {
        RepoError::corrupt(self.inner.fetcher.pack_key(&piece.frame), piece.frame.offset, malformed.0)
    }

    fn meta_frame(&self, kind: FrameKind, frame: FrameRef) -> Result<Arc<Vec<u8>>> {
        let cache = || self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, bytes)) =
            cache().iter().find(|(as_kind, known, _)| (*as_kind, *known) == (kind, frame))
        {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(self.inner.fetcher.read_as(kind, frame)?);
        let mut cache = cache();
        if cache.len() >= CACHED_FRAMES {
            cache.pop_front();
        }
        cache.push_back((kind, frame, bytes.clone()));
        Ok(bytes)
    }
}

type Lines = BufReader<zstd::Decoder<'static, Cursor<Bytes>>>;

fn open_lines(lines: &Bytes) -> std::io::Result<Lines> {
    Ok(BufReader::new(zstd::Decoder::with_buffer(Cursor::new(lines.clone()))?))
}

/// Checks all lines against their digest, without keeping them.
fn check_lines(key: &str, lines: &Bytes, preamble: &Preamble, digests: &DigestKey) -> Result<()> {
    let corrupt = |what: &str| RepoError::corrupt(key, preamble.files_offset(), what);
    let mut hasher = digests.manifest_hasher();
    let mut length = 0_u64;
    if !lines.is_empty() {
        let mut reader =
            open_lines(lines).map_err(|_| corrupt("the list of files cannot be decompressed"))?;
        loop {
            let chunk = reader.fill_buf().map_err(|_| corrupt("the list of files cannot be decompressed"))?;
            if chunk.is_empty() {
                break;
            }
            hasher.update(chunk);
            length += chunk.len() as u64;
            if length > preamble.files_plain {
                return Err(corrupt("the list of files is longer than it declares"));
            }
            let used = chunk.len();
            reader.consume(used);
        }
    }
    if length != preamble.files_plain || finish16(&hasher) != preamble.files_digest {
        return Err(corrupt("the digest of the list of files is wrong"));
    }
    Ok(())
}

/// The entries of a backup, one after another.
pub struct Files {
    reader: BackupReader,
    lines: Option<Lines>,
    /// In the plain lines, for messages.
    offset: u64,
    last: Vec<u8>,
    finished: bool,
}

impl Files {
    fn read(&mut self) -> Result<Option<FileEntry>> {
        let inner = &self.reader.inner;
        let corrupt =
            |what: &str| RepoError::corrupt(inner.manifest_key.clone(), inner.preamble.files_offset(), what);
        if inner.lines.is_empty() {
            return Ok(None);
        }
        let broken = |_| corrupt("the list of files cannot be decompressed");
        let lines = match &mut self.lines {
            Some(lines) => lines,
            lines => lines.insert(open_lines(&inner.lines).map_err(broken)?),
        };
        let mut line = Vec::new();
        lines.take(MAX_LINE).read_until(b'\n', &mut line).map_err(broken)?;
        if line.is_empty() {
            return Ok(None);
        }
        let at = self.offset;
        self.offset += line.len() as u64;
        if line.pop() != Some(b'\n') {
            return Err(corrupt(&format!("a line at {at} is too long or cut")));
        }
        let entry = decode_line(&line, &inner.header.packs)
            .map_err(|m| corrupt(&format!("the line at {at}: {}", m.0)))?;
        if at > 0 && entry.meta.path <= self.last {
            return Err(corrupt(&format!("the line at {at} is out of order")));
        }
        self.last.clone_from(&entry.meta.path);
        Ok(Some(entry))
    }
}

impl Iterator for Files {
    type Item = Result<FileEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let read = self.read();
        self.finished = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Files({}, at {})", self.reader.inner.manifest_key, self.offset)
    }
}

/// The block map of one file.
#[derive(Clone, Debug)]
pub struct BlockMap {
    reader: BackupReader,
    length: u64,
    root: Option<(PieceRef, Root)>,
    runs: Vec<BlockRun>,
}

impl BlockMap {
    /// The length of the file in bytes; its last block is padded with zeros in the frames.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many blocks it has.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        self.root.as_ref().map_or(0, |(_, root)| root.block_count)
    }

    /// Where the blocks are: in order, every block once.
    #[must_use]
    pub fn runs(&self) -> &[BlockRun] {
        &self.runs
    }

    /// The digest of every block.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`], [`RepoError::NotFound`] where a pack is gone, or when the storage fails.
    pub fn digests(&self) -> Result<Vec<BlockDigest>> {
        let Some((piece, root)) = &self.root else { return Ok(Vec::new()) };
        let leaves = match &root.leaves {
            Leaves::Inline { digests, .. } => return Ok(digests.clone()),
            Leaves::Pieces { leaves, .. } => leaves,
        };
        if root.block_count > MAX_DIGESTS {
            return Err(self.reader.corrupt(piece, Malformed("a block map has too many digests")));
        }
        let key = self.reader.inner.stanza.repository().digest_key();
        let zero = self.reader.inner.zero;
        let layout = root.layout();
        let mut all = Vec::with_capacity((root.block_count as usize).min(1 << 20));
        for (leaf, index) in leaves.iter().zip(0..) {
            let (_, count) = layout.leaf(index);
            let digests = match &leaf.pieces {
                None => vec![zero; count as usize],
                Some((_, digests)) => self.reader.piece(FrameKind::Digests, digests, decode_digests)?,
            };
            if digests.len() != count as usize || key.leaf(&digests) != leaf.digest {
                let piece = leaf.pieces.as_ref().map_or(piece, |(_, digests)| digests);
                return Err(self.reader.corrupt(piece, Malformed("the digest of a leaf is wrong")));
            }
            all.extend(digests);
        }
        Ok(all)
    }
}
