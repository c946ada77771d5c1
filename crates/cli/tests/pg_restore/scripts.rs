//! Scripts and lists of whole archives, byte for byte, with every option that selects or shapes.

use crate::support::{Lab, bytes_of, ours, ours_with, same, stock, write};
use pgkeep_testkit::{Scratch, pgkeep_binary};

/// Every option at least once.
const OPTIONS: &[&[&str]] = &[
    &[],
    &["-a"],
    &["-s"],
    &["-c"],
    &["-c", "--if-exists"],
    &["-C"],
    &["-c", "-C"],
    &["-c", "-C", "--if-exists"],
    &["-O"],
    &["-x"],
    &["-v", "-a"],
    &["-v"],
    &["-v", "-s", "-C"],
    &["-1"],
    &["-1", "-c"],
    &["--transaction-size=1"],
    &["--transaction-size=3"],
    &["--transaction-size=5", "-C", "-c"],
    &["--transaction-size=2", "-c", "--if-exists"],
    &["--section=pre-data"],
    &["--section=data"],
    &["--section=post-data"],
    &["--section=pre-data", "--section=post-data"],
    &["--no-comments"],
    &["--no-data"],
    &["--no-policies"],
    &["--no-publications"],
    &["--no-schema"],
    &["--no-security-labels"],
    &["--no-statistics"],
    &["--no-subscriptions"],
    &["--no-table-access-method"],
    &["--no-tablespaces"],
    &["--statistics"],
    &["--statistics-only"],
    &["--use-set-session-authorization"],
    &["--use-set-session-authorization", "-O"],
    &["--use-set-session-authorization", "-c"],
    &["-a", "--disable-triggers"],
    &["-a --disable-triggers -S", "boss"],
    &["-a", "--disable-triggers", "--use-set-session-authorization", "-S", "boss"],
    &["--enable-row-security"],
    &["--role=alice"],
    &["--role=Odd"],
    &["-t", "t"],
    &["-t", "t", "-t", "child"],
    &["-t", "nope"],
    &["-t", "t", "--strict-names"],
    &["-t", "nope", "--strict-names"],
    &["-n", "s2"],
    &["-n", "s2", "-n", "public"],
    &["-n", "nope", "--strict-names"],
    &["-N", "s2"],
    &["-N", "public", "-N", "s2"],
    &["-I", "child_id"],
    &["-I", "mvi"],
    &["-I", "nope", "--strict-names"],
    &["-T", "nope", "--strict-names"],
    &["-P", "nope", "--strict-names"],
    &["-P", "f(integer, text)"],
    &["-P", "pr()"],
    &["-P", "ag(integer)"],
    &["-T", "t tr"],
    &["-t", "t", "-n", "s2"],
    &["-t", "t", "-a"],
    &["-t", "mv"],
    &["-t", "v"],
    &["-t", "sq"],
    &["-t", "ser"],
    &["-t", "ft"],
    &["-t", "pt"],
    &["-t", "pt", "-C"],
    &["-t", "t", "-x"],
    &["-t", "t", "--no-comments"],
    &["-n", "s2", "-x", "-O"],
    &["-n", "public", "-C"],
    &["-a", "-C"],
    &["--no-schema", "--no-statistics"],
    &["--no-schema", "--no-data", "--no-statistics"],
    &["-t", "t", "--no-data"],
    &["-I", "child_id", "-t", "t"],
    &["-t", "t", "--statistics-only"],
    &["-I", "mvi", "--statistics-only"],
    &["-n", "s2", "--statistics-only"],
];

/// Enough to see that an archive is read whole and right.
const FEW: &[&[&str]] =
    &[&[], &["-C", "-c", "--if-exists"], &["-a"], &["--transaction-size=2"], &["-t", "t", "-t", "mv"]];

#[track_caller]
fn same_scripts(archive: &str, options: &[&[&str]]) {
    for option in options {
        same(&[option, &["--restrict-key=k", "-f", "-", archive][..]].concat());
        if !option.contains(&"-v") {
            same(&[option, &["-l", archive][..]].concat());
        }
    }
    // Stock tells more with a second -v; the list is the same.
    assert_eq!(ours(&["-l", "-v", archive]).text(), stock(&["-l", "-v", archive]).text());
}

#[test]
fn every_option_gives_stocks_script_and_list() {
    let lab = Lab::new(18);
    let custom = lab.dump("custom", &["-Fc", "--statistics"]);
    same_scripts(&custom, OPTIONS);
    same_scripts(&lab.dump("directory", &["-Fd", "--statistics"]), FEW);
    same_scripts(&lab.dump("tar", &["-Ft", "--statistics"]), FEW);
    same_scripts(&lab.dump("inserts", &["-Fc", "-Z0", "--inserts"]), FEW);
    same_scripts(&lab.dump("columns", &["-Fd", "-Z0", "--column-inserts", "--rows-per-insert=7"]), FEW);
    same_scripts(&lab.dump("data", &["-Fc", "-a"]), FEW);
    same_scripts(&lab.dump("schema", &["-Fc", "-s"]), FEW);
    same_scripts(&lab.dump("statistics", &["-Fc", "--statistics-only"]), FEW);
    same_scripts(&lab.dump("root", &["-Fc", "--load-via-partition-root"]), FEW);
    same_scripts(&lab.dump("latin", &["-Fc", "-E", "LATIN1"]), FEW);

    // Written to a pipe there are no offsets; read from one nothing can be read twice.
    let script = stock(&["--restrict-key=k", "-f", "-", &custom]).text();
    let arguments = ["--restrict-key=k", "-f", "-"];
    assert_eq!(ours_with(&arguments, Some(&bytes_of(&custom))).text(), script);
    let tar = lab.dump("tar", &["-Ft", "--statistics"]);
    assert_eq!(ours_with(&arguments, Some(&bytes_of(&tar))).text(), script);
    // Offsets are all that is different.
    assert_eq!(ours(&["--restrict-key=k", "-f", "-", &without_offsets(&lab, &custom)]).text(), script);
}

/// The archive as `pg_dump` writes it to a pipe.
fn without_offsets(lab: &Lab, _like: &str) -> String {
    let path = lab.path("piped");
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg("\"$0\" -Fc --statistics -d \"$1\" | cat > \"$2\"")
        .arg(pgkeep_testkit::client("pg_dump"))
        .arg(lab.cluster.conninfo_db("demo"))
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    path
}

#[test]
fn archives_of_17_are_read_in_every_compression() {
    let lab = Lab::new(17);
    let gzip = lab.dump_by(17, "gzip", &["-Fc"]);
    same_scripts(&gzip, FEW);
    same_scripts(&lab.dump_by(17, "gzip.d", &["-Fd"]), FEW);
    same_scripts(&lab.dump_by(17, "tar", &["-Ft"]), FEW);
    // The stock programs of 18 here know neither of the others.
    let script = stock(&["--restrict-key=k", "-f", "-", &gzip]).text();
    for compression in ["none", "lz4", "zstd", "zstd:long", "lz4:9", "gzip:9"] {
        for format in ["-Fc", "-Fd"] {
            let archive = lab.dump_by(17, &format!("{format}{compression}"), &[format, "-Z", compression]);
            let ran = ours(&["--restrict-key=k", "-f", "-", &archive]);
            ran.is_fine(&archive);
            assert!(ran.text() == script, "{archive} gives another script");
            let list = ours(&["-l", &archive]).text();
            let name = compression.split(':').next().unwrap();
            assert!(list.contains(&format!(";     Compression: {name}\n")), "{list}");
        }
    }
}

#[test]
fn files_of_a_directory_may_be_compressed_apart() {
    let lab = Lab::new(18);
    let directory = lab.dump("d", &["-Fd", "-Z0"]);
    let script = stock(&["--restrict-key=k", "-f", "-", &directory]).text();
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let status = std::process::Command::new("gzip").arg(&path).status().unwrap();
        assert!(status.success());
    }
    assert_eq!(ours(&["--restrict-key=k", "-f", "-", &directory]).text(), script);
}

#[test]
fn a_list_selects_and_orders() {
    let lab = Lab::new(18);
    let archive = lab.dump("custom", &["-Fc"]);
    let list = ours(&["-l", &archive]).text();
    let entries: Vec<&str> = list.lines().filter(|line| !line.starts_with(';')).collect();
    let reversed: Vec<&str> = entries.iter().rev().copied().collect();
    let third: Vec<&str> = entries.iter().step_by(3).copied().collect();
    let odd = format!("; comment\n\n  {}\nx\n-1\n0\n999999999\n{0}\n\t;\n", entries[5]);
    let scratch = Scratch::new();
    for (number, text) in [reversed.join("\n"), third.join("\n"), odd, String::new()].iter().enumerate() {
        let path = write(&scratch, &format!("list{number}"), text);
        for more in
            [&["-f", "-", "--restrict-key=k"][..], &["-l"], &["-f", "-", "--restrict-key=k", "-c", "-t", "t"]]
        {
            same(&[&["-L", &path, &archive], more].concat());
        }
    }
    let path = write(&scratch, "absent", "1\n");
    same(&["-L", &path, "-l", &archive]);
    same(&["-L", "/nonexistent", "-l", &archive]);
}

#[test]
fn filters_include_and_exclude_as_stock_does() {
    let lab = Lab::new(18);
    let archive = lab.dump("custom", &["-Fc"]);
    let scratch = Scratch::new();
    for (number, text) in [
        "include table t\n",
        "include table t\ninclude schema public\n",
        "exclude schema public",
        "include function f ( integer,text )\n",
        "INCLUDE Index child_id # comment\n\n#x",
        "include trigger t tr",
        "include table \"t\"",
        "include table t u",
        "include table \"a\n\"\nfoo",
        "include table",
        "include",
        "foo table t",
        "include xx t",
        "exclude table t",
        "include foreign_data x",
        "include table_and_children x",
        "exclude table_data x",
        "exclude table_data_and_children x",
        "include extension x",
        "include database x",
        "include table \"a",
        "",
    ]
    .iter()
    .enumerate()
    {
        let path = write(&scratch, &format!("filter{number}"), text);
        same(&["--filter", &path, "-l", &archive]);
    }
    same(&["--filter=/nonexistent", "-l", &archive]);
}

#[test]
fn the_name_of_the_call_makes_the_front() {
    let scratch = Scratch::new();
    let link = scratch.path().join("pg_restore");
    std::os::unix::fs::symlink(pgkeep_binary(), &link).unwrap();
    let output = std::process::Command::new(&link).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "pg_restore (PostgreSQL) 18.6\n");
    let output = std::process::Command::new(&link).arg("-?").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.lines().all(|line| line.len() <= 95));
    // Every option that stock's help names is named, and none else.
    let options = |text: &str| -> std::collections::BTreeSet<String> {
        text.lines()
            .filter(|line| line.starts_with("  -"))
            .map(|line| line.split_whitespace().take_while(|word| word.starts_with('-')).collect())
            .collect()
    };
    assert_eq!(options(&help), options(&stock(&["--help"]).text()));
}
