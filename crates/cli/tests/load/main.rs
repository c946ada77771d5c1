//! `pgkeep load` as a user meets it: its texts, and what it leaves when it, or the server, is killed at any moment.

#![allow(clippy::unwrap_used, reason = "a test can do nothing better")]

mod sets;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgkeep_testkit::{Cluster, Scratch, client, pgkeep_binary};

/// Tables with everything that matters after a crash: keys, foreign keys, triggers, rows that a crash takes away.
const SHOP: &str = "
    CREATE SCHEMA app;
    CREATE TABLE app.users (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id integer REFERENCES app.users, filler text);
    CREATE INDEX ON app.orders (user_id); CREATE INDEX ON app.orders (filler);
    CREATE UNLOGGED TABLE app.cache (id integer PRIMARY KEY, user_id integer REFERENCES app.users, n integer NOT NULL);
    CREATE FUNCTION app.count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := NEW.n + 1; RETURN NEW; END $$;
    CREATE TRIGGER count_up BEFORE INSERT ON app.cache FOR EACH ROW EXECUTE FUNCTION app.count_up();
    CREATE MATERIALIZED VIEW app.busy AS SELECT user_id, count(*) FROM app.orders GROUP BY 1;
    CREATE FUNCTION app.no_drops() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nothing is dropped here'; END $$;
    INSERT INTO app.users (name) SELECT 'u' || i FROM generate_series(1, 2000) i;
    INSERT INTO app.orders (user_id, filler) SELECT 1 + i % 2000, repeat(md5(i::text), 3) FROM generate_series(1, 60000) i;
    INSERT INTO app.cache SELECT i, i, i FROM generate_series(1, 2000) i;
    REFRESH MATERIALIZED VIEW app.busy;
    CREATE EVENT TRIGGER no_drops ON sql_drop EXECUTE FUNCTION app.no_drops();
";

struct Shop {
    cluster: Cluster,
    scratch: Scratch,
}

impl Shop {
    fn new(major: u32) -> Shop {
        let cluster = Cluster::builder(major).start();
        cluster.sql("CREATE DATABASE shop");
        cluster.sql_db("shop", SHOP);
        let shop = Shop { cluster, scratch: Scratch::new() };
        let connection = shop.cluster.conninfo_db("shop");
        let status = Command::new(client("pg_dump"))
            .args(["-Fc", "-d", &connection, "-f"])
            .arg(shop.archive())
            .status()
            .unwrap();
        assert!(status.success());
        shop
    }

    fn archive(&self) -> PathBuf {
        self.scratch.path().join("shop.dump")
    }

    fn command(&self, database: &str, options: &[&str]) -> Command {
        let mut command = Command::new(pgkeep_binary());
        command.env_clear().current_dir(self.scratch.path());
        command.env("HOME", self.scratch.path()).env("TZ", "UTC");
        command.arg("load").arg("shop.dump").args(["-d", &self.cluster.conninfo(), "--target", database]);
        command.args(options).stdin(Stdio::null());
        command
    }

    fn load(&self, database: &str, options: &[&str]) -> Output {
        self.command(database, options).output().unwrap()
    }

    fn script(&self, database: &str) -> String {
        let connection = self.cluster.conninfo_db(database);
        let output = Command::new(client("pg_dump"))
            .args(["--restrict-key=key", "--create", "-d", &connection])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().replace(database, "shop")
    }

    #[track_caller]
    fn is_the_same(&self, database: &str, what: &str) {
        let (theirs, ours) = (self.script("shop"), self.script(database));
        let differing = theirs.lines().zip(ours.lines()).find(|(theirs, ours)| theirs != ours);
        assert!(theirs == ours, "{what}: {differing:?}");
    }

    fn runs(&self, database: &str) -> bool {
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        );
        self.cluster.sql(&sql).trim() == "t"
    }
}

#[track_caller]
fn code(output: &Output, expected: i32) {
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Loads until it is done; each run is disturbed after a while. How often, and whether the last run said that it was done.
fn load_against(
    shop: &Shop,
    database: &str,
    step: Duration,
    disturb: &dyn Fn(&mut std::process::Child),
) -> (u32, bool) {
    let mut resume = false;
    let mut disturbed = 0;
    for attempt in 1..200_u32 {
        let options: &[&str] = if resume { &["--resume", "--jobs=2"] } else { &["--jobs=2"] };
        let mut command = shop.command(database, options);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + step * attempt;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                disturb(&mut child);
                disturbed += 1;
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match status.code() {
            Some(0) => return (disturbed, true),
            // It is another question than the one that was asked: the run was killed before its journal began, or at its
            // very end.
            Some(8) if resume => resume = false,
            Some(13) if !resume && is_there(shop, database) && !has_journal(shop, database) => {
                return (disturbed, false);
            }
            _ => resume = has_journal(shop, database),
        }
    }
    panic!("it never ended");
}

fn is_there(shop: &Shop, database: &str) -> bool {
    shop.cluster.sql(&format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'")).trim() == "1"
}

fn has_journal(shop: &Shop, database: &str) -> bool {
    is_there(shop, database)
        && shop
            .cluster
            .sql_db(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgkeep_load'")
            .trim()
            == "1"
}

fn killed_at_any_time(major: u32) {
    let shop = Shop::new(major);
    let mut disturbed = 0;
    for (number, step) in [17, 31].into_iter().enumerate() {
        let database = format!("copy{number}");
        let (killed, _) =
            load_against(&shop, &database, Duration::from_millis(step), &|child| child.kill().unwrap());
        disturbed += killed;
        shop.is_the_same(&database, &format!("{major}, every {step} ms"));
        assert!(!shop.runs(&database));
    }
    assert!(disturbed > 10, "only {disturbed} runs were killed");
}

#[test]
fn a_load_that_is_killed_goes_on_14() {
    killed_at_any_time(14);
}

#[test]
fn a_load_that_is_killed_goes_on_18() {
    killed_at_any_time(18);
}

#[test]
fn a_load_goes_on_after_crashes_of_the_server() {
    let shop = Shop::new(17);
    let before = shop.script("shop");
    let (crashes, ended_well) = load_against(&shop, "copy", Duration::from_millis(35), &|_| {
        shop.cluster.crash();
        shop.cluster.start();
    });
    assert!(crashes > 3, "only {crashes} crashes");
    let after = shop.script("copy");
    if ended_well {
        assert_eq!(
            shop.cluster.sql_db("copy", "SELECT count(*), sum(n) FROM app.cache").trim(),
            "2000|2003000"
        );
    } else {
        // The last crash came after the end of the load, and emptied what a crash empties.
        assert_eq!(shop.cluster.sql_db("copy", "SELECT count(*) FROM app.cache").trim(), "0");
    }
    let differing = before.lines().zip(after.lines()).find(|(before, after)| before != after);
    assert!(before == after || !ended_well, "{differing:?}");
}

#[test]
fn a_load_of_another_archive_or_with_other_options_is_not_gone_on_with() {
    let shop = Shop::new(18);
    shop.cluster.sql_db(
        "shop",
        "SET session_replication_role = replica; INSERT INTO app.orders (user_id) VALUES (99999)",
    );
    let connection = shop.cluster.conninfo_db("shop");
    let dump = |name: &str| {
        let path = shop.scratch.path().join(name);
        assert!(
            Command::new(client("pg_dump"))
                .args(["-Fc", "-d", &connection, "-f"])
                .arg(path)
                .status()
                .unwrap()
                .success()
        );
    };
    dump("shop.dump");
    code(&shop.load("copy", &[]), 19);
    code(&shop.load("copy", &[]), 13);
    code(&shop.load("copy", &["--resume", "--no-owner"]), 7);
    shop.cluster.sql_db("shop", "COMMENT ON SCHEMA app IS 'another archive'");
    std::fs::rename(shop.archive(), shop.scratch.path().join("first.dump")).unwrap();
    dump("shop.dump");
    code(&shop.load("copy", &["--resume"]), 7);
}

#[test]
fn reports_are_told_and_are_json_too() {
    let shop = Shop::new(18);
    let dry = shop.load("copy", &["--dry-run"]);
    code(&dry, 0);
    let text = String::from_utf8(dry.stdout).unwrap();
    assert!(text.contains("will be made") && text.contains("app.orders"), "{text}");
    let json = shop.load("copy", &["--json"]);
    code(&json, 0);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["result"]["complete"], true);
    assert_eq!(report["plan"]["creates_database"], true);
    assert_eq!(report["result"]["tables"].as_array().unwrap().len(), 3);
    shop.is_the_same("copy", "json");
    let again = shop.load("copy", &[]);
    code(&again, 13);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("the database `copy` is not empty") && said.contains("--into-existing"), "{said}");
}

#[test]
fn a_damaged_archive_ends_the_load_and_says_so() {
    let shop = Shop::new(18);
    let bytes = std::fs::read(shop.archive()).unwrap();
    std::fs::write(shop.archive(), &bytes[..bytes.len() - bytes.len() / 8]).unwrap();
    let output = shop.load("copy", &[]);
    code(&output, 11);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the archive"), "{output:?}");
    std::fs::write(shop.archive(), bytes).unwrap();
    code(&shop.load("copy", &["--resume"]), 0);
    shop.is_the_same("copy", "another copy of the archive");
}

#[test]
fn an_archive_that_is_not_there_is_told() {
    let shop = Shop::new(18);
    std::fs::remove_file(shop.archive()).unwrap();
    let output = shop.load("copy", &[]);
    assert!(!output.status.success() && !Path::new("copy").exists());
    assert!(String::from_utf8_lossy(&output.stderr).contains("shop.dump"), "{output:?}");
}
