//! The result of `load --all` and `load --globals`.

use pgkeep_engine::load::{DatabaseOfSet, SetLoadReport, StateOfDatabase};
use pgkeep_logical::load::GlobalsReport;

use super::load;
use super::load::{indented, printable};
use super::quantity::{count, size};

/// More names than this are left to `--json`.
const NAMES_SHOWN: usize = 10;

/// The plan, or the result.
pub(crate) fn text(report: &SetLoadReport) -> String {
    let mut text = match (report.dry_run, report.complete) {
        (true, _) => format!("this would be done with dump {}\n\n", report.dump),
        (false, true) => format!("dump {} is loaded\n\n", report.dump),
        (false, false) => format!("the load of dump {} is NOT complete\n\n", report.dump),
    };
    text.push_str(&globals(&report.globals, report.dry_run));
    for database in &report.databases {
        text.push_str(&format!("  database {}: {}\n", printable(&database.name), line(database)));
    }
    if !report.dry_run {
        text.push_str(&format!("\ntook {:.1} s\n", report.seconds));
    }
    for failure in &report.globals.failures {
        text.push_str(&format!(
            "\nrefused: {}\n  {}\n  hint: {}\n",
            printable(&failure.statement),
            indented(&failure.message),
            failure.hint
        ));
    }
    for database in &report.databases {
        if let Some(report) = &database.load
            && database.state == StateOfDatabase::Incomplete
        {
            text.push_str(&format!("\ndatabase {}: {}", printable(&database.name), load::text(report)));
        }
    }
    if !report.complete && !report.dry_run {
        text.push_str("\nwhat is done stays: heal the causes, then run the same command with `--resume`\n");
    }
    text
}

fn names(title: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let mut shown = names.iter().take(NAMES_SHOWN).map(|name| printable(name)).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_SHOWN {
        shown.push_str(&format!(" and {} more, see `--json`", names.len() - NAMES_SHOWN));
    }
    format!("  {title}: {shown}\n")
}

fn globals(report: &GlobalsReport, dry_run: bool) -> String {
    let made = if dry_run { "would be made" } else { "made" };
    let kept = if dry_run { "there, would be kept" } else { "there, kept" };
    let mut text = names(&format!("roles {made}"), &report.roles_made);
    text.push_str(&names(&format!("roles {kept}"), &report.roles_kept));
    text.push_str(&names(&format!("tablespaces {made}"), &report.tablespaces_made));
    text.push_str(&names(&format!("tablespaces {kept}"), &report.tablespaces_kept));
    text.push_str(&names("left out", &report.left_out));
    text.push_str(&names("not tried", &report.missing));
    text
}

fn line(database: &DatabaseOfSet) -> String {
    let what = match database.state {
        StateOfDatabase::Planned => "would be loaded",
        StateOfDatabase::Loaded => "loaded",
        StateOfDatabase::LoadedBefore => return "loaded before".to_owned(),
        StateOfDatabase::Incomplete => "NOT complete, see below",
        StateOfDatabase::NotTried => return "not tried".to_owned(),
    };
    let Some(load) = &database.load else { return what.to_owned() };
    let made = if load.plan.creates_database { " (made)" } else { "" };
    let steps = u64::try_from(load.plan.steps).unwrap_or(u64::MAX);
    let Some(result) = &load.result else {
        let made = if load.plan.creates_database { ", and made" } else { "" };
        return format!("{what}{made}: {}", count(steps, "step"));
    };
    let bytes = result.tables.iter().map(|table| table.bytes).sum();
    let tables = u64::try_from(result.tables.len()).unwrap_or(u64::MAX);
    format!("{what}{made}: {}, {} of rows in {}", count(steps, "step"), size(bytes), count(tables, "table"))
}
