//! Connection strings as libpq reads them: `keyword=value` lists and `postgresql://` URIs, completed from a service
//! file, `PG*` variables and defaults, in that order.
//!
//! Parsing is pure: text in, pairs out. What the values mean is decided in [`crate::settings`].

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::{ConnInfoError, Printable};
use crate::raw_text::raw_text;
use crate::service_file;
use crate::settings::Settings;

/// Every keyword that libpq 18 knows, with its variable. Those that have no meaning here (Kerberos, OAuth) are
/// accepted, so that a shared connection string keeps working.
const KEYWORDS: &[(&str, Option<&str>)] = &[
    ("application_name", Some("PGAPPNAME")),
    ("channel_binding", Some("PGCHANNELBINDING")),
    ("client_encoding", Some("PGCLIENTENCODING")),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    ("dbname", Some("PGDATABASE")),
    ("fallback_application_name", None),
    ("gssdelegation", Some("PGGSSDELEGATION")),
    ("gssencmode", Some("PGGSSENCMODE")),
    ("gsslib", Some("PGGSSLIB")),
    ("host", Some("PGHOST")),
    ("hostaddr", Some("PGHOSTADDR")),
    ("keepalives", None),
    ("keepalives_count", None),
    ("keepalives_idle", None),
    ("keepalives_interval", None),
    ("krbsrvname", Some("PGKRBSRVNAME")),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS")),
    ("max_protocol_version", Some("PGMAXPROTOCOLVERSION")),
    ("min_protocol_version", Some("PGMINPROTOCOLVERSION")),
    ("oauth_client_id", None),
    ("oauth_client_secret", None),
    ("oauth_issuer", None),
    ("oauth_scope", None),
    ("options", Some("PGOPTIONS")),
    ("passfile", Some("PGPASSFILE")),
    ("password", Some("PGPASSWORD")),
    ("port", Some("PGPORT")),
    ("replication", None),
    ("require_auth", Some("PGREQUIREAUTH")),
    ("requirepeer", Some("PGREQUIREPEER")),
    ("scram_client_key", None),
    ("scram_server_key", None),
    ("service", Some("PGSERVICE")),
    ("servicefile", Some("PGSERVICEFILE")),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION")),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    ("sslcert", Some("PGSSLCERT")),
    ("sslcertmode", Some("PGSSLCERTMODE")),
    ("sslcompression", Some("PGSSLCOMPRESSION")),
    ("sslcrl", Some("PGSSLCRL")),
    ("sslcrldir", Some("PGSSLCRLDIR")),
    ("sslkey", Some("PGSSLKEY")),
    ("sslkeylogfile", None),
    ("sslmode", Some("PGSSLMODE")),
    ("sslnegotiation", Some("PGSSLNEGOTIATION")),
    ("sslpassword", None),
    ("sslrootcert", Some("PGSSLROOTCERT")),
    ("sslsni", Some("PGSSLSNI")),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ("tcp_user_timeout", None),
    ("user", Some("PGUSER")),
];

const SECRETS: &[&str] =
    &["password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"];

pub(crate) type Parameters = BTreeMap<&'static str, String>;

/// The table's own spelling of a keyword.
pub(crate) fn keyword(name: &str) -> Option<&'static str> {
    KEYWORDS.binary_search_by(|(known, _)| known.cmp(&name)).ok().map(|index| KEYWORDS[index].0)
}

fn known_keyword(name: &str) -> Result<&'static str, ConnInfoError> {
    keyword(name).ok_or_else(|| ConnInfoError::UnknownKeyword(name.to_owned()))
}

/// Where and how to connect: complete, checked, and safe to print.
#[derive(Clone)]
pub struct ConnInfo {
    parameters: Parameters,
    home: Option<PathBuf>,
    pub(crate) settings: Settings,
}

impl ConnInfo {
    /// Completes a connection string (or a bare database name) from service file, variables and defaults.
    pub fn resolve(dsn: Option<&str>, environment: &Environment) -> Result<ConnInfo, ConnInfoError> {
        ConnInfo::resolve_with(&[], dsn, environment)
    }

    /// As [`ConnInfo::resolve`], with values from options of a command line (`-h`, `-p`, `-U`): they go before the
    /// variables, and what the connection string says goes before them, as in psql.
    pub fn resolve_with(
        options: &[(&str, &str)],
        dsn: Option<&str>,
        environment: &Environment,
    ) -> Result<ConnInfo, ConnInfoError> {
        let mut parameters = Parameters::new();
        for (name, value) in options {
            parameters.insert(known_keyword(name)?, (*value).to_owned());
        }
        if let Some(dsn) = dsn {
            parameters.extend(parse_into_parameters(dsn)?);
        }
        let service = parameters.get("service").map(String::as_str).or_else(|| environment.get("PGSERVICE"));
        if let Some(service) = service.filter(|name| !name.is_empty()).map(str::to_owned) {
            let file = parameters.get("servicefile").cloned();
            for (name, value) in service_file::lookup(&service, file.as_deref(), environment)? {
                parameters.entry(name).or_insert(value);
            }
        }
        for (name, variable) in KEYWORDS {
            if let Some(value) = variable.and_then(|variable| environment.get(variable)) {
                parameters.entry(name).or_insert_with(|| value.to_owned());
            }
        }
        if !parameters.contains_key("sslmode") && environment.get("PGREQUIRESSL") == Some("1") {
            parameters.insert("sslmode", "require".to_owned());
        }
        if parameters.get("user").is_none_or(String::is_empty) {
            let user = environment.user_name().ok_or(ConnInfoError::NoUser)?;
            parameters.insert("user", user);
        }
        ConnInfo::from_parameters(parameters, environment.home().map(Path::to_owned))
    }

    /// The same with one value replaced.
    pub fn with(self, name: &str, value: &str) -> Result<ConnInfo, ConnInfoError> {
        let ConnInfo { mut parameters, home, .. } = self;
        parameters.insert(known_keyword(name)?, value.to_owned());
        ConnInfo::from_parameters(parameters, home)
    }

    fn from_parameters(parameters: Parameters, home: Option<PathBuf>) -> Result<ConnInfo, ConnInfoError> {
        let settings = Settings::from_parameters(&parameters, home.as_deref())?;
        Ok(ConnInfo { parameters, home, settings })
    }

    /// The database asked for; the user's name when none is.
    pub fn database(&self) -> &str {
        &self.settings.database
    }

    /// The role to connect as.
    pub fn user(&self) -> &str {
        &self.settings.user
    }

    /// The value of a keyword, unless it is a secret.
    pub fn get(&self, name: &str) -> Option<&str> {
        if SECRETS.contains(&name) { None } else { self.parameters.get(name).map(String::as_str) }
    }

    /// Where this goes and as whom, for messages. No secrets.
    pub fn describe(&self) -> String {
        let mut hosts = Vec::new();
        for host in &self.settings.hosts {
            hosts.push(host.to_string());
        }
        format!(
            "{} as user `{}`, database `{}`",
            hosts.join(", "),
            Printable(self.user()),
            Printable(self.database())
        )
    }

    /// What a standby writes as `primary_conninfo` to follow the server over the same way: every parameter, the password
    /// included as `pg_basebackup -R` has it, but those that replication sets itself. With `database`, for slot
    /// synchronization. Values are quoted only where they must be.
    pub fn primary_conninfo(&self, database: Option<&str>) -> String {
        /// Set by replication, or resolved already.
        const LEFT_OUT: [&str; 5] =
            ["dbname", "fallback_application_name", "replication", "service", "servicefile"];
        /// The first ones, in libpq's order.
        const FIRST: [&str; 5] = ["user", "password", "passfile", "host", "port"];
        let mut parameters = self.parameters.clone();
        parameters.retain(|name, value| !value.is_empty() && !LEFT_OUT.contains(name));
        if let Some(file) = &self.settings.password_file {
            parameters.entry("passfile").or_insert_with(|| raw_text(file.as_os_str().as_bytes()));
        }
        let ports: Vec<String> = self.settings.hosts.iter().map(|host| host.port.to_string()).collect();
        parameters.entry("port").or_insert_with(|| ports.join(","));
        let first = FIRST.iter().filter_map(|name| parameters.remove_entry(name)).collect::<Vec<_>>();
        let pairs = first.into_iter().chain(parameters);
        let pairs = pairs.chain(database.map(|database| ("dbname", database.to_owned())));
        let words: Vec<String> =
            pairs.map(|(name, value)| format!("{name}={}", quoted_where_needed(&value))).collect();
        words.join(" ")
    }

    /// A connection string that another program can be given: every parameter but the secrets, quoted.
    pub fn to_conninfo(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.parameters {
            if SECRETS.contains(name) {
                continue;
            }
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(name);
            text.push('=');
            push_quoted(&mut text, value);
        }
        text
    }
}

/// A value between quotes, as connection strings have it.
fn push_quoted(text: &mut String, value: &str) {
    text.push('\'');
    for character in value.chars() {
        if character == '\'' || character == '\\' {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('\'');
}

fn quoted_where_needed(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !value.is_empty() && value.bytes().all(is_plain) {
        return value.to_owned();
    }
    let mut text = String::new();
    push_quoted(&mut text, value);
    text
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in &self.parameters {
            map.entry(name, if SECRETS.contains(name) { &"…" } else { value });
        }
        map.finish()
    }
}

/// The pairs of a connection string, with its keywords checked. A text that is neither a URI nor contains `=` is a
/// database name.
pub fn parse_connection_string(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    Ok(parse_into_parameters(text)?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn parse_into_parameters(text: &str) -> Result<Parameters, ConnInfoError> {
    if text.contains('\0') {
        return Err(ConnInfoError::Syntax("it contains a zero byte".to_owned()));
    }
    if let Some(rest) = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        parse_uri(rest)
    } else if text.contains('=') {
        parse_pairs(text)
    } else {
        Ok(Parameters::from([("dbname", text.to_owned())]))
    }
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn parse_pairs(text: &str) -> Result<Parameters, ConnInfoError> {
    let mut parameters = Parameters::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|c| is_space(*c)).is_some() {}
        if characters.peek().is_none() {
            return Ok(parameters);
        }
        let mut name = String::new();
        while let Some(character) = characters.next_if(|c| *c != '=' && !is_space(*c)) {
            name.push(character);
        }
        while characters.next_if(|c| is_space(*c)).is_some() {}
        if characters.next_if_eq(&'=').is_none() {
            return Err(ConnInfoError::Syntax(format!("missing `=` after `{}`", Printable(&name))));
        }
        while characters.next_if(|c| is_space(*c)).is_some() {}
        let mut value = String::new();
        if characters.next_if_eq(&'\'').is_some() {
            loop {
                match characters.next() {
                    None => return Err(ConnInfoError::Syntax("unterminated quoted value".to_owned())),
                    Some('\'') => break,
                    Some('\\') => value.extend(characters.next()),
                    Some(character) => value.push(character),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|c| !is_space(*c)) {
                if character == '\\' {
                    value.extend(characters.next());
                } else {
                    value.push(character);
                }
            }
        }
        parameters.insert(known_keyword(&name)?, value);
    }
}

/// Splits at the first of `stops`; the second part begins with the stop.
fn split_at_any<'a>(text: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(stops).unwrap_or(text.len()))
}

fn parse_uri(text: &str) -> Result<Parameters, ConnInfoError> {
    let mut parameters = Parameters::new();
    let mut rest = text;
    if let (credentials, tail) = split_at_any(rest, &['@', '/'])
        && let Some(after) = tail.strip_prefix('@')
    {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        if !user.is_empty() {
            parameters.insert("user", percent_decode(user)?);
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            parameters.insert("password", percent_decode(password)?);
        }
        rest = after;
    }
    let (hosts, ports, after_hosts) = parse_uri_hosts(rest)?;
    rest = after_hosts;
    if hosts.iter().any(|host| !host.is_empty()) {
        parameters.insert("host", hosts.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        parameters.insert("port", ports.join(","));
    }
    if let Some(path) = rest.strip_prefix('/') {
        let (database, tail) = split_at_any(path, &['?']);
        if !database.is_empty() {
            parameters.insert("dbname", percent_decode(database)?);
        }
        rest = tail;
    }
    if let Some(query) = rest.strip_prefix('?') {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                ConnInfoError::Syntax(format!("missing `=` in URI query parameter `{}`", Printable(pair)))
            })?;
            if value.contains('=') {
                let text = format!("extra `=` in URI query parameter `{}`", Printable(name));
                return Err(ConnInfoError::Syntax(text));
            }
            let (name, value) = (percent_decode(name)?, percent_decode(value)?);
            if name == "ssl" && value == "true" {
                parameters.insert("sslmode", "require".to_owned());
            } else {
                parameters.insert(known_keyword(&name)?, value);
            }
        }
    }
    Ok(parameters)
}

/// `host[:port][,host[:port]…]`, with IPv6 addresses in brackets. Returns what follows.
fn parse_uri_hosts(text: &str) -> Result<(Vec<String>, Vec<String>, &str), ConnInfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    let mut rest = text;
    loop {
        let host;
        if let Some(bracketed) = rest.strip_prefix('[') {
            let (address, after) = bracketed
                .split_once(']')
                .ok_or_else(|| ConnInfoError::Syntax("missing `]` after an IPv6 address".to_owned()))?;
            if address.is_empty() {
                return Err(ConnInfoError::Syntax("empty IPv6 address".to_owned()));
            }
            if !(after.is_empty() || after.starts_with([':', '/', '?', ','])) {
                return Err(ConnInfoError::Syntax("unexpected character after `]`".to_owned()));
            }
            host = percent_decode(address)?;
            rest = after;
        } else {
            let (name, after) = split_at_any(rest, &[':', '/', '?', ',']);
            host = percent_decode(name)?;
            rest = after;
        }
        let mut port = String::new();
        if let Some(after_colon) = rest.strip_prefix(':') {
            let (text, after) = split_at_any(after_colon, &['/', '?', ',']);
            port = percent_decode(text)?;
            rest = after;
        }
        hosts.push(host);
        ports.push(port);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return Ok((hosts, ports, rest)),
        }
    }
}

fn percent_decode(text: &str) -> Result<String, ConnInfoError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(ConnInfoError::Syntax("a `%` is not followed by two hexadecimal digits".to_owned()));
        };
        match (high << 4) | low {
            0 => return Err(ConnInfoError::Syntax("`%00` is not allowed".to_owned())),
            value => decoded.push(value as u8),
        }
    }
    String::from_utf8(decoded).map_err(|_| ConnInfoError::Syntax("a value is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests;
