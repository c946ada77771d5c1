//! What a script said, in the Test Anything Protocol, and the table of all.

use super::totals::Total;
use crate::Failure;

/// How the names of checks that something is in a dump begin, after the name of the run.
const POSITIVE: &str = ": should dump ";

/// The checks of one script.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Score {
    /// Checks that passed.
    pub(super) passed: u64,
    /// Checks that failed.
    pub(super) failed: u64,
    /// Of those passed: something is in a dump.
    pub(super) positive_passed: u64,
    /// Of those failed: something is in a dump.
    pub(super) positive_failed: u64,
    /// Of those passed: not done at all.
    pub(super) skipped: u64,
    /// Whether the script came to its end.
    pub(super) finished: bool,
    /// Why the script did nothing.
    pub(super) skipped_whole: Option<String>,
    /// Names of those failed.
    pub(super) failures: Vec<String>,
}

impl Score {
    /// Counts the lines of a script's output.
    pub(super) fn read(output: &str) -> Score {
        let mut score = Score::default();
        for line in output.lines() {
            if let Some(plan) = line.strip_prefix("1..") {
                score.finished = true;
                if let Some((_, reason)) = plan.split_once('#').filter(|_| plan.starts_with('0')) {
                    score.skipped_whole = Some(reason.trim().to_owned());
                }
                continue;
            }
            let (fine, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
                (Some(rest), _) => (true, rest),
                (_, Some(rest)) => (rest.contains("# TODO"), rest),
                _ => continue,
            };
            let positive = u64::from(rest.contains(POSITIVE));
            if fine {
                score.passed += 1;
                score.positive_passed += positive;
                score.skipped += u64::from(rest.contains("# skip"));
            } else {
                score.failed += 1;
                score.positive_failed += positive;
                score.failures.push(rest.split_once(" - ").map_or(rest, |(_, name)| name).to_owned());
            }
        }
        score
    }
}

/// How a script's run went.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Suite and name.
    pub(super) title: String,
    /// What it said.
    pub(super) score: Score,
    /// What stock passes.
    pub(super) stock: Option<Total>,
    /// How long it took.
    pub(super) seconds: f32,
    /// Anything else to say.
    pub(super) note: Option<String>,
}

impl Outcome {
    /// Checks that there are: those not reached count too.
    pub(super) fn total(&self) -> Total {
        let stock = self.stock.unwrap_or_default();
        Total {
            checks: stock.checks.max(self.score.passed + self.score.failed),
            positive: stock.positive.max(self.score.positive_passed + self.score.positive_failed),
        }
    }

    /// Whether everything passed.
    pub(super) fn whole(&self) -> bool {
        let all = self.total().checks;
        self.score.finished && self.score.skipped_whole.is_none() && all > 0 && self.score.passed == all
    }

    /// Shows the result, and the first of the failed checks.
    pub(super) fn show(&self, names: usize) {
        let verdict = if self.whole() { "ok" } else { "FAILED" };
        let mut text = format!("{}: {}/{} {verdict}", self.title, self.score.passed, self.total().checks);
        if let Some(note) = &self.note {
            text += &format!(" ({note})");
        }
        for name in self.score.failures.iter().take(names) {
            text += &format!("\n    failed: {name}");
        }
        if self.score.failures.len() > names {
            text += &format!("\n    and {} more", self.score.failures.len() - names);
        }
        println!("{text}");
    }
}

/// Prints the table; its last line has the counts. Fails unless every script passed whole.
pub(super) fn summarise(outcomes: &[Outcome]) -> Result<(), Failure> {
    println!(
        "\n{:<34} {:>7} {:>7} {:>7} {:>12} {:>7}",
        "script", "passed", "failed", "total", "should dump", "seconds"
    );
    let (mut passed, mut all, mut positive, mut all_positive) = (0, 0, 0, 0);
    for outcome in outcomes {
        let (score, total) = (&outcome.score, outcome.total());
        println!(
            "{:<34} {:>7} {:>7} {:>7} {:>12} {:>7.1} {}",
            outcome.title,
            score.passed,
            total.checks - score.passed,
            total.checks,
            of(score.positive_passed, total.positive),
            outcome.seconds,
            outcome.note.as_deref().unwrap_or_default()
        );
        passed += score.passed;
        all += total.checks;
        positive += score.positive_passed;
        all_positive += total.positive;
    }
    let whole = outcomes.iter().filter(|outcome| outcome.whole()).count();
    println!("{:<34} {passed:>7} {:>7} {all:>7} {:>12}", "all", all - passed, of(positive, all_positive));
    println!("{whole} of {} scripts passed whole", outcomes.len());
    println!("{passed} passed, {} failed", all - passed);
    if whole == outcomes.len() {
        Ok(())
    } else {
        Err(format!("{} scripts did not pass whole", outcomes.len() - whole).into())
    }
}

fn of(part: u64, all: u64) -> String {
    if all == 0 { "-".to_owned() } else { format!("{part}/{all}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "# a remark\nok 1 - a: pg_dump runs\nok 2 - a: should dump CREATE TABLE t\n\
        not ok 3 - a: should dump CREATE VIEW v\nok 4 - a: should not dump CREATE ROLE r\n\
        ok 5 # skip no lz4\nnot ok 6 - later # TODO some day\n1..6\n";

    #[test]
    fn every_kind_of_line_counts_once() {
        let score = Score::read(OUTPUT);
        assert_eq!((score.passed, score.failed, score.skipped), (5, 1, 1));
        assert_eq!((score.positive_passed, score.positive_failed), (1, 1));
        assert!(score.finished);
        assert_eq!(score.failures, ["a: should dump CREATE VIEW v"]);
    }

    #[test]
    fn a_script_that_dies_has_not_passed() {
        let died = |output: &str, checks| Outcome {
            title: "s/1".to_owned(),
            score: Score::read(output),
            stock: Some(Total { checks, positive: 0 }),
            seconds: 0.0,
            note: None,
        };
        assert!(!died("ok 1 - a\n", 1).whole(), "no plan: it did not come to its end");
        assert!(!died("ok 1 - a\n1..1\n", 2).whole(), "fewer checks than stock has");
        assert!(died("ok 1 - a\nok 2 - b\n1..2\n", 2).whole());
        assert!(!died("1..0 # SKIP no reason\n", 0).whole(), "nothing was checked");
        assert_eq!(died("ok 1 - a\n", 7).total().checks, 7);
    }
}
