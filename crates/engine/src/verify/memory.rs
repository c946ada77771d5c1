//! What is known from earlier verifications: when which windows of packs, maps and WAL were verified, and what is damaged.
//!
//! Kept in the reports that `verify` stores (`docs/format/report.md`). Each report holds all that was known when it was
//! written, so that reading the newest one is enough, with those that were written while it ran: two machines that verify
//! at the same time do not lose each other's results. A report that is lost costs nothing but reading again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pgkeep_repo::{BackupId, ManifestHeader, RepoError, ReportName, Stanza};
use serde::{Deserialize, Serialize};

use super::damage::Damage;
use super::inventory::{Inventory, PackId, windows_of};
use super::spans::Spans;
use crate::error::{Error, ErrorKind, Result};

/// The verb in the names of reports.
pub(super) const VERB: &str = "verify";
/// Clocks of two machines may differ by so much.
const CLOCKS: SignedDuration = SignedDuration::from_hours(1);
/// No more reports are read than this, the newest first.
const MAX_REPORTS: usize = 64;

/// Everything that is remembered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// When the manifest and the maps of a backup were checked.
    pub(super) maps: BTreeMap<BackupId, Timestamp>,
    /// Numbers of packs that were verified whole, by epoch.
    whole: BTreeMap<u32, Spans>,
    /// Windows of packs.
    parts: BTreeMap<PackId, Spans>,
    /// Segments, by record and timeline.
    pub(super) wal: BTreeMap<(u32, u32), Spans>,
    /// What was damaged when it was last looked at.
    pub(super) damage: Vec<Damage>,
    /// Reports that cannot be read.
    pub(super) unreadable: Vec<String>,
}

/// What is remembered of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackupVerification {
    /// The oldest time that counts: since then, everything in the share was verified (RFC 3339 UTC).
    pub at: String,
    /// How much of what the backup needs was verified, in percent, rounded down.
    pub share_percent: u8,
    /// Whether damage is known that keeps it from being restored.
    pub damaged: bool,
}

#[derive(Deserialize)]
struct StoredReport {
    started: Timestamp,
    finished: Timestamp,
    memory: StoredMemory,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct StoredMemory {
    maps: Vec<StoredMaps>,
    /// Packs that were verified whole at one time.
    packs: Vec<StoredPacks>,
    /// Parts of packs.
    parts: Vec<StoredPart>,
    wal: Vec<StoredWal>,
    damage: Vec<Damage>,
}

#[derive(Serialize, Deserialize)]
struct StoredMaps {
    backup: String,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct StoredPacks {
    epoch: u32,
    first: u32,
    last: u32,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct StoredPart {
    epoch: u32,
    pack: u32,
    from: u64,
    to: u64,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct StoredWal {
    record: u32,
    timeline: u32,
    first: u64,
    last: u64,
    at: Timestamp,
}

impl Memory {
    /// Reads the newest report, and those that it cannot have known.
    pub(crate) fn load(stanza: &Stanza) -> Result<Memory> {
        let mut memory = Memory::default();
        let mut names: Vec<(Timestamp, ReportName)> =
            stanza.reports()?.into_iter().filter_map(|name| Some((time_of(&name)?, name))).collect();
        names.sort_by(|a, b| b.cmp(a));
        let mut reports: Vec<StoredReport> = Vec::new();
        for (finished, name) in names.into_iter().take(MAX_REPORTS) {
            if reports.first().is_some_and(|newest| finished < newest.started - CLOCKS) {
                break;
            }
            let bytes = match stanza.report(&name) {
                Ok(bytes) => bytes,
                // Retention may have removed it just now.
                Err(RepoError::NotFound { .. }) => continue,
                // Somebody else's file, perhaps. A list or a restore must not fail for want of it.
                Err(error) => {
                    memory.unreadable.push(format!("report `{}` cannot be read: {error}", name.as_str()));
                    continue;
                }
            };
            match serde_json::from_slice(&bytes) {
                Ok(report) => reports.push(report),
                Err(error) => {
                    memory.unreadable.push(format!("report `{}` cannot be read: {error}", name.as_str()));
                }
            }
        }
        // What a report that began later says of the same place counts: it may be healed. Names tell whole seconds only.
        let newest_start = reports.iter().map(|report| report.started).max();
        for report in reports {
            let is_superseded = newest_start.is_some_and(|started| report.finished < started);
            memory.add(report.memory, is_superseded);
        }
        Ok(memory)
    }

    fn add(&mut self, stored: StoredMemory, without_damage: bool) {
        for maps in stored.maps {
            let Ok(id) = maps.backup.parse() else { continue };
            let at = self.maps.entry(id).or_insert(maps.at);
            *at = (*at).max(maps.at);
        }
        // Never one entry for each number: a report may claim any range.
        for whole in stored.packs {
            let numbers = self.whole.entry(whole.epoch).or_default();
            numbers.mark(whole.first.into(), whole.last.into(), whole.at);
        }
        for part in stored.parts {
            self.mark_pack((part.epoch, part.pack), part.from, part.to, part.at);
        }
        for wal in stored.wal {
            self.wal.entry((wal.record, wal.timeline)).or_default().mark(wal.first, wal.last, wal.at);
        }
        if !without_damage {
            for damage in stored.damage {
                if !self.damage.iter().any(|known| same_place(known, &damage)) {
                    self.damage.push(damage);
                }
            }
        }
    }

    /// When the windows of a pack were verified.
    pub(super) fn pack(&self, id: PackId) -> Spans {
        let mut spans = self.parts.get(&id).cloned().unwrap_or_default();
        if let Some(at) = self.whole.get(&id.0).and_then(|numbers| numbers.at(id.1.into())) {
            spans.mark(0, u64::MAX, at);
        }
        spans
    }

    pub(super) fn mark_pack(&mut self, id: PackId, first: u64, last: u64, at: Timestamp) {
        self.parts.entry(id).or_default().mark(first, last, at);
    }

    /// As it is stored: of what still exists.
    pub(super) fn store(&self, inventory: &Inventory, damage: &[Damage]) -> StoredMemory {
        let mut stored = StoredMemory {
            damage: damage.iter().map(|damage| Damage { windows: Vec::new(), ..damage.clone() }).collect(),
            ..StoredMemory::default()
        };
        for header in &inventory.headers {
            if let Some(at) = self.maps.get(&header.id) {
                stored.maps.push(StoredMaps { backup: header.id.to_string(), at: *at });
            }
        }
        for (&(epoch, number), pack) in &inventory.packs {
            let last_window = pack.windows() - 1;
            for span in self.pack((epoch, number)).iter() {
                if span.first == 0 && span.last >= last_window {
                    match stored.packs.last_mut() {
                        Some(before)
                            if (before.epoch, before.at) == (epoch, span.at) && before.last + 1 == number =>
                        {
                            before.last = number;
                        }
                        _ => {
                            stored.packs.push(StoredPacks { epoch, first: number, last: number, at: span.at })
                        }
                    }
                } else {
                    let to = span.last.min(last_window);
                    stored.parts.push(StoredPart { epoch, pack: number, from: span.first, to, at: span.at });
                }
            }
        }
        for archive in &inventory.archives {
            for timeline in archive.timelines() {
                let Some(spans) = self.wal.get(&(archive.record.sequence, timeline.get())) else { continue };
                for run in archive.index.runs(timeline) {
                    for part in spans.parts(run.first.0, run.last.0) {
                        let Some(at) = part.at else { continue };
                        stored.wal.push(StoredWal {
                            record: archive.record.sequence,
                            timeline: timeline.get(),
                            first: part.first,
                            last: part.last,
                            at,
                        });
                    }
                }
            }
        }
        stored
    }

    /// The damage that is known.
    pub(crate) fn known(&self) -> KnownDamage {
        KnownDamage { damage: self.damage.clone(), unreadable_reports: self.unreadable.clone() }
    }

    /// What is known of a backup; none where nothing of it was ever verified.
    pub(crate) fn of_backup(&self, header: &ManifestHeader) -> Option<BackupVerification> {
        let (mut needed, mut verified) = (0_u128, 0_u128);
        let mut oldest = self.maps.get(&header.id).copied();
        for pack in &header.packs {
            needed += u128::from(pack.live_bytes);
            let spans = self.pack((pack.epoch, pack.number));
            let windows = windows_of(pack.size);
            let share = u128::from(spans.verified(0, windows - 1));
            verified += u128::from(pack.live_bytes) * share / u128::from(windows);
            for part in spans.parts(0, windows - 1) {
                oldest = match (oldest, part.at) {
                    (Some(oldest), Some(at)) => Some(oldest.min(at)),
                    (oldest, at) => oldest.or(at),
                };
            }
        }
        let damaged = is_damaged(&self.damage, &header.id.to_string());
        let percent = (verified * 100).checked_div(needed).unwrap_or(100).min(100);
        // Bytes alone prove nothing where nobody looked at the maps.
        let most = if self.maps.contains_key(&header.id) { 100 } else { 99 };
        Some(BackupVerification {
            at: oldest?.to_string(),
            share_percent: u8::try_from(percent.min(most)).unwrap_or(100),
            damaged,
        })
    }
}

/// Whether damage keeps a backup from being restored.
pub(super) fn is_damaged(damage: &[Damage], backup: &str) -> bool {
    damage.iter().any(|damage| damage.kind.is_fatal() && damage.backups.iter().any(|id| id == backup))
}

fn same_place(one: &Damage, other: &Damage) -> bool {
    (one.kind, &one.object, one.offset) == (other.kind, &other.object, other.offset)
}

/// When a report of `verify` was finished; none for other reports.
fn time_of(name: &ReportName) -> Option<Timestamp> {
    name.time().filter(|_| name.verb() == Some(VERB))
}

/// Damage that is known without reading a byte of the backups.
#[derive(Clone, Debug, Default)]
pub struct KnownDamage {
    /// What was found and has not been proved good since.
    pub damage: Vec<Damage>,
    /// Reports of earlier verifications that cannot be read: what they knew is forgotten.
    pub unreadable_reports: Vec<String>,
}

impl KnownDamage {
    /// What keeps a backup from being restored, and from being the parent of another one.
    pub fn of_backup<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Damage> {
        self.damage
            .iter()
            .filter(move |damage| damage.kind.is_fatal() && damage.backups.iter().any(|backup| backup == id))
    }

    /// Whether anything does.
    #[must_use]
    pub fn is_damaged(&self, id: &str) -> bool {
        is_damaged(&self.damage, id)
    }
}

/// What earlier runs of `verify` found and no later one proved to be good. Reads the newest reports only.
///
/// A backup that this calls damaged must not become the parent of another.
///
/// # Errors
/// When the reports cannot be listed. One that cannot be read is named in the answer.
pub fn known_damage(stanza: &Stanza) -> Result<KnownDamage> {
    Ok(Memory::load(stanza)?.known())
}

/// The JSON of a report that is kept.
pub(super) fn stored_json<R: Serialize>(report: &R, memory: &StoredMemory) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Stored<'a, R> {
        #[serde(flatten)]
        report: &'a R,
        memory: &'a StoredMemory,
    }
    serde_json::to_vec(&Stored { report, memory }).map_err(|error| {
        Error::new(ErrorKind::Internal, "cannot write the report of verify as JSON")
            .cause(error)
            .hint("this is a defect: report it")
    })
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::made_up;
    use crate::verify::damage::DamageKind;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn put(stanza: &Stanza, started: i64, finished: i64, memory: StoredMemory) {
        #[derive(Serialize)]
        struct Report {
            started: Timestamp,
            finished: Timestamp,
        }
        let report = Report { started: at(started), finished: at(finished) };
        let json = stored_json(&report, &memory).unwrap();
        stanza.put_report(at(finished), VERB, json).unwrap();
    }

    fn damage(object: &str) -> Damage {
        Damage {
            kind: DamageKind::Corrupt,
            object: object.to_owned(),
            offset: Some(64),
            what: "rotten".to_owned(),
            files: Vec::new(),
            files_not_listed: 0,
            backups: vec!["000001-20270115T080000Z".to_owned()],
            windows: Vec::new(),
        }
    }

    fn part(pack: u32, from: u64, to: u64, second: i64) -> StoredMemory {
        let part = StoredPart { epoch: 1, pack, from, to, at: at(second) };
        StoredMemory { parts: vec![part], ..StoredMemory::default() }
    }

    #[test]
    fn two_runs_at_the_same_time_do_not_forget_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        put(&stanza, 0, 100, StoredMemory { damage: vec![damage("a")], ..part(1, 0, 9, 0) });
        put(&stanza, 50, 90, StoredMemory { damage: vec![damage("b")], ..part(2, 0, 9, 50) });
        let memory = Memory::load(&stanza).unwrap();
        let mut objects: Vec<&str> = memory.damage.iter().map(|damage| damage.object.as_str()).collect();
        objects.sort_unstable();
        assert_eq!(objects, ["a", "b"]);
        assert_eq!((memory.pack((1, 1)).verified(0, 9), memory.pack((1, 2)).verified(0, 9)), (10, 10));
        // One that began after both had ended knows better: what it does not name is healed.
        put(&stanza, 5000, 5100, StoredMemory { damage: vec![damage("b")], ..part(1, 0, 9, 5000) });
        let known = known_damage(&stanza).unwrap();
        assert_eq!(known.damage.iter().map(|d| d.object.as_str()).collect::<Vec<_>>(), ["b"]);
        assert!(known.is_damaged("000001-20270115T080000Z") && !known.is_damaged("000002-20270115T090000Z"));
    }

    #[test]
    fn a_report_that_cannot_be_read_is_named_and_the_one_before_counts() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        put(&stanza, 0, 100, StoredMemory { damage: vec![damage("a")], ..StoredMemory::default() });
        stanza.put_report(at(200), VERB, b"{".to_vec()).unwrap();
        // Reports of other verbs are none of ours.
        stanza.put_report(at(300), "drill", b"{}".to_vec()).unwrap();
        let known = known_damage(&stanza).unwrap();
        assert_eq!((known.damage.len(), known.unreadable_reports.len()), (1, 1));
    }

    #[test]
    fn a_claim_about_every_pack_takes_no_room_for_each() {
        let directory = tempfile::tempdir().unwrap();
        let stanza = made_up::stanza(directory.path());
        let all = StoredPacks { epoch: 1, first: 0, last: u32::MAX, at: at(0) };
        put(&stanza, 0, 100, StoredMemory { packs: vec![all], ..StoredMemory::default() });
        let memory = Memory::load(&stanza).unwrap();
        assert_eq!(memory.pack((1, 77)).verified(0, 9), 10);
        assert_eq!(memory.pack((2, 77)).verified(0, 9), 0);
    }
}
