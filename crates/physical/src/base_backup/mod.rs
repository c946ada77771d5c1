//! Base backups of a running server as PostgreSQL's `pg_basebackup` makes them: a data directory, or tar archives.
//!
//! A [`Request`] is done by [`BaseBackup::run`]; [`BaseBackup::clean_up`] takes back what a failed run has made.
//!
//! ```text
//! BASE_BACKUP ─► receive ─► one sink for each archive: extract (plain)
//!                                                      decompress ─► extract (plain, compressed by the server)
//!                                                      [inject ─►] compress ─► file or stream (tar)
//! START_REPLICATION ─► wal_receive, in a thread of its own (`wal`)
//! ```
//!
//! Invariants:
//! - Whatever the server sends is hostile: names, links and modes in archives; `extract` follows no link and leaves no
//!   directory that it was given.
//! - Memory is bounded, but for the manifest where it goes into an archive.
//! - `backup_manifest` has its name only when everything else is there, and flushed unless that was not wanted.
//! - The first failure of any thread ends all of them.
//!
//! Facts are those of `backup/basebackup.c` and `bin/pg_basebackup/pg_basebackup.c`, 13 to 18.

mod decompress;
mod directory;
mod extract;
mod inject;
mod mapping;
mod observer;
mod receive;
mod recovery;
mod request;
mod run;
mod sink;
mod sync;
mod tablespaces;
mod wal;

pub use mapping::TablespaceMappings;
pub use observer::{Observer, Progress};
pub use request::{Destination, Manifest, Recovery, Request, Slot, SyncMethod, WalMethod};
pub use run::BaseBackup;
