//! Compressed streams as archives hold them, as readers and writers.
//!
//! Custom archives hold zlib streams where directories hold gzip files; LZ4 and Zstandard are frames in both. A reader
//! takes several streams one after the other as one, which stock's reader does not do everywhere: see the rules for
//! joining in [`Framing`].

mod lz4_walk;
mod parallel;
mod piece;

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use lz4_flex::frame::FrameDecoder;
use pgkeep_format::archive::Compression;

use lz4_walk::Lz4Walk;
pub use parallel::ParallelCompressor;
pub use piece::{GzipStream, PieceCompressor, piece_digest, piece_reader};

/// What compressed bytes lie in. It decides how gzip is meant.
///
/// Pieces that were compressed apart may be joined so that stock's `pg_restore` 18 reads them as one:
///
/// | codec | [`Framing::Chunks`] | [`Framing::File`] |
/// |---|---|---|
/// | gzip | one zlib stream only: raw deflate pieces, each ended by a full flush, between one header and one checksum | members |
/// | zstd | frames, each ending where a chunk ends | frames |
/// | lz4 | frames | frames |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Chunks of a custom archive: zlib streams.
    Chunks,
    /// A file of a directory: gzip members.
    File,
}

/// How data is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Codec {
    /// The method.
    pub compression: Compression,
    /// Its own default when none. LZ4 has no levels here.
    pub level: Option<i32>,
    /// Zstandard looks for matches far back.
    pub long_distance: bool,
}

impl Codec {
    /// The codec at its default level.
    #[must_use]
    pub fn of(compression: Compression) -> Codec {
        Codec { compression, ..Codec::default() }
    }

    fn zlib_level(self) -> flate2::Compression {
        match self.level.and_then(|level| u32::try_from(level).ok()) {
            Some(level) => flate2::Compression::new(level.min(9)),
            None => flate2::Compression::default(),
        }
    }
}

/// A reader of what `compressed` holds.
///
/// # Errors
/// When a decompressor cannot be made.
pub fn reader<'a>(
    mut compressed: impl BufRead + 'a,
    compression: Compression,
    framing: Framing,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match (compression, framing) {
        (Compression::None, _) => Box::new(compressed),
        (Compression::Gzip, Framing::File) => Box::new(MultiGzDecoder::new(compressed)),
        (Compression::Gzip, Framing::Chunks) => Box::new(ZlibStreams::new(compressed)),
        (Compression::Lz4, _) => {
            Box::new(Lz4Frames { decoder: Some(FrameDecoder::new(Lz4Walk::new(compressed))) })
        }
        // `pg_dump` makes nothing at all of nothing.
        (Compression::Zstd, _) if compressed.fill_buf()?.is_empty() => Box::new(io::empty()),
        (Compression::Zstd, _) => Box::new(zstd::stream::read::Decoder::with_buffer(compressed)?),
    })
}

/// A reader of a source that is not buffered.
///
/// # Errors
/// When a decompressor cannot be made.
pub fn buffered_reader<'a>(
    compressed: impl Read + 'a,
    compression: Compression,
    framing: Framing,
) -> io::Result<Box<dyn Read + 'a>> {
    reader(BufReader::with_capacity(64 << 10, compressed), compression, framing)
}

/// zlib streams, one after the other.
struct ZlibStreams<R> {
    decoder: Option<ZlibDecoder<R>>,
}

impl<R: BufRead> ZlibStreams<R> {
    fn new(compressed: R) -> ZlibStreams<R> {
        ZlibStreams { decoder: Some(ZlibDecoder::new(compressed)) }
    }
}

impl<R: BufRead> Read for ZlibStreams<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            // No chunk at all is an empty table as well.
            if decoder.total_in() == 0 && decoder.get_mut().fill_buf()?.is_empty() {
                self.decoder = None;
                break;
            }
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.decoder = self.decoder.take().map(|ended| ZlibDecoder::new(ended.into_inner()));
        }
        Ok(0)
    }
}

/// LZ4 frames, one after the other. Each has a decoder of its own: buffers of one are not fit for another block size.
struct Lz4Frames<R: Read> {
    decoder: Option<FrameDecoder<Lz4Walk<R>>>,
}

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let read = decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() || decoder.get_mut().is_at_end()? {
                return Ok(read);
            }
            self.decoder = self.decoder.take().map(|ended| FrameDecoder::new(ended.into_inner()));
        }
        Ok(0)
    }
}

/// A writer that compresses into `sink` as one stream; [`Compressor::finish`] ends it.
pub enum Compressor<W: Write> {
    /// Bytes as they are.
    None(W),
    /// A zlib stream.
    Zlib(flate2::write::ZlibEncoder<W>),
    /// A gzip member.
    Gzip(flate2::write::GzEncoder<W>),
    /// An LZ4 frame.
    Lz4(Box<lz4_flex::frame::FrameEncoder<W>>),
    /// A Zstandard frame.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl<W: Write> Compressor<W> {
    /// A compressor.
    ///
    /// # Errors
    /// When the codec refuses the level.
    pub fn new(sink: W, codec: Codec, framing: Framing) -> io::Result<Compressor<W>> {
        let zlib_level = || codec.zlib_level();
        Ok(match (codec.compression, framing) {
            (Compression::None, _) => Compressor::None(sink),
            (Compression::Gzip, Framing::Chunks) => {
                Compressor::Zlib(flate2::write::ZlibEncoder::new(sink, zlib_level()))
            }
            (Compression::Gzip, Framing::File) => {
                Compressor::Gzip(flate2::write::GzEncoder::new(sink, zlib_level()))
            }
            (Compression::Lz4, _) => Compressor::Lz4(Box::new(lz4_flex::frame::FrameEncoder::new(sink))),
            (Compression::Zstd, _) => {
                let level = codec.level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                let mut encoder = zstd::stream::write::Encoder::new(sink, level)?;
                if codec.long_distance {
                    encoder.long_distance_matching(true)?;
                }
                Compressor::Zstd(encoder)
            }
        })
    }

    /// What is written to.
    fn get_mut(&mut self) -> &mut W {
        match self {
            Compressor::None(sink) => sink,
            Compressor::Zlib(encoder) => encoder.get_mut(),
            Compressor::Gzip(encoder) => encoder.get_mut(),
            Compressor::Lz4(encoder) => encoder.get_mut(),
            Compressor::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// Ends the stream and gives the sink back.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Compressor::None(sink) => Ok(sink),
            Compressor::Zlib(encoder) => encoder.finish(),
            Compressor::Gzip(encoder) => encoder.finish(),
            Compressor::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Compressor::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Compressor::None(sink) => sink.write(bytes),
            Compressor::Zlib(encoder) => encoder.write(bytes),
            Compressor::Gzip(encoder) => encoder.write(bytes),
            Compressor::Lz4(encoder) => encoder.write(bytes),
            Compressor::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Compressor::None(sink) => sink.flush(),
            Compressor::Zlib(encoder) => encoder.flush(),
            Compressor::Gzip(encoder) => encoder.flush(),
            Compressor::Lz4(encoder) => encoder.flush(),
            Compressor::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Compression, Framing); 7] = [
        (Compression::None, Framing::Chunks),
        (Compression::Gzip, Framing::Chunks),
        (Compression::Gzip, Framing::File),
        (Compression::Lz4, Framing::Chunks),
        (Compression::Lz4, Framing::File),
        (Compression::Zstd, Framing::Chunks),
        (Compression::Zstd, Framing::File),
    ];

    fn compressed(bytes: &[u8], compression: Compression, framing: Framing) -> Vec<u8> {
        let mut compressor = Compressor::new(Vec::new(), Codec::of(compression), framing).unwrap();
        compressor.write_all(bytes).unwrap();
        compressor.finish().unwrap()
    }

    fn read(bytes: &[u8], compression: Compression, framing: Framing) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        buffered_reader(bytes, compression, framing)?.read_to_end(&mut out)?;
        Ok(out)
    }

    /// Text that compresses a little, and more than one block of each codec.
    fn text() -> Vec<u8> {
        (0..60_000_u32)
            .flat_map(|number| format!("{}\t", number.wrapping_mul(2_654_435_761)).into_bytes())
            .collect()
    }

    #[test]
    fn streams_one_after_the_other_are_one() {
        let text = text();
        for (compression, framing) in ALL {
            for cut in [0, 1, text.len() / 2, text.len()] {
                let (head, tail) = text.split_at(cut);
                let both =
                    [compressed(head, compression, framing), compressed(tail, compression, framing)].concat();
                assert!(
                    read(&both, compression, framing).unwrap() == text,
                    "{compression:?} {framing:?} {cut}"
                );
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_is_never_taken_for_a_whole_one() {
        let text = text();
        for (compression, framing) in ALL.into_iter().skip(1) {
            let whole = compressed(&text, compression, framing);
            for length in (1..20).chain(whole.len() - 20..whole.len()).chain([whole.len() / 2]) {
                assert!(read(&whole[..length], compression, framing).is_err(), "{compression:?} {length}");
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_changes_nothing_but_data() {
        let whole = text();
        for (compression, framing) in ALL {
            let good = compressed(&whole[..2000], compression, framing);
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                // No panic, and no more than a block beyond what there was.
                if let Ok(out) = read(&bad, compression, framing) {
                    assert!(out.len() < 1 << 23);
                }
            }
        }
    }
}
