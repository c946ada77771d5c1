//! `cargo xtask test`: everything that must hold before a change is merged. CI calls this and nothing else.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use pgkeep_testkit::{cache_root, project_root};

use crate::{Failure, servers};

/// The test runner that is installed when none is here.
const NEXTEST_VERSION: &str = "0.9.143";

/// What to leave out, for a quicker look.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only run tests: no format, lint or documentation check
    #[arg(long)]
    only_tests: bool,
    /// Handed to the test runner, such as a test's name
    filters: Vec<String>,
}

/// How many tests did what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// One step's name and how it went.
struct Step {
    name: &'static str,
    passed: bool,
    seconds: f32,
}

/// Runs every step, also after one failed, so that one run tells everything.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut steps = Vec::new();
    step(&mut steps, "servers", || servers::ensure().map(|_| ()))?;
    if !options.only_tests {
        let checks: [(&str, &[&str]); 3] = [
            ("format", &["fmt", "--all", "--check"]),
            ("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
            // Nobody reads these pages but those who work on the program, so private items are part of them.
            ("documentation", &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]),
        ];
        for (name, arguments) in checks {
            // Every step is tried; the summary says what failed.
            step(&mut steps, name, || {
                succeed(
                    cargo(arguments).env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
                )
            })
            .unwrap_or(());
        }
    }
    let mut counts = Counts::default();
    let tests = if let Some(path) = nextest() {
        with_nextest(path)
    } else {
        cargo(&["test", "--no-fail-fast", "--lib", "--bins", "--tests"])
    };
    step(&mut steps, "tests", || count(tests, &["--workspace", "--locked"], &options.filters, &mut counts))
        .unwrap_or(());
    if options.filters.is_empty() {
        let examples = cargo(&["test", "--doc"]);
        step(&mut steps, "examples in the documentation", || {
            count(examples, &["--workspace", "--locked"], &[], &mut counts)
        })
        .unwrap_or(());
    }
    summarise(&steps, counts)
}

fn step(
    steps: &mut Vec<Step>,
    name: &'static str,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    println!("== {name}");
    let begin = Instant::now();
    let result = work();
    if let Err(failure) = &result {
        println!("== {name} FAILED: {failure}");
    }
    steps.push(Step { name, passed: result.is_ok(), seconds: begin.elapsed().as_secs_f32() });
    result
}

/// Last on standard output, with the counts in its last line.
fn summarise(steps: &[Step], counts: Counts) -> Result<(), Failure> {
    println!("\n== summary");
    for step in steps {
        println!("{:<30} {:>6.1} s  {}", step.name, step.seconds, if step.passed { "ok" } else { "FAILED" });
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    let failed: Vec<&str> = steps.iter().filter(|step| !step.passed).map(|step| step.name).collect();
    if !failed.is_empty() {
        return Err(format!("failed: {}", failed.join(", ")).into());
    }
    if counts.failed > 0 {
        return Err(format!("{} tests failed", counts.failed).into());
    }
    if counts.passed == 0 {
        return Err("no test ran".into());
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(project_root());
    // Set by `cargo run` for this very program; the cargo below must not take it for its own.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command
}

fn succeed(command: &mut Command) -> Result<(), Failure> {
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}").replace('"', "").into())
    }
}

/// The folder of cargo-nextest, installed on first use; `None` when that fails and `cargo test` must do.
fn nextest() -> Option<Option<PathBuf>> {
    let works = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    if works(&mut cargo(&["nextest", "--version"])) {
        return Some(None);
    }
    let root = cache_root().join("tools");
    if !root.join("bin/cargo-nextest").exists() {
        println!("cargo-nextest is not here: building it once, which takes some minutes");
        let mut install =
            cargo(&["install", "--locked", "cargo-nextest", "--version", NEXTEST_VERSION, "--root"]);
        if succeed(install.arg(&root)).is_err() {
            println!("cargo-nextest could not be installed: going on with `cargo test`");
            return None;
        }
    }
    Some(Some(root.join("bin")))
}

fn with_nextest(folder: Option<PathBuf>) -> Command {
    let mut command = cargo(&["nextest", "run", "--profile", "ci"]);
    if let Some(folder) = folder {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
        if let Ok(joined) = std::env::join_paths(folders) {
            command.env("PATH", joined);
        }
    }
    command
}

/// Runs tests, passing their output on and adding up what it says.
fn count(
    mut command: Command,
    arguments: &[&str],
    filters: &[String],
    counts: &mut Counts,
) -> Result<(), Failure> {
    // One pipe for both: nextest reports on standard error, `cargo test` on standard output.
    let (reader, writer) = std::io::pipe()?;
    command.args(arguments).args(filters).stdin(Stdio::null());
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // Its copies of the pipe's writing end would keep the reader waiting for ever.
    drop(command);
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        counts.add(counts_in(&line));
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("the test runner ended with {status}").into()) }
}

/// Reads the summary line of nextest (`Summary [ 1.0s] 3 tests run: 2 passed (1 slow), 1 failed, 4 skipped`) or of
/// libtest (`test result: ok. 2 passed; 1 failed; 4 ignored; …`). A test that timed out has failed.
fn counts_in(line: &str) -> Counts {
    let mut counts = Counts::default();
    // What nextest repeats of a failed test is indented: a libtest summary among it counts for nothing.
    let report = if let Some(rest) = line.trim_start().strip_prefix("Summary [") {
        rest.split_once("run:").map_or("", |(_, report)| report)
    } else if let Some(rest) = line.strip_prefix("test result: ") {
        rest.split_once(". ").map_or("", |(_, report)| report)
    } else {
        ""
    };
    for part in report.split([',', ';']) {
        let mut words = part.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        match words.next() {
            Some("passed") => counts.passed += number,
            Some("failed" | "timed" | "exec") => counts.failed += number,
            Some("skipped" | "ignored") => counts.skipped += number,
            _ => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Counts, count, counts_in, summarise};

    #[test]
    fn what_a_runner_prints_is_counted_and_its_failure_reported() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]);
            let mut counts = Counts::default();
            let result = count(command, &["--workspace"], &["filter".to_owned()], &mut counts);
            (result.map_err(|failure| failure.to_string()), counts)
        };
        let both = "echo '  Summary [ 1.0s] 3 tests run: 3 passed, 0 skipped' >&2; echo 'test result: ok. 2 passed; 0 failed'";
        assert_eq!(run(both), (Ok(()), Counts { passed: 5, failed: 0, skipped: 0 }));
        let broken = "echo 'Summary [ 1.0s] 2 tests run: 1 passed, 1 failed, 0 skipped'; exit 100";
        let (result, counts) = run(broken);
        assert_eq!(counts, Counts { passed: 1, failed: 1, skipped: 0 });
        assert!(result.unwrap_err().contains("100"));
        assert_eq!(run("[ \"$*\" = '--workspace filter' ]").0, Ok(()));
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        assert_eq!(summarise(&[], Counts::default()).unwrap_err().to_string(), "no test ran");
        let passed = Counts { passed: 1, ..Counts::default() };
        assert!(summarise(&[], passed).is_ok());
        assert!(summarise(&[], Counts { failed: 1, ..passed }).is_err());
        let step = super::Step { name: "lints", passed: false, seconds: 0.0 };
        assert_eq!(summarise(&[step], passed).unwrap_err().to_string(), "failed: lints");
    }

    #[test]
    fn both_runners_summaries_are_read() {
        let nextest =
            "     Summary [  91.764s] 12 tests run: 10 passed (2 slow), 1 failed, 1 timed out, 3 skipped";
        assert_eq!(counts_in(nextest), Counts { passed: 10, failed: 2, skipped: 3 });
        let libtest = "test result: FAILED. 5 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(counts_in(libtest), Counts { passed: 5, failed: 1, skipped: 2 });
    }

    #[test]
    fn other_lines_count_nothing() {
        assert_eq!(counts_in("        PASS [   1.0s] engine 3 passed, 2 failed"), Counts::default());
        assert_eq!(counts_in(""), Counts::default());
    }
}
