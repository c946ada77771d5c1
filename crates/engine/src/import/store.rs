//! The files of a source into the repository: read once, proved by the manifest while they pass, checked, cut and compressed
//! as those of a streamed backup.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_format::exclude::{Disposition, classify_entry};
use pgkeep_format::tar::{TarEntry, TarEntryKind, TarEvent};
use pgkeep_format::{SegmentNumber, WalFileName, WalSegmentName};
use pgkeep_repo::{
    BackupWriter, BadPagesOfFile, BlockEncoder, LeaseInfo, Leftovers, ManifestHeader, WalNeeded,
};

use super::proof::Proof;
use super::source::{Part, Piece};
use super::{Checked, ImportReport, ImportRequest};
use crate::backup::basis::{self, Basis};
use crate::backup::collector::Collected;
use crate::backup::copy::{Sink, copy};
use crate::backup::parent_files::ParentFiles;
use crate::backup::server::{ServerFacts, Tablespace};
use crate::backup::source_stream::{StreamCutter, StreamItem};
use crate::backup::worker::{PageRule, Worker};
use crate::backup::{collector::Collector, damage_of, headers_of, host_name, reuse, written_by};
use crate::error::{ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::incremental_sample::alarms;
use crate::restore::from_postgres;
use crate::wal::wal_tail_object;

/// What works together while the files pass.
struct Storing<'a> {
    checked: &'a Checked<'a>,
    request: &'a ImportRequest,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    cluster: ServerFacts,
    basis: Basis,
    left: Option<Arc<Leftovers>>,
    condemned: BTreeSet<(u32, u32)>,
}

/// Stores the backup.
pub fn store(
    mut checked: Checked<'_>,
    request: &ImportRequest,
    observer: &dyn Observer,
    cancel: &Cancel,
) -> Result<ImportReport> {
    let manifest = checked.manifest.take();
    let proved_by_manifest = checked.is_proved;
    let mut proof = Proof::new(manifest);
    let cluster = cluster_facts(&checked);
    let headers = headers_of(&checked.stanza, &checked.record)?;
    let basis =
        basis::choose(request.kind, &headers, &damage_of(&checked.stanza, &headers, observer)?, &cluster);
    if request.dry_run {
        return Ok(report(&checked, &basis, proved_by_manifest, None, &Collected::default()));
    }
    let lease = LeaseInfo {
        verb: "import".to_owned(),
        host: host_name(),
        pid: std::process::id(),
        program: written_by(),
    };
    let mut writer = checked.stanza.begin_backup(Timestamp::now(), lease)?;
    let condemned = checked.stanza.condemned_packs(writer.id())?;
    let storing = Storing {
        condemned: condemned.iter().map(|pack| (pack.backup.epoch(), pack.number)).collect(),
        left: reuse::leftovers(&checked.stanza, &checked.record, Some(writer.id()), observer),
        checked: &checked,
        request,
        observer,
        cancel,
        cluster,
        basis,
    };
    match storing.fill(&mut writer, &mut proof) {
        Ok((header, collected)) => {
            observer.event(Event::StepStarted { step: Step::Commit, total_bytes: None });
            let header = writer.commit(header)?;
            observer.event(Event::StepFinished { step: Step::Commit });
            Ok(report(&checked, &storing.basis, proved_by_manifest, Some(&header), &collected))
        }
        // What is wrong with the source will be wrong again; an interrupted import can be gone on with.
        Err(error) if error.kind == ErrorKind::Interrupted => {
            let has_left = writer.leave();
            Err(if has_left {
                error.hint("the next import or backup goes on with what this one stored")
            } else {
                error
            })
        }
        Err(error) => {
            writer.abandon();
            Err(error)
        }
    }
}

impl Storing<'_> {
    fn fill(&self, writer: &mut BackupWriter, proof: &mut Proof) -> Result<(ManifestHeader, Collected)> {
        let answered_alarms = alarms(&self.checked.stanza)?;
        let parent = match self.basis.parent {
            Some(id) => {
                let reader = self.checked.stanza.backup(id)?;
                writer.build_on(&reader, &self.condemned)?;
                Some(ParentFiles::read(&reader)?)
            }
            None => None,
        };
        if let Some((segment, bytes)) = &self.checked.tail {
            writer.put_wal_tail(&wal_tail_object(
                &self.checked.record,
                *segment,
                bytes,
                self.request.compression,
            )?)?;
        }
        let total_bytes = proof.total_bytes().or_else(|| self.checked.source.size_bytes());
        self.observer.event(Event::StepStarted { step: Step::Copy, total_bytes });
        let zero = self.checked.stanza.repository().digest_key().zero_block(self.cluster.block_size);
        let mut collector = Collector::new(writer, self.cluster.block_size, zero);
        copy(self.workers(), &mut collector, self.observer, self.cancel, |sink| {
            self.read(parent.as_ref(), proof, sink)?;
            proof.finish()
        })?;
        collector.drop_files(&parent.as_ref().map(ParentFiles::left).unwrap_or_default())?;
        let mut collected = collector.finish()?;
        self.observer.event(Event::StepFinished { step: Step::Copy });
        collected.judge_excused(self.checked.stop);
        for bad in &collected.bad_pages {
            self.observer.event(Event::Warning {
                text: format!("`{}` has {} pages with wrong checksums", bad.path, bad.total),
                hint: Some("the backup came with them; they are kept as they are".to_owned()),
            });
        }
        let header = self.header(&collected, answered_alarms)?;
        Ok((header, collected))
    }

    fn workers(&self) -> Vec<Worker> {
        let rule = PageRule {
            block_size: self.cluster.block_size as usize,
            checksums: self.cluster.checksums,
            start: self.checked.facts.label.start_lsn,
            relation_segment_blocks: self.cluster.relation_segment_blocks,
        };
        let rewrite = Arc::new(self.condemned.clone());
        let worker = |_| {
            let key = self.checked.stanza.repository().digest_key().clone();
            let encoder = BlockEncoder::new(self.request.compression, key, self.cluster.block_size);
            Worker::new(encoder, rule, Arc::clone(&rewrite)).reusing(self.left.clone())
        };
        (0..self.request.jobs.max(1)).map(worker).collect()
    }

    /// Reads the whole source.
    fn read(&self, parent: Option<&ParentFiles>, proof: &mut Proof, sink: &Sink<'_>) -> Result<()> {
        let version_directory = self.cluster.tablespace_directory();
        let mut cutter = StreamCutter::new(version_directory, self.cluster.block_size, parent);
        let mut take = |item| match item {
            StreamItem::Work(work) => sink.work(work),
            StreamItem::Directory { path, mode } => sink.directory(path, mode),
            // The label and the map never get here, and parts of files are not asked for.
            StreamItem::Label(_) | StreamItem::TablespaceMap(_) | StreamItem::Scattered(_) => Ok(()),
        };
        let proved = self.checked.is_proved;
        let is_wanted = |entry: &TarEntry| self.is_wanted(entry, proved);
        let mut is_text = false;
        self.checked.source.read(Part::All, &is_wanted, self.cancel, &mut |piece| {
            match piece {
                Piece::Entry(entry) => {
                    proof.begin(entry)?;
                    // These become part of our own manifest.
                    is_text = matches!(entry.path.as_slice(), b"backup_label" | b"tablespace_map");
                    if is_text { Ok(()) } else { cutter.event(TarEvent::Entry(entry.clone()), &mut take) }
                }
                Piece::Data(data) => {
                    proof.bytes(data);
                    if is_text { Ok(()) } else { cutter.event(TarEvent::Data(data), &mut take) }
                }
                Piece::End => {
                    proof.end()?;
                    if is_text { Ok(()) } else { cutter.event(TarEvent::EndOfEntry, &mut take) }
                }
            }
        })?;
        cutter.flush(&mut take)
    }

    /// WAL is in the archive, and the manifest does not list it. Without a manifest, what a server's own backup leaves out is
    /// left out here.
    fn is_wanted(&self, entry: &TarEntry, proved: bool) -> bool {
        let is_directory = entry.kind == TarEntryKind::Directory;
        if entry.kind == TarEntryKind::Symlink {
            return false;
        }
        let Ok(path) = std::str::from_utf8(&entry.path) else {
            // Refused where it is cut.
            return true;
        };
        if path.starts_with("pg_wal/") && !is_directory {
            return false;
        }
        let is_text = matches!(path, "backup_label" | "tablespace_map");
        let is_root = path.strip_prefix("pg_tblspc/").is_some_and(|rest| !rest.contains('/'));
        if is_root && is_directory {
            return false;
        }
        proved || is_text || classify_entry(path, is_directory, self.cluster.major()) != Disposition::Skip
    }

    fn header(&self, collected: &Collected, answered_alarms: Vec<String>) -> Result<ManifestHeader> {
        let (checked, cluster) = (self.checked, &self.cluster);
        let (first, last) = checked.wal_names();
        let tablespaces: Vec<pgkeep_repo::Tablespace> = cluster
            .tablespaces
            .iter()
            .map(|space| pgkeep_repo::Tablespace { oid: space.oid, path: space.location.clone() })
            .collect();
        let bad_page = |bad: &crate::backup::BadPages| BadPagesOfFile {
            path: bad.path.clone(),
            blocks: bad.blocks.clone(),
        };
        Ok(ManifestHeader {
            record: checked.record.sequence,
            kind: self.basis.kind.into(),
            parent: self.basis.parent,
            source: "import".to_owned(),
            written_by: written_by(),
            host: host_name(),
            system_identifier: cluster.system_identifier,
            server_version_num: cluster.version,
            major: cluster.major(),
            catalog_version: cluster.catalog_version,
            control_version: cluster.control_version,
            block_size: cluster.block_size,
            relation_segment_blocks: cluster.relation_segment_blocks,
            wal_segment_size: u32::from(cluster.wal_segment_size),
            checksums: cluster.checksums,
            from_standby: cluster.standby,
            start_lsn: checked.facts.label.start_lsn,
            stop_lsn: checked.stop,
            timeline: checked.facts.label.start_timeline,
            start_time: checked.facts.started(),
            stop_time: checked.stop_time()?,
            backup_label: checked.facts.label_text.clone(),
            tablespace_map: (!tablespaces.is_empty())
                .then(|| pgkeep_format::tablespace_map::write(&checked.facts.tablespaces)),
            tablespaces,
            compression: self.request.compression.to_string(),
            annotations: self.request.annotations.clone(),
            wal: WalNeeded { mode: pgkeep_repo::WalMode::Include, first, last },
            bad_pages: pgkeep_repo::BadPages {
                total: collected.bad_pages.iter().map(|bad| bad.total).sum(),
                files: collected.bad_pages.iter().map(bad_page).collect(),
            },
            answered_alarms,
            directory_mode: checked.directory_mode(),
            ..ManifestHeader::default()
        })
    }
}

impl Checked<'_> {
    /// The moment from which on the backup can be brought to any time: recovery stops at the first commit after a target, so
    /// no commit in the WAL of the backup may lie after it. That is exact, and does not depend on the times of files, which
    /// copying changes.
    fn stop_time(&self) -> Result<Timestamp> {
        let size = self.archive.segment_size();
        let mut latest = self.facts.started();
        let (first, last) = (size.segment_at(self.facts.label.start_lsn), size.segment_before(self.stop));
        for number in first.0..=last.0 {
            for timeline in [self.stop_timeline, self.facts.label.start_timeline] {
                let name = WalSegmentName { timeline, number: SegmentNumber(number) };
                let facts = match &self.tail {
                    Some((segment, bytes)) if *segment == name => Some(
                        wal_tail_object(&self.record, name, bytes, pgkeep_repo::Compression::None)?.facts,
                    ),
                    _ => self.archive.header(WalFileName::Segment(name))?.map(|header| header.facts),
                };
                let commit = facts.and_then(|facts| facts.last_commit_time);
                latest = latest.max(commit.and_then(from_postgres).unwrap_or(latest));
            }
        }
        Ok(latest)
    }

    fn directory_mode(&self) -> u32 {
        let by_files = if self.facts.group_access { 0o750 } else { 0o700 };
        self.source.directory_mode().map_or(by_files, |mode| mode & 0o750 | 0o700)
    }
}

/// What is known of the cluster, as of a server that is backed up.
fn cluster_facts(checked: &Checked<'_>) -> ServerFacts {
    let (facts, control) = (&checked.facts, &checked.facts.control);
    ServerFacts {
        system_identifier: control.system_identifier,
        // The minor version is nowhere in a backup; none is the most careful assumption.
        version: facts.major * 10_000,
        catalog_version: control.catalog_version,
        control_version: control.control_version,
        block_size: control.block_size,
        relation_segment_blocks: control.relation_segment_blocks,
        wal_segment_size: control.wal_segment_size,
        checksums: control.checksum_version == 1,
        standby: facts.label.from_standby,
        wal_level: String::new(),
        archive_mode: String::new(),
        archive_command: None,
        data_directory: None,
        config_files: Vec::new(),
        started: 0,
        port: 0,
        time_zone: String::new(),
        tablespaces: facts
            .tablespaces
            .iter()
            .map(|(oid, location)| Tablespace { oid: *oid, location: location.clone() })
            .collect(),
    }
}

fn report(
    checked: &Checked<'_>,
    basis: &Basis,
    proved_by_manifest: bool,
    header: Option<&ManifestHeader>,
    collected: &Collected,
) -> ImportReport {
    let facts = &checked.facts;
    ImportReport {
        id: header.map(|header| header.id.to_string()),
        source: checked.source.describe(),
        proved_by_manifest,
        kind: basis.kind,
        parent: basis.parent.map(|parent| parent.to_string()),
        system_identifier: facts.control.system_identifier,
        major: facts.major,
        started: facts.started().to_string(),
        start_lsn: facts.label.start_lsn,
        stop_lsn: Some(checked.stop),
        timeline: facts.label.start_timeline,
        files: header.map_or(0, |header| header.totals.files),
        size_bytes: header.map_or(0, |header| header.totals.size_bytes),
        new_bytes: collected.new_bytes,
        stored_bytes: header.map_or(0, |header| header.totals.stored_bytes),
        checksums_verified: header.is_some_and(|header| header.checksums),
        bad_pages: header.map(crate::list::bad_pages_of).unwrap_or_default(),
        wal: checked.wal.clone(),
    }
}
