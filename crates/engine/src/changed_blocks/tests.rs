//! Every rule by which a file is read whole or in part.

use pgkeep_format::RelFileLocator;
use proptest::prelude::*;

use super::*;

const BLOCK: u64 = 8192;
const SEGMENT: u32 = 131_072;
const TABLE: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, number: 16384 };

fn file(fork: Fork, segment: u32) -> RelationFile {
    RelationFile { locator: TABLE, fork, segment }
}

fn changed(blocks: BlockSummary) -> ChangedBlocks {
    let range = WalRange { start: Lsn(1), end: Lsn(2), segments: 1 };
    ChangedBlocks::new(blocks, range, &ManifestHeader::default())
}

/// The decision about segment 0 of the table's main fork; lengths in blocks.
fn main_fork(blocks: BlockSummary, parent: u64, now: u64) -> FileChange {
    changed(blocks).of_file(Some(&file(Fork::Main, 0)), Some(parent * BLOCK), now * BLOCK)
}

fn part(marked: &[u32], from: u32) -> FileChange {
    FileChange::Blocks { marked: marked.to_vec(), from }
}

fn marks(blocks: &[u32]) -> BlockSummary {
    let mut summary = BlockSummary::new();
    for block in blocks {
        summary.mark(TABLE, Fork::Main, *block);
    }
    summary
}

#[test]
fn a_relation_that_no_record_mentions_is_the_parents() {
    assert_eq!(main_fork(BlockSummary::new(), 10, 10), part(&[], 10));
}

#[test]
fn marked_blocks_are_read() {
    assert_eq!(main_fork(marks(&[0, 3, 9]), 10, 10), part(&[0, 3, 9], 10));
}

#[test]
fn what_the_parent_did_not_have_is_read_whether_marked_or_not() {
    assert_eq!(main_fork(marks(&[3, 11]), 10, 12), part(&[3], 10));
    assert_eq!(main_fork(BlockSummary::new(), 10, 12), part(&[], 10));
    assert_eq!(main_fork(BlockSummary::new(), 0, 12), part(&[], 0));
}

#[test]
fn a_file_that_is_shorter_now_has_no_blocks_beyond_its_end() {
    assert_eq!(main_fork(marks(&[3, 9]), 10, 5), part(&[3], 5));
    assert_eq!(main_fork(marks(&[3]), 10, 0), part(&[], 0));
}

#[test]
fn what_lies_beyond_the_limit_is_read_whether_marked_or_not() {
    let mut summary = marks(&[2, 7]);
    summary.set_limit(TABLE, Fork::Main, 4);
    assert_eq!(main_fork(summary.clone(), 10, 10), part(&[2], 4));
    // Marked again after the truncation: read as well, once.
    summary.mark(TABLE, Fork::Main, 7);
    assert_eq!(main_fork(summary, 10, 10), part(&[2], 4));
}

#[test]
fn a_relation_that_was_made_anew_is_read_whole() {
    let mut summary = marks(&[1]);
    summary.set_limit(TABLE, Fork::Main, 0);
    assert_eq!(main_fork(summary, 10, 10), FileChange::ReadAll(Rule::Recreated));
}

#[test]
fn limits_and_marks_count_within_the_relation_and_the_answer_within_the_file() {
    let second = file(Fork::Main, 1);
    let of_second =
        |summary: BlockSummary| changed(summary).of_file(Some(&second), Some(10 * BLOCK), 10 * BLOCK);
    assert_eq!(of_second(marks(&[5, SEGMENT + 2, SEGMENT + 9, 2 * SEGMENT])), part(&[2, 9], 10));
    let mut summary = marks(&[SEGMENT + 2]);
    summary.set_limit(TABLE, Fork::Main, SEGMENT + 6);
    assert_eq!(of_second(summary.clone()), part(&[2], 6));
    summary.set_limit(TABLE, Fork::Main, SEGMENT);
    assert_eq!(of_second(summary.clone()), FileChange::ReadAll(Rule::Recreated));
    summary.set_limit(TABLE, Fork::Main, 7);
    assert_eq!(of_second(summary.clone()), FileChange::ReadAll(Rule::Recreated));
    // A limit in a later segment says nothing about an earlier one.
    let mut later = BlockSummary::new();
    later.set_limit(TABLE, Fork::Main, SEGMENT + 6);
    assert_eq!(main_fork(later, u64::from(SEGMENT), u64::from(SEGMENT)), part(&[], SEGMENT));
    // The last segment that can be: its blocks have the highest numbers there are.
    let last = file(Fork::Main, 32_767);
    let top = changed(marks(&[u32::MAX - 1])).of_file(
        Some(&last),
        Some(u64::from(SEGMENT) * BLOCK),
        u64::from(SEGMENT) * BLOCK,
    );
    assert_eq!(top, part(&[SEGMENT - 2], SEGMENT));
}

#[test]
fn a_database_that_was_made_or_dropped_is_read_whole_in_that_tablespace_only() {
    let mut summary = marks(&[1]);
    summary.mark_full_database(16400, 5);
    assert_eq!(main_fork(summary.clone(), 10, 10), part(&[1], 10));
    summary.mark_full_database(1663, 5);
    assert_eq!(main_fork(summary, 10, 10), FileChange::ReadAll(Rule::DatabaseChanged));
}

#[test]
fn only_main_forks_are_read_in_part() {
    for fork in [Fork::Fsm, Fork::Vm, Fork::Init] {
        let mut summary = BlockSummary::new();
        summary.mark(TABLE, fork, 0);
        let answer = changed(summary).of_file(Some(&file(fork, 0)), Some(BLOCK), BLOCK);
        assert_eq!(answer, FileChange::ReadAll(Rule::OtherFork(fork)));
    }
}

#[test]
fn what_is_no_relation_file_of_the_parent_is_read_whole() {
    let none = changed(BlockSummary::new());
    let main = file(Fork::Main, 0);
    let read_all = |relation: Option<&RelationFile>, parent: Option<u64>, now: u64| match none
        .of_file(relation, parent, now)
    {
        FileChange::ReadAll(rule) => rule,
        FileChange::Blocks { .. } => panic!("read in part"),
    };
    assert_eq!(read_all(None, Some(BLOCK), BLOCK), Rule::NotARelation);
    assert_eq!(read_all(Some(&main), None, BLOCK), Rule::NotInParent);
    assert_eq!(read_all(Some(&main), Some(BLOCK + 1), BLOCK), Rule::OddLength);
    assert_eq!(read_all(Some(&main), Some(BLOCK), 2 * BLOCK - 1), Rule::OddLength);
    let too_long = (u64::from(SEGMENT) + 1) * BLOCK;
    assert_eq!(read_all(Some(&main), Some(too_long), BLOCK), Rule::Oversized);
    assert_eq!(read_all(Some(&main), Some(BLOCK), too_long), Rule::Oversized);
    assert_eq!(read_all(Some(&main), Some(BLOCK), u64::MAX / BLOCK * BLOCK), Rule::Oversized);
    assert_eq!(read_all(Some(&file(Fork::Main, 32_768)), Some(BLOCK), BLOCK), Rule::Oversized);
}

proptest! {
    /// Against the rules as one would say them: a block may be taken from the parent only if the parent has it, no record
    /// refers to it, and the relation never was too short for it.
    #[test]
    fn a_block_is_the_parents_only_if_nothing_speaks_against_it(
        events in proptest::collection::vec(prop_oneof![
            (0_u32..40).prop_map(|block| (true, block)),
            (0_u32..40).prop_map(|limit| (false, limit)),
        ], 0..12),
        segment in 0_u32..3,
        parent in 0_u64..=16,
        now in 0_u64..=16,
    ) {
        let mut summary = BlockSummary::new();
        for (is_mark, block) in &events {
            if *is_mark { summary.mark(TABLE, Fork::Main, *block) } else { summary.set_limit(TABLE, Fork::Main, *block) }
        }
        let header = ManifestHeader { relation_segment_blocks: 16, ..ManifestHeader::default() };
        let range = WalRange { start: Lsn(1), end: Lsn(2), segments: 1 };
        let answer = ChangedBlocks::new(summary, range, &header)
            .of_file(Some(&file(Fork::Main, segment)), Some(parent * BLOCK), now * BLOCK);
        for block in 0..u32::try_from(now).unwrap() {
            let in_relation = segment * 16 + block;
            let speaks_against = u64::from(block) >= parent
                || events.iter().any(|(is_mark, at)| if *is_mark { *at == in_relation } else { *at <= in_relation });
            let is_read = match &answer {
                FileChange::ReadAll(_) => true,
                FileChange::Blocks { marked, from } => block >= *from || marked.contains(&block),
            };
            prop_assert!(is_read || !speaks_against, "block {block} of {answer:?}");
        }
        if let FileChange::Blocks { marked, from } = &answer {
            prop_assert!(u64::from(*from) <= now);
            prop_assert!(marked.is_sorted() && marked.iter().all(|block| block < from));
        }
    }
}
