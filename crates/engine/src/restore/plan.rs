//! What a restore will do, decided and proved before it does it; printed by `--dry-run`.
//!
//! Reads the repository and looks at the destination, and writes nothing. What it found is all that the writing
//! needs: the backup, the proof for the target, every place, the lines for `postgresql.auto.conf`.

use std::path::Path;

use pgkeep_format::Lsn;
use pgkeep_repo::{BackupId, BackupReader, ManifestHeader, Stanza};

use super::delta::{self, DeltaPlan};
use super::destination::{self, Destination};
use super::layout::Layout;
use super::places::{Place, refuse_entangled};
use super::recovery_settings::{RecoveryOrder, recovery_settings};
use super::target::{self, ReadTarget, Wanted};
use super::target_time::read_target_time;
use super::wal_points::last_record_before;
use super::write::Written;
use super::{RecoveryTarget, RestoreReport, RestoreRequest, TargetProof, TargetTimeline};
use crate::archive_index::ArchiveIndex;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;
use crate::verify::known_damage;

/// Room that recovery itself needs beside the files: WAL that is being replayed, and the first checkpoints.
const SPARE_SEGMENTS: u64 = 4;

/// What will be done.
#[derive(Debug)]
pub struct RestorePlan {
    /// The backup, open.
    pub reader: BackupReader,
    /// Why that one.
    pub backup_reason: String,
    /// Why the target can be reached.
    pub proof: TargetProof,
    /// Where everything goes.
    pub layout: Layout,
    /// The data directory.
    pub destination: Destination,
    /// The tablespaces' directories, in the order of the layout.
    pub tablespaces: Vec<Destination>,
    /// Lines for `postgresql.auto.conf`.
    pub settings: Vec<(String, String)>,
    /// Whether WAL is replayed to its end.
    pub target_is_latest: bool,
    /// What there is to reuse, where that was asked for.
    pub delta: Option<DeltaPlan>,
}

/// Decides and proves.
pub fn plan(request: &RestoreRequest, cancel: &Cancel) -> Result<RestorePlan> {
    plan_below(request, None, cancel)
}

/// Decides and proves; every tablespace goes into a directory named by its OID below `tablespaces`, where that is given.
pub(crate) fn plan_below(
    request: &RestoreRequest,
    tablespaces: Option<&Path>,
    cancel: &Cancel,
) -> Result<RestorePlan> {
    check_request(request)?;
    // Cheap, and the mistake that is made most: said before anything is read.
    let (destination, former) = if request.delta {
        let (destination, former) = delta::former::inspect(&request.destination)?;
        (destination, Some(former))
    } else {
        (destination::inspect(&request.destination)?, None)
    };
    let stanza = request.location.open_stanza()?;
    let mut headers = Vec::new();
    let mut unreadable = Vec::new();
    for listing in stanza.backups()? {
        match listing.header {
            Ok(header) => headers.push(header),
            Err(error) => unreadable.push((listing.id, error)),
        }
    }
    let named = match &request.backup {
        Some(name) => {
            let id = crate::list::find_backup(&stanza, &headers, &unreadable, name)?;
            Some(headers.iter().find(|header| header.id == id).cloned().ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("the manifest of backup `{id}` cannot be read"))
                    .hint("restore another backup: `pgkeep list` shows them")
            })?)
        }
        None => None,
    };
    // WAL of another cluster is another story: only the backups of one record can be compared with a target.
    let record_sequence = named.as_ref().or(headers.last()).map(|header| header.record);
    let Some(record_sequence) = record_sequence else {
        return Err(no_backup(&request.location.stanza, &unreadable));
    };
    headers.retain(|header| header.record == record_sequence);
    let record = stanza.records().iter().find(|record| record.sequence == record_sequence).copied();
    let record = record.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the stanza has no cluster record {record_sequence}"))
            .hint("restore `history/` of this stanza from a copy of the repository")
    })?;
    if let Some(former) = &former {
        former.refuse_other_cluster(&destination.directory, record.system_identifier)?;
    }
    let archive = stanza.wal(&record);
    let index = ArchiveIndex::load(&archive)?;
    let wanted = Wanted {
        target: read_target(request, &headers, named.as_ref())?,
        exclusive: request.exclusive,
        timeline: request.timeline,
        stanza: request.location.stanza.clone(),
    };
    let sound = without_known_damage(&stanza, &headers);
    let mut chosen = match target::choose(&wanted, &sound, named.as_ref(), &index, &archive) {
        Ok(chosen) => chosen,
        // Rather a restore that may fail at the damage than none; it says so where it fails.
        Err(_) if sound.len() < headers.len() => {
            target::choose(&wanted, &headers, named.as_ref(), &index, &archive)?
        }
        Err(error) => return Err(error),
    };
    let spaces = &chosen.header.tablespaces;
    let map = match tablespaces {
        None => request.tablespace_map.clone(),
        Some(below) => {
            spaces.iter().map(|space| (space.oid.to_string(), below.join(space.oid.to_string()))).collect()
        }
    };
    let layout = Layout::new(&destination.directory, spaces, &map)?;
    let version = delta::version_directory(chosen.header);
    let mut tablespaces = Vec::new();
    for space in &layout.tablespaces {
        let place = match &former {
            Some(former) => former.inspect_tablespace(&space.target, &version),
            None => destination::inspect(&space.target),
        };
        tablespaces.push(place.map_err(|error| {
            error.hint(format!(
                "send this tablespace elsewhere: `--tablespace-map {}=/new/place`",
                space.source
            ))
        })?);
    }
    let repository = delta::repository_root(&stanza);
    refuse_entangled(&places(&destination, &layout, &version), repository.as_deref())?;
    match former {
        Some(_) => delta::refuse_used(&destination, &layout, &version)?,
        None => refuse_too_small(chosen.header, &destination, &tablespaces)?,
    }
    let timeline =
        if request.standby { TargetTimeline::Latest } else { TargetTimeline::Number(chosen.timeline) };
    let target_time = match &wanted.target {
        ReadTarget::Time(time) => Some(time.as_setting()),
        _ => None,
    };
    let reader = stanza.backup(chosen.header.id)?;
    let mut told = request.target.clone();
    if request.target == RecoveryTarget::Immediate
        && let Some(last) = last_record_of_tail(&reader, &index)?
    {
        let note = format!("; the server is told to stop after the last record of its WAL, at {last}");
        chosen.proof.description.push_str(&note);
        told = RecoveryTarget::Lsn(last);
    }
    let settings = recovery_settings(&RecoveryOrder {
        restore_command: &request.restore_command,
        target: &told,
        target_time: target_time.as_deref(),
        exclusive: request.exclusive,
        timeline,
        action: request.action,
        standby: request.standby,
        // Older servers do not read ahead, and do not know the setting.
        read_ahead: !(chosen.hole_beyond && chosen.header.major >= 15),
        settings: &request.settings,
    });
    let delta = match former {
        Some(former) => {
            let ground = delta::survey::Ground {
                reader: &reader,
                layout: &layout,
                owner: destination.owner,
                version_directory: &version,
                repository: repository.as_deref().and_then(delta::in_use::identity),
            };
            let destinations: Vec<&Destination> = [&destination].into_iter().chain(&tablespaces).collect();
            let spare = spare_bytes(chosen.header);
            let survey = delta::survey_places(ground, &destinations, spare, cancel)?;
            Some(DeltaPlan { former, survey, version_directory: version })
        }
        None => None,
    };
    Ok(RestorePlan {
        reader,
        backup_reason: chosen.reason,
        proof: chosen.proof,
        layout,
        destination,
        tablespaces,
        settings,
        target_is_latest: request.target.is_latest(),
        delta,
    })
}

/// Where the last record of a backup starts whose last segment it keeps itself, since the archive does not have it.
///
/// The server looks whether it may stop for `immediate` only when it meets another record, and there may be none: it
/// would end with an error. For a position it looks after each record. That WAL is archived meanwhile changes nothing.
fn last_record_of_tail(reader: &BackupReader, index: &ArchiveIndex) -> Result<Option<Lsn>> {
    let header = reader.header();
    let Some((segment, name)) = target::tail_segment(header, index).zip(header.wal_tail.first()) else {
        return Ok(None);
    };
    let mut bytes = reader.wal_tail(name)?.bytes;
    bytes.resize(header.wal_segment_size as usize, 0);
    last_record_before(&bytes, segment, index.segment_size(), header.stop_lsn)
}

/// The directories that will hold nothing but what is restored.
fn places(destination: &Destination, layout: &Layout, version: &str) -> Vec<Place> {
    let mut places =
        vec![Place { what: "the data directory".to_owned(), path: destination.directory.clone() }];
    places.extend(layout.tablespaces.iter().map(|space| {
        let own = space.target.join(version);
        // Where a link is, it will be removed, and a directory made beside the others.
        let is_link = std::fs::symlink_metadata(&own).is_ok_and(|metadata| metadata.is_symlink());
        let path = if is_link { space.target.clone() } else { own };
        Place { what: format!("tablespace {}", space.oid), path }
    }));
    places
}

/// The backups that `verify` does not know to be damaged; where one is named, it is taken whatever is known.
fn without_known_damage(stanza: &Stanza, headers: &[ManifestHeader]) -> Vec<ManifestHeader> {
    // No restore fails for want of reports: damage that nobody told of is met where it is.
    let known = known_damage(stanza).unwrap_or_default();
    headers.iter().filter(|header| !known.is_damaged(&header.id.to_string())).cloned().collect()
}

fn check_request(request: &RestoreRequest) -> Result<()> {
    if request.standby && !request.target.is_latest() {
        return Err(Error::new(ErrorKind::Usage, "a standby has no recovery target")
            .hint("leave out `--standby` to stop at a moment, or the target to follow the primary"));
    }
    if request.exclusive && matches!(request.target, RecoveryTarget::Latest | RecoveryTarget::Immediate) {
        return Err(Error::new(
            ErrorKind::Usage,
            "`--target-exclusive` needs a time, a position or a transaction",
        )
        .hint("give one: `--target-time`, `--target-lsn` or `--target-xid`"));
    }
    if request.exclusive && matches!(request.target, RecoveryTarget::Name(_)) {
        return Err(Error::new(ErrorKind::Usage, "PostgreSQL ignores `exclusive` for a restore point").hint(
            "leave out `--target-exclusive`: a restore point changes nothing, before and after are the same",
        ));
    }
    Ok(())
}

fn read_target(
    request: &RestoreRequest,
    headers: &[ManifestHeader],
    named: Option<&ManifestHeader>,
) -> Result<ReadTarget> {
    Ok(match &request.target {
        RecoveryTarget::Latest => ReadTarget::Latest,
        RecoveryTarget::Immediate => ReadTarget::Immediate,
        RecoveryTarget::Lsn(lsn) => ReadTarget::Lsn(*lsn),
        RecoveryTarget::Xid(xid) => ReadTarget::Xid(*xid),
        RecoveryTarget::Name(name) => ReadTarget::Name(name.clone()),
        RecoveryTarget::Time(text) => {
            let zone = named.or(headers.last()).and_then(|header| header.server_timezone.as_deref());
            let cluster = zone.unwrap_or(&request.caller_time_zone);
            ReadTarget::Time(read_target_time(text, &request.caller_time_zone, cluster)?)
        }
    })
}

fn no_backup(stanza: &str, unreadable: &[(BackupId, pgkeep_repo::RepoError)]) -> Error {
    let mut error = Error::new(ErrorKind::NotFound, format!("the stanza `{stanza}` holds no backup"));
    if let Some((id, why)) = unreadable.last() {
        error = Error::new(ErrorKind::Corrupt, format!("no backup of the stanza `{stanza}` can be read"))
            .cause(format!("the newest is `{id}`"))
            .caused_by(why);
    }
    error.hint(format!("take one: `pgkeep backup --stanza {stanza}`"))
}

fn spare_bytes(header: &ManifestHeader) -> u64 {
    SPARE_SEGMENTS * u64::from(header.wal_segment_size)
}

fn refuse_too_small(
    header: &ManifestHeader,
    destination: &Destination,
    spaces: &[Destination],
) -> Result<()> {
    // How much goes into which tablespace is not in the header: all of it must fit somewhere.
    let total = header.totals.size_bytes + spare_bytes(header);
    if spaces.iter().all(|space| space.device == destination.device) {
        return destination::refuse_too_small(&[(destination, total)]);
    }
    let free: u64 = {
        let mut devices: Vec<(u64, u64)> =
            spaces.iter().chain([destination]).map(|place| (place.device, place.free_bytes)).collect();
        devices.sort_unstable();
        devices.dedup_by_key(|(device, _)| *device);
        devices.iter().map(|(_, free)| free).sum()
    };
    if free < total {
        return destination::refuse_too_small(&[(destination, total)]);
    }
    Ok(())
}

impl RestorePlan {
    /// What will be done, in lines.
    pub fn describe(&self) -> Vec<String> {
        let header = self.reader.header();
        let mut lines = vec![
            format!("backup {} ({})", header.id, self.backup_reason),
            format!("target: {}", self.proof.description),
        ];
        if let (Some(first), Some(last)) = (&self.proof.wal_first, &self.proof.wal_last) {
            lines.push(match self.proof.wal_segments {
                1 => format!("WAL: 1 segment, {first}, is there"),
                count => format!("WAL: {count} segments, {first} to {last}, all there"),
            });
        }
        if let (false, [first, .., last]) = (self.target_is_latest, self.proof.timelines.as_slice()) {
            lines.push(format!(
                "the way leads from timeline {first} to {last}; for what timeline {first} held at that moment: \
                 `--target-timeline {first}`"
            ));
        }
        lines.push(format!("data directory: {}", self.destination.directory.display()));
        lines.extend(self.delta.iter().flat_map(DeltaPlan::describe));
        for space in &self.layout.tablespaces {
            lines.push(format!(
                "tablespace {}: {} goes to {}",
                space.oid,
                space.source,
                space.target.display()
            ));
        }
        lines
    }

    /// What was done; without anything written, what would be.
    pub fn report(&self, request: &RestoreRequest, written: Option<&Written>) -> RestoreReport {
        let header = self.reader.header();
        let delta = self.delta.as_ref().map(|delta| {
            let mut report = delta.report();
            if let Some(written) = written {
                written.compared.fill(&mut report);
            }
            report
        });
        RestoreReport {
            backup: header.id.to_string(),
            backup_reason: self.backup_reason.clone(),
            destination: self.destination.directory.clone(),
            proof: self.proof.clone(),
            files: header.totals.files,
            size_bytes: header.totals.size_bytes,
            read_bytes: written.map_or(0, |written| written.read_bytes),
            tablespaces: self
                .layout
                .tablespaces
                .iter()
                .map(|space| (space.oid, space.target.clone()))
                .collect(),
            recovery_settings: self.settings.clone(),
            delta,
            dry_run: request.dry_run,
            next_steps: self.next_steps(request),
        }
    }

    fn next_steps(&self, request: &RestoreRequest) -> Vec<String> {
        let directory = self.destination.directory.display();
        if request.dry_run {
            return vec!["run the same command without `--dry-run`".to_owned()];
        }
        let mut steps = Vec::new();
        let external = &self.reader.header().external_files;
        if !external.is_empty() && request.external_config.is_none() {
            let paths: Vec<&str> = external.iter().map(|file| file.path.as_str()).collect();
            steps.push(format!(
                "the server used configuration outside the data directory ({}): `--external-config DIR` restores it",
                paths.join(", ")
            ));
        }
        steps.push(format!("start the server: `pg_ctl -D {directory} start`"));
        if !request.standby
            && !request.target.is_latest()
            && request.action.is_none_or(|action| action == super::TargetAction::Pause)
        {
            steps.push(
                "look at the data; then let it go on with `select pg_wal_replay_resume()`, which makes it a primary"
                    .to_owned(),
            );
            // Replay stops before the commit, but the lock of a DROP or TRUNCATE was replayed before that.
            steps.push(
                "a table that the next transaction dropped or truncated stays locked while recovery is paused: \
                 `--target-action promote` shows it at once"
                    .to_owned(),
            );
        }
        if !request.standby && !request.settings.iter().any(|(name, _)| name == "archive_mode") {
            steps.push(
                "if this is a copy beside the living cluster, set `archive_mode = off` before it is promoted"
                    .to_owned(),
            );
        }
        steps
    }
}
