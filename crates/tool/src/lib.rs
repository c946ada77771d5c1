//! The manners of PostgreSQL's client programs, which logical and physical tools share:
//! errors as message, detail and hint in their words, how a failed connection is told, and compressed streams.
//!
//! Nothing here prints or reads the environment.

pub mod compress;
mod connect;
mod error;
mod reporter;
pub mod server_text;

pub use connect::connect;
pub use error::{Result, ToolError, system_text};
pub use reporter::Reporter;
