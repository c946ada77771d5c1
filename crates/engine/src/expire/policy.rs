//! Which backups stay, and why. Pure: from the facts about all backups, the policy and the clock.
//!
//! The order of backups is that of their ids, which a clock cannot change; their times only say into which hour, day or
//! window they fall. A backup that cannot be restored fills no place of any rule. Where the facts leave a doubt, the backup
//! stays.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgkeep_format::{Lsn, TimelineId};
use pgkeep_repo::BackupId;

use super::request::{ExpireChoice, RetentionPolicy, WalRetention};
use crate::history::TimelineTree;

/// What the rules need to know of a backup.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: BackupId,
    /// Where it lies in the history of clusters; none where its manifest cannot be read.
    pub(crate) place: Option<Place>,
    /// When it was finished.
    pub(crate) finished: Timestamp,
    /// Why it cannot be restored, where it cannot.
    pub(crate) problem: Option<String>,
    /// Why it is held, where it is.
    pub(crate) held: Option<String>,
}

/// Where a backup lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Sequence of its cluster.
    pub(crate) record: u32,
    pub(crate) timeline: TimelineId,
    /// Where it is consistent.
    pub(crate) stop: Lsn,
}

/// A cluster in the history of the stanza.
#[derive(Clone, Debug)]
pub(crate) struct Era<'a> {
    pub(crate) record: u32,
    /// When the next cluster took its place.
    pub(crate) ended: Option<Timestamp>,
    pub(crate) tree: &'a TimelineTree,
}

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) id: BackupId,
    /// Why it stays; or, where it goes, why it does.
    pub(crate) rules: Vec<String>,
    pub(crate) keep: bool,
    /// Whether the WAL to every later moment stays with it.
    pub(crate) keeps_later_wal: bool,
}

/// Keeps every backup.
pub(crate) fn keep_all(candidates: &[Candidate]) -> Vec<Decision> {
    let keep = |candidate: &Candidate| Decision {
        id: candidate.id,
        rules: vec!["nothing was said of backups".to_owned()],
        keep: true,
        keeps_later_wal: true,
    };
    candidates.iter().map(keep).collect()
}

/// Decides on every backup. `candidates` are in the order of their ids, `eras` in that of their records.
pub(crate) fn decide(
    candidates: &[Candidate],
    eras: &[Era<'_>],
    choice: &ExpireChoice,
    named: Option<BackupId>,
    now: Timestamp,
) -> Vec<Decision> {
    match choice {
        ExpireChoice::Policy(policy) => by_policy(candidates, eras, policy, now),
        ExpireChoice::Backup(_) => candidates
            .iter()
            .map(|candidate| {
                let keep = named != Some(candidate.id) || candidate.held.is_some();
                Decision {
                    id: candidate.id,
                    rules: vec![if keep { "another backup was named" } else { "it was named" }.to_owned()],
                    keep,
                    keeps_later_wal: keep,
                }
            })
            .collect(),
    }
}

fn by_policy(
    candidates: &[Candidate],
    eras: &[Era<'_>],
    policy: &RetentionPolicy,
    now: Timestamp,
) -> Vec<Decision> {
    let good: Vec<&Candidate> =
        candidates.iter().filter(|c| c.problem.is_none() && c.place.is_some()).collect();
    let mut rules: BTreeMap<BackupId, Vec<String>> = BTreeMap::new();
    let mut keep = |id: BackupId, rule: String| rules.entry(id).or_default().push(rule);

    for (number, candidate) in (1..).zip(good.iter().rev()) {
        if policy.count.is_some_and(|count| number <= count) {
            keep(candidate.id, format!("count: number {number} of the newest {}", policy.count.unwrap_or(0)));
        }
    }
    if let Some(seconds) = policy.window_seconds {
        for (id, rule) in window(&good, eras, seconds, now) {
            keep(id, rule);
        }
    }
    for (tier, limit) in [
        (Tier::Hourly, policy.hourly),
        (Tier::Daily, policy.daily),
        (Tier::Weekly, policy.weekly),
        (Tier::Monthly, policy.monthly),
        (Tier::Yearly, policy.yearly),
    ] {
        for (id, period) in last_of_periods(&good, tier, limit.unwrap_or(0)) {
            keep(id, format!("{}: the last of {period}", tier.name()));
        }
    }
    // The floor, and the last backup of the cluster that lives.
    let newest_record = eras.last().map(|era| era.record);
    let last = good.iter().rev().find(|c| c.place.map(|place| place.record) == newest_record);
    for (number, candidate) in (1..).zip(good.iter().rev()) {
        if policy.min.is_some_and(|min| number <= min) {
            keep(candidate.id, format!("minimum: number {number} of {}", policy.min.unwrap_or(0)));
        }
    }
    if let Some(last) = last.filter(|last| !rules.contains_key(&last.id)) {
        rules.insert(last.id, vec!["the last one that can be restored".to_owned()]);
    }

    let oldest_kept = good.iter().find(|c| rules.contains_key(&c.id) || c.held.is_some()).map(|c| c.id);
    let with_wal = with_later_wal(&good, eras, policy, &rules, last.map(|last| last.id), now);
    candidates
        .iter()
        .map(|candidate| {
            let mut why = rules.remove(&candidate.id).unwrap_or_default();
            if let Some(reason) = &candidate.held {
                why.push(if reason.is_empty() { "held".to_owned() } else { format!("held: {reason}") });
            }
            if let (Some(problem), true) = (&candidate.problem, why.is_empty()) {
                // A good one that is older is kept; this one is of no use beside it, but it may get well.
                let is_oldest = oldest_kept.is_none_or(|oldest| candidate.id > oldest);
                if candidate.place.is_none() {
                    why.push(format!("cannot be read, so what it needs is not known: {problem}"));
                } else if is_oldest {
                    why.push(format!("cannot be restored now: {problem}"));
                }
            }
            let keep = !why.is_empty();
            if !keep {
                why.push(match &candidate.problem {
                    Some(problem) => {
                        format!("cannot be restored and is older than all that are kept: {problem}")
                    }
                    None => "no rule keeps it".to_owned(),
                });
            }
            Decision {
                id: candidate.id,
                rules: why,
                keep,
                keeps_later_wal: keep && with_wal.contains(&candidate.id),
            }
        })
        .collect()
}

/// The backups that the moments of a window need: those in it, and before it the newest one on the way to each of its
/// timelines.
fn window(good: &[&Candidate], eras: &[Era<'_>], seconds: u64, now: Timestamp) -> Vec<(BackupId, String)> {
    let length = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    // A window that is longer than time itself keeps everything.
    let begins = now.checked_sub(length).unwrap_or(Timestamp::MIN);
    let span = words(seconds);
    let mut kept: Vec<(BackupId, String)> = good
        .iter()
        .filter(|candidate| candidate.finished > begins)
        .map(|candidate| (candidate.id, format!("window: of the last {span}")))
        .collect();
    for era in eras {
        // A cluster that was replaced before the window began has no moment in it.
        if era.ended.is_some_and(|ended| ended <= begins) {
            continue;
        }
        let own: Vec<(&Candidate, Place)> = good
            .iter()
            .filter_map(|candidate| Some((*candidate, candidate.place?)))
            .filter(|(_, place)| place.record == era.record)
            .collect();
        let mut tips: Vec<TimelineId> =
            own.iter().filter(|(c, _)| c.finished > begins).map(|(_, place)| place.timeline).collect();
        if let Some((_, newest)) = own.last() {
            tips.push(era.tree.latest_descendant(newest.timeline, newest.stop));
        }
        tips.sort();
        tips.dedup();
        for tip in tips {
            let path = era.tree.path_to(tip);
            let anchor = own
                .iter()
                .rev()
                .find(|(c, place)| c.finished <= begins && path.contains(place.timeline, place.stop));
            if let Some((anchor, _)) = anchor
                && !kept.iter().any(|(id, _)| *id == anchor.id)
            {
                kept.push((anchor.id, format!("window: the last {span} begin after it")));
            }
        }
    }
    kept
}

/// The kept backups with which the WAL to every later moment stays.
fn with_later_wal(
    good: &[&Candidate],
    eras: &[Era<'_>],
    policy: &RetentionPolicy,
    rules: &BTreeMap<BackupId, Vec<String>>,
    last: Option<BackupId>,
    now: Timestamp,
) -> Vec<BackupId> {
    let kept = good.iter().filter(|candidate| rules.contains_key(&candidate.id)).map(|c| c.id);
    let mut with: Vec<BackupId> = match policy.wal {
        WalRetention::All => kept.collect(),
        WalRetention::Count(count) => kept.rev().take(count as usize).collect(),
        WalRetention::Window(seconds) => {
            let kept: Vec<&Candidate> =
                good.iter().copied().filter(|candidate| rules.contains_key(&candidate.id)).collect();
            window(&kept, eras, seconds, now).into_iter().map(|(id, _)| id).collect()
        }
    };
    with.extend(last);
    with
}

/// Periods by which backups are thinned out.
#[derive(Clone, Copy, Debug)]
enum Tier {
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Hourly => "hourly",
            Tier::Daily => "daily",
            Tier::Weekly => "weekly",
            Tier::Monthly => "monthly",
            Tier::Yearly => "yearly",
        }
    }

    /// The period that a moment falls into, in UTC; periods of one tier sort as they follow each other.
    fn period(self, moment: Timestamp) -> String {
        let at = moment.to_zoned(TimeZone::UTC);
        let format = match self {
            Tier::Hourly => "%Y-%m-%d %H:00",
            Tier::Daily => "%Y-%m-%d",
            Tier::Weekly => "%G-W%V",
            Tier::Monthly => "%Y-%m",
            Tier::Yearly => "%Y",
        };
        at.strftime(format).to_string()
    }
}

/// The last backup of each of the newest `limit` periods that have one.
fn last_of_periods(good: &[&Candidate], tier: Tier, limit: u32) -> Vec<(BackupId, String)> {
    let mut last: BTreeMap<String, BackupId> = BTreeMap::new();
    for candidate in good {
        last.insert(tier.period(candidate.finished), candidate.id);
    }
    last.into_iter().rev().take(limit as usize).map(|(period, id)| (id, period)).collect()
}

/// `30 days`, `36 hours`, `90 s`.
pub(crate) fn words(seconds: u64) -> String {
    match seconds {
        s if s > 0 && s % 86_400 == 0 => format!("{} days", s / 86_400),
        s if s > 0 && s % 3600 == 0 => format!("{} hours", s / 3600),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
