//! `pgkeep load`.

use std::path::PathBuf;

use clap::Args;
use pgkeep_logical::load::LoadSelection;

use super::connection::ConnectionArgs;
use super::verify::bytes;

const EXAMPLES: &str = "\
Examples:
  pgkeep load shop.dump --target shop_copy                    # made if it does not exist
  pgkeep load shop.dump --target shop_copy --dry-run          # what would be done
  pgkeep load shop.dump --target shop_copy --resume           # after an interruption
  pgkeep load shop.dump --target shop --into-existing --table 'app.user*' --with-indexes --with-constraints
  pgkeep load shop.dump --target shop --into-existing --rename-schema app=app_old
  pgkeep load shop.dump --target test --owner-map '*=tester' --no-privileges
  pgkeep load --repo /srv/backup latest --target app_copy     # a dump in the repository
  pgkeep load --repo /srv/backup 000012 --database app --target app_copy
  pgkeep load --repo /srv/backup latest --all -h new.example  # every database, roles, tablespaces

An archive is SQL of whoever made it, and runs with the rights of the role that connects: load only
archives that you trust. A dump in the repository is named by its id, the beginning of one, or
`latest`; `./latest` is a file. Exits with 19 when the server refused something; the report on stdout says
what is missing.";

/// What makes no sense, or is not built, for a whole cluster.
const NOT_OF_A_SET: [&str; 12] = [
    "database",
    "target",
    "into_existing",
    "schema",
    "exclude_schema",
    "table",
    "exclude_table",
    "with_dependencies",
    "data_only",
    "rename_schema",
    "owner_map",
    "no_owner",
];

/// Options of `load`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    /// Archive of pg_dump: a file or a directory, or `-` for standard input; or a dump in the repository
    #[arg(value_name = "ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Which database of the dump in the repository, where it has several
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Every database of the dump in the repository, after its roles and tablespaces
    #[arg(long, conflicts_with_all = NOT_OF_A_SET)]
    pub(crate) all: bool,
    /// Only the roles and tablespaces of the dump in the repository
    #[arg(long, conflicts_with = "all", conflicts_with_all = NOT_OF_A_SET)]
    pub(crate) globals: bool,
    /// Database to load into; made when there is none of that name [default: that of the connection]
    #[arg(long, value_name = "DBNAME")]
    pub(crate) target: Option<String>,
    /// Sessions at once [default: one per processor]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) jobs: Option<u32>,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go on with an interrupted load, with the same options
    #[arg(long)]
    pub(crate) resume: bool,
    /// Add to what the database holds; nothing that is there is replaced
    #[arg(long)]
    pub(crate) into_existing: bool,
    /// Go on after what the server refuses
    #[arg(long)]
    pub(crate) continue_on_error: bool,

    /// Only this schema; a pattern as in psql; may be repeated
    #[arg(short = 'n', long, value_name = "PATTERN", help_heading = "What is loaded")]
    schema: Vec<String>,
    /// Nothing of this schema; may be repeated
    #[arg(short = 'N', long, value_name = "PATTERN", help_heading = "What is loaded")]
    exclude_schema: Vec<String>,
    /// Only this table, view or sequence, with its partitions, rows and policies; may be repeated
    #[arg(short = 't', long, value_name = "PATTERN", help_heading = "What is loaded")]
    table: Vec<String>,
    /// Not this table; may be repeated
    #[arg(short = 'T', long, value_name = "PATTERN", help_heading = "What is loaded")]
    exclude_table: Vec<String>,
    /// Also the indexes of the chosen tables
    #[arg(long, requires = "table", help_heading = "What is loaded")]
    with_indexes: bool,
    /// Also their keys, checks and foreign keys
    #[arg(long, requires = "table", help_heading = "What is loaded")]
    with_constraints: bool,
    /// Also their triggers and rules
    #[arg(long, requires = "table", help_heading = "What is loaded")]
    with_triggers: bool,
    /// Also what the chosen objects need: types, functions, parents
    #[arg(long, help_heading = "What is loaded")]
    with_dependencies: bool,
    /// No rows
    #[arg(short, long, conflicts_with = "data_only", help_heading = "What is loaded")]
    schema_only: bool,
    /// Rows only, into tables that are there
    #[arg(short = 'a', long, help_heading = "What is loaded")]
    data_only: bool,

    /// Another name for a schema; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = pair, help_heading = "Other names")]
    pub(crate) rename_schema: Vec<(String, String)>,
    /// Another name for a role; `*=NEW` for all that have none of their own; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = pair, help_heading = "Other names")]
    pub(crate) owner_map: Vec<(String, String)>,
    /// Everything belongs to the role that connects
    #[arg(short = 'O', long, help_heading = "Other names")]
    pub(crate) no_owner: bool,
    /// Grant and revoke nothing
    #[arg(short = 'x', long, help_heading = "Other names")]
    pub(crate) no_privileges: bool,
    /// Everything goes into the database's own tablespace
    #[arg(long, help_heading = "Other names")]
    pub(crate) no_tablespaces: bool,

    /// Memory for building indexes, of all sessions together, as in 4GiB [default: from shared_buffers]
    #[arg(long, value_name = "SIZE", value_parser = bytes, help_heading = "Speed")]
    pub(crate) maintenance_memory: Option<u64>,
    /// No trigger and no foreign key looks at the rows; takes a superuser
    #[arg(long, help_heading = "Speed")]
    pub(crate) disable_triggers: bool,
    /// Leave the planner without statistics
    #[arg(long, help_heading = "Speed")]
    pub(crate) no_analyze: bool,

    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

impl LoadArgs {
    /// Which objects.
    pub(crate) fn selection(&self) -> LoadSelection {
        LoadSelection {
            schemas: self.schema.clone(),
            exclude_schemas: self.exclude_schema.clone(),
            tables: self.table.clone(),
            exclude_tables: self.exclude_table.clone(),
            with_indexes: self.with_indexes,
            with_constraints: self.with_constraints,
            with_triggers: self.with_triggers,
            with_dependencies: self.with_dependencies,
            schema_only: self.schema_only,
            data_only: self.data_only,
        }
    }
}

/// Names as they are, without quotes; the first `=` parts them.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.to_owned(), new.to_owned())),
        _ => Err("expected OLD=NEW".to_owned()),
    }
}
