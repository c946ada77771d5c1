//! Which archived WAL stays, and why. Pure: from the names of the segments, the timelines and the kept backups.
//!
//! A kept backup needs the WAL that makes it consistent; one that keeps its later WAL needs all from its start on, on the
//! way to every timeline that its state lies on. Ancestry decides, never the order of names. Where the ancestry of a
//! timeline is not known, or no backup of it exists yet, its WAL stays.

use std::collections::BTreeMap;

use pgkeep_format::{Lsn, SegmentNumber, TimelineId};

use crate::archive_index::ArchiveIndex;

/// A backup that stays.
#[derive(Clone, Debug)]
pub(crate) struct KeptBackup {
    pub(crate) id: String,
    pub(crate) timeline: TimelineId,
    pub(crate) start: Lsn,
    pub(crate) stop: Lsn,
    /// Whether every later moment stays reachable from it.
    pub(crate) keeps_later_wal: bool,
    /// Whether it can be restored.
    pub(crate) restorable: bool,
}

/// Consecutive segments that share a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalRun {
    pub(crate) timeline: TimelineId,
    pub(crate) first: SegmentNumber,
    pub(crate) last: SegmentNumber,
    pub(crate) keep: bool,
    pub(crate) rule: String,
}

/// Segments that are needed, and by whom.
struct Need {
    first: SegmentNumber,
    last: SegmentNumber,
    rule: String,
}

/// Decides on all WAL of one cluster. `is_newest`: no other cluster took its place. `doubt`: why nothing may go at all.
pub(crate) fn decide(
    index: &ArchiveIndex,
    kept: &[KeptBackup],
    is_newest: bool,
    doubt: Option<&str>,
) -> Vec<WalRun> {
    let no_backup = is_newest && !kept.iter().any(|backup| backup.restorable);
    let doubt = doubt.map(str::to_owned).or_else(|| {
        no_backup
            .then(|| "no backup of this cluster can be restored, so what is needed is not known".to_owned())
    });
    let needs = needs(index, kept);
    let mut runs = Vec::new();
    for timeline in index.timelines_with_wal().collect::<Vec<_>>() {
        let doubt = doubt.clone().or_else(|| doubt_of(index, timeline, kept, is_newest));
        for run in index.runs(timeline) {
            match &doubt {
                Some(rule) => runs.push(WalRun {
                    timeline,
                    first: run.first,
                    last: run.last,
                    keep: true,
                    rule: rule.clone(),
                }),
                None => split(timeline, run.first, run.last, needs.get(&timeline), &mut runs),
            }
        }
    }
    runs
}

/// The first segment that any kept backup needs, on whatever timeline: what lies before serves none, since no backup needs
/// WAL from before its start. None where what is needed is not known.
pub(crate) fn first_needed(
    index: &ArchiveIndex,
    kept: &[KeptBackup],
    is_newest: bool,
) -> Option<SegmentNumber> {
    if is_newest && !kept.iter().any(|backup| backup.restorable) {
        return None;
    }
    let first = kept.iter().map(|backup| index.segment_size().segment_at(backup.start)).min();
    // Of a cluster whose place another took, without a backup, nothing is needed.
    Some(first.unwrap_or(SegmentNumber(u64::MAX)))
}

/// Why all of a timeline's WAL stays, whatever the backups need.
fn doubt_of(
    index: &ArchiveIndex,
    timeline: TimelineId,
    kept: &[KeptBackup],
    is_newest: bool,
) -> Option<String> {
    let is_first = timeline == TimelineId::FIRST;
    let older = kept.iter().any(|backup| backup.timeline < timeline);
    if !is_first && older && index.tree().history(timeline).is_none() {
        return Some(format!(
            "the history file of timeline {timeline} is missing: it may descend from a kept backup"
        ));
    }
    let newest = kept.iter().filter(|backup| backup.restorable).map(|backup| backup.timeline).max();
    if is_newest && newest.is_some_and(|newest| newest < timeline) {
        return Some(format!("there is no backup of timeline {timeline} or a later one yet"));
    }
    None
}

fn needs(index: &ArchiveIndex, kept: &[KeptBackup]) -> BTreeMap<TimelineId, Vec<Need>> {
    let size = index.segment_size();
    let mut needs: BTreeMap<TimelineId, Vec<Need>> = BTreeMap::new();
    for backup in kept {
        // Also for a backup that keeps no later WAL: after a failover its last segment may be there under the name of the new
        // timeline alone.
        let targets = index.tree().descendants(backup.timeline, backup.stop);
        let until = (!backup.keeps_later_wal).then_some(backup.stop);
        let rule = if backup.keeps_later_wal {
            format!("every moment after backup {}", backup.id)
        } else {
            format!("backup {} is consistent with it", backup.id)
        };
        for target in targets {
            for step in index.path_to(target).steps() {
                let ends_before = step.to.is_some_and(|to| to <= backup.start);
                let begins_after =
                    until.is_some_and(|until| size.segment_at(step.from) > size.segment_before(until));
                if ends_before || begins_after {
                    continue;
                }
                // The segment in which a timeline is left is there under both names, and either may be asked for.
                let last = match (step.to, until) {
                    (Some(to), Some(until)) if until <= to => size.segment_before(until),
                    (Some(to), _) => size.segment_at(to),
                    (None, Some(until)) => size.segment_before(until),
                    (None, None) => SegmentNumber(u64::MAX),
                };
                let first = size.segment_at(step.from.max(backup.start));
                needs.entry(step.timeline).or_default().push(Need {
                    first,
                    last: last.max(first),
                    rule: rule.clone(),
                });
            }
        }
    }
    for list in needs.values_mut() {
        // Of two that reach equally far the one that begins earlier explains both.
        list.sort_by_key(|need| (need.first, std::cmp::Reverse(need.last)));
    }
    needs
}

/// Cuts a run where the decision, or its reason, changes.
fn split(
    timeline: TimelineId,
    first: SegmentNumber,
    last: SegmentNumber,
    needs: Option<&Vec<Need>>,
    into: &mut Vec<WalRun>,
) {
    let mut at = first;
    let gone = |first, last| WalRun {
        timeline,
        first,
        last,
        keep: false,
        rule: "no kept backup can use it".to_owned(),
    };
    for need in needs.map_or(&[][..], Vec::as_slice) {
        if need.last < at || need.first > last {
            continue;
        }
        if need.first > at {
            into.push(gone(at, SegmentNumber(need.first.0 - 1)));
            at = need.first;
        }
        let until = need.last.min(last);
        into.push(WalRun { timeline, first: at, last: until, keep: true, rule: need.rule.clone() });
        if until == last {
            return;
        }
        at = until.next();
    }
    into.push(gone(at, last));
}

#[cfg(test)]
#[path = "wal_need_tests.rs"]
mod tests;
