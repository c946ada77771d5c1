//! Why a dump ends early, in stock's words: a message, what belongs to it, and what to do.

use std::fmt;

use pgkeep_wire::WireError;

/// An error of a dump: what `pg_dump: error:`, `pg_dump: detail:` and `pg_dump: hint:` lines say.
#[derive(Debug)]
pub struct DumpError {
    /// What went wrong.
    pub message: String,
    /// More about it, such as the query.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl DumpError {
    /// An error with a message alone.
    pub fn new(message: impl Into<String>) -> DumpError {
        DumpError { message: message.into(), detail: None, hint: None }
    }

    /// With something to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> DumpError {
        self.hint = Some(hint.into());
        self
    }

    /// With more about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> DumpError {
        self.detail = Some(detail.into());
        self
    }

    /// A query that the server, or the connection, failed.
    pub(crate) fn query(error: &WireError, sql: &str) -> DumpError {
        DumpError::new(format!("query failed: {}", server_words(error))).detail(format!("Query was: {sql}"))
    }

    /// A catalog that says what cannot be.
    pub(crate) fn catalog(problem: impl fmt::Display) -> DumpError {
        DumpError::new(format!("{problem}")).hint("The system catalogs might be corrupted.")
    }
}

/// An error as libpq words it: `ERROR:  …` with `DETAIL:` and `HINT:` lines for what a server says.
pub(crate) fn server_words(error: &WireError) -> String {
    match error.server_error() {
        Some(server) => {
            let mut text = format!("{}:  {}", server.severity, server.message);
            for (label, part) in
                [("DETAIL", &server.detail), ("HINT", &server.hint), ("CONTEXT", &server.context)]
            {
                if let Some(part) = part {
                    text.push_str(&format!("\n{label}:  {part}"));
                }
            }
            text
        }
        None => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            text
        }
    }
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DumpError {}

impl From<WireError> for DumpError {
    fn from(error: WireError) -> DumpError {
        DumpError::new(server_words(&error))
    }
}

/// What a dump gives, or why not.
pub type Result<T> = std::result::Result<T, DumpError>;

/// An I/O error in C's words: Rust adds the number.
pub(crate) fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
