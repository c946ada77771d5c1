//! The reports of a whole life on a real server, as text and as JSON. `docs/reference/json.md` must name every key.

use std::collections::BTreeSet;

use insta::assert_snapshot;
use pgkeep_testkit::{Cluster, wait_for};
use serde_json::Value;

use crate::support::{Place, path_text, redactions};

const REFERENCE: &str = include_str!("../../../../docs/reference/json.md");

/// Numbers that differ from run to run, and sentences for people.
const MEASURED: [&str; 31] = [
    "freed_bytes",
    "seconds",
    "time_to_first_query_seconds",
    "verified_pack_bytes",
    "pack_bytes",
    "frames",
    "pages",
    "wal_files",
    "stored_as",
    "plan",
    "scratch",
    "size_bytes",
    "local_bytes",
    "kept_blocks",
    "fetched_blocks",
    "zeroed_blocks",
    "stored_bytes",
    "unique_bytes",
    "segments",
    "removed_wal_files",
    "read_bytes",
    "new_bytes",
    "unchanged_files",
    "wal_segments",
    "verified_wal_segments",
    "files",
    "system_identifier",
    "server_version",
    "next_steps",
    "text",
    "hint",
];

fn without_measures(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                if MEASURED.contains(&key.as_str()) {
                    *value = Value::from(format!("[{key}]"));
                } else {
                    without_measures(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(without_measures),
        _ => {}
    }
}

fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                // The user's own words are not ours to document.
                into.insert(key.clone());
                if key != "annotations" && key != "settings" {
                    keys(value, into);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

/// Runs a verb with `--json`: one object, every key documented; its shape is the snapshot.
#[track_caller]
fn json(place: &Place, name: &str, arguments: &[&str]) -> Value {
    let printed = place.succeed(&[arguments, &["--json"]].concat());
    let value: Value = serde_json::from_str(&printed).expect("exactly one object");
    let mut found = BTreeSet::new();
    keys(&value, &mut found);
    for key in found {
        assert!(REFERENCE.contains(&format!("`{key}`")), "docs/reference/json.md lacks `{key}` of {name}");
    }
    let mut shape = value.clone();
    without_measures(&mut shape);
    let shape = serde_json::to_string_pretty(&shape).unwrap();
    assert_snapshot!(format!("json_{name}"), place.without_paths(&shape));
    value
}

/// What a test made as root belongs to the server's user, as what is around it.
fn chown_like(model: &std::path::Path, tree: &std::path::Path) {
    let status = std::process::Command::new("chown")
        .args(["-R", "-h", "--reference", &path_text(model), &path_text(tree)])
        .status()
        .expect("chown runs");
    assert!(status.success());
}

/// A damaged dump on a repository of its own: the place and the database are told.
#[test]
fn damage_of_a_dump_is_told_with_its_place() {
    let cluster = Cluster::builder(14).start();
    let place = Place::new();
    let conninfo = cluster.conninfo();
    place.succeed(&["init", "--repo", "repo", "-d", &conninfo]);
    cluster.sql("CREATE TABLE t AS SELECT md5(i::text) FROM generate_series(1, 1000) AS i");
    place.succeed(&["dump", "--repo", "repo", "-d", &conninfo, "-q"]);
    let dump = std::fs::read_dir(place.path("repo/main/dump")).unwrap().next().unwrap().unwrap().path();
    let pack = dump.join("pack-000001");
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    for verb in [&["dump", "verify"][..], &["verify"]] {
        let text = place.show(&[verb, &["--repo", "repo"]].concat());
        for part in ["exit code 17", "is damaged", "pack-000001 at offset 64, database postgres", "checksum"]
        {
            assert!(text.contains(part), "{verb:?}: {part}: {text}");
        }
    }
    let export = place.show(&["dump", "export", "--repo", "repo", "latest", "--output", "out.dump"]);
    assert!(export.contains("is corrupt at offset 64"), "{export}");
    assert!(!place.path("out.dump").exists());
}

/// What goes to standard output is the archive alone.
#[test]
fn a_dump_to_standard_output_is_the_archive_alone() {
    let cluster = Cluster::builder(18).start();
    let place = Place::new();
    let conninfo = cluster.conninfo();
    let output = place.command(&["dump", "-d", &conninfo, "--output", "-"]).output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"PGDMP"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is complete"));
    let refused = place.show(&["dump", "-d", &conninfo, "--output", "-", "--format", "directory"]);
    assert!(refused.contains("exit code 2") && refused.contains("hint:"), "{refused}");
}

/// An archive outside of a repository is verified by itself.
#[test]
fn an_archive_in_a_file_is_verified() {
    let cluster = Cluster::builder(18).start();
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i");
    let place = Place::new();
    place.succeed(&["dump", "-d", &cluster.conninfo(), "--output", "app.dump", "--compress", "none"]);
    let output = place.command(&["dump", "verify", "--file", "app.dump", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &report["rows"], &report["compared"]),
        (&true.into(), &1000.into(), &1.into())
    );
    let mut bytes = std::fs::read(place.path("app.dump")).unwrap();
    let at = bytes.windows(5).position(|bytes| bytes == b"\n777\n").unwrap() + 1;
    // Another number: only the index knows better.
    bytes[at] = b'8';
    std::fs::write(place.path("app.dump"), bytes).unwrap();
    let output = place.command(&["dump", "verify", "--file", "app.dump"]).output().unwrap();
    assert_eq!(output.status.code(), Some(17));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        told.contains("TABLE DATA public.t") && told.contains("is not what the archive's index says"),
        "{told}"
    );
    assert!(place.show(&["dump", "verify", "--file", "nothing.dump"]).contains("hint: correct the path"));
}

/// Damage on a repository of its own: every key of it is documented.
#[test]
fn damage_is_told_with_documented_keys() {
    let cluster = Cluster::builder(18).start();
    let place = Place::new();
    let conninfo = cluster.conninfo();
    place.succeed(&["init", "--repo", "repo", "-d", &conninfo]);
    place.succeed(&["backup", "--repo", "repo", "-d", &conninfo, "-q"]);
    let backups = place.path("repo/main/backup");
    let backup = std::fs::read_dir(backups).unwrap().next().unwrap().unwrap().path();
    let pack = backup.join("pack-000001");
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let output = place.command(&["verify", "--repo", "repo", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(17));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    let mut found = BTreeSet::new();
    keys(&report, &mut found);
    for key in found {
        assert!(REFERENCE.contains(&format!("`{key}`")), "docs/reference/json.md lacks `{key}`");
    }
    let text = place.show(&["verify", "--repo", "repo"]);
    for part in [
        "exit code 17",
        "1 damaged place",
        "pack-000001 at offset",
        "needed by 000001-",
        "no backup restores",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let list = place.show(&["list", "--repo", "repo"]);
    assert!(list.contains("broken") && list.contains("damage that `pgkeep verify` found"), "{list}");
}

#[test]
fn every_report_has_its_shape() {
    let cluster = Cluster::builder(18).start();
    let place = Place::new();
    let conninfo = cluster.conninfo();
    redactions().bind(|| {
        json(&place, "init", &["init", "--repo", "repo", "-d", &conninfo]);
        assert_snapshot!("text_init", place.show(&["init", "--repo", "repo", "-d", &conninfo]));
        assert_snapshot!(
            "text_init_apply",
            place.show(&["init", "--apply", "--repo", "repo", "-d", &conninfo])
        );
        cluster.restart();
        json(&place, "check", &["check", "--repo", "repo", "-d", &conninfo]);

        json(&place, "backup_dry_run", &["backup", "--repo", "repo", "-d", &conninfo, "--dry-run"]);
        let backup = ["backup", "--repo", "repo", "-d", &conninfo, "--jobs", "2", "--annotate", "ticket=17"];
        let report = json(&place, "backup", &backup);
        cluster.sql("CREATE TABLE t (a int)");
        cluster.sql("INSERT INTO t VALUES (1)");
        let segment = cluster.switch_wal();
        wait_for(std::time::Duration::from_secs(30), || {
            (cluster.sql("SELECT last_archived_wal FROM pg_stat_archiver") >= segment).then_some(())
        })
        .expect("the segment is archived");

        let list = json(&place, "list", &["list", "--repo", "repo"]);
        assert_eq!(list["backups"][0]["id"], report["id"]);
        assert_snapshot!("text_list", place.show(&["list", "--repo", "repo"]));
        json(&place, "show", &["show", "latest", "--repo", "repo"]);
        assert_snapshot!("text_show", place.show(&["show", "latest", "--repo", "repo"]));

        json(&place, "hold", &["hold", "latest", "--reason", "audit", "--repo", "repo"]);
        let expire = ["expire", "--repo", "repo", "--keep-count", "7", "--dry-run"];
        json(&place, "expire_dry_run", &expire);
        assert_snapshot!("release", place.show(&["release", "latest", "--repo", "repo"]));
        json(&place, "expire", &["expire", "--repo", "repo", "--keep-count", "1", "--grace", "0s"]);

        json(&place, "restore_dry_run", &["restore", "--repo", "repo", "--dry-run", "new"]);
        assert_snapshot!(
            "text_restore_dry_run",
            place.show(&["restore", "--repo", "repo", "--dry-run", "new"])
        );
        json(&place, "restore", &["restore", "--repo", "repo", "--target", "immediate", "new"]);

        let onto = ["restore", "--repo", "repo", "--target", "immediate", "--delta", "new"];
        place.write("new/base/notes/a.txt", "mine");
        std::fs::remove_file(place.path("new/PG_VERSION")).unwrap();
        assert_snapshot!("text_restore_delta_refused", place.show(&onto));
        place.write("new/PG_VERSION", "18\n");
        std::os::unix::fs::symlink("/", place.path("new/base/link")).unwrap();
        chown_like(&place.path("new/global"), &place.path("new"));
        assert_snapshot!("text_restore_delta_dry_run", place.show(&[&onto[..], &["--dry-run"]].concat()));
        json(&place, "restore_delta_dry_run", &[&onto[..], &["--dry-run"]].concat());
        json(&place, "restore_delta", &onto);
        assert_snapshot!("text_restore_delta", place.show(&onto));
        json(&place, "verify_dry_run", &["verify", "--repo", "repo", "--dry-run"]);
        json(&place, "verify", &["verify", "--repo", "repo"]);
        assert_snapshot!("text_verify", place.show(&["verify", "--repo", "repo", "-q"]));
        assert_snapshot!("text_list_verified", place.show(&["list", "--repo", "repo"]));
        let programs = cluster.installation().program("postgres");
        let programs = programs.parent().unwrap().to_str().unwrap();
        place.directory("drill");
        let drill = ["verify", "--repo", "repo", "--restore", "--directory", "drill", "--bin-dir", programs];
        json(&place, "drill", &[&drill[..], &["--target", "immediate"]].concat());
        json(&place, "show_verified", &["show", "latest", "--repo", "repo"]);

        cluster.sql("CREATE DATABASE app");
        cluster.sql_db("app", "CREATE TABLE t AS SELECT generate_series(1, 100) AS i");
        let dump = ["dump", "--repo", "repo", "-d", &conninfo, "-q"];
        json(&place, "dump_dry_run", &[&dump[..], &["--all", "--dry-run"]].concat());
        let taken = json(&place, "dump", &[&dump[..], &["--all", "--annotate", "ticket=18"]].concat());
        json(&place, "list_dumps", &["list", "--repo", "repo"]);
        assert_snapshot!("text_list_dumps", place.show(&["list", "--repo", "repo"]));
        assert_snapshot!("text_dump", place.show(&[&dump[..], &["app"]].concat()));
        let schema = ["app", "--output", "app.sql", "--format", "plain", "--schema-only"];
        assert_snapshot!("text_dump_file", place.show(&[&dump[..], &schema].concat()));
        let id = taken["id"].as_str().unwrap();
        let export = ["dump", "export", "--repo", "repo", id];
        json(&place, "dump_export", &[&export[..], &["--database", "app", "--output", "app.dump"]].concat());
        assert_snapshot!(
            "text_dump_export",
            place.show(&[&export[..], &["--globals", "--output", "g"]].concat())
        );
        assert_snapshot!("dump_export_ambiguous", place.show(&[&export[..], &["--output", "x"]].concat()));
        json(&place, "dump_verify", &["dump", "verify", "--repo", "repo", "-q", id]);
        assert_snapshot!("text_dump_verify", place.show(&["dump", "verify", "--repo", "repo", "-q"]));
        let keep = ["expire", "--repo", "repo", "--keep-dump-count", "1", "--grace", "0s", "-q"];
        json(&place, "expire_dumps", &[&keep[..], &["--dry-run"]].concat());
        assert_snapshot!("text_expire_dumps", place.show(&keep));

        json(&place, "wal_get", &["wal", "get", "--repo", "repo", &segment, "fetched"]);
        std::fs::rename(place.path("fetched"), place.path(&segment)).unwrap();
        json(&place, "wal_push", &["wal", "push", "--repo", "repo", &segment]);
        json(&place, "version", &["version"]);
    });

    let absent =
        place.command(&["wal", "get", "--repo", "repo", "0000000100000000000000FF", "x"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(absent.stdout.is_empty() && absent.stderr.is_empty());
}

#[test]
fn the_error_object_is_documented() {
    for key in ["error", "kind", "message", "causes", "hints", "exit_code"] {
        assert!(REFERENCE.contains(&format!("`{key}`")), "{key}");
    }
}
