//! PostgreSQL's `backup_manifest`: the files of a base backup with their checksums (`backup/backup_manifest.c`,
//! `common/parse_manifest.c`). Version 1 up to 16, version 2, which adds the system identifier, from 17.
//!
//! A manifest can also be made up, to ask a server for an incremental backup relative to one that it knows nothing of
//! ([`SyntheticManifest`]).
//!
//! JSON whose last line holds the SHA-256 of every byte before that line. This crate computes no SHA-256: callers pass
//! the function, so that a manifest is never read unchecked. [`ManifestReader`] reads piece by piece; [`PgManifest`] is
//! all of one.

mod json;
mod reader;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

pub use reader::{ManifestItem, ManifestReader};

/// Longer manifests are refused: 2 GiB list some ten million files.
pub const MAX_MANIFEST_LENGTH: usize = 2 << 30;

/// The contents of a `backup_manifest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgManifest {
    /// 1 or 2.
    pub version: u32,
    /// Which cluster; from version 2.
    pub system_identifier: Option<u64>,
    /// The files, WAL segments and the manifest itself not among them.
    pub files: Vec<ManifestFile>,
    /// The WAL that a restore needs, newest timeline first.
    pub wal_ranges: Vec<ManifestWalRange>,
}

/// A file of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Relative to the data directory; those of tablespaces begin with `pg_tblspc/<oid>/`.
    pub path: Vec<u8>,
    /// In bytes.
    pub size: u64,
    /// `YYYY-MM-DD HH:MM:SS GMT`.
    pub last_modified: Option<String>,
    /// None where the backup was taken without checksums.
    pub checksum: Option<ManifestChecksum>,
}

/// The checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestChecksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// Its bytes; a CRC lies in machine order, lowest byte first.
    pub bytes: Vec<u8>,
}

/// How the checksum of a file was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChecksumAlgorithm {
    /// CRC-32C, unless the backup asked for another.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A stretch of WAL that a restore needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestWalRange {
    /// On which timeline.
    #[serde(rename = "Timeline")]
    pub timeline: TimelineId,
    /// Its first byte.
    #[serde(rename = "Start-LSN")]
    pub start: Lsn,
    /// The byte after its last.
    #[serde(rename = "End-LSN")]
    pub end: Lsn,
}

/// Whether a server of that version (`server_version_num`, as `170010`) clears bits of the visibility map without a
/// reference to the map's block in WAL. Whoever relies on block references then restores maps that claim too much, and
/// index-only scans answer wrongly (fixed in 17.11 and 18.6). Older versions have no incremental backup of their own; what
/// reads their WAL must know it all the same.
#[must_use]
pub const fn has_stale_vm_fault(server_version_num: u32) -> bool {
    server_version_num < 170_011 || (server_version_num >= 180_000 && server_version_num < 180_006)
}

/// Computes a SHA-256 from pieces; this crate does not.
pub trait Sha256 {
    /// Takes the next bytes.
    fn update(&mut self, bytes: &[u8]);
    /// The digest of all bytes that were taken.
    fn finish(self) -> [u8; 32];
}

/// Writes the manifest of a backup that no server made, file by file: of one put together from others, or for
/// `UPLOAD_MANIFEST` (17 and later).
///
/// A server reads from an uploaded one which files the parent backup has (it sends others whole), of which cluster it is, and from where
/// on it must know what changed; sizes, times and checksums of files do not count. See `backup/basebackup_incremental.c`.
///
/// Every call appends to `out`, which the caller sends and empties as he likes: no more than one file is in memory.
#[derive(Debug)]
pub struct SyntheticManifest<H> {
    sha256: H,
    is_first: bool,
}

impl<H: Sha256> SyntheticManifest<H> {
    /// Begins the manifest of a backup of that cluster.
    pub fn begin(system_identifier: u64, sha256: H, out: &mut Vec<u8>) -> SyntheticManifest<H> {
        let mut manifest = SyntheticManifest { sha256, is_first: true };
        let text = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
        );
        manifest.put(&text, out);
        manifest
    }

    /// Adds a file that the parent backup has, by its path relative to the data directory, `pg_tblspc/<oid>/…` included.
    pub fn file(&mut self, path: &[u8], out: &mut Vec<u8>) {
        self.entry(&ManifestFile { path: path.to_vec(), size: 0, last_modified: None, checksum: None }, out);
    }

    /// Adds a file with all that is known of it.
    pub fn entry(&mut self, file: &ManifestFile, out: &mut Vec<u8>) {
        let mut text = String::from(if self.is_first { "\n" } else { ",\n" });
        self.is_first = false;
        file.write(&mut text);
        self.put(&text, out);
    }

    /// Ends it with the WAL that the parent backup needs, newest timeline first.
    pub fn finish(mut self, wal_ranges: &[ManifestWalRange], out: &mut Vec<u8>) {
        let mut text = String::from("\n],\n");
        write_wal_ranges(wal_ranges, &mut text);
        self.put(&text, out);
        out.extend_from_slice(checksum_line(self.sha256.finish()).as_bytes());
    }

    fn put(&mut self, text: &str, out: &mut Vec<u8>) {
        self.sha256.update(text.as_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

fn write_wal_ranges(ranges: &[ManifestWalRange], text: &mut String) {
    text.push_str("\"WAL-Ranges\": [");
    for (index, range) in ranges.iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&format!(
            "{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
            range.timeline, range.start, range.end
        ));
    }
    text.push_str("\n],\n");
}

/// The last line, which the checksum does not cover.
fn checksum_line(digest: [u8; 32]) -> String {
    format!("\"Manifest-Checksum\": \"{}\"}}\n", to_hex(&digest))
}

/// Why a `backup_manifest` could not be read, in PostgreSQL's words where it has some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PgManifestError {
    /// Longer than [`MAX_MANIFEST_LENGTH`], or with lines that are too long.
    #[error("backup manifest is too long: {length} bytes or more")]
    TooLong {
        /// Its length, as far as it was read.
        length: usize,
    },
    /// The bytes are not those that the server wrote.
    #[error("manifest checksum mismatch")]
    BadChecksum,
    /// Its checksum is no SHA-256.
    #[error("invalid manifest checksum: \"{checksum}\"")]
    InvalidChecksum {
        /// What there is instead.
        checksum: String,
    },
    /// The JSON is not a manifest's, or the bytes are no JSON.
    #[error("could not parse backup manifest: {0}")]
    Malformed(String),
    /// Version 2 without a system identifier, or version 1 with one.
    #[error("backup manifest of version {version} with a system identifier missing or out of place")]
    SystemIdentifier {
        /// Which version.
        version: u32,
    },
    /// A path that is not plain and relative.
    #[error("could not parse backup manifest: unsafe path name \"{path}\"")]
    BadPath {
        /// The path, with unprintable bytes escaped.
        path: String,
    },
    /// A checksum computed nobody knows how.
    #[error("unrecognized checksum algorithm: \"{name}\"")]
    UnknownAlgorithm {
        /// How it is called.
        name: String,
    },
    /// A file's checksum that is not in hexadecimal digits.
    #[error("invalid checksum for file \"{path}\": \"{checksum}\"")]
    InvalidFileChecksum {
        /// Of which file.
        path: String,
        /// What there is instead.
        checksum: String,
    },
    /// A file's checksum that has not the length of its algorithm.
    #[error("backup manifest has a malformed checksum for \"{path}\"")]
    BadFileChecksum {
        /// Of which file.
        path: String,
    },
}

impl ChecksumAlgorithm {
    /// How many bytes a checksum has.
    #[must_use]
    pub const fn checksum_length(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Sha224 => 28,
            ChecksumAlgorithm::Sha256 => 32,
            ChecksumAlgorithm::Sha384 => 48,
            ChecksumAlgorithm::Sha512 => 64,
        }
    }

    /// The algorithm of that name, in any case of letters; none where PostgreSQL knows none.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<ChecksumAlgorithm> {
        use ChecksumAlgorithm as A;
        [A::Crc32c, A::Sha224, A::Sha256, A::Sha384, A::Sha512]
            .into_iter()
            .find(|algorithm| name.eq_ignore_ascii_case(algorithm.name().as_bytes()))
    }

    /// The name in a manifest, and in the option of `BASE_BACKUP`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
        }
    }
}

impl PgManifest {
    /// Reads a manifest after checking it against its own checksum with the SHA-256 function that is passed.
    ///
    /// # Errors
    /// When it was cut off or changed, or is not what a server writes.
    pub fn parse(
        bytes: &[u8],
        sha256: impl FnOnce(&[u8]) -> [u8; 32],
    ) -> Result<PgManifest, PgManifestError> {
        let (mut version, mut system_identifier) = (0, None);
        let (mut files, mut wal_ranges) = (Vec::new(), Vec::new());
        let take = &mut |item| {
            match item {
                ManifestItem::Version(found) => version = found,
                ManifestItem::SystemIdentifier(found) => system_identifier = Some(found),
                ManifestItem::File(file) => files.push(file.checked()?),
                ManifestItem::WalRange(range) => wal_ranges.push(range),
            }
            Ok::<(), PgManifestError>(())
        };
        let mut reader = ManifestReader::new(PrefixDigest { bytes, length: 0, sha256 });
        reader.feed(bytes, take)?;
        reader.finish(take)?;
        if system_identifier.is_some() != (version == 2) {
            return Err(PgManifestError::SystemIdentifier { version });
        }
        Ok(PgManifest { version, system_identifier, files, wal_ranges })
    }

    /// The bytes of the manifest, as a server of that version writes them.
    #[must_use]
    pub fn write(&self, sha256: impl FnOnce(&[u8]) -> [u8; 32]) -> Vec<u8> {
        let mut text = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {},\n", self.version);
        if let Some(identifier) = self.system_identifier {
            text.push_str(&format!("\"System-Identifier\": {identifier},\n"));
        }
        text.push_str("\"Files\": [");
        for (index, file) in self.files.iter().enumerate() {
            text.push_str(if index == 0 { "\n" } else { ",\n" });
            file.write(&mut text);
        }
        text.push_str("\n],\n");
        write_wal_ranges(&self.wal_ranges, &mut text);
        let line = checksum_line(sha256(text.as_bytes()));
        text.push_str(&line);
        text.into_bytes()
    }
}

impl ManifestFile {
    /// The file, if its checksum is as long as its algorithm makes it.
    fn checked(self) -> Result<ManifestFile, PgManifestError> {
        match &self.checksum {
            Some(checksum) if checksum.bytes.len() != checksum.algorithm.checksum_length() => {
                Err(PgManifestError::BadFileChecksum { path: self.path.escape_ascii().to_string() })
            }
            _ => Ok(self),
        }
    }

    fn write(&self, text: &mut String) {
        match std::str::from_utf8(&self.path) {
            Ok(path) => text.push_str(&format!("{{ \"Path\": {}, ", serde_json::Value::from(path))),
            Err(_) => text.push_str(&format!("{{ \"Encoded-Path\": \"{}\", ", to_hex(&self.path))),
        }
        text.push_str(&format!("\"Size\": {}", self.size));
        if let Some(time) = &self.last_modified {
            text.push_str(&format!(", \"Last-Modified\": {}", serde_json::Value::from(time.as_str())));
        }
        if let Some(ManifestChecksum { algorithm, bytes }) = &self.checksum {
            let name = algorithm.name();
            text.push_str(&format!(
                ", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{}\"",
                to_hex(bytes)
            ));
        }
        text.push_str(" }");
    }
}

/// Digests the beginning of bytes that are at hand, with a function that wants them at once.
struct PrefixDigest<'a, F> {
    bytes: &'a [u8],
    length: usize,
    sha256: F,
}

impl<F: FnOnce(&[u8]) -> [u8; 32]> Sha256 for PrefixDigest<'_, F> {
    fn update(&mut self, bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len());
    }

    fn finish(self) -> [u8; 32] {
        (self.sha256)(self.bytes.get(..self.length).unwrap_or_default())
    }
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(hex_digit(*high)? << 4 | hex_digit(*low)?)).collect()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stands in for SHA-256, which this crate does not have.
    fn digest(bytes: &[u8]) -> [u8; 32] {
        let mut digest = [7; 32];
        digest[..4].copy_from_slice(&crc_fast::crc32_iscsi(bytes).to_le_bytes());
        digest
    }

    fn manifest() -> PgManifest {
        PgManifest {
            version: 2,
            system_identifier: Some(u64::MAX),
            files: vec![
                ManifestFile {
                    path: b"base/1/\"quoted\"".to_vec(),
                    size: 8192,
                    last_modified: Some("2026-11-22 09:38:15 GMT".to_owned()),
                    checksum: Some(ManifestChecksum {
                        algorithm: ChecksumAlgorithm::Crc32c,
                        bytes: vec![0x99, 0x4e, 0x7b, 0xe2],
                    }),
                },
                ManifestFile { path: vec![0xFF, b'/', 0xFE], size: 0, last_modified: None, checksum: None },
            ],
            wal_ranges: vec![ManifestWalRange {
                timeline: TimelineId::FIRST,
                start: Lsn(40),
                end: Lsn(1 << 32),
            }],
        }
    }

    /// The manifest with a piece of its text replaced and the checksum made right again.
    fn forged(from: &str, to: &str) -> Result<PgManifest, PgManifestError> {
        let text = String::from_utf8(manifest().write(digest)).unwrap();
        assert!(text.contains(from), "{from}");
        let (body, _) = text.split_once("\"Manifest-Checksum\"").unwrap();
        let body = body.replace(from, to);
        let checksum = to_hex(&digest(body.as_bytes()));
        PgManifest::parse(format!("{body}\"Manifest-Checksum\": \"{checksum}\"}}\n").as_bytes(), digest)
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(PgManifest::parse(&manifest().write(digest), digest).unwrap(), manifest());
        let old = PgManifest { version: 1, system_identifier: None, files: vec![], wal_ranges: vec![] };
        assert_eq!(PgManifest::parse(&old.write(digest), digest).unwrap(), old);
    }

    #[derive(Default)]
    struct Gathered(Vec<u8>);

    impl Sha256 for Gathered {
        fn update(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn finish(self) -> [u8; 32] {
            digest(&self.0)
        }
    }

    #[test]
    fn a_made_up_manifest_is_one_that_can_be_read() {
        for paths in
            [vec![], vec![&b"base/5/1"[..], b"pg_tblspc/16400/PG_18_202506291/5/1", b"a \"b\"", b"\xFF"]]
        {
            let ranges = manifest().wal_ranges;
            let (mut sent, mut out) = (Vec::new(), Vec::new());
            let mut synthetic = SyntheticManifest::begin(u64::MAX, Gathered::default(), &mut out);
            for path in &paths {
                synthetic.file(path, &mut out);
                sent.append(&mut out);
            }
            synthetic.finish(&ranges, &mut out);
            sent.append(&mut out);
            let file = |path: &&[u8]| ManifestFile {
                path: path.to_vec(),
                size: 0,
                last_modified: None,
                checksum: None,
            };
            let expected = PgManifest {
                version: 2,
                system_identifier: Some(u64::MAX),
                files: paths.iter().map(file).collect(),
                wal_ranges: ranges,
            };
            assert_eq!(PgManifest::parse(&sent, digest).unwrap(), expected);
            assert_eq!(sent, expected.write(digest));
        }
    }

    #[test]
    fn the_versions_with_stale_visibility_maps() {
        for version in [130_000, 160_014, 170_000, 170_010, 180_000, 180_004, 180_005] {
            assert!(has_stale_vm_fault(version), "{version}");
        }
        for version in [170_011, 170_012, 180_006, 180_010, 190_000] {
            assert!(!has_stale_vm_fault(version), "{version}");
        }
    }

    #[test]
    fn a_manifest_cut_short_or_changed_is_refused() {
        let bytes = manifest().write(digest);
        for length in 0..bytes.len() {
            assert!(PgManifest::parse(&bytes[..length], digest).is_err(), "{length}");
        }
        let changed = String::from_utf8(bytes).unwrap().replace("8192", "8193");
        assert!(matches!(PgManifest::parse(changed.as_bytes(), digest), Err(PgManifestError::BadChecksum)));
    }

    #[test]
    fn malformed_contents_are_refused() {
        use PgManifestError as E;
        assert!(matches!(forged("Version\": 2", "Version\": 3"), Err(E::Malformed(_))));
        assert!(matches!(forged("Version\": 2", "Version\": 1"), Err(E::SystemIdentifier { version: 1 })));
        assert!(matches!(forged("\"System-Identifier\"", "\"Other\""), Err(E::Malformed(_))));
        assert!(matches!(forged("CRC32C", "CRC16"), Err(E::UnknownAlgorithm { .. })));
        assert!(matches!(forged("CRC32C", "SHA224"), Err(E::BadFileChecksum { .. })));
        assert!(matches!(forged("994e7be2", "994e7bx2"), Err(E::InvalidFileChecksum { .. })));
        assert!(matches!(forged("\"Timeline\": 1", "\"Timeline\": 0"), Err(E::Malformed(_))));
        assert!(matches!(forged("ff2ffe", "2e2e"), Err(E::BadPath { .. })), "two dots, encoded");
        for path in ["/base", "base/../x", "..", ".", "", "base//1", "./base"] {
            let result = forged("base/1/\\\"quoted\\\"", path);
            assert!(matches!(result, Err(E::BadPath { .. })), "{path}: {result:?}");
        }
        assert!(matches!(forged("base/1/", "a\\u0000b"), Err(E::Malformed(_))));
        assert!(matches!(forged("\"Encoded-Path\": \"ff2ffe\", ", ""), Err(E::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_manifest_is_read_back(
            paths in prop::collection::vec(prop::collection::vec(1u8..47, 1..9), 0..5),
            (version, identifier, size, start, end) in (1u32..=2, any::<(u64, u64, u64, u64)>()).prop_map(|(v, (a, b, c, d))| (v, a, b, c, d)),
            time in prop::option::of("[ -~]{0,24}"),
        ) {
            let file = |path: Vec<u8>| {
                let path = [b"x".to_vec(), path].concat();
                ManifestFile { path, size, last_modified: time.clone(), checksum: None }
            };
            let manifest = PgManifest {
                version,
                system_identifier: (version == 2).then_some(identifier),
                files: paths.into_iter().map(file).collect(),
                wal_ranges: vec![ManifestWalRange { timeline: TimelineId::FIRST, start: Lsn(start), end: Lsn(end) }],
            };
            prop_assert_eq!(PgManifest::parse(&manifest.write(digest), digest).unwrap(), manifest);
        }

        #[test]
        fn damaged_manifests_do_no_harm(place in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..9)) {
            let mut text = manifest().write(digest);
            let place = place.index(text.len());
            text.splice(place..place, bytes.iter().copied());
            drop(PgManifest::parse(&text, |_| [0; 32]));
            drop(PgManifest::parse(&bytes, digest));
        }
    }
}
