//! Drills on real servers: what is restored starts and answers, and nothing of the living cluster is touched.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail loudly too")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::{LIMIT, Site, said, tree};
use pgkeep_testkit::{Cluster, installation, wait_until};
use serde_json::Value;

/// A cluster that archives, with a backup, WAL after it, and where its programs are.
struct Scene {
    site: Site,
    cluster: Cluster,
    programs: PathBuf,
}

impl Scene {
    fn new(major: u32) -> Scene {
        let site = Site::new();
        let cluster = site.archiving(Cluster::builder(major).wal_segment_mib(1));
        cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
        let programs = installation(major).program("postgres").parent().unwrap().to_owned();
        Scene { site, cluster, programs }
    }

    fn backup_and_more(&self) {
        self.site.backup(&self.cluster, &[]);
        self.cluster.sql("INSERT INTO t SELECT generate_series(1001, 1500)");
        self.site.archive_all(&self.cluster);
    }

    fn script(&self, text: &str) -> String {
        let path = self.site.scratch.path().join("checks.sql");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn directory(&self) -> PathBuf {
        self.site.scratch.create_dir("drill", 0o700)
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let programs = self.programs.display().to_string();
        let directory = self.directory().display().to_string();
        ["verify", "--restore", "--json", "--bin-dir", &programs, "--directory", &directory]
            .iter()
            .chain(more)
            .map(|word| (*word).to_owned())
            .collect()
    }

    /// Runs a drill and gives its exit code and report.
    #[track_caller]
    fn drill(&self, more: &[&str]) -> (i32, Value) {
        let arguments = self.arguments(more);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.site.command(&words).output().unwrap();
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
        self.assert_nothing_is_left();
        (output.status.code().unwrap(), report)
    }

    #[track_caller]
    fn assert_nothing_is_left(&self) {
        let left: Vec<_> = fs::read_dir(self.directory()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(servers_below(&self.directory()).is_empty());
    }
}

/// The processes that were started with a path below `folder`.
fn servers_below(folder: &Path) -> Vec<u32> {
    let text = folder.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(&text) && line.contains("postgres") && !line.contains("--restore") {
            found.push(pid);
        }
    }
    found
}

fn a_drill_succeeds_on(major: u32) {
    let scene = Scene::new(major);
    scene.backup_and_more();
    let script = scene.script(
        "-- everything that was archived is there\n\
         SELECT count(*) = 1500 AS complete FROM t;\n\
         CREATE TEMP TABLE x AS SELECT 1;\n\
         SELECT i FROM t LIMIT 1;\n\
         \\connect template1\n\
         SELECT current_database() = 'template1';\n\
         SELECT current_setting('archive_mode') = 'off' AND current_setting('listen_addresses') = '';\n",
    );
    let (code, report) = scene.drill(&["--sql", &script]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["ok"], true);
    assert_eq!(report["assertions"].as_array().unwrap().len(), 5, "{report:#}");
    assert!(report["time_to_first_query_seconds"].as_f64().unwrap() > 0.0);
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|p| p["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["prove", "restore", "consistency", "target", "questions", "stop"]);
    // Kept in the repository.
    let name = report["stored_as"].as_str().unwrap();
    assert!(scene.site.repository().join("main/report").join(name).exists());
}

#[test]
fn a_drill_succeeds_on_14() {
    a_drill_succeeds_on(14);
}

#[test]
fn a_drill_succeeds_on_16() {
    a_drill_succeeds_on(16);
}

#[test]
fn a_drill_succeeds_on_18() {
    a_drill_succeeds_on(18);
}

#[test]
fn indexes_are_checked_where_that_is_asked() {
    let scene = Scene::new(18);
    scene.cluster.sql("CREATE INDEX ON t (i)");
    scene.backup_and_more();
    let (code, report) = scene.drill(&["--amcheck", "--target", "immediate"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["amcheck"]["ok"], true, "{report:#}");
}

#[test]
fn a_wrong_answer_or_a_failing_statement_fails_the_drill() {
    let scene = Scene::new(17);
    scene.backup_and_more();
    let script = scene.script(
        "SELECT count(*) = 1500 FROM t;\nSELECT count(*) > 9999 AS many FROM t;\nSELECT 1/0;\n\
         SELECT true WHERE false;\nSELECT NULL::boolean;\nSELECT i < 1500 FROM t;\nSELECT 1;\n",
    );
    let (code, report) = scene.drill(&["--sql", &script]);
    assert_eq!(code, 18, "{report:#}");
    assert_eq!(report["failure"], Value::Null);
    let outcomes: Vec<(u64, bool)> = report["assertions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["line"].as_u64().unwrap(), a["ok"].as_bool().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [(1, true), (2, false), (3, false), (4, false), (5, false), (6, false), (7, true)],
        "{report:#}"
    );
    let problem = |index: usize| report["assertions"][index]["problem"].as_str().unwrap();
    assert!(problem(2).contains("division by zero"), "{}", problem(2));
    assert!(problem(5).contains("of 1500 is false"), "{}", problem(5));
    // A mistake in the script is told before anything is restored.
    let bad = scene.script("SELECT 'x");
    let arguments = scene.arguments(&["--sql", &bad]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = scene.site.command(&words).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    scene.assert_nothing_is_left();
}

/// As root, the server runs as the owner of the directory, or as whom the option names; never as root.
#[test]
fn root_gives_the_server_to_another_user() {
    if !pgkeep_testkit::ServerUser::current().dropped {
        return;
    }
    let scene = Scene::new(18);
    scene.backup_and_more();
    let script = scene.script("SELECT count(*) = 1500 FROM t;");
    let as_root = |directory: &Path, more: &[&str]| {
        let mut command = std::process::Command::new(pgkeep_testkit::pgkeep_binary());
        command.arg("--repo").arg(scene.site.repository()).args([
            "verify",
            "--restore",
            "--json",
            "--bin-dir",
        ]);
        command.arg(&scene.programs).args(["--sql", &script]).arg("--directory").arg(directory).args(more);
        command.output().unwrap()
    };
    let owned = as_root(&scene.directory(), &[]);
    assert_eq!(owned.status.code(), Some(0), "{}", said(&owned));
    scene.assert_nothing_is_left();
    let roots = scene.site.scratch.path().join("roots");
    fs::create_dir(&roots).unwrap();
    let refused = as_root(&roots, &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--run-as"), "{}", said(&refused));
    let named = as_root(&roots, &["--run-as", "nobody"]);
    assert_eq!(named.status.code(), Some(0), "{}", said(&named));
    assert_eq!(fs::read_dir(&roots).unwrap().count(), 0);
    assert_eq!(as_root(&roots, &["--run-as", "no_such_user"]).status.code(), Some(2));
}

/// As Debian has it: the configuration lies elsewhere, and includes more. The drill reads the copies in the backup.
#[test]
fn configuration_from_outside_comes_from_the_backup() {
    let scene = Scene::new(18);
    let cluster = &scene.cluster;
    let outside = scene.site.scratch.create_dir("etc", 0o755);
    let more = outside.join("more.conf");
    let data = cluster.data_dir().to_owned();
    fs::write(&more, "work_mem = '7MB'\n").unwrap();
    fs::write(outside.join("secret.conf"), "").unwrap();
    let own = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    let text = format!("{own}\ninclude '{}'\n", more.display());
    cluster.stop(pgkeep_testkit::StopMode::Fast);
    fs::write(outside.join("postgresql.conf"), text).unwrap();
    fs::remove_file(data.join("postgresql.conf")).unwrap();
    // The server is told by its command line, as Debian's wrapper does.
    let configuration = outside.join("postgresql.conf").display().to_string();
    let command = scene.site.archive_command();
    let settings = [
        ("config_file", configuration.as_str()),
        ("archive_mode", "on"),
        ("archive_command", command.as_str()),
    ];
    let moved = Cluster::from_data_dir(18, &data, &settings);
    let report = scene.site.backup(&moved, &[]);
    moved.sql("INSERT INTO t VALUES (0)");
    scene.site.archive_all(&moved);
    let shown = scene.site.run(&["show", report["id"].as_str().unwrap()]);
    assert_eq!(shown["external_config"].as_array().unwrap().len(), 2, "{shown:#}");
    // Changed since: the living file must not be what the drill reads.
    fs::write(&more, "work_mem = '9MB'\n").unwrap();
    let script = scene.script(
        "SELECT current_setting('work_mem') = '7MB';\n\
         SELECT current_setting('config_file') LIKE '%pgkeep-drill%';\n\
         SELECT bool_and(sourcefile LIKE '%pgkeep-drill%') FROM pg_file_settings;\n",
    );
    let (code, report) = scene.drill(&["--sql", &script]);
    assert_eq!(code, 0, "{report:#}");
}

/// All that a drill must leave alone, byte for byte.
fn living(paths: &[&Path]) -> Vec<BTreeMap<PathBuf, (u32, Vec<u8>)>> {
    paths.iter().map(|path| tree(path)).collect()
}

#[test]
fn the_living_cluster_its_tablespaces_and_the_archive_are_not_touched() {
    let scene = Scene::new(18);
    let cluster = &scene.cluster;
    let space = scene.site.scratch.create_dir("space", 0o700);
    cluster.sql(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
    cluster.sql("CREATE TABLE s TABLESPACE fast AS SELECT generate_series(1, 5000) AS i");
    // What would be disastrous if the copy did it too.
    let trap = scene.site.scratch.create_dir("trap", 0o777);
    let touch = |name: &str| format!("touch {}/{name}", trap.display());
    cluster.alter_system("recovery_end_command", &touch("recovery_end"));
    cluster.alter_system("archive_cleanup_command", &touch("archive_cleanup"));
    cluster.alter_system("external_pid_file", &format!("{}/pid", trap.display()));
    cluster.alter_system("primary_conninfo", &cluster.conninfo());
    cluster.alter_system("log_directory", &trap.display().to_string());
    cluster.alter_system("logging_collector", "on");
    scene.backup_and_more();
    cluster.stop(pgkeep_testkit::StopMode::Fast);

    let repository = scene.site.repository();
    let paths = [cluster.data_dir(), space.as_path(), repository.as_path(), trap.as_path()];
    let before = living(&paths);
    let script = scene.script(
        "SELECT count(*) = 5000 FROM s;\n\
         INSERT INTO s VALUES (0);\n\
         SELECT pg_tablespace_location(oid) LIKE '%pgkeep-drill%' FROM pg_tablespace WHERE spcname = 'fast';\n\
         DROP TABLE s;\nCHECKPOINT;\nSELECT pg_switch_wal();\n",
    );
    let (code, report) = scene.drill(&["--sql", &script]);
    assert_eq!(code, 0, "{report:#}");
    let mut after = living(&paths);
    // The report is all that is new.
    let name = PathBuf::from("main/report").join(report["stored_as"].as_str().unwrap());
    assert!(after[2].remove(&name).is_some());
    after[2].remove(Path::new("main/report"));
    for ((path, before), after) in paths.iter().zip(&before).zip(&after) {
        let changed: Vec<_> = before.iter().filter(|(name, entry)| after.get(*name) != Some(entry)).collect();
        assert!(changed.is_empty(), "{}: changed {:?}", path.display(), changed.first().map(|(n, _)| n));
        let new: Vec<_> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        assert!(new.is_empty(), "{}: new {new:?}", path.display());
    }
    cluster.start();
    assert_eq!(cluster.sql("SELECT count(*) FROM s"), "5000");
}

#[test]
fn a_library_that_is_missing_is_told() {
    let scene = Scene::new(18);
    scene.backup_and_more();
    let (code, report) = scene.drill(&["--set", "shared_preload_libraries=no_such_library"]);
    assert_eq!(code, 18, "{report:#}");
    let failure = &report["failure"];
    assert!(failure["message"].as_str().unwrap().contains("no_such_library"), "{failure:#}");
    assert!(failure["hint"].as_str().unwrap().contains("shared_preload_libraries"), "{failure:#}");
    // What keeps it apart cannot be changed.
    let arguments = scene.arguments(&["--set", "archive_mode=on"]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(scene.site.command(&words).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_damaged_backup_fails_the_drill_with_the_file() {
    let scene = Scene::new(17);
    let report = scene.site.backup(&scene.cluster, &[]);
    let pack =
        scene.site.repository().join(format!("main/backup/{}/pack-000001", report["id"].as_str().unwrap()));
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let (code, report) = scene.drill(&["--target", "immediate"]);
    assert_eq!(code, 18, "{report:#}");
    assert_eq!(report["failure"]["phase"], "restore");
    assert!(report["failure"]["message"].as_str().unwrap().contains("pack-000001"), "{report:#}");
}

#[test]
fn wal_that_cannot_be_read_fails_the_drill() {
    let scene = Scene::new(17);
    scene.site.backup(&scene.cluster, &[]);
    let mut segments = Vec::new();
    for _ in 0..3 {
        scene.cluster.sql("INSERT INTO t SELECT generate_series(1, 100)");
        segments.push(scene.site.archive_all(&scene.cluster));
    }
    let object = scene.site.wal_object(&segments[1]);
    let mut bytes = fs::read(&object).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    fs::write(&object, bytes).unwrap();
    let (code, report) = scene.drill(&[]);
    assert_eq!(code, 18, "{report:#}");
    assert!(["consistency", "target"].contains(&report["failure"]["phase"].as_str().unwrap()), "{report:#}");
    assert!(report["failure"]["log"].as_array().unwrap().len() > 1, "{report:#}");
    assert_eq!(report["time_to_first_query_seconds"], Value::Null);
}

/// A program that does not outlive the test.
struct Running(Option<Child>);

impl Running {
    fn signal(&self, name: &str) {
        let pid = self.0.as_ref().unwrap().id().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Starts a drill that stays in its statements.
fn started(scene: &Scene) -> Running {
    let script = scene.script("SELECT pg_sleep(60);\nSELECT pg_sleep(60);\n");
    let arguments = scene.arguments(&["--sql", &script]);
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let child = scene.site.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let child = Running(Some(child));
    let directory = scene.directory();
    wait_until("a statement in the drill", LIMIT, || {
        let servers = servers_below(&directory);
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let status = String::from_utf8_lossy(&read("status")).into_owned();
            let parent =
                status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok());
            parent.is_some_and(|parent| servers.contains(&parent))
                && String::from_utf8_lossy(&read("cmdline")).contains("SELECT")
        })
    });
    child
}

#[test]
fn a_drill_that_is_killed_leaves_no_server() {
    let scene = Scene::new(18);
    scene.backup_and_more();
    let child = started(&scene);
    child.signal("-KILL");
    drop(child);
    wait_until("the end of the server", LIMIT, || servers_below(&scene.directory()).is_empty());
    fs::remove_dir_all(scene.directory()).unwrap();

    // Interrupted, it takes everything away itself.
    let mut child = started(&scene);
    child.signal("-INT");
    let output = child.0.take().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    scene.assert_nothing_is_left();
}
