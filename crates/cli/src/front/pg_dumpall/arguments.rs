//! The options of `pg_dumpall` 18: reading them, which do not go together, and which are passed on to dumps of databases.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use pgkeep_logical::dumpall::{ClusterDumpOptions, GlobalsOnly};
use pgkeep_logical::filter::FilterAction;
use pgkeep_wire::ConnInfo;

use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::password::Prompt;
use crate::front::program::{Mistake, no_more, read_options};
use crate::front::values::{
    beneath_options, check_if_exists, filter_file, filter_pattern, not_allowed, restrict_key, text,
};

/// A command line, checked.
pub(super) struct Arguments {
    pub(super) options: ClusterDumpOptions,
    /// Of any database: each is named later.
    pub(super) connection: ConnInfo,
    pub(super) prompt: Prompt,
    pub(super) file: Option<PathBuf>,
    pub(super) sync: bool,
    /// The options for dumps of databases.
    pub(super) dump_words: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    DataOnly,
    Clean,
    ConnectionString,
    Encoding,
    File,
    GlobalsOnly,
    Host,
    Database,
    NoOwner,
    Port,
    RolesOnly,
    SchemaOnly,
    Superuser,
    TablespacesOnly,
    User,
    Verbose,
    NoPassword,
    Password,
    NoPrivileges,
    ExcludeDatabase,
    ExtraFloatDigits,
    Filter,
    IfExists,
    LockWaitTimeout,
    NoRolePasswords,
    NoSync,
    Restriction,
    Role,
    RowsPerInsert,
    /// A switch that is passed on, as it is written.
    PassedOn(&'static str),
}

/// The switches that are passed on behind all others, in stock's order.
const PASSED_ON: [&str; 24] = [
    "--binary-upgrade",
    "--column-inserts",
    "--disable-dollar-quoting",
    "--disable-triggers",
    "--inserts",
    "--no-table-access-method",
    "--no-tablespaces",
    "--quote-all-identifiers",
    "--load-via-partition-root",
    "--use-set-session-authorization",
    "--no-comments",
    "--no-data",
    "--no-policies",
    "--no-publications",
    "--no-security-labels",
    "--no-schema",
    "--no-statistics",
    "--no-subscriptions",
    "--no-toast-compression",
    "--no-unlogged-table-data",
    "--statistics",
    "--on-conflict-do-nothing",
    "--statistics-only",
    "--sequence-data",
];

const SPECS: &[OptionSpec<Key>] = &[
    flag("data-only", b'a', Key::DataOnly),
    flag("clean", b'c', Key::Clean),
    value("encoding", b'E', Key::Encoding),
    value("file", b'f', Key::File),
    flag("globals-only", b'g', Key::GlobalsOnly),
    value("host", b'h', Key::Host),
    value("dbname", b'd', Key::ConnectionString),
    value("database", b'l', Key::Database),
    flag("no-owner", b'O', Key::NoOwner),
    value("port", b'p', Key::Port),
    flag("roles-only", b'r', Key::RolesOnly),
    flag("schema-only", b's', Key::SchemaOnly),
    value("superuser", b'S', Key::Superuser),
    flag("tablespaces-only", b't', Key::TablespacesOnly),
    value("username", b'U', Key::User),
    flag("verbose", b'v', Key::Verbose),
    flag("no-password", b'w', Key::NoPassword),
    flag("password", b'W', Key::Password),
    flag("no-privileges", b'x', Key::NoPrivileges),
    flag("no-acl", 0, Key::NoPrivileges),
    flag("attribute-inserts", 0, Key::PassedOn("--column-inserts")),
    flag("binary-upgrade", 0, Key::PassedOn("--binary-upgrade")),
    flag("column-inserts", 0, Key::PassedOn("--column-inserts")),
    flag("disable-dollar-quoting", 0, Key::PassedOn("--disable-dollar-quoting")),
    flag("disable-triggers", 0, Key::PassedOn("--disable-triggers")),
    value("exclude-database", 0, Key::ExcludeDatabase),
    value("extra-float-digits", 0, Key::ExtraFloatDigits),
    flag("if-exists", 0, Key::IfExists),
    flag("inserts", 0, Key::PassedOn("--inserts")),
    value("lock-wait-timeout", 0, Key::LockWaitTimeout),
    flag("no-table-access-method", 0, Key::PassedOn("--no-table-access-method")),
    flag("no-tablespaces", 0, Key::PassedOn("--no-tablespaces")),
    flag("quote-all-identifiers", 0, Key::PassedOn("--quote-all-identifiers")),
    flag("load-via-partition-root", 0, Key::PassedOn("--load-via-partition-root")),
    value("role", 0, Key::Role),
    flag("use-set-session-authorization", 0, Key::PassedOn("--use-set-session-authorization")),
    flag("no-comments", 0, Key::PassedOn("--no-comments")),
    flag("no-data", 0, Key::PassedOn("--no-data")),
    flag("no-policies", 0, Key::PassedOn("--no-policies")),
    flag("no-publications", 0, Key::PassedOn("--no-publications")),
    flag("no-role-passwords", 0, Key::NoRolePasswords),
    flag("no-schema", 0, Key::PassedOn("--no-schema")),
    flag("no-security-labels", 0, Key::PassedOn("--no-security-labels")),
    flag("no-subscriptions", 0, Key::PassedOn("--no-subscriptions")),
    flag("no-statistics", 0, Key::PassedOn("--no-statistics")),
    flag("no-sync", 0, Key::NoSync),
    flag("no-toast-compression", 0, Key::PassedOn("--no-toast-compression")),
    flag("no-unlogged-table-data", 0, Key::PassedOn("--no-unlogged-table-data")),
    flag("on-conflict-do-nothing", 0, Key::PassedOn("--on-conflict-do-nothing")),
    value("rows-per-insert", 0, Key::RowsPerInsert),
    flag("statistics", 0, Key::PassedOn("--statistics")),
    flag("statistics-only", 0, Key::PassedOn("--statistics-only")),
    value("filter", 0, Key::Filter),
    flag("sequence-data", 0, Key::PassedOn("--sequence-data")),
    value("restrict-key", 0, Key::Restriction),
];

/// Options and what is read of them.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option")]
struct Reading {
    options: ClusterDumpOptions,
    file: Option<PathBuf>,
    no_sync: bool,
    dump_words: Vec<OsString>,
    switches: BTreeSet<&'static str>,
    connection_string: Option<String>,
    connection: Vec<(String, String)>,
    data_only: bool,
    globals_only: bool,
    roles_only: bool,
    tablespaces_only: bool,
    prompt: Prompt,
    restrict_key: Option<String>,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut reading = Reading::default();
        let operands = read_options(SPECS, words, |key, value| reading.take(key, &value))?;
        no_more(operands.into_iter())?;
        reading.check()?;
        reading.finish()
    }
}

impl Reading {
    fn take(&mut self, key: Key, value: &OsStr) -> Result<(), Mistake> {
        let options = &mut self.options;
        let mut pass = |words: &[&OsStr]| self.dump_words.extend(words.iter().map(|word| (*word).to_owned()));
        match key {
            Key::DataOnly => {
                self.data_only = true;
                pass(&["-a".as_ref()]);
            }
            Key::Clean => options.clean = true,
            Key::ConnectionString => self.connection_string = Some(text(value)),
            Key::Encoding => {
                options.encoding = Some(text(value));
                pass(&["-E".as_ref(), value]);
            }
            Key::File => self.file = Some(value.into()),
            Key::GlobalsOnly => self.globals_only = true,
            Key::Host => self.connection.push(("host".to_owned(), text(value))),
            Key::Database => options.database = Some(text(value)),
            Key::NoOwner => pass(&["-O".as_ref()]),
            Key::Port => self.connection.push(("port".to_owned(), text(value))),
            Key::RolesOnly => self.roles_only = true,
            Key::SchemaOnly => pass(&["-s".as_ref()]),
            Key::Superuser => pass(&["-S".as_ref(), value]),
            Key::TablespacesOnly => self.tablespaces_only = true,
            Key::User => self.connection.push(("user".to_owned(), text(value))),
            Key::Verbose => {
                options.verbose = true;
                pass(&["-v".as_ref()]);
            }
            Key::NoPassword => {
                self.prompt = Prompt::Never;
                pass(&["-w".as_ref()]);
            }
            Key::Password => self.prompt = Prompt::First,
            Key::NoPrivileges => {
                options.no_privileges = true;
                pass(&["-x".as_ref()]);
            }
            Key::ExcludeDatabase => options.exclude_databases.push(text(value)),
            Key::ExtraFloatDigits => pass(&["--extra-float-digits".as_ref(), value]),
            Key::Filter => self.read_filter(Path::new(value))?,
            Key::IfExists => options.if_exists = true,
            Key::LockWaitTimeout => pass(&["--lock-wait-timeout".as_ref(), value]),
            Key::NoRolePasswords => options.no_role_passwords = true,
            Key::NoSync => {
                self.no_sync = true;
                pass(&["--no-sync".as_ref()]);
            }
            Key::Restriction => {
                self.restrict_key = Some(value.to_string_lossy().into_owned());
                pass(&["--restrict-key".as_ref(), value]);
            }
            Key::Role => {
                options.role = Some(text(value));
                pass(&["--role".as_ref(), value]);
            }
            Key::RowsPerInsert => pass(&["--rows-per-insert".as_ref(), value]),
            Key::PassedOn(switch) => drop(self.switches.insert(switch)),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Mistake> {
        const GLOBALS: &str = "-g/--globals-only";
        const ROLES: &str = "-r/--roles-only";
        const TABLESPACES: &str = "-t/--tablespaces-only";
        let Reading { globals_only, roles_only, tablespaces_only, .. } = *self;
        let together = |first: &str, second: &str| {
            Err(Mistake::TryHelp(format!("options {first} and {second} cannot be used together")))
        };
        if !self.options.exclude_databases.is_empty() && (globals_only || roles_only || tablespaces_only) {
            return Err(Mistake::TryHelp(format!(
                "option --exclude-database cannot be used together with {GLOBALS}, {ROLES}, or {TABLESPACES}"
            )));
        }
        if globals_only && roles_only {
            return together(GLOBALS, ROLES);
        }
        if globals_only && tablespaces_only {
            return together(GLOBALS, TABLESPACES);
        }
        check_if_exists(self.options.if_exists, self.options.clean)?;
        if roles_only && tablespaces_only {
            return together(ROLES, TABLESPACES);
        }
        Ok(())
    }

    fn finish(self) -> Result<Arguments, Mistake> {
        let Reading { mut options, switches, mut dump_words, data_only, .. } = self;
        let has = |switch| switches.contains(switch);
        dump_words.extend(PASSED_ON.iter().filter(|switch| has(**switch)).map(OsString::from));
        options.only = match (self.globals_only, self.roles_only, self.tablespaces_only) {
            (true, ..) => Some(GlobalsOnly::All),
            (_, true, _) => Some(GlobalsOnly::Roles),
            (_, _, true) => Some(GlobalsOnly::Tablespaces),
            _ => None,
        };
        options.globals = !data_only && !has("--statistics-only") && !has("--no-schema");
        options.binary_upgrade = has("--binary-upgrade");
        options.no_comments = has("--no-comments");
        options.no_security_labels = has("--no-security-labels");
        options.no_tablespaces = has("--no-tablespaces");
        options.quote_all_identifiers = has("--quote-all-identifiers");
        options.restrict_key = restrict_key(self.restrict_key)?;
        let connection = beneath_options(self.connection_string.as_deref(), &self.connection)?;
        let (file, sync, prompt) = (self.file, !self.no_sync, self.prompt);
        Ok(Arguments { options, connection, prompt, file, sync, dump_words })
    }

    /// Reads a file with databases to leave out.
    fn read_filter(&mut self, path: &Path) -> Result<(), Mistake> {
        for item in filter_file(path)? {
            let item = item?;
            if item.action == FilterAction::Include {
                return Err(not_allowed(&item));
            }
            if item.object != "database" {
                return Err(Mistake::Plain(item.refused("unsupported filter object")));
            }
            self.options.exclude_databases.push(filter_pattern(&item));
        }
        Ok(())
    }
}
