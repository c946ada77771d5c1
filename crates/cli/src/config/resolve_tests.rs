//! Tests of the layers' order and of the types.

use super::*;
use crate::config::raw::parse;

fn file(name: &str, text: &str) -> RawFile {
    parse(Path::new(name), text).unwrap()
}

fn flag(path: &'static str, option: &'static str, text: &str) -> Flag {
    Flag { path, option, text: text.to_owned() }
}

fn run(files: Vec<RawFile>, variables: &[(&str, &str)], flags: &[Flag]) -> Result<Resolved> {
    let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let around =
        Surroundings { variables: &variables, working_directory: Path::new("/work dir"), processors: 7 };
    resolve(files, &around, flags)
}

fn winner(resolved: &Resolved, path: &str) -> String {
    let given = &resolved.winners[path];
    format!("{} from {}", given.text, given.origin)
}

#[test]
fn every_built_in_value_is_valid() {
    let resolved = run(vec![], &[], &[]).unwrap();
    assert_eq!(resolved.settings.stanza, "main");
    assert_eq!(resolved.settings.backup.jobs, 7);
    assert_eq!(resolved.settings.backup.archive_timeout_seconds, 60);
    assert!(resolved.settings.repository().is_err());
}

#[test]
fn a_higher_layer_wins() {
    let files = || {
        vec![
            file("/etc/a.toml", "backup.jobs = 1\n[stanza.orders]\nbackup.jobs = 3\n"),
            file("/etc/b.toml", "backup.jobs = 2\n"),
        ]
    };
    let jobs = |variables: &[(&str, &str)], flags: &[Flag]| {
        winner(&run(files(), variables, flags).unwrap(), "backup.jobs")
    };
    assert_eq!(jobs(&[], &[]), "2 from /etc/b.toml:1");
    assert_eq!(jobs(&[("PGKEEP_STANZA", "orders")], &[]), "3 from /etc/a.toml:3");
    assert_eq!(jobs(&[], &[flag("stanza", "--stanza", "orders")]), "3 from /etc/a.toml:3");
    let variables = [("PGKEEP_STANZA", "orders"), ("PGKEEP_BACKUP_JOBS", "4")];
    assert_eq!(jobs(&variables, &[]), "4 from environment variable PGKEEP_BACKUP_JOBS");
    assert_eq!(jobs(&variables, &[flag("backup.jobs", "--jobs", "5")]), "5 from option --jobs");
}

#[test]
fn a_relative_repository_is_made_absolute_but_not_in_a_file() {
    let flags = [flag("repo", "--repo", "b")];
    assert_eq!(run(vec![], &[], &flags).unwrap().settings.repository().unwrap(), "/work dir/b");
    let url = [("PGKEEP_REPO", "file:///srv/b")];
    assert_eq!(run(vec![], &url, &[]).unwrap().settings.repository().unwrap(), "file:///srv/b");
    assert!(run(vec![file("/etc/a.toml", "repo = 'b'")], &[], &[]).is_err());
}

#[test]
fn a_variable_that_is_nearly_ours_is_an_error_and_a_foreign_one_is_not() {
    let error = run(vec![], &[("PGKEEP_BACKUP_JOBBS", "1")], &[]).unwrap_err();
    assert_eq!(error.hints, ["did you mean PGKEEP_BACKUP_JOBS?"]);
    assert!(run(vec![], &[("PGKEEP_RPEO", "/x")], &[]).is_err());
    assert!(run(vec![], &[("PGKEEP_ARCHIVE_LEVEL", "1")], &[]).is_err());
    assert!(run(vec![], &[("PGKEEP_CACHE", "/x")], &[]).is_ok());
}

#[test]
fn a_bad_value_says_what_was_expected_and_where_it_was_written() {
    let error = run(vec![file("/etc/a.toml", "\nbackup.jobs = 0")], &[], &[]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "`0` is not a value for `backup.jobs`: expected a whole number from 1 to 256"
    );
    assert_eq!(error.hints, ["correct it: /etc/a.toml:2"]);

    let error = run(vec![], &[], &[flag("backup.compress", "--compress", "zstd:99")]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
}

#[test]
fn durations_have_units_and_bounds() {
    let seconds = |text: &str| {
        duration(&Given { path: "backup.archive_timeout", text: text.to_owned(), origin: Origin::BuiltIn })
            .ok()
    };
    assert_eq!(seconds("90"), Some(90));
    assert_eq!(seconds("15min"), Some(900));
    assert_eq!(seconds("2 h"), Some(7200));
    for bad in ["", "0", "-1s", "1.5h", "10 weeks", "99999999999999999999", "31d", "min"] {
        assert_eq!(seconds(bad), None, "{bad}");
    }
}

#[test]
fn a_stanza_is_a_plain_name() {
    let stanza = |text: &str| run(vec![], &[], &[flag("stanza", "--stanza", text)]).is_ok();
    assert!(stanza("orders-2.eu_west"));
    for bad in ["", ".", "..", "a/b", "a b", "-x", "pgkeep", "ä", &"x".repeat(64)] {
        assert!(!stanza(bad), "{bad}");
    }
}
