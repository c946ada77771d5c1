//! The steps that load rows: one for each table, or one for each piece that the archive's index has.

use pgkeep_format::archive::DataPiece;

use super::{Basis, Builder, Rows, Step};
use crate::load::statements::is_unlogged;
use crate::quote;
use crate::restore::loads_through_root;

impl Builder<'_> {
    pub(super) fn rows(&self, index: usize) -> Rows {
        let Basis { contents, facts, belongings, request, .. } = *self.basis;
        let entry = &contents.entries[index];
        let table = belongings.owner(index);
        let name = quote::qualified(entry.namespace.as_deref(), &entry.tag);
        let is_made = table.is_some_and(|table| self.last_of[table].is_some());
        let is_copy = entry.copy_statement.as_deref().is_some_and(|copy| !copy.is_empty());
        Rows {
            truncate: facts.wal_is_minimal
                && is_made
                && is_copy
                && !request.into_existing
                && !loads_through_root(entry, &name),
            unlogged: table.is_some_and(|table| is_unlogged(&contents.entries[table])),
            piece: None,
        }
    }

    /// Rows in one step, or a step for each piece. An interrupted load that loaded pieces goes on with pieces, whatever the
    /// number of its sessions is now; one that has none of them has no row of the table.
    pub(super) fn row_steps(&self, index: usize, whole: &Step) -> Vec<Step> {
        let Basis { contents, request, pieces, .. } = *self.basis;
        let rows = self.rows(index);
        let whole = Step { weight: whole.stored.max(1), rows: Some(rows), ..whole.clone() };
        let Some(indexed) = pieces.of_rows(&contents.entries[index]) else { return vec![whole] };
        let key = |piece: usize| format!("{}.{piece}", whole.key);
        let is_begun = (0..indexed.pieces.len()).any(|piece| self.is_done(&key(piece)));
        // A lone session gains nothing, and a server without log of new rows writes one if they come in pieces.
        if self.is_done(&whole.key) || !(is_begun || (request.jobs > 1 && !rows.truncate)) {
            return vec![whole];
        }
        let of_piece = |(number, piece): (usize, &DataPiece)| Step {
            key: key(number),
            weight: piece.length.max(1),
            stored: piece.length,
            rows: Some(Rows { truncate: false, piece: Some(number), ..rows }),
            ..whole.clone()
        };
        indexed.pieces.iter().enumerate().map(of_piece).collect()
    }

    pub(super) fn size_of_table(&self, table: usize) -> u64 {
        let rows = self.rows_of.get(&table).map(Vec::as_slice).unwrap_or_default();
        rows.iter().map(|step| self.steps[*step].stored).sum()
    }
}
