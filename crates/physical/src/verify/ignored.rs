//! Paths in a backup that do not count: those that no manifest lists, and those that the request names.

use std::sync::Mutex;

use crate::manifest_table::CHANGED_BY_HAND;

/// What every server leaves out of its manifest.
const NEVER_LISTED: [&[u8]; 2] = [b"backup_manifest", b"pg_wal"];

/// The paths, with everything beneath them.
pub(super) struct Ignored(Mutex<Vec<Vec<u8>>>);

impl Ignored {
    pub(super) fn new(more: &[Vec<u8>]) -> Ignored {
        let always = NEVER_LISTED.iter().chain(&CHANGED_BY_HAND).map(|path| path.to_vec());
        Ignored(Mutex::new(always.chain(more.iter().cloned()).collect()))
    }

    /// Whether the path is one, or beneath one.
    pub(super) fn contains(&self, path: &[u8]) -> bool {
        self.paths().iter().any(|ignored| {
            path.strip_prefix(ignored.as_slice()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        })
    }

    /// One more: it was complained of once, which is enough.
    pub(super) fn add(&self, path: &[u8]) {
        self.paths().push(path.to_vec());
    }

    fn paths(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_what_is_beneath_it_but_not_its_neighbours() {
        let ignored = Ignored::new(&[b"base/5".to_vec()]);
        for path in ["base/5", "base/5/1", "pg_wal/x", "standby.signal"] {
            assert!(ignored.contains(path.as_bytes()), "{path}");
        }
        for path in ["base", "base/50", "pg_wal2", "a/pg_wal", "standby.signal2"] {
            assert!(!ignored.contains(path.as_bytes()), "{path}");
        }
    }
}
