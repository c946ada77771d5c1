//! Making a file from an incremental one and what older backups have of it.
//!
//! All files are opened and their headers read first; then [`SourcePlan`] says where each block comes from; then every
//! file that has a say is compared with its backup's manifest, and the blocks are copied.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pgkeep_format::incremental_file::{INCREMENTAL_PREFIX, IncrementalFileError};
use pgkeep_format::pg_manifest::ManifestChecksum;
use pgkeep_tool::{Result, ToolError, system_text};

use super::copy::{
    CopyMethod, PIECE, copy_range, create, hash_file, not_read, not_written, open, range_error,
};
use super::file_hashes::{FileHashes, find};
use super::incremental_header::{HeaderError, read_header};
use super::source_plan::{Layer, Run, SourcePlan};
use super::tree::{Combination, Target};

/// What one backup has of the file.
struct OpenLayer {
    input: usize,
    path: PathBuf,
    /// As the backup's manifest has it.
    manifest_path: Vec<u8>,
    file: File,
    length: u64,
    /// Where the blocks begin.
    begin: u64,
}

impl Combination<'_> {
    /// Makes the file that the incremental file of the newest backup stands for. Returns its checksum.
    pub(super) fn reconstruct(&self, newest: &Path, target: &Target) -> Result<Option<ManifestChecksum>> {
        let (layers, contents) = self.open_layers(newest, target)?;
        let plan = SourcePlan::new(&contents);
        if let (Some(oldest), Some(Layer::Whole { blocks })) = (layers.last(), contents.last())
            && plan.is_copy_of(layers.len() - 1, *blocks)
            && oldest.length == u64::from(*blocks) * u64::from(self.inputs.block_size)
        {
            self.warn_of_unlisted(oldest.input, target);
            self.check_layers(&layers[..layers.len() - 1], &plan)?;
            return self.copy_whole(oldest.input, &oldest.path, target, self.request.copy_method);
        }
        if let (Some(oldest), Some(Layer::Incremental(_))) = (layers.last(), contents.last()) {
            return Err(ToolError::new(format!(
                "full backup contains unexpected incremental file \"{}\"",
                oldest.path.display()
            )));
        }
        self.check_layers(&layers, &plan)?;
        self.write(&layers, &plan, target)
    }

    /// What the backups have of the file, from the newest to the first that has all of it.
    fn open_layers(&self, newest: &Path, target: &Target) -> Result<(Vec<OpenLayer>, Vec<Layer>)> {
        let slash = target.manifest_path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (folder, name) = target.manifest_path.split_at(slash);
        let incremental_path = [folder, INCREMENTAL_PREFIX.as_bytes(), name].concat();
        let last = self.inputs.inputs.len() - 1;
        let (layer, contents) = self.open_incremental(last, newest, &incremental_path)?;
        let (mut layers, mut all_contents) = (vec![layer], vec![contents]);
        for input in (0..last).rev() {
            let directory = &self.inputs.inputs[input].directory;
            let whole = directory.join(std::ffi::OsStr::from_bytes(&target.manifest_path));
            match File::open(&whole) {
                Ok(file) => {
                    let length = file.metadata().map_err(|error| not_read(&whole, &error))?.len();
                    let blocks = length / u64::from(self.inputs.block_size);
                    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
                    layers.push(OpenLayer {
                        input,
                        path: whole,
                        manifest_path: target.manifest_path.clone(),
                        file,
                        length,
                        begin: 0,
                    });
                    all_contents.push(Layer::Whole { blocks });
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(crate::manifest_table::not_opened(&whole, &error)),
            }
            let path = directory.join(std::ffi::OsStr::from_bytes(&incremental_path));
            let (layer, contents) = self.open_incremental(input, &path, &incremental_path)?;
            layers.push(layer);
            all_contents.push(contents);
        }
        Ok((layers, all_contents))
    }

    fn open_incremental(
        &self,
        input: usize,
        path: &Path,
        manifest_path: &[u8],
    ) -> Result<(OpenLayer, Layer)> {
        let mut file = open(path)?;
        let length = file.metadata().map_err(|error| not_read(path, &error))?.len();
        let header = read_header(&mut file, length, self.inputs.block_size, self.inputs.segment_blocks);
        let (header, begin) = header.map_err(|error| match error {
            HeaderError::Io(error) => not_read(path, &error),
            HeaderError::Malformed(error) => not_incremental(path, error),
            HeaderError::Short => {
                let path = path.display();
                ToolError::new(format!("could not read file \"{path}\": it ends too early"))
            }
        })?;
        let (path, manifest_path) = (path.to_owned(), manifest_path.to_vec());
        Ok((OpenLayer { input, path, manifest_path, file, length, begin }, Layer::Incremental(header)))
    }

    /// Compares what has a say in the result with the manifests. A whole file that gives nothing has none but its length.
    fn check_layers(&self, layers: &[OpenLayer], plan: &SourcePlan) -> Result<()> {
        for (at, layer) in layers.iter().enumerate() {
            let input = &self.inputs.inputs[layer.input];
            let Some(expected) = input.expected(&layer.manifest_path) else { continue };
            let is_read = (plan.uses(at) || layer.begin > 0) && !self.request.dry_run;
            let algorithm = expected.checksum.as_ref().map(|checksum| checksum.algorithm).filter(|_| is_read);
            let mut hashes = FileHashes::new(algorithm);
            let length = if hashes.is_empty() { layer.length } else { hash_file(&layer.path, &mut hashes)? };
            input.check(&layer.manifest_path, length, &hashes.finish())?;
        }
        Ok(())
    }

    fn write(
        &self,
        layers: &[OpenLayer],
        plan: &SourcePlan,
        target: &Target,
    ) -> Result<Option<ManifestChecksum>> {
        let (dry_run, shown) = (self.request.dry_run, target.path.display());
        let what = if dry_run { "would reconstruct" } else { "reconstructing" };
        let algorithm = target.algorithm.map_or("NONE", pgkeep_format::pg_manifest::ChecksumAlgorithm::name);
        self.talk.debug(|| format!("{what} \"{shown}\" ({} blocks, checksum {algorithm})", plan.blocks));
        self.talk.debug(|| format!("reconstruction plan:{}", self.plan_text(layers, plan)));
        let output = if dry_run { None } else { Some(create(&target.path, self.modes.file)?) };
        let mut hashes = FileHashes::new(target.algorithm);
        let mut buffer = vec![0; PIECE];
        for run in &plan.runs {
            self.write_run(layers, *run, output.as_ref(), &target.path, &mut hashes, &mut buffer)?;
        }
        Ok(find(&hashes.finish(), target.algorithm).cloned().filter(|_| !dry_run))
    }

    fn write_run(
        &self,
        layers: &[OpenLayer],
        run: Run,
        output: Option<&File>,
        target: &Path,
        hashes: &mut FileHashes,
        buffer: &mut [u8],
    ) -> Result<()> {
        let block_size = u64::from(self.inputs.block_size);
        let mut left = u64::from(run.count) * block_size;
        let source = run.source.and_then(|source| {
            let layer = layers.get(source.layer)?;
            Some((layer, layer.begin + u64::from(source.index) * block_size))
        });
        if let (Some((layer, begin)), None) = (source, output) {
            return layer.check_length(begin, left);
        }
        let Some(mut output) = output else { return Ok(()) };
        let by_range = self.request.copy_method == CopyMethod::CopyFileRange && source.is_some();
        if let (true, Some((layer, begin))) = (by_range, source) {
            layer.check_length(begin, left)?;
            copy_range(&layer.file, begin, output, left)
                .map_err(|error| range_error(&layer.path, target, &error))?;
            if hashes.is_empty() {
                return Ok(());
            }
        }
        let mut offset = source.map_or(0, |(_, begin)| begin);
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..length).unwrap_or_default();
            match source {
                Some((layer, _)) => layer.read_at(piece, offset)?,
                None => piece.fill(0),
            }
            if !by_range {
                output.write_all(piece).map_err(|error| not_written(target, &error))?;
            }
            hashes.update(piece);
            offset += length as u64;
            left -= length as u64;
        }
        Ok(())
    }

    fn plan_text(&self, layers: &[OpenLayer], plan: &SourcePlan) -> String {
        let mut text = String::new();
        for Run { first, count, source } in &plan.runs {
            match count {
                1 => text.push_str(&format!(" {first}:")),
                _ => text.push_str(&format!(" {first}-{}:", first + count - 1)),
            }
            match source.and_then(|source| Some((source, layers.get(source.layer)?))) {
                None => text.push_str("zero"),
                Some((source, layer)) => {
                    let offset = layer.begin + u64::from(source.index) * u64::from(self.inputs.block_size);
                    text.push_str(&format!("{}@{offset}", layer.path.display()));
                }
            }
        }
        text
    }
}

impl OpenLayer {
    fn read_at(&self, piece: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(piece, offset).map_err(|error| {
            let (path, text) = (self.path.display(), system_text(&error));
            ToolError::new(format!("could not read from file \"{path}\", offset {offset}: {text}"))
        })
    }

    fn check_length(&self, begin: u64, length: u64) -> Result<()> {
        let (expected, found) = (begin + length, self.length);
        if expected <= found {
            return Ok(());
        }
        let path = self.path.display();
        Err(ToolError::new(format!("file \"{path}\" is too short: expected {expected}, found {found}")))
    }
}

fn not_incremental(path: &Path, error: IncrementalFileError) -> ToolError {
    let path = path.display();
    match error {
        IncrementalFileError::BadMagic { found } => ToolError::new(format!(
            "file \"{path}\" has bad incremental magic number (0x{found:x}, expected 0xd3ae1f0d)"
        )),
        IncrementalFileError::TooManyBlocks { count, most } => ToolError::new(format!(
            "file \"{path}\" has block count {count} in excess of segment size {most}"
        )),
        other => ToolError::new(format!("could not read incremental file \"{path}\": {other}")),
    }
}
