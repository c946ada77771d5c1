//! Segments fetched ahead of `restore_command`.
//!
//! PostgreSQL asks for one segment at a time and waits. So one call in a few fetches the wanted segment and those after it
//! with several threads, and leaves them here; the next calls only move a file. Nothing runs on after the process ends.
//!
//! *Stale leftovers are never served.* A folder belongs to one repository id, stanza, cluster record, timeline and
//! destination directory (by device and inode); what it holds is write-once in the repository, so a file left by an earlier
//! restore is either the very same bytes or is not under the same folder. A file's name carries the CRC-32C of its bytes,
//! which is checked when it is served (a crash of the machine may leave files with holes: nothing here is flushed).
//!
//! *Nobody else can plant files.* The base directory must be a real directory, belong to this user and be closed to all
//! others; otherwise the spool is not used, and nothing else changes. Unfinished files have names that are never served.
//!
//! *It goes away.* What was served is moved, what recovery has passed is removed, and when the server finds the end of the
//! archive or begins a new timeline the whole folder is. The program puts it into a directory of its own below `pg_wal`,
//! which no backup copies, so that serving a file is a rename.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pgkeep_format::{WalSegmentName, WalSegmentSize};

/// The most bytes that wait in a spool.
pub const SPOOL_LIMIT_BYTES: u64 = 256 << 20;

/// Unfinished files and folders of restores that ended are swept when they are older than this.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// Whose segments a spool folder holds.
#[derive(Clone, Debug)]
pub(crate) struct SpoolKey<'a> {
    pub(crate) repository_id: &'a str,
    pub(crate) stanza: &'a str,
    pub(crate) record: u32,
    pub(crate) timeline: u32,
    /// The directory into which segments are delivered.
    pub(crate) destination: &'a Path,
}

/// The folder of one restore.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    base: PathBuf,
    folder: PathBuf,
    segment_size: WalSegmentSize,
}

impl Spool {
    /// Opens (and makes) the folder; none where it cannot be trusted or used.
    pub(crate) fn open(base: &Path, key: &SpoolKey<'_>, segment_size: WalSegmentSize) -> Option<Spool> {
        let suffix = destination_suffix(key.destination)?;
        make_private(base)?;
        let folder = base.join(format!(
            "{}-{}-{:06}-{:08X}{suffix}",
            key.repository_id, key.stanza, key.record, key.timeline
        ));
        make_private(&folder)?;
        Some(Spool { base: base.to_owned(), folder, segment_size })
    }

    /// Removes this folder, and the spool where nothing else is in it.
    pub(crate) fn remove(&self) {
        drop(fs::remove_dir_all(&self.folder));
        drop(fs::remove_dir(&self.base));
    }

    /// Removes all folders of a destination, and the spool where nothing else is in it.
    pub(crate) fn remove_all(base: &Path, destination: &Path) {
        let Some(suffix) = destination_suffix(destination).filter(|_| is_private(base)) else { return };
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.ends_with(&suffix)) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        drop(fs::remove_dir(base));
    }

    /// How many segments may be fetched ahead, of those wished for: bounded by [`SPOOL_LIMIT_BYTES`] and by the free space
    /// beneath the spool, half of which stays free.
    pub(crate) fn room_for(&self, wished: usize) -> usize {
        let free = rustix::fs::statvfs(&self.folder)
            .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize) / 2);
        let segments = free.min(SPOOL_LIMIT_BYTES) / self.segment_size.bytes();
        wished.min(usize::try_from(segments).unwrap_or(0))
    }

    /// Keeps a segment for a later call. Failing is not an error: the later call fetches it itself.
    pub(crate) fn keep(&self, name: WalSegmentName, bytes: &[u8]) -> io::Result<()> {
        let file_name = name.file_name(self.segment_size);
        let staging = self.folder.join(format!("{file_name}.{}.tmp", std::process::id()));
        let written = File::create(&staging).and_then(|mut file| file.write_all(bytes));
        let kept = written.and_then(|()| {
            fs::rename(&staging, self.folder.join(format!("{file_name}-{:08x}", checksum(bytes))))
        });
        if kept.is_err() {
            // The next sweep takes it otherwise.
            drop(fs::remove_file(&staging));
        }
        kept
    }

    /// Takes a segment out, whole and with the checksum that it was kept with; none where it is not there.
    pub(crate) fn take(&self, name: WalSegmentName) -> Option<Spooled> {
        let file_name = name.file_name(self.segment_size);
        for entry in fs::read_dir(&self.folder).ok()?.flatten() {
            let found = entry.file_name();
            let Some(found) = found.to_str() else { continue };
            let Some(sum) = found.strip_prefix(&file_name).and_then(|rest| rest.strip_prefix('-')) else {
                continue;
            };
            let path = entry.path();
            if let (Ok(sum), Some(bytes)) = (u32::from_str_radix(sum, 16), self.read_whole(&path))
                && checksum(&bytes) == sum
            {
                return Some(Spooled { path, bytes });
            }
            drop(fs::remove_file(path));
        }
        None
    }

    /// Whether a segment waits already.
    pub(crate) fn holds(&self, name: WalSegmentName) -> bool {
        let prefix = format!("{}-", name.file_name(self.segment_size));
        fs::read_dir(&self.folder).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)))
        })
    }

    /// Removes segments before `wanted`, which recovery has passed, and whatever ended restores left behind.
    pub(crate) fn sweep(&self, wanted: WalSegmentName, now: SystemTime) {
        let wanted = wanted.file_name(self.segment_size);
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_passed =
                name.to_str().and_then(|n| n.get(..24)).is_some_and(|segment| segment < wanted.as_str());
            let is_unfinished = name.to_str().is_some_and(|n| n.ends_with(".tmp"));
            if (is_passed && !is_unfinished) || (is_unfinished && is_older(&entry.path(), now)) {
                drop(fs::remove_file(entry.path()));
            }
        }
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            if entry.path() != self.folder && is_older(&entry.path(), now) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }

    fn read_whole(&self, path: &Path) -> Option<Vec<u8>> {
        let expected = usize::try_from(self.segment_size.bytes()).ok()?;
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.len() != self.segment_size.bytes() {
            return None;
        }
        let mut bytes = Vec::with_capacity(expected);
        file.take(self.segment_size.bytes()).read_to_end(&mut bytes).ok()?;
        (bytes.len() == expected).then_some(bytes)
    }
}

/// A segment taken out of the spool.
#[derive(Debug)]
pub(crate) struct Spooled {
    path: PathBuf,
    /// Its bytes, already checked.
    pub(crate) bytes: Vec<u8>,
}

impl Spooled {
    /// Moves the file to `destination`, where both lie on one file system; `false` where they do not.
    pub(crate) fn move_to(&self, destination: &Path) -> bool {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o600)).is_ok()
            && fs::rename(&self.path, destination).is_ok()
    }

    /// Removes what is left in the spool.
    pub(crate) fn discard(&self) {
        drop(fs::remove_file(&self.path));
    }
}

/// What folders of this destination end with.
fn destination_suffix(destination: &Path) -> Option<String> {
    let metadata = fs::metadata(destination).ok()?;
    Some(format!("-{:x}-{:x}", metadata.dev(), metadata.ino()))
}

/// Makes a directory that is closed to everybody else, or checks that the one which is there is such a one.
fn make_private(path: &Path) -> Option<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
        _ => {}
    }
    is_private(path).then_some(())
}

fn is_private(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| {
        metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode() & 0o077 == 0
    })
}

fn is_older(path: &Path, now: SystemTime) -> bool {
    fs::symlink_metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > LEFTOVER_AGE))
}

fn checksum(bytes: &[u8]) -> u32 {
    // The algorithm has 32 bits.
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use pgkeep_format::{SegmentNumber, TimelineId};

    use super::*;

    fn size() -> WalSegmentSize {
        WalSegmentSize::try_from(1 << 20).unwrap()
    }

    fn segment(number: u64) -> WalSegmentName {
        WalSegmentName { timeline: TimelineId::FIRST, number: SegmentNumber(number) }
    }

    fn content(seed: u8) -> Vec<u8> {
        vec![seed; 1 << 20]
    }

    struct Place {
        base: tempfile::TempDir,
        destination: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            Place { base: tempfile::tempdir().unwrap(), destination: tempfile::tempdir().unwrap() }
        }

        fn open(&self, repository_id: &str, record: u32) -> Option<Spool> {
            let key = SpoolKey {
                repository_id,
                stanza: "main",
                record,
                timeline: 1,
                destination: self.destination.path(),
            };
            Spool::open(&self.base.path().join("spool"), &key, size())
        }
    }

    #[test]
    fn what_was_kept_is_taken_once() {
        let place = Place::new();
        let spool = place.open("a", 1).unwrap();
        spool.keep(segment(3), &content(7)).unwrap();
        assert!(spool.holds(segment(3)) && !spool.holds(segment(4)));
        let taken = spool.take(segment(3)).unwrap();
        assert_eq!(taken.bytes, content(7));
        let target = place.destination.path().join("RECOVERYXLOG");
        assert!(
            taken.move_to(&target) || {
                taken.discard();
                true
            }
        );
        assert!(spool.take(segment(3)).is_none());
    }

    #[test]
    fn another_repository_or_record_has_another_folder() {
        let place = Place::new();
        place.open("a", 1).unwrap().keep(segment(3), &content(7)).unwrap();
        assert!(place.open("b", 1).unwrap().take(segment(3)).is_none());
        assert!(place.open("a", 2).unwrap().take(segment(3)).is_none());
    }

    #[test]
    fn damaged_short_and_unfinished_files_are_not_served() {
        let place = Place::new();
        let spool = place.open("a", 1).unwrap();
        spool.keep(segment(3), &content(7)).unwrap();
        let file = fs::read_dir(&spool.folder).unwrap().next().unwrap().unwrap().path();
        let mut bytes = content(7);
        bytes[500_000] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert!(spool.take(segment(3)).is_none());
        assert!(!file.exists());
        fs::write(&file, &bytes[..1000]).unwrap();
        assert!(spool.take(segment(3)).is_none());
        fs::write(spool.folder.join("000000010000000000000004.99.tmp"), content(4)).unwrap();
        assert!(spool.take(segment(4)).is_none());
    }

    #[test]
    fn a_spool_that_others_can_write_to_is_not_used() {
        let place = Place::new();
        let base = place.base.path().join("spool");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(place.open("a", 1).is_none());
        fs::remove_dir(&base).unwrap();
        std::os::unix::fs::symlink(place.destination.path(), &base).unwrap();
        assert!(place.open("a", 1).is_none());
    }

    #[test]
    fn a_restore_that_ends_leaves_nothing() {
        let place = Place::new();
        let base = place.base.path().join("spool");
        let spool = place.open("a", 1).unwrap();
        spool.keep(segment(3), &content(7)).unwrap();
        place.open("b", 1).unwrap().keep(segment(3), &content(7)).unwrap();
        spool.remove();
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1);
        Spool::remove_all(&base, place.base.path());
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "of another destination");
        Spool::remove_all(&base, place.destination.path());
        assert!(!base.exists());
    }

    #[test]
    fn passed_segments_and_old_leftovers_are_swept() {
        let place = Place::new();
        let spool = place.open("a", 1).unwrap();
        let other = place.open("b", 1).unwrap();
        for number in 3..6 {
            spool.keep(segment(number), &content(7)).unwrap();
        }
        spool.sweep(segment(4), SystemTime::now());
        assert!(!spool.holds(segment(3)) && spool.holds(segment(4)) && spool.holds(segment(5)));
        assert!(other.folder.exists());
        spool.sweep(segment(4), SystemTime::now() + Duration::from_secs(2 * 24 * 3600));
        assert!(!other.folder.exists());
        assert!(spool.holds(segment(5)));
    }
}
