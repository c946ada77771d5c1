//! A dump into a file, a directory or standard output: what stock's programs read.

use std::io::{BufWriter, Write};

use pgkeep_format::archive::Compression as ArchiveCompression;
use pgkeep_logical::dump::write::{ArchiveOptions, OutputFile, write_archive, write_script};
use pgkeep_logical::restrict_key;
use pgkeep_tool::ToolError;
use pgkeep_tool::compress::{Codec, Compressor, Framing};

use super::observer::{DataWatch, Messages, watched};
use super::request::{DumpFile, DumpReport, DumpRequest, DumpedDatabase};
use super::{DumpPlan, start, storage_or};
use crate::error::Result;
use crate::event::{Cancel, Event, Observer, Step};

const BUFFER: usize = 256 << 10;

pub(super) fn run(
    request: &DumpRequest,
    file: &DumpFile,
    plan: DumpPlan,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DumpReport> {
    let mut report = plan.report(request);
    report.databases.clear();
    for name in &plan.databases {
        let (mut dump, mut selection) = start(request, &plan.conninfo, file.format.is_some(), request.jobs)?;
        for text in dump.take_warnings() {
            observer.event(Event::Warning { text: text.clone(), hint: None });
            report.warnings.push(text);
        }
        let total_bytes = Some(dump.estimated_bytes()).filter(|bytes| *bytes > 0);
        observer.event(Event::StepStarted { step: Step::Dump, total_bytes });
        let (watch, events) = DataWatch::new(name, cancel);
        dump.observe(watch.clone());
        let entries = dump.entries().len() as u64;
        let (written, tables) = watched(observer, events, || {
            let written = match file.format {
                Some(format) => {
                    let (compression, level) = (file.compression, file.level);
                    let options = ArchiveOptions { format, compression, level, ..ArchiveOptions::default() };
                    let written = write_archive(&mut dump, &mut selection, &options, file.path.as_deref());
                    drop(dump);
                    written
                }
                None => script(file, |out| {
                    selection.restrict_key =
                        Some(restrict_key::generate().map_err(|error| ToolError::new(error.to_string()))?);
                    write_script(dump, &mut selection, out, &Messages(observer))
                }),
            };
            let tables = watch.take_tables();
            drop(watch);
            (written, tables)
        });
        written.map_err(|error| storage_or(None, error, cancel))?;
        observer.event(Event::StepFinished { step: Step::Dump });
        report.databases.push(DumpedDatabase {
            name: name.clone(),
            entries,
            tables: tables.len() as u64,
            rows: tables.iter().filter_map(|table| table.rows).sum(),
            size_bytes: 0,
        });
    }
    Ok(report)
}

/// Writes a script, compressed if that was asked.
fn script(
    file: &DumpFile,
    write: impl FnOnce(&mut dyn Write) -> pgkeep_tool::Result<()>,
) -> pgkeep_tool::Result<()> {
    let failed = |error: std::io::Error| ToolError::output(&error);
    let mut output = OutputFile::create(file.path.as_deref(), true)?;
    let mut sink = BufWriter::with_capacity(BUFFER, &mut output);
    if file.compression == ArchiveCompression::None {
        write(&mut sink)?;
    } else {
        let codec = Codec { level: file.level, ..Codec::of(file.compression) };
        let mut compressor = Compressor::new(sink, codec, Framing::File).map_err(failed)?;
        write(&mut compressor)?;
        sink = compressor.finish().map_err(failed)?;
    }
    sink.into_inner().map_err(|error| failed(error.into_error()))?;
    output.finish()
}
