//! Each rule, and what no rule may do.

use pgkeep_format::timeline_history::{Ancestor, TimelineHistory};
use proptest::prelude::*;

use super::*;

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// A backup of record 1 on timeline 1, whose number is also where it stops.
fn backup(number: u32, finished: &str) -> Candidate {
    let finished: Timestamp = finished.parse().unwrap();
    Candidate {
        id: BackupId::new(number, finished),
        place: Some(Place { record: 1, timeline: tli(1), stop: Lsn(u64::from(number) * 100) }),
        finished,
        problem: None,
        held: None,
    }
}

fn daily(count: u32) -> Vec<Candidate> {
    (1..=count).map(|day| backup(day, &format!("2026-10-{day:02}T12:00:00Z"))).collect()
}

fn now() -> Timestamp {
    "2026-10-30T13:00:00Z".parse().unwrap()
}

fn decide_by(candidates: &[Candidate], policy: RetentionPolicy) -> Vec<Decision> {
    let tree = TimelineTree::new([], [tli(1)]);
    let eras = [Era { record: 1, ended: None, tree: &tree }];
    decide(candidates, &eras, &ExpireChoice::Policy(policy), None, now())
}

fn kept(decisions: &[Decision]) -> Vec<u32> {
    decisions.iter().filter(|decision| decision.keep).map(|decision| decision.id.epoch()).collect()
}

fn rule(decisions: &[Decision], number: u32) -> String {
    decisions.iter().find(|decision| decision.id.epoch() == number).unwrap().rules.join("; ")
}

fn count(count: u32) -> RetentionPolicy {
    RetentionPolicy { count: Some(count), ..RetentionPolicy::default() }
}

const DAY: u64 = 86_400;

#[test]
fn a_count_keeps_the_newest() {
    let decisions = decide_by(&daily(9), count(3));
    assert_eq!(kept(&decisions), [7, 8, 9]);
    assert_eq!(rule(&decisions, 8), "count: number 2 of the newest 3");
    assert_eq!(rule(&decisions, 1), "no rule keeps it");
}

#[test]
fn a_window_keeps_the_newest_backup_before_it() {
    let policy = RetentionPolicy { window_seconds: Some(10 * DAY), ..RetentionPolicy::default() };
    // The window begins on the 20th at 13:00.
    let decisions = decide_by(&daily(30), policy);
    assert_eq!(kept(&decisions), (20..=30).collect::<Vec<_>>());
    assert_eq!(rule(&decisions, 20), "window: the last 10 days begin after it");
    // If that one cannot be restored, the one before it takes its place.
    let mut candidates = daily(30);
    candidates[19].problem = Some("WAL segment X is missing".into());
    assert!(kept(&decide_by(&candidates, policy)).contains(&19));
    // Nothing in the window at all: the last one before it.
    assert_eq!(kept(&decide_by(&daily(5), policy)), [5]);
}

#[test]
fn a_window_has_a_beginning_on_each_of_its_timelines() {
    // 2 forked off 1 at 450. Backups 1 to 5 and 8 are of 1, 6 and 7 of 2.
    let fork = TimelineHistory {
        timeline: tli(2),
        ancestors: vec![Ancestor { timeline: tli(1), switch: Lsn(450), reason: String::new() }],
    };
    let tree = TimelineTree::new([fork], [tli(1)]);
    let eras = [Era { record: 1, ended: None, tree: &tree }];
    let mut candidates = daily(8);
    for index in [5, 6] {
        candidates[index].place = Some(Place { record: 1, timeline: tli(2), stop: Lsn(600) });
    }
    candidates[6].finished = "2026-10-29T12:00:00Z".parse().unwrap();
    candidates[7].finished = "2026-10-29T12:00:00Z".parse().unwrap();
    let policy = RetentionPolicy { window_seconds: Some(5 * DAY), ..RetentionPolicy::default() };
    let decisions = decide(&candidates, &eras, &ExpireChoice::Policy(policy), None, now());
    // 6 begins the window on timeline 2, 5 on timeline 1; 6 alone would lose the moments of 1.
    assert_eq!(kept(&decisions), [5, 6, 7, 8]);
}

#[test]
fn tiers_keep_the_last_backup_of_each_period() {
    let candidates: Vec<Candidate> = [
        "2024-12-31T23:00:00Z",
        "2025-12-31T23:30:00Z",
        "2026-09-30T23:59:59Z",
        "2026-10-01T00:00:00Z",
        "2026-10-25T23:00:00Z", // Sunday
        "2026-10-26T00:30:00Z", // Monday
        "2026-10-29T10:10:00Z",
        "2026-10-29T10:50:00Z",
        "2026-10-30T12:00:00Z",
    ]
    .iter()
    .zip(1..)
    .map(|(finished, number)| backup(number, finished))
    .collect();
    let keep = |change: fn(&mut RetentionPolicy)| {
        let mut policy = RetentionPolicy::default();
        change(&mut policy);
        kept(&decide_by(&candidates, policy))
    };
    assert_eq!(keep(|p| p.hourly = Some(2)), [8, 9]);
    assert_eq!(keep(|p| p.daily = Some(3)), [6, 8, 9]);
    assert_eq!(keep(|p| p.weekly = Some(2)), [5, 9]);
    assert_eq!(keep(|p| p.monthly = Some(2)), [3, 9]);
    assert_eq!(keep(|p| p.yearly = Some(9)), [1, 2, 9]);
    let decisions = decide_by(&candidates, RetentionPolicy { weekly: Some(2), ..count(1) });
    assert_eq!(rule(&decisions, 9), "count: number 1 of the newest 1; weekly: the last of 2026-W44");
    assert_eq!(rule(&decisions, 5), "weekly: the last of 2026-W43");
}

#[test]
fn a_minimum_is_a_floor_for_other_rules() {
    let policy = RetentionPolicy { window_seconds: Some(3600), min: Some(3), ..RetentionPolicy::default() };
    assert_eq!(kept(&decide_by(&daily(9), policy)), [7, 8, 9]);
    assert!(!RetentionPolicy { min: Some(3), ..RetentionPolicy::default() }.is_configured());
}

#[test]
fn a_backup_that_cannot_be_restored_takes_no_place_and_harms_no_good_one() {
    let mut candidates = daily(6);
    candidates[5].problem = Some("WAL segment X is missing".into());
    candidates[4].problem = Some("corrupt".into());
    candidates[4].place = None;
    candidates[0].problem = Some("WAL segment Y is missing".into());
    let decisions = decide_by(&candidates, count(2));
    // 6 may get well, 5 is not understood, 1 is broken and older than all that are kept.
    assert_eq!(kept(&decisions), [3, 4, 5, 6]);
    assert!(rule(&decisions, 1).contains("older than all"));
    assert!(rule(&decisions, 5).contains("cannot be read"));
}

#[test]
fn the_last_good_backup_of_the_living_cluster_stays() {
    let mut candidates = daily(3);
    candidates[2].problem = Some("WAL segment X is missing".into());
    let policy = RetentionPolicy { hourly: Some(0), ..RetentionPolicy::default() };
    let decisions = decide_by(&candidates, policy);
    assert_eq!(kept(&decisions), [2, 3]);
    assert_eq!(rule(&decisions, 2), "the last one that can be restored");
    assert!(decisions[1].keeps_later_wal);
}

#[test]
fn a_held_backup_stays_without_its_later_wal() {
    let mut candidates = daily(5);
    candidates[0].held = Some("audit".into());
    let decisions = decide_by(&candidates, count(1));
    assert_eq!(kept(&decisions), [1, 5]);
    assert_eq!(rule(&decisions, 1), "held: audit");
    assert!(!decisions[0].keeps_later_wal && decisions[4].keeps_later_wal);
}

#[test]
fn after_an_upgrade_the_new_backups_stay_and_the_old_ones_age() {
    // The new cluster begins again on timeline 1 at a low position.
    let mut candidates = daily(6);
    for candidate in &mut candidates[4..] {
        candidate.place = Some(Place { record: 2, timeline: tli(1), stop: Lsn(10) });
    }
    let tree = TimelineTree::new([], [tli(1)]);
    let upgraded: Timestamp = "2026-10-04T18:00:00Z".parse().unwrap();
    let eras =
        [Era { record: 1, ended: Some(upgraded), tree: &tree }, Era { record: 2, ended: None, tree: &tree }];
    let by = |policy| kept(&decide(&candidates, &eras, &ExpireChoice::Policy(policy), None, now()));
    assert_eq!(by(count(2)), [5, 6]);
    assert_eq!(by(count(3)), [4, 5, 6]);
    let window = |days| RetentionPolicy { window_seconds: Some(days * DAY), ..RetentionPolicy::default() };
    // 28 days back is the 2nd: the old cluster's moments are in the window, and one of its backups before it.
    assert_eq!(by(window(28)), [2, 3, 4, 5, 6]);
    // 25 days back is the 5th, when the old cluster had ended.
    assert_eq!(by(window(25)), [5, 6]);
    // Only old ones are good: the newest cluster has none, so nothing is its last.
    candidates[4].problem = Some("x".into());
    candidates[5].problem = Some("x".into());
    let decisions = decide(&candidates, &eras, &ExpireChoice::Policy(count(1)), None, now());
    assert_eq!(kept(&decisions), [4, 5, 6]);
}

#[test]
fn a_clock_that_was_set_back_changes_no_order() {
    let mut candidates = daily(5);
    candidates[4].finished = "2020-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(kept(&decide_by(&candidates, count(2))), [4, 5]);
    candidates[0].finished = "2036-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(kept(&decide_by(&candidates, count(2))), [4, 5]);
}

#[test]
fn wal_is_kept_for_as_many_as_was_asked() {
    let with_wal = |wal| {
        let decisions = decide_by(&daily(6), RetentionPolicy { wal, ..count(4) });
        let with = decisions.iter().filter(|decision| decision.keeps_later_wal);
        with.map(|decision| decision.id.epoch()).collect::<Vec<_>>()
    };
    assert_eq!(with_wal(WalRetention::All), [3, 4, 5, 6]);
    assert_eq!(with_wal(WalRetention::Count(2)), [5, 6]);
    assert_eq!(with_wal(WalRetention::Window(1)), [6]);
    assert_eq!(with_wal(WalRetention::Window(26 * DAY)), [4, 5, 6]);
}

#[test]
fn one_backup_goes_by_name_and_all_others_keep_their_wal() {
    let candidates = daily(3);
    let tree = TimelineTree::new([], [tli(1)]);
    let eras = [Era { record: 1, ended: None, tree: &tree }];
    let choice = ExpireChoice::Backup("000002".into());
    let decisions = decide(&candidates, &eras, &choice, Some(candidates[1].id), now());
    assert_eq!(kept(&decisions), [1, 3]);
    assert!(decisions[0].keeps_later_wal && decisions[2].keeps_later_wal && !decisions[1].keeps_later_wal);
}

prop_compose! {
    fn any_policy()(
        count in proptest::option::of(1_u32..5),
        days in proptest::option::of(1_u64..400),
        tiers in proptest::collection::vec(proptest::option::of(0_u32..4), 5),
        min in proptest::option::of(1_u32..5),
    ) -> RetentionPolicy {
        RetentionPolicy {
            count,
            window_seconds: days.map(|days| days * DAY),
            hourly: tiers[0],
            daily: tiers[1],
            weekly: tiers[2],
            monthly: tiers[3],
            yearly: tiers[4],
            min,
            wal: WalRetention::All,
        }
    }
}

proptest! {
    #[test]
    fn any_policy_keeps_what_it_promises_and_asking_again_changes_nothing(
        policy in any_policy(),
        steps in proptest::collection::vec((0_i64..60 * 24, any::<bool>(), 0_u8..8), 1..40),
    ) {
        let mut at: Timestamp = "2025-09-01T00:00:00Z".parse().unwrap();
        let mut candidates = Vec::new();
        for (number, (hours, _, state)) in (1..).zip(&steps) {
            at = at.checked_add(SignedDuration::from_hours(hours / 20)).unwrap();
            let mut candidate = backup(number, &at.to_string());
            match state {
                0 => candidate.problem = Some("missing".into()),
                1 => {
                    candidate.problem = Some("corrupt".into());
                    candidate.place = None;
                }
                2 => candidate.held = Some(String::new()),
                _ => {}
            }
            candidates.push(candidate);
        }
        let decisions = decide_by(&candidates, policy);
        let keeps = |candidate: &&Candidate| decisions.iter().any(|d| d.id == candidate.id && d.keep);
        let good: Vec<&Candidate> = candidates.iter().filter(|c| c.problem.is_none()).collect();
        let good_kept: Vec<&&Candidate> = good.iter().filter(|c| keeps(c)).collect();
        let floor = policy.min.max(policy.count).unwrap_or(0).max(1) as usize;
        prop_assert!(good_kept.len() >= floor.min(good.len()));
        prop_assert!(good.last().is_none_or(|last| good_kept.iter().any(|c| c.id == last.id)));
        prop_assert!(candidates.iter().filter(|c| c.held.is_some() || c.place.is_none()).all(|c| keeps(&c)));
        if let Some(seconds) = policy.window_seconds {
            let begins = now().checked_sub(SignedDuration::from_secs(seconds as i64)).unwrap();
            // Every moment of the window that had a good backup before it still has the newest such one.
            for moment in good.iter().map(|c| c.finished).chain([begins]).filter(|m| *m >= begins) {
                let before = good.iter().rev().find(|c| c.finished <= moment);
                prop_assert!(before.is_none_or(keeps));
            }
        }
        prop_assert!(decisions.iter().all(|decision| !decision.rules.is_empty()));
        // What stays, stays again; nothing more goes.
        let rest: Vec<Candidate> = candidates.iter().filter(keeps).cloned().collect();
        prop_assert!(decide_by(&rest, policy).iter().all(|decision| decision.keep));
    }
}
