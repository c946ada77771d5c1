//! Checksums of files as a `backup_manifest` has them (`common/checksum_helper.c`, 13 to 18): computed while bytes pass by.

use aws_lc_rs::digest::{Context, SHA224, SHA256, SHA384, SHA512, digest};
use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestChecksum};

/// A checksum that is being computed.
pub(crate) enum FileChecksum {
    /// CRC-32C.
    Crc(crc_fast::Digest),
    /// One of the SHA-2 family.
    Sha(ChecksumAlgorithm, Context),
}

impl std::fmt::Debug for FileChecksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileChecksum")
    }
}

impl FileChecksum {
    /// Of no bytes yet.
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> FileChecksum {
        let sha = |kind| FileChecksum::Sha(algorithm, Context::new(kind));
        match algorithm {
            ChecksumAlgorithm::Crc32c => {
                FileChecksum::Crc(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
            }
            ChecksumAlgorithm::Sha224 => sha(&SHA224),
            ChecksumAlgorithm::Sha256 => sha(&SHA256),
            ChecksumAlgorithm::Sha384 => sha(&SHA384),
            ChecksumAlgorithm::Sha512 => sha(&SHA512),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            FileChecksum::Crc(crc) => crc.update(bytes),
            FileChecksum::Sha(_, context) => context.update(bytes),
        }
    }

    /// The checksum, as a manifest holds it: a CRC lies there in machine order, lowest byte first.
    pub(crate) fn finish(self) -> ManifestChecksum {
        match self {
            FileChecksum::Crc(crc) => ManifestChecksum {
                algorithm: ChecksumAlgorithm::Crc32c,
                // A CRC-32 has 32 bits.
                bytes: (crc.finalize() as u32).to_le_bytes().to_vec(),
            },
            FileChecksum::Sha(algorithm, context) => {
                ManifestChecksum { algorithm, bytes: context.finish().as_ref().to_vec() }
            }
        }
    }
}

/// The SHA-256 of some bytes: the checksum of a manifest itself.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    // SHA-256 has 32 bytes.
    digest(&SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_that_a_server_writes() {
        let of = |algorithm| {
            let mut checksum = FileChecksum::new(algorithm);
            checksum.update(b"1234");
            checksum.update(b"56789");
            checksum.finish().bytes
        };
        // The check value of CRC-32C is e3069283.
        assert_eq!(of(ChecksumAlgorithm::Crc32c), [0x83, 0x92, 0x06, 0xe3]);
        for algorithm in [
            ChecksumAlgorithm::Sha224,
            ChecksumAlgorithm::Sha256,
            ChecksumAlgorithm::Sha384,
            ChecksumAlgorithm::Sha512,
        ] {
            assert_eq!(of(algorithm).len(), algorithm.checksum_length());
        }
        assert_eq!(of(ChecksumAlgorithm::Sha256), sha256(b"123456789"));
    }
}
