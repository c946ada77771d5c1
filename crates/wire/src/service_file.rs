//! `pg_service.conf`: named groups of connection parameters, read as libpq reads them.
//!
//! The user's file comes before the system's. A service that was asked for and is nowhere is an error.

use std::path::PathBuf;

use crate::conninfo::{self, Parameters};
use crate::environment::Environment;
use crate::error::ConnInfoError;

/// Where distributions put the system-wide file, when `PGSYSCONFDIR` does not say.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc", "/usr/local/pgsql/etc"];

/// The parameters of `service`: from the given file (or `PGSERVICEFILE`, or `~/.pg_service.conf`), then from the
/// system-wide one.
pub(crate) fn lookup(
    service: &str,
    file: Option<&str>,
    environment: &Environment,
) -> Result<Parameters, ConnInfoError> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    let given = file.or_else(|| environment.get("PGSERVICEFILE")).filter(|path| !path.is_empty());
    match (given, environment.home()) {
        (Some(path), _) => candidates.push(path.into()),
        (None, Some(home)) => candidates.push(home.join(".pg_service.conf")),
        (None, None) => {}
    }
    match environment.get("PGSYSCONFDIR") {
        Some(directory) => candidates.push(PathBuf::from(directory).join("pg_service.conf")),
        None => candidates
            .extend(SYSTEM_DIRECTORIES.iter().map(|path| PathBuf::from(path).join("pg_service.conf"))),
    }
    let mut searched = Vec::new();
    for path in candidates {
        let shown = path.display().to_string();
        let is_given = given == Some(shown.as_str());
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let found = find_service(&text, service)
                    .map_err(|reason| ConnInfoError::ServiceFile { path: shown.clone(), reason })?;
                if let Some(parameters) = found {
                    return Ok(parameters);
                }
                searched.push(shown);
            }
            Err(error) if !is_given && error.kind() == std::io::ErrorKind::NotFound => searched.push(shown),
            Err(error) => return Err(ConnInfoError::ServiceFile { path: shown, reason: error.to_string() }),
        }
    }
    Err(ConnInfoError::ServiceNotFound { service: service.to_owned(), searched: searched.join(", ") })
}

/// The section named `service`, or `None`. The first value of a keyword counts.
fn find_service(text: &str, service: &str) -> Result<Option<Parameters>, String> {
    let mut found: Option<Parameters> = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if section.strip_suffix(']') == Some(service) {
                found = Some(Parameters::new());
            }
            continue;
        }
        let Some(parameters) = &mut found else { continue };
        let number = index + 1;
        if line.starts_with("ldap://") || line.starts_with("ldaps://") {
            return Err(format!("line {number}: LDAP lookup is not supported"));
        }
        let (name, value) =
            line.split_once('=').ok_or_else(|| format!("line {number}: expected `keyword=value`"))?;
        let name = name.trim_end();
        if matches!(name, "service" | "servicefile") {
            return Err(format!("line {number}: `{name}` cannot be used in a service file"));
        }
        let keyword =
            conninfo::keyword(name).ok_or_else(|| format!("line {number}: unknown keyword `{name}`"))?;
        parameters.entry(keyword).or_insert_with(|| value.trim_start().to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conninfo::ConnInfo;

    const FILE: &str =
        "# comment\n[a]\nhost=one\nport=6001\n\n[b]\n  host=two\nuser=bob\npassword=p w\n[c]\nnonsense\n";

    #[test]
    fn only_the_named_section_is_read() {
        let found = find_service(FILE, "b").unwrap().unwrap();
        assert_eq!(found.get("host").map(String::as_str), Some("two"));
        assert_eq!(found.get("password").map(String::as_str), Some("p w"));
        assert_eq!(find_service(FILE, "d").unwrap(), None);
        assert!(find_service(FILE, "c").unwrap_err().contains("line 11"));
        assert!(find_service("[x]\nhots=1", "x").is_err());
        assert!(find_service("[x]\nservice=y", "x").is_err());
    }

    #[test]
    fn the_string_goes_before_the_service_and_the_service_before_variables() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services");
        std::fs::write(&path, FILE).unwrap();
        let environment = Environment::from_iter(
            [
                ("PGSERVICEFILE", path.to_str().unwrap()),
                ("PGUSER", "env"),
                ("PGHOST", "env"),
                ("PGDATABASE", "envdb"),
            ],
            None,
        );
        let info = ConnInfo::resolve(Some("service=b port=7000"), &environment).unwrap();
        assert_eq!((info.get("host"), info.user(), info.get("port")), (Some("two"), "bob", Some("7000")));
        assert_eq!(info.database(), "envdb");
        let error = ConnInfo::resolve(Some("service=zz"), &environment).unwrap_err();
        assert!(
            matches!(&error, ConnInfoError::ServiceNotFound { service, .. } if service == "zz"),
            "{error}"
        );
        assert!(error.to_string().contains("services"));
    }
}
