//! A server that sends anything at all: every operation ends with a value or an error, never with a panic or a hang.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use common::info;
use pgkeep_format::{Lsn, TimelineId};
use pgkeep_wire::{BaseBackupOptions, Connection, SessionMode, WalEvent};
use proptest::prelude::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// AuthenticationOk, the version, ReadyForQuery.
fn greeting(version: &str) -> Vec<u8> {
    let parameter = format!("server_version\0{version}\0");
    [message(b'R', &[0; 4]), message(b'S', parameter.as_bytes()), message(b'Z', b"I")].concat()
}

/// Bodies that look right often enough to get past the first check.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let row = |values: &[&str]| {
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend_from_slice(value.as_bytes());
        }
        body
    };
    let columns = |names: &[&str]| {
        let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
        for name in names {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0; 19]);
        }
        body
    };
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        Just(columns(&["recptr", "tli"])),
        Just(row(&["0/2000028", "1"])),
        Just(row(&["zz", "0"])),
        Just(columns(&["spcoid", "spclocation", "size"])),
        Just(columns(&["next_tli", "next_tli_startpos"])),
        Just([&[0, 3], &[0xff; 12][..]].concat()),
        Just(b"nbase.tar\0\0".to_vec()),
        Just(b"dsome bytes".to_vec()),
        Just(b"m".to_vec()),
        Just(b"p\0\0".to_vec()),
        Just([b"w".as_slice(), &[0; 40]].concat()),
        Just([b"k".as_slice(), &[1; 17]].concat()),
        Just(b"SERROR\0C42601\0Mno\0\0".to_vec()),
        Just(b"SFATAL\0VFATAL\0C57P01\0Mno\0\0".to_vec()),
        Just(Vec::new()),
    ]
}

fn answer() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop::sample::select(b"TTDDCCZEHdddcWGINSAKRx".to_vec());
    let well_framed = prop::collection::vec((tag, body()), 0..25).prop_map(|messages| {
        messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect::<Vec<u8>>()
    });
    prop_oneof![4 => well_framed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

fn session_with(version: &str, answer: Vec<u8>, early: bool) -> Option<Connection> {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let bytes = if early { answer } else { [greeting(version), answer].concat() };
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut startup = [0; 1024];
        drop(stream.read(&mut startup));
        drop(stream.write_all(&bytes));
        drop(stream.shutdown(Shutdown::Write));
        // Swallow what the client sends, so that it never waits for us.
        drop(std::io::copy(&mut stream.take(1 << 20), &mut std::io::sink()));
    });
    let text = format!("host={} user=u connect_timeout=20", directory.path().display());
    let session = Connection::connect(&info(&text), SessionMode::PhysicalReplication);
    // The thread ends with the connection.
    drop(server);
    session.ok()
}

/// A walsender that shuts down sends what is left and the end of the stream, and closes without reading what we report
/// meanwhile. What it sent must still arrive, and its end be known as one.
#[test]
fn a_status_that_comes_too_late_hides_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let data = [b"w".as_slice(), &(1_u64 << 24).to_be_bytes(), &[0; 16], b"WAL"].concat();
    let keepalive = [b"k".as_slice(), &[1; 17]].concat();
    let answer = [
        greeting("17.2"),
        message(b'W', &[0; 3]),
        message(b'd', &data),
        message(b'd', &keepalive),
        message(b'C', b"COPY 0\0"),
    ]
    .concat();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut startup = [0; 1024];
        drop(stream.read(&mut startup));
        stream.write_all(&answer).unwrap();
        drop(stream.read(&mut startup));
    });
    let text = format!("host={} user=u connect_timeout=20", directory.path().display());
    let mut session = Connection::connect(&info(&text), SessionMode::PhysicalReplication).unwrap();
    let mut stream = session.start_replication(None, Lsn(1 << 24), TimelineId::FIRST).unwrap();
    server.join().unwrap();
    let event = stream.next(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(event, WalEvent::Data { start: Lsn(1 << 24), bytes: b"WAL" });
    for _ in 0..3 {
        stream.send_status(Lsn((1 << 24) + 3), Lsn(0), Lsn(0), false).unwrap();
    }
    let event = stream.next(Some(Duration::from_secs(20))).unwrap();
    assert!(matches!(event, WalEvent::Keepalive { .. }));
    assert_eq!(stream.next(Some(Duration::from_secs(20))).unwrap(), WalEvent::EndOfStream);
    assert!(session.identify_system().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn logging_in(answer in answer()) {
        drop(session_with("", answer, true));
    }

    #[test]
    fn commands(answer in answer(), version in prop::sample::select(vec!["14.1", "17.2", "zz"])) {
        if let Some(mut session) = session_with(version, answer, false) {
            if let Ok(rows) = session.query("SELECT 1") {
                for row in rows.iter() {
                    drop(row.optional("recptr"));
                }
            }
            drop(session.identify_system());
            drop(session.timeline_history(TimelineId::new(2).unwrap()));
            drop(session.read_slot("s"));
        }
    }

    #[test]
    fn base_backups(answer in answer(), version in prop::sample::select(vec!["14.1", "17.2"])) {
        if let Some(mut session) = session_with(version, answer, false)
            && let Ok(mut backup) = session.base_backup(&BaseBackupOptions { manifest: true, ..Default::default() })
        {
            while let Ok(Some(_)) = backup.next() {}
            drop(backup.finish());
        }
    }

    #[test]
    fn base_backups_that_begin_well(answer in answer(), version in prop::sample::select(vec!["14.1", "17.2"])) {
        let columns = |names: &[&str]| {
            let mut body = u16::try_from(names.len()).unwrap().to_be_bytes().to_vec();
            for name in names {
                body.extend_from_slice(name.as_bytes());
                body.extend_from_slice(&[0; 19]);
            }
            message(b'T', &body)
        };
        let start = [
            columns(&["recptr", "tli"]),
            message(b'D', b"\0\x02\0\0\0\x090/2000028\0\0\0\x011"),
            message(b'C', b"SELECT\0"),
            columns(&["spcoid", "spclocation", "size"]),
            message(b'D', &[&[0, 3][..], &[0xff; 12]].concat()),
            message(b'C', b"SELECT\0"),
            message(b'H', &[0; 3]),
        ]
        .concat();
        let mut session = session_with(version, [start, answer].concat(), false).unwrap();
        let mut backup = session.base_backup(&BaseBackupOptions::default()).unwrap();
        assert_eq!(backup.start, Lsn(0x2000028));
        while let Ok(Some(_)) = backup.next() {}
        drop(backup.finish());
    }

    #[test]
    fn wal_streams(answer in answer()) {
        let answer = [message(b'W', &[0; 3]), answer].concat();
        let mut session = session_with("17.2", answer, false).unwrap();
        let mut stream = session.start_replication(None, Lsn(1 << 24), TimelineId::FIRST).unwrap();
        for _ in 0..1000 {
            match stream.next(Some(Duration::from_secs(20))) {
                Ok(WalEvent::Data { .. } | WalEvent::Keepalive { .. }) => {}
                Ok(WalEvent::Timeout) => panic!("the server has closed"),
                Ok(WalEvent::EndOfTimeline { .. } | WalEvent::EndOfStream) | Err(_) => break,
            }
        }
        drop(stream.stop());
    }
}
