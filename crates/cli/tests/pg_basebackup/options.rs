//! What options change. Those that PostgreSQL's own suite does not use are among them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use pgkeep_testkit::Cluster;

use super::{back_up, fails, fill, members, names, ours, path, run, said, verify};

#[test]
fn archives_compressed_here_hold_the_same_bytes_with_any_number_of_threads() {
    let cluster = Cluster::builder(18).start();
    fill(&cluster);
    // Nothing changes the files meanwhile.
    cluster.sql("VACUUM FREEZE; CHECKPOINT");
    let table = cluster.sql("SELECT pg_relation_filepath('t')");
    let place = tempfile::tempdir().unwrap();
    let contents = fs::read(cluster.data_dir().join(&table)).unwrap();
    for (number, (method, suffix)) in [
        ("gzip:1", ".gz"),
        ("client-gzip", ".gz"),
        ("lz4", ".lz4"),
        ("zstd:level=1,workers=2", ".zst"),
        ("zstd:long", ".zst"),
        ("none", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let backup = path(&place, &number.to_string());
        back_up(&cluster, &backup, &["-Ft", "-Z", method, "-N"]);
        // WAL is compressed by gzip only, as stock has it.
        let wal = if suffix == ".gz" { "pg_wal.tar.gz" } else { "pg_wal.tar" };
        let mut expected = vec!["backup_manifest".to_owned(), format!("base.tar{suffix}"), wal.to_owned()];
        expected.sort();
        assert_eq!(names(&backup), expected, "{method}");
        let all = members(&backup.join(format!("base.tar{suffix}")));
        let (_, copied) = all.iter().find(|(name, _)| *name == table).unwrap();
        assert!(*copied == contents, "{method}");
        if matches!(suffix, "" | ".gz") {
            verify(&backup, 18);
        }
    }
}

#[test]
fn what_the_server_compressed_is_kept_or_unpacked() {
    // The server 17 of the tests has all methods.
    let cluster = Cluster::builder(17).start();
    fill(&cluster);
    let place = tempfile::tempdir().unwrap();
    for (number, (method, suffix)) in
        [("server-gzip:1", ".gz"), ("server-lz4", ".lz4"), ("server-zstd:level=1,workers=1", ".zst")]
            .into_iter()
            .enumerate()
    {
        let plain = path(&place, &format!("plain{number}"));
        back_up(&cluster, &plain, &["-Z", method, "-N"]);
        verify(&plain, 17);
        let archives = path(&place, &format!("tar{number}"));
        back_up(&cluster, &archives, &["-Ft", "-Z", method, "-R", "-N"]);
        let all = members(&archives.join(format!("base.tar{suffix}")));
        assert_eq!(all.last().unwrap().0, "standby.signal", "{method}");
        let as_sent = path(&place, &format!("sent{number}"));
        back_up(&cluster, &as_sent, &["-Ft", "-Z", method, "-N"]);
        assert!(members(&as_sent.join(format!("base.tar{suffix}"))).len() > 500, "{method}");
    }
    let old = Cluster::builder(14).start();
    let directory = path(&place, "old");
    for (words, text) in [
        (
            &["-Zserver-gzip", "-D", directory.to_str().unwrap()][..],
            "server does not support server-side compression",
        ),
        (&["-tblackhole", "-Xnone"], "backup targets are not supported by this server version"),
    ] {
        assert!(fails(ours(&old, words)).contains(text));
    }
}

#[test]
fn label_verbosity_progress_and_flushing() {
    for major in [14, 18] {
        let cluster = Cluster::builder(major).start();
        let place = tempfile::tempdir().unwrap();
        let one = path(&place, "one");
        let text = run(ours(
            &cluster,
            &["-D", one.to_str().unwrap(), "--label", "it's mine", "--verbose", "--progress", "-s", "1"],
        ));
        let label = fs::read_to_string(one.join("backup_label")).unwrap();
        assert!(label.contains("LABEL: it's mine\n"), "{label}");
        for expected in [
            "pg_basebackup: initiating base backup, waiting for checkpoint to complete\n",
            "pg_basebackup: checkpoint completed\n",
            "pg_basebackup: write-ahead log start point: 0/",
            "pg_basebackup: starting background WAL receiver\n",
            "pg_basebackup: created temporary replication slot \"pg_basebackup_",
            "pg_basebackup: write-ahead log end point: 0/",
            "pg_basebackup: syncing data to disk ...\n",
            "pg_basebackup: renaming backup_manifest.tmp to backup_manifest\n",
            "pg_basebackup: base backup completed\n",
            " kB (100%), 1/1 tablespace",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
        let two = path(&place, "two");
        back_up(&cluster, &two, &["--no-estimate-size", "--sync-method=syncfs"]);
        verify(&two, major);
    }
}

#[test]
fn passwords_are_asked_for_or_not() {
    let cluster = Cluster::builder(18).hba("local replication secret scram-sha-256").start();
    cluster.sql("CREATE ROLE secret LOGIN REPLICATION PASSWORD 'pw'");
    let place = tempfile::tempdir().unwrap();
    let directory = path(&place, "x");
    let words = ["-U", "secret", "-D", directory.to_str().unwrap(), "-N"];
    let connection = cluster.conninfo().replace("user=postgres", "");
    let command = |option: &str| {
        let mut command = std::process::Command::new(pgkeep_testkit::pgkeep_binary());
        command.arg("pg_basebackup").args(["-d", &connection, "-cfast", option]).args(words);
        command
    };
    assert!(fails(command("-w")).contains("fe_sendauth: no password supplied"));
    assert!(!directory.exists());
    // Without a terminal the password is a line of standard input.
    let mut asking = std::process::Command::new("setsid");
    let inner = command("-W");
    asking.arg("-w").arg(inner.get_program()).args(inner.get_args());
    let mut child = asking.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"pw\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    verify(&directory, 18);
}

#[test]
fn the_group_may_read_where_it_may_on_the_server() {
    let cluster = Cluster::builder(18).group_access(true).start();
    let place = tempfile::tempdir().unwrap();
    let (plain, archives) = (path(&place, "plain"), path(&place, "tar"));
    back_up(&cluster, &plain, &["-N"]);
    back_up(&cluster, &archives, &["-N", "-Ft"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&plain), mode(&archives)), (0o750, 0o750));
    let segment = names(&plain.join("pg_wal")).into_iter().find(|name| name.len() == 24).unwrap();
    for file in [
        plain.join("backup_manifest"),
        plain.join("pg_wal").join(segment),
        archives.join("base.tar"),
        archives.join("pg_wal.tar"),
    ] {
        assert_eq!(mode(&file), 0o640, "{}", file.display());
    }
}

#[test]
fn names_that_are_not_utf8_are_copied() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let cluster = Cluster::builder(18).start();
    let name = OsStr::from_bytes(b"FOO\xe0\xe0BAR");
    fs::write(cluster.data_dir().join(name), "odd").unwrap();
    fs::set_permissions(cluster.data_dir().join(name), fs::Permissions::from_mode(0o644)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let plain = path(&place, "plain");
    back_up(&cluster, &plain, &["-N"]);
    assert_eq!(fs::read_to_string(plain.join(name)).unwrap(), "odd");
    verify(&plain, 18);
    let archives = path(&place, "tar");
    back_up(&cluster, &archives, &["-N", "-Ft", "-R", "--manifest-force-encode"]);
    verify(&archives, 18);
}
