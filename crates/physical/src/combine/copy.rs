//! Copying whole files, by blocks, links, clones, or ranges within the kernel.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgkeep_tool::{Result, ToolError, system_text};

use super::file_hashes::FileHashes;
use crate::manifest_table::not_opened;

/// Bytes that are read at once.
pub(super) const PIECE: usize = 1 << 20;

/// How whole files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMethod {
    /// Read and write.
    Copy,
    /// Hard links: the result shares files with the inputs.
    Link,
    /// Clones that share blocks until one is written to (`FICLONE`).
    Clone,
    /// `copy_file_range`: the kernel copies, or shares where it can.
    CopyFileRange,
}

impl CopyMethod {
    /// What the method is called where it is not the usual one.
    pub(super) const fn name(self) -> Option<&'static str> {
        match self {
            CopyMethod::Copy => None,
            CopyMethod::Link => Some("link"),
            CopyMethod::Clone => Some("clone"),
            CopyMethod::CopyFileRange => Some("copy_file_range"),
        }
    }
}

/// Copies a file to where none is. `hashes` sees all its bytes; the length is returned.
///
/// # Errors
/// In stock's words.
pub(super) fn copy_file(
    source: &Path,
    target: &Path,
    method: CopyMethod,
    mode: u32,
    hashes: &mut FileHashes,
) -> Result<u64> {
    if method == CopyMethod::Copy {
        let mut input = open(source)?;
        let mut output = create(target, mode)?;
        return read_pieces(&mut input, source, |piece| {
            hashes.update(piece);
            output.write_all(piece).map_err(|error| not_written(target, &error))
        });
    }
    let length = if hashes.is_empty() {
        open(source)?.metadata().map_err(|error| not_read(source, &error))?.len()
    } else {
        hash_file(source, hashes)?
    };
    let (from, to) = (source.display(), target.display());
    match method {
        CopyMethod::Copy | CopyMethod::Link => std::fs::hard_link(source, target).map_err(|error| {
            ToolError::new(format!(
                "could not create link from \"{from}\" to \"{to}\": {}",
                system_text(&error)
            ))
        })?,
        CopyMethod::Clone => {
            let (input, output) = (open(source)?, create(target, mode)?);
            rustix::fs::ioctl_ficlone(&output, &input).map_err(|error| {
                let text = system_text(&error.into());
                ToolError::new(format!("error while cloning file \"{from}\" to \"{to}\": {text}"))
            })?;
        }
        CopyMethod::CopyFileRange => {
            let (input, output) = (open(source)?, create(target, mode)?);
            copy_range(&input, 0, &output, length).map_err(|error| range_error(source, target, &error))?;
        }
    }
    Ok(length)
}

/// Reads a file through `hashes`; the length is returned.
///
/// # Errors
/// When it cannot be read.
pub(super) fn hash_file(path: &Path, hashes: &mut FileHashes) -> Result<u64> {
    read_pieces(&mut open(path)?, path, |piece| {
        hashes.update(piece);
        Ok(())
    })
}

/// Appends a range of a file to another within the kernel.
pub(super) fn copy_range(input: &File, offset: u64, output: &File, length: u64) -> io::Result<()> {
    let (mut offset, end) = (offset, offset + length);
    while offset < end {
        let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let copied = rustix::fs::copy_file_range(input, Some(&mut offset), output, None, wanted)?;
        if copied == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected end of file"));
        }
    }
    Ok(())
}

pub(super) fn range_error(source: &Path, target: &Path, error: &io::Error) -> ToolError {
    ToolError::new(format!(
        "error while copying file range from \"{}\" to \"{}\": {}",
        source.display(),
        target.display(),
        system_text(error)
    ))
}

pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| not_opened(path, &error))
}

/// Creates a file where none is.
pub(super) fn create(path: &Path, mode: u32) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| not_opened(path, &error))
}

pub(super) fn not_read(path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not("read file", path.display(), error)
}

pub(super) fn not_written(path: &Path, error: &io::Error) -> ToolError {
    ToolError::could_not("write file", path.display(), error)
}

fn read_pieces(input: &mut File, path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut length = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(read) => {
                take(buffer.get(..read).unwrap_or_default())?;
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(not_read(path, &error)),
        }
    }
}
