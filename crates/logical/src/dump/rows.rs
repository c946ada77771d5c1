//! The rows of a table as they stand in a dump: all of them, or those in a range of its pages.

use std::io::Write;

use pgkeep_tool::server_text::server_words;
use pgkeep_tool::{Result, ToolError};

use super::define::{InsertSource, RowSource, Rows};
use super::fetch::PageRange;
use super::options::RowFormat;
use super::session::Session;

/// Rows fetched at once for INSERT commands.
const ROWS_PER_FETCH: u32 = 100;
/// What COPY's binary form begins with: a mark, flags, and the length of more, which is nothing.
const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
const BINARY_TRAILER: &[u8; 2] = b"\xff\xff";

/// Which rows, and where they stand among those of their entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// All when none.
    pub(super) pages: Option<PageRange>,
    pub(super) is_first: bool,
    pub(super) is_last: bool,
}

impl Extent {
    pub(super) const WHOLE: Extent = Extent { pages: None, is_first: true, is_last: true };
}

/// Writes the rows of a table as they stand in a dump; the number of messages that COPY sent, or of rows.
pub(super) fn write(
    session: &mut Session,
    source: &RowSource,
    extent: Extent,
    format: RowFormat,
    out: &mut dyn Write,
) -> Result<u64> {
    // Only while its rows are fetched may a foreign table be read.
    if source.foreign {
        session.restrict_relations("view")?;
    }
    let rows = match (&source.how, extent.pages.zip(source.ranged.as_deref())) {
        (Rows::Copy(_), Some((pages, query))) => {
            let command = ranged(query, pages, format);
            copy(session, &command, &source.name, extent, format, out)?
        }
        (Rows::Copy(command), None) => copy(session, command, &source.name, extent, format, out)?,
        (Rows::Inserts(inserted), _) => inserts(session, inserted, format, out)?,
    };
    if source.foreign {
        session.restrict_relations("view, foreign-table")?;
    }
    Ok(rows)
}

/// The COPY of a range of pages.
fn ranged(query: &str, pages: PageRange, format: RowFormat) -> String {
    let mut command = format!("COPY ({query} WHERE ctid >= '({},0)'::pg_catalog.tid", pages.first);
    if let Some(end) = pages.end {
        command.push_str(&format!(" AND ctid < '({end},0)'::pg_catalog.tid"));
    }
    command.push_str(if format == RowFormat::CopyBinary {
        ") TO stdout WITH (FORMAT binary);"
    } else {
        ") TO stdout;"
    });
    command
}

/// Locks a table in another session than that which holds its lock already. Never waits: somebody who waits for a stronger
/// lock would wait for the first session, which waits for this one.
pub(super) fn lock(session: &mut Session, source: &RowSource) -> Result<()> {
    if source.foreign {
        return Ok(());
    }
    session.execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT", source.table)).map_err(|error| {
        ToolError::new(format!("could not obtain lock on relation \"{}\"", source.table))
            .detail(error.message)
            .hint(
                "This usually means that someone requested an ACCESS EXCLUSIVE lock on the table after the dump had \
                 gotten its first ACCESS SHARE lock on the table. Dump again, or without -j.",
            )
    })
}

/// Writes what COPY gives, so that what comes of all extents of a table is what one COPY gives; then the end mark of the
/// text. Returns the number of rows of the binary form.
fn copy(
    session: &mut Session,
    command: &str,
    table: &str,
    extent: Extent,
    format: RowFormat,
    out: &mut dyn Write,
) -> Result<u64> {
    let failure = |error: &pgkeep_wire::WireError, step: &str| {
        ToolError::new(format!("Dumping the contents of table \"{table}\" failed: {step}() failed."))
            .detail(format!("Error message from server: {}\nCommand was: {command}", server_words(error)))
    };
    let is_binary = format == RowFormat::CopyBinary;
    let bytes = session.encoding.lower(command).into_owned();
    let mut rows =
        session.connection().copy_out(&bytes).map_err(|error| ToolError::query(&error, command))?;
    let mut count = 0;
    let mut is_begin = true;
    loop {
        match rows.next() {
            Ok(Some(mut bytes)) => {
                if is_binary {
                    let (kept, has_row) = binary_rows(bytes, is_begin, extent);
                    (bytes, is_begin) = (kept, false);
                    count += u64::from(has_row);
                }
                out.write_all(bytes).map_err(|error| ToolError::output(&error))?;
            }
            Ok(None) => break,
            Err(error) => return Err(failure(&error, "PQgetResult")),
        }
    }
    if extent.is_last && !is_binary {
        out.write_all(b"\\.\n\n\n").map_err(|error| ToolError::output(&error))?;
    }
    Ok(count)
}

/// What of a message of a binary COPY stands in the archive, and whether it holds a row. The first message has the header
/// before what it holds; the trailer comes alone.
fn binary_rows(message: &[u8], is_begin: bool, extent: Extent) -> (&[u8], bool) {
    let (header, body) = match message.split_first_chunk() {
        Some((header, body)) if is_begin && header == BINARY_HEADER => (&header[..], body),
        _ => (&[][..], message),
    };
    let is_trailer = body == BINARY_TRAILER;
    let kept = match (extent.is_first, is_trailer && !extent.is_last) {
        (true, true) => header,
        (true, false) => message,
        (false, true) => &[],
        (false, false) => body,
    };
    (kept, !body.is_empty() && !is_trailer)
}

/// OIDs of types whose values need no quotes, or others.
mod types {
    pub(super) const BOOL: u32 = 16;
    pub(super) const NUMBERS: [u32; 7] = [21, 23, 20, 26, 700, 701, 1700];
    pub(super) const BITS: [u32; 2] = [1560, 1562];
}

/// Writes rows as INSERT commands.
fn inserts(
    session: &mut Session,
    source: &InsertSource,
    format: RowFormat,
    out: &mut dyn Write,
) -> Result<u64> {
    let RowFormat::Inserts { rows_per_command, skip_conflicts, .. } = format else {
        return Err(ToolError::new("rows are not to be written as INSERT commands"));
    };
    session.execute(&format!("DECLARE _pg_dump_cursor CURSOR FOR {}", source.query))?;
    let end = if skip_conflicts { " ON CONFLICT DO NOTHING;\n" } else { ";\n" };
    let mut in_command = 0;
    let mut count = 0;
    loop {
        let rows = session.query(&format!("FETCH {ROWS_PER_FETCH} FROM _pg_dump_cursor"))?;
        if rows.is_empty() {
            break;
        }
        let mut text = String::new();
        count += rows.len() as u64;
        for row in 0..rows.len() {
            if in_command == 0 {
                text.push_str(&source.command);
            }
            if source.generated.is_empty() {
                continue;
            }
            text.push_str(match (rows_per_command, in_command) {
                (1, _) => " (",
                (_, 0) => "\n\t(",
                _ => ",\n\t(",
            });
            for (column, generated) in source.generated.iter().enumerate() {
                if column > 0 {
                    text.push_str(", ");
                }
                if *generated {
                    text.push_str("DEFAULT");
                    continue;
                }
                let value = rows.field(row, column).map(String::from_utf8_lossy);
                let type_oid = rows.column_types().get(column).copied().unwrap_or(0);
                push_value(&mut text, session, type_oid, value.as_deref());
            }
            text.push(')');
            in_command += 1;
            if in_command >= rows_per_command {
                text.push_str(end);
                in_command = 0;
            }
        }
        out.write_all(&session.encoding.lower(&text)).map_err(|error| ToolError::output(&error))?;
    }
    if in_command > 0 {
        out.write_all(end.as_bytes()).map_err(|error| ToolError::output(&error))?;
    }
    out.write_all(b"\n\n").map_err(|error| ToolError::output(&error))?;
    session.execute("CLOSE _pg_dump_cursor")?;
    Ok(count)
}

fn push_value(text: &mut String, session: &Session, type_oid: u32, value: Option<&str>) {
    let Some(value) = value else {
        text.push_str("NULL");
        return;
    };
    if types::NUMBERS.contains(&type_oid) {
        // NaN and Infinity need quotes.
        if value.bytes().all(|byte| b"0123456789 +-eE.".contains(&byte)) {
            text.push_str(value);
        } else {
            text.push_str(&format!("'{value}'"));
        }
    } else if types::BITS.contains(&type_oid) {
        text.push_str(&format!("B'{value}'"));
    } else if type_oid == types::BOOL {
        text.push_str(if value == "t" { "true" } else { "false" });
    } else {
        text.push_str(&session.quoting.literal(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_extents_join_to_one_stream() {
        let row = b"\0\x01\0\0\0\x01x";
        let first = [&BINARY_HEADER[..], row].concat();
        let empty = [&BINARY_HEADER[..], BINARY_TRAILER].concat();
        let stream = |messages: &[&[u8]], is_first, is_last| {
            let extent = Extent { pages: None, is_first, is_last };
            let parts = messages.iter().enumerate();
            parts.map(|(at, message)| binary_rows(message, at == 0, extent).0).collect::<Vec<_>>().concat()
        };
        let whole = stream(&[&first, row, BINARY_TRAILER], true, true);
        let parts = [
            stream(&[&first, BINARY_TRAILER], true, false),
            stream(&[&empty], false, false),
            stream(&[&first, BINARY_TRAILER], false, false),
            stream(&[&empty], false, true),
        ];
        assert_eq!(parts.concat(), whole);
        let nothing = [stream(&[&empty], true, false), stream(&[&empty], false, true)];
        assert_eq!(nothing.concat(), empty);
        assert!(!binary_rows(&empty, true, Extent::WHOLE).1 && binary_rows(&first, true, Extent::WHOLE).1);
    }

    #[test]
    fn the_last_range_is_open() {
        let pages = PageRange { first: 8, end: None };
        assert_eq!(
            ranged("SELECT a FROM ONLY t", pages, RowFormat::Copy),
            "COPY (SELECT a FROM ONLY t WHERE ctid >= '(8,0)'::pg_catalog.tid) TO stdout;"
        );
    }
}
