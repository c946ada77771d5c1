//! `pg_restore -l`, and `-L`, which takes such a list as a selection and an order.

use std::collections::BTreeSet;
use std::io::Write;

use pgkeep_format::archive::{ArchiveFormat, DumpId};
use pgkeep_tool::{Reporter, Result, ToolError};

use super::clock::stamp;
use super::contents::Contents;
use super::options::RestoreOptions;
use super::select::select;

/// Writes the list of the selected entries; of all entries, with dependencies, when verbose.
///
/// # Errors
/// When writing fails, and with strict names when one was not met.
pub fn print_list(contents: &Contents, options: &mut RestoreOptions, out: &mut dyn Write) -> Result<()> {
    let strict = std::mem::take(&mut options.selection.strict_names);
    let wanted = select(contents, options)?;
    let header = &contents.header;
    let mut text = Vec::new();
    text.extend_from_slice(b";\n; Archive created at ");
    text.extend_from_slice(stamp(&header.created).as_bytes());
    text.extend_from_slice(b"\n;     dbname: ");
    push_line(&mut text, header.database.as_deref(), false);
    let format = match header.format {
        ArchiveFormat::Custom => "CUSTOM",
        ArchiveFormat::Directory => "DIRECTORY",
        ArchiveFormat::Tar => "TAR",
    };
    text.extend_from_slice(
        format!(
            "\n;     TOC Entries: {}\n;     Compression: {}\n;     Dump Version: {}\n;     Format: {format}\n;     Integer: {} bytes\n;     Offset: {} bytes\n",
            contents.entries.len(),
            header.compression.name(),
            header.version,
            header.int_size,
            header.offset_size,
        )
        .as_bytes(),
    );
    for (what, version) in [
        ("Dumped from database version", &header.server_version),
        ("Dumped by pg_dump version", &header.dump_version),
    ] {
        if let Some(version) = version {
            text.extend_from_slice(format!(";     {what}: ").as_bytes());
            text.extend_from_slice(version);
            text.push(b'\n');
        }
    }
    text.extend_from_slice(b";\n;\n; Selected TOC Entries:\n;\n");
    for index in contents.order.iter().copied() {
        let entry = &contents.entries[index];
        if options.verbose || wanted[index].is_restored() {
            text.extend_from_slice(
                format!("{}; {} {} ", entry.dump_id, entry.catalog_id.table_oid, entry.catalog_id.oid)
                    .as_bytes(),
            );
            text.extend_from_slice(&entry.desc);
            text.push(b' ');
            push_line(&mut text, entry.namespace.as_deref(), true);
            text.push(b' ');
            push_line(&mut text, Some(&entry.tag), false);
            text.push(b' ');
            push_line(&mut text, entry.owner.as_deref(), false);
            text.push(b'\n');
        }
        if options.verbose && !entry.dependencies.is_empty() {
            text.extend_from_slice(b";\tdepends on:");
            for dependency in &entry.dependencies {
                text.extend_from_slice(format!(" {dependency}").as_bytes());
            }
            text.push(b'\n');
        }
        if text.len() > 64 << 10 {
            write(out, &text)?;
            text.clear();
        }
    }
    write(out, &text)?;
    options.selection.strict_names = strict;
    if strict { select(contents, options).map(|_| ()) } else { Ok(()) }
}

/// A name on a line of its own: line ends become spaces, so that no name can begin a new line of the list or script.
pub(crate) fn push_line(out: &mut Vec<u8>, name: Option<&[u8]>, want_hyphen: bool) {
    match name {
        Some(name) => {
            out.extend(name.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        }
        None if want_hyphen => out.push(b'-'),
        None => {}
    }
}

fn write(out: &mut dyn Write, text: &[u8]) -> Result<()> {
    out.write_all(text).map_err(|error| ToolError::output(&error))
}

/// Reads a list as `-L` takes it: selects the entries that it names, in its order. All others go to the front, where they
/// are not restored.
///
/// # Errors
/// When the list names an entry that is not there.
pub fn use_list(
    contents: &mut Contents,
    options: &mut RestoreOptions,
    list: &[u8],
    reporter: &dyn Reporter,
) -> Result<()> {
    let largest = contents.largest_id();
    let mut wanted = BTreeSet::new();
    let mut named = Vec::new();
    for line in list.split_inclusive(|byte| *byte == b'\n') {
        let line = line.split(|byte| *byte == b';').next().unwrap_or_default();
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            continue;
        }
        let id = leading_integer(line)
            .and_then(|id| u32::try_from(id).ok())
            .filter(|id| *id > 0 && *id <= largest)
            .map(DumpId)
            .filter(|id| !wanted.contains(id));
        let Some(id) = id else {
            let shown = String::from_utf8_lossy(line);
            reporter.warning(&format!("line ignored: {shown}"));
            continue;
        };
        let Some(index) = contents.index_of(id) else {
            return Err(ToolError::new(format!("could not find entry for ID {id}")));
        };
        wanted.insert(id);
        named.push(index);
    }
    contents.order = (0..contents.entries.len())
        .filter(|index| !wanted.contains(&contents.entries[*index].dump_id))
        .chain(named)
        .collect();
    options.selection.wanted = Some(wanted);
    Ok(())
}

/// The number at the start of a line, as C's `strtol` reads it.
fn leading_integer(line: &[u8]) -> Option<i64> {
    let text = line.trim_ascii_start();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let value: i64 = std::str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
    Some(if negative { -value } else { value })
}
