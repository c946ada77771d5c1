//! Digests of blocks, frames, files and WAL: keyed BLAKE3.
//!
//! The repository has one secret digest key; each use derives its own key from it, so that the digest of one kind of
//! thing never stands for another. Cut digests (8 bytes of a block, 16 of a frame) are prefixes of the whole.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Digest of one block: 8 bytes. Enough to find what changed and what rotted; frames and files have longer ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockDigest(pub [u8; 8]);

impl fmt::Debug for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// A 16-byte digest: of a frame, a file, a part of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest16(pub [u8; 16]);

impl fmt::Debug for Digest16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Display for Digest16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// The whole digest of a WAL file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest32(pub [u8; 32]);

impl fmt::Debug for Digest32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Display for Digest32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// The keys of all digests of one repository.
#[derive(Clone)]
pub struct DigestKey {
    block: [u8; 32],
    blocks_frame: [u8; 32],
    meta_frame: [u8; 32],
    leaf: [u8; 32],
    file: [u8; 32],
    manifest: [u8; 32],
    wal: [u8; 32],
    dump: [u8; 32],
}

impl DigestKey {
    /// Derives the keys from the digest key of the repository.
    #[must_use]
    pub fn new(master: &[u8; 32]) -> DigestKey {
        let derive = |purpose: &str| blake3::derive_key(purpose, master);
        DigestKey {
            block: derive("pgkeep 1 block"),
            blocks_frame: derive("pgkeep 1 frame of blocks"),
            meta_frame: derive("pgkeep 1 frame of metadata"),
            leaf: derive("pgkeep 1 leaf"),
            file: derive("pgkeep 1 file"),
            manifest: derive("pgkeep 1 manifest"),
            wal: derive("pgkeep 1 wal"),
            dump: derive("pgkeep 1 dump"),
        }
    }

    /// The digest of one whole block (the last of a file padded with zeros).
    #[must_use]
    pub fn block(&self, block: &[u8]) -> BlockDigest {
        BlockDigest(cut(&self.block, block))
    }

    /// The digest of a block of `block_size` zeros.
    #[must_use]
    pub fn zero_block(&self, block_size: u32) -> BlockDigest {
        self.block(&vec![0; block_size as usize])
    }

    pub(crate) fn blocks_frame(&self, digests: &[BlockDigest]) -> Digest16 {
        Digest16(cut_digests(&self.blocks_frame, digests))
    }

    pub(crate) fn meta_frame(&self, raw: &[u8]) -> Digest16 {
        Digest16(cut(&self.meta_frame, raw))
    }

    pub(crate) fn leaf(&self, digests: &[BlockDigest]) -> [u8; 8] {
        cut_digests(&self.leaf, digests)
    }

    /// The digest of a file from those of its leaves.
    pub(crate) fn file(
        &self,
        block_count: u32,
        leaf_shift: u8,
        leaves: impl Iterator<Item = [u8; 8]>,
    ) -> Digest16 {
        let mut hasher = blake3::Hasher::new_keyed(&self.file);
        hasher.update(&block_count.to_le_bytes());
        hasher.update(&[leaf_shift]);
        for leaf in leaves {
            hasher.update(&leaf);
        }
        Digest16(prefix(hasher.finalize().as_bytes()))
    }

    pub(crate) fn manifest_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.manifest)
    }

    pub(crate) fn manifest(&self, plain: &[u8]) -> Digest16 {
        Digest16(cut(&self.manifest, plain))
    }

    /// For the digest of a part of a dump: an archive, or a script.
    pub(crate) fn dump_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.dump)
    }

    /// The digest of a WAL file's plain bytes.
    #[must_use]
    pub fn wal(&self, plain: &[u8]) -> Digest32 {
        Digest32(*blake3::keyed_hash(&self.wal, plain).as_bytes())
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

pub(crate) fn finish16(hasher: &blake3::Hasher) -> Digest16 {
    Digest16(prefix(hasher.finalize().as_bytes()))
}

fn cut<const N: usize>(key: &[u8; 32], bytes: &[u8]) -> [u8; N] {
    prefix(blake3::keyed_hash(key, bytes).as_bytes())
}

fn cut_digests<const N: usize>(key: &[u8; 32], digests: &[BlockDigest]) -> [u8; N] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    // A frame has at most 128 digests at the default block size: one buffer saves a call for each of them.
    let mut buffer = [0_u8; 1024];
    for group in digests.chunks(buffer.len() / 8) {
        for (to, from) in buffer.chunks_exact_mut(8).zip(group) {
            to.copy_from_slice(&from.0);
        }
        hasher.update(buffer.get(..group.len() * 8).unwrap_or_default());
    }
    prefix(hasher.finalize().as_bytes())
}

fn prefix<const N: usize>(whole: &[u8; 32]) -> [u8; N] {
    let mut cut = [0; N];
    cut.iter_mut().zip(whole).for_each(|(to, from)| *to = *from);
    cut
}

/// Whether the block holds zeros only: such blocks are not stored.
#[must_use]
pub fn is_zero_block(block: &[u8]) -> bool {
    // Most pages differ from zero in their first bytes; the rest is compared in wide strides.
    if block.iter().take(16).any(|b| *b != 0) {
        return false;
    }
    let (strides, rest) = block.as_chunks::<64>();
    strides.iter().all(|stride| stride.iter().fold(0, |all, b| all | b) == 0) && rest.iter().all(|b| *b == 0)
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads lower-case hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Random or derived bytes of fixed size, as lower-case hexadecimal text in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = from_hex(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Hex).ok_or_else(|| serde::de::Error::custom(format!("expected {N} bytes in hexadecimal")))
    }
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], crate::RepoError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| crate::RepoError::NoRandomness { source: Box::new(e) })?;
    Ok(bytes)
}

/// CRC-32C over several slices, as every header has it.
pub(crate) fn crc32c(slices: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for slice in slices {
        digest.update(slice);
    }
    // The algorithm has 32 bits; the crate answers in 64 for all of its algorithms.
    u32::try_from(digest.finalize() & 0xFFFF_FFFF).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_blocks_are_recognised_and_others_are_not() {
        let mut block = vec![0; 8192];
        assert!(is_zero_block(&block));
        for at in [0, 15, 16, 63, 64, 4097, 8191] {
            block[at] = 1;
            assert!(!is_zero_block(&block), "{at}");
            block[at] = 0;
        }
    }

    #[test]
    fn each_purpose_has_its_own_key() {
        let key = DigestKey::new(&[1; 32]);
        let digest = key.block(b"x").0;
        assert_ne!(digest.as_slice(), &key.meta_frame(b"x").0[..8]);
        assert_ne!(digest, DigestKey::new(&[2; 32]).block(b"x").0);
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32c(&[b"1234", b"56789"]), 0xE306_9283);
    }

    #[test]
    fn hexadecimal_has_one_spelling() {
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
        for text in ["0", "0g", "FF", "0x"] {
            assert_eq!(from_hex(text), None);
        }
    }
}
