//! `global/pg_control`: what a cluster is, and where its last checkpoint lies.
//!
//! Mirrors `catalog/pg_control.h` of 13 to 18, and of 19 as far as it is known. The structure has no length field; its
//! CRC tells the layouts apart, since it lies at a different place in each: 288 (13 to 17), 292 (18), 304 (19). A file
//! in which no CRC fits is torn or damaged; whoever reads it from a running server reads it again.

use serde::{Deserialize, Serialize};

use crate::le::{bytes_at, i32_at, i64_at, u32_at, u64_at};
use crate::{Lsn, TimelineId, WalSegmentSize};

/// The size of the file; bytes after the structure are zero.
pub const CONTROL_FILE_SIZE: usize = 8192;
/// Where the file is, relative to the data directory.
pub const CONTROL_FILE_PATH: &str = "global/pg_control";

/// A cluster's control file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    /// The number that initdb gave the cluster; the same on all its standbys and in all its WAL.
    pub system_identifier: u64,
    /// Version of the structure: 1300 (13 to 16), 1700, 1800, 1902.
    pub control_version: u32,
    /// Version of the system catalogs, as in 202209061.
    pub catalog_version: u32,
    /// What the server was doing when it wrote the file.
    pub state: ClusterState,
    /// When the file was written, in seconds since 1970.
    pub time: i64,
    /// Where the record of the last checkpoint begins.
    pub checkpoint: Lsn,
    /// Where recovery from the last checkpoint begins.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// The timeline before that checkpoint; differs from `timeline` right after a promotion.
    pub previous_timeline: u32,
    /// Whether `full_page_writes` was on at the last checkpoint.
    pub full_page_writes: bool,
    /// The next transaction, with its epoch in the high half.
    pub next_xid: u64,
    /// The next object identifier.
    pub next_oid: u32,
    /// The oldest transaction that the cluster may still ask about.
    pub oldest_xid: u32,
    /// When the last checkpoint happened, in seconds since 1970.
    pub checkpoint_time: i64,
    /// Up to where WAL must be replayed before the data is consistent; 0 outside archive recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of `min_recovery_point`; 0 where there is none.
    pub min_recovery_timeline: u32,
    /// Where the backup began that the cluster is being recovered from; 0 otherwise.
    pub backup_start_point: Lsn,
    /// Where that backup, taken from a standby, ended; 0 otherwise.
    pub backup_end_point: Lsn,
    /// Whether recovery must still meet the end-of-backup record.
    pub backup_end_required: bool,
    /// `wal_level` of the running server.
    pub wal_level: WalLevel,
    /// `wal_log_hints` of the running server.
    pub wal_log_hints: bool,
    /// `max_connections`: a hot standby needs at least as many. The same holds for the four settings that follow.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Size of a data page in bytes.
    pub block_size: u32,
    /// Blocks in one segment file of a relation.
    pub relation_segment_blocks: u32,
    /// Size of a WAL page in bytes.
    pub wal_block_size: u32,
    /// Size of a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// 0: pages have no checksums; 1: they have; 2 and 3 (19): checksums are being turned off or on, so that a page
    /// without a right one means nothing.
    pub checksum_version: u32,
}

/// What the server was doing when it wrote the control file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClusterState {
    /// Starting up.
    StartingUp,
    /// Stopped cleanly.
    ShutDown,
    /// Stopped cleanly while in recovery.
    ShutDownInRecovery,
    /// Stopping.
    ShuttingDown,
    /// Recovering from a crash.
    CrashRecovery,
    /// Replaying archived or streamed WAL.
    ArchiveRecovery,
    /// Open for writing.
    InProduction,
}

/// How much the server writes to WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalLevel {
    /// Enough for crash recovery only: backups and incrementals across it are impossible.
    Minimal,
    /// Enough for archiving and standbys.
    Replica,
    /// Enough for logical decoding too.
    Logical,
}

/// Why a control file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// The file ends before the structure does.
    #[error("pg_control has {length} bytes, too few to be a control file")]
    TooShort {
        /// Its length.
        length: usize,
    },
    /// No layout's CRC fits: torn by a concurrent write, damaged, or of a version that is not known.
    #[error("the CRC of pg_control does not match (control file version {control_version})")]
    BadCrc {
        /// The version that the bytes claim.
        control_version: u32,
    },
    /// Written on a machine of the other byte order or with other floating-point numbers.
    #[error("pg_control was written on a machine of another architecture")]
    ForeignArchitecture,
    /// A field holds what it cannot hold, though the CRC fits.
    #[error("pg_control has {value} as its {field}")]
    BadField {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: i64,
    },
}

impl WalLevel {
    /// The level that PostgreSQL stores as `number`.
    #[must_use]
    pub const fn from_number(number: i32) -> Option<WalLevel> {
        match number {
            0 => Some(WalLevel::Minimal),
            1 => Some(WalLevel::Replica),
            2 => Some(WalLevel::Logical),
            _ => None,
        }
    }
}

impl ClusterState {
    const fn from_number(number: i32) -> Option<ClusterState> {
        match number {
            0 => Some(ClusterState::StartingUp),
            1 => Some(ClusterState::ShutDown),
            2 => Some(ClusterState::ShutDownInRecovery),
            3 => Some(ClusterState::ShuttingDown),
            4 => Some(ClusterState::CrashRecovery),
            5 => Some(ClusterState::ArchiveRecovery),
            6 => Some(ClusterState::InProduction),
            _ => None,
        }
    }
}

/// Where the fields after the checkpoint's `ThisTimeLineID` lie, per place of the CRC.
struct Layout {
    crc: usize,
    next_xid: usize,
    checkpoint_time: usize,
    /// Start of the run of fields from minRecoveryPoint to floatFormat, whose inner distances never changed.
    recovery: usize,
    wal_block_size: usize,
    checksum_version: usize,
}

const LAYOUTS: [Layout; 3] = [
    Layout {
        crc: 288,
        next_xid: 64,
        checkpoint_time: 104,
        recovery: 136,
        wal_block_size: 224,
        checksum_version: 252,
    },
    Layout {
        crc: 292,
        next_xid: 64,
        checkpoint_time: 104,
        recovery: 136,
        wal_block_size: 224,
        checksum_version: 252,
    },
    // 19: a boolean after wal_level in the checkpoint moves everything by 8, slru_pages_per_segment the rest by 4 more.
    Layout {
        crc: 304,
        next_xid: 72,
        checkpoint_time: 112,
        recovery: 144,
        wal_block_size: 236,
        checksum_version: 264,
    },
];

/// `floatFormat`, a constant by which PostgreSQL recognises its own floating-point format.
const FLOAT_FORMAT: f64 = 1_234_567.0;

impl ControlFile {
    /// Reads the bytes of `global/pg_control`.
    ///
    /// # Errors
    /// When the CRC does not fit (torn, damaged or of an unknown version) or a field is out of its range.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let short = || ControlFileError::TooShort { length: bytes.len() };
        let control_version = u32_at(bytes, 8).ok_or_else(short)?;
        if control_version & 0xFFFF == 0 && control_version != 0 {
            return Err(ControlFileError::ForeignArchitecture);
        }
        if bytes.len() < LAYOUTS[0].crc + 4 {
            return Err(short());
        }
        let layout = LAYOUTS
            .iter()
            .find(|layout| has_crc_at(bytes, layout.crc))
            .ok_or(ControlFileError::BadCrc { control_version })?;
        read_fields(bytes, control_version, layout).ok_or_else(short)?
    }

    /// The major version of the server that wrote the file; none where it is not a released one.
    #[must_use]
    pub const fn major(&self) -> Option<u32> {
        match (self.control_version, self.catalog_version) {
            (1300, 202_007_201) => Some(13),
            (1300, 202_107_181) => Some(14),
            (1300, 202_209_061) => Some(15),
            (1300, 202_307_071) => Some(16),
            (1700..=1799, _) => Some(17),
            (1800..=1899, _) => Some(18),
            (1900..=1999, _) => Some(19),
            _ => None,
        }
    }

    /// The directory that a server of `major` keeps its files in inside each tablespace, as `PG_15_202209061`.
    #[must_use]
    pub fn tablespace_version_directory(&self, major: u32) -> String {
        format!("PG_{major}_{}", self.catalog_version)
    }

    /// Whether a page's checksum can be relied upon.
    #[must_use]
    pub const fn has_checksums(&self) -> bool {
        self.checksum_version == 1
    }
}

fn has_crc_at(bytes: &[u8], at: usize) -> bool {
    match (bytes.get(..at), u32_at(bytes, at)) {
        (Some(covered), Some(stored)) => crc_fast::crc32_iscsi(covered) == stored,
        _ => false,
    }
}

fn read_fields(
    bytes: &[u8],
    control_version: u32,
    layout: &Layout,
) -> Option<Result<ControlFile, ControlFileError>> {
    let recovery = layout.recovery;
    let bad = |field, value: i64| Some(Err(ControlFileError::BadField { field, value }));
    let lsn = |at| u64_at(bytes, at).map(Lsn);
    let flag = |at| bytes_at::<1>(bytes, at).map(|[byte]| byte != 0);

    if f64::from_le_bytes(bytes_at(bytes, recovery + 72)?).to_bits() != FLOAT_FORMAT.to_bits() {
        return Some(Err(ControlFileError::ForeignArchitecture));
    }
    let state = i32_at(bytes, 16)?;
    let Some(state) = ClusterState::from_number(state) else { return bad("state", state.into()) };
    let timeline = u32_at(bytes, 48)?;
    let Some(timeline) = TimelineId::new(timeline) else { return bad("timeline", timeline.into()) };
    let wal_level = i32_at(bytes, recovery + 36)?;
    let Some(wal_level) = WalLevel::from_number(wal_level) else { return bad("wal_level", wal_level.into()) };
    let block_size = u32_at(bytes, recovery + 80)?;
    if !block_size.is_power_of_two() || !(1 << 10..=1 << 15).contains(&block_size) {
        return bad("block size", block_size.into());
    }
    let relation_segment_blocks = u32_at(bytes, recovery + 84)?;
    if relation_segment_blocks == 0 {
        return bad("relation segment size", 0);
    }
    let wal_block_size = u32_at(bytes, layout.wal_block_size)?;
    if !wal_block_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&wal_block_size) {
        return bad("WAL block size", wal_block_size.into());
    }
    let wal_segment_size = u32_at(bytes, layout.wal_block_size + 4)?;
    let Ok(wal_segment_size) = WalSegmentSize::try_from(wal_segment_size) else {
        return bad("WAL segment size", wal_segment_size.into());
    };

    Some(Ok(ControlFile {
        system_identifier: u64_at(bytes, 0)?,
        control_version,
        catalog_version: u32_at(bytes, 12)?,
        state,
        time: i64_at(bytes, 24)?,
        checkpoint: lsn(32)?,
        redo: lsn(40)?,
        timeline,
        previous_timeline: u32_at(bytes, 52)?,
        full_page_writes: flag(56)?,
        next_xid: u64_at(bytes, layout.next_xid)?,
        next_oid: u32_at(bytes, layout.next_xid + 8)?,
        // 19 widened nextMultiOffset, which lies between, to eight bytes.
        oldest_xid: u32_at(bytes, layout.checkpoint_time - if layout.crc == 304 { 16 } else { 20 })?,
        checkpoint_time: i64_at(bytes, layout.checkpoint_time)?,
        min_recovery_point: lsn(recovery)?,
        min_recovery_timeline: u32_at(bytes, recovery + 8)?,
        backup_start_point: lsn(recovery + 16)?,
        backup_end_point: lsn(recovery + 24)?,
        backup_end_required: flag(recovery + 32)?,
        wal_level,
        wal_log_hints: flag(recovery + 40)?,
        max_connections: i32_at(bytes, recovery + 44)?,
        max_worker_processes: i32_at(bytes, recovery + 48)?,
        max_wal_senders: i32_at(bytes, recovery + 52)?,
        max_prepared_xacts: i32_at(bytes, recovery + 56)?,
        max_locks_per_xact: i32_at(bytes, recovery + 60)?,
        track_commit_timestamp: flag(recovery + 64)?,
        block_size,
        relation_segment_blocks,
        wal_block_size,
        wal_segment_size,
        checksum_version: u32_at(bytes, layout.checksum_version)?,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A plausible file with its CRC at `crc`, changed by `change` before the CRC is computed.
    fn file(crc: usize, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let layout = LAYOUTS.iter().find(|layout| layout.crc == crc).unwrap();
        let mut bytes = vec![0; CONTROL_FILE_SIZE];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(8, 1800);
        put(16, 6);
        put(48, 1);
        put(layout.recovery + 36, 1);
        put(layout.recovery + 80, 8192);
        put(layout.recovery + 84, 131_072);
        put(layout.wal_block_size, 8192);
        put(layout.wal_block_size + 4, 16 << 20);
        put(layout.checksum_version, 1);
        bytes[layout.recovery + 72..layout.recovery + 80].copy_from_slice(&FLOAT_FORMAT.to_le_bytes());
        change(&mut bytes);
        let sum = crc_fast::crc32_iscsi(&bytes[..crc]);
        bytes[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn the_place_of_the_crc_tells_the_layout() {
        for crc in [288, 292, 304] {
            let control = ControlFile::parse(&file(crc, |_| {})).unwrap();
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.wal_segment_size, WalSegmentSize::DEFAULT);
            assert!(control.has_checksums());
        }
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        for (field, at, value) in [
            ("state", 16, 7),
            ("state", 16, u32::MAX),
            ("timeline", 48, 0),
            ("wal_level", 136 + 36, 3),
            ("block size", 216, 0),
            ("block size", 216, 8193),
            ("block size", 216, 1 << 16),
            ("relation segment size", 220, 0),
            ("WAL block size", 224, 512),
            ("WAL segment size", 228, 1 << 31),
        ] {
            let bytes = file(292, |bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()));
            let error = ControlFile::parse(&bytes).unwrap_err();
            assert!(
                matches!(error, ControlFileError::BadField { field: named, .. } if named == field),
                "{error}"
            );
        }
    }

    #[test]
    fn other_machines_are_recognised() {
        let bytes = file(288, |bytes| bytes[8..12].copy_from_slice(&1300u32.to_be_bytes()));
        assert_eq!(ControlFile::parse(&bytes), Err(ControlFileError::ForeignArchitecture));
        let bytes = file(288, |bytes| bytes[208..216].fill(0));
        assert_eq!(ControlFile::parse(&bytes), Err(ControlFileError::ForeignArchitecture));
    }

    #[test]
    fn a_file_cut_short_is_refused() {
        let bytes = file(292, |_| {});
        for length in [0, 11, 12, 291] {
            assert_eq!(ControlFile::parse(&bytes[..length]), Err(ControlFileError::TooShort { length }));
        }
        assert!(matches!(ControlFile::parse(&bytes[..292]), Err(ControlFileError::BadCrc { .. })));
        assert!(ControlFile::parse(&bytes[..296]).is_ok());
        assert!(matches!(
            ControlFile::parse(&[0; 8192]),
            Err(ControlFileError::BadCrc { control_version: 0 })
        ));
    }

    #[test]
    fn majors_are_told_by_both_versions() {
        let mut control = ControlFile::parse(&file(288, |_| {})).unwrap();
        for (version, catalog, major) in [
            (1300, 202_007_201, Some(13)),
            (1300, 202_107_181, Some(14)),
            (1300, 202_209_061, Some(15)),
            (1300, 202_307_071, Some(16)),
            (1300, 202_307_072, None),
            (1700, 202_406_281, Some(17)),
            (1800, 202_506_291, Some(18)),
            (1902, 0, Some(19)),
            (2000, 0, None),
            (1201, 201_909_212, None),
        ] {
            control.control_version = version;
            control.catalog_version = catalog;
            assert_eq!(control.major(), major, "{version} {catalog}");
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(bit in 0usize..292 * 8 + 32) {
            let mut bytes = file(292, |_| {});
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ControlFile::parse(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(ControlFile::parse(&bytes));
        }

        /// Garbage seldom has the right CRC, so this gives it one.
        #[test]
        fn arbitrary_fields_do_no_harm(
            garbage in prop::collection::vec(any::<u8>(), 304),
            crc in prop::sample::select(vec![288usize, 292, 304]),
            keep_float in any::<bool>(),
        ) {
            let bytes = file(crc, |bytes| {
                let float: Vec<u8> = bytes[208..224].to_vec();
                bytes[..304].copy_from_slice(&garbage);
                if keep_float {
                    bytes[208..224].copy_from_slice(&float);
                    bytes[216..224].copy_from_slice(&float[8..]);
                }
            });
            drop(ControlFile::parse(&bytes));
        }
    }
}
