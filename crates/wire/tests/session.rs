//! Sessions with real servers of every major: queries, errors, COPY, cancelling, time limits.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{chain, connect, info, replication_session, sql_session};
use pgkeep_testkit::{Cluster, MAJORS};
use pgkeep_wire::{
    Connection, Endpoint, ServerErrorKind, SessionMode, WireError, quote_identifier, quote_literal,
};

#[test]
fn queries_on_every_major() {
    for major in MAJORS {
        let cluster = Cluster::builder(major).start();
        let mut session = sql_session(&cluster);
        assert_eq!(session.server_major(), major);
        assert_eq!(
            session
                .query("SHOW server_version_num")
                .unwrap()
                .one()
                .unwrap()
                .parse::<u32>("server_version_num")
                .unwrap(),
            session.server_version_num()
        );
        let rows = session
            .query("SELECT 1 AS a, NULL AS b, 'x' || chr(8364) AS c, true AS d; SELECT n, n * 2 AS twice FROM generate_series(1, 3) n")
            .unwrap();
        assert_eq!(rows.columns(), ["n", "twice"]);
        assert_eq!(rows.command_tag(), "SELECT 3");
        assert_eq!(rows.iter().map(|row| row.parse::<u32>("twice").unwrap()).collect::<Vec<_>>(), [2, 4, 6]);
        let rows = session.query("SELECT NULL AS b, 'x' || chr(8364) AS c, true AS d").unwrap();
        let row = rows.one().unwrap();
        assert_eq!(row.optional("b").unwrap(), None);
        assert_eq!(row.text("c").unwrap(), "x€");
        assert!(row.boolean("d").unwrap());
        assert!(matches!(row.text("b"), Err(WireError::UnexpectedResult(_))));
        assert!(session.query("").unwrap().is_empty());
        assert_eq!(session.show("application_name").unwrap(), "pgkeep");
        assert_eq!(session.parameter("client_encoding"), Some("UTF8"));
        session.close();
    }
}

#[test]
fn what_is_quoted_comes_back() {
    let cluster = Cluster::builder(18).start();
    let mut session = sql_session(&cluster);
    for text in ["", "it's", r"back\slash", r"\'; --", "€\n\t", "\"q\"", "$1"] {
        for conforming in ["on", "off"] {
            session.execute(&format!("SET standard_conforming_strings = {conforming}")).unwrap();
            let rows = session.query(&format!("SELECT{} AS v", quote_literal(text))).unwrap();
            assert_eq!(rows.one().unwrap().text("v").unwrap(), text);
        }
        if !text.is_empty() {
            let rows = session.query(&format!("SELECT 1 AS {}", quote_identifier(text))).unwrap();
            assert_eq!(rows.columns(), [text]);
        }
    }
}

#[test]
fn errors_leave_the_session_usable_and_keep_the_servers_fields() {
    let cluster = Cluster::builder(17).start();
    let mut session = sql_session(&cluster);
    let error = session.query("SELECT 1/0").unwrap_err();
    assert_eq!(error.sqlstate(), Some("22012"));
    let error = session.query("SELECT * FROM nowhere").unwrap_err();
    let server = error.server_error().unwrap();
    assert_eq!(
        (server.severity.as_str(), server.code.as_str(), server.position),
        ("ERROR", "42P01", Some(15))
    );
    session.execute("DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'slowly'; END $$").unwrap();
    let notices = session.take_notices();
    assert_eq!(notices.len(), 1);
    assert_eq!((notices[0].message.as_str(), notices[0].hint.as_deref()), ("careful", Some("slowly")));
    assert!(matches!(session.query("SELECT 1\0"), Err(WireError::InvalidInput(_))));
    assert!(session.query("COPY (SELECT 1) TO STDOUT").is_ok());
    session.execute("CREATE TABLE t (a text)").unwrap();
    assert!(session.query("COPY t FROM STDIN").is_err());
    assert_eq!(session.query("SELECT 7 AS a").unwrap().one().unwrap().text("a").unwrap(), "7");
    // A session that an administrator ends is broken, and says so.
    let pid = session
        .query("SELECT pg_backend_pid() AS pid")
        .unwrap()
        .one()
        .unwrap()
        .text("pid")
        .unwrap()
        .to_owned();
    cluster.sql(&format!("SELECT pg_terminate_backend({pid})"));
    let error = session.query("SELECT 1").unwrap_err();
    assert!(error.server_kind() == Some(ServerErrorKind::ShuttingDown) || error.is_transient(), "{error:?}");
    assert!(session.query("SELECT 1").is_err());
    assert!(session.is_broken());
}

#[test]
fn copy_in_both_directions() {
    let cluster = Cluster::builder(16).start();
    let mut session = sql_session(&cluster);
    session.execute("CREATE TABLE t (a int, b text)").unwrap();
    let mut copy = session.copy_in("COPY t FROM STDIN").unwrap();
    for number in 0..5000 {
        copy.write(format!("{number}\t{}\n", "x".repeat(number % 300)).as_bytes()).unwrap();
    }
    copy.finish().unwrap();
    let mut copy = session.copy_out("COPY (SELECT a FROM t ORDER BY a) TO STDOUT").unwrap();
    let mut text = Vec::new();
    while let Some(piece) = copy.next().unwrap() {
        text.extend_from_slice(piece);
    }
    let wanted: String = (0..5000).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(text).unwrap(), wanted);

    let mut copy = session.copy_in("COPY t FROM STDIN").unwrap();
    copy.write(b"1\tgone\n").unwrap();
    copy.abort("changed my mind").unwrap();
    let mut copy = session.copy_in("COPY t FROM STDIN").unwrap();
    copy.write(b"1\tgone\n").unwrap();
    drop(copy);
    let mut copy = session.copy_in("COPY t FROM STDIN").unwrap();
    copy.write(b"not a number\tx\n").unwrap();
    assert_eq!(copy.finish().unwrap_err().sqlstate(), Some("22P02"));
    assert!(matches!(session.copy_out("COPY nowhere TO STDOUT"), Err(WireError::Server(_))));
    assert_eq!(
        session.query("SELECT count(*) AS n FROM t").unwrap().one().unwrap().text("n").unwrap(),
        "5000"
    );
    // Left in the middle, the connection refuses instead of guessing.
    session.copy_out("COPY t TO STDOUT").unwrap().next().unwrap();
    assert!(matches!(session.query("SELECT 1"), Err(WireError::Busy)));
}

#[test]
fn a_large_field_arrives_whole() {
    let cluster = Cluster::builder(15).start();
    let mut session = sql_session(&cluster);
    let rows = session.query("SELECT repeat('abcdefgh', 4 * 1024 * 1024) AS big").unwrap();
    assert_eq!(rows.one().unwrap().text("big").unwrap().len(), 32 << 20);
    assert_eq!(session.query("SELECT 1 AS a").unwrap().len(), 1);
}

#[test]
fn another_thread_can_cancel_or_cut() {
    let cluster = Cluster::builder(14).start();
    let mut session = sql_session(&cluster);
    let handle = session.cancel_handle();
    let began = Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        handle.cancel().unwrap();
    });
    let error = session.query("SELECT pg_sleep(60)").unwrap_err();
    assert_eq!(error.server_kind(), Some(ServerErrorKind::Canceled));
    thread.join().unwrap();
    assert_eq!(session.query("SELECT 1 AS a").unwrap().len(), 1);

    let handle = session.cancel_handle();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        handle.shutdown();
    });
    let error = session.query("SELECT pg_sleep(60)").unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    thread.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn time_limits_hold() {
    let cluster = Cluster::builder(18).start();
    let mut session = sql_session(&cluster);
    session.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(matches!(session.query("SELECT pg_sleep(1)"), Err(WireError::Timeout { .. })));
    // A server that accepts and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for mode in ["disable", "prefer"] {
        let began = Instant::now();
        let error = connect(&format!("host=127.0.0.1 port={port} user=u connect_timeout=1 sslmode={mode}"))
            .unwrap_err();
        assert!(matches!(error, WireError::Timeout { .. }), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}

#[test]
fn failures_to_connect_say_what_is_wrong() {
    let cluster =
        Cluster::builder(17).hba("local refused all trust").hba("local all locked_out reject").start();
    cluster.sql("CREATE ROLE locked_out LOGIN");
    cluster.sql("CREATE ROLE plain LOGIN");
    cluster.sql("CREATE ROLE single LOGIN CONNECTION LIMIT 0");
    let base = cluster.conninfo();
    let kind = |extra: &str, mode| {
        let error = Connection::connect(&info(&format!("{base} {extra}")), mode).unwrap_err();
        println!("{}", chain(&error));
        error.server_kind().unwrap()
    };
    assert_eq!(kind("dbname=nowhere", SessionMode::Sql), ServerErrorKind::DatabaseMissing);
    assert_eq!(kind("user=nobody_known", SessionMode::Sql), ServerErrorKind::RoleMissing);
    assert_eq!(kind("user=locked_out", SessionMode::Sql), ServerErrorKind::NoHbaEntry);
    assert_eq!(kind("user=plain", SessionMode::PhysicalReplication), ServerErrorKind::InsufficientPrivilege);
    assert_eq!(kind("user=single", SessionMode::Sql), ServerErrorKind::TooManyConnections);

    let error = connect("host=/nowhere/at/all port=5999 user=u").unwrap_err();
    assert!(matches!(&error, WireError::Unreachable { endpoint: Endpoint::Unix(_), .. }));
    assert!(chain(&error).contains("/nowhere/at/all/.s.PGSQL.5999: No such file"), "{}", chain(&error));
    let error = connect("host=127.0.0.1 port=1 user=u").unwrap_err();
    assert!(chain(&error).contains("127.0.0.1:1: Connection refused"), "{}", chain(&error));
    let error = connect("host=no-such-host.invalid user=u").unwrap_err();
    assert!(chain(&error).contains("no-such-host.invalid:5432"), "{}", chain(&error));
    assert!(error.is_transient());
}

#[test]
fn too_many_replication_connections_are_told_from_other_errors() {
    let cluster = Cluster::builder(15).conf("max_wal_senders", 1).conf("max_replication_slots", 1).start();
    let _first = replication_session(&cluster);
    let error =
        Connection::connect(&info(&cluster.conninfo()), SessionMode::PhysicalReplication).unwrap_err();
    assert_eq!(error.server_kind(), Some(ServerErrorKind::TooManyConnections), "{error:?}");
    assert!(error.is_transient());
}

#[test]
fn a_server_that_is_not_postgresql_is_recognised() {
    use std::io::{Read, Write};
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"\0\0\0\0\0\0\0\0",
        b"R\0\0\0\x03",
        b"",
        b"R\xff\xff\xff\xff\0",
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut startup = [0; 64];
            drop(stream.read(&mut startup));
            drop(stream.write_all(answer));
        });
        let error = connect(&format!("host=127.0.0.1 port={port} user=u sslmode=disable")).unwrap_err();
        assert!(
            matches!(error, WireError::Protocol(_) | WireError::Closed { .. } | WireError::Io(_)),
            "{error:?}"
        );
        thread.join().unwrap();
    }
}
