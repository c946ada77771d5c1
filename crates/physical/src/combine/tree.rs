//! The files of the result, directory by directory, after the newest backup.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, FileType};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pgkeep_format::incremental_file::INCREMENTAL_PREFIX;
use pgkeep_format::pg_manifest::{ChecksumAlgorithm, ManifestChecksum};
use pgkeep_tool::{Result, ToolError, system_text};

use super::copy::{CopyMethod, copy_file, create, not_written};
use super::file_hashes::{FileHashes, find};
use super::inputs::Inputs;
use super::label;
use super::new_manifest::NewManifest;
use super::tablespaces::{Tablespace, oid_of};
use super::{CombineReport, CombineRequest, Talk};
use crate::output_files::Modes;

/// A combination while it is made.
pub(super) struct Combination<'a> {
    pub(super) request: &'a CombineRequest,
    pub(super) inputs: &'a Inputs,
    pub(super) modes: Modes,
    pub(super) talk: Talk<'a>,
    manifest: Option<NewManifest>,
    report: CombineReport,
    /// The control file, which is copied last: no server starts on a result that is not complete.
    control: Option<(PathBuf, Target)>,
}

/// Where a walk is: a directory of the newest backup, and what it becomes.
#[derive(Clone)]
struct Place {
    /// In the newest backup.
    source: PathBuf,
    /// In the result.
    target: PathBuf,
    /// As manifests have it: empty, or with a slash at the end.
    path: Vec<u8>,
    /// In a tablespace that is no part of the data directory.
    in_tablespace: bool,
}

impl Place {
    fn below(&self, name: &OsStr) -> Place {
        Place {
            source: self.source.join(name),
            target: self.target.join(name),
            path: [&self.path, name.as_bytes(), b"/"].concat(),
            in_tablespace: self.in_tablespace,
        }
    }

    /// Whether names that begin as those of incremental files are such.
    fn has_incremental_files(&self) -> bool {
        self.in_tablespace
            || self.path == b"global/"
            || self.path.strip_prefix(b"base/").is_some_and(|rest| !rest.is_empty())
            || self.path.strip_prefix(b"pg_tblspc/").is_some_and(|rest| !rest.is_empty())
    }
}

/// A file of the result that is to be made.
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// As manifests have it.
    pub(super) manifest_path: Vec<u8>,
    /// What the new manifest wants.
    pub(super) algorithm: Option<ChecksumAlgorithm>,
}

impl<'a> Combination<'a> {
    pub(super) fn new(
        request: &'a CombineRequest,
        inputs: &'a Inputs,
        modes: Modes,
        talk: Talk<'a>,
        manifest: Option<NewManifest>,
    ) -> Combination<'a> {
        Combination {
            request,
            inputs,
            modes,
            talk,
            manifest,
            report: CombineReport::default(),
            control: None,
        }
    }

    /// Writes the label of a full backup.
    pub(super) fn write_label(&mut self) -> Result<()> {
        let path = self.request.output.join("backup_label");
        let shown = path.display();
        if let Some(file) = self.inputs.last().manifest.as_ref().and_then(|table| table.get(b"backup_label"))
        {
            file.set_seen();
        }
        if self.request.dry_run {
            self.talk.debug(|| format!("would generate \"{shown}\""));
            return Ok(());
        }
        self.talk.debug(|| format!("generating \"{shown}\""));
        let text = label::of_full_backup(&self.inputs.label);
        create(&path, self.modes.file)?.write_all(&text).map_err(|error| not_written(&path, &error))?;
        let mut hashes = FileHashes::new(self.algorithm());
        hashes.update(&text);
        let checksum = hashes.finish().pop();
        self.list(b"backup_label", &path, checksum)
    }

    /// Combines everything but tablespaces that links lead to.
    pub(super) fn combine_data_directory(&mut self) -> Result<()> {
        let source = self.inputs.last().directory.clone();
        self.talk.debug(|| format!("processing backup directory \"{}\"", source.display()));
        let target = self.request.output.clone();
        self.combine_directory(&Place { source, target, path: Vec::new(), in_tablespace: false })
    }

    /// Combines a tablespace.
    pub(super) fn combine_tablespace(&mut self, tablespace: &Tablespace) -> Result<()> {
        let Tablespace { oid, is_in_place, source, target } = tablespace;
        self.talk.debug(|| format!("processing tablespace directory \"{}\"", source.display()));
        if *is_in_place {
            self.make_directory(target)?;
        } else {
            let link = self.request.output.join("pg_tblspc").join(oid.to_string());
            let (from, to) = (link.display(), target.display());
            if self.request.dry_run {
                self.talk.debug(|| format!("would create symbolic link from \"{from}\" to \"{to}\""));
            } else {
                self.talk.debug(|| format!("creating symbolic link from \"{from}\" to \"{to}\""));
                std::os::unix::fs::symlink(target, &link).map_err(|error| {
                    let text = system_text(&error);
                    ToolError::new(format!(
                        "could not create symbolic link from \"{from}\" to \"{to}\": {text}"
                    ))
                })?;
            }
        }
        let path = format!("pg_tblspc/{oid}/").into_bytes();
        let (source, target) = (source.clone(), target.clone());
        self.combine_directory(&Place { source, target, path, in_tablespace: true })
    }

    /// Ends it: nothing may be missing, and the manifest is completed.
    pub(super) fn finish(mut self) -> Result<CombineReport> {
        let newest = self.inputs.last();
        newest.check_all_seen()?;
        if let Some((path, target)) = self.control.take() {
            self.copy_of_newest(&path, &target, false)?;
        }
        if let (Some(manifest), Some(table)) = (self.manifest, &newest.manifest) {
            manifest.finish(&table.wal_ranges)?;
        }
        Ok(self.report)
    }

    fn combine_directory(&mut self, place: &Place) -> Result<()> {
        let shown = place.source.display();
        let names = crate::verify::sorted_entries(&place.source)
            .map_err(|error| ToolError::could_not("open directory", &shown, &error))?;
        for name in names {
            self.combine_entry(place, &name)?;
        }
        Ok(())
    }

    fn combine_entry(&mut self, place: &Place, name: &OsString) -> Result<()> {
        let path = place.source.join(name);
        let shown = path.display();
        let kind: FileType = path
            .symlink_metadata()
            .map_err(|error| ToolError::could_not("stat file", &shown, &error))?
            .file_type();
        let is_tablespace = !place.in_tablespace && place.path == b"pg_tblspc/" && oid_of(name).is_some();
        if is_tablespace && (kind.is_symlink() || kind.is_dir()) {
            return Ok(());
        }
        if kind.is_dir() {
            let below = place.below(name);
            self.make_directory(&below.target)?;
            return self.combine_directory(&below);
        }
        if !kind.is_file() {
            let what = if kind.is_symlink() { "symbolic link" } else { "special file" };
            self.talk.reporter.warning(&format!("skipping {what} \"{shown}\""));
            return Ok(());
        }
        if place.path.is_empty() && (name == "backup_label" || name == "backup_manifest") {
            return Ok(());
        }
        let whole_name = name
            .as_bytes()
            .strip_prefix(INCREMENTAL_PREFIX.as_bytes())
            .filter(|whole| place.has_incremental_files() && !whole.is_empty());
        let target_name = OsStr::from_bytes(whole_name.unwrap_or(name.as_bytes()));
        let target = Target {
            path: place.target.join(target_name),
            manifest_path: [&place.path, target_name.as_bytes()].concat(),
            algorithm: self.algorithm().filter(|_| !place.path.starts_with(b"pg_wal/")),
        };
        let newest = self.inputs.last();
        let listed_path = [&place.path, name.as_bytes()].concat();
        if let Some(file) = newest.manifest.as_ref().and_then(|table| table.get(&listed_path)) {
            file.set_seen();
        }
        if whole_name.is_some() {
            self.report.reconstructed += 1;
            let checksum = self.reconstruct(&path, &target)?;
            self.list(&target.manifest_path, &target.path, checksum)
        } else if target.manifest_path == b"global/pg_control" {
            self.control = Some((path, target));
            Ok(())
        } else {
            self.copy_of_newest(&path, &target, place.in_tablespace)
        }
    }

    /// Copies a file of the newest backup.
    fn copy_of_newest(&mut self, path: &Path, target: &Target, in_tablespace: bool) -> Result<()> {
        self.report.copied += 1;
        let newest = self.inputs.inputs.len() - 1;
        self.warn_of_unlisted(newest, target);
        // What was unpacked is there for this only. A tablespace may be on another file system.
        let method = match self.inputs.last().unpacked {
            Some(_) if in_tablespace => CopyMethod::Copy,
            Some(_) => CopyMethod::Link,
            None => self.request.copy_method,
        };
        let checksum = self.copy_whole(newest, path, target, method)?;
        self.list(&target.manifest_path, &target.path, checksum)
    }

    /// Copies a file of an input, compared with that input's manifest.
    pub(super) fn copy_whole(
        &self,
        input: usize,
        source: &Path,
        target: &Target,
        method: CopyMethod,
    ) -> Result<Option<ManifestChecksum>> {
        let (from, to) = (source.display(), target.path.display());
        let strategy = method.name().map_or_else(String::new, |name| format!(" using strategy {name}"));
        if self.request.dry_run {
            super::copy::open(source)?;
            self.talk.debug(|| format!("would copy \"{from}\" to \"{to}\"{strategy}"));
            return Ok(None);
        }
        self.talk.debug(|| format!("copying \"{from}\" to \"{to}\"{strategy}"));
        let input = &self.inputs.inputs[input];
        let expected = input.expected(&target.manifest_path).and_then(|file| file.checksum.as_ref());
        let algorithms = target.algorithm.into_iter().chain(expected.map(|checksum| checksum.algorithm));
        let mut hashes = FileHashes::new(algorithms);
        let length = copy_file(source, &target.path, method, self.modes.file, &mut hashes)?;
        let checksums = hashes.finish();
        input.check(&target.manifest_path, length, &checksums)?;
        Ok(find(&checksums, target.algorithm).cloned())
    }

    /// A file that a manifest does not list cannot be compared.
    pub(super) fn warn_of_unlisted(&self, input: usize, target: &Target) {
        let input = &self.inputs.inputs[input];
        if target.algorithm.is_some()
            && let Some(table) = &input.manifest
            && table.get(&target.manifest_path).is_none()
        {
            self.talk.reporter.warning(&format!(
                "manifest file \"{}\" contains no entry for file \"{}\"",
                input.name.join("backup_manifest").display(),
                String::from_utf8_lossy(&target.manifest_path)
            ));
        }
    }

    fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.request.manifest_checksums.filter(|_| self.request.manifest)
    }

    fn list(&mut self, path: &[u8], full_path: &Path, checksum: Option<ManifestChecksum>) -> Result<()> {
        self.manifest.as_mut().map_or(Ok(()), |manifest| manifest.add(path, full_path, checksum))
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        let shown = path.display();
        if self.request.dry_run {
            self.talk.debug(|| format!("would create directory \"{shown}\""));
            return Ok(());
        }
        self.talk.debug(|| format!("creating directory \"{shown}\""));
        DirBuilder::new()
            .mode(self.modes.directory)
            .create(path)
            .map_err(|error| ToolError::could_not("create directory", &shown, &error))
    }
}
