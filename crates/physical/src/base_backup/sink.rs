//! Where the bytes of one archive go.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pgkeep_format::tar::END_OF_ARCHIVE;
use pgkeep_tool::compress::ParallelCompressor;
use pgkeep_tool::{Result, ToolError};

/// Takes an archive, piece by piece.
pub(super) trait ArchiveSink: Send {
    /// More of it.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// All of it has come.
    fn finish(self: Box<Self>) -> Result<()>;

    /// What is being written, for people.
    fn file(&self) -> String;
}

/// A file or stream that is compressed on the way.
pub(super) struct CompressedOutput {
    path: PathBuf,
    output: ParallelCompressor<Box<dyn Write + Send>>,
}

impl CompressedOutput {
    /// `path` is its name in messages.
    pub(super) fn new(path: &Path, output: ParallelCompressor<Box<dyn Write + Send>>) -> CompressedOutput {
        CompressedOutput { path: path.to_owned(), output }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(|error| not_written(&self.path, &error))
    }

    pub(super) fn end(self) -> Result<()> {
        let CompressedOutput { path, output } = self;
        let ended = output.finish().and_then(|mut output| output.flush());
        ended.map_err(|error| not_written(&path, &error))
    }
}

/// An archive as it comes.
pub(super) struct Whole {
    output: CompressedOutput,
    /// The end of the archive is missing in what comes, as servers up to 14 have it.
    lacks_end: bool,
}

impl Whole {
    pub(super) fn new(output: CompressedOutput, lacks_end: bool) -> Whole {
        Whole { output, lacks_end }
    }
}

impl ArchiveSink for Whole {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.put(bytes)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.lacks_end {
            self.output.put(&END_OF_ARCHIVE)?;
        }
        self.output.end()
    }

    fn file(&self) -> String {
        self.output.path().display().to_string()
    }
}

pub(super) fn not_written(path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not("write to file", path.display(), error)
}
