//! Why a load does not begin, or cannot go on. What the server refuses of an object is no error but part of the report.

use pgkeep_tool::ToolError;
use pgkeep_tool::server_text::server_words;
use pgkeep_wire::WireError;

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadErrorKind {
    /// The request contradicts itself, or the archive.
    Usage,
    /// The server cannot be reached, or the connection was lost.
    Connect,
    /// The server does not let the role in, or not do that.
    Auth,
    /// A pattern or a role names nothing.
    NotFound,
    /// An interrupted load is not the one that is asked for.
    Mismatch,
    /// The database is not fit to load into.
    Destination,
    /// The archive cannot be read.
    Corrupt,
    /// Another load is running.
    Locked,
    /// Stopped by the user.
    Interrupted,
}

/// A failure, with what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LoadError {
    /// What sort.
    pub kind: LoadErrorKind,
    /// What failed.
    pub message: String,
    /// Why, outermost first.
    pub causes: Vec<String>,
    /// What to do.
    pub hints: Vec<String>,
}

/// What a step of a load gives, or why not.
pub type LoadResult<T> = Result<T, LoadError>;

impl LoadError {
    pub(super) fn new(kind: LoadErrorKind, message: impl Into<String>) -> LoadError {
        LoadError { kind, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    #[must_use]
    pub(super) fn cause(mut self, cause: impl Into<String>) -> LoadError {
        self.causes.push(cause.into());
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> LoadError {
        self.hints.push(hint.into());
        self
    }

    /// A session that could not be opened or was lost, or a question of ours that the server refused.
    pub(super) fn server(what: &str, error: &WireError) -> LoadError {
        let kind = match error.sqlstate() {
            Some(state) if state.starts_with("28") || state == "42501" => LoadErrorKind::Auth,
            Some(state) if state.starts_with("08") || state.starts_with("57") => LoadErrorKind::Connect,
            Some(_) => LoadErrorKind::Destination,
            None => LoadErrorKind::Connect,
        };
        let hint = match kind {
            LoadErrorKind::Auth => "connect as a role that may do that, with `--username`",
            LoadErrorKind::Connect => {
                "look at the server and its log; an interrupted load goes on with `--resume`"
            }
            _ => "do what the server says, then run the command again",
        };
        LoadError::new(kind, what).cause(server_words(error)).hint(hint)
    }

    /// An archive that cannot be opened or read.
    #[must_use]
    pub fn archive(error: &ToolError) -> LoadError {
        let mut failure =
            LoadError::new(LoadErrorKind::Corrupt, "the archive cannot be read").cause(&error.message);
        failure.causes.extend(error.detail.clone());
        failure.hints.push(
            error.hint.clone().unwrap_or_else(|| "check the file, or use another copy of it".to_owned()),
        );
        failure
    }
}
