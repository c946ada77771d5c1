//! Backs the modelled cluster up with the code of real backups, between the server's answers and the manifest, and compares
//! what the repository gives back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_format::{
    Fork, Lsn, RelationFile, TimelineId, WalFileName, WalSegmentName, differs_only_in_hints,
};
use pgkeep_repo::{
    BackupId, BackupReader, BackupWriter, ClusterRecord, Compression, FileKind, LeaseInfo, ManifestHeader,
    RunTarget, Stanza, WalMode, WalNeeded,
};
use pgkeep_testkit::Scratch;

use super::super::basis::Basis;
use super::super::collector::Collected;
use super::super::copy::copy;
use super::super::parent_files::ParentFiles;
use super::super::plan::{self, BackupPlan};
use super::super::run::Run;
use super::super::scattered::Scattered;
use super::super::source_stream::{StreamCutter, StreamItem};
use super::super::{
    BackupRequest, BackupType, ChangesChoice, Checkpoint, SourceChoice, SourceKind, TypeChoice, WalChoice,
    reuse, rewrite,
};
use super::server;
use super::world::{BLOCK, Log, SEGMENT_BLOCKS, Step, World};
use crate::changed_blocks::{ChangedBlocks, ParentFile, WalRequest, from_wal};
use crate::event::Silent;
use crate::expire::{ExpireChoice, ExpireRequest, expire};
use crate::made_up::{self, SEGMENT_BYTES, SYSTEM, segment_size};
use crate::{Cancel, ConnectionRequest, Location};

/// With the visibility map mended, so that the server sends it in part.
const VERSION: u32 = 180_006;

/// How it is found what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    Compare,
    Wal,
    Server,
}

/// A backup, and what it must give back.
struct Kept {
    id: BackupId,
    world: World,
    /// Whether every page was read: then hints are as they were too.
    is_exact: bool,
}

/// What a backup cost.
pub struct Stored {
    /// Blocks of relations that it did not leave where they were.
    pub new_blocks: u64,
    /// Of these, blocks that were taken over from an interrupted backup.
    pub reused_blocks: u64,
}

/// The cluster, its repository, and what is known of both.
pub struct Keeper {
    scratch: Scratch,
    stanza: Stanza,
    record: ClusterRecord,
    world: World,
    log: Log,
    /// Where the newest segment begins that is not archived yet.
    segment: Lsn,
    kept: Vec<Kept>,
}

impl Keeper {
    pub fn new() -> Keeper {
        let scratch = Scratch::new();
        let stanza = made_up::stanza(scratch.path());
        let record = stanza.records()[0];
        let segment = Lsn(3 * SEGMENT_BYTES);
        let log = Log::from(Lsn(segment.0 + 40));
        Keeper { scratch, stanza, record, world: World::default(), log, segment, kept: Vec::new() }
    }

    pub fn apply(&mut self, step: &Step) {
        self.world.apply(step, &mut self.log);
        assert!(
            self.log.at.0 < self.segment.0 + SEGMENT_BYTES,
            "the model puts no more into one segment than fits"
        );
    }

    /// Takes a backup, upon one of those that are kept. An interrupted one is left before its manifest.
    pub fn backup(&mut self, producer: Producer, parent: Option<u8>, is_interrupted: bool) -> Stored {
        self.archive_segment();
        let start = Lsn(self.segment.0 + 40);
        self.log.at = Lsn(start.0 + 400);
        let parent =
            parent.and_then(|index| Some(self.kept.get(usize::from(index) % self.kept.len().max(1))?.id));
        let (request, cancel) = (self.request(), Cancel::default());
        let mut run = self.run(&request, parent, &cancel);
        let lease =
            LeaseInfo { verb: "backup".into(), host: "model".into(), pid: 1, program: "model".into() };
        let mut writer = self.stanza.begin_backup(Timestamp::now(), lease).unwrap();
        writer.set_pack_bytes(256 << 10);
        let condemned = self.stanza.condemned_packs(writer.id()).unwrap();
        assert!(condemned.is_empty(), "every deletion is finished");
        run.left = reuse::leftovers(&self.stanza, &self.record, Some(writer.id()), &Silent);
        let files = run.open_parent(&mut writer).unwrap();
        let collected = match producer {
            Producer::Compare => self.copy_local(&run, &mut writer, files.as_ref(), None, start),
            Producer::Wal => {
                let changes = files.as_ref().map(|files| self.changes(files, start));
                self.copy_local(&run, &mut writer, files.as_ref(), changes.as_ref(), start)
            }
            Producer::Server => self.receive(&run, &mut writer, files.as_ref(), start),
        };
        let stored = Stored {
            new_blocks: collected.new_bytes / BLOCK as u64,
            reused_blocks: collected.reused_bytes / BLOCK as u64,
        };
        if is_interrupted {
            writer.leave();
            return stored;
        }
        drop(run);
        self.archive_segment();
        let header = writer.commit(self.header(parent, start)).unwrap();
        let is_exact = parent.is_none() || producer == Producer::Compare;
        self.kept.push(Kept { id: header.id, world: self.world.clone(), is_exact });
        stored
    }

    /// Deletes a backup; all that only it needed is gone from the repository.
    pub fn expire(&mut self, which: u8) {
        let Some(index) = usize::from(which).checked_rem(self.kept.len()) else { return };
        let gone = self.kept.remove(index);
        let request = ExpireRequest {
            location: self.location(),
            choice: ExpireChoice::Backup(gone.id.to_string()),
            dumps: crate::expire::DumpRetention::default(),
            grace_seconds: 0,
            abandoned_after_seconds: 0,
            dry_run: false,
        };
        let report = expire(&request, &Silent, &Cancel::default()).unwrap();
        assert_eq!(report.removed_backups, 1, "{report:?}");
        self.check_all();
    }

    pub fn check_all(&self) {
        let listed: Vec<BackupId> = self.stanza.backups().unwrap().iter().map(|backup| backup.id).collect();
        assert_eq!(listed, self.kept.iter().map(|kept| kept.id).collect::<Vec<_>>());
        self.kept.iter().for_each(|kept| self.check(kept));
    }

    fn check(&self, kept: &Kept) {
        let reader = self.stanza.backup(kept.id).unwrap();
        let mut found = contents(&reader);
        found.remove(CONTROL_FILE_PATH).unwrap();
        found.remove("PG_VERSION").unwrap();
        let expected = kept.world.files();
        assert!(found.keys().eq(expected.keys()), "{}: {:?} {:?}", kept.id, found.keys(), expected.keys());
        for (path, bytes) in &found {
            let expected = &expected[path];
            assert_eq!(bytes.len(), expected.len(), "{}: the length of {path}", kept.id);
            let is_main =
                RelationFile::parse_path(path, "").is_some_and(|relation| relation.fork == Fork::Main);
            for (block, (one, other)) in bytes.chunks(BLOCK).zip(expected.chunks(BLOCK)).enumerate() {
                let is_same = one == other;
                let is_good = is_same || (is_main && !kept.is_exact && differs_only_in_hints(one, other));
                assert!(is_good, "{}: block {block} of {path}", kept.id);
            }
        }
    }

    fn location(&self) -> Location {
        Location { repository: self.scratch.path().join("repo").display().to_string(), stanza: "main".into() }
    }

    fn request(&self) -> BackupRequest {
        BackupRequest {
            location: self.location(),
            connection: ConnectionRequest::default(),
            kind: TypeChoice::Auto,
            changes: ChangesChoice::Auto,
            source: SourceChoice::Auto,
            jobs: 2,
            compression: Compression::Lz4,
            wal: WalChoice::Archive,
            checkpoint: Checkpoint::Fast,
            annotations: BTreeMap::new(),
            archive_timeout_seconds: 1,
            pack_bytes: None,
            dry_run: false,
        }
    }

    fn run<'a>(
        &'a self,
        request: &'a BackupRequest,
        parent: Option<BackupId>,
        cancel: &'a Cancel,
    ) -> Run<'a> {
        let mut facts = plan::tests::facts("on", "");
        facts.system_identifier = SYSTEM;
        facts.version = VERSION;
        facts.relation_segment_blocks = SEGMENT_BLOCKS;
        facts.wal_segment_size = segment_size();
        facts.checksums = false;
        let packs = parent.map(|id| self.stanza.backup(id).unwrap().header().packs.clone());
        let rewrite = Arc::new(rewrite::choose(&packs.unwrap_or_default()).packs);
        let kind = if parent.is_some() { BackupType::Incremental } else { BackupType::Full };
        let plan = BackupPlan {
            basis: Basis { kind, parent, reason: String::new() },
            rewrite: Arc::clone(&rewrite),
            source: SourceKind::Local,
            source_reason: String::new(),
            data_directory: None,
            wal: super::super::WalMode::Archive,
            wal_reason: String::new(),
        };
        Run {
            request,
            stanza: &self.stanza,
            record: &self.record,
            archive: self.stanza.wal(&self.record),
            facts,
            plan,
            rewrite,
            condemned: Default::default(),
            alarms: Vec::new(),
            left: None,
            observer: &Silent,
            cancel,
        }
    }

    /// Ends the segment and archives it, as the start and the end of a backup do.
    fn archive_segment(&mut self) {
        let end = Lsn(self.segment.0 + SEGMENT_BYTES);
        let summary = made_up::summary(TimelineId::FIRST, self.segment, self.log.between(self.segment, end));
        let name = WalFileName::Segment(WalSegmentName::at(TimelineId::FIRST, self.segment, segment_size()));
        let archive = self.stanza.wal(&self.record);
        made_up::put_wal(&archive, name, &summary, b"not read", &summary.encode());
        self.segment = end;
        self.log.at = Lsn(end.0 + 40);
    }

    fn changes(&self, parent: &ParentFiles, start: Lsn) -> ChangedBlocks {
        let archive = self.stanza.wal(&self.record);
        let request = WalRequest {
            archive: &archive,
            local_wal: None,
            parent: parent.reader().header(),
            start,
            timeline: TimelineId::FIRST,
            cancel: &Cancel::default(),
        };
        // WAL is kept from the oldest backup on, and none is missing.
        from_wal(&request).unwrap().unwrap()
    }

    fn copy_local(
        &self,
        run: &Run<'_>,
        writer: &mut BackupWriter,
        parent: Option<&ParentFiles>,
        changes: Option<&ChangedBlocks>,
        start: Lsn,
    ) -> Collected {
        let directory = self.data_directory();
        run.copy_directory(writer, &directory, parent, changes, start, None).unwrap().0
    }

    fn receive(
        &self,
        run: &Run<'_>,
        writer: &mut BackupWriter,
        parent: Option<&ParentFiles>,
        start: Lsn,
    ) -> Collected {
        let since = parent.map(|parent| self.log.between(parent.reader().header().start_lsn, start));
        let listed: Vec<ParentFile> = parent
            .iter()
            .flat_map(|parent| parent.all())
            .map(|(path, bytes)| ParentFile { relation: RelationFile::parse_path(&path, ""), path, bytes })
            .collect();
        let mut files: Vec<(String, Vec<u8>)> = self.world.files().into_iter().collect();
        files.push(("PG_VERSION".into(), b"18\n".to_vec()));
        files.push((CONTROL_FILE_PATH.into(), control_file()));
        let tar = server::stream(&files, since.as_ref().map(|since| (listed.as_slice(), since)), VERSION);
        let mut cutter = StreamCutter::new(run.facts.tablespace_directory(), BLOCK as u32, parent);
        let mut scattered = parent
            .zip(since)
            .map(|(parent, since)| Scattered::new(parent, server::limits(&since), &run.facts));
        if scattered.is_some() {
            cutter = cutter.expecting_incremental(SEGMENT_BLOCKS);
        }
        let mut collector = run.collector(writer);
        copy(run.workers(start), &mut collector, &Silent, run.cancel, |sink| {
            let mut take = |item| match item {
                StreamItem::Work(work) => sink.work(work),
                StreamItem::Directory { path, mode } => sink.directory(path, mode),
                StreamItem::Scattered(blocks) => {
                    scattered.as_mut().unwrap().take(blocks, &mut |work| sink.work(work))
                }
                StreamItem::Label(_) | StreamItem::TablespaceMap(_) => unreachable!("not sent by the model"),
            };
            cutter.begin_archive(None);
            for piece in tar.chunks(10_007) {
                cutter.feed(piece, &mut take)?;
            }
            cutter.end_archive()?;
            cutter.flush(&mut take)
        })
        .unwrap();
        collector.drop_files(&parent.map(ParentFiles::left).unwrap_or_default()).unwrap();
        collector.finish().unwrap()
    }

    /// The cluster's files, as they are now.
    fn data_directory(&self) -> PathBuf {
        let directory = self.scratch.path().join("data");
        drop(fs::remove_dir_all(&directory));
        let put = |path: &str, bytes: &[u8]| {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("PG_VERSION", b"18\n");
        put(CONTROL_FILE_PATH, &control_file());
        self.world.files().iter().for_each(|(path, bytes)| put(path, bytes));
        directory
    }

    fn header(&self, parent: Option<BackupId>, start: Lsn) -> ManifestHeader {
        let name = WalSegmentName::at(TimelineId::FIRST, start, segment_size()).file_name(segment_size());
        ManifestHeader {
            kind: if parent.is_some() { BackupType::Incremental } else { BackupType::Full }.into(),
            parent,
            system_identifier: SYSTEM,
            server_version_num: VERSION,
            major: 18,
            catalog_version: 1,
            control_version: 1800,
            block_size: BLOCK as u32,
            relation_segment_blocks: SEGMENT_BLOCKS,
            wal_segment_size: SEGMENT_BYTES as u32,
            start_lsn: start,
            stop_lsn: Lsn(start.0 + 300),
            start_time: Timestamp::now(),
            stop_time: Timestamp::now(),
            wal: WalNeeded { mode: WalMode::Archive, first: name.clone(), last: name },
            ..ManifestHeader::default()
        }
    }
}

/// Every file of a backup, put together from its block maps and frames.
fn contents(reader: &BackupReader) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in reader.files() {
        let entry = entry.unwrap();
        if !matches!(entry.kind, FileKind::File { .. }) {
            continue;
        }
        let map = reader.map(&entry).unwrap();
        let mut bytes = Vec::new();
        for run in map.runs() {
            assert_eq!(bytes.len(), run.first_block as usize * BLOCK, "runs follow each other");
            let length = run.count as usize * BLOCK;
            match run.target {
                RunTarget::Zero => bytes.resize(bytes.len() + length, 0),
                RunTarget::Frame { frame, position } => {
                    let plain = reader.frames().read(frame).unwrap();
                    let part = &plain[position as usize * BLOCK..];
                    bytes.extend_from_slice(&part[..length.min(part.len())]);
                }
            }
        }
        bytes.truncate(usize::try_from(entry.meta.size).unwrap());
        files.insert(entry.path_text(), bytes);
    }
    files
}

/// A control file that can be read, of 13 to 17; nothing is asked of it here.
fn control_file() -> Vec<u8> {
    const CRC_AT: usize = 288;
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let fields = [
        (8, 1700),
        (16, 6),
        (48, 1),
        (172, 1),
        (216, 8192),
        (220, SEGMENT_BLOCKS),
        (224, 8192),
        (228, 1 << 20),
    ];
    fields.iter().for_each(|(at, value)| put(*at, *value));
    bytes[208..216].copy_from_slice(&1_234_567.0_f64.to_le_bytes());
    let crc = !bytes[..CRC_AT].iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1)))
    });
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}
