//! Databases to dump, and both programs that dump them.

use std::path::Path;
use std::process::{Command, Output};

use pgkeep_testkit::{Cluster, client, pgkeep_binary};

const SCRIPTS: [(u32, &str, &str); 6] = [
    (14, "tables", include_str!("../schemas/tables.sql")),
    (14, "code", include_str!("../schemas/code.sql")),
    (14, "others", include_str!("../schemas/others.sql")),
    (15, "since_15", include_str!("../schemas/since_15.sql")),
    (17, "since_17", include_str!("../schemas/since_17.sql")),
    (18, "since_18", include_str!("../schemas/since_18.sql")),
];

/// The database that has something of everything.
pub const DATABASE: &str = "Odd \"db\"";

/// A cluster with that database.
pub fn cluster_with_everything(major: u32) -> Cluster {
    // Both programs must find the same statistics, which decide the plans of their queries too.
    let cluster = Cluster::builder(major).conf("autovacuum", "off").start();
    cluster.sql(include_str!("../schemas/roles.sql"));
    cluster.sql(&format!("CREATE DATABASE {}", quoted(DATABASE)));
    for (since, name, script) in SCRIPTS {
        if since <= major {
            cluster
                .try_sql_db(&format!("'{DATABASE}'"), script)
                .unwrap_or_else(|error| panic!("{name}.sql on {major}: {error}"));
        }
    }
    // So that there are statistics.
    cluster.sql_db(&format!("'{DATABASE}'"), "ANALYZE");
    cluster
}

/// An SQL identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A connection string for a database with any name.
pub fn conninfo(cluster: &Cluster, database: &str) -> String {
    format!("{} dbname='{}'", cluster.conninfo(), database.replace('\\', r"\\").replace('\'', r"\'"))
}

/// Runs both programs of that name with each set of options: they must write the same, say the same and end alike. What
/// stock did is handed to `check`.
pub fn assert_scripts_are_stocks(
    program: &str,
    major: u32,
    connection: &str,
    options: &[&[&str]],
    check: impl Fn(&str, &Output),
) {
    for options in options {
        let mut arguments = vec!["--restrict-key=key", "-d", connection];
        arguments.extend_from_slice(options);
        let what = format!("{major} {options:?}");
        let (theirs, mine) = (stock(program, &arguments), ours(program, &arguments));
        assert_eq!((mine.status.code(), said(&mine)), (theirs.status.code(), said(&theirs)), "{what}");
        check(&what, &theirs);
        assert_same_text(&what, &theirs.stdout, &mine.stdout);
    }
}

/// Runs a program of stock PostgreSQL 18.
pub fn stock(program: &str, arguments: &[&str]) -> Output {
    run(Command::new(client(program)), arguments)
}

/// Runs our program by the name of one of PostgreSQL's.
pub fn ours(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(pgkeep_binary());
    command.arg(program);
    run(command, arguments)
}

fn run(mut command: Command, arguments: &[&str]) -> Output {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") && !name.as_encoded_bytes().starts_with(b"PGKEEP") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Standard output of a program that has to work and be silent otherwise.
#[track_caller]
pub fn output(what: &str, output: Output) -> Vec<u8> {
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{what}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Fails with the first line that differs.
#[track_caller]
pub fn assert_same_text(what: &str, stock: &[u8], ours: &[u8]) {
    if stock == ours {
        return;
    }
    let (stock, ours) = (String::from_utf8_lossy(stock), String::from_utf8_lossy(ours));
    let mut lines = stock.lines().zip(ours.lines()).enumerate();
    match lines.find(|(_, (stock, ours))| stock != ours) {
        Some((number, (stock, ours))) => {
            panic!("{what}: line {} differs\n  stock: {stock}\n  ours:  {ours}", number + 1);
        }
        None => panic!("{what}: {} lines of stock, {} of ours", stock.lines().count(), ours.lines().count()),
    }
}

/// What a program said, by its own name: stock's begins some lines with its path.
pub fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.replace(&client("pg_dump").display().to_string(), "pg_dump")
}

/// The path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is not UTF-8", path.display()))
}
