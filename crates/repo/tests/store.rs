//! The store on a local directory: write-once, and errors that say what happened.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use bytes::Bytes;
use common::*;
use pgkeep_repo::*;

#[test]
fn an_object_is_created_once() {
    let place = Place::new();
    let store = place.store();
    assert!(store.put_new("a/b", "one").unwrap());
    assert!(!store.put_new("a/b", "two").unwrap());
    assert_eq!(store.get("a/b").unwrap(), "one");
    assert_eq!(store.head("a/b").unwrap(), Some(3));
    assert_eq!(store.head("a/c").unwrap(), None);
    assert!(matches!(store.get("a/c"), Err(RepoError::NotFound { .. })));
    assert!(matches!(store.upload("a/b"), Err(RepoError::AlreadyExists { .. })));
}

#[test]
fn an_upload_exists_when_it_is_finished_and_never_replaces() {
    let place = Place::new();
    let store = place.store();
    let mut upload = store.upload("a/b").unwrap();
    let mut rival = store.upload("a/b").unwrap();
    for _ in 0..3 {
        upload.write(Bytes::from(vec![1; 5 << 20])).unwrap();
    }
    rival.write("rival").unwrap();
    assert_eq!(store.list("").unwrap(), []);
    upload.finish().unwrap();
    assert_eq!(store.head("a/b").unwrap(), Some(15 << 20));
    assert!(matches!(rival.finish(), Err(RepoError::AlreadyExists { .. })));
    assert_eq!(store.head("a/b").unwrap(), Some(15 << 20));
    store.upload("a/c").unwrap().abort();
    drop(store.upload("a/d").unwrap());
    assert_eq!(std::fs::read_dir(place.path("a")).unwrap().count(), 1);
}

#[test]
fn ranges_are_exact() {
    let place = Place::new();
    let store = place.store();
    store.put_new("a", "0123456789").unwrap();
    store.put_new("empty", "").unwrap();
    assert_eq!(store.get_range("a", 2..5).unwrap(), "234");
    assert_eq!(store.get_range("a", 2..2).unwrap(), "");
    for range in [5..11, 10..11, 20..30] {
        assert!(matches!(store.get_range("a", range), Err(RepoError::Corrupt { .. })));
    }
    assert!(matches!(store.get_range("b", 0..1), Err(RepoError::NotFound { .. })));
    assert_eq!(store.get_start("a", 4).unwrap(), (Bytes::from("0123"), 10));
    assert_eq!(store.get_start("a", 40).unwrap(), (Bytes::from("0123456789"), 10));
    assert_eq!(store.get_start("empty", 4).unwrap(), (Bytes::new(), 0));
    assert_eq!(store.get("empty").unwrap(), "");
}

#[test]
fn listings_show_objects_only() {
    let place = Place::new();
    let store = place.store();
    for key in ["s/b/2", "s/b/10", "s/a", "t"] {
        store.put_new(key, key).unwrap();
    }
    // What a crash leaves, and what does not belong here.
    std::fs::write(place.path("s/b/3#1"), "").unwrap();
    std::fs::write(place.path("s/what is this"), "").unwrap();
    let keys: Vec<String> = store.list("").unwrap().into_iter().map(|o| o.key).collect();
    assert_eq!(keys, ["s/a", "s/b/10", "s/b/2", "t"]);
    assert_eq!(store.list("s/b").unwrap().len(), 2);
    assert_eq!(store.list("nothing").unwrap(), []);
    assert_eq!(store.list_names("s").unwrap(), ["a", "b"]);
    assert_eq!(store.list_names("s/b").unwrap(), ["10", "2"]);
    assert!(store.list_names("nothing").unwrap().is_empty());
    store.delete("s/a").unwrap();
    store.delete("s/a").unwrap();
    assert_eq!(store.list_names("s").unwrap(), ["b"]);
}

#[test]
fn keys_that_could_escape_are_refused() {
    let place = Place::new();
    let store = place.store();
    for key in ["../x", "/etc/passwd", "a/../b", "a#1", "", "a b", "a//b"] {
        assert!(matches!(store.put_new(key, ""), Err(RepoError::Unrepresentable { .. })), "{key}");
        assert!(store.get(key).is_err(), "{key}");
    }
}

#[test]
fn the_directory_may_have_any_name() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["with space", "hash#1", "per%20cent", "ümlaut", "question?", "a/deep/er"] {
        let store = Store::open_or_create(directory.path().join(name).to_str().unwrap()).unwrap();
        assert!(store.put_new("a/b", name).unwrap());
        assert_eq!(store.get("a/b").unwrap(), name);
        assert_eq!(store.list("").unwrap().len(), 1, "{name}");
        assert_eq!(store.list_names("a").unwrap(), ["b"], "{name}");
        store.upload("a/c").unwrap().finish().unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.list_names("a").unwrap(), ["c"], "{name}");
    }
}

/// Root ignores permissions, so a file in the place of a folder stands for "not writable" too.
#[test]
fn failures_of_the_storage_name_the_object() {
    let place = Place::new();
    let store = place.store();
    std::fs::write(place.path("file"), "").unwrap();
    match store.put_new("file/x", "x") {
        Err(RepoError::Storage { key, .. }) => assert_eq!(key, "file/x"),
        other => panic!("{other:?}"),
    }
}

/// The limit on file sizes stands for a full disk: the same write fails, at the same place, without needing root.
#[test]
fn a_full_disk_is_said_to_be_one() {
    let place = Place::new();
    place.store();
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new("bash")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact --ignored --nocapture full_disk_child")
        .arg(program)
        .env("PGKEEP_TEST_FULL_DISK", &place.location)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("put: no space, upload: no space"), "{text}");
    assert_eq!(place.store().list("").unwrap(), []);
}

#[test]
#[ignore = "run by a_full_disk_is_said_to_be_one in a process with a limit"]
fn full_disk_child() {
    let Ok(location) = std::env::var("PGKEEP_TEST_FULL_DISK") else { return };
    let store = Store::open(&location).unwrap();
    let word =
        |error: &RepoError| if error.is_no_space() { "no space".to_owned() } else { format!("{error:?}") };
    let put = store.put_new("a/b", vec![1; 1 << 20]).unwrap_err();
    let mut upload = store.upload("a/c").unwrap();
    let failed = (0..10).find_map(|_| upload.write(vec![1; 4 << 20]).err()).unwrap();
    upload.abort();
    println!("put: {}, upload: {}", word(&put), word(&failed));
    assert_eq!(std::fs::read_dir(format!("{location}/a")).unwrap().count(), 0);
}
