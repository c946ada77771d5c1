//! Archives made up here and archives made to hurt: whole, cut anywhere, with lying headers and paths that climb.

use proptest::prelude::*;

use super::*;

/// An entry and its contents.
type Member = (TarEntry, Vec<u8>);

fn file(path: &str, size: u64) -> TarEntry {
    TarEntry {
        path: path.into(),
        kind: TarEntryKind::File,
        size,
        mode: 0o600,
        mtime: 1_700_000_000,
        link: vec![],
    }
}

fn directory(path: &str) -> TarEntry {
    TarEntry { kind: TarEntryKind::Directory, mode: 0o700, ..file(path, 0) }
}

fn link(path: &str, target: &str) -> TarEntry {
    TarEntry { kind: TarEntryKind::Symlink, mode: 0o777, link: target.into(), ..file(path, 0) }
}

/// An archive of these entries, without end blocks.
fn archive(entries: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (entry, contents) in entries {
        bytes.extend(entry.header().unwrap());
        bytes.extend_from_slice(contents);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes
}

/// Reads an archive that arrives in pieces of `step` bytes.
fn read(bytes: &[u8], step: usize) -> Result<(Vec<Member>, bool), TarError> {
    let mut reader = TarReader::new();
    let mut entries: Vec<Member> = Vec::new();
    let mut is_open = false;
    for mut piece in bytes.chunks(step.max(1)) {
        while let Some(event) = reader.next(&mut piece)? {
            match event {
                TarEvent::Entry(entry) => {
                    assert!(!is_open);
                    is_open = true;
                    entries.push((entry, vec![]));
                }
                TarEvent::Data(data) => {
                    assert!(is_open && !data.is_empty());
                    entries.last_mut().unwrap().1.extend_from_slice(data);
                }
                TarEvent::EndOfEntry => {
                    assert!(is_open);
                    is_open = false;
                    let (entry, contents) = entries.last().unwrap();
                    assert_eq!(entry.size, contents.len() as u64);
                }
            }
        }
        assert!(piece.is_empty());
    }
    let has_ended = reader.has_ended();
    reader.finish()?;
    Ok((entries, has_ended))
}

/// A header with some of its bytes replaced and the checksum made right again.
fn forged(entry: &TarEntry, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = entry.header().unwrap();
    block[at..at + bytes.len()].copy_from_slice(bytes);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// An extended header of type `letter` with these contents.
fn extension(letter: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = forged(&file("extension", contents.len() as u64), 156, &[letter]);
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// A pax record.
fn record(keyword: &str, value: &str) -> String {
    let rest = format!(" {keyword}={value}\n");
    let length = (rest.len()..).find(|length| length.to_string().len() + rest.len() == *length).unwrap();
    format!("{length}{rest}")
}

fn refusal(bytes: &[u8]) -> TarError {
    read(bytes, BLOCK).unwrap_err()
}

#[test]
fn end_blocks_may_be_missing_but_nothing_else() {
    let bytes = archive(&[(directory("base"), vec![]), (file("base/1", 700), vec![7; 700])]);
    let (entries, has_ended) = read(&bytes, 100).unwrap();
    assert_eq!((entries.len(), has_ended), (2, false));
    let whole = [&bytes[..], &END_OF_ARCHIVE].concat();
    assert!(read(&whole, 100).unwrap().1);
    assert!(read(&[&whole[..], &[0; 9000]].concat(), 100).unwrap().1);
    for length in [1, 511, 513, 1024, bytes.len() - 1, whole.len() - 1] {
        let cut = whole[..length].len();
        let is_boundary = [512, bytes.len(), bytes.len() + 512].contains(&cut);
        assert_eq!(read(&whole[..length], 100).is_ok(), is_boundary, "{length}");
    }
    assert!(matches!(refusal(&[&whole[..], b"x"].concat()), TarError::TrailingData { .. }));
    assert!(matches!(refusal(&[&[0; 512], &bytes[..]].concat()), TarError::TrailingData { .. }));
}

#[test]
fn paths_come_in_one_form() {
    for (path, expected) in [("./base/1", "base/1"), ("a//b/./c", "a/b/c"), (".//a", "a")] {
        let bytes = forged(&file(&"x".repeat(path.len()), 0), 0, path.as_bytes());
        assert_eq!(read(&bytes, BLOCK).unwrap().0[0].0.path, expected.as_bytes());
    }
    let root = forged(&directory("x"), 0, b"./\0");
    assert_eq!(read(&root, BLOCK).unwrap().0[0].0.path, b".");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["/etc/passwd", "..", "../x", "a/../../x", "a/..", "./../x", "./", ".", "a/"] {
        let bytes = forged(&file(&"x".repeat(path.len()), 0), 0, path.as_bytes());
        assert!(matches!(refusal(&bytes), TarError::UnsafePath { .. }), "{path}");
        assert!(path == "a/" || path == "." || path == "./" || file(path, 0).header().is_err(), "{path}");
    }
    let empty = forged(&file("x", 0), 0, b"\0");
    assert!(matches!(refusal(&empty), TarError::UnsafePath { .. }));
    // Halves that are harmless alone.
    let mut halves = forged(&file("x/y", 0), 345, b"..");
    assert!(matches!(refusal(&halves), TarError::UnsafePath { .. }));
    halves = forged(&file("x/y", 0), 345, b"/etc");
    assert!(matches!(refusal(&halves), TarError::UnsafePath { .. }));
    for path in ["a/../../b", "/etc", "a\0", "", ".."] {
        let bytes =
            [extension(b'x', record("path", path).as_bytes()), file("x", 0).header().unwrap()].concat();
        assert!(matches!(refusal(&bytes), TarError::UnsafePath { .. }), "{path}");
    }
    let gnu = [extension(b'L', b"../x\0"), file("x", 0).header().unwrap()].concat();
    assert!(matches!(refusal(&gnu), TarError::UnsafePath { .. }));
}

#[test]
fn a_link_may_point_anywhere_but_nothing_goes_through_it() {
    let entry = link("pg_tblspc/16394", "/mnt/space");
    let bytes = archive(&[(entry.clone(), vec![])]);
    assert_eq!(read(&bytes, BLOCK).unwrap().0[0].0, entry);
    for next in [
        file("pg_tblspc/16394", 0),
        file("pg_tblspc/16394/x", 0),
        directory("pg_tblspc/16394/x/y"),
        link("pg_tblspc/16394", "/etc"),
    ] {
        let bytes = archive(&[(entry.clone(), vec![]), (next, vec![])]);
        assert!(matches!(refusal(&bytes), TarError::ThroughLink { .. }));
    }
    let beside = archive(&[(entry, vec![]), (file("pg_tblspc/163940", 0), vec![])]);
    assert!(read(&beside, BLOCK).is_ok());
    for target in ["..", "../x", "/a/../b", "a/.."] {
        let bytes = forged(&link("x", &"y".repeat(target.len())), 157, target.as_bytes());
        assert!(matches!(refusal(&bytes), TarError::UnsafeLink { .. }), "{target}");
    }
    assert!(matches!(refusal(&forged(&link("x", "y"), 157, b"\0")), TarError::UnsafeLink { .. }));
}

#[test]
fn numbers_are_octal_or_base_256_and_fit() {
    let sized = |bytes: &[u8]| forged(&file("x", 0), 124, bytes);
    let size_of = |bytes: &[u8]| {
        let mut reader = TarReader::new();
        match reader.next(&mut &sized(bytes)[..]) {
            Ok(Some(TarEvent::Entry(entry))) => Some(entry.size),
            Err(TarError::BadNumber { field: "size", position: 0 }) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(size_of(b"00000000017\0"), Some(15));
    assert_eq!(size_of(b"         17 "), Some(15));
    assert_eq!(size_of(b"777777777777"), Some(0o777_777_777_777));
    assert_eq!(size_of(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]), Some((2 << 32) + 1));
    assert_eq!(size_of(&[0x80, 0, 0, 0, 0x7F, 255, 255, 255, 255, 255, 255, 255]), Some(i64::MAX as u64));
    for bad in [
        [0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0],
        [0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0xFF; 12],
        [0x81; 12],
        *b"00000000018\0",
        *b"-0000000001\0",
        *b"0000 000001\0",
        *b"            ",
        [0; 12],
    ] {
        assert_eq!(size_of(&bad), None, "{bad:?}");
    }
    let huge = |size| TarEntry { size, ..file("x", 0) }.header();
    assert!(huge(i64::MAX as u64).is_ok());
    assert_eq!(huge(1 << 63), Err(TarError::BadNumber { field: "size", position: 0 }));
}

#[test]
fn what_no_server_sends_is_refused() {
    for letter in *b"13467SMV\x01" {
        let bytes = forged(&file("x", 0), 156, &[letter]);
        assert!(matches!(refusal(&bytes), TarError::Unsupported { .. }), "{letter}");
    }
    assert!(matches!(refusal(&[b'x'; 512]), TarError::BadHeader { position: 0 }));
    let old = forged(&file("x", 0), 257, &[0; 8]);
    assert!(matches!(refusal(&old), TarError::BadHeader { .. }));
    for entry in [directory("x"), link("x", "y")] {
        let bytes = forged(&entry, 124, b"00000000001\0");
        assert!(matches!(refusal(&bytes), TarError::UnexpectedContents { .. }));
    }
}

#[test]
fn long_names_come_by_either_extension() {
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(120));
    let target = format!("/{}", "t".repeat(300));
    let entries =
        [(file(&long, 3), b"abc".to_vec()), (directory(&long[..150]), vec![]), (link("l", &target), vec![])];
    assert_eq!(read(&archive(&entries), 13).unwrap().0, entries);
    let gnu = [
        extension(b'K', format!("{target}\0").as_bytes()),
        extension(b'L', format!("{long}\0").as_bytes()),
        link("short", "shorter").header().unwrap(),
    ]
    .concat();
    assert_eq!(read(&gnu, 17).unwrap().0[0].0, link(&long, &target));
    // The extension counts for one entry only.
    let two = [gnu, file("short", 0).header().unwrap()].concat();
    assert_eq!(read(&two, 17).unwrap().0[1].0, file("short", 0));
}

#[test]
fn pax_records_replace_size_and_time() {
    let records = [record("size", "3"), record("mtime", "-1234.56789"), record("uname", "nobody")].concat();
    let bytes =
        [extension(b'x', records.as_bytes()), file("x", 0).header().unwrap(), b"abc".to_vec(), vec![0; 509]];
    let (entries, _) = read(&bytes.concat(), 99).unwrap();
    assert_eq!(entries, [(TarEntry { mtime: -1234, ..file("x", 3) }, b"abc".to_vec())]);
}

#[test]
fn malformed_extensions_are_refused() {
    for records in [
        "x",
        "6 a=b",
        "8 path=a\n",
        "7 path=a\n",
        "0 \n",
        "99 path=a\n",
        "99999999999999999999 path=a\n",
        "7 pathx\n",
        &record("size", "x"),
        &record("size", "-1"),
        &record("size", "99999999999999999999"),
        &record("mtime", "x"),
        &record("mtime", "--1"),
    ] {
        let bytes = [extension(b'x', records.as_bytes()), file("x", 0).header().unwrap()].concat();
        assert!(matches!(refusal(&bytes), TarError::BadExtension { .. }), "{records}");
    }
    let twice = [extension(b'x', b""), extension(b'x', b""), file("x", 0).header().unwrap()].concat();
    assert!(matches!(refusal(&twice), TarError::BadExtension { .. }));
    let sparse =
        [extension(b'x', record("GNU.sparse.major", "1").as_bytes()), file("x", 0).header().unwrap()]
            .concat();
    assert!(matches!(refusal(&sparse), TarError::Unsupported { .. }));
    assert!(matches!(
        refusal(&extension(b'g', record("path", "a").as_bytes())),
        TarError::BadExtension { .. }
    ));
    assert!(read(&extension(b'g', record("comment", "a").as_bytes()), BLOCK).is_ok());
    assert!(matches!(refusal(&extension(b'L', b"a")), TarError::Truncated { .. }));
    let cut = [extension(b'L', b"a"), END_OF_ARCHIVE.to_vec()].concat();
    assert!(matches!(refusal(&cut), TarError::Truncated { .. }));
}

#[test]
fn an_extension_cannot_take_all_memory() {
    let mut header = forged(&file("x", MAX_EXTENSION_LENGTH + 1), 156, b"x");
    assert!(matches!(refusal(&header), TarError::NameTooLong { position: 0 }));
    header = [extension(b'L', &[b'a'; MAX_PATH_LENGTH + 1]), file("x", 0).header().unwrap()].concat();
    assert!(matches!(refusal(&header), TarError::NameTooLong { .. }));
}

fn entries() -> impl Strategy<Value = Vec<Member>> {
    let path = prop_oneof!["[a-z]{1,8}(/[a-z0-9]{1,8}){0,3}", "[a-z]{60,160}(/[a-z]{60,160}){0,2}"];
    let contents = prop::collection::vec(any::<u8>(), 0..1500);
    let entry = (path, contents, 0..3, 0u32..0o10000, any::<i64>(), "/?[a-z]{1,130}");
    prop::collection::vec(entry, 0..6).prop_map(|entries| {
        let make =
            |(index, (path, contents, kind, mode, mtime, target)): (usize, (_, _, _, _, _, String))| {
                // A prefix of its own keeps an entry from leading through another one that is a link.
                let path = format!("{index}{path}");
                let contents: Vec<u8> = contents;
                let (entry, contents) = match kind {
                    0 => (directory(&path), vec![]),
                    1 => (link(&path, &target), vec![]),
                    _ => (file(&path, contents.len() as u64), contents),
                };
                (TarEntry { mode, mtime, ..entry }, contents)
            };
        entries.into_iter().enumerate().map(make).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_in_pieces_of_any_size(entries in entries(), step in 1usize..2000, ends: bool) {
        let mut bytes = archive(&entries);
        if ends {
            bytes.extend_from_slice(&END_OF_ARCHIVE);
        }
        prop_assert_eq!(read(&bytes, step), Ok((entries, ends)));
    }

    #[test]
    fn damaged_archives_do_no_harm(
        entries in entries(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = [archive(&entries), END_OF_ARCHIVE.to_vec()].concat();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        drop(read(&bytes, 1000));
    }

    /// Garbage seldom has the right checksum, so this gives it one.
    #[test]
    fn arbitrary_headers_do_no_harm(
        garbage in prop::collection::vec(any::<u8>(), 1..512), at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(512 - garbage.len() + 1);
        drop(read(&forged(&file("x", 0), at, &garbage), 512));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
        drop(read(&bytes, 100));
        drop(read(&extension(b'x', &bytes), 512));
    }
}
