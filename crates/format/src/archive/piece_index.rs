//! pgkeep's own index of an archive: for the data of each entry, the pieces that it was compressed in, what each holds,
//! and a digest of that.
//!
//! Stock's programs do not know it and pass over it: in a custom archive it is the last block, under a number that no
//! entry has; in directories and tar files a file of its own ([`INDEX_FILE`]). It lets a restore load a table over several
//! connections, gives the offsets that a dump into a pipe cannot put into the table of contents, and lets an archive be
//! verified. Nothing else depends on it: an archive without one is as good as those of `pg_dump`.
//!
//! The layout is in `docs/format/dump-archive.md`. What is read is taken for hostile: nothing is allocated on the word of
//! a count, a checksum covers all of it, and whoever reads data by it compares digests.

use super::{Compression, DumpId};

/// The file of the index in directories and tar files.
pub const INDEX_FILE: &str = "pgkeep.index";
/// The number of the index's block in a custom archive: the largest there is.
pub const INDEX_DUMP_ID: DumpId = DumpId::MAX;
/// Bytes of what ends an index in a custom archive, see [`IndexTrailer`].
pub const INDEX_TRAILER_LENGTH: usize = 24;
/// Bytes of a digest: BLAKE3, not keyed, cut.
pub const PIECE_DIGEST_LENGTH: usize = 16;

const MAGIC: &[u8; 8] = b"PGKPIDX\x01";
const TRAILER_MAGIC: &[u8; 8] = b"PGKPEND\x01";
const CHECKSUM_LENGTH: usize = 4;

/// Compressed bytes that can be read apart from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPiece {
    /// Where it begins, in bytes from the start of the archive, or of the entry's file or member. A custom archive's piece
    /// begins with a chunk.
    pub offset: u64,
    /// Its bytes in the archive, with the lengths of chunks.
    pub length: u64,
    /// Bytes of what it holds.
    pub plain_length: u64,
    /// Rows, or large objects, in it.
    pub rows: u64,
    /// Of what it holds.
    pub digest: [u8; PIECE_DIGEST_LENGTH],
}

/// What the data of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    /// COPY's text, ended by its mark.
    Text,
    /// COPY's binary form. Only the first piece has its header, and only the last one its trailer.
    Binary,
    /// INSERT commands.
    Commands,
    /// Large objects; each is a compressed stream of its own.
    LargeObjects,
}

/// The pieces of an entry's data, in order and without gaps between what they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedEntry {
    /// Whose data it is.
    pub dump_id: DumpId,
    /// What it is.
    pub kind: DataKind,
    /// In a custom archive: where its block begins. Otherwise 0.
    pub start: u64,
    /// The pieces.
    pub pieces: Vec<DataPiece>,
}

impl IndexedEntry {
    /// Rows, or large objects, of the entry.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.rows))
    }

    /// Bytes of what the entry holds.
    #[must_use]
    pub fn plain_length(&self) -> u64 {
        self.pieces.iter().fold(0, |sum, piece| sum.saturating_add(piece.plain_length))
    }

    /// Where the last piece ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.pieces.last().map_or(self.start, |piece| piece.offset.saturating_add(piece.length))
    }
}

/// An index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PieceIndex {
    /// Of all pieces.
    pub compression: Compression,
    /// In the order in which they were written.
    pub entries: Vec<IndexedEntry>,
}

/// Bytes that are no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// They begin otherwise, or a later version wrote them.
    #[error("it does not begin as an index of a known version does")]
    NotAnIndex,
    /// They are damaged or cut short.
    #[error("its checksum is wrong")]
    Checksum,
    /// They say what cannot be.
    #[error("it has an impossible {0}")]
    Invalid(&'static str),
}

impl PieceIndex {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(match self.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Lz4 => 2,
            Compression::Zstd => 3,
        });
        push_number(&mut out, self.entries.len() as u64);
        for entry in &self.entries {
            push_number(&mut out, entry.dump_id.0.into());
            out.push(match entry.kind {
                DataKind::Text => 0,
                DataKind::Binary => 1,
                DataKind::Commands => 2,
                DataKind::LargeObjects => 3,
            });
            push_number(&mut out, entry.start);
            push_number(&mut out, entry.pieces.len() as u64);
            let mut end = entry.start;
            for piece in &entry.pieces {
                // Pieces follow one another but for headers between them.
                for number in [piece.offset.saturating_sub(end), piece.length, piece.plain_length, piece.rows]
                {
                    push_number(&mut out, number);
                }
                out.extend_from_slice(&piece.digest);
                end = piece.offset.saturating_add(piece.length);
            }
        }
        out.extend_from_slice(&checksum(&out).to_le_bytes());
        out
    }

    /// Reads an index.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<PieceIndex, IndexError> {
        let body = bytes.strip_prefix(MAGIC).ok_or(IndexError::NotAnIndex)?;
        let (covered, stored) = bytes.split_last_chunk::<CHECKSUM_LENGTH>().ok_or(IndexError::Checksum)?;
        if checksum(covered) != u32::from_le_bytes(*stored) {
            return Err(IndexError::Checksum);
        }
        let mut rest = body.get(..body.len().saturating_sub(CHECKSUM_LENGTH)).unwrap_or_default();
        let compression = match take_byte(&mut rest, "compression")? {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Lz4,
            3 => Compression::Zstd,
            _ => return Err(IndexError::Invalid("compression")),
        };
        let mut entries = Vec::new();
        for _ in 0..take_number(&mut rest, "number of entries")? {
            entries.push(take_entry(&mut rest)?);
        }
        if !rest.is_empty() {
            return Err(IndexError::Invalid("length"));
        }
        Ok(PieceIndex { compression, entries })
    }
}

fn take_entry(rest: &mut &[u8]) -> Result<IndexedEntry, IndexError> {
    let dump_id = take_number(rest, "entry number")?;
    let dump_id = u32::try_from(dump_id).ok().filter(|id| (1..DumpId::MAX.0).contains(id));
    let dump_id = DumpId(dump_id.ok_or(IndexError::Invalid("entry number"))?);
    let kind = match take_byte(rest, "kind of data")? {
        0 => DataKind::Text,
        1 => DataKind::Binary,
        2 => DataKind::Commands,
        3 => DataKind::LargeObjects,
        _ => return Err(IndexError::Invalid("kind of data")),
    };
    let start = take_number(rest, "offset")?;
    let mut pieces = Vec::new();
    let mut end = start;
    for _ in 0..take_number(rest, "number of pieces")? {
        let gap = take_number(rest, "offset")?;
        let offset = end.checked_add(gap).ok_or(IndexError::Invalid("offset"))?;
        let length = take_number(rest, "length")?;
        end = offset.checked_add(length).ok_or(IndexError::Invalid("length"))?;
        let plain_length = take_number(rest, "length")?;
        let rows = take_number(rest, "number of rows")?;
        let (digest, after) = rest.split_first_chunk().ok_or(IndexError::Invalid("digest"))?;
        *rest = after;
        pieces.push(DataPiece { offset, length, plain_length, rows, digest: *digest });
    }
    Ok(IndexedEntry { dump_id, kind, start, pieces })
}

/// What ends the index in a custom archive, so that it is found from the end of the file: the last chunk of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexTrailer {
    /// Where the block of the index begins. An archive that somebody put other bytes into shows by it.
    pub block: u64,
    /// The bytes of the index, without lengths of chunks.
    pub length: u64,
}

impl IndexTrailer {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; INDEX_TRAILER_LENGTH] {
        let mut out = [0; INDEX_TRAILER_LENGTH];
        let parts = [self.block.to_le_bytes(), self.length.to_le_bytes(), *TRAILER_MAGIC];
        for (place, byte) in out.iter_mut().zip(parts.as_flattened()) {
            *place = *byte;
        }
        out
    }

    /// Reads it; none when these bytes are none.
    #[must_use]
    pub fn decode(bytes: &[u8; INDEX_TRAILER_LENGTH]) -> Option<IndexTrailer> {
        let (block, rest) = bytes.split_first_chunk::<8>()?;
        let (length, magic) = rest.split_first_chunk::<8>()?;
        (magic == TRAILER_MAGIC)
            .then(|| IndexTrailer { block: u64::from_le_bytes(*block), length: u64::from_le_bytes(*length) })
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Seven bits a byte, the least first; all bytes but the last have the eighth.
fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_number(rest: &mut &[u8], what: &'static str) -> Result<u64, IndexError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(rest, what)?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(IndexError::Invalid(what))
}

fn take_byte(rest: &mut &[u8], what: &'static str) -> Result<u8, IndexError> {
    let (byte, after) = rest.split_first().ok_or(IndexError::Invalid(what))?;
    *rest = after;
    Ok(*byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece() -> impl Strategy<Value = (u64, DataPiece)> {
        (0..1_u64 << 20, 0..1_u64 << 40, any::<u64>(), any::<u64>(), any::<[u8; 16]>()).prop_map(
            |(gap, length, plain_length, rows, digest)| {
                (gap, DataPiece { offset: 0, length, plain_length, rows, digest })
            },
        )
    }

    fn entry() -> impl Strategy<Value = IndexedEntry> {
        let kind = prop_oneof![
            Just(DataKind::Text),
            Just(DataKind::Binary),
            Just(DataKind::Commands),
            Just(DataKind::LargeObjects)
        ];
        (1..DumpId::MAX.0, kind, 0..1_u64 << 60, prop::collection::vec(piece(), 0..5)).prop_map(
            |(id, kind, start, pieces)| {
                let mut end = start;
                let placed = pieces.into_iter().map(|(gap, piece)| {
                    let placed = DataPiece { offset: end + gap, ..piece };
                    end = placed.offset + placed.length;
                    placed
                });
                IndexedEntry { dump_id: DumpId(id), kind, start, pieces: placed.collect() }
            },
        )
    }

    fn index() -> impl Strategy<Value = PieceIndex> {
        let compression = prop_oneof![
            Just(Compression::None),
            Just(Compression::Gzip),
            Just(Compression::Lz4),
            Just(Compression::Zstd)
        ];
        (compression, prop::collection::vec(entry(), 0..5))
            .prop_map(|(compression, entries)| PieceIndex { compression, entries })
    }

    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, body].concat();
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(index in index()) {
            prop_assert_eq!(PieceIndex::decode(&index.encode()).unwrap(), index);
        }

        #[test]
        fn damage_is_seen(index in index(), at in 0.0..1.0_f64, bit in 0_u32..8) {
            let mut bytes = index.encode();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(PieceIndex::decode(&bytes).is_err());
            prop_assert!(PieceIndex::decode(&index.encode()[..at]).is_err());
        }

        #[test]
        fn hostile_bytes_with_a_right_checksum_do_no_harm(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(PieceIndex::decode(&sealed(&body)));
        }
    }

    #[test]
    fn counts_that_lie_cost_no_memory() {
        // Compression, then the largest number of entries.
        let mut body = vec![0];
        push_number(&mut body, u64::MAX);
        assert_eq!(PieceIndex::decode(&sealed(&body)), Err(IndexError::Invalid("entry number")));
        // An entry with more pieces than there are bytes.
        let mut body = vec![0, 1, 7, 0, 0];
        push_number(&mut body, u64::MAX);
        assert_eq!(PieceIndex::decode(&sealed(&body)), Err(IndexError::Invalid("offset")));
    }

    #[test]
    fn offsets_that_overflow_and_numbers_of_no_entry_are_refused() {
        let decode = |parts: &[&[u8]]| PieceIndex::decode(&sealed(&parts.concat())).unwrap_err();
        let mut most = Vec::new();
        push_number(&mut most, u64::MAX);
        assert_eq!(decode(&[&[0, 1, 7, 0], &most, &[1, 1]]), IndexError::Invalid("offset"));
        assert_eq!(decode(&[&[0, 1, 7, 0], &most, &[1, 0, 1]]), IndexError::Invalid("length"));
        assert_eq!(decode(&[&[0, 1, 0]]), IndexError::Invalid("entry number"));
        let mut own = Vec::new();
        push_number(&mut own, DumpId::MAX.0.into());
        assert_eq!(decode(&[&[0, 1], &own]), IndexError::Invalid("entry number"));
        assert_eq!(decode(&[&[0, 1, 7, 9]]), IndexError::Invalid("kind of data"));
        assert_eq!(decode(&[&[4]]), IndexError::Invalid("compression"));
        assert_eq!(decode(&[&[0, 0, 0]]), IndexError::Invalid("length"));
    }

    #[test]
    fn trailers() {
        let trailer = IndexTrailer { block: 1 << 40, length: 77 };
        let mut bytes = trailer.encode();
        assert_eq!(IndexTrailer::decode(&bytes), Some(trailer));
        bytes[23] ^= 1;
        assert_eq!(IndexTrailer::decode(&bytes), None);
    }
}
