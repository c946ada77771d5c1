//! PostgreSQL's bytes: the formats that pgkeep reads and writes, as pure functions from bytes to values and back.
//!
//! Nothing here touches a file, a socket, a clock or a log, and nothing here panics on hostile input: lengths are
//! bounded by constants before anything is allocated, and numbers are read with a check against the end. Formats of
//! PostgreSQL 13 to 18 are known; what carries another version is refused, never guessed. Each module names the
//! source it mirrors.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::cast_possible_truncation, clippy::unwrap_used, clippy::panic)
)]

pub mod archive;
pub mod backup_label;
pub mod control_file;
pub mod exclude;
pub mod incremental_file;
mod le;
pub mod lsn;
pub mod page;
pub mod page_mask;
pub mod pg_manifest;
pub mod relation;
mod relative_path;
pub mod tablespace_map;
pub mod tar;
pub mod timeline;
pub mod timeline_history;
pub mod wal;
pub mod wal_name;

pub use backup_label::{BackupLabel, BackupLabelError, IncrementalFrom};
pub use control_file::{ClusterState, ControlFile, ControlFileError, WalLevel};
pub use exclude::{Disposition, classify_entry, init_fork_of, is_temporary_relation};
pub use lsn::Lsn;
pub use page::{PageVerdict, page_checksum, page_lsn, verify_page};
pub use page_mask::{differs_only_in_hints, mask_hints};
pub use relation::{Fork, RelFileLocator, RelationFile, RelationFileName};
pub use tablespace_map::TablespaceMapError;
pub use timeline::TimelineId;
pub use timeline_history::{Ancestor, TimelineHistory, TimelineHistoryError};
pub use wal_name::{SegmentNumber, WalFileName, WalSegmentName, WalSegmentSize};
