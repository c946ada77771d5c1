//! `pg_verifybackup` and `pg_combinebackup` as programs: by a link of that name, with what they print and how they exit.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pgkeep_testkit::{Cluster, client, pgkeep_binary, run_as_server_user};

fn base_backup(cluster: &Cluster, name: &str, arguments: &[&str]) -> PathBuf {
    let directory = cluster.scratch().path().join(name);
    let mut command = Command::new(client("pg_basebackup"));
    command.args(["-d", &cluster.conninfo(), "-c", "fast", "--no-sync", "-D"]).arg(&directory);
    command.args(arguments);
    run_as_server_user(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}

/// Exit status, stdout, stderr.
fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn run(program: &Path, arguments: &[&Path]) -> (Option<i32>, String, String) {
    outcome(&Command::new(program).args(arguments).output().unwrap())
}

#[test]
fn they_print_and_exit_as_stocks_do() {
    let cluster = Cluster::builder(18).conf("summarize_wal", "on").conf("autovacuum", "off").start();
    cluster.sql("CREATE TABLE t AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 10000) n");
    let full = base_backup(&cluster, "full", &[]);
    cluster.sql("UPDATE t SET t = 'y' WHERE n % 500 = 0");
    let manifest = full.join("backup_manifest");
    let part = base_backup(&cluster, "part", &["-i", manifest.to_str().unwrap()]);
    let programs = cluster.scratch().path().join("bin");
    fs::create_dir(&programs).unwrap();
    let link = |name: &str| {
        let link = programs.join(name);
        symlink(pgkeep_binary(), &link).unwrap();
        link
    };
    let (verify, combine) = (link("pg_verifybackup"), link("pg_combinebackup"));
    for program in [&verify, &combine] {
        let (code, stdout, stderr) = run(program, &[Path::new("--help")]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.lines().all(|line| line.len() <= 95), "{stdout}");
    }

    let good = (Some(0), "backup successfully verified\n".to_owned(), String::new());
    assert_eq!(run(&verify, &[&full]), good);
    let quiet = (Some(0), String::new(), String::new());
    assert_eq!(run(&verify, &[Path::new("-q"), &full]), quiet);
    let (code, stdout, stderr) = run(&verify, &[Path::new("-P"), &full]);
    assert_eq!((code, stdout), (Some(0), good.1.clone()));
    assert!(stderr.ends_with(" kB (100%) verified\n"), "{stderr}");

    let output = cluster.scratch().path().join("output");
    let option = format!("-o{}", output.display());
    let option = Path::new(&option);
    assert_eq!(run(&combine, &[&full, &part, option, Path::new("-N")]), quiet);
    assert_eq!(run(&verify, &[&output]), good);
    fs::remove_dir_all(&output).unwrap();

    let path = cluster.sql("SELECT pg_relation_filepath('t')");
    let mut bytes = fs::read(full.join(&path)).unwrap();
    bytes[10_000] ^= 1;
    fs::write(full.join(&path), bytes).unwrap();
    let (code, stdout, stderr) = run(&verify, &[&full]);
    let expected = format!("pg_verifybackup: error: checksum mismatch for file \"{path}\"\n");
    assert_eq!((code, stdout.as_str(), stderr), (Some(1), "", expected));
    let (code, stdout, stderr) = run(&combine, &[&full, &part, option]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "pg_combinebackup: error: checksum mismatch for file \"{path}\" in backup \"{}\"",
            full.display()
        )
    );
    assert!(lines[1].starts_with("pg_combinebackup: hint: The backup is damaged"), "{stderr}");
    assert_eq!(lines[2], format!("pg_combinebackup: removing output directory \"{}\"", output.display()));
    assert!(!output.exists());
}
