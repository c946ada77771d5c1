//! The copy of a streamed backup: BASE_BACKUP over a replication session, cut into work as it comes.
//!
//! A server of 17 or later that keeps summaries of its WAL may send only what changed since the parent; see
//! [`crate::changed_blocks`]. Where anything about that is not known, it sends everything, and every block is compared.

use pgkeep_format::backup_label::BackupLabel;
use pgkeep_format::timeline_history::TimelineHistory;
use pgkeep_format::{RelationFile, TimelineId};
use pgkeep_repo::BackupWriter;
use pgkeep_wire::{BaseBackup, BaseBackupEvent, BaseBackupOptions, Connection};

use super::copy::{Sink, copy};
use super::parent_files::ParentFiles;
use super::run::{Copied, Run, interruptible};
use super::scattered::Scattered;
use super::server::StoppedBackup;
use super::source_stream::{StreamCutter, StreamItem};
use super::wal_receive::{PreparedReceiver, RunningReceiver};
use super::{ChangesChoice, ChangesFrom, Checkpoint};
use crate::changed_blocks::{LimitBlocks, ParentFile, check_server, comparable, limit_blocks, upload_parent};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Step};
use crate::history::TimelinePath;
use crate::incremental_sample::distrust;

/// What the stream is asked for, and why.
#[derive(Debug)]
struct Asked {
    incremental: bool,
    reason: String,
}

impl Run<'_> {
    /// Copies what the server sends.
    pub(super) fn copy_stream(
        &self,
        session: &mut Connection,
        writer: &mut BackupWriter,
        parent: Option<&ParentFiles>,
        mut prepared: Option<PreparedReceiver>,
        receiver: &mut Option<RunningReceiver>,
    ) -> Result<Copied> {
        self.step(Step::Checkpoint, None);
        let label = self.label_text(writer);
        let asked = self.ask_for(session, parent)?;
        let mut reason = asked.reason;
        if let (true, Some(parent)) = (asked.incremental, parent) {
            let mut connection = self.request.connection.connect_replication()?;
            let directory_mode = directory_mode(&mut connection);
            match self.begin_incremental(session, &mut connection, parent, &label)? {
                Ok((stream, limits)) => {
                    let told =
                        (ChangesFrom::Server, "the server sent what changed since the parent".to_owned());
                    let scattered = Scattered::new(parent, limits, &self.facts);
                    let received = Receiving {
                        directory_mode,
                        parent: Some(parent),
                        scattered: Some(scattered),
                        told: Some(told),
                    };
                    return self.receive(stream, received, writer, &mut prepared, receiver);
                }
                // What was begun ends with its connection.
                Err(why) => reason = everything(why),
            }
        }
        let told = parent.map(|_| (ChangesFrom::Compare, reason));
        let mut connection = self.request.connection.connect_replication()?;
        let directory_mode = directory_mode(&mut connection);
        let stream = self.begin_stream(&mut connection, &label, false)?;
        let receiving = Receiving { directory_mode, parent, scattered: None, told };
        self.receive(stream, receiving, writer, &mut prepared, receiver)
    }

    /// Whether the server may leave out what did not change.
    fn ask_for(&self, session: &mut Connection, parent: Option<&ParentFiles>) -> Result<Asked> {
        let all = |reason: String| Ok(Asked { incremental: false, reason });
        let Some(parent) = parent else { return all(String::new()) };
        match self.request.changes {
            ChangesChoice::Compare => return all("every block was compared, as asked".to_owned()),
            ChangesChoice::Wal => {
                return all(everything("the WAL is followed only where the data directory is read"));
            }
            ChangesChoice::Auto | ChangesChoice::Server => {}
        }
        let header = parent.reader().header();
        if let Err(why) = comparable(header, &self.facts.shape()) {
            return all(everything(why));
        }
        if let Some(why) = distrust(&self.alarms, header) {
            return all(everything(why));
        }
        if header.packs.iter().any(|pack| self.condemned.contains(&(pack.epoch, pack.number))) {
            return all(everything("packs of the parent are about to be removed"));
        }
        let mut replication = self.request.connection.connect_replication()?;
        let timeline = replication.identify_system()?.timeline;
        let path = path_to(&mut replication, timeline)?;
        match check_server(session, header, &path)? {
            Ok(()) => Ok(Asked { incremental: true, reason: String::new() }),
            Err(why) => {
                if self.request.changes == ChangesChoice::Server {
                    self.observer.event(Event::Warning {
                        text: format!("the server cannot say what changed: {why}"),
                        hint: Some("it sends every block instead, which is as good".to_owned()),
                    });
                }
                all(everything(why))
            }
        }
    }

    /// Begins a stream of what changed; the limits say which blocks that are not sent are the parent's.
    fn begin_incremental<'c>(
        &self,
        session: &mut Connection,
        connection: &'c mut Connection,
        parent: &ParentFiles,
        label: &str,
    ) -> Result<Result<(BaseBackup<'c>, LimitBlocks), String>> {
        let header = parent.reader().header();
        let version_directory = self.facts.tablespace_directory();
        let files = parent.all().map(|(path, bytes)| {
            Ok(ParentFile { relation: RelationFile::parse_path(&path, &version_directory), path, bytes })
        });
        upload_parent(connection, header, files)?;
        let timeline = connection.identify_system()?.timeline;
        let path = path_to(connection, timeline)?;
        let stream = match self.begin_stream(connection, label, true) {
            Ok(stream) => stream,
            // A summarizer that is stuck or lost summaries meanwhile: the server says what is missing.
            Err(error) if error.kind != ErrorKind::Interrupted => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        if stream.timeline != timeline {
            return Ok(Err("the server was promoted meanwhile".to_owned()));
        }
        match limit_blocks(session, header, &path, stream.start)? {
            Ok(limits) => Ok(Ok((stream, limits))),
            Err(why) => Ok(Err(why.to_string())),
        }
    }

    fn begin_stream<'c>(
        &self,
        connection: &'c mut Connection,
        label: &str,
        incremental: bool,
    ) -> Result<BaseBackup<'c>> {
        let options = BaseBackupOptions {
            label: label.to_owned(),
            fast: self.request.checkpoint == Checkpoint::Fast,
            progress: true,
            tablespace_map: true,
            max_rate_kib: None,
            // We check pages ourselves: the server would end the backup at the first bad ones.
            verify_checksums: false,
            wal: false,
            incremental,
            ..BaseBackupOptions::default()
        };
        let handle = connection.cancel_handle();
        interruptible(handle, self.cancel, || Ok(connection.base_backup(&options)?))
    }

    /// Stores what comes.
    fn receive(
        &self,
        mut stream: BaseBackup<'_>,
        mut receiving: Receiving<'_>,
        writer: &mut BackupWriter,
        prepared: &mut Option<PreparedReceiver>,
        receiver: &mut Option<RunningReceiver>,
    ) -> Result<Copied> {
        self.observer.event(Event::StepFinished { step: Step::Checkpoint });
        if let Some((_, reason)) = &receiving.told {
            self.observer.event(Event::Note { text: format!("changes: {reason}") });
        }
        let (start, timeline) = (stream.start, stream.timeline);
        if let Some(mut prepared) = prepared.take() {
            self.keep_history(&mut prepared, timeline)?;
            *receiver = Some(self.start_receiver(prepared, start, timeline)?);
        }
        let total: Option<u64> =
            stream.tablespaces.iter().map(|space| space.size_kib.map(|kib| kib * 1024)).sum();
        self.step(Step::Copy, total);
        let mut collector = self.collector(writer);
        let mut texts = Texts::default();
        let Receiving { parent, scattered, .. } = &mut receiving;
        let mut cutter = StreamCutter::new(self.facts.tablespace_directory(), self.facts.block_size, *parent);
        if scattered.is_some() {
            cutter = cutter.expecting_incremental(self.facts.relation_segment_blocks);
        }
        let running = receiver.as_ref();
        copy(self.workers(start), &mut collector, self.observer, self.cancel, |sink| {
            texts = cut_stream(&mut stream, cutter, scattered.as_mut(), sink, running)?;
            Ok(())
        })?;
        collector.drop_files(&parent.map(ParentFiles::left).unwrap_or_default())?;
        let mut collected = collector.finish()?;
        for (path, blocks) in scattered.iter().flat_map(Scattered::unseen_bad_pages) {
            collected.add_bad(path, blocks);
        }
        self.observer.event(Event::StepFinished { step: Step::Copy });
        let (stop, _) = stream.finish()?;
        let stopped = StoppedBackup {
            stop,
            label: whole_label(texts.label)?,
            tablespace_map: texts.tablespace_map.unwrap_or_default(),
        };
        let directory_mode = receiving.directory_mode;
        Ok(Copied { collected, start, stopped, vanished: 0, directory_mode, changes: receiving.told })
    }
}

/// The server's word for the mode of its data directory, which the stream does not carry.
fn directory_mode(connection: &mut Connection) -> u32 {
    let mode = connection.show("data_directory_mode").ok();
    mode.and_then(|text| u32::from_str_radix(&text, 8).ok()).unwrap_or(0o700)
}

/// What a stream is put together with.
struct Receiving<'a> {
    /// Permission bits of the data directory.
    directory_mode: u32,
    parent: Option<&'a ParentFiles>,
    /// Where files may come in part.
    scattered: Option<Scattered<'a>>,
    /// How it was found what changed, and why in that way.
    told: Option<(ChangesFrom, String)>,
}

/// The two files that become part of the manifest.
#[derive(Debug, Default)]
struct Texts {
    label: Option<String>,
    tablespace_map: Option<String>,
}

fn everything(why: impl std::fmt::Display) -> String {
    format!("the server sent every block, and each was compared: {why}")
}

/// The way to the server's timeline.
fn path_to(replication: &mut Connection, timeline: TimelineId) -> Result<TimelinePath> {
    let Some((_, bytes)) = (timeline != TimelineId::FIRST)
        .then(|| replication.timeline_history(timeline))
        .transpose()?
        .flatten()
    else {
        return Ok(TimelinePath::of_root(timeline));
    };
    let history = TimelineHistory::parse(timeline, &bytes).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("the history of timeline {timeline} cannot be read"))
            .caused_by(&error)
            .hint("look at the `.history` files in the server's pg_wal")
    })?;
    Ok(TimelinePath::of_history(&history))
}

/// The label without what a server writes into that of an incremental backup: ours is whole, and a server refuses to start
/// with those lines.
fn whole_label(label: Option<String>) -> Result<String> {
    let text = label.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the server sent a base backup without a backup_label")
            .hint("take the backup again; if it stays, report this")
    })?;
    match BackupLabel::parse(&text) {
        Ok(mut parsed) if parsed.incremental_from.is_some() => {
            parsed.incremental_from = None;
            Ok(parsed.to_string())
        }
        // One that cannot be read is told of where it is needed.
        _ => Ok(text),
    }
}

/// Feeds the whole stream to the workers; answers the label and the tablespace map.
fn cut_stream(
    stream: &mut BaseBackup<'_>,
    mut cutter: StreamCutter<'_>,
    mut scattered: Option<&mut Scattered<'_>>,
    sink: &Sink<'_>,
    receiver: Option<&RunningReceiver>,
) -> Result<Texts> {
    let mut texts = Texts::default();
    let mut take = |item| match item {
        StreamItem::Work(work) => sink.work(work),
        StreamItem::Directory { path, mode } => sink.directory(path, mode),
        StreamItem::Label(text) => {
            texts.label = Some(text);
            Ok(())
        }
        StreamItem::TablespaceMap(text) => {
            texts.tablespace_map = Some(text);
            Ok(())
        }
        StreamItem::Scattered(blocks) => match &mut scattered {
            Some(scattered) => scattered.take(blocks, &mut |work| sink.work(work)),
            // The cutter gives these only where it was told to expect them.
            None => Err(Error::new(
                ErrorKind::Internal,
                format!("a part of `{}` was not asked for", blocks.file.path),
            )
            .hint("this is a defect of pgkeep: report it")),
        },
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
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::whole_label;

    #[test]
    fn a_label_says_nothing_of_what_the_server_built_upon() {
        let plain = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n\
                     CHECKPOINT LOCATION: 0/6000080\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
                     START TIME: 2026-11-22 07:34:51 UTC\nLABEL: x\nSTART TIMELINE: 1\n";
        let incremental = format!("{plain}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(whole_label(Some(incremental)).unwrap(), plain);
        assert_eq!(whole_label(Some(plain.to_owned())).unwrap(), plain);
        assert!(whole_label(None).is_err());
    }
}
