//! Which directories a running server of this machine uses.
//!
//! Two witnesses. The lock file `postmaster.pid` names a process; after a crash it is still there and names none, or one
//! that is something else by now. And the processes themselves: a server's working directory is its data directory, so
//! `/proc` tells the data directory, WAL directory and tablespaces of every server that this user may look at, also when
//! the lock file was removed, or the directory is reached by another path. A server on another machine, or in another
//! container with processes that cannot be seen from here, is not found by either once its process id means nothing here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Device and inode: the identity of a directory, by whatever path.
pub type Identity = (u64, u64);

/// The identity of what a path leads to; none where nothing is.
pub fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A running server.
#[derive(Clone, Debug)]
pub struct Server {
    pid: u32,
    directory: PathBuf,
    /// Its data directory, its WAL directory, and its own directory in each tablespace.
    places: Vec<Identity>,
}

/// The servers whose processes can be seen, each once.
pub fn servers() -> Vec<Server> {
    let mut found: Vec<Server> = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if !is_postgres(pid) {
            continue;
        }
        let directory = process.path().join("cwd");
        let Some(this) = identity(&directory) else { continue };
        if found.iter().any(|server| server.places.first() == Some(&this)) {
            continue;
        }
        if !directory.join("PG_VERSION").exists() {
            continue;
        }
        let mut places = vec![this];
        places.extend(identity(&directory.join("pg_wal")));
        for space in fs::read_dir(directory.join("pg_tblspc")).into_iter().flatten().flatten() {
            let versions = fs::read_dir(space.path()).into_iter().flatten().flatten();
            let own = versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("PG_"));
            places.extend(own.filter_map(|entry| identity(&entry.path())));
        }
        let shown = fs::read_link(&directory).unwrap_or(directory);
        found.push(Server { pid, directory: shown, places });
    }
    found
}

fn is_postgres(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| matches!(name.trim_end(), "postgres" | "postmaster"))
}

/// Refuses a directory that one of the servers uses.
pub fn refuse_used(servers: &[Server], directory: &Path) -> Result<()> {
    let Some(this) = identity(directory) else { return Ok(()) };
    let Some(server) = servers.iter().find(|server| server.places.contains(&this)) else { return Ok(()) };
    Err(Error::new(ErrorKind::Locked, format!("a running server uses `{}`", directory.display()))
        .cause(format!("it is process {}, with the data directory `{}`", server.pid, server.directory.display()))
        .hint(format!("stop it first: `pg_ctl stop -D {}`", server.directory.display()))
        .hint("or restore into another, empty directory; tablespaces go elsewhere with `--tablespace-map OLD=NEW`"))
}

/// What the lock file of a data directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lock {
    /// None is there, or its process is gone or something else.
    Free,
    /// A server runs, or it cannot be told.
    Held(String),
}

/// Refuses a data directory whose lock file names a process that may be a server. A server that died leaves the file
/// behind, and is the very reason for many a restore.
pub fn refuse_locked(directory: &Path) -> Result<()> {
    let path = directory.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => format!("({error})"),
    };
    match judge_lock(&text, identity(directory)) {
        Lock::Free => Ok(()),
        Lock::Held(why) => {
            Err(Error::new(ErrorKind::Locked, format!("a server runs in `{}`", directory.display()))
                .cause(format!("`{}` {why}", path.display()))
                .hint(format!("stop it first: `pg_ctl stop -D {}`", directory.display()))
                .hint(format!(
                    "where certainly no server runs, also not in a container or on another host: remove `{}`",
                    path.display()
                )))
        }
    }
}

fn judge_lock(text: &str, directory: Option<Identity>) -> Lock {
    // A negative number is that of a single-user server.
    let Some(pid) =
        text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()).map(i32::unsigned_abs)
    else {
        return Lock::Held("names no process, so that nothing can be told".to_owned());
    };
    // In a container the server is often the first process, whose number always exists outside.
    if pid <= 1 {
        return Lock::Held(format!("names process {pid}: a server in a container"));
    }
    let alive = match rustix::process::Pid::from_raw(pid.cast_signed()) {
        Some(process) => rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH),
        None => true,
    };
    if !alive {
        return Lock::Free;
    }
    let known = fs::read_to_string(format!("/proc/{pid}/comm"));
    let elsewhere = identity(Path::new(&format!("/proc/{pid}/cwd")))
        .is_some_and(|place| directory.is_some_and(|directory| place != directory));
    if elsewhere || (known.is_ok() && !is_postgres(pid)) {
        // The number was given to another process since.
        return Lock::Free;
    }
    Lock::Held(format!("names process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_counts_unless_its_process_is_certainly_no_server() {
        let here = tempfile::tempdir().unwrap();
        let held = |text: &str| matches!(judge_lock(text, identity(here.path())), Lock::Held(_));
        assert!(held(""), "cut by a full disk, perhaps");
        assert!(held("1\n/data\n"), "a container's server");
        assert!(held("abc"));
        // This very process is no server; the largest number is none's.
        assert!(!held(&std::process::id().to_string()));
        assert!(!held("4194304\n/data\n"));
        assert!(!held("-4194304\n"));
        refuse_locked(here.path()).unwrap();
    }

    #[test]
    fn a_used_directory_is_refused_by_any_path() {
        let here = tempfile::tempdir().unwrap();
        let link = here.path().join("link");
        let real = here.path().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let server = Server { pid: 7, directory: real.clone(), places: vec![identity(&real).unwrap()] };
        assert_eq!(refuse_used(std::slice::from_ref(&server), &link).unwrap_err().kind, ErrorKind::Locked);
        refuse_used(&[server], here.path()).unwrap();
    }
}
