//! What can be asked of `dump`, and what it answers. Plain data: the report is what `--json` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use pgkeep_format::archive::{ArchiveFormat, Compression as ArchiveCompression};
use pgkeep_logical::dump::{DumpOptions, Patterns};
use pgkeep_logical::restore::RestoreOptions;

use crate::error::{Error, ErrorKind, Result};
use crate::{Compression, ConnectionRequest, Location};

/// Which databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpChoice {
    /// One: by its name, or that of the connection.
    One(Option<String>),
    /// All that take connections, with what belongs to none.
    All,
}

/// What of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpContent {
    /// Definitions only.
    pub schema_only: bool,
    /// Rows only.
    pub data_only: bool,
    /// Patterns of schemas that are wanted.
    pub schemas: Vec<String>,
    /// Patterns of schemas that are not.
    pub exclude_schemas: Vec<String>,
    /// Patterns of tables that are wanted.
    pub tables: Vec<String>,
    /// Patterns of tables that are not.
    pub exclude_tables: Vec<String>,
    /// Patterns of tables whose rows are not wanted.
    pub exclude_table_data: Vec<String>,
}

impl DumpContent {
    /// As the dump and the choice of entries have it.
    pub(super) fn options(&self, is_archive: bool, jobs: u32) -> (DumpOptions, RestoreOptions) {
        let everything = self.schemas.is_empty() && self.tables.is_empty();
        let dump = DumpOptions {
            schema: !self.data_only,
            data: !self.schema_only,
            everything,
            create_database: is_archive,
            jobs,
            patterns: Patterns {
                schemas: self.schemas.clone(),
                exclude_schemas: self.exclude_schemas.clone(),
                tables: self.tables.clone(),
                exclude_tables: self.exclude_tables.clone(),
                exclude_table_data: self.exclude_table_data.clone(),
                ..Patterns::default()
            },
            ..DumpOptions::default()
        };
        let mut restore = RestoreOptions::default();
        restore.selection.data = dump.data;
        restore.selection.schema = dump.schema;
        restore.selection.statistics = false;
        restore.selection.create = is_archive;
        (dump, restore)
    }

    /// As options of the command line, for the manifest.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (is_given, word) in [(self.schema_only, "--schema-only"), (self.data_only, "--data-only")] {
            if is_given {
                words.push(word.to_owned());
            }
        }
        for (option, patterns) in [
            ("--schema", &self.schemas),
            ("--exclude-schema", &self.exclude_schemas),
            ("--table", &self.tables),
            ("--exclude-table", &self.exclude_tables),
            ("--exclude-table-data", &self.exclude_table_data),
        ] {
            words.extend(patterns.iter().map(|pattern| format!("{option}={pattern}")));
        }
        words
    }
}

/// A file, a directory, or standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpFile {
    /// Where; none is standard output.
    pub path: Option<PathBuf>,
    /// The format of the archive; none is a script.
    pub format: Option<ArchiveFormat>,
    /// Of the data.
    pub compression: ArchiveCompression,
    /// The codec's own when none.
    pub level: Option<i32>,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpDestination {
    /// Into a stanza.
    Repository {
        /// Which.
        location: Location,
        /// Of the frames.
        compression: Compression,
        /// Closes packs at another size than usual; for tests.
        pack_bytes: Option<u64>,
    },
    /// Into a file.
    File(DumpFile),
}

impl fmt::Display for DumpDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DumpDestination::Repository { location, .. } => {
                write!(f, "stanza {} in {}", location.stanza, location.repository)
            }
            DumpDestination::File(DumpFile { path: Some(path), .. }) => path.display().fmt(f),
            DumpDestination::File(DumpFile { path: None, .. }) => f.write_str("standard output"),
        }
    }
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct DumpRequest {
    /// The server.
    pub connection: ConnectionRequest,
    /// Which databases.
    pub choice: DumpChoice,
    /// What of them.
    pub content: DumpContent,
    /// Where to.
    pub destination: DumpDestination,
    /// Sessions that fetch rows at the same time.
    pub jobs: u32,
    /// The user's notes.
    pub annotations: BTreeMap<String, String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl DumpRequest {
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |what: &str, hint: &str| Err(Error::new(ErrorKind::Usage, what).hint(hint));
        if self.content.schema_only && self.content.data_only {
            return refuse(
                "a dump of the definitions only cannot be one of the rows only",
                "give one of `--schema-only` and `--data-only`, or neither",
            );
        }
        let DumpDestination::File(file) = &self.destination else { return Ok(()) };
        if self.choice == DumpChoice::All {
            return refuse(
                "a dump of all databases is a set, which one file cannot hold",
                "leave out `--output`; or write a script with `pgkeep pg_dumpall`",
            );
        }
        match (file.format, &file.path) {
            (Some(ArchiveFormat::Directory), None) => refuse(
                "a directory cannot be written to standard output",
                "name it with `--output`, or choose `--format custom`",
            ),
            (Some(ArchiveFormat::Tar), _) if file.compression != ArchiveCompression::None => refuse(
                "a tar archive cannot be compressed",
                "leave out `--compress`, or choose `--format custom`",
            ),
            _ => Ok(()),
        }
    }
}

/// A database in the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DumpedDatabase {
    /// Its name.
    pub name: String,
    /// Entries of the archive.
    pub entries: u64,
    /// Entries with rows.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Bytes of the archive; 0 where it was written to a file.
    pub size_bytes: u64,
}

impl DumpedDatabase {
    pub(super) fn named(name: &str) -> DumpedDatabase {
        DumpedDatabase { name: name.to_owned(), ..DumpedDatabase::default() }
    }
}

/// What was done, or would be.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DumpReport {
    /// The dump in the repository; none for a file or a dry run.
    pub id: Option<String>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Where to, in words.
    pub destination: String,
    /// The cluster.
    #[serde(serialize_with = "crate::json::as_text")]
    pub system_identifier: u64,
    /// The server's version, as `server_version_num`.
    pub server_version: u32,
    /// Whether what belongs to no database is in it.
    pub globals: bool,
    /// The databases.
    pub databases: Vec<DumpedDatabase>,
    /// Bytes of all parts, uncompressed.
    pub size_bytes: u64,
    /// Bytes that the repository has for it.
    pub stored_bytes: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}
