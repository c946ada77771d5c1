//! What is loaded, into what, and how: everything resolved, no default is looked up later.

use pgkeep_wire::ConnInfo;

/// A load.
#[derive(Debug, Clone)]
pub struct LoadRequest {
    /// The server, the role, and the database to load into.
    pub target: ConnInfo,
    /// Which objects.
    pub selection: LoadSelection,
    /// `--rename-schema`: old and new names.
    pub schema_names: Vec<(String, String)>,
    /// `--owner-map`: old and new names of roles; `*` stands for all that have none of their own.
    pub roles: Vec<(String, String)>,
    /// Everything belongs to the role that connects.
    pub no_owner: bool,
    /// Nothing is granted or revoked.
    pub no_privileges: bool,
    /// Everything goes into the database's own tablespace.
    pub no_tablespaces: bool,
    /// Sessions at once, above 0.
    pub jobs: u32,
    /// Memory for building indexes, of all sessions together, in bytes; derived from the server's settings when not given.
    pub maintenance_memory: Option<u64>,
    /// The database may hold something else already.
    pub into_existing: bool,
    /// Go on with an interrupted load.
    pub resume: bool,
    /// Go on after what the server refuses.
    pub continue_on_error: bool,
    /// No trigger and no foreign key looks at the rows that are loaded. Takes a superuser.
    pub disable_triggers: bool,
    /// Leave the planner without statistics.
    pub no_analyze: bool,
    /// Stop after the plan.
    pub dry_run: bool,
}

/// Which objects of the archive are loaded: all of them, unless patterns say otherwise.
///
/// Patterns are psql's: `*`, `?`, double quotes, `schema.name`. One without a schema fits in every schema.
#[derive(Debug, Clone, Default)]
pub struct LoadSelection {
    /// All of these schemas.
    pub schemas: Vec<String>,
    /// Nothing of these schemas.
    pub exclude_schemas: Vec<String>,
    /// These tables, views and sequences, and what belongs to them.
    pub tables: Vec<String>,
    /// Not these, nor what belongs to them.
    pub exclude_tables: Vec<String>,
    /// With [`tables`](Self::tables): their indexes.
    pub with_indexes: bool,
    /// With [`tables`](Self::tables): their keys, checks and foreign keys.
    pub with_constraints: bool,
    /// With [`tables`](Self::tables): their triggers and rules.
    pub with_triggers: bool,
    /// Also what the chosen ones need: types, functions, parents.
    pub with_dependencies: bool,
    /// No rows.
    pub schema_only: bool,
    /// Rows only, into tables that are there.
    pub data_only: bool,
}

impl LoadSelection {
    /// Whether tables or schemas were chosen.
    pub(super) fn is_partial(&self) -> bool {
        !(self.schemas.is_empty() && self.tables.is_empty())
    }

    /// As words that are the same for the same selection.
    pub(super) fn signature(&self) -> String {
        let mut text = String::new();
        for (name, list) in [
            ("schema", &self.schemas),
            ("exclude-schema", &self.exclude_schemas),
            ("table", &self.tables),
            ("exclude-table", &self.exclude_tables),
        ] {
            let mut sorted = list.clone();
            sorted.sort_unstable();
            for pattern in sorted {
                text.push_str(&format!(" --{name} '{pattern}'"));
            }
        }
        for (name, given) in [
            ("with-indexes", self.with_indexes),
            ("with-constraints", self.with_constraints),
            ("with-triggers", self.with_triggers),
            ("with-dependencies", self.with_dependencies),
            ("schema-only", self.schema_only),
            ("data-only", self.data_only),
        ] {
            if given {
                text.push_str(&format!(" --{name}"));
            }
        }
        text
    }
}

impl LoadRequest {
    /// The options that decide what is made, as words: a load is resumed with the same ones only.
    pub(super) fn signature(&self) -> String {
        let mut text = self.selection.signature();
        for (name, pairs) in [("rename-schema", &self.schema_names), ("owner-map", &self.roles)] {
            let mut sorted = pairs.clone();
            sorted.sort_unstable();
            for (old, new) in sorted {
                text.push_str(&format!(" --{name} '{old}={new}'"));
            }
        }
        for (name, given) in [
            ("no-owner", self.no_owner),
            ("no-privileges", self.no_privileges),
            ("no-tablespaces", self.no_tablespaces),
            ("no-analyze", self.no_analyze),
        ] {
            if given {
                text.push_str(&format!(" --{name}"));
            }
        }
        text.trim_start().to_owned()
    }
}
