//! What a backup will do, decided before it does it: pure, and printed by `--dry-run`.
//!
//! Three choices: on what the backup builds, where the bytes come from and where the WAL comes from, each with its reason. What was asked for and
//! cannot be is an error; `auto` never is one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::basis::Basis;
use super::server::ServerFacts;
use super::source_local::NotThisCluster;
use super::worker::RewrittenPacks;
use super::{BackupRequest, ChangesChoice, SourceChoice, SourceKind, WalChoice, WalMode};
use crate::error::{Error, ErrorKind, Result};

/// What will be done.
#[derive(Clone, Debug)]
pub struct BackupPlan {
    /// How much is read, and on what the backup builds.
    pub basis: Basis,
    /// Packs of the parent to which this backup does not refer.
    pub rewrite: RewrittenPacks,
    /// Where the bytes come from.
    pub source: SourceKind,
    /// Why.
    pub source_reason: String,
    /// The data directory, for a local source.
    pub data_directory: Option<PathBuf>,
    /// Where the WAL comes from.
    pub wal: WalMode,
    /// Why.
    pub wal_reason: String,
}

/// Decides, from what was asked and what the server and this machine said.
pub fn plan(
    request: &BackupRequest,
    facts: &ServerFacts,
    basis: Basis,
    rewrite: BTreeSet<(u32, u32)>,
    local: &std::result::Result<PathBuf, NotThisCluster>,
    last_archived_is_here: bool,
) -> Result<BackupPlan> {
    refuse_minimal_wal(facts)?;
    let by_server = request.changes == ChangesChoice::Server;
    if by_server && request.source == SourceChoice::Local {
        return Err(Error::new(
            ErrorKind::Usage,
            "a server says what changed only over the replication protocol",
        )
        .hint("leave out `--source local`, or `--changes server`"));
    }
    let (source, source_reason, data_directory) = match (request.source, local) {
        (SourceChoice::Auto, _) if by_server => {
            (SourceKind::Stream, "the server is to say what changed".to_owned(), None)
        }
        (SourceChoice::Stream, _) => (SourceKind::Stream, "asked for".to_owned(), None),
        (SourceChoice::Local, Ok(directory)) => {
            (SourceKind::Local, "asked for".to_owned(), Some(directory.clone()))
        }
        (SourceChoice::Local, Err(NotThisCluster(why))) => {
            return Err(Error::new(ErrorKind::Mismatch, "the data directory cannot be the source")
                .cause(why)
                .hint("run pgkeep on the server's machine as the server's user")
                .hint("or copy over the connection: `--source stream`"));
        }
        (SourceChoice::Auto, Ok(directory)) => (
            SourceKind::Local,
            format!("`{}` is readable here and is this very cluster", directory.display()),
            Some(directory.clone()),
        ),
        (SourceChoice::Auto, Err(NotThisCluster(why))) => (SourceKind::Stream, why.clone(), None),
    };
    let (wal, wal_reason) = plan_wal(request.wal, facts, last_archived_is_here)?;
    Ok(BackupPlan {
        basis,
        rewrite: Arc::new(rewrite),
        source,
        source_reason,
        data_directory,
        wal,
        wal_reason,
    })
}

fn refuse_minimal_wal(facts: &ServerFacts) -> Result<()> {
    if facts.wal_level == "minimal" {
        return Err(Error::new(ErrorKind::Config, "the server cannot be backed up while it runs")
            .cause("its `wal_level` is `minimal`: WAL lacks what a backup needs to become consistent")
            .hint("set `wal_level = replica` in postgresql.conf and restart the server")
            .hint("`pgkeep init --apply` sets what is missing and says what needs a restart"));
    }
    Ok(())
}

fn plan_wal(
    choice: WalChoice,
    facts: &ServerFacts,
    last_archived_is_here: bool,
) -> Result<(WalMode, String)> {
    let archives = match facts.archive_mode.as_str() {
        "always" => true,
        "on" => !facts.standby,
        _ => false,
    };
    let feeds_us = facts.archive_command.as_deref().is_some_and(|command| command.contains("wal push"));
    match choice {
        WalChoice::Include => Ok((WalMode::Include, "asked for".to_owned())),
        WalChoice::Archive if !archives => {
            Err(Error::new(ErrorKind::Config, "the server does not archive WAL")
                .cause(format!("its `archive_mode` is `{}`", facts.archive_mode))
                .hint("`pgkeep init --apply` sets up archiving")
                .hint("or stream the WAL while the backup runs: `--wal include`"))
        }
        WalChoice::Archive => Ok((WalMode::Archive, "asked for".to_owned())),
        WalChoice::Auto if facts.standby => Ok((
            WalMode::Include,
            "a standby cannot end a WAL segment, so its archive may come late".to_owned(),
        )),
        WalChoice::Auto if archives && (feeds_us || last_archived_is_here) => {
            Ok((WalMode::Archive, "the server's archiver feeds this repository".to_owned()))
        }
        WalChoice::Auto => Ok((WalMode::Include, "no archiver feeds this repository".to_owned())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{ConnectionRequest, Location};
    use pgkeep_format::WalSegmentSize;

    /// A server of 18 that is fit to be backed up.
    pub(in super::super) fn facts(archive_mode: &str, command: &str) -> ServerFacts {
        ServerFacts {
            system_identifier: 1,
            version: 180_001,
            catalog_version: 1,
            control_version: 1800,
            block_size: 8192,
            relation_segment_blocks: 131_072,
            wal_segment_size: WalSegmentSize::DEFAULT,
            checksums: true,
            standby: false,
            wal_level: "replica".into(),
            archive_mode: archive_mode.into(),
            archive_command: Some(command.into()),
            data_directory: None,
            config_files: Vec::new(),
            started: 0,
            port: 5432,
            time_zone: "UTC".into(),
            tablespaces: Vec::new(),
        }
    }

    fn request(source: SourceChoice, wal: WalChoice) -> BackupRequest {
        BackupRequest {
            location: Location { repository: "/r".into(), stanza: "main".into() },
            connection: ConnectionRequest::default(),
            kind: super::super::TypeChoice::Auto,
            changes: super::super::ChangesChoice::Auto,
            source,
            jobs: 1,
            compression: pgkeep_repo::Compression::None,
            wal,
            checkpoint: super::super::Checkpoint::Fast,
            annotations: Default::default(),
            archive_timeout_seconds: 1,
            pack_bytes: None,
            dry_run: true,
        }
    }

    fn basis() -> Basis {
        Basis { kind: super::super::BackupType::Full, parent: None, reason: String::new() }
    }

    #[test]
    fn without_an_archiver_the_wal_is_included() {
        let here = Ok(PathBuf::from("/data"));
        let plan = plan(
            &request(SourceChoice::Auto, WalChoice::Auto),
            &facts("off", ""),
            basis(),
            BTreeSet::new(),
            &here,
            false,
        )
        .unwrap();
        assert_eq!((plan.source, plan.wal), (SourceKind::Local, WalMode::Include));
    }

    #[test]
    fn an_archiver_that_feeds_us_is_trusted_to_bring_the_wal() {
        let away = Err(NotThisCluster("elsewhere".into()));
        let plan = plan(
            &request(SourceChoice::Auto, WalChoice::Auto),
            &facts("on", "pgkeep wal push %p"),
            basis(),
            BTreeSet::new(),
            &away,
            false,
        )
        .unwrap();
        assert_eq!((plan.source, plan.wal), (SourceKind::Stream, WalMode::Archive));
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_way_out() {
        let away = Err(NotThisCluster("elsewhere".into()));
        let error = plan(
            &request(SourceChoice::Local, WalChoice::Auto),
            &facts("off", ""),
            basis(),
            BTreeSet::new(),
            &away,
            false,
        )
        .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Mismatch);
        let error = plan(
            &request(SourceChoice::Auto, WalChoice::Archive),
            &facts("off", ""),
            basis(),
            BTreeSet::new(),
            &away,
            false,
        )
        .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config);
        let mut minimal = facts("off", "");
        minimal.wal_level = "minimal".into();
        let error = plan(
            &request(SourceChoice::Auto, WalChoice::Auto),
            &minimal,
            basis(),
            BTreeSet::new(),
            &away,
            false,
        )
        .unwrap_err();
        assert!(!error.hints.is_empty());
    }
}
