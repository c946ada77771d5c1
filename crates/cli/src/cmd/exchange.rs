//! `pgkeep export`, `pgkeep import` and `pgkeep wal import`.

use pgkeep_engine::export::{ExportRequest, export as run_export};
use pgkeep_engine::import::{
    ImportRequest, WalImportRequest, import as run_import, import_wal as run_import_wal,
};
use pgkeep_engine::{ChecksumAlgorithm, Codec, Error, ErrorKind, Result};

use super::Context;
use crate::args::exchange::{ExportArgs, ImportArgs};
use crate::args::wal::WalImportArgs;
use crate::front::compression;
use crate::render::exchange as text;
use crate::render::progress::Progress;
use crate::{exit, signal};

/// Writes a backup out.
pub(super) fn export(context: &Context, args: ExportArgs) -> Result<u8> {
    let request = ExportRequest {
        location: context.location()?,
        format: args.format(),
        wal: args.wal(),
        compression: codec(args.compress.as_deref())?,
        checksums: checksums(args.manifest_checksums.as_deref()),
        backup: args.backup,
        destination: context.caller.working_directory.join(args.destination),
        tablespace_map: args.tablespace_map,
        jobs: context.settings().restore.jobs,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(false), cancel.clone());
    let report = run_export(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, text::export)?;
    Ok(exit::OK)
}

/// Takes a backup of another program in.
pub(super) fn import(context: &Context, args: ImportArgs) -> Result<u8> {
    let here = &context.caller.working_directory;
    let settings = context.settings();
    let request = ImportRequest {
        location: context.location()?,
        sources: args.sources.iter().map(|path| here.join(path)).collect(),
        wal: args.wal.iter().map(|path| here.join(path)).collect(),
        without_manifest: args.without_manifest,
        create_stanza: args.init,
        kind: settings.backup.kind,
        jobs: settings.backup.jobs,
        compression: settings.backup.compression,
        annotations: args.annotate.into_iter().collect(),
        dry_run: args.dry_run,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(request.dry_run), cancel.clone());
    let report = run_import(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, text::import)?;
    Ok(exit::OK)
}

/// Takes WAL in. What was refused makes it fail, after all else was stored.
pub(super) fn import_wal(context: &Context, args: &WalImportArgs) -> Result<u8> {
    let request = WalImportRequest {
        location: context.location()?,
        sources: args.sources.iter().map(|path| context.caller.working_directory.join(path)).collect(),
        compression: context.settings().archive_compression,
    };
    let cancel = signal::cancel_on_signals()?;
    let progress = Progress::new(context.telling(false), cancel.clone());
    let report = run_import_wal(&request, &progress, &cancel)?;
    drop(progress);
    context.answer(&report, text::import_wal)?;
    match report.refused.first() {
        None => Ok(exit::OK),
        Some(first) => {
            Err(Error::new(ErrorKind::Mismatch, format!("{} WAL files were refused", report.refused.len()))
                .cause(format!("`{}`: {}", first.file, first.why))
                .hint("all others are in the archive; nothing was overwritten"))
        }
    }
}

fn codec(text: Option<&str>) -> Result<Codec> {
    let (choice, _) = compression::parse(text, pgkeep_engine::TarCompression::None).map_err(|mistake| {
        Error::new(ErrorKind::Usage, mistake)
            .hint("write `--compress zstd`, `--compress gzip:6` or `--compress lz4`")
    })?;
    Ok(Codec { compression: choice.algorithm, level: choice.level, long_distance: choice.long_distance })
}

fn checksums(text: Option<&str>) -> Option<ChecksumAlgorithm> {
    match text.unwrap_or("CRC32C").to_ascii_uppercase().as_str() {
        "NONE" => None,
        "SHA224" => Some(ChecksumAlgorithm::Sha224),
        "SHA256" => Some(ChecksumAlgorithm::Sha256),
        "SHA384" => Some(ChecksumAlgorithm::Sha384),
        "SHA512" => Some(ChecksumAlgorithm::Sha512),
        _ => Some(ChecksumAlgorithm::Crc32c),
    }
}
