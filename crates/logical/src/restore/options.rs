//! What is restored, and how: the options of `pg_restore`, resolved.

use std::collections::BTreeSet;

use pgkeep_format::archive::{DumpId, Text};

/// Names that the user gave, and whether each was met.
#[derive(Debug, Clone, Default)]
pub struct NameList {
    names: Vec<(Text, bool)>,
}

impl NameList {
    /// Adds a name.
    pub fn push(&mut self, name: impl Into<Text>) {
        self.names.push((name.into(), false));
    }

    /// Whether no name was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether the name was given; remembers that it was met.
    pub(crate) fn meets(&mut self, name: &[u8]) -> bool {
        match self.names.iter_mut().find(|(given, _)| given.as_bytes() == name) {
            Some((_, met)) => {
                *met = true;
                true
            }
            None => false,
        }
    }

    /// The first name that was never met.
    pub(crate) fn first_not_met(&self) -> Option<&Text> {
        self.names.iter().find(|(_, met)| !met).map(|(name, _)| name)
    }
}

/// Which entries are restored.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Definitions of objects (not with `-a`, `--no-schema`, `--statistics-only`).
    pub schema: bool,
    /// Rows, large objects, positions of sequences (not with `-s`, `--no-data`, `--statistics-only`).
    pub data: bool,
    /// Positions of sequences, even without other data (`--sequence-data`).
    pub sequence_data: bool,
    /// Large objects exist in the files that `pg_upgrade` takes over: what is said of them is wanted even without data.
    pub binary_upgrade: bool,
    /// Statistics of the planner.
    pub statistics: bool,
    /// Entries before the data (`--section`).
    pub pre_data: bool,
    /// Entries of the data section.
    pub data_section: bool,
    /// Entries after the data.
    pub post_data: bool,
    /// `-C`: the database itself.
    pub create: bool,
    /// `-x`
    pub no_privileges: bool,
    /// `--no-comments`
    pub no_comments: bool,
    /// `--no-policies`
    pub no_policies: bool,
    /// `--no-publications`
    pub no_publications: bool,
    /// `--no-security-labels`
    pub no_security_labels: bool,
    /// `--no-subscriptions`
    pub no_subscriptions: bool,
    /// `-n`
    pub schemas: NameList,
    /// `-N`
    pub excluded_schemas: NameList,
    /// `-t`
    pub tables: NameList,
    /// `-I`
    pub indexes: NameList,
    /// `-P`
    pub functions: NameList,
    /// `-T`
    pub triggers: NameList,
    /// `--strict-names`
    pub strict_names: bool,
    /// `-L`: only these.
    pub wanted: Option<BTreeSet<DumpId>>,
}

impl Default for Selection {
    fn default() -> Selection {
        Selection {
            schema: true,
            data: true,
            sequence_data: false,
            binary_upgrade: false,
            statistics: true,
            pre_data: true,
            data_section: true,
            post_data: true,
            create: false,
            no_privileges: false,
            no_comments: false,
            no_policies: false,
            no_publications: false,
            no_security_labels: false,
            no_subscriptions: false,
            schemas: NameList::default(),
            excluded_schemas: NameList::default(),
            tables: NameList::default(),
            indexes: NameList::default(),
            functions: NameList::default(),
            triggers: NameList::default(),
            strict_names: false,
            wanted: None,
        }
    }
}

impl Selection {
    /// Whether kinds of objects were selected by name.
    pub(crate) fn selects_kinds(&self) -> bool {
        !(self.tables.is_empty()
            && self.indexes.is_empty()
            && self.functions.is_empty()
            && self.triggers.is_empty())
    }
}

/// How entries are restored.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Which entries.
    pub selection: Selection,
    /// `-v`: more comments in scripts, more messages.
    pub verbose: bool,
    /// `--quote-all-identifiers`, of dumps.
    pub quote_all_identifiers: bool,
    /// `-c`: drop before creating.
    pub clean: bool,
    /// `--if-exists`
    pub if_exists: bool,
    /// `-O`
    pub no_owner: bool,
    /// `--use-set-session-authorization`
    pub use_session_authorization: bool,
    /// `-S`: who disables triggers.
    pub superuser: Option<Text>,
    /// `--role`
    pub role: Option<Text>,
    /// `--disable-triggers`
    pub disable_triggers: bool,
    /// `--enable-row-security`
    pub enable_row_security: bool,
    /// `--no-tablespaces`
    pub no_tablespaces: bool,
    /// `--no-table-access-method`
    pub no_table_access_method: bool,
    /// `-1`
    pub single_transaction: bool,
    /// `--transaction-size`; 0: not given.
    pub transaction_size: u32,
    /// `-e`
    pub exit_on_error: bool,
    /// `--no-data-for-failed-tables`
    pub no_data_for_failed_tables: bool,
    /// Keeps psql from running commands that the archive brings; scripts only.
    pub restrict_key: Option<String>,
    /// `-j`
    pub jobs: u32,
}
