//! `verify`: reads what is stored and proves that it is what was written.
//!
//! request → plan → run → report. What is proved: manifests; block maps (every leaf covers its blocks and agrees with the
//! digest of its file); every frame of every pack, read once however many backups share it; block digests of maps against
//! what the frames hold; page checksums; WAL without holes, each file with the right digest and each segment continuing the
//! one before. What is damaged is told with the files, blocks, backups and windows that it touches, and with what still
//! restores.
//!
//! What was verified is remembered in the report, which is stored in the repository: runs with a budget go on where the
//! last one ended. Nothing else is written. Killed at any point, a run leaves nothing, and the next one reads again.
//!
//! Memory: facts of the blocks of one batch (64 MiB), the compressed lists of files of some backups, one entry for each pack.

mod continuity;
mod damage;
mod inventory;
mod map_walk;
mod memory;
mod pack_reading;
mod plan;
mod request;
mod spans;
mod wal_reading;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use pgkeep_repo::{BackupId, FrameFetcher, PackEntry, RepoError, Stanza};

pub use damage::{BlockRange, Damage, DamageKind, DamagedFile};
pub(crate) use memory::Memory;
pub use memory::{BackupVerification, KnownDamage, known_damage};
pub use request::{Coverage, VerifiedAmounts, VerifyReport, VerifyRequest};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Cancel, Event, Observer, Step};
use crate::list::choose;
use damage::{Findings, PlaceName};
use inventory::{Inventory, PackId, manifest_key};
use map_walk::Depth;
use pack_reading::{BATCH_BLOCKS, Batch, FrameTable, OpenPack};
use plan::{Item, VerifyPlan, Work};

/// Backups that are open at a time: what they share is read once, and each holds its compressed list of files.
const OPEN_BACKUPS: usize = 16;

/// Verifies a stanza.
///
/// # Errors
/// When the repository as a whole cannot be used. Damage is no error but the answer.
pub fn verify(request: &VerifyRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<VerifyReport> {
    let doing = format!("cannot verify `{}` in `{}`", request.location.stanza, request.location.repository);
    run(request, observer, cancel).map_err(|error| error.while_doing(doing))
}

fn run(request: &VerifyRequest, observer: &dyn Observer, cancel: &Cancel) -> Result<VerifyReport> {
    check_request(request)?;
    let started = Timestamp::now();
    let stanza = request.location.open_stanza()?;
    let findings = Findings::default();
    let inventory = Inventory::load(&stanza, &findings)?;
    let memory = Memory::load(&stanza)?;
    let chosen = match &request.backup {
        None => None,
        Some(name) => Some(find(&inventory, name)?),
    };
    let chosen_index = chosen.map(|id| inventory.headers.iter().position(|header| header.id == id));
    // A backup whose manifest cannot be read is damage already; there is nothing more to read of it.
    let plan = match chosen_index {
        Some(None) => VerifyPlan::default(),
        Some(Some(index)) => plan::plan(&inventory, &memory, request, Some(index)),
        None => plan::plan(&inventory, &memory, request, None),
    };
    let before = memory.clone();
    let mut run = Run {
        request,
        inventory: &inventory,
        findings: &findings,
        memory,
        started,
        began: Instant::now(),
        observer,
        cancel,
        done_bytes: AtomicU64::new(0),
        told: std::sync::Mutex::new(Instant::now()),
        amounts: VerifiedAmounts::default(),
        packs_read: BTreeSet::new(),
        open: BTreeMap::new(),
    };
    if request.dry_run {
        let mut report = run.report(&before, Vec::new(), 0);
        report.plan = plan.describe(&inventory);
        only_about(&mut report, chosen);
        return Ok(report);
    }
    for text in &before.unreadable {
        let hint = "what it knew is read again; remove it when you have looked at it".to_owned();
        observer.event(Event::Warning { text: text.clone(), hint: Some(hint) });
    }
    continuity::note_missing(&inventory, &before, &findings);
    observer.event(Event::StepStarted { step: Step::Verify, total_bytes: Some(plan.bytes) });
    run.work(&plan, chosen.is_none())?;
    observer.event(Event::StepFinished { step: Step::Verify });
    refuse_vanished_repository(&stanza)?;
    let (damage, not_listed) = findings.take();
    let damage = still_needed(&stanza, damage)?;
    let mut report = run.report(&before, damage, not_listed);
    if chosen.is_none() && request.sample_percent.is_none() {
        let goes_on = || !is_over(cancel, run.began, request) && request.max_bytes.is_none();
        report.dumps = match crate::dump::check_all(&stanza, observer, cancel, &goes_on) {
            Err(error) if error.kind == ErrorKind::Interrupted => Vec::new(),
            dumps => dumps?,
        };
        report.ok &= report.dumps.iter().all(|dump| dump.ok);
        report.interrupted = cancel.is_cancelled();
    }
    run.store(&stanza, &mut report);
    only_about(&mut report, chosen);
    Ok(report)
}

/// Who asks about one backup is told what concerns it; everything else is remembered all the same.
fn only_about(report: &mut VerifyReport, chosen: Option<BackupId>) {
    let Some(id) = chosen.map(|id| id.to_string()) else { return };
    report.damage.retain(|damage| damage.backups.contains(&id));
    report.ok = report.damage.is_empty() && report.damage_not_listed == 0;
}

fn check_request(request: &VerifyRequest) -> Result<()> {
    if request.sample_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(Error::new(ErrorKind::Usage, "a sample is 1 to 100 percent")
            .hint("give another number to `--sample`, or leave it out"));
    }
    Ok(())
}

fn find(inventory: &Inventory, name: &str) -> Result<BackupId> {
    let ids = inventory.headers.iter().map(|header| header.id).chain(inventory.unreadable.iter().copied());
    choose(ids.collect(), name, inventory.stanza.name().as_str())
}

/// A repository that is not there any more has lost nothing: its file system is gone.
fn refuse_vanished_repository(stanza: &Stanza) -> Result<()> {
    match stanza.repository().stanza(stanza.name().as_str()) {
        Ok(_) => Ok(()),
        Err(error @ (RepoError::Corrupt { .. } | RepoError::NewerFormat { .. })) => Err(error.into()),
        Err(error) => Err(Error::from(error)
            .while_doing("the repository went away while it was read")
            .hint("check that its file system is mounted, and run the command again")),
    }
}

/// Takes away what somebody removed on purpose meanwhile: a backup whose manifest is gone needs nothing.
fn still_needed(stanza: &Stanza, mut damage: Vec<Damage>) -> Result<Vec<Damage>> {
    if damage.is_empty() {
        return Ok(damage);
    }
    let ids: BTreeSet<String> = stanza.backups()?.iter().map(|listing| listing.id.to_string()).collect();
    damage.retain_mut(|damage| {
        let had_backups = !damage.backups.is_empty();
        damage.backups.retain(|id| ids.contains(id));
        !had_backups || !damage.backups.is_empty()
    });
    Ok(damage)
}

struct Run<'a> {
    request: &'a VerifyRequest,
    inventory: &'a Inventory,
    findings: &'a Findings,
    memory: Memory,
    started: Timestamp,
    began: Instant,
    observer: &'a dyn Observer,
    cancel: &'a Cancel,
    done_bytes: AtomicU64,
    told: std::sync::Mutex<Instant>,
    amounts: VerifiedAmounts,
    packs_read: BTreeSet<PackId>,
    /// Fetchers for all packs, by the block size of their clusters.
    open: BTreeMap<u32, FrameFetcher>,
}

impl Run<'_> {
    fn work(&mut self, plan: &VerifyPlan, everything: bool) -> Result<()> {
        let mut by_size: BTreeMap<u32, Vec<PackEntry>> = BTreeMap::new();
        for pack in self.inventory.packs.values() {
            by_size.entry(pack.block_size).or_default().push(pack.entry.clone());
        }
        for (block_size, packs) in by_size {
            self.open.insert(block_size, self.inventory.stanza.frames_of(block_size, &packs));
        }
        if everything {
            for archive in &self.inventory.archives {
                let (files, bytes) = wal_reading::read_others(archive, self.findings)?;
                self.amounts.wal_files += files;
                self.add_bytes(bytes);
            }
        }
        // Neighbours of one kind are done together; the order of kinds is that of the plan.
        for group in plan.items.chunk_by(|a, b| a.work.kind() == b.work.kind()) {
            if self.is_over() {
                break;
            }
            match group.first().map(|item| item.work) {
                Some(Work::Maps { .. }) => self.maps(group)?,
                Some(Work::Wal { .. }) => self.wal(group)?,
                Some(Work::Pack { .. }) => self.packs(group)?,
                None => {}
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        is_over(self.cancel, self.began, self.request)
    }

    fn add_bytes(&mut self, bytes: u64) {
        self.amounts.read_bytes += bytes;
    }

    fn tell(&self, bytes: u64) {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Ok(mut told) = self.told.try_lock() else { return };
        if told.elapsed().as_millis() >= 100 {
            *told = Instant::now();
            self.observer.event(Event::Progress { step: Step::Verify, done_bytes });
        }
    }

    fn maps(&mut self, items: &[Item]) -> Result<()> {
        let backups = items.iter().filter_map(|item| match item.work {
            Work::Maps { backup } => self.inventory.headers.get(backup).map(|header| (header.id, item.bytes)),
            _ => None,
        });
        let backups: Vec<(BackupId, u64)> = backups.collect();
        for group in backups.chunks(OPEN_BACKUPS) {
            if self.is_over() {
                return Ok(());
            }
            let ids = group.iter().map(|(id, _)| *id);
            let readers = map_walk::open(&self.inventory.stanza, ids, self.findings)?;
            let walked =
                map_walk::walk(&readers, Depth::Whole, &FrameTable::default(), self.findings, self.cancel);
            let amounts = match walked {
                Ok(amounts) => amounts,
                Err(error) if error.kind == ErrorKind::Interrupted => return Ok(()),
                Err(error) => return Err(error),
            };
            for reader in &readers {
                self.wal_tail(reader)?;
                self.amounts.read_bytes += reader.manifest_bytes();
            }
            self.amounts.files += amounts.files;
            self.amounts.backups += group.len() as u64;
            for (id, bytes) in group {
                self.memory.maps.insert(*id, self.started);
                self.tell(*bytes);
            }
        }
        Ok(())
    }

    /// WAL that is kept with the backup itself.
    fn wal_tail(&mut self, reader: &pgkeep_repo::BackupReader) -> Result<()> {
        for name in &reader.header().wal_tail {
            let key = format!("{}/backup/{}/wal/{name}", self.inventory.stanza.name(), reader.id());
            match reader.wal_tail(name) {
                Ok(file) => {
                    self.amounts.wal_files += 1;
                    self.add_bytes(file.header.stored_len);
                }
                Err(error) if inventory::is_general(&error) => return Err(error.into()),
                Err(error) => {
                    let place = self.findings.error(&key, error)?;
                    self.findings.needed_by(&place, [reader.id()]);
                }
            }
        }
        Ok(())
    }

    fn wal(&mut self, items: &[Item]) -> Result<()> {
        let tasks: Vec<wal_reading::Task> = items
            .iter()
            .flat_map(|item| match item.work {
                Work::Wal { archive, timeline, first, last } => {
                    wal_reading::tasks(archive, timeline, first, last)
                }
                _ => Vec::new(),
            })
            .collect();
        let (cancel, began, request) = (self.cancel, self.began, self.request);
        let result = wal_reading::read(
            self.inventory,
            &tasks,
            self.findings,
            self.request.jobs,
            &|| is_over(cancel, began, request),
            &|bytes| self.tell(bytes),
        )?;
        self.amounts.wal_files += result.files;
        self.add_bytes(result.bytes);
        for task in result.done {
            let Some(archive) = self.inventory.archives.get(task.archive) else { continue };
            let spans = self.memory.wal.entry((archive.record.sequence, task.timeline.get())).or_default();
            spans.mark(task.first, task.last, self.started);
        }
        Ok(())
    }

    fn packs(&mut self, items: &[Item]) -> Result<()> {
        let mut tasks = Vec::new();
        let mut lost: BTreeMap<PackId, (u64, PlaceName)> = BTreeMap::new();
        let mut blocks = 0_u64;
        let mut opened: Option<OpenPack> = None;
        for item in items {
            let Work::Pack { pack: id, first, last } = item.work else { continue };
            if self.is_over() {
                break;
            }
            let Some(pack) = self.inventory.packs.get(&id) else { continue };
            let Some(frames) = self.open.get(&pack.block_size) else { continue };
            let open = match opened.take() {
                Some(open) if open.id == id => open,
                _ => OpenPack::open(self.inventory, frames, id, pack, self.findings)?,
            };
            if let Some(damaged) = open.lost() {
                lost.insert(id, damaged);
            }
            for task in open.tasks(first, last) {
                blocks += task.blocks(pack.block_size);
                tasks.push(task);
                if blocks >= BATCH_BLOCKS {
                    self.batch(&std::mem::take(&mut tasks), std::mem::take(&mut lost))?;
                    if let Some(damaged) = open.lost() {
                        lost.insert(id, damaged);
                    }
                    blocks = 0;
                }
            }
            opened = Some(open);
        }
        self.batch(&tasks, lost)
    }

    /// Reads a batch, compares maps with it, and remembers it.
    fn batch(
        &mut self,
        tasks: &[pack_reading::Task],
        lost: BTreeMap<PackId, (u64, PlaceName)>,
    ) -> Result<()> {
        if tasks.is_empty() && lost.is_empty() {
            return Ok(());
        }
        let (cancel, began, request) = (self.cancel, self.began, self.request);
        let batch = Batch {
            inventory: self.inventory,
            frames: &self.open,
            findings: self.findings,
            jobs: self.request.jobs,
            is_over: &|| is_over(cancel, began, request),
            told: &|bytes| self.tell(bytes),
        };
        let result = batch.read(tasks, lost)?;
        // Damage is told with all that it touches, also what was not asked for.
        let damaged: BTreeSet<PackId> = result.table.damaged_packs().collect();
        let done = result.done.iter().map(|(pack, _, _)| *pack);
        let mut concerned: BTreeSet<usize> = BTreeSet::new();
        for id in done.chain(damaged.iter().copied()) {
            let Some(pack) = self.inventory.packs.get(&id) else { continue };
            let wanted = |index: &&usize| damaged.contains(&id) || self.is_wanted(**index);
            concerned.extend(pack.backups.iter().filter(wanted));
        }
        let ids: Vec<BackupId> =
            concerned.iter().filter_map(|index| self.inventory.headers.get(*index)).map(|h| h.id).collect();
        for group in ids.chunks(OPEN_BACKUPS) {
            let readers = map_walk::open(&self.inventory.stanza, group.iter().copied(), self.findings)?;
            let walked = map_walk::walk(&readers, Depth::Compared, &result.table, self.findings, self.cancel);
            match walked {
                Ok(amounts) => self.amounts.pages += amounts.pages,
                // What was not compared counts as not verified.
                Err(error) if error.kind == ErrorKind::Interrupted => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.amounts.frames += result.amounts.frames;
        self.add_bytes(result.amounts.bytes);
        for (pack, first, last) in result.done {
            self.packs_read.insert(pack);
            self.memory.mark_pack(pack, first, last, self.started);
        }
        Ok(())
    }

    fn is_wanted(&self, index: usize) -> bool {
        let Some(name) = &self.request.backup else { return true };
        let id = self.inventory.headers.get(index).map(|header| header.id);
        id.is_some() && find(self.inventory, name).ok() == id
    }

    /// The report; `damage` is what this run found, to which what it did not look at is added.
    fn report(&self, before: &Memory, mut damage: Vec<Damage>, damage_not_listed: u64) -> VerifyReport {
        let mut healed = Vec::new();
        for known in &before.damage {
            let again = damage.iter().any(|found| {
                (found.kind, &found.object, found.offset) == (known.kind, &known.object, known.offset)
            });
            if again {
                continue;
            }
            match self.standing(known) {
                Standing::Unknown => damage.push(known.clone()),
                Standing::Good => healed.push(match known.offset {
                    Some(offset) => format!("{} at offset {offset}", known.object),
                    None => known.object.clone(),
                }),
                Standing::Gone => {}
            }
        }
        let leftover = continuity::judge(self.inventory, &mut damage);
        VerifyReport {
            stanza: self.inventory.stanza.name().to_string(),
            started: self.started.to_string(),
            finished: Timestamp::now().to_string(),
            dry_run: self.request.dry_run,
            interrupted: self.cancel.is_cancelled(),
            plan: Vec::new(),
            verified: VerifiedAmounts { packs: self.packs_read.len() as u64, ..self.amounts },
            coverage: self.coverage(),
            ok: damage.is_empty() && damage_not_listed == 0,
            damage,
            damage_not_listed,
            dumps: Vec::new(),
            healed,
            good_backups: leftover.good_backups,
            damaged_backups: leftover.damaged_backups,
            good_windows: leftover.good_windows,
            stored_as: None,
            not_stored: None,
            warnings: before.unreadable.clone(),
        }
    }

    /// What this run knows of a place that was damaged before.
    fn standing(&self, known: &Damage) -> Standing {
        let inventory = self.inventory;
        for (id, pack) in &inventory.packs {
            if inventory::pack_key(&inventory.stanza, &pack.entry) != known.object {
                continue;
            }
            let window = known.offset.map_or(0, |offset| offset / inventory::WINDOW_BYTES);
            let window = window.min(pack.windows() - 1);
            let read = self.memory.pack(*id).is_verified_since(window, self.started);
            // Where a map could not be read, the frames alone do not prove that it can.
            let maps = known.backups.iter().all(|backup| {
                let id = inventory.headers.iter().map(|h| h.id).find(|id| id.to_string() == *backup);
                id.is_none_or(|id| self.memory.maps.get(&id).is_some_and(|at| *at >= self.started))
            });
            return if read && maps { Standing::Good } else { Standing::Unknown };
        }
        for header in &inventory.headers {
            let prefix = format!("{}/backup/{}/", inventory.stanza.name(), header.id);
            if known.object == manifest_key(&inventory.stanza, header.id)
                || known.object.starts_with(&format!("{prefix}wal/"))
            {
                let read = self.memory.maps.get(&header.id).is_some_and(|at| *at >= self.started);
                return if read { Standing::Good } else { Standing::Unknown };
            }
        }
        for archive in &inventory.archives {
            let size = archive.index.segment_size();
            let name = known
                .object
                .rsplit('/')
                .next()
                .and_then(|name| pgkeep_format::WalFileName::parse(name, size));
            let Some(name) = name.filter(|name| archive.archive.key(*name) == known.object) else { continue };
            let pgkeep_format::WalFileName::Segment(segment) = name else {
                // Read by every run that is not about one backup.
                let exists = archive.others.contains(&name);
                return match (exists, self.request.backup.is_some()) {
                    (false, _) => Standing::Gone,
                    (true, true) => Standing::Unknown,
                    (true, false) => Standing::Good,
                };
            };
            // What is missing is looked for in every run.
            if !archive.index.has(segment) || known.kind == DamageKind::Missing {
                return if archive.index.has(segment) { Standing::Good } else { Standing::Gone };
            }
            let key = (archive.record.sequence, segment.timeline.get());
            let spans = self.memory.wal.get(&key);
            let read = spans.is_some_and(|s| s.is_verified_since(segment.number.0, self.started));
            return if read { Standing::Good } else { Standing::Unknown };
        }
        Standing::Gone
    }

    fn coverage(&self) -> Coverage {
        let mut coverage = Coverage::default();
        let mut oldest: Option<Timestamp> = None;
        let mut saw = |at: Timestamp| oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
        for (id, pack) in &self.inventory.packs {
            coverage.pack_bytes += pack.entry.size;
            for part in self.memory.pack(*id).parts(0, pack.windows() - 1) {
                let Some(at) = part.at else { continue };
                saw(at);
                let end = (part.last + 1).saturating_mul(inventory::WINDOW_BYTES).min(pack.entry.size);
                coverage.verified_pack_bytes +=
                    end.saturating_sub(part.first.saturating_mul(inventory::WINDOW_BYTES));
            }
        }
        for archive in &self.inventory.archives {
            for timeline in archive.timelines() {
                let spans = self.memory.wal.get(&(archive.record.sequence, timeline.get()));
                for run in archive.index.runs(timeline) {
                    coverage.wal_segments += run.last.0 - run.first.0 + 1;
                    for part in spans.map(|s| s.parts(run.first.0, run.last.0)).unwrap_or_default() {
                        let Some(at) = part.at else { continue };
                        saw(at);
                        coverage.verified_wal_segments += part.last - part.first + 1;
                    }
                }
            }
        }
        coverage.oldest = oldest.map(|at| at.to_string());
        coverage
    }

    /// Keeps the report in the repository. A repository that may only be read is verified all the same.
    fn store(&self, stanza: &Stanza, report: &mut VerifyReport) {
        // Names and positions tell what is missing: it is found anew by every run.
        let lasting: Vec<Damage> =
            report.damage.iter().filter(|damage| is_lasting(damage)).cloned().collect();
        let stored = self.memory.store(self.inventory, &lasting);
        let kept = memory::stored_json(&*report, &stored)
            .and_then(|json| Ok(stanza.put_report(Timestamp::now(), memory::VERB, json)?));
        match kept {
            Ok(name) => report.stored_as = Some(name.as_str().to_owned()),
            Err(error) => report.not_stored = Some(error.to_string()),
        }
    }
}

/// Whether damage has to be remembered; a hole in the archive is seen by its names. (WAL that is kept with a backup lies
/// below `backup/`.)
fn is_lasting(damage: &Damage) -> bool {
    !(damage.kind == DamageKind::Missing && damage.object.split('/').nth(1) == Some("wal"))
}

enum Standing {
    /// It was read again and is sound.
    Good,
    /// It was not read again.
    Unknown,
    /// Nothing of the kind is needed any more.
    Gone,
}

fn is_over(cancel: &Cancel, began: Instant, request: &VerifyRequest) -> bool {
    cancel.is_cancelled() || request.max_time.is_some_and(|most| began.elapsed() >= most)
}
