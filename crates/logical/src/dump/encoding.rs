//! Texts of a session in another encoding than UTF-8.
//!
//! Catalogs are handled as Rust's texts. In any other encoding a byte above 127 becomes the character of that number and is
//! turned back on its way out, so that every byte survives, and texts sort as their bytes do. That is right in encodings
//! in which a byte below 128 always is the character of that number: all that a server can have. In those that only
//! clients have, a backslash may be half of a character: there the bytes of a character behind its first one become characters
//! of a private area, in the order of the bytes, so that nobody takes them for ASCII.
//!
//! How long characters are is from `src/common/wchar.c` of PostgreSQL 18.

use std::borrow::Cow;

use pgkeep_wire::raw_bytes;

/// Stands for byte 0 behind the first one of a character. Below what [`pgkeep_wire::raw_text`] uses.
const BEHIND: u32 = 0x0010_FE00;

/// The encoding of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoding {
    /// The server's name for it.
    pub(crate) name: String,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Utf8,
    /// Bytes below 128 are ASCII.
    Bytes,
    /// Bytes below 128 are ASCII at the beginning of a character only.
    Mixed(Lengths),
}

/// How long characters are that do not begin with ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    /// Two bytes.
    Two,
    /// Two bytes, but one for half-width kana.
    ShiftJis,
    /// Two bytes, three after 0x8F.
    Johab,
    /// Four bytes where the second is a digit, or else two.
    Gb18030,
}

impl Lengths {
    /// The length of the character that begins with these bytes, of which the first is above 127.
    fn of(self, bytes: &[u8]) -> usize {
        let is_long = match self {
            Lengths::Two => false,
            Lengths::ShiftJis if matches!(bytes.first(), Some(0xA1..=0xDF)) => return 1,
            Lengths::ShiftJis => false,
            Lengths::Johab if bytes.first() == Some(&0x8F) => return 3,
            Lengths::Johab => false,
            Lengths::Gb18030 => bytes.get(1).is_some_and(u8::is_ascii_digit),
        };
        if is_long { 4 } else { 2 }
    }
}

impl Encoding {
    /// The encoding of which this is the server's name.
    pub(crate) fn new(name: &str) -> Encoding {
        let form = match name {
            "UTF8" => Form::Utf8,
            "BIG5" | "GBK" | "UHC" => Form::Mixed(Lengths::Two),
            "SJIS" | "SHIFT_JIS_2004" => Form::Mixed(Lengths::ShiftJis),
            "JOHAB" => Form::Mixed(Lengths::Johab),
            "GB18030" => Form::Mixed(Lengths::Gb18030),
            _ => Form::Bytes,
        };
        Encoding { name: name.to_owned(), form }
    }

    /// Whether texts have to be converted.
    pub(crate) fn is_foreign(&self) -> bool {
        self.form != Form::Utf8
    }

    /// Bytes of the session as a text.
    pub(crate) fn lift(&self, bytes: &[u8]) -> Vec<u8> {
        let text: String = match self.form {
            _ if bytes.is_ascii() => return bytes.to_vec(),
            Form::Utf8 => return bytes.to_vec(),
            Form::Bytes => bytes.iter().map(|byte| char::from(*byte)).collect(),
            Form::Mixed(lengths) => lift_mixed(lengths, bytes),
        };
        text.into_bytes()
    }

    /// A text as bytes of the session. Characters that came from no byte stay as UTF-8 has them.
    pub(crate) fn lower<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        if self.form == Form::Utf8 || text.is_ascii() {
            return raw_bytes(text);
        }
        let mut bytes = Vec::with_capacity(text.len());
        let mut buffer = [0; 4];
        for character in text.chars() {
            let number = u32::from(character);
            let behind = number.checked_sub(BEHIND).filter(|_| matches!(self.form, Form::Mixed(_)));
            match u8::try_from(behind.unwrap_or(number)) {
                Ok(byte) => bytes.push(byte),
                // What came from the command line may hold bytes of its own.
                Err(_) => bytes.extend_from_slice(&raw_bytes(character.encode_utf8(&mut buffer))),
            }
        }
        Cow::Owned(bytes)
    }
}

fn lift_mixed(lengths: Lengths, mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    while let Some((first, rest)) = bytes.split_first() {
        text.push(char::from(*first));
        bytes = rest;
        if !first.is_ascii() {
            // A character that is cut short ends with the text.
            let length = lengths.of(&[&[*first], rest.get(..1).unwrap_or_default()].concat());
            let (behind, rest) = rest.split_at(rest.len().min(length - 1));
            text.extend(behind.iter().filter_map(|byte| char::from_u32(BEHIND + u32::from(*byte))));
            bytes = rest;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let encoding = Encoding::new("LATIN1");
        let all: Vec<u8> = (1..=255).collect();
        let text = String::from_utf8(encoding.lift(&all)).unwrap();
        assert_eq!(text.chars().count(), 255);
        assert_eq!(&*encoding.lower(&text), &all[..]);
    }

    #[test]
    fn utf8_is_left_alone() {
        let encoding = Encoding::new("UTF8");
        assert_eq!(encoding.lift("\u{e9}".as_bytes()), "\u{e9}".as_bytes());
        assert_eq!(&*encoding.lower("\u{e9}"), "\u{e9}".as_bytes());
    }

    #[test]
    fn no_half_of_a_character_is_taken_for_ascii() {
        for (name, bytes, ascii) in [
            ("SJIS", &b"a\x95\\\xb1\\b"[..], "a\\b"),
            ("SHIFT_JIS_2004", b"\x83\\", ""),
            ("BIG5", b"\xa5\\'", "'"),
            ("GBK", b"\xd5\\\x81", ""),
            ("UHC", b"\x81A", ""),
            ("JOHAB", b"\x8f\\\\'\x88a", "'"),
            ("GB18030", b"\x810\x890\xd5\\0", "0"),
        ] {
            let encoding = Encoding::new(name);
            let text = String::from_utf8(encoding.lift(bytes)).unwrap();
            let found: String = text.chars().filter(char::is_ascii).collect();
            assert_eq!(found, ascii, "{name}");
            assert_eq!(&*encoding.lower(&text), bytes, "{name}");
        }
    }

    #[test]
    fn texts_sort_as_their_bytes_do() {
        let encoding = Encoding::new("SJIS");
        let mut names = [&b"\x95\xfc"[..], b"\x95\\", b"\x95a", b"z", b"\xb1", b"\x95\\a", b"\x95\\\x95@"];
        names.sort_unstable();
        let mut lifted = names.map(|name| encoding.lift(name));
        lifted.sort_unstable();
        assert_eq!(lifted, names.map(|name| encoding.lift(name)));
    }
}
