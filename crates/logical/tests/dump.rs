//! Dumps of servers 14 to 18: scripts are stock 18's byte for byte, and archives are restored by stock's `pg_restore`.

mod dump_support;

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use dump_support::{
    DATABASE, assert_same_text, assert_scripts_are_stocks, cluster_with_everything, conninfo, ours, output,
    quoted, said, stock, text,
};
use pgkeep_testkit::{Cluster, Scratch, wait_until};

/// Options that change what is dumped or how.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--schema-only"],
    &["--data-only", "--disable-triggers", "--superuser=boss"],
    &["--clean", "--if-exists", "--create"],
    &["--create", "--no-owner", "--no-privileges"],
    &["--inserts", "--no-schema"],
    &["--column-inserts", "--rows-per-insert=2", "--on-conflict-do-nothing", "--load-via-partition-root"],
    &["--section=pre-data", "--use-set-session-authorization"],
    &["--section=data", "--no-large-objects"],
    &["--section=post-data", "--no-tablespaces", "--no-table-access-method"],
    &["--quote-all-identifiers", "--clean", "--create"],
    &[
        "--disable-dollar-quoting",
        "--no-comments",
        "--no-policies",
        "--no-publications",
        "--no-subscriptions",
    ],
    &["--no-data", "--sequence-data", "--no-toast-compression"],
    &["--no-unlogged-table-data", "--large-objects", "--exclude-table-data=plain.par*"],
    &["--schema=plain", "--schema=\"Odd Schema\"", "--exclude-table=plain.p*"],
    &["--table=plain.parted", "--table=code.\"View\"", "--strict-names"],
    &["--table-and-children=plain.parent", "--large-objects", "--no-comments"],
    &["--exclude-schema=o*", "--exclude-table-and-children=plain.parted", "--extra-float-digits=0"],
    &["--extension=citext"],
    &["--exclude-extension=*", "--schema-only"],
    &["--encoding=LATIN1", "--serializable-deferrable"],
    &["--statistics", "--clean"],
    &["--statistics-only", "--schema=plain", "--schema=\"Odd Schema\""],
    &["--statistics", "--no-data", "--section=post-data"],
    &["--statistics", "--no-schema", "--inserts", "--section=data"],
    &["--binary-upgrade", "--create", "--statistics"],
    &["--binary-upgrade", "--schema-only", "--clean", "--create"],
    &["--binary-upgrade", "--no-data", "--sequence-data", "--quote-all-identifiers"],
    &["--enable-row-security", "--role=grantee_role", "--schema=plain", "--table=plain.nowhere"],
];

fn scripts_are_stocks(major: u32) {
    let cluster = cluster_with_everything(major);
    let connection = conninfo(&cluster, DATABASE);
    assert_scripts_are_stocks("pg_dump", major, &connection, OPTIONS, |_, _| {});
}

#[test]
fn scripts_of_14_are_stocks() {
    scripts_are_stocks(14);
}

#[test]
fn scripts_of_15_are_stocks() {
    scripts_are_stocks(15);
}

#[test]
fn scripts_of_16_are_stocks() {
    scripts_are_stocks(16);
}

#[test]
fn scripts_of_17_are_stocks() {
    scripts_are_stocks(17);
}

#[test]
fn scripts_of_18_are_stocks() {
    scripts_are_stocks(18);
}

/// No server of the tests has a provider of labels, so they are put where providers put them.
#[test]
fn security_labels_are_stocks() {
    let cluster = cluster_with_everything(18);
    cluster.sql_db(
        &format!("'{DATABASE}'"),
        "SET allow_system_table_mods = on; \
         CREATE FUNCTION pg_temp.label(catalog regclass, oid oid, sub integer) RETURNS void LANGUAGE sql AS $$ \
           INSERT INTO pg_seclabel (objoid, classoid, objsubid, provider, label) VALUES \
             (oid, catalog, sub, 'provider', 'it''s ' || oid), (oid, catalog, sub, 'Second', 'two') $$; \
         SELECT pg_temp.label('pg_class', oid, 0) FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'v', 'm', 'S', 'f', 'p'); \
         SELECT pg_temp.label('pg_class', attrelid, attnum) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid \
           WHERE attrelid >= 16384 AND relkind IN ('r', 'v', 'm', 'f', 'p') AND attnum > 0 AND NOT attisdropped; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_proc WHERE oid >= 16384; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_type WHERE oid >= 16384; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_extension; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_language; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_publication; \
         SELECT pg_temp.label(tableoid, oid, 0) FROM pg_event_trigger; \
         SELECT pg_temp.label('pg_largeobject', oid, 0) FROM pg_largeobject_metadata; \
         INSERT INTO pg_shseclabel (objoid, classoid, provider, label) \
           SELECT oid, tableoid, 'provider', 'shared' FROM pg_subscription \
           UNION ALL SELECT oid, tableoid, 'provider', 'shared' FROM pg_database WHERE datname = current_database()",
    );
    let options: &[&[&str]] = &[
        &["--create"],
        &["--schema-only"],
        &["--data-only"],
        &["--no-security-labels", "--create"],
        &["--binary-upgrade", "--no-data", "--create"],
        &["--no-comments", "--schema=plain"],
    ];
    assert_scripts_are_stocks("pg_dump", 18, &conninfo(&cluster, DATABASE), options, |what, theirs| {
        let labels = String::from_utf8_lossy(&theirs.stdout).matches("SECURITY LABEL FOR").count();
        assert_eq!(labels > 0, !what.contains("no-security"), "{what}: {labels} labels of stock");
    });
}

/// Stock forgets these, so no comparison with it can have them.
#[test]
fn labels_of_columns_of_composite_types_are_kept() {
    let cluster = Cluster::builder(18).start();
    cluster.sql(
        "SET allow_system_table_mods = on; \
         CREATE SCHEMA s; CREATE TYPE s.pair AS (gone integer, \"Right\" text); ALTER TYPE s.pair DROP ATTRIBUTE gone; \
         INSERT INTO pg_seclabel (objoid, classoid, objsubid, provider, label) \
           VALUES ('s.pair'::regclass, 'pg_class'::regclass, 2, 'provider', 'it''s')",
    );
    let connection = cluster.conninfo();
    let labels = |made: fn(&str, &[&str]) -> Output, option: &str| {
        let script = output(option, made("pg_dump", &["-d", &connection, option]));
        let script = String::from_utf8(script).unwrap();
        let lines = script.lines().filter(|line| line.contains("SECURITY LABEL")).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    assert_eq!(labels(stock, "--schema-only"), [""; 0], "stock has learnt it: compare with it above");
    let expected = [
        "-- Name: COLUMN pair.\"Right\"; Type: SECURITY LABEL; Schema: s; Owner: postgres",
        "SECURITY LABEL FOR provider ON COLUMN s.pair.\"Right\" IS 'it''s';",
    ];
    assert_eq!(labels(ours, "--schema-only"), expected);
    assert_eq!(labels(ours, "--schema=s"), expected);
    assert_eq!(labels(ours, "--no-security-labels"), [""; 0]);
    assert_eq!(labels(ours, "--data-only"), [""; 0]);
}

#[test]
fn archives_of_all_formats_are_restored_by_stock() {
    let cluster = cluster_with_everything(18);
    let connection = conninfo(&cluster, DATABASE);
    let scratch = Scratch::new();
    let script = |database: &str, statistics: &str| {
        let arguments = ["--restrict-key=key", statistics, "-d", &conninfo(&cluster, database)];
        output("stock", stock("pg_dump", &arguments))
    };
    let (before, with_statistics) = (script(DATABASE, "--no-statistics"), script(DATABASE, "--statistics"));
    let formats: [&[&str]; 7] = [
        &["-Fc"],
        &["-Fc", "-Z0"],
        &["-Fc", "-Zgzip:1"],
        &["-Fd"],
        &["-Fd", "-Z0"],
        &["-Fd", "-j3"],
        &["-Ft"],
    ];
    for (number, options) in formats.iter().enumerate() {
        let what = format!("{options:?}");
        let path = scratch.path().join(number.to_string());
        let mut arguments = vec!["--statistics", "-d", &connection, "-f", text(&path)];
        arguments.extend_from_slice(options);
        output(&what, ours("pg_dump", &arguments));
        // As a script, which says whether the archive is understood.
        let list = output(&what, stock("pg_restore", &["--restrict-key=key", "-f", "-", text(&path)]));
        assert_same_text(&what, &with_statistics, &list);
        // As a database: dumped again it is the same.
        let database = format!("back {number}");
        cluster.sql(&format!("CREATE DATABASE {}", quoted(&database)));
        let target = conninfo(&cluster, &database);
        output(&what, stock("pg_restore", &["--exit-on-error", "-d", &target, text(&path)]));
        // Rows of the table that is partitioned by an enum's hash may lie in other partitions now.
        assert_same_text(&what, &sorted_lines(&before), &sorted_lines(&script(&database, "--no-statistics")));
    }
}

/// Stock's `pg_restore` sends one setting that servers before 17 do not know, and ends with 1 for it.
fn assert_only_settings_fail(what: &str, restored: &Output) {
    let said = String::from_utf8_lossy(&restored.stderr);
    let errors = said.matches("pg_restore: error:").count();
    let known = said.matches("unrecognized configuration parameter \"transaction_timeout\"").count();
    assert!(errors == known && errors <= 1, "{what}: {said}");
    assert_eq!(restored.status.code(), Some(i32::from(errors > 0)), "{what}: {said}");
}

fn sorted_lines(text: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines.join(&b'\n')
}

/// What stock writes, and we with it, as only 18 understands it: `NOT NULL` of an inherited column, some subscriptions.
const SINCE_18: [&str; 3] =
    ["--exclude-table-and-children=plain.parent", "--no-subscriptions", "--no-publications"];

/// What a dump of each server comes to in each later one: whether our archive is restored by stock or by us, and stock's by
/// us, the databases are the same to stock's own dump.
#[test]
fn dumps_of_each_server_go_into_each_later_one() {
    let clusters: Vec<Cluster> = [14, 15, 16, 17, 18].into_iter().map(cluster_with_everything).collect();
    let scratch = Scratch::new();
    for (from, source) in clusters.iter().enumerate() {
        let connection = conninfo(source, DATABASE);
        let archive = |name: &str, made: fn(&str, &[&str]) -> Output| {
            let path = scratch.path().join(format!("{name} {}", source.major()));
            let arguments = ["-Fc", "-d", &connection, "-f", text(&path)];
            output(name, made("pg_dump", &[&arguments[..], &SINCE_18].concat()));
            path
        };
        let (mine, theirs) = (archive("ours", ours), archive("stock", stock));
        for target in &clusters[from..] {
            let restored = |number: u32, restore: fn(&str, &[&str]) -> Output, archive: &Path| {
                let what = format!("{} into {}, {number}", source.major(), target.major());
                let database = format!("from {} {number}", source.major());
                target.sql(&format!("CREATE DATABASE {}", quoted(&database)));
                let target_connection = conninfo(target, &database);
                let done = restore("pg_restore", &["-d", &target_connection, text(archive)]);
                assert_only_settings_fail(&what, &done);
                // Sorted, since rows of the table that is partitioned by an enum's hash lie where its OIDs lead them.
                sorted_lines(&output(
                    &what,
                    stock("pg_dump", &["--restrict-key=key", "-d", &target_connection]),
                ))
            };
            let ours_by_stock = restored(1, stock, &mine);
            let ours_by_ours = restored(2, ours, &mine);
            let stocks_by_ours = restored(3, ours, &theirs);
            let what = format!("{} into {}", source.major(), target.major());
            assert_same_text(&what, &ours_by_stock, &ours_by_ours);
            assert_same_text(&what, &ours_by_stock, &stocks_by_ours);
            if target.major() == source.major() {
                let arguments = ["--restrict-key=key", "-d", &connection];
                let before = output(&what, stock("pg_dump", &[&arguments[..], &SINCE_18].concat()));
                assert_same_text(&what, &sorted_lines(&before), &ours_by_ours);
            }
        }
    }
}

#[test]
fn a_dump_into_a_pipe_can_be_restored() {
    let cluster = cluster_with_everything(18);
    let connection = conninfo(&cluster, DATABASE);
    let scratch = Scratch::new();
    let archive = output("pipe", ours("pg_dump", &["-Fc", "-d", &connection]));
    let path = scratch.path().join("archive");
    fs::write(&path, archive).unwrap();
    let before = output("stock", stock("pg_dump", &["--restrict-key=key", "-d", &connection]));
    let script = output("stock", stock("pg_restore", &["--restrict-key=key", "-f", "-", text(&path)]));
    assert_same_text("pipe", &before, &script);
}

#[test]
fn databases_in_other_encodings_keep_every_byte() {
    let cluster = Cluster::builder(18).start();
    for (database, encoding) in [("latin", "LATIN1"), ("bytes", "SQL_ASCII")] {
        cluster
            .sql(&format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"));
        // In hexadecimal, so that this file stays UTF-8.
        cluster.sql_db(
            database,
            "SET client_encoding = SQL_ASCII; \
             DO $$ DECLARE name text := convert_from('\\x74e9ff74'::bytea, getdatabaseencoding()); BEGIN \
             EXECUTE format('CREATE TABLE %I (a text DEFAULT %L)', name, name); \
             EXECUTE format('INSERT INTO %I VALUES (%L)', name, name || '\\'); \
             EXECUTE format('COMMENT ON TABLE %I IS %L', name, name); END $$",
        );
        for options in [&[][..], &["--inserts"], &["--quote-all-identifiers"]] {
            let connection = conninfo(&cluster, database);
            let mut arguments = vec!["--restrict-key=key", "-d", &connection];
            arguments.extend_from_slice(options);
            let what = format!("{encoding} {options:?}");
            let theirs = output(&what, stock("pg_dump", &arguments));
            assert!(
                theirs.windows(4).any(|bytes| bytes == b"t\xe9\xfft"),
                "{what}: no such name in the dump"
            );
            assert_same_text(&what, &theirs, &output(&what, ours("pg_dump", &arguments)));
        }
    }
}

#[test]
fn circles_of_foreign_keys_are_told_in_dumps_of_data() {
    let cluster = Cluster::builder(18).start();
    cluster.sql(
        "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a); \
         ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b; CREATE TABLE c (id int PRIMARY KEY, c int REFERENCES c); \
         CREATE TABLE z (id int PRIMARY KEY); CREATE TABLE d (id int REFERENCES z)",
    );
    let connection = cluster.conninfo();
    let arguments = ["--restrict-key=key", "-a", "-d", &connection];
    let (theirs, mine) = (stock("pg_dump", &arguments), ours("pg_dump", &arguments));
    assert!(!theirs.stderr.is_empty());
    assert_eq!(String::from_utf8_lossy(&mine.stderr), String::from_utf8_lossy(&theirs.stderr));
    assert_same_text("data only", &theirs.stdout, &mine.stdout);
}

#[test]
fn what_cannot_be_done_is_told_in_stocks_words() {
    let cluster = Cluster::builder(18).start();
    let connection = cluster.conninfo();
    for arguments in [
        &["-t", "nowhere"][..],
        &["-n", "nowhere"],
        &["-e", "nowhere"],
        &["--strict-names", "-t", "pg_class", "-t", "nowhere.*"],
        &["-t", "a.b.c.d"],
        &["-n", "a.b"],
        &["-n", "a.b.c"],
        &["-t", "other.public.t"],
        &["--role=nobody"],
        &["-E", "nonsense"],
        &["-a", "-s"],
        &["-Fx"],
        &["-Z", "nonsense"],
        &["-j0"],
        &["-j2"],
        &["--rows-per-insert=0"],
        &["--if-exists"],
        &["--on-conflict-do-nothing"],
        &["--restrict-key=x", "-Fc"],
        &["--restrict-key=!"],
        &["--nonsense"],
        &["one", "two", "three"],
        &["--snapshot=nonsense"],
        &["--section=nonsense"],
        &["-Ft", "-Z1"],
    ] {
        let mut all = vec!["-d", &connection];
        all.extend_from_slice(arguments);
        let (theirs, mine) = (stock("pg_dump", &all), ours("pg_dump", &all));
        assert_eq!((mine.status.code(), said(&mine)), (theirs.status.code(), said(&theirs)), "{arguments:?}");
    }
}

#[test]
fn a_dump_that_fails_leaves_nothing_under_its_name() {
    let cluster = Cluster::builder(18).start();
    cluster.sql(
        "CREATE FUNCTION fails(integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; \
         CREATE TABLE t (a integer); INSERT INTO t VALUES (1); CREATE ROLE nobody_special LOGIN; \
         REVOKE ALL ON t FROM PUBLIC",
    );
    let scratch = Scratch::new();
    let connection = format!("{} user=nobody_special", cluster.conninfo());
    for format in ["-Fp", "-Fc", "-Ft"] {
        let path = scratch.path().join("dump");
        let result = ours("pg_dump", &[format, "-d", &connection, "-f", text(&path)]);
        assert_eq!(result.status.code(), Some(1), "{format}");
        let files: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.is_empty(), "{format} left {files:?}");
    }
    let full = ours("pg_dump", &["-d", &cluster.conninfo(), "-f", "/dev/full"]);
    assert_eq!(full.status.code(), Some(1));
    let said = String::from_utf8_lossy(&full.stderr);
    assert!(said.contains("could not write to output file"), "{said}");
}

/// A database that is read by two sessions.
const LARGE: &str = "large";

/// More relations than a dump reads with one session; 1,600 of each kind below.
fn large_cluster() -> Cluster {
    let cluster = Cluster::builder(18).conf("max_locks_per_transaction", "256").start();
    cluster.sql(&format!("CREATE DATABASE {LARGE}"));
    for first in (0..1600).step_by(200) {
        cluster.sql_db(
            LARGE,
            &format!(
                "DO $do$ BEGIN FOR n IN {first}..{first} + 199 LOOP EXECUTE format($script$
                   CREATE TABLE t_%1$s (id int PRIMARY KEY, amount int CHECK (amount > %1$s));
                   CREATE INDEX i_%1$s ON t_%1$s ((amount %% 7));
                   CREATE VIEW v_%1$s AS SELECT sum(amount) FROM t_%1$s$script$, n); END LOOP; END $do$"
            ),
        );
    }
    cluster
}

fn sessions(cluster: &Cluster) -> u64 {
    let count = format!("SELECT sessions FROM pg_stat_database WHERE datname = '{LARGE}'");
    cluster.sql(&count).parse().expect("a count")
}

#[test]
fn a_second_session_for_a_large_database_changes_nothing_but_time() {
    let cluster = large_cluster();
    let connection = conninfo(&cluster, LARGE);
    let theirs = output("stock", stock("pg_dump", &["--restrict-key=key", "-d", &connection]));
    let before = sessions(&cluster);
    let mine = output("ours", ours("pg_dump", &["--restrict-key=key", "-d", &connection]));
    assert_same_text("two sessions", &theirs, &mine);
    // Counted when a session begins to report, at its end at the latest.
    wait_until("both sessions are counted", Duration::from_secs(20), || sessions(&cluster) == before + 2);

    cluster.sql("CREATE ROLE single LOGIN SUPERUSER CONNECTION LIMIT 1");
    // The limit does not hold for superusers; all databases' does.
    cluster.sql(&format!("ALTER ROLE single NOSUPERUSER; GRANT pg_read_all_data TO single; ALTER DATABASE {LARGE} CONNECTION LIMIT 1"));
    let single = format!("{} user=single", connection.replace("user=postgres", ""));
    let before = sessions(&cluster);
    let alone = output("alone", ours("pg_dump", &["--restrict-key=key", "-d", &single]));
    assert_same_text("one session", &theirs, &alone);
    wait_until("the session is counted", Duration::from_secs(20), || sessions(&cluster) > before);
}
