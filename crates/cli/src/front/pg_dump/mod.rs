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
use pgkeep_logical::dump::{Dump, DumpError, DumpOptions};
use pgkeep_logical::restore::Reporter;
use pgkeep_wire::ConnInfo;

use super::message::{FAILURE, Messages};
use super::{plain, version};
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
            tell(mistake);
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

fn tell(mistake: Mistake) {
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
}

fn act(arguments: Arguments, messages: &Messages) -> Result<(), DumpError> {
    let Arguments { dump, mut restore, format, append, compression, file, sync, connection, warnings } =
        arguments;
    let mut dump = start(&connection, &dump, &warnings, messages)?;
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

fn start(
    connection: &ConnInfo,
    options: &DumpOptions,
    warnings: &[String],
    messages: &Messages,
) -> Result<Dump, DumpError> {
    for warning in warnings {
        messages.warning(warning);
    }
    let mut dump = Dump::start(connection, options)?;
    for warning in dump.take_warnings() {
        messages.warning_with_advice(&warning);
    }
    Ok(dump)
}

/// An error when dumps with these options cannot be made at all. Other mistakes are left for the dump.
pub(super) fn check_support(words: &[OsString]) -> Result<(), DumpError> {
    match Arguments::parse(words) {
        Err(Mistake::Failure(error)) => Err(error),
        _ => Ok(()),
    }
}

/// The error of a dump, which has been told.
pub(super) struct Told;

/// Writes the script of a database among others, as `pg_dumpall` has it.
pub(super) fn dump_into(words: &[OsString], connection: &ConnInfo, out: &mut dyn Write) -> Result<(), Told> {
    let arguments = Arguments::parse(words).map_err(|mistake| {
        tell(mistake);
        Told
    })?;
    let Arguments { dump, mut restore, warnings, .. } = arguments;
    let messages = Messages::new(NAME, restore.verbose);
    let outcome = start(connection, &dump, &warnings, &messages)
        .and_then(|dump| write::write_script(dump, &mut restore, out, &messages));
    outcome.map_err(|error| {
        messages.failure(&error.into());
        Told
    })
}
