//! Physical backups as directories and tar archives, which PostgreSQL's own programs make, check and combine.
//!
//! Nothing here prints, reads the environment, or knows of repositories. Errors and messages are stock's, since scripts and
//! people look for them.

mod backup_archive;
pub mod base_backup;
mod canonical_path;
pub mod checksum;
pub mod combine;
mod manifest_table;
mod output_files;
pub mod verify;
pub mod wal_receive;

pub use canonical_path::canonical_path;
pub use manifest_table::CHANGED_BY_HAND;
