//! Files of `--filter`: what to include and exclude, for pg_dump, pg_dumpall and pg_restore.
//!
//! A line is `include` or `exclude`, a kind of object, and a pattern; `#` begins a comment. A pattern is taken as
//! written, quotes and all, but for white space: outside of quotes it is brought into the form that names of functions
//! have in archives. Quoted names may run over several lines.

use std::io::BufRead;

use pgkeep_format::archive::Text;

/// What to do with objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterAction {
    /// Take them.
    Include,
    /// Leave them out.
    Exclude,
}

impl FilterAction {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FilterAction::Include => "include",
            FilterAction::Exclude => "exclude",
        }
    }
}

/// A line of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterItem {
    /// What to do.
    pub action: FilterAction,
    /// With what kind of object, as written: one of [`OBJECTS`].
    pub object: &'static str,
    /// Which.
    pub pattern: Text,
    place: Place,
}

/// The kinds of objects that filters know; no program takes all of them.
pub const OBJECTS: &[&str] = &[
    "table_data_and_children",
    "table_data",
    "table_and_children",
    "table",
    "schema",
    "function",
    "index",
    "trigger",
    "foreign_data",
    "extension",
    "database",
];

/// A kind of object in messages.
#[must_use]
pub fn object_name(object: &str) -> String {
    object.replace('_', " ")
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    file: Option<String>,
    line: u64,
}

impl Place {
    fn error(&self, text: &str) -> String {
        match &self.file {
            Some(file) => {
                format!("invalid format in filter read from file \"{file}\" on line {}: {text}", self.line)
            }
            None => {
                format!("invalid format in filter read from standard input on line {}: {text}", self.line)
            }
        }
    }
}

impl FilterItem {
    /// The message of a program that does not take such an item.
    #[must_use]
    pub fn refused(&self, text: &str) -> String {
        self.place.error(text)
    }
}

/// Reads a filter; `file` is its name for messages, none for standard input. Ends after an error.
pub fn read<R: BufRead>(
    input: R,
    file: Option<&str>,
) -> impl Iterator<Item = Result<FilterItem, String>> + use<R> {
    let mut reader =
        Reader { input, place: Place { file: file.map(str::to_owned), line: 0 }, has_failed: false };
    std::iter::from_fn(move || {
        if reader.has_failed {
            return None;
        }
        let item = reader.item();
        reader.has_failed = item.is_err();
        item.transpose()
    })
}

struct Reader<R> {
    input: R,
    place: Place,
    has_failed: bool,
}

impl<R: BufRead> Reader<R> {
    /// The next line without its line end; none at the end of the file.
    fn line(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut line = Vec::new();
        let read = self.input.read_until(b'\n', &mut line).map_err(|error| {
            let file = self.place.file.as_deref().unwrap_or("-");
            format!("could not read from filter file \"{file}\": {error}")
        })?;
        if read == 0 {
            return Ok(None);
        }
        self.place.line += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        Ok(Some(line))
    }

    fn item(&mut self) -> Result<Option<FilterItem>, String> {
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let line = line.trim_ascii_start();
            if line.is_empty() || line[0] == b'#' {
                continue;
            }
            let (command, rest) = keyword(line);
            let action = match &command.to_ascii_lowercase()[..] {
                b"include" => FilterAction::Include,
                b"exclude" => FilterAction::Exclude,
                _ => {
                    return Err(self
                        .place
                        .error("invalid filter command (expected \"include\" or \"exclude\")"));
                }
            };
            let (name, rest) = keyword(rest.trim_ascii_start());
            if name.is_empty() {
                return Err(self.place.error("missing filter object type"));
            }
            let Some(object) = OBJECTS.iter().find(|object| object.as_bytes().eq_ignore_ascii_case(name))
            else {
                let name = String::from_utf8_lossy(name);
                return Err(self.place.error(&format!("unsupported filter object type: \"{name}\"")));
            };
            let pattern = self.pattern(rest.trim_ascii_start().to_vec())?;
            return Ok(Some(FilterItem {
                action,
                object,
                pattern: pattern.into(),
                place: self.place.clone(),
            }));
        }
    }

    /// Reads a pattern: the rest of the line, and more lines while a quote is open.
    fn pattern(&mut self, mut line: Vec<u8>) -> Result<Vec<u8>, String> {
        if line.is_empty() {
            return Err(self.place.error("missing object name pattern"));
        }
        let mut pattern = Vec::new();
        let mut at = 0;
        // Whether white space was passed, and whether it would mean something here.
        let (mut passed_space, mut space_counts) = (false, false);
        while let Some(byte) = line.get(at).copied().filter(|byte| *byte != b'#') {
            match byte {
                b'"' => {
                    if passed_space && !pattern.is_empty() {
                        pattern.push(b' ');
                    }
                    pattern.push(byte);
                    at += 1;
                    loop {
                        match line.get(at).copied() {
                            Some(b'"') => {
                                pattern.push(b'"');
                                at += 1;
                                if line.get(at) != Some(&b'"') {
                                    break;
                                }
                                pattern.push(b'"');
                                at += 1;
                            }
                            // A line end may be written as `\n`, and what else follows a backslash is left out.
                            Some(b'\\') => {
                                match line.get(at + 1) {
                                    Some(b'n') => pattern.push(b'\n'),
                                    Some(b'\\') => pattern.push(b'\\'),
                                    _ => {}
                                }
                                at += 2;
                            }
                            Some(byte) => {
                                pattern.push(byte);
                                at += 1;
                            }
                            None => {
                                let Some(next) = self.line()? else {
                                    return Err(self.place.error("unexpected end of file"));
                                };
                                pattern.push(b'\n');
                                (line, at) = (next, 0);
                            }
                        }
                    }
                    space_counts = true;
                }
                b',' => {
                    pattern.extend_from_slice(b", ");
                    at += 1;
                    space_counts = false;
                }
                b'.' | b'(' | b')' => {
                    pattern.push(byte);
                    at += 1;
                    space_counts = false;
                }
                _ => {
                    if passed_space && space_counts {
                        pattern.push(b' ');
                    }
                    let is_plain = |byte: &u8| {
                        !is_space(*byte) && !matches!(byte, b'#' | b',' | b'.' | b'(' | b')' | b'"')
                    };
                    let length = line[at..].iter().take_while(|byte| is_plain(byte)).count();
                    pattern.extend_from_slice(&line[at..at + length]);
                    at += length;
                    space_counts = true;
                }
            }
            let spaces = line[at..].iter().take_while(|byte| is_space(**byte)).count();
            passed_space = spaces > 0;
            at += spaces;
        }
        Ok(pattern)
    }
}

/// A word at the start of a line, and what follows.
fn keyword(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.iter().take_while(|byte| !is_space(**byte)).count())
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<String, String> {
        let item = read(text.as_bytes(), Some("f")).next().expect("an item")?;
        Ok(format!("{} {} {}", item.action.name(), item.object, item.pattern))
    }

    #[test]
    fn patterns_keep_quotes_and_lose_white_space_that_means_nothing() {
        for (text, expected) in [
            ("include table t", "include table t"),
            ("INCLUDE Table T", "include table T"),
            ("# c\n\n  exclude\tschema  s # c", "exclude schema s"),
            ("include function f ( integer,text )", "include function f(integer, text)"),
            (
                "include function \"f\"  (integer  ,  double   precision)",
                "include function \"f\"(integer, double precision)",
            ),
            ("include table public . t#x", "include table public.t"),
            ("include table \"a\n\"\"b\"  c", "include table \"a\n\"\"b\" c"),
            ("include trigger t   tr", "include trigger t tr"),
        ] {
            assert_eq!(one(text).unwrap(), expected);
        }
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, expected) in [
            ("\ninclude", "missing filter object type"),
            ("\ninclude table", "missing object name pattern"),
            ("\ninclude x t", "unsupported filter object type: \"x\""),
            ("\nfoo table t", "invalid filter command (expected \"include\" or \"exclude\")"),
            ("\n!include table t", "invalid filter command (expected \"include\" or \"exclude\")"),
            ("\ninclude # c", "unsupported filter object type: \"#\""),
            ("\ninclude table \"a", "unexpected end of file"),
        ] {
            let expected = format!("invalid format in filter read from file \"f\" on line 2: {expected}");
            assert_eq!(one(text).unwrap_err(), expected);
        }
    }
}
