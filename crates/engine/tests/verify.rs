//! Damage of every sort in a repository: `verify` says exactly what it is and what it touches, and `list` knows of it
//! afterwards; what is not touched restores all the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Dice, Site, all_digests, said, tree};
use pgkeep_engine::restore::RecoveryTarget;
use pgkeep_engine::verify::known_damage;
use pgkeep_testkit::Cluster;
use serde_json::Value;

/// Two full backups of a table, with WAL before, between and after them.
struct Scene {
    site: Site,
    cluster: Cluster,
    first: String,
    second: String,
    /// Segments after the first backup, before the second.
    between: Vec<String>,
    /// The table's path, and its digest.
    table: String,
}

impl Scene {
    fn new(major: u32) -> Scene {
        let site = Site::new();
        let cluster = site.archiving(Cluster::builder(major).wal_segment_mib(1));
        cluster.sql(
            "CREATE TABLE t AS SELECT i, md5(i::text) AS m FROM generate_series(1, 20000) i; CHECKPOINT",
        );
        let id = |report: Value| report["id"].as_str().unwrap().to_owned();
        let first = id(site.backup(&cluster, &[]));
        let mut between = Vec::new();
        for _ in 0..3 {
            cluster.sql("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 200) i");
            between.push(site.archive_all(&cluster));
        }
        // Full, so that it shares no pack with the first.
        let second = id(site.backup(&cluster, &["--type", "full"]));
        cluster.sql("INSERT INTO t VALUES (0, 'last')");
        site.archive_all(&cluster);
        let table = cluster.sql("SELECT pg_relation_filepath('t')");
        Scene { site, cluster, first, second, between, table }
    }

    /// Runs verify and gives its exit code and report.
    #[track_caller]
    fn verify(&self, arguments: &[&str]) -> (i32, Value) {
        let all = [&["verify", "--json"], arguments].concat();
        let output = self.site.command(&all).output().unwrap();
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
        (output.status.code().unwrap(), report)
    }

    fn list(&self) -> Value {
        self.site.run(&["list"])
    }

    fn pack(&self, backup: &str) -> PathBuf {
        self.site.repository().join(format!("main/backup/{backup}/pack-000001"))
    }

    fn manifest(&self, backup: &str) -> PathBuf {
        self.site.repository().join(format!("main/backup/{backup}/manifest"))
    }

    /// The place of the table's first block in the pack of a backup.
    fn frame_of_table(&self, backup: &str) -> u64 {
        let stanza = self.site.location().open_stanza().unwrap();
        let reader = stanza.backup(backup.parse().unwrap()).unwrap();
        let entry = reader.files().map(|entry| entry.unwrap()).find(|e| e.path_text() == self.table).unwrap();
        let map = reader.map(&entry).unwrap();
        map.runs()
            .iter()
            .find_map(|run| match run.target {
                pgkeep_repo::RunTarget::Frame { frame, .. } => Some(frame.offset),
                pgkeep_repo::RunTarget::Zero => None,
            })
            .unwrap()
    }

    /// What the second backup and all WAL give, compared with the living cluster.
    #[track_caller]
    fn assert_second_restores(&self) {
        let mut request = self.site.request(RecoveryTarget::Latest);
        request.backup = Some(self.second.clone());
        let restored = self.site.bring_back(self.cluster.major(), &request);
        assert_eq!(all_digests(&restored), all_digests(&self.cluster));
    }
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The entry of `list` for a backup.
fn listed<'a>(list: &'a Value, id: &str) -> &'a Value {
    list["backups"].as_array().unwrap().iter().find(|backup| backup["id"] == id).unwrap()
}

fn ids(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect()
}

#[test]
fn a_sound_repository_is_proved_whole_and_remembered() {
    let scene = Scene::new(18);
    assert_eq!(listed(&scene.list(), &scene.first)["verified"], Value::Null);
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["damage"], serde_json::json!([]));
    assert_eq!(report["coverage"]["pack_bytes"], report["coverage"]["verified_pack_bytes"]);
    assert_eq!(report["coverage"]["wal_segments"], report["coverage"]["verified_wal_segments"]);
    assert!(report["verified"]["pages"].as_u64().unwrap() > 1000, "{report:#}");
    assert_eq!(ids(&report["good_backups"]), [scene.first.as_str(), &scene.second]);
    for id in [&scene.first, &scene.second] {
        assert_eq!(listed(&scene.list(), id)["verified"]["share_percent"], 100);
    }
    // Nothing is left for a run that only wants news.
    let (code, again) = scene.verify(&["--since-last"]);
    assert_eq!(code, 0);
    assert_eq!(again["verified"]["frames"], 0, "{again:#}");
    assert_eq!(again["verified"]["backups"], 0, "{again:#}");
    // What is added is.
    scene.cluster.sql("INSERT INTO t VALUES (0, 'more')");
    scene.site.archive_all(&scene.cluster);
    scene.site.backup(&scene.cluster, &[]);
    let (code, news) = scene.verify(&["--since-last"]);
    assert_eq!((code, &news["verified"]["backups"]), (0, &Value::from(1)), "{news:#}");
    assert_eq!(news["coverage"]["pack_bytes"], news["coverage"]["verified_pack_bytes"]);
    // What is asked for alone is read alone.
    let (code, one) = scene.verify(&["--backup", &scene.first]);
    assert_eq!((code, &one["verified"]["packs"]), (0, &Value::from(1)), "{one:#}");
}

#[test]
fn a_flipped_byte_is_told_with_table_blocks_backups_and_windows() {
    let scene = Scene::new(17);
    scene.assert_second_restores();
    let offset = scene.frame_of_table(&scene.first);
    let good = fs::read(scene.pack(&scene.first)).unwrap();
    flip(&scene.pack(&scene.first), offset + 100);

    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17, "{report:#}");
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report:#}");
    let found = &damage[0];
    assert_eq!(found["kind"], "corrupt");
    assert_eq!(found["offset"], offset);
    assert!(
        found["object"].as_str().unwrap().ends_with(&format!("{}/pack-000001", scene.first)),
        "{found:#}"
    );
    let file = found["files"].as_array().unwrap().iter().find(|f| f["path"] == scene.table.as_str()).unwrap();
    let number: u64 = scene.cluster.sql("SELECT pg_relation_filenode('t')").parse().unwrap();
    assert_eq!(file["relfilenode"], number);
    let database: u64 =
        scene.cluster.sql("SELECT oid FROM pg_database WHERE datname = current_database()").parse().unwrap();
    assert_eq!((&file["database"], &file["fork"]), (&Value::from(database), &Value::from("main")));
    assert_eq!(file["blocks"][0]["first"], 0, "{file:#}");
    assert_eq!(ids(&found["backups"]), [scene.first.as_str()]);
    assert_eq!(found["windows"][0]["backup"], scene.first.as_str());
    assert_eq!(ids(&report["good_backups"]), [scene.second.as_str()]);
    assert_eq!(ids(&report["damaged_backups"]), [scene.first.as_str()]);
    assert_eq!(report["good_windows"][0]["backup"], scene.second.as_str());

    // `list` knows, and so does whoever looks for a parent.
    let list = scene.list();
    assert_eq!(listed(&list, &scene.first)["restorable"], false);
    assert_eq!(listed(&list, &scene.first)["verified"]["damaged"], true);
    assert!(listed(&list, &scene.first)["problem"].as_str().unwrap().contains("pack-000001"), "{list:#}");
    assert_eq!(listed(&list, &scene.second)["restorable"], true);
    assert!(
        list["windows"].as_array().unwrap().iter().all(|w| w["backup"] == scene.second.as_str()),
        "{list:#}"
    );
    let known = known_damage(&scene.site.location().open_stanza().unwrap()).unwrap();
    assert!(known.is_damaged(&scene.first) && !known.is_damaged(&scene.second));
    scene.assert_second_restores();

    // Who asks about the other backup is told that it is good.
    assert_eq!(scene.verify(&["--backup", &scene.second]).0, 0);
    assert_eq!(scene.verify(&["--backup", &scene.first]).0, 17);
    // A run that only wants news still tells, and looks at the place again.
    assert_eq!(scene.verify(&["--since-last"]).0, 17);
    fs::write(scene.pack(&scene.first), good).unwrap();
    let (code, report) = scene.verify(&["--since-last"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["healed"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(listed(&scene.list(), &scene.first)["restorable"], true);
}

/// A frame that several backups share is read once, and its damage is the damage of all of them.
#[test]
fn damage_of_a_shared_frame_is_told_of_every_backup_that_needs_it() {
    let scene = Scene::new(18);
    let third = scene.site.backup(&scene.cluster, &[])["id"].as_str().unwrap().to_owned();
    let whole = scene.verify(&[]).1;
    assert_eq!(whole["ok"], true, "{whole:#}");
    let offset = scene.frame_of_table(&scene.second);
    flip(&scene.pack(&scene.second), offset + 100);
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17, "{report:#}");
    assert_eq!(report["damage"].as_array().unwrap().len(), 1, "{report:#}");
    assert_eq!(ids(&report["damage"][0]["backups"]), [scene.second.as_str(), &third]);
    assert_eq!(ids(&report["good_backups"]), [scene.first.as_str()]);
    // The next backup builds on what is sound, and is sound itself.
    let fourth = scene.site.backup(&scene.cluster, &[]);
    assert_eq!(fourth["parent"], scene.first.as_str(), "{fourth:#}");
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17);
    assert_eq!(ids(&report["good_backups"]), [scene.first.as_str(), fourth["id"].as_str().unwrap()]);
}

#[test]
fn a_missing_pack_is_one_line_with_all_that_it_held() {
    let scene = Scene::new(18);
    let good = fs::read(scene.pack(&scene.first)).unwrap();
    fs::remove_file(scene.pack(&scene.first)).unwrap();
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17, "{report:#}");
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report:#}");
    assert_eq!(damage[0]["kind"], "missing");
    let paths: Vec<&str> =
        damage[0]["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&scene.table.as_str()), "{paths:?}");
    assert_eq!(ids(&report["damaged_backups"]), [scene.first.as_str()]);
    scene.assert_second_restores();

    // A pack of which the end is gone: what is before it is told apart from what is not.
    fs::write(scene.pack(&scene.first), &good[..good.len() / 2]).unwrap();
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17);
    assert!(report["damage"].as_array().unwrap().len() >= 2, "{report:#}");
    assert_eq!(ids(&report["damaged_backups"]), [scene.first.as_str()]);
    assert_eq!(ids(&report["good_backups"]), [scene.second.as_str()]);
}

#[test]
fn a_damaged_manifest_is_named_and_the_other_backup_restores() {
    let scene = Scene::new(18);
    // In the list of files, and in the header.
    for place in [0.5, 0.02] {
        let good = fs::read(scene.manifest(&scene.first)).unwrap();
        flip(&scene.manifest(&scene.first), 130 + (good.len() as f64 * place) as u64);
        let (code, report) = scene.verify(&[]);
        assert_eq!(code, 17, "{report:#}");
        let damage = report["damage"].as_array().unwrap();
        assert_eq!(damage.len(), 1, "{report:#}");
        assert!(damage[0]["object"].as_str().unwrap().ends_with("manifest"));
        assert_eq!(ids(&damage[0]["backups"]), [scene.first.as_str()]);
        assert_eq!(ids(&report["damaged_backups"]), [scene.first.as_str()]);
        assert_eq!(listed(&scene.list(), &scene.first)["restorable"], false);
        // Asked for alone, it is found as well.
        assert_eq!(scene.verify(&["--backup", &scene.first]).0, 17);
        fs::write(scene.manifest(&scene.first), good).unwrap();
        assert_eq!(scene.verify(&[]).0, 0);
    }
    scene.assert_second_restores();
}

#[test]
fn a_wal_segment_deleted_in_the_middle_is_a_hole() {
    let scene = Scene::new(18);
    let object = scene.site.wal_object(&scene.between[1]);
    let good = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17, "{report:#}");
    let damage = report["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{report:#}");
    assert!(damage[0]["object"].as_str().unwrap().ends_with(&scene.between[1]), "{damage:#?}");
    assert_eq!(damage[0]["kind"], "missing");
    // Both backups are whole; only what lies between is not reached from the first one.
    assert_eq!(ids(&report["good_backups"]), [scene.first.as_str(), &scene.second]);
    assert_eq!(report["good_windows"].as_array().unwrap().len(), 2, "{report:#}");
    assert_eq!(scene.list()["gaps"][0]["harmful"], true);
    scene.assert_second_restores();
    fs::write(&object, good).unwrap();
    assert_eq!(scene.verify(&[]).0, 0);
}

#[test]
fn a_wal_segment_that_a_backup_needs_itself_is_missed() {
    let scene = Scene::new(18);
    let show = scene.site.run(&["show", &scene.first]);
    let needed = show["wal_first"].as_str().unwrap();
    fs::remove_file(scene.site.wal_object(needed)).unwrap();
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17, "{report:#}");
    let damage = report["damage"].as_array().unwrap();
    assert!(damage.iter().any(|d| {
        d["object"].as_str().unwrap().ends_with(needed) && ids(&d["backups"]) == [scene.first.as_str()]
    }));
    assert_eq!(ids(&report["damaged_backups"]), [scene.first.as_str()]);
    assert_eq!(listed(&scene.list(), &scene.first)["restorable"], false);
    scene.assert_second_restores();
}

#[test]
fn a_damaged_wal_segment_cuts_the_window_and_not_the_backups() {
    let scene = Scene::new(17);
    let object = scene.site.wal_object(&scene.between[1]);
    let length = fs::metadata(&object).unwrap().len();
    flip(&object, length - 20);
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17, "{report:#}");
    let damage = report["damage"].as_array().unwrap();
    assert_eq!((damage.len(), &damage[0]["kind"]), (1, &Value::from("corrupt")), "{report:#}");
    assert_eq!(damage[0]["windows"][0]["backup"], scene.first.as_str());
    assert_eq!(ids(&report["good_backups"]).len(), 2);
    let windows = scene.list()["windows"].as_array().unwrap().clone();
    assert_eq!(windows.len(), 2, "{windows:#?}");
    scene.assert_second_restores();
}

#[test]
fn wal_that_was_read_once_is_missed_at_the_end_too() {
    let scene = Scene::new(18);
    scene.cluster.sql("INSERT INTO t VALUES (0, 'end')");
    let last = scene.site.archive_all(&scene.cluster);
    assert_eq!(scene.verify(&[]).0, 0);
    fs::remove_file(scene.site.wal_object(&last)).unwrap();
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 17);
    assert!(report["damage"][0]["object"].as_str().unwrap().ends_with(&last), "{report:#}");
}

/// A block that the backup copied from a damaged page is known to the backup; one that it does not know of is news.
#[test]
fn a_page_that_was_bad_in_the_cluster_is_no_news() {
    let site = Site::new();
    let cluster = site.archiving(Cluster::builder(18));
    cluster.sql("CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i; CHECKPOINT");
    let path = cluster.data_dir().join(cluster.sql("SELECT pg_relation_filepath('t')"));
    cluster.stop(pgkeep_testkit::StopMode::Fast);
    flip(&path, 8192 * 3 + 5000);
    cluster.start();
    let report = site.backup(&cluster, &[]);
    assert_eq!(report["bad_pages"][0]["blocks"], serde_json::json!([3]), "{report:#}");
    let output = site.command(&["verify", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

#[test]
fn runs_with_a_budget_cover_the_repository_in_turn() {
    let scene = Scene::new(18);
    for _ in 0..2 {
        scene.site.backup(&scene.cluster, &[]);
    }
    let mut whole = 0;
    let mut shares = Vec::new();
    for _ in 0..8 {
        let (code, report) = scene.verify(&["--max-bytes", "5MiB"]);
        assert_eq!(code, 0, "{report:#}");
        let coverage = &report["coverage"];
        let number = |name: &str| coverage[name].as_u64().unwrap();
        whole = number("pack_bytes") + number("wal_segments");
        shares.push(number("verified_pack_bytes") + number("verified_wal_segments"));
        assert!(report["verified"]["read_bytes"].as_u64().unwrap() < 9 << 20, "{report:#}");
    }
    assert!(shares[0] < whole, "the first run has read everything: {shares:?} of {whole}");
    assert_eq!(*shares.last().unwrap(), whole, "{shares:?}");
    assert!(shares.is_sorted(), "{shares:?}");
    // From then on the oldest comes first: every pack is read again.
    let oldest = |report: &Value| report["coverage"]["oldest"].as_str().unwrap().to_owned();
    let before = oldest(&scene.verify(&["--max-bytes", "5MiB"]).1);
    for _ in 0..6 {
        scene.verify(&["--max-bytes", "5MiB"]);
    }
    let after = oldest(&scene.verify(&["--max-bytes", "5MiB"]).1);
    assert!(after > before, "{before} {after}");
    // A sample is a part, never nothing.
    let (code, report) = scene.verify(&["--sample", "10"]);
    assert_eq!(code, 0);
    let frames = report["verified"]["frames"].as_u64().unwrap();
    assert!(frames > 0 && report["verified"]["packs"] == 4, "{report:#}");
    let (_, all) = scene.verify(&[]);
    assert!(frames < all["verified"]["frames"].as_u64().unwrap());
    // Nothing is read and nothing is written by a dry run.
    let reports = || fs::read_dir(scene.site.repository().join("main/report")).unwrap().count();
    let count = reports();
    let (code, plan) = scene.verify(&["--dry-run"]);
    assert_eq!((code, reports()), (0, count));
    assert!(plan["plan"].as_array().unwrap().len() >= 9, "{plan:#}");
}

#[test]
fn every_flipped_byte_is_found() {
    let mut dice = Dice::new("verify_flips");
    let scene = Scene::new(18);
    let repository = scene.site.repository();
    let objects: Vec<PathBuf> = tree(&repository.join("main"))
        .into_keys()
        .filter(|name| name.starts_with("backup") || name.starts_with("wal"))
        .map(|name| repository.join("main").join(name))
        .filter(|path| path.is_file())
        .collect();
    let packs: Vec<&PathBuf> = objects.iter().filter(|p| p.to_string_lossy().contains("pack-")).collect();
    let mut harmless = 0;
    for round in 0..40 {
        let object = if round % 2 == 0 {
            packs[dice.below(packs.len() as u64) as usize]
        } else {
            &objects[dice.below(objects.len() as u64) as usize]
        };
        let good = fs::read(object).unwrap();
        let at = dice.below(good.len() as u64);
        let mut bad = good.clone();
        bad[at as usize] ^= 1 + dice.below(255) as u8;
        fs::write(object, &bad).unwrap();
        let (code, report) = scene.verify(&[]);
        let name = object.strip_prefix(&repository).unwrap().display().to_string();
        if code == 0 && name.ends_with("manifest") {
            // zstd has bits that mean nothing; what comes out is proved.
            harmless += 1;
        } else {
            assert_eq!(code, 17, "byte {at} of {name}: {report:#}");
            let found = report["damage"].as_array().unwrap();
            assert!(found.iter().any(|damage| damage["object"] == name), "byte {at} of {name}: {report:#}");
        }
        fs::write(object, &good).unwrap();
    }
    assert!(harmless < 4, "{harmless}");
    let (code, report) = scene.verify(&[]);
    assert_eq!(code, 0, "{report:#}");
}

/// Backups under load, crashes, a record longer than segments, a promotion: nothing of it is damage.
fn a_busy_life_is_no_damage_on(major: u32) {
    let site = Site::new();
    let primary = site.archiving(Cluster::builder(major).wal_segment_mib(1));
    primary.pgbench_init(1);
    let load = primary.pgbench_start(2);
    site.backup(&primary, &[]);
    // One record across many segments.
    primary.sql("SELECT pg_logical_emit_message(true, 'long', repeat('x', 3000000))");
    site.backup(&primary, &["--source", "stream"]);
    drop(load);
    primary.crash();
    primary.start();
    primary.sql("CREATE TABLE after_crash AS SELECT generate_series(1, 1000) AS i");
    site.archive_all(&primary);
    let command = site.archive_command();
    let settings = [("archive_mode", "on"), ("archive_command", command.as_str())];
    let standby = Cluster::standby_with(&primary, &settings);
    primary.stop(pgkeep_testkit::StopMode::Fast);
    standby.promote();
    standby.sql("CREATE TABLE after_promotion AS SELECT generate_series(1, 1000) AS i");
    site.archive_all(&standby);
    site.archive_all(&standby);
    site.backup(&standby, &[]);
    let output = site.command(&["verify", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["good_backups"].as_array().unwrap().len(), 3, "{report:#}");
    assert_eq!(report["coverage"]["wal_segments"], report["coverage"]["verified_wal_segments"]);
}

#[test]
fn a_busy_life_is_no_damage_on_14() {
    a_busy_life_is_no_damage_on(14);
}

#[test]
fn a_busy_life_is_no_damage_on_18() {
    a_busy_life_is_no_damage_on(18);
}
