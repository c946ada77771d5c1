//! The checksums of one file that are computed while it is read: that of its backup's manifest, to compare, and that of
//! the new one.

use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestChecksum};

use crate::checksum::Hasher;

/// One pass, at most two algorithms.
pub(super) struct FileHashes(Vec<(ChecksumAlgorithm, Hasher)>);

impl FileHashes {
    /// Computes these; the same one twice is computed once.
    pub(super) fn new(algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> FileHashes {
        let mut hashers: Vec<(ChecksumAlgorithm, Hasher)> = Vec::new();
        for algorithm in algorithms {
            if hashers.iter().all(|(known, _)| *known != algorithm) {
                hashers.push((algorithm, Hasher::new(algorithm)));
            }
        }
        FileHashes(hashers)
    }

    /// Whether nothing is computed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.0 {
            hasher.update(bytes);
        }
    }

    pub(super) fn finish(self) -> Vec<ManifestChecksum> {
        self.0.into_iter().map(|(_, hasher)| hasher.finish()).collect()
    }
}

/// The checksum of that algorithm among some.
pub(super) fn find(
    checksums: &[ManifestChecksum],
    algorithm: Option<ChecksumAlgorithm>,
) -> Option<&ManifestChecksum> {
    checksums.iter().find(|checksum| Some(checksum.algorithm) == algorithm)
}
