//! What stops a restore.

use pgkeep_format::archive::ArchiveError;

/// An error that ends the restore. The text is that of stock's `pg_restore` where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RestoreError {
    /// What failed.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The message went to the [`Reporter`](super::Reporter) already; nothing is left to print.
    pub is_reported: bool,
}

impl RestoreError {
    /// An error with a message.
    pub fn new(message: impl Into<String>) -> RestoreError {
        RestoreError { message: message.into(), detail: None, hint: None, is_reported: false }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> RestoreError {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn reported(message: impl Into<String>) -> RestoreError {
        RestoreError { is_reported: true, ..RestoreError::new(message) }
    }
}

impl From<ArchiveError> for RestoreError {
    fn from(error: ArchiveError) -> RestoreError {
        RestoreError::new(error.to_string())
    }
}

/// An I/O error's text as C's `strerror` has it: Rust adds the number.
pub(crate) fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
