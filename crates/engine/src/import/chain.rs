//! A chain of backups of a server from 17 on, seen as the one directory that they stand for: the files of the newest, and
//! for each `INCREMENTAL.<name>` the whole file, put together while it is read.
//!
//! From which backup a block comes is decided by [`SourcePlan`], which never brings back what a truncation took away. Every
//! file of every backup was compared with its manifest before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pgkeep_format::incremental_file::INCREMENTAL_PREFIX;
use pgkeep_physical::combine::incremental_header::{HeaderError, read_header};
use pgkeep_physical::combine::source_plan::{Layer, SourcePlan};

use super::directory::{DirectorySource, cannot_read};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// The backups that the newest one builds on.
#[derive(Debug)]
pub struct Chain {
    /// From the newest to the full one.
    pub older: Vec<DirectorySource>,
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks of a relation's segment.
    pub segment_blocks: u32,
}

/// A file that is put together.
#[derive(Debug)]
pub struct WholeFile {
    plan: SourcePlan,
    layers: Vec<OpenLayer>,
    block_size: u64,
}

#[derive(Debug)]
struct OpenLayer {
    path: PathBuf,
    file: File,
    /// Where its blocks begin.
    begin: u64,
}

impl Chain {
    /// Finds the parts of the file `whole`, of which the newest backup has `newest`, an incremental file.
    pub fn open(&self, newest: &Path, whole: &str) -> Result<WholeFile> {
        let (first, layer) = self.open_incremental(newest)?;
        let (mut layers, mut contents) = (vec![first], vec![layer]);
        for older in &self.older {
            let path = older.location(whole)?;
            match File::open(&path) {
                Ok(file) => {
                    let length = file.metadata().map_err(|error| cannot_read(&path, &error))?.len();
                    let blocks = u32::try_from(length / u64::from(self.block_size)).unwrap_or(u32::MAX);
                    if blocks > self.segment_blocks {
                        return Err(not_a_part(&path, "it has more blocks than a segment"));
                    }
                    layers.push(OpenLayer { path, file, begin: 0 });
                    contents.push(Layer::Whole { blocks });
                    return Ok(WholeFile {
                        plan: SourcePlan::new(&contents),
                        layers,
                        block_size: u64::from(self.block_size),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot_read(&path, &error)),
            }
            let (folder, name) = whole.rsplit_once('/').unwrap_or(("", whole));
            let (layer, layer_contents) =
                self.open_incremental(&older.location(&format!("{folder}/{INCREMENTAL_PREFIX}{name}"))?)?;
            layers.push(layer);
            contents.push(layer_contents);
        }
        Err(Error::new(ErrorKind::Corrupt, format!("no backup of the chain has all of `{whole}`"))
            .hint("name the full backup first, then those that build on it, oldest first"))
    }

    fn open_incremental(&self, path: &Path) -> Result<(OpenLayer, Layer)> {
        let mut file = File::open(path).map_err(|error| cannot_read(path, &error))?;
        let length = file.metadata().map_err(|error| cannot_read(path, &error))?.len();
        let header = read_header(&mut file, length, self.block_size, self.segment_blocks);
        let (header, begin) = header.map_err(|error| match error {
            HeaderError::Io(error) => cannot_read(path, &error),
            HeaderError::Malformed(error) => not_a_part(path, &error.to_string()),
            HeaderError::Short => not_a_part(path, "it ends within its header"),
        })?;
        Ok((OpenLayer { path: path.to_owned(), file, begin }, Layer::Incremental(header)))
    }
}

impl WholeFile {
    /// Its length.
    pub fn size(&self) -> u64 {
        u64::from(self.plan.blocks) * self.block_size
    }

    /// Hands its bytes on.
    pub fn read(&self, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; CHUNK as usize];
        for run in &self.plan.runs {
            let mut left = u64::from(run.count) * self.block_size;
            let source = run.source.and_then(|source| Some((source, self.layers.get(source.layer)?)));
            let mut offset =
                source.map_or(0, |(source, layer)| layer.begin + u64::from(source.index) * self.block_size);
            while left > 0 {
                // At most the buffer.
                let piece = &mut buffer[..left.min(CHUNK) as usize];
                match source {
                    None => piece.fill(0),
                    Some((_, layer)) => layer
                        .file
                        .read_exact_at(piece, offset)
                        .map_err(|error| cannot_read(&layer.path, &error))?,
                }
                take(piece)?;
                offset += piece.len() as u64;
                left -= piece.len() as u64;
            }
        }
        Ok(())
    }
}

fn not_a_part(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("`{}` is not a part of a file", path.display()))
        .cause(what)
        .hint("the backup is damaged: import another one")
}
