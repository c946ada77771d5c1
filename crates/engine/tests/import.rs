//! Base backups of `pg_basebackup` come in, restore and start; what comes out again is what came in; what is damaged, foreign
//! or incomplete is refused and leaves nothing that is listed.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod exchange_support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Site, all_digests, said, tree};
use exchange_support::{fill, pg_basebackup, pg_verifybackup};
use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_format::tar::{END_OF_ARCHIVE, TarEntry, TarEntryKind, padding_of};
use pgkeep_testkit::{Cluster, Scratch, run_as_server_user};
use serde_json::Value;

fn place_of(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.create_dir(name, 0o700)
}

/// What a refused import says; nothing may be listed after it.
#[track_caller]
fn refused(site: &Site, arguments: &[&str]) -> String {
    let before = site.run(&["list"])["backups"].as_array().unwrap().len();
    let output = site.command(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    assert_eq!(site.run(&["list"])["backups"].as_array().unwrap().len(), before);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Restores the newest backup, and compares all tables.
#[track_caller]
fn prove(site: &Site, major: u32, space: u32, expected: &BTreeMap<String, String>) {
    let mut request = site.request(RecoveryTarget::Immediate);
    if space > 0 {
        let place = place_of(
            &site.scratch,
            &format!("back-{}", request.destination.file_name().unwrap().to_string_lossy()),
        );
        request.tablespace_map = vec![(space.to_string(), place)];
    }
    let copy = site.bring_back(major, &request);
    assert_eq!(all_digests(&copy), *expected);
}

fn oid_of_space(cluster: &Cluster) -> u32 {
    cluster.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'beside'").parse().unwrap()
}

fn formats(major: u32) {
    let site = Site::new();
    let cluster = Cluster::builder(major).start();
    fill(&cluster, &site.scratch);
    site.init(&cluster);
    let space = oid_of_space(&cluster);
    let expected = all_digests(&cluster);
    let identifier = cluster.sql("SELECT system_identifier FROM pg_control_system()");
    let mut parent = Value::Null;
    for (name, arguments) in [
        ("plain", &["-Fp", "-X", "stream"][..]),
        ("tar", &["-Ft", "-X", "stream"]),
        ("gz", &["-Ft", "-z", "-X", "fetch", "--manifest-checksums", "SHA256"]),
        ("bare", &["-Fp", "-X", "fetch", "--manifest-checksums", "NONE"]),
    ] {
        let directory = place_of(&site.scratch, name);
        pg_basebackup(&cluster, &directory, arguments);
        let report = site.run(&["import", &directory.display().to_string()]);
        assert!(report["id"].is_string(), "{report}");
        assert_eq!(report["proved_by_manifest"], true);
        assert_eq!(report["system_identifier"], identifier.as_str());
        // Each builds on the one before, and costs what changed.
        assert_eq!(report["parent"], parent, "{report}");
        if !parent.is_null() {
            assert!(report["new_bytes"].as_u64().unwrap() < 2 << 20, "{report}");
        }
        parent = report["id"].clone();
        prove(&site, major, space, &expected);
    }
    // They are backups like any other.
    let list = site.run(&["list"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), 4, "{list}");
    let report = site.run(&["verify"]);
    assert_eq!(report["damage"].as_array().unwrap().len(), 0, "{report}");
}

#[test]
fn backups_of_14_come_in() {
    formats(14);
}

#[test]
fn backups_of_15_come_in() {
    formats(15);
}

#[test]
fn backups_of_16_come_in() {
    formats(16);
}

#[test]
fn backups_of_17_come_in() {
    formats(17);
}

#[test]
fn backups_of_18_come_in() {
    formats(18);
}

/// The files of a backup, without what an export may say in its own way.
fn files_of(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut files = tree(directory);
    files.retain(|path, _| !path.starts_with("pg_wal") && path != Path::new("backup_manifest"));
    files
}

#[test]
fn what_goes_out_is_what_came_in() {
    for major in [15, 18] {
        let site = Site::new();
        let cluster = Cluster::builder(major).start();
        cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 30000) i; CREATE INDEX ON t (i)");
        site.init(&cluster);
        let came = place_of(&site.scratch, "came");
        pg_basebackup(&cluster, &came, &["-Fp", "-X", "stream"]);
        drop(cluster);
        let imported = site.run(&["import", &came.display().to_string()]);
        let went = place_of(&site.scratch, "went");
        site.run(&["export", imported["id"].as_str().unwrap(), "--to", &went.display().to_string()]);
        pg_verifybackup(major, &went, true);
        let (came_files, went_files) = (files_of(&came), files_of(&went));
        assert_eq!(came_files.keys().collect::<Vec<_>>(), went_files.keys().collect::<Vec<_>>());
        for (path, contents) in &came_files {
            assert!(went_files[path] == *contents, "{} differs", path.display());
        }
        // The WAL, too: whole segments are the same; what follows the end of an unfinished one is zeros in both.
        let segments = |root: &Path| -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
            let mut files = tree(&root.join("pg_wal"));
            files.retain(|path, _| path.to_string_lossy().len() == 24);
            files
        };
        assert!(segments(&came) == segments(&went));
        // And the manifest lists the same files with the same checksums.
        let lines = |root: &Path| -> Vec<String> {
            let text = fs::read_to_string(root.join("backup_manifest")).unwrap();
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| line.contains("\"Path\""))
                .map(|line| line.trim_end_matches(',').to_owned())
                // Files are touched while they are copied: their times are the copy's.
                .map(|line| {
                    let (before, rest) = line.split_once(", \"Last-Modified\"").unwrap();
                    let after = rest.split_once(", \"Checksum-Algorithm\"").unwrap().1;
                    format!("{before}{after}")
                })
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&came), lines(&went));
    }
}

#[test]
fn a_stanza_is_made_for_a_cluster_that_is_gone() {
    let site = Site::new();
    let cluster = Cluster::builder(17).fresh_identity().start();
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let expected = all_digests(&cluster);
    let came = place_of(&site.scratch, "came");
    pg_basebackup(&cluster, &came, &["-Ft"]);
    drop(cluster);
    let came = came.display().to_string();
    let output = site.command(&["import", &came]).output().unwrap();
    assert!(said(&output).contains("--init"), "{}", said(&output));
    site.run(&["import", "--init", &came]);
    prove(&site, 17, 0, &expected);
}

#[test]
fn damage_is_refused_by_the_name_of_the_file() {
    let site = Site::new();
    let cluster = Cluster::builder(18).start();
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 30000) i");
    site.init(&cluster);
    let good = place_of(&site.scratch, "good");
    pg_basebackup(&cluster, &good, &["-Fp", "-X", "stream"]);
    let file = cluster.sql("SELECT pg_relation_filepath('t')");
    drop(cluster);
    // What is done to a copy, and what the refusal must name.
    type Harm<'a> = (&'a str, &'a str, &'a dyn Fn(&Path));
    let damage: [Harm<'_>; 7] = [
        ("flipped", &file, &|copy| {
            let mut bytes = fs::read(copy.join(&file)).unwrap();
            bytes[40_000] ^= 1;
            fs::write(copy.join(&file), bytes).unwrap();
        }),
        ("shorter", &file, &|copy| {
            let bytes = fs::read(copy.join(&file)).unwrap();
            fs::write(copy.join(&file), &bytes[..bytes.len() - 8192]).unwrap();
        }),
        ("missing", &file, &|copy| fs::remove_file(copy.join(&file)).unwrap()),
        ("extra", "base/stray", &|copy| fs::write(copy.join("base/stray"), "x").unwrap()),
        ("manifest", "backup_manifest", &|copy| {
            let path = copy.join("backup_manifest");
            let text = fs::read_to_string(&path).unwrap().replacen("\"Size\": 3", "\"Size\": 4", 1);
            fs::write(path, text).unwrap();
        }),
        ("started", "postmaster.pid", &|copy| fs::write(copy.join("postmaster.pid"), "1\n").unwrap()),
        ("link", "base/link", &|copy| {
            std::os::unix::fs::symlink("/etc/passwd", copy.join("base/link")).unwrap();
        }),
    ];
    for (name, told, harm) in damage {
        let copy = place_of(&site.scratch, "copy");
        fs::remove_dir_all(&copy).unwrap();
        let mut command = Command::new("cp");
        command.arg("-a").arg(&good).arg(&copy);
        run_as_server_user(&mut command);
        assert!(command.status().unwrap().success());
        harm(&copy);
        let text = refused(&site, &["import", &copy.display().to_string()]);
        assert!(text.contains(told), "{name}: {text}");
    }
    // Without its manifest only if that is said, and then it is taken as it is.
    let copy = place_of(&site.scratch, "copy");
    fs::remove_file(copy.join("base/link")).unwrap();
    fs::remove_file(copy.join("backup_manifest")).unwrap();
    let copy = copy.display().to_string();
    assert!(refused(&site, &["import", &copy]).contains("--without-manifest"));
    // Nobody says where it ends: no manifest, and this cluster archived nothing.
    assert!(refused(&site, &["import", "--without-manifest", &copy]).contains("where this backup ends"));
    assert!(
        refused(&site, &["import", &site.scratch.path().display().to_string()]).contains("no base backup")
    );
}

#[test]
fn another_clusters_backup_is_refused() {
    let site = Site::new();
    let (ours, theirs) = (Cluster::builder(18).start(), Cluster::builder(18).fresh_identity().start());
    site.init(&ours);
    for format in ["-Fp", "-Ft"] {
        let directory = place_of(&site.scratch, format);
        pg_basebackup(&theirs, &directory, &[format]);
        let text = refused(&site, &["import", &directory.display().to_string()]);
        assert!(text.contains("belongs to another cluster"), "{text}");
    }
    // Its WAL is not taken either.
    let wal = site.scratch.path().join("-Fp/pg_wal").display().to_string();
    let text = refused(&site, &["wal", "import", &wal]);
    assert!(text.contains("refused"), "{text}");
    assert!(!site.repository().join("main/wal/000001/00000001").exists());
}

#[test]
fn wal_that_is_missing_is_named_and_a_folder_brings_it() {
    let site = Site::new();
    let archive = place_of(&site.scratch, "archive");
    let cluster = Cluster::builder(17)
        .conf("archive_mode", "on")
        .conf("archive_command", format!("cp %p {}/%f", archive.display()))
        .start();
    site.init(&cluster);
    let directory = place_of(&site.scratch, "b");
    pg_basebackup(&cluster, &directory, &["-Ft", "-X", "none"]);
    cluster.sql("CREATE TABLE later AS SELECT generate_series(1, 500) AS i");
    let last = cluster.switch_wal();
    pgkeep_testkit::wait_until("the archive", common::LIMIT, || archive.join(&last).exists());
    let expected = all_digests(&cluster);
    drop(cluster);

    let directory = directory.display().to_string();
    let text = refused(&site, &["import", &directory]);
    assert!(text.contains("missing: 0000000100000000"), "{text}");
    // As Barman keeps it: in folders, compressed, without a suffix.
    let wals = place_of(&site.scratch, "wals");
    let folder = wals.join("0000000100000000");
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(&archive).unwrap() {
        let path = entry.unwrap().path();
        let zipped = Command::new("gzip").arg("-c").arg(&path).output().unwrap();
        fs::write(folder.join(path.file_name().unwrap()), zipped.stdout).unwrap();
    }
    fs::write(wals.join("xlog.db"), "a list\n").unwrap();
    let give = Command::new("chmod").args(["-R", "a+rX"]).arg(&wals).status().unwrap();
    assert!(give.success());
    let wals = wals.display().to_string();
    let report = site.run(&["import", &directory, "--wal", &wals]);
    assert!(report["wal"]["stored"].as_u64().unwrap() >= 3, "{report}");
    assert_eq!(report["wal"]["other_files"], 1, "{report}");
    // All of it came, so that the table made later is there.
    let copy = site.bring_back(17, &site.request(RecoveryTarget::Latest));
    assert_eq!(all_digests(&copy), expected);
    drop(copy);
    // Once more: everything is there.
    let again = site.run(&["wal", "import", &wals]);
    assert_eq!(
        (&again["stored"], &again["refused"]),
        (&Value::from(0), &Value::Array(Vec::new())),
        "{again}"
    );
    // Other bytes under a known name are refused, and kept out.
    let path = folder.join(&last);
    fs::write(&path, b"not WAL").unwrap();
    let text = refused(&site, &["wal", "import", &wals]);
    assert!(text.contains(&last), "{text}");

    // Without its manifest: the note in the archive says where the backup ends.
    fs::remove_file(Path::new(&directory).join("backup_manifest")).unwrap();
    let report = site.run(&["import", &directory, "--without-manifest", "--type", "full"]);
    assert_eq!(report["proved_by_manifest"], false);
    let copy = site.bring_back(17, &site.request(RecoveryTarget::Latest));
    assert_eq!(all_digests(&copy), expected);
}

#[test]
fn barmans_layout_comes_in() {
    let site = Site::new();
    let cluster = Cluster::builder(16).start();
    fill(&cluster, &site.scratch);
    site.init(&cluster);
    let space = oid_of_space(&cluster);
    let expected = all_digests(&cluster);
    let home = place_of(&site.scratch, "20261122T010203");
    let data = place_of(&site.scratch, "20261122T010203/data");
    pg_basebackup(&cluster, &data, &["-Fp", "-X", "stream"]);
    let stop = fs::read_to_string(data.join("backup_manifest"))
        .unwrap()
        .split_once("\"End-LSN\": \"")
        .map(|(_, rest)| rest.split('"').next().unwrap().to_owned())
        .unwrap();
    drop(cluster);
    // The tablespace lies beside, and nothing links to it; no manifest, but a note.
    fs::rename(format!("{}-space", data.display()), home.join(space.to_string())).unwrap();
    fs::remove_file(data.join(format!("pg_tblspc/{space}"))).unwrap();
    fs::write(home.join("backup.info"), format!("backup_label=None\nend_xlog={stop}\n")).unwrap();
    let home = home.display().to_string();
    let report = site.run(&["import", &home]);
    assert_eq!(report["proved_by_manifest"], true, "{report}");
    prove(&site, 16, space, &expected);
    fs::remove_file(data.join("backup_manifest")).unwrap();
    let report = site.run(&["import", &home, "--without-manifest", "--type", "full"]);
    assert_eq!(
        (&report["proved_by_manifest"], report["stop_lsn"].as_str()),
        (&Value::from(false), Some(&*stop))
    );
    prove(&site, 16, space, &expected);
}

#[test]
fn a_standbys_backup_comes_in_with_its_unfinished_segment() {
    let site = Site::new();
    let primary = Cluster::builder(18).start();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let standby = Cluster::standby_of(&primary);
    standby.wait_for_replay_of(&primary);
    site.init(&primary);
    let directory = place_of(&site.scratch, "b");
    pg_basebackup(&standby, &directory, &["-Fp", "-X", "stream"]);
    let report = site.run(&["import", &directory.display().to_string()]);
    assert_eq!(report["wal"]["unfinished"].as_array().unwrap().len(), 1, "{report}");
    let expected = all_digests(&primary);
    // WAL ends here, with the backup.
    let copy = site.bring_back(18, &site.request(RecoveryTarget::Immediate));
    assert_eq!(all_digests(&copy), expected);
    drop(copy);
    // The server may still archive the whole segment.
    primary.sql("INSERT INTO t VALUES (0)");
    let segment = primary.switch_wal();
    let path = primary.data_dir().join("pg_wal").join(&segment);
    let mut copied = PathBuf::from(site.scratch.path());
    copied.push(&segment);
    fs::write(&copied, fs::read(&path).unwrap()).unwrap();
    let report = site.run(&["wal", "push", &copied.display().to_string()]);
    assert_eq!(report["outcome"], "stored", "{report}");
}

/// Waits until the server has summarized its WAL, takes an incremental backup.
fn incremental(cluster: &Cluster, directory: &Path, before: &Path) {
    cluster.sql("CHECKPOINT");
    let manifest = before.join("backup_manifest");
    pg_basebackup(cluster, directory, &["-Fp", "-X", "stream", "-i", &manifest.display().to_string()]);
}

fn chains(major: u32) {
    let site = Site::new();
    let cluster = Cluster::builder(major).conf("summarize_wal", "on").start();
    fill(&cluster, &site.scratch);
    cluster.sql("CREATE TABLE cut AS SELECT i, repeat('x', 500) AS text FROM generate_series(1, 5000) i");
    site.init(&cluster);
    let space = oid_of_space(&cluster);
    let place = |name: &str| place_of(&site.scratch, name);
    let (full, first, second) = (place("full"), place("first"), place("second"));
    pg_basebackup(&cluster, &full, &["-Fp", "-X", "stream"]);
    // Rows go and the file gets shorter, then longer again: what was cut off must not come back.
    cluster.sql("DELETE FROM cut WHERE i > 1000; UPDATE plain SET text = 'first' WHERE i % 500 = 0");
    cluster.sql("VACUUM cut");
    incremental(&cluster, &first, &full);
    cluster.sql("INSERT INTO cut SELECT i, 'again' FROM generate_series(1, 3000) i; INSERT INTO away VALUES (0, 'second')");
    incremental(&cluster, &second, &first);
    let expected = all_digests(&cluster);
    drop(cluster);
    assert!(fs::read_to_string(second.join("backup_label")).unwrap().contains("INCREMENTAL FROM"));

    let [full, first, second] = [&full, &first, &second].map(|path| path.display().to_string());
    for (arguments, told) in [
        (vec!["import", &second], "oldest first"),
        (vec!["import", &full, &second], "builds on a backup"),
        (vec!["import", &second, &first, &full], "builds on a backup"),
        (vec!["import", &full, &full], "full backup, and not the first"),
    ] {
        let text = refused(&site, &arguments);
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    // Damage in a backup in the middle is found, though only some of its blocks are used.
    let base = Path::new(&first).join("base");
    let part = tree(&base).into_keys().find(|path| path.to_string_lossy().contains("INCREMENTAL.")).unwrap();
    let part = base.join(part);
    let good = fs::read(&part).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&part, bad).unwrap();
    let text = refused(&site, &["import", &full, &first, &second]);
    assert!(text.contains(&*part.file_name().unwrap().to_string_lossy()), "{text}");
    fs::write(&part, good).unwrap();

    let report = site.run(&["import", &full, &first, &second]);
    assert_eq!(report["proved_by_manifest"], true, "{report}");
    prove(&site, major, space, &expected);
    let report = site.run(&["verify"]);
    assert_eq!(report["damage"].as_array().unwrap().len(), 0, "{report}");
}

#[test]
fn chains_of_17_come_in_as_one_backup() {
    chains(17);
}

#[test]
fn chains_of_18_come_in_as_one_backup() {
    chains(18);
}

fn append(archive: &mut Vec<u8>, path: &str, kind: TarEntryKind, link: &str, contents: &[u8]) {
    let entry = TarEntry {
        path: b"placeholder".to_vec(),
        kind,
        size: contents.len() as u64,
        mode: 0o600,
        mtime: 0,
        link: link.as_bytes().to_vec(),
    };
    let mut header = entry.header().unwrap();
    // Written past the checks of our own writer.
    header[..100].fill(0);
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(contents);
    archive.resize(archive.len() + padding_of(contents.len() as u64) as usize, 0);
}

#[test]
fn hostile_names_lead_nowhere() {
    let site = Site::new();
    let cluster = Cluster::builder(18).start();
    site.init(&cluster);
    let set = place_of(&site.scratch, "b");
    pg_basebackup(&cluster, &set, &["-Ft"]);
    drop(cluster);
    let good = fs::read(set.join("base.tar")).unwrap();
    let manifest = fs::read_to_string(set.join("backup_manifest")).unwrap();
    for (path, kind, link) in [
        ("../outside", TarEntryKind::File, ""),
        ("/etc/pgkeep-was-here", TarEntryKind::File, ""),
        ("base/../../outside", TarEntryKind::File, ""),
        ("PG_VERSION", TarEntryKind::File, ""),
        ("base/unlisted", TarEntryKind::File, ""),
    ] {
        let mut hostile = Vec::new();
        append(&mut hostile, path, kind, link, b"x");
        hostile.extend_from_slice(&good);
        fs::write(set.join("base.tar"), &hostile).unwrap();
        let text = refused(&site, &["import", &set.display().to_string()]);
        assert!(text.contains("error"), "{path}: {text}");
    }
    // Cut off, and rubbish.
    for bytes in [&good[..good.len() / 2], b"rubbish", &[]] {
        fs::write(set.join("base.tar"), bytes).unwrap();
        refused(&site, &["import", &set.display().to_string()]);
    }
    // A manifest that names what lies outside.
    fs::write(set.join("base.tar"), [&good[..], &END_OF_ARCHIVE].concat()).unwrap();
    fs::write(set.join("backup_manifest"), manifest.replace("\"PG_VERSION\"", "\"../PG_VERSION\"")).unwrap();
    let text = refused(&site, &["import", &set.display().to_string()]);
    assert!(text.contains("backup_manifest"), "{text}");
    fs::write(set.join("backup_manifest"), manifest).unwrap();
    site.run(&["import", &set.display().to_string()]);
}

#[test]
fn an_import_that_is_killed_leaves_no_backup_and_the_next_one_succeeds() {
    let site = Site::new();
    let cluster = Cluster::builder(16).start();
    cluster.sql("CREATE TABLE t AS SELECT i, md5(i::text) AS text FROM generate_series(1, 200000) i");
    site.init(&cluster);
    let directory = place_of(&site.scratch, "b");
    pg_basebackup(&cluster, &directory, &["-Fp"]);
    let expected = all_digests(&cluster);
    drop(cluster);
    let directory = directory.display().to_string();
    for milliseconds in [50, 200, 500] {
        let mut child = site
            .command(&["import", &directory, "--compress", "zstd:9", "-j", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        // A fast machine may have finished: then there is nothing to kill.
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(site.run(&["list"])["backups"].as_array().unwrap().len(), 0);
        }
    }
    site.run(&["import", &directory]);
    prove(&site, 16, 0, &expected);
    std::io::stdout().flush().unwrap();
}
