//! The options of `pg_dump` 18: reading them, and which do not go together. Checks come in stock's order, so that the same
//! mistake is told first.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pgkeep_format::archive::{ArchiveFormat, ArchiveVersion, Compression};
use pgkeep_logical::dump::{DumpOptions, RowFormat};
use pgkeep_logical::filter::FilterAction;
use pgkeep_logical::restore::RestoreOptions;
use pgkeep_wire::ConnInfo;

use crate::front::compression::{self, CompressionChoice};
use crate::front::getopt::{OptionSpec, flag, value};
use crate::front::password::Prompt;
use crate::front::program::{Mistake, no_more, read_options};
use crate::front::values::{
    Sections, check_if_exists, count, environment, filter_file, filter_pattern, not_allowed, number,
    restrict_key, text, together,
};

/// A command line, checked.
pub(super) struct Arguments {
    pub(super) dump: DumpOptions,
    /// How scripts are written, and which entries are wanted.
    pub(super) restore: RestoreOptions,
    /// None for plain text.
    pub(super) format: Option<ArchiveFormat>,
    /// The script is added to the file: how pg_dumpall calls.
    pub(super) append: bool,
    pub(super) compression: CompressionChoice,
    /// Of an archive's layout.
    pub(super) version: ArchiveVersion,
    pub(super) file: Option<PathBuf>,
    pub(super) sync: bool,
    pub(super) connection: ConnInfo,
    pub(super) prompt: Prompt,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    DataOnly,
    LargeObjects,
    NoLargeObjects,
    Clean,
    Create,
    Database,
    Extension,
    File,
    Format,
    Host,
    Jobs,
    NoReconnect,
    NoOwner,
    Port,
    Schema,
    ExcludeSchema,
    SchemaOnly,
    Superuser,
    Table,
    ExcludeTable,
    NoPassword,
    Password,
    User,
    Verbose,
    NoPrivileges,
    Compress,
    Encoding,
    ColumnInserts,
    BinaryUpgrade,
    DisableDollarQuoting,
    DisableTriggers,
    EnableRowSecurity,
    ExcludeTableData,
    ExtraFloatDigits,
    Force,
    Parallel,
    ArchiveVersion,
    CopyFormat,
    IfExists,
    Inserts,
    LockWaitTimeout,
    NoTableAccessMethod,
    NoTablespaces,
    QuoteAllIdentifiers,
    LoadViaPartitionRoot,
    Role,
    Section,
    SerializableDeferrable,
    Snapshot,
    Statistics,
    StatisticsOnly,
    StrictNames,
    UseSetSessionAuthorization,
    NoComments,
    NoData,
    NoPolicies,
    NoPublications,
    NoSchema,
    NoSecurityLabels,
    NoStatistics,
    NoSubscriptions,
    NoToastCompression,
    NoUnloggedTableData,
    NoSync,
    OnConflictDoNothing,
    RowsPerInsert,
    IncludeForeignData,
    TableAndChildren,
    ExcludeTableAndChildren,
    ExcludeTableDataAndChildren,
    SyncMethod,
    Filter,
    ExcludeExtension,
    SequenceData,
    Restrict,
}

const SPECS: &[OptionSpec<Key>] = &[
    flag("data-only", b'a', Key::DataOnly),
    flag("blobs", b'b', Key::LargeObjects),
    flag("large-objects", 0, Key::LargeObjects),
    flag("no-blobs", b'B', Key::NoLargeObjects),
    flag("no-large-objects", 0, Key::NoLargeObjects),
    flag("clean", b'c', Key::Clean),
    flag("create", b'C', Key::Create),
    value("dbname", b'd', Key::Database),
    value("extension", b'e', Key::Extension),
    value("file", b'f', Key::File),
    value("format", b'F', Key::Format),
    value("host", b'h', Key::Host),
    value("jobs", b'j', Key::Jobs),
    flag("no-reconnect", b'R', Key::NoReconnect),
    flag("no-owner", b'O', Key::NoOwner),
    value("port", b'p', Key::Port),
    value("schema", b'n', Key::Schema),
    value("exclude-schema", b'N', Key::ExcludeSchema),
    flag("schema-only", b's', Key::SchemaOnly),
    value("superuser", b'S', Key::Superuser),
    value("table", b't', Key::Table),
    value("exclude-table", b'T', Key::ExcludeTable),
    flag("no-password", b'w', Key::NoPassword),
    flag("password", b'W', Key::Password),
    value("username", b'U', Key::User),
    flag("verbose", b'v', Key::Verbose),
    flag("no-privileges", b'x', Key::NoPrivileges),
    flag("no-acl", 0, Key::NoPrivileges),
    value("compress", b'Z', Key::Compress),
    value("encoding", b'E', Key::Encoding),
    flag("attribute-inserts", 0, Key::ColumnInserts),
    flag("binary-upgrade", 0, Key::BinaryUpgrade),
    flag("column-inserts", 0, Key::ColumnInserts),
    flag("disable-dollar-quoting", 0, Key::DisableDollarQuoting),
    flag("disable-triggers", 0, Key::DisableTriggers),
    flag("enable-row-security", 0, Key::EnableRowSecurity),
    value("exclude-table-data", 0, Key::ExcludeTableData),
    value("extra-float-digits", 0, Key::ExtraFloatDigits),
    flag("force", 0, Key::Force),
    value("parallel", 0, Key::Parallel),
    value("archive-version", 0, Key::ArchiveVersion),
    value("copy-format", 0, Key::CopyFormat),
    flag("if-exists", 0, Key::IfExists),
    flag("inserts", 0, Key::Inserts),
    value("lock-wait-timeout", 0, Key::LockWaitTimeout),
    flag("no-table-access-method", 0, Key::NoTableAccessMethod),
    flag("no-tablespaces", 0, Key::NoTablespaces),
    flag("quote-all-identifiers", 0, Key::QuoteAllIdentifiers),
    flag("load-via-partition-root", 0, Key::LoadViaPartitionRoot),
    value("role", 0, Key::Role),
    value("section", 0, Key::Section),
    flag("serializable-deferrable", 0, Key::SerializableDeferrable),
    value("snapshot", 0, Key::Snapshot),
    flag("statistics", 0, Key::Statistics),
    flag("statistics-only", 0, Key::StatisticsOnly),
    flag("strict-names", 0, Key::StrictNames),
    flag("use-set-session-authorization", 0, Key::UseSetSessionAuthorization),
    flag("no-comments", 0, Key::NoComments),
    flag("no-data", 0, Key::NoData),
    flag("no-policies", 0, Key::NoPolicies),
    flag("no-publications", 0, Key::NoPublications),
    flag("no-schema", 0, Key::NoSchema),
    flag("no-security-labels", 0, Key::NoSecurityLabels),
    flag("no-statistics", 0, Key::NoStatistics),
    flag("no-subscriptions", 0, Key::NoSubscriptions),
    flag("no-toast-compression", 0, Key::NoToastCompression),
    flag("no-unlogged-table-data", 0, Key::NoUnloggedTableData),
    flag("no-sync", 0, Key::NoSync),
    flag("on-conflict-do-nothing", 0, Key::OnConflictDoNothing),
    value("rows-per-insert", 0, Key::RowsPerInsert),
    value("include-foreign-data", 0, Key::IncludeForeignData),
    value("table-and-children", 0, Key::TableAndChildren),
    value("exclude-table-and-children", 0, Key::ExcludeTableAndChildren),
    value("exclude-table-data-and-children", 0, Key::ExcludeTableDataAndChildren),
    value("sync-method", 0, Key::SyncMethod),
    value("filter", 0, Key::Filter),
    value("exclude-extension", 0, Key::ExcludeExtension),
    flag("sequence-data", 0, Key::SequenceData),
    value("restrict-key", 0, Key::Restrict),
];

/// What is decided only when all options are known.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option")]
struct Raw {
    format: Option<String>,
    compress: Option<String>,
    data_only: bool,
    schema_only: bool,
    statistics_only: bool,
    no_data: bool,
    no_schema: bool,
    no_statistics: bool,
    statistics: bool,
    sections: Option<Sections>,
    database: Option<String>,
    connection: Vec<(&'static str, String)>,
    prompt: Prompt,
    binary_upgrade: bool,
    create: bool,
    column_inserts: bool,
    skip_conflicts: bool,
    rows_per_insert: Option<u32>,
    jobs: Option<u32>,
    parallel: Option<u32>,
    archive_version: Option<ArchiveVersion>,
    binary_copy: bool,
    sync: bool,
    file: Option<PathBuf>,
    restrict_key: Option<String>,
}

/// Options and what is read of them.
struct Reading {
    dump: DumpOptions,
    restore: RestoreOptions,
    raw: Raw,
}

impl Arguments {
    pub(super) fn parse(words: &[OsString]) -> Result<Arguments, Mistake> {
        let mut reading = Reading {
            dump: DumpOptions::default(),
            restore: RestoreOptions::default(),
            raw: Raw { sync: true, ..Raw::default() },
        };
        let mut operands = read_options(SPECS, words, |key, value| reading.take(key, &value))?.into_iter();
        if reading.raw.database.is_none()
            && let Some(database) = operands.next()
        {
            reading.raw.database = Some(text(&database));
        }
        no_more(operands)?;
        reading.check()?;
        reading.finish()
    }
}

impl Reading {
    #[allow(clippy::too_many_lines, reason = "one line for each option")]
    fn take(&mut self, key: Key, value: &OsStr) -> Result<(), Mistake> {
        let Reading { dump, restore, raw } = self;
        let selection = &mut restore.selection;
        let patterns = &mut dump.patterns;
        match key {
            Key::DataOnly => raw.data_only = true,
            Key::LargeObjects => dump.large_objects = Some(dump.large_objects.unwrap_or(true)),
            Key::NoLargeObjects => dump.large_objects = Some(dump.large_objects.unwrap_or(false)),
            Key::Clean => restore.clean = true,
            Key::Create => raw.create = true,
            Key::Database => raw.database = Some(text(value)),
            Key::Extension => {
                patterns.extensions.push(text(value));
                dump.everything = false;
            }
            Key::File => raw.file = Some(value.into()),
            Key::Format => raw.format = Some(value.to_string_lossy().into_owned()),
            Key::Host => raw.connection.push(("host", text(value))),
            Key::Jobs => raw.jobs = Some(count(value, "-j/--jobs")?),
            Key::NoReconnect => {}
            Key::NoPassword => raw.prompt = Prompt::Never,
            Key::NoOwner => restore.no_owner = true,
            Key::Port => raw.connection.push(("port", text(value))),
            Key::Schema => {
                patterns.schemas.push(text(value));
                dump.everything = false;
            }
            Key::ExcludeSchema => patterns.exclude_schemas.push(text(value)),
            Key::SchemaOnly => raw.schema_only = true,
            Key::Superuser => restore.superuser = Some(value.as_bytes().into()),
            Key::Table => {
                patterns.tables.push(text(value));
                dump.everything = false;
            }
            Key::ExcludeTable => patterns.exclude_tables.push(text(value)),
            Key::Password => raw.prompt = Prompt::First,
            Key::User => raw.connection.push(("user", text(value))),
            Key::Verbose => restore.verbose = true,
            Key::NoPrivileges => {
                dump.no_privileges = true;
                selection.no_privileges = true;
            }
            Key::Compress => raw.compress = Some(value.to_string_lossy().into_owned()),
            Key::Encoding => dump.session.encoding = Some(text(value)),
            Key::ColumnInserts => raw.column_inserts = true,
            Key::BinaryUpgrade => raw.binary_upgrade = true,
            Key::DisableDollarQuoting => dump.disable_dollar_quoting = true,
            Key::DisableTriggers => restore.disable_triggers = true,
            Key::EnableRowSecurity => {
                dump.session.enable_row_security = true;
                restore.enable_row_security = true;
            }
            Key::ExcludeTableData => patterns.exclude_table_data.push(text(value)),
            Key::ExtraFloatDigits => {
                dump.session.extra_float_digits = Some(number(value, "--extra-float-digits", -15..=3)?);
            }
            Key::IfExists => restore.if_exists = true,
            Key::Inserts => raw.rows_per_insert = Some(raw.rows_per_insert.unwrap_or(1)),
            Key::LockWaitTimeout => dump.session.lock_wait_timeout = Some(text(value)),
            Key::NoTableAccessMethod => restore.no_table_access_method = true,
            Key::NoTablespaces => {
                dump.no_tablespaces = true;
                restore.no_tablespaces = true;
            }
            Key::QuoteAllIdentifiers => {
                dump.quote_all_identifiers = true;
                restore.quote_all_identifiers = true;
            }
            Key::LoadViaPartitionRoot => dump.load_via_partition_root = true,
            Key::Role => dump.session.role = Some(text(value)),
            Key::Section => raw.sections.get_or_insert_default().add(value)?,
            Key::SerializableDeferrable => dump.session.serializable_deferrable = true,
            Key::Force => dump.session.force = true,
            Key::Parallel => raw.parallel = Some(count(value, "--parallel")?),
            Key::ArchiveVersion => raw.archive_version = Some(archive_version(value)?),
            Key::CopyFormat => raw.binary_copy = is_binary(value)?,
            Key::Snapshot => dump.session.snapshot = Some(text(value)),
            Key::Statistics => raw.statistics = true,
            Key::StatisticsOnly => raw.statistics_only = true,
            Key::StrictNames => patterns.strict = true,
            Key::UseSetSessionAuthorization => restore.use_session_authorization = true,
            Key::NoComments => {
                dump.no_comments = true;
                selection.no_comments = true;
            }
            Key::NoData => raw.no_data = true,
            Key::NoPolicies => {
                dump.no_policies = true;
                selection.no_policies = true;
            }
            Key::NoPublications => {
                dump.no_publications = true;
                selection.no_publications = true;
            }
            Key::NoSchema => raw.no_schema = true,
            Key::NoSecurityLabels => {
                dump.no_security_labels = true;
                selection.no_security_labels = true;
            }
            Key::NoStatistics => raw.no_statistics = true,
            Key::NoSubscriptions => {
                dump.no_subscriptions = true;
                selection.no_subscriptions = true;
            }
            Key::NoToastCompression => dump.no_toast_compression = true,
            Key::NoUnloggedTableData => dump.no_unlogged_table_data = true,
            Key::NoSync => raw.sync = false,
            Key::OnConflictDoNothing => raw.skip_conflicts = true,
            Key::RowsPerInsert => {
                raw.rows_per_insert = Some(count(value, "--rows-per-insert")?);
            }
            Key::IncludeForeignData => patterns.foreign_servers.push(text(value)),
            Key::TableAndChildren => {
                patterns.tables_and_children.push(text(value));
                dump.everything = false;
            }
            Key::ExcludeTableAndChildren => patterns.exclude_tables_and_children.push(text(value)),
            Key::ExcludeTableDataAndChildren => patterns.exclude_table_data_and_children.push(text(value)),
            Key::SyncMethod => match value.as_bytes() {
                b"fsync" => {}
                // Files are flushed one by one, which is safe as well.
                b"syncfs" => {}
                _ => {
                    return Err(Mistake::Plain(format!(
                        "unrecognized sync method: {}",
                        value.to_string_lossy()
                    )));
                }
            },
            Key::Filter => self.read_filter(Path::new(value))?,
            Key::ExcludeExtension => patterns.exclude_extensions.push(text(value)),
            Key::SequenceData => dump.sequence_data = true,
            Key::Restrict => raw.restrict_key = Some(value.to_string_lossy().into_owned()),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Mistake> {
        let Raw { data_only, schema_only, statistics_only, no_data, no_schema, no_statistics, .. } = self.raw;
        let statistics = self.raw.statistics;
        let foreign_data = !self.dump.patterns.foreign_servers.is_empty();
        together(schema_only, "-s/--schema-only", data_only, "-a/--data-only")?;
        together(schema_only, "-s/--schema-only", statistics_only, "--statistics-only")?;
        together(data_only, "-a/--data-only", statistics_only, "--statistics-only")?;
        together(data_only, "-a/--data-only", no_data, "--no-data")?;
        together(schema_only, "-s/--schema-only", no_schema, "--no-schema")?;
        together(statistics_only, "--statistics-only", no_statistics, "--no-statistics")?;
        together(statistics, "--statistics", no_statistics, "--no-statistics")?;
        together(data_only, "-a/--data-only", statistics, "--statistics")?;
        together(schema_only, "-s/--schema-only", statistics, "--statistics")?;
        together(schema_only, "-s/--schema-only", foreign_data, "--include-foreign-data")?;
        let parallel = self.raw.jobs.is_some_and(|jobs| jobs > 1);
        if parallel && foreign_data {
            return Err(Mistake::Plain(
                "option --include-foreign-data is not supported with parallel backup".to_owned(),
            ));
        }
        together(self.restore.clean, "-c/--clean", data_only, "-a/--data-only")?;
        check_if_exists(self.restore.if_exists, self.restore.clean)?;
        if self.raw.skip_conflicts && self.raw.rows_per_insert.is_none() && !self.raw.column_inserts {
            return Err(Mistake::Plain(
                "option --on-conflict-do-nothing requires option --inserts, --rows-per-insert, or --column-inserts"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<Arguments, Mistake> {
        let Reading { mut dump, mut restore, raw } = self;
        dump.data = (!raw.schema_only && !raw.statistics_only || raw.data_only) && !raw.no_data;
        dump.schema = (!raw.data_only && !raw.statistics_only || raw.schema_only) && !raw.no_schema;
        dump.binary_upgrade = raw.binary_upgrade;
        restore.selection.binary_upgrade = raw.binary_upgrade;
        restore.selection.data = dump.data;
        restore.selection.sequence_data = dump.sequence_data;
        restore.selection.schema = dump.schema;
        dump.statistics = (raw.statistics || raw.statistics_only) && !raw.no_statistics;
        restore.selection.statistics = dump.statistics;
        if let Some(sections) = raw.sections {
            sections.select(&mut restore.selection);
        }
        if let Some(rows_per_command) = raw.rows_per_insert.or(raw.column_inserts.then_some(1)) {
            dump.rows = RowFormat::Inserts {
                rows_per_command,
                name_columns: raw.column_inserts,
                skip_conflicts: raw.skip_conflicts,
            };
        }
        let name = raw.format.as_deref().unwrap_or("p");
        let append = matches!(name.to_ascii_lowercase().as_str(), "a" | "append");
        let format = if append { None } else { format(name)? };
        match format {
            None => restore.restrict_key = Some(restrict_key(raw.restrict_key)?),
            Some(_) if raw.restrict_key.is_some() => {
                return Err(Mistake::Plain(
                    "option --restrict-key can only be used with --format=plain".to_owned(),
                ));
            }
            Some(_) => {}
        }
        let default = match format {
            Some(ArchiveFormat::Custom | ArchiveFormat::Directory) => Compression::Gzip,
            _ => Compression::None,
        };
        let (compression, warning) =
            compression::parse(raw.compress.as_deref(), default).map_err(Mistake::Plain)?;
        dump.create_database = raw.create || format.is_some();
        restore.selection.create = dump.create_database;
        if raw.jobs.is_some_and(|jobs| jobs > 1) {
            if format != Some(ArchiveFormat::Directory) {
                return Err(Mistake::Plain(
                    "parallel backup only supported by the directory format".to_owned(),
                ));
            }
            dump.jobs = raw.jobs.unwrap_or(1);
        }
        dump.jobs = raw.parallel.unwrap_or(dump.jobs);
        if format.is_none() && raw.archive_version.is_some() {
            return Err(only_with("--archive-version", "an archive: use -Fc, -Fd or -Ft"));
        }
        if raw.binary_copy {
            if format.is_none() {
                return Err(only_with("--copy-format=binary", "an archive: use -Fc, -Fd or -Ft"));
            }
            together(
                matches!(dump.rows, RowFormat::Inserts { .. }),
                "--inserts",
                true,
                "--copy-format=binary",
            )?;
            dump.rows = RowFormat::CopyBinary;
        }
        if format == Some(ArchiveFormat::Tar) && compression.algorithm != Compression::None {
            return Err(Mistake::Plain("compression is not supported by tar archive format".to_owned()));
        }
        let connection = connection(raw.database.as_deref(), &raw.connection)?;
        Ok(Arguments {
            dump,
            restore,
            format,
            append,
            compression,
            version: raw.archive_version.unwrap_or(ArchiveVersion::V1_16),
            file: raw.file,
            sync: raw.sync,
            connection,
            prompt: raw.prompt,
            warnings: warning.into_iter().collect(),
        })
    }

    /// Reads a file with includes and excludes.
    fn read_filter(&mut self, path: &Path) -> Result<(), Mistake> {
        for item in filter_file(path)? {
            let item = item?;
            let pattern = filter_pattern(&item);
            let patterns = &mut self.dump.patterns;
            let list = match (item.action, item.object) {
                (FilterAction::Include, "table") => &mut patterns.tables,
                (FilterAction::Include, "table_and_children") => &mut patterns.tables_and_children,
                (FilterAction::Include, "schema") => &mut patterns.schemas,
                (FilterAction::Include, "extension") => &mut patterns.extensions,
                (FilterAction::Include, "foreign_data") => &mut patterns.foreign_servers,
                (FilterAction::Exclude, "table") => &mut patterns.exclude_tables,
                (FilterAction::Exclude, "table_and_children") => &mut patterns.exclude_tables_and_children,
                (FilterAction::Exclude, "table_data") => &mut patterns.exclude_table_data,
                (FilterAction::Exclude, "table_data_and_children") => {
                    &mut patterns.exclude_table_data_and_children
                }
                (FilterAction::Exclude, "schema") => &mut patterns.exclude_schemas,
                (FilterAction::Exclude, "extension") => &mut patterns.exclude_extensions,
                _ => return Err(not_allowed(&item)),
            };
            list.push(pattern);
            if item.action == FilterAction::Include && item.object != "foreign_data" {
                self.dump.everything = false;
            }
        }
        Ok(())
    }
}

fn only_with(option: &str, what: &str) -> Mistake {
    Mistake::Plain(format!("option {option} can only be used with {what}"))
}

fn archive_version(value: &OsStr) -> Result<ArchiveVersion, Mistake> {
    match value.as_bytes() {
        b"1.14" => Ok(ArchiveVersion::V1_14),
        b"1.15" => Ok(ArchiveVersion::V1_15),
        b"1.16" => Ok(ArchiveVersion::V1_16),
        _ => Err(Mistake::Plain(format!(
            "invalid archive version \"{}\": must be 1.14, 1.15 or 1.16",
            value.to_string_lossy()
        ))),
    }
}

fn is_binary(value: &OsStr) -> Result<bool, Mistake> {
    match value.as_bytes() {
        b"text" => Ok(false),
        b"binary" => Ok(true),
        _ => Err(Mistake::Plain(format!(
            "invalid COPY format \"{}\": must be text or binary",
            value.to_string_lossy()
        ))),
    }
}

fn format(name: &str) -> Result<Option<ArchiveFormat>, Mistake> {
    match name.to_ascii_lowercase().as_str() {
        "p" | "plain" => Ok(None),
        "c" | "custom" => Ok(Some(ArchiveFormat::Custom)),
        "d" | "directory" => Ok(Some(ArchiveFormat::Directory)),
        "t" | "tar" => Ok(Some(ArchiveFormat::Tar)),
        _ => Err(Mistake::Plain(format!("invalid output format \"{name}\" specified"))),
    }
}

/// `-d` may be a connection string; what it says beats the other options.
fn connection(database: Option<&str>, options: &[(&'static str, String)]) -> Result<ConnInfo, Mistake> {
    let words: Vec<(&str, &str)> =
        options.iter().map(|(keyword, value)| (*keyword, value.as_str())).collect();
    ConnInfo::resolve_with(&words, database, &environment())
        .map_err(|error| Mistake::Plain(error.to_string()))
}
