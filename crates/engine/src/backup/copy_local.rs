//! The copy of a local backup: the data directory is walked, read by the workers, and framed by two calls over SQL.
//!
//! Where the WAL since the parent is complete, only the blocks that it names are read; see [`crate::changed_blocks`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use pgkeep_format::Lsn;
use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_format::relation::RelationFile;
use pgkeep_repo::BackupWriter;
use pgkeep_wire::Connection;

use super::collector::Collected;
use super::copy::{Sink, copy};
use super::parent_files::{ParentFile, ParentFiles};
use super::reading::Reading;
use super::run::{Copied, Run, interruptible};
use super::wal_receive::{PreparedReceiver, RunningReceiver};
use super::walk::{Walk, walk};
use super::work::{Bundler, SourceFile, Stretch, Work};
use super::{ChangesChoice, ChangesFrom, server, source_local};
use crate::changed_blocks::{ChangedBlocks, WalRequest, comparable, from_wal};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Step};
use crate::incremental_sample::distrust;

/// Stretches of a local source that are compared are gathered up to this many bytes: what is left of them shares frames.
const COMPARED_BYTES: usize = 16 << 20;

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

impl Run<'_> {
    /// Copies the data directory.
    pub(super) fn copy_local(
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
        let changes = found.changes.as_ref();
        let (collected, vanished) =
            self.copy_directory(writer, directory, parent, changes, start, receiver.as_ref())?;
        let stopped = server::stop(session)?;
        let directory_mode = source_local::directory_mode(directory)?;
        let changes = found.told();
        Ok(Copied { collected, start, stopped, vanished, directory_mode, changes })
    }

    /// Copies what is in the data directory; answers how many files went away meanwhile. Blocks of which `changes` proves that
    /// they are the parent's are not read.
    pub(super) fn copy_directory(
        &self,
        writer: &mut BackupWriter,
        directory: &Path,
        parent: Option<&ParentFiles>,
        changes: Option<&ChangedBlocks>,
        start: Lsn,
        receiver: Option<&RunningReceiver>,
    ) -> Result<(Collected, u64)> {
        let reading = changes.map(|changes| Reading {
            changes,
            rewrite: &self.rewrite,
            block_size: self.facts.block_size,
        });
        let walk = walk(directory, &self.facts)?;
        for special in &walk.special {
            self.observer.event(Event::Warning {
                text: format!("`{special}` is neither a file nor a directory and is left out"),
                hint: None,
            });
        }
        self.step(Step::Copy, Some(walk.size_bytes));
        let vanished = AtomicU64::new(walk.vanished);
        let mut collector = self.collector(writer);
        copy(self.workers(start), &mut collector, self.observer, self.cancel, |sink| {
            self.hand_out((directory, &walk), parent, reading.as_ref(), sink, receiver, &vanished)
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
        Ok((collected, vanished.into_inner()))
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
        let answer = match (comparable(header, &shape), distrust(&self.alarms, header)) {
            (Err(reason), _) => Err(reason.to_string()),
            (Ok(()), Some(reason)) => Err(reason),
            (Ok(()), None) => from_wal(&WalRequest {
                archive: &self.archive,
                local_wal: Some(&pg_wal),
                parent: header,
                start,
                timeline,
                cancel: self.cancel,
            })?
            .map_err(|reason| reason.to_string()),
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
        (directory, walk): (&Path, &Walk),
        parent: Option<&ParentFiles>,
        reading: Option<&Reading<'_>>,
        sink: &Sink<'_>,
        receiver: Option<&RunningReceiver>,
        vanished: &AtomicU64,
    ) -> Result<()> {
        let version_directory = self.facts.tablespace_directory();
        let mut bundler = Bundler::new(self.facts.block_size, COMPARED_BYTES);
        for (number, entry) in walk.entries().enumerate() {
            if receiver.is_some_and(RunningReceiver::has_failed) {
                return Err(Error::new(ErrorKind::Connect, "the WAL stream ended before the backup did")
                    .hint("look at the server's log, then take the backup again"));
            }
            if entry.is_directory {
                sink.directory(entry.path, entry.mode)?;
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
                directory,
                &entry,
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
        stretches: AtomicU64::new(1),
        read_end: AtomicU64::new(0),
    });
    let length = bytes.len();
    Work {
        padded_bytes: length,
        stretches: vec![Stretch { file, offset: 0, length, bytes: Some(bytes), skipped: 0 }],
    }
}
