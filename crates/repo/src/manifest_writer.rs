//! Gathers the lines of a manifest in any order and writes them sorted, with bounded memory. The bytes are those of
//! `docs/format/manifest.md`.
//!
//! Lines wait as sorted, compressed batches (about 25 bytes a file) and are merged at the end. Nothing is stored
//! before all of it is known: the manifest is one object, created at the commit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufReader, Cursor, Read, Write};

use crate::digest::{DigestKey, finish16};
use crate::error::Result;
use crate::manifest::{PREAMBLE_LEN, Preamble};
use crate::{Digest16, RepoError};

/// A batch is sorted and compressed when it has this many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// Fast: batches are read once more and then forgotten.
const BATCH_LEVEL: i32 = 1;
/// Lines are much alike; a higher level buys little.
const LEVEL: i32 = 3;

/// Lines with their paths, waiting.
#[derive(Debug, Default)]
pub(crate) struct ManifestLines {
    open: Vec<(Vec<u8>, Vec<u8>)>,
    open_bytes: usize,
    batches: Vec<Vec<u8>>,
}

/// All lines, compressed, in the order of the manifest.
#[derive(Debug)]
pub(crate) struct ManifestBody {
    stored: Vec<u8>,
    plain_len: u64,
    digest: Digest16,
}

pub(crate) fn memory(error: io::Error) -> RepoError {
    RepoError::unrepresentable(format!("the lines of a manifest: {error}"))
}

impl ManifestLines {
    pub(crate) fn push(&mut self, path: Vec<u8>, line: Vec<u8>) -> Result<()> {
        self.open_bytes += path.len() + line.len();
        self.open.push((path, line));
        if self.open_bytes >= BATCH_BYTES { self.close_batch() } else { Ok(()) }
    }

    fn close_batch(&mut self) -> Result<()> {
        let mut lines = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        lines.sort();
        let compress = || -> io::Result<Vec<u8>> {
            let mut encoder = zstd::Encoder::new(Vec::new(), BATCH_LEVEL)?;
            for (path, line) in &lines {
                for part in [path, line] {
                    encoder.write_all(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes())?;
                    encoder.write_all(part)?;
                }
            }
            encoder.finish()
        };
        self.batches.push(compress().map_err(memory)?);
        Ok(())
    }

    /// Merges all lines. Two with one path are an error of the caller.
    pub(crate) fn sort(mut self, key: &DigestKey) -> Result<ManifestBody> {
        let mut output = LineWriter::new(key).map_err(memory)?;
        if self.batches.is_empty() {
            self.open.sort();
            for (path, line) in self.open {
                output.push(path, &line)?;
            }
        } else {
            self.close_batch()?;
            merge(&self.batches, &mut output)?;
        }
        output.finish().map_err(memory)
    }
}

fn merge(batches: &[Vec<u8>], output: &mut LineWriter) -> Result<()> {
    let mut readers = Vec::with_capacity(batches.len());
    let mut heap = BinaryHeap::new();
    for (index, batch) in batches.iter().enumerate() {
        let mut reader = BufReader::new(zstd::Decoder::new(Cursor::new(batch)).map_err(memory)?);
        if let Some((path, line)) = next_line(&mut reader).map_err(memory)? {
            heap.push(Reverse((path, index, line)));
        }
        readers.push(reader);
    }
    while let Some(Reverse((path, index, line))) = heap.pop() {
        output.push(path, &line)?;
        if let Some(reader) = readers.get_mut(index)
            && let Some((path, line)) = next_line(reader).map_err(memory)?
        {
            heap.push(Reverse((path, index, line)));
        }
    }
    Ok(())
}

fn next_line(reader: &mut impl Read) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut part = |at_start: bool| -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        if at_start && reader.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        reader.read_exact(&mut length[usize::from(at_start)..])?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        reader.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    };
    match part(true)? {
        Some(path) => Ok(part(false)?.map(|line| (path, line))),
        None => Ok(None),
    }
}

/// Compresses lines in the order in which they come.
pub(crate) struct LineWriter {
    encoder: zstd::Encoder<'static, Vec<u8>>,
    hasher: blake3::Hasher,
    plain_len: u64,
    last: Option<Vec<u8>>,
}

impl std::fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LineWriter({} bytes)", self.plain_len)
    }
}

impl LineWriter {
    pub(crate) fn new(key: &DigestKey) -> io::Result<LineWriter> {
        let encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
        Ok(LineWriter { encoder, hasher: key.manifest_hasher(), plain_len: 0, last: None })
    }

    fn push(&mut self, path: Vec<u8>, line: &[u8]) -> Result<()> {
        if self.last.as_ref() == Some(&path) {
            let path = String::from_utf8_lossy(&path);
            return Err(RepoError::unrepresentable(format!("the path `{path}` twice in a backup")));
        }
        self.last = Some(path);
        self.write(line)
    }

    /// A line, without its line feed.
    pub(crate) fn write(&mut self, line: &[u8]) -> Result<()> {
        for part in [line, b"\n"] {
            self.hasher.update(part);
            self.encoder.write_all(part).map_err(memory)?;
            self.plain_len += part.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> io::Result<ManifestBody> {
        Ok(ManifestBody {
            stored: self.encoder.finish()?,
            plain_len: self.plain_len,
            digest: finish16(&self.hasher),
        })
    }
}

/// The manifest as it is stored.
pub(crate) fn assemble(
    header: &impl serde::Serialize,
    epoch: u32,
    lines: ManifestBody,
    repository_id: [u8; 16],
    key: &DigestKey,
) -> Result<Vec<bytes::Bytes>> {
    let mut plain = serde_json::to_vec(header)
        .map_err(|e| RepoError::unrepresentable(format!("the header of a manifest: {e}")))?;
    plain.push(b'\n');
    let stored = zstd::bulk::compress(&plain, LEVEL).map_err(memory)?;
    let length = |bytes: &[u8]| {
        u32::try_from(bytes.len())
            .map_err(|_| RepoError::unrepresentable("a manifest with a header this long"))
    };
    let preamble = Preamble {
        repository_id,
        epoch,
        header_stored: length(&stored)?,
        header_plain: length(&plain)?,
        files_stored: lines.stored.len() as u64,
        files_plain: lines.plain_len,
        header_digest: key.manifest(&plain),
        files_digest: lines.digest,
    };
    let mut start = Vec::with_capacity(PREAMBLE_LEN + stored.len());
    start.extend_from_slice(&preamble.encode());
    start.extend_from_slice(&stored);
    Ok(vec![start.into(), lines.stored.into()])
}
