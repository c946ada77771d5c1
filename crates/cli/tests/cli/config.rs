//! The configuration as the program reads and shows it.

use insta::assert_snapshot;

use crate::support::Place;

const CONFIG: &str = r#"
repo = "/srv/backup"

[connection]
conninfo = "host=db user=backup password=s3cret"

[backup]
jobs = 2

[stanza.orders]
backup.compress = "lz4"
"#;

#[test]
fn every_value_is_shown_with_its_origin_and_without_passwords() {
    let place = Place::new();
    place.write(".config/pgkeep/config.toml", CONFIG);
    let mut command = place.command(&["config", "show", "--origin", "--stanza", "orders"]);
    command.env("PGKEEP_BACKUP_WAL", "archive").env("PGKEEP_RESTORE_JOBS", "3");
    assert_snapshot!(place.shown(&mut command));
}

#[test]
fn what_is_shown_can_be_a_configuration_file() {
    let place = Place::new();
    place.write("first.toml", CONFIG);
    let shown = place.succeed(&["config", "show", "--config", "first.toml"]);
    place.write("second.toml", &shown);
    assert_eq!(place.succeed(&["config", "show", "--config", "second.toml"]), shown);
}

#[test]
fn json_has_every_setting() {
    let place = Place::new();
    place.write("c.toml", CONFIG);
    let shown = place.succeed(&["config", "show", "--json", "--config", "c.toml"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["settings"]["backup.jobs"]["value"], "2");
    assert_eq!(shown["settings"]["backup.jobs"]["origin"], "c.toml:8");
    assert_eq!(shown["settings"]["restore.spool"]["value"], serde_json::Value::Null);
}

#[test]
fn the_reference_page_names_every_setting_with_its_variable_and_default() {
    let page = include_str!("../../../../docs/reference/config.md");
    let shown = Place::new().succeed(&["config", "show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    for (path, setting) in shown["settings"].as_object().unwrap() {
        let variable = format!("PGKEEP_{}", path.replace('.', "_").to_uppercase());
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{path}` | `{variable}` |")))
            .unwrap_or_else(|| panic!("docs/reference/config.md has no row for `{path}`, `{variable}`"));
        // The number of jobs is the machine's.
        if let (Some(value), false) = (setting["value"].as_str(), path.ends_with(".jobs")) {
            assert!(row.contains(&format!("| `{value}` |")), "{row} lacks the built-in value `{value}`");
        }
    }
}

#[test]
fn a_misspelt_setting_is_an_error_with_its_place_and_the_nearest_name() {
    let place = Place::new();
    place.write(".config/pgkeep/config.toml", "repo = '/srv/b'\n\n[backup]\ncompres = 'lz4'\n");
    assert_snapshot!(place.show(&["list"]));
}

#[test]
fn a_misspelt_variable_is_an_error() {
    let place = Place::new();
    assert_snapshot!(place.shown(place.command(&["list"]).env("PGKEEP_BACKUP_JOB", "2")));
}

#[test]
fn a_bad_value_says_where_it_was_written() {
    let place = Place::new();
    place.write(".config/pgkeep/config.toml", "[backup]\narchive_timeout = '5 minutes'\n");
    assert_snapshot!(place.show(&["config", "show"]));
}

#[test]
fn a_file_that_is_not_toml_is_told_by_line() {
    let place = Place::new();
    place.write("c.toml", "repo = '/srv/b'\n[backup\n");
    assert_snapshot!(place.show(&["list", "--config", "c.toml"]));
}

#[test]
fn a_named_file_that_is_absent_is_an_error() {
    assert_snapshot!(Place::new().show(&["list", "--config", "absent.toml"]));
}
