//! The index of pieces, in the making.

use pgkeep_format::archive::{Compression, DataPiece, DumpId, IndexedEntry, PieceIndex};

use crate::dump::fetch::{PieceFacts, PlannedEntry};

/// Collects what was written.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    index: PieceIndex,
}

impl IndexBuilder {
    pub(super) fn new(compression: Compression) -> IndexBuilder {
        IndexBuilder { index: PieceIndex { compression, entries: Vec::new() } }
    }

    /// An entry begins; `start` is where its block does.
    pub(super) fn begin(&mut self, entry: &PlannedEntry, start: u64) {
        let (dump_id, kind): (DumpId, _) = (entry.id, entry.kind);
        self.index.entries.push(IndexedEntry { dump_id, kind, start, pieces: Vec::new() });
    }

    /// A piece of it was written from `offset` to `end`.
    pub(super) fn piece(&mut self, offset: u64, end: u64, facts: &PieceFacts) {
        if let Some(entry) = self.index.entries.last_mut() {
            entry.pieces.push(DataPiece {
                offset,
                length: end.saturating_sub(offset),
                plain_length: facts.plain_length,
                rows: facts.rows,
                digest: facts.digest,
            });
        }
    }

    /// What the entry that began last holds: bytes and rows.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.index.entries.last().map_or((0, 0), |entry| (entry.plain_length(), entry.rows()))
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.index.encode()
    }
}
