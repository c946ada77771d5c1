//! What can go wrong with a repository, one variant for each thing that a caller treats differently.
//!
//! Messages name the object by its key, and the offset where there is one, so that damage can be found by hand.

use std::error::Error as StdError;
use std::io;

use crate::BackupId;

/// The cause beneath an error of the store.
pub(crate) type Source = Box<dyn StdError + Send + Sync + 'static>;

/// A failure of the repository. Messages name the object (its key) and, where there is one, the offset in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// The location is not one that can be opened: the user corrects it.
    #[error("`{location}` is not a repository location: {what}")]
    BadLocation {
        /// What was given.
        location: String,
        /// Why it cannot be used.
        what: String,
    },
    /// There is nothing at the location, or not a repository: the user corrects the location or runs `init`.
    #[error("there is no repository at `{location}`")]
    NotARepository {
        /// Where it was looked for.
        location: String,
    },
    /// A repository is there already.
    #[error("there is a repository at `{location}` already")]
    RepositoryExists {
        /// Where.
        location: String,
    },
    /// The place for a new repository holds something else.
    #[error("`{location}` is not empty: it holds `{entry}`")]
    NotEmpty {
        /// Where the repository was to be.
        location: String,
        /// The first thing that was found there.
        entry: String,
    },
    /// The repository or an object in it was written by a later program: the user upgrades.
    #[error("`{key}` needs a newer version of this program: {what}")]
    NewerFormat {
        /// The object.
        key: String,
        /// Which version or feature is unknown.
        what: String,
    },
    /// No stanza has that name.
    #[error("there is no stanza `{name}` in this repository")]
    StanzaNotFound {
        /// The name asked for.
        name: String,
        /// The names that exist, sorted.
        existing: Vec<String>,
    },
    /// A stanza has that name already.
    #[error("the stanza `{name}` exists already")]
    StanzaExists {
        /// The name.
        name: String,
    },
    /// The name cannot be that of a stanza.
    #[error("`{name}` cannot be the name of a stanza: {what}")]
    BadStanzaName {
        /// The name asked for.
        name: String,
        /// The rule that it breaks.
        what: &'static str,
    },
    /// No backup has that id.
    #[error("there is no backup `{id}` in the stanza `{stanza}`")]
    BackupNotFound {
        /// The stanza that was searched.
        stanza: String,
        /// The id asked for.
        id: BackupId,
    },
    /// No dump has that id.
    #[error("there is no dump `{id}` in the stanza `{stanza}`")]
    DumpNotFound {
        /// The stanza that was searched.
        stanza: String,
        /// The id asked for.
        id: BackupId,
    },
    /// The object is not there.
    #[error("`{key}` is not in the repository")]
    NotFound {
        /// The object.
        key: String,
    },
    /// The object is there already; nothing in a repository is written twice.
    #[error("`{key}` is in the repository already")]
    AlreadyExists {
        /// The object.
        key: String,
    },
    /// The storage is full (or a quota is, or the largest file size is reached).
    #[error("no space left in the repository while writing `{key}`")]
    NoSpace {
        /// The object that was being written.
        key: String,
        /// What the storage said.
        source: Source,
    },
    /// The storage refuses access.
    #[error("permission denied to {verb} `{key}`")]
    PermissionDenied {
        /// What was attempted.
        verb: &'static str,
        /// The object.
        key: String,
        /// What the storage said.
        source: Source,
    },
    /// Any other failure of the storage.
    #[error("cannot {verb} `{key}`")]
    Storage {
        /// What was attempted.
        verb: &'static str,
        /// The object.
        key: String,
        /// What the storage said.
        source: Source,
    },
    /// Stored bytes are not what was written.
    #[error("`{key}` is corrupt at offset {offset}: {what}")]
    Corrupt {
        /// The object.
        key: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Another process declared this backup dead while it was being written.
    #[error("backup {id} was declared abandoned by `{key}` while it was running")]
    Fenced {
        /// The backup that may not commit.
        id: BackupId,
        /// The object that says so.
        key: String,
    },
    /// What the backup refers to, or needs of the WAL, is being removed, or is gone.
    #[error("backup {id} needs `{key}`, {why}")]
    Removed {
        /// The backup that may not commit.
        id: BackupId,
        /// The object that it needs.
        key: String,
        /// `which is not there any more`, or who removes it.
        why: String,
    },
    /// The backup cannot be held any more: its removal has begun.
    #[error("backup {id} is being removed")]
    BeingRemoved {
        /// The backup.
        id: BackupId,
    },
    /// The caller handed over something that the format cannot hold. A bug above, never a fault of the repository.
    #[error("cannot store {what}")]
    Unrepresentable {
        /// What and why.
        what: String,
    },
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness {
        /// What it said.
        source: Source,
    },
}

/// Short for results of this crate.
pub type Result<T, E = RepoError> = std::result::Result<T, E>;

impl RepoError {
    /// Stored bytes at `offset` of `key` are wrong.
    pub(crate) fn corrupt(key: impl Into<String>, offset: u64, what: impl Into<String>) -> RepoError {
        RepoError::Corrupt { key: key.into(), offset, what: what.into() }
    }

    pub(crate) fn unrepresentable(what: impl Into<String>) -> RepoError {
        RepoError::Unrepresentable { what: what.into() }
    }

    /// Sorts a failure of the storage by what the caller can do about it.
    pub(crate) fn from_store(
        verb: &'static str,
        key: &str,
        source: impl StdError + Send + Sync + 'static,
    ) -> RepoError {
        let key = key.to_owned();
        match io_kind(&source) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) => {
                RepoError::NoSpace { key, source: Box::new(source) }
            }
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                RepoError::PermissionDenied { verb, key, source: Box::new(source) }
            }
            _ => RepoError::Storage { verb, key, source: Box::new(source) },
        }
    }

    /// Whether the storage is full, wherever in the chain it said so.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, RepoError::NoSpace { .. })
    }
}

/// Whether the file system refused to make a hard link because it has none.
pub(crate) fn lacks_links(error: &(dyn StdError + 'static)) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::MLINK].map(Errno::raw_os_error);
    first_io(error).and_then(io::Error::raw_os_error).is_some_and(|code| codes.contains(&code))
}

/// The kind of the first I/O error in the chain of causes.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    first_io(error).map(io::Error::kind)
}

fn first_io<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io);
        }
        next = cause.source();
    }
    None
}
