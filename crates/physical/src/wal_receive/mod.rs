//! WAL as a server streams it, into a directory, an archive of tar, or whatever else a [`WalSink`] is.
//!
//! [`follow`] is the loop: it begins at the start of a segment, tells the server what is durable, follows the server
//! from timeline to timeline, and ends where it is told to. Sinks take segments one after the other. Invariants:
//! - WAL arrives without a hole: bytes for any place but the next one end the stream.
//! - What is reported as flushed is what the sink says is durable, never more.
//! - A segment that is not whole never has the name of a whole one, where the sink keeps them apart.
//!
//! Facts are those of `replication/walsender.c` and `bin/pg_basebackup/receivelog.c`, 13 to 18.

mod directory;
mod existing;
mod history_name;
mod receiver;
mod stream;
mod tar;

pub use directory::{DirectoryOptions, DirectorySink};
pub use existing::{StreamingStart, streaming_start};
pub use receiver::{ReceiveRequest, receive};
pub use stream::{Progress, StreamError, StreamOptions, TimelineEnd, WalSink, follow, stream_timeline};
pub use tar::TarSink;
