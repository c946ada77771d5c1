//! Writing a dump as an archive: custom, directory or tar.
//!
//! A file appears under its name when it is complete: it is written under another name, flushed, and renamed. In a
//! directory `toc.dat` is what comes last. What is no plain file (a pipe, a device) is written to as it is.

mod custom;
mod directory;
mod indexing;
mod output_file;
mod script;
mod tar;

use std::io::Write;
use std::path::Path;

use jiff::Zoned;
use pgkeep_format::archive::{
    ArchiveFormat, ArchiveHeader, ArchiveVersion, Compression, DumpId, EncodeError, INT_SIZE, LocalTime,
    OFFSET_SIZE, Text, TocEntry, write_entry, write_entry_count, write_header,
};

use pgkeep_tool::compress::Codec;
use pgkeep_tool::{Reporter, Result, ToolError};
use pgkeep_wire::raw_bytes;

use super::{Dump, TOOL_VERSION};
use crate::restore::{self, Archive, Contents, RestoreOptions, select};

use output_file::Out;
pub use output_file::OutputFile;

/// How an archive is written.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Its layout.
    pub format: ArchiveFormat,
    /// Of the data.
    pub compression: Compression,
    /// The codec's own when none.
    pub level: Option<i32>,
    /// Zstandard looks for matches far back.
    pub long_distance: bool,
    /// Files are flushed to disk before the dump ends.
    pub sync: bool,
    /// Of the layout: 1.14 for `pg_restore` from 12 on, 1.15 from 16 on, 1.16 from 17 on.
    pub version: ArchiveVersion,
    /// With pgkeep's index of pieces, which other programs pass over.
    pub index: bool,
}

impl Default for ArchiveOptions {
    /// A custom archive with an index, not compressed.
    fn default() -> ArchiveOptions {
        ArchiveOptions {
            format: ArchiveFormat::Custom,
            compression: Compression::None,
            level: None,
            long_distance: false,
            sync: true,
            version: ArchiveVersion::V1_16,
            index: true,
        }
    }
}

impl ArchiveOptions {
    fn codec(&self) -> Codec {
        Codec { compression: self.compression, level: self.level, long_distance: self.long_distance }
    }
}

/// An entry, and whether its data is wanted.
#[derive(Debug, Clone)]
struct Chosen {
    entry: TocEntry,
    with_data: bool,
}

/// Writes an archive of what is selected. `path` none is standard output, which a directory cannot be.
pub fn write_archive(
    dump: &mut Dump,
    selection: &mut RestoreOptions,
    options: &ArchiveOptions,
    path: Option<&Path>,
) -> Result<()> {
    let header = header(dump, options);
    let entries = choose(dump, &header, selection)?;
    match (options.format, path) {
        (ArchiveFormat::Directory, Some(path)) => directory::write(dump, entries, options, &header, path),
        (ArchiveFormat::Directory, None) => Err(ToolError::new("no output directory specified")),
        (format, path) => {
            let mut file = OutputFile::create(path, options.sync)?;
            let out = Out::File(&mut file);
            match format {
                ArchiveFormat::Custom => custom::write(dump, entries, options, &header, out)?,
                _ => tar::write(dump, entries, options, &header, out)?,
            }
            file.finish()
        }
    }
}

/// Writes an archive of what is selected to anything, from its beginning to its end; not as a directory. The archive is
/// whole when this returns `Ok`, and `out` is flushed; whether it is durable then is the business of whoever gave `out`.
pub fn write_archive_to(
    dump: &mut Dump,
    selection: &mut RestoreOptions,
    options: &ArchiveOptions,
    out: &mut dyn Write,
) -> Result<()> {
    let header = header(dump, options);
    let entries = choose(dump, &header, selection)?;
    match options.format {
        ArchiveFormat::Directory => {
            return Err(ToolError::new("a directory cannot be written as a stream")
                .hint("choose the custom or the tar format"));
        }
        ArchiveFormat::Custom => custom::write(dump, entries, options, &header, Out::Stream(out))?,
        ArchiveFormat::Tar => tar::write(dump, entries, options, &header, Out::Stream(out))?,
    }
    out.flush().map_err(|error| ToolError::output(&error))
}

/// Writes a script of what is selected.
pub fn write_script(
    mut dump: Dump,
    options: &mut RestoreOptions,
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<()> {
    // A script shows nothing of the header but the versions, and positions of data if the format has them: tar has none.
    let archive = ArchiveOptions { format: ArchiveFormat::Tar, ..ArchiveOptions::default() };
    let header = header(&dump, &archive);
    if !dump.others.is_empty() {
        return script::write_parallel(dump, header, options, out, reporter);
    }
    let entries = std::mem::take(&mut dump.entries);
    let mut archive = Archive::live(header, entries, Box::new(dump))?;
    restore::write_script(&mut archive, options, out, reporter)
}

fn choose(dump: &Dump, header: &ArchiveHeader, selection: &mut RestoreOptions) -> Result<Vec<Chosen>> {
    let contents = Contents::new(header.clone(), dump.entries().to_vec())?;
    let wanted = select(&contents, selection)?;
    let chosen = contents.entries.into_iter().zip(wanted).filter(|(_, wanted)| wanted.is_anything());
    let (mut entries, with_data): (Vec<TocEntry>, Vec<bool>) =
        chosen.map(|(entry, wanted)| (entry, wanted.data)).unzip();
    let has_groups = entries.iter().any(|entry| entry.desc == "BLOB METADATA");
    if has_groups && !header.version.is_at_least(ArchiveVersion::V1_16) {
        return Err(ToolError::new(format!(
            "large objects cannot be written into archives of version {}.{}",
            header.version.major, header.version.minor
        ))
        .hint("leave them out with --no-large-objects, or write version 1.16, which pg_restore reads from 17 on"));
    }
    dump.add_dependencies(&mut entries);
    let chosen = entries.into_iter().zip(with_data);
    Ok(chosen.map(|(entry, with_data)| Chosen { entry, with_data }).collect())
}

/// The entries whose data is written, in order.
fn with_data(entries: &[Chosen]) -> Vec<DumpId> {
    let wanted = entries.iter().filter(|chosen| chosen.with_data && chosen.entry.had_dumper);
    wanted.map(|chosen| chosen.entry.dump_id).collect()
}

fn header(dump: &Dump, options: &ArchiveOptions) -> ArchiveHeader {
    let now = Zoned::now();
    ArchiveHeader {
        version: options.version,
        int_size: INT_SIZE,
        offset_size: OFFSET_SIZE,
        format: options.format,
        compression: options.compression,
        compression_level: None,
        created: LocalTime {
            second: now.second().into(),
            minute: now.minute().into(),
            hour: now.hour().into(),
            day: now.day().into(),
            month0: i32::from(now.month()) - 1,
            year_since_1900: i32::from(now.year()) - 1900,
            is_dst: now.time_zone().to_offset_info(now.timestamp()).dst().is_dst().into(),
        },
        database: Some(Text::from(&*raw_bytes(dump.database()))),
        server_version: Some(dump.server_version().into()),
        dump_version: Some(TOOL_VERSION.into()),
    }
}

/// Writes header and table of contents, entry by entry, since texts that are fetched only now may be large together. `at` is
/// told of each entry, and how long the table is up to its end.
fn write_table(
    dump: &mut Dump,
    header: &ArchiveHeader,
    entries: &[Chosen],
    out: &mut dyn Write,
    mut at: impl FnMut(DumpId, u64),
) -> Result<()> {
    let encode =
        |error: EncodeError| ToolError::new(format!("could not write the table of contents: {error}"));
    let mut bytes = Vec::new();
    write_header(&mut bytes, header).map_err(encode)?;
    let count =
        u32::try_from(entries.len()).map_err(|_| ToolError::new("too many entries for an archive"))?;
    write_entry_count(&mut bytes, count);
    let mut length = 0;
    for Chosen { entry, .. } in entries {
        match dump.late_definition(entry.dump_id)? {
            Some(text) => {
                let entry = TocEntry { definition: Some(text), ..entry.clone() };
                write_entry(&mut bytes, header, &entry).map_err(encode)?;
            }
            None => write_entry(&mut bytes, header, entry).map_err(encode)?,
        }
        length += bytes.len() as u64;
        at(entry.dump_id, length);
        out.write_all(&bytes).map_err(|error| ToolError::output(&error))?;
        bytes.clear();
    }
    out.write_all(&bytes).map_err(|error| ToolError::output(&error))
}
