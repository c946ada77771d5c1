//! A server that means harm, over its real protocol: nothing is written outside, and nothing stays.
#![allow(clippy::unwrap_used, reason = "tests fail loudly")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use pgkeep_format::tar::{END_OF_ARCHIVE, TarEntry, TarEntryKind, padding_of};
use pgkeep_physical::base_backup::{
    BaseBackup, Destination, Manifest, Observer, Progress, Request, Slot, TablespaceMappings, WalMethod,
};
use pgkeep_tool::compress::Codec;
use pgkeep_tool::{Reporter, connect};
use pgkeep_wire::{ConnInfo, Environment, SessionMode};

struct Silent;

impl Reporter for Silent {
    fn info(&self, _: &str) {}
    fn warning(&self, _: &str) {}
    fn error(&self, _: &str) {}
}

impl Observer for Silent {
    fn tell(&self, _: &str) {}
    fn notice(&self, _: &str) {}
    fn waiting_for_checkpoint(&self) {}
    fn progress(&self, _: &Progress) {}
    fn group_access(&self, _: bool) {}
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// A result set of one row for each of `rows`.
fn result(columns: &[&str], rows: &[&[Option<&str>]]) -> Vec<u8> {
    let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
    let mut description = count.to_vec();
    for name in columns {
        description.extend_from_slice(name.as_bytes());
        description.extend_from_slice(&[0; 19]);
    }
    let mut all = message(b'T', &description);
    for row in rows {
        let mut body = count.to_vec();
        for value in *row {
            match value {
                Some(text) => {
                    body.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(text.as_bytes());
                }
                None => body.extend_from_slice(&[0xff; 4]),
            }
        }
        all.extend(message(b'D', &body));
    }
    all.extend(message(b'C', b"SELECT\0"));
    all
}

/// What the server sends in a backup.
#[derive(Clone)]
struct Script {
    tablespaces: Vec<(&'static str, String)>,
    archives: Vec<(&'static str, Vec<u8>)>,
    manifest: bool,
    /// The connection ends here instead of with the backup.
    breaks_off: bool,
}

impl Script {
    fn answers(&self) -> BTreeMap<&'static str, Vec<u8>> {
        let ready = message(b'Z', b"I");
        let show = |name: &str, value: &str| [result(&[name], &[&[Some(value)]]), ready.clone()].concat();
        let position = result(&["recptr", "tli"], &[&[Some("0/2000028"), Some("1")]]);
        let mut tablespaces: Vec<Vec<Option<&str>>> = self
            .tablespaces
            .iter()
            .map(|(oid, location)| vec![Some(*oid), Some(location.as_str()), Some("18446744073709551615")])
            .collect();
        tablespaces.push(vec![None, None, Some("18446744073709551615")]);
        let rows: Vec<&[Option<&str>]> = tablespaces.iter().map(Vec::as_slice).collect();
        let mut backup =
            [position.clone(), result(&["spcoid", "spclocation", "size"], &rows), message(b'H', &[0; 3])]
                .concat();
        for (name, bytes) in &self.archives {
            backup.extend(message(b'd', &[b"n", name.as_bytes(), b"\0\0"].concat()));
            backup.extend(message(b'd', &[b"p", &u64::MAX.to_be_bytes()[..]].concat()));
            for piece in bytes.chunks(1000) {
                backup.extend(message(b'd', &[b"d", piece].concat()));
            }
        }
        if self.manifest {
            backup.extend(message(b'd', b"m"));
            backup.extend(message(b'd', b"d{}"));
        }
        if !self.breaks_off {
            backup.extend([message(b'c', b""), position, message(b'C', b"SELECT\0"), ready.clone()].concat());
        }
        let identity = [Some("7"), Some("1"), Some("0/3000000"), None];
        BTreeMap::from([
            ("SHOW data_directory_mode", show("data_directory_mode", "0700")),
            ("SHOW wal_segment_size", show("wal_segment_size", "16MB")),
            (
                "IDENTIFY_SYSTEM",
                [result(&["systemid", "timeline", "xlogpos", "dbname"], &[&identity]), ready.clone()]
                    .concat(),
            ),
            ("BASE_BACKUP", backup),
        ])
    }
}

/// Serves one session; commands are known by how they begin.
fn serve(directory: &Path, script: &Script) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
    let answers = script.answers();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut startup = [0; 4];
        stream.read_exact(&mut startup).unwrap();
        let mut rest = vec![0; u32::from_be_bytes(startup) as usize - 4];
        stream.read_exact(&mut rest).unwrap();
        let greeting = [
            message(b'R', &[0; 4]),
            message(b'S', b"server_version\018.6\0"),
            message(b'K', &[0; 8]),
            message(b'Z', b"I"),
        ];
        stream.write_all(&greeting.concat()).unwrap();
        let mut head = [0; 5];
        while stream.read_exact(&mut head).is_ok() && head[0] == b'Q' {
            let mut text = vec![0; u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4];
            stream.read_exact(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let (_, answer) = answers.iter().find(|(command, _)| text.starts_with(**command)).unwrap();
            // The client may have had enough.
            if stream.write_all(answer).is_err() || text.starts_with("BASE_BACKUP") {
                return;
            }
        }
    })
}

fn entry(path: &str, kind: TarEntryKind, link: &str, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    let entry = TarEntry {
        path: path.as_bytes().to_vec(),
        kind,
        size,
        mode: 0o777,
        mtime: 0,
        link: link.as_bytes().to_vec(),
    };
    let mut bytes = entry.header().unwrap();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::try_from(padding_of(size)).unwrap(), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), END_OF_ARCHIVE.to_vec()].concat()
}

fn file(path: &str) -> Vec<u8> {
    entry(path, TarEntryKind::File, "", b"content")
}

fn directory(path: &str) -> Vec<u8> {
    entry(path, TarEntryKind::Directory, "", b"")
}

fn link(path: &str, target: &Path) -> Vec<u8> {
    entry(path, TarEntryKind::Symlink, target.to_str().unwrap(), b"")
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("victim")).unwrap();
        fs::write(place.path("victim/keys"), "mine").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a backup, with the clean-up of a failed one.
    fn back_up(&self, script: &Script, plain: bool) -> Result<(), String> {
        let sockets = tempfile::tempdir().unwrap();
        let server = serve(sockets.path(), script);
        let text = format!("host={} user=x", sockets.path().display());
        let info = ConnInfo::resolve(Some(&text), &Environment::from_iter([("X", "")], None)).unwrap();
        let connection = connect(&info, SessionMode::PhysicalReplication).unwrap();
        let directory = self.path("backup");
        let destination = if plain {
            let mut mappings = TablespaceMappings::default();
            mappings.add(format!("/server/ts={}", self.path("ts").display()).as_ref()).unwrap();
            Destination::Plain { directory, wal_directory: None, mappings }
        } else {
            Destination::Tar { directory, codec: Codec::default(), threads: 1 }
        };
        let request = Request {
            label: "x".to_owned(),
            fast_checkpoint: true,
            estimate_size: true,
            max_rate_kib: None,
            verify_checksums: true,
            manifest: Some(Manifest { force_encode: false, checksums: None }),
            incremental_from: None,
            destination,
            server_compression: None,
            wal: WalMethod::None,
            slot: Slot::None,
            status_every: None,
            recovery: None,
            sync: None,
            clean: true,
        };
        let mut backup = BaseBackup::new(&request);
        let outcome = backup.run(request, &info, connection, &AtomicBool::new(false), &Silent);
        if outcome.is_err() {
            backup.clean_up(&Silent);
        }
        server.join().unwrap();
        assert_eq!(fs::read_dir(self.path("victim")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(self.path("victim/keys")).unwrap(), "mine");
        outcome.map_err(|error| error.message)
    }
}

fn honest() -> Script {
    Script {
        tablespaces: vec![("16384", "/server/ts".to_owned())],
        archives: vec![
            ("16384.tar", archive(&[directory("PG_18_1"), file("PG_18_1/1")])),
            (
                "base.tar",
                archive(&[
                    directory("pg_tblspc"),
                    link("pg_tblspc/16384", Path::new("/server/ts")),
                    file("PG_VERSION"),
                ]),
            ),
        ],
        manifest: true,
        breaks_off: false,
    }
}

#[test]
fn an_honest_server_is_copied() {
    let place = Place::new();
    place.back_up(&honest(), true).unwrap();
    assert!(place.path("ts/PG_18_1/1").is_file() && place.path("backup/backup_manifest").is_file());
    assert_eq!(fs::read_link(place.path("backup/pg_tblspc/16384")).unwrap(), place.path("ts"));
    fs::remove_dir_all(place.path("backup")).unwrap();
    place.back_up(&honest(), false).unwrap();
    assert!(place.path("backup/base.tar").is_file() && place.path("backup/16384.tar").is_file());
}

/// What a server does to harm, and whether only a plain backup is concerned: an archive is kept as it is, harm included.
fn cases(victim: &Path) -> Vec<(bool, Script)> {
    let with_base = |entries: &[Vec<u8>]| {
        let mut script = honest();
        script.archives[1].1 = archive(entries);
        script
    };
    let changed = |change: &dyn Fn(&mut Script)| {
        let mut script = honest();
        change(&mut script);
        script
    };
    vec![
        (true, with_base(&[link("pg_wal", victim), file("pg_wal/keys")])),
        (true, with_base(&[link("base", victim), file("PG_VERSION")])),
        (true, with_base(&[directory("pg_tblspc"), link("pg_tblspc/16384", victim)])),
        (true, with_base(&[directory("pg_tblspc"), link("pg_tblspc/1", victim)])),
        (true, with_base(&[file("PG_VERSION"), file("PG_VERSION")])),
        (true, with_base(&[file("backup_manifest.tmp")])),
        (true, changed(&|script| script.tablespaces[0].1 = "base/../../victim".to_owned())),
        (true, changed(&|script| script.tablespaces[0].1 = "/server/../ts".to_owned())),
        (true, changed(&|script| script.archives[1].1.truncate(700))),
        (false, changed(&|script| script.archives[0].0 = "16385.tar/../x")),
        (false, changed(&|script| drop(script.archives.remove(0)))),
        (false, changed(&|script| script.archives.push(("base.tar", archive(&[file("x")]))))),
        (false, changed(&|script| script.manifest = false)),
        (false, changed(&|script| script.breaks_off = true)),
    ]
}

#[test]
fn harm_is_refused_and_nothing_stays() {
    let count = cases(Path::new("/")).len();
    for (number, plain) in (0..count).flat_map(|number| [(number, true), (number, false)]) {
        let place = Place::new();
        let (only_plain, script) = cases(&place.path("victim")).remove(number);
        let outcome = place.back_up(&script, plain);
        if plain || !only_plain {
            assert!(outcome.is_err(), "{number} {plain}");
            let left: Vec<_> =
                fs::read_dir(place.0.path()).unwrap().map(|left| left.unwrap().file_name()).collect();
            assert_eq!(left, ["victim"], "{number} {plain}: {outcome:?}");
        } else {
            assert_eq!(outcome, Ok(()), "{number}");
        }
    }
}
