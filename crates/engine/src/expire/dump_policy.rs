//! Which dumps stay, and why. Pure.
//!
//! Rules keep; what no rule keeps goes. Without any rule all stay. The last one that can be read always stays unless it is
//! named. A dump that cannot be read fills no place of a rule; it goes only when it is named.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use pgkeep_repo::{BackupId, Inventory};

use super::policy::words;
use super::request::{DumpDecision, DumpRetention, ExpireChoice};

/// Decides on every dump; the second value is those that go.
pub(crate) fn decide(
    inventory: &Inventory,
    choice: &ExpireChoice,
    retention: &DumpRetention,
    named: Option<BackupId>,
    now: Timestamp,
) -> (Vec<DumpDecision>, BTreeSet<BackupId>) {
    let dumps = &inventory.dumps.dumps;
    let mut decisions = Vec::new();
    let begins = retention.window_seconds.map(|seconds| {
        let length = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        now.checked_sub(length).unwrap_or(Timestamp::MIN)
    });
    for (number, (id, header)) in (1_u32..).zip(dumps.iter().rev()) {
        let mut rules = Vec::new();
        match choice {
            ExpireChoice::Backup(_) if named != Some(*id) => rules.push("another one was named".to_owned()),
            ExpireChoice::Backup(_) => {}
            ExpireChoice::Policy(_) if !retention.is_configured() => {
                rules.push("no rule for dumps is set".to_owned());
            }
            ExpireChoice::Policy(_) => {
                if let Some(count) = retention.count.filter(|count| number <= *count) {
                    rules.push(format!("count: number {number} of the newest {count}"));
                }
                if begins.is_some_and(|begins| header.finished > begins) {
                    let span = words(retention.window_seconds.unwrap_or(0));
                    rules.push(format!("window: of the last {span}"));
                }
                if rules.is_empty() && number == 1 {
                    rules.push("the last one".to_owned());
                }
            }
        }
        decisions.push((*id, header.finished, rules));
    }
    for (id, error) in &inventory.dumps.unreadable {
        let rules = if named == Some(*id) { Vec::new() } else { vec![format!("cannot be read: {error}")] };
        decisions.push((*id, id.started(), rules));
    }
    decisions.sort_by_key(|(id, ..)| *id);
    let mut doomed = BTreeSet::new();
    let decisions = decisions.into_iter().map(|(id, finished, mut rules)| {
        let hold = inventory.holds.get(&id);
        if let Some(hold) = hold {
            rules.push(if hold.reason.is_empty() { "held".into() } else { format!("held: {}", hold.reason) });
        }
        let keep = !rules.is_empty();
        if !keep {
            doomed.insert(id);
            rules.push(if named == Some(id) { "it was named" } else { "no rule keeps it" }.to_owned());
        }
        let finished = finished.to_string();
        DumpDecision { id: id.to_string(), finished, keep, rules, held: hold.is_some() }
    });
    (decisions.collect(), doomed)
}
