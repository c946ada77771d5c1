//! A server's error as libpq's programs print it: severity, message, the line of the command that it is about with a
//! caret below, detail, hint and context.

use pgkeep_wire::{Notice, ServerError, WireError};

/// Columns of a command's line that are shown.
const WIDTH: usize = 60;
/// Columns that stay to the right of the place.
const RIGHT_MARGIN: usize = 10;

/// Why the server, or the connection to it, failed, ending with a line end. `command` is what was sent, if the error can
/// point into it.
pub fn wire_text(error: &WireError, command: Option<&[u8]>) -> String {
    match error.server_error() {
        Some(server) => error_text(server, command),
        None => format!("{}\n", causes(error)),
    }
}

/// As [`wire_text`], without the line end, and without a place.
pub fn server_words(error: &WireError) -> String {
    let text = wire_text(error, None);
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

/// An error that is not the server's, with its causes.
pub fn causes(error: &WireError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The text, ending with a line end. `command` is what was sent, if the error can point into it.
fn error_text(error: &ServerError, command: Option<&[u8]>) -> String {
    let mut text = format!("{}:  {}\n", error.severity, error.message);
    if let (Some(position), Some(command)) = (error.position, command) {
        push_place(&mut text, &String::from_utf8_lossy(command), position);
    }
    for (what, part) in [("DETAIL", &error.detail), ("HINT", &error.hint), ("CONTEXT", &error.context)] {
        if let Some(part) = part {
            text.push_str(&format!("{what}:  {part}\n"));
        }
    }
    text
}

/// A notice: the same without place and, as libpq has it, without context.
pub fn notice_text(notice: &Notice) -> String {
    let mut text = format!("{}:  {}\n", notice.severity, notice.message);
    for (what, part) in [("DETAIL", &notice.detail), ("HINT", &notice.hint)] {
        if let Some(part) = part {
            text.push_str(&format!("{what}:  {part}\n"));
        }
    }
    text
}

/// Appends the line of the command with the place, cut to a width, and a caret below it. Positions count characters
/// from 1.
fn push_place(text: &mut String, command: &str, position: u32) {
    let Some(place) = usize::try_from(position).ok().and_then(|position| position.checked_sub(1)) else {
        return;
    };
    let characters: Vec<char> =
        command.chars().map(|character| if character == '\t' { ' ' } else { character }).collect();
    if place > characters.len() {
        return;
    }
    let is_end = |character: &char| matches!(character, '\n' | '\r');
    let mut begin = characters[..place].iter().rposition(is_end).map_or(0, |end| end + 1);
    let mut end =
        characters[place..].iter().position(is_end).map_or(characters.len(), |length| place + length);
    let number = 1 + characters[..begin].iter().filter(|character| **character == '\n').count();
    let (mut is_cut_left, mut is_cut_right) = (false, false);
    if end - begin > WIDTH {
        if begin + WIDTH >= place + RIGHT_MARGIN {
            end = begin + WIDTH;
            is_cut_right = true;
        } else {
            if place + RIGHT_MARGIN < end {
                end = place + RIGHT_MARGIN;
                is_cut_right = true;
            }
            if end - begin > WIDTH {
                begin = end - WIDTH;
                is_cut_left = true;
            }
        }
    }
    let head = format!("LINE {number}: {}", if is_cut_left { "..." } else { "" });
    let shown: String = characters[begin..end].iter().collect();
    let tail = if is_cut_right { "..." } else { "" };
    let blanks = head.chars().count() + (place - begin);
    text.push_str(&format!("{head}{shown}{tail}\n{:blanks$}^\n", ""));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(command: &str, position: u32) -> String {
        let mut text = String::new();
        push_place(&mut text, command, position);
        text
    }

    #[test]
    fn the_line_with_the_place_is_shown() {
        assert_eq!(place("a\nbc d\ne", 6), "LINE 2: bc d\n           ^\n");
        assert_eq!(place("abc", 4), "LINE 1: abc\n           ^\n");
        assert_eq!(place("abc", 9), "");
        assert_eq!(place("abc", 0), "");
    }

    #[test]
    fn long_lines_are_cut_on_both_sides() {
        let command = format!("{}X{}", "a".repeat(100), "b".repeat(100));
        let shown = place(&command, 101);
        assert_eq!(
            shown,
            format!("LINE 1: ...{}X{}...\n{}^\n", "a".repeat(50), "b".repeat(9), " ".repeat(11 + 50))
        );
        let shown = place(&command, 3);
        assert_eq!(shown, format!("LINE 1: {}...\n{}^\n", "a".repeat(60), " ".repeat(10)));
    }
}
