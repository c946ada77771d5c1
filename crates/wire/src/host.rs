//! From the host list to addresses, in the order in which they are tried.
//!
//! As in libpq, each host of the list stands for all its addresses, and a host without a name is a Unix socket: in
//! Debian's directory first, then in PostgreSQL's own.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use crate::error::{Endpoint, WireError};
use crate::settings::{HostSpec, LoadBalance};
use crate::stream::SocketAddress;

/// Debian's directory, then PostgreSQL's own default.
pub(crate) const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// One address of one host.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddress,
    pub(crate) endpoint: Endpoint,
    /// What the certificate must name; `None` for Unix-domain sockets and bare `hostaddr`.
    pub(crate) host_name: Option<String>,
    /// What a password file may call this host.
    pub(crate) password_hosts: Vec<String>,
    pub(crate) port: u16,
}

/// The addresses of one element of the host list. Resolving a name is the only thing that can fail.
pub(crate) fn targets(spec: &HostSpec, load_balance: LoadBalance) -> Result<Vec<Target>, WireError> {
    if let Some(directory) = spec.socket_directory() {
        return Ok(vec![unix_target(spec, directory)]);
    }
    let shown = match (&spec.host, spec.hostaddr) {
        (Some(host), _) => host.clone(),
        (None, Some(address)) => address.to_string(),
        (None, None) => String::new(),
    };
    let mut addresses: Vec<SocketAddr> = match spec.hostaddr {
        Some(address) => vec![SocketAddr::new(address, spec.port)],
        None => {
            let unreachable = |source| WireError::Unreachable {
                endpoint: Endpoint::Tcp { host: shown.clone(), address: None, port: spec.port },
                source,
            };
            let found: Vec<SocketAddr> =
                (shown.as_str(), spec.port).to_socket_addrs().map_err(unreachable)?.collect();
            if found.is_empty() {
                return Err(unreachable(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
            }
            found
        }
    };
    if load_balance == LoadBalance::Random {
        shuffle(&mut addresses);
    }
    Ok(addresses
        .into_iter()
        .map(|address| Target {
            address: SocketAddress::Tcp(address),
            endpoint: Endpoint::Tcp { host: shown.clone(), address: Some(address.ip()), port: spec.port },
            host_name: spec.host.clone(),
            password_hosts: vec![shown.clone()],
            port: spec.port,
        })
        .collect())
}

fn unix_target(spec: &HostSpec, directory: Option<&str>) -> Target {
    let file = format!(".s.PGSQL.{}", spec.port);
    let directory = match directory {
        Some(directory) => directory.to_owned(),
        None => DEFAULT_SOCKET_DIRECTORIES
            .into_iter()
            .find(|directory| PathBuf::from(directory).join(&file).exists())
            .unwrap_or(DEFAULT_SOCKET_DIRECTORIES[0])
            .to_owned(),
    };
    let path = PathBuf::from(&directory).join(file);
    let mut password_hosts = vec![directory];
    if DEFAULT_SOCKET_DIRECTORIES.contains(&password_hosts[0].as_str()) {
        password_hosts.push("localhost".to_owned());
    }
    Target {
        address: SocketAddress::Unix(path.clone()),
        endpoint: Endpoint::Unix(path),
        host_name: None,
        password_hosts,
        port: spec.port,
    }
}

/// Fisher–Yates over a small list; the randomness of a hash map's seed is plenty for spreading load.
pub(crate) fn shuffle<T>(items: &mut [T]) {
    for index in (1..items.len()).rev() {
        let random = RandomState::new().build_hasher().finish();
        let other = usize::try_from(random % (index as u64 + 1)).unwrap_or(0);
        items.swap(index, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(host: Option<&str>, hostaddr: Option<&str>) -> HostSpec {
        HostSpec {
            host: host.map(str::to_owned),
            hostaddr: hostaddr.map(|text| text.parse().unwrap()),
            port: 6000,
        }
    }

    #[test]
    fn an_address_goes_before_the_name_but_the_name_stays_for_tls_and_passwords() {
        let found = targets(&spec(Some("no.such.host"), Some("127.0.0.1")), LoadBalance::Disable).unwrap();
        assert_eq!(found[0].address, SocketAddress::Tcp("127.0.0.1:6000".parse().unwrap()));
        assert_eq!(found[0].host_name.as_deref(), Some("no.such.host"));
        assert_eq!(found[0].password_hosts, ["no.such.host"]);
    }

    #[test]
    fn the_default_socket_counts_as_localhost_in_password_files() {
        let found = targets(&spec(None, None), LoadBalance::Disable).unwrap();
        assert!(found[0].password_hosts.iter().any(|host| host == "localhost"));
        let found = targets(&spec(Some("/elsewhere"), None), LoadBalance::Disable).unwrap();
        assert_eq!(found[0].password_hosts, ["/elsewhere"]);
        assert_eq!(found[0].address, SocketAddress::Unix("/elsewhere/.s.PGSQL.6000".into()));
    }

    #[test]
    fn shuffling_loses_nothing() {
        let mut items: Vec<u32> = (0..20).collect();
        shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, (0..20).collect::<Vec<_>>());
    }
}
