//! `pgkeep dump`, `pgkeep dump export` and `pgkeep dump verify`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::backup::annotation;
use super::connection::ConnectionArgs;
use crate::config::Flag;

const EXAMPLES: &str = "\
Examples:
  pgkeep dump --repo /srv/backup app                   # one database, kept in the repository
  pgkeep dump --repo /srv/backup --all                 # all of them, with roles and tablespaces
  pgkeep dump --repo /srv/backup app --table 'sales.*' --exclude-table-data '*.log'
  pgkeep dump app --output app.dump                    # a file that pg_restore reads
  pgkeep dump app --output app.sql --format plain --schema-only
  pgkeep dump app --output app.dir --format directory --jobs 4
  pgkeep dump export --repo /srv/backup latest --output app.dump
  pgkeep dump verify --repo /srv/backup

A database called `export` or `verify` is named with `-d`.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  pgkeep dump export --repo /srv/backup latest --output app.dump
  pgkeep dump export --repo /srv/backup 000012 --database app --output - | pg_restore --list
  pgkeep dump export --repo /srv/backup 000012 --globals --output globals.sql";

const VERIFY_EXAMPLES: &str = "\
Examples:
  pgkeep dump verify --repo /srv/backup                # every dump
  pgkeep dump verify --repo /srv/backup latest
  pgkeep dump verify --file app.dump                   # an archive outside of the repository

Exits with 17 when something is damaged.";

/// Options of `dump`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
pub(crate) struct DumpArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<DumpVerb>,
    /// Database [default: that of the connection]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<String>,
    /// Every database that takes connections, with roles and tablespaces
    #[arg(long, conflicts_with_all = ["database", "output"])]
    pub(crate) all: bool,
    /// Write to this file or directory instead of the repository; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Format of the file [default: custom]
    #[arg(long, value_name = "FORMAT", value_enum, requires = "output")]
    pub(crate) format: Option<FormatName>,
    /// Codec: in the repository as for `backup`; in a file `gzip`, `zstd`, `lz4`, also with `:LEVEL`, or `none`
    #[arg(long, value_name = "CODEC")]
    pub(crate) compress: Option<String>,
    /// Sessions that fetch rows at the same time [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Keep this note with the dump; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation, conflicts_with = "output")]
    pub(crate) annotate: Vec<(String, String)>,
    /// Do not remove the dumps that the retention policy gives up, now that there is a new one
    #[arg(long, conflicts_with = "output")]
    pub(crate) no_expire: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) content: ContentArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// What of a database; patterns are those of psql and pg_dump.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Content")]
pub(crate) struct ContentArgs {
    /// Only these schemas; may be repeated
    #[arg(short = 'n', long, value_name = "PATTERN")]
    pub(crate) schema: Vec<String>,
    /// Not these schemas; may be repeated
    #[arg(short = 'N', long, value_name = "PATTERN")]
    pub(crate) exclude_schema: Vec<String>,
    /// Only these tables; may be repeated
    #[arg(short = 't', long, value_name = "PATTERN")]
    pub(crate) table: Vec<String>,
    /// Not these tables; may be repeated
    #[arg(short = 'T', long, value_name = "PATTERN")]
    pub(crate) exclude_table: Vec<String>,
    /// Not the rows of these tables; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude_table_data: Vec<String>,
    /// Definitions, no rows
    #[arg(short = 's', long, conflicts_with = "data_only")]
    pub(crate) schema_only: bool,
    /// Rows, no definitions
    #[arg(short = 'a', long)]
    pub(crate) data_only: bool,
}

/// Formats of files: the first three are for `pg_restore`, the last for `psql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    Custom,
    Directory,
    Tar,
    Plain,
}

impl DumpArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let compress = self.compress.clone().filter(|_| self.output.is_none());
        Flag::given([("backup.jobs", "--jobs", &self.jobs), ("backup.compress", "--compress", &compress)])
    }
}

/// What can be done with dumps.
#[derive(Debug, Subcommand)]
pub(crate) enum DumpVerb {
    /// Write a database of a dump in the repository to a file that pg_restore reads
    Export(ExportArgs),
    /// Decode dumps, and count their rows
    Verify(VerifyDumpArgs),
}

/// Options of `dump export`.
#[derive(Args, Debug)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Dump: its id, the beginning of one, or `latest`
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// Which database, where the dump has several
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// The script of roles and tablespaces, instead of a database
    #[arg(long, conflicts_with = "database")]
    pub(crate) globals: bool,
    /// Where to; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// Options of `dump verify`.
#[derive(Args, Debug)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(crate) struct VerifyDumpArgs {
    /// Dump: its id, the beginning of one, or `latest` [default: all]
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// An archive of pg_dump, a file or a directory, instead of what the repository holds
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    pub(crate) file: Option<PathBuf>,
}
