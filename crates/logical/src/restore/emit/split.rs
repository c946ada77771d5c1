//! Cuts a stream of SQL into commands, for tables that were dumped as INSERTs.
//!
//! A command ends at a semicolon outside of `'…'` and `"…"`: that is all that such a stream contains.

/// The longest command; a server takes no longer one.
const MAX_COMMAND_LENGTH: usize = 1 << 30;

/// The state between pieces.
#[derive(Debug, Default)]
pub(super) struct CommandSplitter {
    command: Vec<u8>,
    inside: Option<u8>,
    backslash: bool,
    standard_strings: bool,
}

impl CommandSplitter {
    pub(super) fn new(standard_strings: bool) -> CommandSplitter {
        CommandSplitter { standard_strings, ..CommandSplitter::default() }
    }

    /// Takes bytes off the front of `input` up to the end of a command; none when more is needed.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<Vec<u8>> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            let byte = *byte;
            // Line ends between commands.
            if byte == b'\n' && self.command.is_empty() {
                continue;
            }
            self.command.push(byte);
            match self.inside {
                None if byte == b';' => return Some(std::mem::take(&mut self.command)),
                None if matches!(byte, b'\'' | b'"') => {
                    self.inside = Some(byte);
                    self.backslash = false;
                }
                Some(b'\'') if byte == b'\\' && !self.standard_strings => self.backslash = !self.backslash,
                Some(quote) => {
                    if byte == quote && !self.backslash {
                        self.inside = None;
                    }
                    self.backslash = false;
                }
                None => {}
            }
        }
        None
    }

    /// Whether the command grew beyond all measure.
    pub(super) fn is_too_long(&self) -> bool {
        self.command.len() > MAX_COMMAND_LENGTH
    }

    /// What is left at the end of the stream.
    pub(super) fn rest(self) -> Option<Vec<u8>> {
        (!self.command.trim_ascii().is_empty()).then_some(self.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, piece: usize, standard_strings: bool) -> Vec<String> {
        let mut splitter = CommandSplitter::new(standard_strings);
        let mut commands = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            let mut rest = piece;
            while let Some(command) = splitter.next(&mut rest) {
                commands.push(String::from_utf8(command).unwrap());
            }
        }
        commands.extend(splitter.rest().map(|rest| String::from_utf8(rest).unwrap()));
        commands
    }

    #[test]
    fn semicolons_in_quotes_end_nothing_wherever_the_pieces_are_cut() {
        let text = "INSERT INTO \"a;b\" VALUES ('x;''y');\n\nINSERT INTO t VALUES (1);\n\n\n";
        for piece in 1..text.len() {
            assert_eq!(
                split(text, piece, true),
                ["INSERT INTO \"a;b\" VALUES ('x;''y');", "INSERT INTO t VALUES (1);"]
            );
        }
    }

    #[test]
    fn a_backslash_hides_a_quote_only_where_strings_are_of_old() {
        assert_eq!(split("a '\\';b;c;", 3, true), ["a '\\';", "b;", "c;"]);
        assert_eq!(split("a '\\';b';c;", 3, false), ["a '\\';b';", "c;"]);
        assert_eq!(split("a '\\\\';c;", 3, false), ["a '\\\\';", "c;"]);
    }
}
