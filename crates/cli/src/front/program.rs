//! What every front does alike: `--help` and `--version`, mistakes on the command line, errors, and the exit status.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use pgkeep_tool::{Reporter, ToolError};

use super::getopt::{OptionSpec, parse};
use super::message::{FAILURE, Messages};

/// A command line that cannot be followed.
#[derive(Debug)]
pub(super) enum Mistake {
    /// An error.
    Plain(String),
    /// An error, and where help is.
    TryHelp(String),
    /// A text of `getopt_long`, and where help is.
    Getopt(String),
    /// An error with its own advice.
    Failure(ToolError),
}

impl Mistake {
    /// Says it on stderr.
    pub(super) fn tell(self, name: &'static str) {
        let messages = Messages::new(name, false);
        match self {
            Mistake::Plain(text) => messages.error(&text),
            Mistake::TryHelp(text) => {
                messages.error(&text);
                messages.try_help();
            }
            Mistake::Getopt(text) => {
                eprintln!("{name}: {text}");
                messages.try_help();
            }
            Mistake::Failure(error) => messages.failure(&error),
        }
    }
}

/// Reads the words of a command line. `take` gets each option with its value; the operands are returned.
///
/// A mistake in the value of an option comes before one in the words after it, as in stock, where values are read on the way.
pub(super) fn read_options<K: Copy + PartialEq>(
    specs: &[OptionSpec<K>],
    words: &[OsString],
    mut take: impl FnMut(K, OsString) -> Result<(), Mistake>,
) -> Result<Vec<OsString>, Mistake> {
    let line = parse(specs, words);
    for (key, value) in line.options {
        take(key, value)?;
    }
    match line.mistake {
        Some(mistake) => Err(Mistake::Getopt(mistake)),
        None => Ok(line.operands),
    }
}

/// Refuses operands that are left when all that mean something were taken.
pub(super) fn no_more(mut operands: impl Iterator<Item = OsString>) -> Result<(), Mistake> {
    let Some(extra) = operands.next() else { return Ok(()) };
    let extra = extra.to_string_lossy();
    Err(Mistake::TryHelp(format!("too many command-line arguments (first is \"{extra}\")")))
}

/// A program with its words read by `parse`, of which `is_verbose` says how talkative it is, and done by `act`, which answers
/// the exit status.
pub(super) struct Program<A> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) parse: fn(&[OsString]) -> Result<A, Mistake>,
    pub(super) is_verbose: fn(&A) -> bool,
    pub(super) act: fn(A, &Messages) -> Result<u8, ToolError>,
}

impl<A> Program<A> {
    /// Runs it; the exit status is returned.
    pub(super) fn run(&self, words: &[OsString]) -> u8 {
        if let Some(text) = words.first().and_then(|first| self.asked(first)) {
            let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
            return if written.is_ok() { 0 } else { FAILURE };
        }
        let arguments = match (self.parse)(words) {
            Ok(arguments) => arguments,
            Err(mistake) => {
                mistake.tell(self.name);
                return FAILURE;
            }
        };
        let messages = Messages::new(self.name, (self.is_verbose)(&arguments));
        (self.act)(arguments, &messages).unwrap_or_else(|error| {
            messages.failure(&error);
            FAILURE
        })
    }

    /// Reads the words without acting on them.
    #[cfg(test)]
    pub(super) fn check(&self, words: &[OsString]) -> Result<(), String> {
        (self.parse)(words).map(drop).map_err(|mistake| format!("{mistake:?}"))
    }

    /// What is printed where the first word asks for nothing else.
    fn asked(&self, word: &OsString) -> Option<String> {
        match word.as_bytes() {
            b"--help" | b"-?" => Some(self.help.to_owned()),
            b"--version" | b"-V" => Some(version(self.name)),
            _ => None,
        }
    }
}

/// What `--version` says. Stock's `pg_dumpall` and `pg_upgrade` accept only programs of their own version, hence the
/// variable.
fn version(name: &str) -> String {
    let version = std::env::var("PGKEEP_PG_VERSION").unwrap_or_else(|_| "18.6".to_owned());
    format!("{name} (PostgreSQL) {version}\n")
}
