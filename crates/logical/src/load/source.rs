//! Where the archive comes from: every session of a load opens it anew, so that they read at the same time.

use std::io::{self, Read};
use std::path::PathBuf;

use tempfile::NamedTempFile;

use pgkeep_tool::Result;

use super::error::{LoadError, LoadErrorKind, LoadResult};
use crate::restore::{Archive, Input};

/// An archive that can be opened several times.
pub struct LoadSource {
    open: Box<dyn Fn() -> Result<Archive> + Send + Sync>,
}

impl std::fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadSource").finish_non_exhaustive()
    }
}

impl LoadSource {
    /// A file or a directory, of any format.
    #[must_use]
    pub fn path(path: PathBuf) -> LoadSource {
        LoadSource::opened_by(move || Archive::open(Input::Path(path.clone()), None))
    }

    /// Whatever the function opens; the same archive at each call.
    #[must_use]
    pub fn opened_by(open: impl Fn() -> Result<Archive> + Send + Sync + 'static) -> LoadSource {
        LoadSource { open: Box::new(open) }
    }

    /// A pipe. It is copied to a temporary file first, since sessions read at different places.
    ///
    /// # Errors
    /// When it cannot be read, or the temporary file not be written.
    pub fn stream(mut stream: impl Read) -> LoadResult<LoadSource> {
        let failed = |error: io::Error| {
            LoadError::new(LoadErrorKind::Corrupt, "cannot copy the archive to a temporary file")
                .cause(error.to_string())
                .hint(
                    "free space in the temporary folder (TMPDIR), or save the archive to a file and name it",
                )
        };
        let mut file = NamedTempFile::new().map_err(failed)?;
        io::copy(&mut stream, &mut file).map_err(failed)?;
        let path = file.into_temp_path();
        Ok(LoadSource::opened_by(move || Archive::open(Input::Path(path.to_path_buf()), None)))
    }

    pub(super) fn open(&self) -> LoadResult<Archive> {
        (self.open)().map_err(|error| LoadError::archive(&error))
    }
}
