//! TLS with real servers, with certificates as users make them: by the recipes of PostgreSQL's manual.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{chain, connect, info};
use pgkeep_testkit::Cluster;
use pgkeep_wire::{ConnInfo, Connection, Environment, ServerErrorKind, SessionMode, WireError};

/// Certificates in a directory of their own, made with the `openssl` program.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Workshop {
        Workshop(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .expect("the openssl program is needed");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A self-signed authority `name.crt`, with version 3 extensions.
    fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ));
    }

    /// `name.crt` for `subject`, signed by `authority`; with extensions it is of version 3, without of version 1 (so
    /// does the recipe of the manual with OpenSSL 3.0).
    fn certificate(&self, name: &str, subject: &str, authority: &str, extensions: &str, days: i32) {
        self.openssl(&format!(
            "req -new -newkey rsa:2048 -nodes -subj /CN={subject} -keyout {name}.key -out {name}.csr"
        ));
        let mut command = format!(
            "x509 -req -in {name}.csr -days {days} -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -out {name}.crt"
        );
        if !extensions.is_empty() {
            std::fs::write(self.path("extensions"), extensions).unwrap();
            command.push_str(" -extfile extensions");
        }
        self.openssl(&command);
        std::fs::set_permissions(self.path(&format!("{name}.key")), PermissionsExt::from_mode(0o600))
            .unwrap();
    }

    /// Gives the server this certificate.
    fn install(&self, cluster: &Cluster, name: &str, client_authority: &str) {
        let owner = std::fs::metadata(cluster.data_dir()).unwrap().uid();
        for (from, to) in [
            (format!("{name}.crt"), "server.crt"),
            (format!("{name}.key"), "server.key"),
            (format!("{client_authority}.crt"), "root.crt"),
        ] {
            let to = cluster.data_dir().join(to);
            std::fs::copy(self.path(&from), &to).unwrap();
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
            chown(&to, Some(owner), None).unwrap();
        }
        cluster.alter_system("ssl_ca_file", "root.crt");
        cluster.alter_system("ssl", "on");
        cluster.restart();
    }
}

fn address(cluster: &Cluster, host: &str) -> String {
    format!("host={host} hostaddr=127.0.0.1 port={} user=postgres dbname=postgres", cluster.port())
}

fn root(path: &Path) -> String {
    format!("sslrootcert={}", path.display())
}

fn tls_reason(result: Result<Connection, WireError>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, WireError::Tls { .. }), "{error:?}");
    chain(&error)
}

#[test]
fn certificates_by_the_recipe_of_the_manual_on_every_server_with_tls() {
    let shop = Workshop::new();
    shop.authority("root");
    shop.authority("stranger");
    shop.certificate("v1", "localhost", "root", "", 30);
    for major in [14, 15, 16, 17] {
        let cluster = Cluster::builder(major).tcp().start();
        shop.install(&cluster, "v1", "root");
        let base = address(&cluster, "localhost");
        let trusted = root(&shop.path("root.crt"));
        for versions in ["", "ssl_min_protocol_version=TLSv1.3", "ssl_max_protocol_version=TLSv1.2"] {
            for mode in ["prefer", "require", "verify-ca", "verify-full"] {
                let mut session = connect(&format!("{base} {trusted} sslmode={mode} {versions}")).unwrap();
                assert!(session.is_encrypted());
                let rows = session
                    .query("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                    .unwrap();
                let row = rows.one().unwrap();
                assert!(row.boolean("ssl").unwrap());
                let wanted = if versions.contains("max") { "TLSv1.2" } else { "TLSv1.3" };
                assert_eq!(row.text("version").unwrap(), wanted);
            }
        }
        assert!(!connect(&format!("{base} sslmode=disable")).unwrap().is_encrypted());
        assert!(!connect(&format!("{base} sslmode=allow")).unwrap().is_encrypted());
        assert!(connect(&format!("{base} sslmode=require")).unwrap().is_encrypted());

        let reason =
            tls_reason(connect(&format!("{base} sslmode=verify-full {}", root(&shop.path("stranger.crt")))));
        assert!(reason.contains("not signed by a trusted authority"), "{reason}");
        let other = address(&cluster, "other.example");
        let reason = tls_reason(connect(&format!("{other} {trusted} sslmode=verify-full")));
        assert!(reason.contains("`other.example`; it names: localhost"), "{reason}");
        assert!(connect(&format!("{other} {trusted} sslmode=verify-ca")).is_ok());
        let reason = tls_reason(connect(&format!("{base} sslmode=verify-ca sslrootcert=/nowhere/root.crt")));
        assert!(reason.contains("/nowhere/root.crt does not exist"), "{reason}");
        // A stranger's certificate makes `prefer` fall back, as in libpq: prefer is no protection.
        let session =
            connect(&format!("{base} sslmode=prefer {}", root(&shop.path("stranger.crt")))).unwrap();
        assert!(!session.is_encrypted());

        // Replication, bulk data and cancelling work over TLS too.
        let text = format!("{base} {trusted} sslmode=verify-full");
        let mut session = Connection::connect(&info(&text), SessionMode::PhysicalReplication).unwrap();
        let mut backup = session.base_backup(&Default::default()).unwrap();
        while backup.next().unwrap().is_some() {}
        backup.finish().unwrap();
        let mut session = connect(&text).unwrap();
        let handle = session.cancel_handle();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            handle.cancel().unwrap();
        });
        let error = session.query("SELECT pg_sleep(60)").unwrap_err();
        assert_eq!(error.server_kind(), Some(ServerErrorKind::Canceled));
        thread.join().unwrap();
    }
}

#[test]
fn names_chains_dates_and_self_signed_certificates() {
    let shop = Workshop::new();
    shop.authority("root");
    let cluster = Cluster::builder(17).tcp().start();
    let trusted = root(&shop.path("root.crt"));
    let full = |host: &str| connect(&format!("{} {trusted} sslmode=verify-full", address(&cluster, host)));

    shop.certificate(
        "san",
        "ignored.example",
        "root",
        "subjectAltName=DNS:db.example,DNS:*.wild.example,IP:127.0.0.1",
        30,
    );
    shop.install(&cluster, "san", "root");
    for host in ["db.example", "DB.Example", "a.wild.example", "127.0.0.1"] {
        full(host).unwrap();
    }
    for host in ["ignored.example", "a.b.wild.example", "wild.example", "127.0.0.2", "localhost"] {
        tls_reason(full(host));
    }

    // Chain: leaf of version 1, intermediate, root.
    shop.openssl("req -new -newkey rsa:2048 -nodes -subj /CN=middle -keyout middle.key -out middle.csr");
    std::fs::write(
        shop.path("extensions"),
        "basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=keyCertSign",
    )
    .unwrap();
    shop.openssl("x509 -req -in middle.csr -days 30 -CA root.crt -CAkey root.key -CAcreateserial -extfile extensions -out middle.crt");
    for (name, extensions) in [("leaf1", ""), ("leaf3", "subjectAltName=DNS:localhost")] {
        shop.certificate(name, "localhost", "middle", extensions, 30);
        let chained = [
            std::fs::read(shop.path(&format!("{name}.crt"))).unwrap(),
            std::fs::read(shop.path("middle.crt")).unwrap(),
        ];
        std::fs::write(shop.path(&format!("{name}.crt")), chained.concat()).unwrap();
        shop.install(&cluster, name, "root");
        full("localhost").unwrap();
    }
    // A leaf that signs another certificate is no authority, whatever its version.
    for (name, signer) in [("forged1", "leaf1"), ("forged3", "leaf3")] {
        shop.certificate(name, "localhost", signer, "", 30);
        let chained = [
            std::fs::read(shop.path(&format!("{name}.crt"))).unwrap(),
            std::fs::read(shop.path(&format!("{signer}.crt"))).unwrap(),
        ];
        std::fs::write(shop.path(&format!("{name}.crt")), chained.concat()).unwrap();
        shop.install(&cluster, name, "root");
        tls_reason(full("localhost"));
    }

    shop.certificate("expired", "localhost", "root", "", -1);
    shop.install(&cluster, "expired", "root");
    let reason = tls_reason(full("localhost"));
    assert!(reason.contains("expired"), "{reason}");
    shop.certificate(
        "client_only",
        "localhost",
        "root",
        "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:localhost",
        30,
    );
    shop.install(&cluster, "client_only", "root");
    tls_reason(full("localhost"));

    // The simplest recipe of the manual: one self-signed certificate, which clients have as their root.
    shop.authority("localhost");
    shop.install(&cluster, "localhost", "root");
    tls_reason(full("localhost"));
    let text = format!(
        "{} {} sslmode=verify-full",
        address(&cluster, "localhost"),
        root(&shop.path("localhost.crt"))
    );
    assert!(connect(&text).unwrap().is_encrypted());
}

#[test]
fn channel_binding_and_client_certificates() {
    let shop = Workshop::new();
    shop.authority("root");
    shop.certificate("v1", "localhost", "root", "", 30);
    shop.certificate("client", "cert_user", "root", "", 30);
    for major in [14, 17] {
        let cluster = Cluster::builder(major)
            .tcp()
            .hba("hostssl all cert_user 127.0.0.1/32 cert")
            .hba("hostssl all scram_user 127.0.0.1/32 scram-sha-256")
            .hba("hostnossl all plain_only 127.0.0.1/32 trust")
            .hba("host all cert_user,scram_user,plain_only 127.0.0.1/32 reject")
            .start();
        cluster.sql("SET password_encryption = 'scram-sha-256'; CREATE ROLE cert_user LOGIN; CREATE ROLE scram_user LOGIN PASSWORD 'pw'; CREATE ROLE plain_only LOGIN");
        shop.install(&cluster, "v1", "root");
        let base = address(&cluster, "localhost");
        let trusted = root(&shop.path("root.crt"));
        for binding in ["disable", "prefer", "require"] {
            let text = format!(
                "{base} user=scram_user password=pw sslmode=verify-full {trusted} channel_binding={binding}"
            );
            assert!(connect(&text).unwrap().is_encrypted());
        }
        // Without TLS there is only `reject`: `allow` goes on to TLS, `disable` does not.
        assert!(
            connect(&format!("{base} user=scram_user password=pw sslmode=allow")).unwrap().is_encrypted()
        );
        let error = connect(&format!("{base} user=scram_user password=pw sslmode=disable")).unwrap_err();
        assert_eq!(error.server_kind(), Some(ServerErrorKind::NoHbaEntry));
        // And the other way round for `prefer`.
        assert!(!connect(&format!("{base} user=plain_only sslmode=prefer")).unwrap().is_encrypted());
        let error = connect(&format!("{base} user=plain_only sslmode=require")).unwrap_err();
        assert_eq!(error.server_kind(), Some(ServerErrorKind::NoHbaEntry));

        let key = shop.path("client.key");
        let with_key = format!(
            "{base} user=cert_user sslmode=verify-full {trusted} sslcert={} sslkey={}",
            shop.path("client.crt").display(),
            key.display()
        );
        let mut session = connect(&with_key).unwrap();
        assert_eq!(
            session.query("SELECT current_user AS u").unwrap().one().unwrap().text("u").unwrap(),
            "cert_user"
        );
        assert!(connect(&format!("{with_key} sslcertmode=require")).is_ok());
        assert!(connect(&format!("{base} user=cert_user sslmode=require")).is_err());
        assert!(connect(&format!("{with_key} sslcertmode=disable")).is_err());
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let reason = tls_reason(connect(&with_key));
        assert!(reason.contains("0600"), "{reason}");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();

        // The default files of the home directory.
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".postgresql");
        std::fs::create_dir(&directory).unwrap();
        for (from, to) in
            [("client.crt", "postgresql.crt"), ("client.key", "postgresql.key"), ("root.crt", "root.crt")]
        {
            std::fs::copy(shop.path(from), directory.join(to)).unwrap();
        }
        let environment = Environment::from_iter::<_, String, String>([], Some(home.path().to_owned()));
        let text = format!("{base} user=cert_user sslmode=verify-full");
        let info = ConnInfo::resolve(Some(&text), &environment).unwrap();
        assert!(Connection::connect(&info, SessionMode::Sql).is_ok());
    }
}

#[test]
fn direct_tls_and_servers_without_tls() {
    let shop = Workshop::new();
    shop.authority("root");
    shop.certificate("v1", "localhost", "root", "", 30);
    let trusted = root(&shop.path("root.crt"));
    let cluster = Cluster::builder(17).tcp().start();
    let base = address(&cluster, "localhost");
    let reason = tls_reason(connect(&format!("{base} sslmode=require")));
    assert!(reason.contains("does not support TLS"), "{reason}");
    assert!(!connect(&format!("{base} sslmode=prefer")).unwrap().is_encrypted());
    shop.install(&cluster, "v1", "root");
    let direct = "sslmode=verify-full sslnegotiation=direct";
    assert!(connect(&format!("{base} {trusted} {direct}")).unwrap().is_encrypted());
    let old = Cluster::builder(16).tcp().start();
    shop.install(&old, "v1", "root");
    assert!(connect(&format!("{} {trusted} {direct}", address(&old, "localhost"))).is_err());
    // TLS is for TCP: over a socket even `verify-full` connects, as in libpq.
    assert!(!connect(&format!("{} sslmode=verify-full", cluster.conninfo())).unwrap().is_encrypted());
}

#[test]
fn revocation_lists() {
    let shop = Workshop::new();
    shop.authority("root");
    shop.certificate("good", "localhost", "root", "", 30);
    shop.certificate("bad", "localhost", "root", "", 30);
    std::fs::write(shop.path("index.txt"), "").unwrap();
    std::fs::write(shop.path("crlnumber"), "01\n").unwrap();
    let config = "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\ncrlnumber=crlnumber\ndefault_md=sha256\ndefault_crl_days=30\n";
    std::fs::write(shop.path("ca.cnf"), config).unwrap();
    shop.openssl("ca -config ca.cnf -keyfile root.key -cert root.crt -revoke bad.crt");
    shop.openssl("ca -config ca.cnf -keyfile root.key -cert root.crt -gencrl -out root.crl");
    let cluster = Cluster::builder(17).tcp().start();
    let text = format!(
        "{} {} sslmode=verify-full sslcrl={}",
        address(&cluster, "localhost"),
        root(&shop.path("root.crt")),
        shop.path("root.crl").display()
    );
    shop.install(&cluster, "good", "root");
    connect(&text).unwrap();
    shop.install(&cluster, "bad", "root");
    let reason = tls_reason(connect(&text));
    assert!(reason.contains("revoked"), "{reason}");
}
