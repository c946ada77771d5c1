use proptest::prelude::*;

use super::*;

struct NoDigest;

impl Sha256 for NoDigest {
    fn update(&mut self, _: &[u8]) {}

    fn finish(self) -> [u8; 32] {
        [0; 32]
    }
}

fn complaint(text: &str, piece: usize) -> String {
    let mut reader = ManifestReader::new(NoDigest);
    let take = &mut |_| Ok::<(), PgManifestError>(());
    let read = text
        .as_bytes()
        .chunks(piece)
        .try_for_each(|bytes| reader.feed(bytes, take))
        .and_then(|()| reader.finish(take));
    read.unwrap_err().to_string()
}

const VERSION: &str = r#""PostgreSQL-Backup-Manifest-Version": 1"#;

#[test]
fn complaints_are_postgresqls_in_its_order() {
    let file = |fields: &str| format!("{{{VERSION}, \"Files\": [{{{fields}}}]}}\n");
    let range = |fields: &str| format!("{{{VERSION}, \"WAL-Ranges\": [{{{fields}}}]}}\n");
    let parse_errors = [
        ("{\n".to_owned(), "The input string ended unexpectedly."),
        ("{}\n".to_owned(), "unexpected object end"),
        ("{} x\n".to_owned(), "Token \"x\" is invalid."),
        ("{} 1\n".to_owned(), "unexpected object end"),
        ("[]\n".to_owned(), "unexpected array start"),
        ("1\n".to_owned(), "unexpected scalar"),
        ("{1}\n".to_owned(), "Expected string or \"}\", but found \"1\"."),
        ("{\"a\" 1}\n".to_owned(), "Expected \":\", but found \"1\"."),
        ("{\"a\": }\n".to_owned(), "expected version indicator"),
        (format!("{{{VERSION} \"x\"}}\n"), "Expected \",\" or \"}\", but found \"\"x\"\"."),
        (format!("{{{VERSION}, 1}}\n"), "Expected string, but found \"1\"."),
        (format!("{{{VERSION}, \"Files\": [}}\n"), "Expected array element or \"]\", but found \"}\"."),
        (format!("{{{VERSION}, \"Files\": [[\n"), "unexpected array start"),
        (format!("{{{VERSION}, \"Files\": true}}\n"), "unexpected scalar"),
        (format!("{{{VERSION}, \"Files\": {{}}}}\n"), "unexpected object start"),
        (format!("{{{VERSION}, \"Oops\": 1}}\n"), "unrecognized top-level field"),
        (VERSION.replace('1', "9876599"), "unexpected scalar"),
        (format!("{{{}}}", VERSION.replace('1', "9876599")), "unexpected manifest version"),
        (format!("{{{}}}", VERSION.replace('1', "\"x\"")), "manifest version not an integer"),
        (file(""), "missing path name"),
        (file(r#""Path": "x", "Encoded-Path": "12""#), "both path name and encoded path name"),
        (file(r#""Oops": 1"#), "unexpected file field"),
        (file(r#""Path": "x""#), "missing size"),
        (file(r#""Path": "x", "Size": "Oops""#), "file size is not an integer"),
        (file(r#""Path": "x", "Size": 99999999999999999999"#), "file size is not an integer"),
        (file(r#""Encoded-Path": "123", "Size": 0"#), "could not decode file name"),
        (file(r#""Path": "x", "Size": 1, "Checksum": "Oops""#), "checksum without algorithm"),
        (range(""), "missing timeline"),
        (range(r#""Timeline": 1"#), "missing start LSN"),
        (range(r#""Timeline": 1, "Start-LSN": "0/0""#), "missing end LSN"),
        (range(r#""Oops": 1"#), "unexpected WAL range field"),
        (range(r#""Timeline": true, "Start-LSN": "0/0", "End-LSN": "0/0""#), "timeline is not an integer"),
        (range(r#""Timeline": 1, "Start-LSN": "oops", "End-LSN": "0/0""#), "could not parse start LSN"),
        (range(r#""Timeline": 1, "Start-LSN": "0/0", "End-LSN": "oops""#), "could not parse end LSN"),
        (format!("{{{VERSION}, \"Manifest-Checksum\": null}}\n"), "expected at least 2 lines"),
        (format!("{{{VERSION},\n\n\"Manifest-Checksum\": null}}"), "last line not newline-terminated"),
    ];
    for (text, expected) in &parse_errors {
        for piece in [1, 2, 7, 10_000] {
            let expected = format!("could not parse backup manifest: {expected}");
            assert_eq!(complaint(text, piece), expected, "{text}");
        }
    }
    for (text, expected) in [
        (
            file(r#""Path": "x", "Size": 1, "Checksum-Algorithm": "Oops", "Checksum": "00""#),
            "unrecognized checksum algorithm: \"Oops\"",
        ),
        (
            file(r#""Path": "x", "Size": 1, "Checksum-Algorithm": "crc32c", "Checksum": "0""#),
            "invalid checksum for file \"x\": \"0\"",
        ),
        (format!("{{{VERSION},\n\"Manifest-Checksum\": \"x\"}}\n"), "invalid manifest checksum: \"x\""),
        (
            format!("{{{VERSION},\n\"Manifest-Checksum\": \"{}\"}}\n", "1".repeat(64)),
            "manifest checksum mismatch",
        ),
    ] {
        assert_eq!(complaint(&text, 5), expected, "{text}");
    }
}

const WHOLE: &str = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\"Files\": [\n\
    { \"Path\": \"a/b\", \"Size\": 3, \"Last-Modified\": \"x\", \"Checksum-Algorithm\": \"CRC32C\", \
    \"Checksum\": \"994e7be2\" },\n{ \"Encoded-Path\": \"ff\", \"Size\": \"5\" }\n],\n\"WAL-Ranges\": [\n\
    { \"Timeline\": 1, \"Start-LSN\": \"0/28\", \"End-LSN\": \"1/0\" }\n],\n\
    \"Manifest-Checksum\": \"0000000000000000000000000000000000000000000000000000000000000000\"}\n";

fn items(text: &[u8], piece: usize) -> (Vec<ManifestItem>, Result<(), PgManifestError>) {
    let (mut reader, mut items) = (ManifestReader::new(NoDigest), Vec::new());
    let mut take = |item| {
        items.push(item);
        Ok::<(), PgManifestError>(())
    };
    let read = text
        .chunks(piece)
        .try_for_each(|bytes| reader.feed(bytes, &mut take))
        .and_then(|()| reader.finish(&mut take));
    (items, read)
}

proptest! {
    #[test]
    fn it_does_not_matter_where_bytes_are_cut(
        place in 0..WHOLE.len(),
        damage in prop::option::of(prop::collection::vec(any::<u8>(), 0..4)),
        piece in 1_usize..50,
    ) {
        let mut text = WHOLE.as_bytes().to_vec();
        let is_whole = damage.is_none();
        if let Some(damage) = damage {
            text.splice(place..=place, damage);
        }
        let all = items(&text, text.len().max(1));
        prop_assert_eq!(items(&text, piece), all.clone());
        if is_whole {
            prop_assert_eq!(all.0.len(), 5);
            prop_assert!(all.1.is_ok());
        }
    }
}

#[test]
fn nothing_nests_deeper_than_a_manifest() {
    assert!(complaint(&"[".repeat(1 << 20), 4096).ends_with("unexpected array start"));
    assert!(complaint(&"{\"a\":".repeat(1 << 20), 4096).ends_with("expected version indicator"));
}
