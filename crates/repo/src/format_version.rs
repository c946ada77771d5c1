//! Versions of the repository format.
//!
//! | version | since | what changed |
//! |---|---|---|
//! | 1 | 0.1 | the first |
//!
//! Every object says its version. A program refuses what it does not know, so a change that an older program would
//! misread gets a new version or a required feature in the repository's record; one that it can safely ignore does not.
//! `testdata/format/v<version>/` keeps a repository of each version that every later program must read.

/// The version that this program writes.
pub const FORMAT: u16 = 1;

/// Features that a repository may require and that this program has.
pub(crate) const KNOWN_FEATURES: &[&str] = &[];
