//! Where received WAL waits on a local disk until it is in the repository: one file for each segment, `<segment>.partial`
//! until it is whole.
//!
//! Files are as long as what was received; they are never cut, and written over with the same bytes only. So what was
//! flushed once stays, whatever is received again after a restart. A lock keeps a second receiver out.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pgkeep_format::{WalFileName, WalSegmentName, WalSegmentSize};
use rustix::fs::{FlockOperation, flock};

use crate::{Error, ErrorKind, Result};

/// The spool of one cluster of a stanza.
#[derive(Debug)]
pub(super) struct ReceiveSpool {
    folder: PathBuf,
    size: WalSegmentSize,
    /// Locked as long as this is open.
    _lock: File,
}

/// What is in a spool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SpoolContents {
    /// Whole segments, ascending.
    pub(super) whole: Vec<WalSegmentName>,
    /// Unfinished ones and their lengths, ascending.
    pub(super) partial: Vec<(WalSegmentName, u64)>,
}

impl ReceiveSpool {
    /// Opens the folder `name` below `base`; both are made where they are missing, closed to others.
    pub(super) fn open(base: &Path, name: &str, size: WalSegmentSize) -> Result<ReceiveSpool> {
        let folder = base.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.and_then(|()| sync_directory(base)).map_err(|error| failed(&folder, &error))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.map_err(|error| failed(&path, &error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            Error::new(ErrorKind::Locked, format!("another receiver uses the spool `{}`", folder.display()))
                .cause(io::Error::from(error))
                .hint("one receiver has one spool: stop the other one, or give this one another `--spool` and `--slot`")
        })?;
        Ok(ReceiveSpool { folder, size, _lock: lock })
    }

    /// What it holds.
    pub(super) fn contents(&self) -> Result<SpoolContents> {
        let mut contents = SpoolContents::default();
        let unreadable = |error: io::Error| failed(&self.folder, &error);
        for entry in fs::read_dir(&self.folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match WalFileName::parse(name, self.size) {
                Some(WalFileName::Segment(segment)) => contents.whole.push(segment),
                Some(WalFileName::Partial(segment)) => {
                    // Renamed between the two looks: it is whole, and found the next time.
                    let Ok(metadata) = entry.metadata() else { continue };
                    contents.partial.push((segment, metadata.len()));
                }
                _ => {}
            }
        }
        contents.whole.sort();
        contents.partial.sort();
        Ok(contents)
    }

    fn whole_path(&self, segment: WalSegmentName) -> PathBuf {
        self.folder.join(segment.file_name(self.size))
    }

    fn partial_path(&self, segment: WalSegmentName) -> PathBuf {
        self.folder.join(WalFileName::Partial(segment).file_name(self.size))
    }

    /// The bytes of a whole segment.
    pub(super) fn read_whole(&self, segment: WalSegmentName) -> Result<Vec<u8>> {
        let path = self.whole_path(segment);
        fs::read(&path).map_err(|error| failed(&path, &error))
    }

    /// The first bytes of an unfinished segment; none where it is whole meanwhile.
    pub(super) fn read_partial(&self, segment: WalSegmentName, length: u64) -> Result<Option<Vec<u8>>> {
        let path = self.partial_path(segment);
        let mut bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, &error)),
        };
        bytes.truncate(usize::try_from(length.min(self.size.bytes())).unwrap_or(0));
        Ok(Some(bytes))
    }

    /// Removes a whole segment, which is stored elsewhere.
    pub(super) fn remove_whole(&self, segment: WalSegmentName) -> Result<()> {
        remove(&self.whole_path(segment))
    }

    /// Removes an unfinished segment, which is stored elsewhere.
    pub(super) fn remove_partial(&self, segment: WalSegmentName) -> Result<()> {
        remove(&self.partial_path(segment))
    }

    /// Opens the file of a segment that begins, or goes on.
    pub(super) fn open_partial(&self, segment: WalSegmentName) -> Result<SpoolFile> {
        let path = self.partial_path(segment);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|error| failed(&path, &error))?;
        let held = file.metadata().map_err(|error| failed(&path, &error))?.len();
        sync_directory(&self.folder).map_err(|error| failed(&self.folder, &error))?;
        Ok(SpoolFile { path, file, held, position: 0, size: self.size })
    }

    /// Gives a whole segment its name, durably.
    pub(super) fn finish(&self, segment: WalSegmentName, file: &SpoolFile) -> Result<()> {
        file.flush()?;
        let to = self.whole_path(segment);
        fs::rename(&file.path, &to)
            .and_then(|()| sync_directory(&self.folder))
            .map_err(|error| failed(&to, &error))
    }
}

/// The file of the open segment.
#[derive(Debug)]
pub(super) struct SpoolFile {
    path: PathBuf,
    file: File,
    /// Bytes that it had from before, as far as they are not contradicted.
    held: u64,
    position: u64,
    size: WalSegmentSize,
}

impl SpoolFile {
    /// Takes the bytes that follow. Those that are there already must be the same; where they are not, what was there is kept
    /// under another name, which is answered.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Option<PathBuf>> {
        use std::os::unix::fs::FileExt;
        let known = self.held.saturating_sub(self.position).min(bytes.len() as u64);
        let again = bytes.get(..usize::try_from(known).unwrap_or(0)).unwrap_or_default();
        let mut aside = None;
        if !again.is_empty() {
            let mut there = vec![0; again.len()];
            self.file.read_exact_at(&mut there, self.position).map_err(|error| self.failed(&error))?;
            if there != again {
                aside = Some(self.set_aside()?);
                self.held = 0;
            }
        }
        // The same bytes, too: after a flush that failed they may be in memory only, where they pass for flushed.
        self.file.write_all_at(bytes, self.position).map_err(|error| self.failed(&error))?;
        self.position += bytes.len() as u64;
        debug_assert!(self.position <= self.size.bytes());
        Ok(aside)
    }

    /// Copies the file, and cuts it where it is contradicted.
    fn set_aside(&self) -> Result<PathBuf> {
        let number = (1..).map(|number| self.path.with_extension(format!("partial.other-{number}")));
        let mut free = number.skip_while(|path| path.exists());
        let Some(path) = free.next() else { return Err(self.failed(&io::ErrorKind::AlreadyExists.into())) };
        fs::copy(&self.path, &path)
            .and_then(|_| File::open(&path)?.sync_all())
            .and_then(|()| self.file.set_len(self.position))
            .map_err(|error| failed(&path, &error))?;
        Ok(path)
    }

    /// Makes durable what was written.
    pub(super) fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        failed(&self.path, error)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let (kind, hint) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            ErrorKind::Space,
            "free space beneath the spool: until then WAL stays on the server, where the slot keeps it",
        ),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::Destination, "the spool must belong to the user who runs the receiver: see `--spool`")
        }
        _ => (ErrorKind::Storage, "look at the disk beneath the spool"),
    };
    Error::new(kind, format!("the spool fails at `{}`", path.display())).cause(error).hint(hint)
}

#[cfg(test)]
mod tests {
    use pgkeep_format::{SegmentNumber, TimelineId};

    use super::*;

    fn segment(number: u64) -> WalSegmentName {
        WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(number) }
    }

    fn open(base: &Path) -> Result<ReceiveSpool> {
        ReceiveSpool::open(base, "id-main-000001", WalSegmentSize::DEFAULT)
    }

    #[test]
    fn what_was_written_stays_when_it_is_received_again() {
        let base = tempfile::tempdir().unwrap();
        let spool = open(base.path()).unwrap();
        let mut file = spool.open_partial(segment(3)).unwrap();
        assert_eq!(file.write(b"abcdef").unwrap(), None);
        drop(file);
        let mut file = spool.open_partial(segment(3)).unwrap();
        assert_eq!(file.write(b"abc").unwrap(), None);
        // Killed here, all is still there.
        assert_eq!(spool.read_partial(segment(3), 100).unwrap().unwrap(), b"abcdef");
        assert_eq!(file.write(b"defg").unwrap(), None);
        file.flush().unwrap();
        assert_eq!(spool.read_partial(segment(3), 5).unwrap().unwrap(), b"abcde");
        spool.finish(segment(3), &file).unwrap();
        assert_eq!(spool.read_whole(segment(3)).unwrap(), b"abcdefg");
        assert_eq!(spool.read_partial(segment(3), 5).unwrap(), None);
        spool.open_partial(segment(4)).unwrap();
        let contents = spool.contents().unwrap();
        assert_eq!(contents, SpoolContents { whole: vec![segment(3)], partial: vec![(segment(4), 0)] });
    }

    #[test]
    fn other_bytes_are_kept_aside() {
        let base = tempfile::tempdir().unwrap();
        let spool = open(base.path()).unwrap();
        spool.open_partial(segment(3)).unwrap().write(b"abcdef").unwrap();
        let mut file = spool.open_partial(segment(3)).unwrap();
        assert_eq!(file.write(b"ab").unwrap(), None);
        let aside = file.write(b"CDE").unwrap().unwrap();
        file.write(b"FGH").unwrap();
        assert_eq!(fs::read(aside).unwrap(), b"abcdef");
        assert_eq!(spool.read_partial(segment(3), 100).unwrap().unwrap(), b"abCDEFGH");
        assert_eq!(spool.contents().unwrap().partial, [(segment(3), 8)]);
    }

    #[test]
    fn a_spool_has_one_receiver() {
        let base = tempfile::tempdir().unwrap();
        let spool = open(base.path()).unwrap();
        assert_eq!(open(base.path()).unwrap_err().kind, ErrorKind::Locked);
        drop(spool);
        assert!(open(base.path()).is_ok());
    }
}
