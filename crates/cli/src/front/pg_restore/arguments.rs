//! The options of `pg_restore` 18: reading them, and which do not go together. Checks come in stock's order, so that the
//! same mistake is told first.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pgkeep_format::archive::{ArchiveFormat, Text};
use pgkeep_logical::filter::FilterAction;
use pgkeep_logical::restore::{NameList, RestoreOptions};
use pgkeep_tool::ToolError;
use pgkeep_wire::ConnInfo;

use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::password::Prompt;
use crate::front::program::{Mistake, no_more, read_options};
use crate::front::values::{
    Sections, check_if_exists, check_restrict_key, count, environment, filter_file, not_allowed,
    restrict_key, text as raw_value, together,
};

/// A command line, checked.
pub(super) struct Arguments {
    pub(super) options: RestoreOptions,
    pub(super) input: Option<PathBuf>,
    pub(super) format: Option<ArchiveFormat>,
    pub(super) file: Option<PathBuf>,
    pub(super) list: bool,
    pub(super) use_list: Option<PathBuf>,
    pub(super) connection: Option<ConnInfo>,
    pub(super) prompt: Prompt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
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

const SPECS: &[OptionSpec<Switch>] = &[
    flag("clean", b'c', Switch::Clean),
    flag("create", b'C', Switch::Create),
    flag("data-only", b'a', Switch::DataOnly),
    value("dbname", b'd', Switch::Database),
    flag("exit-on-error", b'e', Switch::ExitOnError),
    value("exclude-schema", b'N', Switch::ExcludeSchema),
    value("file", b'f', Switch::File),
    value("format", b'F', Switch::Format),
    value("function", b'P', Switch::Function),
    value("host", b'h', Switch::Host),
    value("index", b'I', Switch::Index),
    value("jobs", b'j', Switch::Jobs),
    flag("list", b'l', Switch::List),
    flag("no-privileges", b'x', Switch::NoPrivileges),
    flag("no-acl", 0, Switch::NoPrivileges),
    flag("no-owner", b'O', Switch::NoOwner),
    flag("no-reconnect", b'R', Switch::NoReconnect),
    value("port", b'p', Switch::Port),
    flag("no-password", b'w', Switch::NoPassword),
    flag("password", b'W', Switch::Password),
    value("schema", b'n', Switch::Schema),
    flag("schema-only", b's', Switch::SchemaOnly),
    value("superuser", b'S', Switch::Superuser),
    value("table", b't', Switch::Table),
    value("trigger", b'T', Switch::Trigger),
    value("use-list", b'L', Switch::UseList),
    value("username", b'U', Switch::User),
    flag("verbose", b'v', Switch::Verbose),
    flag("single-transaction", b'1', Switch::SingleTransaction),
    flag("disable-triggers", 0, Switch::DisableTriggers),
    flag("enable-row-security", 0, Switch::EnableRowSecurity),
    flag("if-exists", 0, Switch::IfExists),
    flag("no-data-for-failed-tables", 0, Switch::NoDataForFailedTables),
    flag("no-tablespaces", 0, Switch::NoTablespaces),
    flag("no-table-access-method", 0, Switch::NoTableAccessMethod),
    value("role", 0, Switch::Role),
    value("section", 0, Switch::Section),
    flag("strict-names", 0, Switch::StrictNames),
    value("transaction-size", 0, Switch::TransactionSize),
    flag("use-set-session-authorization", 0, Switch::UseSetSessionAuthorization),
    flag("no-comments", 0, Switch::NoComments),
    flag("no-data", 0, Switch::NoData),
    flag("no-policies", 0, Switch::NoPolicies),
    flag("no-publications", 0, Switch::NoPublications),
    flag("no-schema", 0, Switch::NoSchema),
    flag("no-security-labels", 0, Switch::NoSecurityLabels),
    flag("no-subscriptions", 0, Switch::NoSubscriptions),
    flag("no-statistics", 0, Switch::NoStatistics),
    flag("statistics", 0, Switch::Statistics),
    flag("statistics-only", 0, Switch::StatisticsOnly),
    value("filter", 0, Switch::Filter),
    value("restrict-key", 0, Switch::RestrictKey),
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
    sections: Option<Sections>,
    database: Option<OsString>,
    connection: Vec<(&'static str, OsString)>,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut raw = Raw::default();
        let mut arguments = Arguments {
            options: RestoreOptions { jobs: 1, ..RestoreOptions::default() },
            input: None,
            format: None,
            file: None,
            list: false,
            use_list: None,
            connection: None,
            prompt: Prompt::default(),
        };
        let mut operands =
            read_options(SPECS, words, |key, value| arguments.take(&mut raw, key, value))?.into_iter();
        arguments.input = operands.next().map(PathBuf::from);
        no_more(operands)?;
        arguments.check(&raw)?;
        arguments.finish(raw)
    }

    fn take(&mut self, raw: &mut Raw, key: Switch, value: OsString) -> Result<(), Mistake> {
        let options = &mut self.options;
        let selection = &mut options.selection;
        match key {
            Switch::Clean => options.clean = true,
            Switch::Create => selection.create = true,
            Switch::DataOnly => raw.data_only = true,
            Switch::Database => raw.database = Some(value),
            Switch::ExitOnError => options.exit_on_error = true,
            Switch::ExcludeSchema => selection.excluded_schemas.push(text(value)),
            Switch::File => self.file = Some(value.into()),
            Switch::Format => raw.format = Some(value).filter(|format| !format.is_empty()),
            Switch::Function => selection.functions.push(text(value)),
            Switch::Host => raw.connection.push(("host", value)),
            Switch::Index => selection.indexes.push(text(value)),
            Switch::Jobs => options.jobs = count(&value, "-j/--jobs")?,
            Switch::List => self.list = true,
            Switch::NoPrivileges => selection.no_privileges = true,
            Switch::NoOwner => options.no_owner = true,
            Switch::NoReconnect => {}
            Switch::NoPassword => self.prompt = Prompt::Never,
            Switch::Port => raw.connection.push(("port", value)),
            Switch::Password => self.prompt = Prompt::First,
            Switch::Schema => selection.schemas.push(text(value)),
            Switch::SchemaOnly => raw.schema_only = true,
            Switch::Superuser => options.superuser = Some(text(value)),
            Switch::Table => selection.tables.push(text(value)),
            Switch::Trigger => selection.triggers.push(text(value)),
            Switch::UseList => self.use_list = Some(value.into()),
            Switch::User => raw.connection.push(("user", value)),
            Switch::Verbose => options.verbose = true,
            Switch::SingleTransaction => {
                options.single_transaction = true;
                options.exit_on_error = true;
            }
            Switch::DisableTriggers => options.disable_triggers = true,
            Switch::EnableRowSecurity => options.enable_row_security = true,
            Switch::IfExists => options.if_exists = true,
            Switch::NoDataForFailedTables => options.no_data_for_failed_tables = true,
            Switch::NoTablespaces => options.no_tablespaces = true,
            Switch::NoTableAccessMethod => options.no_table_access_method = true,
            Switch::Role => options.role = Some(text(value)),
            Switch::Section => raw.sections.get_or_insert_default().add(&value)?,
            Switch::StrictNames => selection.strict_names = true,
            Switch::TransactionSize => {
                options.transaction_size = count(&value, "--transaction-size")?;
                options.exit_on_error = true;
            }
            Switch::UseSetSessionAuthorization => options.use_session_authorization = true,
            Switch::NoComments => selection.no_comments = true,
            Switch::NoData => raw.no_data = true,
            Switch::NoPolicies => selection.no_policies = true,
            Switch::NoPublications => selection.no_publications = true,
            Switch::NoSchema => raw.no_schema = true,
            Switch::NoSecurityLabels => selection.no_security_labels = true,
            Switch::NoStatistics => raw.no_statistics = true,
            Switch::NoSubscriptions => selection.no_subscriptions = true,
            Switch::Filter => self.read_filter(Path::new(&value))?,
            Switch::Statistics => raw.statistics = true,
            Switch::StatisticsOnly => raw.statistics_only = true,
            Switch::RestrictKey => options.restrict_key = Some(value.to_string_lossy().into_owned()),
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
        if let Some(key) = &options.restrict_key {
            check_restrict_key(key)?;
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
            together(first, first_name, second, second_name)?;
        }
        if options.single_transaction && options.jobs > 1 {
            return Err(Mistake::Plain(
                "cannot specify both --single-transaction and multiple jobs".to_owned(),
            ));
        }
        check_if_exists(options.if_exists, options.clean)
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
        if let Some(sections) = raw.sections {
            sections.select(selection);
        }
        match raw.database {
            Some(database) => {
                self.connection = Some(connection(&database, raw.connection).map_err(Mistake::Failure)?);
                self.options.restrict_key = None;
            }
            None => self.options.restrict_key = Some(restrict_key(self.options.restrict_key.take())?),
        }
        Ok(self)
    }

    /// Reads a file with includes and excludes.
    fn read_filter(&mut self, path: &Path) -> Result<(), Mistake> {
        let items = filter_file(path)?;
        let selection = &mut self.options.selection;
        for item in items {
            let item = item?;
            let names: &mut NameList = match (item.action, item.object) {
                (FilterAction::Include, "function") => &mut selection.functions,
                (FilterAction::Include, "index") => &mut selection.indexes,
                (FilterAction::Include, "schema") => &mut selection.schemas,
                (FilterAction::Include, "table") => &mut selection.tables,
                (FilterAction::Include, "trigger") => &mut selection.triggers,
                (FilterAction::Exclude, "schema") => &mut selection.excluded_schemas,
                _ => return Err(not_allowed(&item)),
            };
            names.push(item.pattern);
        }
        Ok(())
    }
}

fn text(value: OsString) -> Text {
    value.into_vec().into()
}

/// `-d` may be a connection string; what it says beats the other options.
fn connection(database: &OsString, options: Vec<(&'static str, OsString)>) -> Result<ConnInfo, ToolError> {
    let options: Vec<(&str, String)> =
        options.iter().map(|(keyword, value)| (*keyword, raw_value(value))).collect();
    let words: Vec<(&str, &str)> =
        options.iter().map(|(keyword, value)| (*keyword, value.as_str())).collect();
    ConnInfo::resolve_with(&words, Some(&raw_value(database)), &environment())
        .and_then(|info| match info.get("fallback_application_name") {
            Some(_) => Ok(info),
            None => info.with("fallback_application_name", super::NAME),
        })
        .map_err(|error| ToolError::new(error.to_string()))
}
