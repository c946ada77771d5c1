//! The line that `--progress` shows, once a second and at the end.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgkeep_physical::verify::Progress;

/// Shows how far the checking is, or nothing.
pub(super) struct ProgressLine {
    is_wanted: bool,
    last: Mutex<Option<Instant>>,
}

impl ProgressLine {
    pub(super) fn new(is_wanted: bool) -> ProgressLine {
        ProgressLine { is_wanted, last: Mutex::new(None) }
    }

    pub(super) fn show(&self, progress: Progress) {
        if !self.is_wanted {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if !is_due && !progress.is_finished {
            return;
        }
        *last = Some(Instant::now());
        let stderr = std::io::stderr();
        let end = if !progress.is_finished && stderr.is_terminal() { '\r' } else { '\n' };
        // Nobody can be told that stderr is closed.
        drop(stderr.lock().write_all(format!("{}{end}", text(progress)).as_bytes()));
    }
}

fn text(progress: Progress) -> String {
    let Progress { done, total, .. } = progress;
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
    let total = (total / 1024).to_string();
    let done = (done / 1024).to_string();
    format!("{done:>width$}/{total} kB ({percent}%) verified", width = total.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_width_of_the_last() {
        let shown = |done, total| text(Progress { done, total, is_finished: false });
        assert_eq!(shown(2048, 409_600), "  2/400 kB (0%) verified");
        assert_eq!(shown(409_600, 409_600), "400/400 kB (100%) verified");
        assert_eq!(shown(0, 0), "0/0 kB (0%) verified");
    }
}
