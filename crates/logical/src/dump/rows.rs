//! The rows of a table as they stand in a dump, and the contents of large objects.

use std::io::Write;

use super::define::{InsertSource, RowSource, Rows};
use super::options::RowFormat;
use super::session::Session;
use crate::error::{LogicalError, Result};
use crate::server_text::server_words;

/// Rows fetched at once for INSERT commands.
const ROWS_PER_FETCH: u32 = 100;
/// Bytes read at once of a large object.
const LARGE_OBJECT_PIECE: u32 = 1 << 20;

/// Writes the rows of a table as they stand in a dump.
pub(super) fn write(
    session: &mut Session,
    source: &RowSource,
    format: RowFormat,
    out: &mut dyn Write,
) -> Result<()> {
    // Only while its rows are fetched may a foreign table be read.
    if source.foreign {
        session.restrict_relations("view")?;
    }
    match &source.how {
        Rows::Copy(command) => copy(session, command, &source.name, out)?,
        Rows::Inserts(inserted) => inserts(session, inserted, format, out)?,
    }
    if source.foreign {
        session.restrict_relations("view, foreign-table")?;
    }
    Ok(())
}

/// Locks a table in another session than that which holds its lock already. Never waits: somebody who waits for a stronger
/// lock would wait for the first session, which waits for this one.
pub(super) fn lock(session: &mut Session, source: &RowSource) -> Result<()> {
    if source.foreign {
        return Ok(());
    }
    session.execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT", source.table)).map_err(|error| {
        LogicalError::new(format!("could not obtain lock on relation \"{}\"", source.table))
            .detail(error.message)
            .hint(
                "This usually means that someone requested an ACCESS EXCLUSIVE lock on the table after the dump had \
                 gotten its first ACCESS SHARE lock on the table. Dump again, or without -j.",
            )
    })
}

/// Writes what COPY gives, and its end mark.
fn copy(session: &mut Session, command: &str, table: &str, out: &mut dyn Write) -> Result<()> {
    let failure = |error: &pgkeep_wire::WireError, step: &str| {
        LogicalError::new(format!("Dumping the contents of table \"{table}\" failed: {step}() failed."))
            .detail(format!("Error message from server: {}\nCommand was: {command}", server_words(error)))
    };
    let bytes = session.encoding.lower(command).into_owned();
    let mut rows =
        session.connection().copy_out(&bytes).map_err(|error| LogicalError::query(&error, command))?;
    loop {
        match rows.next() {
            Ok(Some(bytes)) => out.write_all(bytes).map_err(|error| LogicalError::output(&error))?,
            Ok(None) => break,
            Err(error) => return Err(failure(&error, "PQgetResult")),
        }
    }
    out.write_all(b"\\.\n\n\n").map_err(|error| LogicalError::output(&error))
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
) -> Result<()> {
    let RowFormat::Inserts { rows_per_command, skip_conflicts, .. } = format else {
        return Err(LogicalError::new("rows are not to be written as INSERT commands"));
    };
    session.execute(&format!("DECLARE _pg_dump_cursor CURSOR FOR {}", source.query))?;
    let end = if skip_conflicts { " ON CONFLICT DO NOTHING;\n" } else { ";\n" };
    let mut in_command = 0;
    loop {
        let rows = session.query(&format!("FETCH {ROWS_PER_FETCH} FROM _pg_dump_cursor"))?;
        if rows.is_empty() {
            break;
        }
        let mut text = String::new();
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
        out.write_all(&session.encoding.lower(&text)).map_err(|error| LogicalError::output(&error))?;
    }
    if in_command > 0 {
        out.write_all(end.as_bytes()).map_err(|error| LogicalError::output(&error))?;
    }
    out.write_all(b"\n\n").map_err(|error| LogicalError::output(&error))?;
    session.execute("CLOSE _pg_dump_cursor")
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

/// Gives the contents of a large object piece by piece.
pub(super) fn large_object(session: &mut Session, oid: u32, out: &mut dyn Write) -> Result<()> {
    let mut offset: u64 = 0;
    loop {
        let rows = session.query(&format!(
            "SELECT pg_catalog.encode(pg_catalog.lo_get({oid}, {offset}, {LARGE_OBJECT_PIECE}), 'hex') AS piece"
        ))?;
        let hex = rows.one()?.bytes("piece")?.unwrap_or_default();
        let piece = decode_hex(hex)
            .ok_or_else(|| LogicalError::new(format!("error reading large object {oid}: not hexadecimal")))?;
        out.write_all(&piece).map_err(|error| LogicalError::output(&error))?;
        if piece.len() < LARGE_OBJECT_PIECE as usize {
            return Ok(());
        }
        offset += u64::from(LARGE_OBJECT_PIECE);
    }
}

fn decode_hex(hex: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    hex.chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        assert_eq!(decode_hex(b"00ff7f").unwrap(), [0, 255, 127]);
        assert!(decode_hex(b"0").is_none());
        assert!(decode_hex(b"zz").is_none());
    }
}
