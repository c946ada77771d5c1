//! Receivers of this server's WAL, known by their slots: those whose names begin as `wal receive` names them.

use pgkeep_wire::Connection;

use super::Check;
use crate::error::Result;

/// What names of receivers' slots begin with.
const PREFIX: &str = "pgkeep_";

/// A slot of a receiver.
struct ReceiverSlot {
    name: String,
    is_active: bool,
    is_lost: bool,
    held_bytes: u64,
}

impl Check<'_> {
    /// Looks at the slots; true when a receiver is connected.
    pub(super) fn receivers(&mut self, connection: &mut Connection) -> bool {
        let slots = match read(connection) {
            Ok(slots) => slots,
            Err(error) => {
                self.fail_with("receivers", &error);
                return false;
            }
        };
        for slot in &slots {
            let name = &slot.name;
            if slot.is_lost {
                self.fail(
                    "receivers",
                    format!("the slot `{name}` was lost: the server kept no WAL for it any more"),
                    "start `pgkeep wal receive --create-slot`, which makes it anew, and take a backup",
                );
            } else if slot.is_active {
                self.ok(
                    "receivers",
                    format!("`{name}` receives WAL; {} are not safe there yet", bytes(slot.held_bytes)),
                );
            } else {
                self.fail(
                    "receivers",
                    format!("nobody receives WAL by the slot `{name}`, for which the server keeps {}", bytes(slot.held_bytes)),
                    format!(
                        "start `pgkeep wal receive`; a slot that is not needed any more fills the server's disk: `select pg_drop_replication_slot('{name}')`"
                    ),
                );
            }
        }
        slots.iter().any(|slot| slot.is_active && !slot.is_lost)
    }
}

fn read(connection: &mut Connection) -> Result<Vec<ReceiverSlot>> {
    // Backups make temporary slots of such names.
    let rows = connection.query(
        "SELECT slot_name, active, coalesce(wal_status = 'lost', false) AS lost, \
         coalesce(greatest(pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
           THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END, restart_lsn), 0), 0)::bigint AS held \
         FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary ORDER BY slot_name",
    )?;
    let mut slots = Vec::new();
    for row in rows.iter().filter(|row| row.text("slot_name").is_ok_and(|name| name.starts_with(PREFIX))) {
        slots.push(ReceiverSlot {
            name: row.text("slot_name")?.to_owned(),
            is_active: row.boolean("active")?,
            is_lost: row.boolean("lost")?,
            held_bytes: row.parse("held")?,
        });
    }
    Ok(slots)
}

/// A size in words that fit a sentence.
fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} bytes"),
        1024..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_in_words() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1 << 10), "1 KiB");
        assert_eq!(bytes(3 << 20), "3 MiB");
    }
}
