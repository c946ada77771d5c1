//! Cuts a script into statements, as psql does: at semicolons outside of quotes, comments and parentheses.
//!
//! Pure. `\connect NAME` (or `\c NAME`) on a line of its own goes on in another database; no other backslash command is
//! known.

use crate::error::{Error, ErrorKind, Result};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Go on in this database.
    Connect(String),
    /// Run this.
    Statement {
        /// The line on which it begins, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
}

/// The steps of a script; `name` is for messages.
pub(super) fn steps(name: &str, script: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut cutter = Cutter { bytes: script.as_bytes(), at: 0, line: 1 };
    let mut begin: Option<(usize, usize)> = None;
    let mut depth = 0_u32;
    while let Some(byte) = cutter.peek(0) {
        let here = (cutter.at, cutter.line);
        if cutter.skip_comment() || (begin.is_none() && byte.is_ascii_whitespace()) {
            if begin.is_none() && here.0 == cutter.at {
                cutter.step();
            }
            continue;
        }
        if begin.is_none() && byte == b'\\' {
            steps.push(cutter.command(name)?);
            continue;
        }
        if begin.is_none() && byte != b';' {
            begin = Some(here);
        }
        match byte {
            b'\'' => {
                let escapes = here.0 > 0 && matches!(cutter.bytes[here.0 - 1], b'e' | b'E') && {
                    // `E'…'`, and not the end of a longer word.
                    here.0 < 2 || !is_word(cutter.bytes[here.0 - 2])
                };
                cutter.skip_quoted(b'\'', escapes).ok_or_else(|| unfinished(name, here.1, "quotes"))?;
            }
            b'"' => {
                cutter.skip_quoted(b'"', false).ok_or_else(|| unfinished(name, here.1, "double quotes"))?;
            }
            b'$' if here.0 == 0 || !is_word(cutter.bytes[here.0 - 1]) => {
                cutter.skip_dollars().ok_or_else(|| unfinished(name, here.1, "dollar quotes"))?;
            }
            b'(' => {
                depth += 1;
                cutter.step();
            }
            b')' => {
                depth = depth.saturating_sub(1);
                cutter.step();
            }
            b';' if depth == 0 => {
                if let Some((from, line)) = begin.take() {
                    steps.push(statement(script, from, cutter.at, line));
                }
                cutter.step();
            }
            _ => cutter.step(),
        }
    }
    if let Some((from, line)) = begin {
        steps.push(statement(script, from, script.len(), line));
    }
    Ok(steps)
}

fn statement(script: &str, from: usize, to: usize, line: usize) -> Step {
    Step::Statement { line, text: script.get(from..to).unwrap_or_default().trim().to_owned() }
}

fn unfinished(name: &str, line: usize, what: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("`{name}`, line {line}: {what} that do not end"))
        .hint("psql would not run this file either: try it there")
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

struct Cutter<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Cutter<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn step(&mut self) {
        if self.peek(0) == Some(b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    /// `-- …` to the end of the line, and `/* … */`, which nest.
    fn skip_comment(&mut self) -> bool {
        match (self.peek(0), self.peek(1)) {
            (Some(b'-'), Some(b'-')) => {
                while self.peek(0).is_some_and(|byte| byte != b'\n') {
                    self.step();
                }
                true
            }
            (Some(b'/'), Some(b'*')) => {
                let mut depth = 0_u32;
                while self.peek(0).is_some() {
                    match (self.peek(0), self.peek(1)) {
                        (Some(b'/'), Some(b'*')) => {
                            depth += 1;
                            self.step();
                        }
                        (Some(b'*'), Some(b'/')) => {
                            depth -= 1;
                            self.step();
                        }
                        _ => {}
                    }
                    self.step();
                    if depth == 0 {
                        break;
                    }
                }
                true
            }
            _ => false,
        }
    }

    /// From the opening quote to behind the closing one; a doubled quote ends and begins again.
    fn skip_quoted(&mut self, quote: u8, escapes: bool) -> Option<()> {
        self.step();
        loop {
            match self.peek(0)? {
                b'\\' if escapes => {
                    self.step();
                    self.peek(0)?;
                    self.step();
                }
                byte => {
                    self.step();
                    if byte == quote {
                        return Some(());
                    }
                }
            }
        }
    }

    /// `$tag$ … $tag$`; a lone `$` is passed over.
    fn skip_dollars(&mut self) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        let tag_end = rest.iter().skip(1).position(|byte| *byte == b'$' || !is_word(*byte)).map(|p| p + 1);
        let tag = match tag_end {
            Some(end) if rest[end] == b'$' && !rest[1..end].first().is_some_and(u8::is_ascii_digit) => {
                rest.get(..=end)?.to_vec()
            }
            _ => {
                self.step();
                return Some(());
            }
        };
        for _ in 0..tag.len() {
            self.step();
        }
        while self.at < self.bytes.len() {
            if self.bytes[self.at..].starts_with(&tag) {
                for _ in 0..tag.len() {
                    self.step();
                }
                return Some(());
            }
            self.step();
        }
        None
    }

    fn command(&mut self, name: &str) -> Result<Step> {
        let line = self.line;
        let begin = self.at;
        while self.peek(0).is_some_and(|byte| byte != b'\n') {
            self.step();
        }
        let text = String::from_utf8_lossy(&self.bytes[begin..self.at]).into_owned();
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("\\connect" | "\\c"), Some(database), None) => {
                Ok(Step::Connect(database.trim_matches('"').to_owned()))
            }
            _ => Err(Error::new(
                ErrorKind::Usage,
                format!("`{name}`, line {line}: `{}` is not known", text.trim()),
            )
            .hint("of psql's own commands only `\\connect DATABASE` is understood")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<String> {
        steps("f", script)
            .unwrap()
            .into_iter()
            .map(|step| match step {
                Step::Connect(database) => format!("-> {database}"),
                Step::Statement { line, text } => format!("{line}: {text}"),
            })
            .collect()
    }

    #[test]
    fn statements_end_at_semicolons_outside_of_everything() {
        assert_eq!(
            texts("select 1;\n\n-- no; thing\nselect ';', \"a;b\", $$x;y$$, $t$ $$;$$ $t$ ;select 'it''s;';"),
            ["1: select 1", "4: select ';', \"a;b\", $$x;y$$, $t$ $$;$$ $t$", "4: select 'it''s;'"]
        );
        assert_eq!(
            texts("select E'\\';' as a; select e'\\\\';"),
            ["1: select E'\\';' as a", "1: select e'\\\\'"]
        );
        assert_eq!(texts("/* a /* ; */ ; */ select 1"), ["1: select 1"]);
        assert_eq!(texts("select 'name\\'; select $1;"), ["1: select 'name\\'", "1: select $1"]);
        assert_eq!(texts("create rule r as on insert to t do (select 1; select 2);").len(), 1);
        assert_eq!(texts(" ;; \n;"), Vec::<String>::new());
    }

    #[test]
    fn another_database_is_connected_to_and_other_commands_are_refused() {
        assert_eq!(
            texts("\\connect orders\nselect 1;\n\\c \"Two\"\n"),
            ["-> orders", "2: select 1", "-> Two"]
        );
        assert_eq!(steps("f", "\\! rm -rf /").unwrap_err().kind, ErrorKind::Usage);
    }

    #[test]
    fn what_does_not_end_is_a_mistake_with_its_line() {
        for (script, line) in [("select 1;\nselect 'x", 2), ("\n\nselect \"x", 3), ("select $a$ $b$", 1)] {
            let error = steps("f", script).unwrap_err();
            assert!(error.message.contains(&format!("line {line}")), "{error}");
        }
    }
}
