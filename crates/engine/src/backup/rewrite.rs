//! Which packs of the parent a new backup does not refer to any more: what is still needed of them is written anew.
//!
//! Two things are bounded so. A pack of which little is needed keeps the rest of it in the repository for as long as any
//! backup needs that little. And a cluster that is backed up every few minutes would come to need a little of each of
//! many thousand packs, all of which its manifest lists and its restore opens. What is rewritten in one backup is bounded
//! too: it costs reading and compressing. See `docs/design/0010-fragmentation.md`.

use std::collections::BTreeSet;

use pgkeep_repo::PackEntry;

/// A pack is rewritten when less than this part of it is needed: 1 / 4.
const LOW_SHARE: u64 = 4;
/// More packs than this, and those of which least is needed are rewritten, whatever their share.
const MOST_PACKS: usize = 1000;
/// Needed bytes that one backup rewrites, unless the next limit is higher.
const LEAST_BUDGET: u64 = 64 << 20;
/// And that part of all that is needed: 1 / 20.
const BUDGET_SHARE: u64 = 20;

/// What is rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Epochs and numbers of packs.
    pub packs: BTreeSet<(u32, u32)>,
    /// Bytes of them that are needed, as stored.
    pub needed_bytes: u64,
    /// All their bytes.
    pub bytes: u64,
}

/// Chooses from the packs that the parent lists.
pub fn choose(packs: &[PackEntry]) -> Rewrite {
    let needed: u64 = packs.iter().map(|pack| pack.live_bytes).sum();
    let mut budget = (needed / BUDGET_SHARE).max(LEAST_BUDGET);
    let mut by_need: Vec<&PackEntry> = packs.iter().filter(|pack| pack.live_bytes > 0).collect();
    by_need.sort_by_key(|pack| (pack.live_bytes, pack.epoch, pack.number));
    let too_many = by_need.len().saturating_sub(MOST_PACKS);
    let mut rewrite = Rewrite::default();
    for (index, pack) in by_need.into_iter().enumerate() {
        let low = pack.live_bytes.saturating_mul(LOW_SHARE) < pack.size;
        // Half of the allowed number goes at once, so that it is not one pack in every backup.
        let crowded = too_many > 0 && index < too_many + MOST_PACKS / 2;
        if !low && !crowded {
            continue;
        }
        let Some(left) = budget.checked_sub(pack.live_bytes) else { break };
        budget = left;
        rewrite.packs.insert((pack.epoch, pack.number));
        rewrite.needed_bytes += pack.live_bytes;
        rewrite.bytes += pack.size;
    }
    rewrite
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(number: u32, size: u64, live_bytes: u64) -> PackEntry {
        let json = serde_json::json!({
            "epoch": 1, "backup": "000001-20261122T093000Z", "number": number,
            "id": "00000000000000000000000000000000", "size": size, "live_bytes": live_bytes,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn packs_of_which_little_is_needed_are_rewritten() {
        let packs = [pack(1, 1000, 900), pack(2, 1000, 249), pack(3, 1000, 250), pack(4, 1000, 0)];
        let rewrite = choose(&packs);
        assert_eq!(rewrite.packs, [(1, 2)].into());
        assert_eq!((rewrite.needed_bytes, rewrite.bytes), (249, 1000));
        assert_eq!(choose(&[]), Rewrite::default());
    }

    #[test]
    fn a_backup_rewrites_no_more_than_its_budget() {
        let size = 1 << 30;
        let packs: Vec<PackEntry> = (1..=100).map(|number| pack(number, size, size / 5)).collect();
        let rewrite = choose(&packs);
        assert!(rewrite.needed_bytes <= 100 * (size / 5) / BUDGET_SHARE);
        assert_eq!(rewrite.packs.len(), 5);
    }

    #[test]
    fn very_many_packs_become_fewer_beginning_with_the_smallest() {
        let packs: Vec<PackEntry> =
            (1..=1010).map(|number| pack(number, 5000, 4000 + u64::from(number))).collect();
        let rewrite = choose(&packs);
        assert_eq!(rewrite.packs.len(), 510);
        assert!(rewrite.packs.contains(&(1, 1)) && !rewrite.packs.contains(&(1, 600)));
        assert!(choose(&packs[..1000]).packs.is_empty());
    }
}
