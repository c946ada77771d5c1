//! The `pg_restore` front beside stock's program: the same archive, the same options, the same bytes.

#![allow(clippy::unwrap_used, reason = "a test can do nothing better")]

mod encoder;
mod habits;
mod hostile;
mod mistakes;
mod old_versions;
mod rewritten;
mod scripts;
mod servers;
mod support;
