//! The server settings that archiving and backups depend on: what they are, and what they must be.
//!
//! The judgement is pure; `init` prints or applies it, `check` reports it. What a role may not see counts as unknown,
//! never as right. Written for PostgreSQL 14 to 18.

use std::collections::BTreeMap;

use pgkeep_wire::{Connection, quote_literal};

use crate::error::Result;
use crate::init::SettingFinding;

/// WAL streams of one backup: the files and, beside them, the WAL.
const WAL_SENDERS_NEEDED: u32 = 2;

/// What the server shows for `archive_command` while archiving is off, whatever the files say.
const DISABLED: &str = "(disabled)";

/// One setting as the server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The value in force.
    pub(crate) value: String,
    /// The value in the configuration files, where the role may read them and one is there.
    pub(crate) in_files: Option<String>,
    /// Whether a changed value waits for a restart.
    pub(crate) pending_restart: bool,
}

/// The settings of a server, by name. One that the role may not see, or that this version does not have, is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerSettings(BTreeMap<String, Setting>);

const NAMES: [&str; 9] = [
    "wal_level",
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "max_wal_senders",
    "wal_segment_size",
    "block_size",
    "data_directory",
];

impl ServerSettings {
    pub(crate) fn read(connection: &mut Connection) -> Result<ServerSettings> {
        let names = NAMES.map(quote_literal).join(", ");
        let mut settings = BTreeMap::new();
        let rows = connection.query(&format!(
            "SELECT name, setting, pending_restart FROM pg_catalog.pg_settings WHERE name IN ({names})"
        ))?;
        for row in rows.iter() {
            let setting = Setting {
                value: row.optional("setting")?.unwrap_or_default().to_owned(),
                in_files: None,
                pending_restart: row.boolean("pending_restart")?,
            };
            settings.insert(row.text("name")?.to_owned(), setting);
        }
        // Superusers only: without it, what hides behind "(disabled)" stays unknown.
        if let Ok(rows) = connection.query(&format!(
            "SELECT DISTINCT ON (name) name, setting FROM pg_catalog.pg_file_settings \
             WHERE name IN ({names}) AND error IS NULL ORDER BY name, seqno DESC"
        )) {
            for row in rows.iter() {
                if let (Some(setting), Some(value)) =
                    (settings.get_mut(row.text("name")?), row.optional("setting")?)
                {
                    setting.in_files = Some(value.to_owned());
                }
            }
        }
        Ok(ServerSettings(settings))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Setting> {
        self.0.get(name)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|setting| setting.value.as_str())
    }

    /// The `archive_command` that counts, or would if archiving were on.
    pub(crate) fn archive_command(&self) -> Option<&str> {
        let setting = self.get("archive_command")?;
        match setting.value.as_str() {
            DISABLED => setting.in_files.as_deref().or(Some("")),
            value => Some(value),
        }
    }

    /// Whether a value of it was written that only a restart brings into force.
    pub(crate) fn waits_for_restart(&self, name: &str) -> bool {
        self.get(name).is_some_and(|setting| setting.pending_restart)
    }

    /// Whether the server archives at all.
    pub(crate) fn archives(&self) -> bool {
        matches!(self.value("archive_mode"), Some("on" | "always"))
    }
}

/// Whether an `archive_command` is one that feeds a repository of ours, or nothing at all.
pub(crate) fn is_ours(command: &str, wanted: &str) -> bool {
    let command = command.trim();
    command == wanted.trim() || (command.contains("pgkeep") && command.contains("wal push"))
}

/// What of a server's settings must change before archiving works; empty where all is well.
pub(crate) fn findings(settings: &ServerSettings, archive_command: &str) -> Vec<SettingFinding> {
    let mut findings = Vec::new();
    let mut add = |name: &str, wanted: &str, needs_restart: bool, note: Option<String>, can_be_set: bool| {
        let setting = settings.get(name).cloned().unwrap_or_default();
        // Written already, and only waiting for the restart.
        let waits = setting.pending_restart && setting.in_files.as_deref() == Some(wanted);
        findings.push(SettingFinding {
            name: name.to_owned(),
            current: setting.value,
            wanted: wanted.to_owned(),
            line: format!("{name} = {}", quote_setting(wanted)),
            needs_restart,
            can_be_set,
            note: if waits {
                Some("set already; it waits for a restart of the server".to_owned())
            } else {
                note
            },
            applied: false,
        });
    };
    if !matches!(settings.value("wal_level"), Some("replica" | "logical")) {
        add("wal_level", "replica", true, None, true);
    }
    if !settings.archives() {
        add("archive_mode", "on", true, None, true);
    }
    if let Some(library) = settings.value("archive_library").filter(|library| !library.is_empty()) {
        let note = format!(
            "the server archives with the module `{library}`, which excludes an archive_command; pgkeep does not change it"
        );
        add("archive_library", "", false, Some(note), false);
    }
    match settings.archive_command() {
        Some(command) if command.trim() == archive_command.trim() => {}
        Some(command) if command.is_empty() || is_ours(command, archive_command) => {
            add("archive_command", archive_command, false, None, true);
        }
        Some(command) => {
            let note = format!(
                "another program archives here (`{command}`); pgkeep does not replace it: call both from one script, or clear it first"
            );
            add("archive_command", archive_command, false, Some(note), false);
        }
        None => {
            let note = "this role may not read it; grant it `pg_read_all_settings`".to_owned();
            add("archive_command", archive_command, false, Some(note), false);
        }
    }
    let senders = settings.value("max_wal_senders").and_then(|value| value.parse::<u32>().ok());
    if senders.is_some_and(|senders| senders < WAL_SENDERS_NEEDED) {
        add("max_wal_senders", "10", true, None, true);
    }
    findings
}

/// A value as `postgresql.conf` takes it: quoted unless it is a plain word or number.
fn quote_setting(value: &str) -> String {
    let is_plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_plain { value.to_owned() } else { format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: &str = "pgkeep wal push %p --repo '/backups'";

    fn settings(pairs: &[(&str, &str)]) -> ServerSettings {
        ServerSettings(
            pairs
                .iter()
                .map(|(name, value)| {
                    ((*name).to_owned(), Setting { value: (*value).to_owned(), ..Setting::default() })
                })
                .collect(),
        )
    }

    fn good() -> Vec<(&'static str, &'static str)> {
        vec![
            ("wal_level", "replica"),
            ("archive_mode", "on"),
            ("archive_command", WANTED),
            ("max_wal_senders", "10"),
        ]
    }

    #[test]
    fn a_server_that_is_set_up_has_no_findings() {
        assert!(findings(&settings(&good()), WANTED).is_empty());
    }

    #[test]
    fn a_fresh_server_lacks_the_archive_and_says_the_lines() {
        let fresh = settings(&[
            ("wal_level", "replica"),
            ("archive_mode", "off"),
            ("archive_command", DISABLED),
            ("max_wal_senders", "10"),
        ]);
        let found = findings(&fresh, WANTED);
        let lines: Vec<&str> = found.iter().map(|finding| finding.line.as_str()).collect();
        assert_eq!(
            lines,
            vec!["archive_mode = on", "archive_command = 'pgkeep wal push %p --repo ''/backups'''"]
        );
        assert!(found[0].needs_restart && !found[1].needs_restart);
    }

    #[test]
    fn minimal_wal_needs_a_restart() {
        let mut pairs = good();
        pairs[0].1 = "minimal";
        pairs[3].1 = "0";
        let found = findings(&settings(&pairs), WANTED);
        let names: Vec<&str> = found.iter().map(|finding| finding.name.as_str()).collect();
        assert_eq!(names, vec!["wal_level", "max_wal_senders"]);
        assert!(found.iter().all(|finding| finding.needs_restart));
    }

    #[test]
    fn another_archiver_is_never_replaced() {
        let mut pairs = good();
        pairs[2].1 = "cp %p /mnt/archive/%f";
        let found = findings(&settings(&pairs), WANTED);
        assert!(!found[0].can_be_set && found[0].note.as_deref().unwrap().contains("cp %p"));
        // Ours with other options may be.
        pairs[2].1 = "/usr/bin/pgkeep wal push %p --repo /old";
        assert!(findings(&settings(&pairs), WANTED)[0].can_be_set);
        // Also where it hides behind archive_mode = off.
        let mut hidden = settings(&[("wal_level", "replica"), ("archive_mode", "off")]);
        hidden.0.insert(
            "archive_command".to_owned(),
            Setting {
                value: DISABLED.to_owned(),
                in_files: Some("cp %p /mnt/%f".to_owned()),
                pending_restart: false,
            },
        );
        assert!(!findings(&hidden, WANTED)[1].can_be_set);
        // An archive module, and a command that the role cannot see.
        pairs[2] = ("archive_library", "basic_archive");
        let found = findings(&settings(&pairs), WANTED);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|finding| !finding.can_be_set));
    }
}
