//! The configuration of the scratch server: the cluster's own files, and over them whatever must not be the cluster's.
//!
//! Settings on the command line beat every file. What names a place, a command or a partner of the living cluster is
//! overridden; the rest stays, so that the server behaves as the cluster would. Files that the configuration includes by an
//! absolute path are taken from the backup, or left out: the living ones are not read. The file functions are pure.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use pgkeep_format::control_file::ControlFile;

use super::request::Override;
use crate::error::{Error, ErrorKind, Result};

/// No configuration has more files.
const MAX_FILES: usize = 1000;

/// The places of a drill.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) scratch: PathBuf,
    pub(super) data: PathBuf,
    pub(super) tablespaces: PathBuf,
    /// Configuration files from outside the data directory are restored below this, at their former paths.
    pub(super) external: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) log: PathBuf,
    pub(super) hba: PathBuf,
    pub(super) ident: PathBuf,
    /// Used where the backup has none.
    pub(super) own_configuration: PathBuf,
}

impl Places {
    pub(super) fn below(scratch: &Path) -> Places {
        Places {
            scratch: scratch.to_owned(),
            data: scratch.join("data"),
            tablespaces: scratch.join("ts"),
            external: scratch.join("conf"),
            sockets: scratch.join("s"),
            log: scratch.join("server.log"),
            hba: scratch.join("pg_hba.conf"),
            ident: scratch.join("pg_ident.conf"),
            own_configuration: scratch.join("postgresql.conf"),
        }
    }
}

/// What is set on the server's command line.
pub(super) fn overrides(
    places: &Places,
    major: u32,
    configuration: &Path,
    control: Option<&ControlFile>,
    user: &[(String, String)],
) -> Vec<Override> {
    let mut all: Vec<Override> = Vec::new();
    let mut set = |name: &str, value: &str, why: &str| {
        all.push(Override { name: name.to_owned(), value: value.to_owned(), why: why.to_owned() });
    };
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let moved = "the living cluster's place is not touched";
    set("config_file", &path(configuration), moved);
    set("data_directory", &path(&places.data), moved);
    set("hba_file", &path(&places.hba), "only whoever may enter the socket's directory can connect");
    set("ident_file", &path(&places.ident), moved);
    set("external_pid_file", "", moved);
    set("listen_addresses", "", "nobody can reach it over the network");
    set("unix_socket_directories", &path(&places.sockets), "a directory of mode 0700");
    set("unix_socket_permissions", "0700", "only its own user");
    set("port", "5432", "names the socket only");
    set("archive_mode", "off", "nothing is written to the archive");
    set("archive_command", "", "nothing is written to the archive");
    set("archive_cleanup_command", "", "a command that was meant for the living cluster");
    set("recovery_end_command", "", "a command that was meant for the living cluster");
    set("primary_conninfo", "", "no other server is spoken to");
    set("primary_slot_name", "", "no other server is spoken to");
    set("synchronous_standby_names", "", "no standby would ever answer");
    set("max_logical_replication_workers", "0", "subscriptions would take the place of the living ones");
    set("ssl", "off", "certificates lie elsewhere");
    set("logging_collector", "off", "the log is kept with the drill");
    set("log_destination", "stderr", "the log is kept with the drill");
    set("lc_messages", "C", "pgkeep reads the log");
    set("hot_standby", "on", "shows when the backup is consistent");
    set("huge_pages", "try", "another machine may have none");
    set("restart_after_crash", "off", "a crash is a failure");
    // Jobs of extensions would run on the copy as if it were the cluster; unknown names with a dot are accepted.
    set("cron.launch_active_jobs", "off", "scheduled jobs are the living cluster's");
    set("timescaledb.max_background_workers", "0", "scheduled jobs are the living cluster's");
    if major >= 15 {
        set("archive_library", "", "nothing is written to the archive");
    } else {
        set("stats_temp_directory", "pg_stat_tmp", moved);
    }
    if major <= 15 {
        set("promote_trigger_file", "", moved);
    }
    if let (true, Some(control)) = (configuration == places.own_configuration, control) {
        // A server in recovery refuses lower values than the cluster had.
        let why = "the backup holds no configuration; recovery needs as much as the cluster had";
        set("max_connections", &control.max_connections.to_string(), why);
        set("max_worker_processes", &control.max_worker_processes.to_string(), why);
        set("max_wal_senders", &control.max_wal_senders.to_string(), why);
        set("max_prepared_transactions", &control.max_prepared_xacts.to_string(), why);
        set("max_locks_per_transaction", &control.max_locks_per_xact.to_string(), why);
    }
    for (name, value) in user {
        all.retain(|known| !known.name.eq_ignore_ascii_case(name));
        all.push(Override {
            name: name.clone(),
            value: value.clone(),
            why: "asked for with `--set`".to_owned(),
        });
    }
    all
}

/// Settings that keep the drill apart from the living cluster; nobody may change them.
pub(super) fn refuse_dangerous(user: &[(String, String)]) -> Result<()> {
    const KEPT: [&str; 13] = [
        "archive_mode",
        "archive_command",
        "archive_library",
        "config_file",
        "data_directory",
        "external_pid_file",
        "hba_file",
        "listen_addresses",
        "primary_conninfo",
        "port",
        "restore_command",
        "unix_socket_directories",
        "unix_socket_permissions",
    ];
    match user.iter().find(|(name, _)| KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(name))) {
        None => Ok(()),
        Some((name, _)) => Err(Error::new(ErrorKind::Usage, format!("a drill sets `{name}` itself"))
            .cause("it keeps the scratch server apart from the living cluster")
            .hint("leave it out; `pgkeep restore` makes a cluster with any setting")),
    }
}

/// The configuration that the server is to read: that of the data directory, or the one from outside.
pub(super) fn configuration_of(places: &Places, external: &[String]) -> PathBuf {
    let outside =
        external.iter().find(|path| path.ends_with("/postgresql.conf")).map(|path| moved(places, path));
    match outside {
        Some(outside) if outside.is_file() => outside,
        _ if places.data.join("postgresql.conf").is_file() => places.data.join("postgresql.conf"),
        _ => places.own_configuration.clone(),
    }
}

/// Where a file from outside the data directory was put.
fn moved(places: &Places, path: &str) -> PathBuf {
    places.external.join(path.trim_start_matches('/'))
}

/// Rewrites the configuration and what it includes, so that nothing of the living cluster is read. Answers what was left
/// out.
pub(super) fn redirect_includes(places: &Places, configuration: &Path) -> Result<Vec<String>> {
    let mut left_out = Vec::new();
    let mut waiting = vec![configuration.to_owned()];
    let mut seen: Vec<PathBuf> = Vec::new();
    while let Some(path) = waiting.pop() {
        if seen.contains(&path) || seen.len() >= MAX_FILES {
            continue;
        }
        let failed = |error: &io::Error| {
            Error::new(ErrorKind::Destination, format!("cannot rewrite `{}`", path.display()))
                .caused_by(error)
                .hint("give another `--directory`")
        };
        seen.push(path.clone());
        if path.is_dir() {
            for entry in fs::read_dir(&path).map_err(|error| failed(&error))? {
                let inside = entry.map_err(|error| failed(&error))?.path();
                if inside.extension().is_some_and(|extension| extension == "conf") {
                    waiting.push(inside);
                }
            }
            continue;
        }
        // A link would lead to the living file.
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let bytes = fs::read(&path).map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let folder = path.parent().unwrap_or(&places.scratch).to_owned();
        let (new, included, dropped) = redirect(&text, &|old| {
            let target = if old.starts_with('/') { moved(places, old) } else { folder.join(old) };
            let stays = !Path::new(old).components().any(|part| part == Component::ParentDir);
            (stays && target.starts_with(&places.scratch) && target.exists()).then_some(target)
        });
        waiting.extend(included);
        left_out.extend(dropped);
        if new != text {
            fs::write(&path, new).map_err(|error| failed(&error))?;
        }
    }
    Ok(left_out)
}

/// Replaces the paths of include lines by what `resolve` says, and comments out those for which it says nothing.
fn redirect(text: &str, resolve: &dyn Fn(&str) -> Option<PathBuf>) -> (String, Vec<PathBuf>, Vec<String>) {
    let (mut out, mut included, mut dropped) = (String::new(), Vec::new(), Vec::new());
    for line in text.split_inclusive('\n') {
        match include_of(line) {
            None => out.push_str(line),
            Some((word, old)) => match resolve(&old) {
                Some(new) => {
                    let quoted = new.to_string_lossy().replace('\\', "\\\\").replace('\'', "''");
                    out.push_str(&format!("{word} '{quoted}'\n"));
                    included.push(new);
                }
                None => {
                    out.push_str("# left out by pgkeep: ");
                    out.push_str(line);
                    dropped.push(old);
                }
            },
        }
    }
    (out, included, dropped)
}

/// The word and the path of an include line.
fn include_of(line: &str) -> Option<(&'static str, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (word, rest) = line.split_at(end);
    let word = ["include", "include_if_exists", "include_dir"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(word))?;
    let value = rest.trim_start().trim_start_matches('=').trim_start();
    let path = match value.strip_prefix('\'') {
        None => value.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
        Some(quoted) => {
            let mut path = String::new();
            let mut letters = quoted.chars().peekable();
            while let Some(letter) = letters.next() {
                match letter {
                    '\'' if letters.peek() == Some(&'\'') => {
                        letters.next();
                        path.push('\'');
                    }
                    '\'' => break,
                    '\\' => path.extend(letters.next()),
                    other => path.push(other),
                }
            }
            path
        }
    };
    (!path.is_empty()).then_some((word, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn include_lines_are_understood_as_the_server_does() {
        let of = |line: &str| include_of(line).map(|(word, path)| format!("{word} {path}"));
        assert_eq!(of("include '/etc/x.conf'  # why").as_deref(), Some("include /etc/x.conf"));
        assert_eq!(of("  Include_Dir = 'it''s'\n").as_deref(), Some("include_dir it's"));
        assert_eq!(of("include_if_exists=a.conf").as_deref(), Some("include_if_exists a.conf"));
        for other in ["# include 'x'", "included = 1", "port = 1", "", "include"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_in_the_backup_is_left_out() {
        let text = "port = 1\ninclude '/etc/a.conf'\ninclude 'b.conf'\n";
        let (new, included, dropped) =
            redirect(text, &|old| (old == "/etc/a.conf").then(|| PathBuf::from("/scratch/a.conf")));
        assert_eq!(new, "port = 1\ninclude '/scratch/a.conf'\n# left out by pgkeep: include 'b.conf'\n");
        assert_eq!((included.len(), dropped), (1, vec!["b.conf".to_owned()]));
    }

    #[test]
    fn nothing_that_leads_to_the_living_cluster_is_kept() {
        let places = Places::below(Path::new("/scratch"));
        for major in 13..=18 {
            let all = overrides(&places, major, &places.own_configuration, None, &[]);
            let value = |name: &str| all.iter().find(|o| o.name == name).map(|o| o.value.as_str());
            assert_eq!(value("archive_mode"), Some("off"));
            assert_eq!(value("primary_conninfo"), Some(""));
            assert_eq!(value("data_directory"), Some("/scratch/data"));
            assert_eq!(value("archive_library").is_some(), major >= 15);
            assert_eq!(value("promote_trigger_file").is_some(), major <= 15);
        }
        let user = [("work_mem".to_owned(), "1MB".to_owned())];
        assert!(refuse_dangerous(&user).is_ok());
        for name in ["archive_mode", "LISTEN_ADDRESSES", "restore_command"] {
            assert!(refuse_dangerous(&[(name.to_owned(), String::new())]).is_err(), "{name}");
        }
    }
}
