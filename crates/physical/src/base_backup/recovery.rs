//! What makes a copy start as a standby: settings behind those of `postgresql.auto.conf`, and `standby.signal`.

use pgkeep_wire::{ConnInfo, raw_bytes};

/// The file whose end gets the settings.
pub(super) const SETTINGS_FILE: &str = "postgresql.auto.conf";
/// The file that tells a server to be a standby.
pub(super) const SIGNAL_FILE: &str = "standby.signal";

/// The lines for the settings file.
pub(super) fn settings(connection: &ConnInfo, database: Option<&str>, slot: Option<&str>) -> Vec<u8> {
    let line = |name: &str, value: &str| format!("{name} = '{}'\n", escaped(value));
    let mut text = line("primary_conninfo", &connection.primary_conninfo(database));
    if let Some(slot) = slot {
        text.push_str(&line("primary_slot_name", slot));
    }
    raw_bytes(&text).into_owned()
}

/// As a value in a file of settings.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use pgkeep_wire::Environment;

    use super::*;

    #[test]
    fn quotes_are_kept_through_both_levels() {
        let environment = Environment::from_iter([("X", "")], None);
        let connection = ConnInfo::resolve(Some("host=h user=u password='a\\'b'"), &environment).unwrap();
        let text = String::from_utf8(settings(&connection, Some("db1"), Some("slot1"))).unwrap();
        assert_eq!(
            text,
            "primary_conninfo = 'user=u password=''a\\\\''b'' host=h port=5432 dbname=db1'\n\
             primary_slot_name = 'slot1'\n"
        );
    }
}
