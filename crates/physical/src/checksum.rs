//! The checksums of files that a `backup_manifest` lists (`common/checksum_helper.c`).

use aws_lc_rs::digest::{Context, SHA224, SHA256, SHA384, SHA512};
use crc_fast::{CrcAlgorithm, Digest};
use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestChecksum, Sha256};

/// Computes one checksum from pieces.
pub struct Hasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

enum State {
    Crc(Box<Digest>),
    Sha(Box<Context>),
}

impl Hasher {
    /// Of no bytes yet.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Hasher {
        let sha = |algorithm| State::Sha(Box::new(Context::new(algorithm)));
        let state = match algorithm {
            ChecksumAlgorithm::Crc32c => State::Crc(Box::new(Digest::new(CrcAlgorithm::Crc32Iscsi))),
            ChecksumAlgorithm::Sha224 => sha(&SHA224),
            ChecksumAlgorithm::Sha256 => sha(&SHA256),
            ChecksumAlgorithm::Sha384 => sha(&SHA384),
            ChecksumAlgorithm::Sha512 => sha(&SHA512),
        };
        Hasher { algorithm, state }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(digest) => digest.update(bytes),
            State::Sha(context) => context.update(bytes),
        }
    }

    /// The checksum as manifests have it: of a CRC the lowest byte first.
    #[must_use]
    pub fn finish(self) -> ManifestChecksum {
        let bytes = match self.state {
            // A CRC-32 in the lower half.
            State::Crc(digest) => digest.finalize().to_le_bytes()[..4].to_vec(),
            State::Sha(context) => context.finish().as_ref().to_vec(),
        };
        ManifestChecksum { algorithm: self.algorithm, bytes }
    }
}

/// The SHA-256 of a manifest itself.
#[derive(Clone)]
pub(crate) struct ManifestDigest(Context);

impl ManifestDigest {
    pub(crate) fn new() -> ManifestDigest {
        ManifestDigest(Context::new(&SHA256))
    }
}

/// The SHA-256 of a manifest that is in memory.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = ManifestDigest::new();
    digest.update(bytes);
    digest.finish()
}

impl Sha256 for ManifestDigest {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_postgresqls() {
        // `pg_basebackup --manifest-checksums=…` of a file with these nine bytes.
        for (algorithm, expected) in [
            (ChecksumAlgorithm::Crc32c, "839206e3"),
            (ChecksumAlgorithm::Sha224, "9b3e61bf29f17c75572fae2e86e17809a4513d07c8a18152acf34521"),
        ] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"12345");
            hasher.update(b"6789");
            let hex: String = hasher.finish().bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
        }
        for algorithm in [ChecksumAlgorithm::Sha256, ChecksumAlgorithm::Sha384, ChecksumAlgorithm::Sha512] {
            assert_eq!(Hasher::new(algorithm).finish().bytes.len(), algorithm.checksum_length());
        }
    }
}
