//! Is this file what its name says, and of this cluster? Asked before anything is stored, answered from bytes alone.
//!
//! System identifier, timeline, position and segment size come from the first page of WAL (`access/xlog_internal.h`).
//! They keep another cluster's WAL out, and files that were recycled or renamed; they cannot tell two copies of one
//! cluster apart.

use pgkeep_format::timeline_history::{MAX_HISTORY_LENGTH, TimelineHistory};
use pgkeep_format::wal::{
    EndOfWal, LongHeader, SegmentSummary, WalError, header_of, summarize_partial_segment, summarize_segment,
};
use pgkeep_format::{WalFileName, WalSegmentName, WalSegmentSize};

use crate::{Error, ErrorKind, Result};

/// A `.backup` file has a dozen short lines.
const LARGEST_BACKUP_HISTORY: u64 = 64 << 10;

/// The cluster whose WAL is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedCluster {
    pub(crate) system_identifier: u64,
    pub(crate) segment_size: WalSegmentSize,
}

/// What a WAL file turned out to hold.
#[derive(Debug)]
pub(crate) enum Inspected {
    /// WAL, whole or partial.
    Wal(Box<SegmentSummary>),
    /// A timeline history or a backup history: text.
    Text,
}

impl Inspected {
    /// Where valid WAL stops before it should, which deserves a warning for a whole segment.
    pub(crate) fn early_end(&self) -> Option<EndOfWal> {
        match self {
            Inspected::Wal(summary) => summary.end_of_wal,
            Inspected::Text => None,
        }
    }
}

/// Reads the name of a file that PostgreSQL hands over.
pub(crate) fn parse_name(name: &str, size: WalSegmentSize) -> Result<WalFileName> {
    WalFileName::parse(name, size).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("`{name}` is not the name of a WAL file"))
            .cause(format!(
                "expected 24 hexadecimal digits of a segment (of {} MiB), perhaps followed by `.partial` or by an offset and `.backup`, or 8 digits and `.history`",
                size.bytes() >> 20
            ))
            .hint("write `%p` (and for `wal get` `%f %p`) in the server's setting: PostgreSQL puts the name there")
    })
}

/// The most bytes that a file of this name can have.
pub(crate) fn largest(name: WalFileName, size: WalSegmentSize) -> u64 {
    match name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => size.bytes(),
        WalFileName::BackupHistory { .. } => LARGEST_BACKUP_HISTORY,
        WalFileName::TimelineHistory(_) => MAX_HISTORY_LENGTH as u64,
    }
}

/// Checks a file against its name and the cluster, and summarizes its WAL.
pub(crate) fn inspect(name: WalFileName, bytes: &[u8], cluster: ExpectedCluster) -> Result<Inspected> {
    let size = cluster.segment_size;
    let refused = |error: WalError| refusal(name, cluster, error);
    let checked_header = || -> Result<LongHeader, WalError> {
        let header = header_of(bytes)?;
        header.check_system_identifier(cluster.system_identifier)?;
        Ok(header)
    };
    match name {
        WalFileName::Segment(segment) => {
            checked_header().map_err(refused)?;
            Ok(Inspected::Wal(Box::new(summarize_segment(bytes, segment, size).map_err(refused)?)))
        }
        WalFileName::Partial(segment) => {
            checked_header().map_err(refused)?;
            Ok(Inspected::Wal(Box::new(summarize_partial_segment(bytes, segment, size).map_err(refused)?)))
        }
        WalFileName::TimelineHistory(timeline) => {
            let history = TimelineHistory::parse(timeline, bytes)
                .map_err(|error| damaged_text(name, size, &error.to_string()))?;
            // A server writes a history file only when it leaves another timeline.
            if history.ancestors.is_empty() {
                return Err(damaged_text(name, size, "it names no timeline that this one left"));
            }
            Ok(Inspected::Text)
        }
        WalFileName::BackupHistory { .. } => {
            let begins_right = bytes.starts_with(b"START WAL LOCATION: ");
            if begins_right {
                Ok(Inspected::Text)
            } else {
                Err(damaged_text(name, size, "it does not begin with `START WAL LOCATION`"))
            }
        }
    }
}

/// Checks the first page of a segment that is about to be delivered: the cluster and the position.
pub(crate) fn check_header(name: WalSegmentName, bytes: &[u8], cluster: ExpectedCluster) -> Result<()> {
    header_of(bytes)
        .and_then(|header| {
            header.check_system_identifier(cluster.system_identifier)?;
            header.check(name, cluster.segment_size)
        })
        .map_err(|error| refusal(WalFileName::Segment(name), cluster, error))
}

/// Why the file was refused, and what to do about it.
fn refusal(name: WalFileName, cluster: ExpectedCluster, error: WalError) -> Error {
    let file_name = name.file_name(cluster.segment_size);
    let (kind, hint) = match error {
        WalError::OtherCluster { .. } => (
            ErrorKind::Mismatch,
            "this stanza holds another cluster: correct `--stanza` in the `archive_command` of this server; a cluster made by `initdb` or `pg_upgrade` takes a new stanza (`pgkeep init --stanza NAME`)",
        ),
        WalError::OtherSegmentSize { .. } => (
            ErrorKind::Mismatch,
            "`--wal-segsize` of this cluster is not the stanza's: correct `--stanza`, or `pgkeep init` a new one",
        ),
        WalError::UnsupportedVersion { .. } => {
            (ErrorKind::Unsupported, "install a version of pgkeep that knows this PostgreSQL")
        }
        WalError::OtherTimeline { .. } | WalError::OtherPosition { .. } | WalError::Recycled { .. } => (
            ErrorKind::Mismatch,
            "the file is not the segment of that name: it was renamed or copied over; look for the right one before removing anything",
        ),
        _ => (
            ErrorKind::Corrupt,
            "the file is damaged or was cut off: look at the disk beneath `pg_wal`; a standby or another archive may have a good copy",
        ),
    };
    Error::new(kind, format!("refused `{file_name}`")).cause(error).hint(hint)
}

fn damaged_text(name: WalFileName, size: WalSegmentSize, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("refused `{}`", name.file_name(size))).cause(what).hint(
        "the file was changed or cut off: the same file on a standby, or in another archive, may be good",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
    const CLUSTER: ExpectedCluster = ExpectedCluster { system_identifier: 7, segment_size: SIZE };

    fn inspect_named(name: &str, bytes: &[u8]) -> Result<Inspected> {
        inspect(parse_name(name, SIZE)?, bytes, CLUSTER)
    }

    /// A segment with a right header and no record at all.
    fn empty_segment(system_identifier: u64, timeline: u32, address: u64) -> Vec<u8> {
        let mut bytes = vec![0; 16 << 20];
        bytes[0..2].copy_from_slice(&0xD118_u16.to_le_bytes());
        bytes[2..4].copy_from_slice(&2_u16.to_le_bytes());
        bytes[4..8].copy_from_slice(&timeline.to_le_bytes());
        bytes[8..16].copy_from_slice(&address.to_le_bytes());
        bytes[24..32].copy_from_slice(&system_identifier.to_le_bytes());
        bytes[32..36].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        bytes
    }

    const NAME: &str = "000000010000000000000003";

    #[test]
    fn only_names_that_postgresql_archives_are_read() {
        for name in
            ["", "x", "../etc/passwd", "00000001000000000000000G", "archive_status", "00000001.histor"]
        {
            let error = parse_name(name, SIZE).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage);
            assert!(!error.hints.is_empty());
        }
    }

    #[test]
    fn another_clusters_segment_is_refused_by_its_header() {
        let error = inspect_named(NAME, &empty_segment(8, 1, 3 << 24)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Mismatch);
        assert!(error.to_string().contains('8') && error.to_string().contains('7'), "{error}");
    }

    #[test]
    fn a_segment_that_is_not_the_named_one_is_refused() {
        let another_place = inspect_named(NAME, &empty_segment(7, 1, 4 << 24)).unwrap_err();
        assert_eq!(another_place.kind, ErrorKind::Mismatch);
        let another_timeline = inspect_named(NAME, &empty_segment(7, 2, 3 << 24)).unwrap_err();
        assert_eq!(another_timeline.kind, ErrorKind::Mismatch);
        let cut = inspect_named(NAME, &empty_segment(7, 1, 3 << 24)[..9000]).unwrap_err();
        assert_eq!(cut.kind, ErrorKind::Corrupt);
        let zeros = inspect_named(NAME, &vec![0; 16 << 20]).unwrap_err();
        assert_eq!(zeros.kind, ErrorKind::Corrupt);
    }

    #[test]
    fn a_partial_segment_may_be_short() {
        let bytes = empty_segment(7, 1, 3 << 24);
        assert!(inspect_named(&format!("{NAME}.partial"), &bytes[..16384]).is_ok());
        assert!(inspect_named(&format!("{NAME}.partial"), &bytes).is_ok());
    }

    #[test]
    fn history_files_must_make_sense() {
        assert!(inspect_named("00000002.history", b"1\t0/3000060\tno recovery target specified\n\n").is_ok());
        for text in [&b""[..], b"hello", b"2\t0/3000060\tx\n", b"\xff\xfe\0"] {
            assert_eq!(inspect_named("00000002.history", text).unwrap_err().kind, ErrorKind::Corrupt);
        }
        let name = format!("{NAME}.00000028.backup");
        assert!(inspect_named(&name, b"START WAL LOCATION: 0/3000028 (file x)\n").is_ok());
        assert!(inspect_named(&name, b"").is_err());
    }
}
