//! `pg_dump`: a database as a script or an archive.

mod arguments;
mod compression;
mod help;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;

use pgkeep_format::archive::Compression;
use pgkeep_logical::compress::{Compressor, Framing};
use pgkeep_logical::dump::write::{self, ArchiveOptions, OutputFile};
use pgkeep_logical::dump::{Dump, DumpError};
use pgkeep_logical::restore::Reporter;

use super::message::{FAILURE, Messages};
use super::version;
use arguments::{Arguments, Mistake};

const NAME: &str = "pg_dump";

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
                Mistake::Failure(error) => messages.failure(&error.into()),
            }
            return FAILURE;
        }
    };
    let messages = Messages::new(NAME, arguments.restore.verbose);
    match act(arguments, &messages) {
        Ok(()) => 0,
        Err(error) => {
            messages.failure(&error.into());
            FAILURE
        }
    }
}

fn act(arguments: Arguments, messages: &Messages) -> Result<(), DumpError> {
    let Arguments { dump, mut restore, format, append, compression, file, sync, connection, warnings } =
        arguments;
    for warning in &warnings {
        messages.warning(warning);
    }
    let mut dump = Dump::start(&connection, &dump)?;
    for warning in dump.take_warnings() {
        messages.warning_with_advice(&warning);
    }
    if let Some(format) = format {
        let options =
            ArchiveOptions { format, compression: compression.algorithm, level: compression.level, sync };
        return write::write_archive(&mut dump, &mut restore, &options, file.as_deref());
    }
    let failure = |error: io::Error| {
        DumpError::new(format!("could not write to output file: {}", plain(&error)))
            .hint("free space or choose another file; nothing was written under its name")
    };
    let mut output = match file.as_deref().filter(|_| append) {
        Some(path) => OutputFile::append(path, sync)?,
        None => OutputFile::create(file.as_deref(), sync)?,
    };
    let sink = BufWriter::with_capacity(256 << 10, &mut output);
    if compression.algorithm == Compression::None {
        let mut sink = sink;
        write::write_script(dump, &mut restore, &mut sink, messages)?;
        sink.into_inner().map_err(|error| failure(error.into_error()))?;
    } else {
        let mut compressor = Compressor::new(sink, compression.algorithm, compression.level, Framing::File)
            .map_err(failure)?;
        write::write_script(dump, &mut restore, &mut compressor, messages)?;
        let sink = compressor.finish().map_err(failure)?;
        sink.into_inner().map_err(|error| failure(error.into_error()))?;
    }
    output.finish()
}

/// A system error in C's words.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or(&text).to_owned()
}
