//! Errors: `error:`, the causes indented, an empty line, hints. Under `--json` one object, last on stderr.

use pgkeep_engine::Error;

use super::style::{Palette, Role};

/// For people.
pub(crate) fn text(error: &Error, palette: Palette) -> String {
    let mut shown = format!("{} {}\n", palette.paint(Role::Error, "error:"), indented(&error.message, "  "));
    for cause in &error.causes {
        shown.push_str(&format!("  caused by: {}\n", indented(cause, "    ")));
    }
    if !error.hints.is_empty() {
        shown.push('\n');
    }
    for hint in &error.hints {
        shown.push_str(&format!("{} {}\n", palette.paint(Role::Hint, "hint:"), indented(hint, "  ")));
    }
    shown
}

/// For programs.
pub(crate) fn json(error: &Error, exit_code: u8) -> String {
    let object = serde_json::json!({
        "error": {
            "kind": error.kind,
            "message": error.message,
            "causes": error.causes,
            "hints": error.hints,
            "exit_code": exit_code,
        }
    });
    format!("{object}\n")
}

/// Servers and file systems send texts of several lines; the further ones must not look like new entries. Control
/// characters, which could move the cursor or hide text, are shown as such.
fn indented(text: &str, by: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        match character {
            '\n' => {
                shown.push('\n');
                shown.push_str(by);
            }
            '\t' => shown.push('\t'),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use pgkeep_engine::ErrorKind;

    use super::*;

    fn example() -> Error {
        Error::new(ErrorKind::WalGap, "cannot restore `main` to 2026-11-20 09:00:00+00")
            .cause("WAL segment 00000002000000070000004A is not in the archive")
            .cause("first line\nsecond line\x1b[2J")
            .hint("the latest reachable time is 2026-11-20 08:41:12+00")
            .hint("`pgkeep check` lists every gap")
    }

    #[test]
    fn causes_and_hints_stand_below_the_message() {
        insta::assert_snapshot!(text(&example(), Palette::plain()), @r"
        error: cannot restore `main` to 2026-11-20 09:00:00+00
          caused by: WAL segment 00000002000000070000004A is not in the archive
          caused by: first line
            second line\u{1b}[2J

        hint: the latest reachable time is 2026-11-20 08:41:12+00
        hint: `pgkeep check` lists every gap
        ");
    }

    #[test]
    fn json_is_one_line_with_the_exit_code() {
        let line = json(&example(), 9);
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["error"]["kind"], "wal_gap");
        assert_eq!(value["error"]["exit_code"], 9);
    }
}
