//! What is wrong with a backup: told at once, and whether to go on.

use std::sync::atomic::{AtomicBool, Ordering};

use pgkeep_tool::{Reporter, Result, ToolError};

/// Takes what threads find.
pub(super) struct Findings<'a> {
    reporter: &'a dyn Reporter,
    exit_on_error: bool,
    any: AtomicBool,
}

impl<'a> Findings<'a> {
    pub(super) fn new(reporter: &'a dyn Reporter, exit_on_error: bool) -> Findings<'a> {
        Findings { reporter, exit_on_error, any: AtomicBool::new(false) }
    }

    /// Something is wrong.
    ///
    /// # Errors
    /// When that is where to stop. It is told then.
    pub(super) fn add(&self, text: &str) -> Result<()> {
        self.add_with_detail(text, None)
    }

    /// Something is wrong, and this is why.
    ///
    /// # Errors
    /// When that is where to stop. It is told then.
    pub(super) fn add_with_detail(&self, text: &str, detail: Option<&str>) -> Result<()> {
        if self.any.swap(true, Ordering::Relaxed) && self.exit_on_error {
            return Err(ToolError::reported(text));
        }
        self.reporter.error(text);
        if let Some(detail) = detail {
            self.reporter.detail(detail);
        }
        if self.exit_on_error { Err(ToolError::reported(text)) } else { Ok(()) }
    }

    /// Whether anything is wrong.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether threads are to stop.
    pub(super) fn is_over(&self) -> bool {
        self.exit_on_error && self.any()
    }
}
