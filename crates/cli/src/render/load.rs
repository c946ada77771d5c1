//! `load`: its progress on stderr, its plan and result on stdout.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgkeep_engine::Cancel;
use pgkeep_logical::load::{LoadEvent, LoadObserver, LoadOutcome, LoadPlan, LoadReport};

use super::print_error;
use super::progress::Telling;
use super::quantity::{count, duration, size};
use super::style::{Palette, Role};
use super::text::Fields;

/// More tables than this are left to `--json`.
const TABLES_SHOWN: usize = 20;
/// How often a line is written where there is no terminal, and where there is one.
const LINE_INTERVALS: [Duration; 2] = [Duration::from_secs(10), Duration::from_millis(500)];

/// Shows events on stderr.
#[derive(Debug)]
pub(crate) struct LoadProgress {
    telling: Telling,
    is_terminal: bool,
    palette: Palette,
    cancel: Cancel,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Instant,
    last_line: Instant,
    /// Bytes of the archive's data: all, and of the tables that are done.
    stored: u64,
    stored_done: u64,
    steps: usize,
    steps_done: usize,
    /// Bytes of rows that were sent.
    rows: u64,
    running: HashMap<String, Running>,
    told_to_stop: bool,
    /// The line at the bottom of the terminal is ours.
    open_line: bool,
}

#[derive(Debug)]
struct Running {
    began: Instant,
    bytes: u64,
}

impl LoadProgress {
    /// Shows what the load that `cancel` stops is doing.
    pub(crate) fn new(telling: Telling, cancel: Cancel) -> LoadProgress {
        let now = Instant::now();
        LoadProgress {
            telling,
            is_terminal: std::io::stderr().is_terminal(),
            palette: Palette::stderr(),
            cancel,
            state: Mutex::new(State {
                began: now,
                last_line: now,
                stored: 0,
                stored_done: 0,
                steps: 0,
                steps_done: 0,
                rows: 0,
                running: HashMap::new(),
                told_to_stop: false,
                open_line: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere must not silence the messages that explain it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shows_progress(&self) -> bool {
        !self.telling.quiet && !self.telling.json
    }

    fn line(&self, state: &mut State, text: &str) {
        let clear = if std::mem::take(&mut state.open_line) { "\r\x1b[K" } else { "" };
        print_error(&format!("{clear}{text}\n"));
    }

    fn now_and_then(&self, state: &mut State) {
        if !self.shows_progress() || state.last_line.elapsed() < LINE_INTERVALS[usize::from(self.is_terminal)]
        {
            return;
        }
        state.last_line = Instant::now();
        let line = progress_line(state, state.began.elapsed());
        if self.is_terminal {
            print_error(&format!("\r\x1b[K{line}"));
            state.open_line = true;
        } else {
            self.line(state, &line);
        }
    }
}

impl LoadObserver for LoadProgress {
    fn event(&self, event: &LoadEvent<'_>) {
        let mut state = self.state();
        match event {
            LoadEvent::Planned(plan) => {
                state.began = Instant::now();
                state.stored = plan.tables.iter().map(|table| table.stored_bytes).sum();
                state.steps = plan.steps - plan.steps_done_before;
                // Of a set, this is the next database.
                (state.steps_done, state.stored_done, state.rows) = (0, 0, 0);
                state.running.clear();
                if self.shows_progress() && !self.telling.dry_run {
                    self.line(&mut state, &headline(plan));
                }
            }
            LoadEvent::Warning { text, hint } => {
                let mut lines = format!("{} {text}", self.palette.paint(Role::Warning, "warning:"));
                if let Some(hint) = hint {
                    lines.push_str(&format!("\n{} {hint}", self.palette.paint(Role::Hint, "hint:")));
                }
                self.line(&mut state, &lines);
            }
            LoadEvent::Started { step } => {
                state.running.insert((*step).to_owned(), Running { began: Instant::now(), bytes: 0 });
            }
            LoadEvent::Rows { step, bytes } => {
                state.rows = state.rows.saturating_add(*bytes);
                if let Some(running) = state.running.get_mut(*step) {
                    running.bytes = running.bytes.saturating_add(*bytes);
                }
                self.now_and_then(&mut state);
            }
            LoadEvent::Done { step, stored_bytes } => {
                state.steps_done += 1;
                state.stored_done = state.stored_done.saturating_add(*stored_bytes);
                let running = state.running.remove(*step);
                if let Some(running) = running.filter(|_| self.telling.verbose > 0 && self.shows_progress()) {
                    let took = running.began.elapsed().as_secs_f64();
                    let bytes =
                        if running.bytes > 0 { format!("{}, ", size(running.bytes)) } else { String::new() };
                    self.line(&mut state, &format!("{step}: {bytes}took {took:.2} s"));
                }
                self.now_and_then(&mut state);
            }
            LoadEvent::Refused { step, message } => {
                state.running.remove(*step);
                let label = self.palette.paint(Role::Error, "refused:");
                self.line(&mut state, &format!("{label} {}\n  {}", printable(step), indented(message)));
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        let is_cancelled = self.cancel.is_cancelled();
        let mut state = self.state();
        if is_cancelled && !state.told_to_stop && !self.telling.quiet {
            state.told_to_stop = true;
            self.line(&mut state, "stopping: interrupt again to stop at once");
        }
        self.now_and_then(&mut state);
        is_cancelled
    }
}

impl Drop for LoadProgress {
    fn drop(&mut self) {
        if self.state().open_line {
            print_error("\r\x1b[K");
        }
    }
}

/// Names of the archive may hold what moves a cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            if character.is_control() {
                character.escape_default().collect::<Vec<_>>()
            } else {
                vec![character]
            }
        })
        .collect()
}

pub(super) fn indented(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n  ")
}

fn progress_line(state: &State, elapsed: Duration) -> String {
    let mut line = format!("loading: {} of {} steps", state.steps_done, state.steps);
    if state.rows > 0 {
        line.push_str(&format!(", {} of rows", size(state.rows)));
        let per_second = u128::from(state.rows) * 1000 / elapsed.as_millis().max(1);
        line.push_str(&format!(" ({}/s)", size(u64::try_from(per_second).unwrap_or(u64::MAX))));
    }
    if let Some(percent) = (u128::from(state.stored_done) * 100).checked_div(u128::from(state.stored)) {
        line.push_str(&format!(", {percent} % of the archive's data"));
        let left = u128::from(state.stored.saturating_sub(state.stored_done));
        let seconds = (u128::from(elapsed.as_secs()) * left).checked_div(u128::from(state.stored_done));
        if let Some(seconds) = seconds.filter(|seconds| *seconds > 0) {
            line.push_str(&format!(", {} left for it", duration(u64::try_from(seconds).unwrap_or(u64::MAX))));
        }
    }
    // The one that has taken longest is what everything waits for in the end.
    let longest = state.running.iter().min_by_key(|(name, running)| (running.began, *name));
    if let Some((name, running)) = longest {
        line.push_str(&format!("; {}", printable(name)));
        if running.bytes > 0 {
            let per_second = u128::from(running.bytes) * 1000 / running.began.elapsed().as_millis().max(1);
            line.push_str(&format!(
                " {} ({}/s)",
                size(running.bytes),
                size(u64::try_from(per_second).unwrap_or(u64::MAX))
            ));
        }
    }
    line
}

fn headline(plan: &LoadPlan) -> String {
    let verb = if plan.resumes.is_some() { "going on with the load of" } else { "loading" };
    let made = if plan.creates_database { ", which is made" } else { "" };
    format!(
        "{verb} `{}` into `{}`{made}: {}, {}",
        printable(&plan.archive_database),
        printable(&plan.database),
        count(u64::try_from(plan.steps - plan.steps_done_before).unwrap_or(u64::MAX), "step"),
        count(u64::from(plan.jobs), "session")
    )
}

/// The plan, or the result.
pub(crate) fn text(report: &LoadReport) -> String {
    match &report.result {
        None => plan(&report.plan),
        Some(result) => outcome(&report.plan, result),
    }
}

fn plan(plan: &LoadPlan) -> String {
    let mut fields = Fields(Vec::new());
    fields
        .add("archive", format!("of `{}`, made {}", printable(&plan.archive_database), plan.archive_created));
    fields.add("from server", printable(&plan.archive_server));
    let made = match (&plan.resumes, plan.creates_database) {
        (Some(began), _) => format!("load of {began} goes on"),
        (None, true) => "will be made".to_owned(),
        (None, false) => "is there".to_owned(),
    };
    fields.add("database", format!("{} ({made})", printable(&plan.database)));
    let objects: Vec<String> =
        plan.objects.iter().map(|(kind, number)| format!("{number} {}", printable(kind))).collect();
    fields.add("objects", objects.join(", "));
    let stored = plan.tables.iter().map(|table| table.stored_bytes).sum();
    let tables = u64::try_from(plan.tables.len()).unwrap_or(u64::MAX);
    fields.add("rows", format!("{}, {} in the archive", count(tables, "table"), size(stored)));
    fields.add("sessions", plan.jobs.to_string());
    let memory = plan.maintenance_work_mem.map_or_else(|| "as the server has it".to_owned(), size);
    fields.add("index memory", format!("{memory}, each session"));
    fields.add(
        "in two steps",
        format!("{} keys, {} foreign keys", plan.keys_in_steps, plan.foreign_keys_in_steps),
    );
    let done = match plan.steps_done_before {
        0 => String::new(),
        done => format!(", {done} of them done before"),
    };
    fields.add("steps", format!("{}{done}", plan.steps));
    let mut text = format!("this would be done\n{}", fields.show());
    let mut largest = plan.tables.iter().filter(|table| table.stored_bytes > 0).peekable();
    if largest.peek().is_some() {
        text.push_str("\nlargest tables:\n");
        for table in largest.take(TABLES_SHOWN) {
            text.push_str(&format!("  {:>9}  {}\n", size(table.stored_bytes), printable(&table.table)));
        }
    }
    for (title, list) in [("left out", &plan.left_out), ("needed, and not chosen", &plan.needs)] {
        if !list.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
            text.extend(list.iter().map(|line| format!("  {}\n", printable(line))));
        }
    }
    text
}

fn outcome(plan: &LoadPlan, result: &LoadOutcome) -> String {
    let bytes: u64 = result.tables.iter().map(|table| table.bytes).sum();
    let mut fields = Fields(Vec::new());
    fields.add(
        "database",
        format!("{}{}", printable(&plan.database), if plan.creates_database { " (made)" } else { "" }),
    );
    let tables = u64::try_from(result.tables.len()).unwrap_or(u64::MAX);
    fields.add("rows", format!("{}, {}", count(tables, "table"), size(bytes)));
    let before = match result.steps_done_before {
        0 => String::new(),
        done => format!(", {done} were done before"),
    };
    fields.add("steps", format!("{}{before}", result.steps_done));
    fields.add("took", format!("{:.1} s", result.seconds));
    let title = if result.complete { "loaded" } else { "the load is NOT complete" };
    let mut text = format!("{title}\n{}", fields.show());
    for failure in &result.failures {
        text.push_str(&format!(
            "\nrefused: {} (entry {})\n  {}\n  hint: {}\n",
            printable(&failure.step),
            failure.entry,
            indented(&failure.message),
            failure.hint
        ));
    }
    if !result.missing.is_empty() {
        let number = u64::try_from(result.missing.len()).unwrap_or(u64::MAX);
        text.push_str(&format!("\nnot tried: {}\n", count(number, "step")));
        for step in result.missing.iter().take(TABLES_SHOWN) {
            text.push_str(&format!("  {}\n", printable(step)));
        }
        if result.missing.len() > TABLES_SHOWN {
            text.push_str(&format!("  … and {} more, see `--json`\n", result.missing.len() - TABLES_SHOWN));
        }
    }
    if !result.complete {
        text.push_str("\nwhat is done stays: heal the cause, then run the same command with `--resume`\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_steps_rows_rate_share_and_time_left() {
        let now = Instant::now();
        let state = State {
            began: now,
            last_line: now,
            stored: 400,
            stored_done: 100,
            steps: 12,
            steps_done: 3,
            rows: 20 << 20,
            running: HashMap::new(),
            told_to_stop: false,
            open_line: false,
        };
        assert_eq!(
            progress_line(&state, Duration::from_secs(10)),
            "loading: 3 of 12 steps, 20.0 MiB of rows (2.00 MiB/s), 25 % of the archive's data, 30 s left for it"
        );
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }
}
