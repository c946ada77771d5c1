//! The typed meaning of connection parameters: what libpq (up to 18) means by each text.
//!
//! A wrong value is refused before anything is connected. Passwords do not show themselves.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::conninfo::Parameters;
use crate::error::{ConnInfoError, Printable};

/// A password that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Password {
        Password(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// One value out of a closed list, as users write it.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident, $keyword:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub(crate) fn parse(value: &str) -> Result<$name, ConnInfoError> {
                match value {
                    $($text => Ok($name::$variant),)+
                    _ => Err(invalid($keyword, value, concat!("expected one of", $(" `", $text, "`"),+))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $text),+ })
            }
        }
    };
}

choice! {
    /// How much TLS is wanted.
    SslMode, "sslmode" {
        /// Never.
        Disable = "disable",
        /// Only when the server refuses a plain connection.
        Allow = "allow",
        /// When the server offers it.
        Prefer = "prefer",
        /// Always; the certificate is checked only when a root certificate file exists.
        Require = "require",
        /// Always, with a certificate of a trusted authority.
        VerifyCa = "verify-ca",
        /// Always, with a trusted certificate that names the host.
        VerifyFull = "verify-full",
    }
}

choice! {
    /// How TLS begins.
    SslNegotiation, "sslnegotiation" {
        /// Ask first, as every server understands.
        Postgres = "postgres",
        /// Begin at once (servers from 17).
        Direct = "direct",
    }
}

choice! {
    /// Whether SCRAM must be bound to the TLS channel.
    ChannelBindingMode, "channel_binding" {
        /// Never.
        Disable = "disable",
        /// When the server offers it.
        Prefer = "prefer",
        /// Always.
        Require = "require",
    }
}

choice! {
    /// Which server of a list will do.
    TargetSession, "target_session_attrs" {
        /// Any that lets us in.
        Any = "any",
        /// One whose sessions may write.
        ReadWrite = "read-write",
        /// One whose sessions may not write.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One that is in recovery.
        Standby = "standby",
        /// A standby if there is one, else any.
        PreferStandby = "prefer-standby",
    }
}

choice! {
    /// In which order the hosts are tried.
    LoadBalance, "load_balance_hosts" {
        /// As given.
        Disable = "disable",
        /// At random.
        Random = "random",
    }
}

choice! {
    #[allow(unreachable_pub, reason = "the macro makes public enums; this one stays in the crate")]
    /// Whether a client certificate is sent.
    SslCertMode, "sslcertmode" {
        /// Never.
        Disable = "disable",
        /// When there is one and the server asks.
        Allow = "allow",
        /// The server must ask for it.
        Require = "require",
    }
}

/// Which certificate authorities are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SslRoots {
    /// Those of the operating system.
    System,
    /// Those in this file; when it is the default one it may be missing.
    File(PathBuf),
    /// None known: no home directory and no file given.
    None,
}

/// One element of the host list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostSpec {
    /// Name, address or socket directory; `None` for the default socket directories.
    pub(crate) host: Option<String>,
    /// The address to use instead of resolving the name.
    pub(crate) hostaddr: Option<IpAddr>,
    pub(crate) port: u16,
}

impl HostSpec {
    /// The socket directory when this is not TCP; `Some(None)` means the default ones.
    pub(crate) fn socket_directory(&self) -> Option<Option<&str>> {
        match (&self.host, self.hostaddr) {
            (_, Some(_)) => None,
            (None, None) => Some(None),
            (Some(host), None) => (host.starts_with('/') || host.starts_with('@')).then_some(Some(host)),
        }
    }
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.hostaddr, self.socket_directory()) {
            (_, _, Some(Some(directory))) => write!(f, "{}/.s.PGSQL.{}", Printable(directory), self.port),
            (_, _, Some(None)) => write!(f, "local socket, port {}", self.port),
            (Some(host), _, _) => write!(f, "{}:{}", Printable(host), self.port),
            (None, Some(address), _) => write!(f, "{address}:{}", self.port),
            (None, None, None) => write!(f, "port {}", self.port),
        }
    }
}

/// What `require_auth` allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequiredAuth {
    /// Empty: everything is allowed.
    methods: Vec<String>,
    negated: bool,
}

impl RequiredAuth {
    fn parse(value: &str) -> Result<RequiredAuth, ConnInfoError> {
        const METHODS: [&str; 7] = ["password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"];
        let mut required = RequiredAuth::default();
        if value.is_empty() {
            return Ok(required);
        }
        for (index, part) in value.split(',').map(str::trim).enumerate() {
            let (negated, method) = match part.strip_prefix('!') {
                Some(method) => (true, method),
                None => (false, part),
            };
            if index > 0 && negated != required.negated {
                return Err(invalid("require_auth", value, "negative and positive methods cannot be mixed"));
            }
            required.negated = negated;
            if !METHODS.contains(&method) {
                return Err(invalid("require_auth", value, "unknown authentication method"));
            }
            if required.methods.iter().any(|known| known == method) {
                return Err(invalid("require_auth", value, "a method is given twice"));
            }
            required.methods.push(method.to_owned());
        }
        Ok(required)
    }

    pub(crate) fn allows(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|known| known == method) != self.negated
    }
}

/// Liveness of TCP connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) enabled: bool,
    pub(crate) idle: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) count: Option<u32>,
    /// In milliseconds, as the kernel takes it.
    pub(crate) user_timeout: Option<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct SslSettings {
    pub(crate) mode: SslMode,
    pub(crate) negotiation: SslNegotiation,
    pub(crate) roots: SslRoots,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// False when certificate and key are the default files, which may be missing.
    pub(crate) certificate_given: bool,
    pub(crate) certificate_mode: SslCertMode,
    pub(crate) revocation_list: Option<PathBuf>,
    pub(crate) send_server_name: bool,
    pub(crate) minimum_is_tls13: bool,
    pub(crate) maximum_is_tls12: bool,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) hosts: Vec<HostSpec>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: Option<Password>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) application_name: String,
    pub(crate) options: Option<String>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) target_session: TargetSession,
    pub(crate) load_balance: LoadBalance,
    pub(crate) ssl: SslSettings,
    pub(crate) channel_binding: ChannelBindingMode,
    pub(crate) require_auth: RequiredAuth,
    pub(crate) require_peer: Option<String>,
    pub(crate) keepalive: Keepalive,
}

fn invalid(keyword: &'static str, value: &str, reason: impl Into<String>) -> ConnInfoError {
    ConnInfoError::InvalidValue { keyword, value: value.to_owned(), reason: reason.into() }
}

/// Access to the parameters where an empty value counts as not given, as in libpq.
struct Given<'a>(&'a Parameters);

impl<'a> Given<'a> {
    fn text(&self, keyword: &'static str) -> Option<&'a str> {
        self.0.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn choice<T>(
        &self,
        keyword: &'static str,
        parse: fn(&str) -> Result<T, ConnInfoError>,
        default: T,
    ) -> Result<T, ConnInfoError> {
        self.text(keyword).map_or(Ok(default), parse)
    }

    fn integer(&self, keyword: &'static str) -> Result<Option<i32>, ConnInfoError> {
        self.text(keyword)
            .map(|value| value.trim().parse().map_err(|_| invalid(keyword, value, "expected an integer")))
            .transpose()
    }

    /// A positive number; zero and less mean the system's default.
    fn positive(&self, keyword: &'static str) -> Result<Option<u32>, ConnInfoError> {
        Ok(self.integer(keyword)?.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0))
    }

    fn seconds(&self, keyword: &'static str) -> Result<Option<Duration>, ConnInfoError> {
        Ok(self.positive(keyword)?.map(|seconds| Duration::from_secs(seconds.into())))
    }
}

impl Settings {
    pub(crate) fn from_parameters(
        parameters: &Parameters,
        home: Option<&Path>,
    ) -> Result<Settings, ConnInfoError> {
        for (name, value) in parameters {
            if value.contains('\0') {
                return Err(invalid(name, "", "it contains a zero byte"));
            }
        }
        let given = Given(parameters);
        if let Some(value @ "require") = given.text("gssencmode") {
            return Err(invalid("gssencmode", value, "GSSAPI encryption is not supported"));
        }
        if let Some(value) =
            given.text("max_protocol_version").filter(|value| !matches!(*value, "3.0" | "3.2" | "latest"))
        {
            return Err(invalid("max_protocol_version", value, "expected `3.0`, `3.2` or `latest`"));
        }
        if let Some(value) = given.text("min_protocol_version").filter(|value| *value != "3.0") {
            return Err(invalid("min_protocol_version", value, "only protocol 3.0 is supported"));
        }
        let user = given.text("user").ok_or(ConnInfoError::NoUser)?.to_owned();
        let application_name = given
            .text("application_name")
            .or_else(|| given.text("fallback_application_name"))
            .unwrap_or("pgkeep")
            .to_owned();
        Ok(Settings {
            hosts: host_list(&given)?,
            database: given.text("dbname").unwrap_or(&user).to_owned(),
            user,
            password: given.text("password").map(Password::new),
            password_file: given
                .text("passfile")
                .map(PathBuf::from)
                .or_else(|| home.map(|home| home.join(".pgpass"))),
            application_name,
            options: given.text("options").map(str::to_owned),
            connect_timeout: given.seconds("connect_timeout")?,
            target_session: given.choice("target_session_attrs", TargetSession::parse, TargetSession::Any)?,
            load_balance: given.choice("load_balance_hosts", LoadBalance::parse, LoadBalance::Disable)?,
            ssl: ssl_settings(&given, home)?,
            channel_binding: given.choice(
                "channel_binding",
                ChannelBindingMode::parse,
                ChannelBindingMode::Prefer,
            )?,
            require_auth: RequiredAuth::parse(given.text("require_auth").unwrap_or(""))?,
            require_peer: given.text("requirepeer").map(str::to_owned),
            keepalive: Keepalive {
                enabled: given.integer("keepalives")?.unwrap_or(1) != 0,
                idle: given.seconds("keepalives_idle")?,
                interval: given.seconds("keepalives_interval")?,
                count: given.positive("keepalives_count")?,
                user_timeout: given.positive("tcp_user_timeout")?,
            },
        })
    }
}

fn host_list(given: &Given<'_>) -> Result<Vec<HostSpec>, ConnInfoError> {
    let split = |keyword| given.text(keyword).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let hosts = split("host");
    let addresses = split("hostaddr");
    let ports = split("port").unwrap_or_else(|| vec![""]);
    let count = match (&hosts, &addresses) {
        (Some(hosts), Some(addresses)) if hosts.len() != addresses.len() => {
            return Err(ConnInfoError::HostList(format!(
                "{} host names but {} addresses (`host`, `hostaddr`)",
                hosts.len(),
                addresses.len()
            )));
        }
        (_, Some(addresses)) => addresses.len(),
        (Some(hosts), None) => hosts.len(),
        (None, None) => 1,
    };
    if ports.len() != 1 && ports.len() != count {
        return Err(ConnInfoError::HostList(format!("{} ports for {count} hosts (`port`)", ports.len())));
    }
    let mut list = Vec::with_capacity(count);
    for index in 0..count {
        let port = match ports[if ports.len() == 1 { 0 } else { index }] {
            "" => 5432,
            text => match text.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return Err(invalid("port", text, "expected a number from 1 to 65535")),
            },
        };
        let hostaddr =
            match addresses.as_ref().map(|addresses| addresses[index]).filter(|text| !text.is_empty()) {
                None => None,
                Some(text) => Some(
                    text.parse().map_err(|_| invalid("hostaddr", text, "expected a numeric IP address"))?,
                ),
            };
        let host = hosts.as_ref().map(|hosts| hosts[index]).filter(|text| !text.is_empty());
        list.push(HostSpec { host: host.map(str::to_owned), hostaddr, port });
    }
    Ok(list)
}

fn ssl_settings(given: &Given<'_>, home: Option<&Path>) -> Result<SslSettings, ConnInfoError> {
    let directory = home.map(|home| home.join(".postgresql"));
    let default_file = |name: &str| directory.as_ref().map(|directory| directory.join(name));
    let roots = match given.text("sslrootcert") {
        Some("system") => SslRoots::System,
        Some(path) => SslRoots::File(path.into()),
        None => default_file("root.crt").map_or(SslRoots::None, SslRoots::File),
    };
    let default_mode = if roots == SslRoots::System { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = given.choice("sslmode", SslMode::parse, default_mode)?;
    if roots == SslRoots::System && mode != SslMode::VerifyFull {
        let reason = "too weak for `sslrootcert=system`: use `verify-full`";
        return Err(invalid("sslmode", &mode.to_string(), reason));
    }
    let negotiation = given.choice("sslnegotiation", SslNegotiation::parse, SslNegotiation::Postgres)?;
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        let reason = "too weak for `sslnegotiation=direct`: use `require` or more";
        return Err(invalid("sslmode", &mode.to_string(), reason));
    }
    let version = |keyword| match given.text(keyword) {
        None => Ok(None),
        Some(text) => match text.to_ascii_lowercase().as_str() {
            "tlsv1" | "tlsv1.1" | "tlsv1.2" => Ok(Some(12)),
            "tlsv1.3" => Ok(Some(13)),
            _ => Err(invalid(keyword, text, "expected `TLSv1.2` or `TLSv1.3`")),
        },
    };
    let minimum = version("ssl_min_protocol_version")?;
    let maximum = version("ssl_max_protocol_version")?;
    if minimum == Some(13) && maximum == Some(12) {
        let text = given.text("ssl_max_protocol_version").unwrap_or_default();
        return Err(invalid("ssl_max_protocol_version", text, "less than the minimum"));
    }
    Ok(SslSettings {
        mode,
        negotiation,
        roots,
        certificate: given.text("sslcert").map(PathBuf::from).or_else(|| default_file("postgresql.crt")),
        key: given.text("sslkey").map(PathBuf::from).or_else(|| default_file("postgresql.key")),
        certificate_given: given.text("sslcert").is_some(),
        certificate_mode: given.choice("sslcertmode", SslCertMode::parse, SslCertMode::Allow)?,
        revocation_list: given.text("sslcrl").map(PathBuf::from),
        send_server_name: given.integer("sslsni")?.unwrap_or(1) != 0,
        minimum_is_tls13: minimum == Some(13),
        maximum_is_tls12: maximum == Some(12),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conninfo::ConnInfo;
    use crate::environment::Environment;

    fn settings(text: &str) -> Result<Settings, ConnInfoError> {
        let environment = Environment::from_iter([("PGUSER", "u")], Some("/home/u".into()));
        ConnInfo::resolve(Some(text), &environment).map(|info| info.settings)
    }

    #[test]
    fn host_lists_pair_with_ports() {
        let hosts = settings("host=a,b,/run port=1,2,3").unwrap().hosts;
        assert_eq!(hosts.iter().map(|host| host.port).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(hosts[2].socket_directory(), Some(Some("/run")));
        assert_eq!(settings("host=a,b port=7").unwrap().hosts[1].port, 7);
        assert!(matches!(settings("host=a,b,c port=7,8"), Err(ConnInfoError::HostList(_))));
        assert!(matches!(settings("host=a,b hostaddr=127.0.0.1"), Err(ConnInfoError::HostList(_))));
        assert_eq!(settings("dbname=x").unwrap().hosts[0].socket_directory(), Some(None));
        assert!(settings("port=70000 host=a").is_err());
        assert!(settings("hostaddr=nonsense").is_err());
    }

    #[test]
    fn require_auth_lists() {
        let required = settings("require_auth=scram-sha-256,md5").unwrap().require_auth;
        assert!(required.allows("md5") && !required.allows("password") && !required.allows("none"));
        let forbidden = settings("require_auth=!password,!none").unwrap().require_auth;
        assert!(forbidden.allows("md5") && !forbidden.allows("none"));
        assert!(settings("require_auth=md5,!none").is_err());
        assert!(settings("require_auth=md4").is_err());
        assert!(settings("require_auth=md5,md5").is_err());
        assert!(settings("host=x").unwrap().require_auth.allows("none"));
    }

    #[test]
    fn weak_modes_do_not_go_with_system_roots_or_direct_tls() {
        assert_eq!(settings("sslrootcert=system").unwrap().ssl.mode, SslMode::VerifyFull);
        assert!(settings("sslrootcert=system sslmode=require").is_err());
        assert!(settings("sslnegotiation=direct sslmode=prefer").is_err());
        assert!(settings("sslnegotiation=direct sslmode=require").is_ok());
        assert!(settings("sslmode=sometimes").is_err());
    }

    #[test]
    fn defaults() {
        let settings = settings("host=x").unwrap();
        assert_eq!(settings.application_name, "pgkeep");
        assert_eq!(settings.ssl.mode, SslMode::Prefer);
        assert_eq!(settings.ssl.roots, SslRoots::File("/home/u/.postgresql/root.crt".into()));
        assert_eq!(settings.password_file.as_deref(), Some(Path::new("/home/u/.pgpass")));
        assert_eq!(settings.connect_timeout, None);
        assert!(settings.keepalive.enabled);
    }
}
