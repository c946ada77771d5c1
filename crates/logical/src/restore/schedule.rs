//! The order of a parallel restore: which entries can be restored now, next to those that are being restored.
//!
//! Pure. An entry is ready when nothing that it depends on is left, and its pass has come. Entries after the data wait
//! for the data of tables that they depend on; those that take exclusive locks do not run next to others that need the
//! same tables. Larger work goes first.

use std::collections::{BTreeSet, HashMap};

use pgkeep_format::archive::{DumpId, Section, TocEntry};

use super::contents::Contents;
use super::select::Pass;

/// Bytes of data that are loaded, or indexed, in a moment.
const SMALL: u64 = 64 << 10;

/// What is left to do.
#[derive(Debug)]
pub(crate) struct Schedule {
    dependencies: Vec<Vec<usize>>,
    dependents: Vec<Vec<usize>>,
    missing: Vec<usize>,
    locks: Vec<Vec<usize>>,
    passes: Vec<Pass>,
    /// Larger first, then by number.
    priorities: Vec<(std::cmp::Reverse<u64>, DumpId, usize)>,
    small: Vec<bool>,
    pending: BTreeSet<usize>,
    ready: BTreeSet<(std::cmp::Reverse<u64>, DumpId, usize)>,
    running: BTreeSet<usize>,
    pass: Pass,
}

impl Schedule {
    /// All entries are pending; nothing is ready before [`Schedule::start`]. `sizes`: bytes of data.
    pub(crate) fn new(contents: &Contents, mut sizes: Vec<u64>) -> Schedule {
        let entries = &contents.entries;
        let mut data_of: HashMap<DumpId, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if let (b"TABLE DATA", Some(table)) = (&entry.desc[..], entry.dependencies.first()) {
                data_of.entry(*table).or_default().push(index);
            }
        }
        let mut dependencies = Vec::with_capacity(entries.len());
        let mut locks = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let is_post_data = entry.section == Section::PostData;
            let mut needs = Vec::new();
            for id in &entry.dependencies {
                match data_of.get(id).filter(|_| is_post_data) {
                    Some(data) => {
                        for data in data.iter().copied() {
                            sizes[index] = sizes[index].max(sizes[data]);
                            needs.push(data);
                        }
                    }
                    // What is not in the archive is there already, or nobody can help it.
                    None => needs.extend(contents.index_of(*id)),
                }
            }
            // Building an index locks no reader out; everything else after the data is taken to.
            let is_exclusive = is_post_data && entry.desc != "INDEX";
            locks.push(if is_exclusive {
                let is_table = |need: &usize| matches!(&entries[*need].desc[..], b"TABLE" | b"TABLE DATA");
                needs.iter().copied().filter(is_table).collect()
            } else {
                Vec::new()
            });
            dependencies.push(needs);
        }
        let mut dependents = vec![Vec::new(); entries.len()];
        for (index, needs) in dependencies.iter().enumerate() {
            for need in needs {
                dependents[*need].push(index);
            }
        }
        // Where no size is known nothing is small, and nobody knows what a view holds.
        let is_known = sizes.iter().any(|size| *size > 0);
        let is_small = |(entry, size): (&TocEntry, &u64)| {
            is_known && *size < SMALL && entry.desc != "MATERIALIZED VIEW DATA"
        };
        Schedule {
            small: entries.iter().zip(&sizes).map(is_small).collect(),
            missing: dependencies.iter().map(Vec::len).collect(),
            passes: entries.iter().map(Pass::of).collect(),
            priorities: entries
                .iter()
                .enumerate()
                .map(|(index, entry)| (std::cmp::Reverse(sizes[index]), entry.dump_id, index))
                .collect(),
            pending: (0..entries.len()).collect(),
            ready: BTreeSet::new(),
            running: BTreeSet::new(),
            pass: Pass::Main,
            dependencies,
            dependents,
            locks,
        }
    }

    /// An entry was restored before the parallel part.
    pub(crate) fn done_before(&mut self, index: usize) {
        self.pending.remove(&index);
        for dependent in self.dependents[index].clone() {
            self.missing[dependent] = self.missing[dependent].saturating_sub(1);
        }
    }

    /// The parallel part begins.
    pub(crate) fn start(&mut self) {
        self.pass = Pass::Main;
        self.collect_ready();
    }

    /// The next entry; it is running from now on. None: nothing can be started now.
    pub(crate) fn next(&mut self) -> Option<usize> {
        loop {
            let found = self.ready.iter().find(|(_, _, index)| !self.conflicts(*index)).copied();
            if let Some(next) = found {
                self.ready.remove(&next);
                self.running.insert(next.2);
                return Some(next.2);
            }
            if !self.running.is_empty() {
                return None;
            }
            // Nothing runs, so nothing that is ready can be kept from running: the pass is over.
            self.pass = match self.pass {
                Pass::Main => Pass::Privileges,
                Pass::Privileges => Pass::Last,
                Pass::Last => return None,
            };
            self.collect_ready();
        }
    }

    /// The next small entry, for a worker that is at another one. It is running from now on.
    pub(crate) fn next_small(&mut self) -> Option<usize> {
        // The largest come first, so that the small ones are at the end.
        let next = self.ready.iter().next_back().copied().filter(|(_, _, index)| self.is_small(*index))?;
        if self.conflicts(next.2) {
            return None;
        }
        self.ready.remove(&next);
        self.running.insert(next.2);
        Some(next.2)
    }

    /// Takes hardly longer than it takes to be told of it.
    pub(crate) fn is_small(&self, index: usize) -> bool {
        self.small[index]
    }

    /// An entry is done.
    pub(crate) fn done(&mut self, index: usize) {
        self.running.remove(&index);
        for dependent in self.dependents[index].clone() {
            self.missing[dependent] = self.missing[dependent].saturating_sub(1);
            if self.missing[dependent] == 0
                && self.passes[dependent] == self.pass
                && self.pending.remove(&dependent)
            {
                self.ready.insert(self.priorities[dependent]);
            }
        }
    }

    /// What never became ready, since its dependencies are a circle.
    pub(crate) fn left(&self) -> BTreeSet<usize> {
        self.pending.clone()
    }

    fn collect_ready(&mut self) {
        let ready: Vec<usize> = self
            .pending
            .iter()
            .copied()
            .filter(|index| self.missing[*index] == 0 && self.passes[*index] == self.pass)
            .collect();
        for index in ready {
            self.pending.remove(&index);
            self.ready.insert(self.priorities[index]);
        }
    }

    fn conflicts(&self, index: usize) -> bool {
        let shares = |locks: &[usize], needs: &[usize]| locks.iter().any(|lock| needs.contains(lock));
        self.running.iter().any(|running| {
            shares(&self.locks[index], &self.dependencies[*running])
                || shares(&self.locks[*running], &self.dependencies[index])
        })
    }
}

#[cfg(test)]
mod tests {
    use pgkeep_format::archive::{
        ArchiveFormat, ArchiveHeader, ArchiveVersion, Compression, LocalTime, TocEntry,
    };

    use super::*;

    fn contents(entries: &[(u32, &str, Section, &[u32])]) -> Contents {
        let header = ArchiveHeader {
            version: ArchiveVersion::V1_16,
            int_size: 4,
            offset_size: 8,
            format: ArchiveFormat::Custom,
            compression: Compression::None,
            compression_level: None,
            created: LocalTime::default(),
            database: None,
            server_version: None,
            dump_version: None,
        };
        let entries = entries.iter().map(|(id, desc, section, needs)| {
            let mut entry = TocEntry::new(DumpId(*id), *desc, "x", *section);
            entry.dependencies = needs.iter().copied().map(DumpId).collect();
            entry
        });
        Contents::new(header, entries.collect()).unwrap()
    }

    /// Ids in the order in which one worker would restore them, behind `tables` tables.
    fn order(contents: &Contents, sizes: Vec<u64>, tables: usize) -> Vec<u32> {
        let mut schedule = Schedule::new(contents, sizes);
        (0..tables).for_each(|table| schedule.done_before(table));
        schedule.start();
        let mut order = Vec::new();
        while let Some(index) = schedule.next() {
            order.push(contents.entries[index].dump_id.0);
            schedule.done(index);
        }
        assert!(schedule.left().is_empty());
        order
    }

    #[test]
    fn only_what_is_known_to_be_small_is_handed_out_ahead() {
        let contents = contents(&[
            (1, "TABLE DATA", Section::Data, &[]),
            (2, "TABLE DATA", Section::Data, &[]),
            (3, "FUNCTION", Section::Data, &[]),
            (4, "MATERIALIZED VIEW DATA", Section::Data, &[]),
        ]);
        let mut schedule = Schedule::new(&contents, vec![1 << 20, 100, 0, 0]);
        schedule.start();
        assert_eq!(schedule.next(), Some(0));
        assert_eq!(
            (schedule.next_small(), schedule.next_small(), schedule.next_small()),
            (Some(2), Some(1), None)
        );
        let mut unknown = Schedule::new(&contents, vec![0; 4]);
        unknown.start();
        assert_eq!((unknown.next(), unknown.next_small()), (Some(0), None));
    }

    #[test]
    fn indexes_wait_for_the_data_of_their_table_and_large_tables_go_first() {
        let contents = contents(&[
            (1, "TABLE", Section::PreData, &[]),
            (2, "TABLE", Section::PreData, &[]),
            (3, "TABLE DATA", Section::Data, &[1]),
            (4, "TABLE DATA", Section::Data, &[2, 999]),
            (5, "INDEX", Section::PostData, &[1]),
            (6, "ACL", Section::None, &[1]),
            (7, "MATERIALIZED VIEW DATA", Section::PostData, &[6]),
        ]);
        assert_eq!(order(&contents, vec![0, 0, 10, 20, 0, 0, 0], 2), [4, 3, 5, 6, 7]);
    }

    #[test]
    fn two_that_lock_the_same_table_do_not_run_together() {
        let contents = contents(&[
            (1, "TABLE", Section::PreData, &[]),
            (2, "CONSTRAINT", Section::PostData, &[1]),
            (3, "INDEX", Section::PostData, &[1]),
            (4, "INDEX", Section::PostData, &[1]),
        ]);
        let mut schedule = Schedule::new(&contents, vec![0; 4]);
        schedule.done_before(0);
        schedule.start();
        assert_eq!(schedule.next(), Some(1));
        assert_eq!(schedule.next(), None);
        schedule.done(1);
        assert_eq!((schedule.next(), schedule.next()), (Some(2), Some(3)));
    }

    #[test]
    fn what_depends_on_itself_in_a_circle_is_left() {
        let contents = contents(&[(1, "VIEW", Section::PreData, &[2]), (2, "VIEW", Section::PreData, &[1])]);
        let mut schedule = Schedule::new(&contents, vec![0; 2]);
        schedule.start();
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.left(), BTreeSet::from([0, 1]));
    }

    #[test]
    fn all_pieces_of_a_table_come_before_its_index() {
        let contents = contents(&[
            (1, "TABLE", Section::PreData, &[]),
            (2, "TABLE DATA", Section::Data, &[1]),
            (3, "TABLE DATA", Section::Data, &[1]),
            (4, "INDEX", Section::PostData, &[1]),
        ]);
        let mut schedule = Schedule::new(&contents, vec![0; 4]);
        schedule.done_before(0);
        schedule.start();
        assert_eq!((schedule.next(), schedule.next(), schedule.next()), (Some(1), Some(2), None));
        schedule.done(2);
        assert_eq!(schedule.next(), None);
        schedule.done(1);
        assert_eq!(schedule.next(), Some(3));
    }
}
