//! What will be verified, in which order, and what is left for the next run.
//!
//! Pure: from the inventory and what is remembered. First what was damaged when it was last looked at, then what was never
//! verified, then the oldest: runs with a budget cover a repository in turn. A budget cuts the list; the first piece of it
//! is always taken, so that each run gets on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pgkeep_format::{SegmentNumber, TimelineId, WalSegmentName};

use super::inventory::{Inventory, PackId, WINDOW_BYTES, manifest_key, pack_key};
use super::memory::Memory;
use super::request::VerifyRequest;
use super::spans::{Part, Spans};

/// Something to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// The manifest and the block maps of a backup, by its place in the inventory.
    Maps { backup: usize },
    /// Segments of a timeline, both ends included.
    Wal { archive: usize, timeline: TimelineId, first: u64, last: u64 },
    /// Windows of a pack, both ends included.
    Pack { pack: PackId, first: u64, last: u64 },
}

impl Work {
    /// Work of one kind is done together.
    pub(super) fn kind(self) -> u8 {
        match self {
            Work::Maps { .. } => 0,
            Work::Wal { .. } => 1,
            Work::Pack { .. } => 2,
        }
    }
}

/// One piece of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) work: Work,
    /// When it was verified last.
    pub(super) last: Option<Timestamp>,
    /// Whether damage was found in it then.
    pub(super) suspect: bool,
    /// Stored bytes, about.
    pub(super) bytes: u64,
}

/// The plan.
#[derive(Clone, Debug, Default)]
pub(super) struct VerifyPlan {
    pub(super) items: Vec<Item>,
    /// Stored bytes of all items, about.
    pub(super) bytes: u64,
    /// What a budget left out, about.
    pub(super) left_out_bytes: u64,
}

/// Decides. `chosen` is the only backup that is asked for.
pub(super) fn plan(
    inventory: &Inventory,
    memory: &Memory,
    request: &VerifyRequest,
    chosen: Option<usize>,
) -> VerifyPlan {
    let mut dice = Dice(request.seed);
    let mut items = Vec::new();
    add_maps(inventory, memory, chosen, &mut items);
    if let Some(percent) = request.sample_percent {
        // At least one; which ones is chance.
        let keep = items.len().saturating_mul(usize::from(percent)).div_ceil(100);
        while items.len() > keep {
            items.swap_remove(dice.below(items.len() as u64) as usize);
        }
    }
    add_wal(inventory, memory, request, chosen, &mut dice, &mut items);
    add_packs(inventory, memory, request, chosen, &mut dice, &mut items);
    if request.since_last {
        items.retain(|item| item.last.is_none() || item.suspect);
    }
    items.sort_by_key(|item| (!item.suspect, item.last, item.work));
    cut(items, request.max_bytes, inventory)
}

fn add_maps(inventory: &Inventory, memory: &Memory, chosen: Option<usize>, items: &mut Vec<Item>) {
    for (index, header) in inventory.headers.iter().enumerate() {
        if chosen.is_some_and(|chosen| chosen != index) {
            continue;
        }
        let blocks = header.totals.size_bytes / u64::from(header.block_size.max(1));
        let id = header.id.to_string();
        let key = manifest_key(&inventory.stanza, header.id);
        let suspect = memory.damage.iter().any(|damage| {
            // Damage found by way of a map may be in a frame that only maps lead to.
            damage.object == key || (damage.offset.is_some() && damage.backups.contains(&id))
        });
        items.push(Item {
            work: Work::Maps { backup: index },
            last: memory.maps.get(&header.id).copied(),
            suspect,
            // A digest of 8 bytes for each block, and about one more for where it is.
            bytes: blocks.saturating_mul(9).saturating_add(header.totals.files.saturating_mul(25)),
        });
    }
}

fn add_wal(
    inventory: &Inventory,
    memory: &Memory,
    request: &VerifyRequest,
    chosen: Option<usize>,
    dice: &mut Dice,
    items: &mut Vec<Item>,
) {
    for (index, archive) in inventory.archives.iter().enumerate() {
        let size = archive.index.segment_size();
        let only = match chosen.and_then(|chosen| inventory.headers.get(chosen)) {
            Some(header) if header.record == archive.record.sequence => {
                Some((size.segment_at(header.start_lsn).0, size.segment_before(header.stop_lsn).0))
            }
            Some(_) => continue,
            None => None,
        };
        let empty = Spans::default();
        for timeline in archive.timelines() {
            let spans = memory.wal.get(&(archive.record.sequence, timeline.get())).unwrap_or(&empty);
            for run in archive.index.runs(timeline) {
                let (from, to) = only.unwrap_or((0, u64::MAX));
                let (first, last) = (run.first.0.max(from), run.last.0.min(to));
                if first > last {
                    continue;
                }
                for (first, last) in sample(first, last, request.sample_percent, dice) {
                    let suspects: Vec<u64> = memory
                        .damage
                        .iter()
                        .filter_map(|damage| archive.segment_of(&damage.object))
                        .filter(|name| name.timeline == timeline)
                        .map(|name| name.number.0)
                        .collect();
                    for part in split(spans.parts(first, last), &suspects) {
                        let segments = part.0.last - part.0.first + 1;
                        items.push(Item {
                            work: Work::Wal {
                                archive: index,
                                timeline,
                                first: part.0.first,
                                last: part.0.last,
                            },
                            last: part.0.at,
                            suspect: part.1,
                            // How well each compresses is not known from its name.
                            bytes: segments.saturating_mul(size.bytes() / 2),
                        });
                    }
                }
            }
        }
    }
}

fn add_packs(
    inventory: &Inventory,
    memory: &Memory,
    request: &VerifyRequest,
    chosen: Option<usize>,
    dice: &mut Dice,
    items: &mut Vec<Item>,
) {
    let mut damaged: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for damage in &memory.damage {
        damaged.entry(&damage.object).or_default().push(damage.offset.unwrap_or(0) / WINDOW_BYTES);
    }
    for (id, pack) in &inventory.packs {
        if chosen.is_some_and(|chosen| !pack.backups.contains(&chosen)) {
            continue;
        }
        let key = pack_key(&inventory.stanza, &pack.entry);
        let last_window = pack.windows() - 1;
        let suspects: Vec<u64> = damaged
            .get(key.as_str())
            .map(|windows| windows.iter().map(|window| (*window).min(last_window)).collect())
            .unwrap_or_default();
        let spans = memory.pack(*id);
        for (first, last) in sample(0, last_window, request.sample_percent, dice) {
            for (part, suspect) in split(spans.parts(first, last), &suspects) {
                items.push(Item {
                    work: Work::Pack { pack: *id, first: part.first, last: part.last },
                    last: part.at,
                    suspect,
                    bytes: bytes_of(pack.entry.size, part.first, part.last),
                });
            }
        }
    }
}

fn bytes_of(size: u64, first: u64, last: u64) -> u64 {
    let end = last.saturating_add(1).saturating_mul(WINDOW_BYTES).min(size);
    end.saturating_sub(first.saturating_mul(WINDOW_BYTES))
}

/// A share of the numbers: one stretch from a place that chance decides, around the end where need be.
fn sample(first: u64, last: u64, percent: Option<u8>, dice: &mut Dice) -> Vec<(u64, u64)> {
    let count = last - first + 1;
    let wanted = percent.map_or(count, |percent| {
        u64::try_from((u128::from(count) * u128::from(percent)).div_ceil(100)).unwrap_or(count)
    });
    if wanted >= count {
        return vec![(first, last)];
    }
    let begin = first + dice.below(count);
    let end = begin + wanted - 1;
    if end <= last { vec![(begin, end)] } else { vec![(first, first + (end - last) - 1), (begin, last)] }
}

/// Cuts suspects out of parts: each of them is a part of its own.
fn split(parts: Vec<Part>, suspects: &[u64]) -> Vec<(Part, bool)> {
    let mut sorted: Vec<u64> = suspects.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut found = Vec::new();
    for part in parts {
        let mut next = part.first;
        for number in sorted.iter().copied().filter(|n| part.first <= *n && *n <= part.last) {
            if number > next {
                found.push((Part { first: next, last: number - 1, ..part }, false));
            }
            found.push((Part { first: number, last: number, ..part }, true));
            next = number + 1;
        }
        if next <= part.last {
            found.push((Part { first: next, ..part }, false));
        }
    }
    found
}

/// Takes from the front what the budget allows.
fn cut(items: Vec<Item>, max_bytes: Option<u64>, inventory: &Inventory) -> VerifyPlan {
    let mut plan = VerifyPlan::default();
    for item in items {
        let left = max_bytes.map_or(u64::MAX, |most| most.saturating_sub(plan.bytes));
        let taken = if item.bytes <= left {
            Some(item)
        } else if left > 0 || plan.items.is_empty() {
            shortened(item, left, inventory)
        } else {
            None
        };
        plan.left_out_bytes += item.bytes.saturating_sub(taken.map_or(0, |taken| taken.bytes));
        if let Some(taken) = taken {
            plan.bytes = plan.bytes.saturating_add(taken.bytes);
            plan.items.push(taken);
        }
    }
    plan
}

/// As much of an item as `bytes` allow, and at least the smallest part.
fn shortened(item: Item, bytes: u64, inventory: &Inventory) -> Option<Item> {
    match item.work {
        Work::Maps { .. } => Some(item),
        Work::Wal { archive, timeline, first, last } => {
            let each = inventory.archives.get(archive)?.index.segment_size().bytes() / 2;
            let segments = (bytes / each).max(1).min(last - first + 1);
            let work = Work::Wal { archive, timeline, first, last: first + segments - 1 };
            Some(Item { work, bytes: segments * each, ..item })
        }
        Work::Pack { pack, first, last } => {
            let windows = (bytes / WINDOW_BYTES).max(1).min(last - first + 1);
            let end = first + windows - 1;
            let size = inventory.packs.get(&pack)?.entry.size;
            Some(Item {
                work: Work::Pack { pack, first, last: end },
                bytes: bytes_of(size, first, end),
                ..item
            })
        }
    }
}

/// Numbers that look like chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

impl VerifyPlan {
    /// What will be done, in lines.
    pub(super) fn describe(&self, inventory: &Inventory) -> Vec<String> {
        let mut lines = Vec::new();
        for item in &self.items {
            let why = match (item.suspect, item.last) {
                (true, _) => "damaged when it was last read".to_owned(),
                (false, None) => "never verified".to_owned(),
                (false, Some(at)) => format!("last verified {at}"),
            };
            let what = match item.work {
                Work::Maps { backup } => match inventory.headers.get(backup) {
                    Some(header) => format!("manifest and block maps of {}", header.id),
                    None => continue,
                },
                Work::Wal { archive, timeline, first, last } => {
                    let Some(archive) = inventory.archives.get(archive) else { continue };
                    let name = |number| {
                        WalSegmentName { timeline, number: SegmentNumber(number) }
                            .file_name(archive.index.segment_size())
                    };
                    format!("WAL {} to {}", name(first), name(last))
                }
                Work::Pack { pack, first, last } => match inventory.packs.get(&pack) {
                    Some(pack) if first == 0 && last + 1 >= pack.windows() => {
                        pack_key(&inventory.stanza, &pack.entry)
                    }
                    Some(pack) => {
                        let key = pack_key(&inventory.stanza, &pack.entry);
                        format!("{key}, bytes {} to {}", first * WINDOW_BYTES, (last + 1) * WINDOW_BYTES)
                    }
                    None => continue,
                },
            };
            lines.push(format!("{what}: {why}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_share_of_any_size_and_never_nothing() {
        for seed in 0..200 {
            let mut dice = Dice(seed);
            let stretches = sample(10, 109, Some(25), &mut dice);
            let total: u64 = stretches.iter().map(|(first, last)| last - first + 1).sum();
            assert_eq!(total, 25, "{stretches:?}");
            assert!(stretches.iter().all(|(first, last)| *first >= 10 && *last <= 109), "{stretches:?}");
        }
        assert_eq!(sample(0, 0, Some(1), &mut Dice(1)), [(0, 0)]);
        assert_eq!(sample(0, 9, None, &mut Dice(1)), [(0, 9)]);
    }

    #[test]
    fn suspects_are_parts_of_their_own() {
        let part = Part { first: 0, last: 5, at: None };
        let shape: Vec<_> =
            split(vec![part], &[5, 2, 2]).iter().map(|(p, s)| (p.first, p.last, *s)).collect();
        assert_eq!(shape, [(0, 1, false), (2, 2, true), (3, 4, false), (5, 5, true)]);
    }
}
