//! Temporary directories that the server user can reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::server_user::ServerUser;

/// Longest temporary folder that leaves room for a Unix socket's path (107 bytes in all).
const MAX_TEMP_PATH: usize = 48;
/// Leftovers of killed processes are removed once they are this old.
const STALE_AFTER: Duration = Duration::from_secs(3600);
const PREFIX: &str = "pgk-";
/// Free memory from which on clusters live in it. Tests use some hundred MiB at a time.
const ENOUGH_MEMORY: u64 = 8 << 30;

/// A temporary directory, owned by the server user and enterable by everyone, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a new directory. Its name carries this process's id, so that a later run can tell a leftover.
    #[must_use]
    pub fn new() -> Scratch {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        static SWEPT: OnceLock<()> = OnceLock::new();
        let root = temp_root();
        SWEPT.get_or_init(|| sweep_leftovers(&root));
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                        .unwrap_or_else(|error| panic!("cannot open up {}: {error}", path.display()));
                    ServerUser::current().own(&path);
                    return Scratch { path };
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot create {}: {error}", path.display()),
            }
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory of this name inside, owned by the server user, with the mode given.
    #[must_use]
    pub fn create_dir(&self, name: &str, mode: u32) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .unwrap_or_else(|error| panic!("cannot set the mode of {}: {error}", path.display()));
        ServerUser::current().own(&path);
        path
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("PGKEEP_TEST_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        remove_tree(&self.path);
    }
}

/// The folder for everything temporary: `PGKEEP_TEST_TMP`, else `TMPDIR`, else memory (`/dev/shm`) on a machine with
/// plenty, else `/tmp`. One that is too long for a socket's path or closed to the server user is passed over.
///
/// Memory, because a data directory is a thousand files made for seconds: on ext4, creating files soon after
/// deleting as many was measured at 1.5 s per cluster, against 0.05 s.
pub(crate) fn temp_root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let usable =
        |path: &PathBuf| path.as_os_str().len() <= MAX_TEMP_PATH && path.is_dir() && is_reachable(path);
    ROOT.get_or_init(|| {
        let configured =
            ["PGKEEP_TEST_TMP", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let memory = has_plenty_of_memory().then(|| PathBuf::from("/dev/shm"));
        configured.chain(memory).find(usable).unwrap_or_else(|| PathBuf::from("/tmp"))
    })
    .clone()
}

/// Whether a few clusters at a time may live in memory.
fn has_plenty_of_memory() -> bool {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let shared =
        rustix::fs::statvfs("/dev/shm").map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    available.is_some_and(|kib| kib >= ENOUGH_MEMORY / 1024) && shared >= ENOUGH_MEMORY
}

/// Whether the server user can enter `path` and every directory above it.
pub(crate) fn is_reachable(path: &Path) -> bool {
    let user = ServerUser::current();
    !user.dropped
        || path.ancestors().all(|ancestor| {
            fs::metadata(ancestor).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
        })
}

/// Makes a folder below a temporary one that everyone writes to, and makes sure that it is ours: programs are run
/// from it, as root perhaps, and its name can be guessed.
pub(crate) fn create_own_folder(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()));
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let me = rustix::process::geteuid().as_raw();
    assert!(metadata.is_dir() && metadata.uid() == me, "{} belongs to someone else", path.display());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("cannot set the mode of {}: {error}", path.display()));
}

/// Removes a directory that a server may still be adding its last files to.
pub(crate) fn remove_tree(path: &Path) {
    for _ in 0..20 {
        match fs::remove_dir_all(path) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
    eprintln!("could not remove {}", path.display());
}

/// Removes directories of processes that are gone and that had no chance to clean up.
fn sweep_leftovers(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        let gone = pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > STALE_AFTER));
        if gone && old {
            remove_tree(&entry.path());
        }
    }
}
