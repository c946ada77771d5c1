//! Files that may be compressed, told by how they begin: Barman and others compress WAL without a suffix.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use pgkeep_format::archive::Compression;
use pgkeep_tool::compress::{Framing, buffered_reader};

/// Suffixes that say nothing which the first bytes do not.
const SUFFIXES: [&str; 5] = [".gz", ".lz4", ".zst", ".zstd", ".gzip"];
/// What cannot be read: the first bytes, and the name of the codec.
const UNKNOWN: [(&[u8], &str); 4] =
    [(b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\xff\x06\0\0sNaPpY", "snappy"), (b"\x89LZO", "lzop")];

/// The name of a file without the suffix of a codec.
pub fn plain_name(name: &str) -> &str {
    SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// Opens a file; what is read from it is decompressed.
///
/// # Errors
/// When it cannot be opened, or is compressed by something else than gzip, LZ4 and Zstandard.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut start = [0; 10];
    let mut length = 0;
    while let Some(rest) = start.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            count => length += count,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    let start = start.get(..length).unwrap_or_default();
    let compression = match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x04, 0x22, 0x4d, 0x18, ..] => Compression::Lz4,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => {
            if let Some((_, codec)) = UNKNOWN.iter().find(|(magic, _)| start.starts_with(magic)) {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("it is compressed by {codec}, which pgkeep does not read: decompress it first"),
                ));
            }
            return Ok(Box::new(BufReader::with_capacity(256 << 10, file)));
        }
    };
    buffered_reader(file, compression, Framing::File)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use pgkeep_tool::compress::{Codec, Compressor};

    use super::*;

    #[test]
    fn the_first_bytes_tell_the_codec_and_the_name_does_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("000000010000000000000001");
        for compression in [Compression::None, Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let mut out = Compressor::new(Vec::new(), Codec::of(compression), Framing::File).unwrap();
            out.write_all(b"what was written").unwrap();
            std::fs::write(&path, out.finish().unwrap()).unwrap();
            let mut text = String::new();
            open(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "what was written", "{compression:?}");
        }
        std::fs::write(&path, b"BZh91AY").unwrap();
        assert!(open(&path).err().unwrap().to_string().contains("bzip2"));
        std::fs::write(&path, b"").unwrap();
        assert!(open(&path).is_ok());
        assert_eq!(plain_name("000000010000000000000001.zst"), "000000010000000000000001");
    }
}
