//! The `backup_manifest` of an export, gathered while its files are written.
//!
//! As servers write it (`backup/backup_manifest.c`): version 2 with the system identifier from 17 on, version 1 before; WAL
//! and the manifest itself are not listed. Memory: some 100 bytes and the name for each file.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestFile, ManifestWalRange, PgManifest};
use pgkeep_repo::ManifestHeader;

use super::target::Member;
use pgkeep_physical::checksum::{Hasher, sha256};

/// Zeros for checksums of what is not stored.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The lines so far.
#[derive(Debug)]
pub struct ManifestLines {
    algorithm: Option<ChecksumAlgorithm>,
    files: Vec<ManifestFile>,
    open: Option<(ManifestFile, Option<Hasher>)>,
}

impl ManifestLines {
    /// No lines yet.
    pub fn new(algorithm: Option<ChecksumAlgorithm>) -> ManifestLines {
        ManifestLines { algorithm, files: Vec::new(), open: None }
    }

    /// A file begins; the one before is complete.
    pub fn begin(&mut self, member: &Member) {
        self.end();
        if member.path.starts_with(b"pg_wal/") {
            return;
        }
        let file = ManifestFile {
            path: member.path.clone(),
            size: member.size,
            last_modified: Some(moment(member.modified)),
            checksum: None,
        };
        self.open = Some((file, self.algorithm.map(Hasher::new)));
    }

    /// The next bytes of the file.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some((_, Some(checksum))) = &mut self.open {
            checksum.update(bytes);
        }
    }

    /// So many zero bytes of it.
    pub fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            // At most the array's length.
            let now = count.min(ZEROS.len() as u64) as usize;
            self.bytes(ZEROS.get(..now).unwrap_or_default());
            count -= now as u64;
        }
    }

    fn end(&mut self) {
        if let Some((mut file, checksum)) = self.open.take() {
            file.checksum = checksum.map(Hasher::finish);
            self.files.push(file);
        }
    }

    /// The manifest.
    pub fn text(mut self, header: &ManifestHeader, wal_ranges: Vec<ManifestWalRange>) -> Vec<u8> {
        self.end();
        let is_new = header.major >= 17;
        let manifest = PgManifest {
            version: if is_new { 2 } else { 1 },
            system_identifier: is_new.then_some(header.system_identifier),
            files: self.files,
            wal_ranges,
        };
        manifest.write(sha256)
    }
}

/// A moment as servers write it.
fn moment(second: i64) -> String {
    let time = Timestamp::from_second(second).unwrap_or_default();
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_wal_is_not_listed() {
        let header = ManifestHeader { major: 18, system_identifier: 7, ..ManifestHeader::default() };
        let mut lines = ManifestLines::new(Some(ChecksumAlgorithm::Crc32c));
        lines.begin(&Member::file(b"a", 0o600, 0, 70_000));
        lines.zeros(70_000);
        lines.begin(&Member::file(b"pg_wal/000000010000000000000001", 0o600, 0, 3));
        lines.bytes(b"abc");
        let bytes = lines.text(&header, Vec::new());
        let manifest = PgManifest::parse(&bytes, sha256).unwrap();
        assert_eq!((manifest.version, manifest.system_identifier), (2, Some(7)));
        let [file] = manifest.files.as_slice() else { panic!("{:?}", manifest.files) };
        assert_eq!(file.last_modified.as_deref(), Some("1970-01-01 00:00:00 GMT"));
        let mut zeros = Hasher::new(ChecksumAlgorithm::Crc32c);
        zeros.update(&vec![0; 70_000]);
        assert_eq!(file.checksum, Some(zeros.finish()));
        let old = ManifestLines::new(None).text(&ManifestHeader { major: 16, ..header }, Vec::new());
        assert_eq!(PgManifest::parse(&old, sha256).unwrap().version, 1);
    }
}
