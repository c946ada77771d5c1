//! `init`: makes the repository and the stanza, and says what the server still lacks for archiving.
//!
//! A stanza is the history of one cluster: the first `init` writes its first record, and a later one only compares. A
//! cluster that `pg_upgrade` or `initdb` made has another system identifier and takes a stanza of its own. Killed at
//! any point, it can be run again: each step finds what is there already. Another program's `archive_command` is
//! never replaced.

use jiff::Timestamp;
use pgkeep_format::WalSegmentSize;
use pgkeep_repo::{ClusterRecord, RepoError, Repository, Store};
use pgkeep_wire::{Connection, quote_identifier, quote_literal};

use crate::server_settings::{self, ServerSettings};
use crate::{ConnectionRequest, Error, ErrorKind, Location, Result};

/// What was asked.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// Where.
    pub location: Location,
    /// The server whose history the stanza will be.
    pub connection: ConnectionRequest,
    /// Set what is missing with `ALTER SYSTEM`.
    pub apply: bool,
    /// The `archive_command` that feeds this stanza.
    pub archive_command: String,
}

/// One server setting that archiving and backups depend on.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SettingFinding {
    /// Its name.
    pub name: String,
    /// What it is.
    pub current: String,
    /// What it must be.
    pub wanted: String,
    /// The line for `postgresql.conf`.
    pub line: String,
    /// Whether it takes a restart of the server.
    pub needs_restart: bool,
    /// Whether `--apply` sets it; not where another archiver would be replaced.
    pub can_be_set: bool,
    /// Why it cannot be set, or what else is to be known.
    pub note: Option<String>,
    /// Whether it was set by this run.
    pub applied: bool,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct InitReport {
    /// The repository's identity.
    pub repository_id: String,
    /// Whether this run made the repository.
    pub created_repository: bool,
    /// Whether this run made the stanza.
    pub created_stanza: bool,
    /// The cluster.
    #[serde(serialize_with = "crate::json::as_text")]
    pub system_identifier: u64,
    /// Its server's version, as `server_version_num`.
    pub server_version: u32,
    /// Settings that are not yet as they should be (or were not before `--apply`).
    pub settings: Vec<SettingFinding>,
    /// Whether the server has to be restarted before what was set (now or before) is in force.
    pub restart_needed: bool,
}

/// The versions of PostgreSQL that pgkeep knows.
pub(crate) const SUPPORTED_MAJORS: std::ops::RangeInclusive<u32> = 14..=18;

/// What identifies a cluster, as its server says it.
#[derive(Clone, Debug)]
pub(crate) struct ServerIdentity {
    pub(crate) system_identifier: u64,
    pub(crate) catalog_version: u32,
    pub(crate) version: u32,
    pub(crate) wal_segment_size: WalSegmentSize,
    pub(crate) block_size: u32,
}

impl ServerIdentity {
    pub(crate) fn read(connection: &mut Connection) -> Result<ServerIdentity> {
        let rows = connection.query(
            "SELECT s.system_identifier::text AS system_identifier, s.catalog_version_no AS catalog_version, \
             current_setting('server_version_num') AS version, \
             (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size') AS wal_segment_size, \
             current_setting('block_size') AS block_size \
             FROM pg_catalog.pg_control_system() AS s",
        )?;
        let row = rows.one()?;
        // A signed bigint in SQL; the identifier itself is unsigned.
        let system_identifier: i64 = row.parse("system_identifier")?;
        let segment_bytes: u32 = row.parse("wal_segment_size")?;
        Ok(ServerIdentity {
            system_identifier: system_identifier.cast_unsigned(),
            catalog_version: row.parse("catalog_version")?,
            version: row.parse("version")?,
            wal_segment_size: WalSegmentSize::try_from(segment_bytes).map_err(|bad| {
                Error::new(ErrorKind::Unsupported, bad.to_string())
                    .hint("report this: no PostgreSQL should have such a segment size")
            })?,
            block_size: row.parse("block_size")?,
        })
    }

    pub(crate) fn major(&self) -> u32 {
        self.version / 10000
    }
}

/// Makes the repository and the stanza; safe to run again.
pub fn init(request: &InitRequest) -> Result<InitReport> {
    let doing = format!("cannot set up `{}` in `{}`", request.location.stanza, request.location.repository);
    run(request).map_err(|error| error.while_doing(doing))
}

fn run(request: &InitRequest) -> Result<InitReport> {
    // The server first: a repository that no cluster feeds would only be in the way.
    let mut connection = request.connection.connect()?;
    let identity = ServerIdentity::read(&mut connection)?;
    if !SUPPORTED_MAJORS.contains(&identity.major()) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the server is PostgreSQL {}, which this version of pgkeep does not know",
                identity.major()
            ),
        )
        .hint(format!(
            "pgkeep works with {} to {}",
            SUPPORTED_MAJORS.start(),
            SUPPORTED_MAJORS.end()
        )));
    }
    let settings = ServerSettings::read(&mut connection)?;

    let (repository, created_repository) = open_or_create_repository(&request.location)?;
    let created_stanza = open_or_create_stanza(&repository, &request.location, &identity)?;

    let mut findings = server_settings::findings(&settings, &request.archive_command);
    if request.apply {
        apply(&mut connection, &mut findings)?;
    }
    let restart_needed = findings.iter().any(|finding| {
        finding.needs_restart && (finding.applied || settings.waits_for_restart(&finding.name))
    });
    Ok(InitReport {
        repository_id: repository.id(),
        created_repository,
        created_stanza,
        system_identifier: identity.system_identifier,
        server_version: identity.version,
        settings: findings,
        restart_needed,
    })
}

pub(crate) fn open_or_create_repository(location: &Location) -> Result<(Repository, bool)> {
    match Store::open(&location.repository).and_then(Repository::open) {
        Ok(repository) => Ok((repository, false)),
        Err(RepoError::NotARepository { .. }) => {
            let store = Store::open_or_create(&location.repository)?;
            Ok((Repository::create(store, Timestamp::now())?, true))
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn open_or_create_stanza(
    repository: &Repository,
    location: &Location,
    identity: &ServerIdentity,
) -> Result<bool> {
    let stanza = match repository.stanza(&location.stanza) {
        Ok(stanza) => stanza,
        Err(RepoError::StanzaNotFound { .. }) => {
            let cluster = ClusterRecord {
                // Set by the stanza.
                sequence: 1,
                system_identifier: identity.system_identifier,
                major: identity.major(),
                catalog_version: identity.catalog_version,
                wal_segment_size: u32::from(identity.wal_segment_size),
                block_size: identity.block_size,
                created: Timestamp::now(),
            };
            repository.create_stanza(&location.stanza, &cluster)?;
            return Ok(true);
        }
        Err(error) => return Err(error.into()),
    };
    let belongs =
        stanza.records().last().is_some_and(|newest| newest.system_identifier == identity.system_identifier);
    if belongs {
        return Ok(false);
    }
    let held = stanza.records().last().map_or(0, |newest| newest.system_identifier);
    Err(Error::new(
        ErrorKind::Mismatch,
        format!("the stanza `{}` holds the history of another cluster", location.stanza),
    )
    .cause(format!(
        "its system identifier is {held}, that of this server is {}",
        identity.system_identifier
    ))
    .hint("choose a new name with `--stanza`, one for each cluster; after `pg_upgrade` too, since the upgraded cluster is a new one")
    .hint("where another server was meant, correct the connection (`-d`, PGHOST, PGPORT)"))
}

/// Sets what can be set, each with its own `ALTER SYSTEM`, and reloads.
fn apply(connection: &mut Connection, findings: &mut [SettingFinding]) -> Result<()> {
    for finding in findings.iter_mut().filter(|finding| finding.can_be_set) {
        connection
            .execute(&format!(
                "ALTER SYSTEM SET {} = {}",
                quote_identifier(&finding.name),
                quote_literal(&finding.wanted)
            ))
            .map_err(|error| Error::from(error).while_doing(format!("cannot set `{}`", finding.name)))?;
        finding.applied = true;
    }
    connection.execute("SELECT pg_catalog.pg_reload_conf()")?;
    Ok(())
}
