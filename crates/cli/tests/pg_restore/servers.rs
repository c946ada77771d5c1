//! Restores into servers: what comes out is what went in, and errors are told and counted as by stock.

use crate::support::{Lab, ours, same, stock};

#[test]
fn every_way_of_restoring_gives_the_same_database() {
    let lab = Lab::new(18);
    let source = lab.shown("demo", &[]);
    let custom = lab.dump("custom", &["-Fc", "--statistics"]);
    let directory = lab.dump("directory", &["-Fd", "--statistics"]);
    let tar = lab.dump("tar", &["-Ft", "--statistics"]);
    let inserts = lab.dump("inserts", &["-Fc", "--inserts"]);
    let root = lab.dump("root", &["-Fd", "--load-via-partition-root"]);
    let columns = lab.dump("columns", &["-Fd", "-Z0", "--column-inserts", "--rows-per-insert=7"]);
    for (number, (archive, options)) in [
        (&custom, &[][..]),
        (&directory, &[]),
        (&tar, &[]),
        (&inserts, &[]),
        (&columns, &[]),
        (&root, &[]),
        (&custom, &["-1"]),
        (&custom, &["--transaction-size=3"]),
        (&tar, &["-1", "-c", "--if-exists"]),
        (&custom, &["-j4"]),
        (&directory, &["-j3"]),
        (&directory, &["-j2", "--transaction-size=5"]),
        (&inserts, &["-j2"]),
        (&root, &["-j4"]),
    ]
    .into_iter()
    .enumerate()
    {
        let database = format!("r{number}");
        lab.create(&database);
        let conninfo = lab.cluster.conninfo_db(&database);
        ours(&[options, &["-d", &conninfo, archive][..]].concat()).is_fine(&format!("{archive} {options:?}"));
        let restored = lab.shown(&database, &[]);
        assert!(restored == source, "{archive} {options:?}: the restored database differs");
    }
    // Objects are made by their owners, who must be allowed to.
    lab.cluster.sql("ALTER ROLE alice SUPERUSER");
    lab.create("owned");
    let conninfo = lab.cluster.conninfo_db("owned");
    ours(&["--use-set-session-authorization", "-d", &conninfo, &custom]).is_fine("as owners");
    assert!(lab.shown("owned", &[]) == source, "as owners: the restored database differs");
    // Statistics came along.
    let count = "SELECT count(*) FROM pg_stats WHERE schemaname IN ('public', 's2')";
    assert_eq!(lab.cluster.sql_db("r0", count), lab.cluster.sql_db("demo", count));
    assert_ne!(lab.cluster.sql_db("r0", count), "0");
}

#[test]
fn archives_go_into_every_later_server_without_an_error() {
    let labs: Vec<Lab> = [14, 15, 16, 17, 18].into_iter().map(Lab::new).collect();
    for (from, source) in labs.iter().enumerate() {
        let archive = source.dump("custom", &["-Fc"]);
        for target in &labs[from..] {
            let database = format!("from_{}", source.cluster.major());
            target.create(&database);
            let what = format!("{} into {}", source.cluster.major(), target.cluster.major());
            ours(&["-d", &target.cluster.conninfo_db(&database), &archive]).is_fine(&what);
            // The definition of a view is the server's own rendering, which changed with 16: hence without it.
            let without = ["--exclude-table=v", "--exclude-table=mv"];
            assert_eq!(target.shown(&database, &without), source.shown("demo", &without), "{what}");
        }
    }
    // And back: of what the older server has a place for, all is there.
    let (oldest, newest) = (&labs[0], &labs[4]);
    let archive = newest.dump("statistics", &["-Fc", "--statistics", "-t", "t", "-t", "ser"]);
    oldest.create("back");
    let ran = ours(&["-d", &oldest.cluster.conninfo_db("back"), "-x", "--no-policies", "-O", &archive]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("warning: statistics are not restored: a server of version 14"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains("transaction_timeout"), "{}", ran.stderr);
    let rows = "SELECT count(*), sum(id) FROM t";
    assert_eq!(oldest.cluster.sql_db("back", rows), newest.cluster.sql_db("demo", rows));
}

#[test]
fn errors_are_told_and_counted_as_by_stock() {
    let lab = Lab::new(18);
    let archive = lab.dump("custom", &["-Fc"]);
    let inserts = lab.dump("inserts", &["-Fc", "--inserts"]);
    let conninfo = lab.cluster.conninfo_db("demo");
    for archive in [&archive, &inserts] {
        for options in [&[][..], &["-v"], &["-e"], &["-1"], &["--transaction-size=2"], &["-a"], &["-n", "s2"]]
        {
            // Everything is there already, so nearly everything fails, and nothing changes.
            let arguments = [options, &["-d", &conninfo, archive][..]].concat();
            let (mine, theirs) = (ours(&arguments), stock(&arguments));
            assert_eq!(mine.stderr, theirs.stderr, "{arguments:?}");
            assert_eq!((mine.code, theirs.code), (Some(1), Some(1)), "{arguments:?}");
        }
    }
    // Workers tell the same errors in their own order. Stock's are processes that write a line in several pieces, its name
    // before the rest, which come in between each other's.
    let count = |ran: &crate::support::Ran| ran.stderr.matches("error: ").count();
    let arguments = ["-j3", "-d", &conninfo, &archive];
    let (mine, theirs) = (ours(&arguments), stock(&arguments));
    assert_eq!((count(&mine), mine.stderr.lines().last()), (count(&theirs), theirs.stderr.lines().last()));
}

#[test]
fn a_restored_database_is_created_cleaned_and_restored_again() {
    let lab = Lab::new(18);
    let source = lab.shown("demo", &["-C"]);
    let archive = lab.dump("custom", &["-Fc"]);
    let conninfo = lab.cluster.conninfo();
    let user_tables = "SELECT count(*) FROM pg_class WHERE relname = 'pt'";
    ours(&["-C", "-c", "-d", &conninfo, &archive]).is_fine("-C -c");
    assert_eq!(lab.shown("demo", &["-C"]), source);
    ours(&["-C", "-c", "--if-exists", "-j3", "-d", &conninfo, &archive]).is_fine("-C -c -j3");
    assert_eq!(lab.shown("demo", &["-C"]), source);
    ours(&["-C", "-c", "--transaction-size=4", "-d", &conninfo, &archive])
        .is_fine("-C -c --transaction-size");
    assert_eq!(lab.shown("demo", &["-C"]), source);
    // A primary key of a partition cannot be dropped: as with stock, and nothing else was done.
    same(&["-c", "-1", "-d", &lab.cluster.conninfo_db("demo"), &archive]);
    assert_eq!(lab.shown("demo", &["-C"]), source);
    // Nothing of it went into the database that was connected to first.
    assert_eq!(lab.cluster.sql(user_tables), "0");
}

#[test]
fn data_of_tables_that_could_not_be_created_stays_out_when_asked() {
    let lab = Lab::new(18);
    let archive = lab.dump("custom", &["-Fc"]);
    for (number, options) in [&["-n", "s2"][..], &["-n", "s2", "-j2"]].into_iter().enumerate() {
        for (with, expected) in [(false, "2"), (true, "0")] {
            let database = format!("r{number}_{with}");
            lab.create(&database);
            // The same columns, but without the key that points to another table.
            lab.cluster.sql_db(&database, "CREATE SCHEMA s2; CREATE TABLE s2.child (id int, b bytea)");
            let switch = if with { &["--no-data-for-failed-tables"][..] } else { &[] };
            let conninfo = lab.cluster.conninfo_db(&database);
            let ran = ours(&[options, switch, &["-d", &conninfo, &archive][..]].concat());
            assert_eq!(ran.code, Some(1));
            assert_eq!(
                lab.cluster.sql_db(&database, "SELECT count(*) FROM s2.child"),
                expected,
                "{options:?}"
            );
        }
    }
}

#[test]
fn triggers_can_be_kept_from_firing_while_data_alone_is_restored() {
    let lab = Lab::new(18);
    let archive = lab.dump("custom", &["-Fc"]);
    lab.create("r");
    let conninfo = lab.cluster.conninfo_db("r");
    ours(&["-s", "-d", &conninfo, &archive]).is_fine("-s");
    lab.cluster.sql_db("r", "ALTER TABLE s2.child ALTER CONSTRAINT child_id_fkey DEFERRABLE");
    lab.cluster.sql_db("r", "ALTER TABLE s2.child ALTER CONSTRAINT child_id_fkey NOT DEFERRABLE");
    // In the wrong order: the child's rows before those of the table that they point to.
    let list = ours(&["-l", "-a", &archive]).text();
    let mut data: Vec<&str> = list.lines().filter(|line| line.contains(" TABLE DATA ")).collect();
    data.sort_by_key(|line| !line.contains(" s2 child "));
    let path = lab.path("list");
    std::fs::write(&path, data.join("\n")).unwrap();
    let failing = ours(&["-a", "-L", &path, "-d", &conninfo, &archive]);
    assert!(failing.stderr.contains("child_id_fkey"), "{}", failing.stderr);
    lab.cluster.sql_db("r", "TRUNCATE t, s2.child, pt, ser, deferr, \"Odd Schema\".\"odd\ntable;\"");
    ours(&["-a", "--disable-triggers", "-L", &path, "-d", &conninfo, &archive]).is_fine("--disable-triggers");
    assert_eq!(lab.cluster.sql_db("r", "SELECT count(*) FROM s2.child"), "2");
}

#[test]
fn what_cannot_be_restored_in_parallel_is_said_before_anything_is_done() {
    let lab = Lab::new(18);
    let tar = lab.dump("tar", &["-Ft"]);
    let custom = lab.dump("custom", &["-Fc"]);
    lab.create("r");
    let conninfo = lab.cluster.conninfo_db("r");
    same(&["-j2", "-d", &conninfo, &tar]);
    let ran = crate::support::ours_with(&["-j2", "-d", &conninfo], Some(&crate::support::bytes_of(&custom)));
    assert_eq!(ran.stderr, "pg_restore: error: parallel restore from standard input is not supported\n");
    assert_eq!(lab.cluster.sql_db("r", "SELECT count(*) FROM pg_class WHERE relname = 't'"), "0");
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let lab = Lab::new(18);
    let custom = lab.dump("custom", &["-Fc"]);
    let ran = ours(&["-d", "demo", "-h", "/nonexistent", "-U", "x", &custom]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.starts_with("pg_restore: error: connection to server on socket \"/nonexistent/.s.PGSQL."),
        "{}",
        ran.stderr
    );
}

#[test]
fn names_and_rows_keep_their_bytes_in_any_encoding() {
    let lab = Lab::empty(18);
    for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
        let create = |database: &str| {
            lab.cluster.sql(&format!(
                "CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
            ));
        };
        let name = encoding.to_lowercase();
        let source = format!("of_{name}");
        create(&source);
        // In EUC_JP these are two bytes of one character; nowhere are they UTF-8.
        let sql = format!(
            "DO $$ DECLARE odd text := convert_from('\\xa4a2', '{encoding}'); BEGIN \
             EXECUTE format('CREATE SCHEMA %I', odd); \
             EXECUTE format('CREATE TABLE %I.%I (%I text DEFAULT %L)', odd, odd, odd, odd); \
             EXECUTE format('INSERT INTO %I.%I VALUES (%L)', odd, odd, odd || E'\\t;\\''); \
             EXECUTE format('COMMENT ON TABLE %I.%I IS %L', odd, odd, odd); \
             EXECUTE format('CREATE FUNCTION %I.%I() RETURNS text LANGUAGE sql AS %L', odd, odd, 'SELECT ' || quote_literal(odd)); \
             END $$"
        );
        lab.cluster.sql_db(&source, &sql);
        let shown = lab.shown_bytes(&source, &[]);
        assert!(std::str::from_utf8(&shown).is_err());
        for (number, options) in
            [&["-Fc"][..], &["-Fd"], &["-Ft"], &["-Fc", "--inserts"]].into_iter().enumerate()
        {
            let archive = lab.dump_of(&source, 18, &format!("{encoding}{number}"), options);
            for options in [&[][..], &["-C"], &["-O"], &["-c", "--if-exists"], &["-v"]] {
                same(&[options, &["--restrict-key=k", "-f", "-", &archive][..]].concat());
            }
            same(&["-l", &archive]);
            let target = format!("to_{name}_{number}");
            create(&target);
            ours(&["-d", &lab.cluster.conninfo_db(&target), &archive]).is_fine(&target);
            assert!(lab.shown_bytes(&target, &[]) == shown, "{target} differs");
        }
    }
}
