//! The words of JSON, as PostgreSQL's own reader tells them apart (`common/jsonapi.c`, 18), from pieces cut anywhere.
//!
//! What is no JSON is told in that reader's words, which people and test suites know. A word is kept until it is
//! complete and no longer: [`MAX_WORD`] bounds it.

/// The longest word. A path of 4096 bytes as hexadecimal digits fits several times.
const MAX_WORD: usize = 64 << 10;

/// A word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    Comma,
    Colon,
    /// A string, with its escapes resolved.
    Text(Vec<u8>),
    /// A number, `true`, `false` or `null`, as it is written.
    Bare(Vec<u8>),
    /// The input is over.
    End,
}

impl Word {
    fn of_byte(byte: u8) -> Option<Word> {
        Some(match byte {
            b'{' => Word::ObjectStart,
            b'}' => Word::ObjectEnd,
            b'[' => Word::ArrayStart,
            b']' => Word::ArrayEnd,
            b',' => Word::Comma,
            b':' => Word::Colon,
            _ => return None,
        })
    }
}

/// Cuts words out of pieces.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The word that is being read or was read last, as it is written.
    raw: Vec<u8>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    Text {
        escaped: bool,
    },
    Bare,
}

impl Words {
    /// The next word; none when `input` is used up before it is complete.
    ///
    /// # Errors
    /// Why it is no word of JSON.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Word>, String> {
        while let Some((byte, rest)) = input.split_first() {
            match self.state {
                State::Between => {
                    *input = rest;
                    if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                        continue;
                    }
                    self.raw.clear();
                    self.raw.push(*byte);
                    if let Some(word) = Word::of_byte(*byte) {
                        return Ok(Some(word));
                    }
                    self.state = match byte {
                        b'"' => State::Text { escaped: false },
                        byte if is_word_byte(*byte) || *byte == b'-' => State::Bare,
                        _ => return Err(self.invalid()),
                    };
                }
                State::Text { escaped } => {
                    if *byte < b' ' {
                        return Err(format!("Character with value 0x{byte:02x} must be escaped."));
                    }
                    *input = rest;
                    self.push(*byte)?;
                    if *byte == b'"' && !escaped {
                        self.state = State::Between;
                        return unescaped(&self.raw).map(|text| Some(Word::Text(text)));
                    }
                    self.state = State::Text { escaped: *byte == b'\\' && !escaped };
                }
                State::Bare => {
                    let is_number = self.raw.first().is_some_and(|first| matches!(first, b'-' | b'0'..=b'9'));
                    let belongs = is_word_byte(*byte) || is_number && matches!(byte, b'.' | b'+' | b'-');
                    if !belongs {
                        return self.bare().map(Some);
                    }
                    *input = rest;
                    self.push(*byte)?;
                }
            }
        }
        Ok(None)
    }

    /// The last word, when no more input comes: what is begun, or the end.
    ///
    /// # Errors
    /// When what is begun is no word.
    pub(super) fn finish(&mut self) -> Result<Word, String> {
        match self.state {
            State::Between => {
                self.raw.clear();
                Ok(Word::End)
            }
            State::Text { .. } => Err(self.invalid()),
            State::Bare => self.bare(),
        }
    }

    /// The last word as it is written, for messages.
    pub(super) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    fn push(&mut self, byte: u8) -> Result<(), String> {
        if self.raw.len() >= MAX_WORD {
            return Err(format!("A value is longer than {MAX_WORD} bytes."));
        }
        self.raw.push(byte);
        Ok(())
    }

    fn bare(&mut self) -> Result<Word, String> {
        self.state = State::Between;
        let is_known = matches!(self.raw.as_slice(), b"true" | b"false" | b"null") || is_number(&self.raw);
        if is_known { Ok(Word::Bare(self.raw.clone())) } else { Err(self.invalid()) }
    }

    fn invalid(&self) -> String {
        format!("Token \"{}\" is invalid.", self.shown())
    }
}

const fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn is_number(word: &[u8]) -> bool {
    let digits = |text: &mut &[u8]| {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *text = text.get(count..).unwrap_or_default();
        count
    };
    let mut text = word.strip_prefix(b"-").unwrap_or(word);
    let has_leading_zero = text.starts_with(b"0");
    match digits(&mut text) {
        0 => return false,
        1 => {}
        _ if has_leading_zero => return false,
        _ => {}
    }
    if let Some(rest) = text.strip_prefix(b".") {
        text = rest;
        if digits(&mut text) == 0 {
            return false;
        }
    }
    if let Some(rest) = text.strip_prefix(b"e").or_else(|| text.strip_prefix(b"E")) {
        text = rest.strip_prefix(b"+").or_else(|| rest.strip_prefix(b"-")).unwrap_or(rest);
        if digits(&mut text) == 0 {
            return false;
        }
    }
    text.is_empty()
}

/// The text of a string that is complete, quotes included.
fn unescaped(raw: &[u8]) -> Result<Vec<u8>, String> {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return Ok(inner.to_vec());
    }
    let mut text = Vec::with_capacity(inner.len());
    let mut rest = inner;
    let mut high_surrogate = None;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            no_surrogate(high_surrogate)?;
            text.push(*byte);
            continue;
        }
        let Some((escape, after)) = rest.split_first() else { break };
        rest = after;
        if *escape == b'u' {
            let unit = take_unit(&mut rest)?;
            let code_point = match (high_surrogate.take(), unit) {
                (None, 0xD800..=0xDBFF) => {
                    high_surrogate = Some(unit);
                    continue;
                }
                (Some(_), 0xD800..=0xDBFF) => {
                    return Err("Unicode high surrogate must not follow a high surrogate.".to_owned());
                }
                (Some(high), 0xDC00..=0xDFFF) => {
                    0x1_0000_u32.saturating_add((high & 0x3FF) << 10).saturating_add(unit & 0x3FF)
                }
                (None, 0) => return Err("\\u0000 cannot be converted to text.".to_owned()),
                (None, unit) => unit,
                (Some(_), _) => return Err(LOW_SURROGATE.to_owned()),
            };
            let character = char::from_u32(code_point).ok_or(LOW_SURROGATE)?;
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        no_surrogate(high_surrogate)?;
        text.push(match escape {
            b'"' | b'\\' | b'/' => *escape,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => {
                let shown = String::from_utf8_lossy(&[*escape]).into_owned();
                return Err(format!("Escape sequence \"\\{shown}\" is invalid."));
            }
        });
    }
    no_surrogate(high_surrogate)?;
    Ok(text)
}

const LOW_SURROGATE: &str = "Unicode low surrogate must follow a high surrogate.";

fn no_surrogate(pending: Option<u32>) -> Result<(), String> {
    pending.map_or(Ok(()), |_| Err(LOW_SURROGATE.to_owned()))
}

/// The four hexadecimal digits after `\u`.
fn take_unit(rest: &mut &[u8]) -> Result<u32, String> {
    let (digits, after) = rest.split_first_chunk::<4>().ok_or_else(bad_unit)?;
    *rest = after;
    digits.iter().try_fold(0_u32, |unit, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or_else(bad_unit)?;
        Ok(unit << 4 | digit)
    })
}

fn bad_unit() -> String {
    "\"\\u\" must be followed by four hexadecimal digits.".to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &[u8], piece: usize) -> Result<Vec<Word>, String> {
        let (mut words, mut found) = (Words::default(), Vec::new());
        for mut input in text.chunks(piece) {
            while let Some(word) = words.next(&mut input)? {
                found.push(word);
            }
        }
        loop {
            found.push(words.finish()?);
            if found.last() == Some(&Word::End) {
                return Ok(found);
            }
        }
    }

    #[test]
    fn words_are_the_same_however_the_text_is_cut() {
        let text = br#"{"a\n\u00e9\ud83d\ude00\"": [ -1.5e+3 , true,null ] } 12"#;
        let whole = words(text, text.len()).unwrap();
        assert_eq!(whole[1], Word::Text("a\n\u{e9}\u{1F600}\"".as_bytes().to_vec()));
        assert_eq!(whole.last(), Some(&Word::End));
        assert_eq!(whole[whole.len() - 2], Word::Bare(b"12".to_vec()));
        for piece in 1..text.len() {
            assert_eq!(words(text, piece).unwrap(), whole, "{piece}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_in_postgresqls_words() {
        for (text, expected) in [
            ("nul", "Token \"nul\" is invalid."),
            ("01", "Token \"01\" is invalid."),
            ("1.", "Token \"1.\" is invalid."),
            ("-", "Token \"-\" is invalid."),
            ("&", "Token \"&\" is invalid."),
            ("\"abc", "Token \"\"abc\" is invalid."),
            ("\"a\nb\"", "Character with value 0x0a must be escaped."),
            (r#""\x""#, "Escape sequence \"\\x\" is invalid."),
            (r#""\u12""#, "\"\\u\" must be followed by four hexadecimal digits."),
            (r#""\u0000""#, "\\u0000 cannot be converted to text."),
            (r#""\ud800x""#, LOW_SURROGATE),
            (r#""\udc00""#, LOW_SURROGATE),
            (r#""\ud800\ud800""#, "Unicode high surrogate must not follow a high surrogate."),
        ] {
            assert_eq!(words(text.as_bytes(), 3).unwrap_err(), expected, "{text}");
        }
        let long = [b"\"".as_slice(), &[b'x'; MAX_WORD]].concat();
        assert!(words(&long, 1000).unwrap_err().starts_with("A value is longer"));
    }

    proptest! {
        #[test]
        fn strings_are_those_of_serde(text in ".*") {
            let json = serde_json::Value::from(text.clone()).to_string();
            let expected = vec![Word::Text(text.clone().into_bytes()), Word::End];
            if !text.contains('\0') {
                prop_assert_eq!(words(json.as_bytes(), 7).unwrap(), expected);
            }
        }

        #[test]
        fn numbers_are_those_of_serde(text in "-?[0-9]{1,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?") {
            let known = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(words(text.as_bytes(), 2).is_ok(), known, "{}", text);
        }
    }
}
