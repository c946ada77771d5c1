//! `pgkeep`: arguments, configuration, rendering, signals and exit codes around the verbs of `pgkeep-engine`.
//!
//! Everything that belongs to a process is here and nowhere else: reading the environment, printing, exiting. Results
//! go to stdout, the rest to stderr. Every way to end, a panic included, has an exit code of ours.

mod args;
mod caller;
mod cmd;
mod config;
mod exit;
mod front;
mod render;
mod signal;
mod usage;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use pgkeep_engine::{Error, ErrorKind, Result};

use args::Cli;
use render::style::Palette;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = front::dispatch(&arguments) {
        return ExitCode::from(code);
    }
    let words = &arguments[1.min(arguments.len())..];
    let caller = match exit::Caller::of(words) {
        // The server runs the command in its data directory. A standby never becomes a primary for want of a file, but
        // would stop at a code above 125, even if only somebody's typing mistake in a configuration file is behind it.
        exit::Caller::Recovery if Path::new("standby.signal").exists() => exit::Caller::Standby,
        caller => caller,
    };
    let json = words.iter().any(|word| word == "--json");
    // A panic must not end with Rust's code 101: recovery would read "the archive ends here" and promote the server.
    let outcome = catch_unwind(AssertUnwindSafe(|| match parse(&arguments) {
        Parsed::Cli(cli) => cmd::run(*cli),
        Parsed::Printed(code) => Ok(code),
        Parsed::Mistake(error) => Err(error),
    }));
    let outcome = outcome.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Internal, "pgkeep stopped at a defect of its own, told above")
            .hint("please report it with the lines above; what the repository listed before is not affected"))
    });
    ExitCode::from(finish(outcome, caller, json))
}

fn finish(outcome: Result<u8>, caller: exit::Caller, json: bool) -> u8 {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let code = caller.code(error.kind);
            render::print_error(&if json {
                render::error::json(&error, code)
            } else {
                render::error::text(&error, Palette::stderr())
            });
            code
        }
    }
}

enum Parsed {
    Cli(Box<Cli>),
    /// Help or the version was asked and is printed.
    Printed(u8),
    Mistake(Error),
}

fn parse(arguments: &[OsString]) -> Parsed {
    // Before any verb `-h` cannot be a host.
    if arguments.len() == 2 && arguments[1] == "-h" {
        return printed(&args::command().render_help(), Palette::stdout(), exit::OK);
    }
    let parsed =
        Cli::command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Parsed::Cli(Box::new(cli)),
        Err(error) => {
            use clap::error::ErrorKind as Kind;
            match error.kind() {
                Kind::DisplayHelp => printed(&error.render(), Palette::stdout(), exit::OK),
                // clap would add the verb's name.
                Kind::DisplayVersion => printed(&cmd::VERSION.into(), Palette::stdout(), exit::OK),
                Kind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    render::print_error(&styled(&error.render(), Palette::stderr()));
                    Parsed::Printed(exit::code(ErrorKind::Usage))
                }
                _ => {
                    let words: Vec<String> =
                        arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
                    Parsed::Mistake(usage::usage_error(&error, &words))
                }
            }
        }
    }
}

fn printed(text: &clap::builder::StyledStr, palette: Palette, code: u8) -> Parsed {
    match render::print(&styled(text, palette)) {
        Ok(()) => Parsed::Printed(code),
        Err(error) => Parsed::Mistake(error),
    }
}

fn styled(text: &clap::builder::StyledStr, palette: Palette) -> String {
    if palette.is_coloured() { text.ansi().to_string() } else { text.to_string() }
}
