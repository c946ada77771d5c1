//! What a running verb tells: a bar on a terminal, a line now and then elsewhere. Always on stderr.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgkeep_engine::{Cancel, Event, Observer, Step};

use super::print_error;
use super::quantity::{duration, size};
use super::style::{Palette, Role};

/// How often a line is written where there is no terminal: often enough to see that it works, seldom enough for a log.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// A rate over less than this is noise.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// How much is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    /// `-q`: warnings only.
    pub(crate) quiet: bool,
    /// `--json`: a program reads; no lines in between, a bar only on a terminal.
    pub(crate) json: bool,
    /// `-v`: steps with their times.
    pub(crate) verbose: u8,
    /// `--dry-run`: the result is the plan itself, so it need not be told beforehand.
    pub(crate) dry_run: bool,
}

/// Shows events on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    telling: Telling,
    terminal: bool,
    palette: Palette,
    cancel: Cancel,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: Option<Current>,
    told_to_stop: bool,
}

#[derive(Debug)]
struct Current {
    step: Step,
    total: Option<u64>,
    began: Instant,
    last_line: Instant,
    done: u64,
    /// What of it lies before the part that is shown.
    item_began_at: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows what the verb that `cancel` stops is doing.
    pub(crate) fn new(telling: Telling, cancel: Cancel) -> Progress {
        Progress {
            telling,
            terminal: std::io::stderr().is_terminal(),
            palette: Palette::stderr(),
            cancel,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not silence the messages that explain it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line above the bar.
    fn line(&self, state: &State, text: &str) {
        let text = format!("{text}\n");
        match state.current.as_ref().and_then(|current| current.bar.as_ref()) {
            Some(bar) => bar.suspend(|| print_error(&text)),
            None => print_error(&text),
        }
    }

    fn shows_lines(&self) -> bool {
        !self.terminal && !self.telling.quiet && !self.telling.json
    }

    fn start(&self, state: &mut State, step: Step, total: Option<u64>) {
        self.finish(state);
        let now = Instant::now();
        let bar = (self.terminal && !self.telling.quiet).then(|| bar(step, total));
        state.current =
            Some(Current { step, total, began: now, last_line: now, done: 0, item_began_at: 0, bar });
        if self.shows_lines() {
            let total = total.map(|total| format!(": {}", size(total))).unwrap_or_default();
            self.line(state, &format!("{}{total}", words(step)));
        }
    }

    fn advance(&self, state: &mut State, step: Step, done: u64) {
        if !state.current.as_ref().is_some_and(|current| current.step == step) {
            self.start(state, step, None);
        }
        let Some(current) = &mut state.current else { return };
        // Threads overtake each other on their way here.
        current.done = current.done.max(done);
        if let Some(bar) = &current.bar {
            bar.set_position(current.done.saturating_sub(current.item_began_at));
            if current.total.is_none() && current.done > 0 {
                bar.set_message(format!("{}  ", size(current.done)));
            }
        } else if self.shows_lines() && current.last_line.elapsed() >= LINE_INTERVAL {
            current.last_line = Instant::now();
            let line = progress_line(current.step, current.done, current.total, current.began.elapsed());
            self.line(state, &line);
        }
    }

    /// On a terminal the bar is that of the part. Elsewhere the lines of the whole say enough.
    fn start_item(&self, state: &mut State, step: Step, name: String, total: Option<u64>) {
        let Some(current) = state.current.as_mut().filter(|current| current.step == step) else { return };
        if let Some(old) = current.bar.take() {
            old.finish_and_clear();
            current.item_began_at = current.done;
            current.bar = Some(bar(step, total).with_prefix(name));
        }
    }

    fn finish(&self, state: &mut State) {
        let Some(current) = state.current.take() else { return };
        if let Some(bar) = &current.bar {
            bar.finish_and_clear();
        }
        if self.telling.verbose > 0 && !self.telling.json {
            let took = current.began.elapsed();
            let done = if current.done > 0 { format!("{}, ", size(current.done)) } else { String::new() };
            self.line(state, &format!("{}: {done}took {:.1} s", words(current.step), took.as_secs_f64()));
        }
    }
}

impl Observer for Progress {
    fn event(&self, event: Event) {
        let mut state = self.state();
        if self.cancel.is_cancelled() && !state.told_to_stop && !self.telling.quiet {
            state.told_to_stop = true;
            self.line(
                &state,
                "stopping: the work in hand is ended properly; interrupt again to stop at once",
            );
        }
        match event {
            Event::StepStarted { step, total_bytes } => self.start(&mut state, step, total_bytes),
            Event::Progress { step, done_bytes } => self.advance(&mut state, step, done_bytes),
            Event::Item { step, name, total_bytes } => self.start_item(&mut state, step, name, total_bytes),
            Event::StepFinished { .. } => self.finish(&mut state),
            Event::Note { text } => {
                if !self.telling.quiet && !self.telling.json && !self.telling.dry_run {
                    self.line(&state, &text);
                }
            }
            Event::Warning { text, hint } => {
                let mut lines = format!("{} {text}", self.palette.paint(Role::Warning, "warning:"));
                if let Some(hint) = hint {
                    lines.push_str(&format!("\n{} {hint}", self.palette.paint(Role::Hint, "hint:")));
                }
                self.line(&state, &lines);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // After a failure a step is still open: its bar must not stay on the screen.
        if let Some(bar) = self.state().current.take().and_then(|current| current.bar) {
            bar.finish_and_clear();
        }
    }
}

fn bar(step: Step, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => {
            "{prefix} {wide_bar} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left"
        }
        None => "{spinner} {prefix}  {msg}{elapsed}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
        .with_style(style)
        .with_prefix(words(step));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn progress_line(step: Step, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let mut line = format!("{}: {}", words(step), size(done));
    if let Some(total) = total.filter(|total| *total > 0) {
        let percent = u128::from(done.min(total)) * 100 / u128::from(total);
        line.push_str(&format!(" of {} ({percent} %)", size(total)));
    }
    if done > 0 && elapsed >= RATE_AFTER {
        let per_second = u64::try_from(u128::from(done) * 1000 / elapsed.as_millis()).unwrap_or(u64::MAX);
        line.push_str(&format!(", {}/s", size(per_second)));
        if let Some(left) = total.and_then(|total| total.checked_sub(done)).filter(|_| per_second > 0) {
            line.push_str(&format!(", {} left", duration(left.div_ceil(per_second))));
        }
    }
    line
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Checkpoint => "waiting for the server's checkpoint",
        Step::Copy => "copying files",
        Step::AwaitWal => "waiting for WAL",
        Step::Commit => "writing the manifest",
        Step::Prove => "proving the target",
        Step::Clear => "removing what does not belong",
        Step::Write => "writing files",
        Step::Sync => "making the files durable",
        Step::Grace => "waiting, so that others see what is to go",
        Step::Remove => "removing what no rule keeps",
        Step::Verify => "verifying",
        Step::Recover => "waiting for recovery",
        Step::Question => "asking the restored server",
        Step::Dump => "dumping",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_bytes_share_rate_and_time_left() {
        let line = progress_line(Step::Copy, 256 << 20, Some(1 << 30), Duration::from_secs(2));
        assert_eq!(line, "copying files: 256 MiB of 1.00 GiB (25 %), 128 MiB/s, 6 s left");
    }

    #[test]
    fn a_line_without_a_total_or_before_a_rate_is_known_is_short() {
        assert_eq!(progress_line(Step::AwaitWal, 0, None, Duration::ZERO), "waiting for WAL: 0 B");
        // The cluster grew while it was copied.
        let line = progress_line(Step::Copy, 2048, Some(1024), Duration::from_secs(2));
        assert_eq!(line, "copying files: 2.00 KiB of 1.00 KiB (100 %), 1.00 KiB/s");
    }
}
