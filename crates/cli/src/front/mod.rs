//! Drop-in fronts: PostgreSQL's own client programs, by the name that this one was called by.
//!
//! `pgkeep pg_restore …`, or a link to the binary that is named `pg_restore`, behaves as that program of PostgreSQL 18
//! does: options, messages, exit status, output. Only the name of the call decides; where the link leads does not
//! matter. A new front is a line in [`FRONTS`].

mod getopt;
mod message;
mod pg_dump;
mod pg_dumpall;
mod pg_restore;

use std::ffi::{OsStr, OsString};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use pgkeep_logical::restore::Reporter;

/// A program: its name, and what it does with the words after the name. Returns the exit status.
struct Front {
    name: &'static str,
    run: fn(&[OsString]) -> u8,
}

const FRONTS: &[Front] = &[
    Front { name: "pg_dump", run: pg_dump::run },
    Front { name: "pg_dumpall", run: pg_dumpall::run },
    Front { name: "pg_restore", run: pg_restore::run },
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

fn choose(arguments: &[OsString]) -> Option<(&'static Front, &[OsString])> {
    let (program, words) = arguments.split_first()?;
    let by_name = |name: &OsStr| FRONTS.iter().find(|front| front.name == name);
    if let Some(front) = Path::new(program).file_name().and_then(by_name) {
        return Some((front, words));
    }
    let (verb, words) = words.split_first()?;
    by_name(verb).map(|front| (front, words))
}

/// Whether a front understands a command line; none when it is not one for a front. Fronts that cannot tell are content.
#[cfg(test)]
pub(crate) fn understands(words: &[String]) -> Option<Result<(), String>> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    choose(&words).map(|(front, rest)| match front.name {
        pg_restore::NAME => pg_restore::check(rest),
        _ => Ok(()),
    })
}

/// What `--version` says. Stock's `pg_dumpall` and `pg_upgrade` accept only programs of their own version, hence the
/// variable.
fn version(name: &str) -> String {
    let version = std::env::var("PGKEEP_PG_VERSION").unwrap_or_else(|_| "18.6".to_owned());
    format!("{name} (PostgreSQL) {version}\n")
}

/// A system error in C's words.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or(&text).to_owned()
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
