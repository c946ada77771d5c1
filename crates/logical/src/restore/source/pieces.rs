//! Reading rows by pgkeep's index of pieces, so that several sessions load one table.
//!
//! The index is only believed where it fits the archive that it is in, and what a piece holds is compared with its digest
//! before whoever takes it may keep it. Source: `docs/format/dump-archive.md`.

use std::collections::HashMap;
use std::io::{self, Read};

use pgkeep_format::archive::{
    ArchiveDecoder, ArchiveError, DataKind, DataPiece, DumpId, IndexedEntry, TocEntry,
};
use pgkeep_tool::compress::piece_digest;
use pgkeep_tool::{Result, ToolError};

use super::{Piece, Sink, Source, pass};
use crate::restore::contents::Contents;

/// What COPY's binary form begins with: its signature, flags, and no extension.
const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
const BINARY_TRAILER: [u8; 2] = [0xff; 2];

/// The pieces of an archive's entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pieces {
    entries: HashMap<DumpId, IndexedEntry>,
}

impl Pieces {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The pieces of an entry.
    pub(crate) fn of(&self, id: DumpId) -> Option<&IndexedEntry> {
        self.entries.get(&id)
    }

    /// The pieces of an entry's rows, when they can be loaded apart.
    pub(crate) fn of_rows(&self, entry: &TocEntry) -> Option<&IndexedEntry> {
        let is_copy = entry.desc == "TABLE DATA"
            && entry.copy_statement.as_deref().is_some_and(|copy| !copy.is_empty());
        self.of(entry.dump_id).filter(|indexed| {
            is_copy && matches!(indexed.kind, DataKind::Text | DataKind::Binary) && indexed.pieces.len() > 1
        })
    }
}

impl Source {
    /// The index, as far as it fits; empty when the archive has none.
    ///
    /// # Errors
    /// When there is one that is damaged. The archive may be read without it all the same.
    pub(crate) fn pieces(&mut self, contents: &Contents) -> Result<Pieces> {
        let index = match self {
            Source::Custom(custom) => custom.index()?,
            Source::Directory(directory) => directory.index()?,
            Source::Tar(tar) => tar.index()?,
            Source::Live(_) => None,
        };
        let Some(index) = index else { return Ok(Pieces::default()) };
        let compression = index.compression;
        let mut entries = HashMap::new();
        for indexed in index.entries {
            let Some(entry) = contents.index_of(indexed.dump_id).map(|place| &contents.entries[place]) else {
                continue;
            };
            let fits = match self {
                Source::Custom(custom) => custom.fits(entry, &indexed, compression),
                Source::Directory(directory) => directory.fits(entry, &indexed, compression),
                Source::Tar(tar) => tar.fits(entry, &indexed)?,
                Source::Live(_) => false,
            };
            if fits {
                entries.insert(indexed.dump_id, indexed);
            }
        }
        Ok(Pieces { entries })
    }

    /// Hands one piece of an entry's rows to the sink: what a COPY of its own takes.
    ///
    /// # Errors
    /// When it cannot be read, or is not what the index says. What the sink got is not to be kept then.
    pub(crate) fn piece(
        &mut self,
        entry: &TocEntry,
        indexed: &IndexedEntry,
        number: usize,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let Some(piece) = indexed.pieces.get(number) else { return Ok(()) };
        let is_binary = indexed.kind == DataKind::Binary;
        if is_binary && number > 0 {
            sink(Piece::Bytes(BINARY_HEADER))?;
        }
        self.checked_piece(entry, piece, sink)?;
        if is_binary && number + 1 < indexed.pieces.len() {
            sink(Piece::Bytes(&BINARY_TRAILER))?;
        }
        Ok(())
    }

    /// What a piece holds, compared with the index.
    pub(crate) fn checked_piece(
        &mut self,
        entry: &TocEntry,
        piece: &DataPiece,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let place = format!("entry {}, piece at byte {}", entry.dump_id, piece.offset);
        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        {
            let reader: Box<dyn Read + '_> = match self {
                Source::Custom(custom) => custom.piece(piece, &place)?,
                Source::Directory(directory) => directory.piece(entry, piece, &place)?,
                Source::Tar(tar) => tar.piece(entry, piece)?,
                Source::Live(_) => Box::new(io::empty()),
            };
            // One byte more shows that it holds too much.
            pass(&mut reader.take(piece.plain_length.saturating_add(1)), &place, &mut |part| {
                if let Piece::Bytes(bytes) = part {
                    hasher.update(bytes);
                    length += bytes.len() as u64;
                }
                sink(part)
            })?;
        }
        if length != piece.plain_length || piece_digest(&hasher) != piece.digest {
            return Err(differs(&place));
        }
        Ok(())
    }
}

/// Data that is not what the index says.
pub(in crate::restore) fn differs(place: &str) -> ToolError {
    ToolError::new(format!("the data is not what the archive's index says ({place})"))
        .hint("the archive is damaged: use another copy of it, or leave this entry out with -L")
}

/// Whether each piece begins where the one before ends.
pub(super) fn are_joined(indexed: &IndexedEntry) -> bool {
    let ends = indexed.pieces.iter().map(|piece| piece.offset.saturating_add(piece.length));
    ends.zip(indexed.pieces.iter().skip(1)).all(|(end, next)| end == next.offset)
}

/// The bytes of the chunks of one piece.
pub(super) struct PieceChunks<'a, R> {
    decoder: &'a mut ArchiveDecoder<R>,
    /// Where the piece ends.
    end: u64,
    /// What is left of a chunk.
    chunk: u64,
}

impl<'a, R: Read> PieceChunks<'a, R> {
    /// The decoder stands where the piece begins.
    pub(super) fn new(decoder: &'a mut ArchiveDecoder<R>, length: u64) -> PieceChunks<'a, R> {
        let end = decoder.position().saturating_add(length);
        PieceChunks { decoder, end, chunk: 0 }
    }
}

impl<R: Read> Read for PieceChunks<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let position = self.decoder.position();
        if self.chunk == 0 {
            if position >= self.end {
                return Ok(0);
            }
            let chunk = self.decoder.chunk().map_err(io::Error::other)?;
            let left = self.end.saturating_sub(self.decoder.position());
            self.chunk = chunk
                .filter(|chunk| *chunk <= left)
                .ok_or_else(|| io::Error::other(ArchiveError::Number { position }))?;
        }
        let length = usize::try_from(self.chunk).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..length) else { return Ok(0) };
        self.decoder.bytes(part).map_err(io::Error::other)?;
        self.chunk -= length as u64;
        Ok(length)
    }
}
