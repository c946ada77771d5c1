//! A set of block numbers that stays small whether the blocks are few, many or next to each other.
//!
//! Invariant: chunks are in order and never empty; a chunk is a list up to a fixed number of blocks and a bitmap
//! beyond, so that equal sets are equal values. How sets are stored is in `docs/format/wal-summary.md`.

/// Blocks that one chunk covers.
const CHUNK: u32 = 1 << 16;
/// A chunk with more blocks than this is a bitmap: both forms take 8 KiB there.
const LIST_LIMIT: usize = 4096;
const WORDS: usize = (CHUNK / 64) as usize;

/// A set of block numbers of one fork, kept in order.
///
/// In chunks of 65,536 blocks, each a sorted list or, when dense, a bitmap: at most 2 bytes a block, and never more than
/// 8 KiB for 512 MiB of relation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSet {
    chunks: Vec<(u16, Chunk)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    /// At most [`LIST_LIMIT`], ascending.
    List(Vec<u16>),
    /// More than that.
    Bits { bits: Box<[u64; WORDS]>, count: u32 },
}

const fn split(block: u32) -> (u16, u16) {
    let [a, b, c, d] = block.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

fn unite(key: u16, low: u16) -> u32 {
    (u32::from(key) << 16) | u32::from(low)
}

impl BlockSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> BlockSet {
        BlockSet { chunks: Vec::new() }
    }

    /// How many blocks are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.len() as u64).sum()
    }

    /// Whether no block is in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Whether the block is in the set.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        let (key, low) = split(block);
        self.chunks
            .binary_search_by_key(&key, |(key, _)| *key)
            .ok()
            .and_then(|at| self.chunks.get(at))
            .is_some_and(|(_, chunk)| chunk.contains(low))
    }

    /// Adds a block.
    pub fn insert(&mut self, block: u32) {
        let (key, low) = split(block);
        if let Some(chunk) = self.chunk_mut(key) {
            chunk.insert(low);
        }
    }

    /// Adds the blocks from `first` to `last`, both included.
    pub fn insert_run(&mut self, first: u32, last: u32) {
        let ((first_key, first_low), (last_key, last_low)) = (split(first), split(last));
        for key in first_key..=last_key {
            let low = if key == first_key { first_low } else { 0 };
            let high = if key == last_key { last_low } else { u16::MAX };
            if let Some(chunk) = self.chunk_mut(key).filter(|_| low <= high) {
                chunk.insert_run(low, high);
            }
        }
    }

    /// The chunk of that key, made if there is none.
    fn chunk_mut(&mut self, key: u16) -> Option<&mut Chunk> {
        let at = match self.chunks.last() {
            Some((last, _)) if *last == key => self.chunks.len().saturating_sub(1),
            _ => match self.chunks.binary_search_by_key(&key, |(key, _)| *key) {
                Ok(at) => at,
                Err(at) => {
                    self.chunks.insert(at, (key, Chunk::List(Vec::new())));
                    at
                }
            },
        };
        self.chunks.get_mut(at).map(|(_, chunk)| chunk)
    }

    /// Adds all blocks of the other set.
    pub fn union_with(&mut self, other: &BlockSet) {
        let mut merged = Vec::with_capacity(self.chunks.len().max(other.chunks.len()));
        let mut theirs = other.chunks.iter().peekable();
        for (key, mut mine) in std::mem::take(&mut self.chunks) {
            while let Some(chunk) = theirs.next_if(|(other, _)| *other < key) {
                merged.push(chunk.clone());
            }
            if let Some((_, chunk)) = theirs.next_if(|(other, _)| *other == key) {
                mine.union_with(chunk);
            }
            merged.push((key, mine));
        }
        merged.extend(theirs.cloned());
        self.chunks = merged;
    }

    /// Removes the blocks from `limit` on.
    pub fn truncate(&mut self, limit: u32) {
        let (key, low) = split(limit);
        let keep = self.chunks.partition_point(|(other, _)| *other <= key);
        self.chunks.truncate(keep);
        if let Some((last, chunk)) = self.chunks.last_mut()
            && *last == key
        {
            chunk.truncate(low);
            if chunk.len() == 0 {
                self.chunks.pop();
            }
        }
    }

    /// The blocks in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.chunks.iter().flat_map(|(key, chunk)| chunk.iter().map(|low| unite(*key, low)))
    }

    /// The blocks of `range`, in order; touches nothing outside it.
    pub fn iter_range(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = u32> + '_ {
        let (first, _) = split(range.start);
        let from = self.chunks.partition_point(|(key, _)| *key < first);
        self.chunks
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while({
                let end = range.end;
                move |(key, _)| unite(*key, 0) < end
            })
            .flat_map(|(key, chunk)| chunk.iter().map(|low| unite(*key, low)))
            .filter(move |block| range.contains(block))
    }

    /// The blocks as runs of neighbours: first block, how many. Costs no more for long runs than for short ones.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut pieces = self
            .chunks
            .iter()
            .flat_map(|(key, chunk)| chunk.runs().map(|(low, high)| (unite(*key, low), unite(*key, high))))
            .peekable();
        std::iter::from_fn(move || {
            let (first, mut last) = pieces.next()?;
            // Runs go on over the borders of chunks.
            while let Some((_, end)) = pieces.next_if(|(next, _)| last.checked_add(1) == Some(*next)) {
                last = end;
            }
            // A run of all 2^32 numbers does not exist: the last one is not a block.
            Some((first, (last - first).saturating_add(1)))
        })
    }
}

impl FromIterator<u32> for BlockSet {
    fn from_iter<I: IntoIterator<Item = u32>>(blocks: I) -> BlockSet {
        let mut set = BlockSet::new();
        set.extend(blocks);
        set
    }
}

impl Extend<u32> for BlockSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, blocks: I) {
        for block in blocks {
            self.insert(block);
        }
    }
}

impl Chunk {
    fn len(&self) -> usize {
        match self {
            Chunk::List(list) => list.len(),
            Chunk::Bits { count, .. } => *count as usize,
        }
    }

    fn contains(&self, low: u16) -> bool {
        match self {
            Chunk::List(list) => list.binary_search(&low).is_ok(),
            Chunk::Bits { bits, .. } => {
                bits.get(usize::from(low >> 6)).is_some_and(|word| word >> (low & 63) & 1 == 1)
            }
        }
    }

    fn insert(&mut self, low: u16) {
        match self {
            Chunk::List(list) => {
                if list.last().is_none_or(|last| *last < low) {
                    list.push(low);
                } else if let Err(at) = list.binary_search(&low) {
                    list.insert(at, low);
                }
                if list.len() > LIST_LIMIT {
                    *self = Chunk::from_bits(to_bits(list));
                }
            }
            Chunk::Bits { bits, count } => {
                if let Some(word) = bits.get_mut(usize::from(low >> 6)) {
                    let bit = 1 << (low & 63);
                    *count += u32::from(*word & bit == 0);
                    *word |= bit;
                }
            }
        }
    }

    fn insert_run(&mut self, low: u16, high: u16) {
        if low == high {
            self.insert(low);
        } else if let Chunk::List(list) = self {
            if list.len() + usize::from(high - low) < LIST_LIMIT {
                let sorted = list.last().is_none_or(|last| *last < low);
                list.extend(low..=high);
                if !sorted {
                    list.sort_unstable();
                    list.dedup();
                }
                return;
            }
            let mut bits = to_bits(list);
            fill(&mut bits, low, high);
            *self = Chunk::from_bits(bits);
        } else if let Chunk::Bits { bits, count } = self {
            *count += fill(bits, low, high);
        }
    }

    fn union_with(&mut self, other: &Chunk) {
        if let (Chunk::List(mine), Chunk::List(theirs)) = (&mut *self, other)
            && mine.len() + theirs.len() <= LIST_LIMIT
        {
            mine.extend_from_slice(theirs);
            mine.sort_unstable();
            mine.dedup();
            return;
        }
        let mut union = self.to_bits();
        for (mine, theirs) in union.iter_mut().zip(other.to_bits().iter()) {
            *mine |= theirs;
        }
        *self = Chunk::from_bits(union);
    }

    fn truncate(&mut self, low: u16) {
        match self {
            Chunk::List(list) => list.truncate(list.partition_point(|block| *block < low)),
            Chunk::Bits { bits, .. } => {
                let mut kept = bits.clone();
                let (word, bit) = (usize::from(low >> 6), low & 63);
                for (at, value) in kept.iter_mut().enumerate() {
                    if at == word {
                        *value &= (1 << bit) - 1;
                    } else if at > word {
                        *value = 0;
                    }
                }
                *self = Chunk::from_bits(kept);
            }
        }
    }

    fn to_bits(&self) -> Box<[u64; WORDS]> {
        match self {
            Chunk::List(list) => to_bits(list),
            Chunk::Bits { bits, .. } => bits.clone(),
        }
    }

    /// The form that the number of blocks asks for.
    fn from_bits(bits: Box<[u64; WORDS]>) -> Chunk {
        let count: u32 = bits.iter().map(|word| word.count_ones()).sum();
        if count as usize > LIST_LIMIT {
            Chunk::Bits { bits, count }
        } else {
            Chunk::List(ChunkIter::Bits { word: 0, rest: 0, next: 0, bits: &bits }.collect())
        }
    }

    /// First and last block of each run of neighbours.
    fn runs(&self) -> ChunkRuns<'_> {
        match self {
            Chunk::List(list) => ChunkRuns::List(list),
            Chunk::Bits { bits, .. } => ChunkRuns::Bits { bits, next: 0 },
        }
    }

    fn iter(&self) -> ChunkIter<'_> {
        match self {
            Chunk::List(list) => ChunkIter::List(list.iter()),
            Chunk::Bits { bits, .. } => ChunkIter::Bits { word: 0, rest: 0, next: 0, bits },
        }
    }
}

/// Sets the bits from `low` to `high`, both included, and returns how many were not set before.
fn fill(bits: &mut [u64; WORDS], low: u16, high: u16) -> u32 {
    let (first, last) = (usize::from(low >> 6), usize::from(high >> 6));
    let mut added = 0;
    for (at, word) in bits.iter_mut().enumerate().take(last + 1).skip(first) {
        let from = if at == first { u64::MAX << (low & 63) } else { u64::MAX };
        let to = if at == last { u64::MAX >> (63 - (high & 63)) } else { u64::MAX };
        added += (from & to & !*word).count_ones();
        *word |= from & to;
    }
    added
}

fn to_bits(list: &[u16]) -> Box<[u64; WORDS]> {
    let mut bits = Box::new([0_u64; WORDS]);
    for low in list {
        if let Some(word) = bits.get_mut(usize::from(low >> 6)) {
            *word |= 1 << (low & 63);
        }
    }
    bits
}

enum ChunkRuns<'c> {
    /// What is left of the list.
    List(&'c [u16]),
    /// The bits, and the first one not looked at yet.
    Bits { bits: &'c [u64; WORDS], next: u32 },
}

impl Iterator for ChunkRuns<'_> {
    type Item = (u16, u16);

    fn next(&mut self) -> Option<(u16, u16)> {
        match self {
            ChunkRuns::List(list) => {
                let (first, mut rest) = list.split_first()?;
                let mut last = first;
                while let Some((next, after)) = rest.split_first().filter(|(next, _)| **next - last == 1) {
                    (last, rest) = (next, after);
                }
                *list = rest;
                Some((*first, *last))
            }
            ChunkRuns::Bits { bits, next } => {
                let first = find(bits, *next, 0)?;
                let end = find(bits, first, u64::MAX).unwrap_or(CHUNK);
                *next = end;
                Some((u16::try_from(first).ok()?, u16::try_from(end - 1).ok()?))
            }
        }
    }
}

/// The first bit from `from` on that is set after the words were xored with `flip`.
fn find(bits: &[u64; WORDS], from: u32, flip: u64) -> Option<u32> {
    let skip = (from / 64) as usize;
    let mut mask = u64::MAX << (from % 64);
    for (word, number) in bits.iter().skip(skip).zip(from / 64..) {
        let found = (word ^ flip) & mask;
        if found != 0 {
            return Some(number * 64 + found.trailing_zeros());
        }
        mask = u64::MAX;
    }
    None
}

enum ChunkIter<'c> {
    List(std::slice::Iter<'c, u16>),
    /// `rest`: the bits of the word number `word` that were not returned yet; `next`: the word to load after it.
    Bits {
        word: u16,
        rest: u64,
        next: u16,
        bits: &'c [u64; WORDS],
    },
}

impl Iterator for ChunkIter<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        match self {
            ChunkIter::List(list) => list.next().copied(),
            ChunkIter::Bits { word, rest, next, bits } => {
                while *rest == 0 {
                    *rest = *bits.get(usize::from(*next))?;
                    *word = *next;
                    *next += 1;
                }
                let bit = u16::try_from(rest.trailing_zeros()).unwrap_or(0);
                *rest &= *rest - 1;
                Some((*word << 6) | bit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Blocks that fall into few chunks, some of them dense.
    fn blocks() -> impl Strategy<Value = Vec<u32>> {
        let sparse = proptest::collection::vec(prop_oneof![0_u32..300_000, any::<u32>()], 0..200);
        let dense = (0_u32..200_000, 0_u32..10_000, 1_u32..3)
            .prop_map(|(from, count, step)| (0..count).map(|n| from + n * step).collect::<Vec<_>>());
        (sparse, dense).prop_map(|(sparse, dense)| [sparse, dense].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn behaves_as_an_ordered_set_does(first in blocks(), second in blocks(), limit in 0_u32..300_000) {
            let model: BTreeSet<u32> = first.iter().copied().collect();
            let mut set: BlockSet = first.iter().copied().collect();
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert!(second.iter().all(|block| set.contains(*block) == model.contains(block)));
            prop_assert!(set.iter_range(limit..limit + 70_000).eq(model.range(limit..limit + 70_000).copied()));

            let other: BlockSet = second.iter().copied().collect();
            set.union_with(&other);
            let mut union = model;
            union.extend(second);
            prop_assert_eq!(&set, &union.iter().copied().collect::<BlockSet>());

            set.truncate(limit);
            let kept: BlockSet = union.range(..limit).copied().collect();
            prop_assert_eq!(&set, &kept);
            let mut again = BlockSet::new();
            // Every second run first, so that the others fall in between.
            for (first, count) in set.runs().step_by(2).chain(set.runs().skip(1).step_by(2)) {
                again.insert_run(first, first + (count - 1));
                again.insert_run(first, first + (count - 1));
            }
            prop_assert_eq!(&set, &again);
            let from_runs: Vec<u32> = set.runs().flat_map(|(first, count)| first..=first + (count - 1)).collect();
            prop_assert!(set.iter().eq(from_runs));
        }
    }

    #[test]
    fn a_run_may_be_everything() {
        let mut set = BlockSet::new();
        set.insert_run(70_000, u32::MAX - 1);
        set.insert_run(0, 69_999);
        assert_eq!(set.len(), u64::from(u32::MAX));
        set.truncate(65_537);
        assert_eq!(set, (0..=65_536).collect());
    }

    #[test]
    fn the_last_block_numbers_are_ordinary() {
        let set: BlockSet = [u32::MAX, u32::MAX - 1].into_iter().collect();
        assert_eq!(set.runs().collect::<Vec<_>>(), [(u32::MAX - 1, 2)]);
        assert!(set.contains(u32::MAX));
    }
}
