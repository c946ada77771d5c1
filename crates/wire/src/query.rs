//! Simple queries and their results, in text format, held in memory: for catalogs and commands, not for bulk data.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::str::FromStr;

use crate::connection::Connection;
use crate::error::{ServerError, WireError};
use crate::message::Fields;

/// A result set, held in memory: for catalog queries and command results, not for bulk data (that is what COPY is for).
#[derive(Debug, Clone, Default)]
pub struct Rows {
    columns: Vec<String>,
    types: Vec<u32>,
    by_name: BTreeMap<String, usize>,
    /// The column after the one asked for last, which is the likeliest to be asked for next.
    next: Cell<usize>,
    data: Vec<u8>,
    /// Offset and length in `data` of every field, row by row.
    fields: Vec<Option<(usize, usize)>>,
    rows: usize,
    command_tag: String,
}

impl Rows {
    pub(crate) fn describe(body: &[u8]) -> Result<Rows, WireError> {
        let mut fields = Fields(body);
        let count = fields.u16()?;
        let mut rows = Rows::default();
        for index in 0..usize::from(count) {
            let name = String::from_utf8_lossy(fields.c_string()?).into_owned();
            // Table's OID and column number; the type's OID; its length and modifier, and the format.
            fields.bytes(6)?;
            rows.types.push(fields.bytes(4)?.try_into().map_or(0, u32::from_be_bytes));
            fields.bytes(8)?;
            // The first column of a name counts.
            rows.by_name.entry(name.clone()).or_insert(index);
            rows.columns.push(name);
        }
        Ok(rows)
    }

    pub(crate) fn push(&mut self, body: &[u8]) -> Result<(), WireError> {
        let mut fields = Fields(body);
        let count = usize::from(fields.u16()?);
        if count != self.columns.len() {
            return Err(WireError::protocol("a row does not have the columns that were announced"));
        }
        for _ in 0..count {
            let length = fields.i32()?;
            let field = match usize::try_from(length) {
                Ok(length) => {
                    let start = self.data.len();
                    self.data.extend_from_slice(fields.bytes(length)?);
                    Some((start, length))
                }
                Err(_) => None,
            };
            self.fields.push(field);
        }
        self.rows += 1;
        Ok(())
    }

    pub(crate) fn set_command_tag(&mut self, tag: &[u8]) {
        self.command_tag = String::from_utf8_lossy(tag.strip_suffix(b"\0").unwrap_or(tag)).into_owned();
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True when there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The OIDs of the columns' types.
    pub fn column_types(&self) -> &[u32] {
        &self.types
    }

    /// What the server says it did: `SELECT 1`, `CREATE TABLE`.
    pub fn command_tag(&self) -> &str {
        &self.command_tag
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.rows).map(|index| Row { rows: self, index })
    }

    /// The first row, if there is one.
    pub fn first(&self) -> Option<Row<'_>> {
        self.iter().next()
    }

    /// The bytes of a field by the numbers of its row and column, `None` when it is NULL or not there.
    pub fn field(&self, row: usize, column: usize) -> Option<&[u8]> {
        if column >= self.columns.len() {
            return None;
        }
        let (start, length) = (*self.fields.get(row * self.columns.len() + column)?)?;
        self.data.get(start..start + length)
    }

    /// The same with every field replaced.
    #[must_use]
    pub fn map_fields(mut self, replace: impl Fn(&[u8]) -> Vec<u8>) -> Rows {
        let old = std::mem::take(&mut self.data);
        for (start, length) in self.fields.iter_mut().flatten() {
            let new = replace(&old[*start..*start + *length]);
            (*start, *length) = (self.data.len(), new.len());
            self.data.extend_from_slice(&new);
        }
        self
    }

    /// Where the first column of this name is.
    fn position(&self, column: &str) -> Option<usize> {
        let next = self.next.get();
        let position = match self.columns.get(next) {
            // By name where names repeat.
            Some(name) if name == column && self.by_name.len() == self.columns.len() => next,
            _ => *self.by_name.get(column)?,
        };
        self.next.set(if position + 1 < self.columns.len() { position + 1 } else { 0 });
        Some(position)
    }

    /// The one row that must be there.
    pub fn one(&self) -> Result<Row<'_>, WireError> {
        match self.rows {
            1 => Ok(Row { rows: self, index: 0 }),
            count => Err(WireError::UnexpectedResult(format!("one row expected, {count} received"))),
        }
    }
}

/// One row of a result; values are text as the server writes it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    rows: &'a Rows,
    index: usize,
}

impl<'a> Row<'a> {
    /// The bytes of a column, `None` when it is NULL. Text is UTF-8 except in databases without an encoding.
    pub fn bytes(&self, column: &str) -> Result<Option<&'a [u8]>, WireError> {
        let rows = self.rows;
        let position = rows
            .position(column)
            .ok_or_else(|| WireError::UnexpectedResult(format!("no column `{column}`")))?;
        let field = rows.fields[self.index * rows.columns.len() + position];
        Ok(field.map(|(start, length)| &rows.data[start..start + length]))
    }

    /// The text of a column, `None` when it is NULL.
    pub fn optional(&self, column: &str) -> Result<Option<&'a str>, WireError> {
        match self.bytes(column)? {
            None => Ok(None),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(WireError::UnexpectedResult(format!("column `{column}` is not UTF-8"))),
            },
        }
    }

    /// The text of a column that must not be NULL.
    pub fn text(&self, column: &str) -> Result<&'a str, WireError> {
        self.optional(column)?
            .ok_or_else(|| WireError::UnexpectedResult(format!("column `{column}` is NULL")))
    }

    /// A column that must not be NULL, as a number or whatever else is read from text.
    pub fn parse<T: FromStr>(&self, column: &str) -> Result<T, WireError> {
        let text = self.text(column)?;
        text.parse().map_err(|_| {
            WireError::UnexpectedResult(format!(
                "column `{column}` holds `{}`",
                crate::error::Printable(text)
            ))
        })
    }

    /// A boolean column (`t` or `f`) that must not be NULL.
    pub fn boolean(&self, column: &str) -> Result<bool, WireError> {
        match self.text(column)? {
            "t" | "on" | "true" => Ok(true),
            "f" | "off" | "false" => Ok(false),
            other => Err(WireError::UnexpectedResult(format!(
                "column `{column}` holds `{}`",
                crate::error::Printable(other)
            ))),
        }
    }
}

impl Connection {
    /// Runs one or more statements with the simple protocol; the rows are those of the last one.
    /// Text in an encoding other than UTF-8 is fine, as bytes.
    pub fn query(&mut self, sql: &(impl AsRef<[u8]> + ?Sized)) -> Result<Rows, WireError> {
        self.start_command(sql)?;
        let mut last = Rows::default();
        let mut in_result = false;
        let mut failure: Option<WireError> = None;
        loop {
            match self.receive("waiting for the answer to a query")? {
                b'T' => {
                    last = Rows::describe(self.body()).inspect_err(|_| self.abandon())?;
                    in_result = true;
                }
                b'D' if failure.is_none() => {
                    let Connection { reader, .. } = self;
                    if let Err(error) = last.push(reader.body()) {
                        self.abandon();
                        return Err(error);
                    }
                }
                b'C' | b'I' => {
                    if !in_result {
                        last = Rows::default();
                    }
                    last.set_command_tag(self.body());
                    in_result = false;
                }
                b'E' => {
                    let error = ServerError::parse(self.body());
                    let fatal = error.is_fatal();
                    failure.get_or_insert(Box::new(error).into());
                    if fatal {
                        self.abandon();
                        break;
                    }
                }
                b'Z' => {
                    self.finish_command();
                    break;
                }
                b'G' => {
                    let refused =
                        WireError::InvalidInput("COPY FROM STDIN is not possible in a query".to_owned());
                    failure.get_or_insert(refused);
                    self.send_copy_fail("no data")?;
                }
                // COPY TO STDOUT by mistake: let it run out.
                b'H' | b'd' | b'c' | b'D' => {}
                other => return Err(self.unexpected(other)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(last),
        }
    }

    /// Runs one or more statements whose rows do not matter.
    pub fn execute(&mut self, sql: &(impl AsRef<[u8]> + ?Sized)) -> Result<(), WireError> {
        self.query(sql).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_lies_about_its_lengths_is_refused() {
        let mut description = vec![0, 1, b'a', 0];
        description.extend_from_slice(&[0; 18]);
        let mut rows = Rows::describe(&description).unwrap();
        assert!(rows.push(&[0, 1, 0x7f, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(rows.push(&[0, 2]).is_err());
        assert!(Rows::describe(&[0xff, 0xff]).is_err());
        let mut rows = Rows::describe(&description).unwrap();
        rows.push(&[0, 1, 0, 0, 0, 1, b'7']).unwrap();
        rows.push(&[0, 1, 0xff, 0xff, 0xff, 0xff]).unwrap();
        let values: Vec<_> = rows.iter().map(|row| row.optional("a").unwrap()).collect();
        assert_eq!(values, [Some("7"), None]);
        assert_eq!(rows.first().unwrap().parse::<u32>("a").unwrap(), 7);
        assert!(rows.first().unwrap().text("b").is_err());
        assert!(rows.one().is_err());
    }
}
