//! What every verb answers when it cannot do what was asked.
//!
//! An error has a kind (what the user does about it, and which exit code the program ends with), the message, the chain of
//! causes in words, and hints: the next thing to do. Lower case, no final stop, backticks around commands and paths.

use std::fmt;

/// What sort of failure it is; each has one exit code in `docs/reference/exit-codes.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request contradicts itself or names something impossible: change the command.
    Usage,
    /// A setting of pgkeep or of the server is wrong or missing: change the configuration.
    Config,
    /// The server cannot be reached: start it, or correct the connection.
    Connect,
    /// The server refused the role, the password or the privilege.
    Auth,
    /// This version of the server, or of the repository, is not supported.
    Unsupported,
    /// It is another cluster, stanza or timeline than the one meant.
    Mismatch,
    /// The thing named does not exist.
    NotFound,
    /// WAL is missing between the backup and the target.
    WalGap,
    /// The recovery target cannot be reached from what the repository holds.
    TargetUnreachable,
    /// Bytes that are not what was written: the object and place are named.
    Corrupt,
    /// Somebody else holds what this needs (a running server, another writer).
    Locked,
    /// The place to write to is not empty or not fit.
    Destination,
    /// The store or disk failed.
    Storage,
    /// The disk is full.
    Space,
    /// A time limit passed.
    Timeout,
    /// Stopped by the user.
    Interrupted,
    /// A defect of pgkeep.
    Internal,
}

/// A failure, in the form in which it is shown.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Error {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// What failed: "cannot restore `main` to 2026-11-20 09:00:00+00".
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do next; a failure without one is a defect.
    pub hints: Vec<String>,
}

/// The result of every verb.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of that kind, without cause or hint yet.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// Adds one cause beneath those already there.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Error {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds an error and all that it was caused by.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Error {
        let mut next = Some(error);
        while let Some(cause) = next {
            let text = cause.to_string();
            // thiserror's transparent variants repeat the text of their source.
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// Adds a thing to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hints.push(hint.into());
        self
    }

    /// Says what was being done when this failed: the message becomes the first cause.
    #[must_use]
    pub fn while_doing(mut self, doing: impl Into<String>) -> Error {
        let message = std::mem::replace(&mut self.message, doing.into());
        self.causes.insert(0, message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
