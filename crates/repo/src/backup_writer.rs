//! Writes one backup: frames into packs, block maps, then the manifest that makes the backup exist.
//!
//! Packs are streamed; what is held in memory is the part that is being gathered, the list of frames of the open pack and
//! the compressed lines of the manifest. Nothing that is written is visible as a backup until [`BackupWriter::commit`]
//! stores the manifest, which fails where the backup was declared abandoned meanwhile. A backup that fails before can
//! leave its packs for the next one ([`BackupWriter::leave`], [`crate::Leftovers`]).
//!
//! A backup may build on another one of the stanza: files, leaves of maps and frames that did not change stay where they
//! are, in the packs of earlier backups, which the new manifest lists. It is complete all the same: whoever reads it
//! never asks for the parent, which can be deleted at any time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::backup_reader::BackupReader;
use crate::block_map::{BlockMapBuilder, ShareCount};
use crate::error::Result;
use crate::format_version::FORMAT;
use crate::frame::{EncodedFrame, FrameRef};
use crate::journal::PlacedBlocks;
use crate::lease;
use crate::manifest::{FileEntry, FileKind, FileMeta, ManifestHeader, PackEntry, Totals, is_safe_path};
use crate::manifest_writer::{ManifestLines, assemble};
use crate::map_writer::{MapWriter, MappedFile};
use crate::pack::PACK_TRAILER_LEN;
use crate::pack_set::PackSet;
use crate::parent_map::ParentMap;
use crate::stanza::Stanza;
use crate::stored_manifest::{self, Packs};
use crate::wal_object::{self, WalObject};
use crate::{BackupId, RepoError, key};

/// A backup that is being written.
#[derive(Debug)]
pub struct BackupWriter {
    stanza: Stanza,
    id: BackupId,
    block_size: u32,
    packs: PackSet,
    maps: Option<MapWriter>,
    lines: ManifestLines,
    /// Places of packs in the header's table, in the order in which lines named them first.
    pack_indexes: BTreeMap<(u32, u32), u64>,
    /// What the backup needs of each pack: of the parent's at first, less what goes, plus what comes.
    needs: ShareCount,
    parent: Option<Parent>,
    totals: Totals,
    wal_tail: Vec<String>,
    tail_bytes: u64,
    /// Nothing is left to remove when the writer is dropped.
    settled: bool,
}

/// The backup that this one builds on.
#[derive(Debug)]
struct Parent {
    reader: BackupReader,
    packs: BTreeMap<(u32, u32), PackEntry>,
    /// Of these nothing is kept that can be written anew.
    rewrite: BTreeSet<(u32, u32)>,
    /// Its files of which nothing was said yet.
    files_left: u64,
}

impl BackupWriter {
    pub(crate) fn begin(stanza: &Stanza, id: BackupId, block_size: u32) -> BackupWriter {
        let key = stanza.repository().digest_key().clone();
        BackupWriter {
            stanza: stanza.clone(),
            id,
            block_size,
            packs: PackSet::new(stanza, id, block_size),
            maps: Some(MapWriter::new(key, block_size)),
            lines: ManifestLines::default(),
            pack_indexes: BTreeMap::new(),
            needs: ShareCount::default(),
            parent: None,
            totals: Totals::default(),
            wal_tail: Vec::new(),
            tail_bytes: 0,
            settled: false,
        }
    }

    /// Closes packs at another size than 256 MiB. Storages bill by the object, people delete by the pack.
    pub fn set_pack_bytes(&mut self, bytes: u64) {
        self.packs.set_pack_bytes(bytes);
    }

    /// The id that the backup has, or would have had.
    #[must_use]
    pub fn id(&self) -> BackupId {
        self.id
    }

    /// Bytes of packs written so far.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.packs.stored_bytes() + self.tail_bytes
    }

    /// Gives a frame of blocks its place.
    ///
    /// # Errors
    /// When the storage fails; the backup cannot be committed then.
    pub fn append(&mut self, frame: EncodedFrame) -> Result<FrameRef> {
        self.append_blocks(frame, &[])
    }

    /// As [`append`](Self::append), noting what the frame holds, so that a later backup can go on with it where this one is
    /// interrupted. `blocks` are in the order of their positions.
    ///
    /// # Errors
    /// As `append`.
    pub fn append_blocks(&mut self, frame: EncodedFrame, blocks: &[PlacedBlocks<'_>]) -> Result<FrameRef> {
        self.packs.append_blocks(frame, blocks)
    }

    /// Adds a regular file. The map covers every block of it; for an empty file it is empty.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where the map does not fit the size, or when the storage fails.
    pub fn add_file(&mut self, meta: FileMeta, map: BlockMapBuilder) -> Result<()> {
        check_path(&meta.path)?;
        self.totals.files += 1;
        self.totals.size_bytes += meta.size;
        if meta.size == 0 {
            if !map.is_empty() {
                return Err(RepoError::unrepresentable("an empty file with blocks"));
            }
            return self.push_entry(&FileEntry { meta, kind: FileKind::File { root: None } });
        }
        self.add_map(meta, map, None)
    }

    fn add_map(&mut self, meta: FileMeta, map: BlockMapBuilder, parent: Option<&ParentMap>) -> Result<()> {
        let mut done = Vec::new();
        if let Some(maps) = &mut self.maps {
            maps.add(meta, map, parent, &mut self.packs, &mut done)?;
        }
        done.iter().try_for_each(|file| self.push_file(file))
    }

    /// Builds on a backup of the same stanza: its packs may be referred to, except those in `rewrite` (by epoch and number):
    /// block maps that lie there are written anew. Blocks are where the caller says that they are. Every regular file of it must then be told
    /// of exactly once, by [`keep_file`](Self::keep_file), [`add_changed_file`](Self::add_changed_file) or
    /// [`drop_file`](Self::drop_file): what the new backup needs is reckoned from what the parent needs.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where the parent is of another stanza or another block size, or files were added
    /// already.
    pub fn build_on(&mut self, parent: &BackupReader, rewrite: &BTreeSet<(u32, u32)>) -> Result<()> {
        let header = parent.header();
        if parent.stanza().name() != self.stanza.name()
            || parent.stanza().repository().id_bytes() != self.stanza.repository().id_bytes()
            || header.block_size != self.block_size
            || self.totals != Totals::default()
        {
            return Err(RepoError::unrepresentable(format!("a backup that builds on `{}`", parent.id())));
        }
        for pack in &header.packs {
            self.needs.add_pack((pack.epoch, pack.number), pack.live_bytes);
        }
        let packs = header.packs.iter().map(|pack| ((pack.epoch, pack.number), pack.clone())).collect();
        if let Some(maps) = &mut self.maps {
            maps.rewrite(rewrite);
        }
        self.parent = Some(Parent {
            reader: parent.clone(),
            packs,
            rewrite: rewrite.clone(),
            files_left: header.totals.files,
        });
        Ok(())
    }

    /// Adds a file whose bytes are exactly those that `entry` of the parent has: nothing but its line is written.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where there is no parent, or the sizes differ.
    pub fn keep_file(&mut self, meta: FileMeta, entry: &FileEntry) -> Result<()> {
        check_path(&meta.path)?;
        if meta.size != entry.meta.size {
            return Err(RepoError::unrepresentable(format!("`{}` with another size", entry.path_text())));
        }
        if let (Some(parent), FileKind::File { root: Some(root) }) = (&self.parent, &entry.kind)
            && parent.rewrite.contains(&root.frame.pack_name())
        {
            return self.add_changed_file(meta, BlockMapBuilder::default(), entry);
        }
        self.take_parent_file()?;
        self.totals.files += 1;
        self.totals.size_bytes += meta.size;
        self.push_entry(&FileEntry { meta, kind: entry.kind.clone() })
    }

    /// Adds a file of which `changes` says where some blocks are; all others are those that `entry` of the parent has.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where that leaves a block without a place, and as [`BackupReader::map`] when the
    /// parent's map cannot be read.
    pub fn add_changed_file(
        &mut self,
        meta: FileMeta,
        changes: BlockMapBuilder,
        entry: &FileEntry,
    ) -> Result<()> {
        let Some(parent) = &self.parent else { return Err(no_parent()) };
        match parent.reader.parent_map(entry)? {
            Some(map) if meta.size > 0 => {
                check_path(&meta.path)?;
                self.give_up(&map)?;
                self.totals.files += 1;
                self.totals.size_bytes += meta.size;
                self.add_map(meta, changes, Some(&map))
            }
            _ => {
                self.drop_file(entry)?;
                self.add_file(meta, changes)
            }
        }
    }

    /// Says that a file of the parent is not in this backup, or was added again as a whole.
    ///
    /// # Errors
    /// As [`BackupReader::map`] when its map cannot be read.
    pub fn drop_file(&mut self, entry: &FileEntry) -> Result<()> {
        let Some(parent) = &self.parent else { return Err(no_parent()) };
        match parent.reader.parent_map(entry)? {
            Some(map) => self.give_up(&map),
            None => self.take_parent_file(),
        }
    }

    fn give_up(&mut self, map: &ParentMap) -> Result<()> {
        self.take_parent_file()?;
        self.needs.subtract_all(&map.shares()).map_err(|m| map.corrupt(m))
    }

    fn take_parent_file(&mut self) -> Result<()> {
        let parent = self.parent.as_mut().ok_or_else(no_parent)?;
        parent.files_left = parent
            .files_left
            .checked_sub(1)
            .ok_or_else(|| RepoError::unrepresentable("a file of the parent that was told of twice"))?;
        Ok(())
    }

    /// Adds a directory; the data directory itself is not one of them.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where the path is not a relative one.
    pub fn add_directory(&mut self, path: impl Into<Vec<u8>>, mode: u32, mtime: i64) -> Result<()> {
        self.totals.directories += 1;
        self.add_plain(path.into(), mode, mtime, FileKind::Directory)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`RepoError::Unrepresentable`] where the path is not a relative one.
    pub fn add_symlink(
        &mut self,
        path: impl Into<Vec<u8>>,
        mode: u32,
        mtime: i64,
        target: impl Into<Vec<u8>>,
    ) -> Result<()> {
        self.totals.symlinks += 1;
        self.add_plain(path.into(), mode, mtime, FileKind::Symlink { target: target.into() })
    }

    fn add_plain(&mut self, path: Vec<u8>, mode: u32, mtime: i64, kind: FileKind) -> Result<()> {
        check_path(&path)?;
        self.push_entry(&FileEntry { meta: FileMeta { path, mode, mtime, size: 0 }, kind })
    }

    fn push_file(&mut self, file: &MappedFile) -> Result<()> {
        self.needs.add_all(&file.shares);
        self.push_entry(&file.entry)
    }

    fn push_entry(&mut self, entry: &FileEntry) -> Result<()> {
        let indexes = &mut self.pack_indexes;
        let line = crate::manifest::encode_line(entry, |frame| {
            let next = indexes.len() as u64;
            *indexes.entry((frame.epoch, frame.pack)).or_insert(next)
        });
        self.lines.push(entry.meta.path.clone(), line)
    }

    /// The table of packs: those that lines name, in the order of their indexes, then the others that are needed, and
    /// the rest of this backup's own.
    fn pack_table(&mut self) -> Result<Vec<PackEntry>> {
        let mut known: BTreeMap<(u32, u32), PackEntry> =
            self.parent.as_mut().map(|parent| std::mem::take(&mut parent.packs)).unwrap_or_default();
        let own: Vec<PackEntry> = self.packs.take_written();
        let own_names: Vec<(u32, u32)> = own.iter().map(|pack| (pack.epoch, pack.number)).collect();
        known.extend(own.into_iter().map(|pack| ((pack.epoch, pack.number), pack)));
        let mut named: Vec<((u32, u32), u64)> = std::mem::take(&mut self.pack_indexes).into_iter().collect();
        named.sort_by_key(|(_, index)| *index);
        let mut order: Vec<(u32, u32)> = named.into_iter().map(|(pack, _)| pack).collect();
        let needs = self.needs.shares();
        let others = needs.iter().map(|share| (share.epoch, share.pack)).chain(own_names);
        let listed: BTreeSet<(u32, u32)> = order.iter().copied().collect();
        let others: BTreeSet<(u32, u32)> = others.filter(|pack| !listed.contains(pack)).collect();
        order.extend(others);
        order
            .into_iter()
            .map(|pack| {
                let mut entry = known.remove(&pack).ok_or_else(|| {
                    RepoError::unrepresentable("a backup that needs a pack which its parent does not have")
                })?;
                entry.live_bytes = self.needs.of(pack);
                Ok(entry)
            })
            .collect()
    }

    /// Keeps a WAL file with this very backup: the unfinished last segment of a backup from a standby.
    ///
    /// # Errors
    /// [`RepoError::AlreadyExists`] for a second one of the same name, or when the storage fails.
    pub fn put_wal_tail(&mut self, object: &WalObject<'_>) -> Result<()> {
        let repository = self.stanza.repository();
        let name = object.file_name();
        let key = key::backup_wal(self.stanza.name(), self.id, &name);
        let encoded = wal_object::encode(object, repository.id_bytes(), repository.digest_key())?;
        let bytes: u64 = encoded.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if !repository.store().put_new_chunks(&key, encoded.chunks)? {
            return Err(RepoError::AlreadyExists { key });
        }
        self.tail_bytes += bytes;
        self.wal_tail.push(name);
        Ok(())
    }

    /// Finishes the packs, checks that nobody declared the backup dead, and stores the manifest: from then on the backup
    /// exists. Returns the header as it was stored.
    ///
    /// # Errors
    /// [`RepoError::Fenced`], [`RepoError::Removed`], or when the storage fails. The packs are removed as far as possible then, unless the
    /// manifest may have been stored in spite of the error.
    pub fn commit(mut self, header: ManifestHeader) -> Result<ManifestHeader> {
        let (header, chunks) = self.prepare(header)?;
        let key = key::manifest(self.stanza.name(), self.id);
        let (packs, stored) = stored_manifest::create(&self.stanza, self.id, key, chunks);
        self.settled = packs == Packs::Needed;
        stored.map(|()| header)
    }

    /// Everything that comes before the manifest: packs are durable, and the manifest is ready.
    fn prepare(&mut self, mut header: ManifestHeader) -> Result<(ManifestHeader, Vec<Bytes>)> {
        if header.block_size != self.block_size {
            return Err(RepoError::unrepresentable("a backup whose block size changed while it was written"));
        }
        let mut done = Vec::new();
        if let Some(mut maps) = self.maps.take() {
            maps.finish(&mut self.packs, &mut done)?;
        }
        done.iter().try_for_each(|file| self.push_file(file))?;
        if self.parent.as_ref().is_some_and(|parent| parent.files_left > 0) {
            return Err(RepoError::unrepresentable("a backup that leaves files of its parent untold"));
        }
        self.packs.close()?;
        self.packs.wait()?;
        let repository = self.stanza.repository().clone();
        header.format = u32::from(FORMAT);
        header.id = self.id;
        header.epoch = self.id.epoch();
        header.stanza = self.stanza.name().to_string();
        header.wal_tail.clone_from(&self.wal_tail);
        header.packs = self.pack_table()?;
        header.totals = Totals { stored_bytes: self.packs.stored_bytes() + self.tail_bytes, ..self.totals };
        let lines = std::mem::take(&mut self.lines).sort(repository.digest_key())?;
        let chunks = assemble(&header, header.epoch, lines, repository.id_bytes(), repository.digest_key())?;
        self.stanza.refuse_unsafe_commit(self.id, &header)?;
        Ok((header, chunks))
    }

    /// Gives up, but leaves what the next backup can go on with: packs that are whole, and the open one. Where most of
    /// them is a copy of what was left before, which is there still, they are removed; so what repeated failures leave is at
    /// most twice what the last one got done.
    ///
    /// Answers whether anything was left.
    pub fn leave(mut self) -> bool {
        self.settled = true;
        let has_left = self.packs.leave();
        self.remove_tails();
        lease::end(&self.stanza, self.id.epoch());
        has_left
    }

    /// Gives up, as dropping does. What was written is removed as far as possible; what stays is rubbish that no manifest
    /// names.
    pub fn abandon(self) {
        drop(self);
    }

    fn discard(&mut self) {
        self.packs.discard();
        self.remove_tails();
        lease::end(&self.stanza, self.id.epoch());
    }

    fn remove_tails(&self) {
        for name in &self.wal_tail {
            let key = key::backup_wal(self.stanza.name(), self.id, name);
            drop(self.stanza.repository().store().delete(&key));
        }
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        if !self.settled {
            self.discard();
        }
    }
}

fn no_parent() -> RepoError {
    RepoError::unrepresentable("a file of a parent in a backup without one")
}

fn check_path(path: &[u8]) -> Result<()> {
    if is_safe_path(path) {
        return Ok(());
    }
    Err(RepoError::unrepresentable(format!("the path `{}`", String::from_utf8_lossy(path))))
}

/// The largest offset at which a frame of a pack of this size may end.
pub(crate) fn frames_end(pack_size: u64) -> u64 {
    pack_size.saturating_sub(PACK_TRAILER_LEN as u64)
}
