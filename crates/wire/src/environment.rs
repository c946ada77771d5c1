//! The environment that matters to a connection, captured by the caller: this crate never reads it itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// `PG*` variables, the home directory and the login name.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
}

impl Environment {
    /// No variables and no home: for tests and for services that take everything from the connection string.
    pub fn empty() -> Environment {
        Environment::default()
    }

    /// Keeps the `PG*` variables (and `USER`, `LOGNAME`) of `variables`. Give `std::env::vars()` and the home directory.
    pub fn from_iter<I, K, V>(variables: I, home: Option<PathBuf>) -> Environment
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(name, _)| name.starts_with("PG") || name == "USER" || name == "LOGNAME")
            .collect();
        Environment { variables, home }
    }

    /// One variable; an empty one counts as set, as in libpq.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The home directory.
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The name of the system user: by its number in `/etc/passwd`, else `USER` or `LOGNAME` (users of a directory
    /// service have no line in the file).
    pub(crate) fn user_name(&self) -> Option<String> {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        user_name_in(&passwd, rustix::process::geteuid().as_raw())
            .or_else(|| self.get("USER").map(str::to_owned))
            .or_else(|| self.get("LOGNAME").map(str::to_owned))
            .filter(|name| !name.is_empty())
    }
}

pub(crate) fn user_name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?;
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: BTreeMap<&str, &str> = self
            .variables
            .iter()
            .map(|(name, value)| {
                let secret = name.contains("PASSWORD") || name.contains("SECRET");
                (name.as_str(), if secret { "…" } else { value.as_str() })
            })
            .collect();
        f.debug_struct("Environment").field("variables", &shown).field("home", &self.home).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_postgresql_variables_are_kept_and_the_password_is_not_shown() {
        let environment = Environment::from_iter(
            [("PGPASSWORD", "s3cret"), ("PGHOST", "db"), ("AWS_SECRET", "x"), ("PATH", "/bin")],
            None,
        );
        assert_eq!(environment.get("PGHOST"), Some("db"));
        assert_eq!(environment.get("PATH"), None);
        assert!(!format!("{environment:?}").contains("s3cret"));
    }

    #[test]
    fn the_user_name_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:26:26::/var/lib/pgsql:/bin/bash\nbroken\n";
        assert_eq!(user_name_in(passwd, 26).as_deref(), Some("postgres"));
        assert_eq!(user_name_in(passwd, 27), None);
    }
}
