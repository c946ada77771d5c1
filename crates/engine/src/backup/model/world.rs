//! The modelled cluster: databases, relations and their pages, other files, and the log of what WAL would have said.

use std::collections::BTreeMap;

use pgkeep_format::wal::BlockSummary;
use pgkeep_format::{Fork, Lsn, RelFileLocator, RelationFile};

/// Bytes of a page.
pub const BLOCK: usize = 8192;
/// Blocks of a relation's segment.
pub const SEGMENT_BLOCKS: u32 = 16;
/// No relation grows beyond this.
const MOST_BLOCKS: u32 = 48;
/// `pg_default`.
const TABLESPACE: u32 = 1663;
/// Where the tuple of a page begins.
const TUPLE: u16 = 1024;
/// What each step takes in the WAL.
const STEP_BYTES: u64 = 64;

/// What a page holds. Hints are what the server changes without a word in WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Zero,
    Rows { seed: u64, hints: u8 },
}

impl Page {
    pub fn bytes(self) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        let Page::Rows { seed, hints } = self else { return page };
        let mut put = |at: usize, value: u16| page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        // pd_lower, pd_upper, pd_special, and one line pointer in use.
        put(12, 28);
        put(14, TUPLE);
        put(16, BLOCK as u16);
        put(18, BLOCK as u16 | 4);
        let length = BLOCK as u32 - u32::from(TUPLE);
        page[24..28].copy_from_slice(&(u32::from(TUPLE) | 1 << 15 | length << 17).to_le_bytes());
        page[..8].copy_from_slice(&seed.to_le_bytes());
        let tuple = usize::from(TUPLE);
        fill(&mut page[tuple + 24..], seed);
        // t_hoff; t_infomask: the outcome of both transactions may become known. (Both bits at once mean frozen: no hint.)
        page[tuple + 22] = 24;
        page[tuple + 21] = (hints % 3) | (hints / 3 % 3) << 2;
        page
    }
}

fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    // Half of it compresses, as rows do.
    for (index, chunk) in bytes.chunks_mut(8).enumerate() {
        if index % 2 == 0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        }
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// A relation: its main fork over all segments, and the other forks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relation {
    pub main: Vec<Page>,
    /// Segments that were made: the server leaves them behind, empty, when it truncates.
    segments: u32,
    vm: Option<Page>,
    fsm: Option<Page>,
}

/// Database and file number.
pub type Name = (u32, u32);

/// Something that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// Database and number.
    Create(u8, u8),
    /// A page of a relation gets other rows.
    Write(u8, u8, u64),
    /// A page of a relation gets hints, of which WAL does not tell.
    Hint(u8, u8, u8),
    /// A relation grows by so many pages with rows, of which WAL tells.
    Extend(u8, u8, u64),
    /// A relation grows by so many zeros, of which WAL does not tell: what a load leaves that was cut short.
    ExtendByZeros(u8, u8),
    /// A relation is cut to so many blocks.
    Truncate(u8, u8),
    /// Both: rows were deleted, vacuum cut the file, and a load that was cut short left zeros where they were.
    TruncateAndExtendByZeros(u8, u8, u8),
    /// A relation goes.
    Drop(u8),
    /// From, to, and whether by copying files; upon what had the name before.
    CopyDatabase(u8, u8, bool),
    /// A database goes with all its relations.
    DropDatabase(u8),
    /// The visibility map of a relation changes, of which WAL tells.
    VisibilityMap(u8, u64),
    /// The free space map of a relation changes, of which WAL does not tell.
    FreeSpaceMap(u8, u64),
    /// A file that is no relation's: its number, length and contents.
    OtherFile(u8, u16, u64),
}

/// The cluster now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub relations: BTreeMap<Name, Relation>,
    others: BTreeMap<u8, Vec<u8>>,
}

/// Every change that WAL names, with its position.
#[derive(Debug)]
pub struct Log {
    pub at: Lsn,
    entries: Vec<(Lsn, Entry)>,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Block(RelFileLocator, Fork, u32),
    Limit(RelFileLocator, Fork, u32),
    Database(u32),
}

impl Log {
    /// An empty one that begins there.
    pub const fn from(at: Lsn) -> Log {
        Log { at, entries: Vec::new() }
    }

    fn add(&mut self, entry: Entry) {
        self.entries.push((self.at, entry));
        self.at = Lsn(self.at.0 + STEP_BYTES);
    }

    /// What WAL from `from` up to `until` names.
    pub fn between(&self, from: Lsn, until: Lsn) -> BlockSummary {
        let mut summary = BlockSummary::new();
        for (_, entry) in self.entries.iter().filter(|(at, _)| (from..until).contains(at)) {
            match *entry {
                Entry::Block(locator, fork, block) => summary.mark(locator, fork, block),
                Entry::Limit(locator, fork, limit) => summary.set_limit(locator, fork, limit),
                Entry::Database(database) => summary.mark_full_database(TABLESPACE, database),
            }
        }
        summary
    }
}

pub fn locator((database, number): Name) -> RelFileLocator {
    RelFileLocator { tablespace: TABLESPACE, database, number }
}

fn database(index: u8) -> u32 {
    5 + u32::from(index % 2)
}

impl World {
    fn choose(&self, index: u8) -> Option<Name> {
        let count = self.relations.len().max(1);
        self.relations.keys().nth(usize::from(index) % count).copied()
    }

    fn chosen(&mut self, index: u8) -> Option<(Name, &mut Relation)> {
        let name = self.choose(index)?;
        Some((name, self.relations.get_mut(&name)?))
    }

    pub fn apply(&mut self, step: &Step, log: &mut Log) {
        let main = |name, block| Entry::Block(locator(name), Fork::Main, block);
        match *step {
            Step::Create(index, number) => {
                let name = (database(index), 16384 + u32::from(number % 2));
                self.relations.entry(name).or_insert_with(|| {
                    log.add(Entry::Limit(locator(name), Fork::Main, 0));
                    Relation { segments: 1, ..Relation::default() }
                });
            }
            Step::Write(relation, block, seed) => {
                let Some((name, relation)) = self.chosen(relation) else { return };
                let Some(block) = usize::from(block).checked_rem(relation.main.len()) else { return };
                relation.main[block] = Page::Rows { seed, hints: 0 };
                log.add(main(name, block as u32));
            }
            Step::Hint(relation, block, hints) => {
                let Some((_, relation)) = self.chosen(relation) else { return };
                let Some(block) = usize::from(block).checked_rem(relation.main.len()) else { return };
                if let Page::Rows { hints: of_page, .. } = &mut relation.main[block] {
                    *of_page = hints;
                }
            }
            Step::Extend(relation, blocks, seed) => {
                let Some((name, relation)) = self.chosen(relation) else { return };
                for block in 0..u32::from(blocks % 20) {
                    if relation.extend(Page::Rows { seed: seed ^ u64::from(block), hints: 0 }) {
                        log.add(main(name, relation.main.len() as u32 - 1));
                    }
                }
            }
            Step::ExtendByZeros(relation, blocks) => {
                let Some((_, relation)) = self.chosen(relation) else { return };
                for _ in 0..blocks % 20 {
                    relation.extend(Page::Zero);
                }
            }
            Step::Truncate(relation, blocks) => {
                let Some((name, relation)) = self.chosen(relation) else { return };
                let blocks = usize::from(blocks) % (relation.main.len() + 1);
                relation.main.truncate(blocks);
                log.add(Entry::Limit(locator(name), Fork::Main, blocks as u32));
            }
            Step::TruncateAndExtendByZeros(relation, blocks, zeros) => {
                self.apply(&Step::Truncate(relation, blocks), log);
                self.apply(&Step::ExtendByZeros(relation, zeros), log);
            }
            Step::Drop(relation) => {
                let Some(name) = self.choose(relation) else { return };
                self.relations.remove(&name);
                for fork in [Fork::Main, Fork::Vm, Fork::Fsm] {
                    log.add(Entry::Limit(locator(name), fork, 0));
                }
            }
            Step::CopyDatabase(from, to, by_file) if database(from) != database(to) => {
                self.apply(&Step::DropDatabase(to), log);
                self.copy_database(database(from), database(to), by_file, log);
            }
            Step::CopyDatabase(..) => {}
            Step::DropDatabase(index) => {
                let gone = database(index);
                self.relations.retain(|(database, _), _| *database != gone);
                log.add(Entry::Database(gone));
            }
            Step::VisibilityMap(relation, seed) => {
                let Some((name, relation)) = self.chosen(relation) else { return };
                relation.vm = Some(Page::Rows { seed, hints: 0 });
                log.add(Entry::Block(locator(name), Fork::Vm, 0));
            }
            Step::FreeSpaceMap(relation, seed) => {
                let Some((_, relation)) = self.chosen(relation) else { return };
                relation.fsm = Some(Page::Rows { seed, hints: 0 });
            }
            Step::OtherFile(file, length, seed) => {
                let mut bytes = vec![0; usize::from(length)];
                fill(&mut bytes, seed);
                self.others.insert(file % 5, bytes);
            }
        }
    }

    /// `CREATE DATABASE` by copying files, of which WAL says only that, or by copying blocks, of which it names each.
    fn copy_database(&mut self, from: u32, to: u32, by_file: bool, log: &mut Log) {
        if by_file {
            log.add(Entry::Database(to));
        }
        let of_source = |((database, _), _): &(&Name, &Relation)| *database == from;
        let copies: Vec<(Name, Relation)> = self
            .relations
            .iter()
            .filter(of_source)
            .map(|((_, number), relation)| ((to, *number), relation.clone()))
            .collect();
        for (name, mut copy) in copies {
            if !by_file {
                copy.fsm = None;
                log.add(Entry::Limit(locator(name), Fork::Main, 0));
                for block in 0..copy.main.len() as u32 {
                    log.add(Entry::Block(locator(name), Fork::Main, block));
                }
                if copy.vm.is_some() {
                    log.add(Entry::Limit(locator(name), Fork::Vm, 0));
                    log.add(Entry::Block(locator(name), Fork::Vm, 0));
                }
            }
            self.relations.insert(name, copy);
        }
    }

    /// Every file with its bytes.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for (name, relation) in &self.relations {
            let path = |fork, segment| RelationFile { locator: locator(*name), fork, segment }.path("");
            for segment in 0..relation.segments.max(1) {
                let pages = relation.main.chunks(SEGMENT_BLOCKS as usize).nth(segment as usize);
                let bytes = pages.unwrap_or_default().iter().flat_map(|page| page.bytes()).collect();
                files.insert(path(Fork::Main, segment), bytes);
            }
            for (fork, page) in [(Fork::Vm, relation.vm), (Fork::Fsm, relation.fsm)] {
                if let Some(page) = page {
                    files.insert(path(fork, 0), page.bytes());
                }
            }
        }
        for (number, bytes) in &self.others {
            files.insert(format!("pg_xact/000{number}"), bytes.clone());
        }
        files
    }
}

impl Relation {
    fn extend(&mut self, page: Page) -> bool {
        if self.main.len() as u32 >= MOST_BLOCKS {
            return false;
        }
        self.main.push(page);
        self.segments = self.segments.max((self.main.len() as u32).div_ceil(SEGMENT_BLOCKS));
        true
    }
}
