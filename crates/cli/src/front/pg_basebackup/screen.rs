//! What is written on stderr: messages, notices of the server, progress.

use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgkeep_physical::base_backup::{Observer, Progress};
use pgkeep_tool::{Reporter, ToolError};
use rustix::fs::Mode;

use super::NAME;
use crate::front::message::Messages;

/// Progress is shown no more often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Columns that a file's name may take.
const FILE_WIDTH: usize = 35;

/// Writes to stderr.
pub(super) struct Screen {
    messages: Messages,
    /// Writes information always.
    always: Messages,
    verbose: bool,
    /// When progress was shown last; none where it is not shown at all.
    shown: Option<Mutex<Option<Instant>>>,
}

impl Screen {
    pub(super) fn new(verbose: bool, progress: bool) -> Screen {
        Screen {
            messages: Messages::new(NAME, verbose),
            always: Messages::new(NAME, true),
            verbose,
            shown: progress.then(Mutex::default),
        }
    }

    /// An error that ended the program.
    pub(super) fn failure(&self, error: &ToolError) {
        self.messages.failure(error);
    }

    fn write(text: &str) {
        // Nobody can be told that stderr is closed.
        drop(stderr().lock().write_all(text.as_bytes()));
    }
}

impl Reporter for Screen {
    fn info(&self, text: &str) {
        self.messages.info(text);
    }

    fn warning(&self, text: &str) {
        self.messages.warning(text);
    }

    fn detail(&self, text: &str) {
        self.messages.detail(text);
    }

    fn error(&self, text: &str) {
        self.messages.error(text);
    }
}

impl Observer for Screen {
    fn tell(&self, text: &str) {
        self.always.info(text);
    }

    fn notice(&self, text: &str) {
        Screen::write(text);
    }

    fn waiting_for_checkpoint(&self) {
        if self.shown.is_some() && !self.verbose {
            Screen::write(if stderr().is_terminal() {
                "waiting for checkpoint\r"
            } else {
                "waiting for checkpoint\n"
            });
        }
    }

    fn progress(&self, progress: &Progress) {
        let Some(shown) = &self.shown else { return };
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let is_end = progress.tablespaces_done == progress.tablespaces;
        if !is_end && shown.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        *shown = Some(Instant::now());
        let end = if !is_end && stderr().is_terminal() { '\r' } else { '\n' };
        Screen::write(&format!("{}{end}", line(progress, self.verbose)));
    }

    fn group_access(&self, allowed: bool) {
        let mask = if allowed { 0o027 } else { 0o077 };
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
}

/// How far it is, in stock's words.
fn line(progress: &Progress, verbose: bool) -> String {
    let done = progress.done_bytes / 1024;
    // What was estimated grows with what comes.
    let total = progress.total_kib.max(done);
    let percent = if progress.total_kib == 0 { 0 } else { (done.saturating_mul(100) / total).min(100) };
    let width = total.to_string().len();
    let tablespaces = if progress.tablespaces == 1 { "tablespace" } else { "tablespaces" };
    let counts = format!("{}/{} {tablespaces}", progress.tablespaces_done, progress.tablespaces);
    if !verbose {
        return format!("{done:width$}/{total} kB ({percent}%), {counts}");
    }
    let Some(file) = &progress.file else {
        return format!("{done:width$}/{total} kB (100%), {counts} {:1$}", "", FILE_WIDTH + 2);
    };
    // The name may be one that a server made up, and must not write to the terminal.
    let file: String = file.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
    // The end of a long name says more.
    let count = file.chars().count();
    let file: String = if count > FILE_WIDTH {
        let rest: String = file.chars().skip(count + 3 - FILE_WIDTH).collect();
        format!("...{rest}")
    } else {
        file
    };
    format!("{done:width$}/{total} kB ({percent}%), {counts} ({file:FILE_WIDTH$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_stocks_words() {
        let mut progress = Progress {
            done_bytes: 512 << 10,
            total_kib: 2048,
            tablespaces_done: 0,
            tablespaces: 1,
            file: Some(format!("/{}/16384", "x".repeat(40))),
        };
        assert_eq!(line(&progress, false), " 512/2048 kB (25%), 0/1 tablespace");
        let shown = line(&progress, true);
        assert!(shown.starts_with(" 512/2048 kB (25%), 0/1 tablespace (...xxx"), "{shown}");
        assert!(shown.ends_with("xx/16384)"), "{shown}");
        progress.file = Some("a\u{1b}[2J".to_owned());
        assert!(line(&progress, true).contains("(a?[2J "));
        (progress.done_bytes, progress.tablespaces_done, progress.tablespaces) = (3 << 20, 2, 2);
        assert_eq!(line(&progress, false), "3072/3072 kB (100%), 2/2 tablespaces");
        progress.total_kib = 0;
        assert_eq!(line(&progress, false), "3072/3072 kB (0%), 2/2 tablespaces");
    }
}
