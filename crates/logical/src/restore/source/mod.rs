//! An open archive: its contents, and where its data is read from.
//!
//! - *Custom*, seekable (a file, or what else can be read at any place): blocks are found by their offsets, or by scanning
//!   where a dump into a pipe could not know them. Not seekable: entries come in the order of the file or not at all.
//! - *Directory*: a file for each entry, compressed or not, whatever the header says.
//! - *Live*: a dump that is being made; there is no archive.
//! - *Tar*: members are found by scanning headers. An archive on a pipe is copied to a temporary file first, since the
//!   order of restoring is not that of the members.
//!
//! Bytes are handed on in pieces; nothing is held whole but the table of contents.
//!
//! Archives of pgkeep have an [index](pieces) by which a part of an entry's data can be read.

mod custom;
mod directory;
mod live;
mod pieces;
mod tar;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use pgkeep_format::archive::{ArchiveError, ArchiveFormat, ArchiveHeader, MAGIC, Text, TocEntry};
use pgkeep_tool::{Result, ToolError, system_text};

use super::contents::Contents;
use custom::Custom;
use directory::Directory;
pub use live::LiveData;
pub(crate) use pieces::Pieces;
pub(super) use pieces::differs;
use tar::Tar;

/// Where an archive comes from.
pub enum Input {
    /// A file or directory.
    Path(PathBuf),
    /// A pipe.
    Stream(Box<dyn Read + Send>),
    /// A custom archive in something else that can be read at any place.
    Seekable(Box<dyn ReadSeek + Send>),
}

/// Reads at any place.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Input::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Input::Stream(_) => f.write_str("Stream"),
            Input::Seekable(_) => f.write_str("Seekable"),
        }
    }
}

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    /// What it lists.
    pub contents: Contents,
    pub(crate) source: Source,
    /// Where it was opened, if it can be opened again.
    pub(crate) path: Option<PathBuf>,
}

/// Where data is read from.
#[derive(Debug)]
pub(crate) enum Source {
    Custom(Box<Custom>),
    Directory(Directory),
    Tar(Tar),
    Live(Box<dyn LiveData + Send>),
}

/// A piece of an entry's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Bytes of rows, or of the large object that began last.
    Bytes(&'a [u8]),
    /// A large object begins.
    LargeObject(u32),
    /// It ends.
    LargeObjectEnd,
}

/// Takes the pieces.
pub(crate) type Sink<'a> = dyn FnMut(Piece<'_>) -> Result<()> + 'a;

const TEXT_BANNERS: [&[u8]; 2] =
    [b"--\n-- PostgreSQL database dump\n--\n\n", b"--\n-- PostgreSQL database cluster dump\n--\n\n"];

impl Archive {
    /// Opens an archive and reads its table of contents.
    ///
    /// # Errors
    /// When it cannot be read or is no archive; `format` given: when it is none of that format.
    pub fn open(input: Input, format: Option<ArchiveFormat>) -> Result<Archive> {
        match input {
            Input::Path(path) => Archive::open_path(path, format),
            Input::Stream(stream) => Archive::open_stream(stream, format),
            Input::Seekable(reader) => {
                let (contents, custom) = Custom::open_seekable(reader)?;
                Ok(Archive { contents, source: Source::Custom(Box::new(custom)), path: None })
            }
        }
    }

    /// A dump that is being made, as if it were an archive.
    ///
    /// # Errors
    /// When its first entries do not say what they must.
    pub fn live(
        header: ArchiveHeader,
        entries: Vec<TocEntry>,
        data: Box<dyn LiveData + Send>,
    ) -> Result<Archive> {
        Ok(Archive { contents: Contents::new(header, entries)?, source: Source::Live(data), path: None })
    }

    fn open_path(path: PathBuf, format: Option<ArchiveFormat>) -> Result<Archive> {
        let shown = path.display().to_string();
        let format = match format {
            Some(format) => format,
            None if path.is_dir() => {
                if !Directory::has_table(&path) {
                    return Err(ToolError::new(format!(
                        "directory \"{shown}\" does not appear to be a valid archive (\"toc.dat\" does not exist)"
                    )));
                }
                ArchiveFormat::Directory
            }
            None => {
                let mut file = open_file(&path)?;
                let mut start = Vec::new();
                (&mut file).take(512).read_to_end(&mut start).map_err(|error| unreadable(&error))?;
                let format = detect(&start)?;
                if file.rewind().is_err() {
                    // A named pipe: its first bytes are gone from it.
                    let stream: Box<dyn Read + Send> = Box::new(io::Cursor::new(start).chain(file));
                    return Archive::open_stream(stream, Some(format));
                }
                format
            }
        };
        let (contents, source) = match format {
            ArchiveFormat::Directory => {
                let (contents, directory) = Directory::open(&path)?;
                (contents, Source::Directory(directory))
            }
            ArchiveFormat::Custom => {
                let (contents, custom) = Custom::open_file(open_file(&path)?)?;
                (contents, Source::Custom(Box::new(custom)))
            }
            ArchiveFormat::Tar => {
                let (contents, tar) = Tar::open(open_file(&path)?)?;
                (contents, Source::Tar(tar))
            }
        };
        Ok(Archive { contents, source, path: Some(path) })
    }

    fn open_stream(mut stream: Box<dyn Read + Send>, format: Option<ArchiveFormat>) -> Result<Archive> {
        let format = match format {
            Some(format) => format,
            None => {
                let mut start = Vec::new();
                (&mut stream).take(512).read_to_end(&mut start).map_err(|error| unreadable(&error))?;
                let format = detect(&start)?;
                stream = Box::new(io::Cursor::new(start).chain(stream));
                format
            }
        };
        let (contents, source) = match format {
            ArchiveFormat::Directory => {
                return Err(ToolError::new("no input directory specified")
                    .hint("name the directory: an archive of this format cannot come from standard input"));
            }
            ArchiveFormat::Custom => {
                let (contents, custom) = Custom::open_stream(stream)?;
                (contents, Source::Custom(Box::new(custom)))
            }
            ArchiveFormat::Tar => {
                let (contents, tar) = Tar::open(spool(stream)?)?;
                (contents, Source::Tar(tar))
            }
        };
        Ok(Archive { contents, source, path: None })
    }
}

impl Source {
    /// Opens the data once more, for another thread. `path` is what the archive was opened from.
    pub(crate) fn reopen(&self, path: Option<&Path>) -> Result<Source> {
        match (self, path) {
            (Source::Tar(_), _) => {
                Err(ToolError::new("parallel restore is not supported with this archive file format"))
            }
            (Source::Live(_), _) => Err(ToolError::new("a dump cannot be restored while it is made")),
            (Source::Directory(directory), _) => Ok(Source::Directory(directory.clone())),
            (Source::Custom(_), None) => {
                Err(ToolError::new("parallel restore from standard input is not supported"))
            }
            (Source::Custom(custom), Some(path)) => {
                Ok(Source::Custom(Box::new(custom.reopen(open_file(path)?)?)))
            }
        }
    }

    /// The definition of an entry that has none in the table of contents; none in an archive.
    pub(crate) fn late_definition(&mut self, entry: &TocEntry) -> Result<Option<Text>> {
        match self {
            Source::Live(data) => data.late_definition(entry.dump_id),
            Source::Custom(_) | Source::Directory(_) | Source::Tar(_) => Ok(None),
        }
    }

    /// Hands the rows of an entry to the sink.
    pub(crate) fn rows(&mut self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        match self {
            Source::Custom(custom) => custom.data(entry, sink),
            Source::Directory(directory) => directory.rows(entry, sink),
            Source::Tar(tar) => tar.rows(entry, sink),
            Source::Live(data) => live::rows(&mut **data, entry, sink),
        }
    }

    /// Hands the large objects of an entry to the sink.
    pub(crate) fn large_objects(&mut self, entry: &TocEntry, sink: &mut Sink<'_>) -> Result<()> {
        match self {
            Source::Custom(custom) => custom.data(entry, sink),
            Source::Directory(directory) => directory.large_objects(entry, sink),
            Source::Tar(tar) => tar.large_objects(entry, sink),
            Source::Live(data) => live::large_objects(&mut **data, entry, sink),
        }
    }

    /// How many bytes the data of each entry takes, as far as it is easily known.
    pub(crate) fn sizes(&mut self, contents: &Contents) -> Vec<u64> {
        match self {
            Source::Custom(custom) => custom.sizes(contents),
            Source::Directory(directory) => directory.sizes(contents),
            Source::Tar(_) | Source::Live(_) => vec![0; contents.entries.len()],
        }
    }
}

/// Passes on what a reader gives, in pieces.
fn pass(reader: &mut dyn Read, place: &str, sink: &mut Sink<'_>) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => sink(Piece::Bytes(&buffer[..read]))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(data_error(&error, place)),
        }
    }
}

/// An error while data was read: of the archive, or of the decompressor.
fn data_error(error: &io::Error, place: &str) -> ToolError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<ArchiveError>()) {
        Some(archive) => ToolError::new(format!("{archive} ({place})")),
        None => ToolError::new(format!("could not uncompress data: {} ({place})", system_text(error))),
    }
    .hint("the archive is damaged or incomplete: use another copy of it, or leave this entry out with -L")
}

/// Tells the format by the first bytes.
fn detect(start: &[u8]) -> Result<ArchiveFormat> {
    if start.len() < MAGIC.len() {
        return Err(ToolError::new(format!(
            "input file is too short (read {}, expected {})",
            start.len(),
            MAGIC.len()
        )));
    }
    if start.starts_with(MAGIC) {
        return Ok(ArchiveFormat::Custom);
    }
    if TEXT_BANNERS.iter().any(|banner| start.starts_with(banner)) {
        return Err(ToolError::new("input file appears to be a text format dump. Please use psql."));
    }
    if start.len() < 512 {
        return Err(ToolError::new("input file does not appear to be a valid archive (too short?)"));
    }
    if tar::is_header(start) {
        return Ok(ArchiveFormat::Tar);
    }
    Err(ToolError::new("input file does not appear to be a valid tar archive"))
}

fn open_file(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| ToolError::could_not("open input file", path.display(), &error))
}

fn unreadable(error: &io::Error) -> ToolError {
    ToolError::new(format!("could not read input file: {}", system_text(error)))
}

/// Copies a stream to a file that nobody else sees.
fn spool(mut stream: Box<dyn Read + Send>) -> Result<File> {
    let failed = |error: io::Error| {
        ToolError::new(format!("could not copy the archive to a temporary file: {}", system_text(&error)))
            .hint("free space in the temporary folder, or save the archive to a file and name it")
    };
    let mut file = tempfile::tempfile().map_err(failed)?;
    io::copy(&mut stream, &mut file).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file)
}
