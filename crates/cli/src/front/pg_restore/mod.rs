//! `pg_restore`: archives as lists, as scripts, or restored into a server.

mod arguments;
mod help;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pgkeep_logical::restore::{self, Archive, Input, Reporter, RestoreError};

use super::message::{FAILURE, Messages};
use super::{plain, version};
use arguments::{Arguments, Mistake};

pub(super) const NAME: &str = "pg_restore";

/// Runs the program; the exit status is returned.
pub(super) fn run(words: &[OsString]) -> u8 {
    if let Some(first) = words.first() {
        let text = match first.as_bytes() {
            b"--help" | b"-?" => Some(help::TEXT.to_owned()),
            b"--version" | b"-V" => Some(version(NAME)),
            _ => None,
        };
        if let Some(text) = text {
            let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
            return if written.is_ok() { 0 } else { FAILURE };
        }
    }
    let arguments = match Arguments::parse(words) {
        Ok(arguments) => arguments,
        Err(mistake) => {
            let messages = Messages::new(NAME, false);
            match mistake {
                Mistake::Plain(text) => messages.error(&text),
                Mistake::TryHelp(text) => {
                    messages.error(&text);
                    messages.try_help();
                }
                Mistake::Getopt(text) => {
                    eprintln!("{NAME}: {text}");
                    messages.try_help();
                }
                Mistake::Failure(error) => messages.failure(&error),
            }
            return FAILURE;
        }
    };
    let messages = Messages::new(NAME, arguments.options.verbose);
    match act(arguments, &messages) {
        Ok(0) => 0,
        Ok(errors) => {
            messages.warning(&format!("errors ignored on restore: {errors}"));
            FAILURE
        }
        Err(error) => {
            messages.failure(&error);
            FAILURE
        }
    }
}

/// Reads the words without acting on them.
#[cfg(test)]
pub(super) fn check(words: &[OsString]) -> Result<(), String> {
    Arguments::parse(words).map(|_| ()).map_err(|mistake| format!("{mistake:?}"))
}

fn act(mut arguments: Arguments, messages: &Messages) -> Result<u64, RestoreError> {
    let input = match arguments.input.take() {
        Some(path) => Input::Path(path),
        None => Input::Stream(Box::new(io::stdin())),
    };
    let mut archive = Archive::open(input, arguments.format)?;
    let options = &mut arguments.options;
    if let Some(list) = &arguments.use_list {
        let text = std::fs::read(list).map_err(|error| {
            RestoreError::new(format!("could not open TOC file \"{}\": {}", list.display(), plain(&error)))
        })?;
        restore::use_list(&mut archive.contents, options, &text, messages)?;
    }
    if arguments.list {
        let mut out = output(arguments.file.as_deref())?;
        restore::print_list(&archive.contents, options, &mut out)?;
        return close(out).map(|()| 0);
    }
    if let Some(connection) = &arguments.connection {
        return restore::restore(&mut archive, options, connection, messages);
    }
    let mut out = output(arguments.file.as_deref())?;
    restore::write_script(&mut archive, options, &mut out, messages)?;
    close(out).map(|()| 0)
}

/// Where the script or list goes.
fn output(path: Option<&Path>) -> Result<Box<dyn Write>, RestoreError> {
    Ok(match path {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) if path == Path::new("-") => Box::new(BufWriter::new(io::stdout())),
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|error| {
            RestoreError::new(format!(
                "could not open output file \"{}\": {}",
                PathBuf::from(path).display(),
                plain(&error)
            ))
        })?)),
    })
}

fn close(mut out: Box<dyn Write>) -> Result<(), RestoreError> {
    out.flush().map_err(|error| {
        RestoreError::new(format!("could not write to output file: {}", plain(&error)))
            .hint("free space or choose another file; what was written is incomplete")
    })
}
