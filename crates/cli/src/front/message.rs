//! Messages of the fronts, in the form of PostgreSQL's programs: `pg_restore: error: …`, on stderr.

use std::io::Write;

use pgkeep_tool::Reporter;
use pgkeep_tool::ToolError;

/// The exit status of a failure.
pub(crate) const FAILURE: u8 = 1;

/// Writes messages of one program.
pub(crate) struct Messages {
    name: &'static str,
    verbose: bool,
}

impl Messages {
    /// `verbose`: information is written, too.
    pub(crate) fn new(name: &'static str, verbose: bool) -> Messages {
        Messages { name, verbose }
    }

    /// Advice after an error.
    pub(crate) fn hint(&self, text: &str) {
        self.line("hint: ", text);
    }

    /// What every mistake on a command line ends with.
    pub(crate) fn try_help(&self) {
        self.hint(&format!("Try \"{} --help\" for more information.", self.name));
    }

    /// An error that ended the program.
    pub(crate) fn failure(&self, error: &ToolError) {
        if !error.is_reported {
            self.error(&error.message);
        }
        if let Some(detail) = &error.detail {
            self.line("detail: ", detail);
        }
        if let Some(hint) = &error.hint {
            self.hint(hint);
        }
    }

    /// A warning whose further lines begin with `detail: ` or `hint: `.
    pub(crate) fn warning_with_advice(&self, text: &str) {
        let mut lines = text.lines();
        self.warning(lines.next().unwrap_or_default());
        for line in lines {
            self.line("", line);
        }
    }

    fn line(&self, kind: &str, text: &str) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        // One write, so that lines of several threads do not mix. Nobody can be told that stderr is closed.
        drop(std::io::stderr().lock().write_all(format!("{}: {kind}{text}\n", self.name).as_bytes()));
    }
}

impl Reporter for Messages {
    fn info(&self, text: &str) {
        if self.verbose {
            self.line("", text);
        }
    }

    fn warning(&self, text: &str) {
        self.line("warning: ", text);
    }

    fn detail(&self, text: &str) {
        self.line("detail: ", text);
    }

    fn hint(&self, text: &str) {
        Messages::hint(self, text);
    }

    fn error(&self, text: &str) {
        self.line("error: ", text);
    }
}
