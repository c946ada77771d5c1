//! Every command that the documentation shows is one that the program understands.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::Cli;

fn pages(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            into.push(path);
        }
    }
}

/// The words of a line as a shell would see them, up to a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some(_), inside) => words.last_mut().unwrap().push(inside),
            (None, '\'' | '"') => quote = Some(character),
            (None, '#') if words.last().unwrap().is_empty() => break,
            (None, ' ') => words.push(String::new()),
            (None, other) => words.last_mut().unwrap().push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn the_documentation_shows_only_commands_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = vec![root.join("README.md")];
    pages(&root.join("docs"), &mut files);
    let mut found = 0;
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let mut in_code = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
                continue;
            }
            let line = line.trim().trim_start_matches("$ ").trim_start_matches("sudo -u postgres ");
            if !in_code || !line.starts_with("pgkeep ") || line.contains(['…', '|', '<', '\\']) {
                continue;
            }
            found += 1;
            let words = words(line);
            if let Some(outcome) = crate::front::understands(&words) {
                outcome.unwrap_or_else(|mistake| panic!("{}: `{line}`: {mistake}", file.display()));
                continue;
            }
            if let Err(error) = Cli::try_parse_from(words) {
                let is_help = error.exit_code() == 0;
                assert!(is_help, "{}: `{line}`: {error}", file.display());
            }
        }
    }
    assert!(found > 20, "only {found} commands were found");
}
