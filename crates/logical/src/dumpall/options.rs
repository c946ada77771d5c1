//! What of a cluster is dumped and how: the options of `pg_dumpall` that are not passed on to dumps of databases.

/// A dump without databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalsOnly {
    /// `-g`: everything that is in no database.
    All,
    /// `-r`
    Roles,
    /// `-t`
    Tablespaces,
}

/// What is wanted.
#[derive(Debug, Clone, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own that can be combined with all others"
)]
pub struct ClusterDumpOptions {
    /// Something else than everything.
    pub only: Option<GlobalsOnly>,
    /// What is in no database is wanted (not with `-a`, `--no-schema`, `--statistics-only`).
    pub globals: bool,
    /// `-c`: everything is dropped first.
    pub clean: bool,
    /// `--if-exists`
    pub if_exists: bool,
    /// `-l`: where to connect to.
    pub database: Option<String>,
    /// Patterns of databases that are left out.
    pub exclude_databases: Vec<String>,
    /// `-E`
    pub encoding: Option<String>,
    /// `--role`
    pub role: Option<String>,
    /// `--quote-all-identifiers`
    pub quote_all_identifiers: bool,
    /// `--no-role-passwords`: roles are read from where everyone may.
    pub no_role_passwords: bool,
    /// `-x`
    pub no_privileges: bool,
    /// `--no-comments`
    pub no_comments: bool,
    /// `--no-security-labels`
    pub no_security_labels: bool,
    /// `--no-tablespaces`
    pub no_tablespaces: bool,
    /// `--binary-upgrade`: roles and tablespaces keep their OIDs.
    pub binary_upgrade: bool,
    /// `-v`: the script says when it was made.
    pub verbose: bool,
    /// The key that keeps psql from running commands hidden in names.
    pub restrict_key: String,
}

impl ClusterDumpOptions {
    /// The catalog of roles. Only superusers may read passwords, and only the first one has them.
    pub(super) fn role_catalog(&self) -> &'static str {
        if self.no_role_passwords { "pg_catalog.pg_roles" } else { "pg_catalog.pg_authid" }
    }

    pub(super) fn if_exists(&self) -> &'static str {
        if self.if_exists { "IF EXISTS " } else { "" }
    }
}
