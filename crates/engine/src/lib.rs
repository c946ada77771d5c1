//! The verbs of pgkeep as a library: init, backup, restore, WAL push and get, list, show, check, expire, verify, dump, load.
//!
//! Each verb is a request that becomes a plan (pure, printable), is run, and ends in a report (serialisable).
//! Nothing here prints, reads the environment, parses arguments or exits: what happens is told to an [`Observer`],
//! what went wrong is an [`Error`] that says what to do next.

pub mod archive_index;
pub mod backup;
pub mod changed_blocks;
pub mod check;
pub mod connection;
pub mod drill;
pub mod dump;
pub mod error;
mod error_conversion;
pub mod event;
pub mod expire;
pub mod export;
pub mod history;
pub mod import;
pub mod incremental_sample;
pub mod init;
mod json;
pub mod list;
pub mod load;
pub mod location;
#[cfg(test)]
mod made_up;
pub mod recovery_window;
pub mod restore;
mod server_settings;
pub mod standby;
pub mod verify;
pub mod wal;

pub use connection::ConnectionRequest;
pub use error::{Error, ErrorKind, Result};
pub use event::{Cancel, Event, Observer, Step};
pub use location::Location;
pub use pgkeep_format::archive::Compression as TarCompression;
pub use pgkeep_format::pg_manifest::ChecksumAlgorithm;
pub use pgkeep_format::{Lsn, TimelineId};
pub use pgkeep_repo::Compression;
pub use pgkeep_tool::compress::Codec;
