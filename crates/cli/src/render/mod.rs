//! How results, progress and errors look: text for people, JSON for programs.
//!
//! Data goes to stdout, everything else to stderr.

pub(crate) mod dump;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod expire;
pub(crate) mod json;
pub(crate) mod load;
pub(crate) mod load_set;
pub(crate) mod progress;
pub(crate) mod quantity;
pub(crate) mod style;
pub(crate) mod text;
pub(crate) mod verify;
pub(crate) mod wal;

use std::io::{self, Write};

use pgkeep_engine::{Error, ErrorKind, Result};

/// Writes the result to stdout.
///
/// A reader that went away (`| head`) has seen what it wanted and is no failure; a full disk behind `>` is one.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let kind = match error.kind() {
                io::ErrorKind::StorageFull => ErrorKind::Space,
                _ => ErrorKind::Storage,
            };
            Err(Error::new(kind, "cannot write the result to standard output")
                .cause(error)
                .hint("the work itself was done: `pgkeep list` shows what the repository holds"))
        }
        _ => Ok(()),
    }
}

/// Writes to stderr; there is nobody to tell when that fails.
pub(crate) fn print_error(text: &str) {
    let mut stderr = io::stderr().lock();
    drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
}

/// Warns of something on stderr.
pub(crate) fn warn(text: &str) {
    print_error(&format!("{} {text}\n", style::Palette::stderr().paint(style::Role::Warning, "warning:")));
}
