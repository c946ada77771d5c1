//! Loads into servers 14 to 18: the same databases as the ones that stock dumped, whole, in parts, and under other names.

#![allow(clippy::unwrap_used, reason = "a test can do nothing better")]

#[allow(dead_code, reason = "shared with the tests of dumps")]
mod dump_support;

use std::process::Command;
use std::sync::Mutex;

use dump_support::{DATABASE, assert_same_text, cluster_with_everything, conninfo, output, stock, text};
use pgkeep_logical::load::{
    LoadError, LoadErrorKind, LoadEvent, LoadObserver, LoadReport, LoadRequest, LoadSelection, LoadSource,
    load,
};
use pgkeep_testkit::{Cluster, Scratch, client, installation};
use pgkeep_wire::{ConnInfo, Environment};

/// Keeps the warnings.
#[derive(Default)]
struct Kept(Mutex<Vec<String>>);

impl LoadObserver for Kept {
    fn event(&self, event: &LoadEvent<'_>) {
        if let LoadEvent::Warning { text, .. } = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

fn request(cluster: &Cluster, database: &str) -> LoadRequest {
    let target = ConnInfo::resolve(Some(&conninfo(cluster, database)), &Environment::empty()).unwrap();
    LoadRequest {
        target,
        selection: LoadSelection::default(),
        schema_names: Vec::new(),
        roles: Vec::new(),
        no_owner: false,
        no_privileges: false,
        no_tablespaces: false,
        jobs: 3,
        maintenance_memory: None,
        into_existing: false,
        resume: false,
        continue_on_error: false,
        disable_triggers: false,
        no_analyze: false,
        dry_run: false,
    }
}

fn dump(cluster: &Cluster, database: &str, scratch: &Scratch, options: &[&str]) -> LoadSource {
    let path = scratch.path().join(format!("dump-{}", options.join("")));
    let connection = conninfo(cluster, database);
    let mut arguments = vec!["-d", &connection, "-f", text(&path)];
    arguments.extend_from_slice(options);
    // What 18's writes of an older server's constraints, only a server of 18 takes.
    let program = if cluster.major() < 18 { installation(17).program("pg_dump") } else { client("pg_dump") };
    output("pg_dump", Command::new(program).args(&arguments).output().unwrap());
    LoadSource::path(path)
}

fn script(cluster: &Cluster, database: &str, options: &[&str]) -> Vec<u8> {
    let connection = conninfo(cluster, database);
    let mut arguments = vec!["--restrict-key=key", "-d", &connection];
    arguments.extend_from_slice(options);
    output("script", stock("pg_dump", &arguments))
}

#[track_caller]
fn complete(source: &LoadSource, request: &LoadRequest) -> LoadReport {
    let report = load(source, request, &Kept::default()).unwrap_or_else(|error| panic!("{error:?}"));
    let result = report.result.as_ref().unwrap();
    assert!(result.complete, "{:?} {:?}", result.failures, result.missing);
    assert!(result.missing.is_empty(), "{:?}", result.missing);
    report
}

#[track_caller]
fn refused(source: &LoadSource, request: &LoadRequest) -> LoadError {
    load(source, request, &Kept::default()).expect_err("it should not be done")
}

fn sorted_lines(text: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.join(&b'\n')
}

/// A whole database, made by the load, is what it was, its own properties included.
fn everything_is_the_same(major: u32) {
    let cluster = cluster_with_everything(major);
    let scratch = Scratch::new();
    // Subscriptions of before 16 get a parameter from later programs that their own server does not know.
    let options: &[&str] = if major < 16 { &["--create", "--no-subscriptions"] } else { &["--create"] };
    let before = script(&cluster, DATABASE, options);
    for (format, jobs, database) in
        [("-Fc", 3, "made by one"), ("-Fd", 1, "made by \"two\""), ("-Ft", 2, "made by three")]
    {
        let source = dump(&cluster, DATABASE, &scratch, &[&[format], &options[1..]].concat());
        let report = complete(&source, &LoadRequest { jobs, ..request(&cluster, database) });
        assert!(report.plan.creates_database && report.plan.keys_in_steps > 0);
        let after = script(&cluster, database, options);
        let (odd, new) = (dump_support::quoted(DATABASE), dump_support::quoted(database));
        let renamed = String::from_utf8(after).unwrap().replace(&new, &odd);
        // Rows of a table that is partitioned by an enum's hash may lie in other partitions now.
        let lines = |text: &[u8]| {
            let text = sorted_lines(text);
            let lines = text.split(|byte| *byte == b'\n');
            let about_name = |line: &[u8]| line.starts_with(b"\\connect") || line.starts_with(b"-- Name: ");
            lines.filter(|line| !about_name(line)).map(<[u8]>::to_vec).collect::<Vec<_>>().join(&b'\n')
        };
        assert_same_text(&format!("{major} {format}"), &lines(&before), &lines(renamed.as_bytes()));
    }
}

#[test]
fn everything_is_the_same_on_14() {
    everything_is_the_same(14);
}

#[test]
fn everything_is_the_same_on_15() {
    everything_is_the_same(15);
}

#[test]
fn everything_is_the_same_on_16() {
    everything_is_the_same(16);
}

#[test]
fn everything_is_the_same_on_17() {
    everything_is_the_same(17);
}

#[test]
fn everything_is_the_same_on_18() {
    everything_is_the_same(18);
}

/// A shop with two schemas.
const SHOP: &str = "
    CREATE SCHEMA app; CREATE SCHEMA other;
    CREATE TYPE app.mood AS ENUM ('good', 'bad');
    CREATE FUNCTION app.check_mood(m app.mood) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT m::text <> 'app.x' $$;
    CREATE TABLE app.users (id serial PRIMARY KEY, name text NOT NULL UNIQUE, mood app.mood DEFAULT 'good'::app.mood,
        CONSTRAINT fine CHECK (app.check_mood(mood)));
    CREATE TABLE app.user_mails (mail text PRIMARY KEY, user_id integer REFERENCES app.users ON DELETE CASCADE);
    CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id integer NOT NULL REFERENCES app.users,
        placed date NOT NULL);
    CREATE TABLE other.notes (note text, order_id bigint REFERENCES app.orders);
    CREATE INDEX ON app.orders (placed); CREATE INDEX users_lower ON app.users (lower(name));
    CREATE VIEW app.happy AS SELECT u.id, u.name FROM app.users u WHERE u.mood = 'good'::app.mood;
    CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := lower(NEW.name); RETURN NEW; END $$;
    CREATE TRIGGER touch BEFORE INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION app.touch();
    CREATE TABLE app.events (at date NOT NULL, what text, PRIMARY KEY (at)) PARTITION BY RANGE (at);
    CREATE TABLE app.events_1 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE app.events_2 PARTITION OF app.events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    COMMENT ON TABLE app.users IS 'who';
    ALTER TABLE app.users ENABLE ROW LEVEL SECURITY; CREATE POLICY seen ON app.users USING (id > 0);
    INSERT INTO app.users (name) SELECT 'u' || i FROM generate_series(1, 500) i;
    INSERT INTO app.user_mails SELECT 'm' || i, i FROM generate_series(1, 500) i;
    INSERT INTO app.orders (user_id, placed) SELECT 1 + i % 500, date '2026-01-01' + i % 300 FROM generate_series(1, 5000) i;
    INSERT INTO other.notes SELECT 'n' || i, i FROM generate_series(1, 50) i;
    INSERT INTO app.events SELECT date '2026-01-01' + i, 'e' FROM generate_series(0, 50) i;
";

fn shop(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).start();
    cluster.sql("CREATE DATABASE shop");
    cluster.sql_db("shop", SHOP);
    cluster
}

#[test]
fn chosen_tables_come_with_what_was_asked_for() {
    let cluster = shop(17);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let mut wanted = request(&cluster, "some");
    wanted.selection = LoadSelection {
        tables: vec!["app.user*".to_owned()],
        with_indexes: true,
        with_constraints: true,
        with_dependencies: true,
        ..LoadSelection::default()
    };
    let report = complete(&source, &wanted);
    assert_eq!(report.plan.foreign_keys_in_steps, 1);
    let options = ["--table=app.user*"];
    let without_triggers = |script: Vec<u8>| {
        let text = String::from_utf8(script).unwrap();
        text.replace("--\n-- Name: users touch; Type: TRIGGER; Schema: app; Owner: postgres\n--\n\nCREATE TRIGGER touch BEFORE INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION app.touch();\n\n\n", "")
    };
    let (before, after) = (script(&cluster, "shop", &options), script(&cluster, "some", &options));
    assert!(String::from_utf8_lossy(&before).contains("CREATE POLICY seen"));
    assert_same_text(
        "chosen tables",
        &sorted_lines(without_triggers(before).as_bytes()),
        &sorted_lines(without_triggers(after).as_bytes()),
    );
    assert_eq!(cluster.sql_db("some", "SELECT count(*) FROM app.user_mails").trim(), "500");
    assert_eq!(cluster.sql_db("some", "SELECT to_regclass('app.orders') IS NULL").trim(), "t");
}

#[test]
fn a_partitioned_table_brings_its_partitions_and_a_foreign_key_to_nowhere_stays_behind() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fd"]);
    let mut wanted = request(&cluster, "parts");
    wanted.selection = LoadSelection {
        tables: vec!["events".to_owned(), "other.notes".to_owned()],
        with_constraints: true,
        ..LoadSelection::default()
    };
    let report = complete(&source, &wanted);
    assert_eq!(report.plan.left_out.len(), 1, "{:?}", report.plan.left_out);
    assert!(report.plan.left_out[0].contains("app.orders"), "{:?}", report.plan.left_out);
    assert_eq!(cluster.sql_db("parts", "SELECT count(*) FROM app.events").trim(), "51");
    let same = ["--table-and-children=app.events"];
    assert_eq!(script(&cluster, "parts", &same), script(&cluster, "shop", &same));
}

#[test]
fn a_pattern_that_fits_nothing_is_an_error() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let mut wanted = request(&cluster, "none");
    wanted.selection.tables = vec!["app.user*".to_owned(), "app.usres".to_owned()];
    let error = refused(&source, &wanted);
    assert_eq!(error.kind, LoadErrorKind::NotFound);
    assert!(error.message.contains("app.usres"), "{error:?}");
    assert_eq!(cluster.sql("SELECT count(*) FROM pg_database WHERE datname ~ 'none|pgkeep'").trim(), "0");
}

#[test]
fn a_schema_gets_another_name_everywhere() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let mut wanted = request(&cluster, "renamed");
    wanted.schema_names = vec![("app".to_owned(), "New App".to_owned())];
    let report = complete(&source, &wanted);
    assert!(report.warnings.iter().any(|text| text.contains("check_mood")), "{:?}", report.warnings);
    // What the server itself makes of a renamed schema is the measure.
    cluster.sql_db("shop", "ALTER SCHEMA app RENAME TO \"New App\"");
    assert_same_text(
        "renamed",
        &sorted_lines(&script(&cluster, "shop", &[])),
        &sorted_lines(&script(&cluster, "renamed", &[])),
    );
}

#[test]
fn what_is_there_is_protected() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let error = refused(&source, &request(&cluster, "shop"));
    assert_eq!(error.kind, LoadErrorKind::Destination, "{error:?}");
    let beside = LoadRequest { into_existing: true, ..request(&cluster, "shop") };
    let error = refused(&source, &beside);
    assert_eq!(error.kind, LoadErrorKind::Destination, "{error:?}");
    assert!(error.message.contains("app.users"), "{error:?}");
    let renamed = LoadRequest {
        schema_names: vec![("app".to_owned(), "app2".to_owned()), ("other".to_owned(), "other2".to_owned())],
        ..beside
    };
    complete(&source, &renamed);
    assert_eq!(cluster.sql_db("shop", "SELECT count(*) FROM app2.orders").trim(), "5000");
}

#[test]
fn roles_that_are_missing_are_found_before_anything_is_made_and_can_be_mapped() {
    let cluster = shop(18);
    cluster.sql_db("shop", "CREATE ROLE ann; CREATE ROLE bob; ALTER TABLE app.users OWNER TO ann; GRANT SELECT ON app.orders TO bob");
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let other = Cluster::builder(18).start();
    let error = refused(&source, &request(&other, "there"));
    assert_eq!(error.kind, LoadErrorKind::NotFound);
    assert!(error.message.contains("`ann`") && error.message.contains("`bob`"), "{error:?}");
    assert_eq!(other.sql("SELECT count(*) FROM pg_database WHERE datname ~ 'there|pgkeep'").trim(), "0");
    other.sql("CREATE ROLE eve");
    let mapped = LoadRequest {
        roles: vec![("ann".to_owned(), "eve".to_owned()), ("bob".to_owned(), "eve".to_owned())],
        ..request(&other, "there")
    };
    complete(&source, &mapped);
    assert_eq!(
        other
            .sql_db("there", "SELECT relowner::regrole FROM pg_class WHERE oid = 'app.users'::regclass")
            .trim(),
        "eve"
    );
    assert_eq!(
        other.sql_db("there", "SELECT has_table_privilege('eve', 'app.orders', 'select')").trim(),
        "t"
    );
}

#[test]
fn a_refusal_is_told_and_the_load_goes_on_after_it_was_healed() {
    let cluster = shop(18);
    // A row that refers to nothing.
    cluster.sql_db(
        "shop",
        "SET session_replication_role = replica; INSERT INTO app.user_mails VALUES ('x', 9999)",
    );
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let wanted = request(&cluster, "broken");
    let report = load(&source, &wanted, &Kept::default()).unwrap();
    let result = report.result.unwrap();
    assert!(!result.complete);
    assert_eq!(result.failures.len(), 1, "{:?}", result.failures);
    assert!(result.failures[0].step.contains("user_mails_user_id_fkey"), "{:?}", result.failures);
    assert!(result.failures[0].message.contains("9999"), "{:?}", result.failures);
    // Not without --resume, and not with other options.
    assert_eq!(refused(&source, &wanted).kind, LoadErrorKind::Destination);
    let resumed = LoadRequest { resume: true, ..wanted.clone() };
    let other = LoadRequest { no_owner: true, ..resumed.clone() };
    assert_eq!(refused(&source, &other).kind, LoadErrorKind::Mismatch);
    cluster.sql_db("broken", "DELETE FROM app.user_mails WHERE user_id = 9999");
    complete(&source, &resumed);
    cluster.sql_db("shop", "DELETE FROM app.user_mails WHERE user_id = 9999");
    assert_same_text(
        "healed",
        &script(&cluster, "shop", &["--create"]).to_vec(),
        &String::from_utf8(script(&cluster, "broken", &["--create"]))
            .unwrap()
            .replace("broken", "shop")
            .into_bytes(),
    );
    assert_eq!(refused(&source, &resumed).kind, LoadErrorKind::NotFound);
}

#[test]
fn going_on_after_errors_says_what_is_missing() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let mut wanted = request(&cluster, "some");
    // The type is not loaded, so the table cannot be made, nor anything of it.
    wanted.selection = LoadSelection {
        tables: vec!["app.user*".to_owned()],
        with_constraints: true,
        ..LoadSelection::default()
    };
    wanted.continue_on_error = true;
    let observer = Kept::default();
    let report = load(&source, &wanted, &observer).unwrap();
    assert!(observer.0.lock().unwrap().iter().any(|text| text.contains("TYPE app.mood")));
    let result = report.result.unwrap();
    assert!(!result.complete);
    assert!(result.failures.iter().any(|failure| failure.step == "TABLE app.users"), "{:?}", result.failures);
    assert_eq!(cluster.sql_db("some", "SELECT count(*) FROM app.user_mails").trim(), "500");
}

#[test]
fn a_dry_run_changes_nothing() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let report =
        load(&source, &LoadRequest { dry_run: true, ..request(&cluster, "dry") }, &Kept::default()).unwrap();
    assert!(report.result.is_none() && report.plan.creates_database);
    assert_eq!(report.plan.tables.first().map(|table| table.table.as_str()), Some("app.orders"));
    assert_eq!(cluster.sql("SELECT count(*) FROM pg_database WHERE datname ~ 'dry|pgkeep'").trim(), "0");
}

#[test]
fn a_pipe_is_loaded_too() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    drop(dump(&cluster, "shop", &scratch, &["-Fc"]));
    let file = std::fs::File::open(scratch.path().join("dump--Fc")).unwrap();
    complete(&LoadSource::stream(file).unwrap(), &request(&cluster, "piped"));
    assert_eq!(cluster.sql_db("piped", "SELECT count(*) FROM app.orders").trim(), "5000");
}

#[test]
fn rows_only_go_into_tables_that_are_there() {
    let cluster = shop(18);
    let scratch = Scratch::new();
    let source = dump(&cluster, "shop", &scratch, &["-Fc"]);
    let mut structure = request(&cluster, "two_steps");
    structure.selection.schema_only = true;
    complete(&source, &structure);
    assert_eq!(cluster.sql_db("two_steps", "SELECT count(*) FROM app.orders").trim(), "0");
    let mut rows = request(&cluster, "two_steps");
    rows.selection.data_only = true;
    rows.disable_triggers = true;
    complete(&source, &rows);
    assert_same_text("in two steps", &script(&cluster, "shop", &[]), &script(&cluster, "two_steps", &[]));
}
