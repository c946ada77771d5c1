//! Physical backups as directories and tar archives, which PostgreSQL's own programs make, check and combine.
//!
//! Nothing here prints, reads the environment, or knows of repositories. Errors and messages are stock's, since scripts and
//! people look for them.

pub mod base_backup;
pub mod wal_receive;
