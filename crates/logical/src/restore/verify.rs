//! Decoding the data of an archive without restoring it: what each entry holds, and whether that is what the index says.
//!
//! Every byte is read and decompressed. Rows of COPY are counted; pgkeep's index has the rows, the length and a digest of
//! each [piece](super::source), and all of them must agree. Archives of `pg_dump` have no index: what can be told of those is
//! that they can be decoded.

use std::collections::HashMap;

use pgkeep_format::archive::{DataKind, DataLocation, DumpId, IndexedEntry};
use pgkeep_tool::compress::piece_digest;
use pgkeep_tool::{Result, ToolError};

use super::source::{Archive, Piece, Pieces, differs};
use crate::dump::WrittenData;

/// What ends the rows of COPY in an archive.
const END: &[u8] = b"\\.\n\n\n";
/// Its lines.
const LINES_OF_END: u64 = 3;

/// What was found in an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveVerification {
    /// Entries whose data was decoded.
    pub entries: u64,
    /// Of these, tables.
    pub tables: u64,
    /// Rows of them, as far as they are known: those of INSERT commands and of binary COPY are from the index.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of what was decoded.
    pub bytes: u64,
    /// Entries that were compared with an index.
    pub indexed: u64,
    /// What is wrong: the entry in words, none for the index itself, and what.
    pub damage: Vec<(Option<String>, String)>,
}

/// Decodes all data of an archive. `told` hears of bytes, and may end it.
///
/// # Errors
/// Those of `told`. What is wrong with the archive is in the result.
pub fn verify_archive(
    archive: &mut Archive,
    told: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<ArchiveVerification> {
    let mut found = ArchiveVerification::default();
    let pieces = archive.source.pieces(&archive.contents).unwrap_or_else(|error| {
        found.damage.push((None, error.message));
        Pieces::default()
    });
    for entry in &archive.contents.entries {
        if !entry.had_dumper || entry.data == DataLocation::None {
            continue;
        }
        let mut counter = Counter::new(pieces.of(entry.dump_id));
        let mut stopped = None;
        let mut sink = |piece: Piece<'_>| {
            if let Piece::Bytes(bytes) = piece {
                told(bytes.len() as u64).inspect_err(|error| stopped = Some(error.clone()))?;
            }
            counter.take(piece)
        };
        let is_blobs = entry.desc == "BLOBS";
        let read = match is_blobs {
            true => archive.source.large_objects(entry, &mut sink),
            false => archive.source.rows(entry, &mut sink),
        };
        if let Some(error) = stopped {
            return Err(error);
        }
        match read.and_then(|()| counter.end()) {
            Ok(counted) => {
                found.bytes += counted.bytes;
                found.entries += 1;
                found.indexed += u64::from(pieces.of(entry.dump_id).is_some());
                match is_blobs {
                    true => found.large_objects += counted.objects,
                    false => {
                        found.tables += 1;
                        found.rows += counted.rows.unwrap_or(0);
                    }
                }
            }
            Err(error) => {
                let schema = entry.namespace.as_ref().map(|schema| format!("{schema}.")).unwrap_or_default();
                let what = format!("entry {} {} {schema}{}", entry.dump_id, entry.desc, entry.tag);
                found.damage.push((Some(what), error.message));
            }
        }
    }
    Ok(found)
}

/// Decodes the data of these entries, which must be in the order of the table of contents, and counts it.
///
/// # Errors
/// When there is no such entry, or its data cannot be read.
pub fn count_data(archive: &mut Archive, entries: &[DumpId]) -> Result<Vec<WrittenData>> {
    let mut counts = Vec::with_capacity(entries.len());
    let places: HashMap<DumpId, usize> =
        archive.contents.entries.iter().map(|entry| entry.dump_id).zip(0..).collect();
    for id in entries {
        let found = places.get(id).and_then(|place| archive.contents.entries.get(*place));
        let entry = found.ok_or_else(|| ToolError::new(format!("the archive has no entry {id}")))?;
        let mut counter = Counter::new(None);
        let mut sink = |piece: Piece<'_>| counter.take(piece);
        match entry.desc == "BLOBS" {
            true => archive.source.large_objects(entry, &mut sink)?,
            false => archive.source.rows(entry, &mut sink)?,
        }
        let Counted { bytes, rows, .. } = counter.end()?;
        counts.push(WrittenData { bytes, rows });
    }
    Ok(counts)
}

/// What an entry held.
struct Counted {
    bytes: u64,
    rows: Option<u64>,
    objects: u64,
}

/// Counts the data of an entry on its way.
struct Counter<'a> {
    bytes: u64,
    lines: u64,
    objects: u64,
    /// The last bytes.
    tail: Vec<u8>,
    index: Option<Comparison<'a>>,
}

impl<'a> Counter<'a> {
    fn new(indexed: Option<&'a IndexedEntry>) -> Counter<'a> {
        Counter { bytes: 0, lines: 0, objects: 0, tail: Vec::new(), index: indexed.map(Comparison::new) }
    }

    fn take(&mut self, piece: Piece<'_>) -> Result<()> {
        match piece {
            Piece::Bytes(bytes) => {
                self.bytes += bytes.len() as u64;
                self.lines += lines(bytes);
                let kept = bytes.len().saturating_sub(END.len());
                self.tail.extend_from_slice(bytes.get(kept..).unwrap_or(bytes));
                let surplus = self.tail.len().saturating_sub(END.len());
                self.tail.drain(..surplus);
            }
            Piece::LargeObject(_) => self.objects += 1,
            Piece::LargeObjectEnd => {}
        }
        self.index.as_mut().map_or(Ok(()), |index| index.take(piece))
    }

    fn end(self) -> Result<Counted> {
        let Counter { bytes, lines, objects, tail, index } = self;
        let is_copy = objects == 0 && tail == END;
        let counted = is_copy.then(|| lines.saturating_sub(LINES_OF_END));
        let rows = match index {
            Some(index) => index.end()?.or(counted),
            None => counted,
        };
        Ok(Counted { bytes, rows, objects })
    }
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Compares what comes with the pieces of the index, one after the other.
struct Comparison<'a> {
    indexed: &'a IndexedEntry,
    /// The piece that is coming.
    number: usize,
    hasher: blake3::Hasher,
    length: u64,
    lines: u64,
    objects: u64,
    object_length: u64,
}

impl<'a> Comparison<'a> {
    fn new(indexed: &'a IndexedEntry) -> Comparison<'a> {
        Comparison {
            indexed,
            number: 0,
            hasher: blake3::Hasher::new(),
            length: 0,
            lines: 0,
            objects: 0,
            object_length: 0,
        }
    }

    fn take(&mut self, piece: Piece<'_>) -> Result<()> {
        let is_objects = self.indexed.kind == DataKind::LargeObjects;
        match piece {
            Piece::Bytes(bytes) if is_objects => {
                self.hasher.update(bytes);
                self.length += bytes.len() as u64;
                self.object_length += bytes.len() as u64;
            }
            Piece::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    let expected = self.indexed.pieces.get(self.number).ok_or_else(|| self.differs())?;
                    let left = expected.plain_length.saturating_sub(self.length);
                    let (now, later) =
                        bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
                    self.hasher.update(now);
                    self.length += now.len() as u64;
                    self.lines += lines(now);
                    bytes = later;
                    if self.length == expected.plain_length {
                        self.piece_ended()?;
                    }
                }
            }
            Piece::LargeObject(oid) => {
                self.hasher.update(&oid.to_le_bytes());
                self.object_length = 0;
            }
            Piece::LargeObjectEnd => {
                self.hasher.update(&self.object_length.to_le_bytes());
                self.objects += 1;
                let expected = self.indexed.pieces.get(self.number).ok_or_else(|| self.differs())?;
                if self.objects == expected.rows {
                    self.piece_ended()?;
                }
            }
        }
        Ok(())
    }

    fn piece_ended(&mut self) -> Result<()> {
        let Some(expected) = self.indexed.pieces.get(self.number) else { return Err(self.differs()) };
        let is_last = self.number + 1 == self.indexed.pieces.len();
        let rows = match self.indexed.kind {
            DataKind::Text if is_last => self.lines.saturating_sub(LINES_OF_END),
            DataKind::Text => self.lines,
            DataKind::LargeObjects => self.objects,
            DataKind::Binary | DataKind::Commands => expected.rows,
        };
        if self.length != expected.plain_length
            || rows != expected.rows
            || piece_digest(&self.hasher) != expected.digest
        {
            return Err(self.differs());
        }
        self.hasher.reset();
        (self.length, self.lines, self.objects) = (0, 0, 0);
        self.number += 1;
        Ok(())
    }

    /// All that the index has must have come; gives the rows that it has, where bytes do not show them.
    fn end(mut self) -> Result<Option<u64>> {
        // Pieces of nothing say nothing when they end.
        while self.number < self.indexed.pieces.len() {
            self.piece_ended()?;
        }
        let are_not_lines = matches!(self.indexed.kind, DataKind::Binary | DataKind::Commands);
        Ok(are_not_lines.then(|| self.indexed.rows()))
    }

    fn differs(&self) -> ToolError {
        let offset = self.indexed.pieces.get(self.number).map_or(self.indexed.end(), |piece| piece.offset);
        differs(&format!("entry {}, piece at byte {offset}", self.indexed.dump_id))
    }
}
