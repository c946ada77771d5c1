//! `pgkeep load` of dumps in the repository: one database, and everything with `--all`. Stock's `pg_dumpall` is the oracle.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgkeep_testkit::{Cluster, Scratch, StopMode, client, pgkeep_binary};

use super::code;

/// What belongs to no database.
const GLOBALS: &str = "
    CREATE ROLE reader NOLOGIN CONNECTION LIMIT 7;
    CREATE ROLE \"Odd; \"\"role\"\"\" LOGIN PASSWORD 'it''s; secret' VALID UNTIL '2030-01-01 00:00:00+00';
    COMMENT ON ROLE \"Odd; \"\"role\"\"\" IS E'a \\\\ ; comment''s\\nend';
    CREATE ROLE boss CREATEROLE CREATEDB; CREATE ROLE worker IN ROLE reader;
    GRANT reader TO boss WITH ADMIN OPTION;
    ALTER ROLE worker SET search_path TO 'a;b', public; ALTER ROLE postgres SET lock_timeout TO '7min';
    ALTER ROLE postgres PASSWORD 'other';
";

/// A database with what a whole database has.
const APP: &str = "
    COMMENT ON DATABASE app IS 'the app''s';
    ALTER DATABASE app OWNER TO boss; ALTER DATABASE app SET work_mem TO '5MB'; ALTER ROLE worker IN DATABASE app SET work_mem TO '6MB';
    REVOKE CONNECT ON DATABASE app FROM PUBLIC; GRANT CONNECT ON DATABASE app TO worker;
    CREATE SCHEMA sales AUTHORIZATION boss;
    CREATE TABLE sales.users (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE sales.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id integer REFERENCES sales.users, filler text)
        TABLESPACE fast;
    CREATE INDEX ON sales.orders (filler) TABLESPACE fast;
    CREATE UNLOGGED TABLE sales.cache (id integer PRIMARY KEY);
    GRANT SELECT ON sales.orders TO reader;
    INSERT INTO sales.users (name) SELECT 'u' || i FROM generate_series(1, 500) i;
    INSERT INTO sales.orders (user_id, filler) SELECT 1 + i % 500, md5(i::text) || repeat('x', i % 90) FROM generate_series(1, 40000) i;
    INSERT INTO sales.cache SELECT generate_series(1, 100);
    SELECT lo_from_bytea(4711, decode(repeat('00ff', 5000), 'hex'));
    CREATE FUNCTION sales.no_drops() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nothing is dropped here'; END $$;
    CREATE EVENT TRIGGER no_drops ON sql_drop EXECUTE FUNCTION sales.no_drops();
";

/// Makes a cluster that has something of everything.
fn fill(source: &Cluster, scratch: &Scratch) {
    source.sql(GLOBALS);
    let fast = scratch.create_dir("fast", 0o700);
    source.sql(&format!("CREATE TABLESPACE fast OWNER boss LOCATION '{}'", fast.display()));
    source.sql(
        "ALTER TABLESPACE fast SET (random_page_cost = 1.5); COMMENT ON TABLESPACE fast IS 'it''s fast'",
    );
    source.sql("GRANT CREATE ON TABLESPACE fast TO worker");
    if source.major() >= 15 {
        source.sql("GRANT SET ON PARAMETER log_min_messages TO worker");
    }
    source.sql("CREATE DATABASE app TABLESPACE fast");
    source.sql_db("app", APP);
    source.sql("CREATE DATABASE \"Odd \"\"name\"\"\"");
    source.sql_db("'Odd \"name\"'", "CREATE TABLE t AS SELECT generate_series(1, 100) AS i");
    source.sql("CREATE DATABASE nothing");
    source.sql("CREATE TABLE in_postgres AS SELECT i, md5(i::text) FROM generate_series(1, 60000) AS i");
    source.sql("ALTER DATABASE postgres SET work_mem TO '8MB'");
    source.sql("COMMENT ON DATABASE postgres IS 'ours'");
    source.sql_db("template1", "CREATE TABLE in_template AS SELECT 1 AS i");
}

/// A dump of a cluster that is gone.
struct Set {
    scratch: Scratch,
    major: u32,
    /// What stock said of the cluster.
    script: String,
    id: String,
}

impl Set {
    fn new(major: u32) -> Set {
        Set::of(major, fill)
    }

    fn of(major: u32, fill: impl Fn(&Cluster, &Scratch)) -> Set {
        let scratch = Scratch::new();
        let source = Cluster::builder(major).start();
        fill(&source, &scratch);
        let set = Set { scratch, major, script: dumpall(&source), id: String::new() };
        let connection = source.conninfo();
        code(&set.run(&["init", "--repo", "repo", "-d", &connection]), 0);
        let dumped = set.run(&["dump", "--repo", "repo", "--all", "--json", "-d", &connection]);
        code(&dumped, 0);
        let report: serde_json::Value = serde_json::from_slice(&dumped.stdout).unwrap();
        let id = report["id"].as_str().unwrap().to_owned();
        source.stop(StopMode::Immediate);
        drop(source);
        set.empty_tablespace();
        Set { id, ..set }
    }

    /// Room for the tablespace of another cluster, or the same place empty again.
    fn empty_tablespace(&self) {
        drop(std::fs::remove_dir_all(self.scratch.path().join("fast")));
        drop(self.scratch.create_dir("fast", 0o700));
    }

    fn target(&self) -> Cluster {
        Cluster::builder(self.major).start()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(pgkeep_binary());
        command.env_clear().current_dir(self.scratch.path());
        command.env("HOME", self.scratch.path()).env("TZ", "UTC").stdin(Stdio::null());
        command.args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn load_command(&self, target: &Cluster, options: &[&str]) -> Command {
        let mut command = self.command(&["load", "--repo", "repo", "latest", "-d", &target.conninfo()]);
        command.args(options);
        command
    }

    fn load(&self, target: &Cluster, options: &[&str]) -> Output {
        self.load_command(target, options).output().unwrap()
    }

    #[track_caller]
    fn is_all_there(&self, target: &Cluster) {
        self.is_the_same(&self.script, &dumpall(target));
    }

    /// After an interruption: pages that an aborted COPY got from the file system are filled in another order by the next.
    #[track_caller]
    fn is_all_there_in_any_order(&self, target: &Cluster) {
        self.is_the_same(&with_rows_sorted(&self.script), &with_rows_sorted(&dumpall(target)));
    }

    #[track_caller]
    fn is_the_same(&self, theirs: &str, ours: &str) {
        let differing = theirs.lines().zip(ours.lines()).find(|(theirs, ours)| theirs != ours);
        assert!(theirs == ours, "{}: {differing:?}", self.major);
        assert!(theirs.contains("SCRAM-SHA-256") && theirs.contains("lock_timeout"));
    }

    fn pack(&self) -> PathBuf {
        let packs = self.scratch.path().join("repo/main/dump").join(&self.id);
        packs.join("pack-000001")
    }
}

/// With `--clean`, for without it stock leaves out the properties of `postgres` and `template1`.
fn dumpall(cluster: &Cluster) -> String {
    let output = Command::new(client("pg_dumpall"))
        .args(["--clean", "--restrict-key=key", "-d", &cluster.conninfo()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A script with the rows of each COPY in the order of their texts.
fn with_rows_sorted(script: &str) -> String {
    let mut lines: Vec<&str> = script.lines().collect();
    let mut at = 0;
    while let Some(begin) =
        lines[at..].iter().position(|line| line.starts_with("COPY ")).map(|it| at + it + 1)
    {
        let end = begin + lines[begin..].iter().position(|line| *line == "\\.").unwrap();
        lines[begin..end].sort_unstable();
        at = end;
    }
    lines.join("\n")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn journals(target: &Cluster) -> usize {
    let databases = target.sql("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1");
    let databases: Vec<&str> = databases.lines().filter(|name| *name != "template0").collect();
    let has = |name: &&&str| {
        let quoted = format!("'{name}'");
        target.sql_db(&quoted, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgkeep_load'") == "1"
    };
    databases.iter().filter(has).count()
}

#[test]
fn a_whole_cluster_is_loaded_and_is_what_it_was() {
    for major in [14, 18] {
        let set = Set::new(major);
        let target = set.target();
        target.sql("CREATE ROLE reader SUPERUSER");
        let planned = set.load(&target, &["--all", "--dry-run"]);
        code(&planned, 0);
        assert!(said(&planned).contains("database app: would be loaded, and made"), "{}", said(&planned));
        assert_eq!(target.sql("SELECT count(*) FROM pg_database"), "3");
        let loaded = set.load(&target, &["--all", "--json", "--jobs=3"]);
        code(&loaded, 0);
        set.is_all_there(&target);
        assert_eq!(journals(&target), 0);
        let report: serde_json::Value = serde_json::from_slice(&loaded.stdout).unwrap();
        assert_eq!(report["complete"], true);
        assert_eq!(report["globals"]["roles_kept"], serde_json::json!(["postgres", "reader"]));
        assert_eq!(report["globals"]["tablespaces_made"], serde_json::json!(["fast"]));
        let names: Vec<&str> =
            report["databases"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["Odd \"name\"", "app", "nothing", "postgres", "template1"]);
        assert!(report["databases"].as_array().unwrap().iter().all(|it| it["state"] == "loaded"));
        // Once more: nothing is replaced, and nothing is said to be done that is not.
        let again = set.load(&target, &["--all"]);
        code(&again, 13);
        assert!(said(&again).contains("is not empty"), "{}", said(&again));
        code(&set.load(&target, &["--all", "--resume"]), 13);
        set.is_all_there(&target);
    }
}

/// An upgrade: what one version dumped is loaded by another.
#[test]
fn a_cluster_of_another_version_is_loaded() {
    let set = Set::new(14);
    let target = Cluster::builder(18).start();
    let loaded = set.load(&target, &["--all"]);
    code(&loaded, 0);
    assert_eq!(journals(&target), 0);
    // Rows are the same lines in the scripts of both.
    let rows = |script: &str| {
        let mut lines = script.lines().skip_while(|line| !line.starts_with("COPY sales.orders"));
        lines.by_ref().take_while(|line| *line != "\\.").map(str::to_owned).collect::<Vec<_>>()
    };
    let ours = dumpall(&target);
    assert_eq!(rows(&ours).len(), 40_001);
    assert!(rows(&ours) == rows(&set.script));
    for line in [
        "ALTER DATABASE app SET work_mem TO '5MB';",
        "ALTER ROLE worker IN DATABASE app SET work_mem TO '6MB';",
        "ALTER ROLE worker SET search_path TO 'a;b', 'public';",
        "GRANT ALL ON TABLESPACE fast TO worker;",
        "COMMENT ON DATABASE postgres IS 'ours';",
    ] {
        assert!(set.script.contains(line) && ours.contains(line), "{line}");
    }
    let admins = "SELECT admin_option FROM pg_auth_members WHERE member = 'boss'::regrole AND roleid = 'reader'::regrole";
    assert_eq!(target.sql(admins), "t");
}

fn killed_at_any_time(major: u32, step: Duration) {
    let set = Set::new(major);
    let target = set.target();
    let mut killed = 0;
    for attempt in 1..200_u32 {
        let options: &[&str] =
            if attempt == 1 { &["--all", "--jobs=2"] } else { &["--all", "--jobs=2", "--resume"] };
        let mut command = set.load_command(&target, options);
        let told = set.scratch.path().join("told");
        let stderr = std::fs::File::create(&told).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let until = Instant::now() + step * attempt;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                child.kill().unwrap();
                killed += 1;
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match status.code() {
            // Killed, or told of a session that lives on for a moment.
            None | Some(12) => {}
            Some(0) => break,
            // What a killed run was doing came to its end on the server at the wrong moment.
            Some(13) if std::fs::read_to_string(&told).unwrap().contains("cannot create the database") => {}
            // The last kill came after the very end.
            Some(13) if journals(&target) == 0 => break,
            Some(other) => panic!("exit code {other}: {}", std::fs::read_to_string(&told).unwrap()),
        }
    }
    assert!(killed > 5, "only {killed} runs were killed");
    assert_eq!(journals(&target), 0);
    set.is_all_there_in_any_order(&target);
}

#[test]
fn a_set_that_is_killed_goes_on_14() {
    killed_at_any_time(14, Duration::from_millis(37));
}

#[test]
fn a_set_that_is_killed_goes_on_18() {
    killed_at_any_time(18, Duration::from_millis(23));
}

#[test]
fn one_database_is_loaded_out_of_the_repository() {
    let set = Set::new(18);
    let target = set.target();
    code(&set.load(&target, &["--globals"]), 0);
    assert_eq!(target.sql("SELECT count(*) FROM pg_roles WHERE rolname IN ('reader', 'boss')"), "2");
    let several = set.load(&target, &["--target", "copy"]);
    code(&several, 2);
    assert!(said(&several).contains("`app`, `nothing`"), "{}", said(&several));
    let wrong = set.load(&target, &["--target", "copy", "--database", "ap"]);
    code(&wrong, 8);
    assert!(said(&wrong).contains("the dump has no database `ap`"), "{}", said(&wrong));
    code(&set.load(&target, &["--target", "copy", "--database", "app", "--jobs=4"]), 0);
    assert_eq!(
        target.sql_db("copy", "SELECT count(*), sum(length(filler)) FROM sales.orders"),
        "40000|3059040"
    );
    assert_eq!(target.sql_db("copy", "SELECT length(lo_get(4711))"), "10000");
    // A file of that name makes no difference where the repository is named, and the file is loaded where it is not.
    std::fs::write(set.scratch.path().join("latest"), "no archive").unwrap();
    code(&set.load(&target, &["--target", "one", "--database", "app", "--table", "sales.users"]), 0);
    let file = set.run(&["load", "latest", "-d", &target.conninfo(), "--target", "two"]);
    code(&file, 11);
    let mut ambiguous = set.command(&["load", "latest", "-d", &target.conninfo(), "--target", "two"]);
    ambiguous.env("PGKEEP_REPO", set.scratch.path().join("repo"));
    let ambiguous = ambiguous.output().unwrap();
    code(&ambiguous, 2);
    assert!(said(&ambiguous).contains("is a file, and may be a dump"), "{}", said(&ambiguous));
}

#[test]
fn what_is_in_the_way_is_told_before_anything_is_changed() {
    let set = Set::new(18);
    let target = set.target();
    // No room for the tablespace.
    std::fs::remove_dir(set.scratch.path().join("fast")).unwrap();
    for options in [&["--all"][..], &["--all", "--dry-run"], &["--globals"]] {
        let lacking = set.load(&target, options);
        code(&lacking, 8);
        assert!(said(&lacking).contains("lacks directories of tablespaces"), "{}", said(&lacking));
        assert!(said(&lacking).contains("--no-tablespaces"), "{}", said(&lacking));
    }
    // A database that is there.
    target.sql("CREATE DATABASE app");
    target.sql_db("app", "CREATE TABLE mine (i int)");
    let filled = set.load(&target, &["--all", "--no-tablespaces"]);
    code(&filled, 13);
    assert!(said(&filled).contains("the database `app` is not empty"), "{}", said(&filled));
    assert_eq!(target.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'reader'"), "0");
    target.sql("DROP DATABASE app");
    let loaded = set.load(&target, &["--all", "--no-tablespaces"]);
    code(&loaded, 0);
    assert!(said(&loaded).contains("left out: CREATE TABLESPACE fast"), "{}", said(&loaded));
    assert_eq!(target.sql("SELECT count(*) FROM pg_tablespace"), "2");
    assert_eq!(target.sql_db("app", "SELECT count(*) FROM sales.orders"), "40000");
    // A dump of one database is no set.
    let one = set.run(&["load", "--repo", "repo", "--all", "--database", "app", "latest"]);
    code(&one, 2);
}

/// Wherever a byte is wrong: an error that names the place, or everything is there.
#[test]
fn a_damaged_frame_is_an_error_and_nothing_is_silently_missing() {
    let set = Set::new(18);
    let sound = std::fs::read(set.pack()).unwrap();
    let mut damaged = 0;
    for at in [200, sound.len() / 3, sound.len() / 2, sound.len() - 60] {
        let target = set.target();
        let mut broken = sound.clone();
        broken[at] ^= 0x20;
        std::fs::write(set.pack(), &broken).unwrap();
        set.empty_tablespace();
        let output = set.load(&target, &["--all"]);
        if output.status.code() == Some(0) {
            set.is_all_there_in_any_order(&target);
            continue;
        }
        damaged += 1;
        code(&output, 11);
        let said = said(&output);
        assert!(said.contains("pack-000001") && said.contains("pgkeep dump verify"), "{at}: {said}");
        // The dump is whole again, and the load goes on.
        std::fs::write(set.pack(), &sound).unwrap();
        code(&set.load(&target, &["--all", "--resume"]), 0);
        set.is_all_there_in_any_order(&target);
    }
    assert!(damaged >= 3, "{damaged}");
}

/// A set stops in the middle, the server crashes, and the set goes on: what is done is known, and what the crash took is told.
#[test]
fn a_set_knows_after_a_crash_what_is_loaded() {
    let set = Set::new(18);
    let target = set.target();
    let sound = std::fs::read(set.pack()).unwrap();
    let mut broken = sound.clone();
    // Rows of the database before the last one, behind its table of contents.
    broken[sound.len() - 300_000] ^= 1;
    std::fs::write(set.pack(), &broken).unwrap();
    let stopped = set.load(&target, &["--all"]);
    code(&stopped, 11);
    assert!(said(&stopped).contains("database `postgres` cannot be loaded"), "{}", said(&stopped));
    assert_eq!(journals(&target), 4);
    assert_eq!(target.sql("SELECT to_regclass('in_postgres') IS NULL OR count(*) = 0 FROM pg_class"), "f");
    assert_eq!(target.sql_db("app", "SELECT count(*) FROM sales.cache"), "100");
    // Another load does not take the database for its own.
    let alone = set.load(&target, &["--database", "app", "--target", "app", "--resume"]);
    code(&alone, 7);
    target.crash();
    target.start();
    std::fs::write(set.pack(), &sound).unwrap();
    let resumed = set.load(&target, &["--all", "--resume"]);
    code(&resumed, 0);
    let said = said(&resumed);
    assert!(said.contains("emptied unlogged tables of `app`") && said.contains("sales.cache"), "{said}");
    assert!(said.contains("database app: loaded before"), "{said}");
    assert_eq!(journals(&target), 0);
    assert_eq!(target.sql_db("app", "SELECT count(*) FROM sales.cache"), "0");
    target.sql_db("app", "INSERT INTO sales.cache SELECT generate_series(1, 100)");
    set.is_all_there_in_any_order(&target);
}

/// What is said of the role that connects comes last, and is tried again when it was refused.
#[test]
fn the_own_role_comes_last() {
    let set = Set::of(18, |source, _| {
        source.sql("ALTER ROLE postgres SET transaction_timeout TO '1h'; ALTER ROLE postgres SET lock_timeout TO '2h'");
        source.sql("CREATE TABLE t AS SELECT 1 AS i");
    });
    let target = Cluster::builder(16).start();
    let refused = set.load(&target, &["--all", "--json"]);
    code(&refused, 19);
    let report: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(report["globals"]["failures"][0]["statement"], "ALTER ROLE postgres", "{report}");
    assert!(report["databases"].as_array().unwrap().iter().all(|it| it["state"] == "loaded"), "{report}");
    assert_eq!((target.sql("SELECT i FROM t").as_str(), journals(&target)), ("1", 1));
    // All databases are done; that is known though most journals are gone.
    target.sql("INSERT INTO t VALUES (2)");
    let again = set.load(&target, &["--all", "--json", "--resume", "--continue-on-error"]);
    code(&again, 19);
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(
        report["databases"].as_array().unwrap().iter().all(|it| it["state"] == "loaded_before"),
        "{report}"
    );
    assert_eq!(target.sql("SELECT count(*) FROM t"), "2");
    let setting = "SELECT setconfig FROM pg_db_role_setting WHERE setrole = 10";
    assert_eq!(target.sql(setting), "{lock_timeout=2h}");
}

/// What the server refuses is told, and the rest goes on or not, as asked.
#[test]
fn what_the_server_refuses_is_reported() {
    let set = Set::new(18);
    let target = set.target();
    // Something is in the place of the tablespace that the server does not take.
    std::fs::create_dir(set.scratch.path().join("fast/PG_18_202506291")).unwrap();
    let stopped = set.load(&target, &["--all", "--json"]);
    code(&stopped, 19);
    let report: serde_json::Value = serde_json::from_slice(&stopped.stdout).unwrap();
    assert_eq!(
        report["globals"]["failures"][0]["statement"].as_str().unwrap().split(" OWNER").next(),
        Some("CREATE TABLESPACE fast")
    );
    assert!(report["databases"].as_array().unwrap().iter().all(|it| it["state"] == "not_tried"), "{report}");
    assert!(!said(&stopped).contains("SCRAM"), "{}", said(&stopped));
    set.empty_tablespace();
    code(&set.load(&target, &["--all", "--resume"]), 0);
    set.is_all_there(&target);
}
