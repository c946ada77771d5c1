//! `backup`: a whole cluster into the repository.
//!
//! request → `plan` → `run` → report. The order of things is what makes a backup safe: WAL is kept from before the start;
//! the control file is read after all data; the backup ends on the server before its WAL is awaited; and the manifest is
//! written last, only when every byte of that WAL is proved to be in the repository. Killed at any point, the server ends the
//! backup when the session goes, and the repository holds rubbish that nothing lists.

pub(crate) mod basis;
pub(crate) mod collector;
mod confirm;
pub(crate) mod copy;
mod copy_local;
mod copy_stream;
mod external_config;
#[cfg(test)]
mod model;
pub(crate) mod parent_files;
mod plan;
mod reading;
mod request;
pub(crate) mod reuse;
mod rewrite;
mod run;
mod scattered;
pub(crate) mod server;
pub(crate) mod source_local;
pub(crate) mod source_stream;
mod wal_receive;
mod wal_wait;
mod walk;
mod work;
pub(crate) mod worker;

pub(crate) use run::{host_name, written_by};

pub use request::{
    BackupReport, BackupRequest, BackupType, BadPages, ChangesChoice, ChangesFrom, Checkpoint, SourceChoice,
    SourceKind, TypeChoice, WalChoice, WalMode,
};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_repo::{BackupId, ClusterRecord, ManifestHeader, Stanza};

use self::basis::Basis;
use self::plan::BackupPlan;
use self::rewrite::Rewrite;
use self::server::ServerFacts;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer};
use crate::verify::known_damage;
use crate::wal::push::newest_record;

/// Takes a backup.
pub fn backup(request: &BackupRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<BackupReport> {
    let stanza = request.location.open_stanza()?;
    let mut session = request.connection.connect()?;
    let facts = ServerFacts::read(&mut session)?;
    let record = record_of(&stanza, &facts)?;
    let archive = stanza.wal(&record);
    let local = match &facts.data_directory {
        Some(directory) => source_local::prove_directory(directory, &facts).map(|_| directory.clone()),
        None => Err(source_local::NotThisCluster(
            "the role may not see `data_directory` (grant it pg_read_all_settings)".to_owned(),
        )),
    };
    let fed = wal_wait::last_archived_is_here(&mut session, &archive)?;
    let headers = headers_of(&stanza, &record)?;
    let basis = basis::choose(request.kind, &headers, &damage_of(&stanza, &headers, observer)?, &facts);
    let parent = headers.iter().find(|header| Some(header.id) == basis.parent);
    let rewrite = parent.map(|parent| rewrite::choose(&parent.packs)).unwrap_or_default();
    let plan = plan::plan(request, &facts, basis, rewrite.packs.clone(), &local, fed)?;
    observer.event(Event::Note { text: basis_text(&plan.basis) });
    if !rewrite.packs.is_empty() {
        observer.event(Event::Note { text: rewrite_text(&rewrite) });
    }
    observer.event(Event::Note {
        text: format!("copying {} ({})", source_text(plan.source), plan.source_reason),
    });
    observer.event(Event::Note { text: format!("WAL: {} ({})", wal_text(plan.wal), plan.wal_reason) });
    if request.dry_run {
        drop(reuse::leftovers(&stanza, &record, None, observer));
        return Ok(dry_report(&plan, &facts));
    }
    run::run(
        run::Run {
            request,
            stanza: &stanza,
            record: &record,
            archive,
            facts,
            rewrite: Arc::clone(&plan.rewrite),
            condemned: BTreeSet::new(),
            alarms: Vec::new(),
            plan,
            left: None,
            observer,
            cancel,
        },
        session,
    )
}

/// The record of this cluster in the stanza; anything else is another cluster.
fn record_of(stanza: &Stanza, facts: &ServerFacts) -> Result<ClusterRecord> {
    let newest = *newest_record(stanza)?;
    if newest.system_identifier == facts.system_identifier && newest.major == facts.major() {
        return Ok(newest);
    }
    Err(Error::new(ErrorKind::Mismatch, format!("the stanza `{}` belongs to another cluster", stanza.name()))
        .cause(format!(
            "the stanza is of cluster {} (PostgreSQL {}), the server is cluster {} (PostgreSQL {})",
            newest.system_identifier,
            newest.major,
            facts.system_identifier,
            facts.major()
        ))
        .hint("check the connection: is this the server that you mean?")
        .hint("a new cluster takes a new stanza: `pgkeep init --stanza NAME`"))
}

/// The backups of this very cluster that can be read, oldest first.
pub(crate) fn headers_of(stanza: &Stanza, record: &ClusterRecord) -> Result<Vec<ManifestHeader>> {
    let headers = stanza.backups()?.into_iter().filter_map(|listing| listing.header.ok());
    Ok(headers.filter(|header| header.record == record.sequence).collect())
}

/// What `verify` knows to be bad, in words: damage is not to be inherited.
pub(crate) fn damage_of(
    stanza: &Stanza,
    headers: &[ManifestHeader],
    observer: &dyn Observer,
) -> Result<BTreeMap<BackupId, String>> {
    let known = known_damage(stanza)?;
    for report in &known.unreadable_reports {
        observer.event(Event::Warning {
            text: format!("what `verify` found cannot be read: {report}"),
            hint: Some(
                "run `pgkeep verify` again; until then this backup may build on a damaged one".to_owned(),
            ),
        });
    }
    let damaged = |header: &ManifestHeader| {
        let first = known.of_backup(&header.id.to_string()).next().map(|damage| damage.what.clone())?;
        Some((header.id, first))
    };
    Ok(headers.iter().filter_map(damaged).collect())
}

fn rewrite_text(rewrite: &Rewrite) -> String {
    format!(
        "rewriting what is needed of {} packs: {} KiB of their {} KiB",
        rewrite.packs.len(),
        rewrite.needed_bytes >> 10,
        rewrite.bytes >> 10
    )
}

fn basis_text(basis: &Basis) -> String {
    match basis.parent {
        Some(parent) => format!("type: {}, builds on {parent} ({})", basis.kind.name(), basis.reason),
        None => format!("type: {} ({})", basis.kind.name(), basis.reason),
    }
}

fn source_text(source: SourceKind) -> &'static str {
    match source {
        SourceKind::Local => "from the data directory",
        SourceKind::Stream => "over the replication protocol",
        SourceKind::Import => "out of a backup of another program",
    }
}

fn wal_text(wal: WalMode) -> &'static str {
    match wal {
        WalMode::Archive => "from the archive",
        WalMode::Include => "streamed while the backup runs",
    }
}

fn dry_report(plan: &BackupPlan, facts: &ServerFacts) -> BackupReport {
    BackupReport {
        id: None,
        kind: plan.basis.kind,
        parent: plan.basis.parent.map(|parent| parent.to_string()),
        type_reason: plan.basis.reason.clone(),
        changes: None,
        changes_reason: String::new(),
        source: plan.source,
        source_reason: plan.source_reason.clone(),
        wal: plan.wal,
        wal_reason: plan.wal_reason.clone(),
        started: Timestamp::now().to_string(),
        finished: None,
        start_lsn: None,
        stop_lsn: None,
        timeline: None,
        files: 0,
        size_bytes: 0,
        read_bytes: 0,
        new_bytes: 0,
        reused_bytes: 0,
        unchanged_files: 0,
        stored_bytes: 0,
        vanished_files: 0,
        checksums_verified: facts.checksums,
        bad_pages: Vec::new(),
    }
}
