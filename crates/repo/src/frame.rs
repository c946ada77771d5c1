//! Frames: the unit of compression, of checking and (later) of sealing. See `docs/format/pack.md`.
//!
//! [`BlockEncoder`] makes them on worker threads without any I/O. Where a frame lies is known only when it is appended to
//! a pack; its header is completed then, with a checksum that covers the place too, so that a frame read from the wrong
//! place is never taken for another.

use crate::bytes::{Malformed, Parsed, Reader, put_signed, put_varint};
use crate::bytes::{offset_u32, offset_u64};
use crate::codec::{Codec, Compressor, Decompressor};
use crate::digest::{Digest16, crc32c};
use crate::frame_fetcher::StoredFrame;
use crate::{BlockDigest, Compression, DigestKey};

/// Bytes of a frame before its body.
pub const FRAME_HEADER_LEN: usize = 32;
/// The most bytes of blocks that a frame holds.
pub const MAX_BLOCKS_FRAME: usize = 1 << 20;
/// The most bytes of metadata that a frame holds.
pub(crate) const MAX_META_FRAME: usize = 16 << 20;
/// Bytes that sealing adds after the body.
pub(crate) const SEAL_TAG_LEN: usize = 16;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Blocks of files.
    Blocks,
    /// Roots and leaves of block maps.
    Map,
    /// Digests of blocks.
    Digests,
    /// The index at the end of a pack.
    Index,
    /// What lies in the frames of a pack, for whoever goes on with an interrupted backup.
    Journal,
    /// Bytes of a dump.
    Dump,
}

impl FrameKind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            FrameKind::Blocks => 1,
            FrameKind::Map => 2,
            FrameKind::Digests => 3,
            FrameKind::Index => 4,
            FrameKind::Journal => 5,
            FrameKind::Dump => 6,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<FrameKind> {
        match code {
            1 => Some(FrameKind::Blocks),
            2 => Some(FrameKind::Map),
            3 => Some(FrameKind::Digests),
            4 => Some(FrameKind::Index),
            5 => Some(FrameKind::Journal),
            6 => Some(FrameKind::Dump),
            _ => None,
        }
    }

    /// The most plain bytes that a frame of this kind may declare.
    pub(crate) const fn max_raw(self) -> usize {
        match self {
            FrameKind::Blocks | FrameKind::Dump => MAX_BLOCKS_FRAME,
            _ => MAX_META_FRAME,
        }
    }
}

/// Where a frame lies: which pack, and which bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRef {
    /// The epoch of the backup that wrote the pack.
    pub epoch: u32,
    /// The number of the pack in that backup, from 1.
    pub pack: u32,
    /// Where the frame's header begins in the pack.
    pub offset: u64,
    /// Its length in the pack, header included.
    pub stored_len: u32,
    /// The length of what it holds.
    pub raw_len: u32,
}

impl FrameRef {
    /// Where the frame ends in the pack.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.stored_len as u64)
    }

    /// The pack that it lies in: epoch and number.
    #[must_use]
    pub const fn pack_name(&self) -> (u32, u32) {
        (self.epoch, self.pack)
    }

    /// Whether lengths and place are possible at all: what is allocated for the frame follows from them.
    pub(crate) fn check(&self) -> Parsed<()> {
        let body = (self.stored_len as usize).checked_sub(FRAME_HEADER_LEN);
        let fits = body.is_some_and(|body| body > 0 && body <= self.raw_len as usize + SEAL_TAG_LEN);
        if !fits || self.raw_len as usize > MAX_META_FRAME {
            return Err(Malformed("a frame has an impossible length"));
        }
        if self.epoch == 0 || self.pack == 0 || self.offset < crate::pack::PACK_HEADER_LEN as u64 {
            return Err(Malformed("a frame has an impossible place"));
        }
        if self.offset.checked_add(u64::from(self.stored_len)).is_none() {
            return Err(Malformed("a frame has an impossible place"));
        }
        Ok(())
    }

    /// Appends this reference, as differences to the one before it in the same table.
    pub(crate) fn encode(&self, before: Option<&FrameRef>, out: &mut Vec<u8>) {
        let (epoch, pack, expected) = FrameRef::expected(before);
        put_signed(out, i64::from(self.epoch) - i64::from(epoch));
        put_signed(out, i64::from(self.pack) - i64::from(pack));
        let expected = if (epoch, pack) == (self.epoch, self.pack) { expected } else { 0 };
        put_signed(out, self.offset.wrapping_sub(expected).cast_signed());
        put_varint(out, u64::from(self.stored_len));
        put_varint(out, u64::from(self.raw_len));
    }

    pub(crate) fn decode(before: Option<&FrameRef>, reader: &mut Reader<'_>) -> Parsed<FrameRef> {
        let (epoch_before, pack_before, expected) = FrameRef::expected(before);
        let epoch = offset_u32(epoch_before, reader.signed()?)?;
        let pack = offset_u32(pack_before, reader.signed()?)?;
        let expected = if (epoch, pack) == (epoch_before, pack_before) { expected } else { 0 };
        let offset = offset_u64(expected, reader.signed()?)?;
        let frame =
            FrameRef { epoch, pack, offset, stored_len: reader.varint_u32()?, raw_len: reader.varint_u32()? };
        frame.check()?;
        Ok(frame)
    }

    fn expected(before: Option<&FrameRef>) -> (u32, u32, u64) {
        before.map_or((0, 0, 0), |before| (before.epoch, before.pack, before.end()))
    }
}

/// The place that a frame's checksum covers: the pack's random id and the offset in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FramePlace {
    pub(crate) pack_id: [u8; 16],
    pub(crate) offset: u64,
}

/// The 32 bytes before the body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) kind: FrameKind,
    pub(crate) codec: Codec,
    pub(crate) digest: Digest16,
}

const CRC_AT: usize = 12;
const DIGEST_AT: usize = 16;

impl FrameHeader {
    /// Parses and checks the header of a whole frame, and its checksum over place, header and body.
    pub(crate) fn parse(stored: &[u8], place: FramePlace) -> Parsed<(FrameHeader, &[u8])> {
        let header = FrameHeader::parse_unchecked(stored)?;
        if header.stored_len as usize != stored.len() {
            return Err(Malformed("the frame's length is not the expected one"));
        }
        let (head, body) =
            stored.split_at_checked(FRAME_HEADER_LEN).ok_or(Malformed("the frame is too short"))?;
        let crc = stored.get(CRC_AT..DIGEST_AT).ok_or(Malformed("the frame is too short"))?;
        if frame_crc(head, body, place).to_le_bytes() != crc {
            return Err(Malformed("the checksum of the frame is wrong"));
        }
        Ok((header, body))
    }

    /// Parses a header alone; its checksum cannot be checked without the body.
    pub(crate) fn parse_unchecked(head: &[u8]) -> Parsed<FrameHeader> {
        let mut reader = Reader::new(head);
        let stored_len = reader.u32()?;
        let raw_len = reader.u32()?;
        let kind = FrameKind::from_code(reader.u8()?).ok_or(Malformed("the kind of the frame is unknown"))?;
        let codec = Codec::from_code(reader.u8()?).ok_or(Malformed("the codec of the frame is unknown"))?;
        if reader.u16()? != 0 {
            return Err(Malformed("the frame has unknown flags"));
        }
        let _crc = reader.u32()?;
        let digest = Digest16(reader.array()?);
        let body = (stored_len as usize).checked_sub(FRAME_HEADER_LEN);
        if raw_len == 0 || raw_len as usize > kind.max_raw() {
            return Err(Malformed("the frame holds too much or nothing"));
        }
        if !body.is_some_and(|body| body > 0 && body <= raw_len as usize + SEAL_TAG_LEN) {
            return Err(Malformed("the frame has an impossible length"));
        }
        Ok(FrameHeader { stored_len, raw_len, kind, codec, digest })
    }

    fn write(&self, head: &mut [u8; FRAME_HEADER_LEN]) {
        head[0..4].copy_from_slice(&self.stored_len.to_le_bytes());
        head[4..8].copy_from_slice(&self.raw_len.to_le_bytes());
        head[8] = self.kind.code();
        head[9] = self.codec.code();
        head[10..12].fill(0);
        head[CRC_AT..DIGEST_AT].fill(0);
        head[DIGEST_AT..].copy_from_slice(&self.digest.0);
    }
}

fn frame_crc(head: &[u8], body: &[u8], place: FramePlace) -> u32 {
    let before = head.get(..CRC_AT).unwrap_or_default();
    let after = head.get(DIGEST_AT..).unwrap_or_default();
    crc32c(&[&place.pack_id, &place.offset.to_le_bytes(), before, after, body])
}

/// A frame that has no place yet. Hand it to [`crate::BackupWriter::append`].
#[derive(Debug)]
pub struct EncodedFrame {
    /// Header (its checksum still missing) and body.
    pub bytes: Vec<u8>,
    /// Of each block, in order; none for metadata.
    pub digests: Vec<BlockDigest>,
    /// The length of what the frame holds.
    pub raw_len: u32,
    /// Whether an interrupted backup made it.
    pub is_copy: bool,
}

impl EncodedFrame {
    /// A frame that was proved and decoded where it lies, for another place.
    pub(crate) fn copied(stored: &StoredFrame, digests: &[BlockDigest]) -> EncodedFrame {
        EncodedFrame {
            bytes: stored.bytes.to_vec(),
            digests: digests.to_vec(),
            raw_len: stored.frame.raw_len,
            is_copy: true,
        }
    }

    /// Completes the header for the place that the frame gets.
    pub(crate) fn settle(&mut self, place: FramePlace) {
        if let Some((head, body)) = self.bytes.split_at_mut_checked(FRAME_HEADER_LEN) {
            let crc = frame_crc(head, body, place);
            if let Some(field) = head.get_mut(CRC_AT..DIGEST_AT) {
                field.copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
}

/// Digests, compresses and frames blocks. One for each worker thread; no I/O.
#[derive(Debug)]
pub struct BlockEncoder {
    compressor: Compressor,
    scratch: Vec<u8>,
    key: DigestKey,
    block_size: usize,
}

impl BlockEncoder {
    /// An encoder for blocks of `block_size` bytes.
    #[must_use]
    pub fn new(compression: Compression, key: DigestKey, block_size: u32) -> BlockEncoder {
        BlockEncoder {
            compressor: Compressor::new(compression),
            scratch: Vec::new(),
            key,
            block_size: block_size as usize,
        }
    }

    /// Makes a frame of whole blocks. The last block of a file comes padded with zeros. Whether blocks hold zeros only
    /// is for the caller to ask before ([`crate::is_zero_block`]): such blocks need no frame.
    ///
    /// # Panics
    /// When `blocks` is empty, longer than [`MAX_BLOCKS_FRAME`], or not a multiple of the block size.
    #[must_use]
    pub fn encode(&mut self, blocks: &[u8]) -> EncodedFrame {
        let digests = blocks.chunks_exact(self.block_size).map(|block| self.key.block(block)).collect();
        self.encode_digested(blocks, digests)
    }

    /// As [`encode`](Self::encode), for blocks whose digests ([`Self::digest`]) are known already.
    ///
    /// # Panics
    /// As `encode`, and when there is not one digest for each block.
    #[must_use]
    pub fn encode_digested(&mut self, blocks: &[u8], digests: Vec<BlockDigest>) -> EncodedFrame {
        assert!(
            !blocks.is_empty()
                && blocks.len() <= MAX_BLOCKS_FRAME
                && blocks.len() == digests.len() * self.block_size,
            "{} bytes with {} digests cannot be a frame of blocks of {} bytes",
            blocks.len(),
            digests.len(),
            self.block_size
        );
        let digest = self.key.blocks_frame(&digests);
        build(&mut self.compressor, &mut self.scratch, FrameKind::Blocks, blocks, digest, digests)
    }

    /// The digest of one block.
    #[must_use]
    pub fn digest(&self, block: &[u8]) -> BlockDigest {
        self.key.block(block)
    }

    /// The digest of a block of zeros, for [`crate::BlockMapBuilder::put_zero`].
    #[must_use]
    pub fn zero_digest(&self) -> BlockDigest {
        self.key.zero_block(self.block_size as u32)
    }
}

/// Frames metadata.
#[derive(Debug)]
pub(crate) struct MetaEncoder {
    compressed: Compressor,
    plain: Compressor,
    scratch: Vec<u8>,
    key: DigestKey,
}

impl MetaEncoder {
    pub(crate) fn new(key: DigestKey) -> MetaEncoder {
        MetaEncoder::with(Compression::default(), key)
    }

    pub(crate) fn with(compression: Compression, key: DigestKey) -> MetaEncoder {
        MetaEncoder {
            compressed: Compressor::new(compression),
            plain: Compressor::new(Compression::None),
            scratch: Vec::new(),
            key,
        }
    }

    /// `raw` is neither empty nor longer than [`MAX_META_FRAME`].
    pub(crate) fn encode(&mut self, kind: FrameKind, raw: &[u8]) -> EncodedFrame {
        // Digests do not compress.
        let compressor = if kind == FrameKind::Digests { &mut self.plain } else { &mut self.compressed };
        build(compressor, &mut self.scratch, kind, raw, self.key.meta_frame(raw), Vec::new())
    }
}

/// The worst case is compressed into `scratch`, which stays allocated and in the cache; the frame itself gets what it
/// needs and no more. Copying the result costs less than returning memory that was reserved for the worst case.
fn build(
    compressor: &mut Compressor,
    scratch: &mut Vec<u8>,
    kind: FrameKind,
    raw: &[u8],
    digest: Digest16,
    digests: Vec<BlockDigest>,
) -> EncodedFrame {
    scratch.clear();
    let (codec, body) = match compressor.compress(raw, scratch) {
        Some(codec) => (codec, scratch.as_slice()),
        None => (Codec::None, raw),
    };
    let stored_len = FRAME_HEADER_LEN + body.len();
    let mut bytes = Vec::with_capacity(stored_len + SEAL_TAG_LEN);
    let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let stored_len = u32::try_from(stored_len).unwrap_or(u32::MAX);
    let mut head = [0; FRAME_HEADER_LEN];
    FrameHeader { stored_len, raw_len, kind, codec, digest }.write(&mut head);
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    EncodedFrame { bytes, digests, raw_len, is_copy: false }
}

/// Checks and decodes frames. One for each reading thread; no I/O.
#[derive(Debug)]
pub struct FrameDecoder {
    decompressor: Decompressor,
    key: DigestKey,
    block_size: usize,
    digests: Vec<BlockDigest>,
}

impl FrameDecoder {
    pub(crate) fn new(key: DigestKey, block_size: u32) -> FrameDecoder {
        FrameDecoder {
            decompressor: Decompressor::default(),
            key,
            block_size: block_size as usize,
            digests: Vec::new(),
        }
    }

    /// Decodes a whole stored frame into `out`, proving place, lengths and digest.
    pub(crate) fn decode(
        &mut self,
        stored: &[u8],
        place: FramePlace,
        raw_len: u32,
        out: &mut Vec<u8>,
    ) -> Parsed<FrameKind> {
        let (header, body) = FrameHeader::parse(stored, place)?;
        if header.raw_len != raw_len {
            return Err(Malformed("the frame holds another number of bytes than was expected"));
        }
        self.decompressor
            .decompress(header.codec, body, raw_len as usize, out)
            .ok_or(Malformed("the frame cannot be decompressed"))?;
        self.digests.clear();
        let digest = match header.kind {
            FrameKind::Blocks => {
                if self.block_size == 0 || !out.len().is_multiple_of(self.block_size) {
                    return Err(Malformed("the frame does not hold whole blocks"));
                }
                self.digests.extend(out.chunks_exact(self.block_size).map(|block| self.key.block(block)));
                self.key.blocks_frame(&self.digests)
            }
            _ => self.key.meta_frame(out),
        };
        if digest != header.digest {
            return Err(Malformed("the digest of the frame is wrong"));
        }
        Ok(header.kind)
    }

    /// The digests of the blocks of the frame decoded last: they come with the check.
    #[must_use]
    pub fn digests(&self) -> &[BlockDigest] {
        &self.digests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: FramePlace = FramePlace { pack_id: [9; 16], offset: 64 };

    fn key() -> DigestKey {
        DigestKey::new(&[5; 32])
    }

    fn sample(compression: Compression) -> (Vec<u8>, EncodedFrame) {
        let blocks: Vec<u8> = (0..3 * 8192_u32).map(|i| (i / 11) as u8).collect();
        let mut frame = BlockEncoder::new(compression, key(), 8192).encode(&blocks);
        frame.settle(PLACE);
        (blocks, frame)
    }

    #[test]
    fn a_frame_survives_a_round_trip() {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd(3)] {
            let (blocks, frame) = sample(compression);
            let mut out = Vec::new();
            let mut decoder = FrameDecoder::new(key(), 8192);
            let kind = decoder.decode(&frame.bytes, PLACE, frame.raw_len, &mut out);
            assert_eq!(kind, Ok(FrameKind::Blocks));
            assert_eq!(out, blocks);
            assert_eq!(decoder.digests(), frame.digests);
        }
    }

    #[test]
    fn any_flipped_bit_cut_or_other_place_is_noticed() {
        let (_, frame) = sample(Compression::Zstd(3));
        let mut decoder = FrameDecoder::new(key(), 8192);
        let mut out = Vec::new();
        for at in 0..frame.bytes.len() {
            for bit in [1, 0x10, 0x80] {
                let mut broken = frame.bytes.clone();
                broken[at] ^= bit;
                assert!(decoder.decode(&broken, PLACE, frame.raw_len, &mut out).is_err(), "byte {at}");
            }
            assert!(decoder.decode(&frame.bytes[..at], PLACE, frame.raw_len, &mut out).is_err());
        }
        let elsewhere = FramePlace { offset: 65, ..PLACE };
        assert!(decoder.decode(&frame.bytes, elsewhere, frame.raw_len, &mut out).is_err());
        let other_pack = FramePlace { pack_id: [8; 16], ..PLACE };
        assert!(decoder.decode(&frame.bytes, other_pack, frame.raw_len, &mut out).is_err());
    }

    #[test]
    fn another_key_is_noticed() {
        let (_, frame) = sample(Compression::None);
        let mut decoder = FrameDecoder::new(DigestKey::new(&[6; 32]), 8192);
        assert!(decoder.decode(&frame.bytes, PLACE, frame.raw_len, &mut Vec::new()).is_err());
    }
}
