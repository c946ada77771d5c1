//! What a load did.

use serde::Serialize;

use super::plan::LoadPlan;

/// The plan and, unless it was asked for alone, what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// What was to be done.
    pub plan: LoadPlan,
    /// What was done; none after a dry run.
    pub result: Option<LoadOutcome>,
    /// What may not be as the user wants it.
    pub warnings: Vec<String>,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LoadOutcome {
    /// Everything that was asked for is there.
    pub complete: bool,
    /// Steps done by this run.
    pub steps_done: usize,
    /// Steps that an earlier run had done.
    pub steps_done_before: usize,
    /// Tables whose rows this run loaded, in the order of their ends.
    pub tables: Vec<LoadedTable>,
    /// What the server refused.
    pub failures: Vec<LoadFailure>,
    /// What was not tried, after failures.
    pub missing: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// The rows of a table.
#[derive(Debug, Clone, Serialize)]
pub struct LoadedTable {
    /// `schema.name`
    pub table: String,
    /// Bytes of rows, uncompressed.
    pub bytes: u64,
    /// How long they took, in all sessions together.
    pub seconds: f64,
}

/// An object that the server refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadFailure {
    /// The step, such as `FK CONSTRAINT app.orders orders_user_fkey`.
    pub step: String,
    /// The entry's number in the archive.
    pub entry: u32,
    /// The server's words.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// What to do about a refusal, by its SQLSTATE.
pub(super) fn hint_for(state: Option<&str>) -> &'static str {
    match state {
        Some("23503") => {
            "rows refer to rows that are not there: load the table that they refer to as well, or leave this constraint out"
        }
        Some("23505") => {
            "the table held rows already, or the archive's rows are not unique: empty the table, or load into another database"
        }
        Some("42501") => "connect as a role with that right, or use `--no-owner` and `--no-privileges`",
        Some("42704" | "42883" | "42P01" | "3F000") => {
            "it needs something that is not in the database: add `--with-dependencies`, or create it first"
        }
        Some("42P06" | "42P07" | "42710" | "42723") => {
            "it is there already: load into an empty database, or choose other objects or another schema with `--rename-schema`"
        }
        Some("0A000" | "42601") => {
            "this server does not know that: load into a server of the version that the archive comes from, or later"
        }
        Some("53100") => "free space on the server, then run the command again with `--resume`",
        Some("53200" | "53300" | "53400") => {
            "use fewer `--jobs`, less `--maintenance-memory`, or raise the server's limits, then go on with `--resume`"
        }
        Some("58P01") => "install the extension's files on the server, then go on with `--resume`",
        _ => "do what the server says, then go on with `--resume`",
    }
}
