//! Data in custom archives: blocks, made of chunks.
//!
//! A block is a type byte and the entry's number, then for rows chunks (a length and bytes) up to a length of 0, and for
//! large objects an OID with its chunks for each, up to an OID of 0. The bytes of all chunks of a table, or of one large
//! object, together are one compressed stream.

use std::io::{self, Read};

use super::decode::ArchiveDecoder;
use super::encode::{write_id, write_int};
use super::{ArchiveError, DumpId};

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Rows of a table.
    Data,
    /// Large objects.
    LargeObjects,
}

/// The start of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// What it holds.
    pub kind: BlockKind,
    /// Whose data it is. Blocks of entries that the table does not list are allowed.
    pub dump_id: DumpId,
}

impl<R: Read> ArchiveDecoder<R> {
    /// Reads the start of a block; none at the end of the archive.
    ///
    /// # Errors
    /// When there is no block here.
    pub fn block(&mut self) -> Result<Option<BlockHeader>, ArchiveError> {
        let position = self.position();
        let kind = match self.byte_or_end()? {
            None => return Ok(None),
            Some(1) => BlockKind::Data,
            Some(3) => BlockKind::LargeObjects,
            Some(block_type) => return Err(ArchiveError::BlockType { block_type, position }),
        };
        let dump_id = self.int()?;
        let dump_id = u32::try_from(dump_id).map_err(|_| ArchiveError::DumpId(dump_id.into()))?;
        Ok(Some(BlockHeader { kind, dump_id: DumpId(dump_id) }))
    }

    /// Reads the OID of the next large object of a block; none at the end of the block.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn large_object(&mut self) -> Result<Option<u32>, ArchiveError> {
        let oid = self.int()?.cast_unsigned();
        Ok((oid != 0).then_some(oid))
    }

    /// Reads the length of the next chunk; none after the last one.
    ///
    /// # Errors
    /// At the end of the input, and when the length is negative.
    pub fn chunk(&mut self) -> Result<Option<u64>, ArchiveError> {
        let length = self.int()?;
        match u64::try_from(length) {
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(length)),
            Err(_) => Err(ArchiveError::Number { position: self.position() }),
        }
    }

    /// The bytes of the chunks that follow.
    pub fn chunks(&mut self) -> ChunkReader<'_, R> {
        ChunkReader { decoder: self, remaining: 0, ended: false }
    }
}

/// The bytes of a series of chunks, as one stream that ends with the series.
///
/// Errors of the archive come as [`io::Error`]s that hold an [`ArchiveError`].
#[derive(Debug)]
pub struct ChunkReader<'a, R> {
    decoder: &'a mut ArchiveDecoder<R>,
    remaining: u64,
    ended: bool,
}

impl<R: Read> ChunkReader<'_, R> {
    /// Reads over what is left.
    ///
    /// # Errors
    /// As reading it would.
    pub fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(|_| ())
    }
}

impl<R: Read> Read for ChunkReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if self.remaining == 0 {
            match self.decoder.chunk().map_err(io::Error::other)? {
                None => {
                    self.ended = true;
                    return Ok(0);
                }
                Some(length) => self.remaining = length,
            }
        }
        let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..length) else { return Ok(0) };
        self.decoder.bytes(part).map_err(io::Error::other)?;
        self.remaining -= length as u64;
        Ok(length)
    }
}

/// Appends the start of a block.
pub fn write_block(out: &mut Vec<u8>, block: BlockHeader) {
    out.push(match block.kind {
        BlockKind::Data => 1,
        BlockKind::LargeObjects => 3,
    });
    write_id(out, block.dump_id.0);
}

/// Appends the OID that begins a large object in a block; 0 ends the block.
pub fn write_large_object(out: &mut Vec<u8>, oid: u32) {
    write_id(out, oid);
}

/// Appends bytes as chunks. Nothing for no bytes: an empty chunk ends the series, see [`write_chunk_end`].
pub fn write_chunks(out: &mut Vec<u8>, bytes: &[u8]) {
    // The length is a signed number of 32 bits, and readers hold a chunk in memory.
    for piece in bytes.chunks(1 << 20) {
        write_int(out, i32::try_from(piece.len()).unwrap_or(i32::MAX));
        out.extend_from_slice(piece);
    }
}

/// Appends the end of a series of chunks.
pub fn write_chunk_end(out: &mut Vec<u8>) {
    write_int(out, 0);
}
