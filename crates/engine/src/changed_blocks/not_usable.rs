//! Why it is not known which blocks changed, in words for the plan; and the comparison of a parent with the cluster.
//!
//! None of these is an error: the backup is taken all the same, and reads everything.

use pgkeep_format::wal::RangeError;
use pgkeep_format::{Lsn, TimelineId};
use pgkeep_repo::ManifestHeader;

/// Why a producer does not know what changed since a parent backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotUsable {
    /// `initdb`, `pg_upgrade`, or another stanza.
    #[error("the parent is of the cluster with system identifier {parent}, this is {server}")]
    OtherCluster {
        /// That of the parent.
        parent: u64,
        /// That of the server.
        server: u64,
    },
    /// Something that `initdb` fixes differs: the files are not comparable.
    #[error("{what} is {server}, in the parent it was {parent}")]
    OtherShape {
        /// What differs.
        what: &'static str,
        /// In the parent.
        parent: u64,
        /// Now.
        server: u64,
    },
    /// `pg_checksums` rewrote pages without a word in WAL.
    #[error("page checksums were switched {} since the parent", if *.now { "on" } else { "off" })]
    ChecksumsSwitched {
        /// Whether pages have checksums now.
        now: bool,
    },
    /// A parent that ends after this start holds pages from the future of this backup.
    #[error("this backup starts at {start}, not after the end of the parent at {parent_stop}")]
    StartsBeforeParentEnds {
        /// Where this backup starts.
        start: Lsn,
        /// Where the parent becomes consistent.
        parent_stop: Lsn,
    },
    /// The parent shows a state that is not in this cluster's past.
    #[error(
        "the parent reaches {parent_stop} on timeline {parent_timeline}, which is not in the past of timeline {timeline}"
    )]
    OffHistory {
        /// The parent's timeline.
        parent_timeline: TimelineId,
        /// Where the parent becomes consistent.
        parent_stop: Lsn,
        /// The server's timeline.
        timeline: TimelineId,
    },
    /// Nothing says where the server's timeline comes from.
    #[error("the history of timeline {timeline} is in neither the archive nor `pg_wal`")]
    NoHistory {
        /// The server's timeline.
        timeline: TimelineId,
    },
    /// Two servers took the same timeline.
    #[error("the archive has another history of timeline {timeline} than the server")]
    OtherHistory {
        /// The server's timeline.
        timeline: TimelineId,
    },
    /// A gap.
    #[error("WAL segment {segment} is missing")]
    MissingSegment {
        /// Its name.
        segment: String,
    },
    /// Valid WAL ends before it should.
    #[error("the WAL in segment {segment} ends at {at}, and is needed up to {needed}")]
    ShortSegment {
        /// Its name.
        segment: String,
        /// Where it ends.
        at: Lsn,
        /// Where it should reach.
        needed: Lsn,
    },
    /// The segment was stored without a summary.
    #[error("WAL segment {segment} has no summary")]
    NoSummary {
        /// Its name.
        segment: String,
    },
    /// The stored object, or the file in `pg_wal`, is not what it should be.
    #[error("WAL segment {segment} cannot be used: {what}")]
    DamagedSegment {
        /// Its name.
        segment: String,
        /// What is wrong.
        what: String,
    },
    /// Something else in the archive is damaged.
    #[error("the archive cannot be used: {what}")]
    DamagedArchive {
        /// What is wrong.
        what: String,
    },
    /// Two neighbours do not belong to one log.
    #[error("WAL segment {segment} does not follow the one before: {error}")]
    DoesNotFollow {
        /// The later one.
        segment: String,
        /// Why.
        error: RangeError,
    },
    /// The archive holds the log of another server than this one.
    #[error("WAL segment {segment} in the archive is not the server's own")]
    OtherLog {
        /// Its name.
        segment: String,
    },
    /// The server cannot make incremental backups.
    #[error("PostgreSQL {major} keeps no WAL summaries of its own (17 and later do)")]
    ServerTooOld {
        /// Its major version.
        major: u32,
    },
    /// The server could, and is told not to.
    #[error("`summarize_wal` is off on the server")]
    SummarizerOff,
    /// The role may not look at the server's summaries.
    #[error("the role may not read the server's WAL summaries: {what}")]
    NotAllowed {
        /// What the server said.
        what: String,
    },
    /// The server has removed summaries, or never made them.
    #[error("the server's WAL summaries do not cover timeline {timeline} from {from} on")]
    ServerSummaryGap {
        /// On which timeline.
        timeline: TimelineId,
        /// From where on there is none.
        from: Lsn,
    },
    /// Changes were not logged.
    #[error("`wal_level` was `minimal` in segment {segment}: not every change is in WAL")]
    WalLevelMinimal {
        /// Where.
        segment: String,
    },
    /// A record that changes files in a way that is not understood.
    #[error("a record in or before segment {segment} changes files in a way that is not known")]
    UnknownChange {
        /// Where.
        segment: String,
    },
    /// An extension writes its own records.
    #[error(
        "an extension's resource manager wrote WAL in segment {segment}: nobody knows all that it changes"
    )]
    CustomResourceManager {
        /// Where.
        segment: String,
    },
}

/// What must not change between a parent and the next backup for their blocks to be comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterShape {
    /// The cluster's identity.
    pub system_identifier: u64,
    /// Version of the system catalogs: changes with the major version.
    pub catalog_version: u32,
    /// Version of the control file.
    pub control_version: u32,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of a relation segment file.
    pub relation_segment_blocks: u32,
    /// Bytes of a WAL segment: `pg_resetwal` changes it.
    pub wal_segment_size: u32,
    /// Whether pages carry checksums.
    pub checksums: bool,
}

impl From<&ManifestHeader> for ClusterShape {
    fn from(header: &ManifestHeader) -> ClusterShape {
        ClusterShape {
            system_identifier: header.system_identifier,
            catalog_version: header.catalog_version,
            control_version: header.control_version,
            block_size: header.block_size,
            relation_segment_blocks: header.relation_segment_blocks,
            wal_segment_size: header.wal_segment_size,
            checksums: header.checksums,
        }
    }
}

/// Whether blocks of that parent can be those of the cluster as it is now.
///
/// # Errors
/// The first thing that differs.
pub fn comparable(parent: &ManifestHeader, server: &ClusterShape) -> Result<(), NotUsable> {
    let parent = ClusterShape::from(parent);
    if parent.system_identifier != server.system_identifier {
        return Err(NotUsable::OtherCluster {
            parent: parent.system_identifier,
            server: server.system_identifier,
        });
    }
    for (what, parent, server) in [
        ("the version of the system catalogs", parent.catalog_version, server.catalog_version),
        ("the version of the control file", parent.control_version, server.control_version),
        ("the block size", parent.block_size, server.block_size),
        ("the number of blocks in a segment", parent.relation_segment_blocks, server.relation_segment_blocks),
        ("the size of WAL segments", parent.wal_segment_size, server.wal_segment_size),
    ] {
        if parent != server {
            return Err(NotUsable::OtherShape { what, parent: parent.into(), server: server.into() });
        }
    }
    if parent.checksums != server.checksums {
        return Err(NotUsable::ChecksumsSwitched { now: server.checksums });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_parent_of_the_same_shape_is_comparable() {
        let parent = ManifestHeader {
            system_identifier: 7,
            catalog_version: 202_506_291,
            control_version: 1800,
            checksums: true,
            ..ManifestHeader::default()
        };
        let same = ClusterShape::from(&parent);
        assert_eq!(comparable(&parent, &same), Ok(()));
        type Change = fn(&mut ClusterShape);
        let changed: [(Change, &str); 7] = [
            (|s| s.system_identifier = 8, "system identifier 7, this is 8"),
            (|s| s.catalog_version = 1, "catalogs is 1, in the parent it was 202506291"),
            (|s| s.control_version = 1, "control file is 1"),
            (|s| s.block_size = 4096, "block size is 4096"),
            (|s| s.relation_segment_blocks = 1, "blocks in a segment is 1"),
            (|s| s.wal_segment_size = 1 << 20, "WAL segments is 1048576"),
            (|s| s.checksums = false, "checksums were switched off since the parent"),
        ];
        for (change, text) in changed {
            let mut server = same;
            change(&mut server);
            let reason = comparable(&parent, &server).unwrap_err().to_string();
            assert!(reason.contains(text), "{reason}");
        }
    }
}
