//! What a stanza holds, and from that the decision on every backup, WAL range and pack.
//!
//! [`Facts::load`] reads; [`ExpirePlan::make`] is pure. Both are done twice: before anything is said to go, and after the
//! grace time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use pgkeep_format::{SegmentNumber, WalFileName, WalSegmentName, WalSegmentSize};
use pgkeep_repo::{
    BackupId, ClusterRecord, Condemned, Inventory, ManifestHeader, PackName, Stanza, UnlistedPack, WalRange,
};

use super::dump_policy;
use super::policy::{self, Candidate, Decision, Era, Place};
use super::request::{
    BackupDecision, DumpDecision, DumpRetention, ExpireChoice, ExpireReport, SparsePacks, UnlistedPacks,
    WalDecision,
};
use super::wal_need::{self, KeptBackup, WalRun};
use crate::archive_index::ArchiveIndex;
use crate::list::extent;
use crate::recovery_window::missing_for;
use crate::{Error, ErrorKind, Result};

/// A pack of which less than a quarter is needed counts as sparse. Rewriting one costs its live bytes twice (read and
/// written) and frees the rest, so at a quarter it frees three bytes for each that it writes.
const SPARSE_BELOW_PERCENT: u64 = 25;

/// What one cluster's part of the stanza holds.
pub(crate) struct RecordFacts {
    pub(crate) record: ClusterRecord,
    pub(crate) index: ArchiveIndex,
    names: Vec<WalFileName>,
}

/// What the stanza holds.
pub(crate) struct Facts {
    pub(crate) inventory: Inventory,
    pub(crate) records: Vec<RecordFacts>,
}

impl Facts {
    pub(crate) fn load(stanza: &Stanza) -> Result<Facts> {
        // WAL first: of a backup that is committed in between, the manifest is seen and its WAL is only kept more of.
        let mut records = Vec::new();
        for record in stanza.records() {
            let archive = stanza.wal(record);
            let mut names = Vec::new();
            for timeline in archive.timelines()? {
                names.extend(archive.list(timeline)?);
            }
            let index = ArchiveIndex::load(&archive)?;
            records.push(RecordFacts { record: *record, index, names });
        }
        Ok(Facts { inventory: stanza.inventory()?, records })
    }

    fn record(&self, sequence: u32) -> Option<&RecordFacts> {
        self.records.iter().find(|facts| facts.record.sequence == sequence)
    }

    /// Why a backup cannot be restored, as far as names and sizes tell.
    fn problem(&self, header: &ManifestHeader, packs: &BTreeMap<PackName, u64>) -> Option<String> {
        let Some(record) = self.record(header.record) else {
            return Some("it is of a cluster that the stanza does not know".to_owned());
        };
        for pack in &header.packs {
            let name = PackName { backup: pack.backup, number: pack.number };
            if packs.get(&name) != Some(&pack.size) {
                return Some(format!(
                    "pack {} of backup {} is missing or not whole",
                    pack.number, pack.backup
                ));
            }
        }
        let missing = missing_for(&record.index, &extent(header, &record.index));
        let first = missing.first()?.file_name(record.index.segment_size());
        Some(format!("WAL segment {first} is missing"))
    }

    fn candidates(&self) -> Vec<Candidate> {
        let packs: BTreeMap<PackName, u64> =
            self.inventory.packs.iter().map(|pack| (pack.name, pack.size)).collect();
        let held = |id: &BackupId| self.inventory.holds.get(id).map(|hold| hold.reason.clone());
        let readable = self.inventory.backups.iter().map(|(id, header)| Candidate {
            id: *id,
            place: Some(Place { record: header.record, timeline: header.timeline, stop: header.stop_lsn }),
            finished: header.stop_time,
            problem: self.problem(header, &packs),
            held: held(id),
        });
        let unreadable = self.inventory.unreadable.iter().map(|(id, error)| Candidate {
            id: *id,
            place: None,
            finished: id.started(),
            problem: Some(error.to_string()),
            held: held(id),
        });
        let mut candidates: Vec<Candidate> = readable.chain(unreadable).collect();
        candidates.sort_by_key(|candidate| candidate.id);
        candidates
    }

    fn eras(&self) -> Vec<Era<'_>> {
        let ends = self.records.iter().skip(1).map(|next| Some(next.record.created)).chain([None]);
        self.records
            .iter()
            .zip(ends)
            .map(|(facts, ended)| Era { record: facts.record.sequence, ended, tree: facts.index.tree() })
            .collect()
    }
}

/// What goes and what stays.
pub(crate) struct ExpirePlan {
    /// No rule says what goes of backups and WAL.
    spares_backups: bool,
    candidates: Vec<Candidate>,
    decisions: Vec<Decision>,
    wal: Vec<(u32, u64, WalRun)>,
    dumps: Vec<DumpDecision>,
    doomed_dumps: BTreeSet<BackupId>,
}

impl ExpirePlan {
    pub(crate) fn make(
        facts: &Facts,
        choice: &ExpireChoice,
        retention: &DumpRetention,
        named: Option<BackupId>,
        now: Timestamp,
    ) -> Result<ExpirePlan> {
        if let Some(hold) = named.and_then(|id| facts.inventory.holds.get(&id)) {
            let why = if hold.reason.is_empty() { "no reason was given" } else { hold.reason.as_str() };
            let what = if facts.inventory.dumps.exists(hold.backup) { "dump" } else { "backup" };
            return Err(Error::new(ErrorKind::Locked, format!("{what} {} is held", hold.backup))
                .cause(why)
                .hint(format!("`pgkeep release {}` lets go of it", hold.backup)));
        }
        let candidates = facts.candidates();
        // Where nothing is said of backups, or a dump was named, nothing of backups goes.
        let spares_backups = match choice {
            ExpireChoice::Policy(policy) => !policy.is_configured(),
            ExpireChoice::Backup(_) => named.is_some_and(|id| facts.inventory.dumps.exists(id)),
        };
        let decisions = if spares_backups {
            policy::keep_all(&candidates)
        } else {
            policy::decide(&candidates, &facts.eras(), choice, named, now)
        };
        let (dumps, doomed_dumps) = dump_policy::decide(&facts.inventory, choice, retention, named, now);
        let mut plan =
            ExpirePlan { spares_backups, candidates, decisions, wal: Vec::new(), dumps, doomed_dumps };
        let newest = facts.records.last().map(|facts| facts.record.sequence);
        let doubt = plan.unreadable().map(|id| format!("backup {id} cannot be read and may need it"));
        for record in &facts.records {
            let sequence = record.record.sequence;
            let kept = plan.kept_of(facts, sequence);
            let mut runs = wal_need::decide(&record.index, &kept, newest == Some(sequence), doubt.as_deref());
            for run in runs.iter_mut().filter(|run| spares_backups && !run.keep) {
                run.keep = true;
                "no rule says what WAL is kept".clone_into(&mut run.rule);
            }
            let identifier = record.record.system_identifier;
            plan.wal.extend(runs.into_iter().map(|run| (sequence, identifier, run)));
        }
        Ok(plan)
    }

    /// A backup that stays and cannot be read.
    fn unreadable(&self) -> Option<BackupId> {
        let kept = self.doomed();
        let unreadable = self.candidates.iter().filter(|c| c.place.is_none() && !kept.contains(&c.id));
        unreadable.map(|candidate| candidate.id).next()
    }

    fn kept_of(&self, facts: &Facts, record: u32) -> Vec<KeptBackup> {
        let mut kept = Vec::new();
        for (candidate, decision) in self.candidates.iter().zip(&self.decisions) {
            let Some(header) = facts.inventory.backups.get(&candidate.id) else { continue };
            if decision.keep && header.record == record {
                kept.push(KeptBackup {
                    id: candidate.id.to_string(),
                    timeline: header.timeline,
                    start: header.start_lsn,
                    stop: header.stop_lsn,
                    keeps_later_wal: decision.keeps_later_wal,
                    restorable: candidate.problem.is_none(),
                });
            }
        }
        kept
    }

    /// The backups that go.
    pub(crate) fn doomed(&self) -> BTreeSet<BackupId> {
        self.decisions.iter().filter(|decision| !decision.keep).map(|decision| decision.id).collect()
    }

    /// The dumps that go.
    pub(crate) fn doomed_dumps(&self) -> BTreeSet<BackupId> {
        self.doomed_dumps.clone()
    }

    /// All that goes, to be published.
    pub(crate) fn condemned(&self, facts: &Facts) -> Condemned {
        let backups = self.doomed();
        let packs = facts.inventory.rubbish(&backups).iter().map(|pack| pack.name).collect();
        let wal = self
            .wal
            .iter()
            .filter(|(.., run)| !run.keep)
            .map(|(record, _, run)| WalRange {
                record: *record,
                timeline: run.timeline,
                first: run.first,
                last: run.last,
            })
            .collect();
        let dumps = self.doomed_dumps();
        let dump_packs = facts.inventory.dump_rubbish(&dumps).iter().map(|pack| pack.name).collect();
        Condemned { backups, packs, wal, dumps, dump_packs }
    }

    /// WAL that goes although earlier WAL of its cluster stays: a gap that is meant.
    pub(crate) fn gaps(&self) -> Vec<WalRange> {
        let stays_before = |record: u32, first: SegmentNumber| {
            self.wal.iter().any(|(of, _, run)| *of == record && run.keep && run.first < first)
        };
        let gone = self.wal.iter().filter(|(.., run)| !run.keep);
        gone.filter(|(record, _, run)| stays_before(*record, run.first))
            .map(|(record, _, run)| WalRange {
                record: *record,
                timeline: run.timeline,
                first: run.first,
                last: run.last,
            })
            .collect()
    }

    /// The first segment of a cluster that a kept backup needs; none where it is not known, or no rule says that WAL goes.
    pub(crate) fn first_needed(&self, facts: &Facts, record: u32) -> Option<SegmentNumber> {
        if self.spares_backups || self.unreadable().is_some() {
            return None;
        }
        let own = facts.records.iter().find(|facts| facts.record.sequence == record)?;
        let is_newest = facts.records.last().is_some_and(|newest| newest.record.sequence == record);
        wal_need::first_needed(&own.index, &self.kept_of(facts, record), is_newest)
    }

    /// Whether no WAL of the range's cluster that lies before it stays.
    pub(crate) fn begins_with(&self, range: &WalRange) -> bool {
        let mut kept = self.wal.iter().filter(|(record, _, run)| *record == range.record && run.keep);
        !kept.any(|(.., run)| run.first < range.first)
    }

    /// The names of the WAL files that go: segments, and what belongs to them. History files stay.
    pub(crate) fn wal_files(&self, facts: &Facts) -> Vec<(u32, WalFileName)> {
        let ranges = self.condemned(facts).wal;
        let mut files = Vec::new();
        for record in &facts.records {
            let sequence = record.record.sequence;
            let own: Vec<&WalRange> = ranges.iter().filter(|range| range.record == sequence).collect();
            files.extend(record.names.iter().copied().filter_map(|name| {
                let segment = match name {
                    WalFileName::Segment(segment) | WalFileName::Partial(segment) => segment,
                    WalFileName::BackupHistory { segment, .. } => segment,
                    WalFileName::TimelineHistory(_) => return None,
                };
                own.iter()
                    .any(|range| range.contains(segment.timeline, segment.number))
                    .then_some((sequence, name))
            }));
        }
        files
    }

    /// The report before anything is done: what would go.
    pub(crate) fn report(&self, stanza: &Stanza, facts: &Facts) -> ExpireReport {
        let doomed = self.doomed();
        let rubbish = facts.inventory.rubbish(&doomed);
        let dump_rubbish = facts.inventory.dump_rubbish(&self.doomed_dumps);
        let mut notes = Vec::new();
        let broken = self.candidates.iter().zip(&self.decisions).filter(|(c, d)| c.place.is_none() && d.keep);
        for (candidate, _) in broken {
            notes.push(format!(
                "backup {} cannot be read: while it is there, no WAL goes; `pgkeep expire --backup {}` removes it",
                candidate.id, candidate.id
            ));
        }
        ExpireReport {
            stanza: stanza.name().to_string(),
            dry_run: true,
            backups: self.candidates.iter().zip(&self.decisions).map(backup_decision).collect(),
            dumps: self.dumps.clone(),
            wal: self.wal.iter().map(|run| wal_decision(facts, run)).collect(),
            unlisted_packs: unlisted_packs(facts, &doomed),
            sparse_packs: sparse_packs(facts, &doomed),
            removed_backups: doomed.len() as u64,
            removed_dumps: self.doomed_dumps.len() as u64,
            removed_packs: (rubbish.len() + dump_rubbish.len()) as u64,
            removed_wal_files: self.wal_files(facts).len() as u64,
            freed_bytes: rubbish.iter().chain(&dump_rubbish).map(|pack| pack.size).sum(),
            waiting_bytes: 0,
            waiting_for: facts.inventory.running().iter().map(|lease| lease.holder()).collect(),
            notes,
        }
    }
}

fn backup_decision((candidate, decision): (&Candidate, &Decision)) -> BackupDecision {
    BackupDecision {
        id: candidate.id.to_string(),
        finished: candidate.finished.to_string(),
        keep: decision.keep,
        rules: decision.rules.clone(),
        keeps_later_wal: decision.keeps_later_wal,
        held: candidate.held.is_some(),
        restorable: candidate.problem.is_none(),
    }
}

fn wal_decision(facts: &Facts, (record, system_identifier, run): &(u32, u64, WalRun)) -> WalDecision {
    let size = facts.record(*record).map_or(WalSegmentSize::DEFAULT, |facts| facts.index.segment_size());
    let name = |number| WalSegmentName { timeline: run.timeline, number }.file_name(size);
    WalDecision {
        record: *record,
        system_identifier: *system_identifier,
        timeline: run.timeline,
        first: name(run.first),
        last: name(run.last),
        segments: run.last.0 - run.first.0 + 1,
        keep: run.keep,
        rule: run.rule.clone(),
    }
}

fn unlisted_packs(facts: &Facts, doomed: &BTreeSet<BackupId>) -> Vec<UnlistedPacks> {
    let mut groups: BTreeMap<(BackupId, UnlistedPack), (u64, u64)> = BTreeMap::new();
    for (pack, why) in facts.inventory.unlisted(doomed) {
        let group = groups.entry((pack.name.backup, why)).or_default();
        group.0 += 1;
        group.1 += pack.size;
    }
    groups
        .into_iter()
        .map(|((backup, why), (packs, bytes))| UnlistedPacks {
            backup: backup.to_string(),
            packs,
            bytes,
            keep: why != UnlistedPack::Rubbish,
            reason: match why {
                UnlistedPack::Running => "the backup may be running".to_owned(),
                UnlistedPack::Resumable => {
                    "the backup was interrupted, and the next one may go on with it".to_owned()
                }
                UnlistedPack::MayBeNeededBy(id) => format!("backup {id} cannot be read and may need them"),
                UnlistedPack::Rubbish => "no backup that stays needs them".to_owned(),
            },
        })
        .collect()
}

/// How much of a pack is needed: the most that any one backup that stays needs of it, so the estimate is a lower bound.
fn sparse_packs(facts: &Facts, doomed: &BTreeSet<BackupId>) -> SparsePacks {
    let mut live: BTreeMap<PackName, (u64, u64)> = BTreeMap::new();
    let kept = facts.inventory.backups.iter().filter(|(id, _)| !doomed.contains(id));
    for pack in kept.flat_map(|(_, header)| &header.packs) {
        let name = PackName { backup: pack.backup, number: pack.number };
        let entry = live.entry(name).or_insert((pack.size, 0));
        entry.1 = entry.1.max(pack.live_bytes.min(pack.size));
    }
    let sparse: Vec<(u64, u64)> = live
        .into_values()
        .filter(|(size, live)| u128::from(*live) * 100 < u128::from(*size) * u128::from(SPARSE_BELOW_PERCENT))
        .collect();
    SparsePacks {
        packs: sparse.len() as u64,
        bytes: sparse.iter().map(|(size, _)| size).sum(),
        live_bytes: sparse.iter().map(|(_, live)| live).sum(),
        reason: if sparse.is_empty() {
            String::new()
        } else {
            format!(
                "less than {SPARSE_BELOW_PERCENT} % of each is needed; they stay, for only a backup rewrites what it needs"
            )
        },
    }
}
