//! Texts of a session in another encoding than UTF-8.
//!
//! Catalogs are handled as Rust's texts. In any other encoding a byte above 127 becomes the character of that number and is
//! turned back on its way out, so that every byte survives, and texts sort as their bytes do. That is right in encodings
//! in which a byte below 128 always is the character of that number: all that a server can have. The few that only
//! clients have, in which a backslash may be half of a character, are refused.

use std::borrow::Cow;

use pgkeep_wire::raw_bytes;

/// Encodings of clients in which bytes of ASCII occur within other characters.
const UNSAFE: [&str; 8] =
    ["BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SHIFTJIS2004", "SJIS", "UHC"];

/// The encoding of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoding {
    /// The server's name for it.
    pub(crate) name: String,
    by_bytes: bool,
}

impl Encoding {
    /// `None` when dumps cannot be made in it.
    pub(crate) fn new(name: &str) -> Option<Encoding> {
        if UNSAFE.contains(&name) {
            return None;
        }
        Some(Encoding { name: name.to_owned(), by_bytes: name != "UTF8" })
    }

    /// Whether texts have to be converted.
    pub(crate) fn is_foreign(&self) -> bool {
        self.by_bytes
    }

    /// Bytes of the session as a text.
    pub(crate) fn lift(&self, bytes: &[u8]) -> Vec<u8> {
        if !self.by_bytes || bytes.is_ascii() {
            return bytes.to_vec();
        }
        bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes()
    }

    /// A text as bytes of the session. Characters that came from no byte stay as UTF-8 has them.
    pub(crate) fn lower<'a>(&self, text: &'a str) -> Cow<'a, [u8]> {
        if !self.by_bytes || text.is_ascii() {
            return raw_bytes(text);
        }
        let mut bytes = Vec::with_capacity(text.len());
        let mut buffer = [0; 4];
        for character in text.chars() {
            match u8::try_from(u32::from(character)) {
                Ok(byte) => bytes.push(byte),
                // What came from the command line may hold bytes of its own.
                Err(_) => bytes.extend_from_slice(&raw_bytes(character.encode_utf8(&mut buffer))),
            }
        }
        Cow::Owned(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let encoding = Encoding::new("LATIN1").unwrap();
        let all: Vec<u8> = (1..=255).collect();
        let text = String::from_utf8(encoding.lift(&all)).unwrap();
        assert_eq!(text.chars().count(), 255);
        assert_eq!(&*encoding.lower(&text), &all[..]);
    }

    #[test]
    fn utf8_is_left_alone() {
        let encoding = Encoding::new("UTF8").unwrap();
        assert_eq!(encoding.lift("\u{e9}".as_bytes()), "\u{e9}".as_bytes());
        assert_eq!(&*encoding.lower("\u{e9}"), "\u{e9}".as_bytes());
        assert!(Encoding::new("SJIS").is_none());
    }
}
