//! Packs: the objects that hold frames. See `docs/format/pack.md`.
//!
//! A pack is written once, front to back: header, frames, an index of them, a trailer. It can be read without a
//! manifest: frames follow each other and say how long they are. It exists when its upload is finished, and not
//! before: a writer that is killed leaves no half of one.

use crate::bytes::{Malformed, Parsed, Reader, put_varint};
use crate::digest::crc32c;
use crate::error::Result;
use crate::format_version::FORMAT;
use crate::frame::{EncodedFrame, FrameKind, FramePlace, FrameRef, MetaEncoder};
use crate::store::{Store, Upload};
use crate::{RepoError, digest};

/// Bytes before the first frame.
pub(crate) const PACK_HEADER_LEN: usize = 64;
/// Bytes after the index.
pub(crate) const PACK_TRAILER_LEN: usize = 48;

const MAGIC: &[u8; 8] = b"PGKPACK1";
const END_MAGIC: &[u8; 8] = b"PGKPEND1";
/// An index frame holds at most this many entries, each at most 11 bytes.
const INDEX_FRAME_ENTRIES: usize = 64 << 10;

/// The first bytes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// The repository that the pack belongs to.
    pub repository_id: [u8; 16],
    /// Random; keys of sealed frames are derived from it, and every frame's checksum covers it.
    pub pack_id: [u8; 16],
    /// The epoch of the backup that wrote the pack.
    pub epoch: u32,
    /// Its number in that backup, from 1.
    pub number: u32,
    /// Whether a dump wrote it, as opposed to a backup.
    pub is_of_dump: bool,
}

impl PackHeader {
    pub(crate) fn encode(&self) -> [u8; PACK_HEADER_LEN] {
        let mut out = [0; PACK_HEADER_LEN];
        out[0..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        // 10: cipher.
        out[11] = u8::from(self.is_of_dump);
        // 12..16: flags.
        out[16..32].copy_from_slice(&self.repository_id);
        out[32..48].copy_from_slice(&self.pack_id);
        out[48..52].copy_from_slice(&self.epoch.to_le_bytes());
        out[52..56].copy_from_slice(&self.number.to_le_bytes());
        // 56..60: reserved.
        let crc = crc32c(&[&out[..60]]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks the first bytes of a pack.
    ///
    /// # Errors
    /// [`RepoError::Corrupt`] or [`RepoError::NewerFormat`], naming `key`.
    pub fn decode(key: &str, bytes: &[u8]) -> Result<PackHeader> {
        let corrupt = |m: Malformed| RepoError::corrupt(key, 0, format!("the header of the pack: {}", m.0));
        let head =
            bytes.first_chunk::<PACK_HEADER_LEN>().ok_or(Malformed("it ends too early")).map_err(corrupt)?;
        if !head.starts_with(MAGIC) {
            return Err(corrupt(Malformed("it does not begin as a pack does")));
        }
        if crc32c(&[&head[..60]]).to_le_bytes() != head[60..64] {
            return Err(corrupt(Malformed("its checksum is wrong")));
        }
        let mut reader = Reader::new(&head[8..60]);
        let version = reader.u16().map_err(corrupt)?;
        let cipher = reader.u8().map_err(corrupt)?;
        let origin = reader.u8().map_err(corrupt)?;
        let flags = reader.u32().map_err(corrupt)?;
        if version != FORMAT || cipher != 0 || origin > 1 || flags != 0 {
            let what = format!("pack version {version}, cipher {cipher}, origin {origin}, flags {flags:#x}");
            return Err(RepoError::NewerFormat { key: key.to_owned(), what });
        }
        let parse = |mut reader: Reader<'_>| -> Parsed<PackHeader> {
            Ok(PackHeader {
                repository_id: reader.array()?,
                pack_id: reader.array()?,
                epoch: reader.u32()?,
                number: reader.u32()?,
                is_of_dump: origin == 1,
            })
        };
        parse(reader).map_err(corrupt)
    }
}

/// The last bytes of a pack: where its index lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackTrailer {
    pub(crate) index_offset: u64,
    pub(crate) index_len: u32,
    pub(crate) frames: u32,
    pub(crate) pack_id: [u8; 16],
}

impl PackTrailer {
    pub(crate) fn encode(&self) -> [u8; PACK_TRAILER_LEN] {
        let mut out = [0; PACK_TRAILER_LEN];
        out[0..8].copy_from_slice(&self.index_offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.index_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.frames.to_le_bytes());
        out[16..32].copy_from_slice(&self.pack_id);
        // 32..36: reserved.
        let crc = crc32c(&[&out[..36]]);
        out[36..40].copy_from_slice(&crc.to_le_bytes());
        out[40..48].copy_from_slice(END_MAGIC);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Parsed<PackTrailer> {
        let tail = bytes.last_chunk::<PACK_TRAILER_LEN>().ok_or(Malformed("it ends too early"))?;
        if !tail.ends_with(END_MAGIC) {
            return Err(Malformed("it does not end as a pack does"));
        }
        if crc32c(&[&tail[..36]]).to_le_bytes() != tail[36..40] {
            return Err(Malformed("the checksum of its end is wrong"));
        }
        if tail[32..36] != [0; 4] {
            return Err(Malformed("its end has unknown flags"));
        }
        let mut reader = Reader::new(tail);
        Ok(PackTrailer {
            index_offset: reader.u64()?,
            index_len: reader.u32()?,
            frames: reader.u32()?,
            pack_id: reader.array()?,
        })
    }
}

/// One frame in the index of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// What the frame holds.
    pub kind: FrameKind,
    /// Where it lies.
    pub frame: FrameRef,
}

/// Appends one entry; its offset follows from those before it.
fn put_index_entry(out: &mut Vec<u8>, entry: &IndexEntry) {
    out.push(entry.kind.code());
    put_varint(out, u64::from(entry.frame.stored_len));
    put_varint(out, u64::from(entry.frame.raw_len));
}

/// Reads the entries of one index frame; `offset` is where the next frame begins.
pub(crate) fn decode_index(
    raw: &[u8],
    epoch: u32,
    pack: u32,
    offset: &mut u64,
    entries: &mut Vec<IndexEntry>,
) -> Parsed<()> {
    let mut reader = Reader::new(raw);
    while reader.remaining() > 0 {
        let kind = FrameKind::from_code(reader.u8()?).ok_or(Malformed("the index names an unknown kind"))?;
        let (stored_len, raw_len) = (reader.varint_u32()?, reader.varint_u32()?);
        let frame = FrameRef { epoch, pack, offset: *offset, stored_len, raw_len };
        frame.check()?;
        *offset = frame.end();
        entries.push(IndexEntry { kind, frame });
    }
    Ok(())
}

/// A pack that is being written.
#[derive(Debug)]
pub(crate) struct PackWriter {
    header: PackHeader,
    upload: Upload,
    offset: u64,
    entries: Vec<IndexEntry>,
}

/// A pack whose last byte is known but which is not yet stored durably.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub(crate) header: PackHeader,
    pub(crate) size: u64,
    upload: Upload,
}

impl SealedPack {
    /// Makes the pack exist, durably.
    pub(crate) fn finish(self) -> Result<()> {
        self.upload.finish()
    }
}

impl PackWriter {
    pub(crate) fn begin(
        store: &Store,
        key: &str,
        repository_id: [u8; 16],
        epoch: u32,
        number: u32,
        is_of_dump: bool,
    ) -> Result<PackWriter> {
        let pack_id = digest::random()?;
        let header = PackHeader { repository_id, pack_id, epoch, number, is_of_dump };
        let mut upload = store.upload(key)?;
        upload.write(header.encode().to_vec())?;
        Ok(PackWriter { header, upload, offset: PACK_HEADER_LEN as u64, entries: Vec::new() })
    }

    /// Bytes written so far.
    pub(crate) fn size(&self) -> u64 {
        self.offset
    }

    pub(crate) fn append(&mut self, kind: FrameKind, mut frame: EncodedFrame) -> Result<FrameRef> {
        frame.settle(FramePlace { pack_id: self.header.pack_id, offset: self.offset });
        let place = FrameRef {
            epoch: self.header.epoch,
            pack: self.header.number,
            offset: self.offset,
            stored_len: u32::try_from(frame.bytes.len())
                .map_err(|_| RepoError::unrepresentable("a frame of more than 4 GiB"))?,
            raw_len: frame.raw_len,
        };
        place.check().map_err(|m| RepoError::unrepresentable(format!("a frame: {}", m.0)))?;
        self.upload.write(frame.bytes)?;
        self.offset = place.end();
        self.entries.push(IndexEntry { kind, frame: place });
        Ok(place)
    }

    /// Writes index and trailer.
    pub(crate) fn seal(mut self, meta: &mut MetaEncoder) -> Result<SealedPack> {
        let index_offset = self.offset;
        let entries = std::mem::take(&mut self.entries);
        for group in entries.chunks(INDEX_FRAME_ENTRIES) {
            let mut raw = Vec::with_capacity(group.len() * 8);
            group.iter().for_each(|entry| put_index_entry(&mut raw, entry));
            self.append(FrameKind::Index, meta.encode(FrameKind::Index, &raw))?;
        }
        let trailer = PackTrailer {
            index_offset,
            index_len: u32::try_from(self.offset - index_offset)
                .map_err(|_| RepoError::unrepresentable("a pack with so many frames"))?,
            frames: u32::try_from(entries.len())
                .map_err(|_| RepoError::unrepresentable("a pack with so many frames"))?,
            pack_id: self.header.pack_id,
        };
        self.upload.write(trailer.encode().to_vec())?;
        Ok(SealedPack {
            header: self.header,
            size: self.offset + PACK_TRAILER_LEN as u64,
            upload: self.upload,
        })
    }

    pub(crate) fn abort(self) {
        self.upload.abort();
    }
}
