//! Command lines that are wrong, and files that are no archives: stock's words, stock's exit status.

use pgkeep_testkit::Scratch;

use crate::support::{ours_with, same, write};

#[test]
fn options_that_do_not_go_together_are_told_as_by_stock() {
    let flags: &[&[&str]] = &[
        &["-a"],
        &["-s"],
        &["--statistics-only"],
        &["--no-data"],
        &["--no-schema"],
        &["--no-statistics"],
        &["--statistics"],
        &["-c"],
        &["-C"],
        &["-1"],
        &["--transaction-size=3"],
        &["-j2"],
        &["--if-exists"],
        &["-d", "x"],
        &["--restrict-key=a"],
        &["-Fx"],
        &["-j0"],
        &["-jx"],
        &["--section=zz"],
        &["--transaction-size=0"],
        &["--transaction-size=99999999999"],
        &["--restrict-key=a-b"],
        &["extra"],
        &["--nope"],
        &["-Q"],
        &["--no-p"],
        &["--list=1"],
        &["-n"],
        &["-f", "-"],
    ];
    let scratch = Scratch::new();
    let no_archive = write(&scratch, "x", "none");
    for (number, first) in flags.iter().enumerate() {
        same(&[first, &[&no_archive[..]][..]].concat());
        for second in &flags[number + 1..] {
            // With -f both go on to reading the file, which is none.
            same(&[first, second, &[&no_archive[..]][..]].concat());
            same(&[first, second, &["-f", "-", &no_archive][..]].concat());
        }
    }
}

#[test]
fn what_is_no_archive_is_told_as_by_stock() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path().join("empty")).unwrap();
    let directory = scratch.path().join("empty").display().to_string();
    let long = "x".repeat(2000);
    let old = b"PGDMP\x01\x11\x00\x04\x08\x01\x01";
    for (name, bytes) in [
        ("nothing", &b""[..]),
        ("short", b"PGD"),
        ("short2", b"some text of no use"),
        ("long", long.as_bytes()),
        ("text", b"--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n"),
        ("cluster", b"--\n-- PostgreSQL database cluster dump\n--\n\nSET x;\n"),
        ("version", old),
    ] {
        let path = write(&scratch, name, bytes);
        same(&["-l", &path]);
    }
    same(&["-l", &directory]);
    same(&["-l", "/nonexistent"]);
    same(&["-l", "-Fc", &write(&scratch, "long", &long)]);
    same(&["-l", "-Fd", "/nonexistent"]);
}

#[test]
fn nobody_is_asked_for_a_password_before_the_archive_is_there() {
    same(&["-W", "-d", "x", "/nonexistent"]);
}

#[test]
fn a_directory_cannot_come_from_standard_input() {
    let ran = ours_with(&["-l", "-Fd"], Some(b""));
    assert_eq!(
        (ran.code, ran.stderr.lines().next()),
        (Some(1), Some("pg_restore: error: no input directory specified"))
    );
}
