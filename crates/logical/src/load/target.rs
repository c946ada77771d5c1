//! The database to load into: what is known of it before anything is written, and how it is made when it is missing.
//!
//! A database is made under a name of its own, gets its [journal], and is renamed: one that has the name
//! that was asked for is never half made.

use std::collections::BTreeSet;
use std::time::Duration;

use pgkeep_wire::{ConnInfo, Connection, SessionMode, WireError, quote_identifier, quote_literal};

use super::error::{LoadError, LoadErrorKind, LoadResult};
use super::journal;

/// How many objects a message names.
const SHOWN_OBJECTS: usize = 5;
/// How often, and how long apart, what another session is in the way of is tried.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// What is known of the server and the database.
#[derive(Debug, Default)]
pub(super) struct TargetFacts {
    pub(super) major: u32,
    /// Whether the database is there.
    pub(super) exists: bool,
    /// Some objects in it that are not the server's own.
    pub(super) objects: Vec<String>,
    /// Schema and name of each relation.
    pub(super) relations: BTreeSet<(Vec<u8>, Vec<u8>)>,
    pub(super) schemas: BTreeSet<Vec<u8>>,
    pub(super) roles: BTreeSet<Vec<u8>>,
    pub(super) tablespaces: BTreeSet<Vec<u8>>,
    pub(super) user: String,
    pub(super) is_superuser: bool,
    pub(super) wal_is_minimal: bool,
    pub(super) shared_buffers: u64,
    pub(super) maintenance_work_mem: u64,
    /// The mode of the commit that makes the load durable.
    pub(super) durable_commit: String,
    /// An interrupted load, or one of a set.
    pub(super) journal: Option<journal::Found>,
    /// The database is one of a set, and the archive's own though it may be there already.
    pub(super) in_set: bool,
}

/// The server's words for objects that it made itself begin below this OID.
const FIRST_USER_OID: u32 = 16384;

fn connect(info: &ConnInfo) -> Result<Connection, WireError> {
    let mut connection = Connection::connect(info, SessionMode::Sql)?;
    connection.execute("SELECT pg_catalog.set_config('search_path', '', false)")?;
    Ok(connection)
}

pub(super) fn connected(info: &ConnInfo) -> LoadResult<Connection> {
    connect(info)
        .map_err(|error| LoadError::server(&format!("cannot connect to {}", info.describe()), &error))
}

fn asked(error: &WireError) -> LoadError {
    LoadError::server("the server did not answer a question about the database", error)
}

fn with_database(info: &ConnInfo, name: &str) -> LoadResult<ConnInfo> {
    info.clone().with("dbname", name).map_err(|error| {
        LoadError::new(LoadErrorKind::Usage, format!("`{name}` cannot be the name of a database"))
            .cause(error.to_string())
            .hint("choose another name with `--target`")
    })
}

/// A session from which databases can be made.
pub(super) fn maintenance(info: &ConnInfo) -> LoadResult<Connection> {
    match connect(&with_database(info, "postgres")?) {
        Err(error) if error.sqlstate() == Some("3D000") => connected(&with_database(info, "template1")?),
        Err(error) => Err(LoadError::server(&format!("cannot connect to {}", info.describe()), &error)),
        Ok(connection) => Ok(connection),
    }
}

/// A session in the database; none where there is no such database.
pub(super) fn connect_if_there(info: &ConnInfo) -> LoadResult<Option<Connection>> {
    match connect(info) {
        Ok(connection) => Ok(Some(connection)),
        Err(error) if error.sqlstate() == Some("3D000") => Ok(None),
        Err(error) => Err(LoadError::server(&format!("cannot connect to {}", info.describe()), &error)),
    }
}

/// Asks for everything that the plan needs.
pub(super) fn facts(info: &ConnInfo) -> LoadResult<TargetFacts> {
    let (mut connection, exists) = match connect_if_there(info)? {
        Some(connection) => (connection, true),
        None => (maintenance(info)?, false),
    };
    let mut facts = TargetFacts { exists, major: connection.server_major(), ..TargetFacts::default() };
    server_facts(&mut connection, &mut facts).map_err(|error| asked(&error))?;
    if exists {
        database_facts(&mut connection, &mut facts).map_err(|error| asked(&error))?;
        facts.journal = journal::find(&mut connection).map_err(|error| asked(&error))?;
    }
    Ok(facts)
}

pub(super) fn names(connection: &mut Connection, sql: &str) -> Result<BTreeSet<Vec<u8>>, WireError> {
    let rows = connection.query(sql)?;
    rows.iter().map(|row| Ok(row.bytes("name")?.unwrap_or_default().to_vec())).collect()
}

fn server_facts(connection: &mut Connection, facts: &mut TargetFacts) -> Result<(), WireError> {
    facts.roles = names(connection, "SELECT rolname AS name FROM pg_catalog.pg_roles")?;
    facts.tablespaces = names(connection, "SELECT spcname AS name FROM pg_catalog.pg_tablespace")?;
    let rows = connection.query(
        "SELECT CURRENT_USER AS role, r.rolsuper AS super, \
         (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_level') AS wal_level, \
         pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')) AS buffers, \
         pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) AS memory, \
         pg_catalog.current_setting('synchronous_commit') AS commit \
         FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER",
    )?;
    let row = rows.one()?;
    facts.user = row.text("role")?.to_owned();
    facts.is_superuser = row.boolean("super")?;
    facts.wal_is_minimal = row.text("wal_level")? == "minimal";
    facts.shared_buffers = row.parse("buffers")?;
    facts.maintenance_work_mem = row.parse("memory")?;
    facts.durable_commit = match row.text("commit")? {
        "off" => "on".to_owned(),
        mode => mode.to_owned(),
    };
    Ok(())
}

fn database_facts(connection: &mut Connection, facts: &mut TargetFacts) -> Result<(), WireError> {
    facts.schemas = names(
        connection,
        "SELECT nspname AS name FROM pg_catalog.pg_namespace WHERE nspname <> 'pgkeep_load'",
    )?;
    let rows = connection.query(
        "SELECT n.nspname AS schema, c.relname AS name FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgkeep_load')",
    )?;
    for row in rows.iter() {
        let schema = row.bytes("schema")?.unwrap_or_default().to_vec();
        facts.relations.insert((schema, row.bytes("name")?.unwrap_or_default().to_vec()));
    }
    // What a template brings with an extension is no reason to refuse; what a user made is.
    let of_users = |catalog: &str, what: &str, name: &str, schema: &str| {
        format!(
            "SELECT '{what} ' || {schema} || {name} AS name FROM pg_catalog.{catalog} o \
             LEFT JOIN pg_catalog.pg_namespace n ON n.oid = {} WHERE o.oid >= {FIRST_USER_OID} \
             AND (n.oid IS NULL OR n.nspname NOT IN ('pgkeep_load', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp%') \
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass \
             AND d.objid = o.oid AND d.deptype IN ('e', 'i'))",
            match catalog {
                "pg_namespace" => "NULL",
                "pg_class" => "o.relnamespace",
                "pg_proc" => "o.pronamespace",
                "pg_type" => "o.typnamespace",
                _ => "NULL",
            }
        )
    };
    let in_schema = "COALESCE(n.nspname || '.', '') ||";
    let in_schema = in_schema.trim_end_matches(" ||");
    let parts = [
        of_users("pg_namespace", "schema", "o.nspname", "''")
            + " AND o.nspname <> 'pgkeep_load' AND o.nspname NOT LIKE 'pg\\_t%'",
        of_users("pg_class", "relation", "o.relname", in_schema),
        of_users("pg_proc", "function", "o.proname", in_schema),
        of_users("pg_type", "type", "o.typname", in_schema)
            + " AND o.typtype IN ('d', 'e', 'r', 'b') AND o.typelem = 0",
        of_users("pg_event_trigger", "event trigger", "o.evtname", "''"),
        "SELECT 'large object ' || oid AS name FROM pg_catalog.pg_largeobject_metadata".to_owned(),
    ];
    let sql = format!("({}) LIMIT {}", parts.join(") UNION ALL ("), SHOWN_OBJECTS + 1);
    facts.objects = names(connection, &sql)?
        .into_iter()
        .map(|name| String::from_utf8_lossy(&name).into_owned())
        .collect();
    Ok(())
}

/// Refuses a database that holds something.
pub(super) fn refuse_unless_empty(facts: &TargetFacts, database: &str) -> LoadResult<()> {
    if facts.objects.is_empty() {
        return Ok(());
    }
    let mut shown = facts.objects.iter().take(SHOWN_OBJECTS).cloned().collect::<Vec<_>>().join(", ");
    if facts.objects.len() > SHOWN_OBJECTS {
        shown.push_str(" and more");
    }
    Err(LoadError::new(LoadErrorKind::Destination, format!("the database `{database}` is not empty"))
        .cause(format!("it holds {shown}"))
        .hint("name a database that does not exist, and it will be made")
        .hint("`--into-existing` adds to what is there; nothing that is there is replaced"))
}

/// Makes the database, with its journal in it.
pub(super) fn create(info: &ConnInfo, create: &str, made_as: &str, key: &journal::Key) -> LoadResult<()> {
    let database = info.database();
    let failed = |error: &WireError| {
        LoadError::server(&format!("cannot create the database `{database}`"), error)
            .hint("create it by hand, then load into it")
    };
    let mut server = maintenance(info)?;
    for attempt in 1.. {
        remove_left(info, &mut server, made_as)?;
        match server.execute(create) {
            Ok(()) => break,
            Err(error) if is_of_a_killed_run(&error) && attempt < ATTEMPTS => std::thread::sleep(PAUSE),
            Err(error) => return Err(failed(&error)),
        }
    }
    let mut inside = connected(&with_database(info, made_as)?)?;
    journal::create(&mut inside, key).map_err(|error| failed(&error))?;
    inside.close();
    let rename =
        format!("ALTER DATABASE {} RENAME TO {}", quote_identifier(made_as), quote_identifier(database));
    execute_with_patience(&mut server, &rename).map_err(|error| match error.sqlstate() {
        Some("42P04") => {
            let what = format!("cannot create the database `{database}`: it was made at this moment");
            LoadError::new(LoadErrorKind::Destination, what).hint(
                "where a run was killed before, this was its end: run the command again, with `--resume`",
            )
        }
        _ => failed(&error),
    })
}

/// A run that was killed while it made the database left one that holds nothing but a journal.
fn remove_left(info: &ConnInfo, server: &mut Connection, made_as: &str) -> LoadResult<()> {
    let left = server
        .query(&format!(
            "SELECT datconnlimit = -2 AS half_dropped FROM pg_catalog.pg_database WHERE datname = {}",
            quote_literal(made_as)
        ))
        .map_err(|error| asked(&error))?;
    let Some(left) = left.first() else { return Ok(()) };
    // A server that crashed while it dropped one lets nobody into it, but drops it again.
    let is_half_dropped = left.boolean("half_dropped").map_err(|error| asked(&error))?;
    if !is_half_dropped && !facts(&with_database(info, made_as)?)?.objects.is_empty() {
        return Err(LoadError::new(
            LoadErrorKind::Destination,
            format!("the database `{made_as}` is in the way"),
        )
        .hint("it is not one that an interrupted load left: rename it"));
    }
    match execute_with_patience(server, &format!("DROP DATABASE {}", quote_identifier(made_as))) {
        // What the killed run was doing came to its end just now: it is gone, or has its right name.
        Err(error) if error.sqlstate() == Some("3D000") => Ok(()),
        dropped => dropped.map_err(|error| {
            LoadError::server(&format!("cannot drop `{made_as}`, which a killed load left"), &error)
        }),
    }
}

/// Sessions that were closed, or whose client was killed, are seen for a while.
fn execute_with_patience(server: &mut Connection, sql: &str) -> Result<(), WireError> {
    for _ in 1..ATTEMPTS {
        match server.execute(sql) {
            Err(error) if is_of_a_killed_run(&error) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    server.execute(sql)
}

/// The database is in use, or was made by somebody else at this very moment.
fn is_of_a_killed_run(error: &WireError) -> bool {
    matches!(error.sqlstate(), Some("55006" | "42P04" | "23505"))
}

/// Begins a journal in a database that is there.
pub(super) fn begin_journal(info: &ConnInfo, key: &journal::Key) -> LoadResult<()> {
    let mut connection = connected(info)?;
    journal::create(&mut connection, key)
        .map_err(|error| LoadError::server("cannot begin the journal of the load", &error))
}
