//! The options of `pg_restore` 18: reading them, and which do not go together. Checks come in stock's order, so that the
//! same mistake is told first.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pgkeep_format::archive::{ArchiveFormat, Text};
use pgkeep_logical::filter::{self, FilterAction};
use pgkeep_logical::restore::{NameList, RestoreError, RestoreOptions};
use pgkeep_wire::{ConnInfo, Environment};

use crate::caller::Caller;
use crate::front::getopt::{OptionSpec, parse};

/// A command line that cannot be followed.
#[derive(Debug)]
pub(super) enum Mistake {
    /// An error.
    Plain(String),
    /// An error, and where help is.
    TryHelp(String),
    /// A text of `getopt_long`, and where help is.
    Getopt(String),
    /// An error with its own advice.
    Failure(RestoreError),
}

/// A command line, checked.
pub(super) struct Arguments {
    pub(super) options: RestoreOptions,
    pub(super) input: Option<PathBuf>,
    pub(super) format: Option<ArchiveFormat>,
    pub(super) file: Option<PathBuf>,
    pub(super) list: bool,
    pub(super) use_list: Option<PathBuf>,
    pub(super) connection: Option<ConnInfo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Clean,
    Create,
    DataOnly,
    Database,
    ExitOnError,
    ExcludeSchema,
    File,
    Format,
    Function,
    Host,
    Index,
    Jobs,
    List,
    NoPrivileges,
    NoOwner,
    NoReconnect,
    Port,
    NoPassword,
    Password,
    Schema,
    SchemaOnly,
    Superuser,
    Table,
    Trigger,
    UseList,
    User,
    Verbose,
    SingleTransaction,
    DisableTriggers,
    EnableRowSecurity,
    IfExists,
    NoDataForFailedTables,
    NoTablespaces,
    NoTableAccessMethod,
    Role,
    Section,
    StrictNames,
    TransactionSize,
    UseSetSessionAuthorization,
    NoComments,
    NoData,
    NoPolicies,
    NoPublications,
    NoSchema,
    NoSecurityLabels,
    NoStatistics,
    NoSubscriptions,
    Filter,
    Statistics,
    StatisticsOnly,
    RestrictKey,
}

const fn flag(long: &'static str, short: u8, key: Key) -> OptionSpec<Key> {
    OptionSpec { long, short: if short == 0 { None } else { Some(short) }, takes_value: false, key }
}

const fn value(long: &'static str, short: u8, key: Key) -> OptionSpec<Key> {
    OptionSpec { long, short: if short == 0 { None } else { Some(short) }, takes_value: true, key }
}

const SPECS: &[OptionSpec<Key>] = &[
    flag("clean", b'c', Key::Clean),
    flag("create", b'C', Key::Create),
    flag("data-only", b'a', Key::DataOnly),
    value("dbname", b'd', Key::Database),
    flag("exit-on-error", b'e', Key::ExitOnError),
    value("exclude-schema", b'N', Key::ExcludeSchema),
    value("file", b'f', Key::File),
    value("format", b'F', Key::Format),
    value("function", b'P', Key::Function),
    value("host", b'h', Key::Host),
    value("index", b'I', Key::Index),
    value("jobs", b'j', Key::Jobs),
    flag("list", b'l', Key::List),
    flag("no-privileges", b'x', Key::NoPrivileges),
    flag("no-acl", 0, Key::NoPrivileges),
    flag("no-owner", b'O', Key::NoOwner),
    flag("no-reconnect", b'R', Key::NoReconnect),
    value("port", b'p', Key::Port),
    flag("no-password", b'w', Key::NoPassword),
    flag("password", b'W', Key::Password),
    value("schema", b'n', Key::Schema),
    flag("schema-only", b's', Key::SchemaOnly),
    value("superuser", b'S', Key::Superuser),
    value("table", b't', Key::Table),
    value("trigger", b'T', Key::Trigger),
    value("use-list", b'L', Key::UseList),
    value("username", b'U', Key::User),
    flag("verbose", b'v', Key::Verbose),
    flag("single-transaction", b'1', Key::SingleTransaction),
    flag("disable-triggers", 0, Key::DisableTriggers),
    flag("enable-row-security", 0, Key::EnableRowSecurity),
    flag("if-exists", 0, Key::IfExists),
    flag("no-data-for-failed-tables", 0, Key::NoDataForFailedTables),
    flag("no-tablespaces", 0, Key::NoTablespaces),
    flag("no-table-access-method", 0, Key::NoTableAccessMethod),
    value("role", 0, Key::Role),
    value("section", 0, Key::Section),
    flag("strict-names", 0, Key::StrictNames),
    value("transaction-size", 0, Key::TransactionSize),
    flag("use-set-session-authorization", 0, Key::UseSetSessionAuthorization),
    flag("no-comments", 0, Key::NoComments),
    flag("no-data", 0, Key::NoData),
    flag("no-policies", 0, Key::NoPolicies),
    flag("no-publications", 0, Key::NoPublications),
    flag("no-schema", 0, Key::NoSchema),
    flag("no-security-labels", 0, Key::NoSecurityLabels),
    flag("no-subscriptions", 0, Key::NoSubscriptions),
    flag("no-statistics", 0, Key::NoStatistics),
    flag("statistics", 0, Key::Statistics),
    flag("statistics-only", 0, Key::StatisticsOnly),
    value("filter", 0, Key::Filter),
    value("restrict-key", 0, Key::RestrictKey),
];

/// What is decided only when all options are known.
#[derive(Default)]
struct Raw {
    format: Option<OsString>,
    data_only: bool,
    schema_only: bool,
    statistics_only: bool,
    no_data: bool,
    no_schema: bool,
    no_statistics: bool,
    statistics: bool,
    sections: Option<(bool, bool, bool)>,
    database: Option<OsString>,
    connection: Vec<(&'static str, OsString)>,
    asks_password: bool,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let line = parse(SPECS, words);
        let mut raw = Raw::default();
        let mut arguments = Arguments {
            options: RestoreOptions { jobs: 1, ..RestoreOptions::default() },
            input: None,
            format: None,
            file: None,
            list: false,
            use_list: None,
            connection: None,
        };
        for (key, value) in line.options {
            arguments.take(&mut raw, key, value)?;
        }
        if let Some(mistake) = line.mistake {
            return Err(Mistake::Getopt(mistake));
        }
        let mut operands = line.operands.into_iter();
        arguments.input = operands.next().map(PathBuf::from);
        if let Some(extra) = operands.next() {
            return Err(Mistake::TryHelp(format!(
                "too many command-line arguments (first is \"{}\")",
                extra.to_string_lossy()
            )));
        }
        arguments.check(&raw)?;
        arguments.finish(raw)
    }

    fn take(&mut self, raw: &mut Raw, key: Key, value: OsString) -> Result<(), Mistake> {
        let options = &mut self.options;
        let selection = &mut options.selection;
        match key {
            Key::Clean => options.clean = true,
            Key::Create => selection.create = true,
            Key::DataOnly => raw.data_only = true,
            Key::Database => raw.database = Some(value),
            Key::ExitOnError => options.exit_on_error = true,
            Key::ExcludeSchema => selection.excluded_schemas.push(text(value)),
            Key::File => self.file = Some(value.into()),
            Key::Format => raw.format = Some(value).filter(|format| !format.is_empty()),
            Key::Function => selection.functions.push(text(value)),
            Key::Host => raw.connection.push(("host", value)),
            Key::Index => selection.indexes.push(text(value)),
            Key::Jobs => options.jobs = number(&value, "-j/--jobs")?,
            Key::List => self.list = true,
            Key::NoPrivileges => selection.no_privileges = true,
            Key::NoOwner => options.no_owner = true,
            Key::NoReconnect | Key::NoPassword => {}
            Key::Port => raw.connection.push(("port", value)),
            Key::Password => raw.asks_password = true,
            Key::Schema => selection.schemas.push(text(value)),
            Key::SchemaOnly => raw.schema_only = true,
            Key::Superuser => options.superuser = Some(text(value)),
            Key::Table => selection.tables.push(text(value)),
            Key::Trigger => selection.triggers.push(text(value)),
            Key::UseList => self.use_list = Some(value.into()),
            Key::User => raw.connection.push(("user", value)),
            Key::Verbose => options.verbose = true,
            Key::SingleTransaction => {
                options.single_transaction = true;
                options.exit_on_error = true;
            }
            Key::DisableTriggers => options.disable_triggers = true,
            Key::EnableRowSecurity => options.enable_row_security = true,
            Key::IfExists => options.if_exists = true,
            Key::NoDataForFailedTables => options.no_data_for_failed_tables = true,
            Key::NoTablespaces => options.no_tablespaces = true,
            Key::NoTableAccessMethod => options.no_table_access_method = true,
            Key::Role => options.role = Some(text(value)),
            Key::Section => {
                let sections = raw.sections.get_or_insert((false, false, false));
                match value.as_bytes() {
                    b"pre-data" => sections.0 = true,
                    b"data" => sections.1 = true,
                    b"post-data" => sections.2 = true,
                    _ => {
                        return Err(Mistake::TryHelp(format!(
                            "unrecognized section name: \"{}\"",
                            value.to_string_lossy()
                        )));
                    }
                }
            }
            Key::StrictNames => selection.strict_names = true,
            Key::TransactionSize => {
                options.transaction_size = number(&value, "--transaction-size")?;
                options.exit_on_error = true;
            }
            Key::UseSetSessionAuthorization => options.use_session_authorization = true,
            Key::NoComments => selection.no_comments = true,
            Key::NoData => raw.no_data = true,
            Key::NoPolicies => selection.no_policies = true,
            Key::NoPublications => selection.no_publications = true,
            Key::NoSchema => raw.no_schema = true,
            Key::NoSecurityLabels => selection.no_security_labels = true,
            Key::NoStatistics => raw.no_statistics = true,
            Key::NoSubscriptions => selection.no_subscriptions = true,
            Key::Filter => self.read_filter(Path::new(&value))?,
            Key::Statistics => raw.statistics = true,
            Key::StatisticsOnly => raw.statistics_only = true,
            Key::RestrictKey => options.restrict_key = Some(value.to_string_lossy().into_owned()),
        }
        Ok(())
    }

    fn check(&self, raw: &Raw) -> Result<(), Mistake> {
        if raw.database.is_none() && self.file.is_none() && !self.list {
            return Err(Mistake::Plain("one of -d/--dbname and -f/--file must be specified".to_owned()));
        }
        let options = &self.options;
        let has_database = raw.database.is_some();
        if has_database && self.file.is_some() {
            return Err(Mistake::TryHelp(
                "options -d/--dbname and -f/--file cannot be used together".to_owned(),
            ));
        }
        if has_database && options.restrict_key.is_some() {
            return Err(Mistake::Plain(
                "options -d/--dbname and --restrict-key cannot be used together".to_owned(),
            ));
        }
        if let Some(key) = options.restrict_key.as_ref().filter(|_| !has_database) {
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(Mistake::Plain("invalid restrict key".to_owned()));
            }
        }
        let pairs = [
            (raw.schema_only, "-s/--schema-only", raw.data_only, "-a/--data-only"),
            (raw.schema_only, "-s/--schema-only", raw.statistics_only, "--statistics-only"),
            (raw.data_only, "-a/--data-only", raw.statistics_only, "--statistics-only"),
            (raw.data_only, "-a/--data-only", raw.no_data, "--no-data"),
            (raw.schema_only, "-s/--schema-only", raw.no_schema, "--no-schema"),
            (raw.statistics_only, "--statistics-only", raw.no_statistics, "--no-statistics"),
            (raw.statistics, "--statistics", raw.no_statistics, "--no-statistics"),
            (raw.data_only, "-a/--data-only", raw.statistics, "--statistics"),
            (raw.schema_only, "-s/--schema-only", raw.statistics, "--statistics"),
            (options.clean, "-c/--clean", raw.data_only, "-a/--data-only"),
            (options.selection.create, "-C/--create", options.single_transaction, "-1/--single-transaction"),
            (
                options.single_transaction,
                "-1/--single-transaction",
                options.transaction_size > 0,
                "--transaction-size",
            ),
        ];
        for (first, first_name, second, second_name) in pairs {
            if first && second {
                return Err(Mistake::Plain(format!(
                    "options {first_name} and {second_name} cannot be used together"
                )));
            }
        }
        if options.single_transaction && options.jobs > 1 {
            return Err(Mistake::Plain(
                "cannot specify both --single-transaction and multiple jobs".to_owned(),
            ));
        }
        if options.if_exists && !options.clean {
            return Err(Mistake::Plain("option --if-exists requires option -c/--clean".to_owned()));
        }
        Ok(())
    }

    fn finish(mut self, raw: Raw) -> Result<Arguments, Mistake> {
        self.format = match raw.format.as_ref().map(|format| (format.as_bytes().first(), format)) {
            None => None,
            Some((Some(b'c' | b'C'), _)) => Some(ArchiveFormat::Custom),
            Some((Some(b'd' | b'D'), _)) => Some(ArchiveFormat::Directory),
            Some((Some(b't' | b'T'), _)) => Some(ArchiveFormat::Tar),
            Some((_, other)) => {
                return Err(Mistake::Plain(format!(
                    "unrecognized archive format \"{}\"; please specify \"c\", \"d\", or \"t\"",
                    other.to_string_lossy()
                )));
            }
        };
        let selection = &mut self.options.selection;
        let only = raw.data_only || raw.schema_only || raw.statistics_only;
        selection.data = raw.data_only || (!raw.no_data && !only);
        selection.schema = raw.schema_only || (!raw.no_schema && !only);
        selection.statistics = raw.statistics || raw.statistics_only || (!raw.no_statistics && !only);
        if let Some((pre_data, data, post_data)) = raw.sections {
            (selection.pre_data, selection.data_section, selection.post_data) = (pre_data, data, post_data);
        }
        match raw.database {
            Some(database) => {
                if raw.asks_password {
                    return Err(Mistake::Failure(
                        RestoreError::new("option -W/--password is not supported")
                            .hint("put the password into a password file, or into the variable PGPASSWORD"),
                    ));
                }
                self.connection = Some(connection(&database, raw.connection).map_err(Mistake::Failure)?);
                self.options.restrict_key = None;
            }
            None if self.options.restrict_key.is_none() => {
                let key = pgkeep_logical::restrict_key::generate()
                    .map_err(|error| Mistake::Plain(format!("could not generate restrict key: {error}")))?;
                self.options.restrict_key = Some(key);
            }
            None => {}
        }
        Ok(self)
    }

    /// Reads a file with includes and excludes.
    fn read_filter(&mut self, path: &Path) -> Result<(), Mistake> {
        let (input, name): (Box<dyn BufRead>, _) = if path == Path::new("-") {
            (Box::new(std::io::stdin().lock()), None)
        } else {
            let file = std::fs::File::open(path).map_err(|error| {
                Mistake::Plain(format!(
                    "could not open filter file \"{}\": {}",
                    path.display(),
                    super::plain(&error)
                ))
            })?;
            (Box::new(BufReader::new(file)), Some(path.to_string_lossy()))
        };
        let items = filter::read(input, name.as_deref());
        let selection = &mut self.options.selection;
        for item in items {
            let item = item.map_err(Mistake::Plain)?;
            let names: &mut NameList = match (item.action, item.object) {
                (FilterAction::Include, "function") => &mut selection.functions,
                (FilterAction::Include, "index") => &mut selection.indexes,
                (FilterAction::Include, "schema") => &mut selection.schemas,
                (FilterAction::Include, "table") => &mut selection.tables,
                (FilterAction::Include, "trigger") => &mut selection.triggers,
                (FilterAction::Exclude, "schema") => &mut selection.excluded_schemas,
                (action, object) => {
                    return Err(Mistake::Plain(item.refused(&format!(
                        "{} filter for \"{}\" is not allowed",
                        action.name(),
                        filter::object_name(object)
                    ))));
                }
            };
            names.push(item.pattern);
        }
        Ok(())
    }
}

fn text(value: OsString) -> Text {
    value.into_vec().into()
}

fn number(value: &OsString, option: &str) -> Result<u32, Mistake> {
    let text = value.to_string_lossy();
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Mistake::Plain(format!("invalid value \"{text}\" for option {option}")));
    }
    match trimmed.parse::<i32>() {
        Ok(number) if number >= 1 => Ok(number.unsigned_abs()),
        _ => Err(Mistake::Plain(format!("{option} must be in range 1..{}", i32::MAX))),
    }
}

/// `-d` may be a connection string; what it says beats the other options.
fn connection(database: &OsString, options: Vec<(&'static str, OsString)>) -> Result<ConnInfo, RestoreError> {
    let not_text = |what: &str| {
        RestoreError::new(format!("{what} is not UTF-8"))
            .hint("set it in a service file, or connect by another name")
    };
    let database = database.to_str().ok_or_else(|| not_text("the database's name"))?;
    let mut words = Vec::new();
    for (keyword, value) in &options {
        words.push((*keyword, value.to_str().ok_or_else(|| not_text(keyword))?));
    }
    let caller = Caller::read();
    let environment = Environment::from_iter(caller.client_variables(), caller.home.clone());
    ConnInfo::resolve_with(&words, Some(database), &environment)
        .map_err(|error| RestoreError::new(error.to_string()))
}
