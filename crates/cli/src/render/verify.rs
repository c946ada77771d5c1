//! The results of `verify` for people, and what `list` and `show` say of them.

use pgkeep_engine::drill::{DrillReport, LastDrill};
use pgkeep_engine::verify::{BackupVerification, Damage, DamageKind, DamagedFile, VerifyReport};

use super::quantity::{count, moment, size};
use super::text::{Fields, window_words};

/// More than this of anything is left to `--json`.
const SHOWN: usize = 20;
/// More ranges of blocks of one file are left to `--json`.
const RANGES_SHOWN: usize = 5;

fn damaged_places(report: &VerifyReport) -> u64 {
    let dumps: usize = report.dumps.iter().map(|dump| dump.damage.len()).sum();
    (report.damage.len() + dumps) as u64 + report.damage_not_listed
}

/// The result of `verify`.
pub(crate) fn verify(report: &VerifyReport) -> String {
    if report.dry_run {
        let mut text = "dry run: nothing was read\n".to_owned();
        if report.plan.is_empty() {
            text.push_str("\nthere is nothing to verify\n");
        } else {
            text.push_str("\nwould be verified, in this order:\n");
            text.push_str(&listed(report.plan.iter().map(|line| format!("  {line}\n"))));
        }
        return text;
    }
    let head = match (report.ok, report.interrupted) {
        (false, _) => format!("{} in the repository\n", count(damaged_places(report), "damaged place")),
        (true, true) => "stopped before the end; no damage so far\n".to_owned(),
        (true, false) => "no damage was found\n".to_owned(),
    };
    let done = &report.verified;
    let mut fields = Fields(Vec::new());
    fields.add(
        "manifests",
        format!("{}, with the maps of {}", count(done.backups, "backup"), count(done.files, "file")),
    );
    fields.add("packs", format!("{} in {}", count(done.frames, "frame"), count(done.packs, "pack")));
    fields.add("pages", format!("{} with a checksum", count(done.pages, "page")));
    fields.add("WAL", count(done.wal_files, "file"));
    fields.add("read", size(done.read_bytes));
    fields.add("verified ever", coverage(report));
    if let Some(oldest) = &report.coverage.oldest {
        fields.add("oldest", moment(oldest));
    }
    let mut text = format!("{head}{}", fields.show());
    if !report.damage.is_empty() {
        text.push_str("\ndamaged:\n");
        text.push_str(&listed(report.damage.iter().map(damage_words)));
    }
    if !report.dumps.is_empty() {
        text.push_str(&format!("\n{}", super::dump::verified(&report.dumps)));
    }
    if report.damage_not_listed > 0 {
        text.push_str(&format!("  … and {} more places\n", report.damage_not_listed));
    }
    if !report.healed.is_empty() {
        text.push_str("\ndamaged before and sound now:\n");
        text.push_str(&listed(report.healed.iter().map(|place| format!("  {place}\n"))));
    }
    if !report.ok {
        text.push_str(&leftover(report));
    }
    if let Some(error) = &report.not_stored {
        text.push_str(&format!(
            "\nthe result is not kept in the repository, and will not be remembered: {error}\n"
        ));
    }
    text
}

/// What still restores, and what to do.
fn leftover(report: &VerifyReport) -> String {
    let mut text = String::new();
    if !report.damaged_backups.is_empty() {
        text.push_str(&format!("\ndo not restore whole: {}\n", names(&report.damaged_backups)));
    }
    if report.good_backups.is_empty() {
        text.push_str("\nno backup restores: take a new one now: `pgkeep backup`\n");
    } else {
        text.push_str(&format!("\nstill restore: {}\n", names(&report.good_backups)));
    }
    if report.good_windows.is_empty() {
        text.push_str("\nrecoverable all the same: nothing\n");
    } else {
        text.push_str("\nrecoverable all the same:\n");
        text.push_str(&listed(
            report.good_windows.iter().map(|window| format!("  {}\n", window_words(window))),
        ));
    }
    text.push_str(
        "\nnext:\n  \
         restore the damaged objects from a copy of the repository, if there is one, and verify again\n  \
         take a new backup, and look at the disk beneath the repository\n",
    );
    text
}

fn coverage(report: &VerifyReport) -> String {
    let coverage = &report.coverage;
    let percent =
        |part: u64, whole: u64| (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(100);
    format!(
        "{} % of {} of packs, {} of {}",
        percent(coverage.verified_pack_bytes, coverage.pack_bytes),
        size(coverage.pack_bytes),
        coverage.verified_wal_segments,
        count(coverage.wal_segments, "WAL segment")
    )
}

fn damage_words(damage: &Damage) -> String {
    let place = match damage.offset {
        Some(offset) => format!("{} at offset {offset}", damage.object),
        None => damage.object.clone(),
    };
    let kind = match damage.kind {
        DamageKind::Missing => "missing",
        DamageKind::Unreadable => "unreadable",
        DamageKind::Corrupt => "corrupt",
        DamageKind::Mismatch => "contradiction",
        DamageKind::BadPages => "bad pages",
    };
    let mut text = format!("  {place}\n    {kind}: {}\n", damage.what);
    text.push_str(&listed(damage.files.iter().map(|file| format!("    file {}\n", file_words(file)))));
    if damage.files_not_listed > 0 {
        text.push_str(&format!("    … and {} more files\n", damage.files_not_listed));
    }
    if damage.backups.is_empty() {
        text.push_str("    no backup needs these bytes to be restored\n");
    } else {
        text.push_str(&format!("    needed by {}\n", names(&damage.backups)));
    }
    for window in damage.windows.iter().take(SHOWN) {
        text.push_str(&format!(
            "    touches the window from {} to {} on timeline {}, with backup {}\n",
            window.from_lsn, window.to_lsn, window.timeline, window.backup
        ));
    }
    text
}

fn file_words(file: &DamagedFile) -> String {
    let mut blocks: Vec<String> = file
        .blocks
        .iter()
        .take(RANGES_SHOWN)
        .map(|range| match range.first == range.last {
            true => range.first.to_string(),
            false => format!("{} to {}", range.first, range.last),
        })
        .collect();
    if file.blocks.len() > RANGES_SHOWN {
        blocks.push("…".to_owned());
    }
    let relation = match (file.tablespace, file.database, file.relfilenode) {
        (Some(tablespace), Some(database), Some(number)) => {
            format!(" (tablespace {tablespace}, database {database}, relfilenode {number})")
        }
        _ => String::new(),
    };
    format!("{}, blocks {}{relation}", file.path, blocks.join(", "))
}

fn names(ids: &[String]) -> String {
    let mut shown: Vec<&str> = ids.iter().take(SHOWN).map(String::as_str).collect();
    if ids.len() > SHOWN {
        shown.push("…");
    }
    shown.join(", ")
}

fn listed(lines: impl ExactSizeIterator<Item = String>) -> String {
    let more = lines.len().saturating_sub(SHOWN);
    let mut text: String = lines.take(SHOWN).collect();
    if more > 0 {
        text.push_str(&format!("  … and {more} more: `--json` tells all\n"));
    }
    text
}

/// The result of a drill.
pub(crate) fn drill(report: &DrillReport) -> String {
    let head = match (report.dry_run, report.ok) {
        (true, _) => "dry run: nothing was restored; the target can be reached\n",
        (false, true) => "the drill succeeded: this backup restores, starts and answers\n",
        (false, false) => "the drill FAILED\n",
    };
    let mut fields = Fields(Vec::new());
    fields.add("backup", format!("{}: {}", report.backup, report.backup_reason));
    fields.add("target", report.proof.description.clone());
    fields.add("server", format!("PostgreSQL {}", super::quantity::server_version(report.server_version)));
    if let Some(seconds) = report.time_to_first_query_seconds {
        fields.add("first answer", format!("{seconds:.1} s after the beginning of the restore"));
    }
    for phase in &report.phases {
        let name = match phase.phase.as_str() {
            "prove" => "  proving the target",
            "restore" => "  restoring files",
            "consistency" => "  until consistent",
            "target" => "  until the target",
            "questions" => "  statements",
            "amcheck" => "  pg_amcheck",
            _ => "  stopping",
        };
        fields.add(name, format!("{:.1} s", phase.seconds));
    }
    if let Some(lsn) = &report.replay_end {
        fields.add("replay ended", lsn.clone());
    }
    let failed: Vec<_> = report.assertions.iter().filter(|assertion| !assertion.ok).collect();
    if !report.assertions.is_empty() {
        let good = report.assertions.len() - failed.len();
        fields.add("statements", format!("{good} of {} as they should be", report.assertions.len()));
    }
    if let Some(amcheck) = &report.amcheck {
        fields.add("pg_amcheck", if amcheck.ok { "found nothing" } else { "found something, or failed" });
    }
    let mut text = format!("{head}{}", fields.show());
    if report.dry_run {
        text.push_str("\nthe scratch server would have, over the cluster's own configuration:\n");
        for setting in &report.overrides {
            text.push_str(&format!("  {} = '{}'    # {}\n", setting.name, setting.value, setting.why));
        }
    }
    if let Some(failure) = &report.failure {
        text.push_str(&format!("\nfailed: {}\nhint: {}\n", failure.message, failure.hint));
        if !failure.log.is_empty() {
            text.push_str("\nthe end of the server's log:\n");
            text.extend(failure.log.iter().map(|line| format!("  {line}\n")));
        }
    }
    if !failed.is_empty() {
        text.push_str("\nstatements that failed:\n");
        text.push_str(&listed(failed.iter().map(|assertion| {
            let problem = assertion.problem.as_deref().unwrap_or("failed");
            format!("  line {}: {}\n    {problem}\n", assertion.line, assertion.statement.replace('\n', " "))
        })));
    }
    if let Some(amcheck) = report.amcheck.as_ref().filter(|amcheck| !amcheck.ok) {
        text.push_str("\npg_amcheck said:\n");
        text.extend(amcheck.output.iter().map(|line| format!("  {line}\n")));
    }
    if let Some(error) = &report.not_stored {
        text.push_str(&format!("\nthe result is not kept in the repository: {error}\n"));
    }
    text
}

/// The column of `list`.
pub(super) fn verified_cell(verified: Option<&BackupVerification>) -> String {
    match verified {
        None => "never".to_owned(),
        Some(verified) if verified.damaged => "damaged".to_owned(),
        Some(verified) => {
            let day = verified.at.get(..10).unwrap_or(&verified.at);
            format!("{} % since {day}", verified.share_percent)
        }
    }
}

/// The line of `show`.
pub(super) fn verified_words(verified: Option<&BackupVerification>) -> String {
    match verified {
        None => "never: `pgkeep verify` does it".to_owned(),
        Some(verified) => format!(
            "{} % of it since {}{}",
            verified.share_percent,
            moment(&verified.at),
            if verified.damaged { ", damaged" } else { "" }
        ),
    }
}

/// What `show` says of the last drill.
pub(super) fn drill_words(drill: &LastDrill) -> String {
    let when = moment(&drill.at);
    match (drill.ok, drill.seconds) {
        (true, Some(seconds)) => {
            format!("succeeded on {when}, first answer after {}", super::quantity::duration(seconds))
        }
        (true, None) => format!("succeeded on {when}"),
        (false, _) => format!("FAILED on {when}"),
    }
}

/// What `list` says of damage that is known.
pub(super) fn known_damage(damage: &[Damage]) -> String {
    if damage.is_empty() {
        return String::new();
    }
    let lines = damage.iter().map(|damage| {
        let needed = match damage.backups.as_slice() {
            [] => String::new(),
            backups => format!(", needed by {}", names(backups)),
        };
        format!("  {}: {}{needed}\n", damage.object, damage.what)
    });
    format!("\ndamage that `pgkeep verify` found:\n{}", listed(lines))
}
