//! The programs of the server, and the one server process of a drill.
//!
//! The process must not outlive the drill, however that ends: it is stopped when [`Server`] is dropped, and where `setpriv`
//! exists the kernel tells the server to quit when pgkeep itself is killed.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pgkeep_wire::{ConnInfo, Connection, Environment, SessionMode, WireError};
use rustix::process::{Pid, Signal, kill_process};

use super::configuration::Places;
use super::request::{DrillRequest, Override, RunAs};
use crate::error::{Error, ErrorKind, Result};

/// How long a server may take to stop before it is told to quit at once.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// What is read of a log's end.
const LOG_TAIL: u64 = 64 << 10;
const LOG_LINES: usize = 40;

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) postgres: PathBuf,
    pub(super) amcheck: Option<PathBuf>,
    pub(super) setpriv: Option<PathBuf>,
}

/// Finds the programs of the backup's major version.
pub(super) fn find_programs(request: &DrillRequest, major: u32) -> Result<Programs> {
    let folders: Vec<PathBuf> = match &request.bin_dir {
        Some(folder) => vec![folder.clone()],
        None => request.search_path.iter().cloned().chain(usual_places(major)).collect(),
    };
    let mut others = Vec::new();
    let postgres =
        folders.iter().map(|folder| folder.join("postgres")).find(|program| match version_of(program) {
            Some(found) if found == major => true,
            Some(found) => {
                others.push(format!("`{}` is PostgreSQL {found}", program.display()));
                false
            }
            None => false,
        });
    let Some(postgres) = postgres else {
        let mut error = Error::new(
            ErrorKind::Config,
            format!("no server of PostgreSQL {major} is installed here, which the backup needs"),
        );
        for other in others {
            error = error.cause(other);
        }
        return Err(error
            .hint(format!("install PostgreSQL {major}, or say where it is: `--bin-dir DIR`"))
            .hint("any machine that reaches the repository can do the drill"));
    };
    let beside =
        postgres.parent().map(|folder| folder.join("pg_amcheck")).filter(|program| program.is_file());
    if request.amcheck && beside.is_none() {
        return Err(Error::new(ErrorKind::Config, "`pg_amcheck` is not installed")
            .cause(format!("it is looked for beside `{}`", postgres.display()))
            .hint(
                "install it (PostgreSQL 14 and later have it, some packages apart), or leave out `--amcheck`",
            ));
    }
    let setpriv = request.search_path.iter().map(|folder| folder.join("setpriv")).find(|path| path.is_file());
    Ok(Programs { postgres, amcheck: beside, setpriv })
}

fn usual_places(major: u32) -> Vec<PathBuf> {
    [
        format!("/usr/lib/postgresql/{major}/bin"),
        format!("/usr/pgsql-{major}/bin"),
        format!("/usr/lib/postgresql{major}/bin"),
        format!("/opt/homebrew/opt/postgresql@{major}/bin"),
        "/usr/local/pgsql/bin".to_owned(),
    ]
    .into_iter()
    .map(PathBuf::from)
    .collect()
}

/// `postgres (PostgreSQL) 17.2 (Debian …)`
fn version_of(program: &Path) -> Option<u32> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A command with the environment of the request and without a privilege too many.
pub(super) fn command(program: &Path, request: &DrillRequest, user: Option<RunAs>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(request.environment.iter().map(|(name, value)| (name, value)));
    command.env("LC_ALL", "C").stdin(Stdio::null()).current_dir("/").process_group(0);
    if let Some(user) = user {
        // As root this also gives up root's other groups.
        command.uid(user.uid).gid(user.gid).env("HOME", "/");
    }
    command
}

/// The running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
    sockets: PathBuf,
}

impl Server {
    pub(super) fn start(
        programs: &Programs,
        places: &Places,
        settings: &[Override],
        request: &DrillRequest,
        user: Option<RunAs>,
    ) -> Result<Server> {
        let failed = |error: &std::io::Error| {
            Error::new(ErrorKind::Config, format!("cannot run `{}`", programs.postgres.display()))
                .caused_by(error)
                .hint("check `--bin-dir`, and that the server's user may run it")
        };
        let log = OpenOptions::new().create(true).append(true).open(&places.log).map_err(|e| failed(&e))?;
        let mut command = match &programs.setpriv {
            Some(setpriv) => {
                let mut command = command(setpriv, request, user);
                command.args(["--pdeathsig", "QUIT", "--"]).arg(&programs.postgres);
                command
            }
            None => command(&programs.postgres, request, user),
        };
        command.arg("-D").arg(&places.data);
        for setting in settings {
            command.arg("-c").arg(format!("{}={}", setting.name, setting.value));
        }
        command.stdout(log.try_clone().map_err(|error| failed(&error))?).stderr(log);
        let child = command.spawn().map_err(|error| failed(&error))?;
        Ok(Server { child, log: places.log.clone(), sockets: places.sockets.clone() })
    }

    /// How it ended, where it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(super) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> Vec<String> {
        last_lines(&self.log)
    }

    /// Opens a session.
    pub(super) fn connect(&self, role: &str, database: &str) -> Result<Connection, WireError> {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let sockets = self.sockets.to_string_lossy();
        let text = format!(
            "host={} port=5432 user={} dbname={} application_name=pgkeep",
            quoted(&sockets),
            quoted(role),
            quoted(database)
        );
        Connection::connect(&ConnInfo::resolve(Some(&text), &Environment::empty())?, SessionMode::Sql)
    }

    /// Stops it properly, and in any case.
    pub(super) fn stop(mut self) -> bool {
        self.end(Signal::INT)
    }

    fn end(&mut self, signal: Signal) -> bool {
        let mut properly = true;
        for (signal, limit) in [(signal, STOP_LIMIT), (Signal::QUIT, Duration::from_secs(10))] {
            if self.ended().is_some() {
                return properly;
            }
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended just now, which is what is wanted.
                kill_process(pid, signal).unwrap_or(());
            }
            let began = Instant::now();
            while began.elapsed() < limit {
                if self.ended().is_some() {
                    return properly;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            properly = false;
        }
        drop(self.child.kill());
        drop(self.child.wait());
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.end(Signal::QUIT);
        }
    }
}

/// The last lines of a file that another process writes.
pub(super) fn last_lines(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}
