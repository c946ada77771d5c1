//! Replication commands that answer with rows: identity, settings, history files, slots (`replication/repl_gram.y`,
//! 13 to 18).
//!
//! Slots that a backup makes are temporary: the server drops them with the session, however it ends.

use pgkeep_format::{Lsn, TimelineId, WalSegmentSize};

use crate::connection::Connection;
use crate::error::WireError;
use crate::query::Row;
use crate::quote::quote_identifier;

/// The answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier, given by initdb.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: TimelineId,
    /// Primary: what is flushed. Standby: what is received or replayed.
    pub flush: Lsn,
}

/// A slot that was just created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// `0/0` for a physical slot.
    pub consistent_point: Lsn,
}

/// Where a physical slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// WAL from here on is kept; `None` when nothing is reserved yet.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_timeline: Option<TimelineId>,
}

impl Connection {
    /// IDENTIFY_SYSTEM.
    pub fn identify_system(&mut self) -> Result<SystemIdentity, WireError> {
        let rows = self.query("IDENTIFY_SYSTEM")?;
        let row = rows.one()?;
        Ok(SystemIdentity {
            system_identifier: row.parse("systemid")?,
            timeline: timeline(&row, "timeline")?
                .ok_or_else(|| WireError::UnexpectedResult("no timeline in IDENTIFY_SYSTEM".to_owned()))?,
            flush: row.parse("xlogpos")?,
        })
    }

    /// The value of a setting, as SHOW prints it (`16MB`, `0700`). Works in every kind of session.
    pub fn show(&mut self, name: &str) -> Result<String, WireError> {
        let valid =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
        if !valid {
            return Err(WireError::InvalidInput(format!(
                "`{}` is not the name of a setting",
                name.escape_debug()
            )));
        }
        let rows = self.query(&format!("SHOW {name}"))?;
        let column = rows.columns().first().cloned().unwrap_or_default();
        Ok(rows.one()?.text(&column)?.to_owned())
    }

    /// Bytes of a WAL segment on this server.
    pub fn wal_segment_size(&mut self) -> Result<WalSegmentSize, WireError> {
        let shown = self.show("wal_segment_size")?;
        parse_segment_size(&shown).ok_or_else(|| {
            WireError::UnexpectedResult(format!("`{}` as the size of WAL segments", shown.escape_debug()))
        })
    }

    /// File name and content of a timeline's history file; `None` when the server has none, as for timeline 1.
    pub fn timeline_history(&mut self, timeline: TimelineId) -> Result<Option<(String, Vec<u8>)>, WireError> {
        if timeline.get() == 1 {
            return Ok(None);
        }
        let rows = match self.query(&format!("TIMELINE_HISTORY {}", timeline.get())) {
            Ok(rows) => rows,
            // undefined_file
            Err(error) if error.sqlstate() == Some("58P01") => return Ok(None),
            Err(error) => return Err(error),
        };
        let row = rows.one()?;
        let content = row.bytes("content")?.unwrap_or_default().to_vec();
        Ok(Some((row.text("filename")?.to_owned(), content)))
    }

    /// Creates a physical slot. `reserve` keeps WAL from the last checkpoint's redo position on, at once.
    pub fn create_physical_slot(
        &mut self,
        name: &str,
        temporary: bool,
        reserve: bool,
    ) -> Result<CreatedSlot, WireError> {
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let reserve = if reserve { " RESERVE_WAL" } else { "" };
        let sql = format!("CREATE_REPLICATION_SLOT {}{temporary} PHYSICAL{reserve}", quote_identifier(name));
        let rows = self.query(&sql)?;
        let row = rows.one()?;
        Ok(CreatedSlot {
            name: row.text("slot_name")?.to_owned(),
            consistent_point: row.parse("consistent_point")?,
        })
    }

    /// Drops a slot; fails when it is in use.
    pub fn drop_slot(&mut self, name: &str) -> Result<(), WireError> {
        self.execute(&format!("DROP_REPLICATION_SLOT {}", quote_identifier(name)))
    }

    /// Where a physical slot stands; `None` when there is none of that name. Servers from 15.
    pub fn read_slot(&mut self, name: &str) -> Result<Option<SlotPosition>, WireError> {
        if self.server_major() < 15 {
            return Err(WireError::Unsupported(format!(
                "PostgreSQL {} cannot report a slot over a replication connection (15 and later can)",
                self.server_major()
            )));
        }
        let rows = self.query(&format!("READ_REPLICATION_SLOT {}", quote_identifier(name)))?;
        let row = rows.one()?;
        if row.optional("slot_type")?.is_none() {
            return Ok(None);
        }
        let restart_lsn = match row.optional("restart_lsn")? {
            None => None,
            Some(_) => Some(row.parse("restart_lsn")?),
        };
        Ok(Some(SlotPosition { restart_lsn, restart_timeline: timeline(&row, "restart_tli")? }))
    }
}

/// A size as SHOW prints it: `16MB`, `1GB`.
fn parse_segment_size(shown: &str) -> Option<WalSegmentSize> {
    let (digits, unit) = shown.split_at_checked(shown.len().checked_sub(2)?)?;
    let shift = match unit {
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    let bytes = digits.parse::<u32>().ok()?.checked_mul(1 << shift)?;
    WalSegmentSize::try_from(bytes).ok()
}

/// A timeline column, whatever integer type the version gives it.
pub(crate) fn timeline(row: &Row<'_>, column: &str) -> Result<Option<TimelineId>, WireError> {
    if row.optional(column)?.is_none() {
        return Ok(None);
    }
    let number: u32 = row.parse(column)?;
    TimelineId::try_from(number)
        .map(Some)
        .map_err(|_| WireError::UnexpectedResult(format!("column `{column}` holds timeline 0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes_are_read_as_servers_show_them() {
        let bytes = |shown| parse_segment_size(shown).map(WalSegmentSize::bytes);
        assert_eq!(bytes("1MB"), Some(1 << 20));
        assert_eq!(bytes("16MB"), Some(16 << 20));
        assert_eq!(bytes("1GB"), Some(1 << 30));
        for shown in ["", "B", "16", "16kB", "3MB", "2GB", "4294967297MB", "-1MB", "ü", "üM"] {
            assert_eq!(bytes(shown), None, "{shown}");
        }
    }
}
