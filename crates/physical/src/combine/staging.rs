//! Inputs in tar format, unpacked beneath the output: the blocks of a file come from several backups, in no order that an
//! archive could be read in.
//!
//! Of an older backup only what a combination can need is unpacked. Everything goes to
//! `<output>/.pgkeep-unpacked/<number>`, with tablespaces as directories in `pg_tblspc`; it is gone when the result is
//! complete, or when something fails. An archive's paths never lead out of there: [`TarReader`] sees to that, links are
//! remembered and not made, and no file is written over another.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pgkeep_format::archive::Compression;
use pgkeep_format::tablespace_map::{self, MAX_TABLESPACE_MAP_LENGTH};
use pgkeep_format::tar::{TarEntry, TarEntryKind, TarEvent, TarReader};
use pgkeep_tool::{Result, ToolError, system_text};

use super::copy::{PIECE, create, not_written};
use super::output::OutputDirectories;
use super::tablespaces::oid_of;
use super::{CombineRequest, Talk};
use crate::backup_archive::{self, ArchiveContents, archive_of_name};
use crate::canonical_path;
use crate::manifest_table::not_opened;
use crate::output_files::{Modes, make_directories};

const DIRECTORY: &str = ".pgkeep-unpacked";
/// What an older backup is asked for.
const NEEDED: [&[u8]; 2] = [b"base/", b"global/"];

/// An input that was unpacked.
#[derive(Debug, Clone)]
pub(super) struct Unpacked {
    /// Where.
    pub(super) directory: PathBuf,
    /// Where the tablespaces were, by OID.
    pub(super) tablespaces: BTreeMap<u32, PathBuf>,
    /// Whether the group may read the cluster.
    is_group_readable: bool,
}

/// All that was unpacked.
pub(super) struct Staging {
    directory: Option<PathBuf>,
    /// By the number of the input.
    inputs: BTreeMap<usize, Unpacked>,
}

impl Staging {
    pub(super) fn unpacked(&self, input: usize) -> Option<&Unpacked> {
        self.inputs.get(&input)
    }

    /// The modes that the newest input had, as its archives tell.
    pub(super) fn modes(&self) -> Modes {
        let is_group_readable = self.inputs.last_key_value().is_some_and(|(_, last)| last.is_group_readable);
        Modes::new(is_group_readable)
    }

    /// Removes what was unpacked.
    pub(super) fn remove(&self) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        std::fs::remove_dir_all(directory).map_err(|error| {
            let directory = directory.display();
            ToolError::could_not("remove directory", directory, &error)
        })
    }
}

/// Unpacks the inputs that are archives.
pub(super) fn unpack_archives(
    request: &CombineRequest,
    talk: Talk<'_>,
    output: &mut OutputDirectories<'_>,
) -> Result<Staging> {
    let mut staging = Staging { directory: None, inputs: BTreeMap::new() };
    let last = request.inputs.len().saturating_sub(1);
    for (number, input) in request.inputs.iter().enumerate() {
        let archives = archives_in(input);
        if archives.is_empty() {
            continue;
        }
        let shown = input.display();
        if request.dry_run {
            return Err(ToolError::new(format!(
                "cannot combine \"{shown}\" without writing, because it is in tar format"
            ))
            .hint("Leave out -n/--dry-run, or unpack the archives."));
        }
        let owner = Modes::new(false);
        output.create(&request.output, owner)?;
        let directory = request.output.join(DIRECTORY).join(number.to_string());
        make_directories(&directory, owner.directory)?;
        staging.directory = Some(request.output.join(DIRECTORY));
        talk.debug(|| format!("unpacking \"{shown}\" to \"{}\"", directory.display()));
        let mut unpacking = Unpacking {
            unpacked: Unpacked { directory, tablespaces: BTreeMap::new(), is_group_readable: false },
            is_newest: number == last,
            made: BTreeSet::new(),
            map: None,
        };
        for (name, contents, compression) in archives {
            if contents != ArchiveContents::Wal || number == last {
                unpacking.unpack(&input.join(&name), contents, compression)?;
            }
        }
        unpacking.take_map(input)?;
        staging.inputs.insert(number, unpacking.unpacked);
    }
    Ok(staging)
}

/// The archives in a directory that is no data directory itself, that of the data directory first.
fn archives_in(directory: &Path) -> Vec<(OsString, ArchiveContents, Compression)> {
    // Whatever is wrong with the directory shows when it is read as a data directory.
    if directory.join("PG_VERSION").exists() {
        return Vec::new();
    }
    let names = crate::verify::sorted_entries(directory).unwrap_or_default();
    let archive = |name: OsString| {
        let (contents, compression) = archive_of_name(name.to_str()?)?;
        Some((name, contents, compression))
    };
    let mut archives: Vec<_> = names.into_iter().filter_map(archive).collect();
    archives.sort_by_key(|(_, contents, _)| *contents);
    if !archives.iter().any(|(_, contents, _)| *contents == ArchiveContents::Base) {
        archives.clear();
    }
    archives
}

/// An input while it is unpacked.
struct Unpacking {
    unpacked: Unpacked,
    is_newest: bool,
    /// Directories that are there.
    made: BTreeSet<Vec<u8>>,
    /// The `tablespace_map`, which archives have instead of links.
    map: Option<Vec<u8>>,
}

impl Unpacking {
    fn unpack(&mut self, archive: &Path, contents: ArchiveContents, compression: Compression) -> Result<()> {
        let damaged = |error: &dyn std::fmt::Display| {
            ToolError::new(format!("could not read archive \"{}\": {error}", archive.display()))
        };
        let mut source = backup_archive::open(archive, compression, |_| {})
            .map_err(|error| not_opened(archive, &error))?;
        let prefix = match contents {
            ArchiveContents::Base => Vec::new(),
            ArchiveContents::Wal => b"pg_wal/".to_vec(),
            ArchiveContents::Tablespace(oid) => format!("pg_tblspc/{oid}/").into_bytes(),
        };
        if !prefix.is_empty() {
            self.make_directory(prefix.strip_suffix(b"/").unwrap_or(&prefix))?;
        }
        let mut tar = TarReader::new();
        let mut buffer = vec![0; PIECE];
        let mut open: Option<(PathBuf, BufWriter<File>)> = None;
        let mut is_map = false;
        loop {
            let length = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(&system_text(&error))),
            };
            let mut piece = buffer.get(..length).unwrap_or_default();
            while let Some(event) = tar.next(&mut piece).map_err(|error| damaged(&error))? {
                match event {
                    TarEvent::Entry(entry) => {
                        open = self.begin(&prefix, &entry)?;
                        is_map = prefix.is_empty() && entry.path == b"tablespace_map";
                        if is_map && entry.size > MAX_TABLESPACE_MAP_LENGTH as u64 {
                            return Err(damaged(&"its tablespace_map is too long"));
                        }
                    }
                    TarEvent::Data(data) => {
                        if is_map {
                            self.map.get_or_insert_default().extend_from_slice(data);
                        }
                        if let Some((path, file)) = &mut open {
                            file.write_all(data).map_err(|error| not_written(path, &error))?;
                        }
                    }
                    TarEvent::EndOfEntry => {
                        if let Some((path, mut file)) = open.take() {
                            file.flush().map_err(|error| not_written(&path, &error))?;
                        }
                    }
                }
            }
        }
        tar.finish().map_err(|error| damaged(&error))
    }

    /// Makes what an entry is; a file is returned to be written.
    fn begin(&mut self, prefix: &[u8], entry: &TarEntry) -> Result<Option<(PathBuf, BufWriter<File>)>> {
        let path = if entry.path == b"." {
            return Ok(None);
        } else {
            [prefix, &entry.path].concat()
        };
        match entry.kind {
            TarEntryKind::Symlink => {
                let oid = path.strip_prefix(b"pg_tblspc/").and_then(|name| oid_of(OsStr::from_bytes(name)));
                if let Some(oid) = oid {
                    let target = OsString::from_vec(canonical_path(&entry.link)).into();
                    self.unpacked.tablespaces.insert(oid, target);
                    self.make_directory(&path)?;
                }
                Ok(None)
            }
            TarEntryKind::Directory => {
                if self.is_needed(&[path.as_slice(), b"/"].concat()) {
                    self.make_directory(&path)?;
                }
                Ok(None)
            }
            TarEntryKind::File => {
                if path == b"PG_VERSION" {
                    self.unpacked.is_group_readable = entry.mode & 0o040 != 0;
                }
                // The result has links instead.
                if path == b"tablespace_map" || !self.is_needed(&path) {
                    return Ok(None);
                }
                if let Some(slash) = path.iter().rposition(|byte| *byte == b'/') {
                    self.make_directory(path.get(..slash).unwrap_or_default())?;
                }
                let mode = if entry.mode & 0o040 != 0 { 0o640 } else { 0o600 };
                let path = self.unpacked.directory.join(OsStr::from_bytes(&path));
                let file = create(&path, mode)?;
                Ok(Some((path, BufWriter::with_capacity(256 << 10, file))))
            }
        }
    }

    /// Takes the places of tablespaces from the map.
    fn take_map(&mut self, input: &Path) -> Result<()> {
        let Some(map) = self.map.take() else { return Ok(()) };
        let malformed = |error: &dyn std::fmt::Display| {
            ToolError::new(format!("could not read tablespace_map of \"{}\": {error}", input.display()))
        };
        let text = String::from_utf8(map).map_err(|error| malformed(&error))?;
        for (oid, path) in tablespace_map::parse(&text).map_err(|error| malformed(&error))? {
            self.make_directory(format!("pg_tblspc/{oid}").as_bytes())?;
            let path = OsString::from_vec(canonical_path(path.as_bytes())).into();
            self.unpacked.tablespaces.insert(oid, path);
        }
        Ok(())
    }

    fn is_needed(&self, path: &[u8]) -> bool {
        self.is_newest
            || path == b"backup_label"
            || path.starts_with(b"pg_tblspc/")
            || NEEDED.iter().any(|needed| path.starts_with(needed))
    }

    fn make_directory(&mut self, path: &[u8]) -> Result<()> {
        if self.made.contains(path) {
            return Ok(());
        }
        make_directories(
            &self.unpacked.directory.join(OsStr::from_bytes(path)),
            Modes::new(false).directory,
        )?;
        self.made.insert(path.to_vec());
        Ok(())
    }
}
