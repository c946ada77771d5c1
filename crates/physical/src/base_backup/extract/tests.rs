//! Archives of servers that mean harm, and such as do not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use pgkeep_format::tar::{END_OF_ARCHIVE, padding_of};

use super::*;

fn entry(path: &str, kind: TarEntryKind, link: &str, content: &[u8]) -> Vec<u8> {
    let entry = TarEntry {
        path: path.as_bytes().to_vec(),
        kind,
        size: content.len() as u64,
        mode: 0o600,
        mtime: 0,
        link: link.as_bytes().to_vec(),
    };
    let mut bytes = entry.header().unwrap();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + padding_of(content.len() as u64) as usize, 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(path, TarEntryKind::File, "", content.as_bytes())
}

fn directory(path: &str) -> Vec<u8> {
    entry(path, TarEntryKind::Directory, "", b"")
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(path, TarEntryKind::Symlink, target, b"")
}

/// A header with a path that our own writer refuses.
fn forged(path: &str) -> Vec<u8> {
    let mut bytes = file("x", "");
    bytes[..path.len()].copy_from_slice(path.as_bytes());
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for name in ["data", "outside", "wal"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        fs::write(place.path("outside/file"), "safe").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn extract(&self, entries: &[Vec<u8>], data: DataDirectory) -> Result<()> {
        let mut extractor = Box::new(Extractor::new(&self.path("data"), data)?);
        let archive = [entries.concat(), END_OF_ARCHIVE.to_vec()].concat();
        for piece in archive.chunks(700) {
            extractor.write(piece)?;
        }
        extractor.finish()
    }

    fn assert_untouched(&self) {
        assert_eq!(fs::read_dir(self.path("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(self.path("outside/file")).unwrap(), "safe");
    }
}

fn with_tablespace(place: &Place) -> DataDirectory {
    let links = BTreeMap::from([(16_384, (PathBuf::from("/server/ts"), place.path("outside")))]);
    DataDirectory { links, ..DataDirectory::default() }
}

#[test]
fn files_directories_and_tablespace_links() {
    let place = Place::new();
    let entries = [
        directory("base"),
        directory("base/1"),
        file("base/1/16384", "table"),
        directory("pg_tblspc"),
        link("pg_tblspc/16384", "/server/ts"),
        file("PG_VERSION", "18\n"),
    ];
    place.extract(&entries, with_tablespace(&place)).unwrap();
    assert_eq!(fs::read_to_string(place.path("data/base/1/16384")).unwrap(), "table");
    assert_eq!(fs::read_link(place.path("data/pg_tblspc/16384")).unwrap(), place.path("outside"));
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("data/PG_VERSION"), 0o600);
    assert_eq!(mode("data/base/1"), 0o700, "we can still write into it");
}

#[test]
fn nothing_is_written_outside() {
    let place = Place::new();
    let outside = place.path("outside").display().to_string();
    for entries in [
        vec![forged("../outside/file2")],
        vec![forged("/etc/x")],
        vec![directory("a"), forged("a/../../outside/file2")],
        // Links to anywhere but a tablespace of the list.
        vec![link("base", &outside)],
        vec![link("pg_wal", &outside)],
        vec![directory("pg_tblspc"), link("pg_tblspc/1", &outside)],
        vec![directory("pg_tblspc"), link("pg_tblspc/16384", &outside)],
        vec![directory("pg_tblspc"), link("pg_tblspc/+16384", "/server/ts")],
        vec![directory("pg_tblspc"), link("pg_tblspc/016384", "/server/ts")],
        // Through a link that is right, in its own archive.
        vec![
            directory("pg_tblspc"),
            link("pg_tblspc/16384", "/server/ts"),
            file("pg_tblspc/16384/file2", "x"),
        ],
        vec![directory("pg_tblspc"), link("pg_tblspc/16384", "/server/ts"), file("pg_tblspc/16384", "x")],
        vec![file("base/1/without-directory", "x")],
        vec![file("twice", "x"), file("twice", "y")],
        vec![directory("twice"), directory("twice")],
    ] {
        fs::remove_dir_all(place.path("data")).unwrap();
        fs::create_dir(place.path("data")).unwrap();
        assert!(place.extract(&entries, with_tablespace(&place)).is_err());
        place.assert_untouched();
    }
}

#[test]
fn links_that_are_there_are_not_followed() {
    let place = Place::new();
    symlink(place.path("outside"), place.path("data/base")).unwrap();
    symlink(place.path("outside/file"), place.path("data/PG_VERSION")).unwrap();
    symlink(place.path("outside"), place.path("data/pg_wal")).unwrap();
    for entries in [
        vec![file("base/file2", "x")],
        vec![file("PG_VERSION", "x")],
        vec![directory("pg_wal"), file("pg_wal/file2", "x")],
    ] {
        assert!(place.extract(&entries, DataDirectory::default()).is_err());
        place.assert_untouched();
    }
    symlink(place.path("outside/file"), place.path("data/postgresql.auto.conf")).unwrap();
    let standby =
        DataDirectory { standby: Some(b"x".to_vec()), file_mode: 0o600, ..DataDirectory::default() };
    assert!(place.extract(&[], standby).is_err());
    place.assert_untouched();
}

#[test]
fn wal_goes_where_its_link_leads() {
    let place = Place::new();
    symlink(place.path("wal"), place.path("data/pg_wal")).unwrap();
    let data = DataDirectory { wal: Some(place.path("wal")), ..DataDirectory::default() };
    let entries = [directory("pg_wal"), directory("pg_wal/archive_status"), file("pg_wal/seg", "wal")];
    place.extract(&entries, data).unwrap();
    assert_eq!(fs::read_to_string(place.path("wal/seg")).unwrap(), "wal");
}

#[test]
fn a_standby_gets_its_settings_behind_the_others() {
    let place = Place::new();
    let standby =
        || DataDirectory { standby: Some(b"b = 2\n".to_vec()), file_mode: 0o640, ..DataDirectory::default() };
    let entries = [file(SETTINGS_FILE, "a = 1\n"), file(SIGNAL_FILE, "not ours")];
    place.extract(&entries, standby()).unwrap();
    assert_eq!(fs::read_to_string(place.path("data/postgresql.auto.conf")).unwrap(), "a = 1\nb = 2\n");
    assert_eq!(fs::read(place.path("data/standby.signal")).unwrap(), b"");
}

#[test]
fn an_archive_that_stops_within_a_file_is_refused() {
    let place = Place::new();
    let mut extractor = Box::new(Extractor::new(&place.path("data"), DataDirectory::default()).unwrap());
    extractor.write(&file("f", "content")[..514]).unwrap();
    assert!(extractor.finish().is_err());
}
