//! What is known from earlier verifications: when which windows of packs, maps and WAL were verified, and what is damaged.
//!
//! Kept in the reports that `verify` stores (`docs/format/report.md`). Each report holds all that was known when it was
//! written, so that reading the newest one is enough, with those that were written while it ran: two machines that verify
//! at the same time do not lose each other's results. A report that is lost costs nothing but reading again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pgkeep_repo::{BackupId, ManifestHeader, ReportName, Stanza};
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
    /// Windows of packs.
    pub(super) packs: BTreeMap<PackId, Spans>,
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

/// No stanza has more packs of one backup; what says otherwise is damaged.
const MAX_PACKS: u32 = 1 << 22;

impl Memory {
    /// Reads the newest report, and those that it cannot have known.
    pub(crate) fn load(stanza: &Stanza) -> Result<Memory> {
        let mut memory = Memory::default();
        let mut names: Vec<(Timestamp, ReportName)> =
            stanza.reports()?.into_iter().filter_map(|name| Some((time_of(&name)?, name))).collect();
        names.sort_by(|a, b| b.cmp(a));
        // The beginning of the newest readable report.
        let mut known_since: Option<Timestamp> = None;
        for (finished, name) in names.into_iter().take(MAX_REPORTS) {
            if known_since.is_some_and(|started| finished < started - CLOCKS) {
                break;
            }
            let report: StoredReport = match stanza.report(&name) {
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(report) => report,
                    Err(error) => {
                        memory.unreadable.push(format!("report `{}` cannot be read: {error}", name.as_str()));
                        continue;
                    }
                },
                // Retention may have removed it just now.
                Err(pgkeep_repo::RepoError::NotFound { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            // What a report that began later says of the same place counts: it may be healed.
            let superseded = known_since.is_some_and(|started| finished < started);
            memory.add(report.memory, superseded);
            known_since = known_since.or(Some(report.started));
        }
        Ok(memory)
    }

    fn add(&mut self, stored: StoredMemory, without_damage: bool) {
        for maps in stored.maps {
            let Ok(id) = maps.backup.parse() else { continue };
            let at = self.maps.entry(id).or_insert(maps.at);
            *at = (*at).max(maps.at);
        }
        for whole in stored.packs {
            for number in whole.first..=whole.last.min(whole.first.saturating_add(MAX_PACKS)) {
                self.packs.entry((whole.epoch, number)).or_default().mark(0, u64::MAX, whole.at);
            }
        }
        for part in stored.parts {
            self.packs.entry((part.epoch, part.pack)).or_default().mark(part.from, part.to, part.at);
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
            let Some(spans) = self.packs.get(&(epoch, number)) else { continue };
            for span in spans.iter() {
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
            let Some(spans) = self.packs.get(&(pack.epoch, pack.number)) else { continue };
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
    let (time, rest) = name.as_str().split_once('-')?;
    rest.strip_prefix(VERB)?.strip_prefix('-')?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
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
/// When the storage fails. A report that cannot be read is named in the answer.
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
