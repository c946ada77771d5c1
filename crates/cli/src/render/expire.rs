//! Results of `expire`, `hold` and `release` for people.

use comfy_table::{Table, presets};
use pgkeep_engine::expire::{ExpireReport, HoldReport, WalDecision};

use super::quantity::{count, moment, size};

/// The result of `expire`: every decision with its rule, then what was done.
pub(crate) fn expire(report: &ExpireReport) -> String {
    let mut text = String::new();
    if report.dry_run {
        text.push_str("dry run: nothing was removed\n");
    }
    if !report.backups.is_empty() {
        text.push_str(if report.dry_run { "\nbackups:\n" } else { "backups:\n" });
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for backup in &report.backups {
            table.add_row([
                backup.id.clone(),
                moment(&backup.finished),
                if backup.keep { "stays" } else { "goes" }.to_owned(),
                backup.rules.join("; "),
            ]);
        }
        text.push_str(&lines_of(&table));
    }
    if !report.dumps.is_empty() {
        text.push_str("\ndumps:\n");
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for dump in &report.dumps {
            table.add_row([
                dump.id.clone(),
                moment(&dump.finished),
                if dump.keep { "stays" } else { "goes" }.to_owned(),
                dump.rules.join("; "),
            ]);
        }
        text.push_str(&lines_of(&table));
    }
    if !report.wal.is_empty() {
        text.push_str("\nWAL:\n");
        for range in &report.wal {
            text.push_str(&format!("  {}\n", wal_words(range, report.wal.iter().any(|w| w.record > 1))));
        }
    }
    for packs in &report.unlisted_packs {
        let what = verb(packs.keep, packs.packs);
        text.push_str(&format!(
            "\n{} ({}) of backup {} {what}: {}\n",
            count(packs.packs, "pack"),
            size(packs.bytes),
            packs.backup,
            packs.reason
        ));
    }
    let sparse = &report.sparse_packs;
    if sparse.packs > 0 {
        text.push_str(&format!(
            "\n{} of {} hold {} that is needed: {}\n",
            count(sparse.packs, "pack"),
            size(sparse.bytes),
            size(sparse.live_bytes),
            sparse.reason
        ));
    }
    text.push_str(&format!("\n{}\n", summary(report)));
    for note in &report.notes {
        text.push_str(&format!("{note}\n"));
    }
    text
}

fn summary(report: &ExpireReport) -> String {
    let dumps = match report.removed_dumps {
        0 => String::new(),
        number => format!("{}, ", count(number, "dump")),
    };
    let what = format!(
        "{}, {dumps}{} ({}) and {}",
        count(report.removed_backups, "backup"),
        count(report.removed_packs, "pack"),
        size(report.freed_bytes),
        count(report.removed_wal_files, "WAL file"),
    );
    let mut text = match (
        report.dry_run,
        report.removed_backups + report.removed_dumps + report.removed_packs + report.removed_wal_files,
    ) {
        (_, 0) => "nothing goes".to_owned(),
        (true, _) => format!("would go: {what}"),
        (false, _) => format!("removed: {what}"),
    };
    if !report.waiting_for.is_empty() {
        let waiting = if report.waiting_bytes > 0 {
            format!("{} of packs and their WAL wait", size(report.waiting_bytes))
        } else {
            "what a running backup may need waits".to_owned()
        };
        text.push_str(&format!("\n{waiting} for {}", report.waiting_for.join(", ")));
    }
    text
}

fn wal_words(range: &WalDecision, with_record: bool) -> String {
    let segments = if range.first == range.last {
        format!("segment {}", range.first)
    } else {
        format!("{} from {} to {}", count(range.segments, "segment"), range.first, range.last)
    };
    let cluster =
        if with_record { format!(" of cluster {}", range.system_identifier) } else { String::new() };
    let what = verb(range.keep, range.segments);
    format!("{segments} on timeline {}{cluster} {what}: {}", range.timeline, range.rule)
}

fn verb(keep: bool, number: u64) -> &'static str {
    match (keep, number) {
        (true, 1) => "stays",
        (false, 1) => "goes",
        (true, _) => "stay",
        (false, _) => "go",
    }
}

/// The table's lines, without blanks at their ends.
fn lines_of(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", format!(" {line}").trim_end())).collect()
}

/// The result of `hold` and `release`.
pub(crate) fn hold(report: &HoldReport) -> String {
    match (report.held, report.reason.as_str()) {
        (true, "") => format!("backup {} is held\n", report.backup),
        (true, reason) => format!("backup {} is held: {reason}\n", report.backup),
        (false, _) => format!("backup {} is not held any more\n", report.backup),
    }
}

#[cfg(test)]
mod tests {
    use pgkeep_engine::TimelineId;
    use pgkeep_engine::expire::{BackupDecision, SparsePacks, UnlistedPacks};

    use super::*;

    fn backup(number: u32, keep: bool, rules: &[&str]) -> BackupDecision {
        BackupDecision {
            id: format!("00000{number}-2026112{number}T091200Z"),
            finished: format!("2026-11-2{number}T09:12:33Z"),
            keep,
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            keeps_later_wal: keep,
            held: false,
            restorable: true,
        }
    }

    fn wal(record: u32, first: &str, last: &str, segments: u64, keep: bool, rule: &str) -> WalDecision {
        WalDecision {
            record,
            system_identifier: 7_412_345_678_901_234_560 + u64::from(record),
            timeline: TimelineId::FIRST,
            first: first.to_owned(),
            last: last.to_owned(),
            segments,
            keep,
            rule: rule.to_owned(),
        }
    }

    #[test]
    fn every_decision_is_shown_with_its_rule() {
        let mut report = ExpireReport {
            stanza: "main".into(),
            dry_run: true,
            backups: vec![
                backup(1, true, &["held: audit"]),
                backup(2, false, &["no rule keeps it"]),
                backup(3, true, &["count: number 1 of the newest 1", "daily: the last of 2026-11-23"]),
            ],
            dumps: vec![],
            wal: vec![
                wal(
                    1,
                    "000000010000000000000001",
                    "000000010000000000000004",
                    4,
                    false,
                    "no kept backup can use it",
                ),
                wal(
                    2,
                    "000000010000000000000005",
                    "000000010000000000000005",
                    1,
                    true,
                    "every moment after backup 3",
                ),
            ],
            unlisted_packs: vec![UnlistedPacks {
                backup: "000004-20261124T091200Z".into(),
                packs: 1,
                bytes: 1 << 20,
                keep: true,
                reason: "the backup may be running".into(),
            }],
            sparse_packs: SparsePacks {
                packs: 2,
                bytes: 512 << 20,
                live_bytes: 3 << 20,
                reason:
                    "less than 25 % of each is needed; they stay, for only a backup rewrites what it needs"
                        .into(),
            },
            removed_backups: 1,
            removed_dumps: 0,
            removed_packs: 3,
            removed_wal_files: 4,
            freed_bytes: 600 << 20,
            waiting_bytes: 0,
            waiting_for: vec!["process 7 on `db2`".into()],
            notes: vec![],
        };
        insta::assert_snapshot!(expire(&report));
        report.dry_run = false;
        report.waiting_bytes = 5 << 20;
        report.wal.clear();
        report.unlisted_packs.clear();
        report.sparse_packs = SparsePacks::default();
        report.notes.push("what a running backup may need goes with the next `pgkeep expire`".into());
        insta::assert_snapshot!(expire(&report));
    }
}
