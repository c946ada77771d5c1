//! The whole of incremental backup against a model: a page store under random writes, hints, growth with and without WAL,
//! truncation, drops, reused file numbers and copied databases; backups by every producer upon any parent, interrupted ones,
//! and deletions, in random order. Every backup that is kept has every page as it was.
//!
//! What real servers do is in `tests/incremental.rs` and `tests/changed_blocks.rs`; here it is the combinations that count.
//! Pages that were read because WAL or the server named them are bit-exact, and so is everything that was compared. A page that
//! was not read may lack hints that the server had set, and nothing else: the same comparison that `check
//! --incremental-sample` makes.

mod keeper;
mod server;
mod world;

use proptest::prelude::*;

use keeper::{Keeper, Producer};
use world::Step;

/// Cases in the ordinary suite; a thousand where `PGKEEP_LONG_TESTS` is 1.
const CASES: u32 = 24;

#[derive(Clone, Debug)]
enum Action {
    Step(Step),
    Backup { producer: Producer, parent: Option<u8>, is_interrupted: bool },
    Expire(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (a, b, seed) = (any::<u8>(), any::<u8>(), any::<u64>());
    prop_oneof![
        3 => (a, b).prop_map(|(database, number)| Step::Create(database, number)),
        6 => (a, b, seed).prop_map(|(relation, block, seed)| Step::Write(relation, block, seed)),
        2 => (a, b, any::<u8>()).prop_map(|(relation, block, hints)| Step::Hint(relation, block, hints)),
        6 => (a, b, seed).prop_map(|(relation, blocks, seed)| Step::Extend(relation, blocks, seed)),
        2 => (a, b).prop_map(|(relation, blocks)| Step::ExtendByZeros(relation, blocks)),
        2 => (a, b).prop_map(|(relation, blocks)| Step::Truncate(relation, blocks)),
        3 => (a, b, any::<u8>())
            .prop_map(|(relation, blocks, zeros)| Step::TruncateAndExtendByZeros(relation, blocks, zeros)),
        2 => a.prop_map(Step::Drop),
        3 => (a, b, any::<bool>()).prop_map(|(from, to, by_file)| Step::CopyDatabase(from, to, by_file)),
        1 => a.prop_map(Step::DropDatabase),
        2 => (a, seed).prop_map(|(relation, seed)| Step::VisibilityMap(relation, seed)),
        3 => (a, seed).prop_map(|(relation, seed)| Step::FreeSpaceMap(relation, seed)),
        1 => (a, any::<u16>(), seed).prop_map(|(file, length, seed)| Step::OtherFile(file, length, seed)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let producer = prop_oneof![Just(Producer::Compare), Just(Producer::Wal), Just(Producer::Server)];
    let parent = prop_oneof![1 => Just(None), 6 => any::<u8>().prop_map(Some)];
    let backup = (producer, parent, prop::bool::weighted(0.15));
    prop_oneof![
        12 => step().prop_map(Action::Step),
        4 => backup.prop_map(|(producer, parent, is_interrupted)| Action::Backup {
            producer,
            parent,
            is_interrupted
        }),
        1 => any::<u8>().prop_map(Action::Expire),
    ]
}

fn config() -> ProptestConfig {
    let is_long = std::env::var("PGKEEP_LONG_TESTS").is_ok_and(|value| value == "1");
    ProptestConfig {
        cases: if is_long { 1000 } else { CASES },
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_kept_backup_has_every_page_as_it_was(actions in prop::collection::vec(action(), 20..150)) {
        let mut keeper = Keeper::new();
        for action in &actions {
            match action {
                Action::Step(step) => keeper.apply(step),
                Action::Backup { producer, parent, is_interrupted } => {
                    keeper.backup(*producer, *parent, *is_interrupted);
                }
                Action::Expire(which) => keeper.expire(*which),
            }
        }
        keeper.check_all();
    }
}

/// One run of what the property does by chance, so that it is certain that each producer leaves blocks unread.
#[test]
fn each_producer_takes_over_what_did_not_change() {
    for producer in [Producer::Compare, Producer::Wal, Producer::Server] {
        let mut keeper = Keeper::new();
        keeper.apply(&Step::Create(0, 0));
        keeper.apply(&Step::Extend(0, 19, 1));
        keeper.apply(&Step::VisibilityMap(0, 2));
        keeper.backup(Producer::Compare, None, false);
        keeper.apply(&Step::Write(0, 3, 7));
        keeper.apply(&Step::Hint(0, 4, 1));
        let stored = keeper.backup(producer, Some(0), false);
        // By comparing, the hint is a change too.
        assert_eq!(stored.new_blocks, if producer == Producer::Compare { 2 } else { 1 }, "{producer:?}");
        keeper.check_all();
        keeper.expire(0);
        keeper.check_all();
    }
}

/// What had a name, a number or a place before must not come back where WAL says nothing of the blocks that took it.
#[test]
fn what_was_there_before_does_not_come_back() {
    let histories = [
        vec![Step::Drop(0), Step::Create(0, 0), Step::ExtendByZeros(0, 9)],
        vec![Step::TruncateAndExtendByZeros(0, 2, 9)],
        vec![Step::CopyDatabase(1, 0, true)],
        vec![Step::DropDatabase(0), Step::Create(0, 0), Step::ExtendByZeros(0, 19)],
    ];
    for producer in [Producer::Compare, Producer::Wal, Producer::Server] {
        for history in &histories {
            let mut keeper = Keeper::new();
            keeper.apply(&Step::Create(0, 0));
            keeper.apply(&Step::Extend(0, 19, 1));
            keeper.apply(&Step::Create(1, 0));
            keeper.apply(&Step::Extend(1, 19, 2));
            keeper.backup(Producer::Compare, None, false);
            history.iter().for_each(|step| keeper.apply(step));
            keeper.backup(producer, Some(0), false);
            keeper.check_all();
        }
    }
}

#[test]
fn each_producer_goes_on_with_what_an_interrupted_backup_left() {
    for producer in [Producer::Compare, Producer::Wal, Producer::Server] {
        let mut keeper = Keeper::new();
        keeper.apply(&Step::Create(0, 0));
        keeper.apply(&Step::Extend(0, 19, 1));
        keeper.backup(Producer::Compare, None, false);
        (0..6).for_each(|block| keeper.apply(&Step::Write(0, block, 7)));
        keeper.backup(producer, Some(0), true);
        keeper.apply(&Step::Write(0, 3, 8));
        let stored = keeper.backup(producer, Some(0), false);
        assert_eq!(stored.reused_blocks, 5, "{producer:?}");
        keeper.check_all();
    }
}
