//! Command lines as GNU's `getopt_long` reads them, on which PostgreSQL's programs are built.
//!
//! Short options may be bundled (`-vFc`) and have their value attached (`-j3`) or in the next word; long ones may be cut
//! as long as they are not ambiguous, and have their value after `=` or in the next word. Options and operands mix; `--`
//! ends the options; `-` alone is an operand. Words are bytes: names of databases may be in any encoding.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// An option that a program knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionSpec<K> {
    /// Without the dashes; empty when there is only a short one.
    pub(crate) long: &'static str,
    /// The letter.
    pub(crate) short: Option<u8>,
    /// Whether a value follows.
    pub(crate) takes_value: bool,
    /// What it means. Equal keys are one option with several names, which are never ambiguous.
    pub(crate) key: K,
}

/// An option without a value; a letter of 0 is none.
pub(crate) const fn flag<K: Copy>(long: &'static str, short: u8, key: K) -> OptionSpec<K> {
    OptionSpec { long, short: if short == 0 { None } else { Some(short) }, takes_value: false, key }
}

/// An option with a value; a letter of 0 is none.
pub(crate) const fn value<K: Copy>(long: &'static str, short: u8, key: K) -> OptionSpec<K> {
    OptionSpec { takes_value: true, ..flag(long, short, key) }
}

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommandLine<K> {
    /// Options in their order.
    pub(crate) options: Vec<(K, OsString)>,
    /// The other words.
    pub(crate) operands: Vec<OsString>,
    /// What ended the reading early, in the words of `getopt_long` without the program's name. Options before it count:
    /// a mistake in one of their values comes first.
    pub(crate) mistake: Option<String>,
}

/// Reads the words after the program's name.
pub(crate) fn parse<K: Copy + PartialEq>(specs: &[OptionSpec<K>], words: &[OsString]) -> CommandLine<K> {
    let mut line = CommandLine { options: Vec::new(), operands: Vec::new(), mistake: None };
    line.mistake = read(specs, words, &mut line).err();
    line
}

fn read<K: Copy + PartialEq>(
    specs: &[OptionSpec<K>],
    words: &[OsString],
    line: &mut CommandLine<K>,
) -> Result<(), String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            line.operands.extend(words.cloned());
            break;
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            let (name, value) = match long.iter().position(|byte| *byte == b'=') {
                Some(at) => (&long[..at], Some(OsStr::from_bytes(&long[at + 1..]).to_owned())),
                None => (long, None),
            };
            let spec = find_long(specs, name)?;
            let value = match (spec.takes_value, value) {
                (true, Some(value)) => value,
                (true, None) => words
                    .next()
                    .cloned()
                    .ok_or_else(|| format!("option '--{}' requires an argument", spec.long))?,
                (false, None) => OsString::new(),
                (false, Some(_)) => {
                    return Err(format!("option '--{}' doesn't allow an argument", spec.long));
                }
            };
            line.options.push((spec.key, value));
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            let mut letters = &bytes[1..];
            while let Some((letter, rest)) = letters.split_first() {
                let spec = specs.iter().find(|spec| spec.short == Some(*letter)).ok_or_else(|| {
                    format!("invalid option -- '{}'", OsStr::from_bytes(&[*letter]).to_string_lossy())
                })?;
                letters = rest;
                let mut value = OsString::new();
                if spec.takes_value {
                    value = if rest.is_empty() {
                        words.next().cloned().ok_or_else(|| {
                            format!("option requires an argument -- '{}'", char::from(*letter))
                        })?
                    } else {
                        OsString::from_vec(rest.to_vec())
                    };
                    letters = &[];
                }
                line.options.push((spec.key, value));
            }
        } else {
            line.operands.push(word.clone());
        }
    }
    Ok(())
}

fn find_long<'a, K: Copy + PartialEq>(
    specs: &'a [OptionSpec<K>],
    name: &[u8],
) -> Result<&'a OptionSpec<K>, String> {
    let shown = String::from_utf8_lossy(name);
    let known = || specs.iter().filter(|spec| !spec.long.is_empty());
    if let Some(exact) = known().find(|spec| spec.long.as_bytes() == name) {
        return Ok(exact);
    }
    let candidates: Vec<_> = known().filter(|spec| spec.long.as_bytes().starts_with(name)).collect();
    match candidates.as_slice() {
        [] => Err(format!("unrecognized option '--{shown}'")),
        [first, rest @ ..] if rest.iter().all(|other| other.key == first.key) => Ok(first),
        _ => {
            let names: Vec<String> = candidates.iter().map(|spec| format!(" '--{}'", spec.long)).collect();
            Err(format!("option '--{shown}' is ambiguous; possibilities:{}", names.concat()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Key {
        Verbose,
        Format,
        NoPrivileges,
        NoPassword,
    }

    const SPECS: &[OptionSpec<Key>] = &[
        OptionSpec { long: "verbose", short: Some(b'v'), takes_value: false, key: Key::Verbose },
        OptionSpec { long: "format", short: Some(b'F'), takes_value: true, key: Key::Format },
        OptionSpec { long: "no-privileges", short: Some(b'x'), takes_value: false, key: Key::NoPrivileges },
        OptionSpec { long: "no-acl", short: None, takes_value: false, key: Key::NoPrivileges },
        OptionSpec { long: "no-password", short: Some(b'w'), takes_value: false, key: Key::NoPassword },
    ];

    fn shown(words: &[&str]) -> Result<String, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let line = parse(SPECS, &words);
        line.mistake.map_or_else(|| Ok(format!("{:?} {:?}", line.options, line.operands)), Err)
    }

    #[test]
    fn values_are_attached_or_follow_and_words_mix() {
        for (words, expected) in [
            (&["-vFc", "x"][..], r#"[(Verbose, ""), (Format, "c")] ["x"]"#),
            (&["-F", "c", "-"], r#"[(Format, "c")] ["-"]"#),
            (&["-F=c"], r#"[(Format, "=c")] []"#),
            (&["a", "--format", "-v", "b"], r#"[(Format, "-v")] ["a", "b"]"#),
            (&["--form=", "--", "-v"], r#"[(Format, "")] ["-v"]"#),
            (
                &["--verb", "--no-pr", "--no-a"],
                r#"[(Verbose, ""), (NoPrivileges, ""), (NoPrivileges, "")] []"#,
            ),
        ] {
            assert_eq!(shown(words).unwrap(), expected, "{words:?}");
        }
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_the_c_library() {
        for (words, expected) in [
            (&["--nonsense"][..], "unrecognized option '--nonsense'"),
            (&["-q"], "invalid option -- 'q'"),
            (&["-F"], "option requires an argument -- 'F'"),
            (&["--format"], "option '--format' requires an argument"),
            (&["--verbose=1"], "option '--verbose' doesn't allow an argument"),
            (&["--no-p"], "option '--no-p' is ambiguous; possibilities: '--no-privileges' '--no-password'"),
        ] {
            assert_eq!(shown(words).unwrap_err(), expected);
        }
    }
}
