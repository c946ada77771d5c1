//! Results of `dump`, `dump export` and `dump verify` for people, and the dumps of `list`.

use comfy_table::{CellAlignment, Table, presets};
use pgkeep_engine::dump::{ArchiveReport, DumpExportReport, DumpReport, DumpVerification, DumpVerifyReport};
use pgkeep_engine::list::DumpSummary;

use super::quantity::{count, moment, server_version, size};
use super::text::lines_of;

/// The result of `dump`.
pub(crate) fn dump(report: &DumpReport) -> String {
    let version = server_version(report.server_version);
    let mut text = match (&report.id, report.dry_run) {
        (_, true) => {
            format!("dry run: nothing was written\n\nwould be dumped to {}:\n", report.destination)
        }
        (Some(id), false) => format!("dump {id} of PostgreSQL {version} is complete\n\n"),
        (None, false) => format!("dump of PostgreSQL {version} to {} is complete\n\n", report.destination),
    };
    if report.globals {
        text.push_str("  roles, tablespaces and what else belongs to no database\n");
    }
    for database in &report.databases {
        text.push_str(&format!("  database {}", database.name));
        if !report.dry_run {
            let entries = count(database.entries, "entry").replace("entrys", "entries");
            let tables = count(database.tables, "table");
            text.push_str(&format!(": {entries}, {} in {tables}", count(database.rows, "row")));
        }
        text.push('\n');
    }
    if report.id.is_some() {
        text.push_str(&format!("\nstored {} for {}\n", size(report.stored_bytes), size(report.size_bytes)));
    }
    text
}

/// The result of `dump export`.
pub(crate) fn export(report: &DumpExportReport) -> String {
    let what = match &report.database {
        Some(name) => format!("database {name}"),
        None => "the script of roles and tablespaces".to_owned(),
    };
    let output = report.output.as_deref().unwrap_or("standard output");
    format!("{what} of dump {} is in {output}: {}\n", report.id, size(report.size_bytes))
}

/// The result of `dump verify`.
pub(crate) fn verify(report: &DumpVerifyReport) -> String {
    if report.dumps.is_empty() {
        return format!("there is no dump in the stanza {}\n", report.stanza);
    }
    verified(&report.dumps)
}

/// The result of `dump verify --file`.
pub(crate) fn verify_file(report: &ArchiveReport) -> String {
    let name = report.file.display();
    if !report.ok {
        let mut text = format!("the archive {name} is damaged:\n");
        for damage in &report.damage {
            let entry = damage.entry.as_deref().unwrap_or("the index of pieces");
            text.push_str(&format!("  {entry}: {}\n", damage.what));
        }
        return text;
    }
    let mut text = format!(
        "the archive {name} can be decoded: {} in {}, {}\n",
        count(report.rows, "row"),
        count(report.tables, "table"),
        count(report.large_objects, "large object"),
    );
    text.push_str(&match report.compared {
        0 if report.entries > 0 => {
            "it has no index of pieces: whether this is what was dumped cannot be told\n".to_owned()
        }
        compared if compared < report.entries => format!(
            "its index of pieces fits {compared} of {} entries: whether the others are what was dumped cannot be told\n",
            report.entries
        ),
        _ => "all of it is what its index of pieces says\n".to_owned(),
    });
    text
}

/// What was found of dumps.
pub(crate) fn verified(dumps: &[DumpVerification]) -> String {
    let mut text = String::new();
    for dump in dumps {
        if dump.ok {
            text.push_str(&format!(
                "dump {}: sound, {} in {} of {} counted\n",
                dump.id,
                count(dump.rows, "row"),
                count(dump.tables, "table"),
                count(dump.databases, "database"),
            ));
            continue;
        }
        text.push_str(&format!("dump {} is damaged:\n", dump.id));
        for damage in &dump.damage {
            let at = damage.offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default();
            let of = damage.database.as_ref().map(|name| format!(", database {name}")).unwrap_or_default();
            text.push_str(&format!("  {}{at}{of}: {}\n", damage.object, damage.what));
        }
    }
    text
}

/// The dumps of `list`; nothing where there are none.
pub(crate) fn list(dumps: &[DumpSummary]) -> String {
    if dumps.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["dump", "finished", "server", "databases", "rows", "size", "stored", "state"]);
    for dump in dumps {
        let mut databases = dump.databases.join(", ");
        if dump.globals {
            databases.push_str(" and globals");
        }
        if !dump.options.is_empty() {
            databases.push_str(&format!(" ({})", dump.options.join(" ")));
        }
        table.add_row([
            dump.id.clone(),
            moment(&dump.finished),
            server_version(dump.server_version),
            databases,
            dump.rows.to_string(),
            size(dump.size_bytes),
            size(dump.stored_bytes),
            match (dump.problem.is_none(), dump.held) {
                (true, false) => "ok",
                (true, true) => "ok, held",
                (false, false) => "broken",
                (false, true) => "broken, held",
            }
            .to_owned(),
        ]);
    }
    for column in [4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("\n{}", lines_of(&table));
    for dump in dumps {
        if let Some(problem) = &dump.problem {
            text.push_str(&format!("\n{} cannot be read: {problem}\n", dump.id));
        }
    }
    text
}
