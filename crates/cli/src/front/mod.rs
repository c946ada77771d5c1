//! Drop-in fronts: PostgreSQL's own client programs, by the name that this one was called by.
//!
//! `pgkeep pg_restore …`, or a link to the binary that is named `pg_restore`, behaves as that program of PostgreSQL 18
//! does: options, messages, exit status, output. Only the name of the call decides; where the link leads does not
//! matter. A new front is a line in [`FRONTS`].

pub(crate) mod compression;
mod getopt;
mod message;
mod password;
mod pg_basebackup;
mod pg_combinebackup;
mod pg_dump;
mod pg_dumpall;
mod pg_receivewal;
mod pg_restore;
mod pg_verifybackup;
mod program;
mod values;

use std::ffi::{OsStr, OsString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use pgkeep_format::archive::Compression;
use pgkeep_tool::Reporter;

/// A program: its name, and what it does with the words after the name. Returns the exit status.
struct Front {
    name: &'static str,
    run: fn(&[OsString]) -> u8,
    /// Reads the words without acting on them.
    #[cfg(test)]
    check: fn(&[OsString]) -> Result<(), String>,
}

const FRONTS: &[Front] = &[
    Front {
        name: "pg_basebackup",
        run: pg_basebackup::run,
        #[cfg(test)]
        check: pg_basebackup::check,
    },
    Front {
        name: "pg_combinebackup",
        run: pg_combinebackup::run,
        #[cfg(test)]
        check: pg_combinebackup::check,
    },
    Front {
        name: "pg_dump",
        run: pg_dump::run,
        #[cfg(test)]
        check: pg_dump::check,
    },
    Front {
        name: "pg_dumpall",
        run: pg_dumpall::run,
        #[cfg(test)]
        check: pg_dumpall::check,
    },
    Front {
        name: "pg_receivewal",
        run: pg_receivewal::run,
        #[cfg(test)]
        check: pg_receivewal::check,
    },
    Front {
        name: "pg_restore",
        run: pg_restore::run,
        #[cfg(test)]
        check: pg_restore::check,
    },
    Front {
        name: "pg_verifybackup",
        run: pg_verifybackup::run,
        #[cfg(test)]
        check: pg_verifybackup::check,
    },
];

/// Runs the front that the command line asks for; none when it asks for pgkeep itself.
pub(crate) fn dispatch(arguments: &[OsString]) -> Option<u8> {
    let (front, words) = choose(arguments)?;
    // The message of a panic is on stderr already.
    let code = catch_unwind(AssertUnwindSafe(|| (front.run)(words))).unwrap_or_else(|_| {
        message::Messages::new(front.name, false).error("stopped at a defect of its own, told above");
        message::FAILURE
    });
    Some(code)
}

/// The codec and level that a text says, as `pg_dump -Z` reads it; `default` where nothing is said.
pub(crate) fn archive_compression(
    text: Option<&str>,
    default: Compression,
) -> Result<(Compression, Option<i32>), String> {
    compression::parse(text, default).map(|(choice, _)| (choice.algorithm, choice.level))
}

fn choose(arguments: &[OsString]) -> Option<(&'static Front, &[OsString])> {
    let (program, words) = arguments.split_first()?;
    let by_name = |name: &OsStr| FRONTS.iter().find(|front| front.name == name);
    if let Some(front) = Path::new(program).file_name().and_then(by_name) {
        return Some((front, words));
    }
    let (verb, words) = words.split_first()?;
    by_name(verb).map(|front| (front, words))
}

/// Whether a front understands a command line; none when it is not one for a front.
#[cfg(test)]
pub(crate) fn understands(words: &[String]) -> Option<Result<(), String>> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    choose(&words).map(|(front, rest)| (front.check)(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_call_or_the_first_word_chooses_the_front() {
        let chosen = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            choose(&words).map(|(front, rest)| (front.name, rest.len()))
        };
        assert_eq!(chosen(&["/usr/bin/pg_restore", "-l"]), Some(("pg_restore", 1)));
        assert_eq!(chosen(&["pgkeep", "pg_restore", "-l"]), Some(("pg_restore", 1)));
        assert_eq!(chosen(&["pgkeep", "restore", "pg_restore"]), None);
        assert_eq!(chosen(&["pg_restore", "pg_restore"]), Some(("pg_restore", 1)));
        assert_eq!(chosen(&["pgkeep"]), None);
        assert_eq!(chosen(&[]), None);
    }
}
