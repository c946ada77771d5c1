//! The manifest of a backup: what it is and which files it holds. See `docs/format/manifest.md`.
//!
//! One object: a skippable zstd frame with fixed fields (so that the whole is still a zstd file that `zstd -dc` prints),
//! a zstd frame with the header as one line of JSON, and zstd frames with one line of JSON for each file, sorted by path.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgkeep_format::{Lsn, TimelineId};
use serde::{Deserialize, Serialize};

use crate::block_map::PieceRef;
use crate::bytes::{Malformed, Parsed, Reader};
use crate::digest::{Digest16, Hex, crc32c, from_hex, to_hex};
use crate::error::Result;
use crate::format_version::FORMAT;
use crate::frame::FrameRef;
use crate::{BackupId, RepoError};

/// How much of the cluster was read to make the backup. Every backup is complete, whichever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// All of it.
    #[default]
    Full,
    /// What changed since the last full backup.
    #[serde(rename = "diff")]
    Differential,
    /// What changed since some backup.
    #[serde(rename = "incr")]
    Incremental,
}

/// Where the WAL of the backup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalMode {
    /// An archiver put it into the stanza's WAL archive.
    #[default]
    Archive,
    /// The backup itself put it there.
    Include,
}

/// The WAL without which the backup is not consistent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalNeeded {
    /// Who stored it.
    pub mode: WalMode,
    /// Name of the first segment.
    pub first: String,
    /// Name of the last segment.
    pub last: String,
}

/// A tablespace outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its object id; its files are below `pg_tblspc/<oid>/`.
    pub oid: u32,
    /// Where it was.
    pub path: String,
}

/// A configuration file outside of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalFile {
    /// Where it was.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its contents: text, or `{"hex": …}` where they are not UTF-8.
    #[serde(with = "text_or_hex")]
    pub contents: Vec<u8>,
}

/// Pages whose checksum was wrong in the cluster itself when they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPages {
    /// How many there were.
    pub total: u64,
    /// The first of them, by file.
    #[serde(default)]
    pub files: Vec<BadPagesOfFile>,
}

/// The bad pages of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPagesOfFile {
    /// The file, relative to the data directory.
    pub path: String,
    /// Block numbers in the file, ascending; perhaps not all.
    pub blocks: Vec<u32>,
}

/// Sums over the whole backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Bytes that this backup added to the repository, its manifest not counted.
    pub stored_bytes: u64,
}

/// A pack that the backup needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackEntry {
    /// The epoch of the backup that wrote it.
    pub epoch: u32,
    /// That backup.
    pub backup: BackupId,
    /// Its number there.
    pub number: u32,
    /// The random id in its header.
    pub(crate) id: Hex<16>,
    /// Its size in bytes.
    pub size: u64,
    /// How many of them this backup needs, about.
    pub live_bytes: u64,
}

/// The first line of a manifest. Fields marked *(writer)* are filled by [`crate::BackupWriter::commit`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestHeader {
    /// Version of the repository format *(writer)*.
    pub format: u32,
    /// The backup *(writer)*.
    pub id: BackupId,
    /// The epoch in its id *(writer)*.
    pub epoch: u32,
    /// The stanza *(writer)*.
    pub stanza: String,
    /// The sequence of the cluster's record in the history of the stanza.
    pub record: u32,
    /// How much was read.
    pub kind: BackupKind,
    /// The backup that it was compared with, for humans: nothing is needed of it that `packs` does not list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BackupId>,
    /// Where the bytes came from: `local` or `stream`.
    pub source: String,
    /// The program that wrote the backup.
    pub written_by: String,
    /// The machine that it ran on.
    #[serde(default)]
    pub host: String,
    /// Identifies the cluster; text, because JSON readers take large numbers for floating point.
    #[serde(with = "number_as_text")]
    pub system_identifier: u64,
    /// The server's version, as in `170002`.
    pub server_version_num: u32,
    /// The server's major version.
    pub major: u32,
    /// Version of the system catalogs.
    pub catalog_version: u32,
    /// Version of the control file.
    pub control_version: u32,
    /// Bytes of a page, and of a block in this repository.
    pub block_size: u32,
    /// Blocks of a whole segment of a relation.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u32,
    /// Whether pages have checksums.
    pub checksums: bool,
    /// Whether the backup was taken from a standby.
    pub from_standby: bool,
    /// Where WAL replay must begin.
    pub start_lsn: Lsn,
    /// Where the backup becomes consistent.
    pub stop_lsn: Lsn,
    /// The timeline of the start.
    pub timeline: TimelineId,
    /// When the backup began, by the server's clock.
    pub start_time: Timestamp,
    /// When it ended.
    pub stop_time: Timestamp,
    /// Contents of `backup_label`, to be written on restore.
    pub backup_label: String,
    /// Contents of `tablespace_map`, when there are tablespaces.
    #[serde(default)]
    pub tablespace_map: Option<String>,
    /// Tablespaces outside of the data directory.
    #[serde(default)]
    pub tablespaces: Vec<Tablespace>,
    /// Configuration files outside of the data directory.
    #[serde(default)]
    pub external_files: Vec<ExternalFile>,
    /// Codec and level of the frames that this backup wrote, as in `zstd:3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub compression: String,
    /// What the user noted.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The WAL that belongs to the backup.
    pub wal: WalNeeded,
    /// Names of WAL files kept with this very backup *(writer)*.
    #[serde(default)]
    pub wal_tail: Vec<String>,
    /// Pages with wrong checksums in the cluster.
    #[serde(default)]
    pub bad_pages: BadPages,
    /// Reports of changes that no WAL named, which were there before anything was read: this backup has what they tell of,
    /// because it, or the backup that it trusts, read every block after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered_alarms: Vec<String>,
    /// Permission bits of the data directory: 0700 or 0750.
    pub directory_mode: u32,
    /// The setting `timezone` of the server.
    #[serde(default)]
    pub server_timezone: Option<String>,
    /// Sums *(writer)*.
    #[serde(default)]
    pub totals: Totals,
    /// The packs that the backup needs *(writer)*.
    #[serde(default)]
    pub packs: Vec<PackEntry>,
}

impl Default for ManifestHeader {
    fn default() -> ManifestHeader {
        ManifestHeader {
            format: u32::from(FORMAT),
            id: BackupId::new(1, Timestamp::UNIX_EPOCH),
            epoch: 0,
            stanza: String::new(),
            record: 1,
            kind: BackupKind::Full,
            parent: None,
            source: String::new(),
            written_by: String::new(),
            host: String::new(),
            system_identifier: 0,
            server_version_num: 0,
            major: 0,
            catalog_version: 0,
            control_version: 0,
            block_size: 8192,
            relation_segment_blocks: 131_072,
            wal_segment_size: 16 << 20,
            checksums: false,
            from_standby: false,
            start_lsn: Lsn::INVALID,
            stop_lsn: Lsn::INVALID,
            timeline: TimelineId::FIRST,
            start_time: Timestamp::UNIX_EPOCH,
            stop_time: Timestamp::UNIX_EPOCH,
            backup_label: String::new(),
            tablespace_map: None,
            tablespaces: Vec::new(),
            external_files: Vec::new(),
            compression: String::new(),
            annotations: BTreeMap::new(),
            wal: WalNeeded::default(),
            wal_tail: Vec::new(),
            bad_pages: BadPages::default(),
            answered_alarms: Vec::new(),
            directory_mode: 0o700,
            server_timezone: None,
            totals: Totals::default(),
            packs: Vec::new(),
        }
    }
}

/// A regular file as the caller describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Relative to the data directory, parts separated by `/`; bytes, because nothing says that names are UTF-8.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes.
    pub size: u64,
}

/// What an entry of a manifest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file with its block map; none when it is empty.
    File {
        /// Where the root of its block map lies.
        root: Option<PieceRef>,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points to, byte for byte.
        target: Vec<u8>,
    },
}

/// One line of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Path, mode, time and size. The size of directories and links is 0.
    pub meta: FileMeta,
    /// What it is.
    pub kind: FileKind,
}

impl FileEntry {
    /// The path as text, for messages.
    #[must_use]
    pub fn path_text(&self) -> String {
        String::from_utf8_lossy(&self.meta.path).into_owned()
    }
}

/// Whether a path stays below the data directory: relative, no empty, `.` or `..` part, no NUL.
pub(crate) fn is_safe_path(path: &[u8]) -> bool {
    path.len() <= 4096
        && path.split(|b| *b == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..")
        && !path.contains(&0)
}

/// A line as JSON has it.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    p: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    k: Option<char>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    s: Option<u64>,
    m: String,
    t: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    r: Option<[u64; 6]>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    l: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    lx: Option<String>,
}

/// Bytes as text, or else as hexadecimal digits.
fn text_and_hex(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(to_hex(bytes))),
    }
}

fn bytes_of(text: Option<String>, hex: Option<String>) -> Parsed<Vec<u8>> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(hex)) => from_hex(&hex).ok_or(Malformed("hexadecimal digits are expected")),
        _ => Err(Malformed("a name must be given once")),
    }
}

/// Writes the line of an entry, without the line feed. `pack_index` finds a pack in the header's table.
pub(crate) fn encode_line(entry: &FileEntry, pack_index: impl FnOnce(&FrameRef) -> u64) -> Vec<u8> {
    let (p, x) = text_and_hex(&entry.meta.path);
    let mut line = Line {
        p,
        x,
        k: None,
        s: None,
        m: format!("{:o}", entry.meta.mode & 0o7777),
        t: entry.meta.mtime,
        r: None,
        l: None,
        lx: None,
    };
    match &entry.kind {
        FileKind::File { root } => {
            line.s = Some(entry.meta.size);
            line.r = root.map(|root| {
                let frame = root.frame;
                [
                    pack_index(&frame),
                    frame.offset,
                    u64::from(frame.stored_len),
                    u64::from(frame.raw_len),
                    u64::from(root.offset),
                    u64::from(root.len),
                ]
            });
        }
        FileKind::Directory => line.k = Some('d'),
        FileKind::Symlink { target } => {
            line.k = Some('l');
            (line.l, line.lx) = text_and_hex(target);
        }
    }
    // Strings and numbers always serialise.
    serde_json::to_vec(&line).unwrap_or_default()
}

/// Reads and checks a line.
pub(crate) fn decode_line(line: &[u8], packs: &[PackEntry]) -> Parsed<FileEntry> {
    let line: Line =
        serde_json::from_slice(line).map_err(|_| Malformed("a line is not the JSON of a file"))?;
    let path = bytes_of(line.p, line.x)?;
    if !is_safe_path(&path) {
        return Err(Malformed("a path leads out of the data directory"));
    }
    let mode = u32::from_str_radix(&line.m, 8).ok().filter(|mode| *mode <= 0o7777);
    let mut meta =
        FileMeta { path, mode: mode.ok_or(Malformed("a mode is not one"))?, mtime: line.t, size: 0 };
    let kind = match line.k {
        None => {
            meta.size = line.s.ok_or(Malformed("a file has no size"))?;
            let root = line.r.map(|r| decode_root(r, packs)).transpose()?;
            if root.is_none() != (meta.size == 0) {
                return Err(Malformed("a file has bytes without a block map, or the reverse"));
            }
            FileKind::File { root }
        }
        Some('d') => FileKind::Directory,
        Some('l') => FileKind::Symlink { target: bytes_of(line.l, line.lx)? },
        Some(_) => return Err(Malformed("a line is of an unknown kind")),
    };
    Ok(FileEntry { meta, kind })
}

fn decode_root(numbers: [u64; 6], packs: &[PackEntry]) -> Parsed<PieceRef> {
    let [pack, offset, stored_len, raw_len, piece_offset, len] = numbers;
    let small = |number: u64| u32::try_from(number).map_err(|_| Malformed("a number is too large"));
    let pack = usize::try_from(pack).ok().and_then(|index| packs.get(index));
    let pack = pack.ok_or(Malformed("a line names an unknown pack"))?;
    let frame = FrameRef {
        epoch: pack.epoch,
        pack: pack.number,
        offset,
        stored_len: small(stored_len)?,
        raw_len: small(raw_len)?,
    };
    let piece = PieceRef { frame, offset: small(piece_offset)?, len: small(len)? };
    piece.check()?;
    Ok(piece)
}

const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const MAGIC: &[u8; 8] = b"PGKMANI1";
/// Bytes before the first compressed frame.
pub(crate) const PREAMBLE_LEN: usize = 128;
/// The most bytes that a header line may have.
const MAX_HEADER: u32 = 64 << 20;

/// The fixed fields at the beginning of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) repository_id: [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) header_stored: u32,
    pub(crate) header_plain: u32,
    pub(crate) files_stored: u64,
    pub(crate) files_plain: u64,
    pub(crate) header_digest: Digest16,
    pub(crate) files_digest: Digest16,
}

impl Preamble {
    pub(crate) fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let mut out = [0; PREAMBLE_LEN];
        out[0..4].copy_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&(PREAMBLE_LEN as u32 - 8).to_le_bytes());
        out[8..16].copy_from_slice(MAGIC);
        out[16..18].copy_from_slice(&FORMAT.to_le_bytes());
        // 18: cipher, 19: reserved, 20..24: flags.
        out[24..40].copy_from_slice(&self.repository_id);
        out[40..44].copy_from_slice(&self.epoch.to_le_bytes());
        out[44..48].copy_from_slice(&self.header_stored.to_le_bytes());
        out[48..52].copy_from_slice(&self.header_plain.to_le_bytes());
        // 52..56: reserved.
        out[56..64].copy_from_slice(&self.files_stored.to_le_bytes());
        out[64..72].copy_from_slice(&self.files_plain.to_le_bytes());
        out[72..88].copy_from_slice(&self.header_digest.0);
        out[88..104].copy_from_slice(&self.files_digest.0);
        // 104..120: random id for sealing, 120..124: reserved.
        let crc = crc32c(&[&out[..124]]);
        out[124..128].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(key: &str, bytes: &[u8]) -> Result<Preamble> {
        let corrupt =
            |m: Malformed| RepoError::corrupt(key, 0, format!("the start of the manifest: {}", m.0));
        let head =
            bytes.first_chunk::<PREAMBLE_LEN>().ok_or(Malformed("it ends too early")).map_err(corrupt)?;
        if head[0..4] != SKIPPABLE_MAGIC.to_le_bytes() || head[8..16] != *MAGIC {
            return Err(corrupt(Malformed("it does not begin as a manifest does")));
        }
        if crc32c(&[&head[..124]]).to_le_bytes() != head[124..128] {
            return Err(corrupt(Malformed("its checksum is wrong")));
        }
        let mut reader = Reader::new(&head[16..]);
        let version = reader.u16().map_err(corrupt)?;
        let cipher = reader.u8().map_err(corrupt)?;
        let reserved = reader.u8().map_err(corrupt)?;
        let flags = reader.u32().map_err(corrupt)?;
        if version != FORMAT || cipher != 0 || reserved != 0 || flags != 0 {
            let what = format!("manifest version {version}, cipher {cipher}, flags {flags:#x}");
            return Err(RepoError::NewerFormat { key: key.to_owned(), what });
        }
        let parse = |mut reader: Reader<'_>| -> Parsed<Preamble> {
            let repository_id = reader.array()?;
            let epoch = reader.u32()?;
            let header_stored = reader.u32()?;
            let header_plain = reader.u32()?;
            reader.take(4)?;
            let preamble = Preamble {
                repository_id,
                epoch,
                header_stored,
                header_plain,
                files_stored: reader.u64()?,
                files_plain: reader.u64()?,
                header_digest: Digest16(reader.array()?),
                files_digest: Digest16(reader.array()?),
            };
            if header_plain > MAX_HEADER || header_stored > MAX_HEADER {
                return Err(Malformed("its header is too long"));
            }
            Ok(preamble)
        };
        parse(reader).map_err(corrupt)
    }

    /// Where the file lines begin.
    pub(crate) fn files_offset(&self) -> u64 {
        PREAMBLE_LEN as u64 + u64::from(self.header_stored)
    }
}

/// Bytes as a JSON string where they are UTF-8, else as `{"hex": "…"}`.
mod text_or_hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::digest::{from_hex, to_hex};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Hex { hex: String },
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Either::Hex { hex: to_hex(bytes) }.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        match Either::deserialize(deserializer)? {
            Either::Text(text) => Ok(text.into_bytes()),
            Either::Hex { hex } => {
                from_hex(&hex).ok_or_else(|| serde::de::Error::custom("hexadecimal digits are expected"))
            }
        }
    }
}

/// A 64-bit number as text: many JSON readers would round it.
pub(crate) mod number_as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
