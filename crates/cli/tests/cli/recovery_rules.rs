//! The exit codes that PostgreSQL reads: `wal get` never says "not there" for any other reason, `wal push` never
//! ends the archiver.

use crate::support::Place;

fn code(place: &Place, arguments: &[&str]) -> i32 {
    place.command(arguments).output().unwrap().status.code().unwrap()
}

#[test]
fn whatever_is_wrong_wal_get_does_not_claim_that_the_file_is_absent() {
    let place = Place::new();
    place.directory("empty");
    place.write("broken.toml", "rpeo = 1\n");
    let segment = "000000010000000000000001";
    for arguments in [
        &["wal", "get"][..],
        &["wal", "get", "--frobnicate", segment, "x"],
        &["wal", "get", segment, "x"],
        &["wal", "get", segment, "x", "--repo", "absent"],
        &["wal", "get", segment, "x", "--repo", "empty"],
        &["wal", "get", segment, "x", "--repo", "empty", "--stanza", "a/b"],
        &["wal", "get", segment, "x", "--repo", "empty", "--config", "broken.toml"],
        &["--repo", "empty", "wal", "--json", "get", segment, "x"],
    ] {
        assert_eq!(code(&place, arguments), 200, "{arguments:?}");
    }
}

#[test]
fn a_standby_is_told_to_go_on_with_streaming() {
    let arguments = ["wal", "get", "--standby", "--repo", "absent", "000000010000000000000001", "x"];
    assert_eq!(code(&Place::new(), &arguments), 1);

    // The server runs the command in its data directory.
    let place = Place::new();
    let arguments = ["wal", "get", "--repo", "absent", "000000010000000000000001", "pg_wal/RECOVERYXLOG"];
    assert_eq!(code(&place, &arguments), 200);
    place.write("standby.signal", "");
    assert_eq!(code(&place, &arguments), 1);
}

#[test]
fn whatever_is_wrong_wal_push_lets_the_archiver_live() {
    let place = Place::new();
    place.directory("empty");
    for arguments in [
        &["wal", "push"][..],
        &["wal", "push", "--frobnicate"],
        &["wal", "push", "000000010000000000000001", "--repo", "absent"],
        &["wal", "push", "000000010000000000000001", "--repo", "empty"],
    ] {
        let code = code(&place, arguments);
        assert!((1..=125).contains(&code), "{arguments:?} exits with {code}");
    }
}
