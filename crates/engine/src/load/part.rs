//! A part of a dump as something to load from: each session of the load has a reader of its own, which holds one decoded
//! frame and what was fetched ahead of it.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use pgkeep_logical::load::{LoadError, LoadErrorKind, LoadSource};
use pgkeep_logical::restore::{Archive, Input};
use pgkeep_repo::{DumpPartReader, DumpReader, RepoError};

use super::failure;
use crate::error::{Error, ErrorKind, Result};

/// What the storage said; an [`io::Error`] has no room for it.
type Failure = Arc<Mutex<Option<RepoError>>>;

/// A part of a dump.
pub(super) struct Part {
    dump: DumpReader,
    index: usize,
    reader: Arc<Mutex<DumpPartReader>>,
    storage: Failure,
}

/// The largest script of roles and tablespaces: some million roles.
const MAX_SCRIPT: u64 = 512 << 20;

impl Part {
    pub(super) fn open(dump: &DumpReader, index: usize) -> Result<Part> {
        let missing = || RepoError::NotFound { key: dump.manifest_key() };
        let reader = dump.open_part(index).ok_or_else(missing)?;
        Ok(Part { dump: dump.clone(), index, reader: Arc::new(Mutex::new(reader)), storage: Arc::default() })
    }

    /// The archive, to be opened by every session.
    pub(super) fn source(&self) -> LoadSource {
        let (reader, storage) = (Arc::clone(&self.reader), Arc::clone(&self.storage));
        LoadSource::opened_by(move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner).reopen();
            let reader = Told { reader, storage: Arc::clone(&storage) };
            Archive::open(Input::Seekable(Box::new(reader)), None)
        })
    }

    /// Reads the table of contents.
    pub(super) fn check(&self) -> Result<()> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).reopen();
        let reader = Told { reader, storage: Arc::clone(&self.storage) };
        let opened = Archive::open(Input::Seekable(Box::new(reader)), None);
        opened.map(drop).map_err(|error| self.failure(LoadError::archive(&error)))
    }

    /// The whole of a script, compared with its digest.
    pub(super) fn script(&self) -> Result<Vec<u8>> {
        let damaged = |what: &str| {
            Error::new(ErrorKind::Corrupt, what)
                .hint(format!("`pgkeep dump verify {}` says more", self.dump.id()))
                .hint("databases can be loaded one by one with `--database`")
        };
        let Some(part) = self.dump.header().parts.get(self.index).filter(|part| part.size <= MAX_SCRIPT)
        else {
            return Err(damaged("the script of roles and tablespaces is too long to be one"));
        };
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).reopen();
        let mut script = Vec::new();
        if let Err(error) = reader.read_to_end(&mut script) {
            let what = "the script of roles and tablespaces cannot be read";
            let said = reader.take_failure().map_or_else(|| error.to_string(), |said| said.to_string());
            return Err(damaged(what).cause(said));
        }
        let mut hasher = self.dump.hasher();
        hasher.update(&script);
        if !self.dump.is_digest_of(part, &hasher) {
            return Err(damaged("the digest of the script of roles and tablespaces is wrong"));
        }
        Ok(script)
    }

    /// What failed: what the storage said goes before what the archive's code makes of it.
    pub(super) fn failure(&self, error: LoadError) -> Error {
        let said = self.storage.lock().unwrap_or_else(PoisonError::into_inner).take();
        let is_of_archive = error.kind == LoadErrorKind::Corrupt;
        let mut told = match said.filter(|_| is_of_archive) {
            Some(said) => Error::from(said).while_doing(error.message),
            None => failure(error),
        };
        if is_of_archive {
            told.hints = vec![
                format!("`pgkeep dump verify {}` says what else is damaged", self.dump.id()),
                "what was loaded stays; tables that are sound can be loaded from this dump with `--table`, the others from another dump"
                    .to_owned(),
            ];
        }
        told
    }
}

/// A reader that keeps what the storage said.
struct Told {
    reader: DumpPartReader,
    storage: Failure,
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).inspect_err(|_| {
            if let Some(failure) = self.reader.take_failure() {
                // The latest one: an archive is read without its index when that is damaged.
                *self.storage.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
            }
        })
    }
}

impl Seek for Told {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}
