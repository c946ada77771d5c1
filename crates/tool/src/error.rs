//! Why a dump or a restore ends early, in stock's words where it has some: a message, what belongs to it, and what to do.

use std::fmt;

use pgkeep_format::archive::ArchiveError;
use pgkeep_wire::WireError;

use crate::server_text::server_words;

/// An error that ends a dump or a restore: what the `error:`, `detail:` and `hint:` lines of PostgreSQL's programs say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What failed.
    pub message: String,
    /// More about it, such as the query.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The message went to the [`Reporter`](crate::Reporter) already; nothing of it is left to print.
    pub is_reported: bool,
    /// The server wants a password and none is known: with one it may go well. `hint` says why a password file did not help.
    pub wants_password: bool,
}

/// What a dump or a restore gives, or why not.
pub type Result<T> = std::result::Result<T, ToolError>;

impl ToolError {
    /// An error with a message alone.
    pub fn new(message: impl Into<String>) -> ToolError {
        ToolError {
            message: message.into(),
            detail: None,
            hint: None,
            is_reported: false,
            wants_password: false,
        }
    }

    /// With something to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ToolError {
        self.hint = Some(hint.into());
        self
    }

    /// With more about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> ToolError {
        self.detail = Some(detail.into());
        self
    }

    /// What the system refused, as in `could not open file "x": No such file or directory`: `what` is `open file`, say.
    #[must_use]
    pub fn could_not(what: &str, name: impl fmt::Display, error: &std::io::Error) -> ToolError {
        ToolError::new(format!("could not {what} \"{name}\": {}", system_text(error)))
    }

    /// Where a script, list or archive goes cannot be written to.
    #[must_use]
    pub fn output(error: &std::io::Error) -> ToolError {
        ToolError::new(format!("could not write to output file: {}", system_text(error)))
    }

    /// An error of which the message was told already.
    pub fn reported(message: impl Into<String>) -> ToolError {
        ToolError { is_reported: true, ..ToolError::new(message) }
    }

    /// A query that the server, or the connection, failed.
    pub fn query(error: &WireError, sql: &str) -> ToolError {
        ToolError::new(format!("query failed: {}", server_words(error))).detail(format!("Query was: {sql}"))
    }

    /// A catalog that says what cannot be.
    pub fn catalog(problem: impl fmt::Display) -> ToolError {
        ToolError::new(format!("{problem}")).hint("The system catalogs might be corrupted.")
    }
}

impl From<ArchiveError> for ToolError {
    fn from(error: ArchiveError) -> ToolError {
        ToolError::new(error.to_string())
    }
}

impl From<WireError> for ToolError {
    fn from(error: WireError) -> ToolError {
        ToolError::new(server_words(&error))
    }
}

/// An I/O error's text as C's `strerror` has it: Rust adds the number.
#[must_use]
pub fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
