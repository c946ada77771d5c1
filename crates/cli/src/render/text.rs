//! Results for people, on stdout: one function for each report. Programs read `--json` instead; this text may change.

use comfy_table::{CellAlignment, Table, presets};
use pgkeep_engine::backup::{BackupReport, BadPages, SourceKind, WalMode};
use pgkeep_engine::check::{CheckReport, Outcome};
use pgkeep_engine::init::{InitReport, SettingFinding};
use pgkeep_engine::list::{BackupSummary, Gap, ListReport, ShowReport, Window};
use pgkeep_engine::restore::{DeltaReport, RestoreReport};

use super::quantity::{count, exact_moment, exact_size, moment, server_version, size};
use super::style::{Palette, Role};

/// More bad files than this are left to `--json`.
const BAD_FILES_SHOWN: usize = 20;
/// More bad blocks of one file than this are left to `--json`.
const BAD_BLOCKS_SHOWN: usize = 10;

/// Lines of `name   value`, the values below each other.
pub(super) struct Fields(pub(super) Vec<(&'static str, String)>);

impl Fields {
    pub(super) fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    pub(super) fn show(&self) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.0.iter().map(|(name, value)| format!("  {name:width$}  {value}\n")).collect()
    }
}

/// The result of `init`.
pub(crate) fn init(report: &InitReport, repository: &str, stanza: &str) -> String {
    let done = |made: bool| if made { "made" } else { "was there already" };
    let mut fields = Fields(Vec::new());
    fields.add("repository", format!("{repository} ({})", done(report.created_repository)));
    fields.add("stanza", format!("{stanza} ({})", done(report.created_stanza)));
    fields.add(
        "cluster",
        format!("{}, PostgreSQL {}", report.system_identifier, server_version(report.server_version)),
    );
    let mut text = format!("stanza `{stanza}` is ready for backups\n{}", fields.show());

    let (applied, open): (Vec<_>, Vec<_>) = report.settings.iter().partition(|setting| setting.applied);
    if !applied.is_empty() {
        text.push_str("\nset on the server:\n");
        text.push_str(&setting_lines(&applied));
    }
    if !open.is_empty() {
        text.push_str(
            "\nbackups work already; to archive WAL too, and so recover to any moment, put this into postgresql.conf\n",
        );
        let all_can_be_set = open.iter().all(|setting| setting.can_be_set);
        text.push_str(if all_can_be_set { "(`pgkeep init --apply` does it):\n" } else { "by hand:\n" });
        text.push_str(&setting_lines(&open));
    }
    if report.restart_needed || open.iter().any(|setting| setting.needs_restart) {
        text.push_str("\nthen restart the server: some of these take effect only at its start\n");
    } else if !open.is_empty() {
        text.push_str("\nthen reload the configuration: `select pg_reload_conf()`\n");
    }
    text.push_str(if report.settings.is_empty() && !report.restart_needed {
        "\nthe server's settings are right for archiving; `pgkeep check` tries it out\n"
    } else {
        "\n`pgkeep check` then tries it out\n"
    });
    text
}

/// The lines for `postgresql.conf`, each with what stands there now and what else is to be known.
fn setting_lines(settings: &[&SettingFinding]) -> String {
    let mut lines = String::new();
    for setting in settings {
        let current = if setting.current.is_empty() { "empty" } else { setting.current.as_str() };
        let was = if setting.applied { "was" } else { "is" };
        lines.push_str(&format!("  {}    # {was} {current}\n", setting.line));
        if let Some(note) = &setting.note {
            lines.push_str(&format!("    {note}\n"));
        }
    }
    lines
}

/// A value as `postgresql.conf` wants it.
fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// The result of `backup`.
pub(crate) fn backup(report: &BackupReport) -> String {
    let mut fields = Fields(Vec::new());
    fields.add("cluster", format!("{} in {}", size(report.size_bytes), count(report.files, "file")));
    if report.id.is_some() {
        fields.add("stored", stored(report.stored_bytes, report.size_bytes));
    }
    fields.add("type", because(&backup_type(report), &report.type_reason));
    if report.parent.is_some() && report.id.is_some() {
        fields.add("read", format!("{} of the cluster: {}", size(report.read_bytes), report.changes_reason));
        fields.add(
            "changed",
            format!("{}, {} unchanged", size(report.new_bytes), count(report.unchanged_files, "file")),
        );
    }
    if report.reused_bytes > 0 {
        fields.add("resumed", format!("{} that an interrupted backup had stored", size(report.reused_bytes)));
    }
    fields.add("source", because(source(report.source), &report.source_reason));
    fields.add("WAL", because(wal(report.wal), &report.wal_reason));
    if let (Some(start), Some(stop), Some(timeline)) = (report.start_lsn, report.stop_lsn, report.timeline) {
        fields.add("range", format!("{start} to {stop} on timeline {timeline}"));
    }
    fields.add("started", moment(&report.started));
    if let Some(finished) = &report.finished {
        fields.add("finished", moment(finished));
    }
    if report.vanished_files > 0 {
        fields.add(
            "vanished",
            format!("{} that the server removed meanwhile", count(report.vanished_files, "file")),
        );
    }
    if report.id.is_some() {
        fields.add("page checks", checksums(report.checksums_verified, &report.bad_pages));
    }
    let head = match &report.id {
        Some(id) => format!("backup {id} is complete\n"),
        None => "dry run: nothing was written\n".to_owned(),
    };
    format!("{head}{}{}", fields.show(), bad_pages(&report.bad_pages))
}

/// `full`, or what it builds on.
fn backup_type(report: &BackupReport) -> String {
    match &report.parent {
        Some(parent) => format!("{}, builds on {parent}", report.kind.name()),
        None => report.kind.name().to_owned(),
    }
}

/// Names of removed entries that a text shows where nobody asked for more.
const REMOVED_SHOWN: usize = 5;

/// The result of `restore`; `verbose` shows more names of what was removed.
pub(crate) fn restore(report: &RestoreReport, verbose: bool) -> String {
    let destination = report.destination.display();
    let proof = &report.proof;
    let mut fields = Fields(Vec::new());
    fields.add("backup", because(&report.backup, &report.backup_reason));
    fields.add("target", proof.description.clone());
    if let Some(utc) = &proof.target_time_utc {
        fields.add("in UTC", exact_moment(utc));
    }
    if let Some(lsn) = proof.stop_lsn {
        fields.add("replay ends", lsn.to_string());
    }
    let timelines: Vec<String> = proof.timelines.iter().map(ToString::to_string).collect();
    if !timelines.is_empty() {
        fields.add("timelines", timelines.join(", then "));
    }
    if let (Some(first), Some(last)) = (&proof.wal_first, &proof.wal_last) {
        fields
            .add("WAL", format!("{first} to {last}, {}, none missing", count(proof.wal_segments, "segment")));
    }
    fields.add("files", format!("{} in {}", size(report.size_bytes), count(report.files, "file")));
    if report.read_bytes > 0 {
        fields.add("read", format!("{} of the repository", size(report.read_bytes)));
    }
    if let Some(delta) = &report.delta {
        delta_fields(&mut fields, delta, report.dry_run, verbose);
    }
    for (oid, place) in &report.tablespaces {
        fields.add("tablespace", format!("{oid} in {}", place.display()));
    }
    // An empty one only undoes what the source's own files may say.
    for (name, value) in report.recovery_settings.iter().filter(|(_, value)| !value.is_empty()) {
        fields.add("setting", format!("{name} = {}", literal(value)));
    }
    let head = if report.dry_run {
        format!("dry run: nothing was written to {destination}; the target can be reached\n")
    } else {
        format!("restored to {destination}\n")
    };
    let mut text = format!("{head}{}", fields.show());
    if !report.next_steps.is_empty() {
        text.push_str("\nnext:\n");
        for step in &report.next_steps {
            text.push_str(&format!("  {step}\n"));
        }
    }
    text
}

fn delta_fields(fields: &mut Fields, delta: &DeltaReport, dry_run: bool, verbose: bool) {
    fields.add("found", delta.found.replace('_', " "));
    let (compared, removed) = if dry_run { ("to compare", "to remove") } else { ("compared", "removed") };
    let blocks = if dry_run {
        String::new()
    } else {
        let zeroed = if delta.zeroed_blocks > 0 {
            format!(", {} made zeros", delta.zeroed_blocks)
        } else {
            String::new()
        };
        format!(": {} kept, {} fetched{zeroed}", count(delta.kept_blocks, "block"), delta.fetched_blocks)
    };
    fields.add(compared, format!("{}{blocks}", size(delta.local_bytes)));
    let parts =
        [(delta.removed_files, "file"), (delta.removed_directories, "folder"), (delta.removed_links, "link")];
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| count(*number, what)).collect();
    if parts.is_empty() {
        return;
    }
    fields.add(removed, parts.join(", "));
    let shown = if verbose { delta.removed.len() } else { REMOVED_SHOWN };
    for name in delta.removed.iter().take(shown) {
        fields.add("", name.clone());
    }
    let all = delta.removed_files + delta.removed_directories + delta.removed_links;
    let more = all.saturating_sub(delta.removed.len().min(shown) as u64);
    if more > 0 {
        let hint = if !verbose && delta.removed.len() > shown { "; `-v` shows more" } else { "" };
        fields.add("", format!("… and {more} more{hint}"));
    }
}

/// The result of `list`.
pub(crate) fn list(report: &ListReport) -> String {
    let mut text = format!("stanza {} of cluster {}\n", report.stanza, report.system_identifier);
    if report.backups.is_empty() {
        text.push_str("\nno backup yet: `pgkeep backup` takes the first\n");
    } else {
        text.push('\n');
        text.push_str(&backup_table(&report.backups));
    }
    for backup in &report.backups {
        if let Some(problem) = &backup.problem {
            text.push_str(&format!("\n{} cannot be restored: {problem}\n", backup.id));
        }
    }
    if !report.windows.is_empty() {
        text.push_str("\nrecoverable:\n");
        for window in &report.windows {
            text.push_str(&format!("  {}\n", window_words(window)));
        }
    } else if !report.backups.is_empty() {
        text.push_str("\nrecoverable: nothing\n");
    }
    if !report.gaps.is_empty() {
        text.push_str("\nWAL that is missing:\n");
        for gap in &report.gaps {
            text.push_str(&format!("  {}\n", gap_words(gap)));
        }
    }
    text.push_str(&super::dump::list(&report.dumps));
    text.push_str(&super::verify::known_damage(&report.damage));
    for warning in &report.warnings {
        text.push_str(&format!("\nwhat earlier runs of verify knew is not shown: {warning}\n"));
    }
    text
}

fn backup_table(backups: &[BackupSummary]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "backup", "type", "finished", "timeline", "stop LSN", "cluster", "stored", "unique", "state",
        "verified",
    ]);
    for backup in backups {
        table.add_row([
            backup.id.clone(),
            backup.kind.clone(),
            moment(&backup.finished),
            backup.timeline.to_string(),
            backup.stop_lsn.to_string(),
            size(backup.size_bytes),
            size(backup.stored_bytes),
            size(backup.unique_bytes),
            match (backup.restorable, backup.held) {
                (true, false) => "ok",
                (true, true) => "ok, held",
                (false, false) => "broken",
                (false, true) => "broken, held",
            }
            .to_owned(),
            super::verify::verified_cell(backup.verified.as_ref()),
        ]);
    }
    for column in [3, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines_of(&table)
}

/// The table's lines, without blanks at their ends.
pub(super) fn lines_of(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", format!(" {line}").trim_end())).collect()
}

/// Exact to the microsecond: a target may be any of these moments, and no later one.
pub(super) fn window_words(window: &Window) -> String {
    let from = format!("{} ({})", exact_moment(&window.from_time), window.from_lsn);
    let with = format!("    on timeline {}, with backup {}", window.timeline, window.backup);
    let moments = match &window.to_time {
        // The clock of the last commit may lie before the backup's end: nothing was committed after it.
        Some(to_time) if window.to_lsn > window.from_lsn && is_later(to_time, &window.from_time) => {
            format!("every moment from {from} to {} ({})", exact_moment(to_time), window.to_lsn)
        }
        _ if window.to_lsn > window.from_lsn => {
            format!("from {from} to {}, no commit in between", window.to_lsn)
        }
        _ => format!("only {from}, the backup itself"),
    };
    format!("{moments}\n{with}")
}

/// RFC 3339 moments differ in the number of digits after the point, so they cannot be compared as text.
fn is_later(moment: &str, than: &str) -> bool {
    match (moment.parse::<jiff::Timestamp>(), than.parse::<jiff::Timestamp>()) {
        (Ok(moment), Ok(than)) => moment > than,
        _ => moment > than,
    }
}

fn gap_words(gap: &Gap) -> String {
    let range = if gap.first_missing == gap.last_missing {
        format!("segment {}", gap.first_missing)
    } else {
        format!("{} from {} to {}", count(gap.segments, "segment"), gap.first_missing, gap.last_missing)
    };
    let harm = if gap.expired {
        "`expire` removed it"
    } else if gap.harmful {
        "no moment after it can be reached from a backup before it"
    } else {
        "no backup needs it"
    };
    format!("{range} on timeline {} ({} to {}): {harm}", gap.timeline, gap.from_lsn, gap.to_lsn)
}

/// The result of `show`.
pub(crate) fn show(report: &ShowReport) -> String {
    let summary = &report.summary;
    let mut fields = Fields(Vec::new());
    fields.add("stanza", report.stanza.clone());
    fields.add(
        "cluster",
        format!("{}, PostgreSQL {}", report.system_identifier, server_version(report.server_version)),
    );
    fields.add(
        "state",
        match (&summary.problem, summary.restorable) {
            (Some(problem), _) => format!("cannot be restored: {problem}"),
            (None, false) => "cannot be restored".to_owned(),
            (None, true) => "can be restored".to_owned(),
        },
    );
    fields.add("verified", super::verify::verified_words(summary.verified.as_ref()));
    if let Some(drill) = &report.drill {
        fields.add("drill", super::verify::drill_words(drill));
    }
    fields.add("type", summary.kind.clone());
    fields.add("started", moment(&summary.started));
    fields.add("finished", moment(&summary.finished));
    fields.add(
        "range",
        format!("{} to {} on timeline {}", summary.start_lsn, summary.stop_lsn, summary.timeline),
    );
    let standby = if report.from_standby { ", from a standby" } else { "" };
    fields.add("source", format!("{}{standby}", source(report.source)));
    fields.add("files", report.files.to_string());
    fields.add("size", exact_size(summary.size_bytes));
    fields.add("stored", exact_size(summary.stored_bytes));
    fields.add("unique", exact_size(summary.unique_bytes));
    if summary.held {
        fields.add("held", "no policy removes it");
    }
    if !report.compression.is_empty() {
        fields.add("compression", report.compression.clone());
    }
    fields.add("WAL", format!("{}, {} to {}", wal(report.wal), report.wal_first, report.wal_last));
    for name in &report.wal_missing {
        fields.add("WAL missing", name.clone());
    }
    fields.add("page checks", checksums(report.checksums_verified, &report.bad_pages));
    for (oid, place) in &report.tablespaces {
        fields.add("tablespace", format!("{oid} in {place}"));
    }
    for path in &report.external_config {
        fields.add("config file", path.clone());
    }
    for (key, value) in &report.annotations {
        fields.add("note", format!("{key} = {value}"));
    }
    format!("backup {}\n{}{}", summary.id, fields.show(), bad_pages(&report.bad_pages))
}

/// The result of `check`.
pub(crate) fn check(report: &CheckReport, palette: Palette) -> String {
    let width = report.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in &report.findings {
        let (word, role) = match finding.outcome {
            Outcome::Ok => ("ok", Some(Role::Good)),
            Outcome::Warning => ("warning", Some(Role::Warning)),
            Outcome::Failed => ("failed", Some(Role::Error)),
            Outcome::NotTried => ("not tried", None),
        };
        let word = format!("{word:9}");
        let word = role.map_or(word.clone(), |role| palette.paint(role, &word));
        text.push_str(&format!("{word}  {:width$}  {}\n", finding.check, finding.text));
        // What was not tried has its cause, and its hint, above.
        if let Some(hint) = finding.hint.as_ref().filter(|_| finding.outcome != Outcome::NotTried) {
            text.push_str(&format!(
                "{:9}  {:width$}  {} {hint}\n",
                "",
                "",
                palette.paint(Role::Hint, "hint:")
            ));
        }
    }
    text.push_str(if report.ok { "\nthe set-up works\n" } else { "\nthe set-up does not work yet\n" });
    text
}

fn source(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Local => "data directory",
        SourceKind::Stream => "replication protocol",
        SourceKind::Import => "another program's backup",
    }
}

fn wal(mode: WalMode) -> &'static str {
    match mode {
        WalMode::Archive => "from the archive",
        WalMode::Include => "included",
    }
}

fn because(what: &str, why: &str) -> String {
    if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
}

fn stored(stored_bytes: u64, size_bytes: u64) -> String {
    if size_bytes == 0 {
        return size(stored_bytes);
    }
    let percent = u128::from(stored_bytes) * 100 / u128::from(size_bytes);
    format!("{} ({percent} % of it)", size(stored_bytes))
}

fn checksums(verified: bool, bad: &[BadPages]) -> String {
    let total: u64 = bad.iter().map(|file| file.total).sum();
    match (verified, total) {
        (false, _) => "not possible: the cluster has no checksums".to_owned(),
        (true, 0) => "every page's checksum is right".to_owned(),
        (true, total) => format!("{} with a wrong checksum", count(total, "page")),
    }
}

pub(super) fn bad_pages(bad: &[BadPages]) -> String {
    if bad.is_empty() {
        return String::new();
    }
    let mut text = "\npages with a wrong checksum, stored as they are:\n".to_owned();
    for file in bad.iter().take(BAD_FILES_SHOWN) {
        let mut blocks: Vec<String> =
            file.blocks.iter().take(BAD_BLOCKS_SHOWN).map(ToString::to_string).collect();
        if file.total > blocks.len() as u64 {
            blocks.push(format!("… {} in all", file.total));
        }
        let word = if file.total == 1 { "block" } else { "blocks" };
        text.push_str(&format!("  {} {word} {}\n", file.path, blocks.join(", ")));
    }
    if bad.len() > BAD_FILES_SHOWN {
        text.push_str(&format!("  … and {} more files\n", bad.len() - BAD_FILES_SHOWN));
    }
    text
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
