//! Reading a manifest piece by piece, with the limits and the order of complaints of PostgreSQL's own reader
//! (`common/parse_manifest.c`, 18): whoever sees a complaint finds it in PostgreSQL's documentation and source.
//!
//! What the reader gives out is not proved before [`ManifestReader::finish`] has compared the checksum.

use super::json::{Word, Words};
use super::{
    ChecksumAlgorithm, MAX_MANIFEST_LENGTH, ManifestChecksum, ManifestFile, ManifestWalRange,
    PgManifestError, Sha256, from_hex,
};
use crate::{TimelineId, relative_path};

/// The bytes of two lines, of which the last two of a manifest are kept until its end.
const MAX_LINES: usize = 64 << 20;

/// A part of a manifest, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestItem {
    /// 1 or 2.
    Version(u32),
    /// Which cluster.
    SystemIdentifier(u64),
    /// A file. Its checksum may have another length than its algorithm makes.
    File(ManifestFile),
    /// A stretch of WAL.
    WalRange(ManifestWalRange),
}

/// Reads a manifest from pieces cut anywhere.
#[derive(Debug)]
pub struct ManifestReader<H> {
    words: Words,
    grammar: Grammar,
    meaning: Meaning,
    covered: CoveredBytes<H>,
}

impl<H: Sha256> ManifestReader<H> {
    /// A reader at the start; `sha256` is fresh.
    #[must_use]
    pub fn new(sha256: H) -> ManifestReader<H> {
        ManifestReader {
            words: Words::default(),
            grammar: Grammar::default(),
            meaning: Meaning::default(),
            covered: CoveredBytes { sha256, length: 0, lines: Vec::new(), last_line: 0, newlines: 0 },
        }
    }

    /// Takes the next bytes and hands out what they complete.
    ///
    /// # Errors
    /// When the bytes are no manifest, or `take` refuses something. The reader is of no more use then.
    pub fn feed<E: From<PgManifestError>>(
        &mut self,
        bytes: &[u8],
        take: &mut impl FnMut(ManifestItem) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut input = bytes;
        while let Some(word) = self.words.next(&mut input).map_err(malformed)? {
            self.word(word, take)?;
        }
        Ok(self.covered.take(bytes)?)
    }

    /// The manifest is over: it must be complete, and its checksum right.
    ///
    /// # Errors
    /// See there.
    pub fn finish<E: From<PgManifestError>>(
        mut self,
        take: &mut impl FnMut(ManifestItem) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let word = self.words.finish().map_err(malformed)?;
            let is_end = word == Word::End;
            self.word(word, take)?;
            if is_end {
                break;
            }
        }
        if self.meaning.place != Place::Eof {
            Err(malformed("manifest ended unexpectedly"))?;
        }
        Ok(self.covered.check(&self.meaning.checksum)?)
    }

    fn word<E: From<PgManifestError>>(
        &mut self,
        word: Word,
        take: &mut impl FnMut(ManifestItem) -> Result<(), E>,
    ) -> Result<(), E> {
        // PostgreSQL acts on a word when it has read the one after it.
        if let Some(act) = self.grammar.pending.take()
            && let Some(item) = self.meaning.act(act)?
        {
            take(item)?;
        }
        if let Some(act) = self.grammar.next(word, &self.words)?
            && let Some(item) = self.meaning.act(act)?
        {
            take(item)?;
        }
        Ok(())
    }
}

fn malformed(text: impl Into<String>) -> PgManifestError {
    PgManifestError::Malformed(text.into())
}

/// What a word does.
#[derive(Debug)]
enum Act {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Field(Vec<u8>),
    Scalar(Vec<u8>),
}

/// Which word may come next.
#[derive(Debug, Default)]
struct Grammar {
    expected: Expected,
    /// Whether the enclosing values are objects. No deeper than a manifest is: the meaning refuses anything else.
    nesting: Vec<bool>,
    field: Vec<u8>,
    pending: Option<Act>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Expected {
    #[default]
    Value,
    ArrayFirst,
    ArrayNext,
    ObjectFirst,
    ObjectNext,
    Field,
    Colon,
    End,
}

impl Expected {
    fn text(self) -> &'static str {
        match self {
            Expected::Value => "JSON value",
            Expected::ArrayFirst => "array element or \"]\"",
            Expected::ArrayNext => "\",\" or \"]\"",
            Expected::ObjectFirst => "string or \"}\"",
            Expected::ObjectNext => "\",\" or \"}\"",
            Expected::Field => "string",
            Expected::Colon => "\":\"",
            Expected::End => "end of input",
        }
    }
}

impl Grammar {
    /// What the word does at once; what it does later is left in `pending`.
    fn next(&mut self, word: Word, words: &Words) -> Result<Option<Act>, PgManifestError> {
        match (self.expected, word) {
            (Expected::ObjectFirst | Expected::Field, Word::Text(name)) => {
                self.field = name;
                self.expected = Expected::Colon;
            }
            (Expected::Colon, Word::Colon) => {
                self.pending = Some(Act::Field(std::mem::take(&mut self.field)));
                self.expected = Expected::Value;
            }
            (Expected::ObjectFirst | Expected::ObjectNext, Word::ObjectEnd) => {
                self.end(Act::ObjectEnd);
            }
            (Expected::ArrayFirst | Expected::ArrayNext, Word::ArrayEnd) => {
                self.end(Act::ArrayEnd);
            }
            (Expected::ObjectNext, Word::Comma) => self.expected = Expected::Field,
            (Expected::ArrayNext, Word::Comma) => self.expected = Expected::Value,
            (Expected::Value | Expected::ArrayFirst, Word::ObjectStart) => {
                self.nesting.push(true);
                self.expected = Expected::ObjectFirst;
                return Ok(Some(Act::ObjectStart));
            }
            (Expected::Value | Expected::ArrayFirst, Word::ArrayStart) => {
                self.nesting.push(false);
                self.expected = Expected::ArrayFirst;
                return Ok(Some(Act::ArrayStart));
            }
            (Expected::Value | Expected::ArrayFirst, Word::Text(value) | Word::Bare(value)) => {
                self.pending = Some(Act::Scalar(value));
                self.after_value();
            }
            (Expected::End, Word::End) => {}
            (_, Word::End) => return Err(malformed("The input string ended unexpectedly.")),
            (expected, _) => {
                let text = format!("Expected {}, but found \"{}\".", expected.text(), words.shown());
                return Err(malformed(text));
            }
        }
        Ok(None)
    }

    fn end(&mut self, act: Act) {
        self.pending = Some(act);
        self.nesting.pop();
        self.after_value();
    }

    fn after_value(&mut self) {
        self.expected = match self.nesting.last() {
            None => Expected::End,
            Some(true) => Expected::ObjectNext,
            Some(false) => Expected::ArrayNext,
        };
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Start,
    Field,
    VersionValue,
    SystemIdentifierValue,
    FilesStart,
    FilesNext,
    FileField,
    FileValue(FileField),
    RangesStart,
    RangesNext,
    RangeField,
    RangeValue(RangeField),
    ChecksumValue,
    ObjectEnd,
    Eof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileField {
    Path,
    EncodedPath,
    Size,
    LastModified,
    Algorithm,
    Checksum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeField {
    Timeline,
    Start,
    End,
}

/// What the words mean in a manifest.
#[derive(Debug, Default)]
struct Meaning {
    place: Place,
    saw_version: bool,
    file: RawFile,
    range: RawRange,
    checksum: Vec<u8>,
}

#[derive(Debug, Default)]
struct RawFile {
    path: Option<Vec<u8>>,
    encoded_path: Option<Vec<u8>>,
    size: Option<Vec<u8>>,
    last_modified: Option<Vec<u8>>,
    algorithm: Option<Vec<u8>>,
    checksum: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct RawRange {
    timeline: Option<Vec<u8>>,
    start: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl Meaning {
    fn act(&mut self, act: Act) -> Result<Option<ManifestItem>, PgManifestError> {
        match act {
            Act::ObjectStart => {
                self.place = match self.place {
                    Place::Start => Place::Field,
                    Place::FilesNext => Place::FileField,
                    Place::RangesNext => Place::RangeField,
                    _ => return Err(malformed("unexpected object start")),
                };
                Ok(None)
            }
            Act::ObjectEnd => self.object_end(),
            Act::ArrayStart => {
                self.place = match self.place {
                    Place::FilesStart => Place::FilesNext,
                    Place::RangesStart => Place::RangesNext,
                    _ => return Err(malformed("unexpected array start")),
                };
                Ok(None)
            }
            Act::ArrayEnd => {
                self.place = match self.place {
                    Place::FilesNext | Place::RangesNext => Place::Field,
                    _ => return Err(malformed("unexpected array end")),
                };
                Ok(None)
            }
            Act::Field(name) => {
                self.place = self.field(&name)?;
                Ok(None)
            }
            Act::Scalar(value) => self.scalar(value),
        }
    }

    fn object_end(&mut self) -> Result<Option<ManifestItem>, PgManifestError> {
        match self.place {
            Place::ObjectEnd => {
                self.place = Place::Eof;
                Ok(None)
            }
            Place::FileField => {
                self.place = Place::FilesNext;
                let file = std::mem::take(&mut self.file).finish()?;
                Ok(Some(ManifestItem::File(file)))
            }
            Place::RangeField => {
                self.place = Place::RangesNext;
                let range = std::mem::take(&mut self.range).finish()?;
                Ok(Some(ManifestItem::WalRange(range)))
            }
            _ => Err(malformed("unexpected object end")),
        }
    }

    fn field(&mut self, name: &[u8]) -> Result<Place, PgManifestError> {
        Ok(match (self.place, name) {
            (Place::Field, b"PostgreSQL-Backup-Manifest-Version") if !self.saw_version => {
                self.saw_version = true;
                Place::VersionValue
            }
            (Place::Field, _) if !self.saw_version => return Err(malformed("expected version indicator")),
            (Place::Field, b"System-Identifier") => Place::SystemIdentifierValue,
            (Place::Field, b"Files") => Place::FilesStart,
            (Place::Field, b"WAL-Ranges") => Place::RangesStart,
            (Place::Field, b"Manifest-Checksum") => Place::ChecksumValue,
            (Place::Field, _) => return Err(malformed("unrecognized top-level field")),
            (Place::FileField, b"Path") => Place::FileValue(FileField::Path),
            (Place::FileField, b"Encoded-Path") => Place::FileValue(FileField::EncodedPath),
            (Place::FileField, b"Size") => Place::FileValue(FileField::Size),
            (Place::FileField, b"Last-Modified") => Place::FileValue(FileField::LastModified),
            (Place::FileField, b"Checksum-Algorithm") => Place::FileValue(FileField::Algorithm),
            (Place::FileField, b"Checksum") => Place::FileValue(FileField::Checksum),
            (Place::FileField, _) => return Err(malformed("unexpected file field")),
            (Place::RangeField, b"Timeline") => Place::RangeValue(RangeField::Timeline),
            (Place::RangeField, b"Start-LSN") => Place::RangeValue(RangeField::Start),
            (Place::RangeField, b"End-LSN") => Place::RangeValue(RangeField::End),
            (Place::RangeField, _) => return Err(malformed("unexpected WAL range field")),
            _ => return Err(malformed("unexpected object field")),
        })
    }

    fn scalar(&mut self, value: Vec<u8>) -> Result<Option<ManifestItem>, PgManifestError> {
        match self.place {
            Place::VersionValue => {
                self.place = Place::Field;
                let version = number(&value).ok_or_else(|| malformed("manifest version not an integer"))?;
                match u32::try_from(version) {
                    Ok(version @ (1 | 2)) => return Ok(Some(ManifestItem::Version(version))),
                    _ => return Err(malformed("unexpected manifest version")),
                }
            }
            Place::SystemIdentifierValue => {
                self.place = Place::Field;
                let identifier = number(&value)
                    .ok_or_else(|| malformed("system identifier in manifest not an integer"))?;
                return Ok(Some(ManifestItem::SystemIdentifier(identifier)));
            }
            Place::FileValue(field) => {
                self.place = Place::FileField;
                let place = match field {
                    FileField::Path => &mut self.file.path,
                    FileField::EncodedPath => &mut self.file.encoded_path,
                    FileField::Size => &mut self.file.size,
                    FileField::LastModified => &mut self.file.last_modified,
                    FileField::Algorithm => &mut self.file.algorithm,
                    FileField::Checksum => &mut self.file.checksum,
                };
                *place = Some(value);
            }
            Place::RangeValue(field) => {
                self.place = Place::RangeField;
                let place = match field {
                    RangeField::Timeline => &mut self.range.timeline,
                    RangeField::Start => &mut self.range.start,
                    RangeField::End => &mut self.range.end,
                };
                *place = Some(value);
            }
            Place::ChecksumValue => {
                self.place = Place::ObjectEnd;
                self.checksum = value;
            }
            _ => return Err(malformed("unexpected scalar")),
        }
        Ok(None)
    }
}

impl RawFile {
    fn finish(self) -> Result<ManifestFile, PgManifestError> {
        let RawFile { path, encoded_path, size, last_modified, algorithm, checksum } = self;
        let (named, path) = match (path, encoded_path) {
            (None, None) => return Err(malformed("missing path name")),
            (Some(_), Some(_)) => return Err(malformed("both path name and encoded path name")),
            (Some(path), None) => (true, path),
            (None, Some(encoded)) => (false, encoded),
        };
        let size = size.ok_or_else(|| malformed("missing size"))?;
        if algorithm.is_none() && checksum.is_some() {
            return Err(malformed("checksum without algorithm"));
        }
        let path = if named {
            path
        } else {
            from_hex(&path).ok_or_else(|| malformed("could not decode file name"))?
        };
        let size = number(&size).ok_or_else(|| malformed("file size is not an integer"))?;
        let algorithm = match algorithm {
            Some(name) if name.eq_ignore_ascii_case(b"NONE") => None,
            Some(name) => Some(
                ChecksumAlgorithm::from_name(&name)
                    .ok_or_else(|| PgManifestError::UnknownAlgorithm { name: lossy(&name) })?,
            ),
            None => None,
        };
        let hex = checksum.unwrap_or_default();
        let bytes = from_hex(&hex).ok_or_else(|| PgManifestError::InvalidFileChecksum {
            path: lossy(&path),
            checksum: lossy(&hex),
        })?;
        if path == b"." || relative_path::normalize(&path).as_deref() != Some(&path) {
            return Err(PgManifestError::BadPath { path: path.escape_ascii().to_string() });
        }
        Ok(ManifestFile {
            path,
            size,
            last_modified: last_modified.map(|time| lossy(&time)),
            checksum: algorithm.map(|algorithm| ManifestChecksum { algorithm, bytes }),
        })
    }
}

impl RawRange {
    fn finish(self) -> Result<ManifestWalRange, PgManifestError> {
        let timeline = self.timeline.ok_or_else(|| malformed("missing timeline"))?;
        let start = self.start.ok_or_else(|| malformed("missing start LSN"))?;
        let end = self.end.ok_or_else(|| malformed("missing end LSN"))?;
        let timeline = number(&timeline)
            .and_then(|number| u32::try_from(number).ok())
            .and_then(TimelineId::new)
            .ok_or_else(|| malformed("timeline is not an integer"))?;
        let position = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        Ok(ManifestWalRange {
            timeline,
            start: position(&start).ok_or_else(|| malformed("could not parse start LSN"))?,
            end: position(&end).ok_or_else(|| malformed("could not parse end LSN"))?,
        })
    }
}

/// The number that a value says. A string may say one, too.
fn number(value: &[u8]) -> Option<u64> {
    let is_plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_plain)?.parse().ok()
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Digests everything before the last line. Which line is the last is known only at the end, so two are kept.
#[derive(Debug)]
struct CoveredBytes<H> {
    sha256: H,
    length: usize,
    /// What is not digested yet.
    lines: Vec<u8>,
    /// Where the last line that is complete ends in `lines`.
    last_line: usize,
    newlines: usize,
}

impl<H: Sha256> CoveredBytes<H> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), PgManifestError> {
        self.length = self.length.saturating_add(bytes.len());
        if self.length > MAX_MANIFEST_LENGTH {
            return Err(PgManifestError::TooLong { length: self.length });
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.lines.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.newlines = self.newlines.saturating_add(1);
                self.sha256.update(self.lines.get(..self.last_line).unwrap_or_default());
                self.lines.drain(..self.last_line);
                self.last_line = self.lines.len();
            }
            if self.lines.len() > MAX_LINES {
                return Err(PgManifestError::TooLong { length: self.length });
            }
        }
        Ok(())
    }

    fn check(self, checksum: &[u8]) -> Result<(), PgManifestError> {
        if self.newlines < 2 {
            return Err(malformed("expected at least 2 lines"));
        }
        if self.last_line != self.lines.len() {
            return Err(malformed("last line not newline-terminated"));
        }
        match from_hex(checksum).filter(|expected| expected.len() == 32) {
            None => Err(PgManifestError::InvalidChecksum { checksum: lossy(checksum) }),
            Some(expected) if self.sha256.finish()[..] != expected => Err(PgManifestError::BadChecksum),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
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
            (
                range(r#""Timeline": true, "Start-LSN": "0/0", "End-LSN": "0/0""#),
                "timeline is not an integer",
            ),
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
}
