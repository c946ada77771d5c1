//! A dump into the repository: globals, then one database after the other, then the manifest.

use std::io::Write;

use jiff::Timestamp;
use pgkeep_logical::dump::write::{ArchiveOptions, write_archive_to};
use pgkeep_logical::dumpall::{ClusterDump, ClusterDumpOptions, GlobalsOnly};
use pgkeep_logical::restrict_key;
use pgkeep_repo::{DumpHeader, DumpPartKind, DumpWriter, LeaseInfo};
use pgkeep_wire::ConnInfo;

use super::observer::{DataWatch, Messages, watched};
use super::request::{DumpDestination, DumpReport, DumpRequest, DumpedDatabase};
use super::{DumpPlan, failure, start, storage_or};
use crate::backup::{host_name, written_by};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::{Compression, Location};

pub(super) fn run(
    request: &DumpRequest,
    location: &Location,
    plan: DumpPlan,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DumpReport> {
    let stanza = location.open_stanza()?;
    let Some(record) = stanza.record_for(plan.identity.system_identifier).copied() else {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("the stanza `{}` holds the history of another cluster", location.stanza),
        )
        .cause(format!("the system identifier of this server is {}", plan.identity.system_identifier))
        .hint("choose the stanza of this server with `--stanza`, or make one with `pgkeep init`")
        .hint("where another server was meant, correct the connection (`-d`, PGHOST, PGPORT)"));
    };
    let (compression, pack_bytes) = match request.destination {
        DumpDestination::Repository { compression, pack_bytes, .. } => (compression, pack_bytes),
        DumpDestination::File(_) => (Compression::default(), None),
    };
    let started = Timestamp::now();
    let lease = LeaseInfo {
        verb: "dump".to_owned(),
        host: host_name(),
        pid: std::process::id(),
        program: written_by(),
    };
    let mut writer = stanza.begin_dump(started, lease, compression)?;
    if let Some(bytes) = pack_bytes {
        writer.set_pack_bytes(bytes);
    }
    let mut report = plan.report(request);
    report.databases.clear();
    if plan.globals {
        globals(&plan.conninfo, &mut writer, observer, cancel)?;
    }
    for name in &plan.databases {
        cancel.check()?;
        report.databases.push(database(
            request,
            &plan,
            name,
            &mut writer,
            &mut report.warnings,
            observer,
            cancel,
        )?);
    }
    cancel.check()?;
    observer.event(Event::StepStarted { step: Step::Commit, total_bytes: None });
    let header = writer.commit(DumpHeader {
        record: record.sequence,
        written_by: written_by(),
        host: host_name(),
        system_identifier: plan.identity.system_identifier,
        server_version_num: plan.identity.version,
        started,
        finished: Timestamp::now(),
        options: request.content.words(),
        compression: compression.to_string(),
        annotations: request.annotations.clone(),
        ..DumpHeader::default()
    })?;
    observer.event(Event::StepFinished { step: Step::Commit });
    for database in &mut report.databases {
        let part = header.parts.iter().find(|part| part.database.as_ref() == Some(&database.name));
        database.size_bytes = part.map_or(0, |part| part.size);
    }
    report.id = Some(header.id.to_string());
    report.size_bytes = header.size_bytes();
    report.stored_bytes = header.stored_bytes;
    Ok(report)
}

/// Roles, tablespaces and what else belongs to no database.
fn globals(
    conninfo: &ConnInfo,
    writer: &mut DumpWriter,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<()> {
    let restrict_key = restrict_key::generate().map_err(|error| {
        Error::new(ErrorKind::Internal, "the system gives no random bytes")
            .cause(error)
            .hint("look at /dev/urandom of this machine")
    })?;
    let options = ClusterDumpOptions {
        only: Some(GlobalsOnly::All),
        globals: true,
        database: Some(conninfo.database().to_owned()),
        restrict_key,
        ..ClusterDumpOptions::default()
    };
    let cluster = ClusterDump::start(conninfo, options).map_err(failure)?;
    writer.begin_part(DumpPartKind::Globals, None);
    let written = cluster.write(writer, &Messages(observer), &mut |_, _| Ok(()));
    written.map_err(|error| storage_or(writer.take_failure(), error, cancel))?;
    Ok(writer.end_part(0, &[])?)
}

fn database(
    request: &DumpRequest,
    plan: &DumpPlan,
    name: &str,
    writer: &mut DumpWriter,
    warnings: &mut Vec<String>,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<DumpedDatabase> {
    let doing = format!("database `{name}` cannot be dumped");
    let conninfo = plan.conninfo.clone().with("dbname", name)?;
    let (mut dump, mut selection) =
        start(request, &conninfo, true, request.jobs).map_err(|error| error.while_doing(doing.clone()))?;
    for text in dump.take_warnings() {
        observer.event(Event::Warning { text: text.clone(), hint: None });
        warnings.push(text);
    }
    let total_bytes = Some(dump.estimated_bytes()).filter(|bytes| *bytes > 0 && !request.content.schema_only);
    observer.event(Event::StepStarted { step: Step::Dump, total_bytes });
    let (watch, events) = DataWatch::new(name, cancel);
    dump.observe(watch.clone());
    let entries = dump.entries().len() as u64;
    // Frames of the repository are compressed.
    let options = ArchiveOptions::default();
    writer.begin_part(DumpPartKind::Archive, Some(name));
    let (written, tables) = watched(observer, events, || {
        let written = write_archive_to(&mut dump, &mut selection, &options, writer as &mut dyn Write);
        // The channel closes when the last watch is gone.
        drop(dump);
        let tables = watch.take_tables();
        drop(watch);
        (written, tables)
    });
    written.map_err(|error| storage_or(writer.take_failure(), error, cancel).while_doing(doing))?;
    writer.end_part(entries, &tables)?;
    observer.event(Event::StepFinished { step: Step::Dump });
    Ok(DumpedDatabase {
        name: name.to_owned(),
        entries,
        tables: tables.len() as u64,
        rows: tables.iter().filter_map(|table| table.rows).sum(),
        size_bytes: 0,
    })
}
