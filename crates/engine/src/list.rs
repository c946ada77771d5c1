//! `list` and `show`: what a stanza holds, and what can be recovered from it.
//!
//! Reads the headers of manifests, the names of archived WAL, history files, and a few headers of segments; no data.
//! A backup that cannot be read, or whose WAL is missing, is listed with the reason: it must not be taken for one
//! that never was. `show` reads the whole manifest of its backup, so that damage in the list of files is noticed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgkeep_format::{Lsn, TimelineId, WalFileName, WalSegmentName};
use pgkeep_repo::{
    BackupId, BackupKind, BackupListing, ClusterRecord, DumpHeader, DumpListing, Hold, ManifestHeader,
    RepoError, Stanza, WalArchive, WalMode as StoredWalMode, WalRange,
};

use crate::archive_index::ArchiveIndex;
use crate::backup::{BadPages, SourceKind, WalMode};
use crate::drill::{LastDrill, last_drill};
use crate::recovery_window::{BackupExtent, RecoveryWindow, is_expired, is_harmful, missing_for, windows};
use crate::verify::{BackupVerification, Damage, Memory};
use crate::wal::push::newest_record;
use crate::wal::store::header_of;
use crate::{Error, ErrorKind, Location, Result};

/// How many segments are looked at, backwards from the end of a window, for the last one with a commit. Each look is one
/// short read; an idle server writes some 300 segments a day with `archive_timeout = 5min`.
const SEGMENTS_SEARCHED_FOR_COMMIT: usize = 300;

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin.
const POSTGRES_EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// One backup, as listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct BackupSummary {
    /// Its name.
    pub id: String,
    /// `full`, `diff` or `incr`; `unknown` where the manifest cannot be read.
    #[serde(rename = "type")]
    pub kind: String,
    /// RFC 3339 UTC.
    pub started: String,
    /// RFC 3339 UTC.
    pub finished: String,
    /// Where replay starts.
    pub start_lsn: Lsn,
    /// Where it becomes consistent.
    pub stop_lsn: Lsn,
    /// The timeline at its end.
    pub timeline: TimelineId,
    /// Bytes of the cluster.
    pub size_bytes: u64,
    /// Bytes that it added to the repository.
    pub stored_bytes: u64,
    /// Bytes of the packs that no other backup needs: what removing it would free.
    pub unique_bytes: u64,
    /// Whether it is held.
    pub held: bool,
    /// Whether it can be restored: all of its WAL is there, its manifest is sound, and no damage is known.
    pub restorable: bool,
    /// Why not.
    pub problem: Option<String>,
    /// What `verify` found; none where it never looked.
    pub verified: Option<BackupVerification>,
}

/// One dump, as listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DumpSummary {
    /// Its name.
    pub id: String,
    /// RFC 3339 UTC.
    pub started: String,
    /// RFC 3339 UTC.
    pub finished: String,
    /// Its databases.
    pub databases: Vec<String>,
    /// Whether it has what belongs to no database.
    pub globals: bool,
    /// `server_version_num` of the server.
    pub server_version: u32,
    /// Entries with rows.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of its archives, uncompressed.
    pub size_bytes: u64,
    /// Bytes that it takes in the repository.
    pub stored_bytes: u64,
    /// What was asked beside the databases.
    pub options: Vec<String>,
    /// The user's notes.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is held.
    pub held: bool,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

fn dump_summary(listing: DumpListing, held: &BTreeMap<BackupId, Hold>) -> DumpSummary {
    let (header, problem) = match listing.header {
        Ok(header) => (header, None),
        Err(error) => {
            let started = listing.id.started();
            let header = DumpHeader { started, finished: started, ..DumpHeader::default() };
            (header, Some(error.to_string()))
        }
    };
    DumpSummary {
        id: listing.id.to_string(),
        started: header.started.to_string(),
        finished: header.finished.to_string(),
        databases: header.databases().map(str::to_owned).collect(),
        globals: header.has_globals(),
        server_version: header.server_version_num,
        tables: header.tables(),
        rows: header.rows(),
        size_bytes: header.size_bytes(),
        stored_bytes: header.stored_bytes,
        options: header.options,
        annotations: header.annotations,
        held: held.contains_key(&listing.id),
        problem,
    }
}

/// A stretch of time and WAL in which every moment can be recovered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Window {
    /// The backup that it starts with.
    pub backup: String,
    /// The timeline at its end.
    pub timeline: TimelineId,
    /// The first position that can be a target: the backup's stop.
    pub from_lsn: Lsn,
    /// The last one.
    pub to_lsn: Lsn,
    /// The first moment (RFC 3339 UTC): when the backup was finished.
    pub from_time: String,
    /// The time of the last commit in it, where there is one (RFC 3339 UTC).
    pub to_time: Option<String>,
}

/// WAL that is missing between two stretches that are there.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Gap {
    /// On which timeline.
    pub timeline: TimelineId,
    /// The first segment that is missing.
    pub first_missing: String,
    /// The last segment that is missing.
    pub last_missing: String,
    /// How many.
    pub segments: u64,
    /// From where.
    pub from_lsn: Lsn,
    /// To where.
    pub to_lsn: Lsn,
    /// Whether a backup or window needs it (as opposed to lying before the first backup).
    pub harmful: bool,
    /// Whether `expire` removed it: its absence is meant.
    pub expired: bool,
}

/// What a stanza holds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ListReport {
    /// The stanza.
    pub stanza: String,
    /// The cluster, newest record.
    #[serde(serialize_with = "crate::json::as_text")]
    pub system_identifier: u64,
    /// Oldest first.
    pub backups: Vec<BackupSummary>,
    /// Dumps, oldest first.
    pub dumps: Vec<DumpSummary>,
    /// Oldest first.
    pub windows: Vec<Window>,
    /// By timeline and position.
    pub gaps: Vec<Gap>,
    /// What `verify` found and did not prove to be good since.
    pub damage: Vec<Damage>,
    /// Reports of `verify` that cannot be read: what they knew is not shown.
    pub warnings: Vec<String>,
}

/// Everything that is known of one backup.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ShowReport {
    /// The line of `list`.
    #[serde(flatten)]
    pub summary: BackupSummary,
    /// The stanza.
    pub stanza: String,
    /// The cluster.
    #[serde(serialize_with = "crate::json::as_text")]
    pub system_identifier: u64,
    /// `server_version_num`.
    pub server_version: u32,
    /// Where its bytes came from.
    pub source: SourceKind,
    /// Where its WAL came from.
    pub wal: WalMode,
    /// Whether a standby was copied.
    pub from_standby: bool,
    /// First and last segment that it needs.
    pub wal_first: String,
    /// See `wal_first`.
    pub wal_last: String,
    /// Segments of these that are missing.
    pub wal_missing: Vec<String>,
    /// Files.
    pub files: u64,
    /// Whether page checksums were verified.
    pub checksums_verified: bool,
    /// Pages whose checksum was wrong.
    pub bad_pages: Vec<BadPages>,
    /// Tablespaces: OID and place on the source.
    pub tablespaces: Vec<(u32, String)>,
    /// Configuration files outside the data directory that are kept with it.
    pub external_config: Vec<String>,
    /// The user's notes.
    pub annotations: BTreeMap<String, String>,
    /// Codec and level.
    pub compression: String,
    /// The last drill with it; none where the newest drills were of other backups.
    pub drill: Option<LastDrill>,
}

/// Lists a stanza.
pub fn list(location: &Location) -> Result<ListReport> {
    let doing = format!("cannot list `{}` in `{}`", location.stanza, location.repository);
    let stanza = location.open_stanza().map_err(|error| error.while_doing(doing.clone()))?;
    list_stanza(&stanza).map_err(|error| error.while_doing(doing))
}

/// Lists a stanza that is open.
pub(crate) fn list_stanza(stanza: &Stanza) -> Result<ListReport> {
    let listings = stanza.backups()?;
    let memory = Memory::load(stanza)?;
    let mut report = ListReport {
        stanza: stanza.name().to_string(),
        system_identifier: newest_record(stanza)?.system_identifier,
        backups: Vec::new(),
        dumps: Vec::new(),
        windows: Vec::new(),
        gaps: Vec::new(),
        damage: memory.known().damage,
        warnings: memory.known().unreadable_reports,
    };
    let expired = stanza.removed_wal()?;
    for record in stanza.records() {
        let contents = RecordContents::load(stanza, record, &listings)?;
        report.warnings.extend(contents.warnings.iter().cloned());
        let summary = |header| with_verification(contents.summary(header), header, &memory);
        report.backups.extend(contents.headers.iter().map(summary));
        // A segment that is there and damaged is no gap, though nothing can be replayed beyond it.
        report.gaps.extend(contents.gaps(&expired));
        report.windows.extend(contents.without_damage(&memory).windows());
    }
    report.backups.extend(listings.iter().filter_map(unreadable));
    // Ids begin with a number that grows.
    report.backups.sort_by(|a, b| a.id.cmp(&b.id));
    let holds = stanza.holds()?;
    report.dumps = stanza.dumps()?.into_iter().map(|listing| dump_summary(listing, &holds)).collect();
    let shares = Shares::load(stanza, &listings)?;
    report.backups.iter_mut().for_each(|summary| shares.fill(summary));
    Ok(report)
}

/// What each backup has for itself, and which are held. From the lists of packs in the manifests alone.
struct Shares {
    unique_bytes: BTreeMap<String, u64>,
    held: BTreeSet<String>,
}

impl Shares {
    fn load(stanza: &Stanza, listings: &[BackupListing]) -> Result<Shares> {
        let headers =
            || listings.iter().filter_map(|listing| Some((listing.id, listing.header.as_ref().ok()?)));
        let mut users: BTreeMap<(BackupId, u32), u32> = BTreeMap::new();
        for pack in headers().flat_map(|(_, header)| &header.packs) {
            *users.entry((pack.backup, pack.number)).or_default() += 1;
        }
        let unique = |header: &ManifestHeader| {
            let own = header.packs.iter().filter(|pack| users.get(&(pack.backup, pack.number)) == Some(&1));
            own.map(|pack| pack.size).sum()
        };
        Ok(Shares {
            unique_bytes: headers().map(|(id, header)| (id.to_string(), unique(header))).collect(),
            held: stanza.holds()?.keys().map(BackupId::to_string).collect(),
        })
    }

    fn fill(&self, summary: &mut BackupSummary) {
        summary.unique_bytes = self.unique_bytes.get(&summary.id).copied().unwrap_or(0);
        summary.held = self.held.contains(&summary.id);
    }
}

/// Shows one backup; `id` may be any unambiguous beginning, or `latest`.
pub fn show(location: &Location, id: &str) -> Result<ShowReport> {
    let doing = format!("cannot show `{id}` of `{}`", location.stanza);
    show_backup(location, id).map_err(|error| error.while_doing(doing))
}

fn show_backup(location: &Location, id: &str) -> Result<ShowReport> {
    let stanza = location.open_stanza()?;
    let listings = stanza.backups()?;
    let id = choose(listings.iter().map(|listing| listing.id).collect(), id, &location.stanza)?;
    // The whole manifest is read, so that damage in its list of files is noticed here.
    let header = stanza.backup(id)?.header().clone();
    let record =
        stanza.records().iter().find(|record| record.sequence == header.record).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("backup `{}` is of a cluster that the stanza does not know", header.id),
            )
            .hint("restore `history/` of this stanza from a copy of the repository")
        })?;
    let archive = stanza.wal(record);
    let (index, warnings) = ArchiveIndex::load_readable(&archive)?;
    let contents =
        RecordContents { record: record.sequence, archive, index, headers: vec![header.clone()], warnings };
    let memory = Memory::load(&stanza)?;
    let missing = missing_for(&contents.index, &extent(&header, &contents.index));
    let bad_pages = bad_pages_of(&header);
    let mut summary = contents.summary(&header);
    Shares::load(&stanza, &listings)?.fill(&mut summary);
    Ok(ShowReport {
        summary: with_verification(summary, &header, &memory),
        stanza: location.stanza.clone(),
        system_identifier: header.system_identifier,
        server_version: header.server_version_num,
        source: match header.source.as_str() {
            "stream" => SourceKind::Stream,
            "import" => SourceKind::Import,
            _ => SourceKind::Local,
        },
        wal: match header.wal.mode {
            StoredWalMode::Archive => WalMode::Archive,
            StoredWalMode::Include => WalMode::Include,
        },
        from_standby: header.from_standby,
        wal_first: header.wal.first,
        wal_last: header.wal.last,
        wal_missing: missing.iter().map(|name| name.file_name(contents.index.segment_size())).collect(),
        files: header.totals.files,
        checksums_verified: header.checksums,
        bad_pages,
        tablespaces: header
            .tablespaces
            .into_iter()
            .map(|tablespace| (tablespace.oid, tablespace.path))
            .collect(),
        external_config: header.external_files.into_iter().map(|file| file.path).collect(),
        annotations: header.annotations,
        compression: header.compression,
        drill: last_drill(&stanza, id)?,
    })
}

/// The backup that the user means: an id, an unambiguous beginning of one, or `latest`. Those that cannot be read count,
/// so that asking for one of them does not end with another.
pub(crate) fn find_backup(
    stanza: &Stanza,
    headers: &[ManifestHeader],
    unreadable: &[(BackupId, RepoError)],
    id: &str,
) -> Result<BackupId> {
    let ids = headers.iter().map(|header| header.id).chain(unreadable.iter().map(|(id, _)| *id));
    choose(ids.collect(), id, stanza.name().as_str())
}

/// What ids are of, in words.
pub(crate) struct Kind {
    one: &'static str,
    many: &'static str,
    verb: &'static str,
}

/// Backups.
pub(crate) const BACKUPS: Kind = Kind { one: "backup", many: "backups", verb: "backup" };
/// Dumps.
pub(crate) const DUMPS: Kind = Kind { one: "dump", many: "dumps", verb: "dump" };

/// The one of `ids` of backups that the user means.
pub(crate) fn choose(ids: Vec<BackupId>, id: &str, stanza: &str) -> Result<BackupId> {
    choose_among(&BACKUPS, ids, id, stanza)
}

/// The one of `ids` that the user means.
pub(crate) fn choose_among(kind: &Kind, mut ids: Vec<BackupId>, id: &str, stanza: &str) -> Result<BackupId> {
    let Kind { one: noun, many, verb } = kind;
    ids.sort();
    let Some(newest) = ids.last() else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no {noun} in the stanza `{stanza}` yet"),
        )
        .hint(format!("`pgkeep {verb} --stanza {stanza}` takes one")));
    };
    if id == "latest" {
        return Ok(*newest);
    }
    let matching: Vec<BackupId> =
        ids.iter().copied().filter(|known| !id.is_empty() && known.to_string().starts_with(id)).collect();
    match matching[..] {
        [one] => Ok(one),
        [] => {
            let newest_first: Vec<String> =
                ids.iter().rev().take(5).map(|known| format!("`{known}`")).collect();
            Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no {noun} `{id}` in the stanza `{stanza}`"),
            )
            .hint(format!("the newest {many} are {}", newest_first.join(", ")))
            .hint(format!("`pgkeep list --stanza {stanza}` shows all of them")))
        }
        _ => {
            let names: Vec<String> = matching.iter().take(5).map(|known| format!("`{known}`")).collect();
            Err(Error::new(
                ErrorKind::Usage,
                format!("several {many} begin with `{id}`: {}", names.join(", ")),
            )
            .hint("give more of the id, or `latest`"))
        }
    }
}

/// The bad pages that a manifest names.
pub(crate) fn bad_pages_of(header: &ManifestHeader) -> Vec<BadPages> {
    let pages = |file: &pgkeep_repo::BadPagesOfFile| BadPages {
        path: file.path.clone(),
        blocks: file.blocks.clone(),
        total: file.blocks.len() as u64,
    };
    header.bad_pages.files.iter().map(pages).collect()
}

/// A backup whose manifest cannot be read is listed all the same: it must not be mistaken for one that never was.
fn unreadable(listing: &BackupListing) -> Option<BackupSummary> {
    let error = listing.header.as_ref().err()?;
    let started = listing.id.started().to_string();
    Some(BackupSummary {
        id: listing.id.to_string(),
        kind: "unknown".to_owned(),
        started: started.clone(),
        finished: started,
        start_lsn: Lsn::INVALID,
        stop_lsn: Lsn::INVALID,
        timeline: TimelineId::FIRST,
        size_bytes: 0,
        stored_bytes: 0,
        unique_bytes: 0,
        held: false,
        restorable: false,
        verified: None,
        problem: Some(match error {
            RepoError::Corrupt { .. } | RepoError::NewerFormat { .. } => error.to_string(),
            other => format!("the manifest cannot be read: {other}"),
        }),
    })
}

/// What the stanza holds of one cluster.
struct RecordContents {
    record: u32,
    archive: WalArchive,
    index: ArchiveIndex,
    // In the order of their ends.
    headers: Vec<ManifestHeader>,
    // History files that are there and cannot be read.
    warnings: Vec<String>,
}

impl RecordContents {
    fn load(stanza: &Stanza, record: &ClusterRecord, listings: &[BackupListing]) -> Result<RecordContents> {
        let archive = stanza.wal(record);
        let mut headers: Vec<ManifestHeader> = listings
            .iter()
            .filter_map(|listing| listing.header.as_ref().ok())
            .filter(|header| header.record == record.sequence)
            .cloned()
            .collect();
        headers.sort_by_key(|header| (header.stop_time, header.id));
        let (index, warnings) = ArchiveIndex::load_readable(&archive)?;
        Ok(RecordContents { record: record.sequence, index, archive, headers, warnings })
    }

    fn extents(&self) -> Vec<BackupExtent> {
        self.headers.iter().map(|header| extent(header, &self.index)).collect()
    }

    fn summary(&self, header: &ManifestHeader) -> BackupSummary {
        let missing = missing_for(&self.index, &extent(header, &self.index));
        let size = self.index.segment_size();
        let problem = missing.first().map(|first| match missing.len() {
            1 => format!("WAL segment {} is missing", first.file_name(size)),
            count => format!("{count} WAL segments are missing, the first is {}", first.file_name(size)),
        });
        BackupSummary {
            id: header.id.to_string(),
            kind: match header.kind {
                BackupKind::Full => "full",
                BackupKind::Differential => "diff",
                BackupKind::Incremental => "incr",
            }
            .to_owned(),
            started: header.start_time.to_string(),
            finished: header.stop_time.to_string(),
            start_lsn: header.start_lsn,
            stop_lsn: header.stop_lsn,
            timeline: header.timeline,
            size_bytes: header.totals.size_bytes,
            stored_bytes: header.totals.stored_bytes,
            unique_bytes: 0,
            held: false,
            restorable: problem.is_none(),
            problem,
            verified: None,
        }
    }

    /// The same without the backups and segments that are known to be damaged: what can still be recovered.
    fn without_damage(self, memory: &Memory) -> RecordContents {
        let damage = memory.known();
        if damage.damage.is_empty() {
            return self;
        }
        let size = self.index.segment_size();
        let segment_of = |object: &str| {
            let name = WalSegmentName::parse(object.rsplit('/').next()?, size)?;
            (self.archive.key(WalFileName::Segment(name)) == object).then_some(name)
        };
        let fatal = damage.damage.iter().filter(|damage| damage.kind.is_fatal());
        let segments = fatal.filter_map(|damage| segment_of(&damage.object)).collect();
        RecordContents {
            warnings: self.warnings,
            record: self.record,
            index: self.index.without_segments(&segments),
            headers: self
                .headers
                .into_iter()
                .filter(|header| !damage.is_damaged(&header.id.to_string()))
                .collect(),
            archive: self.archive,
        }
    }

    fn windows(&self) -> Vec<Window> {
        windows(&self.index, &self.extents()).into_iter().map(|window| self.window(&window)).collect()
    }

    fn window(&self, window: &RecoveryWindow) -> Window {
        let header = &self.headers[window.backup];
        // The names promise whole segments; the last one may say that its WAL ends earlier.
        let last = window.tail.or(window.last).and_then(|name| header_of(&self.archive, name).ok().flatten());
        let to_lsn = last.map_or(window.to, |last| last.facts.end.min(window.to)).max(window.from);
        Window {
            backup: header.id.to_string(),
            timeline: window.timeline,
            from_lsn: window.from,
            to_lsn,
            from_time: header.stop_time.to_string(),
            to_time: self
                .last_commit(window)
                .filter(|time| *time >= header.stop_time)
                .map(|time| time.to_string()),
        }
    }

    /// The time of the last commit or abort before the end of the window.
    fn last_commit(&self, window: &RecoveryWindow) -> Option<Timestamp> {
        let size = self.index.segment_size();
        let path = self.index.path_to(window.path_to);
        let mut number = window.tail.or(window.last)?.number;
        for _ in 0..SEGMENTS_SEARCHED_FOR_COMMIT {
            if number < size.segment_at(window.from) {
                return None;
            }
            let name: WalSegmentName = self.index.find(number, &path)?;
            // A segment that cannot be read is for `check` to complain about.
            let header = header_of(&self.archive, name).ok()??;
            if let Some(time) = header.facts.last_commit_time {
                return Timestamp::from_microsecond(time.checked_add(POSTGRES_EPOCH_MICROSECONDS)?).ok();
            }
            number.0 = number.0.checked_sub(1)?;
        }
        None
    }

    fn gaps(&self, expired: &[WalRange]) -> Vec<Gap> {
        let size = self.index.segment_size();
        let extents = self.extents();
        self.index
            .gaps()
            .iter()
            .map(|gap| {
                let expired = is_expired(gap, self.record, expired);
                let name = |number| WalSegmentName { timeline: gap.timeline, number }.file_name(size);
                Gap {
                    timeline: gap.timeline,
                    first_missing: name(gap.first),
                    last_missing: name(gap.last),
                    segments: gap.segments(),
                    from_lsn: size.start_of(gap.first),
                    to_lsn: size.end_of(gap.last),
                    harmful: !expired && is_harmful(&self.index, gap, &extents),
                    expired,
                }
            })
            .collect()
    }
}

/// Adds what `verify` knows; damage that it found is a reason not to count on the backup.
fn with_verification(mut summary: BackupSummary, header: &ManifestHeader, memory: &Memory) -> BackupSummary {
    summary.verified = memory.of_backup(header);
    let known = memory.known();
    let places: Vec<&Damage> = known.of_backup(&summary.id).collect();
    if let (None, Some(first)) = (&summary.problem, places.first()) {
        let more = match places.len() {
            1 => String::new(),
            count => format!(", and {} more places", count - 1),
        };
        summary.restorable = false;
        summary.problem = Some(format!("damage was found: `{}`: {}{more}", first.object, first.what));
    }
    summary
}

/// The windows of one cluster when only these backups, in the order of their ends, and these segments count.
pub(crate) fn windows_of(
    archive: &WalArchive,
    index: &ArchiveIndex,
    headers: &[ManifestHeader],
) -> Vec<Window> {
    // The windows do not depend on which record it is.
    let (record, headers) = (headers.first().map_or(0, |header| header.record), headers.to_vec());
    RecordContents { record, archive: archive.clone(), index: index.clone(), headers, warnings: Vec::new() }
        .windows()
}

/// What is needed of a manifest to say what can be recovered from it.
pub(crate) fn extent(header: &ManifestHeader, index: &ArchiveIndex) -> BackupExtent {
    let size = index.segment_size();
    BackupExtent {
        id: header.id.to_string(),
        start: header.start_lsn,
        stop: header.stop_lsn,
        timeline: header.timeline,
        includes_wal: header.wal.mode == StoredWalMode::Include,
        tail: header.wal_tail.iter().find_map(|name| WalSegmentName::parse(name, size)),
    }
}
