//! A restore from its beginning to its end: head, drops, entries in three passes, tail.

use std::io::Write;

use pgkeep_tool::{Reporter, Result, ToolError};
use pgkeep_wire::ConnInfo;

use super::clock;
use super::emit::{Emitter, Job, TableOutcome, Target};
use super::options::RestoreOptions;
use super::parallel;
use super::select::{Pass, Wanted, select};
use super::server::Server;
use super::source::{Archive, Source};

/// Writes the script that restores what is selected.
///
/// # Errors
/// When the archive cannot be read or the script not be written.
pub fn write_script(
    archive: &mut Archive,
    options: &mut RestoreOptions,
    out: &mut dyn Write,
    reporter: &dyn Reporter,
) -> Result<()> {
    let wanted = prepare(archive, options, reporter)?;
    let job = Job { contents: &archive.contents, options, reporter };
    let mut emitter = Emitter::new(job, Target::Script(out), options.transaction_size);
    begin(&mut emitter)?;
    if options.clean {
        emitter.drop_objects(&wanted)?;
    }
    serial(&mut emitter, &mut archive.source, wanted)?;
    end(&mut emitter)
}

/// Restores what is selected into a server. Returns how many errors it went on after.
///
/// # Errors
/// When the archive cannot be read, the connection is lost, or an error is to end the restore.
pub fn restore(
    archive: &mut Archive,
    options: &mut RestoreOptions,
    connection: &ConnInfo,
    reporter: &dyn Reporter,
) -> Result<u64> {
    let is_parallel = options.jobs > 1;
    if is_parallel && options.single_transaction {
        return Err(ToolError::new("cannot specify both --single-transaction and multiple jobs")
            .hint("several sessions cannot share a transaction"));
    }
    if is_parallel {
        // Says at once that it cannot be done.
        drop(archive.source.reopen(archive.path.as_deref())?);
    }
    reporter.info("connecting to database for restore");
    let server = Server::connect(connection, options.exit_on_error, reporter)?;
    let wanted = prepare(archive, options, reporter)?;
    let job = Job { contents: &archive.contents, options, reporter };
    let mut emitter = Emitter::new(job, Target::Server(Box::new(server)), options.transaction_size);
    begin(&mut emitter)?;
    if options.clean {
        emitter.drop_objects(&wanted)?;
    }
    if is_parallel {
        let source = &mut archive.source;
        let others = parallel::run(&mut emitter, source, archive.path.as_deref(), wanted)?;
        end(&mut emitter)?;
        return Ok(others + emitter.server().map_or(0, |server| server.errors()));
    }
    serial(&mut emitter, &mut archive.source, wanted)?;
    end(&mut emitter)?;
    Ok(emitter.server().map_or(0, |server| server.errors()))
}

fn prepare(archive: &Archive, options: &mut RestoreOptions, reporter: &dyn Reporter) -> Result<Vec<Wanted>> {
    for entry in archive.contents.entries.iter().filter(|entry| entry.with_oids) {
        reporter.warning(&format!(
            "restoring tables WITH OIDS is not supported anymore: entry {} {}",
            entry.dump_id, entry.tag
        ));
    }
    let wanted = select(&archive.contents, options)?;
    if options.selection.schema && !wanted.iter().any(|wanted| wanted.schema) {
        options.selection.schema = false;
        reporter.info("implied no-schema restore");
    }
    Ok(wanted)
}

fn begin(emitter: &mut Emitter<'_>) -> Result<()> {
    let Job { contents, options, .. } = emitter.job;
    emitter.comment("--\n-- PostgreSQL database dump\n--\n\n")?;
    if let Some(key) = &options.restrict_key {
        emitter.comment(format!("\\restrict {key}\n\n"))?;
    }
    for (what, version) in [
        ("Dumped from database version ", &contents.header.server_version),
        ("Dumped by pg_dump version ", &contents.header.dump_version),
    ] {
        if let Some(version) = version {
            let mut line = b"-- ".to_vec();
            line.extend_from_slice(what.as_bytes());
            super::list::push_line(&mut line, Some(version), false);
            line.push(b'\n');
            emitter.comment(line)?;
        }
    }
    emitter.comment("\n")?;
    if options.verbose {
        emitter.comment(format!("-- Started on {}\n\n", clock::stamp(&contents.header.created)))?;
    }
    if options.single_transaction {
        emitter.begin("BEGIN;\n\n")?;
    }
    emitter.fixed_state()
}

fn end(emitter: &mut Emitter<'_>) -> Result<()> {
    let options = emitter.job.options;
    let is_parallel = emitter.server().is_some() && options.jobs > 1;
    if options.single_transaction || (options.transaction_size > 0 && !is_parallel) {
        emitter.commit("COMMIT;\n\n")?;
    }
    if options.verbose {
        emitter.comment(format!("-- Completed on {}\n\n", clock::now()))?;
    }
    emitter.comment("--\n-- PostgreSQL database dump complete\n--\n\n")?;
    match &options.restrict_key {
        Some(key) => emitter.comment(format!("\\unrestrict {key}\n\n")),
        None => Ok(()),
    }
}

/// All entries, one after the other.
fn serial(emitter: &mut Emitter<'_>, source: &mut Source, mut wanted: Vec<Wanted>) -> Result<()> {
    let contents = emitter.job.contents;
    for pass in [Pass::Main, Pass::Privileges, Pass::Last] {
        for index in contents.order.iter().copied() {
            let entry = &contents.entries[index];
            if !wanted[index].is_restored() || Pass::of(entry) != pass {
                continue;
            }
            let outcome = emitter.restore_entry(source, entry, wanted[index], false)?;
            if outcome == TableOutcome::Failed {
                leave_out_data(emitter.job, &mut wanted, index);
            }
        }
    }
    Ok(())
}

/// With `--no-data-for-failed-tables`: the data of a table that could not be made is not wanted.
pub(super) fn leave_out_data(job: Job<'_>, wanted: &mut [Wanted], table: usize) {
    if !job.options.no_data_for_failed_tables {
        return;
    }
    let entries = &job.contents.entries;
    let table = &entries[table];
    job.reporter.info(&format!("table \"{}\" could not be created, will not restore its data", table.tag));
    for (index, entry) in entries.iter().enumerate() {
        if entry.desc == "TABLE DATA" && entry.dependencies.first() == Some(&table.dump_id) {
            wanted[index] = Wanted::default();
        }
    }
}
