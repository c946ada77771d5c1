//! WAL into and out of the repository: `wal push` for `archive_command`, `wal get` for `restore_command`,
//! `wal receive` without either.
//!
//! What is stored is described in `docs/format/wal-object.md`. Two rules hold throughout: a file is in the archive
//! durably before anybody says so, and "not there" is only said of what is certainly not there
//! (`docs/design/0005-wal-get-exit-codes-and-gaps.md`).

mod absence;
mod delivery;
pub mod get;
pub mod push;
pub mod receive;
pub(crate) mod segment;
pub mod spool;
pub mod store;

pub use get::{GetOutcome, GetRequest, get};
pub use push::{PushOutcome, PushReport, PushRequest, push};
pub use receive::{ReceiveEnd, ReceiveReport, ReceiveRequest, RecordedGap, receive};
pub use spool::SPOOL_LIMIT_BYTES;
pub use store::{put_history, put_segment, wal_tail_object};
