//! How many checks stock PostgreSQL passes in each script on this machine, kept in the cache folder.
//!
//! What is built into the server decides which checks there are, so they are measured and not written down.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use pgkeep_testkit::cache_root;

use super::result::Outcome;
use super::script::Script;
use super::source::Source;
use crate::Failure;

/// The checks of one script.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Total {
    /// All of them.
    pub(super) checks: u64,
    /// Those that something is in a dump.
    pub(super) positive: u64,
}

/// Totals by suite and name of the script.
#[derive(Debug)]
pub(super) struct Totals {
    file: PathBuf,
    known: BTreeMap<String, Total>,
}

impl Totals {
    /// Those measured before with these scripts.
    pub(super) fn read(source: &Source) -> Totals {
        let file = cache_root().join("tap").join(format!("stock-{}.tsv", source.version));
        let text = fs::read_to_string(&file).unwrap_or_default();
        Totals { file, known: text.lines().filter_map(parse).collect() }
    }

    /// Of one script.
    pub(super) fn of(&self, script: &Script) -> Option<Total> {
        self.known.get(&script.title()).copied()
    }

    /// Keeps what stock passed. Fails when stock did not pass: the machine is not fit to judge pgkeep then.
    pub(super) fn note(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        let score = &outcome.score;
        if !score.finished || score.failed > 0 || score.passed == 0 {
            return Err(format!(
                "stock PostgreSQL does not pass {} here, so it can say nothing about pgkeep; see the logs in {}",
                outcome.title,
                cache_root().join("tap/run").display()
            )
            .into());
        }
        let total = Total { checks: score.passed, positive: score.positive_passed };
        self.known.insert(outcome.title.clone(), total);
        let lines: String = self
            .known
            .iter()
            .map(|(title, total)| format!("{title}\t{}\t{}\n", total.checks, total.positive))
            .collect();
        let staging = self.file.with_extension("new");
        fs::write(&staging, lines)?;
        fs::rename(&staging, &self.file)?;
        Ok(())
    }
}

fn parse(line: &str) -> Option<(String, Total)> {
    let mut fields = line.split('\t');
    let title = fields.next()?.to_owned();
    Some((title, Total { checks: fields.next()?.parse().ok()?, positive: fields.next()?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_three_fields() {
        let total = Total { checks: 1044, positive: 237 };
        assert_eq!(
            parse("test_pg_dump/001_base\t1044\t237"),
            Some(("test_pg_dump/001_base".to_owned(), total))
        );
        assert_eq!(parse("test_pg_dump/001_base\t1044"), None);
    }
}
