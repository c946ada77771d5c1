//! `pgkeep export` and `pgkeep import`.

use std::path::PathBuf;

use clap::Args;
use pgkeep_engine::export::{ExportFormat, ExportWal};

use super::backup::annotation;
use super::restore::tablespace;
use crate::config::Flag;

const EXPORT_EXAMPLES: &str = "\
Examples:
  pgkeep export --repo /srv/backup latest --to /srv/copy
  pgkeep export --repo /srv/backup 00000012 --to /srv/tars --format tar --compress zstd
  pgkeep export --repo /srv/backup latest --to /srv/copy --tablespace-map /mnt/fast=/srv/fast

What is written is what pg_basebackup would have written, with the WAL that makes it consistent
and a backup_manifest: pg_verifybackup checks it, and a server starts from it. A failed export
leaves nothing.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  pgkeep import --repo /srv/backup /backups/2026-11-22      # of pg_basebackup, -Fp or -Ft
  pgkeep import --repo /srv/backup /backups/2026-11-22 --wal /srv/walarchive
  pgkeep import --repo /srv/backup /backups/full /backups/incr1 /backups/incr2
  pgkeep import --repo /srv/backup --init --stanza old /backups/last-of-old
  pgkeep import --repo /srv/backup --without-manifest /barman/main/base/20261122T010203 \\
      --wal /barman/main/wals

Every file is proved by the backup_manifest while it is read, and all WAL that the backup needs
must be in the repository before it is listed. Import the oldest backup first.";

/// Options of `export`.
#[derive(Args, Debug)]
#[command(after_help = EXPORT_EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Backup to write out: an id, the beginning of one, or `latest`
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    /// Directory to make: absent or empty
    #[arg(long = "to", value_name = "DIR")]
    pub(crate) destination: PathBuf,
    /// A data directory, or tar files [default: plain]
    #[arg(long, value_name = "FORMAT", value_parser = ["plain", "tar"])]
    format: Option<String>,
    /// Compress tar files: `gzip`, `lz4` or `zstd`, with `:LEVEL` [default: none]
    #[arg(long, value_name = "CODEC")]
    pub(crate) compress: Option<String>,
    /// WAL as `pg_basebackup -X` puts it: on its own, into base.tar, or not at all [default: stream]
    #[arg(long, value_name = "HOW", value_parser = ["stream", "fetch", "none"])]
    wal: Option<String>,
    /// Checksums in backup_manifest [default: CRC32C]
    #[arg(long, value_name = "ALGORITHM", ignore_case = true, value_parser = ["CRC32C", "SHA224", "SHA256", "SHA384", "SHA512", "NONE"])]
    pub(crate) manifest_checksums: Option<String>,
    /// Move a tablespace; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = tablespace)]
    pub(crate) tablespace_map: Vec<(String, PathBuf)>,
    /// Threads that read [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
}

impl ExportArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([("restore.jobs", "--jobs", &self.jobs)])
    }

    /// What to write.
    pub(crate) fn format(&self) -> ExportFormat {
        if self.format.as_deref() == Some("tar") { ExportFormat::Tar } else { ExportFormat::Plain }
    }

    /// Where the WAL goes.
    pub(crate) fn wal(&self) -> ExportWal {
        match self.wal.as_deref() {
            Some("fetch") => ExportWal::Fetch,
            Some("none") => ExportWal::None,
            _ => ExportWal::Stream,
        }
    }
}

/// Options of `import`.
#[derive(Args, Debug)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(crate) struct ImportArgs {
    /// What pg_basebackup wrote, or Barman's base/ID; several are a full backup and those that build on it
    #[arg(value_name = "DIR", required = true)]
    pub(crate) sources: Vec<PathBuf>,
    /// Folder with WAL, as an archiver or pg_receivewal keeps it, compressed or not; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) wal: Vec<PathBuf>,
    /// Take a backup without a backup_manifest, of which nothing can be proved
    #[arg(long)]
    pub(crate) without_manifest: bool,
    /// Make the repository and the stanza for the cluster of the backup
    #[arg(long)]
    pub(crate) init: bool,
    /// Write all of it, or what an earlier backup of the stanza does not have [default: auto]
    #[arg(long = "type", value_name = "TYPE", value_parser = ["auto", "full", "diff", "incr"])]
    kind: Option<String>,
    /// Worker threads [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Codec: `zstd`, `zstd:LEVEL`, `lz4` or `none` [default: zstd:3]
    #[arg(long, value_name = "CODEC")]
    compress: Option<String>,
    /// Keep this note with the backup; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    pub(crate) annotate: Vec<(String, String)>,
    /// Only look at the source and say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl ImportArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([
            ("backup.type", "--type", &self.kind),
            ("backup.jobs", "--jobs", &self.jobs),
            ("backup.compress", "--compress", &self.compress),
        ])
    }
}
