//! Which repository, and which stanza in it, as the user named them. Opening checks that both are there and known.

use pgkeep_repo::{Repository, Stanza, Store};

use crate::error::Result;

/// A stanza of a repository, as the user named them.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Location {
    /// Path or URL of the repository.
    pub repository: String,
    /// Name of the stanza.
    pub stanza: String,
}

impl Location {
    /// Opens the repository.
    pub fn open_repository(&self) -> Result<Repository> {
        Ok(Repository::open(Store::open(&self.repository)?)?)
    }

    /// Opens the stanza.
    pub fn open_stanza(&self) -> Result<Stanza> {
        Ok(self.open_repository()?.stanza(&self.stanza)?)
    }
}
