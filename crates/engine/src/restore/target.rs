//! Proves, from what the repository holds, that a recovery target can be reached, and chooses the backup to start from.
//!
//! PostgreSQL answers an unreachable target only after the replay, with a FATAL in its log; here it is refused before a byte
//! is copied. Semantics followed (`xlogrecovery.c`, 13 to 18): a time is compared with commit and abort records only, and
//! WAL must hold one beyond it; a position needs a record that starts at or after it; a target before the backup's end
//! cannot be reached from that backup; the timeline must descend from the backup's at the backup's end.

use pgkeep_format::wal::TransactionEnd;
use pgkeep_format::{Lsn, SegmentNumber, TimelineId, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{ManifestHeader, WalArchive, WalHeader};

use super::target_time::{TargetTime, from_postgres, just_before, show_utc};
use super::wal_points::{first_record_from, restore_points, transaction_ends};
use super::{RecoveryTarget, TargetProof, TargetTimeline};
use crate::archive_index::{ArchiveIndex, Reach};
use crate::error::{Error, ErrorKind, Result};
use crate::history::TimelinePath;
use crate::wal::store::header_of;

/// What was written last is often not archived yet.
const SWITCH_HINT: &str = "if the server lives, `select pg_switch_wal()` makes it archive what it has";

/// The target with its time read.
#[derive(Clone, Debug)]
pub enum ReadTarget {
    /// Everything.
    Latest,
    /// The end of the backup.
    Immediate,
    /// A moment.
    Time(TargetTime),
    /// A position.
    Lsn(Lsn),
    /// A transaction.
    Xid(u64),
    /// A restore point.
    Name(String),
}

/// What is asked of the proof.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Up to where.
    pub target: ReadTarget,
    /// Stop before instead of after.
    pub exclusive: bool,
    /// Which timeline.
    pub timeline: TargetTimeline,
    /// The stanza's name, for hints.
    pub stanza: String,
}

/// A backup and the proof that the target can be reached from it.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// The backup.
    pub header: &'a ManifestHeader,
    /// Why that one.
    pub reason: String,
    /// The timeline that recovery follows.
    pub timeline: TimelineId,
    /// Why the target can be reached.
    pub proof: TargetProof,
    /// Whether WAL is missing somewhere after the target.
    pub hole_beyond: bool,
}

/// Why one backup does not do.
enum Unfit {
    /// The target lies before its end: an older one may do.
    TargetBeforeEnd(Error),
    /// The timeline that was named does not descend from it: an older one may do.
    OtherTimeline(Error),
    /// Not by this backup; an older one sees the same WAL, or more holes, but its own WAL may be whole.
    No(Error),
}

/// Chooses the newest backup from which the target can be reached. `backups` are readable, oldest first.
pub fn choose<'a>(
    wanted: &Wanted,
    backups: &'a [ManifestHeader],
    named: Option<&'a ManifestHeader>,
    index: &ArchiveIndex,
    archive: &WalArchive,
) -> Result<Chosen<'a>> {
    if let Some(header) = named {
        return match prove(wanted, header, index, archive) {
            Ok((timeline, proof, hole_beyond)) => {
                Ok(Chosen { header, reason: "asked for".to_owned(), timeline, proof, hole_beyond })
            }
            Err(Unfit::TargetBeforeEnd(error) | Unfit::OtherTimeline(error) | Unfit::No(error)) => Err(error),
        };
    }
    // The newest backup's reason is the one to show, unless an older one comes nearer to the target.
    let mut shown: Option<Unfit> = None;
    for header in backups.iter().rev() {
        match prove(wanted, header, index, archive) {
            Ok((timeline, proof, hole_beyond)) => {
                let reason = if shown.is_some() {
                    "the newest backup from which the target can be reached".to_owned()
                } else {
                    "the newest backup".to_owned()
                };
                return Ok(Chosen { header, reason, timeline, proof, hole_beyond });
            }
            Err(unfit) => {
                let better = match (&shown, &unfit) {
                    (None, _) => true,
                    // A target before the newest backup: what an older one says is nearer to the truth.
                    (Some(Unfit::TargetBeforeEnd(_) | Unfit::OtherTimeline(_)), _) => true,
                    (Some(Unfit::No(_)), _) => false,
                };
                if better {
                    shown = Some(unfit);
                }
            }
        }
    }
    match shown {
        Some(Unfit::TargetBeforeEnd(error) | Unfit::OtherTimeline(error) | Unfit::No(error)) => Err(error),
        None => {
            Err(Error::new(ErrorKind::NotFound, format!("the stanza `{}` holds no backup", wanted.stanza))
                .hint(format!("take one: `pgkeep backup --stanza {}`", wanted.stanza)))
        }
    }
}

fn prove(
    wanted: &Wanted,
    header: &ManifestHeader,
    index: &ArchiveIndex,
    archive: &WalArchive,
) -> Result<(TimelineId, TargetProof, bool), Unfit> {
    let timeline = target_timeline(wanted, header, index)?;
    let path = index.path_to(timeline);
    let reach = reach_of(header, index, &path);
    if reach.end < header.stop_lsn {
        return Err(Unfit::No(
            Error::new(ErrorKind::WalGap, format!("backup `{}` cannot be made consistent", header.id))
                .cause(format!(
                    "WAL segment {} is not in the archive; the backup needs WAL from {} to {}",
                    segment_text(reach.next, index),
                    header.start_lsn,
                    header.stop_lsn
                ))
                .hint("if the server still has that segment, archive it: `pgkeep wal push PATH`")
                .hint(format!("`pgkeep list --stanza {}` shows what can be restored", wanted.stanza)),
        ));
    }
    let walk = Walk { header, index, archive, path: &path, reach: &reach, stanza: &wanted.stanza };
    let mut proof = match &wanted.target {
        ReadTarget::Immediate => TargetProof {
            description: format!("the end of backup {}, at {}", header.id, header.stop_lsn),
            stop_lsn: Some(header.stop_lsn),
            ..TargetProof::default()
        },
        ReadTarget::Latest => walk.latest()?,
        ReadTarget::Lsn(lsn) => walk.lsn(*lsn, wanted.exclusive)?,
        ReadTarget::Time(time) => walk.time(time, wanted.exclusive)?,
        ReadTarget::Xid(xid) => walk.xid(*xid, wanted.exclusive)?,
        ReadTarget::Name(name) => walk.name(name)?,
    };
    proof.timelines = path
        .steps()
        .iter()
        .filter(|step| step.to.is_none_or(|to| to > header.start_lsn))
        .map(|step| step.timeline)
        .collect();
    let size = index.segment_size();
    let first = reach.first.map(|name| name.file_name(size));
    let needed_until = match proof.stop_lsn {
        Some(stop) => stop.max(header.stop_lsn).min(reach.end),
        None => reach.end,
    };
    let last_number = size.segment_before(needed_until);
    proof.wal_segments = last_number.0.saturating_sub(size.segment_at(header.start_lsn).0) + 1;
    let last = index.find(last_number, &path).or_else(|| tail_segment(header, index));
    proof.wal_last = last.map(|name| name.file_name(size));
    proof.wal_first = first;
    Ok((timeline, proof, reach.is_gap))
}

/// How far WAL goes from a backup. The tail that is kept with it reaches to its end and no further: the segment is not
/// whole, so what the archive holds after it cannot be reached over it.
fn reach_of(header: &ManifestHeader, index: &ArchiveIndex, path: &TimelinePath) -> Reach {
    let reach = index.contiguous_until(header.start_lsn, path);
    let Some(tail) = tail_segment(header, index) else { return reach };
    if reach.end >= header.stop_lsn || index.segment_size().segment_at(reach.end) != tail.number {
        return reach;
    }
    Reach {
        end: header.stop_lsn,
        timeline: tail.timeline,
        first: reach.first.or(Some(tail)),
        last: Some(tail),
        tail: None,
        segments: reach.segments + 1,
        next: tail,
        is_gap: index.has_after(tail),
    }
}

/// The segment that only this backup keeps, where the archive does not have it.
pub fn tail_segment(header: &ManifestHeader, index: &ArchiveIndex) -> Option<WalSegmentName> {
    let name = header.wal_tail.first()?;
    let name = WalSegmentName::parse(name.trim_end_matches(".partial"), index.segment_size())?;
    (!index.has(name)).then_some(name)
}

fn target_timeline(
    wanted: &Wanted,
    header: &ManifestHeader,
    index: &ArchiveIndex,
) -> Result<TimelineId, Unfit> {
    let tree = index.tree();
    match wanted.timeline {
        TargetTimeline::Current => Ok(header.timeline),
        TargetTimeline::Latest => Ok(tree.latest_descendant(header.timeline, header.stop_lsn)),
        TargetTimeline::Number(number) if number == header.timeline => Ok(number),
        TargetTimeline::Number(number) => {
            let known: Vec<String> = tree.timelines().map(|timeline| timeline.to_string()).collect();
            if !tree.timelines().any(|timeline| timeline == number) {
                return Err(Unfit::No(
                    Error::new(
                        ErrorKind::TargetUnreachable,
                        format!("timeline {number} is not in the archive"),
                    )
                    .cause(format!("the archive knows the timelines {}", known.join(", ")))
                    .hint("`pgkeep list` shows what can be recovered on which timeline"),
                ));
            }
            if tree.path_to(number).contains(header.timeline, header.stop_lsn) {
                return Ok(number);
            }
            Err(Unfit::OtherTimeline(
                Error::new(
                    ErrorKind::TargetUnreachable,
                    format!("timeline {number} cannot be reached from backup `{}`", header.id),
                )
                .cause(format!(
                    "it forked off before the backup ended, at {} on timeline {}",
                    header.stop_lsn, header.timeline
                ))
                .hint("restore an older backup, or another timeline: `pgkeep list` shows them"),
            ))
        }
    }
}

/// A path of WAL that begins at a backup.
struct Walk<'a> {
    header: &'a ManifestHeader,
    index: &'a ArchiveIndex,
    archive: &'a WalArchive,
    path: &'a TimelinePath,
    reach: &'a Reach,
    stanza: &'a str,
}

impl Walk<'_> {
    fn latest(&self) -> Result<TargetProof, Unfit> {
        self.refuse_gap("the end of the archive")?;
        Ok(TargetProof {
            description: format!("the end of the archive, at least {}", self.wal_end()?),
            ..TargetProof::default()
        })
    }

    fn lsn(&self, lsn: Lsn, exclusive: bool) -> Result<TargetProof, Unfit> {
        if lsn < self.header.stop_lsn {
            return Err(self.before_end(&format!("position {lsn}")));
        }
        let what = format!("position {lsn}");
        if lsn >= self.reach.end {
            self.refuse_gap(&what)?;
            return Err(self.beyond(&what, &format!("the archive ends at {}", self.wal_end()?)));
        }
        // Recovery stops at the first record that starts there or later: one must exist.
        let from = self.size().segment_at(lsn);
        let mut reached = None;
        for name in self.segments_from(from) {
            reached = first_record_from(self.archive, name, self.size(), lsn).map_err(Unfit::No)?;
            if reached.is_some() {
                break;
            }
        }
        let Some(record) = reached else {
            self.refuse_gap(&what)?;
            let end = self.wal_end()?;
            return Err(self.beyond(&what, &format!("no record starts there or later; WAL ends at {end}")));
        };
        let when = if exclusive { "before" } else { "after" };
        Ok(TargetProof {
            description: format!("just {when} the first record at or after {lsn}, which starts at {record}"),
            stop_lsn: Some(record.max(lsn)),
            ..TargetProof::default()
        })
    }

    fn time(&self, target: &TargetTime, exclusive: bool) -> Result<TargetProof, Unfit> {
        let what = target.reading.clone();
        if self.header.stop_time > target.moment {
            return Err(self.before_end(&what));
        }
        let wanted = target.postgres_microseconds();
        let beyond = |time: i64| if exclusive { time >= wanted } else { time > wanted };
        let mut newest: Option<i64> = None;
        let mut earlier: Option<WalSegmentName> = None;
        for name in self.segments_from(self.size().segment_at(self.header.start_lsn)) {
            let Some(header) = self.header_of(name)? else { continue };
            newest = newest.max(header.facts.last_commit_time);
            if header.facts.last_commit_time.is_some_and(beyond) {
                let ends = self.ends(name, earlier)?;
                if let Some(stop) = ends.iter().find(|end| beyond(end.time)) {
                    return Ok(time_proof(target, exclusive, stop));
                }
            }
            earlier = Some(name);
        }
        self.refuse_gap(&what)?;
        let mut error =
            Error::new(ErrorKind::TargetUnreachable, format!("cannot restore `{}` to {what}", self.stanza));
        // PostgreSQL knows that a moment has passed only by a later commit.
        error = match newest.and_then(from_postgres) {
            Some(last) => error
                .cause(format!("the last commit in the archive is of {}", show_utc(last)))
                .hint(format!("the latest reachable time is {}", show_utc(just_before(last)))),
            None => error.cause("the archive holds no commit after the backup"),
        };
        Err(Unfit::No(
            error.hint("to replay everything, leave the target out: `--target latest`").hint(SWITCH_HINT),
        ))
    }

    fn xid(&self, xid: u64, exclusive: bool) -> Result<TargetProof, Unfit> {
        let mut earlier = None;
        // WAL holds the low half; the server compares no more either.
        let low = (xid & 0xFFFF_FFFF) as u32;
        for name in self.segments_from(self.size().segment_at(self.header.start_lsn)) {
            let ends = self.ends(name, earlier)?;
            earlier = Some(name);
            let Some(end) = ends.iter().find(|end| end.xid == low) else { continue };
            if end.start < self.header.stop_lsn {
                return Err(self.before_end(&format!("transaction {xid}, which ended at {}", end.start)));
            }
            let when = if exclusive { "before" } else { "after" };
            return Ok(TargetProof {
                description: format!("just {when} transaction {xid} ended, {}", moment_text(end)),
                stop_lsn: Some(if exclusive { end.start } else { end.end }),
                ..TargetProof::default()
            });
        }
        self.refuse_gap(&format!("transaction {xid}"))?;
        Err(Unfit::TargetBeforeEnd(
            Error::new(
                ErrorKind::TargetUnreachable,
                format!("cannot restore `{}` to transaction {xid}", self.stanza),
            )
            .cause(format!(
                "no transaction {xid} ends in the WAL after backup {}, up to {}",
                self.header.id, self.reach.end
            ))
            .hint("only a transaction that wrote something, and no subtransaction, can be a target")
            .hint("a time or a position always can: `--target-time`, `--target-lsn`"),
        ))
    }

    fn name(&self, wanted: &str) -> Result<TargetProof, Unfit> {
        let mut known: Vec<String> = Vec::new();
        for name in self.segments_from(self.size().segment_at(self.header.start_lsn)) {
            for point in restore_points(self.archive, name, self.size()).map_err(Unfit::No)? {
                if point.name != wanted {
                    let shown = format!("`{}`", point.name);
                    // `pgkeep check` sets one each time it runs.
                    if known.len() < 20 && !known.contains(&shown) && !point.name.starts_with("pgkeep") {
                        known.push(shown);
                    }
                    continue;
                }
                if point.lsn < self.header.stop_lsn {
                    return Err(self.before_end(&format!("restore point `{wanted}` at {}", point.lsn)));
                }
                return Ok(TargetProof {
                    description: format!("restore point `{wanted}` at {}", point.lsn),
                    stop_lsn: Some(point.end),
                    ..TargetProof::default()
                });
            }
        }
        self.refuse_gap(&format!("restore point `{wanted}`"))?;
        let mut error = Error::new(
            ErrorKind::TargetUnreachable,
            format!("cannot restore `{}` to restore point `{wanted}`", self.stanza),
        )
        .cause(format!("no such restore point is in the WAL after backup {}", self.header.id));
        if known.is_empty() {
            error = error
                .hint("restore points are made by `select pg_create_restore_point('NAME')` on the server");
        } else {
            error = error.hint(format!("restore points that are there: {}", known.join(", ")));
        }
        Err(Unfit::TargetBeforeEnd(error))
    }

    /// The segments of the path from a number on, as far as WAL goes without a hole.
    fn segments_from(&self, from: SegmentNumber) -> impl Iterator<Item = WalSegmentName> + '_ {
        let last = self.size().segment_before(self.reach.end);
        (from.0..=last.0).filter_map(|number| self.index.find(SegmentNumber(number), self.path))
    }

    fn header_of(&self, name: WalSegmentName) -> Result<Option<WalHeader>, Unfit> {
        header_of(self.archive, name).map_err(Unfit::No)
    }

    fn ends(
        &self,
        name: WalSegmentName,
        earlier: Option<WalSegmentName>,
    ) -> Result<Vec<TransactionEnd>, Unfit> {
        transaction_ends(self.archive, name, earlier, self.size()).map_err(Unfit::No)
    }

    fn size(&self) -> WalSegmentSize {
        self.index.segment_size()
    }

    /// Where the last record ends.
    fn wal_end(&self) -> Result<Lsn, Unfit> {
        let Some(last) = self.reach.tail.or(self.reach.last) else { return Ok(self.reach.end) };
        // The tail that is kept with the backup is not in the archive.
        Ok(self.header_of(last)?.map_or(self.header.stop_lsn, |header| header.facts.end.min(self.reach.end)))
    }

    fn before_end(&self, what: &str) -> Unfit {
        Unfit::TargetBeforeEnd(
            Error::new(ErrorKind::TargetUnreachable, format!("cannot restore `{}` to {what}", self.stanza))
                .cause(format!(
                    "backup {} is consistent only from {} on ({})",
                    self.header.id,
                    self.header.stop_lsn,
                    show_utc(self.header.stop_time)
                ))
                .hint("the target must lie after the end of a backup: `pgkeep list` shows the recoverable windows"),
        )
    }

    fn beyond(&self, what: &str, why: &str) -> Unfit {
        Unfit::No(
            Error::new(ErrorKind::TargetUnreachable, format!("cannot restore `{}` to {what}", self.stanza))
                .cause(why)
                .hint("to replay everything, leave the target out: `--target latest`")
                .hint(SWITCH_HINT),
        )
    }

    fn refuse_gap(&self, what: &str) -> Result<(), Unfit> {
        let Some(missing) = self.reach.first_missing() else { return Ok(()) };
        let reachable = self.last_commit_before_gap()?;
        let mut error = Error::new(ErrorKind::WalGap, format!("cannot restore `{}` to {what}", self.stanza))
            .cause(format!(
                "WAL segment {} (timeline {}, from {}) is not in the archive",
                missing.file_name(self.size()),
                missing.timeline,
                self.reach.end
            ));
        if let Some(time) = reachable {
            error = error
                .hint(format!("the latest time that can be reached before the gap is {}", show_utc(time)));
        }
        Err(Unfit::No(error.hint(format!("`pgkeep list --stanza {}` lists every gap", self.stanza))))
    }

    fn last_commit_before_gap(&self) -> Result<Option<jiff::Timestamp>, Unfit> {
        let size = self.size();
        let last = size.segment_before(self.reach.end).0;
        let first = size.segment_at(self.header.start_lsn).0;
        // Without a commit in that many segments the hint is not worth more reading.
        for number in (first.max(last.saturating_sub(1000))..=last).rev() {
            let Some(name) = self.index.find(SegmentNumber(number), self.path) else { continue };
            if let Some(time) = self.header_of(name)?.and_then(|header| header.facts.last_commit_time) {
                return Ok(from_postgres(time).map(just_before));
            }
        }
        Ok(None)
    }
}

fn time_proof(target: &TargetTime, exclusive: bool, stop: &TransactionEnd) -> TargetProof {
    let relation = if exclusive { "at or after" } else { "after" };
    TargetProof {
        description: format!(
            "{}: replay stops before transaction {}, the first to end {relation} it, {}",
            target.reading,
            stop.xid,
            moment_text(stop)
        ),
        target_time_utc: Some(target.moment.to_string()),
        stop_lsn: Some(stop.start),
        ..TargetProof::default()
    }
}

fn moment_text(end: &TransactionEnd) -> String {
    match from_postgres(end.time) {
        Some(time) => format!("at {} ({})", end.start, show_utc(time)),
        None => format!("at {}", end.start),
    }
}

fn segment_text(name: WalSegmentName, index: &ArchiveIndex) -> String {
    format!("{} (timeline {})", name.file_name(index.segment_size()), name.timeline)
}

impl RecoveryTarget {
    /// Whether WAL is replayed to its end.
    pub fn is_latest(&self) -> bool {
        matches!(self, RecoveryTarget::Latest)
    }
}
