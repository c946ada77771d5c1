//! `pg_dump`: a database as a script or an archive.

mod arguments;
mod help;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};

use pgkeep_format::archive::Compression;
use pgkeep_logical::dump::write::{self, ArchiveOptions, OutputFile};
use pgkeep_logical::dump::{Dump, DumpOptions};
use pgkeep_tool::compress::{Codec, Compressor, Framing};
use pgkeep_tool::{Reporter, ToolError};
use pgkeep_wire::ConnInfo;

use super::message::Messages;
use super::password::Prompt;
use super::program::Program;
use arguments::Arguments;

const NAME: &str = "pg_dump";

const PROGRAM: Program<Arguments> = Program {
    name: NAME,
    help: help::TEXT,
    parse: Arguments::parse,
    is_verbose: |arguments| arguments.restore.verbose,
    act: |arguments, messages| act(arguments, messages).map(|()| 0),
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

fn act(arguments: Arguments, messages: &Messages) -> Result<(), ToolError> {
    let Arguments {
        dump,
        mut restore,
        format,
        append,
        compression,
        version,
        file,
        sync,
        mut connection,
        prompt,
        warnings,
    } = arguments;
    let codec = Codec {
        compression: compression.algorithm,
        level: compression.level,
        long_distance: compression.long_distance,
    };
    let mut dump = start(&mut connection, prompt, &dump, &warnings, messages)?;
    if let Some(format) = format {
        let options = ArchiveOptions {
            format,
            compression: codec.compression,
            level: codec.level,
            long_distance: codec.long_distance,
            sync,
            version,
            index: true,
        };
        return write::write_archive(&mut dump, &mut restore, &options, file.as_deref());
    }
    let failure = |error: io::Error| not_written(&error);
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
        let mut compressor = Compressor::new(sink, codec, Framing::File).map_err(failure)?;
        write::write_script(dump, &mut restore, &mut compressor, messages)?;
        let sink = compressor.finish().map_err(failure)?;
        sink.into_inner().map_err(|error| failure(error.into_error()))?;
    }
    output.finish()
}

/// A script that could not be written to its end.
pub(super) fn not_written(error: &io::Error) -> ToolError {
    ToolError::output(error).hint("free space or choose another file; nothing was written under its name")
}

fn start(
    connection: &mut ConnInfo,
    prompt: Prompt,
    options: &DumpOptions,
    warnings: &[String],
    messages: &Messages,
) -> Result<Dump, ToolError> {
    for warning in warnings {
        messages.warning(warning);
    }
    let mut dump = prompt.connected(connection, messages, |connection| Dump::start(connection, options))?;
    for warning in dump.take_warnings() {
        messages.warning_with_advice(&warning);
    }
    Ok(dump)
}

/// The error of a dump, which has been told.
pub(super) struct Told;

/// Writes the script of a database among others, as `pg_dumpall` has it.
pub(super) fn dump_into(words: &[OsString], connection: &ConnInfo, out: &mut dyn Write) -> Result<(), Told> {
    let arguments = Arguments::parse(words).map_err(|mistake| {
        mistake.tell(NAME);
        Told
    })?;
    let Arguments { dump, mut restore, warnings, prompt, .. } = arguments;
    let messages = Messages::new(NAME, restore.verbose);
    let outcome = start(&mut connection.clone(), prompt, &dump, &warnings, &messages)
        .and_then(|dump| write::write_script(dump, &mut restore, out, &messages));
    outcome.map_err(|error| {
        messages.failure(&error);
        Told
    })
}
