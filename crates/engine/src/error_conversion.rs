//! Turns the failures of the layers below into what a user is told: a kind, the chain of causes, and the next thing
//! to do.
//!
//! The one place where kinds are chosen for errors of the repository and of the client, so that the same failure has
//! the same exit code and hint in every verb.

use std::error::Error as StdError;

use pgkeep_repo::RepoError;
use pgkeep_wire::{ConnInfoError, ServerError, ServerErrorKind, WireError};

use crate::error::{Error, ErrorKind};

impl From<RepoError> for Error {
    fn from(error: RepoError) -> Error {
        let (kind, hints) = repository_advice(&error);
        told(kind, &error, hints)
    }
}

impl From<ConnInfoError> for Error {
    fn from(error: ConnInfoError) -> Error {
        let hints = conninfo_advice(&error);
        told(ErrorKind::Config, &error, hints)
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Error {
        if let WireError::ConnInfo(inner) = error {
            return inner.into();
        }
        let (kind, hints) = wire_advice(&error);
        told(kind, &error, hints)
    }
}

impl From<Box<ServerError>> for Error {
    fn from(error: Box<ServerError>) -> Error {
        WireError::Server(error).into()
    }
}

fn told(kind: ErrorKind, error: &(dyn StdError + 'static), hints: Vec<String>) -> Error {
    let mut told = Error::new(kind, error.to_string());
    told.causes = causes_of(error);
    told.hints = hints;
    told
}

/// The texts beneath an error, each without the part that the one beneath it says again.
///
/// Libraries disagree on whether an error's text holds that of its source; `object_store`'s does, at every level.
fn causes_of(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    let mut causes: Vec<String> = Vec::new();
    for (index, text) in texts.iter().enumerate().skip(1) {
        let beneath = texts.get(index + 1).map_or("", String::as_str);
        let own = text.strip_suffix(beneath).filter(|_| !beneath.is_empty()).unwrap_or(text);
        let own = own.trim_end_matches([':', ' ', '.']);
        let says_nothing = own.is_empty() || (own.starts_with("Generic ") && own.ends_with(" error"));
        if !says_nothing && causes.last().map(String::as_str) != Some(own) && own != texts[0] {
            causes.push(own.to_owned());
        }
    }
    causes
}

fn repository_advice(error: &RepoError) -> (ErrorKind, Vec<String>) {
    let hint = |text: String| vec![text];
    match error {
        RepoError::BadLocation { .. } => (
            ErrorKind::Usage,
            hint("give `--repo` a directory, as a path or as `file://` and an absolute path".to_owned()),
        ),
        RepoError::NotARepository { location } => (
            ErrorKind::NotFound,
            vec![
                format!("`pgkeep init --repo {location}` makes a repository there"),
                "where one should be there already, check `--repo` and whether its file system is mounted".to_owned(),
            ],
        ),
        RepoError::RepositoryExists { location } => {
            (ErrorKind::Destination, hint(format!("`pgkeep list --repo {location}` shows what it holds")))
        }
        RepoError::NotEmpty { .. } => {
            (ErrorKind::Destination, hint("choose an empty directory or one that does not exist yet".to_owned()))
        }
        RepoError::NewerFormat { .. } => (
            ErrorKind::Unsupported,
            hint("install the version of pgkeep that wrote it, or a later one; `pgkeep version` shows this one".to_owned()),
        ),
        RepoError::StanzaNotFound { name, existing } => (ErrorKind::NotFound, stanza_hints(name, existing)),
        RepoError::StanzaExists { .. } => {
            (ErrorKind::Mismatch, hint("choose another name with `--stanza`".to_owned()))
        }
        RepoError::BadStanzaName { .. } => {
            (ErrorKind::Usage, hint("choose a name such as `main` or `orders-16`".to_owned()))
        }
        RepoError::DumpNotFound { .. } => {
            (ErrorKind::NotFound, vec!["`pgkeep list` shows all dumps".to_owned()])
        }
        RepoError::BackupNotFound { .. } => {
            (ErrorKind::NotFound, hint("`pgkeep list` shows the backups that exist".to_owned()))
        }
        RepoError::NotFound { .. } => (
            ErrorKind::NotFound,
            hint("`pgkeep list` shows what can be restored without it; a repository loses objects only when something outside pgkeep deletes them".to_owned()),
        ),
        RepoError::AlreadyExists { .. } => (
            ErrorKind::Locked,
            hint("another process wrote it at the same time; run the command again".to_owned()),
        ),
        RepoError::NoSpace { .. } => (
            ErrorKind::Space,
            hint("the disk (or quota) of the repository is full: free space there and run the command again; what was stored before is not affected".to_owned()),
        ),
        RepoError::PermissionDenied { .. } => (
            ErrorKind::Storage,
            hint("run pgkeep as the owner of the repository (usually the server's user, `postgres`), or give this user access to it".to_owned()),
        ),
        RepoError::Storage { .. } => (
            ErrorKind::Storage,
            hint("check the disk or mount beneath the repository, then run the command again".to_owned()),
        ),
        RepoError::Corrupt { .. } => (
            ErrorKind::Corrupt,
            vec![
                "restore that object from a copy of the repository, if there is one".to_owned(),
                "`pgkeep list` shows what can be restored; take a new backup soon, and check the disk beneath the repository".to_owned(),
            ],
        ),
        RepoError::Fenced { .. } => (
            ErrorKind::Locked,
            hint("run the backup again; it takes a new id".to_owned()),
        ),
        RepoError::Removed { .. } => (
            ErrorKind::Locked,
            vec![
                "run the backup again: it finds another backup to build on".to_owned(),
                "`pgkeep list` shows what the repository holds".to_owned(),
            ],
        ),
        RepoError::BeingRemoved { .. } => (
            ErrorKind::Locked,
            hint("choose another backup; `pgkeep expire` finishes a removal that was cut off, then `pgkeep list` shows what is left".to_owned()),
        ),
        RepoError::NoRandomness { .. } => {
            (ErrorKind::Storage, hint("check that `/dev/urandom` exists on this machine".to_owned()))
        }
        _ => (ErrorKind::Internal, vec![defect()]),
    }
}

/// The stanzas that exist, the nearest name first.
fn stanza_hints(name: &str, existing: &[String]) -> Vec<String> {
    if existing.is_empty() {
        return vec![format!("this repository holds no stanza yet: `pgkeep init --stanza {name}` makes it")];
    }
    let mut nearest: Vec<&String> = existing.iter().collect();
    nearest
        .sort_by_cached_key(|candidate| (strsim::damerau_levenshtein(name, candidate), (*candidate).clone()));
    const SHOWN: usize = 20;
    let mut listed: Vec<String> = nearest.iter().take(SHOWN).map(|stanza| format!("`{stanza}`")).collect();
    if nearest.len() > SHOWN {
        listed.push(format!("and {} more", nearest.len() - SHOWN));
    }
    vec![
        format!("the stanzas that exist are {}", listed.join(", ")),
        format!("`pgkeep init --stanza {name}` makes a new one"),
    ]
}

fn conninfo_advice(error: &ConnInfoError) -> Vec<String> {
    let hint = match error {
        ConnInfoError::NoUser => "name the role with `user=` in `-d`, or with PGUSER",
        ConnInfoError::ServiceNotFound { .. } | ConnInfoError::ServiceFile { .. } => {
            "correct the service file (`~/.pg_service.conf`, or the one that PGSERVICEFILE names)"
        }
        _ => {
            "give `-d` a database name, `key=value` pairs or a `postgresql://` URI, as for psql; the PG* variables count too"
        }
    };
    vec![hint.to_owned()]
}

fn wire_advice(error: &WireError) -> (ErrorKind, Vec<String>) {
    let one = |kind, text: &str| (kind, vec![text.to_owned()]);
    match error {
        WireError::Unreachable { endpoint, .. } => (
            ErrorKind::Connect,
            vec![format!(
                "start the server, or correct host and port ({endpoint} was tried): `-d 'host=… port=…'`, PGHOST, PGPORT"
            )],
        ),
        WireError::NoUsableHost { attempts } => match attempts.last() {
            Some(last) => wire_advice(&last.error),
            None => one(ErrorKind::Connect, "name a host in `-d` or PGHOST"),
        },
        WireError::WrongSession { .. } => one(
            ErrorKind::Connect,
            "name the right host, or change `target_session_attrs` (PGTARGETSESSIONATTRS)",
        ),
        WireError::Timeout { .. } => one(
            ErrorKind::Timeout,
            "check that the server answers (`psql`), and raise `connect_timeout` where the network is slow",
        ),
        WireError::AuthFailed { password_source, .. } => (
            ErrorKind::Auth,
            vec![match password_source {
                Some(path) => {
                    format!("correct the password for this role in `{path}`, or give it with PGPASSWORD")
                }
                None => "give the right password with PGPASSWORD or `~/.pgpass`".to_owned(),
            }],
        ),
        WireError::PasswordMissing { .. } => one(
            ErrorKind::Auth,
            "give the password with PGPASSWORD, or in `~/.pgpass` (mode 0600) so that scheduled runs find it",
        ),
        WireError::AuthRefused(_) => one(
            ErrorKind::Auth,
            "see `require_auth` and `channel_binding` of the connection, and the method in the server's `pg_hba.conf`",
        ),
        WireError::Tls { .. } => one(
            ErrorKind::Connect,
            "check `sslmode`, `sslrootcert`, `sslcert` and `sslkey`; `sslmode=verify-full` needs the authority that signed the server's certificate",
        ),
        WireError::Server(server) => server_advice(server),
        WireError::Closed { .. } | WireError::Io(_) => one(
            ErrorKind::Connect,
            "see the server's log for why the connection ended, then run the command again",
        ),
        WireError::Protocol(_) => one(
            ErrorKind::Connect,
            "check that host and port are those of a PostgreSQL server and not of something else",
        ),
        WireError::Unsupported(_) => one(
            ErrorKind::Unsupported,
            "pgkeep works with PostgreSQL 13 to 18; `pgkeep version` shows what this build can do",
        ),
        _ => (ErrorKind::Internal, vec![defect()]),
    }
}

fn server_advice(error: &ServerError) -> (ErrorKind, Vec<String>) {
    let one = |kind, text: &str| (kind, vec![text.to_owned()]);
    let is_walsender = error.message.contains("replication connection")
        || error.message.contains("WAL sender")
        || error.message.contains("walsender");
    let (kind, mut hints) = match error.kind() {
        ServerErrorKind::WrongPassword => {
            one(ErrorKind::Auth, "give the right password with PGPASSWORD or `~/.pgpass`")
        }
        ServerErrorKind::NoHbaEntry if is_walsender => one(
            ErrorKind::Auth,
            "add a line such as `host replication <role> <address>/32 scram-sha-256` to `pg_hba.conf` (the word `all` does not include replication) and reload the server",
        ),
        ServerErrorKind::NoHbaEntry => one(
            ErrorKind::Auth,
            "add a line for this role, database and address to `pg_hba.conf` and reload the server (`SELECT pg_reload_conf()`)",
        ),
        ServerErrorKind::AuthenticationRejected => one(
            ErrorKind::Auth,
            "name the role with `-d user=…` or PGUSER; `peer` lets in only the role with the name of the system's user",
        ),
        ServerErrorKind::RoleMissing => one(
            ErrorKind::Auth,
            "name an existing role with `-d user=…` or PGUSER (`psql -c '\\du'` lists them)",
        ),
        ServerErrorKind::DatabaseMissing => one(
            ErrorKind::Config,
            "name a database that exists with `-d dbname=…` or PGDATABASE; `postgres` usually does",
        ),
        ServerErrorKind::InsufficientPrivilege
            if is_walsender || error.routine.as_deref() == Some("InitPostgres") =>
        {
            one(
                ErrorKind::Auth,
                "as a superuser: `ALTER ROLE <role> REPLICATION`, with the role that pgkeep connects as",
            )
        }
        ServerErrorKind::InsufficientPrivilege => one(
            ErrorKind::Auth,
            "connect as a superuser, or grant the role what it needs: docs/guide/first-backup.md lists the GRANTs",
        ),
        ServerErrorKind::TooManyConnections => one(
            ErrorKind::Connect,
            "free connections or raise `max_connections`; for streaming, `max_wal_senders` (both need a restart)",
        ),
        ServerErrorKind::StartingUp => one(
            ErrorKind::Connect,
            "wait until the server accepts connections (`pg_isready`) and run the command again",
        ),
        ServerErrorKind::ShuttingDown => {
            one(ErrorKind::Connect, "start the server again, then run the command again")
        }
        ServerErrorKind::Canceled => one(ErrorKind::Interrupted, "run the command again when ready"),
        _ => (ErrorKind::Connect, Vec::new()),
    };
    if let Some(hint) = &error.hint {
        hints.push(format!("the server says: {}", single_line(hint)));
    }
    if hints.is_empty() {
        hints.push("the server's log has the statement that failed and its context".to_owned());
    }
    (kind, hints)
}

/// A text from the server as one harmless line.
fn single_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// What is said of a failure that should not be possible.
fn defect() -> String {
    "this is a defect of pgkeep: please report it with the command and this message".to_owned()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("Generic LocalFileSystem error: {source}")]
    struct Outer {
        source: Inner,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("Unable to copy data to file /backups/x: {source}")]
    struct Inner {
        source: io::Error,
    }

    #[test]
    fn a_full_disk_is_said_once_and_plainly() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = Error::from(RepoError::NoSpace {
            key: "main/wal/000001/x".to_owned(),
            source: Box::new(Outer { source: Inner { source } }),
        });
        assert_eq!(error.kind, ErrorKind::Space);
        assert_eq!(error.message, "no space left in the repository while writing `main/wal/000001/x`");
        assert_eq!(error.causes, vec!["Unable to copy data to file /backups/x", "no storage space"]);
    }

    #[test]
    fn the_nearest_stanza_comes_first() {
        let error = Error::from(RepoError::StanzaNotFound {
            name: "mian".to_owned(),
            existing: vec!["archive".to_owned(), "main".to_owned(), "a-much-longer-name".to_owned()],
        });
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert_eq!(error.hints[0], "the stanzas that exist are `main`, `archive`, `a-much-longer-name`");
    }

    #[test]
    fn a_corrupt_object_names_key_and_offset() {
        let error = Error::from(RepoError::Corrupt {
            key: "main/backup/x/pack-000001".to_owned(),
            offset: 4096,
            what: "the digest differs".to_owned(),
        });
        assert_eq!(error.kind, ErrorKind::Corrupt);
        assert!(error.message.contains("main/backup/x/pack-000001") && error.message.contains("4096"));
    }

    #[test]
    fn every_server_error_has_a_hint() {
        let cases = [
            ("28P01", "auth_failed", "password authentication failed", ErrorKind::Auth),
            (
                "28000",
                "ClientAuthentication",
                "no pg_hba.conf entry for replication connection from host",
                ErrorKind::Auth,
            ),
            ("28000", "InitializeSessionUserId", "role \"x\" does not exist", ErrorKind::Auth),
            ("42501", "InitPostgres", "permission denied to start WAL sender", ErrorKind::Auth),
            ("57P03", "", "the database system is starting up", ErrorKind::Connect),
            ("XX000", "", "anything", ErrorKind::Connect),
        ];
        for (code, routine, message, kind) in cases {
            let server = ServerError {
                code: code.to_owned(),
                routine: Some(routine.to_owned()),
                message: message.to_owned(),
                ..ServerError::default()
            };
            let error = Error::from(WireError::Server(Box::new(server)));
            assert_eq!(error.kind, kind, "{message}");
            assert!(!error.hints.is_empty(), "{message}");
        }
    }
}
