//! Passwords that the fronts ask for, against stock's programs: from standard input where there is no terminal, and from a
//! terminal, which does not show them.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pgkeep_testkit::{Cluster, Scratch, client, pgkeep_binary};

const PASSWORD: &str = "s3cret";

/// A cluster that lets `needy` in with a password alone.
fn cluster() -> Cluster {
    let cluster = Cluster::builder(18).hba("local all needy scram-sha-256").start();
    cluster.sql(&format!(
        "CREATE ROLE needy SUPERUSER LOGIN PASSWORD '{PASSWORD}'; CREATE DATABASE target; \
         CREATE TABLE t (a integer); INSERT INTO t VALUES (1), (2)"
    ));
    cluster
}

fn needy(cluster: &Cluster, database: &str) -> String {
    format!("{} user=needy", cluster.conninfo_db(database).replace("user=postgres", ""))
}

fn stock(program: &str) -> Command {
    without_terminal(&client(program))
}

fn ours(program: &str) -> Command {
    let mut command = without_terminal(&pgkeep_binary());
    command.arg(program);
    command
}

/// The program in a session of its own, so that whoever runs the tests is not asked.
fn without_terminal(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(program);
    clean(&mut command);
    command
}

/// Without passwords of whoever runs the tests.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") && !name.as_encoded_bytes().starts_with(b"PGKEEP") {
            command.env_remove(name);
        }
    }
    command.env("PGPASSFILE", "/nonexistent/passwords");
}

fn run(mut command: Command, arguments: &[&str], input: &str) -> Output {
    let piped = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("cannot run {piped:?}: {error}"));
    // A program that asks nobody may have ended.
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).ok();
    child.wait_with_output().expect("an end")
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn pg_dump_asks_when_stock_asks() {
    let cluster = cluster();
    let (needs, trusted) = (needy(&cluster, "postgres"), cluster.conninfo());
    // What is given, what is typed, and how often is asked.
    let cases: [(&[&str], &str, usize); 11] = [
        (&["-d", &needs], "s3cret\n", 1),
        (&["-d", &needs], "s3cret\r\nmore\n", 1),
        (&["-d", &needs, "-W"], "s3cret", 1),
        (&["-d", &needs, "-w", "-W"], "s3cret\n", 1),
        (&["-d", &needs, "-W", "-w"], "s3cret\n", 0),
        (&["-d", &needs, "-w"], "s3cret\n", 0),
        (&["-d", &needs], "wrong\ns3cret\n", 1),
        (&["-d", &needs, "-W"], "\ns3cret\n", 1),
        (&["-d", &needs], "", 1),
        (&["-d", &trusted], "s3cret\n", 0),
        (&["-d", &trusted, "-W"], "whatever\n", 1),
    ];
    for (arguments, typed, asked) in cases {
        let what = format!("{arguments:?}, typed {typed:?}");
        let arguments = [&["--restrict-key=key", "-t", "t"], arguments].concat();
        let theirs = run(stock("pg_dump"), &arguments, typed);
        let mine = run(ours("pg_dump"), &arguments, typed);
        assert_eq!(said(&mine), said(&theirs), "{what}");
        assert_eq!(mine.stdout, theirs.stdout, "{what}");
        assert_eq!(said(&mine).1.matches("Password: ").count(), asked, "{what}");
    }
}

#[test]
fn an_empty_line_leaves_the_password_of_the_environment() {
    let cluster = cluster();
    for mut command in [stock("pg_dump"), ours("pg_dump")] {
        command.env("PGPASSWORD", PASSWORD);
        let done = run(command, &["-W", "-s", "-d", &needy(&cluster, "postgres")], "\n");
        assert_eq!(said(&done), (Some(0), "Password: \n".to_owned()));
    }
}

#[test]
fn several_sessions_are_let_in_with_one_answer() {
    let cluster = cluster();
    let scratch = Scratch::new();
    let dump = scratch.path().join("dump");
    let path = dump.to_str().unwrap();
    let from = needy(&cluster, "postgres");
    let dumped = run(ours("pg_dump"), &["-Fd", "-j2", "-f", path, "-d", &from], "s3cret\n");
    assert_eq!(said(&dumped), (Some(0), "Password: \n".to_owned()));
    let into = needy(&cluster, "target");
    let restored = run(ours("pg_restore"), &["-j2", "-d", &into, path], "s3cret\n");
    assert_eq!(said(&restored), (Some(0), "Password: \n".to_owned()));
    assert_eq!(cluster.sql_db("target", "SELECT sum(a) FROM t"), "3");
}

#[test]
fn pg_restore_asks_when_stock_asks() {
    let cluster = cluster();
    let scratch = Scratch::new();
    let dump = scratch.path().join("dump");
    let path = dump.to_str().unwrap();
    let dumped = run(ours("pg_dump"), &["-Fc", "-t", "t", "-f", path, "-d", &cluster.conninfo()], "");
    assert_eq!(said(&dumped), (Some(0), String::new()));
    let target = needy(&cluster, "target");
    for (options, typed) in [
        (&["-W"][..], "s3cret\n"),
        (&["-W", "-a"], "wrong\n"),
        (&["-w", "-a"], "s3cret\n"),
        (&["-a"], "s3cret\n"),
        // Nobody is asked where there is no server.
        (&["-W", "-f", "-"], ""),
    ] {
        let what = format!("{options:?}, typed {typed:?}");
        let mut arguments = options.to_vec();
        if !options.contains(&"-f") {
            arguments.extend(["-d", &target]);
        }
        arguments.push(path);
        let theirs = run(stock("pg_restore"), &arguments, typed);
        if !options.contains(&"-a") {
            cluster.sql_db("target", "DROP TABLE IF EXISTS t");
        }
        let mine = run(ours("pg_restore"), &arguments, typed);
        assert_eq!(said(&mine), said(&theirs), "{what}");
    }
}

#[test]
fn pg_dumpall_asks_once() {
    let cluster = cluster();
    let connection = needy(&cluster, "postgres");
    for (options, code, asked) in
        [(&["-W"][..], Some(0), 1), (&[], Some(0), 1), (&["-w"], Some(1), 0), (&["-l", "target"], Some(0), 1)]
    {
        let arguments = [&["--restrict-key=key", "-d", &connection], options].concat();
        // Stock asks for each database again, and cannot be answered by a pipe: the first who asks empties it.
        let mut theirs = stock("pg_dumpall");
        if asked > 0 {
            theirs.env("PGPASSWORD", PASSWORD);
        }
        let silent: Vec<&str> = arguments.iter().copied().filter(|argument| *argument != "-W").collect();
        let theirs = run(theirs, &silent, "");
        let mine = run(ours("pg_dumpall"), &arguments, "s3cret\n");
        let text = String::from_utf8_lossy(&mine.stderr);
        assert_eq!((mine.status.code(), theirs.status.code()), (code, code), "{options:?}: {text}");
        assert_eq!(text.matches("Password: ").count(), asked, "{options:?}: {text}");
        if asked == 0 {
            assert_eq!(said(&mine), said(&theirs), "{options:?}");
        }
        assert_eq!(mine.stdout, theirs.stdout, "{options:?}");
    }
}

#[test]
fn why_a_password_file_was_not_used_is_told() {
    let cluster = cluster();
    let scratch = Scratch::new();
    let file = scratch.path().join("passwords");
    std::fs::write(&file, format!("*:*:*:*:{PASSWORD}\n")).unwrap();
    let done = |mode: u32, option: &str| {
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let mut command = ours("pg_dump");
        command.env("PGPASSFILE", &file);
        said(&run(command, &["-s", option, "-d", &needy(&cluster, "postgres")], "s3cret\n"))
    };
    assert_eq!(done(0o600, "-v").0, Some(0));
    assert_eq!(done(0o600, "-s"), (Some(0), String::new()));
    let reason = format!(
        "password file {} has group or world access; permissions should be 0600 or less\n",
        file.display()
    );
    assert_eq!(done(0o644, "-s"), (Some(0), format!("pg_dump: warning: {reason}Password: \n")));
    let (code, text) = done(0o644, "-w");
    assert_eq!(code, Some(1));
    assert!(text.ends_with(&format!("fe_sendauth: no password supplied\npg_dump: hint: {reason}")), "{text}");
}

/// `script` gives a program a terminal and passes on what is typed and shown.
#[test]
fn a_terminal_does_not_show_the_password() {
    let cluster = cluster();
    let scratch = Scratch::new();
    let file = scratch.path().join("dump.sql");
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let words = [
        path(&pgkeep_binary()),
        "pg_dump".to_owned(),
        "-d".to_owned(),
        needy(&cluster, "postgres"),
        "-f".to_owned(),
        path(&file),
    ];
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    // Standard input is no terminal: the program finds it by itself. The mode afterwards is shown.
    let line = format!("{} < /dev/null; echo ended $?; stty -a < /dev/tty", words.join(" "));
    let mut command = Command::new("script");
    clean(&mut command);
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script");
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    while !shown.ends_with(b"Password: ") {
        let mut byte = [0];
        assert_eq!(screen.read(&mut byte).unwrap(), 1, "ended early: {}", String::from_utf8_lossy(&shown));
        shown.push(byte[0]);
    }
    keyboard.write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    screen.read_to_end(&mut shown).unwrap();
    child.wait().unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.starts_with("Password: \r\nended 0\r\n"), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert!(shown.split_whitespace().any(|mode| mode == "echo"), "the terminal stayed silent: {shown}");
    assert!(std::fs::read_to_string(file).unwrap().contains("CREATE TABLE public.t"));
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
