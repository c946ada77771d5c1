//! The rows of one table, loaded by several sessions: which piece comes next, and when all is done.
//!
//! Pure. Each piece is a COPY of its own, so a refused one leaves the others; since a table gets all of its rows or none,
//! what was loaded is taken away again then. The first piece goes alone: what is wrong with all of them is told once.

/// What a session is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Load this piece.
    Piece(usize),
    /// Empty the table.
    Empty,
}

/// A table that is being loaded.
#[derive(Debug)]
pub(super) struct RowsInPieces {
    /// The entry.
    pub(super) index: usize,
    pieces: usize,
    next: usize,
    running: usize,
    loaded: usize,
    refused: bool,
    emptied: bool,
}

impl RowsInPieces {
    pub(super) fn new(index: usize, pieces: usize) -> RowsInPieces {
        RowsInPieces { index, pieces, next: 0, running: 0, loaded: 0, refused: false, emptied: false }
    }

    /// Nobody works at it now.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0
    }

    /// What can be done now.
    pub(super) fn next(&mut self) -> Option<Turn> {
        if self.refused {
            if self.running > 0 || self.loaded == 0 || self.emptied {
                return None;
            }
            (self.running, self.emptied) = (1, true);
            return Some(Turn::Empty);
        }
        if self.next >= self.pieces || (self.next > 0 && self.loaded == 0) {
            return None;
        }
        self.running += 1;
        self.next += 1;
        Some(Turn::Piece(self.next - 1))
    }

    /// A turn is over. Whether the entry is told as refused with it, for the first time.
    pub(super) fn done(&mut self, turn: Turn, is_refused: bool) -> bool {
        self.running -= 1;
        let is_first = is_refused && !self.refused;
        match turn {
            Turn::Piece(_) if is_refused => self.refused = true,
            Turn::Piece(_) => self.loaded += 1,
            Turn::Empty => {}
        }
        is_first
    }

    /// Nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.running == 0
            && match self.refused {
                true => self.emptied || self.loaded == 0,
                false => self.loaded == self.pieces,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_goes_alone_and_all_others_together() {
        let mut rows = RowsInPieces::new(7, 3);
        assert_eq!((rows.next(), rows.next()), (Some(Turn::Piece(0)), None));
        assert!(!rows.done(Turn::Piece(0), false));
        assert!(rows.is_idle() && !rows.is_over());
        assert_eq!(
            (rows.next(), rows.next(), rows.next()),
            (Some(Turn::Piece(1)), Some(Turn::Piece(2)), None)
        );
        rows.done(Turn::Piece(2), false);
        assert!(!rows.is_over());
        rows.done(Turn::Piece(1), false);
        assert!(rows.is_over());
        assert_eq!(rows.next(), None);
    }

    #[test]
    fn after_a_refusal_nothing_is_kept() {
        let mut rows = RowsInPieces::new(7, 4);
        rows.next();
        rows.done(Turn::Piece(0), false);
        assert_eq!((rows.next(), rows.next()), (Some(Turn::Piece(1)), Some(Turn::Piece(2))));
        assert!(rows.done(Turn::Piece(2), true));
        assert_eq!(rows.next(), None, "another one still runs");
        assert!(!rows.done(Turn::Piece(1), true), "told once");
        assert!(!rows.is_over());
        assert_eq!(rows.next(), Some(Turn::Empty));
        assert!(!rows.is_over());
        rows.done(Turn::Empty, false);
        assert!(rows.is_over());
        assert_eq!(rows.next(), None);
    }

    #[test]
    fn when_the_first_is_refused_nothing_has_to_be_taken_away() {
        let mut rows = RowsInPieces::new(7, 4);
        rows.next();
        assert!(rows.done(Turn::Piece(0), true));
        assert!(rows.is_over());
        assert_eq!(rows.next(), None);
    }
}
