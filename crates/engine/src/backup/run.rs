//! The run of a backup, from the first checkpoint to the manifest.
//!
//! Order: configuration files, slot for the WAL, start, copy, control file, stop, WAL, manifest. An error at any
//! point leaves at most packs that no manifest names, which the next backup may go on with.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use pgkeep_format::backup_label::BackupLabel;
use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_format::relation::RelationFile;
use pgkeep_format::{Lsn, TimelineId, WalSegmentName};
use pgkeep_repo::{
    BackupWriter, BadPagesOfFile, BlockEncoder, ClusterRecord, ExternalFile, LeaseInfo, Leftovers,
    ManifestHeader, Stanza, WalArchive, WalNeeded,
};
use pgkeep_wire::{BaseBackupEvent, BaseBackupOptions, CancelHandle, Connection};

use super::collector::{Collected, Collector};
use super::copy::{Sink, copy};
use super::parent_files::{ParentFile, ParentFiles};
use super::plan::BackupPlan;
use super::reading::Reading;
use super::server::{self, ServerFacts, StoppedBackup};
use super::source_local;
use super::source_stream::{StreamCutter, StreamItem};
use super::wal_receive::{PreparedReceiver, Received, RunningReceiver};
use super::work::{Bundler, SourceFile, Stretch, Work};
use super::worker::{PageRule, Worker};
use super::{
    BackupReport, BackupRequest, ChangesChoice, ChangesFrom, Checkpoint, SourceKind, WalMode, confirm,
    external_config, reuse, wal_wait,
};
use crate::changed_blocks::{ChangedBlocks, WalRequest, comparable, from_wal};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::wal::{put_history, wal_tail_object};

/// Stretches of a local source that are compared are gathered up to this many bytes: what is left of them shares frames.
const COMPARED_BYTES: usize = 16 << 20;

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
struct Copied {
    collected: Collected,
    start: Lsn,
    stopped: StoppedBackup,
    vanished: u64,
    directory_mode: u32,
    /// How it was found what changed, and why in that way; none for a full backup.
    changes: Option<(ChangesFrom, String)>,
}

/// What is known about changes since the parent.
#[derive(Debug, Default)]
struct FoundChanges {
    /// None where every block is compared.
    changes: Option<ChangedBlocks>,
    /// Why; empty where there is no parent.
    reason: String,
}

impl FoundChanges {
    fn told(&self) -> Option<(ChangesFrom, String)> {
        let from = if self.changes.is_some() { ChangesFrom::Wal } else { ChangesFrom::Compare };
        (!self.reason.is_empty()).then(|| (from, self.reason.clone()))
    }
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
            None => self.copy_stream(writer, parent.as_ref(), prepared, &mut receiver),
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
    fn open_parent(&self, writer: &mut BackupWriter) -> Result<Option<ParentFiles>> {
        let Some(id) = self.plan.basis.parent else { return Ok(None) };
        let reader = self.stanza.backup(id)?;
        writer.build_on(&reader, &self.plan.rewrite)?;
        Ok(Some(ParentFiles::read(&reader)?))
    }

    fn copy_local(
        &self,
        session: &mut Connection,
        writer: &mut BackupWriter,
        directory: &Path,
        parent: Option<&ParentFiles>,
        prepared: Option<PreparedReceiver>,
        receiver: &mut Option<RunningReceiver>,
    ) -> Result<Copied> {
        self.step(Step::Checkpoint, None);
        let start = interruptible(session.cancel_handle(), self.cancel, || {
            server::start(session, &self.label_text(writer), self.request.checkpoint)
        })?;
        self.observer.event(Event::StepFinished { step: Step::Checkpoint });
        if let Some(mut prepared) = prepared {
            let timeline = server::timeline(session)?;
            self.keep_history(&mut prepared, timeline)?;
            *receiver = Some(self.start_receiver(prepared, start, timeline)?);
        }
        let found = self.find_changes(session, directory, parent, start)?;
        let reading = found.changes.as_ref().map(|changes| Reading {
            changes,
            rewrite: &self.plan.rewrite,
            block_size: self.facts.block_size,
        });
        let walk = source_local::walk(directory, &self.facts)?;
        for special in &walk.special {
            self.observer.event(Event::Warning {
                text: format!("`{special}` is neither a file nor a directory and is left out"),
                hint: None,
            });
        }
        self.step(Step::Copy, Some(walk.size_bytes));
        let vanished = AtomicU64::new(walk.vanished);
        let mut collector = self.collector(writer);
        let receiving = receiver.as_ref();
        copy(self.workers(start), &mut collector, self.observer, self.cancel, |sink| {
            self.hand_out(&walk.entries, parent, reading.as_ref(), sink, receiving, &vanished)
        })?;
        // Last of all: a standby's control file says up to where replay must go.
        let (bytes, mode, modified) = source_local::read_control_file(directory)?;
        let old = take_parent(parent, CONTROL_FILE_PATH)?;
        self.worker(start)
            .process(whole_file(CONTROL_FILE_PATH, old, bytes, mode, modified), &mut |processed| {
                collector.accept(processed).map(drop)
            })?;
        collector.drop_files(&parent.map(ParentFiles::left).unwrap_or_default())?;
        let collected = collector.finish()?;
        self.observer.event(Event::StepFinished { step: Step::Copy });
        let stopped = server::stop(session)?;
        let directory_mode = source_local::directory_mode(directory)?;
        let changes = found.told();
        Ok(Copied { collected, start, stopped, vanished: vanished.into_inner(), directory_mode, changes })
    }

    /// What may have changed since the parent, from the WAL since; nothing where that is not known, with the reason.
    fn find_changes(
        &self,
        session: &mut Connection,
        directory: &Path,
        parent: Option<&ParentFiles>,
        start: Lsn,
    ) -> Result<FoundChanges> {
        let Some(parent) = parent else { return Ok(FoundChanges::default()) };
        let header = parent.reader().header();
        if self.request.changes == ChangesChoice::Compare {
            return Ok(FoundChanges {
                changes: None,
                reason: "every block was compared, as asked".to_owned(),
            });
        }
        let shape = self.facts.shape();
        let pg_wal = directory.join("pg_wal");
        let timeline = server::timeline(session)?;
        let answer = match comparable(header, &shape) {
            Err(reason) => Err(reason),
            Ok(()) => from_wal(&WalRequest {
                archive: &self.archive,
                local_wal: Some(&pg_wal),
                parent: header,
                start,
                timeline,
                cancel: self.cancel,
            })?,
        };
        let found = match answer {
            Ok(changes) => {
                let (segments, blocks) = (changes.range().segments, changes.marked_blocks());
                let reason = format!("{segments} WAL segments since the parent name {blocks} blocks");
                FoundChanges { changes: Some(changes), reason }
            }
            Err(why) => {
                let reason = format!("every block was compared: {why}");
                if self.request.changes == ChangesChoice::Wal {
                    self.observer.event(Event::Warning {
                        text: format!("the WAL does not say what changed: {why}"),
                        hint: Some("every block is read and compared instead, which is as good".to_owned()),
                    });
                }
                FoundChanges { changes: None, reason }
            }
        };
        self.observer.event(Event::Note { text: format!("changes: {}", found.reason) });
        Ok(found)
    }

    fn hand_out(
        &self,
        entries: &[source_local::Entry],
        parent: Option<&ParentFiles>,
        reading: Option<&Reading<'_>>,
        sink: &Sink<'_>,
        receiver: Option<&RunningReceiver>,
        vanished: &AtomicU64,
    ) -> Result<()> {
        let version_directory = self.facts.tablespace_directory();
        let mut bundler = Bundler::new(self.facts.block_size, COMPARED_BYTES);
        for (number, entry) in entries.iter().enumerate() {
            if receiver.is_some_and(RunningReceiver::has_failed) {
                return Err(Error::new(ErrorKind::Connect, "the WAL stream ended before the backup did")
                    .hint("look at the server's log, then take the backup again"));
            }
            if entry.is_directory {
                sink.directory(entry.path.clone(), entry.mode)?;
                continue;
            }
            let old = take_parent(parent, &entry.path)?;
            let spans = match reading {
                Some(reading) => {
                    let relation = RelationFile::parse_path(&entry.path, &version_directory);
                    let bad = parent.map(|parent| parent.bad_pages_of(&entry.path)).unwrap_or_default();
                    reading.of_file(relation.as_ref(), old.as_ref(), entry.size, &bad)?
                }
                None => None,
            };
            let block_size = self.facts.block_size;
            let open = source_local::open(
                entry,
                number as u64,
                &version_directory,
                old,
                spans.as_deref(),
                block_size,
            )?;
            let Some(file) = open else {
                vanished.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if let Some(parent) = parent {
                    parent.put_back(&entry.path);
                }
                continue;
            };
            for stretch in file.stretches() {
                if let Some(work) = bundler.add(stretch) {
                    sink.work(work)?;
                }
            }
        }
        match bundler.flush() {
            Some(work) => sink.work(work),
            None => Ok(()),
        }
    }

    fn copy_stream(
        &self,
        writer: &mut BackupWriter,
        parent: Option<&ParentFiles>,
        prepared: Option<PreparedReceiver>,
        receiver: &mut Option<RunningReceiver>,
    ) -> Result<Copied> {
        let mut connection = self.request.connection.connect_replication()?;
        let directory_mode = connection
            .show("data_directory_mode")
            .ok()
            .and_then(|text| u32::from_str_radix(&text, 8).ok())
            .unwrap_or(0o700);
        let options = BaseBackupOptions {
            label: self.label_text(writer),
            fast: self.request.checkpoint == Checkpoint::Fast,
            progress: true,
            tablespace_map: true,
            max_rate_kib: None,
            // We check pages ourselves: the server would end the backup at the first bad ones.
            verify_checksums: false,
            wal: false,
            manifest: false,
            incremental: false,
        };
        self.step(Step::Checkpoint, None);
        let handle = connection.cancel_handle();
        let mut stream = interruptible(handle, self.cancel, || Ok(connection.base_backup(&options)?))?;
        self.observer.event(Event::StepFinished { step: Step::Checkpoint });
        let (start, timeline) = (stream.start, stream.timeline);
        if let Some(mut prepared) = prepared {
            self.keep_history(&mut prepared, timeline)?;
            *receiver = Some(self.start_receiver(prepared, start, timeline)?);
        }
        let total: Option<u64> =
            stream.tablespaces.iter().map(|space| space.size_kib.map(|kib| kib * 1024)).sum();
        self.step(Step::Copy, total);
        let mut collector = self.collector(writer);
        let mut texts = (None, None);
        let cutter = StreamCutter::new(self.facts.tablespace_directory(), self.facts.block_size, parent);
        let receiving = receiver.as_ref();
        copy(self.workers(start), &mut collector, self.observer, self.cancel, |sink| {
            texts = cut_stream(&mut stream, cutter, sink, receiving)?;
            Ok(())
        })?;
        collector.drop_files(&parent.map(ParentFiles::left).unwrap_or_default())?;
        let collected = collector.finish()?;
        self.observer.event(Event::StepFinished { step: Step::Copy });
        let (stop, _) = stream.finish()?;
        let label = texts.0.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the server sent a base backup without a backup_label")
                .hint("take the backup again; if it stays, report this")
        })?;
        let stopped = StoppedBackup { stop, label, tablespace_map: texts.1.unwrap_or_default() };
        let changes = parent
            .map(|_| (ChangesFrom::Compare, "the server sent every block, and each was compared".to_owned()));
        Ok(Copied { collected, start, stopped, vanished: 0, directory_mode, changes })
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

    fn keep_history(&self, prepared: &mut PreparedReceiver, timeline: TimelineId) -> Result<()> {
        match prepared.timeline_history(timeline)? {
            Some((_, bytes)) => put_history(&self.archive, self.record, timeline, &bytes),
            None => Ok(()),
        }
    }

    fn start_receiver(
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

    fn collector<'w>(&self, writer: &'w mut BackupWriter) -> Collector<'w> {
        let zero = self.stanza.repository().digest_key().zero_block(self.facts.block_size);
        Collector::new(writer, self.facts.block_size, zero)
    }

    fn workers(&self, start: Lsn) -> Vec<Worker> {
        (0..self.request.jobs.max(1)).map(|_| self.worker(start)).collect()
    }

    fn worker(&self, start: Lsn) -> Worker {
        let key = self.stanza.repository().digest_key().clone();
        let rule = PageRule {
            block_size: self.facts.block_size as usize,
            checksums: self.facts.checksums,
            start,
            relation_segment_blocks: self.facts.relation_segment_blocks,
        };
        let encoder = BlockEncoder::new(self.request.compression, key, self.facts.block_size);
        Worker::new(encoder, rule, Arc::clone(&self.plan.rewrite)).reusing(self.left.clone())
    }

    fn label_text(&self, writer: &BackupWriter) -> String {
        format!("pgkeep {}", writer.id())
    }

    fn step(&self, step: Step, total_bytes: Option<u64>) {
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

/// Feeds the whole stream to the workers; answers the label and the tablespace map.
fn cut_stream(
    stream: &mut pgkeep_wire::BaseBackup<'_>,
    mut cutter: StreamCutter<'_>,
    sink: &Sink<'_>,
    receiver: Option<&RunningReceiver>,
) -> Result<(Option<String>, Option<String>)> {
    let (mut label, mut map) = (None, None);
    let mut take = |item| match item {
        StreamItem::Work(work) => sink.work(work),
        StreamItem::Directory { path, mode } => sink.directory(path, mode),
        StreamItem::Label(text) => {
            label = Some(text);
            Ok(())
        }
        StreamItem::TablespaceMap(text) => {
            map = Some(text);
            Ok(())
        }
        // The cutter gives these only where it was told to expect them.
        StreamItem::Scattered(blocks) => Err(Error::new(
            ErrorKind::Internal,
            format!("a part of `{}` was not asked for", blocks.file.path),
        )
        .hint("this is a defect of pgkeep: report it")),
    };
    let mut in_archive = false;
    while let Some(event) = stream.next()? {
        match event {
            BaseBackupEvent::NewArchive { tablespace, .. } => {
                if in_archive {
                    cutter.end_archive()?;
                }
                in_archive = true;
                cutter.begin_archive(tablespace);
            }
            BaseBackupEvent::Data(bytes) => cutter.feed(bytes, &mut take)?,
            BaseBackupEvent::Progress(_) | BaseBackupEvent::NewManifest | BaseBackupEvent::Manifest(_) => {}
        }
        sink.check()?;
        if receiver.is_some_and(RunningReceiver::has_failed) {
            return Err(Error::new(ErrorKind::Connect, "the WAL stream ended before the backup did")
                .hint("look at the server's log, then take the backup again"));
        }
    }
    if in_archive {
        cutter.end_archive()?;
    }
    cutter.flush(&mut take)?;
    Ok((label, map))
}

fn take_parent(parent: Option<&ParentFiles>, path: &str) -> Result<Option<ParentFile>> {
    match parent {
        Some(parent) => parent.take(path),
        None => Ok(None),
    }
}

/// A file that is at hand, as work.
fn whole_file(path: &str, parent: Option<ParentFile>, bytes: Vec<u8>, mode: u32, modified: i64) -> Work {
    let size = bytes.len() as u64;
    let file = Arc::new(SourceFile {
        number: u64::MAX,
        path: path.to_owned(),
        mode,
        modified,
        size,
        relation: None,
        parent,
        file: None,
        stretches: 1,
        read_end: AtomicU64::new(0),
    });
    let length = bytes.len();
    Work {
        padded_bytes: length,
        stretches: vec![Stretch { file, offset: 0, length, bytes: Some(bytes), skipped: 0 }],
    }
}

/// Runs a call that may wait for minutes on the server, and ends it there when the user asks to stop.
fn interruptible<T>(handle: CancelHandle, cancel: &Cancel, call: impl FnOnce() -> Result<T>) -> Result<T> {
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
