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
    if !report.wal.is_empty() {
        text.push_str("\nWAL:\n");
        for range in &report.wal {
            text.push_str(&format!("  {}\n", wal_words(range, report.wal.iter().any(|w| w.record > 1))));
        }
    }
    for packs in &report.unlisted_packs {
        let what = if packs.keep { "stay" } else { "go" };
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
    let what = format!(
        "{}, {} ({}) and {}",
        count(report.removed_backups, "backup"),
        count(report.removed_packs, "pack"),
        size(report.freed_bytes),
        count(report.removed_wal_files, "WAL file"),
    );
    let mut text = match (report.dry_run, report.removed_backups + report.removed_packs + report.removed_wal_files) {
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
    let cluster = if with_record { format!(" of cluster {}", range.system_identifier) } else { String::new() };
    let what = if range.segments == 1 {
        if range.keep { "stays" } else { "goes" }
    } else if range.keep {
        "stay"
    } else {
        "go"
    };
    format!("{segments} on timeline {}{cluster} {what}: {}", range.timeline, range.rule)
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
