//! Mistakes that need no server: each is told in one form, with what to do next.

use insta::assert_snapshot;

use crate::support::Place;

#[test]
fn a_misspelt_verb_is_corrected() {
    assert_snapshot!(Place::new().show(&["bakcup"]));
}

#[test]
fn a_misspelt_option_is_corrected() {
    assert_snapshot!(Place::new().show(&["backup", "--compres", "zstd"]));
}

#[test]
fn an_option_of_another_verb_is_refused() {
    assert_snapshot!(Place::new().show(&["list", "--jobs", "2"]));
}

#[test]
fn an_unknown_value_is_corrected() {
    assert_snapshot!(Place::new().show(&["backup", "--source", "steram"]));
}

#[test]
fn a_value_that_does_not_parse_says_why() {
    assert_snapshot!(Place::new().show(&["restore", "--target-lsn", "12345", "d"]));
}

#[test]
fn a_bad_number_of_jobs_says_what_is_expected() {
    assert_snapshot!(Place::new().show(&["backup", "--repo", "r", "--jobs", "0"]));
}

#[test]
fn two_targets_contradict_each_other() {
    let arguments = ["restore", "--target-time", "2026-01-01 00:00:00+00", "--target-xid", "7", "d"];
    assert_snapshot!(Place::new().show(&arguments));
}

#[test]
fn exclusive_needs_something_to_exclude() {
    assert_snapshot!(Place::new().show(&["restore", "--repo", "r", "--target-exclusive", "d"]));
}

#[test]
fn an_action_needs_a_target() {
    assert_snapshot!(Place::new().show(&["restore", "--repo", "r", "--target-action", "promote", "d"]));
}

#[test]
fn a_missing_argument_is_named() {
    assert_snapshot!(Place::new().show(&["restore", "--repo", "r"]));
}

#[test]
fn an_expire_without_a_policy_says_how_to_give_one() {
    let place = Place::new();
    place.directory("empty");
    assert_snapshot!(place.show(&["expire", "--repo", "empty", "--keep-min", "3"]));
}

#[test]
fn a_span_without_a_unit_that_exists_says_what_is_expected() {
    assert_snapshot!(Place::new().show(&["expire", "--repo", "r", "--keep-window", "1 month"]));
}

#[test]
fn a_missing_repository_says_the_three_ways_to_name_one() {
    assert_snapshot!(Place::new().show(&["list"]));
}

#[test]
fn help_by_dash_h_is_pointed_to_where_dash_h_is_a_host() {
    assert_snapshot!(Place::new().show(&["list", "-h"]));
}

#[test]
fn a_directory_that_is_no_repository_is_told() {
    let place = Place::new();
    place.directory("empty");
    assert_snapshot!(place.show(&["list", "--repo", "empty"]));
}

#[test]
fn json_puts_the_error_into_one_object() {
    assert_snapshot!(Place::new().show(&["list", "--json"]));
    assert_snapshot!(Place::new().show(&["list", "--json", "--frobnicate"]));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = place.command(&["config", "show"]).stdout(writer).output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_behind_the_output_is_a_failure() {
    let place = Place::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command(&["config", "show"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(15));
}

#[test]
fn colour_is_only_for_terminals_unless_asked_for() {
    let place = Place::new();
    let stderr = |variables: &[(&str, &str)]| {
        let mut command = place.command(&["list"]);
        command.envs(variables.iter().copied());
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(!stderr(&[]).contains('\x1b'));
    assert!(stderr(&[("PG_COLOR", "always")]).contains('\x1b'));
    assert!(!stderr(&[("PG_COLOR", "never")]).contains('\x1b'));
}
