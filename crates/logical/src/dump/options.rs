//! What is to be dumped and how: every choice of `pg_dump` that has to do with content, resolved.

use std::collections::BTreeSet;

/// Rows and definitions that were asked for. Built by the front; nothing here is looked up later.
#[derive(Debug, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own that can be combined with all others"
)]
pub struct DumpOptions {
    /// Definitions are wanted.
    pub schema: bool,
    /// Rows are wanted.
    pub data: bool,
    /// Statistics are wanted.
    pub statistics: bool,
    /// Positions of sequences are wanted, even without rows (`--sequence-data`).
    pub sequence_data: bool,
    /// `--binary-upgrade`: objects keep their OIDs and files.
    pub binary_upgrade: bool,
    /// Neither schemas, tables nor extensions were named: databases, languages, casts and the like are included.
    pub everything: bool,
    /// The database itself is an entry: always in an archive, with `--create` in a script.
    pub create_database: bool,
    /// Large objects: asked for (`Some(true)`), not wanted (`Some(false)`), or by default (whole databases with data).
    pub large_objects: Option<bool>,
    /// `--no-privileges`.
    pub no_privileges: bool,
    /// `--no-comments`.
    pub no_comments: bool,
    /// `--no-security-labels`.
    pub no_security_labels: bool,
    /// `--no-policies`.
    pub no_policies: bool,
    /// `--no-publications`.
    pub no_publications: bool,
    /// `--no-subscriptions`.
    pub no_subscriptions: bool,
    /// `--no-tablespaces`: databases are made without theirs.
    pub no_tablespaces: bool,
    /// `--no-toast-compression`.
    pub no_toast_compression: bool,
    /// `--no-unlogged-table-data`.
    pub no_unlogged_table_data: bool,
    /// `--disable-dollar-quoting`.
    pub disable_dollar_quoting: bool,
    /// `--quote-all-identifiers`.
    pub quote_all_identifiers: bool,
    /// `--load-via-partition-root`.
    pub load_via_partition_root: bool,
    /// Sessions that fetch data at the same time. More than one are besides that which holds the locks.
    pub jobs: u32,
    /// Bytes of a table on the server that one session fetches at a time, when several do, and bytes of rows that are
    /// compressed apart; for tests.
    pub part_bytes: u64,
    /// How rows are written.
    pub rows: RowFormat,
    /// Patterns of objects.
    pub patterns: Patterns,
    /// The session.
    pub session: SessionOptions,
}

impl Default for DumpOptions {
    fn default() -> DumpOptions {
        DumpOptions {
            schema: true,
            data: true,
            statistics: false,
            sequence_data: false,
            binary_upgrade: false,
            everything: true,
            create_database: false,
            large_objects: None,
            no_privileges: false,
            no_comments: false,
            no_security_labels: false,
            no_policies: false,
            no_publications: false,
            no_subscriptions: false,
            no_tablespaces: false,
            no_toast_compression: false,
            no_unlogged_table_data: false,
            disable_dollar_quoting: false,
            quote_all_identifiers: false,
            load_via_partition_root: false,
            jobs: 1,
            part_bytes: 32 << 20,
            rows: RowFormat::Copy,
            patterns: Patterns::default(),
            session: SessionOptions::default(),
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// As the text of COPY.
    Copy,
    /// As COPY's binary form, in archives only.
    CopyBinary,
    /// As INSERT commands.
    Inserts {
        /// The most rows of one command.
        rows_per_command: u32,
        /// Columns are named (`--column-inserts`).
        name_columns: bool,
        /// `ON CONFLICT DO NOTHING` is added.
        skip_conflicts: bool,
    },
}

/// The session that dumps.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// `--encoding`; the database's own when not given.
    pub encoding: Option<String>,
    /// `--role`.
    pub role: Option<String>,
    /// `--extra-float-digits`.
    pub extra_float_digits: Option<i32>,
    /// `--enable-row-security`.
    pub enable_row_security: bool,
    /// `--serializable-deferrable`.
    pub serializable_deferrable: bool,
    /// `--snapshot`.
    pub snapshot: Option<String>,
    /// Servers newer than the newest known one are dumped as that one is, with a warning.
    pub force: bool,
    /// `--lock-wait-timeout`, as the server reads it.
    pub lock_wait_timeout: Option<String>,
}

/// The patterns that name what is wanted and what is not, as given.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    /// `-n`.
    pub schemas: Vec<String>,
    /// `-N`.
    pub exclude_schemas: Vec<String>,
    /// `-t`.
    pub tables: Vec<String>,
    /// `--table-and-children`.
    pub tables_and_children: Vec<String>,
    /// `-T`.
    pub exclude_tables: Vec<String>,
    /// `--exclude-table-and-children`.
    pub exclude_tables_and_children: Vec<String>,
    /// `--exclude-table-data`.
    pub exclude_table_data: Vec<String>,
    /// `--exclude-table-data-and-children`.
    pub exclude_table_data_and_children: Vec<String>,
    /// `-e`.
    pub extensions: Vec<String>,
    /// `--exclude-extension`.
    pub exclude_extensions: Vec<String>,
    /// `--include-foreign-data`.
    pub foreign_servers: Vec<String>,
    /// `--strict-names`: every pattern of `-n`, `-t` and `-e` must name something.
    pub strict: bool,
}

/// What the patterns name, by OID. An inclusion that was not asked for is `None`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) schemas: Option<BTreeSet<u32>>,
    pub(crate) exclude_schemas: BTreeSet<u32>,
    pub(crate) tables: Option<BTreeSet<u32>>,
    pub(crate) exclude_tables: BTreeSet<u32>,
    pub(crate) exclude_table_data: BTreeSet<u32>,
    pub(crate) extensions: Option<BTreeSet<u32>>,
    pub(crate) exclude_extensions: BTreeSet<u32>,
    pub(crate) foreign_servers: BTreeSet<u32>,
}
