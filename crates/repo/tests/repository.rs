//! Repositories and stanzas: making them, and what is refused.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::*;
use pgkeep_repo::*;

#[test]
fn a_repository_is_made_once() {
    let place = Place::new();
    let made = place.repository();
    assert!(matches!(Repository::create(place.store(), now()), Err(RepoError::RepositoryExists { .. })));
    let opened = Repository::open(Store::open(&format!("file://{}", place.location)).unwrap()).unwrap();
    assert_eq!(opened.id(), made.id());
    assert_eq!(opened.created(), now());
}

#[test]
fn a_place_that_holds_something_else_is_refused() {
    let place = Place::new();
    let store = place.store();
    std::fs::create_dir(place.path("lost+found")).unwrap();
    std::fs::write(place.path("PG_VERSION"), "17").unwrap();
    match Repository::create(store, now()) {
        Err(RepoError::NotEmpty { entry, .. }) => assert_eq!(entry, "PG_VERSION"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_that_no_object_has_are_in_the_way_too() {
    let place = Place::new();
    let store = place.store();
    std::fs::write(place.path("My Documents"), "").unwrap();
    assert!(matches!(Repository::create(store, now()), Err(RepoError::NotEmpty { .. })));
}

#[test]
fn what_is_not_a_repository_is_said_to_be_none() {
    let place = Place::new();
    assert!(matches!(Store::open(&place.location), Err(RepoError::NotARepository { .. })));
    let store = place.store();
    assert!(matches!(Repository::open(store), Err(RepoError::NotARepository { .. })));
    for location in ["", "s3://bucket/x", "file://relative", "/dev/null"] {
        assert!(matches!(Store::open(location), Err(RepoError::BadLocation { .. })), "{location}");
    }
}

#[test]
fn a_newer_format_or_feature_is_refused_by_name() {
    for (json, word) in [
        (r#"{"format": 2, "other": []}"#, "format 2"),
        (r#"{"format": 1, "required_features": ["telepathy"]}"#, "telepathy"),
        (
            r#"{"format": 1, "repository_id": "00000000000000000000000000000000", "created": "2026-11-22T09:30:00Z",
                "cipher": "aes-256-gcm"}"#,
            "aes-256-gcm",
        ),
    ] {
        let place = Place::new();
        place.repository();
        // The newest record counts.
        place.store().put_new("pgkeep/repo-000002.json", json).unwrap();
        match Repository::open(place.store()) {
            Err(error @ RepoError::NewerFormat { .. }) => {
                assert!(error.to_string().contains(word), "{error}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_broken_record_is_corrupt() {
    for json in ["", "{", "[]", r#"{"format": "one"}"#, r#"{"format": 1}"#] {
        let place = Place::new();
        place.repository();
        place.store().put_new("pgkeep/repo-000002.json", json).unwrap();
        assert!(matches!(Repository::open(place.store()), Err(RepoError::Corrupt { .. })), "{json}");
    }
}

#[test]
fn an_unknown_stanza_is_answered_with_those_that_exist() {
    let place = Place::new();
    let repository = place.repository();
    repository.create_stanza("main", &cluster()).unwrap();
    repository.create_stanza("test", &cluster()).unwrap();
    match repository.stanza("mian") {
        Err(RepoError::StanzaNotFound { name, existing }) => {
            assert_eq!((name.as_str(), existing), ("mian", vec!["main".to_owned(), "test".to_owned()]));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(repository.create_stanza("main", &cluster()), Err(RepoError::StanzaExists { .. })));
    assert!(matches!(repository.stanza("../main"), Err(RepoError::BadStanzaName { .. })));
}

#[test]
fn the_history_grows_by_records() {
    let place = Place::new();
    let stanza = place.stanza();
    let upgraded = ClusterRecord { system_identifier: 8, major: 18, ..cluster() };
    let stanza = stanza.add_record(&upgraded).unwrap();
    assert_eq!(stanza.records().iter().map(|r| r.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(stanza.record_for(8).unwrap().major, 18);
    assert_eq!(stanza.record_for(cluster().system_identifier).unwrap().sequence, 1);
    assert!(stanza.record_for(9).is_none());
    let odd = ClusterRecord { block_size: 1000, ..cluster() };
    assert!(matches!(stanza.add_record(&odd), Err(RepoError::Unrepresentable { .. })));
}

#[test]
fn nobody_else_reaches_the_files() {
    let place = Place::new();
    // Made beforehand by somebody with wide permissions.
    std::fs::create_dir(&place.location).unwrap();
    place.stanza();
    for folder in ["pgkeep", "main"] {
        let mode = std::fs::metadata(place.path(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{folder}: {mode:o}");
    }
    let fresh = Place::new();
    fresh.store();
    assert_eq!(std::fs::metadata(&fresh.location).unwrap().permissions().mode() & 0o007, 0);
}

#[test]
fn reports_are_kept_in_order() {
    let place = Place::new();
    let stanza = place.stanza();
    let first = stanza.put_report(now(), "backup", b"{}".to_vec()).unwrap();
    let second =
        stanza.put_report(now() + jiff::SignedDuration::from_secs(1), "check", b"[]".to_vec()).unwrap();
    assert_eq!(stanza.reports().unwrap(), [first.clone(), second]);
    assert_eq!(stanza.report(&first).unwrap(), b"{}");
    assert!(stanza.put_report(now(), "../x", Vec::new()).is_err());
    assert_eq!((first.time(), first.verb()), (Some(now()), Some("backup")));
    // Within one second too, whatever the random part of their names.
    let micros = |n| now() + jiff::SignedDuration::from_micros(n);
    let quick: Vec<_> =
        (10..30).map(|n| stanza.put_report(micros(n), "sample-alarm", Vec::new()).unwrap()).collect();
    let kept: Vec<_> =
        stanza.reports().unwrap().into_iter().filter(|name| name.verb() == Some("sample-alarm")).collect();
    assert_eq!(kept, quick);
    assert_eq!(quick[0].time(), Some(micros(10)));
}
