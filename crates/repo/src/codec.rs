//! How frames and WAL bodies are compressed: zstd, LZ4 or not at all.
//!
//! The codec is chosen for each frame and told by its header; bytes that would grow are stored as they are.
//! Compressors and decompressors keep their state between calls, one for each thread. A decompressor is told how many
//! bytes to expect and gives no more: what a header lies about costs no memory.

use std::fmt;
use std::io::Cursor;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Bytes are stored as they are.
    None,
    /// LZ4 blocks: little CPU.
    Lz4,
    /// Zstandard with this level, -7 to 22.
    Zstd(i32),
}

impl Compression {
    /// The level that zstd takes unless told otherwise.
    pub const DEFAULT_ZSTD_LEVEL: i32 = 3;
}

impl Default for Compression {
    fn default() -> Compression {
        Compression::Zstd(Compression::DEFAULT_ZSTD_LEVEL)
    }
}

/// The text names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a compression (expected `none`, `lz4`, `zstd` or `zstd:LEVEL` with a level from -7 to 22)"
)]
pub struct ParseCompressionError(pub String);

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(text: &str) -> Result<Compression, ParseCompressionError> {
        let bad = || ParseCompressionError(text.to_owned());
        match text.split_once(':') {
            None => match text {
                "none" => Ok(Compression::None),
                "lz4" => Ok(Compression::Lz4),
                "zstd" => Ok(Compression::default()),
                _ => Err(bad()),
            },
            Some(("zstd", level)) => {
                let level = level.parse().ok().filter(|l| (-7..=22).contains(l) && *l != 0);
                level.map(Compression::Zstd).ok_or_else(bad)
            }
            Some(_) => Err(bad()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::None => f.write_str("none"),
            Compression::Lz4 => f.write_str("lz4"),
            Compression::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl Serialize for Compression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Compression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What is written into headers: how these very bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    None,
    /// One or more whole zstd frames.
    Zstd,
    /// One LZ4 block without any framing.
    Lz4,
}

impl Codec {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Zstd => 1,
            Codec::Lz4 => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Codec> {
        match code {
            0 => Some(Codec::None),
            1 => Some(Codec::Zstd),
            2 => Some(Codec::Lz4),
            _ => None,
        }
    }
}

/// Compresses many pieces, one after another, with the same state: setting it up costs more than a small piece.
pub(crate) struct Compressor {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    lz4: Option<Box<lz4_flex::block::CompressTable>>,
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Compressor {
        let mut zstd = None;
        let mut lz4 = None;
        match compression {
            Compression::None => {}
            Compression::Lz4 => lz4 = Some(Box::default()),
            Compression::Zstd(level) => zstd = zstd::bulk::Compressor::new(level).ok(),
        }
        Compressor { compression, zstd, lz4 }
    }

    /// Appends `raw`, compressed, to `out`; none, and nothing appended, where that would not make it smaller.
    pub(crate) fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<Codec> {
        let start = out.len();
        let codec = match self.compression {
            Compression::None => None,
            Compression::Zstd(_) => self.append_zstd(raw, out),
            Compression::Lz4 => self.append_lz4(raw, out),
        };
        let smaller = codec.filter(|_| out.len() - start < raw.len());
        if smaller.is_none() {
            out.truncate(start);
        }
        smaller
    }

    pub(crate) fn append_zstd(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<Codec> {
        let zstd = self.zstd.as_mut()?;
        let start = out.len();
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let mut cursor = Cursor::new(std::mem::take(out));
        cursor.set_position(start as u64);
        let done = zstd.compress_to_buffer(raw, &mut cursor);
        *out = cursor.into_inner();
        done.ok().map(|_| Codec::Zstd)
    }

    fn append_lz4(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Option<Codec> {
        let table = self.lz4.as_mut()?;
        let start = out.len();
        let bound = lz4_flex::block::get_maximum_output_size(raw.len());
        out.resize(start + bound, 0);
        let done = lz4_flex::block::compress_into_with_table(raw, out.get_mut(start..)?, table);
        out.truncate(start + done.as_ref().copied().unwrap_or(0));
        done.ok().map(|_| Codec::Lz4)
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressor({})", self.compression)
    }
}

/// Turns stored pieces back into what they were, never writing more than was declared.
#[derive(Default)]
pub(crate) struct Decompressor {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Decompressor {
    /// Puts exactly `raw_len` bytes into `out` (cleared first); none where the bytes do not decode to that.
    ///
    /// The caller has bounded `raw_len`.
    pub(crate) fn decompress(
        &mut self,
        codec: Codec,
        stored: &[u8],
        raw_len: usize,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        out.clear();
        match codec {
            Codec::None => {
                if stored.len() != raw_len {
                    return None;
                }
                out.extend_from_slice(stored);
            }
            Codec::Zstd => {
                if self.zstd.is_none() {
                    self.zstd = zstd::bulk::Decompressor::new().ok();
                }
                // The decoder writes no more than the capacity, and stops with an error where more would come.
                out.reserve(raw_len);
                if self.zstd.as_mut()?.decompress_to_buffer(stored, out).ok()? != raw_len {
                    return None;
                }
            }
            Codec::Lz4 => {
                // No byte of LZ4 stands for more than 255: a longer length is a lie, and zeroing it is not free.
                if raw_len / 255 > stored.len() {
                    return None;
                }
                out.resize(raw_len, 0);
                if lz4_flex::block::decompress_into(stored, out).ok()? != raw_len {
                    return None;
                }
            }
        }
        Some(())
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decompressor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_read_as_it_is_printed() {
        for text in ["none", "lz4", "zstd:1", "zstd:-5", "zstd:22"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse(), Ok(Compression::Zstd(3)));
        for text in ["", "gzip", "zstd:", "zstd:0", "zstd:23", "zstd:x", "lz4:1", "ZSTD"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_as_it_is() {
        let mut noise = Vec::new();
        let mut hasher = blake3::Hasher::new().finalize_xof();
        noise.resize(8192, 0);
        hasher.fill(&mut noise);
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            let mut out = vec![7; 3];
            assert_eq!(Compressor::new(compression).compress(&noise, &mut out), None);
            assert_eq!(out, [7; 3]);
        }
    }

    #[test]
    fn pieces_survive_a_round_trip_and_lies_about_their_length_do_not() {
        let raw: Vec<u8> = (0..100_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(1), Compression::Zstd(9)] {
            let mut compressor = Compressor::new(compression);
            let mut decompressor = Decompressor::default();
            for _ in 0..3 {
                let mut stored = Vec::new();
                let codec = compressor.compress(&raw, &mut stored).unwrap_or(Codec::None);
                if codec == Codec::None {
                    stored.clone_from(&raw);
                }
                let mut out = Vec::new();
                decompressor.decompress(codec, &stored, raw.len(), &mut out).unwrap();
                assert_eq!(out, raw);
                for wrong in [0, raw.len() - 1, raw.len() + 1] {
                    assert!(decompressor.decompress(codec, &stored, wrong, &mut Vec::new()).is_none());
                }
            }
        }
    }
}
