//! Walks the former directories beside the manifest, and finds (or removes) what does not belong.
//!
//! Both come in the same order: the manifest is sorted by the bytes of whole paths, and the walk visits the entries of each
//! directory so that whole paths ascend (`base-x` lies between `base` and `base/1`). So one pass over both decides about
//! every entry, with the names of the directories above in memory and nothing else. Links are never followed; three things
//! lie elsewhere and are entered knowingly: the directory of this server version in each tablespace, the directory that
//! `pg_wal` is a link to, and nothing in the latter is removed that is not named as PostgreSQL names WAL.
//!
//! A file that is kept is an ordinary file with one name, of the right owner: what a second link (a snapshot made of hard
//! links, say) would change elsewhere is replaced instead. The same walk runs twice: for the plan, where it only counts,
//! and for the restore, where it removes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pgkeep_format::control_file::CONTROL_FILE_PATH;
use pgkeep_repo::{BackupReader, FileEntry, FileKind, Files};

use super::in_use::Identity;
use super::wal_directory::{is_wal_entry, is_wal_folder};
use super::{CONTROL_FILE_LEFTOVERS, OWN_FILES};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;
use crate::restore::destination::Owner;
use crate::restore::layout::Layout;
use crate::restore::marker::{MARKER, STAGED_MARKER};
use crate::restore::write::{cannot_write, is_restored};

/// Names of removed entries that are kept for the report.
const MAX_NAMES: usize = 100;

/// What is needed to walk.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The backup.
    pub reader: &'a BackupReader,
    /// Where its files go.
    pub layout: &'a Layout,
    /// Who owns the files.
    pub owner: Owner,
    /// This server's own directory in every tablespace.
    pub version_directory: &'a str,
    /// Must not be met, wherever it is mounted.
    pub repository: Option<Identity>,
}

/// What was found, or done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Bytes of files that are there and will be compared.
    pub compare_bytes: u64,
    /// Files that do not belong, or cannot be reused.
    pub removed_files: u64,
    /// Directories that do not belong.
    pub removed_directories: u64,
    /// Links, sockets and the like that do not belong.
    pub removed_links: u64,
    /// The first of all these, relative to the data directory.
    pub removed: Vec<String>,
    /// For each device: bytes that it will hold more; and a path on it.
    pub growth: BTreeMap<u64, (i64, PathBuf)>,
}

/// Walks; removes what does not belong where `remove` is set.
pub fn survey(ground: Ground<'_>, remove: bool, cancel: &Cancel) -> Result<Survey> {
    let mut walk = Walk {
        ground,
        remove,
        cancel,
        manifest: ground.reader.files(),
        next: None,
        done_spaces: Vec::new(),
        found: Survey::default(),
    };
    walk.advance()?;
    let root = &ground.layout.data_directory;
    if let Some(device) = device_of(root)? {
        walk.directory(b"", root, device, Rule::Belongs)?;
    }
    walk.absent_until(None)?;
    for index in 0..ground.layout.tablespaces.len() {
        walk.tablespace(index)?;
    }
    Ok(walk.found)
}

/// How the entries of a directory are judged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// By the manifest.
    Belongs,
    /// The root of a tablespace: only this server's directory is looked at.
    Space,
    /// By the manifest, and only WAL may be removed.
    Wal,
    /// Nothing in it belongs.
    Foreign,
}

struct Walk<'a> {
    ground: Ground<'a>,
    remove: bool,
    cancel: &'a Cancel,
    manifest: Files,
    next: Option<FileEntry>,
    done_spaces: Vec<usize>,
    found: Survey,
}

/// An entry of a directory in the order of whole paths: itself, and later what is below it.
struct Visit {
    key: Vec<u8>,
    below: bool,
}

impl Walk<'_> {
    /// Steps to the next entry of the manifest that a restore writes.
    fn advance(&mut self) -> Result<()> {
        loop {
            self.next = self.manifest.next().transpose()?;
            match &self.next {
                Some(entry) if !is_restored(entry) => {}
                Some(entry) => return self.refuse_stray(entry),
                None => return Ok(()),
            }
        }
    }

    /// Other servers' directories in a tablespace are none of a backup's business.
    fn refuse_stray(&self, entry: &FileEntry) -> Result<()> {
        let Some(index) = self.space_of(&entry.meta.path) else { return Ok(()) };
        let Some(space) = self.ground.layout.tablespaces.get(index) else { return Ok(()) };
        let path = Path::new(OsStr::from_bytes(&entry.meta.path));
        let root = PathBuf::from(format!("pg_tblspc/{}", space.oid));
        if path == root || path.starts_with(root.join(self.ground.version_directory)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("the backup names a file `{}`", entry.path_text()))
            .cause(format!("of a tablespace, only `{}` is this cluster's", self.ground.version_directory))
            .hint("restore another backup: `pgkeep list` shows them"))
    }

    /// Handles the entries of the manifest before `path` (all of them for none): they are not on the disk.
    fn absent_until(&mut self, path: Option<&[u8]>) -> Result<()> {
        while let Some(entry) = &self.next {
            if path.is_some_and(|path| entry.meta.path.as_slice() >= path) {
                return Ok(());
            }
            if let Some(index) = self.space_of(&entry.meta.path)
                && !self.done_spaces.contains(&index)
            {
                self.tablespace(index)?;
                continue;
            }
            let size = if matches!(entry.kind, FileKind::File { .. }) { entry.meta.size } else { 0 };
            let place = self.ground.layout.place(Path::new(OsStr::from_bytes(&entry.meta.path)));
            if size > 0 {
                let nearest = place.ancestors().skip(1).find_map(|above| {
                    let device = fs::symlink_metadata(above).ok().filter(Metadata::is_dir)?.dev();
                    Some((device, above.to_owned()))
                });
                if let Some((device, above)) = nearest {
                    self.grow(device, signed(size), &above);
                }
            }
            self.advance()?;
        }
        Ok(())
    }

    /// The tablespace of the layout that a path of the manifest lies in.
    fn space_of(&self, path: &[u8]) -> Option<usize> {
        let rest = path.strip_prefix(b"pg_tblspc/")?;
        let oid = rest.split(|byte| *byte == b'/').next()?;
        let oid: u32 = std::str::from_utf8(oid).ok()?.parse().ok()?;
        self.ground.layout.tablespaces.iter().position(|space| space.oid == oid)
    }

    /// Walks the directory of a tablespace beside the entries of the manifest that go there.
    fn tablespace(&mut self, index: usize) -> Result<()> {
        if self.done_spaces.contains(&index) {
            return Ok(());
        }
        self.done_spaces.push(index);
        let Some(space) = self.ground.layout.tablespaces.get(index) else { return Ok(()) };
        let relative = format!("pg_tblspc/{}", space.oid).into_bytes();
        // The link itself is made anew.
        while self.next.as_ref().is_some_and(|entry| entry.meta.path == relative) {
            self.advance()?;
        }
        if let Some(device) = device_of(&space.target)? {
            self.directory(&relative, &space.target, device, Rule::Space)?;
        }
        Ok(())
    }

    /// Walks one directory; answers whether anything below it belongs.
    fn directory(&mut self, relative: &[u8], local: &Path, device: u64, rule: Rule) -> Result<bool> {
        self.cancel.check()?;
        let before = self.next.as_ref().map(|entry| entry.meta.path.clone());
        let mut foreign_below = Vec::new();
        for visit in self.visits(relative, local, rule)? {
            let full = if relative.is_empty() { visit.key } else { [relative, b"/", &visit.key].concat() };
            if rule != Rule::Foreign {
                self.absent_until(Some(&full))?;
            }
            let name = full.strip_suffix(b"/").unwrap_or(&full);
            let path =
                local.join(OsStr::from_bytes(name.rsplit(|byte| *byte == b'/').next().unwrap_or(name)));
            if !visit.below {
                if let Some(rule) = self.entry(name, &path, device, rule)? {
                    foreign_below.push((name.to_owned(), rule));
                }
                continue;
            }
            let Some(position) = foreign_below.iter().position(|(known, _)| known == name) else { continue };
            let (_, how) = foreign_below.swap_remove(position);
            self.below(name, &path, device, how)?;
        }
        let end = [relative, b"0"].concat();
        if rule != Rule::Foreign && !relative.is_empty() {
            // `0` follows `/`: all that is left of this directory in the manifest.
            self.absent_until(Some(&end))?;
        }
        let after = self.next.as_ref().map(|entry| &entry.meta.path);
        Ok(rule != Rule::Foreign && before.as_ref() != after)
    }

    /// What a directory holds, so that whole paths ascend.
    fn visits(&self, relative: &[u8], local: &Path, rule: Rule) -> Result<Vec<Visit>> {
        let cannot = |error: io::Error| cannot_look(local, &error);
        let is_root = relative.is_empty();
        let mut visits = Vec::new();
        for entry in fs::read_dir(local).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = entry.file_name();
            let ours = is_root && (name == MARKER || name == STAGED_MARKER);
            let mount = (is_root || rule == Rule::Wal && relative == b"pg_wal") && name == "lost+found";
            let others = rule == Rule::Space && name != self.ground.version_directory;
            if ours || mount || others {
                continue;
            }
            let kind = entry.file_type().map_err(cannot)?;
            let key = name.as_bytes().to_vec();
            if kind.is_dir() || (is_root && name == "pg_wal" && kind.is_symlink()) {
                visits.push(Visit { key: [&key, b"/".as_slice()].concat(), below: true });
            }
            visits.push(Visit { key, below: false });
        }
        visits.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(visits)
    }

    /// Decides about one entry; for a directory, how what is below is judged, and whether it goes itself.
    fn entry(&mut self, name: &[u8], path: &Path, device: u64, rule: Rule) -> Result<Option<Below>> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot_look(path, &error)),
        };
        if Some((metadata.dev(), metadata.ino())) == self.ground.repository {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("`{}` is the repository", path.display()),
            )
            .cause("it lies in what is to be restored onto")
            .hint("restore to another place, or unmount it there"));
        }
        let wanted = match (&self.next, rule) {
            (_, Rule::Foreign) => None,
            (Some(entry), _) if entry.meta.path == name => self.next.clone(),
            _ => None,
        };
        if wanted.is_some() {
            self.advance()?;
        }
        let kind = wanted.as_ref().map(|entry| &entry.kind);
        if self.is_placed_elsewhere(name) && rule == Rule::Belongs {
            if metadata.is_dir() {
                return Ok(Some(Below { rule: Rule::Foreign, goes: true }));
            }
            // The link to a tablespace is made anew: not worth a word.
            return self.unlink(path).map(|()| None);
        }
        if metadata.is_dir() {
            let below = match kind {
                Some(FileKind::Directory) => Below { rule: inner(rule), goes: false },
                // May still hold what belongs: a manifest need not name every directory.
                None if rule != Rule::Foreign => Below { rule: inner(rule), goes: true },
                _ => Below { rule: Rule::Foreign, goes: true },
            };
            if below.goes && rule == Rule::Wal && !is_wal_folder(name) {
                return Err(no_wal(path));
            }
            if let Some(FileKind::File { .. }) = kind {
                self.grow(device, signed(wanted.map_or(0, |entry| entry.meta.size)), path);
            }
            return Ok(Some(below));
        }
        let ours = CONTROL_FILE_LEFTOVERS.iter().chain(&OWN_FILES);
        if wanted.is_none() && ours.into_iter().any(|ours| name == ours.as_bytes()) {
            return self.unlink(path).map(|()| None);
        }
        if name == b"pg_wal" && metadata.is_symlink() && matches!(kind, Some(FileKind::Directory)) {
            return Ok(Some(Below { rule: Rule::Wal, goes: false }));
        }
        match (kind, &wanted) {
            (Some(FileKind::File { .. }), Some(entry)) if self.can_reuse(&metadata) => {
                if name == CONTROL_FILE_PATH.as_bytes() {
                    return Ok(None);
                }
                self.reuse(entry, path, &metadata, device)?;
            }
            (kind, wanted) => {
                self.remove_file(name, path, &metadata, device, rule)?;
                if let (Some(FileKind::File { .. }), Some(entry)) = (kind, wanted) {
                    self.grow(device, signed(entry.meta.size), path.parent().unwrap_or(path));
                }
            }
        }
        Ok(None)
    }

    /// Whether what the manifest has below this directory goes to a tablespace instead.
    fn is_placed_elsewhere(&self, name: &[u8]) -> bool {
        name.strip_prefix(b"pg_tblspc/").is_some_and(|rest| !rest.contains(&b'/'))
            && self.space_of(name).is_some()
    }

    fn below(&mut self, name: &[u8], path: &Path, device: u64, how: Below) -> Result<()> {
        if how.rule == Rule::Wal && name == b"pg_wal" {
            let real = fs::canonicalize(path).map_err(|error| {
                Error::new(ErrorKind::Destination, format!("`{}` is a link to nowhere", path.display()))
                    .caused_by(&error)
                    .hint("mount or make the directory that it names, or remove the link: WAL then goes into the data directory")
            })?;
            let device = device_of(&real)?.unwrap_or(device);
            let spaces = self.ground.layout.tablespaces.iter().map(|space| &space.target);
            let owned = spaces.chain([&self.ground.layout.data_directory]);
            if let Some(owner) =
                owned.into_iter().find(|path| fs::canonicalize(path).is_ok_and(|path| real.starts_with(path)))
            {
                return Err(Error::new(
                    ErrorKind::Destination,
                    format!("`{}` is a link into `{}`", path.display(), owner.display()),
                )
                .cause("WAL beside other files of the cluster could not be told from them")
                .hint("remove the link: WAL then goes into the data directory"));
            }
            return self.directory(name, &real, device, Rule::Wal).map(|_| ());
        }
        let own = device_of(path)?.unwrap_or(device);
        if how.goes && own != device {
            return Err(Error::new(
                ErrorKind::Destination,
                format!("`{}` is another file system, mounted there", path.display()),
            )
            .cause("the backup has nothing there, so that all of it would be removed")
            .hint("unmount it, and run the command again"));
        }
        let belongs = self.directory(name, path, own, how.rule)?;
        if how.goes && !belongs {
            self.removed(name);
            self.found.removed_directories += 1;
            if self.remove {
                gone(fs::remove_dir(path)).map_err(|error| cannot_write(path, &error))?;
            }
        }
        Ok(())
    }

    /// Whether a file can be written in place without touching anything else.
    fn can_reuse(&self, metadata: &Metadata) -> bool {
        let ours = match self.ground.owner {
            Owner::Caller => metadata.uid() == rustix::process::geteuid().as_raw(),
            Owner::Other { .. } => true,
        };
        metadata.is_file() && metadata.nlink() == 1 && ours
    }

    fn reuse(&mut self, entry: &FileEntry, path: &Path, metadata: &Metadata, device: u64) -> Result<()> {
        let size = entry.meta.size;
        self.found.compare_bytes += size.min(metadata.len());
        let allocated = metadata.blocks().saturating_mul(512);
        if metadata.len() > size {
            // Before anything grows.
            if self.remove {
                let cut = open_for_writing(path, metadata).and_then(|file| file.set_len(size));
                cut.map_err(|error| cannot_write(path, &error))?;
            }
            self.grow(device, signed(size.next_multiple_of(4096)) - signed(allocated), path);
        } else {
            self.grow(device, signed(size.saturating_sub(allocated)), path);
        }
        Ok(())
    }

    fn remove_file(
        &mut self,
        name: &[u8],
        path: &Path,
        metadata: &Metadata,
        device: u64,
        rule: Rule,
    ) -> Result<()> {
        if rule == Rule::Wal && !is_wal_entry(name) {
            return Err(no_wal(path));
        }
        if metadata.is_file() {
            self.found.removed_files += 1;
            if metadata.nlink() == 1 {
                self.grow(device, -signed(metadata.blocks().saturating_mul(512)), path);
            }
        } else {
            self.found.removed_links += 1;
        }
        self.removed(name);
        self.unlink(path)
    }

    fn unlink(&self, path: &Path) -> Result<()> {
        if self.remove {
            gone(fs::remove_file(path)).map_err(|error| cannot_write(path, &error))?;
        }
        Ok(())
    }

    fn removed(&mut self, name: &[u8]) {
        if self.found.removed.len() < MAX_NAMES {
            self.found.removed.push(String::from_utf8_lossy(name).into_owned());
        }
    }

    fn grow(&mut self, device: u64, bytes: i64, path: &Path) {
        let (growth, _) = self.found.growth.entry(device).or_insert_with(|| (0, path.to_owned()));
        *growth = growth.saturating_add(bytes);
    }
}

/// What becomes of a directory.
struct Below {
    rule: Rule,
    goes: bool,
}

/// The rule below a directory of that rule.
fn inner(rule: Rule) -> Rule {
    if rule == Rule::Space { Rule::Belongs } else { rule }
}

/// Opens a file of the former cluster to write to it, whatever its mode was.
pub fn open_for_writing(path: &Path, metadata: &Metadata) -> io::Result<File> {
    if metadata.mode() & 0o600 != 0o600 {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn no_wal(path: &Path) -> Error {
    Error::new(
        ErrorKind::Destination,
        format!("`pg_wal` is a link to a directory that holds `{}`", path.display()),
    )
    .cause("that is no WAL: perhaps the directory is not only this cluster's")
    .hint("move it away, or remove the link: WAL then goes into the data directory")
}

fn device_of(directory: &Path) -> Result<Option<u64>> {
    match fs::metadata(directory) {
        Ok(metadata) => Ok(Some(metadata.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_look(directory, &error)),
    }
}

fn cannot_look(path: &Path, error: &io::Error) -> Error {
    Error::new(ErrorKind::Destination, format!("`{}` cannot be looked at", path.display()))
        .caused_by(error)
        .hint("check its permissions and the disk, and run the command again")
}

/// What is gone already needs no removing.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
