//! Pieces that are compressed apart and joined as [`Framing`] says.
//!
//! All codecs but one join by themselves. gzip in a custom archive is one zlib stream: [`GzipStream`] has what comes
//! before, between and after the pieces, which are raw deflate and end at a byte with an empty block.

use std::io::{self, BufRead, Read, Write};

use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use pgkeep_format::archive::{Compression, PIECE_DIGEST_LENGTH};
use zlib_rs::adler32::{adler32, adler32_combine};

use super::{Codec, Compressor, Framing, reader};

/// The last block of deflate, with nothing in it.
pub(super) const LAST_BLOCK: [u8; 2] = [3, 0];

/// Compresses a piece into memory.
#[derive(Debug)]
pub struct PieceCompressor(Inner);

#[derive(Debug)]
enum Inner {
    /// A part of a zlib stream.
    Deflate(DeflateEncoder<Vec<u8>>),
    Whole(Compressor<Vec<u8>>),
}

impl PieceCompressor {
    /// For a part of a stream, where the framing joins pieces so.
    ///
    /// # Errors
    /// When the codec refuses the level.
    pub fn new(codec: Codec, framing: Framing) -> io::Result<PieceCompressor> {
        Ok(PieceCompressor(match (codec.compression, framing) {
            (Compression::Gzip, Framing::Chunks) => {
                Inner::Deflate(DeflateEncoder::new(Vec::new(), codec.zlib_level()))
            }
            _ => Inner::Whole(Compressor::new(Vec::new(), codec, framing)?),
        }))
    }

    /// For a stream of its own.
    ///
    /// # Errors
    /// When the codec refuses the level.
    pub fn whole(codec: Codec, framing: Framing) -> io::Result<PieceCompressor> {
        Ok(PieceCompressor(Inner::Whole(Compressor::new(Vec::new(), codec, framing)?)))
    }

    /// Takes more of what the piece holds.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Inner::Deflate(encoder) => encoder.write_all(bytes),
            Inner::Whole(compressor) => compressor.write_all(bytes),
        }
    }

    /// Compressed bytes that are there already.
    pub fn ready(&mut self) -> &mut Vec<u8> {
        match &mut self.0 {
            Inner::Deflate(encoder) => encoder.get_mut(),
            Inner::Whole(compressor) => compressor.get_mut(),
        }
    }

    /// Ends the piece; the compressed bytes that are left.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Inner::Deflate(mut encoder) => {
                // A flush ends at a byte; what comes after does not look back behind it.
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Inner::Whole(compressor) => compressor.finish(),
        }
    }
}

/// What makes one zlib stream of pieces: a header, and a checksum of all that they hold.
#[derive(Debug, Clone, Copy)]
pub struct GzipStream {
    checksum: u32,
}

impl Default for GzipStream {
    fn default() -> GzipStream {
        GzipStream::new()
    }
}

impl GzipStream {
    /// Deflate with a window of 32 KiB, default level.
    pub const HEADER: [u8; 2] = [0x78, 0x9c];

    /// Before the first piece.
    #[must_use]
    pub fn new() -> GzipStream {
        GzipStream { checksum: 1 }
    }

    /// The checksum of what a piece holds, or of its beginning when `before` is that.
    pub fn checksum(before: u32, bytes: &[u8]) -> u32 {
        adler32(before, bytes)
    }

    /// A piece follows, with this checksum and of this length.
    pub fn join(&mut self, checksum: u32, plain_length: u64) {
        self.checksum = adler32_combine(self.checksum, checksum, plain_length);
    }

    /// An empty last block, and the checksum.
    pub fn end(self) -> [u8; 6] {
        let [a, b, c, d] = self.checksum.to_be_bytes();
        let [block, end] = LAST_BLOCK;
        [block, end, a, b, c, d]
    }
}

/// A reader of what one piece holds. It may end early where the piece is damaged: the length that the piece should have
/// tells.
///
/// # Errors
/// When a decompressor cannot be made.
pub fn piece_reader<'a>(
    compressed: impl BufRead + 'a,
    compression: Compression,
    framing: Framing,
) -> io::Result<Box<dyn Read + 'a>> {
    match (compression, framing) {
        (Compression::Gzip, Framing::Chunks) => {
            // Its own end is not the stream's.
            Ok(Box::new(DeflateDecoder::new(compressed.chain(&LAST_BLOCK[..]))))
        }
        _ => reader(compressed, compression, framing),
    }
}

/// The digest of a piece, as the index has it.
pub fn piece_digest(hasher: &blake3::Hasher) -> [u8; PIECE_DIGEST_LENGTH] {
    let mut digest = [0; PIECE_DIGEST_LENGTH];
    for (place, byte) in digest.iter_mut().zip(hasher.finalize().as_bytes()) {
        *place = *byte;
    }
    digest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::buffered_reader;
    use super::*;

    const CODECS: [Compression; 4] =
        [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd];

    /// The joined stream, and each piece.
    fn join(parts: &[Vec<u8>], codec: Codec, framing: Framing) -> (Vec<u8>, Vec<Vec<u8>>) {
        let is_stream = codec.compression == Compression::Gzip && framing == Framing::Chunks;
        let mut stream = GzipStream::new();
        let mut joined = if is_stream { GzipStream::HEADER.to_vec() } else { Vec::new() };
        let mut pieces = Vec::new();
        for part in parts {
            let mut compressor = PieceCompressor::new(codec, framing).unwrap();
            let mut piece = Vec::new();
            for bytes in part.chunks(1000) {
                compressor.write(bytes).unwrap();
                piece.append(compressor.ready());
            }
            piece.extend(compressor.finish().unwrap());
            stream.join(GzipStream::checksum(1, part), part.len() as u64);
            joined.extend_from_slice(&piece);
            pieces.push(piece);
        }
        if is_stream {
            joined.extend_from_slice(&stream.end());
        }
        (joined, pieces)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn pieces_join_to_what_they_were_cut_from(
            parts in prop::collection::vec(prop::collection::vec(0_u8..20, 0..5000), 1..6),
            level in prop::option::of(1..6),
        ) {
            let whole = parts.concat();
            for compression in CODECS {
                for framing in [Framing::Chunks, Framing::File] {
                    let codec = Codec { level, ..Codec::of(compression) };
                    let (joined, pieces) = join(&parts, codec, framing);
                    let mut read = Vec::new();
                    buffered_reader(&joined[..], compression, framing).unwrap().read_to_end(&mut read).unwrap();
                    prop_assert_eq!(&read, &whole, "{:?} {:?}", compression, framing);
                    if compression == Compression::Gzip && framing == Framing::Chunks {
                        // As zlib itself sees it: one stream, with nothing behind it.
                        let mut one = flate2::bufread::ZlibDecoder::new(&joined[..]);
                        let mut read = Vec::new();
                        one.read_to_end(&mut read).unwrap();
                        prop_assert_eq!(&read, &whole);
                        prop_assert_eq!(one.total_in(), joined.len() as u64);
                    }
                    for (piece, part) in pieces.iter().zip(&parts) {
                        let mut read = Vec::new();
                        piece_reader(&piece[..], compression, framing).unwrap().read_to_end(&mut read).unwrap();
                        prop_assert_eq!(&read, part);
                    }
                }
            }
        }
    }
}
