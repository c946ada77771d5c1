//! SQL as tokens, for rewriting names in it: what is a name, and what is inside of a string, a body or a comment.
//!
//! No grammar: rules of the callers look at a few tokens around a name. Whatever the bytes are, tokens are found: what
//! is not closed reaches to the end. Source: chapter "Lexical Structure" of PostgreSQL's manual.

use std::borrow::Cow;
use std::ops::Range;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, or a name without quotes.
    Word,
    /// A name in double quotes.
    Quoted,
    /// A string in single quotes, with its prefix.
    Literal,
    /// A string between dollar quotes.
    Body,
    /// Digits and what belongs to them; parameters.
    Number,
    /// Any other character.
    Symbol,
}

/// A piece of SQL, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
}

/// A text and its tokens. Space and comments are none.
#[derive(Debug)]
pub(super) struct Sql<'a> {
    text: &'a [u8],
    pub(super) tokens: Vec<Token>,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Where a run that begins here ends.
fn run(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    text[from..].iter().position(|byte| !belongs(*byte)).map_or(text.len(), |length| from + length)
}

/// Behind the quote that closes; doubled ones do not, nor do escaped ones where backslashes escape.
fn closed(text: &[u8], mut at: usize, quote: u8, escapes: bool) -> usize {
    while let Some(byte) = text.get(at) {
        at += 1;
        if *byte == b'\\' && escapes {
            at += 1;
        } else if *byte == quote {
            if text.get(at) != Some(&quote) {
                return at;
            }
            at += 1;
        }
    }
    text.len()
}

fn comment_end(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0_u32;
    while let Some(pair) = text.get(at..at + 2) {
        match pair {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth = depth.saturating_sub(1);
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// The `$tag$` that begins here.
fn dollar_tag(text: &[u8], at: usize) -> Option<&[u8]> {
    let rest = text.get(at..)?;
    let end = 1 + rest.get(1..)?.iter().position(|byte| !(starts_word(*byte) || byte.is_ascii_digit()))?;
    let begins_well = !rest.get(1).is_some_and(u8::is_ascii_digit);
    (rest.get(end) == Some(&b'$') && begins_well).then(|| &rest[..=end])
}

impl<'a> Sql<'a> {
    /// `standard_strings`: a backslash in `'…'` is a backslash.
    pub(super) fn new(text: &'a [u8], standard_strings: bool) -> Sql<'a> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(byte) = text.get(at).copied() {
            let next = text.get(at + 1).copied();
            let (kind, end) = match byte {
                _ if byte.is_ascii_whitespace() || byte == 0x0b => {
                    at += 1;
                    continue;
                }
                b'-' if next == Some(b'-') => {
                    at = run(text, at, |byte| byte != b'\n');
                    continue;
                }
                b'/' if next == Some(b'*') => {
                    at = comment_end(text, at);
                    continue;
                }
                b'\'' => (Kind::Literal, closed(text, at + 1, b'\'', !standard_strings)),
                b'e' | b'E' if next == Some(b'\'') => (Kind::Literal, closed(text, at + 2, b'\'', true)),
                b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if next == Some(b'\'') => {
                    (Kind::Literal, closed(text, at + 2, b'\'', !standard_strings))
                }
                b'"' => (Kind::Quoted, closed(text, at + 1, b'"', false)),
                b'$' => match dollar_tag(text, at) {
                    Some(tag) => {
                        let begin = at + tag.len();
                        let length = text[begin..].windows(tag.len()).position(|window| window == tag);
                        (Kind::Body, length.map_or(text.len(), |length| begin + length + tag.len()))
                    }
                    None => (Kind::Number, run(text, at + 1, |byte| byte.is_ascii_digit())),
                },
                _ if starts_word(byte) => (Kind::Word, run(text, at, continues_word)),
                _ if byte.is_ascii_digit() => {
                    (Kind::Number, run(text, at, |byte| byte.is_ascii_alphanumeric() || byte == b'_'))
                }
                _ => (Kind::Symbol, at + 1),
            };
            let end = end.clamp(at + 1, text.len());
            tokens.push(Token { kind, range: at..end });
            at = end;
        }
        Sql { text, tokens }
    }

    /// The bytes of a token; none beyond the end.
    pub(super) fn bytes(&self, index: usize) -> &'a [u8] {
        self.tokens.get(index).and_then(|token| self.text.get(token.range.clone())).unwrap_or_default()
    }

    pub(super) fn kind(&self, index: usize) -> Option<Kind> {
        self.tokens.get(index).map(|token| token.kind)
    }

    /// Where a token begins in the text; its end beyond the last one.
    pub(super) fn begin(&self, index: usize) -> usize {
        self.tokens.get(index).map_or(self.text.len(), |token| token.range.start)
    }

    /// Behind a token.
    pub(super) fn end(&self, index: usize) -> usize {
        self.tokens.get(index).map_or(self.text.len(), |token| token.range.end)
    }

    /// Whether the token is this word, whatever its case.
    pub(super) fn is(&self, index: usize, word: &str) -> bool {
        self.kind(index) == Some(Kind::Word) && self.bytes(index).eq_ignore_ascii_case(word.as_bytes())
    }

    /// Whether these words follow each other here.
    pub(super) fn are(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(offset, word)| self.is(index + offset, word))
    }

    pub(super) fn symbol(&self, index: usize, symbol: u8) -> bool {
        self.kind(index) == Some(Kind::Symbol) && self.bytes(index) == [symbol]
    }

    /// The name that a token spells: lower case without quotes, as it stands within.
    pub(super) fn name(&self, index: usize) -> Option<Cow<'a, [u8]>> {
        let bytes = self.bytes(index);
        match self.kind(index)? {
            Kind::Word if bytes.iter().any(u8::is_ascii_uppercase) => Some(bytes.to_ascii_lowercase().into()),
            Kind::Word => Some(bytes.into()),
            Kind::Quoted => {
                let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default();
                if inner.contains(&b'"') { Some(undoubled(inner, b'"').into()) } else { Some(inner.into()) }
            }
            _ => None,
        }
    }

    /// `schema.name` here, and the token behind it.
    pub(super) fn qualified(&self, index: usize) -> Option<(QualifiedName, usize)> {
        let first = self.name(index)?.into_owned();
        if !self.symbol(index + 1, b'.') {
            return Some((QualifiedName { schema: None, name: first }, index + 1));
        }
        let name = self.name(index + 2)?.into_owned();
        Some((QualifiedName { schema: Some(first), name }, index + 3))
    }

    /// What a literal says, if it is a plain one without backslashes.
    pub(super) fn literal(&self, index: usize) -> Option<Cow<'a, [u8]>> {
        let bytes = self.bytes(index);
        if self.kind(index)? != Kind::Literal || bytes.first() != Some(&b'\'') || bytes.contains(&b'\\') {
            return None;
        }
        let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or_default();
        if inner.contains(&b'\'') { Some(undoubled(inner, b'\'').into()) } else { Some(inner.into()) }
    }

    /// Behind the parenthesis that closes the one at `index`.
    pub(super) fn behind_parentheses(&self, index: usize) -> Option<usize> {
        let mut depth = 0_u32;
        for at in index..self.tokens.len() {
            if self.symbol(at, b'(') {
                depth += 1;
            } else if self.symbol(at, b')') {
                depth = depth.checked_sub(1)?;
            }
            if depth == 0 {
                return (at > index).then_some(at + 1);
            }
        }
        None
    }

    /// The text with some tokens replaced; `edits` in ascending order.
    pub(super) fn edited(&self, edits: &[(usize, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 16 * edits.len());
        let mut done = 0;
        for (index, replacement) in edits {
            out.extend_from_slice(self.text.get(done..self.begin(*index)).unwrap_or_default());
            out.extend_from_slice(replacement);
            done = self.end(*index);
        }
        out.extend_from_slice(self.text.get(done..).unwrap_or_default());
        out
    }
}

fn undoubled(text: &[u8], quote: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        out.push(byte);
        if byte == quote {
            bytes.next_if_eq(&quote);
        }
    }
    out
}

/// A name with the schema that it was written with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QualifiedName {
    pub(crate) schema: Option<Vec<u8>>,
    pub(crate) name: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(text: &str) -> Vec<(Kind, String)> {
        let sql = Sql::new(text.as_bytes(), true);
        (0..sql.tokens.len())
            .map(|index| (sql.kind(index).unwrap(), String::from_utf8(sql.bytes(index).to_vec()).unwrap()))
            .collect()
    }

    fn of_kind(text: &str, kind: Kind) -> Vec<String> {
        tokens(text).into_iter().filter(|(found, _)| *found == kind).map(|(_, text)| text).collect()
    }

    #[test]
    fn what_is_quoted_is_one_token() {
        let text = r#"a."b.""c" 'x''y.z' E'\'a.b' $f$ a.b $$ '$f$ -- a.b
            /* a.b /* ' */ */ b'0'"#;
        assert_eq!(of_kind(text, Kind::Word), ["a"]);
        assert_eq!(of_kind(text, Kind::Quoted), [r#""b.""c""#]);
        assert_eq!(of_kind(text, Kind::Literal), ["'x''y.z'", r"E'\'a.b'", "b'0'"]);
        assert_eq!(of_kind(text, Kind::Body), ["$f$ a.b $$ '$f$"]);
    }

    #[test]
    fn a_dollar_inside_of_a_word_or_before_a_digit_quotes_nothing() {
        assert_eq!(of_kind("a$b$c $1 $2", Kind::Word), ["a$b$c"]);
        assert_eq!(of_kind("a$b$c $1 $2", Kind::Number), ["$1", "$2"]);
    }

    #[test]
    fn backslashes_escape_where_strings_are_of_old() {
        assert_eq!(Sql::new(br"'a\'b' c", false).tokens.len(), 2);
        assert_eq!(Sql::new(br"'a\' c", true).tokens.len(), 2);
    }

    #[test]
    fn names_are_what_the_server_takes_them_for() {
        let sql = Sql::new(br#"Abc "A""b" 'c'"#, true);
        assert_eq!(sql.name(0).as_deref(), Some(&b"abc"[..]));
        assert_eq!(sql.name(1).as_deref(), Some(&b"A\"b"[..]));
        assert_eq!(sql.name(2), None);
        assert_eq!(sql.literal(2).as_deref(), Some(&b"c"[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_give_tokens_in_order(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\''), Just(b'"'), Just(b'$'), Just(b'\\'), Just(b'/'), Just(b'*'), Just(b'-'), Just(b'\n'), any::<u8>()], 0..80,
        ), standard in any::<bool>()) {
            let sql = Sql::new(&bytes, standard);
            let mut at = 0;
            for token in &sql.tokens {
                prop_assert!(token.range.start >= at && token.range.end > token.range.start);
                at = token.range.end;
            }
            prop_assert!(at <= bytes.len());
            prop_assert_eq!(sql.edited(&[]), bytes);
        }
    }
}
