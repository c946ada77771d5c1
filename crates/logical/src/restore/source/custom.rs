//! Data in custom archives: blocks behind the table of contents.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use pgkeep_format::archive::{
    ArchiveDecoder, ArchiveError, ArchiveFormat, BlockHeader, BlockKind, Compression, DataLocation,
    DataPiece, DumpId, INDEX_DUMP_ID, INDEX_TRAILER_LENGTH, IndexTrailer, IndexedEntry, PieceIndex, TocEntry,
};
use pgkeep_tool::compress::{Framing, buffered_reader, piece_reader};
use pgkeep_tool::{Result, ToolError};

use super::pieces::{PieceChunks, are_joined};
use super::{Piece, ReadSeek, Sink, data_error, pass};
use crate::restore::contents::Contents;

/// A custom archive that is open behind its table.
#[derive(Debug)]
pub(crate) struct Custom {
    decoder: ArchiveDecoder<Bytes>,
    compression: Compression,
    seekable: bool,
    /// Where blocks were seen.
    known: HashMap<DumpId, u64>,
    /// Up to where the file was scanned for blocks.
    scanned: u64,
}

enum Bytes {
    File(BufReader<File>),
    /// What can be read at any place and is no file.
    Seekable(BufReader<Box<dyn ReadSeek + Send>>),
    Stream(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bytes")
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Bytes::File(file) => file.read(buffer),
            Bytes::Seekable(reader) => reader.read(buffer),
            Bytes::Stream(stream) => stream.read(buffer),
        }
    }
}

const BUFFER: usize = 128 << 10;
/// Bytes of the end of a series of chunks.
const CHUNK_END: u64 = 5;

impl Custom {
    pub(super) fn open_file(mut file: File) -> Result<(Contents, Custom)> {
        let seekable = file.stream_position().and_then(|at| file.seek(SeekFrom::Start(at))).is_ok();
        Custom::open(Bytes::File(BufReader::with_capacity(BUFFER, file)), seekable)
    }

    pub(super) fn open_stream(stream: Box<dyn Read + Send>) -> Result<(Contents, Custom)> {
        Custom::open(Bytes::Stream(Box::new(BufReader::with_capacity(BUFFER, stream))), false)
    }

    pub(super) fn open_seekable(reader: Box<dyn ReadSeek + Send>) -> Result<(Contents, Custom)> {
        Custom::open(Bytes::Seekable(BufReader::with_capacity(BUFFER, reader)), true)
    }

    fn open(bytes: Bytes, seekable: bool) -> Result<(Contents, Custom)> {
        let mut decoder = ArchiveDecoder::new(bytes);
        let header = decoder.header(ArchiveFormat::Custom)?;
        let entries = decoder.table(&header)?;
        let (scanned, compression) = (decoder.position(), header.compression);
        let mut custom = Custom { decoder, compression, seekable, known: HashMap::new(), scanned };
        if seekable && entries.iter().any(|entry| entry.data == DataLocation::Unknown) {
            // It was written into a pipe. Without the index blocks are found by looking for them.
            let index = custom.index().ok().flatten().unwrap_or_default();
            custom.known.extend(index.entries.iter().map(|entry| (entry.dump_id, entry.start)));
            custom.seek(scanned)?;
        }
        Ok((Contents::new(header, entries)?, custom))
    }

    /// pgkeep's index; none when the archive does not end with one that was written for it.
    pub(super) fn index(&mut self) -> Result<Option<PieceIndex>> {
        let Some(length) = self.length()? else { return Ok(None) };
        let trailer_length = INDEX_TRAILER_LENGTH as u64;
        let Some(at) = length.checked_sub(trailer_length + CHUNK_END) else { return Ok(None) };
        self.seek(at)?;
        let mut trailer = [0; INDEX_TRAILER_LENGTH];
        self.decoder.bytes(&mut trailer)?;
        let Some(trailer) = IndexTrailer::decode(&trailer) else { return Ok(None) };
        if trailer.block.saturating_add(trailer.length) > at {
            return Ok(None);
        }
        self.seek(trailer.block)?;
        match self.decoder.block() {
            Ok(Some(BlockHeader { kind: BlockKind::Data, dump_id })) if dump_id == INDEX_DUMP_ID => {}
            _ => return Ok(None),
        }
        let mut bytes = Vec::new();
        let place = format!("the index at byte {}", trailer.block);
        (&mut self.decoder.chunks())
            .take(trailer.length)
            .read_to_end(&mut bytes)
            .map_err(|error| data_error(&error, &place))?;
        let index = PieceIndex::decode(&bytes)
            .map_err(|error| ToolError::new(format!("{error} ({place})")).hint("the archive is damaged"))?;
        Ok(Some(index))
    }

    /// Whether the index says of an entry what can be.
    pub(super) fn fits(&self, entry: &TocEntry, indexed: &IndexedEntry, compression: Compression) -> bool {
        let is_there = match entry.data {
            DataLocation::Offset(offset) => offset == indexed.start,
            DataLocation::Unknown => true,
            _ => false,
        };
        is_there && compression == self.compression && are_joined(indexed)
    }

    /// What a piece holds.
    pub(super) fn piece(&mut self, piece: &DataPiece, place: &str) -> Result<Box<dyn Read + '_>> {
        let compression = self.compression;
        self.seek(piece.offset)?;
        let chunks = PieceChunks::new(&mut self.decoder, piece.length);
        piece_reader(BufReader::with_capacity(BUFFER, chunks), compression, Framing::Chunks)
            .map_err(|error| data_error(&error, place))
    }

    /// Bytes of the archive; none where they are not known.
    fn length(&mut self) -> Result<Option<u64>> {
        match self.decoder.get_mut() {
            Bytes::File(file) if self.seekable => file.seek(SeekFrom::End(0)),
            Bytes::Seekable(reader) => reader.seek(SeekFrom::End(0)),
            _ => return Ok(None),
        }
        .map(Some)
        .map_err(|source| ArchiveError::Read { position: 0, source }.into())
    }

    /// The same archive for another thread. The table is read again, which also proves that it is the same.
    pub(super) fn reopen(&self, file: File) -> Result<Custom> {
        if !self.seekable {
            return Err(ToolError::new("parallel restore from non-seekable file is not supported"));
        }
        let (_, mut custom) = Custom::open_file(file)?;
        custom.known.clone_from(&self.known);
        custom.scanned = self.scanned;
        Ok(custom)
    }

    /// Hands out rows or large objects.
    pub(super) fn data(&mut self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        let block = self.find(entry)?;
        let place = format!("entry {} in the block at byte {}", entry.dump_id, self.decoder.position());
        match block.kind {
            BlockKind::Data => self.stream(&place, sink),
            BlockKind::LargeObjects => {
                while let Some(oid) = self.decoder.large_object()? {
                    sink(Piece::LargeObject(oid))?;
                    self.stream(&format!("large object {oid}, {place}"), sink)?;
                    sink(Piece::LargeObjectEnd)?;
                }
                Ok(())
            }
        }
    }

    /// One compressed stream in chunks.
    fn stream(&mut self, place: &str, sink: &mut Sink<'_>) -> Result<()> {
        let mut chunks = self.decoder.chunks();
        {
            let mut reader = buffered_reader(&mut chunks, self.compression, Framing::Chunks)
                .map_err(|error| data_error(&error, place))?;
            pass(&mut *reader, place, sink)?;
        }
        // A decompressor stops where its stream ends, the chunks may go on.
        chunks.skip().map_err(|error| data_error(&error, place))
    }

    /// Goes to the block of an entry, and reads its start.
    fn find(&mut self, entry: &TocEntry) -> Result<BlockHeader> {
        let id = entry.dump_id;
        let offset = match entry.data {
            DataLocation::Offset(offset) => Some(offset),
            _ => self.known.get(&id).copied(),
        };
        if let Some(offset) = offset.filter(|_| self.seekable) {
            self.seek(offset)?;
            return match self.decoder.block()? {
                Some(block) if block.dump_id == id => Ok(block),
                Some(block) => Err(ToolError::new(format!(
                    "found unexpected block ID ({}) when reading data -- expected {id}",
                    block.dump_id
                ))),
                None => Err(ArchiveError::Truncated { position: offset }.into()),
            };
        }
        if self.seekable {
            self.seek(self.scanned)?;
        }
        loop {
            let position = self.decoder.position();
            let Some(block) = self.decoder.block()? else {
                return Err(ToolError::new(if self.seekable {
                    format!("could not find block ID {id} in archive -- possibly corrupt archive")
                } else {
                    format!(
                        "could not find block ID {id} in archive -- possibly due to out-of-order restore request, which cannot be handled due to non-seekable input file"
                    )
                }));
            };
            self.known.entry(block.dump_id).or_insert(position);
            if block.dump_id == id {
                self.scanned = position;
                return Ok(block);
            }
            self.skip(block.kind)?;
            self.scanned = self.decoder.position();
        }
    }

    fn skip(&mut self, kind: BlockKind) -> Result<()> {
        match kind {
            BlockKind::Data => self.skip_chunks(),
            BlockKind::LargeObjects => {
                while self.decoder.large_object()?.is_some() {
                    self.skip_chunks()?;
                }
                Ok(())
            }
        }
    }

    fn skip_chunks(&mut self) -> Result<()> {
        while let Some(length) = self.decoder.chunk()? {
            let position = self.decoder.position();
            let wanted = length;
            let skipped = match (self.decoder.get_mut(), i64::try_from(length)) {
                (Bytes::File(file), Ok(length)) if self.seekable => {
                    file.seek_relative(length).map(|()| wanted)
                }
                (Bytes::Seekable(reader), Ok(length)) => reader.seek_relative(length).map(|()| wanted),
                (bytes, _) => io::copy(&mut bytes.take(wanted), &mut io::sink()),
            }
            .map_err(|source| ArchiveError::Read { position, source })?;
            self.decoder.set_position(position.saturating_add(skipped));
            if skipped < wanted {
                return Err(ArchiveError::Truncated { position: position.saturating_add(skipped) }.into());
            }
        }
        Ok(())
    }

    fn seek(&mut self, offset: u64) -> Result<()> {
        match self.decoder.get_mut() {
            Bytes::File(file) => file.seek(SeekFrom::Start(offset)).map(drop),
            Bytes::Seekable(reader) => reader.seek(SeekFrom::Start(offset)).map(drop),
            Bytes::Stream(_) => Ok(()),
        }
        .map_err(|source| ArchiveError::Read { position: offset, source })?;
        self.decoder.set_position(offset);
        Ok(())
    }

    /// Sizes from one offset to the next, in the order of the table.
    pub(super) fn sizes(&mut self, contents: &Contents) -> Vec<u64> {
        let mut sizes = vec![0; contents.entries.len()];
        let mut previous: Option<(usize, u64)> = None;
        for (index, entry) in contents.entries.iter().enumerate() {
            let offset = match entry.data {
                DataLocation::Offset(offset) => Some(offset),
                DataLocation::Unknown => self.known.get(&entry.dump_id).copied(),
                _ => None,
            };
            let Some(offset) = offset else { continue };
            if let Some((previous, start)) = previous {
                sizes[previous] = offset.saturating_sub(start);
            }
            previous = Some((index, offset));
        }
        let end = match self.decoder.get_mut() {
            Bytes::File(file) => file.get_ref().metadata().map_or(0, |metadata| metadata.len()),
            Bytes::Seekable(reader) => reader.seek(SeekFrom::End(0)).unwrap_or(0),
            Bytes::Stream(_) => 0,
        };
        if let Some((last, start)) = previous {
            sizes[last] = end.saturating_sub(start);
        }
        sizes
    }
}
