//! What is taken from the process's surroundings: variables, home, user, time zone, the program's own path.
//!
//! Read once and handed on as values. Also the text of `archive_command` and `restore_command`, which must work in
//! another process with another working directory: absolute paths, quoted for `/bin/sh`, `%` doubled for the server.

use std::path::{Path, PathBuf};

use pgkeep_engine::ConnectionRequest;

use crate::args::connection::ConnectionArgs;
use crate::config::resolve::Surroundings;

/// The environment, read once.
#[derive(Debug)]
pub(crate) struct Caller {
    /// `PGKEEP_*`.
    pub(crate) pgkeep_variables: Vec<(String, String)>,
    /// libpq's `PG*`.
    pg_variables: Vec<(String, String)>,
    /// `$HOME`, or the home directory of the user database.
    pub(crate) home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub(crate) xdg_config_home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub(crate) xdg_state_home: Option<PathBuf>,
    /// Where the command was given.
    pub(crate) working_directory: PathBuf,
    /// The name of the effective user.
    pub(crate) os_user: Option<String>,
}

impl Caller {
    /// Reads it.
    pub(crate) fn read() -> Caller {
        let mut pgkeep_variables = Vec::new();
        let mut pg_variables = Vec::new();
        for (name, value) in std::env::vars_os() {
            // Values that are not UTF-8 can be neither settings nor connection parameters.
            let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else { continue };
            if name.starts_with("PGKEEP_") {
                pgkeep_variables.push((name, value));
            } else if name.starts_with("PG") {
                pg_variables.push((name, value));
            }
        }
        pgkeep_variables.sort();
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let account = Account::current();
        Caller {
            pgkeep_variables,
            pg_variables,
            home: path("HOME").or_else(|| account.as_ref().map(|account| account.home.clone())),
            xdg_config_home: path("XDG_CONFIG_HOME"),
            xdg_state_home: path("XDG_STATE_HOME"),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            os_user: account.map(|account| account.name),
        }
    }

    /// libpq's variables, with the name that it falls back on for the role: the effective user's, whatever `$USER` says.
    pub(crate) fn client_variables(&self) -> impl Iterator<Item = (String, String)> {
        let user = self.os_user.iter().map(|name| ("USER".to_owned(), name.clone()));
        self.pg_variables.iter().cloned().chain(user)
    }

    /// What the configuration needs of it.
    pub(crate) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            variables: &self.pgkeep_variables,
            working_directory: &self.working_directory,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// The connection: options before the configured string before the environment.
    pub(crate) fn connection(&self, options: &ConnectionArgs, configured: Option<&str>) -> ConnectionRequest {
        ConnectionRequest {
            conninfo: conninfo(options, configured),
            environment: self.client_variables().collect(),
            home: self.home.clone(),
        }
    }
}

/// One connection string. As in libpq's programs, what `-d` says beats `-h`, `-p` and `-U`; these beat the configuration.
fn conninfo(options: &ConnectionArgs, configured: Option<&str>) -> Option<String> {
    let parts: Vec<(&str, &str)> =
        [("host", &options.host), ("port", &options.port), ("user", &options.username)]
            .into_iter()
            .filter_map(|(keyword, value)| Some((keyword, value.as_deref()?)))
            .collect();
    let keywords = parts
        .iter()
        .map(|(keyword, value)| format!("{keyword}={}", quote_value(value)))
        .collect::<Vec<_>>()
        .join(" ");
    let base = options.conninfo.as_deref().or(configured);
    let Some(base) = base.filter(|base| !base.is_empty()) else {
        return (!keywords.is_empty()).then_some(keywords);
    };
    if parts.is_empty() {
        return Some(base.to_owned());
    }
    if base.starts_with("postgresql://") || base.starts_with("postgres://") {
        // Parameters of a URI's query beat its other parts, so they are added only to what the configuration says.
        if options.conninfo.is_some() {
            return Some(base.to_owned());
        }
        let query: Vec<String> =
            parts.iter().map(|(keyword, value)| format!("{keyword}={}", percent_encode(value))).collect();
        let joint = if base.contains('?') { '&' } else { '?' };
        return Some(format!("{base}{joint}{}", query.join("&")));
    }
    let base = if base.contains('=') { base.to_owned() } else { format!("dbname={}", quote_value(base)) };
    // The later of two equal keywords counts.
    Some(if options.conninfo.is_some() { format!("{keywords} {base}") } else { format!("{base} {keywords}") })
}

fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

fn percent_encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A line of `/etc/passwd`. Users known only to a directory service fall back on `$USER`.
struct Account {
    name: String,
    home: PathBuf,
}

impl Account {
    fn current() -> Option<Account> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let listed = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| {
            text.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                (fields.get(2) == Some(&uid.as_str())).then(|| Account {
                    name: fields[0].to_owned(),
                    home: PathBuf::from(fields.get(5).copied().unwrap_or("/")),
                })
            })
        });
        listed.or_else(|| {
            let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok()?;
            Some(Account { name, home: PathBuf::from(std::env::var_os("HOME")?) })
        })
    }
}

/// User and group of an account of this machine, by name.
pub(crate) fn account(name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.first() == Some(&name))
            .then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))?
    })
}

/// The environment for a server that pgkeep starts: without what is meant for clients of another one.
pub(crate) fn server_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !name.starts_with("PG") || name.starts_with("PGKEEP_"))
        .collect()
}

/// The folders of `$PATH`.
pub(crate) fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// The caller's time zone, an IANA name where there is one.
///
/// A zone that has only a rule (`TZ=CET-1CEST,M3.5.0,M10.5.0/3`) is passed on as it is written: whoever cannot read it
/// must refuse a time without a zone rather than read it in UTC.
pub(crate) fn time_zone() -> String {
    let zone = jiff::tz::TimeZone::system();
    match zone.iana_name() {
        Some(name) if !zone.is_unknown() => name.to_owned(),
        _ => std::env::var("TZ").ok().filter(|rule| !rule.is_empty()).unwrap_or_else(|| "UTC".to_owned()),
    }
}

/// How the server is to call this very program: an absolute path with the repository, stanza and configuration file.
///
/// For use in `archive_command` and `restore_command`, where `%` starts a placeholder and `/bin/sh` splits the words.
#[derive(Debug)]
pub(crate) struct ServerCommand<'a> {
    /// Absolute path, or URL.
    pub(crate) repository: &'a str,
    /// Name.
    pub(crate) stanza: &'a str,
    /// The file of `--config`.
    pub(crate) config: Option<&'a Path>,
}

impl ServerCommand<'_> {
    /// The text of `archive_command`.
    pub(crate) fn archive(&self, program: &str) -> String {
        format!("{} wal push {} %p", word(program), self.options())
    }

    /// The text of `restore_command`.
    pub(crate) fn restore(&self, program: &str, standby: bool) -> String {
        let standby = if standby { " --standby" } else { "" };
        format!("{} wal get {}{standby} %f %p", word(program), self.options())
    }

    fn options(&self) -> String {
        let mut options = format!("--repo {} --stanza {}", word(self.repository), word(self.stanza));
        if let Some(config) = self.config {
            let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
            options.push_str(&format!(" --config {}", word(&path.to_string_lossy())));
        }
        options
    }
}

/// The absolute path of this program; its bare name where the system does not tell.
pub(crate) fn program() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or_else(|| "pgkeep".to_owned())
}

/// One word for `/bin/sh`, with `%` doubled for the server.
fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@+,-=%".contains(&byte);
    let doubled = text.replace('%', "%%");
    if !text.is_empty() && text.bytes().all(plain) {
        doubled
    } else {
        format!("'{}'", doubled.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(conninfo: Option<&str>, host: Option<&str>) -> ConnectionArgs {
        ConnectionArgs {
            conninfo: conninfo.map(str::to_owned),
            host: host.map(str::to_owned),
            ..ConnectionArgs::default()
        }
    }

    #[test]
    fn the_connection_string_beats_single_options_and_these_beat_the_configuration() {
        for (given, host, configured, expected) in [
            (None, None, None, None),
            (None, None, Some("dbname=c"), Some("dbname=c")),
            (Some("d"), None, Some("dbname=c"), Some("d")),
            (None, Some("it's"), None, Some(r"host='it\'s'")),
            (Some("d"), Some("h"), None, Some("host='h' dbname='d'")),
            (Some("host=x"), Some("h"), None, Some("host='h' host=x")),
            (None, Some("h"), Some("host=x"), Some("host=x host='h'")),
            (None, Some("/tmp"), Some("postgresql://x/d"), Some("postgresql://x/d?host=%2Ftmp")),
            (Some("postgres://x/d"), Some("h"), None, Some("postgres://x/d")),
        ] {
            assert_eq!(conninfo(&options(given, host), configured).as_deref(), expected);
        }
    }

    #[test]
    fn the_server_can_run_the_command_whatever_the_path() {
        let plain = ServerCommand { repository: "/srv/b", stanza: "main", config: None };
        assert_eq!(
            plain.archive("/usr/bin/pgkeep"),
            "/usr/bin/pgkeep wal push --repo /srv/b --stanza main %p"
        );
        assert_eq!(
            plain.restore("/usr/bin/pgkeep", true),
            "/usr/bin/pgkeep wal get --repo /srv/b --stanza main --standby %f %p"
        );
        let odd =
            ServerCommand { repository: "/my 50% 'b'", stanza: "main", config: Some(Path::new("/c d.toml")) };
        assert_eq!(
            odd.archive("pgkeep"),
            r"pgkeep wal push --repo '/my 50%% '\''b'\''' --stanza main --config '/c d.toml' %p"
        );
    }
}
