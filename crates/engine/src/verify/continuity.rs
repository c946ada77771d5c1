//! Which WAL is missing, and what damage leaves over: told from names, positions and what was found.

use std::collections::BTreeSet;

use pgkeep_format::{WalFileName, WalSegmentName};
use pgkeep_repo::ManifestHeader;

use super::damage::{Damage, DamageKind, Findings};
use super::inventory::{Archive, Inventory};
use super::memory::{Memory, is_damaged};
use crate::archive_index::MissingRun;
use crate::list::{Window, extent, windows_of};
use crate::recovery_window::{is_expired, is_harmful, missing_for};

/// Notes holes in the WAL that keep something from being recovered, WAL that backups need themselves, and the end of an
/// archive that an earlier run saw and that is not there any more.
pub(super) fn note_missing(inventory: &Inventory, memory: &Memory, findings: &Findings) {
    for archive in &inventory.archives {
        let index = &archive.index;
        let size = index.segment_size();
        let headers = headers_of(inventory, archive);
        let extents: Vec<_> = headers.iter().map(|header| extent(header, index)).collect();
        let key = |name: WalSegmentName| archive.archive.key(WalFileName::Segment(name));
        let is_lost = |gap: &&MissingRun| {
            !is_expired(gap, archive.record.sequence, &inventory.removed_wal)
                && is_harmful(index, gap, &extents)
        };
        for gap in index.gaps().iter().filter(is_lost) {
            let name = |number| WalSegmentName { timeline: gap.timeline, number };
            let what = match gap.segments() {
                1 => "this WAL segment is missing between others".to_owned(),
                count => format!(
                    "{count} WAL segments are missing between others: up to {}",
                    name(gap.last).file_name(size)
                ),
            };
            findings.place(DamageKind::Missing, &key(name(gap.first)), None, what);
        }
        for (header, extent) in headers.iter().zip(&extents) {
            for name in missing_for(index, extent) {
                let what = "without this WAL segment a backup cannot become consistent";
                let place = findings.place(DamageKind::Missing, &key(name), None, what);
                findings.needed_by(&place, [header.id]);
            }
        }
        note_lost_end(inventory, archive, memory, findings);
    }
}

/// Retention removes from the beginning only: what was verified at the end of the newest timeline must still be there.
fn note_lost_end(inventory: &Inventory, archive: &Archive, memory: &Memory, findings: &Findings) {
    let newest_record = inventory.archives.iter().map(|archive| archive.record.sequence).max();
    let Some(timeline) = archive.timelines().into_iter().max() else { return };
    let Some(spans) = memory.wal.get(&(archive.record.sequence, timeline.get())) else { return };
    let Some(last) = archive.index.last_of(timeline) else { return };
    let known = spans.iter().map(|span| span.last).max().unwrap_or(0);
    if newest_record == Some(archive.record.sequence) && known > last.number.0 {
        let name = WalSegmentName { timeline, number: last.number.next() };
        let what = format!("{} WAL segments that an earlier run read are gone", known - last.number.0);
        let key = archive.archive.key(WalFileName::Segment(name));
        findings.place(DamageKind::Missing, &key, None, what);
    }
}

pub(super) fn headers_of<'a>(inventory: &'a Inventory, archive: &Archive) -> Vec<&'a ManifestHeader> {
    inventory.headers.iter().filter(|header| header.record == archive.record.sequence).collect()
}

/// What is left when the damage is taken away.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    pub(super) good_backups: Vec<String>,
    pub(super) damaged_backups: Vec<String>,
    pub(super) good_windows: Vec<Window>,
}

/// Says what still restores, and adds to each damage the windows that it touches.
pub(super) fn judge(inventory: &Inventory, damage: &mut [Damage]) -> Leftover {
    let mut leftover = Leftover::default();
    for header in &inventory.headers {
        let id = header.id.to_string();
        if is_damaged(damage, &id) { &mut leftover.damaged_backups } else { &mut leftover.good_backups }
            .push(id);
    }
    leftover.damaged_backups.extend(inventory.unreadable.iter().map(ToString::to_string));
    leftover.damaged_backups.sort();
    leftover.good_backups.sort();
    for archive in &inventory.archives {
        let all: Vec<ManifestHeader> = headers_of(inventory, archive).into_iter().cloned().collect();
        let windows = windows_of(&archive.archive, &archive.index, &all);
        for damage in damage.iter_mut() {
            let segment = archive.segment_of(&damage.object);
            let touched = windows.iter().filter(|window| {
                let begins_with_it = damage.backups.contains(&window.backup);
                begins_with_it || segment.is_some_and(|segment| is_inside(archive, window, segment))
            });
            damage.windows.extend(touched.cloned());
        }
        let good: Vec<ManifestHeader> =
            all.into_iter().filter(|header| !is_damaged(damage, &header.id.to_string())).collect();
        let bad: BTreeSet<WalSegmentName> = damaged_segments(archive, damage).collect();
        let index = archive.index.clone().without_segments(&bad);
        leftover.good_windows.extend(windows_of(&archive.archive, &index, &good));
    }
    leftover
}

/// The segments that cannot be replayed.
fn damaged_segments<'a>(
    archive: &'a Archive,
    damage: &'a [Damage],
) -> impl Iterator<Item = WalSegmentName> + 'a {
    damage
        .iter()
        .filter(|damage| damage.kind.is_fatal())
        .filter_map(|damage| archive.segment_of(&damage.object))
}

fn is_inside(archive: &Archive, window: &Window, segment: WalSegmentName) -> bool {
    let size = archive.index.segment_size();
    let (start, end) = (size.start_of(segment.number), size.end_of(segment.number));
    start < window.to_lsn
        && window.from_lsn < end
        && archive.index.path_to(window.timeline).steps().iter().any(|step| step.timeline == segment.timeline)
}
