//! Results of `export`, `import`, `wal import` and `standby create`, for people.

use pgkeep_engine::export::{ExportFormat, ExportReport};
use pgkeep_engine::import::{ImportReport, WalReport};
use pgkeep_engine::standby::StandbyReport;

use super::quantity::{count, moment, size};
use super::text::{self, Fields};

/// Refused files that are shown; `--json` has more.
const REFUSED_SHOWN: usize = 10;

/// The result of `export`.
pub(crate) fn export(report: &ExportReport) -> String {
    let mut fields = Fields(Vec::new());
    fields.add("backup", report.backup.clone());
    fields.add("files", format!("{} in {}", size(report.size_bytes), count(report.files, "file")));
    fields.add("read", format!("{} of the repository", size(report.read_bytes)));
    if report.format == ExportFormat::Tar {
        fields.add("written", format!("{}: {}", size(report.written_bytes), report.archives.join(", ")));
    }
    if let (Some(first), Some(last)) = (&report.wal_first, &report.wal_last) {
        fields.add("WAL", format!("{first} to {last}"));
    }
    for (oid, place) in &report.tablespaces {
        fields.add("tablespace", format!("{oid} in {}", place.display()));
    }
    let mut text = format!("exported to {}\n{}\nnext:\n", report.destination.display(), fields.show());
    for step in &report.next_steps {
        text.push_str(&format!("  {step}\n"));
    }
    text
}

/// The result of `import`.
pub(crate) fn import(report: &ImportReport) -> String {
    let mut fields = Fields(Vec::new());
    fields.add("source", report.source.clone());
    fields.add("cluster", format!("{}, PostgreSQL {}", report.system_identifier, report.major));
    fields.add(
        "proved",
        if report.proved_by_manifest {
            "every file, by backup_manifest"
        } else {
            "nothing: there is no manifest"
        },
    );
    match &report.parent {
        Some(parent) => fields.add("type", format!("{}, builds on {parent}", report.kind.name())),
        None => fields.add("type", report.kind.name()),
    }
    if report.id.is_some() {
        fields.add("files", format!("{} in {}", size(report.size_bytes), count(report.files, "file")));
        fields.add("stored", size(report.stored_bytes));
    }
    let stop = report.stop_lsn.map(|stop| format!(" to {stop}")).unwrap_or_default();
    fields.add("range", format!("{}{stop} on timeline {}", report.start_lsn, report.timeline));
    fields.add("started", moment(&report.started));
    wal_fields(&mut fields, &report.wal);
    let head = match &report.id {
        Some(id) => format!("backup {id} is complete\n"),
        None => "dry run: nothing was written\n".to_owned(),
    };
    format!("{head}{}{}", fields.show(), text::bad_pages(&report.bad_pages))
}

/// The result of `wal import`.
pub(crate) fn import_wal(report: &WalReport) -> String {
    let mut fields = Fields(Vec::new());
    wal_fields(&mut fields, report);
    if report.other_files > 0 {
        fields.add("left out", format!("{} with other names", count(report.other_files, "file")));
    }
    format!("WAL was imported\n{}", fields.show())
}

fn wal_fields(fields: &mut Fields, report: &WalReport) {
    fields.add(
        "WAL",
        format!(
            "{} stored ({}), {} there already",
            count(report.stored, "file"),
            size(report.size_bytes),
            report.already_there
        ),
    );
    if let (Some(first), Some(last)) = (&report.first, &report.last) {
        fields.add("segments", format!("{first} to {last}"));
    }
    for file in report.unfinished.iter().take(REFUSED_SHOWN) {
        fields.add("unfinished", format!("{file}: its WAL ends early, so it was not stored in the archive"));
    }
    for refused in report.refused.iter().take(REFUSED_SHOWN) {
        fields.add("refused", format!("{}: {}", refused.file, refused.why));
    }
    let more = report.refused.len().saturating_sub(REFUSED_SHOWN);
    if more > 0 {
        fields.add("", format!("… and {more} more; `--json` has them"));
    }
}

/// The result of `standby create`.
pub(crate) fn standby(report: &StandbyReport, verbose: bool) -> String {
    let mut fields = Fields(Vec::new());
    fields.add("primary", format!("{}, on timeline {}", report.primary, report.primary_timeline));
    if let Some(slot) = &report.slot {
        fields.add("slot", format!("{slot}{}", if report.slot_created { " (made now)" } else { "" }));
    }
    format!("{}\nfollows:\n{}", text::restore(&report.restore, verbose), fields.show())
}
