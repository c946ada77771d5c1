//! `pgkeep dump`, `pgkeep dump export` and `pgkeep dump verify`.

use std::path::{Path, PathBuf};

use pgkeep_engine::dump::{
    ArchiveCompression, ArchiveFormat, DumpChoice, DumpContent, DumpDestination, DumpExportRequest, DumpFile,
    DumpReport, DumpRequest, dump as run, export as run_export, verify_dumps, verify_file,
};
use pgkeep_engine::expire::ExpireReport;
use pgkeep_engine::{Error, ErrorKind, Result};

use super::{Context, expire};
use crate::args::dump::{DumpArgs, DumpVerb, ExportArgs, FormatName, VerifyDumpArgs};
use crate::render::progress::Progress;
use crate::render::{dump as text, expire as expire_text};
use crate::{exit, front, render, signal};

/// What `dump` answers: the dump, and what the policy removed after it.
#[derive(serde::Serialize)]
struct Answer {
    #[serde(flatten)]
    dump: DumpReport,
    expire: Option<ExpireReport>,
}

/// Dumps, exports or verifies.
pub(super) fn dump(context: &Context, args: &DumpArgs) -> Result<u8> {
    match &args.verb {
        Some(DumpVerb::Export(export_args)) => export(context, export_args),
        Some(DumpVerb::Verify(verify_args)) => verify(context, verify_args),
        None => take(context, args),
    }
}

fn take(context: &Context, args: &DumpArgs) -> Result<u8> {
    let request = request(context, args)?;
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(args.dry_run), cancel.clone());
    let dump = run(&request, &progress, &cancel)?;
    let expires = dump.id.is_some() && !args.no_expire;
    let expired = expires.then(|| expire::after_dump(context, &progress, &cancel)).flatten().transpose();
    drop(progress);
    let (expire, failed) = match expired {
        Ok(expire) => (expire, None),
        Err(error) => (None, Some(error)),
    };
    let answer = Answer { dump, expire };
    let shown = |answer: &Answer| {
        let expired = answer.expire.as_ref().map(|report| format!("\n{}", expire_text::expire(report)));
        text::dump(&answer.dump) + &expired.unwrap_or_default()
    };
    if is_standard_output(args.output.as_deref()) && !args.dry_run {
        // The dump itself went to stdout.
        if context.global.json {
            render::print_error(&render::json::object(&answer)?);
        } else if !context.global.quiet {
            render::print_error(&shown(&answer));
        }
    } else {
        context.answer(&answer, shown)?;
    }
    match failed {
        None => Ok(exit::OK),
        Some(error) => {
            Err(error.hint("the new dump is complete; `pgkeep expire` removes what the policy gives up"))
        }
    }
}

fn request(context: &Context, args: &DumpArgs) -> Result<DumpRequest> {
    let settings = context.settings();
    let content = args.content.clone();
    Ok(DumpRequest {
        connection: context.caller.connection(&args.connection, settings.conninfo.as_deref()),
        choice: if args.all { DumpChoice::All } else { DumpChoice::One(args.database.clone()) },
        content: DumpContent {
            schema_only: content.schema_only,
            data_only: content.data_only,
            schemas: content.schema,
            exclude_schemas: content.exclude_schema,
            tables: content.table,
            exclude_tables: content.exclude_table,
            exclude_table_data: content.exclude_table_data,
        },
        destination: match &args.output {
            None => DumpDestination::Repository {
                location: context.location()?,
                compression: settings.backup.compression,
                pack_bytes: None,
            },
            Some(path) => DumpDestination::File(file(context, args, path)?),
        },
        jobs: u32::try_from(settings.backup.jobs).unwrap_or(1),
        annotations: args.annotate.iter().cloned().collect(),
        dry_run: args.dry_run,
    })
}

fn file(context: &Context, args: &DumpArgs, path: &Path) -> Result<DumpFile> {
    let format = match args.format.unwrap_or(FormatName::Custom) {
        FormatName::Custom => Some(ArchiveFormat::Custom),
        FormatName::Directory => Some(ArchiveFormat::Directory),
        FormatName::Tar => Some(ArchiveFormat::Tar),
        FormatName::Plain => None,
    };
    let usual = match format {
        Some(ArchiveFormat::Custom | ArchiveFormat::Directory) => ArchiveCompression::Gzip,
        Some(ArchiveFormat::Tar) | None => ArchiveCompression::None,
    };
    let (compression, level) =
        front::archive_compression(args.compress.as_deref(), usual).map_err(|problem| {
            Error::new(ErrorKind::Usage, "`--compress` cannot be followed")
                .cause(problem)
                .hint("give `gzip`, `zstd`, `lz4`, perhaps with `:LEVEL`, or `none`")
        })?;
    let path = destination(context, path);
    Ok(DumpFile { path, format, compression, level })
}

fn is_standard_output(path: Option<&Path>) -> bool {
    path == Some(Path::new("-"))
}

/// The path; none for standard output.
fn destination(context: &Context, path: &Path) -> Option<PathBuf> {
    (!is_standard_output(Some(path))).then(|| context.caller.working_directory.join(path))
}

/// Writes a part of a dump to a file.
fn export(context: &Context, args: &ExportArgs) -> Result<u8> {
    let request = DumpExportRequest {
        location: context.location()?,
        id: args.id.clone(),
        database: args.database.clone(),
        globals: args.globals,
        output: destination(context, &args.output),
    };
    let report = run_export(&request, &signal::cancel_on_signals()?)?;
    if request.output.is_some() {
        context.answer(&report, text::export)?;
    }
    Ok(exit::OK)
}

/// Verifies dumps.
fn verify(context: &Context, args: &VerifyDumpArgs) -> Result<u8> {
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(false), cancel.clone());
    if let Some(file) = &args.file {
        let report = verify_file(&context.caller.working_directory.join(file), &progress, &cancel)?;
        drop(progress);
        context.answer(&report, text::verify_file)?;
        return Ok(if report.ok { exit::OK } else { exit::DAMAGED });
    }
    let report = verify_dumps(&context.location()?, args.id.as_deref(), &progress, &cancel)?;
    drop(progress);
    context.answer(&report, text::verify)?;
    Ok(if report.ok { exit::OK } else { exit::DAMAGED })
}
