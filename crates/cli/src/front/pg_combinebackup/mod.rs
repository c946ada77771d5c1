//! `pg_combinebackup`: a full backup out of a full one and incrementals.

mod arguments;
mod help;

use std::ffi::OsString;

use pgkeep_physical::combine::combine;

use super::program::Program;
use arguments::Arguments;

const PROGRAM: Program<Arguments> = Program {
    name: "pg_combinebackup",
    help: help::TEXT,
    parse: Arguments::parse,
    // What is told without --debug is told always.
    is_verbose: |_| true,
    act: |arguments, messages| combine(&arguments.request, messages).map(|_| 0),
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
