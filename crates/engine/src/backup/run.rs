//! The run of a backup, from the first checkpoint to the manifest.
//!
//! Order: configuration files, slot for the WAL, start, copy, control file, stop, WAL, manifest. An error at any
//! point leaves at most packs that no manifest names, which the next backup may go on with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_format::backup_label::BackupLabel;
use pgkeep_format::{Lsn, TimelineId, WalSegmentName};
use pgkeep_repo::{
    BackupWriter, BadPagesOfFile, BlockEncoder, ClusterRecord, ExternalFile, LeaseInfo, Leftovers,
    ManifestHeader, Stanza, WalArchive, WalNeeded,
};
use pgkeep_wire::{CancelHandle, Connection};

use super::collector::{Collected, Collector};
use super::parent_files::ParentFiles;
use super::plan::BackupPlan;
use super::server::{self, ServerFacts, StoppedBackup};
use super::wal_receive::{PreparedReceiver, Received, RunningReceiver};
use super::worker::{PageRule, RewrittenPacks, Worker};
use super::{
    BackupReport, BackupRequest, ChangesFrom, SourceKind, WalMode, confirm, external_config, reuse, wal_wait,
};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::incremental_sample::alarms;
use crate::wal::{put_history, wal_tail_object};

/// All that a run works with.
pub struct Run<'a> {
    /// What was asked.
    pub request: &'a BackupRequest,
    /// Where to.
    pub stanza: &'a Stanza,
    /// Which cluster.
    pub record: &'a ClusterRecord,
    /// Its WAL.
    pub archive: WalArchive,
    /// What the server said.
    pub facts: ServerFacts,
    /// What was decided.
    pub plan: BackupPlan,
    /// Packs of earlier backups to which this one does not refer where that can be helped.
    pub rewrite: RewrittenPacks,
    /// Those of them that are about to be removed, to which it must not refer.
    pub condemned: BTreeSet<(u32, u32)>,
    /// Reports of changes that no WAL named; looked for when the run begins.
    pub alarms: Vec<String>,
    /// What interrupted backups left; looked for when the run begins.
    pub left: Option<Arc<Leftovers>>,
    /// Is told.
    pub observer: &'a dyn Observer,
    /// May stop it.
    pub cancel: &'a Cancel,
}

/// What is told of a backup beside what its header says.
struct Counts {
    vanished: u64,
    read_bytes: u64,
    new_bytes: u64,
    reused_bytes: u64,
    unchanged_files: u64,
    changes: Option<(ChangesFrom, String)>,
}

/// What the copy left behind, before the WAL is proved.
pub(super) struct Copied {
    /// What was stored.
    pub(super) collected: Collected,
    /// Where replay begins.
    pub(super) start: Lsn,
    /// What the end of the backup brought.
    pub(super) stopped: StoppedBackup,
    /// Files that went away.
    pub(super) vanished: u64,
    /// Permission bits of the data directory.
    pub(super) directory_mode: u32,
    /// How it was found what changed, and why in that way; none for a full backup.
    pub(super) changes: Option<(ChangesFrom, String)>,
}

/// The clock of the server around the copy.
struct Times {
    start: Timestamp,
    stop: Timestamp,
}

/// Takes the backup. `session` is the one in which a local backup is framed: losing it ends the backup on the server.
pub fn run(mut run: Run<'_>, mut session: Connection) -> Result<BackupReport> {
    let lease = LeaseInfo {
        verb: "backup".to_owned(),
        host: host_name(),
        pid: std::process::id(),
        program: written_by(),
    };
    let mut writer = run.stanza.begin_backup(Timestamp::now(), lease)?;
    // Asked after the epoch was claimed: what is on its way out now is written anew; what goes on its way out later waits
    // for this backup.
    let condemned = run.stanza.condemned_packs(writer.id())?;
    run.condemned = condemned.iter().map(|pack| (pack.backup.epoch(), pack.number)).collect();
    run.rewrite = Arc::new(run.rewrite.union(&run.condemned).copied().collect());
    run.alarms = alarms(run.stanza)?;
    run.request.pack_bytes.into_iter().for_each(|bytes| writer.set_pack_bytes(bytes));
    run.left = reuse::leftovers(run.stanza, run.record, Some(writer.id()), run.observer);
    match run.fill(&mut session, &mut writer) {
        Ok((header, counts)) => {
            run.step(Step::Commit, None);
            let header = writer.commit(header)?;
            run.observer.event(Event::StepFinished { step: Step::Commit });
            Ok(run.report(&header, &counts))
        }
        Err(error) => {
            // On a full disk the room is worth more than the work.
            if error.kind == ErrorKind::Space {
                writer.abandon();
                return Err(error);
            }
            let has_left = writer.leave();
            Err(if has_left {
                error.hint("the next backup goes on with what this one stored")
            } else {
                error
            })
        }
    }
}

impl Run<'_> {
    /// Everything but the commit.
    fn fill(&self, session: &mut Connection, writer: &mut BackupWriter) -> Result<(ManifestHeader, Counts)> {
        let parent = self.open_parent(writer)?;
        let external = external_config::collect(
            session,
            &self.facts,
            self.plan.source == SourceKind::Local,
            self.observer,
        )?;
        let prepared = match self.plan.wal {
            WalMode::Include => {
                Some(PreparedReceiver::prepare(&self.request.connection, &writer.id().to_string())?)
            }
            WalMode::Archive => None,
        };
        let start_time = server::clock(session)?;
        let mut receiver = None;
        let copied = match &self.plan.data_directory {
            Some(directory) => {
                self.copy_local(session, writer, directory, parent.as_ref(), prepared, &mut receiver)
            }
            None => self.copy_stream(session, writer, parent.as_ref(), prepared, &mut receiver),
        };
        let mut copied = match copied {
            Ok(copied) => copied,
            Err(error) => {
                // A broken stream makes the copy fail late and for another reason: the stream's own says more.
                return Err(receiver.and_then(RunningReceiver::abandon).unwrap_or(error));
            }
        };
        self.left.iter().for_each(|left| reuse::tell_damaged(left, self.observer));
        let times = Times { start: start_time, stop: server::clock(session)? };
        copied.collected.judge_excused(copied.stopped.stop);
        if self.plan.source == SourceKind::Stream && !copied.collected.bad_pages.is_empty() {
            confirm::confirm(
                &mut copied.collected.bad_pages,
                session,
                &self.facts,
                copied.start,
                self.observer,
            );
        }
        let label = BackupLabel::parse(&copied.stopped.label).map_err(|error| {
            Error::new(ErrorKind::Unsupported, "the server's backup label cannot be read")
                .caused_by(&error)
                .hint("this is a server that pgkeep does not know: report it")
        })?;
        let wal = self.secure_wal(session, writer, &label, &copied, receiver)?;
        for bad in &copied.collected.bad_pages {
            self.observer.event(Event::Warning {
                text: format!(
                    "`{}` has {} pages with wrong checksums: {}",
                    bad.path,
                    bad.total,
                    first_numbers(&bad.blocks)
                ),
                hint: Some("the cluster itself is damaged there; the pages are kept as they are".to_owned()),
            });
        }
        let counts = Counts {
            vanished: copied.vanished,
            read_bytes: copied.collected.read_bytes,
            new_bytes: copied.collected.new_bytes,
            reused_bytes: copied.collected.reused_bytes,
            unchanged_files: copied.collected.unchanged_files,
            changes: copied.changes.clone(),
        };
        Ok((self.header(copied, &label, times, wal, external), counts))
    }

    /// Opens the backup that this one builds on, and tells the writer of it.
    pub(super) fn open_parent(&self, writer: &mut BackupWriter) -> Result<Option<ParentFiles>> {
        let Some(id) = self.plan.basis.parent else { return Ok(None) };
        let reader = self.stanza.backup(id)?;
        writer.build_on(&reader, &self.rewrite)?;
        Ok(Some(ParentFiles::read(&reader)?))
    }

    /// Makes sure that every byte of WAL from the start to the stop is in the repository.
    fn secure_wal(
        &self,
        session: &mut Connection,
        writer: &mut BackupWriter,
        label: &BackupLabel,
        copied: &Copied,
        receiver: Option<RunningReceiver>,
    ) -> Result<WalNeeded> {
        let size = self.facts.wal_segment_size;
        let timeline = label.start_timeline;
        let first = size.segment_at(copied.start);
        let last = size.segment_before(copied.stopped.stop);
        let name = |number| WalSegmentName { timeline, number }.file_name(size);
        self.step(Step::AwaitWal, None);
        match receiver {
            Some(receiver) => {
                let Received { tail, last: received, .. } = receiver.finish(copied.stopped.stop)?;
                if let Some(tail) = tail {
                    writer.put_wal_tail(&wal_tail_object(
                        self.record,
                        received,
                        &tail,
                        self.request.compression,
                    )?)?;
                }
            }
            None => {
                let timeout = Duration::from_secs(self.request.archive_timeout_seconds);
                wal_wait::wait(&self.archive, session, timeline, (first, last), size, timeout, self.cancel)?;
            }
        }
        self.observer.event(Event::StepFinished { step: Step::AwaitWal });
        let mode = match self.plan.wal {
            WalMode::Archive => pgkeep_repo::WalMode::Archive,
            WalMode::Include => pgkeep_repo::WalMode::Include,
        };
        Ok(WalNeeded { mode, first: name(first), last: name(last) })
    }

    pub(super) fn keep_history(&self, prepared: &mut PreparedReceiver, timeline: TimelineId) -> Result<()> {
        match prepared.timeline_history(timeline)? {
            Some((_, bytes)) => put_history(&self.archive, self.record, timeline, &bytes),
            None => Ok(()),
        }
    }

    pub(super) fn start_receiver(
        &self,
        prepared: PreparedReceiver,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<RunningReceiver> {
        prepared.start(
            self.archive.clone(),
            *self.record,
            self.request.compression,
            start,
            timeline,
            self.facts.standby,
        )
    }

    pub(super) fn collector<'w>(&self, writer: &'w mut BackupWriter) -> Collector<'w> {
        let zero = self.stanza.repository().digest_key().zero_block(self.facts.block_size);
        Collector::new(writer, self.facts.block_size, zero)
    }

    pub(super) fn workers(&self, start: Lsn) -> Vec<Worker> {
        (0..self.request.jobs.max(1)).map(|_| self.worker(start)).collect()
    }

    pub(super) fn worker(&self, start: Lsn) -> Worker {
        let key = self.stanza.repository().digest_key().clone();
        let rule = PageRule {
            block_size: self.facts.block_size as usize,
            checksums: self.facts.checksums,
            start,
            relation_segment_blocks: self.facts.relation_segment_blocks,
        };
        let encoder = BlockEncoder::new(self.request.compression, key, self.facts.block_size);
        Worker::new(encoder, rule, Arc::clone(&self.rewrite)).reusing(self.left.clone())
    }

    pub(super) fn label_text(&self, writer: &BackupWriter) -> String {
        format!("pgkeep {}", writer.id())
    }

    pub(super) fn step(&self, step: Step, total_bytes: Option<u64>) {
        self.observer.event(Event::StepStarted { step, total_bytes });
    }

    fn header(
        &self,
        copied: Copied,
        label: &BackupLabel,
        times: Times,
        wal: WalNeeded,
        external_files: Vec<ExternalFile>,
    ) -> ManifestHeader {
        let facts = &self.facts;
        ManifestHeader {
            record: self.record.sequence,
            kind: self.plan.basis.kind.into(),
            parent: self.plan.basis.parent,
            source: match self.plan.source {
                SourceKind::Local => "local",
                SourceKind::Stream => "stream",
                SourceKind::Import => "import",
            }
            .to_owned(),
            written_by: written_by(),
            host: host_name(),
            system_identifier: facts.system_identifier,
            server_version_num: facts.version,
            major: facts.major(),
            catalog_version: facts.catalog_version,
            control_version: facts.control_version,
            block_size: facts.block_size,
            relation_segment_blocks: facts.relation_segment_blocks,
            wal_segment_size: u32::from(facts.wal_segment_size),
            checksums: facts.checksums,
            from_standby: facts.standby,
            start_lsn: copied.start,
            stop_lsn: copied.stopped.stop,
            timeline: label.start_timeline,
            start_time: times.start,
            stop_time: times.stop,
            backup_label: copied.stopped.label,
            tablespace_map: Some(copied.stopped.tablespace_map).filter(|map| !map.is_empty()),
            tablespaces: facts
                .tablespaces
                .iter()
                .map(|space| pgkeep_repo::Tablespace { oid: space.oid, path: space.location.clone() })
                .collect(),
            external_files,
            compression: self.request.compression.to_string(),
            annotations: self.request.annotations.clone(),
            wal,
            bad_pages: pgkeep_repo::BadPages {
                total: copied.collected.bad_pages.iter().map(|bad| bad.total).sum(),
                files: copied
                    .collected
                    .bad_pages
                    .into_iter()
                    .map(|bad| BadPagesOfFile { path: bad.path, blocks: bad.blocks })
                    .collect(),
            },
            answered_alarms: self.alarms.clone(),
            directory_mode: copied.directory_mode,
            server_timezone: Some(facts.time_zone.clone()),
            ..ManifestHeader::default()
        }
    }

    fn report(&self, header: &ManifestHeader, counts: &Counts) -> BackupReport {
        BackupReport {
            id: Some(header.id.to_string()),
            kind: self.plan.basis.kind,
            parent: self.plan.basis.parent.map(|parent| parent.to_string()),
            type_reason: self.plan.basis.reason.clone(),
            changes: counts.changes.as_ref().map(|(from, _)| *from),
            changes_reason: counts.changes.as_ref().map(|(_, why)| why.clone()).unwrap_or_default(),
            source: self.plan.source,
            source_reason: self.plan.source_reason.clone(),
            wal: self.plan.wal,
            wal_reason: self.plan.wal_reason.clone(),
            started: header.start_time.to_string(),
            finished: Some(header.stop_time.to_string()),
            start_lsn: Some(header.start_lsn),
            stop_lsn: Some(header.stop_lsn),
            timeline: Some(header.timeline),
            files: header.totals.files,
            size_bytes: header.totals.size_bytes,
            read_bytes: counts.read_bytes,
            new_bytes: counts.new_bytes,
            reused_bytes: counts.reused_bytes,
            unchanged_files: counts.unchanged_files,
            stored_bytes: header.totals.stored_bytes,
            vanished_files: counts.vanished,
            checksums_verified: header.checksums,
            bad_pages: crate::list::bad_pages_of(header),
        }
    }
}

/// Runs a call that may wait for minutes on the server, and ends it there when the user asks to stop.
pub(super) fn interruptible<T>(
    handle: CancelHandle,
    cancel: &Cancel,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (done, wait) = crossbeam_channel::bounded::<()>(0);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(Duration::from_millis(100))
                == Err(crossbeam_channel::RecvTimeoutError::Timeout)
            {
                if cancel.is_cancelled() {
                    // If the server does not hear it, the end of the session does the same a little later.
                    drop(handle.cancel());
                    return;
                }
            }
        });
        let outcome = call();
        drop(done);
        outcome
    });
    cancel.check()?;
    outcome
}

fn first_numbers(blocks: &[u32]) -> String {
    let mut text: Vec<String> = blocks.iter().take(10).map(|block| format!("block {block}")).collect();
    if blocks.len() > 10 {
        text.push("…".to_owned());
    }
    text.join(", ")
}

/// The machine, as its kernel names it.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The program and its version.
pub(crate) fn written_by() -> String {
    format!("pgkeep {}", env!("CARGO_PKG_VERSION"))
}
