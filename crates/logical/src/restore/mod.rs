//! Restoring archives: as a list, as a script, or into a server.
//!
//! ```text
//! Input ──► Archive: Contents (table) + Source (data)
//!                      │ use_list, select: which entries, in which order
//!                      ▼
//!           run: drops, then three passes over the entries ──► Emitter ──► script | server
//!           parallel: the same entries, by dependencies, to workers with an Emitter each
//! ```
//!
//! What is written is what stock's `pg_restore` 18 writes, byte for byte; what is sent to a server is the same SQL, but for
//! settings and functions that the server does not have.

pub(crate) mod clock;
mod contents;
mod emit;
mod list;
mod options;
mod parallel;
mod rows_in_pieces;
mod run;
mod schedule;
mod select;
mod server;
mod source;
mod verify;

pub use contents::Contents;
pub use list::{print_list, use_list};
pub use options::{NameList, RestoreOptions, Selection};
pub use run::{restore, write_script};
pub use source::{Archive, Input, LiveData, ReadSeek};
pub use verify::{ArchiveVerification, count_data, verify_archive};

pub(crate) use emit::{Emitter, Job, Target, loads_through_root};
pub(crate) use select::{Pass, Wanted, select};
pub(crate) use server::Server;
pub(crate) use source::{Piece, Pieces, Source};
