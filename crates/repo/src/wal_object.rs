//! One archived WAL file as an object: header, block summary, body. See `docs/format/wal-object.md`.
//!
//! The header says what the file is without reading it: digest, positions, commit times. The summary (opaque here) says
//! which blocks it changes. Both lie in front, so that one short read has them.

use std::io::Read;

use bytes::Bytes;
use pgkeep_format::{Lsn, TimelineId, WalFileName, WalSegmentSize};

use crate::bytes::{Malformed, Parsed, Reader};
use crate::codec::{Codec, Compressor, Decompressor};
use crate::digest::{Digest32, crc32c};
use crate::error::Result;
use crate::format_version::FORMAT;
use crate::{Compression, DigestKey, RepoError};

/// Bytes of the header.
pub(crate) const WAL_HEADER_LEN: usize = 192;
/// The body is compressed in pieces of this size, each a zstd frame of its own: they fit the cache.
const PIECE: usize = 512 << 10;
const MAGIC: &[u8; 8] = b"PGKWAL01";
/// Longest file that is taken: the largest WAL segment.
const MAX_RAW: u64 = 1 << 30;
const MAX_SUMMARY: u32 = 256 << 20;
/// Up to this length a buffer is made before anything is known to be true: it saves a copy.
const AT_ONCE: u64 = 64 << 20;
const NO_TIME: i64 = i64::MIN;

/// What an archived file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalKind {
    /// A whole segment.
    Segment,
    /// The unfinished last segment of a timeline.
    Partial,
    /// The ancestors of a timeline.
    TimelineHistory,
    /// A note that a backup began.
    BackupHistory,
}

impl WalKind {
    const fn code(self) -> u8 {
        match self {
            WalKind::Segment => 1,
            WalKind::Partial => 2,
            WalKind::TimelineHistory => 3,
            WalKind::BackupHistory => 4,
        }
    }

    const fn from_code(code: u8) -> Option<WalKind> {
        match code {
            1 => Some(WalKind::Segment),
            2 => Some(WalKind::Partial),
            3 => Some(WalKind::TimelineHistory),
            4 => Some(WalKind::BackupHistory),
            _ => None,
        }
    }

    const fn of(name: WalFileName) -> WalKind {
        match name {
            WalFileName::Segment(_) => WalKind::Segment,
            WalFileName::Partial(_) => WalKind::Partial,
            WalFileName::TimelineHistory(_) => WalKind::TimelineHistory,
            WalFileName::BackupHistory { .. } => WalKind::BackupHistory,
        }
    }
}

/// What was learnt from the bytes while they were at hand. Zeros and none where the file is not WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalFacts {
    /// The cluster that wrote it.
    pub system_identifier: u64,
    /// The timeline.
    pub timeline: TimelineId,
    /// Bytes of a segment.
    pub segment_size: WalSegmentSize,
    /// The version of WAL pages (`XLOG_PAGE_MAGIC`).
    pub page_magic: u16,
    /// First byte of WAL in the file.
    pub start: Lsn,
    /// End of the WAL in the file.
    pub end: Lsn,
    /// The earliest time of a commit or abort, in microseconds since 2000.
    pub first_commit_time: Option<i64>,
    /// The latest one.
    pub last_commit_time: Option<i64>,
    /// Commits.
    pub commits: u64,
    /// Records that begin in the file.
    pub records: u64,
    /// Flags of the summary.
    pub flags: u32,
}

/// A WAL file to be stored.
#[derive(Clone, Copy, Debug)]
pub struct WalObject<'a> {
    /// Its name.
    pub name: WalFileName,
    /// What is known about it.
    pub facts: WalFacts,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its encoded block summary; empty where there is none.
    pub summary: &'a [u8],
    /// How to store it.
    pub compression: Compression,
}

impl WalObject<'_> {
    /// The name as PostgreSQL writes it.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.name.file_name(self.facts.segment_size)
    }
}

/// The header of a stored WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// What it is.
    pub kind: WalKind,
    /// How the body is stored.
    pub codec: Codec,
    /// What is known about it.
    pub facts: WalFacts,
    /// Bytes of the file.
    pub raw_len: u64,
    /// Bytes of the body as stored.
    pub stored_len: u64,
    /// Bytes of the summary; 0 when there is none.
    pub summary_len: u32,
    /// Digest of the plain bytes.
    pub digest: Digest32,
    repository_id: [u8; 16],
    summary_stored: u32,
    summary_crc: u32,
    body_crc: u32,
}

/// A WAL file read back, proved by its digest.
#[derive(Clone, Debug)]
pub struct WalFile {
    /// Its header.
    pub header: WalHeader,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// An object ready to be stored.
pub(crate) struct EncodedWal {
    pub(crate) header: WalHeader,
    pub(crate) chunks: Vec<Bytes>,
}

pub(crate) fn encode(object: &WalObject<'_>, repository_id: [u8; 16], key: &DigestKey) -> Result<EncodedWal> {
    let raw_len = object.bytes.len() as u64;
    if raw_len > MAX_RAW || object.summary.len() > MAX_SUMMARY as usize {
        return Err(RepoError::unrepresentable(format!("`{}`: it is too large", object.file_name())));
    }
    let (codec, body) = encode_body(object.bytes, object.compression);
    let mut summary = Vec::new();
    if !object.summary.is_empty() {
        summary = zstd::bulk::compress(object.summary, Compression::DEFAULT_ZSTD_LEVEL).map_err(|e| {
            RepoError::unrepresentable(format!("the summary of `{}`: {e}", object.file_name()))
        })?;
    }
    let header = WalHeader {
        kind: WalKind::of(object.name),
        codec,
        facts: object.facts,
        raw_len,
        stored_len: body.len() as u64,
        summary_len: object.summary.len() as u32,
        digest: key.wal(object.bytes),
        repository_id,
        summary_stored: u32::try_from(summary.len())
            .map_err(|_| RepoError::unrepresentable("a summary of more than 4 GiB"))?,
        summary_crc: crc32c(&[&summary]),
        body_crc: crc32c(&[&body]),
    };
    let mut start = Vec::with_capacity(WAL_HEADER_LEN + summary.len());
    start.extend_from_slice(&header.encode());
    start.extend_from_slice(&summary);
    Ok(EncodedWal { header, chunks: vec![start.into(), body.into()] })
}

fn encode_body(raw: &[u8], compression: Compression) -> (Codec, Vec<u8>) {
    let mut compressor = Compressor::new(compression);
    let mut body = Vec::new();
    let codec = match compression {
        // Frames one after another are a zstd file like any other. All of them are zstd frames, even one that does not
        // shrink: the body has one codec.
        Compression::Zstd(_) => {
            body.reserve(raw.len() / 2);
            let whole = raw.chunks(PIECE).all(|piece| compressor.append_zstd(piece, &mut body).is_some());
            (whole && body.len() < raw.len()).then_some(Codec::Zstd)
        }
        Compression::None | Compression::Lz4 => compressor.compress(raw, &mut body),
    };
    match codec {
        Some(codec) => (codec, body),
        None => (Codec::None, raw.to_vec()),
    }
}

impl WalHeader {
    fn encode(&self) -> [u8; WAL_HEADER_LEN] {
        let mut out = Vec::with_capacity(WAL_HEADER_LEN);
        let facts = &self.facts;
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.push(self.kind.code());
        out.push(self.codec.code());
        out.extend_from_slice(&[0; 4]); // cipher, reserved
        out.extend_from_slice(&0_u32.to_le_bytes()); // flags of the format
        out.extend_from_slice(&facts.flags.to_le_bytes());
        out.extend_from_slice(&self.repository_id);
        out.extend_from_slice(&[0; 16]); // random id for sealing
        out.extend_from_slice(&facts.system_identifier.to_le_bytes());
        out.extend_from_slice(&facts.timeline.get().to_le_bytes());
        out.extend_from_slice(&u32::from(facts.segment_size).to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.summary_stored.to_le_bytes());
        out.extend_from_slice(&self.summary_len.to_le_bytes());
        out.extend_from_slice(&facts.start.0.to_le_bytes());
        out.extend_from_slice(&facts.end.0.to_le_bytes());
        out.extend_from_slice(&facts.first_commit_time.unwrap_or(NO_TIME).to_le_bytes());
        out.extend_from_slice(&facts.last_commit_time.unwrap_or(NO_TIME).to_le_bytes());
        out.extend_from_slice(&u32::try_from(facts.commits).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&u32::try_from(facts.records).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&self.digest.0);
        out.extend_from_slice(&self.summary_crc.to_le_bytes());
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&facts.page_magic.to_le_bytes());
        out.resize(WAL_HEADER_LEN - 4, 0);
        let crc = crc32c(&[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        let mut header = [0; WAL_HEADER_LEN];
        header.copy_from_slice(&out);
        header
    }

    pub(crate) fn decode(key: &str, bytes: &[u8], repository_id: [u8; 16]) -> Result<WalHeader> {
        let corrupt =
            |m: Malformed| RepoError::corrupt(key, 0, format!("the header of the WAL file: {}", m.0));
        let head =
            bytes.first_chunk::<WAL_HEADER_LEN>().ok_or(Malformed("it ends too early")).map_err(corrupt)?;
        if !head.starts_with(MAGIC) {
            return Err(corrupt(Malformed("it does not begin as one does")));
        }
        let (covered, crc) = head.split_at(WAL_HEADER_LEN - 4);
        if crc32c(&[covered]).to_le_bytes() != crc {
            return Err(corrupt(Malformed("its checksum is wrong")));
        }
        let mut reader = Reader::new(&head[8..]);
        let version = reader.u16().map_err(corrupt)?;
        let (kind, codec) = (reader.u8().map_err(corrupt)?, reader.u8().map_err(corrupt)?);
        let cipher = reader.u32().map_err(corrupt)?;
        let flags = reader.u32().map_err(corrupt)?;
        let (known_kind, known_codec) = (WalKind::from_code(kind), Codec::from_code(codec));
        let (Some(kind), Some(codec), FORMAT, 0, 0) = (known_kind, known_codec, version, cipher, flags)
        else {
            let what = format!(
                "WAL object version {version}, kind {kind}, codec {codec}, cipher {cipher}, flags {flags:#x}"
            );
            return Err(RepoError::NewerFormat { key: key.to_owned(), what });
        };
        let header = WalHeader::parse(reader, kind, codec).map_err(corrupt)?;
        if header.repository_id != repository_id {
            return Err(corrupt(Malformed("it belongs to another repository")));
        }
        Ok(header)
    }

    fn parse(mut reader: Reader<'_>, kind: WalKind, codec: Codec) -> Parsed<WalHeader> {
        let time = |time: i64| (time != NO_TIME).then_some(time);
        let flags = reader.u32()?;
        let repository_id = reader.array()?;
        reader.take(16)?;
        let system_identifier = reader.u64()?;
        let timeline = TimelineId::new(reader.u32()?).ok_or(Malformed("it has no timeline"))?;
        let segment_size = WalSegmentSize::try_from(reader.u32()?)
            .map_err(|_| Malformed("it has an impossible segment size"))?;
        let (raw_len, stored_len) = (reader.u64()?, reader.u64()?);
        let (summary_stored, summary_len) = (reader.u32()?, reader.u32()?);
        let (start, end) = (Lsn(reader.u64()?), Lsn(reader.u64()?));
        let (first_commit_time, last_commit_time) = (time(reader.i64()?), time(reader.i64()?));
        let (commits, records) = (reader.u32()?, reader.u32()?);
        let digest = Digest32(reader.array()?);
        let (summary_crc, body_crc) = (reader.u32()?, reader.u32()?);
        let page_magic = reader.u16()?;
        if raw_len > MAX_RAW || stored_len > MAX_RAW + 16 || summary_len > MAX_SUMMARY {
            return Err(Malformed("it declares an impossible length"));
        }
        if (summary_len == 0) != (summary_stored == 0) {
            return Err(Malformed("it declares an impossible length"));
        }
        let facts = WalFacts {
            system_identifier,
            timeline,
            segment_size,
            page_magic,
            start,
            end,
            first_commit_time,
            last_commit_time,
            commits: u64::from(commits),
            records: u64::from(records),
            flags,
        };
        Ok(WalHeader {
            kind,
            codec,
            facts,
            raw_len,
            stored_len,
            summary_len,
            digest,
            repository_id,
            summary_stored,
            summary_crc,
            body_crc,
        })
    }

    /// Whether the header can be that of the file with this name.
    pub(crate) fn fits(&self, name: WalFileName) -> bool {
        let segment_fits = match name {
            WalFileName::Segment(s) | WalFileName::Partial(s) => {
                self.facts.segment_size.start_of(s.number) == self.facts.start
            }
            _ => true,
        };
        segment_fits && self.kind == WalKind::of(name) && self.facts.timeline == name.timeline()
    }

    /// The length of the whole object.
    pub(crate) fn object_len(&self) -> u64 {
        self.body_offset() + self.stored_len
    }

    pub(crate) fn summary_end(&self) -> u64 {
        self.body_offset()
    }

    fn body_offset(&self) -> u64 {
        WAL_HEADER_LEN as u64 + u64::from(self.summary_stored)
    }

    /// Decodes the summary from the stored bytes after the header.
    pub(crate) fn decode_summary(&self, key: &str, stored: &[u8]) -> Result<Vec<u8>> {
        let corrupt = |what: &str| RepoError::corrupt(key, WAL_HEADER_LEN as u64, what);
        if stored.len() != self.summary_stored as usize || crc32c(&[stored]) != self.summary_crc {
            return Err(corrupt("the checksum of the block summary is wrong"));
        }
        if stored.is_empty() {
            return Ok(Vec::new());
        }
        let plain = inflate(stored, u64::from(self.summary_len));
        plain.ok_or_else(|| corrupt("the block summary cannot be decompressed"))
    }
}

/// Checks and decodes a whole object.
pub(crate) fn decode(
    key: &str,
    bytes: &[u8],
    repository_id: [u8; 16],
    digests: &DigestKey,
) -> Result<WalFile> {
    let header = WalHeader::decode(key, bytes, repository_id)?;
    if header.object_len() != bytes.len() as u64 {
        return Err(RepoError::corrupt(
            key,
            bytes.len() as u64,
            "it does not have the length that it declares",
        ));
    }
    let corrupt = |what: &str| RepoError::corrupt(key, header.body_offset(), what);
    let stored = bytes.get(header.body_offset() as usize..).unwrap_or_default();
    if crc32c(&[stored]) != header.body_crc {
        return Err(corrupt("the checksum of the body is wrong"));
    }
    let plain = match header.codec {
        Codec::Zstd => inflate(stored, header.raw_len),
        codec => {
            let mut out = Vec::new();
            let done = Decompressor::default().decompress(codec, stored, header.raw_len as usize, &mut out);
            done.map(|()| out)
        }
    };
    let plain = plain.ok_or_else(|| corrupt("the body cannot be decompressed"))?;
    if digests.wal(&plain) != header.digest {
        return Err(corrupt("the digest of the body is wrong"));
    }
    Ok(WalFile { header, bytes: plain })
}

/// All zstd frames of `stored`, when they hold exactly `length` bytes.
fn inflate(stored: &[u8], length: u64) -> Option<Vec<u8>> {
    if length <= AT_ONCE {
        let mut plain = Vec::new();
        let length = usize::try_from(length).ok()?;
        return Decompressor::default().decompress(Codec::Zstd, stored, length, &mut plain).map(|()| plain);
    }
    // Memory grows with what comes out, not with what is declared.
    let decoder = zstd::Decoder::with_buffer(stored).ok()?;
    let mut plain = Vec::with_capacity(usize::try_from(AT_ONCE).ok()?);
    decoder.take(length + 1).read_to_end(&mut plain).ok()?;
    (plain.len() as u64 == length).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by fuzzing: LZ4 needs its output zeroed first, all of the 900 MB that an empty body declared.
    #[test]
    fn a_length_that_no_body_can_have_is_refused_before_memory_is_taken() {
        let facts = WalFacts {
            system_identifier: 1,
            timeline: TimelineId::FIRST,
            segment_size: WalSegmentSize::DEFAULT,
            page_magic: 0,
            start: Lsn(0),
            end: Lsn(0),
            first_commit_time: None,
            last_commit_time: None,
            commits: 0,
            records: 0,
            flags: 0,
        };
        let key = DigestKey::new(&[0; 32]);
        for (codec, raw_len) in [(Codec::Lz4, 900 << 20), (Codec::Zstd, 900 << 20), (Codec::None, 1)] {
            let header = WalHeader {
                kind: WalKind::Segment,
                codec,
                facts,
                raw_len,
                stored_len: 0,
                summary_len: 0,
                digest: Digest32::default(),
                repository_id: [0; 16],
                summary_stored: 0,
                summary_crc: 0,
                body_crc: crc32c(&[]),
            };
            assert!(matches!(decode("wal", &header.encode(), [0; 16], &key), Err(RepoError::Corrupt { .. })));
        }
    }
}
