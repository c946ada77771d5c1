//! Texts that may hold bytes that are no UTF-8: names of databases and roles come from command lines and from servers in
//! other encodings, and reach the server as they were.
//!
//! Such a byte is held as a character of a private area, one for each byte above 127, and becomes the byte again where the
//! text leaves the program. Characters of that area which stood in the text are held byte by byte as well, so that no two
//! texts are confused.

use std::borrow::Cow;

/// The character that stands for byte 0.
const BASE: u32 = 0x0010_FF00;

/// Bytes as a text.
pub fn raw_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if stands_for(character).is_some() {
                let mut buffer = [0; 4];
                push_bytes(&mut text, character.encode_utf8(&mut buffer).as_bytes());
            } else {
                text.push(character);
            }
        }
        push_bytes(&mut text, chunk.invalid());
    }
    text
}

fn push_bytes(text: &mut String, bytes: &[u8]) {
    text.extend(bytes.iter().filter_map(|byte| char::from_u32(BASE + u32::from(*byte))));
}

/// The byte that a character stands for.
fn stands_for(character: char) -> Option<u8> {
    let byte = u8::try_from(u32::from(character).checked_sub(BASE)?).ok()?;
    // Below 128 every byte is a character by itself.
    (byte >= 0x80).then_some(byte)
}

/// The bytes of a text from [`raw_text`]; those of other texts are their UTF-8.
pub fn raw_bytes(text: &str) -> Cow<'_, [u8]> {
    // The area's characters all begin with this byte.
    if !text.as_bytes().contains(&0xF4) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match stands_for(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (1..=255).collect();
        for bytes in [&all[..], b"plain", "caf\u{e9} \u{10FF85} \u{10FFFF}".as_bytes(), b"\xc3\xa9\xff", b""]
        {
            assert_eq!(&*raw_bytes(&raw_text(bytes)), bytes);
        }
        assert_eq!(raw_text("caf\u{e9}".as_bytes()), "caf\u{e9}");
        assert_ne!(raw_text("\u{10FF85}".as_bytes()), raw_text(b"\x85"));
    }
}
