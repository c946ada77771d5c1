//! The steps of a load: what each does, what it needs, and what it locks.

use pgkeep_format::archive::TocEntry;

use crate::restore::{Contents, Wanted};

/// When a step is done, relative to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::load) enum Phase {
    Definitions,
    Main,
    Privileges,
    Last,
    Finish,
}

/// How a step locks a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::load) enum Lock {
    /// It reads.
    Read,
    /// It builds an index.
    Build,
    /// It validates a constraint.
    Validate,
    /// Nothing else may run.
    Exclusive,
}

impl Lock {
    pub(in crate::load) fn conflicts(self, other: Lock) -> bool {
        match (self, other) {
            (Lock::Exclusive, _) | (_, Lock::Exclusive) => true,
            (Lock::Read, _) | (_, Lock::Read) | (Lock::Build, Lock::Build) => false,
            _ => true,
        }
    }
}

/// How rows are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::load) struct Rows {
    /// Truncating in the same transaction spares WAL.
    pub(in crate::load) truncate: bool,
    /// A crash of the server empties the table.
    pub(in crate::load) unlogged: bool,
    /// One of the pieces that the archive's index has; none: all rows.
    pub(in crate::load) piece: Option<usize>,
}

/// One transaction.
#[derive(Debug, Clone)]
pub(in crate::load) struct Step {
    /// In the journal.
    pub(in crate::load) key: String,
    /// For people.
    pub(in crate::load) label: String,
    /// The entry that it is of.
    pub(in crate::load) index: usize,
    /// What is done in place of the entry.
    pub(in crate::load) instead: Option<Box<TocEntry>>,
    pub(in crate::load) wanted: Wanted,
    /// It loads rows.
    pub(in crate::load) rows: Option<Rows>,
    pub(in crate::load) phase: Phase,
    /// Steps of the same phase that come before.
    pub(in crate::load) needs: Vec<usize>,
    /// By entries of tables.
    pub(in crate::load) locks: Vec<(usize, Lock)>,
    /// About how long it takes, in bytes of the archive.
    pub(in crate::load) weight: u64,
    /// Bytes of the archive that it reads.
    pub(in crate::load) stored: u64,
    /// It does no harm twice, and a crash may undo it: it is never written down.
    pub(in crate::load) repeats: bool,
    /// An earlier run did it.
    pub(in crate::load) done: bool,
}

impl Step {
    pub(in crate::load) fn entry<'a>(&'a self, contents: &'a Contents) -> &'a TocEntry {
        self.instead.as_deref().unwrap_or(&contents.entries[self.index])
    }
}
