//! The contents of large objects, several in one query.
//!
//! A batch of objects is one COPY of the beginning of each, in binary form, which costs one round trip and no conversion;
//! what is longer is read on in pieces.

use std::io::Write;

use pgkeep_tool::{Result, ToolError};

use super::session::{Session, oid_array};

/// Bytes of each object that are read with those of others.
const FIRST_PIECE: u32 = 64 << 10;
/// Objects that are read together.
const BATCH: usize = 64;
/// Bytes that are read at once of what is longer.
const LATER_PIECE: u32 = 1 << 20;

/// What of large objects is handed out.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// An object begins.
    Begin(u32),
    Bytes(&'a [u8]),
    /// It ends.
    End,
}

/// Takes pieces.
pub(super) type Take<'a> = dyn FnMut(Piece<'_>) -> Result<()> + 'a;

/// Hands out objects, one after the other.
pub(super) fn fetch(session: &mut Session, oids: &[u32], take: &mut Take<'_>) -> Result<()> {
    for batch in oids.chunks(BATCH) {
        let sql = format!(
            "COPY (SELECT pg_catalog.lo_get(o.oid, 0, {FIRST_PIECE}) FROM pg_catalog.unnest({}) WITH ORDINALITY o (oid, place) \
             ORDER BY o.place) TO stdout WITH (FORMAT binary)",
            oid_array(batch.iter().copied())
        );
        let mut beginnings = Vec::with_capacity(batch.len());
        each_value(session, &sql, &mut |value| {
            beginnings.push(value.to_vec());
            Ok(())
        })?;
        if beginnings.len() != batch.len() {
            return Err(ToolError::new(
                "the server gave another number of large objects than it was asked for",
            ));
        }
        for (oid, beginning) in batch.iter().zip(beginnings) {
            take(Piece::Begin(*oid))?;
            take(Piece::Bytes(&beginning))?;
            if beginning.len() >= FIRST_PIECE as usize {
                rest(session, *oid, FIRST_PIECE.into(), take)?;
            }
            take(Piece::End)?;
        }
    }
    Ok(())
}

/// Writes one object.
pub(super) fn write(session: &mut Session, oid: u32, out: &mut dyn Write) -> Result<()> {
    rest(session, oid, 0, &mut |piece| match piece {
        Piece::Bytes(bytes) => out.write_all(bytes).map_err(|error| ToolError::output(&error)),
        Piece::Begin(_) | Piece::End => Ok(()),
    })
}

/// Hands out what an object holds from `offset` on.
fn rest(session: &mut Session, oid: u32, mut offset: u64, take: &mut Take<'_>) -> Result<()> {
    loop {
        let sql = format!(
            "COPY (SELECT pg_catalog.lo_get({oid}, {offset}, {LATER_PIECE})) TO stdout WITH (FORMAT binary)"
        );
        let mut length = 0;
        each_value(session, &sql, &mut |value| {
            length = value.len();
            take(Piece::Bytes(value))
        })?;
        if length < LATER_PIECE as usize {
            return Ok(());
        }
        offset += u64::from(LATER_PIECE);
    }
}

/// Hands out the values of a COPY of one column in binary form.
fn each_value(session: &mut Session, sql: &str, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let failure = |error: &pgkeep_wire::WireError| ToolError::query(error, sql);
    let mut rows = session.connection().copy_out(sql).map_err(|error| failure(&error))?;
    let mut is_begin = true;
    while let Some(message) = rows.next().map_err(|error| failure(&error))? {
        let row = if is_begin { without_header(message) } else { Some(message) };
        is_begin = false;
        match row.and_then(value) {
            Some(Some(value)) => take(value)?,
            Some(None) => {}
            None => return Err(ToolError::new("the server's answer is not that of a binary COPY")),
        }
    }
    Ok(())
}

/// What follows the header: a mark of 11 bytes, flags, and the length of more.
fn without_header(message: &[u8]) -> Option<&[u8]> {
    let (length, rest) = message.get(15..)?.split_first_chunk::<4>()?;
    rest.get(usize::try_from(u32::from_be_bytes(*length)).ok()?..)
}

/// The value of a row; none (inside) of the trailer, or of nothing at all.
fn value(row: &[u8]) -> Option<Option<&[u8]>> {
    match row {
        [] | [0xff, 0xff] => Some(None),
        [0, 1, a, b, c, d, value @ ..] => {
            let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
            (value.len() == length).then_some(Some(value))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_binary_copy() {
        let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
        assert_eq!(without_header(header).unwrap(), b"");
        assert_eq!(value(b"\0\x01\0\0\0\x02ab"), Some(Some(&b"ab"[..])));
        assert_eq!(value(b"\0\x01\0\0\0\0"), Some(Some(&b""[..])));
        assert_eq!(value(b"\xff\xff"), Some(None));
        assert_eq!(value(b"\0\x01\0\0\0\x03ab"), None);
        assert_eq!(value(b"\0\x02"), None);
        assert!(without_header(b"short").is_none());
    }
}
