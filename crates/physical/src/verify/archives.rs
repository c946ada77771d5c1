//! Checking a backup in tar format: every archive is read once, from its beginning to its end.
//!
//! Archives are read at the same time; each by two threads where there are some, one that reads and decompresses and one
//! that digests. Nothing is unpacked, and no more than a few pieces of each archive are in memory.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgkeep_format::archive::Compression;
use pgkeep_format::control_file::{CONTROL_FILE_PATH, CONTROL_FILE_SIZE};
use pgkeep_format::tar::{TarEntry, TarEntryKind, TarEvent, TarReader};
use pgkeep_tool::{Result, system_text};

use super::Check;
use super::wal_archive::{ArchivedWal, SegmentGatherer};
use crate::backup_archive::{self, ArchiveContents, archive_of_name};
use crate::checksum::Hasher;
use crate::manifest_table::TableFile;

const PIECE: usize = 256 << 10;
/// Pieces of an archive that wait to be digested.
const PIECES: usize = 8;

/// An archive of the backup.
struct Archive {
    name: String,
    contents: ArchiveContents,
    compression: Compression,
    size: u64,
}

impl Check<'_> {
    /// Checks what the archives among `entries` hold. WAL in them goes to `wal`.
    pub(super) fn check_archives(&self, entries: &[OsString], wal: &ArchivedWal) -> Result<()> {
        self.tell_progress(false);
        let mut archives = Vec::new();
        for name in entries {
            archives.extend(self.find_archive(name, wal)?);
        }
        self.total.fetch_add(archives.iter().map(|archive| archive.size).sum(), Ordering::Relaxed);
        // The large one first, that the others are done meanwhile.
        archives.sort_by_key(|archive| std::cmp::Reverse(archive.size));
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(archive) = archives.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.check_archive(archive, wal)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let helpers = self.request.jobs.clamp(1, archives.len().max(1)) - 1;
            let threads: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for thread in threads {
                result = result.and(join(thread));
            }
            result
        })?;
        self.tell_progress(true);
        Ok(())
    }

    /// The archive of that name; none where it is not one, or not one to be read.
    fn find_archive(&self, name: &OsString, wal: &ArchivedWal) -> Result<Option<Archive>> {
        let shown = name.to_string_lossy();
        let as_path = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str());
        let archive = name.to_str().and_then(archive_of_name);
        let is_wal = matches!(archive, Some((ArchiveContents::Wal, _)));
        if self.ignored.contains(as_path) {
            return Ok(None);
        }
        let metadata = match self.request.directory.join(name).metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                let text = system_text(&error);
                let text = format!("could not stat file or directory \"{shown}\": {text}");
                return self.findings.add(&text).map(|()| None);
            }
        };
        if !metadata.is_file() {
            return self.findings.add(&format!("file \"{shown}\" is not a regular file")).map(|()| None);
        }
        let Some((contents, compression)) = archive else {
            let text = format!("file \"{shown}\" is not expected in a tar format backup");
            return self.findings.add(&text).map(|()| None);
        };
        if is_wal && !wal.is_wanted() {
            return Ok(None);
        }
        Ok(Some(Archive { name: shown.into_owned(), contents, compression, size: metadata.len() }))
    }

    fn check_archive(&self, archive: &Archive, wal: &ArchivedWal) -> Result<()> {
        let path = self.request.directory.join(&archive.name);
        let mut reading = Reading::new(self, archive, wal);
        let read = if self.request.jobs > 1 {
            std::thread::scope(|scope| {
                let (sender, pieces) = crossbeam_channel::bounded(PIECES);
                let reader = scope.spawn(move || {
                    // Nobody takes pieces any more when the other thread found an end.
                    self.read_pieces(archive, &path, &mut |piece| Ok(sender.send(piece.to_vec()).is_ok()))
                });
                let taken = pieces.into_iter().try_for_each(|piece: Vec<u8>| reading.take(&piece));
                // A piece that did not come is why the archive seems to be cut off.
                taken.and(join(reader))
            })
        } else {
            self.read_pieces(archive, &path, &mut |piece| reading.take(piece).map(|()| true))
        };
        match read {
            Ok(()) => reading.finish(),
            Err(Broken::Archive(text)) => self.findings.add(&text),
            Err(Broken::Check(error)) => Err(error),
        }
    }

    /// Hands out the plain bytes of an archive, until `take` wants no more.
    fn read_pieces(
        &self,
        archive: &Archive,
        path: &Path,
        take: &mut dyn FnMut(&[u8]) -> std::result::Result<bool, Broken>,
    ) -> std::result::Result<(), Broken> {
        let name = &archive.name;
        let failed = |what: &str, error: &std::io::Error| {
            Broken::Archive(format!("could not {what} file \"{name}\": {}", system_text(error)))
        };
        let mut source = backup_archive::open(path, archive.compression, |bytes| self.advance(bytes))
            .map_err(|error| failed("open", &error))?;
        let mut buffer = vec![0; PIECE];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => {
                    if !take(buffer.get(..length).unwrap_or_default())? {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &error)),
            }
        }
    }
}

/// The thread's result; a panic in it goes on here.
fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Why the reading of an archive ends early.
enum Broken {
    /// It cannot be read on; others can.
    Archive(String),
    /// The check ends.
    Check(pgkeep_tool::ToolError),
}

impl From<pgkeep_tool::ToolError> for Broken {
    fn from(error: pgkeep_tool::ToolError) -> Broken {
        Broken::Check(error)
    }
}

/// An archive while it is read.
struct Reading<'a> {
    check: &'a Check<'a>,
    archive: &'a Archive,
    wal: &'a ArchivedWal,
    tar: TarReader,
    member: Member<'a>,
}

/// What is done with the contents of a member.
#[derive(Default)]
struct Member<'a> {
    digest: Option<(&'a TableFile, Hasher)>,
    control: Option<Vec<u8>>,
    segment: Option<SegmentGatherer>,
}

impl<'a> Reading<'a> {
    fn new(check: &'a Check<'a>, archive: &'a Archive, wal: &'a ArchivedWal) -> Reading<'a> {
        Reading { check, archive, wal, tar: TarReader::new(), member: Member::default() }
    }

    fn take(&mut self, mut piece: &[u8]) -> std::result::Result<(), Broken> {
        if self.check.findings.is_over() {
            return Err(pgkeep_tool::ToolError::reported("stopped at the first error").into());
        }
        let name = &self.archive.name;
        let damaged = |error| Broken::Archive(format!("could not read archive \"{name}\": {error}"));
        while let Some(event) = self.tar.next(&mut piece).map_err(damaged)? {
            match event {
                TarEvent::Entry(entry) => self.member = self.begin(&entry)?,
                TarEvent::Data(data) => self.member.take(data),
                TarEvent::EndOfEntry => self.end()?,
            }
        }
        Ok(())
    }

    fn begin(&self, entry: &TarEntry) -> Result<Member<'a>> {
        let (check, name) = (self.check, &self.archive.name);
        let mut member = Member::default();
        if entry.kind != TarEntryKind::File {
            return Ok(member);
        }
        let path = match self.archive.contents {
            ArchiveContents::Base => entry.path.clone(),
            ArchiveContents::Wal => [b"pg_wal/", entry.path.as_slice()].concat(),
            ArchiveContents::Tablespace(oid) => {
                [format!("pg_tblspc/{oid}/").as_bytes(), entry.path.as_slice()].concat()
            }
        };
        if let Some(segment) = path.strip_prefix(b"pg_wal/") {
            member.segment = self.wal.gatherer(segment, entry.size);
        }
        if check.ignored.contains(&path) || self.archive.contents == ArchiveContents::Wal {
            return Ok(member);
        }
        let shown = String::from_utf8_lossy(&entry.path);
        let Some(file) = check.table.get(&path) else {
            check
                .findings
                .add(&format!("file \"{shown}\" is present in archive \"{name}\" but not in the manifest"))?;
            return Ok(member);
        };
        file.set_seen();
        if file.size != entry.size {
            file.set_bad();
            let (found, expected) = (entry.size, file.size);
            check.findings.add(&format!(
                "file \"{shown}\" has size {found} in archive \"{name}\" but size {expected} in the manifest"
            ))?;
            return Ok(member);
        }
        if !check.request.skip_checksums
            && let Some(checksum) = &file.checksum
        {
            member.digest = Some((file, Hasher::new(checksum.algorithm)));
        }
        if path == CONTROL_FILE_PATH.as_bytes() && check.table.version != 1 {
            member.control = Some(Vec::new());
        }
        Ok(member)
    }

    fn end(&mut self) -> Result<()> {
        let (check, name) = (self.check, &self.archive.name);
        let member = std::mem::take(&mut self.member);
        if let Some((file, hasher)) = member.digest
            && let Err(text) = file.check(&hasher.finish(), &format!(" in archive \"{name}\""))
        {
            check.findings.add(&text)?;
        }
        if let Some(bytes) = member.control {
            check.check_control_bytes(&bytes, &format!("{name}: {CONTROL_FILE_PATH}"))?;
        }
        if let Some(segment) = member.segment {
            self.wal.put(segment);
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let name = &self.archive.name;
        match self.tar.finish() {
            Ok(()) => Ok(()),
            Err(error) => self.check.findings.add(&format!("could not read archive \"{name}\": {error}")),
        }
    }
}

impl Member<'_> {
    fn take(&mut self, data: &[u8]) {
        if let Some((_, hasher)) = &mut self.digest {
            hasher.update(data);
        }
        if let Some(control) = &mut self.control {
            let wanted = CONTROL_FILE_SIZE.saturating_sub(control.len()).min(data.len());
            control.extend_from_slice(data.get(..wanted).unwrap_or_default());
        }
        if let Some(segment) = &mut self.segment {
            segment.take(data);
        }
    }
}
