//! The one PostgreSQL client of pgkeep: blocking, over TCP or Unix-domain sockets, for plain SQL sessions as well as
//! for the replication protocol (base backups and WAL streaming).
//!
//! It reads what every PostgreSQL user already has: connection strings and URIs, `PG*` variables (captured by the
//! caller into an [`Environment`]: this crate never reads the process environment), password files, service files,
//! host lists, TLS material in `~/.postgresql`.
//!
//! Invariants:
//! - Whatever the server sends is untrusted: lengths are checked before memory is taken, texts keep their bytes but
//!   lose control characters when they are displayed.
//! - Bulk data (`COPY`, base backup, WAL) is handed out as slices of the connection's one read buffer.
//! - Passwords never appear in `Debug`, `Display` or error texts.
//! - After an error in the middle of a message stream a [`Connection`] refuses further work instead of guessing.

mod auth;
mod base_backup;
mod connection;
mod conninfo;
mod copy;
mod environment;
mod error;
mod handshake;
mod host;
mod message;
mod password_file;
mod query;
mod quote;
mod raw_text;
mod replication;
mod service_file;
mod session_target;
mod settings;
mod stream;
mod tls;
mod tls_name;
mod tls_verify;
mod wal_stream;

pub use base_backup::{BaseBackup, BaseBackupEvent, BaseBackupOptions, TablespaceInfo};
pub use connection::{CancelHandle, Connection, SessionMode};
pub use conninfo::{ConnInfo, parse_connection_string};
pub use copy::{CopyIn, CopyOut};
pub use environment::Environment;
pub use error::{Attempt, ConnInfoError, Endpoint, Notice, ServerError, ServerErrorKind, WireError};
pub use query::{Row, Rows};
pub use quote::{quote_identifier, quote_literal};
pub use raw_text::{raw_bytes, raw_text};
pub use replication::{CreatedSlot, SlotPosition, SystemIdentity};
pub use settings::{
    ChannelBindingMode, LoadBalance, Password, SslMode, SslNegotiation, SslRoots, TargetSession,
};
pub use wal_stream::{WalEvent, WalStream};
