//! The backups to combine: that they are of one cluster and follow each other, and what their manifests say.
//!
//! The order of the checks, and so of the complaints, is stock's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pgkeep_format::control_file::{CONTROL_FILE_SIZE, ControlFile};
use pgkeep_format::pg_manifest::ManifestChecksum;
use pgkeep_tool::{Result, ToolError, system_text};

use super::copy::{not_read, open};
use super::file_hashes::{FileHashes, find};
use super::label::{self, ChainLink};
use super::staging::{Staging, Unpacked};
use super::{CombineRequest, Talk};
use crate::manifest_table::{CHANGED_BY_HAND, ManifestTable, TableFile};
use crate::verify::control_error;

/// Longer labels are refused.
const MAX_LABEL: u64 = 10_000 + 1024;

/// A backup.
pub(super) struct Input {
    /// As it was named.
    pub(super) name: PathBuf,
    /// Where its files are: there, or where its archives were unpacked.
    pub(super) directory: PathBuf,
    /// None where it has none.
    pub(super) manifest: Option<ManifestTable>,
    /// What archives say of tablespaces; none for a directory.
    pub(super) unpacked: Option<Unpacked>,
    verify: bool,
}

/// All of them, oldest first.
pub(super) struct Inputs {
    pub(super) inputs: Vec<Input>,
    pub(super) system_identifier: u64,
    pub(super) block_size: u32,
    pub(super) segment_blocks: u32,
    /// Of the newest.
    pub(super) label: Vec<u8>,
}

impl Inputs {
    /// Opens and checks them.
    pub(super) fn open(request: &CombineRequest, staging: &Staging, talk: Talk<'_>) -> Result<Inputs> {
        let mut inputs: Vec<Input> = request
            .inputs
            .iter()
            .enumerate()
            .map(|(at, name)| {
                let unpacked = staging.unpacked(at).cloned();
                Input {
                    name: name.clone(),
                    directory: unpacked.as_ref().map_or_else(|| name.clone(), |one| one.directory.clone()),
                    manifest: None,
                    unpacked,
                    verify: request.verify_inputs,
                }
            })
            .collect();
        if let Some(last) = inputs.last() {
            check_version(&last.directory, talk)?;
        }
        let control = check_control_files(&inputs, talk)?;
        let labels = check_labels(&inputs, talk)?;
        for input in &mut inputs {
            input.manifest = read_manifest(&input.name.join("backup_manifest"), talk)?;
        }
        for (input, label) in inputs.iter().zip(&labels) {
            if let Some(found) =
                input.manifest.as_ref().map(|table| table.system_identifier.unwrap_or_default())
                && found != control.system_identifier
            {
                return Err(ToolError::new(format!(
                    "{}: manifest system identifier is {found}, but control file has {}",
                    input.name.join("global/pg_control").display(),
                    control.system_identifier
                )));
            }
            input.check_bytes(b"backup_label", label)?;
        }
        Ok(Inputs {
            inputs,
            system_identifier: control.system_identifier,
            block_size: control.block_size,
            segment_blocks: control.relation_segment_blocks,
            label: labels.into_iter().next_back().unwrap_or_default(),
        })
    }

    /// The newest. There is one: the command line is checked.
    pub(super) fn last(&self) -> &Input {
        &self.inputs[self.inputs.len() - 1]
    }
}

impl Input {
    /// What the manifest says of a file that is read, unless it is not to be compared.
    pub(super) fn expected(&self, path: &[u8]) -> Option<&TableFile> {
        let is_compared = self.verify && !path.starts_with(b"pg_wal/") && !CHANGED_BY_HAND.contains(&path);
        self.manifest.as_ref().filter(|_| is_compared)?.get(path)
    }

    /// That a file is the one that was backed up.
    pub(super) fn check(&self, path: &[u8], length: u64, checksums: &[ManifestChecksum]) -> Result<()> {
        let Some(expected) = self.expected(path) else { return Ok(()) };
        let place = format!(" in backup \"{}\"", self.name.display());
        let wrong = if expected.size != length {
            let (path, size) = (expected.shown(), expected.size);
            Err(format!("file \"{path}\"{place} has size {length} but size {size} in the manifest"))
        } else {
            let algorithm = expected.checksum.as_ref().map(|checksum| checksum.algorithm);
            find(checksums, algorithm).map_or(Ok(()), |found| expected.check(found, &place))
        };
        wrong.map_err(|text| {
            ToolError::new(text).hint(
                "The backup is damaged or was changed: pg_verifybackup tells all of it. Combine another one, or all \
                 the same with --no-verify-inputs.",
            )
        })
    }

    fn check_bytes(&self, path: &[u8], bytes: &[u8]) -> Result<()> {
        let algorithm = self.expected(path).and_then(|file| file.checksum.as_ref()).map(|sum| sum.algorithm);
        let mut hashes = FileHashes::new(algorithm);
        hashes.update(bytes);
        self.check(path, bytes.len() as u64, &hashes.finish())
    }

    /// That every file that the manifest lists was there.
    pub(super) fn check_all_seen(&self) -> Result<()> {
        let Some(table) = self.manifest.as_ref().filter(|_| self.verify) else { return Ok(()) };
        // What is unpacked has no map of tablespaces any more.
        let is_left_out = |file: &TableFile| self.unpacked.is_some() && *file.path == *b"tablespace_map";
        let missing = table
            .files
            .iter()
            .find(|file| !file.is_seen() && !is_left_out(file) && self.expected(&file.path).is_some());
        missing.map_or(Ok(()), |file| {
            let (path, name) = (file.shown(), self.name.display());
            Err(ToolError::new(format!(
                "\"{path}\" is present in the manifest of backup \"{name}\" but not on disk"
            ))
            .hint("Combine another backup, or this one all the same with --no-verify-inputs."))
        })
    }
}

fn read_manifest(path: &Path, talk: Talk<'_>) -> Result<Option<ManifestTable>> {
    let table = ManifestTable::read(path)?;
    match &table {
        None => talk.reporter.warning(&format!("file \"{}\" does not exist", path.display())),
        Some(table) if table.version == 1 => {
            return Err(ToolError::new("backup manifest version 1 does not support incremental backup"));
        }
        Some(_) => {}
    }
    Ok(table)
}

fn check_version(directory: &Path, talk: Talk<'_>) -> Result<()> {
    let path = directory.join("PG_VERSION");
    let bytes = read_small(&path, 128)?;
    let text = String::from_utf8_lossy(&bytes);
    let shown = path.display();
    match text.strip_suffix('\n').and_then(|text| text.parse::<u32>().ok()) {
        Some(version) => {
            talk.debug(|| format!("read server version {version} from file \"{shown}\""));
            Ok(())
        }
        None => Err(ToolError::new(format!("{shown}: could not parse version number"))),
    }
}

/// Checks the control files, newest first; the newest is returned.
fn check_control_files(inputs: &[Input], talk: Talk<'_>) -> Result<ControlFile> {
    let mut newest: Option<ControlFile> = None;
    let mut checksums_differ = false;
    for input in inputs.iter().rev() {
        let path = input.directory.join("global/pg_control");
        let shown = path.display().to_string();
        talk.debug(|| format!("reading \"{shown}\""));
        let file = File::open(&path).map_err(|error| {
            ToolError::new(format!("could not open file \"{shown}\" for reading: {}", system_text(&error)))
        })?;
        let mut bytes = Vec::new();
        file.take(CONTROL_FILE_SIZE as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| not_read(&path, &error))?;
        let control = ControlFile::parse(&bytes).map_err(|error| control_error(&shown, &error))?;
        match &newest {
            None if control.major().is_none_or(|major| major < 17) => {
                return Err(ToolError::new(format!("{shown}: unexpected control file version")));
            }
            None => newest = Some(control),
            Some(newest) => {
                if newest.control_version != control.control_version
                    || newest.catalog_version != control.catalog_version
                {
                    return Err(ToolError::new(format!("{shown}: unexpected control file version")));
                }
                let (expected, found) = (newest.system_identifier, control.system_identifier);
                if expected != found {
                    return Err(ToolError::new(format!(
                        "{shown}: expected system identifier {expected}, but found {found}"
                    )));
                }
                if (newest.block_size, newest.relation_segment_blocks)
                    != (control.block_size, control.relation_segment_blocks)
                {
                    return Err(ToolError::new(format!("{shown}: sizes of blocks or files differ")));
                }
                checksums_differ |=
                    newest.checksum_version != 0 && newest.checksum_version != control.checksum_version;
            }
        }
    }
    let newest = newest.ok_or_else(|| ToolError::new("no input directories specified"))?;
    talk.debug(|| format!("system identifier is {}", newest.system_identifier));
    if checksums_differ {
        talk.reporter.warning("only some backups have checksums enabled");
        talk.reporter
            .hint("Disable, and optionally reenable, checksums on the output directory to avoid failures.");
    }
    Ok(newest)
}

/// Checks that the backups follow each other, newest first. The labels are returned, oldest first.
fn check_labels(inputs: &[Input], talk: Talk<'_>) -> Result<Vec<Vec<u8>>> {
    let mut labels = Vec::new();
    let mut wanted = None;
    for (at, input) in inputs.iter().enumerate().rev() {
        let path = input.directory.join("backup_label");
        talk.debug(|| format!("reading \"{}\"", path.display()));
        let bytes = read_small(&path, MAX_LABEL)?;
        let ChainLink { start, previous } =
            label::parse(&bytes).map_err(|text| ToolError::new(format!("{}: {text}", path.display())))?;
        let name = input.name.display();
        let wrong = |text: String| Err(ToolError::new(format!("backup at \"{name}\" {text}")));
        match (at, previous) {
            (1.., None) => {
                return wrong(
                    "is a full backup, but only the first backup should be a full backup".to_owned(),
                );
            }
            (0, Some(_)) => {
                return wrong(
                    "is an incremental backup, but the first backup should be a full backup".to_owned(),
                );
            }
            _ => {}
        }
        if let Some((timeline, lsn)) = wanted {
            if start.0 != timeline {
                return wrong(format!("starts on timeline {}, but expected {timeline}", start.0));
            }
            if start.1 != lsn {
                return wrong(format!("starts at LSN {}, but expected {lsn}", start.1));
            }
        }
        wanted = previous;
        labels.push(bytes);
    }
    labels.reverse();
    Ok(labels)
}

/// All of a file that is not longer than that.
fn read_small(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes).map_err(|error| not_read(path, &error))?;
    if bytes.len() as u64 > most {
        return Err(ToolError::new(format!("file \"{}\" is too large", path.display())));
    }
    Ok(bytes)
}
