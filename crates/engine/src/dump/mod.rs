//! `dump`: databases as archives of `pg_dump`, kept in the repository as backups are, or written to a file.
//!
//! request → plan → run → report. In the repository a dump is a set: an archive for each database, and with `all` the
//! script of what belongs to no database (`docs/format/dump.md`). Archives are written uncompressed there; the frames that
//! they are cut into are what is compressed. A dump that fails is not listed; its packs are removed at once, or by `expire`
//! where the process was killed. To a file, what appears under its name is complete.

mod check;
mod check_file;
mod export;
mod file;
mod observer;
mod request;
mod run;

use pgkeep_logical::dump::Dump;
use pgkeep_logical::restore::RestoreOptions;
use pgkeep_repo::{DumpId, DumpListing, RepoError, Stanza};
use pgkeep_tool::ToolError;
use pgkeep_wire::{ConnInfo, Connection, SessionMode};

pub(crate) use check::check_all;
pub use check::{DumpDamage, DumpVerification, DumpVerifyReport, verify_dumps};
pub use check_file::{ArchiveDamage, ArchiveReport, verify_file};
pub(crate) use export::choose_part;
pub use export::{DumpExportReport, DumpExportRequest, export};
pub use pgkeep_format::archive::{ArchiveFormat, Compression as ArchiveCompression};
pub use request::{
    DumpChoice, DumpContent, DumpDestination, DumpFile, DumpReport, DumpRequest, DumpedDatabase,
};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Observer};
use crate::init::{SUPPORTED_MAJORS, ServerIdentity};
use crate::list::{DUMPS, choose_among};

/// Dumps what the request asks for.
pub fn dump(request: &DumpRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<DumpReport> {
    let doing = match &request.choice {
        DumpChoice::All => "cannot dump the cluster".to_owned(),
        DumpChoice::One(Some(name)) => format!("cannot dump `{name}`"),
        DumpChoice::One(None) => "cannot dump the database".to_owned(),
    };
    plan(request)
        .and_then(|plan| match (&request.destination, request.dry_run) {
            (_, true) => Ok(plan.report(request)),
            (DumpDestination::Repository { location, .. }, false) => {
                run::run(request, location, plan, observer, cancel)
            }
            (DumpDestination::File(file), false) => file::run(request, file, plan, observer, cancel),
        })
        .map_err(|error| error.while_doing(doing))
}

/// What will be dumped, from which server.
struct DumpPlan {
    identity: ServerIdentity,
    /// Without a database.
    conninfo: ConnInfo,
    databases: Vec<String>,
    globals: bool,
}

impl DumpPlan {
    fn report(&self, request: &DumpRequest) -> DumpReport {
        let databases = self.databases.iter();
        DumpReport {
            id: None,
            dry_run: request.dry_run,
            destination: request.destination.to_string(),
            system_identifier: self.identity.system_identifier,
            server_version: self.identity.version,
            globals: self.globals,
            databases: databases.map(|name| DumpedDatabase::named(name)).collect(),
            size_bytes: 0,
            stored_bytes: 0,
            warnings: Vec::new(),
        }
    }
}

fn plan(request: &DumpRequest) -> Result<DumpPlan> {
    request.check()?;
    let mut conninfo = request.connection.resolve()?;
    if let DumpChoice::One(Some(name)) = &request.choice {
        conninfo = conninfo.with("dbname", name)?;
    }
    let mut connection = Connection::connect(&conninfo, SessionMode::Sql)?;
    let identity = ServerIdentity::read(&mut connection)?;
    if !SUPPORTED_MAJORS.contains(&identity.major()) {
        let (least, most) = (SUPPORTED_MAJORS.start(), SUPPORTED_MAJORS.end());
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the server is PostgreSQL {}, which this version of pgkeep does not know",
                identity.major()
            ),
        )
        .hint(format!("pgkeep works with {least} to {most}")));
    }
    let query = match request.choice {
        DumpChoice::All => {
            "SELECT datname AS name FROM pg_catalog.pg_database \
             WHERE datallowconn AND datconnlimit <> -2 AND datname <> 'template0' ORDER BY datname"
        }
        DumpChoice::One(_) => "SELECT pg_catalog.current_database() AS name",
    };
    let rows = connection.query(query)?;
    let mut databases = Vec::new();
    for row in rows.iter() {
        databases.push(row.text("name")?.to_owned());
    }
    let globals = request.choice == DumpChoice::All;
    Ok(DumpPlan { identity, conninfo, databases, globals })
}

/// Connects, takes a snapshot and reads the catalogs of one database.
fn start(
    request: &DumpRequest,
    conninfo: &ConnInfo,
    is_archive: bool,
    jobs: u32,
) -> Result<(Dump, RestoreOptions)> {
    let (options, selection) = request.content.options(is_archive, jobs);
    let dump = Dump::start(conninfo, &options).map_err(failure)?;
    Ok((dump, selection))
}

/// An error of a dump. What failed is told by the server in the first place.
fn failure(error: ToolError) -> Error {
    let mut told = Error::new(ErrorKind::Connect, error.message);
    if let Some(detail) = error.detail {
        told = told.cause(detail);
    }
    match error.hint {
        Some(hint) => told.hint(hint),
        None => told.hint("correct what the server complains about, and run the command again"),
    }
}

/// The dump that the user means: an id, an unambiguous beginning of one, or `latest`.
pub(crate) fn find(stanza: &Stanza, id: &str) -> Result<DumpId> {
    let ids = stanza.dumps()?.iter().map(|listing: &DumpListing| listing.id).collect();
    choose_among(&DUMPS, ids, id, stanza.name().as_str())
}

/// What the storage said when writing or reading failed, or else what the archive's code says.
fn storage_or(failed: Option<RepoError>, error: ToolError, cancel: &Cancel) -> Error {
    if let Err(interrupted) = cancel.check() {
        return interrupted;
    }
    failed.map_or_else(|| failure(error), Error::from)
}
