//! The table that goes into `docs/benchmarks.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::gib;
use super::measure::Measured;

/// The tools that others are compared with, the first one that a step has.
const REFERENCES: [&str; 7] = [
    "pgBackRest",
    "pg_basebackup",
    "pg_dump",
    "pg_restore",
    "pg_verifybackup",
    "pg_combinebackup",
    "pg_receivewal",
];

/// Prints the median round of each step and tool, with ratios to pgBackRest, or without it to the stock
/// tool of that step.
pub(super) fn render(machine: &str, results: &[Measured]) -> String {
    let mut groups: BTreeMap<(&str, &str), Vec<&Measured>> = BTreeMap::new();
    for result in results {
        groups.entry((&result.step, result.tool)).or_default().push(result);
    }
    let medians: Vec<&Measured> = groups.values_mut().filter_map(|rounds| median(rounds)).collect();
    let mut text = format!("{machine}\n\n");
    text.push_str("| step | tool | wall s | cpu s | server cpu s | cpu s/GiB | peak MiB | stored MiB | wall ratio | cpu ratio |\n");
    text.push_str("| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n");
    for row in &medians {
        let reference = REFERENCES
            .iter()
            .find_map(|tool| medians.iter().find(|other| other.step == row.step && other.tool == *tool));
        let ratio = |value: fn(&Measured) -> f64| {
            reference.map_or_else(|| "–".to_owned(), |other| format!("{:.2}", value(row) / value(other)))
        };
        writeln!(
            text,
            "| {} | {} | {:.3} | {:.3} | {:.2} | {:.2} | {:.0} | {:.1} | {} | {} |",
            row.step,
            row.tool,
            row.wall.as_secs_f64(),
            row.cpu,
            row.server_cpu,
            total_cpu(row) / gib(row.handled.max(1)),
            gib(row.peak_kib * 1024) * 1024.0,
            gib(row.stored) * 1024.0,
            ratio(|row| row.wall.as_secs_f64()),
            ratio(total_cpu),
        )
        .expect("a string takes it");
    }
    text
}

fn total_cpu(row: &Measured) -> f64 {
    row.cpu + row.server_cpu
}

/// The round in the middle by CPU time, the steadier of the two.
fn median<'a>(rounds: &mut [&'a Measured]) -> Option<&'a Measured> {
    rounds.sort_by(|left, right| total_cpu(left).total_cmp(&total_cpu(right)));
    rounds.get(rounds.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Measured, render};

    #[test]
    fn the_median_round_is_shown_with_its_ratio() {
        let row = |tool, cpu| Measured {
            step: "full backup".to_owned(),
            tool,
            wall: Duration::from_secs(2),
            cpu,
            server_cpu: 0.0,
            peak_kib: 2048,
            stored: 1 << 20,
            handled: 1 << 30,
        };
        let results = [row("pgkeep", 1.0), row("pgkeep", 9.0), row("pgkeep", 2.0), row("pgBackRest", 4.0)];
        let table = render("here", &results);
        assert!(
            table.contains("| full backup | pgkeep | 2.000 | 2.000 | 0.00 | 2.00 | 2 | 1.0 | 1.00 | 0.50 |"),
            "{table}"
        );
    }
}
