//! Passwords, password files, service files, host lists.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{chain, connect, info};
use pgkeep_testkit::{Cluster, MAJORS};
use pgkeep_wire::{ConnInfo, Connection, Environment, ServerErrorKind, SessionMode, WireError};

/// A server on TCP where `scram_user`, `md5_user` and `clear_user` need the password `s3 c:r\et'`.
fn cluster_with_passwords(major: u32) -> Cluster {
    let cluster = Cluster::builder(major)
        .tcp()
        .hba("host all scram_user 127.0.0.1/32 scram-sha-256")
        .hba("host replication scram_user 127.0.0.1/32 scram-sha-256")
        .hba("host all md5_user 127.0.0.1/32 md5")
        .hba("host all clear_user 127.0.0.1/32 password")
        .start();
    let password = r"E's3 c:r\\et'''";
    cluster.sql(&format!("SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN REPLICATION PASSWORD {password}; CREATE ROLE clear_user LOGIN PASSWORD {password}"));
    cluster.sql(&format!("SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD {password}"));
    cluster
}

/// The password as it stands in a connection string.
const PASSWORD: &str = r"password='s3 c:r\\et\''";

fn address(cluster: &Cluster, user: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} dbname=postgres sslmode=disable", cluster.port())
}

#[test]
fn every_password_method_on_every_major() {
    for major in MAJORS {
        let cluster = cluster_with_passwords(major);
        for (user, method) in
            [("scram_user", "scram-sha-256"), ("md5_user", "md5"), ("clear_user", "password")]
        {
            let base = address(&cluster, user);
            let mut session = connect(&format!("{base} {PASSWORD}")).unwrap();
            assert_eq!(
                session.query("SELECT current_user AS u").unwrap().one().unwrap().text("u").unwrap(),
                user
            );
            assert!(connect(&format!("{base} {PASSWORD} require_auth={method}")).is_ok());

            let error = connect(&format!("{base} password=wrong")).unwrap_err();
            assert!(matches!(&error, WireError::AuthFailed { .. }), "{error:?}");
            assert_eq!(error.server_kind(), Some(ServerErrorKind::WrongPassword));
            assert!(!chain(&error).contains("wrong"), "{}", chain(&error));
            assert!(matches!(connect(&base), Err(WireError::PasswordMissing { user: u, .. }) if u == user));
            let error = connect(&format!("{base} {PASSWORD} require_auth=!{method}")).unwrap_err();
            assert!(matches!(error, WireError::AuthRefused(_)), "{error:?}");
            let error = connect(&format!("{base} {PASSWORD} channel_binding=require")).unwrap_err();
            assert!(matches!(error, WireError::AuthRefused(_)), "{error:?}");
        }
        let error =
            connect(&format!("{} require_auth=scram-sha-256", address(&cluster, "postgres"))).unwrap_err();
        assert!(matches!(error, WireError::AuthRefused(_)), "{error:?}");
        let text = format!("{} {PASSWORD}", address(&cluster, "scram_user"));
        let mut session = Connection::connect(&info(&text), SessionMode::PhysicalReplication).unwrap();
        session.identify_system().unwrap();
    }
}

fn write_private(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn password_files() {
    let cluster = cluster_with_passwords(18);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(".pgpass");
    let environment = Environment::from_iter::<_, String, String>([], Some(directory.path().to_owned()));
    let connect = |mode| {
        let text = address(&cluster, "scram_user");
        Connection::connect(&ConnInfo::resolve(Some(&text), &environment).unwrap(), mode)
    };
    let line = |database: &str, password: &str| {
        format!("# mine\nelsewhere:*:*:*:no\n127.0.0.1:{}:{database}:scram_user:{password}\n", cluster.port())
    };
    let right = r"s3 c\:r\\et'";
    write_private(&file, &line("postgres", right), 0o600);
    assert!(connect(SessionMode::Sql).is_ok());
    write_private(&file, &line("replication", right), 0o600);
    assert!(matches!(connect(SessionMode::Sql), Err(WireError::PasswordMissing { .. })));
    assert!(connect(SessionMode::PhysicalReplication).is_ok());
    write_private(&file, &line("*", right), 0o644);
    let error = connect(SessionMode::Sql).unwrap_err();
    assert!(
        matches!(&error, WireError::PasswordFileIgnored { .. }) && chain(&error).contains("0600"),
        "{error}"
    );
    write_private(&file, &line("*", "bad"), 0o600);
    let error = connect(SessionMode::Sql).unwrap_err();
    assert!(chain(&error).contains(".pgpass"), "{}", chain(&error));
    // PGPASSWORD goes before the file.
    let environment =
        Environment::from_iter([("PGPASSWORD", "s3 c:r\\et'")], Some(directory.path().to_owned()));
    let text = address(&cluster, "scram_user");
    let info = ConnInfo::resolve(Some(&text), &environment).unwrap();
    assert!(Connection::connect(&info, SessionMode::Sql).is_ok());
}

#[test]
fn services_and_variables() {
    let cluster = Cluster::builder(17).start();
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[other]\nhost=nowhere\n[mine]\nhost={}\nport={}\nuser=postgres\n",
        cluster.socket_dir().display(),
        cluster.port()
    );
    std::fs::write(directory.path().join(".pg_service.conf"), text).unwrap();
    let environment = Environment::from_iter(
        [
            ("PGSERVICE", "mine"),
            ("PGDATABASE", "template1"),
            ("PGAPPNAME", "named"),
            ("PGOPTIONS", "-c work_mem=3MB"),
        ],
        Some(directory.path().to_owned()),
    );
    let mut session =
        Connection::connect(&ConnInfo::resolve(None, &environment).unwrap(), SessionMode::Sql).unwrap();
    let rows = session.query("SELECT current_database() AS d, current_setting('application_name') AS a, current_setting('work_mem') AS w").unwrap();
    let row = rows.one().unwrap();
    assert_eq!(
        (row.text("d").unwrap(), row.text("a").unwrap(), row.text("w").unwrap()),
        ("template1", "named", "3MB")
    );
}

#[test]
fn the_first_host_that_fits_is_taken() {
    for major in [14, 18] {
        let primary = Cluster::builder(major).tcp().start();
        let standby = Cluster::standby_of(&primary);
        let (first, second) = (standby.socket_dir().display(), primary.socket_dir().display());
        // The first host is dead, the second a standby, the third the primary.
        let list = format!(
            "host=127.0.0.1,{first},{second} port=1,{},{} user=postgres dbname=postgres",
            standby.port(),
            primary.port()
        );
        for (wanted, recovery) in [
            ("any", "t"),
            ("primary", "f"),
            ("read-write", "f"),
            ("standby", "t"),
            ("read-only", "t"),
            ("prefer-standby", "t"),
        ] {
            for order in ["disable", "random"] {
                if order == "random" && wanted == "any" {
                    continue;
                }
                let text = format!("{list} target_session_attrs={wanted} load_balance_hosts={order}");
                let mut session = connect(&text).unwrap();
                let rows = session.query("SELECT pg_is_in_recovery() AS r").unwrap();
                assert_eq!(rows.one().unwrap().text("r").unwrap(), recovery, "{wanted}");
                let session = Connection::connect(&info(&text), SessionMode::PhysicalReplication);
                session.unwrap().identify_system().unwrap();
            }
        }
        let error = connect(&format!("{} target_session_attrs=standby", primary.conninfo())).unwrap_err();
        assert!(matches!(error, WireError::WrongSession { .. }), "{error:?}");
        assert!(connect(&format!("{} target_session_attrs=prefer-standby", primary.conninfo())).is_ok());
        let error = connect("host=127.0.0.1,/nowhere port=1,2 user=u").unwrap_err();
        assert!(matches!(&error, WireError::NoUsableHost { attempts } if attempts.len() == 2), "{error:?}");
        assert!(error.to_string().contains("/nowhere") && error.to_string().contains("refused"), "{error}");
        // A database that is missing is missing; asking the next host would only hide it.
        let error = connect(&list.replace("dbname=postgres", "dbname=nowhere")).unwrap_err();
        assert_eq!(error.server_kind(), Some(ServerErrorKind::DatabaseMissing));
    }
}

#[test]
fn the_peer_of_a_socket_can_be_required() {
    let cluster = Cluster::builder(16).start();
    let error = connect(&format!("{} requirepeer=no_such_user", cluster.conninfo())).unwrap_err();
    assert!(matches!(error, WireError::AuthRefused(_)), "{error:?}");
}
