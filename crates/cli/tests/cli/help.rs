//! Help of every verb, and the reference page made from it.

use std::path::Path;

use crate::support::Place;

/// Every verb, in the order of the reference.
const VERBS: [&str; 27] = [
    "",
    "init",
    "backup",
    "dump",
    "dump export",
    "dump verify",
    "restore",
    "standby",
    "standby create",
    "export",
    "import",
    "load",
    "wal",
    "wal push",
    "wal get",
    "wal receive",
    "wal import",
    "list",
    "show",
    "check",
    "expire",
    "hold",
    "release",
    "verify",
    "config",
    "config show",
    "version",
];

fn help(place: &Place, verb: &str) -> String {
    let mut words: Vec<&str> = verb.split_whitespace().collect();
    words.push("--help");
    place.succeed(&words)
}

#[test]
fn every_verb_explains_itself() {
    let place = Place::new();
    for verb in VERBS {
        let name = if verb.is_empty() { "help".to_owned() } else { format!("help {verb}") };
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_suffix => "" }, {
            insta::assert_snapshot!(name.replace(' ', "_"), help(&place, verb));
        });
    }
}

#[test]
fn every_way_to_ask_for_help_gives_the_same() {
    let place = Place::new();
    let backup = help(&place, "backup");
    assert_eq!(place.succeed(&["backup", "-?"]), backup);
    assert_eq!(place.succeed(&["help", "backup"]), backup);
    assert_eq!(place.succeed(&["-h"]), help(&place, ""));
    assert_eq!(place.succeed(&["help"]), help(&place, ""));
}

#[test]
fn every_verb_that_does_something_has_examples() {
    let place = Place::new();
    for verb in VERBS.iter().filter(|verb| !matches!(**verb, "standby" | "wal" | "config" | "version")) {
        assert!(help(&place, verb).contains("\nExamples:\n"), "{verb}");
    }
}

#[test]
fn the_reference_page_is_what_the_program_says() {
    let place = Place::new();
    let mut page = "# Commands\n\nMade from the program's own help; do not edit. `PGKEEP_UPDATE_DOCS=1 cargo test -p pgkeep help` writes it anew.\n".to_owned();
    for verb in VERBS {
        let title = if verb.is_empty() { "pgkeep".to_owned() } else { format!("pgkeep {verb}") };
        page.push_str(&format!("\n## {title}\n\n```text\n{}```\n", help(&place, verb)));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    if std::env::var_os("PGKEEP_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("the page is written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/reference/cli.md is not what the program says: run with PGKEEP_UPDATE_DOCS=1"
    );
}

#[test]
fn the_version_is_told_in_every_way() {
    let place = Place::new();
    let version = format!("pgkeep {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in [&["version"][..], &["--version"], &["-V"], &["backup", "-V"]] {
        assert_eq!(place.succeed(arguments), version, "{arguments:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&place.succeed(&["version", "--json"])).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
}
