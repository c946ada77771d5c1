//! An installation of PostgreSQL in which some programs are pgkeep, and the folder of one run.
//!
//! `bin` is a copy, not a folder in front of the search path: PostgreSQL's programs look for one another beside
//! themselves, as pg_dumpall does for pg_dump. A swapped program is a link by its name.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgkeep_testkit::{ServerUser, cache_root, installation, run_as_server_user};

use super::source::Source;
use crate::Failure;

/// Programs that the suites call and that pgkeep can be.
const PROGRAMS: [&str; 7] = [
    "pg_dump",
    "pg_restore",
    "pg_dumpall",
    "pg_basebackup",
    "pg_receivewal",
    "pg_verifybackup",
    "pg_combinebackup",
];

/// Libraries that `configure` was told to use, and what the scripts look for in `pg_config.h`.
const LIBRARIES: [(&str, &str); 3] =
    [("lz4", "USE_LZ4 1"), ("zstd", "USE_ZSTD 1"), ("openssl", "USE_OPENSSL 1")];

/// The folder of a run, emptied at its beginning. Two runs cannot share it.
#[derive(Debug)]
pub(super) struct Run {
    folder: PathBuf,
    _lock: File,
}

/// What a script runs against.
#[derive(Debug)]
pub(super) struct Installation {
    /// Its programs.
    pub(super) bin: PathBuf,
    /// Names under which pgkeep is called.
    pub(super) swapped: Vec<&'static str>,
    /// Libraries of the programs.
    pub(super) libraries: Option<PathBuf>,
    /// PostgreSQL's own tool for tests.
    pub(super) pg_regress: PathBuf,
    /// A cluster that every server begins as.
    pub(super) template: PathBuf,
    /// Whether the server was built with ICU.
    pub(super) icu: bool,
    /// Where scripts may write.
    pub(super) run: PathBuf,
    /// Modules that the scripts find before those of the source.
    pub(super) own_modules: Option<PathBuf>,
}

impl Installation {
    /// Lets the tests' servers archive into a repository each, and fetch from it.
    ///
    /// The tests' own settings say `cp`; a copy of their module says a script, which makes the repository when it is first
    /// used, since a server's archive directory is known before the server runs.
    pub(super) fn archive_with(&mut self, pgkeep: &Path, source: &Source) -> Result<(), Failure> {
        let script = self.run.join("archive.sh");
        fs::write(&script, format!("pgkeep={}\n{ARCHIVE_SCRIPT}", quoted(pgkeep)))?;
        let module = "PostgreSQL/Test/Cluster.pm";
        let text = fs::read_to_string(source.modules().join(module))?;
        let script = script.display();
        let mut changed = text.clone();
        for (theirs, ours) in [
            ("qq{cp \"%p\" \"$path/%f\"}", format!("qq{{sh {script} push \"$path\" \"%p\"}}")),
            ("qq{cp \"$path/%f\" \"%p\"}", format!("qq{{sh {script} get \"$path\" \"%f\" \"%p\"}}")),
        ] {
            if !changed.contains(theirs) {
                return Err(format!("`{module}` does not say `{theirs}` any more").into());
            }
            changed = changed.replace(theirs, &ours);
        }
        let modules = self.run.join("modules");
        let place = modules.join(module);
        fs::create_dir_all(place.parent().ok_or("a module has no folder")?)?;
        fs::write(place, changed)?;
        self.own_modules = Some(modules);
        Ok(())
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// `push DIR PATH`, `get DIR NAME PATH`; run in the data directory of the server.
const ARCHIVE_SCRIPT: &str = r#"
verb=$1; repo=$2/pgkeep-repo; shift 2
export PGKEEP_LOG=/dev/null
if [ "$verb" = push ]; then
  if [ ! -e "$repo/made" ]; then
    port=$(sed -n 4p postmaster.pid); socket=$(sed -n 5p postmaster.pid)
    "$pgkeep" init --repo "$repo" -h "$socket" -p "$port" -d postgres >&2 || exit 1
    : > "$repo/made"
  fi
  exec "$pgkeep" wal push --repo "$repo" "$1"
fi
# What was never archived to is certainly empty.
[ -e "$repo/made" ] || exit 1
exec "$pgkeep" wal get --repo "$repo" "$1" "$2"
"#;

impl Run {
    /// Takes the folder, and ends servers that a run before left behind.
    pub(super) fn begin() -> Result<Run, Failure> {
        let root = cache_root().join("tap");
        let lock = File::create(root.join("run.lock"))?;
        lock.try_lock().map_err(|_| format!("another run uses {}; wait for its end", root.display()))?;
        let folder = root.join("run");
        if folder.exists() {
            stop_servers(&folder, &installation(18).program("pg_ctl"));
            fs::remove_dir_all(&folder)?;
        }
        for name in ["data", "log", "tap", "ports"] {
            fs::create_dir_all(folder.join(name))?;
            own(&folder.join(name))?;
        }
        Ok(Run { folder, _lock: lock })
    }

    /// Where the scripts' logs are.
    pub(super) fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Forgets what the stock programs said.
    pub(super) fn clear_logs(&self) -> Result<(), Failure> {
        for name in ["log", "tap"] {
            fs::remove_dir_all(self.folder.join(name))?;
            fs::create_dir_all(self.folder.join(name))?;
            own(&self.folder.join(name))?;
        }
        Ok(())
    }

    /// PostgreSQL with pgkeep in the place of the programs that it can be, or untouched.
    pub(super) fn installation(
        &self,
        source: &Source,
        pgkeep: Option<&Path>,
    ) -> Result<Installation, Failure> {
        let stock = installation(source.major);
        let home = stock.bin.parent().ok_or("PostgreSQL's bin has no parent")?;
        let inst = self.folder.join(if pgkeep.is_some() { "swapped" } else { "stock" });
        fs::create_dir_all(&inst)?;
        for name in ["bin", "share"] {
            copy(&home.join(name), &inst.join(name))?;
        }
        symlink(home.join("lib"), inst.join("lib"))?;
        let extensions = inst.join("share/extension");
        for file in source.extension_files() {
            let name = file.file_name().ok_or("an extension's file has no name")?;
            fs::copy(&file, extensions.join(name))
                .map_err(|error| format!("cannot copy {}: {error}", file.display()))?;
        }
        let bin = inst.join("bin");
        let mut swapped = Vec::new();
        if let Some(pgkeep) = pgkeep {
            for name in PROGRAMS.into_iter().filter(|name| can_be(pgkeep, name)) {
                fs::remove_file(bin.join(name))?;
                symlink(pgkeep, bin.join(name))?;
                swapped.push(name);
            }
            if !["pg_dump", "pg_restore"].iter().all(|name| swapped.contains(name)) {
                return Err(
                    format!("{} is neither pg_dump nor pg_restore when called so", pgkeep.display()).into()
                );
            }
        }
        let configuration = Command::new(bin.join("pg_config")).arg("--configure").output()?;
        let configuration = String::from_utf8_lossy(&configuration.stdout).into_owned();
        let icu = !configuration.contains("--without-icu");
        headers(home, &inst, &configuration)?;
        let template = self.folder.join("template");
        if !template.exists() {
            make_template(&stock.program("initdb"), &template)?;
        }
        // The package of 17 has none. It is used for its `--config-auth` alone.
        let pg_regress = super::server_installation(18)
            .bin
            .parent()
            .ok_or("PostgreSQL's bin has no parent")?
            .join("lib/pgxs/src/test/regress/pg_regress");
        let libraries = libraries(home);
        Ok(Installation {
            bin,
            swapped,
            libraries,
            pg_regress,
            template,
            icu,
            run: self.folder.clone(),
            own_modules: None,
        })
    }
}

/// Gives a folder to the user that the scripts run as.
fn own(path: &Path) -> Result<(), Failure> {
    let user = ServerUser::current();
    if user.dropped {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let output = Command::new("cp").args(["-r", "--preserve=mode,links"]).arg(from).arg(to).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("cannot copy {}: {}", from.display(), said.trim()).into())
}

/// The scripts look into `pg_config.h` for what the server was built with. Where a package has no headers, one is made of
/// what its configuration says.
fn headers(home: &Path, inst: &Path, configuration: &str) -> Result<(), Failure> {
    let include = inst.join("include");
    if home.join("include/pg_config.h").exists() {
        symlink(home.join("include"), include)?;
        return Ok(());
    }
    fs::create_dir(&include)?;
    let mut text = String::new();
    for (library, definition) in LIBRARIES {
        if configuration.contains(&format!("--with-{library}")) {
            text.push_str(&format!("#define {definition}\n"));
        }
    }
    if !configuration.contains("--without-zlib") {
        text.push_str("#define HAVE_LIBZ 1\n");
    }
    fs::write(include.join("pg_config.h"), text)?;
    Ok(())
}

/// Whether pgkeep answers as this program.
fn can_be(pgkeep: &Path, name: &str) -> bool {
    Command::new(pgkeep).args([name, "--version"]).output().is_ok_and(|output| {
        output.status.success() && output.stdout.starts_with(format!("{name} (").as_bytes())
    })
}

/// The programs find their libraries relative to where they were installed, which a copy is not.
fn libraries(home: &Path) -> Option<PathBuf> {
    let folder = home.parent()?.parent()?;
    let mut paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "libs"))
}

fn make_template(initdb: &Path, template: &Path) -> Result<(), Failure> {
    fs::create_dir(template)?;
    own(template)?;
    let mut command = Command::new(initdb);
    command.args(["--auth", "trust", "--no-sync", "--no-instructions", "--lc-messages=C", "--no-clean"]);
    command.arg(template).env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
    run_as_server_user(&mut command);
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Ends servers whose data directories are below `folder`: what a script left that had no chance to clean up.
pub(super) fn stop_servers(folder: &Path, pg_ctl: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
    {
        if !path.join("postmaster.pid").exists() {
            stop_servers(&path, pg_ctl);
            continue;
        }
        let mut command = Command::new(pg_ctl);
        command.args(["-m", "immediate", "-w", "stop", "-D"]).arg(&path);
        run_as_server_user(&mut command);
        match command.output() {
            Ok(_) => println!("stopped a server that was left in {}", path.display()),
            Err(error) => println!("cannot stop the server in {}: {error}", path.display()),
        }
    }
}
