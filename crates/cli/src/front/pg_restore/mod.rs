//! `pg_restore`: archives as lists, as scripts, or restored into a server.

mod arguments;
mod help;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use pgkeep_logical::restore::{self, Archive, Input};
use pgkeep_tool::{Reporter, ToolError, system_text};

use super::message::{FAILURE, Messages};
use super::program::Program;
use arguments::Arguments;

const NAME: &str = "pg_restore";

const PROGRAM: Program<Arguments> = Program {
    name: NAME,
    help: help::TEXT,
    parse: Arguments::parse,
    is_verbose: |arguments| arguments.options.verbose,
    act: |arguments, messages| {
        let errors = act(arguments, messages)?;
        if errors == 0 {
            return Ok(0);
        }
        messages.warning(&format!("errors ignored on restore: {errors}"));
        Ok(FAILURE)
    },
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

fn act(mut arguments: Arguments, messages: &Messages) -> Result<u64, ToolError> {
    let input = match arguments.input.take() {
        Some(path) => Input::Path(path),
        None => Input::Stream(Box::new(io::stdin())),
    };
    let mut archive = Archive::open(input, arguments.format)?;
    let options = &mut arguments.options;
    if let Some(list) = &arguments.use_list {
        let text = std::fs::read(list)
            .map_err(|error| ToolError::could_not("open TOC file", list.display(), &error))?;
        restore::use_list(&mut archive.contents, options, &text, messages)?;
    }
    if arguments.list {
        let mut out = output(arguments.file.as_deref())?;
        restore::print_list(&archive.contents, options, &mut out)?;
        return close(out).map(|()| 0);
    }
    if let Some(connection) = &mut arguments.connection {
        return arguments.prompt.connected(connection, messages, |connection| {
            restore::restore(&mut archive, options, connection, messages)
        });
    }
    let mut out = output(arguments.file.as_deref())?;
    restore::write_script(&mut archive, options, &mut out, messages)?;
    close(out).map(|()| 0)
}

/// Where the script or list goes.
fn output(path: Option<&Path>) -> Result<Box<dyn Write>, ToolError> {
    Ok(match path {
        None => Box::new(BufWriter::new(io::stdout())),
        Some(path) if path == Path::new("-") => Box::new(BufWriter::new(io::stdout())),
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|error| {
            ToolError::new(format!(
                "could not open output file \"{}\": {}",
                PathBuf::from(path).display(),
                system_text(&error)
            ))
        })?)),
    })
}

fn close(mut out: Box<dyn Write>) -> Result<(), ToolError> {
    out.flush().map_err(|error| {
        ToolError::output(&error).hint("free space or choose another file; what was written is incomplete")
    })
}
