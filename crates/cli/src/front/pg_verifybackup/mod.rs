//! `pg_verifybackup`: a backup against its manifest.

mod arguments;
mod help;
mod progress;

use std::ffi::OsString;
use std::io::Write;

use pgkeep_physical::verify::verify;
use pgkeep_tool::ToolError;

use super::message::{FAILURE, Messages};
use super::program::Program;
use arguments::Arguments;
use progress::ProgressLine;

const PROGRAM: Program<Arguments> = Program {
    name: "pg_verifybackup",
    help: help::TEXT,
    parse: Arguments::parse,
    is_verbose: |_| false,
    act,
};

/// Runs the program; the exit status is returned.
pub(super) fn run(words: &[OsString]) -> u8 {
    PROGRAM.run(words)
}

/// Reads the words without acting on them.
#[cfg(test)]
pub(super) fn check(words: &[OsString]) -> Result<(), String> {
    PROGRAM.check(words)
}

fn act(arguments: Arguments, messages: &Messages) -> Result<u8, ToolError> {
    let line = ProgressLine::new(arguments.progress);
    let report = verify(&arguments.request, messages, &|progress| line.show(progress))?;
    if !report.is_good {
        return Ok(FAILURE);
    }
    if !arguments.quiet {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "backup successfully verified")
            .and_then(|()| stdout.flush())
            .map_err(|error| ToolError::output(&error))?;
    }
    Ok(0)
}
