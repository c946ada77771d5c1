//! Walks the block maps of several backups side by side, by path: what backups share is read and checked once.
//!
//! Two uses of one walk. *Whole*: every root and every leaf of every map is read and proved. *Compared*: the leaves that lead
//! into the frames of a batch are compared with what these frames hold, block by block; damage of frames gets its files,
//! blocks and backups; page checksums are looked at again.

use std::collections::BTreeMap;
use std::iter::Peekable;

use pgkeep_format::Lsn;
use pgkeep_format::page::{PageVerdict, page_lsn};
use pgkeep_format::relation::RelationFile;
use pgkeep_repo::{
    BackupId, BackupReader, BlockDigest, FileEntry, FileKind, Files, FrameRef, MapLeaf, MapLeaves, PieceRef,
    RepoError, RunTarget,
};

use super::damage::{DamageKind, FileName, Findings, PlaceName};
use super::pack_reading::{FrameTable, Lookup};
use crate::error::Result;
use crate::event::Cancel;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every root and leaf.
    Whole,
    /// What leads into the batch.
    Compared,
}

/// What a walk did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WalkAmounts {
    pub(super) files: u64,
    pub(super) pages: u64,
}

struct Cursor {
    reader: BackupReader,
    files: Peekable<Files>,
    version_directory: String,
}

/// A page whose checksum is wrong; whether that is damage depends on the backup.
#[derive(Clone, Copy)]
struct Suspect {
    block: u32,
    frame: FrameRef,
    lsn: Lsn,
}

/// What was found in a leaf; the next backup with the same leaf has the same.
#[derive(Clone, Default)]
struct Outcome {
    damage: Vec<(PlaceName, u32, u32)>,
    suspects: Vec<Suspect>,
}

/// Walks these backups, at most some at a time: each open one holds its compressed list of files.
pub(super) fn walk(
    readers: &[BackupReader],
    depth: Depth,
    table: &FrameTable,
    findings: &Findings,
    cancel: &Cancel,
) -> Result<WalkAmounts> {
    let mut cursors: Vec<Cursor> = readers
        .iter()
        .map(|reader| {
            let header = reader.header();
            Cursor {
                reader: reader.clone(),
                files: reader.files().peekable(),
                version_directory: format!("PG_{}_{}", header.major, header.catalog_version),
            }
        })
        .collect();
    let mut walk = Walk { depth, table, findings, amounts: WalkAmounts::default() };
    while let Some(group) = walk.next_path(&mut cursors)? {
        cancel.check()?;
        walk.path(&cursors, &group)?;
    }
    Ok(walk.amounts)
}

struct Walk<'a> {
    depth: Depth,
    table: &'a FrameTable,
    findings: &'a Findings,
    amounts: WalkAmounts,
}

impl Walk<'_> {
    /// The entries of the smallest path that is left, with the places of their cursors.
    fn next_path(&self, cursors: &mut [Cursor]) -> Result<Option<Vec<(usize, FileEntry)>>> {
        let mut smallest: Option<Vec<u8>> = None;
        for cursor in cursors.iter_mut() {
            // A line that cannot be understood ends the list: what follows is unknown.
            if matches!(cursor.files.peek(), Some(Err(_)))
                && let Some(Err(error)) = cursor.files.next()
            {
                let place = self.findings.error(cursor.reader.manifest_key(), error)?;
                self.findings.needed_by(&place, [cursor.reader.id()]);
            }
            if let Some(Ok(entry)) = cursor.files.peek()
                && smallest.as_ref().is_none_or(|path| entry.meta.path < *path)
            {
                smallest = Some(entry.meta.path.clone());
            }
        }
        let Some(path) = smallest else { return Ok(None) };
        let mut group = Vec::new();
        for (index, cursor) in cursors.iter_mut().enumerate() {
            if matches!(cursor.files.peek(), Some(Ok(entry)) if entry.meta.path == path)
                && let Some(Ok(entry)) = cursor.files.next()
            {
                group.push((index, entry));
            }
        }
        Ok(Some(group))
    }

    fn path(&mut self, cursors: &[Cursor], group: &[(usize, FileEntry)]) -> Result<()> {
        // By where the root lies: backups in which the file did not change share it.
        let mut roots: BTreeMap<(PieceRef, u64), Vec<(usize, &FileEntry)>> = BTreeMap::new();
        for (index, entry) in group {
            if let FileKind::File { root } = entry.kind {
                self.amounts.files += 1;
                if let Some(root) = root {
                    roots.entry((root, entry.meta.size)).or_default().push((*index, entry));
                }
            }
        }
        let mut known: BTreeMap<(PieceRef, PieceRef), Option<Box<Outcome>>> = BTreeMap::new();
        for owners in roots.values() {
            let Some((first, entry)) = owners.first().copied() else { continue };
            let Some(cursor) = cursors.get(first) else { continue };
            let owning: Vec<&Cursor> = owners.iter().filter_map(|(index, _)| cursors.get(*index)).collect();
            let shown = entry.path_text();
            let name = FileName {
                relation: RelationFile::parse_path(&shown, &cursor.version_directory),
                path: shown,
            };
            let file = File { name, size: entry.meta.size, owners: owning };
            match cursor.reader.map_leaves(entry) {
                Ok(Some(leaves)) => self.leaves(&leaves, &file, &mut known)?,
                Ok(None) => {}
                Err(error) => {
                    let blocks = file.size.div_ceil(u64::from(cursor.reader.header().block_size));
                    let last = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
                    let place = self.metadata(cursor, error)?;
                    self.attribute(&file, &[(place, 0, last)]);
                }
            }
        }
        Ok(())
    }

    /// What cannot be read of a map is damage of the frame that it lies in.
    fn metadata(&self, cursor: &Cursor, error: RepoError) -> Result<PlaceName> {
        self.findings.error(cursor.reader.manifest_key(), error)
    }

    fn attribute(&self, file: &File<'_>, damage: &[(PlaceName, u32, u32)]) {
        for (place, first, last) in damage {
            self.findings.touches(place, &file.name, *first, *last);
            self.findings.needed_by(place, file.owners.iter().map(|cursor| cursor.reader.id()));
        }
    }

    fn leaves(
        &mut self,
        leaves: &MapLeaves,
        file: &File<'_>,
        known: &mut BTreeMap<(PieceRef, PieceRef), Option<Box<Outcome>>>,
    ) -> Result<()> {
        let compares =
            !self.table.is_empty() && leaves.needs_any(|epoch, pack| self.table.has_pack(epoch, pack));
        if self.depth == Depth::Compared && !compares {
            return Ok(());
        }
        let Some(cursor) = file.owners.first() else { return Ok(()) };
        for index in 0..leaves.count() {
            let pieces = leaves.pieces(index);
            let outcome = match pieces.and_then(|pieces| known.get(&pieces)) {
                Some(outcome) => outcome.clone(),
                None => {
                    let found = match leaves.read(index) {
                        Ok(leaf) => self.leaf(&leaf, file, cursor)?,
                        Err(error) => {
                            let (first, count) = leaves.extent(index);
                            let place = self.metadata(cursor, error)?;
                            let damage = vec![(place, first, first.saturating_add(count - 1))];
                            Outcome { damage, suspects: Vec::new() }
                        }
                    };
                    let is_clean = found.damage.is_empty() && found.suspects.is_empty();
                    let outcome = (!is_clean).then(|| Box::new(found));
                    if let Some(pieces) = pieces {
                        known.insert(pieces, outcome.clone());
                    }
                    outcome
                }
            };
            if let Some(outcome) = outcome {
                self.attribute(file, &outcome.damage);
                self.judge(file, &outcome.suspects);
            }
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: &MapLeaf, file: &File<'_>, cursor: &Cursor) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let header = cursor.reader.header();
        let zero = cursor.reader.stanza().repository().digest_key().zero_block(header.block_size);
        for run in &leaf.runs {
            let last = run.first_block.saturating_add(run.count - 1);
            let at = (run.first_block - leaf.first_block) as usize;
            let expected = leaf.digests.get(at..at + run.count as usize).unwrap_or_default();
            let RunTarget::Frame { frame, position } = run.target else {
                if expected.iter().any(|digest| *digest != zero) {
                    let what = "a block map says zeros where its digests say otherwise";
                    let key = cursor.reader.manifest_key();
                    let place = self.findings.place(DamageKind::Mismatch, key, None, what);
                    outcome.damage.push((place, run.first_block, last));
                }
                continue;
            };
            match self.table.look_up(&frame) {
                Lookup::NotRead => {}
                Lookup::Damaged(place) => outcome.damage.push((place.clone(), run.first_block, last)),
                Lookup::Absent => {
                    let what = "a block map names a frame that is not there";
                    outcome.damage.push((self.mismatch(cursor, &frame, what), run.first_block, last));
                }
                Lookup::Sound { digests, pages } => {
                    let from = position as usize;
                    let held = digests.get(from..from + run.count as usize).unwrap_or_default();
                    for (first, last) in differences(expected, held) {
                        let what = "its blocks are not those of which a block map holds the digests";
                        outcome.damage.push((
                            self.mismatch(cursor, &frame, what),
                            run.first_block + first,
                            run.first_block + last,
                        ));
                    }
                    let pages = pages.get(from..from + run.count as usize).unwrap_or_default();
                    if header.checksums
                        && let Some(relation) = &file.name.relation
                    {
                        let before = relation.segment.wrapping_mul(header.relation_segment_blocks);
                        for (block, page) in (run.first_block..).zip(pages) {
                            let end = (u64::from(block) + 1) * u64::from(header.block_size);
                            if end > file.size {
                                break;
                            }
                            self.amounts.pages += 1;
                            let verdict = page.verdict(before.wrapping_add(block));
                            if !matches!(verdict, PageVerdict::Valid | PageVerdict::New) {
                                let lsn = read_lsn(cursor, frame, position + (block - run.first_block))?;
                                outcome.suspects.push(Suspect { block, frame, lsn });
                            }
                        }
                    }
                }
            }
        }
        Ok(outcome)
    }

    fn mismatch(&self, cursor: &Cursor, frame: &FrameRef, what: &str) -> PlaceName {
        let key = cursor.reader.frames().pack_key(frame);
        self.findings.place(DamageKind::Mismatch, &key, Some(frame.offset), what)
    }

    /// A wrong page is no news where the backup names it, and none where replay from the backup's start heals it.
    fn judge(&self, file: &File<'_>, suspects: &[Suspect]) {
        for suspect in suspects {
            for cursor in &file.owners {
                let header = cursor.reader.header();
                let heals = header.start_lsn <= suspect.lsn && suspect.lsn <= header.stop_lsn;
                let listed: u64 = header.bad_pages.files.iter().map(|bad| bad.blocks.len() as u64).sum();
                let is_known = header.bad_pages.total > listed
                    || header
                        .bad_pages
                        .files
                        .iter()
                        .any(|bad| bad.path == file.name.path && bad.blocks.contains(&suspect.block));
                if heals || is_known {
                    continue;
                }
                let key = cursor.reader.frames().pack_key(&suspect.frame);
                let what = "pages with a wrong checksum, of which the backup does not know";
                let place = self.findings.place(DamageKind::BadPages, &key, Some(suspect.frame.offset), what);
                self.findings.touches(&place, &file.name, suspect.block, suspect.block);
                self.findings.needed_by(&place, [cursor.reader.id()]);
            }
        }
    }
}

/// One file, and the backups that have it with the same map.
struct File<'a> {
    name: FileName,
    size: u64,
    owners: Vec<&'a Cursor>,
}

/// The stretches in which two lists differ, as first and last index; a shorter second list differs from its end on.
fn differences(expected: &[BlockDigest], held: &[BlockDigest]) -> Vec<(u32, u32)> {
    let mut stretches: Vec<(u32, u32)> = Vec::new();
    for (index, digest) in (0_u32..).zip(expected) {
        if held.get(index as usize) == Some(digest) {
            continue;
        }
        match stretches.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => stretches.push((index, index)),
        }
    }
    stretches
}

/// The position in the header of one page of a frame that was read before.
fn read_lsn(cursor: &Cursor, frame: FrameRef, position: u32) -> Result<Lsn> {
    let block_size = cursor.reader.header().block_size as usize;
    let plain = cursor.reader.frames().read(frame)?;
    let from = position as usize * block_size;
    Ok(plain.get(from..from + block_size).map_or(Lsn::INVALID, page_lsn))
}

/// Opens backups; one whose manifest cannot be read is damage.
pub(super) fn open(
    stanza: &pgkeep_repo::Stanza,
    ids: impl IntoIterator<Item = BackupId>,
    findings: &Findings,
) -> Result<Vec<BackupReader>> {
    let mut readers = Vec::new();
    for id in ids {
        match stanza.backup(id) {
            Ok(reader) => readers.push(reader),
            // Removed meanwhile: nobody needs it any more.
            Err(RepoError::BackupNotFound { .. }) => {}
            Err(error) => {
                let key = super::inventory::manifest_key(stanza, id);
                let place = findings.error(&key, error)?;
                findings.needed_by(&place, [id]);
            }
        }
    }
    Ok(readers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_stretches() {
        let digest = |n: u8| BlockDigest([n; 8]);
        let expected = [1, 2, 3, 4, 5].map(digest);
        let held = [1, 9, 9, 4].map(digest);
        assert_eq!(differences(&expected, &held), [(1, 2), (4, 4)]);
        assert!(differences(&expected, &expected).is_empty());
    }
}
