//! What is fetched, cut into parts: ranges of pages of large tables, groups of large objects, all else whole.

use std::collections::HashMap;
use std::ops::Range;

use pgkeep_format::archive::{DataKind, DumpId};
use pgkeep_tool::Result;

use crate::dump::Dump;
use crate::dump::define::{DataSource, Rows};
use crate::dump::options::RowFormat;
use crate::dump::session::{number, oid_array};

/// Large objects of a part.
const LARGE_OBJECTS_PER_PART: usize = 64;

/// Pages of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageRange {
    pub(crate) first: u64,
    /// Behind the last one; none for all that there are.
    pub(crate) end: Option<u64>,
}

/// A part of the data of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) entry: DumpId,
    pub(crate) kind: DataKind,
    pub(crate) what: PartOf,
    /// It is the first one, and the last one, of its entry.
    pub(crate) is_first: bool,
    pub(crate) is_last: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PartOf {
    Table,
    Pages(PageRange),
    LargeObjects(Vec<u32>),
}

/// The parts of an entry.
#[derive(Debug, Clone)]
pub(crate) struct PlannedEntry {
    pub(crate) id: DumpId,
    pub(crate) kind: DataKind,
    /// Numbers of parts.
    pub(crate) parts: Range<usize>,
}

/// All parts, in the order in which they are delivered.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) parts: Vec<Part>,
    pub(crate) entries: Vec<PlannedEntry>,
}

/// In which order entries are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequence {
    /// As they are given.
    Given,
    /// The largest first, so that no session is left alone with it in the end.
    LargestFirst,
}

impl Plan {
    /// Plans for the sessions of a dump.
    pub(crate) fn new(dump: &mut Dump, entries: &[DumpId], sequence: Sequence) -> Result<Plan> {
        let sizes = sizes(dump, entries)?;
        let size = |id: DumpId| sizes.get(&id).map_or(0, |size| size.bytes);
        let mut order: Vec<DumpId> = entries.to_vec();
        if sequence == Sequence::LargestFirst {
            order.sort_by_key(|id| std::cmp::Reverse(size(*id).max(dump.size(*id))));
        }
        let mut plan = Plan::default();
        for id in order {
            let Some(source) = dump.data.get(&id) else { continue };
            let (kind, whats) = match source {
                DataSource::LargeObjects(oids) => (
                    DataKind::LargeObjects,
                    oids.chunks(LARGE_OBJECTS_PER_PART)
                        .map(|oids| PartOf::LargeObjects(oids.to_vec()))
                        .collect(),
                ),
                DataSource::Rows(rows) => {
                    let kind = match (&rows.how, dump.rows) {
                        (Rows::Inserts(_), _) => DataKind::Commands,
                        (Rows::Copy(_), RowFormat::CopyBinary) => DataKind::Binary,
                        (Rows::Copy(_), _) => DataKind::Text,
                    };
                    (
                        kind,
                        sizes.get(&id).map_or_else(|| vec![PartOf::Table], |size| cut(size, dump.part_bytes)),
                    )
                }
            };
            plan.push(id, kind, whats);
        }
        Ok(plan)
    }

    fn push(&mut self, id: DumpId, kind: DataKind, whats: Vec<PartOf>) {
        let first = self.parts.len();
        let last = first + whats.len().saturating_sub(1);
        for what in whats {
            let number = self.parts.len();
            self.parts.push(Part {
                entry: id,
                kind,
                what,
                is_first: number == first,
                is_last: number == last,
            });
        }
        self.entries.push(PlannedEntry { id, kind, parts: first..self.parts.len() });
    }
}

/// A table that can be cut.
#[derive(Debug, Clone, Copy)]
struct Size {
    pages: u64,
    bytes: u64,
}

/// How large tables are that can be cut; nothing when one session has to fetch all anyway. They are read after the snapshot
/// was taken: what lies behind them holds nothing that the snapshot sees, or the last range, which is open, has it.
fn sizes(dump: &mut Dump, entries: &[DumpId]) -> Result<HashMap<DumpId, Size>> {
    // Earlier servers would read the whole table for each range.
    if dump.others.is_empty() || !dump.session.is_at_least(14) {
        return Ok(HashMap::new());
    }
    let mut ids = HashMap::new();
    for id in entries {
        if let Some(DataSource::Rows(rows)) = dump.data.get(id)
            && rows.ranged.is_some()
        {
            ids.insert(rows.oid, *id);
        }
    }
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = dump.session.query(&format!(
        "SELECT c.oid, pg_catalog.pg_relation_size(c.oid) AS heap, \
         pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8 AS pages, \
         CASE WHEN c.reltoastrelid <> 0 THEN pg_catalog.pg_relation_size(c.reltoastrelid) END AS toast \
         FROM pg_catalog.pg_class c WHERE c.oid = ANY ({})",
        oid_array(ids.keys().copied())
    ))?;
    let mut sizes = HashMap::new();
    for row in rows.iter() {
        let oid: u32 = row.parse("oid")?;
        let (heap, toast): (u64, u64) = (number(row, "heap")?, number(row, "toast")?);
        if let Some(id) = ids.get(&oid) {
            sizes.insert(*id, Size { pages: number(row, "pages")?, bytes: heap.saturating_add(toast) });
        }
    }
    Ok(sizes)
}

/// Ranges of equal numbers of pages. A page stands for its share of the TOAST table as well.
fn cut(size: &Size, part_bytes: u64) -> Vec<PartOf> {
    let parts = size.bytes.div_ceil(part_bytes.max(1)).min(size.pages);
    // Little more than a part is not worth two.
    if size.bytes < part_bytes.saturating_add(part_bytes / 2) || parts < 2 {
        return vec![PartOf::Table];
    }
    let pages = size.pages.div_ceil(parts);
    (0..size.pages.div_ceil(pages))
        .map(|part| {
            let (first, end) = (part * pages, (part + 1) * pages);
            PartOf::Pages(PageRange { first, end: (end < size.pages).then_some(end) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_page_once_and_the_last_one_is_open() {
        for (pages, bytes) in
            [(6144, 48 << 20), (12_801, 100 << 20), (3, 1 << 40), (1 << 20, 8 << 30), (2, 1 << 30)]
        {
            let parts = cut(&Size { pages, bytes }, 32 << 20);
            let mut next = 0;
            for (number, part) in parts.iter().enumerate() {
                let PartOf::Pages(range) = part else { panic!("{part:?}") };
                assert_eq!(range.first, next);
                assert_eq!(range.end.is_none(), number + 1 == parts.len());
                next = range.end.unwrap_or(pages);
                assert!(range.first < next);
            }
            assert_eq!(next, pages);
        }
    }

    #[test]
    fn small_tables_and_those_of_one_page_stay_whole() {
        for (pages, bytes) in [(0, 0), (1, 1 << 40), (100, 100 << 13)] {
            assert_eq!(cut(&Size { pages, bytes }, 32 << 20), [PartOf::Table]);
        }
    }
}
