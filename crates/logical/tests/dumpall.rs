//! Dumps of clusters, letter by letter those of stock `pg_dumpall` 18, and restored to the same.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod dump_support;

use std::fs;
use std::path::Path;
use std::process::Command;

use dump_support::{assert_same_text, assert_scripts_are_stocks, ours, output, said, stock, text};
use pgkeep_testkit::{Cluster, client, run_as_server_user};

/// Each changes something in the script.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["--clean"],
    &["--clean", "--if-exists", "--exclude-database=o*"],
    &["--globals-only"],
    &["--globals-only", "--clean", "--no-tablespaces"],
    &["--globals-only", "--no-role-passwords", "--no-comments", "--no-security-labels"],
    &["--globals-only", "--no-privileges"],
    &["--globals-only", "--binary-upgrade", "--quote-all-identifiers"],
    &["--globals-only", "--encoding=LATIN1"],
    &["--globals-only", "--no-schema"],
    &["--globals-only", "--role=select", "--data-only", "--schema-only"],
    &["--roles-only"],
    &["--roles-only", "--clean"],
    &["--roles-only", "--database=template1"],
    &["--tablespaces-only", "--clean", "--if-exists"],
    &["--tablespaces-only", "--no-tablespaces"],
    &["--data-only", "--disable-triggers", "--superuser=select", "--load-via-partition-root"],
    &["--schema-only", "--sequence-data", "--exclude-database=\"Odd 'db'\"", "--exclude-database=?ther"],
    &["--no-owner", "--no-privileges", "--no-comments", "--no-policies", "--no-publications", "--inserts"],
    &["--no-data", "--no-tablespaces", "--no-table-access-method", "--no-toast-compression"],
    &["--no-schema", "--column-inserts", "--extra-float-digits=0", "--no-unlogged-table-data"],
    &["--quote-all-identifiers", "--rows-per-insert=2", "--on-conflict-do-nothing"],
    &["--use-set-session-authorization", "--disable-dollar-quoting", "--no-subscriptions", "--encoding=UTF8"],
];

/// Command lines that end in an error, or in an error of the dump of the first database.
const MISTAKES: &[&[&str]] = &[
    &["extra"],
    &["--nonsense"],
    &["--no-s"],
    &["-j2"],
    &["--globals-only", "--roles-only"],
    &["--globals-only", "--tablespaces-only"],
    &["--roles-only", "--tablespaces-only"],
    &["--if-exists"],
    &["--if-exists", "--roles-only", "--tablespaces-only"],
    &["--exclude-database=x", "--globals-only"],
    &["--exclude-database=x", "--roles-only"],
    &["--exclude-database=a.b"],
    &["--exclude-database"],
    &["--filter=nowhere"],
    &["--restrict-key=a b"],
    &["--encoding=nonsense"],
    &["--role=nobody_here", "--globals-only"],
    &["--data-only", "--schema-only"],
    &["--extra-float-digits=99"],
    &["--rows-per-insert=0"],
    &["--on-conflict-do-nothing"],
];

fn cluster(major: u32) -> Cluster {
    let cluster = Cluster::builder(major).start();
    let spaces = cluster.scratch().create_dir("spaces", 0o700);
    for name in ["spaces/a", "spaces/b"] {
        drop(cluster.scratch().create_dir(name, 0o700));
    }
    cluster.sql(&include_str!("schemas/cluster.sql").replace("TABLESPACES", text(&spaces)));
    if major >= 15 {
        cluster.sql(include_str!("schemas/cluster_since_15.sql"));
    }
    if major >= 16 {
        cluster.sql(include_str!("schemas/cluster_since_16.sql"));
    }
    // Providers of labels are extensions, of which none comes with the servers.
    cluster.sql(
        "SET allow_system_table_mods = on; INSERT INTO pg_shseclabel \
         SELECT oid, 'pg_authid'::regclass, provider, 'label \\ of it''s' FROM pg_authid, \
         unnest('{\"A provider\",b_provider}'::text[]) AS provider WHERE rolname = 'plain' \
         UNION ALL SELECT oid, 'pg_tablespace'::regclass, 'p', 'secret' FROM pg_tablespace WHERE spcname ~ '^Odd'",
    );
    cluster.sql_db(r"'Odd \'db\''", TABLES);
    cluster.sql_db("template1", "CREATE TABLE from_template (id int); INSERT INTO from_template VALUES (1)");
    cluster.sql("CREATE VIEW seen AS SELECT 1 AS one");
    cluster
}

const TABLES: &str = include_str!("schemas/cluster_tables.sql");

fn scripts_are_stocks(major: u32) {
    let cluster = cluster(major);
    assert_scripts_are_stocks("pg_dumpall", major, &cluster.conninfo(), OPTIONS, |what, theirs| {
        assert!(theirs.status.success(), "{what}: {}", said(theirs));
    });
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

/// What both programs said, by one name.
fn words(output: &std::process::Output) -> String {
    said(output).replace(text(&client("pg_dumpall")), "pg_dumpall")
}

#[test]
fn mistakes_are_told_in_stocks_words() {
    let cluster = Cluster::builder(18).start();
    let connection = cluster.conninfo();
    for options in MISTAKES {
        let mut arguments = vec!["-d", &connection];
        arguments.extend_from_slice(options);
        let (theirs, mine) = (stock("pg_dumpall", &arguments), ours("pg_dumpall", &arguments));
        assert_eq!(theirs.status.code(), Some(1), "{options:?}");
        assert_eq!((mine.status.code(), words(&mine)), (Some(1), words(&theirs)), "{options:?}");
    }
}

#[test]
fn a_database_that_is_not_there_is_told_with_the_reason() {
    let cluster = Cluster::builder(18).start();
    let mine = ours("pg_dumpall", &["-d", &cluster.conninfo(), "-l", "nowhere"]);
    let said = words(&mine);
    assert_eq!(mine.status.code(), Some(1));
    assert!(said.starts_with("pg_dumpall: error: could not connect to database \"nowhere\"\n"), "{said}");
    assert!(said.contains("does not exist"), "{said}");
}

#[test]
fn files_and_filters_are_stocks() {
    let cluster = cluster(18);
    let connection = cluster.conninfo();
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let filter = path("filter");
    fs::write(
        &filter,
        "# a comment\nexclude database \"Odd 'db'\"\n\nexclude database \"Latin  DB\" # spaces\n",
    )
    .unwrap();
    let filter = format!("--filter={}", filter.display());
    for options in [&[filter.as_str()][..], &["--clean", "--no-sync"]] {
        let (theirs, mine) = (path("theirs"), path("mine"));
        let run = |program: fn(&str, &[&str]) -> std::process::Output, file: &Path| {
            let mut arguments = vec!["--restrict-key=key", "-d", &connection, "-f", text(file)];
            arguments.extend_from_slice(options);
            assert_eq!(output("to a file", program("pg_dumpall", &arguments)), b"");
            fs::read(file).unwrap()
        };
        let (theirs, mine) = (run(stock, &theirs), run(ours, &mine));
        assert!(!theirs.is_empty());
        assert_same_text(&format!("{options:?}"), &theirs, &mine);
    }
    for wrong in ["include database x\n", "exclude table x\n", "exclude\n", "nonsense database x\n"] {
        fs::write(path("filter"), wrong).unwrap();
        let (theirs, mine) = (
            stock("pg_dumpall", &["-d", &connection, &filter]),
            ours("pg_dumpall", &["-d", &connection, &filter]),
        );
        assert_eq!((mine.status.code(), words(&mine)), (Some(1), words(&theirs)), "{wrong}");
    }
}

#[test]
fn a_failed_dump_leaves_no_file() {
    let cluster = cluster(18);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("script");
    let arguments = ["-d", &cluster.conninfo(), "-f", text(&file), "--data-only", "--schema-only"];
    let mine = ours("pg_dumpall", &arguments);
    assert_eq!(mine.status.code(), Some(1));
    assert!(
        words(&mine).ends_with("pg_dump failed on database \"template1\", exiting\n"),
        "{}",
        words(&mine)
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn verbose_scripts_say_when_they_were_made() {
    let cluster = Cluster::builder(18).start();
    let arguments = ["-v", "--restrict-key=key", "-d", &cluster.conninfo()];
    let without_times = |program: fn(&str, &[&str]) -> std::process::Output| {
        let output = program("pg_dumpall", &arguments);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| {
            let time =
                ["-- Started on ", "-- Completed on "].into_iter().find(|start| line.starts_with(start));
            time.unwrap_or(line)
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let theirs = without_times(stock);
    assert_eq!(theirs.matches("-- Started on").count(), 3);
    assert_same_text("verbose", theirs.as_bytes(), without_times(ours).as_bytes());
}

/// Memberships as no server makes them, but as some have them.
#[test]
fn memberships_of_roles_that_are_gone_are_stocks() {
    for (major, damage) in [
        (14, "UPDATE pg_auth_members SET grantor = 99999 WHERE member = 'member_b'::regrole"),
        (15, "DELETE FROM pg_authid WHERE rolname = 'member_c'"),
        (16, "DELETE FROM pg_authid WHERE rolname = 'member_b'"),
        (17, "UPDATE pg_auth_members SET grantor = 99999 WHERE member = 'member_b'::regrole"),
        (18, "DELETE FROM pg_authid WHERE rolname = 'group_x'"),
        (18, "UPDATE pg_auth_members SET grantor = 'plain'::regrole WHERE member = 'member_b'::regrole"),
    ] {
        let cluster = Cluster::builder(major).start();
        cluster.sql(
            "CREATE ROLE group_x; CREATE ROLE member_b; CREATE ROLE member_c; CREATE ROLE plain; \
             GRANT group_x TO member_b, member_c WITH ADMIN OPTION; GRANT group_x TO plain",
        );
        cluster.sql(&format!("SET allow_system_table_mods = on; {damage}"));
        let arguments = ["-r", "--restrict-key=key", "-d", &cluster.conninfo()];
        let (theirs, mine) = (stock("pg_dumpall", &arguments), ours("pg_dumpall", &arguments));
        let what = format!("{major} {damage}");
        assert_eq!((mine.status.code(), words(&mine)), (theirs.status.code(), words(&theirs)), "{what}");
        assert!(!theirs.stdout.is_empty());
    }
}

/// Our script, restored into an empty cluster, gives a cluster that stock dumps alike. (As stock's, it has settings that
/// servers before 17 refuse.)
#[test]
fn a_restored_cluster_is_the_same() {
    for major in [17, 18] {
        let source = cluster(major);
        // The first superuser alone remains of what cannot be restored without its provider.
        source.sql("SET allow_system_table_mods = on; DELETE FROM pg_shseclabel");
        let target = Cluster::builder(major).start();
        let spaces = target.scratch().create_dir("spaces", 0o700);
        for name in ["spaces/a", "spaces/b"] {
            drop(target.scratch().create_dir(name, 0o700));
        }
        let moved = |script: Vec<u8>| {
            let from = source.scratch().path().join("spaces");
            String::from_utf8(script).unwrap().replace(text(&from), text(&spaces))
        };
        let script = moved(output("ours", ours("pg_dumpall", &["-d", &source.conninfo()])));
        let file = target.scratch().path().join("script");
        fs::write(&file, script).unwrap();
        let mut psql = Command::new(client("psql"));
        psql.args(["-Xq", "-d", &target.conninfo(), "-f", text(&file)]);
        run_as_server_user(&mut psql);
        let restored = psql.output().unwrap();
        let errors = String::from_utf8_lossy(&restored.stderr);
        let errors: Vec<&str> = errors.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(
            matches!(errors.as_slice(), [only] if only.contains("role \"postgres\" already exists")),
            "{major}: {errors:#?}"
        );
        let dump = |cluster: &Cluster| {
            output("stock", stock("pg_dumpall", &["--restrict-key=key", "-d", &cluster.conninfo()]))
        };
        // The database that takes no connections is in no dump.
        assert_same_text(&major.to_string(), moved(dump(&source)).as_bytes(), &dump(&target));
    }
}
