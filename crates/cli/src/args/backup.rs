//! `pgkeep backup`.

use clap::Args;

use super::connection::ConnectionArgs;
use crate::config::Flag;

const EXAMPLES: &str = "\
Examples:
  pgkeep backup --repo /srv/backup                # the first is full, later ones are incremental
  pgkeep backup --repo /srv/backup --type full    # read and write everything again
  pgkeep backup --repo /srv/backup --source stream --compress zstd:9 -h db1 -U backup
  pgkeep backup --repo /srv/backup --annotate ticket=1234 --annotate by=ann
  pgkeep backup --repo /srv/backup --dry-run";

/// Options of `backup`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BackupArgs {
    /// All of it, what changed since the last full one, or since the newest; every backup is complete [default: auto]
    #[arg(long = "type", value_name = "TYPE", value_parser = ["auto", "full", "diff", "incr"])]
    kind: Option<String>,
    /// Find what changed by comparing every block, by the archived WAL, or ask the server (17+) [default: auto]
    #[arg(long, value_name = "HOW", value_parser = ["auto", "compare", "wal", "server"])]
    changes: Option<String>,
    /// Read the data directory here, or stream over the replication protocol [default: auto]
    #[arg(long, value_name = "SOURCE", value_parser = ["auto", "local", "stream"])]
    source: Option<String>,
    /// Worker threads [default: one per processor]
    #[arg(short, long, value_name = "N")]
    jobs: Option<String>,
    /// Codec: `zstd`, `zstd:LEVEL`, `lz4` or `none` [default: zstd:3]
    #[arg(long, value_name = "CODEC")]
    compress: Option<String>,
    /// Wait for the archiver's WAL, or include it by streaming [default: auto]
    #[arg(long, value_name = "HOW", value_parser = ["auto", "archive", "include"])]
    wal: Option<String>,
    /// Begin with an immediate checkpoint, or one at the server's usual pace [default: fast]
    #[arg(long, value_name = "PACE", value_parser = ["fast", "spread"])]
    checkpoint: Option<String>,
    /// Keep this note with the backup; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    pub(crate) annotate: Vec<(String, String)>,
    /// How long to wait for the archiver [default: 60s]
    #[arg(long, value_name = "DURATION")]
    archive_timeout: Option<String>,
    /// Do not remove what the retention policy gives up, now that there is a new backup
    #[arg(long)]
    pub(crate) no_expire: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

impl BackupArgs {
    /// The settings that these options override.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        Flag::given([
            ("backup.type", "--type", &self.kind),
            ("backup.changes", "--changes", &self.changes),
            ("backup.source", "--source", &self.source),
            ("backup.jobs", "--jobs", &self.jobs),
            ("backup.compress", "--compress", &self.compress),
            ("backup.wal", "--wal", &self.wal),
            ("backup.checkpoint", "--checkpoint", &self.checkpoint),
            ("backup.archive_timeout", "--archive-timeout", &self.archive_timeout),
        ])
    }
}

pub(super) fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::annotation;

    #[test]
    fn an_annotation_is_split_at_the_first_equals_sign() {
        assert_eq!(annotation("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(annotation("a="), Ok(("a".to_owned(), String::new())));
        for bad in ["", "a", "=b", " =b"] {
            assert!(annotation(bad).is_err(), "{bad}");
        }
    }
}
