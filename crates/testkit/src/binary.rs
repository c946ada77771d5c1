//! The program under test, where the server user can run it: servers call it in `archive_command`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::scratch::create_own_folder;
use crate::server_install::project_root;

/// Copies older than this belong to builds that nobody tests any more.
const COPY_LIFETIME: Duration = Duration::from_secs(6 * 3600);

/// Path of the built `pgkeep`, copied once per build to a place that every user can reach: `archive_command` runs as
/// the server user, who may not be able to enter the target directory. The copy also keeps a rebuild from changing
/// the program in the middle of a test.
///
/// Looked for in `PGKEEP_BINARY`, in the test runner's own variables, then in the target directory of the running
/// test, where it is built when missing.
#[must_use]
pub fn pgkeep_binary() -> PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| world_executable(&find_built())).clone()
}

fn find_built() -> PathBuf {
    for variable in ["PGKEEP_BINARY", "NEXTEST_BIN_EXE_pgkeep", "CARGO_BIN_EXE_pgkeep"] {
        if let Some(path) = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists()) {
            return path;
        }
    }
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("cannot tell my own path: {error}"));
    // <target>/<profile>/deps/<test>-<hash>, or <target>/<profile>/<binary>
    let profile = test
        .parent()
        .map(|folder| if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder })
        .unwrap_or_else(|| panic!("{} has no parent", test.display()));
    let built = profile.join("pgkeep");
    if !built.exists() {
        build(profile);
    }
    assert!(built.exists(), "no {}: run `cargo build -p pgkeep`", built.display());
    built
}

fn build(profile: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "-p", "pgkeep"]).current_dir(project_root());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    if let Some(target) = profile.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.status().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
    assert!(status.success(), "`cargo build -p pgkeep` failed");
}

/// A copy of a program at a place where every user can run it, made once per build of it.
///
/// # Panics
/// When it cannot be copied.
#[must_use]
pub fn world_executable(built: &Path) -> PathBuf {
    let metadata = fs::metadata(built).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map_or(0, |age| age.as_nanos());
    // Not the folder for data: that may be memory mounted without leave to execute.
    let folder = PathBuf::from("/tmp").join(format!("pgkeep-bin-{}", rustix::process::geteuid().as_raw()));
    let version = folder.join(format!("{}-{modified}", metadata.len()));
    let copy = version.join("pgkeep");
    create_own_folder(&folder);
    if copy.exists() {
        return copy;
    }
    create_own_folder(&version);
    remove_old_copies(&folder);
    let staging = version.join(format!("pgkeep.{}", std::process::id()));
    fs::copy(built, &staging)
        .and_then(|_| fs::set_permissions(&staging, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&staging, &copy))
        .unwrap_or_else(|error| panic!("cannot copy {} to {}: {error}", built.display(), copy.display()));
    copy
}

fn remove_old_copies(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_some_and(|age| age > COPY_LIFETIME) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}
