//! Compresses what a session fetched, part by part, and hands it to the window.

use std::io::{self, Write};
use std::sync::mpsc::SyncSender;

use pgkeep_format::archive::{Compression, DataKind};
use pgkeep_tool::compress::{Codec, Framing, GzipStream, PieceCompressor, piece_digest};
use pgkeep_tool::{Result, ToolError};

use super::Fetching;
use super::window::{Item, PieceFacts, Window};
use crate::dump::progress::DumpObserver;

/// Plain bytes that are collected before they are compressed.
const BUFFER: usize = 128 << 10;
/// Compressed bytes that are handed on together.
const HAND_OVER: usize = 256 << 10;
/// Lines of what follows the rows of COPY's text: the end mark, and two that are empty.
const LINES_OF_END: u64 = 3;

/// What a session says of a part.
#[derive(Debug)]
pub(super) enum Message {
    /// A part begins.
    Begin {
        part: usize,
        kind: DataKind,
    },
    Bytes(Vec<u8>),
    LargeObject(u32),
    LargeObjectEnd,
    /// The part ends. `rows`: where they cannot be counted as lines; `is_last`: of its entry.
    End {
        rows: u64,
        is_last: bool,
    },
}

/// Compresses parts.
pub(super) struct Encoder<'a> {
    window: &'a Window,
    codec: Codec,
    framing: Framing,
    piece_bytes: u64,
    observer: Option<&'a dyn DumpObserver>,
    part: usize,
    kind: DataKind,
    compressor: Option<PieceCompressor>,
    hasher: blake3::Hasher,
    plain_length: u64,
    object_length: u64,
    lines: u64,
    checksum: u32,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        window: &'a Window,
        fetching: &Fetching,
        observer: Option<&'a dyn DumpObserver>,
    ) -> Encoder<'a> {
        Encoder {
            window,
            codec: fetching.codec,
            framing: fetching.framing,
            piece_bytes: fetching.piece_bytes.max(1),
            observer,
            part: 0,
            kind: DataKind::Text,
            compressor: None,
            hasher: blake3::Hasher::new(),
            plain_length: 0,
            object_length: 0,
            lines: 0,
            checksum: 1,
        }
    }

    /// Takes a message. The bytes of one may be given back to be used again.
    pub(super) fn take(&mut self, message: Message) -> Result<Option<Vec<u8>>> {
        match message {
            Message::Begin { part, kind } => {
                self.part = part;
                self.kind = kind;
                self.begin_piece()?;
            }
            Message::Bytes(bytes) => return self.bytes(bytes),
            Message::LargeObject(oid) => {
                self.hasher.update(&oid.to_le_bytes());
                self.object_length = 0;
                self.window.push(self.part, Item::LargeObject(oid))?;
                self.begin_stream()?;
            }
            Message::LargeObjectEnd => {
                self.hasher.update(&self.object_length.to_le_bytes());
                self.end_stream()?;
                self.window.push(self.part, Item::LargeObjectEnd)?;
            }
            Message::End { rows, is_last } => {
                self.end_piece(match self.kind {
                    DataKind::Text if is_last => self.lines.saturating_sub(LINES_OF_END),
                    DataKind::Text => self.lines,
                    _ => rows,
                })?;
                self.window.done(self.part);
            }
        }
        Ok(None)
    }

    fn begin_piece(&mut self) -> Result<()> {
        self.hasher.reset();
        (self.plain_length, self.lines, self.checksum) = (0, 0, 1);
        if self.kind == DataKind::LargeObjects { Ok(()) } else { self.begin_stream() }
    }

    fn end_piece(&mut self, rows: u64) -> Result<()> {
        self.end_stream()?;
        let facts = PieceFacts {
            plain_length: self.plain_length,
            rows,
            digest: piece_digest(&self.hasher),
            checksum: self.checksum,
        };
        self.window.push(self.part, Item::PieceEnd(facts))
    }

    fn begin_stream(&mut self) -> Result<()> {
        // A large object is a stream of its own, not a part of one.
        let compressor = match self.kind {
            DataKind::LargeObjects => PieceCompressor::whole(self.codec, self.framing),
            _ => PieceCompressor::new(self.codec, self.framing),
        };
        self.compressor = Some(compressor.map_err(|error| ToolError::output(&error))?);
        Ok(())
    }

    fn end_stream(&mut self) -> Result<()> {
        let Some(compressor) = self.compressor.take() else { return Ok(()) };
        let rest = compressor.finish().map_err(|error| ToolError::output(&error))?;
        if rest.is_empty() { Ok(()) } else { self.window.push(self.part, Item::Bytes(rest)) }
    }

    /// Ends the piece behind the row with which it is full, and begins another one.
    fn bytes(&mut self, mut bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
        while self.kind == DataKind::Text
            && let Some(end) = cut(&bytes, self.piece_bytes.saturating_sub(self.plain_length))
        {
            let rest = bytes.split_off(end);
            self.add(bytes)?;
            self.end_piece(self.lines)?;
            self.begin_piece()?;
            bytes = rest;
        }
        self.add(bytes)
    }

    fn add(&mut self, bytes: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let length = bytes.len() as u64;
        self.hasher.update(&bytes);
        self.plain_length += length;
        self.object_length += length;
        match self.kind {
            DataKind::Text => self.lines += count_lines(&bytes),
            DataKind::Binary | DataKind::Commands | DataKind::LargeObjects => {}
        }
        if let Some(observer) = self.observer {
            observer.writes(length).map_err(|error| ToolError::output(&error))?;
        }
        if self.codec.compression == Compression::None {
            self.window.push(self.part, Item::Bytes(bytes))?;
            return Ok(None);
        }
        if self.codec.compression == Compression::Gzip && self.framing == Framing::Chunks {
            self.checksum = GzipStream::checksum(self.checksum, &bytes);
        }
        if let Some(compressor) = &mut self.compressor {
            compressor.write(&bytes).map_err(|error| ToolError::output(&error))?;
            let ready = compressor.ready();
            if ready.len() >= HAND_OVER {
                let ready = std::mem::replace(ready, Vec::with_capacity(HAND_OVER + BUFFER));
                self.window.push(self.part, Item::Bytes(ready))?;
            }
        }
        Ok(Some(bytes))
    }
}

/// Where rows of COPY's text are cut when `room` more bytes make a piece full: behind a line, and not where the lines that
/// end the rows could have begun, since these belong to the last piece.
fn cut(bytes: &[u8], room: u64) -> Option<usize> {
    const FOLLOWING: usize = 16;
    let from = usize::try_from(room).ok()?.saturating_sub(1);
    let candidates = bytes.get(from..bytes.len().checked_sub(FOLLOWING)?)?;
    candidates.iter().position(|byte| *byte == b'\n').map(|at| from + at + 1)
}

fn count_lines(bytes: &[u8]) -> u64 {
    // In short runs, which the compiler counts many bytes at a time.
    bytes
        .chunks(192)
        .map(|run| u64::from(run.iter().fold(0_u8, |sum, byte| sum.wrapping_add(u8::from(*byte == b'\n')))))
        .sum()
}

/// Where a session puts what it fetches: an encoder of its own, or one in a thread of its own.
pub(super) enum Feed<'a> {
    Here { encoder: Box<Encoder<'a>>, buffer: Vec<u8> },
    Elsewhere { sender: SyncSender<Message>, buffer: Vec<u8> },
}

impl<'a> Feed<'a> {
    pub(super) fn here(encoder: Encoder<'a>) -> Feed<'a> {
        Feed::Here { encoder: Box::new(encoder), buffer: Vec::with_capacity(BUFFER) }
    }

    pub(super) fn elsewhere(sender: SyncSender<Message>) -> Feed<'a> {
        Feed::Elsewhere { sender, buffer: Vec::with_capacity(BUFFER) }
    }

    /// Says something; what was written before goes first.
    pub(super) fn say(&mut self, message: Message) -> Result<()> {
        self.send_buffer()?;
        self.send(message).map(drop)
    }

    fn send(&mut self, message: Message) -> Result<Option<Vec<u8>>> {
        match self {
            Feed::Here { encoder, .. } => encoder.take(message),
            Feed::Elsewhere { sender, .. } => match sender.send(message) {
                Ok(()) => Ok(None),
                // It failed, and told the window why.
                Err(_) => Err(ToolError::new("the dump was given up")),
            },
        }
    }

    fn send_buffer(&mut self) -> Result<()> {
        let (Feed::Here { buffer, .. } | Feed::Elsewhere { buffer, .. }) = self;
        if buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(buffer);
        let again = self.send(Message::Bytes(bytes))?;
        let (Feed::Here { buffer, .. } | Feed::Elsewhere { buffer, .. }) = self;
        *buffer = again.unwrap_or_else(|| Vec::with_capacity(BUFFER));
        buffer.clear();
        Ok(())
    }
}

impl Write for Feed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (Feed::Here { buffer, .. } | Feed::Elsewhere { buffer, .. }) = self;
        let room = BUFFER.saturating_sub(buffer.len());
        let (now, rest) = bytes.split_at(bytes.len().min(room));
        buffer.extend_from_slice(now);
        if buffer.len() >= BUFFER {
            self.send_buffer().map_err(|error| io::Error::other(error.message))?;
        }
        // A row fits nearly always; what is longer comes again.
        Ok(bytes.len() - rest.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{count_lines, cut};

    #[test]
    fn rows_are_cut_behind_a_line_and_never_within_their_end_mark() {
        let rows = b"one\ntwo\nthree\nfour and a long line\n";
        assert_eq!(cut(rows, 0), Some(4));
        assert_eq!(cut(rows, 4), Some(4));
        assert_eq!(cut(rows, 5), Some(8));
        assert_eq!(cut(rows, 15), None);
        assert_eq!(cut(b"\n\n\n\\.\n\n\n", 0), None);
        assert_eq!(cut(b"", 0), None);
        assert_eq!(cut(rows, u64::MAX), None);
    }

    #[test]
    fn lines_are_counted_beyond_what_a_byte_holds() {
        assert_eq!(count_lines(&[b'\n'; 1000]), 1000);
        assert_eq!(count_lines(b"a\nb\n\nc"), 3);
    }
}
