//! `standby create`: a streaming standby out of the repository. The primary is asked who it is and for a slot; its disk and its
//! network are spared, for the files come from the newest backup and the WAL, as far as it is archived, from the archive.
//!
//! Proved first: the primary is the stanza's cluster, it takes replication connections of this role, and the way through the
//! archive does not lead onto a timeline that the primary is not on. The slot is made before the restore, so that no WAL is
//! lost meanwhile, and dropped again when the restore fails.

use std::path::PathBuf;

use pgkeep_format::TimelineId;
use pgkeep_wire::{ConnInfo, Connection, quote_literal};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer};
use crate::init::ServerIdentity;
use crate::restore::{RecoveryTarget, RestoreReport, RestoreRequest, TargetTimeline, restore};
use crate::wal::push::newest_record;
use crate::{ConnectionRequest, Location};

/// What was asked.
#[derive(Clone, Debug)]
pub struct StandbyRequest {
    /// Where from.
    pub location: Location,
    /// The primary, or the standby that is followed.
    pub primary: ConnectionRequest,
    /// Which backup; the newest that is fit when none is named.
    pub backup: Option<String>,
    /// The slot to stream through.
    pub slot: Option<String>,
    /// Make the slot where it is not there.
    pub create_slot: bool,
    /// The data directory to make.
    pub destination: PathBuf,
    /// Reuse the files of a former cluster there.
    pub delta: bool,
    /// Old and new places of tablespaces.
    pub tablespace_map: Vec<(String, PathBuf)>,
    /// More lines for `postgresql.auto.conf`.
    pub settings: Vec<(String, String)>,
    /// The `restore_command` to write.
    pub restore_command: String,
    /// Worker threads; at least one.
    pub jobs: usize,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was done.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StandbyReport {
    /// Who is followed, without secrets.
    pub primary: String,
    /// Its timeline.
    pub primary_timeline: TimelineId,
    /// The slot.
    pub slot: Option<String>,
    /// Whether the slot was made now.
    pub slot_created: bool,
    /// The restore.
    #[serde(flatten)]
    pub restore: RestoreReport,
}

/// The settings by which a standby finds its primary. Passwords are not written: the server's user has a `.pgpass` for that.
#[must_use]
pub fn streaming_settings(primary_conninfo: &str, slot: Option<&str>) -> Vec<(String, String)> {
    let mut settings = vec![("primary_conninfo".to_owned(), primary_conninfo.to_owned())];
    // What the backup's own file says of a slot is the old server's.
    settings.push(("primary_slot_name".to_owned(), slot.unwrap_or_default().to_owned()));
    settings
}

/// Makes the standby.
pub fn create(request: &StandbyRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<StandbyReport> {
    let conninfo = request.primary.resolve()?;
    let stanza = request.location.open_stanza()?;
    let record = newest_record(&stanza)?;
    let mut session = request.primary.connect()?;
    let identity = ServerIdentity::read(&mut session)?;
    if identity.system_identifier != record.system_identifier || identity.major() != record.major {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("the stanza `{}` belongs to another cluster than this primary", stanza.name()),
        )
        .cause(format!(
            "the stanza is of cluster {} (PostgreSQL {}), the server is cluster {} (PostgreSQL {})",
            record.system_identifier,
            record.major,
            identity.system_identifier,
            identity.major()
        ))
        .hint("check the connection: is this the server that you mean?")
        .hint("name the stanza of that server: `--stanza NAME`"));
    }
    let primary_timeline = timeline_of(request)?;
    if conninfo.get("host").is_none() && conninfo.get("hostaddr").is_none() {
        observer.event(Event::Warning {
            text: "the standby will look for its primary on its own machine: no host was named".to_owned(),
            hint: Some("give the primary's host: `-h HOST`, or in `-d`".to_owned()),
        });
    }
    let restoring = restore_request(request, &conninfo);
    let plan = restore(&RestoreRequest { dry_run: true, ..restoring.clone() }, &Quiet(observer), cancel)?;
    refuse_other_timeline(&plan, primary_timeline)?;
    let slot_created = match &request.slot {
        Some(slot) => ready_slot(&mut session, slot, request)?,
        None => false,
    };
    let restored = if request.dry_run { Ok(plan) } else { restore(&restoring, observer, cancel) };
    let restore = match restored {
        Ok(report) => report,
        Err(error) => {
            return Err(match (&request.slot, slot_created) {
                (Some(slot), true) => drop_slot(&mut session, slot, error),
                _ => error,
            });
        }
    };
    Ok(StandbyReport {
        primary: conninfo.describe(),
        primary_timeline,
        slot: request.slot.clone(),
        slot_created,
        restore,
    })
}

/// Warnings only: the plan is shown when it is carried out.
struct Quiet<'a>(&'a dyn Observer);

impl Observer for Quiet<'_> {
    fn event(&self, event: Event) {
        if matches!(event, Event::Warning { .. }) {
            self.0.event(event);
        }
    }
}

fn restore_request(request: &StandbyRequest, conninfo: &ConnInfo) -> RestoreRequest {
    let mut settings = streaming_settings(&conninfo.to_conninfo(), request.slot.as_deref());
    settings.extend(request.settings.iter().cloned());
    RestoreRequest {
        location: request.location.clone(),
        backup: request.backup.clone(),
        target: RecoveryTarget::Latest,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: None,
        tablespace_map: request.tablespace_map.clone(),
        standby: true,
        settings,
        destination: request.destination.clone(),
        delta: request.delta,
        external_config: None,
        restore_command: request.restore_command.clone(),
        caller_time_zone: "UTC".to_owned(),
        jobs: request.jobs,
        dry_run: false,
    }
}

/// A replication session, as the standby will open one: what forbids it is better known now.
fn timeline_of(request: &StandbyRequest) -> Result<TimelineId> {
    let asked =
        || -> Result<TimelineId> { Ok(request.primary.connect_replication()?.identify_system()?.timeline) };
    asked().map_err(|error| {
        error
            .while_doing("the primary takes no replication connection")
            .hint("a standby needs a role with REPLICATION and a line for `replication` in the primary's pg_hba.conf")
    })
}

/// A standby follows the newest timeline that the archive knows. Where that is not the primary's, it would leave it.
fn refuse_other_timeline(plan: &RestoreReport, primary: TimelineId) -> Result<()> {
    let Some(last) = plan.proof.timelines.last().filter(|last| **last > primary) else { return Ok(()) };
    Err(Error::new(
        ErrorKind::TargetUnreachable,
        format!("the archive leads to timeline {last}, and the primary is on timeline {primary}"),
    )
    .cause("a standby follows the newest timeline in the archive and would leave its primary there")
    .hint("is this the primary that you mean? the server of the newer timeline may be the right one")
    .hint(format!(
        "to follow this one all the same: `pgkeep restore --standby --target-timeline {primary} --primary CONNINFO DIR`"
    )))
}

/// Makes sure that the slot is there; answers whether it was made.
fn ready_slot(session: &mut Connection, slot: &str, request: &StandbyRequest) -> Result<bool> {
    let rows = session.query(&format!(
        "select slot_type, active::text as active from pg_catalog.pg_replication_slots where slot_name = {}",
        quote_literal(slot)
    ))?;
    let refuse = |what: &str| {
        Error::new(ErrorKind::Config, format!("the slot `{slot}` cannot be used"))
            .cause(what)
            .hint("name another slot: `--slot NAME --create-slot`")
    };
    if let Some(row) = rows.first() {
        if row.text("slot_type")? != "physical" {
            return Err(refuse("it is a logical one"));
        }
        if row.text("active")? == "true" {
            return Err(refuse("somebody streams through it now"));
        }
        return Ok(false);
    }
    if !request.create_slot {
        return Err(Error::new(ErrorKind::NotFound, format!("the primary has no slot `{slot}`"))
            .hint("`--create-slot` makes it"));
    }
    if request.dry_run {
        return Ok(false);
    }
    // Reserved at once: WAL stays from here on, whatever becomes of the archive.
    session.execute(&format!(
        "select pg_catalog.pg_create_physical_replication_slot({}, true)",
        quote_literal(slot)
    ))?;
    Ok(true)
}

/// A slot that nobody streams through keeps WAL for ever.
fn drop_slot(session: &mut Connection, slot: &str, error: Error) -> Error {
    let dropped =
        session.execute(&format!("select pg_catalog.pg_drop_replication_slot({})", quote_literal(slot)));
    match dropped {
        Ok(_) => error.hint(format!("the slot `{slot}` was dropped again")),
        Err(_) => error.hint(format!(
            "the slot `{slot}` is still on the primary and keeps WAL: `select pg_drop_replication_slot('{slot}')`"
        )),
    }
}
