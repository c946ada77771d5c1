//! Which backup each block of a file is taken from: decided for the whole file before anything is written.
//!
//! A block comes from the newest backup that has it, but never from one that is older than a truncation that took the
//! block away. Each incremental says how long the file is at least ([`IncrementalHeader::truncation_block_length`]); a
//! block at or beyond the shortest such length of the backups that were passed did not exist at that time, and whatever
//! an older backup has in its place is gone. If no newer backup brought it back, it is zeros: the file was extended, and
//! no WAL tells what was to be written.
//!
//! Stock's program looks only at the newest of these lengths, and brings deleted rows back (`docs/reference/pg_combinebackup.md`).

use std::ops::Range;

use pgkeep_format::incremental_file::IncrementalHeader;

/// What one backup has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// Some blocks.
    Incremental(IncrementalHeader),
    /// All of them, so many.
    Whole {
        /// Blocks of the file. A piece of one at the end does not count.
        blocks: u32,
    },
}

/// Neighbouring blocks that are taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first block in the result.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Where they are; none: they are zeros.
    pub source: Option<RunSource>,
}

/// Blocks that a backup has one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSource {
    /// In which layer, counted from the newest.
    pub layer: usize,
    /// The first one's place among the blocks of that layer.
    pub index: u32,
}

/// Where the blocks of a file come from: runs in order, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePlan {
    /// The runs.
    pub runs: Vec<Run>,
    /// Blocks of the file.
    pub blocks: u32,
}

impl SourcePlan {
    /// The plan for layers from the newest to the oldest; all but the last are incremental ones.
    pub fn new(layers: &[Layer]) -> SourcePlan {
        let Some(newest) = layers.first() else { return SourcePlan { runs: Vec::new(), blocks: 0 } };
        let blocks = match newest {
            Layer::Incremental(header) => header.file_blocks(),
            Layer::Whole { blocks } => *blocks,
        };
        // What nothing was found for yet, in order. As large as the layers' lists, however long they say that the file is.
        let mut gaps: Vec<Range<u32>> = if blocks > 0 { vec![0..blocks] } else { Vec::new() };
        let mut runs = Vec::new();
        // Nothing is cut off before the newest backup.
        let mut cap = blocks;
        for (layer, contents) in layers.iter().enumerate() {
            let run = |first, count, index| Run { first, count, source: Some(RunSource { layer, index }) };
            match contents {
                Layer::Whole { blocks } => {
                    let end = cap.min(*blocks);
                    for gap in std::mem::take(&mut gaps) {
                        let middle = gap.end.min(end).max(gap.start);
                        if gap.start < middle {
                            runs.push(run(gap.start, middle - gap.start, gap.start));
                        }
                        if middle < gap.end {
                            gaps.push(middle..gap.end);
                        }
                    }
                }
                Layer::Incremental(header) => {
                    let mut found = header.blocks.iter().copied().zip(0..).peekable();
                    for gap in std::mem::take(&mut gaps) {
                        let mut begin = gap.start;
                        while let Some((block, index)) = found.next_if(|(block, _)| *block < gap.end.min(cap))
                        {
                            if block < gap.start {
                                continue;
                            }
                            if begin < block {
                                gaps.push(begin..block);
                            }
                            runs.push(run(block, 1, index));
                            begin = block + 1;
                        }
                        if begin < gap.end {
                            gaps.push(begin..gap.end);
                        }
                    }
                    cap = cap.min(header.truncation_block_length);
                }
            }
        }
        runs.extend(gaps.into_iter().map(|gap| Run {
            first: gap.start,
            count: gap.end - gap.start,
            source: None,
        }));
        runs.sort_unstable_by_key(|run| run.first);
        SourcePlan { runs: joined(runs), blocks }
    }

    /// Whether the file is that of the whole layer, which has so many blocks and nothing beyond them.
    pub fn is_copy_of(&self, layer: usize, blocks: u32) -> bool {
        let whole = Run { first: 0, count: blocks, source: Some(RunSource { layer, index: 0 }) };
        self.blocks == blocks && (blocks == 0 || self.runs == [whole])
    }

    /// Whether anything is taken from a layer.
    pub fn uses(&self, layer: usize) -> bool {
        self.runs.iter().any(|run| run.source.is_some_and(|source| source.layer == layer))
    }
}

/// Runs with neighbours made one.
fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if follows(last, run.source) => last.count += run.count,
            _ => all.push(run),
        }
    }
    all
}

fn follows(run: &Run, next: Option<RunSource>) -> bool {
    match (run.source, next) {
        (None, None) => true,
        (Some(source), Some(next)) => source.layer == next.layer && source.index + run.count == next.index,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn incremental(truncation_block_length: u32, blocks: &[u32]) -> Layer {
        Layer::Incremental(IncrementalHeader { truncation_block_length, blocks: blocks.to_vec() })
    }

    fn shown(layers: &[Layer]) -> String {
        let plan = SourcePlan::new(layers);
        let run = |run: &Run| match run.source {
            None => format!("{}+{} zero", run.first, run.count),
            Some(RunSource { layer, index }) => format!("{}+{} {layer}@{index}", run.first, run.count),
        };
        plan.runs.iter().map(run).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_block_comes_from_the_newest_backup_that_has_it() {
        let layers = [incremental(6, &[1]), incremental(6, &[1, 2, 5]), Layer::Whole { blocks: 6 }];
        assert_eq!(shown(&layers), "0+1 2@0, 1+1 0@0, 2+1 1@1, 3+2 2@3, 5+1 1@2");
    }

    /// The fault of stock's program: full backup of 9 blocks, cut to 3, grown to 8 by pages that no WAL mentions.
    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let layers = [incremental(8, &[3, 6]), incremental(3, &[0]), Layer::Whole { blocks: 9 }];
        assert_eq!(shown(&layers), "0+1 1@0, 1+2 2@1, 3+1 0@0, 4+2 zero, 6+1 0@1, 7+1 zero");
        // The same cut, but the blocks came back in a backup between.
        let layers = [
            incremental(8, &[]),
            incremental(8, &[3, 4, 5]),
            incremental(3, &[]),
            Layer::Whole { blocks: 9 },
        ];
        assert_eq!(shown(&layers), "0+3 3@0, 3+3 1@0, 6+2 zero");
    }

    #[test]
    fn blocks_beyond_the_length_are_in_the_newest_backup_only() {
        let layers = [incremental(2, &[4]), incremental(9, &[3, 5]), Layer::Whole { blocks: 9 }];
        assert_eq!(shown(&layers), "0+2 2@0, 2+2 zero, 4+1 0@0");
    }

    #[test]
    fn an_unchanged_file_is_a_copy() {
        let layers = [incremental(4, &[]), incremental(7, &[]), Layer::Whole { blocks: 4 }];
        let plan = SourcePlan::new(&layers);
        assert!(plan.is_copy_of(2, 4) && plan.uses(2) && !plan.uses(1));
        assert!(!plan.is_copy_of(2, 5), "the file is longer");
        assert!(!plan.is_copy_of(1, 4));
        assert!(SourcePlan::new(&[incremental(0, &[]), Layer::Whole { blocks: 0 }]).is_copy_of(1, 0));
        let shorter =
            SourcePlan::new(&[incremental(4, &[]), incremental(2, &[]), Layer::Whole { blocks: 4 }]);
        assert!(!shorter.is_copy_of(2, 4), "the file was cut in between");
    }

    #[test]
    fn lengths_that_nobody_has_take_no_memory() {
        let layers = [incremental(u32::MAX, &[7]), incremental(u32::MAX, &[]), Layer::Whole { blocks: 2 }];
        assert_eq!(shown(&layers), "0+2 2@0, 2+5 zero, 7+1 0@0, 8+4294967287 zero");
    }

    const MOST: u32 = 40;

    fn layer() -> impl Strategy<Value = Layer> {
        (0..=MOST, prop::collection::btree_set(0..MOST, 0..20))
            .prop_map(|(length, blocks)| incremental(length, &blocks.into_iter().collect::<Vec<_>>()))
    }

    /// One block at a time, from the rules.
    fn source_of(block: u32, layers: &[Layer]) -> Option<RunSource> {
        for (layer, contents) in layers.iter().enumerate() {
            match contents {
                Layer::Whole { blocks } => {
                    return (block < *blocks).then_some(RunSource { layer, index: block });
                }
                Layer::Incremental(header) => {
                    if let Some(index) = header.blocks.iter().position(|found| *found == block) {
                        return Some(RunSource { layer, index: u32::try_from(index).unwrap() });
                    }
                    if block >= header.truncation_block_length {
                        return None;
                    }
                }
            }
        }
        None
    }

    proptest! {
        #[test]
        fn the_plan_is_that_of_the_rules(
            incrementals in prop::collection::vec(layer(), 1..5),
            whole in prop::option::of(0..=MOST),
        ) {
            let mut layers = incrementals;
            layers.extend(whole.map(|blocks| Layer::Whole { blocks }));
            let plan = SourcePlan::new(&layers);
            let mut next = 0;
            for run in &plan.runs {
                prop_assert_eq!(run.first, next);
                prop_assert!(run.count > 0);
                for at in 0..run.count {
                    let source = run.source.map(|s| RunSource { index: s.index + at, ..s });
                    prop_assert_eq!(source, source_of(run.first + at, &layers), "block {}", run.first + at);
                }
                next += run.count;
            }
            prop_assert_eq!(next, plan.blocks);
            prop_assert!(plan.runs.windows(2).all(|pair| !follows(&pair[0], pair[1].source)));
        }

        /// Files as they were at each backup, and the incrementals that a server would send of them.
        #[test]
        fn any_history_of_a_file_is_followed(
            first in 0..=MOST,
            steps in prop::collection::vec(
                (prop::option::of(0..=MOST), 0..=MOST, prop::collection::btree_set(0..MOST, 0..12)), 1..5),
        ) {
            let mut file: Vec<u32> = (1..=first).collect();
            let mut stamp = 1000;
            let mut layers = vec![Layer::Whole { blocks: first }];
            let mut contents = vec![file.clone()];
            for (cut, length, written) in steps {
                // A server cuts, then extends with zeros or written blocks.
                let cut = cut.filter(|cut| (*cut as usize) < file.len());
                if let Some(cut) = cut {
                    file.truncate(cut as usize);
                }
                // Unmarked zeros may appear only beyond what the parent has: within one step that is what a server
                // cannot tell either (the length that it sends hides the cut).
                let known = contents.last().unwrap().len();
                let length = if cut.is_some() { length.min(u32::try_from(file.len()).unwrap()) } else { length };
                if (length as usize) > file.len() && file.len() >= known {
                    file.resize(length as usize, 0);
                }
                let mut marked = Vec::new();
                for block in written {
                    if (block as usize) < file.len() {
                        stamp += 1;
                        file[block as usize] = stamp;
                        marked.push(block);
                    }
                }
                let length = u32::try_from(file.len()).unwrap();
                layers.insert(0, incremental(length.max(cut.unwrap_or(0)), &marked));
                contents.push(file.clone());
            }
            let plan = SourcePlan::new(&layers);
            let newest = contents.len() - 1;
            let mut result = Vec::new();
            for run in &plan.runs {
                for at in 0..run.count {
                    result.push(run.source.map_or(0, |source| {
                        let index = (source.index + at) as usize;
                        let block = match &layers[source.layer] {
                            Layer::Whole { .. } => index,
                            Layer::Incremental(header) => header.blocks[index] as usize,
                        };
                        contents[newest - source.layer][block]
                    }));
                }
            }
            // A server sends at least the file's length.
            result.truncate(file.len());
            prop_assert_eq!(result, file);
        }
    }
}
